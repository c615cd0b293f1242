"""The common path: a good server."""

from __future__ import annotations

import asyncio
import hashlib

import aiohttp
import pytest

from framefetch.warehouse import FILES, OLD_DATE, Reply, Serve, Warehouse, gzipped
from tests.warehouse.raw_client import ask, read_answer, request, send


async def test_a_file_is_served_whole_with_its_validators(warehouse):
    url = warehouse.add(1085755199, 8192)
    assert url == f"http://127.0.0.1:{warehouse.port}{FILES}1085755199"
    heard = await ask(warehouse, 1085755199)
    file = warehouse.file(1085755199)
    assert heard.status == 200
    assert heard.body == file.read()
    assert heard.field("Content-Length") == "8192"
    assert heard.field("ETag") == file.etag
    assert heard.field("Last-Modified") == OLD_DATE
    assert heard.field("Accept-Ranges") == "bytes"
    assert heard.field("Content-Encoding") is None
    assert file.hexdigest() == hashlib.md5(heard.body).hexdigest()


async def test_head_is_get_without_the_body(warehouse):
    warehouse.add("/a.bin", b"hello")
    whole, head = await ask(warehouse, "/a.bin"), await ask(warehouse, "/a.bin", method="HEAD")
    assert head.body == b""
    assert [field for field in head.head.split(b"\r\n") if not field.startswith(b"Date")] == [
        field for field in whole.head.split(b"\r\n") if not field.startswith(b"Date")
    ]


async def test_an_empty_file(warehouse):
    warehouse.add("/empty", b"")
    heard = await ask(warehouse, "/empty")
    assert (heard.status, heard.body, heard.field("Content-Length")) == (200, b"", "0")
    assert (await ask(warehouse, "/empty", "Range: bytes=0-")).status == 416


async def test_unknown_paths_and_methods(warehouse):
    warehouse.add("/a", b"x")
    assert (await ask(warehouse, "/b")).status == 404
    assert (await ask(warehouse, "/a", method="POST")).status == 405
    warehouse.remove("/a")
    assert (await ask(warehouse, "/a")).status == 404


RANGES = [
    ("bytes=0-0", "0-0"),
    ("bytes=3-", "3-9"),
    ("bytes=-4", "6-9"),
    ("bytes=-40", "0-9"),
    ("bytes=8-999", "8-9"),
    ("bytes = 2-3", "2-3"),
    ("BYTES=2-3", "2-3"),
]


@pytest.mark.parametrize(("asked", "answered"), RANGES)
async def test_a_range(warehouse, asked, answered):
    warehouse.add("/a", b"0123456789")
    heard = await ask(warehouse, "/a", f"Range: {asked}")
    first, last = map(int, answered.split("-"))
    assert heard.status == 206
    assert heard.body == b"0123456789"[first : last + 1]
    assert heard.field("Content-Range") == f"bytes {answered}/10"
    assert heard.field("Content-Length") == str(last - first + 1)
    assert heard.field("ETag") == warehouse.file("/a").etag


@pytest.mark.parametrize("asked", ["bytes=10-", "bytes=10-12", "bytes=-0"])
async def test_a_range_behind_the_end(warehouse, asked):
    warehouse.add("/a", b"0123456789")
    heard = await ask(warehouse, "/a", f"Range: {asked}")
    assert (heard.status, heard.body, heard.field("Content-Range")) == (416, b"", "bytes */10")


@pytest.mark.parametrize("asked", ["bytes=5-2", "bytes=-", "bytes=a-b", "lines=1-2", "bytes", "bytes=0-1,4-5"])
async def test_a_range_that_is_ignored(warehouse, asked):
    warehouse.add("/a", b"0123456789")
    heard = await ask(warehouse, "/a", f"Range: {asked}")
    assert (heard.status, heard.body) == (200, b"0123456789")


@pytest.mark.parametrize(
    ("if_range", "status"),
    [
        ("{etag}", 206),
        (OLD_DATE, 206),
        ('"other"', 200),
        ("W/{etag}", 200),
        ("Tue, 02 Jan 2024 00:00:00 GMT", 200),
    ],
)
async def test_if_range(warehouse, if_range, status):
    warehouse.add("/a", b"0123456789")
    value = if_range.format(etag=warehouse.file("/a").etag)
    assert (await ask(warehouse, "/a", "Range: bytes=4-", f"If-Range: {value}")).status == status


async def test_if_range_is_compared_with_what_is_shown(warehouse):
    warehouse.add("/a", b"0123456789")
    warehouse.script("/a", Serve(headers={"ETag": '"new"'}))
    old = warehouse.file("/a").etag
    assert (await ask(warehouse, "/a", "Range: bytes=4-", f"If-Range: {old}")).status == 200
    assert (await ask(warehouse, "/a", "Range: bytes=4-", 'If-Range: "new"')).status == 206
    warehouse.script("/a", Serve(headers={"etag": 'W/"weak"'}))
    assert (await ask(warehouse, "/a", "Range: bytes=4-", 'If-Range: W/"weak"')).status == 200


async def test_a_connection_is_kept_and_requests_may_be_pipelined(warehouse):
    warehouse.add("/a", b"first")
    warehouse.add("/b", b"second")
    reader, writer = await asyncio.open_connection("127.0.0.1", warehouse.port)
    for _ in range(3):
        writer.write(request("/a") + request("/b"))
        assert (await read_answer(reader)).body == b"first"
        assert (await read_answer(reader)).body == b"second"
    writer.close()
    assert warehouse.connections == 1
    assert [record.connection for record in warehouse.log] == [1] * 6
    assert [record.number for record in warehouse.requests("/b")] == [1, 2, 3]


