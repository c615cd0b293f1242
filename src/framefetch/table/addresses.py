"""What a cell says of where a file is: one URL, several mirrors, or a reason why neither.

Nearly every cell of a real table is one plain URL, so a single regular expression and one look at its host
decide it; only what is left over is taken apart.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, TypeGuard
from urllib.parse import urlsplit

import numpy as np

from framefetch.errors import InvalidRow, PlanError
from framefetch.table.lines import all_match
from framefetch.table.template import is_missing
from framefetch.urls import invisible_character, origin_of, redact_text, wire_url

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

__all__ = ["AddressReader", "basename", "location", "shown", "would_be_completed"]

URL_LENGTH = 16_384

_BLANKS = " \t\r\n"
_BLANK_RUN = re.compile(f"[{_BLANKS}]+")

#: Possessive, as no part of it can take what the next one needs.
_PLAIN = r"https?://[A-Za-z0-9.-]++(?::[0-9]{1,5}+)?+/[A-Za-z0-9._~!$&'()*+,;=:@/-]*+"
_PLAIN_URL = re.compile(_PLAIN)
_PLAIN_URLS = re.compile(rf"(?:{_PLAIN}\n)*+")
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*):")
_DRIVE = re.compile(r"[A-Za-z]:[\\/]|\\\\")
#: What no name of a host holds (RFC 3986 section 3.2.2), such as a blank or the brace of an unfilled template.
_NO_HOST = re.compile(r"[\x00-\x20\x7f\"<>\\^`{|}]")
#: Schemes that make no URL of ours where ``//`` does not follow; any other word and colon may begin a file's name.
_OTHER_SCHEMES = frozenset(
    ("javascript", "data", "mailto", "file", "about", "blob", "http", "https", "ftp", "s3", "gs")
)
#: What stands in a cell instead of nothing.
_NO_VALUE = frozenset(("nan", "nat", "none", "null", "<na>", "na", "n/a"))


def basename(url: str) -> str:
    """Return the last part of a URL's path, still percent-encoded."""
    if "?" in url or "#" in url:
        url = re.split(r"[?#]", url, maxsplit=1)[0]
    # Nothing comes after the host: there is no path, and the host is no file name.
    return url.rpartition("/")[2] if url.find("/", url.find("://") + 3) > 0 else ""


def location(url: str) -> str:
    """Return where a URL leads: scheme, host, port and path, without login, query and fragment.

    Examples
    --------
    >>> location("HTTP://me@Host/a.nwb?signature=abc")
    'http://host:80/a.nwb'
    """
    url = url.partition("#")[0].partition("?")[0]
    return origin_of(url) + (url[_path_start(url) :] or "/")


def shown(cell: object) -> str:
    """Return a cell as a message may show it: short, printable, without secrets."""
    cell = cell.item() if isinstance(cell, np.generic) else cell
    text = redact_text(cell.strip(_BLANKS) if isinstance(cell, str) else repr(cell))
    text = text if text.isprintable() else repr(text)[1:-1]
    return f"'{text[:120]}…'" if len(text) > 120 else f"'{text}'"


def would_be_completed(cell: object) -> bool:
    """Return whether a cell that is no URL may be the end of one, which another `base_url` completes."""
    if isinstance(cell, list | tuple | np.ndarray):
        return any(map(would_be_completed, cell))
    text = cell.strip(_BLANKS) if isinstance(cell, str) else "" if is_missing(cell) else repr(cell)
    return bool(text) and "://" not in text and text.lower() not in _NO_VALUE


