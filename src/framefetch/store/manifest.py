"""The manifest: which files are held. One writer thread, one transaction for many files.

Entries handed in are collected for a window of about 256 rows or a quarter of a second and committed together; who
handed them in is called back after the commit, because a file counts as downloaded only when its row is safe from a
crash of this process. At most once a second, and at the end, the file system is synced, and the windows before
that turn durable: a power cut can take back only rows that are still marked as not durable, and those are hashed
before they are believed.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import sqlite3
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future
from typing import Any, TypeAlias

from framefetch.errors import ManifestError
from framefetch.models import Digest, Entry, Receipt, Verified
from framefetch.store.schema import boot_id, connect, explain
from framefetch.store.sync import sync_files

__all__ = ["Committed", "Manifest"]

#: Called with the entries of one commit, in the writer's thread.
Committed: TypeAlias = Callable[[Sequence[Entry]], None]

WINDOW_ROWS = 256
WINDOW_SECONDS = 0.25
SYNC_SECONDS = 1.0
FETCH_ROWS = 4096

_COLUMNS = "version, key, path, size, mtime_ns, ctime_ns, inode, digests, verified, etag, fetched_at, window"
_INSERT = f"INSERT OR REPLACE INTO entries ({_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
_LOOKUP = f"SELECT {_COLUMNS} FROM entries WHERE version = ? AND key IN (SELECT value FROM json_each(?))"
_OWNERS = f"SELECT {_COLUMNS} FROM entries WHERE path IN (SELECT value FROM json_each(?))"


def _to_row(entry: Entry, window: int) -> tuple[Any, ...]:
    receipt = entry.receipt
    return (
        entry.version, entry.key, entry.path, receipt.size, receipt.mtime_ns, receipt.ctime_ns, receipt.inode,
        " ".join(map(str, receipt.digests)), receipt.verified.value, receipt.etag, entry.fetched_at, window,
    )  # fmt: skip


class Manifest:
    """The entries of one cache.

    Parameters
    ----------
    root : str
        Absolute path of the cache.
    timeout : float, default 10
        Seconds to wait for another process that holds the database.
    writable : bool, default True
        Whether entries may be committed.

    Raises
    ------
    ManifestError
        Where the database cannot be used.
    """

    NAME = "manifest.sqlite"

    def __init__(self, root: str, *, timeout: float = 10.0, writable: bool = True) -> None:
        self._root = root
        self._path = os.path.join(root, self.NAME)
        self._timeout = timeout
        self._boot = boot_id()
        self.writable = writable
        missing = not os.path.exists(self._path)
        self._reader = sqlite3.connect(":memory:", check_same_thread=False) if missing and not writable else None
        self._empty = self._reader is not None
        if self._reader is None:
            writer = connect(self._path, timeout=timeout, writable=writable)
            self._reader = connect(self._path, timeout=timeout, writable=False) if writable else writer
        self._reading = threading.Lock()
        self._queue: queue.SimpleQueue[tuple[Sequence[Entry], Committed | None] | Future[None] | None] = (
            queue.SimpleQueue()
        )
        self._failure: ManifestError | None = None
        self._thread: threading.Thread | None = None
        if writable:
            self._thread = threading.Thread(target=self._write, args=(writer,), name="framefetch-manifest", daemon=True)
            self._thread.start()

    # -- reading ------------------------------------------------------------------------------------------------

    def lookup(self, version: str, keys: Iterable[str]) -> list[Entry]:
        """Return the entries of these keys, in no particular order.

        Raises
        ------
        ManifestError
            Where the database cannot be read.
        """
        return list(self._select(_LOOKUP, (version, json.dumps(list(keys)))))

    def owners(self, paths: Sequence[str]) -> dict[str, str]:
        """Return which key holds each of these paths, for those that are held."""
        return {entry.path: entry.key for entry in self._select(_OWNERS, (json.dumps(list(paths)),))}

    def entries(self, version: str | None = None) -> Iterator[Entry]:
        """Yield all entries, or those of one version, ordered by version and key."""
        where = "" if version is None else " WHERE version = ?"
        parameters = () if version is None else (version,)
        return self._select(f"SELECT {_COLUMNS} FROM entries{where} ORDER BY version, key, path", parameters)

    def _select(self, query: str, parameters: tuple[str, ...]) -> Iterator[Entry]:
        if self._empty:
            return
        if self._reader is None:
            raise ManifestError(f"{self._path} is closed")
        try:
            with self._reading:
                pending = dict(self._reader.execute("SELECT window, boot FROM windows"))
                cursor = self._reader.execute(query, parameters)
                rows = cursor.fetchmany(FETCH_ROWS)
            while rows:
                for row in rows:
                    yield self._to_entry(row, pending)
                with self._reading:
                    rows = cursor.fetchmany(FETCH_ROWS)
        except sqlite3.Error as error:
            raise explain(error, self._path) from error

    def _to_entry(self, row: tuple[Any, ...], pending: dict[int, str]) -> Entry:
        version, key, path, size, mtime, ctime, inode, digests, verified, etag, fetched_at, window = row
        stated = tuple(Digest(*text.split(":", 1)) for text in digests.split())
        boot = pending.get(window)
        return Entry(
            version,
            key,
            path,
            Receipt(size, mtime, ctime, inode, stated, Verified(verified), etag),
            fetched_at,
            durable=boot is None,
            trusted=boot is None or (boot == self._boot and boot != ""),
        )

    # -- writing ------------------------------------------------------------------------------------------------

    def commit(self, entries: Sequence[Entry], committed: Committed | None = None) -> None:
        """Hand entries to the writer; returns at once.

        Parameters
        ----------
        entries : sequence of Entry
            Rows to insert or replace.
        committed : callable, optional
            Called with them in the writer's thread, after the commit.

        Raises
        ------
        ManifestError
            Where an earlier commit failed, or the manifest is open read-only or closed.
        """
        self._check()
        self._queue.put((entries, committed))

    def flush(self) -> None:
        """Wait until everything handed in is committed.

        Raises
        ------
        ManifestError
            Where a commit failed.
        """
        self._check()
        done: Future[None] = Future()
        self._queue.put(done)
        done.result()

    def _check(self) -> None:
        if self._failure is not None:
            raise self._failure
        if self._thread is None:
            raise ManifestError(f"{self._path} is closed or open for reading only")

    def _write(self, connection: sqlite3.Connection) -> None:
        """Commit windows until told to stop; a failure is kept for whoever comes next."""
        unsynced: dict[int, list[str]] = {}
        last_sync = time.monotonic()
        stop = False
        while not stop:
            batch, waiters, stop = self._collect(wait=SYNC_SECONDS if unsynced else None)
            try:
                if batch:
                    window = self._commit(connection, batch)
                    unsynced[window] = [entry.path for entries, _ in batch for entry in entries]
                if unsynced and (stop or time.monotonic() - last_sync >= SYNC_SECONDS):
                    self._make_durable(connection, unsynced)
                    last_sync = time.monotonic()
            except sqlite3.Error as error:
                self._failure = explain(error, self._path)
            self._answer(batch, waiters)
        with contextlib.suppress(sqlite3.Error):  # every row is committed; closing only folds the log into the file
            connection.close()

    def _answer(self, batch: list[tuple[Sequence[Entry], Committed | None]], waiters: list[Future[None]]) -> None:
        if self._failure is None:
            for entries, committed in batch:
                if committed is not None:
                    committed(entries)
        for waiter in waiters:
            if self._failure is None:
                waiter.set_result(None)
            else:
                waiter.set_exception(self._failure)

    def _collect(
        self, *, wait: float | None
    ) -> tuple[list[tuple[Sequence[Entry], Committed | None]], list[Future[None]], bool]:
        """Gather one window: until it is full, its time is up, someone waits for it, or the end is near."""
        batch: list[tuple[Sequence[Entry], Committed | None]] = []
        waiters: list[Future[None]] = []
        rows, deadline = 0, None if wait is None else time.monotonic() + wait
        while rows < WINDOW_ROWS and not waiters:
            try:
                left = None if deadline is None else max(0.0, deadline - time.monotonic())
                item = self._queue.get(timeout=left) if left is None or left > 0 else self._queue.get_nowait()
            except queue.Empty:
                break
            if item is None:
                return batch, waiters, True
            if isinstance(item, Future):
                waiters.append(item)
                continue
            if not batch:
                deadline = time.monotonic() + WINDOW_SECONDS
            batch.append(item)
            rows += len(item[0])
        return batch, waiters, False

    def _commit(self, connection: sqlite3.Connection, batch: list[tuple[Sequence[Entry], Committed | None]]) -> int:
        connection.execute("BEGIN IMMEDIATE")
        try:
            window = connection.execute("INSERT INTO windows (boot) VALUES (?)", (self._boot,)).lastrowid
            assert window is not None
            connection.executemany(_INSERT, (_to_row(entry, window) for entries, _ in batch for entry in entries))
            connection.execute("COMMIT")
        except BaseException:
            connection.rollback()
            raise
        return window

    def _make_durable(self, connection: sqlite3.Connection, windows: dict[int, list[str]]) -> None:
        """Sync the files of these windows, then say so."""
        paths = (os.path.join(self._root, path) for listed in windows.values() for path in listed)
        if sync_files(self._root, paths):
            connection.executemany("DELETE FROM windows WHERE window = ?", [(window,) for window in windows])
        windows.clear()

    @property
    def failed(self) -> bool:
        """Whether a commit failed: what was handed in may not be recorded."""
        return self._failure is not None

    def close(self) -> None:
        """Commit what was handed in, sync, and close; closing twice is fine."""
        if self._reader is not None:
            with self._reading:  # before the writer: the last one to close folds the log into the database
                self._reader.close()
                self._reader = None
        if self._thread is not None:
            self._queue.put(None)
            self._thread.join()
            self._thread = None
