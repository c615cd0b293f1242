"""What the warehouse remembers: every request, and the waiting for them."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from dataclasses import dataclass, replace
from typing import Literal, get_args

__all__ = ["Event", "RequestLog", "RequestRecord"]

#: What can be waited for: a request has arrived; its answer has come to a hold or hang; it has ended, in whatever
#: way; what was to be pushed after it has been sent.
Event = Literal["received", "held", "answered", "pushed"]


@dataclass(frozen=True, slots=True)
class RequestRecord:
    """One request, and what became of it.

    Parameters
    ----------
    method : str
        As sent.
    target : str
        The request target, byte for byte as sent (bytes that are no UTF-8 as surrogate escapes).
    path : str
        The target without its query, and without scheme and host.
    headers : tuple of (str, str)
        All fields as received, in order.
    received_at : float
        `time.monotonic` when the head was complete.
    connection : int
        Number of the TCP connection, from 1.
    number : int
        Number of the request among those to `path`, from 1.
    status : int, default 0
        The status sent; 0 while nothing is, or where the answer was no HTTP.
    body_bytes : int, default 0
        Body bytes handed to the operating system or waiting in its place. Where the client left early, some were
        never received.
    answered_at : float or None, default None
        `time.monotonic` when the answer ended, None while it is under way.
    """

    method: str
    target: str
    path: str
    headers: tuple[tuple[str, str], ...]
    received_at: float
    connection: int
    number: int
    status: int = 0
    body_bytes: int = 0
    answered_at: float | None = None

    def header(self, name: str, default: str | None = None) -> str | None:
        """Return the first value of a field, whatever the case of its name."""
        wanted = name.lower()
        return next((value for key, value in self.headers if key.lower() == wanted), default)

    def header_list(self, name: str) -> list[str]:
        """Return all values of a field."""
        wanted = name.lower()
        return [value for key, value in self.headers if key.lower() == wanted]


class RequestLog:
    """Records by serial number, counts of events, and who waits for them. Lives on the server's loop."""

    def __init__(self) -> None:
        self._records: dict[int, RequestRecord] = {}
        self._next = 0
        self._counts: Counter[tuple[Event, str | None]] = Counter()
        self._waiting: list[tuple[tuple[Event, str | None], int, asyncio.Future[None]]] = []

    def records(self, path: str | None) -> list[RequestRecord]:
        """Return the records of a path, or all, in order of arrival."""
        # A copy is taken first: it is atomic, and other threads read while this one writes.
        return [record for record in list(self._records.values()) if path is None or record.path == path]

    def open(self, record: RequestRecord) -> int:
        """Take in a request; return its serial number."""
        self._next += 1
        self._records[self._next] = record
        self.note("received", record.path)
        return self._next

    def close(self, serial: int, status: int, body_bytes: int) -> None:
        """Complete the record of a request whose answer has ended."""
        if record := self._records.get(serial):  # it may have been cleared meanwhile
            done = replace(record, status=status, body_bytes=body_bytes, answered_at=time.monotonic())
            self._records[serial] = done
            self.note("answered", record.path)

    def clear(self) -> None:
        """Forget all requests and counts."""
        self._records.clear()
        self._counts.clear()

    def note(self, event: Event, path: str) -> None:
        """Count an event and wake those who waited for it."""
        self._counts[event, path] += 1
        self._counts[event, None] += 1
        for key, count, future in self._waiting:
            if self._counts[key] >= count and not future.done():
                future.set_result(None)

    async def wait(self, event: Event, path: str | None, count: int) -> None:
        """Return once an event has happened `count` times since the log was cleared."""
        if event not in get_args(Event):
            raise ValueError(f"event must be one of {', '.join(get_args(Event))}; got {event!r}")
        key = (event, path)
        if self._counts[key] >= count:
            return
        entry = (key, count, asyncio.get_running_loop().create_future())
        self._waiting.append(entry)
        try:
            await entry[2]
        finally:
            self._waiting.remove(entry)


class Gates:
    """Where answers wait until a test lets them go on.

    A release frees every request that had arrived by then, also those that have not come to their hold yet:
    "wait until it arrived, then release" cannot lose the wake-up.
    """

    def __init__(self) -> None:
        self._freed: Counter[str] = Counter()
        self._held: dict[str, list[asyncio.Future[None]]] = {}

    async def wait(self, path: str, number: int, seconds: float | None) -> None:
        """Return when request `number` to `path` is freed, or after `seconds`."""
        if number <= self._freed[path]:
            return
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        held = self._held.setdefault(path, [])
        held.append(future)
        try:
            await asyncio.wait([future], timeout=seconds)
        finally:
            future.cancel()
            held.remove(future)

    def release(self, path: str, number: int) -> None:
        """Free the requests to `path` up to `number`."""
        self._freed[path] = max(self._freed[path], number)
        for future in self._held.get(path, ()):
            if not future.done():
                future.set_result(None)
