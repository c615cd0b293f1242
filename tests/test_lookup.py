"""What is missing for sure is fetched while the look at everything else goes on."""

import asyncio
import gc
import hashlib
import os
import threading
from collections.abc import Callable
from dataclasses import replace
from itertools import chain
from pathlib import Path

import pandas as pd
import pytest

from framefetch import ManifestError, MetadataCache, Options, TableOptions
from framefetch import lookup as module
from framefetch.events import BytesReceived, FileFinished, RunFinished, RunStarted
from framefetch.lookup import LookUp
from framefetch.store.files import FileStore
from framefetch.store.manifest import Manifest
from framefetch.warehouse import Reply, Serve, Stop, WarehouseThread, hold
from tests.conftest import EAGER

FILES = 60
#: Removed behind the manifest's back, so at their places nothing stands; and changed, which only the look can tell.
GONE = [7, 30, 59]
CHANGED = [3, 31]
BODIES = [bytes([at]) * (1000 + at) for at in range(FILES)]


@pytest.fixture(autouse=True)
def _few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "FEW", 8)


@pytest.fixture
def rows(warehouse: WarehouseThread) -> pd.DataFrame:
    for at, body in enumerate(BODIES):
        warehouse.add(f"/{at:02}.bin", body)
    return pd.DataFrame({"url": [warehouse.url(f"/{at:02}.bin") for at in range(FILES)]})


@pytest.fixture
def spoilt(rows: pd.DataFrame, warehouse: WarehouseThread, tmp_path: Path) -> Path:
    """Return a cache that held everything before some files were removed and some changed."""
    folder = tmp_path / "cache"
    with MetadataCache(rows, folder, options=EAGER) as cache:
        assert cache.mirror(rows).ok.all()
    for at in GONE:
        (folder / f"v0/{at:02}.bin").unlink()
    for at in CHANGED:
        (folder / f"v0/{at:02}.bin").write_bytes(b"edited")
    warehouse.clear_log()
    return folder


@pytest.fixture
def second_look(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[], None]], None]:
    """Give a function that lets something happen before the look at the other files."""
    look = LookUp.look

    def before(act: Callable[[], None]) -> None:
        looks: list[int] = []

        def delayed(self: LookUp, used: object) -> list[int]:
            looks.append(len(used))
            if len(looks) == 2:
                act()
            return look(self, used)

        monkeypatch.setattr(LookUp, "look", delayed)

    return before


def asked(warehouse: WarehouseThread) -> list[str]:
    return [record.target for record in warehouse.requests()]


def names(*files: list[int]) -> list[str]:
    return [f"/{at:02}.bin" for at in sorted(chain(*files))]


def test_files_that_are_missing_are_asked_for_before_the_others_are_looked_at(
    rows, spoilt, warehouse, second_look
) -> None:
    seen: list[str] = []

    def wait_for_requests() -> None:
        for name in names(GONE):
            warehouse.wait_for(name)
        seen.extend(asked(warehouse))

    second_look(wait_for_requests)
    with MetadataCache(rows, spoilt, options=EAGER) as cache, pytest.warns(UserWarning, match="checksum changed"):
        frame = cache.mirror(rows).frame
    assert sorted(seen) == names(GONE)
    assert sorted(asked(warehouse)) == names(GONE, CHANGED)
    fetched = frame.index[frame["status"] == "downloaded"].tolist()
    assert fetched == sorted(GONE + CHANGED)
    assert (frame["status"] == "cached").sum() == FILES - len(fetched)
    assert frame["md5"].tolist() == [hashlib.md5(body).hexdigest() for body in BODIES]
    assert [(spoilt / f"v0/{at:02}.bin").read_bytes() for at in range(FILES)] == BODIES
    warehouse.clear_log()
    with MetadataCache(rows, spoilt, options=EAGER) as cache:
        assert (cache.mirror(rows).frame["status"] == "cached").all()
    assert asked(warehouse) == []


def test_a_run_is_announced_once_with_all_that_is_to_be_fetched_before_any_file(
    rows, spoilt, warehouse, second_look
) -> None:
    def wait_until_all_are_there() -> None:
        while not all((spoilt / f"v0{name}").exists() for name in names(GONE)):
            pass

    events: list[object] = []
    second_look(wait_until_all_are_there)
    options = replace(EAGER, observers=(events.append,))
    with MetadataCache(rows, spoilt, options=options) as cache, pytest.warns(UserWarning, match="checksum changed"):
        cache.mirror(rows)
    missing = len(GONE) + len(CHANGED)
    assert [event for event in events if not isinstance(event, BytesReceived | FileFinished)] == [
        RunStarted(FILES, FILES, FILES - missing, missing, None),
        events[-1],
    ]
    assert isinstance(events[0], RunStarted)
    assert isinstance(events[-1], RunFinished)
    finished = [event.outcome.request.index for event in events if isinstance(event, FileFinished)]
    assert sorted(finished) == sorted(GONE + CHANGED)


