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
#: Who asks for dozens at a time gets all files. The others ask for four or five and get a tenth of them: it is waiting
#: that takes their time, so that a file takes as long as with all of them.
WITH_ALL: Final = (BASE, "curl")
SHARE: Final = 10


def run_defaults(probe: Probe, peers: Sequence[Peer], manner: Manner, scratch: str) -> dict[str, Any]:
    """Run framefetch and each native peer as they come."""
    work = replace(WORK, count=probe.count)
    fewer = {WORK.name: max(1, probe.count // SHARE)}
    native = [peer for peer in peers if peer.kind == NATIVE]
    chosen = [peer if peer.name in WITH_ALL else replace(peer, subset=fewer) for peer in native]
    done = run_transfer(work, chosen, {peer.name: {} for peer in chosen}, manner, scratch)
    described = {"name": probe.name, "rows": probe.count, "says": probe.says, "compared": list(done["peers"])}
    return {**described, "left_out": done["left_out"], "runs": done["runs"]}
