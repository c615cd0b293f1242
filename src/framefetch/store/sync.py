"""Makes files reach the disk: one ``syncfs`` for all of them where there is one, else one ``fsync`` each."""

from __future__ import annotations

import contextlib
import ctypes
import os
from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

__all__ = ["sync_files"]


@cache
def _syncfs() -> ctypes._NamedFuncPointer | None:
    """Return the C library's syncfs (Linux, glibc 2.14 and musl), None elsewhere."""
    try:
        return ctypes.CDLL(None, use_errno=True).syncfs
    except (AttributeError, OSError, TypeError):
        return None


def sync_files(root: str, paths: Iterable[str]) -> bool:
    """Make the files at these paths, and their names, safe from a power cut.

    Parameters
    ----------
    root : str
        A folder on the file system of all of them.
    paths : iterable of str
        The files; read only where they have to be synced one by one.

    Returns
    -------
    bool
        Whether it was done. After a failure nothing may be believed: a second sync that succeeds proves nothing.
    """
    syncfs = _syncfs()
    try:
        if syncfs is not None:
            handle = os.open(root, os.O_RDONLY)
            try:
                return bool(syncfs(handle) == 0)
            finally:
                os.close(handle)
        folders = {root}
        for path in paths:
            with contextlib.suppress(FileNotFoundError):  # removed since: nothing is left to be protected
                _fsync(path)
                folders.update(_folders_above(path, root))
        if os.name == "posix":  # a folder cannot be opened on Windows, where the rename is journalled anyway
            for folder in folders:
                _fsync(folder)
    except OSError:
        return False
    return True


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
