"""Do we hold it? Each rule at the top of held.py, on real files."""

import hashlib
import os
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from framefetch import MetadataCache
from framefetch.errors import DiskFull, StorageError, TargetBlocked, UnsafePath
from framefetch.models import Digest, Entry, Receipt, Request, Verified
from framefetch.store import manifest as manifest_module
from framefetch.store import writer as writer_module
from framefetch.store.audit import audit
from framefetch.store.held import HeldCheck, State, judge, unchanged
from framefetch.store.places import inode_of, sight_of
from framefetch.warehouse import hdf5_file
from tests.store.builders import date, digest, hold, parts, request, row, tree

BODY = b"the bytes of a file"
OTHER = b"THE BYTES OF A FILE"  # as long


def check(folder, *wanted, level="stat", fixed=False, look_only=False):
    """Return what is held, and the report."""
    held = HeldCheck(folder.files, folder.manifest, level, fixed_paths=fixed, look_only=look_only)
    return list(held.run(wanted, range(len(wanted)))), held.report


def hashed(folder, monkeypatch) -> list[str]:
    """Return a list that grows by each file that is read."""
    seen: list[str] = []
    real = folder.files.hash
    monkeypatch.setattr(folder.files, "hash", lambda path, algorithms: (seen.append(path), real(path, algorithms))[1])
    return seen


def place(folder, path: str = "v0/1.nwb") -> Path:
    return Path(folder.root, path)


def seen_at(folder, path: str = "v0/1.nwb"):
    return {path: sight_of(place(folder, path).lstat())}


def edit(path: Path, content: bytes) -> None:
    """Write other bytes in place and put mtime back, as a careful editor or rsync does."""
    before = path.stat()
    with path.open("r+b") as file:
        file.write(content)
        file.truncate()
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


# -- the cost of a stat --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 5000])
def test_what_is_as_recorded_is_held_for_a_stat(folder, monkeypatch, count) -> None:
    entry = hold(folder, request(), BODY)
    wanted = [request(f"v0/{at}", key="http://host/1.nwb", index=at) for at in range(count)]
    seen = hashed(folder, monkeypatch)
    findings, report = check(folder, *wanted)
    assert [(finding.index, finding.path, finding.entry) for finding in findings] == [
        (at, "v0/1.nwb", None) for at in range(count)
    ]
    assert findings[0].receipt == entry.receipt
    assert (seen, report.ours, report.blocked, report.warnings) == ([], {}, {}, [])


def test_nothing_is_held_of_nothing(folder) -> None:
    assert check(folder) == ([], check(folder)[1])
    findings, report = check(folder, request())
    assert (findings, report.ours, report.blocked) == ([], {}, {})


def test_another_version_holds_nothing(folder) -> None:
    hold(folder, request(), BODY)
    assert check(folder, request("v1/1.nwb", key="http://host/1.nwb"))[0] == []


def test_a_removed_file_is_fetched_to_its_place(folder) -> None:
    hold(folder, request(), BODY)
    place(folder).unlink()
    findings, report = check(folder, request())
    assert (findings, report.ours, report.warnings) == ([], {"v0/1.nwb": None}, [])


def test_a_link_in_its_place_is_no_file_of_ours(folder, tmp_path) -> None:
    hold(folder, request(digests=(digest(BODY),)), BODY)
    shutil.move(place(folder), tmp_path / "elsewhere")
    place(folder).symlink_to(tmp_path / "elsewhere")
    assert check(folder, request(digests=(digest(BODY),)))[0] == []
    assert check(folder, request(), level="hash")[0] == []


# -- a hash --------------------------------------------------------------------------------------------------------


def test_a_touched_file_is_hashed_once_and_its_row_refreshed(folder, monkeypatch) -> None:
    old = hold(folder, request(), BODY)
    os.utime(place(folder), (1, 1))
    seen = hashed(folder, monkeypatch)
    (finding,), report = check(folder, request())
    assert finding.receipt.mtime_ns == 1_000_000_000
    assert finding.entry == replace(old, receipt=finding.receipt)
    assert report.warnings == []
    folder.manifest.commit([finding.entry])
    folder.manifest.flush()
    assert check(folder, request())[0][0].entry is None
    assert seen == ["v0/1.nwb"]


