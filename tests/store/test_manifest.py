"""The manifest: one transaction for many, called back after it, durable after a sync, and nobody left waiting."""

import contextlib
import errno
import json
import os
import resource
import sqlite3
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from framefetch.errors import BytesLost, ManifestError
from framefetch.models import Digest, Entry, Verified
from framefetch.store import manifest as manifest_module
from framefetch.store import writer as writer_module
from framefetch.store.exchange import import_manifest
from framefetch.store.manifest import Manifest
from framefetch.store.sync import Synced
from framefetch.store.writer import WINDOW_ROWS
from tests.store.builders import RECEIPT, date, descriptors, digest, fill, hold, query, request, row, tree

TRANSACTIONS = "SELECT seq FROM sqlite_sequence WHERE name = 'windows'"


@pytest.fixture
def manifest(tmp_path):
    opened = Manifest(str(tmp_path), timeout=0.1)
    yield opened
    opened.close()


@pytest.fixture
def locked(tmp_path):
    """Give a connection that can hold the database."""
    reopened(tmp_path)  # it must be there: SQLite would make an empty file, which is a manifest that was lost
    connection = sqlite3.connect(tmp_path / "manifest.sqlite", isolation_level=None)
    yield connection
    connection.close()


def reopened(root, **options: object) -> Manifest:
    opened = Manifest(str(root), **options)
    opened.close()
    return opened


# -- group commit --------------------------------------------------------------------------------------------------


def test_many_entries_are_one_transaction(manifest, tmp_path) -> None:
    for number in range(WINDOW_ROWS - 1):
        manifest.commit([row(number)])
    manifest.flush()
    assert query(tmp_path, TRANSACTIONS) == [(1,)]
    assert query(tmp_path, "SELECT count(*), count(DISTINCT window) FROM entries") == [(WINDOW_ROWS - 1, 1)]


def test_a_full_window_is_committed_without_anybody_asking(manifest) -> None:
    done = threading.Event()
    manifest.commit([row(number) for number in range(WINDOW_ROWS)], lambda _: done.set())
    assert done.wait(10)


def test_a_window_that_never_fills_is_committed_too(manifest) -> None:
    done = threading.Event()
    manifest.commit([row()], lambda _: done.set())
    assert done.wait(10)


def test_callers_are_told_after_the_commit_each_with_its_own_entries_in_order(manifest, tmp_path) -> None:
    told: list[tuple[list[str], int]] = []

    def committed(entries) -> None:
        told.append(([entry.key for entry in entries], query(tmp_path, "SELECT count(*) FROM entries")[0][0]))

    manifest.commit([row(1), row(2)], committed)
    manifest.commit([row(3)], committed)
    manifest.flush()
    assert told == [(["http://host/1", "http://host/2"], 3), (["http://host/3"], 3)]


def test_nothing_handed_in_is_no_transaction(manifest, tmp_path) -> None:
    called = threading.Event()
    manifest.commit([], lambda _: called.set())
    manifest.flush()
    assert called.is_set()
    assert query(tmp_path, "SELECT count(*) FROM windows") == [(0,)]


def test_a_later_row_of_the_same_file_replaces_the_earlier(manifest) -> None:
    manifest.commit([row(fetched_at=1.0)])
    manifest.commit([row(fetched_at=2.0), row(path="v0/elsewhere.nwb")])
    manifest.flush()
    assert [(entry.path, entry.fetched_at) for entry in manifest.entries()] == [
        ("v0/1.nwb", 2.0),
        ("v0/elsewhere.nwb", 1.0),
    ]


def test_close_commits_and_makes_durable(tmp_path) -> None:
    manifest = Manifest(str(tmp_path))
    told = []
    manifest.commit([row(1)], told.extend)
    manifest.close()
    manifest.close()
    assert told == [row(1)]
    assert query(tmp_path, "SELECT (SELECT count(*) FROM entries), (SELECT count(*) FROM windows)") == [(1, 0)]
    assert os.listdir(tmp_path) == ["manifest.sqlite"]


def test_a_closed_manifest_says_so(tmp_path) -> None:
    manifest = reopened(tmp_path)
    for verb in (lambda: manifest.commit([row()]), manifest.flush, lambda: list(manifest.entries())):
        with pytest.raises(ManifestError, match="is closed"):
            verb()


# -- failures ------------------------------------------------------------------------------------------------------


