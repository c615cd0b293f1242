"""The same content once: no request for a digest that is held, and one place on the disk if asked for."""

import contextlib
import hashlib
import os
import shutil
import sqlite3
import subprocess
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from framefetch import MetadataCache, TableOptions
from framefetch.models import Entry
from framefetch.store.sharing import SameContent
from framefetch.warehouse import WarehouseThread, hdf5_file
from tests.conftest import EAGER, needed
from tests.store.builders import date

SHARING = replace(EAGER, share_content=True)
BODIES = [hdf5_file(30_000 + at, seed=at) for at in range(6)]
OpenCache = Callable[..., MetadataCache]


@pytest.fixture
def table(warehouse: WarehouseThread) -> pd.DataFrame:
    """Give a table that states the digests of six files."""
    return pd.DataFrame(
        {
            "url": [warehouse.add(f"/{at}.nwb", body) for at, body in enumerate(BODIES)],
            "md5": [hashlib.md5(body).hexdigest() for body in BODIES],
        }
    )


def inodes(frame: pd.DataFrame) -> list[int]:
    return [os.stat(path).st_ino for path in frame["path"]]


@pytest.mark.parametrize("options", [EAGER, SHARING], ids=["copied", "shared"])
def test_a_new_version_of_what_is_held_costs_no_request(
    options: object, table: pd.DataFrame, warehouse: WarehouseThread, open_cache: OpenCache
) -> None:
    cache = open_cache(table, options=options)
    old = cache.mirror(table).frame
    new = cache.mirror(table, "v1").frame
    assert warehouse.count() == len(BODIES)
    assert new["status"].tolist() == ["cached"] * len(BODIES)
    assert new["verified"].tolist() == ["digest"] * len(BODIES)
    assert [Path(path).read_bytes() for path in new["path"]] == BODIES
    assert [Path(path).parent.name for path in new["path"]] == ["v1"] * len(BODIES)
    assert (inodes(new) == inodes(old)) is (options is SHARING)
    assert cache.verify("stat") == cache.verify("hash") == []


def test_files_with_dates_that_no_integer_holds_share_their_bytes(
    table: pd.DataFrame, warehouse: WarehouseThread, open_cache: OpenCache
) -> None:
    cache = open_cache(table, options=SHARING)
    for path in cache.mirror(table).frame["path"]:
        date(path, 2400)
    old = cache.mirror(table).frame
    others = table.assign(url=table["url"].str.replace(".nwb", "-too.nwb"))
    twice = pd.concat([table, others], ignore_index=True)
    assert inodes(cache.mirror(twice, "v1").frame) == inodes(old) * 2
    assert cache.verify("stat") == []
    assert warehouse.count() == len(BODIES)


def test_a_changed_url_of_the_same_digest_costs_no_request(
    table: pd.DataFrame, warehouse: WarehouseThread, open_cache: OpenCache
) -> None:
    cache = open_cache(table)
    cache.mirror(table)
    moved = table.assign(url=table["url"].str.replace(".nwb", "-moved.nwb"))
    frame = cache.mirror(moved).frame
    assert frame["status"].tolist() == ["cached"] * len(BODIES)
    assert [Path(path).read_bytes() for path in frame["path"]] == BODIES
    assert warehouse.count() == len(BODIES)


def test_a_twin_that_was_edited_is_no_twin(
    table: pd.DataFrame, warehouse: WarehouseThread, open_cache: OpenCache
) -> None:
    """Also where the editor put the time back: the digest on record is not that of these bytes any more."""
    cache = open_cache(table)
    path = Path(cache.mirror(table).frame["path"][2])
    before = path.stat()
    path.write_bytes(BODIES[2][:-1] + b"!")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    frame = cache.mirror(table, "v1").frame
    assert frame["status"].tolist() == ["cached"] * 2 + ["downloaded"] + ["cached"] * 3
    assert Path(frame["path"][2]).read_bytes() == BODIES[2]


