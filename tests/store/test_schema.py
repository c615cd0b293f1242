"""A database is recognised before anything is written to it, or beside it."""

import os
import sqlite3

import pytest

from framefetch.errors import ManifestError
from framefetch.store.folder import CacheFolder
from framefetch.store.manifest import Manifest
from framefetch.store.schema import APPLICATION_ID, SCHEMA_VERSION, boot_id, connect
from tests.store.builders import descriptors, query, row, tree


def foreign(path, application: int = 0, version: int = 0, journal: str = "delete") -> None:
    connection = sqlite3.connect(path)
    connection.execute(f"PRAGMA journal_mode = {journal}")
    connection.executescript(
        f"CREATE TABLE notes (x); INSERT INTO notes VALUES ('mine');"
        f"PRAGMA application_id = {application}; PRAGMA user_version = {version};"
    )
    connection.close()


def refused(root, message: str) -> None:
    """Open in every way, and see that the folder is as it was, and that nothing stays open."""
    before, open_before = tree(root), descriptors()
    for attempt in (
        lambda: Manifest(str(root)),
        lambda: Manifest(str(root), writable=False),
        lambda: CacheFolder(root),
        lambda: CacheFolder(root, create=False),
    ):
        with pytest.raises(ManifestError, match=message):
            attempt()
    assert tree(root) == before
    assert sorted(os.listdir(root)) == sorted({path.split("/")[0] for path in before})
    assert descriptors() == open_before


@pytest.mark.parametrize("journal", ["delete", "wal"])
def test_another_programs_database_is_left_as_it_is(tmp_path, journal) -> None:
    foreign(tmp_path / "manifest.sqlite", application=12345, journal=journal)
    refused(tmp_path, "another program's database; it was left as it is")
    foreign_zero = tmp_path / "zero"
    foreign_zero.mkdir()
    foreign(foreign_zero / "manifest.sqlite", journal=journal)
    refused(foreign_zero, "another program's database")


def test_a_newer_schema_is_left_as_it_is(tmp_path) -> None:
    foreign(tmp_path / "manifest.sqlite", application=APPLICATION_ID, version=SCHEMA_VERSION + 1)
    refused(tmp_path, f"has schema {SCHEMA_VERSION + 1}, .* Install a newer framefetch")


@pytest.mark.parametrize(
    "content",
    [
        b"<!DOCTYPE html><html><title>Log in</title></html>" * 100,
        os.urandom(5000),
        b"x",
        b"SQLite format 3\0" + b"\0" * 90,
    ],
    ids=["html", "garbage", "one byte", "a header and nothing"],
)
def test_what_is_no_database_is_left_as_it_is(tmp_path, content) -> None:
    (tmp_path / "manifest.sqlite").write_bytes(content)
    refused(tmp_path, "left as it is|cannot be used")


def test_a_manifest_cut_short_is_refused_and_kept(tmp_path) -> None:
    manifest = Manifest(str(tmp_path))
    manifest.commit([row(number) for number in range(2000)])
    manifest.close()
    os.truncate(tmp_path / "manifest.sqlite", 8192)
    before = tree(tmp_path)
    with pytest.raises(ManifestError, match="is damaged"):
        list(Manifest(str(tmp_path), writable=False).entries())
    assert tree(tmp_path)["manifest.sqlite"] == before["manifest.sqlite"]


def test_a_link_at_the_manifests_place_is_not_followed(tmp_path) -> None:
    outside, root = tmp_path / "outside", tmp_path / "cache"
    outside.mkdir()
    root.mkdir()
    connect(str(outside / "manifest.sqlite"), timeout=1.0, writable=True).close()
    before = tree(outside)
    (root / "manifest.sqlite").symlink_to(outside / "manifest.sqlite")
    refused(root, "is a link; nothing is written through it")
    assert tree(outside) == before


def test_nothing_is_made_where_a_dangling_link_leads(tmp_path) -> None:
    (tmp_path / "manifest.sqlite").symlink_to(tmp_path / "elsewhere.sqlite")
    with pytest.raises(ManifestError, match="is a link"):
        CacheFolder(tmp_path)
    assert os.listdir(tmp_path) == ["manifest.sqlite"]


def test_a_folder_at_the_manifests_place(tmp_path) -> None:
    (tmp_path / "manifest.sqlite").mkdir()
    with pytest.raises(ManifestError, match="cannot be used"):
        Manifest(str(tmp_path))


def test_an_empty_file_becomes_a_manifest(tmp_path) -> None:
    (tmp_path / "manifest.sqlite").touch()
    manifest = Manifest(str(tmp_path))
    manifest.commit([row()])
    manifest.close()
    assert query(tmp_path, "PRAGMA application_id") == [(APPLICATION_ID,)]
    assert query(tmp_path, "SELECT key FROM entries") == [("http://host/1",)]


def test_a_new_manifest_says_whose_it_is_in_the_file_itself_and_leaves_nothing_beside(tmp_path) -> None:
    connection = connect(str(tmp_path / "manifest.sqlite"), timeout=1.0, writable=True)
    header = (tmp_path / "manifest.sqlite").read_bytes()
    assert header[68:72] == APPLICATION_ID.to_bytes(4, "big")
    assert header[60:64] == SCHEMA_VERSION.to_bytes(4, "big")
    connection.close()
    assert os.listdir(tmp_path) == ["manifest.sqlite"]


def test_a_process_killed_while_it_makes_a_manifest_leaves_none(tmp_path, start) -> None:
    """A database that is half there, with its journal, would look like another program's, and be refused for ever."""
    script = """
    def die(*paths):
        os.kill(os.getpid(), 9)
    os.link = die
    CacheFolder(sys.argv[1])
    """
    assert start(script, tmp_path).process.wait() == -9
    assert not (tmp_path / "manifest.sqlite").exists()
    with CacheFolder(tmp_path) as folder:
        assert folder.fresh
        folder.manifest.commit([row()])


def test_without_hard_links_the_manifest_is_made_all_the_same(tmp_path, monkeypatch) -> None:
    def refuse(*paths: str) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    connect(str(tmp_path / "manifest.sqlite"), timeout=1.0, writable=True).close()
    assert os.listdir(tmp_path) == ["manifest.sqlite"]


def test_a_lock_is_no_reason_to_read_past_it(tmp_path) -> None:
    path = tmp_path / "manifest.sqlite"
    connect(str(path), timeout=1.0, writable=True).close()
    holder = sqlite3.connect(path, isolation_level=None)
    holder.execute("PRAGMA locking_mode = EXCLUSIVE")
    holder.execute("BEGIN EXCLUSIVE")
    holder.execute("INSERT INTO windows (boot) VALUES ('x')")
    with pytest.raises(ManifestError, match="locked by another process"):
        connect(str(path), timeout=0.05, writable=False)
    holder.execute("ROLLBACK")
    holder.close()
    connect(str(path), timeout=0.05, writable=False).close()


def test_the_boot_has_a_name() -> None:
    assert len(boot_id()) == 36
    assert boot_id() == boot_id()


def test_a_read_only_disk_can_be_read(disk) -> None:
    root = disk("size=2m")
    manifest = Manifest(str(root))
    manifest.commit([row()])
    manifest.close()
    disk("ro")
    readable = Manifest(str(root), writable=False)
    assert [entry.key for entry in readable.entries()] == ["http://host/1"]
    with pytest.raises(ManifestError, match="open for reading only"):
        readable.commit([row(2)])
    readable.close()
