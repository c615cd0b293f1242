"""Connections on loan to a thread: what it takes of an answer by itself, and what it leaves to the loop."""

import asyncio
import os
import socket
import ssl
import struct
import threading
from collections.abc import Iterator

import pytest

from framefetch import Timeouts
from framefetch.sources.answers import is_overload
from framefetch.sources.base import Meter
from framefetch.sources.buffers import ROOM
from framefetch.sources.environment import Environment
from framefetch.sources.http import HttpSource
from framefetch.sources.loan import EARS, USUAL_HEAD, Answer, Ear, Loan, ask_all
from framefetch.sources.seal import Seal
from framefetch.sources.sockets import readable
from framefetch.sources.watchdog import Manner
from framefetch.warehouse import Serve, WarehouseThread, hold
from tests.seals import Server, session

ASK = b"GET / HTTP/1.1\r\n\r\n"
BODY = bytes(range(256)) * 40
HEAD = b'HTTP/1.1 200 OK\r\nContent-Length: 10240\r\nETag: "a"\r\n\r\n'


@pytest.fixture
def manner() -> Manner:
    return Manner()


@pytest.fixture
def ends(manner: Manner) -> Iterator[tuple[Loan, socket.socket]]:
    """Give a connection on loan, and the server's end of it."""
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()) as ours:
        theirs, _ = server.accept()
        ours.setblocking(False)
        handle = os.dup(ours.fileno())
        with theirs:
            yield Loan(handle, manner), theirs
        os.close(handle)


def ask(loan: Loan, request: bytes, least: int, most: int) -> bool:
    return ask_all([(loan, request, least, most)], 0.5) == [True]


def hear(loan: Loan, now: float) -> Answer | None:
    """Let a connection take what has come, as a thread does."""
    try:
        return loan.take(os.read(loan.handle, 1 << 20), now)
    except OSError as error:
        return loan.take(error.errno, now)


def sent(loan: Loan, end: socket.socket, data: bytes) -> None:
    """Send bytes, and return when the loan's end has them."""
    end.sendall(data)
    waiting = socket.socket(fileno=os.dup(loan.handle))
    with waiting:
        waiting.setblocking(True)
        waiting.recv(1, socket.MSG_PEEK)
        waiting.setblocking(False)


def heard(loan: Loan, end: socket.socket, *pieces: bytes) -> list[Answer | None]:
    answers = []
    for piece in pieces:
        sent(loan, end, piece)
        answers.append(hear(loan, 1.0))
    return answers


def test_a_plain_answer_is_taken_whole_and_the_next_request_can_follow(ends) -> None:
    loan, end = ends
    for number in (1, 2):
        assert ask(loan, ASK, 0, 1 << 20)
        assert end.recv(100) == ASK
        assert heard(loan, end, HEAD + BODY) == [Answer(BODY, '"a"')]
        assert (loan.answered, loan.asked, loan.is_odd, bytes(loan.received)) == (number, False, False, b"")


@pytest.mark.parametrize("size", [1, 7, 53, 4000])
def test_an_answer_in_pieces_is_the_same(ends, manner, size) -> None:
    loan, end = ends
    ask(loan, ASK, 10_240, 10_240)
    data = HEAD + BODY
    answers = heard(loan, end, *(data[at : at + size] for at in range(0, len(data), size)))
    assert answers == [None] * (len(answers) - 1) + [Answer(BODY, '"a"')]
    assert (manner.ended, manner.longest) == (1, 0), "it may have been the thread that was late"


@pytest.mark.parametrize(
    "data",
    [
        b"HTTP/1.1 404 Not Found\r\nContent-Length: 3\r\n\r\nno!",
        b"HTTP/1.1 206 Partial Content\r\nContent-Length: 3\r\n\r\nno!",
        b"HTTP/1.1 302 Found\r\nLocation: /\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 100 Continue\r\n\r\n" + HEAD + BODY,
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n\r\nuntil the end",
        b"HTTP/1.0 200 OK\r\nContent-Length: 3\r\n\r\nabc",
        b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 3\r\n\r\nabc",
        b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 3\r\n\r\nabc",
        b"HTTP/1.1 200 OK\r\nContent-Range: bytes 0-2/9\r\nContent-Length: 3\r\n\r\nabc",
        b"HTTP/1.1 200 OK\r\nSet-Cookie: a=b\r\nContent-Length: 3\r\n\r\nabc",
        b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabc",
        b"HTTP/1.1 200 OK\r\nContent-Length: +3\r\n\r\nabc",
        b"HTTP/1.1 200 OK\r\nContent-Length: 101\r\n\r\nlonger than it may be",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nshorter than it may be",
        b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabcd",
        b"HTTP/1.1 200 OK\r\nNo field\r\nContent-Length: 3\r\n\r\nabc",
        b"SSH-2.0-OpenSSH_9.6\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX: " + b"x" * USUAL_HEAD,
    ],
)
def test_whatever_is_not_plain_is_left_with_all_that_came(ends, data) -> None:
    loan, end = ends
    ask(loan, ASK, 3, 100)
    sent(loan, end, data)
    while hear(loan, 1.0) is None and not loan.is_odd:
        pass
    assert loan.is_odd
    assert loan.asked
    assert data.startswith(bytes(loan.received))
    assert len(loan.received) > 3
    assert loan.answered == 0


