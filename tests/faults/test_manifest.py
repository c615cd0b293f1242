"""The manifest is rebuildable: whatever becomes of it, good files are found again and nothing wrong is called held."""

import contextlib
import errno
import hashlib
import os
import shutil
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pandas as pd
import pytest

from framefetch import ManifestError, MetadataCache, StorageError, Timeouts
from framefetch.errors import ManifestLost
from framefetch.store import network
from framefetch.store.folder import CacheFolder
from framefetch.store.manifest import Manifest
from framefetch.store.tables import SCHEMA_VERSION
from framefetch.warehouse import Serve, WarehouseThread, hold
from tests.conftest import EAGER
from tests.processes import wait_until
from tests.store.builders import age, query, row

FILES = 300
PAGE = 4096


@dataclass(frozen=True)
class Held:
    """A cache that holds everything, to be copied; its table, and where it came from."""

    warehouse: WarehouseThread
    folder: Path
    table: pd.DataFrame
    stated: pd.DataFrame


@pytest.fixture(scope="module")
def held(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Held]:
    folder = tmp_path_factory.mktemp("held") / "cache"
    bodies = {f"/{at}.bin": b"%d" % at * 7 for at in range(1000, 1000 + FILES)}
    with WarehouseThread() as warehouse:
        table = pd.DataFrame({"url": [warehouse.add(path, body) for path, body in bodies.items()]})
        stated = table.assign(md5=[hashlib.md5(body).hexdigest() for body in bodies.values()])
        with MetadataCache(table, folder, options=EAGER) as cache:
            assert cache.mirror(table).ok.all()
        assert os.path.getsize(folder / "manifest.sqlite") > 20 * PAGE
        yield Held(warehouse, folder, table, stated)


@pytest.fixture
def cache_folder(held: Held, tmp_path: Path) -> Path:
    return Path(shutil.copytree(held.folder, tmp_path / "cache"))


