"""Rows out: what would happen to each row of a table, and what did.

`Plan` and `FetchResult` keep columns over the distinct files and make a DataFrame on the table's own index when one
is asked for; rows that share a file share what became of it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from framefetch.errors import FetchFailed
from framefetch.models import Status
from framefetch.table.ledger import CODES, LEVELS, STATUSES, Ledger
from framefetch.table.plan import label_text
from framefetch.urls import redact

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    import pandas as pd

    from framefetch.errors import FramefetchError
    from framefetch.table.planned import PlannedRows

__all__ = ["FetchResult", "Plan", "RunFigures"]

#: Rows named in an exception's message; the exception holds them all.
NAMED_FAILURES = 10
#: Characters of a URL that a message shows.
SHOWN_URL = 100


def _taken(values: np.ndarray[Any, Any], files: np.ndarray[Any, Any], missing: object) -> np.ndarray[Any, Any]:
    """Return the value of each row's file; `missing` for rows that have none."""
    if not len(values):
        return np.full(len(files), missing, dtype=object if missing is None else values.dtype)
    taken: np.ndarray[Any, Any] = values[files]
    if (files < 0).any():
        taken[files < 0] = missing
    return taken


def _index(rows: PlannedRows) -> pd.Index:
    """Return the table's own index, which pandas would take for another one where two of its levels have one name."""
    import pandas as pd

    return rows.index if isinstance(rows.index, pd.Index) else pd.Index(rows.index)


def _urls(rows: PlannedRows) -> np.ndarray[Any, Any]:
    """Return each row's URL without secrets; for an invalid row what stood in its cell."""
    shown = np.array([redact(url) for url in rows.requests.urls], dtype=object)
    urls = _taken(shown, rows.files, None)
    for position, text in rows.texts.items():
        urls[position] = text
    for position, url in rows.aliases.items():
        urls[position] = redact(url)
    return urls


def _errors(
    rows: PlannedRows, of_files: dict[int, tuple[str, str]], index: pd.Index
) -> tuple[pd.Series[str], pd.Series[str]]:
    """Return each row's error class and message, missing where it has none."""
    if not of_files and not rows.errors:
        nothing = _words([None], np.zeros(len(rows.files), dtype=np.uint8), index)
        return nothing, nothing
    kinds = np.full(len(rows.files), None, dtype=object)
    messages = np.full(len(rows.files), None, dtype=object)
    if of_files:
        for position in np.flatnonzero(np.isin(rows.files, list(of_files))).tolist():
            kinds[position], messages[position] = of_files[rows.files[position]]
    for position, error in rows.errors.items():
        kinds[position], messages[position] = type(error).__name__, str(error)
    return _texts(kinds, index), _texts(messages, index)


def _texts(values: np.ndarray[Any, Any], index: pd.Index) -> pd.Series[str]:
    """Return a column of texts, of the type that pandas has for them, whatever is in it: all, some, none, no rows.

    That type cannot hold what is no UTF-8, such as the name of a folder may be; then it is a column of objects.
    """
    import pandas as pd

    try:
        return pd.Series(values, index=index, dtype=pd.Series([""]).dtype)
    except UnicodeEncodeError:
        return pd.Series(values, index=index, dtype=object)


def _words(words: Sequence[str | None], codes: np.ndarray[Any, Any], index: pd.Index) -> pd.Series[str]:
    """Return a column of texts of which there are few, by their numbers: pandas need not look at each cell."""
    import pandas as pd

    of_each = pd.Series(list(words), dtype=pd.Series([""]).dtype).array.take(codes.astype(np.intp))
    return pd.Series(of_each, index=index)


def _shortened(url: str) -> str:
    """Return a URL as a line for people shows it: of a long one the beginning, which names the host, and the end."""
    half = SHOWN_URL // 2
    return url if len(url) <= SHOWN_URL else f"{url[:half]}…{url[1 - half :]}"


