"""Range and If-Range as RFC 9110, sections 13.1.5 and 14, has them; no I/O."""

from __future__ import annotations

import re

__all__ = ["parse_range", "same_version"]

_SPEC = re.compile(r"(\d*)-(\d*)")


def parse_range(value: str | None, size: int) -> list[tuple[int, int]] | None:
    """Resolve a Range field against a size.

    Parameters
    ----------
    value : str or None
        As received.
    size : int
        Bytes of the whole.

    Returns
    -------
    list of (int, int) or None
        First and last byte of each range that can be satisfied; none of them means 416. None where there is no
        range to honour: no field, another unit, or a field that is malformed (section 14.2: ignore it).

    Examples
    --------
    >>> parse_range("bytes=2-,-1", 10)
    [(2, 9), (9, 9)]
    >>> parse_range("bytes=10-", 10)
    []
    """
    unit, equals, specs = (value or "").partition("=")
    if not equals or unit.strip().lower() != "bytes":
        return None
    found = []
    for spec in specs.split(","):
        match = _SPEC.fullmatch(spec.strip())
        if match is None or match[0] == "-":
            return None
        if match[1] and match[2] and int(match[2]) < int(match[1]):
            return None
        first = int(match[1]) if match[1] else max(0, size - int(match[2]))
        last = min(size - 1, int(match[2])) if match[1] and match[2] else size - 1
        if first <= last:
            found.append((first, last))
    return found


def same_version(if_range: str | None, etag: str | None, last_modified: str | None) -> bool:
    """Tell whether an If-Range lets the range be served.

    Weak tags never match (strong comparison), a date only as the very text of Last-Modified.
    """
    if if_range is None:
        return True
    value = if_range.strip()
    if value.startswith('"'):
        return value == etag
    return not value.startswith("W/") and value == last_modified
