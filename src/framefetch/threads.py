"""Threads for blocking work: a pool that goes on after the end of a script's main part, and calls nobody waits for.

The pools of `concurrent.futures` are shut down as soon as the main thread ends, before the threads that are waited for
then: a mirror in one of those would lose its threads on the way.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any, ParamSpec, TypeAlias, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Threads", "aside"]

P = ParamSpec("P")
T = TypeVar("T")
_Work: TypeAlias = "tuple[Future[Any], Callable[[], Any]]"


class Threads(ThreadPoolExecutor):
    """A pool that its owner ends, and nothing else; a loop takes nothing but a `ThreadPoolExecutor` for its own.

    Its threads are daemons: at the end of a process nobody waits for those that have nothing to do.

    Parameters
    ----------
    most : int
        How many threads there may be; each is started when it is first needed.
    name : str
        What their names begin with.
    """

    def __init__(self, most: int, name: str) -> None:
        super().__init__(most, name)
        self._most, self._name = most, name
        self._guard = threading.Lock()
        self._line: SimpleQueue[_Work | None] = SimpleQueue()
        self._resting = threading.Semaphore(0)
        self._started: list[threading.Thread] = []
        self._ended = False

    def submit(self, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Let a thread call a function.

        Raises
        ------
        RuntimeError
            After `shutdown`, or where there is no thread and none can be started.
        """
        future: Future[T] = Future()
        with self._guard:
            if self._ended:
                raise RuntimeError(f"{self._name}: these threads have ended")
            if not self._resting.acquire(blocking=False) and len(self._started) < self._most:
                self._start()
            self._line.put((future, partial(function, *args, **kwargs)))
        return future

    def _start(self) -> None:
        name = f"{self._name}_{len(self._started)}"
        thread = threading.Thread(target=_serve, args=(self._line, self._resting), name=name, daemon=True)
        self._started.append(thread)  # before it is: an interrupt may come as soon as it runs
        try:
            thread.start()
        except RuntimeError:
            self._started.remove(thread)
            if not self._started:  # else the others do it
                raise

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:  # noqa: FBT001, FBT002 - as it is
        """End the threads when they have done what is in line, or at once what is not in line."""
        with self._guard:
            self._ended = True
            with contextlib.suppress(Empty):
                while cancel_futures and (work := self._line.get_nowait()) is not None:
                    work[0].cancel()
            self._line.put(None)
        for thread in self._started if wait else ():
            if thread.is_alive():  # one whose start was interrupted may never have been
                thread.join()


def _serve(line: SimpleQueue[_Work | None], resting: threading.Semaphore) -> None:
    while (work := line.get()) is not None:
        future, call = work
        if future.set_running_or_notify_cancel():
            try:
                result = call()
            except BaseException as error:  # noqa: BLE001 - it is raised where the result is waited for
                future.set_exception(error)
            else:
                future.set_result(result)
                del result
        del work, future, call  # what was done is not kept until the next
        resting.release()
    line.put(None)  # for the next of them


async def aside(function: Callable[..., T], *args: object) -> T:
    """Call a blocking function, which may never return, in a thread of its own; return what it returns.

    A pool has few threads, which others wait for, and is waited for when it ends: a call that hangs would hold up both.
    """
    loop = asyncio.get_running_loop()
    future: asyncio.Future[T] = loop.create_future()

    def settle(set_it: Callable[[Any], None], value: object) -> None:
        if not future.done():
            set_it(value)

    def work() -> None:
        try:
            end: tuple[Callable[[Any], None], object] = future.set_result, function(*args)
        except Exception as error:  # noqa: BLE001 - it is raised where the result is awaited
            end = future.set_exception, RuntimeError("ended early") if isinstance(error, StopIteration) else error
        except BaseException as error:  # noqa: BLE001 - sys.exit() in a thread ends nothing; here it would end the loop
            end = future.set_exception, RuntimeError(f"ended by {type(error).__name__}")
        with contextlib.suppress(RuntimeError):  # the loop has ended meanwhile
            loop.call_soon_threadsafe(settle, *end)

    threading.Thread(target=work, name="framefetch-aside", daemon=True).start()
    return await future
