"""What waits for a host, and what a file under way has gone through. No I/O, no clock of its own."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from framefetch.engine.retry import Attempts

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from framefetch.engine.circuit import Circuit
    from framefetch.engine.limits import Flight, HostLimit
    from framefetch.errors import FramefetchError
    from framefetch.models import Request

__all__ = ["HostQueue", "Job"]


@dataclass(slots=True)
class Job:
    """A file under way, with what has been tried.

    With a `cause`, one that is not to be tried at its mirror; `making` says which of its links is in use, see `Links`;
    `home` is the host in whose queue it was, once it has gone on to a mirror on another.
    """

    request: Request
    origin: str
    attempts: Attempts = field(default_factory=Attempts)
    mirror: int = 0
    dead: set[int] = field(default_factory=set)
    began: float = 0.0
    flight: Flight | None = None
    cause: FramefetchError | None = None
    making: int = 0
    home: str = ""

    @property
    def url(self) -> str:
        """The mirror to ask now."""
        return self.request.urls[self.mirror]


@dataclass(slots=True)
class HostQueue:
    """One host: its rows, its limit, and whether it answers."""

    origin: str
    positions: Iterator[int]
    limit: HostLimit
    circuit: Circuit
    not_before: float = 0.0
    take: Callable[[int], bool | None] | None = None
    exhausted: bool = False
    #: Positions that were granted, and are the next; and whether the first of them is not for a slot that goes on.
    ahead: deque[int] = field(default_factory=deque)
    apart: bool = False
    undecided: int | None = None
    listed: bool = True
    retries: list[tuple[float, int, Job]] = field(default_factory=list)
    #: Rows of its queue that have gone on to a mirror on another host, and wait.
    away: int = 0

    def next(self) -> int | None:
        """Return the next position; None where there is none, or where it is `undecided` whether it is to be taken."""
        self.apart = False
        if self.ahead:
            return self.ahead.popleft()
        position: int | None = None
        while position is None and not self.exhausted:
            position, self.undecided = self.undecided, None
            if position is None and (position := next(self.positions, None)) is None:
                self.exhausted = True
            elif self.take is not None and not (granted := self.take(position)):
                if granted is None:
                    self.undecided = position
                    return None
                position = None
        return position

    @property
    def has_room(self) -> bool:
        """Whether one more request may be sent; a host in trouble is asked by one at a time."""
        return self.limit.active < (1 if self.circuit.troubled else self.limit.limit)

    @property
    def is_empty(self) -> bool:
        """Whether nothing is left for it."""
        return self.exhausted and not self.ahead and not self.retries

    @property
    def lends(self) -> bool:
        """Whether a file under way may have one more connection: no row waits for one, now or later."""
        if self.retries or self.circuit.troubled or self.limit.active >= self.limit.most:
            return False
        if not self.ahead and (position := self.next()) is not None:
            self.ahead.append(position)
        return self.exhausted and not self.ahead

    def is_due(self, now: float, *, full: bool) -> bool:
        """Return whether a row waits for nothing but a slot; where it is full, no new one is begun."""
        waits = (not full and (not self.exhausted or self.ahead)) or (self.retries and self.retries[0][0] <= now)
        return bool(waits) and now >= max(self.not_before, self.circuit.until)