def _html(title: str, figures: dict[str, Any], frame: pd.DataFrame) -> str:
    cells = "".join(f"<td><b>{value}</b> {name}</td>" for name, value in figures.items() if value is not None)
    shown: Callable[..., Any] = frame.head(20).to_html
    more = f"<p>… and {len(frame) - 20:,} more rows in <code>.frame</code></p>" if len(frame) > 20 else ""
    return f"<div><p><b>{title}</b></p><table><tr>{cells}</tr></table>{shown(max_cols=12, notebook=True)}{more}</div>"


@dataclass(frozen=True, repr=False)
class Plan:
    """What would happen; nothing has been sent.

    Attributes
    ----------
    notes : tuple of str
        Which columns were found by name, and what is hardly meant.

    Examples
    --------
    >>> plan = cache.plan(cache.dataframe.head(3))  # doctest: +SKIP
    >>> plan.summary()["to_fetch"]  # doctest: +SKIP
    3
    """

    rows: PlannedRows
    held: np.ndarray[Any, np.dtype[np.bool_]]
    free_space: int
    blocked: Mapping[int, FramefetchError] = field(default_factory=dict)

    @property
    def notes(self) -> tuple[str, ...]:
        """Which columns were found by their well-known names."""
        return self.rows.notes

    @cached_property
    def used(self) -> np.ndarray[Any, np.dtype[np.bool_]]:
        """For each file whether a valid row asks for it."""
        used = np.zeros(len(self.held), dtype=bool)
        used[self.rows.files[self.rows.files >= 0]] = True
        return used

    @cached_property
    def to_fetch(self) -> np.ndarray[Any, np.dtype[np.bool_]]:
        """For each file whether it would be fetched."""
        to_fetch: np.ndarray[Any, np.dtype[np.bool_]] = self.used & ~self.held
        to_fetch[list(self.blocked)] = False
        return to_fetch

    @property
    def frame(self) -> pd.DataFrame:
        """One row for each row of the table, on its index: status, url, path, size, error.

        ``status`` is ``to_fetch``, ``held``, ``failed`` (something stands at its path that is not replaced) or
        ``invalid``; ``path`` is relative to the cache; ``size`` is in bytes, missing where the table states none. Types
        are as in `FetchResult.frame`.
        """
        import pandas as pd

        rows, index = self.rows, _index(self.rows)
        codes = np.where(self.held, CODES[Status.HELD], CODES[Status.TO_FETCH])
        codes[list(self.blocked)] = CODES[Status.FAILED]
        status = _taken(codes, rows.files, CODES[Status.INVALID])
        reasons = {file: (type(error).__name__, str(error)) for file, error in self.blocked.items()}
        paths = np.array([rows.requests.path(file) for file in range(len(rows.requests))], dtype=object)
        sizes = _taken(rows.requests.sizes, rows.files, -1)
        return pd.DataFrame(
            {
                "status": _words(STATUSES, status, index),
                "url": _texts(_urls(rows), index),
                "path": _texts(_taken(paths, rows.files, None), index),
                "size": pd.Series(sizes, dtype="Int64").mask(sizes < 0).array,
                "error": _errors(rows, reasons, index)[1],
            },
            index=index,
        )

    def summary(self) -> dict[str, int]:
        """Return figures: rows and distinct files, rows by status, bytes to come as far as they are known.

        Returns
        -------
        dict
            ``rows``, ``files`` (distinct), ``to_fetch``, ``held``, ``failed``, ``invalid`` (rows each), ``bytes`` (of
            the files to fetch, as stated), ``unknown_sizes`` (files to fetch of unstated size), ``free_space`` (bytes).
        """
        rows = self.rows
        expected, unknown = rows.requests.total_bytes(self.to_fetch)
        to_fetch, held = (int(_taken(each, rows.files, missing=False).sum()) for each in (self.to_fetch, self.held))
        return {
            "rows": len(rows.files),
            "files": int(self.used.sum()),
            "to_fetch": to_fetch,
            "held": held,
            "failed": len(rows.files) - to_fetch - held - len(rows.errors),
            "invalid": len(rows.errors),
            "bytes": expected,
            "unknown_sizes": unknown,
            "free_space": self.free_space,
        }

    def __repr__(self) -> str:
        """Return the figures that matter on one line."""
        return f"Plan({', '.join(f'{name}={value}' for name, value in self.summary().items() if value)})"

    def _repr_html_(self) -> str:
        return _html("framefetch plan", self.summary(), self.frame)


