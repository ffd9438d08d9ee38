"""`make simulate`: the ration from a school's worth of nodes to a country's, without any network.

Three tables, and JSON lines with the same: the spike of the lab as bench/fluid.py has it, beside what the lab measured;
bench/fluid.py beside bench/epidemic.py where both reach; then the country. All of it uses edgeshare's own `Ration`.
"""

from __future__ import annotations

import json
import statistics
import time
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

import attrs
import click
import numpy as np

from bench.epidemic import Country, Outcome
from bench.fluid import Crowd, Fluid
from bench.takers import STEP_S, Kind, Morning, Wire
from edgeshare.ration import Rules

MBIT = 125_000.0  # bytes a second
HEADERS = 1.037  # what the kernel counts beside a byte of content: TCP, IP, HTTP (lab, N = 24: 1.054 for 1.016)
LAB_SIZES = (8, 24, 48, 96)
COUNTRY_SIZES = (1_000, 10_000, 100_000, 1_000_000, 12_000_000)
OVERLAP = 1_000
DATAGRAMS = 4  # to the tracker from each node in a spike: connect and announce, on joining and when complete (lab)
INTERVAL_S = 1800.0  # opentracker's

EVEN = (Kind(name="home", share=1.0, down=100 * MBIT, up=20 * MBIT),)

# Fibre has 79 % of the lines; homes send at most what a node's config allows by default, 5 Mbit/s, and a metered line
# nothing. Nobody can connect to 70 % of the nodes: an assumption, the one that the lab's run behind NAT makes too.
# 59,000 schools among 12 million nodes.
FRANCE = (
    Kind(name="school", share=0.005, down=100 * MBIT, up=20 * MBIT),
    Kind(name="fibre", share=0.295, down=300 * MBIT, up=5 * MBIT),
    Kind(name="fibre behind NAT", share=0.495, down=300 * MBIT, up=5 * MBIT, is_reachable=False),
    Kind(name="ADSL behind NAT", share=0.145, down=8 * MBIT, up=1 * MBIT, is_reachable=False),
    Kind(name="4G", share=0.06, down=30 * MBIT, up=0.0, is_reachable=False),
)


def with_holders(kinds: Sequence[Kind], share: float) -> tuple[Kind, ...]:
    """The same, but so many of the nodes that can be reached have the lesson from the night."""
    is_open = sum(kind.share for kind in kinds if kind.is_reachable)
    found: list[Kind] = []
    for kind in kinds:
        part = kind.share * share / is_open if kind.is_reachable else 0.0
        found.append(attrs.evolve(kind, share=kind.share - part))
        if part:
            found.append(attrs.evolve(kind, name=f"{kind.name}, has it", share=part, has_it=True))
    return tuple(found)


def five_minutes() -> list[float]:
    """Arrivals from 7:57:30 to 8:02:30, most at eight: a bell, a minute wide to each side."""
    at = (np.arange(int(300 / STEP_S)) + 0.5) * STEP_S
    bell = np.exp(-0.5 * ((at - 150) / 60) ** 2)
    shares: list[float] = (bell / bell.sum()).tolist()
    return shares


SECOND = [STEP_S] * int(1 / STEP_S)

SCENES: Mapping[str, dict[str, Any]] = {
    "one second": {"kinds": EVEN, "arrivals": SECOND},
    "one second, guard of 15 s": {"kinds": EVEN, "arrivals": SECOND, "turn_s": 15.0},
    "one second, no guard": {"kinds": EVEN, "arrivals": SECOND, "has_guard": False},
    "five minutes": {"kinds": FRANCE, "arrivals": five_minutes()},
    "five minutes, guard of 15 s": {"kinds": FRANCE, "arrivals": five_minutes(), "turn_s": 15.0},
    "five minutes, no guard": {"kinds": FRANCE, "arrivals": five_minutes(), "has_guard": False},
    "five minutes, 5 % have it": {"kinds": with_holders(FRANCE, 0.05), "arrivals": five_minutes()},
}


def spike(nodes: int, divisor: int, rules: Rules, runs: int) -> dict[str, Any]:
    """The lab's spike, simulated: medians of so many runs. `divisor` slows all lines, as in the lab."""
    results = [
        Fluid(
            Crowd(
                nodes=nodes, down=100 * MBIT / divisor, up=20 * MBIT / divisor, origin=200 * MBIT / divisor, rules=rules
            ),
            np.random.default_rng(run),
        ).run()
        for run in range(runs)
    ]
    return {
        "copies_http": statistics.median(each.copies for each in results) * HEADERS,
        "last_s": statistics.median(each.last_s for each in results),
        "p50_s": statistics.median(each.p50_s for each in results),
        "requests": statistics.median(each.requests for each in results),
    }


