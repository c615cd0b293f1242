"""Does the manifest tell the truth? Every entry against its file, and every file against the entries."""

from __future__ import annotations

import os
import re
import stat
import threading
import time
from dataclasses import dataclass, replace
from functools import cache
from typing import TYPE_CHECKING, Final, Literal, TypeAlias, TypeVar

from framefetch.errors import StorageError
from framefetch.store.held import may_be_another, unchanged
from framefetch.store.kept import is_overtaken, kept_parts
from framefetch.store.symlinks import FoldersSeen
from framefetch.threads import Threads

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Sequence
    from typing import Self

    from framefetch.models import Entry
    from framefetch.store.files import FileStore
    from framefetch.store.manifest import Manifest

__all__ = [
    "AuditFinding",
    "Holdings",
    "Kind",
    "ReadingThreads",
    "Watch",
    "audit",
    "behind_link",
    "compare",
    "count_holdings",
    "in_blocks",
    "proved",
    "top_folders",
    "unexplained",
]

#: Files that are read at once. Eight are digested in about the time of one, but more than this a disk does not like.
HASH_THREADS: Final = min(8, max(4, os.cpu_count() or 1))
BLOCK_ROWS: Final = 1024
#: Seconds by which a part is older than the newest file before nobody is expected to go on with it.
STALE_SECONDS: Final = 86_400.0
#: Times that a file is read which something changes meanwhile, if only its mode, as a backup or `chmod` does.
READINGS: Final = 3
#: Said of a file whose size is the recorded one.
_OTHER_TIMES: Final = (
    "its times differ from those recorded, which chmod, chown and a link change, too; --hash reads its bytes, "
    "as the next mirror does, which records the new times"
)
_SET_ASIDE: Final = re.compile(r"\.kept-[0-9]+$")

#: missing: no file; blocked: no regular file, none that can be looked at now, or behind a link;
#: changed: another size or time; corrupt: another digest;
#: unknown: a file below a version's folder that no entry explains; part: an unfinished file nobody goes on with.
Kind = Literal["missing", "blocked", "changed", "corrupt", "unknown", "part"]
Level = Literal["stat", "hash"]
S = TypeVar("S")
T = TypeVar("T")
#: Told the recorded bytes of each file that was looked at.
Watch: TypeAlias = "Callable[[int], None]"


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


def audit(files: FileStore, manifest: Manifest, *, level: Level, watch: Watch | None = None) -> Iterator[AuditFinding]:
    """Compare the manifest with the disk.

    Parameters
    ----------
    files : FileStore
        The cache's files.
    manifest : Manifest
        What is recorded.
    level : {"stat", "hash"}
        Whether sizes and times are compared, or every byte is read.
    watch : callable, optional
        Told of each file.

    Yields
    ------
    AuditFinding
        One for each thing that is not as recorded.
    """
    explained: set[str] = set()
    newest = 0.0
    folders = FoldersSeen(files.root)
    twins = cache(manifest.twins)

    with ReadingThreads() as threads:

        def look(entry: Entry) -> AuditFinding | None:
            return behind_link(folders, entry) or compare(files, entry, level, threads.stopped, twins)

        for block in in_blocks(manifest.entries()):
            explained.update(entry.path for entry in block)
            newest = max(newest, *(entry.fetched_at for entry in block))
            for entry, finding in zip(block, threads.map(look, block), strict=True):
                if watch is not None:
                    watch(entry.receipt.size)
                if finding is not None:
                    yield finding
    tops = {path.partition("/")[0] for path in explained}
    for folder in sorted(tops | top_folders(files.root)):
        found = unexplained(files.root, folder, explained)
        yield from found if folder in tops else _as_one(folder, found)
    yield from _idle_parts(files, manifest, newest)


class ReadingThreads:
    """Threads that read files; whoever leaves them early, by an interrupt perhaps, does not wait for large ones."""

    def __init__(self) -> None:
        self._pool = Threads(HASH_THREADS, "framefetch-read")
        self._left = threading.Event()

    def map(self, function: Callable[[S], T], items: Sequence[S]) -> Iterator[T]:
        """Yield what a function gives for each item, in order."""
        return self._pool.map(function, items)

    def stopped(self) -> bool:
        """Return whether nobody waits for what is read any more."""
        return self._left.is_set()

    def __enter__(self) -> Self:
        """Return the threads."""
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """End them."""
        if kind is not None:
            self._left.set()
        self._pool.shutdown(cancel_futures=True)


def in_blocks(entries: Iterator[Entry]) -> Iterator[Sequence[Entry]]:
    """Yield entries some at a time."""
    block: list[Entry] = []
    for entry in entries:
        block.append(entry)
        if len(block) == BLOCK_ROWS:
            yield block
            block = []
    if block:
        yield block


def behind_link(folders: FoldersSeen, entry: Entry) -> AuditFinding | None:
    """Return what is wrong with an entry where a link stands in the place of a folder above its file."""
    link = folders.link_above(entry.path)
    if link is None:
        return None
    return AuditFinding("blocked", entry.path, f"a link stands at {link}; nothing is held behind one")


