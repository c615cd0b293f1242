"""Which setting suits which peer for which workload: tried out, kept in a file, and used from there."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any

from benchmarks.peers import BASE
from benchmarks.transfers import Part, run_once, staged
from benchmarks.workloads import WORKLOADS, for_sweep
from benchmarks.workloads import quick as smaller

if TYPE_CHECKING:
    from collections.abc import Sequence

    from benchmarks.peers import Peer, Setting
    from benchmarks.transfers import Stage
    from benchmarks.workloads import Workload

SETTINGS = os.path.join(os.path.dirname(os.path.abspath(__file__)), "settings.json")
#: A setting so many times slower than the best so far is not waited for.
HOPELESS, AT_LEAST_SECONDS = 3.0, 5.0
FIRST_SECONDS = 300.0
#: So many of the best are tried a second time; the better of both times counts.
FINALISTS = 3


def load_settings(path: str) -> dict[str, Any]:
    """Return what is kept; empty where there is no such file."""
    if not os.path.exists(path):
        return {"best": {}, "tried": {}}
    with open(path, encoding="utf-8") as file:
        return dict(json.load(file))


def save_settings(path: str, kept: dict[str, Any]) -> None:
    """Keep the settings, one line a peer."""
    lines = [f'{{\n "made_on": {json.dumps(kept.get("made_on"))}']
    for part in ("best", "tried"):
        works = [
            f"  {json.dumps(work)}: {{\n"
            + ",\n".join(f"   {json.dumps(peer)}: {json.dumps(found)}" for peer, found in peers.items())
            + "\n  }"
            for work, peers in kept[part].items()
        ]
        lines.append(f' "{part}": {{\n' + ",\n".join(works) + "\n }")
    with open(path, "w", encoding="utf-8") as file:
        file.write(",\n".join(lines) + "\n}\n")


def to_sweep(work: Workload, peers: Sequence[Peer], kept: dict[str, Any], *, anew: bool) -> list[Peer]:
    """Return the peers whose best setting for a workload is to be found first."""
    known = {} if anew else kept["best"].get(work.tuned, {})
    return [peer for peer in peers if peer.name != BASE and len(peer.grid) > 1 and peer.name not in known]


def sweep(work: Workload, peers: Sequence[Peer], kept: dict[str, Any], scratch: str, *, quick: bool) -> None:
    """Try every setting of these peers on a part of a workload and add the best to what is kept."""
    tuned = next(other for other in WORKLOADS if other.name == work.tuned)
    best, tried = (kept[part].setdefault(work.tuned, {}) for part in ("best", "tried"))
    with staged(smaller(tuned) if quick else for_sweep(tuned), scratch) as stage:
        for peer in peers:
            found = _try_all(stage, peer, tuned)
            if found:
                best[peer.name] = min(found, key=lambda one: one[1])[0]
                tried[peer.name] = [[setting, round(seconds, 3)] for setting, seconds in found]
                print(f"  {tuned.name}: {peer.name} is best with {best[peer.name]}", flush=True)
            else:
                print(f"  {tuned.name}: {peer.name} failed with every setting", flush=True)


def _try_all(stage: Stage, peer: Peer, work: Workload) -> list[tuple[Setting, float]]:
    """Return each setting that works and its seconds, the finalists' better ones."""
    found: list[tuple[Setting, float]] = []
    for setting in peer.settings(work):
        seconds = _try(stage, peer, setting, min((seconds for _, seconds in found), default=None))
        if seconds is not None:
            found.append((setting, seconds))
    found.sort(key=lambda one: one[1])
    for place, (setting, seconds) in enumerate(found[:FINALISTS]):
        again = _try(stage, peer, setting, seconds)
        found[place] = setting, min(seconds, again or seconds)
    return found


def _try(stage: Stage, peer: Peer, setting: Setting, best: float | None) -> float | None:
    stage.timeout = FIRST_SECONDS if best is None else max(AT_LEAST_SECONDS, HOPELESS * best)
    part = Part(stage.files, stage.lists(stage.files, stage.server.base), stage.server, setting)
    run = run_once(stage, peer, -1, part)
    return run.alone.wall if run.alone is not None else None
