"""Cases 64, 73, 76 and 77: where names lead, where they do not, and where a redirect must not."""

import asyncio
import functools
import ipaddress
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pandas as pd
import pytest

import framefetch.sources.names
from framefetch import MetadataCache, Options, RetryPolicy, Timeouts, TransferOptions
from framefetch.sources.names import Addresses, is_public
from framefetch.warehouse import Reply, WarehouseThread, hdf5_file
from tests.conftest import EAGER
from tests.resolver import HANG, NO_SUCH_NAME, SERVER_FAILED, Resolver
from tests.seals import PEM, server_context, tls_warehouse

CONTENT = hdf5_file(3000, seed=1)
#: Stands for an address of the open internet; like all of 127/8 it leads to this machine.
PUBLIC = "127.0.0.2"
ONE_TRY = Options(retry=RetryPolicy(attempts=1), timeouts=Timeouts(connect=0.3, stall=0.5))

Note = Callable[[str, str, str, int], None]
Use = Callable[..., None]


@pytest.fixture
def addresses(monkeypatch: pytest.MonkeyPatch) -> Use:
    """Give a function that says who looks names up, with one address taken for a public one."""

    def use(resolver: Resolver | None = None, **more: object) -> None:
        told = {"resolver": resolver, "is_public": lambda address: address == PUBLIC or is_public(address)} | more
        monkeypatch.setattr(framefetch.sources.names, "Addresses", functools.partial(Addresses, **told))

    return use


@pytest.fixture
def public() -> Iterator[WarehouseThread]:
    """Give a warehouse at the public address."""
    try:
        running = WarehouseThread(PUBLIC).__enter__()
    except OSError:
        pytest.skip(f"needs {PUBLIC} on the loopback interface")
    yield running
    running.__exit__(None, None, None)


def mirror(urls: list[str], folder: Path, options: Options = EAGER, **more: object) -> pd.DataFrame:
    table = pd.DataFrame({"url": urls})
    with MetadataCache(table, folder, options=options, **more) as cache:
        frame = cache.mirror(table).frame
        assert cache.verify("hash") == []
    return frame


# -- 64: redirects into a network that is not public ------------------------------------------------------------


@pytest.mark.parametrize(
    ("what", "host"),
    [
        ("loopback", "127.0.0.1"),
        ("loopback by its name", "localhost"),
        ("a name that leads there", "inside.example"),
        ("loopback, IPv4-mapped", "[::ffff:127.0.0.1]"),
        ("loopback, NAT64", "[64:ff9b::7f00:1]"),
        ("loopback in hex", "0x7f.1"),
        ("loopback, short", "127.1"),
        ("loopback as one number", "2130706433"),
        ("loopback, IPv6", "[::1]"),
        ("this host", "0.0.0.0"),
        ("link-local, metadata of a cloud", "169.254.169.254"),
        ("RFC 1918", "10.0.0.1"),
        ("RFC 1918", "172.16.0.1"),
        ("RFC 1918", "192.168.0.1"),
        ("carrier's network", "100.64.0.1"),
        ("unique local", "[fd00::1]"),
        ("link-local, IPv6", "[fe80::1]"),
    ],
)
def test_a_public_host_leads_nowhere_private(
    what: str,
    host: str,
    public: WarehouseThread,
    warehouse: WarehouseThread,
    addresses: Use,
    tmp_path: Path,
    note: Note,
) -> None:
    numeric = [socket.getaddrinfo(host, 80)[0][4][0]] if host == "0x7f.1" else []
    known = {"inside_example": ["127.0.0.1"], "localhost": ["::1 127.0.0.1"], "0x7f_1": numeric}
    addresses(Resolver(**known))
    url = public.url("/1.nwb")
    public.script("/1.nwb", Reply(302, headers={"Location": f"http://{host}:{warehouse.port}/1.nwb"}))
    frame = mirror([url, public.add("/2.nwb", CONTENT)], tmp_path / "cache")
    assert frame["error_type"].tolist()[0] == "PolicyRefused", frame["error"][0]
    assert frame["status"].tolist() == ["failed", "downloaded"]
    assert frame["attempts"][0] == 1
    assert warehouse.connections == 0, "not even a connection is made"
    assert public.count("/1.nwb") == 1
    note("64", f"public to {what}: {host}", "PolicyRefused", 1)


