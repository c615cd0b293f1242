"""What nobody wants goes; what is not surely ours and as recorded stays; a crash in between costs nothing."""

import asyncio
import contextlib
import os
import sqlite3
from dataclasses import replace
from pathlib import Path

import pytest

from framefetch.errors import ManifestError, PlanError
from framefetch.models import Entity, Entry
from framefetch.store import prune as prunes
from framefetch.store.audit import audit
from framefetch.store.folder import CacheFolder
from framefetch.store.places import sight_of
from framefetch.store.prune import _intent, _Pruning, prune
from framefetch.store.sidecar import Sidecar, kept_name, write_sidecar
from tests.store.builders import fill, hold, query, request, small, tree

BODY = b"the bytes of a file"


@pytest.fixture
def root(tmp_path):
    """Make a cache of ten files, and one of another version."""
    with CacheFolder(tmp_path / "cache") as folder:
        for at in range(10):
            hold(folder, request(f"v0/{at}"), BODY + b"%d" % at)
        hold(folder, request("v1/0"), BODY)
    return tmp_path / "cache"


def keys(*numbers: int) -> set[str]:
    return {f"http://host/{number}" for number in numbers}


def files(root) -> list[str]:
    return [path for path in tree(root) if path.startswith("v")]


def test_what_nobody_wants_goes_with_its_rows(root, open_folder) -> None:
    folder = open_folder(root)
    report = prune(folder, "v0", keys(1, 2, 77), dry_run=False)
    assert report.removed == [f"v0/{at}" for at in (0, 3, 4, 5, 6, 7, 8, 9)]
    assert (report.bytes, report.kept, report.left) == (8 * (len(BODY) + 1), 2, [])
    assert files(root) == ["v0/1", "v0/2", "v1/0"]
    assert [entry.path for entry in folder.manifest.entries()] == ["v0/1", "v0/2", "v1/0"]
    assert list(audit(folder.files, folder.manifest, level="hash")) == []


def test_a_dry_run_changes_nothing(root, open_folder) -> None:
    folder = open_folder(root)
    before = tree(root)
    report = prune(folder, "v0", keys(1), dry_run=True)
    assert len(report.removed) == 9
    assert tree(root) == before


def keep_part(folder: CacheFolder, key: str) -> None:
    part = f"{folder.private}/parts/{kept_name('v0', key, 'v0/x')}"
    write_sidecar(f"{part}.json", Sidecar("v0", key, "v0/x", Entity(key), "", ((3, "0" * 32),)))
    Path(part).write_bytes(b"half")


@pytest.mark.parametrize("dry_run", [True, False])
@pytest.mark.parametrize("wanted", [set(), {"http://renamed/0", "http://renamed/1"}, {"0", "1"}])
def test_a_table_that_wants_nothing_of_what_is_held_is_refused(root, open_folder, wanted, dry_run) -> None:
    """Its server was renamed, or its keys are a column's, or it is just another table."""
    folder = open_folder(root)
    keep_part(folder, "http://host/gone")
    before = tree(root)
    with pytest.raises(PlanError, match=r"some of the 11 files of version v0 in .* names none of them; nothing is"):
        prune(folder, "v0", wanted, dry_run=dry_run)
    assert tree(root) == before


def test_a_version_of_which_only_unfinished_files_are_there(root, open_folder) -> None:
    folder = open_folder(root)
    prune(folder, "v7", keys(0), dry_run=False)  # of which there is nothing
    folder.manifest.forget(list(folder.manifest.entries("v0")))
    folder.manifest.flush()
    for key in ("http://host/gone", "http://host/wanted"):
        keep_part(folder, key)
    with pytest.raises(PlanError, match="some of the 2 files of version v0"):
        prune(folder, "v0", keys(0), dry_run=False)
    assert prune(folder, "v0", {"http://host/wanted"}, dry_run=False).parts == 1


