"""Rows are found by their places, whichever tree these stand in: against a dictionary, among processes, after kills."""

import contextlib
import shutil
import sqlite3
import tempfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from framefetch.models import Digest, Entry
from framefetch.store import tables
from framefetch.store.changes import forget_paths
from framefetch.store.manifest import Manifest
from framefetch.store.tables import MISPLACED, TREES, overfull, teach
from tests.store.builders import RECEIPT, query, row

VERSIONS, KEYS, PATHS = ("v0", "v1"), ("a", "b", "ü"), ("x", "y")
IDENTITIES = [(version, key, path) for version in VERSIONS for key in KEYS for path in PATHS]
BOUNDS = [2, 5]


def assert_found(root) -> None:
    """Assert that each row is there once, and that its two places are there once, in whichever tree."""
    with contextlib.closing(sqlite3.connect(f"{root}/manifest.sqlite")) as connection:
        teach(connection)
        assert connection.execute(MISPLACED).fetchall() == []
    everywhere = " UNION ALL ".join(f"SELECT place, id FROM {tree}" for tree in TREES)
    rows = "SELECT count(*), count(*) FROM entries"
    assert query(root, f"SELECT count(*) / 2.0, count(DISTINCT id) FROM ({everywhere})") == query(root, rows)
    assert query(root, "SELECT version, key, path FROM entries GROUP BY 1, 2, 3 HAVING count(*) > 1") == []
    assert query(root, "SELECT version FROM entries EXCEPT SELECT version FROM versions") == []


def entry(identity: tuple[str, str, str], at: int) -> Entry:
    version, key, path = identity
    receipt = replace(RECEIPT, size=at, digests=(Digest("md5", f"{at:032x}"),))
    return Entry(version, key, path, receipt, float(at))


def plain(entries: Iterable[Entry]) -> list[Entry]:
    """Return entries without what a sync changes."""
    return [replace(entry, durable=False, trusted=True) for entry in entries]


def in_order(entries: Iterable[Entry]) -> list[Entry]:
    return sorted(plain(entries), key=lambda entry: (entry.version, entry.key, entry.path))


# -- against a dictionary ------------------------------------------------------------------------------------------


class Recorded(RuleBasedStateMachine):
    """Two manifests open on one database, with trees that are full at once, and what should be in it."""

    def __init__(self) -> None:
        super().__init__()
        self.root = tempfile.mkdtemp(prefix="framefetch-places-")
        self.open = [Manifest(self.root), Manifest(self.root)]
        self.model: dict[tuple[str, str, str], Entry] = {}
        self.versions: set[str] = set()
        self.number = 0

    def teardown(self) -> None:
        for manifest in self.open:
            manifest.close()
        shutil.rmtree(self.root)

    @rule(who=st.integers(0, 1), steps=st.lists(st.tuples(st.sampled_from(IDENTITIES), st.integers(0, 3)), max_size=8))
    def change(self, who: int, steps: list[tuple[tuple[str, str, str], int]]) -> None:
        """Commit and forget, all in one window: an entry as it is, and one as it never was."""
        for identity, what in steps:
            self.number += 1
            new = entry(identity, self.number)
            if what < 2:
                self.open[who].commit([new])
                self.model[identity] = new
            elif what == 2 and identity in self.model:
                self.open[who].forget([self.model.pop(identity)])
            else:
                self.open[who].forget([new])
        self.open[who].flush()
        self.versions |= {version for version, *_ in self.model}

    @rule(who=st.integers(0, 1))
    def reopen(self, who: int) -> None:
        self.open[who].close()
        self.open[who] = Manifest(self.root)

    @invariant()
    def everything_is_found(self) -> None:
        expected = [self.model[identity] for identity in sorted(self.model)]
        for manifest in self.open:
            assert plain(manifest.entries()) == expected
            for version in VERSIONS:
                held = [entry for entry in expected if entry.version == version]
                assert plain(manifest.entries(version)) == held
                assert in_order(manifest.lookup(version, KEYS)) == held
                assert sorted(found[:3] for found in manifest.rows(version, KEYS)) == [
                    (entry.key, entry.path, entry.receipt.size) for entry in held
                ]
                assert manifest.knows_version(version) == (version in self.versions)
            assert in_order(manifest.at(PATHS)) == expected
            assert plain(manifest.with_digests(str(entry.receipt.digests[0]) for entry in expected[:1])) == expected[:1]

    @invariant()
    def the_tables_agree(self) -> None:
        assert_found(self.root)


@pytest.fixture(params=["good places", "everybody's place"])
def places(request, monkeypatch) -> None:
    monkeypatch.setattr(tables, "BOUNDS", BOUNDS)
    if request.param != "good places":
        monkeypatch.setattr(tables, "_place_of", lambda text: 7)


