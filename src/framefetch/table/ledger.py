"""What became of each file of a run, in columns: a row costs its cells, not objects."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from framefetch.errors import StorageError
from framefetch.models import Status, Verified

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from framefetch.models import Entry, Outcome, Receipt

__all__ = ["CODES", "LEVELS", "STATUSES", "Ledger", "recorded"]

#: What tables say: plain text, since a pandas that keeps Python's objects would show a member of an enumeration.
STATUSES = tuple(status.value for status in Status)
LEVELS = tuple(level.value for level in Verified)
CODES = {status: code for code, status in enumerate(Status)}
CACHED = CODES[Status.CACHED]
LEVEL_CODES = {level: code for code, level in enumerate(Verified)}


def recorded(outcomes: Sequence[Outcome], entries: Sequence[Entry]) -> list[Outcome]:
    """Return outcomes as they are when only some could be recorded: the other files were replaced meanwhile."""
    paths = {entry.path for entry in entries}
    return [outcome if outcome.request.path in paths else _replaced(outcome) for outcome in outcomes]


def _replaced(outcome: Outcome) -> Outcome:
    error = StorageError(f"{outcome.request.path} was replaced by another process before it was recorded; run it again")
    return replace(outcome, status=Status.FAILED, receipt=None, error=error)


class Ledger:
    """What became of each file, in columns.

    Parameters
    ----------
    files : int
        How many there are.
    """

    def __init__(self, files: int) -> None:
        self.status = np.full(files, CODES[Status.CANCELLED], dtype=np.uint8)
        self.size = np.full(files, -1, dtype=np.int64)
        self.md5 = np.full(files, None, dtype=object)
        self.verified = np.full(files, len(LEVELS), dtype=np.uint8)
        self.attempts = np.zeros(files, dtype=np.int32)
        self.seconds = np.zeros(files, dtype=np.float32)
        self.errors: dict[int, tuple[str, str]] = {}
        #: Files that are held elsewhere than planned.
        self.places: dict[int, str] = {}

    def record(self, outcomes: Sequence[Outcome]) -> None:
        """Note outcomes, a column at a time."""
        files = [outcome.request.index for outcome in outcomes]
        self.status[files] = [CODES[outcome.status] for outcome in outcomes]
        self.attempts[files] = [outcome.attempts for outcome in outcomes]
        self.seconds[files] = [outcome.seconds for outcome in outcomes]
        received = {outcome.request.index: outcome.receipt for outcome in outcomes if outcome.receipt is not None}
        if received:
            files, receipts = list(received), received.values()
            self.size[files] = [receipt.size for receipt in receipts]
            self.verified[files] = [LEVEL_CODES[receipt.verified] for receipt in receipts]
            self.md5[files] = [_md5_of(receipt) for receipt in receipts]
        error, told = None, ("", "")
        for outcome in outcomes:
            if outcome.error is not None:
                if outcome.error is not error:  # all files of a host that is down share one
                    error, told = outcome.error, (type(outcome.error).__name__, str(outcome.error))
                self.errors[outcome.request.index] = told

    def record_held(self, file: int, receipt: Receipt, place: str | None = None) -> None:
        """Note a file that was held already, and where if that is not where it was planned."""
        self.status[file] = CODES[Status.CACHED]
        if place is not None:
            self.places[file] = place
        self.size[file] = receipt.size
        self.verified[file] = LEVEL_CODES[receipt.verified]
        self.md5[file] = _md5_of(receipt)

    def record_plain(
        self, files: Sequence[int], sizes: Sequence[int], verified: Iterable[Verified], md5: Sequence[str]
    ) -> None:
        """Note files that were held already, where they were planned."""
        if files:
            self.status[files] = CACHED
            self.size[files] = sizes
            self.md5[files] = np.array(md5, dtype=object)
            self.verified[files] = [LEVEL_CODES[level] for level in verified]

    def holds(self, file: int) -> bool:
        """Return whether a file is held."""
        return int(self.status[file]) in (CODES[Status.CACHED], CODES[Status.DOWNLOADED])

    def share(self, first: int, file: int) -> None:
        """Let a file have the outcome of another with the same bytes."""
        for column in (self.status, self.size, self.md5, self.verified, self.attempts, self.seconds):
            column[file] = column[first]
        if first in self.errors:
            self.errors[file] = self.errors[first]


def _md5_of(receipt: Receipt) -> str | None:
    for digest in receipt.digests:
        if digest.algorithm == "md5":
            return digest.hex
    return None
