"""A manifest made true to the files, from whatever explains them; what nothing explains is reported and left alone."""

import json
import os
import sqlite3

import numpy as np
import pytest

from framefetch.store.audit import audit
from framefetch.store.folder import CacheFolder
from framefetch.store.prune import prune
from framefetch.store.rebuild import rebuild
from framefetch.store.tables import TREES
from framefetch.table.requests import TableRequests
from tests.store.builders import digest, hold, query, request, row, tree

BODIES = {f"v0/{at}": b"the bytes of file %d" % at for at in range(8)}


@pytest.fixture
def root(tmp_path):
    with CacheFolder(tmp_path / "cache") as folder:
        for path, body in BODIES.items():
            hold(folder, request(path), body)
    return tmp_path / "cache"


def table(*paths: str, host: str = "host", stated: bool = True) -> TableRequests:
    names = [path.partition("/")[2] for path in paths]
    keys = [f"http://{host}/{name}" for name in names]
    column = np.array([digest(BODIES[path]).hex if stated else None for path in paths], dtype=object)
    return TableRequests("v0", keys, keys, names, {}, np.full(len(keys), -1), {"md5": column})


def lose(root) -> None:
    for name in os.listdir(root):
        if name.startswith("manifest.sqlite"):
            (root / name).unlink()


def entries(root) -> list[tuple[str, str]]:
    return query(root, "SELECT key, path FROM entries ORDER BY path")


ALL = [(f"http://host/{at}", f"v0/{at}") for at in range(8)]


def test_a_true_manifest_stays_as_it_is(root, open_folder) -> None:
    folder = open_folder(root)
    before = query(root, "SELECT * FROM entries")
    report = rebuild(folder, None, {})
    assert (report.held, report.adopted, report.findings) == (8, 0, [])
    assert query(root, "SELECT * FROM entries") == before


def test_what_is_not_true_any_more_is_forgotten_and_reported(root, open_folder) -> None:
    (root / "v0" / "1").unlink()
    (root / "v0" / "2").write_bytes(b"edited")
    os.utime(root / "v0" / "3")
    (root / "v0" / "stranger").write_bytes(b"?")
    folder = open_folder(root)
    report = rebuild(folder, None, {})
    assert sorted((finding.kind, finding.path) for finding in report.findings) == [
        ("changed", "v0/2"), ("missing", "v0/1"), ("unknown", "v0/stranger"),
    ]  # fmt: skip
    assert report.held == 6
    assert [path for _, path in entries(root)] == ["v0/0", "v0/3", "v0/4", "v0/5", "v0/6", "v0/7"]
    findings = [(finding.kind, finding.path) for finding in audit(folder.files, folder.manifest, level="stat")]
    assert findings == [("unknown", "v0/2"), ("unknown", "v0/stranger")], "the one whose time had changed is refreshed"


def test_what_cannot_be_read_today_is_not_forgotten(root, open_folder, monkeypatch) -> None:
    folder = open_folder(root)
    real = folder.files.hash

    def failing(path, *arguments):
        if path == "v0/4":
            raise OSError(5, "Input/output error")
        return real(path, *arguments)

    monkeypatch.setattr(folder.files, "hash", failing)
    report = rebuild(folder, None, {})
    assert [(finding.kind, finding.path) for finding in report.findings] == [("blocked", "v0/4")]
    assert entries(root) == ALL


@pytest.mark.parametrize("number", [5, 13, 116])
def test_what_cannot_be_looked_at_today_is_not_forgotten(root, open_folder, monkeypatch, number) -> None:
    """A folder that a colleague has closed, a server of files that has hiccups."""
    folder = open_folder(root)
    before = entries(root)
    real = os.lstat

    def lstat(path, **options):
        if str(path).endswith("v0/4"):
            raise OSError(number, os.strerror(number))
        return real(path, **options)

    monkeypatch.setattr(os, "lstat", lstat)
    report = rebuild(folder, None, {})
    assert [(finding.kind, finding.path) for finding in report.findings] == [("blocked", "v0/4")]
    monkeypatch.undo()
    assert entries(root) == before


