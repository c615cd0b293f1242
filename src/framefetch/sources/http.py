"""HTTP and HTTPS: how each origin is reached, and what it may hear.

How connections are made, see `dial`, `names` and `tunnel`; what is said on them, `wire` for the bytes, `connection` and
`exchange` for one of them, `answers` for the gate and `watchdog` for the clock.
"""

from __future__ import annotations

import re
from time import time
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from framefetch.sources.ahead import Ahead
from framefetch.sources.buffers import Blocks
from framefetch.sources.cookies import cookies_for, with_cookies
from framefetch.sources.dial import Dialer, Route
from framefetch.sources.environment import Environment, basic
from framefetch.sources.exchange import Exchange
from framefetch.sources.names import Addresses
from framefetch.sources.pool import Pool
from framefetch.sources.secrets import told
from framefetch.sources.watchdog import Watchdog
from framefetch.urls import connection_url, credentials_of, origin_of, wire_url

if TYPE_CHECKING:
    from collections.abc import Mapping

    from framefetch.options import Timeouts
    from framefetch.sources.base import Ask, Meter
    from framefetch.sources.connection import HttpConnection
    from framefetch.sources.cookies import Jar
    from framefetch.sources.loan import Loan
    from framefetch.sources.wire import Head

__all__ = ["HttpSource"]

#: The interface of an address: it says something on this machine alone (RFC 6874 section 1).
_ZONE = re.compile(r"%[^]]*(?=])")
_COMMON: Final = {"User-Agent": "framefetch", "Accept": "*/*", "Accept-Encoding": "identity"}


