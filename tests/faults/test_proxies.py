"""Case 81: proxy variables and .netrc, as the environment has them, and what failures say of them."""

import contextlib
import socket
import socketserver
import threading
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from framefetch import MetadataCache, Options, RetryPolicy, Timeouts
from framefetch.sources.environment import basic
from framefetch.warehouse import Raw, Reply, Serve, Stop, WarehouseThread, hdf5_file
from tests.seals import PEM, tls_warehouse

CONTENT = hdf5_file(3000, seed=1)
ONE_TRY = Options(retry=RetryPolicy(attempts=1), timeouts=Timeouts(connect=2, stall=0.3))
FAR = "http://far.example/1.nwb"

Note = Callable[[str, str, str, int], None]


@pytest.fixture(autouse=True)
def _bare_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for scheme in ("http", "https", "all", "no"):
        monkeypatch.delenv(f"{scheme}_proxy", raising=False)
        monkeypatch.delenv(f"{scheme}_proxy".upper(), raising=False)
    monkeypatch.delenv("REQUEST_METHOD", raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "no-netrc"))


@pytest.fixture
def proxy() -> Iterator[WarehouseThread]:
    """Give a server that answers what it is asked as a proxy for."""
    with WarehouseThread() as running:
        running.add("/1.nwb", CONTENT)
        yield running


def mirror(url: str, folder: Path, options: Options = ONE_TRY) -> Any:
    table = pd.DataFrame({"url": [url]})
    with MetadataCache(table, folder / "cache", options=options) as cache:
        return cache.mirror(table).frame.iloc[0]


@pytest.mark.parametrize("name", ["http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"])
def test_a_proxy_in_either_case(
    name: str, proxy: WarehouseThread, tmp_path: Path, note: Note, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, f"127.0.0.1:{proxy.port}")
    assert mirror(FAR, tmp_path)["status"] == "downloaded"
    assert proxy.log[0].target == FAR
    assert proxy.log[0].header("Host") == "far.example"
    note("81", f"{name}, without a scheme", "downloaded", 1)


