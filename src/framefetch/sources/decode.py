"""Undoes a content coding that nobody asked for, with bounded memory.

We ask for identity. A server that codes all the same gets its coding undone, except where the file's name says that
the coded bytes are the file (``.nii.gz`` labelled ``Content-Encoding: gzip`` is the usual mistake). The decoder hands
out pieces of bounded size, so a bomb costs no more memory than a file; its stream must end where the coding says.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from typing import Final

from framefetch.errors import EncodingError
from framefetch.urls import excerpt

__all__ = ["Decoder", "coding_of", "keeps_coded_bytes"]

#: Bytes that one step may give.
PIECE: Final = 1 << 18
_GZIP: Final = frozenset(("gzip", "x-gzip"))
_CODED_NAMES: Final = (".gz", ".tgz", ".bgz", ".z", ".gzip")


def coding_of(values: list[str]) -> str | None:
    """Return the content coding of an answer, None for the bytes as they are.

    Raises
    ------
    EncodingError
        Where there are several, or one that is not known (RFC 9110 section 8.4.1).
    """
    codings = [part.strip().lower() for value in values for part in value.split(",")]
    codings = [coding for coding in codings if coding not in ("", "identity", "none")]
    if not codings:
        return None
    if len(codings) > 1 or codings[0] not in _GZIP | {"deflate"}:
        raise EncodingError(
            f"expected the file as it is, or gzip, got Content-Encoding: {excerpt(', '.join(codings), 80)[1:-1]}"
        )
    return codings[0]


def keeps_coded_bytes(path: str) -> bool:
    """Return whether a file's name says that the coded bytes are the file."""
    return path.lower().endswith(_CODED_NAMES)


class Decoder:
    """Decodes one body.

    Parameters
    ----------
    coding : str
        ``gzip``, ``x-gzip`` or ``deflate``.
    """

    def __init__(self, coding: str) -> None:
        self._coding = coding
        self._stream = self._begin(b"")
        self._begun = False
        self._first = b""  # one byte, which does not tell what "deflate" means

    def _begin(self, data: bytes) -> zlib._Decompress:
        if self._coding in _GZIP:
            return zlib.decompressobj(wbits=31)
        # "deflate" is zlib by the standard (RFC 9110 section 8.4.1.2), and bare by a common mistake.
        header = len(data) >= 2 and data[0] & 0x0F == 8 and not (data[0] << 8 | data[1]) % 31
        return zlib.decompressobj(wbits=15 if header else -15)

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Yield what some bytes decode to, piece by piece.

        Raises
        ------
        EncodingError
            Where they are not so coded.
        """
        if not self._begun:
            data = self._first + data
            if len(data) < 2:
                self._first = data
                return
            self._begun = True
            self._stream = self._begin(data)
        while data:
            if self._stream.eof:  # members may follow one another (RFC 1952 section 2.2)
                if self._coding not in _GZIP or not data.startswith(b"\x1f\x8b"[: len(data)]):
                    raise EncodingError(f"expected the end of the {self._coding} stream, got more bytes behind it")
                self._stream = self._begin(data)
            try:
                piece = self._stream.decompress(data, PIECE)
            except zlib.error as error:
                raise EncodingError(f"the {self._coding} stream cannot be decoded: {error}") from error
            data = self._stream.unconsumed_tail or self._stream.unused_data
            if piece:
                yield piece

    def finish(self) -> None:
        """Take the end of the body.

        Raises
        ------
        EncodingError
            Where the stream should go on.
        """
        if (self._begun or self._first) and not self._stream.eof:
            error = EncodingError(f"the {self._coding} stream ended early")
            error.retryable = True
            raise error
