"""MetadataCache from outside: a table in, a table out on the same index, in every way it can be called."""

import asyncio
import contextlib
import copy
import gc
import hashlib
import json
import os
import pickle
import queue
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from framefetch import (
    FetchFailed,
    FetchResult,
    Limits,
    MetadataCache,
    Options,
    PlanError,
    RetryPolicy,
    TableOptions,
    Timeouts,
    TransferOptions,
)
from framefetch import cache as cache_module
from framefetch.errors import DiskFull, ManifestError, ManifestLost, StorageError
from framefetch.events import FileFinished, RunFinished, RunStarted
from framefetch.job import Job
from framefetch.models import Entry
from framefetch.portal import Portal
from framefetch.run import Run
from framefetch.store import exchange
from framefetch.store.folder import CacheFolder
from framefetch.store.manifest import Manifest
from framefetch.store.writer import CommitWriter, Handed
from framefetch.warehouse import Reply, Serve, WarehouseThread, hdf5_file, hold
from framefetch.works import Works
from tests.conftest import EAGER
from tests.processes import wait_until
from tests.servers import free_port
from tests.store.builders import query

#: Seconds after which neighbours take a process for a stopped one.
LOCK_SECONDS = 0.5


def md5(content: bytes) -> str:
    return hashlib.md5(content).hexdigest()


async def test_table_in_table_out_on_the_same_index(stocked, open_cache) -> None:
    warehouse, table, contents = stocked
    table.index = [7, 7, "a", None, 3.5, (1, 2), "b", 0]
    subset = table.iloc[[5, 0, 3, 0]]
    result = await open_cache(table).fetch_all(subset)
    assert result.frame.index.equals(subset.index)
    assert result.frame["status"].tolist() == ["downloaded"] * 4
    assert result.frame["url"].tolist() == subset["wkf"].tolist()
    assert result.frame["md5"].tolist() == [md5(contents[url]) for url in subset["wkf"]]
    for path, url in zip(result.paths, subset["wkf"], strict=True):
        assert Path(path).is_absolute()
        assert Path(path).read_bytes() == contents[url]
    assert warehouse.count() == 3  # one of the four rows is there twice


async def test_second_run_asks_nothing(stocked, open_cache) -> None:
    warehouse, table, _ = stocked
    cache = open_cache(table)
    await cache.fetch_all(table)
    warehouse.clear_log()
    result = await cache.fetch_all(table)
    assert result.frame["status"].unique().tolist() == ["cached"]
    assert result.ok.all()
    assert warehouse.count() == 0
    assert result.summary() == result.summary() | {
        "rows": 8,
        "files": 8,
        "cached": 8,
        "downloaded": 0,
        "requests": 0,
        "bytes": 0,
    }


def test_second_process_would_find_them_too(stocked, open_cache) -> None:
    warehouse, table, _ = stocked
    open_cache(table).mirror(table)
    warehouse.clear_log()
    assert open_cache(table).mirror(table).summary()["cached"] == 8
    assert warehouse.count() == 0


async def test_failed_rows_are_fetched_again_with_one_mask(stocked, open_cache) -> None:
    warehouse, table, _ = stocked
    warehouse.script("103", Reply(404), then=Serve())
    bad = pd.concat([table, pd.DataFrame({"name": ["x", "y"], "wkf": ["file for probe not found", np.nan]})])
    cache = open_cache(table)
    result = await cache.fetch_all(bad)
    assert result.frame["status"].tolist() == ["downloaded"] * 3 + ["failed"] + ["downloaded"] * 4 + ["invalid"] * 2
    assert result.failed["error_type"].tolist() == ["StatusError", "InvalidRow", "InvalidRow"]
    assert "404" in result.failed["error"].iloc[0]
    assert result.paths.isna().sum() == 3
    again = await cache.fetch_all(bad[~result.ok])
    assert again.frame["status"].tolist() == ["downloaded", "invalid", "invalid"]
    with pytest.raises(FetchFailed, match=r"2 of 3 rows could not be fetched:\n  row 0, column 'wkf'"):
        again.raise_for_failures()


@pytest.mark.parametrize("index", [[], [3], pd.MultiIndex.from_tuples([("a", 1), ("a", 1)], names=["x", "y"])], ids=str)
async def test_any_index(stocked, open_cache, index) -> None:
    _, table, _ = stocked
    subset = table.head(len(index)).set_axis(index, axis=0)
    result = await open_cache(table).fetch_all(subset)
    assert result.frame.index.equals(subset.index)
    assert result.ok.tolist() == [True] * len(index)
    assert result.summary()["rows"] == len(index)


def test_a_table_without_urls_is_a_plan_error(open_cache, warehouse) -> None:
    cache = open_cache(pd.DataFrame({"a": [1]}))
    with pytest.raises(PlanError, match="expected one named wkf or url"):
        cache.mirror(cache.dataframe)
    assert warehouse.count() == 0


def test_the_prototypes_names(stocked, open_cache) -> None:
    _, table, contents = stocked
    table["full_genotype"] = ["a/wt", "b/wt"] * 4
    cache = open_cache(table)
    assert cache.get_all_genotypes() == {"a/wt", "b/wt"}
    assert cache.get_all_targeted_structures() is None
    assert cache.get_all("name") == set(table["name"])
    url = table["wkf"].iloc[2]
    path = cache.get_file(url, "v0")
    assert path == cache.cache_dir.resolve() / "v0" / "102.nwb"
    assert path.read_bytes() == contents[url]
    files = cache.get_all_files(table.query("full_genotype == 'a/wt'"), "v1")
    assert {name: file.read_bytes() for name, file in files.items()} == {u: contents[u] for u in table["wkf"][::2]}
    assert {file.parent.name for file in files.values()} == {"v1"}


def test_get_all_files_runs_to_its_end_and_then_raises(stocked, open_cache) -> None:
    warehouse, table, _ = stocked
    warehouse.script("100", Reply(410))
    cache = open_cache(table)
    with pytest.raises(FetchFailed, match=r"row 0, http://\S+: StatusError: expected status 200, got 410") as failure:
        cache.get_all_files(table)
    assert failure.value.frame.index.tolist() == [0]
    assert cache.status().files == 7


async def test_blocking_verbs_work_inside_a_running_loop_and_off_the_main_thread(stocked, open_cache) -> None:
    _, table, contents = stocked
    cache = open_cache(table)
    assert len(cache.get_all_files(table.head(2))) == 2  # this very test runs in a loop
    found: list[Path] = []
    thread = threading.Thread(target=lambda: found.append(cache.get_file(table["wkf"].iloc[5])))
    thread.start()
    await asyncio.to_thread(thread.join)
    assert found[0].read_bytes() == contents[table["wkf"].iloc[5]]


async def test_overlapping_calls_fetch_each_url_once(stocked, open_cache) -> None:
    warehouse, table, _ = stocked
    warehouse.script("100", hold())
    cache = open_cache(table, options=Options())
    calls = [asyncio.create_task(cache.fetch_all(table.iloc[:5])) for _ in range(3)]
    calls.append(asyncio.create_task(cache.fetch_all(table.iloc[::-1])))
    threads = [asyncio.create_task(asyncio.to_thread(cache.get_file, table["wkf"].iloc[0])) for _ in range(2)]
    await asyncio.to_thread(warehouse.wait_for, "100")
    for _ in range(5):
        await asyncio.sleep(0)
    warehouse.release("100")
    results = await asyncio.gather(*calls)
    paths = await asyncio.gather(*threads)
    assert all(result.ok.all() for result in results)
    assert len({str(path) for path in paths}) == 1
    assert warehouse.count() == 8


class Gates:
    """Where calls wait, each when it has looked for what is held and has claimed nothing yet."""

    def __init__(self) -> None:
        self.arrived: queue.Queue[threading.Event] = queue.Queue()

    def stop(self) -> None:
        gate = threading.Event()
        self.arrived.put(gate)
        assert gate.wait(30)

    async def begun(
        self, call: Coroutine[object, object, FetchResult]
    ) -> tuple[asyncio.Task[FetchResult], threading.Event]:
        """Begin a call; return it, and what lets it go on."""
        task = asyncio.create_task(call)
        return task, await asyncio.to_thread(self.arrived.get, timeout=30)


@pytest.fixture
def gates(monkeypatch) -> Gates:
    gates, real = Gates(), Run._require_room

    def require_room(run: Run, to_fetch: np.ndarray) -> None:
        gates.stop()
        real(run, to_fetch)

    monkeypatch.setattr(Run, "_require_room", require_room)
    return gates


async def test_what_another_call_fetched_before_this_one_claimed_it_is_not_fetched_again(
    stocked, open_cache, gates
) -> None:
    """It looked while nothing was there, and its turn comes when all is there and nobody claims it any more."""
    warehouse, table, _ = stocked
    cache = open_cache(table)
    first, first_goes = await gates.begun(cache.fetch_all(table))
    second, second_goes = await gates.begun(cache.fetch_all(table))
    first_goes.set()
    assert (await first).frame["status"].unique().tolist() == ["downloaded"]
    second_goes.set()
    assert (await second).frame["status"].unique().tolist() == ["cached"]
    assert warehouse.count() == 8


