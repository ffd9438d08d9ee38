"""A school's library after a year, made directly: contents on the disk, rows in the index, editions that are signed.

Fetching them would take an hour. What a daemon finds is the same: every file hashed, every row as it writes it itself.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

import attrs
import libtorrent as lt
import msgpack

from edgeshare.admission import Admitted, Memory, changes, weigh
from edgeshare.catalogue import FILE_NAME, SignedLesson
from edgeshare.hashtree import FileHasher
from edgeshare.library.content import stamp
from edgeshare.library.index import Index, StoredCatalogue, StoredLesson
from edgeshare.manifest import InfoHash, LessonId, LessonManifest
from edgeshare.publish import metadata as tuf
from edgeshare.publish.delegations import lessons_of
from edgeshare.publish.drafts import Standing
from edgeshare.publish.editions import Catalogue, Changes, LessonKey, NewEdition, next_editions
from edgeshare.publish.keys import Keys, public_half, signed_file
from edgeshare.publish.places import Places
from edgeshare.publish.repository import create_repository
from edgeshare.publish.torrent import Torrent, assemble, layout_of, piece_length, tracker_hashes
from edgeshare.targets import publishers

PUBLISHER = "cned"
_SUBJECTS = ("mathematiques", "francais", "histoire-geographie", "sciences-de-la-vie-et-de-la-terre", "anglais")
_SYLLABLES = ("ba", "ce", "di", "fo", "gu", "la", "me", "ni", "po", "ru", "sa", "te")
_WORDS = ("fractions", "angles", "poésie", "empire", "cellule", "verbe", "récit", "énergie", "vecteurs", "climat")
_RARE = tuple(f"{one}{two}{three}é" for one in _SYLLABLES for two in _SYLLABLES for three in _SYLLABLES)
_COLUMNS = ("info_hash", "info", "resume", "stamps", "origin_bytes", "peer_bytes")


@attrs.frozen
class _Held:
    """A content as it lies on the disk."""

    folder: Path
    torrent: Torrent


class Shop:
    """A publisher's repository, and the libraries of nodes that have heard of it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.repository = folder / "repository"
        keys = Keys(folder / "keys")
        self._now = datetime.now(UTC).replace(microsecond=0)
        create_repository(self.repository, keys, PUBLISHER, self._now)
        self._keys = keys
        self._places = Places(self.repository)
        self._published = tuf.read(self._places.metadata)
        self._catalogues: dict[str, Catalogue] = {}
        signer = keys.signers_of(lessons_of(PUBLISHER))[0]
        self._key = LessonKey(public_half(signer.public_key), partial(signed_file, signer=signer))
        self._held: dict[LessonId, _Held] = {}
        self._editions: list[NewEdition] = []

    def publish(self, levels: Mapping[str, int], held: str) -> None:
        """List so many lessons at each level; those of the level `held` have contents of three small files."""
        staged = []
        for level, count in levels.items():
            for number in range(count):
                name = LessonId(f"{PUBLISHER}-{level}-{number}")
                if level == held:
                    self._held[name] = _content(self.folder / "contents", name)
                staged.append(self._signed(name, level, number))
        self._release(staged)

    def change(self, level: str, count: int) -> str:
        """Publish the next edition of a level's catalogue, with another version of `count` lessons; its info-hash."""
        lessons = self._catalogues[f"{PUBLISHER}/{level}"].edition.lessons[:count]
        self._release([self._next(lesson) for lesson in lessons])
        return self._editions[-1].torrent.info_hash.hex()

    def info_hashes(self) -> tuple[str, ...]:
        """By what a tracker knows each content, in hex."""
        torrents = [each.torrent for each in self._held.values()] + [each.torrent for each in self._editions]
        return tuple(name for each in torrents for name in tracker_hashes(each.encoded, each.info_hash))

    def stock(self, library: Path, levels: Sequence[str], *, holds: bool = True) -> None:
        """Make a library that has admitted the catalogues of `levels`, and `holds` all lessons that have contents."""
        contents = library / "content"
        contents.mkdir(parents=True)
        names = {f"{PUBLISHER}/{level}" for level in levels}
        editions = [each for each in self._editions if each.catalogue.manifest.name in names]
        listed = [lesson for each in editions for lesson in each.catalogue.edition.lessons]
        rows = [self._edition_row(contents, each) for each in editions]
        here = [lesson for lesson in listed if lesson.manifest.id in self._held] if holds else []
        rows += [_row(contents, self._held[lesson.manifest.id]) for lesson in here]
        named = publishers(self._published.targets.signed)
        epoch = named.delegations[PUBLISHER].epoch
        keys = {self._key.public.id: self._key.public}
        with closing(Index(library / "index.sqlite")) as index:
            memory = Memory(publishers=named)
            index.heed(changes(Memory(), memory))
            for each in editions:
                manifest, edition = each.catalogue.manifest, each.catalogue.edition
                stored = StoredCatalogue(
                    name=manifest.name,
                    manifest=each.raw,
                    content=each.content,
                    keys=keys,
                    admitted_at=self._now.isoformat(),
                    epoch=epoch,
                )
                after = weigh(memory, Admitted(manifest=manifest, edition=edition, keys=keys, epoch=epoch)).memory
                index.admit(stored, changes(memory, after))
                memory = after
            index.rows_into("torrents", _COLUMNS, rows)
            index.put_lessons(
                StoredLesson(id=each.manifest.id, wanted=False, served=each.raw, keys=keys, epoch=epoch)
                for each in here
            )

    def _release(self, staged: list[SignedLesson]) -> None:
        """Sign the next editions and the metadata that names them, as `publish release` does.

        The contents of lessons are not in the repository: nobody fetches them here.
        """
        new = next_editions(self._catalogues, Changes(staged=staged), self._key, self._now)
        for each in new:
            self._places.put_edition(each.catalogue.target, each.raw, each.torrent, each.content)
            self._catalogues[each.catalogue.manifest.name] = each.catalogue
        standing = Standing(published=self._published)
        role = standing.edited(PUBLISHER, self._now)
        role.signed.targets = {each.target.path: each.target for each in self._catalogues.values()}
        standing = standing.drafted(PUBLISHER, role).completed(self._now).signed(self._keys, PUBLISHER)
        wanted = tuf.shown(self._published, standing.ready(), self._keys, self._now)
        tuf.write(self._places.metadata, self._published, wanted)
        self._published = wanted
        self._editions += new

    def _signed(self, name: LessonId, level: str, number: int) -> SignedLesson:
        rng = Random(name)
        held = self._held.get(name)
        fields: dict[str, Any] = {}
        if number % 500 == 0:
            fields["needed_at"] = self._now + timedelta(days=number % 14)
        manifest = LessonManifest(
            id=name,
            version=1,
            title=f"{' '.join(rng.sample(_WORDS, 3)).capitalize()} {number}",
            language="fr",
            levels=(level,),
            subjects=(_SUBJECTS[number % len(_SUBJECTS)],),
            description=" ".join(rng.choices(_WORDS, k=5) + rng.choices(_RARE, k=15)).capitalize(),
            licence="CC-BY-SA-4.0",
            start="index.html",
            publisher=PUBLISHER,
            info_hash=held.torrent.info_hash if held else InfoHash(rng.randbytes(32)),
            size=held.torrent.size if held else 20_000_000,
            files=held.torrent.files if held else 120,
            audience=10_000,
            **fields,
        )
        return SignedLesson(manifest, self._key.sign(manifest))

    def _next(self, lesson: SignedLesson) -> SignedLesson:
        manifest = attrs.evolve(lesson.manifest, version=lesson.manifest.version + 1, title="Une nouvelle version")
        return SignedLesson(manifest, self._key.sign(manifest))

    def _edition_row(self, contents: Path, edition: NewEdition) -> tuple[object, ...]:
        folder = contents / edition.torrent.info_hash.hex()
        folder.mkdir()
        (folder / FILE_NAME).write_bytes(edition.content)
        return _row(contents, _Held(folder, edition.torrent))


