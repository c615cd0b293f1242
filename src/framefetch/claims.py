"""Calls of one process that overlap: each file is fetched by one of them."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from framefetch.models import Outcome, Request

__all__ = ["Claims", "Identity", "answers"]

#: Version, key and path.
Identity = tuple[str, str, str]


class Claims:
    """Which run of this cache fetches which file, so that overlapping calls ask for each only once."""

    def __init__(self) -> None:
        self._claimed: dict[Identity, list[asyncio.Future[Outcome | None]] | None] = {}
        self._left: set[asyncio.Task[None]] = set()

    @property
    def are_settled(self) -> bool:
        """Whether no file is under way."""
        return not self._claimed and not self._left

    def leave(self, working: asyncio.Task[None]) -> None:
        """Take over the engine of a run that has ended without it: a slow disk, which its threads still write to."""
        self._left.add(working)
        working.add_done_callback(self._has_ended)

    def _has_ended(self, working: asyncio.Task[None]) -> None:
        self._left.discard(working)
        if not working.cancelled():
            working.exception()  # nobody waits for it any more

    async def settle(self) -> None:
        """Wait for the engines of runs that have ended."""
        while self._left:
            await asyncio.wait(self._left)

    def __len__(self) -> int:
        """Return how many files are under way."""
        return len(self._claimed)

    def claim(self, files: Sequence[Identity]) -> dict[int, asyncio.Future[Outcome | None]]:
        """Claim files; return for those that another run has, by their places, futures of that run's outcomes."""
        claimed = self._claimed
        others: dict[int, asyncio.Future[Outcome | None]] = {}
        if claimed.keys().isdisjoint(files):
            claimed.update(dict.fromkeys(files))
            return others
        loop = asyncio.get_running_loop()
        for at in [at for at, file in enumerate(files) if file in claimed]:
            others[at] = loop.create_future()
            claimed[files[at]] = [*(claimed[files[at]] or ()), others[at]]
        for file in files:
            claimed.setdefault(file)
        return others

    def release(self, finished: Iterable[tuple[Identity, Outcome | None]]) -> None:
        """Tell those who wait what became of files; None where one was not finished."""
        for file, outcome in finished:
            for future in self._claimed.pop(file, None) or ():
                if not future.done():
                    future.set_result(outcome)


def answers(outcome: Outcome, request: Request) -> bool:
    """Return whether what became of a file for one call is true for another, whose table may state something else.

    A failure is, where both state the same and ask the same mirrors; a file is also for a table that states nothing.
    For any other the file is looked at again, as if the calls had come one after the other.
    """
    theirs = outcome.request
    if (theirs.size, theirs.digests) == (request.size, request.digests):
        return outcome.receipt is not None or theirs.urls == request.urls
    return outcome.receipt is not None and request.size is None and not request.digests
