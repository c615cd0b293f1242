"""How long a whole process took, and runs that take turns."""

from __future__ import annotations

import os
import signal
import statistics
import subprocess
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from benchmarks.memory import settle_memory

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

T = TypeVar("T")
R = TypeVar("R")

PROGRAMS = os.path.join(os.path.dirname(os.path.abspath(__file__)), "programs")
LAUNCHER = os.path.join(PROGRAMS, "launch.py")
#: A process that takes longer has failed.
TIMEOUT_SECONDS = 900.0


class ProcessFailed(Exception):
    """A process ended badly or not at all."""


class TookTooLong(ProcessFailed):
    """A process was ended by us."""


@dataclass(frozen=True, slots=True)
class Usage:
    """What a process and those it waited for took: seconds, CPU seconds, bytes of the largest of them."""

    wall: float
    cpu: float
    peak: int

    def __add__(self, other: Usage) -> Usage:
        """Return both, one after the other."""
        return Usage(self.wall + other.wall, self.cpu + other.cpu, max(self.peak, other.peak))


@dataclass(frozen=True, slots=True)
class Spread:
    """A median and between what it lies."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Iterable[float]) -> Spread:
        """Return the spread of at least one value."""
        known = sorted(values)
        return cls(statistics.median(known), known[0], known[-1])


def program(name: str, *words: str) -> list[str]:
    """Return the command line of one of the benchmark's own programs."""
    return [sys.executable, "-P", os.path.join(PROGRAMS, name), *words]


def run_process(
    command: Sequence[str],
    scratch: str,
    timeout: float = TIMEOUT_SECONDS,
    environment: Mapping[str, str] | None = None,
) -> tuple[Usage, str]:
    """Run a command to its end and return what it used and what it said; `environment` is added to this one's.

    Raises
    ------
    TookTooLong
        Where it did not end.
    ProcessFailed
        Where it ended with another code than 0.
    """
    record, log = os.path.join(scratch, "usage"), os.path.join(scratch, "log")
    launch = [sys.executable, "-I", "-S", LAUNCHER, record, *command]
    settle_memory()
    with open(log, "wb") as output:
        process = subprocess.Popen(
            launch,
            cwd=scratch,
            env={**_environment(), **(environment or {})},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
        try:
            process.wait(timeout)
        except subprocess.TimeoutExpired:
            raise TookTooLong(f"did not end within {timeout:.0f} s") from None
        finally:
            _end_group(process)
    said = _read(log)
    if process.returncode != 0:
        raise ProcessFailed(f"could not be started: {_last_line(said)}")
    code, wall, cpu, peak = _read(record).split()
    if code != "0":
        raise ProcessFailed(f"exit code {code}: {_last_line(said)}")
    return Usage(float(wall), float(cpu), int(peak)), said


def _environment() -> dict[str, str]:
    """Return the environment without proxies and without settings of the tools: loopback is what is measured.

    Nor is it measured how long Python takes to compile what an installed package has compiled, which is done at every
    start where it may not keep that.
    """
    foreign = ("RCLONE_", "CURL_", "SSL_CERT_", "REQUESTS_CA_", "PYTHONDONTWRITEBYTECODE")
    return {
        name: value
        for name, value in os.environ.items()
        if not name.lower().endswith("_proxy") and not name.startswith(foreign)
    }


def _end_group(process: subprocess.Popen[bytes]) -> None:
    """End the launcher and what it started, where they still run."""
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _read(path: str) -> str:
    with open(path, encoding="utf-8", errors="replace") as file:
        return file.read()


def _last_line(text: str) -> str:
    lines = text.strip().splitlines()
    return lines[-1][:300] if lines else "it said nothing"


def take_turns(contenders: Sequence[T], rounds: int, run: Callable[[T, int], R]) -> Iterator[R]:
    """Run A B C A B C …, so that a slow minute of the machine falls on all of them."""
    for number in range(rounds):
        for contender in contenders:
            yield run(contender, number)
