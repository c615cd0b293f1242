"""Making connections where something of this process is in the way."""

import asyncio
import errno
import os
import resource
import socket
import ssl
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from framefetch.options import Timeouts
from framefetch.sources import dial
from framefetch.sources.buffers import Blocks
from framefetch.sources.dial import Dialer
from framefetch.sources.names import Addresses
from tests.seals import PEM, trust


@contextmanager
def no_descriptor_left() -> Iterator[None]:
    """Let no more files be opened."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    free = os.open(os.devnull, os.O_RDONLY)
    os.close(free)
    resource.setrlimit(resource.RLIMIT_NOFILE, (free, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


async def test_certificates_that_cannot_be_read_are_no_reason_to_trust_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    """OpenSSL would say nothing, and every host would be refused from then on."""
    monkeypatch.setenv("SSL_CERT_FILE", str(PEM))
    dialer = Dialer(Timeouts(), Addresses(), Blocks())
    with no_descriptor_left(), pytest.raises(OSError, match=os.strerror(errno.EMFILE)):
        await dialer._trusted()
    assert (await dialer._trusted()).cert_store_stats()["x509"] == 1, "they are read when they can be"
    await dialer.close()


async def test_a_name_that_tls_does_not_take_leaves_no_socket_open(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise ValueError("no name of a host")

    monkeypatch.setattr(dial, "Seal", refuse)
    dialer = Dialer(Timeouts(), Addresses(), Blocks())
    ours, theirs = socket.socketpair()
    with theirs:
        with pytest.raises(ValueError, match="no name of a host"):
            await dialer._open(ours, trust(), "a name")
        assert theirs.recv(1) == b""
    await dialer.close()


async def test_who_gives_up_in_the_handshake_hears_nothing_later(caplog: pytest.LogCaptureFixture) -> None:
    dialer = Dialer(Timeouts(), Addresses(), Blocks())
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    with theirs:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await dialer._open(ours, trust(), "localhost")
        theirs.setblocking(False)
        while await asyncio.get_running_loop().sock_recv(theirs, 1 << 16):
            pass
    await dialer.close()
    assert not caplog.records


def test_the_certificates_are_those_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(PEM))
    context = dial._read_certificates()
    assert context.check_hostname
    assert context.verify_mode is ssl.CERT_REQUIRED
    assert context.cert_store_stats()["x509"] == 1
