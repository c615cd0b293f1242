"""The disk fails at its Nth call, for every N: nothing wrong is ever held, and the next run ends with everything."""

import errno
import os
import shutil
import subprocess
from collections.abc import Callable
from itertools import count
from pathlib import Path

import pytest

from framefetch.warehouse import Serve, WarehouseThread, hdf5_file, rate
from tests.conftest import needed
from tests.faults.disk.bench import FOR_EVER, Bench, Fault, Kind, Mode, Stock, audit_and_go_on, recorded, spread

MIB = 1 << 20
#: Three files that fit one block, and one that does not.
CONTENTS = {f"v0/s{at}.nwb": hdf5_file(3000 + at, seed=at) for at in range(3)} | {"v0/l.nwb": hdf5_file(1_300_000)}
#: Where unfinished files lie.
PARTS = Path(".framefetch") / "parts"
#: Calls struck for each fault in the short form.
FEW = 4
Note = Callable[[str, str, str, int], None]

FAULTS = {
    "a full disk": ("93", Fault(Kind.GROWING, Mode.FAIL, errno.ENOSPC, FOR_EVER)),
    "no space, once": ("93", Fault(Kind.GROWING, Mode.FAIL, errno.ENOSPC)),
    "over quota at a close": ("94", Fault(Kind.CLOSE, Mode.FAIL, errno.EDQUOT)),
    "an I/O error, once": ("96", Fault(Kind.ANY, Mode.FAIL, errno.EIO)),
    "I/O errors from then on": ("96", Fault(Kind.ANY, Mode.FAIL, errno.EIO, FOR_EVER)),
    "one denial": ("92", Fault(Kind.NAMES, Mode.FAIL, errno.EACCES)),
    "a signal": ("93", Fault(Kind.CREATE | Kind.OPEN | Kind.WRITE | Kind.READ, Mode.FAIL, errno.EINTR)),
    "short writes": ("93", Fault(Kind.WRITE, Mode.SHORT, times=3)),
    "too many files open": ("98", Fault(Kind.OPENING, Mode.FAIL, errno.EMFILE, times=2)),
}
#: Those that are also tried where the disk is far away, and parts have folders of their own.
FAR = ("no space, once", "an I/O error, once", "I/O errors from then on", "one denial")


@pytest.fixture
def stock(warehouse: WarehouseThread, tmp_path: Path) -> Stock:
    """Give the table of the files."""
    return Stock.of(warehouse, tmp_path / "table.csv", CONTENTS)


@pytest.fixture
def begun(bench: Bench, stock: Stock, tmp_path: Path) -> Path:
    """Give a cache whose process was killed with files renamed, and not recorded, and one in parts."""
    root = tmp_path / "begun"
    assert bench.run("mirror", stock.table, root, arm=Fault(Kind.RENAME, Mode.KILL).armed(root / PARTS, 3)).code == -9
    return root


def words(stock: Stock, root: Path, *, far: bool) -> list[object]:
    """Return what to run: one file after the other where only the first ones can show how far away the disk is."""
    return ["mirror", stock.table, root, "--attempts", 3, *(("--per-host", 1) if far else ())]


def calls(bench: Bench, stock: Stock, root: Path, kinds: Kind, *, far: bool) -> int:
    """Return how many calls of some kinds a run takes that nothing disturbs."""
    return bench.run(*words(stock, root, far=far), far=far, arm=Fault(kinds).armed(root, 1)).calls


@pytest.mark.timeout(1800)
@pytest.mark.parametrize(
    ("case", "fault", "far"),
    [(*fault, False) for fault in FAULTS.values()] + [(*FAULTS[name], True) for name in FAR],
    ids=[*FAULTS, *(f"{name}, parts in several folders" for name in FAR)],
)
def test_the_nth_call_fails(
    case: str,
    fault: Fault,
    far: bool,
    bench: Bench,
    stock: Stock,
    warehouse: WarehouseThread,
    begun: Path,
    full: bool,
    tmp_path: Path,
    note: Note,
) -> None:
    struck = 0
    for start in (None, begun) if full else (None,):
        root = tmp_path / "cache"
        steps = calls(bench, stock, fresh(root, start), fault.kinds, far=far)
        for at in spread(steps, steps if full else FEW):
            struck += strike(bench, stock, warehouse, fresh(root, start), fault.armed(root, at), fault, far=far)
    where = ", parts in several folders" if far else ""
    note(case, f"{fault}, at {struck} calls in turn{where}", "held", warehouse.count())


def fresh(root: Path, start: Path | None) -> Path:
    """Make a cache what it was before, or nothing."""
    if root.exists():
        shutil.rmtree(root)
    if start is not None:
        shutil.copytree(start, root)
    return root


