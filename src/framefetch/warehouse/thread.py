"""The warehouse on a thread of its own, for code that blocks."""

from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING, Any, Literal, ParamSpec, Self, TypeVar

from framefetch.warehouse.content import OLD_DATE, Content, StoredFile
from framefetch.warehouse.server import Warehouse

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable, Coroutine
    from types import TracebackType

    from framefetch.warehouse.answers import Answer, Scripted
    from framefetch.warehouse.listener import ConnectionAnswer
    from framefetch.warehouse.record import Event, RequestRecord

__all__ = ["WarehouseThread"]

_P = ParamSpec("_P")
_T = TypeVar("_T")


class WarehouseThread:
    """A `Warehouse` with a thread and an event loop of its own.

    Everything is as there, may be called from any thread, and blocks until it is done.

    Parameters
    ----------
    host, port, ssl_context
        As for `Warehouse`.

    Examples
    --------
    >>> with WarehouseThread() as warehouse:
    ...     url = warehouse.add(1085755199, 8192)
    """

    def __init__(self, host: str = "127.0.0.1", port: int = 0, *, ssl_context: ssl.SSLContext | None = None) -> None:
        self._warehouse = Warehouse(host, port, ssl_context=ssl_context)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="warehouse", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        try:
            self._await(self._warehouse.__aenter__())
        except BaseException:
            self._stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self._await(self._warehouse.__aexit__(kind, error, trace))
        finally:
            self._stop()

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_forever()

    def _stop(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _await(self, work: Coroutine[Any, Any, _T], timeout: float | None = None) -> _T:
        future = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return future.result(timeout)
        except BaseException:  # a timeout or an interrupt: nothing is to be left waiting over there
            future.cancel()
            raise

    def _do(self, function: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> _T:
        async def work() -> _T:
            return function(*args, **kwargs)

        return self._await(work())

    @property
    def port(self) -> int:
        """The port listened on."""
        return self._warehouse.port

    @property
    def base_url(self) -> str:
        """Scheme, host and port, without a slash at the end."""
        return self._warehouse.base_url

    def path(self, key: int | str) -> str:
        """As `Warehouse.path`."""
        return self._warehouse.path(key)

    def url(self, key: int | str) -> str:
        """As `Warehouse.url`."""
        return self._warehouse.url(key)

    def add(
        self,
        key: int | str,
        content: Content | int,
        *,
        etag: str | None = None,
        last_modified: str = OLD_DATE,
        content_type: str = "application/octet-stream",
    ) -> str:
        """As `Warehouse.add`."""
        # Made on the caller's thread: a storing of one entry needs no loop, and hashing would hold up the server.
        return self._warehouse.add(key, content, etag=etag, last_modified=last_modified, content_type=content_type)

    def remove(self, key: int | str) -> None:
        """As `Warehouse.remove`."""
        self._do(self._warehouse.remove, key)

    def file(self, key: int | str) -> StoredFile:
        """As `Warehouse.file`."""
        return self._warehouse.file(key)

    def script(self, key: int | str, *answers: Scripted, then: Scripted | None = None) -> None:
        """As `Warehouse.script`; functions run on the server's thread."""
        self._do(self._warehouse.script, key, *answers, then=then)

    def script_all(self, *answers: Scripted, then: Scripted | None = None) -> None:
        """As `Warehouse.script_all`."""
        self._do(self._warehouse.script_all, *answers, then=then)

    def script_connections(self, *answers: ConnectionAnswer) -> None:
        """As `Warehouse.script_connections`."""
        self._do(self._warehouse.script_connections, *answers)

    def limit(self, requests: int | None, answer: Answer | None = None) -> None:
        """As `Warehouse.limit`."""
        self._do(self._warehouse.limit, requests, answer)

    def release(self, key: int | str | None = None) -> None:
        """As `Warehouse.release`."""
        self._do(self._warehouse.release, key)

    def drop_connections(self, how: Literal["close", "reset"] = "close") -> None:
        """As `Warehouse.drop_connections`."""
        self._do(self._warehouse.drop_connections, how)

    @property
    def log(self) -> list[RequestRecord]:
        """As `Warehouse.log`."""
        return self._warehouse.log

    def requests(self, key: int | str | None = None) -> list[RequestRecord]:
        """As `Warehouse.requests`."""
        return self._warehouse.requests(key)

    def count(self, key: int | str | None = None) -> int:
        """As `Warehouse.count`."""
        return self._warehouse.count(key)

    def clear_log(self) -> None:
        """As `Warehouse.clear_log`."""
        self._do(self._warehouse.clear_log)

    @property
    def connections(self) -> int:
        """As `Warehouse.connections`."""
        return self._warehouse.connections

    @property
    def open_connections(self) -> int:
        """As `Warehouse.open_connections`."""
        return self._warehouse.open_connections

    @property
    def peak_concurrency(self) -> int:
        """As `Warehouse.peak_concurrency`."""
        return self._warehouse.peak_concurrency

    def wait_for(
        self,
        key: int | str | None = None,
        count: int = 1,
        event: Event = "received",
        timeout: float | None = 30,
    ) -> None:
        """As `Warehouse.wait_for`, but blocks.

        Raises
        ------
        TimeoutError
            After `timeout` seconds.
        """
        self._await(self._warehouse.wait_for(key, count, event), timeout)
