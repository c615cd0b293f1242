"""HTTP and HTTPS, by aiohttp, with everything decided by hand that a downloader must not leave to a library.

aiohttp gives the pool, TLS, proxies, happy eyeballs and a fast parser. Redirects, credentials, cookies, timeouts,
codings and the question which answers count are ours: see `framefetch.sources.answers` for the gate and
`framefetch.sources.watchdog` for the clock.
"""

from __future__ import annotations

import select
import ssl
from contextlib import AsyncExitStack, contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

import aiohttp
from yarl import URL

from framefetch.errors import (
    BodyTooLong,
    ConnectFailed,
    ConnectionLost,
    IncompleteBody,
    NameNotResolved,
    ProtocolError,
    RedirectError,
    TlsFailed,
    TransferError,
)
from framefetch.sources.answers import REDIRECTS, body_length, check_coding, redirect_target, refuse_status
from framefetch.sources.environment import Environment, Proxy, basic
from framefetch.sources.watchdog import Watch, Watchdog
from framefetch.urls import connection_url, credentials_of, origin_of, redact, wire_url

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from types import TracebackType
    from typing import Self

    from aiohttp.client_reqrep import ClientRequest
    from aiohttp.connector import Connection
    from aiohttp.tracing import Trace

    from framefetch.options import Timeouts
    from framefetch.sources.base import Meter

__all__ = ["HttpSource"]

MAX_REDIRECTS: Final = 10
READ_BUFFER: Final = 1 << 20
_watching: ContextVar[Watch | None] = ContextVar("framefetch_watch", default=None)


class _GuardedConnector(aiohttp.TCPConnector):
    """A pool that never hands out a connection with unread data on it.

    A server, or a proxy in between, may push bytes nobody asked for on an idle connection; the next request would
    take them for its answer (aio-libs/aiohttp#13656).
    """

    async def connect(
        self,
        req: ClientRequest,
        traces: list[Trace],
        timeout: aiohttp.ClientTimeout,  # noqa: ASYNC109 - aiohttp's signature
    ) -> Connection:
        while True:
            connection = await super().connect(req, traces, timeout)
            if not _has_unread(connection):
                break
            connection.close()
        watch = _watching.get()
        if watch is not None:
            watch.enter("headers")
        return connection


def _has_unread(connection: Connection) -> bool:
    """Return whether bytes wait on an idle connection, in the parser or still in the kernel."""
    protocol, transport = connection.protocol, connection.transport
    if protocol is None or protocol.should_close:
        return True
    socket = None if transport is None else transport.get_extra_info("socket")
    return socket is not None and _readable(socket.fileno())


def _readable(handle: int) -> bool:
    """Return whether a read would not wait: bytes, an end or an error are there."""
    if hasattr(select, "poll"):
        poll = select.poll()  # select() knows no handles above 1,023
        poll.register(handle, select.POLLIN)
        return bool(poll.poll(0))
    return bool(select.select([handle], [], [], 0)[0])


@contextmanager
def _translated(url: str, proxy: Proxy | None) -> Iterator[None]:
    """Turn aiohttp's errors into ours; by type, because it gives numbers to things that have none."""
    try:
        yield
    except (aiohttp.ClientError, OSError, ValueError) as error:
        if isinstance(error, TransferError):
            raise
        raise _translate(error, url, proxy) from error


