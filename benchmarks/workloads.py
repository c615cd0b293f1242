"""What is fetched: files made once, the same bytes each time, and the lists that the peers read."""

from __future__ import annotations

import hashlib
import os
import random
import shutil
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import starmap
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

CONNECTIONS = 16
KIB, MIB = 1 << 10, 1 << 20


@dataclass(frozen=True, slots=True)
class FileSet:
    """So many files of one size, served from one folder."""

    names: tuple[str, ...]
    size: int
    digests: tuple[str, ...]

    def first(self, count: int) -> FileSet:
        """Return the first few of them."""
        return replace(self, names=self.names[:count], digests=self.digests[:count])

    @property
    def total(self) -> int:
        """Bytes in all."""
        return self.size * len(self.names)


@dataclass(frozen=True, slots=True)
class Inputs:
    """The same files as a table, a list of URLs, and a curl configuration."""

    table: str
    urls: str
    curl: str


@dataclass(frozen=True, slots=True)
class Transfer:
    """Files to fetch by every peer, and how many times a peer's rate is asked for."""

    name: str
    count: int
    size: int
    targets: tuple[tuple[str, float], ...]


@dataclass(frozen=True, slots=True)
class Probe:
    """Rows to go through by framefetch alone."""

    name: str
    count: int
    says: str


TRANSFERS = (
    Transfer("small", 5_000, 8 * KIB, (("parfive", 8), ("parfive-nosplit", 8), ("prototype", 50))),
    Transfer("large", 64, 8 * MIB, (("parfive", 4), ("parfive-nosplit", 4))),
)
PROBES = (
    Probe("plan", 1_000_000, "rows planned in one process: memory above the table, seconds"),
    Probe("held", 100_000, "files held already: a second run"),
    Probe("limits", 4, "rows meet each fault of the network, all at once: does each end in time?"),
)
QUICK = {"small": 500, "large": 8, "plan": 50_000, "held": 2_000, "limits": 2}


def make_files(folder: str, count: int, size: int) -> FileSet:
    """Write `count` files of `size` bytes, the same bytes each time."""
    _require_space(folder, 2 * count * max(size, 4 * KIB))  # served, and fetched
    random_bytes = random.Random(count * size).randbytes
    names, digests = [], []
    for number in range(count):
        name, body = f"{number:08d}.bin", random_bytes(size)
        with open(os.path.join(folder, name), "wb") as file:
            file.write(body)
        names.append(name)
        digests.append(hashlib.md5(body).hexdigest())
    return FileSet(tuple(names), size, tuple(digests))


def _require_space(folder: str, need: int) -> None:
    free = shutil.disk_usage(folder).free
    if free < need:
        raise OSError(f"{need / MIB:,.0f} MiB are needed and {free / MIB:,.0f} MiB are free; --scratch names a folder")


def write_inputs(files: FileSet, folder: str, url_of: Callable[[str], str]) -> Inputs:
    """Write the lists that the peers read."""
    os.makedirs(folder)
    inputs = Inputs(*(os.path.join(folder, name) for name in ("table.csv", "urls.txt", "urls.curl")))
    urls = [url_of(name) for name in files.names]
    with open(inputs.table, "w") as table:
        table.write("url,size,md5\n")
        table.writelines(f"{url},{files.size},{md5}\n" for url, md5 in zip(urls, files.digests, strict=True))
    with open(inputs.urls, "w") as lines:
        lines.writelines(f"{url}\n" for url in urls)
    with open(inputs.curl, "w") as config:
        config.writelines(f'url = "{url}"\n' for url in urls)
    return inputs


def find_fault(files: FileSet, folder: str) -> str | None:
    """Return what is wrong with a fetched folder, None where every file is there, whole and right."""
    paths = [os.path.join(folder, name) for name in files.names]
    sizes = [os.path.getsize(path) if os.path.isfile(path) else None for path in paths]
    if missing := sizes.count(None):
        return f"{missing} of {len(paths)} files are missing"
    if wrong := sum(size != files.size for size in sizes):
        return f"{wrong} of {len(paths)} files have a wrong size"
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        digests = list(pool.map(_md5_of, paths))
    if wrong := sum(starmap(str.__ne__, zip(digests, files.digests, strict=True))):
        return f"{wrong} of {len(paths)} files have a wrong md5"
    return None


def _md5_of(path: str) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "md5").hexdigest()