@pytest.mark.parametrize("year", [1600, 1677, 2262, 2400, 9999])
def test_a_date_that_no_integer_holds_is_recorded_and_known_again(folder, monkeypatch, year) -> None:
    hold(folder, request(), BODY)
    date(place(folder), year)
    seen = hashed(folder, monkeypatch)
    (finding,), report = check(folder, request())
    folder.manifest.commit([finding.entry, row(2)])
    folder.manifest.flush()
    assert [entry.key for entry in folder.manifest.entries()] == [request().key, row(2).key]
    (again,), _ = check(folder, request())
    assert (again.entry, again.receipt) == (None, finding.receipt)
    assert (seen, report.warnings) == (["v0/1.nwb"], [])


@pytest.mark.parametrize("content", [OTHER, b"short", BODY + b"more", b""])
def test_a_changed_file_is_told_and_fetched_anew(folder, content) -> None:
    hold(folder, request(), BODY)
    place(folder).write_bytes(content)
    findings, report = check(folder, request())
    assert findings == []
    assert report.ours == seen_at(folder)
    assert report.warnings == [
        f"checksum changed: v0/1.nwb is recorded with {digest(BODY)} and has {digest(content)}; it is fetched anew"
    ]
    assert place(folder).read_bytes() == content


def test_an_edit_that_put_mtime_back_is_seen(folder) -> None:
    hold(folder, request(), BODY)
    edit(place(folder), OTHER)
    findings, report = check(folder, request())
    assert findings == []
    assert "checksum changed" in report.warnings[0]


def test_a_copied_folder_is_held_for_a_stat(open_folder, tmp_path, monkeypatch) -> None:
    first = open_folder()
    hold(first, request(), BODY)
    first.close()
    shutil.copytree(tmp_path / "cache", tmp_path / "copy")  # with the times of the files, as cp -a and rsync -a
    copy = open_folder(tmp_path / "copy")
    assert place(copy).stat().st_ino != place(first).stat().st_ino
    seen = hashed(copy, monkeypatch)
    assert [finding.path for finding in check(copy, request())[0]] == ["v0/1.nwb"]
    assert seen == []


def of_one_time(folder, *contents: bytes) -> list[Request]:
    """Let files be held that were written within one tick of the clock, as small ones are."""
    wanted = [request(f"v0/{at}.nwb", index=at) for at in range(len(contents))]
    entries = [hold(folder, each, content) for each, content in zip(wanted, contents, strict=True)]
    for entry in entries:
        os.utime(place(folder, entry.path), ns=(0, 10**18 + 1))
        found = place(folder, entry.path).stat()
        times = {"mtime_ns": found.st_mtime_ns, "ctime_ns": found.st_ctime_ns}
        folder.manifest.commit([replace(entry, receipt=replace(entry.receipt, **times))])
    folder.manifest.flush()
    assert [finding.path for finding in check(folder, *wanted)[0]] == [each.path for each in wanted]
    return wanted


def swap(one: Path, other: Path) -> None:
    one.rename(f"{one}.t")
    other.rename(one)
    Path(f"{one}.t").rename(other)


def copy_over(one: Path, other: Path) -> None:
    """Put a copy of one in the place of the other, as rsync does."""
    shutil.copy2(one, f"{other}.t")
    Path(f"{other}.t").replace(other)


@pytest.mark.parametrize(
    ("change", "left"),
    [(swap, []), (copy_over, ["v0/0.nwb"]), (lambda one, other: one.replace(other), [])],
    ids=["swapped", "copied", "moved"],
)
@pytest.mark.parametrize("level", ["stat", "hash"])
def test_files_of_one_size_and_time_that_change_places_are_not_held(folder, change, left, level) -> None:
    wanted = of_one_time(folder, BODY, OTHER)
    change(place(folder, "v0/0.nwb"), place(folder, "v0/1.nwb"))
    assert [finding.path for finding in check(folder, *wanted, level=level)[0]] == left
    told = {finding.path for finding in audit(folder.files, folder.manifest, level=level)}
    assert told == {each.path for each in wanted} - set(left)