@pytest.mark.parametrize("verify", ["stat", "hash", "none"])
async def test_nor_where_a_third_call_has_it_meanwhile(stocked, open_cache, gates, verify) -> None:
    """The third claims it too, and gives it back without a word, since it was recorded before."""
    warehouse, table, _ = stocked
    warehouse.script("100", hold())
    cache = open_cache(table, options=Options(verify=verify))
    third, third_goes = await gates.begun(cache.fetch_all(table.iloc[[0, 5]]))
    second, second_goes = await gates.begun(cache.fetch_all(table.iloc[[5, 6]]))
    first, first_goes = await gates.begun(cache.fetch_all(table.iloc[[5, 6]]))
    first_goes.set()
    assert (await first).ok.all()
    third_goes.set()
    await asyncio.to_thread(warehouse.wait_for, "100")
    second_goes.set()
    if verify == "stat":  # the others ask whoever has it
        assert (await second).ok.all()
    warehouse.release("100")
    assert (await second).frame["status"].tolist() == ["cached", "cached"]
    assert (await third).frame["status"].tolist() == ["downloaded", "cached"]
    assert warehouse.count() == 3


async def test_overlapping_calls_share_a_failure(stocked, open_cache) -> None:
    warehouse, table, _ = stocked
    warehouse.script("100", hold(Reply(404)), then=Reply(404))  # whoever comes too late asks for itself
    cache = open_cache(table, options=Options())
    calls = [asyncio.create_task(cache.fetch_all(table.head(1))) for _ in range(3)]
    await asyncio.to_thread(warehouse.wait_for, "100")
    warehouse.release("100")
    results = await asyncio.gather(*calls)
    assert [result.frame["error_type"].iloc[0] for result in results] == ["StatusError"] * 3
    assert 1 <= warehouse.count() <= 3


async def cancelled_in_a_task(call: Coroutine[object, object, object], ready: asyncio.Future[None]) -> object:
    task = asyncio.create_task(call)
    await ready
    task.cancel()
    with pytest.raises(asyncio.CancelledError) as caught:
        await task
    return caught.value.result


async def timed_out(call: Coroutine[object, object, object], ready: asyncio.Future[None]) -> object:
    async def limited() -> None:
        async with asyncio.timeout(None) as limit:
            ready.add_done_callback(lambda _: limit.reschedule(0))
            await call

    with pytest.raises(TimeoutError) as caught:
        await limited()
    return caught.value.__cause__.result


@pytest.mark.parametrize("cancel", [cancelled_in_a_task, timed_out])
async def test_a_call_that_is_cancelled_carries_what_was_done(warehouse, open_cache, cancel) -> None:
    urls = [warehouse.add(str(at), hdf5_file(3000, seed=at)) for at in range(4)]
    warehouse.script("3", hold())
    table = pd.DataFrame({"wkf": urls}, index=list("abcd"))
    ready = asyncio.get_running_loop().create_future()

    def observe(event: object) -> None:
        if isinstance(event, FileFinished):
            came.append(event.outcome.request.index)
            if len(came) == 3:
                ready.get_loop().call_soon_threadsafe(ready.set_result, None)

    came: list[int] = []
    options = replace(EAGER, timeouts=Timeouts(stall=30.0), observers=(observe,))
    cache = open_cache(table, options=options)
    result = await cancel(cache.fetch_all(table), ready)
    assert result.frame["status"].to_dict() == dict.fromkeys("abc", "downloaded") | {"d": "cancelled"}
    assert cache.status().files == 3


async def test_cancelling_commits_what_is_finished_and_the_cache_goes_on(stocked, open_cache) -> None:
    warehouse, table, _ = stocked
    warehouse.script("107", hold())
    finished = threading.Semaphore(0)

    def observe(event: object) -> None:
        if isinstance(event, FileFinished):
            finished.release()

    cache = open_cache(table, options=Options(observers=(observe,)))
    call = asyncio.create_task(cache.fetch_all(table))
    for _ in range(7):
        await asyncio.to_thread(finished.acquire)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asyncio.wait_for(call, 2.5)
    assert cache.status().files == 7
    warehouse.script("107", Serve())
    warehouse.clear_log()
    result = await cache.fetch_all(table)
    assert result.frame["status"].tolist() == ["cached"] * 7 + ["downloaded"]
    assert warehouse.count() == 1


async def test_a_timeout_around_the_call_ends_it(stocked, open_cache) -> None:
    warehouse, table, _ = stocked
    warehouse.script_all(Reply(503, headers={"Retry-After": "60"}))
    cache = open_cache(table)
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(cache.fetch_all(table), 0.3)
    assert warehouse.count() <= 8  # no attempt was made after the cancellation


def test_plan_sends_nothing_and_says_what_would_happen(stocked, open_cache) -> None:
    warehouse, table, _ = stocked
    cache = open_cache(table)
    cache.mirror(table.head(3))
    warehouse.clear_log()
    table["size"] = [3000 + at for at in range(8)]
    table.loc[7, "wkf"] = "nonsense"
    plan = cache.plan(table)
    assert plan.frame["status"].tolist() == ["held"] * 3 + ["to_fetch"] * 4 + ["invalid"]
    assert plan.frame["path"].iloc[4] == "v0/104.nwb"
    assert plan.summary() == plan.summary() | {
        "rows": 8, "files": 7, "held": 3, "to_fetch": 4, "invalid": 1, "unknown_sizes": 0,
        "bytes": 3003 + 3004 + 3005 + 3006,
    }  # fmt: skip
    assert plan.notes == ("URLs from column 'wkf'", "sizes from column 'size'")
    assert "to_fetch" in plan._repr_html_()
    assert warehouse.count() == 0


@pytest.mark.parametrize("digests", [False, True])
def test_a_plan_tells_the_rows_whose_paths_others_hold(stocked, open_cache, digests) -> None:
    warehouse, table, contents = stocked
    template = TableOptions(path_template="{n}.nwb")
    held = table.head(5).assign(n=range(1, 6))
    if digests:
        held["md5"] = [md5(contents[url]) for url in held["wkf"]]
    cache = open_cache(held, table=template)
    cache.mirror(held)
    warehouse.clear_log()
    twice = table.iloc[[6, 6]].assign(n=[5, 8])  # the second path is a copy of the first, which cannot be
    swapped = pd.concat([held.assign(n=[2, 1, 3, 4, 6]), table.iloc[5:6].assign(n=7), twice])
    plan = cache.plan(swapped)
    assert plan.frame["status"].tolist() == [*["failed"] * 2, *["held"] * 3, "to_fetch", *["failed"] * 2]
    assert plan.summary() == plan.summary() | {"failed": 4, "held": 3, "to_fetch": 1}
    assert not (Path(cache.cache_dir) / "v0/6.nwb").exists()
    result = cache.mirror(swapped)
    assert result.frame["status"].tolist() == [*["failed"] * 2, *["cached"] * 3, "downloaded", *["failed"] * 2]
    assert result.frame["error"].dropna().tolist() == plan.frame["error"].dropna().tolist()
    assert warehouse.count() == 1


def test_a_plan_tells_the_rows_of_a_host_that_has_moved(stocked, open_cache) -> None:
    warehouse, table, _ = stocked
    open_cache(table).mirror(table)
    moved = table.assign(wkf=table["wkf"].str.replace("127.0.0.1", "localhost"))
    cache = open_cache(moved)
    twice = cache.plan(pd.concat([moved, moved.head(1)]))
    assert twice.summary() == twice.summary() | {"failed": 9, "held": 0, "to_fetch": 0, "unknown_sizes": 0}
    result = cache.mirror(moved)
    assert result.frame["error"].tolist() == cache.plan(moved).frame["error"].tolist()
    assert result.frame["error"].str.contains("keep the table's old URLs and give a host_map").all()
    with pytest.raises(PlanError, match="names none of them; nothing is removed"):
        cache.prune(moved)
    mapped = open_cache(table, host_map={f"127.0.0.1:{warehouse.port}": f"localhost:{warehouse.port}"})
    assert mapped.mirror(table).frame["status"].eq("cached").all()
    assert warehouse.count() == 8


@pytest.mark.parametrize("level", ["stat", "hash", "none"])
def test_a_digest_that_the_table_states_later_counts_and_is_recorded_once(
    stocked, open_cache, monkeypatch, level
) -> None:
    warehouse, table, _ = stocked
    cache = open_cache(table, options=replace(EAGER, verify=level))
    stated = table.assign(md5=cache.mirror(table).frame["md5"])
    warehouse.clear_log()
    committed = []
    real = Manifest.commit

    def commit(manifest: Manifest, entries: Sequence[Entry], *rest: object, **more: object) -> None:
        committed.append(len(entries))
        real(manifest, entries, *rest, **more)

    monkeypatch.setattr(Manifest, "commit", commit)
    for _ in range(2):
        result = cache.mirror(stated)
        assert result.frame[["status", "verified"]].drop_duplicates().values.tolist() == [["cached", "digest"]]
    assert committed == ([8] if level != "hash" else [8, 8])
    assert cache.status().verified == {"digest": 8}
    assert cache.mirror(table).frame["verified"].unique().tolist() == ["digest"]
    assert warehouse.count() == 0


def test_a_link_that_somebody_put_in_the_place_of_a_file_is_kept_with_a_warning(stocked, open_cache, tmp_path) -> None:
    _, table, contents = stocked
    cache = open_cache(table)
    place = Path(cache.mirror(table).paths.iloc[0])
    place.rename(tmp_path / "moved.nwb")
    place.symlink_to(tmp_path / "moved.nwb")
    with pytest.warns(UserWarning, match=f"v0/{place.name} was a link; it was kept as v0/{place.name}.kept-1"):
        assert cache.mirror(table).ok.all()
    assert not place.is_symlink()
    assert place.with_name(f"{place.name}.kept-1").readlink() == tmp_path / "moved.nwb"
    assert (tmp_path / "moved.nwb").read_bytes() == place.read_bytes() == contents[table["wkf"].iloc[0]]


