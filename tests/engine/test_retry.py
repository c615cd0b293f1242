"""Whether and when to ask again: decisions without a clock."""

import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from framefetch import RetryPolicy
from framefetch.engine.retry import Attempts, RetryRule, explained
from framefetch.errors import (
    ConnectFailed,
    ContentMismatch,
    DigestMismatch,
    FramefetchError,
    ProtocolError,
    Stalled,
    StatusError,
    TlsFailed,
)


def after(rounds: int, error: Exception, policy: RetryPolicy = RetryPolicy()) -> object:
    attempts = Attempts(made=rounds, rounds=rounds)
    if isinstance(error, FramefetchError):
        attempts.note(error)
    return RetryRule(policy).decide(attempts, error)


@given(rounds=st.integers(1, 60), base=st.floats(0, 10), cap=st.floats(0, 100))
def test_waits_are_drawn_below_the_doubling_bound_and_the_cap(rounds: int, base: float, cap: float) -> None:
    decision = after(rounds, ConnectFailed("x"), RetryPolicy(attempts=100, base=base, cap=cap))
    assert 0 <= decision.wait <= min(cap, base * 2 ** (rounds - 1)) + 1e-9


def test_waits_differ() -> None:
    waits = {after(4, Stalled("x")).wait for _ in range(50)}
    assert len(waits) > 40
    assert max(waits) > 1.0


@pytest.mark.parametrize(
    "error", [TlsFailed("x"), ContentMismatch("x"), StatusError("x", status=404), KeyboardInterrupt(), OSError("x")]
)
def test_only_our_own_retryable_errors_are_repeated(error: BaseException) -> None:
    assert after(1, error).wait is None


@pytest.mark.parametrize("status", [408, 425, 429, 500, 502, 503, 504, 520, 524, 530])
def test_transient_statuses(status: int) -> None:
    assert after(1, StatusError("x", status=status)).wait is not None


@pytest.mark.parametrize("status", [100, 204, 206, 300, 304, 400, 401, 403, 404, 410, 451, 501, 505, 999])
def test_permanent_statuses(status: int) -> None:
    assert after(1, StatusError("x", status=status)).wait is None


def test_attempts_end() -> None:
    assert after(4, ConnectFailed("x")).wait is not None
    last = after(5, ConnectFailed("x"))
    assert (last.wait, last.reason) == (None, "after 5 attempts")
    assert after(1, Stalled("x"), RetryPolicy(attempts=1)).reason == "after one attempt"


def test_retry_after_is_obeyed_and_adds_up_to_the_budget() -> None:
    rule, attempts = RetryRule(RetryPolicy(attempts=99, budget=100)), Attempts(rounds=1)
    busy = StatusError("x", status=503, retry_after=40)
    assert [rule.decide(attempts, busy).wait for _ in range(3)] == [40, 40, None]
    refused = rule.decide(attempts, StatusError("x", status=503, retry_after=1e10))
    assert refused.reason == "the server asks to wait 317 years; the budget is 100 s"


def test_a_host_is_left_alone_for_as_long_as_a_file_may_wait() -> None:
    rule = RetryRule(RetryPolicy(attempts=1, budget=100))
    waits = (None, 0, 100, 101)
    errors = [StatusError("x", status=status, retry_after=wait) for status in (429, 404) for wait in waits]
    assert [rule.rest(error) for error in errors] == [None, 0, 100, None, *[None] * 4]


def test_errors_that_are_believed_when_they_come_again() -> None:
    assert [error.repeats for error in (DigestMismatch("x"), ProtocolError("x"), ConnectFailed("x"))] == [1, 1, None]
    attempts = Attempts()
    assert [
        attempts.note(DigestMismatch("x")),
        attempts.note(ConnectFailed("x")),
        attempts.note(DigestMismatch("x")),
    ] == [0, 0, 1]


def test_the_last_word_names_the_first_cause() -> None:
    attempts = Attempts(made=5)
    attempts.note(Stalled("no answer for 30 s"))
    last = ConnectFailed("no connection to http://h:80: refused")
    attempts.note(last)
    assert str(explained(last, attempts, "after 5 attempts")) == (
        "no connection to http://h:80: refused [after 5 attempts; first failure: Stalled: no answer for 30 s]"
    )


def test_excuses_are_counted_too() -> None:
    rule, attempts = RetryRule(RetryPolicy(attempts=3)), Attempts()
    for _ in range(5):
        rule.count(attempts, excused=True)
    assert (attempts.excused, attempts.rounds) == (3, 2)
    rule.count(attempts, excused=False)
    assert attempts.rounds == 3


def test_a_rule_that_cannot_be_imported_is_applied_all_the_same() -> None:
    """What has failed may have done so for want of descriptors, and an import needs one."""
    code = (
        "import os, resource, sys\n"
        "from framefetch import RetryPolicy\n"
        "from framefetch.engine.retry import Attempts, RetryRule\n"
        "from framefetch.errors import StatusError, TooManyOpenFiles\n"
        "rule = RetryRule(RetryPolicy(attempts=3, base=0.25))\n"
        "before = resource.getrlimit(resource.RLIMIT_NOFILE)\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (3, before[1]))\n"
        "def said(rounds, error):\n"
        "    decision = rule.decide(Attempts(made=rounds, rounds=rounds), error)\n"
        "    return decision.wait, decision.reason\n"
        "busy = StatusError('x', status=503, retry_after=7.0)\n"
        "without = [said(1, TooManyOpenFiles('x')), said(3, TooManyOpenFiles('x')), said(1, busy)]\n"
        "without += [said(1, StatusError('x', status=404)), rule.pause(5), 'tenacity.wait' in sys.modules]\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, before)\n"
        "said(1, busy)\n"
        "print([*without, 'tenacity.wait' in sys.modules])\n"
    )
    done = subprocess.check_output([sys.executable, "-c", code], text=True)
    assert done.strip() == "[(0.25, ''), (None, 'after 3 attempts'), (7.0, ''), (None, ''), 0.25, False, True]"
