"""How fast files come with 16 connections, start-up left out: framefetch, parfive as it comes, and the beginning."""

from __future__ import annotations

import json
import os
import shutil
from functools import partial
from importlib.util import find_spec
from typing import Any

from benchmarks.files import FileSet, find_fault, make_files, names_and_sizes, write_inputs
from benchmarks.peers import BASE
from benchmarks.server import serve
from benchmarks.timing import ProcessFailed, program, run_process, take_turns
from benchmarks.workloads import KIB, MIB

#: Many small files, and for each so many of them a large one; and how many times as fast framefetch must be.
SMALL, LARGE, SMALL_FOR_ONE = 8 * KIB, 8 * MIB, 78
TARGETS = {("small", "parfive"): 8.0, ("small", "prototype"): 50.0, ("large", "parfive"): 4.0}
FOLDERS = {BASE: "v0", "prototype": "v0", "parfive": ""}


def run_rates(count: int, rounds: int, folder: str) -> dict[str, Any]:
    """Fetch `count` small files, and then large ones, by each in turns; seconds are those of the program itself."""
    runs = [
        *_run_set("small", names_and_sizes(count + 1, SMALL), rounds, folder),
        *_run_set("large", names_and_sizes(max(1, count // SMALL_FOR_ONE) + 1, LARGE), rounds, folder),
    ]
    return {"times_as_fast": [[*who, times] for who, times in TARGETS.items()], "runs": runs}


def _run_set(name: str, wanted: list[tuple[str, int]], rounds: int, folder: str) -> list[dict[str, Any]]:
    place = os.path.join(folder, name)
    served, own, one, table = (os.path.join(place, part) for part in ("served", "nginx", "one", "table"))
    os.makedirs(served)
    os.mkdir(own)
    made = make_files(served, wanted)
    files, last = made.first(len(wanted) - 1), FileSet(made.names[-1:], made.sizes[-1:], made.digests[-1:])
    peers = [BASE, *(peer for which, peer in TARGETS if which == name and _is_there(peer))]
    with serve(served, own) as server:
        tables = write_inputs(last, one, server.base).table, write_inputs(files, table, server.base).table
        runs = list(take_turns(peers, rounds, partial(_once, name, tables, files, place)))
    shutil.rmtree(place)
    return runs


def _is_there(peer: str) -> bool:
    return peer == "prototype" or find_spec(peer) is not None


def _once(name: str, tables: tuple[str, str], files: FileSet, place: str, peer: str, number: int) -> dict[str, Any]:
    """Let one fetch into a fresh folder; what is not all there and right has no time."""
    target = os.path.join(place, "fetched")
    run: dict[str, Any] = {"files": name, "peer": peer, "round": number, "count": len(files.names)}
    os.mkdir(target)
    try:
        usage, said = run_process(program("fetch_rate.py", peer, *tables, target), place)
        failure = find_fault(files, os.path.join(target, FOLDERS[peer]))
    except (ProcessFailed, OSError) as error:
        return {**run, "failure": str(error)}
    finally:
        shutil.rmtree(target, ignore_errors=True)
    seconds = json.loads(said.splitlines()[-1])["seconds"]
    return {**run, "failure": failure, "seconds": seconds, "process_seconds": usage.wall}


def rates_of(runs: list[dict[str, Any]], name: str, peer: str, what: str = "seconds") -> list[float]:
    """Return how many times as fast framefetch was as a peer, in each round."""
    ours = {run["round"]: run[what] for run in runs if run["files"] == name and run["peer"] == BASE}
    theirs = {run["round"]: run[what] for run in runs if run["files"] == name and run["peer"] == peer}
    return [theirs[number] / ours[number] for number in ours if number in theirs]