def test_a_failure_reaches_the_next_caller_and_flush_and_costs_no_row(manifest, locked, tmp_path) -> None:
    locked.execute("BEGIN IMMEDIATE")
    told = []
    manifest.commit([row(1)], told.extend)
    with pytest.raises(ManifestError, match="locked by another process"):
        manifest.flush()
    assert manifest.failed
    with pytest.raises(ManifestError, match="locked by another process"):
        manifest.commit([row(2)])
    assert told == []
    locked.execute("ROLLBACK")
    manifest.flush()  # what failed is tried again
    assert not manifest.failed
    assert told == [row(1)]
    manifest.commit([row(3)])
    manifest.flush()
    # Also what was handed in while it failed: its file is there, and nobody would hand it in again.
    assert [key for (key,) in query(tmp_path, "SELECT key FROM entries")] == [row(at).key for at in (1, 2, 3)]


def test_who_has_waited_the_whole_timeout_in_vain_is_not_made_to_wait_it_again(tmp_path, locked) -> None:
    manifest = Manifest(str(tmp_path), timeout=0.5)
    locked.execute("BEGIN IMMEDIATE")
    manifest.commit([row(1)])
    with pytest.raises(ManifestError, match="locked"):
        manifest.flush()
    began = time.monotonic()
    for _ in range(2):
        with pytest.raises(ManifestError, match="locked"):
            manifest.flush()
    assert time.monotonic() - began < 0.5
    locked.execute("ROLLBACK")
    manifest.flush()
    manifest.close()
    assert query(tmp_path, "SELECT key FROM entries") == [("http://host/1",)]


def test_what_waits_for_a_lock_is_bounded_and_kept(tmp_path, locked, monkeypatch) -> None:
    monkeypatch.setattr(writer_module, "BACKLOG_ROWS", 50)
    manifest = Manifest(str(tmp_path), timeout=30.0)
    locked.execute("BEGIN IMMEDIATE")
    manifest.commit([row(number) for number in range(50)])
    with pytest.raises(ManifestError, match="60 files wait to be recorded"):
        manifest.commit([row(number) for number in range(50, 60)])
    locked.execute("ROLLBACK")
    manifest.flush()
    manifest.commit([row(60)])
    manifest.close()
    assert query(tmp_path, "SELECT count(*) FROM entries") == [(61,)]


def test_entries_can_be_forgotten(manifest, tmp_path) -> None:
    manifest.commit([row(1), row(2), row(2, path="v0/elsewhere.nwb")])
    manifest.forget([row(2)])
    manifest.commit([row(3)])
    manifest.flush()
    assert [entry.path for entry in manifest.entries()] == ["v0/1.nwb", "v0/elsewhere.nwb", "v0/3.nwb"]
    manifest.forget([row(1, receipt=replace(RECEIPT, mtime_ns=11))])
    manifest.flush()
    assert len(list(manifest.entries())) == 3, "it is not the row that was seen"


def test_what_no_database_can_be_asked_for_is_no_damage(manifest) -> None:
    manifest.commit([row(1)])
    manifest.flush()
    with pytest.raises(UnicodeEncodeError):
        manifest.lookup("\ud800", [row(1).key])
    assert len(manifest.lookup("v0", [row(1).key])) == 1


def test_a_date_that_no_integer_holds_is_no_sign_of_another_file(folder) -> None:
    """Who was stopped before he recorded a file looks whether it is still the one: this one is."""
    entry = hold(folder, request(), b"abc")
    date(folder.files.absolute(entry.path), 2400)
    receipt = folder.files.receipt(entry.path, entry.receipt.digests, Verified.LENGTH)
    late = replace(entry, receipt=replace(receipt, ctime_ns=20))
    told: list[Entry] = []
    folder.manifest.commit([late], told.extend)
    folder.manifest.flush()
    assert told == [late]


def test_what_failed_is_tried_again_at_the_end(tmp_path, locked) -> None:
    manifest = Manifest(str(tmp_path), timeout=0.05)
    locked.execute("BEGIN IMMEDIATE")
    manifest.commit([row(1)])
    with pytest.raises(ManifestError):
        manifest.flush()
    locked.execute("ROLLBACK")
    manifest.close()
    assert not manifest.failed
    assert query(tmp_path, "SELECT key FROM entries") == [("http://host/1",)]


