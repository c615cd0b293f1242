"""How a file is named on disk: one safe relative path for each request, the same on every platform.

A name stays readable: only what some platform cannot store is percent-encoded, in one component of the path, so
nothing in a URL or a cell can climb out of the version's folder. Pure functions on text.
"""

from __future__ import annotations

import hashlib
import re
import sys
import unicodedata
from posixpath import splitext
from typing import TYPE_CHECKING
from urllib.parse import unquote

from framefetch.errors import PlanError, UnsafePath
from framefetch.table.lines import all_match

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["are_plain", "check_version", "default_name", "fold", "safe_component", "safe_path"]

#: Bytes a single name may have on ext4, APFS and NTFS.
COMPONENT_BYTES = 255
#: Bytes of a whole relative path; leaves room for the cache folder below the usual limit of 4,096.
PATH_BYTES = 3072

#: What Windows takes for a device, whatever follows the first dot.
_DEVICE = r"(?i:con|prn|aux|nul|conin\$|conout\$|com[0-9¹²³]|lpt[0-9¹²³])[ ]*(?:[./]|$)"
_DEVICES = re.compile(_DEVICE)
#: A name that is safe as it stands; tried first because nearly all are.
_COMPONENT = rf"(?!{_DEVICE})[A-Za-z0-9_+@=][A-Za-z0-9_+@=,;()!' .-]{{0,180}}(?<![. ])"
_PLAIN = re.compile(_COMPONENT)
#: The same for many that have an extension, each ended by a line feed.
_PLAIN_NAMES = re.compile(
    r"(?:(?!{device})[A-Za-z0-9_+@=](?=[^\n]*\.)[A-Za-z0-9_+@=,;()!' .-]{{0,180}}+(?<![. ])\n)*+".format(
        device=_DEVICE.replace("[./]", r"[./\n]")
    )
)
_PLAIN_PATH = re.compile(rf"(?:{_COMPONENT}/){{0,15}}{_COMPONENT}")
_UNSAFE = re.compile(r"[\x00-\x1f\x7f<>:\"/\\|?*]|[\ud800-\udfff]|[. ]+$|^[-~]")


def _escape(match: re.Match[str]) -> str:
    data = match.group().encode("utf-8", "surrogatepass")
    return "".join(f"%{byte:02X}" for byte in data)


def safe_component(name: str) -> str:
    """Return `name` as one path component that every platform can store.

    Examples
    --------
    >>> safe_component("a:b/c.nwb"), safe_component("CON.nwb"), safe_component("-rf")
    ('a%3Ab%2Fc.nwb', '%43ON.nwb', '%2Drf')
    """
    if _PLAIN.fullmatch(name):
        return name
    name = _UNSAFE.sub(_escape, name)
    if _DEVICES.match(name):
        name = f"%{ord(name[0]):02X}{name[1:]}"
    if len(name.encode()) > COMPONENT_BYTES:
        name = _shortened(name)
    return name


def _shortened(name: str) -> str:
    """Cut a name that is too long: its suffix stays, and a digest of the whole keeps it unique."""
    stem, suffix = splitext(name)
    if len(suffix.encode()) > 32:
        stem, suffix = name, ""
    tail = "-" + hashlib.sha256(name.encode()).hexdigest()[:16] + suffix
    room = COMPONENT_BYTES - len(tail.encode())
    return stem.encode()[:room].decode("utf-8", "ignore") + tail


def _storable(path: str) -> str:
    """Return a path where it is the same bytes on the disk whatever the locale of the day; in ASCII all are.

    Raises
    ------
    UnsafePath
        Where it is not.
    """
    encoding = sys.getfilesystemencoding()
    if path.isascii() or encoding == "utf-8":
        return path
    import locale

    named = locale.setlocale(locale.LC_CTYPE)
    raise UnsafePath(
        f"expected a path in ASCII, as file names are in {encoding} in the locale {named!r}, got {path!r}; "
        "run with PYTHONUTF8=1 or in a UTF-8 locale"
    )


def default_name(basename: str, suffix: str) -> str:
    """Return the file name for the last part of a URL's path.

    It is percent-decoded once where the result is safe, else kept encoded; `suffix` is appended where it has no
    extension.

    Raises
    ------
    UnsafePath
        Where there is no name, it is ``.`` or ``..``, or the file system's encoding cannot be relied on for it.

    Examples
    --------
    >>> default_name("1085755199", ".nwb"), default_name("a%20b.h5", ".nwb"), default_name("a%2Fb.h5", ".nwb")
    ('1085755199.nwb', 'a b.h5', 'a%2Fb.h5')
    """
    name = basename
    if _PLAIN.fullmatch(name) and name.rfind(".") > 0:  # no name that is plain begins with a dot
        return name
    if "%" in basename:
        decoded = unquote(basename, errors="surrogateescape")
        if safe_component(decoded) == decoded and decoded not in ("", ".", ".."):
            name = decoded
    if name in ("", ".", ".."):
        shown = "ends in '/'" if not name else f"ends in {name!r}"
        raise UnsafePath(f"expected a file name at the end of the URL, but it {shown}")
    # As `os.path.splitext` has it, a third as long: dots at the beginning are part of the name.
    has_extension = name[: max(0, name.rfind("."))].strip(".")
    return _storable(safe_component(name if has_extension else name + suffix))


def are_plain(names: Sequence[str]) -> bool:
    """Return whether each of these is its own default name: one look at all of them, as most are."""
    return all_match(_PLAIN_NAMES, names)


def safe_path(path: str) -> str:
    """Return a relative path whose parts are all safe, as path templates make them.

    Raises
    ------
    UnsafePath
        Where the path is empty, absolute, has a part ``.`` or ``..``, or the file system's encoding cannot be relied
        on for it.
    """
    if _PLAIN_PATH.fullmatch(path):
        return path
    if path.startswith(("/", "\\")) or re.match(r"[A-Za-z]:[\\/]", path):
        raise UnsafePath(f"expected a path below the cache, got the absolute path {path!r}")
    parts = [part for part in path.split("/") if part]
    if not parts or path.endswith("/"):
        raise UnsafePath(f"expected a path that ends in a file name, got {path!r}")
    if any(part.strip() in (".", "..") for part in parts):
        raise UnsafePath(f"expected a path below the cache, got {path!r} with '.' or '..' in it")
    safe = "/".join(map(safe_component, parts))
    if len(safe.encode()) > PATH_BYTES:
        raise UnsafePath(f"expected a path of at most {PATH_BYTES} bytes, got {len(safe.encode())}: {path[:80]!r}…")
    return _storable(safe)


def fold(path: str) -> str:
    """Return what two paths share when some file system would take them for the same one."""
    return (
        path.casefold()
        if path.isascii()
        else unicodedata.normalize("NFC", unicodedata.normalize("NFC", path).casefold())
    )


def check_version(version: object) -> str:
    """Return the version label if it can be a folder of its own.

    Raises
    ------
    PlanError
        Where it cannot.
    """
    if (
        not isinstance(version, str)
        or not version
        or safe_component(version) != version
        or version.startswith(".")
        or version[:8].lower() == "manifest"
    ):
        raise PlanError(f"expected a version that can name a folder, such as 'v0', got {version!r}")
    try:
        return _storable(version)
    except UnsafePath as error:
        raise PlanError(f"the version names a folder: {error}") from None
