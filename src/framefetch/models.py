"""Frozen values that travel between the rooms.

They hold facts, not behaviour: nothing here touches the disk, the network or a table.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Final, Protocol, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from framefetch.errors import FramefetchError

__all__ = [
    "Digest",
    "Entity",
    "Entry",
    "Link",
    "Outcome",
    "Receipt",
    "Request",
    "Requests",
    "Stated",
    "Status",
    "Verified",
]

#: Hex digits of each digest a table may state.
DIGEST_LENGTHS: Final[Mapping[str, int]] = {
    "md5": 32,
    "sha1": 40,
    "sha256": 64,
    "sha512": 128,
    "blake2b": 128,
}


class Status(StrEnum):
    """What became, or would become, of a row."""

    TO_FETCH = "to_fetch"
    HELD = "held"
    CACHED = "cached"
    DOWNLOADED = "downloaded"
    FAILED = "failed"
    INVALID = "invalid"
    CANCELLED = "cancelled"


class Verified(StrEnum):
    """How sure the manifest is of a file."""

    DIGEST = "digest"
    LENGTH = "length"
    NONE = "none"


@dataclass(frozen=True, slots=True)
class Digest:
    """A checksum of a whole file.

    Parameters
    ----------
    algorithm : str
        One of ``md5``, ``sha1``, ``sha256``, ``sha512``, ``blake2b``.
    hex : str
        Lower-case hexadecimal digits.

    Examples
    --------
    >>> str(Digest("md5", "d41d8cd98f00b204e9800998ecf8427e"))
    'md5:d41d8cd98f00b204e9800998ecf8427e'
    """

    algorithm: str
    hex: str

    def __post_init__(self) -> None:
        expected = DIGEST_LENGTHS.get(self.algorithm)
        if expected is None:
            raise ValueError(f"unknown digest algorithm {self.algorithm!r}; known: {', '.join(DIGEST_LENGTHS)}")
        if len(self.hex) != expected or self.hex.strip("0123456789abcdef"):
            raise ValueError(f"a {self.algorithm} digest has {expected} lower-case hex digits, got {self.hex!r}")

    def __str__(self) -> str:
        return f"{self.algorithm}:{self.hex}"


@dataclass(frozen=True, slots=True)
class Request:
    """One file to hold.

    Parameters
    ----------
    index : int
        Position among the files of its plan.
    version, key : str
        Identity in the manifest; the key is the table's URL without its secrets.
    urls : tuple of str
        Mirrors of the same bytes, in order of preference, as the table gives them.
    path : str
        Where the file will be, relative to the cache, with ``/`` between its parts.
    size : int or None
        Expected size of the final file in bytes.
    digests : tuple of Digest
        What the table states; empty where it states nothing.
    """

    index: int
    version: str
    key: str
    urls: tuple[str, ...] = field(repr=False)
    path: str
    size: int | None = None
    digests: tuple[Digest, ...] = ()


@dataclass(frozen=True, slots=True)
class Link:
    """A link that has to be made anew.

    Parameters
    ----------
    key : str
        The file's identity: the table's URL without its secrets, unless the table names keys. It stays the same.
    url : str
        The link as it was, secrets and all.
    """

    key: str
    url: str = field(repr=False)


#: Position, key, planned path, size (-1 where none is stated) and digests as ``algorithm:hex``.
Stated: TypeAlias = tuple[int, str, str, int, tuple[str, ...]]


class Requests(Protocol):
    """The files of a plan, made into a `Request` only when one is asked for."""

    @property
    def version(self) -> str:
        """The version of all files."""
        ...

    @property
    def keys(self) -> Sequence[str]:
        """The key of each file."""
        ...

    def path(self, index: int) -> str:
        """Return where a file belongs, relative to the cache."""
        ...

    def __len__(self) -> int:
        """Return the number of files."""
        ...

    def __getitem__(self, index: int, /) -> Request:
        """Return one file."""
        ...

    def stated_of(self, positions: Sequence[int]) -> Iterator[Stated]:
        """Yield what the table states of some files, without an object for each."""
        ...

    def queues(self) -> Mapping[str, Iterator[int]]:
        """Return for each origin the positions of its files, in the order of the table."""
        ...


@dataclass(frozen=True, slots=True)
class Receipt:
    """A file that is whole under its final name, with what is known of it."""

    size: int
    mtime_ns: int
    ctime_ns: int
    inode: int
    digests: tuple[Digest, ...]
    verified: Verified
    etag: str | None = None

    @property
    def sight(self) -> tuple[int, int, int]:
        """What tells the file from another that stands at its path later: inode, size, time."""
        return self.inode, self.size, self.mtime_ns


@dataclass(frozen=True, slots=True)
class Entity:
    """One version of a file on a server: what the bytes of a part are the beginning of.

    Parameters
    ----------
    url : str
        Where it was asked for, without secrets.
    etag : str or None
        Its strong entity tag, quotes and all.
    modified : str or None
        Its Last-Modified as sent, where it is old enough to tell versions apart (RFC 9110 section 8.8.2.2).
    total : int or None
        Its bytes, None where the server did not say.
    weak : str or None
        Its entity tag where that is not strong: it cannot prove that two versions are the same, only that they differ.
    """

    url: str
    etag: str | None = None
    modified: str | None = None
    total: int | None = None
    weak: str | None = None


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one request."""

    request: Request
    status: Status
    receipt: Receipt | None = None
    error: FramefetchError | None = None
    attempts: int = 0
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Entry:
    """A row of the manifest: this key of this version is held, here, with these digests.

    ``trusted`` is False where the machine was started anew since the file was written and nothing proves that its
    bytes had reached the disk by then: such a file is hashed before it is believed.
    """

    version: str
    key: str
    path: str
    receipt: Receipt
    fetched_at: float
    durable: bool = False
    trusted: bool = True

    def digest(self, algorithm: str) -> str | None:
        """Return the hex digits of one algorithm, None where it is not recorded."""
        return next((digest.hex for digest in self.receipt.digests if digest.algorithm == algorithm), None)
