"""What to ask for next: positions of a plan, host by host, retries before new rows. No I/O, no clock of its own.

Each host has its own queue, so that a host which is slow, away or at its limit keeps nobody else waiting. A row that
waits for its next attempt holds no slot: it lies in its host's heap until its time has come.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from heapq import heappop, heappush
from typing import TYPE_CHECKING

from framefetch.engine.retry import Attempts
from framefetch.urls import origin_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from framefetch.models import Request, Requests
    from framefetch.options import Limits

__all__ = ["Job", "Schedule"]


@dataclass(slots=True)
class Job:
    """A file under way, with what has been tried; `making` says which of its links is in use, see `Links`."""

    request: Request
    origin: str
    attempts: Attempts = field(default_factory=Attempts)
    mirror: int = 0
    dead: set[int] = field(default_factory=set)
    began: float = 0.0
    making: int = 0

    @property
    def url(self) -> str:
        """The mirror to ask now."""
        return self.request.urls[self.mirror]


@dataclass(slots=True)
class _Host:
    positions: Iterator[int]
    limit: int
    active: int = 0
    not_before: float = 0.0
    exhausted: bool = False
    retries: list[tuple[float, int, Job]] = field(default_factory=list)


class Schedule:
    """Hands out jobs.

    Parameters
    ----------
    requests : Requests
        The plan; read lazily.
    limits : Limits
        Slots in all and for each host.
    """

    def __init__(self, requests: Requests, limits: Limits) -> None:
        self._requests = requests
        self._limits = limits
        self._hosts = {origin: _Host(positions, limits.per_host) for origin, positions in requests.queues().items()}
        self._rotation = deque(self._hosts)
        self._active = 0
        self._serial = 0

    @property
    def active(self) -> int:
        """Jobs handed out and not finished."""
        return self._active

    @property
    def done(self) -> bool:
        """Whether nothing is under way and nothing is left."""
        return not self._active and not self._rotation

    def take(self, now: float) -> Job | float | None:
        """Return the next job; or the time from which one may be ready; or None where a job must finish first."""
        if self._active >= self._limits.connections:
            return None
        soonest: float | None = None
        for _ in range(len(self._rotation)):
            origin = self._rotation[0]
            host = self._hosts[origin]
            if host.active < host.limit:
                found = self._from_host(origin, host, now)
                if isinstance(found, Job):
                    self._rotation.rotate(-1)
                    return self._start(host, found, now)
                if found is None and host.exhausted and not host.retries:
                    self._rotation.popleft()
                    continue
                if found is not None:
                    soonest = found if soonest is None else min(soonest, found)
            self._rotation.rotate(-1)
        return soonest

    def _from_host(self, origin: str, host: _Host, now: float) -> Job | float | None:
        """Return a job of one host, or the time at which it may have one."""
        if now < host.not_before:
            return host.not_before
        if host.retries and host.retries[0][0] <= now:
            return heappop(host.retries)[2]
        if not host.exhausted:
            position = next(host.positions, None)
            if position is not None:
                return Job(self._requests[position], origin)
            host.exhausted = True
        return host.retries[0][0] if host.retries else None

    def _start(self, host: _Host, job: Job, now: float) -> Job:
        host.active += 1
        self._active += 1
        job.began = job.began or now
        return job

    def release(self, job: Job) -> None:
        """Give a job's slot back."""
        self._hosts[job.origin].active -= 1
        self._active -= 1

    def again(self, job: Job, at: float) -> None:
        """Serve a released job again at a time, at the mirror it now names."""
        origin = origin_of(job.url)
        host = self._hosts.get(origin)
        if host is None:
            host = self._hosts[origin] = _Host(iter(()), self._limits.per_host, exhausted=True)
        if origin not in self._rotation:
            self._rotation.append(origin)
        job.origin = origin
        self._serial += 1
        heappush(host.retries, (at, self._serial, job))

    def hold(self, origin: str, until: float) -> None:
        """Ask nothing of a host before a time: all its rows wait, other hosts run on."""
        host = self._hosts[origin]
        host.not_before = max(host.not_before, until)
