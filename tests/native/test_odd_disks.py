"""Disks that behave as some do: what became of each file is told as it is, by the module in C and the one in Python."""

import errno
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from framefetch.models import Entity, Verified
from framefetch.native import plain
from framefetch.native.at_once import at_once
from framefetch.store import digesting, journal, sidecar
from framefetch.store.digesting import DigestingFile
from framefetch.store.journal import Journal
from framefetch.store.sidecar import Sidecar
from tests.conftest import needed
from tests.store.builders import digest, request

SOURCE = Path(__file__).parent / "odd_disk.c"
MODULES = [plain] if at_once is plain else [plain, at_once]

CHILD = """
import importlib, json, sys

module = importlib.import_module(sys.argv[1])
what = json.loads(sys.argv[2])
written = module.write_new(what["parts"], [name.encode() for name in what["parts"]], 0.0)
moved = module.move_new(what["parts"], what["targets"], 0.0)
print(json.dumps([[told if isinstance(told, int) else told[1] for told in those] for those in (written, moved)]))
"""

#: Runs a module on an odd disk: parts and targets in; sizes or numbers of errors of both steps out, and what was asked.
Run = Callable[[str, list[str], list[str]], tuple[list[int], list[int], int]]


@pytest.fixture(params=MODULES, ids=lambda module: module.__name__.rpartition(".")[2])
def module(request: pytest.FixtureRequest) -> ModuleType:
    return request.param


@pytest.fixture(scope="session")
def shim(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return what stands between a process and its disk."""
    library = tmp_path_factory.mktemp("shim") / "odd_disk.so"
    try:
        subprocess.run(["gcc", "-shared", "-fPIC", "-O1", "-o", library, SOURCE, "-ldl"], check=True)
    except FileNotFoundError:
        needed(False, "gcc, which makes the shim between a process and its disk")
    return library


@pytest.fixture
def run(module: ModuleType, shim: Path, tmp_path: Path) -> Run:
    def go(odd: str, parts: list[str], targets: list[str]) -> tuple[list[int], list[int], int]:
        what = json.dumps({"parts": parts, "targets": targets})
        told = tmp_path.parent / f"{tmp_path.name}-told"
        environment = os.environ | {"LD_PRELOAD": str(shim), "ODD": odd, "ODD_TOLD": str(told)}
        words = [sys.executable, "-c", CHILD, module.__name__, what]
        done = subprocess.run(words, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr
        written, moved = json.loads(done.stdout)
        return written, moved, int(told.read_text())

    return go


def test_one_name_that_is_refused_says_nothing_of_those_under_way(run: Run, tmp_path: Path) -> None:
    parts = [f"part{at}" for at in range(40)]
    targets = [f"a:{at}" if at == 20 else f"b{at}" for at in range(40)]
    written, moved, _ = run("refuses colons", parts, targets)
    assert written == [len(part) for part in parts]
    assert moved == [errno.EINVAL if at == 20 else len(part) for at, part in enumerate(parts)]
    assert sorted(os.listdir(tmp_path)) == sorted([*targets[:20], *targets[21:], "part20"])


def test_where_nothing_is_promised_it_looks_before_it_moves(run: Run, module: ModuleType, tmp_path: Path) -> None:
    parts, targets = [f"part{at}" for at in range(40)], [f"b{at}" for at in range(40)]
    for at in range(0, 40, 7):
        (tmp_path / targets[at]).write_bytes(b"theirs")
    _, moved, asked = run("promises nothing", parts, targets)
    assert moved == [errno.EEXIST if at % 7 == 0 else len(part) for at, part in enumerate(parts)]
    assert all((tmp_path / targets[at]).read_bytes() == b"theirs" for at in range(0, 40, 7))
    assert asked <= (0 if module is plain else 1 + 1 + 15), "each thread once at most, and none again"


def test_a_file_is_looked_at_when_it_is_closed(run: Run) -> None:
    """Only then it is on a disk that is far away: what it lost by then is seen before it gets its name."""
    written, _, _ = run("loses at a close", ["whole", "lost"], ["a", "b"])
    assert written == [len("whole"), 0]


def test_a_close_that_was_interrupted_proves_nothing(run: Run, tmp_path: Path) -> None:
    written, moved, _ = run("is interrupted at a close", ["whole", "lost"], ["a", "b"])
    assert written == [len("whole"), errno.EINTR]
    assert moved == [len("whole"), errno.ENOENT]
    assert os.listdir(tmp_path) == ["a"]


def nothing_taken(*_: Any) -> int:
    return 0


@pytest.mark.parametrize("part", ["body", "block", "journal", "note"])
def test_a_disk_that_takes_nothing_is_an_error_and_not_for_ever(
    part: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = str(tmp_path / "file")
    (tmp_path / "parts").mkdir()
    (tmp_path / "locks").mkdir()
    if part == "body":
        monkeypatch.setattr(plain.os, "write", nothing_taken)
        assert plain.write_new([path], [b"bytes"]) == [errno.EIO]
        assert not os.path.exists(path)
    elif part == "block":
        monkeypatch.setattr(digesting.os, "pwrite", nothing_taken)
        with DigestingFile(path, ["md5"]) as file, pytest.raises(OSError, match=os.strerror(errno.EIO)):
            file.write_at(100, b"bytes")
    elif part == "journal":
        opened = Journal(str(tmp_path))
        opened.open()
        monkeypatch.setattr(journal.os, "write", nothing_taken)
        with pytest.raises(OSError, match=os.strerror(errno.EIO)):
            opened.intend([(request(), (digest(b"bytes"),), Verified.NONE, None)])
    else:
        monkeypatch.setattr(sidecar.os, "write", nothing_taken)
        with pytest.raises(OSError, match=os.strerror(errno.EIO)):
            sidecar.write_sidecar(path, Sidecar("v0", "key", "v0/file", Entity("http://host/file"), "boot"))
        assert sorted(os.listdir(tmp_path)) == ["locks", "parts"]
