"""Times of files where the clock of their file system is coarse.

There an edit within the same step of the clock would leave the time of a file as it is, and nobody would see it.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from framefetch.native.calls import stat_of

if TYPE_CHECKING:
    from framefetch.native.calls import Stat

__all__ = ["dated_back", "written_by"]

#: Nanoseconds that divide all times where the clock is coarse, and its longest step: exFAT has 10 ms, SFTP and ext3 1 s
#: and FAT 2 s (Microsoft, FAT file system specification 1.03, section 6).
_COARSE_NS, _LONGEST_STEP_NS = 10_000_000, 2_000_000_000


def dated_back(part: str, written: Stat) -> Stat:
    """Give a part a time that no later writing can have, where that is needed; return what the system says of it."""
    mode, size, mtime_ns, _, inode = written
    if mtime_ns % _COARSE_NS:
        return written
    try:
        found = os.lstat(part)
        # What has two names keeps the time that is the other's, too; what is not what was written is for others to see.
        if (found.st_nlink, found.st_size, found.st_ino) != (1, size, inode):
            return written
        os.utime(part, ns=(mtime_ns, mtime_ns - _LONGEST_STEP_NS))
        _, _, mtime_ns, ctime_ns, _ = stat_of(os.lstat(part))
    except OSError:  # not every file system keeps times that it is given
        return written
    return mode, size, mtime_ns, ctime_ns, inode


def written_by(mtime_ns: int) -> int:
    """Return the time by which a file with this time was written, which may have been dated back."""
    return mtime_ns if mtime_ns % _COARSE_NS else mtime_ns + _LONGEST_STEP_NS
