"""Removes the files that no row of a table wants, and only files that the manifest owns and that are as it says.

The order makes a crash harmless: the intent goes to the journal, as if the files were about to be published; the rows
are removed and committed; then the files are. A process that dies in between leaves files whose rows the next one
brings back, by the journal and the hash, so that they can be pruned again. No row is left without its file.

A table that wants nothing of all that is held is rather the wrong one, or names its files otherwise by now, and it
would empty the cache: so that is refused.

But for one case. On a full disk there is no room for an intent, nor to change a row, and to make room is what this is
for. There files go before their rows, one at a time and each judged just then, until there is room to go on in the
order above, which removes their rows. A process that dies in between leaves rows whose files are missing: `verify`
says so, and the next prune removes them. So it is where all that could go makes too little room.

To judge many files takes a while, hours where they are hashed. So each is looked at once more before it goes: what
somebody has edited meanwhile, or another process has fetched anew, is not what was judged, nor is what is reached
through a link by then. Where the pruning itself is interrupted, what still stands gets its row back.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final, TypeAlias

from framefetch.errors import DiskFull, ManifestError, PlanError
from framefetch.models import Request
from framefetch.store.audit import AuditFinding, compare, in_blocks
from framefetch.store.held import unchanged
from framefetch.store.kept import kept_parts
from framefetch.store.places import free_inodes, remove, translate_oserror
from framefetch.store.symlinks import FoldersSeen

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Sequence

    from framefetch.models import Entry
    from framefetch.store.audit import Kind, Watch
    from framefetch.store.folder import CacheFolder
    from framefetch.store.journal import Intent

__all__ = ["PruneReport", "prune"]

#: An entry whose file may go, and what was seen of the file before it was judged.
_Doomed: TypeAlias = "tuple[Entry, os.stat_result | None]"

#: Bytes, and files, that intents, the manifest's log and what lies beside them may take until there is room for more.
ROOM: Final = 32 << 20
ROOM_FILES: Final = 16

_BEHIND_A_LINK: Final = "a link stands on the way to it; nothing is removed through one"


@dataclass(slots=True)
class PruneReport:
    """What was removed, or in a dry run would be.

    Attributes
    ----------
    removed : list of str
        Paths of files.
    bytes : int
        How much room they took; what hard links share is counted for each.
    kept : int
        Entries that the table wants.
    parts : int
        Unfinished files that were removed.
    left : list of AuditFinding
        Files that nobody wants and that were left alone, because they are not as recorded.
    """

    removed: list[str] = field(default_factory=list)
    bytes: int = 0
    kept: int = 0
    parts: int = 0
    left: list[AuditFinding] = field(default_factory=list)


def prune(
    folder: CacheFolder, version: str, wanted: Collection[str], *, dry_run: bool, watch: Watch | None = None
) -> PruneReport:
    """Remove the files of one version that nobody wants; blocking.

    Parameters
    ----------
    folder : CacheFolder
        The cache.
    version : str
        Files of other versions are not looked at.
    wanted : collection of str
        The keys to keep.
    dry_run : bool
        Whether to say only what would be done.
    watch : callable, optional
        Told of each file that is not wanted.

    Raises
    ------
    PlanError
        Where something is held and nothing of it is wanted.
    StorageError, ManifestError
        Where nothing can be removed.
    """
    _require_some_wanted(folder, version, wanted)
    report = PruneReport()
    _remove_parts(folder, report, version, wanted, dry_run=dry_run)  # which needs no room, and no row to be changed
    ready = not dry_run and _make_ready(folder, report, version, wanted)
    pruning = _Pruning(folder, report, version, wanted)
    for block in in_blocks(pruning.unwanted()):
        doomed, aliases = pruning.judge(block)
        gone = [entry for entry, _ in doomed] if dry_run else []  # else what of them could go may have gone already
        if ready:
            folder.manifest.forget(aliases)
            gone = pruning.remove(doomed)
        report.removed += [entry.path for entry in gone]
        report.bytes += sum(entry.receipt.size for entry in gone)
        if watch is not None:
            for entry in block:
                watch(entry.receipt.size)
    return report


def _require_some_wanted(folder: CacheFolder, version: str, wanted: Collection[str]) -> None:
    files = unfinished = 0
    for files, entry in enumerate(folder.manifest.entries(version), start=1):  # noqa: B007 - counted to the end
        if entry.key in wanted:
            return
    for _, part_version, key, *_ in kept_parts(folder.files):
        if part_version == version:
            if key in wanted:
                return
            unfinished += 1
    if files or unfinished:
        raise PlanError(
            f"expected a table that names some of the {files + unfinished:,} files of version {version} in "
            f"{folder.root}, got one that names none of them; nothing is removed. Is it the table they were fetched "
            "for, with the same version (--version) and key column (--key-column)? Where a server has another name "
            "now, keep the table's old URLs and mirror with a host_map (--host-map OLD=NEW). If all of them are to "
            f"go, delete the folder {folder.root}/{version} and rebuild"
        )


def _remove_parts(
    folder: CacheFolder, report: PruneReport, version: str, wanted: Collection[str], *, dry_run: bool
) -> None:
    for part, part_version, key, _, found in kept_parts(folder.files):
        if part_version == version and key not in wanted:
            report.parts += 1
            report.bytes += found.st_size
            if not dry_run:
                remove(part)
                remove(f"{part}.json")


def _make_ready(folder: CacheFolder, report: PruneReport, version: str, wanted: Collection[str]) -> bool:
    """Return whether rows can be changed now; on a full disk files go before theirs, but no more than it takes.

    Raises
    ------
    StorageError, ManifestError
        Where they cannot, and nothing could be removed either.
    """
    if isinstance(folder.obstacle, DiskFull | None):
        if not _has_room(folder):
            _remove_ahead(folder, report, version, wanted)
        folder.try_again()
        if folder.obstacle is not None and report.removed:
            return False
    folder.prepare()
    return True


def _remove_ahead(folder: CacheFolder, report: PruneReport, version: str, wanted: Collection[str]) -> None:
    # What is left alone is told by whoever looks at these entries once more, to remove their rows.
    pruning = _Pruning(folder, PruneReport(), version, wanted)
    for entry in pruning.unwanted():
        doomed, _ = pruning.judge([entry])
        if doomed and pruning.remove_ahead(*doomed[0]):
            report.removed.append(entry.path)
            report.bytes += entry.receipt.size
            if _has_room(folder):
                break


def _has_room(folder: CacheFolder) -> bool:
    usage, inodes = shutil.disk_usage(folder.root), free_inodes(folder.root)
    return (usage.free >= ROOM or not usage.total) and (inodes is None or inodes >= ROOM_FILES)


class _Pruning:
    """One pruning."""

    def __init__(self, folder: CacheFolder, report: PruneReport, version: str, wanted: Collection[str]) -> None:
        self._folder = folder
        self._report = report
        self._version = version
        self._wanted = wanted
        #: Inodes that have lost a name, which changes their ctime.
        self._thinned: set[int] = set()

    def unwanted(self) -> Iterator[Entry]:
        """Yield the entries that no row asks for."""
        for entry in self._folder.manifest.entries(self._version):
            if entry.key in self._wanted:
                self._report.kept += 1
            else:
                yield entry

    def judge(self, block: Sequence[Entry]) -> tuple[list[_Doomed], list[Entry]]:
        """Return the entries whose files may go, and those whose files are also somebody else's; report the others."""
        others = {
            entry.path
            for entry in self._folder.manifest.at([entry.path for entry in block])
            if entry.version != self._version or entry.key in self._wanted
        }
        doomed = []
        for entry in block:
            if entry.path in others:
                continue
            seen = self._look(entry)
            finding = self._objection(entry)
            if finding is None:
                doomed.append((entry, seen))
            else:
                self._report.left.append(finding)
        return doomed, [entry for entry in block if entry.path in others]

    def _objection(self, entry: Entry) -> AuditFinding | None:
        """Return why a file must be left alone: whatever is not as recorded may be somebody's work."""
        if self._is_behind_link(entry):
            return AuditFinding("blocked", entry.path, _BEHIND_A_LINK)
        finding = compare(self._folder.files, entry, "stat" if entry.trusted else "hash")
        if finding is not None and finding.kind == "changed":
            finding = compare(self._folder.files, entry, "hash")  # its times may differ, and its bytes be the same
        return None if finding is None or finding.kind == "missing" else finding

    def _look(self, entry: Entry) -> os.stat_result | None:
        try:
            return os.lstat(self._folder.files.absolute(entry.path))
        except (OSError, ValueError):  # a name that this locale cannot have is another's
            return None

    def _is_behind_link(self, entry: Entry) -> bool:
        return FoldersSeen(self._folder.root).link_above(entry.path) is not None  # asked anew: it may have come since

    def remove(self, doomed: Sequence[_Doomed]) -> list[Entry]:
        """Remove the rows, then the files; return those that are gone."""
        manifest = self._folder.manifest
        entries = [entry for entry, _ in doomed]
        try:
            self._folder.journal.intend([_intent(entry) for entry in entries])
        except OSError as error:
            raise translate_oserror(error, "writing the journal") from error
        try:
            manifest.forget(entries)
            manifest.flush()
            gone = self._remove_files(doomed)
            manifest.flush()
        except BaseException:
            self._bring_back(doomed)
            raise
        return gone

    def _remove_files(self, doomed: Sequence[_Doomed]) -> list[Entry]:
        gone, linked = [], []
        for entry, seen in doomed:
            path = self._folder.files.absolute(entry.path)
            try:
                if self._is_behind_link(entry):
                    self._leave(entry, "blocked", _BEHIND_A_LINK)
                    continue
                found = os.lstat(path)
                if not self._is_as_judged(found, seen):
                    self._leave(entry, "changed", "it was changed or replaced while it was being looked at")
                    continue
                os.unlink(path)
            except FileNotFoundError:
                continue
            except OSError as error:
                self._leave(entry, "blocked", f"cannot be removed: {error.strerror or error}")
                continue
            gone.append(entry)
            self._thinned.add(found.st_ino)
            if found.st_nlink > 1 and unchanged(entry.receipt, found):
                linked.append(entry)
        self._refresh(linked)
        return gone

    def _leave(self, entry: Entry, kind: Kind, reason: str) -> None:
        """Leave a file, with its row."""
        self._report.left.append(AuditFinding(kind, entry.path, reason))
        self._record_again(entry)

    def _record_again(self, entry: Entry) -> None:
        """Give an entry its row back, where nobody else has recorded the file anew meanwhile."""
        by_now = self._folder.manifest.lookup(entry.version, [entry.key])
        if all(other.path != entry.path for other in by_now):
            self._folder.manifest.commit([entry])

    def _bring_back(self, doomed: Sequence[_Doomed]) -> None:
        """Give the files that still stand their rows back; those that cannot be recorded now are at the next chance."""
        as_judged: list[Entry] = []
        others: list[Entry] = []
        for entry, seen in doomed:
            with contextlib.suppress(OSError):
                found = os.lstat(self._folder.files.absolute(entry.path))
                (as_judged if self._is_as_judged(found, seen) else others).append(entry)
        with contextlib.suppress(ManifestError):
            self._folder.manifest.commit(as_judged)
        for entry in others:
            with contextlib.suppress(ManifestError):
                self._record_again(entry)

    def remove_ahead(self, entry: Entry, seen: os.stat_result | None) -> bool:
        """Remove a file that was just judged, and leave its row; return whether it is gone.

        One of several names is left: to remove it makes no room, and changes what is recorded of the others.
        """
        path = self._folder.files.absolute(entry.path)
        try:
            found = os.lstat(path)
            if self._is_behind_link(entry) or found.st_nlink > 1 or not self._is_as_judged(found, seen):
                return False
            os.unlink(path)
        except OSError:
            return False
        return True

    def _is_as_judged(self, found: os.stat_result, seen: os.stat_result | None) -> bool:
        if seen is None or _bytes_of(found) != _bytes_of(seen):
            return False
        return found.st_ctime_ns == seen.st_ctime_ns or found.st_ino in self._thinned

    def _refresh(self, linked: Sequence[Entry]) -> None:
        """Record the ctime of files that shared their bytes with a removed one: one name less changes it."""
        files, manifest = self._folder.files, self._folder.manifest
        before = {(entry.receipt.inode, entry.receipt.ctime_ns) for entry in linked}
        digests = {str(digest) for entry in linked for digest in entry.receipt.digests}
        for entry in list(manifest.with_digests(digests)) if linked else ():
            old = entry.receipt
            with contextlib.suppress(OSError):
                new = files.receipt(entry.path, old.digests, old.verified, old.etag)
                if (old.inode, old.ctime_ns) in before and replace(new, ctime_ns=old.ctime_ns) == old:
                    manifest.commit([replace(entry, receipt=new)])


def _bytes_of(found: os.stat_result) -> tuple[int, ...]:
    return found.st_mode, found.st_ino, found.st_size, found.st_mtime_ns


def _intent(entry: Entry) -> Intent:
    receipt = entry.receipt
    return Request(0, entry.version, entry.key, (), entry.path), receipt.digests, receipt.verified, receipt.etag
