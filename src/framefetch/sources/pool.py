"""Connections that are idle, kept for the next request to where they lead."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from asyncio import Future

    from framefetch.sources.connection import HttpConnection

__all__ = ["Pool"]


class Pool:
    """Idle connections by where they lead."""

    def __init__(self) -> None:
        self._idle: dict[str, list[HttpConnection]] = {}
        self._waiting: dict[str, deque[Future[HttpConnection]]] = {}

    def take(self, key: str, now: float) -> HttpConnection | None:
        """Return the idle connection that was used last, if one can be used at all."""
        idle = self._idle.get(key)
        while idle:
            connection = idle.pop()
            if connection.is_fresh(now):
                return connection
            connection.close()
        return None

    def last(self, key: str) -> HttpConnection | None:
        """Return the idle connection that was used last; it stays."""
        idle = self._idle.get(key)
        return idle[-1] if idle else None

    def put(self, key: str, connection: HttpConnection) -> None:
        """Keep a connection whose exchange has ended well; close any other."""
        if not connection.reusable:
            connection.close()
            return
        connection.rest()
        if not self._handed(key, connection):
            self._idle.setdefault(key, []).append(connection)

    def _handed(self, key: str, connection: HttpConnection) -> bool:
        """Give a connection to somebody who waits for one, if there is anybody."""
        waiting = self._waiting.get(key)
        if not waiting:
            return False
        waiting.popleft().set_result(connection)
        return True

    def free(self, key: str) -> Future[HttpConnection]:
        """Return a wait for a connection that nobody needs: one that is idle, or the next that is put here.

        It must be given back where nobody waits any longer.
        """
        loop = asyncio.get_running_loop()
        wait: Future[HttpConnection] = loop.create_future()
        if (idle := self.take(key, loop.time())) is not None:
            wait.set_result(idle)
        else:
            self._waiting.setdefault(key, deque()).append(wait)
        return wait

    def give_back(self, key: str, wait: Future[HttpConnection]) -> None:
        """End a wait, and keep the connection that came of it nevertheless."""
        if not wait.done():
            self._waiting[key].remove(wait)
        elif not self._handed(key, wait.result()):
            self._idle.setdefault(key, []).append(wait.result())

    def keep(self, key: str, connection: HttpConnection) -> None:
        """Keep a connection on which nothing is under way, to be used after all others."""
        connection.rest()
        if not self._handed(key, connection):
            self._idle.setdefault(key, []).insert(0, connection)

    def untried(self, key: str) -> list[HttpConnection]:
        """Return those on which nothing was asked yet; they stay."""
        return [connection for connection in self._idle.get(key, ()) if not connection.used]

    def drop_untried(self, key: str, until: float) -> None:
        """Close those on which nothing was asked yet and that are idle since before some time."""
        old = [connection for connection in self.untried(key) if connection.idle_since <= until]
        for connection in old:
            self._idle[key].remove(connection)
            connection.close()

    def close(self) -> None:
        """Close all idle connections."""
        for idle in self._idle.values():
            for connection in idle:
                connection.close()
        self._idle.clear()
