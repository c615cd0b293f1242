"""The gate: which answers may create bytes, and what is wrong with the others. Pure functions on headers.

Only 200 passes (and 206 to a range that was asked for). Everything else is an error of ours with its own words: a
library's idea of success, or of an error's number, is not relied on.
"""

from __future__ import annotations

import contextlib
import re
from datetime import UTC, datetime
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from framefetch.errors import ConnectionLost, IncompleteBody, PolicyRefused, ProtocolError, RedirectError, StatusError
from framefetch.urls import excerpt, wire_url

if TYPE_CHECKING:
    from framefetch.sources.wire import Head

__all__ = [
    "OVERLOAD",
    "REDIRECTS",
    "body_length",
    "broken_off",
    "framing",
    "is_overload",
    "plain_length",
    "redirect_target",
    "refuse_status",
    "retry_after",
]

REDIRECTS = frozenset((301, 302, 303, 307, 308))

_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:")
#: A host and perhaps a port, as they are sent.
_AUTHORITY = re.compile(r"(?:\[[^\[\]]+\]|[^\[\]%:@]+)(?::[0-9]*)?")

_ADVICE = {
    400: "the server does not understand the request; is the URL right?",
    401: "the server asks for a login",
    403: "the server refuses access",
    404: "no such file on the server; is the URL right?",
    407: "the proxy asks for a login",
    410: "the file is gone for good",
    429: "the server asks for fewer requests",
    451: "withheld for legal reasons",
}


def retry_after(value: str | None, now: datetime | None = None) -> float | None:
    """Return the seconds a Retry-After header asks for (RFC 9110 section 10.2.3), None where it cannot be read.

    Examples
    --------
    >>> retry_after("120")
    120.0
    >>> retry_after("Fri, 31 Dec 1999 23:59:59 GMT", datetime(1999, 12, 31, 23, 59, 57, tzinfo=UTC))
    2.0
    """
    text = (value or "").strip()
    if re.fullmatch(r"[0-9]+", text):
        return float(text) if len(text) < 300 else float("inf")
    from email.utils import parsedate_to_datetime  # here, since few answers ask for it and it takes 2 ms

    try:
        when = parsedate_to_datetime(text)
    except (ValueError, OverflowError):
        return None
    if when.tzinfo is None:
        when = when.replace(tzinfo=UTC)
    return max(0.0, (when - (now or datetime.now(UTC))).total_seconds())


def refuse_status(head: Head, *, with_login: bool, expired: str | None = None) -> StatusError:
    """Return the error for a status that is no file; `expired` says how we know that the link has expired."""
    status = head.status
    advice = _ADVICE.get(status, "")
    if expired is not None:
        advice = f"expired-url: {expired}; make the table's links anew, or let Options(refresh_url=...) do it"
    elif status in (401, 403):
        advice += "; credentials were sent" if with_login else "; no credentials were sent"
    wait = retry_after(head.get("retry-after"))
    told = f" (Retry-After: {wait:g} s)" if wait is not None else ""
    words = f"expected status 200, got {status:03} {excerpt(head.reason, 80)[1:-1]}".rstrip() + told
    text = f"{words}: {advice}" if advice else words
    return StatusError(text, status=status, retry_after=wait, expired=expired is not None)


def redirect_target(status: int, current: str, locations: list[str]) -> str:
    """Return where a redirect leads.

    Raises
    ------
    RedirectError
        Where it has no target, several, or one that nobody can connect to.
    PolicyRefused
        Where it leads to another scheme, or from https to http.
    """
    targets = list(dict.fromkeys(location.strip(" \t") for location in locations))
    if len(targets) != 1 or not targets[0]:
        found = "none" if not targets or not targets[0] else f"{len(targets)} of them"
        raise RedirectError(f"expected one Location header with status {status}, got {found}")
    location = _as_meant(targets[0])
    try:
        target = _joined(current, location)
        scheme = urlsplit(target).scheme.lower()
        # Parsers pass over a tab, wherever it stands.
        usable = "\t" not in location and (scheme not in ("http", "https") or _has_host(wire_url(target)))
    except ValueError:  # a broken IPv6 address, a port out of range, a name that IDNA cannot encode
        usable = False
    if not usable:
        # Without the error's text and as no cause: it quotes what may be a password.
        raise RedirectError(f"expected a redirect to a URL with a valid host and port, got {excerpt(location, 200)}")
    if scheme not in ("http", "https"):
        raise PolicyRefused(f"expected a redirect to http or https, got {excerpt(target, 200)}; nothing was opened")
    if urlsplit(current).scheme.lower() == "https" and scheme == "http":
        raise PolicyRefused(f"a redirect from https to plain http is not followed: {excerpt(target, 200)}")
    return target