@pytest.mark.parametrize("options", [EAGER, SHARING], ids=["copied", "shared"])
def test_what_stands_behind_a_link_is_no_twin(
    options: object, table: pd.DataFrame, warehouse: WarehouseThread, open_cache: OpenCache, tmp_path: Path
) -> None:
    cache = open_cache(table, options=options)
    folder = Path(cache.mirror(table).frame["path"][0]).parent
    folder.rename(tmp_path / "moved")
    folder.symlink_to(tmp_path / "moved")
    frame = cache.mirror(table, "v1").frame
    assert frame["status"].tolist() == ["downloaded"] * len(BODIES)
    assert [os.stat(path).st_nlink for path in frame["path"]] == [1] * len(BODIES)


def test_other_sizes_and_digests_than_the_table_states_are_no_twins(
    table: pd.DataFrame, warehouse: WarehouseThread, open_cache: OpenCache
) -> None:
    cache = open_cache(table, options=SHARING)
    cache.mirror(table)
    sha256 = [hashlib.sha256(body).hexdigest() for body in BODIES]
    sha256[4] = "0" * 64
    frame = cache.mirror(table.assign(sha256=sha256), "v1").frame
    assert frame["status"].tolist() == ["cached"] * 4 + ["failed"] + ["cached"]
    assert frame["error_type"][4] == "DigestMismatch"
    assert warehouse.count() == len(BODIES) + 2, "the wrong one was asked for, and once more"


def test_what_is_fetched_twice_is_stored_once(warehouse: WarehouseThread, open_cache: OpenCache) -> None:
    """Three URLs of one content, in two versions, and no digest stated."""
    body = BODIES[0]
    frame = pd.DataFrame({"url": [warehouse.add(f"/same{at}.nwb", body) for at in range(3)]})
    cache = open_cache(frame, options=SHARING)
    first = cache.mirror(frame).frame
    second = cache.mirror(frame, "v1").frame
    assert len(set(inodes(first) + inodes(second))) == 1
    assert {Path(path).read_bytes() for path in [*first["path"], *second["path"]]} == {body}
    assert warehouse.count() == 6
    assert cache.verify("stat") == [], "the rows know the time that a new name gives to a file"
    assert cache.mirror(frame).frame["status"].tolist() == ["cached"] * 3


def test_an_edit_under_one_name_is_found_under_all(
    table: pd.DataFrame, warehouse: WarehouseThread, open_cache: OpenCache
) -> None:
    cache = open_cache(table, options=SHARING)
    old = cache.mirror(table).frame
    new = cache.mirror(table, "v1").frame
    with open(new["path"][1], "r+b") as file:
        file.write(b"edited")
    with pytest.warns(UserWarning, match="checksum changed"):
        again = cache.mirror(table).frame
    with pytest.warns(UserWarning, match="checksum changed"):
        later = cache.mirror(table, "v1").frame
    assert again["path"].tolist() == old["path"].tolist()
    for frame in (again, later):
        assert [Path(path).read_bytes() for path in frame["path"]] == BODIES
    assert cache.verify("hash") == []


def test_what_a_power_cut_may_have_spoiled_lends_its_bytes_to_nobody(
    table: pd.DataFrame, warehouse: WarehouseThread, open_cache: OpenCache
) -> None:
    """Two names of one file, right in size and time and wrong in its bytes, beside a right one of the same digest."""
    cache = open_cache(table, options=SHARING)
    two = table.iloc[[0, 0]].assign(name=["a", "b"])
    linked = open_cache(two, options=SHARING, table=TableOptions(path_template="{name}.nwb")).mirror(two, "v0").frame
    apart = open_cache(table).mirror(table.head(1), "v1").frame
    assert (inodes(linked)[0], inodes(linked)[1] == inodes(linked)[0]) != (inodes(apart)[0], False)
    path = Path(linked["path"].iloc[0])
    before = path.stat()
    with path.open("r+b") as file:
        file.write(b"spoilt")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    with closing(sqlite3.connect(cache.cache_dir / "manifest.sqlite")) as manifest, manifest:
        manifest.execute("INSERT INTO windows VALUES (999999, '')")
        manifest.execute("UPDATE entries SET window = 999999 WHERE version = 'v0'")
    fresh = open_cache(two, options=SHARING, table=TableOptions(path_template="{name}.nwb"))
    made = fresh.mirror(two, "v2").frame
    assert [Path(name).read_bytes() for name in made["path"]] == BODIES[:1] * 2
    assert made["status"].tolist() == ["cached"] * 2


