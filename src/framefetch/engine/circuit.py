"""Whether a host answers at all: found out once for all its rows, not by each of them. No I/O, no clock.

A round is a failure of a request that was sent after the last answer and after the last failed round: what was sent
together fails together and counts once. After a round the host is left alone for a while, drawn as the retry policy
says, then one request asks again. After as many rounds as a file has attempts the host is down, and its files fail
with one cause. Twice as many are granted to a host that has answered in this run. Any answer, a 404 as well, ends it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from framefetch.errors import (
    ConnectFailed,
    ConnectionLost,
    FramefetchError,
    NameNotResolved,
    Stalled,
    StatusError,
    TlsFailed,
    TooSlow,
)
from framefetch.sources.answers import OVERLOAD

if TYPE_CHECKING:
    from framefetch.engine.limits import Flight
    from framefetch.engine.retry import RetryRule

__all__ = ["Circuit", "is_no_answer", "is_refusal"]


def is_refusal(error: FramefetchError) -> bool:
    """Return whether an error may mean that fewer requests at once would succeed."""
    if isinstance(error, StatusError):
        return error.status in OVERLOAD
    return isinstance(error, ConnectFailed | ConnectionLost | NameNotResolved | TlsFailed | Stalled | TooSlow)


def is_no_answer(error: FramefetchError, flight: Flight) -> bool:
    """Return whether an error may mean that no request to this host succeeds now."""
    return not flight.received and is_refusal(error)


class Circuit:
    """Judges one host.

    Parameters
    ----------
    rule : RetryRule
        How many rounds, and how long between.

    Attributes
    ----------
    cause : FramefetchError or None
        Why the host's files fail; None while it is asked.
    until : float
        The host is left alone before this time.
    """

    __slots__ = ("_answered", "_began", "_heard", "_rounds", "_rule", "_tries", "cause", "until")

    def __init__(self, rule: RetryRule) -> None:
        self._rule = rule
        self._rounds = 0
        self._tries = 0
        self._began = 0.0
        self._heard = 0  # requests that had been sent when the last answer came, or the last round failed
        self._answered = False
        self.cause: FramefetchError | None = None
        self.until = 0.0

    @property
    def troubled(self) -> bool:
        """Whether the host is asked by one request at a time."""
        return self._rounds > 0

    def answered(self, starts: int) -> None:
        """Note an answer, when so many requests had been sent."""
        self._answered = True
        self._heard = starts
        if self._rounds or self._tries:
            self._rounds = self._tries = 0
            self.until = 0.0

    def failed(self, flight: Flight, error: FramefetchError, starts: int, now: float) -> None:
        """Note a request without an answer."""
        self._began = self._began if self._tries else now
        self._tries += 1
        if flight.serial <= self._heard or self.cause is not None:
            return
        self._heard = starts
        self._rounds += 1
        if self._rounds < self._granted(error):
            self.until = now + self._rule.pause(self._rounds)
        else:
            self.cause = self._condemn(error, now)

    def _granted(self, error: FramefetchError) -> int:
        """Return how many rounds there are before an error of this kind is believed."""
        granted = self._rule.attempts
        if not error.retryable:
            granted = 1
        elif error.repeats is not None:
            granted = min(granted, 1 + error.repeats)
        return 2 * granted if self._answered else granted

    def _condemn(self, error: FramefetchError, now: float) -> FramefetchError:
        """Return the cause that all files share."""
        tries = "1 try" if self._tries == 1 else f"{self._tries} tries in {now - self._began:.1f} s"
        text = (
            f"{error} [the host is given up after {tries} without an answer; nothing more is asked of it in this run]"
        )
        if isinstance(error, StatusError):
            return StatusError(text, status=error.status, retry_after=error.retry_after)
        return type(error)(text)
