"""Calls of one cache that overlap or are stopped: nobody is told what is true only for somebody else, or not at all."""

import asyncio
import hashlib
import json
import queue
import threading
from pathlib import Path

import pandas as pd
import pytest

from framefetch import Limits, MetadataCache, Options, TableOptions
from framefetch import run as run_module
from framefetch.claims import Claims
from framefetch.events import FileFinished
from framefetch.portal import Portal
from framefetch.run import Run
from framefetch.store.files import FileStore
from framefetch.store.folder import CacheFolder
from framefetch.store.neighbours import Neighbours
from framefetch.store.places import Places
from framefetch.warehouse import Reply, Serve, WarehouseThread, hold

BODY = b"the bytes of a file"
MD5, SHA256 = hashlib.md5(BODY).hexdigest(), hashlib.sha256(BODY).hexdigest()
WRONG = "0" * 32


@pytest.fixture
def claimed(monkeypatch: pytest.MonkeyPatch) -> "queue.Queue[int]":
    """Tell each time that a call has claimed files, of how many another one is told."""
    told: queue.Queue[int] = queue.Queue()
    real = Claims.claim

    def claim(self: Claims, files: list[tuple[str, str, str]]) -> dict[int, asyncio.Future[object]]:
        others = real(self, files)
        told.put(len(others))
        return others

    monkeypatch.setattr(Claims, "claim", claim)
    return told


@pytest.mark.parametrize(
    ("first", "second", "outcomes", "requests"),
    [
        ({}, {"md5": WRONG}, [("downloaded", "length"), ("failed", None)], 3),
        ({}, {"size": 4}, [("downloaded", "length"), ("failed", None)], 2),
        ({}, {"sha256": SHA256}, [("downloaded", "length"), ("cached", "digest")], 1),
        ({"md5": WRONG}, {}, [("failed", None), ("downloaded", "length")], 3),
        ({"md5": WRONG}, {"md5": MD5}, [("failed", None), ("downloaded", "digest")], 3),
        ({"md5": MD5}, {}, [("downloaded", "digest"), ("cached", "digest")], 1),
        ({"md5": MD5}, {"md5": MD5}, [("downloaded", "digest"), ("cached", "digest")], 1),
    ],
)
async def test_each_of_two_calls_gets_what_its_own_table_states(
    first, second, outcomes, requests, warehouse: WarehouseThread, tmp_path: Path, claimed
) -> None:
    url = warehouse.add("/1.bin", BODY)
    warehouse.script("/1.bin", hold(), then=Serve())
    tables = [pd.DataFrame([{"url": url, **stated}]) for stated in (first, second)]
    async with MetadataCache(tables[0], tmp_path / "cache") as cache:
        calls = []
        for table, others in zip(tables, (0, 1), strict=True):
            calls.append(asyncio.create_task(cache.fetch_all(table)))
            assert await asyncio.to_thread(claimed.get, timeout=30) == others
        await asyncio.to_thread(warehouse.wait_for, "/1.bin")
        warehouse.release("/1.bin")
        frames = [(await call).frame for call in calls]
    got = [(frame["status"].iloc[0], frame["verified"].iloc[0]) for frame in frames]
    assert [(status, None if pd.isna(level) else level) for status, level in got] == outcomes
    assert warehouse.count() == requests


async def test_a_failure_is_not_shared_with_who_knows_another_mirror(
    warehouse: WarehouseThread, tmp_path: Path, claimed
) -> None:
    url, mirror = warehouse.add("/1.bin", BODY), warehouse.add("/mirror/1.bin", BODY)
    warehouse.script("/1.bin", hold(Reply(404)), then=Reply(404))
    tables = [pd.DataFrame({"url": [cell]}) for cell in (url, f"{url} {mirror}")]
    async with MetadataCache(tables[0], tmp_path / "cache") as cache:
        calls = []
        for table in tables:
            calls.append(asyncio.create_task(cache.fetch_all(table)))
            await asyncio.to_thread(claimed.get, timeout=30)
        await asyncio.to_thread(warehouse.wait_for, "/1.bin")
        warehouse.release("/1.bin")
        assert [(await call).frame["status"].iloc[0] for call in calls] == ["failed", "downloaded"]


