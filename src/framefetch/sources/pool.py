"""Connections that are idle, kept for the next request to where they lead."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from framefetch.sources.connection import HttpConnection

__all__ = ["Pool"]


class Pool:
    """Idle connections by where they lead."""

    def __init__(self) -> None:
        self._idle: dict[str, list[HttpConnection]] = {}

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
        if connection.reusable:
            connection.rest()
            self._idle.setdefault(key, []).append(connection)
        else:
            connection.close()

    def close(self) -> None:
        """Close all idle connections."""
        for idle in self._idle.values():
            for connection in idle:
                connection.close()
        self._idle.clear()
