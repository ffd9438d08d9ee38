"""`python -m bench.spike`: N nodes want one lesson at once; how much leaves the origin, and when everybody has it.

Hosts in network namespaces (bench/lab.py), real `edgeshare run` daemons, nginx and opentracker as seeders/origin has
them, and beside them, on request, what people use. Bytes and connections are the kernel's counts at the origin's line.
One JSON line for each run, and one that sums up each configuration's runs.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import statistics
import sys
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from bench.contenders import CONTENDERS
from bench.lab import LabError
from bench.plot import draw
from bench.scene import OURS, Setup, spike
from edgeshare.units import parse_rate, parse_size

# Of which a summary gives the median and the worst; all want to be small.
_SUMMED = (
    "copies_http",
    "copies_wire",
    "copies_content_bodies",
    "last_s",
    "p50_s",
    "p95_s",
    "p99_s",
    "own_p50_s",
    "own_p99_s",
    "last_over_bound",
    "connections_60s",
    "tracker_packets",
    "metadata_bytes",
    "http_bytes_before_per_node",
    "http_refused",
    "peak_mbit_s",
    "reader_first_byte_s",
    "reader_total_s",
    "cpu_busy",
)


def summary(results: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Median and worst over the runs of one configuration; a run in which somebody failed has no last node."""
    whole: dict[str, Any] = {}
    for key in _SUMMED:
        values = [result[key] for result in results if result.get(key) is not None]
        if values:
            whole[key] = {"median": statistics.median(values), "worst": max(values)}
    whole["p99_over_p50"] = max(
        (result["p99_s"] / result["p50_s"] for result in results if result["p50_s"]), default=None
    )
    whole["runs"] = len(results)
    whole["failed"] = sum(len(result["failed"]) for result in results)
    whole["cores_were_the_limit"] = sum(result["cores_were_the_limit"] for result in results)
    return whole


