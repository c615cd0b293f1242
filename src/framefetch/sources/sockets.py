"""One question to the kernel about a socket: whether a read would return at once.

It is asked before every request on a connection that was used before, so its price counts. `select.poll` gives up
the interpreter lock for the call, and getting it back from a thread that digests can take milliseconds; where the C
library can be called with the lock held, the question costs less than a microsecond.
"""

from __future__ import annotations

import ctypes
import os
import select
from collections.abc import Callable
from typing import Any

__all__ = ["readable"]


class _PollFd(ctypes.Structure):
    _fields_ = (("fd", ctypes.c_int), ("events", ctypes.c_short), ("revents", ctypes.c_short))


def _by_c_library() -> Callable[[int], Callable[[], bool]] | None:
    if os.name != "posix":
        return None
    try:
        call: Any = ctypes.PyDLL(None).poll
    except (OSError, AttributeError):
        return None
    call.argtypes = (ctypes.POINTER(_PollFd), ctypes.c_ulong, ctypes.c_int)
    call.restype = ctypes.c_int

    def question(handle: int) -> Callable[[], bool]:
        asked = ctypes.byref(_PollFd(handle, select.POLLIN, 0))
        return lambda: bool(call(asked, 1, 0))

    return question


def _by_select(handle: int) -> Callable[[], bool]:
    return lambda: bool(select.select([handle], [], [], 0)[0])


#: Makes for a socket the question whether a read would not wait: bytes, an end or an error are there.
readable: Callable[[int], Callable[[], bool]] = _by_c_library() or _by_select
