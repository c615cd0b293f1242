"""Connections lent to a thread, which asks for one small file after another on them and takes what comes in full.

On a loop every file is a task's business: a wait for the head, a wait for the body, a watch, a hop to the thread that
writes. Where answers are plain and small that is several times the work of the file itself. So the thread that writes
small files borrows connections that have just shown such an answer, or new ones where others of the host have, and
deals with them by itself: it sends, reads, and gives back whatever is not plain (another status, a coding, a cookie, a
length it did not expect, an end, silence) with all that it has received, so that the loop goes on with it as if the
request had been its own.
"""

from __future__ import annotations

import errno
import os
import select
import ssl
from typing import TYPE_CHECKING, Final, NamedTuple

from framefetch.errors import ProtocolError
from framefetch.native.at_once import at_once
from framefetch.sources.answers import plain_length
from framefetch.sources.buffers import ROOM
from framefetch.sources.wire import Head, parse_head

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from framefetch.sources.seal import Seal
    from framefetch.sources.watchdog import Manner

__all__ = ["CAN_LEND", "Answer", "Ear", "Loan", "ask_all"]

#: Whether a thread can listen to many sockets by their numbers.
CAN_LEND: Final = hasattr(select, "epoll") and hasattr(os, "eventfd")
#: Connections that are heard at a time.
EARS: Final = 64
#: Bytes of a head that is still to end; the loop is patient with those that are longer.
USUAL_HEAD: Final = 8192
_NOTHING_YET: Final = (errno.EAGAIN, errno.EWOULDBLOCK, errno.EINTR)


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
    seal : Seal or None, default None
        Its TLS session.

    Attributes
    ----------
    answered : int
        Exchanges that came to their end.
    asked : bool
        Whether a request was sent and its answer is still to come, at least in part.
    asked_at, heard : float
        When it was sent, and when something came of the answer last; by the monotonic clock.
    ended : int
        Files of its host that had ended by then.
    unsent : bytes
        What the socket did not take of the request.
    received : bytes
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
        "_least",
        "_manner",
        "_most",
        "_seal",
        "_start",
        "answered",
        "asked",
        "asked_at",
        "ended",
        "error",
        "handle",
        "head",
        "heard",
        "is_odd",
        "received",
        "unsent",
    )

    def __init__(self, handle: int, manner: Manner, seal: Seal | None = None) -> None:
        self.handle = handle
        self._manner = manner
        self._seal = seal
        self._start = self._end = self._least = self._most = 0
        self.answered = self.ended = 0
        self.asked = self.is_odd = False
        self.asked_at = self.heard = 0.0
        self.received = b""
        self.unsent = b""
        self.head: Head | None = None
        self.error: OSError | None = None

    @property
    def coming(self) -> int:
        """Bytes of a body that have come, and are not the whole of it; any thread may ask."""
        return 0 if self.head is None else max(0, len(self.received) - self._start)

    def words(self, request: bytes) -> bytes:
        """Return a request as it goes over the wire."""
        if self._seal is None:
            return request
        try:
            return self._seal.close(request)
        except ssl.SSLError as error:
            self.error, self.is_odd = error, True
            return b""

    def sent(self, words: bytes, count: int, least: int, most: int, now: float) -> bool:
        """Note how many bytes of the words for a file of so many bytes were sent, or -1.

        Returns
        -------
        bool
            False where it was not sent, as the connection has ended or speaks without being asked.
        """
        if count < 0:
            self.is_odd = self.is_odd or self._seal is not None  # words that were sealed must be the next to be sent
            return False
        self.asked = True
        self._least, self._most = least, most
        self.asked_at = self.heard = now
        self.ended = self._manner.ended
        if count < len(words):
            self.unsent += words[count:]
            self.is_odd = True
        return True

    def take(self, heard: bytes | int, now: float) -> Answer | None:
        """Take what has come, or the number of an error; return the answer when it is whole.

        Where it is not, more is to come, or it `is_odd`.
        """
        if isinstance(heard, int):
            if heard not in _NOTHING_YET:
                self.error, self.is_odd = OSError(heard, os.strerror(heard)), True
            return None
        if self._seal is not None and heard and not (heard := self._opened(self._seal, heard)):
            return None
        if not heard or not self.asked:
            # An end, which the loop will see too; or bytes that nobody asked for, which are read as such.
            self.received += heard
            self.is_odd = True
            return None
        self.heard = now
        silent = self._seal is None or self._seal.is_silent
        plain = at_once.plain_answer(heard) if silent and not self.received else None
        if plain and self._least <= len(plain[0]) <= self._most:
            return self._answered(now, *plain)
        self.received = self.received + heard if self.received else heard
        data = self.received
        if self.head is None and not self._take_head(data):
            return None
        if len(data) < self._end:
            return None
        if len(data) > self._end or not silent:
            self.is_odd = True
            return None
        assert self.head is not None
        return self._answered(now, data[self._start :], self.head.get("etag"))

    def _opened(self, seal: Seal, heard: bytes) -> bytes:
        """Return what was heard without its seal; the loop goes on where the session itself has something to say."""
        opened = b""
        try:
            opened = seal.open(heard)
        except ssl.SSLError as error:
            self.error, self.is_odd = error, True
        self.unsent += seal.unsent()
        # A record that begins before anything was asked for must not end as the answer to what is asked next.
        unasked = not (self.asked or seal.is_silent)
        self.is_odd = self.is_odd or unasked or seal.ended or seal.error is not None or bool(self.unsent)
        return opened

    def _answered(self, now: float, body: bytes, etag: str | None) -> Answer:
        self.asked, self.head, self.received = False, None, b""
        self.answered += 1
        self._manner.ended += 1
        self._manner.waited += now - self.asked_at
        self._manner.keeps = self._manner.keeps or self.answered > 1
        return Answer(body, etag)

    def _take_head(self, data: bytes) -> bool:
        end = data.find(b"\r\n\r\n")
        if end < 0:
            self.is_odd = len(data) > USUAL_HEAD
            return False
        try:
            self.head = parse_head(data[:end])
            length = plain_length(self.head)
        except ProtocolError:
            length = None
        if length is None or not self._least <= length <= self._most:
            self.is_odd = True
            return False
        self._start = end + 4
        self._end = self._start + length
        return True


