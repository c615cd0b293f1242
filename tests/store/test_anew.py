"""A manifest that is lost is made anew: once, whole, with what can be read of the old one, which is kept."""

import json
import os
import shutil
import sqlite3
import threading
from dataclasses import replace

import pytest

from framefetch.errors import ManifestError, ManifestLost
from framefetch.models import Digest, Verified
from framefetch.store.anew import make_anew
from framefetch.store.folder import CacheFolder
from framefetch.store.held import HeldCheck
from framefetch.store.manifest import Manifest
from framefetch.store.salvage import hint_sources, salvage
from framefetch.store.schema import identify
from tests.store.builders import RECEIPT, age, digest, fill, hold, query, request, row, tree

BODY = b"the bytes of a file"
ROWS = 400


@pytest.fixture
def cache(tmp_path):
    """Make a cache whose manifest has many pages, and whose one file is there."""
    root = tmp_path / "cache"
    with CacheFolder(root) as folder:
        folder.manifest.commit([row(number) for number in range(ROWS)])
        hold(folder, request("v0/real.nwb"), BODY)
    return root


def spoil(root) -> bytes:
    """Overwrite the head of a manifest."""
    with open(root / "manifest.sqlite", "r+b") as file:
        file.write(b"<html>" * 20)
    return (root / "manifest.sqlite").read_bytes()


def asides(root) -> list[str]:
    return sorted(name for name in os.listdir(root) if name.startswith("manifest.sqlite."))


def untrusted(root) -> int:
    return query(root, "SELECT count(*) FROM entries JOIN windows USING (window) WHERE boot = ''")[0][0]


def test_rows_that_can_be_read_come_back_as_hints(cache) -> None:
    bad = spoil(cache)
    with CacheFolder(cache) as folder:
        assert folder.older is None
        assert "kept as manifest.sqlite.corrupt-1; it was made anew with 401 entries" in folder.files.notices[0]
        assert {entry.trusted for entry in folder.manifest.entries()} == {False}
        check = HeldCheck(folder.files, folder.manifest, "stat", fixed_paths=False)
        (finding,) = check.run([request("v0/real.nwb"), request("v0/1.nwb", key="http://host/1", index=1)], [0, 1])
        assert finding.path == "v0/real.nwb"
        assert finding.entry is not None, "it was hashed, and the manifest is to learn of it"
        assert finding.receipt.digests == (digest(BODY),)
        folder.manifest.commit([finding.entry])
    assert untrusted(cache) == ROWS
    assert (cache / "manifest.sqlite.corrupt-1").read_bytes() == bad
    with CacheFolder(cache) as folder:
        assert folder.files.notices == []
        assert [entry.trusted for entry in folder.manifest.lookup("v0", ["http://host/real.nwb"])] == [True]


def test_a_good_manifest_is_left_as_it_is(cache) -> None:
    before = tree(cache)
    assert make_anew(str(cache / "manifest.sqlite"), str(cache / ".framefetch"), 1.0) is None
    after = tree(cache)
    assert {name: after[name] for name in before} == before
    assert asides(cache) == []


def test_many_processes_find_the_damage_at_once_and_one_of_them_mends_it(cache, start) -> None:
    spoil(cache)
    script = """
    barrier("ready")
    with CacheFolder(sys.argv[1]) as folder:
        barrier("open")
        number = int(sys.argv[2])
        folder.manifest.commit([row(number)])
    """
    children = [start(script, cache, 1000 + number) for number in range(6)]
    for word in ("ready", "open"):
        for child in children:
            child.wait_for(word)
        for child in children:
            child.go_on()
    for child in children:
        child.end()
    assert asides(cache) == ["manifest.sqlite.corrupt-1"]
    assert query(cache, "SELECT count(*) FROM entries") == [(ROWS + 1 + 6,)]


