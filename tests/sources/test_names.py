"""Which addresses are public, where a redirect may lead, and what becomes of lookups: without a network."""

import asyncio
import socket

import pytest

from framefetch.errors import PolicyRefused
from framefetch.sources.names import Addresses, Names, SystemResolver, Trail, is_public
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
        ("fec0::1", False),
        ("64:ff9b:1:7f00:0:1::", False),
        ("::ffff:0:7f00:1", False),
        ("5f00::1", False),
        ("4000::1", False),
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
    names = Names(Addresses(resolver=resolver), 1.0)
    for host in ("a.example", "b.example"):
        for _ in range(4):
            with pytest.raises(socket.gaierror):
                await names.find(host, 80)
    assert resolver.asked == {"a.example": 2, "b.example": 4}
    monkeypatch.setattr(Names, "UNKNOWN_SECONDS", 0.0)
    fresh = Names(Addresses(resolver=resolver), 1.0)
    for _ in range(4):
        with pytest.raises(socket.gaierror):
            await fresh.find("a.example", 80)
    assert resolver.asked["a.example"] == 6, "not for longer than it is believed"


async def test_the_systems_resolver() -> None:
    found = await SystemResolver().resolve("127.0.0.1", 8080)
    assert [(one[0], one[4]) for one in found] == [(socket.AF_INET, ("127.0.0.1", 8080))]


async def test_addresses_take_turns_and_grow_old() -> None:
    resolver = Resolver(a_example=["127.0.0.1 ::1 127.0.0.2"])
    names = Names(Addresses(resolver=resolver), 1.0)
    first = [(await names.find("a.example", 80))[0][4][0] for _ in range(6)]
    assert first == ["127.0.0.1", "::1", "127.0.0.2"] * 2
    assert resolver.asked == {"a.example": 1}
    assert len(await names.find("a.example", 81)) == 3
    assert resolver.asked == {"a.example": 2}
    names.forget("a.example", 80)
    await names.find("a.example", 80)
    names.forget("a.example", 80)
    await names.find("a.example", 80)
    assert resolver.asked == {"a.example": 3}, "forgotten once a second, not for each row"
    short = Names(Addresses(resolver=resolver, ttl=0), 1.0)
    found = await asyncio.gather(*(short.find("a.example", 80) for _ in range(4)))
    assert resolver.asked == {"a.example": 4}, "one question while it is open"
    assert [one[0][4][0] for one in found] == ["127.0.0.1", "::1", "127.0.0.2", "127.0.0.1"], "to each another first"
    await short.find("a.example", 80)
    assert resolver.asked == {"a.example": 5}


async def test_no_more_names_are_kept_than_are_worth_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Names, "KEPT", 2)
    resolver = Resolver(a_example=["127.0.0.1"], b_example=["127.0.0.1"], c_example=["127.0.0.1"])
    names = Names(Addresses(resolver=resolver), 1.0)
    for name in ("a", "b", "c", "c", "b", "a"):
        await names.find(f"{name}.example", 80)
    assert resolver.asked == {"a.example": 2, "b.example": 1, "c.example": 1}


@pytest.mark.parametrize(
    ("host", "family", "address"),
    [
        ("127.0.0.1", socket.AF_INET, ("127.0.0.1", 80)),
        ("::1", socket.AF_INET6, ("::1", 80, 0, 0)),
        ("fe80::1%1", socket.AF_INET6, ("fe80::1%1", 80, 0, 1)),
        ("fe80::1%251", socket.AF_INET6, ("fe80::1%1", 80, 0, 1)),
    ],
)
async def test_who_is_an_address_is_not_looked_up(host: str, family: int, address: tuple) -> None:
    resolver = Resolver()
    (found,) = await Names(Addresses(resolver=resolver), 1.0).find(host, 80)
    assert (found[0], found[4]) == (family, address)
    assert not resolver.asked


@pytest.mark.parametrize("host", ["127.1", "2130706433", "0177.0.0.1", "127.0.0.256", "127.0.0.1."])
async def test_a_number_that_only_some_read_as_an_address_is_refused(host: str) -> None:
    with pytest.raises(PolicyRefused, match="four numbers from 0 to 255, got"):
        await Names(Addresses(resolver=Resolver()), 1.0).find(host, 80)
