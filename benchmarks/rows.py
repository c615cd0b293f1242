"""What a row costs framefetch where nothing is fetched: planning, files that are held already, faults that must end."""

from __future__ import annotations

import json
import os
import tempfile
from functools import partial
from typing import TYPE_CHECKING, Any

from benchmarks.files import Inputs
from benchmarks.growth import named_table, run_commit, run_growth
from benchmarks.peers import Order, framefetch_command
from benchmarks.rates import run_rates
from benchmarks.restart import run_restart
from benchmarks.server import NAMES_LOCATIONS, serve
from benchmarks.timing import ProcessFailed, program, run_process, take_turns
from benchmarks.workloads import MIB

if TYPE_CHECKING:
    from benchmarks.server import Server
    from benchmarks.workloads import Probe

PLAN_FIXED_BYTES, PLAN_ROW_BYTES = 64 * MIB, 300
HELD_ROW_SECONDS = 20e-6
#: A million small files take a while to be fetched first.
FIRST_SECONDS = 3600.0
LIMIT_FACTOR = 1.1


def run_probe(probe: Probe, rounds: int, scratch: str) -> dict[str, Any]:
    """Run a probe so many times and return the raw runs."""
    ways = {
        "plan": _run_plan,
        "held": _run_held,
        "limits": _run_limits,
        "growth": run_growth,
        "commit": run_commit,
        "restart": run_restart,
        "rates": run_rates,
    }
    run = ways[probe.name]
    with tempfile.TemporaryDirectory(prefix=f"{probe.name}-", dir=scratch) as folder:
        return {"name": probe.name, "rows": probe.count, "says": probe.says, **run(probe.count, rounds, folder)}


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
        usage, said = run_process(program("plan_rows.py", table, cache), os.path.dirname(table))
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
    """Fetch `count` tiny files once; then ask for them again, by the API and by the command, in turns."""
    served, own, cache, table = (os.path.join(folder, name) for name in ("served", "nginx", "cache", "table.csv"))
    os.mkdir(served)
    os.mkdir(own)
    limit = HELD_ROW_SECONDS * count
    with serve(served, own, locations=NAMES_LOCATIONS) as server:
        named_table(table, server.base, count)
        command = framefetch_command(Order(Inputs(server.base, table, "", "", nested=False), cache, {}))
        try:
            first, _ = run_process(command, folder, FIRST_SECONDS)
        except ProcessFailed as error:
            return {"limit_seconds": limit, "runs": [{"way": "first", "failure": str(error)}]}
        ways = (("api", program("fetch_held.py", table, cache)), ("command", command))
        runs = list(take_turns(ways, rounds, partial(_held_once, server, folder, count)))
    return {"limit_seconds": limit, "first_run_seconds": first.wall, "runs": runs}


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
    command = program("end_in_time.py", str(count), os.path.join(folder, f"cache-{number}"))
    try:
        usage, said = run_process(command, folder)
    except ProcessFailed as error:
        return {"round": number, "failure": str(error)}
    faults = json.loads(said.splitlines()[-1])
    wrong = [f"{fault['says']}: {fault['ended']}" for fault in faults if fault["ended"] != [fault["expected"]]]
    failure = f"did not end as expected: {'; '.join(wrong)}" if wrong else None
    return {"round": number, "failure": failure, "process_seconds": usage.wall, "faults": faults}
