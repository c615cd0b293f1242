"""The HTTP source against a scripted server: what it sends, to whom, and what it lets through."""

import zlib
from collections.abc import AsyncIterator
from netrc import netrc

import pytest

from framefetch import Timeouts
from framefetch.errors import (
    BodyTooLong,
    ConnectFailed,
    ConnectionLost,
    EncodingError,
    FramefetchError,
    IncompleteBody,
    NameNotResolved,
    ProtocolError,
    RedirectError,
    Stalled,
    StatusError,
    TooSlow,
)
from framefetch.sources.base import Meter
from framefetch.sources.environment import Environment, basic
from framefetch.sources.http import HttpSource
from framefetch.warehouse import CONTINUE, Pace, Push, Raw, Reply, Serve, Stop, Warehouse

BODY = b"0123456789" * 1000


@pytest.fixture
async def server() -> AsyncIterator[Warehouse]:
    async with Warehouse() as running:
        running.add("/f", BODY)
        yield running


async def read(url: str, **changes: object) -> bytes:
    settings = {
        "timeouts": Timeouts(connect=2, stall=0.3, speed_window=0.3),
        "headers": {},
        "host_map": {},
        "environment": Environment(),
    }
    source = HttpSource(**(settings | changes))
    try:
        return await _read(source, url)
    finally:
        await source.close()


async def _read(source: HttpSource, url: str) -> bytes:
    blocks = []
    async with source.open(url, Meter()) as body:
        while block := await body.read():
            blocks.append(block)
    return b"".join(blocks)


async def test_a_file(server: Warehouse) -> None:
    assert await read(server.url("/f")) == BODY
    record = server.requests()[0]
    assert record.header("Accept-Encoding") == "identity"
    assert record.header("Authorization") is None


@pytest.mark.parametrize(
    "target", ["/a?sig=ab%2Fcd%3D", "/%7Ex+y/%3A?x=%41+b", "//api//v2", "/@@download/a'b(c)", "/a%"]
)
async def test_the_target_goes_out_byte_for_byte(server: Warehouse, target: str) -> None:
    server.script_all(Serve(content=b"x"))
    assert await read(server.base_url + target) == b"x"
    assert server.log[0].target == target
    server.script_all(Reply(302, headers={"Location": server.base_url + target}), Serve(content=b"y"))
    assert await read(server.base_url + "/start") == b"y"
    assert server.log[-1].target == target


async def test_what_cannot_be_sent_is_encoded(server: Warehouse) -> None:
    server.script_all(Serve(content=b"x"))
    await read(server.base_url + "/a b/ü#fragment")
    assert server.log[0].target == "/a%20b/%C3%BC"


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (Reply(204), StatusError),
        (Reply(206, b"x"), StatusError),
        (Reply(404, b"x"), StatusError),
        (Reply(999, b"x"), StatusError),
        (Reply(304), StatusError),
        (Reply(302), RedirectError),
        (Reply(300, b"x", headers={"Location": "/f"}), StatusError),
        (Serve(stop=Stop(100)), IncompleteBody),
        (Serve(stop=Stop(100, "reset")), FramefetchError),
        (Serve(framing="chunked", stop=Stop(100)), IncompleteBody),
        (Serve(headers={"Content-Length": "-5"}), ProtocolError),
        (Serve(headers={"Content-Length": ["7", "8"]}), ProtocolError),
        (Serve(headers={"Content-Encoding": "gzip"}), EncodingError),
        (Raw(b"SSH-2.0-OpenSSH_9.6\r\n"), ProtocolError),
        (Raw(b"", end="close"), ConnectionLost),
        (Serve(stop=Stop(0, "hang", of="wire")), Stalled),
        (Serve(stop=Stop(30, "hang", of="wire")), Stalled),
        (Serve(stop=Stop(100, "hang")), Stalled),
        (Raw(CONTINUE, repeat=None, pace=Pace(25, 0.01)), Stalled),
        (Serve(pace=Pace(1, 0.02)), TooSlow),
        (Serve(head_pace=Pace(1, 0.05)), Stalled),
    ],
    ids=str,
)
async def test_what_is_not_let_through(server: Warehouse, answer: object, error: type[Exception]) -> None:
    server.script("/f", answer)
    with pytest.raises(error) as failure:
        await read(server.url("/f"))
    assert str(failure.value)


