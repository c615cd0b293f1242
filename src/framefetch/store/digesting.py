"""A file that digests what is written to it, also where that comes out of order."""

from __future__ import annotations

import errno
import io
import os
import threading
from typing import TYPE_CHECKING

from framefetch.store.digests import Hasher
from framefetch.store.extents import Extents

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["OPEN_NEW", "OPEN_OLD", "DigestingFile"]

_FLAGS = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)
OPEN_NEW = os.O_RDWR | os.O_CREAT | os.O_EXCL | _FLAGS
OPEN_OLD = os.O_RDWR | getattr(os, "O_NONBLOCK", 0) | _FLAGS
_SEEKING = threading.Lock()


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
        view = memoryview(block)
        with self._digesting:
            start = self.hasher.length
            while view:
                view = view[super().write(view) or 0 :]
            self.hasher.update(block)
        with self._guard:
            if self.extents is not None:  # another thread began to write elsewhere meanwhile
                self.extents.add(start, self.hasher.length)
        return len(block)

    def write_at(self, offset: int, block: bytes | memoryview) -> None:
        """Write a block somewhere, and digest what has no gap before it by now; any thread may."""
        view, at = memoryview(block), offset
        while view:
            count = _write_at(self, at, view)
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
                room = memoryview(bytearray(1 << 20))
                while (left := self._contiguous() - self.hasher.length) > 0:
                    count = _read_at(self, self.hasher.length, room[: min(left, len(room))])
                    if not count:
                        raise OSError(errno.EIO, "bytes that were written cannot be read back")
                    self.hasher.update(room[:count])
            finally:
                self._digesting.release()

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
        self.seek(0)
        room = memoryview(bytearray(min(1 << 20, max(1, length))))
        good = self.hasher.copy()
        for end, digits in (*proofs, (length, "")):
            while self.hasher.length < min(end, length):
                count = self.readinto(room[: min(end, length) - self.hasher.length]) or 0
                self.hasher.update(room[:count])
                if not count:
                    break
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
    with _SEEKING:  # Windows
        file.seek(offset)
        return io.FileIO.write(file, block) or 0


def _read_at(file: io.FileIO, offset: int, room: memoryview) -> int:
    if hasattr(os, "preadv"):
        return os.preadv(file.fileno(), [room], offset)
    with _SEEKING:
        file.seek(offset)
        return file.readinto(room) or 0