def test_what_is_not_as_recorded_stays_with_its_row(root, open_folder, tmp_path) -> None:
    (root / "v0" / "1").write_bytes(b"my own work")
    (root / "v0" / "2").unlink()
    (root / "v0" / "2").symlink_to(tmp_path / "precious")
    (root / "v0" / "3").unlink()
    (root / "v0" / "3").mkdir()
    before = os.stat(root / "v0" / "4")
    (root / "v0" / "4").write_bytes((BODY + b"4")[::-1])
    os.utime(root / "v0" / "4", ns=(before.st_atime_ns, before.st_mtime_ns))
    os.utime(root / "v0" / "5")  # another time, the same bytes
    (root / "v0" / "6").unlink()
    (root / "v0" / "mine").write_bytes(b"nobody's")
    folder = open_folder(root)
    report = prune(folder, "v0", keys(0), dry_run=False)
    assert sorted((finding.kind, finding.path) for finding in report.left) == [
        ("blocked", "v0/2"), ("blocked", "v0/3"), ("changed", "v0/1"), ("corrupt", "v0/4"),
    ]  # fmt: skip
    assert report.removed == ["v0/5", "v0/7", "v0/8", "v0/9"]
    assert files(root) == ["v0/0", "v0/1", "v0/2", "v0/4", "v0/mine", "v1/0"]
    assert (root / "v0" / "1").read_bytes() == b"my own work"
    recorded = [entry.path for entry in folder.manifest.entries("v0")]
    assert recorded == ["v0/0", "v0/1", "v0/2", "v0/3", "v0/4"], "the one that was gone is forgotten"


def test_what_changes_after_it_was_judged_stays(root, open_folder, monkeypatch) -> None:
    """To judge a thousand files takes a while; an edit, a file fetched anew and one put there are seen all the same."""
    (root / "v0" / "4").unlink()
    folder, other = open_folder(root), open_folder(root)
    flush = folder.manifest.flush

    def meanwhile() -> None:
        monkeypatch.setattr(folder.manifest, "flush", flush)
        (root / "v0" / "2").write_bytes((BODY + b"2")[::-1])  # in place, of the same size
        other.files.own("v0/3", sight_of((root / "v0" / "3").lstat()))
        hold(other, request("v0/3"), b"new bytes")
        (root / "v0" / "4").write_bytes(b"my own work")
        flush()

    monkeypatch.setattr(folder.manifest, "flush", meanwhile)
    report = prune(folder, "v0", keys(0, 1), dry_run=False)
    assert report.removed == [f"v0/{at}" for at in (5, 6, 7, 8, 9)]
    assert [(finding.kind, finding.path) for finding in report.left] == [("changed", f"v0/{at}") for at in (2, 3, 4)]
    assert files(root) == ["v0/0", "v0/1", "v0/2", "v0/3", "v0/4", "v1/0"]
    assert (root / "v0" / "3").read_bytes() == b"new bytes"
    found = [(finding.kind, finding.path) for finding in audit(other.files, other.manifest, level="hash")]
    assert found == [("corrupt", "v0/2"), ("changed", "v0/4")], "with their rows, as what was changed before is left"
    recorded = {entry.path: entry.receipt.size for entry in other.manifest.entries("v0")}
    assert sorted(recorded) == [f"v0/{at}" for at in range(5)]
    assert recorded["v0/3"] == len(b"new bytes"), "not what had been recorded before"


def test_two_names_of_one_file_that_changed_lose_no_row(root, open_folder, monkeypatch) -> None:
    """Two URLs of a prototype for one file: each is looked at, and nothing else suffers."""
    folder = open_folder(root)
    (twin,) = folder.manifest.lookup("v0", ["http://host/2"])
    folder.manifest.commit([replace(twin, key="http://host/twin")])
    folder.manifest.flush()
    flush = folder.manifest.flush

    def meanwhile() -> None:
        monkeypatch.setattr(folder.manifest, "flush", flush)
        (root / "v0" / "2").write_bytes(b"my own work")
        flush()

    monkeypatch.setattr(folder.manifest, "flush", meanwhile)
    report = prune(folder, "v0", keys(0, 1), dry_run=False)
    assert [(finding.kind, finding.path) for finding in report.left] == [("changed", "v0/2")] * 2
    assert report.removed == [f"v0/{at}" for at in range(3, 10)]
    assert [entry.path for entry in folder.manifest.entries("v0")] == ["v0/0", "v0/1", "v0/2", "v0/2"]


def test_nothing_is_removed_through_a_link(root, open_folder, tmp_path) -> None:
    outside = tmp_path / "outside"
    os.rename(root / "v0", outside)
    (root / "v0").symlink_to(outside)
    before = tree(outside)
    report = prune(open_folder(root), "v0", keys(1), dry_run=False)
    assert tree(outside) == before
    assert report.removed == []
    assert {finding.kind for finding in report.left} == {"blocked"}