def test_rebinding_is_seen_when_connecting(
    public: WarehouseThread, warehouse: WarehouseThread, addresses: Use, tmp_path: Path, note: Note
) -> None:
    """The same name, public when it was asked first, leads to this machine when it is asked again."""
    with WarehouseThread("127.0.0.1", public.port) as inside:
        addresses(Resolver(rebind_example=[PUBLIC, "127.0.0.1"]), ttl=0)
        url = f"http://rebind.example:{public.port}/1.nwb"
        public.script("/1.nwb", Reply(302, headers={"Location": "/2.nwb"}, end="close"))
        frame = mirror([url], tmp_path / "cache")
        assert frame["error_type"].tolist() == ["PolicyRefused"]
        assert "127.0.0.1 is no public address" in frame["error"][0]
        assert inside.connections == 0
        note("64", "rebinding: the name is another's the second time", "PolicyRefused", 1)


def test_a_pooled_connection_is_no_way_around(
    public: WarehouseThread, warehouse: WarehouseThread, addresses: Use, tmp_path: Path, note: Note
) -> None:
    addresses()
    table = pd.DataFrame({"url": [warehouse.add("/own.nwb", CONTENT), public.url("/1.nwb")]})
    warehouse.add("/secret.nwb", CONTENT)
    public.script("/1.nwb", Reply(302, headers={"Location": warehouse.url("/secret.nwb")}))
    with MetadataCache(table, tmp_path / "cache", options=EAGER) as cache:
        assert cache.mirror(table.iloc[:1]).frame["status"].tolist() == ["downloaded"]
        frame = cache.mirror(table.iloc[1:]).frame
        assert frame["error_type"].tolist() == ["PolicyRefused"]
        assert warehouse.count() == 1
        # The connection is as good as before.
        assert cache.get_file(warehouse.add("/more.nwb", CONTENT)).read_bytes() == CONTENT
    assert warehouse.connections == 1
    note("64", "redirect to a private host with an idle connection", "PolicyRefused", 1)


def test_what_is_not_refused(
    public: WarehouseThread, warehouse: WarehouseThread, addresses: Use, tmp_path: Path, note: Note
) -> None:
    addresses(Resolver(tunnelled_example=[]))
    with WarehouseThread() as other:
        target = other.add("/target.nwb", CONTENT)
        public.add("/target.nwb", CONTENT)
        warehouse.add("/back.nwb", CONTENT)
        warehouse.script("/private.nwb", Reply(302, headers={"Location": target}))
        warehouse.script("/out.nwb", Reply(302, headers={"Location": public.url("/target.nwb")}))
        warehouse.script("/login.nwb", Reply(302, headers={"Location": public.url("/login")}))
        public.script("/login", Reply(302, headers={"Location": warehouse.url("/back.nwb")}))
        public.script("/mapped.nwb", Reply(302, headers={"Location": "http://tunnelled.example/target.nwb"}))
        public.script("/public.nwb", Reply(302, headers={"Location": "/target.nwb"}))
        rows = {
            "a row that names a private host": warehouse.url("/back.nwb"),
            "private to private": warehouse.url("/private.nwb"),
            "private to public": warehouse.url("/out.nwb"),
            "private, a public login, back again": warehouse.url("/login.nwb"),
            "public to a host of host_map": public.url("/mapped.nwb"),
            "public to public": public.url("/public.nwb"),
        }
        mapped = {"tunnelled.example:80": f"127.0.0.1:{other.port}"}
        frame = mirror(list(rows.values()), tmp_path / "cache", host_map=mapped)
        assert frame["status"].tolist() == ["downloaded"] * len(rows), frame["error"].tolist()
        for what in rows:
            note("64", what, "downloaded", 1)
        public.script("/allowed.nwb", Reply(302, headers={"Location": target}))
        allowed = Options(transfer=TransferOptions(block_private=False))
        frame = mirror([public.url("/allowed.nwb")], tmp_path / "cache", options=allowed)
        assert frame["status"].tolist() == ["downloaded"]
        note("64", "public to private with block_private=False", "downloaded", 1)