def strike(
    bench: Bench, stock: Stock, warehouse: WarehouseThread, root: Path, armed: list[object], fault: Fault, *, far: bool
) -> bool:
    """Run with a fault, look at what is left, run again; return whether it came to the fault."""
    warehouse.clear_log()
    ended = bench.run(*words(stock, root, far=far), far=far, arm=armed)
    when = f"{fault} at call {armed[2]}, {ended.call} {ended.path}"
    assert ended.code in (0, 1, 3), f"{when}: {ended.code} {ended.said}"
    assert ended.code or stock.whole(root) == CONTENTS.keys(), when
    assert all(warehouse.count(stock.target(path)) <= 3 for path in CONTENTS), when
    # What is lost is told row by row; else small files fail as one, and the large one by itself.
    rows = len(CONTENTS) if "could not keep" in ended.said else 2
    assert fault.error != errno.ENOSPC or ended.said.count("\n") <= 2 + rows, f"{when}: {ended.said}"
    audit_and_go_on(bench, stock, warehouse, root, ended, when)
    return ended.struck > 0


@pytest.mark.parametrize("number", [errno.EIO, errno.ENOSPC])
def test_what_a_sync_cannot_keep_is_not_held(
    number: int, bench: Bench, stock: Stock, warehouse: WarehouseThread, full: bool, tmp_path: Path, note: Note
) -> None:
    struck = set()
    for at in count(1):
        root = tmp_path / f"cache-{at}"
        warehouse.clear_log()
        fault = Fault(Kind.SYNC, Mode.FAIL, number, FOR_EVER)
        ended = bench.run("mirror", stock.table, root, "--json", arm=fault.armed(root, at))
        if not ended.struck:
            break
        struck.add(ended.call)
        if ended.call != "syncfs" and not full:
            continue
        if ended.call == "syncfs":
            assert ended.code == 3, ended.said
            assert '"failed": 4' in ended.said
            assert f"the disk took 4 files and could not keep them ([Errno {number}]" in ended.said
            assert (stock.whole(root), recorded(root)) == (set(), [])
        audit_and_go_on(bench, stock, warehouse, root, ended, f"{fault} at sync {at}")
    assert "syncfs" in struck
    note("96" if number == errno.EIO else "94", "a sync that loses what was written", "exit 3, not held", 4)


def test_a_full_disk_is_one_error_and_no_storm(
    bench: Bench, warehouse: WarehouseThread, tmp_path: Path, note: Note
) -> None:
    stock = Stock.of(warehouse, tmp_path / "t.csv", {f"v0/{at}.nwb": hdf5_file(600, seed=at) for at in range(1000)})
    root = tmp_path / "cache"
    calls = bench.run("mirror", stock.table, root, "--limit", "20", arm=Fault(Kind.WRITE).armed(root, 1)).calls
    shutil.rmtree(root)
    warehouse.clear_log()
    fault = Fault(Kind.GROWING, Mode.FAIL, errno.ENOSPC, FOR_EVER)
    ended = bench.run("mirror", stock.table, root, "--per-host", "4", arm=fault.armed(root, 3 * calls))
    assert ended.code == 3
    assert ended.said.count("ENOSPC") + ended.said.count("no space left") <= 2, ended.said  # its row, and the end
    asked = warehouse.count()
    assert asked < 400, "a full disk ends the batch"
    assert bench.run("status", root).code == 0
    audit_and_go_on(bench, stock, warehouse, root, ended, str(fault))
    note("93", "a full disk among 1000 files", "exit 3, one error", asked)


def test_a_real_disk_runs_full_and_the_part_goes_on(
    disk: Callable[[str], Path], bench: Bench, warehouse: WarehouseThread, tmp_path: Path, note: Note
) -> None:
    contents = {f"v0/{at}.nwb": hdf5_file(100_000, seed=at) for at in range(4)} | {"v0/l.nwb": hdf5_file(6 * MIB)}
    stock = Stock.of(warehouse, tmp_path / "t.csv", contents)
    # Nobody says how long it is, so nobody can see beforehand that it does not fit; and the small ones come first.
    warehouse.script("/l.nwb", Serve(pace=rate(40 * MIB)))
    root = disk("size=4m") / "cache"
    ended = bench.run("mirror", stock.table, root)
    assert ended.code == 3, ended.said
    assert "ENOSPC" in ended.said
    assert bench.run("status", root).code == 0
    assert len(stock.whole(root)) == 4
    kept = [name for name in os.listdir(root / ".framefetch" / "parts") if name.startswith("kept-")]
    assert len(kept) == 2, "the part, and what it is the beginning of"
    there = (root / ".framefetch" / "parts" / min(kept)).stat().st_size
    assert there > 2 * MIB
    disk("size=20m")
    audit_and_go_on(bench, stock, warehouse, root, ended, "a full disk")
    (*_, last) = warehouse.requests("/l.nwb")
    assert last.header("Range") == f"bytes={there}-"
    note("93", "a real disk full, then larger", "exit 3, part kept", warehouse.count("/l.nwb"))


