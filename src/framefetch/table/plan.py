"""A DataFrame becomes a plan: what would be fetched, where each file will be, and which rows cannot be used.

The steps follow one another over whole columns: addresses, digests, sizes, then rows that mean the same file are
joined, named, and checked against one another. A row that fails a step keeps its first reason and is left out of the
later ones; the other rows go on.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from framefetch.errors import InvalidRow, UnsafePath
from framefetch.options import TableOptions
from framefetch.table.addresses import AddressReader, basename, location, shown, would_be_completed
from framefetch.table.columns import Columns, all_digits, choose_columns, read_digests, read_sizes
from framefetch.table.grouping import find_collisions, find_copies, find_strangers, group_rows
from framefetch.table.naming import are_plain, check_version, default_name, fold, safe_path
from framefetch.table.planned import PlannedRows
from framefetch.table.requests import TableRequests, unpacked
from framefetch.table.rows import FrameRows
from framefetch.table.template import Template, is_missing, texts
from framefetch.table.text import TextRows
from framefetch.urls import redact

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping, Sequence

    import pandas as pd

    from framefetch.table.rows import Rows

__all__ = ["label_text", "plan_rows", "plan_url"]

#: Rows made ready at a time: what a step needs only for a while stays small.
BLOCK = 65_536
#: Rows of which a URL template is hardly meant to make one URL.
DOUBTFUL_ROWS = 10


def plan_rows(
    table: pd.DataFrame | TextRows, options: TableOptions, version: str, schemes: Collection[str] = ("http", "https")
) -> PlannedRows:
    """Plan a table.

    Parameters
    ----------
    table : DataFrame or TextRows
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
    rows = table if isinstance(table, TextRows) else FrameRows(table)
    return _Planner(rows, options, version, schemes).plan()


def plan_url(
    url: str, options: TableOptions, version: str, schemes: Collection[str] = ("http", "https")
) -> PlannedRows:
    """Plan one URL that no table has: only `base_url` and `suffix` of the options count."""
    check_version(version)
    cell = np.empty(1, dtype=object)
    cell[0] = url
    alone = TableOptions(suffix=options.suffix, base_url=options.base_url)
    planner = _Planner(TextRows(["url"], {"url": cell}, 0, 1), alone, version, schemes)
    planner.in_table = False
    return planner.plan()