@pytest.mark.parametrize(
    ("owner", "name", "behind"),
    [
        (Works, "begin", False),
        (Portal, "submit", False),
        (Portal, "submit", True),
        (Works, "begin", True),
        (Job, "_wait", False),
    ],
)
def test_an_interrupt_while_a_blocking_verb_begins_leaves_nothing_running(
    stocked, open_cache, monkeypatch, owner, name, behind
) -> None:
    warehouse, table, _ = stocked
    cache = open_cache(table)
    runs, interrupts = [], []
    finish, real = Run.finish, getattr(owner, name)

    async def noted(run: Run, *arguments: object) -> FetchResult:
        runs.append(run)
        return await finish(run, *arguments)

    def interrupted(*arguments: object, **named: object) -> object:
        if behind or interrupts:
            made = real(*arguments, **named)
        if not interrupts:
            interrupts.append(name)
            raise KeyboardInterrupt
        return made

    monkeypatch.setattr(Run, "finish", noted)
    monkeypatch.setattr(owner, name, interrupted)
    with pytest.raises(KeyboardInterrupt):
        cache.mirror(table)
    assert not cache._works._jobs, "whoever interrupts has waited for its end"
    assert cache.mirror(table).ok.all()
    assert all(run._stop.is_set() for run in runs[:-1])
    assert warehouse.count() == 8
    cache.close()


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_a_loop_whose_thread_does_not_start_is_closed(stocked, open_cache, monkeypatch, error) -> None:
    _, table, _ = stocked
    cache = open_cache(table)
    real = threading.Thread.start
    before = len(os.listdir("/proc/self/fd"))

    def start(thread: threading.Thread) -> None:
        if error is KeyboardInterrupt:
            real(thread)
        raise error

    monkeypatch.setattr(threading.Thread, "start", start)
    with pytest.raises(error):
        cache.mirror(table)
    monkeypatch.undo()
    wait_until(lambda: "framefetch-loop" not in {thread.name for thread in threading.enumerate()})
    assert len(os.listdir("/proc/self/fd")) == before
    assert cache.mirror(table).ok.all()


async def test_host_map_rewrites_only_the_connection(warehouse, open_cache) -> None:
    warehouse.add("1085755199", hdf5_file(2500))
    url = "http://testwarehouse:9000/api/v2/well_known_file_download/1085755199"
    table = pd.DataFrame({"wkf": [url]})
    first = open_cache(table, host_map={"testwarehouse:9000": f"127.0.0.1:{warehouse.port}"})
    result = await first.fetch_all(table)
    assert result.frame["url"].tolist() == [url]
    assert warehouse.requests()[0].header("Host") == "testwarehouse:9000"
    other = open_cache(table, host_map={"testwarehouse:9000": "127.0.0.1:1"})  # another tunnel tomorrow
    assert (await other.fetch_all(table)).frame["status"].tolist() == ["cached"]
    assert other.get_all_files(table).keys() == {url}


async def test_expected_digests_decide(stocked, open_cache) -> None:
    warehouse, table, contents = stocked
    table["md5"] = [md5(content).upper() for content in contents.values()]
    table["sha256"] = [hashlib.sha256(content).hexdigest() for content in contents.values()]
    table.loc[2, "md5"] = "0" * 32
    result = await open_cache(table).fetch_all(table)
    assert result.frame["verified"].fillna("").tolist() == ["digest"] * 2 + [""] + ["digest"] * 5
    assert result.failed["error_type"].tolist() == ["DigestMismatch"]
    assert "expected md5:" + "0" * 32 in result.failed["error"].iloc[0]
    assert warehouse.count("102") == 2  # asked once more, then believed
    assert not (open_cache(table).cache_dir / "v0" / "102.nwb").exists()


async def test_a_changed_expected_digest_makes_the_entry_stale(stocked, open_cache) -> None:
    warehouse, table, _ = stocked
    cache = open_cache(table)
    await cache.fetch_all(table)
    new = hdf5_file(5000, seed=99)
    warehouse.add("100", new)
    table["md5"] = [md5(new)] + [None] * 7
    result = await cache.fetch_all(table)
    assert result.frame["status"].tolist() == ["downloaded"] + ["cached"] * 7
    assert Path(result.paths.iloc[0]).read_bytes() == new


async def test_an_edited_file_is_noticed_warned_of_and_fetched_anew(stocked, open_cache) -> None:
    _, table, contents = stocked
    cache = open_cache(table)
    path = Path((await cache.fetch_all(table)).paths.iloc[0])
    before = path.stat()
    changed = bytearray(path.read_bytes())
    changed[-1] ^= 1
    path.write_bytes(changed)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))  # as rsync or a restore would
    with pytest.warns(UserWarning, match="checksum changed: v0/100.nwb"):
        result = await cache.fetch_all(table)
    assert result.frame["status"].tolist() == ["downloaded"] + ["cached"] * 7
    assert path.read_bytes() == contents[table["wkf"].iloc[0]]


async def test_a_touched_file_is_hashed_once_and_believed(stocked, open_cache) -> None:
    warehouse, table, _ = stocked
    cache = open_cache(table)
    path = (await cache.fetch_all(table)).paths.iloc[0]
    os.utime(path, (1, 1))
    warehouse.clear_log()
    assert (await cache.fetch_all(table)).ok.all()
    assert cache.verify("stat") == []
    assert warehouse.count() == 0


async def test_a_foreign_file_at_the_target_is_set_aside(stocked, open_cache) -> None:
    _, table, contents = stocked
    cache = open_cache(table)
    mine = cache.cache_dir / "v0" / "100.nwb"
    mine.parent.mkdir(parents=True)
    mine.write_text("my notes")
    with pytest.warns(UserWarning, match=r"kept as v0/100.nwb.kept-1"):
        result = await cache.fetch_all(table.head(1))
    assert Path(result.paths.iloc[0]).read_bytes() == contents[table["wkf"].iloc[0]]
    assert (mine.parent / "100.nwb.kept-1").read_text() == "my notes"


async def test_a_file_of_mine_where_one_of_the_caches_was_is_kept(stocked, open_cache) -> None:
    _, table, _ = stocked
    cache = open_cache(table)
    path = Path((await cache.fetch_all(table)).paths.iloc[0])
    path.unlink()
    await cache.fetch_all(table)  # looks at it, finds it gone, and fetches it again: it may be replaced, in that run
    cache.prune(table.iloc[1:])
    path.write_text("my notes")
    with pytest.warns(UserWarning, match=r"kept as v0/100.nwb.kept-1"):
        await cache.fetch_all(table)
    assert path.with_name("100.nwb.kept-1").read_text() == "my notes"


async def test_a_right_file_at_the_target_is_adopted_where_the_table_states_its_digest(stocked, open_cache) -> None:
    warehouse, table, contents = stocked
    table["md5"] = [md5(content) for content in contents.values()]
    cache = open_cache(table)
    target = cache.cache_dir / "v0" / "100.nwb"
    target.parent.mkdir(parents=True)
    target.write_bytes(contents[table["wkf"].iloc[0]])
    result = await cache.fetch_all(table.head(1))
    assert result.frame[["status", "verified"]].values.tolist() == [["cached", "digest"]]
    assert warehouse.count() == 0


def test_one_file_is_held_as_its_row_states_also_when_it_is_signed_anew(stocked, open_cache) -> None:
    warehouse, table, contents = stocked
    table["md5"] = ["0" * 32, *(md5(content) for content in list(contents.values())[1:])]
    table["wkf"] += "?id=7&token=old"
    cache = open_cache(table)
    with pytest.raises(FetchFailed, match="DigestMismatch"):
        cache.get_file(table["wkf"].iloc[0])
    fresh = table["wkf"].iloc[1].replace("old", "new")
    assert cache.get_file(fresh).read_bytes() == list(contents.values())[1]
    assert warehouse.requests("101")[0].target.endswith("?id=7&token=new")
    assert cache.mirror(table.iloc[[1]]).frame[["status", "verified"]].values.tolist() == [["cached", "digest"]]


def test_one_file_is_asked_for_at_the_mirrors_of_its_row(stocked, open_cache) -> None:
    warehouse, table, contents = stocked
    good = table["wkf"].iloc[0]
    warehouse.script("gone", Reply(404))
    cell = f"{warehouse.url('gone')} {good}"
    cache = open_cache(pd.DataFrame({"url": [cell], "md5": [md5(contents[good])], "size": [3000]}))
    for asked in (cell, warehouse.url("gone"), good):
        assert cache.get_file(asked).read_bytes() == contents[good]
    assert (warehouse.count("gone"), warehouse.count("100")) == (1, 1)


def test_one_file_is_held_as_its_row_states_also_where_the_table_names_half_a_url(stocked, open_cache) -> None:
    _, table, _ = stocked
    base, _, name = table["wkf"].iloc[0].rpartition("/")
    cache = open_cache(pd.DataFrame({"url": [name], "md5": ["0" * 32]}), table=TableOptions(base_url=base))
    for asked in (name, f"{base}/{name}"):
        with pytest.raises(FetchFailed, match="DigestMismatch"):
            cache.get_file(asked)


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        *(
            (nothing, "InvalidRow: expected a URL, but the cell is empty")
            for nothing in ("", None, float("nan"), pd.NA)
        ),
        (7, "InvalidRow: expected a URL as text, got int '7'"),
        (b"http://host/a", "InvalidRow: expected a URL as text, got bytes"),
        (Path("http://host/a"), "InvalidRow: expected a URL as text, got PosixPath"),
        (pd.Series(["http://host/a"]), "InvalidRow: expected a URL as text, got Series"),
        ([], "InvalidRow: expected a URL, got an empty list"),
        ("ftp://host/a", "ftp://host/a: InvalidRow: expected a URL with one of the schemes http, https"),
        (
            "http://host/dir/",
            "UnsafePath: expected a file name at the end of the URL, but it ends in '/': http://host/dir/",
        ),
    ],
)
def test_what_is_no_url_is_said_without_a_row_where_the_table_has_none(stocked, open_cache, asked, words) -> None:
    _, table, _ = stocked
    table.loc[0, "wkf"] = None
    with pytest.raises(FetchFailed) as failed:
        open_cache(table).get_file(asked)
    message = str(failed.value)
    assert words in message
    assert not any(wrong in message for wrong in ("row 0", "column", "template", "None"))


