"""Figures for people: one table a workload, the ratio first, and the targets below it."""

from __future__ import annotations

from typing import Any

from benchmarks.timing import Spread
from benchmarks.workloads import MIB

BASE = "framefetch"
BUSY_LOAD = 0.5
COLUMNS = ("", "framefetch is", "(range)", "files/s", "MiB/s", "wall s", "(range)", "CPU s", "peak MiB", "requests")


def show_transfer(work: dict[str, Any], *, judge: bool) -> str:
    """Return the table of a workload that every peer ran."""
    title = f"{work['name']}: {work['files']:,} files of {work['size'] / 1024:,.0f} KiB"
    lines = [row for peer in work["md5_by"] for row in _lines_of(work, peer)]
    notes = [f"  {name}: left out, {why}" for name, why in work["left_out"].items()]
    notes += [note for peer in work["md5_by"] for note in _notes_of(work, peer)]
    targets = [_target(work, peer, times, judge=judge) for peer, times in work["targets"] if peer in work["md5_by"]]
    return "\n".join([title, *_align([COLUMNS, *lines]), *notes, *targets])


def _runs(work: dict[str, Any], peer: str, kind: str) -> dict[int, tuple[float, dict[str, Any], dict[str, Any]]]:
    """Return by round the rate in files a second, the usage and the run, of the runs that did the work."""
    found = [run for run in work["runs"] if run["peer"] == peer and run[kind] is not None]
    return {run["round"]: (run["files"] / run[kind]["wall"], run[kind], run) for run in found}


def ratio(work: dict[str, Any], peer: str, kind: str) -> Spread | None:
    """Return how many times a peer's rate framefetch has, of pairs from the same round."""
    base, other = _runs(work, BASE, "verified"), _runs(work, peer, kind)
    pairs = [base[number][0] / other[number][0] for number in base if number in other]
    return Spread.of(pairs) if pairs else None


def _lines_of(work: dict[str, Any], peer: str) -> list[tuple[str, ...]]:
    """Return a line for a peer, and one more with md5sum where it needs that."""
    if work["md5_by"][peer] == "itself":
        return [_line(work, peer, "verified", peer)]
    return [_line(work, peer, "verified", f"{peer} + md5sum"), _line(work, peer, "alone", f"{peer}, no md5")]


def _line(work: dict[str, Any], peer: str, kind: str, label: str) -> tuple[str, ...]:
    runs = list(_runs(work, peer, kind).values())
    if not runs:
        return (label, "failed", *[""] * (len(COLUMNS) - 2))
    wall = Spread.of(usage["wall"] for _, usage, _ in runs)
    rate = Spread.of(rate for rate, _, _ in runs).median
    times = ratio(work, peer, kind)
    return (
        label + ("*" if runs[0][2]["files"] != work["files"] else ""),
        f"{times.median:.2f} x" if times else "-",
        f"({times.low:.2f}-{times.high:.2f})" if times else "-",
        f"{rate:,.0f}",
        f"{rate * work['size'] / MIB:,.0f}",
        f"{wall.median:.2f}",
        f"({wall.low:.2f}-{wall.high:.2f})",
        f"{Spread.of(usage['cpu'] for _, usage, _ in runs).median:.2f}",
        f"{Spread.of(usage['peak'] / MIB for _, usage, _ in runs).median:.0f}",
        f"{Spread.of(run['requests'] for _, _, run in runs).median:,.0f}",
    )


def _notes_of(work: dict[str, Any], peer: str) -> list[str]:
    runs = [run for run in work["runs"] if run["peer"] == peer]
    failures = [run["failure"] for run in runs if run["failure"] is not None]
    notes = [f"  {peer}: {len(failures)} of {len(runs)} runs failed: {failures[0]}"] if failures else []
    if runs and runs[0]["files"] != work["files"]:
        notes.append(
            f"  * {peer}: {runs[0]['files']:,} of {work['files']:,} files, rates are of those. Start-up weighs more on "
            "fewer files\n    and the manifest it rewrites for each file much less: it looks better than it is. "
            "--full runs them all."
        )
    return notes


def _target(work: dict[str, Any], peer: str, times: float, *, judge: bool) -> str:
    """Say of each figure of a peer whether the target is met; fewer files than stated judge nothing."""
    itself = work["md5_by"][peer] == "itself"
    subset = any(run["files"] != work["files"] for run in work["runs"] if run["peer"] == peer)
    kinds = {"verified": "" if itself else " with md5sum"} | ({} if itself else {"alone": " without md5"})
    said = []
    for kind, words in kinds.items():
        found = ratio(work, peer, kind)
        verdict = _verdict(found is not None and found.median >= times, judge and not subset)
        said.append("no figure" + words if found is None else f"{found.median:.2f} x{words}, {verdict}")
    return f"  target: framefetch >= {times:g} x the rate of {peer}: {'; '.join(said)}"