@pytest.mark.parametrize(("times", "found"), [(1, []), (2, []), (99, [("blocked", "v0/4")])])
def test_a_file_whose_mode_changes_while_it_is_read_is_read_again(root, open_folder, monkeypatch, times, found) -> None:
    folder = open_folder(root)
    before = entries(root)
    real, left = folder.files.hash, [times]

    def read(path, *rest):
        digests = real(path, *rest)
        if path == "v0/4" and left[0]:
            left[0] -= 1
            os.chmod(root / path, 0o600 + left[0] % 2 * 0o40)
        return digests

    monkeypatch.setattr(folder.files, "hash", read)
    report = rebuild(folder, None, {})
    assert [(finding.kind, finding.path) for finding in report.findings] == found
    assert entries(root) == before


def test_a_table_explains_files_by_their_digests(root, open_folder) -> None:
    lose(root)
    (root / "v0" / "7").write_bytes(b"not what the table states")
    report = rebuild(open_folder(root), table(*BODIES), {})
    assert (report.held, report.adopted) == (7, 7)
    assert [(finding.kind, finding.path) for finding in report.findings] == [("unknown", "v0/7")]
    assert entries(root) == ALL[:7]
    assert query(root, "SELECT DISTINCT verified FROM entries") == [("digest",)]


def test_a_file_that_was_moved_is_found_by_its_content(root, open_folder) -> None:
    lose(root)
    (root / "v0" / "sub").mkdir()
    os.rename(root / "v0" / "3", root / "v0" / "sub" / "renamed")
    report = rebuild(open_folder(root), table(*BODIES), {})
    assert (report.held, report.findings) == (8, [])
    assert ("http://host/3", "v0/sub/renamed") in entries(root)


def test_of_two_files_of_the_same_content_one_is_adopted_and_the_other_stays(root, open_folder) -> None:
    lose(root)
    (root / "v0" / "a").mkdir()
    (root / "v0" / "b").mkdir()
    (root / "v0" / "a" / "3").write_bytes(BODIES["v0/3"])
    os.rename(root / "v0" / "3", root / "v0" / "b" / "3")
    folder = open_folder(root)
    report = rebuild(folder, table(*BODIES), {})
    assert (report.held, report.adopted) == (8, 8)
    assert [(finding.kind, finding.path) for finding in report.findings] == [("unknown", "v0/b/3")]
    assert entries(root) == sorted([*ALL[:3], *ALL[4:], ("http://host/3", "v0/a/3")], key=lambda entry: entry[1])
    assert "v0/b/3" not in prune(folder, "v0", {"http://host/0"}, dry_run=False).removed
    assert tree(root / "v0") == {"0": BODIES["v0/0"], "b/3": BODIES["v0/3"]}


def test_what_is_no_file_is_not_opened_to_see_what_it_may_be(root, start) -> None:
    """A pipe that nobody writes to would be waited for, for ever; what a link leads to is not the cache's."""
    os.rename(root / "v0" / "3", root.parent / "outside")
    os.symlink("../../outside", root / "v0" / "3")
    lose(root)
    os.mkfifo(root / "v0" / "pipe")
    script = """
    import numpy as np
    from framefetch.store.rebuild import rebuild
    from framefetch.table.requests import TableRequests
    column = np.array([digest(b"the bytes of file 3").hex], dtype=object)
    folder = CacheFolder(sys.argv[1])
    requests = TableRequests("v0", ["http://host/3"], ["http://host/3"], ["x"], {}, np.full(1, -1), {"md5": column})
    assert sorted(finding.path for finding in rebuild(folder, requests, {}).findings) == sys.argv[2:]
    """
    unknown = [*BODIES, "v0/pipe"]
    assert start(script, root, *unknown).process.wait(60) == 0
    assert entries(root) == []


def test_a_table_without_digests_explains_nothing(root, open_folder) -> None:
    lose(root)
    before = tree(root / "v0")
    report = rebuild(open_folder(root), table(*BODIES, stated=False), {})
    assert report.held == 0
    assert [finding.path for finding in report.findings] == list(BODIES)
    assert tree(root / "v0") == before


