"""TLS in our hands: a session without a socket, and the loop's end of one with a socket."""

import asyncio
import contextlib
import os
import socket
import ssl
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
import uvloop

from framefetch.sources.seal import RECORD, Past, Seal, Sealed
from tests.seals import TELLS_ENDS_APART, Server, server_context, session, trust

BODY = bytes(range(256)) * 400

Run = Callable[[Coroutine[Any, Any, None]], None]


@pytest.fixture
def ends() -> tuple[Seal, Server]:
    """Give both ends of a session that has begun."""
    return session()


def test_what_one_seals_the_other_opens(ends: tuple[Seal, Server]) -> None:
    seal, server = ends
    assert server.read(seal.close(b"a request")) == b"a request"
    assert seal.open(server.say(b"an answer")) == b"an answer"
    assert seal.is_silent
    assert not seal.ended


@pytest.mark.parametrize("size", [1, 100, 5000, 30_000])
def test_records_come_in_whatever_pieces(ends: tuple[Seal, Server], size: int) -> None:
    seal, server = ends
    sealed = b"".join(server.say(BODY[at : at + 7000]) for at in range(0, len(BODY), 7000))
    opened = [seal.open(sealed[at : at + size]) for at in range(0, len(sealed), size)]
    assert b"".join(opened) == BODY
    assert seal.is_silent


@pytest.mark.parametrize("size", [1000, RECORD, 50_000, 1 << 20])
def test_room_is_filled_and_not_overfilled(ends: tuple[Seal, Server], size: int) -> None:
    seal, server = ends
    seal.feed(server.say(BODY))
    room, found = memoryview(bytearray(size)), b""
    while count := seal.fill(room):
        assert count == min(size, len(BODY) - len(found)), "until it is full or there is no more"
        found += bytes(room[:count])
    assert found == BODY


@pytest.mark.parametrize("size", range(1, 29))
def test_part_of_a_record_is_not_silence(ends: tuple[Seal, Server], size: int) -> None:
    seal, server = ends
    sealed = server.say(b"unasked")
    assert len(sealed) == 29
    assert seal.open(sealed[:size]) == b""
    assert not seal.is_silent
    assert seal.open(sealed[size:]) == b"unasked"
    assert seal.is_silent


def test_an_end_that_is_said_and_one_that_is_not(ends: tuple[Seal, Server]) -> None:
    seal, server = ends
    seal.feed(server.say(b"last words"))
    seal.feed_end()
    room = memoryview(bytearray(100))
    assert seal.open_into(room) == 10
    if TELLS_ENDS_APART:
        with pytest.raises(ssl.SSLEOFError):
            seal.open_into(room)
    else:
        assert seal.open_into(room) == 0


def test_an_end_that_is_said_is_known_however_it_is_asked(ends: tuple[Seal, Server]) -> None:
    seal, server = ends
    assert seal.open(server.say(b"last words") + server.end()) == b"last words"
    assert seal.ended
    room = memoryview(bytearray(100))
    assert seal.open_into(room) == 0
    assert seal.fill(room) == 0


@pytest.mark.parametrize("how", ["open", "fill", "open_into"])
def test_what_was_changed_on_the_way_is_not_opened(ends: tuple[Seal, Server], how: str) -> None:
    seal, server = ends
    sealed = bytearray(server.say(BODY[:1000]))
    sealed[500] ^= 1
    if how != "open":
        seal.feed(sealed)
    with pytest.raises(ssl.SSLError):
        getattr(seal, how)(bytes(sealed) if how == "open" else memoryview(bytearray(2000)))


@pytest.mark.parametrize("how", ["open", "fill"])
def test_what_came_before_something_wrong_is_given_first(ends: tuple[Seal, Server], how: str) -> None:
    seal, server = ends
    good, wrong = server.say(b"good"), bytearray(server.say(b"wrong"))
    wrong[-1] ^= 1
    room = memoryview(bytearray(2000))
    if how == "open":
        assert seal.open(good + wrong) == b"good"
    else:
        seal.feed(good + wrong)
        assert bytes(room[: seal.fill(room)]) == b"good"
    assert isinstance(seal.error, ssl.SSLError)
    for again in (seal.fill, seal.open_into):
        with pytest.raises(ssl.SSLError):
            again(room)


def test_who_has_another_name_is_not_believed() -> None:
    seal, server = Seal(trust(), "elsewhere.example"), Server()
    assert not seal.shake()
    seal.feed(server.hear(seal.unsent()))
    with pytest.raises(ssl.SSLCertVerificationError, match="elsewhere.example"):
        seal.shake()
    assert seal.unsent(), "the other end is told"


# -- one session after the other --------------------------------------------------------------------------------

VERSIONS = [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3]


def spoken(trusted: ssl.SSLContext, context: ssl.SSLContext, past: Past) -> bool:
    """Ask and answer once; return whether the server went on with a session."""
    seal, server = session(trusted=trusted, context=context, past=past)
    assert server.read(seal.close(b"a request")) == b"a request"
    assert seal.open(server.say(b"an answer")) == b"an answer"
    assert server.tls.session_reused is seal._tls.session_reused
    return bool(server.tls.session_reused)


@pytest.mark.parametrize("version", VERSIONS)
def test_the_next_session_goes_on_with_the_last(version: ssl.TLSVersion) -> None:
    trusted, context, past = trust(), server_context(), Past()
    context.maximum_version = version
    assert [spoken(trusted, context, past) for _ in range(4)] == [False, True, True, True]


