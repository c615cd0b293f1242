"""Reading a manifest: a connection for each reading that is under way, where that can be.

What a connection of SQLite sees stays as it was when the oldest of its readings began (https://sqlite.org/isolation.html).
If all shared one, a long list would keep from everybody what was recorded since.
"""

from __future__ import annotations

import contextlib
import sqlite3
import threading
from collections.abc import Iterator, Mapping
from typing import Any

from framefetch.errors import ManifestError
from framefetch.store.schema import SQLITE_ERRORS, connect, explain, identify, open_beside

__all__ = ["FETCH_ROWS", "Readers"]

#: Rows that are asked of SQLite at a time.
FETCH_ROWS = 4096


class Readers:
    """The connections that read one manifest: one, and more where readings overlap.

    Parameters
    ----------
    path : str
        Where it is.
    timeout : float
        Seconds to wait for another process that holds the database.

    Raises
    ------
    ManifestLost
        Where the database is damaged, empty, or gone from beside its log.
    ManifestError
        Where it cannot be used.
    """

    def __init__(self, path: str, timeout: float) -> None:
        self._path = path
        self._timeout = timeout
        self._turn = threading.Lock()
        self._closed = False
        self._first = connect(path, timeout=timeout, writable=False)
        self._identity = identify(path)
        self._all = [self._first]
        self._idle = [self._first]

    def fetch(self, query: str, parameters: Mapping[str, str | int | None]) -> Iterator[tuple[Any, ...]]:
        """Yield the rows of a query, all of them as they are when the first is asked for.

        Raises
        ------
        ManifestError
            Where the database cannot be read, or was closed.
        """
        with self._turn:
            if self._closed:
                raise ManifestError(f"{self._path} is closed")
            reader = self._idle.pop() if self._idle else self._another()
        try:
            with self._turn:
                cursor = (reader or self._first).execute(query, parameters)
                rows = cursor.fetchmany(FETCH_ROWS)
            try:
                while rows:
                    yield from rows
                    with self._turn:
                        rows = cursor.fetchmany(FETCH_ROWS)
            finally:
                with contextlib.suppress(sqlite3.ProgrammingError):  # closed meanwhile
                    cursor.close()  # who stops early would leave the next one what was there
        except SQLITE_ERRORS as error:
            raise explain(error, self._path) from error
        finally:
            if reader is not None:
                self._idle.append(reader)

    def close(self) -> None:
        """Close all, also those that are in use; closing twice is fine."""
        with self._turn:
            self._closed = True
            for reader in self._all:
                reader.close()

    def _another(self) -> sqlite3.Connection | None:
        """Open one more; None where the first is to be shared."""
        reader = open_beside(self._first, self._path, self._timeout, self._identity)
        if reader is not None:
            self._all.append(reader)
        return reader
