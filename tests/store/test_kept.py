"""Parts that wait: whoever dies while he puts one aside or takes it leaves both halves of it."""

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from framefetch.models import Entity
from framefetch.store.digests import Hasher
from framefetch.store.kept import LONE_SECONDS, KeptParts
from framefetch.store.parts import Left
from framefetch.store.recovery import recover
from framefetch.store.sidecar import Sidecar, kept_name, write_sidecar
from tests.store.builders import request

TOKEN = "0123abcd"
BODY = b"the beginning of a file"
WANTED = request()
NAME = kept_name(WANTED.version, WANTED.key, WANTED.path)


class Killed(BaseException):
    """The process ended here."""


def dying(monkeypatch: pytest.MonkeyPatch, after: int) -> None:
    """Let what changes names end the process after so many changes."""
    done: list[str] = []

    def around(name: str) -> None:
        real: Callable[..., object] = getattr(os, name)

        def change(*arguments: object, **more: object) -> object:
            if len(done) == after:
                done.append("killed")  # once: the end of a process frees its locks
                raise Killed
            result = real(*arguments, **more)
            done.append(name)
            return result

        monkeypatch.setattr(os, name, change)

    for name in ("rename", "replace", "unlink"):
        around(name)


def unfinished(folder: Path) -> str:
    """Make a part of a process that is no more, as it lies while it is being written."""
    part = f"{folder}/{TOKEN}-1"
    Path(part).write_bytes(BODY)
    sidecar = Sidecar(WANTED.version, WANTED.key, WANTED.path, Entity("http://host/1.nwb", '"one"', total=99), boot="")
    hasher = Hasher(["md5"])
    hasher.update(BODY)
    write_sidecar(f"{part}.json", replace(sidecar, proofs=(hasher.proof(),)))
    return part


@pytest.mark.parametrize("after", range(6))
@pytest.mark.parametrize("step", ["put aside", "taken", "recovered"])
async def test_a_part_survives_who_dies_with_it(open_folder, tmp_path, monkeypatch, step: str, after: int) -> None:
    folder = open_folder()
    parts = tmp_path / "cache" / ".framefetch" / "parts"
    part = unfinished(parts)
    kept = KeptParts(str(parts), "boot")
    if step == "taken":
        kept.keep(part, WANTED, Left(Hasher(["md5"]), None))
    with monkeypatch.context() as patched:
        dying(patched, after)
        try:
            if step == "put aside":
                kept.keep(part, WANTED, Left(Hasher(["md5"]), None))
            elif step == "taken":
                raw, _ = KeptParts(str(parts), "boot").take(WANTED, f"{parts}/{TOKEN}-2")
                raw.close()
            else:
                recover(folder.files, folder.manifest, folder.private)
        except Killed:
            pass
    folder.close()
    folder = open_folder()
    folder.prepare()
    found = await folder.files.resume(WANTED)
    assert found is not None
    assert found.length == len(BODY)
    await found.discard()
    assert [path.name for path in parts.iterdir() if path.suffix != ".journal"] == []


def test_who_looks_leaves_halves_that_are_just_being_made(tmp_path) -> None:
    (tmp_path / f"{NAME}.json").write_bytes(b"{}")
    (tmp_path / f"{NAME}.json.new").write_bytes(b"{")
    (tmp_path / "kept-0.json").write_bytes(b"{}")
    os.utime(tmp_path / "kept-0.json", (0, 0))
    (tmp_path / "kept-1").write_bytes(BODY)
    kept = KeptParts(str(tmp_path), "boot")
    kept.scan()
    assert sorted(os.listdir(tmp_path)) == [f"{NAME}.json", f"{NAME}.json.new"]
    assert LONE_SECONDS > 60
    (tmp_path / NAME).write_bytes(BODY)
    kept.scan()
    assert kept.has(WANTED)
