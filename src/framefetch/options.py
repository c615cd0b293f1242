"""Frozen groups that configure; a layer receives only the group it needs."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias, TypeVar

from framefetch.errors import PlanError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence

    from framefetch.events import Observer
    from framefetch.models import Link

__all__ = [
    "Limits",
    "Options",
    "RefreshUrl",
    "RetryPolicy",
    "TableOptions",
    "Timeouts",
    "TransferOptions",
    "VerifyLevel",
    "checked_kind",
]

T = TypeVar("T")

#: How an entry is checked before it is called held.
VerifyLevel = Literal["stat", "hash", "none"]
#: Takes links of one host that have expired, returns new ones by key.
RefreshUrl: TypeAlias = "Callable[[Sequence[Link]], Mapping[str, str] | Awaitable[Mapping[str, str]]]"

#: A token (RFC 9110 section 5.6.2), and what a field's value may hold (section 5.5).
_HEADER_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
_HEADER_VALUE = re.compile(r"[\t\x20-\x7e\x80-\xff]*")
#: They say how much is sent, and which part of a file is meant: each request has its own.
_OUR_HEADERS: Final = frozenset(("content-length", "transfer-encoding", "range", "if-range"))


def _make_whole(group: object, name: str, least: int) -> None:
    """Make one field of a group an int, whatever kind of number it was."""
    value = getattr(group, name)
    number = _number(value)
    _require(
        number is not None and number >= least and number.is_integer(),
        f"{name} must be a whole number of at least {least}, got {value!r}",
    )
    object.__setattr__(group, name, int(value))


def _number(value: Any) -> float | None:
    """Return a number, numpy's too; None for what is none, or NaN."""
    try:
        number = None if isinstance(value, str | bytes | bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return number if number == number else None  # noqa: PLR0124 - which NaN is not


def checked_kind(given: T | None, kind: type[T], name: str) -> T | None:
    """Return what was given for a group of options, which may be nothing.

    Raises
    ------
    PlanError
        Where it is something else.
    """
    if given is not None and not isinstance(given, kind):
        raise PlanError(f"{name}: expected {kind.__name__}(...), got {type(given).__name__}")
    return given


def _require_kinds(group: object, kinds: Mapping[str, type]) -> None:
    """Refuse what is of another type now, and not deep inside a run."""
    for name, kind in kinds.items():
        value, expected = getattr(group, name), "text" if kind is str else kind.__name__
        _require(isinstance(value, kind), f"{name}: expected {expected}, got {type(value).__name__}")


def _require_texts(group: object, *names: str) -> None:
    for name in names:
        value = getattr(group, name)
        _require(value is None or isinstance(value, str), f"{name}: expected text, got {type(value).__name__}")


def _require_columns(group: object, *names: str) -> None:
    """Refuse what is no name of a column; that may be a number where a file has no header."""
    for name in names:
        value = getattr(group, name)
        good = value is None or (isinstance(value, str | int) and not isinstance(value, bool))
        _require(good, f"{name}: expected the name of a column, got {type(value).__name__}")


def _require_switches(group: object, *names: str) -> None:
    for name in names:
        kind = type(getattr(group, name)).__name__
        _require(kind in ("bool", "bool_"), f"{name}: expected True or False, got {kind}")  # the other is numpy's


def _require(condition: bool, message: str) -> None:  # noqa: FBT001 - reads as an assertion
    if not condition:
        raise PlanError(message)


@dataclass(frozen=True, slots=True)
class Limits:
    """How much at once, at most.

    How many requests a host gets is found out: 16 at first, more while more pay, fewer where it refuses some.

    Parameters
    ----------
    connections : int, default 256
        The most requests under way in all.
    per_host : int, default 256
        The most requests under way to one host (scheme, name and port).
    bandwidth : float or None, default None
        Bytes a second received in all; None for no limit.
    """

    connections: int = 256
    per_host: int = 256
    bandwidth: float | None = None

    def __post_init__(self) -> None:
        _make_whole(self, "connections", 1)
        _make_whole(self, "per_host", 1)
        bandwidth = self.bandwidth is None or (_number(self.bandwidth) or 0) > 0
        _require(bandwidth, f"bandwidth: expected a number of bytes a second above 0, got {self.bandwidth!r}")


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """When to ask again.

    Parameters
    ----------
    attempts : int, default 5
        Tries in a row without progress.
    base, cap : float, default 0.5 and 30
        Seconds of the first and of the longest waiting time; each wait is drawn evenly from zero to
        ``min(cap, base * 2**n)`` ("full jitter").
    budget : float, default 600
        Seconds a server's ``Retry-After`` may add up to for one file; beyond it the file fails at once.
    """

    attempts: int = 5
    base: float = 0.5
    cap: float = 30.0
    budget: float = 600.0

    def __post_init__(self) -> None:
        _make_whole(self, "attempts", 1)
        for name in ("base", "cap", "budget"):
            wait = _number(getattr(self, name))
            good = wait is not None and wait >= 0
            _require(good, f"RetryPolicy.{name}: expected 0 seconds or more, got {getattr(self, name)!r}")


@dataclass(frozen=True, slots=True)
class Timeouts:
    """How long silence may last. There is no total timeout: an honest slow link may take its hours.

    Parameters
    ----------
    connect : float, default 10
        Seconds for a connection to one address, TLS included.
    stall : float, default 30
        Seconds of silence before the headers are complete, or within a body. A body that falls silent while others of
        its host go on coming is asked for again sooner, as a rule after one second, and so is a file on a connection on
        which the server has never spoken, after four or more; that counts for no attempt.
    minimum_speed : float, default 1024
        Bytes a second, over `speed_window`, below which a body is given up; 0 for no minimum.
    speed_window : float, default 30
        Seconds over which the speed is measured.
    """

    connect: float = 10.0
    stall: float = 30.0
    minimum_speed: float = 1024.0
    speed_window: float = 30.0

    def __post_init__(self) -> None:
        for name in ("stall", "connect", "speed_window"):
            limit = getattr(self, name)
            _require((_number(limit) or 0) > 0, f"Timeouts.{name}: expected more than 0 seconds, got {limit!r}")
        speed = _number(self.minimum_speed)
        _require(speed is not None and speed >= 0, f"minimum_speed must be 0 or more, got {self.minimum_speed}")


@dataclass(frozen=True, slots=True)
class TransferOptions:
    """How one file is fetched.

    Parameters
    ----------
    check_content : bool, default True
        Whether a body must begin as its file's suffix promises (HDF5, gzip, zip, …); a digest that the table
        states and that matches is believed over this check.
    max_bytes : int or None, default None
        Bytes a file may have whose size the table does not state. None: where the server does not state it either
        (no length, or a coding that hides it), half of the space that is free when the file begins; else no limit.
    block_private : bool, default True
        Whether a redirect from a public address to one that is not (this machine, the local network) is refused. A
        table may name such hosts, and they may redirect to each other.
    segments : int, default 32
        Connections over which one large file may be fetched, where slots are free, the server proves that it can, and
        more of them pay; 1 for one always.
    """

    check_content: bool = True
    max_bytes: int | None = None
    segments: int = 32
    block_private: bool = True

    def __post_init__(self) -> None:
        _require_switches(self, "check_content", "block_private")
        _make_whole(self, "segments", 1)
        if self.max_bytes is not None:
            _make_whole(self, "max_bytes", 0)


@dataclass(frozen=True, slots=True)
class TableOptions:
    """Where a table says what. Every option left out is looked for under well-known names.

    Parameters
    ----------
    url_column : str, optional
        Column of URLs; a cell may hold several mirrors. Default: ``wkf``, ``url``, ``file_url``, ``download_url``.
    url_template : str, optional
        URL made of a row, as ``"http://host/download/{file_id}"``; wins over a column that is only well known.
    base_url : str, optional
        Completes URLs that have no host.
    path_template : str, optional
        Path below the version folder made of a row, as ``"{session}/{path}"``; ``{column!q}`` quotes ``/`` too.
    suffix : str, default ".nwb"
        Appended to default names that have no extension; empty for none. ``nwb`` is ``.nwb``.
    key_column : str, optional
        Column that names each file for the manifest; default is its URL without secrets. For links that are signed
        anew: a key names one file, so rows that share one must agree in scheme, host and path of a URL. What their
        queries say is not compared, nor is the URL of a key that is held.
    md5_column, sha256_column : str, optional
        Columns of expected digests. Default: ``md5``, ``md5sum``, ``md5_checksum``; ``sha256``.
    digest_column : str, optional
        Column of expected digests as ``algorithm:hex``.
    size_column : str, optional
        Column of expected sizes in bytes. Default: ``size``, ``file_size``.
    """

    url_column: str | None = None
    url_template: str | None = None
    base_url: str | None = None
    path_template: str | None = None
    suffix: str = ".nwb"
    key_column: str | None = None
    md5_column: str | None = None
    sha256_column: str | None = None
    digest_column: str | None = None
    size_column: str | None = None

    def __post_init__(self) -> None:
        _require_texts(self, "url_template", "base_url", "path_template")
        _require_columns(
            self, "url_column", "key_column", "md5_column", "sha256_column", "digest_column", "size_column"
        )
        _require_kinds(self, {"suffix": str})
        both = self.url_column is not None and self.url_template is not None
        _require(not both, "url_column and url_template exclude each other; give one")
        good = self.suffix.isprintable() and "/" not in self.suffix and "\\" not in self.suffix
        _require(good, f"suffix: expected the end of a name such as '.nwb', or '' for none, got {self.suffix!r}")
        if self.suffix[:1].isalnum():  # 1000.h5 is meant by h5, not 1000h5
            object.__setattr__(self, "suffix", f".{self.suffix}")


@dataclass(frozen=True, slots=True)
class Options:
    """Everything that may be turned, in groups.

    Parameters
    ----------
    limits : Limits
        How much at once.
    retry : RetryPolicy
        When to ask again.
    timeouts : Timeouts
        How long silence may last.
    transfer : TransferOptions
        How one file is fetched.
    verify : {"stat", "hash", "none"}, default "stat"
        How a file is checked before it is called held: by its size and times, by its digest, or not at all.
    headers : mapping of str to str
        Sent to the origins that the table names, and to no other.
    trust_env : bool, default True
        Whether proxy variables and ``.netrc`` are honoured.
    observers : sequence of callable
        Called with every event, see `framefetch.events`.
    share_content : bool, default False
        Whether files of the same content, in several versions or under several paths, share their bytes on the disk: by
        a reflink where the file system can, else by a hard link.
    lock_timeout : float, default 10
        Seconds to wait for another process that holds the manifest.
    refresh_url : callable, optional
        Makes signed links anew when one has expired. It is given the `Link` that has expired and those of all other
        files of that host which are still to be fetched (at most 10,000, in the order of the table), and returns a
        mapping from `Link.key` to the new URL, on the same host; files that it leaves out keep their old one. It is
        called once for all of them, and again only when the links it made have worked and expired in their turn. Each
        file is asked for once more. An ordinary function is called in a thread of its own, a coroutine function on
        the cache's loop; meanwhile requests to this host wait.

    Examples
    --------
    >>> Options(limits=Limits(connections=8), verify="hash").limits.connections
    8
    """

    limits: Limits = field(default_factory=Limits)
    retry: RetryPolicy = field(default_factory=RetryPolicy)
    timeouts: Timeouts = field(default_factory=Timeouts)
    transfer: TransferOptions = field(default_factory=TransferOptions)
    verify: VerifyLevel = "stat"
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    trust_env: bool = True
    observers: Sequence[Observer] = ()
    share_content: bool = False
    lock_timeout: float = 10.0
    refresh_url: RefreshUrl | None = None

    def __post_init__(self) -> None:
        kinds = {"limits": Limits, "retry": RetryPolicy, "timeouts": Timeouts, "transfer": TransferOptions}
        _require_kinds(self, kinds)
        _require_switches(self, "trust_env", "share_content")
        refresh = self.refresh_url
        _require(
            refresh is None or callable(refresh), f"refresh_url: expected a function, got {type(refresh).__name__}"
        )
        observers: object = self.observers
        listed = isinstance(observers, tuple | list) and all(map(callable, observers))
        _require(listed, f"observers: expected callables in a tuple, got {observers!r}")
        for kind in self.observers:
            name = getattr(kind, "__name__", "")
            _require(
                not isinstance(kind, type), f"observers: expected an observer, got the class {name}; {name}() makes one"
            )
        object.__setattr__(self, "observers", tuple(self.observers))
        _require(
            self.verify in ("stat", "hash", "none"),
            f"verify is 'stat', 'hash' or 'none', got {self.verify!r}",
        )
        patience = _number(self.lock_timeout)
        _require(
            patience is not None and patience >= 0, f"lock_timeout must be 0 seconds or more, got {self.lock_timeout}"
        )
        _require(hasattr(self.headers, "items"), f"headers: expected a mapping, got {type(self.headers).__name__}")
        for name, value in self.headers.items():
            _check_header(name, value)


def _check_header(name: object, value: object) -> None:
    """Refuse a header that cannot be sent as it is meant; its value may be a secret, and is not shown."""
    if not (isinstance(name, str) and isinstance(value, str)):
        kinds = f"{type(name).__name__} and {type(value).__name__}"
        raise PlanError(f"header {name!r}: expected a name and a value as text, got {kinds}")
    wrong = "name" if not _HEADER_NAME.fullmatch(name) else "" if _HEADER_VALUE.fullmatch(value) else "value"
    _require(not wrong, f"header {name!r} has characters that a header cannot hold in its {wrong}")
    ours = name.lower() in _OUR_HEADERS
    _require(not ours, f"header {name!r}: expected one that says nothing of what is sent or asked for; that is ours")
