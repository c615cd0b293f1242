"""Peers fetching the same files in turns; every run is checked before its time counts."""

from __future__ import annotations

import contextlib
import os
import shutil
import statistics
import sys
import tempfile
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any

from benchmarks.disk import far_disk
from benchmarks.files import find_fault, link_all, make_files, names_and_sizes, write_inputs
from benchmarks.peers import BASE, PEERS, Order, md5sum_command
from benchmarks.server import ServerFailed, serve
from benchmarks.timing import TIMEOUT_SECONDS, ProcessFailed, TookTooLong, Usage, run_process, take_turns
from benchmarks.workloads import CPU_PEERS, CPU_WORKLOAD

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from benchmarks.files import FileSet, Inputs
    from benchmarks.peers import Peer, Setting
    from benchmarks.server import Server
    from benchmarks.workloads import Workload

#: Files of the rehearsal, which fills caches and shows early who cannot run here.
REHEARSED = 8
#: A peer that failed so often is not asked again.
PATIENCE = 2
STARTS = 3
#: framefetch on an honest server, beside framefetch on a faulty one.
HONEST = f"{BASE}, no faults"


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
    too_long: bool = False

    @property
    def verified(self) -> Usage | None:
        """What fetching and md5 took together; for peers that compute md5 themselves that is the run alone."""
        if self.alone is None or self.md5sum is None:
            return self.alone
        return self.alone + self.md5sum


@dataclass(frozen=True, slots=True)
class Manner:
    """How often, whether peers that are given fewer files get all, and when a run is given up."""

    rounds: int
    full: bool = False
    timeout: float = TIMEOUT_SECONDS


@dataclass(frozen=True, slots=True)
class Part:
    """What one peer fetches: files, the lists that name them, the server, its setting, and what it holds already."""

    files: FileSet
    inputs: Inputs
    server: Server
    setting: Setting
    held: str | None = None


@dataclass(slots=True)
class Stage:
    """The files and servers of one workload, the disk to fetch onto, and for each peer its part."""

    work: Workload
    folder: str
    disk: str
    served: str
    files: FileSet
    server: Server
    honest: Server | None
    timeout: float = TIMEOUT_SECONDS
    parts: dict[str, Part] = field(default_factory=dict)
    failures: dict[str, int] = field(default_factory=dict)
    _lists: dict[tuple[int, str], Inputs] = field(default_factory=dict)

    def lists(self, files: FileSet, base: str) -> Inputs:
        """Return the lists of the first few files, written once."""
        key = len(files.names), base
        if key not in self._lists:
            folder = os.path.join(self.folder, f"lists-{len(self._lists)}")
            self._lists[key] = write_inputs(files, folder, base)
        return self._lists[key]

    def server_of(self, peer: Peer) -> Server:
        """Return the server that a peer is sent to."""
        return self.honest if self.honest is not None and peer.name == HONEST else self.server


@contextlib.contextmanager
def staged(work: Workload, scratch: str, timeout: float = TIMEOUT_SECONDS) -> Iterator[Stage]:
    """Make the files of a workload and serve them while the block runs."""
    with tempfile.TemporaryDirectory(prefix=f"{work.name}-", dir=scratch) as folder, contextlib.ExitStack() as stack:
        served, own, second = (os.path.join(folder, name) for name in ("served", "nginx", "nginx-honest"))
        for place in (served, own, second):
            os.mkdir(place)
        files = make_files(served, names_and_sizes(work.count, work.size))
        server = stack.enter_context(serve(served, own, work.serving, tls=work.tls))
        honest = stack.enter_context(serve(served, second)) if work.alone else None
        disk = stack.enter_context(far_disk(folder)) if work.far_disk else folder
        yield Stage(work, folder, disk, served, files, server, honest, timeout)


def run_transfer(
    work: Workload, peers: Sequence[Peer], settings: Mapping[str, Setting], manner: Manner, scratch: str
) -> dict[str, Any]:
    """Fetch the files of a workload by every peer, in turns, and return the raw runs."""
    chosen = [peer for peer in peers if peer.runs(work)]
    if work.alone:
        chosen += [replace(peer, name=HONEST) for peer in chosen]
    with staged(work, scratch, manner.timeout) as stage:
        fit, broken = _rehearse(stage, chosen, settings)
        for peer in fit:
            stage.parts[peer.name] = _part(stage, peer, settings, full=manner.full)
        startup = _measure_starts(stage, fit) if work.name == CPU_WORKLOAD else {}
        runs = [
            run for run in take_turns(fit, manner.rounds, lambda peer, number: _patiently(stage, peer, number)) if run
        ]
        described = {"files": len(stage.files.names), "bytes": stage.files.total}
    return {
        "name": work.name,
        "letter": work.letter,
        "says": work.says,
        **described,
        "targets": work.targets,
        "left_out": broken,
        "startup_cpu": startup,
        "peers": {peer.name: _about(peer, settings) for peer in fit},
        "runs": [asdict(run) | {"verified": run.verified and asdict(run.verified)} for run in runs],
    }


def _about(peer: Peer, settings: Mapping[str, Setting]) -> dict[str, Any]:
    setting = settings.get(peer.name, peer.grid[0])
    return {"kind": peer.kind, "md5_by": "itself" if peer.hashes else "md5sum", "setting": setting}