def test_closing_ends_also_where_nothing_can_be_committed(tmp_path, locked) -> None:
    manifest = Manifest(str(tmp_path), timeout=0.05)
    locked.execute("BEGIN IMMEDIATE")
    manifest.commit([row(1)])
    manifest.close()
    assert manifest.failed


def test_a_full_disk_is_told_and_what_was_there_can_be_read(disk) -> None:
    root = disk("size=200k")
    manifest = Manifest(str(root))
    manifest.commit([row(0)])
    manifest.flush()
    filler = fill(root)
    manifest.commit([row(number) for number in range(1, 2000)])
    with pytest.raises(ManifestError, match="no space left|cannot be used"):
        manifest.flush()
    assert [entry.key for entry in manifest.lookup("v0", ["http://host/0"])] == ["http://host/0"]
    filler.unlink()
    disk("size=8m")
    manifest.flush()
    assert len(list(manifest.entries())) == 2000
    manifest.close()


def test_a_call_back_that_raises_costs_nobody_else_anything(manifest, caplog) -> None:
    told = []

    def broken(entries) -> None:
        raise RuntimeError("Event loop is closed")

    manifest.commit([row(1)], broken)
    manifest.commit([row(2)], told.extend)
    manifest.flush()
    manifest.commit([row(3)], told.extend)
    manifest.flush()
    assert told == [row(2), row(3)]
    assert "Event loop is closed" in caplog.text
    assert len(list(manifest.entries())) == 3


def test_text_that_is_no_unicode_is_recorded_and_stops_nothing(manifest) -> None:
    etag = b'"caf\xe9"'.decode("utf-8", "surrogateescape")  # as a header with a Latin-1 byte reads
    manifest.commit([row(1, receipt=replace(RECEIPT, etag=etag)), row(2, key="http://host/\udce9")])
    manifest.flush()
    assert [entry.receipt.etag for entry in manifest.lookup("v0", ["http://host/1"])] == ['"caf\\udce9"']
    assert len(list(manifest.entries())) == 2


def test_an_entry_that_cannot_be_stored_is_an_error_and_no_hang(tmp_path) -> None:
    manifest = Manifest(str(tmp_path))
    manifest.commit([row(1, receipt=replace(RECEIPT, size=1 << 70))])
    with pytest.raises(ManifestError, match="cannot be recorded: OverflowError"):
        manifest.flush()
    manifest.close()


def test_a_manifest_that_was_removed_under_us_is_no_place_to_write_to(manifest, tmp_path) -> None:
    manifest.commit([row(1)])
    manifest.flush()
    for name in ("manifest.sqlite", "manifest.sqlite-wal", "manifest.sqlite-shm"):
        (tmp_path / name).unlink()
    manifest.commit([row(2)])
    with pytest.raises(ManifestError, match="was removed or replaced while it was open"):
        manifest.flush()
    other = Manifest(str(tmp_path))
    with pytest.raises(ManifestError, match="was removed or replaced while it was open"):
        manifest.flush()
    assert list(other.entries()) == []
    other.close()


def test_a_damaged_row_is_an_error_of_the_manifest(manifest, tmp_path, locked) -> None:
    manifest.commit([row(1)])
    manifest.flush()
    locked.execute("UPDATE entries SET digests = 'crc32:00'")
    with pytest.raises(ManifestError, match="is damaged"):
        list(manifest.entries())


def test_nobody_is_left_waiting_where_many_write_while_one_closes(tmp_path) -> None:
    manifest = Manifest(str(tmp_path))
    accepted: list[str] = []
    begun = threading.Barrier(9)

    def write(worker: int) -> None:
        begun.wait()
        for number in range(10_000):
            entry = row(number, key=f"http://host/{worker}/{number}")
            try:
                manifest.commit([entry])
                accepted.append(entry.key)
                if number % 50 == 0:
                    manifest.flush()
            except ManifestError:
                return

    threads = [threading.Thread(target=write, args=(worker,)) for worker in range(8)]
    for thread in threads:
        thread.start()
    begun.wait()
    manifest.flush()
    manifest.close()
    for thread in threads:
        thread.join()
    assert {key for (key,) in query(tmp_path, "SELECT key FROM entries")} == set(accepted)


def test_nothing_stays_open(tmp_path) -> None:
    before, threads = descriptors(), threading.active_count()
    for _ in range(20):
        manifest = Manifest(str(tmp_path))
        manifest.commit([row()])
        next(manifest.entries(), None)
        manifest.close()
    assert descriptors() == before
    assert threading.active_count() == threads


