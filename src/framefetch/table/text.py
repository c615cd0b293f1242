"""A CSV or TSV file read as text, for a mirror of all its rows: the same cells that pandas would give, without pandas.

Only what is beyond doubt is read here: plain UTF-8, a header of distinct names, rows of its length, and in the columns
that are asked for either text that is no number, or whole numbers. Whatever else a file holds makes `read_text_rows`
return None, and pandas reads it. So there is one meaning of a table, pandas' own, and a quick way to the common part.
"""

from __future__ import annotations

import csv
import gzip
import os
import re
import sys
import zlib
from itertools import chain, islice
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from framefetch.table.columns import MD5_NAMES, SHA256_NAMES, SIZE_NAMES, URL_NAMES
from framefetch.table.lines import all_match
from framefetch.table.template import Template

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from os import PathLike

    import pandas as pd

    from framefetch.options import TableOptions

__all__ = ["TextRows", "read_rows", "read_text_rows"]

#: What pandas takes for nothing (the default of its parameter ``na_values``).
_NOTHING: Final = frozenset(
    (
        "", "#N/A", "#N/A N/A", "#NA", "-1.#IND", "-1.#QNAN", "-NaN", "-nan", "1.#IND", "1.#QNAN", "<NA>", "N/A",
        "NA", "NULL", "NaN", "None", "n/a", "nan", "null",
    )
)  # fmt: skip
#: Rows read at a time.
BLOCK: Final = 4096
#: Many whole numbers, each ended by a line feed.
_WHOLE = re.compile(r"(?:-?[0-9]{1,15}+\n)*+")
_WHOLE_FLOAT = re.compile(r"-?[0-9]{1,15}(?:\.0)?")
#: A cell with one of these is no number, no truth value and nothing else that a reader would take for more than text.
_TEXT = re.compile(r"[/:%_@bcdghjkmoqvwzBCDGHJKMOQVWZ]")
#: Columns that are text whatever they hold, see `framefetch.table.read`.
_ALWAYS_TEXT: Final = frozenset((*MD5_NAMES, *SHA256_NAMES))
_DELIMITERS: Final = {".csv": ",", ".tsv": "\t", ".tab": "\t", ".txt": "\t"}


class TextRows:
    """Rows of a text file; only the columns that were asked for are kept.

    Parameters
    ----------
    names : sequence of str
        All columns of the file.
    columns : mapping of str to array
        Those that are kept: float64 or int64 where all cells are whole numbers, else objects (str, or NaN).
    first, count : int
        The position of the first row, and how many there are.
    """

    def __init__(self, names: Sequence[str], columns: dict[str, np.ndarray[Any, Any]], first: int, count: int) -> None:
        self.names = names
        self._columns = columns
        self._first = first
        self._count = count

    @property
    def index(self) -> range:
        """The positions of the rows, as pandas would number them."""
        return range(self._first, self._first + self._count)

    def __len__(self) -> int:
        """Return the number of rows."""
        return self._count

    def values(self, column: str) -> np.ndarray[Any, Any] | None:
        """Return a column's cells; None where there is no such column."""
        found = self._columns.get(column)
        if found is None:
            return np.empty(0, dtype=object) if not self._count and column in self.names else None
        return found

    def block(self, start: int, stop: int) -> TextRows:
        """Return some consecutive rows."""
        stop = min(stop, self._count)
        columns = {name: cells[start:stop] for name, cells in self._columns.items()}
        return TextRows(self.names, columns, self._first + start, max(0, stop - start))


def read_text_rows(path: str | PathLike[str], options: TableOptions, limit: int | None = None) -> TextRows | None:
    """Read what a mirror needs of a text table.

    Parameters
    ----------
    path : path
        CSV or TSV, also gzipped.
    options : TableOptions
        Which columns are named there, also in templates.
    limit : int, optional
        Only so many rows.

    Returns
    -------
    TextRows or None
        None where only pandas can say what the file means, or why it cannot be read.
    """
    path = os.path.expanduser(path)
    name = os.path.basename(path).lower()
    delimiter = _DELIMITERS.get(os.path.splitext(name.removesuffix(".gz"))[1])
    if delimiter is None:
        return None
    templates = (options.url_template, options.path_template)
    wanted = {
        *URL_NAMES, *MD5_NAMES, *SHA256_NAMES,
        *(column for text in templates if text is not None for column in Template(text, for_url=True).columns),
        options.url_column, options.key_column, options.md5_column, options.sha256_column, options.digest_column,
    }  # fmt: skip
    sizes = {*SIZE_NAMES, options.size_column} - wanted
    try:
        with (gzip.open if name.endswith(".gz") else open)(path, "rt", encoding="utf-8", newline="") as file:
            return _read(file, delimiter, wanted, sizes, limit)
    except (OSError, ValueError, EOFError, zlib.error, csv.Error, _Unclear):
        return None  # pandas tells what is wrong, in its own words


