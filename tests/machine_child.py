"""A process that mirrors a table and, if told so, kills itself at one of its steps; started by `tests/test_machine.py`.

It is forked from a server that has everything imported, so that hundreds of them cost seconds.
"""

import os
import signal
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd

from framefetch import MetadataCache, Options, RetryPolicy, Timeouts
from framefetch.native import plain
from framefetch.sources import loan
from framefetch.store import digests, files, places
from framefetch.store.writer import CommitWriter

EAGER = RetryPolicy(base=0.0, cap=0.0)
SILENCES = Timeouts(connect=5.0, stall=5.0)


class _Steps:
    """Counts what changes the disk, and kills the process before or after one of them."""

    def __init__(self, last: int) -> None:
        self.left = last

    def around(self, owner: Any, name: str) -> None:
        done: Callable[..., Any] = getattr(owner, name)

        def step(*args: Any, **kwargs: Any) -> Any:
            self.count()
            result = done(*args, **kwargs)
            self.count()
            return result

        setattr(owner, name, step)

    def count(self) -> None:
        self.left -= 1
        if not self.left:
            os.kill(os.getpid(), signal.SIGKILL)


def mirror(
    table: pd.DataFrame, folder: Path, version: str, *, share: bool = False, kill_at: int = 0, clock: float = 0.0
) -> None:
    """Mirror a table; exit with 1 where a row is not held.

    Parameters
    ----------
    table : DataFrame
        What to fetch.
    folder : path
        The cache.
    version : str
        The release.
    share : bool
        Whether files of the same content share their bytes.
    kill_at : int
        After so many steps, each a change of the disk begun or done, the process is no more; 0 lets it live.
    clock : float
        Seconds by which the wall clock goes wrong, from now on.
    """
    warnings.simplefilter("ignore")
    if clock:
        right = time.time
        time.time = lambda: right() + clock
    for module in (digests, files, loan, places):  # a call at a time, so that there is a step between any two
        vars(module)["at_once"] = plain
    steps = _Steps(kill_at)
    for owner, name in (
        *((os, name) for name in ("replace", "rename", "link", "unlink", "write", "ftruncate", "mkdir")),
        (CommitWriter, "_commit"),
        (CommitWriter, "_sync_if_due"),
    ):
        steps.around(owner, name)
    options = Options(retry=EAGER, timeouts=SILENCES, share_content=share)
    with MetadataCache(table, folder, options=options) as cache:
        result = cache.mirror(table, version)
    os._exit(0 if result.ok.all() else 1)
