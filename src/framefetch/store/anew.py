"""Makes a manifest anew that was lost, and keeps the old one; and one of its own for a cache that shares another's.

What can still be read of the old one goes into the new one as rows that no boot of the machine trusts: whoever asks
for such a file hashes it first, and whoever does not pays nothing. Everything else is adopted as always, by the digest
that a table or a journal states.

The new one is made beside the old one, whole and synced. Then the old one gets a second name, its log is moved after
it, and the new one takes the place: the name is never vacant, the new one never meets the old one's log, and a process
that dies in between leaves hints for the next one. Of processes that find the same damage at once one does this, under
a lock, and the others find it done.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sqlite3
import time
from typing import TYPE_CHECKING, Final

from filelock import FileLock, Timeout

from framefetch.errors import ManifestError, ManifestLost
from framefetch.store.places import remove
from framefetch.store.salvage import hint_sources, salvage
from framefetch.store.schema import COMPANIONS, SQLITE_ERRORS, Identity, connect, explain, identify, lay_out
from framefetch.store.tables import COLUMNS, place_all

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["make_anew", "make_own"]

#: A boot that never is: rows of its windows are hashed before they are believed.
NO_BOOT: Final = ""
#: Of several rows of one file the newest is believed to be right.
_COLLECTED: Final = f"CREATE TEMP TABLE hints ({COLUMNS}, PRIMARY KEY (version, key, path)) WITHOUT ROWID"
_INSERT: Final = """
INSERT INTO hints VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
ON CONFLICT (version, key, path) DO UPDATE SET
(size, mtime_ns, ctime_ns, inode, digests, verified, etag, fetched_at) = (excluded.size, excluded.mtime_ns,
excluded.ctime_ns, excluded.inode, excluded.digests, excluded.verified, excluded.etag, excluded.fetched_at)
WHERE excluded.fetched_at >= fetched_at
"""

logger = logging.getLogger("framefetch")


def make_anew(path: str, private: str, timeout: float, damaged: Identity | None = None) -> str | None:
    """Make the manifest anew, unless another process has done so.

    Parameters
    ----------
    path : str
        Where it is, or was.
    private : str
        The cache's private folder.
    timeout : float
        Seconds to wait for another process that makes it.
    damaged : tuple, optional
        Which one was found to be damaged while it was used; what can be seen at its opening needs no such witness.

    Returns
    -------
    str or None
        What was done, for people; None where nothing was lost.

    Raises
    ------
    ManifestError
        Where it cannot be made.
    """
    with _alone(f"{private}/locks/manifest.lock", timeout):
        if os.path.exists(path) and identify(path) != damaged and _opens(path, timeout):
            return None
        with _making(path, "made anew") as new:
            hints = _make_with_hints(new, path)
            aside = _set_aside(path)
            os.replace(new, path)
    if aside is None and not hints:
        return None
    was = "was gone" if aside is None else f"was damaged and is kept as {os.path.basename(aside)}"
    return (
        f"the manifest {was}; it was made anew with {hints:,} entries that could still be read, and a file of these "
        "is hashed before it is believed"
    )


def make_own(path: str, private: str, timeout: float) -> None:
    """Give a cache a manifest of its own where that is one file with another cache's, as after ``cp -al``.

    Each would write to it beside a log of its own, and one would lose what it has recorded.

    Parameters
    ----------
    path : str
        Where it is.
    private : str
        The cache's private folder.
    timeout : float
        Seconds to wait for another process that uses it, under either name.

    Raises
    ------
    ManifestError
        Where it is in use for longer, or cannot be copied.
    """
    if not _is_shared(path):
        return
    with _alone(f"{private}/locks/manifest.lock", timeout):
        if _is_shared(path):
            with _making(path, "copied") as new:
                _replace_by_copy(path, new, timeout)


@contextlib.contextmanager
def _making(path: str, what: str) -> Iterator[str]:
    """Give a place beside a manifest for the one that is to replace it; why that cannot be is told as one of ours."""
    new = f"{path}.new"
    try:
        _clear(new)
        yield new
    except SQLITE_ERRORS as error:
        raise explain(error, path) from error
    except OSError as error:
        raise ManifestError(f"{path} cannot be {what}: {error.strerror or error}") from error
    finally:
        _clear(new)


def _is_shared(path: str) -> bool:
    """Return whether a manifest has a name in another folder; in this one it may get a second one for a moment."""
    folder, name = os.path.split(path)
    try:
        found = os.stat(path)
        if found.st_nlink < 2:
            return False
        with os.scandir(folder) as entries:
            own = sum(entry.inode() == found.st_ino for entry in entries if entry.name.startswith(name))
    except OSError:
        return False  # who opens it tells
    return found.st_nlink > own


def _replace_by_copy(path: str, new: str, timeout: float) -> None:
    with contextlib.closing(sqlite3.connect(path, timeout=timeout, isolation_level=None)) as shared:
        shared.execute("PRAGMA locking_mode = EXCLUSIVE")
        try:
            shared.execute("BEGIN EXCLUSIVE")  # nobody has it open, under either name, nor gets it until it is closed
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode != sqlite3.SQLITE_BUSY:
                raise
            raise ManifestError(
                f"{path} is one file with another cache's manifest (a hard link), which is in use; "
                "run the same command again when it is not"
            ) from error
        shared.execute("COMMIT")
        with contextlib.closing(sqlite3.connect(new)) as own:
            shared.backup(own)
        os.replace(new, path)
        for companion in COMPANIONS:  # what was in the log is in the copy
            remove(path + companion)


@contextlib.contextmanager
def _alone(lock: str, timeout: float) -> Iterator[None]:
    held = FileLock(lock)
    try:
        held.acquire(timeout=timeout)
    except Timeout as error:
        raise ManifestError(
            f"another process has been making the manifest anew for longer than {timeout:g} s; try again"
        ) from error
    except (OSError, NotImplementedError) as error:
        # Without locks two processes may do this at once: one of them takes its rows from what the other set aside.
        logger.warning("the file system gives no locks (%s)", error)
    try:
        yield
    finally:
        held.release()


def _opens(path: str, timeout: float) -> bool:
    try:
        connect(path, timeout=timeout, writable=False).close()
    except ManifestLost:
        return False
    return True


def _make_with_hints(new: str, path: str) -> int:
    """Make a manifest of the rows that can be read of the old one and of those set aside before; return how many."""
    connection = lay_out(new)
    try:
        connection.execute(_COLLECTED)
        connection.execute("BEGIN IMMEDIATE")
        # Above all windows of the old one: who remembers one of these takes what is written from now on for newer.
        window = time.time_ns() // 1_000_000
        connection.execute("INSERT INTO windows VALUES (?, ?)", (window, NO_BOOT))
        *older, latest = hint_sources(path)
        for source in older:
            # What was set aside long ago may name files that were removed on purpose since.
            there = (hint for hint in salvage(source) if os.path.lexists(os.path.join(os.path.dirname(path), hint[2])))
            connection.executemany(_INSERT, there)
        connection.executemany(_INSERT, salvage(latest))
        connection.execute(
            f"INSERT INTO entries ({COLUMNS}, window) SELECT {COLUMNS}, {window} FROM hints ORDER BY version, key, path"
        )
        place_all(connection)
        connection.execute("COMMIT")
        return int(connection.execute("SELECT count(*) FROM entries").fetchone()[0])
    finally:
        connection.close()


def _set_aside(path: str) -> str | None:
    """Give the old manifest and its log other names, never those of an older one; return its new name."""
    if not os.path.isfile(f"{path}-wal") or not os.path.getsize(f"{path}-wal"):
        remove(f"{path}-wal")  # nothing is in it: it came from looking
        remove(f"{path}-shm")
    there = [path + companion for companion in ("", *COMPANIONS) if os.path.lexists(path + companion)]
    if not there:
        return None
    number = 1
    while any(os.path.lexists(f"{path}.corrupt-{number}{companion}") for companion in ("", *COMPANIONS)):
        number += 1
    aside = f"{path}.corrupt-{number}"
    for old in there:
        kept = aside + old.removeprefix(path)
        if old == path:
            try:
                os.link(old, kept)  # its name stays taken until the new one has it
                continue
            except OSError:
                remove(kept)
        os.rename(old, kept)
    return aside


def _clear(new: str) -> None:
    for companion in ("", *COMPANIONS):
        remove(new + companion)