def test_of_a_copied_folder_only_files_of_one_size_and_time_are_read_once(open_folder, tmp_path, monkeypatch) -> None:
    first = open_folder()
    wanted = [*of_one_time(first, BODY, OTHER), request("v0/2.nwb", index=2)]
    hold(first, wanted[2], b"of its own size")
    first.close()
    shutil.copytree(tmp_path / "cache", tmp_path / "copy")
    copy = open_folder(tmp_path / "copy")
    assert list(audit(copy.files, copy.manifest, level="stat")) == []
    seen = hashed(copy, monkeypatch)
    for _ in range(2):
        findings, _ = check(copy, *wanted)
        assert sorted(finding.path for finding in findings) == [each.path for each in wanted]
        copy.manifest.commit([finding.entry for finding in findings if finding.entry])
        copy.manifest.flush()
    assert sorted(seen) == ["v0/0.nwb", "v0/1.nwb"]


def test_level_hash_reads_every_time_and_believes_nothing_else(folder, monkeypatch) -> None:
    hold(folder, request(), BODY)
    seen = hashed(folder, monkeypatch)
    for _ in range(2):
        assert len(check(folder, request(), level="hash")[0]) == 1
    assert seen == ["v0/1.nwb"] * 2


def test_level_hash_sees_what_no_stat_can(folder) -> None:
    entry = hold(folder, request(), BODY)
    edit(place(folder), OTHER)
    found = place(folder).stat()
    folder.manifest.commit([replace(entry, receipt=replace(entry.receipt, ctime_ns=found.st_ctime_ns))])
    folder.manifest.flush()
    assert len(check(folder, request())[0]) == 1, "a stat cannot tell"
    findings, report = check(folder, request(), level="hash")
    assert findings == []
    assert len(report.warnings) == 1


def test_level_none_looks_at_nothing_but_the_manifest(folder) -> None:
    hold(folder, request(), BODY)
    edit(place(folder), OTHER)
    assert len(check(folder, request(), level="none")[0]) == 1
    assert check(folder, request(digests=(digest(OTHER),)), level="none")[0] == []


def test_a_file_that_changes_while_it_is_read_is_not_held(folder, monkeypatch) -> None:
    hold(folder, request(), BODY)
    os.utime(place(folder), (1, 1))
    real = folder.files.hash

    def read_and_replace(path, algorithms):
        digests = real(path, algorithms)
        before = place(folder).stat()
        place(folder, "v0/new").write_bytes(OTHER)
        os.utime(place(folder, "v0/new"), ns=(before.st_atime_ns, before.st_mtime_ns))
        os.replace(place(folder, "v0/new"), place(folder))
        return digests

    monkeypatch.setattr(folder.files, "hash", read_and_replace)
    assert check(folder, request())[0] == []


# -- power ---------------------------------------------------------------------------------------------------------


def test_after_a_power_cut_what_was_not_durable_is_hashed_before_it_is_believed(open_folder, monkeypatch) -> None:
    monkeypatch.setattr(writer_module.CommitWriter, "_sync_if_due", lambda writer, *, at_once: None)
    folder = open_folder()
    whole = hold(folder, request("v0/whole"), BODY)
    zeros = hold(folder, request("v0/zeros"), BODY)
    # What a power cut makes of a file whose bytes had not reached the disk: its length and times, and zeros.
    place(folder, "v0/zeros").write_bytes(bytes(len(BODY)))
    lost = folder.files.receipt("v0/zeros", zeros.receipt.digests, zeros.receipt.verified)
    folder.manifest.commit([replace(zeros, receipt=lost)])
    folder.close()
    wanted = [request("v0/whole"), request("v0/zeros", index=1)]
    assert len(check(open_folder(), *wanted)[0]) == 2, "within the boot a stat is enough"
    monkeypatch.setattr(manifest_module, "boot_id", lambda: "another boot")
    after = open_folder()
    (finding,), report = check(after, *wanted)
    assert finding.path == "v0/whole"
    assert finding.entry == replace(whole, receipt=finding.receipt)
    assert len(report.warnings) == 1
    assert "v0/zeros" in report.ours


# -- what the table states -----------------------------------------------------------------------------------------


