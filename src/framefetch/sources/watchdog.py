"""Ends silence and drips: one tick for all exchanges, instead of a timer for each read.

An exchange that waits has a `Watch`. The tick compares each watch with the limits by a pure function, and ends
the late ones by firing the timeout that the watch holds open. Time during which *we* do not read, because the disk or
the bandwidth limit holds us back, is not the server's and does not count.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING, Literal

from framefetch.errors import Stalled, TooSlow

if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self

    from framefetch.options import Timeouts

__all__ = ["Watch", "Watchdog", "late"]

Phase = Literal["connection", "headers", "body"]


class Watch:
    """How one exchange gets on."""

    __slots__ = ("_dog", "_timeout", "bytes", "last", "paused", "paused_at", "phase", "samples", "verdict")

    def __init__(self, dog: Watchdog) -> None:
        self._dog = dog
        self._timeout = asyncio.timeout(None)
        self.phase: Phase = "connection"
        self.bytes = 0
        self.last = 0.0
        self.paused = 0.0
        self.paused_at: float | None = None
        self.samples: deque[tuple[float, int]] = deque()
        self.verdict: Stalled | TooSlow | None = None

    def clock(self, now: float) -> float:
        """Return the time without our own pauses."""
        return (self.paused_at if self.paused_at is not None else now) - self.paused

    def enter(self, phase: Phase) -> None:
        """Begin a phase: the silence starts anew."""
        self.phase = phase
        self.last = self.clock(self._dog.now())
        if phase == "body":
            self.samples.append((self.last, 0))

    def progress(self, count: int) -> None:
        """Note bytes of the body."""
        self.bytes += count
        self.last = self.clock(self._dog.now())

    def pause(self) -> None:
        """Stop the clock: we are not reading."""
        self.paused_at = self._dog.now()

    def resume(self) -> None:
        """Start the clock again."""
        if self.paused_at is not None:
            self.paused += self._dog.now() - self.paused_at
            self.paused_at = None

    def end(self, verdict: Stalled | TooSlow) -> None:
        """Interrupt the exchange."""
        self.verdict = verdict
        self._timeout.reschedule(self._dog.now())

    async def __aenter__(self) -> Self:
        await self._timeout.__aenter__()
        self._dog.add(self)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._dog.remove(self)
        try:
            await self._timeout.__aexit__(kind, error, trace)
        except TimeoutError as expired:
            if self.verdict is None or self.verdict is expired:
                raise
            raise self.verdict from None


def late(watch: Watch, now: float, timeouts: Timeouts) -> Stalled | TooSlow | None:
    """Return why an exchange must end, None while it is in time."""
    clock = watch.clock(now)
    silence = clock - watch.last
    if watch.paused_at is None and silence >= timeouts.stall:
        after = f" after {watch.bytes:,} bytes" if watch.phase == "body" else ""
        return Stalled(f"no {_AWAITED[watch.phase]} for {silence:.1f} s{after}; the limit is {timeouts.stall:g} s")
    if watch.phase != "body" or not timeouts.minimum_speed:
        return None
    samples = watch.samples
    samples.append((clock, watch.bytes))
    while len(samples) > 1 and clock - samples[1][0] >= timeouts.speed_window:
        samples.popleft()
    span, count = clock - samples[0][0], watch.bytes - samples[0][1]
    if span >= timeouts.speed_window and count < timeouts.minimum_speed * span:
        return TooSlow(
            f"{count / span:,.0f} bytes/s over {span:.1f} s; the minimum is {timeouts.minimum_speed:,.0f} bytes/s"
        )
    return None


_AWAITED = {"connection": "connection", "headers": "answer", "body": "bytes"}


class Watchdog:
    """Looks at all exchanges several times within the shortest limit."""

    def __init__(self, timeouts: Timeouts) -> None:
        self._timeouts = timeouts
        self._interval = min(1.0, max(0.005, min(timeouts.stall, timeouts.speed_window) / 25))
        self._watches: set[Watch] = set()
        self._handle: asyncio.TimerHandle | None = None
        self._loop = asyncio.get_running_loop()
        self.now = self._loop.time

    def add(self, watch: Watch) -> None:
        """Begin to watch."""
        watch.last = self.now()
        self._watches.add(watch)
        if self._handle is None:
            self._handle = self._loop.call_later(self._interval, self._tick)

    def remove(self, watch: Watch) -> None:
        """End to watch."""
        self._watches.discard(watch)

    def _tick(self) -> None:
        now = self.now()
        for watch in self._watches:
            if watch.verdict is None and (verdict := late(watch, now, self._timeouts)) is not None:
                watch.end(verdict)
        self._handle = self._loop.call_later(self._interval, self._tick) if self._watches else None
