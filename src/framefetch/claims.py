"""Calls of one process that overlap: each file is fetched by one of them."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from framefetch.models import Outcome

__all__ = ["Claims", "Identity"]

#: Version, key and path.
Identity = tuple[str, str, str]


class Claims:
    """Which run of this cache fetches which file, so that overlapping calls ask for each only once."""

    def __init__(self) -> None:
        self._claimed: dict[Identity, list[asyncio.Future[Outcome | None]]] = {}

    def __len__(self) -> int:
        """Return how many files are under way."""
        return len(self._claimed)

    def claim(self, identity: Identity) -> asyncio.Future[Outcome | None] | None:
        """Claim a file; where another run has it, return a future of that run's outcome."""
        waiting = self._claimed.get(identity)
        if waiting is None:
            self._claimed[identity] = []
            return None
        future: asyncio.Future[Outcome | None] = asyncio.get_running_loop().create_future()
        waiting.append(future)
        return future

    def release(self, identity: Identity, outcome: Outcome | None) -> None:
        """Tell those who wait what became of a file; None where it was not finished."""
        for future in self._claimed.pop(identity, ()):
            if not future.done():
                future.set_result(outcome)
