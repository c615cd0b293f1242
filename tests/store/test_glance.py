"""The short way agrees with the long one wherever it decides, and leaves the rest alone."""

import os
from array import array
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from framefetch.models import Digest, Verified
from framefetch.store.glance import SAMPLE, glance, missing_places
from framefetch.store.held import HeldCheck
from framefetch.table.requests import TableRequests
from tests.store.builders import date, digest, hold, request

BODY = b"the bytes of a file"
SHA256 = "a" * 64


def plan(*wanted) -> TableRequests:
    """Return requests as a table has them: columns."""
    algorithms = {stated.algorithm for one in wanted for stated in one.digests}
    return TableRequests(
        version="v0",
        keys=[one.key for one in wanted],
        urls=[one.urls[0] for one in wanted],
        names=[one.path.removeprefix("v0/") for one in wanted],
        mirrors={},
        sizes=np.array([-1 if one.size is None else one.size for one in wanted], dtype=np.int64),
        digests={
            name: np.array(
                [next((stated.hex for stated in one.digests if stated.algorithm == name), None) for one in wanted],
                dtype=object,
            )
            for name in sorted(algorithms)
        },
    )


def look(folder, requests) -> tuple[list[int], list[int]]:
    """Return what a glance calls held, and what it leaves."""
    left, unknown = array("q"), array("q")
    seen = glance(requests, range(len(requests)), folder.manifest, folder.root, left, unknown)
    held = [file for some in seen for file in some.files]
    assert sorted({*held, *left, *unknown}) == list(range(len(requests)))
    recorded = {entry.key for entry in folder.manifest.lookup(requests.version, requests.keys)}
    assert list(unknown) == [file for file, key in enumerate(requests.keys) if key not in recorded]
    return held, list(left)


def test_what_is_as_recorded_is_settled_with_its_figures(folder) -> None:
    hold(folder, request(), BODY)
    left = array("q")
    (found,) = glance(plan(request()), [0], folder.manifest, folder.root, left, left)
    assert found == ([0], [len(BODY)], [Verified.LENGTH], [digest(BODY).hex])
    assert not left


def edited(folder, path: Path) -> None:
    times = path.stat()
    path.write_bytes(BODY.upper())
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))


def linked(folder, path: Path) -> None:
    path.rename(path.with_suffix(".real"))
    path.symlink_to(path.with_suffix(".real"))


CHANGES = {
    "nothing": lambda folder, path: None,
    "gone": lambda folder, path: path.unlink(),
    "longer": lambda folder, path: path.write_bytes(BODY * 2),
    "edited, mtime put back": edited,
    "touched": lambda folder, path: os.utime(path, ns=(1, 1)),
    "a link": linked,
    "a folder": lambda folder, path: (path.unlink(), path.mkdir()),
    "copied over": lambda folder, path: (path.rename(f"{path}.x"), path.write_bytes(BODY)),
}
STATED = {
    "nothing": {},
    "its md5": {"digests": (digest(BODY),)},
    "another md5": {"digests": (digest(b"x"),)},
    "a sha256 nobody recorded": {"digests": (Digest("sha256", SHA256),)},
    "md5 and a sha256": {"digests": (digest(BODY), Digest("sha256", SHA256))},
    "its size": {"size": len(BODY)},
    "another size": {"size": 1},
    "another path": {"path": "v0/elsewhere.nwb"},
    "another key": {"key": "http://host/other.nwb"},
}


@pytest.mark.parametrize("stated", STATED)
@pytest.mark.parametrize("change", CHANGES)
def test_it_agrees_with_the_whole_ladder(folder, change: str, stated: str) -> None:
    hold(folder, replace(request(), digests=(digest(BODY),)), BODY)
    CHANGES[change](folder, Path(folder.root, "v0/1.nwb"))
    wanted = replace(request(), **STATED[stated])
    held, left = look(folder, plan(wanted))
    check = HeldCheck(folder.files, folder.manifest, "stat", fixed_paths=True, look_only=True)
    found = list(check.run([wanted], [0]))
    plain = [finding.index for finding in found if finding.entry is None and finding.path == wanted.path]
    if held:
        assert (plain, left) == ([0], [])
    if not held and not left:
        assert (found, check.report.blocked, check.report.ours) == ([], {}, {}), "plainly missing"
    if change == "nothing" and stated in ("nothing", "its md5", "its size"):
        assert held == [0], "the plain case is what this is for"


