"""The short way of "do we hold it?", for the many files where nothing has changed: columns against rows and one stat.

A file is settled here only where every look agrees: one entry, at the planned path, trusted, of the size and digests
the table states, and a stat that is as recorded; or no entry at all, and nothing at the planned path. Whatever is not
so plain is left to `framefetch.store.held`, which knows the whole ladder.
"""

from __future__ import annotations

import os
import stat
from os import lstat
from os.path import lexists
from typing import TYPE_CHECKING, Final, NamedTuple

from framefetch.models import Verified
from framefetch.native.calls import stat_of
from framefetch.store.places import inode_of
from framefetch.store.symlinks import FoldersSeen

if TYPE_CHECKING:
    from array import array
    from collections.abc import Iterator, Sequence

    from framefetch.models import Requests, Stated
    from framefetch.store.manifest import Manifest, Row

__all__ = ["Glimpse", "glance", "missing_places"]

LOOKUP_ROWS: Final = 4096
#: Files whose places are looked at to see whether any are missing at all.
SAMPLE: Final = 512
_LEVELS: Final = {level.value: level for level in Verified}


class Glimpse(NamedTuple):
    """Files that are held as they were recorded, in columns: an object for each would cost as much as a stat."""

    files: list[int]
    sizes: list[int]
    verified: list[Verified]
    md5: list[str]


def glance(
    requests: Requests,
    positions: Sequence[int],
    manifest: Manifest,
    root: str,
    doubtful: array[int],
    unknown: array[int],
) -> Iterator[Glimpse]:
    """Yield the files that are plainly held, some thousand at a time; what is not `doubtful` either is plainly missing.

    Parameters
    ----------
    requests : Requests
        The plan.
    positions : sequence of int
        The files to look for.
    manifest : Manifest
        What is recorded.
    root : str
        Absolute path of the cache.
    doubtful : array of int
        Gets what is left to look at in full.
    unknown : array of int
        Gets those whose keys no entry knows.
    """
    if not manifest.knows_version(requests.version):
        doubtful.extend(positions)
        unknown.extend(positions)
        return
    folders = FoldersSeen(root)
    for start in range(0, len(positions), LOOKUP_ROWS):
        block = positions[start : start + LOOKUP_ROWS]
        known: dict[str, Row | None] = {}
        for row in manifest.rows(requests.version, [requests.keys[position] for position in block]):
            known[row[0]] = None if row[0] in known else row  # a key in two places is for the long way
        seen = Glimpse([], [], [], [])
        for stated in requests.stated_of(block):
            obstructed = folders.obstacle_above(stated[2]) is not None
            if stated[1] not in known:
                unknown.append(stated[0])
                if obstructed or lexists(f"{root}/{stated[2]}"):
                    doubtful.append(stated[0])
                continue
            row_of_key = known[stated[1]]
            if row_of_key is not None and not obstructed and _agrees(row_of_key, stated, root):
                seen.files.append(stated[0])
                seen.sizes.append(row_of_key[2])
                seen.verified.append(_LEVELS[row_of_key[7]])
                seen.md5.append(row_of_key[6][4:36])
            else:
                doubtful.append(stated[0])
        yield seen


def _agrees(row: Row, stated: Stated, root: str) -> bool:
    """Return whether what is recorded, what the table states, and what a stat finds are the same file."""
    _, path, size, mtime_ns, ctime_ns, inode, digests, verified, trusted = row
    _, _, planned, stated_size, stated_digests = stated
    if path != planned or not trusted or (stated_size != size and stated_size >= 0):
        return False
    if stated_digests and verified != Verified.DIGEST.value:
        return False  # the level is raised where they are compared
    if verified not in _LEVELS or type(digests) is not str or digests[:4] != "md5:":
        return False  # what is read from a damaged page may be anything
    for text in stated_digests:
        if text not in digests:  # "algorithm:digits": found whole or not at all, as all digests of one have one length
            return False
    try:
        found = lstat(f"{root}/{path}")
    except OSError:
        return False
    return (
        found.st_size == size
        and (found.st_mtime_ns == mtime_ns or stat_of(found)[2] == mtime_ns)
        and (found.st_ctime_ns == ctime_ns or stat_of(found)[3] == ctime_ns)
        and (found.st_ino == inode or inode_of(found) == inode)
        and stat.S_ISREG(found.st_mode)
    )


def missing_places(requests: Requests, positions: Sequence[int], root: str) -> list[int]:
    """Return the files at whose planned places nothing stands, in order, by the lists of their folders; a hint.

    Nothing where a sample, spread over all and denser at the end, finds all of them: then the lists are not worth it.

    Parameters
    ----------
    requests : Requests
        The plan.
    positions : sequence of int
        The files to look for.
    root : str
        Absolute path of the cache.
    """
    sample = {*positions[:: max(1, len(positions) // SAMPLE)], *positions[-SAMPLE:]}
    if all(lexists(f"{root}/{requests.path(position)}") for position in sample):
        return []
    lists: dict[str, set[str]] = {}
    missing = []
    for position in positions:
        folder, _, name = requests.path(position).rpartition("/")
        there = lists.get(folder)
        if there is None:
            there = lists[folder] = _names_in(f"{root}/{folder}")
        if name not in there:
            missing.append(position)
    return missing


def _names_in(folder: str) -> set[str]:
    try:
        return set(os.listdir(folder))
    except OSError:
        return set()
