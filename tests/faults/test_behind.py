"""Edits behind the manifest's back, and files that were there before: found by the default check, never lost."""

import hashlib
import os
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from framefetch import MetadataCache, Options
from framefetch.warehouse import WarehouseThread
from tests.conftest import EAGER
from tests.store.builders import date, query

BODY = b"the bytes of a file" * 50


@pytest.fixture
def table(warehouse: WarehouseThread) -> pd.DataFrame:
    return pd.DataFrame({"url": [warehouse.add(f"/{name}.bin", name.encode() + BODY) for name in "abc"]})


def edit(victim: Path) -> None:
    """Flip a byte, and put the time back."""
    before = victim.stat()
    body = bytearray(victim.read_bytes())
    body[7] ^= 1
    victim.write_bytes(body)
    os.utime(victim, ns=(before.st_atime_ns, before.st_mtime_ns))


def replace_by_copy(victim: Path) -> None:
    """Edit a copy with the old time, and move it there: another inode, whose ctime says nothing."""
    copy = victim.with_suffix(".copy")
    before = victim.stat()
    copy.write_bytes(victim.read_bytes()[::-1])
    os.utime(copy, ns=(before.st_atime_ns, before.st_mtime_ns))
    copy.rename(victim)


def by_link(victim: Path) -> None:
    target = victim.parent.parent.parent / "precious"
    target.write_bytes(victim.read_bytes())
    victim.unlink()
    victim.symlink_to(target)


@pytest.mark.parametrize(
    ("fault", "harm", "kind"),
    [
        ("deleted", Path.unlink, "missing"),
        ("truncated", lambda victim: os.truncate(victim, 100), "changed"),
        ("emptied", lambda victim: os.truncate(victim, 0), "changed"),
        ("edited, times and all", lambda victim: victim.write_bytes(victim.read_bytes()[::-1]), "changed"),
        ("edited, mtime put back", edit, "changed"),
        ("replaced by a link", by_link, "blocked"),
    ],
)
@pytest.mark.filterwarnings("ignore:.*checksum changed:UserWarning", "ignore:.*was a link:UserWarning")
def test_case_124_found_by_the_default_check(
    warehouse: WarehouseThread, table: pd.DataFrame, open_cache: Callable[..., MetadataCache], tmp_path: Path,
    note: Callable[..., None], fault: str, harm: Callable[[Path], object], kind: str,
) -> None:  # fmt: skip
    cache = open_cache(table)
    assert cache.mirror(table).ok.all()
    victim = tmp_path / "cache" / "v0" / "b.bin"
    harm(victim)
    assert [(finding.kind, finding.path) for finding in cache.verify()] == [(kind, "v0/b.bin")]
    frame = cache.mirror(table).frame
    assert frame["status"].tolist() == ["cached", "downloaded", "cached"]
    assert [warehouse.count(f"/{name}.bin") for name in "abc"] == [1, 2, 1]
    assert victim.read_bytes() == b"b" + BODY
    assert not victim.is_symlink()
    assert not (tmp_path / "precious").exists() or (tmp_path / "precious").read_bytes() == b"b" + BODY
    assert cache.verify("hash") == []
    note("124", fault, "downloaded", 1)


def test_case_124_a_folder_in_its_place_is_left_alone(
    warehouse: WarehouseThread, table: pd.DataFrame, open_cache: Callable[..., MetadataCache], tmp_path: Path,
    note: Callable[..., None],
) -> None:  # fmt: skip
    cache = open_cache(table)
    cache.mirror(table)
    victim = tmp_path / "cache" / "v0" / "b.bin"
    victim.unlink()
    victim.mkdir()
    (victim / "mine").write_bytes(b"x")
    assert [(finding.kind, finding.detail) for finding in cache.verify()][:1] == [
        ("blocked", "a folder stands in its place")
    ]
    frame = cache.mirror(table).frame
    assert frame["status"].tolist() == ["cached", "failed", "cached"]
    assert frame["error_type"][1] == "TargetBlocked"
    assert (victim / "mine").read_bytes() == b"x"
    assert warehouse.count() == 3
    note("124", "replaced by a folder", "TargetBlocked", 0)


def test_case_124_the_old_bytes_are_warned_of(
    table: pd.DataFrame, open_cache: Callable[..., MetadataCache], tmp_path: Path
) -> None:
    cache = open_cache(table)
    cache.mirror(table)
    edit(tmp_path / "cache" / "v0" / "b.bin")
    with pytest.warns(UserWarning, match="checksum changed: v0/b.bin is recorded with md5:"):
        cache.mirror(table)


def test_case_124_a_date_that_no_integer_holds_stops_nobody(
    warehouse: WarehouseThread, table: pd.DataFrame, open_cache: Callable[..., MetadataCache], tmp_path: Path
) -> None:
    assert open_cache(table.head(2)).mirror(table.head(2)).ok.all()
    date(tmp_path / "cache" / "v0" / "b.bin", 2400)
    for cache, expected in ((open_cache(table), "downloaded"), (open_cache(table), "cached")):
        assert cache.mirror(table).frame["status"].tolist() == ["cached", "cached", expected]
        assert cache.verify("hash") == []
        assert cache.rebuild().held == 3
    assert warehouse.count() == 3