async def test_a_url_that_is_none_is_awaited_to_the_same_words(stocked, open_cache) -> None:
    _, table, _ = stocked
    with pytest.raises(FetchFailed, match="InvalidRow: expected a URL, but the cell is empty"):
        await open_cache(table).fetch(None)


def test_a_row_that_cannot_be_used_is_not_fetched_as_if_it_stated_nothing(stocked, open_cache) -> None:
    warehouse, table, _ = stocked
    one, two, three = table["wkf"].iloc[:3]
    frame = pd.DataFrame({"url": [one, two, two, three, three], "md5": ["xyz", "0" * 32, "1" * 32, "", "0" * 32]})
    cache = open_cache(frame)
    with pytest.raises(FetchFailed, match="expected the 32 hex digits of a md5 digest, got 'xyz'"):
        cache.get_file(one)
    with pytest.raises(FetchFailed, match="its md5 digest differs from that of another row"):
        cache.get_file(two)
    assert warehouse.count() == 0
    with pytest.raises(FetchFailed, match="DigestMismatch"):
        cache.get_file(three)  # what another row states of the same file


def test_one_file_has_the_key_of_its_row_by_each_of_its_urls(stocked, open_cache) -> None:
    warehouse, table, contents = stocked
    first, second = table["wkf"].iloc[:2]
    signed = f"{first}?signed=anew"
    frame = pd.DataFrame({"url": [first, signed, second], "id": ["7", "7", "8"], "md5": [md5(contents[first])] * 3})
    cache = open_cache(frame, table=TableOptions(key_column="id"))
    assert cache.get_file(first).read_bytes() == contents[first]
    assert cache.get_file(signed) == cache.get_file(first)
    assert (warehouse.count("100"), warehouse.count()) == (1, 1)


@pytest.mark.parametrize("template", [None, "{exp}.nwb"])
def test_no_row_gets_the_bytes_of_another_file_by_its_key(stocked, open_cache, template) -> None:
    warehouse, table, contents = stocked
    urls = list(table["wkf"][:3])
    frame = pd.DataFrame({"url": urls, "session": [7, 7, 8], "exp": ["e1", "e2", "e3"]}, index=["a", "b", "c"])
    cache = open_cache(frame, table=TableOptions(key_column="session", path_template=template))
    result = cache.mirror(frame)
    assert list(result.frame["status"]) == ["invalid", "invalid", "downloaded"]
    assert Path(result.paths["c"]).read_bytes() == contents[urls[2]]
    assert (warehouse.count("102"), warehouse.count()) == (1, 1)
    assert "row 'a', column 'session': expected a key that names one file" in result.frame.loc["a", "error"]
    assert "in row 'a'" in result.frame.loc["b", "error"]


@pytest.mark.parametrize("order", [[0, 1, 2, 3], [1, 0, 3, 2], [3, 2, 1, 0]])
def test_a_file_is_held_at_its_second_path_where_the_first_is_refused(stocked, open_cache, order) -> None:
    warehouse, table, contents = stocked
    one, two = table["wkf"].iloc[:2]
    frame = pd.DataFrame({"url": [one, one, two, one], "place": ["x.nwb", "y.nwb", "x.nwb", "z.nwb"]}).iloc[order]
    result = open_cache(frame, table=TableOptions(path_template="{place}")).mirror(frame)
    assert result.frame["status"].sort_index().tolist() == ["invalid", "downloaded", "invalid", "downloaded"]
    assert {Path(result.paths[row]).read_bytes() for row in (1, 3)} == {contents[one]}
    assert (warehouse.count("100"), warehouse.count()) == (1, 1)


def test_a_cache_says_that_it_cannot_be_pickled(stocked, open_cache) -> None:
    _, table, _ = stocked
    cache = open_cache(table)
    for _ in range(2):
        for way in (pickle.dumps, copy.copy, copy.deepcopy):
            with pytest.raises(TypeError, match="a cache cannot be pickled or copied; make one in each process"):
                way(cache)
        cache.mirror(table)


@pytest.mark.parametrize("version", [1, 0, 2.0, b"v1", "", ("v1",)])
def test_a_version_that_is_no_text_is_refused(stocked, open_cache, version) -> None:
    warehouse, table, _ = stocked
    cache = open_cache(table)
    told = re.escape(f"expected a version that can name a folder, such as 'v0', got {version!r}")
    for call in (cache.mirror, cache.plan, cache.prune):
        with pytest.raises(PlanError, match=told):
            call(table, version)
    with pytest.raises(PlanError, match=told):
        cache.get_file(table["wkf"].iloc[0], version)
    with pytest.raises(PlanError, match=told):
        MetadataCache(table, cache.cache_dir, file_version=version)
    assert warehouse.count() == 0


@pytest.mark.parametrize("how", ["set", "in place", "a row more", "another name"])
def test_one_file_is_held_as_its_row_states_by_now(stocked, open_cache, how) -> None:
    """The table is planned once for single files; notebooks go on working on it."""
    _, table, contents = stocked
    table["md5"] = [md5(content) for content in contents.values()]
    url = table["wkf"].iloc[7]
    cache = open_cache(table if how != "a row more" else table.head(7))
    cache.get_file(table["wkf"].iloc[0])
    changed = table.assign(md5="0" * 32)
    if how == "in place":
        cache.dataframe["md5"] = "0" * 32
    elif how == "set":
        cache.dataframe = changed
    elif how == "another name":
        cache.dataframe["md5"] = "0" * 32
        cache.dataframe.columns = ["name", "url", "md5"]
    else:
        cache.dataframe.loc[7] = changed.loc[7]
    with pytest.raises(FetchFailed, match="DigestMismatch"):
        cache.get_file(url)


def test_two_urls_of_one_name_in_two_calls_do_not_replace_each_other(warehouse, open_cache) -> None:
    one = warehouse.add("/a/1.nwb", hdf5_file(2100, seed=1))
    two = warehouse.add("/b/1.nwb", hdf5_file(2100, seed=2))
    cache = open_cache(pd.DataFrame({"url": []}))
    path = cache.get_file(one)
    with pytest.raises(FetchFailed, match="TargetBlocked: v0/1.nwb is held for another URL"):
        cache.get_file(two)
    assert path.read_bytes() == hdf5_file(2100, seed=1)
    assert cache.get_file(two, "v1").read_bytes() == hdf5_file(2100, seed=2)


async def test_one_url_wanted_at_two_paths_is_fetched_once(stocked, open_cache) -> None:
    warehouse, table, contents = stocked
    both = pd.concat([table.head(1).assign(folder="x"), table.head(1).assign(folder="y/z")], ignore_index=True)
    cache = open_cache(both, table=TableOptions(path_template="{folder}/{name}.nwb"))
    result = await cache.fetch_all(both)
    assert [Path(path).relative_to(cache.cache_dir.resolve()).as_posix() for path in result.paths] == [
        "v0/x/file 0.nwb",
        "v0/y/z/file 0.nwb",
    ]
    assert {Path(path).read_bytes() for path in result.paths} == {contents[table["wkf"].iloc[0]]}
    assert warehouse.count() == 1
    assert (await cache.fetch_all(both)).frame["status"].tolist() == ["cached"] * 2
    assert cache.verify("hash") == []


async def test_a_file_held_elsewhere_moves_no_bytes_when_names_change(stocked, open_cache) -> None:
    warehouse, table, contents = stocked
    await open_cache(table).fetch_all(table)
    warehouse.clear_log()
    renamed = open_cache(table, table=TableOptions(path_template="by-name/{name}.nwb"))
    result = await renamed.fetch_all(table)
    assert result.frame["status"].tolist() == ["cached"] * 8
    assert [Path(path).name for path in result.paths] == [f"file {at}.nwb" for at in range(8)]
    assert Path(result.paths.iloc[3]).read_bytes() == contents[table["wkf"].iloc[3]]
    assert warehouse.count() == 0


async def test_a_login_page_is_no_nwb_file(stocked, open_cache) -> None:
    warehouse, table, _ = stocked
    page = b"<!DOCTYPE html><html><head><title>Please log in</title></head></html>"
    warehouse.script("100", Reply(200, page))
    result = await open_cache(table).fetch_all(table.head(1))
    assert result.frame["error_type"].tolist() == ["ContentMismatch"]
    assert "HTML (title 'Please log in'); is a login needed?" in result.frame["error"].iloc[0]
    assert warehouse.count() == 1
    careless = open_cache(table, options=Options(transfer=TransferOptions(check_content=False)))
    assert Path((await careless.fetch_all(table.head(1))).paths.iloc[0]).read_bytes() == page


async def test_mirrors_take_over(warehouse, open_cache) -> None:
    good = warehouse.add("/good/1.nwb", hdf5_file(4000))
    bad = warehouse.url("/bad/1.nwb")
    table = pd.DataFrame({"url": [f"{bad} {good}", [bad, "http://127.0.0.1:1/1.nwb"]]}, index=["x", "y"])
    table = table.iloc[:1]
    result = await open_cache(table).fetch_all(table)
    assert result.frame[["status", "attempts"]].values.tolist() == [["downloaded", 2]]
    assert warehouse.count("/bad/1.nwb") == 1
    gone = pd.DataFrame({"url": [[bad, bad + "?2"]]})
    assert (await open_cache(gone, "other").fetch_all(gone)).frame["error_type"].tolist() == ["StatusError"]


