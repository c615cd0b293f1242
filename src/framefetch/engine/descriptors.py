"""How many connections this process may have open files for."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from framefetch.options import Limits

__all__ = ["fitted", "free_descriptors", "raise_limit"]

#: A connection, the part it fills, and the number by which a thread reads from the one for the other.
EACH: Final = 3
#: For lookups, sidecars and the database beside them.
SPARE: Final = 16


def fitted(limits: Limits, files: int) -> tuple[Limits, str]:
    """Return the limits lowered to what this process may have open, and what to tell of it, if anything.

    Parameters
    ----------
    limits : Limits
        What was asked for.
    files : int
        Files to fetch: more connections are not made.
    """
    free = free_descriptors()
    most = limits.connections if free is None else max(1, (free - SPARE) // EACH)
    if most >= min(limits.connections, files):
        return limits, ""
    note = (
        f"this process may have {free} more files open, so at most {most} connections are made instead of "
        f"{limits.connections}; ulimit -n allows more"
    )
    return replace(limits, connections=most, per_host=min(limits.per_host, most)), note


def free_descriptors() -> int | None:
    """Return how many more files this process may have open; None where the system does not say."""
    try:
        import resource

        soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        return None if soft == resource.RLIM_INFINITY else max(0, soft - len(os.listdir("/dev/fd")))
    except (ImportError, OSError):
        return None


def raise_limit(limits: Limits) -> None:
    """Let this process have as many files open as the limits may need, as far as it is allowed to.

    Best called before there are threads, see `_make_table`.
    """
    try:
        import resource

        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        wanted = EACH * limits.connections + 4 * SPARE
        wanted = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        if soft != resource.RLIM_INFINITY and soft < wanted:
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        _make_table(wanted)
    except (ImportError, OSError, ValueError):
        return  # fewer connections are made then


def _make_table(count: int) -> None:
    """Have the system make its table of this process's descriptors as large as that at once.

    Linux doubles it as numbers run out, and where a process has threads it waits each time until no processor can
    still be reading the old one (expand_fdtable in its fs/file.c): 10 to 15 ms for all who open something meanwhile.
    """
    import fcntl

    with open(os.devnull, "rb") as file:
        os.close(fcntl.fcntl(file, fcntl.F_DUPFD_CLOEXEC, count - 1))