@pytest.mark.parametrize("ahead", [False, True])
def test_nothing_is_removed_through_a_link_that_came_since_it_was_judged(
    root, open_folder, tmp_path, monkeypatch, ahead
) -> None:
    """A folder was moved elsewhere, and a link put in its place: the files in it are as they were judged."""
    folder, outside = open_folder(root), tmp_path / "outside"
    judge = _Pruning.judge
    rooms = iter([False, True] if ahead else [True])
    monkeypatch.setattr(prunes, "_has_room", lambda folder: next(rooms, True))

    def then_moved(pruning, block):
        judged = judge(pruning, block)
        if not outside.exists():
            os.rename(root / "v0", outside)
            (root / "v0").symlink_to(outside)
        return judged

    monkeypatch.setattr(_Pruning, "judge", then_moved)
    report = prune(folder, "v0", keys(1), dry_run=False)
    assert len(tree(outside)) == 10
    assert report.removed == []
    assert [(finding.kind, finding.path) for finding in report.left] == [("blocked", f"v0/{at}") for at in ROUND]
    assert [entry.path for entry in folder.manifest.entries("v0")] == [f"v0/{at}" for at in range(10)]


ROUND = (0, 2, 3, 4, 5, 6, 7, 8, 9)


@pytest.mark.parametrize("kind", [KeyboardInterrupt, ManifestError])
@pytest.mark.parametrize("after", range(4))
def test_what_still_stands_where_a_pruning_breaks_off_gets_its_row_back(root, monkeypatch, kind, after) -> None:
    folder = CacheFolder(root)
    unlink, gone = os.unlink, []

    def interrupted(path, **options):
        if "/v0/" in os.fspath(path):
            if len(gone) == after:
                raise kind("now")
            gone.append(path)
        unlink(path, **options)

    monkeypatch.setattr(os, "unlink", interrupted)
    with pytest.raises(kind):
        prune(folder, "v0", keys(1), dry_run=False)
    monkeypatch.setattr(os, "unlink", unlink)
    folder.close()
    with CacheFolder(root) as folder:
        assert [entry.path for entry in folder.manifest.entries("v0")] == files(root)[:-1]
        assert len(files(root)) == 11 - after
        assert list(audit(folder.files, folder.manifest, level="hash")) == []
        assert len(prune(folder, "v0", keys(1), dry_run=False).removed) == 9 - after
    assert files(root) == ["v0/1", "v1/0"]


def test_what_still_stands_where_the_manifest_was_busy_has_its_row(root) -> None:
    with (
        CacheFolder(root, lock_timeout=0.05) as folder,
        contextlib.closing(sqlite3.connect(folder.manifest.path)) as other,
    ):
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(ManifestError, match="BUSY|locked|another process"):
            prune(folder, "v0", keys(1), dry_run=False)
        other.rollback()
    with CacheFolder(root) as folder:
        assert len(files(root)) == 11
        assert [entry.path for entry in folder.manifest.entries()] == files(root)
        assert len(prune(folder, "v0", keys(1), dry_run=False).removed) == 9


def test_who_leaves_a_folder_by_an_exception_leaves_its_journal(root) -> None:
    """Something may be half done that only the journal explains."""

    def forget_and_be_interrupted(folder: CacheFolder) -> None:
        entries = list(folder.manifest.entries("v0"))
        folder.journal.intend([_intent(entry) for entry in entries])
        folder.manifest.forget(entries)
        folder.manifest.flush()
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), CacheFolder(root) as folder:
        forget_and_be_interrupted(folder)
    with CacheFolder(root) as folder:
        assert [entry.path for entry in folder.manifest.entries("v0")] == [f"v0/{at}" for at in range(10)]


def test_a_file_that_is_also_another_keys_stays(root, open_folder) -> None:
    folder = open_folder(root)
    (entry,) = folder.manifest.lookup("v0", ["http://host/1"])
    folder.manifest.commit([Entry("v0", "http://mirror/1", entry.path, entry.receipt, 2.0)])
    folder.manifest.flush()
    report = prune(folder, "v0", {"http://mirror/1"}, dry_run=False)
    assert "v0/1" not in report.removed
    assert files(root) == ["v0/1", "v1/0"]
    assert query(root, "SELECT key FROM entries WHERE version = 'v0'") == [("http://mirror/1",)]


