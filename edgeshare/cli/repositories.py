"""What the commands that publish have in common: their arguments, and what they say of drafts."""

from __future__ import annotations

import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click

from edgeshare.cli.output import many, say
from edgeshare.publish.ceremony import SHORT
from edgeshare.publish.drafts import Need, Waiting
from edgeshare.publish.keys import Keys
from edgeshare.publish.unlocking import Kind, Secrets

repository_argument = click.argument("repository", metavar="REPO", type=click.Path(path_type=Path))
keys_option = click.option(
    "--keys",
    type=click.Path(path_type=Path),
    required=True,
    help="The folder of private keys; keep it outside the repository.",
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
publisher_option = click.option(
    "--publisher", metavar="NAME", help="Whose lessons; by default of the only publisher whose keys are here."
)
encrypt_option = click.option(
    "--encrypt", is_flag=True, help="Encrypt new keys with a passphrase, which is asked for twice."
)


def now() -> datetime:
    """The time as TUF writes it, in whole seconds."""
    return datetime.now(UTC).replace(microsecond=0)


def keys_in(folder: Path) -> Keys:
    """The keys in a folder; who sits at a terminal is asked for what unlocks them."""
    return Keys(folder, _ask)


def new_passphrase(*, is_wanted: bool) -> str | None:
    """What new keys are to be encrypted with, from where passphrases come from or asked for twice; None for nothing."""
    return Secrets(_ask_twice).of("edgeshare", Kind.PASSPHRASE).text if is_wanted else None


def say_waiting(waiting: tuple[Waiting, ...], repository: Path) -> None:
    """Say which drafts wait, and for whom."""
    for each in waiting:
        draft = f"{each.role} {each.version}"
        if each.needs:
            path = repository / ".edgeshare" / "signing" / f"{each.version}.{each.role}.json"
            say(f"{draft} waits for {needed(each.needs)}: `edgeshare publish keys sign {path}` where they are")
        elif any(other.needs for other in waiting):
            say(f"{draft} is signed, and waits for the others")
        else:
            say(f"{draft} is signed: `edgeshare publish release` where the keys of snapshot and timestamp are")


def needed(needs: tuple[Need, ...]) -> str:
    """Missing signatures, in words."""
    return " and ".join(
        f"{many(need.missing, 'signature')} of {', '.join(key[:SHORT] for key in need.keys)}" for need in needs
    )


def waiting_json(waiting: tuple[Waiting, ...]) -> list[dict[str, Any]]:
    """Drafts as `--json` prints them."""
    return [
        {
            "role": each.role,
            "version": each.version,
            "expires": each.expires.isoformat(),
            "signed": list(each.signed),
            "needs": [{"missing": need.missing, "keys": list(need.keys)} for need in each.needs],
        }
        for each in waiting
    ]


def is_at_terminal() -> bool:
    """Whether there is somebody to ask."""
    return sys.stdin.isatty() and sys.stderr.isatty()


def _ask(question: str) -> str | None:
    return str(click.prompt(question, hide_input=True, err=True)) if is_at_terminal() else None


def _ask_twice(_: str) -> str | None:
    if not is_at_terminal():
        return None
    return str(click.prompt("A passphrase for the new keys", hide_input=True, confirmation_prompt=True, err=True))
