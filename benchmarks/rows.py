"""What a row costs framefetch where nothing is fetched: planning, files that are held already, faults that must end."""

from __future__ import annotations

import json
import os
import sys
import tempfile
from functools import partial
from typing import TYPE_CHECKING, Any

from benchmarks.peers import PEERS
from benchmarks.server import serve
from benchmarks.timing import ProcessFailed, run_process, take_turns
from benchmarks.workloads import KIB, MIB, make_files, write_inputs

if TYPE_CHECKING:
    from benchmarks.server import Server
    from benchmarks.workloads import Probe

PROGRAMS = os.path.join(os.path.dirname(os.path.abspath(__file__)), "programs")
PLAN_FIXED_BYTES, PLAN_ROW_BYTES = 64 * MIB, 300
HELD_SECONDS = 2.0
HELD_FILE_SIZE = 1 * KIB
LIMIT_FACTOR = 1.1


def run_probe(probe: Probe, rounds: int, scratch: str) -> dict[str, Any]:
    """Run a probe so many times and return the raw runs."""
    run = {"plan": _run_plan, "held": _run_held, "limits": _run_limits}[probe.name]
    with tempfile.TemporaryDirectory(prefix=f"{probe.name}-", dir=scratch) as folder:
        return {"name": probe.name, "rows": probe.count, "says": probe.says, **run(probe.count, rounds, folder)}


def _program(name: str, *words: str) -> list[str]:
    return [sys.executable, "-P", os.path.join(PROGRAMS, name), *words]


# -- plan -------------------------------------------------------------------------------------------------------


def _run_plan(count: int, rounds: int, folder: str) -> dict[str, Any]:
    """Plan a table of `count` rows, each time in a fresh process and an empty cache."""
    table = os.path.join(folder, "table.csv")
    with open(table, "w") as file:
        file.write("url,size,md5\n")
        file.writelines(f"http://127.0.0.1:9/data/{row:08d}.bin,{row},{row:032x}\n" for row in range(count))
    runs = [_plan_once(table, os.path.join(folder, f"cache-{number}"), count) for number in range(rounds)]
    limit = PLAN_FIXED_BYTES + PLAN_ROW_BYTES * count
    return {"limit_bytes": limit, "runs": runs}


def _plan_once(table: str, cache: str, count: int) -> dict[str, Any]:
    try:
        usage, said = run_process(_program("plan_rows.py", table, cache), os.path.dirname(table))
    except ProcessFailed as error:
        return {"failure": str(error)}
    figures = json.loads(said.splitlines()[-1])
    if figures["to_fetch"] != count:
        return {"failure": f"{figures['to_fetch']} of {count} rows were planned"}
    above = figures["peak_bytes"] - figures["table_and_imports_bytes"]
    return {
        "failure": None,
        "above_table_bytes": above,
        "row_bytes": above / count,
        "seconds": figures["seconds"],
        "process_seconds": usage.wall,
        "details": figures,
    }


# -- held -------------------------------------------------------------------------------------------------------


def _run_held(count: int, rounds: int, folder: str) -> dict[str, Any]:
    """Fetch `count` small files once; then ask for them again, by the API and by the command, in turns."""
    served, own, cache = (os.path.join(folder, name) for name in ("served", "nginx", "cache"))
    os.mkdir(served)
    os.mkdir(own)
    files = make_files(served, count, HELD_FILE_SIZE)
    with serve(served, own) as server:
        inputs = write_inputs(files, os.path.join(folder, "lists"), server.url)
        framefetch = next(peer for peer in PEERS if peer.name == "framefetch")
        command = framefetch.command(inputs, cache)
        try:
            first, _ = run_process(command, folder)
        except ProcessFailed as error:
            return {"limit_seconds": HELD_SECONDS, "runs": [{"way": "first", "failure": str(error)}]}
        ways = (("api", _program("fetch_held.py", inputs.table, cache)), ("command", command))
        runs = list(take_turns(ways, rounds, partial(_held_once, server, folder, count)))
    return {"limit_seconds": HELD_SECONDS, "first_run_seconds": first.wall, "runs": runs}


def _held_once(server: Server, folder: str, count: int, way: tuple[str, list[str]], number: int) -> dict[str, Any]:
    """Ask for held files once; what was sent is counted by the server, not by framefetch."""
    name, command = way
    before = server.counts()
    try:
        usage, said = run_process(command, folder)
    except ProcessFailed as error:
        return {"way": name, "round": number, "failure": str(error)}
    requests = (server.counts() - before).requests
    run = {"way": name, "round": number, "requests": requests, "process_seconds": usage.wall, "peak_bytes": usage.peak}
    figures = json.loads(said.splitlines()[-1]) if name == "api" else {}
    failure = f"{requests} requests were sent, not 0" if requests else None
    if figures and figures["statuses"] != {"cached": count}:
        failure = f"not all of {count} rows were cached: {figures['statuses']}"
    return {**run, "failure": failure, "open_seconds": figures.get("open_seconds"), "seconds": figures.get("seconds")}


# -- limits -----------------------------------------------------------------------------------------------------


def _run_limits(count: int, rounds: int, folder: str) -> dict[str, Any]:
    """Let `count` rows meet each fault, all faults at once, each time in a fresh process and an empty cache."""
    runs = [_limits_once(count, number, folder) for number in range(rounds)]
    return {"limit_factor": LIMIT_FACTOR, "runs": runs}


def _limits_once(count: int, number: int, folder: str) -> dict[str, Any]:
    command = _program("end_in_time.py", str(count), os.path.join(folder, f"cache-{number}"))
    try:
        usage, said = run_process(command, folder)
    except ProcessFailed as error:
        return {"round": number, "failure": str(error)}
    faults = json.loads(said.splitlines()[-1])
    wrong = [f"{fault['says']}: {fault['ended']}" for fault in faults if fault["ended"] != [fault["expected"]]]
    failure = f"did not end as expected: {'; '.join(wrong)}" if wrong else None
    return {"round": number, "failure": failure, "process_seconds": usage.wall, "faults": faults}
