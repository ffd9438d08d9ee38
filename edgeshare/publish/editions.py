"""A publisher's catalogues: as they are published or drafted, and the next edition of those that change."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from datetime import datetime

import attrs
from tuf.api.exceptions import RepositoryError as TufError
from tuf.api.metadata import Metadata, TargetFile, Targets

from edgeshare.catalogue import (
    FILE_NAME,
    MAX_CONTENT,
    MAX_LESSONS,
    Edition,
    Reinstatement,
    SignedLesson,
    Withdrawal,
    encode_edition,
    newest,
    read_edition,
)
from edgeshare.errors import EdgeshareError, RepositoryError
from edgeshare.hashtree import FileHasher
from edgeshare.manifest import CatalogueManifest, InfoHash, LessonId, LessonManifest, SignedFile, read_catalogue
from edgeshare.publish.places import Places
from edgeshare.publish.torrent import Torrent, assemble, piece_length
from edgeshare.signing import PublicKey
from edgeshare.targets import lesson_keys, target_path, vouching
from edgeshare.units import size


@attrs.frozen(kw_only=True)
class Catalogue:
    """One edition of a catalogue, with the target that names it."""

    manifest: CatalogueManifest
    edition: Edition
    target: TargetFile


Catalogues = Mapping[str, Mapping[str, Catalogue]]  # by publisher and by name


@attrs.frozen(kw_only=True)
class NewEdition:
    """A catalogue's next edition with the bytes of its files, none of them written yet."""

    catalogue: Catalogue
    raw: bytes  # the manifest file
    content: bytes
    torrent: Torrent


@attrs.frozen
class LessonKey:
    """The key that signs a publisher's manifests now."""

    public: PublicKey
    sign: Callable[[LessonManifest | CatalogueManifest], bytes]


@attrs.frozen(kw_only=True)
class Changes:
    """What a release changes in a publisher's catalogues."""

    staged: Sequence[SignedLesson] = ()
    leaving: Mapping[LessonId, str] = attrs.field(factory=dict)  # to be withdrawn, each with the reason
    returning: Collection[LessonId] = ()  # whose withdrawal is undone
    origins: tuple[str, ...] = ()
    trackers: tuple[str, ...] = ()


def read_catalogues(places: Places, role: Metadata[Targets]) -> dict[str, Catalogue]:
    """The catalogues that a publisher's role names, by name, from the repository's files.

    Raises:
        RepositoryError: one of them is not what was signed.
    """
    found: dict[str, Catalogue] = {}
    for target in role.signed.targets.values():
        try:
            file = places.target(target)
            raw = file.read_bytes()
            target.verify_length_and_hashes(raw)
            keys = lesson_keys(target)
            manifest = read_catalogue(raw, keys)
            content = (places.content(manifest.info_hash) / FILE_NAME).read_bytes()
            edition = read_edition(content, manifest.name, manifest.edition, keys)
        except (OSError, TufError, EdgeshareError) as error:
            hint = "restore the repository from a backup or a mirror"
            raise RepositoryError(f"{target.path} is not what was published ({error})", hint=hint) from error
        found[manifest.name] = Catalogue(manifest=manifest, edition=edition, target=target)
    return found


def every(catalogues: Catalogues) -> list[Catalogue]:
    """The catalogues of all publishers."""
    return [each for own in catalogues.values() for each in own.values()]


def listed(catalogues: Catalogues) -> list[SignedLesson]:
    """The lessons of all publishers, each once, in the order of their ids."""
    found = [item for own in catalogues.values() for item in newest(each.edition for each in own.values()).values()]
    return sorted(found, key=lambda item: item.manifest.id)


def named(role: Metadata[Targets], pool: Iterable[Catalogue]) -> dict[str, Catalogue]:
    """The catalogues among `pool` that a publisher's role names, by name."""
    found = {each.manifest.name: each for each in pool if role.signed.targets.get(each.target.path) == each.target}
    return dict(sorted(found.items()))


def announced(catalogues: Iterable[Catalogue]) -> dict[InfoHash, tuple[str, ...]]:
    """Where each content is announced: by the trackers of all catalogues that list it."""
    found: dict[InfoHash, tuple[str, ...]] = {}
    for catalogue in catalogues:
        for info_hash in live([catalogue]):
            found[info_hash] = tuple(dict.fromkeys((*found.get(info_hash, ()), *catalogue.manifest.trackers)))
    return found


def live(catalogues: Iterable[Catalogue]) -> set[InfoHash]:
    """The contents that catalogues name: their own, and their lessons'."""
    found: set[InfoHash] = set()
    for catalogue in catalogues:
        found.add(catalogue.manifest.info_hash)
        found.update(item.manifest.info_hash for item in catalogue.edition.lessons)
    return found


def is_same(one: Catalogue, other: Catalogue) -> bool:
    """Whether two editions say the same, but for when they were issued."""
    return (
        one.edition == other.edition
        and one.manifest.origins == other.manifest.origins
        and one.manifest.trackers == other.manifest.trackers
        and one.target.custom == other.target.custom
    )


