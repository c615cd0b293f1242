"""Templates that make a URL or a path of one row: ``"http://host/download/{file_id}"``.

A template is parsed once and applied to whole columns. What a field gives is quoted by where it stands: a path may
hold ``/``, a query parameter may not. ``{column!q}`` quotes ``/`` as well, so that a genotype with slashes becomes
one folder and not three.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from decimal import Decimal
from string import Formatter
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import numpy as np

from framefetch.errors import InvalidRow, PlanError
from framefetch.urls import invisible_character, redact_text

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, MutableMapping

    from framefetch.table.rows import Rows

    Refused = MutableMapping[int, tuple[str, InvalidRow]]

__all__ = ["Template", "is_missing", "texts"]

_PLAIN = re.compile(r"[A-Za-z0-9._~-]*")
_IN_PATH = "/:@!$&'()*+,;=~"
#: What becomes of a missing value where a column is made text.
_NO_TEXT = frozenset(("nan", "NaT", "<NA>"))
#: pandas' own kinds of nothing, by name: who has no pandas loaded has none of them.
_PANDAS_MISSING = frozenset(("NAType", "NaTType"))
#: Format types that ask for a fraction, so that a whole float stays a float.
_FRACTION = frozenset("eEfFgG%")


def is_missing(value: object) -> bool:
    """Return whether a cell is empty: None, NaN, NaT, NA or blank text."""
    if value is None:
        return True
    if isinstance(value, str):
        return not value.strip()
    if isinstance(value, float | np.floating | Decimal):
        return math.isnan(value)
    return type(value).__name__ in _PANDAS_MISSING


def _first_inexact(kind: type[float | np.floating[Any]]) -> float:
    """Return from where on neighbouring whole numbers are the same float: 2^53 for 64 bits (IEEE 754)."""
    return 2.0 ** (np.finfo(kind).nmant + 1)


def _text(value: object) -> str | None:
    if isinstance(value, str):
        return value if value.strip() and value not in _NO_TEXT else None
    if is_missing(value):
        return None
    if isinstance(value, bytes | bytearray | list | tuple | dict | set | np.ndarray):
        raise InvalidRow(f"expected text or a number, got {type(value).__name__}")
    if isinstance(value, float | np.floating):
        if math.isinf(value):
            raise InvalidRow(f"expected text or a number, got {value}")
        if abs(float(value)) >= _first_inexact(type(value)):
            raise InvalidRow(
                f"expected a number that a float holds exactly, got {value:.0f}, which others are made, too; "
                "read the column as text, or as Int64 where cells are empty"
            )
        return str(int(value)) if float(value).is_integer() else str(float(value))
    return str(value)


def texts(column: str, values: np.ndarray[Any, Any], refused: Refused) -> list[str | None]:
    """Return a column's cells as text, whole floats as integers, missing ones as None; `refused` gets what is no text.

    Examples
    --------
    >>> texts("file_id", np.array([1085755199.0, float("nan")]), {})
    ['1085755199', None]
    """
    if values.dtype.kind in "iu":
        return list(map(str, values.tolist()))
    if values.dtype.kind != "f":
        return _each(_text, column, values, refused)
    # Nearly all floats of an id column are whole; the others are done again, one by one.
    exact = np.abs(values.astype(np.float64)) < min(_first_inexact(values.dtype.type), 2.0**53)
    whole = np.isfinite(values) & exact & (values == np.floor(values))
    made: list[str | None] = list(map(str, np.where(whole, values, 0).astype(np.int64).tolist()))
    others = np.flatnonzero(~whole).tolist()
    wrong: Refused = {}
    for position, text in zip(others, _each(_text, column, values[others], wrong), strict=True):
        made[position] = text
    refused.update((others[at], reason) for at, reason in wrong.items())
    return made


def _each(
    function: Callable[[Any], str | None], column: str, values: Iterable[Any], refused: Refused
) -> list[str | None]:
    """Return a function's value for each cell; None where the cell is refused, and the reason in `refused`."""
    try:
        return [function(value) for value in values]
    except InvalidRow:
        pass
    made: list[str | None] = []
    for position, value in enumerate(values):
        try:
            made.append(function(value))
        except InvalidRow as error:
            refused.setdefault(position, (column, error))
            made.append(None)
    return made


def _quote_path(text: str) -> str:
    return text if _PLAIN.fullmatch(text) else _quoted(text, safe=_IN_PATH)


def _quote_all(text: str) -> str:
    return text if _PLAIN.fullmatch(text) else _quoted(text, safe="")


def _quote_first(text: str) -> str:
    return text if "://" in text else _quote_path(text)


