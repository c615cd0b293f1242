"""The manifest's tables, and how a database is recognised, opened, migrated and refused."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import time
from pathlib import Path
from typing import Final, TypeAlias

from framefetch.errors import ManifestError, ManifestLost
from framefetch.store.network import network_file_system
from framefetch.store.tables import APPLICATION_ID, SCHEMA_VERSION, TREES, bring_up, lay_out_tables, teach

__all__ = [
    "COMPANIONS",
    "SMALLEST",
    "SQLITE_ERRORS",
    "Identity",
    "boot_id",
    "connect",
    "explain",
    "identify",
    "lay_out",
    "lost",
    "opened",
    "recognise",
]

#: What tells a database from another file of the same name.
Identity: TypeAlias = "tuple[int, int]"

#: What SQLite keeps beside a database; a log that has lost its database must never meet another one.
COMPANIONS: Final = ("-wal", "-shm", "-journal")

#: How SQLite's errors arrive: some quote what stands in the file, and where that is no text Python cannot read them.
SQLITE_ERRORS: Final = (sqlite3.Error, UnicodeDecodeError)

#: Bytes of the smallest page that a database can have.
SMALLEST: Final = 512

#: Pages of the log before it is folded into the database, which costs a disk two syncs.
LOG_PAGES: Final = 4096
#: Seconds after which is tried again what SQLite lets nobody wait for.
TURN_SECONDS: Final = 0.01
#: What a connection may keep in memory: the places of a million keys.
CACHE_KIBIBYTES: Final = 32_768

_LOOK: Final = f"""SELECT (SELECT window FROM entries LIMIT 1), (SELECT boot FROM windows LIMIT 1),
(SELECT version FROM versions LIMIT 1), {", ".join(f"(SELECT id FROM {tree} LIMIT 1)" for tree in TREES)}"""


def boot_id() -> str:
    """Return what changes with every start of the machine; empty where the system does not say."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return ""


def identify(path: str) -> Identity | None:
    """Return which file a manifest is; None where there is none, or an empty one."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    return (found.st_dev, found.st_ino) if found.st_size else None


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
    ManifestLost
        Where it is damaged, empty, or gone from beside its log.
    ManifestError
        Where it is another program's, of a newer schema, locked, or cannot be opened.
    """
    try:
        return _connect(path, timeout=timeout, writable=writable)
    except SQLITE_ERRORS as error:
        raise explain(error, path) from error


def _connect(path: str, *, timeout: float, writable: bool) -> sqlite3.Connection:
    recognise(path, timeout)
    if writable and not os.path.exists(path):
        _create(path)
    network = network_file_system(os.path.dirname(path))
    if writable and network:
        connection = _without_shared_memory(path, timeout)
    else:
        connection = opened(path, f"mode={'rw' if writable else 'ro'}", timeout)
    try:
        teach(connection)
        connection.execute(f"PRAGMA cache_size = -{CACHE_KIBIBYTES}")
        if writable:
            if not network:
                _log_ahead(connection, timeout)
                connection.execute("PRAGMA synchronous = NORMAL")
                connection.execute(f"PRAGMA wal_autocheckpoint = {LOG_PAGES}")
            _migrate(connection, path)
        elif _schema_of(connection) < SCHEMA_VERSION:
            connection = _brought_up_in_a_copy(connection)
        # Finds out whether the tables are there. It also opens the log, so that closing this connection last removes
        # it where nothing was written.
        connection.execute(_LOOK).fetchone()
    except BaseException:
        connection.close()
        raise
    return connection


def open_beside(
    first: sqlite3.Connection, path: str, timeout: float, identity: Identity | None
) -> sqlite3.Connection | None:
    """Open a manifest for one reader more; None where that is not to be had, or would not show what the first one sees.

    Without a write-ahead log it might wait for a writer, who waits for the first one; nor has a copy such a log.
    """
    try:
        if first.execute("PRAGMA journal_mode").fetchone() != ("wal",):
            return None
        connection = _only_opened(path, "mode=ro", timeout)
    except SQLITE_ERRORS:  # no descriptors are left, or the disk cannot be written to
        return None
    try:
        teach(connection)
        connection.execute(f"PRAGMA cache_size = -{CACHE_KIBIBYTES}")
        if _schema_of(connection) == SCHEMA_VERSION and identify(path) == identity:
            return connection
    except SQLITE_ERRORS:
        pass
    connection.close()
    return None


