"""Part files and how they become files: write, digest, compare, publish.

Bytes of an unfinished file live in ``.framefetch/parts`` under a short private name, never under a final one. The
order at the end is fixed: the digest is compared, the intent is written to the journal, the part is renamed. Only
then may a row of the manifest say that the file is held. A process that dies between the last two leaves a file
that its journal explains; the next run adopts it by hash (see `framefetch.store.recovery`).

The engine talks to `FileStore` from its loop. All work on the disk is done in a few threads, one hop for a block of
about a mebibyte, and one hop for *all* small files that finished in the meantime: a hop each for open, write and
close would cost more than the files.
"""

from __future__ import annotations

import asyncio
import errno
import io
import os
import stat
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from aiofiles.threadpool import wrap

from framefetch.errors import (
    DigestMismatch,
    DiskFull,
    FramefetchError,
    ResourceChanged,
    StorageError,
    TargetBlocked,
    UnsafePath,
)
from framefetch.models import Digest, Receipt, Request, Verified
from framefetch.store.digests import Hasher, algorithms_for, hash_file

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from aiofiles.threadpool.binary import AsyncFileIO

    from framefetch.store.journal import Journal

__all__ = ["PRIVATE", "FileStore", "Part", "SmallBody", "translate_oserror", "verdict"]

T = TypeVar("T")

#: Where everything lives that is not the user's.
PRIVATE = ".framefetch"

_OPEN_NEW = (
    os.O_WRONLY
    | os.O_CREAT
    | os.O_EXCL
    | getattr(os, "O_NOFOLLOW", 0)
    | getattr(os, "O_CLOEXEC", 0)
    | getattr(os, "O_BINARY", 0)
)


def translate_oserror(error: OSError, doing: str) -> StorageError:
    """Return an operating system's error as one of ours, saying what was being done."""
    name = errno.errorcode.get(error.errno or 0, "")
    reason = f"{error.strerror or error} ({name})" if name else str(error)
    if error.errno in DiskFull.CODES:
        return DiskFull(f"{doing}: {reason}; free some space and run the same command again")
    failure = StorageError(f"{doing}: {reason}")
    failure.fatal = error.errno in (errno.EROFS, errno.EACCES, errno.EPERM)
    failure.retryable = error.errno in (errno.EMFILE, errno.ENFILE, errno.EINTR, errno.EAGAIN)
    return failure


def verdict(request: Request, size: int, digests: Sequence[Digest], *, length_known: bool) -> Verified:
    """Compare what came with what the table states.

    Raises
    ------
    ResourceChanged
        Where the size differs.
    DigestMismatch
        Where a digest differs.
    """
    if request.size is not None and size != request.size:
        raise ResourceChanged(
            f"expected {request.size:,} bytes as the table states, got {size:,}; is the table out of date?"
        )
    if not request.digests:
        return Verified.LENGTH if length_known or request.size is not None else Verified.NONE
    got = {digest.algorithm: digest for digest in digests}
    for stated in request.digests:
        if got[stated.algorithm] != stated:
            raise DigestMismatch(f"expected {stated}, got {got[stated.algorithm]} in {size:,} bytes")
    return Verified.DIGEST


@dataclass(frozen=True, slots=True)
class SmallBody:
    """A whole body that fits in memory, on its way to the disk."""

    request: Request
    body: bytes
    length_known: bool
    etag: str | None = None


class _DigestingFile(io.FileIO):
    """A new file that digests what is written to it: one hop to a thread does both."""

    def __init__(self, path: str, algorithms: Iterable[str]) -> None:
        super().__init__(os.open(path, _OPEN_NEW, 0o666), "wb")
        self.hasher = Hasher(algorithms)

    def write(self, block: bytes | bytearray | memoryview) -> int:  # type: ignore[override]
        """Write and digest the whole block, however many calls that takes."""
        view = memoryview(block)
        while view:
            view = view[super().write(view) or 0 :]
        self.hasher.update(block)
        return len(block)


