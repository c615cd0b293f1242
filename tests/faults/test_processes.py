"""Several processes, one cache: each file is requested once, and nobody waits for the dead, or for ever."""

import contextlib
import hashlib
import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pandas as pd
import pytest

from framefetch import MetadataCache
from framefetch.warehouse import Serve, Stop, WarehouseThread, hdf5_file, rate
from tests.processes import wait_for_part

Mirrors = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def mirror(tmp_path: Path) -> Iterator[Mirrors]:
    """Give a function that starts a mirror of a table into the test's cache, as a process of its own."""
    started: list[subprocess.Popen[str]] = []

    def start(table: Path, *words: str, before: str = "") -> subprocess.Popen[str]:
        report = tmp_path / f"result-{len(started)}.csv"
        program = f"{before}\nimport sys\nfrom framefetch.ui.cli import main\nmain()"
        command = [
            sys.executable,
            "-c",
            program,
            "mirror",
            str(table),
            str(tmp_path / "cache"),
            "--report",
            str(report),
        ]
        process = subprocess.Popen([*command, *words], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        process.report = report  # type: ignore[attr-defined]
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


def stock(warehouse: WarehouseThread, tmp_path: Path, count: int, size: int = 3000) -> tuple[Path, dict[str, bytes]]:
    """Fill the warehouse and write the table of it; return the table and the bytes by name."""
    bodies = {f"f{at}.nwb": hdf5_file(size + at, seed=at) for at in range(count)}
    urls = [warehouse.add(f"/{name}", body) for name, body in bodies.items()]
    pd.DataFrame({"url": urls}).to_csv(tmp_path / "table.csv", index=False)
    return tmp_path / "table.csv", bodies


def audited(tmp_path: Path, bodies: dict[str, bytes]) -> None:
    """Assert that every file is whole, that the audit finds nothing, and that nothing unfinished is left."""
    cache = tmp_path / "cache"
    verified = subprocess.run(
        [sys.executable, "-m", "framefetch", "verify", str(cache), "--hash", "--json"], capture_output=True, text=True
    )
    assert verified.returncode == 0, verified.stdout + verified.stderr
    held = {path.name: path for path in (cache / "v0").iterdir()}
    assert held.keys() == bodies.keys()
    for name, body in bodies.items():
        assert hashlib.md5(held[name].read_bytes()).digest() == hashlib.md5(body).digest()
    assert os.listdir(cache / ".framefetch" / "parts") == []


def test_sixteen_processes_request_each_file_once(
    warehouse: WarehouseThread, mirror: Mirrors, tmp_path: Path, note: Callable[..., None]
) -> None:
    table, bodies = stock(warehouse, tmp_path, 1500)
    processes = [mirror(table, "--quiet") for _ in range(16)]
    outputs = [process.communicate(timeout=60)[0] for process in processes]
    for process, output in zip(processes, outputs, strict=True):
        result = pd.read_csv(process.report)
        wrong = result[~result["status"].isin(["downloaded", "cached"])]
        assert process.returncode == 0, (output, wrong["error"].value_counts().to_dict())
        assert set(result["status"]) <= {"downloaded", "cached"}
        assert len(result) == len(bodies)
    assert warehouse.count() == len(bodies)
    audited(tmp_path, bodies)
    note("112", "16 processes, one table of 1,500 files", "all held in each", warehouse.count())


def test_a_killed_process_holds_nobody_up(
    warehouse: WarehouseThread, mirror: Mirrors, tmp_path: Path, note: Callable[..., None]
) -> None:
    table, bodies = stock(warehouse, tmp_path, 3, size=8 << 20)
    warehouse.script("/f1.nwb", Serve(stop=Stop(4 << 20, "hold")), then=Serve())
    first = mirror(table, "--quiet")
    warehouse.wait_for("/f1.nwb", 1, "held")
    second = mirror(table, "--quiet")
    wait_for_part(first, tmp_path / "cache", 3 << 20)
    wait_for_beats(tmp_path / "cache", second, 2)
    first.send_signal(signal.SIGKILL)
    killed = time.monotonic()
    warehouse.wait_for("/f1.nwb", 2)
    delay = time.monotonic() - killed
    output, _ = second.communicate(timeout=30)
    assert second.returncode == 0, output
    assert delay < 5, "half of the time after which a living process would be given up"
    assert warehouse.count("/f0.nwb") == warehouse.count("/f2.nwb") == 1
    assert warehouse.requests("/f1.nwb")[1].header("Range"), "what the dead had is gone on with"
    audited(tmp_path, bodies)
    note("114", f"the holder is killed; another asks after {delay:.2f} s", "downloaded", warehouse.count())


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGINT])
def test_what_somebody_leaves_is_gone_on_with_when_its_turn_comes(
    end: signal.Signals, warehouse: WarehouseThread, mirror: Mirrors, tmp_path: Path, note: Callable[..., None]
) -> None:
    table, bodies = stock(warehouse, tmp_path, 3, size=8 << 20)
    frame = pd.read_csv(table)
    frame[1:2].to_csv(tmp_path / "one.csv", index=False)
    warehouse.script("/f0.nwb", Serve(stop=Stop(1000, "hold")), then=Serve())
    warehouse.script("/f1.nwb", Serve(stop=Stop(4 << 20, "hold")), then=Serve())
    first = mirror(tmp_path / "one.csv", "--quiet")
    warehouse.wait_for("/f1.nwb", 1, "held")
    wait_for_part(first, tmp_path / "cache", 3 << 20)
    second = mirror(table, "--quiet", "--max-connections", "1")
    warehouse.wait_for("/f0.nwb", 1, "held")
    first.send_signal(end)
    first.wait(timeout=10)
    warehouse.release("/f0.nwb")
    output, _ = second.communicate(timeout=30)
    assert second.returncode == 0, output
    assert [request.header("Range") is not None for request in warehouse.requests("/f1.nwb")] == [False, True]
    assert warehouse.count() == len(bodies) + 1
    audited(tmp_path, bodies)
    note("114", f"another goes on with what was under way: {end.name}", "downloaded", warehouse.count())


