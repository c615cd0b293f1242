"""Whether a row, a file and a commit cost the same when there are many of them."""

from __future__ import annotations

import hashlib
import json
import os
from typing import TYPE_CHECKING, Any

from benchmarks.server import NAMES_LOCATIONS, serve
from benchmarks.timing import ProcessFailed, Spread, program, run_process

if TYPE_CHECKING:
    from collections.abc import Callable

SIZES = (1_000, 10_000, 100_000, 1_000_000)
FETCHED_SIZES = (1_000, 5_000, 20_000)
FEW = 1_000
#: What may be more by row, file or window where there are more of them.
FLAT = 1.2
#: A million small files take a while to be fetched first.
SECONDS = 3600.0


def named_table(path: str, base: str, count: int) -> None:
    """Write a table of files whose content is their own name, which a server can answer without a disk."""
    names = [f"/named/{number:08d}.bin" for number in range(count)]
    with open(path, "w") as file:
        file.write("url,size,md5\n")
        file.writelines(f"{base}{name},{len(name)},{hashlib.md5(name.encode()).hexdigest()}\n" for name in names)


def run_growth(count: int, rounds: int, folder: str) -> dict[str, Any]:
    """Plan, fetch and hold more and more rows; return seconds a row of each run."""
    served, own, cache = (os.path.join(folder, name) for name in ("served", "nginx", "cache"))
    os.mkdir(served)
    os.mkdir(own)
    runs: list[dict[str, Any]] = []
    with serve(served, own, locations=NAMES_LOCATIONS) as server:
        for size in sorted({*SIZES, *FETCHED_SIZES}):
            if size > count:
                break
            table = os.path.join(folder, f"table-{size}.csv")
            named_table(table, server.base, size)
            if size in FETCHED_SIZES:
                runs += _repeat(rounds, size, "fetched", lambda number, table=table: _fetch(table, folder, number))
            if size in SIZES:
                runs += _repeat(rounds, size, "planned", lambda number, table=table: _plan(table, folder, number))
                _run_json("fetch_held.py", table, cache, folder)  # what is still missing of them
                runs += _repeat(rounds, size, "held", lambda _, table=table: _hold(table, cache, folder))
    return {"flat": FLAT, "runs": runs}


def _repeat(rounds: int, size: int, way: str, run: Callable[[int], float]) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    for number in range(rounds):
        one: dict[str, Any] = {"way": way, "rows": size, "round": number, "failure": None}
        try:
            one["row_seconds"] = run(number) / size
        except ProcessFailed as error:
            one["failure"] = str(error)
        found.append(one)
    return found


def _run_json(name: str, table: str, cache: str, folder: str) -> dict[str, Any]:
    _, said = run_process(program(name, table, cache), folder, SECONDS)
    return dict(json.loads(said.splitlines()[-1]))


def _fetch(table: str, folder: str, number: int) -> float:
    """Fetch into an empty cache; only the call itself is timed."""
    figures = _run_json("fetch_held.py", table, f"{table}-cache-{number}", folder)
    if set(figures["statuses"]) != {"downloaded"}:
        raise ProcessFailed(f"not all rows were downloaded: {figures['statuses']}")
    return float(figures["seconds"])


def _plan(table: str, folder: str, number: int) -> float:
    return float(_run_json("plan_rows.py", table, f"{table}-plan-{number}", folder)["seconds"])


def _hold(table: str, cache: str, folder: str) -> float:
    figures = _run_json("fetch_held.py", table, cache, folder)
    if set(figures["statuses"]) != {"cached"}:
        raise ProcessFailed(f"not all rows were held: {figures['statuses']}")
    return float(figures["seconds"])


def run_commit(count: int, rounds: int, folder: str) -> dict[str, Any]:
    """Commit windows into a manifest of few entries and into one of `count`.

    Both the median window and the mean of all have to be flat: what is done now and then is in the mean only.
    """
    runs: list[dict[str, Any]] = []
    for number in range(rounds):
        for size in (FEW, count):
            one: dict[str, Any] = {"way": "commit", "rows": size, "round": number, "failure": None}
            try:
                words = (str(size), os.path.join(folder, f"cache-{size}-{number}"))
                _, said = run_process(program("commit_windows.py", *words), folder, SECONDS)
            except ProcessFailed as error:
                runs.append(one | {"failure": str(error)})
                continue
            figures = json.loads(said.splitlines()[-1])
            ways = {"commit": figures["median_seconds"], "commit, mean": figures["mean_seconds"]}
            runs += [one | {"way": way, "row_seconds": took / figures["window"]} for way, took in ways.items()]
    return {"flat": FLAT, "runs": runs}


def growth_of(runs: list[dict[str, Any]], way: str) -> tuple[dict[int, Spread], float | None]:
    """Return the seconds a row by number of rows, and the worst of more rows against fewer."""
    good = [run for run in runs if run["way"] == way and run["failure"] is None]
    by_size = {
        size: Spread.of(run["row_seconds"] for run in good if run["rows"] == size)
        for size in sorted({run["rows"] for run in good})
    }
    medians = [spread.median for spread in by_size.values()]
    worse = [later / earlier for at, earlier in enumerate(medians) for later in medians[at + 1 :]]
    return by_size, max(worse, default=None)
