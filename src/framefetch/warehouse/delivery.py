"""Sending one answer on one connection: the thin shell that writes, waits and breaks things off."""

from __future__ import annotations

import asyncio
import socket
import sys
from collections.abc import Awaitable, Callable, Iterable
from typing import TYPE_CHECKING

from framefetch.warehouse.answers import Answer, Pace, Stop
from framefetch.warehouse.listener import reset
from framefetch.warehouse.wire import Message, Piece, Send, steps

if TYPE_CHECKING:
    from aiohttp import web

__all__ = ["Delivery"]

#: Waits until the test releases the request, or for so many seconds.
Gate = Callable[[float | None], Awaitable[None]]

#: Pieces are joined up to this size, so that a small answer is one packet.
_JOIN = 1 << 16


class Delivery:
    """One answer on its way.

    Parameters
    ----------
    request : aiohttp.web.BaseRequest
        Whose connection is written to.
    gate : callable
        Awaited at a hold.
    on_held : callable
        Called when the answer comes to a hold or hang.
    """

    def __init__(self, request: web.BaseRequest, gate: Gate, on_held: Callable[[], None]) -> None:
        self._request = request
        self._gate = gate
        self._on_held = on_held
        self._waiting: list[bytes | memoryview] = []
        self._waiting_size = 0
        self._waiting_body = 0
        self._clock: _Clock | None = None
        #: Body bytes written so far, and whether anything was.
        self.body_bytes = 0
        self.started = False

    async def send(self, message: Message, answer: Answer) -> bool:
        """Send a message in the answer's manner.

        Returns
        -------
        bool
            Whether the connection is to be kept.

        Raises
        ------
        ConnectionError
            If the client has gone.
        """
        if answer.delay:
            await asyncio.sleep(answer.delay)
        if not await self._send_all(steps(message, answer)):
            return False
        await self._write()
        return await self._end(message.end)

    async def _send_all(self, items: Iterable[Send | Stop]) -> bool:
        """Send up to the end, or up to a stop that is one."""
        for item in items:
            if isinstance(item, Stop):
                await self._write()
                if item.then != "hold":
                    return await self._end(item.then)
                self._on_held()
                await self._gate(item.seconds)
            elif item.pace is None:
                await self._add(item.piece)
            else:
                await self._drip(item.piece, item.pace)
        return True

    async def _add(self, piece: Piece) -> None:
        self._waiting.append(piece.data)
        self._waiting_size += len(piece.data)
        self._waiting_body += piece.body
        if self._waiting_size >= _JOIN:
            await self._write()
            # A client that keeps up never fills the buffer, and draining an empty one does not let others run.
            await asyncio.sleep(0)

    async def _drip(self, piece: Piece, pace: Pace) -> None:
        if self._clock is None or self._clock.pace is not pace:
            await self._write()
            self._clock = _Clock(pace)
        at = 0
        while at < len(piece.data):
            if self._clock.spent:
                await self._write()
                await self._clock.tick()
            took = self._clock.take(len(piece.data) - at)
            await self._add(piece.part(at, at + took))
            at += took

    async def _write(self) -> None:
        """Hand over what waits; return when the transport wants more."""
        if not self._waiting:
            return
        data = self._waiting[0] if len(self._waiting) == 1 else b"".join(self._waiting)
        self._waiting.clear()
        self._waiting_size = 0
        self._transport().write(data)
        self.started = True
        self.body_bytes += self._waiting_body
        self._waiting_body = 0
        await self._request.writer.drain()

    def _transport(self) -> asyncio.Transport:
        transport = self._request.transport
        # Asked before each write: asyncio warns of writes to a connection that is lost.
        if transport is None or transport.is_closing():
            raise ConnectionResetError("the client has gone")
        return transport

    async def _end(self, how: str) -> bool:
        """Do with the connection what was asked for; tell whether it is kept."""
        if how in {"keep", "close"}:
            return how == "keep"  # aiohttp closes, flushing first
        transport = self._transport()
        if how in {"abort", "reset"}:
            await _acknowledged(transport)
            if how == "reset":
                reset(transport.get_extra_info("socket"))
            transport.abort()
            return False
        if how == "half-close":
            if not transport.can_write_eof():  # TLS has no such thing
                return False
            transport.write_eof()
        self._on_held()
        # Until the client leaves or the server ends: either cancels this task.
        await asyncio.get_running_loop().create_future()
        return False


class _Clock:
    """Ticks of a pace. Late ticks are made up for, so that the average holds; a long hold is not."""

    def __init__(self, pace: Pace) -> None:
        self.pace = pace
        self._loop = asyncio.get_running_loop()
        self._next = self._loop.time()
        self._left = pace.size

    @property
    def spent(self) -> bool:
        """Whether nothing more may go before the next tick."""
        return self._left == 0

    async def tick(self) -> None:
        """Wait for the next tick."""
        now = self._loop.time()
        self._next = max(self._next + self.pace.every, now - 0.25)
        self._left = self.pace.size
        await asyncio.sleep(max(0.0, self._next - now))

    def take(self, wanted: int) -> int:
        """Return how many of the wanted bytes may go now."""
        took = min(wanted, self._left)
        self._left -= took
        return took


async def _acknowledged(transport: asyncio.Transport) -> None:
    """Return when the client's side has all bytes: an RST discards those still in this side's queue."""
    # Under TLS the buffer that counts is that of the transport below, which asyncio has no public name for.
    below = getattr(getattr(transport, "_ssl_protocol", None), "_transport", None) or transport
    connection = transport.get_extra_info("socket")
    # The kernel has no event for it either.
    while not transport.is_closing() and (below.get_write_buffer_size() or _unsent(connection)):  # noqa: ASYNC110
        await asyncio.sleep(0.001)


if sys.platform == "linux":
    import fcntl
    import termios

    def _unsent(connection: socket.socket) -> int:
        """Bytes sent and not acknowledged (SIOCOUTQ, which is TIOCOUTQ)."""
        if connection.fileno() < 0:
            return 0
        return int.from_bytes(fcntl.ioctl(connection.fileno(), termios.TIOCOUTQ, bytes(4)), sys.byteorder)

else:

    def _unsent(connection: socket.socket) -> int:  # noqa: ARG001 - as above
        """Unknown here: on loopback it is close to none."""
        return 0
