"""What a cache has open, and the calls it has under way.

The folder, the private loop and the sources are made when they are first needed and ended together. The environment
is read here, at the edge, once.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import sys
import threading
import warnings
from concurrent.futures import wait
from typing import TYPE_CHECKING, Any, Final, TypeVar

from framefetch.claims import Claims
from framefetch.engine.descriptors import raise_limit
from framefetch.engine.local import LocalEngine
from framefetch.errors import BytesLost, ManifestError, ManifestLost, NotAManifest, PlanError
from framefetch.options import Options, TableOptions
from framefetch.portal import Portal
from framefetch.run import Run
from framefetch.sources.environment import Environment
from framefetch.store.files import PRIVATE
from framefetch.store.folder import OLDER, CacheFolder
from framefetch.store.manifest import Manifest
from framefetch.table.addresses import basename
from framefetch.table.naming import check_version, default_name
from framefetch.urls import checked_host_map

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Mapping
    from concurrent.futures import Future
    from netrc import netrc

    from framefetch.engine.base import Engine
    from framefetch.sources.base import Source
    from framefetch.store.exchange import ImportReport
    from framefetch.table.planned import PlannedRows
    from framefetch.table.result import FetchResult

__all__ = ["SCHEMES", "Job", "Works", "folder_of", "raise_limit"]

T = TypeVar("T")

#: URL schemes that can be fetched.
SCHEMES: Final = ("http", "https")
#: Seconds to wait for a cancelled run to commit what is finished.
STOP_SECONDS = 2.0
#: Seconds after which a waiting thread looks whether a signal has come.
TURN_SECONDS = 0.2


def folder_of(cache_dir: str | os.PathLike[str]) -> str:
    """Return a cache folder as it is meant: ``~`` is the user's home, and nothing is no folder.

    Raises
    ------
    PlanError
        Where it is empty, as of a variable of the shell that was never set.
    """
    place = os.path.expanduser(os.fspath(cache_dir))
    if not place:
        raise PlanError("expected a folder for the cache, got an empty name; '.' is the current one")
    return place


def _read_environment() -> Environment:
    """Read proxy variables and ``.netrc``, once."""
    return Environment(_read_proxies(), _read_logins())


def _read_proxies() -> dict[str, str]:
    """Return proxies by scheme; where only variables can name one and none does, nothing is imported to say so."""
    if sys.platform in ("darwin", "win32") or any(name.lower().endswith("_proxy") for name in os.environ):
        import urllib.request

        return urllib.request.getproxies()
    return {}


def _read_logins() -> netrc | None:
    """Return the logins of ``.netrc``, None where there is no such file."""
    named = os.environ.get("NETRC")
    try:
        os.lstat(os.path.expanduser("~/.netrc") if named is None else named)
    except FileNotFoundError:
        return None
    except OSError:
        pass  # it is there, and cannot be looked at
    from netrc import NetrcParseError, netrc

    try:
        return netrc(named)  # of the one that is not named, it looks who else may read it
    except FileNotFoundError:
        return None
    except (OSError, NetrcParseError) as error:
        warnings.warn(f"the .netrc file cannot be used: {error.__class__.__name__}", stacklevel=2)
        return None


class Works:
    """What a cache has open: its folder, its loop, its sources; made when first needed, ended together."""

    def __init__(self, cache_dir: str | os.PathLike[str], options: Options, host_map: Mapping[str, str]) -> None:
        self.options = options
        try:
            self.host_map = checked_host_map(host_map)
        except ValueError as error:
            raise PlanError(f"host_map: {error}") from None
        self.claims = Claims()
        self.sources: dict[str, Source] = {}
        self._cache_dir = folder_of(cache_dir)
        self._folder: CacheFolder | None = None
        self._portal: Portal | None = None
        self._guard = threading.RLock()
        self._taking_over = threading.RLock()
        self._closed = False
        self._jobs: dict[Job, Future[Any]] = {}

    @property
    def portal(self) -> Portal:
        """The private loop."""
        with self._guard:
            self._check_open()
            if self._portal is None:
                self._portal = Portal()
            return self._portal

    @property
    def folder(self) -> CacheFolder:
        """The open cache folder; a prototype's manifest found in it without ours is taken over."""
        return self.open_folder()

    def open_folder(self, stopped: Callable[[], bool] | None = None) -> CacheFolder:
        """Return the open cache folder; to take over a prototype's manifest reads all its files, and may be stopped.

        What is not taken over by then is with the next call, or the next process.
        """
        with self._guard:
            self._check_open()
            if self._folder is None:
                self._folder = CacheFolder(self._cache_dir, lock_timeout=self.options.lock_timeout)
            folder = self._folder
        with self._taking_over:
            if folder.older is not None:
                self._take_over(folder, folder.older, stopped)
        return folder

    def _take_over(self, folder: CacheFolder, older: str, stopped: Callable[[], bool] | None) -> None:
        from framefetch.store.exchange import import_manifest

        try:
            folder.prepare()
            report = import_manifest(folder.files, folder.manifest, older, self.host_map, _imported_path, stopped)
        except NotAManifest as error:
            folder.files.notices.append(f"not taken over: {error}")
        else:
            notices = (f"not taken over from {older}: {url}: {reason}" for url, reason in report.skipped)
            folder.files.notices.extend(notices)
            if not report.ended:
                return
        folder.taken_over()

    @property
    def is_new(self) -> bool:
        """Whether there is nothing yet where the folder will be, nor anything to take over: to look makes nothing."""
        signs = (PRIVATE, Manifest.NAME, OLDER)
        return self._folder is None and not any(os.path.lexists(os.path.join(self._cache_dir, sign)) for sign in signs)

    def free_space(self) -> int:
        """Return the bytes that are free where the folder is, or will be."""
        place = os.path.realpath(self._cache_dir)
        while not os.path.exists(place):
            place = os.path.dirname(place)
        return shutil.disk_usage(place).free

    def look(self, action: Callable[[CacheFolder], T]) -> T:
        """Return what an action gives; where it finds that the manifest is lost, it is made anew first."""
        folder = self.folder
        manifest = folder.manifest
        try:
            return action(folder)
        except ManifestError as error:
            if not (isinstance(error, ManifestLost) or folder.manifest is not manifest):
                raise
            folder.mend(manifest)
        return action(folder)

    def import_manifest(self, source: str | os.PathLike[str]) -> ImportReport:
        """Take over the files of a prototype's manifest."""
        from framefetch.store.exchange import import_manifest

        folder = self.folder
        folder.prepare()
        return import_manifest(folder.files, folder.manifest, os.fspath(source), self.host_map, _imported_path)

    def _check_open(self) -> None:
        if self._closed:
            raise RuntimeError("this cache is closed")

    async def open_sources(self) -> Mapping[str, Source]:
        """Return the sources, made when first asked for; on the private loop, which they belong to."""
        if not self.sources:
            # aiohttp: a run that finds everything held needs none of it.
            from framefetch.sources.http import HttpSource
            from framefetch.sources.names import Addresses

            environment = _read_environment() if self.options.trust_env else Environment()
            addresses = Addresses(block_private=self.options.transfer.block_private)
            http = HttpSource(self.options.timeouts, self.options.headers, self.host_map, environment, addresses)
            self.sources = dict.fromkeys(SCHEMES, http)
        return self.sources

    async def _close_sources(self) -> None:
        for source in set(self.sources.values()):
            await source.close()

    def begin(self, job: Job, go: Callable[[], Coroutine[Any, Any, T]]) -> Future[T]:
        """Start a call on the private loop, and know that it is under way: none begins behind the end."""
        with self._guard:
            future = self.portal.submit(go)
            self._jobs[job] = future
        future.add_done_callback(lambda _: self._jobs.pop(job, None))
        return future

    def close(self) -> None:
        """End everything; calls that are under way are stopped, and have their results."""
        if self._portal is not None:
            self._portal.require_usable()
        with self._guard:
            if self._closed:
                return
            self._closed = True
            jobs = dict(self._jobs)
        for job in jobs:
            job.stop()
        wait(jobs.values())
        with self._guard:
            if self._portal is not None:
                self._portal.submit(self._close_sources).result()
                self._portal.close()
            if self._folder is not None:
                self._folder.close()


