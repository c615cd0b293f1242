"""The rest of a large body straight from its socket, read by the thread that digests and writes it.

What a loop receives for a thread passes through the caches of two cores and takes a task, a hop and a look of the
selector for every block. Where bytes come as fast as they can be dealt with, the thread that has just written a block
had better read the next one itself: it asks the kernel, never waits, and gives the socket back when nothing is there
or its time is up. While it reads, the loop does not.
"""

from __future__ import annotations

import os
import ssl
from collections import deque
from functools import partial
from typing import TYPE_CHECKING, Final

from framefetch.native.at_once import at_once
from framefetch.sources.buffers import BLOCK, ROOM, SEALED

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Self

    from framefetch.sources.seal import Seal

__all__ = ["CAN_TAP", "Tap", "second_number"]

#: Whether sockets can be read by number, without the object that the loop has of them.
CAN_TAP: Final = hasattr(os, "readv")
#: Bytes of one read. A quarter of it would stay in a core's own cache until it is digested and written; but for each
#: read the interpreter lock is asked for three times, which costs more.
PIECE: Final = BLOCK


def second_number(handle: int) -> int | None:
    """Return another number for an open socket; None where there is none left, or the socket is gone."""
    try:
        return os.dup(handle)
    except OSError:
        return None


class Tap:
    """What is still to come of a body of known length; a context that is entered and left in the loop's thread.

    In between any one thread may read.

    Parameters
    ----------
    handle : int
        A number of its own for the socket, which must not block: so nobody can close it under a read.
    ahead : iterable of bytes or memoryview
        What the loop has received already.
    left : int
        Bytes still to come behind those.
    closed : callable
        Called at the end, with this.
    seal : Seal or None, default None
        The TLS session of the connection.

    Attributes
    ----------
    taken : int
        Bytes that were read.
    received : int
        Of these, how many came from the socket.
    is_dry : bool
        Whether the last `pour` ended because nothing was there.
    error : OSError or None
        Why it broke.
    """

    def __init__(
        self,
        handle: int,
        ahead: Iterable[bytes | memoryview],
        left: int,
        closed: Callable[[Tap], None],
        seal: Seal | None = None,
    ) -> None:
        self._ahead = deque(memoryview(block) for block in ahead)
        self._left = left
        self._closed = closed
        self._handle = handle
        self._seal = seal
        self.taken = self.received = 0
        self.is_dry = False
        self.error: OSError | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._handle)
        self._closed(self)

    @property
    def has_ahead(self) -> bool:
        """Whether the next read gives what the loop has received."""
        return bool(self._ahead)

    def read(self, size: int) -> memoryview | None:
        """Return at most so many bytes, valid until the next read; None where there are none for the moment."""
        block = self._next_ahead(size) if self._ahead else self._receive(min(size, self._left, PIECE))
        if not block:
            return None  # at an end the loop will see it too, and say what it means
        self.taken += len(block)
        return block

    def pour(
        self,
        into: Callable[[int | Callable[[memoryview], int], memoryview, int, float], tuple[int, bool, int]],
        most: int,
        seconds: float,
    ) -> int:
        """Have somebody take what comes from the socket at one go; return how many bytes.

        Parameters
        ----------
        into : callable
            Called with the socket's number, or what puts into some room what it has under its seal, with room, and
            the next two; returns how many bytes it took, whether no more were there, and the number of an error of the
            socket, or 0.
        most : int
            Bytes at most.
        seconds : float
            Time after which not to go on.
        """
        size = min(most, self._left)
        if not size or self.error is not None:
            self.is_dry = True
            return 0
        source = self._handle if self._seal is None else partial(self._open, self._seal)
        count, self.is_dry, broke = into(source, ROOM.view, size, seconds)
        if broke:
            self.error = OSError(broke, os.strerror(broke))
        self.taken += count
        self.received += count
        self._left -= count
        return count

    def _next_ahead(self, size: int) -> memoryview:
        block = self._ahead.popleft()
        if len(block) > size:
            self._ahead.appendleft(block[size:])
        return block[:size]

    def _receive(self, size: int) -> memoryview | None:
        if not size or self.error is not None:
            return None
        room = ROOM.view[:size]
        count = self._draw(room) if self._seal is None else at_once.in_turn(partial(self._open, self._seal), room)
        self.received += count
        self._left -= count
        return room[:count]

    def _draw(self, room: memoryview) -> int:
        """Receive what the socket has."""
        try:
            return os.readv(self._handle, [room])
        except (BlockingIOError, InterruptedError):
            return 0
        except OSError as error:
            self.error = error
            return 0

    def _open(self, seal: Seal, room: memoryview) -> int:
        """Fill some room with what is under the seal, in turn; what lies there comes before what the socket has."""
        sealed = SEALED.view
        filled = 0
        try:
            filled = seal.fill(room)
            while filled < len(room) and not seal.ended and (drawn := self._draw(sealed)):
                seal.feed(sealed[:drawn])
                filled += seal.fill(room[filled:])
        except ssl.SSLError as error:
            self.error = error
        return filled
