"""What the surroundings say about connections: proxies and ``.netrc``, as values.

The environment itself is read at the edge, by the cache; here it is only applied.
"""

from __future__ import annotations

import base64
import ipaddress
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from urllib.parse import SplitResult, urlsplit

from framefetch.errors import ConnectFailed
from framefetch.urls import MASK, credentials_of, redact, redact_text, wire_url

if TYPE_CHECKING:
    from collections.abc import Mapping
    from netrc import netrc

__all__ = ["Environment", "Proxy", "basic"]

_LOGIN = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*://)?.*@", re.DOTALL)


def basic(user: str, password: str) -> str:
    """Return the value of an Authorization header (RFC 7617)."""
    return "Basic " + base64.b64encode(f"{user}:{password}".encode("utf-8", "surrogateescape")).decode("ascii")


@dataclass(frozen=True, slots=True, repr=False)
class Proxy:
    """Where to connect instead, without and with its password."""

    url: str
    authorization: str | None

    @classmethod
    def parse(cls, text: str) -> Proxy:
        """Read a proxy variable; a missing scheme means http.

        Raises
        ------
        ConnectFailed
            Where it names no proxy that can be used.
        """
        url = text if "://" in text else f"http://{text}"
        if not _is_proxy(url):
            failure = ConnectFailed(
                f"expected a proxy as http://host:port, got {_shown(text)[:200]!r}; "
                "correct the proxy variables (a slash in a password is %2F), or name this host in NO_PROXY"
            )
            failure.retryable = False
            raise failure
        credentials = credentials_of(url)
        return cls(wire_url(url).rstrip("/"), basic(*credentials) if credentials else None)

    @property
    def address(self) -> str:
        """Host and port, as messages show them."""
        return redact(self.url).partition("://")[2]

    def __repr__(self) -> str:
        """Show the address without the password."""
        return f"Proxy({redact(self.url)!r})"


def _shown(text: str) -> str:
    """Return what names no proxy, as messages show it: behind a slash in a password no parser sees a login."""
    login = _LOGIN.match(text)
    if login is None:
        return redact_text(text)
    return f"{login[1] or ''}{MASK}@{redact_text(text[login.end() :])}"


def _is_proxy(url: str) -> bool:
    """Return whether a proxy speaks a protocol of ours, and has an address and no path; SOCKS proxies do not."""
    try:
        parts = urlsplit(wire_url(url))  # which has no words for a name that IDNA cannot encode
        bare = parts.path in ("", "/") and not parts.query and "#" not in url
        return bare and parts.scheme.lower() in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False


@dataclass(frozen=True, slots=True)
class Environment:
    """Proxies by scheme, hosts that need none, and logins by host.

    Parameters
    ----------
    proxies : mapping of str to str
        As `urllib.request.getproxies` returns it: ``http``, ``https``, ``all``, and ``no`` for the exceptions.
    logins : netrc or None
        Logins by host name.
    """

    proxies: Mapping[str, str] = field(default_factory=dict)
    logins: netrc | None = None

    def proxy_for(self, url: str) -> Proxy | None:
        """Return the proxy for a URL, None for a direct connection.

        Raises
        ------
        ConnectFailed
            Where a variable names no proxy that can be used.
        """
        parts = urlsplit(url)
        text = self.proxies.get(parts.scheme.lower()) or self.proxies.get("all")
        if not text or self._exempt(parts):
            return None
        return Proxy.parse(text)

    def login_for(self, url: str) -> str | None:
        """Return the Authorization header that ``.netrc`` gives for a URL's host."""
        host = urlsplit(url).hostname
        found = self.logins.authenticators(host) if self.logins is not None and host else None
        if not found:
            return None
        user, _, password = found
        return basic(user, password or "")

    def _exempt(self, parts: SplitResult) -> bool:
        """Return whether ``no_proxy`` names the host: by name, domain, address or network, with or without port."""
        host = _spelled(parts.hostname or "")
        port = parts.port or (443 if parts.scheme.lower() == "https" else 80)
        for rule in (part.strip().lower() for part in self.proxies.get("no", "").split(",")):
            if rule and (rule == "*" or _matches(rule, host, port)):
                return True
        return False


def _matches(rule: str, host: str, port: int) -> bool:
    name, colon, stated = rule.rpartition(":")
    if colon and stated.isdecimal() and (":" not in name or name.endswith("]")):
        if int(stated) != port:
            return False
        rule = name
    address = _address(host)
    if "/" in rule:
        try:
            return address is not None and address in ipaddress.ip_network(rule, strict=False)
        except ValueError:
            return False
    rule = _spelled(rule.removeprefix("*").lstrip("."))
    return host == rule or (address is None and host.endswith("." + rule))


def _address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None


def _spelled(host: str) -> str:
    """Return a host in the one of its spellings by which it is compared."""
    host = host.strip("[]").rstrip(".").lower()
    if (address := _address(host)) is not None:
        return str(address)
    try:
        return host if host.isascii() else urlsplit(wire_url(f"http://{host}/")).netloc
    except ValueError:
        return host
