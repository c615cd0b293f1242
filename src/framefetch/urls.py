"""What the text of a URL says: where it leads, what in it is secret, how it goes on the wire.

Pure functions on text. A URL is never rebuilt from its parts, because a signed URL is only valid byte for byte.
"""

from __future__ import annotations

import re
import unicodedata
from functools import lru_cache
from typing import TYPE_CHECKING, Final
from urllib.parse import SplitResult, quote, unquote, urlsplit

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

__all__ = [
    "MASK",
    "checked_host_map",
    "connection_url",
    "credentials_of",
    "excerpt",
    "invisible_character",
    "origin_of",
    "redact",
    "redact_text",
    "secrets_of",
    "wire_url",
]

MASK: Final = "***"

_SECRETS: Final = frozenset(
    (
        "signature",
        "sig",
        "token",
        "access_token",
        "id_token",
        "api_key",
        "apikey",
        "secret",
        "password",
        "auth",
        "credential",
        "security-token",
        "q-signature",
        "x-cos-security-token",
        "x-oss-credential",
        "x-oss-security-token",
        "x-oss-signature",
    )
)
_SECRET_PREFIXES: Final = ("x-amz-", "x-goog-")
_SIGNATURES: Final = frozenset(
    ("signature", "sig", "x-amz-signature", "x-goog-signature", "x-oss-signature", "q-signature")
)
# They say nothing alone, but change with every signature: a link signed anew must still be the same file.
_COMPANIONS: Final = frozenset(
    (
        *("expires", "policy", "key-pair-id", "awsaccesskeyid", "googleaccessid"),  # S3, CloudFront, Google
        *("se", "sp", "st", "sv", "skt", "ske", "skoid", "sktid", "sks", "skv", "spr", "sip"),  # Azure
        *("ossaccesskeyid", "x-oss-date", "x-oss-expires", "x-oss-signature-version"),  # Alibaba
        *("q-ak", "q-sign-algorithm", "q-sign-time", "q-key-time", "q-header-list", "q-url-param-list"),  # Tencent
    )
)
# How nginx's documentation names the two arguments of secure_link; an "md5" alone says which file is meant.
_SECURE_LINK: Final = frozenset(("md5", "expires"))

#: How the names of those end that are masked with a signature, and say nothing of who signed.
_OPEN_ENDS: Final = ("-algorithm", "-date", "-expires", "-signedheaders")
#: Where a semicolon stands between two parameters: a name follows.
_SEMICOLON = re.compile(r";(?=[^;&=]*=)")
_BETWEEN = re.compile(rf"&|{_SEMICOLON.pattern}")

# In text that may be no URL at all: a login wherever one could stand, also one with "/" in its password (which no
# parser takes for a login), and everything up to the next parameter after the name of a credential.
_LOGIN = re.compile(r"(?<=//)(?:[^/?#]*|[^/?#@\[]*:(?![0-9]*(?:[/?#\s]|$))[^@]*)@|^[^\s/:@?&=]+:[^\s/@]*@")
_SCHEME_AND_SECRET = re.compile(r"\b(bearer|basic|digest|token) +[A-Za-z0-9._~+/=-]{6,}", re.IGNORECASE)
_NAMES = "|".join((*sorted(_SECRETS), *(f"{prefix}[a-z0-9-]*" for prefix in _SECRET_PREFIXES)))
# Before a colon, as in JSON and in headers; a host of such a name and a port are none.
_COLON = r"""(?<!//)(?:{names})\\*["']?\s*:\s*\\*["']?"""
_CREDENTIAL = re.compile(rf"(?<![a-z0-9_-])((?:{_NAMES})=|{_COLON.format(names=_NAMES)})[^&#]*", re.IGNORECASE)
_COMPANION = re.compile(rf"(?<![a-z0-9_-])({'|'.join(sorted(_COMPANIONS))})=[^&#]*", re.IGNORECASE)
_SIGNATURE = re.compile(rf"(?<![a-z0-9_-])(?:{'|'.join(sorted(_SIGNATURES))})=", re.IGNORECASE)
_SECURE = re.compile(rf"(?<![a-z0-9_-])({'|'.join(sorted(_SECURE_LINK))})=[^&#]*", re.IGNORECASE)
_FRAGMENT = re.compile(r"(://[^#\s]*)#\S*")
_ENCODED_NAME_CHARACTER = re.compile(r"%(?:2d|5f|[46][1-9a-f]|[57][0-9a])", re.IGNORECASE)

