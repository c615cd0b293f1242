"""Intents: which file is about to be renamed to which name, with what digest.

A row of the manifest must never precede its file, so a crash can leave a file without its row. One appended line,
written before the rename, is enough to adopt that file by hash in the next run, also where the table states no
digest. The journal belongs to one process and is emptied whenever the manifest has caught up with it.

A journal carries the token of its process, and that process holds the lock of the same name as long as it lives:
whoever can take the lock knows that the owner is gone.
"""

from __future__ import annotations

import json
import os
import secrets
import threading
from typing import TYPE_CHECKING

from filelock import FileLock, Timeout

from framefetch.models import Digest, Entry, Receipt, Request, Verified

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

__all__ = ["Journal", "leftovers", "read_journal"]

Intent = tuple[Request, tuple[Digest, ...], Verified, "str | None"]

_FLAGS = os.O_WRONLY | os.O_CREAT | os.O_APPEND | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0)


class Journal:
    """The intents of this process.

    Parameters
    ----------
    private : str
        The cache's private folder.
    """

    def __init__(self, private: str) -> None:
        self.token = secrets.token_hex(4)
        self._path = f"{private}/parts/{self.token}.journal"
        self._lock = FileLock(
            f"{private}/locks/{self.token}.lock", thread_local=False
        )  # taken and released by any thread
        self._handle: int | None = None
        self._guard = threading.Lock()

    def open(self) -> None:
        """Take the lock that says this process lives, and begin an empty journal."""
        self._lock.acquire(timeout=0)
        self._handle = os.open(self._path, _FLAGS, 0o666)

    def intend(self, intents: Sequence[Intent]) -> None:
        """Append intents, in one write.

        Raises
        ------
        OSError
            Where the disk refuses.
        """
        if not intents:
            return
        lines = "".join(
            json.dumps([r.version, r.key, r.path, [str(d) for d in digests], verified, etag]) + "\n"
            for r, digests, verified, etag in intents
        )
        with self._guard:
            assert self._handle is not None, "the journal is not open"
            view = memoryview(lines.encode())
            while view:
                view = view[os.write(self._handle, view) :]

    def settle(self) -> None:
        """Forget all intents: the manifest holds them."""
        with self._guard:
            if self._handle is not None:
                os.ftruncate(self._handle, 0)

    def close(self, *, keep: bool = False) -> None:
        """Remove the journal, unless it is still needed, and give up the lock."""
        with self._guard:
            if self._handle is None:
                return
            os.close(self._handle)
            self._handle = None
        if not keep:
            os.unlink(self._path)
        self._lock.release()
        _remove(self._lock.lock_file)


def _remove(path: str) -> None:
    try:
        os.unlink(path)
    except OSError:
        return


def leftovers(private: str) -> Iterator[tuple[str, list[str]]]:
    """Yield the token and the files of each process that is gone, holding its lock meanwhile; then remove them."""
    parts = f"{private}/parts"
    try:
        names = os.listdir(parts)
    except OSError:
        return
    owned: dict[str, list[str]] = {}
    for name in names:
        owned.setdefault(name[:8], []).append(f"{parts}/{name}")
    for token, paths in owned.items():
        lock = FileLock(f"{private}/locks/{token}.lock")
        try:
            lock.acquire(timeout=0)
        except (Timeout, OSError):
            continue
        try:
            yield token, paths
            for path in paths:
                _remove(path)
        finally:
            lock.release()
            _remove(lock.lock_file)


def read_journal(path: str) -> Iterator[Entry]:
    """Yield what a journal intended, as entries without times; a torn last line is passed over."""
    with open(path, encoding="utf-8", errors="replace") as file:
        for line in file:
            try:
                version, key, name, digests, verified, etag = json.loads(line)
                stated = tuple(Digest(*text.split(":", 1)) for text in digests)
                receipt = Receipt(-1, 0, 0, 0, stated, Verified(verified), etag)
            except (ValueError, TypeError):
                continue
            yield Entry(version, key, name, receipt, fetched_at=0.0)