@pytest.mark.parametrize("wbits", [15, -15], ids=["zlib", "bare"])
async def test_a_coding_is_undone_however_its_bytes_come(server: Warehouse, wbits: int) -> None:
    """What "deflate" means is told by two bytes, which need not come together."""
    squeeze = zlib.compressobj(wbits=wbits)
    coded = squeeze.compress(BODY) + squeeze.flush()
    server.script_all(Serve(content=coded, headers={"Content-Encoding": "deflate"}, pace=Pace(1, 0.001)))
    assert await read(server.base_url + "/f") == BODY
    server.script_all(Serve(content=coded[:1], headers={"Content-Encoding": "deflate"}))
    with pytest.raises(EncodingError, match="the deflate stream ended early") as failure:
        await read(server.base_url + "/f")
    assert failure.value.retryable


async def test_ten_redirects_work_and_the_eleventh_fails(server: Warehouse) -> None:
    for hop in range(11):
        server.script(f"/{hop}", Reply(302, headers={"Location": f"/{hop - 1}" if hop else "/f"}))
    assert await read(server.base_url + "/9") == BODY
    with pytest.raises(RedirectError, match="more than 10 redirects"):
        await read(server.base_url + "/10")


async def test_a_loop_is_named(server: Warehouse) -> None:
    server.script("/a", Reply(302, headers={"Location": "/b"}))
    server.script("/b", Reply(302, headers={"Location": "/a"}))
    with pytest.raises(RedirectError, match="a loop: .*/a -> .*/b -> .*/a"):
        await read(server.base_url + "/a")


async def test_a_chain_is_told_without_what_a_terminal_obeys(server: Warehouse) -> None:
    server.script("/a", Reply(302, headers={"Location": "/\u009b2J\u202e?token=canary"}))
    server.script("/%C2%9B2J%E2%80%AE", Reply(302, headers={"Location": "/a"}))
    with pytest.raises(RedirectError, match=r"a loop: .*/a -> .*/%C2%9B2J%E2%80%AE\?token=\*\*\* -> .*/a") as failure:
        await read(server.base_url + "/a")
    assert str(failure.value).isprintable()


async def test_a_redirect_in_raw_utf_8_leads_to_the_name_it_means(server: Warehouse) -> None:
    server.script("/go", Reply(302, headers={"Location": "http://bücher.example/ü"}))
    server.script("/%C3%BC", Serve(content=b"x"))
    assert await read(server.base_url + "/go", host_map={"bücher.example": f"127.0.0.1:{server.port}"}) == b"x"
    assert (server.log[1].target, server.log[1].header("Host")) == ("/%C3%BC", "xn--bcher-kva.example")


async def test_secrets_stay_with_their_origin(server: Warehouse, tmp_path) -> None:
    async with Warehouse() as other:
        other.add("/f", b"data")
        server.script("/go", Reply(302, headers={"Location": other.url("/f"), "Set-Cookie": "session=canary"}))
        file = tmp_path / "netrc"
        file.write_text("default login me password canary\n")
        body = await read(
            server.base_url + "/go",
            headers={"X-Api-Key": "canary", "Cookie": "a=canary"},
            environment=Environment(logins=netrc(str(file))),
        )
        assert body == b"data"
        assert server.log[0].header("X-Api-Key") == "canary"
        assert server.log[0].header("Authorization") == basic("me", "canary")
        assert "canary" not in str(other.log[0].headers)


async def test_a_header_of_the_user_takes_the_place_of_ours(server: Warehouse) -> None:
    """Two lines of Host are refused by every server (RFC 9112 section 3.2)."""
    async with Warehouse() as other:
        other.add("/f", b"data")
        server.script("/go", Reply(302, headers={"Location": other.url("/f")}))
        theirs = {"HOST": "inside.example", "user-agent": "lab/1", "ACCEPT": "text/csv", "Accept-Encoding": "gzip"}
        assert await read(server.base_url + "/go", headers=theirs) == b"data"
        assert sorted(server.log[0].headers) == sorted(theirs.items())
        assert sorted(name for name, _ in other.log[0].headers) == ["Accept", "Accept-Encoding", "Host", "User-Agent"]
        assert other.log[0].header("Host") == f"127.0.0.1:{other.port}"
    assert await read(server.url("/f"), headers={"Accept": "text/csv"}) == BODY
    assert server.log[1].header_list("Host") == [f"127.0.0.1:{server.port}"]
    assert server.log[1].header_list("Accept") == ["text/csv"]
    assert server.log[1].header_list("User-Agent") == ["framefetch"]