def test_a_host_that_is_asked_too_much_is_seen_at_once(ends) -> None:
    loan, end = ends
    ask(loan, ASK, 0, 100)
    heard(loan, end, b"HTTP/1.1 403 Forbidden\r\nRetry-After: 7\r\nContent-Length: 3\r\n\r\n")
    assert loan.head is not None
    assert is_overload(loan.head)


@pytest.mark.parametrize("how", ["end", "reset", "words"])
def test_nothing_is_asked_on_a_connection_that_speaks_first(ends, how) -> None:
    loan, end = ends
    if how == "words":
        end.sendall(HEAD + BODY)
    else:
        if how == "reset":
            end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        end.close()
    while not readable(loan.handle)():
        pass
    assert not ask(loan, ASK, 0, 1 << 20)
    assert not loan.asked
    assert hear(loan, 1.0) is None
    assert loan.is_odd


def test_the_reason_of_a_break_is_kept(ends) -> None:
    loan, end = ends
    ask(loan, ASK, 0, 1 << 20)
    heard(loan, end, HEAD + BODY[:100])
    end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    end.close()
    while not readable(loan.handle)():
        pass
    assert hear(loan, 2.0) is None
    assert isinstance(loan.error, ConnectionResetError)
    assert (loan.is_odd, bytes(loan.received), loan.heard) == (True, HEAD + BODY[:100], 1.0)


def test_what_the_socket_does_not_take_of_a_request_is_kept(ends) -> None:
    loan, end = ends
    request = b"x" * (32 << 20)
    assert ask(loan, request, 0, 1 << 20)
    assert loan.is_odd
    assert loan.asked
    assert 0 < len(loan.unsent) < len(request)
    got = 0
    end.settimeout(10)
    while got < len(request) - len(loan.unsent):
        got += len(end.recv(1 << 20))
    assert got == len(request) - len(loan.unsent)


# -- under TLS ---------------------------------------------------------------------------------------------------


@pytest.fixture
def under_seal(ends, manner) -> tuple[Loan, socket.socket, Server]:
    """Give a connection on loan with a TLS session, and the server's ends of both."""
    loan, end = ends
    seal, server = session()
    return Loan(loan.handle, manner, seal), end, server


@pytest.mark.parametrize("size", [1 << 20, 5000, 100])
def test_under_a_seal_an_answer_is_the_same(under_seal, size) -> None:
    loan, end, server = under_seal
    for number in (1, 2):
        assert ask(loan, ASK, 10_240, 10_240)
        assert server.read(end.recv(1000)) == ASK
        data = server.say(HEAD + BODY)
        answers = heard(loan, end, *(data[at : at + size] for at in range(0, len(data), size)))
        assert answers == [None] * (len(answers) - 1) + [Answer(BODY, '"a"')]
        assert (loan.answered, loan.asked, loan.is_odd) == (number, False, False)


def test_part_of_a_record_behind_an_answer_is_bytes_that_nobody_asked_for(under_seal) -> None:
    loan, end, server = under_seal
    ask(loan, ASK, 0, 1 << 20)
    assert heard(loan, end, server.say(HEAD + BODY) + server.say(b"HTTP/1.1 200")[:3]) == [None]
    assert loan.is_odd
    assert loan.received == HEAD + BODY


@pytest.mark.parametrize("size", [1, 5, 40])
def test_a_record_that_began_before_the_request_is_not_its_answer(under_seal, size) -> None:
    """The socket is silent again when something is asked; the session is not."""
    loan, end, server = under_seal
    assert heard(loan, end, server.say(HEAD + BODY)[:size]) == [None]
    assert loan.is_odd
    assert not loan.asked


def test_a_session_whose_request_was_not_sent_is_at_its_end(under_seal) -> None:
    """What was sealed counts: the next words would not be understood without it."""
    loan, end, server = under_seal
    sent(loan, end, server.say(b"unasked"))
    assert not ask(loan, ASK, 0, 100)
    assert loan.is_odd
    assert not loan.asked


def test_what_the_socket_does_not_take_of_a_sealed_request_is_sealed(under_seal) -> None:
    loan, end, server = under_seal
    ours = socket.socket(fileno=os.dup(loan.handle))
    with ours:
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    long = b"GET /" + b"x" * 5_000_000 + b" HTTP/1.1\r\n\r\n"
    assert ask(loan, long, 0, 100)
    assert loan.is_odd
    came, size = b"", 0
    end.setblocking(False)
    while True:
        try:
            came += end.recv(1 << 20)
        except BlockingIOError:
            break
    server.take(came + loan.unsent)
    while size < len(long):
        size += len(server.tls.read(1 << 14))
    assert size == len(long)