def _joined(current: str, location: str) -> str:
    """Return the URL that a Location means (RFC 3986 section 5.2), of which nothing is lost but steps up and down.

    The standard library's drops whatever is empty, and a signature may be of that too.
    """
    if _SCHEME.match(location):
        return location
    scheme, _, rest = current.partition("://")
    if location.startswith("//"):
        return f"{scheme}:{location}"
    host, rest = _cut(rest, "/?#")
    here, rest = _cut(rest, "?#")
    path, tail = _cut(location, "?#")
    if not path:
        query = _cut(rest, "#")[0] if tail.startswith("#") else ""
        return f"{scheme}://{host}{here}{query}{tail}"
    steps = (path if path.startswith("/") else f"{here.rpartition('/')[0]}/{path}").split("/")[1:]
    kept: list[str] = []
    for step in steps:
        if step == "..":
            del kept[-1:]
        elif step != ".":
            kept.append(step)
    if steps[-1] in (".", ".."):
        kept.append("")
    return f"{scheme}://{host}/{'/'.join(kept)}{tail}"


def _cut(text: str, marks: str) -> tuple[str, str]:
    """Return a text up to the first of some marks, and what follows."""
    end = min((at for mark in marks if (at := text.find(mark)) >= 0), default=len(text))
    return text[:end], text[end:]


def _as_meant(location: str) -> str:
    """Return a Location as its server meant it: heads are read as Latin-1, but most servers write UTF-8."""
    with contextlib.suppress(UnicodeError):
        return location.encode("latin-1").decode()
    return location


def _has_host(sent: str) -> bool:
    """Return whether a URL as it is sent leads to some host; what no name of one holds is percent-encoded there.

    Raises
    ------
    ValueError
        Where it does not, too.
    """
    parts = urlsplit(sent)
    # The codec refuses labels that are empty or too long, in names of ASCII as well.
    return bool(_AUTHORITY.fullmatch(parts.netloc) and (parts.hostname or "").encode("idna") and parts.port != 0)


def body_length(values: list[str]) -> int | None:
    """Return the announced length of the body in bytes, None where there is none.

    Raises
    ------
    ProtocolError
        Where it is no such number, is said more than once, or is larger than any file.
    """
    if not values:
        return None
    value = values[0]
    if len(values) > 1 or len(value) > 18 or not (value.isascii() and value.isdecimal()):
        raise ProtocolError(f"expected one Content-Length in bytes, got {excerpt(', '.join(values), 80)}")
    return int(value)


def framing(head: Head) -> tuple[int | None, bool]:
    """Return the bytes of the body, None where its end must be seen, and whether it comes in chunks.

    As RFC 9112 section 6.3 has it.

    Raises
    ------
    ProtocolError
        Where nobody can tell.
    """
    coding = head.all("transfer-encoding")
    if coding and [part.strip().lower() for value in coding for part in value.split(",")] != ["chunked"]:
        raise ProtocolError(f"expected Transfer-Encoding: chunked or none, got {excerpt(', '.join(coding), 80)}")
    if coding and "content-length" in head.fields:
        raise ProtocolError("got Content-Length and Transfer-Encoding together; which of them is right?")
    length = None if coding else body_length(head.all("content-length"))
    return (0, False) if head.status in (101, 204, 304) else (length, bool(coding))


#: What makes an answer more than a head and so many bytes of a file.
_NOT_PLAIN = frozenset(("transfer-encoding", "content-encoding", "content-range", "set-cookie"))


def plain_length(head: Head) -> int | None:
    """Return the bytes of a body that is the whole file as it is; None for answers that need more care.

    Raises
    ------
    ProtocolError
        Where the announced length is none.
    """
    if head.status != 200 or not head.keep_alive or not _NOT_PLAIN.isdisjoint(head.fields):
        return None
    return body_length(head.all("content-length"))


#: Too many requests; away or overloaded, said by the host or by the proxy before it.
OVERLOAD = frozenset({429, 502, 503, 504, *range(520, 531)})


def is_overload(head: Head) -> bool:
    """Return whether a host says that it is asked too much, or to wait."""
    return head.status in OVERLOAD or "retry-after" in head.fields


def broken_off(head: Head | None, left: int | None, why: str) -> ConnectionLost | IncompleteBody:
    """Return the error for a connection that ended before the answer did, when so many bytes of it were to come."""
    if head is None:
        return ConnectionLost(f"the server closed the connection without a whole answer{why}")
    if left is None:
        return IncompleteBody(f"the connection broke within a body of unstated length{why}")
    total = int(head.get("content-length") or 0)
    return IncompleteBody(f"expected {total:,} bytes, got {total - left:,}; the connection ended{why}")
