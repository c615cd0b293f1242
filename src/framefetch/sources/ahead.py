"""Connections made before they are asked for, to hosts that are far away.

How many requests a host bears is found out step by step, and each step would wait until its connections are made: a
round trip for TCP, another for TLS 1.3 (RFC 8446 section 2), before the one that brings the answer. So while a step is
measured, the connections of the next one are made. Where everything is near that would save nothing, and take time from
the requests under way.

One that lies idle can keep others waiting at a server that deals with few connections at a time. So none is made before
the server itself, and not only its system, has spoken on half as many as there are requests; none stays idle for
long; and once one could not be made, no more are.

Who needs a connection gets one that is being made already. If it takes so long that its first packet must have been
lost, any other that is free by then will do.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Final
from weakref import WeakSet

from framefetch.errors import FramefetchError

if TYPE_CHECKING:
    from asyncio import Task

    from framefetch.sources.connection import HttpConnection
    from framefetch.sources.dial import Dialer, Route
    from framefetch.sources.pool import Pool

__all__ = ["Ahead"]

#: Seconds that a connection, or else an answer, takes at least where a host is far away.
FAR: Final = 0.02
#: How many are made at a time where they are made sooner than that: so that answers are heard in between.
FEW: Final = 8
#: On so many connections, for each request that there may be, the server must have spoken.
SHARE: Final = 1 / 2
#: Seconds for which is looked whether it has.
LOOKED_FOR: Final = 5.0
#: Seconds after which a connection is late: TCP has lost its first packet, and waits for so long (RFC 6298 section 2).
LATE: Final = 1.0
#: Seconds that one may be idle, and so many times as long as it took to make the quickest.
IDLE: Final = 1.0
IDLE_TIMES: Final = 4


@dataclass(slots=True)
class _Host:
    """What is known of one host: requests there may be now, and soon; its connections; those that nobody waits for."""

    key: str
    route: Route | None = None
    now: int = 0
    soon: int = 0
    told_at: float = 0.0
    begun: bool = False
    wanted: int = 0
    refuses: bool = False
    made_in: float | None = None
    heard_in: float | None = None
    open: WeakSet[HttpConnection] = field(default_factory=WeakSet)
    making: deque[Task[HttpConnection]] = field(default_factory=deque)
    late: deque[Task[HttpConnection]] = field(default_factory=deque)
    next_look: asyncio.TimerHandle | None = None
    next_drop: asyncio.TimerHandle | None = None

    @property
    def is_far(self) -> bool:
        """Whether the quickest connection, or the quickest answer, took long."""
        return (self.made_in or 0.0) >= FAR or (self.heard_in or 0.0) >= FAR

    @property
    def speaks(self) -> bool:
        """Whether the server deals with many connections at a time."""
        return sum(connection.speaks for connection in self.open) >= SHARE * self.now


class Ahead:
    """Makes connections when they are needed, and some before that.

    Parameters
    ----------
    dialer : Dialer
        Who makes them.
    pool : Pool
        Where those lie that nobody needs yet.
    """

    def __init__(self, dialer: Dialer, pool: Pool) -> None:
        self._dialer = dialer
        self._pool = pool
        self._loop = asyncio.get_running_loop()
        self._hosts: dict[str, _Host] = {}
        self._tasks: set[Task[HttpConnection]] = set()
        #: Those that were given up, and have not ended yet.
        self._orphans: set[Task[HttpConnection]] = set()
        self._closed = False

    async def dial(self, route: Route, *, must_be_public: bool = False, must_be_new: bool = False) -> HttpConnection:
        """Return a connection: a new one, or where that takes long any that is free by then.

        Raises
        ------
        TransferError
            Why there is none.
        """
        if must_be_public:
            return await self._dialer.dial(route, must_be_public=True)
        host = self._host(route.key)
        host.route = route
        own = late = False
        if host.making:
            task = host.making.popleft()
        elif host.late:
            task, late = host.late.pop(), True
        else:
            host.wanted = max(0, host.wanted - 1)
            task, own = self._begin(host, route), True
        try:
            if must_be_new:
                return await task
            if not late:
                await asyncio.wait((task,), timeout=LATE)
            return task.result() if task.done() else await self._either(host, task)
        except asyncio.CancelledError:
            self._leave(host, task)
            raise
        except FramefetchError:
            if own:
                raise
        return await self.dial(route, must_be_new=must_be_new)  # that one was begun long before this was asked for

    async def _either(self, host: _Host, task: Task[HttpConnection]) -> HttpConnection:
        """Return the connection that is being made, or before that one that nobody needs any longer."""
        while True:
            free = self._pool.free(host.key)
            try:
                await asyncio.wait((task, free), return_when=asyncio.FIRST_COMPLETED)
            except asyncio.CancelledError:
                self._pool.give_back(host.key, free)
                raise
            if task.done():
                self._pool.give_back(host.key, free)
                return task.result()
            connection = free.result()
            if connection.is_fresh(self._loop.time()):
                host.late.append(task)  # whoever needs the next one waits for it, and begins no other
                return connection
            connection.close()

    def expect(self, key: str, now: int, soon: int) -> None:
        """Take note of how many requests a host may be asked at once, and before long."""
        host = self._host(key)
        if now != host.now:
            host.begun, host.wanted, host.told_at = False, 0, self._loop.time()
        host.now, host.soon = now, soon
        self._look(host)

    def heard(self, key: str, seconds: float) -> None:
        """Take note of how long an answer took to come."""
        host = self._hosts.get(key)
        if host is not None and host.soon > host.now:
            host.heard_in = seconds if host.heard_in is None else min(host.heard_in, seconds)
            self._look(host)

    def _host(self, key: str) -> _Host:
        host = self._hosts.get(key)
        if host is None:
            host = self._hosts[key] = _Host(key)
        return host

    async def _make(self, host: _Host, route: Route) -> HttpConnection:
        began = self._loop.time()
        connection = await self._dialer.dial(route)
        took = self._loop.time() - began
        host.made_in = took if host.made_in is None else min(host.made_in, took)
        host.open.add(connection)
        self._look(host)
        return connection

    def _look(self, host: _Host) -> None:
        """Begin to make what the next step will need, once for each step, when the host has shown what it can do."""
        if host.next_look is not None:
            host.next_look.cancel()
            host.next_look = None
        if host.begun or host.refuses or host.soon <= host.now or not host.is_far or self._closed:
            return
        if not host.speaks:
            if self._loop.time() - host.told_at < LOOKED_FOR:  # threads hear answers too, and do not tell
                host.next_look = self._loop.call_later(FAR, self._look, host)
            return
        host.begun = True
        host.wanted = host.soon - host.now - len(self._pool.untried(host.key)) - len(host.making)
        for _ in range(host.wanted if (host.made_in or 0.0) >= FAR else FEW):
            self._next(host)

    def _next(self, host: _Host) -> None:
        """Begin to make one that nobody has asked for, if more are wanted."""
        if host.wanted > 0 and host.route is not None and not host.refuses and not self._closed:
            host.wanted -= 1
            host.making.append(self._begin(host, host.route))

    def _begin(self, host: _Host, route: Route) -> Task[HttpConnection]:
        task = self._loop.create_task(self._make(host, route))
        task.add_done_callback(partial(self._made, host))
        self._tasks.add(task)
        return task

    def _made(self, host: _Host, task: Task[HttpConnection]) -> None:
        self._tasks.discard(task)
        if task in host.making or task in host.late or task in self._orphans:
            for waiting in (host.making, host.late):
                with contextlib.suppress(ValueError):
                    waiting.remove(task)
            self._orphans.discard(task)
            self._keep(host, task)
        if not task.cancelled():
            host.refuses = host.refuses or task.exception() is not None
            self._next(host)

    def _leave(self, host: _Host, task: Task[HttpConnection]) -> None:
        """Give up a connection that is being made; where it is made all the same, others have it."""
        if task.done():
            self._keep(host, task)
        else:
            task.cancel()
            self._orphans.add(task)

    def _keep(self, host: _Host, task: Task[HttpConnection]) -> None:
        """Keep the connection that was made and that nobody waits for, if there is one."""
        if task.cancelled() or task.exception() is not None:
            return
        if self._closed:
            task.result().close()
        else:
            self._pool.keep(host.key, task.result())
            self._watch(host)

    def _watch(self, host: _Host) -> None:
        """See to it that none of those that were made is idle for long."""
        if host.next_drop is None:
            host.next_drop = self._loop.call_later(_patience(host), self._drop, host)

    def _drop(self, host: _Host) -> None:
        host.next_drop = None
        self._pool.drop_untried(host.key, self._loop.time() - _patience(host))
        if any(not connection.used for connection in host.open):  # some may be on loan
            self._watch(host)

    async def close(self) -> None:
        """End what is under way."""
        self._closed = True
        for host in self._hosts.values():
            for timer in (host.next_look, host.next_drop):
                if timer is not None:
                    timer.cancel()
        for task in self._tasks:
            task.cancel()
        while self._tasks:  # each goes when what it leads to is closed, or kept, by `_made`
            await asyncio.wait(self._tasks)
            await asyncio.sleep(0)


def _patience(host: _Host) -> float:
    return IDLE + IDLE_TIMES * (host.made_in or 0.0)
