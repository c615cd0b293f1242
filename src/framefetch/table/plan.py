"""A DataFrame becomes a plan: what would be fetched, where each file will be, and which rows cannot be used.

The steps follow one another over whole columns: addresses, digests, sizes, then rows that mean the same file are
joined, named, and checked against one another. A row that fails a step keeps its first reason and is left out of the
later ones; the other rows go on.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from framefetch.errors import InvalidRow, UnsafePath
from framefetch.table.addresses import AddressReader, basename, shown
from framefetch.table.columns import Columns, choose_columns, read_digests, read_sizes
from framefetch.table.naming import check_version, default_name, fold, safe_path
from framefetch.table.requests import TableRequests
from framefetch.table.template import Template, column_values, texts
from framefetch.urls import redact

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping, Sequence

    from framefetch.options import TableOptions

__all__ = ["PlannedRows", "plan_rows"]

#: Rows made ready at a time: what a step needs only for a while stays small.
BLOCK = 65_536


@dataclass(frozen=True, slots=True)
class PlannedRows:
    """The rows of a table and the files they mean.

    Parameters
    ----------
    index : Index
        The table's own.
    requests : TableRequests
        The distinct files.
    files : array of int64
        For each row the position of its file, -1 where the row is invalid.
    errors : mapping of int to InvalidRow
        For each invalid row, by position, the reason.
    texts : mapping of int to str
        For each invalid row what stood in its URL cell, without secrets.
    notes : tuple of str
        Which columns were found by name.
    """

    index: pd.Index
    requests: TableRequests
    files: np.ndarray[Any, np.dtype[np.int64]]
    errors: Mapping[int, InvalidRow]
    texts: Mapping[int, str]
    notes: tuple[str, ...]


def plan_rows(
    table: pd.DataFrame, options: TableOptions, version: str, schemes: Collection[str] = ("http", "https")
) -> PlannedRows:
    """Plan a table.

    Parameters
    ----------
    table : DataFrame
        One row a file.
    options : TableOptions
        Which column says what.
    version : str
        The folder below the cache.
    schemes : collection of str
        URL schemes that can be fetched.

    Returns
    -------
    PlannedRows

    Raises
    ------
    PlanError
        Where a named column is missing, a template cannot be used, or nothing says where the files are.
    """
    check_version(version)
    return _Planner(table, options, version, schemes).plan()


class _Planner:
    """One planning, step by step; its attributes are columns over the rows."""

    def __init__(self, table: pd.DataFrame, options: TableOptions, version: str, schemes: Collection[str]) -> None:
        self.table = table
        self.options = options
        self.version = version
        self.columns: Columns = choose_columns(table, options)
        self.url_template = Template(options.url_template, for_url=True) if options.url_template else None
        self.path_template = Template(options.path_template, for_url=False) if options.path_template else None
        for template in (self.url_template, self.path_template):
            if template is not None:
                template.check(table)
        self.reader = AddressReader(options.base_url, schemes)
        self.urls: list[str] = [""] * len(table)
        self.mirrors: dict[int, tuple[str, ...]] = {}
        self.errors: dict[int, InvalidRow] = {}
        self.texts: dict[int, str] = {}
        self.digests: dict[str, np.ndarray[Any, Any]] = {}
        self.sizes = np.full(len(table), -1, dtype=np.int64)

    def plan(self) -> PlannedRows:
        self._read_urls()
        self._read_digests()
        self._read_sizes()
        keys = self._read_keys()
        files, first = _grouped(keys, self.errors)
        self._join_statements(files, first)
        names, files, first = self._named(files, first)
        self._refuse_collisions(names, files)
        if self.errors:
            files[list(self.errors)] = -1
        return PlannedRows(
            index=self.table.index,
            requests=self._requests(keys, names, first),
            files=files,
            errors=self.errors,
            texts=self.texts,
            notes=self.columns.notes,
        )

    def _refuse(self, position: int, column: str | None, reason: InvalidRow | str) -> None:
        """Record why a row cannot be used: the message names row, column and value."""
        if position in self.errors:
            return
        label = self.table.index[position]
        where = f"row {label.item() if isinstance(label, np.generic) else label!r}"
        where += f", column {column!r}" if column else ""
        kind = type(reason) if isinstance(reason, InvalidRow) else InvalidRow
        self.errors[position] = kind(f"{where}: {reason}")

    def _blocks(self) -> Iterator[tuple[int, pd.DataFrame]]:
        for start in range(0, len(self.table), BLOCK):
            yield start, self.table.iloc[start : start + BLOCK]

    def _read_urls(self) -> None:
        column = self.columns.url
        for start, block in self._blocks():
            missing: dict[int, str] = {}
            if self.url_template is not None:
                cells: Sequence[Any]
                cells, missing = self.url_template.apply(block)
            else:
                values = column_values(block, column) if column is not None else None
                cells = values.tolist() if values is not None else []
            for position, name in missing.items():
                self._refuse(start + position, name, "expected a value for the URL template, but the cell is empty")
            self._read_cells(start, cells, column or "URL template", missing)

    def _read_cells(self, start: int, cells: Sequence[Any], column: str, skip: Collection[int]) -> None:
        read = self.reader.read
        for position, cell in enumerate(cells, start):
            if skip and position - start in skip:
                continue
            try:
                mirrors = read(cell)
            except InvalidRow as error:
                self.texts[position] = shown(cell)[1:-1] if isinstance(cell, str) else ""
                self._refuse(position, column, error)
                continue
            self.urls[position] = mirrors[0]
            if len(mirrors) > 1:
                self.mirrors[position] = mirrors

    def _read_digests(self) -> None:
        for algorithm, column in self.columns.digests:
            for start, block in self._blocks():
                values = column_values(block, column)
                assert values is not None
                for position, *found in read_digests(values, algorithm):
                    if isinstance(found[0], InvalidRow):
                        self._refuse(start + position, column, found[0])
                    else:
                        self._state(start + position, column, *found)

    def _state(self, position: int, column: str, algorithm: str, digits: str) -> None:
        stated = self.digests.get(algorithm)
        if stated is None:
            stated = self.digests[algorithm] = np.full(len(self.table), None, dtype=object)
        if stated[position] is not None and stated[position] != digits:
            self._refuse(position, column, f"expected one {algorithm} digest, got {stated[position]} and {digits}")
        stated[position] = digits

    def _read_sizes(self) -> None:
        column = self.columns.size
        if column is None:
            return
        values = column_values(self.table, column)
        assert values is not None
        self.sizes, wrong = read_sizes(values)
        for position in wrong:
            self._refuse(position, column, f"expected a size in whole bytes, got {shown(values[position])}")

    def _read_keys(self) -> list[str]:
        column = self.columns.key
        if column is None:
            return [url if "?" not in url and "@" not in url and "#" not in url else redact(url) for url in self.urls]
        values = column_values(self.table, column)
        assert values is not None
        keys = texts(values)
        for position, key in enumerate(keys):
            if key is None:
                self._refuse(position, column, "expected a key, but the cell is empty")
        return [key or "" for key in keys]

    def _join_statements(self, files: np.ndarray[Any, Any], first: np.ndarray[Any, Any]) -> None:
        """Let every row of a file state what any of them states; rows that contradict one another are refused."""
        if len(first) == len(files) - len(self.errors):
            return  # no file has two rows
        rows = np.flatnonzero(files >= 0)
        for algorithm, stated in self.digests.items():
            said = rows[pd.notna(stated[rows])]
            joined = np.full(len(first), None, dtype=object)
            joined[files[said][::-1]] = stated[said][::-1]
            bad = np.unique(files[said[np.not_equal(stated[said], joined[files[said]])]])
            self._refuse_files(files, bad, f"its {algorithm} digest differs from that of another row with the same URL")
            stated[rows] = joined[files[rows]]
        said = rows[self.sizes[rows] >= 0]
        sizes = np.full(len(first), -1, dtype=np.int64)
        sizes[files[said][::-1]] = self.sizes[said][::-1]
        bad = np.unique(files[said[self.sizes[said] != sizes[files[said]]]])
        self._refuse_files(files, bad, "its size differs from that of another row with the same URL")
        self.sizes[rows] = sizes[files[rows]]

    def _refuse_files(self, files: np.ndarray[Any, Any], bad: np.ndarray[Any, Any], reason: InvalidRow | str) -> None:
        if len(bad):
            for position in np.flatnonzero(np.isin(files, bad)).tolist():
                value = f": {redact(self.urls[position])}"
                kind = type(reason) if isinstance(reason, InvalidRow) else InvalidRow
                self._refuse(position, self.columns.url, kind(f"{reason}{value}"))

    def _named(
        self, files: np.ndarray[Any, Any], first: np.ndarray[Any, Any]
    ) -> tuple[list[str], np.ndarray[Any, Any], np.ndarray[Any, Any]]:
        """Give each file its path below the version folder."""
        if self.path_template is not None:
            return self._named_by_template()
        names = []
        for position in first.tolist():
            try:
                names.append(default_name(basename(self.urls[position]), self.options.suffix))
            except UnsafePath as error:
                names.append("")
                self._refuse_files(files, np.array([files[position]]), error)
        return names, files, first

    def _named_by_template(self) -> tuple[list[str], np.ndarray[Any, Any], np.ndarray[Any, Any]]:
        """With a path template a row names its own path, so rows of one URL may ask for several files."""
        assert self.path_template is not None
        paths: list[str] = [""] * len(self.table)
        for start, block in self._blocks():
            made, missing = self.path_template.apply(block)
            for position, name in missing.items():
                self._refuse(start + position, name, "expected a value for the path template, but the cell is empty")
            for position, path in enumerate(made, start):
                try:
                    paths[position] = "" if path is None else safe_path(path)
                except UnsafePath as error:
                    self._refuse(position, None, error)
        keys = self._read_keys()
        files, first = _grouped([f"{key}\0{path}" for key, path in zip(keys, paths, strict=True)], self.errors)
        return [paths[position] for position in first.tolist()], files, first

    def _refuse_collisions(self, names: list[str], files: np.ndarray[Any, Any]) -> None:
        good = np.zeros(len(names), dtype=bool)
        used = files.copy()
        used[list(self.errors)] = -1
        good[used[used >= 0]] = True
        for file, other in _collisions(names, good):
            how = "differs only in case or Unicode form from" if names[file] != names[other] else "is also that of"
            how = "cannot be a file and a folder with" if fold(names[file]) != fold(names[other]) else how
            reason = UnsafePath(f"its path {names[file]!r} {how} {names[other]!r} of another URL; give a path template")
            self._refuse_files(files, np.array([file]), reason)

    def _requests(self, keys: list[str], names: list[str], first: np.ndarray[Any, Any]) -> TableRequests:
        whole = len(first) == len(keys)
        rows = first.tolist() if not whole else None
        file_keys = keys if rows is None else [keys[row] for row in rows]
        mirrors = (
            self.mirrors
            if rows is None
            else {file: self.mirrors[row] for file, row in enumerate(rows) if row in self.mirrors}
        )
        return TableRequests(
            version=self.version,
            keys=file_keys,
            urls=self.urls if rows is None else [self.urls[row] for row in rows],
            names=names,
            mirrors=mirrors,
            sizes=self.sizes[first],
            digests={algorithm: stated[first] for algorithm, stated in self.digests.items()},
            copy_of=_copies(file_keys) if self.path_template is not None else {},
        )


def _grouped(
    keys: Sequence[str], errors: Collection[int]
) -> tuple[np.ndarray[Any, np.dtype[np.int64]], np.ndarray[Any, np.dtype[np.int64]]]:
    """Return for each row the number of its file, -1 for refused rows, and for each file its first row."""
    good = np.ones(len(keys), dtype=bool)
    good[list(errors)] = False
    rows = np.flatnonzero(good)
    hashes = np.fromiter(map(hash, keys), dtype=np.int64, count=len(keys))[rows]
    files = np.full(len(keys), -1, dtype=np.int64)
    if len(np.unique(hashes)) == len(rows):  # all different: each row is a file of its own
        files[rows] = np.arange(len(rows))
        return files, rows
    codes, _ = pd.factorize(np.array(keys, dtype=object)[rows])
    files[rows] = codes
    _, first = np.unique(codes, return_index=True)
    return files, rows[first]


def _collisions(names: Sequence[str], good: np.ndarray[Any, Any]) -> Iterator[tuple[int, int]]:
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


def _copies(keys: Sequence[str]) -> dict[int, int]:
    """Return the files that have the key of an earlier one."""
    first: dict[str, int] = {}
    return {file: earlier for file, key in enumerate(keys) if (earlier := first.setdefault(key, file)) != file}
