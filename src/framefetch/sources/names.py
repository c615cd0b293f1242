"""Names into addresses, and to which addresses a redirect may lead.

A public server must not make this client ask questions inside the network it runs in. What counts is the address at
the moment of connecting, not the text: names lead anywhere, may lead elsewhere a second later, and an address can be
written in many ways.
"""

from __future__ import annotations

import asyncio
import ipaddress
import re
import socket
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeAlias

from framefetch.errors import PolicyRefused
from framefetch.threads import aside

if TYPE_CHECKING:
    from aiohappyeyeballs import AddrInfoType

__all__ = ["Addresses", "Names", "Resolver", "SystemResolver", "Trail", "is_public", "no_such_name", "zoned"]

#: A host and a port.
_Place: TypeAlias = tuple[str, int]

#: What getaddrinfo says of a name that has no address; everything else may be different a moment later.
_NO_SUCH_NAME: Final = frozenset((socket.EAI_NONAME, getattr(socket, "EAI_NODATA", socket.EAI_NONAME)))
_NAT64: Final = ipaddress.IPv6Network("64:ff9b::/96")
_COMPATIBLE: Final = ipaddress.IPv6Network("::/96")
#: All that IANA has given to the internet of IPv6; some libraries take for public whatever they have no word for.
_GIVEN: Final = ipaddress.IPv6Network("2000::/3")


def is_public(address: str) -> bool:
    """Return whether an address is one of the open internet.

    Addresses that hold an IPv4 address are judged by that one.

    Examples
    --------
    >>> is_public("93.184.216.34"), is_public("::ffff:127.0.0.1"), is_public("169.254.169.254")
    (True, False, False)
    """
    found = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(found, ipaddress.IPv6Address):
        inner = found.ipv4_mapped or found.sixtofour
        if inner is None and (found in _NAT64 or found in _COMPATIBLE):
            inner = ipaddress.IPv4Address(int(found) & 0xFFFF_FFFF)
        if inner is None:
            return found in _GIVEN and found.is_global
        found = inner
    return found.is_global and not found.is_multicast


def no_such_name(error: OSError) -> bool:
    """Return whether a lookup failed because the name has no address, and not because nobody could tell."""
    return isinstance(error, socket.gaierror) and error.errno in _NO_SUCH_NAME


class Resolver(Protocol):
    """Looks names up."""

    async def resolve(self, host: str, port: int) -> list[AddrInfoType]:
        """Return the addresses of a name, as `socket.getaddrinfo` does."""


@dataclass(frozen=True, slots=True)
class Addresses:
    """How names become addresses, and which of them a redirect may lead to.

    Parameters
    ----------
    block_private : bool, default True
        Whether a redirect from a public address to one that is not is refused.
    resolver : Resolver or None, default None
        Looks names up; None for the system's own.
    ttl : int, default 60
        Seconds for which an answer is used.
    is_public : callable
        Judges an address.
    """

    block_private: bool = True
    resolver: Resolver | None = None
    ttl: int = 60
    is_public: Callable[[str], bool] = is_public


class SystemResolver:
    """Asks the system, as every other program on it does: hosts file, search domains and all."""

    async def resolve(self, host: str, port: int) -> list[AddrInfoType]:
        """Return the addresses of a name."""
        found = await aside(
            socket.getaddrinfo, host, port, socket.AF_UNSPEC, socket.SOCK_STREAM, 0, socket.AI_ADDRCONFIG
        )
        return list(found)


