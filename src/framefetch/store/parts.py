"""One part file: written and digested block by block, then published, kept for later, or dropped."""

from __future__ import annotations

import asyncio
import contextlib
import io
import os
from dataclasses import replace
from typing import TYPE_CHECKING, Protocol, TypeVar

from framefetch.errors import DigestMismatch, ResourceChanged
from framefetch.models import Digest, Entity, Receipt, Request, Verified
from framefetch.store.digests import Hasher
from framefetch.store.places import Content, remove, translate_oserror
from framefetch.store.sidecar import Sidecar, write_sidecar

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from aiofiles.threadpool.binary import AsyncFileIO

__all__ = ["OPEN_NEW", "DigestingFile", "Part", "Workshop", "to_the_end", "verdict"]

T = TypeVar("T")

_FLAGS = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)
OPEN_NEW = os.O_RDWR | os.O_CREAT | os.O_EXCL | _FLAGS
OPEN_OLD = os.O_RDWR | getattr(os, "O_NONBLOCK", 0) | _FLAGS
#: Bytes after which a long part gets another proof: what a power cut can take from it.
PROVE_BYTES = 64 << 20


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


class DigestingFile(io.FileIO):
    """A part that digests what is written to it: one hop to a thread does both.

    Parameters
    ----------
    path : str
        The part.
    algorithms : sequence of str
        The digests to compute.
    flags : int
        How it is opened: `OPEN_NEW` for a new one, `OPEN_OLD` to go on with one.
    """

    def __init__(self, path: str, algorithms: Sequence[str], flags: int = OPEN_NEW) -> None:
        self.algorithms = tuple(algorithms)
        self.hasher = Hasher(algorithms)
        super().__init__(os.open(path, flags, 0o666), "r+b")

    def write(self, block: bytes | bytearray | memoryview) -> int:  # type: ignore[override]
        """Write and digest the whole block, however many calls that takes."""
        view = memoryview(block)
        while view:
            view = view[super().write(view) or 0 :]
        self.hasher.update(block)
        return len(block)

    def go_on(self, length: int, proofs: Sequence[tuple[int, str]]) -> None:
        """Read so many bytes again, keep them as far as the proofs hold, and write behind them."""
        self.seek(0)
        room = memoryview(bytearray(min(1 << 20, max(1, length))))
        good = self.hasher.copy()
        for end, digits in (*proofs, (length, "")):
            while self.hasher.length < min(end, length):
                count = self.readinto(room[: min(end, length) - self.hasher.length]) or 0
                self.hasher.update(room[:count])
                if not count:
                    break
            if self.hasher.length != end or (digits and self.hasher.proof() != (end, digits)):
                break
            good = self.hasher.copy()
        self.go_on_as_left(good)

    def go_on_as_left(self, hasher: Hasher) -> None:
        """Write behind what was digested before."""
        self.hasher = hasher
        self.truncate(hasher.length)
        self.seek(hasher.length)

    def begin_anew(self) -> None:
        """Forget all bytes."""
        self.truncate(0)
        self.seek(0)
        self.hasher = Hasher(self.algorithms)


async def to_the_end(work: Awaitable[T]) -> T:
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


class Workshop(Protocol):
    """What a part needs of the store it belongs to."""

    @property
    def boot(self) -> str:
        """The boot of the machine."""
        ...

    async def run(self, function: Callable[..., T], *arguments: object) -> T:
        """Run a blocking function in a thread, to its end."""
        ...

    def put(self, part: str, request: Request, content: Content) -> Receipt:
        """Publish a finished part."""
        ...

    def keep(self, part: str, request: Request, hasher: Hasher) -> None:
        """Let a part wait to be gone on with."""
        ...

    def report_orphan(self, request: Request, receipt: Receipt) -> None:
        """Tell of a file that was published for a call which had been cancelled by then."""
        ...


