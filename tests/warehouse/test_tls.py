"""The same over TLS, with a certificate made for these tests (self-signed, localhost and 127.0.0.1, until 2120)."""

from __future__ import annotations

import asyncio
import pathlib
import socket
import ssl
import time

import aiohttp
import pytest
import pytest_asyncio

from framefetch.warehouse import Serve, Stop, Warehouse
from tests.warehouse.raw_client import read_all, read_answer, request

PEM = pathlib.Path(__file__).with_name("localhost.pem")
DATA = b"0123456789" * 100_000


@pytest.fixture
def trusting():
    return ssl.create_default_context(cafile=PEM)


@pytest_asyncio.fixture
async def secure():
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(PEM)
    async with Warehouse(ssl_context=context) as warehouse:
        warehouse.add("/f", DATA)
        yield warehouse


async def heard(warehouse, context, answer):
    warehouse.script("/f", answer)
    reader, writer = await asyncio.open_connection("127.0.0.1", warehouse.port, ssl=context)
    writer.write(request("/f"))
    got = await read_all(reader)
    writer.transport.abort()
    return got


async def test_files_are_served_and_connections_kept(secure, trusting):
    assert secure.url("/f") == f"https://127.0.0.1:{secure.port}/f"
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=trusting)) as session:
        for _ in range(3):
            async with session.get(secure.url("/f")) as response:
                assert await response.read() == DATA
    assert (secure.connections, secure.count("/f")) == (1, 3)


@pytest.mark.parametrize("then", ["close", "abort", "half-close", "reset"])
async def test_a_body_cut_short(secure, trusting, then):
    got = await heard(secure, trusting, Serve(stop=Stop(700_001, then)))
    assert got.body == DATA[:700_001]
    assert got.reset == (then == "reset")


@pytest.mark.parametrize(("end", "said"), [("close", True), ("abort", False)])
async def test_the_end_with_and_without_close_notify(secure, trusting, end, said):
    """5: a blocking socket tells the truncation attack from an end."""
    secure.script("/f", Serve(framing="close", end=end))

    def fetch():
        trusting.options &= ~ssl.OP_IGNORE_UNEXPECTED_EOF
        with (
            socket.create_connection(("127.0.0.1", secure.port)) as plain,
            trusting.wrap_socket(plain, server_hostname="localhost", suppress_ragged_eofs=False) as connection,
        ):
            connection.sendall(request("/f"))
            data = b""
            try:
                while part := connection.recv(1 << 16):
                    data += part
            except ssl.SSLError as error:  # SSLEOFError from Python 3.11.4 on
                return data, "eof" not in str(error).lower()
            return data, True

    data, clean = await asyncio.to_thread(fetch)
    assert data.partition(b"\r\n\r\n")[2] == DATA
    assert clean == said


async def test_failed_and_unfinished_handshakes_are_no_news(secure, trusting, caplog):
    with pytest.raises(ssl.SSLCertVerificationError):
        await asyncio.open_connection("127.0.0.1", secure.port, ssl=ssl.create_default_context())
    reader, writer = await asyncio.open_connection("127.0.0.1", secure.port)
    writer.write(request("/f"))
    await read_all(reader)
    writer.close()
    _, silent = await asyncio.open_connection("127.0.0.1", secure.port)
    reader, writer = await asyncio.open_connection("127.0.0.1", secure.port, ssl=trusting)
    secure.script("/f", Serve(), then=Serve(stop=Stop(4, "hang")))
    writer.write(request("/f"))
    await read_answer(reader)
    writer.write(request("/f"))
    await secure.wait_for("/f", 1, "held")
    begin = time.monotonic()
    await secure.__aexit__(None, None, None)
    assert time.monotonic() - begin < 0.5
    writer.transport.abort()
    silent.close()
    assert caplog.records == []
