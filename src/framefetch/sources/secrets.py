"""What a host is told that nobody else may read, and how a message forgets it: servers quote what they were sent.

Pure functions on text. A credential that only a name gives away is hidden by `framefetch.urls`; here its text is known.
"""

from __future__ import annotations

import re
from base64 import b64decode
from contextlib import suppress
from functools import lru_cache
from typing import TYPE_CHECKING, Final

from framefetch.urls import MASK, secrets_of

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator

__all__ = ["forget", "hidden", "told"]

#: Shorter ones are left: they stand in too many words.
LEAST: Final = 4
#: Headers that say nothing of who asks.
_OPEN: Final = frozenset(
    (
        *("accept", "accept-encoding", "accept-language", "cache-control", "connection", "host", "origin", "pragma"),
        *("referer", "user-agent"),
    )
)
#: What stands behind a quotation that was cut.
_ENDS: Final = ("", "'", '"', "…")


def told(url: str, fields: Iterable[tuple[str, str]]) -> frozenset[str]:
    """Return what is secret of a request: of its URL, and of the header fields that went with it."""
    found = {*secrets_of(url)}
    for name, value in fields:
        found.update(_secrets_in(name.lower(), value.strip()))
    return frozenset(secret for secret in found if len(secret) >= LEAST)


def _secrets_in(name: str, value: str) -> Iterator[str]:
    if name in _OPEN:
        return
    yield value
    if name == "cookie":
        yield from (pair.partition("=")[2].strip() for pair in value.split(";"))
    elif name.endswith("authorization"):
        scheme, _, rest = value.partition(" ")
        yield rest.strip()
        if scheme.lower() == "basic":
            with suppress(ValueError):
                yield from b64decode(rest).decode("utf-8", "surrogateescape").partition(":")[::2]


def hidden(text: str, secrets: Collection[str]) -> str:
    """Return a text with ``***`` for each secret, also where it is percent-encoded, quoted or cut at its end.

    Examples
    --------
    >>> hidden("no key a/b-c, a%2Fb-c or a%252Fb-c; in 'a/b-'", ["a/b-c"])
    "no key ***, *** or ***; in '***'"
    """
    longest_first = sorted(secrets, key=len, reverse=True)
    for secret in longest_first:
        text = _any_form(secret).sub(MASK, text)
    for secret in longest_first:
        text = _without_cut(text, secret)
    return text


def _without_cut(text: str, secret: str) -> str:
    """Return a text with ``***`` for the beginning of a secret where a quotation ends in it."""
    kept, done, at = "", 0, 0
    while found := _any_form(secret[:LEAST]).search(text, at):
        end, at = found.end(), found.start() + 1
        for character in secret[LEAST:]:
            more = _any_form(character).match(text, end)
            if more is None:
                break
            end = more.end()
        if text[end : end + 1] in _ENDS:
            kept += text[done : found.start()] + MASK
            done = at = end
    return kept + text[done:]


@lru_cache(maxsize=4096)
def _any_form(secret: str) -> re.Pattern[str]:
    """Return what a text may have become: each character as it is, escaped, percent-encoded once or several times."""
    return re.compile("".join(map(_forms, secret)))


@lru_cache(maxsize=1024)
def _forms(character: str) -> str:
    if character.isascii() and character.isalnum():
        return character
    forms = [rf"%(?:25)*(?i:{ord(character):02x})"] if character.isascii() else []
    if not character.isascii():
        utf16 = character.encode("utf-16-be", "surrogatepass").hex()
        forms += [r"\\+u" + r"\\+u".join(re.findall("....", utf16)), rf"\\+U{ord(character):08x}"]
        for coded in (character.encode("utf-8", "surrogateescape"), character.encode("latin-1", "ignore")):
            forms += ["".join(form.format(byte) for byte in coded) for form in (r"%(?:25)*(?i:{:02x})", r"\\+x{:02x}")]
            forms.append(re.escape(coded.decode("latin-1")))
    forms += ["[+ ]"] if character in "+ " else []
    return rf"\\*(?:{'|'.join(filter(None, [*forms, re.escape(character)]))})"


def forget(error: BaseException, secrets: Collection[str]) -> None:
    """Hide secrets in the message of an error, and of all that it came from."""
    seen: set[int] = set()
    waiting: list[BaseException | None] = [error]
    while secrets and waiting:
        found = waiting.pop()
        if found is None or id(found) in seen:
            continue
        seen.add(id(found))
        found.args = tuple(hidden(word, secrets) if isinstance(word, str) else word for word in found.args)
        waiting += (found.__cause__, found.__context__)
