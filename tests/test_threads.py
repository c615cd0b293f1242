"""A pool of threads that its owner ends, and nothing else; and calls that nobody waits for."""

import asyncio
import threading

import pytest

from framefetch.threads import Threads, aside


def test_no_more_threads_than_are_needed() -> None:
    with Threads(3, "pool") as pool:
        for _ in range(20):
            assert pool.submit(threading.current_thread).result().name == "pool_0"
        meeting = threading.Barrier(3)
        assert sorted(pool.map(lambda _: meeting.wait(10), range(3))) == [0, 1, 2]
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("pool_")]


def test_more_work_than_threads_is_done_in_order() -> None:
    with Threads(2, "pool") as pool:
        assert list(pool.map(lambda at: at * 2, range(100))) == [at * 2 for at in range(100)]
        with pytest.raises(ZeroDivisionError):
            pool.submit(divmod, 1, 0).result()
        assert pool.submit(divmod, 7, 2).result() == (3, 1)
    with pytest.raises(RuntimeError, match="these threads have ended"):
        pool.submit(divmod, 7, 2)


def test_the_end_waits_for_what_is_in_line_or_lets_it_go() -> None:
    for cancel in (False, True):
        go_on, begun = threading.Event(), threading.Event()
        pool = Threads(1, "pool")
        first = pool.submit(lambda begun=begun, go_on=go_on: begun.set() or go_on.wait(10))
        second = pool.submit(divmod, 7, 2)
        begun.wait(10)
        pool.shutdown(wait=False, cancel_futures=cancel)
        go_on.set()
        pool.shutdown()
        assert first.result() is True
        assert second.cancelled() == cancel
        assert cancel or second.result() == (3, 1)


def test_where_no_more_can_be_started_the_others_do_it(monkeypatch: pytest.MonkeyPatch) -> None:
    with Threads(2, "pool") as pool:
        go_on = threading.Event()
        first = pool.submit(go_on.wait, 10)

        def refuse(_: threading.Thread) -> None:
            raise RuntimeError("can't start new thread")

        monkeypatch.setattr(threading.Thread, "start", refuse)
        second = pool.submit(divmod, 7, 2)
        with pytest.raises(RuntimeError, match="can't start"):
            Threads(2, "other").submit(divmod, 7, 2)
        go_on.set()
        assert (first.result(), second.result()) == (True, (3, 1))


def test_an_interrupt_while_a_thread_is_started_keeps_nobody_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """It runs by then, and nobody was told."""
    start = threading.Thread.start

    def interrupted(thread: threading.Thread) -> None:
        start(thread)
        if thread.name.endswith("_1"):
            raise KeyboardInterrupt

    monkeypatch.setattr(threading.Thread, "start", interrupted)
    threads, go = Threads(4, "test"), threading.Event()
    first = threads.submit(go.wait, 20)
    with pytest.raises(KeyboardInterrupt):
        threads.submit(int)
    go.set()
    threads.shutdown(cancel_futures=True)
    assert first.result() is True
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("test_")]


async def test_what_a_call_aside_raises_is_raised_here() -> None:
    def leave() -> None:
        raise SystemExit(3)

    assert await aside(divmod, 7, 3) == (2, 1)
    with pytest.raises(ZeroDivisionError):
        await aside(divmod, 7, 0)
    with pytest.raises(RuntimeError, match="ended by SystemExit"):
        await aside(leave)
    with pytest.raises(RuntimeError, match="ended early"):
        await aside(next, iter(()))


async def test_a_call_aside_may_outlive_who_asked() -> None:
    release = asyncio.Event()
    loop = asyncio.get_running_loop()
    task = loop.create_task(aside(lambda: asyncio.run_coroutine_threadsafe(release.wait(), loop).result()))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    release.set()
