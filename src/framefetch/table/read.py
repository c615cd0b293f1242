"""A metadata file becomes a DataFrame."""

from __future__ import annotations

import gzip
import json
import warnings
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from framefetch.errors import PlanError
from framefetch.table.columns import MD5_NAMES, SHA256_NAMES

if TYPE_CHECKING:
    from collections.abc import Callable
    from os import PathLike

__all__ = ["query_table", "read_table"]


# A digest that happens to have no letters, or a single "e", is no number.
_TEXT_COLUMNS: dict[str, type[str]] = dict.fromkeys((*MD5_NAMES, *SHA256_NAMES), str)


def _csv(path: Path) -> pd.DataFrame:
    return _delimited(path, ",")


def _tsv(path: Path) -> pd.DataFrame:
    return _delimited(path, "\t")


def _delimited(path: Path, sep: str) -> pd.DataFrame:
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always", pd.errors.ParserWarning)
        table = pd.read_csv(path, sep=sep, low_memory=False, dtype=_TEXT_COLUMNS, index_col=False)
    if not any(issubclass(warning.category, pd.errors.ParserWarning) for warning in told):
        return table
    # Rows have more cells than the header: names of rows come first, as R writes them, or all rows end in a delimiter.
    named = pd.read_csv(path, sep=sep, low_memory=False, dtype=_TEXT_COLUMNS)
    return table if named.iloc[:, -1].isna().all() else named


def _json_lines(path: Path) -> pd.DataFrame:
    # JSON says what is text and what a number; pandas' own reader guesses again, and makes 7 of the id "007".
    with (gzip.open if path.suffix.lower() == ".gz" else open)(path, "rt", encoding="utf-8-sig") as lines:
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
    path = Path(source)
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