# -- durability ----------------------------------------------------------------------------------------------------


@pytest.fixture
def boot(monkeypatch):
    """Give a function that starts the machine anew."""

    def starts(name: str) -> None:
        monkeypatch.setattr(manifest_module, "boot_id", lambda: name)

    starts("first")
    return starts


def test_an_entry_is_not_durable_before_a_sync_and_trusted_only_in_its_boot(tmp_path, boot, monkeypatch) -> None:
    monkeypatch.setattr(writer_module.CommitWriter, "_sync_if_due", lambda writer, *, at_once: None)
    manifest = Manifest(str(tmp_path))
    manifest.commit([row(1)])
    manifest.flush()
    assert [(entry.durable, entry.trusted) for entry in manifest.entries()] == [(False, True)]
    manifest.close()
    for name, trusted in (("first", True), ("second", False), ("", False)):
        boot(name)
        opened = Manifest(str(tmp_path))
        assert [(entry.durable, entry.trusted) for entry in opened.lookup("v0", ["http://host/1"])] == [
            (False, trusted)
        ]
        opened.close()


def test_a_system_that_names_no_boot_trusts_only_what_is_durable(tmp_path, boot, monkeypatch) -> None:
    monkeypatch.setattr(writer_module, "SYNC_SECONDS", 1e6)
    boot("")
    manifest = Manifest(str(tmp_path))
    manifest.commit([row(1)])
    manifest.flush()
    assert [entry.trusted for entry in manifest.entries()] == [False]
    manifest.close()
    opened = Manifest(str(tmp_path))
    assert [(entry.durable, entry.trusted) for entry in opened.entries()] == [(True, True)]
    opened.close()


def test_after_a_sync_the_window_is_gone_and_every_boot_trusts_its_rows(tmp_path, boot, monkeypatch) -> None:
    monkeypatch.setattr(writer_module, "SYNC_SECONDS", 1e6)
    manifest = Manifest(str(tmp_path))
    manifest.commit([row(1)])
    manifest.flush()
    assert query(tmp_path, "SELECT boot FROM windows") == [("first",)]
    manifest.close()
    assert query(tmp_path, "SELECT boot FROM windows") == []
    boot("second")
    opened = Manifest(str(tmp_path))
    assert [(entry.durable, entry.trusted) for entry in opened.entries()] == [(True, True)]
    opened.close()


