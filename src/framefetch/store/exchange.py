"""The prototype's ``manifest.json`` in and out: ``{version: {url: {"file_path": …, "md5_checksum": …}}}``."""

from __future__ import annotations

import contextlib
import json
import os
import re
import time
from dataclasses import dataclass, field
from itertools import groupby
from operator import attrgetter
from typing import TYPE_CHECKING, Final, TextIO, TypeAlias

from framefetch.errors import FramefetchError, ManifestError, NotAManifest, PlanError
from framefetch.models import Digest, Entry, Receipt, Request, Verified
from framefetch.store.digests import hash_file
from framefetch.store.files import is_private
from framefetch.store.held import unchanged
from framefetch.store.places import held_for, translate_oserror
from framefetch.store.symlinks import FoldersSeen
from framefetch.store.targets import write_target
from framefetch.urls import connection_url, redact

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping
    from typing import Self

    from framefetch.store.files import FileStore
    from framefetch.store.manifest import Manifest

__all__ = ["ImportReport", "Stated", "export_manifest", "import_manifest", "print_manifest", "read_layout"]

COMMIT_ROWS = 256
#: Characters of a file that tell whether it is an older manifest: to parse a large one takes a gigabyte.
BEGIN: Final = 64 << 10
_TEXT: Final = r'"(?:[^"\\]|\\.)*"'
_ENTRY: Final = rf'{_TEXT}\s*:\s*\{{[^{{}}]*"(?:file_path|md5_checksum)"\s*:'
_BEGINS: Final = re.compile(rf"\s*\{{\s*(?:\}}\s*$|{_TEXT}\s*:\s*\{{\s*(?:\}}\s*\}}\s*$|{_ENTRY}))")

_RELATIVE: Final = "a relative file_path is looked for in the cache, beside the manifest and in the working folder"

#: Gives for a version what names its files, by their URLs; raises where it can be no version.
NamesIn: TypeAlias = "Callable[[str], Callable[[str], str]]"


def export_manifest(manifest: Manifest, target: str) -> int:
    """Write the manifest as JSON in the prototype's layout, atomically; its paths are relative to the cache.

    Parameters
    ----------
    manifest : Manifest
        What is recorded.
    target : str
        The file to write; an older one is replaced, through a link too. A device or a pipe is written into.

    Returns
    -------
    int
        How many entries were written.

    Raises
    ------
    PlanError
        Where something else than a manifest stands there.
    StorageError
        Where it cannot be written.
    """
    count = 0

    def write(path: str) -> None:
        nonlocal count
        with open(path, "w", encoding="utf-8") as file:
            count = print_manifest(manifest, file)

    try:
        _require_no_other_file(target)
        write_target(target, write)
    except OSError as error:
        raise translate_oserror(error, f"writing {target}") from error
    return count


def _require_no_other_file(target: str) -> None:
    """Refuse to replace a file that is no manifest in the prototype's layout, as far as its beginning tells.

    Raises
    ------
    PlanError
        Where it is something else.
    OSError
        Where it cannot be read.
    """
    if not os.path.isfile(target):
        return
    with open(target, encoding="utf-8", errors="replace") as file:
        begin = file.read(BEGIN)
    if begin and not _BEGINS.match(begin):
        raise PlanError(
            f"{target}: expected no file yet, or an older manifest to replace, this is another file; remove it first, "
            "or choose another name"
        )


def print_manifest(manifest: Manifest, file: TextIO) -> int:
    """Write the manifest, as `export_manifest` does, to an open file; return how many entries were written.

    Each entry is written when it is read, as `json.dump` with an indent of 1 would write all of them, and a newline.
    """
    count = 0
    before = "{"
    for version, entries in groupby(_newest(manifest), attrgetter("version")):
        file.write(f"{before}\n {_quoted(version)}: {{")
        before = ""
        for entry in entries:
            file.write(
                f"{before}\n  {_quoted(entry.key)}: {{\n"
                f'   "file_path": {_quoted(entry.path)},\n'
                f'   "md5_checksum": {_quoted(entry.digest("md5"))}\n  }}'
            )
            before = ","
            count += 1
        file.write("\n }")
    file.write("\n}\n" if count else "{}\n")
    return count


def _newest(manifest: Manifest) -> Iterator[Entry]:
    """Yield one entry of each key of each version: that of the file that came last; the manifest has them in order."""
    for _, places in groupby(manifest.entries(), attrgetter("version", "key")):
        yield max(places, key=attrgetter("fetched_at", "path"))


