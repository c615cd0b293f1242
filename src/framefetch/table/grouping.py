"""Which rows mean the same file, and which files want the same place. Pure functions on columns of text."""

from __future__ import annotations

from itertools import groupby
from typing import TYPE_CHECKING, Any

import numpy as np

from framefetch.table.naming import fold

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Mapping, Sequence

__all__ = ["find_collisions", "find_copies", "find_strangers", "group_rows"]

#: Names folded at a time.
BLOCK = 65_536


def group_rows(
    columns: Sequence[Sequence[str]], errors: Collection[int]
) -> tuple[np.ndarray[Any, np.dtype[np.int64]], np.ndarray[Any, np.dtype[np.int64]]]:
    """Return for each row the number of its file, -1 for refused rows, and for each file its first row.

    Rows with the same values in all columns are one file.
    """
    count = len(columns[0])
    good = np.ones(count, dtype=bool)
    good[list(errors)] = False
    rows = np.flatnonzero(good)
    files = np.full(count, -1, dtype=np.int64)
    hashes = np.zeros(count, dtype=np.int64)
    for column in columns:
        hashes = hashes * 1_000_003 ^ np.fromiter(map(hash, column), dtype=np.int64, count=count)
    order = np.argsort(hashes[rows], kind="stable")
    in_order = hashes[rows[order]]
    alike = in_order[1:] == in_order[:-1]
    if not alike.any():  # all different: each row is a file of its own
        files[rows] = np.arange(len(rows))
        return files, rows
    doubtful = np.zeros(len(rows), dtype=bool)
    doubtful[order[1:][alike]] = True
    doubtful[order[:-1][alike]] = True
    leaders = np.arange(len(rows))
    seen: dict[tuple[str, ...], int] = {}
    for at in np.flatnonzero(doubtful).tolist():
        leaders[at] = seen.setdefault(tuple([column[rows[at]] for column in columns]), at)
    first = leaders == np.arange(len(rows))
    files[rows] = (np.cumsum(first) - 1)[leaders]
    return files, rows[first]


def find_strangers(files: np.ndarray[Any, Any], places: Callable[[int], Collection[str]]) -> Iterator[tuple[int, int]]:
    """Yield each row of a file whose rows lead to several places, with one that leads elsewhere.

    Rows that have a place in common lead to the same one, and so do those that other rows link in this way.
    """
    rows = np.flatnonzero(files >= 0)
    several = np.bincount(files[rows]) > 1
    rows = rows[several[files[rows]]]
    in_order = rows[np.argsort(files[rows], kind="stable")]
    file_of = files.tolist()
    for _, group in groupby(in_order.tolist(), file_of.__getitem__):
        yield from _strangers(list(group), places)


def _strangers(rows: Sequence[int], places: Callable[[int], Collection[str]]) -> Iterator[tuple[int, int]]:
    first: dict[str, int] = {}
    links: dict[int, int] = {}

    def root(row: int) -> int:
        while row in links:
            above = links[row]
            links[row] = links.get(above, above)  # the way is half as long next time
            row = above
        return row

    for row in rows:
        for place in places(row):
            one, other = root(first.setdefault(place, row)), root(row)
            if one != other:
                links[max(one, other)] = min(one, other)
    if len(first) == 1:
        return
    roots = [root(row) for row in rows]
    apart = next((row for row, its in zip(rows, roots, strict=True) if its != roots[0]), None)
    if apart is not None:
        for row, its in zip(rows, roots, strict=True):
            yield row, apart if its == roots[0] else rows[0]


def find_collisions(names: Sequence[str], good: np.ndarray[Any, Any]) -> Iterator[tuple[int, int]]:
    """Yield each good file whose path is also, or is a folder of, the path of another, with that other."""
    folded = np.fromiter(map(hash, _folded(names)), dtype=np.int64, count=len(names))
    folders: dict[str, int] = {}
    last = ""
    for file, name in enumerate(names) if any("/" in name for name in names) else ():
        folder = name.rpartition("/")[0]
        if folder and folder != last and good[file]:
            last = folder
            while folder and (key := fold(folder)) not in folders:
                folders[key] = file
                folder = folder.rpartition("/")[0]
    in_order = folded[good]
    in_order.sort()  # in place: np.unique would hold five such columns at once
    doubled = set(in_order[1:][in_order[1:] == in_order[:-1]].tolist())
    folder_hashes = np.array([hash(key) for key in folders], dtype=np.int64)
    if not doubled and not _any_in(folder_hashes, in_order):
        return
    yield from _colliding(names, np.flatnonzero(good).tolist(), folders, doubled, folded)


def _folded(names: Sequence[str]) -> Iterator[str]:
    """Yield the names folded; those in ASCII many at a time."""
    for start in range(0, len(names), BLOCK):
        block = names[start : start + BLOCK]
        lines = "\n".join(block)
        plain = lines.isascii() and lines.count("\n") == len(block) - 1
        yield from lines.casefold().split("\n") if plain else map(fold, block)


def _any_in(values: np.ndarray[Any, Any], in_order: np.ndarray[Any, Any]) -> bool:
    """Return whether a sorted column holds any of some values."""
    if not len(in_order):
        return False
    places = np.minimum(np.searchsorted(in_order, values), len(in_order) - 1)
    return bool((in_order[places] == values).any())


def _colliding(
    names: Sequence[str],
    files: Sequence[int],
    folders: Mapping[str, int],
    doubled: Collection[int],
    folded: np.ndarray[Any, Any],
) -> Iterator[tuple[int, int]]:
    seen: dict[str, int] = {}
    blocked: dict[str, int] = {}
    for file in files:
        key = fold(names[file])
        if key in folders:
            blocked[key] = file
            yield file, folders[key]
        if folded[file] in doubled:
            if key in seen:
                yield file, seen[key]
                yield seen[key], file
            seen.setdefault(key, file)
    if blocked:
        for file in files:
            folder = fold(names[file].rpartition("/")[0])
            while folder and folder not in blocked:
                folder = folder.rpartition("/")[0]
            if folder:
                yield file, blocked[folder]


def find_copies(keys: Sequence[str], files: np.ndarray[Any, Any]) -> dict[int, int]:
    """Return the files that have the key of an earlier one; which files count is said by the rows that are not refused.

    One that is refused is not fetched, and there would be nothing to copy.
    """
    first: dict[str, int] = {}
    used = np.flatnonzero(np.bincount(files[files >= 0])).tolist()
    return {file: earlier for file in used if (earlier := first.setdefault(keys[file], file)) != file}
