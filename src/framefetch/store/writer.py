"""The one thread that writes the manifest: many files, one transaction; then, now and then, one sync for all.

Whatever goes wrong in here, nobody may be left waiting: a failure is kept for the next caller, the entries it
concerns are kept too, and they are tried again whenever somebody flushes, so that a disk that has room again, or a
lock that was given back, costs no row.
"""

from __future__ import annotations

import contextlib
import logging
import os
import queue
import sqlite3
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from typing import Final, TypeAlias

from framefetch.errors import BytesLost, ManifestError, ManifestLost
from framefetch.models import Entry
from framefetch.store.changes import Change, Identity, apply, forget_paths, to_row
from framefetch.store.own import Own
from framefetch.store.places import remove, sight_of
from framefetch.store.schema import SQLITE_ERRORS, explain, identify
from framefetch.store.sync import Disk, Synced
from framefetch.store.tables import overfull, pour

__all__ = ["CommitWriter", "Committed", "Durably", "Handed", "Turn"]

#: Called with the entries of one commit that were recorded, in the writer's thread; a file that was replaced is not.
Committed: TypeAlias = Callable[[Sequence[Entry]], None]
#: Called with paths, in the writer's thread.
Durably: TypeAlias = Callable[[Sequence[str]], None]
Turn: TypeAlias = "Callable[[float], contextlib.AbstractContextManager[None]]"

WINDOW_ROWS: Final = 256
WINDOW_SECONDS: Final = 0.25
SYNC_SECONDS: Final = 1.0
#: Rows that may wait for another process to let go of the database: about 100 MB.
BACKLOG_ROWS: Final = 100_000
#: Share of the lock timeout between a file's name and its row after which it is looked at once more: after all of it
#: others take this process for a stopped one.
STOPPED_SHARE: Final = 0.5
#: Milliseconds to wait for the database once the whole lock timeout has been waited in vain.
IMPATIENCE: Final = 100

logger = logging.getLogger("framefetch")


def _now() -> float:
    """Return seconds that nobody can set, and that go on while the machine sleeps, where the system counts those."""
    clock = getattr(time, "CLOCK_BOOTTIME", None)
    return time.monotonic() if clock is None else time.clock_gettime(clock)


@dataclass(frozen=True, slots=True)
class Handed:
    """Entries to record, or to forget, and who is to be told; and up to which window nobody had recorded their keys.

    Where their files were made just now, the disk may not keep them. Of others it has been told nothing.
    """

    entries: Sequence[Entry]
    committed: Committed | None = None
    forget: bool = False
    unknown_at: int | None = None
    made: bool = False
    at: float = field(default_factory=_now)