def test_files_held_under_another_name_are_not_asked_for(rows, warehouse, tmp_path) -> None:
    rows["path"] = [f"{at}.bin" for at in range(FILES)]
    by_path = TableOptions(path_template="{path}")
    with MetadataCache(rows, tmp_path, options=EAGER, table=by_path) as cache:
        cache.mirror(rows)
    warehouse.clear_log()
    with MetadataCache(rows, tmp_path, options=EAGER) as cache:  # by their own names nothing is there
        assert (cache.mirror(rows).frame["status"] == "cached").all()
    (tmp_path / "v0/7.bin").unlink()
    with MetadataCache(rows, tmp_path, options=EAGER, table=by_path) as cache:
        assert (cache.mirror(rows).frame["status"] == "cached").sum() == FILES - 1
    assert asked(warehouse) == ["/07.bin"]


def test_a_second_place_for_a_file_that_is_held_is_filled_from_it(rows, warehouse, tmp_path) -> None:
    twice = pd.concat([rows, rows], ignore_index=True)
    twice["path"] = [f"{at}.bin" for at in range(2 * FILES)]
    by_path = TableOptions(path_template="{path}")
    with MetadataCache(twice, tmp_path, options=EAGER, table=by_path) as cache:
        assert cache.mirror(twice).ok.all()
    assert len(asked(warehouse)) == FILES
    copy = tmp_path / f"v0/{FILES + 7}.bin"
    copy.unlink()
    with MetadataCache(twice, tmp_path, options=EAGER, table=by_path) as cache:
        assert cache.mirror(twice).ok.all()
    assert copy.read_bytes() == BODIES[7]
    assert len(asked(warehouse)) == FILES


def test_a_manifest_that_fails_in_the_second_look_ends_the_run_with_what_is_done(
    rows, spoilt, warehouse, second_look
) -> None:
    def fail() -> None:
        for name in names(GONE):
            warehouse.wait_for(name)
        raise ManifestError("cannot be read")

    second_look(fail)
    with MetadataCache(rows, spoilt, options=EAGER) as cache, pytest.raises(ManifestError, match="cannot be read"):
        cache.mirror(rows)
    there = [at for at in GONE if (spoilt / f"v0/{at:02}.bin").exists()]
    warehouse.clear_log()
    with MetadataCache(rows, spoilt, options=EAGER) as cache, pytest.warns(UserWarning, match="checksum changed"):
        assert cache.mirror(rows).ok.all()
    assert sorted(asked(warehouse)) == names([at for at in GONE if at not in there], CHANGED)


@pytest.mark.parametrize("fails", [False, True])
def test_a_fatal_error_of_a_transfer_does_not_wait_for_the_look(
    rows, spoilt, monkeypatch, second_look, caplog, fails
) -> None:
    """As on a full disk; what the look still finds is nobody's business, nor that it fails."""
    from framefetch.errors import DiskFull
    from framefetch.store.files import FileStore

    ended = threading.Event()
    end = LookUp.end
    monkeypatch.setattr(LookUp, "end", lambda self: (end(self), ended.set()))

    def refuse(self, bodies):
        failure = DiskFull("no room")
        return [failure for _ in bodies]

    monkeypatch.setattr(FileStore, "save_here", refuse)

    def wait() -> None:
        assert ended.wait(30)
        if fails:
            raise ManifestError("cannot be read")

    second_look(wait)
    with MetadataCache(rows, spoilt, options=EAGER) as cache, pytest.raises(DiskFull):
        cache.mirror(rows)
    gc.collect()
    assert [record.message for record in caplog.records] == [], "an exception that nobody has seen"


def test_where_all_is_hashed_the_look_comes_first(rows, spoilt, warehouse, second_look) -> None:
    looks: list[None] = []
    second_look(lambda: looks.append(None))
    options = replace(EAGER, verify="hash")
    with MetadataCache(rows, spoilt, options=options) as cache, pytest.warns(UserWarning, match="checksum changed"):
        assert cache.mirror(rows).ok.all()
    assert looks == []
    assert sorted(asked(warehouse)) == names(GONE, CHANGED)


