"""What each received block passes on its way to the disk, block by block."""

from __future__ import annotations

import asyncio
import sys
import threading
import time
from typing import TYPE_CHECKING, Final

from framefetch.engine.content import ContentCheck
from framefetch.engine.resume import leaves_part, worth_keeping
from framefetch.errors import BodyTooLong, TransferError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from framefetch.engine.lane import Lane
    from framefetch.models import Entity, Request
    from framefetch.sources.base import Body
    from framefetch.sources.tap import Tap
    from framefetch.store.files import Part

__all__ = ["BLOCK", "Intake"]

#: Bytes handed to a thread at a time; also the largest body that is collected in memory.
BLOCK: Final = 1 << 20
#: Bytes of a small body that broke which are worth a part: fewer are asked for anew.
WORTH_KEEPING: Final = 8 << 10
#: Bytes that may flow into a part before anybody looks.
CLAIM: Final = 4 << 20
#: The same where all claims were filled: about what comes in 20 ms, as the digest is waited for at the end of each.
LARGEST_CLAIM: Final = 16 << 20
#: Seconds that a thread may go on with one socket: others wait for it, but each time costs a hop to the loop and back.
STINT: Final = 0.1
#: Jobs for each thread, those under way too, from which on stints are shorter in proportion: so that none is in line
#: for half a second at a time, as every file has several beside its stints.
CROWD: Final = 4


