"""Files that are written for the user: whole or not at all, to where a name leads, and into what is no file."""

from __future__ import annotations

import errno
import os
import stat
from typing import TYPE_CHECKING

from framefetch.errors import PlanError
from framefetch.store.files import is_private
from framefetch.store.places import remove

if TYPE_CHECKING:
    from collections.abc import Callable

    from framefetch.store.folder import CacheFolder

__all__ = ["held_there", "place_in", "require_not_held", "require_not_the_caches_own", "write_target"]


def write_target(target: str, write: Callable[[str], None]) -> None:
    """Write a file atomically; a link stays and what it leads to is replaced, a device or a pipe is written into.

    Parameters
    ----------
    target : str
        What is to be written.
    write : callable
        Given the path to write to: of a new file beside the target, or of the target itself where it is no file.

    Raises
    ------
    OSError
        Where it cannot be written; a file that was there before is as it was.
    """
    try:
        mode = os.stat(target).st_mode
    except FileNotFoundError:
        mode = stat.S_IFREG
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), target)
    if not stat.S_ISREG(mode):
        write(target)  # renamed onto /dev/null it would take the place of the device, for everybody
        return
    real = os.path.realpath(target)
    part = f"{real}.{os.urandom(4).hex()}"
    try:
        write(part)
        with open(part, "r+b") as file:
            os.fsync(file.fileno())
        os.replace(part, real)
    except BaseException:
        remove(part)
        raise


def require_not_the_caches_own(target: str, cache_dir: str, but: str | None = None) -> None:
    """Refuse to write over what a cache keeps for itself.

    Parameters
    ----------
    target : str
        What is to be written.
    cache_dir : str
        The cache.
    but : str, optional
        A path below the cache that may be written all the same.

    Raises
    ------
    PlanError
        Where the target is the manifest, what lies beside it, or in the cache's private folder.
    """
    path = place_in(target, cache_dir)
    if path is not None and path != but and is_private(path):
        raise PlanError(f"{target}: expected a file to write, this is one of the cache's own; choose another name")


def require_not_held(target: str, folder: CacheFolder) -> None:
    """Refuse to write over a held file, or where files of a version belong.

    Raises
    ------
    PlanError
        Where the target is one, or in such a folder.
    """
    path = place_in(target, folder.root)
    if path is None:
        return
    top, below, _ = path.partition("/")
    if (below and folder.manifest.knows_version(top)) or folder.manifest.owners([path]):
        raise held_there(target)


def held_there(target: str) -> PlanError:
    """Return why nothing of the user's is written where held files stand."""
    return PlanError(f"{target}: expected a file to write, this is where the cache holds files; choose another name")


def place_in(target: str, cache_dir: str) -> str | None:
    """Return the path of a target below a cache; None where it is elsewhere."""
    try:
        path = os.path.relpath(os.path.realpath(target), os.path.realpath(cache_dir)).replace(os.sep, "/")
    except ValueError:  # on another drive of Windows
        return None
    return None if path.partition("/")[0] == ".." else path
