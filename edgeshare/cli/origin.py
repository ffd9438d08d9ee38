"""`edgeshare origin serve`: an origin for small sites, the demo and tests; a large one uses nginx or a CDN."""

from __future__ import annotations

import logging
import sys
from functools import partial
from pathlib import Path

import click
import trio

from edgeshare import host
from edgeshare.cli.output import Group, say
from edgeshare.config import Endpoint, parse_endpoint


@click.group(cls=Group)
def origin() -> None:
    """Serve a repository over HTTP.

    \b
    Example:
      edgeshare origin serve /srv/lessons --listen 127.0.0.1:8080
    """


@origin.command()
@click.argument("repository", metavar="REPO", type=click.Path(path_type=Path, file_okay=False))
@click.option("--listen", default="127.0.0.1:8080", show_default=True, metavar="HOST:PORT")
@click.option("--counters", is_flag=True, help="Show at /-/counters how much was served.")
def serve(repository: Path, listen: str, counters: bool) -> None:
    """Serve REPO until SIGTERM or Ctrl-C.

    \b
    Example:
      edgeshare origin serve /srv/lessons --listen 0.0.0.0:80
    """
    try:
        endpoint = parse_endpoint(listen)
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="--listen") from error
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s", stream=sys.stderr)
    trio.run(_serve, repository, endpoint, counters)


async def _serve(repository: Path, endpoint: Endpoint, counters: bool) -> None:
    from edgeshare.origin.serve import serve_repository

    with trio.open_signal_receiver(*host.STOP_SIGNALS) as signals:
        async with trio.open_nursery() as nursery:
            start = partial(serve_repository, repository, endpoint.host, endpoint.port, shows_counters=counters)
            name, port = await nursery.start(start)
            say(f"serving {repository} at http://{Endpoint(name, port)}/")
            async for _ in signals:
                nursery.cancel_scope.cancel()
                break
