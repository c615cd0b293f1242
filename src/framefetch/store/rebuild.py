"""Makes the manifest true to the files: every file that something explains is read, and believed as far as it is right.

What is explained by an entry is read and recorded as it is now; an entry whose file is gone or other bytes is
forgotten. Then whatever else may explain a file is asked: the table, a prototype's ``manifest.json``, manifests that
were set aside. Journals of dead processes were asked when the folder was opened. Everything is done in the manifest
in use, a block at a time, so a process that is killed, or another one that fetches meanwhile, loses nothing.
"""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from framefetch.errors import ManifestError
from framefetch.models import Digest, Entry, Receipt, Verified
from framefetch.store.audit import AuditFinding, ReadingThreads, in_blocks, proved, top_folders, unexplained
from framefetch.store.changes import storable
from framefetch.store.exchange import read_layout
from framefetch.store.files import is_private
from framefetch.store.salvage import hint_sources, salvage
from framefetch.store.symlinks import FoldersSeen
from framefetch.urls import connection_url, redact

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from framefetch.models import Requests
    from framefetch.store.audit import Watch
    from framefetch.store.folder import CacheFolder

__all__ = ["RebuildReport", "rebuild"]


@dataclass(slots=True)
class RebuildReport:
    """What a manifest was rebuilt from.

    Attributes
    ----------
    held : int
        Entries whose files were read and are what the entries say.
    adopted : int
        Those of them that the manifest had not known.
    findings : list of AuditFinding
        Entries that were forgotten or whose files cannot be read, and files that nothing explains.
    """

    held: int = 0
    adopted: int = 0
    findings: list[AuditFinding] = field(default_factory=list)


def rebuild(
    folder: CacheFolder,
    requests: Requests | None,
    host_map: Mapping[str, str],
    *,
    watch: Watch | None = None,
) -> RebuildReport:
    """Rebuild the manifest of a cache from its files; blocking.

    Parameters
    ----------
    folder : CacheFolder
        The cache, writable.
    requests : Requests or None
        The files of a table: their digests tell which file is which, wherever it stands.
    host_map : mapping of str to str
        As given to the cache; a prototype's manifest names the hosts that were connected to.
    watch : callable, optional
        Told of each file that was read.

    Raises
    ------
    StorageError, ManifestError
        Where nothing can be recorded.
    """
    folder.prepare()
    if not folder.manifest.is_sound():
        folder.mend(folder.manifest)
    report = RebuildReport()
    with ReadingThreads() as threads:
        work = _Rebuilding(folder, threads, report, watch)
        work.recheck()
        work.adopt(_stated(requests))
        older = os.path.join(folder.root, "manifest.json")
        if os.path.isfile(older):
            work.adopt(_of_prototype(older, folder.root, host_map))
        for source in hint_sources(folder.manifest.path)[:-1]:
            work.adopt(_of_hints(source))
        work.find_by_content(requests)
    folder.manifest.flush()
    return report


