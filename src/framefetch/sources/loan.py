"""Connections lent to a thread, which asks for one small file after another on them and takes what comes in full.

On a loop every file is a task's business: a wait for the head, a wait for the body, a watch, a hop to the thread that
writes. Where answers are plain and small that is several times the work of the file itself. So the thread that writes
small files borrows connections that have just shown such an answer, and deals with them by itself: it sends, reads,
and gives back whatever is not plain (another status, a coding, a cookie, a length it did not expect, an end, silence)
with all that it has received, so that the loop goes on with it as if the request had been its own.
"""

from __future__ import annotations

import os
import select
from typing import TYPE_CHECKING, Final, NamedTuple

from framefetch.errors import ProtocolError
from framefetch.sources.answers import plain_length
from framefetch.sources.buffers import ROOM
from framefetch.sources.sockets import readable
from framefetch.sources.wire import Head, parse_head

if TYPE_CHECKING:
    from collections.abc import Iterator

    from framefetch.sources.watchdog import Manner

__all__ = ["CAN_LEND", "Answer", "Ear", "Loan"]

#: Whether a thread can listen to many sockets by their numbers.
CAN_LEND: Final = hasattr(select, "epoll") and hasattr(os, "eventfd")
#: Bytes of a head that is still to end; the loop is patient with those that are longer.
USUAL_HEAD: Final = 8192


class Answer(NamedTuple):
    """A whole file of which nothing is in doubt but its content."""

    body: bytes
    etag: str | None


class Loan:
    """A connection on loan; made and taken back by the loop, in between used by one thread.

    Parameters
    ----------
    handle : int
        A number of its own for the socket, which must not block: so nobody can close it under a read.
    manner : Manner
        Hears of bodies that have come. Not how long they were silent: the thread may have been busy with others.

    Attributes
    ----------
    answered : int
        Exchanges that came to their end.
    asked : bool
        Whether a request was sent and its answer is still to come, at least in part.
    asked_at, heard : float
        When it was sent, and when something came of the answer last; by the monotonic clock.
    unsent : bytes
        What the socket did not take of the request.
    received : bytearray
        What has come of the answer.
    is_odd : bool
        Whether the loop has to go on with it.
    head : Head or None
        The head of an answer that is under way, or is odd.
    error : OSError or None
        Why it broke.
    """

    __slots__ = (
        "_end",
        "_is_readable",
        "_least",
        "_manner",
        "_most",
        "_start",
        "answered",
        "asked",
        "asked_at",
        "error",
        "handle",
        "head",
        "heard",
        "is_odd",
        "received",
        "unsent",
    )

    def __init__(self, handle: int, manner: Manner) -> None:
        self.handle = handle
        self._manner = manner
        self._is_readable = readable(handle)
        self._start = self._end = self._least = self._most = 0
        self.answered = 0
        self.asked = self.is_odd = False
        self.asked_at = self.heard = 0.0
        self.received = bytearray()
        self.unsent = b""
        self.head: Head | None = None
        self.error: OSError | None = None

    def ask(self, request: bytes, least: int, most: int, now: float) -> bool:
        """Send a request for a file of so many bytes.

        Returns
        -------
        bool
            False where it was not sent, as the connection has ended or speaks without being asked.
        """
        if self._is_readable():
            return False
        try:
            sent = os.write(self.handle, request)
        except (BlockingIOError, InterruptedError):
            sent = 0
        except OSError:
            return False
        self.asked = True
        self._least, self._most = least, most
        self.asked_at = self.heard = now
        if sent < len(request):
            self.unsent = request[sent:]
            self.is_odd = True
        return True

    def hear(self, now: float) -> Answer | None:
        """Read what has come; return the answer when it is whole, None where more is to come or it `is_odd`."""
        room = ROOM.view
        try:
            count = os.readv(self.handle, [room])
        except (BlockingIOError, InterruptedError):
            return None
        except OSError as error:
            self.error, self.is_odd = error, True
            return None
        if not count or not self.asked:
            # An end, which the loop will see too; or bytes that nobody asked for, which are read as such.
            self.received += room[:count]
            self.is_odd = True
            return None
        self.heard = now
        if self.received:
            self.received += room[:count]
        else:
            self.received = bytearray(room[:count])
        data = self.received
        if self.head is None and not self._take_head(data):
            return None
        if len(data) < self._end:
            return None
        if len(data) > self._end:
            self.is_odd = True
            return None
        assert self.head is not None
        answer = Answer(bytes(memoryview(data)[self._start :]), self.head.get("etag"))
        self.asked, self.head, self.received = False, None, bytearray()
        self.answered += 1
        self._manner.ended += 1
        return answer

    def _take_head(self, data: bytearray) -> bool:
        end = data.find(b"\r\n\r\n")
        if end < 0:
            self.is_odd = len(data) > USUAL_HEAD
            return False
        try:
            self.head = parse_head(bytes(data[:end]))
            length = plain_length(self.head)
        except ProtocolError:
            length = None
        if length is None or not self._least <= length <= self._most:
            self.is_odd = True
            return False
        self._start = end + 4
        self._end = self._start + length
        return True


class Ear:
    """Listens to connections on loan, in one thread; others can wake it."""

    def __init__(self) -> None:
        self._poll = select.epoll()
        self._bell = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._poll.register(self._bell, select.EPOLLIN)
        self._loans: dict[int, Loan] = {}

    def add(self, loan: Loan) -> None:
        """Listen to a connection."""
        self._loans[loan.handle] = loan
        self._poll.register(loan.handle, select.EPOLLIN)

    def drop(self, loan: Loan) -> None:
        """Listen to a connection no longer."""
        if self._loans.pop(loan.handle, None) is not None:
            self._poll.unregister(loan.handle)

    def listen(self, seconds: float) -> Iterator[Loan]:
        """Wait for something to come, or for a ring; yield the connections that it comes from."""
        for handle, _ in self._poll.poll(seconds):
            if handle == self._bell:
                os.eventfd_read(self._bell)
            elif (loan := self._loans.get(handle)) is not None:
                yield loan

    def ring(self) -> None:
        """End the wait; from any thread."""
        os.eventfd_write(self._bell, 1)

    def close(self) -> None:
        """Let go of the system's numbers; connections are not closed."""
        self._poll.close()
        os.close(self._bell)
