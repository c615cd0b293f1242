"""Connections made before they are asked for: when, how many, and what becomes of those that nobody needs."""

import asyncio
import os
import socket
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from threading import Thread
from typing import Any

import pandas as pd
import pytest

from framefetch import MetadataCache, Options, Timeouts
from framefetch.errors import ConnectFailed
from framefetch.sources import ahead
from framefetch.sources.ahead import FEW, Ahead
from framefetch.sources.base import Meter
from framefetch.sources.dial import Route
from framefetch.sources.environment import Environment
from framefetch.sources.http import HttpSource
from framefetch.sources.loan import ask_all
from framefetch.sources.pool import Pool
from framefetch.warehouse import WarehouseThread

ROUTE = Route("http://a:80", "http://a/", None, mapped=False, server_hostname=None, login=None)


@dataclass(eq=False)
class Connection:
    """What the pool and `Ahead` see of a connection."""

    speaks: bool = False
    used: int = 0
    reusable: bool = True
    idle_since: float = 0.0
    closed: bool = False

    def rest(self) -> None:
        self.idle_since = asyncio.get_running_loop().time()

    def is_fresh(self, now: float) -> bool:
        return not self.closed

    def close(self) -> None:
        self.closed = True


@dataclass
class Dialer:
    """Makes connections when it is told to."""

    waiting: deque[asyncio.Future[Any]] = field(default_factory=deque)
    begun: int = 0
    guarded: int = 0
    made: list[Connection] = field(default_factory=list)

    async def dial(self, route: Route, *, must_be_public: bool = False) -> Any:
        self.begun += 1
        self.guarded += must_be_public
        wait = asyncio.get_running_loop().create_future()
        self.waiting.append(wait)
        return await wait

    async def answer(self, count: int, *, speaks: bool) -> list[Connection]:
        """Make the next ones."""
        made = [Connection(speaks=speaks) for _ in range(count)]
        self.made += made  # somebody has them
        for connection in made:
            self.waiting.popleft().set_result(connection)
        await settled()
        return made


async def settled() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


async def until(true: Callable[[], object]) -> None:
    async with asyncio.timeout(10):
        while not true():  # noqa: ASYNC110 - a timer of what is tested makes it true
            await asyncio.sleep(0)


@asynccontextmanager
async def made_by() -> AsyncIterator[tuple[Ahead, Dialer, Pool]]:
    dialer, pool = Dialer(), Pool()
    maker = Ahead(dialer, pool)  # type: ignore[arg-type]
    try:
        yield maker, dialer, pool
    finally:
        await maker.close()


