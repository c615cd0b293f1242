"""The vocabulary, answer by answer, as it arrives on the wire. Numbers are those of the catalogue of faults."""

from __future__ import annotations

import asyncio
import gzip
import itertools
import time
import zlib

import aiohttp
import pytest

from framefetch.warehouse import (
    CONTINUE,
    Chunked,
    Pace,
    Push,
    Raw,
    Reply,
    Serve,
    Stop,
    bomb,
    deflated,
    endless,
    gzipped,
    rate,
    reply_bytes,
)
from tests.warehouse.raw_client import ask, read_answer, request, send

DATA = bytes(range(256)) * 100
SIZE = len(DATA)


@pytest.fixture
def path(warehouse):
    warehouse.add("/f", DATA)
    return "/f"


async def heard(warehouse, answer, *fields):
    warehouse.script("/f", answer)
    return await ask(warehouse, "/f", *fields)


# Statuses.


@pytest.mark.parametrize("status", [200, 301, 404, 429, 500, 503, 599, 999])
async def test_any_status(warehouse, path, status):
    got = await heard(warehouse, Reply(status, b"body"))
    assert (got.status, got.body, got.field("Content-Length")) == (status, b"body", "4")
    assert warehouse.log[0].status == status


@pytest.mark.parametrize("status", [101, 204, 304])
async def test_statuses_without_a_body(warehouse, path, status):
    got = await heard(warehouse, Reply(status))
    assert (got.status, got.body, got.field("Content-Length")) == (status, b"", None)


async def test_status_000_and_205_and_an_unasked_206(warehouse, path):
    assert (await heard(warehouse, Reply(0))).data.startswith(b"HTTP/1.1 000 Unheard Of\r\n")
    assert (await heard(warehouse, Reply(205))).field("Content-Length") == "0"
    got = await heard(warehouse, Serve(status=206))
    assert (got.status, got.body, got.field("Content-Range")) == (206, DATA, None)


async def test_a_script_goes_on_to_its_last_answer_or_to_then(warehouse, path):
    warehouse.script("/f", Reply(503), Reply(429, headers={"Retry-After": "2"}))
    assert [(await ask(warehouse, "/f")).status for _ in range(3)] == [503, 429, 429]
    warehouse.script("/f", Reply(503), then=Serve())
    assert [(await ask(warehouse, "/f")).status for _ in range(3)] == [503, 200, 200]
    warehouse.script("/f")
    assert (await ask(warehouse, "/f")).status == 200


async def test_a_script_for_all_is_gone_through_by_each(warehouse, path):
    warehouse.add("/g", b"g")
    warehouse.script_all(Reply(500), then=Serve())
    warehouse.script("/own", Reply(418))
    got = [(await ask(warehouse, key)).status for key in ("/f", "/g", "/own", "/f", "/g", "/own")]
    assert got == [500, 500, 418, 200, 200, 418]
    warehouse.script_all()
    assert (await ask(warehouse, "/f")).status == 200


async def test_functions_answer_by_the_request(warehouse, path):
    async def later(record):
        return Reply(200, f"{record.number} {record.header('X')}".encode())

    warehouse.script("/f", lambda record: Serve() if record.header("Range") else Reply(403), later)
    assert (await ask(warehouse, "/f", "Range: bytes=0-1")).status == 206
    assert (await ask(warehouse, "/f", "X: yes")).body == b"2 yes"


async def test_fields_are_replaced_added_and_taken_away(warehouse, path):
    got = await heard(
        warehouse,
        Serve(headers={"etag": None, "Date": None, "Location": ["a", "b"], "Server": "x", "X-Ü": "ü"}),
    )
    assert got.fields("ETag") == got.fields("Date") == []
    assert got.fields("Location") == ["a", "b"]
    assert got.fields("Server") == ["x"]
    assert "X-Ü: ü".encode() in got.head
    assert got.body == DATA
    for location in (None, "", "next?a=b"):
        got = await heard(warehouse, Reply(302, headers={"Location": location}))
        assert got.field("Location") == location


# A: body length and framing.


@pytest.mark.parametrize("then", ["close", "abort", "reset", "half-close"])
async def test_a_body_cut_short(warehouse, path, then):
    """1 and 2: every byte up to the cut arrives, whatever the cut is."""
    got = await heard(warehouse, Serve(stop=Stop(10_240, then)))
    assert got.field("Content-Length") == str(SIZE)
    assert got.body == DATA[:10_240]
    assert got.reset == (then == "reset")
    await warehouse.wait_for("/f", event="answered")
    assert warehouse.log[0].body_bytes == 10_240


