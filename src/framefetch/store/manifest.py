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
from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, TypeAlias

from framefetch.errors import ManifestError, ManifestLost
from framefetch.models import Digest, Entry, Receipt, Verified
from framefetch.store.network import network_file_system, one_writer
from framefetch.store.readers import FETCH_ROWS, Readers
from framefetch.store.schema import Identity, boot_id, connect, identify, lost
from framefetch.store.tables import FOUND, MISPLACED, asking_for, places_of_keys, places_of_paths
from framefetch.store.writer import Committed, CommitWriter, Durably, Handed, Turn

__all__ = ["Manifest", "Row"]

#: Key, path, size, mtime_ns, ctime_ns, inode, digests as text, verified as text, and whether the row is trusted.
Row: TypeAlias = tuple[str, str, int, int, int, int, str, str, bool]

# In one statement with its window: read before or after, a row could seem durable that is not.
_SELECT = """
SELECT version, key, path, size, mtime_ns, ctime_ns, inode, digests, verified, etag, fetched_at, boot
FROM entries LEFT JOIN windows USING (window)
"""
_FOUND = f"{_SELECT} WHERE {FOUND}"
_FOUND_IN = f"{_FOUND} AND version = :version"
_ROWS = f"""
SELECT key, path, size, mtime_ns, ctime_ns, inode, digests, verified, boot IS NULL OR (boot = :boot AND boot <> '')
FROM entries LEFT JOIN windows USING (window) WHERE {FOUND} AND version = :version
"""
_SINCE = f"SELECT 1 FROM entries WHERE {FOUND} AND version = :version AND key = :key AND window > :window"
# An entry has its md5, and behind it the digest that the table states.
_SAME = f"""{_SELECT} WHERE substr(digests, 1, 36) IN (SELECT value FROM json_each(:digests))
OR substr(digests, 38) IN (SELECT value FROM json_each(:digests))"""
_IN_ORDER = "SELECT id FROM entries WHERE version = :version OR :version IS NULL ORDER BY version, key, path"
_NUMBERED = f"{_SELECT.replace('SELECT', 'SELECT id,', 1)} WHERE id IN (SELECT value FROM json_each(:ids))"

