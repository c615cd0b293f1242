"""Small files in one thread, from the request to the name: asked for, received, digested, written and published there.

The loop plans and records, in lots; what lies between is done by one thread on connections on loan (see
`framefetch.sources.loan`), because a task, several waits and three changes of thread are more work than a file of some
kilobytes. An *errand* is a file to ask for; errands wait in a queue for each host, which the loop keeps filled from the
schedule. A connection that has brought a file is sent on the next errand at once, and comes home when there is none,
when the host may have fewer, or when something about an answer is out of the ordinary: then the loop goes on with it as
with any other.
"""

from __future__ import annotations

import asyncio
import errno
import time
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from framefetch.engine.content import ContentCheck
from framefetch.errors import ContentMismatch, FramefetchError
from framefetch.sources.answers import is_overload
from framefetch.sources.loan import CAN_LEND, Ear, Loan, ask_all
from framefetch.store.files import SmallBody, to_the_end
from framefetch.threads import Threads

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from framefetch.engine.limits import Flight
    from framefetch.engine.queue import Job
    from framefetch.models import Receipt
    from framefetch.options import Options
    from framefetch.sources.base import Source
    from framefetch.store.files import FileStore

__all__ = ["Courier", "Errand", "Host", "Parcel", "Trip"]

#: Bodies, and bytes of them, with which no more are waited for before they are saved.
LOT, LOT_BYTES = 64, 8 << 20
#: The same number while others can be heard: who has answered is asked again first.
HEARD: Final = 4 * LOT
#: Seconds that an answer may take before the loop, which has a watch, goes on with it; and as a share of the stall
#: timeout at most.
PATIENCE: Final = 1.0
SHARE: Final = 1 / 4


@dataclass(slots=True)
class Errand:
    """A file to ask for.

    Parameters
    ----------
    job : Job
        The file.
    least, most : int
        Bytes that it may have; an answer that says otherwise is the loop's business.
    """

    job: Job
    least: int
    most: int


@dataclass(slots=True)
class Host:
    """The errands of one host, and how many connections may be out on them.

    Attributes
    ----------
    origin, source : str, Source
        Which one, and what lends connections to it.
    beside : int
        Errands that the loop keeps waiting beside those for each connection.
    errands : deque of Errand
        The next ones; the loop appends, the thread takes.
    most : int
        Connections that may go on.
    refuses : bool
        Whether the host has said that it is asked too much: all come home. The thread sets it, the loop takes it back.
    over : bool
        Whether no more errands will come soon: connections without one come home.
    out : int
        Connections that are out, as the loop knows.
    trips : int
        The same, as the thread knows.
    resting : deque of Trip
        Connections without an errand that wait for one, and some that have gone home meanwhile; the thread's.
    """

    origin: str
    source: Source
    beside: int
    errands: deque[Errand] = field(default_factory=deque)
    most: int = 0
    refuses: bool = False
    over: bool = False
    out: int = 0
    trips: int = 0
    resting: deque[Trip] = field(default_factory=deque)


@dataclass(slots=True, eq=False)
class Trip:
    """One connection on loan: the slot it takes, the errand it is on, and who waits for it to come home."""

    loan: Loan
    host: Host
    flight: Flight
    errand: Errand | None
    home: asyncio.Future[None]


@dataclass(slots=True)
class Parcel:
    """What one errand has brought: a body, with what became of it."""

    trip: Trip
    job: Job
    began: float
    ended: float
    small: SmallBody
    result: Receipt | FramefetchError | None = None


