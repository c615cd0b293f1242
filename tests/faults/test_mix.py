"""Ten thousand rows, one in a hundred of them poisoned with a case of the catalogue, all at once.

What CI runs is one seed with two thousand rows; ``pytest tests/faults/test_mix.py --full`` runs twenty seeds with ten
thousand, and prints what each took beside the same table without poison.
"""

import hashlib
import multiprocessing
import random
import statistics
import time
from collections.abc import Callable
from concurrent.futures import Executor, ProcessPoolExecutor
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from framefetch import Limits, MetadataCache, Options, Timeouts
from framefetch.warehouse import WarehouseThread, hdf5_file
from tests.conftest import EAGER
from tests.faults.test_catalogue import CASES, Case

#: In proportion to a run of two seconds: what waits for the longest limit at the end is no cost of the mix.
TIMEOUTS = Timeouts(connect=2.0, stall=0.2, speed_window=0.2)
OPTIONS = Options(retry=EAGER.retry, timeouts=TIMEOUTS, limits=Limits(per_host=32))
GOOD = [hdf5_file(2_000 + 100 * at, seed=at) for at in range(20)]


def poisons(seed: int, count: int) -> list[Case]:
    """Return cases in a random order, each once before any comes twice."""
    cases: list[Case] = [parameters.values[0] for parameters in CASES]
    chosen = random.Random(seed)
    order: list[Case] = []
    while len(order) < count:
        order += chosen.sample(cases, len(cases))
    return order[:count]


def planned(
    healthy: str, poisoned: WarehouseThread | None, rows: int, seed: int
) -> tuple[pd.DataFrame, dict[int, Case]]:
    """Return a table, and which of its rows are poisoned with what; without a poisoned server none is."""
    at_random = random.Random(seed)
    bad = sorted(at_random.sample(range(rows), rows // 100)) if poisoned is not None else []
    cases = dict(zip(bad, poisons(seed, len(bad)), strict=True))
    table: dict[str, list[Any]] = {"url": [], "md5": [], "size": []}
    for row in range(rows):
        case = cases.get(row)
        content = GOOD[row % len(GOOD)]
        states: dict[str, Any] = {"md5": hashlib.md5(content).hexdigest()} if row % 2 else {}
        url = f"{healthy}/{row}.nwb"
        if case is not None and poisoned is not None:
            states, url = case.table, poisoned.url(f"/{row}.nwb")
            poisoned.add(f"/{row}.nwb", hdf5_file(20_000, seed=1))
            poisoned.script(f"/{row}.nwb", *case.answers, then=case.then)
        table["url"].append(url)
        table["md5"].append(states.get("md5"))
        table["size"].append(states.get("size"))
    return pd.DataFrame(table, index=[f"row {row}" for row in range(rows)]), cases


def mirrored(table: pd.DataFrame, folder: Path) -> tuple[pd.DataFrame, float, list[object]]:
    """Mirror a table; return the result's frame, how long it took, and what an audit of every byte finds."""
    with MetadataCache(table, folder, options=OPTIONS) as cache:
        began = time.monotonic()
        frame = cache.mirror(table).frame
        return frame, time.monotonic() - began, list(cache.verify("hash"))


def audited(pool: Executor, table: pd.DataFrame, cases: dict[int, Case], folder: Path) -> float:
    """Mirror a table in another process and check every row and every byte; return how long the mirror took."""
    frame, took, findings = pool.submit(mirrored, table, folder).result()
    assert findings == []
    assert list(frame.index) == list(table.index)
    for row, (status, kind, path) in enumerate(zip(frame["status"], frame["error_type"], frame["path"], strict=True)):
        case = cases.get(row)
        if case is None:
            assert status == "downloaded", frame["error"].iloc[row]
            assert Path(path).read_bytes() == GOOD[row % len(GOOD)]
            continue
        said = f"case {case.number}, {case.fault}: {status} {kind} {frame['error'].iloc[row]}"
        assert (status if status == "downloaded" else kind) == case.outcome, said
        if status == "downloaded":
            assert Path(path).read_bytes() == case.right, said
    assert len(list((folder / "v0").iterdir())) == (frame["status"] == "downloaded").sum()
    return took


@pytest.mark.timeout(3600)
def test_poisoned_rows_harm_only_themselves(
    nginx: Callable[..., Any], tmp_path: Path, full: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = 10_000 if full else 2_000
    served = tmp_path / "served"
    served.mkdir()
    for row in range(rows):
        (served / f"{row}.nwb").write_bytes(GOOD[row % len(GOOD)])
    server = nginx(served)
    base = f"http://127.0.0.1:{server.port}"
    ratios = []
    # The poisoned server is Python too: in one process the two would wait for one another.
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        for seed in range(20 if full else 1):
            alone = took = 0.0
            # In turns, who comes first: what one has written the system still has to bring to the disk.
            for clean in (seed % 2 > 0, seed % 2 == 0) if full else (False,):
                if clean:
                    alone = audited(pool, planned(base, None, rows, seed)[0], {}, tmp_path / f"clean-{seed}")
                    continue
                with WarehouseThread() as poisoned:
                    table, cases = planned(base, poisoned, rows, seed)
                    took = audited(pool, table, cases, tmp_path / f"poisoned-{seed}")
            if full:
                ratios.append(took / alone)
                with capsys.disabled():
                    print(
                        f"\nseed {seed:2}: {took:.2f} s, {alone:.2f} s without poison, {took / alone:.2f} times", end=""
                    )
    if full:
        with capsys.disabled():
            print(f"\nmedian of {len(ratios)} seeds: {statistics.median(ratios):.2f} times the clean run")