def _verdict(met: bool, judge: bool) -> str:  # noqa: FBT001 - two findings, made into a word
    return ("met" if met else "MISSED") if judge else "not judged (not the whole work)"


def show_probe(work: dict[str, Any], *, judge: bool) -> str:
    """Return what a probe found."""
    lines = [f"{work['name']}: {work['rows']:,} {work['says']}"]
    failed = [run["failure"] for run in work["runs"] if run["failure"] is not None]
    if failed:
        lines.append(f"  {len(failed)} of {len(work['runs'])} runs failed: {failed[0]}")
    good = [run for run in work["runs"] if run["failure"] is None]
    show = {"plan": _plan_lines, "held": _held_lines, "limits": _limits_lines}[work["name"]]
    return "\n".join(lines + show(work, good, judge=judge))


def _plan_lines(work: dict[str, Any], runs: list[dict[str, Any]], *, judge: bool) -> list[str]:
    if not runs:
        return []
    above = Spread.of(run["above_table_bytes"] / MIB for run in runs)
    limit = work["limit_bytes"] / MIB
    return [
        f"  a row        {_spread([run['row_bytes'] for run in runs], '.0f')} bytes of peak memory above the table",
        f"  in all       {above.median:.0f} MiB ({above.low:.0f}-{above.high:.0f})",
        f"  plan         {_spread([run['seconds'] for run in runs])} s",
        f"  process      {_spread([run['process_seconds'] for run in runs])} s, with start and reading the table",
        f"  target: <= 64 MiB + 300 B a row = {limit:.0f} MiB: {_verdict(above.high <= limit, judge)} (worst run)",
    ]


def _held_lines(work: dict[str, Any], runs: list[dict[str, Any]], *, judge: bool) -> list[str]:
    api = [run for run in runs if run["way"] == "api"]
    command = [run for run in runs if run["way"] == "command"]
    lines = []
    if api:
        both = [run["open_seconds"] + run["seconds"] for run in api]
        met = Spread.of(both).median <= work["limit_seconds"]
        lines += [
            f"  fetch_all    {_spread([run['seconds'] for run in api])} s in a fresh process, after imports",
            f"  + opening    {_spread(both)} s with opening the cache",
            f"  process      {_spread([run['process_seconds'] for run in api])} s with imports and reading the table",
        ]
    if command:
        lines.append(f"  command      {_spread([run['process_seconds'] for run in command])} s, framefetch mirror")
    if api:
        lines.append(f"  requests     {max(run['requests'] for run in runs)} counted by the server")
        lines.append(
            f"  target: 0 requests and <= {work['limit_seconds']:g} s with opening the cache: {_verdict(met, judge)}"
        )
    return lines


def _limits_lines(work: dict[str, Any], runs: list[dict[str, Any]], *, judge: bool) -> list[str]:
    if not runs:
        return []
    rows = [("case", "fault", "limit s", "took s, longest", "of the limit", "verdict")]
    all_met = True
    for fault, *others in zip(*(run["faults"] for run in runs), strict=True):
        took = max(found["took"] for found in (fault, *others))
        met = took <= fault["limit"] * work["limit_factor"]
        all_met = all_met and met
        share = f"{took / fault['limit']:.0%}"
        verdict = "in time" if met else "LATE"
        rows.append((fault["case"], fault["says"], f"{fault['limit']:g}", f"{took:.2f}", share, verdict))
    verdict = _verdict(all_met, judge)
    return [*_align(rows), f"  target: each ends within its limit + 10 %: {verdict} (worst row of {len(runs)} runs)"]


def _spread(values: list[float], form: str = ".2f") -> str:
    found = Spread.of(values)
    return f"{found.median:{form}} ({found.low:{form}}-{found.high:{form}})"


def show_machine(machine: dict[str, Any]) -> str:
    """Return the machine and the versions in a few lines."""
    memory = machine["memory_bytes"] / MIB / 1024
    versions = {"python": machine["python"], **machine["packages"], **machine["programs"]}
    load = machine["load_before"][0]
    busy = f"\nwarning: a load of {load:.2f} before the start: others are at work here, even ratios suffer"
    lines = "\n".join(
        [
            f"{machine['cores']} cores, {machine['processor']}, {memory:.0f} GiB, {machine['system']}",
            f"output on {machine['output_on']}, load before {load:.2f}",
            ", ".join(f"{name} {number}" for name, number in versions.items() if number is not None),
        ]
    )
    return lines + (busy if load > BUSY_LOAD else "")


def _align(rows: list[tuple[str, ...]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  " + "  ".join(cell.rjust(width) if at else cell.ljust(width) for at, (cell, width) in enumerate(pairs))
        for pairs in ([*zip(row, widths, strict=True)] for row in rows)
    ]
