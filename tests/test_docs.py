"""The docs keep step with the code: a key, a command or a path that is missing there is a failure here."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import get_type_hints

import attrs
import click
import pytest

from edgeshare.cli.main import cli
from edgeshare.cli.node import REASONS
from edgeshare.config import (
    Config,
    Endpoint,
    LinkConfig,
    LinkHours,
    OriginConfig,
    ScheduleConfig,
    ShimConfig,
    SwarmConfig,
    parse,
)
from edgeshare.hours import Window
from edgeshare.ration import Reason
from edgeshare.shim.metrics import NodeCollector
from edgeshare.view import State
from tests.shim.conftest import NodeInMemory

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"


def commands(group: click.Group, above: str = "edgeshare") -> Iterator[tuple[str, click.Command]]:
    with click.Context(group) as context:
        for name in group.list_commands(context):
            command = group.get_command(context, name)
            assert command is not None
            if isinstance(command, click.Group):
                yield from commands(command, f"{above} {name}")
            else:
                yield f"{above} {name}", command


def test_every_command_is_in_the_docs() -> None:
    text = (DOCS / "commands.md").read_text(encoding="utf-8")
    missing = [name for name, _ in commands(cli) if f"`{name} " not in text]
    assert not missing


def test_every_option_of_a_publishing_command_is_in_the_docs() -> None:
    text = (DOCS / "commands.md").read_text(encoding="utf-8")
    for name, command in commands(cli):
        if " publish " in name:
            row = next(line for line in text.splitlines() if f"`{name} " in line)
            options = [parameter.opts[0] for parameter in command.params if isinstance(parameter, click.Option)]
            assert [option for option in options if option not in row and option != "--json"] == []


def test_every_commands_help_ends_with_an_example() -> None:
    for name, command in commands(cli):
        help_text = command.help or ""
        assert re.search(rf"Example:\n +{name}", help_text), name


@pytest.mark.parametrize(
    "section", [Config, OriginConfig, ShimConfig, SwarmConfig, ScheduleConfig, LinkConfig, LinkHours]
)
def test_every_key_of_the_config_is_in_the_docs(section: type) -> None:
    text = (DOCS / "config.md").read_text(encoding="utf-8")
    keys = [key for key, kind in get_type_hints(section).items() if kind in (Endpoint, Window) or not attrs.has(kind)]
    missing = [key for key in keys if f"| `{key}` |" not in text]
    assert not missing


def test_the_defaults_in_the_docs_are_those_of_the_code() -> None:
    text = (DOCS / "config.md").read_text(encoding="utf-8")
    needed = 'origins = ["https://lecons.example.fr/"]\nroot = "root.json"\n'
    config = parse(needed, Path("/etc/edgeshare/edgeshare.toml"))
    assert f'| `library` | `"{config.library}"`' in text
    assert f"| `refresh_every_s` | `{config.refresh_every_s:.0f}`" in text
    assert f'`"{config.shim.listen}"` home' in text
    assert f'| `listen` | `"{config.swarm.listen}"` |' in text
    assert f'| `window` | `"{config.schedule.window}"` home' in text
    assert f'| `keep_free` | `"{config.keep_free // 2**30} GiB"` |' in text


def test_the_metrics_in_the_docs_are_those_of_the_code() -> None:
    suffixes = {"counter": "_total", "info": "_info"}
    named = {metric.name + suffixes.get(metric.type, "") for metric in NodeCollector(NodeInMemory().status()).collect()}
    text = _metrics_page()
    assert named == set(re.findall(r"^\| `(edgeshare_\w+)` \|", text, re.MULTILINE))
    assert named == set(re.findall(r"\bedgeshare_[a-z_]+", text))  # the rules and queries use no other
    states = next(line for line in text.splitlines() if line.startswith("| `edgeshare_lessons`"))
    assert [state for state in State if f"`{state.value}`" not in states] == []


def test_every_reason_for_a_byte_from_the_origin_is_in_the_docs_in_the_words_of_status() -> None:
    text = _metrics_page()
    assert {reason.value for reason in Reason} | {"metadata", "unknown"} == REASONS.keys()
    assert [reason for reason, words in REASONS.items() if f"| `{reason}` | {words} |" not in text] == []


def _metrics_page() -> str:
    return (DOCS / "metrics.md").read_text(encoding="utf-8")


def test_links_in_the_docs_lead_somewhere() -> None:
    for page in [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *DOCS.glob("*.md"), *ROOT.glob("*/*/README.md")]:
        for target in re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text(encoding="utf-8")):
            if not target.startswith(("http://", "https://")):
                assert (page.parent / target).exists(), f"{page}: {target}"


def test_every_test_that_the_docs_name_is_there() -> None:
    tests = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "tests").rglob("*.py"))
    for page in DOCS.glob("*.md"):
        for name in re.findall(r"`(test_\w+)`", page.read_text(encoding="utf-8")):
            assert f"def {name}(" in tests, f"{page.name}: {name}"