def test_rows_turn_durable_while_the_manifest_stays_open(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(writer_module, "SYNC_SECONDS", 0.0)
    synced = threading.Event()
    real, root = writer_module.Disk.sync, str(tmp_path)

    def sync(disk, paths) -> Synced:
        assert query(root, "SELECT count(*) FROM entries") == [(1,)], "the row comes before its sync"
        assert paths == [f"{root}/v0/1.nwb", f"{root}/manifest.sqlite-wal"]
        synced.set()
        return real(disk, paths)

    monkeypatch.setattr(writer_module.Disk, "sync", sync)
    manifest = Manifest(str(tmp_path))
    manifest.commit([row(1)])
    assert synced.wait(10)
    manifest.flush()  # behind the sync in the writer's thread
    assert [entry.durable for entry in manifest.entries()] == [True]
    manifest.close()


def test_who_waits_for_a_commit_does_not_wait_for_the_sync(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(writer_module, "SYNC_SECONDS", 0.0)
    let_go = threading.Event()
    monkeypatch.setattr(writer_module.Disk, "sync", lambda disk, paths: Synced(let_go.wait(30)))
    manifest = Manifest(str(tmp_path))
    told = threading.Event()
    manifest.commit([row(1)], lambda _: told.set())
    manifest.flush()
    assert told.is_set()
    let_go.set()
    manifest.close()


def flush_twice(manifest: Manifest) -> None:
    """Wait for a commit, then for the sync behind it."""
    manifest.flush()
    manifest.flush()


def test_files_that_the_disk_could_not_keep_are_held_no_more(folder, monkeypatch) -> None:
    """They read as they should, from memory: what is left of them after that is anybody's guess."""
    monkeypatch.setattr(writer_module, "SYNC_SECONDS", 1e6)
    for at in range(3):
        hold(folder, request(f"v0/{at}"), b"bytes")
    lost = os.path.join(folder.root, "v0/1")
    failure = OSError(5, "Input/output error")
    monkeypatch.setattr(writer_module.Disk, "sync", lambda disk, paths: Synced(False, (lost,), failure))
    monkeypatch.setattr(writer_module, "SYNC_SECONDS", 0.0)
    folder.manifest.commit([row(3)])
    with pytest.raises(BytesLost, match=r"1 files .*Input/output error.* v0/1 among them") as caught:
        flush_twice(folder.manifest)
    assert caught.value.fatal
    assert caught.value.paths == {"v0/1"}
    assert not os.path.exists(lost)
    assert [entry.path for entry in folder.manifest.entries()][:2] == ["v0/0", "v0/2"]
    untrusted = [entry.path for entry in folder.manifest.entries() if not entry.trusted]
    assert {"v0/0", "v0/2"} <= set(untrusted), "the same disk holds them: they are hashed before they are believed"
    assert not folder.manifest.durable
    monkeypatch.setattr(writer_module.Disk, "sync", lambda disk, paths: Synced(True))
    folder.manifest.flush()  # told once


def test_a_file_that_was_not_made_just_now_stays_whatever_the_disk_says(open_folder, monkeypatch) -> None:
    """Its bytes were there before, and may be somebody's only copy; it is hashed before it is believed."""
    folder = open_folder()
    entries = [hold(folder, request(f"v0/{at}"), b"bytes") for at in range(3)]
    folder.close()
    folder = open_folder()
    monkeypatch.setattr(writer_module, "SYNC_SECONDS", 0.0)
    monkeypatch.setattr(
        writer_module.Disk, "sync", lambda disk, paths: Synced(False, tuple(paths), OSError(28, "No space left"))
    )
    folder.manifest.commit(entries[:1])
    folder.manifest.commit(entries[1:2], made=True)
    with pytest.raises(BytesLost) as caught:
        flush_twice(folder.manifest)
    assert caught.value.paths == {"v0/1"}
    assert sorted(os.listdir(os.path.join(folder.root, "v0"))) == ["0", "2"]
    assert {entry.path: entry.trusted for entry in folder.manifest.entries()} == {"v0/0": False, "v0/2": True}


@pytest.mark.parametrize("number", [errno.EIO, errno.ENOSPC])
def test_what_is_imported_stays_where_the_disk_fails_and_what_was_copied_for_it_does_not(
    tmp_path, open_folder, monkeypatch, number
) -> None:
    folder = open_folder()
    old = {}
    for at, place in enumerate([Path(folder.root) / "v0" / "inside", tmp_path / "outside"]):
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(b"bytes")
        old[f"http://host/{at}"] = {"file_path": str(place), "md5_checksum": digest(b"bytes").hex}
    layout = tmp_path / "old.json"
    layout.write_text(json.dumps({"v0": old}))
    monkeypatch.setattr(
        writer_module.Disk, "sync", lambda disk, paths: Synced(False, tuple(paths), OSError(number, "lost"))
    )
    report = import_manifest(folder.files, folder.manifest, str(layout), {}, lambda version: lambda url: "v0/copied")
    assert (report.imported, report.skipped) == (2, [])
    with pytest.raises(BytesLost) as caught:
        folder.close()
    assert caught.value.paths == {"v0/copied"}
    assert tree(Path(folder.root) / "v0") == {"inside": b"bytes"}
    assert (tmp_path / "outside").read_bytes() == b"bytes"


def test_what_the_disk_could_not_keep_at_the_end_is_told_by_close(open_folder, monkeypatch) -> None:
    monkeypatch.setattr(writer_module, "SYNC_SECONDS", 1e6)
    folder = open_folder()
    hold(folder, request("v0/1"), b"bytes")
    failure = OSError(28, "No space left on device")
    monkeypatch.setattr(
        writer_module.Disk, "sync", lambda disk, paths: Synced(False, (os.path.join(folder.root, "v0/1"),), failure)
    )
    with pytest.raises(BytesLost, match="No space left"):
        folder.close()
    assert tree(Path(folder.root) / ".framefetch") == {}, "closed all the same"
    folder.close()
    assert query(folder.root, "SELECT count(*) FROM entries") == [(0,)]


# -- reading -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    root = tmp_path_factory.mktemp("large")
    manifest = Manifest(str(root))
    manifest.commit([row(number, fetched_at=float(number)) for number in range(10_000)])
    manifest.commit([row(number, version="v1", path=f"v1/{number}.nwb") for number in range(10)])
    manifest.flush()
    yield manifest
    manifest.close()


def test_ten_thousand_keys_are_looked_up_at_once(large) -> None:
    keys = [f"http://host/{number}" for number in range(0, 20_000, 2)]
    found = large.lookup("v0", keys)
    assert {entry.key for entry in found} == set(keys[:5000])
    assert all(entry.path == f"v0/{int(entry.fetched_at)}.nwb" for entry in found)
    assert large.lookup("v2", keys) == []
    assert large.lookup("v0", []) == []


def test_owners_of_ten_thousand_paths(large) -> None:
    paths = [f"v0/{number}.nwb" for number in range(20_000)]
    assert large.owners(paths) == {f"v0/{number}.nwb": f"http://host/{number}" for number in range(10_000)}
    assert large.owners([]) == {}


def test_entries_come_in_order_and_by_version(large) -> None:
    everything = [(entry.version, entry.key) for entry in large.entries()]
    assert len(everything) == 10_010
    assert everything == sorted(everything)
    assert {entry.version for entry in large.entries("v1")} == {"v1"}
    assert len(list(large.entries("v1"))) == 10


def test_reading_on_while_rows_are_written(large) -> None:
    reading = large.entries("v0")
    first = next(reading)
    large.commit([row(20_000)])
    large.flush()
    assert len([first, *reading]) in (10_000, 10_001)
    assert [entry.key for entry in large.lookup("v0", ["http://host/20000"])] == ["http://host/20000"]


@pytest.fixture
def many(manifest):
    """Give a manifest with more rows than are asked for at a time."""
    manifest.commit([row(number) for number in range(10_000)])
    manifest.flush()
    return manifest


def all_of(manifest: Manifest) -> Iterator[Entry]:
    return manifest.with_digests(str(digest) for digest in RECEIPT.digests)


def test_a_reading_that_takes_long_keeps_nothing_from_others(many) -> None:
    reading, before = all_of(many), many.last_window()
    first = next(reading)
    many.commit([row(20_000)])
    many.flush()
    assert many.last_window() == before + 1
    assert many.recorded_since(before, "v0", "http://host/20000")
    assert len([first, *reading]) == 10_000, "it sees what was there when it began"
    assert len(list(all_of(many))) == 10_001


def test_a_reading_that_stops_early_keeps_nothing_from_the_next(many) -> None:
    reading = all_of(many)
    next(reading)
    reading.close()
    many.commit([row(20_000)])
    many.flush()
    assert [entry.key for entry in many.lookup("v0", ["http://host/20000"])] == ["http://host/20000"]


def test_readings_in_turns_share_a_connection(many, tmp_path) -> None:
    before = descriptors()
    for _ in range(3):
        assert len(list(all_of(many))) == 10_000
        assert many.lookup("v0", ["http://host/1"])
        assert many.knows_version("v0")
    assert descriptors() == before


def gone(root: Path) -> None:
    (root / "manifest.sqlite").rename(root / "away")


def replaced(root: Path) -> None:
    gone(root)
    other = root / "other"
    other.mkdir()
    reopened(other)
    (other / "manifest.sqlite").rename(root / "manifest.sqlite")


def without_a_log_ahead(root: Path) -> None:
    """Give up the log ahead, as on a network file system, where one more reader would wait for a writer."""
    with contextlib.closing(sqlite3.connect(root / "manifest.sqlite", isolation_level=None)) as connection:
        assert connection.execute("PRAGMA journal_mode = DELETE").fetchone() == ("delete",)


@pytest.mark.parametrize("becomes", [gone, replaced])
def test_readings_share_a_connection_where_another_would_not_see_the_same(many, tmp_path, becomes) -> None:
    reading = all_of(many)
    next(reading)
    becomes(tmp_path)
    before = descriptors()
    assert [entry.key for entry in many.lookup("v0", ["http://host/1"])] == ["http://host/1"]
    assert len(list(reading)) == 9_999
    assert descriptors() == before


def test_readings_share_a_connection_where_another_would_wait_for_a_writer(many, tmp_path) -> None:
    many.close()
    without_a_log_ahead(tmp_path)
    manifest = Manifest(str(tmp_path), writable=False)
    reading = all_of(manifest)
    next(reading)
    before = descriptors()
    assert manifest.lookup("v0", ["http://host/1"])
    assert descriptors() == before
    manifest.close()


def test_readings_share_a_connection_where_no_descriptor_is_left(many) -> None:
    reading = all_of(many)
    next(reading)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    lowest = os.dup(0)
    os.close(lowest)
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest + 1, hard))
    try:
        many.commit([row(20_000)])
        many.flush()
        before = many.last_window()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert before > 0
    assert len(list(reading)) == 9_999
    assert [entry.key for entry in many.lookup("v0", ["http://host/20000"])] == ["http://host/20000"]
    assert many.last_window() > 0