@pytest.fixture(autouse=True)
def far(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever it takes to make a connection is long."""
    monkeypatch.setattr(ahead, "FAR", 0.0)


@pytest.fixture
def near(monkeypatch: pytest.MonkeyPatch) -> None:
    """No connection takes as long as that; an answer may."""
    monkeypatch.setattr(ahead, "FAR", 3600.0)


async def asked(maker: Ahead, dialer: Dialer, count: int) -> list[asyncio.Task[Any]]:
    """Let so many requests wait for their connections."""
    tasks = [asyncio.create_task(maker.dial(ROUTE)) for _ in range(count)]
    await settled()
    return tasks


async def served(maker: Ahead, dialer: Dialer, now: int, soon: int) -> None:
    """Let all requests that there may be have connections on which the server has spoken."""
    maker.expect(ROUTE.key, now, soon)
    await asked(maker, dialer, now)
    await dialer.answer(now, speaks=True)


def test_the_next_step_is_made_once_the_server_has_spoken_on_half_of_this_one() -> None:
    async def work() -> None:
        async with made_by() as (maker, dialer, pool):
            maker.expect(ROUTE.key, 16, 32)
            await asked(maker, dialer, 16)
            await dialer.answer(7, speaks=True)
            assert dialer.begun == 16, "it may deal with seven at a time"
            await dialer.answer(1, speaks=True)
            assert dialer.begun == 32
            await dialer.answer(24, speaks=True)
            assert len(pool.untried(ROUTE.key)) == 16
            assert dialer.begun == 32, "once for each step"
            maker.expect(ROUTE.key, 32, 128)
            await settled()
            assert dialer.begun == 32 + 80, "sixteen of the next ninety-six are there"

    asyncio.run(work())


def test_one_connection_at_a_time_is_no_reason_for_more() -> None:
    async def work() -> None:
        async with made_by() as (maker, dialer, _):
            maker.expect(ROUTE.key, 16, 32)
            await asked(maker, dialer, 16)
            await dialer.answer(1, speaks=True)
            silent = await dialer.answer(15, speaks=False)
            maker.heard(ROUTE.key, 5.0)
            await settled()
            assert dialer.begun == 16
            for connection in silent[:7]:
                connection.speaks = True  # as a thread has heard, which does not tell
            await until(lambda: dialer.begun == 32)

    asyncio.run(work())


def test_closed_connections_say_nothing() -> None:
    async def work() -> None:
        async with made_by() as (maker, dialer, _):
            maker.expect(ROUTE.key, 16, 32)
            await asked(maker, dialer, 8)
            for connection in await dialer.answer(4, speaks=True):
                connection.speaks = False  # closed since
            await dialer.answer(4, speaks=True)
            assert dialer.begun == 8

    asyncio.run(work())


def test_who_needs_one_gets_one_that_is_being_made() -> None:
    async def work() -> None:
        async with made_by() as (maker, dialer, pool):
            await served(maker, dialer, 2, 8)
            assert dialer.begun == 8
            tasks = await asked(maker, dialer, 4)
            assert dialer.begun == 8
            made = await dialer.answer(6, speaks=True)
            assert [await task for task in tasks] == made[:4]
            assert pool.untried(ROUTE.key) == made[:3:-1], "the first one is the next"

    asyncio.run(work())


def test_what_would_be_there_at_once_is_not_made_before(near) -> None:
    async def work() -> None:
        async with made_by() as (maker, dialer, _):
            await served(maker, dialer, 16, 128)
            maker.heard(ROUTE.key, 3599.0)
            await settled()
            assert dialer.begun == 16

    asyncio.run(work())


def test_where_only_answers_take_long_a_few_are_made_at_a_time(near) -> None:
    async def work() -> None:
        async with made_by() as (maker, dialer, pool):
            await served(maker, dialer, 16, 64)
            maker.heard(ROUTE.key, 3600.0)
            await settled()
            assert dialer.begun == 16 + FEW
            await dialer.answer(3, speaks=True)
            assert dialer.begun == 16 + FEW + 3
            while dialer.waiting:
                await dialer.answer(1, speaks=True)
            assert dialer.begun == 64
            assert len(pool.untried(ROUTE.key)) == 48

    asyncio.run(work())


def test_requests_that_make_their_own_leave_fewer_to_make(near) -> None:
    async def work() -> None:
        async with made_by() as (maker, dialer, _):
            await served(maker, dialer, 16, 48)
            maker.heard(ROUTE.key, 3600.0)
            await settled()
            await asked(maker, dialer, 32)  # eight are being made, the others nobody has begun
            while dialer.waiting:
                await dialer.answer(1, speaks=True)
            assert dialer.begun == 48

    asyncio.run(work())


def test_once_one_cannot_be_made_no_more_are() -> None:
    async def work() -> None:
        async with made_by() as (maker, dialer, pool):
            await served(maker, dialer, 2, 8)
            dialer.waiting.popleft().set_exception(ConnectFailed("full"))
            await settled()
            await dialer.answer(5, speaks=True)
            maker.expect(ROUTE.key, 8, 32)
            await settled()
            assert dialer.begun == 8
            assert len(pool.untried(ROUTE.key)) == 5
            (task,) = await asked(maker, dialer, 1)
            assert dialer.begun == 9, "a request still tries"
            dialer.waiting.popleft().set_exception(ConnectFailed("full"))
            with pytest.raises(ConnectFailed):
                await task

    asyncio.run(work())


def test_where_the_one_that_a_request_was_given_cannot_be_made_it_tries_itself() -> None:
    async def work() -> None:
        async with made_by() as (maker, dialer, _):
            await served(maker, dialer, 1, 2)
            (task,) = await asked(maker, dialer, 1)
            assert dialer.begun == 2
            dialer.waiting.popleft().set_exception(ConnectFailed("within ten seconds"))
            await until(lambda: dialer.begun == 3)
            dialer.waiting.popleft().set_exception(ConnectFailed("full"))
            with pytest.raises(ConnectFailed, match="full"):
                await task

    asyncio.run(work())


def test_that_others_may_need_more_by_now_makes_nothing_twice() -> None:
    async def work() -> None:
        async with made_by() as (maker, dialer, pool):
            await served(maker, dialer, 2, 4)
            await dialer.answer(2, speaks=True)
            pool.drop_untried(ROUTE.key, float("inf"))
            for soon in (3, 4, 3, 4):
                maker.expect(ROUTE.key, 2, soon)
            await settled()
            assert dialer.begun == 4

    asyncio.run(work())


def test_it_is_not_looked_for_ever_whether_the_server_speaks(monkeypatch) -> None:
    monkeypatch.setattr(ahead, "LOOKED_FOR", 0.0)

    async def work() -> None:
        async with made_by() as (maker, dialer, _):
            maker.expect(ROUTE.key, 2, 4)
            await asked(maker, dialer, 2)
            await dialer.answer(2, speaks=False)
            assert maker._hosts[ROUTE.key].next_look is None
            dialer.made[0].speaks = True
            maker.heard(ROUTE.key, 1.0)
            assert dialer.begun == 2
            await settled()
            assert dialer.begun == 4, "who has news is listened to"

    asyncio.run(work())


def test_what_nobody_has_needed_for_a_while_is_closed(monkeypatch) -> None:
    monkeypatch.setattr(ahead, "IDLE", 0.0)

    async def work() -> None:
        async with made_by() as (maker, dialer, pool):
            maker.expect(ROUTE.key, 1, 4)
            await asked(maker, dialer, 1)
            (used,) = await dialer.answer(1, speaks=True)
            used.used = 1
            pool.keep(ROUTE.key, used)  # type: ignore[arg-type]
            made = await dialer.answer(3, speaks=True)
            await until(lambda: not pool.untried(ROUTE.key))
            assert all(connection.closed for connection in made)
            assert pool.last(ROUTE.key) is used
            assert not used.closed

    asyncio.run(work())


def test_nothing_is_made_or_left_behind_the_end() -> None:
    async def work() -> None:
        async with made_by() as (maker, dialer, pool):
            await served(maker, dialer, 2, 8)
            dialer.waiting.popleft().set_result(late := Connection(speaks=True))
            await asyncio.sleep(0)  # it is made, and has still to be put into the pool
            waiting = tuple(dialer.waiting)
            await maker.close()
            await settled()
            assert all(future.cancelled() for future in waiting)
            pool.close()
            assert late.closed
            maker.expect(ROUTE.key, 8, 32)
            await settled()
            assert dialer.begun == 8

    asyncio.run(work())


def test_a_redirect_that_must_stay_in_public_gets_one_of_its_own() -> None:
    async def work() -> None:
        async with made_by() as (maker, dialer, _):
            await served(maker, dialer, 1, 4)
            task = asyncio.create_task(maker.dial(ROUTE, must_be_public=True))
            await settled()
            assert (dialer.begun, dialer.guarded) == (5, 1)
            task.cancel()

    asyncio.run(work())


@pytest.fixture
def late(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever is not made at once is late."""
    monkeypatch.setattr(ahead, "LATE", 0.0)


def test_who_waits_long_gets_one_that_has_become_free(late) -> None:
    async def work() -> None:
        async with made_by() as (maker, dialer, pool):
            (task,) = await asked(maker, dialer, 1)
            await until(lambda: pool._waiting.get(ROUTE.key))
            free = Connection(used=3)
            pool.put(ROUTE.key, free)  # type: ignore[arg-type]
            assert await task is free
            assert pool.last(ROUTE.key) is None
            (other,) = await asked(maker, dialer, 1)
            assert dialer.begun == 1, "the one that is late is for the next"
            (made,) = await dialer.answer(1, speaks=True)
            assert await other is made

    asyncio.run(work())


def test_who_waits_long_gets_one_that_is_idle_already(late) -> None:
    async def work() -> None:
        async with made_by() as (maker, dialer, pool):
            pool.put(ROUTE.key, free := Connection(used=2))  # type: ignore[arg-type]
            (task,) = await asked(maker, dialer, 1)
            assert await task is free
            (made,) = await dialer.answer(1, speaks=True)
            assert pool.untried(ROUTE.key) == [made], "it came after all"

    asyncio.run(work())


def test_the_next_tries_itself_where_the_late_one_fails(late) -> None:
    async def work() -> None:
        async with made_by() as (maker, dialer, pool):
            pool.put(ROUTE.key, Connection(used=2))  # type: ignore[arg-type]
            (first,) = await asked(maker, dialer, 1)
            await first
            (task,) = await asked(maker, dialer, 1)
            dialer.waiting.popleft().set_exception(ConnectFailed("within ten seconds"))
            await until(lambda: dialer.begun == 2)
            (made,) = await dialer.answer(1, speaks=True)
            assert await task is made

    asyncio.run(work())


def test_no_more_are_being_made_than_wait_however_long_that_takes(late) -> None:
    """A host that drops whatever is more than it takes: those it took go round among all who wait."""

    async def work() -> None:
        async with made_by() as (maker, dialer, pool):
            free = [Connection(used=1) for _ in range(4)]
            tasks = await asked(maker, dialer, 12)
            await until(lambda: len(pool._waiting[ROUTE.key]) == 12)
            for _ in range(50):
                for connection in free:
                    pool.put(ROUTE.key, connection)  # type: ignore[arg-type]
                await until(lambda tasks=tasks: sum(task.done() for task in tasks) == len(free))
                tasks = [task for task in tasks if not task.done()] + await asked(maker, dialer, len(free))
            assert dialer.begun == 12
            for task in tasks:
                task.cancel()

    asyncio.run(work())


def test_one_that_has_ended_while_it_was_handed_on_is_nobodys(late) -> None:
    async def work() -> None:
        async with made_by() as (maker, dialer, pool):
            (task,) = await asked(maker, dialer, 1)
            await until(lambda: pool._waiting.get(ROUTE.key))
            pool.put(ROUTE.key, Connection(used=1, closed=True))  # type: ignore[arg-type]
            await until(lambda: pool._waiting.get(ROUTE.key))
            (made,) = await dialer.answer(1, speaks=True)
            assert await task is made

    asyncio.run(work())


def test_who_must_have_a_new_one_waits_for_it(late) -> None:
    async def work() -> None:
        async with made_by() as (maker, dialer, pool):
            pool.put(ROUTE.key, Connection(used=2))  # type: ignore[arg-type]
            task = asyncio.create_task(maker.dial(ROUTE, must_be_new=True))
            await settled()
            (made,) = await dialer.answer(1, speaks=True)
            assert await task is made

    asyncio.run(work())


@pytest.mark.parametrize("both", [False, True], ids=["the new one", "both at once"])
def test_one_that_is_made_in_time_leaves_the_others_free(both, late) -> None:
    async def work() -> None:
        async with made_by() as (maker, dialer, pool):
            (task,) = await asked(maker, dialer, 1)
            await until(lambda: pool._waiting.get(ROUTE.key))
            free = Connection(used=3)
            dialer.waiting.popleft().set_result(made := Connection())
            await asyncio.sleep(0)
            if both:
                pool.put(ROUTE.key, free)  # type: ignore[arg-type]
            assert await task is made
            if not both:
                pool.put(ROUTE.key, free)  # type: ignore[arg-type]
            assert pool.last(ROUTE.key) is free

    asyncio.run(work())


@pytest.mark.parametrize("had", [False, True], ids=["nothing", "one that is free"])
def test_who_no_longer_waits_takes_nothing_away(had, late) -> None:
    async def work() -> None:
        async with made_by() as (maker, dialer, pool):
            (task,) = await asked(maker, dialer, 1)
            await until(lambda: pool._waiting.get(ROUTE.key))
            free = Connection(used=3)
            waiting = tuple(dialer.waiting)
            if had:
                pool.put(ROUTE.key, free)  # type: ignore[arg-type]
            task.cancel()
            await settled()
            assert task.cancelled()
            assert all(future.cancelled() for future in waiting), "nobody wants it"
            if not had:
                pool.put(ROUTE.key, free)  # type: ignore[arg-type]
            assert pool.last(ROUTE.key) is free

    asyncio.run(work())


# -- real ones --------------------------------------------------------------------------------------------------------


class Takes(Thread):
    """A server that takes so many connections, and no more: the system drops what comes when its queue is full."""

    def __init__(self, most: int) -> None:
        super().__init__()
        self.most = most
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=0)
        self.url = f"http://127.0.0.1:{self.listener.getsockname()[1]}"
        self.taken: list[Thread] = []

    def run(self) -> None:
        for _ in range(self.most):
            try:
                ours, _ = self.listener.accept()
            except OSError:  # all files have come over fewer
                return
            self.taken.append(Thread(target=self.answer, args=(ours,)))
            self.taken[-1].start()

    @staticmethod
    def answer(ours: socket.socket) -> None:
        with ours, ours.makefile("rb") as asked:
            for line in asked:
                if line.startswith(b"GET "):
                    body = line.split()[1]
                if line == b"\r\n":
                    ours.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))


