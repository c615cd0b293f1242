"""Ends silence and drips: one tick for all exchanges, instead of a timer for each read.

Each exchange has a `Watch`. The tick compares it with the limits by a pure function and fails the exchange that is
late. Time during which *we* do not read, because the disk or the bandwidth limit holds us back, is not the server's
and does not count.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING, Literal, Protocol

from framefetch.errors import Stalled, TooSlow, TransferError

if TYPE_CHECKING:
    from framefetch.options import Timeouts

__all__ = ["Watch", "Watchdog", "late"]


class Watched(Protocol):
    """Whatever can be ended with an error."""

    def fail(self, error: TransferError) -> None:
        """End with this error."""
        ...


class Watch:
    """How one exchange gets on.

    Parameters
    ----------
    dog : Watchdog
        Who looks at it.
    """

    __slots__ = ("_dog", "_target", "bytes", "last", "paused", "paused_at", "phase", "samples")

    def __init__(self, dog: Watchdog) -> None:
        self._dog = dog
        self._target: Watched | None = None
        self.phase: Literal["head", "body"] = "head"
        self.bytes = 0
        self.last = 0.0
        self.paused = 0.0
        self.paused_at: float | None = None
        self.samples: deque[tuple[float, int]] | None = None

    def clock(self, now: float) -> float:
        """Return the time without our own pauses."""
        return (now if self.paused_at is None else self.paused_at) - self.paused

    def begin(self, target: Watched) -> None:
        """Watch an exchange that waits for its head."""
        self._target = target
        self.phase = "head"
        self.last = self.clock(self._dog.now())
        self._dog.add(self)

    def enter(self, phase: Literal["head", "body"]) -> None:
        """Begin a phase: the silence starts anew."""
        self.phase = phase
        self.last = self.clock(self._dog.now())

    def progress(self, count: int) -> None:
        """Note bytes of the body."""
        self.bytes += count
        self.last = self.clock(self._dog.now())

    def pause(self) -> None:
        """Stop the clock: we are not reading."""
        if self.paused_at is None:
            self.paused_at = self._dog.now()

    def resume(self) -> None:
        """Start the clock again."""
        if self.paused_at is not None:
            self.paused += self._dog.now() - self.paused_at
            self.paused_at = None

    def end(self) -> None:
        """End to watch."""
        self._dog.remove(self)

    def fail(self, error: TransferError) -> None:
        """End the exchange."""
        if self._target is not None:
            self._target.fail(error)


def late(watch: Watch, now: float, timeouts: Timeouts) -> Stalled | TooSlow | None:
    """Return why an exchange must end, None while it is in time."""
    if watch.paused_at is not None:
        return None
    clock = watch.clock(now)
    silence = clock - watch.last
    if silence >= timeouts.stall:
        what = "complete answer" if watch.phase == "head" else "bytes"
        after = f" after {watch.bytes:,} bytes" if watch.phase == "body" else ""
        return Stalled(f"no {what} for {silence:.1f} s{after}; the limit is {timeouts.stall:g} s")
    if watch.phase != "body" or not timeouts.minimum_speed:
        return None
    if watch.samples is None:
        watch.samples = deque([(clock, watch.bytes)])
    samples = watch.samples
    samples.append((clock, watch.bytes))
    while len(samples) > 1 and clock - samples[1][0] >= timeouts.speed_window:
        samples.popleft()
    span, count = clock - samples[0][0], watch.bytes - samples[0][1]
    if span >= timeouts.speed_window and count < timeouts.minimum_speed * span:
        speed, limit = f"{count / span:,.0f} bytes/s over {span:.1f} s", f"{timeouts.minimum_speed:,.0f} bytes/s"
        return TooSlow(f"{speed}; the minimum is {limit}")
    return None


class Watchdog:
    """Looks at all exchanges several times within the shortest limit.

    Parameters
    ----------
    timeouts : Timeouts
        The limits.
    """

    def __init__(self, timeouts: Timeouts) -> None:
        self._timeouts = timeouts
        self._interval = min(1.0, max(0.005, min(timeouts.stall, timeouts.speed_window) / 25))
        self._watches: set[Watch] = set()
        self._handle: asyncio.TimerHandle | None = None
        self._loop = asyncio.get_running_loop()
        self.now = self._loop.time

    def add(self, watch: Watch) -> None:
        """Begin to watch."""
        self._watches.add(watch)
        if self._handle is None:
            self._handle = self._loop.call_later(self._interval, self._tick)

    def remove(self, watch: Watch) -> None:
        """End to watch."""
        self._watches.discard(watch)

    def _tick(self) -> None:
        now = self.now()
        for watch in tuple(self._watches):
            if (verdict := late(watch, now, self._timeouts)) is not None:
                watch.fail(verdict)
        self._handle = self._loop.call_later(self._interval, self._tick) if self._watches else None

    def close(self) -> None:
        """Stop the tick."""
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None
