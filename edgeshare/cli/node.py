"""`edgeshare run`, and the commands that ask a running node: `status`, `lessons`, `get`, `pin`, `unpin`."""

from __future__ import annotations

import contextlib
import logging
import sys
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Any, Final

import click
import trio

from edgeshare.cli.output import (
    byte_progress,
    config_option,
    json_option,
    library_of,
    library_option,
    many,
    print_json,
    say,
)
from edgeshare.control import answers_to, ask
from edgeshare.errors import LibraryError
from edgeshare.units import size

# Why bytes came from the origin, in words; docs/metrics.md explains each.
REASONS: Final = {
    "nobody_has_it": "nobody had it",
    "reader_waits": "readers waited",
    "alone": "no other node was there",
    "peers_stall": "peers sent nothing",
    "metadata": "metadata and lists of files",
    "unknown": "no reason noted",
}


@click.command()
@click.option(
    "--config",
    type=click.Path(path_type=Path, dir_okay=False),
    envvar="EDGESHARE_CONFIG",
    required=True,
    help="The node's config, a TOML file.",
)
@click.option("-v", "--verbose", is_flag=True, help="Log every step.")
def run(config: Path, verbose: bool) -> None:
    """Run a node: fetch, seed and serve lessons, until SIGTERM or Ctrl-C.

    \b
    Example:
      edgeshare run --config /etc/edgeshare/edgeshare.toml
    """
    from edgeshare.config import load
    from edgeshare.daemon import run_until_stopped

    logging.basicConfig(
        level=logging.DEBUG if verbose else logging.INFO,
        format="%(levelname)s %(message)s" if _in_service() else "%(asctime)s %(levelname)s %(message)s",
        stream=sys.stderr,
    )
    for chatty in ("httpx", "httpcore", "tuf", "securesystemslib"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
    trio.run(run_until_stopped, load(config))


@click.command()
@config_option
@library_option
@json_option
@click.option("--watch", is_flag=True, help="Show it anew every second, until Ctrl-C.")
def status(config: Path | None, library: Path | None, as_json: bool, watch: bool) -> None:
    """Show how the node stands.

    \b
    Example:
      edgeshare status --watch
    """
    folder = library_of(config, library)
    if as_json:
        print_json(trio.run(_one, folder, {"do": "status"}))
        return
    if not watch:
        click.echo(_status_text(trio.run(_one, folder, {"do": "status"})))
        return
    from rich.live import Live
    from rich.text import Text

    async def follow() -> None:
        with Live("", auto_refresh=False, transient=False) as live:
            while True:
                live.update(Text(_status_text(await _one(folder, {"do": "status"}))), refresh=True)
                await trio.sleep(1.0)

    with contextlib.suppress(KeyboardInterrupt):
        trio.run(follow)


@click.command()
@config_option
@library_option
@json_option
@click.option("--level", help="Only those of a level, like 6e.")
@click.option("--needed", metavar="DAY", help="Only those needed on a day: today, tomorrow, or like 2026-11-25.")
def lessons(config: Path | None, library: Path | None, as_json: bool, level: str | None, needed: str | None) -> None:
    """List the lessons of this node's catalogues, and where they stand.

    \b
    Example:
      edgeshare lessons --needed tomorrow
    """
    day = _day(needed) if needed else None
    found = trio.run(answers_to, library_of(config, library), {"do": "lessons", "level": level})
    if day:
        found = [each for each in found if each["needed_at"] and _local_day(each["needed_at"]) == day]
    if as_json:
        print_json(found)
        return
    if not found:
        what = f"no lessons of the level {level}" if level else "no lessons"
        what += f" that are needed on {day}" if day else ""
        say(f"{what} here yet: does `edgeshare status` show a catalogue?")
        return
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False)
    for heading in ("lesson", "title", "level", "size", "state"):
        table.add_column(heading, no_wrap=heading != "title")
    for each in found:
        state = each["state"]
        if state == "fetching":
            state = f"fetching, {100 * each['bytes_have'] // each['size']} %"
        if each["pinned"]:
            state += ", pinned"
        row = (each["id"], each["title"], " ".join(each["levels"]), size(each["size"]), state)
        table.add_row(*map(Text, row))  # a title's brackets are not rich's markup
    Console(width=None if sys.stdout.isatty() else 200).print(table)


@click.command()
@click.argument("lesson")
@config_option
@library_option
def get(lesson: str, config: Path | None, library: Path | None) -> None:
    """Fetch LESSON now, and wait until it is complete.

    \b
    Example:
      edgeshare get maths-6e-fractions
    """
    last = trio.run(_get, library_of(config, library), lesson)
    if last["state"] != "complete":
        reason = last.get("reason") or "the daemon gave no reason"
        raise LibraryError(
            f"{lesson} is {last['state']}: {reason}", hint="the node tries again; see `edgeshare status`"
        )
    peers, whole = last["peer_bytes"], last["peer_bytes"] + last["origin_bytes"]
    share = f", {round(100 * peers / whole)} % from peers" if whole else ""
    click.echo(f"{lesson} is here: {size(last['size'])}{share}")


@click.command()
@click.argument("lessons", nargs=-1, required=True, metavar="LESSON...")
@config_option
@library_option
def pin(lessons: tuple[str, ...], config: Path | None, library: Path | None) -> None:
    """Fetch LESSONs, and keep them and their next versions whatever else needs room.

    \b
    Example:
      edgeshare pin maths-6e-fractions
    """
    for lesson in lessons:
        trio.run(_one, library_of(config, library), {"do": "pin", "lesson": lesson})
        click.echo(f"{lesson} is pinned")


