"""Where new parts lie: in folders of their own once the disk takes its time, and what becomes of those."""

import contextlib
import errno
import os
import stat
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from framefetch.models import Receipt
from framefetch.store import partpaths
from framefetch.store.folder import CacheFolder
from framefetch.store.journal import leftovers
from framefetch.store.partpaths import FOLDERS, PartPaths, folder_owner, remove_folder
from tests.store.builders import parts, request, small, tree

TOKEN = "0123abcd"

#: Writes a lot as if the disk were far away, and another one that stays in its folders.
DIES_WITH_PARTS = """
from framefetch.store import partpaths
from framefetch.store.folder import CacheFolder
partpaths.PATIENCE = 0.0

folder = CacheFolder(sys.argv[1])
bodies = [small(request(f"v0/{at}", index=at), b"%d" % at) for at in range(40)]
asyncio.run(folder.files.save(bodies[:20]))
folder.files._places.move_all_in = lambda moves: barrier("written")
asyncio.run(folder.files.save(bodies[20:]))
"""


@pytest.fixture
def paths(tmp_path: Path) -> PartPaths:
    return PartPaths(str(tmp_path), TOKEN)


@pytest.mark.parametrize(
    ("count", "seconds", "spread"),
    [(64, 0.0319, False), (64, 0.0321, True), (4, 0.0021, True), (3, 60.0, False), (1, 60.0, False)],
)
def test_they_are_spread_when_the_disk_has_shown_that_it_takes_its_time(
    count: int, seconds: float, spread: bool, paths: PartPaths, tmp_path: Path
) -> None:
    paths.took(count, seconds)
    folders = Counter(os.path.dirname(path) for path in paths.several(4 * FOLDERS))
    assert len(folders) == (FOLDERS if spread else 1)
    assert set(folders.values()) == ({4} if spread else {4 * FOLDERS})
    assert all(stat.S_ISDIR(os.lstat(folder).st_mode) for folder in folders)
    assert (os.listdir(tmp_path) == []) is not spread
    paths.close()
    assert os.listdir(tmp_path) == []


def test_no_two_have_one_name(paths: PartPaths) -> None:
    names = [paths.new(), *paths.several(100)]
    paths.took(100, 1.0)
    names += [*paths.several(100), paths.new(), *paths.several(100)]
    assert len(set(names)) == len(names) == 302


def test_threads_that_come_together_have_the_same_folders(
    paths: PartPaths, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mkdir, together = os.mkdir, threading.Barrier(2)

    def wait_and_make(path: str) -> None:
        with contextlib.suppress(threading.BrokenBarrierError):
            together.wait(0.5)  # for another one that makes them, which there should not be
        mkdir(path)

    paths.took(4, 1.0)
    monkeypatch.setattr(os, "mkdir", wait_and_make)
    with ThreadPoolExecutor(2) as pool:
        given = [path for made in pool.map(paths.several, [100, 100]) for path in made]
    assert len({os.path.dirname(path) for path in given}) == len(os.listdir(tmp_path)) == FOLDERS
    assert all(os.path.isdir(os.path.dirname(path)) for path in given)
    assert len(set(given)) == 200


def test_where_there_can_be_no_folders_one_will_do(
    paths: PartPaths, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, mkdir = [], os.mkdir

    def refuse_the_third(path: str) -> None:
        made.append(path)
        if len(made) == 3:
            raise OSError(errno.EDQUOT, os.strerror(errno.EDQUOT), path)
        mkdir(path)

    monkeypatch.setattr(os, "mkdir", refuse_the_third)
    for _ in range(2):
        paths.took(4, 1.0)
        assert {os.path.dirname(path) for path in paths.several(FOLDERS)} == {str(tmp_path)}
    assert len(made) == 3, "it is not tried again"
    assert os.listdir(tmp_path) == []


async def save(folder: CacheFolder, lot: int) -> None:
    """Save 50 files; they are held, and have their bytes."""
    contents = {f"v0/{lot}/{at}": b"%d.%d" % (lot, at) for at in range(50)}
    bodies = [small(request(path, index=at), content) for at, (path, content) in enumerate(contents.items())]
    assert all(isinstance(result, Receipt) for result in await folder.files.save(bodies))
    found = tree(Path(folder.root))
    assert {path: found.get(path) for path in contents} == contents


async def test_what_is_published_from_them_is_as_any_other(open_folder, monkeypatch) -> None:
    monkeypatch.setattr(partpaths, "PATIENCE", 0.0)
    folder = open_folder()
    for lot in range(3):
        await save(folder, lot)
    owned = [name for name in os.listdir(f"{folder.private}/parts") if folder_owner(name)]
    assert len(owned) == FOLDERS
    assert set(map(folder_owner, owned)) == {folder.journal.token}
    assert all(os.listdir(f"{folder.private}/parts/{name}") == [] for name in owned)
    folder.close()
    assert parts(folder) == []


def test_folders_of_the_dead_go_and_those_of_the_living_stay(tmp_path: Path, start, open_folder) -> None:
    private = tmp_path / "cache" / ".framefetch"
    child = start(DIES_WITH_PARTS, tmp_path / "cache")
    child.wait_for("written")
    left = {path: content for path, content in tree(private / "parts").items() if "/" in path}
    assert sorted(left.values()) == sorted(b"%d" % at for at in range(20, 40))
    open_folder().close()
    assert {path: content for path, content in tree(private / "parts").items() if "/" in path} == left
    child.kill()
    folder = open_folder()
    assert parts(folder) == []
    assert sorted(entry.path for entry in folder.manifest.entries()) == sorted(f"v0/{at}" for at in range(20))


def test_nothing_behind_a_link_is_removed_and_nothing_else_of_anybodys(tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    (home / "a1").write_bytes(b"precious")
    private = tmp_path / "private"
    folder = private / "parts"
    (folder / f"{TOKEN}.1" / "deeper").mkdir(parents=True)
    for name in ("2f", "notes.txt"):
        (folder / f"{TOKEN}.1" / name).write_bytes(b"")
    (folder / f"{TOKEN}.0").symlink_to(home)
    (folder / f"{TOKEN}.2").write_bytes(b"a file")
    (private / "locks").mkdir()
    assert list(leftovers(str(private))) == [[]]
    assert (home / "a1").read_bytes() == b"precious"
    assert sorted(os.listdir(folder)) == [f"{TOKEN}.{number}" for number in range(3)]
    assert sorted(os.listdir(folder / f"{TOKEN}.1")) == ["deeper", "notes.txt"]
    remove_folder(str(folder / "missing"))


@pytest.mark.parametrize(
    "name", ["0123abc.1", "0123abcd.", "0123abcd.g", "0123ABCD.1", "0123abcd-1", "0123abcd.1.json"]
)
def test_other_names_are_nobodys_folders(name: str) -> None:
    assert folder_owner(name) is None


@pytest.mark.parametrize("taken", [1, FOLDERS])
async def test_folders_that_somebody_took_away_are_done_without(taken: int, open_folder, monkeypatch) -> None:
    monkeypatch.setattr(partpaths, "PATIENCE", 0.0)
    folder = open_folder()
    for lot in range(4):
        await save(folder, lot)
        for name in sorted(filter(folder_owner, os.listdir(f"{folder.private}/parts")))[:taken]:
            os.rmdir(f"{folder.private}/parts/{name}")
    folder.close()
    assert parts(folder) == []
