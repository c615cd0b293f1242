"""What a cache has open, and which calls it has under way.

The folder, the private loop and the sources are made when they are first needed and ended together. The environment
is read here, at the edge, once.
"""

from __future__ import annotations

import os
import shutil
import sys
import threading
import warnings
from concurrent.futures import wait
from typing import TYPE_CHECKING, Any, Final, TypeVar

from framefetch.claims import Claims
from framefetch.engine.descriptors import raise_limit
from framefetch.errors import ManifestError, ManifestLost, NotAManifest, PlanError, StorageError
from framefetch.options import Options, TableOptions
from framefetch.portal import Portal
from framefetch.sources.environment import Environment
from framefetch.store.files import PRIVATE
from framefetch.store.folder import OLDER, CacheFolder
from framefetch.store.manifest import Manifest
from framefetch.store.room import existing
from framefetch.table.addresses import basename
from framefetch.table.naming import check_version, default_name
from framefetch.urls import checked_host_map

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Mapping
    from concurrent.futures import Future
    from netrc import netrc

    from framefetch.job import Job
    from framefetch.sources.base import Source
    from framefetch.store.exchange import ImportReport
    from framefetch.table.planned import PlannedRows
    from framefetch.table.result import FetchResult

__all__ = ["SCHEMES", "Works", "raise_limit"]

T = TypeVar("T")

#: URL schemes that can be fetched.
SCHEMES: Final = ("http", "https")


def _path_of(given: object, name: str) -> str:
    """Return a path as it is meant: ``~`` is the user's home."""
    path = os.fspath(given) if isinstance(given, str | os.PathLike) else None
    if not isinstance(path, str):
        raise PlanError(f"{name}: expected a path, got {type(given).__name__}")
    if "\0" in path:
        raise PlanError(f"{name}: expected a path, got one with a null character in it: {path!r}")
    return os.path.expanduser(path)


