"""What the warehouse stores: bytes, or a rule that makes them; and the encodings that faults are made of."""

from __future__ import annotations

import gzip
import hashlib
import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = [
    "OLD_DATE",
    "Content",
    "Repeated",
    "StoredFile",
    "bomb",
    "deflated",
    "endless",
    "gzipped",
    "pieces",
    "size_of",
]

#: Last-Modified of a file unless another is given: long before any Date, so a strong validator.
OLD_DATE: Final = "Mon, 01 Jan 2024 00:00:00 GMT"

#: Bytes written at once.
_PIECE: Final = 1 << 18


@dataclass(frozen=True, slots=True)
class Repeated:
    """A head, then one block over and over.

    Parameters
    ----------
    head : bytes
        The first bytes.
    block : bytes
        What follows, repeated as often as needed.
    size : int or None
        Bytes in all; None for a content without end.
    """

    head: bytes
    block: bytes
    size: int | None

    def read(self, start: int = 0, stop: int | None = None) -> bytes:
        """Return the bytes from `start` up to `stop` (default: the end)."""
        return b"".join(self.slices(start, self._end(stop)))

    def slices(self, start: int, stop: int | None) -> Iterator[memoryview]:
        """Yield views of the bytes from `start` up to `stop`, none of them copied."""
        head, block = memoryview(self.head), memoryview(self.block)
        if start < len(head):
            end = len(head) if stop is None else min(stop, len(head))
            yield head[start:end]
            start = end
        at = (start - len(head)) % len(block)
        while stop is None or start < stop:
            end = len(block) if stop is None else min(len(block), at + stop - start)
            yield block[at:end]
            start += end - at
            at = 0

    def _end(self, stop: int | None) -> int:
        ends = [end for end in (stop, self.size) if end is not None]
        if not ends:
            raise ValueError("a content without end cannot be read whole: give stop")
        return min(ends)


#: Bytes, or a rule that makes them.
Content = bytes | Repeated


def size_of(content: Content) -> int | None:
    """Return the bytes of a content, None where it has no end."""
    return content.size if isinstance(content, Repeated) else len(content)


def pieces(content: Content, start: int, stop: int | None, size: int = _PIECE) -> Iterator[bytes | memoryview]:
    """Yield the bytes from `start` up to `stop` in pieces of at most `size`."""
    whole = content.slices(start, stop) if isinstance(content, Repeated) else (memoryview(content)[start:stop],)
    for part in whole:
        if 0 < len(part) <= size:
            yield part
        else:
            for at in range(0, len(part), size):
                yield part[at : at + size]


def endless(block: bytes = bytes(65536)) -> Repeated:
    """Make a content that repeats `block` and never ends."""
    return Repeated(b"", block * max(1, 65536 // len(block)), None)


@dataclass(frozen=True, slots=True)
class StoredFile:
    """A file of the warehouse.

    Parameters
    ----------
    content : bytes or Repeated
        What it holds.
    etag : str
        As sent, quotes included.
    last_modified : str
        As sent.
    content_type : str
        As sent.
    """

    content: Content
    etag: str
    last_modified: str = OLD_DATE
    content_type: str = "application/octet-stream"

    @property
    def size(self) -> int:
        """Bytes of the file."""
        size = size_of(self.content)
        if size is None:
            raise ValueError("a file without end has no size")
        return size

    def read(self) -> bytes:
        """Return the whole file."""
        return self.content.read() if isinstance(self.content, Repeated) else self.content

    def hexdigest(self, algorithm: str = "md5") -> str:
        """Return the digest of the whole file."""
        digest = hashlib.new(algorithm, usedforsecurity=False)
        for piece in pieces(self.content, 0, self.size):
            digest.update(piece)
        return digest.hexdigest()


def etag_of(content: Content) -> str:
    """Derive a strong ETag; no digest a table would state, so that nothing can mistake it for one."""
    digest = hashlib.blake2b(digest_size=12)
    if isinstance(content, Repeated):
        digest.update(b"%d %d " % (-1 if content.size is None else content.size, len(content.head)))
        digest.update(content.head + content.block)
    else:
        digest.update(content)
    return f'"{digest.hexdigest()}"'


def gzipped(data: bytes, *, bad_crc: bool = False) -> bytes:
    """Compress as gzip, always to the same bytes; `bad_crc` spoils the checksum in the trailer."""
    packed = gzip.compress(data, compresslevel=6, mtime=0)
    if bad_crc:
        crc = int.from_bytes(packed[-8:-4], "little") ^ 0xFFFF_FFFF
        packed = packed[:-8] + crc.to_bytes(4, "little") + packed[-4:]
    return packed


def deflated(data: bytes, *, raw: bool = False) -> bytes:
    """Compress as the coding ``deflate``: a zlib stream, or the bare stream that some servers send."""
    packer = zlib.compressobj(wbits=-15 if raw else 15)
    return packer.compress(data) + packer.flush()


def bomb(size: int) -> bytes:
    """Make a gzip stream a thousandth of the `size` zeros that come out of it."""
    packer = zlib.compressobj(9, wbits=31)
    block = bytes(1 << 20)
    parts = [packer.compress(block[: min(len(block), size - at)]) for at in range(0, size, len(block))]
    return b"".join((*parts, packer.flush()))