class _Unclear(Exception):
    """Only pandas can say what this means."""


def _read(
    file: Iterator[str], delimiter: str, wanted: set[str | None], sizes: set[str | None], limit: int | None
) -> TextRows:
    names = next(csv.reader(file, delimiter=delimiter, strict=True), [])
    plain = all(name and name == name.strip() for name in names) and len(set(names)) == len(names)
    if not names or not plain or names[0].startswith("\ufeff"):
        raise _Unclear
    width = len(names)
    kept = [(at, name, [""] * 0) for at, name in enumerate(names) if name in wanted or name in sizes]
    count = 0
    for cells in _blocks(file, delimiter, width, limit):
        if width == 1 and not all(map(str.strip, cells)):
            raise _Unclear
        count += len(cells) // width
        for at, _, column in kept:
            column.extend(cells[at::width])
    columns = {name: _typed(name, column) for _, name, column in kept}
    # pandas types a column by all of its rows: 007 is a number, until a row that was not read is none. A size is one
    # whatever it is written as.
    if count == limit and any(column.dtype != object for name, column in columns.items() if name not in sizes):
        raise _Unclear
    return TextRows(names, columns, 0, count)


def _blocks(file: Iterator[str], delimiter: str, width: int, limit: int | None) -> Iterator[Sequence[str]]:
    """Yield the cells of many rows, row after row: lines that quote nothing are only cut, in a third of the time."""
    left = sys.maxsize if limit is None else limit
    while left and (lines := list(islice(file, min(left, BLOCK)))):
        text = "".join(lines).replace("\r\n", "\n")
        if '"' in text or "\r" in text:
            yield from _quoted_blocks(csv.reader(chain(lines, file), delimiter=delimiter, strict=True), width, left)
            return
        if rows := list(filter(None, text.split("\n"))):  # a blank line is none
            if {row.count(delimiter) for row in rows} != {width - 1}:
                raise _Unclear
            left -= len(rows)
            yield delimiter.join(rows).split(delimiter)


def _quoted_blocks(lines: Iterator[list[str]], width: int, limit: int) -> Iterator[Sequence[str]]:
    rows = islice(filter(None, lines), limit)
    while block := list(islice(rows, BLOCK)):
        if set(map(len, block)) != {width}:
            raise _Unclear
        yield list(chain.from_iterable(block))


def _typed(name: str, cells: list[str]) -> np.ndarray[Any, Any]:
    """Return a column as pandas would type it."""
    if any("\0" in "".join(cells[at : at + 4096]) for at in range(0, len(cells), 4096)):
        raise _Unclear
    if name not in _ALWAYS_TEXT and cells and _are_whole(cells):
        return np.array(list(map(int, cells)), dtype=np.int64)
    if name in _ALWAYS_TEXT or any(_TEXT.search(cell) and cell not in _NOTHING for cell in cells):
        return _objects(cells)
    stated = [cell for cell in cells if cell not in _NOTHING]
    if stated and all(map(_WHOLE_FLOAT.fullmatch, stated)):
        nothing = float("nan")
        return np.array([nothing if cell in _NOTHING else float(cell) for cell in cells], dtype=np.float64)
    if stated:
        raise _Unclear
    return np.full(len(cells), float("nan"))


def _are_whole(cells: Sequence[str]) -> bool:
    """Return whether all cells are whole numbers, by one look at many of them."""
    return all(all_match(_WHOLE, cells[start : start + BLOCK]) for start in range(0, len(cells), BLOCK))


def _objects(cells: list[str]) -> np.ndarray[Any, Any]:
    column = np.empty(len(cells), dtype=object)
    nothing = float("nan")
    column[:] = [nothing if cell in _NOTHING else cell for cell in cells]
    return column


def read_rows(
    source: str | PathLike[str], options: TableOptions, where: str | None = None, limit: int | None = None
) -> TextRows | pd.DataFrame:
    """Read the rows of a table: as text where nothing but their addresses and digests is needed, else with pandas.

    Parameters
    ----------
    source : path
        The table.
    options : TableOptions
        Which column says what.
    where : str, optional
        A pandas query: only the rows for which it holds.
    limit : int, optional
        Only the first so many of them.

    Raises
    ------
    PlanError
        Where the table cannot be read, or the query cannot be used.
    """
    if where is None:
        rows = read_text_rows(source, options, limit)
        if rows is not None:
            return rows
    from framefetch.table.read import query_table, read_table

    table = read_table(source)
    table = table if where is None else query_table(table, where)
    return table if limit is None else table.head(limit)
