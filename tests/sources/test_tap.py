"""The rest of a body read past the loop: from a socket, behind a connection, and what the connection is afterwards."""

import asyncio
import contextlib
import errno
import os
import random
import socket
import struct
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import uvloop

from framefetch import Timeouts
from framefetch.errors import IncompleteBody, ProtocolError, Stalled, TransferError
from framefetch.sources.base import Ask, Body, Meter
from framefetch.sources.environment import Environment
from framefetch.sources.http import HttpSource
from framefetch.sources.tap import PIECE, Tap
from framefetch.warehouse import Chunked, Push, Reply, Serve, Stop, WarehouseThread, gzipped, reply_bytes
from tests.seals import PEM, tls_warehouse

MIB = 1 << 20
BODY = random.Random(1).randbytes(4 * MIB + 12_345)
WRONG = random.Random(2).randbytes(2 * MIB)


# -- by itself -------------------------------------------------------------------------------------------------------


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    """Give two ends of a TCP connection; the first does not block."""
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()) as ours:
        theirs, _ = server.accept()
        ours.setblocking(False)
        with theirs:
            yield ours, theirs


def tapped(end: socket.socket, left: int, *ahead: bytes | memoryview) -> tuple[Tap, list[Tap]]:
    closed: list[Tap] = []
    return Tap(os.dup(end.fileno()), ahead, left, closed.append), closed


def arrived(end: socket.socket, count: int) -> None:
    """Return when so many bytes have come."""
    end.setblocking(True)
    while len(end.recv(count, socket.MSG_PEEK)) < count:
        pass
    end.setblocking(False)


def links() -> list[str]:
    """Return what this process has open, by what it leads to: a socket has one name however often it is open."""
    found = []
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(FileNotFoundError):
            found.append(os.readlink(f"/proc/self/fd/{name}"))
    return found


def open_as(end: socket.socket) -> int:
    """Return how many numbers a socket has."""
    return links().count(os.readlink(f"/proc/self/fd/{end.fileno()}"))


def test_what_had_come_is_given_first_and_nothing_behind_the_body_is_touched(pair) -> None:
    ours, theirs = pair
    theirs.sendall(b"hijkl" + b"HTTP/1.1 200 OK")
    arrived(ours, 20)
    tap, closed = tapped(ours, 5, b"abc", memoryview(b"defg"))
    with tap:
        assert tap.has_ahead
        given = [bytes(tap.read(size)) for size in (2, 100, 3, 100)]
        assert not tap.has_ahead
        given += [bytes(tap.read(4)), bytes(tap.read(100))]
        assert tap.read(100) is None
    assert given == [b"ab", b"c", b"def", b"g", b"hijk", b"l"]
    assert closed == [tap]
    assert (tap.taken, tap.received, tap.error) == (12, 5, None)
    assert ours.recv(100) == b"HTTP/1.1 200 OK"


def test_it_never_waits(pair) -> None:
    ours, theirs = pair
    tap, _ = tapped(ours, 100)
    with tap:
        assert tap.read(100) is None
        theirs.sendall(b"late")
        arrived(ours, 4)
        assert bytes(tap.read(100)) == b"late"
        assert tap.read(100) is None
    assert (tap.received, tap.error) == (4, None)


def test_where_no_byte_is_wanted_none_is_lost(pair) -> None:
    ours, theirs = pair
    theirs.sendall(b"more")
    arrived(ours, 4)
    tap, _ = tapped(ours, 4, b"first")
    with tap:
        assert tap.read(0) is None
        assert bytes(tap.read(9)) == b"first"
        assert tap.read(0) is None
        assert bytes(tap.read(9)) == b"more"


def test_one_read_brings_no_more_than_a_core_keeps(pair) -> None:
    ours, theirs = pair
    sending = threading.Thread(target=theirs.sendall, args=(bytes(3 * PIECE),))
    sending.start()
    tap, _ = tapped(ours, 3 * PIECE)
    longest = 0
    with tap:
        while tap.received < 3 * PIECE:
            longest = max(longest, len(tap.read(3 * PIECE) or b""))
    sending.join()
    assert longest <= PIECE


def test_an_end_is_left_to_the_loop(pair) -> None:
    ours, theirs = pair
    theirs.sendall(b"the last")
    theirs.shutdown(socket.SHUT_WR)
    arrived(ours, 8)
    tap, _ = tapped(ours, 100)
    with tap:
        assert bytes(tap.read(100)) == b"the last"
        assert tap.read(100) is None
    assert tap.error is None
    assert ours.recv(100) == b"", "it sees it too"