def _quoted(text: str | None) -> str:
    return json.dumps(text, ensure_ascii=False)


@dataclass(slots=True)
class ImportReport:
    """What became of each entry of an imported manifest."""

    imported: int = 0
    skipped: list[tuple[str, str]] = field(default_factory=list)
    ended: bool = True


def _never() -> bool:
    return False


@dataclass(frozen=True, slots=True)
class Stated:
    """What a prototype's manifest says of one file, or what it has in the place of that."""

    version: str
    url: str
    path: str = ""
    md5: str = ""
    instead: str = ""


def import_manifest(
    files: FileStore,
    manifest: Manifest,
    source: str,
    host_map: Mapping[str, str],
    names_in: NamesIn,
    stopped: Callable[[], bool] | None = None,
) -> ImportReport:
    """Take over what a prototype's manifest holds, without downloading anything.

    Each file is hashed before it is believed, but for what was imported before and is as it was. URLs that the
    prototype had rewritten to a tunnel are mapped back. A file outside the cache is copied into it and stays where it
    is.

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
    names_in : callable
        Gives for a version what gives the path in the cache for the URL of a file that is copied into it; raises for
        what can be no version.
    stopped : callable, optional
        Whether to end early; asked between two files, and while one is read.

    Returns
    -------
    ImportReport
        With `ended` false where it was stopped.

    Raises
    ------
    NotAManifest, ManifestError
        Where the file is no such manifest, or cannot be read.
    """
    report = ImportReport()
    beside = os.path.dirname(os.path.abspath(source))
    stopped = stopped or _never
    shelf = _Shelf(files, manifest, (files.root, beside, os.getcwd()), names_in, stopped)
    back = {new: old for old, new in host_map.items()}
    with shelf:
        for stated in read_layout(source):
            if stopped():
                report.ended = False
                break
            try:
                shelf.take_over(stated, redact(connection_url(stated.url, back)))
            except InterruptedError:
                report.ended = False
                break
            except (FramefetchError, OSError, ValueError) as error:
                if isinstance(error, FramefetchError) and error.fatal:
                    raise
                report.skipped.append((redact(stated.url), str(error)))
                continue
            report.imported += 1
    manifest.flush()
    return report


def read_layout(source: str) -> list[Stated]:
    """Return what a prototype's manifest states; an entry that says nothing is told by what it is instead.

    Raises
    ------
    NotAManifest, ManifestError
        Where the file is no such manifest, or cannot be read.
    """
    expected = 'expected {"v0": {"http://host/id": {"file_path": "…", "md5_checksum": "…"}}}'
    try:
        with open(source, encoding="utf-8") as file:
            return _some_use(list(_stated_in(json.load(file))))
    except OSError as error:
        raise ManifestError(f"{source}: {error.strerror or error}") from error
    except NotAManifest as error:
        raise NotAManifest(f"{source} is no manifest of the prototype: {expected}; got {error}") from None
    except (ValueError, RecursionError) as error:
        raise NotAManifest(f"{source} is no manifest of the prototype: {expected}; got no JSON: {error}") from error


def _some_use(layout: list[Stated]) -> list[Stated]:
    """Return a layout, unless no entry in it says what it should.

    Raises
    ------
    NotAManifest
        Then.
    """
    if layout and all(stated.instead for stated in layout):
        raise NotAManifest(f"{layout[0].instead} for {redact(layout[0].url)}")
    return layout


def _stated_in(layout: object) -> Iterator[Stated]:
    """Yield what a layout states.

    Raises
    ------
    NotAManifest
        Where it is none: what it is instead.
    """
    for version, entries in _items(layout, ""):
        for url, entry in _items(entries, f" as {version!r}"):
            if not isinstance(entry, dict):
                yield Stated(version, url, instead=type(entry).__name__)
            elif missing := [name for name in ("file_path", "md5_checksum") if name not in entry]:
                yield Stated(version, url, instead=f"no {missing[0]}")
            else:
                yield Stated(version, url, str(entry["file_path"]), str(entry["md5_checksum"]))


def _items(found: object, where: str) -> Iterable[tuple[str, object]]:
    if not isinstance(found, dict):
        raise NotAManifest(f"{type(found).__name__}{where}")
    return found.items()