async def test_a_large_body_is_cut_to_the_byte_by_rst(warehouse):
    warehouse.add("/f", 8 << 20)
    got = await heard(warehouse, Serve(stop=Stop((6 << 20) + 7, "reset")))
    assert got.reset
    assert got.body == warehouse.file("/f").read()[: (6 << 20) + 7]


@pytest.mark.parametrize("end", [None, "reset", "abort", "half-close"])
async def test_no_length(warehouse, path, end):
    """3, 4 and 5."""
    got = await heard(warehouse, Serve(framing="close", end=end))
    assert got.field("Content-Length") is None
    assert got.field("Transfer-Encoding") is None
    assert (got.body, got.reset) == (DATA, end == "reset")


def chunks(*parts, last=b"0\r\n\r\n"):
    return b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in parts) + last


async def test_chunks(warehouse, path):
    """6: whole, cut inside, cut between, and without the last."""
    warehouse.add("/f", b"0123456789")
    framing = Chunked(4)
    assert (await heard(warehouse, Serve(framing=framing))).body == chunks(b"0123", b"4567", b"89")
    cut = [(await heard(warehouse, Serve(framing=framing, stop=Stop(at)))).body for at in (0, 2, 4, 5, 10)]
    assert cut == [
        b"",
        b"4\r\n01",
        chunks(b"0123", last=b""),
        chunks(b"0123", last=b"4\r\n4"),
        chunks(b"0123", b"4567", b"89", last=b""),
    ]
    got = await heard(warehouse, Serve(framing=Chunked(4, last=b"")))
    assert got.body == chunks(b"0123", b"4567", b"89", last=b"")
    assert warehouse.log[-1].body_bytes == 10
    assert got.field("Transfer-Encoding") == "chunked"


async def test_bad_chunks(warehouse, path):
    """7."""
    warehouse.add("/f", b"0123456789")
    got = await heard(warehouse, Serve(framing=Chunked(4, line=b"4\0\r\n", line_at=1)))
    assert got.body == b"4\r\n0123\r\n4\x00\r\n4567\r\n2\r\n89\r\n0\r\n\r\n"
    got = await heard(warehouse, Serve(framing=Chunked(100, extension=b";" + b"e" * 200_000)))
    assert got.body == b"a;" + b"e" * 200_000 + b"\r\n0123456789\r\n0\r\n\r\n"
    flood = b"0\r\n" + b"X: y\r\n" * 20_000 + b"\r\n"
    assert (await heard(warehouse, Serve(framing=Chunked(last=flood)))).body.endswith(b"89\r\n" + flood)


async def test_chunks_and_closed_bodies_are_understood_by_a_client(warehouse, path):
    answers = [
        Serve(framing="chunked"),
        Serve(framing=Chunked(7)),
        Serve(framing="close"),
        Serve(content=b""),
    ]
    warehouse.script("/f", *answers)
    async with aiohttp.ClientSession() as session:
        bodies = []
        for _ in answers:
            async with session.get(warehouse.url("/f")) as response:
                bodies.append(await response.read())
    assert bodies == [DATA, DATA, DATA, b""]
    assert [record.connection for record in warehouse.log] == [1, 1, 1, 2]


async def test_bytes_after_the_body(warehouse, path):
    """8: in the same packet, and later."""
    got = await heard(warehouse, Reply(200, b"body", after=b"extra"))
    assert got.data.endswith(b"\r\n\r\nbodyextra")
    assert warehouse.log[-1].body_bytes == 4
    warehouse.script("/f", Reply(200, b"body", push=Push(b"extra")))
    reader, writer = await asyncio.open_connection("127.0.0.1", warehouse.port)
    writer.write(request("/f"))
    assert (await read_answer(reader)).body == b"body"
    warehouse.release("/f")
    assert await reader.readexactly(5) == b"extra"
    writer.close()


@pytest.mark.parametrize("length", ["7", "30000", "-1", "rubbish", "9" * 23, str(2**63), ["5", "5"], ["5", "6"]])
async def test_a_lying_length(warehouse, path, length):
    """9 and 10: the body is sent as it is, and the connection closed."""
    got = await heard(warehouse, Serve(headers={"Content-Length": length}))
    assert got.fields("Content-Length") == ([length] if isinstance(length, str) else length)
    assert got.body == DATA
    got = await heard(warehouse, Reply(200, b"ab", framing="chunked", headers={"Content-Length": length}))
    assert got.fields("Transfer-Encoding") == ["chunked"]
    assert got.body == chunks(b"ab")