def test_a_process_that_dies_at_any_step_leaves_everything_to_the_next(cache, tmp_path, start) -> None:
    bad = spoil(cache)
    script = """
    steps, last = 0, int(sys.argv[2])
    for name in ("open", "rename", "replace", "link", "unlink", "stat"):
        def step(*arguments, real=getattr(os, name), **options):
            global steps
            steps += 1
            if steps > last:
                os.kill(os.getpid(), 9)
            return real(*arguments, **options)
        setattr(os, name, step)
    CacheFolder(sys.argv[1]).close()
    """
    for last in range(0, 1000, 2):
        root = shutil.copytree(cache, tmp_path / f"cache-{last}")
        child = start(script, root, last)
        code = child.process.wait()
        assert (root / "manifest.sqlite").exists(), "the name is never vacant"
        with CacheFolder(root) as folder:
            assert len(list(folder.manifest.entries())) == ROWS + 1
        assert bad in [content for name, content in tree(root).items() if ".corrupt-" in name]
        assert not any(".new" in name for name in tree(root))
        if code == 0:
            assert last > 10
            break
    else:
        pytest.fail("it never came to its end")


def test_a_second_damage_does_not_replace_what_the_first_left(cache) -> None:
    first = spoil(cache)
    CacheFolder(cache).close()
    (cache / "manifest.sqlite").write_bytes(b"")
    CacheFolder(cache).close()
    assert asides(cache) == ["manifest.sqlite.corrupt-1", "manifest.sqlite.corrupt-2"]
    assert (cache / "manifest.sqlite.corrupt-1").read_bytes() == first
    assert query(cache, "SELECT path FROM entries") == [("v0/real.nwb",)], "the older copy has it"


def test_a_deleted_manifest_finds_its_rows_in_older_copies(cache) -> None:
    spoil(cache)
    CacheFolder(cache).close()
    (cache / "manifest.sqlite").unlink()
    (cache / "manifest.json").write_text("{}")
    with CacheFolder(cache) as folder:
        assert folder.older is None, "what was read of ours says more than what was exported of it"
        assert "the manifest was gone; it was made anew with 1 entries" in folder.files.notices[0]
        assert [entry.path for entry in folder.manifest.entries()] == ["v0/real.nwb"], "the others are not there"
    assert asides(cache) == ["manifest.sqlite.corrupt-1"]


