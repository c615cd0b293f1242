"""Memory that stays: where free pages are handed back to a host, files in memory cost several times as much."""

from __future__ import annotations

import contextlib
import contextvars
import os
import subprocess
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

PROGRAM = os.path.join(os.path.dirname(os.path.abspath(__file__)), "programs", "keep_memory.py")
#: There where the kernel can report free pages to a host.
REPORTING = "/sys/module/page_reporting"
_KEEPER: contextvars.ContextVar[subprocess.Popen[bytes] | None] = contextvars.ContextVar("keeper", default=None)


def is_handed_back() -> bool:
    """Return whether this machine may hand free memory back to a host."""
    return os.path.isdir(REPORTING)


@contextlib.contextmanager
def kept_memory() -> Iterator[None]:
    """Keep free memory from being handed back while the block runs; where it is not, do nothing."""
    if not is_handed_back():
        yield
        return
    command = [sys.executable, "-P", PROGRAM]
    with subprocess.Popen(command, bufsize=0, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as keeper:
        assert keeper.stdin is not None
        token = _KEEPER.set(keeper)
        try:
            settle_memory()
            yield
        finally:
            _KEEPER.reset(token)
            keeper.stdin.close()


def settle_memory() -> None:
    """Wait until what was freed last is kept: else that would take from the time of whoever runs next.

    Raises
    ------
    OSError
        Where nobody keeps it any more.
    """
    keeper = _KEEPER.get()
    if keeper is None:
        return
    assert keeper.stdin is not None
    assert keeper.stdout is not None
    with contextlib.suppress(BrokenPipeError):  # then there is no answer either
        keeper.stdin.write(b"?")
    if not keeper.stdout.readline():
        raise OSError("what keeps the memory of this machine has ended; was it full?")