def test_another_digest_in_the_table_makes_it_stale(folder, monkeypatch) -> None:
    hold(folder, request(), BODY)
    seen = hashed(folder, monkeypatch)
    findings, report = check(folder, request(digests=(digest(OTHER),)))
    assert (findings, report.ours, seen) == ([], seen_at(folder), [])
    assert check(folder, request(size=len(BODY) + 1))[0] == []
    assert len(check(folder, request(size=len(BODY)))[0]) == 1


def test_a_new_algorithm_is_computed_once(folder, monkeypatch) -> None:
    hold(folder, request(), BODY)
    stated = request(digests=(digest(BODY, "sha256"),))
    seen = hashed(folder, monkeypatch)
    (finding,), _ = check(folder, stated)
    assert finding.receipt.digests == (digest(BODY), digest(BODY, "sha256"))
    assert finding.receipt.verified is Verified.DIGEST
    folder.manifest.commit([finding.entry])
    folder.manifest.flush()
    assert check(folder, stated)[0][0].entry is None
    assert seen == ["v0/1.nwb"]


def test_a_new_algorithm_with_another_digest_is_not_held(folder) -> None:
    hold(folder, request(), BODY)
    findings, report = check(folder, request(digests=(digest(OTHER, "sha256"),)))
    assert (findings, report.ours, report.warnings) == ([], seen_at(folder), [])


# -- what the manifest does not know -------------------------------------------------------------------------------


def test_a_file_with_the_stated_digest_is_adopted(folder) -> None:
    place(folder).parent.mkdir()
    place(folder).write_bytes(BODY)
    (finding,), _ = check(folder, request(digests=(digest(BODY, "sha1"),), size=len(BODY)))
    assert finding.receipt.verified is Verified.DIGEST
    assert finding.receipt.digests == (digest(BODY), digest(BODY, "sha1"))
    assert (finding.entry.key, finding.entry.path) == ("http://host/1.nwb", "v0/1.nwb")


@pytest.mark.parametrize(
    "stated", [{}, {"size": len(BODY)}, {"digests": (digest(OTHER),)}, {"digests": (digest(BODY),), "size": 1}]
)
def test_a_file_that_nothing_explains_is_not_ours(folder, stated) -> None:
    place(folder).parent.mkdir()
    place(folder).write_bytes(BODY)
    findings, report = check(folder, request(**stated))
    assert (findings, report.ours, report.blocked) == ([], {}, {})


# -- who holds the place -------------------------------------------------------------------------------------------


def test_what_another_process_records_between_two_looks_is_ours(folder, monkeypatch) -> None:
    lookup = folder.manifest.lookup

    def just_before(*arguments):
        found = lookup(*arguments)
        monkeypatch.setattr(folder.manifest, "lookup", lookup)
        hold(folder, request(), BODY)
        return found

    hold(folder, request("v0/2.nwb"), BODY)
    monkeypatch.setattr(folder.manifest, "lookup", just_before)
    findings, report = check(folder, request())
    assert (findings, report.ours, report.blocked) == ([], seen_at(folder), {})


@pytest.mark.parametrize("stated", [{}, {"digests": (digest(OTHER),)}])
def test_a_path_held_for_another_key_is_blocked(folder, stated) -> None:
    hold(folder, request(key="http://host/a"), BODY)
    findings, report = check(folder, request(key="http://host/b", index=0, **stated))
    assert findings == []
    assert isinstance(report.blocked[0], TargetBlocked)
    assert "v0/1.nwb is held for another URL, http://host/a;" in str(report.blocked[0])


def test_a_renamed_url_with_the_same_digest_adopts_the_file(folder) -> None:
    hold(folder, request(key="http://old/a"), BODY)
    (finding,), report = check(folder, request(key="http://new/a", digests=(digest(BODY),)))
    assert (finding.entry.key, finding.entry.path, report.blocked) == ("http://new/a", "v0/1.nwb", {})


@pytest.mark.parametrize("gone", [False, True])
@pytest.mark.parametrize("fixed", [False, True])
def test_a_file_never_moves_over_another_keys(folder, fixed, gone) -> None:
    hold(folder, request("v0/a.nwb", key="http://host/a"), BODY)
    hold(folder, request("v0/b.nwb", key="http://host/b"), OTHER)
    before = tree(place(folder, "v0"))
    if gone:
        place(folder, "v0/a.nwb").unlink()
        before.pop("a.nwb")
    findings, report = check(folder, request("v0/b.nwb", key="http://host/a"), fixed=fixed)
    if gone or fixed:
        assert findings == []
        assert "v0/b.nwb is held for another URL, http://host/b" in str(report.blocked[0])
    else:
        assert [finding.path for finding in findings] == ["v0/a.nwb"]
    assert tree(place(folder, "v0")) == before


