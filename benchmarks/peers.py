"""Who fetches: each peer is a name and the command line of a whole process.

The settings are those that suit the work: 16 connections, no progress display, no configuration of the user's.
"""

from __future__ import annotations

import math
import os
import shutil
import sys
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import TYPE_CHECKING

from benchmarks.workloads import CONNECTIONS

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from benchmarks.workloads import Inputs

HERE = os.path.dirname(os.path.abspath(__file__))
MAX_FILES_PER_MD5SUM = 256


@dataclass(frozen=True, slots=True)
class Peer:
    """A tool and how to run it.

    Parameters
    ----------
    command : callable
        Makes the command line of the lists and of the folder to fetch into.
    programs, packages : tuple of str
        What it needs: commands, and Python packages.
    hashes : bool
        Whether it computes md5 itself; else md5sum follows.
    folder : str
        Where below the folder it puts the files.
    subset : mapping of str to int
        For each workload how many of its files are enough; all where it is not named.
    """

    name: str
    command: Callable[[Inputs, str], list[str]]
    programs: tuple[str, ...] = ()
    packages: tuple[str, ...] = ()
    hashes: bool = False
    folder: str = ""
    subset: Mapping[str, int] = field(default_factory=dict)

    def missing(self) -> list[str]:
        """Return what has to be installed first, in words."""
        programs = (*self.programs, *(() if self.hashes else ("md5sum", "find", "xargs")))
        absent = [f"command {name}" for name in programs if shutil.which(name) is None]
        return absent + [f"Python package {name}" for name in self.packages if find_spec(name) is None]


def _script(*names: str) -> list[str]:
    return [sys.executable, "-P", os.path.join(HERE, *names)]


def _framefetch(inputs: Inputs, folder: str) -> list[str]:
    limits = ["--max-connections", str(CONNECTIONS), "--per-host", str(CONNECTIONS)]
    return [sys.executable, "-m", "framefetch", "mirror", inputs.table, folder, "--suffix", "", *limits, "--quiet"]


def _parfive(inputs: Inputs, folder: str) -> list[str]:
    return [*_script("programs", "fetch_parfive.py"), inputs.table, folder]


def _parfive_nosplit(inputs: Inputs, folder: str) -> list[str]:
    return [*_parfive(inputs, folder), f"max_conn={CONNECTIONS}", "max_splits=1"]


def _pooch(inputs: Inputs, folder: str) -> list[str]:
    return [*_script("programs", "fetch_pooch.py"), inputs.table, folder, str(CONNECTIONS)]


def _curl(inputs: Inputs, folder: str) -> list[str]:
    quiet = ["--silent", "--show-error", "--fail"]
    many = ["--parallel", "--parallel-max", str(CONNECTIONS), "--remote-name-all", "--output-dir", folder]
    return ["curl", "--disable", *quiet, *many, "--config", inputs.curl]


def _wget2(inputs: Inputs, folder: str) -> list[str]:
    threads = f"--max-threads={CONNECTIONS}"
    return ["wget2", "--no-config", "--quiet", threads, f"--directory-prefix={folder}", f"--input-file={inputs.urls}"]


def _aria2(inputs: Inputs, folder: str) -> list[str]:
    many = ["--max-connection-per-server=1", "--split=1", f"--max-concurrent-downloads={CONNECTIONS}"]
    plain = ["--no-conf=true", "--quiet=true", "--file-allocation=none"]
    return ["aria2c", *plain, *many, f"--dir={folder}", f"--input-file={inputs.urls}"]


def _prototype(inputs: Inputs, folder: str) -> list[str]:
    return [*_script("prototype.py"), inputs.table, folder]


PEERS = (
    Peer("framefetch", _framefetch, packages=("framefetch",), hashes=True, folder="v0"),
    Peer("parfive", _parfive, packages=("parfive",)),
    Peer("parfive-nosplit", _parfive_nosplit, packages=("parfive",)),
    Peer("pooch", _pooch, packages=("pooch",), hashes=True),
    Peer("curl", _curl, programs=("curl",)),
    Peer("wget2", _wget2, programs=("wget2",)),
    Peer("aria2", _aria2, programs=("aria2c",)),
    Peer(
        "prototype",
        _prototype,
        packages=("aiohttp", "aiofiles", "pandas"),
        hashes=True,
        folder="v0",
        subset={"small": 500},
    ),
)


def md5sum_command(folder: str, count: int, output: str) -> list[str]:
    """Return the command that hashes `count` fetched files on all cores."""
    cores = os.cpu_count() or 1
    share = min(MAX_FILES_PER_MD5SUM, math.ceil(count / (4 * cores)))
    script = 'find "$1" -type f -print0 | xargs -0 -n "$2" -P "$3" md5sum > "$4"'
    return ["sh", "-c", script, "sh", folder, str(share), str(cores), output]
