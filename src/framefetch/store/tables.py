"""The tables of a manifest: rows in the order in which they were committed, and small trees to find them by.

A row is found by its places: a number made of its key, and one below zero made of its path. They stand in a tree of
their own, and not in the order of the rows, because keys have no order: a large tree would be changed all over by every
window of commits. So new places go into a small tree, which is poured into a middle one when it is full, and that one
into the large one. Then each page of the large tree is changed once for many rows, and a row costs little more
among a million others than among a thousand. Which of the trees a place stands in makes no difference to who looks for
it.

Places only say where to look. Two keys may have the same one, so whoever asks compares the row itself, and a place
without a row says nothing.
"""

from __future__ import annotations

import json
from hashlib import blake2b
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterable, Sequence

__all__ = [
    "APPLICATION_ID",
    "BOUNDS",
    "COLUMNS",
    "FOUND",
    "MISPLACED",
    "SCHEMA_VERSION",
    "TREES",
    "add_places",
    "asking_for",
    "bring_up",
    "drop_places",
    "insert",
    "lay_out_tables",
    "overfull",
    "place_all",
    "places_of_keys",
    "places_of_paths",
    "pour",
    "teach",
]

#: "frft" in ASCII: tells our databases from other programs' (SQLite file format, section 1.3).
APPLICATION_ID: Final = 0x66726674
SCHEMA_VERSION: Final = 3

#: The columns of an entry but its id and its window, in the order of the table.
COLUMNS: Final = "version, key, path, size, mtime_ns, ctime_ns, inode, digests, verified, etag, fetched_at"

#: The small tree, the middle one, the large one.
TREES: Final = ("places_new", "places_recent", "places")
#: Rows whose places the first two may have before they are poured into the next: a few dozen pages, a thousand.
BOUNDS: Final = [4_096, 131_072]
#: Values that one statement may have in every build of SQLite (its limits, section 9: 999 before 3.32).
MOST_VALUES: Final = 999

# A row belongs to the commit window it was written in. Windows whose files may not have reached the disk yet are
# listed in `windows` with the boot that wrote them; a row of no listed window is durable. So making a window
# durable is one deletion, however many rows it has. An id is never used again, so a place that outlives its row does
# not lead to another one. `poured` says up to which id a tree has been poured out, which only tells when it is time to
# do so again. `versions` lists every version that there ever was an entry of.
_TABLES: Final = (
    """CREATE TABLE entries (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
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
    window INTEGER NOT NULL
)""",
    *(
        f"CREATE TABLE {tree} (place INTEGER NOT NULL, id INTEGER NOT NULL, PRIMARY KEY (place, id)) WITHOUT ROWID"
        for tree in TREES
    ),
    "CREATE TABLE poured (tree INTEGER PRIMARY KEY, id INTEGER NOT NULL)",
    *(f"INSERT INTO poured VALUES ({tree}, 0)" for tree in range(len(BOUNDS))),
    "CREATE TABLE versions (version TEXT PRIMARY KEY) WITHOUT ROWID",
)
_WINDOWS: Final = "CREATE TABLE windows (window INTEGER PRIMARY KEY AUTOINCREMENT, boot TEXT NOT NULL)"

#: Until schema 2 entries were in the order of their keys, and from then on there was an index of their paths.
_FROM_TREE: Final = (
    "DROP INDEX IF EXISTS entries_by_path",
    "ALTER TABLE entries RENAME TO older",
    *_TABLES,
    f"INSERT INTO entries ({COLUMNS}, window) SELECT {COLUMNS}, window FROM older ORDER BY version, key, path",
    "DROP TABLE older",
)

#: What finds rows by their `places`, a parameter that is a JSON array; each row once.
FOUND: Final = f"""id IN ({
    " UNION ALL ".join(f"SELECT {tree}.id FROM json_each(:places) CROSS JOIN {tree} ON place = value" for tree in TREES)
})"""

_ALL_PLACES: Final = """
SELECT place_of(CAST(version || char(0) || key AS BLOB)), id FROM entries
UNION ALL SELECT -1 - place_of(CAST(path AS BLOB)), id FROM entries
"""
#: What finds rows that somebody who looks for them would not find; a second for each few hundred thousand.
MISPLACED: Final = f"""SELECT * FROM ({_ALL_PLACES}) EXCEPT SELECT * FROM ({
    " UNION ALL ".join(f"SELECT place, id FROM {tree}" for tree in TREES)
})"""
_number: Final = int.from_bytes  # looked up for every row
_UNPOURED: Final = """
SELECT coalesce((SELECT max(id) FROM entries), 0) - coalesce((SELECT id FROM poured WHERE tree = ?), 0)
"""


