"""One opened cache folder: its files, its manifest and its journal, and what earlier processes left in it."""

from __future__ import annotations

import os
import shutil
from typing import TYPE_CHECKING

from framefetch.errors import ManifestError, StorageError
from framefetch.store.files import PRIVATE, FileStore, translate_oserror
from framefetch.store.journal import Journal
from framefetch.store.manifest import Manifest
from framefetch.store.recovery import recover

if TYPE_CHECKING:
    from typing import Self

__all__ = ["CacheFolder"]


class CacheFolder:
    """A cache folder that is open for use.

    Parameters
    ----------
    path : path
        The folder; made where it is missing, unless `create` is false.
    lock_timeout : float, default 10
        Seconds to wait for another process that holds the manifest.
    create : bool, default True
        Whether a missing folder is made.

    Attributes
    ----------
    root : str
        Absolute path; the folder itself may be a link, nothing below it is followed through one.
    fresh : bool
        Whether there was no manifest before.
    writable : bool
        Whether anything can be fetched into it.

    Raises
    ------
    StorageError
        Where the folder cannot be used.
    ManifestError
        Where its manifest cannot be used.
    """

    def __init__(self, path: str | os.PathLike[str], *, lock_timeout: float = 10.0, create: bool = True) -> None:
        self.root = os.path.realpath(path)
        self.private = os.path.join(self.root, PRIVATE)
        if not create and not os.path.isdir(self.root):
            raise StorageError(f"{self.root}: no such folder; expected a cache that 'framefetch mirror' made")
        self.fresh = not os.path.exists(os.path.join(self.root, Manifest.NAME))
        if not create and self.fresh and not os.path.exists(os.path.join(self.root, "manifest.json")):
            raise ManifestError(f"{self.root} holds no manifest; expected a cache that 'framefetch mirror' made")
        self.journal = Journal(self.private)
        self.obstacle: StorageError | None = self._make_private()
        self.writable = self.obstacle is None
        self.files = FileStore(self.root, self.journal)
        self.manifest = Manifest(self.root, timeout=lock_timeout, writable=self.writable)
        if self.writable:
            recover(self.files, self.manifest, self.private)

    def _make_private(self) -> StorageError | None:
        """Make the private folders and begin the journal; return why that is impossible, if it is."""
        try:
            for folder in (self.root, self.private, f"{self.private}/parts", f"{self.private}/locks"):
                os.makedirs(folder, exist_ok=True)
                if folder != self.root and os.path.islink(folder):
                    raise StorageError(f"{folder} is a link; nothing is written through it")
            self.journal.open()
        except OSError as error:
            if not os.path.isdir(self.root):
                failure = translate_oserror(error, f"making the cache folder {self.root}")
                failure.fatal = True
                raise failure from error
            obstacle = (
                error
                if isinstance(error, StorageError)
                else translate_oserror(error, f"writing to the cache {self.root}")
            )
            obstacle.fatal = True
            return obstacle
        return None

    def prepare(self) -> None:
        """Make sure that files can be written, before anything is fetched.

        Raises
        ------
        StorageError
            Where they cannot.
        """
        if self.obstacle is not None:
            raise self.obstacle
        self.files.prepare()

    def free_space(self) -> int:
        """Return the bytes that are free on the folder's file system."""
        return shutil.disk_usage(self.root).free

    def close(self) -> None:
        """Commit, sync and close everything; closing twice is fine."""
        self.files.close()
        self.manifest.close()
        self.journal.close(keep=self.manifest.failed)

    def __enter__(self) -> Self:
        """Return the folder."""
        return self

    def __exit__(self, *exc_info: object) -> None:
        """Close it."""
        self.close()
