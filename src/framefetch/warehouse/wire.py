"""From an answer to the bytes of it: pure, so that what goes on the wire can be read off without a socket.

`compose` makes the message, `steps` cuts it into what is sent, how fast, and where it stops.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from email.utils import formatdate
from functools import lru_cache
from http import HTTPStatus
from typing import TYPE_CHECKING, Final, NamedTuple

from framefetch.warehouse.answers import (
    CONTENT_RANGE,
    Answer,
    Chunked,
    End,
    Headers,
    Pace,
    Raw,
    Reply,
    Serve,
    Stop,
)
from framefetch.warehouse.content import Content, StoredFile, etag_of, pieces, size_of
from framefetch.warehouse.ranges import parse_range, same_version
from framefetch.warehouse.record import RequestRecord

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

__all__ = ["Asked", "Message", "Piece", "Send", "compose", "reply_bytes", "steps"]

_BOUNDARY: Final = "framefetch-part"

_REASONS: Final = {status.value: status.phrase for status in HTTPStatus}

_Fields = list[tuple[str, str]]


class Piece(NamedTuple):
    """Bytes to send: `lead` bytes of framing, then `body` bytes of body, then framing again."""

    data: bytes | memoryview
    lead: int = 0
    body: int = 0
    head: bool = False

    def part(self, start: int, stop: int) -> Piece:
        """Cut out the bytes from `start` up to `stop`."""
        first = min(max(self.lead, start), stop)
        last = min(max(self.lead + self.body, start), stop)
        return Piece(self.data[start:stop], first - start, last - first, self.head)


class Send(NamedTuple):
    """A piece, and the pace it goes at."""

    piece: Piece
    pace: Pace | None


@dataclass(frozen=True, slots=True)
class Asked:
    """What an answer depends on, besides itself.

    Parameters
    ----------
    record : RequestRecord
        The request.
    file : StoredFile or None
        What is stored at its path.
    keep_alive : bool, default True
        Whether the client wishes to keep the connection.
    """

    record: RequestRecord
    file: StoredFile | None
    keep_alive: bool = True


@dataclass(frozen=True, slots=True)
class Message:
    """A whole answer.

    Parameters
    ----------
    status : int
        0 where it is no HTTP.
    head : bytes
        Status line and fields, blank line included.
    body : iterable of Piece
        What follows, made as it is sent.
    end : str
        What becomes of the connection.
    """

    status: int
    head: bytes
    body: Iterable[Piece]
    end: End


@dataclass(frozen=True, slots=True)
class _Part:
    """The bytes of a content that are sent: from `start` up to `stop`."""

    content: Content
    start: int
    stop: int | None

    @property
    def size(self) -> int | None:
        return None if self.stop is None else max(0, self.stop - self.start)


def compose(asked: Asked, answer: Answer) -> Message:
    """Make the message of an answer.

    Parameters
    ----------
    asked : Asked
        The request and its circumstances.
    answer : Serve, Reply or Raw
        What to say. Serving where nothing is stored is a 404.

    Returns
    -------
    Message
    """
    match answer:
        case Raw():
            return _raw(answer)
        case Reply():
            return _reply(asked, answer)
        case Serve() if asked.file is None and answer.content is None:
            return _reply(asked, Reply(404, b"nothing is stored here\n"))
        case Serve():
            return _serve(asked, answer)
        case _:
            raise TypeError(f"an answer is a Serve, a Reply or a Raw, got {answer!r}")


def reply_bytes(reply: Reply) -> bytes:
    """Return all bytes of a reply to GET, for a place where one was not asked for."""
    message = _reply(Asked(RequestRecord("GET", "/", "/", (), 0.0, 0, 0), None), reply)
    return message.head + b"".join(bytes(piece.data) for piece in message.body)


def steps(message: Message, answer: Answer) -> Iterator[Send | Stop]:
    """Yield what is sent, in order, with the answer's `Stop` at its place."""
    for item in _marked(_whole(message, answer), answer.stop):
        if isinstance(item, Stop):
            yield item
        elif item.data:
            yield Send(item, answer.head_pace if item.head else answer.pace)


def _whole(message: Message, answer: Answer) -> Iterator[Piece]:
    yield Piece(answer.before + message.head, head=True)
    yield from message.body
    yield Piece(answer.after)


def _marked(items: Iterable[Piece], stop: Stop | None) -> Iterator[Piece | Stop]:
    """Put the stop where it belongs, cutting the piece it falls into."""
    if stop is None:
        yield from items
        return
    left: int | None = stop.after
    for piece in items:
        at = None if left is None else _place(piece, left, stop)
        if left is not None and at is not None:
            yield piece.part(0, at)
            yield stop
            yield piece.part(at, len(piece.data))
            left = None
            continue
        if left is not None:
            left -= len(piece.data) if stop.of == "wire" else piece.body
        yield piece


