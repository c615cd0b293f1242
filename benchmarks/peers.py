"""Who fetches: each peer is a name, the settings it may have, and the command line of a whole process.

Whatever the setting, a peer shows no progress and reads no configuration of the user's. Which setting suits which
workload is found by the sweep (`benchmarks.sweep`), not by hand; an empty one leaves a native peer as it comes.
"""

from __future__ import annotations

import math
import os
import shutil
import sys
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from benchmarks.files import Inputs
    from benchmarks.workloads import Workload

HERE = os.path.dirname(os.path.abspath(__file__))
MAX_FILES_PER_MD5SUM = 256
BASE = "framefetch"
SPLITTABLE = 1 << 20

Setting = dict[str, int]


@dataclass(frozen=True, slots=True)
class Order:
    """What a peer is to do: the lists, the folder to fetch into, its setting, and whether all is there already."""

    inputs: Inputs
    folder: str
    setting: Mapping[str, int]
    warm: bool = False
    authority: str | None = None


@dataclass(frozen=True, slots=True)
class Peer:
    """A tool and how to run it.

    Parameters
    ----------
    command : callable
        Makes the command line of an order.
    grid : tuple of mapping
        The settings that a sweep tries; the first is used where nothing was swept.
    kind : str
        ``native`` or ``python``: which targets it is held against.
    programs, packages : tuple of str
        What it needs: commands, and Python packages.
    hashes : bool
        Whether it computes md5 itself; else md5sum follows.
    folder : str
        Where below the folder it puts the files.
    skips : bool
        Whether it has a way of its own to leave out what is there.
    subset : mapping of str to int
        For each workload how many of its files are enough; all where it is not named.
    only : tuple of str, optional
        The workloads that are anything for it, where that is not all.
    """

    name: str
    command: Callable[[Order], list[str]]
    grid: tuple[Setting, ...] = ({},)
    kind: str = "native"
    programs: tuple[str, ...] = ()
    packages: tuple[str, ...] = ()
    hashes: bool = False
    folder: str = ""
    skips: bool = True
    subset: Mapping[str, int] = field(default_factory=dict)
    only: tuple[str, ...] | None = None

    def missing(self) -> list[str]:
        """Return what has to be installed first, in words."""
        programs = (*self.programs, *(() if self.hashes else ("md5sum", "find", "xargs")))
        absent = [f"command {name}" for name in programs if shutil.which(name) is None]
        return absent + [f"Python package {name}" for name in self.packages if find_spec(name) is None]

    def runs(self, work: Workload) -> bool:
        """Return whether a workload is anything for it."""
        if self.name == BASE:
            return True
        return not work.alone and (self.skips or not work.warm) and (self.only is None or work.name in self.only)

    def settings(self, work: Workload) -> list[Setting]:
        """Return what a sweep tries: files of a few KiB are not split where that can be told."""
        whole = [setting for setting in self.grid if setting.get("splits", 1) == 1]
        return whole if whole and 0 < work.size < SPLITTABLE else list(self.grid)


def _script(*names: str) -> list[str]:
    return [sys.executable, "-P", os.path.join(HERE, *names)]


def framefetch_command(order: Order, *limits: str) -> list[str]:
    """Return the command as a person would type it; names with folders need to be told apart by their path."""
    installed = os.path.join(os.path.dirname(sys.executable), "framefetch")
    program = [installed] if os.path.exists(installed) else [sys.executable, "-m", "framefetch"]
    naming = ["--path-template", "{path}", "--suffix", ""] if order.inputs.nested else []
    return [*program, "mirror", order.inputs.table, order.folder, "--quiet", *naming, *limits]


def _curl(order: Order) -> list[str]:
    setting = order.setting
    many = ["--parallel", *(["--parallel-max", str(setting["connections"])] if setting else [])]
    many += ["--parallel-immediate"] if setting.get("immediate") else []
    trust = ["--cacert", order.authority] if order.authority else []
    into = [] if order.warm else ["--create-dirs", "--output-dir", order.folder]
    plain = ["curl", "--disable", "--silent", "--show-error", "--fail"]
    return [*plain, *many, *trust, *into, "--config", _curl_lines(order)]


def _curl_lines(order: Order) -> str:
    """Write the list in curl's form; what is there already is asked for only where it has changed."""
    lines = os.path.join(os.path.dirname(order.inputs.urls), "urls-warm.curl" if order.warm else "urls.curl")
    if not os.path.exists(lines):
        with open(order.inputs.names, encoding="utf-8") as names, open(lines, "w", encoding="utf-8") as config:
            for at, name in enumerate(names.read().splitlines()):
                # What follows "next" has forgotten the folder.
                output = os.path.join(order.folder, name) if order.warm else name
                condition = f'time-cond = "{output}"\n' if order.warm else ""
                config.write("next\n" if order.warm and at else "")
                config.write(f'url = "{order.inputs.base}/{name}"\noutput = "{output}"\n{condition}')
    return lines


def _wget2(order: Order) -> list[str]:
    many = [f"--max-threads={order.setting['connections']}"] if order.setting else []
    many += [f"--chunk-size={order.setting['chunk']}M"] if order.setting.get("chunk") else []
    skip = ["--timestamping"] if order.warm else []
    trust = [f"--ca-certificate={order.authority}"] if order.authority else []
    names = ["--force-directories", "--no-host-directories", f"--directory-prefix={order.folder}"]
    return ["wget2", "--no-config", "--quiet", *many, *skip, *trust, *names, f"--input-file={order.inputs.urls}"]


