"""Small bodies wait here for one another: one hop to a thread writes and publishes all that finished meanwhile."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from framefetch.engine.queue import Job
    from framefetch.errors import FramefetchError
    from framefetch.models import Receipt
    from framefetch.store.files import FileStore, SmallBody

__all__ = ["Saver"]

#: Bytes, and bodies, that may wait before whoever brings more has to wait too. The second is what a kill can take, and
#: what an end has to wait for; a thread that has less to do at a time also shares the interpreter better with the loop.
ROOM, BODIES = 32 << 20, 512


class Saver:
    """Saves small bodies in batches.

    Parameters
    ----------
    files : FileStore
        Where they go.
    saved : callable
        Called with each batch: jobs, bodies, and for each its receipt or why it could not be kept.
    """

    def __init__(
        self,
        files: FileStore,
        saved: Callable[[Sequence[tuple[Job, SmallBody]], Sequence[Receipt | FramefetchError]], None],
    ) -> None:
        self._files = files
        self._saved = saved
        self._waiting: list[tuple[Job, SmallBody]] = []
        self._bytes = 0
        self._pending = 0
        self._work = asyncio.Event()
        self._room = asyncio.Event()
        self._room.set()
        self._over = False

    @property
    def pending(self) -> int:
        """Bodies brought and not saved yet."""
        return self._pending

    async def put(self, job: Job, body: SmallBody) -> None:
        """Bring a body; returns at once unless too many wait."""
        await self._room.wait()
        self._waiting.append((job, body))
        self._pending += 1
        self._bytes += len(body.body)
        if self._bytes >= ROOM or len(self._waiting) >= BODIES:
            self._room.clear()
        self._work.set()

    def end(self) -> None:
        """Let `run` return: nothing more will be brought."""
        self._over = True
        self._work.set()

    async def run(self) -> None:
        """Save batch after batch until the end."""
        while True:
            await self._work.wait()
            self._work.clear()
            batch, self._waiting, self._bytes = self._waiting, [], 0
            self._room.set()
            if batch:
                # Shielded: what is in the thread is published, cancelled or not, so its outcome must be told.
                saving = asyncio.create_task(self._files.save([body for _, body in batch]))  # noqa: RUF006 - held here
                try:
                    results = await asyncio.shield(saving)
                except asyncio.CancelledError:
                    self._tell(batch, await saving)
                    raise
                self._tell(batch, results)
            elif self._over:
                return

    def _tell(self, batch: Sequence[tuple[Job, SmallBody]], results: Sequence[Receipt | FramefetchError]) -> None:
        self._pending -= len(batch)
        self._saved(batch, results)
