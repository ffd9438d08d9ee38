"""`edgeshare drill`: what to rehearse, a line now and then while it lasts, and the report."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import click
import trio

from edgeshare import host
from edgeshare.cli.output import INTERRUPTED, many, print_json, say
from edgeshare.drill.report import NodePart, Outcome, Report
from edgeshare.drill.stage import Plan
from edgeshare.errors import RepositoryError
from edgeshare.manifest import is_origin_url, is_tracker_url
from edgeshare.units import parse_size, size

# Nodes ask for news every 15 minutes, some after 19; then they fetch the catalogue's edition.
LEAD = timedelta(minutes=25)

_SECONDS = {"s": 1, "min": 60, "h": 3600}
_MOST_SIZE = 2**34  # bytes: a drill is for links and servers, and fills nobody's disk


def size_of(text: str) -> int:
    """The bytes that `--size` asks for.

    Raises:
        ValueError: it is no size, or not one for a drill.
    """
    count = parse_size(text)
    if not 2**10 <= count <= _MOST_SIZE:
        raise ValueError(f"{text} is not from 1 KiB to {size(_MOST_SIZE)}")
    return count


def seconds_of(text: str) -> float:
    """The seconds that `--for` asks for.

    Raises:
        ValueError: it is no such time.
    """
    found = re.fullmatch(r"([0-9]{1,5}) ?(s|min|h)", text.strip(), re.ASCII)
    seconds = int(found[1]) * _SECONDS[found[2]] if found else 0
    if not 1 <= seconds <= 24 * 3600:
        raise ValueError(f"{text!r} is not a time like '90s', '10min' or '1h', a day at most")
    return float(seconds)


def start_of(text: str | None, now: datetime) -> datetime:
    """The moment that `--start` names; `now` is the local time, aware.

    Raises:
        ValueError: it is none, or is over.
    """
    if text is None:
        return (now + LEAD + timedelta(minutes=1)).replace(second=0, microsecond=0)
    if text == "now":
        return now.replace(microsecond=0)
    if clock := re.fullmatch(r"([01]?[0-9]|2[0-3]):([0-5][0-9])", text, re.ASCII):
        start = now.replace(hour=int(clock[1]), minute=int(clock[2]), second=0, microsecond=0, tzinfo=None)
        start = start.astimezone()  # its own offset: the clocks may change in between
        return start if start > now else (start.replace(tzinfo=None) + timedelta(days=1)).astimezone()
    try:
        start = datetime.fromisoformat(text)
    except ValueError:
        start = now.replace(tzinfo=None)
    if start.tzinfo is None:
        raise ValueError(f"{text!r} is not 'now', a time like '20:30', or one like '2026-11-23T20:30:00+01:00'")
    start = start.replace(microsecond=0)
    if not now < start <= now + timedelta(days=30):
        raise ValueError(f"{text} is over, or more than 30 days away")
    return start


def _web(url: str) -> str:
    if not is_origin_url(url):
        raise ValueError(f"{url!r} is not an address like http://school.example:8470")
    return url


def _tracker(url: str) -> str:
    if not is_tracker_url(url):
        raise ValueError(f"{url!r} is not a tracker's address like udp://lecons.example.fr:6969")
    return url


def _by(read: Callable[[Any], Any]) -> Callable[[click.Context, click.Parameter, Any], Any]:
    """Have an option read by a function that raises `ValueError`; each of its values, where it is repeatable."""

    def check(_context: click.Context, option: click.Parameter, value: Any) -> Any:
        try:
            return tuple(map(read, value)) if option.multiple else read(value)
        except ValueError as error:
            raise click.BadParameter(str(error)) from error

    return check


@click.command()
@click.argument("repository", metavar="REPO", type=click.Path(path_type=Path))
@click.option("--keys", type=click.Path(path_type=Path), required=True, help="The folder of private keys.")
@click.option("--catalogue", metavar="NAME", help="Whose followers take part, like cned/6e; if there are several.")
@click.option(
    "--size", "size_bytes", default="16 MiB", show_default=True, callback=_by(size_of), help="Of the dummy lesson."
)
@click.option(
    "--start",
    metavar="TIME",
    callback=_by(lambda text: start_of(text, datetime.now().astimezone())),
    help="When all begin: 20:30, an RFC 3339 time, or now.  [default: in 25 minutes, when all nodes have heard of it]",
)
@click.option(
    "--for", "lasts_s", default="10min", show_default=True, callback=_by(seconds_of), help="How long to watch."
)
@click.option("--audience", type=click.IntRange(1, 10**9), help="How many nodes the lesson expects, as in lesson.toml.")
@click.option("--node", "nodes", multiple=True, metavar="URL", callback=_by(_web), help="A node to ask; repeatable.")
@click.option(
    "--log", "logs", multiple=True, metavar="FILE", type=click.Path(path_type=Path), help="nginx's access log."
)
@click.option(
    "--counters",
    metavar="URL",
    callback=_by(lambda url: url and _web(url)),
    help="Of `edgeshare origin serve --counters`, if not nginx.",
)
@click.option(
    "--tracker",
    "trackers",
    multiple=True,
    metavar="URL",
    callback=_by(_tracker),
    help="Where to count, if not at the published trackers; repeatable.",
)
@click.option(
    "--after-release",
    metavar="COMMAND",
    help="Run after each release, so that the tracker reads its list anew.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def drill(as_json: bool, repository: Path, size_bytes: int, **options: Any) -> None:
    """Rehearse the morning: publish a dummy lesson that all nodes begin to fetch at one time, watch, report, withdraw.

    Pupils do not see the lesson. Nothing else that is staged in REPO is published. Ctrl-C ends the drill, and withdraws
    the lesson all the same.

    \b
    Example:
      edgeshare drill /srv/lessons --keys /root/keys --start 20:30 --log /var/log/nginx/access.log
    """
    code = trio.run(_drill, Plan(repository=repository, size=size_bytes, **options), as_json)
    if code:
        raise SystemExit(code)


async def _drill(plan: Plan, as_json: bool) -> int:
    from edgeshare.drill.rehearsal import rehearse

    interrupted = trio.Event()

    async def listen(*, task_status: trio.TaskStatus[None]) -> None:
        with trio.open_signal_receiver(*host.STOP_SIGNALS) as signals:
            task_status.started()
            async for _ in signals:
                if not interrupted.is_set():
                    say("ending the drill, and withdrawing its lesson")
                interrupted.set()

    async with trio.open_nursery() as nursery:
        await nursery.start(listen)
        ended = await rehearse(plan, say, interrupted)
        nursery.cancel_scope.cancel()
    if ended.report and as_json:
        print_json(ended.report.as_json())
    elif ended.report:
        for line in lines(ended.report):
            click.echo(line)
    if ended.left_to_do:
        raise RepositoryError(ended.left_to_do)
    return INTERRUPTED if interrupted.is_set() else 0


def lines(report: Report) -> list[str]:
    """The report as people read it."""
    length = f"{report.watched_s:.0f} s" + ("" if report.is_whole else ", then interrupted")
    found = [f"{report.lesson}: {size(report.size)}, from {report.start:%Y-%m-%d %H:%M:%S} on, watched for {length}"]
    if origin := report.origin:
        refused = "" if origin.refused is None else f", {origin.refused} of them refused"
        what = f"{origin.copies:.2f} copies, {size(origin.bytes_sent)} in {many(origin.requests, 'request')}{refused}"
        found.append(f"origin: {what}; at most {origin.peak_bytes_per_s * 8 / 1e6:.1f} Mbit/s")
        if origin.unread:
            what = f"{many(origin.unread, 'line')} of the log could not be read"
            found.append(f"  {what}: is it written as seeders/origin/nginx.conf has it?")
    if crowd := report.swarm:
        what = f"{many(crowd.nodes, 'node')} took part, {crowd.complete} got all of it"
        if crowd.complete:
            what += f": half of them after {crowd.p50_s} s, 95 % after {crowd.p95_s} s, the last after {crowd.last_s} s"
        found.append(f"crowd: {what}")
        if crowd.unfinished:
            found.append(f"  {many(crowd.unfinished, 'node')} began and did not get all of it")
        if crowd.early:
            found.append(f"  {many(crowd.early, 'node')} began before the start: an older version, or a fast clock")
    found += [f"node {node.url}: {_node(node)}" for node in report.nodes]
    found += [f"note: {trouble}" for trouble in report.troubles]
    return found


def _node(node: NodePart) -> str:
    if node.outcome is not Outcome.COMPLETE:
        return f"{node.outcome.value}, {node.why}" if node.why else node.outcome.value
    came = node.origin_bytes + node.peer_bytes
    share = f", {100 * node.peer_bytes / came:.0f} % of it from peers" if came else ""
    return f"complete after {node.after_s:.1f} s{share}" if node.after_s is not None else "complete"
