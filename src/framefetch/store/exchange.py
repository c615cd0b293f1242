"""The prototype's ``manifest.json`` in and out: ``{version: {url: {"file_path": …, "md5_checksum": …}}}``."""

from __future__ import annotations

import json
import os
import secrets
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeAlias

from framefetch.errors import FramefetchError, ManifestError, StorageError
from framefetch.models import Digest, Entry, Request, Verified
from framefetch.urls import connection_url, redact

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from framefetch.store.files import FileStore
    from framefetch.store.manifest import Manifest

__all__ = ["ImportReport", "export_manifest", "import_manifest"]

COMMIT_ROWS = 256

NameFor: TypeAlias = "Callable[[str, str], str]"


def export_manifest(manifest: Manifest, target: str) -> int:
    """Write the manifest as JSON in the prototype's layout, atomically.

    Parameters
    ----------
    manifest : Manifest
        What is recorded.
    target : str
        The file to write; an older one is replaced.

    Returns
    -------
    int
        How many entries were written.

    Raises
    ------
    StorageError
        Where it cannot be written.
    """
    layout: dict[str, dict[str, dict[str, str | None]]] = {}
    count = 0
    for entry in manifest.entries():
        count += 1
        layout.setdefault(entry.version, {})[entry.key] = {
            "file_path": entry.path,
            "md5_checksum": entry.digest("md5"),
        }
    part = f"{target}.{secrets.token_hex(4)}"
    try:
        with open(part, "x", encoding="utf-8") as file:
            json.dump(layout, file, indent=1, ensure_ascii=False)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, target)
    except OSError as error:
        if os.path.lexists(part):
            os.unlink(part)
        raise StorageError(f"writing {target}: {error.strerror or error}") from error
    return count


@dataclass(slots=True)
class ImportReport:
    """What became of each entry of an imported manifest."""

    imported: int = 0
    skipped: list[tuple[str, str]] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class _Stated:
    version: str
    url: str
    path: str
    md5: str


def import_manifest(
    files: FileStore, manifest: Manifest, source: str, host_map: Mapping[str, str], name_for: NameFor
) -> ImportReport:
    """Take over what a prototype's manifest holds, without downloading anything.

    Each file is hashed before it is believed. URLs that the prototype had rewritten to a tunnel are mapped back.
    A file outside the cache is copied into it and stays where it is.

    Parameters
    ----------
    files : FileStore
        The cache's files.
    manifest : Manifest
        Open for writing.
    source : str
        The JSON file.
    host_map : mapping of str to str
        As given to the cache: from the table's host to the one connected to.
    name_for : callable
        Gives the path in the cache for the version and the URL of a file that is copied into it.

    Returns
    -------
    ImportReport

    Raises
    ------
    ManifestError
        Where the file is no such manifest.
    """
    report = ImportReport()
    back = {new: old for old, new in host_map.items()}
    batch: list[Entry] = []
    for stated in _read(source):
        try:
            batch.append(_take_over(files, stated, os.path.dirname(os.path.abspath(source)), back, name_for))
        except (FramefetchError, OSError, ValueError) as error:
            report.skipped.append((redact(stated.url), str(error)))
            continue
        report.imported += 1
        if len(batch) == COMMIT_ROWS:
            manifest.commit(batch)
            batch = []
    manifest.commit(batch)
    manifest.flush()
    return report


def _read(source: str) -> list[_Stated]:
    expected = 'expected {"v0": {"http://host/id": {"file_path": "…", "md5_checksum": "…"}}}'
    try:
        with open(source, encoding="utf-8") as file:
            layout: Any = json.load(file)
        return [
            _Stated(str(version), str(url), str(entry["file_path"]), str(entry["md5_checksum"]))
            for version, entries in layout.items()
            for url, entry in entries.items()
        ]
    except OSError as error:
        raise ManifestError(f"{source}: {error.strerror or error}") from error
    except (ValueError, AttributeError, KeyError, TypeError) as error:
        raise ManifestError(
            f"{source} is no manifest of the prototype: {expected}; got {type(error).__name__}: {error}"
        ) from error


def _take_over(files: FileStore, stated: _Stated, beside: str, back: Mapping[str, str], name_for: NameFor) -> Entry:
    """Return the entry for one file that is what the manifest says."""
    found = _locate(stated.path, (files.root, beside, os.getcwd()))
    md5 = Digest("md5", stated.md5.strip().lower())
    key = redact(connection_url(stated.url, back))
    inside = os.path.relpath(found, files.root).replace(os.sep, "/")
    if not inside.startswith("../") and not os.path.isabs(inside):
        digests = files.hash(inside, ["md5"])
        if digests != (md5,):
            raise ValueError(f"expected {md5}, but {stated.path} has {digests[0]}")
        receipt = files.receipt(inside, digests, Verified.DIGEST)
        return Entry(stated.version, key, inside, receipt, time.time())
    request = Request(0, stated.version, key, (key,), name_for(stated.version, key), None, (md5,))
    return Entry(stated.version, key, request.path, files.copy(found, request), time.time())


def _locate(path: str, folders: tuple[str, ...]) -> str:
    """Find a file by an absolute path, or by one relative to the cache, the manifest or the working folder."""
    candidates = [path] if os.path.isabs(path) else [os.path.join(folder, path) for folder in folders]
    for candidate in candidates:
        if os.path.isfile(candidate):
            return os.path.realpath(candidate)
    raise ValueError(f"no file at {' or '.join(candidates)}")
