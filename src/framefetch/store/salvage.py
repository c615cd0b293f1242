"""What can still be read of a manifest that SQLite gives up on.

First as SQLite reads it, from the front and from the back, up to where it is damaged. Where that is not all of it, the
pages are looked through one by one, in the file and in its log: a row lies whole in its page, and needs neither the
file's head nor the way that led to the page (SQLite file format, sections 1.6 and 2.1). Old copies of a row may turn
up; the one fetched last is taken, and whatever is found is only a hint: its file is hashed before it is believed.
"""

from __future__ import annotations

import os
import re
import sqlite3
import struct
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from framefetch.models import Digest, Verified
from framefetch.store.schema import SMALLEST, SQLITE_ERRORS, opened
from framefetch.store.tables import COLUMNS, SCHEMA_VERSION

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["Hint", "hint_sources", "salvage"]

Hint: TypeAlias = "tuple[str, str, str, int, int, int, int, str, str, str | None, float]"

_ASIDE: Final = re.compile(r"(\.(?:corrupt|schema)-[0-9]+)(?:-wal)?")
_TYPES: Final = (str, str, str, int, int, int, int, str, str)
_WIDTHS: Final = (0, 1, 2, 3, 4, 6, 8, 8, 0, 0)
_PAGE: Final = 4096
_LEAF = 0x0D  # of a table; its interior pages hold no rows
#: Until schema 2 the table was one WITHOUT ROWID, which is an index to SQLite and has rows in its interior pages too.
_INDEX_LEAF, _INDEX_INTERIOR = 0x0A, 0x02
_LEVELS: Final = {level.value for level in Verified}


def hint_sources(path: str) -> list[str]:
    """Return what was set aside of a manifest, oldest first, and the manifest itself."""
    folder, name = os.path.split(path)
    aside: dict[str, int] = {}
    try:
        there = list(os.scandir(folder))
    except PermissionError:
        there = []  # a folder may be one to write to and not to list
    for entry in there:
        match = _ASIDE.fullmatch(entry.name.removeprefix(name)) if entry.name.startswith(name) else None
        if match is not None and entry.is_file(follow_symlinks=False):
            base = path + match.group(1)
            aside[base] = max(aside.get(base, 0), entry.stat().st_mtime_ns)
    return [*sorted(aside, key=aside.__getitem__), path]


def salvage(path: str) -> Iterator[Hint]:
    """Yield what can be read of a damaged manifest, some rows more than once; the file stays as it is.

    Parameters
    ----------
    path : str
        The database; it may be empty or missing while its log is there.
    """
    for direction in ("", " DESC"):
        try:
            yield from _as_sqlite_reads(path, direction)
        except SQLITE_ERRORS:
            continue
        return
    for name, head, step in ((path, 0, 0), (f"{path}-wal", 32, 24)):
        try:
            # Closing it ends the locks that this process has in it (POSIX); nobody writes to it any more.
            with open(name, "rb", buffering=1 << 20) as file:
                for page in _pages(file, head, step):
                    yield from _carve(page)
        except OSError:
            continue


def _as_sqlite_reads(path: str, direction: str) -> Iterator[Hint]:
    """Yield rows in the order of the table, up to where SQLite gives up."""
    if not os.path.isfile(path) or os.path.getsize(path) < SMALLEST:
        raise sqlite3.DatabaseError("empty")  # SQLite would take it for a database, and remove its log
    mode = "mode=ro" if os.path.exists(f"{path}-wal") else "mode=ro&immutable=1"
    connection = opened(path, mode, 0.0)
    try:
        columns = ("version", "key", "path") if _is_older(connection) else ("id",)
        order = ", ".join(column + direction for column in columns)
        connection.text_factory = _text
        for row in connection.execute(f"SELECT {COLUMNS} FROM entries ORDER BY {order}"):
            if _is_sound(row):
                yield row
    finally:
        connection.close()


