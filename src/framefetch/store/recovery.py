"""What a process that died has left: files without rows, and parts that can be gone on with, or not."""

from __future__ import annotations

import contextlib
import os
import time
from dataclasses import replace
from typing import TYPE_CHECKING

from framefetch.errors import StorageError
from framefetch.store.journal import leftovers, read_journal
from framefetch.store.places import remove, translate_oserror
from framefetch.store.sidecar import KEPT, kept_name, read_sidecar

if TYPE_CHECKING:
    from framefetch.models import Entry
    from framefetch.store.files import FileStore
    from framefetch.store.manifest import Manifest
    from framefetch.store.sidecar import Sidecar

__all__ = ["adopt_intents", "recover"]

LOOKUP_ROWS = 1000


def recover(files: FileStore, manifest: Manifest, private: str) -> int:
    """Adopt by hash the files that dead processes published and did not record; keep parts that can be gone on with.

    A part that waits for a file which is held by now, as that of one process may when another one fetched the file, is
    removed: nobody would ever ask for it.

    Parameters
    ----------
    files : FileStore
        The cache's files.
    manifest : Manifest
        Open for writing.
    private : str
        The cache's private folder.

    Returns
    -------
    int
        How many files were adopted.

    Raises
    ------
    StorageError, ManifestError
        Where it cannot be read or recorded; everything is left for the next process.
    """
    adopted = 0
    try:
        for _, paths in leftovers(private):
            adopted += _adopt(paths, files, manifest)
        _drop_needless(f"{private}/parts", files, manifest)
    except OSError as error:
        failure = translate_oserror(error, "reading what an earlier process left")
        failure.fatal = True
        raise failure from error
    return adopted


def _adopt(paths: list[str], files: FileStore, manifest: Manifest) -> int:
    """Take over what one process left."""
    _keep_parts(paths, files, manifest)
    return adopt_intents(files, manifest, [path for path in paths if path.endswith(".journal")])


def adopt_intents(files: FileStore, manifest: Manifest, journals: list[str]) -> int:
    """Adopt by hash what journals say was published and the manifest does not know; return how many files."""
    adopted = 0
    intents = [entry for journal in journals for entry in read_journal(journal)]
    for start in range(0, len(intents), LOOKUP_ROWS):
        found = _believed(intents[start : start + LOOKUP_ROWS], files, manifest)
        manifest.commit(found)
        adopted += len(found)
    if intents:
        manifest.flush()  # before the journal goes
    return adopted


def _keep_parts(paths: list[str], files: FileStore, manifest: Manifest) -> None:
    """Let parts wait that have a sidecar, and whose files are not held by now; those that stay behind are removed."""
    for path in paths:
        sidecar = read_sidecar(path) if path.endswith(".json") else None
        if sidecar is None or _is_held(sidecar, files, manifest):
            continue
        kept = f"{os.path.dirname(path)}/{kept_name(sidecar.version, sidecar.key, sidecar.path)}"
        with contextlib.suppress(OSError):  # the part itself is gone: it was published
            os.stat(path.removesuffix(".json"), follow_symlinks=False)
            os.replace(path, f"{kept}.json")
            os.replace(path.removesuffix(".json"), kept)


def _drop_needless(folder: str, files: FileStore, manifest: Manifest) -> None:
    """Remove parts that wait for files which are held by now."""
    for name in os.listdir(folder):
        if not (name.startswith(KEPT) and name.endswith(".json")):
            continue
        sidecar = read_sidecar(f"{folder}/{name}")
        if sidecar is not None and _is_held(sidecar, files, manifest):
            remove(f"{folder}/{name}")
            remove(f"{folder}/{name.removesuffix('.json')}")


def _is_held(sidecar: Sidecar, files: FileStore, manifest: Manifest) -> bool:
    """Return whether the file of a part stands where it is recorded, as it was recorded."""
    return any(
        entry.path == sidecar.path and _stands(entry, files)
        for entry in manifest.lookup(sidecar.version, [sidecar.key])
    )


def _stands(entry: Entry, files: FileStore) -> bool:
    recorded = entry.receipt
    try:
        return files.receipt(entry.path, recorded.digests, recorded.verified, recorded.etag) == recorded
    except (OSError, StorageError):
        return False


def _believed(intents: list[Entry], files: FileStore, manifest: Manifest) -> list[Entry]:
    """Return entries for the intents that came true but were not recorded."""
    by_version: dict[str, set[str]] = {}
    for intent in intents:
        by_version.setdefault(intent.version, set()).add(intent.key)
    recorded = {
        (entry.version, entry.key, entry.path): entry.receipt.digests
        for version, keys in by_version.items()
        for entry in manifest.lookup(version, keys)
    }
    latest = {(intent.version, intent.key, intent.path): intent for intent in intents}
    found = []
    for identity, intent in latest.items():
        if recorded.get(identity) == intent.receipt.digests:
            continue
        wanted = intent.receipt
        try:
            # Only a regular file is read: opening a pipe would wait for ever.
            receipt = files.receipt(intent.path, wanted.digests, wanted.verified, wanted.etag)
            if files.hash(intent.path, [digest.algorithm for digest in wanted.digests]) != wanted.digests:
                continue
        except OSError:
            continue
        found.append(replace(intent, receipt=receipt, fetched_at=time.time()))
    return found