def _quoted(text: str, safe: str) -> str:
    if name := invisible_character(text):  # it would be quoted, and nobody would see why the server has no such file
        raise InvalidRow(f"expected a value for a URL, got one with {name} in it: {text!r}")
    return quote(text, safe=safe)


def _escape_slash(text: str) -> str:
    return text.replace("/", "%2F")


def _as_it_is(text: str) -> str:
    return text


@dataclass(frozen=True, slots=True)
class _Field:
    column: str
    spec: str
    quote: Callable[[str], str]

    def apply(self, values: np.ndarray[Any, Any], refused: Refused) -> list[str | None]:
        if self.spec:
            cells = values if values.dtype.kind == "f" else values.tolist()
            plain = _each(self._format, self.column, cells, refused)
        else:
            plain = texts(self.column, values, refused)
        if self.quote is _as_it_is or (not self.spec and values.dtype.kind in "iuf"):
            return plain
        return _each(lambda text: None if text is None else self.quote(text), self.column, plain, refused)

    def _format(self, value: object) -> str | None:
        if is_missing(value):
            return None
        fraction = "." in self.spec or self.spec[-1] in _FRACTION
        try:
            if not isinstance(value, float | np.floating):
                return format(value, self.spec)
            if not value.is_integer() or fraction:
                return format(float(value), self.spec)
            _text(value)  # refuses what is not exact
            return format(int(value), self.spec)
        except (ValueError, TypeError) as error:
            raise InvalidRow(
                f"expected a value that {{{self.column}:{self.spec}}} can format, got {value!r}: {error}"
            ) from None


class Template:
    """A parsed template.

    Parameters
    ----------
    text : str
        The template; ``{column}`` stands for a cell of that column or index level, ``{{`` for a brace.
    for_url : bool
        Whether fields are quoted as parts of a URL; else only ``!q`` quotes.

    Attributes
    ----------
    empty : InvalidRow
        The reason for a row that has nothing to put in; any other reason is about what it has.

    Raises
    ------
    PlanError
        Where the text is no template.
    """

    def __init__(self, text: str, *, for_url: bool) -> None:
        self._shown = f"the template {redact_text(text)!r}"
        kind = "URL template" if for_url else "path template"
        self.empty = InvalidRow(f"expected a value for the {kind}, but the cell is empty")
        self._pattern, self._fields = _parse(text, for_url=for_url)
        if not self._fields:
            raise PlanError(f"{self._shown} names no column; expected one such as '{{file_id}}'")

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns that it names."""
        return tuple(dict.fromkeys(field.column for field in self._fields))

    def check(self, rows: Rows) -> None:
        """Raise `PlanError` where the template names a column that the table lacks."""
        none = rows.block(0, 0)
        for field in self._fields:
            if none.values(field.column) is None:
                columns = ", ".join(map(str, rows.names))
                raise PlanError(f"{self._shown} names the column {field.column!r}; the table has: {columns}")

    def apply(self, rows: Rows) -> tuple[list[str | None], dict[int, tuple[str, InvalidRow]]]:
        """Return the text for each row, None where there is none, and for those rows a column and the reason."""
        refused: dict[int, tuple[str, InvalidRow]] = {}
        columns = []
        for field in self._fields:
            values = rows.values(field.column)
            assert values is not None
            column = field.apply(values, refused)
            if None in column:
                for position, text in enumerate(column):
                    if text is None:
                        refused.setdefault(position, (field.column, self.empty))
            columns.append(column)
        made: list[str | None] = list(map(self._pattern.format, *columns))
        for position in refused:
            made[position] = None
        return made, refused


def _parse(text: str, *, for_url: bool) -> tuple[str, list[_Field]]:
    pattern, fields = "", []
    shown = f"the template {redact_text(text)!r}"
    try:
        pieces = list(Formatter().parse(text))
    except ValueError as error:
        raise PlanError(f"{shown} cannot be read: {error}; write {{{{ for a brace") from None
    for literal, column, spec, conversion in pieces:
        pattern += literal.replace("{", "{{").replace("}", "}}")
        if column is None:
            continue
        if not column:
            raise PlanError(f"{shown} has a field without a column's name; expected one such as '{{file_id}}'")
        if conversion not in (None, "q"):
            raise PlanError(f"{shown} has a field with !{conversion}; only !q is known")
        fields.append(_Field(column, spec or "", _quoting(pattern, for_url=for_url, whole=conversion == "q")))
        pattern += "{}"
    return pattern, fields


def _quoting(before: str, *, for_url: bool, whole: bool) -> Callable[[str], str]:
    if not for_url:
        return _escape_slash if whole else _as_it_is
    if whole or "?" in before:
        return _quote_all
    return _quote_path if before else _quote_first
