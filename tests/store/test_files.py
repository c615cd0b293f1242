"""Parts become files: compared, renamed, never half there, and never over what is not ours."""

import asyncio
import errno
import os
import shutil
import stat
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from framefetch.errors import (
    DigestMismatch,
    DiskFull,
    ResourceChanged,
    StorageError,
    TargetBlocked,
    UnsafePath,
)
from framefetch.models import Entity, Receipt, Verified
from framefetch.native import plain
from framefetch.native.at_once import at_once
from framefetch.native.calls import stat_of
from framefetch.store import files as files_module
from framefetch.store.folder import CacheFolder
from framefetch.store.held import unchanged
from framefetch.store.journal import read_journal
from framefetch.store.kept import is_overtaken
from framefetch.store.places import Content, Places, inode_of, sight_of, translate_oserror
from framefetch.store.sidecar import read_sidecar
from tests.store.builders import descriptors, digest, hold, parts, request, small, stream, tree

BODY = b"the bytes of a file"


def files(folder: CacheFolder) -> dict[str, bytes | str]:
    """Return what stands under final names."""
    return {path: content for path, content in tree(folder.root_path).items() if not path.startswith((".f", "man"))}


def own(folder: CacheFolder, path: str = "v0/1.nwb") -> None:
    """Let what stands at a path be replaced."""
    folder.files.own(path, sight_of(os.lstat(folder.files.absolute(path))))


@pytest.fixture
def folder(open_folder, tmp_path):
    opened = open_folder()
    opened.root_path = tmp_path / "cache"
    return opened


@pytest.fixture(params=["streamed", "saved"])
def publish(request, folder):
    """Give a function that publishes bytes: in blocks through a part, or as a small body; both must do the same."""

    async def streamed(wanted, content: bytes) -> Receipt:
        return await stream(folder, wanted, content[:7], content[7:])

    async def saved(wanted, content: bytes) -> Receipt:
        (result,) = await folder.files.save([small(wanted, content, length_known=False)])
        if isinstance(result, Exception):
            raise result
        return result

    return streamed if request.param == "streamed" else saved


# -- what is published ---------------------------------------------------------------------------------------------


async def test_a_file_is_published_with_a_receipt_of_what_is_there(folder, publish) -> None:
    receipt = await publish(request("v0/deep/er/1.nwb"), BODY)
    found = os.lstat(f"{folder.root}/v0/deep/er/1.nwb")
    assert files(folder) == {"v0/deep/er/1.nwb": BODY}
    assert receipt == Receipt(
        len(BODY), found.st_mtime_ns, found.st_ctime_ns, found.st_ino, (digest(BODY),), Verified.NONE
    )
    assert parts(folder) == []
    assert folder.files.notices == []


async def test_what_is_stated_is_compared_and_recorded(folder, publish) -> None:
    stated = (digest(BODY, "sha256"), digest(BODY, "blake2b"))
    receipt = await publish(request(digests=stated, size=len(BODY)), BODY)
    assert receipt.verified is Verified.DIGEST
    assert receipt.digests == (digest(BODY), *stated)
    assert (await publish(request("v0/2", size=len(BODY)), BODY)).verified is Verified.LENGTH


async def test_an_empty_file_is_a_file(folder, publish) -> None:
    receipt = await publish(request(digests=(digest(b""),)), b"")
    assert (receipt.size, files(folder)) == (0, {"v0/1.nwb": b""})


@pytest.mark.parametrize(
    ("stated", "error"),
    [
        ({"digests": (digest(b"other"),)}, DigestMismatch),
        ({"digests": (digest(BODY), digest(b"other", "sha1"))}, DigestMismatch),
        ({"size": len(BODY) + 1}, ResourceChanged),
        ({"size": 0}, ResourceChanged),
    ],
)
async def test_wrong_bytes_leave_nothing(folder, publish, stated, error) -> None:
    with pytest.raises(error, match="expected"):
        await publish(request(**stated), BODY)
    assert files(folder) == {}
    assert parts(folder) == []


async def test_a_crowd_is_who_works_and_who_stands_in_line(folder) -> None:
    begun, go_on = threading.Semaphore(0), threading.Event()

    def work() -> None:
        begun.release()
        assert go_on.wait(60)

    jobs = [asyncio.create_task(folder.files.run(work)) for _ in range(20)]
    try:
        for _ in range(8):
            assert await asyncio.to_thread(begun.acquire, timeout=60)
        jobs[-1].cancel()
        await asyncio.sleep(0)
        assert folder.files.crowd == 20 / 8, "who is cancelled is there until his job is done"
    finally:
        go_on.set()
    assert await asyncio.gather(*jobs[:-1]) == [None] * 19
    with pytest.raises(asyncio.CancelledError):
        await jobs[-1]
    assert folder.files.crowd == 0