_DEFAULT_PORTS: Final = {"http": 80, "https": 443}
#: What stands in no host with a port (RFC 3986 section 3.2.2).
_NO_HOST = re.compile(r"[\x00-\x20\x7f\"<>\\^`{|}*@]")
_USERINFO = re.compile(r"^([A-Za-z][A-Za-z0-9+.-]*://)[^/?#]*@")
# What RFC 3986 section 2 lets stand in a request target; everything else is percent-encoded on the way out.
_SENDABLE = re.compile(r"[A-Za-z0-9!$%&'()*+,/:;=?\[\]~._-]+")
_LEGAL = "!#$%&'()*+,/:;=?@[]~-._"
# Between letters of other scripts, or emoji, a joiner or a wide space is a part of the text.
_JOINED = re.compile(r"(?<=[^\x00-\x7f])[\u200c\u200d\u3000](?=[^\x00-\x7f])")
_DEVIATIONS: Final = frozenset("ßς")


def _port(parts: SplitResult) -> int | None:
    return parts.port or _DEFAULT_PORTS.get(parts.scheme.lower())


def origin_of(url: str) -> str:
    """Return ``scheme://host:port`` of a URL (RFC 6454 section 4), lower case, without credentials.

    Examples
    --------
    >>> origin_of("HTTP://user@Warehouse/api?x=1")
    'http://warehouse:80'
    """
    end = url.find("/", 8)
    return _origin(url if end < 0 else url[:end])


@lru_cache(maxsize=4096)
def _origin(head: str) -> str:
    parts = urlsplit(head)
    host = (parts.hostname or "").lower()
    host = f"[{host}]" if ":" in host else host
    port = _port(parts)
    return f"{parts.scheme.lower()}://{host}" + (f":{port}" if port else "")


def redact(url: str) -> str:
    """Return the URL without userinfo and fragment, and with ``***`` for each credential in its query.

    What remains names the file: it is the key of the manifest, and what logs and messages show.

    Examples
    --------
    >>> redact("https://me:pw@host/a.nwb?id=7&token=abc")
    'https://host/a.nwb?id=7&token=***'
    """
    if "@" in url:
        url = _USERINFO.sub(r"\1", url)
    url = url.partition("#")[0]
    head, mark, query = url.partition("?")
    if not mark:
        return url
    if ";" in query:
        return head + mark + _masked_at_semicolons(query)
    pairs = [pair.partition("=") for pair in query.split("&")]
    names = [unquote(name).lower() for name, _, _ in pairs]
    also = _secrets_beside(names)
    shown = (
        f"{pair[0]}={MASK}" if pair[1] and _is_secret(name, also) else "".join(pair)
        for pair, name in zip(pairs, names, strict=True)
    )
    return head + mark + "&".join(shown)


def _secrets_beside(names: Collection[str]) -> frozenset[str]:
    """Return which names are those of secrets where the others are as they are."""
    also = frozenset() if _SIGNATURES.isdisjoint(names) else _COMPANIONS
    return also | _SECURE_LINK if _SECURE_LINK.issubset(names) else also


def _masked_at_semicolons(query: str) -> str:
    """Return a query in which a semicolon may end a parameter; of a secret between ampersands it is a part."""
    also = _secrets_beside([unquote(pair.partition("=")[0]).lower() for pair in _BETWEEN.split(query)])
    if "&" not in query:
        return ";".join(_masked(pair, also) for pair in _SEMICOLON.split(query))
    pieces = (_masked(piece, also) for piece in query.split("&"))
    return "&".join(";".join(_masked(pair, also) for pair in _SEMICOLON.split(piece)) for piece in pieces)


