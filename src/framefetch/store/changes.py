"""What a batch changes in the manifest: which rows are new, which are written over, which go.

There is one row for each version, key and path, and it keeps its id for as long as it is there. Who writes finds out
in the transaction in which he writes what is there already, so that holds for any number of processes.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from framefetch.store.tables import (
    COLUMNS,
    FOUND,
    add_places,
    asking_for,
    drop_places,
    insert,
    places_of_keys,
    places_of_paths,
)

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Collection, Iterable, Mapping, Sequence

    from framefetch.models import Entry

__all__ = ["Change", "Identity", "apply", "forget_paths", "to_row"]

Row: TypeAlias = tuple[Any, ...]
#: Version, key and path.
Identity: TypeAlias = tuple[str, str, str]
#: A row, and whether it is to be forgotten.
Change: TypeAlias = "tuple[Row, bool]"

_INSERT: Final = f"INSERT INTO entries ({COLUMNS}, window)"
_UPDATE: Final = """
UPDATE entries SET size = ?, mtime_ns = ?, ctime_ns = ?, inode = ?, digests = ?, verified = ?, etag = ?,
fetched_at = ?, window = ? WHERE id = ?
"""
_DELETE: Final = "DELETE FROM entries WHERE id = ?"
_RECORDED: Final = f"SELECT version, key, path, size, mtime_ns, ctime_ns, inode, digests, id FROM entries WHERE {FOUND}"
#: Where a row's own state begins, and what of it is looked at before it is forgotten: size, times, inode, digests.
_STATE, _SEEN = 3, slice(3, 8)


@dataclass(slots=True)
class _Net:
    """What is left of a batch: a row that is written twice in it is written once."""

    new: list[Row] = field(default_factory=list)
    again: list[Row] = field(default_factory=list)
    gone: list[tuple[Identity, int]] = field(default_factory=list)


def storable(text: str) -> str:
    """Return text that SQLite can store: a lone surrogate, such as a raw byte of a header makes, is escaped."""
    return text if text.isascii() else text.encode("utf-8", "backslashreplace").decode()


def to_row(entry: Entry, window: int) -> Row:
    """Return an entry as a row without its id."""
    receipt = entry.receipt
    etag = None if receipt.etag is None else storable(receipt.etag)
    return (
        storable(entry.version), storable(entry.key), storable(entry.path),
        receipt.size, receipt.mtime_ns, receipt.ctime_ns, receipt.inode,
        " ".join(map(str, receipt.digests)), receipt.verified.value, etag, entry.fetched_at, window,
    )  # fmt: skip


def apply(connection: sqlite3.Connection, changes: Sequence[Change], new: Collection[Identity] = ()) -> None:
    """Make changes, in the order in which they were asked for; in a transaction of the caller that may write.

    Of those that are `new` the caller knows that there is no row: they are not looked for.
    """
    places = _key_places({row[:3] for row, _ in changes})
    asked = {place for identity, place in places.items() if identity not in new}
    recorded = {row[:3]: row for row in connection.execute(_RECORDED, {"places": asking_for(asked)})} if asked else {}
    net = _net_of(changes, recorded)
    if net.new:
        versions = {row[0] for row in net.new}
        connection.executemany("INSERT OR IGNORE INTO versions VALUES (?)", [(version,) for version in versions])
        insert(connection, _INSERT, net.new)
        # Nobody else writes meanwhile, so their ids follow one another.
        last = connection.execute("SELECT max(id) FROM entries").fetchone()[0]
        first = last - len(net.new) + 1
        by_path = zip(places_of_paths(row[2] for row in net.new), range(first, last + 1), strict=True)
        by_key = zip((places[row[:3]] for row in net.new), range(first, last + 1), strict=True)
        add_places(connection, sorted([*by_path, *by_key]))
    connection.executemany(_UPDATE, net.again)
    _remove(connection, net.gone)


def _net_of(changes: Iterable[Change], recorded: Mapping[Identity, Row]) -> _Net:
    """Decide what a batch comes to, given the rows that are there, with their ids behind what is looked at."""
    state: dict[Identity, Row | None] = {}
    for row, forget in changes:
        identity = row[:3]
        if not forget:
            state[identity] = row
            continue
        # Only as it was seen: another process, or this batch, may have recorded the file anew meanwhile.
        now = state[identity] if identity in state else recorded.get(identity)
        if now is not None and now[_SEEN] == row[_SEEN]:
            state[identity] = None
    net = _Net()
    for identity, wanted in state.items():
        there = recorded.get(identity)
        if wanted is None:
            if there is not None:
                net.gone.append((identity, there[-1]))
        elif there is None:
            net.new.append(wanted)
        else:
            net.again.append((*wanted[_STATE:], there[-1]))
    return net


def forget_paths(connection: sqlite3.Connection, paths: Sequence[str]) -> None:
    """Remove all rows of these paths; in a transaction of the caller that may write."""
    names = {storable(path) for path in paths}
    found = connection.execute(_RECORDED, {"places": asking_for(places_of_paths(names))}).fetchall()
    _remove(connection, [(row[:3], row[-1]) for row in found if row[2] in names])


def _remove(connection: sqlite3.Connection, gone: Sequence[tuple[Identity, int]]) -> None:
    connection.executemany(_DELETE, [(number,) for _, number in gone])
    # A damaged row may hold anything; places that are left of it say nothing.
    sound = [(identity, number) for identity, number in gone if all(type(text) is str for text in identity)]
    places = _key_places(identity for identity, _ in sound)
    drop_places(connection, [(places[identity], number) for identity, number in sound])
    paths = places_of_paths(path for (_, _, path), _ in sound)
    drop_places(connection, zip(paths, [number for _, number in sound], strict=True))


def _key_places(identities: Iterable[Identity]) -> dict[Identity, int]:
    """Return the place of each row's key."""
    keys: dict[str, list[Identity]] = {}
    for identity in identities:
        keys.setdefault(identity[0], []).append(identity)
    return {
        identity: place
        for version, those in keys.items()
        for identity, place in zip(those, places_of_keys(version, [key for _, key, _ in those]), strict=True)
    }
