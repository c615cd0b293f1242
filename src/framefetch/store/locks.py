"""Which process fetches which file: one byte of one file for each, locked by the system as long as its owner lives.

A lock is a range of one byte at an offset that the file's identity gives (fcntl, POSIX.1-2017), in a file that is
never removed and never has any content. So it costs a system call, leaves nothing behind, and a process that dies
has none; that a lock *file* exists means nothing. POSIX locks belong to a process, hence one table of them for all
caches of a process; unlike those of an open file they do not live on in a child.

Even these calls are too many where a process is alone, as it mostly is: each lets go of the interpreter lock, and with
two for each file a run over many small ones took a fifth longer. So locks are noted, and made only when there is
somebody to see them. Each process that fetches has a note of its own, with its number, its machine and whether it
locks; it touches it once a second, and looks several times a second whether others have come. Whoever comes later waits
until all others say that they lock.

One byte more stands for the process itself. The system frees all bytes of a dead process at once: who gets the lock of
a file because its owner died can also see that it died, and take over what it left of that file.

Where the system has no such locks, or says that this file system has none, files are fetched without: two processes
may then fetch the same one, but each has parts of its own, and a rename replaces a file as a whole.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import socket
import struct
import sys
import threading
import time
from dataclasses import dataclass
from hashlib import blake2b
from typing import TYPE_CHECKING

from framefetch.store.places import remove

if TYPE_CHECKING:
    from collections.abc import Sequence

try:
    import fcntl
except ImportError:  # Windows
    _LOCKS = False
else:
    _LOCKS = True

__all__ = ["NOTE", "FileLocks", "Owner", "Presence", "life_of", "notes", "offset_of", "refuses_locks"]

#: How the note of a process ends; it begins with the token of its journal.
NOTE = ".owner"

_FLAGS = os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0)
_HELD_ELSEWHERE = (errno.EACCES, errno.EAGAIN)
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP, errno.EINVAL)
#: A byte that stands for no file.
_PROBE = 1 << 62
#: struct flock of Linux with 64 bits: type, whence, start, length, process. Elsewhere nobody is told who has a lock.
_FLOCK = struct.Struct("hh4xqqi4x") if sys.platform == "linux" and sys.maxsize > 1 << 32 else None


def offset_of(version: str, key: str) -> int:
    """Return the byte that stands for a file; two files in 2^62 share one, and then merely wait for each other."""
    digest = blake2b(f"{version}\0{key}".encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 2


def life_of(token: str) -> int:
    """Return the byte that stands for a process, by the token of its journal."""
    return offset_of("", token)  # no version is empty


def refuses_locks(error: Exception) -> bool:
    """Return whether an error says that a file system knows no locks, not that this one cannot be had."""
    return isinstance(error, NotImplementedError) or (isinstance(error, OSError) and error.errno in _NO_LOCKS)


def notes(private: str) -> list[str]:
    """Return the tokens of all that have a note in a cache."""
    try:
        return [name.removesuffix(NOTE) for name in os.listdir(f"{private}/locks") if name.endswith(NOTE)]
    except OSError:
        return []


class _Table:
    """The locks that this process has in one lock file; shared by all its caches that are open on it."""

    def __init__(self, handle: int, identity: tuple[int, int]) -> None:
        self.handle = handle
        self.identity = identity
        self.users = 0
        self.held: set[int] = set()
        self.engaged = False


_tables: dict[tuple[int, int], _Table] = {}
_guard = threading.Lock()


def _forget_after_fork() -> None:
    global _guard  # noqa: PLW0603 - a child has none of its parent's locks, and must not wait for its threads
    _guard = threading.Lock()
    _tables.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_after_fork)


class FileLocks:
    """The locks of one run.

    Parameters
    ----------
    private : str
        The cache's private folder.

    Attributes
    ----------
    obstacle : str
        Why there are none; empty where there are.
    """

    def __init__(self, private: str) -> None:
        self._path = f"{private}/locks/files"
        self._table: _Table | None = None
        self.obstacle = "" if _LOCKS else "this system has no locks of byte ranges"

    def open(self) -> None:
        """Open the lock file.

        Raises
        ------
        OSError
            Where it cannot be made.
        """
        with _guard:
            table = _tables.get(_identity(self._path))
            if table is None:  # never opened twice: closing either would end all locks that this process has in it
                handle = os.open(self._path, _FLAGS, 0o666)
                table = _Table(handle, _identity(handle))
                _tables[table.identity] = table
            table.users += 1
            self._table = table
            if self._lock(table, _PROBE):
                self._unlock(table, _PROBE)

    @property
    def engaged(self) -> bool:
        """Whether others can see what is locked."""
        return self._table is not None and self._table.engaged

    def engage(self) -> None:
        """Let others see what is locked, and what will be."""
        with _guard:
            table = self._table
            assert table is not None
            table.engaged = True
            for offset in table.held:
                self._lock(table, offset)

    def acquire(self, offset: int) -> bool:
        """Lock a byte; False where it is locked already, by whatever process or cache."""
        with _guard:
            table = self._table
            assert table is not None
            if offset in table.held or (table.engaged and not self._lock(table, offset)):
                return False
            table.held.add(offset)
            return True

    def disregard(self, offset: int) -> None:
        """Take a byte that somebody has locked who gives no sign of life."""
        with _guard:
            assert self._table is not None
            self._table.held.add(offset)

    def _lock(self, table: _Table, offset: int) -> bool:
        """Ask the system for a byte; True also where it has no locks to give."""
        if self.obstacle:
            return True
        try:
            fcntl.lockf(table.handle, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, offset)
        except OSError as error:
            if error.errno in _HELD_ELSEWHERE:
                return False
            self.obstacle = f"this file system has no locks that work: {error.strerror or error}"
        return True

    def release(self, offsets: Sequence[int]) -> None:
        """Give bytes back that this cache has locked."""
        with _guard:
            table = self._table
            if table is None:
                return
            if table.engaged:
                for offset in table.held.intersection(offsets):
                    self._unlock(table, offset)
            table.held.difference_update(offsets)

    def _unlock(self, table: _Table, offset: int) -> None:
        if not self.obstacle:
            with contextlib.suppress(OSError):  # what cannot be unlocked is unlocked when this process ends
                fcntl.lockf(table.handle, fcntl.LOCK_UN, 1, offset)

    def is_locked(self, offset: int) -> bool:
        """Return whether anybody has a byte; True also where the system does not tell."""
        return self._ask(offset)[0]

    def holder(self, offset: int) -> int | None:
        """Return the number of the process that has a byte, where the system tells."""
        locked, process = self._ask(offset)
        return process if locked and process > 0 else None

    def _ask(self, offset: int) -> tuple[bool, int]:
        """Return whether a byte is locked, and by whom; True and 0 where the system does not tell."""
        table = self._table
        if table is not None and offset in table.held:
            return True, os.getpid()
        if table is None or _FLOCK is None:
            return True, 0
        question = _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, offset, 1, 0)
        try:
            answer = fcntl.fcntl(table.handle, fcntl.F_GETLK, question)
        except OSError:
            return True, 0
        kind, *_, process = _FLOCK.unpack(answer)
        return kind != fcntl.F_UNLCK, process

    def close(self) -> None:
        """Let the lock file go, when nothing is locked any more; closing twice is fine."""
        with _guard:
            table, self._table = self._table, None
            if table is None:
                return
            table.users -= 1
            if not table.users:
                _tables.pop(table.identity, None)
                with contextlib.suppress(OSError):  # nothing was written
                    os.close(table.handle)


def _identity(file: str | int) -> tuple[int, int]:
    try:
        found = os.fstat(file) if isinstance(file, int) else os.lstat(file)
    except OSError:
        return 0, 0
    return found.st_dev, found.st_ino


@dataclass(frozen=True, slots=True)
class Owner:
    """A process that fetches into this cache: token, number, machine, whether it locks, last sign of life."""

    token: str
    process: int
    machine: str
    locks: bool
    touched_ns: int

    def __str__(self) -> str:
        """Return how a message names it."""
        return f"process {self.process} on {self.machine}"


class Presence:
    """The note of this process, among those of others; there while it fetches.

    Parameters
    ----------
    private : str
        The cache's private folder.
    token : str
        The token of this process's journal.
    """

    def __init__(self, private: str, token: str) -> None:
        self._private = private
        self._folder = f"{private}/locks"
        self._name = f"{token}{NOTE}"
        self._machine = socket.gethostname()
        self.life = life_of(token)
        self._guard = threading.Lock()
        self._runs = 0
        self._touched = 0.0
        #: What the note says of us.
        self.locks = False

    def open(self, *, locks: bool) -> None:
        """Write the note, for one run more.

        Raises
        ------
        OSError
            Where the disk refuses.
        """
        with self._guard:
            if not self._runs:
                self._write(locks=locks)
            self._runs += 1

    def tell_of_locks(self) -> None:
        """Write the note anew: from now on others can see what is locked.

        Raises
        ------
        OSError
            Where the disk refuses.
        """
        with self._guard:
            if self._runs:
                self._write(locks=True)

    def _write(self, *, locks: bool) -> None:
        """Write the note in place, always in as many bytes: nobody sees half of it, and a full disk has room for it."""
        note = {"process": os.getpid(), "machine": self._machine, "locks": int(locks)}
        handle = os.open(f"{self._folder}/{self._name}", _FLAGS, 0o666)
        try:
            os.write(handle, json.dumps(note).encode())
        finally:
            os.close(handle)
        self.locks = locks

    @property
    def is_shared(self) -> bool:
        """Whether several runs of this process fetch."""
        return self._runs > 1

    def touch(self) -> None:
        """Give a sign of life, once a second."""
        now = time.monotonic()
        if now - self._touched >= 1:
            self._touched = now
            with contextlib.suppress(OSError):  # at worst the others stop waiting
                os.utime(f"{self._folder}/{self._name}")

    def others(self) -> list[Owner]:
        """Return whose notes lie here besides ours."""
        tokens = [token for token in notes(self._private) if f"{token}{NOTE}" != self._name]
        return [owner for token in tokens if (owner := _read(self._folder, token))]

    def close(self) -> bool:
        """Remove the note, and return True, if no other run needs it."""
        with self._guard:
            self._runs -= 1
            if self._runs:
                return False
            remove(f"{self._folder}/{self._name}")
            self.locks = False
            return True


def _read(folder: str, token: str) -> Owner | None:
    try:
        with open(f"{folder}/{token}{NOTE}", encoding="utf-8", errors="replace") as file:
            text = file.read()
            touched = os.fstat(file.fileno()).st_mtime_ns
    except OSError:
        return None  # gone
    try:
        note = json.loads(text)
        return Owner(token, int(note["process"]), str(note["machine"]), bool(note["locks"]), touched)
    except (ValueError, KeyError, TypeError):
        return Owner(token, 0, "an unknown machine", locks=False, touched_ns=touched)  # it is being written