def _log_ahead(connection: sqlite3.Connection, timeout: float) -> None:
    """Turn the write-ahead log on.

    Who meets another process that does the same is not let wait by SQLite: both have read, so one has to give way.
    """
    until = time.monotonic() + timeout
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL")
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode != sqlite3.SQLITE_BUSY or time.monotonic() >= until:
                raise
            time.sleep(TURN_SECONDS)
        else:
            return


def _without_shared_memory(path: str, timeout: float) -> sqlite3.Connection:
    """Open a manifest on a network file system; one that comes from a local disk gives up its write-ahead log.

    Who has it for himself alone reads that log without the memory that processes share, which no network gives them.
    """
    uri = f"{Path(path).absolute().as_uri()}?mode=rw"
    connection = sqlite3.connect(uri, uri=True, timeout=timeout, isolation_level=None, check_same_thread=False)
    try:
        connection.execute("PRAGMA locking_mode = EXCLUSIVE")
        _refuse_foreign(connection, path)
        connection.execute("PRAGMA journal_mode = DELETE")
        connection.execute("PRAGMA locking_mode = NORMAL")
        connection.execute("SELECT count(*) FROM sqlite_master").fetchone()  # lets go of the lock
    except BaseException:
        connection.close()
        raise
    return connection


def lay_out(path: str) -> sqlite3.Connection:
    """Make the tables of a manifest in a new file.

    It is not in WAL mode yet, so that the file itself, and not only a log that a copy of it may lack, says whose it is.
    """
    connection = sqlite3.connect(path, isolation_level=None)
    try:
        teach(connection)
        connection.execute("BEGIN IMMEDIATE")
        lay_out_tables(connection)
        connection.execute("COMMIT")
    except BaseException:
        connection.close()
        raise
    return connection


def _create(path: str) -> None:
    """Make a manifest beside its place, then give it its name: it is there whole, or not at all."""
    new = f"{path}.{os.urandom(4).hex()}"
    try:
        lay_out(new).close()
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


def _migrate(connection: sqlite3.Connection, path: str) -> None:
    """Bring an older schema up to this one, in one transaction; how it was is kept beside it."""
    if _schema_of(connection) == SCHEMA_VERSION:
        return
    connection.execute("BEGIN IMMEDIATE")
    try:
        schema = _schema_of(connection)  # another process may have been faster
        if schema < SCHEMA_VERSION:
            _back_up(path, schema)
            bring_up(connection)
        connection.execute("COMMIT")
    except BaseException:
        connection.rollback()
        raise


def _brought_up_in_a_copy(older: sqlite3.Connection) -> sqlite3.Connection:
    """Return what an older schema that may not be changed comes to, in a database that nobody else sees."""
    copy = sqlite3.connect("", isolation_level=None, check_same_thread=False)
    try:
        older.backup(copy)
        teach(copy)
        copy.execute("BEGIN")
        bring_up(copy)
        copy.execute("COMMIT")
    except BaseException:
        copy.close()
        raise
    older.close()
    return copy


def _schema_of(connection: sqlite3.Connection) -> int:
    return int(connection.execute("PRAGMA user_version").fetchone()[0])


def _back_up(path: str, schema: int) -> None:
    """Copy a manifest, log and all, while nobody can write to it."""
    kept = f"{path}.schema-{schema}"
    new = f"{kept}.{os.urandom(4).hex()}"
    source = opened(path, "mode=ro", 0.0)
    try:
        with contextlib.closing(sqlite3.connect(new)) as target:
            source.backup(target)
        os.replace(new, kept)
    except OSError as error:
        raise ManifestError(f"{kept} cannot be made: {error.strerror or error}") from error
    finally:
        source.close()
        with contextlib.suppress(OSError):
            os.unlink(new)


def recognise(path: str, timeout: float) -> None:
    """Refuse what is not ours before anything is written to it, or beside it.

    Raises
    ------
    ManifestLost
        Where the database is damaged, empty, or gone from beside its log.
    ManifestError
        Where it is another program's, of a newer schema, or a link.
    """
    if os.path.islink(path):
        raise ManifestError(f"{path} is a link; nothing is written through it. Put the manifest itself there")
    if os.path.isdir(path):
        raise ManifestError(
            f"a folder stands at {path}, where the manifest belongs; move it away, or choose another one for the cache"
        )
    if not os.path.exists(path):
        if any(os.path.lexists(path + companion) for companion in COMPANIONS):
            raise lost(path, "is gone, while its log is still there")
        return
    if os.path.getsize(path) < SMALLEST:  # to SQLite a good database with nothing in it, which would be an answer
        raise lost(path, "is cut short" if os.path.getsize(path) else "is empty")
    try:
        # First as a file that nobody changes, which leaves nothing beside it; then with its log, if it is ours.
        network = network_file_system(os.path.dirname(path))
        for mode in ("mode=ro&immutable=1", "mode=ro")[: 1 if network else 2]:
            with contextlib.closing(opened(path, mode, timeout)) as connection:
                _refuse_foreign(connection, path)
    except SQLITE_ERRORS as error:
        raise explain(error, path) from error


