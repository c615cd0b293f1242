"""Figures of the probes for people: what was found, and the target below it."""

from __future__ import annotations

from typing import Any

from benchmarks.adaptive import enough, shares
from benchmarks.defaults import TIMES_AS_FAST
from benchmarks.growth import growth_of
from benchmarks.judge import ratio
from benchmarks.peers import BASE
from benchmarks.rates import rates_of
from benchmarks.report import align
from benchmarks.timing import Spread
from benchmarks.workloads import ADAPTIVE_SHARE, MIB


def _verdict(met: bool, judge: bool) -> str:  # noqa: FBT001 - two findings, made into a word
    return ("met" if met else "MISSED") if judge else "not judged (not the whole work)"


def show_probe(work: dict[str, Any], *, judge: bool) -> str:
    """Return what a probe found."""
    if "failure" in work:
        return f"{work['name']}\n  failed: {work['failure']}"
    lines = [f"{work['name']}: {work['rows']:,} {work['says']}"]
    failed = [run["failure"] for run in work["runs"] if run["failure"] is not None]
    if failed:
        lines.append(f"  {len(failed)} of {len(work['runs'])} runs failed: {failed[0]}")
    good = [run for run in work["runs"] if run["failure"] is None]
    return "\n".join(lines + _SHOWN[work["name"]](work, good, judge=judge))


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
    return [*align(rows), f"  target: each ends within its limit + 10 %: {verdict} (worst row of {len(runs)} runs)"]


def _growth_lines(work: dict[str, Any], runs: list[dict[str, Any]], *, judge: bool) -> list[str]:
    rows = [("", "rows", "microseconds a row", "(range)", "")]
    verdicts = []
    for way in dict.fromkeys(run["way"] for run in runs):
        by_size, worst = growth_of(runs, way)
        for size, spread in by_size.items():
            range_ = f"({spread.low * 1e6:.1f}-{spread.high * 1e6:.1f})"
            rows.append((way, f"{size:,}", f"{spread.median * 1e6:.1f}", range_, ""))
        if worst is not None:
            verdict = _verdict(worst <= work["flat"], judge)
            said = f"more rows cost at most {work['flat']:g} times as much each"
            verdicts.append(f"  target: {way}: {said}: {worst:.2f}: {verdict}")
    return [*align(rows), *verdicts]


def _restart_lines(work: dict[str, Any], runs: list[dict[str, Any]], *, judge: bool) -> list[str]:
    if not runs:
        return []
    took = Spread.of(run["first_file_seconds"] for run in runs)
    return [
        f"  first file   {_spread([run['first_file_seconds'] for run in runs])} s after the start of its process",
        f"  target: <= {work['limit_seconds']:g} s: {_verdict(took.median <= work['limit_seconds'], judge)}",
    ]


def _rates_lines(work: dict[str, Any], runs: list[dict[str, Any]], *, judge: bool) -> list[str]:
    rows = [("", "", "files/s", "(range)", "framefetch is", "(range)", "with start-up")]
    verdicts = []
    for name, peer in dict.fromkeys((run["files"], run["peer"]) for run in runs):
        rates = Spread.of(run["count"] / run["seconds"] for run in runs if (run["files"], run["peer"]) == (name, peer))
        times, whole = (rates_of(runs, name, peer, what) for what in ("seconds", "process_seconds"))
        found, said = [f"{rates.median:,.0f}", f"({rates.low:,.0f}-{rates.high:,.0f})"], ["", "", ""]
        must = next((must for which, who, must in work["times_as_fast"] if (which, who) == (name, peer)), None)
        if must is not None and times:
            spread = Spread.of(times)
            said = [f"{spread.median:.1f} times", f"({spread.low:.1f}-{spread.high:.1f})", _spread(whole, ".1f")]
            verdict = _verdict(spread.median >= must, judge)
            verdicts.append(f"  target: {name}: {must:g} times the rate of {peer}: {spread.median:.1f}: {verdict}")
        rows.append((name, peer, *found, *said))
    return [*align(rows), *verdicts]


def _adaptive_lines(work: dict[str, Any], _: list[dict[str, Any]], *, judge: bool) -> list[str]:
    rows = [("", "best fixed", "its s", "default s", "share of its speed", "verdict")]
    for one in work["compared"]:
        found = shares(one)
        if found is None:
            rows.append((one["name"], one["failure"] or "failed", "", "", "", ""))
            continue
        best, fixed, default, share = found
        row = (one["name"], best, f"{fixed:.2f}", f"{default:.2f}", f"{share:.2f}", _verdict(enough(share), judge))
        rows.append(row)
    return [*align(rows), f"  target: the default reaches {ADAPTIVE_SHARE:g} of the best fixed number's speed"]


def _defaults_lines(work: dict[str, Any], runs: list[dict[str, Any]], *, judge: bool) -> list[str]:
    rows = [("", "files", "wall s", "times a file's", "(range)", "verdict")]
    for peer in work["compared"]:
        own = [run for run in runs if run["peer"] == peer]
        if not own:
            rows.append((peer, "failed", "", "", "", ""))
            continue
        wall, times = Spread.of(run["verified"]["wall"] for run in own), ratio({"runs": runs}, peer)
        said = ["", "", ""]
        if times is not None and peer != BASE:
            verdict = _verdict(times.median >= TIMES_AS_FAST, judge)
            said = [f"{times.median:.1f}", f"({times.low:.1f}-{times.high:.1f})", verdict]
        rows.append((peer, f"{own[0]['files']:,}", f"{wall.median:.2f}", *said))
    left = [f"  {name}: left out, {why}" for name, why in work["left_out"].items()]
    return [*align(rows), *left, f"  target: each takes {TIMES_AS_FAST:g} times as long for a file, md5 included"]


def _spread(values: list[float], form: str = ".2f") -> str:
    found = Spread.of(values)
    return f"{found.median:{form}} ({found.low:{form}}-{found.high:{form}})"


_SHOWN = {
    "plan": _plan_lines,
    "held": _held_lines,
    "limits": _limits_lines,
    "growth": _growth_lines,
    "commit": _growth_lines,
    "restart": _restart_lines,
    "rates": _rates_lines,
    "defaults": _defaults_lines,
    "adaptive": _adaptive_lines,
}