def test_beyond_a_proxy_counts_as_public(
    warehouse: WarehouseThread, addresses: Use, tmp_path: Path, note: Note, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where a proxy leads is its business, but what it brings must not lead past it into the own network."""
    addresses()
    with WarehouseThread() as proxy:
        proxy.script("/1.nwb", Reply(302, headers={"Location": warehouse.add("/2.nwb", CONTENT)}))
        proxy.script("/2.nwb", Reply(302, headers={"Location": "http://10.0.0.1/3.nwb"}))
        proxy.add("/3.nwb", CONTENT)
        monkeypatch.setenv("http_proxy", proxy.base_url)
        monkeypatch.setenv("no_proxy", f"127.0.0.1:{warehouse.port}")
        frame = mirror(["http://far.example/1.nwb", "http://far.example/2.nwb"], tmp_path / "cache")
        assert frame["error_type"].tolist()[0] == "PolicyRefused"
        assert warehouse.count() == 0
        assert frame["status"].tolist()[1] == "downloaded", "through the proxy all the way: judged by the proxy"
        assert proxy.log[-1].target == "http://10.0.0.1/3.nwb"
    note("64", "redirect from behind a proxy to a private host", "PolicyRefused", 1)


# -- 76: lookups ------------------------------------------------------------------------------------------------


def test_a_name_is_looked_up_once_for_all_its_rows(
    warehouse: WarehouseThread, addresses: Use, tmp_path: Path, note: Note
) -> None:
    resolver = Resolver(lab_example=["127.0.0.1"])
    addresses(resolver)
    for at in range(300):
        warehouse.add(f"/{at}.nwb", CONTENT)
    warehouse.script_all(Reply(200, CONTENT, end="close"))  # a new connection for every row
    urls = [f"http://lab.example:{warehouse.port}/{at}.nwb" for at in range(300)]
    frame = mirror(urls, tmp_path / "cache")
    assert set(frame["status"]) == {"downloaded"}
    assert warehouse.connections >= 300
    assert resolver.asked == {"lab.example": 1}
    note("76", "300 rows of one name: looked up once", "downloaded", 300)


def test_an_unknown_name_is_asked_once_more(addresses: Use, tmp_path: Path, note: Note) -> None:
    resolver = Resolver(nowhere_example=[NO_SUCH_NAME])
    addresses(resolver)
    frame = mirror([f"http://nowhere.example/{at}.nwb" for at in range(200)], tmp_path / "cache")
    assert set(frame["error_type"]) == {"NameNotResolved"}
    assert set(frame["attempts"]) <= {0, 1, 2}, "the host is known to be nowhere by then"
    assert resolver.asked == {"nowhere.example": 2}, "twice for all rows, not for each"
    note("76", "200 rows of a name without an address: 2 lookups", "NameNotResolved", 0)


def test_a_name_server_that_cannot_tell_is_asked_again(
    warehouse: WarehouseThread, addresses: Use, tmp_path: Path, note: Note
) -> None:
    warehouse.add("/1.nwb", CONTENT)
    resolver = Resolver(shaky_example=[SERVER_FAILED] * 3 + ["127.0.0.1"], broken_example=[SERVER_FAILED])
    addresses(resolver)
    urls = [f"http://shaky.example:{warehouse.port}/1.nwb", "http://broken.example/2.nwb"]
    frame = mirror(urls, tmp_path / "cache")
    assert frame["status"].tolist() == ["downloaded", "failed"]
    assert frame["attempts"].tolist() == [4, 5]
    assert frame["error_type"][1] == "NameNotResolved"
    note("76", "SERVFAIL, three times", "downloaded", 1)
    note("76", "SERVFAIL for ever", "NameNotResolved", 0)


def test_a_resolver_that_hangs_ends_in_time_and_alone(
    warehouse: WarehouseThread, addresses: Use, tmp_path: Path, note: Note
) -> None:
    addresses(Resolver(silent_example=[HANG]))
    urls = [f"http://silent.example/silent{at}.nwb" for at in range(20)] + [warehouse.add("/1.nwb", CONTENT)]
    frame = mirror(urls, tmp_path / "cache", options=ONE_TRY)
    assert frame["status"].tolist() == ["failed"] * 20 + ["downloaded"]
    assert set(frame["error_type"][:20]) == {"NameNotResolved"}
    assert frame["error"][0].startswith("the name of http://silent.example:80 cannot be resolved")
    assert "no answer within 0.3 s" in frame["error"][0]
    note("76", "a resolver that hangs", "NameNotResolved", 0)


def test_the_systems_resolver_hangs_and_nobody_waits(
    warehouse: WarehouseThread, tmp_path: Path, note: Note, monkeypatch: pytest.MonkeyPatch
) -> None:
    """More hanging lookups than any pool has threads hold up neither the disk nor the end."""
    asked, answer = [], threading.Event()

    def hangs(host: str, *_: object) -> list:
        asked.append(host)
        answer.wait(30)
        return []

    monkeypatch.setattr(socket, "getaddrinfo", hangs)
    urls = [f"http://host{at}.example/silent{at}.nwb" for at in range(40)]
    urls += [warehouse.add(f"/{at}.nwb", hdf5_file(2_000_000, seed=at)) for at in range(5)]
    options = Options(retry=RetryPolicy(attempts=2, base=0, cap=0), timeouts=Timeouts(connect=0.3, stall=0.5))
    try:
        frame = mirror(urls, tmp_path / "cache", options=options)
    finally:
        answer.set()
    assert frame["status"].tolist() == ["failed"] * 40 + ["downloaded"] * 5
    assert set(frame["attempts"][:40]) == {2}
    assert len(asked) == 40, "a question that still hangs is not asked twice"
    note("76", "40 hanging lookups of the system", "NameNotResolved", 0)


def test_a_host_that_moves_is_found(warehouse: WarehouseThread, addresses: Use, tmp_path: Path, note: Note) -> None:
    warehouse.add("/1.nwb", CONTENT)
    resolver = Resolver(moving_example=["127.0.0.3", "127.0.0.1"])
    addresses(resolver)
    frame = mirror([f"http://moving.example:{warehouse.port}/1.nwb"], tmp_path / "cache")
    assert frame[["status", "attempts"]].values.tolist() == [["downloaded", 2]]
    assert resolver.asked == {"moving.example": 2}
    note("76", "an address that is given up for another one", "downloaded", 1)


# -- 73, 77: addresses that lead nowhere -------------------------------------------------------------------------


def _silent(address: str, port: int = 0) -> list[socket.socket]:
    """Return sockets that make an address swallow connections: its queue is full, so nothing is answered."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    sockets = [socket.socket(family)]
    sockets[0].bind((address, port))
    sockets[0].listen(0)
    for _ in range(4):
        sockets.append(socket.socket(family))
        sockets[-1].setblocking(False)
        sockets[-1].connect_ex((address, sockets[0].getsockname()[1]))
    return sockets


def test_a_host_that_swallows_connections(warehouse: WarehouseThread, tmp_path: Path, note: Note) -> None:
    sockets = _silent("127.0.0.1")
    url = f"http://127.0.0.1:{sockets[0].getsockname()[1]}/lost.nwb"
    options = Options(retry=RetryPolicy(attempts=2, base=0, cap=0), timeouts=Timeouts(connect=0.3, stall=0.3))
    frame = mirror([url, warehouse.add("/1.nwb", CONTENT)], tmp_path / "cache", options=options)
    for used in sockets:
        used.close()
    assert frame["status"].tolist() == ["failed", "downloaded"]
    assert frame[["error_type", "attempts"]].values.tolist()[0] == ["ConnectFailed", 2]
    assert "within the connect timeout" in frame["error"][0]
    note("73", "connections that nobody answers", "ConnectFailed", 0)


@pytest.mark.parametrize("dead", ["closed", "silent"])
def test_a_dead_address_before_a_live_one(
    dead: str, warehouse: WarehouseThread, addresses: Use, tmp_path: Path, note: Note
) -> None:
    try:
        sockets = _silent("::1", warehouse.port) if dead == "silent" else []
    except OSError:
        pytest.skip("needs IPv6 on the loopback interface")
    addresses(Resolver(both_example=["::1 127.0.0.1"]))
    warehouse.add("/1.nwb", CONTENT)
    frame = mirror([f"http://both.example:{warehouse.port}/1.nwb"], tmp_path / "cache")
    for used in sockets:
        used.close()
    assert frame[["status", "attempts"]].values.tolist() == [["downloaded", 1]]
    assert frame["seconds"][0] < 1
    note("77", f"::1 first, and {dead}; 127.0.0.1 lives", "downloaded", 1)


# -- addresses of a cable ----------------------------------------------------------------------------------------


@pytest.fixture
def cable() -> tuple[str, str, int]:
    """Return a link-local address of this machine, its interface and that one's number."""
    table = Path("/proc/net/if_inet6")
    rows = [line.split() for line in table.read_text().splitlines()] if table.exists() else []
    for number, index, _, _, _, interface in rows:
        if number.startswith("fe80"):
            return str(ipaddress.IPv6Address(int(number, 16))), interface, int(index, 16)
    pytest.skip("needs a link-local address of IPv6")


@pytest.mark.parametrize("spelled", ["%{interface}", "%25{interface}", "%{number}", "a name"])
@pytest.mark.parametrize("loop", ["uvloop", "asyncio"])
def test_a_link_local_address_is_reached(
    loop: str,
    spelled: str,
    cable: tuple[str, str, int],
    addresses: Use,
    tmp_path: Path,
    note: Note,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if loop == "asyncio":
        monkeypatch.setattr("framefetch.portal._new_loop", asyncio.new_event_loop)
    address, interface, number = cable

    class Neighbour:
        async def resolve(self, host: str, port: int) -> list:
            assert host == "lab.example"
            return [(socket.AF_INET6, socket.SOCK_STREAM, 0, "", (address, port, 0, number))]

    addresses(Neighbour())
    with WarehouseThread("::") as near:
        near.add("/1.nwb", CONTENT)
        named = spelled == "a name"
        zone = spelled.format(interface=interface, number=number)
        host = "lab.example" if named else f"[{address}{zone}]"
        frame = mirror([f"http://{host}:{near.port}/1.nwb"], tmp_path / "cache")
        assert frame["status"].tolist() == ["downloaded"], frame["error"].tolist()
        assert near.log[0].header("Host") == f"{host if named else f'[{address}]'}:{near.port}"
    note("77", f"link-local: {spelled}, {loop}", "downloaded", 1)


@pytest.mark.parametrize("what", ["a host", "a proxy"])
def test_a_certificate_for_a_link_local_address_says_nothing_of_the_interface(
    what: str, cable: tuple[str, str, int], tmp_path: Path, note: Note, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(PEM))
    address, interface, _ = cable
    with WarehouseThread("::", ssl_context=server_context()) as near:
        url = f"https://[{address}%{interface}]:{near.port}"
        if what == "a proxy":
            monkeypatch.setenv("http_proxy", url)
        frame = mirror([f"{url if what == 'a host' else 'http://far.example'}/1.nwb"], tmp_path / "cache")
    assert frame["error_type"].tolist() == ["TlsFailed"]
    assert f"IP address mismatch, certificate is not valid for '{address}'" in frame["error"][0]
    note("77", f"link-local, TLS: {what}", "TlsFailed", 0)


def test_where_tls_fails_at_a_link_local_address_another_is_tried(
    cable: tuple[str, str, int], addresses: Use, tmp_path: Path, note: Note, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(PEM))
    address, _, number = cable

    class Neighbour:
        async def resolve(self, host: str, port: int) -> list:
            first = (socket.AF_INET6, socket.SOCK_STREAM, 0, "", (address, port, 0, number))
            return [first, (socket.AF_INET, socket.SOCK_STREAM, 0, "", ("127.0.0.1", port))]

    addresses(Neighbour())
    with tls_warehouse() as good, WarehouseThread("::", good.port) as plain:
        good.add("/1.nwb", CONTENT)
        frame = mirror([f"https://localhost:{good.port}/1.nwb"], tmp_path / "cache")
        assert plain.connections == 1
    assert frame[["status", "attempts"]].values.tolist() == [["downloaded", 1]]
    note("77", "no TLS at a link-local address, but at another", "downloaded", 1)
