"""Does the manifest tell the truth? One finding for each thing that is not as recorded."""

import os
import threading
from dataclasses import replace

import pytest

from framefetch.models import Entity, Verified
from framefetch.store import audit as audit_module
from framefetch.store import writer as writer_module
from framefetch.store.audit import Holdings, audit, count_holdings
from framefetch.store.sidecar import Sidecar, kept_name, write_sidecar
from tests.store.builders import RECEIPT, hold, request, row

BODY = b"the bytes of a file"


@pytest.fixture
def place(folder, tmp_path):
    """Give a function that holds a file and returns where it is."""

    def make(path: str):
        hold(folder, request(path), BODY)
        return tmp_path / "cache" / path

    return make


def findings(folder, level="stat") -> list[tuple[str, str]]:
    return [(finding.kind, finding.path) for finding in audit(folder.files, folder.manifest, level=level)]


def test_what_is_as_recorded_is_no_finding(folder, place) -> None:
    assert findings(folder) == []
    for path in ("v0/1", "v0/deep/2", "v1/1"):
        place(path)
    assert findings(folder) == findings(folder, "hash") == []


def test_each_kind_of_untruth(folder, place, tmp_path) -> None:
    place("v0/good")
    place("v0/missing").unlink()
    for name, make in (("folder", os.mkdir), ("pipe", os.mkfifo), ("link", lambda path: os.symlink("good", path))):
        path = place(f"v0/{name}")
        path.unlink()
        make(path)
    place("v0/longer").write_bytes(BODY + b"!")
    place("v0/touched").touch()
    edited = place("v0/edited")
    before = edited.stat()
    edited.write_bytes(BODY[::-1])
    os.utime(edited, ns=(before.st_atime_ns, before.st_mtime_ns))
    (tmp_path / "cache" / "v0" / "x").mkdir()
    (tmp_path / "cache" / "v0" / "x" / "stranger").write_bytes(b"")
    (tmp_path / "cache" / "v0" / "good.kept-1").write_bytes(b"set aside")
    (tmp_path / "cache" / "notes.txt").write_bytes(b"outside any version")
    at_stat = {
        ("missing", "v0/missing"),
        ("blocked", "v0/folder"),
        ("blocked", "v0/pipe"),
        ("blocked", "v0/link"),
        ("changed", "v0/longer"),
        ("changed", "v0/touched"),
        ("changed", "v0/edited"),
        ("unknown", "v0/x/stranger"),
    }
    assert set(findings(folder)) == at_stat
    assert len(findings(folder)) == len(at_stat)
    by_hash = at_stat - {("changed", "v0/touched"), ("changed", "v0/edited")} | {("corrupt", "v0/edited")}
    assert set(findings(folder, "hash")) == by_hash


def test_a_finding_says_what_was_expected_and_what_is_there(folder, place) -> None:
    place("v0/1").write_bytes(b"x")
    (finding,) = audit(folder.files, folder.manifest, level="stat")
    assert finding.detail == f"recorded with {len(BODY)} bytes, has 1"


def test_thousands_of_entries(folder) -> None:
    folder.manifest.commit([row(number) for number in range(3000)])
    folder.manifest.flush()
    assert set(findings(folder)) == {("missing", f"v0/{number}.nwb") for number in range(3000)}


def test_an_audit_that_is_not_read_to_its_end_leaves_no_thread(folder) -> None:
    folder.manifest.commit([row(number) for number in range(3000)])
    folder.manifest.flush()
    reading = audit(folder.files, folder.manifest, level="stat")
    next(reading)
    reading.close()
    assert [thread.name for thread in threading.enumerate() if "audit" in thread.name] == []


def test_holdings_are_counted(folder, monkeypatch) -> None:
    monkeypatch.setattr(writer_module, "SYNC_SECONDS", 1e6)
    assert count_holdings(folder.manifest) == Holdings(0, 0, {}, {}, 0)
    sure = replace(RECEIPT, size=1 << 40, verified=Verified.DIGEST)
    folder.manifest.commit([row(1), row(2, receipt=sure), row(1, version="v1", path="v1/1.nwb")])
    folder.manifest.flush()
    assert count_holdings(folder.manifest) == Holdings(
        3, (1 << 40) + 6, {"v0": 2, "v1": 1}, {"length": 2, "digest": 1}, 3
    )