def _masked(pair: str, also: frozenset[str]) -> str:
    name, equals, _ = pair.partition("=")
    return f"{name}={MASK}" if equals and _is_secret(unquote(name).lower(), also) else pair


def _is_secret(name: str, also: frozenset[str]) -> bool:
    return name in _SECRETS or name.startswith(_SECRET_PREFIXES) or name in also


def redact_text(text: str) -> str:
    """Return text that may be no URL, or several, as a message may show it: rather too much is hidden than too little.

    Examples
    --------
    >>> redact_text("see ftp://me:pw@host/a or /api?token=abc")
    'see ftp://host/a or /api?token=***'
    """
    text = _ENCODED_NAME_CHARACTER.sub(lambda match: unquote(match.group()), text)
    text = _FRAGMENT.sub(r"\1", _LOGIN.sub(_names_in, text))
    if _SIGNATURE.search(text):
        text = _COMPANION.sub(rf"\1={MASK}", text)
    if len({found[1].lower() for found in _SECURE.finditer(text)}) == len(_SECURE_LINK):
        text = _SECURE.sub(rf"\1={MASK}", text)
    return _CREDENTIAL.sub(rf"\1{MASK}", text)


def excerpt(said: bytes | str, length: int = 100) -> str:
    """Return how something begins that a server said, as messages show it: servers quote what they were asked for.

    Examples
    --------
    >>> excerpt(b"no such file: /f?token=abc")
    "'no such file: /f?token=***'"
    """
    text = redact_text(said if isinstance(said, str) else said[:4096].decode("latin-1"))
    text = _SCHEME_AND_SECRET.sub(rf"\1 {MASK}", text)
    return repr(text[:length]) if isinstance(said, str) else repr(text[:length].encode("latin-1", "replace"))[1:]


def _names_in(login: re.Match[str]) -> str:
    """Return the names of credentials in what looks like a login: their values may go on after it."""
    return "".join(found[1] for found in _CREDENTIAL.finditer(login.group()) if found[1].endswith("="))


def credentials_of(url: str) -> tuple[str, str] | None:
    """Return user and password that stand in the URL itself, percent-decoded; bytes that are no UTF-8 as surrogates."""
    parts = urlsplit(url)
    if parts.username is None:
        return None
    return unquote(parts.username, errors="surrogateescape"), unquote(parts.password or "", errors="surrogateescape")


def secrets_of(url: str) -> list[str]:
    """Return what is secret in a URL, percent-decoded: its login, and the values of credentials in its query.

    Examples
    --------
    >>> secrets_of("https://me:p%40ss@host/a.nwb?id=7&token=abc")
    ['me', 'p@ss', 'abc']
    """
    found = [*(credentials_of(url) or ())] if "@" in url else []
    query = url.partition("#")[0].partition("?")[2]
    # All that it may be: a semicolon ends a parameter, or is a part of it.
    pairs = [pair.partition("=") for piece in query.split("&") for pair in (piece, *_SEMICOLON.split(piece))]
    names = [unquote(name).lower() for name, _, _ in pairs]
    also = _SECURE_LINK - {"expires"} if _SECURE_LINK.issubset(names) else frozenset()
    found += [
        unquote(value, errors="surrogateescape")
        for (_, _, value), name in zip(pairs, names, strict=True)
        if _is_secret(name, also) and not name.endswith(_OPEN_ENDS)
    ]
    return list(dict.fromkeys(found))


def wire_url(url: str) -> str:
    """Return the URL as it is sent: no userinfo, no fragment, and only what cannot be sent percent-encoded.

    Existing escapes, ``+`` and the case of letters stay as they are.
    """
    if _SENDABLE.fullmatch(url):
        return url
    bare = _USERINFO.sub(r"\1", url).partition("#")[0]
    if not bare.isascii():
        scheme, netloc, tail = _split(bare)
        bare = f"{scheme}://{_ascii_host(netloc)}{tail}"
    return quote(bare, safe=_LEGAL)


def _split(url: str) -> tuple[str, str, str]:
    """Return scheme, authority, and everything after it."""
    scheme, _, rest = url.partition("://")
    end = re.search(r"[/?#]|$", rest)
    cut = end.start() if end else len(rest)
    return scheme, rest[:cut], rest[cut:]


