"""How the command line speaks: results on stdout, progress and messages on stderr, one line for an error."""

from __future__ import annotations

import functools
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, ParamSpec, TypeVar

import click

from edgeshare.config import nearest
from edgeshare.errors import EdgeshareError

if TYPE_CHECKING:
    from rich.progress import Progress

INTERRUPTED = 130  # by Ctrl-C: 128 and the signal's number, as shells say it

_P = ParamSpec("_P")
_R = TypeVar("_R")

# How a command finds the node that it asks (`library_of`), and prints for programs.
config_option = click.option(
    "--config",
    type=click.Path(path_type=Path, dir_okay=False),
    envvar="EDGESHARE_CONFIG",
    help="The node's config; without it, the environment's EDGESHARE_CONFIG.",
)
library_option = click.option(
    "--library", type=click.Path(path_type=Path), help="The node's library, without its config."
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


def fail(error: EdgeshareError) -> NoReturn:
    """Print the one line that says what happened and what to do next, and exit 1."""
    click.echo(f"edgeshare: {error}", err=True)
    sys.exit(1)


def one_line(function: Callable[_P, _R]) -> Callable[_P, _R]:
    """Turn what a person can mend into one line on stderr and exit 1, also out of a nursery's group.

    Everything else is a bug and shows its traceback.
    """

    @functools.wraps(function)
    def wrapped(*args: _P.args, **kwargs: _P.kwargs) -> _R:
        try:
            return function(*args, **kwargs)
        except EdgeshareError as error:
            fail(error)
        except BaseExceptionGroup as group:
            if group.split(KeyboardInterrupt)[1] is None:
                sys.exit(INTERRUPTED)
            known, others = group.split(EdgeshareError)
            if known is None or others is not None:
                raise
            fail(_first(known))

    return wrapped


class Group(click.Group):
    """A group of commands that suggests the nearest name after a typo."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        known = self.list_commands(ctx)
        if args and args[0] not in known and not args[0].startswith("-"):
            close = nearest(args[0], known)
            hint = f" Did you mean {close!r}?" if close else ""
            ctx.fail(f"No such command {args[0]!r}.{hint}")
        return super().resolve_command(ctx, args)


def print_json(value: Any) -> None:
    """Print `value` as JSON, UTF-8 as it is."""
    click.echo(json.dumps(value, ensure_ascii=False, indent=2))


def say(line: str) -> None:
    """Print a message, which is not a result."""
    click.echo(line, err=True)


def byte_progress(*, is_left: bool) -> Progress:
    """A bar for bytes on stderr, where that is a terminal; it stays there when it `is_left`."""
    from rich.console import Console  # loaded by those who show a bar: publishing without a terminal starts earlier
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(binary_units=True), TransferSpeedColumn())
    console = Console(stderr=True)
    return Progress(*columns, console=console, disable=not console.is_terminal, transient=not is_left)


def library_of(config: Path | None, library: Path | None) -> Path:
    """The library that a command speaks to: --library, the config's, or the one of the Debian package."""
    if library is not None:
        return library
    if config is not None:
        from edgeshare.config import load

        return load(config).library
    return Path("/var/lib/edgeshare")


def many(count: int, one: str) -> str:
    """`count` of a thing, in words: `1 peer`, `2 peers`."""
    return f"{count} {one}" if count == 1 else f"{count} {one}s"


def _first(group: BaseExceptionGroup[EdgeshareError]) -> EdgeshareError:
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    assert isinstance(error, EdgeshareError)
    return error
