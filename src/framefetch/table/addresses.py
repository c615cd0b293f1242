"""What a cell says of where a file is: one URL, several mirrors, or a reason why neither.

Nearly every cell of a real table is one plain URL, so a single regular expression and one look at its host
decide it; only what is left over is taken apart.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import numpy as np

from framefetch.errors import InvalidRow
from framefetch.table.template import is_missing
from framefetch.urls import invisible_character, origin_of, redact, wire_url

if TYPE_CHECKING:
    from collections.abc import Collection

__all__ = ["AddressReader", "basename", "shown"]

URL_LENGTH = 16_384

_PLAIN_URL = re.compile(r"https?://[A-Za-z0-9.-]+(?::[0-9]{1,5})?/[A-Za-z0-9._~!$&'()*+,;=:@/-]*")
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*):")


def basename(url: str) -> str:
    """Return the last part of a URL's path, still percent-encoded."""
    if "?" in url or "#" in url:
        url = re.split(r"[?#]", url, maxsplit=1)[0]
    # Nothing comes after the host: there is no path, and the host is no file name.
    return url.rpartition("/")[2] if url.find("/", url.find("://") + 3) > 0 else ""


def shown(cell: object) -> str:
    """Return a cell as a message may show it: short, printable, without secrets."""
    text = cell if isinstance(cell, str) else repr(cell)
    text = redact(text) if "://" in text else text
    text = text if text.isprintable() else repr(text)[1:-1]
    return f"'{text[:120]}…'" if len(text) > 120 else f"'{text}'"


class AddressReader:
    """Reads cells as URLs.

    Parameters
    ----------
    base_url : str or None
        Completes what has no host.
    schemes : collection of str
        The schemes that some source can fetch.
    """

    def __init__(self, base_url: str | None, schemes: Collection[str]) -> None:
        self._schemes = frozenset(schemes)
        self._heads: set[str] = set()
        self._base: str | None = None
        if base_url is not None:
            self._base = self._checked(base_url.strip())

    def read(self, cell: Any) -> tuple[str, ...]:
        """Return the mirrors a cell names, the first one first.

        Raises
        ------
        InvalidRow
            Where the cell names none.
        """
        if type(cell) is str and _PLAIN_URL.fullmatch(cell) and len(cell) <= URL_LENGTH:
            head = cell[: cell.index("/", 8)]
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
        text = cell.strip(" \t\r\n")
        if name := invisible_character(text):
            raise InvalidRow(f"expected a URL, got one with {name} in it: {shown(text)}")
        return text

    @staticmethod
    def _split(text: str) -> list[str]:
        """Blanks separate mirrors only where each part is a URL of its own."""
        parts = text.split()
        return parts if len(parts) > 1 and all("://" in part for part in parts) else [text]

    def _checked(self, text: str) -> str:
        if len(text) > URL_LENGTH:
            raise InvalidRow(f"expected a URL of at most {URL_LENGTH} characters, got {len(text)}: {shown(text)}")
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
        if scheme and not text[scheme.end() :].lstrip().startswith("//") and scheme.group(1).lower() in _OTHER_SCHEMES:
            raise InvalidRow(f"expected an http or https URL, got {shown(text)}")
        if self._base is None:
            hint = "; a base_url would complete it" if text.startswith("/") else ""
            raise InvalidRow(f"expected a URL such as https://host/file.nwb, got {shown(text)}{hint}")
        if " " in text and "/" not in text:
            raise InvalidRow(f"expected a URL or a path, got what reads like a sentence: {shown(text)}")
        if text.startswith("/") and not text.startswith("//"):
            return origin_of(self._base).removesuffix(":80").removesuffix(":443") + text
        return self._base.rstrip("/") + "/" + text.lstrip("/")

    @staticmethod
    def _check_host(url: str) -> None:
        try:
            parts = urlsplit(url)
            host, port = parts.hostname, parts.port
            wire_url(url)
        except ValueError as error:  # a port out of range, a broken IPv6 address, a name IDNA cannot encode
            raise InvalidRow(f"expected a URL with a valid host and port, got {shown(url)}: {error}") from error
        if not host:
            raise InvalidRow(f"expected a URL with a host, got {shown(url)}")
        if port == 0:
            raise InvalidRow(f"expected a port from 1 to 65535, got {shown(url)}")


_OTHER_SCHEMES = frozenset(("javascript", "data", "mailto", "file", "about", "blob"))