def _translate(error: Exception, url: str, proxy: Proxy | None) -> TransferError:
    where = f"{origin_of(url)}" + (f" via proxy {redact(proxy.url)}" if proxy else "")
    match error:
        case aiohttp.ClientConnectorCertificateError() | aiohttp.ClientConnectorSSLError() | ssl.SSLError():
            cause = error.certificate_error if isinstance(error, aiohttp.ClientConnectorCertificateError) else error
            return TlsFailed(f"no secure connection to {where}: {_words(cause)}")
        case aiohttp.ClientConnectorDNSError():
            return NameNotResolved(f"the name of {where} cannot be resolved: {_words(error.os_error)}")
        case aiohttp.ClientHttpProxyError():
            return ConnectFailed(f"no connection to {where}: the proxy answers {error.status} {error.message}")
        case aiohttp.ServerTimeoutError():
            return ConnectFailed(f"no connection to {where} within the connect timeout")
        case aiohttp.ClientConnectorError():
            return ConnectFailed(f"no connection to {where}: {_words(error.os_error)}")
        case aiohttp.ServerDisconnectedError():
            return ConnectionLost(f"{where} closed the connection without an answer")
        case aiohttp.ClientPayloadError():
            return _payload_error(error)
        case aiohttp.ClientResponseError():
            return ProtocolError(f"{where} does not speak HTTP as defined: {error.message[:200]!r}")
        case aiohttp.InvalidURL() | ValueError():
            return ProtocolError(f"the URL {redact(url)[:200]!r} cannot be requested: {_words(error)}")
        case _:
            return ConnectionLost(f"the connection to {where} was lost: {_words(error)}")


def _payload_error(error: aiohttp.ClientPayloadError) -> TransferError:
    """Tell a body that ended early from one that is malformed."""
    text = _words(error)
    if "TransferEncodingError" in text and "Not enough data" not in text:
        return ProtocolError(f"the body is not coded as HTTP defines: {text[:200]}")
    return IncompleteBody(f"the body ended early: {text[:200]}")


def _words(error: BaseException) -> str:
    """Return an error's text, or its class where it has none, on one line."""
    return " ".join(str(error).split()) or type(error).__name__


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
    """

    schemes = ("http", "https")

    def __init__(
        self,
        timeouts: Timeouts,
        headers: Mapping[str, str],
        host_map: Mapping[str, str],
        environment: Environment,
    ) -> None:
        self.timeouts = timeouts
        self.headers = dict(headers)
        self.host_map = dict(host_map)
        self.environment = environment
        self.cookies: dict[str, dict[str, str]] = {}
        self.watchdog = Watchdog(timeouts)
        self._proxies: dict[str, Proxy | None] = {}
        self._logins: dict[str, str | None] = {}
        self.session = aiohttp.ClientSession(
            connector=_GuardedConnector(limit=0, limit_per_host=0, ttl_dns_cache=60, keepalive_timeout=30),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=timeouts.connect),
            auto_decompress=False,
            cookie_jar=aiohttp.DummyCookieJar(),
            skip_auto_headers=("Content-Type",),
            read_bufsize=READ_BUFFER,
            headers={"User-Agent": "framefetch", "Accept": "*/*", "Accept-Encoding": "identity"},
        )

    def open(self, url: str, meter: Meter) -> _Exchange:
        """Ask for a URL."""
        return _Exchange(self, url, meter)

    def proxy_for(self, url: str) -> Proxy | None:
        """Return the proxy for a URL; decided once for each origin."""
        origin = origin_of(url)
        if origin not in self._proxies:
            self._proxies[origin] = self.environment.proxy_for(url)
        return self._proxies[origin]

    def login_for(self, url: str) -> str | None:
        """Return the Authorization header for the table's own URL: from the URL itself, else from .netrc."""
        if credentials := credentials_of(url):
            return basic(*credentials)
        origin = origin_of(url)
        if origin not in self._logins:
            self._logins[origin] = self.environment.login_for(url)
        return self._logins[origin]

    async def close(self) -> None:
        """Close all connections."""
        await self.session.close()


