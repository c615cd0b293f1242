"""What all commands share: exit codes, lines for people, errors as one line."""

from __future__ import annotations

import os
import re
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
    "counted",
    "errors_as_lines",
    "in_words",
    "open_streams",
    "say",
    "say_unforeseen",
]

EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_FATAL = 3
EXIT_INTERRUPTED = 130

#: What messages call options, as Python does; in quotes it is the name of a column.
_OPTION = re.compile(
    r"(?<!')\b(?:(?:url|key|md5|sha256|digest|size)_column|(?:url|path)_template|base_url|lock_timeout"
    r"|Timeouts\.stall)\b(?!')"
)
#: Set to anything, it has an error that nobody foresaw shown with its traceback, as `python -X dev` does.
TRACEBACK = "FRAMEFETCH_TRACEBACK"


def open_streams() -> None:
    """Make the three standard streams usable whatever they are, and able to write any name of a file.

    One that was closed (``2>&-``) is opened on nothing: else its number would be that of the next file, and what is
    written for people would be written into that. A name that is no UTF-8 is written escaped.
    """
    while (handle := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass
    os.close(handle)
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: SIM115 - as long as there is a process
        elif mode == "w" and hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")


def say(text: str) -> None:
    """Write a line for people to stderr; a stderr that is gone stops nothing."""
    try:
        print(f"framefetch: {text}", file=sys.stderr, flush=True)
    except OSError:
        return


def in_words(message: str) -> str:
    """Return a message with the command line's words for options.

    Examples
    --------
    >>> in_words("url_column and url_template exclude each other; give one")
    '--url-column and --url-template exclude each other; give one'
    """
    return _OPTION.sub(lambda found: _word(found[0]), message)


def _word(option: str) -> str:
    return "--stall-timeout" if option == "Timeouts.stall" else f"--{option.replace('_', '-')}"


def counted(number: int, noun: str) -> str:
    """Return how many there are of something.

    Examples
    --------
    >>> counted(1, "row"), counted(1941, "row")
    ('1 row', '1,941 rows')
    """
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def say_unforeseen(error: Exception) -> None:
    """Write what nobody foresaw as one line that says where it happened; with its traceback for who asks for it."""
    import traceback

    whole = sys.flags.dev_mode or os.environ.get(TRACEBACK)
    if whole:
        traceback.print_exception(error)
    places = traceback.extract_tb(error.__traceback__)
    where = f" at {os.path.basename(places[-1].filename)}:{places[-1].lineno}" if places else ""
    what = " ".join(str(error).split())
    hint = "" if whole else f", with what it says when {TRACEBACK}=1 is set"
    say(f"unforeseen {type(error).__name__}{where}: {what}; please report this{hint}")


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
        say(in_words(str(error)))
        raise SystemExit(EXIT_USAGE) from None
    except FramefetchError as error:
        say(str(error))
        raise SystemExit(EXIT_FATAL) from None
