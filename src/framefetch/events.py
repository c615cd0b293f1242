"""What happens during a run, as typed values, for whoever wants to watch.

Progress is events, not logs. Byte counts are merged into one event a tick, so that watching costs nothing
measurable. An observer that raises is logged once and dropped: no display can fail a download. Calls that overlap are
a run each, and every event tells its own: `run` is a number that no other run of this process has.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from itertools import count
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from framefetch.models import Outcome

__all__ = ["BytesReceived", "Dispatcher", "Event", "FileFinished", "Observer", "RunFinished", "RunStarted"]

logger = logging.getLogger("framefetch")

_NUMBERS = count(1)


@dataclass(frozen=True, slots=True)
class RunStarted:
    """A run begins: so many rows and distinct files, so many held already, so many bytes to come (None: unknown).

    Told when it is known; a file that was fetched before that is told of behind it.
    """

    rows: int
    files: int
    held: int
    to_fetch: int
    expected_bytes: int | None
    run: int = field(default=0, compare=False)


@dataclass(frozen=True, slots=True)
class BytesReceived:
    """Bytes of bodies received and requests sent since the run began."""

    total: int
    requests: int
    run: int = field(default=0, compare=False)


@dataclass(frozen=True, slots=True)
class FileFinished:
    """One file reached its end, good or bad; a downloaded one is committed."""

    outcome: Outcome
    run: int = field(default=0, compare=False)


@dataclass(frozen=True, slots=True)
class RunFinished:
    """A run has ended, after so many seconds."""

    seconds: float
    run: int = field(default=0, compare=False)


Event: TypeAlias = RunStarted | BytesReceived | FileFinished | RunFinished
Observer: TypeAlias = Callable[[Event], None]


class Dispatcher:
    """Hands the events of one run to observers, and survives them."""

    def __init__(self, observers: Iterable[Observer] = ()) -> None:
        self.run = next(_NUMBERS)
        self._observers = list(observers)

    def __bool__(self) -> bool:
        """Return whether anyone watches: events need not be made for nobody."""
        return bool(self._observers)

    def emit(self, event: Event) -> None:
        """Hand one event to every observer; drop those that raise."""
        for observer in tuple(self._observers):
            try:
                observer(event)
            except Exception:
                self._observers.remove(observer)
                logger.exception("observer %r raised and is no longer called", observer)