def _is_older(connection: sqlite3.Connection) -> bool:
    return int(connection.execute("PRAGMA user_version").fetchone()[0]) < SCHEMA_VERSION


def _text(stored: bytes) -> str | None:
    try:
        return stored.decode()
    except UnicodeDecodeError:
        return None


def _is_sound(row: tuple[Any, ...]) -> bool:
    """Return whether a row could be one of ours: what is read from damaged pages may say anything."""
    if len(row) != 11 or not all(type(value) is kind for value, kind in zip(row, _TYPES, strict=False)):
        return False
    version, _, path, size, *_, digests, verified, etag, fetched_at = row
    if not isinstance(etag, str | None) or type(fetched_at) is not float or verified not in _LEVELS:
        return False
    parts = path.split("/")
    if size < 0 or not version or "\0" in path or set(parts) & {"", ".", ".."} or parts[0] == ".framefetch":
        return False  # no file of ours stands there
    try:
        return bool([Digest(*text.split(":", 1)) for text in digests.split()])
    except (ValueError, TypeError):
        return False


def _pages(file: Any, head: int, step: int) -> Iterator[bytes]:
    """Yield the pages of a database, or those in its log, where each has a head of its own."""
    first = file.read(head or 20)
    size = int.from_bytes(first[8:12] if head else first[16:18], "big")
    size = 65536 if size == 1 else size
    size = size if 512 <= size <= 65536 and size & (size - 1) == 0 else _PAGE
    file.seek(head)
    while len(page := file.read(step + size)) == step + size:
        yield page[step:]


def _carve(page: bytes) -> Iterator[Hint]:
    """Yield the rows that lie whole in a page."""
    if page[0] not in (_LEAF, _INDEX_LEAF, _INDEX_INTERIOR):
        return
    child, begin = (4, 12) if page[0] == _INDEX_INTERIOR else (0, 8)
    count = int.from_bytes(page[3:5], "big")
    for at in range(begin, min(begin + 2 * count, len(page) - 1), 2):
        start = int.from_bytes(page[at : at + 2], "big") + child
        try:
            row = _record(page, start, numbered=page[0] == _LEAF)
        except (IndexError, ValueError, TypeError, struct.error):
            continue
        if row is not None and _is_sound(row):
            yield row


def _record(page: bytes, at: int, *, numbered: bool) -> tuple[Any, ...] | None:
    """Return the values of a record without id and window, None where it is none of the table of entries."""
    length, at = _varint(page, at)
    if numbered:
        _, at = _varint(page, at)  # the id, which stands before the record; in it there is nothing in its place
    end = at + length
    header, kinds_at = _varint(page, at)
    body = at + header
    if end > len(page) or not 12 < header <= length:
        return None  # it goes on in another page, or is no record
    values: list[Any] = []
    while kinds_at < at + header:
        kind, kinds_at = _varint(page, kinds_at)
        width = _WIDTHS[kind] if kind < 10 else (kind - 12) // 2
        values.append(_value(kind, page[body : body + width]))
        body += width
    if numbered and values[:1] == [None]:
        del values[0]
    if len(values) != 12 or body != end:
        return None
    return *values[:10], float(values[10])  # a whole number is stored as one, also in a column of REAL


def _value(kind: int, stored: bytes) -> Any:
    if kind >= 12:
        return stored.decode() if kind % 2 else stored
    if kind == 7:
        return struct.unpack(">d", stored)[0]
    if kind in (8, 9):
        return kind - 8
    return int.from_bytes(stored, "big", signed=True) if 1 <= kind <= 6 else None


def _varint(page: bytes, at: int) -> tuple[int, int]:
    """Return a number of SQLite's variable length, and the place behind it."""
    value = 0
    for length in range(1, 10):
        byte = page[at]
        at += 1
        if length == 9:
            return value << 8 | byte, at
        value = value << 7 | byte & 0x7F
        if byte < 0x80:
            break
    return value, at
