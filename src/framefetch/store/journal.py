"""Intents: which file is about to be renamed to which name, with what digest.

A row of the manifest must never precede its file, so a crash can leave a file without its row. One appended line,
written before the rename, is enough to adopt that file by hash in the next run, also where the table states no
digest. The journal belongs to one process. It is emptied at the end of a run, and in a long one it is written anew, now
and then, with only those intents whose rows a power cut could still take: what the next process has to read after a
crash does not grow with what was fetched before it.

A journal carries the token of its process, and that process holds the lock of the same name as long as it lives:
whoever can take the lock knows that the owner is gone.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import threading
from json.encoder import encode_basestring_ascii as _quoted
from typing import TYPE_CHECKING, Final

from filelock import FileLock, Timeout

from framefetch.errors import StorageError
from framefetch.models import Digest, Entry, Receipt, Request, Verified
from framefetch.native.calls import write_all
from framefetch.store.locks import NOTE, notes, refuses_locks
from framefetch.store.partpaths import folder_owner, remove_folder
from framefetch.store.places import remove

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

__all__ = ["Intent", "Journal", "intents_for", "leftovers", "read_journal"]

Intent = tuple[Request, tuple[Digest, ...], Verified, "str | None"]

#: What a process leaves is named after its token: its journal, its parts and their sidecars.
_NAME = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]+(?:\.json(?:\.new)?)?|\.journal(?:\.new)?)$")
#: Intents that came true, and are at least half of a journal, after which it is written anew.
SPENT: Final = 4096
_FLAGS = os.O_WRONLY | os.O_CREAT | os.O_APPEND | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0)


class Journal:
    """The intents of this process.

    Parameters
    ----------
    private : str
        The cache's private folder.

    Attributes
    ----------
    token : str
        The name of this process in the private folder.
    path : str
        The journal.
    """

    def __init__(self, private: str) -> None:
        self.token = os.urandom(4).hex()
        self.path = f"{private}/parts/{self.token}.journal"
        self._lock = FileLock(
            f"{private}/locks/{self.token}.lock", thread_local=False
        )  # taken and released by any thread
        self._handle: int | None = None
        self._torn = False
        self._lines = 0
        self._spent: set[str] = set()
        self._guard = threading.Lock()

    def open(self) -> None:
        """Take the lock that says this process lives, and begin an empty journal."""
        try:
            self._lock.acquire(timeout=0)
        except (OSError, NotImplementedError) as error:
            if isinstance(error, Timeout) or not refuses_locks(error):
                raise
        try:
            self._handle = os.open(self.path, _FLAGS, 0o666)
        except OSError:
            self._let_go()
            raise

    def intend(self, intents: Sequence[Intent]) -> None:
        """Append intents, in one write.

        Raises
        ------
        OSError
            Where the disk refuses.
        """
        if not intents:
            return
        lines = "".join([_line(*intent) for intent in intents])
        with self._guard:
            if self._handle is None:
                raise StorageError("the cache is not open for writing")
            # A line that a full disk has torn must not swallow the next one.
            text = ("\n" if self._torn else "") + lines
            self._torn = True
            write_all(self._handle, text.encode())
            self._torn = False
            self._lines += len(intents)
            self._spent.difference_update([request.path for request, *_ in intents])

    def recorded(self, paths: Iterable[str]) -> None:
        """Forget, before long, the intents of files whose rows no power cut can take any more."""
        with self._guard:
            self._spent.update(paths)
            if len(self._spent) >= max(SPENT, self._lines / 2) and self._handle is not None:
                with contextlib.suppress(OSError):  # the journal that is there says more than it need
                    self._write_anew()
                self._spent.clear()  # what stays now is not asked for again

    def _write_anew(self) -> None:
        """Replace the journal by one of what is open; on the disk before that, or a power cut could empty it."""
        assert self._handle is not None
        with open(self.path, encoding="utf-8", errors="replace") as file:
            lines = [line for line in file if _path_in(line) not in self._spent]
        new = f"{self.path}.new"
        try:
            handle = os.open(new, _FLAGS | os.O_TRUNC, 0o666)
            try:
                write_all(handle, "".join(lines).encode())
                os.fsync(handle)
                os.replace(new, self.path)
            except BaseException:
                os.close(handle)
                raise
        except OSError:
            remove(new)
            raise
        old, self._handle, self._lines = self._handle, handle, len(lines)
        os.close(old)

    def settle(self) -> None:
        """Forget all intents: the manifest holds them."""
        with self._guard:
            self._lines = 0
            self._spent.clear()
            if self._handle is not None:
                with contextlib.suppress(OSError):  # then the next process looks at what is recorded by now
                    os.ftruncate(self._handle, 0)

    def close(self, *, keep: bool = False) -> None:
        """Remove the journal, unless it is still needed, and give up the lock."""
        with self._guard:
            if self._handle is None:
                return
            with contextlib.suppress(OSError):  # it is closed all the same, and what went before must be told
                os.close(self._handle)
            self._handle = None
        if not keep:
            remove(self.path)
        self._let_go()

    def _let_go(self) -> None:
        self._lock.release()
        remove(self._lock.lock_file)


def _line(request: Request, digests: Sequence[Digest], verified: Verified, etag: str | None) -> str:
    """Return an intent as a line of JSON; text by text, since to set up an encoder costs more than a line."""
    stated = '", "'.join(map(str, digests))
    tag = "null" if etag is None else _quoted(etag)
    what = f"{_quoted(request.version)}, {_quoted(request.key)}, {_quoted(request.path)}"
    return f'[{what}, ["{stated}"], "{verified}", {tag}]\n'


def leftovers(private: str) -> Iterator[list[str]]:
    """Yield the files of each process that is gone, holding its lock meanwhile; then remove them."""
    parts = f"{private}/parts"
    try:
        names = os.listdir(parts)
    except OSError:
        return
    owned: dict[str, list[str]] = {}
    folders: dict[str, list[str]] = {}
    for name in names:
        if _NAME.match(name):
            owned.setdefault(name[:8], []).append(f"{parts}/{name}")
        elif token := folder_owner(name):
            owned.setdefault(token, [])
            folders.setdefault(token, []).append(f"{parts}/{name}")
    for token in notes(private):
        owned.setdefault(token, [])
    for token, paths in owned.items():
        lock = FileLock(f"{private}/locks/{token}.lock")
        try:
            lock.acquire(timeout=0)
        except (Timeout, OSError, NotImplementedError):
            continue
        try:
            yield paths
            for path in paths:
                remove(path)
            for folder in folders.get(token, ()):
                remove_folder(folder)
        finally:
            lock.release()
            remove(lock.lock_file)
            remove(f"{private}/locks/{token}{NOTE}")


def read_journal(path: str) -> Iterator[Entry]:
    """Yield what a journal intended, as entries without times; a torn or foreign line is passed over.

    A journal that is gone by now was read by another process, which had found it at the same time.
    """
    try:
        file = open(path, encoding="utf-8", errors="replace")  # noqa: SIM115 - closed below
    except FileNotFoundError:
        return
    with file:
        for line in file:
            entry = _read_line(line)
            if entry is not None:
                yield entry


def intents_for(path: str, folder: str) -> Iterator[tuple[str, Entry]]:
    """Yield what the journals in a folder, those of live processes among them, intended for one path, and which did."""
    try:
        journals = [f"{folder}/{name}" for name in os.listdir(folder) if name.endswith(".journal")]
    except OSError:
        return
    quoted = _quoted(path)
    for journal in journals:
        with contextlib.suppress(OSError), open(journal, encoding="utf-8", errors="replace") as file:
            for line in file:
                intent = _read_line(line) if quoted in line else None
                if intent is not None and intent.path == path:
                    yield journal, intent


def _path_in(line: str) -> str | None:
    """Return which path a line of ours is about, without taking all of it apart; None for one that was torn.

    In JSON a quote within a text is escaped, so the bare one behind a comma begins the next text, or ends this one.
    """
    stated, digests, _ = line.partition(', ["')
    text = stated.rpartition('", "')[2]
    if not digests or not text.endswith('"'):
        return None
    try:
        return str(json.loads(f'"{text}')) if "\\" in text else text[:-1]
    except ValueError:
        return None


def _read_line(line: str) -> Entry | None:
    try:
        version, key, path, digests, verified, etag = json.loads(line)
        stated = tuple(Digest(*text.split(":", 1)) for text in digests)
        receipt = Receipt(-1, 0, 0, 0, stated, Verified(verified), etag)
    except (ValueError, TypeError, AttributeError, RecursionError):
        return None
    texts = all(isinstance(text, str) for text in (version, key, path)) and isinstance(etag, str | None)
    if not stated or not texts or path.startswith("/") or ".." in path.split("/"):
        return None  # without a digest nothing could be proved, and no file of ours stands outside
    return Entry(version, key, path, receipt, fetched_at=0.0)
