"""`edgeshare publish`: what an editor does with a repository."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import click

from edgeshare import vocabulary
from edgeshare.cli.output import Group, byte_progress, print_json, say
from edgeshare.manifest import lesson_id
from edgeshare.publish.keys import Keys
from edgeshare.publish.repository import Released, create_repository, open_repository, refresh_repository
from edgeshare.units import size

_repository = click.argument("repository", metavar="REPO", type=click.Path(path_type=Path))
_keys = click.option(
    "--keys",
    type=click.Path(path_type=Path),
    required=True,
    help="The folder of private keys; keep it outside the repository.",
)
_json = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


@click.group(cls=Group)
def publish() -> None:
    """Publish lessons: a repository of static files, signed, that any web server serves.

    \b
    Example:
      edgeshare publish init /srv/lessons --keys /root/keys
      edgeshare publish add /srv/lessons my-lesson/ --keys /root/keys
      edgeshare publish release /srv/lessons --keys /root/keys --origin https://lecons.example.fr/
    """


@publish.command()
@_repository
@_keys
@click.option("--publisher", default="cned", show_default=True, help="The name before the / of its catalogues.")
def init(repository: Path, keys: Path, publisher: str) -> None:
    """Make a new repository, its keys, and its root of trust (REPO/metadata/1.root.json).

    \b
    Example:
      edgeshare publish init /srv/lessons --keys /root/keys
    """
    create_repository(repository, Keys(keys), publisher, _now())
    click.echo(f"made the repository {repository}; nodes start from {repository / 'metadata' / '1.root.json'}")
    say(f"the private keys are in {keys}: back them up, and keep root.pem and targets.pem off this machine")


@publish.command()
@_repository
@click.argument("folder", metavar="LESSON_DIR", type=click.Path(path_type=Path))
@_keys
@_json
def add(repository: Path, folder: Path, keys: Path, as_json: bool) -> None:
    """Stage the lesson in LESSON_DIR, or its next version; `release` publishes it.

    \b
    Example:
      edgeshare publish add /srv/lessons manifests/lessons/maths-6e-fractions --keys /root/keys
    """
    with open_repository(repository, Keys(keys)) as opened, _progress(folder.name) as report:
        staged = opened.add(folder, vocabulary.built_in(), report)
    for warning in staged.warnings:
        say(f"warning: {warning}")
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
@_repository
@click.argument("lesson", metavar="LESSON_ID")
@click.option("--reason", required=True, help="Why, in words for its readers.")
@_keys
def withdraw(repository: Path, lesson: str, reason: str, keys: Path) -> None:
    """Stage the withdrawal of a lesson: after the next release nodes stop serving it and delete it.

    \b
    Example:
      edgeshare publish withdraw /srv/lessons maths-6e-fractions --reason "Les droits ont expiré" --keys /root/keys
    """
    with open_repository(repository, Keys(keys)) as opened:
        needs_release = opened.withdraw(lesson_id(lesson), reason)
    if needs_release:
        click.echo(f"staged the withdrawal of {lesson}, for good; publish it with `edgeshare publish release`")
        say("until then, `edgeshare publish add` with its folder takes the withdrawal back")
    else:
        click.echo(f"{lesson} was only staged, and no longer is: nothing to release")


@publish.command()
@_repository
@_keys
@click.option("--origin", "origins", multiple=True, metavar="URL", help="Where the repository is served; repeatable.")
@click.option("--tracker", "trackers", multiple=True, metavar="URL", help="Where nodes meet; repeatable.")
@_json
def release(repository: Path, keys: Path, origins: tuple[str, ...], trackers: tuple[str, ...], as_json: bool) -> None:
    """Sign and publish what is staged: new catalogues, snapshot, timestamp.

    Without --origin or --tracker, those of the last release stay. Metadata that is past half of its life is signed
    anew, as far as its keys are there.

    \b
    Example:
      edgeshare publish release /srv/lessons --keys /root/keys --tracker udp://lecons.example.fr:6969
    """
    with open_repository(repository, Keys(keys)) as opened:
        released = opened.release(_now(), origins=origins or None, trackers=trackers or None)
    if as_json:
        _print_released(released)
        return
    for warning in released.warnings:
        say(f"warning: {warning}; release again before, with the key that signs it")
    if not released.catalogues:
        click.echo(f"nothing is staged: nothing to release; fresh until {released.expires:%Y-%m-%d}")
        return
    for lesson in released.lessons:
        click.echo(f"{lesson.id}, version {lesson.version}: {size(lesson.size)}")
    for gone in released.withdrawn:
        click.echo(f"{gone}: withdrawn")
    names = ", ".join(f"{each.name} edition {each.edition}" for each in released.catalogues)
    click.echo(f"released {names}; fresh until {released.expires:%Y-%m-%d}")


@publish.command()
@_repository
@_keys
@_json
def refresh(repository: Path, keys: Path, as_json: bool) -> None:
    """Sign a new timestamp, so that nodes know the repository is alive; a timer runs this.

    Of the keys only timestamp.pem is used.

    \b
    Example:
      edgeshare publish refresh /srv/lessons --keys /root/keys
    """
    released = refresh_repository(repository, Keys(keys), _now())
    if as_json:
        _print_released(released)
        return
    for warning in released.warnings:
        say(f"warning: {warning}; `edgeshare publish release` renews it")
    click.echo(f"fresh until {released.expires:%Y-%m-%d}")


def _print_released(released: Released) -> None:
    print_json(
        {
            "catalogues": [{"name": each.name, "edition": each.edition} for each in released.catalogues],
            "lessons": [{"id": each.id, "version": each.version} for each in released.lessons],
            "withdrawn": list(released.withdrawn),
            "warnings": list(released.warnings),
            "expires": released.expires.isoformat(),
        }
    )


def _now() -> datetime:
    return datetime.now(UTC).replace(microsecond=0)  # TUF's times have whole seconds


@contextmanager
def _progress(name: str) -> Iterator[Callable[[int], None]]:
    """A bar on a terminal for what takes long; nothing elsewhere, and rich is not even loaded."""
    import sys

    if not sys.stderr.isatty():
        yield lambda count: None
        return
    from rich.markup import escape

    with byte_progress(is_left=False) as progress:
        bar = progress.add_task(f"reading {escape(name)}", total=None)
        yield lambda count: progress.advance(bar, count)
