"""Ranges of one file side by side: which range next, and how many at once. Pure.

Ranges are handed out from the front, and small, so that the digest, which must follow the bytes in order, keeps up
with what arrives, and little has come out of order when something breaks.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["SMALLEST", "Growth", "RangePlan"]

#: Bytes of a range at least: each costs a request.
SMALLEST: Final = 4 << 20
LARGEST: Final = 16 << 20


class RangePlan:
    """What is still to be asked for of a file.

    Parameters
    ----------
    gaps : iterable of (int, int)
        First byte, and the one behind the last, of what is missing.

    Examples
    --------
    >>> plan = RangePlan([(0, 3), (10, 14)])
    >>> plan.take(1), plan.take(1), plan.take(1)
    ((0, 3), (10, 14), None)
    """

    def __init__(self, gaps: Iterable[tuple[int, int]]) -> None:
        self._gaps = sorted(gap for gap in gaps if gap[0] < gap[1])

    @property
    def left(self) -> int:
        """Bytes that nobody was told to fetch."""
        return sum(stop - start for start, stop in self._gaps)

    def take(self, sharers: int) -> tuple[int, int] | None:
        """Return the next range, None where there is none: smaller towards the end, so that all finish together."""
        if not self._gaps:
            return None
        start, stop = self._gaps[0]
        size = min(LARGEST, max(SMALLEST, self.left // (2 * sharers)))
        if stop - start <= size + SMALLEST // 2:
            del self._gaps[0]
            return start, stop
        self._gaps[0] = (start + size, stop)
        return start, start + size

    def put_back(self, start: int, stop: int) -> None:
        """Take back what was not fetched of a range."""
        if start < stop:
            self._gaps.append((start, stop))
            self._gaps.sort()


class Growth:
    """How many connections one file uses: more as long as they pay and the network is what is waited for.

    They double; where twice as many brought nearly twice as much, the host caps each, and there are four times as many.

    Parameters
    ----------
    most : int
        Connections at most.

    Examples
    --------
    >>> growth = Growth(64)
    >>> [growth.step(rate, waited=0.9) for rate in (20.0, 40.0, 120.0, 121.0, 122.0)]
    [2, 8, 16, 8, 8]
    """

    #: What twice as many must bring; where they did not, they are tried again after some steps, and each time later,
    #: after twice as many steps.
    GAIN: Final = 1.3
    #: The share of what they could bring that lets their number grow fourfold.
    FULL: Final = 0.85
    PATIENCE: Final = 5
    #: Share of the time that a transfer must wait for the network, else more connections cannot help.
    WAITING: Final = 0.5

    def __init__(self, most: int) -> None:
        self._most = most
        self._size = 1
        self._fold = 1  # how many times as many the last step made them
        self._before = 0.0
        self._rests = 0
        self._patience = self.PATIENCE

    def step(self, rate: float, waited: float) -> int:
        """Return how many connections there should be.

        Parameters
        ----------
        rate : float
            Bytes a second of all of them since the last step.
        waited : float
            Share of the time since then that was spent waiting for bytes, 0 to 1.
        """
        if self._rests:
            self._rests -= 1
            return self._size
        if waited < self.WAITING or self._size >= self._most:
            return self._size
        if self._size > 1 and rate < (self.GAIN**2 if self._fold > 2 else self.GAIN) * self._before:
            self._rests, self._patience = self._patience, 2 * self._patience
            too_many = 2 if rate >= self.GAIN * self._before else self._fold
            self._before = 0.0
            self._size, self._fold = max(1, self._size // too_many), 1
            return self._size
        fold = 4 if self._fold > 1 and rate >= self.FULL * self._fold * self._before else 2
        self._before, before = rate, self._size
        self._size = min(self._most, before * fold)
        self._fold = self._size // before
        return self._size

    def settle(self, size: int) -> None:
        """Note that there are no more than so many just now."""
        self._size, self._rests, self._before, self._fold = max(1, size), self.PATIENCE, 0.0, 1

    def shrink(self, size: int) -> None:
        """Note that no more than so many are granted."""
        self._size = self._most = max(1, size)
        self._fold = 1
