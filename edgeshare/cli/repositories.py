"""What the commands that publish have in common: their arguments, and what they say of drafts."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click

from edgeshare.cli.output import many, say
from edgeshare.errors import TrustError
from edgeshare.publish.ceremony import SHORT
from edgeshare.publish.drafts import Need, Waiting
from edgeshare.publish.keys import Keys
from edgeshare.publish.listing import listed_id
from edgeshare.publish.released import Released
from edgeshare.publish.unlocking import Secrets, credentials
from edgeshare.units import size

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


def keys_in(folder: Path, before_asking: Callable[[], None] = lambda: None) -> Keys:
    """The keys in a folder that is there; who sits at a terminal is asked for what unlocks them.

    Raises:
        TrustError: there is no such folder, and no service that was handed keys.
    """
    if not folder.is_dir() and credentials() is None:
        hint = "check --keys; `edgeshare publish init` and `keys make` begin a new one"
        raise TrustError(f"there is no folder {folder}", hint=hint)
    return keys_in_new(folder, before_asking)


def keys_in_new(folder: Path, before_asking: Callable[[], None] = lambda: None) -> Keys:
    """The same for a folder that may begin with the first key made in it."""

    def ask(question: str) -> str | None:
        before_asking()
        return _answer(question, is_asked_twice=False)

    return Keys(folder, ask)


def new_passphrase(*, is_wanted: bool) -> str | None:
    """What new keys are to be encrypted with, from where passphrases come from or asked for twice; None for nothing."""
    return Secrets(lambda question: _answer(question, is_asked_twice=True)).of_new_keys() if is_wanted else None


def say_made(keys: Keys, folder: Path) -> None:
    """Say which keys are new, and where."""
    for name, key in keys.made.items():
        say(f"made {name} ({listed_id(name, key)[:SHORT]}) in {folder}")


def say_warnings(lines: Iterable[str]) -> None:
    """Say what somebody should know, and need not stop for."""
    for line in lines:
        say(f"warning: {line}")


def tell(released: Released, repository: Path) -> None:
    """Print what was published, and say what waits."""
    say_waiting(released.waiting, repository)
    catalogues = {each.name.partition("/")[0] for each in released.catalogues}
    if others := [role for role in released.roles if role not in catalogues]:
        click.echo(f"published new metadata of {', '.join(others)}")
    for lesson in released.lessons:
        click.echo(f"{lesson.id}, version {lesson.version}: {size(lesson.size)}")
    for gone in released.withdrawn:
        click.echo(f"{gone}: withdrawn")
    if released.catalogues:
        names = ", ".join(f"{each.name} edition {each.edition}" for each in released.catalogues)
        click.echo(f"released {names}; fresh until {released.expires:%Y-%m-%d}")


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
    """Missing signatures, in words; two needs are a root's, of the one before it and of its own keys."""
    keys = [", ".join(key[:SHORT] for key in need.keys) for need in needs]
    if len(needs) == 2:
        said = f"{needs[0].missing} of the keys before ({keys[0]}) and {needs[1].missing} of the new ({keys[1]})"
        return f"{said}; one key may count for both" if {*needs[0].keys} & {*needs[1].keys} else said
    return " and ".join(f"{many(need.missing, 'signature')} of {of}" for need, of in zip(needs, keys, strict=True))


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


def _answer(question: str, *, is_asked_twice: bool) -> str | None:
    if not is_at_terminal():
        return None
    try:
        return str(click.prompt(question, hide_input=True, confirmation_prompt=is_asked_twice, err=True))
    except click.Abort:
        # No library on the way, whose errors are caught as a device's, takes this one for one of its own.
        raise KeyboardInterrupt from None
