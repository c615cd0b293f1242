"""``python -m benchmarks``: arguments, what is missing, and which workloads run."""

from __future__ import annotations

import argparse
import json
import signal
import sys
import tempfile
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from benchmarks.machine import choose_scratch, describe_machine
from benchmarks.peers import PEERS
from benchmarks.report import show_machine, show_probe, show_transfer
from benchmarks.rows import run_probe
from benchmarks.server import ServerFailed, find_nginx
from benchmarks.transfers import run_transfer
from benchmarks.workloads import PROBES, QUICK, TRANSFERS, Transfer

if TYPE_CHECKING:
    from collections.abc import Sequence

    from benchmarks.peers import Peer
    from benchmarks.workloads import Probe

WORKLOADS: dict[str, Transfer | Probe] = {work.name: work for work in (*TRANSFERS, *PROBES)}
NEEDS_NGINX = {"small", "large", "held"}
EXIT_FAILED, EXIT_USAGE, EXIT_INTERRUPTED = 1, 2, 130


def main(words: Sequence[str] | None = None) -> int:
    """Run the benchmarks and return the exit code: 0, 1 where a run failed, 2 where something is missing."""
    parser = _parser()
    arguments = parser.parse_args(words)
    if arguments.list:
        _show_list()
        return 0
    if arguments.runs is not None and arguments.runs < 1:
        parser.error("--runs: at least 1")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that nginx and the files go too
    names = arguments.names or list(WORKLOADS)
    if unknown := sorted(set(names) - set(WORKLOADS)):
        parser.error(f"no such workload: {', '.join(unknown)}; known: {', '.join(WORKLOADS)}")
    peers = _usable_peers(arguments, parser)
    if NEEDS_NGINX.intersection(names) and find_nginx() is None:
        print("missing: nginx; install it with the system's package manager", file=sys.stderr)
        return EXIT_USAGE
    try:
        results = _run(names, peers, arguments)
    except (OSError, ServerFailed) as error:
        print(error, file=sys.stderr)
        return EXIT_USAGE
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    return EXIT_FAILED if any(_has_failures(work) for work in results) else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("python -m benchmarks", description="framefetch side by side with its peers.")
    parser.add_argument("names", nargs="*", metavar="NAMES", help=f"workloads; default: {' '.join(WORKLOADS)}")
    parser.add_argument("--runs", type=int, help="rounds, each of all peers in turn (default 5; 1 with --quick)")
    parser.add_argument("--peers", help="only these, separated by commas")
    parser.add_argument("--out", metavar="results.json", help="write every run there")
    parser.add_argument("--quick", action="store_true", help="little of everything: does it work? no target is judged")
    parser.add_argument("--full", action="store_true", help="no subsets: the prototype fetches all files too")
    parser.add_argument("--scratch", metavar="DIR", help="where files are served from and fetched to")
    parser.add_argument("--list", action="store_true", help="say what there is and what is missing")
    return parser


def _show_list() -> None:
    print("workloads:")
    for work in TRANSFERS:
        print(f"  {work.name:16} {work.count:,} files of {work.size / 1024:,.0f} KiB, by every peer")
    for probe in PROBES:
        print(f"  {probe.name:16} {probe.count:,} {probe.says}")
    print(f"server:\n  {'nginx':16} {'ready' if find_nginx() else 'missing'}\npeers:")
    for peer in PEERS:
        missing = ", ".join(peer.missing())
        print(f"  {peer.name:16} {f'missing: {missing}' if missing else 'ready'}")


def _usable_peers(arguments: argparse.Namespace, parser: argparse.ArgumentParser) -> list[Peer]:
    """Return the peers asked for that can run here; say what the others lack."""
    known = {peer.name: peer for peer in PEERS}
    asked = arguments.peers.split(",") if arguments.peers else list(known)
    if unknown := sorted(set(asked) - set(known)):
        parser.error(f"no such peer: {', '.join(unknown)}; known: {', '.join(known)}")
    chosen = [known[name] for name in asked]
    for peer in chosen:
        if missing := peer.missing():
            print(f"missing: {', '.join(missing)}; {peer.name} is left out", file=sys.stderr)
    return [peer for peer in chosen if not peer.missing()]


def _run(names: Sequence[str], peers: Sequence[Peer], arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """Run the workloads, print each as it ends, and write everything at the end of each."""
    rounds = arguments.runs or (1 if arguments.quick else 5)
    results: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(
        prefix="framefetch-benchmark-", dir=arguments.scratch or choose_scratch()
    ) as scratch:
        machine = describe_machine(scratch)
        print(show_machine(machine), flush=True)
        if arguments.out:  # a place that cannot be written is known before the work, not after it
            _write(arguments.out, machine, rounds, arguments, results)
        for name in names:
            work = WORKLOADS[name]
            if arguments.quick:
                work = replace(work, count=QUICK[name])
            results.append(_run_one(work, peers, rounds, scratch, arguments))
            if arguments.out:
                _write(arguments.out, machine, rounds, arguments, results)
    return results


def _run_one(
    work: Transfer | Probe, peers: Sequence[Peer], rounds: int, scratch: str, arguments: argparse.Namespace
) -> dict[str, Any]:
    judge = not arguments.quick
    if isinstance(work, Transfer):
        result = run_transfer(work, peers, rounds, scratch, full=arguments.full)
        print(f"\n{show_transfer(result, judge=judge)}", flush=True)
    else:
        result = run_probe(work, rounds, scratch)
        print(f"\n{show_probe(result, judge=judge)}", flush=True)
    return result


def _write(
    path: str, machine: dict[str, Any], rounds: int, arguments: argparse.Namespace, results: list[dict[str, Any]]
) -> None:
    settings = {"runs": rounds, "quick": arguments.quick, "full": arguments.full}
    with open(path, "w") as file:
        json.dump({"machine": machine, "settings": settings, "workloads": results}, file, indent=1)


def _has_failures(work: dict[str, Any]) -> bool:
    return bool(work.get("left_out")) or any(run["failure"] is not None for run in work["runs"])


if __name__ == "__main__":
    sys.exit(main())