@pytest.mark.parametrize("harm", [edit, replace_by_copy])
@pytest.mark.filterwarnings("ignore:.*checksum changed:UserWarning")
def test_case_124_what_no_stat_can_tell_is_found_by_reading(
    warehouse: WarehouseThread, table: pd.DataFrame, open_cache: Callable[..., MetadataCache], tmp_path: Path,
    note: Callable[..., None], harm: Callable[[Path], None],
) -> None:  # fmt: skip
    """Size, mtime, and ctime on the same inode, all as recorded: documented to be found by ``verify="hash"`` only."""
    cache = open_cache(table)
    for at in range(len(table)):  # one after the other: else another inode is not believed, as places may have changed
        cache.mirror(table[at : at + 1])
    victim = tmp_path / "cache" / "v0" / "b.bin"
    while victim.stat().st_mtime_ns in {(victim.parent / name).stat().st_mtime_ns for name in ("a.bin", "c.bin")}:
        victim.unlink()
        cache.mirror(table[1:2])
    warehouse.clear_log()
    harm(victim)
    found = victim.stat()
    connection = sqlite3.connect(tmp_path / "cache" / "manifest.sqlite")
    with connection:  # a clock that was put back does as much to the file
        inode = found.st_ino if harm is edit else "inode"
        ctime = found.st_ctime_ns if harm is edit else "ctime_ns"
        connection.execute(f"UPDATE entries SET ctime_ns = {ctime}, inode = {inode} WHERE path = 'v0/b.bin'")
    connection.close()
    assert cache.verify("stat") == []
    assert set(cache.mirror(table).frame["status"]) == {"cached"}
    (finding,) = cache.verify("hash")
    assert (finding.kind, finding.path) == ("corrupt", "v0/b.bin")
    assert "recorded with md5:" in finding.detail
    reading = open_cache(table, options=Options(verify="hash", retry=EAGER.retry))
    assert reading.mirror(table).frame["status"].tolist() == ["cached", "downloaded", "cached"]
    assert victim.read_bytes() == b"b" + BODY
    note("124", f"no stat can tell ({harm.__name__})", "downloaded", 1)


@pytest.mark.parametrize(
    ("fault", "there", "stated", "status", "requests"),
    [
        ("ours by its digest", b"b" + BODY, True, "cached", 0),
        ("somebody's, digest stated", b"my own work", True, "downloaded", 1),
        ("somebody's, nothing stated", b"my own work", False, "downloaded", 1),
        ("the same bytes, nothing stated", b"b" + BODY, False, "downloaded", 1),
    ],
)
@pytest.mark.filterwarnings("ignore:.*was there before and is not in the manifest:UserWarning")
def test_case_125_a_file_that_was_there_before(
    warehouse: WarehouseThread, table: pd.DataFrame, open_cache: Callable[..., MetadataCache], tmp_path: Path,
    note: Callable[..., None], fault: str, there: bytes, stated: bool, status: str, requests: int,
) -> None:  # fmt: skip
    victim = tmp_path / "cache" / "v0" / "b.bin"
    victim.parent.mkdir(parents=True)
    victim.write_bytes(there)
    if stated:
        table["md5"] = [hashlib.md5(name.encode() + BODY).hexdigest() for name in "abc"]
    frame = open_cache(table).mirror(table).frame
    assert frame["status"].tolist() == ["downloaded", status, "downloaded"]
    assert warehouse.count("/b.bin") == requests
    assert victim.read_bytes() == b"b" + BODY
    kept = victim.with_name("b.bin.kept-1")
    assert kept.exists() is (there == b"my own work")
    assert not kept.exists() or kept.read_bytes() == there
    assert query(tmp_path / "cache", "SELECT count(*) FROM entries") == [(3,)]
    note("125", fault, status, requests)


@pytest.mark.filterwarnings("ignore:.*was there before and is not in the manifest:UserWarning")
def test_case_125_a_failure_leaves_the_file_that_was_there(
    warehouse: WarehouseThread, table: pd.DataFrame, open_cache: Callable[..., MetadataCache], tmp_path: Path,
    note: Callable[..., None],
) -> None:  # fmt: skip
    victim = tmp_path / "cache" / "v0" / "b.bin"
    victim.parent.mkdir(parents=True)
    victim.write_bytes(b"my own work")
    table["md5"] = "0" * 32
    frame = open_cache(table).mirror(table).frame
    assert set(frame["error_type"]) == {"DigestMismatch"}
    assert [path.name for path in victim.parent.iterdir()] == ["b.bin"]
    assert victim.read_bytes() == b"my own work"
    note("125", "somebody's, and the fetch fails", "DigestMismatch", warehouse.count("/b.bin"))
