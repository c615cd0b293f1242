"""Where figures were made: the machine, the versions, and a folder in memory."""

from __future__ import annotations

import contextlib
import os
import platform
import re
import shutil
import subprocess
import tempfile
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from benchmarks.memory import is_handed_back
from benchmarks.server import find_nginx
from framefetch.native import plain
from framefetch.native.at_once import at_once

IN_MEMORY = "/dev/shm"
PACKAGES = ("framefetch", "aiohttp", "uvloop", "pandas", "numpy", "pyarrow", "parfive", "pooch", "obstore", "pypdl")
PROGRAMS = {
    "nginx": ("-v",),
    "curl": ("--version",),
    "wget2": ("--version",),
    "aria2c": ("--version",),
    "rclone": ("version",),
    "md5sum": ("--version",),
}


def choose_scratch() -> str:
    """Return a folder in memory where there is one, else the ordinary temporary folder."""
    usable = os.path.isdir(IN_MEMORY) and os.access(IN_MEMORY, os.W_OK)
    return IN_MEMORY if usable else tempfile.gettempdir()


def describe_machine(scratch: str) -> dict[str, Any]:
    """Return what a reader has to know of the machine; no name of it and no path."""
    return {
        "system": f"{platform.system()} {platform.release()}",
        "processor": _processor(),
        "cores": os.cpu_count(),
        "memory_bytes": os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"),
        "load_before": list(os.getloadavg()),
        "memory_handed_back": is_handed_back(),
        "output_on": _file_system(scratch),
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "in_c": at_once is not plain,
        "packages": {name: _package_version(name) for name in PACKAGES},
        "programs": {name: _program_version(name, flags) for name, flags in PROGRAMS.items()},
    }


def _processor() -> str:
    with contextlib.suppress(OSError), open("/proc/cpuinfo") as file:
        found = re.search(r"^model name\s*:\s*(.+)$", file.read(), re.MULTILINE)
        if found:
            return found.group(1)
    return platform.processor() or platform.machine()


def _file_system(folder: str) -> str:
    """Return the kind of file system, as tmpfs, of the longest mount point that a folder is below."""
    kinds = {}
    with contextlib.suppress(OSError), open("/proc/mounts") as file:
        kinds = {line.split()[1]: line.split()[2] for line in file}
    real = os.path.realpath(folder)
    above = [mount for mount in kinds if os.path.commonpath([real, mount]) == mount]
    return kinds[max(above, key=len)] if above else "unknown"


def _package_version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _program_version(name: str, flags: tuple[str, ...]) -> str | None:
    path = find_nginx() if name == "nginx" else shutil.which(name)
    if path is None:
        return None
    said = subprocess.run([path, *flags], capture_output=True, text=True, check=False)
    found = re.search(r"\d+(\.\d+)+", said.stdout or said.stderr)
    return found.group() if found else "unknown"