def test_a_server_that_takes_four_connections_and_drops_all_others_gives_all_files(tmp_path: Path, monkeypatch) -> None:
    """Twelve of sixteen requests wait for a connection that never comes; they have those that others no longer need."""
    monkeypatch.setattr("framefetch.sources.watchdog.HASTE_MUTE", 0.3)
    server = Takes(4)
    server.start()
    table = pd.DataFrame({"url": [f"{server.url}/{at}.bin" for at in range(300)]})
    with server.listener, MetadataCache(table, tmp_path, options=Options(timeouts=Timeouts(connect=3600))) as cache:
        frame = cache.mirror(table).frame
        server.listener.shutdown(socket.SHUT_RDWR)  # wakes who accepts
    for thread in (server, *server.taken):
        thread.join()
    assert (frame["status"] == "downloaded").all()
    assert frame["attempts"].max() <= 2, "the system takes one or two more, of which the server never hears"
    assert len(server.taken) <= 4
    assert [(tmp_path / path).read_text() for path in frame["path"]] == [f"/{at}.bin" for at in range(300)]


async def got(source: HttpSource, url: str) -> bytes:
    pieces = []
    async with source.open(url, Meter()) as body:
        while block := await body.read():
            pieces.append(bytes(block))
            if isinstance(block, memoryview):
                body.give_back(block)
    return b"".join(pieces)