@pytest.mark.parametrize("known", [False, True])
def test_a_folder_in_its_place_is_told_before_anything_is_fetched(folder, known) -> None:
    if known:
        hold(folder, request(), BODY)
        place(folder).unlink()
    place(folder).mkdir(parents=True)
    findings, report = check(folder, request())
    assert findings == []
    assert "a folder stands at v0/1.nwb" in str(report.blocked[0])


@pytest.mark.parametrize("level", ["stat", "none", "hash"])
def test_a_digest_that_is_stated_by_now_and_is_the_recorded_one_raises_the_level(folder, level) -> None:
    entry = hold(folder, request(), BODY)
    assert entry.receipt.verified is Verified.LENGTH
    for stated in ((), (Digest("sha256", hashlib.sha256(BODY).hexdigest()),) if level == "none" else ()):
        (finding,), _ = check(folder, replace(request(), digests=stated), level=level)
        assert finding.receipt.verified is Verified.LENGTH, "nothing is stated, or nobody has compared it"
    (finding,), _ = check(folder, replace(request(), digests=(digest(BODY),)), level=level)
    assert finding.receipt == replace(entry.receipt, verified=Verified.DIGEST)
    assert finding.entry == replace(entry, receipt=finding.receipt, durable=finding.entry.durable)
    folder.manifest.commit([finding.entry])
    folder.manifest.flush()
    (finding,), _ = check(folder, replace(request(), digests=(digest(BODY),)), level=level)
    assert (finding.receipt.verified, finding.entry is None) == (Verified.DIGEST, level != "hash")


# -- other paths ---------------------------------------------------------------------------------------------------


def test_a_file_held_elsewhere_is_held_there_unless_its_path_is_fixed(folder) -> None:
    hold(folder, request(), BODY)
    wanted = request("v0/x/new.nwb", key="http://host/1.nwb")
    for options in ({}, {"fixed": True, "look_only": True}):
        (finding,), _ = check(folder, wanted, **options)
        assert (finding.path, finding.entry) == ("v0/1.nwb", None)
    os.utime(place(folder), ns=(1, 1))
    assert len(check(folder, wanted, fixed=True, look_only=True)[0]) == 1
    assert not place(folder, "v0/x").exists()
    (finding,), _ = check(folder, wanted, fixed=True)
    assert (finding.path, finding.entry) == ("v0/x/new.nwb", None)
    assert finding.receipt.inode == inode_of(place(folder, "v0/x/new.nwb").stat())
    assert tree(place(folder, "v0")) == {"1.nwb": BODY, "x/new.nwb": BODY}
    folder.manifest.flush()
    recorded = {entry.path: entry.receipt for entry in folder.manifest.entries()}
    assert recorded["v0/x/new.nwb"] == finding.receipt, "as soon as it was made"
    assert check(folder, wanted, fixed=True)[0][0].entry is None


def test_nothing_is_copied_to_the_fixed_path_from_behind_a_link(folder, tmp_path) -> None:
    hold(folder, request("v0/a/1.nwb", key="http://host/1.nwb"), BODY)
    place(folder, "v0/a").rename(tmp_path / "moved")
    place(folder, "v0/a").symlink_to(tmp_path / "moved")
    wanted = request("v0/x/new.nwb", key="http://host/1.nwb")
    assert check(folder, wanted, level="none", fixed=True)[0] == []
    assert not place(folder, "v0/x").exists()


def test_a_foreign_file_at_the_fixed_path_is_set_aside(folder) -> None:
    hold(folder, request(), BODY)
    place(folder, "v0/new.nwb").write_bytes(b"mine")
    (finding,), _ = check(folder, request("v0/new.nwb", key="http://host/1.nwb"), fixed=True)
    assert finding.path == "v0/new.nwb"
    assert tree(place(folder, "v0")) == {"1.nwb": BODY, "new.nwb": BODY, "new.nwb.kept-1": b"mine"}


