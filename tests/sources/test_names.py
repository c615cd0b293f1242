"""Which addresses are public, where a redirect may lead, and what becomes of lookups: without a network."""

import asyncio
import socket

import pytest

from framefetch.sources.names import Names, SystemResolver, Trail, is_public
from framefetch.sources.threads import aside
from tests.resolver import NO_SUCH_NAME, SERVER_FAILED, Resolver


@pytest.mark.parametrize(
    ("address", "public"),
    [
        ("93.184.216.34", True),
        ("2606:2800:220:1::1", True),
        ("::ffff:93.184.216.34", True),
        ("64:ff9b::5db8:d822", True),
        ("2002:5db8:d822::1", True),
        ("127.0.0.1", False),
        ("127.255.0.9", False),
        ("0.0.0.0", False),
        ("10.1.2.3", False),
        ("172.31.0.1", False),
        ("192.168.1.1", False),
        ("169.254.169.254", False),
        ("100.64.0.1", False),
        ("224.0.0.1", False),
        ("255.255.255.255", False),
        ("::", False),
        ("::1", False),
        ("::127.0.0.1", False),
        ("::ffff:10.0.0.1", False),
        ("64:ff9b::7f00:1", False),
        ("2002:7f00:1::", False),
        ("fd00::1", False),
        ("fe80::1%2", False),
        ("ff02::1", False),
    ],
)
def test_what_is_public(address: str, public: bool) -> None:
    assert is_public(address) is public


def test_only_what_follows_a_public_address_is_judged() -> None:
    trail = Trail("http://lab:80")
    trail.passed("http://lab:80", public=False)
    assert not trail.must_be_public("http://other:80")
    trail.passed("http://login.example:80", public=True)
    assert trail.must_be_public("http://other:80")
    assert not trail.must_be_public("http://lab:80"), "back to what the table names"
    elsewhere = Trail("http://far.example:80")
    elsewhere.passed("http://far.example:80", public=True)
    assert elsewhere.must_be_public("http://far.example:80"), "the same name may lead elsewhere now"


async def test_that_there_is_no_such_name_holds_when_said_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    resolver = Resolver(a_example=[NO_SUCH_NAME], b_example=[SERVER_FAILED])
    names = Names(resolver, 1.0)
    for host in ("a.example", "b.example"):
        for _ in range(4):
            with pytest.raises(socket.gaierror):
                await names.resolve(host)
    assert resolver.asked == {"a.example": 2, "b.example": 4}
    monkeypatch.setattr(Names, "UNKNOWN_SECONDS", 0.0)
    fresh = Names(resolver, 1.0)
    for _ in range(4):
        with pytest.raises(socket.gaierror):
            await fresh.resolve("a.example")
    assert resolver.asked["a.example"] == 6, "not for longer than it is believed"


async def test_the_systems_resolver() -> None:
    resolver = SystemResolver()
    found = await resolver.resolve("127.0.0.1", 8080)
    assert [(one["host"], one["port"], one["family"]) for one in found] == [("127.0.0.1", 8080, socket.AF_INET)]
    await resolver.close()


async def test_what_a_call_aside_raises_is_raised_here() -> None:
    def leave() -> None:
        raise SystemExit(3)

    assert await aside(divmod, 7, 3) == (2, 1)
    with pytest.raises(ZeroDivisionError):
        await aside(divmod, 7, 0)
    with pytest.raises(RuntimeError, match="ended by SystemExit"):
        await aside(leave)
    with pytest.raises(RuntimeError, match="ended early"):
        await aside(next, iter(()))


async def test_a_call_aside_may_outlive_who_asked() -> None:
    release = asyncio.Event()
    loop = asyncio.get_running_loop()
    task = loop.create_task(aside(lambda: asyncio.run_coroutine_threadsafe(release.wait(), loop).result()))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    release.set()
