"""One call of a cache: planned, run on the private loop, and waited for in whatever way its caller waits."""

from __future__ import annotations

import asyncio
import warnings
from concurrent.futures import Future, wait
from typing import TYPE_CHECKING, Final

from framefetch.engine.local import LocalEngine
from framefetch.errors import BytesLost, ManifestError, ManifestLost, give_result
from framefetch.portal import kept_awake
from framefetch.run import Run

if TYPE_CHECKING:
    from collections.abc import Callable

    from framefetch.engine.base import Engine
    from framefetch.store.folder import CacheFolder
    from framefetch.table.planned import PlannedRows
    from framefetch.table.result import FetchResult
    from framefetch.works import Works

__all__ = ["Job"]

#: Seconds to wait for a cancelled run to commit what is finished.
STOP_SECONDS: Final = 2.0
#: Seconds after which a waiting thread looks whether a signal has come.
TURN_SECONDS: Final = 0.2


class Job:
    """One call: planned, then run on the private loop, begun by whoever waits for it.

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
        Done when the run has ended, also after `stop`. It can be cancelled until the run begins, which then does not.
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
        self.future: Future[FetchResult] = Future()
        self._begun = False

    def begin(self) -> None:
        """Start it, if it is not under way."""
        if not self._begun:
            self._begun = True
            self._works.begin(self, self._run_to_the_end)

    async def _run_to_the_end(self) -> None:
        if self.future.set_running_or_notify_cancel():
            try:
                self.future.set_result(await self._go())
            except BaseException as error:  # noqa: BLE001 - it is raised where the result is waited for
                self.future.set_exception(error)

    async def _go(self) -> FetchResult:
        loop = asyncio.get_running_loop()
        rows = await loop.run_in_executor(None, self._plan)
        try:
            folder = await loop.run_in_executor(None, self._works.open_folder, self._is_stopped)
        except RuntimeError:
            if self._works.is_closed:
                return self._works.nothing_of(rows)
            raise
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
            self.begin()
            self._wait()
        except BaseException as interrupt:
            if self.future.cancel():
                raise
            self.stop()
            self._wait()
            give_result(interrupt, self._partial())
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
        """Wait in any loop; cancellation stops the job, carries the partial result, and ends once that is committed.

        The loop is kept awake: a notebook's kernel that is interrupted cancels the cell, and does not wake a loop that
        sleeps until something comes.
        """
        self.begin()
        future = asyncio.wrap_future(self.future)
        try:
            with kept_awake(asyncio.get_running_loop()):
                return self._ended(await asyncio.shield(future))
        except asyncio.CancelledError as cancelled:
            self.stop()
            await asyncio.wait([future], timeout=STOP_SECONDS)
            if self.future.done() and not self.future.cancelled():
                give_result(cancelled, self._partial())
            raise

    def _ended(self, result: FetchResult) -> FetchResult:
        """Return the result, after warning the caller of what was found on the way."""
        if self._run is not None:
            for message in self._run.warnings:
                warnings.warn(message, stacklevel=4)
        return result
