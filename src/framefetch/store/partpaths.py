"""Where new parts lie: in one folder, or in several of their own where the disk is far away.

Whoever makes a file changes its folder, and only one thread at a time may do that, each for as long as the disk takes
to answer. Whoever moves one out of it is in line for the same folder. So the small files of a disk that takes its time
are made in several folders; those are this process's own, and go with it.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import re
import threading
from typing import Final

__all__ = ["PartPaths", "folder_owner", "remove_folder"]

#: Seconds that a file may take, with help, before the next ones are spread.
PATIENCE: Final = 0.0005
#: So many files must have taken so long.
ENOUGH: Final = 4
FOLDERS: Final = 16

#: A folder of a process is named after its token, too.
_FOLDER = re.compile(r"([0-9a-f]{8})\.[0-9a-f]+$")
_PART = re.compile(r"[0-9a-f]+$")


class PartPaths:
    """Names new parts; from any thread.

    Parameters
    ----------
    folder : str
        Where parts lie.
    token : str
        The name of this process there.
    """

    def __init__(self, folder: str, token: str) -> None:
        self._folder = folder
        self._token = token
        self._numbers = itertools.count(1)
        self._is_far = False
        # Where nothing can be removed by a folder's descriptor, as on Windows, nobody could clear up after the dead.
        self._is_refused = os.unlink not in os.supports_dir_fd
        self._folders: tuple[str, ...] = ()
        self._made: tuple[str, ...] = ()
        self._making = threading.Lock()

    def new(self) -> str:
        """Return a path for a new part."""
        return f"{self._folder}/{self._token}-{next(self._numbers):x}"

    def several(self, count: int) -> list[str]:
        """Return paths for new parts that are made together, and moved before long; blocking."""
        if self._is_far and not self._folders:
            with self._making:
                if not (self._folders or self._is_refused):
                    self._make_folders()
        folders = self._folders  # another thread may give them up
        if not folders:
            return [self.new() for _ in range(count)]
        among = itertools.cycle(folders)
        return [f"{next(among)}/{next(self._numbers):x}" for _ in range(count)]

    def _make_folders(self) -> None:
        """Make the folders; where that is refused, the one that there is will do."""
        folders = tuple(f"{self._folder}/{self._token}.{number:x}" for number in range(FOLDERS))
        try:
            for folder in folders:
                os.mkdir(folder)
        except OSError:
            self._is_refused = True
            _remove_all(folders)
        else:
            self._folders = self._made = folders

    def took(self, count: int, seconds: float) -> None:
        """Take note of how long it took to make so many."""
        if count >= ENOUGH and seconds >= count * PATIENCE:
            self._is_far = True

    def give_up(self) -> None:
        """Use the one folder from here on: somebody took the others away, as who is misled by locks may."""
        self._folders, self._is_refused = (), True

    def close(self) -> None:
        """Remove the folders; what cannot be removed is left to whoever comes next."""
        _remove_all(self._made)
        self._folders = self._made = ()


def _remove_all(folders: tuple[str, ...]) -> None:
    for folder in folders:
        with contextlib.suppress(OSError):
            os.rmdir(folder)


def folder_owner(name: str) -> str | None:
    """Return the token of the process whose folder of parts has this name, None where it is no such folder."""
    found = _FOLDER.match(name)
    return found and found[1]


def remove_folder(path: str) -> None:
    """Remove a folder of parts and the parts in it, as far as that is possible; never what a link leads to."""
    if os.unlink not in os.supports_dir_fd:
        return
    with contextlib.suppress(OSError):
        handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            for name in filter(_PART.match, os.listdir(handle)):
                with contextlib.suppress(OSError):
                    os.unlink(name, dir_fd=handle)
        finally:
            os.close(handle)
        os.rmdir(path)
