"""`edgeshare export` and `edgeshare import`: lessons that travel on a stick."""

from __future__ import annotations

import os
import sys
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import trio

from edgeshare.cli.output import (
    byte_progress,
    config_option,
    json_option,
    library_of,
    library_option,
    many,
    print_json,
    say,
)
from edgeshare.control import SOCKET, answers_to
from edgeshare.errors import LibraryError
from edgeshare.units import size

if TYPE_CHECKING:
    from edgeshare.bundle.intake import Outcome, Seen
    from edgeshare.config import Config


@click.command()
@click.argument("lessons", nargs=-1, required=True, metavar="LESSON...")
@click.option(
    "--to", "folder", type=click.Path(path_type=Path, file_okay=False), required=True, help="Where the stick is."
)
@config_option
@library_option
@json_option
def export(lessons: tuple[str, ...], folder: Path, config: Path | None, library: Path | None, as_json: bool) -> None:
    """Write lessons to a USB stick, with all that vouches for them; run again, it goes on where it stopped.

    \b
    Example:
      edgeshare export maths-6e-fractions --to /media/usb
    """
    from edgeshare.bundle import choice, known, outgo  # libtorrent and TUF start slowly

    here = library_of(config, library)
    what_is_known = known.known(here)
    published = choice.metadata_of(what_is_known, datetime.now(UTC))
    chosen: list[choice.Lesson] = []
    results: list[dict[str, Any]] = []

    def refuse(error: choice.Refused) -> None:
        say(f"edgeshare: {error}")
        results.append({"id": error.lesson, "version": None, "size": None, "refused": str(error)})

    for lesson in dict.fromkeys(lessons):
        try:
            chosen.append(choice.lesson_of(what_is_known, published, lesson))
        except choice.Refused as error:
            refuse(error)
    if chosen:
        with outgo.writing(here, folder) as out:
            total, needed = sum(each.content.layout.size for each in chosen), out.missing(chosen)
            say(f"{many(len(chosen), 'lesson')}, {size(total)}; on the stick they still need {size(needed)}")
            out.require_room(chosen)
            for line in out.write_metadata(published, chosen, what_is_known):
                say(line)
            with byte_progress(is_left=True) as progress:
                bar = progress.add_task("exporting", total=total)
                for each in chosen:
                    manifest = each.signed.manifest
                    progress.update(bar, description=manifest.id)
                    try:
                        out.write(each, lambda count: progress.advance(bar, count))
                    except choice.Refused as error:
                        refuse(error)
                        continue
                    results.append(
                        {"id": manifest.id, "version": manifest.version, "size": manifest.size, "refused": None}
                    )
            out.finish(what_is_known)
    good = [each for each in results if each["refused"] is None]
    if as_json:
        print_json(results)
    elif good:
        total = sum(each["size"] for each in good)
        until = f"{published.expires:%Y-%m-%d}"
        click.echo(f"{many(len(good), 'lesson')}, {size(total)}, on {folder}; to be imported before {until}")
    sys.exit(int(len(good) < len(results)))


@click.command("import")
@click.argument("folder", type=click.Path(path_type=Path, file_okay=False), metavar="DIR")
@config_option
@library_option
@json_option
def import_(folder: Path, config: Path | None, library: Path | None, as_json: bool) -> None:
    """Bring the lessons on the stick at DIR to this node; run again, it goes on where it stopped.

    \b
    Example:
      edgeshare import /media/usb --config /etc/edgeshare/edgeshare.toml
    """
    from edgeshare.bundle import intake, known  # libtorrent and TUF start slowly
    from edgeshare.bundle.stick import Stick, bundle_in

    loaded = _loaded(config)
    root, folder = _root(loaded), folder.absolute()
    here = _as_owner(library or (loaded.library if loaded else library_of(None, None)))
    what_is_known = known.known(here) if known.is_library(here) else known.Known()
    with intake.incoming(here) as incoming:
        bounds = intake.Bounds(quota=loaded.quota, keep_free=loaded.keep_free) if loaded else None
        stick = Stick(bundle_in(folder))
        with byte_progress(is_left=True) as progress:
            bar = progress.add_task("catalogues", total=None)
            work = intake.Intake(stick, incoming, what_is_known, bounds, lambda count: progress.advance(bar, count))
            seen = trio.run(work.look, root, [*loaded.follow, *loaded.show] if loaded else None)
            _explain(seen)
            chosen = list(work.chosen(seen))
            wanted = [each for each in chosen if not isinstance(each, intake.Outcome)]
            progress.reset(bar, total=sum(each.size for each in wanted))
            outcomes: list[Outcome] = []
            for each in chosen:
                if isinstance(each, intake.Outcome):
                    outcomes.append(each)
                    continue
                progress.update(bar, description=each.id)
                outcomes.append(work.take(each))
    refused = trio.run(_hand_over, here)
    _report(outcomes, refused or {}, is_taken_in=refused is not None, as_json=as_json)


