"""A mirror in a process of its own, and its end in the middle of a file."""

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path


def kill_mirror(table: Path, folder: Path, *words: str, after: int) -> None:
    """Start a mirror and kill it (SIGKILL) as soon as the file under way has so many bytes."""
    process = subprocess.Popen(
        [sys.executable, "-m", "framefetch", "mirror", str(table), str(folder), "--quiet", *words]
    )
    try:
        wait_for_part(process, folder, after)
    finally:
        process.kill()
        process.wait()


def wait_for_part(process: subprocess.Popen, folder: Path, size: int) -> None:
    """Return when the unfinished file of a cache has so many bytes, holes not counted."""
    deadline = time.monotonic() + 15
    while time.monotonic() < deadline and process.poll() is None:
        try:
            parts = [entry for entry in os.scandir(folder / ".framefetch" / "parts") if "." not in entry.name]
            if any(os.stat(part).st_blocks * 512 >= size for part in parts):
                return
        except FileNotFoundError:
            pass
        time.sleep(0.002)
    raise AssertionError(f"no unfinished file of {folder} has {size:,} bytes")


def wait_until(so: Callable[[], bool]) -> None:
    """Return when something is so, which is soon."""
    deadline = time.monotonic() + 10
    while not so():
        assert time.monotonic() < deadline
        time.sleep(0.01)
