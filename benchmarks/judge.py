"""What the raw runs say: ratios of the same round, and each beside its target."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from benchmarks.peers import BASE
from benchmarks.timing import Spread
from benchmarks.transfers import HONEST
from benchmarks.workloads import CPU_FACTOR, CPU_PEERS, CPU_WORKLOAD

if TYPE_CHECKING:
    from collections.abc import Iterable

NATIVE, PYTHON = "native", "python"


@dataclass(frozen=True, slots=True)
class Verdict:
    """A figure beside what was asked for: ``must`` is the limit, ``aim`` is what would be better still."""

    what: str
    measured: float | None
    must: float
    aim: float
    at_most: bool = False

    @property
    def word(self) -> str:
        """Return the verdict in a word."""
        if self.measured is None:
            return "no figure"
        sign = -1 if self.at_most else 1
        if sign * self.measured < sign * self.must:
            return "MISSED"
        return "met" if sign * self.measured >= sign * self.aim else "met, aim missed"


def good_runs(work: dict[str, Any], peer: str, kind: str = "verified") -> dict[int, dict[str, Any]]:
    """Return by round the runs of a peer that did the work."""
    return {run["round"]: run for run in work["runs"] if run["peer"] == peer and run[kind] is not None}


def seconds_per_file(run: dict[str, Any], kind: str) -> float:
    """Return wall time by file, so that a peer that fetched fewer can be compared."""
    return float(run[kind]["wall"]) / int(run["files"])


def ratio(work: dict[str, Any], peer: str, kind: str = "verified", base: str = BASE) -> Spread | None:
    """Return how many times framefetch's wall time a peer's is, of pairs from the same round."""
    ours, theirs = good_runs(work, base), good_runs(work, peer, kind)
    pairs = [
        seconds_per_file(theirs[number], kind) / seconds_per_file(ours[number], "verified")
        for number in ours
        if number in theirs
    ]
    return Spread.of(pairs) if pairs else None


def is_subset(work: dict[str, Any], peer: str) -> bool:
    """Return whether a peer fetched fewer files than there are."""
    return any(run["files"] != work["files"] for run in work["runs"] if run["peer"] == peer)


def judged(work: dict[str, Any]) -> list[Verdict]:
    """Return the verdicts on a workload."""
    found = []
    if work["targets"]:
        must, aim, python = work["targets"]
        for peer, about in work["peers"].items():
            if peer != BASE and not is_subset(work, peer):
                times = ratio(work, peer)
                limits = (must, aim) if about["kind"] == NATIVE else (python, python)
                found.append(Verdict(peer, times and times.median, *limits))
    return found + ([_cpu_verdict(work)] if work["name"] == CPU_WORKLOAD and BASE in work["peers"] else [])


def _cpu_verdict(work: dict[str, Any]) -> Verdict:
    ours = net_cpu(work, BASE)
    theirs = [cpu for peer in CPU_PEERS if (cpu := net_cpu(work, peer)) is not None]
    share = ours / min(theirs) if ours is not None and theirs else None
    return Verdict(
        f"CPU seconds / the better of {' and '.join(CPU_PEERS)}", share, CPU_FACTOR, CPU_FACTOR, at_most=True
    )


def net_cpu(work: dict[str, Any], peer: str) -> float | None:
    """Return the CPU seconds of a peer with md5, less what it needs for one file of a few bytes."""
    runs, start = good_runs(work, peer), work["startup_cpu"].get(peer)
    if not runs or start is None:
        return None
    return float(Spread.of(run["verified"]["cpu"] for run in runs.values()).median - start)


def honest_ratio(work: dict[str, Any]) -> Spread | None:
    """Return how many times its own time without faults framefetch takes with them."""
    return ratio(work, BASE, base=HONEST)


def weakest(works: Iterable[dict[str, Any]], kind: str) -> list[tuple[str, Verdict]]:
    """Return for each workload the peer of a kind that comes closest to framefetch, or passes it."""
    found = []
    for work in works:
        those = [one for one in judged(work) if work["peers"].get(one.what, {}).get("kind") == kind and one.measured]
        if those:
            found.append((work["name"], min(those, key=lambda one: one.measured or 0.0)))
    return found