def test_a_reset_is_told_because_the_loop_will_not_hear_of_it_again(pair) -> None:
    ours, theirs = pair
    theirs.sendall(b"the last")
    arrived(ours, 8)
    theirs.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    theirs.close()
    tap, _ = tapped(ours, 100)
    with tap:
        assert bytes(tap.read(100)) == b"the last"
        assert tap.read(100) is None
        assert tap.read(100) is None
    assert tap.error is not None
    assert tap.error.errno == errno.ECONNRESET
    assert tap.received == 8


def test_the_socket_may_be_closed_meanwhile_and_its_number_given_to_a_file(pair, tmp_path: Path) -> None:
    ours, theirs = pair
    theirs.sendall(b"of the socket")
    arrived(ours, 13)
    before = open_as(ours)
    tap, _ = tapped(ours, 100)
    assert open_as(ours) == before + 1
    name, number = os.readlink(f"/proc/self/fd/{ours.fileno()}"), ours.fileno()
    ours.close()
    (tmp_path / "file").write_bytes(b"of a file")
    with (tmp_path / "file").open("rb") as file:
        assert file.fileno() == number
        with tap:
            assert bytes(tap.read(100)) == b"of the socket"
        assert file.read() == b"of a file"
    assert name not in links()


def test_it_is_closed_once_also_where_its_reader_fails(pair) -> None:
    ours, _ = pair
    before = open_as(ours)
    tap, closed = tapped(ours, 100)
    with pytest.raises(OSError, match="disk"), tap:
        raise OSError("the disk is full")
    assert closed == [tap]
    assert open_as(ours) == before


