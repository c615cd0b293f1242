"""Do we hold it? The ladder from a stat to a hash to a download, for many files at once.

The rules, for a file that the manifest knows:

- size and mtime as recorded, and on the same inode ctime too (an edit that puts mtime back still changes ctime):
  held, for the cost of a stat;
- anything else is hashed: the recorded digest refreshes the row, another one means that the file was changed behind
  the manifest's back, and it is fetched anew;
- a digest stated by the table that is not the recorded one makes the entry stale; one of an algorithm that is not
  recorded yet is computed;
- an entry that is not durable and was written before the last start of the machine is hashed.

A file that the manifest does not know is adopted where the table states its digest and it matches.
"""

from __future__ import annotations

import stat
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from enum import Enum, auto
from os import lstat, stat_result
from typing import TYPE_CHECKING

from framefetch.errors import TargetBlocked
from framefetch.models import Entry, Receipt, Request, Verified

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from framefetch.models import Requests
    from framefetch.options import VerifyLevel
    from framefetch.store.files import FileStore
    from framefetch.store.manifest import Manifest

__all__ = ["Finding", "HeldCheck", "HeldReport", "State", "judge", "unchanged"]

LOOKUP_ROWS = 4096
HASH_THREADS = 2


class State(Enum):
    """What a look at the disk says of one entry."""

    HELD = auto()
    HASH = auto()
    STALE = auto()
    MISSING = auto()


@dataclass(frozen=True, slots=True)
class Finding:
    """A file that is held: where, and with what receipt; `entry` where the manifest must learn of it."""

    index: int
    path: str
    receipt: Receipt
    entry: Entry | None = None


@dataclass(slots=True)
class HeldReport:
    """What a check found besides the held files.

    ``ours`` are paths that may be replaced, ``blocked`` files whose path is held for another key, ``warnings`` are for
    the caller.
    """

    ours: set[str] = field(default_factory=set)
    blocked: dict[int, TargetBlocked] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)


def unchanged(recorded: Receipt, found: stat_result) -> bool:
    """Return whether a stat says that a file is as it was recorded."""
    if found.st_size != recorded.size or found.st_mtime_ns != recorded.mtime_ns or not stat.S_ISREG(found.st_mode):
        return False
    # Another inode is a copy of the folder, whose ctime says nothing.
    return found.st_ino != recorded.inode or found.st_ctime_ns == recorded.ctime_ns


def judge(request: Request, entry: Entry, found: stat_result | None, level: VerifyLevel) -> State:
    """Decide what to do about one entry; a pure function of what is recorded, found and asked for."""
    recorded = {digest.algorithm: digest for digest in entry.receipt.digests}
    if any(recorded.get(stated.algorithm, stated) != stated for stated in request.digests):
        return State.STALE
    if request.size is not None and request.size != entry.receipt.size:
        return State.STALE
    if level == "none":
        return State.HELD
    if found is None or not stat.S_ISREG(found.st_mode):
        return State.MISSING
    known = all(stated.algorithm in recorded for stated in request.digests)
    if level == "hash" or not entry.trusted or not known or not unchanged(entry.receipt, found):
        return State.HASH
    return State.HELD


def _stat(path: str) -> stat_result | None:
    try:
        return lstat(path)
    except OSError:
        return None


