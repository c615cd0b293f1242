"""How much at once: requests to one host, bytes a second. `HostLimit` has no clock and does no I/O.

The limit of a host is found out by trying. Its samples are what transfers tell (a request has started, bytes have
come, it has ended, it was refused); its measure is work a second, bytes plus a constant for each file. A measurement
begins when the limit changes and counts from when the requests then under way have all been heard of, so that a new
connection's slow beginning and an old level's rest are in nobody's figure.

Twice as many connections must bring a tenth more, or they are given up; where they brought nearly twice as much, four
times as many are tried next. Half as many must cost next to nothing, or they stay, and below where it began the limit
goes only for a gain. What was tried in vain is tried again after twice as long. A refusal (429, 503, no connection,
silence) needs no measuring: what is still under way is what the host takes. From there the limit grows by steps that
double while they are borne and begin anew when one is not.
"""

from __future__ import annotations

import asyncio
from typing import Final, Literal

__all__ = ["CEILING", "START", "Bandwidth", "Flight", "HostLimit"]

#: Requests at once to one host: at the beginning, and at most.
START: Final = 16
CEILING: Final = 256

#: What a file weighs besides its bytes: about what a request costs both sides.
FILE_WORK: Final = 1 << 16
#: A measurement takes at least so many seconds and samples, and twice the limit.
WINDOW: Final = 0.06
SAMPLES: Final = 64
#: It goes from a file's end to a file's end, as many files as the limit or a multiple of them, since what is asked
#: together pauses and pours together; or it takes so many seconds.
LONG: Final = 2.0
#: A first round that took so long is a figure already, if it says something clearly.
EARLY: Final = 0.04
CLEAR_GAIN: Final = 1.5
#: A doubling that brought so much was limited by nothing but the number.
FULL_GAIN: Final = 1.75
CLEAR_LOSS: Final = 0.7
#: Seconds without a request after which a measurement begins anew.
IDLE: Final = 0.02
#: What doubling must bring, and what halving may cost.
GAIN: Final = 0.1
LOSS: Final = 0.03
#: Measurements between two tries: at first, at the ceiling, at most.
PATIENCE: Final = 4
PATIENCE_AT_CEILING: Final = 32
PATIENCE_MOST: Final = 64

#: hold: measured, waits for the next try. up, down: a try. refused: holds what the host took; step: tries more.
_Mode = Literal["hold", "up", "down", "refused", "step"]


class Flight:
    """One request under way, as its host's limit knows it."""

    __slots__ = ("received", "serial")

    def __init__(self, serial: int) -> None:
        self.serial = serial
        self.received = 0


