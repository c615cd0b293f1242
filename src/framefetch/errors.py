"""Every error framefetch raises or records, in one tree.

::

    FramefetchError
    ├── PlanError (ValueError)           the table or the options cannot be used; nothing was sent
    ├── InvalidRow (ValueError)          one row cannot become a request
    │   └── UnsafePath                   its file would not stay at a place of its own in the cache
    ├── TransferError                    one file could not be fetched
    │   ├── PolicyRefused                the answer leads where we do not go
    │   ├── RedirectError                a redirect that goes nowhere, in circles, or on for too long
    │   ├── StatusError                  a status that is no file
    │   ├── NetworkError (OSError)
    │   │   ├── NameNotResolved
    │   │   ├── ConnectFailed
    │   │   ├── TlsFailed
    │   │   └── ConnectionLost
    │   ├── Stalled (TimeoutError)       silence for longer than the stall timeout
    │   ├── TooSlow (TimeoutError)       bytes, but below the minimum speed
    │   ├── ProtocolError                not HTTP as its standards define it
    │   ├── IncompleteBody               fewer bytes than announced
    │   ├── BodyTooLong                  more bytes than announced, expected or allowed
    │   ├── RangeMismatch                not the bytes that were asked for, or not as asked
    │   ├── ResourceChanged              another version than the table states
    │   │   └── ChangedMidway            another version than the one begun
    │   ├── EncodingError                a content coding that cannot be undone
    │   ├── ContentMismatch              a body that does not begin as its name promises
    │   └── DigestMismatch               other bytes than the table states
    ├── StorageError (OSError)           the disk refused
    │   ├── TargetBlocked                a folder, or a foreign thing, stands where the file belongs
    │   ├── TooManyOpenFiles             the process, or the system, has as many open as it may
    │   ├── BytesLost                    the disk took bytes and could not keep them
    │   └── DiskFull                     no space, no inodes, no quota
    ├── ManifestError                    the manifest cannot be used
    │   ├── ManifestLost                 it is damaged, empty or gone, and can be made anew from the files
    │   └── NotAManifest                 a file to be imported is none of the prototype's
    └── FetchFailed                      raised at the end of a run that has failed rows

Each answers three questions about itself: ``retryable`` (may the same request succeed a moment later?), ``fatal``
(is there no point in going on with the other rows?) and ``retry_after`` (seconds the server asked to wait).
"""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Collection
from typing import Any, ClassVar

__all__ = [
    "BodyTooLong",
    "BytesLost",
    "ChangedMidway",
    "ConnectFailed",
    "ConnectionLost",
    "ContentMismatch",
    "DigestMismatch",
    "DiskFull",
    "EncodingError",
    "FetchFailed",
    "FramefetchError",
    "IncompleteBody",
    "InvalidRow",
    "ManifestError",
    "ManifestLost",
    "NameNotResolved",
    "NetworkError",
    "NotAManifest",
    "PlanError",
    "PolicyRefused",
    "ProtocolError",
    "RangeMismatch",
    "RedirectError",
    "ResourceChanged",
    "Stalled",
    "StatusError",
    "StorageError",
    "TargetBlocked",
    "TlsFailed",
    "TooManyOpenFiles",
    "TooSlow",
    "TransferError",
    "UnsafePath",
    "first_of",
    "give_result",
]


class FramefetchError(Exception):
    """Base of all errors of this package.

    Attributes
    ----------
    retryable : bool
        Whether the same request may succeed when it is made again.
    repeats : int or None
        How often this class of error may come for one file and mirror before it is believed; None leaves that to
        the retry policy.
    fatal : bool
        Whether the other rows cannot succeed either.
    retry_after : float or None
        Seconds the server asked to wait before the next request.
    kept : int
        Bytes of the file that are kept for the next attempt.
    result : FetchResult or None
        On a fatal error of a run: what was done until then.
    """

    result: Any = None
    retryable: bool = False
    repeats: int | None = None
    fatal: bool = False
    retry_after: float | None = None
    kept: int = 0


class PlanError(FramefetchError, ValueError):
    """The table or the options cannot be used as they are; nothing was sent."""


class InvalidRow(FramefetchError, ValueError):
    """One row of the table cannot become a request."""


class UnsafePath(InvalidRow):
    """The file of this row would leave the cache, or stand where another row's file stands."""


class TransferError(FramefetchError):
    """One file could not be fetched."""


class PolicyRefused(TransferError):
    """The answer leads where this client does not go (another scheme, a downgrade to plain HTTP)."""


class RedirectError(TransferError):
    """A redirect without a usable target, a loop, or a chain that is too long."""


class StatusError(TransferError):
    """The server answered with a status that is no file.

    Parameters
    ----------
    message : str
        What was expected, what came, what to do.
    status : int
        The HTTP status.
    retry_after : float, optional
        Seconds the server asked to wait.
    expired : bool, default False
        Whether the status means that a signed link has expired.
    """

    # RFC 9110 section 15, RFC 6585 section 4 (429). 408 and 425 ask for a repeat; 52x are a proxy's "server is away".
    TRANSIENT: ClassVar[frozenset[int]] = frozenset({408, 425, 429, 500, 502, 503, 504, *range(520, 531)})

    def __init__(
        self, message: str, *, status: int = 0, retry_after: float | None = None, expired: bool = False
    ) -> None:
        super().__init__(message)  # the rest has defaults, as pickle makes an error of its message alone
        self.status = status
        self.expired = expired
        self.retry_after = retry_after
        self.retryable = status in self.TRANSIENT


