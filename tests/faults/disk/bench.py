"""A process between shim and disk, as the tests see it."""

import enum
import errno
import hashlib
import json
import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from framefetch.warehouse import WarehouseThread

HERE = Path(__file__).parent
FOR_EVER = 1 << 40


class Kind(enum.IntFlag):
    """Kinds of calls, as in shim.c."""

    CREATE = 1
    OPEN = 2
    WRITE = 4
    SIZE = 8
    CLOSE = 16
    SYNC = 32
    RENAME = 64
    UNLINK = 128
    READ = 256
    SOCKET = 512
    #: What needs room on the disk.
    GROWING = CREATE | WRITE | CLOSE | SYNC
    #: What changes something.
    CHANGING = GROWING | SIZE | RENAME | UNLINK
    ANY = CHANGING | OPEN | READ
    #: What a folder may deny.
    NAMES = CREATE | OPEN | RENAME | UNLINK
    #: What takes a descriptor.
    OPENING = CREATE | OPEN | SOCKET


class Mode(enum.IntEnum):
    """What happens to a call, as in shim.c."""

    OFF = 0
    FAIL = 1
    SHORT = 2
    KILL = 3


@dataclass(frozen=True)
class Fault:
    """What happens to the calls of some kinds: from number `at` on, `times` times."""

    kinds: Kind = Kind.ANY
    mode: Mode = Mode.OFF
    error: int = 0
    times: int = 1

    def armed(self, root: Path, at: int, log: Path | None = None) -> list[object]:
        last = min(at + self.times - 1, FOR_EVER)
        return [str(root), int(self.kinds), at, last, int(self.mode), self.error, None if log is None else str(log)]

    def __str__(self) -> str:
        often = {1: "once", FOR_EVER: "for ever"}.get(self.times, f"{self.times} times")
        return f"{errno.errorcode.get(self.error, self.mode.name)} {often}"


@dataclass(frozen=True)
class Ended:
    """How a run ended."""

    code: int | None
    hung: bool
    took: float | None
    calls: int
    struck: int
    call: str
    path: str
    said: str


def spread(count: int, wanted: int) -> list[int]:
    """Return so many numbers from 1 to a count, evenly; all of them where more are wanted."""
    if wanted >= count:
        return [*range(1, count + 1)]
    return [1 + at * (count - 1) // max(1, wanted - 1) for at in range(wanted)]


class Bench:
    """Forks of a process that runs the command line."""

    def __init__(self, folder: Path) -> None:
        library = folder / "shim.so"
        words = ["gcc", "-shared", "-fPIC", "-O1", "-o", library, HERE / "shim.c", "-ldl", "-lpthread"]
        subprocess.run(words, check=True)
        self._out = folder / "said"
        more = {"LD_PRELOAD": str(library), "OPENBLAS_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
        self._process = subprocess.Popen(
            [sys.executable, HERE / "runner.py"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | more,
        )

    def run(self, *words: object, **order: object) -> Ended:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        order |= {"words": list(map(str, words)), "out": str(self._out)}
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        return Ended(**json.loads(self._process.stdout.readline()), said=self._out.read_text(errors="replace"))

    def close(self) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait()
        self._process.stdout.close()


@dataclass
class Stock:
    """A table of files, and what their bytes are: by final name below the cache."""

    table: Path
    contents: Mapping[str, bytes]

    def __post_init__(self) -> None:
        self.digests = {path: hashlib.md5(content).hexdigest() for path, content in self.contents.items()}

    @classmethod
    def of(cls, warehouse: WarehouseThread, table: Path, contents: Mapping[str, bytes]) -> Self:
        """Put files into a warehouse, and their addresses into a table."""
        urls = [warehouse.add(cls.target(path), content, etag='"one"') for path, content in contents.items()]
        table.write_text("\n".join(["url", *urls, ""]))
        return cls(table, contents)

    @staticmethod
    def target(path: str) -> str:
        """Return where the warehouse has the file of a final name."""
        return path.removeprefix("v0")

    def wrong(self, root: Path) -> list[str]:
        """Return final names below which stand bytes that are not those of the file."""
        found = {path: root / path for path in self.contents}
        return [path for path, file in found.items() if file.exists() and file.read_bytes() != self.contents[path]]

    def whole(self, root: Path) -> set[str]:
        """Return the files that stand whole under their final names."""
        wrong = set(self.wrong(root))
        return {path for path in self.contents if (root / path).exists()} - wrong

    def lies(self, root: Path) -> list[str]:
        """Return what is recorded and not so; asks SQLite itself, and reads every byte."""
        lies = []
        for path, size, digests in recorded(root):
            try:
                content = (root / path).read_bytes()
            except FileNotFoundError:
                lies.append(f"{path} is recorded and not there")
                continue
            if len(content) != size or digests != f"md5:{self.digests[path]}":
                lies.append(f"{path} is recorded with {digests} of {size} bytes, which is not the file")
            elif content != self.contents[path]:
                lies.append(f"{path} is recorded and has other bytes")
        return lies


def recorded(root: Path) -> list[tuple[str, int, str]]:
    """Return path, size and digests of every row; of a copy, so that the cache is left as it is."""
    if not (root / "manifest.sqlite").exists():
        return []
    copy = root.parent / f"{root.name}-copy"
    copy.mkdir(exist_ok=True)
    for name in ("manifest.sqlite", "manifest.sqlite-wal", "manifest.sqlite-journal"):
        if (root / name).exists():
            shutil.copy(root / name, copy / name)
    try:
        connection = sqlite3.connect(copy / "manifest.sqlite")
        try:
            assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
            if not connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
                return []
            return connection.execute("SELECT path, size, digests FROM entries").fetchall()
        finally:
            connection.close()
    finally:
        shutil.rmtree(copy)


def audit_and_go_on(
    bench: Bench, stock: Stock, warehouse: WarehouseThread, root: Path, ended: Ended, words: str
) -> None:
    """Look at what a run has left; then run again, undisturbed: all is held, nothing that was there is asked for."""
    assert not ended.hung, f"{words}: it hung"
    assert "Traceback" not in ended.said, f"{words}: {ended.said}"
    assert stock.wrong(root) == [], words
    # A disk that lost files and takes nothing more keeps their rows as well; that a file is gone costs a stat to see.
    told = "could not keep them" in ended.said
    assert [lie for lie in stock.lies(root) if not (told and lie.endswith("not there"))] == [], words
    before = stock.whole(root)
    asked = {path: warehouse.count(stock.target(path)) for path in before}
    again = bench.run("mirror", stock.table, root)
    assert again.code == 0, f"{words}; then {again.said}"
    assert stock.whole(root) == set(stock.contents), words
    assert {path for path, _, _ in recorded(root)} == set(stock.contents), words
    assert stock.lies(root) == [], words
    assert {path: warehouse.count(stock.target(path)) for path in before} == asked, f"{words}: fetched twice"
    left = os.listdir(root / ".framefetch" / "parts")
    assert left == [], f"{words}: it left {left}"
    looked = bench.run("verify", root, "--hash")
    assert looked.code == 0, f"{words}: {looked.said}"