def test_a_damage_that_only_a_writer_meets(cache) -> None:
    """Only a migration reads every page."""
    with CacheFolder(cache) as folder:
        folder.manifest.commit([row(number) for number in range(4000)])
    age(cache, 1)
    query(cache, "VACUUM")
    content = (cache / "manifest.sqlite").read_bytes()
    leaves = [at for at in range(0, len(content), 4096) if content[at] == 0x0A and b"md5:" in content[at : at + 4096]]
    with open(cache / "manifest.sqlite", "r+b") as file:
        file.seek(leaves[len(leaves) // 2])
        file.write(b"\xee" * 4096)
    CacheFolder(cache, create=False, mend=True).close()
    assert asides(cache)[0] == "manifest.sqlite.corrupt-1"
    ((count,),) = query(cache, "SELECT count(*) FROM entries")
    assert 3900 < count < 4001
    assert query(cache, "PRAGMA integrity_check") == [("ok",)]


def killed_in_the_middle(root, start) -> None:
    """Leave a manifest whose rows are in its log only."""
    child = start(
        """
        folder = CacheFolder(sys.argv[1])
        for name in "abc":
            hold(folder, request(f"v0/{name}"), name.encode())
        folder.journal.settle()
        barrier("held")
        """,
        root,
    )
    child.wait_for("held")
    child.kill()
    assert os.path.getsize(root / "manifest.sqlite-wal") > 4096


@pytest.mark.parametrize("loss", ["deleted", "emptied"])
def test_a_log_without_its_manifest_is_read_and_never_meets_another_one(tmp_path, start, loss) -> None:
    root = tmp_path / "cache"
    killed_in_the_middle(root, start)
    log = (root / "manifest.sqlite-wal").read_bytes()
    if loss == "deleted":
        (root / "manifest.sqlite").unlink()
    else:
        os.truncate(root / "manifest.sqlite", 0)
    with CacheFolder(root) as folder:
        assert sorted(entry.path for entry in folder.manifest.entries()) == ["v0/a", "v0/b", "v0/c"]
        assert {entry.trusted for entry in folder.manifest.entries()} == {False}
        assert folder.manifest._writer is not None
    assert (root / "manifest.sqlite.corrupt-1-wal").read_bytes() == log
    assert query(root, "PRAGMA integrity_check") == [("ok",)]


@pytest.mark.parametrize("journal", ["there", "settled"])
def test_a_lost_log_is_made_up_for_by_the_journal_or_by_the_table(tmp_path, start, journal) -> None:
    root = tmp_path / "cache"
    killed_in_the_middle(root, start)
    for name in ("manifest.sqlite-wal", "manifest.sqlite-shm"):
        (root / name).unlink()
    if journal == "there":
        lines = [
            json.dumps(["v0", f"http://host/{name}", f"v0/{name}", [str(digest(name.encode()))], "length", None])
            for name in "abc"
        ]
        (root / ".framefetch" / "parts" / "0123abcd.journal").write_text("\n".join(lines) + "\n")
    with CacheFolder(root) as folder:
        assert len(list(folder.manifest.entries())) == (3 if journal == "there" else 0)
        check = HeldCheck(folder.files, folder.manifest, "stat", fixed_paths=False)
        wanted = [request(f"v0/{name}", index=at, digests=(digest(name.encode()),)) for at, name in enumerate("abc")]
        assert len(list(check.run(wanted, range(3)))) == 3


def test_what_is_read_from_damaged_pages_is_judged(cache) -> None:
    connection = sqlite3.connect(cache / "manifest.sqlite")
    with connection:
        for number, change in enumerate([
            "path = '../outside'", "path = '/etc/passwd'", "path = '.framefetch/parts/x'", "path = ''", "size = -1",
            "digests = ''", "digests = 'md5:zz'", "verified = 'sure'", "fetched_at = 'x'", "version = ''",
            "path = CAST(x'ff' AS TEXT)", "mtime_ns = 'x'", "etag = x'00'",
        ]):  # fmt: skip
            connection.execute(f"UPDATE entries SET {change} WHERE key = 'http://host/{number}'")
    connection.close()
    good = {f"http://host/{number}" for number in range(13, ROWS)} | {"http://host/real.nwb"}
    assert {hint[1] for hint in salvage(str(cache / "manifest.sqlite"))} == good
    spoil(cache)
    assert {hint[1] for hint in salvage(str(cache / "manifest.sqlite"))} == good


def test_pages_give_back_what_went_in(tmp_path) -> None:
    digests = (Digest("md5", "a" * 32), Digest("sha512", "b" * 128))
    entries = [
        row(1, key="http://host/ü?q=%20'\"", path="v0/日本.nwb", fetched_at=1e9 + 0.25),
        row(2, receipt=replace(RECEIPT, size=0, mtime_ns=-5, inode=(1 << 63) - 1, etag='W/"x y"')),
        row(3, receipt=replace(RECEIPT, size=1 << 47, digests=digests, verified=Verified.DIGEST)),
        row(4, receipt=replace(RECEIPT, size=1, mtime_ns=1 << 40, ctime_ns=-(1 << 20))),
    ]
    manifest = Manifest(str(tmp_path))
    manifest.commit(entries)
    manifest.close()
    whole = {hint[:3]: hint for hint in salvage(str(tmp_path / "manifest.sqlite"))}
    spoil(tmp_path)
    assert {hint[:3]: hint for hint in salvage(str(tmp_path / "manifest.sqlite"))} == whole
    assert len(whole) == 4
    for entry in entries:
        receipt = entry.receipt
        assert whole[entry.version, entry.key, entry.path][3:] == (
            receipt.size, receipt.mtime_ns, receipt.ctime_ns, receipt.inode, " ".join(map(str, receipt.digests)),
            receipt.verified.value, receipt.etag, entry.fetched_at,
        )  # fmt: skip


def test_noise_is_no_row_and_no_error(tmp_path) -> None:
    for at in range(50):
        (tmp_path / "manifest.sqlite").write_bytes(b"\x0a" + os.urandom(20_000 + at))
        assert list(salvage(str(tmp_path / "manifest.sqlite"))) == []


def test_others_files_beside_the_manifest_are_no_hints(cache) -> None:
    for name in ("manifest.sqlite.bak", "manifest.sqlite.corrupt-x", "manifest.sqlite.corrupt-1.txt"):
        (cache / name).write_bytes(b"mine")
    os.symlink("/etc/passwd", cache / "manifest.sqlite.corrupt-3")
    (cache / "manifest.sqlite.corrupt-2").mkdir()
    assert hint_sources(str(cache / "manifest.sqlite")) == [str(cache / "manifest.sqlite")]
    spoil(cache)
    CacheFolder(cache).close()
    assert (cache / "manifest.sqlite.corrupt-1").is_file()


def test_where_nothing_can_be_written_a_lost_manifest_is_an_error(disk, open_folder) -> None:
    root = disk("size=4m")
    with CacheFolder(root) as folder:
        hold(folder, request(), BODY)
    bad = spoil(root)
    disk("ro")
    with pytest.raises(ManifestLost, match="is damaged"):
        open_folder(root)
    disk("rw")
    assert tree(root) == {"manifest.sqlite": bad, "v0/1.nwb": BODY}


def test_a_disk_too_full_for_another_manifest_leaves_the_old_one(disk) -> None:
    root = disk("size=1m")
    with CacheFolder(root) as folder:
        folder.manifest.commit([row(number) for number in range(1500)])
    bad = spoil(root)
    filler = fill(root)
    os.truncate(filler, os.path.getsize(filler) - (200 << 10))
    with pytest.raises(ManifestError, match="no space left|cannot be"):
        CacheFolder(root)
    assert (root / "manifest.sqlite").read_bytes() == bad
    assert asides(root) == []
    disk("size=8m")
    with CacheFolder(root) as folder:
        assert len(list(folder.manifest.entries())) == 1500


def test_a_holder_that_makes_no_progress_is_waited_for_as_long_as_was_said(cache, start) -> None:
    spoil(cache)
    holder = start(
        """
        from filelock import FileLock
        with FileLock(sys.argv[1] + "/.framefetch/locks/manifest.lock"):
            barrier("held")
        """,
        cache,
    )
    holder.wait_for("held")
    with pytest.raises(ManifestError, match=r"making the manifest anew for longer than 0.05 s"):
        CacheFolder(cache, lock_timeout=0.05)
    holder.kill()
    with CacheFolder(cache, lock_timeout=0.05) as folder:
        assert len(list(folder.manifest.entries())) == ROWS + 1


# -- while it is used ----------------------------------------------------------------------------------------------


def damage_pages(root) -> None:
    """Spoil every page but the first; the file stays the same one, and nobody remembers what was in it."""
    other = Manifest(str(root))
    other.commit([row(5000)])
    other.close()
    size = os.path.getsize(root / "manifest.sqlite")
    with open(root / "manifest.sqlite", "r+b") as file:
        file.seek(4096)
        file.write(b"\xee" * (size - 4096))


def replace_it(root) -> None:
    """Let another process find it damaged and make it anew."""
    spoil(root)
    CacheFolder(root).close()


def remove_it(root) -> None:
    for name in ("manifest.sqlite", "manifest.sqlite-wal", "manifest.sqlite-shm"):
        (root / name).unlink(missing_ok=True)


def empty_it(root) -> None:
    os.truncate(root / "manifest.sqlite", 0)


@pytest.mark.parametrize("harm", [damage_pages, replace_it, remove_it, empty_it])
def test_nothing_that_was_handed_in_is_lost_with_the_manifest(cache, harm) -> None:
    told: list[str] = []
    with CacheFolder(cache) as folder:
        lost = folder.manifest
        hold(folder, request("v0/before"), b"before")
        harm(cache)
        folder.manifest.commit([row(1001)], lambda entries: told.extend(entry.key for entry in entries))
        with pytest.raises(ManifestLost):
            folder.manifest.flush()
        folder.mend(lost)
        folder.mend(lost)  # another call had found the same
        assert folder.manifest is not lost
        folder.manifest.flush()
        assert told == ["http://host/1001"]
        held = {entry.path for entry in folder.manifest.entries()}
        assert held >= {"v0/before", "v0/1001.nwb"}, "the one by the journal, the other from hand to hand"
    assert query(cache, "PRAGMA integrity_check") == [("ok",)]


def test_a_mending_that_fails_leaves_the_journal(cache, monkeypatch) -> None:
    folder = CacheFolder(cache)
    lost = folder.manifest
    hold(folder, request("v0/before"), b"before")
    remove_it(cache)
    (cache / "manifest.sqlite").mkdir()
    with pytest.raises(ManifestError):
        folder.mend(lost)
    folder.close()
    (cache / "manifest.sqlite").rmdir()
    with CacheFolder(cache) as folder:
        assert [entry.path for entry in folder.manifest.entries()] == ["v0/before"]


def test_calls_of_one_process_mend_once(cache) -> None:
    with CacheFolder(cache) as folder:
        lost = folder.manifest
        damage_pages(cache)
        threads = [threading.Thread(target=folder.mend, args=(lost,)) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert asides(cache) == ["manifest.sqlite.corrupt-1"]


# -- one of its own ------------------------------------------------------------------------------------------------


@pytest.fixture
def linked(cache, tmp_path):
    """Make a copy of the cache by hard links, as ``cp -al`` does."""
    shutil.copytree(cache, tmp_path / "linked", copy_function=os.link)
    return tmp_path / "linked"


def test_a_copy_by_hard_links_gets_a_manifest_of_its_own(cache, linked) -> None:
    before = query(cache, "SELECT version, key, path FROM entries ORDER BY id")
    with CacheFolder(linked, mend=False) as folder:
        assert os.stat(linked / "manifest.sqlite").st_nlink == os.stat(cache / "manifest.sqlite").st_nlink == 1
        hold(folder, request("v0/new.nwb"), BODY)
        with CacheFolder(cache) as first:
            hold(first, request("v0/other.nwb"), BODY)
    added = {root: query(root, "SELECT version, key, path FROM entries ORDER BY id") for root in (cache, linked)}
    assert added == {
        cache: [*before, ("v0", "http://host/other.nwb", "v0/other.nwb")],
        linked: [*before, ("v0", "http://host/new.nwb", "v0/new.nwb")],
    }
    for root in added:
        assert query(root, "PRAGMA integrity_check") == [("ok",)]
    assert asides(linked) == []


def test_what_was_only_in_the_log_of_a_copy_by_hard_links_is_in_its_own(tmp_path, start) -> None:
    script = """
    folder = CacheFolder(sys.argv[1])
    for at in range(3):
        hold(folder, request(f"v0/{at}"), b"bytes")
    barrier("held")
    """
    child = start(script, tmp_path / "cache")
    child.wait_for("held")
    child.kill()
    shutil.copytree(tmp_path / "cache", tmp_path / "linked", copy_function=os.link)
    assert os.path.getsize(tmp_path / "linked" / "manifest.sqlite-wal") > 0
    for root in (tmp_path / "linked", tmp_path / "cache"):
        with CacheFolder(root, mend=False) as folder:
            assert [entry.path for entry in folder.manifest.entries()] == ["v0/0", "v0/1", "v0/2"]
            hold(folder, request("v0/3"), b"bytes")
    with CacheFolder(tmp_path / "linked") as folder:
        assert len(list(folder.manifest.entries())) == 4


def test_a_copy_by_hard_links_of_a_manifest_in_use_is_left_alone(cache, tmp_path) -> None:
    with CacheFolder(cache) as folder:
        shutil.copytree(cache, tmp_path / "linked", copy_function=os.link)
        with pytest.raises(ManifestError, match=r"linked/manifest\.sqlite is one file with another cache's"):
            CacheFolder(tmp_path / "linked", lock_timeout=0.05)
        reader = Manifest(str(tmp_path / "linked"), writable=False)
        assert len(list(reader.entries())) == ROWS + 1, "it can be read"
        reader.close()
        hold(folder, request("v0/new.nwb"), BODY)
    with CacheFolder(tmp_path / "linked") as own:
        assert len(list(own.manifest.entries())) >= ROWS + 1
    assert len(query(cache, "SELECT key FROM entries")) == ROWS + 2


def test_a_second_name_in_the_same_folder_is_no_other_cache(cache) -> None:
    """A process that dies while it makes a manifest leaves one."""
    os.link(cache / "manifest.sqlite", cache / "manifest.sqlite.0123abcd")
    before = identify(str(cache / "manifest.sqlite"))
    with CacheFolder(cache):
        assert identify(str(cache / "manifest.sqlite")) == before
