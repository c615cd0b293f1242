"""What planning gives: the rows of a table, the files they mean, and why some mean none."""

from __future__ import annotations

from array import array
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from framefetch.errors import InvalidRow, PlanError
from framefetch.table.naming import check_version
from framefetch.urls import redact

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from framefetch.table.requests import TableRequests

__all__ = ["PlannedRows"]


@dataclass(frozen=True, slots=True)
class PlannedRows:
    """The rows of a table and the files they mean.

    Parameters
    ----------
    index : Index or range
        The table's own.
    requests : TableRequests
        The distinct files.
    files : array of int64
        For each row the position of its file, -1 where the row is invalid.
    errors : mapping of int to InvalidRow
        For each invalid row, by position, the reason.
    texts : mapping of int to str
        For each invalid row what stood in its URL cell, without secrets.
    notes : tuple of str
        Which columns were found by name, and what is hardly meant.
    aliases : mapping of int to str
        For rows whose file another row names first, and by another URL, that of their own.
    own_keys : bool
        Whether a column states the keys; else they are the URLs.
    unclear : collection of int
        Invalid rows that name a file, and nobody knows which: no template or `base_url` makes a URL of what they say.
    """

    index: Any
    requests: TableRequests
    files: np.ndarray[Any, np.dtype[np.int64]]
    errors: Mapping[int, InvalidRow]
    texts: Mapping[int, str]
    notes: tuple[str, ...]
    aliases: Mapping[int, str] = field(default_factory=dict)
    own_keys: bool = False
    unclear: Collection[int] = ()

    def named(self) -> set[str]:
        """Return the keys of all files that the rows name, also of rows that cannot be used for another reason.

        Raises
        ------
        PlanError
            Where there are none, or a row that cannot be used may name one that is not known.
        """
        if not self.requests.keys:
            raise PlanError(f"expected a table that names files, got {len(self.files):,} rows that name none")
        unknown = self.errors if self.own_keys else self.unclear
        if unknown:
            error = self.errors[min(unknown)]
            count = f"{len(unknown):,} of {len(self.files):,} rows"
            raise PlanError(f"{count} cannot be used, so nobody knows which files they name: {error}")
        return set(self.requests.keys) | set(self.texts.values())

    def used(self) -> array[int]:
        """Return the files that some valid row asks for, in order; eight bytes for each."""
        asked = np.zeros(len(self.requests) + 1, dtype=bool)
        asked[self.files] = True  # refused rows have -1 and mark the place behind the last file
        return array("q", np.flatnonzero(asked[:-1]).astype(np.int64).tobytes())

    def rows_by_url(self) -> dict[str, int]:
        """Return for each URL, secrets aside, the first row that names it, valid rows before those that are not."""
        found: dict[str, int] = {}
        urls, mirrors, aliases = self.requests.urls, self.requests.mirrors, self.aliases
        for row, file in enumerate(self.files.tolist()):
            if file >= 0:
                found.setdefault(redact(aliases.get(row) or urls[file]), row)
        for row, file in enumerate(self.files.tolist() if mirrors else ()):
            for url in mirrors.get(file, ()):
                found.setdefault(redact(url), row)
        for row, text in self.texts.items():
            found.setdefault(text, row)
        return found

    def only(self, row: int, url: str, version: str) -> PlannedRows:
        """Return one row by itself, with all that any row states of its file, to be asked for by a URL of its own.

        Parameters
        ----------
        row : int
            Its position.
        url : str
            One of its URLs, which may be signed anew.
        version : str
            The folder below the cache.

        Raises
        ------
        PlanError
            Where that is none.
        """
        check_version(version)
        requests, file = self.requests, int(self.files[row])
        files = [file] if file >= 0 else []
        mirrors, bare = requests.mirrors.get(file, ()), redact(url)
        urls = tuple(url if redact(mirror) == bare else mirror for mirror in mirrors)
        urls = urls if url in urls else (url,)
        alone = replace(
            requests,
            version=version,
            keys=[requests.keys[at] for at in files],
            urls=[urls[0] for _ in files],
            names=[requests.names[at] for at in files],
            mirrors={0: urls} if files and len(urls) > 1 else {},
            sizes=requests.sizes[files],
            digests={algorithm: stated[files] for algorithm, stated in requests.digests.items()},
            copy_of={},
        )
        return PlannedRows(
            index=self.index[row : row + 1],
            requests=alone,
            files=np.array([0 if files else -1], dtype=np.int64),
            errors={} if files else {0: self.errors[row]},
            texts={} if files else {0: self.texts.get(row, "")},
            notes=self.notes,
            own_keys=self.own_keys,
        )
