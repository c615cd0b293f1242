"""Connections through a proxy that only passes on what is said (RFC 9110 section 9.3.6): aiohttp's part."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from yarl import URL

from framefetch.errors import ConnectFailed, ConnectionLost, StatusError
from framefetch.sources.connection import HttpConnection
from framefetch.urls import redact_text

if TYPE_CHECKING:
    import socket
    import ssl

    from framefetch.sources.buffers import Blocks
    from framefetch.sources.dial import Route
    from framefetch.sources.names import Names

__all__ = ["Tunnels"]

_ADVICE: Final = {403: ": the proxy refuses this host", 407: ": the proxy asks for a login"}


class _Resolver(AbstractResolver):
    """Tells aiohttp what `Names` know."""

    def __init__(self, names: Names) -> None:
        self._names = names

    async def resolve(self, host: str, port: int = 0, family: socket.AddressFamily | int = 0) -> list[ResolveResult]:
        """Return the addresses of a name."""
        found = await self._names.find(host, port)
        return [
            ResolveResult(hostname=host, host=str(to[0]), port=port, family=int(kind), proto=0, flags=0)
            for kind, _, _, _, to in found
            if family in (0, kind)
        ]

    async def close(self) -> None:
        """Names are closed by who made them."""


class Tunnels:
    """Makes connections through the tunnels of proxies.

    Parameters
    ----------
    names : Names
        Know where proxies are.
    seconds : float
        How long an address may take to answer.
    """

    def __init__(self, names: Names, seconds: float) -> None:
        self._loop = asyncio.get_running_loop()
        # Not rounded up to whole seconds, as the library would above a threshold.
        self._timeout = aiohttp.ClientTimeout(total=None, sock_connect=seconds, ceil_threshold=float("inf"))
        self._connector = aiohttp.TCPConnector(
            limit=0, force_close=True, use_dns_cache=False, resolver=_Resolver(names)
        )

    async def dial(self, route: Route, trust: ssl.SSLContext, buffers: Blocks) -> HttpConnection:
        """Make a new connection.

        Raises
        ------
        ConnectFailed
            Where the proxy makes none.
        OSError
            Where the proxy cannot be reached, or there is no TLS.
        """
        # The proxy's password goes into CONNECT alone (RFC 9110 section 11.7.2).
        proxy = route.proxy
        assert proxy is not None
        secret = proxy.authorization
        request = aiohttp.ClientRequest(
            "GET",
            URL(route.connect, encoded=True),
            loop=self._loop,
            ssl=trust,
            proxy=URL(proxy.url, encoded=True),
            proxy_headers=None if secret is None else {"Proxy-Authorization": secret},
            server_hostname=route.server_hostname,
        )
        try:
            lease = await self._connector.connect(request, [], self._timeout)
        except aiohttp.ClientError as error:
            failure = _plain(error, route.where)
        else:
            connection = HttpConnection(buffers, lease.close)
            transport = lease.transport
            assert transport is not None
            connection.connection_made(transport)
            transport.set_protocol(connection)
            if lease.protocol is None or lease.protocol.should_close:
                connection.eof_received()
            return connection
        raise failure  # outside of the handler: what aiohttp says of a proxy quotes its password

    async def close(self) -> None:
        """End what is under way."""
        await self._connector.close()


def _plain(error: aiohttp.ClientError, where: str) -> Exception:
    """Return what an error of aiohttp was made of, as it is raised where there is no tunnel."""
    match error:
        case aiohttp.ClientConnectorCertificateError():
            return error.certificate_error
        case aiohttp.ClientConnectorError():
            return error.os_error
        case aiohttp.ClientHttpProxyError():
            words = redact_text(f"{error.status} {error.message}")[:200] + _ADVICE.get(error.status, "")
            failure = ConnectFailed(f"no connection to {where}: the proxy answers {words}")
            failure.retryable = error.status in StatusError.TRANSIENT  # a wrong password may lock an account
            return failure
        case _:
            words = " ".join(str(error).split()) or type(error).__name__
            return ConnectionLost(f"the connection to {where} was lost: {words}")