def test_a_prototypes_manifest_explains_files(root, open_folder, tmp_path) -> None:
    lose(root)
    layout = {
        f"http://localhost:8080/{at}": {"file_path": path, "md5_checksum": digest(body).hex}
        for at, (path, body) in enumerate(BODIES.items())
    }
    layout["http://localhost:8080/1"]["file_path"] = str(root / "v0" / "1")
    layout["http://localhost:8080/2"]["file_path"] = "../outside"
    (root.parent / "outside").write_bytes(BODIES["v0/2"])
    layout["http://localhost:8080/own"] = {
        "file_path": ".framefetch/own",
        "md5_checksum": digest(BODIES["v0/2"]).hex,
    }
    (root / ".framefetch" / "own").write_bytes(BODIES["v0/2"])
    layout["http://localhost:8080/3"]["md5_checksum"] = "0" * 32
    layout["http://localhost:8080/4"]["md5_checksum"] = "?"
    no_version = {"\ud800": {"http://localhost:8080/0": layout["http://localhost:8080/0"]}}
    (root / "manifest.json").write_text(json.dumps(no_version | {"v0": layout}))
    folder = open_folder(root)
    report = rebuild(folder, None, {"warehouse:9000": "localhost:8080"})
    assert {entry.version for entry in folder.manifest.entries()} == {"v0"}
    assert [path for _, path in entries(root)] == ["v0/0", "v0/1", "v0/5", "v0/6", "v0/7"]
    assert entries(root)[0] == ("http://warehouse:9000/0", "v0/0")
    assert [finding.path for finding in report.findings] == ["v0/2", "v0/3", "v0/4"]


def test_what_was_set_aside_explains_files(root, open_folder) -> None:
    os.rename(root / "manifest.sqlite", root / "manifest.sqlite.corrupt-4")
    with CacheFolder(root, mend=True) as folder:
        assert {entry.trusted for entry in folder.manifest.entries()} == {False}
        folder.manifest.forget(list(folder.manifest.entries()))
    report = rebuild(open_folder(root), None, {})
    assert (report.held, report.adopted) == (8, 8)
    assert entries(root) == ALL
    assert {entry.trusted for entry in open_folder(root).manifest.entries()} == {True}


def link_away(root, name: str) -> None:
    """Move a folder out of the cache, and leave a link in its place."""
    os.rename(root / name, root.parent / "moved")
    os.symlink("../moved", root / name)


def test_what_stands_behind_a_link_is_not_held_and_not_forgotten(root, open_folder) -> None:
    link_away(root, "v0")
    folder = open_folder(root)
    report = rebuild(folder, table(*BODIES), {})
    assert (report.held, report.adopted) == (0, 0)
    assert {(finding.kind, finding.path) for finding in report.findings} == {
        ("blocked", path) for path in ["v0", *BODIES]
    }
    assert entries(root) == ALL
    (root / "v0").unlink()
    os.rename(root.parent / "moved", root / "v0")
    assert rebuild(folder, None, {}).held == 8


@pytest.mark.parametrize("source", ["a table", "a prototype", "what was set aside", "nothing"])
@pytest.mark.parametrize(("linked", "found"), [("v0", ("blocked", "v0")), ("v0/a", ("unknown", "v0/a"))])
def test_nothing_behind_a_link_is_adopted(root, open_folder, source, linked, found) -> None:
    body = b"below a folder"
    with CacheFolder(root) as folder:
        folder.manifest.forget(list(folder.manifest.entries()))
        for path in BODIES:
            (root / path).unlink()
        hold(folder, request("v0/a/9"), body)
    if source == "what was set aside":
        os.rename(root / "manifest.sqlite", root / "manifest.sqlite.corrupt-4")
        with CacheFolder(root) as folder:
            folder.manifest.forget(list(folder.manifest.entries()))
    else:
        lose(root)
    if source == "a prototype":
        stated = {"http://host/9": {"file_path": "v0/a/9", "md5_checksum": digest(body).hex}}
        (root / "manifest.json").write_text(json.dumps({"v0": stated}))
    column = np.array([digest(body).hex], dtype=object)
    requests = TableRequests("v0", ["http://host/9"], ["http://host/9"], ["a/9"], {}, np.full(1, -1), {"md5": column})
    link_away(root, linked)
    report = rebuild(open_folder(root), requests if source == "a table" else None, {})
    assert (report.held, report.adopted) == (0, 0)
    assert [(finding.kind, finding.path) for finding in report.findings] == [found]
    assert entries(root) == []