def wait_for_beats(cache: Path, process: "subprocess.Popen[str]", count: int) -> None:
    """Wait until a process has given so many signs of life: the second comes when it has long begun to work."""
    seen: set[int] = set()
    while len(seen) <= count:
        assert process.poll() is None, process.communicate()[0]
        for name in (cache / ".framefetch" / "locks").glob("*.owner"):
            with contextlib.suppress(OSError, ValueError):
                if json.loads(name.read_text())["process"] == process.pid:
                    seen.add(name.stat().st_mtime_ns)


@pytest.mark.parametrize("when", ["before it has heard of others", "later"])
def test_a_frozen_process_is_named(
    when: str, warehouse: WarehouseThread, mirror: Mirrors, tmp_path: Path, note: Callable[..., None]
) -> None:
    table, bodies = stock(warehouse, tmp_path, 20)
    # Silent before the head: a body that falls silent is soon asked for again.
    warehouse.script("/f7.nwb", Serve(stop=Stop(0, "hold", of="wire")), then=Serve())
    first = mirror(table, "--quiet", "--stall-timeout", "120")
    warehouse.wait_for("/f7.nwb", 1, "held")
    wait_for_rows(tmp_path / "cache", 19)
    if when == "later":
        third = mirror(table, "--quiet")
        wait_for_beats(tmp_path / "cache", third, 2)
        third.kill()
        third.wait()
    first.send_signal(signal.SIGSTOP)
    second = mirror(table, "--lock-timeout", "1")
    output, _ = second.communicate(timeout=30)
    assert second.returncode == 0, output
    assert output.count(f"process {first.pid} on {os.uname().nodename} has this cache open") == 1, output
    assert "gives no sign of life for 1 s" in output
    assert warehouse.count("/f7.nwb") == 2, "what it was at is fetched again"
    assert warehouse.count() == len(bodies) + 1
    first.send_signal(signal.SIGCONT)
    warehouse.release()
    output, _ = first.communicate(timeout=30)
    assert first.returncode == 0, output
    audited(tmp_path, bodies)
    note("112", f"the holder is frozen {when}", "named; downloaded", warehouse.count())


