"""Single calls of the system that are made more often than once, or of which not all can be believed."""

from __future__ import annotations

import errno
import os

__all__ = ["OPEN_NEW", "Stat", "rename", "stat_of", "taken", "write_all"]

_FLAGS = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)
OPEN_NEW = os.O_RDWR | os.O_CREAT | os.O_EXCL | _FLAGS

#: What the system says of a file: mode, size, times of the last change of its content and of itself, and inode.
Stat = tuple[int, int, int, int, int]

#: Nanoseconds that 64 bits can hold, here and in a manifest: until 2262. File systems have dates that are further away.
_FIRST_NS, _LAST_NS = -(1 << 63), (1 << 63) - 1


def rename(part: str, target: str) -> None:
    """Give a file another name, whatever stands there."""
    try:
        os.replace(part, target)
    except OSError as error:
        if error.errno != getattr(errno, "ESTALE", None):
            raise
        os.replace(part, target)  # a network file system remembered a folder that is another one by now; it looks again


def stat_of(found: os.stat_result) -> Stat:
    """Return what is looked at of what the system says."""
    return found.st_mode, found.st_size, _bounded(found.st_mtime_ns), _bounded(found.st_ctime_ns), found.st_ino


def _bounded(nanoseconds: int) -> int:
    """Return a time, or the nearest that 64 bits can hold."""
    if _FIRST_NS <= nanoseconds <= _LAST_NS:
        return nanoseconds
    return _FIRST_NS if nanoseconds < 0 else _LAST_NS


def write_all(handle: int, data: bytes | bytearray | memoryview) -> None:
    """Write all of it.

    Raises
    ------
    OSError
        Where the disk refuses; also where it takes nothing and says no reason, which would go on for ever.
    """
    view = memoryview(data)
    while view:
        view = view[taken(os.write(handle, view)) :]


def taken(count: int) -> int:
    """Return how many bytes a write has taken, of some.

    Raises
    ------
    OSError
        Where it was none.
    """
    if not count:
        raise OSError(errno.EIO, os.strerror(errno.EIO))
    return count
