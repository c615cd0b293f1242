"""Notes of processes that share a cache: written so that nobody sees half of one, and never waited for without end."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from framefetch.store.folder import CacheFolder
from framefetch.store.neighbours import Neighbours
from framefetch.table.requests import TableRequests
from tests.store.builders import Child

PATIENCE = 0.2
NOBODY = TableRequests("v0", [], [], [], {}, np.zeros(0, int), {})


NEIGHBOUR = """
folder = CacheFolder(sys.argv[1])
folder.prepare()
folder.presence.open(locks=False)
barrier("open")
barrier("never")
"""


def notes_in(folder: CacheFolder) -> list[Path]:
    return list((Path(folder.private) / "locks").glob("*.owner"))


@pytest.mark.parametrize(
    ("text", "who"),
    [
        (
            '{"process": 7, "machine": "far", "locks": true}}',
            "process 0 on an unknown machine",
        ),  # a disk that cuts nothing off
        ("", "process 0 on an unknown machine"),
        ('{"process": 7, "machine": "far", "locks": 0}', "process 7 on far"),
    ],
)
@pytest.mark.parametrize("lives", [True, False])
def test_who_never_says_that_he_locks_is_not_waited_for_without_end(
    folder: CacheFolder, start: Callable[..., Child], text: str, who: str, lives: bool
) -> None:
    folder.prepare()
    start(NEIGHBOUR, folder.root).wait_for("open")
    (note,) = notes_in(folder)
    note.write_text(text)
    looks = 0

    def stopped() -> bool:
        nonlocal looks
        looks += 1
        if lives:
            os.utime(note, ns=(looks, looks))
        return False

    neighbours = Neighbours(folder, NOBODY, PATIENCE)
    neighbours.begin(stopped)
    try:
        assert looks > 1, "it is given time"
        (warning,) = neighbours.warnings
        assert who in warning
        assert ("does not say what it fetches" in warning) == lives
        assert ("gives no sign of life for 0.2 s" in warning) == (not lives)
    finally:
        neighbours.end()


def test_a_note_is_whole_at_any_time(folder: CacheFolder) -> None:
    folder.prepare()
    presence = folder.presence
    presence.open(locks=False)
    try:
        (path,) = notes_in(folder)
        with path.open("rb") as seen:
            before = seen.read()
            presence.tell_of_locks()
            seen.seek(0)
            after = seen.read()
        assert (json.loads(before)["locks"], json.loads(after)["locks"]) == (0, 1)
        assert len(before) == len(after)
        assert path.read_bytes() == after
    finally:
        presence.close()
