"""Do we hold it? The ladder from a stat to a hash to a download, for many files at once.

The rules, for a file that the manifest knows:

- size and mtime as recorded, and on the same inode ctime too (an edit that puts mtime back still changes ctime):
  held, for the cost of a stat;
- anything else is hashed: the recorded digest refreshes the row, another one means that the file was changed behind
  the manifest's back, and it is fetched anew;
- a digest stated by the table that is not the recorded one makes the entry stale; one of an algorithm that is not
  recorded yet is computed;
- an entry that is not durable and was written before the last start of the machine is hashed;
- what was hashed and could not be recorded, in a cache that cannot be written, is noted: it is not hashed again for as
  long as the cache is open and a stat says the same.

A file that the manifest does not know is adopted where the table states its digest and it matches. A file that is
held for another key is never replaced, and a folder at a file's place never either: such a row is blocked, before
anything is asked of the server. So is one whose place is behind a link that stands where a folder belongs.
"""

from __future__ import annotations

import stat
import time
from dataclasses import dataclass, field, replace
from enum import Enum, auto
from functools import cache
from os import lstat, stat_result
from typing import TYPE_CHECKING

from framefetch.errors import FramefetchError, TargetBlocked, UnsafePath
from framefetch.models import Entry, Receipt, Request, Verified
from framefetch.native.calls import stat_of
from framefetch.store.places import held_for, inode_of, sight_of
from framefetch.store.symlinks import FoldersSeen
from framefetch.threads import Threads

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Sequence

    from framefetch.models import Requests
    from framefetch.options import VerifyLevel
    from framefetch.store.files import FileStore
    from framefetch.store.manifest import Manifest
    from framefetch.store.places import Sight

__all__ = ["Finding", "HeldCheck", "HeldReport", "State", "judge", "may_be_another", "unchanged"]

