"""Digests of bytes as they pass, and of files as they lie; do they say what the table states."""

from __future__ import annotations

import errno
import hashlib
import os
import threading
from typing import TYPE_CHECKING, Any, Final

from framefetch.errors import DigestMismatch, ResourceChanged
from framefetch.models import Digest, Request, Verified
from framefetch.native.at_once import at_once

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Sequence

__all__ = ["SEEKING", "Hasher", "algorithms_for", "digests_of_all", "hash_file", "verdict"]

BLOCK = 1 << 20
#: Bytes after which whoever digests a file can be stopped.
STRETCH = 8 << 20
#: Held where a place in a file can be read or written only by going there: on Windows.
SEEKING = threading.Lock()


class _Room(threading.local):
    """Memory of a thread of its own, to read files into."""

    def __init__(self) -> None:
        self.view = memoryview(bytearray(BLOCK))


ROOM: Final = _Room()


class Hasher:
    """Several digests of the same bytes.

    Parameters
    ----------
    algorithms : iterable of str
        Names as in `framefetch.models.Digest`.
    """

    __slots__ = ("_hashers", "length")

    def __init__(self, algorithms: Iterable[str]) -> None:
        self._hashers: list[tuple[str, Any]] = [
            (name, at_once.Md5() if name == "md5" else hashlib.new(name)) for name in algorithms
        ]
        self.length = 0

    @property
    def algorithms(self) -> tuple[str, ...]:
        """The names of the digests."""
        return tuple(name for name, _ in self._hashers)

    def update(self, block: bytes | bytearray | memoryview) -> None:
        """Take the next bytes."""
        for _, hasher in self._hashers:
            hasher.update(block)
        self.length += len(block)

    def read(self, source: int, offset: int, most: int) -> int:
        """Take at most so many bytes of a file from some place on; return how many there were.

        Raises
        ------
        OSError
            Where they cannot be read.
        """
        count = 0
        if self.pours and hasattr(os, "preadv"):
            count, error = self._hashers[0][1].read(source, offset, ROOM.view, most)
            self.length += count
            if error:
                raise OSError(error, os.strerror(error))
        else:
            while count < most and (read := _read_at(source, offset + count, ROOM.view[: most - count])):
                self.update(ROOM.view[:read])
                count += read
        return count

    @property
    def pours(self) -> bool:
        """Whether it can take what it reads and writes by itself: there is no other digest than MD5."""
        return self.algorithms == ("md5",)

    def write(self, target: int, block: bytes | bytearray | memoryview) -> None:
        """Write the next bytes to a descriptor, all of them, and take them.

        Raises
        ------
        OSError
            Where they cannot be written; then they are not taken.
        """
        hashers = iter(self._hashers)
        _, first = next(hashers)
        if error := first.write(target, block):
            raise OSError(error, os.strerror(error))
        for _, hasher in hashers:
            hasher.update(block)
        self.length += len(block)

    def pour(
        self, source: int | Callable[[memoryview], int], target: int, room: memoryview, most: int, seconds: float
    ) -> tuple[int, bool, int, int]:
        """Receive, write to a descriptor, and take what was written: see `framefetch.native.plain`."""
        poured: tuple[int, bool, int, int] = self._hashers[0][1].pour(source, target, room, most, seconds)
        self.length += poured[0]
        return poured

    def copy(self) -> Hasher:
        """Return another that has taken the same bytes."""
        other = Hasher(())
        other._hashers = [(name, hasher.copy()) for name, hasher in self._hashers]
        other.length = self.length
        return other

    def proof(self) -> tuple[int, str]:
        """Return the number of bytes so far, and their first digest in hex."""
        return self.length, str(self._hashers[0][1].hexdigest())

    def digests(self) -> tuple[Digest, ...]:
        """Return the digests of all bytes so far."""
        return tuple([Digest(name, hasher.hexdigest()) for name, hasher in self._hashers])


def digests_of_all(bodies: Iterable[tuple[bytes, Collection[Digest]]]) -> list[tuple[Digest, ...]]:
    """Return the digests of whole bodies, each with those that the table states: MD5, and what else is stated."""
    bodies = list(bodies)
    found = []
    for (body, stated), md5 in zip(bodies, at_once.md5_all([body for body, _ in bodies]), strict=True):
        digests: tuple[Digest, ...] = ()
        says_more = False
        for one in stated:
            if one.algorithm != "md5":
                says_more = True
            elif one.hex == md5:
                digests = (one,)
        digests = digests or (Digest("md5", md5),)
        if says_more:
            others = Hasher(algorithms_for(stated)[1:])
            others.update(body)
            digests += others.digests()
        found.append(digests)
    return found


def algorithms_for(stated: Collection[Digest]) -> tuple[str, ...]:
    """Return md5, which is always recorded, and what the table states."""
    return tuple(dict.fromkeys(["md5", *[digest.algorithm for digest in stated]]))


def verdict(request: Request, size: int, digests: Sequence[Digest], *, length_known: bool) -> Verified:
    """Compare what came with what the table states.

    Raises
    ------
    ResourceChanged
        Where the size differs.
    DigestMismatch
        Where a digest differs.
    """
    if request.size is not None and size != request.size:
        raise ResourceChanged(
            f"expected {request.size:,} bytes as the table states, got {size:,}; is the table out of date?"
        )
    if not request.digests:
        return Verified.LENGTH if length_known or request.size is not None else Verified.NONE
    got = {digest.algorithm: digest for digest in digests}
    for stated in request.digests:
        if got[stated.algorithm] != stated:
            raise DigestMismatch(f"expected {stated}, got {got[stated.algorithm]} in {size:,} bytes")
    return Verified.DIGEST


def hash_file(path: str, algorithms: Iterable[str], stopped: Callable[[], bool] | None = None) -> tuple[Digest, ...]:
    """Read a whole file and return its digests.

    Parameters
    ----------
    path : str
        The file.
    algorithms : iterable of str
        Names as in `framefetch.models.Digest`.
    stopped : callable, optional
        Asked between two blocks whether to give up.

    Raises
    ------
    OSError
        Where it cannot be read, or was given up (`InterruptedError`).
    """
    hasher = Hasher(algorithms)
    with open(path, "rb", buffering=0) as file:
        while hasher.read(file.fileno(), hasher.length, STRETCH):
            if stopped is not None and stopped():
                raise InterruptedError(errno.EINTR, os.strerror(errno.EINTR))
    return hasher.digests()


def _read_at(source: int, offset: int, room: memoryview) -> int:
    """Read bytes of a file from some place on, at most as many as there is room for; return how many."""
    if hasattr(os, "preadv"):
        return os.preadv(source, [room], offset)
    with SEEKING:
        os.lseek(source, offset, os.SEEK_SET)
        data = os.read(source, len(room))
    room[: len(data)] = data
    return len(data)