def _ascii_host(netloc: str) -> str:
    """Return the host in its ASCII form (RFC 3490), the port kept."""
    if netloc.isascii():
        return netloc
    host, colon, port = netloc.partition(":")
    # RFC 5891 gives these two letters names of their own; RFC 3490 would lead to the host of another owner.
    if not _DEVIATIONS.isdisjoint(host):
        return ".".join(map(_ascii_label, host.split("."))) + colon + port
    return host.encode("idna").decode("ascii") + colon + port


def _ascii_label(label: str) -> str:
    if _DEVIATIONS.isdisjoint(label):
        return label.encode("idna").decode("ascii")
    return "xn--" + unicodedata.normalize("NFC", label.lower()).encode("punycode").decode("ascii")


def checked_host_map(host_map: Mapping[str, str]) -> dict[str, str]:
    """Return a host map as hosts with or without a port.

    A slash behind says nothing, nor does a scheme; but where the second has one, the first has the same.

    Raises
    ------
    ValueError
        Where a host is none.

    Examples
    --------
    >>> checked_host_map({"http://testwarehouse:9000/": "http://localhost:8080"})
    {'testwarehouse:9000': 'localhost:8080'}
    """
    if not hasattr(host_map, "items"):
        raise ValueError(f"expected a mapping, got {type(host_map).__name__}")
    checked = {}
    for old, new in host_map.items():
        sides = [_host_and_scheme(side) for side in (old, new)]
        same = sides[1][1] in ("", sides[0][1])
        if None in (host for host, _ in sides) or not same:
            got = " and ".join(map(_shown_side, (old, new)))
            raise ValueError(f"expected hosts such as testwarehouse:9000 and localhost:8080, got {got}")
        checked[str(sides[0][0])] = str(sides[1][0])
    return checked


def _shown_side(side: object) -> str:
    return repr(redact_text(side) if isinstance(side, str) else side)


def _host_and_scheme(side: object) -> tuple[str | None, str]:
    """Return one side of a host map without its scheme, None where it is no host, and the scheme."""
    text = side.strip() if isinstance(side, str) else ""
    scheme, separator, rest = text.rpartition("://")
    bare = (rest if separator else text).removesuffix("/")
    try:
        parts = urlsplit(f"http://{bare}")
        good = bool(parts.hostname) and parts.netloc == bare and not _NO_HOST.search(bare) and parts.port != 0
        wire_url(f"http://{bare}/")
    except ValueError:
        good = False
    return (bare if good and scheme.lower() in ("", "http", "https") else None), scheme.lower()


def connection_url(url: str, host_map: Mapping[str, str]) -> str:
    """Return the URL to connect to: ``host_map`` replaces ``host:port``, or a host on any port.

    Examples
    --------
    >>> connection_url("http://testwarehouse:9000/api/1", {"testwarehouse:9000": "localhost:8080"})
    'http://localhost:8080/api/1'
    """
    if not host_map:
        return url
    scheme, netloc, tail = _split(url)
    target = _mapped_netloc(scheme.lower(), netloc.rpartition("@")[2], tuple(host_map.items()))
    return url if target is None else f"{scheme}://{target}{tail}"


@lru_cache(maxsize=1024)
def _mapped_netloc(scheme: str, netloc: str, host_map: tuple[tuple[str, str], ...]) -> str | None:
    table = {old.lower(): new for old, new in host_map}
    parts = urlsplit(f"{scheme}://{netloc}")
    host = (parts.hostname or "").lower()
    host = f"[{host}]" if ":" in host else host
    return table.get(f"{host}:{_port(parts)}") or table.get(host)


def invisible_character(text: str) -> str | None:
    """Return the name of the first control, format or space character that cannot be told by sight, if there is one."""
    if text.isascii() and text.isprintable():
        return None
    for character in _JOINED.sub("", text):
        if character != " " and unicodedata.category(character) in ("Cc", "Cf", "Zl", "Zp", "Zs"):
            return unicodedata.name(character, f"U+{ord(character):04X}")
    return None
