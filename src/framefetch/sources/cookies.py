"""Cookies of one origin, as RFC 6265 has them, except that they go nowhere else. No I/O, no clock."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from datetime import UTC
from typing import TYPE_CHECKING, Final, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["Cookie", "Jar", "cookies_for", "with_cookies"]

#: Cookies of one origin, and characters of one of them (RFC 6265 section 6.1).
MOST: Final = 50
LONGEST: Final = 4096


@dataclass(frozen=True, slots=True)
class Cookie:
    """A name and a value, the paths that they are for, and the end of them."""

    name: str
    value: str = field(repr=False)
    path: str
    until: float


#: Never changed, only replaced: threads read it, too.
Jar: TypeAlias = tuple[Cookie, ...]


def with_cookies(jar: Jar, lines: Iterable[str], target: str, now: float) -> Jar:
    """Return a jar with what an answer's ``Set-Cookie`` say.

    Parameters
    ----------
    jar : Jar
        What was kept before.
    lines : iterable of str
        The values of the fields.
    target : str
        The request target, whose folder a cookie is for that says nothing else.
    now : float
        The time of day, which ends of cookies are compared with.
    """
    kept = {(cookie.name, cookie.path): cookie for cookie in jar if cookie.until > now}
    for line in lines:
        cookie = _read(line, target, now)
        if cookie is None:
            continue
        if cookie.until > now:
            kept[cookie.name, cookie.path] = cookie
        else:
            kept.pop((cookie.name, cookie.path), None)
    return tuple(kept.values())[-MOST:]


def cookies_for(jar: Jar, target: str, now: float) -> str:
    """Return the value of a request's ``Cookie``, empty where none is for it; those of longer paths come first."""
    path = _path_of(target)
    found = [cookie for cookie in jar if cookie.until > now and _is_for(cookie.path, path)]
    found.sort(key=lambda cookie: -len(cookie.path))
    return "; ".join(f"{cookie.name}={cookie.value}" for cookie in found)


def _read(line: str, target: str, now: float) -> Cookie | None:
    """Return the cookie that a field sets, or ends; None where it is none."""
    pair, *attributes = line.split(";")
    name, equals, value = (part.strip() for part in pair.partition("="))
    if not equals or not name or len(name) + len(value) > LONGEST:
        return None
    said = {}
    for attribute in attributes:  # the last of a kind counts
        kind, _, what = attribute.partition("=")
        said[kind.strip().lower()] = what.strip()
    path = said.get("path", "")
    if not path.startswith("/"):
        path = _path_of(target).rpartition("/")[0] or "/"
    return Cookie(name, value, path, _until(said, now))


def _until(said: dict[str, str], now: float) -> float:
    """Return when a cookie ends; the seconds count before the date, and what cannot be read is not said."""
    if re.fullmatch("-?[0-9]{1,18}", said.get("max-age", "")):
        seconds = int(said["max-age"])
        return now + seconds if seconds > 0 else 0.0
    if "expires" not in said:
        return float("inf")
    from email.utils import parsedate_to_datetime  # here, since few answers ask for it and it takes 2 ms

    try:
        when = parsedate_to_datetime(said["expires"])
        return (when.replace(tzinfo=UTC) if when.tzinfo is None else when).timestamp()
    except (ValueError, OverflowError):
        return float("inf")


def _path_of(target: str) -> str:
    return target.partition("?")[0]


def _is_for(path: str, asked: str) -> bool:
    return asked == path or asked.startswith(path if path.endswith("/") else f"{path}/")
