"""A run that is told to stop, at any instant: it ends within two seconds, and what was finished stays finished."""

import asyncio
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from framefetch import Limits, MetadataCache
from framefetch.warehouse import Chunked, Reply, Serve, WarehouseThread, hdf5_file, hold
from tests.conftest import EAGER
from tests.faults.disk.bench import Bench, Stock, audit_and_go_on, recorded
from tests.processes import wait_until
from tests.store.builders import descriptors

MIB = 1 << 20
#: Seconds a run may take to end.
SOON = 2.0


@pytest.fixture
def stock(warehouse: WarehouseThread, tmp_path: Path) -> Stock:
    contents = {f"v0/{at}.nwb": hdf5_file(20_000, seed=at) for at in range(200)}
    contents |= {f"v0/l{at}.nwb": hdf5_file(3 * MIB + at, seed=at) for at in range(3)}
    return Stock.of(warehouse, tmp_path / "table.csv", contents)


@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)], ids=["INT", "TERM", "HUP"]
)
def test_a_signal_at_any_instant(
    number: signal.Signals,
    code: int,
    bench: Bench,
    stock: Stock,
    warehouse: WarehouseThread,
    full: bool,
    tmp_path: Path,
    note: Callable[..., None],
) -> None:
    chance, root = random.Random(number), tmp_path / "cache"
    slowest, instants, held = 0.0, 50 if full else 5, 0
    for at in range(instants):
        asked = warehouse.count()
        words = ["mirror", stock.table, root, "--bandwidth", "4M"]
        ended = bench.run(*words, seconds=0.05 + chance.uniform(0, 0.6), signal=int(number))
        # Before there is anything to put in order, a signal does what it does to any process.
        early = (-number,) if warehouse.count() == asked else ()
        assert ended.code in (code, *early), f"instant {at}: {ended}"
        assert ended.took is not None
        assert ended.took < SOON
        assert "Traceback" not in ended.said
        assert "never retrieved" not in ended.said
        assert "was destroyed" not in ended.said
        assert stock.lies(root) == []
        rows = {path for path, _, _ in recorded(root)}
        assert stock.whole(root) == rows, "what stands under its name is recorded"
        assert len(rows) >= held, "what was recorded stays"
        slowest, held = max(slowest, ended.took), len(rows)
        if held > 150:
            audit_and_go_on(bench, stock, warehouse, root, ended, f"instant {at}")
            os.rename(root, tmp_path / f"full-{at}")
            held = 0
    if root.exists():
        audit_and_go_on(bench, stock, warehouse, root, ended, "at the end")
    case = "101" if number == signal.SIGINT else "103"
    note(case, f"{number.name} at {instants} instants", f"within {slowest:.1f} s", warehouse.count())


async def test_a_cancelled_call_at_any_instant(
    stock: Stock, warehouse: WarehouseThread, full: bool, tmp_path: Path, note: Callable[..., None]
) -> None:
    frame = pd.read_csv(stock.table)
    chance, root, instants = random.Random(101), tmp_path / "cache", 50 if full else 8
    options = replace(EAGER, limits=Limits(connections=16, bandwidth=10e6))
    with MetadataCache(frame, root, options=options) as cache:
        await cache.fetch_all(frame.head(1))
        before = descriptors(), threading.active_count()
        for at in range(instants):
            call = asyncio.create_task(cache.fetch_all(frame, file_version=f"v{at}"))
            await asyncio.sleep(chance.uniform(0, 0.15))
            began = time.monotonic()
            assert call.cancel(), "it is under way"
            with pytest.raises(asyncio.CancelledError):
                await call
            assert time.monotonic() - began < SOON
            assert cache.verify("hash") == []
            assert len(asyncio.all_tasks()) == 1
        await cache.fetch_all(frame.head(1), file_version="end")
        assert descriptors() == before[0]
        assert threading.active_count() <= before[1] + 8  # pools that had not needed all of theirs
    assert all(name.startswith("kept-") for name in os.listdir(root / ".framefetch" / "parts"))
    note("101", f"cancelled at {instants} instants", "CancelledError", warehouse.count())


async def test_a_timeout_around_a_failing_batch_is_not_retried(
    warehouse: WarehouseThread, stock: Stock, tmp_path: Path, note: Callable[..., None]
) -> None:
    frame = pd.read_csv(stock.table).head(1)
    warehouse.script_all(Reply(503, headers={"Retry-After": "1"}))
    with MetadataCache(frame, tmp_path / "cache") as cache:
        began = time.monotonic()
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(cache.fetch_all(frame), 0.3)
        assert time.monotonic() - began < 0.3 + 0.5
        assert warehouse.count() == 1
    note("102", "a timeout around a call that is failing", "at once", 1)


@pytest.mark.skipif((3, 12) <= sys.version_info < (3, 12, 2), reason="starts no thread any more (gh-113964)")
@pytest.mark.parametrize("how", ["end", "exit", "async", "daemon"])
def test_the_main_part_of_a_script_ends_while_a_thread_mirrors(
    warehouse: WarehouseThread, tmp_path: Path, how: str
) -> None:
    """A thread that is waited for has all its files; one that is not leaves what was recorded, and no words."""
    bodies = [hdf5_file(3 * MIB if at in (31, 59) else 20_000, seed=at) for at in range(60)]
    urls = [warehouse.add(f"{at}.nwb", body) for at, body in enumerate(bodies)]
    pd.DataFrame({"url": urls}).to_csv(tmp_path / "table.csv", index=False)
    for at in (30, 31):
        warehouse.script(f"{at}.nwb", hold())
    warehouse.script("50.nwb", Serve(framing=Chunked()))  # is saved by the loop's own thread
    script = f"""
import asyncio, sys, threading
threading._register_atexit(print, "ended", flush=True)  # called last: the pools of concurrent.futures are shut by then
from framefetch import Limits, MetadataCache, Options
options = Options(limits=Limits(connections=2))
cache = MetadataCache({str(tmp_path / "table.csv")!r}, {str(tmp_path / "c")!r}, options=options)
cache.mirror(cache.dataframe.head(30))
async def fetch():
    async with cache:
        return await cache.fetch_all(cache.dataframe)
mirror = lambda: {"asyncio.run(fetch())" if how == "async" else "cache.mirror(cache.dataframe)"}
threading.Thread(target=lambda: print(mirror().ok.sum(), flush=True), daemon={how == "daemon"}).start()
input()
{"sys.exit(3)" if how == "exit" else ""}
"""
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-W", "ignore", "-c", script], text=True, **pipes) as process:
        wait_until(lambda: warehouse.count("30.nwb") == warehouse.count("31.nwb") == 1)
        process.stdin.write("go on\n")
        process.stdin.flush()
        said = process.stdout.readline()
        if how != "daemon":
            warehouse.release()
        try:
            more, complained = process.communicate(timeout=20)
        finally:
            process.kill()
    assert (complained, process.returncode) == ("", 3 if how == "exit" else 0)
    assert said == "ended\n"
    assert more == "60\n" or how == "daemon"
    held = {path for path, _, _ in recorded(tmp_path / "c")}
    assert held >= {f"v0/{at}.nwb" for at in range(30 if how == "daemon" else 60)}
    assert held == {f"v0/{name}" for name in os.listdir(tmp_path / "c" / "v0")}