async def test_the_end_is_said_to_whoever_asked_for_it(warehouse):
    warehouse.add("/a", b"x")
    assert (await ask(warehouse, "/a")).field("Connection") == "close"
    heard = await send(warehouse, b"GET /a HTTP/1.0\r\n\r\n")
    assert (heard.body, heard.field("Connection")) == (b"x", "close")


async def test_aiohttp_shares_connections(warehouse):
    urls = [warehouse.add(number, 8192) for number in range(20)]
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=3)) as session:

        async def fetch(url):
            async with session.get(url) as response:
                return await response.read()

        bodies = await asyncio.gather(*map(fetch, urls))
    assert bodies == [warehouse.file(number).read() for number in range(20)]
    assert len(set(bodies)) == 20
    assert warehouse.connections <= 3
    assert 1 <= warehouse.peak_concurrency <= 3


async def test_a_file_replaced_has_other_bytes_and_validators(warehouse):
    warehouse.add(1, b"old")
    before = await ask(warehouse, 1)
    warehouse.add(1, b"new", last_modified="Tue, 02 Jan 2024 00:00:00 GMT")
    after = await ask(warehouse, 1)
    assert (before.body, after.body) == (b"old", b"new")
    assert before.field("ETag") != after.field("ETag")
    assert after.field("Last-Modified") == "Tue, 02 Jan 2024 00:00:00 GMT"


async def test_large_bodies_go_through(warehouse):
    url = warehouse.add("/large.nwb", (20 << 20) + 3)
    digest = hashlib.md5()
    async with aiohttp.ClientSession() as session, session.get(url) as response:
        async for block in response.content.iter_any():
            digest.update(block)
    assert digest.hexdigest() == warehouse.file("/large.nwb").hexdigest()
    await warehouse.wait_for("/large.nwb", event="answered")
    assert warehouse.log[0].body_bytes == (20 << 20) + 3


async def test_the_log_has_the_target_and_all_fields_as_sent(warehouse):
    target = '/a%2Fb%3a~/..//f?sig=ab%2Fcd%3D&x=+%7E|"{}'
    heard = await send(warehouse, request(target, "X-Twice: 1", "x-twice: 2", "Connection: close"))
    assert heard.status == 404
    (record,) = warehouse.log
    assert record.target == target
    assert record.path == "/a%2Fb%3a~/..//f"
    assert record.headers == (("Host", "x"), ("X-Twice", "1"), ("x-twice", "2"), ("Connection", "close"))
    assert record.header("X-TWICE") == "1"
    assert record.header_list("X-Twice") == ["1", "2"]
    assert record.header("Range") is None
    assert (record.method, record.status, record.connection) == ("GET", 404, 1)
    assert record.answered_at is not None
    assert record.answered_at >= record.received_at


async def test_targets_in_absolute_form_and_fields_that_are_no_utf8(warehouse):
    warehouse.add("/a", b"x")
    heard = await send(warehouse, request("http://elsewhere:80/a?q", "Connection: close"))
    assert heard.body == b"x"
    assert (warehouse.log[0].target, warehouse.log[0].path) == ("http://elsewhere:80/a?q", "/a")
    await send(warehouse, b"GET /a HTTP/1.1\r\nHost: x\r\nX: \xfe\r\nConnection: close\r\n\r\n")
    assert warehouse.log[1].header("X").encode("utf-8", "surrogateescape") == b"\xfe"


async def test_keys_may_be_ids_paths_or_urls(warehouse):
    url = warehouse.add("/dir/a b.nwb", b"x")
    assert url.endswith("/dir/a%20b.nwb")
    await ask(warehouse, url)
    assert warehouse.count("/dir/a b.nwb") == warehouse.count(url) == warehouse.count(url + "?q=1") == 1
    assert warehouse.count("7") == warehouse.count(7) == 0
    assert warehouse.url("/x?sig=a%2Fb") == warehouse.base_url + "/x?sig=a%2Fb"


async def test_the_log_can_be_cleared(warehouse):
    warehouse.add("/a", b"x")
    await ask(warehouse, "/a")
    warehouse.clear_log()
    assert (warehouse.log, warehouse.count(), warehouse.peak_concurrency) == ([], 0, 0)
    await ask(warehouse, "/a")
    await warehouse.wait_for("/a", 1)
    assert warehouse.log[0].number == 2


async def test_rubbish_from_the_client_is_answered_quietly(warehouse, caplog):
    heard = await send(warehouse, b"\x16\x03\x01 nonsense\r\n\r\n")
    assert heard.status == 400
    assert caplog.records == []


async def test_range_of_an_encoded_entity(warehouse):
    """Case 38: the range is one of the encoded bytes."""
    warehouse.add("/a", b"0123456789" * 100)
    warehouse.script("/a", Serve(transform=gzipped, headers={"Content-Encoding": "gzip"}))
    packed = gzipped(b"0123456789" * 100)
    whole = await ask(warehouse, "/a")
    part = await ask(warehouse, "/a", "Range: bytes=5-9")
    assert whole.body == packed
    assert part.body == packed[5:10]
    assert part.field("Content-Range") == f"bytes 5-9/{len(packed)}"
    assert whole.field("ETag") == part.field("ETag") != warehouse.file("/a").etag


async def test_a_busy_port_is_an_error_and_leaves_nothing_behind(warehouse):
    with pytest.raises(OSError, match=r"[Aa]ddress already in use"):
        async with Warehouse(port=warehouse.port):
            pass


async def test_a_port_can_be_taken_again_at_once():
    async with Warehouse() as first:
        first.add("/a", b"x")
        await ask(first, "/a")
    async with Warehouse(port=first.port) as second:
        second.script_all(Reply(204))
        assert (await ask(second, "/a")).status == 204