@dataclass(frozen=True, slots=True)
class RunFigures:
    """What a run cost: bytes of bodies received, HTTP requests sent, seconds from start to end."""

    bytes: int = 0
    requests: int = 0
    seconds: float = 0.0
    interrupted: bool = False


class FetchResult:
    """What became of each row.

    Attributes
    ----------
    frame : DataFrame
        On the index of the table that was asked for, one row for each of its rows.
    ok : Series of bool
        Whether the row's file is held: ``df[~result.ok]`` is what to fetch again.
    paths : Series of str
        Absolute paths of the files that are held, missing elsewhere.
    failed : DataFrame
        The failed and invalid rows of `frame`.

    Examples
    --------
    >>> result = await cache.fetch_all(df)  # doctest: +SKIP
    >>> again = await cache.fetch_all(df[~result.ok])  # doctest: +SKIP
    """

    def __init__(self, rows: PlannedRows, ledger: Ledger, root: str, figures: RunFigures) -> None:
        self._rows = rows
        self._ledger = ledger
        self._root = root
        self.figures = figures

    @cached_property
    def _status(self) -> np.ndarray[Any, Any]:
        codes = _taken(self._ledger.status, self._rows.files, CODES[Status.INVALID])
        return codes.astype(np.uint8)

    @cached_property
    def _ok(self) -> np.ndarray[Any, np.dtype[np.bool_]]:
        return np.asarray(np.isin(self._status, (CODES[Status.CACHED], CODES[Status.DOWNLOADED])))

    @cached_property
    def frame(self) -> pd.DataFrame:
        """One row for each row of the table, on its index.

        Columns: ``status`` (cached, downloaded, failed, invalid, cancelled), ``path`` (absolute; missing where no
        file is held), ``url`` (without secrets), ``version``, ``md5``, ``size`` (bytes), ``verified`` (digest,
        length, none), ``attempts``, ``seconds``, ``error_type``, ``error``.

        Their types are always the same: ``Int64`` for sizes, ``int64`` for attempts, ``float64`` for seconds, and for
        all others what pandas has for texts (``str``, and before pandas 3 ``object``).
        """
        import pandas as pd

        ledger, files, index = self._ledger, self._rows.files, _index(self._rows)
        kinds, messages = _errors(self._rows, ledger.errors, index)
        sizes = _taken(ledger.size, files, -1).astype(np.int64)
        levels = _taken(ledger.verified, files, len(LEVELS))
        return pd.DataFrame(
            {
                "status": _words(STATUSES, self._status, index),
                "path": _texts(self._paths(), index),
                "url": _texts(_urls(self._rows), index),
                "version": self._rows.requests.version,
                "md5": _texts(_taken(ledger.md5, files, None), index),
                "size": pd.Series(sizes, dtype="Int64").mask(sizes < 0).array,
                "verified": _words([*LEVELS, None], levels, index),
                "attempts": _taken(ledger.attempts, files, 0).astype(np.int64),
                "seconds": _taken(ledger.seconds, files, 0.0).astype(np.float64),
                "error_type": kinds,
                "error": messages,
            },
            index=index,
        )

    def _paths(self) -> np.ndarray[Any, Any]:
        paths = np.full(len(self._rows.files), None, dtype=object)
        prefix = f"{self._root}/{self._rows.requests.version}/"
        names: Sequence[str] = self._rows.requests.names
        held = np.flatnonzero(self._ok)
        places = self._ledger.places
        paths[held] = [
            f"{self._root}/{places[file]}" if file in places else prefix + names[file]
            for file in self._rows.files[held].tolist()
        ]
        return paths

    @property
    def ok(self) -> pd.Series[bool]:
        """Whether each row's file is held, on the table's index."""
        import pandas as pd

        return pd.Series(self._ok, index=self._rows.index, name="ok")

    @property
    def paths(self) -> pd.Series[str]:
        """Absolute path of each row's file, missing where it is not held."""
        return _texts(self._paths(), _index(self._rows)).rename("path")

    @property
    def failed(self) -> pd.DataFrame:
        """The failed and invalid rows of `frame`."""
        return self.frame[np.isin(self._status, (CODES[Status.FAILED], CODES[Status.INVALID]))]

    def messages(self, limit: int, *, typed: bool = False) -> list[str]:
        """Return which rows have no file, the first few that failed or are invalid, and why; also by class of error."""
        failed = np.flatnonzero(np.isin(self._status, (CODES[Status.FAILED], CODES[Status.INVALID])))[:limit]
        rows, found = self._rows, []
        for row in failed.tolist():
            if row in rows.errors:
                found.append(str(rows.errors[row]))  # which names row and column
                continue
            file = int(rows.files[row])
            kind, reason = self._ledger.errors[file]
            url = _shortened(redact(rows.aliases.get(row) or rows.requests.urls[file]))
            found.append(f"row {label_text(rows.index[row])}, {url}: {f'{kind}: ' if typed else ''}{reason}")
        return found

    def by_url(self) -> dict[str, Path]:
        """Return where each held file is, by the URL of its row: completed with `base_url`, the first of several."""
        requests, files = self._rows.requests, self._rows.files
        held = np.flatnonzero(self._ok)
        paths = self._paths()
        aliases = self._rows.aliases
        return {aliases.get(row) or requests.urls[files[row]]: Path(paths[row]) for row in held.tolist()}

    def summary(self) -> dict[str, Any]:
        """Return figures of the run.

        Returns
        -------
        dict
            ``rows``, ``files`` (distinct), ``downloaded``, ``cached``, ``failed``, ``invalid``, ``cancelled`` (rows
            each), ``bytes`` (received), ``requests`` (HTTP requests sent), ``seconds``.
        """
        files = self._rows.files
        counts = np.bincount(self._status, minlength=len(STATUSES))
        return {
            "rows": len(files),
            "files": int(np.count_nonzero(np.bincount(files[files >= 0]))),  # np.unique imports numpy.ma first
            **{
                status.value: int(counts[CODES[status]])
                for status in (
                    Status.DOWNLOADED,
                    Status.CACHED,
                    Status.FAILED,
                    Status.INVALID,
                    Status.CANCELLED,
                )
            },
            "bytes": self.figures.bytes,
            "requests": self.figures.requests,
            "seconds": round(self.figures.seconds, 3),
        }

    def raise_for_failures(self) -> None:
        """Raise where rows failed or were invalid.

        Raises
        ------
        FetchFailed
            Naming the first of them; its attribute ``frame`` holds all.
        """
        failed = self.failed
        if failed.empty:
            return
        lines = [f"  {message}" for message in self.messages(NAMED_FAILURES, typed=True)]
        if len(failed) > NAMED_FAILURES:
            lines.append(f"  … and {len(failed) - NAMED_FAILURES} more")
        head = f"{len(failed)} of {len(self._rows.files)} rows could not be fetched:"
        raise FetchFailed("\n".join([head, *lines]), frame=failed)

    def __repr__(self) -> str:
        """Return the figures that matter on one line."""
        figures = ", ".join(f"{name}={value}" for name, value in self.summary().items() if value)
        return f"FetchResult({figures})"

    def _repr_html_(self) -> str:
        return _html("framefetch result", self.summary(), self.frame)
