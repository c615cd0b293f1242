"""Templates that make a URL or a path of one row: ``"http://host/download/{file_id}"``.

A template is parsed once and applied to whole columns. What a field gives is quoted by where it stands: a path may
hold ``/``, a query parameter may not. ``{column!q}`` quotes ``/`` as well, so that a genotype with slashes becomes
one folder and not three.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from string import Formatter
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import numpy as np
import pandas as pd

from framefetch.errors import PlanError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

__all__ = ["Template", "column_values", "is_missing", "texts"]

_PLAIN = re.compile(r"[A-Za-z0-9._~-]*")
_IN_PATH = "/:@!$&'()*+,;=~"


def is_missing(value: object) -> bool:
    """Return whether a cell is empty: None, NaN, NaT, NA or blank text."""
    if value is None or value is pd.NA or value is pd.NaT:
        return True
    if isinstance(value, float):
        return math.isnan(value)
    return isinstance(value, str) and not value.strip()


def _text(value: object) -> str | None:
    if type(value) is str:
        return value if value.strip() else None
    if is_missing(value):
        return None
    if isinstance(value, float | np.floating) and float(value).is_integer():
        return str(int(value))
    return str(value)


def texts(values: Sequence[Any] | np.ndarray[Any, Any]) -> list[str | None]:
    """Return cells as text, whole floats as integers, missing ones as None.

    Examples
    --------
    >>> texts(np.array([1085755199.0, float("nan")]))
    ['1085755199', None]
    """
    if isinstance(values, np.ndarray) and values.dtype.kind in "iu":
        return list(map(str, values.tolist()))
    cells = values.tolist() if isinstance(values, np.ndarray) and values.dtype.kind == "f" else values
    return [_text(value) for value in cells]


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


def _quote_path(text: str) -> str:
    return text if _PLAIN.fullmatch(text) else quote(text, safe=_IN_PATH)


def _quote_all(text: str) -> str:
    return text if _PLAIN.fullmatch(text) else quote(text, safe="")


def _quote_first(text: str) -> str:
    return text if "://" in text else _quote_path(text)


def _escape_slash(text: str) -> str:
    return text.replace("/", "%2F")


def _as_it_is(text: str) -> str:
    return text


@dataclass(frozen=True, slots=True)
class _Field:
    column: str
    spec: str
    quote: Callable[[str], str]

    def apply(self, values: np.ndarray[Any, Any]) -> list[str | None]:
        if not self.spec:
            plain = texts(values)
        else:
            plain = [None if is_missing(value) else self._format(value) for value in values.tolist()]
        if self.quote is _as_it_is:
            return plain
        return [None if text is None else self.quote(text) for text in plain]

    def _format(self, value: object) -> str:
        whole = isinstance(value, float) and value.is_integer() and self.spec[-1] in "bcdoxXn"
        try:
            return format(int(value) if whole and isinstance(value, float) else value, self.spec)
        except (ValueError, TypeError) as error:
            raise PlanError(f"{{{self.column}:{self.spec}}} cannot format {value!r}: {error}") from error


class Template:
    """A parsed template.

    Parameters
    ----------
    text : str
        The template; ``{column}`` stands for a cell of that column or index level, ``{{`` for a brace.
    for_url : bool
        Whether fields are quoted as parts of a URL; else only ``!q`` quotes.

    Raises
    ------
    PlanError
        Where the text is no template.
    """

    def __init__(self, text: str, *, for_url: bool) -> None:
        self.text = text
        self._pattern, self._fields = _parse(text, for_url=for_url)
        if not self._fields:
            raise PlanError(f"the template {text!r} names no column; expected one such as '{{file_id}}'")

    def check(self, table: pd.DataFrame) -> None:
        """Raise `PlanError` where the template names a column that the table lacks."""
        for field in self._fields:
            if column_values(table.iloc[:0], field.column) is None:
                columns = ", ".join(map(str, table.columns))
                raise PlanError(
                    f"the template {self.text!r} names the column {field.column!r}; the table has: {columns}"
                )

    def apply(self, table: pd.DataFrame) -> tuple[list[str | None], dict[int, str]]:
        """Return the text for each row, None where a cell is missing, and for those rows the column's name."""
        columns = [
            field.apply(values) for field in self._fields if (values := column_values(table, field.column)) is not None
        ]
        missing: dict[int, str] = {}
        for field, column in zip(self._fields, columns, strict=True):
            if None in column:
                for position, text in enumerate(column):
                    if text is None:
                        missing.setdefault(position, field.column)
        made: list[str | None] = list(map(self._pattern.format, *columns))
        for position in missing:
            made[position] = None
        return made, missing


def _parse(text: str, *, for_url: bool) -> tuple[str, list[_Field]]:
    pattern, fields = "", []
    try:
        pieces = list(Formatter().parse(text))
    except ValueError as error:
        raise PlanError(f"the template {text!r} cannot be read: {error}; write {{{{ for a brace") from error
    for literal, column, spec, conversion in pieces:
        pattern += literal.replace("{", "{{").replace("}", "}}")
        if column is None:
            continue
        if not column or conversion not in (None, "q"):
            raise PlanError(
                f"the template {text!r} has a field without a column's name, or with !{conversion}; only !q is known"
            )
        fields.append(_Field(column, spec or "", _quoting(pattern, for_url=for_url, whole=conversion == "q")))
        pattern += "{}"
    return pattern, fields


def _quoting(before: str, *, for_url: bool, whole: bool) -> Callable[[str], str]:
    if not for_url:
        return _escape_slash if whole else _as_it_is
    if whole or "?" in before:
        return _quote_all
    return _quote_path if before else _quote_first
