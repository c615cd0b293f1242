"""Names into addresses, and to which addresses a redirect may lead.

A public server must not make this client ask questions inside the network it runs in. What counts is the address at
the moment of connecting, not the text: names lead anywhere, may lead elsewhere a second later, and an address can be
written in many ways.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from aiohttp.abc import AbstractResolver, ResolveResult

from framefetch.sources.threads import aside

if TYPE_CHECKING:
    from asyncio import Task

__all__ = ["Addresses", "Names", "SystemResolver", "Trail", "is_public", "no_such_name"]

#: What getaddrinfo says of a name that has no address; everything else may be different a moment later.
_NO_SUCH_NAME: Final = frozenset((socket.EAI_NONAME, getattr(socket, "EAI_NODATA", socket.EAI_NONAME)))
_NAT64: Final = ipaddress.IPv6Network("64:ff9b::/96")
_COMPATIBLE: Final = ipaddress.IPv6Network("::/96")


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
        if inner is not None:
            found = inner
    return found.is_global and not found.is_multicast


def no_such_name(error: OSError) -> bool:
    """Return whether a lookup failed because the name has no address, and not because nobody could tell."""
    return isinstance(error, socket.gaierror) and error.errno in _NO_SUCH_NAME


@dataclass(frozen=True, slots=True)
class Addresses:
    """How names become addresses, and which of them a redirect may lead to.

    Parameters
    ----------
    block_private : bool, default True
        Whether a redirect from a public address to one that is not is refused.
    resolver : AbstractResolver or None, default None
        Looks names up; None for the system's own.
    ttl : int, default 60
        Seconds for which an answer is used.
    is_public : callable
        Judges an address.
    """

    block_private: bool = True
    resolver: AbstractResolver | None = None
    ttl: int = 60
    is_public: Callable[[str], bool] = is_public


class SystemResolver(AbstractResolver):
    """Asks the system, as every other program on it does: hosts file, search domains and all."""

    def __init__(self) -> None:
        self._asked: dict[tuple[str, int, int], Task[list[Any]]] = {}

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        """Return the addresses of a name; a question that still hangs is not asked twice."""
        key = (host, port, family)
        task = self._asked.get(key)
        if task is None:
            asking = aside(socket.getaddrinfo, host, port, family, socket.SOCK_STREAM, 0, socket.AI_ADDRCONFIG)
            task = asyncio.get_running_loop().create_task(asking)
            self._asked[key] = task
            task.add_done_callback(lambda done: self._answered(key, done))
        return [_result(host, found) for found in await asyncio.shield(task)]

    def _answered(self, key: tuple[str, int, int], task: Task[list[Any]]) -> None:
        del self._asked[key]
        if not task.cancelled():
            task.exception()  # nobody may be waiting for it any more

    async def close(self) -> None:
        """Wait for nobody: a question that hangs ends by itself."""
        for task in self._asked.values():
            task.cancel()


def _result(host: str, found: Any) -> ResolveResult:
    family, _, proto, _, (address, port, *rest) = found
    scope = f"%{rest[1]}" if len(rest) > 1 and rest[1] else ""
    flags = socket.AI_NUMERICHOST | socket.AI_NUMERICSERV
    return ResolveResult(hostname=host, host=address + scope, port=port, family=family, proto=proto, flags=flags)


class Names(AbstractResolver):
    """Looks names up within bounds.

    A name that has no address is asked for once more by whoever retries; if that is the answer again, it holds for a
    while for all rows. Answers with addresses are kept by the connector.

    Parameters
    ----------
    resolver : AbstractResolver or None
        Who is asked; None for the system's own.
    timeout : float
        Seconds after which an answer is no longer waited for.
    """

    #: Seconds for which a name that twice had no address has none.
    UNKNOWN_SECONDS = 10.0

    def __init__(self, resolver: AbstractResolver | None, timeout: float) -> None:
        self._resolver = resolver or SystemResolver()
        self._timeout = timeout
        self._unknown: dict[str, tuple[int, float]] = {}
        self._now = asyncio.get_running_loop().time

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        """Return the addresses of a name."""
        times, until = self._unknown.get(host, (0, 0.0))
        if self._now() >= until:
            times = 0
        elif times > 1:
            raise socket.gaierror(socket.EAI_NONAME, "no such name, as twice before")
        try:
            async with asyncio.timeout(self._timeout):
                found = await self._resolver.resolve(host, port, family)
        except TimeoutError:
            raise socket.gaierror(socket.EAI_AGAIN, f"no answer within {self._timeout:g} s") from None
        except OSError as error:
            if no_such_name(error):
                self._unknown[host] = (times + 1, self._now() + self.UNKNOWN_SECONDS)
            raise
        self._unknown.pop(host, None)
        return found

    async def close(self) -> None:
        """End what is under way."""
        await self._resolver.close()


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
