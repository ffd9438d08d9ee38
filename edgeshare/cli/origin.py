"""`edgeshare origin serve`: an origin for small sites, the demo and tests; a large one uses nginx or a CDN."""

from __future__ import annotations

import logging
import sys
from pathlib import Path

import click
import trio

from edgeshare import host
from edgeshare.config import Endpoint, parse_endpoint
from edgeshare.errors import ConfigError


@click.group()
def origin() -> None:
    """Serve a repository over HTTP.

    \b
    Example:
      edgeshare origin serve /srv/lessons --listen 127.0.0.1:8080
    """


@origin.command()
@click.argument("repository", metavar="REPO", type=click.Path(path_type=Path, file_okay=False))
@click.option("--listen", default="127.0.0.1:8080", show_default=True, metavar="HOST:PORT")
def serve(repository: Path, listen: str) -> None:
    """Serve REPO until SIGTERM or Ctrl-C.

    \b
    Example:
      edgeshare origin serve /srv/lessons --listen 0.0.0.0:80
    """
    try:
        endpoint = parse_endpoint(listen)
    except ValueError as error:
        raise ConfigError(f"--listen: {error}") from error
    if not (repository / "metadata").is_dir():
        raise ConfigError(f"{repository} is not a repository", hint="make one with `edgeshare publish init`")
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s", stream=sys.stderr)
    trio.run(_serve, repository, endpoint)


async def _serve(repository: Path, endpoint: Endpoint) -> None:
    from edgeshare.origin.serve import serve_repository

    with trio.open_signal_receiver(*host.STOP_SIGNALS) as signals:
        async with trio.open_nursery() as nursery:
            await nursery.start(serve_repository, repository, endpoint.host, endpoint.port)
            click.echo(f"serving {repository} at http://{endpoint}/", err=True)
            async for _ in signals:
                nursery.cancel_scope.cancel()
                break
