"""The same content once: a digest that is held already needs no request and, if asked for, no second place on the disk.

Bytes are shared by a reflink where the file system can: the two files then are as separate as copies. Elsewhere it is a
hard link: one file with two names, which whoever edits it in place edits under both; the next check finds that, by its
times. A new name changes the ctime of a file, so the rows of all its names are written again.
"""

from __future__ import annotations

import contextlib
import os
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from framefetch.errors import FramefetchError, StorageError
from framefetch.models import Entry, Receipt, Request, Verified
from framefetch.store.digesting import OPEN_NEW
from framefetch.store.held import unchanged
from framefetch.store.places import Content, inode_of, remove, sight_of, translate_oserror
from framefetch.store.symlinks import FoldersSeen

try:
    import fcntl
except ImportError:  # Windows
    _CLONES = False
else:
    _CLONES = True

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from framefetch.models import Requests
    from framefetch.store.files import FileStore
    from framefetch.store.manifest import Manifest

__all__ = ["SameContent"]

#: Files whose digests are looked for at once: each time all rows of the manifest are read.
BLOCK_ROWS: Final = 1 << 17
#: The request "share all bytes of that file" of Linux (ioctl_ficlone(2)).
_FICLONE: Final = 0x40049409


class _Group:
    """Entries of one digest, and the inodes that have got one more name here, which changes their ctime."""

    def __init__(self) -> None:
        self.entries: list[Entry] = []
        self.linked: set[int] = set()


