"""When to ask again: a decision, apart from the waiting. The only module that knows tenacity.

Only errors of our own tree that call themselves retryable are repeated; anything else, cancellation above all, passes
through untouched (a negated predicate would catch it: jd/tenacity#529).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from framefetch.errors import ChangedMidway, DigestMismatch, FramefetchError, RangeMismatch

if TYPE_CHECKING:
    from tenacity import RetryCallState, Retrying

    from framefetch.options import RetryPolicy

__all__ = ["Attempts", "Decision", "RetryRule", "explained"]


#: How many times the attempts of the policy a file may take that grows with each.
PROGRESS_FACTOR = 4


#: Failures after which a file is fetched in one piece.
_WRONG = (DigestMismatch, ChangedMidway, RangeMismatch)


@dataclass(slots=True)
class Attempts:
    """What has been tried for one file.

    Attributes
    ----------
    made : int
        Attempts in all.
    rounds : int
        Times that every usable mirror has failed.
    all_rounds : int
        The same, not begun anew by progress.
    kept : int
        Bytes that the last failure left for the next attempt.
    excused : int
        Failures that were our own doing and count for no round: too many at once for the host, or given up early.
    waited : float
        Seconds the servers' Retry-After headers have added up to.
    first : FramefetchError or None
        The first failure.
    hope : FramefetchError or None
        The last failure that may pass.
    repeats : dict
        How often each class of error came.
    """

    made: int = 0
    rounds: int = 0
    all_rounds: int = 0
    kept: int = 0
    excused: int = 0
    waited: float = 0.0
    first: FramefetchError | None = None
    hope: FramefetchError | None = None
    repeats: dict[type, int] | None = None

    @property
    def trusts_ranges(self) -> bool:
        """Whether ranges may be fetched side by side: not once the whole or a range of it was wrong."""
        repeats = self.repeats
        return repeats is None or not any(repeats.get(kind) for kind in _WRONG)

    def note(self, error: FramefetchError) -> int:
        """Count a failure; return how often its class came before."""
        self.first = self.first or error
        if error.retryable:
            self.hope = error
        if self.repeats is None:
            self.repeats = {}
        before = self.repeats.get(type(error), 0)
        self.repeats[type(error)] = before + 1
        return before


@dataclass(frozen=True, slots=True)
class Decision:
    """Ask again after so many seconds, or give up (None) for a reason beyond the error itself."""

    wait: float | None
    reason: str = ""


class RetryRule:
    """Decides whether and when a file is asked for again.

    Parameters
    ----------
    policy : RetryPolicy
        How often, and how long between.
    """

    def __init__(self, policy: RetryPolicy) -> None:
        self._policy = policy

    @cached_property
    def _retrying(self) -> Retrying:
        """The rule in tenacity's words; that takes 16 ms to import, so it is done when something has failed.

        Raises
        ------
        OSError, ImportError
            Where it cannot be imported just now: what has failed may have done so for want of descriptors.
        """
        from tenacity import Retrying, retry_if_exception, stop_after_attempt, wait_random_exponential

        policy = self._policy
        return Retrying(
            stop=stop_after_attempt(policy.attempts),
            # "Full jitter": evenly between zero and min(cap, base * 2**n), so that clients do not come in waves.
            wait=wait_random_exponential(multiplier=policy.base, max=policy.cap),
            retry=retry_if_exception(lambda error: isinstance(error, FramefetchError) and error.retryable),
        )

    def _state(self, failures: int) -> RetryCallState:
        from tenacity import RetryCallState

        state = RetryCallState(self._retrying, fn=None, args=(), kwargs={})
        state.attempt_number = failures
        return state

    @property
    def attempts(self) -> int:
        """Tries in a row without progress."""
        return self._policy.attempts

    def pause(self, failures: int) -> float:
        """Draw how long to wait after so many failures in a row."""
        try:
            return float(self._retrying.wait(self._state(failures)))
        except (OSError, ImportError):
            return self._policy.base

    def count(self, attempts: Attempts, *, kept: int = 0, excused: bool) -> None:
        """Count a failed round.

        Bytes that the next attempt can build on begin the count anew. A round that is excused does not count, no more
        often than a file may be tried. Four times the attempts of the policy are the end in any case.
        """
        most = self._policy.attempts
        attempts.all_rounds += 1
        if excused and attempts.excused < most:
            attempts.excused += 1
            attempts.rounds = 0 if kept > attempts.kept else attempts.rounds
        elif kept > attempts.kept:
            attempts.rounds = 1
        else:
            attempts.rounds += 1
        if attempts.all_rounds >= PROGRESS_FACTOR * most:
            attempts.rounds = max(attempts.rounds, most)
        attempts.kept = kept

    def decide(self, attempts: Attempts, error: FramefetchError) -> Decision:
        """Decide after a failed round.

        Parameters
        ----------
        attempts : Attempts
            With this failure counted.
        error : FramefetchError
            The failure.
        """
        try:
            state = self._state(attempts.rounds)
            state.set_exception((type(error), error, error.__traceback__))
            passes, ends = self._retrying.retry(state), self._retrying.stop(state)
            wait = float(self._retrying.wait(state))
        except (OSError, ImportError):  # descriptors come back as files end, and the rule can be asked then
            passes, ends, wait = error.retryable, attempts.rounds >= self._policy.attempts, self._policy.base
        if not passes:
            return Decision(None)
        if ends:
            return Decision(None, f"after {attempts.made} attempts" if attempts.made > 1 else "after one attempt")
        if error.retry_after is None:
            return Decision(wait)
        if attempts.waited + error.retry_after > self._policy.budget:
            return Decision(
                None,
                f"the server asks to wait {_duration(error.retry_after)}; the budget is {self._policy.budget:g} s",
            )
        attempts.waited += error.retry_after
        return Decision(error.retry_after)

    def rest(self, error: FramefetchError) -> float | None:
        """Return how long the host that answered is to be left alone, whatever becomes of the file.

        None where it does not say, will never have the file, or asks for longer than any file may wait.
        """
        wait = error.retry_after
        return wait if error.retryable and wait is not None and wait <= self._policy.budget else None


def _duration(seconds: float) -> str:
    for unit, length in (("years", 31_557_600.0), ("days", 86_400.0), ("hours", 3600.0)):
        if seconds >= 2 * length:
            return f"{seconds / length:,.0f} {unit}"
    return f"{seconds:,.0f} s"


def explained(error: FramefetchError, attempts: Attempts, reason: str) -> FramefetchError:
    """Return the error with what was tried added to its message."""
    text = str(error)
    notes = [reason] if reason else []
    first = attempts.first
    if first is not None and first is not error and str(first) != text:
        notes.append(f"first failure: {type(first).__name__}: {first}")
    if notes:
        error.args = (f"{text} [{'; '.join(notes)}]",)
    return error