class NetworkError(TransferError, OSError):
    """The connection could not be made or did not last."""

    retryable = True


class NameNotResolved(NetworkError):
    """The host's name has no address, or nobody could tell.

    That there is none is believed when it was said twice; anything else may be different a moment later.
    """

    repeats: int | None = 1


class ConnectFailed(NetworkError):
    """No connection to the host."""


class TlsFailed(NetworkError):
    """The host's certificate cannot be trusted, or TLS could not be agreed on."""

    retryable = False


class ConnectionLost(NetworkError):
    """The connection ended before an answer had come."""


class Stalled(TransferError, TimeoutError):
    """Nothing came for longer than the stall timeout, or (`early`) than is usual while the host serves others well.

    `unheard` where nothing ever came on that connection, which the host may not have noticed.
    """

    retryable = True

    def __init__(self, message: str, *, early: bool = False, unheard: bool = False) -> None:
        super().__init__(message)
        self.early = early
        self.unheard = unheard


class TooSlow(TransferError, TimeoutError):
    """Bytes came, but fewer than the minimum speed asks for."""

    retryable = True


class ProtocolError(TransferError):
    """The answer is not HTTP as RFC 9110 and RFC 9112 define it."""

    retryable = True
    repeats = 1


class IncompleteBody(TransferError):
    """The body ended before its announced length."""

    retryable = True


class BodyTooLong(TransferError):
    """The body is longer than announced, expected or allowed."""


class RangeMismatch(TransferError):
    """The answer to a request for a range is not that range.

    The file is begun anew once; a server that does it again does not know what it serves.
    """

    retryable = True
    repeats = 1


class ResourceChanged(TransferError):
    """The file on the server is another version than the one the table states."""


class ChangedMidway(ResourceChanged):
    """The file on the server is another version than the one begun; it is begun anew once."""

    retryable = True
    repeats = 1


class EncodingError(TransferError):
    """The content coding of the body cannot be undone."""


class ContentMismatch(TransferError):
    """The body does not begin as its file name promises: a login page is no NWB file."""


class DigestMismatch(TransferError):
    """The bytes are not those the table states.

    The engine repeats the request once, from the first byte and on a fresh connection: a proxy may have
    damaged it on the way. What is wrong twice is wrong.
    """

    retryable = True
    repeats = 1


class StorageError(FramefetchError, OSError):
    """The disk refused to hold the file."""


class TargetBlocked(StorageError):
    """Something that is not ours to replace stands where the file belongs."""


class TooManyOpenFiles(StorageError):
    """The process, or the system, has as many files and connections open as it may.

    That is neither the file's fault nor the server's: fewer are asked for at once, and the file keeps its attempts.
    """

    retryable = True

    #: errno values that mean it.
    CODES: ClassVar[frozenset[int]] = frozenset({errno.EMFILE, errno.ENFILE})


class BytesLost(StorageError):
    """The disk took bytes, and when it was asked to make them safe it could not.

    What can be read back then proves nothing: it may come from memory. So the files are removed.

    Parameters
    ----------
    message : str
        What was expected, what came, what to do.
    paths : collection of str
        The files, relative to the cache.
    """

    fatal = True

    def __init__(self, message: str, *, paths: Collection[str] = ()) -> None:
        super().__init__(message)
        self.paths = frozenset(paths)


class DiskFull(StorageError):
    """No space, no inodes or no quota is left: no other row can succeed either."""

    fatal = True

    #: errno values that mean "full".
    CODES: ClassVar[frozenset[int]] = frozenset({errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC)})


class ManifestError(FramefetchError):
    """The manifest cannot be read or written; it was left as it is."""

    fatal = True


class ManifestLost(ManifestError):
    """The manifest is damaged, empty or gone; it can be made anew from the files, and the next fetch does so."""


class NotAManifest(ManifestError):
    """A file that was to be imported is no manifest of the prototype."""


class FetchFailed(FramefetchError):
    """Some rows of a run failed or were invalid.

    Parameters
    ----------
    message : str
        How many, and the first of them with their reasons.
    frame : DataFrame
        All of them, as in `FetchResult.failed`.
    """

    def __init__(self, message: str, *, frame: Any = None) -> None:
        super().__init__(message)
        self.frame = frame


def give_result(error: BaseException, result: Any) -> None:
    """Let any error carry what was done until it came, in its attribute ``result``."""
    with contextlib.suppress(AttributeError):  # a class with slots has no room for it
        error.result = result  # type: ignore[attr-defined]


def first_of(failures: BaseExceptionGroup[BaseException]) -> BaseException:
    """Return the error that ended a group of tasks: the first of ours, else the first, which is a fault of ours."""
    flat = [
        first_of(failure) if isinstance(failure, BaseExceptionGroup) else failure for failure in failures.exceptions
    ]
    return next((error for error in flat if isinstance(error, FramefetchError)), flat[0])