class Part:
    """The part file of one attempt; its bytes are digested as they are written."""

    def __init__(self, store: FileStore, request: Request, path: str, file: AsyncFileIO, raw: _DigestingFile) -> None:
        self._store = store
        self._request = request
        self._path = path
        self._file = file
        self._raw = raw

    async def write(self, block: bytes | bytearray | memoryview) -> None:
        """Append a block.

        Raises
        ------
        StorageError
            Where the disk refuses it.
        """
        try:
            await self._file.write(block)
        except OSError as error:
            raise translate_oserror(error, f"writing {self._request.path}") from error

    async def publish(self, *, length_known: bool, etag: str | None) -> Receipt:
        """Compare, rename to the final name, and return what is now there.

        Raises
        ------
        DigestMismatch, ResourceChanged
            Where the bytes are not those the table states; the part is dropped.
        StorageError
            Where the disk refuses.
        """
        return await self._store.run(self._publish, length_known, etag)

    def _publish(self, length_known: bool, etag: str | None) -> Receipt:  # noqa: FBT001 - crosses to a thread
        hasher = self._raw.hasher
        digests = hasher.digests()
        verified = verdict(self._request, hasher.length, digests, length_known=length_known)
        try:
            self._raw.close()  # a full disk or quota may show itself only here
            return self._store.put(self._path, self._request, digests, verified, etag)
        except StorageError:
            raise
        except OSError as error:
            raise translate_oserror(error, f"publishing {self._request.path}") from error

    async def discard(self) -> None:
        """Remove the part; does nothing once it is published."""
        await self._store.run(self._discard)

    def _discard(self) -> None:
        for step in (self._raw.close, lambda: os.unlink(self._path)):
            try:
                step()
            except FileNotFoundError:
                pass
            except OSError:
                # The reason why the file failed is already under way; this must not hide it.
                continue