async def test_transient_statuses_are_asked_again_and_permanent_ones_are_not(stocked, open_cache) -> None:
    warehouse, table, _ = stocked
    warehouse.script("100", Reply(503), Reply(500), then=Serve())
    warehouse.script("101", Reply(503))
    warehouse.script("102", Reply(404))
    result = await open_cache(table).fetch_all(table.head(3))
    assert result.frame["status"].tolist() == ["downloaded", "failed", "failed"]
    assert result.frame["attempts"].tolist() == [3, 5, 1]
    assert "after 5 attempts" in result.frame["error"].iloc[1]
    assert [warehouse.count(name) for name in ("100", "101", "102")] == [3, 5, 1]


async def test_retry_after_holds_the_host_and_the_budget_ends_it(stocked, open_cache) -> None:
    warehouse, table, _ = stocked
    warehouse.script("100", Reply(429, headers={"Retry-After": "1"}), then=Serve())
    options = Options(retry=RetryPolicy(base=0, cap=0), limits=Limits(connections=1))
    result = await open_cache(table, options=options).fetch_all(table.head(3))
    assert result.ok.all()
    times = [record.received_at for record in warehouse.requests()]
    assert times[1] - times[0] >= 1.0  # nothing at all was asked of this host meanwhile
    warehouse.script("104", Reply(503, headers={"Retry-After": "99999999999"}))
    failed = await open_cache(table, options=EAGER).fetch_all(table.iloc[[4]])
    assert "the server asks to wait 3,169 years; the budget is 600 s" in failed.frame["error"].iloc[0]
    assert warehouse.count("104") == 1


async def test_large_files_are_streamed(warehouse, open_cache) -> None:
    content = hdf5_file(9_000_001, seed=5)
    table = pd.DataFrame({"url": [warehouse.add("7", content), warehouse.add("8", content)]})
    warehouse.script("8", Serve(framing="chunked"))
    result = await open_cache(table).fetch_all(table)
    assert [Path(path).read_bytes() == content for path in result.paths] == [True, True]
    assert result.frame["verified"].tolist() == ["length", "none"]
    assert result.figures.bytes == 2 * len(content)


async def test_a_batch_that_cannot_fit_is_refused_before_the_first_request(stocked, open_cache) -> None:
    warehouse, table, _ = stocked
    table["size"] = 2**60
    with pytest.raises(DiskFull, match="expected room for") as failure:
        await open_cache(table).fetch_all(table)
    assert failure.value.result.frame["status"].tolist() == ["cancelled"] * 8
    assert warehouse.count() == 0


@pytest.mark.parametrize(
    ("place", "below"), [("c", ""), ("c", "/deeper"), ("c/.framefetch", ""), ("c/.framefetch/parts", "")]
)
def test_a_file_in_the_place_of_a_folder_of_the_cache_is_named_with_what_to_do(stocked, tmp_path, place, below) -> None:
    warehouse, table, _ = stocked
    (tmp_path / place).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / place).write_text("x")
    said = f"^a file stands at {tmp_path / place}, where a folder of the cache belongs; move it away, or choose another"
    with MetadataCache(table, f"{tmp_path}/c{below}") as cache, pytest.raises(StorageError, match=said) as caught:
        cache.mirror(table)
    assert caught.value.fatal
    assert warehouse.count() == 0
    assert (tmp_path / place).read_text() == "x"


def test_a_folder_in_the_place_of_the_manifest_is_named_with_what_to_do(stocked, tmp_path) -> None:
    warehouse, table, _ = stocked
    (tmp_path / "c" / "manifest.sqlite").mkdir(parents=True)
    said = f"^a folder stands at {tmp_path}/c/manifest.sqlite, where the manifest belongs; move it away, or choose"
    with MetadataCache(table, tmp_path / "c") as cache, pytest.raises(ManifestError, match=said):
        cache.mirror(table)
    assert warehouse.count() == 0


async def test_events_tell_the_story_and_a_broken_observer_stops_nothing(stocked, open_cache, caplog) -> None:
    _, table, _ = stocked
    events: list[object] = []

    def broken(event: object) -> None:
        raise RuntimeError("the screen is on fire")

    cache = open_cache(table, options=Options(observers=(broken, events.append)))
    assert (await cache.fetch_all(table)).ok.all()
    assert events[0] == RunStarted(rows=8, files=8, held=0, to_fetch=8, expected_bytes=None)
    assert isinstance(events[-1], RunFinished)
    assert sum(isinstance(event, FileFinished) for event in events) == 8
    assert [record.message.count("is no longer called") for record in caplog.records] == [1]


def test_update_manifest_has_the_prototypes_layout(stocked, open_cache) -> None:
    _, table, contents = stocked
    cache = open_cache(table)
    cache.mirror(table.head(1))
    url = table["wkf"].iloc[0]
    expected = {"v0": {url: {"file_path": "v0/100.nwb", "md5_checksum": md5(contents[url])}}}
    assert pd.read_json(cache.update_manifest(), typ="series").to_dict() == expected


TUNNEL = {"testwarehouse:9000": "localhost:8080"}


@pytest.fixture
def prototype(stocked, tmp_path) -> tuple[WarehouseThread, pd.DataFrame, Path]:
    """Give a folder that the prototype has filled through a tunnel, and the table."""
    warehouse, table, contents = stocked
    table["wkf"] = table["wkf"].str.replace(f"127.0.0.1:{warehouse.port}", "testwarehouse:9000")
    folder = tmp_path / "cache"
    (folder / "v0").mkdir(parents=True)
    entries = {}
    for url, content in contents.items():
        path = folder / "v0" / (url.rpartition("/")[2] + ".nwb")
        path.write_bytes(content)
        entries[url.replace(f"127.0.0.1:{warehouse.port}", "localhost:8080")] = {
            "file_path": str(path), "md5_checksum": md5(content),
        }  # fmt: skip
    (folder / "manifest.json").write_text(json.dumps({"v0": entries}))
    return warehouse, table, folder


def require_taken_over(prototype, open_cache) -> None:
    warehouse, table, _ = prototype
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        result = open_cache(table, host_map=TUNNEL).mirror(table)
    assert result.frame["status"].tolist() == ["cached"] * 8
    assert warehouse.count() == 0


def test_a_prototypes_cache_is_taken_over_without_a_request(prototype, open_cache) -> None:
    require_taken_over(prototype, open_cache)


def test_a_prototypes_manifest_is_imported_into_another_cache(prototype, open_cache) -> None:
    warehouse, table, folder = prototype
    cache = open_cache(table, folder="other", host_map=TUNNEL)
    report = cache.import_manifest(folder / "manifest.json")
    assert (report.imported, report.skipped) == (8, [])
    assert cache.mirror(table).frame["status"].tolist() == ["cached"] * 8
    assert warehouse.count() == 0


def test_a_cache_is_rebuilt_from_its_files_and_its_table(stocked, open_cache) -> None:
    _, table, contents = stocked
    cache = open_cache(table.assign(md5=[md5(content) for content in contents.values()]))
    result = cache.mirror(cache.dataframe)
    entries = cache._works.folder.manifest
    entries.forget(list(entries.entries()))
    entries.flush()
    Path(result.paths[0]).write_bytes(b"other")
    report = cache.rebuild()
    assert (report.held, report.adopted) == (7, 7)
    assert [finding.kind for finding in report.findings] == ["unknown"]
    assert cache.status().files == 7


def test_who_looks_at_a_manifest_that_is_lost_looks_at_the_new_one(stocked, open_cache) -> None:
    _, table, _ = stocked
    cache = open_cache(table)
    cache.mirror(table)
    seen: list[object] = []

    def look(folder: CacheFolder) -> int:
        seen.append(folder.manifest)
        if len(seen) == 1:
            raise ManifestLost("as a page of it says")
        return sum(1 for _ in folder.manifest.entries())

    assert cache._works.look(look) == 8
    assert seen[0] is not seen[1]


def test_what_can_be_no_version_does_no_harm_to_the_manifest(prototype, open_cache) -> None:
    _, table, folder = prototype
    layout = json.loads((folder / "manifest.json").read_text())
    layout = {"\ud800": {"http://h/z": {"file_path": "x", "md5_checksum": "0" * 32}}} | layout
    (folder / "manifest.json").write_text(json.dumps(layout))
    with pytest.warns(UserWarning, match="http://h/z: expected a version that can name a folder, such as 'v0', got"):
        assert open_cache(table, host_map=TUNNEL).mirror(table).frame["status"].tolist() == ["cached"] * 8
    again = open_cache(table, host_map=TUNNEL).import_manifest(folder / "manifest.json")
    assert (again.imported, [url for url, _ in again.skipped]) == (8, ["http://h/z"])


@pytest.mark.parametrize("command", ["status", "verify", "export"])
def test_who_only_looks_at_a_prototypes_cache_leaves_it_to_be_taken_over(prototype, open_cache, command) -> None:
    folder = prototype[2]
    words = [sys.executable, "-m", "framefetch", command, str(folder), *(["out.json"] if command == "export" else [])]
    done = subprocess.run(words, capture_output=True, text=True, check=False, cwd=folder.parent)
    assert done.returncode == 3
    assert "holds no manifest, but a prototype's manifest.json, which 'framefetch import" in done.stderr
    require_taken_over(prototype, open_cache)


