"""Digests of bytes as they pass, and of files as they lie."""

from __future__ import annotations

import errno
import hashlib
import os
from typing import TYPE_CHECKING, Any

from framefetch.models import Digest

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable

__all__ = ["Hasher", "algorithms_for", "hash_file"]

BLOCK = 1 << 20


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
            (name, hashlib.md5(usedforsecurity=False) if name == "md5" else hashlib.new(name)) for name in algorithms
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


def algorithms_for(stated: Collection[Digest]) -> tuple[str, ...]:
    """Return md5, which is always recorded, and what the table states."""
    return tuple(dict.fromkeys(["md5", *[digest.algorithm for digest in stated]]))


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
        block = bytearray(BLOCK)
        view = memoryview(block)
        while count := file.readinto(block):
            hasher.update(view[:count])
            if stopped is not None and stopped():
                raise InterruptedError(errno.EINTR, os.strerror(errno.EINTR))
    return hasher.digests()