class FileStore:
    """The files below one cache folder.

    Parameters
    ----------
    root : str
        Absolute path of the cache; the only link that is followed is the root itself.
    journal : Journal
        Where intents are written before a rename.
    threads : int, default 4
        Threads that write and digest.
    """

    def __init__(self, root: str, journal: Journal, threads: int = 4) -> None:
        self.root = root
        self._journal = journal
        self._parts = os.path.join(root, PRIVATE, "parts")
        self._token = journal.token
        self._count = 0
        self._executor = ThreadPoolExecutor(threads, thread_name_prefix="framefetch-disk")
        self._folders: set[str] = set()
        self._ours: set[str] = set()
        #: Messages about files that were found in the way and set aside.
        self.notices: list[str] = []

    def prepare(self) -> None:
        """Make the private folders, and prove that a file can be written, before anything is fetched.

        Raises
        ------
        StorageError
            Where the cache cannot be written.
        """
        try:
            self._ensure_folder(f"{PRIVATE}/parts")
            probe = self._new_path()
            os.close(os.open(probe, _OPEN_NEW, 0o666))
            os.unlink(probe)
        except OSError as error:
            failure = (
                error
                if isinstance(error, StorageError)
                else translate_oserror(error, f"writing to the cache {self.root}")
            )
            failure.fatal = True
            raise failure from error

    def own(self, path: str) -> None:
        """Let the file at this path be replaced: the manifest knows it as ours."""
        self._ours.add(path)

    async def run(self, function: Callable[..., T], *arguments: object) -> T:
        """Run a blocking function in a thread of the store."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._executor, function, *arguments)

    async def create(self, request: Request) -> Part:
        """Open a new part file for one request."""
        path = self._new_path()
        try:
            raw = await self.run(_DigestingFile, path, algorithms_for(request.digests))
        except OSError as error:
            raise translate_oserror(error, f"opening a part for {request.path}") from error
        return Part(self, request, path, wrap(raw, executor=self._executor), raw)

    async def save(self, bodies: Sequence[SmallBody]) -> list[Receipt | FramefetchError]:
        """Write, digest, compare and publish whole small bodies in one hop.

        Returns
        -------
        list
            For each body its receipt, or why it could not be kept.
        """
        return await self.run(self._save, bodies)

    def _save(self, bodies: Sequence[SmallBody]) -> list[Receipt | FramefetchError]:
        results: list[Receipt | FramefetchError | None] = [None] * len(bodies)
        ready: list[tuple[int, str, tuple[Digest, ...], Verified]] = []
        for at, small in enumerate(bodies):
            try:
                ready.append((at, *self._write_small(small)))
            except FramefetchError as error:
                results[at] = error
            except OSError as error:
                results[at] = translate_oserror(error, f"writing {small.request.path}")
        try:
            self._journal.intend(
                [(bodies[at].request, digests, verified, bodies[at].etag) for at, _, digests, verified in ready]
            )
        except OSError as error:
            failure = translate_oserror(error, "writing the journal")
            return [failure if result is None else result for result in results]
        for at, part, digests, verified in ready:
            try:
                results[at] = self._rename(part, bodies[at].request.path, digests, verified, bodies[at].etag)
            except FramefetchError as error:
                results[at] = error
            except OSError as error:
                results[at] = translate_oserror(error, f"publishing {bodies[at].request.path}")
        return [result for result in results if result is not None]

    def _write_small(self, small: SmallBody) -> tuple[str, tuple[Digest, ...], Verified]:
        hasher = Hasher(algorithms_for(small.request.digests))
        hasher.update(small.body)
        digests = hasher.digests()
        verified = verdict(small.request, len(small.body), digests, length_known=small.length_known)
        part = self._new_path()
        handle = os.open(part, _OPEN_NEW, 0o666)
        try:
            view = memoryview(small.body)
            while view:
                view = view[os.write(handle, view) :]
        except OSError:
            os.close(handle)
            os.unlink(part)
            raise
        os.close(handle)
        return part, digests, verified

    def put(
        self, part: str, request: Request, digests: tuple[Digest, ...], verified: Verified, etag: str | None
    ) -> Receipt:
        """Publish a finished part of this store; blocking."""
        self._journal.intend([(request, digests, verified, etag)])
        return self._rename(part, request.path, digests, verified, etag)

    def copy(self, source: str, request: Request) -> Receipt:
        """Make a second file of one that is held, reading it once; blocking.

        Raises
        ------
        StorageError, DigestMismatch
            Where it cannot be read or written, or is not what the table states.
        """
        part = self._new_path()
        try:
            with (
                open(os.path.join(self.root, source), "rb") as old,
                _DigestingFile(part, algorithms_for(request.digests)) as new,
            ):
                while block := old.read(1 << 20):
                    new.write(block)
            digests = new.hasher.digests()
            verified = verdict(request, new.hasher.length, digests, length_known=True)
            return self.put(part, request, digests, verified, None)
        except StorageError:
            raise
        except OSError as error:
            raise translate_oserror(error, f"copying {source}") from error

    def absolute(self, path: str) -> str:
        """Return the absolute path of a relative one."""
        return f"{self.root}/{path}"

    def receipt(self, path: str, digests: tuple[Digest, ...], verified: Verified, etag: str | None = None) -> Receipt:
        """Describe the regular file at a path.

        Raises
        ------
        OSError
            Where there is none.
        """
        found = os.lstat(self.absolute(path))
        if not stat.S_ISREG(found.st_mode):
            raise TargetBlocked(f"{path} is not a file any more")
        return Receipt(found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino, digests, verified, etag)

    def hash(self, path: str, algorithms: Iterable[str]) -> tuple[Digest, ...]:
        """Digest the file at a path."""
        return hash_file(self.absolute(path), algorithms)

    def _rename(
        self, part: str, path: str, digests: tuple[Digest, ...], verified: Verified, etag: str | None
    ) -> Receipt:
        target = self.absolute(path)
        self._ensure_folder(path.rpartition("/")[0])
        self._make_way(path, target)
        try:
            os.replace(part, target)
        except IsADirectoryError as error:
            raise TargetBlocked(f"a folder stands at {path}; move it away and run again") from error
        return self.receipt(path, digests, verified, etag)

    def _make_way(self, path: str, target: str) -> None:
        """Set a file aside that stands at the target and is not ours; a link is replaced, a folder is left alone."""
        try:
            found = os.lstat(target)
        except FileNotFoundError:
            return
        if stat.S_ISDIR(found.st_mode):
            raise TargetBlocked(f"a folder stands at {path}; move it away and run again")
        if path in self._ours or not stat.S_ISREG(found.st_mode):
            return
        for number in range(1, 1000):
            kept = f"{target}.kept-{number}"
            try:
                os.link(target, kept)  # unlike a rename it never overwrites, and the name is never vacant
            except FileExistsError:
                continue
            except OSError:
                if os.path.lexists(kept):
                    continue
                os.rename(target, kept)
            self.notices.append(
                f"{path} was there before and is not in the manifest; it was kept as {path}.kept-{number}"
            )
            return
        raise TargetBlocked(f"{path} is in the way, and so are 999 files kept from it")

    def _ensure_folder(self, folder: str) -> None:
        """Make a folder below the root; no part of its path may be a link."""
        if folder in self._folders or not folder:
            return
        self._ensure_folder(folder.rpartition("/")[0])
        path = self.absolute(folder)
        try:
            found = os.lstat(path)
        except FileNotFoundError:
            os.makedirs(self.root, exist_ok=True)
            try:
                os.mkdir(path)
            except FileExistsError:
                found = os.lstat(path)
            else:
                found = None
        if found is not None and not stat.S_ISDIR(found.st_mode):
            what = "a link" if stat.S_ISLNK(found.st_mode) else "a file"
            raise UnsafePath(
                f"{what} stands at {folder}, where a folder of the cache belongs; nothing is written through it"
            )
        self._folders.add(folder)

    def _new_path(self) -> str:
        self._count += 1
        return f"{self._parts}/{self._token}-{self._count:x}"

    def close(self) -> None:
        """End the threads."""
        self._executor.shutdown(wait=True)
