"""Which rows mean the same file, and which files want the same place. Pure functions on columns of text."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from framefetch.table.naming import fold

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping, Sequence

__all__ = ["find_collisions", "find_copies", "group_rows"]


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
    in_order = np.sort(hashes[rows])
    if not (in_order[1:] == in_order[:-1]).any():  # all different: each row is a file of its own
        files[rows] = np.arange(len(rows))
        return files, rows
    codes = np.zeros(len(rows), dtype=np.int64)
    for column in columns:
        of_column, values = pd.factorize(np.array(column, dtype=object)[rows])
        codes = codes * len(values) + of_column
    codes, _ = pd.factorize(codes)
    files[rows] = codes
    _, first = np.unique(codes, return_index=True)
    return files, rows[first]


def find_collisions(names: Sequence[str], good: np.ndarray[Any, Any]) -> Iterator[tuple[int, int]]:
    """Yield each good file whose path is also, or is a folder of, the path of another, with that other."""
    folded = np.fromiter((hash(fold(name)) for name in names), dtype=np.int64, count=len(names))
    folders: dict[str, int] = {}
    last = ""
    for file, name in enumerate(names):
        folder = name.rpartition("/")[0]
        if folder and folder != last and good[file]:
            last = folder
            while folder and (key := fold(folder)) not in folders:
                folders[key] = file
                folder = folder.rpartition("/")[0]
    values, counts = np.unique(folded[good], return_counts=True)
    doubled = set(values[counts > 1].tolist())
    folder_hashes = {hash(key) for key in folders}
    if not doubled and folder_hashes.isdisjoint(values.tolist() if folders else ()):
        return
    yield from _colliding(names, np.flatnonzero(good).tolist(), folders, doubled, folded)


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


def find_copies(keys: Sequence[str]) -> dict[int, int]:
    """Return the files that have the key of an earlier one."""
    first: dict[str, int] = {}
    return {file: earlier for file, key in enumerate(keys) if (earlier := first.setdefault(key, file)) != file}