class Intake:
    """The bytes of one body on their way: size limit, content check, bandwidth limit, then memory or a part.

    Parameters
    ----------
    body : Body
        Where they come from.
    request : Request
        The file.
    check : ContentCheck
        Looks at how they begin.
    limit : tuple of (int, str), or None
        The bytes that the whole file may have, and who says so.
    lane : Lane
        What is received is counted against it.

    Attributes
    ----------
    position : int
        Where in the file the next byte belongs.
    stop : int or None
        Where another body goes on: bytes from there on are dropped, and the body with them.
    received : int
        Bytes so far.
    waited : float
        Seconds spent waiting for bytes, and not for the disk.
    broken : TransferError or None
        How the body ended, where it broke and what had come before is worth keeping.
    """

    def __init__(
        self,
        body: Body,
        request: Request,
        check: ContentCheck,
        limit: tuple[int, str] | None,
        lane: Lane,
    ) -> None:
        self._body = body
        self._request = request
        self.check = check
        self._limit: int | None
        self._why: str
        self.limit_to(limit)
        self._lane = lane
        self._seen = self.position = body.offset
        self.stop: int | None = None
        self._claiming, self._claim = threading.Lock(), CLAIM
        self.received = 0
        self.waited = 0.0
        self._flows = False
        self._waiting_since = 0.0
        self._described = False
        self._ahead: list[bytes] = []
        self.broken: TransferError | None = None

    def beside(self, body: Body) -> Intake:
        """Return another for a range of the same file, whose beginning this one has looked at."""
        return Intake(body, self._request, ContentCheck(self._request.path, judge=False), None, self._lane)

    async def _next(self) -> bytes | memoryview:
        block = await self._body.read()
        self.received += len(block)
        self._seen += len(block)
        if self._limit is not None and self._seen > self._limit:
            raise BodyTooLong(f"expected at most {self._limit:,} bytes ({self._why}), got more; the rest was not read")
        if block:
            self.check.feed(block)
            await self._lane.take(len(block))
        else:
            self.check.finish()
        return block

    @property
    def limited(self) -> bool:
        """Whether anybody says how many bytes the whole file may have."""
        return self._limit is not None

    def limit_to(self, limit: tuple[int, str] | None) -> None:
        """Set the bytes that the whole file may have, and who says so."""
        self._limit, self._why = limit or (None, "")

    async def whole(self) -> bytes | None:
        """Return a body that fits in memory; where it broke, and what had come can be gone on with, that.

        Returns
        -------
        bytes or None
            None where it is longer than a block: then `into` goes on with it, from its first byte.
        """
        blocks: list[bytes] = []
        size = 0
        try:
            while block := await self._next():
                blocks.append(bytes(block))
                self._give_back(block)
                size += len(blocks[-1])
                if size > BLOCK:
                    self._ahead = blocks
                    return None
                if size == self._body.length:
                    self.check.finish()
                    break
        except TransferError as error:
            if size < WORTH_KEEPING or not leaves_part(error) or self.entity is None:
                raise
            self.broken = error
        return blocks[0] if len(blocks) == 1 else b"".join(blocks)

    def _give_back(self, block: bytes | memoryview) -> None:
        if isinstance(block, memoryview):
            self._body.give_back(block)

    async def into(self, part: Part) -> None:
        """Stream a body into a part, up to `stop`; one block is being written while the next one is collected.

        What came before the body broke is written too: the next attempt goes on behind it.
        """
        clock = asyncio.get_running_loop().time
        writing: asyncio.Task[None] | None = None
        try:
            while self.stop is None or self.position < self.stop:
                self._waiting_since = clock()
                block = await self._collect()
                self.waited += clock() - self._waiting_since
                self._waiting_since = 0.0
                if not block:
                    return
                if writing is not None:
                    await writing
                    writing = None
                    await self._describe(part)
                if await self._pour(part, block):
                    continue
                writing = asyncio.create_task(self._write(part, block, self.position))
                self.position += len(block)
        finally:
            if writing is not None:
                await writing
                await self._describe(part)

    async def _pour(self, part: Part, block: bytes | memoryview) -> bool:
        """Let the thread that writes a block read on by itself, as long as it finds something; tell whether it could.

        Not where somebody has to look at what comes, or to slow it down.
        """
        tap = self._body.tap() if self.check.settled and not self._lane.is_limited else None
        if tap is None:
            return False
        try:
            await self._stint(part, block, tap)
        finally:
            self._give_back(block)
        while self._flows and self._room and (tap := self._body.tap()) is not None:
            await self._stint(part, b"", tap)
        return True

    async def _stint(self, part: Part, block: bytes | memoryview, tap: Tap) -> None:
        task = asyncio.current_task()
        assert task is not None
        with tap:
            await part.pour(self._pieces(part, block, tap, task.cancelling), self._news(part))
        await self._lane.take(tap.taken)

    def _pieces(
        self, part: Part, block: bytes | memoryview, tap: Tap, cancelled: Callable[[], int]
    ) -> Iterator[tuple[int, bytes | memoryview]]:
        """Yield a block, and what follows it, each with its place in the file; in the thread that writes them.

        A cancellation is told only when the thread has ended, so it must not go on then, nor begin in earnest.
        """
        until = time.monotonic() + STINT / max(1.0, part.crowd / CROWD)
        self._flows = False
        piece: bytes | memoryview | None = block
        while piece is not None:
            if piece:
                position, room = self.position, self._room
                self.position += len(piece)
                yield position, piece if len(piece) <= room else memoryview(piece)[:room]
            if (cancelled() or time.monotonic() >= until) and not tap.has_ahead:
                self._flows = not cancelled()
                return
            if not tap.has_ahead and part.flows_at(self.position):
                self._flow(part, tap, until)
                piece = None if tap.is_dry else b""
                continue
            piece = tap.read(self._room)
            self.received += len(piece or b"")
            self._seen += len(piece or b"")

    def _flow(self, part: Part, tap: Tap, until: float) -> None:
        """Let what comes go straight into the part for a while."""
        with self._claiming:
            most = min(self._claim, self._room)
            self.position += most
        count = 0
        try:
            count = part.flow(tap.pour, most, until - time.monotonic())
        finally:
            self.position -= most - count
        if tap.is_dry:  # one that is slow may be shared soon
            self._claim = CLAIM
        elif count == most:
            self._claim = min(2 * self._claim, LARGEST_CLAIM)
        self.received += count
        self._seen += count

    @property
    def _room(self) -> int:
        """Bytes up to where another body goes on; others may change that, and leave at least two blocks."""
        return sys.maxsize if self.stop is None else max(0, self.stop - self.position)

    def stop_at(self, offset: int) -> bool:
        """Let another body go on from some place; False where this one may be there before."""
        with self._claiming:
            if self.position + 2 * BLOCK > offset:  # a thread may just have asked how far it can go with its next block
                return False
            self.stop = offset
            return True

    def waited_until(self, now: float) -> float:
        """Return the seconds waited for bytes, up to now."""
        return self.waited + (max(0.0, now - self._waiting_since) if self._waiting_since else 0.0)

    @property
    def entity(self) -> Entity | None:
        """What came is the beginning of; None where nobody could go on with it, or while it may be a login page."""
        entity = self._body.entity
        return entity if self.check.settled and worth_keeping(entity, self._request) else None

    def _news(self, part: Part) -> Entity | None:
        """Return what a part is the beginning of, once, as soon as it is known; None where there is nothing to note."""
        entity = None if self._described else self.entity
        if entity is None:
            return None
        self._described = True
        # What is known of a part that is gone on with was settled before: the answer with the rest may say less of the
        # version than the one with the beginning did, and more than binds the two.
        return entity if part.entity is None else part.entity

    async def _describe(self, part: Part) -> None:
        """Note beside the part what it is the beginning of, once that is known."""
        if (entity := self._news(part)) is not None:
            await part.describe(entity)

    async def _write(self, part: Part, block: bytes | memoryview, position: int) -> None:
        wanted = block if self.stop is None else memoryview(block)[: max(0, self.stop - position)]
        if part.length == position and not part.scattered:
            await part.write(wanted)
        else:
            await part.write_at(position, wanted)
        if wanted is not block and isinstance(wanted, memoryview):
            wanted.release()
        self._give_back(block)

    async def _collect(self) -> bytes | memoryview:
        """Return a whole block as it was received, or small pieces joined to about a block."""
        pieces, self._ahead = self._ahead, []
        size = sum(map(len, pieces))
        # The first piece may show that the thread which writes it can read the rest by itself.
        enough = BLOCK if self.received else 1
        while size < enough and (block := await self._next_or_break(pieces)):
            if isinstance(block, memoryview) and not pieces:
                return block
            pieces.append(bytes(block))
            self._give_back(block)
            size += len(pieces[-1])
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    async def _next_or_break(self, collected: Sequence[bytes]) -> bytes | memoryview:
        """Return the next bytes; where the body breaks, first let what was collected be written."""
        if self.broken is not None:
            raise self.broken
        try:
            return await self._next()
        except TransferError as error:
            if not collected:
                raise
            self.broken = error
            return b""
