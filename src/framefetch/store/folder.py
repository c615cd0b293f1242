"""One opened cache folder: its files, its manifest and its journal, and what earlier processes left in it."""

from __future__ import annotations

import contextlib
import os
import shutil
import threading
from typing import TYPE_CHECKING

from framefetch.errors import BytesLost, ManifestError, ManifestLost, StorageError
from framefetch.store.files import PRIVATE, FileStore
from framefetch.store.journal import Journal, intents_for
from framefetch.store.locks import Presence
from framefetch.store.manifest import Manifest
from framefetch.store.places import remove, translate_oserror
from framefetch.store.recovery import adopt_intents, drop_overtaken, recover
from framefetch.store.room import existing, make_folder, require_manifest_room
from framefetch.store.salvage import hint_sources
from framefetch.store.schema import Identity, identify, recognise
from framefetch.store.symlinks import not_a_folder

if TYPE_CHECKING:
    from typing import Self

    from framefetch.models import Entry
    from framefetch.store.places import Sight

__all__ = ["OLDER", "CacheFolder"]

#: The prototype's manifest.
OLDER = "manifest.json"


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
    mend : bool, default True
        Whether a manifest that is lost (damaged, empty, gone) is made anew; else it is an error, as is its absence.

    Attributes
    ----------
    root : str
        Absolute path; the folder itself may be a link, nothing below it is followed through one.
    older : str or None
        A prototype's manifest that is to be taken over: there was no other when the folder was opened first, and
        nobody has come to its end since.
    writable : bool
        Whether anything can be fetched into it.

    Raises
    ------
    StorageError
        Where the folder cannot be used.
    ManifestError
        Where its manifest cannot be used.
    """

    def __init__(
        self, path: str | os.PathLike[str], *, lock_timeout: float = 10.0, create: bool = True, mend: bool = True
    ) -> None:
        self.root = os.path.realpath(path)
        self.private = os.path.join(self.root, PRIVATE)
        if not create and not os.path.isdir(self.root):
            raise StorageError(f"{self.root}: no such folder; expected a cache that 'framefetch mirror' made")
        self._path = os.path.join(self.root, Manifest.NAME)
        self._timeout = lock_timeout
        self._mending = threading.Lock()
        self._unmended = False
        there = self._look(mend=mend)
        noted = os.path.exists(self._note)
        self.older: str | None = None
        self.journal = Journal(self.private)
        self.obstacle: StorageError | None = self._make_private()
        self.writable = self.obstacle is None
        self.files = FileStore(self.root, self.journal)
        self.presence = Presence(self.private, self.journal.token)
        try:
            self._note_older(there=there)  # before the manifest is made: whoever dies in between leaves the note
            self.manifest = self._open_manifest(mend=mend)
        except BaseException:
            self.journal.close()
            raise
        if not there and not noted and self.manifest.holds_any():
            self.taken_over()  # by what could be read of one that was lost
        self.files.orphaned = self._adopt
        self.files.ask_for_owners(self._owner)
        if self.writable:
            try:
                recover(self.files, self.manifest, self.private)
                drop_overtaken(self.files, self.manifest)
            except BaseException:
                self.close()
                raise

    def _look(self, *, mend: bool) -> bool:
        """Return whether there is a manifest; refuse what is not ours before anything is made beside it."""
        try:
            recognise(self._path, self._timeout)
        except ManifestLost:
            if mend:
                return False
            raise
        there = os.path.exists(self._path)
        if not there and not mend:
            older = os.path.join(self.root, OLDER)
            how = (
                f"but a prototype's {OLDER}, which 'framefetch import {self.root} {older}' takes over, as a mirror does"
                if os.path.exists(older)
                else "expected a cache that 'framefetch mirror' made. If it was one, "
                f"'framefetch rebuild {self.root}' makes its manifest anew from the files"
            )
            raise ManifestError(f"{self.root} holds no manifest, {how}")
        return there

    @property
    def _note(self) -> str:
        return os.path.join(self.private, "taking-over")

    def _note_older(self, *, there: bool) -> None:
        """Note that a prototype's manifest is to be taken over, or find the note of somebody who did not end it."""
        older = os.path.join(self.root, OLDER)
        if not self.writable or not os.path.isfile(older):
            return
        if not there:
            with contextlib.suppress(OSError), open(self._note, "ab") as note:
                os.fsync(note.fileno())
        self.older = older if not there or os.path.exists(self._note) else None

    def require_taken_over(self, target: str) -> None:
        """Refuse to write over a prototype's manifest that is not taken over to its end.

        Raises
        ------
        ManifestError
            Where the target leads to it.
        """
        older = os.path.join(self.root, OLDER)
        if os.path.exists(self._note) and os.path.realpath(target) == os.path.realpath(older):
            raise ManifestError(f"{older} is not taken over to its end yet, and would be lost; mirror first")

    def taken_over(self) -> None:
        """Note that the prototype's manifest has been taken over, or is none."""
        self.older = None
        remove(self._note)

    def _open_manifest(self, damaged: Identity | None = None, *, mend: bool = True) -> Manifest:
        """Open the manifest; one that is lost is made anew first."""
        gone = not os.path.exists(self._path) and os.path.isdir(self.root) and len(hint_sources(self._path)) > 1
        if damaged is None and not gone:
            seen = identify(self._path)
            try:
                return self._connect()
            except ManifestLost:
                if not mend:
                    raise
                damaged = seen  # also where only who writes to it meets the damage
        if self.writable:
            from framefetch.store.anew import make_anew

            notice = make_anew(self._path, self.private, self._timeout, damaged)
            if notice is not None:
                self.files.notices.append(notice)
        return self._connect()

    def _connect(self) -> Manifest:
        if self.writable and _links(self._path) > 1:
            from framefetch.store.anew import make_own

            make_own(self._path, self.private, self._timeout)
        return Manifest(self.root, timeout=self._timeout, writable=self.writable, durably=self.journal.recorded)

    def mend(self, lost: Manifest) -> None:
        """Go on with a manifest made anew, after this one was found to be damaged, removed or replaced; blocking.

        What was handed in to it and could not be recorded is handed on, and what this process has published is
        adopted by its journal.

        Raises
        ------
        ManifestError
            Where no manifest can be made.
        """
        with self._mending:
            if self.manifest is not lost:
                return  # another call was faster
            self._unmended = True
            with contextlib.suppress(BytesLost):  # these files are gone: whoever looks for them fetches them
                lost.close()
            manifest = self._open_manifest(lost.identity)
            lost.hand_over(manifest)
            self.manifest = manifest
            if self.writable:
                adopt_intents(self.files, manifest, [self.journal.path])
            self._unmended = False

    def _adopt(self, entry: Entry) -> None:
        """Record a file whose caller was cancelled; where that fails, the journal stays and the next run adopts it."""
        with contextlib.suppress(ManifestError):
            self.manifest.commit([entry], made=True)

    def _owner(self, path: str, key: str, seen: Sight) -> str | None:
        """Return which key holds the very file that was seen at a path, or is about to: its row may yet be to come.

        Another key has the path whatever stands there: that file may have been edited. What this process intended for
        the same key is nobody else's.

        Whoever publishes a file has written his intent before, and it stays until the row is there: the journals are
        read first.
        """
        intents = list(intents_for(path, f"{self.private}/parts"))
        own = [intent.receipt.digests for journal, intent in intents if journal == self.journal.path]
        for _, intent in intents:
            stated = intent.receipt.digests
            if intent.key == key and stated in own:
                continue
            with contextlib.suppress(OSError):
                if self.files.hash(path, [digest.algorithm for digest in stated]) == stated:
                    return intent.key
        with contextlib.suppress(ManifestError):  # whoever reads it next tells it; no bytes are lost meanwhile
            for entry in self.manifest.at([path]):
                if entry.key != key or entry.receipt.sight == seen:
                    return entry.key
        return None

    def _make_private(self) -> StorageError | None:
        """Make the private folders and begin the journal; return why that is impossible, if it is."""
        try:
            for folder in (self.root, self.private, f"{self.private}/parts", f"{self.private}/locks"):
                make_folder(folder)
                if folder != self.root and os.path.islink(folder):
                    raise StorageError(f"{folder} is a link; nothing is written through it")
            require_manifest_room(self.root)
            self.journal.open()
        except OSError as error:
            if not os.path.isdir(self.root):
                failure = translate_oserror(error, f"making the cache folder {self.root}")
                failure.fatal = True
                raise failure from (None if failure is error else error)
            obstacle = translate_oserror(error, f"writing to the cache {self.root}")
            obstacle.fatal = True
            return obstacle
        return None

    def try_again(self) -> None:
        """Open for writing what could be opened for reading only, if whatever was in the way is so no more.

        Raises
        ------
        StorageError, ManifestError
            Where what is in the folder cannot be used.
        """
        with self._mending:
            if self.writable:
                return
            self.obstacle = self._make_private()
            if self.obstacle is not None:
                return
            self.writable = True
            try:
                manifest = self._open_manifest(mend=False)
            except BaseException:
                self.writable = False
                self.journal.close()
                raise
            older, self.manifest = self.manifest, manifest
            older.close()
            self._note_older(there=True)
            recover(self.files, self.manifest, self.private)
            drop_overtaken(self.files, self.manifest)

    def prepare(self, version: str | None = None) -> None:
        """Make sure that files, those of a version, can be written, before anything is fetched.

        Raises
        ------
        StorageError, ManifestError
            Where they cannot, or cannot be recorded.
        """
        if self.obstacle is not None:
            raise self.obstacle
        if self.manifest.failed:
            self.manifest.flush()  # what could not be recorded before may be by now
        self.files.prepare(version)

    def require_place(self, version: str) -> None:
        """Refuse a version in whose folder's place a file stands: none of its rows can be held.

        Raises
        ------
        StorageError
            Where one does.
        """
        place = os.path.join(self.root, version)
        if not_a_folder(place) == "a file":  # what is told of links, each row tells
            failure = StorageError(
                f"a file stands at {place}, where the folder of version {version!r} belongs; "
                "move it away, or choose another version"
            )
            failure.fatal = True
            raise failure

    def free_space(self) -> int:
        """Return the bytes that are free on the folder's file system."""
        return shutil.disk_usage(existing(self.root)).free

    def close(self, *, interrupted: bool = False) -> None:
        """Commit, sync and close everything; closing twice is fine.

        Parameters
        ----------
        interrupted : bool, default False
            Whether something was left half done: then the next process reads in the journal what it was.
        """
        self.files.close()
        try:
            self.manifest.close()
        finally:
            self.journal.close(keep=interrupted or self.manifest.failed or self._unmended)

    def __enter__(self) -> Self:
        """Return the folder."""
        return self

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: object) -> None:
        """Close it."""
        self.close(interrupted=kind is not None)


def _links(path: str) -> int:
    try:
        return os.stat(path).st_nlink
    except OSError:
        return 0
