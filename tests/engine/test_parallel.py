"""One file over several connections, step by step: their ends, and the look whether more of them would pay."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any

import pytest

from framefetch.engine.parallel import Parallel
from framefetch.models import Entity

MIB = 1 << 20


class Bytes:
    """What one connection brings: all of it, once it is let go."""

    def __init__(self, position: int, begun: asyncio.Queue[Any]) -> None:
        self.position, self.stop, self.received, self._begun = position, None, 0, begun
        self.let_go = asyncio.Event()

    async def into(self, part: object) -> None:
        self._begun.put_nowait(self)
        await self.let_go.wait()
        self.position = self.stop

    def waited_until(self, now: float) -> float:
        return now

    def beside(self, body: Any) -> "Bytes":
        return Bytes(body.offset, self._begun)


@asynccontextmanager
async def answer(ask: Any) -> AsyncIterator[Any]:
    """Answer a range as it was asked for."""
    yield SimpleNamespace(offset=ask.first)


def parallel(gaps: list[tuple[int, int]], begun: asyncio.Queue[Bytes], slots: object, most: int) -> Parallel:
    """Make one of a file that has been split."""
    part = SimpleNamespace(gaps=lambda total: gaps)
    entity = Entity("http://host/file", total=gaps[-1][1], etag='"one"')
    return Parallel(Bytes(0, begun), part, entity, ask=answer, slots=slots, most=most)


class Slots:
    """As many as anybody wants, some of which are missed."""

    def __init__(self) -> None:
        self.borrowed = self.missed = 0
        self.given_back = asyncio.Event()

    def borrow(self) -> bool:
        self.borrowed += 1
        return True

    def misses(self) -> bool:
        return self.missed > 0

    def give_back(self) -> None:
        self.borrowed -= 1
        self.missed -= 1
        self.given_back.set()


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Look between any two steps of the others whether more would pay."""
    monkeypatch.setattr("framefetch.engine.parallel.TICK", 1e-9)
    monkeypatch.setattr("framefetch.engine.parallel.PATIENCE", 0.0)


@pytest.mark.parametrize("first_ends", [True, False])
async def test_a_connection_ends_with_its_range_where_a_row_waits_for_the_slot(hasty: None, first_ends: bool) -> None:
    """Whichever it is, the one that goes on has the slot of the file itself."""
    begun: asyncio.Queue[Bytes] = asyncio.Queue()
    slots = Slots()
    running = asyncio.create_task(parallel([(0, 32 * MIB), (32 * MIB, 64 * MIB)], begun, slots, 2).run())
    first, added = await begun.get(), await begun.get()
    slots.missed = 1
    ends, goes_on = (first, added) if first_ends else (added, first)
    ends.let_go.set()
    await asyncio.wait_for(slots.given_back.wait(), 10)
    assert slots.borrowed == 0
    assert begun.empty(), "asks for no further range"
    goes_on.let_go.set()
    while not running.done():
        await asyncio.sleep(0)
        while not begun.empty():
            begun.get_nowait().let_go.set()
    await running
    assert slots.borrowed == 0


async def test_the_last_connection_may_end_while_it_is_looked_whether_more_would_pay(
    hasty: None,
) -> None:
    gaps = [(0, 32 * MIB), (32 * MIB, 64 * MIB)]
    begun: asyncio.Queue[Bytes] = asyncio.Queue()
    slots = Slots()
    running = asyncio.create_task(parallel(gaps, begun, slots, 2).run())
    first, added = await begun.get(), await begun.get()
    first.let_go.set()
    left = gaps[-1][1] - added.stop
    while left:  # the first takes all the rest
        rest = await begun.get()
        left -= rest.stop - rest.position
        rest.let_go.set()
    for _ in range(10):
        await asyncio.sleep(0)  # and ends
    assert not running.done()
    added.let_go.set()
    await running
    assert slots.borrowed == 0
