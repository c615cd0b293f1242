"""Which column says what, and what its cells mean: digests and sizes, made uniform or refused with a reason."""

from __future__ import annotations

import base64
import binascii
import re
from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import numpy as np

from framefetch.errors import InvalidRow, PlanError
from framefetch.models import DIGEST_LENGTHS
from framefetch.table.template import is_missing

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from framefetch.options import TableOptions
    from framefetch.table.rows import Rows

__all__ = ["Columns", "all_digits", "choose_columns", "parse_digest", "read_digests", "read_sizes"]

URL_NAMES = ("wkf", "url", "file_url", "download_url")
MD5_NAMES = ("md5", "md5sum", "md5_checksum")
SHA256_NAMES = ("sha256",)
SIZE_NAMES = ("size", "file_size")

#: More bytes than any disk holds.
SIZE_MAX = 2**62
NO_SIZE = -2

_NUMBER = re.compile(r"[0-9]+(?:\.[0-9]*)?(?:[eE][+]?[0-9]{1,2})?")
_LOWER_HEX = re.compile(r"[0-9a-f]+")


@dataclass(frozen=True, slots=True)
class Columns:
    """The columns in use, and a note for each that was found by its name."""

    url: str | None
    key: str | None
    digests: tuple[tuple[str, str], ...]
    size: str | None
    notes: tuple[str, ...]


def choose_columns(rows: Rows, options: TableOptions) -> Columns:
    """Decide which column says what: what the options name, else exact well-known names.

    Raises
    ------
    PlanError
        Where a named column is not in the table, or nothing says where the files are.
    """
    names = rows.names
    notes: list[str] = []

    def find(explicit: str | None, known: tuple[str, ...], meaning: str) -> str | None:
        if explicit is not None:
            if rows.block(0, 0).values(explicit) is None:
                raise PlanError(f"the table has no column {explicit!r}; it has: {_listed(names)}")
            return explicit
        found = next((name for name in known if name in names), None)
        if found is not None:
            notes.append(f"{meaning} from column {found!r}")
        return found

    url = None if options.url_template is not None else find(options.url_column, URL_NAMES, "URLs")
    if url is None and options.url_template is None and (len(names) or len(rows)):
        alike = [name for name in map(str, names) if name.strip().lower() in URL_NAMES]
        hint = f"; is it url_column={alike[0]!r}?" if alike else _hint_at_index(rows)
        raise PlanError(
            f"no column of URLs: expected one named {' or '.join(URL_NAMES)}, or a url_column or url_template; "
            f"the table has: {_listed(names)}{hint}"
        )
    stated = [
        ("md5", find(options.md5_column, MD5_NAMES, "md5")),
        ("sha256", find(options.sha256_column, SHA256_NAMES, "sha256")),
        ("", find(options.digest_column, (), "digests")),
    ]
    return Columns(
        url=url,
        key=find(options.key_column, (), "keys"),
        digests=tuple((algorithm, column) for algorithm, column in stated if column is not None),
        size=find(options.size_column, SIZE_NAMES, "sizes"),
        notes=tuple(notes),
    )


def _hint_at_index(rows: Rows) -> str:
    """Return what to do where the URLs are the labels of the rows."""
    label = rows.index[0] if len(rows) else ()
    parts = label if isinstance(label, tuple) else (label,)
    named = any(isinstance(part, str) and "://" in part for part in parts)
    return "; are the URLs its index? df.reset_index() makes columns of that" if named else ""


def _listed(names: Sequence[Any]) -> str:
    return ", ".join(map(str, names[:40])) + (", …" if len(names) > 40 else "")


