"""``python -m benchmarks``: arguments, what is missing, and which workloads run."""

from __future__ import annotations

import argparse
import signal
import sys
from typing import TYPE_CHECKING

from benchmarks.peers import PEERS
from benchmarks.server import missing_for
from benchmarks.session import Options, OtherManner, Session
from benchmarks.sweep import SETTINGS
from benchmarks.timing import TIMEOUT_SECONDS
from benchmarks.workloads import PROBES, WORKLOADS, Workload

if TYPE_CHECKING:
    from collections.abc import Sequence

    from benchmarks.peers import Peer
    from benchmarks.workloads import Probe

EXIT_FAILED, EXIT_USAGE, EXIT_INTERRUPTED = 1, 2, 130
#: Those that need no server of ours.
SERVERLESS = {"plan", "limits", "commit"}


def main(words: Sequence[str] | None = None) -> int:
    """Run the benchmarks and return the exit code: 0, 1 where a run failed, 2 where something is missing."""
    parser = _parser()
    arguments = parser.parse_args(words)
    if arguments.list:
        _show_list()
        return 0
    if arguments.rounds is not None and arguments.rounds < 1:
        parser.error("--rounds: at least 1")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that nginx and the files go too
    works = _chosen(arguments, parser)
    peers = _usable_peers(arguments, parser)
    if any(work.name not in SERVERLESS for work in works) and (lacking := missing_for()):
        print(f"missing: {lacking}; install it with the system's package manager", file=sys.stderr)
        return EXIT_USAGE
    options = Options(
        rounds=arguments.rounds or (1 if arguments.quick else 5),
        quick=arguments.quick,
        full=arguments.full,
        sweep=arguments.sweep,
        write=arguments.write,
        timeout=arguments.timeout,
        scratch=arguments.scratch,
        settings=arguments.settings,
        out=arguments.out,
    )
    try:
        failed = Session(options, peers).run(works)
    except (OSError, OtherManner) as error:
        print(error, file=sys.stderr)
        return EXIT_USAGE
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    return EXIT_FAILED if failed else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("python -m benchmarks", description="framefetch side by side with its peers.")
    every = " ".join(work.name for work in (*WORKLOADS, *PROBES))
    parser.add_argument("names", nargs="*", metavar="NAMES", help=f"workloads, by name or letter; default: {every}")
    parser.add_argument("--only", metavar="a,b", help="the same, separated by commas")
    parser.add_argument("--rounds", "--runs", type=int, help="each of all peers in turn (default 5; 1 with --quick)")
    parser.add_argument("--peers", help="only these, separated by commas")
    parser.add_argument("--out", metavar="results.json", help="write every run there, after each workload")
    parser.add_argument("--write", action="store_true", help="write README.md, results.json and plot.svg here")
    parser.add_argument("--quick", action="store_true", help="little of everything: does it work? no target is judged")
    parser.add_argument("--full", action="store_true", help="no subsets: the prototype fetches all files too")
    parser.add_argument("--sweep", action="store_true", help="find each peer's best setting anew")
    parser.add_argument("--settings", default=SETTINGS, metavar="settings.json", help="where best settings are kept")
    parser.add_argument("--timeout", type=float, default=TIMEOUT_SECONDS, metavar="S", help="for each run of a peer")
    parser.add_argument("--scratch", metavar="DIR", help="where files are served from and fetched to")
    parser.add_argument("--list", action="store_true", help="say what there is and what is missing")
    return parser


def _chosen(arguments: argparse.Namespace, parser: argparse.ArgumentParser) -> list[Workload | Probe]:
    """Return the workloads asked for, by name or by letter, in the order they are defined in."""
    known = (*WORKLOADS, *PROBES)
    asked = [*arguments.names, *(arguments.only.split(",") if arguments.only else [])]
    names = {name for word in asked for name in _GROUPS.get(word, (word,))}
    if unknown := sorted(names - {work.name for work in known}):
        parser.error(f"no such workload: {', '.join(unknown)}; known: {', '.join(work.name for work in known)}")
    return [work for work in known if not names or work.name in names]


def _groups() -> dict[str, tuple[str, ...]]:
    """Return what each letter means; j is both of its kinds."""
    groups: dict[str, tuple[str, ...]] = {}
    for work in (*WORKLOADS, *PROBES):
        for letters in {work.letter, work.letter[:1]} - {""}:
            groups[letters] = (*groups.get(letters, ()), work.name)
    return groups


_GROUPS = _groups()


def _show_list() -> None:
    print("workloads:")
    for work in WORKLOADS:
        lacking = missing_for(work.serving, tls=work.tls)
        print(f"  {work.letter:3} {work.name:16} {work.says}{f' - missing: {lacking}' if lacking else ''}")
    for probe in PROBES:
        print(f"  {probe.letter:3} {probe.name:16} {probe.count:,} {probe.says}")
    print("peers:")
    for peer in PEERS:
        missing = ", ".join(peer.missing())
        print(f"      {peer.name:16} {f'missing: {missing}' if missing else 'ready'}")


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


if __name__ == "__main__":
    sys.exit(main())