async def test_one_url_at_two_paths_is_asked_for_once_by_calls_that_overlap(
    warehouse: WarehouseThread, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second has looked while nothing was there, and its turn comes when the first has fetched all."""
    urls = [warehouse.add(f"/{at}.bin", BODY + b"%d" % at) for at in range(3)]
    looked, goes = threading.Event(), threading.Event()
    tables = [pd.DataFrame({"url": urls, "p": [f"{place}/{at}.bin" for at in range(3)]}) for place in "ab"]
    real = Run._require_room

    def require_room(run: Run, to_fetch: object) -> None:
        if run.rows.requests.path(0).startswith("v0/b/"):
            looked.set()
            assert goes.wait(30)
        real(run, to_fetch)

    monkeypatch.setattr(Run, "_require_room", require_room)
    async with MetadataCache(tables[0], tmp_path / "cache", table=TableOptions(path_template="{p}")) as cache:
        second = asyncio.create_task(cache.fetch_all(tables[1]))
        assert await asyncio.to_thread(looked.wait, 30)
        assert (await cache.fetch_all(tables[0])).frame["status"].tolist() == ["downloaded"] * 3
        goes.set()
        result = await second
    assert result.frame["status"].tolist() == ["cached"] * 3
    assert [Path(path).read_bytes() for path in result.frame["path"]] == [BODY + b"%d" % at for at in range(3)]
    assert warehouse.count() == 3


async def test_a_copy_that_was_not_made_because_of_a_stop_is_not_held(
    warehouse: WarehouseThread, tmp_path: Path
) -> None:
    urls = [warehouse.add("/1.bin", BODY), warehouse.add("/slow.bin", BODY)]
    warehouse.script("/slow.bin", hold())
    finished = asyncio.Event()
    loop = asyncio.get_running_loop()

    def observe(event: object) -> None:
        if isinstance(event, FileFinished):
            loop.call_soon_threadsafe(finished.set)

    table = pd.DataFrame({"url": [urls[0], urls[0], urls[1]], "p": ["a/1.bin", "b/1.bin", "a/slow.bin"]})
    cache = MetadataCache(
        table, tmp_path / "cache", table=TableOptions(path_template="{p}"), options=Options(observers=(observe,))
    )
    call = asyncio.create_task(cache.fetch_all(table))
    await asyncio.wait_for(finished.wait(), 30)
    await asyncio.to_thread(cache.close)
    result = await call
    warehouse.release("/slow.bin")
    assert result.frame["status"].tolist() == ["downloaded", "cancelled", "cancelled"]
    assert [Path(path).exists() for path in result.frame["path"].dropna()] == [True]


async def test_what_a_look_has_copied_is_recorded_though_the_call_is_stopped(
    warehouse: WarehouseThread, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    urls = [warehouse.add(f"/{at}.bin", BODY + b"%d" % at) for at in range(6)]
    table = pd.DataFrame({"url": urls, "p": [f"a/{at}.bin" for at in range(6)]})
    copied, stopped = threading.Event(), threading.Event()
    real_copy, real_stop = FileStore.copy, Run.stop

    def copy(*arguments: object) -> object:
        receipt = real_copy(*arguments)
        copied.set()
        assert stopped.wait(30)
        return receipt

    def stop(run: Run) -> None:
        real_stop(run)
        stopped.set()

    async with MetadataCache(table, tmp_path / "cache", table=TableOptions(path_template="{p}")) as cache:
        await cache.fetch_all(table)
        monkeypatch.setattr(FileStore, "copy", copy)
        monkeypatch.setattr(Run, "stop", stop)
        call = asyncio.create_task(cache.fetch_all(table.assign(p=[f"b/{at}.bin" for at in range(6)])))
        assert await asyncio.to_thread(copied.wait, 30)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
    there = sorted(path.relative_to(tmp_path / "cache").as_posix() for path in (tmp_path / "cache").glob("v0/*/*"))
    assert len(there) > 6
    with CacheFolder(tmp_path / "cache") as folder:
        assert sorted(entry.path for entry in folder.manifest.entries()) == there


class SlowDisk:
    """A disk on which no file gets its name before `goes`, and what a cache does meanwhile."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.moving, self.goes, self.ending = threading.Event(), threading.Event(), threading.Event()
        self.goes_at_end: list[bool] = []
        self.taken: list[int] = []
        self.moved: set[str] = set()
        patch.setattr(run_module, "STOP_SECONDS", 0.05)
        move, settle, close = Places.move_all_in, Claims.settle, Portal.close
        end, take, ended = Neighbours.end, Neighbours.take, []

        def move_all_in(places: Places, parts: list[tuple[str, str, object, object]]) -> object:
            self.moved.update(path for _, path, _, _ in parts)
            self.moving.set()
            assert self.goes.wait(30)
            return move(places, parts)

        async def settled(claims: Claims) -> None:
            self.ending.set()
            await settle(claims)

        def closed(portal: Portal) -> None:
            self.goes_at_end.append(self.goes.is_set())
            self.ending.set()
            close(portal)

        def ends(neighbours: Neighbours) -> None:
            ended.append(neighbours)
            end(neighbours)

        def takes(neighbours: Neighbours, file: int) -> bool | None:
            self.taken += [file] if neighbours in ended else []
            return take(neighbours, file)

        patch.setattr(Places, "move_all_in", move_all_in)
        patch.setattr(Claims, "settle", settled)
        patch.setattr(Portal, "close", closed)
        patch.setattr(Neighbours, "end", ends)
        patch.setattr(Neighbours, "take", takes)


@pytest.mark.parametrize(("files", "most"), [(1, 256), (300, 256), (2000, 4)])
def test_what_a_slow_disk_ends_after_the_call_is_recorded_before_the_cache_is_closed(
    files: int, most: int, warehouse: WarehouseThread, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd
) -> None:
    disk = SlowDisk(monkeypatch)
    table = pd.DataFrame({"url": [warehouse.add(f"/{at}.bin", BODY + b"%d" % at) for at in range(files)]})
    options = Options(limits=Limits(connections=most))
    cache, results = MetadataCache(table, tmp_path / "cache", options=options), []
    caller = threading.Thread(target=lambda: results.append(cache.mirror(table)))
    caller.start()
    assert disk.moving.wait(30)
    closer = threading.Thread(target=cache.close)
    closer.start()
    caller.join(30)
    assert disk.ending.wait(30)
    (journal,) = (tmp_path / "cache" / ".framefetch" / "parts").glob("*.journal")
    moved = set(disk.moved)
    explained = {json.loads(line)[2] for line in journal.read_text().splitlines()}
    assert moved <= explained, "what is about to be published is explained, should this process die"
    disk.goes.set()
    closer.join(30)
    assert not closer.is_alive()
    assert disk.goes_at_end == [True], "the loop does not end before what it is told of"
    assert disk.taken == [], "no file is begun that nobody locks any more"
    assert not [thread.name for thread in threading.enumerate() if thread.name.startswith("framefetch")]
    there = len(list((tmp_path / "cache").glob("v0/*")))
    assert there >= results[0].ok.sum()
    assert there > 0
    asked = warehouse.count()
    with MetadataCache(table, tmp_path / "cache") as again:
        assert again.status().files == there
        assert again.mirror(table).ok.all()
    assert warehouse.count() == asked + files - there
    assert capfd.readouterr().err == ""
