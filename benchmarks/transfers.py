"""Peers fetching the same files in turns; every run is checked before its time counts."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from dataclasses import asdict, dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from benchmarks.peers import md5sum_command
from benchmarks.server import serve
from benchmarks.timing import ProcessFailed, Usage, run_process, take_turns
from benchmarks.workloads import Transfer, find_fault, make_files, write_inputs

if TYPE_CHECKING:
    from collections.abc import Sequence

    from benchmarks.peers import Peer
    from benchmarks.server import Server
    from benchmarks.workloads import FileSet, Inputs

#: Files of the rehearsal, which fills caches and shows early who cannot run here.
REHEARSED = 8


@dataclass(frozen=True, slots=True)
class Run:
    """One peer's one run. A run with a failure has no usage: there is no time for work not done."""

    peer: str
    round: int
    files: int
    bytes: int
    failure: str | None = None
    alone: Usage | None = None
    md5sum: Usage | None = None
    requests: int | None = None
    connections: int | None = None

    @property
    def verified(self) -> Usage | None:
        """What fetching and md5 took together; for peers that compute md5 themselves that is the run alone."""
        if self.alone is None or self.md5sum is None:
            return self.alone
        return self.alone + self.md5sum


@dataclass(frozen=True, slots=True)
class Stage:
    """The server, and for each peer its files and lists, made once."""

    server: Server
    scratch: str
    lists: dict[str, tuple[FileSet, Inputs]]


def run_transfer(work: Transfer, peers: Sequence[Peer], rounds: int, scratch: str, *, full: bool) -> dict[str, Any]:
    """Fetch the files of a workload by every peer, in turns, and return the raw runs."""
    with tempfile.TemporaryDirectory(prefix=f"{work.name}-", dir=scratch) as folder:
        served, own = os.path.join(folder, "served"), os.path.join(folder, "nginx")
        os.mkdir(served)
        os.mkdir(own)
        files = make_files(served, work.count, work.size)
        with serve(served, own) as server:
            fit, broken = _rehearse(work, peers, files, server, folder)
            stage = Stage(server, folder, _lists(work, fit, files, server, folder, full=full))
            runs = list(take_turns(fit, rounds, partial(_run_once, stage)))
    return {
        "name": work.name,
        "files": work.count,
        "size": work.size,
        "targets": work.targets,
        "left_out": broken,
        "md5_by": {peer.name: "itself" if peer.hashes else "md5sum" for peer in fit},
        "runs": [asdict(run) | {"verified": run.verified and asdict(run.verified)} for run in runs],
    }


def _rehearse(
    work: Transfer, peers: Sequence[Peer], files: FileSet, server: Server, folder: str
) -> tuple[list[Peer], dict[str, str]]:
    """Let each peer fetch a few files, untimed; return those who can, and why the others cannot."""
    few = files.first(REHEARSED)
    inputs = write_inputs(few, os.path.join(folder, "rehearsal"), server.url)
    stage = Stage(server, folder, {peer.name: (few, inputs) for peer in peers})
    failures = {peer.name: _run_once(stage, peer, -1).failure for peer in peers}
    broken = {name: failure for name, failure in failures.items() if failure is not None}
    for name, failure in broken.items():
        print(f"{work.name}: {name} is left out: {failure}", file=sys.stderr)
    return [peer for peer in peers if peer.name not in broken], broken


def _lists(
    work: Transfer, peers: Sequence[Peer], files: FileSet, server: Server, folder: str, *, full: bool
) -> dict[str, tuple[FileSet, Inputs]]:
    """Write one set of lists for each number of files asked for."""
    counts = {peer.name: work.count if full else peer.subset.get(work.name, work.count) for peer in peers}
    made = {}
    for count in set(counts.values()):
        some = files.first(count)
        made[count] = some, write_inputs(some, os.path.join(folder, f"lists-{count}"), server.url)
    return {name: made[count] for name, count in counts.items()}


def _run_once(stage: Stage, peer: Peer, number: int) -> Run:
    """Let a peer fetch into a fresh folder; check what it fetched, outside the time."""
    files, inputs = stage.lists[peer.name]
    empty = Run(peer.name, number, len(files.names), files.total)
    target = os.path.join(stage.scratch, "fetched")
    os.mkdir(target)
    before = stage.server.counts()
    try:
        alone, _ = run_process(peer.command(inputs, target), stage.scratch)
        asked = stage.server.counts() - before
        md5sum = None if peer.hashes else _hash_after(target, len(files.names), stage.scratch)
        failure = find_fault(files, os.path.join(target, peer.folder))
    except ProcessFailed as error:
        failure = str(error)
    finally:
        shutil.rmtree(target)
    if failure is not None:
        return Run(empty.peer, number, empty.files, empty.bytes, failure)
    return Run(empty.peer, number, empty.files, empty.bytes, None, alone, md5sum, asked.requests, asked.connections)


def _hash_after(target: str, count: int, scratch: str) -> Usage:
    """Run md5sum on all cores over what a peer fetched."""
    usage, _ = run_process(md5sum_command(target, count, os.path.join(scratch, "md5sums")), scratch)
    return usage
