"""The files that are served, the lists that the peers read, and the check of what was fetched."""

from __future__ import annotations

import gzip
import hashlib
import os
import random
import shutil
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import starmap
from typing import TYPE_CHECKING

from benchmarks.workloads import KIB, MIB

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

HERE = os.path.dirname(os.path.abspath(__file__))
MIX_LIST = os.path.join(HERE, "data", "openneuro_ds001734_mix.txt.gz")
_BLOCK = 4 * MIB
#: What a file takes on the disk beside its bytes.
_OVERHEAD = 4 * KIB


@dataclass(frozen=True, slots=True)
class FileSet:
    """Files served from one folder: names below it, sizes, md5."""

    names: tuple[str, ...]
    sizes: tuple[int, ...]
    digests: tuple[str, ...]

    def first(self, count: int) -> FileSet:
        """Return the first few of them."""
        return FileSet(self.names[:count], self.sizes[:count], self.digests[:count])

    @property
    def total(self) -> int:
        """Bytes in all."""
        return sum(self.sizes)


@dataclass(frozen=True, slots=True)
class Inputs:
    """The same files in each form that a peer reads."""

    base: str
    table: str
    urls: str
    names: str
    nested: bool


def names_and_sizes(count: int, size: int) -> list[tuple[str, int]]:
    """Return what is to be made: files of one size, or where that is 0 the first of the real mix."""
    if size:
        return [(f"{number:08d}.bin", size) for number in range(count)]
    with gzip.open(MIX_LIST, "rt", encoding="utf-8") as file:
        lines = [line.rstrip("\n").split(" ", 1) for line in file]
    chosen = lines if count >= len(lines) else lines[:: len(lines) // count][:count]
    return [(name, int(number)) for number, name in chosen]


def make_files(folder: str, wanted: Sequence[tuple[str, int]], copies: int = 2) -> FileSet:
    """Write files, the same bytes each time and no two alike; there must be room for `copies` of each."""
    _require_space(folder, copies * sum(size + _OVERHEAD for _, size in wanted))
    block = random.Random(1).randbytes(_BLOCK)
    digests = []
    for number, (name, size) in enumerate(wanted):
        path = os.path.join(folder, name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        md5 = hashlib.md5()
        with open(path, "wb") as file:
            for piece in _content(block, number, size):
                file.write(piece)
                md5.update(piece)
        digests.append(md5.hexdigest())
    return FileSet(tuple(name for name, _ in wanted), tuple(size for _, size in wanted), tuple(digests))


def _content(block: bytes, number: int, size: int) -> Iterator[bytes]:
    """Give a file's bytes: each piece begins with a text of its own, so that no two pieces are alike."""
    for piece, start in enumerate(range(0, size, _BLOCK)):
        length = min(_BLOCK, size - start)
        yield (f"{number}.{piece}\n".encode() + block)[:length]


def _require_space(folder: str, need: int) -> None:
    free = shutil.disk_usage(folder).free
    if free < need:
        raise OSError(f"{need / MIB:,.0f} MiB are needed and {free / MIB:,.0f} MiB are free; --scratch names a folder")


def write_inputs(files: FileSet, folder: str, base: str) -> Inputs:
    """Write the lists that the peers read."""
    os.makedirs(folder)
    table, urls, names = (os.path.join(folder, name) for name in ("table.csv", "urls.txt", "names.txt"))
    with open(table, "w", encoding="utf-8") as file:
        file.write("url,path,size,md5\n")
        file.writelines(
            f"{base}/{name},{name},{size},{md5}\n"
            for name, size, md5 in zip(files.names, files.sizes, files.digests, strict=True)
        )
    with open(urls, "w", encoding="utf-8") as file:
        file.writelines(f"{base}/{name}\n" for name in files.names)
    with open(names, "w", encoding="utf-8") as file:
        file.writelines(f"{name}\n" for name in files.names)
    return Inputs(base, table, urls, names, any("/" in name for name in files.names))


def find_fault(files: FileSet, folder: str) -> str | None:
    """Return what is wrong with a fetched folder, None where every file is there, whole and right."""
    paths = [os.path.join(folder, name) for name in files.names]
    sizes = [os.path.getsize(path) if os.path.isfile(path) else None for path in paths]
    if missing := sizes.count(None):
        return f"{missing} of {len(paths)} files are missing"
    if wrong := sum(starmap(int.__ne__, zip(sizes, files.sizes, strict=True))):
        return f"{wrong} of {len(paths)} files have a wrong size"
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        digests = list(pool.map(_md5_of, paths))
    if wrong := sum(starmap(str.__ne__, zip(digests, files.digests, strict=True))):
        return f"{wrong} of {len(paths)} files have a wrong md5"
    return None


def link_all(files: FileSet, source: str, target: str) -> None:
    """Give a folder the files of another one as links to the same bytes: times and sizes are the same too."""
    for folder in {os.path.dirname(name) for name in files.names}:
        os.makedirs(os.path.join(target, folder), exist_ok=True)
    for name in files.names:
        os.link(os.path.join(source, name), os.path.join(target, name))


def _md5_of(path: str) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "md5").hexdigest()
