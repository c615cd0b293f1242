"""How much at once: the bandwidth limit."""

from __future__ import annotations

import asyncio

__all__ = ["Bandwidth"]


class Bandwidth:
    """Spreads bytes over time, for all transfers together.

    Parameters
    ----------
    rate : float or None
        Bytes a second; None for no limit.
    """

    #: Seconds that may be used up in advance: fewer would mean a timer for every block.
    BURST = 0.05

    def __init__(self, rate: float | None) -> None:
        self._rate = rate
        self._paid_until = 0.0

    async def take(self, count: int) -> None:
        """Return when `count` more bytes are within the limit."""
        if self._rate is None:
            return
        now = asyncio.get_running_loop().time()
        self._paid_until = max(self._paid_until, now) + count / self._rate
        if self._paid_until - now > self.BURST:
            await asyncio.sleep(self._paid_until - now)