def test_names_that_shared_its_bytes_are_still_held(root, open_folder) -> None:
    folder = open_folder(root)
    (first,) = folder.manifest.lookup("v0", ["http://host/1"])
    os.link(root / "v0" / "1", root / "v0" / "twin")
    receipts = [
        folder.files.receipt(path, first.receipt.digests, first.receipt.verified) for path in ("v0/1", "v0/twin")
    ]
    folder.manifest.commit(
        [
            Entry("v0", "http://host/1", "v0/1", receipts[0], 1.0),
            Entry("v0", "http://host/twin", "v0/twin", receipts[1], 1.0),
        ]
    )
    folder.manifest.flush()
    prune(folder, "v0", {"http://host/twin"}, dry_run=False)
    assert files(root) == ["v0/twin", "v1/0"]
    assert list(audit(folder.files, folder.manifest, level="stat")) == []


def test_unfinished_files_that_nobody_wants_go(root, open_folder) -> None:
    folder = open_folder(root)
    for key in ("http://host/1", "http://host/gone"):
        keep_part(folder, key)
    assert prune(folder, "v0", keys(1), dry_run=True).parts == 1
    report = prune(folder, "v0", keys(1), dry_run=False)
    assert report.parts == 1
    left = [name for name in os.listdir(f"{folder.private}/parts") if name.startswith("kept-")]
    kept = kept_name("v0", "http://host/1", "v0/x")
    assert sorted(left) == [kept, f"{kept}.json"]


def test_a_process_that_dies_at_any_step_leaves_rows_and_files_together(tmp_path, start) -> None:
    script = """
    from framefetch.store.prune import prune
    steps, last = 0, int(sys.argv[2])
    folder = CacheFolder(sys.argv[1])
    for at in range(4):
        hold(folder, request(f"v0/{at}"), b"%d" % at)
    folder.journal.settle()
    for name in ("write", "unlink"):
        def step(*arguments, real=getattr(os, name), **options):
            global steps
            steps += 1
            if steps > last:
                os.kill(os.getpid(), 9)
            return real(*arguments, **options)
        setattr(os, name, step)
    flush = folder.manifest.flush
    def flushed():
        global steps
        flush()
        steps += 1
        if steps > last:
            os.kill(os.getpid(), 9)
    folder.manifest.flush = flushed
    prune(folder, "v0", {"http://host/0"}, dry_run=False)
    """
    for last in range(100):
        root = tmp_path / f"cache-{last}"
        code = start(script, root, last).process.wait()
        with CacheFolder(root) as folder:
            assert list(audit(folder.files, folder.manifest, level="hash")) == [], f"killed at step {last}"
            again = prune(folder, "v0", keys(0), dry_run=False)
            assert again.left == []
        assert files(root) == ["v0/0"]
        if code == 0:
            assert last > 5
            break


def test_a_thousand_files_and_more(tmp_path, open_folder) -> None:
    folder = open_folder()
    for at in range(0, 3000, 500):
        bodies = [request(f"v0/{number}", index=number) for number in range(at, at + 500)]
        receipts = asyncio.run(folder.files.save([small(wanted, b"%d" % wanted.index) for wanted in bodies]))
        folder.manifest.commit(
            [
                Entry("v0", wanted.key, wanted.path, receipt, 1.0)
                for wanted, receipt in zip(bodies, receipts, strict=True)
            ]
        )
    folder.manifest.flush()
    seen = []
    report = prune(folder, "v0", keys(*range(10)), dry_run=False, watch=seen.append)
    assert len(report.removed) == len(seen) == 2990
    assert query(tmp_path / "cache", "SELECT count(*) FROM entries") == [(10,)]
    assert len(os.listdir(tmp_path / "cache" / "v0")) == 10


def filled(disk) -> Path:
    """Make a cache of ten files on a disk that is full to the last byte."""
    root = disk("size=4m") / "cache"
    with CacheFolder(root) as folder:
        for at in range(10):
            hold(folder, request(f"v0/{at}"), b"%d" % at * 100_000)
    fill(root.parent)
    return root


