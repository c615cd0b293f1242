"""On file systems that several machines write to: no shared memory, one writer at a time, errors that say why."""

import contextlib
import errno
import os
import sqlite3

import pytest
from filelock import FileLock

from framefetch.errors import ManifestError
from framefetch.store import network
from framefetch.store.folder import CacheFolder
from framefetch.store.manifest import Manifest
from framefetch.store.network import network_file_system
from framefetch.store.schema import connect, explain
from framefetch.store.tables import APPLICATION_ID, SCHEMA_VERSION
from tests.store.builders import hold, query, request

BODY = b"the bytes of a file"


def mounts(kind: str, folder) -> str:
    device = os.stat(folder).st_dev
    number = f"{os.major(device)}:{os.minor(device)}"
    return (
        "22 27 0:21 / /proc rw,relatime - proc proc rw\n"
        f"36 35 {number} / /mnt/a\\040b rw,noatime shared:1 master:2 - {kind} server:/x rw\n"
    )


@pytest.fixture
def on_nfs(monkeypatch, tmp_path):
    monkeypatch.setattr(network, "mount_table", lambda: mounts("nfs4", tmp_path))


@pytest.mark.parametrize(
    ("kind", "found"),
    [
        ("nfs", "nfs"), ("nfs4", "nfs4"), ("cifs", "cifs"), ("smb3", "smb3"), ("lustre", "lustre"), ("gpfs", "gpfs"),
        ("fuse.sshfs", "fuse.sshfs"), ("fuse", "fuse"), ("9p", "9p"), ("ceph", "ceph"),
        ("ext4", None), ("xfs", None), ("tmpfs", None), ("overlay", None), ("btrfs", None), ("zfs", None),
    ],
)  # fmt: skip
def test_the_type_of_a_mount_tells(tmp_path, monkeypatch, kind, found) -> None:
    monkeypatch.setattr(network, "mount_table", lambda: mounts(kind, tmp_path))
    (tmp_path / "below").mkdir()
    assert network_file_system(str(tmp_path / "below")) == found
    assert network_file_system("/proc") is None
    assert network_file_system(str(tmp_path / "nowhere")) is None


def test_where_the_system_does_not_tell_a_disk_is_local(tmp_path, monkeypatch) -> None:
    assert network_file_system(str(tmp_path)) is None
    for table in ("", "nonsense\n- - -\n", "36 35\n"):
        monkeypatch.setattr(network, "mount_table", lambda table=table: table)
        assert network_file_system(str(tmp_path)) is None


def test_nothing_is_shared_in_memory(on_nfs, tmp_path) -> None:
    with CacheFolder(tmp_path / "cache") as folder:
        hold(folder, request(), BODY)
        beside = {name for name in os.listdir(tmp_path / "cache") if name.startswith("manifest")}
        assert beside <= {"manifest.sqlite", "manifest.sqlite-journal"}
        assert [entry.path for entry in folder.manifest.entries()] == ["v0/1.nwb"]
    assert query(tmp_path / "cache", "PRAGMA journal_mode") == [("delete",)]
    assert query(tmp_path / "cache", "SELECT path FROM entries") == [("v0/1.nwb",)]


def test_a_cache_that_moved_there_gives_up_its_log(tmp_path, start, monkeypatch) -> None:
    script = """
    folder = CacheFolder(sys.argv[1])
    hold(folder, request(), b"only in the log")
    folder.journal.settle()
    barrier("held")
    """
    child = start(script, tmp_path / "cache")
    child.wait_for("held")
    child.kill()
    assert os.path.getsize(tmp_path / "cache" / "manifest.sqlite-wal") > 0
    monkeypatch.setattr(network, "mount_table", lambda: mounts("lustre", tmp_path))
    with CacheFolder(tmp_path / "cache") as folder:
        assert [entry.path for entry in folder.manifest.entries()] == ["v0/1.nwb"]
        hold(folder, request("v0/2"), BODY)
        assert not (tmp_path / "cache" / "manifest.sqlite-wal").exists()
    assert query(tmp_path / "cache", "PRAGMA journal_mode") == [("delete",)]
    assert query(tmp_path / "cache", "SELECT count(*) FROM entries") == [(2,)]