def next_editions(before: Mapping[str, Catalogue], changes: Changes, key: LessonKey, now: datetime) -> list[NewEdition]:
    """The catalogues that change, each with its next edition; nothing is written.

    What is listed goes on under `key` alone: manifests that another key signed are signed anew, as they are.

    Raises:
        RepositoryError: an address is none, or a catalogue has grown too large.
    """
    lessons = newest(catalogue.edition for catalogue in before.values())
    lessons |= {item.manifest.id: item for item in changes.staged}
    for gone in changes.leaving:
        lessons.pop(gone, None)
    lessons = {lesson: _resigned(item, key) for lesson, item in lessons.items()}
    new: list[NewEdition] = []
    for name in sorted(set(before).union(*(item.manifest.catalogues for item in lessons.values()))):
        listed = [item for item in lessons.values() if name in item.manifest.catalogues]
        edition = _next_edition(name, before.get(name), listed, changes, key)
        manifest = _manifest(edition, changes, now)
        if name not in before or not _goes_on(before[name], edition, manifest, key):
            new.append(_assembled(edition, manifest, key))
    return new


def _next_edition(
    name: str, before: Catalogue | None, listed: Iterable[SignedLesson], changes: Changes, key: LessonKey
) -> Edition:
    number = before.manifest.edition + 1 if before else 1
    return Edition(
        name=name,
        number=number,
        lessons=tuple(sorted(listed, key=lambda item: item.manifest.id)),
        withdrawn=_withdrawals(before.edition, changes, number, key) if before else (),
        reinstated=_reinstatements(before.edition, changes, number) if before else (),
    )


def _withdrawals(before: Edition, changes: Changes, number: int, key: LessonKey) -> tuple[Withdrawal, ...]:
    """What the edition after `before` withdraws: also what it does not list, but may have in an older version."""
    listed = {item.manifest.id: item for item in before.lessons}
    kept = [gone for gone in before.withdrawn if gone.id not in changes.returning]
    new = [Withdrawal(id=gone, why=why, since=number, lesson=listed.get(gone)) for gone, why in changes.leaving.items()]
    named = [attrs.evolve(gone, lesson=gone.lesson and _resigned(gone.lesson, key)) for gone in (*kept, *new)]
    return tuple(sorted(named, key=lambda gone: gone.id))


def _reinstatements(before: Edition, changes: Changes, number: int) -> tuple[Reinstatement, ...]:
    """All catalogues say it: nodes may have heard of the withdrawal from any, also from a thief's edition of it."""
    changed = {*changes.leaving, *changes.returning}
    kept = [back for back in before.reinstated if back.id not in changed]
    new = [Reinstatement(id=back, since=number) for back in changes.returning]
    return tuple(sorted((*kept, *new), key=lambda back: back.id))


def _resigned(item: SignedLesson, key: LessonKey) -> SignedLesson:
    if any(signature.key == key.public.id for signature in SignedFile.parse(item.raw).signatures):
        return item
    return SignedLesson(item.manifest, key.sign(item.manifest))


def _manifest(edition: Edition, changes: Changes, now: datetime) -> CatalogueManifest:
    """The edition's manifest, without its content."""
    try:
        return CatalogueManifest(
            name=edition.name,
            edition=edition.number,
            info_hash=InfoHash(bytes(32)),
            size=1,
            issued=now,
            origins=changes.origins,
            trackers=changes.trackers,
        )
    except ValueError as error:
        hint = "write an origin like https://lecons.example.fr/, a tracker like udp://lecons.example.fr:6969"
        raise RepositoryError(str(error), hint=hint) from error


def _goes_on(before: Catalogue, edition: Edition, manifest: CatalogueManifest, key: LessonKey) -> bool:
    """Whether the published edition says already what the next would say."""
    return (
        before.edition == attrs.evolve(edition, number=before.edition.number)
        and before.manifest.origins == manifest.origins
        and before.manifest.trackers == manifest.trackers
        and before.target.custom == vouching(key.public)
    )


def _assembled(edition: Edition, manifest: CatalogueManifest, key: LessonKey) -> NewEdition:
    content = encode_edition(edition)
    if len(content) > MAX_CONTENT or len(edition.lessons) > MAX_LESSONS:
        what = f"the catalogue {edition.name} has {len(edition.lessons)} lessons in {size(len(content))}"
        raise RepositoryError(what, hint=f"nodes read {MAX_LESSONS} in {size(MAX_CONTENT)}; withdraw old ones")
    length = piece_length([len(content)])
    hasher = FileHasher(length)
    hasher.update(content)
    torrent = assemble(edition.name.replace("/", "-"), length, [hasher.finish(FILE_NAME)], manifest.trackers)
    manifest = attrs.evolve(manifest, info_hash=torrent.info_hash, size=len(content))
    raw = key.sign(manifest)
    target = TargetFile.from_data(target_path(edition.name), raw, ["sha256"])
    target.unrecognized_fields["custom"] = vouching(key.public)
    return NewEdition(
        catalogue=Catalogue(manifest=manifest, edition=edition, target=target),
        raw=raw,
        content=content,
        torrent=torrent,
    )
