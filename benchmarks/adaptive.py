"""The default, which finds out how many connections pay, against the best fixed number of them."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from benchmarks.judge import good_runs
from benchmarks.peers import BASE, framefetch_command
from benchmarks.server import ServerFailed
from benchmarks.timing import Spread
from benchmarks.transfers import known_peer, run_transfer
from benchmarks.workloads import ADAPTIVE_SHARE, WORKLOADS, quick

if TYPE_CHECKING:
    from benchmarks.peers import Order, Peer
    from benchmarks.transfers import Manner
    from benchmarks.workloads import Probe

FIXED = (1, 2, 4, 8, 16, 32, 64, 128, 256)
#: Per cent.
WHOLE = 100
COMPARED = ("small", "large", "huge", "late", "paced", "mix")


def run_adaptive(probe: Probe, manner: Manner, scratch: str) -> dict[str, Any]:
    """Run framefetch alone, at its default and with fixed numbers of connections, on each workload."""
    found = []
    for work in WORKLOADS:
        if work.name in COMPARED:
            some = work if probe.count == WHOLE else quick(work)
            peers = [known_peer(BASE), *map(_fixed, FIXED)]
            try:
                done = run_transfer(some, peers, {}, manner, scratch)
            except (OSError, ServerFailed) as error:
                found.append({"name": work.name, "says": some.says, "failure": str(error), "peers": {}, "runs": []})
            else:
                found.append({**done, "failure": None})
    runs = [run for work in found for run in work["runs"]]
    return {"name": probe.name, "rows": probe.count, "says": probe.says, "compared": found, "runs": runs}


def _fixed(number: int) -> Peer:
    def command(order: Order) -> list[str]:
        return framefetch_command(order, "--per-host", str(number))

    return replace(known_peer(BASE), name=f"per-host {number}", command=command)


def shares(compared: dict[str, Any]) -> tuple[str, float, float, float] | None:
    """Return the best fixed number, its seconds, the default's, and the share of the speed that the default reaches."""
    walls = {
        peer: Spread.of(run["verified"]["wall"] for run in runs.values()).median
        for peer in compared["peers"]
        if (runs := good_runs(compared, peer))
    }
    fixed = {peer: wall for peer, wall in walls.items() if peer != BASE}
    if BASE not in walls or not fixed:
        return None
    best = min(fixed, key=lambda peer: fixed[peer])
    return best, fixed[best], walls[BASE], fixed[best] / walls[BASE]


def enough(share: float) -> bool:
    """Return whether the default comes close enough to the best fixed number."""
    return share >= ADAPTIVE_SHARE
