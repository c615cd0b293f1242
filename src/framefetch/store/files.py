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
import contextlib
import io
import itertools
import os
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from aiofiles.threadpool import wrap

from framefetch.errors import DigestMismatch, FramefetchError, ResourceChanged, StorageError, UnsafePath
from framefetch.models import Digest, Entry, Receipt, Request, Verified
from framefetch.store.digests import Hasher, algorithms_for, hash_file
from framefetch.store.places import Content, Places, remove, translate_oserror

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Sequence

    from aiofiles.threadpool.binary import AsyncFileIO

    from framefetch.store.journal import Journal

__all__ = ["PRIVATE", "FileStore", "Part", "SmallBody", "verdict"]

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
        self.hasher = Hasher(algorithms)
        super().__init__(os.open(path, _OPEN_NEW, 0o666), "wb")

    def write(self, block: bytes | bytearray | memoryview) -> int:  # type: ignore[override]
        """Write and digest the whole block, however many calls that takes."""
        view = memoryview(block)
        while view:
            view = view[super().write(view) or 0 :]
        self.hasher.update(block)
        return len(block)


async def _to_the_end(work: Awaitable[T]) -> T:
    """Wait for what a thread does; a cancellation is told only when the thread has let go of its file.

    Else the file would be closed under a write, whose bytes could land in whatever file gets the same descriptor
    next.
    """
    task = asyncio.ensure_future(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        while not task.done():
            with contextlib.suppress(asyncio.CancelledError):  # a second one changes nothing; the first is raised
                await asyncio.wait([task])
        if not task.cancelled():
            task.exception()
        raise


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
            await _to_the_end(self._file.write(block))
        except OSError as error:
            raise translate_oserror(error, f"writing {self._request.path}") from error

    async def publish(self, *, length_known: bool, etag: str | None) -> Receipt:
        """Compare, rename to the final name, and return what is now there.

        Raises
        ------
        DigestMismatch, ResourceChanged
            Where the bytes are not those the table states; the part is dropped.
        StorageError
            Where the disk refuses; the part is dropped.
        """
        work = asyncio.ensure_future(self._store.run(self._publish, length_known, etag))
        try:
            return await _to_the_end(work)
        except asyncio.CancelledError:
            if not work.cancelled() and work.exception() is None:
                # Nobody waits for the receipt any more, but the file is there, and it is ours.
                self._store.report_orphan(self._request, work.result())
            raise

    def _publish(self, length_known: bool, etag: str | None) -> Receipt:  # noqa: FBT001 - crosses to a thread
        try:
            hasher = self._raw.hasher
            digests = hasher.digests()
            verified = verdict(self._request, hasher.length, digests, length_known=length_known)
            self._raw.close()  # a full disk or quota may show itself only here
            return self._store.put(self._path, self._request, Content(hasher.length, digests, verified, etag))
        except OSError as error:
            self._discard()
            raise translate_oserror(error, f"publishing {self._request.path}") from error
        except BaseException:
            self._discard()
            raise

    async def discard(self) -> None:
        """Remove the part; does nothing once it is published."""
        await self._store.run(self._discard)

    def _discard(self) -> None:
        with contextlib.suppress(OSError):  # why the file failed is already under way; this must not hide it
            self._raw.close()
        remove(self._path)


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
        #: Called, in the loop's thread, with a file that was published for a call which had been cancelled by then.
        self.orphaned: Callable[[Entry], None] | None = None
        self._places = Places(root)
        self._journal = journal
        self._parts = os.path.join(root, PRIVATE, "parts")
        self._numbers = itertools.count(1)
        self._executor = ThreadPoolExecutor(threads, thread_name_prefix="framefetch-disk")

    @property
    def notices(self) -> list[str]:
        """Messages about files that were found in the way and set aside."""
        return self._places.notices

    def prepare(self) -> None:
        """Make the private folders, and prove that a file can be written, before anything is fetched.

        Raises
        ------
        StorageError
            Where the cache cannot be written.
        """
        self._places.forget_folders()
        probe = self._new_path()
        try:
            self._places.ensure_folder(f"{PRIVATE}/parts")
            os.close(os.open(probe, _OPEN_NEW, 0o666))
            os.unlink(probe)
        except UnsafePath as error:
            failure = StorageError(str(error))
            failure.fatal = True
            raise failure from error
        except OSError as error:
            remove(probe)
            failure = translate_oserror(error, f"writing to the cache {self.root}")
            failure.fatal = True
            raise failure from error

    def own(self, path: str) -> None:
        """Let the file at this path be replaced: the manifest knows it as ours."""
        self._places.own(path)

    async def run(self, function: Callable[..., T], *arguments: object) -> T:
        """Run a blocking function in a thread of the store, to its end even where the caller is cancelled."""
        loop = asyncio.get_running_loop()
        return await _to_the_end(loop.run_in_executor(self._executor, function, *arguments))

    async def create(self, request: Request) -> Part:
        """Open a new part file for one request.

        Raises
        ------
        StorageError
            Where the disk refuses.
        """
        path = self._new_path()
        work = asyncio.ensure_future(self.run(_DigestingFile, path, algorithms_for(request.digests)))
        try:
            raw = await _to_the_end(work)
        except OSError as error:
            raise translate_oserror(error, f"opening a part for {request.path}") from error
        except asyncio.CancelledError:
            if not work.cancelled() and work.exception() is None:
                work.result().close()
                remove(path)
            raise
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
        results: dict[int, Receipt | FramefetchError] = {}
        ready: dict[int, tuple[str, Content]] = {}
        for at, small in enumerate(bodies):
            try:
                ready[at] = self._write_small(small)
            except (OSError, FramefetchError) as error:
                results[at] = _ours(error, f"writing {small.request.path}")
        try:
            self._journal.intend(
                [
                    (bodies[at].request, content.digests, content.verified, content.etag)
                    for at, (_, content) in ready.items()
                ]
            )
        except OSError as error:
            failure = translate_oserror(error, "writing the journal")
            for at, (part, _) in ready.items():
                remove(part)
                results[at] = failure
            ready = {}
        for at, (part, content) in ready.items():
            path = bodies[at].request.path
            try:
                results[at] = self._places.move_in(part, path, content)
            except (OSError, FramefetchError) as error:
                remove(part)
                results[at] = _ours(error, f"publishing {path}")
        return [results[at] for at in range(len(bodies))]

    def _write_small(self, small: SmallBody) -> tuple[str, Content]:
        hasher = Hasher(algorithms_for(small.request.digests))
        hasher.update(small.body)
        digests = hasher.digests()
        verified = verdict(small.request, len(small.body), digests, length_known=small.length_known)
        part = self._new_path()
        handle = os.open(part, _OPEN_NEW, 0o666)
        try:
            try:
                view = memoryview(small.body)
                while view:
                    view = view[os.write(handle, view) :]
            finally:
                os.close(handle)  # a full disk or quota may show itself only here
        except BaseException:
            remove(part)
            raise
        return part, Content(len(small.body), digests, verified, small.etag)

    def put(self, part: str, request: Request, content: Content) -> Receipt:
        """Publish a finished part of this store; blocking."""
        self._journal.intend([(request, content.digests, content.verified, content.etag)])
        return self._places.move_in(part, request.path, content)

    def copy(self, source: str, request: Request) -> Receipt:
        """Make a second file of one that is held, reading it once; blocking.

        Raises
        ------
        StorageError, UnsafePath, DigestMismatch, ResourceChanged
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
            return self.put(part, request, Content(new.hasher.length, digests, verified))
        except OSError as error:
            remove(part)
            raise translate_oserror(error, f"copying {source}") from error
        except BaseException:
            remove(part)
            raise

    def report_orphan(self, request: Request, receipt: Receipt) -> None:
        """Tell of a file that was published for a call which had been cancelled by then."""
        self.own(request.path)
        if self.orphaned is not None:
            self.orphaned(Entry(request.version, request.key, request.path, receipt, time.time()))

    def absolute(self, path: str) -> str:
        """Return the absolute path of a relative one."""
        return self._places.absolute(path)

    def receipt(self, path: str, digests: tuple[Digest, ...], verified: Verified, etag: str | None = None) -> Receipt:
        """Describe the regular file at a path.

        Raises
        ------
        OSError
            Where there is none.
        """
        return self._places.receipt(path, digests, verified, etag)

    def hash(self, path: str, algorithms: Iterable[str]) -> tuple[Digest, ...]:
        """Digest the file at a path."""
        return hash_file(self.absolute(path), algorithms)

    def _new_path(self) -> str:
        return f"{self._parts}/{self._journal.token}-{next(self._numbers):x}"

    def close(self) -> None:
        """End the threads."""
        self._executor.shutdown(wait=True)


def _ours(error: OSError | FramefetchError, doing: str) -> FramefetchError:
    """Return an error as one of ours; one that is already is returned as it is."""
    return error if isinstance(error, FramefetchError) else translate_oserror(error, doing)