def _place(piece: Piece, left: int, stop: Stop) -> int | None:
    """Where in the piece the stop falls, None where it does not."""
    if stop.of == "wire":
        return left if left < len(piece.data) or left == 0 else None
    if piece.head:
        return None
    if left == 0:
        return 0
    return piece.lead + left if left < piece.body else None


def _raw(answer: Raw) -> Message:
    head, blank, _ = answer.data.partition(b"\r\n\r\n")
    cut = len(head) + len(blank)
    status = answer.data[9:12] if answer.data.startswith(b"HTTP/") else b""
    number = int(status) if status.isdigit() else 0
    return Message(number, answer.data[:cut], _repeated(answer, cut), answer.end or "close")


def _repeated(answer: Raw, cut: int) -> Iterator[Piece]:
    whole, rest = answer.data, answer.data[cut:]
    yield Piece(rest, 0, len(rest))
    left = math.inf if answer.repeat is None else answer.repeat - 1
    at_once = max(1, 65536 // max(1, len(whole)))
    while whole and left > 0:
        times = int(min(left, at_once))
        yield Piece(whole * times, 0, len(whole) * times)
        left -= times


def _reply(asked: Asked, answer: Reply) -> Message:
    part = _Part(answer.body, 0, size_of(answer.body))
    # RFC 9110, sections 8.6 and 15.3.5: these have no body and, but for 304, say nothing of its length.
    bodiless = answer.status in {204, 304} or 100 <= answer.status < 200
    fields: _Fields = []
    if part.size != 0:
        fields.append(("Content-Type", "text/plain; charset=utf-8"))
    return _message(asked, answer, _Said(answer.status, fields, None if bodiless and part.size == 0 else part))


def _serve(asked: Asked, answer: Serve) -> Message:
    file = _presented(asked.file, answer)
    content = file.content
    fields: _Fields = [
        ("Content-Type", file.content_type),
        ("ETag", file.etag),
        ("Last-Modified", file.last_modified),
    ]
    if answer.ranges != "ignore":
        fields.append(("Accept-Ranges", "bytes"))
    said = _Said(200, fields, _Part(content, 0, size_of(content)))
    ranges = _ranges(asked.record, answer, file)
    if ranges is not None:
        said = _unsatisfied(said, answer) if not ranges else _partial(said, answer, ranges)
    if answer.status is not None:
        said = said.with_status(answer.status)
    return _message(asked, answer, said)


@dataclass(frozen=True, slots=True)
class _Said:
    """What is said, before it is framed. No part: a status that has no body and tells no length."""

    status: int
    fields: _Fields
    part: _Part | None

    def with_status(self, status: int) -> _Said:
        return _Said(status, self.fields, self.part)


def _presented(file: StoredFile | None, answer: Serve) -> StoredFile:
    content = answer.content if answer.content is not None else file.content if file else b""
    if answer.transform is not None:
        content = answer.transform(content if isinstance(content, bytes) else content.read())
    if file is None:
        return StoredFile(content, etag_of(content))
    if content is file.content:
        return file
    return StoredFile(content, etag_of(content), file.last_modified, file.content_type)


def _ranges(record: RequestRecord, answer: Serve, file: StoredFile) -> list[tuple[int, int]] | None:
    """Which ranges to answer: None for the whole file, none of them for a 416."""
    size = size_of(file.content)
    # RFC 9110, section 14.2: Range means something to GET only.
    if record.method != "GET" or answer.ranges == "ignore" or size is None:
        return None
    found = parse_range(record.header("Range"), size)
    if found is None:
        return None
    shown = dict(_override([("ETag", file.etag), ("Last-Modified", file.last_modified)], answer.headers))
    versions = {name.lower(): value for name, value in shown.items()}
    same = same_version(record.header("If-Range"), versions.get("etag"), versions.get("last-modified"))
    if not same and not answer.ignore_if_range:
        return None
    if answer.ranges == "refuse":
        return []
    # Several ranges may be answered with the whole (section 14.2), and simple servers do.
    return None if len(found) > 1 and answer.ranges != "multipart" else found


def _unsatisfied(said: _Said, answer: Serve) -> _Said:
    total = said.part.size if said.part else 0
    template = "bytes */{total}" if answer.content_range == CONTENT_RANGE else answer.content_range
    fields = list(said.fields)
    if template is not None:
        fields.append(("Content-Range", template.format(first=0, last=0, total=total)))
    return _Said(416, fields, _Part(b"", 0, 0))


def _partial(said: _Said, answer: Serve, ranges: list[tuple[int, int]]) -> _Said:
    assert said.part is not None
    content, total = said.part.content, said.part.size or 0
    moved = [_moved(first, last, answer.shift, total) for first, last in ranges]
    if answer.ranges == "multipart":
        return _multipart(said, answer, moved)
    first, last = moved[0]
    fields = list(said.fields)
    if answer.content_range is not None:
        fields.append(("Content-Range", answer.content_range.format(first=first, last=last, total=total)))
    return _Said(206, fields, _Part(content, first, last + 1))


def _moved(first: int, last: int, shift: int, total: int) -> tuple[int, int]:
    moved = min(max(0, first + shift), total - 1)
    return moved, max(moved, min(last, total - 1))


def _multipart(said: _Said, answer: Serve, ranges: list[tuple[int, int]]) -> _Said:
    """RFC 9110, section 14.6; small enough to be made whole."""
    assert said.part is not None
    content, total = said.part.content, said.part.size or 0
    body = b""
    for first, last in ranges:
        names = f"--{_BOUNDARY}\r\nContent-Type: application/octet-stream\r\n"
        if answer.content_range is not None:
            names += f"Content-Range: {answer.content_range.format(first=first, last=last, total=total)}\r\n"
        body += names.encode() + b"\r\n" + b"".join(bytes(part) for part in pieces(content, first, last + 1)) + b"\r\n"
    body += f"--{_BOUNDARY}--\r\n".encode()
    fields = _override(said.fields, {"Content-Type": f"multipart/byteranges; boundary={_BOUNDARY}"})
    return _Said(206, fields, _Part(body, 0, len(body)))


def _message(asked: Asked, answer: Serve | Reply, said: _Said) -> Message:
    """Frame what is said: the fields that tell the body's end, and the body itself."""
    framing = "close" if answer.framing == "length" and said.part and said.part.size is None else answer.framing
    fields = [("Date", _now()), ("Server", "warehouse"), *said.fields]
    keep = asked.keep_alive
    match framing:
        case "length" if said.part:
            fields.append(("Content-Length", str(said.part.size)))
        case "close":
            keep = False
        case "chunked" | Chunked():
            fields.append(("Transfer-Encoding", "chunked"))
            keep = keep and (framing == "chunked" or framing.honest)
    if framing == "close" or not asked.keep_alive:
        fields.append(("Connection", "close"))
    fields = _override(fields, answer.headers)
    end = answer.end or ("keep" if keep and _tells_the_truth(answer.headers) else "close")
    reason = answer.reason if isinstance(answer, Reply) else None
    bodiless = asked.record.method == "HEAD" or said.part is None
    body = () if bodiless or said.part is None else _framed(said.part, framing)
    return Message(said.status, _head(said.status, reason, fields), body, end)


def _tells_the_truth(headers: Headers) -> bool:
    names = {name.lower() for name in headers}
    return names.isdisjoint({"content-length", "transfer-encoding", "connection"})


def _framed(part: _Part, framing: str | Chunked) -> Iterator[Piece]:
    if framing == "chunked":
        framing = Chunked()
    if not isinstance(framing, Chunked):
        for data in pieces(part.content, part.start, part.stop):
            yield Piece(data, 0, len(data))
        return
    for number, data in enumerate(pieces(part.content, part.start, part.stop, framing.size)):
        line = framing.line if framing.line is not None and number == framing.line_at else None
        if line is None:
            line = b"%x%s\r\n" % (len(data), framing.extension)
        yield Piece(b"".join((line, data, b"\r\n")), len(line), len(data))
    if framing.last:
        yield Piece(framing.last)


def _override(fields: _Fields, headers: Headers) -> _Fields:
    replaced = {name.lower() for name in headers}
    kept = [(name, value) for name, value in fields if name.lower() not in replaced]
    for name, value in headers.items():
        values = () if value is None else (value,) if isinstance(value, str) else value
        kept.extend((name, each) for each in values)
    return kept


def _head(status: int, reason: str | None, fields: _Fields) -> bytes:
    if reason is None:
        reason = _REASONS.get(status, "Unheard Of")
    lines = [f"HTTP/1.1 {status:03d} {reason}", *(f"{name}: {value}" for name, value in fields), "", ""]
    return "\r\n".join(lines).encode("utf-8", "surrogateescape")


def _now() -> str:
    return _date(int(time.time()))


@lru_cache(maxsize=1)
def _date(second: int) -> str:
    """Format a date; once a second, since benchmarks ask for it thousands of times."""
    return formatdate(second, usegmt=True)
