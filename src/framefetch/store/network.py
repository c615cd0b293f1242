"""Tells whether a folder is on a file system that other machines write to as well.

There SQLite's write-ahead log does not work: its readers and writers share memory. And locks may lie, or be missing.
Linux tells the type of each mount (proc_pid_mountinfo(5)); elsewhere nobody is asked, and a disk counts as local.
"""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING

from filelock import FileLock, Timeout

from framefetch.errors import ManifestError

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["mount_table", "network_file_system", "one_writer"]

#: Types as the kernel names them; whatever goes through FUSE is judged by that alone.
_TYPES = frozenset(
    (
        "9p", "acfs", "afs", "beegfs", "ceph", "cifs", "coda", "davfs", "drvfs", "fhgfs", "gfs2", "glusterfs", "gpfs",
        "lustre", "ncpfs", "nfs", "nfs4", "ocfs2", "orangefs", "panfs", "prl_fs", "pvfs2", "smb3", "smbfs", "vboxsf",
        "virtiofs", "vmhgfs", "wekafs",
    )
)  # fmt: skip


def mount_table() -> str:
    """Return what the system says of its mounts; empty where it does not."""
    try:
        with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as file:
            return file.read()
    except OSError:
        return ""


def network_file_system(folder: str) -> str | None:
    """Return the type of a network file system, None for a local one."""
    try:
        device = os.stat(folder).st_dev
    except OSError:
        return None
    wanted = f"{os.major(device)}:{os.minor(device)}" if hasattr(os, "major") else ""
    for line in mount_table().splitlines():
        head, _, tail = line.partition(" - ")
        if head.split(" ")[2:3] == [wanted]:
            kind = tail.partition(" ")[0]
            return kind if kind in _TYPES or kind.startswith("fuse") else None
    return None


@contextlib.contextmanager
def one_writer(lock: str, timeout: float) -> Iterator[None]:
    """Let one process at a time write, by a lock of a whole file: many servers give these that give no others.

    Where there are none at all, the locks of SQLite's own are all there is.
    """
    held = FileLock(lock)
    with contextlib.suppress(OSError, NotImplementedError):
        try:
            held.acquire(timeout=timeout)
        except Timeout as error:
            raise ManifestError(
                f"another process has been writing to the manifest for longer than {timeout:g} s ({lock}); try again"
            ) from error
    try:
        yield
    finally:
        held.release()
