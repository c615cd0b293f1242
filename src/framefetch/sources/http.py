"""HTTP and HTTPS: one exchange with its redirects, with everything decided by hand that decides what a file is.

aiohttp makes connections (see `dial` and `names`). What is said on them is ours: see `wire` for the bytes, `connection`
for the exchange, `answers` for the gate and `watchdog` for the clock.
"""

from __future__ import annotations

import asyncio
import contextlib
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from yarl import URL

from framefetch.errors import ConnectionLost, RedirectError, StatusError, TransferError
from framefetch.sources.answers import REDIRECTS, redirect_target, refuse_status
from framefetch.sources.buffers import Blocks
from framefetch.sources.decode import Decoder, coding_of
from framefetch.sources.dial import Dialer, Route, refuse_address
from framefetch.sources.environment import Environment, basic
from framefetch.sources.expiry import EXCERPT_BYTES, MAY_BE_EXPIRED, expiry_of, tells_expiry
from framefetch.sources.names import Addresses, Trail
from framefetch.sources.pool import Pool
from framefetch.sources.ranges import ANSWERS, accept_range, entity_of, range_fields
from framefetch.sources.watchdog import Watch, Watchdog
from framefetch.urls import connection_url, credentials_of, origin_of, redact, wire_url

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from types import TracebackType
    from typing import Self

    from framefetch.models import Entity
    from framefetch.options import Timeouts
    from framefetch.sources.base import Ask, Meter
    from framefetch.sources.connection import HttpConnection
    from framefetch.sources.tap import Tap
    from framefetch.sources.wire import Head

__all__ = ["HttpSource"]

MAX_REDIRECTS: Final = 10


class HttpSource:
    """Fetches ``http`` and ``https`` URLs.

    Parameters
    ----------
    timeouts : Timeouts
        How long silence may last.
    headers : mapping of str to str
        Sent to the origin of the URL that is asked for, not to where it redirects.
    host_map : mapping of str to str
        Where to connect instead; the server still hears the URL's own host.
    environment : Environment
        Proxies and logins.
    addresses : Addresses, optional
        Who looks names up, and where redirects may lead.
    """

    schemes = ("http", "https")

    def __init__(
        self,
        timeouts: Timeouts,
        headers: Mapping[str, str],
        host_map: Mapping[str, str],
        environment: Environment,
        addresses: Addresses | None = None,
    ) -> None:
        self.headers = dict(headers)
        #: Whether these bring a login of their own.
        self.brings_login = any(name.lower() == "authorization" for name in headers)
        self._cookies: dict[str, dict[str, str]] = {}
        self._fields: dict[tuple[str, str | None, bool], str] = {}
        self.stall = timeouts.stall
        self.watchdog = Watchdog(timeouts)
        self.pool = Pool()
        self.addresses = addresses or Addresses()
        self._host_map = dict(host_map)
        self._environment = environment
        self._routes: dict[str, Route] = {}
        self.dialer = Dialer(timeouts, self.addresses, Blocks())

    def open(self, url: str, meter: Meter, *, decode: bool = True, ask: Ask | None = None) -> _Exchange:
        """Ask for a URL, or a range of it; a coding that nobody asked for is undone, or kept."""
        return _Exchange(self, url, meter, decode=decode, ask=ask)

    def route(self, origin: str, url: str) -> Route:
        """Return how an origin is reached."""
        route = self._routes.get(origin)
        if route is None:
            target = connection_url(url, self._host_map)
            parts = urlsplit(wire_url(target))
            mapped = target is not url
            route = self._routes[origin] = Route(
                key=origin,
                connect=URL(f"{parts.scheme}://{parts.netloc}/", encoded=True),
                host=urlsplit(wire_url(url)).netloc,
                proxy=self._environment.proxy_for(target),
                mapped=mapped,
                server_hostname=urlsplit(url).hostname if mapped and parts.scheme == "https" else None,
                login=self._environment.login_for(url),
            )
        return route

    def guards(self, route: Route) -> bool:
        """Return whether a redirect to a route is judged by its address: not where a proxy or the user chose it."""
        return self.addresses.block_private and route.proxy is None and not route.mapped

    def fields(self, route: Route, login: str | None, *, own: bool) -> str:
        """Return the header fields that an origin may hear; the same for all requests until a cookie comes."""
        key = (route.key, login, own)
        made = self._fields.get(key)
        if made is None:
            lines = [f"Host: {route.host}", _COMMON]
            if own:
                lines += [f"{name}: {value}" for name, value in self.headers.items()]
            if login is not None:
                lines.append(f"Authorization: {login}")
            if route.absolute and route.proxy is not None and route.proxy.authorization:
                lines.append(f"Proxy-Authorization: {route.proxy.authorization}")
            if cookies := self._cookies.get(route.key):
                lines.append("Cookie: " + "; ".join(f"{name}={value}" for name, value in cookies.items()))
            made = self._fields[key] = "\r\n".join(lines) + "\r\n\r\n"
        return made

    def keep_cookies(self, origin: str, lines: list[str]) -> None:
        """Keep cookies in memory, for their own origin only."""
        jar = self._cookies.setdefault(origin, {})
        for line in lines:
            name, equals, value = line.partition(";")[0].partition("=")
            if equals and name.strip():
                jar[name.strip()] = value.strip()
        self._fields.clear()

    async def close(self) -> None:
        """Close all connections."""
        self.pool.close()
        self.watchdog.close()
        await self.dialer.close()


