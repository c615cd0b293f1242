"""How an origin is reached, and the making of connections; the errors of that as ours.

Names become addresses in `names`, the quickest address is found by aiohappyeyeballs (RFC 8305), TLS is the standard
library's; what leads through a proxy's tunnel is aiohttp's, see `tunnel`. Every address that is about to be tried
passes `_Sockets`, which may refuse it.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import socket
import ssl
from collections import defaultdict
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from aiohappyeyeballs import start_connection

from framefetch.errors import (
    ConnectFailed,
    ConnectionLost,
    FramefetchError,
    NameNotResolved,
    PolicyRefused,
    ProtocolError,
    TlsFailed,
    TooManyOpenFiles,
)
from framefetch.sources.connection import HttpConnection
from framefetch.sources.names import Names, no_such_name, zoned
from framefetch.sources.seal import Past, Seal, Sealed
from framefetch.threads import aside
from framefetch.urls import origin_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from aiohappyeyeballs import AddrInfoType

    from framefetch.options import Timeouts
    from framefetch.sources.buffers import Blocks
    from framefetch.sources.environment import Proxy
    from framefetch.sources.names import Addresses
    from framefetch.sources.tunnel import Tunnels

__all__ = ["Dialer", "Route", "refuse_address"]

#: Seconds after which the next address is tried beside one that has not answered (RFC 8305 section 8).
NEXT_ADDRESS: Final = 0.25


@dataclass(frozen=True, slots=True)
class Route:
    """How an origin is reached; found out once for each."""

    key: str
    connect: str
    proxy: Proxy | None
    mapped: bool
    server_hostname: str | None
    login: str | None

    @property
    def absolute(self) -> bool:
        """Whether the proxy is told the whole URL (RFC 9112 section 3.2.2)."""
        return self.proxy is not None and self.connect.startswith("http://")

    @property
    def tunnelled(self) -> bool:
        """Whether the proxy only passes on what is said (RFC 9110 section 9.3.6)."""
        return self.proxy is not None and not self.absolute

    @property
    def door(self) -> str:
        """The URL of whom the connection is made to first."""
        return self.connect if self.proxy is None else self.proxy.url

    @property
    def via(self) -> str:
        """The proxy as messages show it."""
        return f" via proxy {self.proxy.address}" if self.proxy else ""

    @property
    def where(self) -> str:
        """The way as messages show it."""
        return f"{origin_of(self.connect)}{self.via}"


class _Sockets:
    """Makes the socket for an address, or refuses the address: names, literals and second thoughts all end here."""

    def __init__(self, is_public: Callable[[str], bool] | None) -> None:
        self._is_public = is_public
        self.made = 0
        self.refused: str | None = None

    def __call__(self, info: AddrInfoType) -> socket.socket:
        family, kind, proto, _, (address, *_) = info
        if self._is_public is not None and not self._is_public(address):
            self.refused = address
            raise PermissionError(errno.EACCES, f"{address} is no public address")
        self.made += 1
        return socket.socket(family, kind, proto)


class Dialer:
    """Makes connections.

    Parameters
    ----------
    timeouts : Timeouts
        How long a lookup, an address and a proxy's answer may take.
    addresses : Addresses
        Who looks names up, and what a public address is.
    buffers : Blocks
        Where connections receive large bodies.
    """

    def __init__(self, timeouts: Timeouts, addresses: Addresses, buffers: Blocks) -> None:
        self._buffers = buffers
        self._is_public = addresses.is_public
        self._loop = asyncio.get_running_loop()
        self._connect_seconds = timeouts.connect
        self._seconds = max(timeouts.connect, timeouts.stall)
        self._names = Names(addresses, timeouts.connect)
        self._trust: asyncio.Task[ssl.SSLContext] | None = None
        self._pasts: defaultdict[str, Past] = defaultdict(Past)
        self._tunnels: Tunnels | None = None

    async def dial(self, route: Route, *, must_be_public: bool = False) -> HttpConnection:
        """Make a new connection.

        Raises
        ------
        TransferError
            Why there is none.
        """
        host, port, sockets = "", 0, _Sockets(self._is_public if must_be_public else None)
        try:
            door = urlsplit(route.door)
            secure = door.scheme == "https"
            host, port = door.hostname or "", door.port or (443 if secure else 80)
            found = await self._names.find(host, port)
            async with asyncio.timeout(self._seconds):
                if route.tunnelled:
                    return await self._through(route)
                trust = await self._trusted() if secure else None
                name = (route.server_hostname or host).partition("%")[0].rstrip(".") if secure else None
                return await self._connect(found, sockets, trust, name, self._pasts[route.key])
        except FramefetchError:
            raise
        except (OSError, ValueError, RuntimeError) as error:  # a RuntimeError is uvloop's word for a descriptor in use
            if sockets.refused is not None and not sockets.made:
                raise refuse_address(route, sockets.refused) from error
            failure = _translate(error, route)
            if isinstance(failure, ConnectFailed):
                self._names.forget(host, port)
            raise failure from error

    async def _connect(
        self,
        found: list[AddrInfoType],
        sockets: _Sockets,
        trust: ssl.SSLContext | None,
        name: str | None,
        past: Past | None,
    ) -> HttpConnection:
        """Connect to the first address that answers; where TLS fails there, without the past, and to another one."""
        while True:
            reached: object = None
            before = None if past is None else past.session
            try:
                async with asyncio.timeout(self._connect_seconds):
                    made = await start_connection(
                        found, happy_eyeballs_delay=NEXT_ADDRESS, loop=self._loop, socket_factory=sockets
                    )
                    with contextlib.suppress(OSError):  # it has been reset by now
                        reached = zoned(made.getpeername())
                    return await self._open(made, trust, name, past)
            except OSError:
                if past is not None and before is not None and reached is not None:
                    past.give_up()
                    past = None
                    continue
                others = [info for info in found if info[4] != reached]
                if reached is None or not others or len(others) == len(found):
                    raise
                found = others

    async def _open(
        self, made: socket.socket, trust: ssl.SSLContext | None, name: str | None, past: Past | None = None
    ) -> HttpConnection:
        """Return the connection that a socket carries; with TLS where there is somebody to believe."""
        if trust is None or name is None:
            _, connection = await self._loop.create_connection(partial(HttpConnection, self._buffers), sock=made)
            return connection
        try:
            sealed = Sealed(Seal(trust, name, past), self._buffers.scratch)
        except BaseException:  # a name that TLS does not take
            made.close()
            raise
        transport, _ = await self._loop.create_connection(lambda: sealed, sock=made)
        try:
            await sealed.shaken
        except BaseException:
            transport.close()
            raise
        connection = HttpConnection(self._buffers)
        sealed.carry(connection)
        return connection

    async def _through(self, route: Route) -> HttpConnection:
        """Connect through a proxy's tunnel."""
        if self._tunnels is None:
            from framefetch.sources.tunnel import Tunnels  # aiohttp takes longer to import than most else here together

            self._tunnels = Tunnels(self._names, self._connect_seconds)
        return await self._tunnels.dial(route, await self._trusted(), self._buffers)

    async def _trusted(self) -> ssl.SSLContext:
        """Return the certificates that the system trusts; they are read once, in a thread."""
        if self._trust is None or (self._trust.done() and (self._trust.cancelled() or self._trust.exception())):
            self._trust = self._loop.create_task(aside(_read_certificates))
        return await asyncio.shield(self._trust)

    async def close(self) -> None:
        """End what is under way."""
        if self._tunnels is not None:
            await self._tunnels.close()
        if self._trust is not None:
            self._trust.cancel()
        self._names.close()


