"""Calls of one process that overlap: each file is fetched by one of them."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from framefetch.models import Outcome

__all__ = ["Claims", "Identity"]

#: Version, key and path.
Identity = tuple[str, str, str]


class Claims:
    """Which run of this cache fetches which file, so that overlapping calls ask for each only once."""

    def __init__(self) -> None:
        self._claimed: dict[Identity, list[asyncio.Future[Outcome | None]] | None] = {}

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