class CommitWriter:
    """Commits entries in a thread of its own.

    Parameters
    ----------
    root : str
        Absolute path of the cache.
    path : str
        The database.
    connection : sqlite3.Connection
        Open for writing; the writer closes it.
    boot : str
        What is recorded as the boot that wrote the entries.
    turn : callable
        Gives a context, within so many seconds, in which this process may write.
    durably : callable
        Called, in the thread, with the paths whose rows and files no power cut can take any more.

    Attributes
    ----------
    left : list of Handed
        After the end: what could not be committed.
    """

    def __init__(
        self, root: str, path: str, connection: sqlite3.Connection, boot: str, turn: Turn, durably: Durably
    ) -> None:
        self._root = root
        self._path = path
        self._connection = connection
        self._boot = boot
        self._turn = turn
        self._durably = durably
        self._identity = identify(path)
        self._patience: int = connection.execute("PRAGMA busy_timeout").fetchone()[0]
        self._queue: queue.SimpleQueue[Handed | Future[None] | None] = queue.SimpleQueue()
        self._handing = threading.Lock()
        self._closed = False
        self._waiting = 0
        self.left: list[Handed] = []
        self._failure: ManifestError | None = None
        self._lost: BytesLost | None = None
        self._doubtful = False
        self._unsynced: dict[int, list[str]] = {}
        self._made: set[str] = set()  # of these, what was made since the last sync
        self._synced_at = time.monotonic()
        self._own = Own()
        self._disk = Disk(root)
        self._thread = threading.Thread(target=self._work, name="framefetch-manifest", daemon=True)
        self._thread.start()

    @property
    def failed(self) -> bool:
        """Whether a commit failed and has not been made up for."""
        return self._failure is not None

    @property
    def durable(self) -> bool:
        """Whether everything that is committed has been synced as well."""
        return not self._unsynced and not self._doubtful

    def hand_in(self, handed: Handed) -> None:
        """Take entries; returns at once.

        They are taken also where it raises `ManifestError`, because an earlier commit failed or too many wait: their
        files are there, so they have to be recorded whenever that is possible again.

        Raises
        ------
        ManifestError
            Where an earlier commit failed, or too many wait.
        BytesLost
            Where the disk could not keep files that were committed before; `flush` and `close` tell it too, once.
        """
        self._put(handed)
        if self._failure is not None:
            raise self._failure
        if self._lost is not None:
            raise self._lost
        if self._waiting > BACKLOG_ROWS:
            raise ManifestError(f"{self._path}: {self._waiting:,} files wait to be recorded; another process holds it")

    def flush(self) -> None:
        """Wait until everything handed in is committed; what failed before is tried again."""
        done: Future[None] = Future()
        self._put(done)
        done.result()
        self._tell_lost()

    def close(self) -> None:
        """Commit and sync what was handed in, and end the thread."""
        with self._handing:
            if not self._closed:
                self._closed = True
                self._queue.put(None)
        self._thread.join()
        self._tell_lost()

    def _tell_lost(self) -> None:
        lost, self._lost = self._lost, None
        if lost is not None:
            raise lost

    def _put(self, item: Handed | Future[None]) -> None:
        with self._handing:  # nothing may come behind the end: nobody would answer it
            if self._closed:
                raise ManifestError(f"{self._path} is closed")
            self._queue.put(item)
            if isinstance(item, Handed):
                self._waiting += len(item.entries)

    # -- the thread ---------------------------------------------------------------------------------------------

    def _work(self) -> None:
        batch: list[Handed] = []
        last = False
        while not last:
            waiters, last = self._collect(batch)
            handed_in = sum(len(handed.entries) for handed in batch)
            try:
                if waiters or batch:
                    self._require_same_file()
                self._commit(batch)
            except Exception as error:  # noqa: BLE001 - whatever it is, somebody waits for an answer
                self._failure = _explained(error, self._path)
            else:
                self._failure = None
                with self._handing:
                    self._waiting -= handed_in
                for handed in batch:
                    _call_back(handed)
                batch = []
            for waiter in waiters:
                _answer(waiter, self._failure)
            self._pour_if_due()
            self._sync_if_due(at_once=last)
        self.left = batch
        with contextlib.suppress(*SQLITE_ERRORS):  # every row is committed; closing only folds the log into the file
            self._connection.close()
        self._disk.close()

    def _collect(self, batch: list[Handed]) -> tuple[list[Future[None]], bool]:
        """Add one window to the batch: until it is full, its time is up, someone waits, or the end is near.

        Returns
        -------
        waiters : list of Future
            Those who wait for this window.
        last : bool
            Whether nothing will follow.
        """
        waiters: list[Future[None]] = []
        rows, begun = 0, False
        deadline = time.monotonic() + SYNC_SECONDS if self._unsynced else None
        while rows < WINDOW_ROWS and not waiters:
            try:
                left = None if deadline is None else max(0.0, deadline - time.monotonic())
                item = self._queue.get(timeout=left) if left is None or left > 0 else self._queue.get_nowait()
            except queue.Empty:
                break
            if item is None:
                return waiters, True
            if isinstance(item, Future):
                waiters.append(item)
                continue
            if not begun:
                begun, deadline = True, time.monotonic() + WINDOW_SECONDS
            batch.append(item)
            rows += len(item.entries)
        return waiters, False

    def _commit(self, batch: list[Handed]) -> None:
        if not any(handed.entries for handed in batch):
            return
        patience = self._patience if self._failure is None else min(self._patience, IMPATIENCE)
        self._connection.execute(f"PRAGMA busy_timeout = {patience}")
        with self._turn(patience / 1000):
            window = self._transact(batch)
        written = [entry.path for handed in batch if not handed.forget for entry in handed.entries]
        self._unsynced[window] = written
        self._made.update(entry.path for handed in batch if handed.made for entry in handed.entries)

    def _transact(self, batch: list[Handed]) -> int:
        self._connection.execute("BEGIN IMMEDIATE")
        try:
            stopped = self._patience / 1000 * STOPPED_SHARE
            # Nobody else can record anything from here on.
            batch[:] = [_without_replaced(handed, self._root, stopped) for handed in batch]
            window = self._connection.execute("INSERT INTO windows (boot) VALUES (?)", (self._boot,)).lastrowid
            assert window is not None
            changes: list[Change] = []
            new: set[Identity] = set()
            for handed in batch:
                rows = [to_row(entry, window) for entry in handed.entries]
                changes += [(row, handed.forget) for row in rows]
                new.update(self._own.new_among([row[:3] for row in rows], handed.unknown_at, window))
            apply(self._connection, changes, new)
            self._connection.execute("COMMIT")
        except BaseException:
            self._connection.rollback()
            raise
        self._own.committed(window)
        return window

    def _require_same_file(self) -> None:
        """Refuse to go on where the database was removed, emptied or replaced: SQLite would write to a removed one."""
        if identify(self._path) != self._identity:
            raise ManifestLost(f"{self._path} was removed or replaced while it was open; run the same command again")

    def _pour_if_due(self) -> None:
        """Move the places of many windows at once, after those who waited for theirs were told."""
        try:
            due = overfull(self._connection)
        except SQLITE_ERRORS:
            return  # who looks next tells it
        if due:
            self._change(pour)

    def _sync_if_due(self, *, at_once: bool) -> None:
        """Sync the files of the windows since the last time, and the log with their rows; then say so."""
        if not self._unsynced or not (at_once or time.monotonic() - self._synced_at >= SYNC_SECONDS):
            return
        names = [path for paths in self._unsynced.values() for path in paths]
        paths = [f"{self._root}/{name}" for name in names]
        synced = self._disk.sync([*paths, f"{self._path}-wal"])
        windows = [(window,) for window in self._unsynced]
        if synced.done:
            self._change(lambda writing: writing.executemany("DELETE FROM windows WHERE window = ?", windows))
            if identify(self._path) == self._identity:  # in one that was removed meanwhile, nothing is safe
                self._durably(names)
        else:
            self._doubtful = True
            # Written by no boot: whoever asks for these files hashes them first.
            self._change(lambda writing: writing.executemany("UPDATE windows SET boot = '' WHERE window = ?", windows))
            self._forget(synced)
        self._unsynced.clear()
        self._made.clear()
        self._synced_at = time.monotonic()

    def _forget(self, synced: Synced) -> None:
        """Remove the files that were made and that the disk could not keep, then their rows.

        Others were whole before, and may be somebody's only copies: an error that their sync tells is not of their
        bytes.
        """
        made = {f"{self._root}/{name}" for name in self._made}
        lost = [path for path in synced.lost if path in made]
        if not lost:
            return
        for path in lost:
            remove(path)  # before its row: the journal would explain a file without one
        names = [os.path.relpath(path, self._root).replace(os.sep, "/") for path in lost]
        self._change(lambda writing: forget_paths(writing, names))
        self._lost = BytesLost(
            f"the disk took {len(lost):,} files and could not keep them ({synced.reason}), {names[0]} among them; "
            "they were removed. Look after the disk, then run the same command again",
            paths=(self._lost.paths if self._lost else frozenset()) | set(names),
        )

    def _change(self, change: Callable[[sqlite3.Connection], object]) -> None:
        """Change the tables if they can be; what is not recorded leaves files less trusted, never more."""
        try:
            with self._turn(self._patience / 1000):
                self._connection.execute("BEGIN IMMEDIATE")
                change(self._connection)
                self._connection.execute("COMMIT")
        except (*SQLITE_ERRORS, ManifestError):
            with contextlib.suppress(*SQLITE_ERRORS):
                self._connection.rollback()


