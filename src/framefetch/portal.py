"""The private loop thread: where a cache does its work, whoever asks.

One loop for each cache means one pool of connections and one place that knows what is under way, for awaiting tasks
in any loop, for blocking callers, in a notebook whose own loop is running, and off the main thread. No loop is patched
and none is blocked.
"""

from __future__ import annotations

import asyncio
import os
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

from framefetch.threads import Threads

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterator
    from concurrent.futures import Future

__all__ = ["Portal", "kept_awake"]

T = TypeVar("T")

#: Threads for what blocks, other than files that are fetched: planning, looking, committing.
THREADS = min(32, (os.cpu_count() or 1) + 4)


def _new_loop() -> asyncio.AbstractEventLoop:
    """Return uvloop's loop where it is installed: it doubles the rate of requests."""
    try:
        import uvloop
    except ImportError:
        return asyncio.new_event_loop()
    return uvloop.new_event_loop()


#: Loops of callers that are kept awake: for how many waiting calls, and the next time.
_AWAKE: dict[asyncio.AbstractEventLoop, tuple[int, asyncio.TimerHandle]] = {}
#: Seconds after which such a loop wakes.
AWAKE_SECONDS = 0.2


@contextmanager
def kept_awake(loop: asyncio.AbstractEventLoop) -> Iterator[None]:
    """Let a loop wake now and then, however many calls wait in it; to be used in its own thread."""
    calls, timer = _AWAKE.get(loop, (0, None))
    _AWAKE[loop] = calls + 1, timer or loop.call_later(AWAKE_SECONDS, _wake, loop)
    try:
        yield
    finally:
        calls, timer = _AWAKE.pop(loop)
        if calls > 1:
            _AWAKE[loop] = calls - 1, timer
        else:
            timer.cancel()


def _wake(loop: asyncio.AbstractEventLoop) -> None:
    calls, _ = _AWAKE[loop]
    _AWAKE[loop] = calls, loop.call_later(AWAKE_SECONDS, _wake, loop)


class Portal:
    """A loop in a thread of its own."""

    def __init__(self) -> None:
        self._loop = _new_loop()
        self._threads = Threads(THREADS, "framefetch-work")
        self._loop.set_default_executor(self._threads)
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="framefetch-loop", daemon=True)
        try:
            self._thread.start()
        except RuntimeError:
            self._loop.close()
            raise
        except BaseException:  # an interrupt, while the thread begins
            self._loop.call_soon_threadsafe(self._loop.stop)
            raise

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_forever()
        finally:
            self._loop.run_until_complete(self._loop.shutdown_asyncgens())
            self._threads.shutdown()
            self._loop.close()

    def submit(self, function: Callable[[], Coroutine[Any, Any, T]]) -> Future[T]:
        """Start a coroutine on the loop, from any other thread.

        Raises
        ------
        RuntimeError
            After `close`, or on the loop's own thread.
        """
        self.require_usable()
        if self._closed:
            raise RuntimeError("this cache is closed")
        return asyncio.run_coroutine_threadsafe(function(), self._loop)

    def require_usable(self) -> None:
        """Refuse what waits for the loop on the loop's own thread.

        Raises
        ------
        RuntimeError
            There.
        """
        if threading.current_thread() is self._thread:
            raise RuntimeError("a cache cannot be used from its own observers")

    def call(self, function: Callable[[], object]) -> None:
        """Call a plain function on the loop soon; does nothing once it is closed."""
        if not self._closed:
            self._loop.call_soon_threadsafe(function)

    def close(self) -> None:
        """End the loop and its thread; closing twice is fine."""
        if self._closed:
            return
        self._closed = True
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
