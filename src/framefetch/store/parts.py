"""One part file: written and digested block by block, then published, kept for later, or dropped."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from framefetch.store.digests import verdict
from framefetch.store.extents import Extents
from framefetch.store.places import Content, remove, translate_oserror
from framefetch.store.sidecar import Sidecar, write_sidecar

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable

    from aiofiles.threadpool.binary import AsyncFileIO

    from framefetch.models import Entity, Receipt, Request
    from framefetch.store.digesting import DigestingFile
    from framefetch.store.digests import Hasher

__all__ = ["Left", "Part", "Workshop", "to_the_end"]

T = TypeVar("T")

#: Bytes after which a long part gets another proof: what a power cut can take from it.
PROVE_BYTES = 64 << 20
#: Bytes out of order after which the sidecar is told what is there: what a killed process fetches again.
NOTE_BYTES = 4 << 20


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


@dataclass(frozen=True, slots=True)
class Left:
    """What is known of a part that waits, within this process."""

    hasher: Hasher
    extents: Extents | None


class Workshop(Protocol):
    """What a part needs of the store it belongs to."""

    @property
    def boot(self) -> str:
        """The boot of the machine."""
        ...

    @property
    def crowd(self) -> float:
        """Jobs for each of its threads, at work and in line."""
        ...

    async def run(self, function: Callable[..., T], *arguments: object) -> T:
        """Run a blocking function in a thread, to its end."""
        ...

    def put(self, part: str, request: Request, content: Content) -> Receipt:
        """Publish a finished part."""
        ...

    def keep(self, part: str, request: Request, left: Left) -> None:
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
        self._unnoted = 0
        self._scatters = raw.extents is not None
        self._noting = threading.Lock()

    @property
    def length(self) -> int:
        """Bytes that it has from the beginning on, all of them digested."""
        return self._raw.hasher.length

    @property
    def scattered(self) -> bool:
        """Whether bytes came out of order."""
        return self._raw.extents is not None

    def gaps(self, total: int) -> list[tuple[int, int]]:
        """Return what is missing of so many bytes: first byte, and the one behind the last, of each gap."""
        extents = self._raw.extents
        return list((Extents([(0, self.length)]) if extents is None else extents).gaps(total))

    @property
    def entity(self) -> Entity | None:
        """What they are the beginning of."""
        return None if self._sidecar is None else self._sidecar.entity

    def recognise(self, sidecar: Sidecar) -> None:
        """Take what an earlier attempt knew of these bytes."""
        proofs = tuple(proof for proof in sidecar.proofs if proof[0] <= self.length)
        self._sidecar = replace(sidecar, proofs=proofs, extents=self._raw.noted())

    async def read(self, offset: int, count: int) -> bytes:
        """Return so many of its bytes, fewer where it ends; raise `StorageError` where they cannot be read."""
        try:
            return await self._store.run(self._raw.reread, offset, min(count, self.length - offset))
        except OSError as error:
            raise translate_oserror(error, f"reading {self._request.path}") from error

    async def write(self, block: bytes | bytearray | memoryview) -> None:
        """Append a block.

        Raises
        ------
        StorageError
            Where the disk refuses it.
        """
        try:
            await to_the_end(self._file.write(block))
            if self._proof_is_due:
                await self._store.run(self._prove, self._store.boot)
        except OSError as error:
            raise translate_oserror(error, f"writing {self._request.path}") from error

    async def pour(self, blocks: Iterable[tuple[int, bytes | memoryview]], entity: Entity | None = None) -> None:
        """Write blocks as they come, all in one hop; the thread that writes one asks for the next.

        Parameters
        ----------
        blocks : iterable of (int, bytes or memoryview)
            Where in the file each belongs, and the block.
        entity : Entity, optional
            What they are the beginning of: noted as `describe` does, before the first of them.

        Raises
        ------
        StorageError
            Where the disk refuses.
        """
        try:
            await self._store.run(self._pour, blocks, entity)
        except OSError as error:
            raise translate_oserror(error, f"writing {self._request.path}") from error

    @property
    def crowd(self) -> float:
        """Jobs of the store for each of its threads, at work and in line."""
        return self._store.crowd

    def flows_at(self, offset: int) -> bool:
        """Return whether bytes can go in there straight from a socket: behind all others, and digested by MD5 alone."""
        return self._raw.hasher.pours and offset == self.length and not self.scattered

    def flow(self, give: Callable[..., int], most: int, seconds: float) -> int:
        """Append what somebody gives, at one go; return how many bytes. Blocking, for who yields to `pour`.

        Parameters
        ----------
        give : callable
            Called with what takes the bytes of a descriptor, see `DigestingFile.pour`, and with the next two.
        most, seconds : int, float
            Bytes at most; the time after which not to go on.
        """
        count = give(self._raw.pour, most, seconds)
        if self._proof_is_due:
            self._prove(self._store.boot)
        return count

    @property
    def _proof_is_due(self) -> bool:
        return self._sidecar is not None and self.length - self._sidecar.proved >= PROVE_BYTES

    def _pour(self, blocks: Iterable[tuple[int, bytes | memoryview]], entity: Entity | None) -> None:
        if entity is not None:
            self._describe(entity)
        for offset, block in blocks:
            if offset == self.length and not self.scattered:
                self._raw.write(block)
                if self._proof_is_due:
                    self._prove(self._store.boot)
            else:
                self._write_at(offset, block)

    async def write_at(self, offset: int, block: bytes | memoryview) -> None:
        """Write a block somewhere.

        Raises
        ------
        StorageError
            Where the disk refuses it.
        """
        try:
            await self._store.run(self._write_at, offset, block)
        except OSError as error:
            raise translate_oserror(error, f"writing {self._request.path}") from error

    def _write_at(self, offset: int, block: bytes | memoryview) -> None:
        self._foretell_gaps()
        self._raw.write_at(offset, block)
        with self._noting:
            self._unnoted += len(block)
            if self._sidecar is None or self._unnoted < NOTE_BYTES:
                return
            self._unnoted = 0
        self._note(lambda sidecar: replace(sidecar, extents=self._raw.noted()))

    def _foretell_gaps(self) -> None:
        """Say in the sidecar that bytes come out of order, before the first do: a gap reads as zeros.

        Who finds the part of a killed process believes its length where no extents are noted.
        """
        with self._noting:
            if not self._scatters and self._sidecar is not None:
                self._write_note(replace(self._sidecar, extents=((0, self.length),)))
            self._scatters = True

    def _there(self) -> tuple[tuple[int, int], ...]:
        """Return what the sidecar is to say of bytes out of order; nothing where they came in order."""
        return self._raw.noted() or (((0, self.length),) if self._scatters else ())

    async def describe(self, entity: Entity) -> None:
        """Note what the bytes are the beginning of, so that a later attempt, or a later process, can go on.

        Raises
        ------
        StorageError
            Where the disk refuses the note.
        """
        try:
            await self._store.run(self._describe, entity)
        except OSError as error:
            raise translate_oserror(error, f"writing {self._request.path}") from error

    def _describe(self, entity: Entity) -> None:
        request = self._request
        sidecar = Sidecar(request.version, request.key, request.path, entity, self._store.boot)

        def change(old: Sidecar | None) -> Sidecar:
            if old is None:
                return replace(sidecar, extents=self._there())
            return replace(old, entity=entity, boot=sidecar.boot)

        self._note(change)

    def keep_beginning(self, beginning: bytes, entity: Entity) -> int:
        """Take all that there is for now, and wait for the rest; return how many bytes are kept. Blocking.

        Raises
        ------
        OSError
            Where the disk refuses; the part is dropped.
        """
        try:
            self._raw.write(beginning)
            self._describe(entity)
        except BaseException:
            self._discard()
            raise
        return self._suspend()

    def _note(self, change: Callable[[Any], Sidecar]) -> None:
        """Change the sidecar, where that changes it; one thread at a time."""
        with self._noting:
            changed = change(self._sidecar)
            if changed != self._sidecar:
                self._write_note(changed)

    def _write_note(self, sidecar: Sidecar) -> None:
        write_sidecar(f"{self._path}.json", sidecar)
        self._sidecar = sidecar

    def _prove(self, boot: str) -> None:
        """Add a proof of what is there from the beginning on."""
        proof = self._raw.proof()

        def add(sidecar: Sidecar) -> Sidecar:
            proofs = sidecar.proofs if sidecar.proved >= proof[0] else (*sidecar.proofs, proof)
            # What came out of order is believed only by who wrote it, or after a sudden end within this boot.
            return replace(sidecar, boot=boot, proofs=proofs, extents=sidecar.extents if boot else ())

        self._note(add)

    async def begin_anew(self) -> None:
        """Forget all bytes: they are of another version, or the server sends the file from its beginning."""
        self._sidecar = None
        try:
            await self._store.run(self._begin_anew)
        except OSError as error:
            raise translate_oserror(error, f"writing {self._request.path}") from error

    def _begin_anew(self) -> None:
        self._scatters = False
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
            if self._raw.extents is None:
                self._raw.truncate(self.length)  # a full disk may have torn the last block
            with contextlib.suppress(OSError):  # a full disk has no room for it; the note that is there says less
                self._prove("")
            self._raw.close()
            self._store.keep(self._path, self._request, Left(self._raw.hasher, self._raw.extents))
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
            self._raw.catch_up()
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
