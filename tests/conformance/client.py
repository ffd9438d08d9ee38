"""The client that the TUF conformance suite drives: `edgeshare.trust` as the daemon uses it, without a daemon.

What differs from a node is passed in: one mirror, the folder's own first root, and no moment before which it cannot be,
since the suite has repositories of other years.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from random import Random
from typing import TypeVar
from urllib.parse import quote, unquote, urlsplit

import click
import trio
from tuf.api.exceptions import LengthOrHashMismatchError

from edgeshare.errors import EdgeshareError
from edgeshare.origin.client import open_origins
from edgeshare.sources import Places
from edgeshare.trust import Newest, Trust

_T = TypeVar("_T")
LONG_AGO = datetime.min.replace(tzinfo=UTC)


@click.group()
@click.option("--metadata-dir", type=click.Path(path_type=Path), required=True)
@click.option("--metadata-url")
@click.option("--target-name", "names", multiple=True)
@click.option("--target-dir", type=click.Path(path_type=Path))
@click.option("--target-base-url")
@click.pass_context
def client(context: click.Context, /, **options: object) -> None:
    """The command line of the suite's CLIENT-CLI.md."""
    context.obj = options


@client.command()
@click.argument("trusted_root", type=click.Path(path_type=Path))
@click.pass_obj
def init(options: dict[str, Path], trusted_root: Path) -> None:
    """Begin from a root; asks nothing of the network."""
    shutil.copyfile(trusted_root, options["metadata_dir"] / "root.json")


@client.command()
@click.pass_obj
def refresh(options: dict[str, str]) -> None:
    """Ask what is newest."""
    _newest(options, lambda newest: None)


@client.command()
@click.pass_obj
def download(options: dict[str, str]) -> None:
    """Ask what is newest, and fetch targets that are not here as they should be."""
    folder = Path(options["target_dir"])

    def fetch(newest: Newest) -> None:
        for name in options["names"]:
            target = newest.target(name)
            if target is None:
                raise EdgeshareError(f"the repository has no target {name}")
            file = folder / quote(name, safe="")
            try:
                target.verify_length_and_hashes(file.read_bytes())
            except (FileNotFoundError, LengthOrHashMismatchError):
                file.write_bytes(newest.content(target))

    _newest(options, fetch)


def _newest(options: dict[str, str], use: Callable[[Newest], _T]) -> _T:
    metadata = urlsplit(options["metadata_url"])
    targets = urlsplit(options["target_base_url"] or options["metadata_url"])
    mirror = f"{metadata.scheme}://{metadata.netloc}/"

    async def ask() -> _T:
        async with open_origins((mirror,), Random(), proxy="none") as origins:
            at = Places(_segments(metadata.path), _segments(targets.path))
            trust = Trust(Path(options["metadata_dir"]), None, origins, floor=LONG_AGO, at=at)
            return await trust.verified(use)

    return trio.run(ask)


def _segments(path: str) -> tuple[str, ...]:
    return tuple(map(unquote, path.strip("/").split("/")))


if __name__ == "__main__":
    try:
        client()
    except EdgeshareError as error:
        sys.exit(str(error))