async def test_a_lying_length_may_keep_the_connection(warehouse, path):
    warehouse.script("/f", Serve(headers={"Content-Length": "30"}, end="keep"))
    reader, writer = await asyncio.open_connection("127.0.0.1", warehouse.port)
    for _ in range(2):
        writer.write(request("/f"))
        assert (await read_answer(reader)).body == DATA[:30]
        assert await reader.readexactly(SIZE - 30) == DATA[30:]
    writer.close()


async def test_a_body_without_end(warehouse, path):
    """11."""
    warehouse.script("/f", Serve(content=endless(b"abc")))
    reader, writer = await asyncio.open_connection("127.0.0.1", warehouse.port)
    writer.write(request("/f"))
    head = await reader.readuntil(b"\r\n\r\n")
    assert b"Content-Length" not in head
    assert (await reader.readexactly(3_000_000)) == b"abc" * 1_000_000
    writer.close()
    await warehouse.wait_for("/f", event="answered")
    assert warehouse.log[0].body_bytes >= 3_000_000


async def test_a_second_response_on_the_idle_connection(warehouse, path):
    """15."""
    warehouse.script("/f", Serve(push=Push(Reply(200, b"other"), 0.001)))
    reader, writer = await asyncio.open_connection("127.0.0.1", warehouse.port)
    writer.write(request("/f"))
    assert (await read_answer(reader)).body == DATA
    assert (await read_answer(reader)).body == b"other"
    await warehouse.wait_for("/f", event="pushed")
    writer.write(request("/f"))
    assert (await read_answer(reader)).body == DATA
    assert {record.connection for record in warehouse.log} == {1}
    writer.close()


async def test_half_close_leaves_the_client_time(warehouse):
    """16: all of a large body arrives, however late it is read."""
    warehouse.add("/f", 20 << 20)
    warehouse.script("/f", Serve(end="half-close"))
    reader, writer = await asyncio.open_connection("127.0.0.1", warehouse.port, limit=1 << 16)
    writer.write(request("/f"))
    await warehouse.wait_for("/f")
    got = b"".join([part async for part in parts_of(reader)])
    assert got.partition(b"\r\n\r\n")[2] == warehouse.file("/f").read()
    writer.close()


async def parts_of(reader):
    while part := await reader.read(10_000):
        yield part


# B: ranges.


async def test_ranges_ignored_refused_and_bent(warehouse, path):
    warehouse.add("/f", b"0123456789")
    asked = "Range: bytes=4-5"
    got = await heard(warehouse, Serve(ranges="ignore"), asked)
    assert (got.status, got.body, got.field("Accept-Ranges")) == (200, b"0123456789", None)
    got = await heard(warehouse, Serve(ranges="refuse"), asked)
    assert (got.status, got.body, got.field("Content-Range")) == (416, b"", "bytes */10")
    got = await heard(warehouse, Serve(ranges="refuse", content_range=None), asked)
    assert (got.status, got.field("Content-Range")) == (416, None)
    got = await heard(warehouse, Serve(shift=-2), asked)
    assert (got.status, got.body, got.field("Content-Range")) == (206, b"2345", "bytes 2-5/10")
    got = await heard(warehouse, Serve(shift=9), asked)
    assert (got.body, got.field("Content-Range")) == (b"9", "bytes 9-9/10")
    for shown in (None, "rubbish", "items 4-5/10", "bytes 4-5/99", "bytes 4-5/*"):
        got = await heard(warehouse, Serve(content_range=shown), asked)
        assert (got.status, got.body, got.field("Content-Range")) == (206, b"45", shown)


async def test_multipart(warehouse, path):
    warehouse.add("/f", b"0123456789")
    got = await heard(warehouse, Serve(ranges="multipart"), "Range: bytes=4-5,-1")
    assert got.status == 206
    assert got.field("Content-Type") == "multipart/byteranges; boundary=framefetch-part"
    assert got.body.split(b"--framefetch-part")[1:] == [
        b"\r\nContent-Type: application/octet-stream\r\nContent-Range: bytes 4-5/10\r\n\r\n45\r\n",
        b"\r\nContent-Type: application/octet-stream\r\nContent-Range: bytes 9-9/10\r\n\r\n9\r\n",
        b"--\r\n",
    ]
    assert got.field("Content-Length") == str(len(got.body))