def test_a_thread_may_ask_first_on_one_that_was_made_ahead() -> None:
    async def work(warehouse: WarehouseThread) -> None:
        url, origin = warehouse.url("/a"), warehouse.url("/").rstrip("/")
        source = HttpSource(Timeouts(), {}, {}, Environment())
        try:
            source.expect(url, 1, 2)
            assert await got(source, url) == b"body"
            last = source.pool.last(origin)
            assert last is not None
            assert last.speaks
            await until(lambda: source.pool.untried(origin))
            loans = [source.lend(url), source.lend(url)]
            assert None not in loans
            assert source.lend(url) is None
            source.take_back(loans.pop())  # not asked, so it is as it was
            assert len(source.pool.untried(origin)) == 1
            loans.append(source.lend(url))
            for loan in loans:
                assert ask_all([(loan, source.request(url), 4, 4)], 0.5) == [True]
                while (answer := loan.take(read(loan.handle), 1.0)) is None:
                    assert not loan.is_odd
                assert answer.body == b"body"
                source.take_back(loan)
            assert not source.pool.untried(origin)
            assert [await got(source, url), await got(source, url)] == [b"body"] * 2
            assert warehouse.connections == 2
            last.close()
            assert not last.speaks
        finally:
            await source.close()

    with WarehouseThread() as warehouse:
        warehouse.add("/a", b"body")
        asyncio.run(work(warehouse))


def read(handle: int) -> bytes | int:
    try:
        return os.read(handle, 1 << 16)
    except OSError as error:
        return error.errno or 0