def write(path: Path, at: int, content: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(at)
        file.write(content)


def leaf_pages(manifest: Path) -> list[int]:
    """Return where the pages of the table of entries begin that hold rows."""
    content = manifest.read_bytes()
    return [at for at in range(0, len(content), PAGE) if content[at] == 0x0D and b"md5:" in content[at : at + PAGE]]


def remove(manifest: Path) -> None:
    for path in manifest.parent.glob("manifest.sqlite*"):
        path.unlink()


def damage_random_page(manifest: Path) -> None:
    write(manifest, leaf_pages(manifest)[3], os.urandom(PAGE))


def foreign_values(manifest: Path) -> None:
    connection = sqlite3.connect(manifest)
    with connection:
        connection.execute("UPDATE entries SET verified = 'perhaps', digests = 5, size = 'x' WHERE key LIKE '%7.bin'")
    connection.close()


def no_tables(manifest: Path) -> None:
    connection = sqlite3.connect(manifest)
    with connection:
        connection.execute("DROP TABLE entries")
    connection.close()


def names_that_are_no_text(manifest: Path) -> None:
    """Garble the name of a table and the beginning of its definition: SQLite quotes it in its error."""
    write(manifest, manifest.read_bytes().index(b"tableplacesplaces") + 5, b"\x97" * 20)


def values_that_are_no_text(manifest: Path) -> None:
    connection = sqlite3.connect(manifest)
    with connection:
        connection.execute("UPDATE entries SET digests = CAST(x'97' AS TEXT) WHERE key LIKE '%77.bin'")
    connection.close()


#: What is done to the manifest, and how many of its rows are lost by it for good, at most.
DAMAGES = [
    ("117", "header garbage", lambda manifest: write(manifest, 0, os.urandom(100)), 0),
    ("117", "first page gone", lambda manifest: write(manifest, 0, bytes(PAGE)), 0),
    ("117", "root of the table gone", lambda manifest: write(manifest, PAGE, b"\xff" * PAGE), 20),  # it holds some
    ("117", "a random page", damage_random_page, 30),
    ("117", "HTML inside", lambda manifest: manifest.write_bytes(b"<!DOCTYPE html><title>Log in</title>" * 500), FILES),
    ("117", "truncated in the middle", lambda manifest: os.truncate(manifest, leaf_pages(manifest)[9]), 200),
    ("117", "truncated within a page", lambda manifest: os.truncate(manifest, leaf_pages(manifest)[-1] + 1000), 60),
    ("117", "rows that say nonsense", foreign_values, 30),
    ("117", "its tables gone", no_tables, FILES),
    ("117", "names that are no text", names_that_are_no_text, 0),
    ("117", "values that are no text", values_that_are_no_text, 3),
    ("118", "zero bytes", lambda manifest: os.truncate(manifest, 0), FILES),
    ("119", "deleted", remove, FILES),
]
EACH = pytest.mark.parametrize(
    ("case", "fault", "damage", "lost"), DAMAGES, ids=[f"{case}-{fault}" for case, fault, *_ in DAMAGES]
)


def mirror(table: pd.DataFrame, folder: Path) -> pd.DataFrame:
    with MetadataCache(table, folder, options=EAGER) as cache:
        result = cache.mirror(table)
        assert cache.verify("hash") == []
    return result.frame


def asides(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob("manifest.sqlite.*"))


@EACH
@pytest.mark.filterwarnings("ignore:the manifest was:UserWarning")
def test_nothing_is_fetched_again_where_the_table_states_digests(
    held: Held, cache_folder: Path, note: Callable[..., None], case: str, fault: str, damage: Callable, lost: int
) -> None:
    manifest = cache_folder / "manifest.sqlite"
    damage(manifest)
    before, bad = held.warehouse.count(), manifest.read_bytes() if manifest.exists() else None
    frame = mirror(held.stated, cache_folder)
    assert set(frame["status"]) == {"cached"}
    assert frame["md5"].tolist() == held.stated["md5"].tolist()
    assert held.warehouse.count() == before
    assert asides(cache_folder) == ([] if bad is None else ["manifest.sqlite.corrupt-1"])
    assert bad is None or (cache_folder / "manifest.sqlite.corrupt-1").read_bytes() == bad
    assert not list(cache_folder.glob("v0/*.kept-*"))
    assert query(cache_folder, "SELECT count(*) FROM entries") == [(FILES,)]
    again = mirror(held.table, cache_folder)
    assert set(again["status"]) == {"cached"}
    note(case, f"{fault}, digests stated", "cached", held.warehouse.count() - before)


@EACH
@pytest.mark.filterwarnings("ignore:.*(the manifest was|is not in the manifest):UserWarning")
def test_what_can_still_be_read_is_not_fetched_again(
    held: Held, cache_folder: Path, note: Callable[..., None], case: str, fault: str, damage: Callable, lost: int
) -> None:
    damage(cache_folder / "manifest.sqlite")
    before = held.warehouse.count()
    frame = mirror(held.table, cache_folder)
    assert frame["md5"].tolist() == held.stated["md5"].tolist()
    requests = held.warehouse.count() - before
    assert requests == (frame["status"] == "downloaded").sum()
    assert requests <= lost
    assert lost < FILES or requests == FILES, "what nothing explains is not called held"
    note(case, f"{fault}, no digests", "cached" if not requests else "downloaded", requests)


@pytest.mark.filterwarnings("ignore:.*(the manifest was|checksum changed):UserWarning")
def test_a_salvaged_row_is_hashed_before_it_is_believed(held: Held, cache_folder: Path) -> None:
    """The times are as recorded, so that only the bytes can tell."""
    victim = cache_folder / "v0" / "1007.bin"
    recorded = os.stat(victim)
    body = victim.read_bytes()
    victim.write_bytes(body[::-1])
    os.utime(victim, ns=(recorded.st_atime_ns, recorded.st_mtime_ns))
    connection = sqlite3.connect(cache_folder / "manifest.sqlite")
    with connection:
        found = os.stat(victim)
        connection.execute(
            "UPDATE entries SET ctime_ns = ?, inode = ? WHERE path = 'v0/1007.bin'", (found.st_ctime_ns, found.st_ino)
        )
    connection.close()
    with MetadataCache(held.table, cache_folder, options=EAGER) as cache:
        assert cache.verify("stat") == [], "this edit cannot be seen without reading the bytes"
    write(cache_folder / "manifest.sqlite", 0, os.urandom(100))
    before = held.warehouse.count()
    frame = mirror(held.table, cache_folder)
    assert frame.loc[frame["status"] == "downloaded", "path"].tolist() == [str(victim)]
    assert held.warehouse.count() == before + 1
    assert victim.read_bytes() == body


@EACH
def test_rebuild_makes_it_anew_as_every_message_says(
    held: Held, cache_folder: Path, note: Callable[..., None], case: str, fault: str, damage: Callable, lost: int
) -> None:
    damage(cache_folder / "manifest.sqlite")
    words = [sys.executable, "-m", "framefetch", "rebuild", str(cache_folder)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=30)
    assert done.returncode in (0, 1), done.stderr  # 1: nothing explains the files whose rows are lost
    assert "Traceback" not in done.stderr
    ((entries,),) = query(cache_folder, "SELECT count(*) FROM entries")
    assert entries >= FILES - lost
    with MetadataCache(held.table, cache_folder, options=EAGER) as cache:
        assert {finding.kind for finding in cache.verify("hash")} <= {"unknown"}
    note(case, f"{fault}, rebuild", "rebuilt", 0)


def test_a_schema_that_becomes_no_text_under_a_reader_is_damage(cache_folder: Path) -> None:
    """SQLite reads it again when somebody has changed it, in the middle of whatever a process does."""
    with contextlib.closing(Manifest(str(cache_folder))) as manifest:
        assert manifest.holds_any()
        connection = sqlite3.connect(cache_folder / "manifest.sqlite", isolation_level=None)
        connection.execute("PRAGMA writable_schema = ON")
        connection.execute(
            "UPDATE sqlite_master SET sql = CAST(x'97' AS TEXT), name = CAST(x'97' AS TEXT) WHERE name = 'places'"
        )
        connection.execute("PRAGMA schema_version = 999")
        connection.close()
        with pytest.raises(ManifestLost, match="is damaged"):
            manifest.holds_any()
        manifest.commit([row()])
        with pytest.raises(ManifestLost, match="is damaged"):
            manifest.flush()


def test_commands_that_only_look_leave_a_damaged_manifest_alone(cache_folder: Path) -> None:
    manifest = cache_folder / "manifest.sqlite"
    write(manifest, 0, os.urandom(100))
    bad = manifest.read_bytes()
    for words in (["status"], ["verify"], ["export", "out.json"]):
        command = [sys.executable, "-m", "framefetch", words[0], str(cache_folder), *words[1:]]
        done = subprocess.run(command, capture_output=True, text=True, timeout=30)
        assert done.returncode == 3
        assert "is damaged" in done.stderr
        assert f"framefetch rebuild {cache_folder}" in done.stderr
    assert manifest.read_bytes() == bad
    assert asides(cache_folder) == []


# -- while a run is under way --------------------------------------------------------------------------------------


def damage_in_place(manifest: Path) -> None:
    for at in range(PAGE, os.path.getsize(manifest), PAGE):
        write(manifest, at, b"\xee" * PAGE)


def made_anew_by_another(manifest: Path) -> None:
    write(manifest, 0, os.urandom(100))
    CacheFolder(manifest.parent).close()


@pytest.mark.parametrize(
    ("case", "fault", "harm"),
    [
        ("117", "pages spoilt during a run", damage_in_place),
        ("117", "mended by another process during a run", made_anew_by_another),
        ("118", "emptied during a run", lambda manifest: os.truncate(manifest, 0)),
        ("119", "deleted during a run", remove),
    ],
)
@pytest.mark.filterwarnings("ignore:the manifest was:UserWarning")
def test_a_manifest_lost_during_a_run(
    warehouse: WarehouseThread, tmp_path: Path, note: Callable[..., None], case: str, fault: str, harm: Callable
) -> None:
    """Everything ends as if nothing had been, and what was published is not asked for again."""
    table = pd.DataFrame({"url": [warehouse.add(f"/{at}.bin", b"%d" % at * 9) for at in range(40)]})
    gate = Gate(warehouse, [f"/{at}.bin" for at in range(30, 40)])
    with MetadataCache(table, tmp_path / "cache", options=EAGER) as cache:
        job = cache._start(table, None)
        job.begin()
        for at in range(30):
            warehouse.wait_for(f"/{at}.bin", 1, "answered")
        cache._works.folder.manifest.flush()
        harm(tmp_path / "cache" / "manifest.sqlite")
        gate.open()
        frame = job.wait().frame
        assert set(frame["status"]) <= {"downloaded", "cached"}
        assert cache.verify("hash") == []
    assert {warehouse.count(f"/{at}.bin") for at in range(30)} == {1}
    assert warehouse.count() <= 50, "those under way may have been begun anew"
    for at, path in enumerate(frame["path"]):
        assert Path(path).read_bytes() == b"%d" % at * 9
    assert not list((tmp_path / "cache").glob("v0/*.kept-*"))
    before = warehouse.count()
    again = mirror(table, tmp_path / "cache")
    assert set(again["status"]) == {"cached"}
    assert warehouse.count() == before
    note(case, fault, "downloaded", warehouse.count())


class Gate:
    """Files that are answered for only when they are let go."""

    def __init__(self, warehouse: WarehouseThread, paths: list[str]) -> None:
        self._warehouse = warehouse
        self._paths = paths
        for path in paths:
            warehouse.script(path, hold(), then=Serve())

    def open(self) -> None:
        for path in self._paths:
            self._warehouse.wait_for(path)
        self._warehouse.release()


def test_case_121_a_lock_that_is_given_back_in_time_costs_nothing(
    warehouse: WarehouseThread, tmp_path: Path, note: Callable[..., None]
) -> None:
    """Downloads go on while another process holds the manifest; what is done waits to be recorded."""
    table = pd.DataFrame({"url": [warehouse.add(f"/{at}.bin", b"%d" % at * 9) for at in range(60)]})
    with MetadataCache(table, tmp_path / "cache", options=replace(EAGER, lock_timeout=15.0)) as cache:
        holder = held_by_another(cache)
        job = cache._start(table, None)
        job.begin()
        for at in range(60):
            warehouse.wait_for(f"/{at}.bin", 1, "answered")
        wait_until(lambda: len(list((tmp_path / "cache").glob("v0/*.bin"))) == 60)
        assert query(tmp_path / "cache", "SELECT count(*) FROM entries") == [(0,)]
        assert not job.future.done()
        holder.execute("ROLLBACK")
        holder.close()
        frame = job.wait().frame
        assert set(frame["status"]) == {"downloaded"}
    assert query(tmp_path / "cache", "SELECT count(*) FROM entries") == [(60,)]
    note("121", "locked, then let go", "downloaded", warehouse.count())


def test_case_121_a_lock_that_is_kept_stops_the_run_and_loses_no_file(
    warehouse: WarehouseThread, tmp_path: Path, note: Callable[..., None]
) -> None:
    patient = replace(EAGER, lock_timeout=1.0, timeouts=Timeouts(stall=10.0))
    table = pd.DataFrame({"url": [warehouse.add(f"/{at}.bin", b"%d" % at * 9) for at in range(40)]})
    gate = Gate(warehouse, [f"/{at}.bin" for at in range(30, 40)])
    with MetadataCache(table, tmp_path / "cache", options=patient) as cache:
        holder = held_by_another(cache)
        job = cache._start(table, None)
        job.begin()
        for at in range(30):
            warehouse.wait_for(f"/{at}.bin", 1, "answered")
        wait_until(lambda: cache._works.folder.manifest.failed)
        began = time.monotonic()
        gate.open()
        with pytest.raises(ManifestError, match="locked by another process for longer than the lock timeout"):
            job.wait()
        assert time.monotonic() - began < 5, "the timeout has been waited once, not by everyone in turn"
    published = {path.name for path in (tmp_path / "cache" / "v0").iterdir()}
    assert len(published) >= 30
    holder.execute("ROLLBACK")
    holder.close()
    before = warehouse.count()
    frame = mirror(table, tmp_path / "cache")
    assert {Path(path).name for path in frame.loc[frame["status"] == "cached", "path"]} == published
    assert warehouse.count() - before == 40 - len(published)
    assert not list((tmp_path / "cache").glob("v0/*.kept-*"))
    note("121", "locked for longer than the lock timeout", "ManifestError", before)


def held_by_another(cache: MetadataCache) -> sqlite3.Connection:
    """Open a cache, and hold its manifest."""
    assert cache._works.folder.writable
    holder = sqlite3.connect(cache.cache_dir / "manifest.sqlite", isolation_level=None)
    holder.execute("BEGIN IMMEDIATE")
    return holder


# -- not ours, and not to be written -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fault", "statement", "says"),
    [
        ("a newer schema", "PRAGMA user_version = 99", "has schema 99"),
        ("another program's database", "PRAGMA application_id = 12345", "is another program's database"),
    ],
)
def test_case_120_what_is_not_ours_is_left_as_it_is(
    held: Held, cache_folder: Path, tmp_path: Path, note: Callable[..., None], fault: str, statement: str, says: str
) -> None:
    connection = sqlite3.connect(cache_folder / "manifest.sqlite")
    connection.execute(statement)
    connection.close()
    before = {path: path.read_bytes() for path in cache_folder.rglob("*") if path.is_file()}
    held.stated.to_csv(tmp_path / "table.csv", index=False)
    asked = held.warehouse.count()
    for words in (["mirror", str(tmp_path / "table.csv")], ["status"], ["verify"]):
        command = [sys.executable, "-m", "framefetch", *words, str(cache_folder)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=30)
        assert done.returncode == 3
        assert says in done.stderr
    assert {path: path.read_bytes() for path in cache_folder.rglob("*") if path.is_file()} == before
    assert held.warehouse.count() == asked
    note("120", fault, "ManifestError", 0)


