"""`edgeshare publish`: what an editor does with a repository."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import click

from edgeshare import vocabulary
from edgeshare.cli.keys import keys as keys_commands
from edgeshare.cli.output import Group, byte_progress, print_json, say
from edgeshare.cli.repositories import (
    encrypt_option,
    json_option,
    keys_in,
    keys_in_new,
    keys_option,
    new_passphrase,
    now,
    publisher_option,
    repository_argument,
    say_made,
    say_waiting,
    say_warnings,
    tell,
    waiting_json,
)
from edgeshare.errors import RepositoryError
from edgeshare.manifest import lesson_id
from edgeshare.publish import ceremony
from edgeshare.publish.linkpage import NODE
from edgeshare.publish.released import Released
from edgeshare.publish.repository import create_repository, open_repository, refresh_repository
from edgeshare.units import size


@click.group(cls=Group)
def publish() -> None:
    """Publish lessons: a repository of static files, signed, that any web server serves.

    \b
    Example:
      edgeshare publish init /srv/lessons --keys /root/keys
      edgeshare publish add /srv/lessons my-lesson/ --keys /root/keys
      edgeshare publish release /srv/lessons --keys /root/keys --origin https://lecons.example.fr/
    """


publish.add_command(keys_commands)


@publish.command()
@repository_argument
@keys_option
@click.option("--publisher", default="cned", show_default=True, help="The name before the / of its catalogues.")
@click.option("--root-keys", default=1, show_default=True, metavar="N", help="How many keys root and targets get.")
@click.option("--threshold", default=1, show_default=True, metavar="M", help="How many of them have to sign.")
@encrypt_option
def init(repository: Path, keys: Path, publisher: str, root_keys: int, threshold: int, encrypt: bool) -> None:
    """Make a new repository, its keys, and its root of trust (REPO/metadata/1.root.json).

    \b
    Example:
      edgeshare publish init /srv/lessons --keys /root/keys --root-keys 3 --threshold 2
    """
    present = create_repository(
        repository,
        keys_in_new(keys),
        publisher,
        now(),
        offline_keys=root_keys,
        threshold=threshold,
        passphrase=new_passphrase(is_wanted=encrypt),
    )
    click.echo(f"made the repository {repository}; nodes start from {repository / 'metadata' / '1.root.json'}")
    offline = "root.pem and targets.pem" if root_keys == 1 else f"the {2 * root_keys} of root and targets"
    if present:
        say(f"warning: {', '.join(present)} lay in {keys} already, and {'is' if len(present) == 1 else 'are'} used")
    say(f"the private keys are in {keys}: back them up, and keep {offline} off this machine")


@publish.command()
@repository_argument
@click.argument("folder", metavar="LESSON_DIR", type=click.Path(path_type=Path))
@keys_option
@publisher_option
@json_option
def add(repository: Path, folder: Path, keys: Path, publisher: str | None, as_json: bool) -> None:
    """Stage the lesson in LESSON_DIR, or its next version; `release` publishes it.

    \b
    Example:
      edgeshare publish add /srv/lessons manifests/lessons/maths-6e-fractions --keys /root/keys
    """
    with (
        _progress(folder.name) as (report, hide),
        open_repository(repository, keys_in(keys, before_asking=hide), publisher) as opened,
    ):
        staged = opened.add(folder, vocabulary.built_in(), report)
    say_warnings(staged.warnings)
    manifest = staged.manifest
    if as_json:
        print_json(
            {
                "id": manifest.id,
                "version": manifest.version,
                "unchanged": staged.is_unchanged,
                "staged": staged.is_waiting,
                "info_hash": manifest.info_hash.hex(),
                "files": manifest.files,
                "size": manifest.size,
                "warnings": list(staged.warnings),
            }
        )
    elif staged.is_unchanged and staged.is_waiting:
        what = f"{manifest.id} is unchanged, and staged as version {manifest.version}"
        click.echo(f"{what}; publish it with `edgeshare publish release`")
    elif staged.is_unchanged:
        click.echo(f"{manifest.id} is unchanged, version {manifest.version}: nothing to do")
    else:
        what = f"version {manifest.version}: {manifest.files} files, {size(manifest.size)}"
        click.echo(f"staged {manifest.id}, {what}; publish it with `edgeshare publish release`")


@publish.command()
@repository_argument
@click.argument("lesson", metavar="LESSON_ID")
@click.option("--reason", required=True, help="Why, in words for its readers.")
@keys_option
@publisher_option
def withdraw(repository: Path, lesson: str, reason: str, keys: Path, publisher: str | None) -> None:
    """Stage the withdrawal of a lesson: after the next release nodes stop serving it and delete it.

    \b
    Example:
      edgeshare publish withdraw /srv/lessons maths-6e-fractions --reason "Les droits ont expiré" --keys /root/keys
    """
    with open_repository(repository, keys_in(keys), publisher) as opened:
        needs_release = opened.withdraw(lesson_id(lesson), reason)
    if needs_release:
        click.echo(f"staged the withdrawal of {lesson}, for good; publish it with `edgeshare publish release`")
        say("until then, `edgeshare publish add` with its folder takes the withdrawal back")
    else:
        click.echo(f"{lesson} was only staged, and no longer is: nothing to release")


@publish.command()
@repository_argument
@click.argument("lesson", metavar="LESSON_ID")
@keys_option
@publisher_option
def reinstate(repository: Path, lesson: str, keys: Path, publisher: str | None) -> None:
    """Stage the return of a withdrawn lesson: it may then be added again, as its next version.

    \b
    Example:
      edgeshare publish reinstate /srv/lessons maths-6e-fractions --keys /root/keys
    """
    with open_repository(repository, keys_in(keys), publisher) as opened:
        is_published = opened.reinstate(lesson_id(lesson))
    after = "publish it" if is_published else "add it again, and publish both"
    click.echo(f"staged the return of {lesson}; {after} with `edgeshare publish release`")


@publish.command()
@repository_argument
@click.argument("name", metavar="NAME")
@click.option("--prefix", required=True, help="What the ids of its lessons begin with.")
@click.option(
    "--public",
    multiple=True,
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="The public half of its key, PEM; repeatable. Without it keys are made in --keys.",
)
@click.option("--threshold", default=1, show_default=True, metavar="M", help="How many of its keys have to sign.")
@encrypt_option
@keys_option
def delegate(
    repository: Path, name: str, prefix: str, public: tuple[Path, ...], threshold: int, encrypt: bool, keys: Path
) -> None:
    """Let another publisher publish lessons of its own under its own keys: NAME, like lyon.

    \b
    Example:
      edgeshare publish delegate /srv/lessons lyon --prefix lyon- --public lyon.pub.pem --keys /root/keys
    """
    with (
        open_repository(repository, opened_keys := keys_in_new(keys)) as opened,
        ceremony.removed_if_it_fails(opened_keys, repository),
    ):
        halves = [ceremony.read_public(path) for path in public]
        released = ceremony.delegate(
            opened,
            opened_keys,
            name,
            prefix,
            now(),
            public=halves,
            threshold=threshold,
            passphrase=new_passphrase(is_wanted=encrypt and not public),
        )
        new = [key.keyid for key in (*halves, *opened_keys.made.values())]
        warnings = [*ceremony.cautions(opened.standing, opened_keys, name, new)]
    say_made(opened_keys, keys)
    say_warnings(warnings)
    if not released.waiting:
        click.echo(f"{name} may publish lessons whose ids begin with {prefix}")
    say_waiting(released.waiting, repository)


@publish.command()
@repository_argument
@keys_option
@publisher_option
@click.option("--origin", "origins", multiple=True, metavar="URL", help="Where the repository is served; repeatable.")
@click.option("--tracker", "trackers", multiple=True, metavar="URL", help="Where nodes meet; repeatable.")
@json_option
def release(
    repository: Path,
    keys: Path,
    publisher: str | None,
    origins: tuple[str, ...],
    trackers: tuple[str, ...],
    as_json: bool,
) -> None:
    """Sign and publish what is staged: new catalogues, snapshot, timestamp.

    Without --origin or --tracker, those of the last release stay. Metadata that is past half of its life is signed
    anew, as far as its keys are there. Drafts that have all signatures are published; what lacks some becomes a draft.

    \b
    Example:
      edgeshare publish release /srv/lessons --keys /root/keys --tracker udp://lecons.example.fr:6969
    """
    with open_repository(repository, keys_in(keys), publisher) as opened:
        released = opened.release(now(), origins=origins or None, trackers=trackers or None)
    if as_json:
        _print_released(released)
        return
    say_warnings(f"{warning}; release again before, with the key that signs it" for warning in released.warnings)
    tell(released, repository)
    if not released.catalogues and not released.waiting and not released.roles:
        click.echo(f"nothing is staged: nothing to release; fresh until {released.expires:%Y-%m-%d}")


@publish.command()
@repository_argument
@keys_option
@json_option
def refresh(repository: Path, keys: Path, as_json: bool) -> None:
    """Sign a new timestamp, so that nodes know the repository is alive; a timer runs this.

    Of the keys only timestamp.pem is needed. With snapshot.pem, drafts that have all signatures are published too.

    \b
    Example:
      edgeshare publish refresh /srv/lessons --keys /root/keys
    """
    released = refresh_repository(repository, keys_in(keys), now())
    if as_json:
        _print_released(released)
        return
    say_warnings(f"{warning}; `edgeshare publish release` renews it" for warning in released.warnings)
    tell(released, repository)
    if not released.catalogues:
        click.echo(f"fresh until {released.expires:%Y-%m-%d}")


@publish.command()
@repository_argument
@click.argument("lesson", metavar="LESSON_ID")
@click.option("--path", default="", help="A file of the lesson, rather than its start.")
@click.option("--origin", metavar="URL", help="Where the repository is served; by default as the last release says.")
@click.option("--node", default=NODE, show_default=True, metavar="URL", help="The node of the direct link of --html.")
@click.option("--html", "as_html", is_flag=True, help="Print two links to paste into a learning platform.")
@click.option("--qr", metavar="FILE", help="Draw the link as a QR code: a .svg or .png, or - for this terminal.")
def link(
    repository: Path, lesson: str, path: str, origin: str | None, node: str, as_html: bool, qr: str | None
) -> None:
    """Print the link to a published lesson: it opens at a node where there is one, else at the origin. Needs no key.

    \b
    Example:
      edgeshare publish link /srv/lessons maths-6e-fractions --qr fractions.svg
    """
    from edgeshare.publish import links  # nothing else of publishing needs it

    kind = None if qr in (None, "-") else Path(qr).suffix.lower()
    if kind not in (None, ".svg", ".png"):
        raise click.BadParameter(f"{qr} is neither a .svg nor a .png", param_hint="--qr")
    found = links.link(repository, lesson_id(lesson), path=path, origin=origin, node=node)
    click.echo(found.snippet() if as_html else f"{found.durable}\n", nl=False)
    if qr == "-":
        click.echo(found.text(), nl=False)
    elif qr is not None:
        file = Path(qr)
        try:
            file.write_bytes(found.svg() if kind == ".svg" else found.png())
        except OSError as error:
            hint = "name a file in a folder that is there and can be written"
            raise RepositoryError(f"cannot write {file} ({error.strerror})", hint=hint) from error
        say(f"drew it in {file}")


def _print_released(released: Released) -> None:
    print_json(
        {
            "catalogues": [{"name": each.name, "edition": each.edition} for each in released.catalogues],
            "lessons": [{"id": each.id, "version": each.version} for each in released.lessons],
            "withdrawn": list(released.withdrawn),
            "roles": list(released.roles),
            "waiting": waiting_json(released.waiting),
            "warnings": list(released.warnings),
            "expires": released.expires.isoformat(),
        }
    )


@contextmanager
def _progress(name: str) -> Iterator[tuple[Callable[[int], None], Callable[[], None]]]:
    """A bar on a terminal for what takes long; nothing elsewhere, and rich is not even loaded.

    Yields what moves it on, and what takes it away until it moves again: it would be drawn over a question.
    """
    import sys

    if not sys.stderr.isatty():
        yield lambda count: None, lambda: None
        return
    from rich.markup import escape

    progress = byte_progress(is_left=False)
    bar = progress.add_task(f"reading {escape(name)}", total=None)

    def advance(count: int) -> None:
        progress.start()
        progress.advance(bar, count)

    try:
        yield advance, progress.stop
    finally:
        progress.stop()
