"""`edgeshare publish keys`: who may sign in a repository, and how that changes."""

from __future__ import annotations

from pathlib import Path

import click

from edgeshare.cli.output import Group, print_json, say
from edgeshare.cli.repositories import (
    encrypt_option,
    is_at_terminal,
    json_option,
    keys_in,
    keys_in_new,
    keys_option,
    needed,
    new_passphrase,
    now,
    repository_argument,
    say_made,
    say_waiting,
    say_warnings,
    tell,
    waiting_json,
)
from edgeshare.errors import ConfigError
from edgeshare.publish import ceremony, countersign
from edgeshare.publish.ceremony import SHORT
from edgeshare.publish.delegations import publisher_of_lessons
from edgeshare.publish.keys import Keys
from edgeshare.publish.listing import ListedRole, listed
from edgeshare.publish.repository import open_repository, read_standing

_role = click.argument("role", metavar="ROLE")
_threshold = click.option("--threshold", type=int, metavar="M", help="How many of its keys have to sign from then on.")


@click.group(cls=Group)
def keys() -> None:
    """Show and change who may sign; what lacks signatures waits as a draft for those who hold the other keys.

    \b
    Example:
      edgeshare publish keys list /srv/lessons --keys /root/keys
    """


@keys.command("list")
@repository_argument
@click.option("--keys", type=click.Path(path_type=Path), help="Say which of the keys this folder holds.")
@json_option
def list_keys(repository: Path, keys: Path | None, as_json: bool) -> None:
    """List the roles, their keys, and the drafts that wait for signatures.

    \b
    Example:
      edgeshare publish keys list /srv/lessons --keys /root/keys
    """
    standing = read_standing(repository)
    roles, waiting = listed(standing, keys_in(keys) if keys else None), standing.waiting()
    if as_json:
        print_json({"roles": [_role_json(role) for role in roles], "waiting": waiting_json(waiting)})
        return
    for role in roles:
        version = f"version {role.version}, expires {role.expires:%Y-%m-%d}, " if role.expires else ""
        if not role.keys:
            click.echo(f"{role.name}: no key yet: the first release names it")
            continue
        click.echo(f"{role.name}: {version}{role.threshold} of {len(role.keys)}")
        for key in role.keys:
            said = ", revoked" if key.is_revoked else ""
            said += f", here as {key.held}" if key.held else ""
            click.echo(f"  {key.id[:SHORT]} {key.scheme}{said}")
    say_waiting(waiting, repository)


@keys.command()
@click.argument("names", metavar="ROLE...", nargs=-1, required=True)
@keys_option
@click.option("--key-uri", metavar="URI", help="Where the key is in a device or a service; for one ROLE.")
@encrypt_option
def make(names: tuple[str, ...], keys: Path, key_uri: str | None, encrypt: bool) -> None:
    """Make a key for each ROLE, and print its public half, for who adds it to the role; needs no repository.

    \b
    Example:
      edgeshare publish keys make lyon --keys /media/stick > lyon.pub.pem
    """
    if key_uri is not None and len(names) > 1:
        raise click.UsageError("--key-uri is for one ROLE")
    opened, passphrase = keys_in_new(keys), new_passphrase(is_wanted=encrypt)
    with ceremony.removed_if_it_fails(opened):
        made = [ceremony.make_key(opened, role, uri=key_uri, passphrase=passphrase) for role in names]
    for name, key in made:
        click.echo(ceremony.public_pem(key), nl=False)
        _say_kept(opened, name, keys)
    say_made(opened, keys)


@keys.command("add")
@repository_argument
@_role
@keys_option
@click.option(
    "--public", metavar="FILE", type=click.Path(path_type=Path), help="The public half of a key elsewhere, PEM."
)
@click.option("--key-uri", metavar="URI", help="Where the key is in a device or a service.")
@_threshold
@encrypt_option
def add_key(
    repository: Path,
    role: str,
    keys: Path,
    public: Path | None,
    key_uri: str | None,
    threshold: int | None,
    encrypt: bool,
) -> None:
    """Let another key sign for ROLE: a new one, one that is elsewhere, or one in a device.

    \b
    Example:
      edgeshare publish keys add /srv/lessons root --keys /root/keys --public anne.pub.pem --threshold 2
    """
    if public is not None and key_uri is not None:
        raise click.UsageError("give --public or --key-uri, not both")
    if publisher_of_lessons(role) is not None:
        raise ConfigError(f"{role} has one key at a time", hint="`edgeshare publish keys rotate` replaces it")
    with (
        open_repository(repository, opened_keys := keys_in(keys)) as opened,
        ceremony.removed_if_it_fails(opened_keys, repository),
    ):
        ceremony.check_keys(opened.standing, role, coming=1, threshold=threshold)
        if public is not None:
            key = ceremony.read_public(public)
        else:
            passphrase = new_passphrase(is_wanted=encrypt and key_uri is None)
            name, key = ceremony.make_key(opened_keys, role, uri=key_uri, passphrase=passphrase)
            _say_kept(opened_keys, name, keys)
        released = ceremony.add_key(opened, role, key, now(), threshold=threshold)
        warnings = [*ceremony.cautions(opened.standing, opened_keys, role, [key.keyid])]
    say_made(opened_keys, keys)
    say_warnings(warnings)
    tell(released, repository)