def test_inodes_run_out(
    disk: Callable[[str], Path], bench: Bench, warehouse: WarehouseThread, tmp_path: Path, note: Note
) -> None:
    stock = Stock.of(warehouse, tmp_path / "t.csv", {f"v0/{at}.nwb": hdf5_file(600, seed=at) for at in range(40)})
    place = disk("size=4m,nr_inodes=32")
    refused = bench.run("mirror", stock.table, place / "cache")
    assert (refused.code, warehouse.count()) == (3, 0)
    assert "expected room for 40 files" in refused.said
    assert "inodes are free" in refused.said
    disk("size=4m,nr_inodes=60")
    for at in range(12):  # of another program, which takes them while the run goes on
        warehouse.script(f"/{at}.nwb", Serve())
    ended = bench.run("mirror", stock.table, place / "cache", "--limit", "30")
    assert ended.code == 0
    (place / "others").mkdir()
    while os.statvfs(place).f_favail > 0:
        (place / "others" / str(os.statvfs(place).f_favail)).touch()
    full = bench.run("mirror", stock.table, place / "cache")
    assert full.code == 3
    assert "inodes" in full.said, full.said
    shutil.rmtree(place / "others")
    audit_and_go_on(bench, stock, warehouse, place / "cache", full, "no inodes")
    note("95", "no inodes", "exit 3, says inodes", 0)


def test_descriptors_are_few_from_the_start(
    bench: Bench, warehouse: WarehouseThread, tmp_path: Path, note: Note
) -> None:
    stock = Stock.of(warehouse, tmp_path / "t.csv", {f"v0/{at}.nwb": hdf5_file(3000, seed=at) for at in range(300)})
    ended = bench.run("mirror", stock.table, tmp_path / "cache", files=(64, 64))
    assert ended.code == 0, ended.said
    assert "connections are made instead of 256" in ended.said
    assert warehouse.peak_concurrency <= 24
    assert warehouse.count() == 300
    audit_and_go_on(bench, stock, warehouse, tmp_path / "cache", ended, "64 descriptors")
    raised = bench.run("mirror", stock.table, tmp_path / "again", files=(64, 4096))
    assert (raised.code, "instead of" in raised.said) == (0, False), "the limit that may be raised is raised"
    note("98", "64 descriptors, 256 connections", "downloaded", 300)


def test_running_out_of_descriptors_costs_no_attempt(
    bench: Bench, stock: Stock, warehouse: WarehouseThread, tmp_path: Path, note: Note
) -> None:
    root = tmp_path / "cache"
    fault = Fault(Kind.SOCKET, Mode.FAIL, errno.EMFILE, times=6)
    ended = bench.run("mirror", stock.table, root, "--attempts", "2", arm=fault.armed(root, 1))
    assert (ended.code, ended.struck) == (0, 6), ended.said
    assert warehouse.count() == len(CONTENTS)
    note("98", "no descriptor for a connection, six times", "downloaded", len(CONTENTS))


def test_one_file_that_is_denied_harms_only_itself(
    bench: Bench, stock: Stock, warehouse: WarehouseThread, tmp_path: Path, note: Note
) -> None:
    for number in (errno.EACCES, errno.EPERM, errno.EIO):
        root = tmp_path / f"cache-{number}"
        fault = Fault(Kind.RENAME, Mode.FAIL, number)
        ended = bench.run("mirror", stock.table, root, arm=fault.armed(root / PARTS, 1))
        assert ended.code == 1, ended.said
        assert len(stock.whole(root)) == len(recorded(root)) == len(CONTENTS) - 1
        audit_and_go_on(bench, stock, warehouse, root, ended, str(fault))
    note("92", "one file is denied", "that row failed", 5)


def test_a_folder_that_takes_nothing_ends_the_batch(
    bench: Bench, stock: Stock, warehouse: WarehouseThread, tmp_path: Path, note: Note
) -> None:
    needed(shutil.which("chattr") is not None, "e2fsprogs")
    root = tmp_path / "cache"
    (root / "v0").mkdir(parents=True)
    if subprocess.run(["chattr", "+i", root / "v0"], capture_output=True).returncode:
        pytest.skip("needs the right to make a folder immutable")
    try:
        ended = bench.run("mirror", stock.table, root, "--per-host", "1")
    finally:
        subprocess.run(["chattr", "-i", root / "v0"], check=True)
    assert ended.code == 3, ended.said
    assert "EPERM" in ended.said or "EACCES" in ended.said
    asked = warehouse.count()
    audit_and_go_on(bench, stock, warehouse, root, ended, "a folder that takes nothing")
    note("92", "a folder that takes nothing", "exit 3", asked)


def test_a_release_on_another_disk_is_refused_before_the_first_request(
    disk: Callable[[str], Path], bench: Bench, stock: Stock, warehouse: WarehouseThread, tmp_path: Path, note: Note
) -> None:
    place = disk("size=4m")
    root = tmp_path / "cache"
    (root / "v0").mkdir(parents=True)
    if subprocess.run(["mount", "--bind", place, root / "v0"], capture_output=True).returncode:
        pytest.skip("needs the right to mount a file system")
    try:
        ended = bench.run("mirror", stock.table, root)
    finally:
        subprocess.run(["umount", root / "v0"], check=True)
    assert (ended.code, warehouse.count()) == (3, 0), ended.said
    assert "must be on one disk" in ended.said
    note("99", "the folder of a release is another disk", "exit 3", 0)
