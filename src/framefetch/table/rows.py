"""The rows of a table as planning sees them: columns of cells, whatever holds them.

A DataFrame is one holder. A CSV file read as text is the other: importing pandas takes longer than fetching a few
thousand small files, and a mirror of a whole CSV needs nothing of it.
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from framefetch.errors import PlanError

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pandas as pd

__all__ = ["FrameRows", "Rows", "column_values", "distinct"]


class Rows(Protocol):
    """Rows of cells."""

    @property
    def names(self) -> Sequence[Any]:
        """The names of the columns."""
        ...

    @property
    def index(self) -> Any:
        """What a result will have as its index: anything that pandas takes for one."""
        ...

    def __len__(self) -> int:
        """Return the number of rows."""
        ...

    def values(self, column: str) -> np.ndarray[Any, Any] | None:
        """Return a column's cells; None where there is no such column.

        Raises
        ------
        PlanError
            Where several columns have that name.
        """
        ...

    def block(self, start: int, stop: int) -> Rows:
        """Return some consecutive rows."""
        ...


class FrameRows:
    """The rows of a DataFrame.

    Parameters
    ----------
    table : DataFrame
        One row a file.

    Raises
    ------
    PlanError
        Where it is none, or its columns have several levels.
    """

    def __init__(self, table: pd.DataFrame) -> None:
        if not hasattr(table, "columns"):
            raise PlanError(f"expected a DataFrame, got {type(table).__name__}")
        if table.columns.nlevels > 1:
            raise PlanError(
                f"expected columns of one level, got {table.columns.nlevels}: {', '.join(map(str, table.columns[:40]))}"
            )
        self._table = table

    @property
    def names(self) -> Sequence[Any]:
        """The names of the columns."""
        return list(self._table.columns)

    @property
    def index(self) -> Any:
        """The DataFrame's own index."""
        return self._table.index

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self._table)

    def values(self, column: str) -> np.ndarray[Any, Any] | None:
        """Return a column's cells, or those of an index level of that name; None where there is neither."""
        return column_values(self._table, column)

    def block(self, start: int, stop: int) -> FrameRows:
        """Return some consecutive rows."""
        return FrameRows(self._table.iloc[start:stop])


def distinct(table: pd.DataFrame, column: str) -> set[Any] | None:
    """Return the values of a column that are there; None where there is no such column.

    Raises
    ------
    PlanError
        Where several columns have that name, or its values cannot be told apart.
    """
    if column not in table.columns:
        return None
    column_values(table.iloc[:0], column)  # refuses several
    found = table[column].dropna()
    try:
        return set(found.unique())
    except TypeError:
        kind = next((type(value) for value in found if not isinstance(value, Hashable)), type(found.iloc[0])).__name__
        raise PlanError(f"column {column!r}: expected values that a set can hold, got {kind}") from None


def column_values(table: pd.DataFrame, column: str) -> np.ndarray[Any, Any] | None:
    """Return a column's values, or those of an index level of that name; None where there is neither."""
    if column in table.columns:
        if (count := list(table.columns).count(column)) > 1:
            raise PlanError(f"the table has {count} columns named {column!r}; expected one")
        source: pd.Series[Any] | pd.Index[Any] = table[column]
    elif column in table.index.names:
        source = table.index.get_level_values(column)
    else:
        return None
    if isinstance(source.dtype, np.dtype) and source.dtype.kind in "iuf":
        return source.to_numpy()
    return source.astype(object).to_numpy()