def test_who_is_killed_while_taking_over_leaves_the_rest_to_the_next(prototype, open_cache, tmp_path) -> None:
    _, table, folder = prototype
    table.to_csv(tmp_path / "table.csv", index=False)
    killed = f"""
import os, signal
from framefetch import MetadataCache
from framefetch.store import exchange
from framefetch.store import writer as writer_module
from framefetch.store.writer import CommitWriter, Handed
exchange.COMMIT_ROWS = 1
read, real = [], exchange.hash_file
def hash_file(path, *rest):
    read.append(path)
    if len(read) == 5:
        cache._works._folder.manifest.flush()
        os.kill(os.getpid(), signal.SIGKILL)
    return real(path, *rest)
exchange.hash_file = hash_file
cache = MetadataCache({str(tmp_path / "table.csv")!r}, {str(folder)!r}, host_map={TUNNEL!r})
cache.mirror(cache.dataframe)
"""
    assert subprocess.run([sys.executable, "-c", killed], check=False).returncode == -signal.SIGKILL
    assert query(folder, "SELECT count(*) FROM entries") == [(4,)]
    assert (folder / ".framefetch" / "taking-over").exists()
    require_taken_over(prototype, open_cache)
    assert not (folder / ".framefetch" / "taking-over").exists()


def test_taking_over_ends_soon_when_it_is_stopped(prototype, open_cache, monkeypatch) -> None:
    _, table, _ = prototype
    cache = open_cache(table, host_map=TUNNEL)
    reading, read = threading.Event(), []
    real = exchange.hash_file

    def hash_file(path, algorithms, stopped):
        read.append(path)
        if len(read) == 3:
            reading.set()
            wait_until(stopped)  # a file of hours
        return real(path, algorithms, stopped)

    monkeypatch.setattr(exchange, "hash_file", hash_file)
    results = []
    caller = threading.Thread(target=lambda: results.append(cache.mirror(table)))
    caller.start()
    assert reading.wait(30)
    cache.close()
    caller.join(30)
    statuses = results[0].frame["status"].tolist()
    assert set(statuses) <= {"cached", "cancelled"}
    assert statuses.count("cancelled") >= 6
    monkeypatch.undo()
    require_taken_over(prototype, open_cache)


def test_a_manifest_json_of_something_else_is_named_once_and_left_alone(stocked, open_cache, tmp_path) -> None:
    _, table, _ = stocked
    other = tmp_path / "cache" / "manifest.json"
    other.parent.mkdir()
    other.write_text('{"name": "an app"}')
    with pytest.warns(UserWarning, match="not taken over: .*manifest.json is no manifest of the prototype"):
        assert open_cache(table).mirror(table).ok.all()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert open_cache(table).mirror(table).ok.all()
    assert other.read_text() == '{"name": "an app"}'


@pytest.mark.parametrize("how", ["a thread", "a task"])
def test_who_closes_a_cache_ends_what_is_under_way(stocked, open_cache, how) -> None:
    """A call that is under way has its result, with the rows that were not finished cancelled."""
    warehouse, table, _ = stocked
    warehouse.script("103", hold())
    cache = open_cache(table)

    async def in_a_task() -> FetchResult:
        async with cache:
            task = asyncio.create_task(cache.fetch_all(table))
            await asyncio.to_thread(warehouse.wait_for, "103")
        return await task

    if how == "a task":
        result = asyncio.run(in_a_task())
    else:
        results = []
        caller = threading.Thread(target=lambda: results.append(cache.mirror(table)))
        caller.start()
        warehouse.wait_for("103")
        cache.close()
        caller.join(30)
        (result,) = results
    assert result.frame["status"].iloc[3] == "cancelled"
    assert set(result.frame["status"]) <= {"cancelled", "downloaded"}
    warehouse.script("103", Serve())
    assert open_cache(table).mirror(table).ok.all()


def test_a_closed_cache_says_so_and_closing_twice_is_fine(stocked, open_cache) -> None:
    _, table, _ = stocked
    cache = open_cache(table)
    cache.mirror(table)
    cache.close()
    cache.close()
    with pytest.raises(RuntimeError, match="this cache is closed"):
        cache.mirror(table)


def open_files() -> list[str]:
    """Return what this process has open besides sockets (the warehouse's own are among those)."""
    if not os.path.isdir("/proc/self/fd"):
        return []
    found = []
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(FileNotFoundError):
            found.append(os.readlink(f"/proc/self/fd/{name}"))
    return sorted(target for target in found if not target.startswith("socket:") and "/fd" not in target)


def test_nothing_is_left_running_after_close(stocked, tmp_path) -> None:
    _, table, _ = stocked
    threads, files = {thread.ident for thread in threading.enumerate()}, open_files()
    with MetadataCache(table, tmp_path / "c") as cache:
        cache.mirror(table)
    assert {thread.ident for thread in threading.enumerate()} <= threads
    assert open_files() == files
    assert sorted(os.listdir(tmp_path / "c")) == [".framefetch", "manifest.sqlite", "v0"]
    assert os.listdir(tmp_path / "c" / ".framefetch" / "parts") == []


class TimeIsUp(Exception):
    """What a handler of a timer raises."""


def test_whatever_a_signal_handler_raises_ends_a_blocking_call(stocked, open_cache) -> None:
    warehouse, table, _ = stocked
    warehouse.script("103", hold())
    cache = open_cache(table)

    def ring(*_: object) -> None:
        raise TimeIsUp

    before = signal.signal(signal.SIGUSR1, ring)
    try:
        ringing = threading.Thread(target=lambda: (warehouse.wait_for("103"), os.kill(os.getpid(), signal.SIGUSR1)))
        ringing.start()
        with pytest.raises(TimeIsUp) as raised:
            cache.mirror(table)
        ringing.join()
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert raised.value.result.frame["status"].iloc[3] == "cancelled"
    warehouse.script("103", Serve())
    assert cache.mirror(table).ok.all(), "nothing of the first goes on behind it"


def test_all_files_or_an_error_also_where_the_call_was_ended(stocked, open_cache) -> None:
    warehouse, table, _ = stocked
    warehouse.script("103", hold())
    cache = open_cache(table)
    closing = threading.Thread(target=lambda: (warehouse.wait_for("103"), cache.close()))
    closing.start()
    with pytest.raises(FetchFailed, match="of 8 rows were cancelled") as failure:
        cache.get_all_files(table)
    closing.join()
    assert 3 in failure.value.frame.index


def test_to_look_makes_nothing(stocked, tmp_path) -> None:
    _, table, _ = stocked
    with MetadataCache(table, tmp_path / "far" / "cache") as cache:
        plan = cache.plan(table)
        assert (plan.summary()["to_fetch"], plan.summary()["held"]) == (8, 0)
        assert plan.free_space > 0
        assert cache.status().files == 0
    assert os.listdir(tmp_path) == []
    assert repr(plan).startswith("Plan(rows=8, files=8, to_fetch=8, unknown_sizes=8, free_space=")
    assert repr(cache) == f"MetadataCache(8 rows, {str(tmp_path / 'far' / 'cache')!r}, version 'v0')"


def test_values_that_cannot_be_told_apart_are_named(open_cache) -> None:
    cache = open_cache(pd.DataFrame([["u", ["a"], 1, 2]], columns=["url", "tags", "x", "x"]))
    with pytest.raises(PlanError, match="column 'tags': expected values that a set can hold, got list"):
        cache.get_all("tags")
    with pytest.raises(PlanError, match="the table has 2 columns named 'x'; expected one"):
        cache.get_all("x")
    assert cache.get_all("url") == {"u"}
    assert cache.get_all("y") is None


def test_a_plan_of_an_open_cache_whose_folder_went_away(stocked, tmp_path) -> None:
    _, table, _ = stocked
    with MetadataCache(table, tmp_path / "cache") as cache:
        cache.mirror(table.head(2))
        shutil.rmtree(tmp_path / "cache")
        assert cache.plan(table).free_space > 0


@pytest.mark.parametrize("there", [False, True], ids=["no folder", "a folder that is none"])
def test_what_looks_at_a_cache_makes_none(stocked, tmp_path, there) -> None:
    """A mistyped folder is no cache in which all is as recorded."""
    warehouse, table, _ = stocked
    place = tmp_path / "mistyped"
    if there:
        place.mkdir()
        (place / "thesis.txt").write_text("mine")
    before = sorted(tmp_path.rglob("*"))
    with MetadataCache(table, place) as cache:
        for call in (cache.verify, lambda: cache.verify("hash"), cache.rebuild, cache.update_manifest):
            with pytest.raises(StorageError, match=r"mistyped: no such cache; expected one into which .* were fetched"):
                call()
        with pytest.raises(StorageError, match="mistyped: no such cache"):
            cache.prune(table, dry_run=True)
        assert cache.status().files == 0
        for source in (tmp_path / "nowhere.json", __file__):
            with pytest.raises(ManifestError):
                cache.import_manifest(source)
        assert sorted(tmp_path.rglob("*")) == before
        cache.mirror(table)
        assert cache.verify() == []
    with pytest.raises(RuntimeError, match="this cache is closed"):
        cache.verify()
    assert warehouse.count() == 8


def test_files_without_a_manifest_can_be_rebuilt(stocked, tmp_path) -> None:
    _, table, contents = stocked
    table["md5"] = [md5(content) for content in contents.values()]
    (tmp_path / "cache" / "v0").mkdir(parents=True)
    (tmp_path / "cache" / "v0" / "100.nwb").write_bytes(contents[table["wkf"].iloc[0]])
    with MetadataCache(table, tmp_path / "cache") as cache:
        assert cache.rebuild().held == 1


