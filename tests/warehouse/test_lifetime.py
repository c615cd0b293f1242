"""Waiting, leaving, threads and TLS."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import http.client
import logging
import random
import socket
import threading
import time
import urllib.request

import pytest

from framefetch.warehouse import (
    Chunked,
    Pace,
    Push,
    Raw,
    Reply,
    Serve,
    Stop,
    Warehouse,
    WarehouseThread,
    endless,
    hold,
)
from tests.warehouse.raw_client import ask, read_answer, request

DATA = b"0123456789" * 1000


async def test_a_held_answer_waits_for_its_release(warehouse):
    warehouse.add("/f", DATA)
    warehouse.script("/f", hold(), then=Serve())
    task = asyncio.create_task(ask(warehouse, "/f"))
    await warehouse.wait_for("/f")
    assert (await ask(warehouse, "/f")).body == DATA
    assert not task.done()
    assert warehouse.log[0].answered_at is None
    assert warehouse.log[0].status == 0
    warehouse.release("/f")
    assert (await task).body == DATA


async def test_a_release_before_the_hold_is_not_lost(warehouse):
    """The request has arrived, but its answer is still on the way to its hold."""
    warehouse.script("/f", Reply(200, DATA, delay=0.02, stop=Stop(5000, "hold")))
    task = asyncio.create_task(ask(warehouse, "/f"))
    await warehouse.wait_for("/f")
    warehouse.release()
    assert (await task).body == DATA
    again = asyncio.create_task(ask(warehouse, "/f"))
    await warehouse.wait_for("/f", 2, "held")
    assert not again.done()
    warehouse.release("/f")
    assert (await again).body == DATA


async def test_what_was_sent_before_a_hold_has_arrived(warehouse):
    warehouse.script("/f", Reply(200, DATA, stop=Stop(5000, "hold")))
    reader, writer = await asyncio.open_connection("127.0.0.1", warehouse.port)
    writer.write(request("/f"))
    await reader.readuntil(b"\r\n\r\n")
    assert await reader.readexactly(5000) == DATA[:5000]
    warehouse.release("/f")
    assert await reader.readexactly(5000) == DATA[5000:]
    writer.close()


async def test_a_hold_may_end_by_itself(warehouse):
    warehouse.script("/f", Reply(200, DATA, stop=Stop(3, "hold", seconds=0.01)))
    assert (await ask(warehouse, "/f")).body == DATA


async def test_dropping_connections(warehouse):
    warehouse.add("/f", DATA)
    streams = [await asyncio.open_connection("127.0.0.1", warehouse.port) for _ in range(3)]
    for reader, writer in streams:
        writer.write(request("/f"))
        await read_answer(reader)
    assert warehouse.open_connections == 3
    warehouse.drop_connections()
    for reader, writer in streams:
        assert await reader.read() == b""
        writer.close()
    assert warehouse.open_connections == 0


ENDLESS = [
    Serve(stop=Stop(0, "hang", of="wire")),
    Serve(stop=Stop(10, "hold")),
    Serve(end="half-close"),
    Serve(pace=Pace(1, 0.01)),
    Serve(delay=1000),
    Serve(content=endless()),
    Serve(push=Push(b"x", 1000)),
    Serve(push=Push(b"x")),
    Raw(b"x", repeat=None),
    Raw(b"x", repeat=None, pace=Pace(1, 0)),
]


@pytest.mark.parametrize("answer", ENDLESS, ids=range(len(ENDLESS)))
async def test_leaving_ends_everything_at_once(answer, caplog):
    caplog.set_level(logging.DEBUG, "aiohttp")
    async with Warehouse() as warehouse:
        warehouse.add("/f", DATA)
        warehouse.script("/f", answer)
        streams = [await asyncio.open_connection("127.0.0.1", warehouse.port) for _ in range(5)]
        for _, writer in streams:
            writer.write(request("/f"))
        await warehouse.wait_for("/f", 5)
        begin = time.monotonic()
    assert time.monotonic() - begin < 5, "the answers never end by themselves"
    assert [task for task in asyncio.all_tasks() if task is not asyncio.current_task()] == []
    for _, writer in streams:
        writer.close()
    gc.collect()
    assert caplog.records == []


@pytest.mark.parametrize("answer", ENDLESS, ids=range(len(ENDLESS)))
async def test_clients_that_vanish_are_no_news(warehouse, answer, caplog):
    warehouse.add("/f", DATA)
    warehouse.script("/f", answer)
    for how in (b"", b"\1\0\0\0\0\0\0\0"):
        connection = socket.create_connection(("127.0.0.1", warehouse.port))
        if how:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, how)
        connection.sendall(request("/f"))
        await warehouse.wait_for("/f")
        connection.close()
        await warehouse.wait_for("/f", 1, "answered")
        warehouse.clear_log()
    gc.collect()
    assert caplog.records == []


def any_answer(choice):
    """Put an answer together at random: what the parts do alone they should do in company."""
    manner = {
        "stop": Stop(choice.randrange(90_000), choice.choice(STOPS), of=choice.choice(["body", "wire"]), seconds=0.01),
        "end": choice.choice([None, "keep", "close", "abort", "reset", "half-close", "hang"]),
        "pace": choice.choice([None, Pace(choice.randrange(1, 50_000), 0.0005)]),
        "push": choice.choice([None, Push(b"x", 0.001), Push(Reply(200, b"x"))]),
        "after": choice.choice([b"", b"after"]),
    }
    framing = choice.choice(["length", "chunked", "close", Chunked(777)])
    kinds = [
        Raw(choice.randbytes(100), repeat=choice.choice([1, 5, None]), **manner),
        Reply(choice.randrange(1000), DATA, framing=framing, **manner),
        Serve(content=choice.choice([None, endless()]), framing=framing, **manner),
    ]
    return choice.choice(kinds)


STOPS = ["close", "abort", "reset", "half-close", "hang", "hold"]


async def test_random_answers_to_impatient_clients_are_no_news(caplog):
    choice = random.Random(1)

    async def client(warehouse):
        for _ in range(10):
            reader, writer = await asyncio.open_connection("127.0.0.1", warehouse.port)
            with contextlib.suppress(OSError, TimeoutError):
                for _ in range(3):
                    writer.write(request("/f"))
                    async with asyncio.timeout(choice.choice([0.001, 0.01])):
                        while await reader.read(choice.choice([10, 65_536])):
                            pass
            choice.choice([writer.close, writer.transport.abort])()

    async with Warehouse() as warehouse:
        warehouse.add("/f", DATA * 10)
        warehouse.script("/f", lambda record: any_answer(choice))
        await asyncio.gather(*[client(warehouse) for _ in range(10)])
    gc.collect()
    assert caplog.records == []
    assert all(record.answered_at for record in warehouse.log)


async def test_a_client_that_never_speaks_does_not_hold_up_the_end():
    async with Warehouse() as warehouse:
        warehouse.script_connections("serve", "hang")
        streams = [await asyncio.open_connection("127.0.0.1", warehouse.port) for _ in range(3)]
        streams[2][1].write(b"GET /")
        begin = time.monotonic()
    assert time.monotonic() - begin < 5, "the answers never end by themselves"
    for reader, writer in streams:
        with contextlib.suppress(ConnectionResetError):
            assert await reader.read() == b""
        writer.close()


def broken(record):
    raise ArithmeticError("in the test's own function")


@pytest.mark.parametrize(
    ("scripted", "error", "message"),
    [
        (broken, ArithmeticError, "own function"),
        (lambda record: 503, TypeError, "an answer is a Serve"),
        (Serve(transform=broken), ArithmeticError, "own function"),
    ],
)
async def test_a_script_that_is_wrong_is_heard_of(scripted, error, message):
    async def use():
        async with Warehouse() as warehouse:
            warehouse.add("/f", DATA)
            warehouse.script("/f", scripted)
            assert (await ask(warehouse, "/f")).status == 500

    with pytest.raises(error, match=message):
        await use()


async def test_an_unknown_event_is_refused(warehouse):
    with pytest.raises(ValueError, match="event must be one of received, held, answered, pushed"):
        await warehouse.wait_for("/f", event="never")


def test_a_thread_serves_code_that_blocks():
    with WarehouseThread() as warehouse:
        url = warehouse.add(7, 8192)
        warehouse.script(7, Reply(503), then=Serve())
        with pytest.raises(urllib.request.HTTPError, match="503") as caught:
            urllib.request.urlopen(url)
        caught.value.close()
        with urllib.request.urlopen(url) as response:
            assert response.read() == warehouse.file(7).read()
        warehouse.wait_for(7, 2, "answered")
        assert [record.status for record in warehouse.log] == [503, 200]
        assert (warehouse.count(url), warehouse.connections, warehouse.peak_concurrency) == (2, 2, 1)
        warehouse.clear_log()
        assert warehouse.requests() == []
    assert "warehouse" not in {thread.name for thread in threading.enumerate()}


def test_a_thread_holds_and_releases():
    with WarehouseThread() as warehouse:
        warehouse.add("/f", DATA)
        warehouse.script("/f", hold(), then=Reply(404))
        connection = http.client.HTTPConnection("127.0.0.1", warehouse.port)
        connection.request("GET", "/f")
        warehouse.wait_for("/f")
        warehouse.add("/f", DATA[::-1])
        warehouse.release("/f")
        with connection.getresponse() as response:
            assert response.read() == DATA
        connection.request("GET", "/f")
        with connection.getresponse() as response:
            assert (response.status, response.read()) == (404, b"")
        connection.close()
        with pytest.raises(TimeoutError):
            warehouse.wait_for("/f", 3, timeout=0.01)


def test_a_thread_ends_at_once():
    with WarehouseThread() as warehouse:
        warehouse.add("/f", DATA)
        warehouse.script("/f", Serve(stop=Stop(4, "hang")))
        connection = socket.create_connection(("127.0.0.1", warehouse.port))
        connection.sendall(request("/f"))
        warehouse.wait_for("/f", 1, "held")
        begin = time.monotonic()
    assert time.monotonic() - begin < 5, "the answers never end by themselves"
    connection.close()


def test_a_thread_raises_what_a_function_raised():
    def use():
        with WarehouseThread() as warehouse:
            warehouse.script_all(broken)
            connection = http.client.HTTPConnection("127.0.0.1", warehouse.port)
            connection.request("GET", "/f")
            assert connection.getresponse().status == 500
            connection.close()

    with pytest.raises(ArithmeticError):
        use()


def test_a_thread_that_cannot_listen_ends():
    with WarehouseThread() as warehouse:
        with pytest.raises(OSError, match=r"[Aa]ddress already in use"), WarehouseThread(port=warehouse.port):
            pass
        names = [thread.name for thread in threading.enumerate()]
        assert names.count("warehouse") == 1
