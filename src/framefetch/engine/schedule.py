"""What to ask for next: positions of a plan, host by host, retries before new rows. No I/O, no clock of its own.

Each host has its own queue, limit and circuit, so that a host which is slow, away or at its limit keeps nobody else
waiting. A row that waits for its next attempt holds no slot: it lies in its host's heap until its time has come. Only
hosts that may take a request are in the rotation; the others come back to it when something of theirs ends.
"""

from __future__ import annotations

from collections import deque
from heapq import heappop, heappush
from typing import TYPE_CHECKING, Final

from framefetch.engine.circuit import Circuit, is_no_answer, is_refusal
from framefetch.engine.limits import START, Flight, HostLimit
from framefetch.engine.queue import HostQueue, Job
from framefetch.engine.retry import RetryRule
from framefetch.errors import Stalled, TooManyOpenFiles
from framefetch.options import RetryPolicy
from framefetch.urls import origin_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from framefetch.errors import FramefetchError
    from framefetch.models import Request, Requests
    from framefetch.options import Limits

__all__ = ["Schedule"]

#: Rows that may wait for their next attempt before no new ones are begun; so memory does not follow the table.
BACKLOG: Final = 4096
#: Seconds after which is asked again whether a position is to be taken.
UNDECIDED_SECONDS: Final = 0.05