class SameContent:
    """What of a plan is held already under another name.

    Parameters
    ----------
    files : FileStore
        The cache's files.
    manifest : Manifest
        Open for writing.
    share : bool
        Whether bytes are shared; else they are copied.
    stopped : callable
        Whether to end; asked between two files.
    """

    def __init__(self, files: FileStore, manifest: Manifest, *, share: bool, stopped: Callable[[], bool]) -> None:
        self._files = files
        self._manifest = manifest
        self._share = share
        self._stopped = stopped
        self._folders = FoldersSeen(files.root)

    def provide(self, requests: Requests, wanted: Sequence[int]) -> Iterator[tuple[int, Receipt]]:
        """Make those of some files whose stated digest is held elsewhere, without a request; blocking.

        Yields
        ------
        file : int
            Its position in the plan.
        receipt : Receipt
            What is now there; its row is handed to the manifest.
        """
        for start in range(0, len(wanted), BLOCK_ROWS) if self._manifest.holds_any() else ():
            yield from self._provide(requests, wanted[start : start + BLOCK_ROWS])

    def _provide(self, requests: Requests, wanted: Sequence[int]) -> Iterator[tuple[int, Receipt]]:
        stated = {file: digests for file, *_, digests in requests.stated_of(wanted) if digests}
        groups = self._groups({text for digests in stated.values() for text in digests}) if stated else {}
        for file, digests in stated.items() if groups else ():
            if self._stopped():
                break
            group = next((groups[text] for text in digests if text in groups), None)
            entry = None if group is None else self._made(group, requests[file])
            if entry is not None:
                self._manifest.commit([entry], made=True)
                yield file, entry.receipt
        self._refresh(groups)

    def share(self, requests: Requests, fetched: Iterable[tuple[int, str]]) -> None:
        """Let fetched files share their bytes with others of the same content; blocking.

        Parameters
        ----------
        requests : Requests
            The plan.
        fetched : iterable of (int, str)
            Files that were downloaded and recorded, with their md5.
        """
        fresh = {requests.path(file): f"md5:{md5}" for file, md5 in fetched}
        groups = self._groups(set(fresh.values()))
        for group in groups.values():
            # What was there longest stays; what is not fresh and has bytes of its own was left so.
            group.entries.sort(key=lambda entry: (entry.path in fresh, entry.fetched_at, entry.path))
            for at, entry in enumerate(group.entries):
                if self._stopped():
                    break
                if entry.path in fresh and entry.receipt.size and (moved := self._moved(group, entry)):
                    group.entries[at] = moved
                    self._manifest.commit([moved], made=True)
        self._refresh(groups)

    # -- one file -----------------------------------------------------------------------------------------------

    def _made(self, group: _Group, request: Request) -> Entry | None:
        """Make a file from one of its group; None where that cannot be, and it is to be fetched."""
        for twin in group.entries:
            if twin.path == request.path or not self._is_intact(group, twin):
                continue
            try:
                # Bytes are shared only where all that the table states is on record; else they are read.
                if self._share and set(request.digests) <= set(twin.receipt.digests):
                    receipt = self._linked(group, twin, replace(request, digests=twin.receipt.digests))
                else:
                    receipt = self._files.copy(twin.path, request)
            except FramefetchError as error:
                if error.fatal:
                    raise
                continue
            receipt = replace(receipt, verified=Verified.DIGEST)
            entry = Entry(request.version, request.key, request.path, receipt, time.time())
            group.entries.append(entry)
            return entry
        return None

    def _moved(self, group: _Group, entry: Entry) -> Entry | None:
        """Put shared bytes in the place of a file's own; None where it keeps them."""
        first = group.entries[0]
        apart = first.path != entry.path and first.receipt.inode != entry.receipt.inode
        same = first.receipt.digests == entry.receipt.digests
        if not apart or not same or not all(self._is_intact(group, one) for one in (first, entry)):
            return None
        request = Request(0, entry.version, entry.key, (), entry.path, entry.receipt.size, entry.receipt.digests)
        self._files.own(entry.path, entry.receipt.sight)
        try:
            receipt = self._linked(group, first, request)
        except FramefetchError:
            return None
        return replace(entry, receipt=replace(receipt, verified=entry.receipt.verified, etag=entry.receipt.etag))

    def _linked(self, group: _Group, twin: Entry, request: Request) -> Receipt:
        source, part = self._files.absolute(twin.path), self._files.new_path()
        try:
            if not _clone(source, part):
                os.link(source, part, follow_symlinks=False)
                group.linked.add(inode_of(os.lstat(part)))
            if sight_of(os.lstat(source))[1:] == (twin.receipt.size, twin.receipt.mtime_ns):
                return self._files.put(
                    part, request, Content(twin.receipt.size, twin.receipt.digests, Verified.DIGEST, twin.receipt.etag)
                )
        except OSError as error:
            remove(part)
            raise translate_oserror(error, f"sharing the bytes of {twin.path}") from error
        remove(part)
        raise StorageError(f"{twin.path} was changed while its bytes were being shared")

    def _is_intact(self, group: _Group, entry: Entry) -> bool:
        """Return whether a stat says that a file is as it was recorded; its ctime may be of our own making."""
        try:
            found = os.lstat(self._files.absolute(entry.path))
        except OSError:
            return False
        if not entry.trusted or self._folders.link_above(entry.path):
            return False
        if inode_of(found) in group.linked:
            return sight_of(found)[1:] == (entry.receipt.size, entry.receipt.mtime_ns)
        return unchanged(entry.receipt, found)

    # -- rows ---------------------------------------------------------------------------------------------------

    def _groups(self, digests: set[str]) -> Mapping[str, _Group]:
        groups: dict[str, _Group] = {}
        for entry in self._manifest.with_digests(digests):
            for digest in map(str, entry.receipt.digests):
                if digest in digests:
                    groups.setdefault(digest, _Group()).entries.append(entry)
        return groups

    def _refresh(self, groups: Mapping[str, _Group]) -> None:
        """Record the ctime that new names gave to files."""
        for group in groups.values():
            for entry in group.entries if group.linked else ():
                old = entry.receipt
                with contextlib.suppress(OSError):
                    new = self._files.receipt(entry.path, old.digests, old.verified, old.etag)
                    same = (new.inode, new.size, new.mtime_ns) == (old.inode, old.size, old.mtime_ns)
                    if same and new.ctime_ns != old.ctime_ns and entry.trusted:
                        self._manifest.commit([replace(entry, receipt=new)])


def _clone(source: str, part: str) -> bool:
    """Make a file that shares its bytes with another until either is changed; False where that cannot be."""
    if not _CLONES:
        return False
    old = os.open(source, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0))
    try:
        new = os.open(part, OPEN_NEW, 0o666)
        try:
            fcntl.ioctl(new, _FICLONE, old)
        except OSError:
            remove(part)
            return False
        finally:
            os.close(new)
    finally:
        os.close(old)
    return True