#: By name: a look-up is a third of the cost of asking the enum.
_LEVELS = {level.value: level for level in Verified}


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
    durably : callable, optional
        Called, in the writer's thread, with the paths whose rows and files no power cut can take any more.

    Attributes
    ----------
    path : str
        Where it is.
    identity : tuple or None
        Which file it is.
    noted : dict of str to Entry
        By path, what files were found to be by reading them and could not be recorded: known for as long as this is
        open, so that a cache which cannot be written reads a file whose times have changed once.

    Raises
    ------
    ManifestLost
        Where the database is damaged, empty, or gone from beside its log.
    ManifestError
        Where it cannot be used.
    """

    NAME = "manifest.sqlite"

    def __init__(
        self, root: str, *, timeout: float = 10.0, writable: bool = True, durably: Durably = lambda _: None
    ) -> None:
        self.path = os.path.join(root, self.NAME)
        self._boot = boot_id()
        self.writable = writable
        self._readers: Readers | None = None
        self._writer: CommitWriter | None = None
        self.identity: Identity | None = None
        self.noted: dict[str, Entry] = {}
        if not writable and not os.path.lexists(self.path):
            return
        writer = connect(self.path, timeout=timeout, writable=True) if writable else None
        try:
            self._readers = Readers(self.path, timeout)
        except BaseException:
            if writer is not None:
                writer.close()
            raise
        self.identity = identify(self.path)
        if writer is not None:
            self._writer = CommitWriter(root, self.path, writer, self._boot, _turn_of(root), durably)

    # -- reading ------------------------------------------------------------------------------------------------

    def lookup(self, version: str, keys: Iterable[str]) -> list[Entry]:
        """Return the entries of these keys, in no particular order.

        Raises
        ------
        ManifestError
            Where the database cannot be read.
        """
        asked = set(keys)
        places = asking_for(places_of_keys(version, asked))
        return [entry for entry in self._select(_FOUND_IN, places=places, version=version) if entry.key in asked]

    def rows(self, version: str, keys: Sequence[str]) -> list[Row]:
        """Return the rows of these keys as they are stored, in no particular order.

        Raises
        ------
        ManifestError
            Where the database cannot be read.
        """
        asked = set(keys)
        places = asking_for(places_of_keys(version, asked))
        rows = self._fetch(_ROWS, places=places, version=version, boot=self._boot)
        return [row for row in rows if row[0] in asked]

    def knows_version(self, version: str) -> bool:
        """Return whether there is, or ever was, an entry of a version; if not, none need be looked for."""
        return any(True for _ in self._fetch("SELECT 1 FROM versions WHERE version = :version", version=version))

    def last_window(self) -> int:
        """Return the number of the latest commit window, of whatever process."""
        query = "SELECT coalesce(max(seq), 0) FROM sqlite_sequence WHERE name = 'windows'"
        return next((int(number) for (number,) in self._fetch(query)), 0)

    def recorded_since(self, window: int, version: str, key: str) -> bool:
        """Return whether an entry of this key was written after a window."""
        places = asking_for(places_of_keys(version, [key]))
        return any(True for _ in self._fetch(_SINCE, places=places, version=version, key=key, window=window))

    def with_digests(self, digests: Iterable[str]) -> Iterator[Entry]:
        """Yield the entries that have one of these digests, given as ``algorithm:digits``; looks at every row."""
        return self._select(_SAME, digests=json.dumps(list(digests)))

    def holds_any(self) -> bool:
        """Return whether there is any entry."""
        return any(True for _ in self._fetch("SELECT 1 FROM entries LIMIT 1"))

    def owners(self, paths: Sequence[str]) -> dict[str, str]:
        """Return which key holds each of these paths, for those that are held."""
        return {entry.path: entry.key for entry in self.at(paths)}

    def at(self, paths: Sequence[str]) -> list[Entry]:
        """Return the entries whose files stand at these paths."""
        asked = set(paths)
        places = asking_for(places_of_paths(asked))
        return [entry for entry in self._select(_FOUND, places=places) if entry.path in asked]

    def entries(self, version: str | None = None) -> Iterator[Entry]:
        """Yield all entries, or those of one version, ordered by version, key and path.

        They are those that are there when the first is asked for, each as it is when its turn comes. They are read a
        few thousand at a time: who takes hours over them holds up nobody who writes meanwhile.
        """
        ids = array("q", (number for (number,) in self._fetch(_IN_ORDER, version=version)))
        for start in range(0, len(ids), FETCH_ROWS):
            block = ids[start : start + FETCH_ROWS].tolist()
            found = {row[0]: row[1:] for row in self._fetch(_NUMBERED, ids=json.dumps(block))}
            yield from self._to_entries(found[number] for number in block if number in found)

    def twins(self) -> frozenset[tuple[int, int]]:
        """Return the sizes and times, in pairs, that several entries have; looks at every row."""
        query = "SELECT size, mtime_ns FROM entries GROUP BY size, mtime_ns HAVING count(*) > 1"
        return frozenset((size, mtime_ns) for size, mtime_ns in self._fetch(query))

    def is_sound(self) -> bool:
        """Return whether the database is whole and every row can be found and read; ten seconds for a million."""
        try:
            whole = next(self._fetch("PRAGMA quick_check(1)"), None) == ("ok",)
            return whole and next(self._fetch(MISPLACED), None) is None and all(True for _ in self.entries())
        except ManifestLost:
            return False

    def _select(self, query: str, **parameters: str) -> Iterator[Entry]:
        return self._to_entries(self._fetch(query, **parameters))

    def _to_entries(self, rows: Iterable[tuple[Any, ...]]) -> Iterator[Entry]:
        for row in rows:  # whoever asks for what cannot be asked for is told here, and it is no damage
            try:
                entry = self._to_entry(row)
            except (ValueError, TypeError, KeyError) as error:
                raise lost(self.path, f"is damaged ({error})") from error
            yield entry

    def _fetch(self, query: str, **parameters: str | int | None) -> Iterator[tuple[Any, ...]]:
        return iter(()) if self._readers is None else self._readers.fetch(query, parameters)

    def _to_entry(self, row: tuple[Any, ...]) -> Entry:
        version, key, path, size, mtime, ctime, inode, digests, verified, etag, fetched_at, boot = row
        stated = tuple([Digest(*text.split(":", 1)) for text in digests.split()])
        return Entry(
            version,
            key,
            path,
            Receipt(size, mtime, ctime, inode, stated, _LEVELS[verified], etag),
            fetched_at,
            durable=boot is None,
            trusted=boot is None or (boot == self._boot and boot != ""),
        )

    # -- writing ------------------------------------------------------------------------------------------------

    def commit(
        self,
        entries: Sequence[Entry],
        committed: Committed | None = None,
        unknown_at: int | None = None,
        *,
        made: bool = False,
    ) -> None:
        """Hand entries to the writer; returns at once.

        Parameters
        ----------
        entries : sequence of Entry
            Rows to insert or replace.
        committed : callable, optional
            Called with them in the writer's thread, after the commit.
        unknown_at : int, optional
            A `last_window` up to which there was no entry of their keys, if somebody has looked: then, as long as
            nobody else writes, they are not looked for again.
        made : bool, default False
            Whether their files were made just now, by this process or by one that died: those of them that the disk
            turns out to have lost are removed. Any other file is left where it is, and hashed before it is believed.

        Raises
        ------
        ManifestError
            Where an earlier commit failed and `flush` has not made up for it: the entries are taken all the same. Or
            where the manifest is open read-only or closed.
        """
        self._open_writer().hand_in(Handed(entries, committed, unknown_at=unknown_at, made=made))

    def forget(self, entries: Sequence[Entry]) -> None:
        """Hand entries to the writer that are to be no more, unless they change until then; raises as `commit` does."""
        self._open_writer().hand_in(Handed(entries, forget=True))

    def hand_over(self, successor: Manifest) -> None:
        """After closing: let another manifest record what this one could not."""
        if self._writer is not None:
            for handed in self._writer.left:
                successor._open_writer().hand_in(replace(handed, unknown_at=None))  # its windows are others
            self._writer.left = []

    def flush(self) -> None:
        """Wait until everything handed in is committed; what could not be committed before is tried again.

        Raises
        ------
        ManifestError
            Where a commit failed.
        """
        self._open_writer().flush()

    def _open_writer(self) -> CommitWriter:
        if self._writer is None:
            raise ManifestError(f"{self.path} is closed or open for reading only")
        return self._writer

    @property
    def durable(self) -> bool:
        """Whether a power cut could take back nothing that is committed."""
        return self._writer is None or self._writer.durable

    @property
    def failed(self) -> bool:
        """Whether a commit failed: what was handed in may not be recorded."""
        return self._writer is not None and self._writer.failed

    def close(self) -> None:
        """Commit what was handed in, sync, and close; closing twice is fine."""
        if self._readers is not None:
            self._readers.close()  # before the writer: the last one to close folds the log into the database
        if self._writer is not None:
            self._writer.close()


def _turn_of(root: str) -> Turn:
    """Return what lets one process write at a time, where SQLite's own locks are not to be relied on."""
    if network_file_system(root) is None:
        return lambda _: contextlib.nullcontext()
    return partial(one_writer, os.path.join(root, ".framefetch", "locks", "writer.lock"))
