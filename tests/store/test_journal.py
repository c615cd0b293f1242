"""What a process that died has left is understood by the next one; what a live one is doing is left alone."""

import asyncio
import errno
import json
import os
import shutil
import sqlite3

import pytest
from hypothesis import given
from hypothesis import strategies as st

from framefetch.errors import ManifestError, StorageError
from framefetch.models import Digest, Entity, Entry, Request, Verified
from framefetch.store.files import FileStore
from framefetch.store.folder import CacheFolder
from framefetch.store.held import HeldCheck
from framefetch.store.journal import Journal, _line, _path_in, leftovers, read_journal
from tests.store.builders import descriptors, digest, hold, parts, query, request, small, tree

BODY = b"the bytes of a file"

#: Publishes some files in both ways and a large one in parts, and stops before any of them is recorded.
DIES_BEFORE_ITS_COMMIT = """
async def work(folder):
    await folder.files.save([small(request(f"v0/{at}", index=at), b"%d" % at, etag='"e"') for at in range(3)])
    await stream(folder, request("v0/streamed"), b"a", b"b")
    part = await folder.files.create(request("v0/never"))
    await part.write(b"half of it")

folder = CacheFolder(sys.argv[1])
asyncio.run(work(folder))
barrier("renamed")
"""


@pytest.fixture
def died(tmp_path, start):
    """Give a cache in which a process was killed between its renames and its commit."""
    child = start(DIES_BEFORE_ITS_COMMIT, tmp_path / "cache")
    child.wait_for("renamed")
    child.kill()
    return tmp_path / "cache"


def private(root) -> list[str]:
    return sorted(os.listdir(root / ".framefetch" / "parts") + os.listdir(root / ".framefetch" / "locks"))


def test_files_without_rows_are_adopted_by_hash_with_no_digest_stated(died, open_folder) -> None:
    assert query(died, "SELECT count(*) FROM entries") == [(0,)]
    folder = open_folder(died)
    wanted = [request(f"v0/{at}", index=at) for at in range(3)] + [request("v0/streamed", index=3)]
    check = HeldCheck(folder.files, folder.manifest, "stat", fixed_paths=False)
    findings = list(check.run(wanted, range(4)))
    assert [finding.path for finding in findings] == [one.path for one in wanted]
    assert [finding.entry for finding in findings] == [None] * 4, "they are in the manifest already"
    assert findings[0].receipt.digests == (digest(b"0"),)
    assert (findings[0].receipt.etag, findings[0].receipt.verified) == ('"e"', Verified.LENGTH)
    assert check.report.warnings == []
    assert folder.files.notices == []


def test_parts_of_the_dead_are_removed_and_nothing_else_stays(died, open_folder) -> None:
    assert any("-" in name for name in private(died))
    folder = open_folder(died)
    assert parts(folder) == []
    folder.close()
    assert private(died) == []
    assert "v0/never" not in tree(died)


def test_a_file_changed_since_is_not_adopted(died, open_folder) -> None:
    (died / "v0" / "0").write_bytes(b"X")
    (died / "v0" / "1").unlink()
    (died / "v0" / "2").unlink()
    (died / "v0" / "2").mkdir()
    os.unlink(died / "v0" / "streamed")
    os.mkfifo(died / "v0" / "streamed")  # to be opened by nobody: it would wait for a writer for ever
    folder = open_folder(died)
    assert list(folder.manifest.entries()) == []
    assert (died / "v0" / "0").read_bytes() == b"X"


@pytest.mark.parametrize("leads", ["to the files", "nowhere"])
def test_a_file_behind_a_link_is_not_adopted(died, open_folder, tmp_path, leads) -> None:
    (died / "v0").rename(tmp_path / "moved")
    (died / "v0").symlink_to(tmp_path / ("moved" if leads == "to the files" else "none"))
    assert list(open_folder(died).manifest.entries()) == []
    assert sorted(tree(tmp_path / "moved")) == ["0", "1", "2", "streamed"]


