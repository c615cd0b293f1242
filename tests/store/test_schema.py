"""A database is recognised before anything is written to it, or beside it."""

import os
import sqlite3
from collections.abc import Iterator

import pytest

from framefetch.errors import ManifestError, ManifestLost
from framefetch.store import schema
from framefetch.store.folder import CacheFolder
from framefetch.store.manifest import Manifest
from framefetch.store.schema import boot_id, connect
from framefetch.store.tables import APPLICATION_ID, SCHEMA_VERSION
from tests.store.builders import age, descriptors, fill, query, row, tree


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
        b"",
    ],
    ids=["html", "garbage", "one byte", "a header and nothing", "nothing"],
)
def test_what_is_no_database_is_lost_and_never_read_as_empty(tmp_path, content) -> None:
    (tmp_path / "manifest.sqlite").write_bytes(content)
    for attempt in (
        lambda: Manifest(str(tmp_path)),
        lambda: Manifest(str(tmp_path), writable=False),
        lambda: CacheFolder(tmp_path, create=False, mend=False),
    ):
        with pytest.raises(ManifestLost, match="it was left as it is. 'framefetch rebuild"):
            attempt()
    assert tree(tmp_path) == {"manifest.sqlite": content}


def test_a_manifest_cut_short_is_lost_and_kept(tmp_path) -> None:
    manifest = Manifest(str(tmp_path))
    manifest.commit([row(number) for number in range(2000)])
    manifest.close()
    os.truncate(tmp_path / "manifest.sqlite", 8192)
    before = tree(tmp_path)
    with pytest.raises(ManifestLost, match="is damaged"):
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
    with pytest.raises(ManifestError, match="a folder stands at .*/manifest.sqlite, where the manifest belongs; move"):
        Manifest(str(tmp_path))


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
        assert not folder.manifest.holds_any()
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


@pytest.fixture
def changed_by_another(tmp_path) -> Iterator[sqlite3.Connection]:
    """A connection that is about to change a new manifest: SQLite tells whoever would turn its log on, at once."""
    connect(str(tmp_path / "manifest.sqlite"), timeout=1.0, writable=True).close()
    other = sqlite3.connect(tmp_path / "manifest.sqlite", isolation_level=None)
    other.execute("PRAGMA journal_mode = DELETE")
    other.execute("BEGIN IMMEDIATE")
    yield other
    other.close()


def test_who_opens_a_new_manifest_while_another_does_waits_for_it(tmp_path, changed_by_another, monkeypatch) -> None:
    waited = []

    def wait(seconds: float) -> None:
        waited.append(seconds)
        if len(waited) == 3:
            changed_by_another.execute("COMMIT")

    monkeypatch.setattr(schema.time, "sleep", wait)
    connect(str(tmp_path / "manifest.sqlite"), timeout=60.0, writable=True).close()
    assert len(waited) == 3
    assert query(tmp_path, "PRAGMA journal_mode") == [("wal",)]


def test_who_waits_for_another_to_open_a_new_manifest_waits_no_longer_than_told(tmp_path, changed_by_another) -> None:
    with pytest.raises(ManifestError, match="locked by another process"):
        connect(str(tmp_path / "manifest.sqlite"), timeout=0.05, writable=True)


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


# -- older schemas -------------------------------------------------------------------------------------------------


@pytest.fixture(params=[1, 2], ids="schema {}".format)
def older(tmp_path, request):
    """Make an older manifest with 2000 rows, a change only in its log, as a killed process leaves it."""
    manifest = Manifest(str(tmp_path))
    manifest.commit([row(number) for number in range(2000)])
    manifest.close()
    age(tmp_path, request.param)
    connection = sqlite3.connect(tmp_path / "manifest.sqlite", isolation_level=None)
    connection.execute("PRAGMA wal_autocheckpoint = 0")
    connection.execute("UPDATE entries SET etag = 'in the log' WHERE key = 'http://host/7'")
    log = (tmp_path / "manifest.sqlite-wal").read_bytes()
    main = (tmp_path / "manifest.sqlite").read_bytes()
    connection.close()
    (tmp_path / "manifest.sqlite").write_bytes(main)
    (tmp_path / "manifest.sqlite-wal").write_bytes(log)
    return tmp_path


def schema_of(root) -> int:
    ((schema,),) = query(root, "PRAGMA user_version")
    return schema


def migrated(root) -> None:
    assert schema_of(root) == SCHEMA_VERSION
    assert query(root, "SELECT count(*), count(DISTINCT key), count(etag) FROM entries") == [(2000, 2000, 1)]
    assert query(root, "SELECT count(*), count(DISTINCT id) FROM places") == [(4000, 2000)]
    assert query(root, "SELECT version FROM versions") == [("v0",)]
    assert query(root, "PRAGMA integrity_check") == [("ok",)]


