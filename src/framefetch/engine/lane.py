"""What one transfer may use: its share of the bandwidth, and connections of its host beside the one it has."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from framefetch.engine.limits import Bandwidth, Flight
    from framefetch.engine.queue import Job
    from framefetch.engine.schedule import Schedule

__all__ = ["Lane"]


class Lane:
    """The lane of one job.

    Parameters
    ----------
    job : Job
        Whose transfer it is.
    schedule : Schedule
        Where connections are counted; it hears of all that is received.
    bandwidth : Bandwidth
        The limit of all transfers together.
    clock : callable
        Returns the time in seconds.
    wake : callable
        Called when there is room for more jobs than before.
    """

    __slots__ = ("_bandwidth", "_clock", "_flights", "_job", "_schedule", "_wake", "is_limited")

    def __init__(
        self,
        job: Job,
        schedule: Schedule,
        bandwidth: Bandwidth,
        clock: Callable[[], float],
        wake: Callable[[], None],
    ) -> None:
        self._job = job
        self._schedule = schedule
        self._bandwidth = bandwidth
        self._clock = clock
        self._wake = wake
        self._flights: list[Flight] | None = None
        #: Whether there is a limit of bandwidth.
        self.is_limited = bandwidth.is_limited

    async def take(self, count: int) -> None:
        """Return when `count` more bytes are within the limit."""
        if self._schedule.heard(self._job, count, self._clock()):
            self._wake()
        if self.is_limited:
            await self._bandwidth.take(count)

    def borrow(self) -> bool:
        """Take a connection, if no row waits for it, and ranges of this file may be trusted."""
        job = self._job
        flight = self._schedule.borrow(job.origin, self._clock()) if job.attempts.trusts_ranges else None
        if flight is None:
            return False
        self._flights = self._flights or []
        self._flights.append(flight)
        return True

    def misses(self) -> bool:
        """Return whether a row waits for one of them."""
        return self._schedule.misses(self._job.origin, self._clock())

    def give_back(self) -> None:
        """Give one back."""
        assert self._flights is not None
        self._schedule.give_back(self._job.origin, self._flights.pop(), self._clock())
        self._wake()

    def close(self) -> None:
        """Give all back that are still borrowed."""
        while self._flights:
            self.give_back()