def measured(files: Iterable[Path]) -> dict[tuple[int, int], dict[str, Any]]:
    """Medians of the lab's plain runs in these files (bench/spike.py's JSON lines), by nodes and divisor."""
    runs: dict[tuple[int, int], list[dict[str, Any]]] = defaultdict(list)
    for file in files:
        for text in file.read_text(encoding="utf-8").splitlines():
            line = json.loads(text)
            if line.get("kind") != "run" or line["of"] != "edgeshare" or line["failed"]:
                continue
            setup = {key: value for key, value in line["setup"].items() if key != "timeout_s"}
            if setup.keys() <= {"nodes", "size", "rate_div"} and setup["size"] == Crowd(nodes=1).size:
                runs[setup["nodes"], setup.get("rate_div", 1)].append(line)
    return {
        key: {name: statistics.median(each[name] for each in lines) for name in ("copies_http", "last_s", "p50_s")}
        | {"runs": len(lines), "cores_were_the_limit": any(each["cores_were_the_limit"] for each in lines)}
        for key, lines in runs.items()
    }


def overlap(rules: Rules) -> dict[str, Any]:
    """The same crowd in both simulations, without a guard, which would hide what differs."""
    fluid = Fluid(Crowd(nodes=OVERLAP, degree=50, has_guard=False, rules=rules), np.random.default_rng(1)).run()
    morning = Morning(nodes=OVERLAP, kinds=EVEN, arrivals=SECOND, has_guard=False, rules=rules)
    country = Country(morning, np.random.default_rng(1)).run()
    return {
        "nodes": OVERLAP,
        "fluid": {"copies": fluid.copies, "placed_s": float(fluid.placed_s.mean()), "p50_s": fluid.p50_s},
        "epidemic": {
            "copies": country.copies,
            "placed_s": float(country.placed_s.mean()),
            "p50_s": float(country.waits_s[49]),
        },
    }


