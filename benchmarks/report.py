"""Figures for people: one table a workload, the ratio first, and the targets below it."""

from __future__ import annotations

from typing import Any

from benchmarks.judge import good_runs, honest_ratio, is_subset, judged, net_cpu, ratio
from benchmarks.peers import BASE
from benchmarks.timing import Spread
from benchmarks.workloads import CPU_WORKLOAD, MIB

BUSY_LOAD = 0.5
_SPREAD, _COST = ("ratio", "(range)", "wall s", "(range)"), ("CPU s", "peak MiB")
COLUMNS = ("", *_SPREAD, *_COST, "files/s", "MiB/s", "requests", "conns", "")


def show_transfer(work: dict[str, Any], *, judge: bool) -> str:
    """Return the table of a workload that every peer ran."""
    label = f"{work['letter']} {work['name']}: {work['says']}"
    if "failure" in work:
        return f"{label}\n  failed: {work['failure']}"
    lines = [row for peer in work["peers"] for row in _lines_of(work, peer)]
    notes = [f"  {name}: left out, {why}" for name, why in work["left_out"].items()]
    notes += [note for peer in work["peers"] for note in _notes_of(work, peer)]
    return "\n".join([label, *align([COLUMNS, *lines]), *notes, *_targets(work, judge=judge)])


def _lines_of(work: dict[str, Any], peer: str) -> list[tuple[str, ...]]:
    """Return a line for a peer, and one more with md5sum where it needs that."""
    if work["peers"][peer]["md5_by"] == "itself":
        return [_line(work, peer, "verified", peer)]
    return [_line(work, peer, "verified", f"{peer} + md5sum"), _line(work, peer, "alone", f"{peer}, no md5")]


def _line(work: dict[str, Any], peer: str, kind: str, label: str) -> tuple[str, ...]:
    runs = list(good_runs(work, peer, kind).values())
    if not runs:
        return (label, "failed", *[""] * (len(COLUMNS) - 2))
    wall = Spread.of(run[kind]["wall"] for run in runs)
    times = ratio(work, peer, kind)
    return (
        label + ("*" if is_subset(work, peer) else ""),
        f"{times.median:.2f}" if times else "-",
        f"({times.low:.2f}-{times.high:.2f})" if times else "-",
        f"{wall.median:.2f}",
        f"({wall.low:.2f}-{wall.high:.2f})",
        f"{Spread.of(run[kind]['cpu'] for run in runs).median:.2f}",
        f"{Spread.of(run[kind]['peak'] / MIB for run in runs).median:.0f}",
        f"{runs[0]['files'] / wall.median:,.0f}",
        f"{runs[0]['bytes'] / MIB / wall.median:,.0f}",
        f"{Spread.of(run['requests'] for run in runs).median:,.0f}",
        f"{Spread.of(run['connections'] for run in runs).median:,.0f}",
        show_setting(work["peers"][peer]["setting"]),
    )


def show_setting(setting: dict[str, int]) -> str:
    """Return a setting in words."""
    return " ".join(f"{name}={value}" for name, value in setting.items())


def _notes_of(work: dict[str, Any], peer: str) -> list[str]:
    runs = [run for run in work["runs"] if run["peer"] == peer]
    failures = [run["failure"] for run in runs if run["failure"] is not None]
    notes = [f"  {peer}: {len(failures)} of {len(runs)} runs failed: {failures[0]}"] if failures else []
    if is_subset(work, peer):
        notes.append(
            f"  * {peer}: {runs[0]['files']:,} of {work['files']:,} files; the ratio is of seconds a file and judges "
            "nothing. Start-up weighs\n    more on fewer files, what grows with their number less. --full runs all."
        )
    return notes


def _targets(work: dict[str, Any], *, judge: bool) -> list[str]:
    rows = [("  measured", "must", "aim", "", "")]
    for one in judged(work):
        measured = "-" if one.measured is None else f"{one.measured:.2f}"
        sign = "<=" if one.at_most else ">="
        verdict = one.word if judge else "not judged (not the whole work)"
        rows.append((measured, f"{sign} {one.must:g}", f"{sign} {one.aim:g}", verdict, one.what))
    lines = [f"  {line}" for line in align(rows)] if len(rows) > 1 else []
    if work["name"] == CPU_WORKLOAD:
        cpu = {peer: net_cpu(work, peer) for peer in work["startup_cpu"]}
        said = ", ".join(f"{peer} {seconds:.2f}" for peer, seconds in cpu.items() if seconds is not None)
        lines.append(f"  CPU seconds with md5, start-up taken off: {said}")
    if (times := honest_ratio(work)) is not None:
        lines.append(
            f"  with faults {BASE} takes {times.median:.2f} ({times.low:.2f}-{times.high:.2f}) times as long as without"
        )
    return lines


def show_machine(machine: dict[str, Any]) -> str:
    """Return the machine and the versions in a few lines."""
    memory = machine["memory_bytes"] / MIB / 1024
    versions = {"python": machine["python"], **machine["packages"], **machine["programs"]}
    load = machine["load_before"][0]
    busy = f"\nwarning: a load of {load:.2f} before the start: others are at work here, even ratios suffer"
    plain = "" if machine.get("in_c", True) else "\nwarning: framefetch runs without its module in C, see README.md"
    kept = ", free memory kept" if machine.get("memory_handed_back") else ""
    lines = "\n".join(
        [
            f"{machine['cores']} cores, {machine['processor']}, {memory:.0f} GiB, {machine['system']}",
            f"output on {machine['output_on']}{kept}, load before {load:.2f}",
            ", ".join(f"{name} {number}" for name, number in versions.items() if number is not None),
        ]
    )
    return lines + plain + (busy if load > BUSY_LOAD else "")


def align(rows: list[tuple[str, ...]]) -> list[str]:
    """Return rows as lines: the first column to the left, the others to the right, the last as it is."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    last = len(widths) - 1
    return [
        "  "
        + "  ".join(
            cell.ljust(width) if at in (0, last) else cell.rjust(width)
            for at, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