def compare(
    files: FileStore,
    entry: Entry,
    level: Level,
    stopped: Callable[[], bool] | None = None,
    twins: Callable[[], Collection[tuple[int, int]]] = frozenset,
) -> AuditFinding | None:
    """Look at the file of one entry; whether it stands behind a link is asked by `behind_link`."""
    recorded = entry.receipt
    try:
        found = os.lstat(files.absolute(entry.path))
    except (FileNotFoundError, NotADirectoryError) as error:
        return AuditFinding("missing", entry.path, error.strerror or str(error))
    except OSError as error:
        return AuditFinding("blocked", entry.path, f"cannot be looked at: {error.strerror or error}")
    except UnicodeEncodeError as error:
        reason = f"its name is not in {error.encoding}, the locale's; run with PYTHONUTF8=1 or in a UTF-8 locale"
        return AuditFinding("blocked", entry.path, f"cannot be looked at: {reason}")
    if not stat.S_ISREG(found.st_mode):
        what = "a link" if stat.S_ISLNK(found.st_mode) else "a folder" if stat.S_ISDIR(found.st_mode) else "no file"
        return AuditFinding("blocked", entry.path, f"{what} stands in its place")
    if found.st_size != recorded.size and recorded.size >= 0:
        return AuditFinding("changed", entry.path, f"recorded with {recorded.size:,} bytes, has {found.st_size:,}")
    if level == "stat":
        if not unchanged(recorded, found):
            return AuditFinding("changed", entry.path, _OTHER_TIMES)
        if not may_be_another(recorded, found, twins):
            return None
    try:
        digests = files.hash(entry.path, [digest.algorithm for digest in recorded.digests], stopped)
    except OSError as error:
        return AuditFinding("blocked", entry.path, f"cannot be read: {error.strerror or error}")
    for expected, got in zip(recorded.digests, digests, strict=True):
        if expected != got:
            return AuditFinding("corrupt", entry.path, f"recorded with {expected}, has {got}")
    return None


def proved(
    files: FileStore, folders: FoldersSeen, entry: Entry, stopped: Callable[[], bool] | None = None
) -> Entry | AuditFinding:
    """Read the file of an entry: return the entry as the file is now, or what is wrong with it."""
    if finding := behind_link(folders, entry):
        return finding
    recorded = entry.receipt
    for _ in range(READINGS):
        try:
            before = files.receipt(entry.path, recorded.digests, recorded.verified, recorded.etag)
        except (OSError, StorageError):
            before = None
        finding = compare(files, entry, "hash", stopped)
        if finding is not None or before is None:
            return finding or AuditFinding("blocked", entry.path, "no file stood in its place")
        try:
            after = files.receipt(entry.path, recorded.digests, recorded.verified, recorded.etag)
        except (OSError, StorageError) as error:
            return AuditFinding("blocked", entry.path, f"it was moved while it was read: {error}")
        if after == before:
            return replace(entry, receipt=after, fetched_at=entry.fetched_at or time.time())
    return AuditFinding("blocked", entry.path, f"it was changed each of the {READINGS} times that it was read")


def top_folders(root: str) -> set[str]:
    """Return the folders of a cache in which files of a version may stand."""
    with os.scandir(root) as found:
        return {entry.name for entry in found if entry.name[:1] != "." and entry.is_dir()}


def _as_one(folder: str, found: Iterator[AuditFinding]) -> Iterator[AuditFinding]:
    """Find a folder of which no entry explains anything: another version, or somebody's files, perhaps very many."""
    first = next(found, None)
    if first is not None and first.kind == "unknown":
        detail = f"no entry of the manifest explains {first.path}, or any other file in this folder"
        yield AuditFinding("unknown", folder, detail)
    elif first is not None:
        yield first


def unexplained(root: str, top: str, explained: set[str]) -> Iterator[AuditFinding]:
    """Find the files below a folder of the cache that no entry explains; what was set aside is no finding."""
    if os.path.islink(os.path.join(root, top)):
        if top not in explained:
            yield AuditFinding("blocked", top, "a link stands in the place of a folder; nothing is held behind one")
        return
    for folder, folders, names in os.walk(os.path.join(root, top)):
        folders.sort()
        below = os.path.relpath(folder, root).replace(os.sep, "/")
        links = [name for name in folders if os.path.islink(os.path.join(folder, name))]
        for name in sorted([*names, *links]):
            path = f"{below}/{name}"
            if path not in explained and not _SET_ASIDE.search(name):
                yield AuditFinding("unknown", path, "no entry of the manifest explains it")


def _idle_parts(files: FileStore, manifest: Manifest, newest: float) -> Iterator[AuditFinding]:
    """Find the parts of files that are held by now, or that later runs did not go on with."""
    for part, version, key, path, found in kept_parts(files):
        name = os.path.relpath(part, files.root).replace(os.sep, "/")
        what = f"{found.st_size:,} bytes of {key}, unfinished since {time.ctime(found.st_mtime)}"
        if is_overtaken(files, manifest, (version, key, path), found):
            yield AuditFinding("part", name, f"{what}; the file is held, so nobody goes on with it")
        elif found.st_mtime + STALE_SECONDS < newest:
            yield AuditFinding("part", name, f"{what}; runs since then did not go on with it")
