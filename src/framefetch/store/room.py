"""Is there a place for a cache, and room for what is to come into it."""

from __future__ import annotations

import errno
import os
import shutil

from framefetch.errors import DiskFull, StorageError
from framefetch.store.places import free_inodes
from framefetch.store.symlinks import not_a_folder

__all__ = ["existing", "in_the_place", "make_folder", "require_manifest_room", "require_room"]

#: Bytes that SQLite needs beside the manifest before it can change it: on a fuller disk it is opened for reading.
MANIFEST_ROOM = 128 << 10


def existing(place: str) -> str:
    """Return a folder, or the first above it that is there.

    Raises
    ------
    StorageError
        Where there is none: the drive or the share is not there.
    """
    above = place
    while not os.path.exists(above):
        place, above = above, os.path.dirname(above)
        if above == place:
            raise StorageError(f"{place} is not there")
    return above


def make_folder(folder: str) -> None:
    """Make a folder, and those above it, where there is none.

    Raises
    ------
    StorageError
        Where something else stands in its place, or in that of one above it.
    """
    try:
        os.makedirs(folder, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        place = folder if os.path.islink(folder) else existing(folder)
        if os.path.isdir(place):
            raise  # it has come since
        raise in_the_place(place) from None


def in_the_place(place: str) -> StorageError:
    """Return the error for what stands where a folder of the cache belongs, or one above it."""
    return StorageError(
        f"{not_a_folder(place)} stands at {place}, where a folder of the cache belongs; "
        "move it away, or choose another folder for the cache"
    )


def require_room(root: str, needed: int, files: int) -> None:
    """Refuse what cannot fit into a folder, which may be one that is yet to be made.

    Raises
    ------
    DiskFull
        Where so many bytes, or so many files, are more than the disk has room for, as far as it says.
    """
    place = existing(root)
    usage = shutil.disk_usage(place)
    if usage.total and needed > usage.free:
        raise DiskFull(
            f"expected room for {needed:,} bytes in {root}, {usage.free:,} are free; "
            "free some space or fetch fewer rows"
        )
    inodes = free_inodes(place)
    if inodes is not None and files > inodes:
        raise DiskFull(
            f"expected room for {files:,} files in {root}, {inodes:,} inodes are free; "
            "remove some files or fetch fewer rows"
        )


def require_manifest_room(root: str) -> None:
    """Refuse a folder in which not even the manifest could be changed.

    Raises
    ------
    OSError
        Where the disk is that full.
    """
    usage = shutil.disk_usage(root)
    if usage.total and usage.free < MANIFEST_ROOM:  # some file systems do not tell, and say that they have nothing
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