class _Rebuilding:
    """One rebuilding."""

    def __init__(
        self, folder: CacheFolder, threads: ReadingThreads, report: RebuildReport, watch: Watch | None
    ) -> None:
        self._folder = folder
        self._manifest = folder.manifest
        self._folders = FoldersSeen(folder.root)
        self._threads = threads
        self._report = report
        self._watch = watch

    def recheck(self) -> None:
        """Read the file of every entry; record it as it is, or forget the entry."""
        for block in in_blocks(self._manifest.entries()):
            changed, wrong = [], []
            for entry, found in zip(block, self._proved(block), strict=True):
                if isinstance(found, AuditFinding):
                    self._report.findings.append(found)
                    if found.kind != "blocked":  # what cannot be read today may be right tomorrow
                        wrong.append(entry)
                    continue
                self._report.held += 1
                if not entry.trusted or found.receipt != entry.receipt:
                    changed.append(found)
            self._manifest.commit(changed)
            self._manifest.forget(wrong)
            self._manifest.flush()

    def adopt(self, claims: Iterator[Entry]) -> None:
        """Read files that no entry explains and something else does; what is wrong with a mere claim is no finding."""
        there = (claim for claim in claims if _is_file(self._folder.files.absolute(claim.path)))
        for block in in_blocks(there):
            owned = self._manifest.owners([claim.path for claim in block])
            open_claims = [claim for claim in block if claim.path not in owned]
            self._take([found for found in self._proved(open_claims) if isinstance(found, Entry)])

    def find_by_content(self, requests: Requests | None) -> None:
        """Look through the files that are still unexplained for those that a table states the digest of."""
        by_digest = _by_digest(requests)
        for block in in_blocks(self._unexplained()):
            claims = list(block)
            if requests is not None and by_digest:
                claims = list(self._threads.map(lambda entry: self._recognised(entry, by_digest, requests), block))
            # They are judged side by side: of two of one key that nobody held yet the first is believed.
            first = {(claim.version, claim.key): claim for claim in reversed(claims) if claim.key}
            self._take(list(first.values()))
            for claim in claims:
                if first.get((claim.version, claim.key)) is not claim:
                    detail = "neither an entry, nor the table, nor an older manifest explains it"
                    self._report.findings.append(AuditFinding("unknown", claim.path, detail))

    def _take(self, found: Sequence[Entry]) -> None:
        unique = {entry.path: entry for entry in reversed(found)}  # of two claims on one file the first is believed
        self._manifest.commit(list(unique.values()))
        self._manifest.flush()
        self._report.held += len(unique)
        self._report.adopted += len(unique)
        self._report.findings = [
            finding for finding in self._report.findings if finding.path not in unique
        ]  # forgotten under one key, and held under another

    def _proved(self, entries: Sequence[Entry]) -> Iterator[Entry | AuditFinding]:
        for entry, found in zip(entries, self._threads.map(self._prove, entries), strict=True):
            if self._watch is not None:
                self._watch(max(0, entry.receipt.size))
            yield found

    def _prove(self, entry: Entry) -> Entry | AuditFinding:
        return proved(self._folder.files, self._folders, entry, self._threads.stopped)

    def _unexplained(self) -> Iterator[Entry]:
        """Yield files that no entry explains, as entries without a key; report folders that are links."""
        explained: set[str] = set()
        tops = top_folders(self._folder.root)
        for entry in self._manifest.entries():
            explained.add(entry.path)
            tops.add(entry.path.partition("/")[0])
        tops |= {finding.path.partition("/")[0] for finding in self._report.findings}
        reported = {finding.path for finding in self._report.findings}
        for top in sorted(tops):
            for finding in unexplained(self._folder.root, top, explained | reported):
                if finding.kind == "unknown":
                    yield _claim("", "", finding.path, ())
                else:
                    self._report.findings.append(finding)

    def _recognised(self, unknown: Entry, by_digest: Mapping[str, int], requests: Requests) -> Entry:
        """Return an entry for a file whose content a table states, else the file as it was."""
        if storable(unknown.path) != unknown.path:
            return unknown  # its row would name another path
        if not _is_file(self._folder.files.absolute(unknown.path)):
            return unknown  # to open a pipe would wait for ever
        algorithms = dict.fromkeys(["md5", *(text.partition(":")[0] for text in by_digest)])
        try:
            digests = self._folder.files.hash(unknown.path, algorithms, self._threads.stopped)
        except OSError:
            return unknown
        position = next((by_digest[text] for text in map(str, digests) if text in by_digest), None)
        if position is None or self._manifest.lookup(requests.version, [requests.keys[position]]):
            return unknown
        found = self._prove(_claim(requests.version, requests.keys[position], unknown.path, digests))
        return found if isinstance(found, Entry) else unknown


def _claim(version: str, key: str, path: str, digests: tuple[Digest, ...]) -> Entry:
    """Return what something says of a file that is still to be read."""
    return Entry(version, key, path, Receipt(-1, 0, 0, 0, digests, Verified.DIGEST), 0.0)


def _is_file(path: str) -> bool:
    try:
        return stat.S_ISREG(os.lstat(path).st_mode)
    except (OSError, ValueError):
        return False


def _stated(requests: Requests | None) -> Iterator[Entry]:
    """Yield what a table states digests of, at the places where it wants them."""
    if requests is None:
        return
    for _, key, path, _, digests in requests.stated_of(range(len(requests))):
        if digests:
            yield _claim(requests.version, key, path, tuple(Digest(*text.split(":", 1)) for text in digests))


def _by_digest(requests: Requests | None) -> dict[str, int]:
    if requests is None:
        return {}
    stated = requests.stated_of(range(len(requests)))
    return {text: position for position, *_, digests in stated for text in digests}


def _of_prototype(source: str, root: str, host_map: Mapping[str, str]) -> Iterator[Entry]:
    """Yield what a prototype's manifest says of files inside the cache."""
    back = {new: old for old, new in host_map.items()}
    try:
        layout = read_layout(source)
    except ManifestError:
        return  # it is no manifest: whatever it is, it explains nothing
    for stated in layout:
        path = os.path.relpath(os.path.join(root, stated.path), root).replace(os.sep, "/")
        try:
            stated.version.encode()  # a lone surrogate is in no version
            digest = Digest("md5", stated.md5.strip().lower())
        except ValueError:
            continue
        if path.partition("/")[0] not in ("..", ".") and not is_private(path):
            yield _claim(stated.version, redact(connection_url(stated.url, back)), path, (digest,))


def _of_hints(source: str) -> Iterator[Entry]:
    for version, key, path, *_, digests, verified, etag, fetched_at in salvage(source):
        stated = tuple(Digest(*text.split(":", 1)) for text in str(digests).split())
        receipt = Receipt(-1, 0, 0, 0, stated, Verified(verified), etag)
        yield Entry(version, key, path, receipt, fetched_at)
