"""One file over several connections, where that pays and is safe.

It begins as one stream. Where the stream waits for the network more than for the disk, and slots are free, a second
connection asks for a range further on; only when a checked 206 of the same version has come is the first stream told
where to stop. From then on all of them take small ranges from the front, and their number doubles as long as each
doubling pays. A server that ignores ranges has cost one request; one that refuses more connections keeps the number it
grants. Ranges of another version end the attempt: the file is begun anew over one connection.
"""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol

from framefetch.engine.intake import BLOCK, Intake
from framefetch.engine.segments import SMALLEST, Growth, RangePlan
from framefetch.errors import ChangedMidway, IncompleteBody, RangeMismatch, TransferError, first_of
from framefetch.sources.base import Ask

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from contextlib import AbstractAsyncContextManager

    from framefetch.models import Entity
    from framefetch.sources.base import Body
    from framefetch.store.files import Part

__all__ = ["Parallel", "Slots", "can_be_split"]

#: Seconds between two looks at whether more connections would pay.
TICK: Final = 0.05
#: Seconds after which a look is taken although little has come.
PATIENCE: Final = 2.0


class Slots(Protocol):
    """Connections to a host that no row waits for."""

    def borrow(self) -> bool:
        """Take one, if there is one."""
        ...

    def misses(self) -> bool:
        """Return whether a row waits by now for one that was taken."""
        ...

    def give_back(self) -> None:
        """Give one back."""
        ...


def can_be_split(body: Body) -> bool:
    """Return whether a body is long enough for ranges beside it, and has a validator that ties them together."""
    if body.length is None or body.length < 2 * SMALLEST:
        return False
    entity = body.entity
    return entity is not None and (entity.etag is not None or entity.modified is not None)