async def test_wrong_bytes_leave_the_old_file_as_it_is(folder, publish) -> None:
    await publish(request(), b"old")
    own(folder)
    with pytest.raises(DigestMismatch):
        await publish(request(digests=(digest(b"other"),)), BODY)
    assert files(folder) == {"v0/1.nwb": b"old"}


# -- what stands there already -------------------------------------------------------------------------------------


async def test_our_own_file_is_replaced(folder, publish) -> None:
    await publish(request(), b"old")
    own(folder)
    await publish(request(), BODY)
    assert files(folder) == {"v0/1.nwb": BODY}
    assert folder.files.notices == []


async def test_what_somebody_put_there_since_is_not_ours(folder, publish) -> None:
    """Ours is the file that was seen, and not whatever stands at its path later."""
    await publish(request(), b"old")
    own(folder)
    place = Path(folder.root) / "v0/1.nwb"
    place.unlink()
    place.write_bytes(b"my own work")
    await publish(request(), BODY)
    assert files(folder) == {"v0/1.nwb": BODY, "v0/1.nwb.kept-1": b"my own work"}
    place.unlink()
    folder.files.own("v0/1.nwb", None)
    place.write_bytes(b"more work")
    await publish(request(), BODY)
    assert files(folder)["v0/1.nwb.kept-2"] == b"more work"


async def test_foreign_files_are_set_aside_one_after_the_other(folder, publish) -> None:
    for content in (b"one", b"two", b"three"):
        await publish(request(), content)
    assert files(folder) == {"v0/1.nwb": b"three", "v0/1.nwb.kept-1": b"one", "v0/1.nwb.kept-2": b"two"}
    assert folder.files.notices == [
        f"v0/1.nwb was there before and is not in the manifest; it was kept as v0/1.nwb.kept-{number}"
        for number in (1, 2)
    ]


@pytest.mark.parametrize("owner", ["recorded", "in its journal", "of another process"])
async def test_what_another_key_holds_by_now_is_not_set_aside(folder, open_folder, publish, owner) -> None:
    theirs = request(key="http://host/theirs")
    if owner == "recorded":
        await asyncio.to_thread(hold, folder, theirs, b"theirs")
        folder.journal.settle()
    else:
        other = folder if owner == "in its journal" else open_folder()
        assert await other.files.save([small(theirs, b"theirs")])
    with pytest.raises(TargetBlocked, match=r"v0/1\.nwb is held for another URL, http://host/theirs"):
        await publish(request(), BODY)
    assert files(folder) == {"v0/1.nwb": b"theirs"}
    assert folder.files.notices == []
    assert parts(folder) == []


@pytest.mark.parametrize("by", ["its row", "its journal"])
@pytest.mark.parametrize("stated", [False, True])
async def test_what_another_process_has_brought_of_the_same_key_stays(folder, open_folder, publish, by, stated) -> None:
    """This one was stopped meanwhile, and its bytes are older; unless the table says that they are the right ones."""
    other = open_folder()
    if by == "its row":
        await asyncio.to_thread(hold, other, request(), b"newer")
        other.journal.settle()
    else:
        assert await other.files.save([small(request(), b"newer")])
    if stated:
        await publish(request(digests=(digest(BODY),)), BODY)
        assert files(folder) == {"v0/1.nwb": BODY, "v0/1.nwb.kept-1": b"newer"}
        return
    with pytest.raises(StorageError, match="brought by another process meanwhile") as told:
        await publish(request(), BODY)
    assert told.value.retryable
    assert files(folder) == {"v0/1.nwb": b"newer"}
    assert folder.files.notices == parts(folder) == []


async def test_what_was_edited_since_another_process_brought_it_is_set_aside(folder, open_folder, publish) -> None:
    await asyncio.to_thread(hold, open_folder(), request(), b"newer")
    (Path(folder.root) / "v0/1.nwb").write_bytes(b"my own work")
    await publish(request(), BODY)
    assert files(folder) == {"v0/1.nwb": BODY, "v0/1.nwb.kept-1": b"my own work"}


async def test_the_first_of_two_keys_in_one_lot_has_their_path(folder) -> None:
    lot = [small(request(key=f"http://host/{at}", index=at), b"%d" % at) for at in range(3)]
    first, *others = await folder.files.save(lot)
    assert isinstance(first, Receipt)
    assert [str(error).partition(";")[0] for error in others] == ["v0/1.nwb is held for another URL, http://host/0"] * 2
    assert files(folder) == {"v0/1.nwb": b"0"}


