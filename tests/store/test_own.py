"""What a writer knows of its own writing saves look-ups, and never makes a second row of one."""

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from framefetch.store import changes
from framefetch.store.manifest import Manifest
from framefetch.store.own import Own
from tests.store.builders import RECEIPT, row

NEW = replace(RECEIPT, size=4)


@pytest.fixture
def manifest(tmp_path: Path):
    opened = Manifest(str(tmp_path))
    yield opened
    opened.close()


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Give a list of how many places were looked for, at each look."""
    looks: list[int] = []
    asking_for = changes.asking_for

    def noted(places):
        looks.append(len(places))
        return asking_for(places)

    monkeypatch.setattr(changes, "asking_for", noted)
    return looks


def write(manifest: Manifest, *entries, unknown_at: int | None = None) -> None:
    manifest.commit(list(entries), unknown_at=unknown_at)
    manifest.flush()


def rows(manifest: Manifest) -> list[tuple[str, int]]:
    return [(entry.key, entry.receipt.size) for entry in manifest.entries()]


def test_what_was_unknown_is_not_looked_for_as_long_as_nobody_else_writes(manifest, asked) -> None:
    mark = manifest.last_window()
    for at in range(5):
        write(manifest, row(at), row(at + 10), unknown_at=mark)
    assert asked == []
    assert len(rows(manifest)) == 10
    write(manifest, row(20))
    assert asked == [1], "of this one nobody knows"


def test_what_was_written_before_is_looked_for(manifest, asked) -> None:
    mark = manifest.last_window()
    write(manifest, row(1), unknown_at=mark)
    write(manifest, row(1, receipt=NEW), row(2), unknown_at=mark)
    assert asked == [1]
    write(manifest, row(2, receipt=NEW), row(2, receipt=RECEIPT), row(3), row(3, receipt=NEW), unknown_at=mark)
    assert rows(manifest) == [("http://host/1", 4), ("http://host/2", 3), ("http://host/3", 4)]


def test_what_somebody_else_wrote_meanwhile_is_found(manifest, tmp_path, asked) -> None:
    write(manifest, row(1))
    mark = manifest.last_window()
    write(manifest, row(2), unknown_at=mark)
    other = Manifest(str(tmp_path))
    write(other, row(3))
    other.close()
    asked.clear()
    write(manifest, row(3, receipt=NEW), row(4), unknown_at=mark)
    assert asked == [2]
    assert rows(manifest) == [(f"http://host/{at}", 4 if at == 3 else 3) for at in (1, 2, 3, 4)]
    asked.clear()
    write(manifest, row(5), unknown_at=manifest.last_window())
    assert asked == [], "somebody looked again since"


def test_what_was_forgotten_can_be_written_again(manifest) -> None:
    mark = manifest.last_window()
    write(manifest, row(1), unknown_at=mark)
    manifest.forget([row(1)])
    write(manifest, row(1, receipt=NEW), unknown_at=mark)
    assert rows(manifest) == [("http://host/1", 4)]


def test_who_takes_over_from_a_manifest_that_was_lost_looks(manifest, tmp_path, monkeypatch) -> None:
    """Its windows are others: that the numbers go on from where the look was says nothing."""
    write(manifest, row(9))
    anew = tmp_path / "anew"
    anew.mkdir()
    maker = Manifest(str(anew))
    write(maker, row(1))
    maker.close()
    mark = manifest.last_window()
    successor = Manifest(str(anew))
    assert successor.last_window() == mark

    def gone() -> None:
        raise OSError("gone")

    monkeypatch.setattr(manifest._writer, "_require_same_file", gone)
    manifest.commit([row(1, receipt=NEW)], unknown_at=mark)
    manifest.close()
    manifest.hand_over(successor)
    successor.flush()
    assert rows(successor) == [("http://host/1", 4)]
    successor.close()


@given(st.lists(st.tuples(st.sampled_from("abcd"), st.booleans(), st.none() | st.integers(0, 4)), max_size=30))
def test_new_is_only_what_cannot_be_there(steps) -> None:
    """Against a model that knows which rows there were after each window, and so what a look then could have said."""
    own = Own()
    history: list[frozenset[str]] = [frozenset()]
    for key, ours, ago in steps:
        there, window = history[-1], len(history)
        if ours:
            mark = None if ago is None else max(0, window - 1 - ago)
            unknown_at = mark if mark is not None and key not in history[mark] else None
            if list(own.new_among([("v0", key, key)], unknown_at, window)):
                assert key not in there
            own.committed(window)
        history.append(there | {key})


def test_without_others_everything_unknown_is_new() -> None:
    own = Own()
    for window in range(1, 50):
        rows = [("v0", f"{window}.{at}", "path") for at in range(20)]
        assert list(own.new_among(rows, 0, window)) == rows
        own.committed(window)