def test_a_changed_file_is_not_copied_to_the_fixed_path(folder) -> None:
    hold(folder, request(), BODY)
    edit(place(folder), OTHER)
    findings, report = check(folder, request("v0/new.nwb", key="http://host/1.nwb"), fixed=True)
    assert findings == []
    assert len(report.warnings) == 1
    assert not place(folder, "v0/new.nwb").exists()


def test_one_file_that_cannot_be_copied_does_not_keep_the_others(folder, tmp_path) -> None:
    for number in range(3):
        hold(folder, request(f"v0/{number}"), BODY)
    place(folder, "v0/link").symlink_to(tmp_path)
    wanted = [
        request("v0/a/0", key="http://host/0"),
        request("v0/link/1", key="http://host/1", index=1),
        request("v0/a/2", key="http://host/2", index=2),
    ]
    findings, report = check(folder, *wanted, fixed=True)
    assert [finding.path for finding in findings] == ["v0/a/0", "v0/a/2"]
    assert {index: type(error) for index, error in report.blocked.items()} == {1: UnsafePath}
    assert not (tmp_path / "1").exists()


def test_a_full_disk_ends_the_check(disk, open_folder) -> None:
    folder = open_folder(disk("size=600k"))
    hold(folder, request(), b"x" * 300_000)
    wanted = [request(f"v0/{at}", key="http://host/1.nwb", index=at) for at in range(3)]
    with pytest.raises(DiskFull):
        check(folder, *wanted, fixed=True)
    assert parts(folder) == []


# -- pure ----------------------------------------------------------------------------------------------------------


def receipt_of(found: os.stat_result, *digests: Digest) -> Receipt:
    return Receipt(found.st_size, found.st_mtime_ns, found.st_ctime_ns, inode_of(found), digests, Verified.NONE)


@given(
    recorded=st.sampled_from([BODY, OTHER]),
    stated=st.sampled_from([(), (BODY,), (OTHER,)]),
    algorithm=st.sampled_from(["md5", "sha256"]),
    trusted=st.booleans(),
    level=st.sampled_from(["stat", "hash"]),
)
def test_held_needs_proof(tmp_path_factory, recorded, stated, algorithm, trusted, level) -> None:
    """Without a hash a file is held only where it is trusted and no digest is stated that is not recorded."""
    path = tmp_path_factory.getbasetemp() / "one"
    path.touch()
    found = path.stat()
    receipt = receipt_of(found, digest(recorded))
    wanted = request(digests=tuple(digest(content, algorithm) for content in stated))
    state = judge(wanted, Entry("v0", wanted.key, wanted.path, receipt, 0.0, trusted=trusted), found, level)
    contradicted = algorithm == "md5" and stated not in ((), (recorded,))
    proved = trusted and level == "stat" and (not stated or algorithm == "md5")
    assert state is (State.STALE if contradicted else State.HELD if proved else State.HASH)


@pytest.mark.parametrize(
    ("changes", "same"),
    [
        ({}, True),
        ({"size": 1}, False),
        ({"mtime_ns": 1}, False),
        ({"ctime_ns": 1}, False),
        ({"inode": 1}, True),
        ({"inode": 1, "ctime_ns": 1}, True),
        ({"inode": 1, "mtime_ns": 1}, False),
    ],
)
def test_what_a_stat_can_tell(tmp_path, changes, same) -> None:
    (tmp_path / "one").write_bytes(b"xyz")
    found = (tmp_path / "one").stat()
    assert unchanged(replace(receipt_of(found), **changes), found) is same


@pytest.mark.parametrize("linked", ["v0", "v0/a"])
@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize("level", ["stat", "hash"])
def test_a_file_behind_a_link_is_not_held_and_nothing_is_asked_of_the_server(
    folder, tmp_path, linked, known, level
) -> None:
    wanted = request("v0/a/1.nwb", digests=(digest(BODY),))
    if known:
        hold(folder, wanted, BODY)
    else:
        place(folder, "v0/a").mkdir(parents=True)
        place(folder, "v0/a/1.nwb").write_bytes(BODY)
    place(folder, linked).rename(tmp_path / "moved")
    place(folder, linked).symlink_to(tmp_path / "moved")
    findings, report = check(folder, wanted, level=level)
    assert findings == []
    assert isinstance(report.blocked[0], UnsafePath)
    assert f"a link stands at {linked}, " in str(report.blocked[0])
    assert report.ours == {}


