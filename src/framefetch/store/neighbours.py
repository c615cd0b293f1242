"""Other processes that use the same cache: which files of a plan are theirs to fetch, and whether they are alive.

A process locks a file when the file's turn comes, not before, and gives it back when its row is committed. So one that
gets the lock must ask whether another one recorded the file since it looked for what is held: a stat, and a look into
the manifest only where there is something to see. Files that are others' are put aside; the run comes back to them when
its own are done. Nobody is waited for who gives no sign of life: his files are fetched, and a warning names him.

What somebody leaves who dies, or merely ends, lies beside the file that he was at: a part of it, or the whole without
a row. As long as that was not looked for, this run begins no new file.
"""

from __future__ import annotations

import contextlib
import os
import time
from typing import TYPE_CHECKING

from framefetch.store.locks import FileLocks, life_of, offset_of
from framefetch.store.places import translate_oserror
from framefetch.store.recovery import recover

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from framefetch.models import Requests
    from framefetch.store.folder import CacheFolder
    from framefetch.store.locks import Owner

__all__ = ["Neighbours"]

#: Files that are locked at once to look what became of them: each lock costs all others in the system's list a step.
ROUND = 512
#: Seconds between two looks at whether others lock by now.
LOOK_SECONDS = 0.05
#: Seconds within which the system lets go of all that a dead process had; its locks of bytes are the first to go.
DYING_SECONDS = 1.0


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

    Attributes
    ----------
    warnings : list of str
        Who was not waited for.
    """

    def __init__(self, folder: CacheFolder, requests: Requests, patience: float) -> None:
        self._folder = folder
        self._locks = FileLocks(folder.private)
        self._requests = requests
        self._patience = patience
        self._begun = False
        #: Whether something was recorded since this run looked.
        self._recorded = False
        self._mine: dict[int, int] = {}
        self._aside: list[int] = []
        self._mark = 0
        self._signs: dict[tuple[int, str], tuple[int, float]] = {}
        self._others: list[Owner] = []
        self._past: set[str] = set()
        self._inheriting = False
        #: Whether somebody has gone whose leavings were not looked for.
        self.bereaved = False
        self.warnings: list[str] = []

    def mark(self) -> int:
        """Remember how far the manifest is: what is recorded later was not there when this run looked; blocking.

        Returns
        -------
        int
            The number of the latest commit window.
        """
        self._mark = self._folder.manifest.last_window()
        return self._mark

    def begin(self, stopped: Callable[[], bool]) -> None:
        """Be ready to fetch: others know of us, and we can see what they fetch; blocking.

        Parameters
        ----------
        stopped : callable
            Whether to wait no longer.

        Raises
        ------
        StorageError
            Where the lock file cannot be made, or is none.
        """
        presence = self._folder.presence
        try:
            self._locks.open()
            self._locks.acquire(presence.life)
            presence.open(locks=self._locks.engaged)
            self._begun = True
            self._look_round()
        except OSError as error:
            failure = translate_oserror(error, f"opening the locks of {self._folder.root}")
            failure.fatal = True
            raise failure from error
        if self._locks.obstacle:
            self.warnings.append(
                f"{self._locks.obstacle}; another process that fetches into this cache at the same time may fetch the "
                "same files once more"
            )
            return
        began = time.monotonic()
        met: dict[str, float] = {}
        while not stopped() and (unseen := [owner for owner in presence.others() if not owner.locks]):
            now = time.monotonic()
            silence = now - max([began, *self._last_signs(unseen)])
            waited = now - max(met.setdefault(owner.token, now) for owner in unseen)
            if silence >= self._patience or waited >= 2 * self._patience:
                self._warn_of(unseen, silent=silence >= self._patience)
                return
            recover(self._folder.files, self._folder.manifest, self._folder.private)  # also the notes of the dead
            time.sleep(LOOK_SECONDS)
        if self._locks.engaged:
            self.inherit()

    @property
    def late(self) -> bool:
        """Whether another run may have recorded what this one looked for before: each file is asked about then."""
        return self._recorded or self._folder.presence.is_shared

    def look_back(self) -> None:
        """See whether anything was recorded since this run looked; blocking.

        Other processes record nothing any more unless they have seen that we are here, and waited for our locks;
        whoever calls this knows the same of this process.
        """
        self._recorded = self._folder.manifest.last_window() > self._mark

    def beat(self) -> None:
        """Tell the others that this process is alive, and see whether there are any; cheap."""
        if self._begun:
            self._folder.presence.touch()
            with contextlib.suppress(OSError):  # a note that cannot be written: others wait, and then do not
                self._look_round()

    def _look_round(self) -> None:
        """Let what is locked be seen, if there is somebody to see it; see who has gone."""
        presence = self._folder.presence
        others = presence.others()
        if not self._locks.engaged and others:
            self._locks.engage()
        if self._locks.engaged and not presence.locks:
            presence.tell_of_locks()
        if not {owner.token for owner in self._others} <= {owner.token for owner in others}:
            self.bereaved = True
        self._others = self._watched(others)

    def _watched(self, others: Sequence[Owner]) -> list[Owner]:
        """Return those whose lives can be seen: their byte was locked once, so these locks do not lie."""
        watched = {owner.token for owner in self._others}
        return [
            owner
            for owner in others
            if owner.token not in self._past and (owner.token in watched or self._locks.is_locked(life_of(owner.token)))
        ]

    def _dead(self) -> list[Owner]:
        """Return who is gone, of those whose lives can be seen."""
        return [owner for owner in self._others if not self._locks.is_locked(life_of(owner.token))]

    def inherit(self) -> None:
        """Take over what those have left who are gone; blocking.

        Raises
        ------
        StorageError, ManifestError
            Where it cannot be read or recorded.
        """
        self.bereaved, self._inheriting = False, True
        dead: list[Owner] = []
        began = time.monotonic()
        try:
            while True:
                recover(self._folder.files, self._folder.manifest, self._folder.private)
                self._others = self._watched(self._folder.presence.others())
                dead = self._dead()
                if not dead or time.monotonic() - began >= DYING_SECONDS:
                    break
                time.sleep(DYING_SECONDS / 100)
            self._folder.files.look_for_parts()
        except OSError as error:
            failure = translate_oserror(error, "reading what another process left")
            failure.fatal = True
            raise failure from error
        finally:
            self._past.update(owner.token for owner in dead)  # what a child of his holds is not waited for
            self._others = self._watched(self._others)
            self._inheriting = False

    def end(self) -> None:
        """Give everything back."""
        self.give_back(list(self._mine))
        if self._begun:
            self._begun = False
            if self._folder.presence.close():
                self._locks.release([self._folder.presence.life])
            self._locks.close()

    # -- while the engine works ---------------------------------------------------------------------------------

    def take(self, file: int) -> bool | None:
        """Lock a file whose turn has come; False where it is another process's, or done by one meanwhile.

        None where somebody has gone of whom it is not known yet what he left: ask again.
        """
        if file in self._mine:
            return True
        offset = offset_of(self._requests.version, self._requests.keys[file])
        if not self._locks.acquire(offset):
            self._aside.append(file)
            return False
        engaged = self._locks.engaged
        if engaged and self._waits_for_heritage():
            self._locks.release([offset])
            return None
        if (engaged or self.late) and self._is_done(file):
            self._locks.release([offset])
            self._aside.append(file)
            return False
        self._mine[file] = offset
        return True

    def _waits_for_heritage(self) -> bool:
        """Return whether somebody has gone who may have left this very file unfinished."""
        if not self._inheriting and self._dead():
            self.bereaved = True
        return self.bereaved or self._inheriting

    def _is_done(self, file: int) -> bool:
        requests = self._requests
        return self._folder.manifest.recorded_since(self._mark, requests.version, requests.keys[file])

    def give_back(self, files: Iterable[int]) -> None:
        """Unlock files: their rows are committed, or they failed."""
        mine = self._mine
        self._locks.release([mine.pop(file) for file in files if file in mine])

    # -- afterwards ---------------------------------------------------------------------------------------------

    def put_aside(self) -> list[int]:
        """Return what was left to others, once."""
        files, self._aside = self._aside, []
        self._signs.clear()
        return files

    def abandoned(self, files: Sequence[int]) -> list[int]:
        """Lock those of some files that nobody fetches any more, some at a time, and take over what a dead one left.

        Whoever had them has recorded them, or failed, or died, or gives no sign of life; what is true is found out
        under the lock.
        """
        taken: list[int] = []
        for file in files:
            offset = offset_of(self._requests.version, self._requests.keys[file])
            if self._locks.acquire(offset):
                self._mine[file] = offset
                taken.append(file)
                if len(taken) == ROUND:
                    break
        taken = taken or self._stalled(files)
        if taken:
            self.inherit()
            self._folder.prepare(self._requests.version)
        return taken

    def _stalled(self, files: Sequence[int]) -> list[int]:
        """Take files of processes that give no sign of life."""
        owners = self._folder.presence.others()
        signs = self._last_signs(owners)
        found: list[int] = []
        for file in files:
            offset = offset_of(self._requests.version, self._requests.keys[file])
            process = self._locks.holder(offset)
            named = [owner for owner in owners if owner.process == process]
            suspects = named or owners
            latest = max((sign for owner, sign in zip(owners, signs, strict=True) if owner in suspects), default=0.0)
            if process != os.getpid() and time.monotonic() - latest >= self._patience:
                self._warn_of(suspects)
                self._locks.disregard(offset)
                self._mine[file] = offset
                found.append(file)
        return found

    def _last_signs(self, owners: Sequence[Owner]) -> list[float]:
        """Return since when, by our clock, each of some notes is as it is."""
        now = time.monotonic()
        for owner in owners:
            who = owner.process, owner.machine
            if self._signs.get(who, (0, 0.0))[0] != owner.touched_ns:
                self._signs[who] = owner.touched_ns, now
        return [self._signs[owner.process, owner.machine][1] for owner in owners]

    def _warn_of(self, owners: Sequence[Owner], *, silent: bool = True) -> None:
        who = ", ".join(map(str, owners)) or "a process that left no note"
        text = f"{who} has this cache open and "
        if silent:
            text += (
                f"gives no sign of life for {self._patience:g} s; what it was fetching is fetched again. Is it "
                "stopped? End or continue it"
            )
        else:  # it cannot write its note, or we cannot read it
            text += "does not say what it fetches, which may be fetched once more"
        if text not in self.warnings:
            self.warnings.append(text)
