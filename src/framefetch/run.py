"""One call of `fetch_all`, from its plan to its result: what is held, what others fetch, what is left for the engine.

Runs on the cache's private loop. It knows the rooms but none of their crafts.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from array import array
from dataclasses import replace
from itertools import repeat
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

import numpy as np

from framefetch.claims import Claims, Identity, answers
from framefetch.engine.base import Engine, Tools
from framefetch.engine.descriptors import fitted
from framefetch.errors import BytesLost, FramefetchError, give_result
from framefetch.events import BytesReceived, Dispatcher, FileFinished, RunFinished, RunStarted
from framefetch.lookup import LookUp
from framefetch.models import Entry, Outcome, Status
from framefetch.sources.base import Meter
from framefetch.store.neighbours import Neighbours
from framefetch.store.room import require_room
from framefetch.store.sharing import SameContent
from framefetch.table.ledger import CODES, Ledger, recorded
from framefetch.table.result import FetchResult, RunFigures

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence

    from framefetch.models import Requests
    from framefetch.options import Options
    from framefetch.sources.base import Source
    from framefetch.store.folder import CacheFolder
    from framefetch.table.planned import PlannedRows

__all__ = ["Run"]

TICK_SECONDS = 0.2
#: Seconds that a stopped engine may take to end its transfers.
STOP_SECONDS = 2.0
#: Seconds between two looks at what other processes fetch: what a killed one costs the others.
LOOK_SECONDS = 0.1

T = TypeVar("T")
Files: TypeAlias = "np.ndarray[Any, np.dtype[np.int64]]"
OpenSources: TypeAlias = "Callable[[], Awaitable[Mapping[str, Source]]]"


class Run:
    """One run over a plan.

    Parameters
    ----------
    rows : PlannedRows
        The plan.
    folder : CacheFolder
        Where files are held.
    options : Options
        Everything that may be turned.
    """

    def __init__(self, rows: PlannedRows, folder: CacheFolder, options: Options, *, fixed_paths: bool) -> None:
        self.rows = rows
        self.folder = folder
        self.options = options
        self.ledger = Ledger(len(rows.requests))
        self.meter = Meter()
        self.warnings: list[str] = []
        self._stop = asyncio.Event()
        self._look_up = LookUp(rows, folder, options, self.ledger, fixed_paths=fixed_paths, stopped=self._stop.is_set)
        self._events = Dispatcher(options.observers)
        self._loop = asyncio.get_running_loop()
        self._claims = Claims()
        self._neighbours = Neighbours(folder, rows.requests, options.lock_timeout)
        self._inheriting: asyncio.Task[None] | None = None
        self._seconds = 0.0
        self._prepared = False
        #: In which manifest, and at which window of it, this run has looked for its files.
        self._looked_in, self._looked_at = folder.manifest, 0
        #: What is finished before it is known how much there is to do, and so before the run was announced.
        self._untold: list[Outcome] | None = []

    def stop(self) -> None:
        """End the run soon: what is finished is committed, the rest is cancelled."""
        self._stop.set()

    async def finish(self, engine: Engine, open_sources: OpenSources, claims: Claims) -> FetchResult:
        """Run to the end and return the result; sources are opened when something is to be fetched.

        Raises
        ------
        FramefetchError
            A fatal one; its attribute ``result``, like that of any other error, holds what was done until then.
        """
        began = time.monotonic()
        self._claims = claims
        try:
            await self._fetch(open_sources, engine)
        except Exception as error:
            self._seconds = time.monotonic() - began
            give_result(error, self.without(error) if isinstance(error, BytesLost) else self._result())
            raise
        finally:
            self._events.emit(BytesReceived(self.meter.so_far(), self.meter.requests, self._events.run))
            self._events.emit(RunFinished(time.monotonic() - began, self._events.run))
        self._seconds = time.monotonic() - began
        return self._result()

    def without(self, error: BytesLost) -> FetchResult:
        """Return the result without the files that the disk could not keep after all."""
        for file in self.rows.used():
            if self.rows.requests.path(file) in error.paths and self.ledger.holds(file):
                self.ledger.record([Outcome(self.rows.requests[file], Status.FAILED, error=error)])
        return self._result()

    def _result(self) -> FetchResult:
        for said in (self._look_up.warnings, self.folder.files.notices, self._neighbours.warnings):
            self.warnings += said
            said.clear()
        figures = RunFigures(self.meter.received, self.meter.requests, self._seconds, self._stop.is_set())
        return FetchResult(self.rows, self.ledger, self.folder.root, figures)

    # -- steps --------------------------------------------------------------------------------------------------

    async def _fetch(self, open_sources: OpenSources, engine: Engine) -> None:
        used = self.rows.used()
        self._looked_in = self.folder.manifest
        self._looked_at = await self._in_thread(self._neighbours.mark)
        first, others = await self._in_thread(self._look_up.divide, used)
        missing = await self._in_thread(self._look_up.look, first)
        looking = self._loop.create_task(self._look_on(others, missing, len(used)))
        ticking = self._loop.create_task(self._tick())
        try:
            if not len(others):
                await looking
            await self._fetch_missing(missing, open_sources, engine)
            more = await looking
            await self._fetch_missing(more, open_sources, engine)
            copies = self.rows.requests.copy_of
            await self._in_thread(self._copy, [file for file in (*missing, *more) if file in copies])
            if self.options.share_content:
                await self._in_thread(self._share)
        finally:
            ticking.cancel()
            self._look_up.end()
            try:
                await asyncio.wait([looking, *([self._inheriting] if self._inheriting else [])])
                looking.exception()  # where that is not why we are here, nobody is told
                await self._settle()
            finally:
                self._neighbours.end()

    async def _look_on(self, others: array[int], missing: Sequence[int], used: int) -> list[int]:
        """Look for the other files, which takes longer, and announce the run; return those that are not held."""
        try:
            more = await self._in_thread(self._look_up.look, others) if len(others) else []
        except BaseException:
            self._stop.set()  # what is under way ends; why is told by whoever waits for this
            raise
        copies = self.rows.requests.copy_of
        to_fetch = np.array([file for file in (*missing, *more) if file not in copies], dtype=np.int64)
        self._announce(used, to_fetch)
        return more

    async def _fetch_missing(self, missing: Sequence[int], open_sources: OpenSources, engine: Engine) -> None:
        """Fetch those of some files that are not held and that no other one is a copy of."""
        copies = self.rows.requests.copy_of
        to_fetch = np.array([file for file in missing if file not in copies], dtype=np.int64)
        if len(missing) and not self._prepared:
            await self._in_thread(self._prepare)
            self._prepared = True
        if len(to_fetch):
            provided = await self._in_thread(self._provide, to_fetch)
            self._found(provided)
            to_fetch = np.setdiff1d(to_fetch, provided, assume_unique=True)
            await self._in_thread(self._require_room, to_fetch)
        if len(to_fetch):
            sources = await open_sources()
            tools = Tools(sources, self.folder.files, self._fitted(len(to_fetch)), self.meter, self._neighbours.take)
            while len(to_fetch) and not self._stop.is_set():
                to_fetch = await self._fetch_claimed(to_fetch, tools, engine)

    async def _settle(self) -> None:
        """Wait until everything is recorded."""
        if self.folder.writable:
            await asyncio.shield(self._in_thread(self.folder.manifest.flush))
            # Nothing is under way, and everything is recorded where no power cut reaches it.
            if self._claims.are_settled and self.folder.manifest.durable:
                self.folder.journal.settle()

    def _announce(self, files: int, to_fetch: Files) -> None:
        known, unknown = self.rows.requests.total_bytes(to_fetch)
        expected = None if unknown else known
        held = files - len(to_fetch)
        self._events.emit(RunStarted(len(self.rows.files), files, held, len(to_fetch), expected, self._events.run))
        untold, self._untold = self._untold, None
        for outcome in untold or ():
            self._tell_of(outcome)

    def _tell_of(self, outcome: Outcome) -> None:
        """Tell whoever watches of a file that is finished; before the run was announced, as soon as it is."""
        if self._untold is not None:
            self._untold.append(outcome)
        else:
            self._events.emit(FileFinished(outcome, self._events.run))

    def _prepare(self) -> None:
        """Refuse a batch that cannot be written, before the first request."""
        self.folder.prepare(self.rows.requests.version)
        self._neighbours.begin(self._stop.is_set)

    def _same_content(self) -> SameContent:
        share, stopped = self.options.share_content, self._stop.is_set
        return SameContent(self.folder.files, self.folder.manifest, share=share, stopped=stopped)

    def _provide(self, to_fetch: Files) -> list[int]:
        """Make what is held under another name; return which files that were."""
        provided = []
        for file, receipt in self._same_content().provide(self.rows.requests, to_fetch.tolist()):
            self.ledger.record_held(file, receipt)
            provided.append(file)
        return provided

    def _share(self) -> None:
        """Let what was fetched share its bytes with what is the same."""
        self.folder.manifest.flush()
        files = np.flatnonzero(self.ledger.status == CODES[Status.DOWNLOADED]).tolist()
        self._same_content().share(self.rows.requests, ((file, self.ledger.md5[file]) for file in files))

    def _require_room(self, to_fetch: Files) -> None:
        """Refuse a batch that cannot fit, before the first request."""
        needed, _ = self.rows.requests.total_bytes(to_fetch)
        there = self.folder.files.waiting(self.rows.requests[file] for file in to_fetch.tolist())
        require_room(self.folder.root, needed - there, len(to_fetch))

    def _fitted(self, files: int) -> Options:
        """Return the options with no more connections than this process may have open files for."""
        limits, note = fitted(self.options.limits, files)
        self.warnings += [note] if note else []
        return replace(self.options, limits=limits)

    async def _fetch_claimed(self, to_fetch: Files, tools: Tools, engine: Engine) -> Files:
        """Fetch what no other run is fetching; return what the others left undone."""
        wanted, requests = to_fetch.tolist(), self.rows.requests
        keys, names = map(requests.keys.__getitem__, wanted), map(requests.names.__getitem__, wanted)
        others = self._claims.claim(list(zip(repeat(requests.version), keys, names)))
        mine = [file for at, file in enumerate(wanted) if at not in others] if others else wanted
        try:
            await self._in_thread(self._neighbours.look_back)
            await self._fetch_mine(mine, tools, engine)
        finally:
            if self._claims:
                self._claims.release((self._identity(file), None) for file in mine)
        waiting = {wanted[at]: future for at, future in others.items()}
        if waiting and self._neighbours.late:  # who has them may only find out at their turn that they are recorded
            left = set(await self._in_thread(self._look_up.look_again, list(waiting)))
            self._found(waiting.keys() - left)
            waiting = {file: future for file, future in waiting.items() if file in left}
        return await self._wait_for(waiting)

    async def _fetch_mine(self, files: Sequence[int], tools: Tools, engine: Engine) -> None:
        """Fetch files; then wait for those that other processes fetch, and fetch what those did not record."""
        waiting: list[int] = []
        while (files or waiting) and not self._stop.is_set():
            if files:
                await self._drive(engine, self.rows.requests.select(np.array(files, dtype=np.int64)), tools)
                waiting += self._neighbours.put_aside()
            left = await self._in_thread(self._look_up.look_again, waiting)
            self._found(set(waiting).difference(left))
            abandoned = await self._in_thread(self._neighbours.abandoned, left)
            files = await self._in_thread(self._look_up.look, array("q", abandoned)) if abandoned else []
            self._found(set(abandoned).difference(files))
            waiting = [file for file in left if file not in set(abandoned)]
            if waiting and not abandoned:
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._stop.wait(), LOOK_SECONDS)

    def _found(self, files: Iterable[int]) -> None:
        """Give back files that this run need not fetch any more, and tell of those that others have recorded."""
        found = list(files)
        self._neighbours.give_back(found)
        for file in found if self._events else ():
            if self.ledger.holds(file):
                self._tell_of(Outcome(self.rows.requests[file], Status.CACHED))

    async def _wait_for(self, others: dict[int, asyncio.Future[Outcome | None]]) -> Files:
        left = []
        for file, future in others.items():
            stopping = self._loop.create_task(self._stop.wait())
            await asyncio.wait((asyncio.ensure_future(future), stopping), return_when=asyncio.FIRST_COMPLETED)
            stopping.cancel()
            outcome = future.result() if future.done() else None
            if outcome is None or not answers(outcome, self.rows.requests[file]):
                left.append(file)
            elif outcome.receipt is not None:
                self.ledger.record_held(file, outcome.receipt)
            else:
                self.ledger.record([Outcome(self.rows.requests[file], outcome.status, error=outcome.error)])
        return np.array(left, dtype=np.int64)

    async def _drive(self, engine: Engine, requests: Requests, tools: Tools) -> None:
        """Run the engine until it ends or the run is stopped."""
        working = self._loop.create_task(engine.run(requests, tools, self._sink))
        stopping = self._loop.create_task(self._stop.wait())
        try:
            await asyncio.wait([working, stopping], return_when=asyncio.FIRST_COMPLETED)
        finally:
            stopping.cancel()
            if not working.done():
                working.cancel()
                await asyncio.wait([working], timeout=STOP_SECONDS)
            if not working.done():
                self._claims.leave(working)
            error = working.exception() if working.done() and not working.cancelled() else None
            # Whatever was published before the end is committed before anyone hears of the end.
            await asyncio.shield(self._in_thread(self.folder.manifest.flush))
        if error is not None:
            raise error

    def _copy(self, files: Sequence[int]) -> None:
        """Make the files that are the same as another one, wanted at a second path."""
        for file in files:
            request, first = self.rows.requests[file], self.rows.requests.copy_of[file]
            if not self.ledger.holds(first):
                self.ledger.share(first, file)
                continue
            if self._stop.is_set():
                continue  # it was not made, and is cancelled
            source = self.ledger.places.get(first) or self.rows.requests.path(first)
            try:
                receipt = self.folder.files.copy(source, request)
            except FramefetchError as error:
                self.ledger.record([Outcome(request, Status.FAILED, error=error)])
                continue
            made = Entry(request.version, request.key, request.path, receipt, time.time())
            self.folder.manifest.commit([made], made=True)
            self.ledger.share(first, file)

    # -- outcomes -----------------------------------------------------------------------------------------------

    def _sink(self, outcomes: Sequence[Outcome]) -> None:
        """Commit what was downloaded; it counts only then."""
        self._record([outcome for outcome in outcomes if outcome.receipt is None])
        done = [outcome for outcome in outcomes if outcome.receipt is not None]
        unknown = [outcome for outcome in done if self._look_up.is_unknown(outcome.request.index)]
        self._commit(unknown, unknown=True)
        if len(unknown) < len(done):
            known = [outcome for outcome in done if not self._look_up.is_unknown(outcome.request.index)]
            self._commit(known, unknown=False)

    def _commit(self, done: Sequence[Outcome], *, unknown: bool) -> None:
        now = time.time()
        entries = [
            Entry(outcome.request.version, outcome.request.key, outcome.request.path, outcome.receipt, now)
            for outcome in done
            if outcome.receipt is not None
        ]

        def committed(kept: Sequence[Entry]) -> None:
            self._loop.call_soon_threadsafe(self._record, done if len(kept) == len(done) else recorded(done, kept))

        if entries:
            manifest = self.folder.manifest  # another call may have made it anew since, with windows of its own
            unknown_at = self._looked_at if unknown and manifest is self._looked_in else None
            manifest.commit(entries, committed, unknown_at, made=True)

    def _record(self, outcomes: Sequence[Outcome]) -> None:
        if not outcomes:
            return
        self.ledger.record(outcomes)
        self._neighbours.give_back([outcome.request.index for outcome in outcomes])
        self._claims.release((self._identity(outcome.request.index), outcome) for outcome in outcomes)
        if self._events:
            for outcome in outcomes:
                self._tell_of(outcome)

    def _identity(self, file: int) -> Identity:
        return self.rows.requests.version, self.rows.requests.keys[file], self.rows.requests.names[file]

    async def _tick(self) -> None:
        while True:
            self._neighbours.beat()
            if self._neighbours.bereaved and (self._inheriting is None or self._inheriting.done()):
                self._inheriting = self._loop.create_task(self._inherit())
            if self._events and self._untold is None:
                self._events.emit(BytesReceived(self.meter.so_far(), self.meter.requests, self._events.run))
            await asyncio.sleep(TICK_SECONDS)

    async def _inherit(self) -> None:
        """Take over what another process left; where that fails, its files are fetched again."""
        with contextlib.suppress(FramefetchError):
            await self._in_thread(self._neighbours.inherit)

    async def _in_thread(self, function: Callable[..., T], *arguments: Any) -> T:
        return await self._loop.run_in_executor(None, function, *arguments)
