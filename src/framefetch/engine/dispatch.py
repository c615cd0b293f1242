"""Which connections go out with the courier, and on which errands; what they bring is counted here."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from framefetch.engine.courier import Courier, Errand, Host, Parcel, Trip
from framefetch.engine.intake import BLOCK

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from framefetch.engine.base import Tools
    from framefetch.engine.queue import Job
    from framefetch.engine.schedule import Schedule
    from framefetch.errors import FramefetchError
    from framefetch.models import Receipt, Request
    from framefetch.store.files import SmallBody

__all__ = ["Dispatch"]

#: Errands that wait for each connection that is out, and beside these at first and at most: so many that the thread
#: need not wait for the loop, so few that little is undone where no connection stays out for long.
AHEAD: Final = 2
FIRST: Final = 2
BESIDE: Final = 32


class Dispatch:
    """The loop's side of small files that a thread deals with.

    Parameters
    ----------
    schedule : Schedule
        Where errands come from; it hears of all that is received.
    tools : Tools
        Sources, files and options.
    saved : callable
        Called with jobs, their bodies, and for each its receipt or why it could not be kept.
    wake : callable
        Called when there may be something for a worker.
    """

    def __init__(
        self,
        schedule: Schedule,
        tools: Tools,
        saved: Callable[[Sequence[tuple[Job, SmallBody]], Sequence[Receipt | FramefetchError]], None],
        wake: Callable[[], None],
    ) -> None:
        self._schedule = schedule
        self._tools = tools
        self._saved = saved
        self._wake = wake
        self._loop = asyncio.get_running_loop()
        self._courier = Courier(tools.files, tools.options, self._delivered, self._came_home)
        self._hosts: dict[str, Host] = {}
        # A bandwidth limit is the loop's to keep, and so is who makes links anew.
        self._works = tools.options.limits.bandwidth is None and tools.options.refresh_url is None
        cap = tools.options.transfer.max_bytes
        self._most = BLOCK if cap is None else min(cap, BLOCK)

    async def run(self) -> None:
        """Take in what the courier brings until the end."""
        await self._courier.run()

    def end(self) -> None:
        """Let `run` return: nothing is under way."""
        self._courier.end()

    async def send(self, job: Job) -> Trip | None:
        """Send a connection out with the courier, a job's file first; return its trip when it is home.

        None where the job has to be dealt with in the ordinary way: there is no such connection, or it is no errand.
        """
        trip = self._trip(job) if self._works and not job.attempts.made and self._suits(job.request) else None
        if trip is None:
            return None
        self._courier.send(trip)
        self._refill(trip.host)
        under_way = self._tools.meter.under_way
        under_way.add(trip.loan)
        try:
            await trip.home
        except asyncio.CancelledError:
            if not trip.home.cancelled():
                self._drop(trip)
            raise
        finally:
            under_way.discard(trip.loan)
        if trip.errand is None:
            self._drop(trip)
        else:
            trip.errand.job.flight = trip.flight
            if not trip.loan.asked:
                trip.host.source.take_back(trip.loan)
        return trip

    def _trip(self, job: Job) -> Trip | None:
        host = self._hosts.get(job.origin)
        if host is None:
            source = self._tools.sources[job.origin.partition(":")[0]]
            host = self._hosts[job.origin] = Host(job.origin, source, FIRST)
        loan = None if host.refuses else host.source.lend(job.url)
        if loan is None:
            return None
        if not self._courier.is_ready():
            host.source.take_back(loan)
            return None
        assert job.flight is not None
        trip = Trip(loan, host, job.flight, self._errand(job), self._loop.create_future())
        job.flight = None
        return trip

    def _suits(self, request: Request) -> bool:
        size = request.size
        return (size is None or size <= BLOCK) and not self._tools.files.keeps(request)

    def _errand(self, job: Job) -> Errand:
        size = job.request.size
        least, most = (0, self._most) if size is None else (size, size)
        return Errand(job, least, most)

    def _refill(self, host: Host) -> None:
        """Let there be enough errands for those who are out; and let no more go on than may."""
        now, schedule, errands = self._loop.time(), self._schedule, host.errands
        host.most = schedule.room(host.origin, host.out, now)
        over = host.refuses or self._courier.ending
        while not over and len(errands) < AHEAD * host.out + host.beside:
            job = schedule.follow(host.origin, now, self._suits)
            over = job is None
            if job is not None:
                errands.append(self._errand(job))
        host.over = over
        self._courier.call(host)

    def look(self, origin: str) -> None:
        """Let connections that are out hear what the loop has learnt of their host: that it is to be left alone."""
        host = self._hosts.get(origin)
        if host is not None and host.out:
            self._refill(host)

    # -- what the courier tells -----------------------------------------------------------------------------------

    def _delivered(self, parcels: Sequence[Parcel]) -> None:
        meter, hosts = self._tools.meter, {}
        for parcel in parcels:
            job, trip, size = parcel.job, parcel.trip, len(parcel.small.body)
            job.attempts.made += 1
            job.began = parcel.began
            meter.requests += 1
            meter.received += size
            trip.flight = self._schedule.carried(trip.host.origin, trip.flight, size, parcel.ended)
            hosts[trip.host.origin] = trip.host
        results = [parcel.result for parcel in parcels if parcel.result is not None]
        try:
            self._saved([(parcel.job, parcel.small) for parcel in parcels], results)
        finally:
            for host in hosts.values():
                host.beside = min(BESIDE, 2 * host.beside)
                self._refill(host)

    def _came_home(self, trip: Trip) -> None:
        """Take a connection back; with an errand on it, whoever sent it goes on."""
        host = trip.host
        if trip.home.done():
            self._drop(trip)  # nobody waits for it any more
        else:
            trip.home.set_result(None)
        if host.out:
            self._refill(host)
        else:
            host.refuses = False
            self._schedule.put_back(host.origin, [errand.job for errand in host.errands])
            host.errands.clear()
            host.beside = FIRST
        self._wake()

    def _drop(self, trip: Trip) -> None:
        trip.host.source.take_back(trip.loan)
        self._schedule.give_back(trip.host.origin, trip.flight, self._loop.time())
