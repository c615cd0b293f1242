"""Ranges: how one is asked for, and whether an answer is it. Pure functions on headers.

Bytes are appended to bytes of an earlier answer only where it is proved that both belong to one version of the file:
by a strong entity tag or an old enough date in If-Range (RFC 9110 section 13.1.5), or by the digest that the table
states. What a server says of the range it sends is compared with what was asked in every number.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from framefetch.errors import ChangedMidway, RangeMismatch
from framefetch.models import Entity
from framefetch.urls import excerpt

if TYPE_CHECKING:
    from framefetch.sources.base import Ask
    from framefetch.sources.wire import Head

__all__ = ["ANSWERS", "accept_range", "entity_of", "range_fields", "refuse_part"]

#: Statuses besides 200 with which a server answers a request for a range, well or not. 304 and 412 answer conditions
#: that nobody made: so does who takes If-Range for one of them (WEBrick does).
ANSWERS: Final = frozenset((206, 304, 412, 416))

#: Seconds a file must have been left alone for its date to tell versions apart: dates count whole seconds, and the
#: clocks of the machines behind one name differ (RFC 9110 section 8.8.2.2 has the rule, the minute is ours).
SETTLED_SECONDS = 60

_STRONG = re.compile(r'"[\x21\x23-\x7e\x80-\xff]*"')
_RANGE = re.compile(r"bytes +([0-9]{1,18})-([0-9]{1,18})/([0-9]{1,18}|\*)")
_NONE_LEFT = re.compile(r"bytes +\*/([0-9]{1,18})")


def range_fields(ask: Ask) -> str:
    """Return the header fields that ask for a range.

    Examples
    --------
    >>> from framefetch.sources.base import Ask
    >>> range_fields(Ask(5000, entity=Entity("http://host/file", etag='"v1"')))
    'Range: bytes=5000-\\r\\nIf-Range: "v1"\\r\\n'
    """
    last = "" if ask.last is None else ask.last
    validator = None if ask.entity is None else ask.entity.etag or ask.entity.modified
    condition = "" if validator is None else f"If-Range: {validator}\r\n"
    return f"Range: bytes={ask.first}-{last}\r\n{condition}"


def entity_of(head: Head, url: str, total: int | None) -> Entity:
    """Return what an answer says of the version it belongs to; weak tags and fresh dates prove nothing."""
    etag = head.get("etag")
    if etag is not None and _STRONG.fullmatch(etag):
        return Entity(url, etag, total=total)
    modified = head.get("last-modified")
    return Entity(url, None, modified if _is_settled(modified, head.get("date")) else None, total, weak=etag)


def _is_settled(modified: str | None, date: str | None) -> bool:
    from email.utils import parsedate_to_datetime  # here: it takes 2 ms, and small files have no ranges

    try:
        age = parsedate_to_datetime(date or "") - parsedate_to_datetime(modified or "")
    except (ValueError, TypeError, OverflowError):
        return False
    return age.total_seconds() >= SETTLED_SECONDS


def accept_range(head: Head, ask: Ask) -> tuple[int, int | None, int | None]:
    """Return where the body of an answer begins, and the bytes of it and of the whole file where they are known.

    Parameters
    ----------
    head : Head
        An answer with status 200, or one of `ANSWERS`.
    ask : Ask
        What was asked for.

    Returns
    -------
    tuple of int, (int or None) and (int or None)
        The first is 0 for the whole file, else ``ask.first``. The second is what a range says of itself, however its
        body is framed. A 416 that says that nothing is left is a range of no bytes. The third is None where a range
        up to the end says nothing of the end: it may be shorter than what was asked for.

    Raises
    ------
    RangeMismatch
        Where it is not the range that was asked for.
    ChangedMidway
        Where it is of another version.
    """
    if head.status == 200:
        return 0, None, None
    known = None if ask.entity is None else ask.entity.total
    if head.status in (304, 412):
        raise RangeMismatch(f"asked for bytes {ask.first}-, got status {head.status}: the server knows no If-Range")
    if head.status == 416:
        return ask.first, 0, _none_left(head, ask, known)
    first, last, total = _content_range(head)
    if known is not None and total is not None and total != known:
        raise ChangedMidway(f"expected the rest of a file of {known:,} bytes, the server says it has {total:,} now")
    if "content-encoding" in head.fields and head.get("content-encoding") != "identity":
        raise RangeMismatch(f"expected plain bytes, got a range with the coding {head.get('content-encoding')!r}")
    whole = total if total is not None else known
    expected = ask.last if ask.last is not None else None if whole is None else whole - 1
    if first != ask.first or last < first or (expected is not None and last != expected):
        wanted = f"{ask.first}-{'' if expected is None else expected}"
        raise RangeMismatch(f"asked for bytes {wanted}, got {first}-{last}")
    size, length = last - first + 1, head.get("content-length")
    if length is not None and int(length) != size:
        raise RangeMismatch(f"expected {size:,} bytes for the range {first}-{last}, the server says {length}")
    if "etag" not in head.fields and ask.entity is not None and ask.entity.etag is not None and not ask.has_digest:
        # A 206 has the tag that a 200 would have (RFC 9110 section 15.3.7). Who leaves it out may ignore If-Range too.
        raise RangeMismatch(f"expected a range of version {excerpt(ask.entity.etag)[1:-1]}, got one without an ETag")
    _check_version(head, ask)
    return first, size, whole


def refuse_part(head: Head, ask: Ask | None) -> None:
    """Refuse an answer with status 200 that is only a part of the file.

    Raises
    ------
    RangeMismatch
        Where it says that it is a range and not the whole, or has another length than this version had before.
    """
    length = head.get("content-length")
    if "content-range" in head.fields:
        found = _RANGE.fullmatch(", ".join(head.all("content-range")))
        whole = None if length is None else int(length)
        if found is None or whole is None or (found[1], int(found[2]) + 1, found[3]) != ("0", whole, str(whole)):
            told = ", ".join(head.all("content-range"))[:80]
            raise RangeMismatch(f"expected the whole file with status 200, got Content-Range {told!r}")
    entity = None if ask is None else ask.entity
    if entity is None or None in (entity.etag, entity.total, length) or "content-encoding" in head.fields:
        return
    if head.get("etag") == entity.etag and int(length or 0) != entity.total:
        words = f"expected the whole file of {entity.total:,} bytes with status 200"
        raise RangeMismatch(f"{words}, got {int(length or 0):,} bytes with the same ETag")


def _none_left(head: Head, ask: Ask, known: int | None) -> int:
    found = _NONE_LEFT.fullmatch(head.get("content-range") or "")
    if found is None or int(found[1]) != ask.first or known not in (None, ask.first):
        told = f"; the server says it has {int(found[1]):,}" if found else ""
        raise RangeMismatch(f"asked for what follows the first {ask.first:,} bytes, got status 416{told}")
    _check_version(head, ask)
    return ask.first


def _content_range(head: Head) -> tuple[int, int, int | None]:
    values = head.all("content-range")
    found = _RANGE.fullmatch(values[0]) if len(values) == 1 else None
    if found is None:
        kind = head.get("content-type") or ""
        got = "several ranges in one body" if kind.startswith("multipart/") else repr(", ".join(values)[:80])
        raise RangeMismatch(f"expected one Content-Range in bytes with status 206, got {got}")
    return int(found[1]), int(found[2]), None if found[3] == "*" else int(found[3])


def _check_version(head: Head, ask: Ask) -> None:
    """Refuse another version: a server may ignore If-Range, and then its tag or its date tells."""
    entity = ask.entity
    if entity is None:
        return
    etag, modified = head.get("etag"), head.get("last-modified")
    # Tags that are not strong are compared without the mark that says so (RFC 9110 section 8.8.3.2).
    told = ((entity.etag, etag), (_opaque(entity.weak), _opaque(etag)), (entity.modified, modified))
    for known, found in told:
        if known is not None and found is not None and known != found:
            words = f"expected the rest of version {excerpt(known)[1:-1]}, the server has {excerpt(found)[1:-1]} now"
            raise ChangedMidway(words)


def _opaque(etag: str | None) -> str | None:
    return None if etag is None else etag.removeprefix("W/")
