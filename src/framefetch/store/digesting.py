"""A file that digests what is written to it, also where that comes out of order."""

from __future__ import annotations

import errno
import io
import os
import threading
from typing import TYPE_CHECKING

from framefetch.native.calls import OPEN_NEW, taken
from framefetch.store.digests import SEEKING, Hasher
from framefetch.store.extents import Extents

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

__all__ = ["OPEN_NEW", "OPEN_OLD", "DigestingFile"]

OPEN_OLD = (OPEN_NEW & ~(os.O_CREAT | os.O_EXCL)) | getattr(os, "O_NONBLOCK", 0)


class DigestingFile(io.FileIO):
    """A part that digests what is written to it: one hop to a thread does both.

    Parameters
    ----------
    path : str
        The part.
    algorithms : sequence of str
        The digests to compute.
    flags : int
        How it is opened: `OPEN_NEW` for a new one, `OPEN_OLD` to go on with one.
    """

    def __init__(self, path: str, algorithms: Sequence[str], flags: int = OPEN_NEW) -> None:
        self.algorithms = tuple(algorithms)
        self.hasher = Hasher(algorithms)
        #: What is there, where bytes came out of order; the digest follows the beginning that has no gap.
        self.extents: Extents | None = None
        self._guard = threading.Lock()
        self._digesting = threading.Lock()
        super().__init__(os.open(path, flags, 0o666), "r+b")

    def write(self, block: bytes | bytearray | memoryview) -> int:  # type: ignore[override]
        """Append and digest the whole block, however many calls that takes."""
        with self._digesting:
            start = self.hasher.length
            self.hasher.write(self.fileno(), block)
        with self._guard:
            if self.extents is not None:  # another thread began to write elsewhere meanwhile
                self.extents.add(start, self.hasher.length)
        return len(block)

    def pour(
        self, source: int | Callable[[memoryview], int], room: memoryview, most: int, seconds: float
    ) -> tuple[int, bool, int]:
        """Append and digest what comes, as long as something is there; only where `hasher.pours`.

        Parameters
        ----------
        source : int or callable
            A descriptor that does not block, or what puts bytes into some room and returns how many.
        room : memoryview
            Where to receive.
        most : int
            Bytes at most.
        seconds : float
            Time after which not to go on.

        Returns
        -------
        tuple of (int, bool, int)
            Bytes that were appended; whether no more were there; the number of the error of reading, or 0.

        Raises
        ------
        OSError
            Where the disk refuses.
        """
        with self._digesting:
            start = self.hasher.length
            count, is_dry, broke, refused = self.hasher.pour(source, self.fileno(), room, most, seconds)
        with self._guard:
            if self.extents is not None:  # another thread began to write elsewhere meanwhile
                self.extents.add(start, self.hasher.length)
        if refused:
            raise OSError(refused, os.strerror(refused))
        return count, is_dry, broke

    def write_at(self, offset: int, block: bytes | memoryview) -> None:
        """Write a block somewhere, and digest what has no gap before it by now; any thread may."""
        view, at = memoryview(block), offset
        while view:
            count = taken(_write_at(self, at, view))
            view, at = view[count:], at + count
        with self._guard:
            if self.extents is None:
                self.extents = Extents([(0, self.hasher.length)])
            self.extents.add(offset, at)
        self.catch_up()

    def catch_up(self) -> None:
        """Digest what arrived early; who finds another thread at it leaves it to that one."""
        while self.hasher.length < self._contiguous():
            if not self._digesting.acquire(blocking=False):
                return
            try:
                while (left := self._contiguous() - self.hasher.length) > 0:
                    if not self.hasher.read(self.fileno(), self.hasher.length, left):
                        raise OSError(errno.EIO, "bytes that were written cannot be read back")
            finally:
                self._digesting.release()

    def reread(self, offset: int, count: int) -> bytes:
        """Return so many bytes from somewhere, fewer where they end; not while somebody writes."""
        position = self.tell()
        try:
            self.seek(offset)
            return self.read(count)
        finally:
            self.seek(position)

    def proof(self) -> tuple[int, str]:
        """Return how many bytes are digested, and their digest; who digests on meanwhile is waited for."""
        with self._digesting:
            return self.hasher.proof()

    def noted(self) -> tuple[tuple[int, int], ...]:
        """Return what is there, where it came out of order; else nothing."""
        with self._guard:
            return () if self.extents is None else tuple(self.extents)

    def _contiguous(self) -> int:
        with self._guard:
            return self.hasher.length if self.extents is None else self.extents.prefix

    def go_on(self, length: int, proofs: Sequence[tuple[int, str]], extents: Extents | None = None) -> None:
        """Read so many bytes again, keep them as far as the proofs hold, and write behind them.

        What is noted out of order is kept where all of the proofs hold.
        """
        good = self.hasher.copy()
        for end, digits in (*proofs, (length, "")):
            self.hasher.read(self.fileno(), self.hasher.length, max(0, min(end, length) - self.hasher.length))
            if self.hasher.length != end or (digits and self.hasher.proof() != (end, digits)):
                break
            good = self.hasher.copy()
        self.go_on_as_left(good, extents if good.length == length else None)

    def go_on_as_left(self, hasher: Hasher, extents: Extents | None = None) -> None:
        """Write behind what was digested before."""
        self.hasher, self.extents = hasher, extents
        if extents is None:
            self.truncate(hasher.length)
        self.seek(hasher.length)

    def begin_anew(self) -> None:
        """Forget all bytes."""
        self.truncate(0)
        self.seek(0)
        self.hasher, self.extents = Hasher(self.algorithms), None


def _write_at(file: io.FileIO, offset: int, block: memoryview) -> int:
    if hasattr(os, "pwrite"):
        return os.pwrite(file.fileno(), block, offset)
    with SEEKING:  # Windows
        file.seek(offset)
        return io.FileIO.write(file, block) or 0
