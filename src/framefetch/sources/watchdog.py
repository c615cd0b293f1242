"""Ends silence and drips: one tick for all exchanges, instead of a timer for each read.

Each exchange has a `Watch`. The tick compares it with the limits by pure functions and fails the exchange that is
late. Time during which *we* do not read, because the disk or the bandwidth limit holds us back, is not the server's
and does not count.

The stall timeout is for hosts of which nothing is known. Where a body falls silent while others of its host go on
coming to their ends, it is asked for again much sooner: once it has been silent for many times longer than any body of
this host ever was and then went on, for longer than it had taken until then (waiting has cost as much as beginning anew
would), and for as long as TCP needs to send a segment a third time (0.2 and 0.4 s, the least that Linux waits,
TCP_RTO_MIN in its tcp.h, and twice that). A URL gets twice as long each time, up to a third of the stall timeout: who
is only slow is waited for in the end, and known from then on by the silence it has broken. Where few are under way, as
at the end of a run, others cannot tell; a body that falls silent there gets twice as long, if the host is known by
then.

An answer is waited for to the end, except on a connection without TLS on which the server has never said anything while
it answered others, and some of them on one connection: then it may never have heard of this one. Where the queue of
connections to be accepted is full (listen(2)), Linux lets the client believe that it is connected; and a server with
few workers leaves it lying. So the file is asked for elsewhere, once, when the server has been silent there for many
times longer than it usually is. The host's limit hears of it, as of every silence, its circuit does not.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING, Final, Literal, Protocol

from framefetch.errors import Stalled, TooSlow, TransferError

if TYPE_CHECKING:
    from collections.abc import Callable

    from framefetch.options import Timeouts

__all__ = ["Manner", "Watch", "Watchdog", "late", "left_behind"]

#: Seconds of silence before a body may be called left behind for the first time.
HASTE: Final = 0.75
#: The same for the first answer on a connection, and so many times what an answer usually takes.
HASTE_MUTE: Final = 4.0
UNUSUAL_WAIT: Final = 16
#: So many times the longest silence that a body of the host has broken.
UNUSUAL: Final = 4
#: Bodies of the host that came to their end meanwhile: it is not the host that is silent, nor the network.
OTHERS: Final = 8
#: So many times as long a body has where fewer are under way: nobody could tell, and few ask again if it was the host.
FEW: Final = 2
#: Beyond this share of the stall timeout there is little to win.
SHARE: Final = 1 / 3
#: Seconds between two looks, at most.
INTERVAL: Final = 0.25


class Watched(Protocol):
    """Whatever can be ended with an error."""

    @property
    def complete(self) -> bool:
        """Whether all has come."""
        ...

    @property
    def received_any(self) -> bool:
        """Whether anything has come."""
        ...

    def fail(self, error: TransferError) -> None:
        """End with this error."""
        ...


class Manner:
    """How bodies of one host usually come.

    Threads write to it too, without a lock: a count that is lost changes nothing.

    Attributes
    ----------
    longest : float
        Seconds of the longest silence that one of them has broken by itself.
    waited : float
        Seconds that it took until they began, or where they are small ended, of all together.
    keeps : bool
        Whether it has been seen to answer twice on one connection.
    ended : int
        Bodies that came to an end.
    hurried : dict
        How often each URL was asked for again before the stall timeout.
    """

    __slots__ = ("ended", "hurried", "keeps", "longest", "waited")

    def __init__(self) -> None:
        self.longest = self.waited = 0.0
        self.ended = 0
        self.keeps = False
        self.hurried: dict[str, int] = {}


class Watch:
    """How one exchange gets on.

    Parameters
    ----------
    dog : Watchdog
        Who looks at it.
    url : str
        What it asks for.
    """

    __slots__ = (
        "_dog",
        "_target",
        "began",
        "bytes",
        "ended",
        "last",
        "manner",
        "mute",
        "paused",
        "paused_at",
        "phase",
        "samples",
        "url",
    )

    def __init__(self, dog: Watchdog, url: str = "") -> None:
        self._dog = dog
        self._target: Watched | None = None
        self.url = url
        #: How bodies of its host come, and how many had ended when this one was last heard of.
        self.manner: Manner | None = None
        self.ended = 0
        #: Whether the server had never said anything on this connection.
        self.mute = False
        #: When the body began.
        self.began = 0.0
        self.phase: Literal["head", "body"] = "head"
        self.bytes = 0
        self.last = 0.0
        self.paused = 0.0
        self.paused_at: float | None = None
        self.samples: deque[tuple[float, int]] | None = None

    def clock(self, now: float) -> float:
        """Return the time without our own pauses."""
        return (now if self.paused_at is None else self.paused_at) - self.paused

    def begin(self, target: Watched, *, mute: bool = False) -> None:
        """Watch an exchange that waits for its head; on a `mute` connection the server has never said anything."""
        self._target = target
        self.phase, self.mute = "head", mute
        if self.manner is not None:
            self.ended = self.manner.ended
        self.paused_at = None  # whatever was not read of an answer before this one, as of a redirect
        self.last = self._dog.now() - self.paused
        self._dog.add(self)

    def enter_body(self) -> None:
        """Note that the head is there: the silence starts anew."""
        clock, manner = self.clock(self._dog.now()), self.manner
        if manner is not None:
            manner.waited += clock - self.last
            manner.keeps = manner.keeps or not self.mute
            self.ended = manner.ended
        self.phase = "body"
        self.last = self.began = clock

    def since(self, last: float, ended: int) -> None:
        """Take over from a thread when something came last, and how many others had ended when it asked."""
        self.last = last - self.paused
        if self.phase == "head":
            self.ended = ended

    def progress(self, count: int) -> None:
        """Note bytes of the body."""
        self.bytes += count
        clock, manner = self.clock(self._dog.now()), self.manner
        if manner is not None:
            manner.longest = max(manner.longest, clock - self.last)
            self.ended = manner.ended
        self.last = clock

    def pause(self) -> None:
        """Stop the clock: we are not reading."""
        if self.paused_at is None:
            self.paused_at = self._dog.now()

    def resume(self) -> None:
        """Start the clock again."""
        if self.paused_at is not None:
            self.paused += self._dog.now() - self.paused_at
            self.paused_at = None

    @property
    def is_mute(self) -> bool:
        """Whether the server has never said anything on this connection."""
        return self.mute and self._target is not None and not self._target.received_any

    @property
    def waits(self) -> bool:
        """Whether something is still to come."""
        return self._target is not None and not self._target.complete

    def end(self) -> None:
        """End to watch."""
        self._dog.remove(self)
        if self.manner is not None and not self.waits:
            self.manner.ended += 1
            if self.manner.hurried:
                self.manner.hurried.pop(self.url, None)

    def fail(self, error: TransferError) -> None:
        """End the exchange."""
        self.manner = None  # what ended so says nothing of the host
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


def left_behind(watch: Watch, now: float, timeouts: Timeouts, under_way: Callable[[Manner], int]) -> Stalled | None:
    """Return why a file should be asked for again before the stall timeout, None while it should not.

    `under_way` tells how many exchanges of its host there are.
    """
    manner = watch.manner
    if manner is None or watch.paused_at is not None:
        return None
    silence = watch.clock(now) - watch.last
    if silence < HASTE or silence > SHARE * timeouts.stall:
        return None
    others, few = manner.ended - watch.ended, 1
    times = manner.hurried.get(watch.url, 0)
    if watch.phase == "head" and (times or not others or not manner.keeps or not watch.is_mute):
        return None
    if others < OTHERS:
        if manner.ended < OTHERS or under_way(manner) >= OTHERS:
            return None
        others, few = manner.ended, FEW
    if watch.phase == "head":
        usual = manner.waited / manner.ended  # not the longest: that may have been on such a connection too
        patience = max(HASTE_MUTE, UNUSUAL_WAIT * usual)
        what = "no answer on a connection on which the server has never said anything"
        none = f"it took {usual:.2f} s until one began"
    else:
        patience = max(HASTE * 2**times, UNUSUAL * manner.longest, watch.last - watch.began)
        what = f"no bytes after {watch.bytes:,} bytes"
        none = f"none was ever silent for more than {manner.longest:.1f} s"
    if silence < few * patience:
        return None
    manner.hurried[watch.url] = times + 1
    return Stalled(
        f"{what} for {silence:.1f} s, where {others} other files of the host came to their end and {none}",
        early=True,
        unheard=watch.phase == "head",
    )


class Watchdog:
    """Looks at all exchanges several times within the shortest limit.

    Parameters
    ----------
    timeouts : Timeouts
        The limits.
    """

    def __init__(self, timeouts: Timeouts) -> None:
        self._timeouts = timeouts
        self._interval = min(INTERVAL, max(0.005, min(timeouts.stall, timeouts.speed_window) / 25))
        self._manners: dict[str, Manner] = {}
        self._watches: set[Watch] = set()
        self._handle: asyncio.TimerHandle | None = None
        self._loop = asyncio.get_running_loop()
        self.now = self._loop.time

    def manner(self, origin: str) -> Manner:
        """Return how bodies of a host come."""
        manner = self._manners.get(origin)
        if manner is None:
            manner = self._manners[origin] = Manner()
        return manner

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
            if not watch.waits:
                continue
            verdict = late(watch, now, self._timeouts) or left_behind(watch, now, self._timeouts, self._under_way)
            if verdict is not None:
                watch.fail(verdict)
        self._handle = self._loop.call_later(self._interval, self._tick) if self._watches else None

    def _under_way(self, manner: Manner) -> int:
        return sum(watch.manner is manner for watch in self._watches)

    def close(self) -> None:
        """Stop the tick."""
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None
