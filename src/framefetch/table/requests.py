"""The files of a plan as columns: a `Request` is made only when a worker asks for one.

A row costs eight bytes for each column and the text that is its own (a name; a URL where a template made it).
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from itertools import repeat
from typing import TYPE_CHECKING, Any

import numpy as np

from framefetch.models import Digest, Request
from framefetch.urls import origin_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from framefetch.models import Stated

__all__ = ["TableRequests", "unpacked"]

IntArray = np.ndarray[Any, np.dtype[np.int64]]


@dataclass(frozen=True, slots=True)
class TableRequests:
    """Distinct files, by position.

    Parameters
    ----------
    version : str
        The folder of all of them.
    keys, urls, names : sequence of str
        Identity, first mirror, and path below the version folder.
    mirrors : mapping of int to tuple of str
        All mirrors of the files that have several.
    sizes : array of int64
        Expected bytes, -1 where unknown.
    digests : mapping of str to array of object
        For each stated algorithm the hex digits, None where unknown.
    copy_of : mapping of int to int
        Files that are the same as an earlier one, wanted at another path too.
    wanted : array of int64 or None
        The positions to fetch; None for all.
    """

    version: str
    keys: Sequence[str] = field(repr=False)
    urls: Sequence[str] = field(repr=False)
    names: Sequence[str] = field(repr=False)
    mirrors: Mapping[int, tuple[str, ...]] = field(repr=False)
    sizes: IntArray
    digests: Mapping[str, np.ndarray[Any, Any]]
    copy_of: Mapping[int, int] = field(default_factory=dict)
    wanted: IntArray | None = None

    def __len__(self) -> int:
        """Return the number of files, wanted or not."""
        return len(self.urls)

    def __getitem__(self, index: int, /) -> Request:
        """Return one file."""
        size = int(self.sizes[index])
        return Request(
            index=index,
            version=self.version,
            key=self.keys[index],
            urls=self.mirrors.get(index) or (self.urls[index],),
            path=self.path(index),
            size=None if size < 0 else size,
            digests=self.stated(index),
        )

    def path(self, index: int) -> str:
        """Return the path of one file relative to the cache."""
        return f"{self.version}/{self.names[index]}"

    def stated(self, index: int) -> tuple[Digest, ...]:
        """Return what the table states of one file."""
        if not self.digests:
            return ()
        stated = [(algorithm, column[index]) for algorithm, column in self.digests.items()]
        return tuple([Digest(algorithm, digits) for algorithm, digits in stated if digits is not None])

    def stated_of(self, positions: Sequence[int]) -> Iterator[Stated]:
        """Yield position, key, path, size and digests of some files."""
        keys, names, prefix = self.keys, self.names, f"{self.version}/"
        sizes = self.sizes[positions].tolist()
        columns = [
            [digits and f"{algorithm}:{digits}" for digits in column[positions].tolist()]
            for algorithm, column in self.digests.items()
        ]
        digests: Iterable[tuple[str, ...]] = repeat(())
        if len(columns) == 1:
            digests = [(text,) if text else () for text in columns[0]]
        elif columns:
            digests = [tuple(filter(None, texts)) for texts in zip(*columns, strict=True)]
        for position, size, stated in zip(positions, sizes, digests, strict=False):
            yield position, keys[position], prefix + names[position], size, stated

    def total_bytes(self, positions: IntArray | np.ndarray[Any, np.dtype[np.bool_]]) -> tuple[int, int]:
        """Return the stated bytes of some files, and how many of them state none."""
        sizes = self.sizes[positions]
        stated = sizes[sizes >= 0]
        # In two halves: a wrong table can state more than 64 bits in all.
        known = (int((stated >> 32).sum()) << 32) + int((stated & 0xFFFF_FFFF).sum())
        return known, len(sizes) - len(stated)

    def select(self, wanted: IntArray) -> TableRequests:
        """Return the same files with only some of them to fetch."""
        return replace(self, wanted=wanted)

    def queues(self) -> Mapping[str, Iterator[int]]:
        """Return for each origin the positions to fetch, in the order of the table."""
        positions = np.arange(len(self)) if self.wanted is None else self.wanted
        codes, origins = self._origins(positions)
        if len(origins) == 1:
            return {origins[0]: iter(unpacked(positions))}
        order = np.argsort(codes, kind="stable")
        bounds = np.searchsorted(codes[order], np.arange(len(origins) + 1))
        return {
            origin: iter(unpacked(positions[order[bounds[code] : bounds[code + 1]]]))
            for code, origin in enumerate(origins)
        }

    def _origins(self, positions: IntArray) -> tuple[np.ndarray[Any, np.dtype[np.int32]], list[str]]:
        """Return a number for each position that says which origin it has; one look at a URL's head is enough."""
        known: dict[str, int] = {}
        origins: dict[str, int] = {}
        codes = np.zeros(len(positions), dtype=np.int32)
        first = self.urls[positions[0]] if len(positions) else ""
        alike = first[: first.find("/", 8) + 1]
        wanted = self.urls if self.wanted is None else [self.urls[position] for position in positions.tolist()]
        # What stands between two texts that begin alike begins so, too.
        if alike and min(wanted).startswith(alike) and max(wanted).startswith(alike):
            return codes, [origin_of(first)]
        for at, position in enumerate(positions.tolist()):
            url = self.urls[position]
            head = url[: url.find("/", 8)] if url.find("/", 8) > 0 else url
            code = known.get(head)
            if code is None:
                code = known[head] = origins.setdefault(origin_of(url), len(origins))
            codes[at] = code
        return codes, list(origins)


def unpacked(positions: IntArray) -> Iterator[int]:
    """Yield plain integers, a block at a time: a list of a million of them would be 32 MB."""
    for start in range(0, len(positions), 4096):
        yield from positions[start : start + 4096].tolist()