@click.command()
@click.argument("lessons", nargs=-1, required=True, metavar="LESSON...")
@config_option
@library_option
def unpin(lessons: tuple[str, ...], config: Path | None, library: Path | None) -> None:
    """Let pinned LESSONs go again when something else needs their room.

    \b
    Example:
      edgeshare unpin maths-6e-fractions
    """
    for lesson in lessons:
        trio.run(_one, library_of(config, library), {"do": "unpin", "lesson": lesson})
        click.echo(f"{lesson} is not pinned any more")


def _day(text: str) -> date:
    """A day as somebody names it, here and now."""
    today = datetime.now().astimezone().date()
    named = {"today": today, "tomorrow": today + timedelta(days=1)}
    try:
        return named.get(text) or date.fromisoformat(text)
    except ValueError as error:
        raise click.UsageError(f"{text!r} is not a day: say today, tomorrow, or one like {today}") from error


def _local_day(moment: str) -> date:
    return datetime.fromisoformat(moment).astimezone().date()


async def _get(folder: Path, lesson: str) -> dict[str, Any]:
    from rich.progress import TaskID

    last: dict[str, Any] = {"state": "unknown"}
    told: str | None = None
    with byte_progress(is_left=True) as progress:
        bar: TaskID | None = None
        async with contextlib.aclosing(ask(folder, {"do": "get", "lesson": lesson})) as answers:
            async for last in answers:
                bar = progress.add_task(lesson, total=last["size"]) if bar is None else bar
                progress.update(bar, completed=last["bytes_have"])
                if last["state"] != "failed" and last["reason"] != told and (told := last["reason"]):
                    progress.console.print(f"{lesson} waits: {told}", soft_wrap=True, markup=False, highlight=False)
    return last


async def _one(folder: Path, request: dict[str, Any]) -> dict[str, Any]:
    (answer,) = await answers_to(folder, request)
    return answer


def _status_text(status: dict[str, Any]) -> str:
    counts = ", ".join(f"{count} {state}" for state, count in status["lessons"].items() if count) or "none yet"
    lines = [
        f"edgeshare {status['version']}: {status['profile']} node with {many(status['peers'], 'peer')}",
        f"lessons: {counts}",
    ]
    for each in status["catalogues"]:
        what = f"edition {each['edition']}, {many(each['lessons'], 'lesson')}" if each["edition"] else "not here yet"
        lines.append(f"catalogue {each['name']}: {what}" + (f" ({each['trouble']})" if each["trouble"] else ""))
    whole = status["origin_bytes"] + status["peer_bytes"]
    share = f" ({round(100 * status['peer_bytes'] / whole)} % from peers)" if whole else ""
    lines.append(
        f"received since the start: {size(status['peer_bytes'])} from peers, "
        f"{size(status['origin_bytes'])} from the origin{share}"
    )
    if reasons := _reasons(status["origin_bytes_by_reason"]):
        lines.append(f"from the origin because: {reasons}")
    lines.append(f"given to peers since the start: {size(status['uploaded_bytes'])}")
    lines.append(
        f"library: {size(status['used_bytes'])} of its {size(status['quota'])}; "
        f"free on the disk: {size(status['free_bytes'])}"
    )
    if status["disk"]["reason"]:
        lines.append(f"paused: {status['disk']['reason']}")
    for each in status["needs"]:
        at = datetime.fromisoformat(each["at"]).astimezone()
        lines.append(f"needed {at:%Y-%m-%d %H:%M}: {each['ready']} of {many(each['lessons'], 'lesson')} here")
    if status["disk"]["reason"]:
        lines.append(status["disk"]["reason"])
    if because := status["metered_because"]:
        lines.append(f"{because}: only what somebody opens or asks for is fetched, and nothing is given to the outside")
    if status["trouble"]:
        lines.append(f"the origin: {status['trouble']}")
    now = datetime.now().astimezone()
    lines += [f"mirror {each['name']} is {_aside(each, now)}" for each in status["mirrors"] if each["aside"]]
    past = [each for each in status["refusals"] if each["what"] != status["trouble"]]
    lines += [f"refused on {each['at'][:16].replace('T', ' at ')}: {each['what']}" for each in past[-3:]]
    if status["metadata_expires"] and status["fresh"]:
        lines.append(f"fresh until {status['metadata_expires'][:10]}")
    if status["warning"]:
        lines.append(status["warning"])
    return "\n".join(lines)


def _reasons(by_reason: dict[str, int]) -> str:
    """Why bytes came from the origin, the most at first."""
    told = sorted(by_reason.items(), key=lambda each: -each[1])
    return ", ".join(f"{REASONS.get(why, why.replace('_', ' '))} ({size(count)})" for why, count in told if count)


def _aside(mirror: dict[str, Any], now: datetime) -> str:
    """How a mirror is set aside; until when by the reader's clock, with the day where that is not today."""
    said = "left alone"
    if mirror["until"]:
        until = datetime.fromisoformat(mirror["until"]).astimezone(now.tzinfo)
        said += until.strftime(" until %H:%M:%S" if until.date() == now.date() else " until %Y-%m-%d %H:%M")
    return said + (f": it {mirror['reason']}" if mirror["reason"] else "")


def _in_service() -> bool:
    """Whether a service manager writes the time beside each line already."""
    import os

    return "JOURNAL_STREAM" in os.environ