def test_a_stop_while_the_others_are_looked_at(rows, spoilt, warehouse, second_look) -> None:
    warehouse.script(names(GONE)[0], Serve(stop=Stop(100, "hang")))
    looking = threading.Event()
    second_look(looking.set)

    async def cut() -> None:
        async with MetadataCache(rows, spoilt, options=Options()) as cache:
            work = asyncio.ensure_future(cache.fetch_all(rows))
            await asyncio.to_thread(warehouse.wait_for, names(GONE)[0], 1, "held")
            await asyncio.to_thread(looking.wait)
            work.cancel()
            with pytest.raises(asyncio.CancelledError):
                await work

    asyncio.run(cut())
    warehouse.script(names(GONE)[0], Serve())
    with MetadataCache(rows, spoilt, options=EAGER) as cache, pytest.warns(UserWarning, match="checksum changed"):
        assert cache.mirror(rows).ok.all()
    assert [(spoilt / f"v0/{at:02}.bin").read_bytes() for at in range(FILES)] == BODIES


@pytest.mark.parametrize("at", [GONE[0], CHANGED[0]], ids=["where nothing stood", "in place of what is judged"])
@pytest.mark.filterwarnings("ignore:.*checksum changed:UserWarning")
def test_what_somebody_puts_there_during_the_look_is_set_aside(rows, tmp_path, monkeypatch, at: int) -> None:
    few = rows.iloc[[GONE[0], CHANGED[0]]]
    with MetadataCache(few, tmp_path, options=EAGER) as cache:
        assert cache.mirror(few).ok.all()
    mine = tmp_path / f"v0/{at:02}.bin"
    (tmp_path / f"v0/{GONE[0]:02}.bin").unlink()
    (tmp_path / f"v0/{CHANGED[0]:02}.bin").write_bytes(b"edited")
    read = FileStore.hash

    def meanwhile(self, *arguments):
        found = read(self, *arguments)
        mine.unlink(missing_ok=True)
        mine.write_bytes(b"my own work")
        return found

    with monkeypatch.context() as patch, MetadataCache(few, tmp_path, options=EAGER) as cache:
        patch.setattr(FileStore, "hash", meanwhile)
        with pytest.warns(UserWarning, match=f"it was kept as v0/{at:02}.bin.kept-1"):
            assert cache.mirror(few).ok.all()
    assert mine.with_name(f"{mine.name}.kept-1").read_bytes() == b"my own work"
    assert mine.read_bytes() == BODIES[at]


def test_files_that_cannot_be_fetched_fail_and_the_others_are_still_looked_at(rows, spoilt, warehouse) -> None:
    warehouse.script(names(GONE)[0], *[Reply(404)] * 9)
    with MetadataCache(rows, spoilt, options=EAGER) as cache, pytest.warns(UserWarning, match="checksum changed"):
        frame = cache.mirror(rows).frame
    assert frame.index[frame["status"] == "failed"].tolist() == [GONE[0]]
    assert (frame["status"] == "cached").sum() == FILES - len(GONE) - len(CHANGED)


def test_where_all_is_there_or_nothing_is_known_no_folder_is_read(rows, tmp_path, monkeypatch) -> None:
    read: list[str] = []
    monkeypatch.setattr("framefetch.store.glance._names_in", lambda folder: read.append(folder) or set())
    for _ in range(2):
        with MetadataCache(rows, tmp_path, options=EAGER) as cache:
            assert cache.mirror(rows).ok.all()
    assert read == []
    os.unlink(tmp_path / "v0/59.bin")
    with MetadataCache(rows, tmp_path, options=EAGER) as cache:
        assert cache.mirror(rows).ok.all()
    assert len(read) == 1


def test_in_a_manifest_that_was_made_anew_meanwhile_every_row_is_looked_for(
    rows, warehouse, tmp_path, monkeypatch
) -> None:
    hints: list[tuple[Manifest, int | None]] = []
    commit = Manifest.commit

    def noted(self, entries, committed=None, unknown_at=None, **made) -> None:
        hints.append((self, unknown_at))
        commit(self, entries, committed, unknown_at, **made)

    monkeypatch.setattr(Manifest, "commit", noted)
    warehouse.script("/59.bin", hold())
    with MetadataCache(rows, tmp_path, options=EAGER) as cache:
        work = cache._start(rows, None)
        work.begin()
        warehouse.wait_for("/59.bin")
        folder = cache._works.folder
        old = folder.manifest
        while len(list(old.entries())) < FILES - 1:
            pass
        folder.mend(old)
        warehouse.release()
        with pytest.warns(UserWarning, match="it was made anew with 59 entries"):
            frame = work.wait().frame
        assert frame["md5"].tolist() == [hashlib.md5(body).hexdigest() for body in BODIES]
        assert [entry.path for entry in folder.manifest.entries()] == [f"v0{name}" for name in names([*range(FILES)])]
        assert {unknown_at for manifest, unknown_at in hints if manifest is old} == {0}
        assert [unknown_at for manifest, unknown_at in hints if manifest is folder.manifest][-1:] == [None]
    assert len(warehouse.requests()) == FILES
