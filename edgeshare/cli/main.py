"""The `edgeshare` command. Each group's module is imported when it is called, so that every command starts fast."""

from __future__ import annotations

import importlib
import os
import sys
from typing import Any, NoReturn

import click

from edgeshare import __version__
from edgeshare.cli.output import INTERRUPTED, Group, one_line
from edgeshare.errors import ConfigError

# name → (module, attribute, the line that --help shows)
_COMMANDS: dict[str, tuple[str, str, str]] = {
    "run": ("edgeshare.cli.node", "run", "Run a node: fetch, seed and serve lessons."),
    "status": ("edgeshare.cli.node", "status", "Show how the node stands."),
    "lessons": ("edgeshare.cli.node", "lessons", "List the lessons of this node's catalogues."),
    "get": ("edgeshare.cli.node", "get", "Fetch a lesson now, and wait until it is complete."),
    "pin": ("edgeshare.cli.node", "pin", "Keep lessons, whatever else needs room."),
    "unpin": ("edgeshare.cli.node", "unpin", "Let pinned lessons go when room is needed."),
    "export": ("edgeshare.cli.bundle", "export", "Write lessons to a USB stick, with all that vouches for them."),
    "import": ("edgeshare.cli.bundle", "import_", "Bring lessons from a USB stick to this node."),
    "verify": ("edgeshare.cli.verify", "verify", "Check a manifest file, and say what was checked."),
    "publish": ("edgeshare.cli.publish", "publish", "Publish lessons in a repository."),
    "origin": ("edgeshare.cli.origin", "origin", "Serve a repository over HTTP."),
    "drill": ("edgeshare.cli.drill", "drill", "Rehearse the morning: a dummy lesson for all nodes, and a report."),
    "demo": ("edgeshare.cli.demo", "demo", "A small publisher, a school and homes on this machine, to watch."),
}


class _Lazy(Group):
    """Loads a command's module when it is asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            return None
        module, attribute, _ = _COMMANDS[cmd_name]
        command = getattr(importlib.import_module(module), attribute)
        assert isinstance(command, click.Command)
        return command

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except BrokenPipeError:
            _leave_quietly()
        except SystemExit as leaving:
            if isinstance(leaving.__context__, BrokenPipeError):  # rich would leave with 1, and not a word
                _leave_quietly()
            raise

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, line) for name, (_, _, line) in _COMMANDS.items()])


def _leave_quietly() -> NoReturn:
    """End well: whoever read our output, like `head`, has seen enough."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # or the interpreter complains when it flushes
    sys.exit(0)


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
        code: Any = cli.main(arguments, prog_name="edgeshare", standalone_mode=False)
    except click.UsageError as error:
        error.show()
        sys.exit(2)
    except (click.Abort, KeyboardInterrupt):
        sys.exit(INTERRUPTED)
    except click.ClickException as error:
        raise ConfigError(error.format_message()) from error
    sys.exit(code if isinstance(code, int) else 0)