def test_a_folder_is_the_one_that_is_meant(stocked, tmp_path, monkeypatch) -> None:
    _, table, _ = stocked
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    with MetadataCache(table, "~/data") as cache:
        assert cache.mirror(table).paths.iloc[0] == str(tmp_path / "home" / "data" / "v0" / "100.nwb")
    with pytest.raises(PlanError, match="expected a folder for the cache, got an empty name"):
        MetadataCache(table, "")


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
def test_a_home_is_meant_once_and_by_all(stocked, tmp_path, monkeypatch, suffix) -> None:
    """``~`` is the home; ``./~`` is a folder of that name, whatever is made of its path on the way."""
    _, table, contents = stocked
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "home").mkdir()
    (tmp_path / "~").mkdir()

    def write(rows: pd.DataFrame, path: Path) -> None:
        if suffix == ".csv":
            rows.to_csv(path, index=False)
        elif suffix == ".jsonl":
            rows.to_json(path, orient="records", lines=True)
        else:
            rows.to_parquet(path)

    write(table.head(2), tmp_path / "home" / f"t{suffix}")
    write(table, tmp_path / "~" / f"t{suffix}")
    for place, rows in (("~", 2), ("./~", 8)):
        for wrap in (str, Path) if place == "~" else (str,):
            with MetadataCache(wrap(f"{place}/t{suffix}"), wrap(f"{place}/cache")) as cache:
                assert len(cache.dataframe) == rows
                found = cache.get_file(table["wkf"].iloc[0])
                assert found.is_relative_to(tmp_path / place[-1] if rows == 8 else tmp_path / "home")
    with MetadataCache(table, "./~") as cache:
        assert cache.get_file(table["wkf"].iloc[1]) == tmp_path / "~" / "v0" / "101.nwb"
    stated = {"v0": {table["wkf"].iloc[2]: {"file_path": "102", "md5_checksum": md5(contents[table["wkf"].iloc[2]])}}}
    (tmp_path / "home" / "m.json").write_text(json.dumps(stated))
    (tmp_path / "home" / "102").write_bytes(contents[table["wkf"].iloc[2]])
    with MetadataCache(table, "cache") as cache:
        assert cache.import_manifest("~/m.json").imported == 1


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Options(limits=8), "limits: expected Limits, got int"),
        (lambda: Options(observers=print), "observers: expected callables in a tuple, got <built-in function print>"),
        (lambda: Options(observers=(7,)), "observers: expected callables in a tuple"),
        (lambda: Options(headers=None), "headers: expected a mapping, got NoneType"),
        (lambda: Options(lock_timeout="5"), "lock_timeout must be 0 seconds or more"),
        (lambda: Limits(bandwidth="50M"), "bandwidth: expected a number of bytes a second above 0, got '50M'"),
        (lambda: Timeouts(stall=None), r"Timeouts\.stall: expected more than 0 seconds, got None"),
        (lambda: Timeouts(connect=0), r"Timeouts\.connect: expected more than 0 seconds, got 0"),
        (lambda: Timeouts(speed_window=float("nan")), r"Timeouts\.speed_window: expected .*, got nan"),
        (lambda: RetryPolicy(cap="x"), r"RetryPolicy\.cap: expected 0 seconds or more, got 'x'"),
        (lambda: RetryPolicy(budget=-1), r"RetryPolicy\.budget: expected 0 seconds or more, got -1"),
        (lambda: Limits(per_host=2.5), "per_host must be a whole number of at least 1, got 2.5"),
        (lambda: Limits(connections=True), "connections must be a whole number"),
        (lambda: RetryPolicy(attempts="5"), "attempts must be a whole number"),
        *(
            (lambda suffix=suffix: TableOptions(suffix=suffix), "suffix: expected the end of a name such as '.nwb'")
            for suffix in ("/x", "\\x", "a/b", "x\0", ".n\n")
        ),
        (lambda: MetadataCache(pd.DataFrame(), "a\0b"), r"cache_dir: expected a path, got one .*: 'a\\x00b'"),
        (lambda: TransferOptions(max_bytes=-1), "max_bytes must be a whole number"),
        (
            lambda: MetadataCache(pd.DataFrame(), "c", table={"suffix": ""}),
            r"table: expected TableOptions\(.*, got dict",
        ),
        (lambda: MetadataCache(pd.DataFrame(), "c", options=Limits()), r"options: expected Options\(...\), got Limits"),
        (lambda: MetadataCache(pd.DataFrame(), "c", host_map={"a": "b:c"}), "host_map: expected hosts such as"),
        (lambda: MetadataCache(pd.DataFrame(), "c").mirror(pd.Series(["x"])), "expected a DataFrame, got Series"),
        (lambda: MetadataCache(pd.DataFrame(), "c").plan(pd.DataFrame({"URL": ["x"]})), "is it url_column='URL'?"),
    ],
)
def test_what_is_of_the_wrong_kind_is_refused_where_it_is_said(make, message, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(PlanError, match=message):
        make()


def test_numbers_of_numpy_and_lists_of_observers_are_fine() -> None:
    made = [
        Limits(per_host=np.int64(8)).per_host,
        Limits(connections=4.0).connections,
        TransferOptions(max_bytes=2e9).max_bytes,
    ]
    assert (made, set(map(type, made))) == ([8, 4, 2_000_000_000], {int})
    assert Options(observers=[print]).observers == (print,)


def test_options_go_to_other_processes() -> None:
    assert pickle.loads(pickle.dumps(Options())) == Options()


def test_a_forked_child_that_ends_says_nothing(stocked, tmp_path) -> None:
    _, table, _ = stocked
    table.to_csv(tmp_path / "table.csv", index=False)
    script = f"""
import gc, os
from framefetch import MetadataCache
cache = MetadataCache({str(tmp_path / "table.csv")!r}, {str(tmp_path / "cache")!r})
cache.mirror(cache.dataframe)
child = os.fork()
if child == 0:
    try:
        cache.status()
        cache.mirror(cache.dataframe)
    except RuntimeError as error:
        print(error, flush=True)
    del cache
    gc.collect()
    os._exit(0)  # as multiprocessing's children end; libuv's own end of a forked child's threads is none
assert os.waitpid(child, 0)[1] == 0
print(cache.mirror(cache.dataframe).ok.all())
"""
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", script], capture_output=True, text=True, check=False)
    assert done.stdout == "this cache was opened before a fork; open a new one in each process\nTrue\n"
    assert done.stderr == ""


def test_a_folder_whose_name_is_no_text(stocked, tmp_path) -> None:
    _, table, contents = stocked
    folder = os.fsdecode(os.fsencode(tmp_path) + b"/M\xfcller")
    with MetadataCache(table, folder) as cache:
        result = cache.mirror(table)
        assert [Path(path).read_bytes() for path in result.frame["path"]] == list(contents.values())
        assert result.paths.tolist() == result.frame["path"].tolist()
        result.raise_for_failures()


def test_many_threads_ask_for_single_files_of_a_table_that_nobody_has_planned(stocked, open_cache) -> None:
    """Whoever comes while it is being planned waits: without the table a wrong file would be a good one."""
    warehouse, table, _ = stocked
    more = pd.DataFrame({"name": "x", "wkf": [warehouse.url(f"none{at}") for at in range(20_000)]})
    table = pd.concat([table, more], ignore_index=True).assign(md5="0" * 32)
    cache = open_cache(table)
    with ThreadPoolExecutor(8) as threads:
        calls = [threads.submit(cache.get_file, url) for url in table["wkf"][:8]]
    assert all("DigestMismatch" in str(call.exception()) for call in calls)


def test_a_second_url_of_a_file_is_planned_once_too(stocked, open_cache, monkeypatch) -> None:
    _, table, contents = stocked
    first = table["wkf"].iloc[0]
    second = f"{first}?signed=anew"
    cache = open_cache(pd.DataFrame({"url": [first, second], "id": ["7", "7"]}), table=TableOptions(key_column="id"))
    planned = []
    real = cache._finder._plan

    def plan(frame: pd.DataFrame) -> object:
        planned.append(len(frame))
        return real(frame)

    cache._finder._plan = plan
    for _ in range(3):
        assert cache.get_file(second).read_bytes() == contents[first]
    assert planned.count(2) == 1


def test_a_cache_that_is_dropped_is_closed_at_once(stocked, tmp_path) -> None:
    """A cell that is run again drops the cache it has made before; nobody waits for the collector."""
    _, table, _ = stocked
    before = {thread.ident for thread in threading.enumerate()}
    gc.disable()
    try:
        cache = MetadataCache(table, tmp_path / "c")
        cache.get_file(table["wkf"].iloc[0])
        del cache
        assert {thread.ident for thread in threading.enumerate()} <= before
        assert os.listdir(tmp_path / "c" / ".framefetch" / "parts") == []
    finally:
        gc.enable()


def test_a_cache_made_before_a_fork_and_used_behind_it_is_closed_there(stocked, tmp_path) -> None:
    _, table, _ = stocked
    table.to_csv(tmp_path / "table.csv", index=False)
    script = f"""
import os, threading
from framefetch import MetadataCache
cache = MetadataCache({str(tmp_path / "table.csv")!r}, {str(tmp_path / "cache")!r})
child = os.fork()
if child == 0:
    with cache:
        cache.get_file(cache.dataframe["wkf"][0])
    names = [thread.name for thread in threading.enumerate() if thread.name.startswith("framefetch")]
    print(names, os.listdir({str(tmp_path / "cache" / ".framefetch" / "parts")!r}), flush=True)
    os._exit(0)
os.waitpid(child, 0)
"""
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", script], capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("[] []\n", "")


def test_an_observer_cannot_close_and_spoils_no_later_close(stocked, tmp_path) -> None:
    _, table, _ = stocked
    refused = []

    def observe(event: object) -> None:
        if isinstance(event, FileFinished):
            with pytest.raises(RuntimeError, match="from its own observers"):
                cache.close()
            refused.append(event)

    cache = MetadataCache(table, tmp_path / "c", options=Options(observers=(observe,)))
    cache.mirror(table)
    assert len(refused) == 8
    cache.close()
    with pytest.raises(RuntimeError, match="this cache is closed"):
        cache.mirror(table)


def test_a_call_that_is_closed_while_it_is_planned_has_its_rows(stocked, open_cache, monkeypatch) -> None:
    warehouse, table, _ = stocked
    cache = open_cache(table)
    planning, go_on = threading.Event(), threading.Event()
    real = cache_module.plan_rows

    def plan(*arguments: object) -> object:
        planning.set()
        go_on.wait(30)
        return real(*arguments)

    monkeypatch.setattr(cache_module, "plan_rows", plan)
    results = []
    caller = threading.Thread(target=lambda: results.append(cache.mirror(table)))
    caller.start()
    assert planning.wait(30)
    closing = threading.Thread(target=cache.close)
    closing.start()
    wait_until(lambda: cache._works.is_closed)
    go_on.set()
    caller.join(30)
    closing.join(30)
    assert results[0].frame["status"].tolist() == ["cancelled"] * 8
    assert warehouse.count() == 0


def test_what_was_copied_there_is_planned_as_held_where_a_digest_says_so(stocked, open_cache) -> None:
    _, table, contents = stocked
    table["md5"] = [md5(content) for content in contents.values()]
    cache = open_cache(table)
    target = cache.cache_dir / "v0" / "100.nwb"
    target.parent.mkdir(parents=True)
    target.write_bytes(contents[table["wkf"].iloc[0]])
    assert cache.plan(table).summary()["held"] == 1
    assert cache.mirror(table).summary()["requests"] == 7


async def test_calls_one_after_the_other_leave_no_timer_behind(stocked, open_cache) -> None:
    _, table, _ = stocked
    cache = open_cache(table)
    await cache.fetch_all(table)
    loop = asyncio.get_running_loop()
    timers = []
    real = loop.call_later

    def call_later(*arguments: object) -> asyncio.TimerHandle:
        timers.append(real(*arguments))
        return timers[-1]

    loop.call_later = call_later
    try:
        for _ in range(50):
            await cache.fetch(table["wkf"].iloc[0])
        await asyncio.gather(*(cache.fetch(url) for url in table["wkf"]))
    finally:
        del loop.call_later
    assert len(timers) >= 51
    assert not [timer for timer in timers if not timer.cancelled()]


def test_a_child_of_who_has_opened_a_folder_leaves_it_alone(stocked, tmp_path) -> None:
    """Also its journal and its lock, which say that the parent lives; and nothing waits for threads that are away."""
    _, table, _ = stocked
    table.to_csv(tmp_path / "table.csv", index=False)
    folder = tmp_path / "cache"
    script = f"""
import os
from framefetch import MetadataCache
MetadataCache({str(tmp_path / "table.csv")!r}, {str(folder)!r}).get_file({table["wkf"].iloc[0]!r})
cache = MetadataCache({str(tmp_path / "table.csv")!r}, {str(folder)!r})
cache.verify()
parts = {str(folder / ".framefetch" / "parts")!r}
before = os.listdir(parts)
child = os.fork()
if child == 0:
    try:
        cache.mirror(cache.dataframe)
    except RuntimeError as error:
        print(error, flush=True)
    cache.close()
    os._exit(0)
os.waitpid(child, 0)
print(len(before), os.listdir(parts) == before, cache.mirror(cache.dataframe).ok.all())
"""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", script], capture_output=True, text=True, check=False, timeout=60
    )
    told = "this cache was opened before a fork; open a new one in each process\n1 True True\n"
    assert (done.stdout, done.stderr) == (told, "")