def keep_part(folder, key: str, age: float) -> str:
    name = kept_name("v0", key, f"v0/{key}")
    part = f"{folder.private}/parts/{name}"
    write_sidecar(f"{part}.json", Sidecar("v0", key, f"v0/{key}", Entity(key), "", ((3, "0" * 32),)))
    with open(part, "wb") as file:
        file.write(b"half")
    os.utime(part, (1e9 - age, 1e9 - age))
    return f".framefetch/parts/{name}"


def test_parts_that_nobody_goes_on_with(folder) -> None:
    """An interrupted run is no finding; a part that is older than the newest file by more than a day is."""
    recent, old, held = (
        keep_part(folder, "recent", 3600),
        keep_part(folder, "old", 90_000),
        keep_part(folder, "held", 60),
    )
    assert findings(folder) == []
    for key, path in (("x", "v0/x"), ("held", "v0/held")):
        entry = hold(folder, request(path, key=key), BODY)
        folder.manifest.commit([replace(entry, fetched_at=1e9)])
    folder.manifest.flush()
    assert sorted(findings(folder)) == sorted([("part", old), ("part", held)])
    assert recent not in [path for _, path in findings(folder)]


def test_a_link_to_a_folder_is_a_finding_and_not_followed(folder, place, tmp_path) -> None:
    place("v0/1")
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "file").write_bytes(b"")
    (tmp_path / "cache" / "v0" / "way-out").symlink_to(tmp_path / "outside")
    assert findings(folder) == [("unknown", "v0/way-out")]


@pytest.mark.parametrize("level", ["stat", "hash"])
@pytest.mark.parametrize("leads", ["to the files", "nowhere"])
@pytest.mark.parametrize(
    ("linked", "found"),
    [
        ("v0", [("blocked", "v0/1"), ("blocked", "v0/a/2"), ("blocked", "v0")]),
        ("v0/a", [("blocked", "v0/a/2"), ("unknown", "v0/a")]),
    ],
)
def test_what_stands_behind_a_link_is_not_held(folder, place, tmp_path, linked, found, leads, level) -> None:
    for path in ("v0/1", "v0/a/2", "v1/1"):
        place(path)
    (tmp_path / "cache" / linked).rename(tmp_path / "moved")
    (tmp_path / "cache" / linked).symlink_to(tmp_path / ("moved" if leads == "to the files" else "none"))
    assert findings(folder, level) == found
    blocked = [finding for finding in audit(folder.files, folder.manifest, level=level) if finding.path == found[0][1]]
    assert [finding.detail for finding in blocked] == [f"a link stands at {linked}; nothing is held behind one"]


def test_a_link_in_the_place_of_a_file_beside_the_versions_is_one_finding(folder, place, tmp_path) -> None:
    """A prototype may have kept its files there."""
    place("1").unlink()
    (tmp_path / "cache" / "1").symlink_to(tmp_path)
    assert findings(folder) == [("blocked", "1")]


def test_a_folder_beside_the_versions_that_nothing_explains_is_one_finding(folder, place, tmp_path) -> None:
    """It may be a version whose rows were lost; what is hidden or only set aside, and what holds nothing, is none."""
    place("v0/1")
    for path in ("v1/a", "v1/deep/b", "v2/x.kept-1", ".hidden/c"):
        (tmp_path / "cache" / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "cache" / path).write_bytes(b"")
    (tmp_path / "cache" / "v3" / "empty").mkdir(parents=True)
    (tmp_path / "outside").mkdir()
    (tmp_path / "cache" / "v4").symlink_to(tmp_path / "outside")
    assert findings(folder) == [("unknown", "v1"), ("blocked", "v4")]
    (detail,) = [finding.detail for finding in audit(folder.files, folder.manifest, level="stat")][:1]
    assert detail == "no entry of the manifest explains v1/a, or any other file in this folder"
    folder.manifest.forget(list(folder.manifest.entries()))
    folder.manifest.flush()
    assert findings(folder) == [("unknown", "v0"), ("unknown", "v1"), ("blocked", "v4")]


def test_who_watches_is_told_of_every_file(folder, place) -> None:
    for at in range(5):
        place(f"v0/{at}")
    seen = []
    list(audit(folder.files, folder.manifest, level="hash", watch=seen.append))
    assert seen == [len(BODY)] * 5


def test_files_are_read_side_by_side(folder, place, monkeypatch) -> None:
    monkeypatch.setattr(audit_module, "HASH_THREADS", 4)
    for at in range(4):
        place(f"v0/{at}")
    together = threading.Barrier(4)
    real = folder.files.hash

    def hashing(*arguments):
        together.wait(10)
        return real(*arguments)

    monkeypatch.setattr(folder.files, "hash", hashing)
    assert findings(folder, "hash") == []
