"""What a writer knows of its own writing, so that it need not look for rows that cannot be there.

To find out in a large manifest that a key is not in it is a good part of what a commit costs. Who has looked for files
and found no entry can say up to which window that was so. If every window since then is the writer's own, and it has
not written that row itself, then it is not there.
"""

from __future__ import annotations

from bisect import bisect_right
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from framefetch.store.changes import Identity

__all__ = ["Own"]

#: Bits that remember which rows were written, four mebibytes of them: among a million rows one in thirty is looked for
#: in vain.
BITS: Final = 1 << 25


class Own:
    """The windows and the rows that a writer has written."""

    def __init__(self) -> None:
        self._windows: list[int] = []
        self._written = bytearray(BITS >> 3)

    def new_among(self, rows: Sequence[Identity], unknown_at: int | None, window: int) -> Iterator[Identity]:
        """Yield those rows of a window that cannot be there yet, and remember all.

        Parameters
        ----------
        rows : sequence of Identity
            What is about to be written.
        unknown_at : int or None
            Up to this window nobody had recorded their keys; None where it is not known.
        window : int
            The window that is being written.
        """
        certain = unknown_at is not None and self._are_own(unknown_at, window)
        written = self._written
        for row in rows:
            bit = hash(row) & (BITS - 1)
            byte, mask = bit >> 3, 1 << (bit & 7)
            if written[byte] & mask:
                continue
            written[byte] |= mask
            if certain:
                yield row

    def _are_own(self, first: int, last: int) -> bool:
        """Return whether all windows between two were written by this writer; numbers are never used again."""
        return len(self._windows) - bisect_right(self._windows, first) == last - first - 1

    def committed(self, window: int) -> None:
        """Note that a window was written."""
        self._windows.append(window)