@pytest.mark.parametrize(
    "statement", [f"PRAGMA application_id = {APPLICATION_ID + 1}", f"PRAGMA user_version = {SCHEMA_VERSION + 1}"]
)
def test_what_is_not_ours_is_left_as_it_is_there_too(on_nfs, tmp_path, statement) -> None:
    """Also where only the log says whose it is: SQLite may fold it into the file, and nothing else is changed."""
    connect(str(tmp_path / "manifest.sqlite"), timeout=1.0, writable=True).close()
    theirs = sqlite3.connect(tmp_path / "manifest.sqlite", isolation_level=None)
    theirs.execute("PRAGMA journal_mode = WAL")
    theirs.execute("PRAGMA wal_autocheckpoint = 0")
    theirs.execute(statement)
    main, log = ((tmp_path / f"manifest.sqlite{end}").read_bytes() for end in ("", "-wal"))
    theirs.close()
    (tmp_path / "manifest.sqlite").write_bytes(main)
    (tmp_path / "manifest.sqlite-wal").write_bytes(log)
    with pytest.raises(ManifestError, match="another program's database|Install a newer framefetch"):
        Manifest(str(tmp_path))
    name, _, value = statement.removeprefix("PRAGMA ").partition(" = ")
    assert query(tmp_path, f"PRAGMA {name}") == [(int(value),)]
    assert query(tmp_path, "PRAGMA journal_mode") == [("wal",)]


def test_processes_take_turns(tmp_path, start) -> None:
    script = """
    from framefetch.store import network
    device = os.stat(os.path.dirname(sys.argv[1])).st_dev
    line = f"36 35 {os.major(device)}:{os.minor(device)} / / rw - nfs server:/x rw"
    network.mount_table = lambda: line
    barrier("ready")
    folder = CacheFolder(sys.argv[1])
    told = []
    for number in range(100):
        folder.manifest.commit([row(number, key=f"http://{sys.argv[2]}/{number}")], told.extend)
        if number % 20 == 0:
            folder.manifest.flush()
            assert folder.manifest.lookup("v0", [f"http://{sys.argv[2]}/{number}"])
    folder.close()
    assert len(told) == 100
    """
    children = [start(script, tmp_path / "cache", name) for name in "abc"]
    for child in children:
        child.wait_for("ready")
    for child in children:
        child.go_on()
    for child in children:
        child.end()
    assert query(tmp_path / "cache", "SELECT count(*) FROM entries") == [(300,)]
    assert query(tmp_path / "cache", "PRAGMA integrity_check") == [("ok",)]


def test_a_writer_that_keeps_the_turn_is_named_by_its_lock(on_nfs, open_folder, tmp_path) -> None:
    folder = open_folder(lock_timeout=0.05)
    message = r"writing to the manifest for longer than 0.05 s \(.*writer.lock\)"
    with FileLock(f"{folder.private}/locks/writer.lock"), pytest.raises(ManifestError, match=message):
        hold(folder, request(), BODY)
    folder.manifest.flush()
    assert query(tmp_path / "cache", "SELECT count(*) FROM entries") == [(1,)]


@pytest.mark.parametrize("refusal", [OSError(errno.ENOLCK, "No locks available"), NotImplementedError("no flock")])
def test_without_such_locks_sqlites_own_have_to_do(on_nfs, open_folder, tmp_path, monkeypatch, refusal) -> None:
    folder = open_folder()

    def refuse(*arguments, **options):
        raise refusal

    monkeypatch.setattr(FileLock, "acquire", refuse)
    hold(folder, request(), BODY)
    assert query(tmp_path / "cache", "SELECT count(*) FROM entries") == [(1,)]


def failed(name: str) -> sqlite3.OperationalError:
    error = sqlite3.OperationalError("disk I/O error")
    error.sqlite_errorname = name
    return error


@pytest.mark.parametrize(
    "name", ["SQLITE_PROTOCOL", "SQLITE_IOERR_LOCK", "SQLITE_IOERR_UNLOCK", "SQLITE_IOERR_RDLOCK",
             "SQLITE_IOERR_CHECKRESERVEDLOCK", "SQLITE_IOERR_SHMLOCK"]
)  # fmt: skip
def test_locks_that_fail_are_explained(on_nfs, tmp_path, name) -> None:
    message = str(explain(failed(name), str(tmp_path / "manifest.sqlite")))
    assert "the locks of this file system (nfs4) do not work" in message
    assert "mount it with locks, or keep the cache on a disk of this machine" in message
    assert "\n" not in message


def test_a_server_without_locks_looks_busy_to_sqlite(on_nfs, tmp_path) -> None:
    message = str(explain(failed("SQLITE_BUSY"), str(tmp_path / "manifest.sqlite")))
    assert "or the server gives none of the locks that nfs4 needs" in message


@pytest.mark.usefixtures("plainly")
@pytest.mark.parametrize(("times", "held"), [(1, True), (2, False)])
def test_a_stale_handle_is_looked_up_once_more(open_folder, tmp_path, monkeypatch, times, held) -> None:
    folder = open_folder()
    real, left = os.replace, [times]

    def stale(old, new):
        if str(new).endswith("1.nwb") and left[0]:
            left[0] -= 1
            raise OSError(errno.ESTALE, "Stale file handle")
        return real(old, new)

    monkeypatch.setattr(os, "replace", stale)
    with contextlib.nullcontext() if held else pytest.raises(AssertionError, match="ESTALE"):
        hold(folder, request(), BODY)
    assert (tmp_path / "cache" / "v0" / "1.nwb").exists() is held