class Names:
    """Looks names up within bounds: each once for all its rows, and again when the answer has become old.

    A name that has no address is asked for once more by whoever retries; if that is the answer again, it holds for a
    while for all rows.

    Parameters
    ----------
    addresses : Addresses
        Who is asked, and for how long an answer holds.
    timeout : float
        Seconds after which an answer is no longer waited for.
    """

    #: Seconds for which a name that twice had no address has none.
    UNKNOWN_SECONDS = 10.0
    #: Seconds between two looks for another address of a host that cannot be reached.
    FORGET_SECONDS = 1.0
    #: Names whose addresses are kept.
    KEPT = 1000

    def __init__(self, addresses: Addresses, timeout: float) -> None:
        self._resolver = addresses.resolver or SystemResolver()
        self._ttl = addresses.ttl
        self._timeout = timeout
        self._known: dict[_Place, tuple[float, deque[AddrInfoType]]] = {}
        self._unknown: dict[str, tuple[int, float]] = {}
        self._forgotten: dict[_Place, float] = {}
        self._asked: dict[_Place, asyncio.Task[deque[AddrInfoType]]] = {}
        self._loop = asyncio.get_running_loop()
        self._now = self._loop.time

    async def find(self, host: str, port: int) -> list[AddrInfoType]:
        """Return the addresses of a host, each time beginning with another one, so that all of them have work.

        Raises
        ------
        socket.gaierror
            Where it has none, or nobody could tell in time.
        PolicyRefused
            For a number that only some would read as an address.
        """
        if (literal := _literal(host, port)) is not None:
            return [literal]
        until, known = self._known.get((host, port), (0.0, None))
        if known is None or self._now() >= until:
            known = await self._ask(host, port)
        found = list(known)
        known.rotate(-1)
        return found

    async def _ask(self, host: str, port: int) -> deque[AddrInfoType]:
        """Wait for the answer; a question that still hangs is not asked twice."""
        times, until = self._unknown.get(host, (0, 0.0))
        if times > 1 and self._now() < until:
            raise socket.gaierror(socket.EAI_NONAME, "no such name, as twice before")
        task = self._asked.get((host, port))
        if task is None:
            self._asked[host, port] = task = self._loop.create_task(self._look_up(host, port))
            task.add_done_callback(lambda done: self._answered((host, port), done))
        try:
            async with asyncio.timeout(self._timeout):
                return await asyncio.shield(task)
        except TimeoutError:
            raise socket.gaierror(socket.EAI_AGAIN, f"no answer within {self._timeout:g} s") from None

    async def _look_up(self, host: str, port: int) -> deque[AddrInfoType]:
        try:
            found = deque(map(_zoned, await self._resolver.resolve(host, port)))
        except OSError as error:
            if no_such_name(error):
                times, until = self._unknown.get(host, (0, 0.0))
                now = self._now()
                self._unknown[host] = (times + 1 if now < until else 1, now + self.UNKNOWN_SECONDS)
            raise
        if not found:
            raise socket.gaierror(socket.EAI_NONAME, "no address")
        self._unknown.pop(host, None)
        self._known[host, port] = self._now() + self._ttl, found
        if len(self._known) > self.KEPT:
            del self._known[next(iter(self._known))]
        return found

    def _answered(self, place: _Place, task: asyncio.Task[deque[AddrInfoType]]) -> None:
        del self._asked[place]
        if not task.cancelled():
            task.exception()  # nobody may be waiting for it any more

    def forget(self, host: str, port: int) -> None:
        """Look a name up anew next time, but not for every row: the host may have moved."""
        now = self._now()
        if now - self._forgotten.get((host, port), -self.FORGET_SECONDS) >= self.FORGET_SECONDS:
            self._forgotten[host, port] = now
            self._known.pop((host, port), None)

    def close(self) -> None:
        """Wait for nobody: a question that hangs ends by itself."""
        for task in self._asked.values():
            task.cancel()


def _literal(host: str, port: int) -> AddrInfoType | None:
    """Return the address that a host is itself, None for a name.

    Systems read ``127.1``, ``2130706433`` and ``0177.0.0.1`` as addresses too; who judges by the text does not.
    """
    if ":" not in host:
        if not host.replace(".", "").isdigit():
            return None
        try:
            ipaddress.IPv4Address(host)
        except ValueError:
            raise PolicyRefused(f"expected an IPv4 address as four numbers from 0 to 255, got {host}") from None
        return socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", (host, port)
    if "%" not in host:
        return socket.AF_INET6, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", (host, port, 0, 0)
    numeric = socket.AI_NUMERICHOST | socket.AI_NUMERICSERV  # which asks nobody, but knows the interfaces
    host = re.sub("%25(?=.)", "%", host, count=1)  # as RFC 6874 spells it
    return _zoned(socket.getaddrinfo(host, port, socket.AF_INET6, socket.SOCK_STREAM, 0, numeric)[0])


def _zoned(info: AddrInfoType) -> AddrInfoType:
    family, kind, proto, name, to = info
    return family, kind, proto, name, zoned(to)


def zoned(address: tuple[Any, ...]) -> tuple[Any, ...]:
    """Return an address with the interface that it is meant for in its text: uvloop looks nowhere else."""
    host, port, *rest = address
    return (f"{host}%{rest[1]}", port, *rest) if len(rest) > 1 and rest[1] and "%" not in host else address


class Trail:
    """By which addresses an exchange came: none that is not public may follow one that is.

    The origin that the table names is no redirect's idea: where it is not public itself, a redirect may lead back to
    it, as a login elsewhere does.
    """

    __slots__ = ("_from_public", "_home", "_own")

    def __init__(self, own: str) -> None:
        self._own = own
        self._home = False
        self._from_public = False

    def passed(self, origin: str, *, public: bool) -> None:
        """Note that an origin redirects."""
        self._from_public = public
        self._home = self._home or (origin == self._own and not public)

    def must_be_public(self, origin: str) -> bool:
        """Return whether the next origin must have a public address."""
        return self._from_public and not (self._home and origin == self._own)
