"""Servers that exist on paper: what a limit comes to, without sockets or clocks.

A request waits for its first byte, then its body arrives in blocks. All bodies share the server's capacity evenly, so
that one number, the bytes each connection has been given so far, says which of them are through.
"""

import math
import random
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from heapq import heappop, heappush

from framefetch.engine.limits import Flight, HostLimit

BLOCK = 1 << 20


class Fixed(HostLimit):
    """A limit that learns nothing."""

    def __init__(self, limit: int) -> None:
        super().__init__(limit)
        self.limit = limit

    def _sample(self, now: float, *, at_end: bool) -> None:
        pass

    def refused(self, flight: Flight, now: float) -> bool:
        self.dropped(flight, now)
        return False


@dataclass(frozen=True)
class Server:
    """How a host behaves; `capacity` gives bytes a second for a number of requests under way."""

    latency: float = 0.001
    capacity: Callable[[int], float] = lambda active: math.inf
    per_connection: float = math.inf
    admits: int = 1 << 30
    jitter: float = 0.1
    connect: float = 0.0
    flaky: float = 0.0


@dataclass
class Run:
    """What came of it."""

    seconds: float = 0.0
    refused: int = 0
    most_refusals: int = 0
    limits: list[int] = field(default_factory=list)


def fetch(server: Server, sizes: list[int], limit: HostLimit, seed: int = 0, wait: float = 0.25) -> Run:
    """Fetch files of these sizes from a server; refused ones are asked for again after a random wait."""
    return _Fetch(server, sizes, limit, random.Random(seed), wait).run()


class _Fetch:
    def __init__(self, server: Server, sizes: list[int], limit: HostLimit, dice: random.Random, wait: float) -> None:
        self.server, self.sizes, self.limit, self.dice, self.wait = server, sizes, limit, dice, wait
        self.queue = deque(range(len(sizes)))
        self.refusals = [0] * len(sizes)
        self.timed: list[tuple[float, int, str, int, Flight | None]] = []
        self.bodies: list[tuple[float, int, int, Flight, int]] = []
        self.now = self.given = 0.0
        self.serial = self.left = 0
        self.admitted = self.connected = 0
        self.out = Run()

    def run(self) -> Run:
        self.left = len(self.sizes)
        while self.left:
            self.start()
            self.step()
        self.out.seconds = self.now
        self.out.most_refusals = max(self.refusals)
        return self.out

    def start(self) -> None:
        while self.queue and self.limit.active < self.limit.limit:
            job, flight = self.queue.popleft(), self.limit.started(self.now)
            delay = self.latency()
            if self.limit.active > self.connected:
                self.connected += 1
                delay += self.server.connect
            if self.admitted >= self.server.admits or self.dice.random() < self.server.flaky:
                self.at(self.server.latency / 2, "refused", job, flight)
            else:
                self.admitted += 1
                self.at(delay, "first byte", job, flight)

    def latency(self) -> float:
        """Draw a time to first byte: mostly the usual one, with a tail above it where there is jitter."""
        return self.server.latency * (1 - self.server.jitter / 2 + self.server.jitter * self.dice.expovariate(1))

    def at(self, delay: float, what: str, job: int, flight: Flight | None) -> None:
        self.serial += 1
        heappush(self.timed, (self.now + delay, self.serial, what, job, flight))

    def step(self) -> None:
        """Go on to the next thing that happens."""
        rate = 0.0
        if self.bodies:
            rate = min(self.server.per_connection, self.server.capacity(self.admitted) / len(self.bodies), 1e12)
        through = self.now + (self.bodies[0][0] - self.given) / rate if self.bodies else math.inf
        if self.timed and self.timed[0][0] <= through:
            at = self.timed[0][0]
            self.given += (at - self.now) * rate
            self.now = at
            _, _, what, job, flight = heappop(self.timed)
            self.happened(what, job, flight)
        else:
            self.given, self.now = self.bodies[0][0], max(self.now, through)
            self.block()

    def happened(self, what: str, job: int, flight: Flight | None) -> None:
        if what == "again":
            self.queue.appendleft(job)
        elif what == "refused":
            self.limit.refused(flight, self.now)
            self.out.refused += 1
            self.refusals[job] += 1
            self.at(self.dice.uniform(0, self.wait), "again", job, None)
        else:
            self.expect(job, flight, self.sizes[job])

    def expect(self, job: int, flight: Flight, left: int) -> None:
        self.serial += 1
        heappush(self.bodies, (self.given + min(left, BLOCK), self.serial, job, flight, left))

    def block(self) -> None:
        _, _, job, flight, left = heappop(self.bodies)
        self.limit.received(flight, min(left, BLOCK), self.now)
        if left > BLOCK:
            self.expect(job, flight, left - BLOCK)
            return
        self.admitted -= 1
        self.left -= 1
        self.limit.finished(flight, self.now)
        self.out.limits.append(self.limit.limit)
