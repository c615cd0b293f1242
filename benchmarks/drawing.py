"""The ratios as a picture: a line a workload, a mark a peer, drawn by hand as SVG."""

from __future__ import annotations

import math
from html import escape
from typing import TYPE_CHECKING, Any

from benchmarks.judge import PYTHON, is_subset, ratio
from benchmarks.peers import BASE

if TYPE_CHECKING:
    from collections.abc import Sequence

WIDTH, LEFT, RIGHT, TOP, ROW = 900, 110, 30, 84, 36
LEAST, MOST = 0.05, 100.0
TICKS = (0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 50, 100)
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#6a3d9a", "#8c510a", "#4d4d4d", "#b2182b")
CAPTION = "wall time of a peer, with md5, / framefetch's: right of 1 framefetch is faster; a tall tick is a target"
STYLE = (
    "text{font:12px sans-serif;fill:#222}.small{font-size:11px}.grid{stroke:#ddd}.one{stroke:#222;stroke-width:1.5}"
    ".must{stroke:#222;stroke-width:2}.range{stroke-width:2;stroke-opacity:.45}.mark{fill-opacity:.85}"
)


def draw(works: Sequence[dict[str, Any]]) -> str:
    """Return the picture of all workloads that were judged: to the right of 1 framefetch is faster."""
    shown = [work for work in works if work.get("targets") and "failure" not in work]
    peers = list(dict.fromkeys(peer for work in shown for peer in work["peers"] if peer != BASE))
    colours = {peer: COLOURS[at % len(COLOURS)] for at, peer in enumerate(peers)}
    kinds = {peer: about["kind"] for work in shown for peer, about in work["peers"].items()}
    height = TOP + ROW * len(shown) + 40
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img">',
        f"<title>Wall time of each peer with md5, divided by framefetch's</title><style>{STYLE}</style>",
        f'<rect width="{WIDTH}" height="{height}" fill="#fff"/>',
        f'<text x="{LEFT}" y="18">{escape(CAPTION)}</text>',
        *_legend(peers, colours, kinds),
        *_scale(height),
    ]
    for at, work in enumerate(shown):
        lines += _row(work, TOP + ROW * at + ROW // 2, colours)
    return "\n".join([*lines, "</svg>\n"])


def _x(value: float) -> float:
    share = math.log(min(MOST, max(LEAST, value)) / LEAST) / math.log(MOST / LEAST)
    return round(LEFT + share * (WIDTH - LEFT - RIGHT), 1)


def _mark(x: float, y: float, kind: str, colour: str) -> str:
    """Return a circle for a native peer, a square for a Python one."""
    if kind == PYTHON:
        return f'<rect class="mark" x="{x - 5:.1f}" y="{y - 5:.1f}" width="10" height="10" fill="{colour}"/>'
    return f'<circle class="mark" cx="{x:.1f}" cy="{y:.1f}" r="5.5" fill="{colour}"/>'


def _legend(peers: Sequence[str], colours: dict[str, str], kinds: dict[str, str]) -> list[str]:
    lines = []
    per_line = 6
    for at, peer in enumerate(peers):
        x, y = LEFT + 8 + (at % per_line) * 128, 38 + (at // per_line) * 18
        lines.append(_mark(x, y, kinds[peer], colours[peer]))
        lines.append(f'<text class="small" x="{x + 10}" y="{y + 4}">{escape(peer)}</text>')
    return lines


def _scale(height: int) -> list[str]:
    lines = []
    for tick in TICKS:
        look = "one" if tick == 1 else "grid"
        lines.append(f'<line class="{look}" x1="{_x(tick)}" x2="{_x(tick)}" y1="{TOP}" y2="{height - 36}"/>')
        lines.append(f'<text class="small" text-anchor="middle" x="{_x(tick)}" y="{height - 18}">{tick:g}</text>')
    return lines


def _row(work: dict[str, Any], y: int, colours: dict[str, str]) -> list[str]:
    lines = [
        f'<text text-anchor="end" x="{LEFT - 12}" y="{y + 4}">{escape(work["letter"])} {escape(work["name"])}</text>'
    ]
    must, _, python = work["targets"]
    lines += [
        f'<line class="must" x1="{_x(limit)}" x2="{_x(limit)}" y1="{y - 13}" y2="{y + 13}"/>'
        for limit in sorted({must, python})
    ]
    for peer, colour in colours.items():
        found = ratio(work, peer) if peer in work["peers"] else None
        if found is None:
            continue
        line = f'x1="{_x(found.low)}" x2="{_x(found.high)}" y1="{y}" y2="{y}"'
        lines.append(f'<line class="range" stroke="{colour}" {line}/>')
        star = ", a part of the files" if is_subset(work, peer) else ""
        lines.append(f"<g><title>{escape(peer)} {found.median:.2f}{star}</title>")
        lines.append(_mark(_x(found.median), y, work["peers"][peer]["kind"], colour) + "</g>")
    return lines