async def test_validators_may_change_under_a_range(warehouse, path):
    """26: If-Range ignored, and a new ETag with the part."""
    old = warehouse.file("/f").etag
    answer = Serve(content=b"x" * SIZE, ignore_if_range=True)
    got = await heard(warehouse, answer, "Range: bytes=4-5", f"If-Range: {old}")
    assert (got.status, got.body) == (206, b"xx")
    assert got.field("ETag") not in {None, old}


async def test_two_backends_behind_one_name(warehouse, path):
    """27."""
    backends = itertools.cycle([Serve(), Serve(content=b"x" * SIZE)])
    warehouse.script("/f", lambda record: next(backends))
    got = [await ask(warehouse, "/f") for _ in range(4)]
    assert [one.body for one in got] == [DATA, b"x" * SIZE] * 2
    assert len({one.field("ETag") for one in got}) == 2


# C: encodings.


def test_encodings():
    assert gzip.decompress(gzipped(DATA)) == DATA
    assert gzipped(DATA) == gzipped(DATA)
    with pytest.raises(gzip.BadGzipFile, match="CRC"):
        gzip.decompress(gzipped(DATA, bad_crc=True))
    assert zlib.decompress(deflated(DATA)) == DATA
    assert zlib.decompress(deflated(DATA, raw=True), wbits=-15) == DATA
    packed = bomb(30_000_001)
    assert len(packed) < 35_000
    assert gzip.decompress(packed) == bytes(30_000_001)


async def test_an_encoding_nobody_asked_for_and_cut(warehouse, path):
    got = await heard(warehouse, Serve(content=gzipped(DATA)[:-20], headers={"Content-Encoding": "x-gzip"}))
    assert (got.field("Content-Encoding"), got.body) == ("x-gzip", gzipped(DATA)[:-20])
    assert got.field("Content-Length") == str(len(got.body))


# D and F: time.


async def test_a_limit_of_concurrent_requests(warehouse, path):
    warehouse.limit(2, Reply(429))
    warehouse.script("/f", Serve(stop=Stop(0, "hold")))
    held = [asyncio.create_task(ask(warehouse, "/f")) for _ in range(2)]
    await warehouse.wait_for("/f", 2, "held")
    assert (await ask(warehouse, "/f")).status == 429
    warehouse.release()
    assert [(await task).status for task in held] == [200, 200]
    warehouse.script("/f", Serve())
    assert (await ask(warehouse, "/f")).status == 200
    assert warehouse.peak_concurrency == 3


@pytest.mark.parametrize(
    ("stop", "expected"),
    [
        (Stop(0, "hang", of="wire"), b""),
        (Stop(17, "hang", of="wire"), b"HTTP/1.1 200 OK\r\n"),
        (Stop(5, "hang"), DATA[:5]),
    ],
)
async def test_silence_somewhere(warehouse, path, stop, expected):
    """69 and 70: and the server notices when the client has had enough."""
    warehouse.script("/f", Serve(stop=stop))
    reader, writer = await asyncio.open_connection("127.0.0.1", warehouse.port)
    writer.write(request("/f"))
    await warehouse.wait_for("/f", 1, "held")
    writer.write_eof()
    got = await reader.read()
    assert got.endswith(expected)
    assert len(got) == stop.after or stop.of == "body"
    await warehouse.wait_for("/f", 1, "answered")
    assert warehouse.log[0].body_bytes == (5 if stop.of == "body" else 0)
    assert warehouse.log[0].status == (200 if got else 0)
    writer.close()


async def test_a_break_within_the_head(warehouse, path):
    """74."""
    got = await heard(warehouse, Serve(stop=Stop(40, of="wire")))
    assert len(got.data) == 40
    got = await heard(warehouse, Serve(stop=Stop(0, "reset", of="wire")))
    assert (got.data, got.reset) == (b"", True)


@pytest.mark.parametrize(("how", "reset"), [("reset", True), ("close", False)])
async def test_a_connection_refused_after_accept(warehouse, path, how, reset):
    warehouse.script_connections(how, "serve")
    reader, writer = await asyncio.open_connection("127.0.0.1", warehouse.port)
    try:
        assert await reader.read() == b""
        assert not reset
    except ConnectionResetError:
        assert reset
    writer.close()
    assert (await ask(warehouse, "/f")).body == DATA
    assert (warehouse.connections, warehouse.count()) == (2, 1)


