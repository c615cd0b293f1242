"""Files reach the disk: by one syncfs, or one by one, and a failure is told."""

import os
import subprocess
from pathlib import Path

import pytest

from framefetch.store import sync
from framefetch.store.sync import Disk, Synced


@pytest.fixture
def synced(monkeypatch) -> list[str]:
    """Take syncfs away, and note what is synced instead."""
    monkeypatch.setattr(sync, "_syncfs", lambda: None)
    seen: list[str] = []
    real = os.fsync

    def note(handle: int) -> None:
        seen.append(os.readlink(f"/proc/self/fd/{handle}"))
        real(handle)

    monkeypatch.setattr(os, "fsync", note)
    return seen


def test_the_whole_file_system_is_synced_at_once(tmp_path) -> None:
    assert Disk(str(tmp_path)).sync(iter(())) == Synced(done=True)


def test_without_syncfs_files_and_all_folders_up_to_the_root_are_synced(tmp_path, synced) -> None:
    target = tmp_path / "v0" / "deep" / "1.nwb"
    target.parent.mkdir(parents=True)
    target.write_bytes(b"x")
    assert Disk(str(tmp_path)).sync([str(target)]) == Synced(done=True)
    assert synced[0] == str(target)
    assert set(synced[1:]) == {str(tmp_path), str(tmp_path / "v0"), str(tmp_path / "v0" / "deep")}


def test_a_file_that_was_removed_since_does_not_keep_the_others_from_being_durable(tmp_path, synced) -> None:
    (tmp_path / "1").write_bytes(b"x")
    assert Disk(str(tmp_path)).sync([str(tmp_path / "gone"), str(tmp_path / "1")]) == Synced(done=True)
    assert str(tmp_path / "1") in synced


def refuse(number: int, which: str, monkeypatch) -> None:
    """Let the sync of one name fail."""
    real = os.fsync

    def fsync(handle: int) -> None:
        if os.readlink(f"/proc/self/fd/{handle}").endswith(which):
            raise OSError(number, os.strerror(number))
        real(handle)

    monkeypatch.setattr(os, "fsync", fsync)


@pytest.mark.parametrize("syncfs", [None, lambda handle: -1], ids=["none", "fails"])
def test_files_that_could_not_be_kept_are_told(tmp_path, monkeypatch, syncfs) -> None:
    monkeypatch.setattr(sync, "_syncfs", lambda: syncfs)
    paths = [str(tmp_path / name) for name in "123"]
    for path in paths:
        Path(path).write_bytes(b"x")
    refuse(5, "/2", monkeypatch)
    found = Disk(str(tmp_path)).sync(paths)
    assert (found.done, found.lost, found.reason.errno) == (False, (paths[1],), 5)


@pytest.mark.parametrize("which", ["/1", "/cache"])
def test_a_disk_that_knows_no_sync_loses_nothing_and_is_not_safe(tmp_path, monkeypatch, which) -> None:
    monkeypatch.setattr(sync, "_syncfs", lambda: None)
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "1").write_bytes(b"x")
    refuse(22, which, monkeypatch)
    assert Disk(str(tmp_path / "cache")).sync([str(tmp_path / "cache" / "1")]) == Synced(done=False)


def test_what_else_was_lost_on_the_disk_makes_nothing_safe(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(sync, "_syncfs", lambda: lambda handle: -1)
    (tmp_path / "1").write_bytes(b"x")
    assert Disk(str(tmp_path)).sync([str(tmp_path / "1")]) == Synced(done=False)


def test_a_loss_that_somebody_elses_sync_was_told_of_is_told_here_too(losing_disk) -> None:
    """The real thing: a file system whose own disk is full; who opens it after others were told hears nothing."""
    disk = Disk(str(losing_disk))
    (losing_disk / "1").write_bytes(os.urandom(20 << 20))
    assert subprocess.run(["sync", "-f", str(losing_disk)], check=False, capture_output=True).returncode == 1
    assert Disk(str(losing_disk)).sync([]).done, "as it would be with a descriptor of its own for each sync"
    assert not disk.sync([str(losing_disk / "1")]).done
    disk.close()


def test_a_root_that_is_gone_is_not_durable(tmp_path) -> None:
    assert Disk(str(tmp_path / "none")).sync([]) == Synced(done=False)