class _Exchange:
    """One request with its redirects, from the first byte sent to the last received."""

    def __init__(self, source: HttpSource, url: str, meter: Meter) -> None:
        self._source = source
        self._url = url
        self._meter = meter
        self._watch = Watch(source.watchdog)
        self._stack = AsyncExitStack()
        self._with_login = False
        self._proxy: Proxy | None = None
        self._left: int | None = None
        self.length: int | None = None
        self.etag: str | None = None

    async def __aenter__(self) -> Self:
        token = _watching.set(self._watch)
        try:
            async with AsyncExitStack() as stack:
                await stack.enter_async_context(self._watch)
                self._response = await self._follow(stack)
                self._accept()
                self._stack = stack.pop_all()
        finally:
            _watching.reset(token)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._stack.__aexit__(kind, error, trace)

    async def _follow(self, stack: AsyncExitStack) -> aiohttp.ClientResponse:
        """Send the request and follow redirects, each by our rules; the response closes with the stack."""
        url = self._url
        seen = [url]
        while True:
            response = await self._send(url)
            if response.status not in REDIRECTS:
                stack.callback(response.release)
                self._keep_cookies(url, response)
                return response
            try:
                self._keep_cookies(url, response)
                url = redirect_target(response.status, url, response.headers.getall("Location", []))
            finally:
                response.release()
            if seen.count(url) > 1 or len(seen) > MAX_REDIRECTS:
                what = "a loop" if seen.count(url) > 1 else f"more than {MAX_REDIRECTS} redirects"
                raise RedirectError(f"{what}: {' -> '.join(redact(step) for step in (*seen, url))[:1000]}")
            seen.append(url)

    async def _send(self, url: str) -> aiohttp.ClientResponse:
        source = self._source
        target = connection_url(url, source.host_map)
        self._proxy = proxy = source.proxy_for(target)
        self._watch.enter("connection")
        self._meter.requests += 1
        headers = self._headers(url, target)
        extra: dict[str, Any] = {}
        if proxy is not None:
            extra = {"proxy": proxy.url}
            if proxy.authorization:
                # A tunnel to https takes it in CONNECT; a plain request carries it itself (RFC 9110 section 11.7.2).
                where = extra.setdefault("proxy_headers", {}) if target.startswith("https") else headers
                where["Proxy-Authorization"] = proxy.authorization
        if target is not url and url.startswith("https"):
            extra["server_hostname"] = urlsplit(url).hostname
        with _translated(target, proxy):
            return await source.session.get(
                URL(wire_url(target), encoded=True),
                headers=headers,
                allow_redirects=False,
                **extra,
            )

    def _headers(self, url: str, target: str) -> dict[str, str]:
        """Return what this origin may hear."""
        source = self._source
        headers: dict[str, str] = {}
        if target is not url:
            headers["Host"] = wire_url(url).split("/", 3)[2]
        own = url is self._url or origin_of(url) == origin_of(self._url)
        self._with_login = False
        if own:
            headers.update(source.headers)
            login = source.login_for(self._url)
            if login is not None and "authorization" not in map(str.lower, source.headers):
                headers["Authorization"] = login
            self._with_login = "Authorization" in headers or "authorization" in map(str.lower, source.headers)
        if source.cookies and (cookies := source.cookies.get(origin_of(url))):
            headers["Cookie"] = "; ".join(f"{name}={value}" for name, value in cookies.items())
        return headers

    def _keep_cookies(self, url: str, response: aiohttp.ClientResponse) -> None:
        """Keep cookies in memory, for their own origin only."""
        if "Set-Cookie" in response.headers:
            jar = self._source.cookies.setdefault(origin_of(url), {})
            jar.update((name, morsel.coded_value) for name, morsel in response.cookies.items())

    def _accept(self) -> None:
        """Let only a whole file through."""
        response = self._response
        headers = response.headers
        if response.status != 200:
            raise refuse_status(response.status, response.reason or "", headers, with_login=self._with_login)
        check_coding(headers)
        self.length = self._left = body_length(headers)
        self.etag = headers.get("ETag")
        self._watch.enter("body")
        self._watch.pause()

    async def read(self) -> bytes:
        """Return the next bytes, as they come; empty at the end."""
        self._watch.resume()
        try:
            with _translated(self._url, self._proxy):
                block = await self._response.content.readany()
        finally:
            self._watch.pause()
        self._watch.progress(len(block))
        self._meter.received += len(block)
        if self._left is not None:
            self._left -= len(block)
            if self._left < 0:
                raise BodyTooLong(f"expected {self.length:,} bytes as announced, got more")
            if not block and self._left:
                raise IncompleteBody(f"expected {self.length:,} bytes, got {(self.length or 0) - self._left:,}")
        return block