@keys.command()
@repository_argument
@_role
@keys_option
@click.option("--key", "key_id", metavar="ID", help="Replace this key, wherever it is; by default those in --keys.")
@encrypt_option
def rotate(repository: Path, role: str, keys: Path, key_id: str | None, encrypt: bool) -> None:
    """Replace keys of ROLE by new ones: root, targets, snapshot, timestamp, a publisher, or PUBLISHER-lessons.

    \b
    Example:
      edgeshare publish keys rotate /srv/lessons timestamp --keys /root/keys
    """
    with (
        open_repository(repository, opened_keys := keys_in(keys)) as opened,
        ceremony.removed_if_it_fails(opened_keys, repository),
    ):
        passphrase = new_passphrase(is_wanted=encrypt)
        if publisher_of_lessons(role) is not None:
            name = ceremony.rotate_lesson_key(opened, opened_keys, role, passphrase)
            say_made(opened_keys, keys)
            click.echo(f"the next `edgeshare publish release` signs all lessons with {name}")
            return
        released = ceremony.rotate(opened, opened_keys, role, now(), key_id=key_id, passphrase=passphrase)
        warnings = [*ceremony.cautions(opened.standing, opened_keys, role, ())]
    say_made(opened_keys, keys)
    say_warnings(warnings)
    tell(released, repository)


@keys.command()
@repository_argument
@click.argument("role", metavar="ROLE|PUBLISHER")
@keys_option
@click.option("--key", "key_id", metavar="ID", help="The key that ROLE, or PUBLISHER-lessons, loses.")
@click.option("--reason", metavar="TEXT", help="Revoke the whole publisher; why, in words for its readers.")
@_threshold
def revoke(
    repository: Path, role: str, keys: Path, key_id: str | None, reason: str | None, threshold: int | None
) -> None:
    """Take a key away from ROLE, or end the delegation to PUBLISHER, whose lessons nodes then withdraw.

    \b
    Example:
      edgeshare publish keys revoke /srv/lessons lyon --reason "Clé volée" --keys /root/keys
    """
    if (key_id is None) == (reason is None):
        raise click.UsageError("give --key for a key of the role, or --reason for a whole publisher")
    with open_repository(repository, keys_in(keys)) as opened:
        if reason is not None:
            released = ceremony.revoke_publisher(opened, role, reason, now())
        elif publisher_of_lessons(role) is not None:
            released = ceremony.revoke_lesson_key(opened, role, key_id or "", now())
        else:
            released = ceremony.revoke_key(opened, role, key_id or "", now(), threshold=threshold)
    tell(released, repository)


@keys.command()
@click.argument("file", metavar="FILE", type=click.Path(path_type=Path))
@keys_option
@click.option("--yes", is_flag=True, help="Sign without asking.")
def sign(file: Path, keys: Path, yes: bool) -> None:
    """Sign a draft, like 2.root.json, with the keys of its role; needs no repository and no network.

    Shows first what would be signed. What the changes are told by may lie beside FILE: the version before, and of
    what is not a root the role that gives it its keys.

    \b
    Example:
      edgeshare publish keys sign /media/stick/2.root.json --keys /root/keys
    """
    document = countersign.read_document(file)
    for line in countersign.described(document):
        say(line)
    if not yes:
        if not is_at_terminal():
            raise click.UsageError("there is no terminal to confirm at: give --yes")
        if not click.confirm(f"Sign {document.title}?", err=True):
            raise ConfigError(f"{file} was not signed", hint="nothing has changed")
    done = countersign.countersign(document, keys_in(keys))
    signed = [key[:SHORT] for key in done.signed]
    click.echo(f"signed by {', '.join(signed)}" if signed else "these keys have signed it before: nothing changed")
    if done.needs:
        click.echo(f"it lacks {needed(done.needs)}")
    elif done.needs is not None:
        click.echo("it has all signatures: `edgeshare publish release` publishes it")
    else:
        say(f"what it lacks, and whether these keys count, cannot be told without {document.teller} beside it")


def _say_kept(keys: Keys, name: str, folder: Path) -> None:
    if name not in keys.made:
        say(f"{name} in {folder} is that key already")


def _role_json(role: ListedRole) -> dict[str, object]:
    return {
        "role": role.name,
        "version": role.version,
        "expires": role.expires.isoformat() if role.expires else None,
        "threshold": role.threshold,
        "keys": [
            {"id": key.id, "scheme": key.scheme, "held": key.held, "revoked": key.is_revoked} for key in role.keys
        ],
    }