class _Planner:
    """One planning, step by step; its attributes are columns over the rows."""

    def __init__(self, rows: Rows, options: TableOptions, version: str, schemes: Collection[str]) -> None:
        self.rows = rows
        self.options = options
        self.version = version
        self.in_table = True  #: whether rows and columns are known to whoever reads what is wrong with them
        self.columns: Columns = choose_columns(rows, options)
        self.url_template = _template(options.url_template, for_url=True)
        self.path_template = _template(options.path_template, for_url=False)
        for template in (self.url_template, self.path_template):
            if template is not None:
                template.check(rows)
        self.reader = AddressReader(options.base_url, schemes)
        self.urls: list[str] = [""] * len(rows)
        self.mirrors: dict[int, tuple[str, ...]] = {}
        self.errors: dict[int, InvalidRow] = {}
        self.texts: dict[int, str] = {}
        self.unclear: set[int] = set()
        self._plain = True  #: whether all URLs are plain: such have no login, no query and no fragment
        self.digests: dict[str, np.ndarray[Any, Any]] = {}
        self.sizes = np.full(len(rows), -1, dtype=np.int64)

    def plan(self) -> PlannedRows:
        self._read_urls()
        self._read_digests()
        self._read_sizes()
        keys = self._read_keys()
        files, first = group_rows([keys], self.errors)
        notes = self.columns.notes
        if len(first) < (count := np.count_nonzero(files >= 0)):  # some file has several rows
            if self.url_template is not None and len(first) == 1 and count >= DOUBTFUL_ROWS:
                notes += (f"the URL template makes one URL of {count:,} rows: {redact(self.urls[first[0]])}",)
            self._refuse_shared_keys(keys, files)
            self._join_statements(files, first)
        if self.path_template is None:
            names = self._named(files, first)
        else:
            names, files, first = self._named_by_template(keys)
        self._refuse_collisions(names, files, first)
        if self.errors:
            files[list(self.errors)] = -1
        return PlannedRows(
            index=self.rows.index,
            requests=self._requests(keys, names, files, first),
            files=files,
            errors=self.errors,
            texts=self.texts,
            unclear=self.unclear,
            notes=notes,
            aliases=self._aliases(files, first),
            own_keys=self.columns.key is not None,
        )

    def _refuse(self, position: int, column: str, reason: InvalidRow | str) -> None:
        """Record why a row cannot be used: the message names row, column and value."""
        if position in self.errors:
            return
        if self.urls[position]:
            self.texts[position] = redact(self.urls[position])
        kind = type(reason) if isinstance(reason, InvalidRow) else InvalidRow
        where = f"row {label_text(self.rows.index[position])}, column {column!r}: " if self.in_table else ""
        self.errors[position] = kind(f"{where}{reason}")

    @property
    def _url_column(self) -> str:
        return self.columns.url or "URL template"

    def _blocks(self) -> Iterator[tuple[int, Rows]]:
        for start in range(0, len(self.rows), BLOCK):
            yield start, self.rows.block(start, start + BLOCK)

    def _read_urls(self) -> None:
        column = self.columns.url
        for start, block in self._blocks():
            refused: Mapping[int, tuple[str, InvalidRow]] = {}
            if self.url_template is not None:
                cells: Sequence[Any]
                cells, refused = self.url_template.apply(block)
                empty = self.url_template.empty
                self.unclear.update(start + at for at, (_, reason) in refused.items() if reason is not empty)
            else:
                values = block.values(column) if column is not None else None
                cells = values.tolist() if values is not None else []
            for position, (name, reason) in refused.items():
                self._refuse(start + position, name, reason)
            if not refused and self.reader.takes_all(cells):
                self.urls[start : start + len(cells)] = cells
            else:
                self._plain = False
                self._read_cells(start, cells, refused)

    def _read_cells(self, start: int, cells: Sequence[Any], skip: Collection[int]) -> None:
        read = self.reader.read
        for position, cell in enumerate(cells, start):
            if skip and position - start in skip:
                continue
            try:
                mirrors = read(cell)
            except InvalidRow as error:
                if not is_missing(cell):
                    self.texts[position] = shown(cell)[1:-1]
                    if would_be_completed(cell):
                        self.unclear.add(position)
                self._refuse(position, self._url_column, error)
                continue
            self.urls[position] = mirrors[0]
            if len(mirrors) > 1:
                self.mirrors[position] = mirrors

    def _read_digests(self) -> None:
        for algorithm, column in self.columns.digests:
            is_first = algorithm not in self.digests
            for start, block in self._blocks():
                values = block.values(column)
                assert values is not None
                if is_first and all_digits(values, algorithm):
                    self._stated_by(algorithm)[start : start + len(values)] = values
                    continue
                for position, *found in read_digests(values, algorithm):
                    if isinstance(found[0], InvalidRow):
                        self._refuse(start + position, column, found[0])
                    else:
                        self._state(start + position, column, *found)

    def _stated_by(self, algorithm: str) -> np.ndarray[Any, Any]:
        stated = self.digests.get(algorithm)
        if stated is None:
            stated = self.digests[algorithm] = np.full(len(self.rows), None, dtype=object)
        return stated

    def _state(self, position: int, column: str, algorithm: str, digits: str) -> None:
        stated = self._stated_by(algorithm)
        if stated[position] is not None and stated[position] != digits:
            self._refuse(position, column, f"expected one {algorithm} digest, got {stated[position]} and {digits}")
        stated[position] = digits

    def _read_sizes(self) -> None:
        column = self.columns.size
        if column is None:
            return
        values = self.rows.values(column)
        assert values is not None
        self.sizes, wrong = read_sizes(values)
        for position in wrong:
            self._refuse(position, column, f"expected a size in whole bytes, got {shown(values[position])}")

    def _read_keys(self) -> list[str]:
        column = self.columns.key
        if column is None and self._plain:
            return self.urls
        if column is None:
            return [url if "?" not in url and "@" not in url and "#" not in url else redact(url) for url in self.urls]
        values = self.rows.values(column)
        assert values is not None
        refused: dict[int, tuple[str, InvalidRow]] = {}
        keys = texts(column, values, refused)
        for position, key in enumerate(keys):
            if key is None:
                _, reason = refused.get(position, ("", "expected a key, but the cell is empty"))
                self._refuse(position, column, reason)
        return ["" if key is None else redact(key) if "://" in key else key for key in keys]

    def _refuse_shared_keys(self, keys: Sequence[str], files: np.ndarray[Any, Any]) -> None:
        """Refuse the rows of a key that names several files: each would be given the bytes of the first."""
        column = self.columns.key
        if column is None:
            return  # the keys are the URLs
        for position, other in find_strangers(files, self._places):
            row = label_text(self.rows.index[other])
            place, elsewhere = location(self.urls[position]), location(self.urls[other])
            self._refuse(
                position,
                column,
                f"expected a key that names one file, got {keys[position]!r} for {place} and, in row {row}, for "
                f"{elsewhere}; use a column that differs from file to file, or put the mirrors of one file in one cell",
            )

    def _places(self, position: int) -> list[str]:
        return [location(url) for url in self.mirrors.get(position) or (self.urls[position],)]

    def _join_statements(self, files: np.ndarray[Any, Any], first: np.ndarray[Any, Any]) -> None:
        """Let every row of a file state what any of them states; rows that contradict one another are refused."""
        rows = np.flatnonzero(files >= 0)
        for algorithm, stated in self.digests.items():
            said = rows[_stated(stated[rows])]
            joined = np.full(len(first), None, dtype=object)
            joined[files[said][::-1]] = stated[said][::-1]
            bad = np.unique(files[said[np.not_equal(stated[said], joined[files[said]])]])
            reason = InvalidRow(f"its {algorithm} digest differs from that of another row of the same file")
            self._refuse_files(files, dict.fromkeys(bad.tolist(), reason))
            stated[rows] = joined[files[rows]]
        said = rows[self.sizes[rows] >= 0]
        sizes = np.full(len(first), -1, dtype=np.int64)
        sizes[files[said][::-1]] = self.sizes[said][::-1]
        bad = np.unique(files[said[self.sizes[said] != sizes[files[said]]]])
        reason = InvalidRow("its size differs from that of another row of the same file")
        self._refuse_files(files, dict.fromkeys(bad.tolist(), reason))
        self.sizes[rows] = sizes[files[rows]]

    def _refuse_files(
        self, files: np.ndarray[Any, Any], reasons: Mapping[int, InvalidRow], column: str | None = None
    ) -> None:
        """Refuse all rows of some files, in one pass over the rows: a table can have many bad ones."""
        if not reasons:
            return
        for position in np.flatnonzero(np.isin(files, list(reasons))).tolist():
            reason = reasons[files[position]]
            self._refuse(position, column or self._url_column, type(reason)(f"{reason}: {redact(self.urls[position])}"))

    def _named(self, files: np.ndarray[Any, Any], first: np.ndarray[Any, Any]) -> list[str]:
        """Give each file its path below the version folder."""
        if self._plain:
            names = [self.urls[position].rpartition("/")[2] for position in unpacked(first)]
            if all(are_plain(names[start : start + BLOCK]) for start in range(0, len(names), BLOCK)):
                return names
        names = []
        unnamed: dict[int, InvalidRow] = {}
        suffix = self.options.suffix
        for file, position in enumerate(unpacked(first)):
            try:
                names.append(default_name(basename(self.urls[position]), suffix))
            except UnsafePath as error:
                names.append("")
                unnamed[file] = UnsafePath(f"{error}; give a path template") if self.in_table else error
        self._refuse_files(files, unnamed)
        return names

    def _named_by_template(self, keys: list[str]) -> tuple[list[str], np.ndarray[Any, Any], np.ndarray[Any, Any]]:
        """With a path template a row names its own path, so rows of one URL may ask for several files."""
        assert self.path_template is not None
        paths: list[str] = [""] * len(self.rows)
        for start, block in self._blocks():
            made, refused = self.path_template.apply(block)
            for position, (name, reason) in refused.items():
                self._refuse(start + position, name, reason)
            for position, path in enumerate(made, start):
                try:
                    paths[position] = "" if path is None else safe_path(path)
                except UnsafePath as error:
                    self._refuse(position, "path template", error)
        files, first = group_rows([keys, paths], self.errors)
        return [paths[position] for position in first.tolist()], files, first

    def _refuse_collisions(self, names: list[str], files: np.ndarray[Any, Any], first: np.ndarray[Any, Any]) -> None:
        templated = self.path_template is not None
        advice = "make the path template differ for the two" if templated else "give a path template"
        good = np.zeros(len(names), dtype=bool)
        used = files.copy()
        used[list(self.errors)] = -1
        good[used[used >= 0]] = True
        reasons: dict[int, InvalidRow] = {}
        for file, other in find_collisions(names, good):
            if file not in reasons:
                how = "is also that"
                if names[file] != names[other]:
                    alike = fold(names[file]) == fold(names[other])
                    how = "differs only in case or Unicode form from" if alike else "cannot stand beside"
                    how = f"{how} {names[other]!r}"
                row = label_text(self.rows.index[int(first[other])])
                reasons[file] = UnsafePath(f"its path {names[file]!r} {how} of row {row}; {advice}")
        self._refuse_files(files, reasons, "path template" if templated else None)

    def _aliases(self, files: np.ndarray[Any, Any], first: np.ndarray[Any, Any]) -> dict[int, str]:
        if len(first) == len(files):
            return {}
        urls = self.urls
        firsts = first.tolist()
        return {
            row: urls[row]
            for row, file in enumerate(files.tolist())
            if file >= 0 and urls[row] is not urls[firsts[file]] and urls[row] != urls[firsts[file]]
        }

    def _requests(
        self, keys: list[str], names: list[str], files: np.ndarray[Any, Any], first: np.ndarray[Any, Any]
    ) -> TableRequests:
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
            copy_of=find_copies(file_keys, files) if self.path_template is not None else {},
        )


def _template(text: str | None, *, for_url: bool) -> Template | None:
    return None if text is None else Template(text, for_url=for_url)


def _stated(column: np.ndarray[Any, Any]) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """Return which cells of a column of digests state one."""
    return np.fromiter((cell is not None for cell in column.tolist()), dtype=bool, count=len(column))


def label_text(label: object) -> str:
    """Return a row's label as a message shows it, without the names of numpy's types."""
    if isinstance(label, tuple):
        return f"({', '.join(map(label_text, label))})"
    return repr(label.item() if isinstance(label, np.integer | np.floating | np.bool_) else label)