def test_what_the_session_has_to_say_is_the_loops(under_seal, monkeypatch) -> None:
    """It must be the next that is sent, also where the answer that it came with is whole."""
    loan, end, server = under_seal
    ask(loan, ASK, 0, 1 << 20)
    monkeypatch.setattr(Seal, "unsent", lambda _: b"new keys")
    assert heard(loan, end, server.say(HEAD + BODY)) == [Answer(BODY, '"a"')]
    assert loan.is_odd
    assert loan.unsent == b"new keys"


def test_a_session_that_takes_no_words_is_at_its_end(under_seal, monkeypatch) -> None:
    loan, _, _ = under_seal

    def refuse(*_: object) -> bytes:
        raise ssl.SSLWantReadError

    monkeypatch.setattr(Seal, "close", refuse)
    assert ask(loan, ASK, 0, 100)
    assert loan.is_odd
    assert isinstance(loan.error, ssl.SSLWantReadError)


@pytest.mark.parametrize("how", ["said", "changed"])
def test_the_end_of_a_session_is_the_loops(under_seal, how) -> None:
    loan, end, server = under_seal
    ask(loan, ASK, 0, 1 << 20)
    data = bytearray(server.end() if how == "said" else server.say(HEAD + BODY))
    data[-1] ^= how == "changed"
    assert heard(loan, end, bytes(data)) == [None]
    assert loan.is_odd
    assert loan.asked
    assert (loan.error is not None) is (how == "changed")


def test_an_ear_hears_those_it_has_and_can_be_woken(ends) -> None:
    loan, end = ends
    ear = Ear()
    ear.add(loan)
    ask(loan, ASK, 0, 1 << 20)
    sent(loan, end, HEAD)
    assert list(ear.listen(10)) == [(loan, HEAD)]
    ear.drop(loan)
    ear.drop(loan)
    ringing = threading.Timer(0.01, ear.ring)
    ringing.start()
    assert list(ear.listen(-1)) == []
    ringing.join()
    assert list(ear.listen(0)) == []
    ear.close()


def test_an_ear_knows_whether_it_has_heard_all() -> None:
    ear, pairs, loans = Ear(), [], []
    for _ in range(EARS + 1):
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        pairs += [ours, theirs]
        loans.append(Loan(ours.fileno(), Manner()))
        ear.add(loans[-1])
        theirs.sendall(b"a")
    first = list(ear.listen(0))
    assert (len(first), ear.has_more) == (EARS, True)
    second = list(ear.listen(0))
    assert ({loan for loan, _ in (*first, *second)}, ear.has_more) == (set(loans), False)
    room = ROOM.view
    try:
        ROOM.view = room[:3]
        pairs[1].sendall(b"abc")
        assert (list(ear.listen(0)), ear.has_more) == ([(loans[0], b"abc")], True)
    finally:
        ROOM.view = room
    ear.close()
    for end in pairs:
        end.close()


def test_behind_a_connection_that_has_ended_the_one_that_has_not_is_lent() -> None:
    def has_ended(warehouse: WarehouseThread) -> None:
        while warehouse.open_connections > 1:
            pass

    async def work(warehouse: WarehouseThread) -> None:
        source = HttpSource(Timeouts(), {}, {}, Environment())

        async def get(name: str) -> None:
            async with source.open(warehouse.url(name), Meter()) as body:
                while await body.read():
                    pass

        await asyncio.gather(get("/a"), get("/b"))
        await get("/ends")
        await asyncio.to_thread(has_ended, warehouse)
        loan = source.lend(warehouse.url("/a"))
        assert loan is not None
        assert source.lend(warehouse.url("/a")) is None
        assert ask(loan, source.request(warehouse.url("/a")), 0, 1 << 20)
        while (answer := hear(loan, 1.0)) is None:
            assert not loan.is_odd
        assert answer.body == BODY
        source.take_back(loan)
        await get("/b")
        await source.close()
        assert warehouse.connections == 2

    with WarehouseThread() as warehouse:
        for name in ("/a", "/b", "/ends"):
            warehouse.add(name, BODY)
        warehouse.script("/a", hold(), Serve())
        warehouse.script("/b", hold(), Serve())
        warehouse.script("/ends", Serve(end="close"))
        threading.Thread(
            target=lambda: (warehouse.wait_for("/a"), warehouse.wait_for("/b"), warehouse.release())
        ).start()
        asyncio.run(work(warehouse))


def test_an_exchange_that_a_thread_began_is_gone_on_with() -> None:
    async def work(warehouse: WarehouseThread) -> None:
        source = HttpSource(Timeouts(), {}, {}, Environment())
        meter = Meter()
        url = warehouse.url("/a")
        async with source.open(url, meter) as body:
            assert await body.read() == BODY
        loan = source.lend(url)
        assert loan is not None
        assert ask(loan, source.request(url), 0, 100)
        while hear(loan, 1.0) is None and not loan.is_odd:
            pass
        async with source.open(url, meter, begun=loan) as body:
            assert body.length == len(BODY)
            assert not body.alone
            got = b""
            while block := await body.read():
                got += block
        assert got == BODY
        await source.close()
        assert (meter.requests, warehouse.count(), warehouse.connections) == (2, 2, 1)

    with WarehouseThread() as warehouse:
        warehouse.add("/a", BODY)
        asyncio.run(work(warehouse))
