"""Other processes that use the same cache: which files of a plan are theirs to fetch, and whether they are alive.

A process locks a file's byte when the file's turn comes, not before, and gives it back when its row is committed. So
one that gets the byte must ask whether another one recorded the file since it looked for what is held: a stat, and a
look into the manifest only where there is something to see. Files that are others' are put aside; the run comes back
to them when its own are done.
"""

from __future__ import annotations

import os
import socket
import time
from typing import TYPE_CHECKING

from framefetch.errors import LockTimeout
from framefetch.store.locks import offset_of
from framefetch.store.places import translate_oserror
from framefetch.store.recovery import recover

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from framefetch.models import Requests
    from framefetch.store.folder import CacheFolder
    from framefetch.store.locks import Owner

__all__ = ["Neighbours"]

#: Files that are locked at once to look what became of them: each lock costs all others in the system's list a step.
ROUND = 512


class Neighbours:
    """What other processes do about the files of one plan.

    Parameters
    ----------
    folder : CacheFolder
        The cache; `begin` needs it prepared for writing.
    requests : Requests
        The plan.
    patience : float
        Seconds without a sign of life after which a process is not waited for.
    """

    def __init__(self, folder: CacheFolder, requests: Requests, patience: float) -> None:
        self._folder = folder
        self._locks = folder.locks
        self._requests = requests
        self._patience = patience
        self._mine: dict[int, int] = {}
        self._aside: list[int] = []
        self._mark = 0
        self._began = 0.0
        self._signs: dict[tuple[int, str], tuple[int, float]] = {}

    def mark(self) -> None:
        """Remember how far the manifest is: what is recorded later was not there when this run looked; blocking."""
        self._mark = self._folder.manifest.last_window()

    def begin(self) -> None:
        """Be ready to lock; blocking.

        Raises
        ------
        StorageError
            Where the lock file cannot be made, or is none.
        """
        try:
            self._locks.open()
            self._folder.presence.open()
        except OSError as error:
            failure = translate_oserror(error, f"opening the locks of {self._folder.root}")
            failure.fatal = True
            raise failure from error

    # -- while the engine works ---------------------------------------------------------------------------------

    def take(self, file: int) -> bool:
        """Lock a file whose turn has come; False where it is another process's, or done by one meanwhile."""
        if file in self._mine:
            return True
        offset = offset_of(self._requests.version, self._requests.keys[file])
        if not self._locks.acquire(offset):
            self._aside.append(file)
            return False
        if self._is_done(file):
            self._locks.release(offset)
            self._aside.append(file)
            return False
        self._mine[file] = offset
        return True

    def _is_done(self, file: int) -> bool:
        requests = self._requests
        there = os.path.lexists(self._folder.files.absolute(requests.path(file)))
        return there and self._folder.manifest.recorded_since(self._mark, requests.version, requests.keys[file])

    def give_back(self, file: int) -> None:
        """Unlock a file: its row is committed, or it failed."""
        offset = self._mine.pop(file, None)
        if offset is not None:
            self._locks.release(offset)

    def give_all_back(self) -> None:
        """Unlock everything."""
        for file in list(self._mine):
            self.give_back(file)

    def beat(self) -> None:
        """Tell the others that this process is alive; cheap enough to be called often."""
        self._folder.presence.beat()

    # -- afterwards ---------------------------------------------------------------------------------------------

    def put_aside(self) -> list[int]:
        """Return what was left to others, once."""
        files, self._aside = self._aside, []
        self._began = time.monotonic()
        return files

    def abandoned(self, files: Sequence[int]) -> list[int]:
        """Lock those of some files that nobody fetches any more, some at a time, and take over what a dead one left.

        Whoever had them has recorded them, or failed, or died; what is true is found out under the lock.
        """
        requests = self._requests
        taken = []
        for file in files:
            offset = offset_of(requests.version, requests.keys[file])
            if self._locks.acquire(offset):
                self._mine[file] = offset
                taken.append(file)
                if len(taken) == ROUND:
                    break
        if taken:
            recover(self._folder.files, self._folder.manifest, self._folder.private)
            self._folder.prepare()
            self.mark()
        return taken

    def stalled(self, files: Iterable[int]) -> dict[int, LockTimeout]:
        """Return which files wait for a process that gives no sign of life, and why that ends the waiting; blocking."""
        now = time.monotonic()
        owners = self._folder.presence.owners()
        for owner in owners:
            who = owner.process, owner.machine
            if self._signs.get(who, (0, 0.0))[0] != owner.touched_ns:
                self._signs[who] = owner.touched_ns, now
        found = {}
        for file in files:
            process = self._locks.holder(offset_of(self._requests.version, self._requests.keys[file]))
            suspects = [o for o in owners if o.process == process and o.machine == socket.gethostname()] or owners
            signs = [self._signs[owner.process, owner.machine][1] for owner in suspects]
            if now - max([*signs, self._began]) >= self._patience:
                found[file] = self._explained(file, process, suspects)
        return found

    def _explained(self, file: int, process: int | None, suspects: Sequence[Owner]) -> LockTimeout:
        who = " or ".join(f"process {owner.process} on {owner.machine}" for owner in suspects[:3])
        if not who:
            who = f"process {process}" if process else "a process that left no note"
        return LockTimeout(
            f"{self._requests.path(file)} is being fetched by {who}, which has given no sign of life for "
            f"{self._patience:g} s; end or continue that process, then run again"
        )