def _part(stage: Stage, peer: Peer, settings: Mapping[str, Setting], *, full: bool) -> Part:
    """Return what a peer fetches; where all is to be there already, it is put there."""
    count = len(stage.files.names)
    if not full:
        count = min(count, peer.subset.get(stage.work.name, count))
    files, server = stage.files.first(count), stage.server_of(peer)
    inputs, setting = stage.lists(files, server.base), settings.get(peer.name, peer.grid[0])
    return Part(files, inputs, server, setting)


def _rehearse(
    stage: Stage, peers: Sequence[Peer], settings: Mapping[str, Setting]
) -> tuple[list[Peer], dict[str, str]]:
    """Let each peer fetch a few files, untimed; return those who can, and why the others cannot."""
    broken = {}
    for peer in peers:
        part = _part(stage, peer, settings, full=False)
        few = part.files.first(REHEARSED)
        part = replace(part, files=few, inputs=stage.lists(few, part.server.base))
        run = run_once(stage, peer, -1, part)
        if run.failure is not None:
            broken[peer.name] = run.failure
            print(f"{stage.work.name}: {peer.name} is left out: {run.failure}", file=sys.stderr)
    return [peer for peer in peers if peer.name not in broken], broken


def _measure_starts(stage: Stage, peers: Sequence[Peer]) -> dict[str, float]:
    """Return the CPU seconds of fetching one file of a few bytes: what is spent before any work."""
    tiny = make_files(stage.served, [("start.bin", 8)])
    starts = {}
    for peer in peers:
        if peer.name in (BASE, *CPU_PEERS):
            part = stage.parts[peer.name]
            inputs = write_inputs(tiny, os.path.join(stage.folder, f"start-{peer.name}"), part.server.base)
            part = replace(part, files=tiny, inputs=inputs)
            runs = [run_once(stage, peer, -1, part) for _ in range(STARTS)]
            if found := [run.verified.cpu for run in runs if run.verified]:
                starts[peer.name] = statistics.median(found)
    return starts


def _patiently(stage: Stage, peer: Peer, number: int) -> Run | None:
    """Run a peer, unless it has failed too often or did not end: the others are not kept waiting."""
    if stage.failures.get(peer.name, 0) >= PATIENCE:
        return None
    part = stage.parts[peer.name]
    try:
        if stage.work.warm and part.held is None:
            part = stage.parts[peer.name] = _hold(stage, peer, part)
        run = run_once(stage, peer, number, part)
    except ProcessFailed as error:
        run = Run(peer.name, number, len(part.files.names), part.files.total, str(error), too_long=True)
    if run.failure is not None:
        print(f"{stage.work.name}: {peer.name}: {run.failure}", file=sys.stderr)
        stage.failures[peer.name] = stage.failures.get(peer.name, 0) + (PATIENCE if run.too_long else 1)
    return run


def _hold(stage: Stage, peer: Peer, part: Part) -> Part:
    """Give a peer everything already: framefetch by fetching it, which fills its manifest, the others by links."""
    held = os.path.join(stage.folder, f"held-{peer.name}")
    os.mkdir(held)
    if peer.hashes and peer.folder:
        order = Order(part.inputs, held, part.setting, authority=part.server.authority)
        run_process(peer.command(order), stage.folder, stage.timeout, part.server.environment)
    else:
        link_all(part.files, stage.served, os.path.join(held, peer.folder))
    return replace(part, held=held)


def run_once(stage: Stage, peer: Peer, number: int, part: Part) -> Run:
    """Let a peer fetch into a fresh folder, or into the one it holds; check what is there, outside the time."""
    empty = Run(peer.name, number, len(part.files.names), part.files.total)
    target = part.held or os.path.join(stage.disk, "fetched")
    if part.held is None:
        os.mkdir(target)
    order = Order(part.inputs, target, part.setting, part.held is not None, part.server.authority)
    too_long = False
    try:
        before = part.server.counts()
        alone, _ = run_process(peer.command(order), stage.folder, stage.timeout, part.server.environment)
        asked = part.server.counts() - before
        md5sum = None if peer.hashes else _hash_after(target, len(part.files.names), stage.folder)
        failure = find_fault(part.files, os.path.join(target, peer.folder))
    except (ProcessFailed, OSError) as error:
        failure, too_long = str(error), isinstance(error, TookTooLong)
    finally:
        if part.held is None:
            shutil.rmtree(target, ignore_errors=True)
    if failure is not None:
        _require_unharmed(stage, peer, part)
        return replace(empty, failure=failure, too_long=too_long)
    return replace(empty, alone=alone, md5sum=md5sum, requests=asked.requests, connections=asked.connections)


def _require_unharmed(stage: Stage, peer: Peer, part: Part) -> None:
    """Stop where a peer that was given links wrote through them into what is served."""
    if part.held is not None and (fault := find_fault(stage.files, stage.served)):
        raise ServerFailed(f"{peer.name} wrote over the files that are served: {fault}")


def _hash_after(target: str, count: int, scratch: str) -> Usage:
    """Run md5sum on all cores over what a peer fetched."""
    usage, _ = run_process(md5sum_command(target, count, os.path.join(scratch, "md5sums")), scratch)
    return usage


def known_peer(name: str) -> Peer:
    """Return a peer by its name."""
    return next(peer for peer in PEERS if peer.name == name)