LOOKUP_ROWS = 4096
HASH_THREADS = 4


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

    ``ours`` are paths at which what was seen may be replaced, with what that was, if anything; ``blocked`` says why a
    file cannot stand at its path, ``warnings`` are for the caller, ``read`` counts the files that are held as their
    bytes say.
    """

    ours: dict[str, Sight | None] = field(default_factory=dict)
    blocked: dict[int, FramefetchError] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    read: int = 0


def unchanged(recorded: Receipt, found: stat_result) -> bool:
    """Return whether a stat says that a file is as it was recorded."""
    mode, size, mtime_ns, ctime_ns, _ = stat_of(found)
    if size != recorded.size or mtime_ns != recorded.mtime_ns or not stat.S_ISREG(mode):
        return False
    # Another inode is a copy of the folder, whose ctime says nothing; but see `may_be_another`.
    return inode_of(found) != recorded.inode or ctime_ns == recorded.ctime_ns


def may_be_another(recorded: Receipt, found: stat_result, twins: Callable[[], Collection[tuple[int, int]]]) -> bool:
    """Return whether what a stat finds unchanged may have changed places with another file of its size and time.

    Files that are written within one tick of the clock have one time. Where the inode is as recorded, it tells.
    """
    return inode_of(found) != recorded.inode and (recorded.size, recorded.mtime_ns) in twins()


def judge(request: Request, entry: Entry, found: stat_result | None, level: VerifyLevel) -> State:
    """Decide what to do about one entry; a pure function of what is recorded, found and asked for."""
    known = True
    if request.digests and request.digests != entry.receipt.digests:
        recorded = {digest.algorithm: digest for digest in entry.receipt.digests}
        if any(recorded.get(stated.algorithm, stated) != stated for stated in request.digests):
            return State.STALE
        known = all(stated.algorithm in recorded for stated in request.digests)
    if request.size is not None and request.size != entry.receipt.size:
        return State.STALE
    if level == "none":
        return State.HELD
    if found is None or not stat.S_ISREG(found.st_mode):
        return State.MISSING
    if level == "hash" or not entry.trusted or not known or not unchanged(entry.receipt, found):
        return State.HASH
    return State.HELD


def _as_recorded(request: Request, entry: Entry) -> Finding:
    """Return that a file is held as recorded; a digest that is stated by now, and is the recorded one, counts."""
    receipt = entry.receipt
    if receipt.verified is Verified.DIGEST or not request.digests or not {*request.digests} <= {*receipt.digests}:
        return Finding(request.index, entry.path, receipt)
    receipt = replace(receipt, verified=Verified.DIGEST)
    return Finding(request.index, entry.path, receipt, replace(entry, receipt=receipt))


def _stat(path: str) -> stat_result | None:
    try:
        return lstat(path)
    except (OSError, ValueError):  # of another locale, in whose names there are letters that this one's cannot have
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
        Whether nothing may be written: a file that would be copied to its path counts as held.
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
        self._fixed_paths = fixed_paths
        self._look_only = look_only
        self._folders = FoldersSeen(files.root)
        self._twins = cache(manifest.twins)
        self.report = HeldReport()

    def run(self, requests: Requests, positions: Sequence[int]) -> Iterator[Finding]:
        """Yield the files that are held; blocking."""
        if not len(positions) or self._is_new(requests[positions[0]].version):
            return
        with Threads(HASH_THREADS, "framefetch-hash") as pool:
            for start in range(0, len(positions), LOOKUP_ROWS):
                block = [requests[position] for position in positions[start : start + LOOKUP_ROWS]]
                doubtful: list[_Doubt] = []
                yield from self._by_stat(block, doubtful)
                yield from self._as_noted(doubtful)
                for finding in filter(None, pool.map(self._settle, doubtful)):
                    self.report.read += 1
                    yield finding

    def _is_new(self, version: str) -> bool:
        """Return whether nothing of a version can be here: then a million rows need not be looked for one by one."""
        return not self._manifest.knows_version(version) and _stat(self._files.absolute(version)) is None

    def _by_stat(self, block: Sequence[Request], doubtful: list[_Doubt]) -> Iterator[Finding]:
        known: dict[str, list[Entry]] = {}
        for entry in self._manifest.lookup(block[0].version, [request.key for request in block]):
            known.setdefault(entry.key, []).append(entry)
        away: list[_Doubt] = []
        for request in block:
            entries = known.get(request.key)
            if entries is None:
                away.append(_Doubt(request))
                continue
            entry = self._chosen(request, entries)
            found = self._found(entry.path)
            state = judge(request, entry, found, self._level)
            if state is State.HELD and self._level != "none" and found is not None:
                state = State.HASH if may_be_another(entry.receipt, found, self._twins) else state
            here = entry.path == request.path
            if state is State.HELD and (here or not self._fixed_paths):
                yield _as_recorded(request, entry)
            elif not here:
                known_there = entry if state in (State.HELD, State.HASH) else None
                away.append(_Doubt(request, known_there, plain=state is State.HELD))
            elif not self._is_blocked(request, found):
                self.report.ours[request.path] = None if found is None else sight_of(found)
                if state is State.HASH:
                    doubtful.append(_Doubt(request, entry))
                elif state is State.STALE and not entry.trusted and request.digests:
                    doubtful.append(_Doubt(request))  # what is wrong may be the entry
        for doubt in self._judge_away(away):
            if self._look_only and doubt.plain and doubt.entry is not None:
                yield _as_recorded(doubt.request, doubt.entry)
            else:
                doubtful.append(doubt)

    def _as_noted(self, doubtful: list[_Doubt]) -> Iterator[Finding]:
        """Take those out of the doubtful that were read before, when that could not be recorded, and are as they were.

        They are still for the manifest to learn.
        """
        noted, left = self._manifest.noted, []
        for doubt in doubtful if noted else ():
            before = noted.get(doubt.request.path if doubt.entry is None else doubt.entry.path)
            if before is None or not self._is_as_noted(doubt, before):
                left.append(doubt)
                continue
            finding = _as_recorded(doubt.request, before)
            yield replace(finding, entry=finding.entry or before)
        if noted:
            doubtful[:] = left

    def _is_as_noted(self, doubt: _Doubt, before: Entry) -> bool:
        """Return whether a file is known to be held by what was noted when it was read before."""
        request, recorded = doubt.request, () if doubt.entry is None else doubt.entry.receipt.digests
        if before.key != request.key or doubt.owner is not None or not {*recorded} <= {*before.receipt.digests}:
            return False  # another process has recorded something else since
        if before.path != request.path and self._fixed_paths and not self._look_only:
            return False  # it is to be copied
        found = self._found(before.path)
        same = found is not None and sight_of(found) == before.receipt.sight
        return same and judge(request, before, found, self._level) is State.HELD

    def _judge_away(self, away: Sequence[_Doubt]) -> Iterator[_Doubt]:
        """Look at the planned paths of files that are not recorded there: what stands there may be somebody's."""
        occupied: dict[str, Sight] = {}
        for doubt in away:
            found = self._found(doubt.request.path)
            if not self._is_blocked(doubt.request, found) and found is not None:
                occupied[doubt.request.path] = sight_of(found)
        owners = self._manifest.owners(list(occupied)) if occupied else {}
        for doubt in away:
            request, owner = doubt.request, owners.get(doubt.request.path)
            if request.index in self.report.blocked:
                continue
            if owner == request.key:
                # Recorded by another process, between two looks of ours.
                self.report.ours[request.path] = occupied[request.path]
                continue
            if doubt.entry is not None and (owner is None or not self._fixed_paths):
                yield replace(doubt, owner=owner)
            elif request.path in occupied and request.digests:
                yield _Doubt(request, owner=owner)
            elif owner is not None:
                self._block(request, held_for(request.path, owner))

    def _found(self, path: str) -> stat_result | None:
        """Return what a stat says of a file of the cache; what is behind a link is none."""
        return None if self._folders.link_above(path) else _stat(self._files.absolute(path))

    def _is_blocked(self, request: Request, found: stat_result | None) -> bool:
        """Return, and report, whether no file can stand at a planned path, where that was found."""
        try:
            self._folders.require_none_above(request.path)
        except UnsafePath as error:
            self._block(request, error)
            return True
        if found is None or not stat.S_ISDIR(found.st_mode):
            return False
        self._block(request, TargetBlocked(f"a folder stands at {request.path}; move it away and run again"))
        return True

    def _block(self, request: Request, error: FramefetchError) -> None:
        self.report.blocked[request.index] = error

    @staticmethod
    def _chosen(request: Request, entries: Sequence[Entry]) -> Entry:
        """Prefer the entry at the planned path, else take the newest."""
        if len(entries) == 1:
            return entries[0]
        return max(entries, key=lambda entry: (entry.path == request.path, entry.fetched_at))

    def _settle(self, doubt: _Doubt) -> Finding | None:
        """Hash a file; where it is not held, say whether it may be fetched to its path."""
        try:
            finding = self._by_hash(doubt.request, doubt.entry)
        except FramefetchError as error:
            if error.fatal:
                raise
            if isinstance(error, TargetBlocked | UnsafePath):
                self._block(doubt.request, error)
            return None
        if finding is None and doubt.owner is not None:
            self._block(doubt.request, held_for(doubt.request.path, doubt.owner))
        return finding

    def _by_hash(self, request: Request, entry: Entry | None) -> Finding | None:
        stated = request.digests
        recorded = () if entry is None else entry.receipt.digests
        path = request.path if entry is None else entry.path
        algorithms = dict.fromkeys(["md5", *(digest.algorithm for digest in (*recorded, *stated))])
        if self._folders.link_above(path):
            return None
        try:
            before = lstat(self._files.absolute(path))
            if not stat.S_ISREG(before.st_mode):
                return None
            digests = self._files.hash(path, algorithms)
            if any(digest not in digests for digest in recorded):
                self._warn_changed(path, recorded, digests)
                return None
            if any(digest not in digests for digest in stated):
                return None
            receipt = self._files.receipt(path, digests, Verified.NONE)
        except OSError:
            return None
        if receipt.inode != inode_of(before) or not unchanged(receipt, before):
            return None  # changed while it was read
        if request.size is not None and receipt.size != request.size:
            return None
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
        if self._fixed_paths and path != request.path and not self._look_only:
            receipt = self._files.copy(path, replace(request, digests=receipt.digests))
            path = request.path
        receipt = replace(receipt, verified=level, etag=etag)
        fetched_at = time.time() if entry is None else entry.fetched_at
        found = Entry(request.version, request.key, path, receipt, fetched_at)
        if entry is not None and path != entry.path:
            self._manifest.commit([found], made=True)  # at once: whoever is stopped drops what was found
            return Finding(request.index, path, receipt)
        return Finding(request.index, path, receipt, found)


@dataclass(frozen=True, slots=True)
class _Doubt:
    """A file that a stat cannot settle: its entry, if it has one, and the other key that holds its path.

    It is `plain` where a stat says that it is held, and only its path is another one.
    """

    request: Request
    entry: Entry | None = None
    owner: str | None = None
    plain: bool = False