async def _hand_over(library: Path) -> dict[str, str] | None:
    """Have the daemon take in what was copied: what it refuses, and why; None when no daemon runs."""
    if not (library / SOCKET).exists():
        return None
    try:
        answers = await answers_to(library, {"do": "import"})
    except LibraryError as error:
        if isinstance(error.__cause__, ConnectionRefusedError):  # a dead daemon's socket
            return None
        raise
    return {each["id"]: each["refused"] for each in answers if each["refused"]}


def _report(outcomes: list[Outcome], refused: dict[str, str], *, is_taken_in: bool, as_json: bool) -> None:
    from edgeshare.bundle.intake import Fate

    rows = [
        {
            "id": each.lesson,
            "size": each.size,
            "fate": (Fate.REFUSED if each.lesson in refused else each.fate).value,
            "reason": refused.get(each.lesson, each.reason),
        }
        for each in outcomes
    ]
    counts = Counter(row["fate"] for row in rows)
    if as_json:
        print_json({"taken_in": is_taken_in, "lessons": rows})
    else:
        for row in rows:
            if row["reason"]:
                say(f"edgeshare: {row['id']} is {row['fate']}: {row['reason']}")
        words = {"copied": "imported", "here": "here before", "skipped": "not for this node", "refused": "refused"}
        told = [f"{count} {words[fate]}" for fate in words if (count := counts[fate])]
        click.echo(f"lessons: {', '.join(told) or 'none on the stick'}")
        if not is_taken_in:
            click.echo("no daemon runs on this library: it takes them in when it starts; the stick is not needed")
    sys.exit(int(counts["refused"] > 0))


def _explain(seen: Seen) -> None:
    if seen.trouble:
        say(f"edgeshare: nothing new is taken from the stick: {seen.trouble}")
    for line in seen.lines:
        say(f"edgeshare: {line}")


def _loaded(config: Path | None) -> Config | None:
    if config is None:
        return None
    from edgeshare.config import load

    return load(config)


def _root(config: Config | None) -> bytes | None:
    """The root of trust that the config names."""
    if config is None:
        return None
    from edgeshare.daemon import read_root  # what the daemon starts from

    return read_root(config)


def _as_owner(library: Path) -> Path:
    """Be the library's user from now on, where root called: its folder from here.

    A daemon's folder is no place for root to write to: a link in it would lead anywhere. What lies above the folder may
    be closed to its user, as systemd has it, so it becomes the working directory.

    Raises:
        LibraryError: the library is another user's.
    """
    try:
        status = library.stat()
        if status.st_uid == os.geteuid():
            return library
        if os.geteuid() == 0:
            os.chdir(library)
            os.setgroups([])
            os.setegid(status.st_gid)
            os.seteuid(status.st_uid)
            return Path()
    except FileNotFoundError:  # nobody's yet
        return library
    except OSError as error:
        hint = "run this as the user that the daemon runs as, or as root"
        raise LibraryError(f"the library {library} cannot be read ({error.strerror})", hint=hint) from error
    what = f"the library {library} belongs to another user"
    raise LibraryError(what, hint="run this as the user that the daemon runs as, or as root")
