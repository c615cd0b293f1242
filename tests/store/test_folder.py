"""One opened cache folder: made, refused, read only, and closed without a trace."""

import json
import os
import shutil
import sqlite3
import threading

import pytest

from framefetch.errors import DiskFull, ManifestError, StorageError
from framefetch.store.folder import CacheFolder
from framefetch.store.held import HeldCheck
from tests.store.builders import descriptors, digest, fill, hold, query, request, row, tree

BODY = b"the bytes of a file"


def test_a_folder_is_made_with_all_above_it(tmp_path) -> None:
    with CacheFolder(tmp_path / "a" / "b") as folder:
        assert not folder.manifest.holds_any()
        assert folder.writable
        folder.prepare()
        assert folder.free_space() > 0
    assert sorted(os.listdir(tmp_path / "a" / "b")) == [".framefetch", "manifest.sqlite"]
    CacheFolder(tmp_path / "a" / "b", create=False).close()


def test_a_folder_that_is_not_to_be_made(tmp_path) -> None:
    with pytest.raises(StorageError, match="no such folder"):
        CacheFolder(tmp_path / "none", create=False)
    with pytest.raises(ManifestError, match="holds no manifest"):
        CacheFolder(tmp_path, create=False, mend=False)
    assert os.listdir(tmp_path) == []


def test_a_file_in_the_folders_place(tmp_path) -> None:
    (tmp_path / "file").write_bytes(b"mine")
    for path in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(StorageError) as caught:
            CacheFolder(path)
        assert caught.value.fatal
    assert tree(tmp_path) == {"file": b"mine"}