def test_case_120_an_older_schema_goes_on(held: Held, cache_folder: Path, note: Callable[..., None]) -> None:
    age(cache_folder, 1)
    asked = held.warehouse.count()
    assert set(mirror(held.table, cache_folder)["status"]) == {"cached"}
    assert query(cache_folder, "PRAGMA user_version") == [(SCHEMA_VERSION,)]
    assert asides(cache_folder) == ["manifest.sqlite.schema-1"]
    assert held.warehouse.count() == asked
    note("120", "an older schema", "cached", 0)


@pytest.mark.usefixtures("plainly")
@pytest.mark.parametrize("kind", ["nfs4", "lustre", "gpfs", "cifs", "fuse.sshfs"])
def test_case_123_a_network_file_system(
    warehouse: WarehouseThread, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, note: Callable[..., None], kind: str
) -> None:
    """A whole run without a write-ahead log, with one rename that finds a stale handle."""
    device = os.stat(tmp_path).st_dev
    table_of_mounts = f"36 35 {os.major(device)}:{os.minor(device)} / /data rw - {kind} server:/x rw"
    monkeypatch.setattr(network, "mount_table", lambda: table_of_mounts)
    real, stale = os.replace, [True]

    def rename(old: str, new: str) -> None:
        if str(new).endswith("/7.bin") and stale:
            stale.clear()
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))
        real(old, new)

    monkeypatch.setattr(os, "replace", rename)
    table = pd.DataFrame({"url": [warehouse.add(f"/{at}.bin", b"%d" % at * 9) for at in range(40)]})
    beside: set[str] = set()

    def look(event: object) -> None:
        beside.update(path.name for path in (tmp_path / "cache").glob("manifest.sqlite*"))

    with MetadataCache(table, tmp_path / "cache", options=replace(EAGER, observers=(look,))) as cache:
        assert set(cache.mirror(table).frame["status"]) == {"downloaded"}
        assert cache.verify("hash") == []
        assert set(cache.mirror(table).frame["status"]) == {"cached"}
    assert beside <= {"manifest.sqlite", "manifest.sqlite-journal"}
    assert warehouse.count() == 40
    assert query(tmp_path / "cache", "PRAGMA journal_mode") == [("delete",)]
    note("123", f"on {kind}, a stale handle at a rename", "downloaded", warehouse.count())