@pytest.mark.parametrize("year", [1677, 2262, 2400])
def test_a_date_that_no_integer_holds_is_as_plain_as_others(folder, year: int) -> None:
    wanted = request()
    hold(folder, wanted, BODY)
    date(Path(folder.root, wanted.path), year)
    check = HeldCheck(folder.files, folder.manifest, "stat", fixed_paths=True)
    folder.manifest.commit([finding.entry for finding in check.run([wanted], [0])])
    folder.manifest.flush()
    assert look(folder, plan(wanted)) == ([0], [])


def test_a_key_in_two_places_and_a_new_version_are_left(folder) -> None:
    hold(folder, request(), BODY)
    assert look(folder, replace(plan(request()), version="v1")) == ([], [0])
    hold(folder, request("v0/2.nwb", key=request().key), BODY)
    assert look(folder, plan(request())) == ([], [0])


def test_many_blocks_keep_their_order(folder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("framefetch.store.glance.LOOKUP_ROWS", 3)
    wanted = [request(f"v0/{at}.nwb", key=f"http://host/{at}.nwb", index=at) for at in range(10)]
    for one in wanted[::2]:
        hold(folder, one, BODY)
    assert look(folder, plan(*wanted)) == ([0, 2, 4, 6, 8], []), "the others are plainly missing"
    for one in wanted[1::4]:
        Path(folder.root, one.path).touch()
    assert look(folder, plan(*wanted)) == ([0, 2, 4, 6, 8], [1, 5, 9])


def placed(root: Path, *there: str) -> None:
    for path in there:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).touch()


def test_missing_places_are_found_in_every_folder(tmp_path) -> None:
    placed(tmp_path, "v0/a", "v0/x/a", "v0/x/y/a", "v0/other")
    (tmp_path / "v0/link").symlink_to("nowhere")
    paths = ["v0/a", "v0/b", "v0/x/a", "v0/x/b", "v0/x/y/a", "v0/z/a", "v0/link", "v0/A"]
    wanted = plan(*(request(path) for path in paths))
    assert missing_places(wanted, range(len(paths)), str(tmp_path)) == [1, 3, 5, 7]
    assert missing_places(wanted, [6, 5, 0], str(tmp_path)) == [5]
    assert missing_places(wanted, [0, 2, 6], str(tmp_path)) == []


def test_one_that_is_missing_at_the_end_of_many_is_found(tmp_path) -> None:
    many = 20 * SAMPLE
    placed(tmp_path, *(f"v0/{at}" for at in range(many) if at not in (many - 3, 77)))
    wanted = plan(*(request(f"v0/{at}") for at in range(many)))
    assert missing_places(wanted, range(many), str(tmp_path)) == [77, many - 3]


@pytest.mark.parametrize("linked", ["v0", "v0/a"])
def test_what_is_behind_a_link_is_looked_at_in_full(folder, tmp_path, linked) -> None:
    known, unknown, apart = request("v0/a/1"), request("v0/a/2", index=1), request("v0/3", index=2)
    hold(folder, known, BODY)
    hold(folder, apart, BODY)
    place = Path(folder.root, linked)
    place.rename(tmp_path / "moved")
    place.symlink_to(tmp_path / "moved")
    doubtful, nobodys = array("q"), array("q")
    found = list(glance(plan(known, unknown, apart), range(3), folder.manifest, folder.root, doubtful, nobodys))
    assert [file for glimpse in found for file in glimpse.files] == ([2] if linked == "v0/a" else [])
    assert list(doubtful) == ([0, 1] if linked == "v0/a" else [0, 1, 2])
    assert list(nobodys) == [1]
