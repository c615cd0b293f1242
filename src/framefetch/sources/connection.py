"""One connection, one exchange after another.

The exchange is ours, because what a downloader must know a client library does not tell: whether a connection ended or
broke, whether bytes came that nobody had asked for, since when nothing came at all.
"""

from __future__ import annotations

import asyncio
import os
from collections import deque
from functools import partial
from typing import TYPE_CHECKING, cast

from framefetch.errors import ConnectionLost, ProtocolError, TransferError
from framefetch.sources.answers import broken_off, framing, plain_length
from framefetch.sources.buffers import BLOCK, BLOCKS_OUT, WORTH_A_BLOCK
from framefetch.sources.loan import CAN_LEND, Loan
from framefetch.sources.seal import Sealed
from framefetch.sources.sockets import readable
from framefetch.sources.tap import CAN_TAP, Tap, second_number
from framefetch.sources.wire import ChunkedDecoder, Head, split_head

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from framefetch.sources.base import Meter
    from framefetch.sources.buffers import Blocks
    from framefetch.sources.watchdog import Manner, Watch

__all__ = ["HttpConnection"]

#: Bytes of a body that may wait to be read before the sender is slowed down.
HIGH_WATER = 4 << 20
#: Bytes of a body from which on it is received only when it is asked for.
TAPPED = 1 << 20
#: Seconds that an idle connection is worth trying; servers commonly close theirs after 60 or 75.
IDLE_SECONDS = 25.0