def ask_all(asks: Sequence[tuple[Loan, bytes, int, int]], now: float) -> list[bool]:
    """Send requests at one go.

    Parameters
    ----------
    asks : sequence of tuple
        On which connection, what, and how many bytes the file may have at least and at most.
    now : float
        The time, by the monotonic clock.

    Returns
    -------
    list of bool
        False for each that was not sent, as the connection has ended or speaks without being asked.
    """
    words = [loan.words(request) for loan, request, *_ in asks]
    counts = at_once.ask_all([loan.handle for loan, *_ in asks], words)
    return [
        loan.sent(said, count, least, most, now)
        for (loan, _, least, most), said, count in zip(asks, words, counts, strict=True)
    ]


class Ear:
    """Listens to connections on loan, in one thread; others can wake it."""

    def __init__(self) -> None:
        self._poll = select.epoll()
        self._bell = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._poll.register(self._bell, select.EPOLLIN)
        self._loans: dict[int, Loan] = {}
        #: Whether more may have come than could be heard the last time.
        self.has_more = False

    def add(self, loan: Loan) -> None:
        """Listen to a connection."""
        self._poll.register(loan.handle, select.EPOLLIN)
        self._loans[loan.handle] = loan

    def drop(self, loan: Loan) -> None:
        """Listen to a connection no longer."""
        if self._loans.pop(loan.handle, None) is not None:
            self._poll.unregister(loan.handle)

    def listen(self, seconds: float) -> Iterator[tuple[Loan, bytes | int]]:
        """Wait for something to come, or for a ring; yield what has come, or an error, and on which connection.

        See `Loan.take`. What there was no room for is there the next time.
        """
        told = at_once.hear_any(self._poll, seconds, ROOM.view)
        took = sum(len(heard) for _, heard in told if isinstance(heard, bytes))
        self.has_more = len(told) >= EARS or took >= len(ROOM.view)
        for handle, heard in told:
            loan = self._loans.get(handle)
            if loan is not None:
                yield loan, heard

    def ring(self) -> None:
        """End the wait; from any thread."""
        os.eventfd_write(self._bell, 1)

    def close(self) -> None:
        """Let go of the system's numbers; connections are not closed."""
        self._poll.close()
        os.close(self._bell)