@pytest.mark.parametrize(("moment", "kept"), [("share", ""), ("_is_intact", ".kept-1")])
def test_what_somebody_writes_after_a_file_was_fetched_is_not_lost(
    warehouse: WarehouseThread, open_cache: OpenCache, monkeypatch: pytest.MonkeyPatch, moment: str, kept: str
) -> None:
    """Before its turn to share bytes comes, and after it was looked at for that."""
    frame = pd.DataFrame({"url": [warehouse.add(f"/same{at}.nwb", BODIES[0]) for at in range(2)]})
    cache = open_cache(frame, options=SHARING)
    second = cache.cache_dir / "v0" / "same1.nwb"
    cache.mirror(frame.head(1))
    share, is_intact = SameContent.share, SameContent._is_intact

    def write() -> None:
        second.unlink()
        second.write_bytes(b"my own work")

    def looked(self: SameContent, group: Any, entry: Entry) -> bool:
        found = is_intact(self, group, entry)
        if entry.path == "v0/same1.nwb":
            write()
        return found

    early = {"share": lambda *given: (write(), share(*given))[1], "_is_intact": looked}
    monkeypatch.setattr(SameContent, moment, early[moment])
    with pytest.warns(UserWarning, match="kept as") if kept else contextlib.nullcontext():
        assert cache.mirror(frame).ok.all()
    assert second.with_name(f"same1.nwb{kept}").read_bytes() == b"my own work"


def test_without_being_asked_nothing_is_shared(warehouse: WarehouseThread, open_cache: OpenCache) -> None:
    frame = pd.DataFrame({"url": [warehouse.add(f"/same{at}.nwb", BODIES[0]) for at in range(3)]})
    assert len(set(inodes(open_cache(frame).mirror(frame).frame))) == 3


@pytest.fixture
def btrfs(tmp_path: Path) -> Iterator[Path]:
    """Give a folder on a file system with reflinks; made in a file, which only an administrator may mount."""
    needed(shutil.which("mkfs.btrfs") is not None, "btrfs-progs")
    if os.geteuid() != 0:
        pytest.skip("needs to be root")
    image, folder = tmp_path / "image", tmp_path / "btrfs"
    with image.open("wb") as file:
        file.truncate(128 << 20)
    folder.mkdir()
    subprocess.run(["mkfs.btrfs", "-q", str(image)], check=True, capture_output=True)
    mounted = subprocess.run(["mount", "-o", "loop", str(image), str(folder)], capture_output=True, text=True)
    if mounted.returncode:
        pytest.skip(f"nothing can be mounted here: {mounted.stderr.strip()}")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_reflink_shares_bytes_and_nothing_else(table: pd.DataFrame, warehouse: WarehouseThread, btrfs: Path) -> None:
    body = hdf5_file(40 << 20, seed=9)
    frame = pd.DataFrame({"url": [warehouse.add("/large.nwb", body)], "md5": [hashlib.md5(body).hexdigest()]})
    with MetadataCache(frame, btrfs / "cache", options=SHARING) as cache:
        frames = [cache.mirror(frame, version).frame for version in ("v0", "v1", "v2", "v3")]
        paths = [Path(found["path"][0]) for found in frames]
        assert len({path.stat().st_ino for path in paths}) == 4
        assert shutil.disk_usage(btrfs).used < 2 * len(body), "four files of 40 MiB on 128 MiB"
        assert cache.verify("hash") == []
        with paths[1].open("r+b") as file:
            file.write(b"edited")
        assert [path.read_bytes() == body for path in paths] == [True, False, True, True]
    assert warehouse.count() == 1
