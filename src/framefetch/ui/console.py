"""What all commands share: exit codes, lines for people, errors as one line."""

from __future__ import annotations

import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING

from framefetch.errors import FramefetchError, PlanError

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = [
    "EXIT_FAILED",
    "EXIT_FATAL",
    "EXIT_INTERRUPTED",
    "EXIT_USAGE",
    "confirm",
    "errors_as_lines",
    "say",
]

EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_FATAL = 3
EXIT_INTERRUPTED = 130


def say(text: str) -> None:
    """Write a line for people to stderr; a stderr that is gone stops nothing."""
    try:
        print(f"framefetch: {text}", file=sys.stderr, flush=True)
    except OSError:
        return


def confirm(question: str) -> bool:
    """Ask on stderr, and return whether the answer is yes; no answer is none."""
    print(f"framefetch: {question} [y/N] ", end="", file=sys.stderr, flush=True)
    return sys.stdin.readline().strip().lower() in ("y", "yes")


@contextmanager
def errors_as_lines() -> Iterator[None]:
    """Turn our errors into one line and an exit code."""
    try:
        yield
    except PlanError as error:
        say(str(error))
        raise SystemExit(EXIT_USAGE) from None
    except FramefetchError as error:
        say(str(error))
        raise SystemExit(EXIT_FATAL) from None