class HttpSource:
    """Fetches ``http`` and ``https`` URLs.

    Parameters
    ----------
    timeouts : Timeouts
        How long silence may last.
    headers : mapping of str to str
        Sent to the origin of the URL that is asked for, not to where it redirects; there in the place of ours.
    host_map : mapping of str to str
        Where to connect instead; the server still hears the URL's own host.
    environment : Environment
        Proxies and logins.
    addresses : Addresses, optional
        Who looks names up, and where redirects may lead.
    """

    def __init__(
        self,
        timeouts: Timeouts,
        headers: Mapping[str, str],
        host_map: Mapping[str, str],
        environment: Environment,
        addresses: Addresses | None = None,
    ) -> None:
        self.headers = dict(headers)
        self._brings = frozenset(map(str.lower, headers))
        #: Whether these bring a login of their own.
        self.brings_login = "authorization" in self._brings
        self._brings_host = "host" in self._brings
        self._cookies: dict[str, Jar] = {}
        self._fields: dict[tuple[str, str | None, bool, str], str] = {}
        self.stall = timeouts.stall
        self.watchdog = Watchdog(timeouts)
        self.pool = Pool()
        self.addresses = addresses or Addresses()
        self._host_map = dict(host_map)
        self._environment = environment
        self._routes: dict[str, Route] = {}
        self._dialer = Dialer(timeouts, self.addresses, Blocks())
        self.ahead = Ahead(self._dialer, self.pool)
        self._lent: dict[Loan, tuple[str, HttpConnection]] = {}
        #: The head of an answer that a thread could take, of each host that gave one.
        self._usual: dict[str, Head] = {}

    def open(
        self,
        url: str,
        meter: Meter,
        *,
        decode: bool = True,
        ask: Ask | None = None,
        begun: Loan | None = None,
        fresh: bool = False,
    ) -> Exchange:
        """Ask for a URL, or a range of it; a coding that nobody asked for is undone, or kept."""
        exchange = Exchange(self, url, meter, decode=decode, ask=ask, begun=begun)
        exchange.fresh = fresh
        return exchange

    # -- connections on loan ------------------------------------------------------------------------------------

    def lend(self, url: str) -> Loan | None:
        """Lend the connection to where a URL leads that was used last; None where it is not for a thread."""
        origin = origin_of(url)
        usual = self._usual.get(origin)
        last = self.pool.last(origin)
        if last is None or last.plain_head(usual) is None:
            return None
        idle = self.pool.take(origin, self.watchdog.now())
        if idle is None:
            return None
        head = idle.plain_head(usual)
        loan = None if head is None else idle.lend(self.watchdog.manner(origin), head)
        if head is None or loan is None:
            self.pool.keep(origin, idle)
            return None
        self._lent[loan], self._usual[origin] = (origin, idle), head
        return loan

    def expect(self, url: str, now: int, soon: int) -> None:
        """Take note of how many requests a host may be asked at once, and before long."""
        self.ahead.expect(origin_of(url), now, soon)

    def request(self, url: str) -> bytes:
        """Return the request for a URL whose host was asked before, as any thread may send it."""
        route = self.route(origin_of(url), url)
        return self.words(url, route, self.login(url, route), own=True)

    def take_back(self, loan: Loan) -> None:
        """Take back what was lent; nobody goes on with an exchange that was begun."""
        origin, connection = self._lent.pop(loan)
        connection.take_back(loan)
        if loan.asked:
            connection.close()
        else:
            self.pool.put(origin, connection)

    def reclaim(self, loan: Loan) -> HttpConnection:
        """Take back a connection with an exchange that was begun, to go on with it."""
        _, connection = self._lent.pop(loan)
        connection.take_back(loan)
        return connection

    # -- what is said -------------------------------------------------------------------------------------------

    def words(self, url: str, route: Route, login: str | None, *, own: bool, wanted: str = "") -> bytes:
        """Return a request as bytes: what its origin may hear, the target byte for byte as given."""
        wire = wire_url(url)
        host, target = _host_and_target(wire)
        if "%" in host:
            host = _ZONE.sub("", host)
        cookies = cookies_for(self._cookies.get(route.key, ()), target, time()) if self._cookies else ""
        if route.proxy is not None and route.absolute:
            target = route.connect.removesuffix("/") + target if route.mapped else wire
        # The same for all requests with the same cookies. Threads ask too: a cookie replaces what is known.
        key, known = (route.key, login, own, cookies), self._fields
        fields = known.get(key)
        if fields is None:
            fields = known[key] = self._fields_for(route, login, own=own, cookies=cookies)
        if own and self._brings_host:
            return f"GET {target} HTTP/1.1\r\n{wanted}{fields}".encode("latin-1", "replace")
        return f"GET {target} HTTP/1.1\r\nHost: {host}\r\n{wanted}{fields}".encode("latin-1", "replace")

    def login(self, url: str, route: Route) -> str | None:
        """Return the Authorization header for a table's own origin: from the URL, else from .netrc."""
        if self.brings_login:
            return None
        if "@" in url and (credentials := credentials_of(url)):
            return basic(*credentials)
        return route.login

    def secrets(self, url: str) -> frozenset[str]:
        """Return what is secret of the requests for a URL: its own, headers, logins, and cookies of every host."""
        fields = [*self.headers.items()]
        fields += [("Cookie", f"{cookie.name}={cookie.value}") for jar in self._cookies.values() for cookie in jar]
        route = self._routes.get(origin_of(url))
        if route is not None:
            logins = (self.login(url, route), route.proxy.authorization if route.proxy is not None else None)
            fields += [("Authorization", login) for login in logins if login is not None]
        return told(url, fields)

    def route(self, origin: str, url: str) -> Route:
        """Return how an origin is reached."""
        route = self._routes.get(origin)
        if route is None:
            target = connection_url(url, self._host_map)
            own, parts = urlsplit(wire_url(url)), urlsplit(wire_url(target))
            route = self._routes[origin] = Route(
                key=origin,
                connect=f"{parts.scheme}://{parts.netloc}/",
                proxy=self._environment.proxy_for(target),
                mapped=target is not url,
                server_hostname=(own.hostname or "").rstrip(".") if parts.scheme == "https" else None,
                login=self._environment.login_for(url),
            )
        return route

    def guards(self, route: Route) -> bool:
        """Return whether a redirect to a route is judged by its address: not where a proxy or the user chose it."""
        return self.addresses.block_private and route.proxy is None and not route.mapped

    def _fields_for(self, route: Route, login: str | None, *, own: bool, cookies: str) -> str:
        """Return the header fields that an origin may hear, but for its name."""
        brought = self.headers if own else {}
        lines = [f"{name}: {value}" for name, value in _COMMON.items() if not own or name.lower() not in self._brings]
        lines += [f"{name}: {value}" for name, value in brought.items() if name.lower() != "cookie"]
        if login is not None:
            lines.append(f"Authorization: {login}")
        if route.absolute and route.proxy is not None and route.proxy.authorization:
            lines.append(f"Proxy-Authorization: {route.proxy.authorization}")
        told = [*(value for name, value in brought.items() if name.lower() == "cookie"), *filter(None, [cookies])]
        if told:
            lines.append("Cookie: " + "; ".join(told))  # one line, whoever gave them (RFC 6265 section 5.4)
        return "\r\n".join(lines) + "\r\n\r\n"

    def keep_cookies(self, url: str, lines: list[str]) -> None:
        """Keep cookies in memory, for their own origin only."""
        origin, (_, target) = origin_of(url), _host_and_target(wire_url(url))
        self._cookies[origin] = with_cookies(self._cookies.get(origin, ()), lines, target, time())
        self._fields = {}

    async def close(self) -> None:
        """Close all connections."""
        await self.ahead.close()
        for loan in tuple(self._lent):
            self.reclaim(loan).close()
        self.pool.close()
        self.watchdog.close()
        await self._dialer.close()


def _host_and_target(wire: str) -> tuple[str, str]:
    """Return host and port as a URL has them, and the request target: what follows them, at least a slash."""
    begin = wire.find("://") + 3
    start = wire.find("/", begin)
    query = wire.find("?", begin)
    if start < 0 or (0 <= query < start):
        end = query if query >= 0 else len(wire)
        return wire[begin:end], "/" + wire[end:]
    return wire[begin:start], wire[start:]