def _without_replaced(handed: Handed, root: str, seconds: float) -> Handed:
    """Return what is to be recorded without files that another process has put others in the place of.

    That takes a process that was stopped between a name and its row: its neighbours no longer wait for it. Whether it
    was since it handed the row in tells a clock that nobody sets; before, the times of the files have to.
    """
    if handed.committed is None:
        return handed
    long_ago = (time.time() - seconds) * 1e9
    if _now() - handed.at < seconds and all(entry.receipt.ctime_ns > long_ago for entry in handed.entries):
        return handed
    return replace(handed, entries=[entry for entry in handed.entries if not _is_replaced(entry, root)])


def _is_replaced(entry: Entry, root: str) -> bool:
    try:
        found = os.lstat(f"{root}/{entry.path}")
    except OSError:
        return False  # it is gone, which whoever looks for it sees
    return sight_of(found) != entry.receipt.sight


def _explained(error: Exception, path: str) -> ManifestError:
    if isinstance(error, ManifestError):
        return error
    if isinstance(error, SQLITE_ERRORS):
        return explain(error, path)
    return ManifestError(f"{path}: an entry cannot be recorded: {error!r}")


def _call_back(handed: Handed) -> None:
    if handed.committed is None:
        return
    try:
        handed.committed(handed.entries)
    except Exception:
        logger.exception("a call back after a commit failed; the entries are recorded")


def _answer(waiter: Future[None], failure: ManifestError | None) -> None:
    if failure is None:
        waiter.set_result(None)
    else:
        waiter.set_exception(failure)