# -- where nothing can be recorded ---------------------------------------------------------------------------------


def bytes_read() -> int:
    """Return how many bytes this process has read in its life, in calls of the system."""
    return int(Path("/proc/self/io").read_text().split()[1])


@pytest.fixture
def closed_cache(disk, warehouse) -> Iterator[tuple[MetadataCache, pd.DataFrame, Path]]:
    """Give a cache that cannot be written, whose files have other times than recorded, and its table."""
    root = disk("size=24m")
    table = pd.DataFrame({"url": [warehouse.add(f"{at}.nwb", hdf5_file(4_000_000, seed=at)) for at in range(4)]})
    with MetadataCache(table, root / "c") as cache:
        cache.mirror(table)
    for file in (root / "c" / "v0").iterdir():
        file.chmod(0o444)
    disk("ro")
    with MetadataCache(table, root / "c") as cache:
        yield cache, table, root / "c" / "v0"


def test_a_cache_that_cannot_be_written_reads_files_with_other_times_once(closed_cache) -> None:
    cache, table, _ = closed_cache
    began = bytes_read()
    with pytest.warns(UserWarning, match="4 files had to be read: .*the permission to write does that once") as told:
        assert cache.mirror(table).ok.all()
    assert len(told) == 1
    assert bytes_read() - began > 16_000_000
    began = bytes_read()
    assert set(cache.mirror(table).frame["verified"]) == {"length"}
    assert cache.get_file(table["url"][0]).stat().st_size == 4_000_000
    assert cache.plan(table).summary()["held"] == 4
    assert bytes_read() - began < 1_000_000


def test_what_a_plan_has_read_is_not_read_again_and_is_recorded_by_a_run(warehouse, tmp_path) -> None:
    table = pd.DataFrame({"url": [warehouse.add("1.nwb", hdf5_file(4_000_000))]})
    with MetadataCache(table, tmp_path / "c") as cache:
        place = Path(cache.mirror(table).paths[0])
    place.chmod(0o400)
    with MetadataCache(table, tmp_path / "c") as cache:
        assert cache.plan(table).summary()["held"] == 1
        began = bytes_read()
        assert cache.mirror(table).frame["status"][0] == "cached"
        assert bytes_read() - began < 1_000_000
    with MetadataCache(table, tmp_path / "c") as cache:
        assert cache.verify() == []  # its times are recorded as they are


def test_what_was_read_is_read_again_where_it_has_changed_since_or_more_is_stated(closed_cache, disk) -> None:
    cache, table, folder = closed_cache
    with pytest.warns(UserWarning, match="4 files had to be read"):
        cache.mirror(table)
    disk("rw")
    edit(folder / "1.nwb", bytes(4_000_000))
    disk("ro")
    with pytest.raises(StorageError, match="EROFS"):  # it is to be fetched
        cache.mirror(table)
    others = table.drop(1)
    cache.mirror(others)
    stated = others.assign(sha256=[hashlib.sha256((folder / f"{at}.nwb").read_bytes()).hexdigest() for at in (0, 2, 3)])
    with pytest.warns(UserWarning, match="3 files had to be read"):
        assert set(cache.mirror(stated).frame["verified"]) == {"digest"}
    began = bytes_read()
    assert set(cache.mirror(stated).frame["verified"]) == {"digest"}
    assert bytes_read() - began < 1_000_000


def test_verify_says_what_else_changes_times(warehouse, tmp_path) -> None:
    table = pd.DataFrame({"url": [warehouse.add("1.nwb", hdf5_file(3000))]})
    with MetadataCache(table, tmp_path / "c") as cache:
        Path(cache.mirror(table).paths[0]).chmod(0o400)
        (finding,) = cache.verify()
        assert finding.kind == "changed"
        assert "which chmod, chown and a link change, too; --hash reads its bytes, as the next mirror" in finding.detail
        assert cache.verify("hash") == []
        assert cache.mirror(table).frame["status"][0] == "cached"
        assert cache.verify() == []