async def test_a_file_of_the_users_in_the_place_of_one_that_another_key_meant_to_hold(folder, publish) -> None:
    await folder.files.save([small(request(key="http://host/theirs"), b"theirs")])
    place = Path(folder.root) / "v0/1.nwb"
    place.unlink()
    place.write_bytes(b"my own work")
    await publish(request(), BODY)
    assert files(folder) == {"v0/1.nwb": BODY, "v0/1.nwb.kept-1": b"my own work"}


async def test_a_file_is_set_aside_without_hard_links_too(folder, publish, monkeypatch) -> None:
    await publish(request(), b"one")

    def refuse(*paths: str) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    await publish(request(), b"two")
    await publish(request(), b"three")
    assert files(folder) == {"v0/1.nwb": b"three", "v0/1.nwb.kept-1": b"one", "v0/1.nwb.kept-2": b"two"}


async def test_a_file_with_the_longest_of_names_is_set_aside_too(folder, publish) -> None:
    name = "v0/" + "é" * 125 + ".nwb2"  # 255 bytes
    await publish(request(name), b"one")
    await publish(request(name), b"two")
    kept = {path: content for path, content in files(folder).items() if path != name}
    assert list(kept.values()) == [b"one"]
    assert all(path.endswith(".kept-1") for path in kept)


@pytest.mark.parametrize("ours", [False, True])
async def test_a_link_at_the_final_place_is_set_aside_and_its_target_untouched(folder, publish, tmp_path, ours) -> None:
    (folder.root_path / "v0").mkdir()
    for number, outside in enumerate((tmp_path / "outside", tmp_path / "nowhere"), 1):
        (tmp_path / "outside").write_bytes(BODY)
        (folder.root_path / "v0" / "1.nwb").unlink(missing_ok=True)
        (folder.root_path / "v0" / "1.nwb").symlink_to(outside)
        if ours:
            folder.files.own("v0/1.nwb", sight_of(os.lstat(folder.root_path / "v0" / "1.nwb")))
        await publish(request(), BODY)
        assert (tmp_path / "outside").read_bytes() == BODY
        assert folder.files.notices.pop() == f"v0/1.nwb was a link; it was kept as v0/1.nwb.kept-{number}"
        assert (folder.root_path / f"v0/1.nwb.kept-{number}").readlink() == outside
        assert not (folder.root_path / "v0" / "1.nwb").is_symlink()


async def test_a_folder_at_the_final_place_is_left_alone(folder, publish) -> None:
    (folder.root_path / "v0" / "1.nwb").mkdir(parents=True)
    (folder.root_path / "v0" / "1.nwb" / "mine").write_bytes(b"mine")
    with pytest.raises(TargetBlocked, match="a folder stands at v0/1.nwb"):
        await publish(request(), BODY)
    assert files(folder) == {"v0/1.nwb/mine": b"mine"}
    assert parts(folder) == []