class Schedule:
    """Hands out jobs.

    Parameters
    ----------
    requests : Requests
        The plan; read lazily.
    limits : Limits
        The most slots in all and for each host.
    rule : RetryRule, optional
        How often a host is asked in vain.
    take : callable, optional
        Asked when the turn of a position comes; False where it is to be left out, None where it is to be asked again.
    """

    def __init__(
        self,
        requests: Requests,
        limits: Limits,
        rule: RetryRule | None = None,
        take: Callable[[int], bool | None] | None = None,
    ) -> None:
        self._requests = requests
        self._limits = limits
        self._most = limits.connections
        self._reserve = min(START, limits.connections // 8)
        self._rule = rule or RetryRule(RetryPolicy())
        self._rotation: deque[HostQueue] = deque()
        self._grant = take
        self._hosts = {origin: self._host(origin, positions) for origin, positions in requests.queues().items()}
        self._active = 0
        self._serial = 0
        self._away = 0

    def _host(self, origin: str, positions: Iterator[int]) -> HostQueue:
        host = HostQueue(origin, positions, HostLimit(self._limits.per_host), Circuit(self._rule), take=self._grant)
        self._rotation.append(host)
        return host

    @property
    def active(self) -> int:
        """Jobs handed out and not finished."""
        return self._active

    @property
    def done(self) -> bool:
        """Whether nothing is under way and nothing is left."""
        return not self._active and not self._rotation

    def outlook(self, origin: str) -> tuple[int, int]:
        """Return how many requests a host may be asked at once, and how many before long if all goes well."""
        host = self._hosts[origin]
        limit, now = host.limit, host.limit.limit
        if host.exhausted or host.circuit.troubled or host.circuit.cause is not None:
            return now, now
        left = max(0, len(self._requests) - limit.starts)
        room = max(0, self._most - self._active) // len(self._hosts)
        return now, max(now, min(limit.soon, limit.active + min(left, room)))

    @property
    def ready(self) -> bool:
        """Whether it is worth asking for another job at once."""
        return bool(self._rotation) and self._active < self._most

    # -- what next ----------------------------------------------------------------------------------------------

    def take(self, now: float) -> Job | float | None:
        """Return the next job; or the time from which one may be ready; or None where a job must finish first."""
        if self._active >= self._most:
            return None
        soonest: float | None = None
        # The last slots are for hosts that have few: one that falls silent with many must not keep the others waiting.
        scarce = self._active >= self._most - self._reserve and len(self._hosts) > 1
        for _ in range(len(self._rotation)):
            host = self._rotation.popleft()
            may = host.circuit.cause or (host.has_room and not (scarce and host.limit.active >= START))
            found = self._from_host(host, now) if may else None
            if isinstance(found, Job) and found.cause is None:
                self._start(host, found, now)
            host.listed = not host.is_empty and (host.has_room or host.circuit.cause is not None)
            if host.listed:
                self._rotation.append(host)
            if isinstance(found, Job):
                return found
            if found is not None:
                soonest = found if soonest is None else min(soonest, found)
        return soonest

    def _from_host(self, host: HostQueue, now: float) -> Job | float | None:
        """Return a job of one host, or the time at which it may have one."""
        if host.circuit.cause is not None:
            return self._condemned(host) or _ask_again(host, now)
        begins = max(host.not_before, host.circuit.until)
        if now < begins:
            return begins
        # A host in trouble is asked for something new: the file that failed may be the trouble.
        if not host.circuit.troubled and (job := self._retry(host, now)):
            return job
        if job := self._new(host):
            return job
        if job := self._retry(host, now):
            return job
        times = [host.retries[0][0]] if host.retries else []
        if (soon := _ask_again(host, now)) is not None:
            times.append(soon)
        return min(times, default=None)

    def condemned(self, origin: str, most: int) -> list[Job]:
        """Return more jobs of a host that is down: for each of very many, whoever takes them has little to do."""
        host, jobs = self._hosts[origin], list[Job]()
        while len(jobs) < most and (job := self._condemned(host)) is not None:
            jobs.append(job)
        return jobs

    def _condemned(self, host: HostQueue) -> Job | None:
        """Return a job of a host that is down, with the cause."""
        # What waits is in memory already, and nothing else takes it out.
        job = self._retry(host, float("inf")) or self._new(host)
        if job is not None:
            job.cause = host.circuit.cause
        return job

    def _retry(self, host: HostQueue, now: float) -> Job | None:
        if not host.retries or host.retries[0][0] > now:
            return None
        job = heappop(host.retries)[2]
        if job.home:
            self._away -= 1
            self._hosts[job.home].away -= 1
        return job

    def _new(self, host: HostQueue) -> Job | None:
        if self._is_full(host) or (position := host.next()) is None:
            return None
        return Job(self._requests[position], host.origin)

    def _is_full(self, host: HostQueue) -> bool:
        """Return whether no new row of a host is begun: too many wait, here or, with some of its own, at mirrors."""
        return len(host.retries) >= BACKLOG or (host.away > 0 and self._away >= BACKLOG)

    def _start(self, host: HostQueue, job: Job, now: float) -> None:
        job.flight = host.limit.started(now)
        self._active += 1
        job.began = job.began or now

    # -- what became of it --------------------------------------------------------------------------------------

    def heard(self, job: Job, count: int, now: float) -> bool:
        """Note bytes of a body; tell whether there is room for more jobs than before."""
        host = self._hosts[job.origin]
        if job.flight is None or not host.limit.received(job.flight, count, now):
            return False
        self._list(host)
        return True

    def ended(self, job: Job, error: FramefetchError | None, now: float) -> bool:
        """Give a job's slot back; tell whether its failure was our own doing: too many at once for the host."""
        if isinstance(error, TooManyOpenFiles):
            self._most = max(1, min(self._most, self._active - 1))
            self.release(job, now)
            return True
        host, flight, job.flight = self._hosts[job.origin], job.flight, None
        assert flight is not None
        excused = False
        if error is None or not is_refusal(error):
            host.limit.finished(flight, now)
        else:
            excused = host.limit.refused(flight, now)
        if error is None or not is_no_answer(error, flight):
            host.circuit.answered(host.limit.starts)
        elif not (isinstance(error, Stalled) and error.unheard):  # that is said of a connection, not of the host
            host.circuit.failed(flight, error, host.limit.starts, now)
        self._active -= 1
        self._list(host)
        return excused

    def release(self, job: Job, now: float) -> None:
        """Give a job's slot back, having learnt nothing."""
        host, flight, job.flight = self._hosts[job.origin], job.flight, None
        assert flight is not None
        host.limit.dropped(flight, now)
        self._active -= 1
        self._list(host)

    def _list(self, host: HostQueue) -> None:
        if not host.listed and not host.is_empty:
            host.listed = True
            self._rotation.append(host)

    def again(self, job: Job, at: float) -> None:
        """Serve a released job again at a time, at the mirror it now names."""
        origin = origin_of(job.url)
        host = self._hosts.get(origin)
        if host is None:
            host = self._hosts[origin] = self._host(origin, iter(()))
            host.exhausted = True
        if origin != job.origin:
            job.home = job.home or job.origin
        job.origin, job.cause = origin, None
        if job.home:
            self._away += 1
            self._hosts[job.home].away += 1
        self._serial += 1
        heappush(host.retries, (at, self._serial, job))
        self._list(host)

    def hold(self, origin: str, until: float) -> None:
        """Ask nothing of a host before a time: all its rows wait, other hosts run on."""
        host = self._hosts[origin]
        host.not_before = max(host.not_before, until)

    # -- one slot for file after file -----------------------------------------------------------------------------

    def follow(self, origin: str, now: float, suits: Callable[[Request], bool]) -> Job | None:
        """Return the next new row of a host for a slot that was given already; None where there is none, or unsuited.

        One that does not suit stays the next.
        """
        host = self._hosts[origin]
        if self._rests(host, now) or self._is_full(host) or (position := host.next()) is None:
            return None
        request = self._requests[position]
        if not suits(request):
            host.ahead.appendleft(position)
            host.apart = True
            return None
        return Job(request, origin)

    def put_back(self, origin: str, jobs: Iterable[Job]) -> None:
        """Let rows that were to follow, in this order, be the next again: nothing was asked."""
        host = self._hosts[origin]
        host.ahead.extendleft(job.request.index for job in reversed(list(jobs)))
        self._list(host)

    def carried(self, origin: str, flight: Flight, count: int, now: float) -> Flight:
        """Note that a file of so many bytes has come in a slot, which the next one has by now."""
        host = self._hosts[origin]
        limit = host.limit
        limit.received(flight, count, now)
        limit.finished(flight, now)
        host.circuit.answered(limit.starts)
        following = limit.started(now)
        if host.has_room:
            self._list(host)
        return following

    def room(self, origin: str, held: int, now: float) -> int:
        """Return how many slots those may have who hold so many: what others need is not theirs."""
        host = self._hosts[origin]
        if self._rests(host, now):
            return 0
        room = host.limit.limit - (host.limit.active - held)
        if host.apart or (host.retries and host.retries[0][0] <= now):
            room -= 1
        others = len(self._rotation) - (1 if host.listed else 0)
        if others and self._active >= self._most - self._reserve:
            room = min(room, self._most // (others + 1))
        return room

    @staticmethod
    def _rests(host: HostQueue, now: float) -> bool:
        """Return whether a host is to be left alone, or asked by one at a time."""
        circuit = host.circuit
        return circuit.troubled or circuit.cause is not None or now < max(host.not_before, circuit.until)

    # -- more connections for a file under way --------------------------------------------------------------------

    def borrow(self, origin: str, now: float) -> Flight | None:
        """Take a slot of a host for one more connection of a file under way; None while any row waits for it."""
        host = self._hosts[origin]
        if self._active >= self._most or not host.lends:
            return None
        self._active += 1
        flight = host.limit.started(now)
        host.limit.received(flight, 1, now)  # its silence or speech says nothing of how many rows the host takes
        return flight

    def misses(self, origin: str, now: float) -> bool:
        """Return whether a row waits for a slot that was borrowed: one of this host, or any where all are taken."""
        host = self._hosts[origin]
        if not host.has_room and not host.circuit.troubled and host.is_due(now, full=self._is_full(host)):
            return True
        others = self._rotation if self._active >= self._most else ()
        return any(other.has_room and other.is_due(now, full=self._is_full(other)) for other in others)

    def give_back(self, origin: str, flight: Flight, now: float) -> None:
        """Give a borrowed slot back."""
        host = self._hosts[origin]
        host.limit.dropped(flight, now)
        self._active -= 1
        self._list(host)


def _ask_again(host: HostQueue, now: float) -> float | None:
    """Return when to ask again about a position of which nobody could tell yet whether it is to be taken."""
    return None if host.undecided is None else now + UNDECIDED_SECONDS