def test_what_may_be_infinite_may_be(tmp_path) -> None:
    inf = float("inf")
    Options(timeouts=Timeouts(stall=inf, speed_window=inf), retry=RetryPolicy(budget=inf, cap=inf), lock_timeout=inf)
    suffixes = {"_raw": "_raw", "-raw.nwb": "-raw.nwb", "h5": ".h5", "tar.gz": ".tar.gz", ".nwb": ".nwb", "": ""}
    assert {given: TableOptions(suffix=given).suffix for given in suffixes} == suffixes
    with pytest.raises(PlanError, match="attempts must be a whole number"):
        RetryPolicy(attempts=inf)


@pytest.mark.parametrize("clock", ["right", "set back meanwhile"])
def test_who_was_stopped_before_it_could_record_a_file_records_no_other(
    stocked, open_cache, monkeypatch, clock: str
) -> None:
    """A neighbour waits the lock timeout for a stopped process, and fetches what it had; then that goes on."""
    _, table, _ = stocked
    hasty = replace(EAGER, lock_timeout=LOCK_SECONDS)
    one, other = open_cache(table, options=hasty), open_cache(table.head(3))
    stopped, go_on = threading.Event(), threading.Event()
    real = CommitWriter._transact

    def transact(writer: CommitWriter, batch: list[Handed]) -> int:
        if writer is one._works.folder.manifest._writer and batch:
            stopped.set()
            go_on.wait(30)
        return real(writer, batch)

    monkeypatch.setattr(CommitWriter, "_transact", transact)
    results = []
    caller = threading.Thread(target=lambda: results.append(one.mirror(table)))
    caller.start()
    assert stopped.wait(30)
    paths = [one.cache_dir / "v0" / f"{at}.nwb" for at in range(100, 108)]
    wait_until(lambda: all(path.exists() for path in paths))
    for path in paths[:3]:  # as a neighbour does
        path.with_suffix(".new").write_bytes(b"another version")
        path.with_suffix(".new").replace(path)
    until = time.monotonic() + LOCK_SECONDS
    wait_until(lambda: time.monotonic() > until)
    if clock != "right":
        real_time = time.time
        monkeypatch.setattr(time, "time", lambda: real_time() - 3600)
    go_on.set()
    caller.join(30)
    frame = results[0].frame
    assert frame["status"].tolist() == ["failed"] * 3 + ["downloaded"] * 5
    assert "v0/100.nwb was replaced by another process before it was recorded" in frame["error"].iloc[0]
    assert {finding.kind for finding in other.verify("hash")} == {"unknown"}
    assert other.status().files == 5


def test_a_file_in_the_place_of_the_versions_folder_ends_all_before_the_first_request(stocked, open_cache, tmp_path):
    warehouse, frame, _ = stocked
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "v0").write_text("x")
    cache = open_cache(frame)
    said = r"a file stands at .*/cache/v0, where the folder of version 'v0' belongs; move it away"
    with pytest.raises(StorageError, match=said) as caught:
        cache.mirror(frame)
    assert caught.value.fatal
    assert set(caught.value.result.frame["status"]) == {"cancelled"}
    with pytest.raises(StorageError, match=said):
        cache.plan(frame)
    assert warehouse.count() == 0
    assert (tmp_path / "cache" / "v0").read_text() == "x"
    (tmp_path / "cache" / "v0").unlink()
    assert cache.mirror(frame).ok.all()


@pytest.mark.parametrize("held_before", [slice(0, 0), slice(2, 8), slice(0, 8)])
def test_a_file_in_the_place_of_a_deeper_folder_fails_its_rows_without_a_request(
    stocked, open_cache, tmp_path, held_before
) -> None:
    warehouse, frame, _ = stocked
    frame = frame.assign(folder=["a/b", "a/b", "c", "c", "c", "d", "d", "d"])
    table = TableOptions(path_template="{folder}/{name}.nwb")
    place = tmp_path / "cache" / "v0" / "a"
    open_cache(frame, table=table).mirror(frame[held_before])
    warehouse.clear_log()
    shutil.rmtree(place, ignore_errors=True)
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_text("x")
    cache = open_cache(frame, table=table)
    assert (
        cache.plan(frame).frame["status"].tolist() == ["failed"] * 2 + ["held" if held_before.stop else "to_fetch"] * 6
    )
    result = cache.mirror(frame)
    assert result.frame["status"].tolist() == ["failed"] * 2 + ["cached" if held_before.stop else "downloaded"] * 6
    assert set(result.failed["error_type"]) == {"UnsafePath"}
    assert result.failed["error"].str.contains("a file stands at v0/a, where a folder .* move it away").all()
    assert warehouse.count() == (0 if held_before.stop else 6)
    assert place.read_text() == "x"


def test_the_rows_of_a_host_that_is_down_fail_together_and_each_is_told_of(stocked, open_cache) -> None:
    warehouse, table, _ = stocked
    dead = f"http://127.0.0.1:{free_port()}"
    rows = [f"{dead}/dead{at}.nwb" for at in range(3000)]
    mirrored = [f"{dead}/{name} {url}" for name, url in zip(range(100, 104), table["wkf"], strict=False)]
    rows = pd.DataFrame({"wkf": [*rows[:1500], *mirrored, *rows[1500:], *table["wkf"][4:]]})
    told: list[int] = []

    def observe(event: object) -> None:
        if isinstance(event, FileFinished):
            told.append(event.outcome.request.index)

    cache = open_cache(rows, options=replace(EAGER, retry=RetryPolicy(attempts=1), observers=(observe,)))
    frame = cache.mirror(rows).frame
    there = [*range(1500, 1504), *range(3004, 3008)]
    assert (frame["status"] == "downloaded").to_numpy().nonzero()[0].tolist() == there
    failed = frame.drop(there)
    assert set(failed["status"]) == {"failed"}
    assert set(failed["error_type"]) == {"ConnectFailed"}
    shared = failed["error"].value_counts()
    assert "the host is given up after" in shared.index[0]
    assert shared.iloc[0] >= 3000 - 16, "all but those that were under way when it was found out"
    assert sorted(told) == list(range(3008))
    assert sorted(record.target for record in warehouse.requests()) == sorted(
        url.removeprefix(warehouse.base_url) for url in table["wkf"]
    )