class _Exchange:
    """One request with its redirects, from the first byte sent to the last received."""

    __slots__ = (
        "_ask_for",
        "_asked",
        "_at_end",
        "_connection",
        "_decode",
        "_decoder",
        "_head",
        "_key",
        "_meter",
        "_pieces",
        "_source",
        "_total",
        "_url",
        "_via",
        "_watch",
        "alone",
        "etag",
        "framed",
        "length",
        "offset",
    )

    def __init__(self, source: HttpSource, url: str, meter: Meter, *, decode: bool, ask: Ask | None) -> None:
        self._source = source
        self._ask_for = ask
        self._url = url
        self._meter = meter
        self._watch = Watch(source.watchdog, url)
        self._connection: HttpConnection | None = None
        self._key = ""
        self._asked = url
        self._via = ""
        self._decode = decode
        self._decoder: Decoder | None = None
        self._pieces: Iterator[bytes] = iter(())
        self.length: int | None = None
        self.framed = False
        self.etag: str | None = None
        self.offset = 0
        self._at_end = False
        self._head: Head | None = None
        self._total: int | None = None
        self.alone = True

    async def __aenter__(self) -> Self:
        try:
            await self._accept(await self._follow())
        except BaseException as error:
            self._name_proxy(error)
            self._release()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._release()

    def _name_proxy(self, error: BaseException) -> None:
        """Say in an error's message through which proxy it came: it may be the proxy's."""
        if self._via and isinstance(error, TransferError) and self._via not in str(error):
            error.args = (f"{error} [{self._via.strip()}]",)

    def _release(self) -> None:
        """Give the connection back; the pool closes it where the exchange did not end cleanly."""
        connection, self._connection = self._connection, None
        if connection is not None:
            self._source.pool.put(self._key, connection)

    async def _follow(self) -> Head:
        """Send the request and follow redirects, each by our rules."""
        source, url, seen = self._source, self._url, [self._url]
        own = origin = origin_of(url)
        trail: Trail | None = None
        while True:
            head = await self._ask(url, origin, own=origin == own, trail=trail)
            if "set-cookie" in head.fields:
                source.keep_cookies(origin, head.all("set-cookie"))
            if head.status not in REDIRECTS:
                return head
            trail = trail or Trail(own)
            trail.passed(origin, public=self._at_public_address(source.route(origin, url)))
            url = redirect_target(head.status, url, head.all("location"))
            self._release()
            if seen.count(url) > 1 or len(seen) > MAX_REDIRECTS:
                what = "a loop" if seen.count(url) > 1 else f"more than {MAX_REDIRECTS} redirects"
                raise RedirectError(f"{what}: {' -> '.join(redact(step) for step in (*seen, url))[:1000]}")
            seen.append(url)
            origin = origin_of(url)

    def _at_public_address(self, route: Route) -> bool:
        """Return whether we are connected to a public address; behind a proxy nobody knows, and that counts as one."""
        assert self._connection is not None
        return route.proxy is not None or self._source.addresses.is_public(self._connection.peer)

    async def _ask(self, url: str, origin: str, *, own: bool, trail: Trail | None = None) -> Head:
        """Send one request and return the head of its answer."""
        source = self._source
        route = source.route(origin, url)
        guarded = trail is not None and source.guards(route) and trail.must_be_public(origin)
        self._key, self._asked, self._via = origin, url, route.via
        request = self._request(url, route, own=own)
        self._watch.manner = source.watchdog.manner(origin)
        connection = source.pool.take(origin, source.watchdog.now())
        while True:
            fresh = connection is None
            self._connection = connection = connection or await source.dialer.dial(route, must_be_public=guarded)
            if guarded and not self._at_public_address(route):
                raise refuse_address(route, connection.peer)
            self._meter.requests += 1
            self.alone = not connection.used
            connection.send(request, self._watch)
            try:
                return await connection.head()
            except ConnectionLost:
                # A server may close an idle connection in the moment we use it; that says nothing of the file.
                if fresh or connection.received_any:
                    raise
                self._release()
                connection = None

    def _request(self, url: str, route: Route, *, own: bool) -> bytes:
        """Return the request as bytes: what this origin may hear, the target byte for byte as given."""
        wire = wire_url(url)
        target = wire if route.absolute else _target(wire)
        fields = self._source.fields(route, self._login(route) if own else None, own=own)
        wanted = "" if self._ask_for is None else range_fields(self._ask_for)
        return f"GET {target} HTTP/1.1\r\n{wanted}{fields}".encode("latin-1", "replace")

    def _login(self, route: Route) -> str | None:
        """Return the Authorization header for the table's own origin: from the URL, else from .netrc."""
        if self._source.brings_login:
            return None
        if "@" in self._url and (credentials := credentials_of(self._url)):
            return basic(*credentials)
        return route.login

    async def _refusal(self, head: Head) -> StatusError:
        """Return the error for a status that is no file."""
        source = self._source
        own = origin_of(self._url)
        with_login = source.brings_login or (self._key == own and self._login(source.route(own, self._url)) is not None)
        return refuse_status(head, with_login=with_login, expired=await self._why_expired(head))

    async def _why_expired(self, head: Head) -> str | None:
        """Return how we know that a signed link has expired, None where nothing says so."""
        if head.status not in MAY_BE_EXPIRED or "?" not in self._asked:
            return None
        until = expiry_of(self._asked)
        if until is not None and until < datetime.now(UTC):
            return f"the link was valid until {until:%Y-%m-%d %H:%M:%S} UTC"
        return "the server says that the link has expired" if tells_expiry(await self._excerpt()) else None

    async def _excerpt(self) -> bytes:
        """Return how an error's body begins: what comes of it within the stall timeout, and not more than is needed."""
        pieces: list[bytes] = []
        size = 0
        with contextlib.suppress(TransferError, TimeoutError):
            async with asyncio.timeout(self._source.stall):
                while size < EXCERPT_BYTES and (block := await self._read_wire()):
                    pieces.append(bytes(block[: EXCERPT_BYTES - size]))
                    size += len(block)
                    if isinstance(block, memoryview):
                        self.give_back(block)
        return b"".join(pieces)

    async def _accept(self, head: Head) -> None:
        """Let only a whole file through, or the range that was asked for."""
        if head.status != 200 and (self._ask_for is None or head.status not in ANSWERS):
            raise await self._refusal(head)
        total: int | None = None
        if self._ask_for is not None:
            self.offset, total = accept_range(head, self._ask_for)
        length = head.get("content-length")
        self.etag = head.get("etag")
        if head.status == 416:  # nothing is left, and what follows this head is a page of words
            self._at_end, self.framed, self.length = True, True, 0
        else:
            self.framed = length is not None
            coded = self._decode and "content-encoding" in head.fields
            coding = coding_of(head.all("content-encoding")) if coded else None
            if coding is not None:
                self._decoder = Decoder(coding)
                return
            self.length = None if length is None else int(length)
        # Nothing tells the end of a body that the connection's end delimits from its break.
        if self.framed or "transfer-encoding" in head.fields:
            self._head, self._total = head, self.length if head.status == 200 else total

    @property
    def entity(self) -> Entity | None:
        """The version that the body belongs to, where more of it could be asked for; few bodies need it."""
        return None if self._head is None else entity_of(self._head, redact(self._url), self._total)

    async def read(self) -> bytes | memoryview:
        """Return the next bytes, as they come; empty at the end. A memoryview must be given back."""
        if self._decoder is not None:
            return await self._read_decoded(self._decoder)
        return await self._read_wire()

    async def _read_wire(self) -> bytes | memoryview:
        if self._at_end:
            return b""
        assert self._connection is not None
        try:
            block = await self._connection.read()
        except TransferError as error:
            self._name_proxy(error)
            raise
        self._meter.received += len(block)
        return block

    async def _read_decoded(self, decoder: Decoder) -> bytes:
        while (piece := next(self._pieces, None)) is None:
            block = await self._read_wire()
            if not block:
                decoder.finish()
                return b""
            self._pieces = decoder.feed(bytes(block))
            if isinstance(block, memoryview):
                self.give_back(block)
        return piece

    def tap(self) -> Tap | None:
        """Let a thread read from the socket; None where what comes there is not the file, or not all that comes."""
        if self._decoder is not None or self._at_end or self._connection is None:
            return None
        return self._connection.tap(self._meter)

    def give_back(self, block: memoryview) -> None:
        """Take back a block that `read` gave."""
        if self._connection is not None:
            self._connection.give_back(block)


_COMMON: Final = "User-Agent: framefetch\r\nAccept: */*\r\nAccept-Encoding: identity"


def _target(wire: str) -> str:
    """Return the request target of a URL: what follows the host, at least a slash."""
    start = wire.find("/", wire.find("://") + 3)
    query = wire.find("?", wire.find("://") + 3)
    if start < 0 or (0 <= query < start):
        return "/" + (wire[query:] if query >= 0 else "")
    return wire[start:]