class AddressReader:
    """Reads cells as URLs.

    Parameters
    ----------
    base_url : str or None
        Completes what has no host.
    schemes : collection of str
        The schemes that some source can fetch.

    Raises
    ------
    PlanError
        Where `base_url` is no URL that can be completed with.
    """

    def __init__(self, base_url: str | None, schemes: Collection[str]) -> None:
        self._schemes = frozenset(schemes)
        self._web = {"http", "https"} <= self._schemes
        self._heads: set[str] = set()
        self._base: str | None = None
        if base_url is not None:
            self._base = self._checked_base(base_url.strip())

    def _checked_base(self, base_url: str) -> str:
        try:
            base = self._checked(base_url)
        except InvalidRow as error:
            raise PlanError(f"base_url: {error}") from None
        if "?" in base or "#" in base:
            raise PlanError(f"base_url: expected a URL without a query, got {shown(base)}")
        return base.rstrip("/")

    def takes_all(self, cells: Sequence[Any]) -> TypeGuard[Sequence[str]]:
        """Return whether each cell is one plain URL as it stands; one look at all of them, as most columns are."""
        if not self._web or set(map(type, cells)) != {str} or max(map(len, cells)) > URL_LENGTH:
            return False
        if not all_match(_PLAIN_URLS, cells):
            return False
        heads = {_head(min(cells)), _head(max(cells))}  # what stands between two with one head has that head, too
        if len(heads) > 1:
            heads = set(map(_head, cells))
        try:
            for head in heads - self._heads:
                self._check_host(f"{head}/")
        except InvalidRow:
            return False
        self._heads |= heads
        return True

    def read(self, cell: Any) -> tuple[str, ...]:
        """Return the mirrors a cell names, the first one first.

        Raises
        ------
        InvalidRow
            Where the cell names none.
        """
        if type(cell) is str and self._web and _PLAIN_URL.fullmatch(cell) and len(cell) <= URL_LENGTH:
            head = _head(cell)
            if head not in self._heads:
                self._check_host(cell)
                self._heads.add(head)
            return (cell,)
        if isinstance(cell, list | tuple | np.ndarray):
            mirrors = [self._checked(self._as_text(part)) for part in cell]
            if not mirrors:
                raise InvalidRow("expected a URL, got an empty list")
        else:
            mirrors = [self._checked(part) for part in self._split(self._as_text(cell))]
        return tuple(dict.fromkeys(mirrors))

    def _as_text(self, cell: object) -> str:
        if not isinstance(cell, str) and not is_missing(cell):
            raise InvalidRow(f"expected a URL as text, got {type(cell).__name__} {shown(cell)}")
        if is_missing(cell):
            raise InvalidRow("expected a URL, but the cell is empty")
        assert isinstance(cell, str)
        return cell.strip(_BLANKS)

    @staticmethod
    def _split(text: str) -> list[str]:
        """Blanks separate mirrors only where each part is a URL of its own."""
        parts = _BLANK_RUN.split(text)
        if len(parts) == 1 or not any("://" in part for part in parts[1:]):
            return [text]
        if not all("://" in part for part in parts):
            raise InvalidRow(f"expected one URL, or several separated by blanks, got {shown(text)}")
        return [part.rstrip(",;") for part in parts]

    def _checked(self, text: str) -> str:
        if len(text) > URL_LENGTH:
            raise InvalidRow(f"expected a URL of at most {URL_LENGTH} characters, got {len(text)}: {shown(text)}")
        if name := invisible_character(text):
            raise InvalidRow(f"expected a URL, got one with {name} in it: {shown(text)}")
        if "://" not in text:
            text = self._completed(text)
        scheme = _SCHEME.match(text)
        if scheme is None or scheme.group(1).lower() not in self._schemes:
            known = ", ".join(sorted(self._schemes))
            raise InvalidRow(f"expected a URL with one of the schemes {known}, got {shown(text)}")
        self._check_host(text)
        return text

    def _completed(self, text: str) -> str:
        scheme = _SCHEME.match(text)
        if scheme and scheme.group(1).lower() in _OTHER_SCHEMES:
            raise InvalidRow(f"expected a URL such as https://host/file.nwb, got {shown(text)}")
        if text.lower() in _NO_VALUE:
            raise InvalidRow(f"expected a URL, but the cell says {shown(text)}")
        if self._base is None:
            hint = "; a base_url would complete it" if text.startswith("/") else ""
            raise InvalidRow(f"expected a URL such as https://host/file.nwb, got {shown(text)}{hint}")
        if " " in text and "/" not in text:
            raise InvalidRow(f"expected a URL or a path, got what reads like a sentence: {shown(text)}")
        if text.startswith("//") or _DRIVE.match(text):
            raise InvalidRow(f"expected a URL, or a path that base_url completes, got {shown(text)}")
        if text.startswith("/"):
            return self._base[: _path_start(self._base)] + text
        return f"{self._base}/{text}"

    @staticmethod
    def _check_host(url: str) -> None:
        try:
            parts = urlsplit(url)
            host, port = parts.hostname, parts.port
            wire_url(url)
        except ValueError:  # a port out of range, a broken IPv6 address, a name IDNA cannot encode
            # Without its text and as no cause: it quotes the login.
            raise InvalidRow(f"expected a URL with a valid host and port, got {shown(url)}") from None
        if not host:
            raise InvalidRow(f"expected a URL with a host, got {shown(url)}")
        if _NO_HOST.search(host):
            raise InvalidRow(f"expected a URL with a valid host and port, got {shown(url)}")
        if port == 0:
            raise InvalidRow(f"expected a port from 1 to 65535, got {shown(url)}")


def _head(url: str) -> str:
    """Return a plain URL as far as its path."""
    return url[: url.index("/", 8)]


def _path_start(url: str) -> int:
    """Return where the path of a URL without a query begins."""
    start = url.find("/", url.find("://") + 3)
    return start if start > 0 else len(url)