def _read_certificates() -> ssl.SSLContext:
    """Return a context that trusts what the system does.

    Raises
    ------
    OSError
        Where they cannot be read, of which OpenSSL says nothing: nobody would be trusted from then on.
    """
    if (bundle := ssl.get_default_verify_paths().cafile) is not None:
        with open(bundle, "rb"):
            pass
    context = ssl.create_default_context()
    context.set_alpn_protocols(["http/1.1"])
    return context


def refuse_address(route: Route, address: str) -> PolicyRefused:
    """Return the error for a redirect into a network that is not public."""
    return PolicyRefused(
        f"a redirect from a public host to {route.where} is not followed: {address} is no public address; "
        "TransferOptions(block_private=False) allows it"
    )


def _translate(error: Exception, route: Route) -> FramefetchError:
    """Return an error of connecting as one of ours; by type, because libraries give numbers to what has none."""
    where = route.where
    if isinstance(error, OSError) and error.errno in TooManyOpenFiles.CODES:
        return TooManyOpenFiles(
            f"no connection to {where}: {error.strerror or error}; "
            "raise the limit (ulimit -n) or lower --max-connections"
        )
    match error:
        case ssl.SSLError():
            return TlsFailed(f"no secure connection to {where}: {_words(error)}")
        case socket.gaierror():
            whose = f"the proxy {route.proxy.address}" if route.proxy else where
            failure = NameNotResolved(f"the name of {whose} cannot be resolved: {_words(error)}")
            failure.repeats = NameNotResolved.repeats if no_such_name(error) else None
            return failure
        case TimeoutError(errno=None):
            return ConnectFailed(f"no connection to {where} within the connect timeout")
        case OSError():
            return ConnectFailed(f"no connection to {where}: {_words(error)}")
        case ValueError():
            return ProtocolError(f"nothing can be asked of {where}: {_words(error)}")
        case _:
            return ConnectionLost(f"the connection to {where} was lost: {_words(error)}")


def _words(error: BaseException) -> str:
    """Return an error's text, or its class where it has none, on one line."""
    return " ".join(str(error).split()) or type(error).__name__