def _folder_of(cache_dir: str | os.PathLike[str]) -> str:
    """Return a cache folder as it is meant: ``~`` is the user's home, and nothing is no folder.

    Raises
    ------
    PlanError
        Where it is empty, as of a variable of the shell that was never set.
    """
    place = _path_of(cache_dir, "cache_dir")
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
        self.cache_dir = _folder_of(cache_dir)
        self._folder: CacheFolder | None = None
        self._portal: Portal | None = None
        self._guard = threading.RLock()
        self._taking_over = threading.RLock()
        self._closed = False
        self._pid: int | None = None  # of the process that opened something
        self._jobs: dict[object, tuple[Job, Future[Any]]] = {}

    @property
    def portal(self) -> Portal:
        """The private loop."""
        self._require_same_process()
        with self._guard:
            self._check_open()
            if self._portal is None:
                self._pid = os.getpid()
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
        self._require_same_process()
        with self._guard:
            self._check_open()
            if self._folder is None:
                self._pid = os.getpid()  # before, as whoever forks meanwhile has its child's locks held for ever
                self._folder = CacheFolder(self.cache_dir, lock_timeout=self.options.lock_timeout)
            folder = self._folder
        with self._taking_over:
            if folder.older is not None:
                self._take_over(folder, folder.older, stopped)
        return folder

    def _take_over(self, folder: CacheFolder, older: str, stopped: Callable[[], bool] | None) -> None:
        from framefetch.store.exchange import import_manifest

        try:
            folder.prepare()
            report = import_manifest(folder.files, folder.manifest, older, self.host_map, _imported_names, stopped)
        except NotAManifest as error:
            folder.files.notices.append(f"not taken over: {error}")
        else:
            notices = (f"not taken over from {older}: {url}: {reason}" for url, reason in report.skipped)
            folder.files.notices.extend(notices)
            if not report.ended:
                return
        folder.taken_over()

    def is_new(self, version: str | None = None) -> bool:
        """Return whether there is nothing yet where the folder will be: then to look makes nothing."""
        signs = (PRIVATE, Manifest.NAME, OLDER, *([] if version is None else [version]))
        return self._folder is None and not any(os.path.lexists(os.path.join(self.cache_dir, sign)) for sign in signs)

    def free_space(self) -> int:
        """Return the bytes that are free where the folder is, or will be."""
        return shutil.disk_usage(existing(os.path.realpath(self.cache_dir))).free

    def look(self, action: Callable[[CacheFolder], T], version: str | None = None) -> T:
        """Return what an action gives; where it finds that the manifest is lost, it is made anew first.

        Parameters
        ----------
        action : callable
            What is to be done with the folder.
        version : str, optional
            A version whose files alone make a folder a cache, too.

        Raises
        ------
        StorageError
            Where there is no cache yet: to look makes none, of which all would be as recorded.
        """
        if self.is_new(version):
            raise StorageError(f"{self.cache_dir}: no such cache; expected one into which files were fetched")
        folder = self.folder
        while folder.files.notices:
            warnings.warn(folder.files.notices.pop(0), stacklevel=4)
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
        from framefetch.store.exchange import import_manifest, read_layout

        source = _path_of(source, "source")
        if self.is_new():
            read_layout(source)  # before a cache is made for it
        folder = self.folder
        folder.prepare()
        return import_manifest(folder.files, folder.manifest, source, self.host_map, _imported_names)

    def _require_same_process(self) -> None:
        if self._pid not in (None, os.getpid()):
            raise RuntimeError("this cache was opened before a fork; open a new one in each process")

    @property
    def is_closed(self) -> bool:
        """Whether it was closed, or is being closed."""
        return self._closed

    def _check_open(self) -> None:
        if self._closed:
            raise RuntimeError("this cache is closed")

    async def open_sources(self) -> Mapping[str, Source]:
        """Return the sources, made when first asked for; on the private loop, which they belong to."""
        if not self.sources:
            # Here: a run that finds everything held needs none of it.
            from framefetch.sources.http import HttpSource
            from framefetch.sources.names import Addresses

            environment = _read_environment() if self.options.trust_env else Environment()
            addresses = Addresses(block_private=self.options.transfer.block_private)
            http = HttpSource(self.options.timeouts, self.options.headers, self.host_map, environment, addresses)
            self.sources = dict.fromkeys(SCHEMES, http)
        return self.sources

    async def _close_sources(self) -> None:
        await self.claims.settle()
        for source in set(self.sources.values()):
            await source.close()

    def nothing_of(self, rows: PlannedRows) -> FetchResult:
        """Return the result of a call that was stopped before it had begun."""
        from framefetch.table.ledger import Ledger
        from framefetch.table.result import FetchResult, RunFigures

        ledger = Ledger(len(rows.requests))
        return FetchResult(rows, ledger, os.path.realpath(self.cache_dir), RunFigures(interrupted=True))

    def begin(self, job: Job, go: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Start a call on the private loop, and know before that it is under way: none begins behind the end."""
        self._require_same_process()
        call = object()  # a future keeps what it calls: it must not keep the job, which keeps the future and the cache
        with self._guard:
            portal = self.portal
            self._jobs[call] = job, job.future
            job.future.add_done_callback(lambda _: self._jobs.pop(call, None))
            portal.submit(go)

    def require_closable(self) -> None:
        """Refuse to close on the loop's own thread, which closing waits for.

        Raises
        ------
        RuntimeError
            There.
        """
        if self._portal is not None and self._pid == os.getpid():
            self._portal.require_usable()

    def close(self) -> None:
        """End everything; calls that are under way are stopped, and have their results.

        In a forked child what its parent has opened is left alone.
        """
        self.require_closable()
        if self._pid not in (None, os.getpid()):
            return
        with self._guard:
            if self._closed:
                return
            self._closed = True
            calls = list(self._jobs.values())
        for job, _ in calls:
            job.stop()
        wait([future for _, future in calls])
        with self._guard:
            try:
                if self._portal is not None:
                    self._portal.submit(self._close_sources).result()
                if self._folder is not None:
                    self._folder.close()  # whoever is told of its last commits is told on the loop
            finally:
                if self._portal is not None:
                    self._portal.close()


def _imported_names(version: str) -> Callable[[str], str]:
    folder = check_version(version)
    return lambda url: f"{folder}/{default_name(basename(url), TableOptions().suffix)}"
