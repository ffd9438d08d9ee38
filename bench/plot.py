"""The picture of a spike, as SVG: what left the origin over time, and who had the lesson when.

Dashed lines are the fluid limit: the origin sends one copy at an even rate, and the last node has it at the bound.
`python -m bench.plot RESULTS.jsonl FILE.svg` draws the last configuration of a file of JSON lines.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

import attrs

# Told apart by most kinds of eyes (Okabe and Ito, 2008).
_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")
_WIDTH, _HEIGHT = 960, 420
_PANEL_WIDTH, _PANEL_HEIGHT, _TOP = 380, 290, 50


@attrs.frozen(kw_only=True)
class _Panel:
    """One diagram: where it stands, and what its axes reach to."""

    left: float
    title: str
    most_x: float
    most_y: float
    label_y: str

    def point(self, x: float, y: float) -> str:
        across = self.left + _PANEL_WIDTH * min(x, self.most_x) / self.most_x
        return f"{across:.1f},{_TOP + _PANEL_HEIGHT * (1 - min(y, self.most_y) / self.most_y):.1f}"

    def line(self, points: Sequence[tuple[float, float]], colour: str, more: str = "") -> str:
        path = " ".join(self.point(x, y) for x, y in points)
        return f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2" {more}/>'

    def frame(self) -> list[str]:
        bottom, right = _TOP + _PANEL_HEIGHT, self.left + _PANEL_WIDTH
        drawn = [
            f'<text x="{self.left}" y="{_TOP - 10}" font-weight="bold">{escape(self.title)}</text>',
            f'<path d="M{self.left},{_TOP} V{bottom} H{right}" fill="none" stroke="#444"/>',
            f'<text x="{right}" y="{bottom + 32}" text-anchor="end">seconds</text>',
            f'<text x="{self.left + 6}" y="{_TOP + 12}" fill="#444">{escape(self.label_y)}</text>',
        ]
        for x in _ticks(self.most_x):
            across = self.point(x, 0).partition(",")[0]
            drawn.append(f'<path d="M{across},{bottom} v5" stroke="#444"/>')
            drawn.append(f'<text x="{across}" y="{bottom + 18}" text-anchor="middle">{x:g}</text>')
        for y in _ticks(self.most_y):
            down = self.point(0, y).partition(",")[2]
            drawn.append(f'<path d="M{self.left},{down} H{right}" stroke="#ddd"/>')
            drawn.append(f'<text x="{self.left - 6}" y="{down}" dy="4" text-anchor="end">{y:g}</text>')
        return drawn


def draw(file: Path, title: str, runs: Mapping[str, Mapping[str, Any]], bound_s: float, size: int) -> None:
    """Write the picture of these runs, by who was measured."""
    longest = max([bound_s, *(max(run["finished_s"], default=0.0) for run in runs.values())])
    even = size * 8 / bound_s / 1e6
    peak = max([even, *(max(run["origin_mbit_s"], default=0.0) for run in runs.values())])
    end = longest * 1.05
    rate = _Panel(left=60, title="what leaves the origin", most_x=end, most_y=peak * 1.1, label_y="Mbit/s")
    done = _Panel(left=540, title="nodes that have the lesson", most_x=end, most_y=100.0, label_y="%")
    drawn = [*rate.frame(), *done.frame()]
    dashed = 'stroke-dasharray="6 4"'
    drawn.append(rate.line([(0, even), (bound_s, even), (bound_s, 0)], "#888", dashed))
    drawn.append(done.line([(bound_s, 0), (bound_s, 100)], "#888", dashed))
    across = 60
    for number, (kind, run) in enumerate(runs.items()):
        colour = _COLOURS[number % len(_COLOURS)]
        drawn.append(rate.line(_stairs(run["origin_mbit_s"]), colour))
        drawn.append(done.line(_completion(run), colour))
        name = f"{kind}: {run['copies_wire']:.2f} copies"
        drawn.append(f'<text x="{across}" y="{_HEIGHT - 14}" fill="{colour}">{escape(name)}</text>')
        across += 7 * len(name) + 10
    text = "\n".join(drawn)
    file.write_text(
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {max(_WIDTH, across)} {_HEIGHT}" '
        f'font-family="sans-serif" font-size="12">\n'
        f'<title>{escape(title)}</title>\n<rect width="100%" height="100%" fill="#fff"/>\n'
        f'<text x="60" y="20" font-size="14">{escape(title)}; dashed: one copy, and the fluid limit of '
        f"{bound_s:.1f} s</text>\n{text}\n</svg>\n",
        encoding="utf-8",
    )


def _stairs(by_second: Sequence[float]) -> list[tuple[float, float]]:
    return [(float(at), value) for second, value in enumerate(by_second) for at in (second, second + 1)]


def _completion(run: Mapping[str, Any]) -> list[tuple[float, float]]:
    """The share of nodes that have it, as stairs; those that failed are missing at the end."""
    times = run["finished_s"]
    whole = len(times) + len(run["failed"])
    points = [(0.0, 0.0)]
    for count, at in enumerate(times):
        points += [(at, 100 * count / whole), (at, 100 * (count + 1) / whole)]
    return points


def _ticks(most: float) -> list[float]:
    """About five round numbers up to `most`."""
    rough = most / 5
    scale = 10.0 ** math.floor(math.log10(rough))
    step = next(scale * factor for factor in (1, 2, 5, 10) if scale * factor >= rough)
    return [step * number for number in range(1, int(most / step) + 1)]


def main(results: Path, file: Path) -> None:
    """Draw each one's last run of the last configuration in `results`."""
    lines = [json.loads(line) for line in results.read_text(encoding="utf-8").splitlines()]
    runs = [line for line in lines if line["kind"] == "run"]
    last = {run["of"]: run for run in runs if run["setup"] == runs[-1]["setup"]}
    setup = runs[-1]["setup"]
    bound_s = max(run["bound_s"] for run in last.values())
    draw(file, f"{setup['nodes']} nodes, {setup['size'] / 2**20:.1f} MiB", last, bound_s, setup["size"])


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