@pytest.mark.parametrize(
    ("what", "variables"),
    [
        ("empty", {"HTTP_PROXY": ""}),
        ("the empty one in lower case wins", {"HTTP_PROXY": "127.0.0.1:1", "http_proxy": ""}),
        ("another scheme's", {"HTTPS_PROXY": "127.0.0.1:1"}),
        ("NO_PROXY: everything", {"HTTP_PROXY": "127.0.0.1:1", "NO_PROXY": "*"}),
        ("NO_PROXY: an address", {"HTTP_PROXY": "127.0.0.1:1", "NO_PROXY": "10.0.0.1, 127.0.0.1"}),
        ("no_proxy: a network", {"HTTP_PROXY": "127.0.0.1:1", "no_proxy": "127.0.0.0/8"}),
    ],
)
def test_what_is_asked_directly(
    what: str,
    variables: dict[str, str],
    warehouse: WarehouseThread,
    tmp_path: Path,
    note: Note,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert mirror(warehouse.add("/1.nwb", CONTENT), tmp_path)["status"] == "downloaded"
    assert warehouse.log[0].target == "/1.nwb"
    note("81", f"proxy variable: {what}", "downloaded", 1)


def test_trust_env_off(warehouse: WarehouseThread, tmp_path: Path, note: Note, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "netrc").write_text("default login me password canary\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.setenv("ALL_PROXY", "127.0.0.1:1")
    url = warehouse.add("/1.nwb", CONTENT)
    assert mirror(url, tmp_path, Options(trust_env=False))["status"] == "downloaded"
    assert warehouse.log[0].header("Authorization") is None
    note("81", "trust_env=False: no proxy, no netrc", "downloaded", 1)


@pytest.mark.parametrize(
    ("what", "answer", "error"),
    [
        ("a silent one", Serve(stop=Stop(0, "hang", of="wire")), "Stalled"),
        ("a stall in the body", Serve(stop=Stop(1000, "hang")), "Stalled"),
        ("a cut body", Serve(stop=Stop(1000)), "IncompleteBody"),
        ("one that closes", Raw(b"", end="close"), "ConnectionLost"),
        ("one that asks for a login", Reply(407), "StatusError"),
        ("one that forbids", Reply(403), "StatusError"),
        ("no HTTP", Raw(b"SSH-2.0\r\n", end="close"), "ProtocolError"),
    ],
)
def test_failures_name_the_proxy_and_not_its_password(
    what: str,
    answer: Any,
    error: str,
    proxy: WarehouseThread,
    tmp_path: Path,
    note: Note,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("http_proxy", f"http://me:canary@127.0.0.1:{proxy.port}")
    proxy.script("/1.nwb", answer)
    row = mirror(FAR, tmp_path)
    assert row["error_type"] == error
    assert row["error"].count(f"via proxy 127.0.0.1:{proxy.port}") == 1, row["error"]
    assert "canary" not in row["error"]
    assert proxy.log[0].header("Proxy-Authorization") == basic("me", "canary")
    note("81", f"a proxy that fails: {what}", error, 1)


@pytest.mark.parametrize(("url", "variable"), [(FAR, "http_proxy"), (FAR.replace("http", "https"), "https_proxy")])
def test_a_proxy_that_is_not_there(
    url: str, variable: str, tmp_path: Path, note: Note, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, "http://me:canary@127.0.0.1:1")
    row = mirror(url, tmp_path)
    assert row["error_type"] == "ConnectFailed"
    assert f"no connection to {url[:-6]}" in row["error"]
    assert "via proxy 127.0.0.1:1: " in row["error"]
    note("81", f"{variable} to a dead port", "ConnectFailed", 0)


def test_a_proxy_that_makes_no_tunnel(
    proxy: WarehouseThread, tmp_path: Path, note: Note, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("https_proxy", f"http://me:canary@127.0.0.1:{proxy.port}")
    row = mirror("https://far.example/1.nwb", tmp_path)
    assert row["error_type"] == "ConnectFailed"
    assert f"via proxy 127.0.0.1:{proxy.port}: the proxy answers " in row["error"]
    assert row["error"].count("no connection to") == 1
    note("81", "a proxy that refuses a tunnel", "ConnectFailed", 0)


@contextlib.contextmanager
def tunnels(answer: str, asked: list[bytes]) -> Iterator[int]:
    """Run a proxy for tunnels to this machine, or one that answers otherwise; gives its port, notes first lines."""

    class Proxy(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            lines = list(iter(self.rfile.readline, b"\r\n"))
            asked.append(lines[0].rstrip())
            self.wfile.write(f"HTTP/1.1 {answer}\r\nConnection: close\r\n\r\n".encode())
            if answer.startswith("200"):
                port = int(lines[0].split()[1].rpartition(b":")[2])
                with socket.create_connection(("127.0.0.1", port)) as there:
                    thread = threading.Thread(target=self.pour, args=(there, self.connection))
                    thread.start()
                    self.pour(self.connection, there)
                    thread.join()

        @staticmethod
        def pour(source: socket.socket, to: socket.socket) -> None:
            with contextlib.suppress(OSError):
                while data := source.recv(65_536):
                    to.sendall(data)
            with contextlib.suppress(OSError):
                to.shutdown(socket.SHUT_WR)

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Proxy) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server.server_address[1]
        server.shutdown()
        thread.join()


@pytest.mark.parametrize("host", ["localhost", "localhost."])
def test_a_name_is_the_same_with_a_dot_behind_it(
    host: str, tmp_path: Path, note: Note, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No certificate has that dot."""
    asked: list[bytes] = []
    monkeypatch.setenv("SSL_CERT_FILE", str(PEM))
    with tls_warehouse() as far, tunnels("200 OK", asked) as port:
        monkeypatch.setenv("https_proxy", f"http://127.0.0.1:{port}")
        far.add("/1.nwb", CONTENT)
        row = mirror(f"https://{host}:{far.port}/1.nwb", tmp_path)
        assert row["status"] == "downloaded", row["error"]
        assert asked == [f"CONNECT {host}:{far.port} HTTP/1.1".encode()]
    note("81", f"a tunnel to {host}", "downloaded", 1)


@pytest.mark.parametrize(
    ("status", "advice", "tries"),
    [(407, ": the proxy asks for a login", 1), (403, ": the proxy refuses", 1), (404, "", 1), (503, "", 3)],
)
def test_a_tunnel_that_is_refused_for_good_is_asked_for_once(
    status: int,
    advice: str,
    tries: int,
    tmp_path: Path,
    note: Note,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A wrong password that is sent again and again may lock an account."""
    asked: list[bytes] = []
    three = Options(retry=RetryPolicy(attempts=3, base=0, cap=0))
    with tunnels(f"{status} As It Is", asked) as port:
        monkeypatch.setenv("https_proxy", f"http://me:canary@127.0.0.1:{port}")
        row = mirror("https://far.example/1.nwb", tmp_path, three)
    assert row["error_type"] == "ConnectFailed"
    assert f"the proxy answers {status} As It Is{advice}" in row["error"]
    assert (row["attempts"], asked) == (tries, [b"CONNECT far.example:443 HTTP/1.1"] * tries)
    note("81", f"a proxy that answers CONNECT with {status}", "ConnectFailed", tries)


@pytest.mark.parametrize(
    "text",
    [
        "socks5://127.0.0.1:9",
        "ftp://127.0.0.1:9",
        "http://",
        "http://h:99999",
        "http://u:canary@",
        "http://u:canary@é..x:9",
        "http://u:12/canary@proxy:9",
        "http://u:12?canary@proxy:9",
        "http://u:12#canary@proxy:9",
        "u:12/canary@proxy:9",
        "http://proxy:9/path",
        "http://proxy:9/?query",
    ],
)
def test_a_variable_that_names_no_usable_proxy(
    text: str, tmp_path: Path, note: Note, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ALL_PROXY", text)
    row = mirror(FAR, tmp_path, Options())
    assert row[["error_type", "attempts"]].tolist() == ["ConnectFailed", 1]
    assert "expected a proxy as http://host:port" in row["error"]
    assert "canary" not in row["error"]
    assert "u:12" not in row["error"]
    note("81", f"ALL_PROXY={text[:20]}", "ConnectFailed", 0)


def test_netrc_gives_logins_by_host(
    warehouse: WarehouseThread, tmp_path: Path, note: Note, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login me password canary\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    url = warehouse.add("/1.nwb", CONTENT)
    assert mirror(url, tmp_path)["status"] == "downloaded"
    assert warehouse.log[0].header("Authorization") == basic("me", "canary")
    url = warehouse.add("/2.nwb", CONTENT).replace("//", "//you:secret@")
    assert mirror(url, tmp_path)["status"] == "downloaded"
    assert warehouse.log[1].header("Authorization") == basic("you", "secret"), "the table's own login comes first"
    note("81", "NETRC names a file of logins", "downloaded", 2)


def test_a_netrc_that_cannot_be_read_is_told_and_passed_over(
    warehouse: WarehouseThread, tmp_path: Path, note: Note, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "netrc").write_text("machine 127.0.0.1 canary canary\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        assert mirror(warehouse.add("/1.nwb", CONTENT), tmp_path)["status"] == "downloaded"
    assert [str(one.message) for one in told] == ["the .netrc file cannot be used: NetrcParseError"]
    note("81", "a malformed netrc", "downloaded", 1)