class HostLimit:
    """Finds out how many requests a host should be asked at once.

    Parameters
    ----------
    ceiling : int, default 256
        What the limit never exceeds.

    Attributes
    ----------
    limit : int
        How many there may be now.
    active : int
        How many there are.
    starts : int
        How many there have been; the serial of the last flight.
    """

    def __init__(self, ceiling: int = CEILING) -> None:
        self._ceiling = ceiling
        self.limit = min(START, ceiling)
        self.active = 0
        self.starts = 0
        self._silent = 0  # under way, and no byte has come
        self._mode: _Mode = "hold"
        self._base = self.limit  # where a try began
        self._base_rate: float | None = None
        self._factor = 2  # of the next try upwards
        self._direction: Literal["up", "down"] = "up"
        self._tried_down = False
        self._doubtful = False
        self._was_clear = False  # the last try upwards brought half as much again, or more, for each doubling
        self._patience = 0
        self._backoff = PATIENCE
        self._peak = 0  # the limit before it was refused
        self._step = 1
        self._pause = 2  # rounds to hold before the next step
        self._excusing = False  # the limit that was refused had been reached
        self._cut = 0  # requests that had been sent when the limit came down last
        self._ends = self._refused = 0  # of later ones, while it was held there: such refusals are not our doing
        self._begin(0.0)
        self._idle_since: float | None = -IDLE

    @property
    def most(self) -> int:
        """What may be tried by somebody who measures for himself: what was refused is not tried."""
        return self.limit if self._mode in ("refused", "step") else self._ceiling

    @property
    def soon(self) -> int:
        """What the limit may be next, if what is measured now pays; the limit itself where nothing more is tried."""
        if self._peak or not (self._mode == "up" or (self._mode == "hold" and self._base_rate is None)):
            return self.limit
        return min((4 if self._mode == "up" else self._factor) * self.limit, self._ceiling)

    # -- samples ------------------------------------------------------------------------------------------------

    def started(self, now: float) -> Flight:
        """Note a request that is being sent."""
        if self._idle_since is not None:
            if now - self._idle_since >= IDLE:
                self._begin(now)  # nothing was asked for a while, which is not the host's slowness
            self._idle_since = None
        self.active += 1
        self.starts += 1
        self._silent += 1
        return Flight(self.starts)

    def received(self, flight: Flight, count: int, now: float) -> bool:
        """Note bytes of a body; tell whether there is room for more requests than before."""
        self._work += count
        if not flight.received:
            # The first block of a small file is followed by its end at once; one sample is enough.
            self._heard(flight)
            flight.received = count
            return False
        flight.received += count
        before = self.limit
        self._sample(now, at_end=False)
        return self.limit > before

    def finished(self, flight: Flight, now: float) -> None:
        """Note the end of a request that was answered, well or not."""
        if 10 * self.active < 9 * self.limit:
            self._slack += 1
        self._work += FILE_WORK
        self._files += 1
        if self._mode == "refused" and flight.serial > self._cut:
            self._ends += 1
        self.dropped(flight, now)
        self._sample(now, at_end=True)

    def dropped(self, flight: Flight, now: float) -> None:
        """Note the end of a request that says nothing of the host."""
        self.active -= 1
        if not self.active:
            self._idle_since = now
        if not flight.received:
            self._heard(flight)

    def refused(self, flight: Flight, now: float) -> bool:
        """Note a request that the host did not take; tell whether that was our doing and the limit came down."""
        crowded = self.active >= self.limit
        self.dropped(flight, now)
        self._refusals += 1
        walled = self._mode in ("refused", "step")
        if self._mode == "refused" and flight.serial > self._cut:
            self._ends += 1
            self._refused += 1
        if self._refusals <= self._tolerated(walled=walled):
            return False  # one in many says nothing of load
        taken = max(1, self.active)
        if self._mode == "step":
            self._pause, self._excusing = min(PATIENCE_MOST, 2 * self._pause), False
        elif not walled:
            self._peak, self._pause, self._excusing = self.limit, 2, crowded
            self._ends = self._refused = 0
        self._mode, self._patience, self._step, self._was_clear = "refused", self._pause, 1, False
        self._factor = 2
        lowered = taken < self.limit
        self.limit, self._cut = min(self.limit, taken), self.starts
        self._begin(now)
        return self._excusing and crowded and lowered

    def _tolerated(self, *, walled: bool) -> int:
        if not walled:
            return self.limit >> 5
        if self._ends < 256:
            return self.limit >> 6
        if self._ends > 4096:
            self._ends, self._refused = self._ends >> 1, self._refused >> 1
        # A share as small as is borne anyway says nothing, or the limit would creep over what the host takes.
        share = min(0.25, 2 * self._refused / self._ends - 0.04)
        return max(self.limit >> 6, int(self.limit * share))

    def _heard(self, flight: Flight) -> None:
        self._silent -= 1
        if flight.serial <= self._mark:
            self._pending -= 1

    # -- measuring ----------------------------------------------------------------------------------------------

    def _begin(self, now: float) -> None:
        """Begin to measure a limit: first all that are under way then must be heard of."""
        room = max(0, self.limit - self.active)
        self._mark = self.starts + room
        self._pending = self._silent + room
        self._settled = False
        self._enough = max(SAMPLES, 2 * self.limit)
        self._again(now)

    def _again(self, now: float) -> None:
        self._since = now
        self._work = 0
        self._samples = 0
        self._files = 0
        self._slack = 0
        self._refusals = 0

    def _sample(self, now: float, *, at_end: bool) -> None:
        self._samples += 1
        if self._settled:
            rounds = at_end and self._files % self.limit == 0
            if self._samples >= self._enough and now - self._since >= (WINDOW if rounds else LONG):
                self._judge(now)
        elif self._pending <= self.limit >> 3 and self.active <= self.limit and (at_end or now - self._since >= LONG):
            self._settle(now)

    def _settle(self, now: float) -> None:
        """All that were under way at the change have been heard of: one round is over."""
        self._settled = True
        used = 5 * self._slack <= self._samples
        if self._mode in ("refused", "step"):
            if used:
                self._grow()
            self._begin(now)
            return
        elapsed = now - self._since
        if not (used and elapsed >= EARLY and self._judge_early(self._work / elapsed, now)):
            self._again(now)

    def _judge_early(self, rate: float, now: float) -> bool:
        """Judge one round alone, where it leaves no doubt: hosts that are far away are slow to measure."""
        if self._mode == "hold" and self._base_rate is None and self.limit < self._ceiling:
            self._hold(rate, now)
        elif self._mode == "up" and self._base_rate is not None and rate >= CLEAR_GAIN * self._base_rate:
            self._accept_up(rate, now)
        elif 2 * self._files < self.limit or self._base_rate is None or rate >= CLEAR_LOSS * self._base_rate:
            return False
        elif self._mode == "down":
            self._back("up", now)
        elif self._mode == "up":
            self._judge_up(rate, now)
        else:
            return False
        return True

    def _judge(self, now: float) -> None:
        if 5 * self._slack > self._samples:
            self._again(now)  # something else was scarce: rows, or the limit of all hosts together
            return
        rate = self._work / (now - self._since)
        if self._mode == "up":
            self._judge_up(rate, now)
        elif self._mode == "down":
            self._judge_down(rate, now)
        else:
            self._hold(rate, now)

    # -- deciding -----------------------------------------------------------------------------------------------

    def _hold(self, rate: float, now: float) -> None:
        """Take a figure of the limit that is held; try another one when its time has come."""
        if self._base_rate is None:
            self._base_rate = rate
            # Where the last doubling was worth much, half as many are a loss for sure until the host changes.
            at_ceiling = PATIENCE_MOST if self._was_clear else PATIENCE_AT_CEILING
            self._patience = at_ceiling if self.limit >= self._ceiling else 0
        elif self._doubtful and rate < self._base_rate * (1 - GAIN / 2):
            self._base_rate, self._direction = rate, "up"  # half as many were not as good after all
        elif self._base_rate / CLEAR_GAIN < rate < self._base_rate * CLEAR_GAIN:
            self._base_rate = (self._base_rate + rate) / 2
        else:
            # Other files, or another state of the host: what was learnt is worth little.
            self._base_rate, self._backoff, self._was_clear = rate, PATIENCE, False
            self._patience = min(self._patience, 2)
        self._doubtful = False
        self._patience -= 1
        if self._patience > 0:
            self._again(now)
        else:
            self._try(now)

    def _try(self, now: float) -> None:
        self._base = self.limit
        if self._direction == "up" and self.limit < self._ceiling:
            self._mode, self.limit = "up", min(self._factor * self.limit, self._ceiling)
        elif self.limit > 1:
            self._mode, self.limit, self._tried_down = "down", self.limit // 2, True
        self._begin(now)

    def _judge_up(self, rate: float, now: float) -> None:
        assert self._base_rate is not None
        if rate >= self._base_rate * (1 + GAIN * (self.limit / self._base - 1)):
            self._accept_up(rate, now)
            return
        if self.limit > 2 * self._base:  # too large a step says nothing of a smaller one
            self._factor = 2
            self._back("up", now)
            self._patience = 1
            return
        loss = rate < self._base_rate * (1 - GAIN)
        down = loss or self._base > START or not self._tried_down
        self._back("down" if down else "up", now)
        if loss:
            self._patience = 1

    def _accept_up(self, rate: float, now: float) -> None:
        """Stay at what more connections were worth, and try still more at once."""
        assert self._base_rate is not None
        gain = rate / self._base_rate / max(1.0, self.limit / self._base / 2)  # as if it had been a doubling
        self._was_clear, self._factor = gain >= CLEAR_GAIN, 4 if gain >= FULL_GAIN else 2
        self._mode, self._base_rate, self._backoff = "hold", rate, PATIENCE
        if self.limit < self._ceiling:
            self._direction = "up"
            self._try(now)
        else:
            self._direction, self._base_rate = "down", None
            self._begin(now)

    def _judge_down(self, rate: float, now: float) -> None:
        assert self._base_rate is not None
        gain = rate >= self._base_rate * (1 + GAIN)
        if not gain and (self._base <= START or rate < self._base_rate * (1 - LOSS)):
            self._back("up", now)
            return
        self._mode, self._patience, self._backoff, self._doubtful = "hold", 1, PATIENCE, not gain
        self._base_rate = max(rate, self._base_rate)
        self._begin(now)

    def _back(self, direction: Literal["up", "down"], now: float) -> None:
        """Go back to where the try began."""
        self.limit, self._mode, self._direction = self._base, "hold", direction
        self._patience = self._backoff
        self._backoff = min(PATIENCE_MOST, 2 * self._backoff)
        self._begin(now)

    def _grow(self) -> None:
        """Go on after a round without a refusal."""
        if self._mode == "step":
            self._mode, self._patience, self._pause = "refused", 0, 2
        self._patience -= 1
        if self._patience > 0:
            return
        if self.limit >= self._peak:
            self._mode, self._base_rate, self._direction = "hold", None, "up"
        else:
            self.limit = min(self._peak, self.limit + self._step)
            self._mode, self._step = "step", 2 * self._step


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

    @property
    def is_limited(self) -> bool:
        """Whether there is a limit."""
        return self._rate is not None

    async def take(self, count: int) -> None:
        """Return when `count` more bytes are within the limit."""
        if self._rate is None:
            return
        now = asyncio.get_running_loop().time()
        self._paid_until = max(self._paid_until, now) + count / self._rate
        if self._paid_until - now > self.BURST:
            await asyncio.sleep(self._paid_until - now)
