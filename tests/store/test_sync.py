"""Files reach the disk: by one syncfs, or one by one, and a failure is told."""

import os

import pytest

from framefetch.store import sync
from framefetch.store.sync import sync_files


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
    assert sync_files(str(tmp_path), iter(()))


def test_without_syncfs_files_and_all_folders_up_to_the_root_are_synced(tmp_path, synced) -> None:
    target = tmp_path / "v0" / "deep" / "1.nwb"
    target.parent.mkdir(parents=True)
    target.write_bytes(b"x")
    assert sync_files(str(tmp_path), [str(target)])
    assert synced[0] == str(target)
    assert set(synced[1:]) == {str(tmp_path), str(tmp_path / "v0"), str(tmp_path / "v0" / "deep")}


def test_a_file_that_was_removed_since_does_not_keep_the_others_from_being_durable(tmp_path, synced) -> None:
    (tmp_path / "1").write_bytes(b"x")
    assert sync_files(str(tmp_path), [str(tmp_path / "gone"), str(tmp_path / "1")])
    assert str(tmp_path / "1") in synced


def test_a_failed_sync_is_told(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(sync, "_syncfs", lambda: lambda handle: -1)
    assert not sync_files(str(tmp_path), [])
    monkeypatch.setattr(sync, "_syncfs", lambda: None)

    def refuse(handle: int) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "fsync", refuse)
    (tmp_path / "1").write_bytes(b"x")
    assert not sync_files(str(tmp_path), [str(tmp_path / "1")])


def test_a_root_that_is_gone_is_not_durable(tmp_path) -> None:
    assert not sync_files(str(tmp_path / "none"), [])