class Courier:
    """The thread, and the loop's end of it.

    Parameters
    ----------
    files : FileStore
        Where files go.
    options : Options
        How long silence may last, and whether content is looked at.
    delivered : callable
        Called in the loop with parcels, each with its result, in the order in which they came.
    came_home : callable
        Called in the loop with each trip that is over, behind its parcels.
    """

    def __init__(
        self,
        files: FileStore,
        options: Options,
        delivered: Callable[[Sequence[Parcel]], None],
        came_home: Callable[[Trip], None],
    ) -> None:
        self._files = files
        self._delivered = delivered
        self._came_home = came_home
        self._judges = options.transfer.check_content
        self._patience = min(PATIENCE, SHARE * options.timeouts.stall)
        self._loop = asyncio.get_running_loop()
        self._wanted, self._news = asyncio.Event(), asyncio.Event()
        self.ending = False
        self._outbox: deque[tuple[list[Parcel], list[Trip]]] = deque()
        self._inbox: deque[Trip] = deque()
        self._called: deque[Host] = deque()
        # The thread's own:
        self._ear: Ear | None = None
        self._out: dict[Loan, Trip] = {}
        self._heard: deque[tuple[Loan, bytes | int]] = deque()
        self._asking: list[tuple[Trip, bytes, Errand]] = []
        self._parcels: list[Parcel] = []
        self._bytes = 0
        self._homeward: list[Trip] = []

    # -- the loop's end -----------------------------------------------------------------------------------------

    def is_ready(self) -> bool:
        """Return whether anything can be sent; not where the process has no more descriptors."""
        if self._ear is None and CAN_LEND and not self.ending:
            try:
                self._ear = Ear()
            except OSError:
                return False
            self._wanted.set()
        return self._ear is not None and not self.ending

    def send(self, trip: Trip) -> None:
        """Send a connection out, on the errand that it has."""
        assert self._ear is not None
        trip.host.out += 1
        self._inbox.append(trip)
        self._ear.ring()

    def call(self, host: Host) -> None:
        """Have those who rest look again: their host has errands, is over, or may have fewer connections."""
        if host.resting and self._ear is not None and not self.ending:
            self._called.append(host)
            self._ear.ring()

    def end(self) -> None:
        """Let `run` return: nothing more will be sent."""
        if self.ending:
            return
        self.ending = True
        self._wanted.set()
        self._news.set()
        if self._ear is not None:
            self._ear.ring()

    async def run(self) -> None:
        """Tell of what comes until the end."""
        executor = Threads(1, "framefetch-courier")
        try:
            await self._wanted.wait()
            if self._ear is not None:
                await self._listen(self._loop.run_in_executor(executor, self._serve, self._ear))
        finally:
            self.end()
            executor.shutdown()
            if self._ear is not None:
                self._ear.close()

    async def _listen(self, serving: asyncio.Future[None]) -> None:
        serving.add_done_callback(lambda _: self._news.set())
        try:
            while not serving.done():
                await self._news.wait()
                self._news.clear()
                self._tell()
        finally:
            # What is published must be told of, cancelled or not.
            self.end()
            try:
                await to_the_end(serving)
            finally:
                self._tell()

    def _tell(self) -> None:
        """Tell of all that has come, also behind an error that ends the run."""
        failure: FramefetchError | None = None
        while self._outbox:
            parcels, trips = self._outbox.popleft()
            try:
                self._delivered(parcels)
            except FramefetchError as error:
                failure = failure or error
            for trip in trips:
                trip.host.out -= 1
                self._came_home(trip)
        if failure is not None:
            raise failure

    # -- the thread's end ---------------------------------------------------------------------------------------

    def _serve(self, ear: Ear) -> None:
        try:
            while not self.ending:
                self._look_round(ear)
        finally:
            for loan, _ in self._heard:
                loan.error = OSError(errno.ECONNABORTED, "what came of the answer was lost")
            for trip in (*self._out.values(), *self._inbox):
                ear.drop(trip.loan)
                self._homeward.append(trip)
            self._save()

    def _look_round(self, ear: Ear) -> None:
        self._heard.extend(ear.listen(self._next_look()))
        busy = bool(self._heard)
        now = time.monotonic()
        while self._heard:
            loan, data = self._heard[0]
            if (trip := self._out.get(loan)) is not None:
                self._hear(trip, data, now, ear)
            self._heard.popleft()
        while self._inbox:
            self._begin(self._inbox.popleft(), ear)
        while self._called:
            self._look(self._called.popleft(), ear)
        self._ask(ear)
        if not ear.has_more:  # else some may only seem to be slow
            self._give_up_the_slow(ear)
        is_lot = len(self._parcels) >= (HEARD if ear.has_more else LOT) or self._bytes >= LOT_BYTES
        if is_lot or self._homeward or (self._parcels and not busy):
            self._save()

    def _next_look(self) -> float:
        """Return how long to listen: not at all while something can be saved, else until somebody is slow."""
        if self._parcels or self._homeward:
            return 0.0
        for trip in self._out.values():  # in the order in which they were sent
            if trip.loan.asked:
                return max(0.0, trip.loan.asked_at + self._patience - time.monotonic())
        return -1.0

    def _begin(self, trip: Trip, ear: Ear) -> None:
        trip.host.trips += 1
        try:
            ear.add(trip.loan)
        except OSError:  # the system listens to so many for each user, or has no memory for it
            self._bring_home(trip, ear)
        else:
            self._go(trip, trip.errand)

    def _go(self, trip: Trip, errand: Errand | None) -> None:
        """Send a connection on an errand, with the next `_ask`."""
        trip.errand = errand
        if errand is None:
            self._out[trip.loan] = trip
            host = trip.host
            host.resting.append(trip)
            if host.errands or host.over:  # since it was looked for one; from here on the loop sees who rests
                self._called.append(host)
            return
        self._out.pop(trip.loan, None)
        self._out[trip.loan] = trip  # behind all others: they stand in the order in which they were sent
        self._asking.append((trip, trip.host.source.request(errand.job.url), errand))

    def _ask(self, ear: Ear) -> None:
        """Ask for all that is to be asked for; a connection that cannot go comes home, with its errand."""
        asking, self._asking = self._asking, []
        if not asking:
            return
        asks = [(trip.loan, request, errand.least, errand.most) for trip, request, errand in asking]
        for (trip, *_), went in zip(asking, ask_all(asks, time.monotonic()), strict=True):
            if not went or trip.loan.is_odd:
                self._bring_home(trip, ear)

    def _next(self, trip: Trip, ear: Ear) -> None:
        """Let a connection that is free go on, or home."""
        host, trip.errand = trip.host, None
        if host.trips > host.most or host.refuses or trip.loan.is_odd:
            self._bring_home(trip, ear)
            return
        try:
            errand = host.errands.popleft()
        except IndexError:
            if host.over:
                self._bring_home(trip, ear)
            else:
                self._go(trip, None)
        else:
            self._go(trip, errand)

    def _look(self, host: Host, ear: Ear) -> None:
        """Let those that rest go on, or home."""
        for _ in range(len(host.resting)):
            trip = host.resting.popleft()
            if trip.loan in self._out and trip.errand is None:
                self._next(trip, ear)

    def _hear(self, trip: Trip, data: bytes | int, now: float, ear: Ear) -> None:
        loan, errand = trip.loan, trip.errand
        began = loan.asked_at
        answer = loan.take(data, now)
        if answer is None or errand is None:
            if loan.is_odd:
                trip.host.refuses = trip.host.refuses or (loan.head is not None and is_overload(loan.head))
                self._bring_home(trip, ear)
            return
        small = SmallBody(errand.job.request, answer.body, length_known=True, etag=answer.etag)
        self._take(Parcel(trip, errand.job, began, now, small))
        self._next(trip, ear)

    def _take(self, parcel: Parcel) -> None:
        request = parcel.job.request
        if self._judges and not request.digests:
            try:
                check = ContentCheck(request.path)
                check.feed(parcel.small.body)
                check.finish()
            except ContentMismatch as error:
                parcel.result = error
        self._parcels.append(parcel)
        self._bytes += len(parcel.small.body)

    def _give_up_the_slow(self, ear: Ear) -> None:
        until = time.monotonic() - self._patience
        slow = []
        for trip in self._out.values():
            if trip.loan.asked:
                if trip.loan.asked_at > until:
                    break
                slow.append(trip)
        for trip in slow:
            self._bring_home(trip, ear)

    def _bring_home(self, trip: Trip, ear: Ear) -> None:
        ear.drop(trip.loan)
        self._out.pop(trip.loan, None)
        trip.host.trips -= 1
        self._homeward.append(trip)

    def _save(self) -> None:
        """Save what has come, and let the loop know; also who comes home."""
        parcels, self._parcels, self._bytes = self._parcels, [], 0
        homeward, self._homeward = self._homeward, []
        good = [parcel for parcel in parcels if parcel.result is None]
        for parcel, result in zip(good, self._files.save_here([parcel.small for parcel in good]), strict=True):
            parcel.result = result
        self._outbox.append((parcels, homeward))
        self._loop.call_soon_threadsafe(self._news.set)