async def test_cookies_go_back_to_their_origin(server: Warehouse) -> None:
    server.script("/login", Reply(302, headers={"Location": "/f", "Set-Cookie": "session=1; Path=/; HttpOnly"}))
    assert await read(server.base_url + "/login") == BODY
    assert server.requests("/f")[0].header("Cookie") == "session=1"


async def test_a_cookie_stays_on_its_paths_and_beside_the_users_own(server: Warehouse) -> None:
    """What another answer sets is sent from the next request on; one that ended is not."""
    server.add("/a/f", BODY)
    ends = "Thu, 01 Jan 1970 00:00:00 GMT"
    server.script("/a/login", Reply(302, headers={"Location": "/a/f", "Set-Cookie": ["one=1; Path=/a", "two=2"]}))
    server.script("/a/logout", Reply(302, headers={"Location": "/a/f", "Set-Cookie": f"one=; Path=/a; Expires={ends}"}))
    source = HttpSource(Timeouts(), {"cookie": "mine=0"}, {}, Environment())
    for path in ("/f", "/a/login", "/f", "/a/logout"):
        assert await _read(source, server.base_url + path) == BODY
    await source.close()
    sent = [[value for name, value in record.headers if name.lower() == "cookie"] for record in server.log]
    both = ["mine=0; one=1; two=2"]
    assert sent == [["mine=0"], ["mine=0"], both, ["mine=0"], both, ["mine=0; two=2"]]


async def test_credentials_in_the_url_are_sent_as_a_header(server: Warehouse) -> None:
    url = server.url("/f").replace("http://", "http://me:p%40ss@")
    assert await read(url) == BODY
    assert server.log[0].header("Authorization") == basic("me", "p@ss")
    server.script("/f", Reply(401))
    with pytest.raises(StatusError, match="credentials were sent") as failure:
        await read(url)
    assert "p%40ss" not in str(failure.value)


async def test_bytes_of_another_answer_are_never_taken(server: Warehouse) -> None:
    """An unsolicited second response on an idle connection is not the answer to the next request."""
    server.add("/g", b"right")
    server.script("/f", Serve(push=Push(Reply(200, b"wrong"), 0.0)))
    source = HttpSource(Timeouts(), {}, {}, Environment())
    for _ in range(20):
        assert await _read(source, server.url("/f")) == BODY
        await server.wait_for("/f", len(server.requests("/f")), "pushed")
        assert await _read(source, server.url("/g")) == b"right"
    await source.close()


async def test_connections_are_used_again(server: Warehouse) -> None:
    source = HttpSource(Timeouts(), {}, {}, Environment())
    for _ in range(5):
        await _read(source, server.url("/f"))
    await source.close()
    assert server.connections == 1


@pytest.mark.parametrize(
    ("said", "connections"),
    [
        (b"1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n\r\n", 1),
        (b"1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 1\r\n\r\nx", 1),
        (b"1.0 200 OK\r\nConnection: keep-alive\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n\r\n", 2),
    ],
    ids=["1.1", "1.0", "1.0 in chunks"],
)
async def test_who_speaks_http_1_0_in_chunks_is_not_asked_again(
    server: Warehouse, said: bytes, connections: int
) -> None:
    server.script_all(Raw(b"HTTP/" + said, end="keep"))
    source = HttpSource(Timeouts(), {}, {}, Environment())
    assert [await _read(source, server.url("/f")) for _ in range(2)] == [b"x", b"x"]
    await source.close()
    assert server.connections == connections


