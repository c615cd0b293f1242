"""What every source of bytes gives: an exchange that opens into a body."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Collection
    from contextlib import AbstractAsyncContextManager

    from framefetch.models import Entity
    from framefetch.sources.loan import Loan
    from framefetch.sources.tap import Tap

__all__ = ["Ask", "Body", "Meter", "Source"]


class Coming(Protocol):
    """Who receives a body."""

    @property
    def coming(self) -> int:
        """Bytes of it that have come and were not taken yet."""
        ...


@dataclass(slots=True)
class Meter:
    """Counts what a run costs: requests sent, bytes of bodies received.

    Bytes are counted when they are taken, which is a mebibyte or a small file at a time; what has come of the next is
    known to those who receive it.
    """

    requests: int = 0
    received: int = 0
    under_way: set[Coming] = field(default_factory=set)
    _told: int = 0

    def so_far(self) -> int:
        """Return how many bytes have come, those that are not taken yet among them; never fewer than before."""
        self._told = max(self._told, self.received + sum(each.coming for each in self.under_way))
        return self._told


@dataclass(frozen=True, slots=True)
class Ask:
    """A range to ask for.

    Parameters
    ----------
    first : int
        The first byte wanted.
    last : int or None
        The last byte wanted; None for all that follow.
    entity : Entity or None
        The version it must be a range of; None where only a digest will tell.
    has_digest : bool, default False
        Whether the digest that the table states will tell, too.
    """

    first: int
    last: int | None = None
    entity: Entity | None = None
    has_digest: bool = False


class Body(Protocol):
    """The bytes of one answer that passed the gate.

    Attributes
    ----------
    offset : int
        Where in the file they begin: as asked, or 0 where the server sends the whole file.
    length : int or None
        Bytes to come, None where the server does not say or a coding hides it.
    framed : bool
        Whether the server announced a length, of the body or of the range, which was checked.
    etag : str or None
        The entity tag, quotes and all.
    entity : Entity or None
        The version of the file that they belong to; None where no later answer could be told to be of the same.
    alone : bool
        Whether they came over a connection that had carried nothing before, so that no bytes of another answer can be
        among them.
    """

    @property
    def offset(self) -> int:
        """Where in the file the bytes begin."""
        ...

    @property
    def length(self) -> int | None:
        """Bytes to come."""
        ...

    @property
    def framed(self) -> bool:
        """Whether a length on the wire was announced."""
        ...

    @property
    def etag(self) -> str | None:
        """The entity tag."""
        ...

    @property
    def entity(self) -> Entity | None:
        """The version of the file."""
        ...

    @property
    def alone(self) -> bool:
        """Whether the connection had carried nothing before."""
        ...

    async def read(self) -> bytes | memoryview:
        """Return the next bytes, as they come; empty at the end. A memoryview must be given back.

        Raises
        ------
        TransferError
            Where the body ends early, stalls, or is not as announced.
        """
        ...

    def give_back(self, block: memoryview) -> None:
        """Take back a block that `read` gave, once its bytes are no longer needed."""
        ...

    def tap(self) -> Tap | None:
        """Let a thread read what is still to come; None where all must pass through `read`.

        Until the tap is closed nothing else may be read; what it leaves is read as ever.
        """
        ...


class Source(Protocol):
    """Fetches URLs of some schemes."""

    def open(
        self,
        url: str,
        meter: Meter,
        *,
        decode: bool = True,
        ask: Ask | None = None,
        begun: Loan | None = None,
        fresh: bool = False,
    ) -> AbstractAsyncContextManager[Body]:
        """Ask for a URL; entering gives a body that passed every check, or raises `TransferError`.

        `decode` says whether a content coding that nobody asked for is undone, or the coded bytes are the file. Where
        `ask` names a range, the body is that range, or the whole file. What was `begun` on a connection on loan is
        gone on with. Where it must be `fresh`, a connection that has carried something before is not used.
        """
        ...

    def expect(self, url: str, now: int, soon: int) -> None:
        """Take note of how many requests the host of a URL may be asked at once, and how many before long."""
        ...

    def lend(self, url: str) -> Loan | None:
        """Lend a connection to where a URL leads, on which a thread may ask for small files; None where there is none.

        It must come back, by `take_back`, or where an exchange was begun on it by `open`.
        """
        ...

    def request(self, url: str) -> bytes:
        """Return what a thread has to send on such a connection to ask for a URL; any thread may call it."""
        ...

    def secrets(self, url: str) -> Collection[str]:
        """Return what the host of a URL is told with it that no message may show."""
        ...

    def take_back(self, loan: Loan) -> None:
        """Take back a connection."""
        ...

    async def close(self) -> None:
        """Close all connections."""
        ...