def _aria2(order: Order) -> list[str]:
    lines = os.path.join(os.path.dirname(order.inputs.urls), "urls.aria2")
    if not os.path.exists(lines):
        with open(order.inputs.names, encoding="utf-8") as names, open(lines, "w", encoding="utf-8") as config:
            config.writelines(f"{order.inputs.base}/{name}\n  out={name}\n" for name in names.read().splitlines())
    many = []
    if order.setting:
        splits = order.setting["splits"]
        many += [f"--max-connection-per-server={splits}", f"--split={splits}", "--min-split-size=1M"]
        many += [f"--max-concurrent-downloads={order.setting['connections']}"]
    plain = ["--no-conf=true", "--quiet=true", "--file-allocation=none"]
    skip = ["--continue=true", "--auto-file-renaming=false"] if order.warm else []
    trust = [f"--ca-certificate={order.authority}"] if order.authority else []
    return ["aria2c", *plain, *many, *skip, *trust, f"--dir={order.folder}", f"--input-file={lines}"]


def _rclone(order: Order) -> list[str]:
    setting = order.setting
    many = []
    if setting:
        many += ["--transfers", str(setting["connections"]), "--checkers", str(setting["connections"])]
        many += ["--multi-thread-streams", str(setting["splits"]), "--multi-thread-cutoff", "8M"]
        many += [] if setting["head"] or order.warm else ["--http-no-head", "--ignore-size"]
    plain = [
        "--config",
        "/dev/null",
        "--quiet",
        "--retries",
        "1",
        "--files-from-raw",
        order.inputs.names,
        "--no-traverse",
    ]
    trust = ["--ca-cert", order.authority] if order.authority else []
    return ["rclone", "copy", ":http:", order.folder, "--http-url", order.inputs.base, *plain, *many, *trust]


def _python(program: str) -> Callable[[Order], list[str]]:
    """Return the command of a Python library's program, which takes its setting as words."""

    def command(order: Order) -> list[str]:
        words = [f"{name}={value}" for name, value in order.setting.items()]
        return [*_script("programs", program), order.inputs.table, order.folder, *words]

    return command


def _prototype(order: Order) -> list[str]:
    return [*_script("prototype.py"), order.inputs.table, order.folder]


def _grid(connections: tuple[int, ...], splits: tuple[int, ...] = (1,), **fixed: int) -> tuple[Setting, ...]:
    return tuple({"connections": many, "splits": split, **fixed} for split in splits for many in connections)


_MANY = (16, 4, 64, 256)
_CURL = tuple({"connections": many, "immediate": now} for now in (1, 0) for many in _MANY)
_WGET2 = tuple({"connections": many, "splits": 1} for many in _MANY)
_WGET2 += tuple({"connections": many, "splits": 2, "chunk": chunk} for chunk in (4, 32) for many in (4, 16))
_RCLONE = (*_grid(_MANY, (1, 4), head=0), *_grid((16, 64), (1, 4, 16), head=1))

PEERS = (
    Peer(BASE, framefetch_command, packages=("framefetch",), hashes=True, folder="v0"),
    Peer("curl", _curl, _CURL, programs=("curl",)),
    Peer("wget2", _wget2, _WGET2, programs=("wget2",)),
    Peer("aria2", _aria2, _grid(_MANY, (1,)) + _grid((2, 16, 64), (4, 16)), programs=("aria2c",)),
    Peer("rclone", _rclone, _RCLONE, programs=("rclone",)),
    Peer("parfive", _python("fetch_parfive.py"), _grid((16, 5, 64), (5, 16, 2)), "python", packages=("parfive",)),
    Peer("parfive-nosplit", _python("fetch_parfive.py"), _grid(_MANY), "python", packages=("parfive",)),
    Peer("pooch", _python("fetch_pooch.py"), _grid(_MANY), "python", packages=("pooch",), hashes=True),
    Peer(
        "obstore",
        _python("fetch_obstore.py"),
        _grid(_MANY) + _grid((2, 16), (4, 16)),
        "python",
        packages=("obstore",),
        skips=False,
    ),
    Peer(
        "pypdl",
        _python("fetch_pypdl.py"),
        _grid(_MANY) + _grid((2, 16), (4, 16)),
        "python",
        packages=("pypdl",),
        subset={"late": 1_000, "tls-late": 1_000},
    ),
    Peer(
        "prototype",
        _prototype,
        kind="python",
        packages=("aiohttp", "aiofiles", "pandas"),
        hashes=True,
        folder="v0",
        skips=False,
        subset={"small": 500, "late": 200},
        only=("small", "large", "late"),
    ),
)


def md5sum_command(folder: str, count: int, output: str) -> list[str]:
    """Return the command that hashes `count` fetched files on all cores."""
    cores = os.cpu_count() or 1
    share = min(MAX_FILES_PER_MD5SUM, math.ceil(count / (4 * cores)))
    script = 'find "$1" -type f -print0 | xargs -0 -n "$2" -P "$3" md5sum > "$4"'
    return ["sh", "-c", script, "sh", folder, str(share), str(cores), output]
