"""Small bodies wait for the disk, and whoever brings more waits for them."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from framefetch.engine.saver import BODIES, ROOM, Saver
from framefetch.models import Request
from framefetch.store.files import SmallBody


class SlowDisk:
    """Saves a batch when it is let."""

    def __init__(self) -> None:
        self.batches: list[int] = []
        self.may = asyncio.Event()

    async def save(self, bodies: Any) -> list[Any]:
        self.batches.append(len(bodies))
        await self.may.wait()
        return [None] * len(bodies)


async def until(so: Callable[[], bool]) -> None:
    """Let the others work until something is so."""
    for _ in range(100_000):
        if so():
            return
        await asyncio.sleep(0)
    pytest.fail("it never came to that")


@pytest.mark.parametrize(("size", "most"), [(0, BODIES), (8, BODIES), (1 << 20, ROOM >> 20)])
async def test_no_more_is_brought_than_the_disk_keeps_up_with(size: int, most: int) -> None:
    disk, told = SlowDisk(), []
    saver = Saver(disk, lambda batch, _: told.append(len(batch)))  # type: ignore[arg-type]
    body = SmallBody(Request(0, "v0", "http://host/1", ("http://host/1",), "v0/1"), bytes(size), length_known=True)
    running = asyncio.create_task(saver.run())
    await saver.put(None, body)  # type: ignore[arg-type]
    await until(lambda: bool(disk.batches))

    async def bring() -> None:
        while True:
            await saver.put(None, body)  # type: ignore[arg-type]

    workers = [asyncio.create_task(bring()) for _ in range(3)]
    for _ in range(100):
        await asyncio.sleep(0)
    assert saver.pending <= 1 + most + len(workers)
    disk.may.set()
    await until(lambda: sum(told) >= 5 * most)
    assert max(disk.batches) <= most + len(workers)
    for task in workers:
        task.cancel()
    saver.end()
    await running
    assert saver.pending == 0