@pytest.mark.timeout(300)
def test_whatever_is_recorded_is_found(places, full) -> None:
    run_state_machine_as_test(
        Recorded,
        settings=settings(
            max_examples=300 if full else 30,
            stateful_step_count=15,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )


# -- while others write --------------------------------------------------------------------------------------------


def test_entries_are_those_that_were_there_as_they_are_now(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("framefetch.store.manifest.FETCH_ROWS", 2)
    first, other = Manifest(str(tmp_path)), Manifest(str(tmp_path))
    there = [row(at) for at in range(8)]
    first.commit(there)
    first.flush()
    reading = first.entries()
    seen = [next(reading), next(reading)]
    again = replace(there[5], receipt=replace(RECEIPT, size=99))
    other.commit([again])
    other.forget([there[6]])
    other.commit([row(50)])
    other.flush()
    assert [*seen, *reading] == [*there[:5], again, there[7]]
    for manifest in (first, other):
        manifest.close()


def test_processes_that_replace_and_forget_the_same_rows_leave_each_once(tmp_path, start) -> None:
    script = """
    from framefetch.store import tables
    tables.BOUNDS[:] = [3, 17]
    folder = CacheFolder(sys.argv[1])
    barrier("open")
    for turn in range(60):
        mine = [row((turn * step + int(sys.argv[2])) % 40, fetched_at=float(turn)) for step in (1, 3, 7)]
        folder.manifest.commit(mine)
        folder.manifest.forget(mine[:1])
        folder.manifest.commit([row(100 + int(sys.argv[2]) * 1000 + turn)])
        folder.manifest.flush()
        assert folder.manifest.lookup("v0", [f"http://host/{100 + int(sys.argv[2]) * 1000 + turn}"])
    folder.close()
    """
    children = [start(script, tmp_path, number) for number in range(4)]
    for child in children:
        child.wait_for("open")
    for child in children:
        child.go_on()
    for child in children:
        child.end()
    assert_found(tmp_path)
    manifest = Manifest(str(tmp_path))
    held = list(manifest.entries())
    assert len([entry for entry in held if int(entry.key.rpartition("/")[2]) >= 100]) == 4 * 60
    found = manifest.lookup("v0", [entry.key for entry in held])
    assert sorted(found, key=lambda entry: entry.key) == sorted(held, key=lambda entry: entry.key)
    manifest.close()


# -- kills ---------------------------------------------------------------------------------------------------------

FIRST, LAST = "INSERT OR IGNORE INTO places_recent", "INSERT OR IGNORE INTO places "


@pytest.mark.parametrize("step", ["before", FIRST, "DELETE", "INSERT OR REPLACE", LAST, "after"])
def test_a_process_killed_while_it_pours_loses_no_row(tmp_path, start, step) -> None:
    script = """
    from framefetch.store import tables, writer
    tables.BOUNDS[:] = [2, 2]

    class Dying:
        def __init__(self, connection):
            self.connection = connection
        def execute(self, statement, *arguments):
            if statement.startswith(sys.argv[2]):
                os.kill(os.getpid(), 9)
            return self.connection.execute(statement, *arguments)

    def pour(connection, real=writer.pour):
        if sys.argv[2] == "before":
            os.kill(os.getpid(), 9)
        real(Dying(connection))
        os.kill(os.getpid(), 9)

    writer.pour = pour
    folder = CacheFolder(sys.argv[1])
    folder.manifest.commit([row(number) for number in range(7)])
    folder.manifest.flush()
    folder.manifest.flush()
    """
    assert start(script, tmp_path, step).process.wait() == -9
    assert_found(tmp_path)
    assert [query(tmp_path, f"SELECT count(*) FROM {tree}")[0][0] for tree in TREES] == [14, 0, 0]
    manifest = Manifest(str(tmp_path))
    assert len(manifest.lookup("v0", [f"http://host/{number}" for number in range(7)])) == 7
    assert len(manifest.owners([f"v0/{number}.nwb" for number in range(7)])) == 7
    manifest.close()


@pytest.fixture
def filled(tmp_path, monkeypatch) -> Iterator[Callable[[int], None]]:
    """Give a function that commits so many rows in windows of four, with trees of eight and sixteen rows."""
    monkeypatch.setattr(tables, "BOUNDS", [8, 16])
    manifest = Manifest(str(tmp_path))

    def commit(count: int) -> None:
        for start in range(0, count, 4):
            manifest.commit([row(number) for number in range(start, start + 4)])
            manifest.flush()
        manifest.flush()

    yield commit
    manifest.close()


def test_each_tree_is_poured_into_the_next_when_it_is_full(filled, tmp_path) -> None:
    filled(100)
    rows = [query(tmp_path, f"SELECT count(*) FROM {tree}")[0][0] // 2 for tree in TREES]
    assert rows[0] <= 8 + 4
    assert rows[1] <= 16 + 12
    assert rows[2] >= 100 - 40
    assert sum(rows) == 100
    assert_found(tmp_path)


def test_a_damaged_row_whose_file_is_lost_is_removed(tmp_path) -> None:
    manifest = Manifest(str(tmp_path))
    manifest.commit([row(1), row(2)])
    manifest.flush()
    with contextlib.closing(sqlite3.connect(tmp_path / "manifest.sqlite", isolation_level=None)) as connection:
        connection.execute("UPDATE entries SET key = x'00ff' WHERE id = 1")
        connection.execute("DELETE FROM poured")
        connection.execute("BEGIN")
        forget_paths(connection, ["v0/1.nwb"])
        assert not overfull(connection)
        connection.execute("COMMIT")
    assert [entry.key for entry in manifest.entries()] == ["http://host/2"]
    manifest.close()


def test_an_id_is_never_used_again(tmp_path) -> None:
    """A place that outlives its row, as an older framefetch leaves one, must not lead to another row."""
    manifest = Manifest(str(tmp_path))
    for number in range(3):
        manifest.commit([row(number)])
        manifest.flush()
        manifest.forget([row(number)])
        manifest.flush()
    manifest.commit([row(9)])
    manifest.flush()
    assert query(tmp_path, "SELECT id FROM entries") == [(4,)]
    manifest.close()
