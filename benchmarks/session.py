"""One call of the command: the workloads one after another, each printed and written as it ends, whatever fails."""

from __future__ import annotations

import contextlib
import json
import os
import sys
import tempfile
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from benchmarks.adaptive import run_adaptive
from benchmarks.defaults import run_defaults
from benchmarks.disk import missing_for_far_disk
from benchmarks.machine import choose_scratch, describe_machine
from benchmarks.memory import kept_memory
from benchmarks.publish import RESULTS, publish
from benchmarks.report import show_machine, show_transfer
from benchmarks.report_probes import show_probe
from benchmarks.rows import run_probe
from benchmarks.server import ServerFailed, missing_for
from benchmarks.sweep import load_settings, save_settings, sweep, to_sweep
from benchmarks.transfers import Manner, run_transfer
from benchmarks.workloads import PROBES, WORKLOADS, Workload, quick

if TYPE_CHECKING:
    from collections.abc import Sequence

    from benchmarks.peers import Peer
    from benchmarks.workloads import Probe


@dataclass(frozen=True, slots=True)
class Options:
    """What was asked for on the command line."""

    rounds: int
    quick: bool
    full: bool
    sweep: bool
    write: bool
    timeout: float
    scratch: str | None
    settings: str
    out: str | None


class OtherManner(Exception):
    """What is there already was measured in another manner."""


class Session:
    """Runs workloads and keeps their results.

    Parameters
    ----------
    options : Options
        How.
    peers : sequence of Peer
        Those that can run here.
    """

    def __init__(self, options: Options, peers: Sequence[Peer]) -> None:
        self._options = options
        self._peers = peers
        self._manner = Manner(options.rounds, options.full, options.timeout)
        self._kept = load_settings(options.settings)
        self._swept: set[str] = set()
        self._results: dict[str, Any] = {}
        self._earlier: list[dict[str, Any]] = []

    def run(self, works: Sequence[Workload | Probe]) -> bool:
        """Run all; return whether anything failed."""
        scratch = self._options.scratch or choose_scratch()
        with tempfile.TemporaryDirectory(prefix="framefetch-benchmark-", dir=scratch) as folder:
            machine = describe_machine(folder)
            print(show_machine(machine), flush=True)
            asked = {"rounds": self._options.rounds, "quick": self._options.quick, "full": self._options.full}
            self._results = {"machine": machine, "settings": asked, "workloads": []}
            self._earlier = earlier_results(self._results) if self._options.write else []
            self._write()  # a place that cannot be written is known before the work, not after it
            for work in works:
                self._results["workloads"].append(self._run_one(work, folder))
                self._write()
        return any(_has_failures(result) for result in self._results["workloads"])

    def _run_one(self, work: Workload | Probe, folder: str) -> dict[str, Any]:
        """Run one workload; whatever keeps it from running is its result."""
        some = quick(work) if self._options.quick else work
        try:
            with contextlib.nullcontext() if self._options.quick else kept_memory():
                result = self._transfer(some, folder) if isinstance(some, Workload) else self._probe(some, folder)
        except (OSError, ServerFailed) as error:
            result = {"name": work.name, "letter": work.letter, "says": some.says, "failure": str(error), "runs": []}
            print(f"{work.name}: {error}", file=sys.stderr)
        judge = not self._options.quick
        show = show_transfer if isinstance(work, Workload) else show_probe
        print(f"\n{show(result, judge=judge)}", flush=True)
        return result

    def _transfer(self, work: Workload, folder: str) -> dict[str, Any]:
        if lacking := missing_for(work.serving, tls=work.tls) or (missing_for_far_disk() if work.far_disk else None):
            raise ServerFailed(f"missing: {lacking}")
        self._sweep(work, folder)
        best = self._kept["best"].get(work.tuned, {})
        return run_transfer(work, self._peers, best, self._manner, folder)

    def _sweep(self, work: Workload, folder: str) -> None:
        """Find the best settings that are not known, or all where asked for; a quick run takes what is there."""
        if work.alone or (self._options.quick and not self._options.sweep):
            return
        those = [peer for peer in self._peers if peer.runs(work)]
        anew = self._options.sweep and work.tuned not in self._swept
        those = to_sweep(work, those, self._kept, anew=anew)
        self._swept.add(work.tuned)
        if those:
            print(f"\nlooking for the best settings: {', '.join(peer.name for peer in those)}", flush=True)
            sweep(work, those, self._kept, folder, quick=self._options.quick)
            if not self._options.quick:
                machine = self._results["machine"]
                self._kept["made_on"] = {name: machine[name] for name in ("processor", "cores", "system")}
                save_settings(self._options.settings, self._kept)

    def _probe(self, probe: Probe, folder: str) -> dict[str, Any]:
        if probe.name == "adaptive":
            return run_adaptive(probe, self._manner, folder)
        if probe.name == "defaults":
            return run_defaults(probe, self._peers, self._manner, folder)
        return run_probe(probe, self._options.rounds, folder)

    def _write(self) -> None:
        if self._options.out:
            _dump(self._results, self._options.out)
        if self._options.write:
            order = [work.name for work in (*WORKLOADS, *PROBES)]
            found = {work["name"]: work for work in [*self._earlier, *self._results["workloads"]]}
            works = sorted(found.values(), key=lambda work: order.index(work["name"]))
            everything = {**self._results, "workloads": works}
            _dump(everything, RESULTS)
            try:
                publish(everything)
            except Exception as error:  # noqa: BLE001 - the measuring goes on; the figures are in the JSON
                print(f"README.md was not written: {error!r}", file=sys.stderr)


def earlier_results(results: dict[str, Any], path: str = RESULTS) -> list[dict[str, Any]]:
    """Return what an earlier call found on this machine; none where there is nothing, or another machine's.

    Raises
    ------
    OtherManner
        Where it was measured on this machine in another manner: the two do not stand in one table.
    """
    if not os.path.exists(path):
        return []
    with open(path, encoding="utf-8") as file:
        earlier = json.load(file)
    if any(earlier["machine"][name] != results["machine"][name] for name in ("processor", "cores", "system")):
        return []
    if earlier["workloads"] and earlier["settings"] != results["settings"]:
        raise OtherManner(
            f"expected the manner of what is there already ({earlier['settings']}), got {results['settings']}; "
            f"ask for that, leave out --write, or remove {path} to begin anew"
        )
    return list(earlier["workloads"])


def _dump(results: dict[str, Any], path: str) -> None:
    with open(path, "w", encoding="utf-8") as file:
        json.dump(results, file, indent=1)


def _has_failures(result: dict[str, Any]) -> bool:
    failed = "failure" in result or any(run["failure"] is not None for run in result["runs"])
    return failed or bool(result.get("left_out"))
