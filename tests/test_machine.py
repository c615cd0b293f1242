"""A machine of runs, kills, edits, new versions, second processes and wrong clocks, audited after every step.

What is held must be one version of the file that its server has ever had, whatever happened before; and what a process
had finished, and nobody has touched since, is never asked for again. A history that fails is printed by Hypothesis and
becomes a test of its own below.
"""

import contextlib
import hashlib
import multiprocessing
import os
import shutil
import sqlite3
import tempfile
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from framefetch import MetadataCache
from framefetch.warehouse import WarehouseThread, hdf5_file
from tests import machine_child
from tests.conftest import EAGER

NAMES = [f"f{at}.nwb" for at in range(6)]
#: Some fit one block, one does not.
SIZES = [0 + 2000, 5000, 5000, 70_000, 300_000, 3_000_000]
VERSIONS = st.sampled_from(["v0", "v1"])
FILES = st.sampled_from(range(len(NAMES)))
SOME = st.lists(FILES, min_size=1, max_size=len(NAMES), unique=True)

PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(["tests.machine_child", "framefetch.cache", "framefetch.sources.http", "uvloop"])


def body_of(at: int, generation: int) -> bytes:
    return hdf5_file(SIZES[at] + at, seed=100 * at + generation)


class Store(RuleBasedStateMachine):
    """One cache, one server, and what people and machines do to them."""

    def __init__(self) -> None:
        super().__init__()
        self.warehouse = WarehouseThread()
        self.warehouse.__enter__()
        self.folder = Path(tempfile.mkdtemp(prefix="framefetch-machine-"))
        self.cache = self.folder / "cache"
        self.generation = [0] * len(NAMES)
        self.served: dict[str, set[str]] = {}
        #: Files that were held when last looked at, and have not been touched since.
        self.finished: dict[tuple[str, int], str] = {}

    def teardown(self) -> None:
        """End the server; the folder of a history that failed is gone, its steps say all."""
        self.warehouse.__exit__(None, None, None)
        shutil.rmtree(self.folder)

    @initialize(stated=st.lists(st.booleans(), min_size=len(NAMES), max_size=len(NAMES)))
    def begin(self, stated: list[bool]) -> None:
        """Fill the server; of some files the table states the digest."""
        self.stated = stated
        self.urls = [self.warehouse.add(f"/{name}", body_of(at, 0)) for at, name in enumerate(NAMES)]
        for at in range(len(NAMES)):
            self.served[NAMES[at]] = {hashlib.md5(body_of(at, 0)).hexdigest()}

    def table(self, files: list[int]) -> pd.DataFrame:
        digests = [
            hashlib.md5(body_of(at, self.generation[at])).hexdigest() if self.stated[at] else None for at in files
        ]
        return pd.DataFrame({"url": [self.urls[at] for at in files], "md5": pd.array(digests, dtype="object")})

    def process(self, files: list[int], version: str, **options: Any) -> Any:
        child = PROCESSES.Process(
            target=machine_child.mirror, args=(self.table(files), self.cache, version), kwargs=options
        )
        child.start()
        return child

    # -- what happens ---------------------------------------------------------------------------------------------

    @rule(files=SOME, version=VERSIONS, share=st.booleans(), clock=st.sampled_from([0, 0, 1e8, -1e8]))
    def run(self, files: list[int], version: str, share: bool, clock: float) -> None:
        """A run to its end holds every file, and asks for none that was finished."""
        before = Counter(record.path for record in self.warehouse.requests())
        child = self.process(files, version, share=share, clock=clock)
        child.join()
        blocked = self.blocked(version)
        assert child.exitcode == (0 if blocked.isdisjoint(files) else 1)
        self.nothing_asked_for_again(before, version)
        for at in set(files) - blocked:
            assert self.held(at, version), f"{NAMES[at]} of {version} is not held after a whole run"

    @rule(files=SOME, version=VERSIONS, share=st.booleans(), step=st.integers(1, 120))
    def run_and_kill(self, files: list[int], version: str, share: bool, step: int) -> None:
        """A process dies at one of its steps."""
        before = Counter(record.path for record in self.warehouse.requests())
        child = self.process(files, version, share=share, kill_at=step)
        child.join()
        assert child.exitcode in ((0, -9) if self.blocked(version).isdisjoint(files) else (1, -9))
        self.nothing_asked_for_again(before, version)

    @rule(some=SOME, others=SOME, versions=st.tuples(VERSIONS, VERSIONS), step=st.integers(1, 240))
    def two_at_once(self, some: list[int], others: list[int], versions: tuple[str, str], step: int) -> None:
        """Two processes, of which one may die."""
        children = [self.process(some, versions[0]), self.process(others, versions[1], kill_at=step)]
        for child in children:
            child.join()
        blocked = self.blocked(versions[0])
        assert children[0].exitcode == (0 if blocked.isdisjoint(some) else 1)
        for at in set(some) - blocked:
            assert self.held(at, versions[0])

    @rule(at=FILES)
    def publish_anew(self, at: int) -> None:
        """The server has another file under the same name; a table that states digests says so."""
        self.generation[at] += 1
        body = body_of(at, self.generation[at])
        self.warehouse.add(f"/{NAMES[at]}", body)
        self.served[NAMES[at]].add(hashlib.md5(body).hexdigest())
        if self.stated[at]:
            self.touched(at)

    @rule(at=FILES, version=VERSIONS, how=st.sampled_from(["byte", "byte, time back", "cut", "gone", "link", "folder"]))
    def edit(self, at: int, version: str, how: str) -> None:
        """Somebody changes a file behind the manifest's back."""
        path = self.cache / version / NAMES[at]
        if not path.is_file() or path.is_symlink():
            return
        before = path.stat()
        self.touched(at)  # under all its names: they may share their bytes
        if how.startswith("byte"):
            with path.open("r+b") as file:
                file.seek(before.st_size // 2)
                file.write(b"edited")
            if how.endswith("back"):
                os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
        elif how == "cut":
            os.truncate(path, before.st_size // 2)
        else:
            path.unlink()
            if how == "link":
                path.symlink_to("/etc/hostname")
            elif how == "folder":
                path.mkdir()

    @rule(at=FILES, version=VERSIONS)
    def tidy_up(self, at: int, version: str) -> None:
        """Somebody takes the folder away again that stood in a file's place."""
        path = self.cache / version / NAMES[at]
        if path.is_dir():
            path.rmdir()

    # -- what must be true ------------------------------------------------------------------------------------------

    @invariant()
    def what_is_held_is_whole(self) -> None:
        """Every file that a plan calls held is one version of its server's file, and the one that the table states."""
        if not self.cache.exists() or not (self.cache / "manifest.sqlite").exists():
            return
        everything = self.table(list(range(len(NAMES))))
        with warnings.catch_warnings(), MetadataCache(everything, self.cache, options=EAGER) as cache:
            warnings.simplefilter("ignore")
            for version in ("v0", "v1"):
                plan = cache.plan(everything, version).frame
                for at in range(len(NAMES)):
                    if plan["status"][at] != "held":
                        continue
                    digest = hashlib.md5((self.cache / plan["path"][at]).read_bytes()).hexdigest()
                    assert digest in self.served[NAMES[at]], f"{plan['path'][at]} is no version of the file"
                    assert not self.stated[at] or everything["md5"][at] == digest
                    self.finished[version, at] = digest
            untouched = {NAMES[at] for version, at in self.finished}
            for finding in cache.verify("hash"):
                assert finding.kind != "digest" or Path(finding.path).name not in untouched, finding

    def blocked(self, version: str) -> set[int]:
        """Return the files in whose place a folder stands."""
        return {at for at, name in enumerate(NAMES) if (self.cache / version / name).is_dir()}

    def held(self, at: int, version: str) -> bool:
        """Return whether a file is held, by the manifest and by its bytes."""
        with contextlib.closing(sqlite3.connect(f"file:{self.cache}/manifest.sqlite?mode=ro", uri=True)) as manifest:
            rows = manifest.execute(
                "SELECT path, digests FROM entries WHERE key = ? AND version = ?", (self.urls[at], version)
            ).fetchall()
        (row,) = rows
        return hashlib.md5((self.cache / row[0]).read_bytes()).hexdigest() == row[1][4:36]

    def nothing_asked_for_again(self, before: Counter[str], version: str) -> None:
        after = Counter(record.path for record in self.warehouse.requests())
        for done, at in self.finished:
            if done == version:
                assert after[f"/{NAMES[at]}"] == before[f"/{NAMES[at]}"], f"{NAMES[at]} was finished"

    def touched(self, at: int) -> None:
        for version in ("v0", "v1"):
            self.finished.pop((version, at), None)


@pytest.mark.timeout(1800)  # the long form takes ten minutes
def test_histories(full: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Short in every run; `--full` tries many more."""
    run_state_machine_as_test(
        Store,
        settings=settings(
            max_examples=400 if full else 12,
            stateful_step_count=30 if full else 12,
            deadline=None,
            suppress_health_check=list(HealthCheck),
            print_blob=True,
        ),
    )