def test_the_root_may_be_a_link(tmp_path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    with CacheFolder(tmp_path / "link") as folder:
        hold(folder, request(), BODY)
        assert folder.root == str(tmp_path / "real")
    assert (tmp_path / "real" / "v0" / "1.nwb").read_bytes() == BODY


@pytest.mark.parametrize("name", [".framefetch", ".framefetch/parts", ".framefetch/locks"])
def test_a_private_folder_that_is_a_link_is_not_written_through(tmp_path, name) -> None:
    root, outside = tmp_path / "cache", tmp_path / "outside"
    outside.mkdir()
    (root / name).parent.mkdir(parents=True)
    (root / name).symlink_to(outside)
    with CacheFolder(root) as folder:
        assert not folder.writable
        with pytest.raises(StorageError, match="is a link; nothing is written through it") as caught:
            folder.prepare()
        assert caught.value.fatal
    assert os.listdir(outside) == []


def test_a_moved_folder_holds_what_it_held(tmp_path) -> None:
    with CacheFolder(tmp_path / "one") as folder:
        hold(folder, request(), BODY)
    os.rename(tmp_path / "one", tmp_path / "two")
    with CacheFolder(tmp_path / "two") as folder:
        check = HeldCheck(folder.files, folder.manifest, "stat", fixed_paths=False)
        assert [finding.entry for finding in check.run([request()], [0])] == [None]


def test_on_a_read_only_disk_what_is_held_is_held_and_nothing_is_written(disk, open_folder) -> None:
    root = disk("size=2m")
    with CacheFolder(root) as folder:
        hold(folder, request(), BODY)
    disk("ro")
    folder = open_folder(root)
    assert not folder.writable
    check = HeldCheck(folder.files, folder.manifest, "stat", fixed_paths=False)
    assert [finding.path for finding in check.run([request(), request("v0/2", index=1)], [0, 1])] == ["v0/1.nwb"]
    with pytest.raises(StorageError, match="EROFS") as caught:
        folder.prepare()
    assert caught.value.fatal
    with pytest.raises(StorageError, match="EROFS"):
        list(HeldCheck(folder.files, folder.manifest, "stat", fixed_paths=True).run(
            [request("v0/new", key="http://host/1.nwb")], [0]
        ))  # fmt: skip


def test_a_read_only_disk_that_was_left_in_the_middle_can_be_read(disk, start, open_folder) -> None:
    root = disk("size=4m")
    child = start(
        """
        folder = CacheFolder(sys.argv[1])
        hold(folder, request(), b"bytes")
        barrier("held")
        """,
        root,
    )
    child.wait_for("held")
    child.kill()
    disk("ro")
    folder = open_folder(root)
    assert [entry.path for entry in folder.manifest.entries()] == ["v0/1.nwb"]


def test_a_full_disk_can_be_read(disk, open_folder) -> None:
    root = disk("size=400k")
    with CacheFolder(root) as folder:
        hold(folder, request(), BODY)
    fill(root)
    folder = open_folder(root)
    assert [entry.path for entry in folder.manifest.entries()] == ["v0/1.nwb"]
    with pytest.raises(DiskFull, match="free some space"):
        folder.prepare()


HOLDS = """
import sqlite3
holder = sqlite3.connect(sys.argv[1] + "/manifest.sqlite", isolation_level=None)
holder.executescript(sys.argv[2] + "INSERT INTO windows (boot) VALUES ('x')")
barrier("locked")
holder.execute("ROLLBACK")
"""


@pytest.fixture
def refuses(start):
    """Give a function that sees a folder refused while another process holds its manifest, and nothing left behind."""

    def run(root, lock: str) -> None:
        holder = start(HOLDS, root, lock)
        holder.wait_for("locked")
        before, threads = descriptors(), threading.active_count()
        with pytest.raises(ManifestError, match="locked by another process for longer than the lock timeout"):
            CacheFolder(root, lock_timeout=0.05)
        assert descriptors() == before
        assert threading.active_count() == threads
        holder.go_on()
        holder.end()

    return run


def test_a_locked_manifest_is_waited_for_as_long_as_was_said_and_nothing_stays(tmp_path, refuses) -> None:
    CacheFolder(tmp_path).close()
    refuses(tmp_path, "PRAGMA locking_mode = EXCLUSIVE; BEGIN EXCLUSIVE;")
    CacheFolder(tmp_path).close()
    for name in ("parts", "locks"):
        assert os.listdir(tmp_path / ".framefetch" / name) == []


def test_a_recovery_that_fails_leaves_everything_for_the_next_one(tmp_path, refuses) -> None:
    CacheFolder(tmp_path).close()
    (tmp_path / "v0").mkdir()
    (tmp_path / "v0" / "1.nwb").write_bytes(BODY)
    journal = tmp_path / ".framefetch" / "parts" / "0123abcd.journal"
    journal.write_text(json.dumps(["v0", "k", "v0/1.nwb", [str(digest(BODY))], "none", None]) + "\n")
    refuses(tmp_path, "BEGIN IMMEDIATE;")
    assert journal.exists()
    CacheFolder(tmp_path).close()
    assert query(tmp_path, "SELECT key, path FROM entries") == [("k", "v0/1.nwb")]
    assert not journal.exists()


def test_a_manifest_that_cannot_be_made_leaves_nothing_open(disk) -> None:
    root = disk("size=2m,nr_inodes=6")  # enough for the root, the private folders, a lock and a journal
    before = descriptors()
    with pytest.raises(ManifestError, match="cannot be"):
        CacheFolder(root)
    assert descriptors() == before
    assert tree(root) == {}


def test_a_cache_whose_commits_failed_recovers_when_it_is_prepared_again(open_folder, tmp_path) -> None:
    folder = open_folder(lock_timeout=0.05)
    holder = sqlite3.connect(tmp_path / "cache" / "manifest.sqlite", isolation_level=None)
    holder.execute("BEGIN IMMEDIATE")
    with pytest.raises(ManifestError):
        hold(folder, request(), BODY)
    with pytest.raises(ManifestError, match="locked"):
        folder.prepare()
    holder.execute("ROLLBACK")
    holder.close()
    folder.prepare()
    folder.manifest.commit([row(2)])
    folder.manifest.flush()
    assert [entry.key for entry in folder.manifest.entries()] == ["http://host/1.nwb", "http://host/2"]


def test_closing_twice_and_after_the_folder_was_removed(tmp_path) -> None:
    folder = CacheFolder(tmp_path / "cache")
    hold(folder, request(), BODY)
    shutil.rmtree(tmp_path / "cache")
    folder.close()
    folder.close()
    assert os.listdir(tmp_path) == []