class HttpConnection(asyncio.BufferedProtocol):
    """A connection, once it has been made.

    Parameters
    ----------
    buffers : Blocks
        Where large bodies are received.
    close_too : callable, optional
        Called when it is closed.
    """

    def __init__(self, buffers: Blocks, close_too: Callable[[], None] | None = None) -> None:
        self._buffers = buffers
        self._block: memoryview | None = None
        self._filled = self._blocks_out = self._bytes_out = self._waiting_bytes = 0
        self._close_too = close_too
        self._loop = asyncio.get_running_loop()
        self._watch: Watch | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._error: TransferError | None = None
        self._head_data = b""
        self._head: Head | None = None
        self._blocks: deque[bytes | memoryview] = deque()
        self._left: int | None = None
        self._chunked: ChunkedDecoder | None = None
        self.complete = True
        self._dirty = self._lost = self._paused = self.received_any = False
        self._tap: Tap | None = None
        self._loan: Loan | None = None
        self.used = 0
        self.idle_since = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take the transport."""
        self._transport = cast("asyncio.Transport", transport)
        socket = transport.get_extra_info("socket")
        self._handle: int = -1 if socket is None else socket.fileno()
        self._is_readable = readable(self._handle)
        self._seal = transport.seal if isinstance(transport, Sealed) else None
        self._write_on = transport.write_sealed if isinstance(transport, Sealed) else self._transport.write
        #: Whether a thread can read what comes; not where the loop has a TLS session of its own.
        self._is_open = CAN_TAP and transport.get_extra_info("sslcontext") is None
        peer = transport.get_extra_info("peername")
        #: The address at the other end.
        self.peer: str = peer[0] if peer else "::"

    # -- what the exchange does ---------------------------------------------------------------------------------

    def send(self, request: bytes, watch: Watch, loan: Loan | None = None) -> None:
        """Begin an exchange; with a loan, go on with the one that a thread has begun."""
        self._watch = watch
        self._head = None
        self._error = None
        self._left = None
        self.complete = False
        self.received_any = False
        self.used += 1
        watch.begin(self, mute=self.used == 1 and self._is_open and self._seal is None)
        if self._dirty or self._lost:
            self.fail(ConnectionLost("the connection was closed by then"))
        elif loan is None:
            self._transport.write(request)
        else:
            self._write_on(loan.unsent)
            self._resume()
            if loan.received:
                self._take(bytes(loan.received))
            watch.since(loan.heard, loan.ended)
            if loan.error is not None:
                self.connection_lost(loan.error)
                self._transport.abort()

    def plain_head(self, usual: Head | None) -> Head | None:
        """Return the head of its last answer if a thread can take such; the usual one where nothing was asked yet."""
        head = (self._head if self.used else usual) if CAN_LEND and self._is_open else None
        length = None if head is None else plain_length(head)
        return head if length is not None and length <= BLOCK else None

    @property
    def speaks(self) -> bool:
        """Whether it is open, and the server itself has said something on it: the system alone has answered nothing."""
        heard = self._seal or (self._head if self.used == 1 else self.used) or (self._loan and self._loan.answered)
        return bool(heard) and not (self._dirty or self._lost or self._transport.is_closing())

    def lend(self, manner: Manner, head: Head) -> Loan | None:
        """Let a thread use an idle connection for answers with such a head; None where no descriptor is left for it."""
        if (handle := second_number(self._handle)) is None:
            return None
        self._pause()
        self._head, self._loan = head, Loan(handle, manner, self._seal)
        return self._loan

    def take_back(self, loan: Loan) -> None:
        """Take back what was lent; it is idle, or an exchange was begun that `send` goes on with."""
        os.close(loan.handle)
        self._loan = None
        self._dirty = self._dirty or (loan.is_odd and not loan.asked)  # its end, or bytes that nobody asked for
        self.used += loan.answered

    async def head(self) -> Head:
        """Return the head of the answer; interim answers are passed over."""
        while self._head is None:
            await self._wait()
        return self._head

    async def read(self) -> bytes | memoryview:
        """Return what has come of the body; empty at its end. A memoryview must be given back."""
        while not self._blocks:
            if self.complete:
                return b""
            self._resume()
            await self._wait()
        blocks = self._blocks
        data = blocks.popleft()
        if isinstance(data, bytes) and blocks and isinstance(blocks[0], bytes):
            pieces = [data]
            while blocks and isinstance(blocks[0], bytes):
                pieces.append(cast("bytes", blocks.popleft()))
            data = b"".join(pieces)
        if isinstance(data, bytes):
            self._waiting_bytes -= len(data)
            self._resume()
        return data

    @property
    def coming(self) -> int:
        """Bytes of the body that have come and were not read yet."""
        filled = 0 if self._block is None else self._filled
        return filled + sum(map(len, self._blocks)) + (0 if self._tap is None else self._tap.taken)

    def give_back(self, block: memoryview) -> None:
        """Take back a block that `read` gave, so that more can be received."""
        self._bytes_out -= self._buffers.give_back(block)
        self._blocks_out -= 1
        self._resume()

    @property
    def _has_enough(self) -> bool:
        """Whether what was received must be dealt with first; where blocks are scarce, all of it."""
        return self._blocks_out >= (1 if self._buffers.are_scarce else BLOCKS_OUT)

    def tap(self, meter: Meter) -> Tap | None:
        """Let a thread read the rest of the body, until the tap is closed; None where it must pass through the loop."""
        if not (self._is_open and self._head and self._left) or self._dirty or self._lost or self._tap:
            return None
        if self._transport.is_closing() or (handle := second_number(self._handle)) is None:
            return None  # its number may be another socket's before long, or there are no more numbers
        self._pause()
        self._set_aside()
        blocks, self._blocks = self._blocks, deque()
        self._tap = Tap(handle, blocks, self._left, partial(self._untap, meter, blocks), self._seal)
        return self._tap

    def _untap(self, meter: Meter, blocks: Iterable[bytes | memoryview], tap: Tap) -> None:
        """Go on where a thread has left off; nothing is received until somebody asks for it."""
        assert self._left is not None
        meter.received += tap.taken
        for block in blocks:
            if isinstance(block, memoryview):
                self.give_back(block)
            else:
                self._waiting_bytes -= len(block)
        self._tap = None
        self._left -= tap.received
        self.complete = not self._left
        if self._watch is not None:
            self._watch.progress(tap.received)
        if tap.error is not None and not self._lost:
            self.connection_lost(tap.error)
            self._transport.abort()

    def _resume(self) -> None:
        if self._tap is None and self._paused and not self._has_enough and self._waiting_bytes < HIGH_WATER:
            self._paused = False
            if not self._lost:
                self._transport.resume_reading()
            if self._watch is not None:
                self._watch.resume()

    def _pause(self) -> None:
        if not self._paused:
            self._paused = True
            self._transport.pause_reading()
            if self._watch is not None:
                self._watch.pause()

    async def _wait(self) -> None:
        if self._error is not None:
            raise self._error
        self._waiter = self._loop.create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None

    def fail(self, error: TransferError) -> None:
        """End the exchange with an error; whoever waits for it gets what came until then, and then the error."""
        if self._error is None:
            self._error = error
        self._set_aside()
        self._dirty = True
        self._wake()

    def _set_aside(self) -> None:
        """Let what the block that is being filled holds by now be read."""
        if self._block is not None:
            if self._filled:
                self._blocks.append(self._block[: self._filled])
            else:
                self._bytes_out -= self._buffers.give_back(self._block)
                self._blocks_out -= 1
            self._block = None

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    @property
    def reusable(self) -> bool:
        """Whether the exchange ended where both sides agree that it ended."""
        kept = self._head is not None and self._head.keep_alive
        return kept and self.complete and not (self._dirty or self._lost or self._blocks)

    def rest(self) -> None:
        """End the exchange; the connection is idle, and listens for its end."""
        self._resume()
        self._finish()
        self.idle_since = self._loop.time()

    def _finish(self) -> None:
        if self._watch is not None:
            self._watch.end()
            self._watch = None

    def close(self) -> None:
        """Close at once: what is unsent or unread is dropped."""
        self._finish()
        self._buffers.lose(self._bytes_out)
        self._bytes_out = 0
        self._transport.abort()
        if self._close_too is not None:
            self._close_too()

    def is_fresh(self, now: float) -> bool:
        """Return whether an idle connection can be used: open, not old, and silent, down to the kernel."""
        if self._dirty or self._lost or now - self.idle_since > IDLE_SECONDS or self._transport.is_closing():
            return False
        return self._handle >= 0 and not self._is_readable() and (self._seal is None or self._seal.is_silent)

    # -- what the transport tells -------------------------------------------------------------------------------

    def get_buffer(self, sizehint: int) -> memoryview:  # noqa: ARG002 - asyncio's
        """Return where the next bytes go: into the block that is being filled, else through the scratch."""
        if self._block is None:
            if self._left is None or self._left < WORTH_A_BLOCK or self._head is None or self.complete:
                return self._buffers.scratch
            # Never longer than what is left: bytes beyond the body are seen for what they are. And so that whole blocks
            # are left behind it: whoever is told to stop stops at the end of one.
            self._block = self._buffers.take(self._left % BLOCK or BLOCK)
            self._bytes_out += len(cast("bytearray", self._block.obj))
            self._filled = 0
            self._blocks_out += 1
        return self._block[self._filled :]

    def buffer_updated(self, nbytes: int) -> None:
        """Take bytes that were received."""
        block = self._block
        if block is None:
            self._take(bytes(self._buffers.scratch[:nbytes]))
            return
        assert self._left is not None
        self._filled += nbytes
        self._left -= nbytes
        if self._watch is not None:
            self._watch.progress(nbytes)
        if self._filled == len(block):
            self._block = None
            self.complete = not self._left
            self._blocks.append(block)
            if self._has_enough:
                self._pause()
            self._wake()

    def _take(self, data: bytes) -> None:
        if self.complete:
            # Bytes nobody asked for: never the answer to the next request (aio-libs/aiohttp#13656).
            self._dirty = True
            self._transport.abort()
            return
        self.received_any = True
        try:
            if self._head is None:
                data = self._take_head(data)
            if self._head is not None and data:
                self._take_body(data)
        except TransferError as error:
            self.fail(error)
            self._transport.abort()
        if self._head is not None:
            self._wake()

    def _take_head(self, data: bytes) -> bytes:
        """Take bytes of heads; return what follows the final one, where the body begins."""
        head, rest = split_head(self._head_data + data if self._head_data else data)
        self._head_data = rest if head is None else b""
        if head is None:
            return b""
        self._left, chunked = framing(head)
        self._chunked = ChunkedDecoder() if chunked else None
        self._head = head
        self.complete = self._left == 0
        if self._is_open and self._left is not None and self._left > TAPPED:
            self._pause()  # whoever writes it may want to read it from the socket
        if self._watch is not None:
            self._watch.enter_body()
        return rest

    def _take_body(self, data: bytes) -> None:
        if self._chunked is not None:
            for block in self._chunked.feed(data):
                self._add(block)
            if self._chunked.done:
                self.complete = True
                self._dirty = self._dirty or bool(self._chunked.rest)
        elif self._left is None:
            self._add(data)
        elif len(data) > self._left or self.complete:
            announced = int(self._head.get("content-length") or 0) if self._head else 0
            raise ProtocolError(f"the server sent more than the {announced:,} bytes it had announced")
        else:
            self._left -= len(data)
            self.complete = not self._left
            self._add(data)

    def _add(self, block: bytes) -> None:
        self._blocks.append(block)
        self._waiting_bytes += len(block)
        if self._watch is not None:
            self._watch.progress(len(block))
        if self._waiting_bytes >= HIGH_WATER:
            self._pause()

    def eof_received(self) -> bool:
        """Take the end of what the server sends."""
        self._dirty = True
        if not self.complete and self._head is not None and self._left is None and self._chunked is None:
            self.complete = True  # a body that the connection's end delimits
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        """Take the end of the connection."""
        self._lost = True
        until_close = self._head is not None and self._left is None and self._chunked is None
        if self.complete or (until_close and exc is None):
            # TLS without close_notify ends so too: such a body is held, but never called verified.
            self.complete = True
            self._wake()
            return
        why = "" if exc is None else f": {' '.join(str(exc).split()) or type(exc).__name__}"
        self.fail(broken_off(self._head, self._left, why) if self._chunked is None else self._chunked.end())
