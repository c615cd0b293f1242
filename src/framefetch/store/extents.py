"""Which bytes of a part are there, where they do not come in order. Pure."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

__all__ = ["Extents"]


class Extents:
    """Stretches of bytes, disjoint and in order.

    Parameters
    ----------
    stretches : iterable of (int, int)
        First byte, and the one behind the last.

    Examples
    --------
    >>> there = Extents([(0, 10), (20, 30)])
    >>> there.add(8, 15)
    >>> there.prefix, list(there.gaps(40))
    (15, [(15, 20), (30, 40)])
    """

    def __init__(self, stretches: Iterable[tuple[int, int]] = ()) -> None:
        self._starts: list[int] = []
        self._stops: list[int] = []
        for start, stop in stretches:
            self.add(start, stop)

    def __iter__(self) -> Iterator[tuple[int, int]]:
        """Yield the stretches."""
        return iter(list(zip(self._starts, self._stops, strict=True)))

    def add(self, start: int, stop: int) -> None:
        """Add a stretch; what it touches or overlaps becomes one with it."""
        if start >= stop:
            return
        first, last = bisect_left(self._stops, start), bisect_right(self._starts, stop)
        if first < last:
            start, stop = min(start, self._starts[first]), max(stop, self._stops[last - 1])
        self._starts[first:last] = [start]
        self._stops[first:last] = [stop]

    @property
    def prefix(self) -> int:
        """How many bytes there are from the beginning on without a gap."""
        return self._stops[0] if self._starts and self._starts[0] == 0 else 0

    def gaps(self, total: int) -> Iterator[tuple[int, int]]:
        """Yield what is missing of so many bytes."""
        end = 0
        for start, stop in self:
            if start > end:
                yield end, min(start, total)
            end = stop
            if end >= total:
                return
        if end < total:
            yield end, total