class Part:
    """The part file of one attempt; its bytes are digested as they are written.

    Attributes
    ----------
    length : int
        Bytes that it has.
    entity : Entity or None
        What they are the beginning of; None where nobody could go on with them.
    """

    def __init__(self, store: Workshop, request: Request, path: str, file: AsyncFileIO, raw: DigestingFile) -> None:
        self._store = store
        self._request = request
        self._path = path
        self._file = file
        self._raw = raw
        self._sidecar: Sidecar | None = None

    @property
    def length(self) -> int:
        """Bytes that it has."""
        return self._raw.hasher.length

    @property
    def entity(self) -> Entity | None:
        """What they are the beginning of."""
        return None if self._sidecar is None else self._sidecar.entity

    def recognise(self, sidecar: Sidecar) -> None:
        """Take what an earlier attempt knew of these bytes."""
        self._sidecar = replace(sidecar, proofs=tuple(proof for proof in sidecar.proofs if proof[0] <= self.length))

    async def write(self, block: bytes | bytearray | memoryview) -> None:
        """Append a block.

        Raises
        ------
        StorageError
            Where the disk refuses it.
        """
        try:
            await to_the_end(self._file.write(block))
            if self._sidecar is not None and self.length - self._sidecar.proved >= PROVE_BYTES:
                await self._store.run(self._prove, self._store.boot)
        except OSError as error:
            raise translate_oserror(error, f"writing {self._request.path}") from error

    async def describe(self, entity: Entity) -> None:
        """Note what the bytes are the beginning of, so that a later attempt, or a later process, can go on.

        Raises
        ------
        StorageError
            Where the disk refuses the note.
        """
        request = self._request
        proofs = () if self._sidecar is None else self._sidecar.proofs
        sidecar = Sidecar(request.version, request.key, request.path, entity, self._store.boot, proofs)
        try:
            await self._store.run(self._note, sidecar)
        except OSError as error:
            raise translate_oserror(error, f"writing {request.path}") from error

    def _note(self, sidecar: Sidecar) -> None:
        write_sidecar(f"{self._path}.json", sidecar)
        self._sidecar = sidecar

    def _prove(self, boot: str) -> None:
        """Add a proof of what is there."""
        assert self._sidecar is not None
        proofs = self._sidecar.proofs
        if self._sidecar.proved != self.length:
            proofs = (*proofs, self._raw.hasher.proof())
        self._note(replace(self._sidecar, boot=boot, proofs=proofs))

    async def begin_anew(self) -> None:
        """Forget all bytes: they are of another version, or the server sends the file from its beginning."""
        self._sidecar = None
        try:
            await self._store.run(self._begin_anew)
        except OSError as error:
            raise translate_oserror(error, f"writing {self._request.path}") from error

    def _begin_anew(self) -> None:
        remove(f"{self._path}.json")
        self._raw.begin_anew()

    async def suspend(self) -> int:
        """Keep the part for a later attempt, and return how many bytes it has; one that nobody could use is dropped."""
        return await self._store.run(self._suspend)

    def _suspend(self) -> int:
        if self._raw.closed:
            return 0
        if self._sidecar is None or not self.length:
            self._discard()
            return 0
        try:
            self._raw.truncate(self.length)  # a full disk may have torn the last block
            self._prove("")
            self._raw.close()
            self._store.keep(self._path, self._request, self._raw.hasher)
        except OSError:  # why the attempt failed is under way; this must not hide it
            self._discard()
            return 0
        return self.length

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
            return await to_the_end(work)
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
            receipt = self._store.put(self._path, self._request, Content(hasher.length, digests, verified, etag))
        except OSError as error:
            self._discard()
            raise translate_oserror(error, f"publishing {self._request.path}") from error
        except BaseException:
            self._discard()
            raise
        if self._sidecar is not None:
            remove(f"{self._path}.json")
        return receipt

    async def discard(self) -> None:
        """Remove the part; does nothing once it is published."""
        await self._store.run(self._discard)

    def _discard(self) -> None:
        with contextlib.suppress(OSError):  # why the file failed is already under way; this must not hide it
            self._raw.close()
        remove(self._path)
        remove(f"{self._path}.json")