async def test_a_refused_port_and_an_unknown_name() -> None:
    with pytest.raises(ConnectFailed, match=r"no connection to http://127.0.0.1:1: .*Connect call failed"):
        await read("http://127.0.0.1:1/x")
    with pytest.raises(NameNotResolved, match="the name of http://no-such-host.invalid:80 cannot be resolved"):
        await read("http://no-such-host.invalid/x")


async def test_a_proxy_is_used_and_named_without_its_password(server: Warehouse) -> None:
    environment = Environment({"http": f"http://me:canary@127.0.0.1:{server.port}"})
    server.script_all(Serve(content=b"through"))
    assert await read("http://far.example/x", environment=environment) == b"through"
    assert server.log[0].header("Proxy-Authorization") == basic("me", "canary")
    with pytest.raises(ConnectFailed, match=r"via proxy 127.0.0.1:1: ") as failure:
        await read("http://far.example/x", environment=Environment({"http": "http://me:canary@127.0.0.1:1"}))
    assert "canary" not in repr(failure.value)


async def test_each_url_has_its_own_host(server: Warehouse) -> None:
    """How a host is spelled may be signed; a connection serves all its spellings."""
    mapped = {"signed.example": f"127.0.0.1:{server.port}"}
    source = HttpSource(Timeouts(), {}, mapped, Environment())
    urls = ["signed.example/f", "Signed.example:80/f", "me:canary@SIGNED.example?x=/@", "signed.example:/f"]
    server.script_all(Serve(content=b"x"))
    for url in urls:
        assert await _read(source, f"http://{url}") == b"x"
    await source.close()
    assert [record.header("Host") for record in server.log] == [
        "signed.example",
        "Signed.example:80",
        "SIGNED.example",
        "signed.example:",
    ]
    assert [record.target for record in server.log] == ["/f", "/f", "/?x=/@", "/f"]
    assert server.connections == 1


@pytest.mark.parametrize("target", ["/x?sig=a%2Fb", "?sig=a%2Fb"])
async def test_a_proxy_is_sent_to_where_host_map_leads(server: Warehouse, target: str) -> None:
    environment = Environment({"http": f"http://127.0.0.1:{server.port}"})
    server.script_all(Serve(content=b"through"))
    mapped = {"far.example": "near.example:8080"}
    assert await read(f"http://me:canary@far.example{target}", environment=environment, host_map=mapped) == b"through"
    assert server.log[0].target == "http://near.example:8080/" + target.removeprefix("/")
    assert server.log[0].header("Host") == "far.example"
    assert await read(f"http://Other.example{target}", environment=environment, host_map=mapped) == b"through"
    assert server.log[1].target == f"http://Other.example{target}"


async def test_more_than_announced(server: Warehouse) -> None:
    server.script("/f", Serve(headers={"Content-Length": "10"}))
    try:
        body = await read(server.url("/f"))
    except (BodyTooLong, ProtocolError):
        return  # the surplus came with the rest
    assert body == BODY[:10]


async def test_what_is_secret_of_a_request_is_known(server: Warehouse, tmp_path) -> None:
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login mario password n3trc\n")
    server.script("/f", Serve(headers={"Set-Cookie": "session=c00kie; Path=/"}))
    environment = Environment(logins=netrc(str(tmp_path / "netrc")))
    source = HttpSource(Timeouts(), {"X-Api-Key": "h3ader"}, {}, environment)
    url = server.url("/f?token=t0ken")
    try:
        assert source.secrets(url) == {"h3ader", "t0ken"}, "nobody was told anything else"
        await _read(source, url)
        login = basic("mario", "n3trc")
        cookie = {"session=c00kie", "c00kie"}
        assert source.secrets(url) == {
            "h3ader",
            "t0ken",
            "mario",
            "n3trc",
            login,
            login.removeprefix("Basic "),
            *cookie,
        }
    finally:
        await source.close()


async def test_the_login_of_a_proxy_is_secret(server: Warehouse) -> None:
    proxy = server.base_url.replace("://", "://me:pr0xy@")
    source = HttpSource(Timeouts(), {}, {}, Environment(proxies={"http": proxy}))
    try:
        await _read(source, "http://elsewhere.example/f")
        assert "pr0xy" in source.secrets("http://elsewhere.example/f")
    finally:
        await source.close()
