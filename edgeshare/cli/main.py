"""The `edgeshare` command. Each group's module is imported when it is called, so that every command starts fast."""

from __future__ import annotations

import importlib
import sys
from typing import Any

import click

from edgeshare import __version__
from edgeshare.cli.output import one_line
from edgeshare.config import nearest
from edgeshare.errors import ConfigError

# name → (module, attribute, the line that --help shows)
_COMMANDS: dict[str, tuple[str, str, str]] = {
    "run": ("edgeshare.cli.node", "run", "Run a node: fetch, seed and serve lessons."),
    "status": ("edgeshare.cli.node", "status", "Show how the node stands."),
    "lessons": ("edgeshare.cli.node", "lessons", "List the lessons of this node's catalogues."),
    "get": ("edgeshare.cli.node", "get", "Fetch a lesson now, and wait until it is complete."),
    "verify": ("edgeshare.cli.verify", "verify", "Check a manifest file, and say what was checked."),
    "publish": ("edgeshare.cli.publish", "publish", "Publish lessons in a repository."),
    "origin": ("edgeshare.cli.origin", "origin", "Serve a repository over HTTP."),
    "demo": ("edgeshare.cli.demo", "demo", "A small publisher, a school and homes on this machine, to watch."),
}


class _Lazy(click.Group):
    """Loads a command's module when it is asked for, and suggests the nearest name after a typo."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            return None
        module, attribute, _ = _COMMANDS[cmd_name]
        command = getattr(importlib.import_module(module), attribute)
        assert isinstance(command, click.Command)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and args[0] not in _COMMANDS and not args[0].startswith("-"):
            close = nearest(args[0], _COMMANDS)
            hint = f" Did you mean {close!r}?" if close else ""
            ctx.fail(f"No such command {args[0]!r}.{hint}")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, line) for name, (_, _, line) in _COMMANDS.items()])


@click.group(cls=_Lazy, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="edgeshare")
def cli() -> None:
    """Schools and homes share lessons among themselves, so that the publisher's servers stay calm.

    \b
    Example:
      edgeshare demo
    """


@one_line
def main(arguments: list[str] | None = None) -> None:
    """Run the command line; the exit code is 0 done, 1 failed with one line, 2 wrong usage."""
    try:
        code: Any = cli.main(arguments, standalone_mode=False)
    except click.UsageError as error:
        error.show()
        sys.exit(2)
    except (click.Abort, KeyboardInterrupt):
        sys.exit(130)
    except click.ClickException as error:
        raise ConfigError(error.format_message()) from error
    sys.exit(code if isinstance(code, int) else 0)
