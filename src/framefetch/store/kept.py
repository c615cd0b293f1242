"""Parts that wait to be gone on with, by the name of the file they will be.

A part is taken by renaming it to a name of the taker's own, so of several processes one gets it. What it holds is
digested again before a byte is added, unless this process left it and a stat says that it is as it was left.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from framefetch.store.clock import written_by
from framefetch.store.digesting import OPEN_OLD, DigestingFile
from framefetch.store.digests import algorithms_for
from framefetch.store.extents import Extents
from framefetch.store.held import unchanged
from framefetch.store.places import remove
from framefetch.store.sidecar import KEPT, Sidecar, believed_length, kept_name, read_sidecar

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from framefetch.models import Request
    from framefetch.store.files import FileStore
    from framefetch.store.manifest import Manifest
    from framefetch.store.parts import Left

__all__ = ["KeptParts", "is_overtaken", "kept_parts"]


class KeptParts:
    """The waiting parts of one cache.

    Parameters
    ----------
    folder : str
        Where parts lie.
    boot : str
        The boot of the machine.
    """

    def __init__(self, folder: str, boot: str) -> None:
        self._folder = folder
        self._boot = boot
        #: Only ever asked where there are some: most runs have none.
        self._names: set[str] = set()
        self._left: dict[str, tuple[Left, tuple[int, int, int]]] = {}

    def scan(self) -> None:
        """Look what there is; blocking."""
        names = {name for name in os.listdir(self._folder) if name.startswith(KEPT)}
        self._names = {name for name in names if f"{name}.json" in names}
        for name in names - self._names:
            if name.removesuffix(".json") not in self._names:
                remove(f"{self._folder}/{name}")  # a crash parted it from its other half

    def learn(self) -> None:
        """Look what has come since; blocking, while other threads take parts and leave some."""
        names = set(os.listdir(self._folder))
        self._names.update(name for name in names if name.startswith(KEPT) and f"{name}.json" in names)

    def has(self, request: Request) -> bool:
        """Return whether there is a part of a request."""
        return bool(self._names) and kept_name(request.version, request.key, request.path) in self._names

    def waiting(self, requests: Iterable[Request]) -> int:
        """Return how many bytes the parts of these requests take on the disk; blocking."""
        if not self._names:
            return 0
        return sum(self._taken(request) for request in requests if self.has(request))

    def _taken(self, request: Request) -> int:
        try:
            found = os.stat(f"{self._folder}/{kept_name(request.version, request.key, request.path)}")
        except OSError:
            return 0
        return getattr(found, "st_blocks", 0) * 512  # its size may count gaps

    def keep(self, part: str, request: Request, left: Left) -> None:
        """Let a part wait, with what was digested of it; blocking.

        Raises
        ------
        OSError
            Where the disk refuses.
        """
        name = kept_name(request.version, request.key, request.path)
        kept = f"{self._folder}/{name}"
        os.replace(f"{part}.json", f"{kept}.json")
        os.replace(part, kept)
        self._left[name] = left, _seen(os.stat(kept))
        self._names.add(name)

    def take(self, request: Request, path: str) -> tuple[DigestingFile, Sidecar] | None:
        """Take the part of a request, under a new name; None where there is none that can be believed. Blocking.

        Raises
        ------
        OSError
            Where the disk refuses.
        """
        name = kept_name(request.version, request.key, request.path)
        self._names.discard(name)
        try:
            os.rename(f"{self._folder}/{name}", path)
            os.rename(f"{self._folder}/{name}.json", f"{path}.json")
        except FileNotFoundError:  # another process was faster
            remove(path)
            return None
        sidecar = read_sidecar(f"{path}.json")
        raw: DigestingFile | None = None
        if sidecar is not None and sidecar.is_for(request):
            try:
                raw = self._opened(name, path, request, sidecar)
            except OSError:
                raw = None  # not a file, or not to be read: whatever it is, nothing is lost by fetching it again
        if raw is None or sidecar is None:
            remove(path)
            remove(f"{path}.json")
            return None
        return raw, sidecar

    def _opened(self, name: str, path: str, request: Request, sidecar: Sidecar) -> DigestingFile | None:
        raw = DigestingFile(path, algorithms_for(request.digests), OPEN_OLD)
        try:
            found = os.fstat(raw.fileno())
            left, seen = self._left.pop(name, (None, None))
            if left is not None and seen == _seen(found) and left.hasher.algorithms == raw.algorithms:
                raw.go_on_as_left(left.hasher, left.extents)
            else:
                believed = believed_length(sidecar, found.st_size, self._boot)
                raw.go_on(believed, sidecar.proofs, _out_of_order(sidecar, found.st_size, self._boot))
        except BaseException:
            raw.close()
            raise
        if raw.hasher.length:
            return raw
        raw.close()
        return None


def _out_of_order(sidecar: Sidecar, size: int, boot: str) -> Extents | None:
    """Return what a killed process noted of bytes out of order, None where it is nothing or not believed."""
    if not sidecar.extents or sidecar.boot != boot or any(stop > size for _, stop in sidecar.extents):
        return None
    return Extents(sidecar.extents)


def _seen(found: os.stat_result) -> tuple[int, int, int]:
    return found.st_ino, found.st_size, found.st_mtime_ns


def kept_parts(files: FileStore) -> Iterator[tuple[str, str, str, str, os.stat_result]]:
    """Yield the unfinished files that wait to be gone on with: where, version, key, path, and a stat."""
    folder = os.path.join(files.root, ".framefetch", "parts")
    try:
        names = sorted(name for name in os.listdir(folder) if name.startswith(KEPT) and not name.endswith(".json"))
    except OSError:
        return
    for name in names:
        sidecar = read_sidecar(f"{folder}/{name}.json")
        try:
            found = os.lstat(f"{folder}/{name}")
        except OSError:
            continue
        if sidecar is not None:
            yield f"{folder}/{name}", sidecar.version, sidecar.key, sidecar.path, found


def is_overtaken(files: FileStore, manifest: Manifest, identity: tuple[str, str, str], part: os.stat_result) -> bool:
    """Return whether the file of a part, by version, key and path, was brought since the part was last written to.

    A part that is younger than the file belongs to another version of it, or to one that was edited and put back: for
    some reason it was being fetched again.
    """
    version, key, path = identity
    try:
        found = os.lstat(files.absolute(path))
    except OSError:
        return False
    return part.st_mtime_ns <= written_by(found.st_mtime_ns) and any(
        entry.path == path and unchanged(entry.receipt, found) for entry in manifest.lookup(version, [key])
    )