class Parallel:
    """The rest of one file, over one connection and then perhaps more.

    Parameters
    ----------
    first : Intake
        The body that has begun.
    part : Part
        Where the bytes go.
    entity : Entity
        The version of all ranges, with its total.
    ask : callable
        Opens a range.
    slots : Slots
        Connections that may be used beside the first.
    most : int
        Connections at most.
    """

    def __init__(
        self,
        first: Intake,
        part: Part,
        entity: Entity,
        *,
        ask: Callable[[Ask], AbstractAsyncContextManager[Body]],
        slots: Slots,
        most: int,
    ) -> None:
        assert entity.total is not None
        self._first = first
        self._part = part
        self._entity = entity
        self._ask = ask
        self._slots = slots
        gaps = part.gaps(entity.total)
        self._plan = RangePlan(gaps[1:])
        self._first.stop = gaps[0][1] if gaps else first.position
        self._growth = Growth(most)
        self._grows = most > 1
        #: Whether the first body was told to stop where others go on.
        self._split = len(gaps) > 1
        self._size = self._wanted = 1
        self._borrowed = 0
        self._opening = 0
        self._lanes: set[asyncio.Task[None]] = set()
        self._at_work: set[Intake] = set()
        self._ended = _Tally()
        self._failure: TransferError | None = None

    async def run(self) -> None:
        """Receive everything that is missing.

        Raises
        ------
        TransferError, StorageError
            Why it could not be.
        """
        try:
            async with asyncio.TaskGroup() as group:
                growing = group.create_task(self._grow(group))
                await self._run_first()
                while self._lanes:
                    await asyncio.wait(self._lanes)
                growing.cancel()
        except BaseExceptionGroup as failures:
            raise first_of(failures) from None
        if self._plan.left:
            raise self._failure or IncompleteBody(f"{self._plan.left:,} bytes of the file did not come")

    # -- lanes -------------------------------------------------------------------------------------------------------

    async def _run_first(self) -> None:
        """Receive what the first body brings, then take ranges like the others."""
        try:
            await self._receive(self._first)
            await self._take_ranges()
        except TransferError as error:
            self._give_up(error)
        finally:
            self._leave()

    async def _run_lane(self, probing: Callable[[], Awaitable[None]] | None = None) -> None:
        """Receive over a borrowed connection until nothing is left to ask for, or it fails."""
        try:
            if probing is not None:
                await probing()
            await self._take_ranges()
        except TransferError as error:
            self._give_up(error)
        finally:
            self._leave()

    def _leave(self) -> None:
        """Give a slot back, whichever connection has ended: the last one has the file's own."""
        self._size -= 1
        if self._borrowed:
            self._borrowed -= 1
            self._slots.give_back()

    def _give_up(self, error: TransferError) -> None:
        """End one connection; the others go on with what it leaves, unless ranges are no longer of one version."""
        if isinstance(error, ChangedMidway | RangeMismatch):
            raise error
        self._failure = error
        self._growth.shrink(self._size - 1)
        self._wanted = max(1, self._size - 1)

    async def _take_ranges(self) -> None:
        # Nothing is awaited between this look and the end of a lane, so the last one never leaves for being too many.
        while self._split and self._may_stay() and (wanted := self._plan.take(self._size)) is not None:
            start, stop = wanted
            try:
                async with AsyncExitStack() as stack:
                    body = await self._open(stack, start, stop)
                    if body.offset != start:
                        raise RangeMismatch(f"asked for bytes {start}-{stop - 1}, got the whole file")
                    intake, wanted = self._intake(body, stop), None
                    await self._receive(intake)
            finally:
                if wanted is not None:
                    self._plan.put_back(start, stop)

    def _may_stay(self) -> bool:
        """Return whether a connection that is free may go on: not where there are too many, or a row waits for one."""
        if 1 < self._size <= self._wanted and self._slots.misses():
            self._wanted = self._size - 1
            self._growth.settle(self._wanted)
        return self._size <= self._wanted

    async def _open(self, stack: AsyncExitStack, start: int, stop: int) -> Body:
        self._opening += 1
        try:
            return await stack.enter_async_context(self._ask(Ask(start, stop - 1, self._entity)))
        finally:
            self._opening -= 1

    def _intake(self, body: Body, stop: int) -> Intake:
        intake = self._first.beside(body)
        intake.stop = stop
        return intake

    async def _receive(self, intake: Intake) -> None:
        """Receive one body up to where it has to stop; what does not come is put back."""
        self._at_work.add(intake)
        try:
            await intake.into(self._part)
        finally:
            self._at_work.discard(intake)
            self._ended.add(intake, 0.0)
            stop = intake.stop or 0
            self._plan.put_back(intake.position, stop)
        if intake.position < stop:
            raise IncompleteBody(f"expected bytes up to {stop:,}, they ended at {intake.position:,}")

    # -- how many ----------------------------------------------------------------------------------------------------

    async def _grow(self, group: asyncio.TaskGroup) -> None:
        """Look now and then whether more connections would pay."""
        clock = asyncio.get_running_loop().time
        began, before = clock(), _Tally()
        while self._grows:
            await asyncio.sleep(TICK)
            if not self._size:
                return  # the last of them has just ended
            now = clock()
            tally, span = self._tally(now), now - began
            received = tally.received - before.received
            if self._opening or span < 2 * TICK or (received < 2 * BLOCK * self._size and span < PATIENCE):
                continue
            waited = (tally.waited - before.waited) / (span * self._size)
            self._wanted = self._growth.step(received / span, waited)
            left = self._plan.left + max(0, (self._first.stop or 0) - self._first.position)
            if left > 2 * SMALLEST * self._size:
                self._add(self._wanted - self._size, group)
            began, before = now, tally

    def _tally(self, now: float) -> _Tally:
        tally = _Tally(self._ended.received, self._ended.waited)
        for intake in self._at_work:
            tally.add(intake, now)
        return tally

    def _add(self, count: int, group: asyncio.TaskGroup) -> None:
        """Begin more lanes; before the file is split, one that finds out whether it can be."""
        for _ in range(count if self._split else min(count, 1)):
            if not self._slots.borrow():
                self._growth.settle(self._size)
                self._wanted = self._size
                return
            self._size += 1
            self._borrowed += 1
            lane = group.create_task(self._run_lane(None if self._split else self._probe))
            self._lanes.add(lane)
            lane.add_done_callback(self._lanes.discard)

    async def _probe(self) -> None:
        """Ask for a range further on; the first body is told to stop there once it has come as asked."""
        first, end = self._first, self._first.stop or 0
        start = first.position + 2 * SMALLEST
        start += (end - start) % BLOCK  # the first body is received in blocks that end there, so none of it in vain
        stop = min(end, start + SMALLEST)
        self._grows = False  # until it has come; whatever comes instead, the first body brings it all
        if start >= stop:
            return
        try:
            async with AsyncExitStack() as stack:
                body = await self._open(stack, start, stop)
                if body.offset != start or not first.stop_at(start):
                    return
                self._split = self._grows = True
                self._plan.put_back(stop, end)
                await self._receive(self._intake(body, stop))
        except TransferError:
            if self._split:
                raise


@dataclass(slots=True)
class _Tally:
    """Bytes received and seconds waited for them, over all connections."""

    received: int = 0
    waited: float = 0.0

    def add(self, intake: Intake, now: float) -> None:
        """Count one of them, up to now."""
        self.received += intake.received
        self.waited += intake.waited_until(now)
