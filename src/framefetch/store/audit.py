"""Does the manifest tell the truth? Every entry against its file, and every file against the entries."""

from __future__ import annotations

import os
import re
import stat
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from framefetch.store.held import unchanged

if TYPE_CHECKING:
    from collections.abc import Iterator

    from framefetch.models import Entry
    from framefetch.store.files import FileStore
    from framefetch.store.manifest import Manifest

__all__ = ["AuditFinding", "Holdings", "audit", "count_holdings"]

HASH_THREADS = 2
_SET_ASIDE = re.compile(r"\.kept-[0-9]+$")

#: missing: no file; blocked: no regular file; changed: another size or time; corrupt: another digest;
#: unknown: a file below a version's folder that no entry explains.
Kind = Literal["missing", "blocked", "changed", "corrupt", "unknown"]


@dataclass(frozen=True, slots=True)
class AuditFinding:
    """Something that is not as the manifest says."""

    kind: Kind
    path: str
    detail: str


@dataclass(frozen=True, slots=True)
class Holdings:
    """What a manifest holds: files and bytes by version, and how they were verified."""

    files: int
    bytes: int
    versions: dict[str, int]
    verified: dict[str, int]
    not_durable: int


def count_holdings(manifest: Manifest) -> Holdings:
    """Count the entries; looks at no file."""
    versions: dict[str, int] = {}
    verified: dict[str, int] = {}
    files = size = fresh = 0
    for entry in manifest.entries():
        files += 1
        size += entry.receipt.size
        fresh += not entry.durable
        versions[entry.version] = versions.get(entry.version, 0) + 1
        verified[entry.receipt.verified] = verified.get(entry.receipt.verified, 0) + 1
    return Holdings(files, size, versions, verified, fresh)


def audit(files: FileStore, manifest: Manifest, *, level: Literal["stat", "hash"]) -> Iterator[AuditFinding]:
    """Compare the manifest with the disk.

    Parameters
    ----------
    files : FileStore
        The cache's files.
    manifest : Manifest
        What is recorded.
    level : {"stat", "hash"}
        Whether sizes and times are compared, or every byte is read.

    Yields
    ------
    AuditFinding
        One for each thing that is not as recorded.
    """
    explained: set[str] = set()
    versions: set[str] = set()

    def look(entry: Entry) -> AuditFinding | None:
        return _compare(files, entry, level)

    with ThreadPoolExecutor(HASH_THREADS, thread_name_prefix="framefetch-audit") as pool:
        block: list[Entry] = []
        for entry in manifest.entries():
            explained.add(entry.path)
            versions.add(entry.path.partition("/")[0])
            block.append(entry)
            if len(block) == 1024:
                yield from filter(None, pool.map(look, block))
                block.clear()
        yield from filter(None, pool.map(look, block))
    for version in sorted(versions):
        yield from _unexplained(files.root, version, explained)


def _compare(files: FileStore, entry: Entry, level: Literal["stat", "hash"]) -> AuditFinding | None:
    recorded = entry.receipt
    try:
        found = os.lstat(files.absolute(entry.path))
    except OSError as error:
        return AuditFinding("missing", entry.path, error.strerror or str(error))
    if not stat.S_ISREG(found.st_mode):
        what = "a link" if stat.S_ISLNK(found.st_mode) else "a folder" if stat.S_ISDIR(found.st_mode) else "no file"
        return AuditFinding("blocked", entry.path, f"{what} stands in its place")
    if found.st_size != recorded.size:
        return AuditFinding("changed", entry.path, f"recorded with {recorded.size:,} bytes, has {found.st_size:,}")
    if level == "stat":
        if unchanged(recorded, found):
            return None
        return AuditFinding("changed", entry.path, "its times differ from those recorded; --hash reads its bytes")
    try:
        digests = files.hash(entry.path, [digest.algorithm for digest in recorded.digests])
    except OSError as error:
        return AuditFinding("corrupt", entry.path, f"cannot be read: {error.strerror or error}")
    if digests != recorded.digests:
        return AuditFinding("corrupt", entry.path, f"recorded with {recorded.digests[0]}, has {digests[0]}")
    return None


def _unexplained(root: str, version: str, explained: set[str]) -> Iterator[AuditFinding]:
    for folder, folders, names in os.walk(os.path.join(root, version)):
        folders.sort()
        below = os.path.relpath(folder, root).replace(os.sep, "/")
        for name in sorted(names):
            path = f"{below}/{name}"
            if path not in explained and not _SET_ASIDE.search(name):
                yield AuditFinding("unknown", path, "no entry of the manifest explains it")
