"""Makes files reach the disk: one ``syncfs`` for all of them where there is one, else one ``fsync`` each."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
from dataclasses import dataclass, replace
from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

__all__ = ["Disk", "Synced"]

#: What an fsync says where bytes that were taken before could not be written.
_LOSSES = frozenset({errno.EIO, errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC)})


@dataclass(frozen=True, slots=True)
class Synced:
    """What came of a sync.

    Parameters
    ----------
    done : bool
        Whether everything is safe from a power cut.
    lost : tuple of str
        Files that the disk could not keep, however they read now.
    reason : OSError or None
        What was said of the first of them.
    """

    done: bool
    lost: tuple[str, ...] = ()
    reason: OSError | None = None


@cache
def _syncfs() -> ctypes._NamedFuncPointer | None:
    """Return the C library's syncfs (Linux, glibc 2.14 and musl), None elsewhere."""
    try:
        return ctypes.CDLL(None, use_errno=True).syncfs
    except (AttributeError, OSError, TypeError):
        return None


class Disk:
    """The file system of a cache, watched since this was made.

    Linux tells that bytes were lost once to each descriptor that was open by then (errseq, since 5.8). What somebody
    else's sync has been told is never told to a descriptor that is opened later: so one is kept, from before the first
    file is written.

    Parameters
    ----------
    root : str
        A folder on the file system.
    """

    def __init__(self, root: str) -> None:
        self._root = root
        self._handle: int | None = None
        if _syncfs() is not None:
            self._open()

    def _open(self) -> None:
        with contextlib.suppress(OSError):
            self._handle = os.open(self._root, os.O_RDONLY | getattr(os, "O_DIRECTORY", 0))

    def sync(self, paths: Iterable[str]) -> Synced:
        """Make the files at these paths, and their names, safe from a power cut.

        Parameters
        ----------
        paths : iterable of str
            The files; read only where they have to be synced one by one.
        """
        syncfs = _syncfs()
        if syncfs is None:
            return _one_by_one(self._root, paths)
        if self._handle is None:
            self._open()  # from here on it is watched: what was lost before, nobody tells
            return Synced(done=False)
        if syncfs(self._handle) == 0:
            return Synced(done=True)
        # Something on this file system was lost. Each file is asked whether it is among that; an answer is given once,
        # and not for a file that memory has forgotten meanwhile, so what is left is not called safe.
        return replace(_one_by_one(self._root, paths), done=False)

    def close(self) -> None:
        """Watch it no longer."""
        handle, self._handle = self._handle, None
        if handle is not None:
            os.close(handle)


def _one_by_one(root: str, paths: Iterable[str]) -> Synced:
    folders, done = {root}, True
    lost: list[str] = []
    reason: OSError | None = None
    for path in paths:
        try:
            _fsync(path)
        except FileNotFoundError:
            continue  # removed since: nothing is left to be protected
        except OSError as error:
            done = False
            if error.errno in _LOSSES:
                lost.append(path)
                reason = reason or error
        folders.update(_folders_above(path, root))
    if os.name == "posix":  # a folder cannot be opened on Windows, where the rename is journalled anyway
        for folder in folders:
            try:
                _fsync(folder)
            except OSError:
                done = False
    return Synced(done, tuple(lost), reason)


def _folders_above(path: str, root: str) -> Iterator[str]:
    """Yield the folders between a file and the root: a new folder's own name must reach the disk too."""
    while len(path := os.path.dirname(path)) > len(root):
        yield path


def _fsync(path: str) -> None:
    handle = os.open(path, os.O_RDONLY if os.path.isdir(path) or os.name == "posix" else os.O_RDWR)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
