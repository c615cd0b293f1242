"""The other end of TLS: a warehouse, and sessions without sockets; whom to trust for both."""

import contextlib
import ssl
from pathlib import Path

import pytest

from framefetch.sources.seal import Past, Seal
from framefetch.warehouse import WarehouseThread

PEM = Path(__file__).parent / "warehouse" / "localhost.pem"


def trust() -> ssl.SSLContext:
    return ssl.create_default_context(cafile=str(PEM))


#: Python before 3.11.4 takes an end that nobody said for one that was said: python/cpython#95494. What becomes of the
#: file is the same, see `test_case_05_tls_without_a_length`.
TELLS_ENDS_APART = not trust().options & getattr(ssl, "OP_IGNORE_UNEXPECTED_EOF", 0)


def server_context() -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(PEM)
    return context


def tls_warehouse() -> WarehouseThread:
    """Return a warehouse that is reached by TLS, by whoever trusts `PEM`."""
    return WarehouseThread(ssl_context=server_context())


class Server:
    """The other end, without a socket either."""

    def __init__(self, context: ssl.SSLContext | None = None) -> None:
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = (context or server_context()).wrap_bio(self._incoming, self._outgoing, server_side=True)

    def hear(self, data: bytes) -> bytes:
        """Take what the client has to say, and answer within the handshake."""
        self._incoming.write(data)
        with contextlib.suppress(ssl.SSLWantReadError):
            self.tls.do_handshake()
        return self._outgoing.read()

    def take(self, data: bytes) -> None:
        self._incoming.write(data)

    def read(self, data: bytes) -> bytes:
        self.take(data)
        return self.tls.read(1 << 20)

    def say(self, data: bytes) -> bytes:
        self.tls.write(data)
        return self._outgoing.read()

    def end(self) -> bytes:
        with pytest.raises(ssl.SSLWantReadError):
            self.tls.unwrap()
        return self._outgoing.read()


def session(
    *, trusted: ssl.SSLContext | None = None, context: ssl.SSLContext | None = None, past: Past | None = None
) -> tuple[Seal, Server]:
    """Return both ends of a session that has begun; those who share contexts may go on from one to the next."""
    seal, server = Seal(trusted or trust(), "localhost", past), Server(context)
    done = seal.shake()
    while not done:
        seal.feed(server.hear(seal.unsent()))
        done = seal.shake()
    seal.feed(server.hear(seal.unsent()))
    assert seal.open(b"") == b""
    return seal, server
