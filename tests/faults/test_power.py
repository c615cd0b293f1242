"""The power is cut, at any call: whatever the disk kept of what was not synced, nothing wrong is believed."""

import os
import random
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from framefetch import MetadataCache
from framefetch.store import files as files_module
from framefetch.store import manifest as manifest_module
from framefetch.warehouse import Serve, Stop, WarehouseThread, hdf5_file
from tests.conftest import EAGER
from tests.faults.disk.bench import Bench, Fault, Stock, recorded
from tests.faults.disk.powercut import History, State, follow, lost

SMALL = {f"v0/s{at}.nwb": hdf5_file(5000 + at, seed=at) for at in range(8)}
LARGE = {"v0/l.nwb": hdf5_file(1_300_000, seed=9), "v0/cut.nwb": hdf5_file(1_200_000, seed=10)}


@pytest.fixture
def stock(warehouse: WarehouseThread, tmp_path: Path) -> Stock:
    return Stock.of(warehouse, tmp_path / "table.csv", SMALL | LARGE)


def record(bench: Bench, stock: Stock, warehouse: WarehouseThread, root: Path) -> History:
    """Record three runs, each of which syncs after each commit: the second leaves part of a file to the third."""
    logs = [root.with_name(f"{name}.log") for name in ("first", "second", "third")]
    warehouse.script("/cut.nwb", Serve(stop=Stop(700_000)), then=Serve())
    words = ["mirror", stock.table, root, "--per-host", 1, "--attempts", 1]
    for log, more, code in zip(logs, (["--limit", 6], [], []), (0, 1, 0), strict=True):
        assert bench.run(*words, *more, arm=Fault().armed(root, 1, log), sync=0.0).code == code
    return History(follow(logs))


@pytest.mark.timeout(1800)
def test_whatever_a_power_cut_leaves(
    bench: Bench,
    stock: Stock,
    warehouse: WarehouseThread,
    full: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    note: Callable[..., None],
) -> None:
    root = tmp_path / "cache"
    history = record(bench, stock, warehouse, root)
    assert len(history.syncs) > 3, "it syncs on its way, not only at the end of each run"
    assert any("manifest.sqlite-wal" in call.a for call in history.calls), "what SQLite does is seen"
    times = {file: (root / path.lstrip("/")).stat().st_mtime_ns for path, file in history.ends.items()}
    rebuilt = history.at(len(history.calls), lost)
    assert {path.lstrip("/"): rebuilt.contents[file] for path, file in rebuilt.names.items() if path[:3] == "/v0"} == (
        stock.contents
    ), "the model of the disk and the disk agree, and all is synced in the end"
    shutil.rmtree(root)
    safe = safe_files(history, times, tmp_path / "safe", stock)
    for module in (files_module, manifest_module):
        monkeypatch.setattr(module, "boot_id", lambda: "the boot after the power cut")
    frame = pd.read_csv(stock.table)
    chance = random.Random(107)

    def wanted(words: str) -> bool:
        """In the short form: the worst way to lose something behind every write, of the others a few."""
        return full or ("rows without the bytes" in words and "(write" in words) or chance.random() < 0.01

    again = states = 0
    for words, cut, state in history.states(6 if full else 1, wanted):
        held = set().union(*(paths for sync, paths in safe.items() if sync < cut))
        again += recover(state, times, root, frame, stock, warehouse, held, words)
        states += 1
        shutil.rmtree(root)
    note("107", f"{states} power-cut states of {len(history.calls)} calls recovered", "none wrong", again)
    note("108", f"{states} power-cut states of {len(history.calls)} calls recovered", "none damaged", again)


def safe_files(history: History, times: dict[int, int], root: Path, stock: Stock) -> dict[int, set[str]]:
    """Return for each sync which files are recorded, and on the disk, whatever is lost after it."""
    safe = {}
    for sync in history.syncs:
        history.at(sync + 1, lost, 0.0).build(root, times)
        safe[sync] = {path for path, _, _ in recorded(root)}
        assert safe[sync] <= stock.whole(root), "a row that is safe has a file that is"
        shutil.rmtree(root)
    return safe


def recover(
    state: State,
    times: dict[int, int],
    root: Path,
    frame: pd.DataFrame,
    stock: Stock,
    warehouse: WarehouseThread,
    held: set[str],
    words: str,
) -> int:
    """Open what is left and mirror into it; return how many files had to be fetched again."""
    state.build(root, times)
    warehouse.clear_log()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # files set aside are told, rightly
        with MetadataCache(frame, root, options=EAGER) as cache:
            result = cache.mirror(frame)
            assert result.ok.all(), f"{words}: {result.failed}"
            assert cache.verify("hash") == [], words
    assert stock.whole(root) == stock.contents.keys(), words
    assert stock.lies(root) == [], words
    assert [path for path in held if warehouse.count(stock.target(path))] == [], f"{words}: was safe"
    assert os.listdir(root / ".framefetch" / "parts") == [], words
    assert not [name for name in os.listdir(root) if "corrupt" in name], f"{words}: the manifest was damaged"
    return warehouse.count()
