"""Blocking calls that may never return, each in a thread that nobody waits for at the end."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from asyncio import Future

__all__ = ["aside"]

T = TypeVar("T")


async def aside(function: Callable[..., T], *args: object) -> T:
    """Call a blocking function in a thread of its own and return what it returns.

    A loop's executor has few threads, which others wait for, and is waited for when the loop ends: a call that hangs
    would hold up both.
    """
    loop = asyncio.get_running_loop()
    future: Future[T] = loop.create_future()

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
