"""A metadata file becomes a DataFrame."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from framefetch.errors import PlanError

if TYPE_CHECKING:
    from collections.abc import Callable
    from os import PathLike

__all__ = ["query_table", "read_table"]


def _csv(path: Path) -> pd.DataFrame:
    return pd.read_csv(path, low_memory=False)


def _tsv(path: Path) -> pd.DataFrame:
    return pd.read_csv(path, sep="\t", low_memory=False)


def _json_lines(path: Path) -> pd.DataFrame:
    # Ids and dates stay as they are written: nothing is guessed from a column's name.
    return pd.read_json(path, lines=True, convert_dates=False)


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
    if suffixes[-1:] == [".gz"]:
        suffixes.pop()
    reader = _READERS.get(suffixes[-1]) if suffixes else None
    if reader is None:
        raise PlanError(f"{path}: expected a table ending in one of {', '.join(_READERS)} (or these and .gz)")
    try:
        return reader(path)
    except FileNotFoundError as error:
        raise PlanError(f"{path}: no such file; expected a table of files to fetch") from error
    except PlanError:
        raise
    except (
        OSError,
        ValueError,
        EOFError,
        KeyError,
    ) as error:  # pandas' and arrow's parser errors are ValueErrors
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
        selected = table.query(query, engine="python")
    except Exception as error:  # a query is the user's own code: whatever it raises is theirs to read
        raise PlanError(
            f"the query {query!r} cannot be used: {error}; columns are: {', '.join(map(str, table.columns))}"
        ) from error
    if not isinstance(selected, pd.DataFrame):
        raise PlanError(f'the query {query!r} gives no rows; expected a condition such as "age_in_days > 90"')
    return selected
