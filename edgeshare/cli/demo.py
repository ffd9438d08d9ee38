"""`edgeshare demo`: the table to watch, and the summary."""

from __future__ import annotations

from collections.abc import Sequence

import click
import trio
from rich.console import Console
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table

from edgeshare import host
from edgeshare.cli.output import say
from edgeshare.demo import GIVE_UP_S, LOOK_EVERY_S, DemoError, Scene, Standing, on_stage
from edgeshare.units import size


@click.command()
@click.option("--once", is_flag=True, help="End, with a summary, when every node has every lesson.")
@click.option("--homes", default=3, show_default=True, type=click.IntRange(1, 20), help="How many homes take part.")
def demo(once: bool, homes: int) -> None:
    """A small publisher, a school and homes on this machine, to watch. Ctrl-C ends it and leaves nothing behind.

    \b
    Example:
      edgeshare demo --once
    """
    trio.run(_watch, once, homes)


async def _watch(once: bool, homes: int) -> None:
    with trio.open_signal_receiver(*host.STOP_SIGNALS) as signals:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_show, once, homes, nursery.cancel_scope)
            async for _ in signals:
                say("stopping every process")
                nursery.cancel_scope.cancel()
                break
        say("stopped; nothing is left behind")


async def _show(once: bool, homes: int, scope: trio.CancelScope) -> None:
    console = Console(stderr=True)
    async with on_stage(homes, say) as scene:
        start = trio.current_time()
        done_after_s: float | None = None
        say(f"open {scene.url} in a browser, or one of the homes' below" if not once else "waiting for every node")
        with Live(console=console, auto_refresh=False, transient=once) as live:
            while True:
                standings = await scene.look()
                if console.is_terminal:
                    live.update(_table(standings), refresh=True)
                if done_after_s is None and all(each.is_done for each in standings):
                    done_after_s = trio.current_time() - start
                    if once:
                        break
                    live.console.print(_summary(standings, done_after_s), soft_wrap=True)
                    live.console.print(f"open {scene.url} in a browser; Ctrl-C ends the demo", soft_wrap=True)
                if once and trio.current_time() - start > GIVE_UP_S:
                    raise DemoError(
                        f"not every node was complete after {GIVE_UP_S:.0f} s", hint=_late(scene, standings)
                    )
                await trio.sleep(LOOK_EVERY_S)
        click.echo(_summary(standings, done_after_s))
    scope.cancel()


def _table(standings: Sequence[Standing]) -> Table:
    table = Table(box=None, pad_edge=False)  # 75 columns wide: whole in a terminal of 80
    table.add_column("node", no_wrap=True)
    table.add_column("lessons", no_wrap=True)
    table.add_column("", no_wrap=True)
    table.add_column("origin", justify="right", no_wrap=True)
    table.add_column("peers", justify="right", no_wrap=True)
    table.add_column("open", no_wrap=True)
    for each in standings:
        table.add_row(
            each.place.name,
            f"{each.complete} of {each.lessons}",
            ProgressBar(total=max(1, each.size), completed=each.bytes_have, width=10),
            size(each.origin_bytes),
            size(each.peer_bytes),
            f"http://localhost:{each.place.shim_port}/",
        )
    return table


def _summary(standings: Sequence[Standing], seconds: float) -> str:
    whole = max(each.size for each in standings)
    origin = sum(each.origin_bytes for each in standings)
    return (
        f"{len(standings)} nodes have {standings[0].lessons} lessons of {size(whole)} after {seconds:.1f} s; "
        f"{size(origin)} left the origin: {origin / whole:.2f} copies for {len(standings)} nodes"
    )


def _late(scene: Scene, standings: Sequence[Standing]) -> str:
    late = ", ".join(each.place.name for each in standings if not each.is_done)
    return f"still fetching: {late}; see the logs in {scene.places[0].folder.parent}"