def test_threads_do_not_share_what_they_read_into() -> None:
    both = threading.Barrier(2)
    kept: dict[bytes, bool] = {}

    def read(letter: bytes) -> None:
        ours, theirs = socket.socketpair()
        with ours, theirs:
            theirs.sendall(letter * 1000)
            ours.setblocking(False)
            tap, _ = tapped(ours, 1000)
            with tap:
                view = tap.read(1000)
                both.wait(10)  # both have read before either looks
                kept[letter] = view == letter * 1000

    threads = [threading.Thread(target=read, args=(letter,)) for letter in (b"a", b"b")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert kept == {b"a": True, b"b": True}


# -- behind a connection ---------------------------------------------------------------------------------------------

Run = Callable[[Awaitable[None]], None]


@pytest.fixture(params=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest) -> Run:
    """Give a function that runs a coroutine in a loop of either kind."""
    factory = asyncio.new_event_loop if request.param == "asyncio" else uvloop.new_event_loop

    def run(work: Awaitable[None]) -> None:
        with asyncio.Runner(loop_factory=factory) as runner:
            runner.run(work)

    return run


@asynccontextmanager
async def opened(**changes: Any) -> AsyncIterator[HttpSource]:
    """Give a source, and see that all memory is back when it is closed."""
    settings = {
        "timeouts": Timeouts(connect=5, stall=5),
        "headers": {},
        "host_map": {},
        "environment": Environment(),
    }
    source = HttpSource(**(settings | changes))
    try:
        yield source
    finally:
        await source.close()
    assert source.ahead._dialer._buffers._in_use == 0


def kept(body: Body, block: bytes | memoryview) -> bytes:
    """Return a copy of a block, and give it back."""
    data = bytes(block)
    if isinstance(block, memoryview):
        body.give_back(block)
    return data


async def rest(body: Body, got: list[bytes], *, whole: bool = False) -> int:
    """Take what is to come, past the loop where that is possible; return how much came past it.

    Of a body that comes whole each tap gives something, sooner or later.
    """
    past = 0
    while block := await body.read():
        got.append(kept(body, block))
        tap = body.tap()
        if tap is None:
            continue
        assert body.tap() is None, "one at a time"
        with tap:
            while (piece := tap.read(MIB)) or (whole and not tap.received):
                got.append(bytes(piece or b""))
        past += tap.received
    return past


async def taken(source: HttpSource, url: str, meter: Meter | None = None, ask: Ask | None = None) -> tuple[bytes, int]:
    """Return a whole body, and how much of it came past the loop."""
    got: list[bytes] = []
    async with source.open(url, meter or Meter(), ask=ask) as body:
        past = await rest(body, got, whole=True)
    return b"".join(got), past


def test_a_connection_is_used_again_after_a_body_that_was_read_past_it(warehouse: WarehouseThread, run: Run) -> None:
    urls = [warehouse.add("/f", BODY), warehouse.add("/g", WRONG), warehouse.add("/h", b"small")]

    async def work() -> None:
        meter, past = Meter(), 0
        async with opened() as source:
            for _ in range(3):
                for url, right in zip(urls, (BODY, WRONG, b"small"), strict=True):
                    body, more = await taken(source, url, meter)
                    assert body == right
                    past += more
                    ((connection,),) = source.pool._idle.values()
                    assert connection._transport.is_reading(), "an idle one hears of its end"
                    assert not source.watchdog._watches
        assert past > 0
        assert meter == Meter(requests=9, received=3 * (len(BODY) + len(WRONG) + 5))

    run(work())
    assert warehouse.connections == 1


def test_the_loop_goes_on_where_a_tap_has_left_off(warehouse: WarehouseThread, run: Run) -> None:
    """A thread that takes a little of what there is, at places that nobody has chosen, in turn with the loop."""
    url, chance = warehouse.add("/f", BODY), random.Random(3)

    async def work() -> None:
        meter, got = Meter(), []
        async with opened() as source:
            async with source.open(url, meter) as body:
                while block := await body.read():
                    got.append(kept(body, block))
                    if tap := body.tap():
                        with tap:
                            while tap.has_ahead or chance.random() < 0.5:
                                got.append(bytes(tap.read(chance.choice([1, 1448, MIB])) or b""))
            assert b"".join(got) == BODY
            assert meter.received == len(BODY)
            assert sum(map(len, source.pool._idle.values())) == 1

    run(work())


def test_a_part_of_a_file_and_an_answer_of_a_proxy(warehouse: WarehouseThread, run: Run) -> None:
    warehouse.add("/f", BODY)

    async def work() -> None:
        proxy = Environment({"http": f"http://127.0.0.1:{warehouse.port}"})
        async with opened(environment=proxy) as source:
            body, past = await taken(source, "http://far.example/f", ask=Ask(1_000_000))
        assert body == BODY[1_000_000:]
        assert past > 0

    run(work())
    assert warehouse.log[0].target == "http://far.example/f"


def test_what_follows_a_body_at_once_is_never_taken_for_more_of_it(warehouse: WarehouseThread, run: Run) -> None:
    """Where the loop meets both in one look, it says so; a thread does not read so far."""
    large, other = warehouse.add("/f", BODY), warehouse.add("/g", BODY[::-1])
    warehouse.script("/f", Serve(after=reply_bytes(Reply(200, WRONG))))

    async def work() -> None:
        async with opened() as source:
            for _ in range(5):
                got: list[bytes] = []
                with contextlib.suppress(ProtocolError):
                    async with source.open(large, Meter()) as body:
                        await rest(body, got)
                assert b"".join(got) == BODY[: sum(map(len, got))]
                assert (await taken(source, other))[0] == BODY[::-1]

    run(work())


def test_an_answer_on_the_idle_connection_is_nobodys(warehouse: WarehouseThread, run: Run) -> None:
    large, other = warehouse.add("/f", BODY), warehouse.add("/g", BODY[::-1])
    warehouse.script("/f", Serve(push=Push(Reply(200, WRONG))))

    async def work() -> None:
        async with opened() as source:
            for at in range(1, 6):
                assert (await taken(source, large))[0] == BODY
                warehouse.release("/f")
                await asyncio.to_thread(warehouse.wait_for, "/f", at, "pushed")
                assert (await taken(source, other))[0] == BODY[::-1]

    run(work())
    assert warehouse.connections == 6, "the first of each pair is given up"


@pytest.mark.parametrize("how", ["close", "reset"])
def test_a_body_that_breaks_gives_all_that_came_and_says_how_much(
    how: str, warehouse: WarehouseThread, run: Run
) -> None:
    url, chance = warehouse.add("/f", BODY), random.Random(4)
    cuts = [MIB, 2 * MIB + 1, len(BODY) - 1, *(chance.randrange(100, len(BODY)) for _ in range(5))]
    warehouse.script("/f", *(Serve(stop=Stop(cut, how)) for cut in cuts))

    async def work() -> None:
        async with opened() as source:
            for cut in cuts:
                got: list[bytes] = []
                with pytest.raises(TransferError) as failure:
                    async with source.open(url, Meter()) as body:
                        await rest(body, got)
                assert type(failure.value) is IncompleteBody
                assert b"".join(got) == BODY[:cut]
                assert f"expected {len(BODY):,} bytes, got {cut:,}; the connection ended" in str(failure.value)
                assert ("reset by peer" in str(failure.value)) == (how == "reset")

    run(work())


def test_a_break_that_only_the_thread_has_seen_ends_the_exchange(warehouse: WarehouseThread, run: Run) -> None:
    url = warehouse.add("/f", BODY)
    warehouse.script("/f", Serve(stop=Stop(2 * MIB, "hold")))

    async def work() -> None:
        got: list[bytes] = []
        async with opened() as source, source.open(url, Meter()) as body:
            got.append(kept(body, await body.read()))
            tap = body.tap()
            with tap:
                while sum(map(len, got)) < 2 * MIB:
                    got.append(bytes(tap.read(MIB) or b""))
                warehouse.drop_connections("reset")
                while tap.error is None:
                    assert not tap.read(MIB)
            assert b"".join(got) == BODY[: 2 * MIB]
            assert body.tap() is None
            with pytest.raises(IncompleteBody, match=f"got {2 * MIB:,}; .*reset by peer"):
                await body.read()

    run(work())


@pytest.mark.parametrize(
    "answer",
    [
        Serve(framing="chunked"),
        Serve(framing=Chunked(1000)),
        Serve(framing="close"),
        Serve(content=gzipped(BODY), headers={"Content-Encoding": "gzip"}),
    ],
    ids=["chunked", "small chunks", "no length", "coded"],
)
def test_what_has_to_be_looked_at_comes_through_the_loop(answer: Serve, warehouse: WarehouseThread, run: Run) -> None:
    url = warehouse.add("/f", BODY)
    warehouse.script("/f", answer)

    async def work() -> None:
        async with opened() as source:
            assert await taken(source, url) == (BODY, 0)

    run(work())


@asynccontextmanager
async def tunnels() -> AsyncIterator[int]:
    """Give the port of a proxy that makes tunnels; at the end all of them have ended."""
    made: set[asyncio.Task[None]] = set()

    async def copy(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            while data := await source.read(1 << 18):
                target.write(data)
                await target.drain()
        target.close()
        with contextlib.suppress(ConnectionError):
            await target.wait_closed()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        made.add(asyncio.current_task())
        host, _, port = (await reader.readuntil(b"\r\n\r\n")).split()[1].decode().partition(":")
        onward, backward = await asyncio.open_connection(host, int(port))
        writer.write(b"HTTP/1.1 200 Go\r\n\r\n")
        await asyncio.gather(copy(reader, backward), copy(onward, writer))

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        yield server.sockets[0].getsockname()[1]
        await asyncio.gather(*made)


@pytest.mark.parametrize("tunnelled", [False, True], ids=["direct", "tunnelled"])
def test_under_tls_a_thread_reads_by_itself(tunnelled: bool, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a tunnel the session is the loop's own: there all comes through the loop."""
    monkeypatch.setenv("SSL_CERT_FILE", str(PEM))
    with tls_warehouse() as secure:
        url = secure.add("/f", BODY)

        async def work() -> None:
            async with tunnels() as port:
                proxies = {"https": f"http://127.0.0.1:{port}"} if tunnelled else {}
                async with opened(environment=Environment(proxies)) as source:
                    body, tapped = await taken(source, url)
                    assert body == BODY
                    assert (tapped == 0) is tunnelled

        run(work())


def test_without_another_descriptor_it_comes_through_the_loop(
    warehouse: WarehouseThread, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = warehouse.add("/f", BODY)

    def refuse(handle: int) -> int:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    monkeypatch.setattr("framefetch.sources.tap.os.dup", refuse)

    async def work() -> None:
        meter = Meter()
        async with opened() as source:
            for _ in range(2):
                assert await taken(source, url, meter) == (BODY, 0)
        assert meter == Meter(2, 2 * len(BODY))

    run(work())
    assert warehouse.connections == 1


def test_the_clock_stands_still_while_a_thread_reads_and_runs_again_afterwards(
    warehouse: WarehouseThread, run: Run
) -> None:
    url = warehouse.add("/f", BODY)
    warehouse.script("/f", Serve(stop=Stop(2 * MIB, "hang")))

    async def work() -> None:
        async with opened(timeouts=Timeouts(connect=5, stall=30, speed_window=30, minimum_speed=1.0)) as source:
            clock = SimpleNamespace(now=0)
            source.watchdog.now = lambda: clock.now
            got: list[bytes] = []
            async with source.open(url, Meter()) as body:
                got.append(kept(body, await body.read()))
                tap = body.tap()
                with tap:
                    for clock.now in range(0, 1000, 10):
                        source.watchdog._tick()
                    while sum(map(len, got)) < 2 * MIB:
                        got.append(bytes(tap.read(MIB) or b""))
                reading = asyncio.ensure_future(body.read())
                for clock.now in range(1000, 1030, 10):
                    source.watchdog._tick()
                    await asyncio.sleep(0)
                assert not reading.done(), "it has just gone on"
                clock.now = 1030
                source.watchdog._tick()
                with pytest.raises(Stalled, match=f"no bytes for 30.0 s after {2 * MIB:,} bytes"):
                    await reading

    run(work())