def wait_for_rows(cache: Path, count: int) -> None:
    """Wait until so many files are recorded."""
    rows = 0
    while rows < count:
        with contextlib.closing(sqlite3.connect(f"file:{cache}/manifest.sqlite?mode=ro", uri=True)) as manifest:
            rows = manifest.execute("SELECT count(*) FROM entries").fetchone()[0]


LYING = "import fcntl\nfcntl.lockf = fcntl.flock = lambda *a: None"
REFUSING = """
import errno, fcntl, os
def refuse(*a):
    raise OSError(errno.{0}, os.strerror(errno.{0}))
fcntl.lockf = fcntl.flock = refuse
"""


@pytest.mark.parametrize("how", ["that lie", "ENOLCK", "ENOSYS", "EOPNOTSUPP"])
def test_locks_that_do_not_work(
    how: str, warehouse: WarehouseThread, mirror: Mirrors, tmp_path: Path, note: Callable[..., None]
) -> None:
    table, bodies = stock(warehouse, tmp_path, 200, size=300_000)
    warehouse.script_all(Serve(pace=rate(4 << 20)))
    before = LYING if how == "that lie" else REFUSING.format(how)
    processes = [mirror(table, before=before) for _ in range(4)]
    outputs = [process.communicate(timeout=60)[0] for process in processes]
    assert [process.returncode for process in processes] == [0] * 4, outputs
    if how != "that lie":
        told = [output.count("no locks that work") for output in outputs if " in 0 requests" not in output]
        assert set(told) == {1}, outputs
    # A file that is replaced the moment it was published is fetched once more.
    assert len(bodies) <= warehouse.count() <= 4.2 * len(bodies)
    audited(tmp_path, bodies)
    note("113", f"locks: {how}", "held", warehouse.count())


def test_two_runs_that_overlap_and_want_the_same_paths_for_other_urls(
    warehouse: WarehouseThread, mirror: Mirrors, tmp_path: Path
) -> None:
    bodies: dict[str, bytes] = {}
    runs = []
    for who in ("a", "b"):
        those = {f"/{who}/f{at}.nwb": hdf5_file(3000 + at, seed=at + 1000 * len(bodies)) for at in range(60)}
        urls = [warehouse.add(path, body) for path, body in those.items()]
        bodies |= dict(zip(urls, those.values(), strict=True))
        pd.DataFrame({"url": urls}).to_csv(tmp_path / f"{who}.csv", index=False)
    for who in ("a", "b"):
        runs.append(mirror(tmp_path / f"{who}.csv"))
    for run in runs:
        run.communicate(timeout=60)
    rows = pd.concat([pd.read_csv(run.report) for run in runs])  # type: ignore[attr-defined]
    assert len(rows) == 120
    held = rows[rows["status"].isin(["downloaded", "cached"])]
    assert held["path"].is_unique
    assert len(held) == 60
    assert all(Path(path).read_bytes() == bodies[url] for url, path in zip(held["url"], held["path"], strict=True))
    assert rows[rows["status"] == "failed"]["error"].str.contains("is held for another URL").all()
    assert not list((tmp_path / "cache").rglob("*.kept-*"))


def test_two_caches_of_one_process_share_their_files(
    warehouse: WarehouseThread, open_cache: Callable[..., MetadataCache], tmp_path: Path, note: Callable[..., None]
) -> None:
    table, bodies = stock(warehouse, tmp_path, 300)
    frame = pd.read_csv(table)
    with open_cache(frame) as one, open_cache(frame) as two, ThreadPoolExecutor() as pool:
        results = list(pool.map(lambda cache: cache.mirror(cache.dataframe), (one, two)))
    assert [result.ok.all() for result in results] == [True, True]
    assert warehouse.count() == len(bodies)
    audited(tmp_path, bodies)
    note("112", "two caches of one process", "all held in each", warehouse.count())
