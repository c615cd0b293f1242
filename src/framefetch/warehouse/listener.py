"""The socket, and the connections it takes in; aiohttp makes requests of them.

Connections are accepted here and not by asyncio's server, which on Python 3.11 gives no hold on those that have
not finished their TLS handshake: closing must end them too, and at once.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import struct
import sys
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Final, Literal

from aiohttp import web

if TYPE_CHECKING:
    import ssl

__all__ = ["ConnectionAnswer", "Listener", "reset"]

#: What becomes of a connection as it is accepted: it is served, closed, reset, or never read from.
ConnectionAnswer = Literal["serve", "close", "reset", "hang"]

#: Answers a request; what it returns is already sent.
Handler = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]

#: aiohttp reports what clients do wrong here; nobody listens, as clients do wrong on purpose.
_SILENT: Final = logging.Logger("framefetch.warehouse")  # noqa: LOG001 - of its own, so that no handler hears it
_SILENT.addHandler(logging.NullHandler())

#: Longest request line and header field, in bytes: what is tested are the client's limits, not the server's.
_LINE: Final = 1 << 20


class _Protocols(web.Server):
    """aiohttp's maker of connection handlers, which also keeps their numbers and transports."""

    def __init__(self, handler: Handler) -> None:
        super().__init__(
            handler,
            handler_cancellation=True,  # an answer that stalls ends when its client leaves
            access_log=None,
            logger=_SILENT,
            max_line_size=_LINE,
            max_field_size=_LINE,
            lingering_time=0,
        )
        self.numbers: dict[web.RequestHandler, int] = {}
        self.transports: dict[web.RequestHandler, asyncio.Transport] = {}

    def numbered(self, number: int) -> web.RequestHandler:
        """Make the handler of a connection."""
        handler = self()
        self.numbers[handler] = number
        return handler

    def connection_made(self, handler: web.RequestHandler, transport: asyncio.Transport) -> None:
        super().connection_made(handler, transport)
        self.transports[handler] = transport

    def connection_lost(self, handler: web.RequestHandler, exc: BaseException | None = None) -> None:
        super().connection_lost(handler, exc)
        self.transports.pop(handler, None)
        self.numbers.pop(handler, None)


class Listener:
    """Accepts connections and gives each a number.

    Parameters
    ----------
    handler : callable
        Answers a request.
    address : (str, int)
        Where to listen; port 0 for a free one.
    ssl_context : ssl.SSLContext or None
        Speak TLS with it.
    """

    def __init__(self, handler: Handler, address: tuple[str, int], ssl_context: ssl.SSLContext | None) -> None:
        family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
        self._socket = socket.create_server(address, family=family, backlog=4096)
        self._socket.settimeout(0)
        self._ssl = ssl_context
        self._protocols = _Protocols(handler)
        self._connecting: set[asyncio.Task[None]] = set()
        self._parked: list[socket.socket] = []
        self._closing = False
        self._accepting = asyncio.get_running_loop().create_task(self._accept())
        self.port: int = self._socket.getsockname()[1]
        #: Connections accepted so far.
        self.accepted = 0
        #: How the next connections are treated, before all others are served.
        self.answers: list[ConnectionAnswer] = []

    @property
    def open(self) -> int:
        """Connections open now."""
        return len(self._protocols.transports)

    def number(self, request: web.BaseRequest) -> int:
        """Return the number of a request's connection."""
        return self._protocols.numbers.get(request.protocol, 0)

    def drop(self, how: Literal["close", "reset"]) -> None:
        """Break all connections."""
        for transport in list(self._protocols.transports.values()):
            if how == "reset" and not transport.is_closing():
                reset(transport.get_extra_info("socket"))
            transport.abort()

    async def close(self) -> None:
        """End everything at once; nothing waits for a client."""
        await self._stop_accepting()
        for task in (tasks := list(self._connecting)):
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for parked in (self._socket, *self._parked):
            parked.close()
        self.drop("close")
        # Each abort cancels its connection's task within the next rounds of the loop.
        while self._protocols.connections or self._protocols.transports:  # noqa: ASYNC110 - aiohttp has no event for it
            await asyncio.sleep(0)

    async def _stop_accepting(self) -> None:
        # Not by cancelling: that would lose, unclosed, a connection accepted in the same round. One more of our
        # own wakes the task, and is the last.
        self._closing = True
        with contextlib.suppress(OSError), socket.create_connection(self._socket.getsockname()[:2], timeout=1):
            await asyncio.wait([self._accepting], timeout=1)
        self._accepting.cancel()
        await asyncio.wait([self._accepting])

    async def _accept(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                connection, _ = await loop.sock_accept(self._socket)
            except OSError:  # no descriptor left, most likely because of a client in the same process
                await asyncio.sleep(0.01)
                continue
            if self._closing:
                connection.close()
                return
            self.accepted += 1
            match self.answers.pop(0) if self.answers else "serve":
                case "serve":
                    task = loop.create_task(self._connect(connection, self.accepted))
                    self._connecting.add(task)
                    task.add_done_callback(self._connecting.discard)
                case "hang":
                    self._parked.append(connection)
                case how:
                    if how == "reset":
                        reset(connection)
                    connection.close()

    async def _connect(self, connection: socket.socket, number: int) -> None:
        handler = self._protocols.numbered(number)
        try:
            await asyncio.get_running_loop().connect_accepted_socket(lambda: handler, connection, ssl=self._ssl)
        except BaseException as error:
            # Said here, since uvloop does not say it where a connection is made and given up in the same round.
            handler.connection_lost(None)
            self._protocols.numbers.pop(handler, None)
            connection.close()
            # A client that has left already, or a handshake that failed, is the client's business.
            if not isinstance(error, OSError):
                raise


def reset(connection: socket.socket) -> None:
    """Make the close of a connection an RST: lingering for no time throws away what is under way."""
    linger = struct.pack("hh" if sys.platform == "win32" else "ii", 1, 0)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