def test_a_reading_ends_where_the_manifest_is_closed(many, tmp_path) -> None:
    reading, dropped = all_of(many), all_of(many)
    assert next(reading) == next(dropped)
    assert many.holds_any()
    many.close()
    with pytest.raises(ManifestError):
        list(reading)
    with pytest.raises(ManifestError, match="is closed"):
        many.lookup("v0", ["http://host/1"])
    dropped.close()
    assert not [path for path in descriptors() if path.startswith(str(tmp_path))]


def test_an_entry_comes_back_as_it_went_in(manifest) -> None:
    digests = (Digest("md5", "a" * 32), Digest("sha256", "b" * 64))
    receipt = replace(
        RECEIPT, size=0, mtime_ns=-5, inode=(1 << 63) - 1, digests=digests, verified=Verified.DIGEST, etag='W/"x y"'
    )
    entry = row(1, key="http://host/ü?q=%20'\"", path="v0/日本.nwb", receipt=receipt, fetched_at=1e9 + 0.25)
    manifest.commit([entry])
    manifest.flush()
    assert list(manifest.entries()) == [entry]
    assert manifest.lookup("v0", [entry.key]) == [entry]
    assert manifest.owners([entry.path]) == {entry.path: entry.key}


def test_there_may_be_nothing_to_read(tmp_path) -> None:
    manifest = Manifest(str(tmp_path), writable=False)
    assert (list(manifest.entries()), manifest.lookup("v0", ["x"]), manifest.owners(["x"])) == ([], [], {})
    manifest.close()
    assert os.listdir(tmp_path) == []