def figures(outcome: Outcome, nodes: int) -> dict[str, Any]:
    """What is told of a country's morning."""
    seconds = -(-max(len(outcome.arrived), len(outcome.finished)) // 4)
    events = np.zeros(4 * seconds)
    events[: len(outcome.arrived)] += outcome.arrived
    events[: len(outcome.finished)] += outcome.finished
    return {
        "nodes": nodes,
        "copies": outcome.copies,
        "peak_mbit_s": float(outcome.origin_bytes_per_s.max(initial=0.0) / MBIT),
        "requests": outcome.requests,
        "refused": outcome.refused,
        "connections": outcome.askers,
        "tracker_per_s": float(events.reshape(-1, 4).sum(axis=1).max() * DATAGRAMS / 2),
        "tracker_later_per_s": nodes * DATAGRAMS / 2 / INTERVAL_S,
        "placed_s": float(np.mean(outcome.placed_s)),
        "p50_s": float(outcome.waits_s[49]),
        "p95_s": float(outcome.waits_s[94]),
        "p99_s": float(outcome.waits_s[98]),
    }


@click.command(help="Simulate the ration with many nodes. Example: python -m bench.simulate --lab lab.jsonl")
@click.option("--lab", "labs", multiple=True, type=click.Path(exists=True, dir_okay=False, path_type=Path),
              help="JSON lines of bench.spike to stand beside the simulation; may be repeated.")  # fmt: skip
@click.option("--sizes", default=",".join(map(str, COUNTRY_SIZES)), help="Nodes of the country, with commas.")
@click.option("--scene", "scenes", multiple=True, type=click.Choice(list(SCENES)), help="Only these mornings.")
@click.option("--only-country", is_flag=True, help="Neither the lab nor the overlap.")
@click.option(
    "--asks-anew/--old-counts", default=True, help="Whether who is due asks the tracker for its count before it takes."
)
@click.option("--rule", "changes", multiple=True, metavar="NAME=NUMBER", help="Another number than Rules has.")
@click.option("--slots", default=Wire().slots, help="Peers that a node of the country sends to at once.")
@click.option("--seed", default=1)
@click.option("--json", "json_file", type=click.Path(dir_okay=False, path_type=Path), help="Append JSON lines.")
@click.option("--plot", type=click.Path(dir_okay=False, path_type=Path), help="Draw the country, as SVG.")
def main(
    labs: Sequence[Path], sizes: str, scenes: Sequence[str], only_country: bool, asks_anew: bool,
    slots: int,
    changes: Sequence[str], seed: int, json_file: Path | None, plot: Path | None,
) -> None:  # fmt: skip
    """Print the tables."""
    try:
        numbers: dict[str, Any] = {name: float(number) for name, number in (each.split("=") for each in changes)}
        rules = attrs.evolve(Rules(), **numbers)
        counts = [int(float(each)) for each in sizes.split(",")]
    except (TypeError, ValueError) as error:
        raise click.UsageError(str(error)) from error

    def say(kind: str, line: dict[str, Any]) -> None:
        if json_file:
            with json_file.open("a", encoding="utf-8") as output:
                output.write(json.dumps({"kind": kind} | line) + "\n")

    if not only_country:
        _say_lab(measured(labs), rules, say)
        both = overlap(rules)
        say("overlap", both)
        print(f"\n{OVERLAP} nodes, 50 connections each, no guard: copies, mean seconds to place a piece, p50")
        for name in ("fluid", "epidemic"):
            print(f"{name:>9}  " + "  ".join(f"{value:6.2f}" for value in both[name].values()))
    lines: dict[str, list[dict[str, Any]]] = {}
    for scene in scenes or SCENES:
        print(f"\n{scene}\n| nodes | copies | peak Mbit/s | requests (refused) | connections | tracker/s | placed s"
              " | p50 s | p95 s | p99 s |\n|---|---|---|---|---|---|---|---|---|---|")  # fmt: skip
        for nodes in counts:
            began = time.monotonic()
            morning = Morning(nodes=nodes, asks_anew=asks_anew, rules=rules, wire=Wire(slots=slots), **SCENES[scene])
            line = figures(Country(morning, np.random.default_rng(seed)).run(), nodes)
            lines.setdefault(scene, []).append(line)
            say(
                "country",
                {"scene": scene, "asks_anew": asks_anew, "slots": slots, "took_s": time.monotonic() - began} | line,
            )
            print(
                f"| {nodes:,} | {line['copies']:.2f} | {line['peak_mbit_s']:.0f} | {line['requests']:,} "
                f"({line['refused']:,}) | {line['connections']:,} | {line['tracker_per_s']:,.0f} | "
                f"{line['placed_s']:.1f} | {line['p50_s']:.1f} | {line['p95_s']:.1f} | {line['p99_s']:.1f} |",
                flush=True,
            )
    if plot:
        plot.write_text(picture(lines), encoding="utf-8")


def _say_lab(lab: Mapping[tuple[int, int], Mapping[str, Any]], rules: Rules, say: Any) -> None:
    print("nodes  rates  copies: lab, simulated   last s: lab, simulated   p50 s: lab, simulated")
    for nodes, divisor in sorted(lab.keys() | {(nodes, 1) for nodes in LAB_SIZES}):
        simulated = spike(nodes, divisor, rules, runs=3)
        found = lab.get((nodes, divisor), {})
        say("lab", {"nodes": nodes, "rate_div": divisor, "lab": dict(found), "simulated": simulated})
        pairs = (
            f"{found[name]:6.2f} {simulated[name]:6.2f}" if name in found else f"     – {simulated[name]:6.2f}"
            for name in ("copies_http", "last_s", "p50_s")
        )
        note = "  (the lab's cores were full)" if found.get("cores_were_the_limit") else ""
        print(f"{nodes:5}   1/{divisor}     {'            '.join(pairs)}{note}", flush=True)


_COLOURS = (
    "#0072b2",
    "#d55e00",
    "#009e73",
    "#cc79a7",
    "#e69f00",
    "#56b4e9",
    "#000000",
)  # told apart by most eyes (Okabe and Ito, 2008)


def picture(lines: Mapping[str, Sequence[Mapping[str, Any]]]) -> str:
    """Copies, and seconds until 95 % have it, over the number of nodes; as SVG."""
    drawn = []
    low, high = (edge(np.log10(line["nodes"]) for each in lines.values() for line in each) for edge in (min, max))
    for left, key, title in ((60, "copies", "copies that leave the origin"), (540, "p95_s", "seconds for 95 %")):
        most = 1.1 * max(line[key] for each in lines.values() for line in each) or 1.0
        drawn.append(f'<text x="{left}" y="40" font-weight="bold">{title}</text>')
        drawn.append(f'<path d="M{left},50 V340 H{left + 380}" fill="none" stroke="#444"/>')
        for tick in range(5):
            down = 340 - 290 * tick / 4
            drawn.append(f'<path d="M{left},{down} h380" stroke="#ddd"/>')
            drawn.append(f'<text x="{left - 6}" y="{down}" dy="4" text-anchor="end">{most * tick / 4:.3g}</text>')
        for number, each in enumerate(lines.values()):
            points = [
                (left + 380 * (np.log10(line["nodes"]) - low) / max(high - low, 1e-9), 340 - 290 * line[key] / most)
                for line in each
            ]
            path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
            drawn.append(f'<polyline points="{path}" fill="none" stroke="{_COLOURS[number]}" stroke-width="2"/>')
        for line in next(iter(lines.values())):
            across = left + 380 * (np.log10(line["nodes"]) - low) / max(high - low, 1e-9)
            drawn.append(f'<text x="{across:.1f}" y="358" text-anchor="middle">{line["nodes"]:,}</text>')
    for number, name in enumerate(lines):
        across, down = 60 + 230 * (number % 4), 385 + 18 * (number // 4)
        drawn.append(f'<text x="{across}" y="{down}" fill="{_COLOURS[number]}">{escape(name)}</text>')
    body = "\n".join(drawn)
    return (
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 1000 420" font-family="sans-serif" font-size="12">\n'
        f'<title>The ration, simulated</title>\n<rect width="100%" height="100%" fill="#fff"/>\n{body}\n</svg>\n'
    )


if __name__ == "__main__":
    main()
