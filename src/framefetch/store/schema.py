"""The manifest's tables, and how a database is recognised, opened and refused."""

from __future__ import annotations

import contextlib
import os
import secrets
import sqlite3
from pathlib import Path
from typing import Final

from framefetch.errors import ManifestError

__all__ = ["APPLICATION_ID", "SCHEMA_VERSION", "boot_id", "connect", "explain", "recognise"]

#: "frft" in ASCII: tells our databases from other programs' (SQLite file format, section 1.3).
APPLICATION_ID: Final = 0x66726674
SCHEMA_VERSION: Final = 1

# A row belongs to the commit window it was written in. Windows whose files may not have reached the disk yet are
# listed in `windows` with the boot that wrote them; a row of no listed window is durable. So making a window
# durable is one deletion, however many rows it has.
_SCHEMA: Final = f"""
BEGIN IMMEDIATE;
CREATE TABLE IF NOT EXISTS entries (
    version TEXT NOT NULL,
    key TEXT NOT NULL,
    path TEXT NOT NULL,
    size INTEGER NOT NULL,
    mtime_ns INTEGER NOT NULL,
    ctime_ns INTEGER NOT NULL,
    inode INTEGER NOT NULL,
    digests TEXT NOT NULL,
    verified TEXT NOT NULL,
    etag TEXT,
    fetched_at REAL NOT NULL,
    window INTEGER NOT NULL,
    PRIMARY KEY (version, key, path)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS windows (
    window INTEGER PRIMARY KEY AUTOINCREMENT,
    boot TEXT NOT NULL
);
PRAGMA application_id = {APPLICATION_ID};
PRAGMA user_version = {SCHEMA_VERSION};
COMMIT;
"""


def boot_id() -> str:
    """Return what changes with every start of the machine; empty where the system does not say."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return ""


def connect(path: str, *, timeout: float, writable: bool) -> sqlite3.Connection:
    """Open a manifest, making it where there is none.

    Parameters
    ----------
    path : str
        Where it is.
    timeout : float
        Seconds to wait for another process that holds it.
    writable : bool
        Whether it may be made and changed; else it is opened read-only.

    Raises
    ------
    ManifestError
        Where it is another program's, of a newer schema, damaged, locked, or cannot be opened.
    """
    try:
        return _connect(path, timeout=timeout, writable=writable)
    except sqlite3.Error as error:
        raise explain(error, path) from error


def _connect(path: str, *, timeout: float, writable: bool) -> sqlite3.Connection:
    recognise(path, timeout)
    if writable and not os.path.exists(path):
        _create(path)
    connection = _opened(path, f"mode={'rw' if writable else 'ro'}", timeout)
    try:
        if writable:
            if os.path.getsize(path) == 0:
                connection.executescript(_SCHEMA)
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = NORMAL")
            # Opens the log, so that closing this connection last also removes it where nothing was written.
            connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
    except BaseException:
        connection.close()
        raise
    return connection


def _create(path: str) -> None:
    """Make a manifest beside its place, then give it its name: it is there whole, or not at all.

    It is not in WAL mode yet, so that the file itself, and not only a log that a copy of it may lack, says whose it is.
    """
    new = f"{path}.{secrets.token_hex(4)}"
    try:
        connection = sqlite3.connect(new, isolation_level=None)
        try:
            connection.executescript(_SCHEMA)
        finally:
            connection.close()
        try:
            os.link(new, path)
        except FileExistsError:
            return  # another process was faster
        except OSError:  # a file system without links
            if not os.path.exists(path):
                os.rename(new, path)
    except OSError as error:
        raise ManifestError(f"{path} cannot be made: {error.strerror or error}") from error
    finally:
        for name in (new, f"{new}-journal"):
            with contextlib.suppress(OSError):
                os.unlink(name)


def recognise(path: str, timeout: float) -> None:
    """Refuse what is not ours before anything is written to it, or beside it.

    Raises
    ------
    ManifestError
        Where the database is another program's, of a newer schema, damaged, or a link.
    """
    if os.path.islink(path):
        raise ManifestError(f"{path} is a link; nothing is written through it. Put the manifest itself there")
    if not os.path.exists(path) or os.path.getsize(path) == 0:
        return
    try:
        # First as a file that nobody changes, which leaves nothing beside it; then with its log, if it is ours.
        for mode in ("mode=ro&immutable=1", "mode=ro"):
            _refuse_foreign(path, mode, timeout)
    except sqlite3.Error as error:
        raise explain(error, path) from error


def _refuse_foreign(path: str, mode: str, timeout: float) -> None:
    connection = _opened(path, mode, timeout)
    try:
        application = connection.execute("PRAGMA application_id").fetchone()[0]
        schema = connection.execute("PRAGMA user_version").fetchone()[0]
    finally:
        connection.close()
    if application != APPLICATION_ID:
        raise ManifestError(f"{path} is another program's database; it was left as it is. Choose another cache folder")
    if schema > SCHEMA_VERSION:
        raise ManifestError(
            f"{path} has schema {schema}, this version of framefetch knows up to {SCHEMA_VERSION}; "
            "it was left as it is. Install a newer framefetch"
        )


def _opened(path: str, mode: str, timeout: float) -> sqlite3.Connection:
    uri = f"{Path(path).absolute().as_uri()}?{mode}"
    connection = sqlite3.connect(uri, uri=True, timeout=timeout, isolation_level=None, check_same_thread=False)
    try:
        connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
    except sqlite3.Error as error:
        connection.close()
        if mode == "mode=ro" and _is_read_only(error):
            # A WAL database on a read-only or full disk can be read only as one that nobody changes.
            return _opened(path, "mode=ro&immutable=1", timeout)
        raise
    return connection


def _is_read_only(error: sqlite3.Error) -> bool:
    """Return whether the file can be read, but what SQLite shares between readers cannot be made beside it."""
    name = getattr(error, "sqlite_errorname", "")
    return name.startswith(("SQLITE_CANTOPEN", "SQLITE_READONLY", "SQLITE_IOERR_SHM", "SQLITE_FULL"))


def explain(error: sqlite3.Error, path: str) -> ManifestError:
    """Return SQLite's error as one of ours, with what to do."""
    name = getattr(error, "sqlite_errorname", "") or type(error).__name__
    if name.startswith(("SQLITE_BUSY", "SQLITE_LOCKED")):
        return ManifestError(
            f"{path} is locked by another process for longer than the lock timeout; try again ({name})"
        )
    if name.startswith(("SQLITE_NOTADB", "SQLITE_CORRUPT")):
        return ManifestError(f"{path} is damaged ({error}); it was left as it is. Move it away to begin a new one")
    if name == "SQLITE_FULL":
        return ManifestError(f"{path}: no space left on the disk; free some and run the same command again")
    return ManifestError(f"{path} cannot be used: {error} ({name})")
