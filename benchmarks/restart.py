"""How soon a mirror that was killed goes on: from the start of the next process to the first file it fetches."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from typing import TYPE_CHECKING, Any

from benchmarks.files import Inputs
from benchmarks.growth import named_table
from benchmarks.peers import Order, framefetch_command
from benchmarks.server import NAMES_LOCATIONS, serve
from benchmarks.timing import ProcessFailed, run_process

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

#: Seconds within which a mirror that was killed asks for something new.
LIMIT_SECONDS = 2.0
FIRST_SECONDS = 3600.0
#: Files that each process may fetch before it is killed in its turn, and how many of the next it is seen by.
MORE, WATCHED = 2_000, 64
TIMEOUT = 60.0


def run_restart(count: int, rounds: int, folder: str) -> dict[str, Any]:
    """Hold `count` files; then kill mirrors of more of them, and time the one that comes after each."""
    served, own, cache, table = (os.path.join(folder, name) for name in ("served", "nginx", "cache", "table.csv"))
    os.mkdir(served)
    os.mkdir(own)
    with serve(served, own, locations=NAMES_LOCATIONS) as server:
        named_table(table, server.base, count)
        command = framefetch_command(Order(Inputs(server.base, table, "", "", nested=False), cache, {}))
        try:
            run_process(command, folder, FIRST_SECONDS)
        except ProcessFailed as error:
            return {"limit_seconds": LIMIT_SECONDS, "runs": [{"failure": str(error)}]}
        named_table(table, server.base, count + MORE * (rounds + 1))
        missing = _Missing(os.path.join(cache, "v0"), range(count, count + MORE * (rounds + 1)))
        _run_until_killed(command, missing)
        runs = [{"round": number, **_run_until_killed(command, missing)} for number in range(rounds)]
    return {"limit_seconds": LIMIT_SECONDS, "runs": runs}


class _Missing:
    """The files that are not there yet, in the order in which they are asked for."""

    def __init__(self, folder: str, numbers: Sequence[int]) -> None:
        self._paths = [os.path.join(folder, f"{number:08d}.bin") for number in numbers]

    def next(self) -> list[str]:
        """Return the next that will come."""
        self._paths = [path for path in self._paths if not os.path.exists(path)]
        return self._paths[:WATCHED]


def _run_until_killed(command: list[str], missing: _Missing) -> dict[str, Any]:
    """Start a mirror, see its first file come, let it fetch half of what it may, and kill it."""
    watched = missing.next()
    started = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        if not _comes_true(lambda: any(map(os.path.exists, watched)), process):
            return {"failure": f"no file came within {TIMEOUT:g} s"}
        seconds = time.perf_counter() - started
        _comes_true(lambda: all(map(os.path.exists, watched)), process)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    return {"failure": None, "first_file_seconds": seconds}


def _comes_true(question: Callable[[], bool], process: subprocess.Popen[bytes]) -> bool:
    deadline = time.perf_counter() + TIMEOUT
    while not question():
        if process.poll() is not None or time.perf_counter() > deadline:
            return question()
        time.sleep(0.002)
    return True
