"""The vocabulary of answers: what a server says, and how it sends it.

There are three kinds of answer. `Serve` is the stored file, served properly but for the modifications named;
`Reply` is a status, headers and a body; `Raw` is bytes. Each may be sent in any manner: late, slowly, up to some
byte and no further, with bytes before or after it, over a connection that then stays, ends, breaks or hangs.

The faults are products of the two, by example:

short body, FIN or RST
    ``Serve(stop=Stop(10240))``, ``Serve(stop=Stop(10240, "reset"))``
no length, clean FIN; RST; no close_notify
    ``Serve(framing="close")``, with ``end="reset"``, with ``end="abort"``
chunked, cut inside a chunk; between two; without the last
    ``Serve(framing=Chunked(1000), stop=Stop(1500))``, ``stop=Stop(2000)``, ``framing=Chunked(last=b"")``
bad chunk line; trailer flood
    ``Chunked(line=b"ZZ\\r\\n")``, ``Chunked(last=b"0\\r\\n" + b"X: y\\r\\n" * 9999 + b"\\r\\n")``
lying length; two of them; with chunked
    ``Serve(headers={"Content-Length": "7"})``, ``["7", "8"]``, ``framing="chunked"`` beside it
bytes after the body, at once or later
    ``Serve(after=b"x")``, ``Serve(push=Push(b"x", 0.1))``
a second response on the idle connection
    ``Serve(push=Push(Reply(200, b"other")))``
a body without end
    ``Serve(content=endless())``
Range ignored, refused, answered as multipart
    ``Serve(ranges="ignore")``, ``"refuse"``, ``"multipart"``
206 from elsewhere; with a lying Content-Range; with none
    ``Serve(shift=-904)``, ``Serve(content_range="bytes {first}-{last}/9")``, ``Serve(content_range=None)``
other, weak or no ETag
    ``Serve(headers={"ETag": '"b"'})``, ``'W/"a"'``, ``None``
gzip nobody asked for; cut; with a bad checksum
    ``Serve(transform=gzipped, headers={"Content-Encoding": "gzip"})``, ``Serve(content=gzipped(data)[:-20], ...)``
too busy
    ``Reply(503, headers={"Retry-After": "2"})``
redirects
    ``Reply(302, headers={"Location": ["a", "b"]})``
silence before, within, after the head
    ``Serve(stop=Stop(0, "hang", of="wire"))``, ``Stop(40, "hang", of="wire")``, ``Stop(0, "hang")``
drip of the head, of the body; a bandwidth
    ``Serve(head_pace=Pace(1, 0.1))``, ``Serve(pace=Pace(1, 0.1))``, ``Serve(pace=rate(20e6))``
interim answers, some or for ever
    ``Serve(before=CONTINUE * 50)``, ``Raw(CONTINUE, repeat=None, pace=Pace(25, 0.01))``
no HTTP at all
    ``Raw(b"SSH-2.0-OpenSSH_9.6\\r\\n")``
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final, Literal, get_args

if TYPE_CHECKING:
    from framefetch.warehouse.content import Content
    from framefetch.warehouse.record import RequestRecord

__all__ = [
    "CONTINUE",
    "Answer",
    "Chunked",
    "End",
    "Headers",
    "Pace",
    "Push",
    "Raw",
    "Reply",
    "Scripted",
    "Serve",
    "Stop",
    "hold",
    "rate",
]

#: One interim answer.
CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"

#: The Content-Range that a 206 should have.
CONTENT_RANGE: Final = "bytes {first}-{last}/{total}"

#: What becomes of the connection: it stays, is closed (FIN; over TLS after a close_notify), is closed without
#: close_notify, is reset (RST), is closed in one direction only, or stays without a further word.
End = Literal["keep", "close", "abort", "reset", "half-close", "hang"]

#: Header fields to set: a value, several fields of that name, or None for none at all.
Headers = Mapping[str, str | Sequence[str] | None]


def _check(value: object, allowed: object, name: str) -> None:
    if value not in (choices := get_args(allowed)):
        raise ValueError(f"{name} must be one of {', '.join(choices)}; got {value!r}")


@dataclass(frozen=True, slots=True)
class Pace:
    """At most `size` bytes each `every` seconds."""

    size: int
    every: float

    def __post_init__(self) -> None:
        if self.size < 1 or self.every < 0:
            raise ValueError(f"a pace needs a size of at least 1 and no negative time, got {self}")


def rate(bytes_per_second: float) -> Pace:
    """Make the pace of a bandwidth: pieces of about 20 ms, none above 256 KiB."""
    size = max(1, min(1 << 18, int(bytes_per_second / 50)))
    return Pace(size, size / bytes_per_second)


_StopHow = Literal["close", "abort", "reset", "half-close", "hang", "hold"]


@dataclass(frozen=True, slots=True)
class Stop:
    """A place in the answer at which something happens.

    Parameters
    ----------
    after : int
        Bytes sent before.
    then : str, default ``"close"``
        An `End` other than ``"keep"``; or ``"hold"``: wait for `Warehouse.release`, then go on.
    of : {"body", "wire"}
        What is counted: bytes of the body (of chunks: of what they hold; a chunk that is complete is sent with
        its line end), or all bytes from the first of the answer.
    seconds : float or None, default None
        The longest time to hold.
    """

    after: int
    then: _StopHow = "close"
    of: Literal["body", "wire"] = "body"
    seconds: float | None = None

    def __post_init__(self) -> None:
        _check(self.then, _StopHow, "Stop.then")
        _check(self.of, Literal["body", "wire"], "Stop.of")
        if self.after < 0:
            raise ValueError(f"Stop.after counts bytes sent, got {self.after}")


@dataclass(frozen=True, slots=True)
class Push:
    """Bytes nobody asked for, sent on the connection after the answer has ended.

    Parameters
    ----------
    data : bytes or Reply
        What is sent.
    delay : float or None, default None
        Seconds after the answer; None to wait for `Warehouse.release`.
    """

    data: bytes | Reply
    delay: float | None = None


@dataclass(frozen=True, slots=True)
class Chunked:
    """Transfer-Encoding chunked, in detail.

    Parameters
    ----------
    size : int, default 8192
        Bytes a chunk.
    extension : bytes, default empty
        Follows the length on each chunk's line.
    line : bytes or None, default None
        Replaces the whole line (``b"\\r\\n"`` included) of the chunk number `line_at`.
    line_at : int, default 0
        Which chunk that is, from 0.
    last : bytes, default ``b"0\\r\\n\\r\\n"``
        What ends the body: last chunk and trailers.
    """

    size: int = 8192
    extension: bytes = b""
    line: bytes | None = None
    line_at: int = 0
    last: bytes = b"0\r\n\r\n"

    @property
    def honest(self) -> bool:
        """Whether a client can find the end of the body."""
        return self.line is None and self.last.startswith(b"0\r\n") and self.last.endswith(b"\r\n")


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """How any answer is sent; the kinds are `Serve`, `Reply` and `Raw`.

    Parameters
    ----------
    delay : float, default 0
        Seconds of silence before the first byte.
    before : bytes, default empty
        Sent before the status line.
    head_pace, pace : Pace or None, default None
        How fast the head (with `before`) and the body go.
    stop : Stop or None, default None
        Where the answer breaks off or holds.
    after : bytes, default empty
        Sent behind the body, in the same packet where that is short.
    push : Push or None, default None
        Sent later, on the connection that was kept.
    end : str or None, default None
        What becomes of the connection (`End`). By default it is kept if the client wishes so and can find the
        end of the body, else closed.
    """

    delay: float = 0.0
    before: bytes = b""
    head_pace: Pace | None = None
    pace: Pace | None = None
    stop: Stop | None = None
    after: bytes = b""
    push: Push | None = None
    end: End | None = None

    def __post_init__(self) -> None:
        if self.end is not None:
            _check(self.end, End, "end")


_Framing = Literal["length", "chunked", "close"]
_Ranges = Literal["honour", "ignore", "refuse", "multipart"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Serve(Answer):
    """The stored file, as a good server sends it but for the modifications.

    Parameters
    ----------
    headers : Headers
        Fields replaced, added (a list for several) or taken away (None). Validators set here are those that
        If-Range is compared with.
    status : int or None, default None
        Replaces the status, and nothing else.
    content : bytes, Repeated or None, default None
        Replaces the file's content, with an ETag of its own.
    transform : callable or None, default None
        Applied to the whole content before any range is cut from it.
    ranges : {"honour", "ignore", "refuse", "multipart"}
        What becomes of a Range: a 206, a 200, a 416, or a 206 of type multipart/byteranges.
    ignore_if_range : bool, default False
        Answer 206 although If-Range says that the client holds another version.
    shift : int, default 0
        By how many bytes a 206 starts away from where it was asked to.
    content_range : str or None, default ``"bytes {first}-{last}/{total}"``
        The Content-Range of a 206, and if it is replaced of a 416 too, with the names filled in; None for none.
    framing : {"length", "chunked", "close"} or Chunked
        How the end of the body is told.
    """

    headers: Headers = field(default_factory=dict)
    status: int | None = None
    content: Content | None = None
    transform: Callable[[bytes], bytes] | None = None
    ranges: _Ranges = "honour"
    ignore_if_range: bool = False
    shift: int = 0
    content_range: str | None = CONTENT_RANGE
    framing: _Framing | Chunked = "length"

    def __post_init__(self) -> None:
        _check(self.ranges, _Ranges, "ranges")
        _check_framing(self.framing)
        Answer.__post_init__(self)


@dataclass(frozen=True, slots=True)
class Reply(Answer):
    """A status, a body and headers.

    Parameters
    ----------
    status : int
        Sent with three digits.
    body : bytes or Repeated, default empty
        Sent as it is, but never to HEAD.
    headers : Headers
        Fields to set; Content-Length and Date are there unless replaced or taken away.
    reason : str or None, default None
        The words behind the status; None for the usual ones.
    framing : {"length", "chunked", "close"} or Chunked
        How the end of the body is told.
    """

    status: int
    body: Content = b""
    headers: Headers = field(default_factory=dict)
    reason: str | None = None
    framing: _Framing | Chunked = "length"

    def __post_init__(self) -> None:
        _check_framing(self.framing)
        Answer.__post_init__(self)


@dataclass(frozen=True, slots=True)
class Raw(Answer):
    """Bytes, as they are.

    The first blank line ends the head as far as `head_pace`, `stop` and the log are concerned.

    Parameters
    ----------
    data : bytes
        All that is sent.
    repeat : int or None, default 1
        How many times; None for ever.
    """

    data: bytes
    repeat: int | None = 1


def _check_framing(framing: object) -> None:
    if not isinstance(framing, Chunked):
        _check(framing, _Framing, "framing")


#: What a script is made of: answers, and functions that make them from the request.
Scripted = Answer | Callable[["RequestRecord"], Answer | Awaitable[Answer]]


def hold(answer: Answer | None = None) -> Answer:
    """Send nothing until `Warehouse.release`, then `answer` (default: serve the file)."""
    return replace(answer or Serve(), stop=Stop(0, "hold", of="wire"))
