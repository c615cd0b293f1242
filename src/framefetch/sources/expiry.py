"""Has a signed link expired? What its query says, and what an object store answers. Pure functions on text."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import Final
from urllib.parse import unquote

__all__ = ["EXCERPT_BYTES", "MAY_BE_EXPIRED", "expiry_of", "tells_expiry"]

#: Statuses with which object stores refuse an expired link.
MAY_BE_EXPIRED: Final = frozenset((400, 401, 403, 410))
#: Bytes of such an answer that are looked at.
EXCERPT_BYTES: Final = 65_536

_CODE = re.compile(rb"<Code>\s*([A-Za-z]{1,60})\s*</Code>")
_EXPIRED = re.compile(rb"(?i)\bexpired\b")
#: Codes that also mean other things: only with the word in the message do they mean this.
_VAGUE: Final = frozenset((b"AccessDenied", b"AuthenticationFailed", b"InvalidToken", b"Forbidden"))


def expiry_of(url: str) -> datetime | None:
    """Return until when a link says that it is valid, None where it does not say.

    Examples
    --------
    >>> expiry_of("https://h/f?X-Amz-Date=20260101T000000Z&X-Amz-Expires=60").isoformat()
    '2026-01-01T00:01:00+00:00'
    """
    pairs = [pair.partition("=") for pair in url.partition("#")[0].partition("?")[2].split("&")]
    query = {unquote(name).lower(): unquote(value) for name, _, value in pairs}
    try:
        for store in ("x-amz", "x-goog"):
            if (begin := query.get(f"{store}-date")) and (seconds := query.get(f"{store}-expires")):
                signed = datetime.strptime(begin, "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
                return signed + timedelta(seconds=int(seconds))
        if seconds := query.get("expires"):
            return datetime.fromtimestamp(int(seconds), UTC)
        if end := query.get("se"):
            when = datetime.fromisoformat(end)
            return when if when.tzinfo is not None else when.replace(tzinfo=UTC)
    except (ValueError, OverflowError, OSError):
        pass
    return None


def tells_expiry(body: bytes) -> bool:
    """Return whether an error's body, in the XML of object stores, says that the link has expired.

    Examples
    --------
    >>> tells_expiry(b"<Error><Code>AccessDenied</Code><Message>Request has expired</Message></Error>")
    True
    """
    found = _CODE.search(body)
    if found is None:
        return False
    return b"Expired" in found[1] or (found[1] in _VAGUE and _EXPIRED.search(body) is not None)
