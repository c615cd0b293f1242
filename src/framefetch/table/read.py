"""A metadata file becomes a DataFrame."""

from __future__ import annotations

import csv
import gzip
import json
import warnings
import zlib
from os import PathLike
from os.path import expanduser
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO, cast

import pandas as pd

from framefetch.errors import PlanError
from framefetch.table.columns import MD5_NAMES, SHA256_NAMES
from framefetch.urls import redact

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["query_table", "read_table"]


# A digest that happens to have no letters, or a single "e", is no number.
_TEXT_COLUMNS: dict[str, type[str]] = dict.fromkeys((*MD5_NAMES, *SHA256_NAMES), str)


def _csv(path: Path) -> pd.DataFrame:
    return _delimited(path, ",")


def _tsv(path: Path) -> pd.DataFrame:
    return _delimited(path, "\t")


def _delimited(path: Path, sep: str) -> pd.DataFrame:
    table = pd.read_csv(path, sep=sep, low_memory=False, dtype=_TEXT_COLUMNS)
    # An index of its own: rows have more cells than the header. The names of rows come first, as R writes them, or rows
    # end in delimiters, and what was taken for names is the first column.
    if table.index.equals(pd.RangeIndex(len(table))) or not _end_in_nothing(path, sep):
        return table
    if table.index.map(str).tolist() == [str(number) for number in range(1, len(table) + 1)]:
        raise PlanError(
            f"{path}: each row has one cell more than the header, the first is 1, 2, 3 … and the last is empty: "
            "names of rows, or a delimiter too many? Give the first column a name, or take the last delimiter away"
        )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", pd.errors.ParserWarning)  # what is lost is nothing
        return pd.read_csv(path, sep=sep, low_memory=False, dtype=_TEXT_COLUMNS, index_col=False)


def _end_in_nothing(path: Path, sep: str) -> bool:
    """Return whether all cells that rows have more than the header are no text at all."""
    try:
        with _opened(path) as lines:
            rows = csv.reader(lines, delimiter=sep)
            width = len(next(rows, []))
            return not any(any(row[width:]) for row in rows)
    except csv.Error:
        return False  # such as a cell that is too long for it


def _opened(path: Path) -> TextIO:
    opener = gzip.open if path.suffix.lower() == ".gz" else open
    return cast("TextIO", opener(path, "rt", encoding="utf-8-sig", newline=""))


def _json_lines(path: Path) -> pd.DataFrame:
    # JSON says what is text and what a number; pandas' own reader guesses again, and makes 7 of the id "007".
    with _opened(path) as lines:
        return pd.DataFrame([_json_row(number, line) for number, line in enumerate(lines, 1) if line.strip()])


def _json_row(number: int, line: str) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except ValueError as error:
        raise ValueError(f"line {number}: {error}") from error
    if not isinstance(row, dict):
        raise ValueError(f"line {number}: expected an object, got {line.strip()[:40]}")  # noqa: TRY004 - of the data
    return row


def _parquet(path: Path) -> pd.DataFrame:
    try:
        return pd.read_parquet(path)
    except ImportError as error:
        raise PlanError(
            f"{path}: reading Parquet needs pyarrow; install it with: pip install 'framefetch[parquet]'"
        ) from error


_READERS: dict[str, Callable[[Path], pd.DataFrame]] = {
    ".csv": _csv,
    ".tsv": _tsv,
    ".tab": _tsv,
    ".txt": _tsv,
    ".jsonl": _json_lines,
    ".ndjson": _json_lines,
    ".parquet": _parquet,
    ".pqt": _parquet,
}


def read_table(source: str | PathLike[str] | pd.DataFrame) -> pd.DataFrame:
    """Read a table.

    Parameters
    ----------
    source : path or DataFrame
        CSV, TSV (``.tsv``, ``.tab``, ``.txt``), JSON lines (``.jsonl``, ``.ndjson``) or Parquet (``.parquet``,
        ``.pqt``); the text formats also gzipped (``.gz``). A DataFrame is returned as it is.

    Returns
    -------
    DataFrame
        One row a file.

    Raises
    ------
    PlanError
        Where the file does not exist, has another suffix, or cannot be read as its suffix says.
    """
    if isinstance(source, pd.DataFrame):
        return source
    if not isinstance(source, str | PathLike):
        raise PlanError(f"metadata_file: expected a path or a DataFrame, got {type(source).__name__}")
    if "://" in str(source):
        raise PlanError(
            f"{redact(str(source))}: expected a file of this machine; download it, or read it with pandas and pass the "
            "DataFrame"
        )
    path = Path(expanduser(source))
    if str(path).startswith("~"):
        path = path.absolute()  # a name like any other by now, which pandas would take for a home
    suffixes = [suffix.lower() for suffix in path.suffixes]
    if suffixes[-1:] == [".gz"] and suffixes[-2:-1] not in ([".parquet"], [".pqt"]):  # which is compressed by itself
        suffixes.pop()
    reader = _READERS.get(suffixes[-1]) if suffixes else None
    if reader is None:
        raise PlanError(f"{path}: expected a table ending in one of {', '.join(_READERS)} (text also with .gz)")
    try:
        return reader(path)
    except FileNotFoundError as error:
        raise PlanError(f"{path}: no such file; expected a table of files to fetch") from error
    except PlanError:
        raise
    except (OSError, ValueError, EOFError, KeyError, zlib.error) as error:  # parser errors are ValueErrors
        reason = " ".join(str(error).split())
        if isinstance(error, UnicodeError):
            reason += "; save it as UTF-8, or read it with pandas and its encoding=..., and pass the DataFrame"
        raise PlanError(f"{path}: cannot be read as {suffixes[-1]}: {reason}") from error


def query_table(table: pd.DataFrame, query: str) -> pd.DataFrame:
    """Return the rows for which a pandas query holds.

    Raises
    ------
    PlanError
        Where the query cannot be read, names a column that is not there, or is no condition.
    """
    try:
        # Not `query`: it would take the values of a column that is no condition for labels of rows.
        holds = table.eval(query, engine="python")
    except Exception as error:  # a query is the user's own code: whatever it raises is theirs to read
        raise PlanError(
            f"the query {query!r} cannot be used: {error}; columns are: {', '.join(map(str, table.columns))}"
        ) from error
    if not isinstance(holds, pd.Series) or not (pd.api.types.is_bool_dtype(holds) or table.empty):
        raise PlanError(f'the query {query!r} is no condition; expected one such as "age_in_days > 90"')
    return table if table.empty else table[holds]
