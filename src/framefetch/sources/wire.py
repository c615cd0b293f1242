"""HTTP/1.1 answers as bytes: heads and framing, strictly as RFC 9112 has them. No I/O.

What the standard leaves to the recipient's mercy is refused, because a downloader that guesses where a body ends has
guessed what a file is.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from framefetch.errors import IncompleteBody, ProtocolError
from framefetch.urls import excerpt

__all__ = ["HEAD_BYTES", "ChunkedDecoder", "Head", "parse_head", "split_head"]

#: Bytes of a whole head, and of one line of it; honest servers stay below a tenth of this.
HEAD_BYTES: Final = 65_536
LINE_BYTES: Final = 8_190
_TRAILER_BYTES: Final = 16_384
#: Longer lines are not worth remembering.
KNOWN_BYTES: Final = 256

_TEXT = rb"[^\x00-\x08\x0a-\x1f\x7f]{0,8190}"
_STATUS = re.compile(rb"HTTP/1\.[01] [0-9]{3}(?: " + _TEXT + rb")?")
_FIELD = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]{1,256}:" + _TEXT)
_CHUNK = re.compile(rb"([0-9A-Fa-f]{1,15})[ \t]*(?:;[^\x00-\x08\x0a-\x1f\x7f]*)?")


@dataclass(slots=True)
class Head:
    """Status line and fields of an answer.

    Parameters
    ----------
    status : int
        The status code.
    reason : str
        The words behind it.
    fields : dict of str to list of str
        Values of each field by its name in lower case.
    keep_alive : bool
        Whether the server keeps the connection open.
    """

    status: int
    reason: str
    fields: dict[str, list[str]]
    keep_alive: bool

    def get(self, name: str) -> str | None:
        """Return the first value of a field, by its name in lower case."""
        values = self.fields.get(name)
        return values[0] if values else None

    def all(self, name: str) -> list[str]:
        """Return all values of a field."""
        return self.fields.get(name, [])


def parse_head(block: bytes) -> Head:
    """Parse a head, without the blank line that ends it.

    Raises
    ------
    ProtocolError
        Where it is not as RFC 9112 sections 3 to 5 define it.
    """
    start, *lines = block.split(b"\r\n")
    if b"\r\n " in block or b"\r\n\t" in block:
        lines = _unfolded(lines)
    status, reason, modern = _read_status(start)
    fields: dict[str, list[str]] = {}
    for line in lines:
        name, value = _known_field(line) if len(line) <= KNOWN_BYTES else _read_field(line)
        values = fields.get(name)
        if values is None:
            fields[name] = [value]
        else:
            values.append(value)
    connection = fields.get("connection")
    keeps = modern if connection is None else _keeps_alive(",".join(connection), modern)
    # In chunks of HTTP/1.0 nobody knows for sure where the next answer begins (RFC 9112 section 6.1).
    return Head(status, reason, fields, keeps and (modern or "transfer-encoding" not in fields))


def split_head(data: bytes) -> tuple[Head | None, bytes]:
    """Split the final head from what follows it; interim ones are passed over.

    Returns
    -------
    tuple of (Head or None, bytes)
        None where more is to come, with what must stand before it.

    Raises
    ------
    ProtocolError
        Where these can be no heads.
    """
    while True:
        end = data.find(b"\r\n\r\n")
        if end < 0 or end > HEAD_BYTES:
            if len(data) > HEAD_BYTES:
                raise ProtocolError(f"expected a head of at most {HEAD_BYTES:,} bytes, got more")
            if data[:5] != b"HTTP/"[: len(data)]:
                raise ProtocolError(f"expected a status line of HTTP/1.1, got {excerpt(data)}")
            return None, data
        head = parse_head(data[:end])
        data = data[end + 4 :]
        if not 100 <= head.status < 200 or head.status == 101:
            return head, data


def _unfolded(lines: list[bytes]) -> list[bytes]:
    """Return the lines of a head with those joined that go on in the next one, by a space (RFC 9112 section 5.2).

    One that goes on with nothing, as behind the status line, stays what it is: no field.
    """
    whole: list[bytes] = []
    for line in lines:
        if whole and line.startswith((b" ", b"\t")):
            whole[-1] = whole[-1].rstrip(b" \t") + b" " + line.lstrip(b" \t")
        else:
            whole.append(line)
    return whole


@lru_cache(maxsize=64)
def _read_status(line: bytes) -> tuple[int, str, bool]:
    """Return the code, the words behind it, and whether the server speaks HTTP/1.1."""
    if not _STATUS.fullmatch(line):
        raise ProtocolError(f"expected a status line of HTTP/1.1, got {excerpt(line)}")
    text = line.decode("latin-1")
    return int(text[9:12]), text[13:].strip(), text[7] == "1"


def _read_field(line: bytes) -> tuple[str, str]:
    """Return the name in lower case, and the value."""
    if not _FIELD.fullmatch(line):
        what = f"a line of {len(line):,} bytes" if len(line) > LINE_BYTES else excerpt(line)
        raise ProtocolError(f"expected a header field, got {what}")
    name, _, value = line.decode("latin-1").partition(":")
    return name.lower(), value.strip(" \t")


#: A server says most lines of a head again in every answer.
_known_field = lru_cache(maxsize=256)(_read_field)


@lru_cache(maxsize=64)
def _keeps_alive(connection: str, modern: bool) -> bool:  # noqa: FBT001 - a cache has no use for names
    """Return whether the server keeps the connection open (RFC 9112 section 9.3)."""
    options = {option.strip().lower() for option in connection.split(",")}
    return "close" not in options and (modern or "keep-alive" in options)


class ChunkedDecoder:
    """Takes a chunked body apart (RFC 9112 section 7.1).

    Extensions are passed over, trailers are read and dropped; both have limits.
    """

    def __init__(self) -> None:
        self.done = False
        self.rest = b""
        self._buffer = b""
        self._at = 0  # what stands before it is dealt with; it is dropped once for all that came together
        self._left = 0
        self._state: Callable[[list[bytes]], bool] = self._size_line
        self._trailer = 0

    def feed(self, data: bytes) -> list[bytes]:
        """Take bytes of the connection; return what they hold of the body, in one block where they hold any.

        Raises
        ------
        ProtocolError
            Where they are not chunks.
        """
        self._buffer = self._buffer + data if self._buffer else data
        pieces: list[bytes] = []
        while not self.done and self._state(pieces):
            pass
        rest, self._buffer, self._at = self._buffer[self._at :], b"", 0
        if self.done:
            self.rest = rest
        else:
            self._buffer = rest
        return [b"".join(pieces)] if len(pieces) > 1 else pieces

    def end(self) -> IncompleteBody:
        """Return the error for a connection that ended before the last chunk."""
        return IncompleteBody("the body ended before its last chunk")

    def _line(self, limit: int) -> bytes | None:
        end = self._buffer.find(b"\r\n", self._at, self._at + limit + 2)
        length = (end if end >= 0 else len(self._buffer)) - self._at
        if length > limit:
            raise ProtocolError(f"expected a chunk line of at most {limit:,} bytes, got {length:,} or more")
        if end < 0:
            return None
        line = self._buffer[self._at : end]
        self._at = end + 2
        return line

    def _size_line(self, _: list[bytes]) -> bool:
        line = self._line(LINE_BYTES)
        if line is None:
            return False
        match = _CHUNK.fullmatch(line)
        if match is None:
            raise ProtocolError(f"expected the length of a chunk in hex, got {excerpt(line)}")
        self._left = int(match[1], 16)
        self._state = self._data if self._left else self._trailers
        return True

    def _data(self, pieces: list[bytes]) -> bool:
        piece = self._buffer[self._at : self._at + self._left]
        if not piece:
            return False
        self._at += len(piece)
        self._left -= len(piece)
        pieces.append(piece)
        if not self._left:
            self._state = self._data_end
        return True

    def _data_end(self, _: list[bytes]) -> bool:
        if len(self._buffer) < self._at + 2:
            return False
        if not self._buffer.startswith(b"\r\n", self._at):
            raise ProtocolError(f"expected the end of a chunk, got {excerpt(self._buffer[self._at :])}")
        self._at += 2
        self._state = self._size_line
        return True

    def _trailers(self, _: list[bytes]) -> bool:
        line = self._line(LINE_BYTES)
        if line is None:
            return False
        self._trailer += len(line) + 2
        if self._trailer > _TRAILER_BYTES:
            raise ProtocolError(f"expected trailers of at most {_TRAILER_BYTES:,} bytes, got more")
        self.done = not line
        return True