def lay_out_tables(connection: sqlite3.Connection) -> None:
    """Make the tables, in a transaction of the caller."""
    for statement in (*_TABLES, _WINDOWS):
        connection.execute(statement)
    connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
    connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")


def bring_up(connection: sqlite3.Connection) -> None:
    """Make the tables of an older schema those of this one, in a transaction of the caller."""
    for statement in _FROM_TREE:
        connection.execute(statement)
    place_all(connection)
    connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")


def place_all(connection: sqlite3.Connection) -> None:
    """Make the places and the versions of all entries, where there are none yet; in a transaction of the caller."""
    connection.execute(f"INSERT INTO {TREES[-1]} {_ALL_PLACES} ORDER BY 1, 2")
    connection.execute("UPDATE poured SET id = coalesce((SELECT max(id) FROM entries), 0)")
    connection.execute("INSERT INTO versions SELECT DISTINCT version FROM entries")


def teach(connection: sqlite3.Connection) -> None:
    """Let statements compute places."""
    connection.create_function("place_of", 1, _place_of, deterministic=True)


def places_of_keys(version: str, keys: Iterable[str]) -> list[int]:
    """Return the place of each key."""
    scope = f"{version}\0"
    return [_place_of((scope + key).encode("utf-8", "backslashreplace")) for key in keys]


def places_of_paths(paths: Iterable[str]) -> list[int]:
    """Return the place of each path."""
    return [-1 - _place_of(path.encode("utf-8", "backslashreplace")) for path in paths]


def _place_of(text: bytes | None) -> int:
    # Four bytes in a record. Of a hundred million entries one in twenty has another one's place.
    return _number(blake2b(text or b"", digest_size=4).digest(), "big") >> 1


def asking_for(places: Iterable[int]) -> str:
    """Return places as `FOUND` wants them: in the order of its trees."""
    return json.dumps(sorted(places))


def insert(connection: sqlite3.Connection, insertion: str, rows: Sequence[Sequence[object]]) -> None:
    """Insert rows, many at a time: for every statement the interpreter lock is given up, and comes back late.

    Parameters
    ----------
    connection : sqlite3.Connection
        In a transaction of the caller.
    insertion : str
        The statement up to its values.
    rows : sequence of sequence
        Equally many values each.
    """
    if not rows:
        return
    marks = f"({', '.join('?' * len(rows[0]))})"
    most = MOST_VALUES // len(rows[0])
    for start in range(0, len(rows), most):
        some = rows[start : start + most]
        statement = f"{insertion} VALUES {', '.join([marks] * len(some))}"
        connection.execute(statement, [value for row in some for value in row])


def add_places(connection: sqlite3.Connection, places: Sequence[tuple[int, int]]) -> None:
    """Record the places and ids of new rows."""
    insert(connection, f"INSERT OR IGNORE INTO {TREES[0]}", places)


def drop_places(connection: sqlite3.Connection, places: Iterable[tuple[int, int]]) -> None:
    """Remove the places and ids of rows that are no more."""
    gone = list(places)
    for tree in TREES:
        connection.executemany(f"DELETE FROM {tree} WHERE place = ? AND id = ?", gone)


def overfull(connection: sqlite3.Connection) -> bool:
    """Return whether it is time to `pour`."""
    return _unpoured(connection, 0) > BOUNDS[0]


def pour(connection: sqlite3.Connection) -> None:
    """Pour each tree that is full into the next, in the order of its pages; in a transaction of the caller."""
    for tree, bound in enumerate(BOUNDS):
        if _unpoured(connection, tree) <= bound:
            return
        connection.execute(f"INSERT OR IGNORE INTO {TREES[tree + 1]} SELECT * FROM {TREES[tree]} ORDER BY place, id")
        connection.execute(f"DELETE FROM {TREES[tree]}")
        connection.execute("INSERT OR REPLACE INTO poured SELECT ?, max(id) FROM entries", (tree,))


def _unpoured(connection: sqlite3.Connection, tree: int) -> int:
    """Return how many rows there are since a tree was poured out, or a few more."""
    return int(connection.execute(_UNPOURED, (tree,)).fetchone()[0])
