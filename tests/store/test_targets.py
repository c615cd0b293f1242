"""What is written for the user: whole or not at all, to where a name leads, and into what is no file."""

import os
import stat
import threading
from pathlib import Path

import pytest

from framefetch.store.targets import write_target


def text(path: str) -> None:
    Path(path).write_text("new")


def test_what_a_link_leads_to_is_replaced_and_the_link_stays(tmp_path) -> None:
    (tmp_path / "far").mkdir()
    (tmp_path / "far" / "file").write_text("older")
    (tmp_path / "link").symlink_to("far/file")
    (tmp_path / "dangling").symlink_to("far/other")
    before = os.stat(tmp_path / "far" / "file").st_ino
    for name in ("link", "dangling"):
        write_target(str(tmp_path / name), text)
        assert (tmp_path / name).is_symlink()
        assert (tmp_path / name).read_text() == "new"
    assert os.stat(tmp_path / "far" / "file").st_ino != before, "in one step"
    assert sorted(os.listdir(tmp_path / "far")) == ["file", "other"]


@pytest.mark.parametrize("through_a_link", [False, True])
def test_a_pipe_is_written_into(tmp_path, through_a_link) -> None:
    target = tmp_path / "pipe"
    os.mkfifo(target)
    if through_a_link:
        target = tmp_path / "link"
        target.symlink_to("pipe")
    writer = threading.Thread(target=write_target, args=(str(target), text))
    reader = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)  # else, were it replaced, nobody would ever write
    writer.start()
    writer.join()
    assert os.read(reader, 100) == b"new"
    os.close(reader)
    assert stat.S_ISFIFO(os.stat(tmp_path / "pipe").st_mode)
    assert target.is_symlink() is through_a_link


def test_a_device_is_written_into(tmp_path) -> None:
    device = tmp_path / "null"
    try:
        os.mknod(device, stat.S_IFCHR | 0o666, os.makedev(1, 3))
        device.write_text("")
    except OSError:
        pytest.skip("needs the right to make a device")
    write_target(str(device), text)
    assert stat.S_ISCHR(os.stat(device).st_mode)


def test_what_fails_leaves_what_was_there(tmp_path) -> None:
    (tmp_path / "file").write_text("older")
    (tmp_path / "folder").mkdir()

    def fail(path: str) -> None:
        text(path)
        raise ValueError

    with pytest.raises(ValueError, match="^$"):
        write_target(str(tmp_path / "file"), fail)
    with pytest.raises(IsADirectoryError):
        write_target(str(tmp_path / "folder"), text)
    assert (tmp_path / "file").read_text() == "older"
    assert sorted(os.listdir(tmp_path)) == ["file", "folder"]
