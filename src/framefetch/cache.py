"""`MetadataCache`: the one place that puts the pieces together.

Each call becomes a plan and a `Job` on the cache's private loop (see `framefetch.job`).
Awaitable verbs and their blocking twins are the same call, waited for in two ways.
"""

from __future__ import annotations

import asyncio
import os
import threading
import weakref
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NoReturn

import numpy as np
import pandas as pd

from framefetch.errors import FetchFailed, PlanError
from framefetch.job import Job
from framefetch.lookup import look_only
from framefetch.options import Options, TableOptions, checked_kind
from framefetch.store.audit import AuditFinding, Holdings, audit, count_holdings
from framefetch.store.exchange import ImportReport, export_manifest
from framefetch.store.prune import PruneReport, prune
from framefetch.store.rebuild import RebuildReport, rebuild
from framefetch.table.finder import RowFinder
from framefetch.table.naming import check_version
from framefetch.table.plan import plan_rows, plan_url
from framefetch.table.read import read_table
from framefetch.table.result import FetchResult, Plan
from framefetch.table.rows import distinct
from framefetch.threads import Threads
from framefetch.works import SCHEMES, Works

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Self

    from framefetch.engine.base import Engine
    from framefetch.store.folder import CacheFolder
    from framefetch.table.planned import PlannedRows

__all__ = ["MetadataCache"]


