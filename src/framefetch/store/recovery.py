"""What a process that died has left: files without rows, and parts that can be gone on with, or not."""

from __future__ import annotations

import contextlib
import os
import time
from dataclasses import replace
from typing import TYPE_CHECKING

from framefetch.store.journal import leftovers, read_journal
from framefetch.store.kept import is_overtaken, kept_parts
from framefetch.store.places import remove, translate_oserror
from framefetch.store.sidecar import kept_name, read_sidecar
from framefetch.store.symlinks import FoldersSeen

if TYPE_CHECKING:
    from framefetch.models import Entry
    from framefetch.store.files import FileStore
    from framefetch.store.manifest import Manifest

__all__ = ["adopt_intents", "drop_overtaken", "recover"]

LOOKUP_ROWS = 1000


def recover(files: FileStore, manifest: Manifest, private: str) -> None:
    """Adopt by hash the files that dead processes published and did not record; keep parts that can be gone on with.

    Parameters
    ----------
    files : FileStore
        The cache's files.
    manifest : Manifest
        Open for writing.
    private : str
        The cache's private folder.

    Raises
    ------
    StorageError, ManifestError
        Where it cannot be read or recorded; everything is left for the next process.
    """
    try:
        for paths in leftovers(private):
            _keep_parts(paths, files, manifest)
            adopt_intents(files, manifest, [path for path in paths if path.endswith(".journal")])
    except OSError as error:
        failure = translate_oserror(error, "reading what an earlier process left")
        failure.fatal = True
        raise failure from error


def adopt_intents(files: FileStore, manifest: Manifest, journals: list[str]) -> None:
    """Adopt by hash what journals say was published and the manifest does not know."""
    intents = [entry for journal in journals for entry in read_journal(journal)]
    for start in range(0, len(intents), LOOKUP_ROWS):
        manifest.commit(_believed(intents[start : start + LOOKUP_ROWS], files, manifest), made=True)
    if intents:
        manifest.flush()  # before the journal goes


def _keep_parts(paths: list[str], files: FileStore, manifest: Manifest) -> None:
    """Let parts wait that have bytes, and a sidecar, and whose files nobody has brought since; others are removed."""
    for path in paths:
        sidecar = read_sidecar(path) if path.endswith(".json") else None
        if sidecar is None:
            continue
        identity, part = (sidecar.version, sidecar.key, sidecar.path), path.removesuffix(".json")
        with contextlib.suppress(OSError):  # the part itself is gone: it was published
            found = os.lstat(part)
            if found.st_size and not is_overtaken(files, manifest, identity, found):
                kept = f"{os.path.dirname(path)}/{kept_name(*identity)}"
                os.replace(path, f"{kept}.json")
                os.replace(part, kept)


def drop_overtaken(files: FileStore, manifest: Manifest) -> None:
    """Remove parts that wait for files which somebody else has brought since: nobody would ever ask for them."""
    for part, version, key, path, found in kept_parts(files):
        if is_overtaken(files, manifest, (version, key, path), found):
            remove(part)
            remove(f"{part}.json")


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
    folders = FoldersSeen(files.root)
    for identity, intent in latest.items():
        if recorded.get(identity) == intent.receipt.digests or folders.link_above(intent.path):
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