async def test_a_delay(warehouse, path):
    begin = time.monotonic()
    assert (await heard(warehouse, Serve(delay=0.05))).body == DATA
    assert time.monotonic() - begin >= 0.05


async def test_drips_come_byte_by_byte(warehouse, path):
    """71."""
    warehouse.script("/f", Reply(200, b"abcdef", head_pace=Pace(1000, 0), pace=Pace(1, 0.002)))
    reader, writer = await asyncio.open_connection("127.0.0.1", warehouse.port)
    writer.write(request("/f"))
    await reader.readuntil(b"\r\n\r\n")
    pieces = [await reader.read(100)]
    while sum(map(len, pieces)) < 6:  # where this process had to wait, two have come meanwhile
        pieces.append(await reader.read(100))
    assert b"".join(pieces) == b"abcdef"
    assert len(pieces) > 1
    writer.close()
    got = await heard(warehouse, Reply(200, b"abcdef", head_pace=Pace(10, 0.0001)))
    assert got.body == b"abcdef"


async def test_bandwidth_holds_on_average(warehouse):
    warehouse.add("/f", 1 << 20)
    begin = time.monotonic()
    got = await heard(warehouse, Serve(pace=rate(4 << 20)))
    seconds = time.monotonic() - begin
    assert got.body == warehouse.file("/f").read()
    assert 0.2 <= seconds < 0.6


async def test_interim_answers(warehouse, path):
    got = await heard(warehouse, Serve(before=CONTINUE * 50))
    assert got.data.startswith(CONTINUE * 50 + b"HTTP/1.1 200 OK\r\n")
    warehouse.script("/f", Raw(CONTINUE, repeat=None, pace=Pace(2500, 0.001)))
    reader, writer = await asyncio.open_connection("127.0.0.1", warehouse.port)
    writer.write(request("/f"))
    assert await reader.readexactly(25 * 1000) == CONTINUE * 1000
    writer.close()


# Raw bytes.

RAW = [
    b"",
    b"HTTP/9.9 abc\r\n\r\n",
    b"just a body",
    b"SSH-2.0-OpenSSH_9.6\r\n",
    b"HTTP/1.1 200 OK\r\n" + b"X-%d: y\r\n" * 50_000 + b"\r\n",
    b"HTTP/1.1 200 OK\r\nX: " + b"y" * 100_000 + b"\r\n\r\nbody",
    b"HTTP/1.1 200 OK\r\nNo colon\r\nX: \0\r\nContent-Length: 4\r\n\r\nbody",
]


@pytest.mark.parametrize("data", RAW, ids=range(len(RAW)))
@pytest.mark.parametrize("end", [None, "reset"])
async def test_raw_bytes(warehouse, path, data, end):
    """80."""
    got = await heard(warehouse, Raw(data, end=end))
    assert (got.data, got.reset) == (data, end == "reset")


async def test_raw_bytes_may_keep_the_connection_and_be_broken_off(warehouse, path):
    whole = reply_bytes(Reply(200, b"body"))
    warehouse.script("/f", Raw(whole, end="keep"), Raw(whole, stop=Stop(2)))
    reader, writer = await asyncio.open_connection("127.0.0.1", warehouse.port)
    writer.write(request("/f") * 2)
    assert await reader.read() == whole + whole[:-2]
    assert [(record.status, record.body_bytes) for record in warehouse.log] == [(200, 4), (200, 2)]
    assert warehouse.connections == 1
    writer.close()


async def test_raw_bytes_repeated(warehouse, path):
    assert (await heard(warehouse, Raw(b"ab\r\n\r\ncd", repeat=3))).data == b"ab\r\n\r\ncd" * 3


async def test_a_connection_closed_without_a_word(warehouse, path):
    """The client learns of it only when it asks again."""
    warehouse.script("/f", Serve(end="close"), then=Serve())
    got = await send(warehouse, request("/f"))
    assert (got.body, got.field("Connection")) == (DATA, None)
    got = await send(warehouse, request("/f", "Connection: keep-alive", "X: y", "Connection: close"))
    assert got.field("Connection") == "close"


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: Serve(end="never"),
        lambda: Serve(ranges="some"),
        lambda: Serve(framing="none"),
        lambda: Reply(200, framing="none"),
        lambda: Stop(-1),
        lambda: Stop(1, "keep"),
        lambda: Stop(1, of="head"),
        lambda: Pace(0, 1),
    ],
)
def test_wrong_words_are_refused(wrong):
    with pytest.raises(ValueError, match=r"must be one of|counts bytes|a pace needs"):
        wrong()