class HeldCheck:
    """One look at what is held of a plan.

    Parameters
    ----------
    files : FileStore
        The cache's files.
    manifest : Manifest
        What is recorded.
    level : {"stat", "hash", "none"}
        How to check.
    fixed_paths : bool
        Whether a file must be where the plan says; else it is held wherever it was recorded.
    look_only : bool, default False
        Whether nothing may be written: a file that has to be copied counts as held where it is.
    """

    def __init__(
        self,
        files: FileStore,
        manifest: Manifest,
        level: VerifyLevel,
        *,
        fixed_paths: bool,
        look_only: bool = False,
    ) -> None:
        self._files = files
        self._manifest = manifest
        self._level = level
        self._fixed_paths = fixed_paths and not look_only
        self.report = HeldReport()

    def run(self, requests: Requests, positions: Sequence[int]) -> Iterator[Finding]:
        """Yield the files that are held; blocking."""
        with ThreadPoolExecutor(HASH_THREADS, thread_name_prefix="framefetch-hash") as pool:
            for start in range(0, len(positions), LOOKUP_ROWS):
                block = [requests[position] for position in positions[start : start + LOOKUP_ROWS]]
                doubtful: list[tuple[Request, Entry | None]] = []
                yield from self._by_stat(block, doubtful)
                yield from filter(None, pool.map(self._by_hash, doubtful))

    def _by_stat(self, block: Sequence[Request], doubtful: list[tuple[Request, Entry | None]]) -> Iterator[Finding]:
        known: dict[str, list[Entry]] = {}
        for entry in self._manifest.lookup(block[0].version, [request.key for request in block]):
            known.setdefault(entry.key, []).append(entry)
        occupied: list[Request] = []
        for request in block:
            entries = known.get(request.key)
            if entries is None:
                if _stat(self._files.absolute(request.path)) is not None:
                    occupied.append(request)
                continue
            entry = self._chosen(request, entries)
            state = judge(request, entry, _stat(self._files.absolute(entry.path)), self._level)
            if entry.path == request.path:
                self.report.ours.add(entry.path) if state is not State.HELD else None
            if state is State.HASH or (state is State.HELD and self._fixed_paths and entry.path != request.path):
                doubtful.append((request, entry))
            elif state is State.HELD:
                yield Finding(request.index, entry.path, entry.receipt)
        self._judge_occupied(occupied, doubtful)

    def _judge_occupied(self, occupied: Sequence[Request], doubtful: list[tuple[Request, Entry | None]]) -> None:
        """Look at files nobody asked this key for: adopt by digest, or leave to the key that holds them."""
        if not occupied:
            return
        owners = self._manifest.owners([request.path for request in occupied])
        for request in occupied:
            if request.digests:
                doubtful.append((request, None))
            elif request.path in owners:
                self.report.blocked[request.index] = TargetBlocked(
                    f"{request.path} is held for another URL, {owners[request.path]}; "
                    "use another version, or a path template that tells them apart"
                )

    @staticmethod
    def _chosen(request: Request, entries: Iterable[Entry]) -> Entry:
        """Prefer the entry at the planned path, else take the newest."""
        return max(entries, key=lambda entry: (entry.path == request.path, entry.fetched_at))

    def _by_hash(self, case: tuple[Request, Entry | None]) -> Finding | None:
        request, entry = case
        stated = request.digests
        recorded = () if entry is None else entry.receipt.digests
        path = request.path if entry is None else entry.path
        algorithms = dict.fromkeys(["md5", *(digest.algorithm for digest in (*recorded, *stated))])
        try:
            before = lstat(self._files.absolute(path))
            if not stat.S_ISREG(before.st_mode):
                return None
            digests = self._files.hash(path, algorithms)
            if any(digest not in digests for digest in stated):
                return None
            if any(digest not in digests for digest in recorded):
                self._warn_changed(path, recorded, digests)
                return None
            receipt = self._files.receipt(path, digests, Verified.NONE)
        except OSError:
            return None
        if receipt.mtime_ns != before.st_mtime_ns or (request.size is not None and receipt.size != request.size):
            return None  # changed while it was read, or stated otherwise
        return self._refreshed(request, entry, path, receipt)

    def _warn_changed(self, path: str, recorded: Sequence[object], found: Sequence[object]) -> None:
        self.report.warnings.append(
            f"checksum changed: {path} is recorded with {recorded[0]} and has {found[0]}; it is fetched anew"
        )

    def _refreshed(self, request: Request, entry: Entry | None, path: str, receipt: Receipt) -> Finding:
        """Return a finding whose entry the manifest must learn; at another fixed path the file is copied there."""
        level = Verified.NONE if entry is None else entry.receipt.verified
        level = Verified.DIGEST if request.digests else level
        etag = None if entry is None else entry.receipt.etag
        receipt = replace(receipt, verified=level, etag=etag)
        if self._fixed_paths and path != request.path:
            receipt = replace(self._files.copy(path, request), verified=level, etag=etag)
            path = request.path
        fetched_at = time.time() if entry is None else entry.fetched_at
        return Finding(request.index, path, receipt, Entry(request.version, request.key, path, receipt, fetched_at))