def test_a_disk_without_a_byte_left_gets_room(disk, open_folder) -> None:
    root = filled(disk)
    for name in "49":
        with (root / "v0" / name).open("r+b") as file:
            file.write(b"my work")
    folder = open_folder(root)
    assert prune(folder, "v0", keys(0, 1), dry_run=True).removed == [f"v0/{at}" for at in (2, 3, 5, 6, 7, 8)]
    report = prune(folder, "v0", keys(0, 1), dry_run=False)
    assert sorted(report.removed) == [f"v0/{at}" for at in (2, 3, 5, 6, 7, 8)]
    assert (report.bytes, report.kept) == (600_000, 2)
    assert sorted((finding.kind, finding.path) for finding in report.left) == [("corrupt", "v0/4"), ("corrupt", "v0/9")]
    assert (root / "v0" / "4").read_bytes().startswith(b"my work")
    assert [entry.path for entry in folder.manifest.entries()] == ["v0/0", "v0/1", "v0/4", "v0/9"]
    hold(folder, request("v0/new"), BODY)
    folder.close()
    (root.parent / "filler").unlink()
    with CacheFolder(root) as again:
        assert [finding.path for finding in audit(again.files, again.manifest, level="hash")] == ["v0/4", "v0/9"]


def test_a_disk_without_a_file_left_gets_room(disk, open_folder) -> None:
    place = disk("size=4m,nr_inodes=60")
    root = place / "cache"
    with CacheFolder(root) as folder:
        for at in range(30):
            hold(folder, request(f"v0/{at:02}", key=f"http://host/{at}"), BODY)
    at = 0
    while os.statvfs(place).f_favail:
        (place / f"other-{(at := at + 1)}").touch()
    report = prune(open_folder(root), "v0", keys(0), dry_run=False)
    assert (len(report.removed), report.left) == (29, [])
    assert query(root, "SELECT path FROM entries") == [("v0/00",)]


def test_no_more_goes_ahead_of_its_row_than_it_takes(disk, open_folder, monkeypatch) -> None:
    """And nothing of it where another name has the same bytes: that makes no room."""
    monkeypatch.setattr("framefetch.store.prune.ROOM", 256 << 10)
    root = filled(disk)
    os.link(root / "v0" / "0", root / "v0" / "twin")
    folder = open_folder(root)
    ahead = []
    try_again = folder.try_again
    monkeypatch.setattr(folder, "try_again", lambda: (ahead.extend(files(root)), try_again()))
    prune(folder, "v0", keys(9), dry_run=False)
    assert ahead == ["v0/0", *(f"v0/{at}" for at in range(4, 10)), "v0/twin"]
    assert files(root) == ["v0/9", "v0/twin"]


def test_unfinished_files_go_first_on_a_full_disk(disk, open_folder, monkeypatch) -> None:
    monkeypatch.setattr("framefetch.store.prune.ROOM", 256 << 10)
    root = disk("size=4m") / "cache"
    with CacheFolder(root) as folder:
        for at in range(2):
            hold(folder, request(f"v0/{at}"), BODY)
        part = f"{folder.private}/parts/{kept_name('v0', 'http://host/gone', 'v0/x')}"
        write_sidecar(f"{part}.json", Sidecar("v0", "http://host/gone", "v0/x", Entity("x"), "", ((3, "0" * 32),)))
        Path(part).write_bytes(b"half" * 100_000)
    fill(root.parent)
    monkeypatch.setattr("framefetch.store.prune._Pruning.remove_ahead", None)  # is not called
    report = prune(open_folder(root), "v0", keys(1), dry_run=False)
    assert (report.removed, report.parts, files(root)) == (["v0/0"], 1, ["v0/1"])
    assert query(root, "SELECT path FROM entries") == [("v0/1",)]


def test_a_disk_that_has_room_loses_no_file_before_its_row(root, open_folder, monkeypatch) -> None:
    monkeypatch.setattr("framefetch.store.prune._Pruning.remove_ahead", None)  # is not called
    assert len(prune(open_folder(root), "v0", keys(0), dry_run=False).removed) == 9


def test_a_process_that_dies_while_it_makes_room_leaves_rows_without_files_at_most(disk, start) -> None:
    root = filled(disk)
    script = """
    from framefetch.store.prune import prune
    left = 3
    def unlink(*arguments, real=os.unlink, **options):
        global left
        left -= 1
        if left < 0:
            os.kill(os.getpid(), 9)
        return real(*arguments, **options)
    os.unlink = unlink
    prune(CacheFolder(sys.argv[1]), "v0", {"http://host/0"}, dry_run=False)
    """
    assert start(script, root).process.wait() == -9
    with CacheFolder(root) as folder:
        found = list(audit(folder.files, folder.manifest, level="hash"))
        assert {finding.kind for finding in found} == {"missing"}
        assert prune(folder, "v0", keys(0), dry_run=False).left == []
        assert list(audit(folder.files, folder.manifest, level="hash")) == []
    assert files(root) == ["v0/0"]