class _Shelf:
    """Where imported files are looked for, and where they come to stand; at the end of a `with` block all have rows."""

    def __init__(
        self,
        files: FileStore,
        manifest: Manifest,
        folders: tuple[str, ...],
        names_in: NamesIn,
        stopped: Callable[[], bool],
    ) -> None:
        self._files = files
        self._manifest = manifest
        self._folders = folders
        self._names_in = names_in
        self._stopped = stopped
        self._taken: dict[str, str] = {}
        self._copied: set[str] = set()
        self._unrecorded: list[Entry] = []
        self._seen = FoldersSeen(files.root)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: object) -> None:
        try:
            self._record()
        except ManifestError:
            if kind is None:
                raise

    def _record(self) -> None:
        """Hand entries to the manifest: copies that the disk cannot keep may go, what was there before may not."""
        entries, self._unrecorded = self._unrecorded, []
        try:
            self._manifest.commit([entry for entry in entries if entry.path in self._copied], made=True)
        finally:
            self._manifest.commit([entry for entry in entries if entry.path not in self._copied])

    def take_over(self, stated: Stated, key: str) -> None:
        """Take over one file that is what the manifest says, unless there is an entry already."""
        if stated.instead:
            raise ValueError(f"expected a file_path and an md5_checksum, got {stated.instead}")
        name_of = self._names_in(stated.version)  # also where nothing is copied: what is no version is refused
        md5 = Digest("md5", stated.md5.strip().lower())
        if self._is_held(stated.version, key, md5):
            return
        found, seen = self._locate(stated.path, md5)
        inside = os.path.relpath(found, self._files.root).replace(os.sep, "/")
        if inside.startswith("../") or os.path.isabs(inside):
            path = name_of(key)
            receipt = self._bring_in(found, Request(0, stated.version, key, (key,), path, None, (md5,)))
        else:
            path = inside
            receipt = self._files.receipt(path, (md5,), Verified.DIGEST)
            if not unchanged(receipt, seen):
                raise ValueError(f"{path} was changed while it was read")
        self._unrecorded.append(Entry(stated.version, key, path, receipt, time.time()))
        if len(self._unrecorded) >= COMMIT_ROWS:
            self._record()

    def _is_held(self, version: str, key: str, md5: Digest) -> bool:
        for entry in self._manifest.lookup(version, [key]):
            if self._seen.link_above(entry.path):
                continue
            with contextlib.suppress(OSError):
                found = os.lstat(self._files.absolute(entry.path))
                if entry.trusted and md5 in entry.receipt.digests and unchanged(entry.receipt, found):
                    return True
        return False

    def _is_private(self, path: str) -> bool:
        return is_private(os.path.relpath(path, self._files.root).replace(os.sep, "/"))

    def _bring_in(self, found: str, request: Request) -> Receipt:
        """Copy a file from outside, unless it is there already; what is held for another key is never replaced."""
        path, md5 = request.path, request.digests
        self._seen.require_none_above(path)
        owner = self._taken.get(path) or self._manifest.owners([path]).get(path)
        if owner not in (None, request.key):
            raise held_for(path, owner)
        self._taken[path] = request.key
        try:
            receipt = self._files.receipt(path, md5, Verified.DIGEST)
            if owner is not None:
                self._files.own(path, receipt.sight)
            if self._files.hash(path, ["md5"], self._stopped) == md5:
                return receipt
        except InterruptedError:
            raise
        except OSError:
            pass  # there is no file yet; what else may stand there, the copy finds out
        receipt = self._files.copy(found, request)
        self._copied.add(path)
        return receipt

    def _locate(self, path: str, md5: Digest) -> tuple[str, os.stat_result]:
        """Find the right file by an absolute path, or relative to the cache, the manifest or the working folder."""
        candidates = [path] if os.path.isabs(path) else [os.path.join(folder, path) for folder in self._folders]
        there = dict.fromkeys(os.path.realpath(candidate) for candidate in candidates if os.path.isfile(candidate))
        if any(map(self._is_private, there)):  # not even opened: to close a database ends all locks on it
            raise ValueError(f"{path} is a file of the cache's own")
        if not there:
            where = f"no file at {' or '.join(dict.fromkeys(candidates))}"
            raise ValueError(where if os.path.isabs(path) else f"{where}; {_RELATIVE}")
        other = ""
        for candidate in there:
            seen = os.stat(candidate)
            got = hash_file(candidate, ["md5"], self._stopped)
            if got == (md5,):
                return candidate, seen
            other = other or f"expected {md5}, but {candidate} has {got[0]}"
        raise ValueError(other)