def _refuse_foreign(connection: sqlite3.Connection, path: str) -> None:
    application = connection.execute("PRAGMA application_id").fetchone()[0]
    schema = _schema_of(connection)
    if application != APPLICATION_ID:
        raise ManifestError(f"{path} is another program's database; it was left as it is. Choose another cache folder")
    if schema > SCHEMA_VERSION:
        raise ManifestError(
            f"{path} has schema {schema}, this version of framefetch knows up to {SCHEMA_VERSION}; "
            "it was left as it is. Install a newer framefetch"
        )


def opened(path: str, mode: str, timeout: float) -> sqlite3.Connection:
    """Open a database that is there; see SQLite's URI file names for the modes."""
    try:
        return _only_opened(path, mode, timeout)
    except SQLITE_ERRORS as error:
        if mode == "mode=ro" and _is_read_only(error):
            # A WAL database on a read-only or full disk can be read only as one that nobody changes.
            return _only_opened(path, "mode=ro&immutable=1", timeout)
        raise


def _only_opened(path: str, mode: str, timeout: float) -> sqlite3.Connection:
    uri = f"{Path(path).absolute().as_uri()}?{mode}"
    connection = sqlite3.connect(uri, uri=True, timeout=timeout, isolation_level=None, check_same_thread=False)
    try:
        if "immutable" in mode:
            # A process that dies while it folds the log into the file leaves a file that says it is longer than it
            # is. With its log it is whole, and without it SQLite would call it malformed, were it not for this.
            connection.execute("PRAGMA writable_schema = ON")
        connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
    except SQLITE_ERRORS:
        connection.close()
        raise
    return connection


def _is_read_only(error: sqlite3.Error | UnicodeDecodeError) -> bool:
    """Return whether the file can be read, but what SQLite shares between readers cannot be made beside it."""
    name = getattr(error, "sqlite_errorname", "")
    return name.startswith(("SQLITE_CANTOPEN", "SQLITE_READONLY", "SQLITE_IOERR_SHM", "SQLITE_FULL"))


def explain(error: sqlite3.Error | UnicodeDecodeError, path: str) -> ManifestError:
    """Return SQLite's error as one of ours, with what to do."""
    name = getattr(error, "sqlite_errorname", "") or type(error).__name__
    network = network_file_system(os.path.dirname(path))
    if name.startswith(("SQLITE_BUSY", "SQLITE_LOCKED")):
        # To SQLite a server that gives no locks (ENOLCK) is one that is busy.
        perhaps = f", or the server gives none of the locks that {network} needs" if network else ""
        return ManifestError(
            f"{path} is locked by another process for longer than the lock timeout{perhaps}; try again ({name})"
        )
    if name == "SQLITE_PROTOCOL" or (name.startswith("SQLITE_IOERR_") and "LOCK" in name):
        return ManifestError(
            f"{path}: the locks of this file system ({network or 'it says it is local'}) do not work ({name}); "
            "mount it with locks, or keep the cache on a disk of this machine"
        )
    text = str(error)
    # What we write meets every constraint, unless something that is not ours stands there.
    if name.startswith(("SQLITE_NOTADB", "SQLITE_CORRUPT", "SQLITE_CONSTRAINT", "UnicodeDecode")) or text.startswith(
        ("no such", "Could not decode")
    ):
        return lost(path, f"is damaged ({error})")
    if name == "SQLITE_READONLY_DBMOVED":
        return ManifestLost(f"{path} was removed or replaced while it was open; run the same command again")
    if name == "SQLITE_FULL":
        return ManifestError(f"{path}: no space left on the disk; free some and run the same command again")
    return ManifestError(f"{path} cannot be used: {error} ({name})")


def lost(path: str, what: str) -> ManifestLost:
    """Return the error that says so, with what to do."""
    return ManifestLost(
        f"{path} {what}; it was left as it is. 'framefetch rebuild {os.path.dirname(path)}' makes it anew from the "
        "files, and so does the next 'framefetch mirror'"
    )
