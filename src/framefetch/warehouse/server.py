"""The warehouse itself: files, scripts and a log behind a socket.

aiohttp parses what comes in and keeps connections alive; what goes out is written by `Delivery`, since most of it
is nothing that a proper server could be talked into.
"""

from __future__ import annotations

import asyncio
import inspect
import time
import zlib
from collections import Counter
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Final, Literal, Self
from urllib.parse import quote, urlsplit

from aiohttp import web

from framefetch.warehouse.answers import Answer, Push, Reply, Scripted
from framefetch.warehouse.content import OLD_DATE, Content, StoredFile, etag_of
from framefetch.warehouse.delivery import Delivery
from framefetch.warehouse.hdf5 import hdf5_content
from framefetch.warehouse.listener import ConnectionAnswer, Listener
from framefetch.warehouse.record import Event, Gates, RequestLog, RequestRecord
from framefetch.warehouse.scripts import Scripts
from framefetch.warehouse.wire import Asked, Message, compose, reply_bytes

if TYPE_CHECKING:
    import ssl
    from types import TracebackType

__all__ = ["FILES", "Warehouse"]

#: Where a file lives whose id alone is given.
FILES: Final = "/api/v2/well_known_file_download/"


_NOT_ALLOWED: Final = Reply(405, headers={"Allow": "GET, HEAD"})


class _Sent(web.StreamResponse):
    """What aiohttp is told when the answer is already on the wire: only whether to keep the connection."""

    def __init__(self, *, keep: bool) -> None:
        super().__init__()
        self._keep_alive = keep

    async def prepare(self, request: web.BaseRequest) -> None:
        """Send nothing."""

    async def write_eof(self, data: bytes = b"") -> None:
        """Send nothing."""


@dataclass(frozen=True, slots=True)
class _Limit:
    requests: int
    answer: Answer