def test_torn_and_foreign_lines_are_passed_over(died, open_folder, tmp_path) -> None:
    (tmp_path / "precious").write_bytes(BODY)
    (journal,) = (died / ".framefetch" / "parts").glob("*.journal")
    lines = journal.read_bytes().splitlines(keepends=True)
    stated = [str(digest(BODY))]
    foreign = [
        ["v0", "k", "../precious", stated, "none", None],
        ["v0", "k", f"{tmp_path}/precious", stated, "none", None],
        ["v0", "k", "v0/0", [], "none", None],
        ["v0", "k", "v0/0", [1], "none", None],
        ["v0", "k", "v0/0", stated, "perhaps", None],
        ["v0", 5, "v0/0", stated, "none", None],
        [1, 2], {}, 5, None,
    ]  # fmt: skip
    noise = b"".join(json.dumps(line).encode() + b"\n" for line in foreign)
    journal.write_bytes(b"\xff\xfe\0\n\n" + noise + lines[0] + lines[1] + lines[2] + lines[3][: len(lines[3]) // 2])
    folder = open_folder(died)
    assert sorted(entry.path for entry in folder.manifest.entries()) == ["v0/0", "v0/1", "v0/2"]


def test_a_live_process_is_left_alone(tmp_path, start, open_folder) -> None:
    child = start(DIES_BEFORE_ITS_COMMIT, tmp_path / "cache")
    child.wait_for("renamed")
    before = tree(tmp_path / "cache" / ".framefetch")
    second = open_folder()
    assert {
        path: content for path, content in tree(tmp_path / "cache" / ".framefetch").items() if path in before
    } == before
    assert list(second.manifest.entries()) == []
    second.close()
    assert tree(tmp_path / "cache" / ".framefetch") == before
    child.kill()
    assert len(list(open_folder().manifest.entries())) == 4


def test_two_caches_of_one_process_leave_each_other_alone(open_folder) -> None:
    first = open_folder()
    first.journal.intend([(request(), (digest(BODY),), Verified.NONE, None)])
    second = open_folder()
    assert first.journal.token != second.journal.token
    assert len([name for name in os.listdir(f"{first.private}/parts") if name.endswith(".journal")]) == 2
    second.close()
    assert os.listdir(f"{first.private}/parts") == [f"{first.journal.token}.journal"]


def test_what_is_recorded_is_not_read_again(tmp_path, start, open_folder, monkeypatch) -> None:
    script = """
    folder = CacheFolder(sys.argv[1])
    hold(folder, request(), b"bytes")
    barrier("recorded")
    """
    child = start(script, tmp_path / "cache")
    child.wait_for("recorded")
    child.kill()
    monkeypatch.setattr(FileStore, "hash", lambda *arguments: pytest.fail("the manifest knows it"))
    assert len(list(open_folder().manifest.entries())) == 1


def test_many_processes_may_find_the_dead_at_once(died, start) -> None:
    script = """
    barrier("ready")
    with CacheFolder(sys.argv[1]) as folder:
        barrier("open")
    """
    children = [start(script, died) for _ in range(6)]
    for word in ("ready", "open"):
        for child in children:
            child.wait_for(word)
        for child in children:
            child.go_on()
    for child in children:
        child.end()
    assert len(query(died, "SELECT key FROM entries")) == 4
    assert private(died) == []


def test_a_journal_that_another_process_has_read_by_now_says_nothing(tmp_path) -> None:
    assert list(read_journal(str(tmp_path / "none.journal"))) == []


def test_a_process_that_can_record_nothing_leaves_its_journal(open_folder, tmp_path) -> None:
    folder = open_folder(lock_timeout=0.05)
    holder = sqlite3.connect(tmp_path / "cache" / "manifest.sqlite", isolation_level=None)
    holder.execute("BEGIN IMMEDIATE")
    with pytest.raises(ManifestError, match="locked"):
        hold(folder, request(), BODY)
    folder.close()
    holder.execute("ROLLBACK")
    holder.close()
    assert [entry.key for entry in open_folder().manifest.entries()] == ["http://host/1.nwb"]


def test_a_settled_journal_is_empty_and_goes_on(folder) -> None:
    path = f"{folder.private}/parts/{folder.journal.token}.journal"
    intent = (request(), (digest(BODY),), Verified.NONE, None)
    folder.journal.intend([intent])
    folder.journal.settle()
    assert list(read_journal(path)) == []
    folder.journal.intend([])
    folder.journal.intend([intent, intent])
    assert len(list(read_journal(path))) == 2


def intents(folder, numbers) -> list[Entry]:
    """Publish files, and return the entries that are to be recorded."""
    wanted = [request(f"v0/{number}", index=number) for number in numbers]
    receipts = asyncio.run(folder.files.save([small(one, b"%d" % one.index) for one in wanted]))
    return [Entry(one.version, one.key, one.path, receipt, 1.0) for one, receipt in zip(wanted, receipts, strict=True)]


def intended(folder) -> list[str]:
    return [entry.path for entry in read_journal(folder.journal.path)]


def test_a_journal_of_a_long_run_is_written_anew_with_what_is_open(folder, open_folder, monkeypatch) -> None:
    monkeypatch.setattr("framefetch.store.journal.SPENT", 20)
    monkeypatch.setattr("framefetch.store.writer.SYNC_SECONDS", 0.0)
    longest = 0
    for start in range(0, 400, 20):
        folder.manifest.commit(intents(folder, range(start, start + 20)))
        folder.manifest.flush()
        longest = max(longest, len(intended(folder)))
    assert longest < 60
    intents(folder, range(400, 405))  # published, and never recorded
    folder.manifest.commit(intents(folder, range(405, 445)))
    folder.manifest.flush()
    # What a crash would leave: the journal of somebody who is gone.
    os.link(folder.journal.path, f"{folder.private}/parts/00000000.journal")
    assert len(list(folder.manifest.entries())) == 440
    assert {entry.path for entry in open_folder(folder.root).manifest.entries()} == {f"v0/{at}" for at in range(445)}


@pytest.mark.parametrize("call", ["fsync", "replace", "open"])
def test_a_journal_that_cannot_be_written_anew_stays_as_it_is(folder, monkeypatch, call) -> None:
    monkeypatch.setattr("framefetch.store.journal.SPENT", 4)

    def refuse(path, *arguments, real=getattr(os, call), **options):
        if call == "fsync" or str(path).endswith(".journal.new"):
            raise OSError(errno.EIO, "no")
        return real(path, *arguments, **options)

    folder.journal.intend([(request(f"v0/{at}"), (digest(BODY),), Verified.NONE, None) for at in range(9)])
    before = descriptors()
    with monkeypatch.context() as patched:
        patched.setattr(os, call, refuse)
        folder.journal.recorded([f"v0/{at}" for at in range(8)])
    assert intended(folder) == [f"v0/{at}" for at in range(9)]
    assert [name for name in os.listdir(f"{folder.private}/parts") if name.endswith(".new")] == []
    assert descriptors() == before
    folder.journal.intend([(request("v0/last"), (digest(BODY),), Verified.NONE, None)])
    assert intended(folder)[-1] == "v0/last"


def test_a_line_that_the_disk_has_spoilt_does_not_end_the_run(folder, monkeypatch) -> None:
    monkeypatch.setattr("framefetch.store.journal.SPENT", 4)
    folder.journal.intend([(request(f"v0/{at}"), (digest(BODY),), Verified.NONE, None) for at in range(9)])
    with open(folder.journal.path, "ab") as file:
        file.write(b'["v0", "\xff\xfe\n')
    folder.journal.recorded([f"v0/{at}" for at in range(8)])
    folder.journal.intend([(request("v0/last"), (digest(BODY),), Verified.NONE, None)])
    assert intended(folder) == ["v0/8", "v0/last"]


def test_what_a_removed_manifest_had_recorded_stays_in_the_journal(folder, monkeypatch) -> None:
    monkeypatch.setattr("framefetch.store.journal.SPENT", 4)
    monkeypatch.setattr("framefetch.store.writer.SYNC_SECONDS", 3600.0)
    folder.manifest.commit(intents(folder, range(20)))
    folder.manifest.flush()
    os.unlink(folder.manifest.path)
    folder.mend(folder.manifest)
    assert len(list(folder.manifest.entries())) == 20


def test_a_line_torn_by_a_full_disk_does_not_swallow_the_next(folder, monkeypatch) -> None:
    real = os.write
    answers = iter([20])  # bytes that still fit

    def torn(handle: int, view: memoryview) -> int:
        room = next(answers, 0)
        if not room:
            raise OSError(28, "No space left on device")
        return real(handle, view[:room])

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", torn)
        with pytest.raises(OSError, match="No space"):
            folder.journal.intend([(request("v0/a"), (digest(BODY),), Verified.NONE, None)])
    folder.journal.intend([(request("v0/b"), (digest(BODY),), Verified.NONE, None)])
    path = f"{folder.private}/parts/{folder.journal.token}.journal"
    assert [entry.path for entry in read_journal(path)] == ["v0/b"]


def test_files_of_others_in_the_private_folder_stay(open_folder, tmp_path) -> None:
    folder = open_folder()
    folder.close()
    names = ["README.md", "notes", "0123456789abcdef", "deadbeef.txt"]
    for name in names:
        (tmp_path / "cache" / ".framefetch" / "parts" / name).write_bytes(b"mine")
    (tmp_path / "cache" / ".framefetch" / "parts" / "deadbeef-1").write_bytes(b"a part of the dead")
    open_folder().close()
    assert sorted(os.listdir(tmp_path / "cache" / ".framefetch" / "parts")) == sorted(names)


def test_a_journal_is_closed_whatever_happens(tmp_path) -> None:
    before = descriptors()
    for folder in ("parts", "locks"):
        (tmp_path / folder).mkdir()
    journal = Journal(str(tmp_path))
    journal.open()
    os.unlink(tmp_path / "parts" / f"{journal.token}.journal")
    journal.close()
    journal.close()
    with pytest.raises(StorageError, match="not open for writing"):
        journal.intend([(request(), (digest(BODY),), Verified.NONE, None)])
    os.rmdir(tmp_path / "parts")
    with pytest.raises(FileNotFoundError):
        Journal(str(tmp_path)).open()
    assert os.listdir(tmp_path / "locks") == []
    assert list(leftovers(str(tmp_path))) == []
    assert descriptors() == before


def test_nothing_is_lost_where_the_process_dies_at_any_step(tmp_path, start) -> None:
    """Whichever call of the disk is the last one: a row never precedes its file, and no file is half there."""
    script = """
    steps, last = 0, int(sys.argv[2])
    for name in ("open", "write", "close", "replace", "lstat", "link", "ftruncate", "unlink", "mkdir"):
        def step(*arguments, real=getattr(os, name), **options):
            global steps
            steps += 1
            if steps > last:
                os.kill(os.getpid(), 9)
            return real(*arguments, **options)
        setattr(os, name, step)
    with CacheFolder(sys.argv[1]) as folder:
        hold(folder, request("v0/1"), b"one")
        receipt = asyncio.run(stream(folder, request("v0/2"), b"t", b"wo"))
        folder.manifest.commit([Entry("v0", "http://host/2", "v0/2", receipt, 1.0)])
    """
    for last in range(0, 1000, 2):
        root = tmp_path / f"cache-{last}"
        root.mkdir()
        child = start(script, root, last)
        code = child.process.wait()
        there = {path: content for path, content in tree(root).items() if path.startswith("v0/")}
        assert there.items() <= {"v0/1": b"one", "v0/2": b"two"}.items()
        with CacheFolder(root) as folder:
            recorded = {entry.path for entry in folder.manifest.entries()}
            assert recorded == there.keys()
            assert parts(folder) == []
        if code == 0:
            assert last > 20
            break
    else:
        pytest.fail("it never came to its end")


@pytest.mark.parametrize("described_first", [True, False])
def test_a_gap_in_the_part_of_a_killed_process_is_not_taken_for_bytes(tmp_path, start, open_folder, described_first):
    """It reads as zeros, and the part is as long as if it were whole."""
    script = """
    from framefetch.models import Entity

    async def work(folder):
        entity = Entity("http://host/1.nwb", etag='"one"', total=9000)
        part = await folder.files.create(request())
        await part.write(b"a" * 1000)
        if sys.argv[2] == "True":
            await part.describe(entity)
        await part.write_at(5000, b"c" * 1000)
        if sys.argv[2] == "False":
            await part.describe(entity)

    folder = CacheFolder(sys.argv[1])
    asyncio.run(work(folder))
    barrier("scattered")
    """
    child = start(script, tmp_path / "cache", described_first)
    child.wait_for("scattered")
    child.kill()
    folder = open_folder()
    folder.prepare()

    async def go_on() -> tuple[int, list[tuple[int, int]]]:
        part = await folder.files.resume(request())
        found = part.length, part.gaps(9000)
        await part.discard()
        return found

    assert asyncio.run(go_on())[0] == 1000


def begun(folder, wanted) -> None:
    """Put the beginning of a file aside."""

    async def work() -> None:
        part = await folder.files.create(wanted)
        await part.write(BODY[:5])
        await part.describe(Entity("http://host/1.nwb", etag='"one"', total=len(BODY)))
        assert await part.suspend() == 5

    asyncio.run(work())


def test_a_part_of_a_file_that_another_process_has_fetched_is_removed(open_folder) -> None:
    with CacheFolder(open_folder().root) as folder:
        begun(folder, request())
        hold(folder, request(), BODY)
        assert len(parts(folder)) == 2
    assert parts(open_folder()) == []


@pytest.mark.parametrize(("part", "journal"), [("00000000", "ffffffff"), ("ffffffff", "00000000")])
def test_a_part_of_a_dead_process_is_removed_where_another_ones_file_is_adopted(
    open_folder, monkeypatch, part, journal
) -> None:
    """Whichever is looked at first: what one died of holding may be recorded only after the part is seen."""
    with CacheFolder(open_folder().root) as folder:
        begun(folder, request())
        entry = hold(folder, request(), BODY)
        folder.manifest.forget([entry])
        place = f"{folder.private}/parts"
        for name in parts(folder):
            os.rename(f"{place}/{name}", f"{place}/{part}-1{'.json' * name.endswith('.json')}")
        with open(f"{place}/{journal}.journal", "w", encoding="utf-8") as file:
            file.write(json.dumps([entry.version, entry.key, entry.path, [str(digest(BODY))], "none", None]) + "\n")
    monkeypatch.setattr(os, "listdir", lambda path, real=os.listdir: sorted(real(path)))
    folder = open_folder()
    assert [entry.path for entry in folder.manifest.entries()] == ["v0/1.nwb"]
    assert parts(folder) == []


def test_a_part_of_a_dead_process_of_which_nothing_had_come_takes_no_other_ones_place(open_folder) -> None:
    """What it would be is noted before its first byte."""
    with CacheFolder(open_folder().root) as folder:
        begun(folder, request())
        place = f"{folder.private}/parts"
        (kept,) = (name for name in parts(folder) if not name.endswith(".json"))
        shutil.copy(f"{place}/{kept}.json", f"{place}/00000000-1.json")
        with open(f"{place}/00000000-1", "wb"):
            pass
    folder = open_folder()
    assert sorted(parts(folder)) == [kept, f"{kept}.json"]
    with open(f"{folder.private}/parts/{kept}", "rb") as file:
        assert file.read() == BODY[:5]


def later(path) -> None:
    """Make a file as if it had been written a second later."""
    found = os.stat(path)
    os.utime(path, ns=(found.st_atime_ns, found.st_mtime_ns + 10**9))


@pytest.mark.parametrize("left", [BODY, None, BODY + b"!"], ids=["older", "gone", "edited"])
def test_the_part_of_a_file_that_is_being_fetched_again_waits(open_folder, left) -> None:
    """The table states another digest by now, or the file that is recorded is not there any more."""
    with CacheFolder(open_folder().root) as folder:
        path = folder.files.absolute(hold(folder, request(), BODY).path)
        begun(folder, request())
        (part,) = (name for name in parts(folder) if not name.endswith(".json"))
        later(f"{folder.private}/parts/{part}")
        if left != BODY:
            os.unlink(path)
        if left not in (BODY, None):
            with open(path, "wb") as file:
                file.write(left)
    assert len(parts(open_folder())) == 2


@given(path=st.text(min_size=1), key=st.text(), etag=st.none() | st.text())
def test_a_line_is_json_and_its_path_is_found_without_taking_it_apart(path, key, etag) -> None:
    request = Request(0, "v0", key, ("http://h/",), path)
    digests = (Digest("md5", "0" * 32), Digest("sha256", "1" * 64))
    line = _line(request, digests, Verified.DIGEST, etag)
    assert json.loads(line) == ["v0", key, path, [str(digest) for digest in digests], "digest", etag]
    assert line == json.dumps(json.loads(line)) + "\n"
    assert _path_in(line) == path
    assert {_path_in(line[:end]) for end in range(len(line))} <= {path, None}