def parse_digest(text: object, algorithm: str = "") -> tuple[str, str]:
    """Return algorithm and lower-case hex digits of one cell.

    Accepted are hex digits in either case, with or without ``algorithm:`` before them, and the base64 form of
    the same bytes (as in Content-MD5, RFC 1864).

    Raises
    ------
    InvalidRow
        Where the text is no such digest.

    Examples
    --------
    >>> parse_digest("MD5:D41D8CD98F00B204E9800998ECF8427E")
    ('md5', 'd41d8cd98f00b204e9800998ecf8427e')
    """
    if not isinstance(text, str):
        raise InvalidRow(f"expected a digest as text, got {text!r}")
    stated, colon, digits = text.strip().rpartition(":")
    stated = stated.strip().lower().replace("-", "")
    name = stated if colon else algorithm
    if colon and algorithm and stated != algorithm:
        raise InvalidRow(f"expected {algorithm} digits, got {text.strip()[:80]!r}")
    digits = digits.strip()
    if not name:
        name = {32: "md5", 40: "sha1", 64: "sha256"}.get(len(digits), "")
    if name not in DIGEST_LENGTHS:
        raise InvalidRow(f"expected algorithm:hex with one of {', '.join(DIGEST_LENGTHS)}, got {text.strip()[:80]!r}")
    return name, _hex_digits(digits, name)


def _hex_digits(digits: str, algorithm: str) -> str:
    length = DIGEST_LENGTHS[algorithm]
    lowered = digits.lower()
    if len(lowered) == length and _LOWER_HEX.fullmatch(lowered):
        return lowered
    try:
        raw = base64.b64decode(digits, validate=True)
    except (binascii.Error, ValueError):
        raw = b""
    if len(raw) * 2 == length:
        return raw.hex()
    raise InvalidRow(f"expected the {length} hex digits of a {algorithm} digest, got {digits[:80]!r}")


def all_digits(values: np.ndarray[Any, Any], algorithm: str) -> bool:
    """Return whether every cell is the plain digits of a digest: one look at all of them, as most columns are."""
    cells = values.tolist()
    if set(map(type, cells)) != {str} or set(map(len, cells)) != {DIGEST_LENGTHS.get(algorithm, 0)}:
        return False
    return _LOWER_HEX.fullmatch("".join(cells)) is not None


def read_digests(
    values: np.ndarray[Any, Any], algorithm: str
) -> Iterator[tuple[int, str, str] | tuple[int, InvalidRow]]:
    """Yield position, algorithm and hex digits of each cell that states a digest, or position and error."""
    length = DIGEST_LENGTHS.get(algorithm, 0)
    for position, cell in enumerate(values.tolist()):
        if type(cell) is str and len(cell) == length and _LOWER_HEX.fullmatch(cell):
            yield position, algorithm, cell  # the table's own text: no copy of it
        elif not is_missing(cell):
            try:
                yield position, *parse_digest(cell, algorithm)
            except InvalidRow as error:
                yield position, error


def read_sizes(values: np.ndarray[Any, Any]) -> tuple[np.ndarray[Any, np.dtype[np.int64]], list[int]]:
    """Return sizes in bytes, -1 where none is stated, and the positions of cells that are no size."""
    if values.dtype.kind in "iu":
        wrong = (values < 0) | (values > SIZE_MAX)
        sizes = values.astype(np.int64)
    elif values.dtype.kind == "f":
        numbers = values.astype(np.float64)
        good = (numbers >= 0) & (numbers <= SIZE_MAX) & (numbers == np.floor(numbers))
        wrong = ~(good | np.isnan(numbers))
        sizes = np.where(good, numbers, -1.0).astype(np.int64)
    else:
        sizes = np.fromiter(map(_size, values.tolist()), dtype=np.int64, count=len(values))
        wrong = sizes == NO_SIZE
    sizes[wrong] = -1
    return sizes, np.flatnonzero(wrong).tolist()


def _size(cell: object) -> int:
    """Return the size that a cell states, -1 where it is empty, `NO_SIZE` where it is something else."""
    if is_missing(cell):
        return -1
    if isinstance(cell, str) and _NUMBER.fullmatch(cell.strip()):
        cell = Decimal(cell.strip())
    if (
        isinstance(cell, bool)
        or not isinstance(cell, int | float | np.integer | np.floating | Decimal)
        or not 0 <= cell <= SIZE_MAX
    ):
        return NO_SIZE
    return int(cell) if cell == int(cell) else NO_SIZE