class Warehouse:
    """A scriptable file server.

    Requests that are no HTTP are answered 400 and stay out of the log.

    Parameters
    ----------
    host : str, default ``"127.0.0.1"``
        Where to listen.
    port : int, default 0
        0 for a free one.
    ssl_context : ssl.SSLContext or None, default None
        Serve HTTPS with it.

    Raises
    ------
    Exception
        On leaving: what a scripted function raised, if nothing else is on its way.

    Examples
    --------
    >>> async def example() -> None:
    ...     async with Warehouse() as warehouse:
    ...         url = warehouse.add("1085755199", 8192)
    ...         warehouse.script(url, Reply(503, headers={"Retry-After": "1"}), then=Serve())
    ...         ...  # fetch url
    ...         assert warehouse.count(url) == 2
    """

    def __init__(self, host: str = "127.0.0.1", port: int = 0, *, ssl_context: ssl.SSLContext | None = None) -> None:
        self._host = host
        self._port = port
        self._ssl = ssl_context
        self._files: dict[str, StoredFile] = {}
        self._scripts = Scripts()
        self._log = RequestLog()
        self._gates = Gates()
        self._numbers: Counter[str] = Counter()
        self._limit: _Limit | None = None
        self._active = 0
        self._admitted = 0
        self._peak = 0
        self._pushes: set[asyncio.Task[None]] = set()
        self._errors: list[Exception] = []

    async def __aenter__(self) -> Self:
        self._listener = Listener(self._handle, (self._host, self._port), self._ssl)
        self._port = self._listener.port
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for task in (tasks := list(self._pushes)):
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._listener.close()
        if error is None and self._errors:
            raise self._errors[0]

    # Where things are.

    @property
    def port(self) -> int:
        """The port listened on."""
        return self._port

    @property
    def base_url(self) -> str:
        """Scheme, host and port, without a slash at the end."""
        host = f"[{self._host}]" if ":" in self._host else self._host
        return f"{'https' if self._ssl else 'http'}://{host}:{self._port}"

    def path(self, key: int | str) -> str:
        """Return the path of a file id, a path or a URL."""
        text = str(key)
        if "://" in text:
            return _path_of(text)
        if not text.startswith("/"):
            text = FILES + text
        return quote(text.partition("?")[0], safe="/%:@!$&'()*+,;=~-._")

    def url(self, key: int | str) -> str:
        """Return the URL of a file id or path; a query is kept as it is."""
        _, mark, query = str(key).partition("?")
        return self.base_url + self.path(key) + mark + query

    # What is stored.

    def add(
        self,
        key: int | str,
        content: Content | int,
        *,
        etag: str | None = None,
        last_modified: str = OLD_DATE,
        content_type: str = "application/octet-stream",
    ) -> str:
        """Store a file, or replace one while the server runs.

        Parameters
        ----------
        key : int or str
            A file id, or a path that begins with a slash (a query is not part of it).
        content : bytes, Repeated or int
            What it holds; a number makes an HDF5 file of so many bytes, a different one for each path.
        etag : str or None, default None
            With its quotes; None derives a strong one from the content.
        last_modified, content_type : str
            Fields as sent.

        Returns
        -------
        str
            The file's URL.
        """
        path = self.path(key)
        if isinstance(content, int):
            content = hdf5_content(content, zlib.crc32(path.encode()))
        self._files[path] = StoredFile(content, etag or etag_of(content), last_modified, content_type)
        return self.url(key)

    def remove(self, key: int | str) -> None:
        """Store a file no longer: 404."""
        self._files.pop(self.path(key), None)

    def file(self, key: int | str) -> StoredFile:
        """Return what is stored."""
        return self._files[self.path(key)]

    # What is answered.

    def script(self, key: int | str, *answers: Scripted, then: Scripted | None = None) -> None:
        """Answer the next requests to a path with `answers` in turn, all further ones with `then`.

        Without `then` the last answer repeats; without any answer the script ends. A function gets the
        `RequestRecord` and returns an answer, or an awaitable of one.
        """
        self._scripts.set(self.path(key), answers, then)

    def script_all(self, *answers: Scripted, then: Scripted | None = None) -> None:
        """Script all paths that have no script of their own; each of them goes through it for itself."""
        self._scripts.set(None, answers, then)

    def script_connections(self, *answers: ConnectionAnswer) -> None:
        """Treat the next connections like this as they are accepted; all further ones are served."""
        self._listener.answers = list(answers)

    def limit(self, requests: int | None, answer: Answer | None = None) -> None:
        """Answer at most `requests` at once (None: any number), and those above with `answer` (default: 503)."""
        self._limit = None if requests is None else _Limit(requests, answer or Reply(503))

    def release(self, key: int | str | None = None) -> None:
        """Let go on whatever has arrived and is, or will be, held: of one path or of all."""
        for path in list(self._numbers) if key is None else [self.path(key)]:
            self._gates.release(path, self._numbers[path])

    def drop_connections(self, how: Literal["close", "reset"] = "close") -> None:
        """Break all connections, idle ones too, without a word."""
        self._listener.drop(how)

    # What was asked.

    @property
    def log(self) -> list[RequestRecord]:
        """All requests, in order of arrival."""
        return self._log.records(None)

    def requests(self, key: int | str | None = None) -> list[RequestRecord]:
        """Return the requests to a path, or all."""
        return self._log.records(None if key is None else self.path(key))

    def count(self, key: int | str | None = None) -> int:
        """Count the requests to a path, or all."""
        return len(self.requests(key))

    def clear_log(self) -> None:
        """Forget requests, events and the peak of concurrency."""
        self._log.clear()
        self._peak = self._active

    @property
    def connections(self) -> int:
        """TCP connections accepted so far."""
        return self._listener.accepted

    @property
    def open_connections(self) -> int:
        """TCP connections open now."""
        return self._listener.open

    @property
    def peak_concurrency(self) -> int:
        """The most requests that were under way at once."""
        return self._peak

    async def wait_for(self, key: int | str | None = None, count: int = 1, event: Event = "received") -> None:
        """Return once `count` events have happened at a path, or at all, since the log was cleared.

        Parameters
        ----------
        key : int, str or None
            Which path; None for all together.
        count : int, default 1
            How many.
        event : {"received", "held", "answered", "pushed"}
            A request has arrived; an answer has come to its hold or hang; an answer has ended; a `Push` was sent.
        """
        await self._log.wait(event, None if key is None else self.path(key), count)

    # Requests.

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        record = self._receive(request)
        serial = self._log.open(record)
        refused = self._limit is not None and self._admitted >= self._limit.requests
        self._active += 1
        self._admitted += not refused
        self._peak = max(self._peak, self._active)
        held = partial(self._log.note, "held", record.path)
        delivery = Delivery(request, partial(self._gates.wait, record.path, record.number), held)
        status, keep = 0, False
        try:
            answer = self._limit.answer if self._limit and refused else None
            answer, message = await self._prepare(Asked(record, None, request.keep_alive), answer)
            status = message.status
            keep = await delivery.send(message, answer)
            if answer.push is not None:
                self._push_later(request, record, answer.push)
        except ConnectionError:
            pass  # the client has gone
        finally:
            self._active -= 1
            self._admitted -= not refused
            said = status if delivery.started else 0
            self._log.close(serial, said, delivery.body_bytes)
        return _Sent(keep=keep)

    async def _prepare(self, asked: Asked, answer: Answer | None) -> tuple[Answer, Message]:
        """Find the answer, if none is given, and make its message; what a test got wrong is kept for leaving."""
        try:
            answer = answer or await self._scripted(asked.record)
            # Looked up now: a scripted function may have stored another file.
            return answer, compose(replace(asked, file=self._files.get(asked.record.path)), answer)
        except Exception as error:  # noqa: BLE001 - raised on leaving
            self._errors.append(error)
            answer = Reply(500, b"the script is wrong\n")
            return answer, compose(asked, answer)

    def _receive(self, request: web.BaseRequest) -> RequestRecord:
        message = request._message  # noqa: SLF001 - the target as sent; all public forms of it are normalised
        path = _path_of(message.path)
        self._numbers[path] += 1
        return RequestRecord(
            method=request.method,
            target=message.path,
            path=path,
            headers=tuple((_text(name), _text(value)) for name, value in request.raw_headers),
            received_at=time.monotonic(),
            connection=self._listener.number(request),
            number=self._numbers[path],
        )

    async def _scripted(self, record: RequestRecord) -> Answer:
        scripted = self._scripts.next(record.path)
        if isinstance(scripted, Answer):
            return scripted if record.method in {"GET", "HEAD"} else _NOT_ALLOWED
        made = scripted(record)
        return await made if inspect.isawaitable(made) else made

    def _push_later(self, request: web.BaseRequest, record: RequestRecord, push: Push) -> None:
        task = asyncio.get_running_loop().create_task(self._push(request, record, push))
        self._pushes.add(task)
        task.add_done_callback(self._pushes.discard)

    async def _push(self, request: web.BaseRequest, record: RequestRecord, push: Push) -> None:
        if push.delay is None:
            await self._gates.wait(record.path, record.number, None)
        else:
            await asyncio.sleep(push.delay)
        transport = request.transport
        if transport is not None and not transport.is_closing():
            transport.write(push.data if isinstance(push.data, bytes) else reply_bytes(push.data))
        self._log.note("pushed", record.path)


def _path_of(target: str) -> str:
    """Return the path of a request target in either form (RFC 9112, section 3.2)."""
    if not target.startswith("/") and "://" in target:
        target = urlsplit(target)._replace(scheme="", netloc="", fragment="").geturl()
    return target.partition("?")[0]


def _text(raw: bytes) -> str:
    return raw.decode("utf-8", "surrogateescape")