def test_hints_that_were_never_believed_are_settled(root, open_folder) -> None:
    with open(root / "manifest.sqlite", "r+b") as file:
        file.write(b"\0" * 100)
    folder = open_folder(root)
    report = rebuild(folder, None, {})
    assert (report.held, report.findings) == (8, [])
    assert {entry.trusted for entry in folder.manifest.entries()} == {True}


def test_a_damage_that_nobody_has_met_yet_is_found(root, open_folder) -> None:
    """A page of a tree: who reads all entries would never see it."""
    folder = open_folder(root)
    folder.manifest.commit([row(number) for number in range(2000)])
    folder.close()
    connection = sqlite3.connect(root / "manifest.sqlite")
    (page,) = connection.execute("SELECT rootpage FROM sqlite_master WHERE name = 'places_new'").fetchone()
    connection.close()
    with open(root / "manifest.sqlite", "r+b") as file:
        file.seek((page - 1) * 4096)
        file.write(b"\xee" * 4096)
    folder = open_folder(root)
    assert len(list(folder.manifest.entries())) == 2008
    report = rebuild(folder, None, {})
    assert report.held == 8
    assert os.path.exists(root / "manifest.sqlite.corrupt-1")
    assert query(root, "PRAGMA integrity_check") == [("ok",)]


@pytest.mark.parametrize("tree", TREES)
def test_a_row_that_nobody_would_find_is_found(root, open_folder, tree) -> None:
    folder = open_folder(root)
    folder.close()
    connection = sqlite3.connect(root / "manifest.sqlite", isolation_level=None)
    if tree != TREES[0]:
        connection.executescript(f"INSERT INTO {tree} SELECT * FROM {TREES[0]}; DELETE FROM {TREES[0]}")
    connection.execute(f"DELETE FROM {tree} WHERE id = (SELECT id FROM entries WHERE path = 'v0/3') AND place > 0")
    connection.close()
    folder = open_folder(root)
    ((key,),) = query(root, "SELECT key FROM entries WHERE path = 'v0/3'")
    assert folder.manifest.lookup("v0", [key]) == []
    assert folder.manifest.owners(["v0/3"]) == {"v0/3": key}
    report = rebuild(folder, None, {})
    assert report.held == 8
    assert [entry.path for entry in folder.manifest.lookup("v0", [key])] == ["v0/3"]
    assert os.path.exists(root / "manifest.sqlite.corrupt-1")


def test_a_key_that_changed_is_no_second_owner(root, open_folder) -> None:
    report = rebuild(open_folder(root), table(*BODIES, host="elsewhere"), {})
    assert (report.held, report.adopted) == (8, 0)
    assert entries(root) == ALL


def test_a_rebuilding_that_is_killed_is_gone_on_with(root, start, open_folder) -> None:
    lose(root)
    script = """
    import numpy as np
    from framefetch.store import rebuild as module
    from framefetch.table.requests import TableRequests
    names = [str(at) for at in range(8)]
    keys = [f"http://host/{name}" for name in names]
    column = np.array([digest(b"the bytes of file %d" % at).hex for at in range(8)], dtype=object)
    from framefetch.store import audit
    audit.BLOCK_ROWS = 2
    read = 0
    def watch(size):
        global read
        read += 1
        if read == 6:
            os.kill(os.getpid(), 9)
    folder = CacheFolder(sys.argv[1])
    requests = TableRequests("v0", keys, keys, names, {}, np.full(8, -1), {"md5": column})
    module.rebuild(folder, requests, {}, watch=watch)
    """
    assert start(script, root).process.wait() == -9
    assert 0 < len(entries(root)) < 8
    report = rebuild(open_folder(root), table(*BODIES), {})
    assert report.held == 8
    assert entries(root) == ALL
