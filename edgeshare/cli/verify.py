"""`edgeshare verify`: a manifest that came by mail or by stick, held against what this machine trusts."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import attrs
import click

from edgeshare.catalogue import Edition, read_edition
from edgeshare.cli.output import library_of, many, print_json
from edgeshare.errors import LibraryError, ManifestError
from edgeshare.library import content
from edgeshare.library.index import Index
from edgeshare.manifest import (
    FORMATS,
    MAX_MANIFEST,
    CatalogueManifest,
    LessonManifest,
    SignedFile,
    format_of,
    read_catalogue,
    read_lesson,
)
from edgeshare.signing import PublicKey, signers
from edgeshare.units import size


@attrs.frozen
class _Vouching:
    """An admitted catalogue: the keys that it vouches for, and what it lists."""

    edition: Edition
    keys: dict[bytes, PublicKey]


@click.command()
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@click.option("--config", type=click.Path(path_type=Path, dir_okay=False), envvar="EDGESHARE_CONFIG")
@click.option("--library", type=click.Path(path_type=Path), help="The library whose catalogues say which keys count.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def verify(file: Path, config: Path | None, library: Path | None, as_json: bool) -> None:
    """Check the manifest FILE against the catalogues that this node has admitted, and say what was checked.

    \b
    Example:
      edgeshare verify maths-6e-fractions.manifest
    """
    folder = library_of(config, library)
    raw = _read(file)
    vouching = list(_vouching(folder))
    keys = {key_id: key for each in vouching for key_id, key in each.keys.items()}
    signed = SignedFile.parse(raw)
    if signed.format == FORMATS[CatalogueManifest]:
        catalogue = read_catalogue(raw, keys)
        if as_json:
            issued = catalogue.issued.isoformat()
            print_json({"name": catalogue.name, "edition": catalogue.edition, "issued": issued})
            return
        click.echo(f"{catalogue.name}, edition {catalogue.edition}, issued {catalogue.issued:%Y-%m-%d}: a catalogue")
        click.echo("  form and signature: right, by a key that the catalogues here vouch for")
        return
    manifest = read_lesson(raw, keys)
    by = sorted(signers(format_of(manifest), signed.signed, signed.signatures, keys))
    listed = _listed(manifest, raw, vouching)
    on_disk = _on_disk(folder, manifest)
    if as_json:
        print_json(
            {
                "id": manifest.id,
                "version": manifest.version,
                "title": manifest.title,
                "publisher": manifest.publisher,
                "signed_by": [key.hex() for key in by],
                "info_hash": manifest.info_hash.hex(),
                "files": manifest.files,
                "size": manifest.size,
                "catalogue": listed,
                "content": on_disk,
            }
        )
        return
    click.echo(f"{manifest.id}, version {manifest.version}, by {manifest.publisher}: {manifest.title}")
    click.echo(f"  form: {signed.format}, {len(raw)} bytes, canonical, every field as it must be")
    click.echo(f"  signature: right, by {', '.join(key.hex()[:16] for key in by)}, which the catalogues vouch for")
    click.echo(f"  catalogue: {listed}")
    click.echo(f"  content: {many(manifest.files, 'file')}, {size(manifest.size)}, {on_disk}")


def _read(file: Path) -> bytes:
    try:
        with file.open("rb") as opened:
            raw = opened.read(MAX_MANIFEST + 1)
    except OSError as error:
        raise ManifestError(f"cannot read {file} ({error.strerror})", hint="name a manifest file") from error
    return raw


@contextmanager
def _index(library: Path) -> Iterator[Index]:
    path = library / "index.sqlite"
    try:
        if not path.exists():
            hint = "run a node first, or name its library with --library or --config"
            raise LibraryError(f"{library} is not a node's library, so no key is trusted here", hint=hint)
        index = Index(path)
        try:
            yield index
        finally:
            index.close()
    except (OSError, sqlite3.Error) as error:
        hint = "run this as the user that the daemon runs as"
        raise LibraryError(f"the library {library} cannot be read ({error})", hint=hint) from error


def _vouching(library: Path) -> Iterator[_Vouching]:
    with _index(library) as index:
        for stored in index.catalogues():
            manifest = read_catalogue(stored.manifest, stored.keys)
            edition = read_edition(stored.content, manifest.name, manifest.edition, stored.keys)
            yield _Vouching(edition, dict(stored.keys))


def _listed(manifest: LessonManifest, raw: bytes, vouching: list[_Vouching]) -> str:
    for each in vouching:
        name = f"{each.edition.name}, edition {each.edition.number}"
        for gone in each.edition.withdrawn:
            if gone.id == manifest.id:
                return f"withdrawn by {name}: {gone.why}"
        for lesson in each.edition.lessons:
            if lesson.manifest.id == manifest.id:
                if lesson.raw == raw:
                    return f"{name} lists this very manifest"
                return f"{name} lists version {lesson.manifest.version}"
    return "no catalogue of this node lists it"


def _on_disk(library: Path, manifest: LessonManifest) -> str:
    from edgeshare.swarm.session import read_info  # libtorrent is for those who have the content

    with _index(library) as index:
        held = next((each for each in index.torrents() if each.info_hash == manifest.info_hash), None)
    if held is None:
        return "not on this machine"
    layout = read_info(held.info, manifest.info_hash)
    if content.verify(library / "content" / manifest.info_hash.hex(), layout) is None:
        return "not whole on this machine"
    return "on this machine, every byte as published"
