"""Connections that go on with the TLS session of an earlier one (RFC 8446 section 2.2), and those who break there."""

import socket
import socketserver
import struct
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Self

import pandas as pd
import pytest

from framefetch import Limits, MetadataCache
from framefetch.warehouse import Reply, RequestRecord, WarehouseThread, hdf5_file
from tests.conftest import EAGER
from tests.seals import PEM, tls_warehouse

Note = Callable[[str, str, str, int], None]

CONTENT = hdf5_file(2000, seed=1)
FILES = 60
AT_ONCE = 4
#: A fatal alert: the handshake failed (RFC 8446 section 6.2).
ALERT = bytes((21, 3, 3, 0, 2, 2, 40))
#: Close with a reset.
RESET = struct.pack("ii", 1, 0)


class Door(socketserver.ThreadingTCPServer):
    """Stands before a server; where a client offers to go on with a session, it lets nobody in."""

    daemon_threads = True
    request_queue_size = 256

    def __init__(self, behind: int, refuses: str) -> None:
        super().__init__(("127.0.0.1", 0), Visit)
        self.behind, self.refuses = behind, refuses
        self.let_in = self.refused = 0

    def __enter__(self) -> Self:
        threading.Thread(target=self.serve_forever, args=(0.01,)).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.shutdown()
        self.server_close()


class Visit(socketserver.BaseRequestHandler):
    """One connection to a door."""

    server: Door

    def handle(self) -> None:
        hello = self._hello()
        if goes_on(hello):
            self.server.refused += 1
            if self.server.refuses == "alert":
                self.request.sendall(ALERT)
            else:
                self.request.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
            self.request.close()
            return
        self.server.let_in += 1
        with socket.create_connection(("127.0.0.1", self.server.behind)) as there:
            there.sendall(hello)
            back = threading.Thread(target=carry, args=(there, self.request))
            back.start()
            carry(self.request, there)
            back.join()

    def _hello(self) -> bytes:
        hello = b""
        while len(hello) < 5 or len(hello) < 5 + int.from_bytes(hello[3:5], "big"):
            if not (piece := self.request.recv(1 << 16)):
                return hello
            hello += piece
        return hello


def carry(here: socket.socket, there: socket.socket) -> None:
    """Carry all that is said on one side to the other, and the end too."""
    try:
        while data := here.recv(1 << 16):
            there.sendall(data)
        there.shutdown(socket.SHUT_WR)
    except OSError:
        pass  # one of them has gone


def goes_on(hello: bytes) -> bool:
    """Return whether a client offers a session to go on with: the extension is the last (RFC 8446 section 4.2.11)."""
    at = 5 + 4 + 2 + 32  # of the record, of the message, a version, what is random
    at += 1 + hello[at]
    at += 2 + int.from_bytes(hello[at : at + 2], "big")
    at += 1 + hello[at]
    at, last = at + 2, -1
    while at < len(hello):
        last, size = struct.unpack_from(">HH", hello, at)
        at += 4 + size
    return last == 41


@pytest.fixture(autouse=True)
def _trusting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(PEM))


@pytest.fixture
def secure() -> Iterator[WarehouseThread]:
    """Give a server that keeps no connection: each file has a handshake of its own."""

    def answer(_: RequestRecord) -> Reply:
        return Reply(200, CONTENT, headers={"Connection": "close"})

    with tls_warehouse() as running:
        running.script_all(answer)
        yield running


def mirror(urls: list[str], folder: Path) -> pd.DataFrame:
    table = pd.DataFrame({"url": urls})
    with MetadataCache(table, folder, options=replace(EAGER, limits=Limits(per_host=AT_ONCE))) as cache:
        frame = cache.mirror(table).frame
        assert cache.verify("hash") == []
    return frame


@pytest.mark.parametrize("refuses", ["alert", "reset"])
def test_who_breaks_where_a_session_goes_on_is_asked_without(
    refuses: str, secure: WarehouseThread, tmp_path: Path, note: Note
) -> None:
    with Door(secure.port, refuses) as door:
        urls = [f"https://localhost:{door.server_address[1]}/{at}.nwb" for at in range(FILES)]
        frame = mirror(urls, tmp_path)
        assert set(frame["status"]) == {"downloaded"}
        assert set(frame["attempts"]) == {1}, "the files never hear of it"
        assert secure.count() == door.let_in == FILES
        assert 1 <= door.refused <= AT_ONCE, "once for each connection under way, and never again"
    note("78", f"{refuses} where a TLS session goes on", "downloaded", FILES)