def _content(folder: Path, name: str) -> _Held:
    """A content of three small files that is the same nowhere else."""
    rng = Random(name)
    files = {path: rng.randbytes(rng.randrange(500, 4000)) for path in ("image.png", "index.html", "style.css")}
    length = piece_length([len(body) for body in files.values()])
    torrent = assemble(name, length, _hashed(files, length))
    place = folder / torrent.info_hash.hex()
    place.mkdir(parents=True)
    for path, body in files.items():
        (place / path).write_bytes(body)
    return _Held(place, torrent)


def _hashed(files: Mapping[str, bytes], length: int) -> Iterator[Any]:
    for path, body in files.items():
        hasher = FileHasher(length)
        hasher.update(body)
        yield hasher.finish(path)


def _row(contents: Path, held: _Held) -> tuple[object, ...]:
    """A row of the index for a content, which is at its place in the library then."""
    layout = layout_of(held.torrent.encoded)
    folder = contents / held.torrent.info_hash.hex()
    folder.mkdir(exist_ok=True)
    stamps = []
    for entry in layout.files:
        if held.folder != folder:
            os.link(held.folder / entry.path, folder / entry.path)
        stamps.append(attrs.astuple(stamp((folder / entry.path).stat())))
    params = lt.load_torrent_buffer(held.torrent.encoded)
    params.have_pieces = [True] * layout.pieces
    resume = lt.write_resume_data_buf(params)
    whole: Any = lt.bdecode(held.torrent.encoded)
    info = lt.bencode(whole[b"info"])
    return (held.torrent.info_hash, info, resume, msgpack.packb(stamps), held.torrent.size, 0)
