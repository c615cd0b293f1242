"""Late answers with no knob turned on either side: what people get who do not know which number to choose."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from benchmarks.judge import NATIVE
from benchmarks.peers import BASE
from benchmarks.transfers import run_transfer
from benchmarks.workloads import WORKLOADS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from benchmarks.peers import Peer
    from benchmarks.transfers import Manner
    from benchmarks.workloads import Probe

WORK: Final = next(work for work in WORKLOADS if work.name == "late")
TIMES_AS_FAST: Final = 3.0
#: Who asks for four or five files at a time gets a tenth of them: a file takes them as long as with all of them.
PATIENT: Final = ("curl",)
SHARE: Final = 10


def run_defaults(probe: Probe, peers: Sequence[Peer], manner: Manner, scratch: str) -> dict[str, Any]:
    """Run framefetch and each native peer as they come."""
    work = replace(WORK, count=probe.count)
    fewer = {WORK.name: max(1, probe.count // SHARE)}
    chosen = [
        peer if peer.name in (BASE, *PATIENT) else replace(peer, subset=fewer) for peer in peers if peer.kind == NATIVE
    ]
    done = run_transfer(work, chosen, {peer.name: {} for peer in chosen}, manner, scratch)
    described = {"name": probe.name, "rows": probe.count, "says": probe.says, "compared": list(done["peers"])}
    return {**described, "left_out": done["left_out"], "runs": done["runs"]}
