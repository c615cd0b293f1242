"""The engine of one process: a fixed set of workers over a lazily read plan."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING, Final

from framefetch.engine.dispatch import Dispatch
from framefetch.engine.lane import Lane
from framefetch.engine.limits import Bandwidth
from framefetch.engine.links import Links
from framefetch.engine.queue import Job
from framefetch.engine.retry import RetryRule, explained
from framefetch.engine.saver import Saver
from framefetch.engine.schedule import Schedule
from framefetch.engine.transfer import Way, fetch, told_of
from framefetch.errors import DigestMismatch, FramefetchError, Stalled, TooManyOpenFiles, first_of
from framefetch.models import Outcome, Receipt, Status
from framefetch.sources.decode import keeps_coded_bytes
from framefetch.store.files import SmallBody
from framefetch.urls import origin_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from framefetch.engine.base import Sink, Tools
    from framefetch.models import Requests
    from framefetch.sources.loan import Loan

__all__ = ["LocalEngine"]

#: Files of a host that is down that fail at one go, before others get their turn.
TURN: Final = 256
#: Seconds beyond what a host asks for: its time begins when its answer has left, and our clock counts milliseconds.
AFTER: Final = 0.01


class LocalEngine:
    """Fetches the files of a plan in this process."""

    async def run(self, requests: Requests, tools: Tools, sink: Sink) -> None:
        """Fetch every file; see `framefetch.engine.base.Engine`."""
        await _Run(requests, tools, sink).finish()


class _Run:
    """One plan on its way."""

    def __init__(self, requests: Requests, tools: Tools, sink: Sink) -> None:
        self._tools = tools
        self._sink = sink
        self._loop = asyncio.get_running_loop()
        self._workers = min(tools.options.limits.connections, len(requests))
        self._rule = RetryRule(tools.options.retry)
        self._schedule = Schedule(requests, tools.options.limits, self._rule, tools.take)
        self._bandwidth = Bandwidth(tools.options.limits.bandwidth)
        self._saver = Saver(tools.files, self._saved)
        self._dispatch = Dispatch(self._schedule, tools, self._saved, self._wake)
        self._links = Links(tools.options.refresh_url, requests)
        self._got = self._fetch if tools.options.refresh_url is None else self._fetch_renewed
        self._idle: deque[asyncio.Future[None]] = deque()
        self._alarm: asyncio.Handle | None = None
        self._alarm_at = 0.0
        self._told: dict[str, tuple[int, int]] = {}
        self._fatal: FramefetchError | None = None

    async def finish(self) -> None:
        """Run to the end, or to a fatal error."""
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._saver.run())
                group.create_task(self._dispatch.run())
                for _ in range(self._workers):
                    group.create_task(self._work())
                if not self._workers:
                    self._end()
        except BaseExceptionGroup as failures:
            raise first_of(failures) from None
        finally:
            if self._alarm is not None:
                self._alarm.cancel()

    # -- workers ------------------------------------------------------------------------------------------------

    async def _work(self) -> None:
        while (job := await self._next()) is not None:
            if job.cause is None:
                await self._deal_with(job)
                continue
            self._condemn(job, job.cause)
            await asyncio.sleep(0)

    async def _next(self) -> Job | None:
        while True:
            found = self._schedule.take(self._loop.time())
            if isinstance(found, Job):
                if found.cause is None and self._schedule.ready:
                    self._wake()  # there is more where this came from
                return found
            if self._schedule.done and not self._saver.pending:
                self._end()
                self._wake()
                return None
            await self._rest(found)

    def _end(self) -> None:
        self._saver.end()
        self._dispatch.end()

    async def _rest(self, until: float | None) -> None:
        """Wait until something has changed, or a time has come."""
        if until is not None and (self._alarm is None or self._alarm_at > until):
            if self._alarm is not None:
                self._alarm.cancel()
            # Its time is kept here: for a time that has come uvloop gives a handle that does not know when.
            self._alarm, self._alarm_at = self._loop.call_at(until, self._ring), until
        change = self._loop.create_future()
        self._idle.append(change)
        await change

    def _ring(self) -> None:
        self._alarm = None
        self._wake()

    def _wake(self) -> None:
        """Let one idle worker look again."""
        while self._idle:
            change = self._idle.popleft()
            if not change.done():
                change.set_result(None)
                return

    async def _deal_with(self, job: Job) -> None:
        """Let the courier ask for a file, and for others with the same connection; else make an attempt at it."""
        self._tell(job)
        trip = await self._dispatch.send(job)
        if trip is None:
            await self._attempt(job)
        elif trip.errand is not None:
            trip.errand.job.began = trip.loan.asked_at or self._loop.time()
            await self._attempt(trip.errand.job, trip.loan if trip.loan.asked else None)

    def _tell(self, job: Job) -> None:
        """Let the source know how much of a host may be asked before long, where that has changed."""
        outlook = self._schedule.outlook(job.origin)
        if self._told.get(job.origin) != outlook:
            self._told[job.origin] = outlook
            self._tools.sources[job.origin.partition(":")[0]].expect(job.url, *outlook)

    async def _attempt(self, job: Job, begun: Loan | None = None) -> None:
        job.attempts.made += 1
        try:
            got = await (self._got(job) if begun is None else self._fetch(job, begun))
        except FramefetchError as error:
            crowded = self._schedule.ended(job, error, self._loop.time())
            origin = job.origin
            self._failed(job, error, excused=crowded or (isinstance(error, Stalled) and error.early))
            self._dispatch.look(origin)
        except BaseException:
            self._schedule.release(job, self._loop.time())
            raise
        else:
            self._schedule.ended(job, None, self._loop.time())
            if isinstance(got, SmallBody):
                await self._saver.put(job, got)
            else:
                self._sink([self._outcome(job, got)])

    async def _fetch_renewed(self, job: Job) -> SmallBody | Receipt:
        return await self._links.fetch(job, self._fetch)

    async def _fetch(self, job: Job, begun: Loan | None = None) -> SmallBody | Receipt:
        lane = Lane(job, self._schedule, self._bandwidth, self._loop.time, self._wake)
        way = Way(job.url, lane, decode=_decodes(job), begun=begun, fresh=_was_wrong(job))
        try:
            return await fetch(job.request, way, self._tools)
        finally:
            lane.close()

    # -- what became of it --------------------------------------------------------------------------------------

    def _saved(self, batch: Sequence[tuple[Job, SmallBody]], results: Sequence[Receipt | FramefetchError]) -> None:
        done = []
        before = self._fatal
        for (job, small), result in zip(batch, results, strict=True):
            if isinstance(result, Receipt):
                done.append(self._outcome(job, result))
                continue
            if self._fatal is not None and result.fatal:
                continue  # one row tells what ended the run; this one was not finished
            try:
                self._failed(
                    job,
                    told_of(result, small, job.url, self._tools),
                    excused=isinstance(result, TooManyOpenFiles),
                )
            except FramefetchError as error:
                self._fatal = self._fatal or error
        self._sink(done)
        self._wake()
        if self._fatal is not None and before is None:
            raise self._fatal

    def _condemn(self, first: Job, cause: FramefetchError) -> None:
        """Let files of a host that is down fail with one cause, or go on to a mirror on another host."""
        origin, failed = first.origin, []
        for job in (first, *self._schedule.condemned(origin, TURN - 1)):
            urls = job.request.urls
            if len(urls) > 1:
                job.dead.update(at for at, url in enumerate(urls) if origin_of(url) == origin)
            mirror = _next_mirror(job) if len(urls) > 1 else None
            if mirror is None:
                failed.append(self._outcome(job, cause))
            else:
                job.mirror = mirror
                self._schedule.again(job, self._loop.time())
        self._sink(failed)

    def _failed(self, job: Job, error: FramefetchError, *, excused: bool = False) -> None:
        """Try another mirror, ask again later, or give the file up."""
        before = job.attempts.note(error)
        if error.fatal:
            self._give_up(job, error, "")
            raise error
        now = self._loop.time()
        if (rest := self._rule.rest(error)) is not None:
            self._schedule.hold(job.origin, now + rest + AFTER)
        if not error.retryable or (error.repeats is not None and before >= error.repeats):
            job.dead.add(job.mirror)
        mirror = _next_mirror(job)
        if mirror is None:
            self._give_up(job, error, f"after {job.attempts.made} attempts" if job.attempts.made > 1 else "")
            return
        if mirror > job.mirror:
            job.mirror = mirror
            self._schedule.again(job, now)
            return
        self._rule.count(job.attempts, kept=error.kept, excused=excused)
        # This mirror may be gone for good while an earlier one is only busy.
        decision = self._rule.decide(job.attempts, job.attempts.hope or error)
        if decision.wait is None:
            self._give_up(job, error, decision.reason)
            return
        job.mirror = mirror
        self._schedule.again(job, now + decision.wait)

    def _give_up(self, job: Job, error: FramefetchError, reason: str) -> None:
        self._sink([self._outcome(job, explained(error, job.attempts, reason))])

    def _outcome(self, job: Job, end: Receipt | FramefetchError) -> Outcome:
        good = isinstance(end, Receipt)
        self._links.finished(job)
        return Outcome(
            request=job.request,
            status=Status.DOWNLOADED if good else Status.FAILED,
            receipt=end if isinstance(end, Receipt) else None,
            error=None if isinstance(end, Receipt) else end,
            attempts=job.attempts.made,
            seconds=max(0.0, self._loop.time() - job.began) if job.began else 0.0,  # uvloop's clock is late
        )


def _decodes(job: Job) -> bool:
    """Return whether a coding is undone: not where the name, or the table after a wrong digest, means coded bytes."""
    return not keeps_coded_bytes(job.request.path) and not _was_wrong(job)


def _was_wrong(job: Job) -> bool:
    """Return whether other bytes came than the table states: whoever sent them may stand behind the connection."""
    return bool((job.attempts.repeats or {}).get(DigestMismatch))


def _next_mirror(job: Job) -> int | None:
    """Return the next usable mirror in turn, the same one where it is the only one, None where none is left."""
    count = len(job.request.urls)
    turns = ((job.mirror + step) % count for step in range(1, count + 1))
    return next((mirror for mirror in turns if mirror not in job.dead), None)