class MetadataCache:
    """A table of files, and a folder that holds them.

    Parameters
    ----------
    metadata_file : path or DataFrame
        The table: CSV, TSV or JSON lines, also gzipped, or Parquet.
    cache_dir : path, default "data/cache"
        Where files are held, ``~`` being the user's home; made when the first one is fetched.
    table : TableOptions, optional
        Which column says what; by default well-known names are used.
    host_map : mapping of str to str, optional
        Where to connect instead: ``{"testwarehouse:9000": "localhost:8080"}`` for a tunnel. Keys, entries and results
        keep the table's own URL.
    file_version : str, default "v0"
        Label of the data release: a folder below the cache.
    options : Options, optional
        Limits, retries, timeouts, checks, headers, observers.
    engine : Engine, optional
        What fetches many files at once; default is `LocalEngine`.

    Raises
    ------
    PlanError
        Where the table cannot be read.

    Examples
    --------
    >>> cache = MetadataCache("big_table.csv", "data/cache")  # doctest: +SKIP
    >>> subset = cache.dataframe.query("reporter_line == 'Ai148(TIT2L-GC6f-ICL-tTA2)'")  # doctest: +SKIP
    >>> result = await cache.fetch_all(subset)  # doctest: +SKIP
    >>> result.frame[["status", "path", "md5"]]  # doctest: +SKIP
    """

    def __init__(  # noqa: PLR0913 - the prototype's constructor, and five groups beside it
        self,
        metadata_file: str | os.PathLike[str] | pd.DataFrame,
        cache_dir: str | os.PathLike[str] = "data/cache",
        *,
        table: TableOptions | None = None,
        host_map: Mapping[str, str] | None = None,
        file_version: str = "v0",
        options: Options | None = None,
        engine: Engine | None = None,
    ) -> None:
        self._dataframe: pd.DataFrame = read_table(metadata_file)
        self.file_version = check_version(file_version)
        self._table = checked_kind(table, TableOptions, "table") or TableOptions()
        self._options = checked_kind(options, Options, "options") or Options()
        if engine is not None and not hasattr(engine, "run"):
            raise PlanError(f"engine: expected an Engine, got {type(engine).__name__}")
        self._engine = engine
        self._works = Works(cache_dir, self._options, {} if host_map is None else host_map)
        self.cache_dir = Path(self._works.cache_dir)
        # Nothing that the cache has may know the cache: it is closed when it is dropped, and not when it is collected.
        plan = partial(plan_rows, options=self._table, version=self.file_version, schemes=SCHEMES)
        self._finder = RowFinder(plan, self._table.base_url, SCHEMES)
        self._finalizer = weakref.finalize(self, _close, self._works)

    @property
    def dataframe(self) -> pd.DataFrame:
        """The table; another may be set.

        `fetch` and `get_file` plan it once. A row that they find is looked at again, but what else is changed in place
        is seen when the table is set anew.
        """
        return self._dataframe

    @dataframe.setter
    def dataframe(self, table: pd.DataFrame) -> None:
        if not isinstance(table, pd.DataFrame):
            raise PlanError(f"dataframe: expected a DataFrame, got {type(table).__name__}")
        self._dataframe = table
        self._finder.forget()

    def __repr__(self) -> str:
        """Return how many rows it has, and where their files are."""
        return f"MetadataCache({len(self.dataframe):,} rows, {str(self.cache_dir)!r}, version {self.file_version!r})"

    def __reduce__(self) -> NoReturn:
        """Refuse to be pickled: what it has open is of this process."""
        raise TypeError("a cache cannot be pickled or copied; make one in each process")

    # -- the table ----------------------------------------------------------------------------------------------

    def get_all(self, column: str) -> set[Any] | None:
        """Return the values of a column, None where there is no such column."""
        return distinct(self.dataframe, column)

    def get_all_reporter_lines(self) -> set[Any] | None:
        """Return the values of the column ``reporter_line``."""
        return self.get_all("reporter_line")

    def get_all_targeted_structures(self) -> set[Any] | None:
        """Return the values of the column ``targeted_structure``."""
        return self.get_all("targeted_structure")

    def get_all_genotypes(self) -> set[Any] | None:
        """Return the values of the column ``full_genotype``."""
        return self.get_all("full_genotype")

    # -- many files ---------------------------------------------------------------------------------------------

    def plan(self, df: pd.DataFrame, file_version: str | None = None) -> Plan:
        """Return what `fetch_all` would do; sends nothing.

        Parameters
        ----------
        df : DataFrame
            Rows of the table, or any table with the same columns.
        file_version : str, optional
            Label of the release; default is the cache's own.

        Raises
        ------
        PlanError
            Where nothing says where the files are, or a named column is missing.
        """
        rows = self._plan_rows(df, file_version)
        if self._works.is_new(rows.requests.version):
            return Plan(rows, np.zeros(len(rows.requests), dtype=bool), self._works.free_space())
        fixed = self._table.path_template is not None
        look = partial(look_only, rows, options=self._options, fixed_paths=fixed)
        return self._works.look(look, rows.requests.version)

    def _plan_rows(self, df: pd.DataFrame, file_version: str | None) -> PlannedRows:
        return plan_rows(df, self._table, self._version(file_version), SCHEMES)

    def _version(self, named: str | None) -> str:
        return self.file_version if named is None else named

    async def fetch_all(self, df: pd.DataFrame, file_version: str | None = None) -> FetchResult:
        """Hold the file of every row.

        Parameters
        ----------
        df : DataFrame
            Rows of the table, or any table with the same columns.
        file_version : str, optional
            Label of the release; default is the cache's own.

        Returns
        -------
        FetchResult
            One row for each row of `df`, on its index. A row that failed or is invalid does not stop the others.

        Notes
        -----
        To interrupt the cell of a notebook's kernel cancels the call. IPython in a terminal gives the prompt back and
        cancels nothing: use `mirror` there.

        Where it is cancelled, the CancelledError carries what was done in its attribute ``result``, as it does when a
        task of this call that was cancelled is awaited. `asyncio.timeout` and `asyncio.wait_for` raise a TimeoutError
        instead, whose ``__cause__`` it is. A call that could not end within two seconds has none; the next one finds
        what is held.

        Raises
        ------
        PlanError
            Where nothing says where the files are, or a named column is missing.
        StorageError, ManifestError
            Where no file can be held: the disk is full, the folder or the manifest cannot be used.
        """
        return await self._start(df, file_version).wait_async()

    def _start(self, df: pd.DataFrame, file_version: str | None) -> Job:
        fixed = self._table.path_template is not None
        plan = partial(plan_rows, df, self._table, self._version(file_version), SCHEMES)
        return Job(self._works, self._engine, plan, fixed_paths=fixed)

    def mirror(self, df: pd.DataFrame, file_version: str | None = None) -> FetchResult:
        """Hold the file of every row; blocking twin of `fetch_all`.

        Ctrl-C (or any exception that a signal handler raises) ends it within two seconds with everything finished
        committed; the exception then carries what was done in its attribute ``result``.
        """
        return self._start(df, file_version).wait()

    def get_all_files(self, df: pd.DataFrame, file_version: str | None = None) -> dict[str, Path]:
        """Hold the file of every row and return where each is, by its URL.

        That is the URL of the row: completed with `TableOptions.base_url`, and of several mirrors the first.

        The batch runs to its end first.

        Raises
        ------
        FetchFailed
            Where rows failed or were invalid, which it names, or were cancelled.
        """
        result = self.mirror(df, file_version)
        result.raise_for_failures()
        if not result.ok.all():
            left = result.frame[~result.ok]
            raise FetchFailed(f"{len(left):,} of {len(result.ok):,} rows were cancelled; run it again", frame=left)
        return result.by_url()

    # -- one file -----------------------------------------------------------------------------------------------

    async def fetch(self, url: str, file_version: str | None = None) -> Path:
        """Hold one file and return where it is.

        A URL of the table is held as its row states (digest, size, path); any other URL is held under its own name.

        Raises
        ------
        FramefetchError
            Why it is not held.
        """
        return _only_path(await self._start_one(url, file_version).wait_async())

    def get_file(self, file_url: str, file_version: str | None = None) -> Path:
        """Hold one file and return where it is; blocking twin of `fetch`."""
        return _only_path(self._start_one(file_url, file_version).wait())

    def _start_one(self, url: str, file_version: str | None) -> Job:
        """Start a job for one URL: by its row where the table has it, else by itself."""
        version = self._version(file_version)
        found = self._finder.find(self.dataframe, url)
        if found is not None:
            rows, row, address = found
            plan = partial(rows.only, row, address, version)
        else:
            plan = partial(plan_url, url, self._table, version, SCHEMES)
        fixed = found is not None and self._table.path_template is not None
        return Job(self._works, self._engine, plan, fixed_paths=fixed)

    # -- the folder ---------------------------------------------------------------------------------------------

    def verify(self, level: Literal["stat", "hash"] = "stat") -> list[AuditFinding]:
        """Compare the manifest with the disk; an empty list means that all is as recorded.

        Parameters
        ----------
        level : {"stat", "hash"}, default "stat"
            Whether sizes and times are compared, or every byte is read.
        """
        if level not in ("stat", "hash"):
            raise PlanError(f"level: expected 'stat' or 'hash', got {level!r}")
        return self._works.look(lambda folder: list(audit(folder.files, folder.manifest, level=level)))

    def status(self) -> Holdings:
        """Return how many files and bytes are held, by version and by how they were verified."""
        if self._works.is_new():
            return Holdings(0, 0, {}, {}, 0)
        return self._works.look(lambda folder: count_holdings(folder.manifest))

    def prune(self, keep: pd.DataFrame, file_version: str | None = None, *, dry_run: bool = False) -> PruneReport:
        """Remove the files that no row of a table wants; files of other versions are not looked at.

        Only files that the manifest owns are removed, and only where they are as it says.

        Parameters
        ----------
        keep : DataFrame
            The rows whose files stay.
        file_version : str, optional
            Label of the release; default is the cache's own.
        dry_run : bool, default False
            Whether to say only what would be removed.

        Raises
        ------
        PlanError
            Where the table names no file, not surely all that it wants, or nothing of what is held.
        """
        rows = self._plan_rows(keep, file_version)
        wanted = rows.named()
        return self._works.look(lambda folder: prune(folder, rows.requests.version, wanted, dry_run=dry_run))

    def rebuild(self) -> RebuildReport:
        """Make the manifest anew from the files: each one that something explains is read, and believed if it is right.

        What explains a file is the manifest as it is, what was set aside of it, a prototype's ``manifest.json``, or a
        digest in this cache's table. Files that nothing explains are reported and left alone.
        """
        try:
            requests = self._plan_rows(self.dataframe, None).requests
        except PlanError:  # a table without URLs explains nothing
            requests = None
        return self._works.look(lambda folder: rebuild(folder, requests, self._works.host_map), self.file_version)

    def update_manifest(self) -> Path:
        """Write ``manifest.json`` in the prototype's layout beside the manifest, atomically, and return its path.

        Each ``file_path`` is relative to the cache, where the file is.
        """

        def export(folder: CacheFolder) -> Path:
            target = os.path.join(folder.root, "manifest.json")
            folder.require_taken_over(target)
            export_manifest(folder.manifest, target)
            return Path(target)

        return self._works.look(export)

    def import_manifest(self, source: str | os.PathLike[str]) -> ImportReport:
        """Take over the files of a prototype's manifest without downloading anything; each is hashed first."""
        return self._works.import_manifest(source)

    def close(self) -> None:
        """Commit, sync and close everything; closing twice is fine.

        Calls that are under way are stopped, and have their results.

        Raises
        ------
        RuntimeError
            Where an observer of this cache calls it.
        """
        self._works.require_closable()
        if self._finalizer.detach() is not None:
            self._works.close()

    def __enter__(self) -> Self:
        """Return the cache."""
        return self

    def __exit__(self, *exc_info: object) -> None:
        """Close it."""
        self.close()

    async def __aenter__(self) -> Self:
        """Return the cache."""
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        """Close it."""
        thread = Threads(1, "framefetch-end")
        closing = asyncio.get_running_loop().run_in_executor(thread, self.close)
        thread.shutdown(wait=False)  # when it has done this
        await closing


def _close(works: Works) -> None:
    """Close what a dropped cache has open; a collector may find it in a thread that this would wait for."""
    if threading.current_thread().name.startswith("framefetch"):
        threading.Thread(target=works.close, name="framefetch-end").start()
    else:
        works.close()


def _only_path(result: FetchResult) -> Path:
    """Return the path of a result of one row, or raise why there is none."""
    if not result.ok.iloc[0]:
        row = result.frame.iloc[0]
        asked = f"{row['url']}: " if isinstance(row["url"], str) and row["url"] else ""
        raise FetchFailed(f"{asked}{row['error_type']}: {row['error']}", frame=result.frame)
    return Path(result.paths.iloc[0])