@pytest.mark.parametrize("version", VERSIONS)
def test_a_server_that_has_forgotten_all_is_learned_anew(version: ssl.TLSVersion) -> None:
    trusted, past = trust(), Past()
    for _ in range(3):  # each context has keys of its own: the tickets of another mean nothing to it
        context = server_context()
        context.maximum_version = version
        assert [spoken(trusted, context, past) for _ in range(2)] == [False, True]


@pytest.mark.parametrize("version", VERSIONS)
def test_a_server_that_never_goes_on_is_asked_for_nothing_of_the_kind(version: ssl.TLSVersion) -> None:
    trusted, context, past = trust(), server_context(), Past()
    context.maximum_version = version
    context.options |= ssl.OP_NO_TICKET
    context.num_tickets = 0
    assert [spoken(trusted, context, past) for _ in range(2)] == [False, False]
    assert version is ssl.TLSVersion.TLSv1_2 or past.session is None


def test_the_session_is_learned_when_the_answer_comes_and_not_before() -> None:
    """TLS 1.3 says after the handshake how to go on; until then there is nothing to go on with."""
    past = Past()
    seal, server = session(past=past)
    assert past.session is None
    seal.feed(server.say(b"an answer"))
    assert seal.open_into(memoryview(bytearray(100))) == 9
    assert past.session is not None
    assert past.session.has_ticket


def test_what_another_has_learned_meanwhile_is_not_forgotten() -> None:
    trusted, context, past = trust(), server_context(), Past()
    assert not spoken(trusted, context, past)
    first = past.session
    assert first is not None
    past.forget(first)
    assert not spoken(trusted, context, past)
    newer = past.session
    past.forget(first)
    assert newer is not first
    assert past.session is newer


# -- with a socket ----------------------------------------------------------------------------------------------


class Above(asyncio.BufferedProtocol):
    """Reads one piece at a time, when it is told to; notes all that it hears."""

    def __init__(self) -> None:
        self.received = bytearray()
        self.ended = False
        self.came = asyncio.Event()
        self.lost: asyncio.Future[Exception | None] = asyncio.get_running_loop().create_future()
        self._room = memoryview(bytearray(10_000))

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._room

    def buffer_updated(self, nbytes: int) -> None:
        self.received += self._room[:nbytes]
        self.transport.pause_reading()
        self.came.set()

    def eof_received(self) -> bool:
        self.ended = True
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost.set_result(exc)


@pytest.fixture(params=["uvloop", "asyncio"])
def run(request: pytest.FixtureRequest) -> Run:
    factory = uvloop.new_event_loop if request.param == "uvloop" else asyncio.new_event_loop

    def go(work: Coroutine[Any, Any, None]) -> None:
        with asyncio.Runner(loop_factory=factory) as runner:
            runner.run(asyncio.wait_for(work, 30))

    return go


async def connected(server: asyncio.Server) -> tuple[Sealed, Above]:
    loop = asyncio.get_running_loop()
    sealed = Sealed(Seal(trust(), "localhost"), memoryview(bytearray(1 << 18)))
    await loop.create_connection(lambda: sealed, *server.sockets[0].getsockname()[:2])
    await sealed.shaken
    above = Above()
    sealed.carry(above)
    return sealed, above


async def left(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Wait until the other end has gone, and go without a word."""
    with contextlib.suppress(OSError):
        await reader.read()
    writer.transport.abort()


@pytest.mark.parametrize("end", ["said", "not said"])
def test_who_reads_slowly_gets_all_that_came_before_the_end(end: str, run: Run) -> None:
    """Much of it is received, and still sealed, when the connection ends."""

    async def work() -> None:
        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(BODY)
            await writer.drain()
            if end == "said":
                writer.close()
            else:
                handle = os.dup(writer.get_extra_info("socket").fileno())
                with socket.socket(fileno=handle) as raw:
                    raw.shutdown(socket.SHUT_WR)
                await left(reader, writer)

        async with await asyncio.start_server(serve, "127.0.0.1", 0, ssl=server_context()) as server:
            sealed, above = await connected(server)
            while not above.lost.done():
                sealed.resume_reading()
                await asyncio.sleep(0)
            assert bytes(above.received) == BODY
            assert above.ended is (end == "said" or not TELLS_ENDS_APART)
            assert above.lost.result() is None
            assert sealed.is_closing()

    run(work())


def test_who_has_given_up_hears_no_more(run: Run) -> None:
    async def work() -> None:
        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(BODY)
            await left(reader, writer)

        async with await asyncio.start_server(serve, "127.0.0.1", 0, ssl=server_context()) as server:
            sealed, above = await connected(server)
            await above.came.wait()
            had = len(above.received)
            sealed.resume_reading()
            sealed.abort()
            await above.lost
            assert len(above.received) == had

    run(work())


def test_while_it_is_paused_the_loop_leaves_the_session_alone(run: Run) -> None:
    """A look that was due when it was paused would take what a thread is about to send."""

    async def work() -> None:
        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.read()
            writer.close()

        async with await asyncio.start_server(serve, "127.0.0.1", 0, ssl=server_context()) as server:
            sealed, above = await connected(server)
            sealed.resume_reading()
            sealed.pause_reading()
            sealed.seal._tls.write(b"a request, half way out")
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            assert sealed.seal.unsent()
            sealed.abort()
            await above.lost

    run(work())


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (b"", ConnectionResetError),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", ssl.SSLError),
    ],
    ids=["closes", "speaks plainly"],
)
def test_a_handshake_that_fails(answer: bytes, error: type[Exception], run: Run) -> None:
    async def work() -> None:
        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.read(100)
            writer.write(answer)
            writer.close()

        async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
            with pytest.raises(error):
                await connected(server)

    run(work())