@pytest.mark.parametrize("path", ["v0/1.nwb", "v0/deep/1.nwb"])
async def test_nothing_is_written_through_a_link(folder, publish, tmp_path, path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    link = folder.root_path / os.path.dirname(path)
    link.parent.mkdir(exist_ok=True)
    link.symlink_to(outside)
    with pytest.raises(UnsafePath, match="a link stands at"):
        await publish(request(path), BODY)
    assert os.listdir(outside) == []
    assert parts(folder) == []


async def test_a_file_where_a_folder_belongs_is_left_alone(folder, publish) -> None:
    (folder.root_path / "v0").write_bytes(b"mine")
    with pytest.raises(UnsafePath, match="a file stands at v0"):
        await publish(request(), BODY)
    assert files(folder) == {"v0": b"mine"}


async def test_a_folder_removed_during_a_run_is_made_again(folder, publish) -> None:
    await publish(request("v0/a/1"), BODY)
    shutil.rmtree(Path(folder.root) / "v0")
    await publish(request("v0/a/2"), BODY)
    assert (Path(folder.root) / "v0/a/2").read_bytes() == BODY


async def test_folders_removed_between_two_runs_are_made_again(folder, publish) -> None:
    await publish(request(), BODY)
    os.unlink(f"{folder.root}/v0/1.nwb")
    os.rmdir(f"{folder.root}/v0")
    folder.prepare()
    await publish(request(), BODY)
    assert files(folder) == {"v0/1.nwb": BODY}


@pytest.mark.parametrize("swapped", ["v0", "v0/a"])
@pytest.mark.parametrize("between_two_runs", [True, False])
async def test_a_link_put_in_the_place_of_a_folder_is_seen(
    folder, publish, tmp_path, swapped, between_two_runs
) -> None:
    await publish(request("v0/a/1.nwb"), BODY)
    before = tree(tmp_path / "cache" / "v0")
    os.rename(f"{folder.root}/{swapped}", tmp_path / "moved")
    os.symlink(tmp_path / "moved", f"{folder.root}/{swapped}")
    if between_two_runs:
        folder.prepare()
    with pytest.raises(UnsafePath, match=f"a link stands at {swapped}, "):
        await publish(request("v0/a/2.nwb"), BODY)
    assert [path.rpartition("/")[2] for path in tree(tmp_path / "moved")] == ["1.nwb"]
    os.unlink(f"{folder.root}/{swapped}")
    os.rename(tmp_path / "moved", f"{folder.root}/{swapped}")
    await publish(request("v0/a/2.nwb"), BODY)
    assert tree(tmp_path / "cache" / "v0") == before | {"a/2.nwb": BODY}


def test_each_folder_is_looked_at_once_for_a_lot(folder, monkeypatch) -> None:
    wanted = [request(f"v0/{at % 2}/{at}", index=at) for at in range(100)]
    looked = []
    real = os.lstat
    monkeypatch.setattr(os, "lstat", lambda path: (looked.append(path), real(path))[1])
    assert all(isinstance(one, Receipt) for one in folder.files.save_here([small(one, BODY) for one in wanted]))
    if at_once is plain:  # it looks at what it moves as well
        moved = {folder.files.absolute(one.path) for one in wanted}
        looked = [path for path in looked if path not in moved]
    assert sorted(set(looked)) == sorted(looked)
    assert {f"{folder.root}/{name}" for name in ("v0", "v0/0", "v0/1")} >= set(looked)


# -- the disk refuses ----------------------------------------------------------------------------------------------


def failing(code: int):
    def refuse(*arguments: object, **options: object) -> None:
        raise OSError(code, os.strerror(code))

    return refuse


@pytest.mark.usefixtures("plainly")
@pytest.mark.parametrize(("code", "kind"), [(errno.EIO, StorageError), (errno.ENOSPC, DiskFull)])
async def test_a_rename_that_fails_publishes_nothing(folder, publish, monkeypatch, code, kind) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", failing(code))
        with pytest.raises(kind, match=errno.errorcode[code]) as caught:
            await publish(request(), BODY)
    assert caught.value.fatal is (kind is DiskFull)
    assert files(folder) == {}
    assert parts(folder) == []
    await publish(request(), BODY)
    assert files(folder) == {"v0/1.nwb": BODY}


@pytest.mark.usefixtures("plainly")
@pytest.mark.parametrize("call", ["write", "close"])
@pytest.mark.parametrize("code", [errno.EIO, errno.ENOSPC, errno.EDQUOT])
async def test_a_small_body_that_cannot_be_written_leaves_nothing(folder, monkeypatch, call, code) -> None:
    real = os.close
    wanted = request()
    with monkeypatch.context() as patch:
        if call == "write":
            patch.setattr(os, "write", failing(code))
        else:
            patch.setattr(os, "close", lambda handle: (real(handle), failing(code)()))
        (result,) = await folder.files.save([small(wanted, BODY)])
    assert isinstance(result, StorageError)
    assert isinstance(result, DiskFull) is result.fatal is (code != errno.EIO)
    assert files(folder) == {}
    assert parts(folder) == []


async def test_an_error_that_shows_itself_only_at_close_is_no_file(folder, monkeypatch) -> None:
    real = files_module.DigestingFile.close

    def close(self) -> None:
        if not self.closed:
            real(self)
            failing(errno.ENOSPC)()

    with monkeypatch.context() as patch:
        patch.setattr(files_module.DigestingFile, "close", close)
        with pytest.raises(DiskFull, match="publishing v0/1.nwb"):
            await stream(folder, request(), BODY)
    assert files(folder) == {}
    assert parts(folder) == []


@pytest.mark.usefixtures("plainly")
async def test_short_writes_are_made_whole(folder, monkeypatch) -> None:
    real = os.write
    with monkeypatch.context() as patch:
        patch.setattr(os, "write", lambda handle, view: real(handle, view[:3]))
        (receipt,) = await folder.files.save([small(request(digests=(digest(BODY),)), BODY)])
    assert receipt.size == len(BODY)
    assert files(folder) == {"v0/1.nwb": BODY}
    assert [entry.path for entry in read_journal(f"{folder.private}/parts/{folder.journal.token}.journal")] == [
        "v0/1.nwb"
    ]


@pytest.mark.usefixtures("plainly")
async def test_bytes_that_a_disk_has_swallowed_are_missed(folder, monkeypatch) -> None:
    real = os.write
    journal = folder.journal._handle
    with monkeypatch.context() as patch:
        patch.setattr(
            os, "write", lambda handle, view: real(handle, view) if handle == journal else real(handle, view[:-1]) + 1
        )
        (result,) = await folder.files.save([small(request(), BODY)])
    assert isinstance(result, StorageError)
    assert f"expected {len(BODY)} bytes on the disk" in str(result)
    assert files(folder) == {}
    assert parts(folder) == []


async def test_a_really_full_disk(disk, open_folder) -> None:
    root = disk("size=600k")
    folder = open_folder(root)
    await stream(folder, request("v0/first"), b"x" * 1000)
    with pytest.raises(DiskFull, match="ENOSPC") as caught:
        await stream(folder, request("v0/second"), *[b"x" * 100_000] * 20)
    assert caught.value.fatal
    bodies = [small(request(f"v0/{number}", index=number), b"y" * 100_000) for number in range(10)]
    results = await folder.files.save(bodies)
    good = {f"v0/{at}" for at, result in enumerate(results) if isinstance(result, Receipt)}
    assert {type(result) for result in results} == {Receipt, DiskFull}
    there = {path: len(content) for path, content in tree(root).items() if path.startswith("v0/")}
    assert there == dict.fromkeys(good, 100_000) | {"v0/first": 1000}
    assert parts(folder) == []


async def test_no_inodes_are_a_full_disk_too(disk, open_folder) -> None:
    folder = open_folder(disk("size=2m,nr_inodes=24"))
    results = await folder.files.save([small(request(f"v0/{at}", index=at), b"x") for at in range(30)])
    assert {type(result) for result in results} == {Receipt, DiskFull}
    assert parts(folder) == []


async def test_a_read_only_disk_is_told_before_anything_is_fetched(disk, open_folder) -> None:
    root = disk("size=2m")
    await asyncio.to_thread(lambda: CacheFolder(root).close())
    disk("ro")
    folder = open_folder(root)
    assert not folder.writable
    with pytest.raises(StorageError, match="EROFS") as caught:
        folder.prepare()
    assert caught.value.fatal


async def test_a_disk_that_turns_read_only_while_open(disk, open_folder) -> None:
    root = disk("size=2m")
    folder = open_folder(root)
    entry = await asyncio.to_thread(hold, folder, request(), BODY)
    folder.manifest.close()
    folder.journal.close()
    disk("ro")
    with pytest.raises(StorageError, match="EROFS") as caught:
        folder.files.prepare()
    assert caught.value.fatal
    (result,) = await folder.files.save([small(request("v0/2.nwb"), BODY)])
    assert isinstance(result, StorageError)
    assert result.fatal
    assert tree(root)[entry.path] == BODY


async def test_a_batch_where_some_fail_holds_the_others(folder) -> None:
    (folder.root_path / "v0" / "folder").mkdir(parents=True)
    (folder.root_path / "v0" / "link").symlink_to("/nowhere")
    bodies = [
        small(request("v0/good", index=0), BODY),
        small(request("v0/wrong", index=1, digests=(digest(b"other"),)), BODY),
        small(request("v0/folder", index=2), BODY),
        small(request("v0/link/below", index=3), BODY),
        small(request("v0/long", index=4, size=3), BODY),
        small(request("v0/" + "x" * 300, index=5), BODY),
        small(request("v0/last", index=6, digests=(digest(BODY),)), BODY, etag='"e"'),
    ]
    results = await folder.files.save(bodies)
    assert [type(result) for result in results] == [
        Receipt, DigestMismatch, TargetBlocked, UnsafePath, ResourceChanged, StorageError, Receipt,
    ]  # fmt: skip
    assert [result.fatal for result in results if isinstance(result, Exception)] == [False] * 5
    assert (results[6].etag, results[6].verified) == ('"e"', Verified.DIGEST)
    assert files(folder) == {"v0/good": BODY, "v0/last": BODY, "v0/link": "/nowhere"}
    assert parts(folder) == []


async def test_a_journal_that_cannot_be_written_publishes_nothing(folder, monkeypatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(folder.journal, "intend", failing(errno.ENOSPC))
        results = await folder.files.save([small(request(f"v0/{at}", index=at), BODY) for at in range(3)])
        with pytest.raises(DiskFull):
            await stream(folder, request("v0/streamed"), BODY)
    assert [type(result) for result in results] == [DiskFull] * 3
    assert files(folder) == {}
    assert parts(folder) == []


@pytest.mark.usefixtures("plainly")
async def test_a_file_replaced_by_somebody_else_at_the_same_moment_gets_no_receipt(
    folder, publish, monkeypatch
) -> None:
    real = os.replace

    def replaced(part: str, target: str) -> None:
        real(part, target)
        os.unlink(target)
        with open(target, "wb") as other:
            other.write(b"of another process")

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", replaced)
        with pytest.raises(StorageError, match="replaced by another process") as caught:
            await publish(request(), BODY)
    assert caught.value.retryable
    assert files(folder) == {"v0/1.nwb": b"of another process"}


@pytest.mark.parametrize(
    ("code", "fatal", "retryable"),
    [
        (errno.ENOSPC, True, False),
        (errno.EDQUOT, True, False),
        (errno.EROFS, True, False),
        (errno.EIO, False, False),
        (errno.EMFILE, False, True),
        (errno.ENAMETOOLONG, False, False),
    ],
)
def test_errors_of_the_system_are_translated(code, fatal, retryable) -> None:
    error = translate_oserror(OSError(code, os.strerror(code)), "writing x")
    assert (error.fatal, error.retryable) == (fatal, retryable)
    assert str(error).startswith(f"writing x: {os.strerror(code)} ({errno.errorcode[code]})")
    assert translate_oserror(error, "again") is error


def test_an_inodes_number_fits_an_integer_with_a_sign() -> None:
    for number in (0, 1 << 63, (1 << 64) - 1, 1 << 127):
        assert 0 <= inode_of(os.stat_result((0o100644, number, *[0] * 8))) < 1 << 63


def test_the_times_of_a_file_fit_an_integer_with_a_sign(folder) -> None:
    first, last = -(1 << 63), (1 << 63) - 1
    for time, kept in ((first - 1, first), (first, first), (0, 0), (last, last), (last + 1, last), (1 << 70, last)):
        times = {"st_mtime_ns": time, "st_ctime_ns": time}
        found = os.stat_result((stat.S_IFREG, 1, *[0] * 8), times)
        assert stat_of(found)[2:4] == (kept, kept)
        assert unchanged(Receipt(0, kept, kept, 1, (), Verified.NONE), found)
        assert not unchanged(Receipt(0, kept, 1, 1, (), Verified.NONE), found)


# -- copies --------------------------------------------------------------------------------------------------------


def test_a_copy_is_a_file_of_its_own(folder) -> None:
    hold(folder, request(), BODY)
    receipt = folder.files.copy("v0/1.nwb", request("v0/x/2.nwb", digests=(digest(BODY, "sha1"),)))
    assert receipt.verified is Verified.DIGEST
    with open(f"{folder.root}/v0/1.nwb", "ab") as first:
        first.write(b"!")
    assert files(folder) == {"v0/1.nwb": BODY + b"!", "v0/x/2.nwb": BODY}


@pytest.mark.parametrize(
    ("source", "wanted", "error"),
    [
        ("v0/none", request("v0/2.nwb"), StorageError),
        ("v0/1.nwb", request("v0/2.nwb", digests=(digest(b"other"),)), DigestMismatch),
        ("v0/1.nwb", request("v0/2.nwb", size=1), ResourceChanged),
        ("v0/1.nwb", request("v0/1.nwb/below"), UnsafePath),
    ],
)
def test_a_copy_that_fails_leaves_nothing(folder, source, wanted, error) -> None:
    hold(folder, request(), BODY)
    before = descriptors()
    with pytest.raises(error):
        folder.files.copy(source, wanted)
    assert files(folder) == {"v0/1.nwb": BODY}
    assert parts(folder) == []
    assert descriptors() == before


# -- cancelled -----------------------------------------------------------------------------------------------------


@pytest.fixture
def gate(monkeypatch):
    """Give a function that holds a call of the os module until it is let go."""
    entered, let_go = threading.Event(), threading.Event()

    def hold_back(place: object, name: str) -> None:
        real = getattr(place, name)

        def held(*arguments: object, **options: object) -> object:
            entered.set()
            assert let_go.wait(30)
            return real(*arguments, **options)

        monkeypatch.setattr(place, name, held)

    hold_back.entered = lambda: asyncio.to_thread(entered.wait, 30)
    hold_back.let_go = let_go.set
    yield hold_back
    let_go.set()


async def cancelled_in(gate, task: asyncio.Task) -> None:
    """Cancel a task, twice, while a thread is held, and see that it waits for the thread."""
    assert await gate.entered()
    for _ in range(2):
        task.cancel()
        await asyncio.wait([task], timeout=0.01)
        assert not task.done(), "it must not let go of a file that a thread is using"
    gate.let_go()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_a_cancelled_write_ends_before_its_file_is_closed(folder, gate) -> None:
    part = await folder.files.create(request())
    gate(part._raw.hasher.__class__, "write")
    await cancelled_in(gate, asyncio.create_task(part.write(BODY)))
    assert os.path.getsize(part._path) == len(BODY)
    await part.discard()
    assert parts(folder) == []


async def test_a_part_whose_creation_was_cancelled_does_not_stay(folder, gate) -> None:
    before = descriptors()
    gate(os, "open")
    await cancelled_in(gate, asyncio.create_task(folder.files.create(request())))
    assert parts(folder) == []
    assert descriptors() == before


async def test_a_file_published_for_a_cancelled_call_is_recorded_all_the_same(folder, gate) -> None:
    part = await folder.files.create(request())
    await part.write(BODY)
    gate(folder.files, "put")
    await cancelled_in(gate, asyncio.create_task(part.publish(length_known=True, etag=None)))
    await part.discard()
    await asyncio.to_thread(folder.manifest.flush)
    (entry,) = folder.manifest.lookup("v0", ["http://host/1.nwb"])
    assert entry.receipt.digests == (digest(BODY),)
    assert files(folder) == {"v0/1.nwb": BODY}


async def test_what_somebody_puts_over_the_file_of_a_cancelled_call_is_not_ours(folder, gate, publish) -> None:
    part = await folder.files.create(request())
    await part.write(BODY)
    put = folder.files.put

    def put_and_lose(*arguments: object) -> Receipt:
        receipt = put(*arguments)
        Path(folder.root, "v0/1.nwb").unlink()
        Path(folder.root, "v0/1.nwb").write_bytes(b"my own work")
        return receipt

    folder.files.put = put_and_lose
    gate(folder.files, "put")
    await cancelled_in(gate, asyncio.create_task(part.publish(length_known=True, etag=None)))
    folder.files.put = put
    await publish(request(), BODY)
    assert files(folder) == {"v0/1.nwb": BODY, "v0/1.nwb.kept-1": b"my own work"}


# -- many at once --------------------------------------------------------------------------------------------------


async def test_parts_never_share_a_name(folder) -> None:
    content = {f"v0/{number}": os.urandom(20) for number in range(400)}
    await asyncio.gather(
        *(stream(folder, request(path, digests=(digest(body),)), body) for path, body in content.items())
    )
    assert files(folder) == content


def test_nothing_stays_open_or_running(tmp_path) -> None:
    before, threads = descriptors(), threading.active_count()
    for number in range(5):
        with CacheFolder(tmp_path / "cache") as folder:
            folder.prepare()
            hold(folder, request(f"v0/{number}"), BODY)
            asyncio.run(stream(folder, request(f"v0/s{number}"), BODY))
    assert descriptors() == before
    assert threading.active_count() == threads
    assert os.listdir(tmp_path / "cache" / ".framefetch" / "parts") == []
    assert os.listdir(tmp_path / "cache" / ".framefetch" / "locks") == []


def test_what_a_part_is_the_beginning_of_is_noted_before_its_first_byte_and_once(folder) -> None:
    entity = Entity("http://host/1.nwb", etag='"one"', total=len(BODY))
    noted: list[tuple[int, Entity | None, int]] = []

    def blocks() -> Iterator[tuple[int, bytes]]:
        for at in range(2):
            (name,) = (name for name in parts(folder) if name.endswith(".json"))
            sidecar = folder.root_path / ".framefetch" / "parts" / name
            found = read_sidecar(str(sidecar))
            noted.append((at, found and found.entity, sidecar.stat().st_ino))
            yield at, BODY[at : at + 1]

    async def pour_and_describe() -> None:
        part = await folder.files.create(request())
        await part.pour(blocks(), entity)
        await part.describe(entity)
        (name,) = (name for name in parts(folder) if name.endswith(".json"))
        noted.append((2, entity, (folder.root_path / ".framefetch" / "parts" / name).stat().st_ino))
        await part.discard()

    asyncio.run(pour_and_describe())
    assert noted == [(at, entity, noted[0][2]) for at in range(3)], "the same file all the time"


def test_what_waits_in_parts_needs_no_room_again(folder) -> None:
    async def leave() -> None:
        part = await folder.files.create(request())
        await part.write(b"x" * 200_000)
        await part.describe(Entity("http://host/1.nwb", etag='"one"', total=300_000))
        assert await part.suspend() == 200_000

    asyncio.run(leave())
    assert folder.files.waiting([request(), request("v0/2", index=1)]) >= 200_000
    assert folder.files.waiting([request("v0/2", index=1)]) == 0


@pytest.mark.parametrize(("same", "is_ours"), [("both", True), ("time", True), ("number", True), ("neither", False)])
def test_a_published_file_is_ours_by_its_number_or_by_its_time(tmp_path, same, is_ours) -> None:
    places = Places(str(tmp_path))
    part, other = tmp_path / "part", tmp_path / "other"
    part.write_bytes(b"abc")
    other.write_bytes(b"xyz")
    os.utime(part, ns=(1, 1))
    os.utime(other, ns=(1, 1) if same == "time" else (2, 2))
    written = stat_of(os.lstat(other if same in ("time", "neither") else part))
    if same == "number":
        os.utime(part, ns=(3, 3))  # as a network file system does when a file is closed
    content = Content(3, (), Verified.LENGTH)
    (result,) = places.move_all_in([(str(part), "v0/a", content, written)])
    if is_ours:
        assert result.size == 3
    else:
        assert isinstance(result, StorageError)
        assert "replaced by another process" in str(result)
        assert result.retryable


SECOND = 1_000_000_000


@pytest.mark.parametrize("many", [True, False])
@pytest.mark.parametrize(
    ("clock", "back"),
    [
        (1_700_000_001 * SECOND, 2 * SECOND),
        (1_700_000_001 * SECOND + 10_000_000, 2 * SECOND),
        (1_700_000_001 * SECOND + 1, 0),
    ],
)
def test_an_edit_within_one_step_of_a_coarse_clock_shows_in_the_time(tmp_path, many, clock, back) -> None:
    places, part, target = Places(str(tmp_path)), tmp_path / "part", tmp_path / "v0" / "1.nwb"
    part.write_bytes(b"abc")
    os.utime(part, ns=(clock, clock))  # as FAT, exFAT or SFTP would tell it
    written, content = stat_of(os.lstat(part)), Content(3, (digest(b"abc"),), Verified.DIGEST)
    if many:
        (receipt,) = places.move_all_in([(str(part), "v0/1.nwb", content, written)])
    else:
        receipt = places.move_in(str(part), "v0/1.nwb", content)
    assert receipt.mtime_ns == os.lstat(target).st_mtime_ns == clock - back


def cut(part: Path) -> None:
    part.write_bytes(b"")


def swapped(part: Path) -> None:
    other = part.with_name("other")
    other.write_bytes(b"xyz")
    os.utime(other, ns=(6 * SECOND, 6 * SECOND))
    other.replace(part)


@pytest.mark.parametrize("harm", [cut, swapped])
def test_a_part_that_is_another_one_by_now_is_not_believed_with_a_coarse_clock_either(tmp_path, harm) -> None:
    places, part = Places(str(tmp_path)), tmp_path / "part"
    part.write_bytes(b"abc")
    os.utime(part, ns=(5 * SECOND, 5 * SECOND))
    written, content = stat_of(os.lstat(part)), Content(3, (digest(b"abc"),), Verified.DIGEST)
    harm(part)
    (result,) = places.move_all_in([(str(part), "v0/1.nwb", content, written)])
    assert isinstance(result, StorageError)
    assert "was replaced by another process" in str(result)


def test_a_time_that_two_names_have_stays(tmp_path) -> None:
    places, part, other = Places(str(tmp_path)), tmp_path / "part", tmp_path / "other"
    other.write_bytes(b"abc")
    os.utime(other, ns=(5 * SECOND, 5 * SECOND))
    os.link(other, part)
    receipt = places.move_in(str(part), "v0/1.nwb", Content(3, (digest(b"abc"),), Verified.DIGEST))
    assert receipt.mtime_ns == os.lstat(other).st_mtime_ns == 5 * SECOND


@pytest.mark.parametrize(("part_ns", "goes"), [(7 * SECOND, True), (9 * SECOND, False), (7 * SECOND + 1, False)])
def test_a_part_of_a_file_that_was_dated_back_is_overtaken(open_folder, part_ns, goes) -> None:
    folder = open_folder()
    folder.prepare()
    entry = hold(folder, request(), BODY)
    target = Path(folder.files.absolute(entry.path))
    os.utime(target, ns=(5 * SECOND, 5 * SECOND))  # written in the seventh second, and dated back
    receipt = folder.files.receipt(entry.path, entry.receipt.digests, entry.receipt.verified)
    folder.manifest.commit([replace(entry, receipt=receipt)])
    folder.manifest.flush()
    part = target.with_name("part")
    part.write_bytes(b"x")
    os.utime(part, ns=(part_ns, part_ns))
    identity = (entry.version, entry.key, entry.path)
    assert is_overtaken(folder.files, folder.manifest, identity, part.stat()) == goes