# They were copied, and those of one size and time may have changed places: they are read, which cannot be recorded.
@pytest.mark.filterwarnings("ignore:.*files had to be read:UserWarning")
def test_case_122_a_read_only_disk_holds_what_it_held(held: Held, disk: Callable[[str], Path], note: Callable) -> None:
    folder = disk("size=8m") / "cache"
    shutil.copytree(held.folder, folder)
    disk("ro")
    asked = held.warehouse.count()
    with MetadataCache(held.table, folder, options=EAGER) as cache:
        assert set(cache.mirror(held.table).frame["status"]) == {"cached"}
        assert cache.status().files == FILES
        more = pd.DataFrame({"url": [held.warehouse.url("/9999.bin")]})
        with pytest.raises(StorageError, match="EROFS"):
            cache.mirror(more)
    assert held.warehouse.count() == asked
    note("122", "a read-only disk", "cached", 0)


def test_case_122_a_full_disk_stops_the_run_and_the_manifest_stays(
    warehouse: WarehouseThread, disk: Callable[[str], Path], note: Callable[..., None]
) -> None:
    folder = disk("size=2m") / "cache"
    table = pd.DataFrame({"url": [warehouse.add(f"/{at}.bin", os.urandom(60_000)) for at in range(60)]})
    with MetadataCache(table, folder, options=EAGER) as cache, pytest.raises((StorageError, ManifestError)) as caught:
        cache.mirror(table)
    assert caught.value.fatal
    assert "no space" in str(caught.value).lower()
    disk("size=16m")
    before = warehouse.count()
    with MetadataCache(table, folder, options=EAGER) as cache:
        held_already = cache.status().files
        frame = cache.mirror(table).frame
        assert cache.verify("hash") == []
    assert held_already > 0
    assert (frame["status"] == "cached").sum() == held_already
    assert warehouse.count() - before == 60 - held_already
    note("122", "a full disk", "DiskFull", before)