# -- several processes ---------------------------------------------------------------------------------------------


def test_two_processes_commit_to_one_manifest(tmp_path, start) -> None:
    script = """
    folder = CacheFolder(sys.argv[1])
    barrier("open")
    told = []
    for number in range(300):
        folder.manifest.commit([row(number, key=f"http://{sys.argv[2]}/{number}")], told.extend)
        if number % 10 == 0:
            folder.manifest.flush()
    folder.close()
    assert len(told) == 300
    """
    children = [start(script, tmp_path, name) for name in ("a", "b")]
    for child in children:
        child.wait_for("open")
    for child in children:
        child.go_on()
    for child in children:
        child.end()
    keys = {key for (key,) in query(tmp_path, "SELECT key FROM entries")}
    assert keys == {f"http://{name}/{number}" for name in ("a", "b") for number in range(300)}
    assert query(tmp_path, "SELECT count(*) FROM windows") == [(0,)]


def test_many_processes_may_make_one_manifest(tmp_path, start) -> None:
    script = """
    barrier("ready")
    with CacheFolder(sys.argv[1]) as folder:
        folder.manifest.commit([row(int(sys.argv[2]))])
    """
    children = [start(script, tmp_path / "cache", number) for number in range(6)]
    for child in children:
        child.wait_for("ready")
    for child in children:
        child.go_on()
    for child in children:
        child.end()
    assert len(query(tmp_path / "cache", "SELECT key FROM entries")) == 6
    assert sorted(os.listdir(tmp_path / "cache")) == [".framefetch", "manifest.sqlite"]


def test_a_killed_process_loses_nothing_it_was_told_of(tmp_path, start) -> None:
    script = """
    import threading
    folder, told = CacheFolder(sys.argv[1]), threading.Event()
    folder.manifest.commit([row(1), row(2)], lambda entries: told.set())
    told.wait()
    barrier("committed")
    """
    child = start(script, tmp_path)
    child.wait_for("committed")
    child.kill()
    manifest = Manifest(str(tmp_path))
    assert [entry.key for entry in manifest.entries()] == ["http://host/1", "http://host/2"]
    manifest.close()
    assert query(tmp_path, "PRAGMA integrity_check") == [("ok",)]
