"""What was found, where readers look: tables between two markers of README.md, and the plot beside it."""

from __future__ import annotations

import os
from typing import Any

from benchmarks.drawing import draw
from benchmarks.judge import good_runs, is_subset, judged, ratio
from benchmarks.peers import BASE
from benchmarks.report import show_machine, show_setting, show_transfer
from benchmarks.report_probes import show_probe
from benchmarks.timing import Spread
from benchmarks.workloads import MIB

HERE = os.path.dirname(os.path.abspath(__file__))
README, RESULTS, PLOT = (os.path.join(HERE, name) for name in ("README.md", "results.json", "plot.svg"))
BEGIN, END = "<!-- results: written by python -m benchmarks --write -->", "<!-- end of results -->"


def publish(results: dict[str, Any], readme: str = README, plot: str = PLOT) -> None:
    """Write the plot, and the tables between the markers of a README."""
    with open(readme, encoding="utf-8") as file:
        text = file.read()
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"{readme}: the markers {BEGIN} and {END} were expected; put them where results are to stand")
    with open(plot, "w", encoding="utf-8") as file:
        file.write(draw(results["workloads"]))
    with open(readme, "w", encoding="utf-8") as file:
        file.write(f"{before}{BEGIN}\n\n{tables(results)}\n\n{END}{after}")


def tables(results: dict[str, Any]) -> str:
    """Return all results as Markdown."""
    settings, judge = results["settings"], not results["settings"]["quick"]
    scope = "quick: little of everything, which judges nothing" if settings["quick"] else "the whole work"
    machine = show_machine(results["machine"]).replace("\n", "  \n")
    manner = f"{settings['rounds']} rounds, {scope}. Ratio: wall time of the peer, with md5, / framefetch's."
    parts = [f"![ratios by workload and peer]({os.path.basename(PLOT)})", machine, manner]
    for work in results["workloads"]:
        if "peers" in work:
            parts.append(_transfer(work, judge=judge))
        elif "letter" in work:
            parts.append(f"```text\n{show_transfer(work, judge=judge)}\n```")
        else:
            parts.append(f"```text\n{show_probe(work, judge=judge)}\n```")
    return "\n\n".join(parts)


def _transfer(work: dict[str, Any], *, judge: bool) -> str:
    """Return one workload: a line a peer, what is asked for beside what was measured."""
    verdicts = {one.what: one for one in judged(work)}
    rows = [
        f"**{work['letter']} `{work['name']}`**: {work['says']}\n",
        "| | ratio | range | no md5 | must / aim | | wall s | CPU s | peak MiB | setting |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    rows += [_row(work, peer, verdicts.get(peer), judge=judge) for peer in work["peers"]]
    rows += [f"\n{name} was left out: {' '.join(why.split())}" for name, why in work["left_out"].items()]
    for what, one in verdicts.items():
        if what not in work["peers"]:
            measured = "-" if one.measured is None else f"{one.measured:.2f}"
            rows.append(f"\n{what}: {measured}, at most {one.must:g}{f': {one.word}' if judge else ''}")
    return "\n".join(rows)


def _row(work: dict[str, Any], peer: str, verdict: Any, *, judge: bool) -> str:
    runs = list(good_runs(work, peer).values())
    label = peer + (" + md5sum" if work["peers"][peer]["md5_by"] == "md5sum" else "")
    if not runs:
        return f"| {label} | failed | | | | | | | | |"
    times, bare = ratio(work, peer), ratio(work, peer, "alone")
    itself = peer == BASE or work["peers"][peer]["md5_by"] == "itself"
    asked = f"{verdict.must:g} / {verdict.aim:g}" if verdict else ""
    cells = [
        label + (f" ({runs[0]['files']:,} files)" if is_subset(work, peer) else ""),
        f"{times.median:.2f}" if times else "-",
        f"{times.low:.2f}-{times.high:.2f}" if times else "-",
        "" if itself or bare is None else f"{bare.median:.2f}",
        asked,
        verdict.word if verdict and judge else "",
        f"{Spread.of(run['verified']['wall'] for run in runs).median:.2f}",
        f"{Spread.of(run['verified']['cpu'] for run in runs).median:.2f}",
        f"{Spread.of(run['verified']['peak'] / MIB for run in runs).median:.0f}",
        show_setting(work["peers"][peer]["setting"]),
    ]
    return f"| {' | '.join(cells)} |"
