"""A disk that is far away: a folder behind a file system in user space whose calls take their time."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import time
from typing import TYPE_CHECKING

from benchmarks.server import PROGRAMS, ServerFailed

if TYPE_CHECKING:
    from collections.abc import Iterator

#: Microseconds until a call is answered, and which a close of what was written takes besides.
CALL_US, CLOSE_US = 300, 4_000
SOURCE = os.path.join(PROGRAMS, "far_disk.c")
START_SECONDS = 5.0
DEVICE = "/dev/fuse"


def missing_for_far_disk() -> str | None:
    """Return what this machine lacks."""
    for program in ("gcc", "pkg-config", "fusermount3"):
        if shutil.which(program) is None:
            return f"{program} (Debian: {'fuse3' if program == 'fusermount3' else program})"
    if subprocess.run(["pkg-config", "--exists", "fuse3"], check=False).returncode != 0:
        return "libfuse 3 (Debian: libfuse3-dev)"
    return None if os.access(DEVICE, os.R_OK | os.W_OK) else f"{DEVICE}, which can be read and written"


@contextlib.contextmanager
def far_disk(folder: str, *, call_us: int = CALL_US, close_us: int = CLOSE_US) -> Iterator[str]:
    """Give an empty disk that is far away while the block runs; below a folder, where its bytes are, too.

    Raises
    ------
    ServerFailed
        Where something is missing or it does not start.
    """
    if lacking := missing_for_far_disk():
        raise ServerFailed(f"missing: {lacking}; install it with the system's package manager")
    program, behind, mounted = (os.path.join(folder, name) for name in ("far_disk", "behind", "far"))
    flags = subprocess.run(
        ["pkg-config", "--cflags", "--libs", "fuse3"], capture_output=True, text=True, check=True
    ).stdout.split()
    made = subprocess.run(["gcc", "-O2", "-o", program, SOURCE, *flags], capture_output=True, text=True, check=False)
    if made.returncode != 0:
        raise ServerFailed(f"the program for a disk that is far away was not made: {made.stderr.strip()[-500:]}")
    for place in (behind, mounted):
        os.mkdir(place)
    with subprocess.Popen([program, behind, mounted, str(call_us), str(close_us)]) as process:
        try:
            _wait_until_mounted(process, mounted)
            yield mounted
        finally:
            subprocess.run(["fusermount3", "-u", mounted], check=False)
            process.terminate()


def _wait_until_mounted(process: subprocess.Popen[bytes], mounted: str) -> None:
    deadline = time.monotonic() + START_SECONDS
    while process.poll() is None and time.monotonic() < deadline:
        if os.path.ismount(mounted):
            return
        time.sleep(0.01)
    raise ServerFailed("the disk that is far away was not mounted")
