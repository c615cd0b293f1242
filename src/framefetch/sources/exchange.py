"""One request with its redirects, with everything decided by hand that decides what a file is."""

from __future__ import annotations

import asyncio
import contextlib
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

from framefetch.errors import (
    ConnectionLost,
    IncompleteBody,
    RangeMismatch,
    RedirectError,
    StatusError,
    TransferError,
)
from framefetch.sources.answers import REDIRECTS, redirect_target, refuse_status
from framefetch.sources.decode import Decoder, coding_of
from framefetch.sources.dial import refuse_address
from framefetch.sources.expiry import EXCERPT_BYTES, MAY_BE_EXPIRED, expiry_of, tells_expiry
from framefetch.sources.names import Trail
from framefetch.sources.ranges import ANSWERS, accept_range, entity_of, range_fields, refuse_part
from framefetch.sources.watchdog import Watch
from framefetch.urls import origin_of, redact, wire_url

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import TracebackType
    from typing import Self

    from framefetch.models import Entity
    from framefetch.sources.base import Ask, Meter
    from framefetch.sources.connection import HttpConnection
    from framefetch.sources.dial import Route
    from framefetch.sources.http import HttpSource
    from framefetch.sources.loan import Loan
    from framefetch.sources.tap import Tap
    from framefetch.sources.wire import Head

__all__ = ["Exchange"]

MAX_REDIRECTS: Final = 10


class Exchange:
    """One request with its redirects, from the first byte sent to the last received."""

    __slots__ = (
        "_ask_for",
        "_asked",
        "_at_end",
        "_begun",
        "_broken",
        "_connection",
        "_decode",
        "_decoder",
        "_head",
        "_key",
        "_left",
        "_meter",
        "_open",
        "_pieces",
        "_size",
        "_source",
        "_total",
        "_url",
        "_via",
        "_watch",
        "alone",
        "etag",
        "framed",
        "fresh",
        "length",
        "offset",
    )

    def __init__(
        self, source: HttpSource, url: str, meter: Meter, *, decode: bool, ask: Ask | None, begun: Loan | None = None
    ) -> None:
        self._source = source
        self._ask_for = ask
        self._begun = begun
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
        #: Bytes that a range has still to bring where nothing but its own words tells how many, and how it broke then.
        self._left: int | None = None
        self._broken: TransferError | None = None
        #: Bytes of the range, and whether more of the file may follow it.
        self._size: int | None = None
        self._open = False
        self._head: Head | None = None
        self._total: int | None = None
        self.alone = True
        #: Whether a connection that has carried something before is not used; set before it is entered.
        self.fresh = False

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
            self._meter.under_way.discard(connection)
            self._source.pool.put(self._key, connection)

    async def _follow(self) -> Head:
        """Send the request and follow redirects, each by our rules."""
        source, url, seen = self._source, self._url, [self._url]
        own = origin = origin_of(url)
        trail: Trail | None = None
        while True:
            head = await self._ask(url, origin, own=origin == own, trail=trail)
            if "set-cookie" in head.fields:
                source.keep_cookies(url, head.all("set-cookie"))
            if head.status not in REDIRECTS:
                return head
            trail = trail or Trail(own)
            trail.passed(origin, public=self._at_public_address(source.route(origin, url)))
            url = redirect_target(head.status, url, head.all("location"))
            self._release()
            if seen.count(url) > 1 or len(seen) > MAX_REDIRECTS:
                what = "a loop" if seen.count(url) > 1 else f"more than {MAX_REDIRECTS} redirects"
                raise RedirectError(f"{what}: {' -> '.join(redact(wire_url(step)) for step in (*seen, url))[:1000]}")
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
        login = source.login(self._url, route) if own else None
        wanted = "" if self._ask_for is None else range_fields(self._ask_for)
        request = source.words(url, route, login, own=own, wanted=wanted)
        self._watch.manner = source.watchdog.manner(origin)
        begun, self._begun = self._begun, None
        connection = source.pool.take(origin, source.watchdog.now()) if begun is None else source.reclaim(begun)
        if self.fresh and connection is not None and connection.used:
            connection.close()  # the new one takes its place: the host holds no more of them than it may have
            connection = None
        while True:
            fresh = connection is None
            if connection is None:
                connection = await source.ahead.dial(route, must_be_public=guarded, must_be_new=self.fresh)
                fresh = not connection.idle_since
            self._connection = connection
            if guarded and not self._at_public_address(route):
                raise refuse_address(route, connection.peer)
            self._meter.requests += 1
            self._meter.under_way.add(connection)
            self.alone = not connection.used
            connection.send(request, self._watch, begun)
            began = None if begun else source.watchdog.now()
            try:
                head = await connection.head()
            except ConnectionLost:
                # A server may close an idle connection in the moment we use it; that says nothing of the file.
                if fresh or connection.received_any:
                    raise
                self._release()
                connection = begun = None
            else:
                if began is not None:
                    source.ahead.heard(origin, source.watchdog.now() - began)
                return head

    async def _refusal(self, head: Head) -> StatusError:
        """Return the error for a status that is no file."""
        source = self._source
        own = origin_of(self._url)
        with_login = source.brings_login or (
            self._key == own and source.login(self._url, source.route(own, self._url)) is not None
        )
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
        if head.status == 200:
            refuse_part(head, self._ask_for)
        size: int | None = None
        total: int | None = None
        if self._ask_for is not None:
            self.offset, size, total = accept_range(head, self._ask_for)
        length = head.get("content-length")
        self.etag = head.get("etag")
        if head.status == 416:  # nothing is left, and what follows this head is a page of words
            self._at_end, self.framed, self.length = True, True, 0
        else:
            self.framed = length is not None or size is not None
            coded = self._decode and "content-encoding" in head.fields
            coding = coding_of(head.all("content-encoding")) if coded else None
            if coding is not None:
                self._decoder = Decoder(coding)
                return
            self.length = size if length is None else int(length)
            self._left = size if length is None else None
            self._size = size
            if size is not None and total is None and self._ask_for is not None and self._ask_for.last is None:
                self._open, self.length = True, None
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
        try:
            block = await self._receive() if self._left is None else await self._receive_range(self._left)
        except TransferError as error:
            self._name_proxy(error)
            raise
        if self._open and not block:
            raise IncompleteBody("the range has come, and the server does not say whether the file ends there")
        return block

    async def _receive(self) -> bytes | memoryview:
        assert self._connection is not None
        block = await self._connection.read()
        self._meter.received += len(block)
        return block

    async def _receive_range(self, left: int) -> bytes | memoryview:
        """Return the next bytes of a range of which its Content-Range alone says how many there are."""
        if self._broken is not None:
            raise self._broken
        block = await self._receive()
        if left and not block:
            raise IncompleteBody(f"expected {self._size:,} bytes of the range, {left:,} did not come")
        self._left = left = left - len(block)
        if not left and block:
            # Whoever has all bytes may not ask for more, so what follows them is looked at now.
            try:
                left -= len(await self._receive())
            except TransferError as error:
                self._broken = error
        if left < 0:
            raise RangeMismatch(f"expected {self._size:,} bytes of the range, got more")
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