def compared(summaries: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Ours against the best of those that ran beside it, by the median of the last node's time."""
    last = {
        kind: each["last_s"]["median"] for kind, each in summaries.items() if "last_s" in each and not each["failed"]
    }
    others = {kind: each for kind, each in last.items() if kind != OURS}
    if OURS not in last or not others:
        return {}
    best = min(others, key=others.__getitem__)
    return {"best": best, "last_over_best": last[OURS] / others[best]}


class _Measured(click.ParamType[int]):
    """Text with a unit, as the config has it."""

    def __init__(self, name: str, parse: Callable[[str], int]) -> None:
        self.name = name
        self._parse = parse

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        try:
            return value if isinstance(value, int) else self._parse(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)


_SIZE, _RATE = _Measured("size", parse_size), _Measured("rate", parse_rate)


def _arrivals(_: click.Context, __: click.Parameter, value: str) -> float | None:
    if value == "second":
        return None
    with contextlib.suppress(ValueError):
        kind, seconds = value.split(":")
        if kind == "poisson" and float(seconds) > 0:
            return float(seconds)
    raise click.BadParameter("is `second`, or `poisson:T` with T in seconds")


def _counts(_: click.Context, __: click.Parameter, value: str) -> list[int]:
    with contextlib.suppress(ValueError):
        counts = [int(each) for each in value.split(",")]
        if min(counts) >= 1:
            return counts
    raise click.BadParameter("is one or more numbers with commas, like 8,24")


def _kinds(_: click.Context, __: click.Parameter, value: str) -> list[str]:
    known = [OURS, *CONTENDERS]
    kinds = list(CONTENDERS) if value == "all" else [each for each in value.split(",") if each]
    for kind in kinds:
        if kind not in known:
            raise click.BadParameter(f"has {kind!r}; known are {', '.join(known)}")
    return kinds


@click.command(context_settings={"help_option_names": ["-h", "--help"], "show_default": True, "max_content_width": 120})
@click.option("--nodes", callback=_counts, default="8", help="How many want the lesson; several counts with commas.")
@click.option("--size", type=_SIZE, default="16MiB", help="Of the lesson, when it is one file.")
@click.option("--files", type=click.IntRange(1), default=1, help="How many files it has.")
@click.option("--file-size", type=_SIZE, default="20kB", help="Of each, with more than one.")
@click.option(
    "--rate-div", type=click.IntRange(1), default=1, help="Divides all rates, where processors are the limit."
)
@click.option("--start", type=click.Choice(["warm", "cold"]), default="warm", help="Daemons run before, or start then.")
@click.option("--arrivals", callback=_arrivals, default="second", help="`second`, or `poisson:T`.")
@click.option("--holders", type=click.IntRange(0), default=0, help="More nodes, which have it already.")
@click.option("--nat", type=click.FloatRange(0, 1), default=0.0, help="Share of the nodes behind NAT.")
@click.option("--per-router", type=click.IntRange(1, 200), default=1, help="Nodes behind one router.")
@click.option("--kill-tracker", type=float, help="At so many seconds.")
@click.option("--block-peers", type=float, help="For so many seconds only HTTP and the tracker get through.")
@click.option("--kill-nodes", type=click.FloatRange(0, 1), default=0.0, help="Share killed half-way and restarted.")
@click.option("--hostile", type=click.FloatRange(0, 0.9), default=0.0, help="Share of all peers that are hostile.")
@click.option("--hostile-kind", type=click.Choice(["silent", "wrong"]), default="silent", help="What they send.")
@click.option("--bad-mirror", is_flag=True, help="The first of two mirrors serves wrong content.")
@click.option("--origin-limit", type=_RATE, help="What nginx gives to all together, like 20Mbit/s.")
@click.option("--no-guard", is_flag=True, help="nginx without its limits: a plain CDN.")
@click.option("--seed-only", is_flag=True, help="No content by HTTP; a seeding node at the origin.")
@click.option("--reader", is_flag=True, help="One node has a reader, who waits for the first byte.")
@click.option("--of", "of", callback=_kinds, default=OURS, help="Who is measured, with commas.")
@click.option("--contenders", callback=_kinds, default="", help=f"Besides: {', '.join(CONTENDERS)}; or all.")
@click.option("--runs", type=click.IntRange(1), default=5, help="Of each, in turns.")
@click.option("--timeout", type=float, default=300.0, help="Seconds for one run.")
@click.option("--json", "json_file", type=click.Path(path_type=Path), help="Append the JSON lines to a file, too.")
@click.option("--plot", "plot_file", type=click.Path(path_type=Path), help="Draw the last configuration's median runs.")
@click.option("--keep", is_flag=True, help="Keep the folders with configs and logs.")
def main(
    nodes: list[int],
    size: int,
    files: int,
    file_size: int,
    start: str,
    kill_tracker: float | None,
    block_peers: float | None,
    nat: float,
    arrivals: float | None,
    of: list[str],
    contenders: list[str],
    runs: int,
    timeout: float,
    json_file: Path | None,
    plot_file: Path | None,
    keep: bool,
    **same: Any,
) -> None:
    """Measure a spike between hosts in network namespaces; needs root.

    \b
    Example:
      python -m bench.spike --nodes 8,24 --size 16MiB --runs 5 --contenders curl,webseed
    """
    kinds = list(dict.fromkeys([*of, *contenders]))
    try:
        for count in nodes:
            setup = Setup(
                nodes=count,
                files=files,
                file_size=size if files == 1 else file_size,
                cold=start == "cold",
                arrivals_s=arrivals,
                natted=nat,
                kill_tracker_at=kill_tracker,
                block_peers_for=block_peers,
                timeout_s=timeout,
                **same,
            )
            results = _measured(setup, kinds, runs, json_file, keep=keep)
            summaries = {kind: summary(each) for kind, each in results.items()}
            for kind, each in summaries.items():
                _say({"kind": "summary", "of": kind, "setup": setup.describe()} | each, json_file)
            if found := compared(summaries):
                _say({"kind": "comparison", "setup": setup.describe()} | found, json_file)
            if plot_file:
                title = f"{count} nodes, {setup.size / 2**20:.1f} MiB" + (
                    f", rates / {setup.rate_div}" * (setup.rate_div > 1)
                )
                draw(
                    plot_file,
                    title,
                    {kind: _median_run(each) for kind, each in results.items()},
                    setup.bound_s,
                    setup.size,
                )
    except LabError as error:
        print(f"spike: {error}", file=sys.stderr)
        sys.exit(1)


def _measured(
    setup: Setup, kinds: Sequence[str], runs: int, json_file: Path | None, *, keep: bool
) -> dict[str, list[dict[str, Any]]]:
    """Everybody's runs, in turns, so that the machine's moods fall on all alike."""
    results: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for run in range(runs):
        for kind in kinds:
            with _folder(is_kept=keep) as folder:
                result = spike(kind, setup, folder, lambda line: print(line, file=sys.stderr, flush=True))
            results[kind].append(result)
            _say({"kind": "run", "of": kind, "run": run, "setup": setup.describe()} | result, json_file)
    return results


def _median_run(results: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The run whose last node is in the middle."""
    ordered = sorted(results, key=lambda result: result["last_s"] or float("inf"))
    return ordered[(len(ordered) - 1) // 2]


@contextmanager
def _folder(*, is_kept: bool) -> Iterator[Path]:
    """A folder that nginx's and opentracker's users can enter."""
    folder = Path(tempfile.mkdtemp(prefix="edgeshare-spike-"))
    folder.chmod(0o755)
    try:
        yield folder
    finally:
        if is_kept:
            print(f"kept: {folder}", file=sys.stderr)
        else:
            shutil.rmtree(folder, ignore_errors=True)


def _say(line: dict[str, Any], file: Path | None) -> None:
    text = json.dumps(_rounded(line))
    print(text, flush=True)
    if file:
        with file.open("a", encoding="utf-8") as output:
            output.write(text + "\n")


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return round(value, 3)
    if isinstance(value, dict):
        return {key: _rounded(each) for key, each in value.items()}
    return [_rounded(each) for each in value] if isinstance(value, list) else value


if __name__ == "__main__":
    main()
