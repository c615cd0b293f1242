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


async def test_the_last_connection_may_end_while_it_is_looked_whether_more_would_pay(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("framefetch.engine.parallel.TICK", 1e-9)  # a look between any two steps of the others
    monkeypatch.setattr("framefetch.engine.parallel.PATIENCE", 0.0)
    gaps = [(0, 32 * MIB), (32 * MIB, 64 * MIB)]
    begun: asyncio.Queue[Bytes] = asyncio.Queue()
    given_back: list[None] = []
    slots = SimpleNamespace(borrow=lambda: True, give_back=lambda: given_back.append(None))
    part = SimpleNamespace(gaps=lambda total: gaps)
    entity = Entity("http://host/file", total=64 * MIB, etag='"one"')
    parallel = Parallel(Bytes(0, begun), part, entity, ask=answer, slots=slots, most=2)
    running = asyncio.create_task(parallel.run())
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
    assert len(given_back) == 1