def test_an_older_schema_is_migrated_and_kept(older) -> None:
    schema = schema_of(older)
    manifest = Manifest(str(older))
    assert manifest.owners(["v0/7.nwb"]) == {"v0/7.nwb": "http://host/7"}
    manifest.close()
    migrated(older)
    kept = sqlite3.connect(older / f"manifest.sqlite.schema-{schema}")
    assert kept.execute("PRAGMA user_version").fetchall() == [(schema,)]
    assert kept.execute("SELECT count(*), count(etag) FROM entries").fetchall() == [(2000, 1)]
    kept.close()
    assert sorted(os.listdir(older)) == ["manifest.sqlite", f"manifest.sqlite.schema-{schema}"]
    before = (older / "manifest.sqlite").stat().st_mtime_ns
    Manifest(str(older)).close()
    assert (older / "manifest.sqlite").stat().st_mtime_ns == before, "once is enough"


def test_an_older_schema_is_read_where_nothing_may_be_written(older) -> None:
    schema, before = schema_of(older), (older / "manifest.sqlite").read_bytes()
    manifest = Manifest(str(older), writable=False)
    assert manifest.owners(["v0/7.nwb"]) == {"v0/7.nwb": "http://host/7"}
    assert [entry.receipt.etag for entry in manifest.lookup("v0", ["http://host/7"])] == ["in the log"]
    assert len(list(manifest.entries("v0"))) == 2000
    manifest.close()
    assert schema_of(older) == schema
    assert (older / "manifest.sqlite").read_bytes() == before


STEPS = ["_back_up", "replace", "RENAME", "INSERT INTO entries", "DROP TABLE", "INTO places", "user_version", "COMMIT"]


@pytest.mark.parametrize("step", STEPS)
def test_a_migration_that_is_killed_is_made_by_the_next(older, start, step) -> None:
    script = """
    from framefetch.store import schema

    def die(*arguments):
        os.kill(os.getpid(), 9)

    class Dying:
        def __init__(self, connection):
            self.connection = connection
        def __getattr__(self, name):
            return getattr(self.connection, name)
        def execute(self, statement, *arguments):
            if sys.argv[2] in statement and statement != "PRAGMA user_version":
                die()
            return self.connection.execute(statement, *arguments)

    real = schema._migrate
    schema._migrate = lambda connection, path: real(Dying(connection), path)
    if sys.argv[2] == "_back_up":
        schema._back_up = die
    if sys.argv[2] == "replace":
        os.replace = die
    CacheFolder(sys.argv[1])
    """
    schema = schema_of(older)
    assert start(script, older, step).process.wait() == -9
    assert schema_of(older) == schema
    Manifest(str(older)).close()
    migrated(older)


def test_processes_migrate_once(older, start) -> None:
    script = """
    barrier("ready")
    with CacheFolder(sys.argv[1]) as folder:
        folder.manifest.commit([row(int(sys.argv[2]))])
    """
    children = [start(script, older, 3000 + number) for number in range(4)]
    for child in children:
        child.wait_for("ready")
    for child in children:
        child.go_on()
    for child in children:
        child.end()
    assert query(older, "SELECT count(*), count(etag) FROM entries") == [(2004, 1)]
    assert schema_of(older) == SCHEMA_VERSION


def test_a_disk_too_full_for_a_migration_leaves_everything(disk, older) -> None:
    root = disk("size=1m")
    for name in ("manifest.sqlite", "manifest.sqlite-wal"):
        (root / name).write_bytes((older / name).read_bytes())
    fill(root)
    with pytest.raises(ManifestError, match="no space left|cannot be"):
        Manifest(str(root))
    disk("size=8m")
    Manifest(str(root)).close()
    migrated(root)


def test_a_process_killed_while_it_folds_the_log_into_the_file_leaves_a_good_manifest(tmp_path) -> None:
    """The first page is written first, and says that the file is longer than it is; the log has all of it."""
    holder = connect(str(tmp_path / "manifest.sqlite"), timeout=1.0, writable=True)
    holder.execute("PRAGMA wal_autocheckpoint = 0")
    manifest = Manifest(str(tmp_path))
    manifest.commit([row(number) for number in range(250)])
    manifest.close()
    log = (tmp_path / "manifest.sqlite-wal").read_bytes()
    main = bytearray((tmp_path / "manifest.sqlite").read_bytes())
    holder.close()
    size = 4096 + 24
    frames = [log[at : at + size] for at in range(32, len(log) - size + 1, size)]
    (first,) = {frame[24:] for frame in frames if frame[:4] == b"\0\0\0\1"} or {b""}
    main[:4096] = first
    (tmp_path / "manifest.sqlite").write_bytes(main)
    (tmp_path / "manifest.sqlite-wal").write_bytes(log)
    assert int.from_bytes(main[28:32], "big") * 4096 > len(main)
    opened = Manifest(str(tmp_path))
    assert len(list(opened.entries())) == 250
    opened.close()