def _imported_path(version: str, url: str) -> str:
    return f"{check_version(version)}/{default_name(basename(url), TableOptions().suffix)}"


class Job:
    """One call: planned, then run on the private loop.

    Parameters
    ----------
    works : Works
        What the cache has open.
    engine : Engine or None
        What fetches many files at once; None for `LocalEngine`.
    plan : callable
        Makes the plan; called in a thread.
    fixed_paths : bool
        Whether a file must be where the plan says, even if it is held elsewhere.

    Attributes
    ----------
    future : Future of FetchResult
        Done when the run has ended, also after `stop`.
    """

    def __init__(
        self, works: Works, engine: Engine | None, plan: Callable[[], PlannedRows], *, fixed_paths: bool
    ) -> None:
        self._works = works
        self._engine = engine or LocalEngine()
        self._plan = plan
        self._fixed_paths = fixed_paths
        self._run: Run | None = None
        self._stopped = False
        self._portal = works.portal
        self.future: Future[FetchResult] = works.begin(self, self._go)

    async def _go(self) -> FetchResult:
        loop = asyncio.get_running_loop()
        rows = await loop.run_in_executor(None, self._plan)
        folder = await loop.run_in_executor(None, self._works.open_folder, self._is_stopped)
        manifest = folder.manifest
        try:
            return await self._begin(rows, folder)
        except ManifestError as error:
            # Lost while it was used, or made anew by another call: what is held by now is found again by a second run.
            if not (isinstance(error, ManifestLost) or folder.manifest is not manifest):
                raise
            await loop.run_in_executor(None, folder.mend, manifest)
        return await self._begin(rows, folder)

    async def _begin(self, rows: PlannedRows, folder: CacheFolder) -> FetchResult:
        before = self._run
        self._run = Run(rows, folder, self._works.options, fixed_paths=self._fixed_paths)
        if before is not None:
            self._run.meter, self._run.warnings = before.meter, before.warnings
        if self._stopped:
            self._run.stop()
        return await self._run.finish(self._engine, self._works.open_sources, self._works.claims)

    def _is_stopped(self) -> bool:
        return self._stopped

    def stop(self) -> None:
        """End the run soon; what is finished is committed."""
        self._stopped = True
        if self._run is not None:
            self._portal.call(self._run.stop)

    def close(self) -> None:
        """Close what the cache has open.

        Raises
        ------
        BytesLost
            Where the disk could not keep files of this call after all; its ``result`` says which.
        """
        try:
            self._works.close()
        except BytesLost as error:
            if self._run is not None:
                error.result = self._run.without(error)
            raise

    def wait(self) -> FetchResult:
        """Wait in any thread; what a signal handler raises stops the job and carries the partial result.

        Raises
        ------
        FramefetchError
            A fatal one, or why there is no plan.
        """
        try:
            self._wait()
        except BaseException as interrupt:
            self.stop()
            self._wait()
            with contextlib.suppress(AttributeError):  # a class with slots has no room for it
                interrupt.result = self._partial()  # type: ignore[attr-defined]
            raise
        return self._ended(self.future.result())

    def _wait(self) -> None:
        """Wait in short turns.

        The system may hand a signal to any thread; Python's handler runs in the main one, which does not wake for what
        another thread was handed.
        """
        while not self.future.done():
            wait([self.future], timeout=TURN_SECONDS)

    def _partial(self) -> FetchResult | None:
        error = self.future.exception()
        return self.future.result() if error is None else getattr(error, "result", None)

    async def wait_async(self) -> FetchResult:
        """Wait in any loop; cancellation stops the job, and returns once what is finished is committed.

        In short turns too: a notebook's kernel that is interrupted cancels the cell, and does not wake a loop that
        sleeps until something comes.
        """
        future = asyncio.wrap_future(self.future)
        try:
            while not future.done():
                await asyncio.wait([future], timeout=TURN_SECONDS)
            return self._ended(future.result())
        except asyncio.CancelledError:
            self.stop()
            await asyncio.wait([future], timeout=STOP_SECONDS)
            raise

    def _ended(self, result: FetchResult) -> FetchResult:
        """Return the result, after warning the caller of what was found on the way."""
        if self._run is not None:
            for message in self._run.warnings:
                warnings.warn(message, stacklevel=4)
        return result
