"""What the tests of the store build: requests, bodies, entries, and processes that can be killed."""

import asyncio
import contextlib
import hashlib
import os
import shutil
import sqlite3
import subprocess
import sys
import textwrap
from dataclasses import replace
from pathlib import Path

from framefetch.models import Digest, Entry, Receipt, Request, Verified
from framefetch.store.files import SmallBody
from framefetch.store.folder import CacheFolder
from framefetch.store.tables import COLUMNS, TREES

RECEIPT = Receipt(3, 10, 20, 30, (Digest("md5", "0" * 32),), Verified.LENGTH)


def digest(content: bytes, algorithm: str = "md5") -> Digest:
    return Digest(algorithm, hashlib.new(algorithm, content).hexdigest())


def request(path: str = "v0/1.nwb", *, key: str | None = None, index: int = 0, **stated: object) -> Request:
    key = key or f"http://host/{path.rpartition('/')[2]}"
    return Request(index, path.partition("/")[0], key, (key,), path, **stated)


def small(wanted: Request, content: bytes, **known: object) -> SmallBody:
    return SmallBody(wanted, content, **({"length_known": True} | known))


def row(number: int = 1, **changes: object) -> Entry:
    return replace(Entry("v0", f"http://host/{number}", f"v0/{number}.nwb", RECEIPT, 1.0), **changes)


async def stream(folder: CacheFolder, wanted: Request, *blocks: bytes) -> Receipt:
    """Publish through a part file; the caller of `create` discards it where anything fails."""
    part = await folder.files.create(wanted)
    try:
        for block in blocks:
            await part.write(block)
        return await part.publish(length_known=False, etag=None)
    finally:
        await part.discard()


def hold(folder: CacheFolder, wanted: Request, content: bytes) -> Entry:
    """Publish a file and record it."""
    (receipt,) = asyncio.run(folder.files.save([small(wanted, content)]))
    assert isinstance(receipt, Receipt), receipt
    entry = Entry(wanted.version, wanted.key, wanted.path, receipt, 1.0)
    folder.manifest.commit([entry], made=True)
    folder.manifest.flush()
    return entry


def date(path: str | Path, year: int) -> None:
    """Give a file the date of a last of December, or what its file system can keep that is next to it."""
    seconds = (year - 1970) * 31_556_952 + 31_000_000
    os.utime(path, ns=(seconds * 10**9 + 7, seconds * 10**9 + 7))


def parts(folder: CacheFolder) -> list[str]:
    """Return the parts that lie about; the journal of a live process belongs there."""
    return sorted(name for name in os.listdir(f"{folder.private}/parts") if not name.endswith(".journal"))


def tree(root: Path) -> dict[str, bytes | str]:
    """Return every file below a folder, with its bytes, and every link, with where it leads."""
    return {
        path.relative_to(root).as_posix(): os.readlink(path) if path.is_symlink() else path.read_bytes()
        for path in sorted(root.rglob("*"))
        if path.is_symlink() or path.is_file()
    }


def query(root: str | Path, statement: str) -> list[tuple[object, ...]]:
    """Ask a manifest with a connection of its own: what another process would see."""
    connection = sqlite3.connect(f"{root}/manifest.sqlite")
    try:
        return connection.execute(statement).fetchall()
    finally:
        connection.close()


def age(root: str | Path, schema: int) -> None:
    """Make the tables of a manifest what they were in an older schema."""
    connection = sqlite3.connect(f"{root}/manifest.sqlite", isolation_level=None)
    connection.executescript(f"""
        BEGIN;
        ALTER TABLE entries RENAME TO newer;
        CREATE TABLE entries (
            version TEXT NOT NULL, key TEXT NOT NULL, path TEXT NOT NULL, size INTEGER NOT NULL,
            mtime_ns INTEGER NOT NULL, ctime_ns INTEGER NOT NULL, inode INTEGER NOT NULL, digests TEXT NOT NULL,
            verified TEXT NOT NULL, etag TEXT, fetched_at REAL NOT NULL, window INTEGER NOT NULL,
            PRIMARY KEY (version, key, path)
        ) WITHOUT ROWID;
        INSERT INTO entries SELECT {COLUMNS}, window FROM newer;
        DROP TABLE newer; DROP TABLE poured; DROP TABLE versions; {"".join(f"DROP TABLE {tree};" for tree in TREES)}
        {"CREATE INDEX entries_by_path ON entries (path);" if schema == 2 else ""}
        PRAGMA user_version = {schema};
        COMMIT;
    """)
    connection.close()


def fill(disk: Path) -> Path:
    """Write to a disk until it is full, and return the file that fills it."""
    filler = disk / "filler"
    with filler.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(b"x" * 4096)
    assert shutil.disk_usage(disk).free == 0
    return filler


def descriptors() -> list[str]:
    """Return what this process has open on a disk."""
    found = []
    for name in os.listdir("/proc/self/fd"):
        try:
            found.append(os.readlink(f"/proc/self/fd/{name}"))
        except FileNotFoundError:
            continue
    return sorted(target for target in found if target.startswith("/") and "/fd" not in target)


_PRELUDE = """
import asyncio, os, sys
from framefetch.models import Entry, Receipt
from framefetch.store.folder import CacheFolder
from tests.store.builders import digest, hold, request, row, small, stream

def barrier(word):
    print(word, flush=True)
    assert sys.stdin.readline(), "the test has gone"
"""


class Child:
    """A process that runs a script until it says a word, and goes on, or dies, when it is told to."""

    def __init__(self, script: str, *arguments: object) -> None:
        code = _PRELUDE + textwrap.dedent(script)
        self.process = subprocess.Popen(
            [sys.executable, "-c", code, *map(str, arguments)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=Path(__file__).parents[2],
        )

    def wait_for(self, word: str) -> None:
        assert self.process.stdout is not None
        assert self.process.stdout.readline().strip() == word

    def go_on(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def end(self) -> None:
        """Wait for a good end."""
        assert self.process.wait() == 0

    def close(self) -> None:
        self.kill()
        for pipe in (self.process.stdin, self.process.stdout):
            assert pipe is not None
            pipe.close()
