"""How an origin is reached, and the making of connections: aiohttp's part, and its errors as ours.

aiohttp knows names, happy eyeballs, TLS and proxies; every address it is about to try passes `Dialer._make_socket`.
"""

from __future__ import annotations

import asyncio
import errno
import socket
import ssl
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import aiohttp
from yarl import URL

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
from framefetch.sources.names import Names, no_such_name
from framefetch.urls import origin_of, redact_text

if TYPE_CHECKING:
    from framefetch.options import Timeouts
    from framefetch.sources.buffers import Blocks
    from framefetch.sources.environment import Proxy
    from framefetch.sources.names import Addresses

__all__ = ["Dialer", "Route", "refuse_address"]

#: Seconds between two looks for another address of a host that cannot be reached.
FORGET_SECONDS: Final = 1.0


@dataclass(frozen=True, slots=True)
class Route:
    """How an origin is reached; found out once for each."""

    key: str
    connect: URL
    host: str
    proxy: Proxy | None
    mapped: bool
    server_hostname: str | None
    login: str | None

    @property
    def absolute(self) -> bool:
        """Whether the proxy is told the whole URL (RFC 9112 section 3.2.2)."""
        return self.proxy is not None and self.connect.scheme == "http"

    @property
    def via(self) -> str:
        """The proxy as messages show it."""
        return f" via proxy {self.proxy.address}" if self.proxy else ""

    @property
    def where(self) -> str:
        """The way as messages show it."""
        return f"{origin_of(str(self.connect))}{self.via}"


@dataclass(slots=True)
class _Call:
    """One connection in the making, as seen from where sockets are made."""

    must_be_public: bool
    bound: asyncio.Timeout
    seconds: float
    refused: str | None = None
    tried: bool = False


_CALL: ContextVar[_Call] = ContextVar("call")


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
        self._forgotten: dict[tuple[str, int], float] = {}
        self._seconds = max(timeouts.connect, timeouts.stall)
        # Not rounded up to whole seconds, as the library would above a threshold.
        self._timeout = aiohttp.ClientTimeout(total=None, sock_connect=timeouts.connect, ceil_threshold=float("inf"))
        self._names = Names(addresses.resolver, timeouts.connect)
        self._connector = aiohttp.TCPConnector(
            limit=0,
            force_close=True,
            ttl_dns_cache=addresses.ttl,
            resolver=self._names,
            socket_factory=self._make_socket,
        )

    def _make_socket(self, info: Any) -> socket.socket:
        """Make the socket for one address, or refuse the address: names, literals and second thoughts all end here."""
        family, kind, proto, _, (address, *_) = info
        call = _CALL.get()
        if call.must_be_public and not self._is_public(address):
            call.refused = address
            raise PermissionError(errno.EACCES, f"{address} is no public address")
        if not call.tried:
            call.tried = True
            call.bound.reschedule(self._loop.time() + call.seconds)  # the lookup had a limit of its own
        return socket.socket(family, kind, proto)

    async def dial(self, route: Route, *, must_be_public: bool = False) -> HttpConnection:
        """Make a new connection.

        Raises
        ------
        TransferError
            Why there is none.
        """
        try:
            async with asyncio.timeout(None) as bound:
                call = _Call(must_be_public, bound, self._seconds)
                _CALL.set(call)
                lease = await self._connector.connect(self._request(route), [], self._timeout)
                return HttpConnection(lease, self._buffers)
        except (aiohttp.ClientError, OSError, ValueError) as error:
            refused = call.refused is not None and not call.tried
            failure = refuse_address(route, str(call.refused)) if refused else _translate(error, route)
            if not isinstance(error, aiohttp.ClientHttpProxyError):  # it quotes the proxy's password
                failure.__cause__ = error
        # Outside of the handler, so that no context keeps what the cause must not show.
        if isinstance(failure, ConnectFailed):
            self._forget(route)
        raise failure

    def _request(self, route: Route) -> aiohttp.ClientRequest:
        proxy = route.proxy
        # A tunnel takes the proxy's password in CONNECT; a plain request carries it itself (RFC 9110 section 11.7.2).
        secret = None if proxy is None or route.absolute else proxy.authorization
        return aiohttp.ClientRequest(
            "GET",
            route.connect,
            loop=self._loop,
            proxy=None if proxy is None else URL(proxy.url, encoded=True),
            proxy_headers=None if secret is None else {"Proxy-Authorization": secret},
            server_hostname=route.server_hostname,
        )

    def _forget(self, route: Route) -> None:
        """Look the name up anew next time, but not for every row: the host may have moved."""
        url = route.connect if route.proxy is None else URL(route.proxy.url, encoded=True)
        key, now = (url.raw_host or "", url.port or 0), self._loop.time()
        if now - self._forgotten.get(key, -FORGET_SECONDS) >= FORGET_SECONDS:
            self._forgotten[key] = now
            self._connector.clear_dns_cache(*key)

    async def close(self) -> None:
        """End what is under way."""
        await self._connector.close()
        await self._names.close()


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
        case aiohttp.ClientConnectorCertificateError():
            return TlsFailed(f"no secure connection to {where}: {_words(error.certificate_error)}")
        case aiohttp.ClientConnectorSSLError() | ssl.SSLError():
            return TlsFailed(f"no secure connection to {where}: {_words(error)}")
        case aiohttp.ClientConnectorDNSError():
            whose = f"the proxy {route.proxy.address}" if route.proxy else where
            failure = NameNotResolved(f"the name of {whose} cannot be resolved: {_words(error.os_error)}")
            failure.repeats = NameNotResolved.repeats if no_such_name(error.os_error) else None
            return failure
        case aiohttp.ClientHttpProxyError():
            words = redact_text(f"{error.status} {error.message}")[:200]
            return ConnectFailed(f"no connection to {where}: the proxy answers {words}")
        case aiohttp.ClientConnectorError():
            return ConnectFailed(f"no connection to {where}: {_words(error.os_error)}")
        case TimeoutError():
            return ConnectFailed(f"no connection to {where} within the connect timeout")
        case aiohttp.InvalidUrlClientError():
            return PolicyRefused(f"expected an IPv4 address as four numbers from 0 to 255, got {where}")
        case ValueError():
            return ProtocolError(f"nothing can be asked of {where}: {_words(error)}")
        case _:
            return ConnectionLost(f"the connection to {where} was lost: {_words(error)}")


def _words(error: BaseException) -> str:
    """Return an error's text, or its class where it has none, on one line."""
    return " ".join(str(error).split()) or type(error).__name__
