"""`edgeshare verify`: a manifest that came by mail or by stick, held against what this machine trusts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import attrs
import click

from edgeshare import RELEASED
from edgeshare.admission import Gone
from edgeshare.catalogue import Edition, read_edition
from edgeshare.cli.output import library_of, many, print_json
from edgeshare.errors import ManifestError, TrustError
from edgeshare.freshness import Freshness, judge
from edgeshare.library import content
from edgeshare.library.index import Index, StoredTorrent
from edgeshare.manifest import (
    FORMATS,
    MAX_MANIFEST,
    CatalogueManifest,
    LessonId,
    LessonManifest,
    SignedFile,
    read_catalogue,
    read_lesson,
    shown,
)
from edgeshare.publishers import Publishers
from edgeshare.signing import PublicKey, signers
from edgeshare.units import size


@attrs.frozen(kw_only=True)
class _Vouching:
    """An admitted catalogue: the keys that it vouches for, and what it lists."""

    manifest: CatalogueManifest
    edition: Edition
    keys: Mapping[bytes, PublicKey]
    admitted: datetime


@attrs.frozen(kw_only=True)
class _Known:
    """What a library stands on."""

    catalogues: tuple[_Vouching, ...]
    publishers: Publishers | None  # None: the node has not heard of them
    gone: Mapping[LessonId, Gone]
    torrents: Mapping[bytes, StoredTorrent]  # by info-hash
    freshness: Freshness

    @property
    def keys(self) -> dict[bytes, PublicKey]:
        """All keys that a catalogue here vouches for, by id."""
        return {key_id: key for each in self.catalogues for key_id, key in each.keys.items()}


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
    known = _known(folder)
    signed = SignedFile.parse(raw)
    if signed.format == FORMATS[CatalogueManifest]:
        _explain_catalogue(raw, signed, known, as_json=as_json)
    else:
        _explain_lesson(raw, signed, known, folder, as_json=as_json)


def _explain_catalogue(raw: bytes, signed: SignedFile, known: _Known, *, as_json: bool) -> None:
    catalogue = read_catalogue(raw, known.keys)
    _require_unrevoked(signed, known)
    if as_json:
        issued = catalogue.issued.isoformat()
        print_json({"name": catalogue.name, "edition": catalogue.edition, "issued": issued} | _fresh_json(known))
        return
    click.echo(f"{catalogue.name}, edition {catalogue.edition}, issued {catalogue.issued:%Y-%m-%d}: a catalogue")
    click.echo("  form and signature: right, by a key that the catalogues here vouch for, and that is not revoked")
    click.echo(f"  metadata: {_fresh(known.freshness)}")


def _explain_lesson(raw: bytes, signed: SignedFile, known: _Known, folder: Path, *, as_json: bool) -> None:
    manifest = read_lesson(raw, known.keys)
    by = _require_unrevoked(signed, known)
    whose = _whose(manifest, known.publishers)
    found = next((each for each in known.catalogues if _mentions(each.edition, manifest.id)), None)
    listed = _listed(manifest, raw, found, known.gone.get(manifest.id))
    on_disk = _on_disk(folder, manifest, known.torrents.get(manifest.info_hash))
    if as_json:
        print_json(
            {
                "id": manifest.id,
                "version": manifest.version,
                "title": manifest.title,
                "publisher": manifest.publisher,
                "signed_by": [key.hex() for key in by],
                "owner": whose,
                "info_hash": manifest.info_hash.hex(),
                "files": manifest.files,
                "size": manifest.size,
                "catalogue": listed,
                "issued": found.manifest.issued.isoformat() if found else None,
                "admitted": found.admitted.isoformat() if found else None,
                "content": on_disk,
            }
            | _fresh_json(known)
        )
        return
    click.echo(f"{manifest.id}, version {manifest.version}, by {manifest.publisher}: {manifest.title}")
    click.echo(f"  form: {signed.format}, {len(raw)} bytes, canonical, every field as it must be")
    names = ", ".join(key.hex()[:16] for key in by)
    click.echo(f"  signature: right, by {names}, which the catalogues vouch for, and which is not revoked")
    click.echo(f"  publisher: {whose or 'the node has not heard yet who the publishers are'}")
    click.echo(f"  catalogue: {listed}")
    if found:
        days = (datetime.now(UTC) - found.admitted).days
        issued = f"issued on {found.manifest.issued:%Y-%m-%d}"
        click.echo(f"  age: {issued}, admitted here on {found.admitted:%Y-%m-%d}, {many(max(days, 0), 'day')} ago")
    click.echo(f"  metadata: {_fresh(known.freshness)}")
    click.echo(f"  content: {many(manifest.files, 'file')}, {size(manifest.size)}, {on_disk}")


def _read(file: Path) -> bytes:
    try:
        with file.open("rb") as opened:
            raw = opened.read(MAX_MANIFEST + 1)
    except OSError as error:
        raise ManifestError(f"cannot read {file} ({error.strerror})", hint="name a manifest file") from error
    return raw


def _known(library: Path) -> _Known:
    from edgeshare import trusted  # TUF starts slowly
    from edgeshare.bundle.known import index_of

    with index_of(library) as index:
        return _Known(
            catalogues=tuple(_vouching(index)),
            publishers=index.publishers(),
            gone={gone.id: gone for gone in index.gone()},
            torrents={torrent.info_hash: torrent for torrent in index.torrents()},
            freshness=judge(datetime.now(UTC), RELEASED, trusted.held(library / "trust")),
        )


def _vouching(index: Index) -> Iterator[_Vouching]:
    for stored in index.catalogues():
        manifest = read_catalogue(stored.manifest, stored.keys)
        yield _Vouching(
            manifest=manifest,
            edition=read_edition(stored.content, manifest.name, manifest.edition, stored.keys),
            keys=stored.keys,
            admitted=datetime.fromisoformat(stored.admitted_at),
        )


def _require_unrevoked(signed: SignedFile, known: _Known) -> list[bytes]:
    """The ids of the keys that signed it and are not revoked; at least one.

    Raises:
        TrustError: there is none.
    """
    revoked = known.publishers.revoked_keys if known.publishers else frozenset()
    by = signers(signed.format, signed.signed, signed.signatures, known.keys)
    if by <= revoked:
        what = f"the key that signed this manifest, {min(by).hex()[:16]}, was revoked"
        raise TrustError(what, hint="its publisher has to sign it anew, with another key")
    return sorted(by - revoked)


def _whose(manifest: LessonManifest, publishers: Publishers | None) -> str | None:
    """Whose the lesson's id is, and by which rule; None when the node has not heard who the publishers are.

    Raises:
        TrustError: it is not the publisher's that the manifest names.
    """
    if publishers is None:
        return None
    if (why := publishers.revoked.get(manifest.publisher)) and manifest.publisher not in publishers.delegations:
        raise TrustError(f"{manifest.publisher} was revoked, {shown(why)}", hint="its lessons are withdrawn")
    if not publishers.owns(manifest.publisher, manifest.id):
        owner = publishers.owner(manifest.id) or "nobody"
        what = f"{manifest.id} is not an id of {manifest.publisher}, but of {owner}"
        raise TrustError(what, hint="a publisher speaks for its own lessons only")
    prefix = publishers.delegations[manifest.publisher].prefix
    rule = f"whose ids begin with {prefix}" if prefix else "as every id that nobody else was given"
    return f"the id is one of {manifest.publisher}, {rule}"


def _mentions(edition: Edition, lesson: LessonId) -> bool:
    return any(gone.id == lesson for gone in edition.withdrawn) or any(
        each.manifest.id == lesson for each in edition.lessons
    )


def _listed(manifest: LessonManifest, raw: bytes, found: _Vouching | None, gone: Gone | None) -> str:
    if gone:
        by = f"{gone.by}, edition {gone.since}" if not gone.is_revocation else f"the revocation of {gone.by}"
        return f"withdrawn by {by}: {gone.why}"
    if found is None:
        return "no catalogue of this node lists it"
    name = f"{found.edition.name}, edition {found.edition.number}"
    for withdrawn in found.edition.withdrawn:
        if withdrawn.id == manifest.id:
            return f"withdrawn by {name}: {withdrawn.why}"
    (lesson,) = [lesson for lesson in found.edition.lessons if lesson.manifest.id == manifest.id]
    if lesson.raw == raw:
        return f"{name} lists this very manifest"
    return f"{name} lists version {lesson.manifest.version}"


def _fresh(freshness: Freshness) -> str:
    if freshness.expires is None:
        return "none is here yet"
    return freshness.warning(datetime.now(UTC)) or f"fresh until {freshness.expires:%Y-%m-%d}"


def _fresh_json(known: _Known) -> dict[str, Any]:
    expires = known.freshness.expires
    return {"fresh": known.freshness.is_fresh, "expires": expires.isoformat() if expires else None}


def _on_disk(library: Path, manifest: LessonManifest, held: StoredTorrent | None) -> str:
    from edgeshare.swarm.session import read_info  # libtorrent is for those who have the content

    if held is None:
        return "not on this machine"
    layout = read_info(held.info, manifest.info_hash)
    if content.verify(library / "content" / manifest.info_hash.hex(), layout) is None:
        return "not whole on this machine"
    return "on this machine, every byte as published"
