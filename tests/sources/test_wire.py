"""Chunked bodies taken apart, without a socket."""

from __future__ import annotations

import itertools
from typing import Self

import pytest
from hypothesis import given
from hypothesis import strategies as st

from framefetch.errors import ProtocolError
from framefetch.sources.wire import LINE_BYTES, ChunkedDecoder, parse_head

LAST = b"0\r\n\r\n"


class Counted(bytes):
    """Bytes that count how many of them are copied, on whatever way."""

    copied = 0

    def _noted(self, made: bytes) -> Self:
        Counted.copied += len(made)
        return type(self)(made)

    def __getitem__(self, key):
        made = super().__getitem__(key)
        return self._noted(made) if isinstance(made, bytes) else made

    def __add__(self, other):
        return self._noted(super().__add__(other))

    def __radd__(self, other):
        return self._noted(other + bytes(self))

    def partition(self, sep):
        before, found, behind = super().partition(sep)
        return self._noted(before), found, self._noted(behind)


def chunked(pieces: list[bytes], extension: bytes = b"") -> bytes:
    return b"".join(b"%x%b\r\n%b\r\n" % (len(piece), extension, piece) for piece in pieces)


def fed(decoder: ChunkedDecoder, data: bytes, cuts: list[int]) -> bytes:
    """Feed bytes in pieces; return what they hold."""
    places = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    blocks = [decoder.feed(data[start:end]) for start, end in itertools.pairwise(places)]
    assert all(len(found) <= 1 for found in blocks)
    return b"".join(block for found in blocks for block in found)


@given(
    st.lists(st.binary(min_size=1, max_size=40), max_size=20),
    st.sampled_from([b"", b";a", b' ;a="b"']),
    st.sampled_from([b"", b"X: y\r\n", b"X: y\r\nZ: \r\n"]),
    st.lists(st.integers(0, 2000), max_size=12),
)
def test_a_body_is_the_same_however_it_is_cut(
    pieces: list[bytes], extension: bytes, trailers: bytes, cuts: list[int]
) -> None:
    decoder = ChunkedDecoder()
    body = fed(decoder, chunked(pieces, extension) + b"0\r\n" + trailers + b"\r\n", cuts)
    assert (body, decoder.done, decoder.rest) == (b"".join(pieces), True, b"")


def test_what_follows_the_body_is_kept_apart() -> None:
    decoder = ChunkedDecoder()
    assert decoder.feed(chunked([b"ab", b"c"]) + LAST + b"HTTP/1.1") == [b"abc"]
    assert (decoder.done, decoder.rest) == (True, b"HTTP/1.1")


@pytest.mark.parametrize("piece", [b"x", b"xyz"])
def test_small_chunks_are_not_copied_once_for_each_of_the_others(piece: bytes) -> None:
    """All of a read is taken on the loop in one go, so its work must grow with its bytes and not with their square."""
    data = Counted(chunked([piece] * 2000) + LAST)
    Counted.copied = 0
    decoder = ChunkedDecoder()
    assert b"".join(decoder.feed(data)) == piece * 2000
    assert decoder.done
    assert Counted.copied <= len(data)


def test_the_length_of_a_chunk_line_is_bounded_however_it_comes() -> None:
    line = b"1;" + b"e" * (LINE_BYTES - 2)
    assert fed(ChunkedDecoder(), line + b"\r\nx\r\n" + LAST, [1, LINE_BYTES]) == b"x"
    for cuts in ([], [1], [LINE_BYTES], [LINE_BYTES + 1]):
        with pytest.raises(ProtocolError, match="expected a chunk line of at most 8,190 bytes, got"):
            fed(ChunkedDecoder(), line + b"e\r\nx\r\n" + LAST, cuts)


@pytest.mark.parametrize("wrong", [b"1\r\nxy\r\n", b"1\r\nx\n\n", b"g\r\n", b"\r\n", b"-1\r\n", b"0x1\r\n"])
def test_what_is_no_chunk_is_refused_behind_one_that_is(wrong: bytes) -> None:
    with pytest.raises(ProtocolError):
        ChunkedDecoder().feed(chunked([b"ab"]) + wrong)


@pytest.mark.parametrize(
    ("told", "value"),
    [
        (b"a\r\n b", "a b"),
        (b"a \t\r\n\t  b: c\r\n d", "a b: c d"),
        (b"\r\n a", "a"),
        (b"a\r\n \r\n b", "a b"),
    ],
)
def test_lines_that_were_folded_are_one(told: bytes, value: str) -> None:
    head = parse_head(b"HTTP/1.1 200 OK\r\nX-A: " + told + b'\r\nETag: "v1"')
    assert head.fields == {"x-a": [value], "etag": ['"v1"']}


@pytest.mark.parametrize(
    "block",
    [
        b"HTTP/1.1 200\r\n OK\r\nX-A: b",  # of the status line
        b"HTTP/1.1 200 OK\r\n X-A: b",  # before the first field
        b"HTTP/1.1 200 OK\r\n\tX-A: b\r\n c",
        b"HTTP/1.1 200 OK\r\nX-A: b\r\n " + b"c" * LINE_BYTES,
        b"HTTP/1.1 200 OK\r\nX-A: b\r\n c\rd",
    ],
)
def test_what_goes_on_with_nothing_or_has_no_end_is_no_field(block: bytes) -> None:
    with pytest.raises(ProtocolError, match="expected a header field"):
        parse_head(block)
