"""A publisher's repository: lessons are staged, then released together as new editions of their catalogues.

Nothing that is served changes before a release, and a release shows with one rename, of `timestamp.json`. Killed at any
moment, the repository is the old edition or the new one; the next run clears away what is left of the other.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

import attrs
from tuf.api.exceptions import RepositoryError as TufError
from tuf.api.metadata import TargetFile

from edgeshare.catalogue import (
    FILE_NAME,
    MAX_CONTENT,
    MAX_LESSONS,
    Edition,
    SignedLesson,
    Withdrawal,
    encode_edition,
    newest,
    read_edition,
    withdrawn,
)
from edgeshare.config import nearest
from edgeshare.errors import EdgeshareError, LessonError, ManifestError, RepositoryError, TrustError
from edgeshare.hashtree import FileHasher
from edgeshare.library.content import put
from edgeshare.manifest import (
    CatalogueManifest,
    InfoHash,
    LessonId,
    LessonManifest,
    lesson_id,
    read_catalogue,
    read_lesson,
    shown,
)
from edgeshare.publish import metadata as tuf
from edgeshare.publish.content import copy_content
from edgeshare.publish.folder import LessonFolder, read_folder
from edgeshare.publish.keys import TOP_ROLES, Keys
from edgeshare.publish.places import Places
from edgeshare.publish.torrent import Torrent, assemble, layout_of, piece_length, tracker_hashes
from edgeshare.targets import lesson_keys, target_path, vouching
from edgeshare.units import size
from edgeshare.vocabulary import Vocabulary, is_code


@attrs.frozen(kw_only=True)
class Staged:
    """What adding a lesson did."""

    manifest: LessonManifest
    is_unchanged: bool  # it was staged, or published, just so
    is_waiting: bool  # the next release publishes it
    warnings: tuple[str, ...]


@attrs.frozen(kw_only=True)
class Released:
    """What a release published."""

    catalogues: tuple[CatalogueManifest, ...]  # the new editions; empty when there was nothing to release
    lessons: tuple[LessonManifest, ...]  # new or in a new version
    withdrawn: tuple[LessonId, ...]
    warnings: tuple[str, ...]
    expires: datetime  # when nodes stop taking anything new, unless it is renewed before


@attrs.frozen(kw_only=True)
class _Catalogue:
    """A catalogue as it is published."""

    manifest: CatalogueManifest
    edition: Edition
    target: TargetFile


@attrs.frozen(kw_only=True)
class _Draft:
    """A catalogue's next edition with the bytes of its files, none of them written yet."""

    catalogue: _Catalogue
    raw: bytes  # the manifest file
    content: bytes
    torrent: Torrent


class Repository:
    """The repository in one folder, locked for this process; made by `open_repository`."""

    def __init__(self, root: Path, keys: Keys) -> None:
        self._places = Places(root)
        self._keys = keys
        self._metadata = tuf.read(self._places.metadata)
        self._lesson_key = keys.lesson_key(self._metadata.publisher)
        self._catalogues = dict(self._published())
        self._clear_left_overs()

    @property
    def publisher(self) -> str:
        """The name before the `/` of its catalogues."""
        return self._metadata.publisher

    @property
    def catalogues(self) -> tuple[CatalogueManifest, ...]:
        """The editions that are published."""
        return tuple(catalogue.manifest for catalogue in self._catalogues.values())

    @property
    def lessons(self) -> tuple[LessonManifest, ...]:
        """The lessons that are published, each once."""
        return tuple(signed.manifest for signed in self._known().values())

    def is_taken(self, lesson: LessonId) -> bool:
        """Whether the id is published or staged, or was withdrawn."""
        return lesson in self._known() or lesson in self._gone() or self._places.staged(lesson).exists()

    def tracker_hashes(self, info_hash: InfoHash) -> tuple[str, str]:
        """What nodes announce a content by, in hex; see `torrent.tracker_hashes`."""
        return tracker_hashes(self._places.torrent(info_hash).read_bytes(), info_hash)

    def add(self, folder: Path, vocabulary: Vocabulary, report: Callable[[int], None] = lambda count: None) -> Staged:
        """Stage the lesson in `folder`, or its next version; the same content and description stage nothing.

        A withdrawal of it that is staged is dropped, with a warning.

        Raises:
            LessonError: the folder cannot be published.
            RepositoryError: the repository cannot be written.
        """
        lesson = read_folder(folder, vocabulary)
        known = self._known()
        published = known.get(LessonId(lesson.fields["id"]))
        if gone := self._gone().get(LessonId(lesson.fields["id"])):
            raise LessonError(f"{gone.id} was withdrawn ({gone.why})", hint="publish it under another id")
        with self._places.written():
            torrent = self._take(lesson, report)
            manifest = lesson.manifest(
                version=published.manifest.version if published else 1,
                publisher=self._metadata.publisher,
                info_hash=torrent.info_hash,
                size=torrent.size,
            )
            staged, warnings = self._places.staged(manifest.id), lesson.warnings
            if self._places.withdrawal(manifest.id).exists():
                self._places.withdrawal(manifest.id).unlink()
                warnings += (f"the withdrawal of {manifest.id} was staged, and is dropped",)
            if published and manifest == published.manifest:
                staged.unlink(missing_ok=True)  # it was changed, staged, and changed back
                return Staged(manifest=manifest, is_unchanged=True, is_waiting=False, warnings=warnings)
            if published:
                manifest = attrs.evolve(manifest, version=published.manifest.version + 1)
            if any(waiting.manifest == manifest for waiting in self._staged()):
                return Staged(manifest=manifest, is_unchanged=True, is_waiting=True, warnings=warnings)
            put(staged, self._signed(manifest))
            return Staged(manifest=manifest, is_unchanged=False, is_waiting=True, warnings=warnings)

    def withdraw(self, lesson: LessonId, why: str) -> bool:
        """Stage the withdrawal of a published lesson, `why` for its readers; a staged version of it is dropped.

        Returns:
            Whether a release is needed: not for a lesson that was only staged.

        Raises:
            RepositoryError: no such lesson is published or staged, or the reason is too long.
        """
        try:
            gone = Withdrawal(id=lesson, why=why, since=1)
            reason = gone.why.encode()
        except ValueError as error:
            raise RepositoryError(str(error), hint="say why in a sentence") from error
        was_staged = self._places.staged(lesson).exists()
        with self._places.written():
            self._places.staged(lesson).unlink(missing_ok=True)
            if lesson in self._known():
                put(self._places.withdrawal(lesson), reason)
                return True
            if not was_staged:
                close = nearest(lesson, self._known())
                hint = f"did you mean {close}?" if close else "`edgeshare publish add` prints a lesson's id"
                raise RepositoryError(f"no lesson {lesson} is published here", hint=hint)
            return False

    def release(
        self,
        now: datetime,
        *,
        origins: Sequence[str] | None = None,
        trackers: Sequence[str] | None = None,
        only: LessonId | None = None,
    ) -> Released:
        """Publish everything staged, or `only` one lesson of it; `origins` and `trackers` stay as they were where None.

        Metadata that is past half of its life is renewed, also when nothing is staged.

        Raises:
            RepositoryError: the repository cannot be written, what was staged is not there, or a URL is none.
            TrustError: a key is missing.
        """
        with self._places.written():
            for name in (self._metadata.publisher, "snapshot", "timestamp"):
                self._keys.signer(name)  # a key that is missing is missed before anything is written
            staged, leaving = self._staged(), self._leaving()
            if only is not None:
                staged = [item for item in staged if item.manifest.id == only]
                leaving = {lesson: why for lesson, why in leaving.items() if lesson == only}
            for item in staged:
                if not self._places.has_whole(item.manifest.info_hash):  # `add` flushes nothing to the disk
                    what = f"the content of {item.manifest.id}, which is staged, is not whole"
                    raise RepositoryError(what, hint="add it again, then release")
            new = self._editions(staged, leaving, now, origins, trackers)
            if new or self._metadata.ageing(now):
                self._publish(new, now)
            return _released(
                self._metadata,
                now,
                catalogues=tuple(item.catalogue.manifest for item in new),
                lessons=tuple(item.manifest for item in staged),
                withdrawn=tuple(leaving),
            )

    def _published(self) -> Iterator[tuple[str, _Catalogue]]:
        for target in self._metadata.role.signed.targets.values():
            file = self._places.target(target)
            try:
                raw = file.read_bytes()
                target.verify_length_and_hashes(raw)
                keys = lesson_keys(target)
                manifest = read_catalogue(raw, keys)
                content = (self._places.content(manifest.info_hash) / FILE_NAME).read_bytes()
                edition = read_edition(content, manifest.name, manifest.edition, keys)
            except (OSError, TufError, EdgeshareError) as error:
                hint = "restore the repository from a backup or a mirror"
                raise RepositoryError(f"{file} is not what was published ({error})", hint=hint) from error
            yield manifest.name, _Catalogue(manifest=manifest, edition=edition, target=target)

    def _known(self) -> dict[LessonId, SignedLesson]:
        return newest(catalogue.edition for catalogue in self._catalogues.values())

    def _gone(self) -> dict[LessonId, Withdrawal]:
        return withdrawn(catalogue.edition for catalogue in self._catalogues.values())

    def _staged(self) -> list[SignedLesson]:
        keys = {self._lesson_key.id: self._lesson_key}
        found: list[SignedLesson] = []
        for path in self._places.all_staged():
            raw = path.read_bytes()
            try:
                found.append(SignedLesson(read_lesson(raw, keys), raw))
            except EdgeshareError as error:
                hint = "remove it, and add the lesson again"
                raise RepositoryError(f"{path} is not what was staged ({error.what})", hint=hint) from error
        return found

    def _leaving(self) -> dict[LessonId, str]:
        return {lesson_id(path.stem): path.read_text(encoding="utf-8") for path in self._places.all_withdrawals()}

    def _editions(
        self,
        staged: Iterable[SignedLesson],
        leaving: Mapping[LessonId, str],
        now: datetime,
        origins: Sequence[str] | None,
        trackers: Sequence[str] | None,
    ) -> list[_Draft]:
        """The catalogues that change, each with its next edition; nothing is written."""
        lessons = self._known() | {item.manifest.id: item for item in staged}
        for gone in leaving:
            lessons.pop(gone, None)
        first = next(iter(self._catalogues.values()), None)
        kept_origins = first.manifest.origins if first else ()
        kept_trackers = first.manifest.trackers if first else ()
        names = set(self._catalogues).union(*(item.manifest.catalogues for item in lessons.values()))
        new: list[_Draft] = []
        for name in sorted(names):
            before = self._catalogues.get(name)
            number = before.manifest.edition + 1 if before else 1
            listed = tuple(item for item in lessons.values() if name in item.manifest.catalogues)
            edition = Edition(
                name=name,
                number=number,
                lessons=tuple(sorted(listed, key=lambda item: item.manifest.id)),
                withdrawn=_withdrawals(before.edition if before else None, leaving, number),
            )
            try:
                manifest = CatalogueManifest(
                    name=name,
                    edition=number,
                    info_hash=InfoHash(bytes(32)),
                    size=1,
                    issued=now,
                    origins=kept_origins if origins is None else tuple(origins),
                    trackers=kept_trackers if trackers is None else tuple(trackers),
                )
            except ValueError as error:
                hint = "write an origin like https://lecons.example.fr/, a tracker like udp://lecons.example.fr:6969"
                raise RepositoryError(str(error), hint=hint) from error
            if before is None or not _is_same(before, edition, manifest):
                new.append(self._draft(edition, manifest))
        return new

    def _draft(self, edition: Edition, manifest: CatalogueManifest) -> _Draft:
        content = encode_edition(edition)
        if len(content) > MAX_CONTENT or len(edition.lessons) > MAX_LESSONS:
            what = f"the catalogue {edition.name} has {len(edition.lessons)} lessons in {size(len(content))}"
            raise RepositoryError(what, hint=f"nodes read {MAX_LESSONS} in {size(MAX_CONTENT)}; withdraw old ones")
        length = piece_length([len(content)])
        hasher = FileHasher(length)
        hasher.update(content)
        torrent = assemble(edition.name.replace("/", "-"), length, [hasher.finish(FILE_NAME)], manifest.trackers)
        manifest = attrs.evolve(manifest, info_hash=torrent.info_hash, size=len(content))
        raw = self._keys.sign_manifest(self._metadata.publisher, manifest)
        target = TargetFile.from_data(target_path(edition.name), raw, ["sha256"])
        target.unrecognized_fields["custom"] = vouching(self._lesson_key)
        catalogue = _Catalogue(manifest=manifest, edition=edition, target=target)
        return _Draft(catalogue=catalogue, raw=raw, content=content, torrent=torrent)

    def _publish(self, new: Sequence[_Draft], now: datetime) -> None:
        """Show the new editions: everything they need is on the disk before the timestamp names them."""
        following = self._catalogues | {item.catalogue.manifest.name: item.catalogue for item in new}
        self._places.begin_release(
            self._edition_paths(item.catalogue for item in new)
            | {self._places.metadata / name for name in tuf.next_files(self._metadata)}
        )
        for draft in new:
            self._places.put_edition(draft.catalogue.target, draft.raw, draft.torrent, draft.content)
        live = self._live(following.values())
        if following:
            # all catalogues have the trackers of one release
            self._places.announce(live, next(iter(following.values())).manifest.trackers)
        self._places.put_whitelist(live | self._live(self._catalogues.values()))
        os.sync()  # the copies that `add` made; once, for all
        targets = {item.target.path: item.target for item in following.values()}
        self._metadata = tuf.release(self._places.metadata, self._metadata, targets, self._keys, now)
        self._catalogues = following
        self._clear_left_overs()

    def _live(self, catalogues: Iterable[_Catalogue]) -> set[InfoHash]:
        found: set[InfoHash] = set()
        for catalogue in catalogues:
            found.add(catalogue.manifest.info_hash)
            found.update(item.manifest.info_hash for item in catalogue.edition.lessons)
        return found

    def _clear_left_overs(self) -> None:
        """Remove what a release, or a run that was killed, left behind.

        A superseded version stays: nodes that have not heard of the next one still fetch it. What was withdrawn goes.
        """
        self._places.roll_back(
            self._edition_paths(self._catalogues.values())
            | {self._places.metadata / name for name in tuf.files(self._metadata)}
        )
        known, gone = self._known(), self._gone()
        for item in self._staged():
            published = known.get(item.manifest.id)
            if published and published.raw == item.raw:
                self._places.staged(item.manifest.id).unlink()
        for lesson in self._leaving():
            if lesson in gone:
                self._places.withdrawal(lesson).unlink()
        live = self._live(self._catalogues.values())
        self._places.clear_contents(live, {item.manifest.info_hash for item in self._staged()}, gone)
        self._places.put_whitelist(live)

    def _edition_paths(self, catalogues: Iterable[_Catalogue]) -> set[Path]:
        return {
            path
            for catalogue in catalogues
            for path in self._places.edition_paths(catalogue.manifest.info_hash, catalogue.target)
        }

    def _take(self, lesson: LessonFolder, report: Callable[[int], None]) -> Torrent:
        """Copy a lesson's content to its place in the repository, where nothing names it yet."""
        length = piece_length([file.size for file in lesson.files])
        with self._places.incoming() as copy:
            hashed = copy_content(lesson.files, copy, length, report)
            torrent = assemble(lesson.fields["id"], length, hashed)
            try:
                layout = layout_of(torrent.encoded)
            except ManifestError as error:
                raise LessonError(f"nodes would refuse this lesson, {error.what}", hint="make several of it") from error
            self._places.keep(LessonId(lesson.fields["id"]), torrent, layout, copy)
        return torrent

    def _signed(self, manifest: LessonManifest) -> bytes:
        """The manifest's file, read once as a node reads it: what nodes refuse is refused here."""
        raw = self._keys.sign_manifest(self._metadata.publisher, manifest)
        try:
            read_lesson(raw, {self._lesson_key.id: self._lesson_key})
        except EdgeshareError as error:
            raise LessonError(f"nodes would refuse this lesson, {error.what}", hint="shorten its texts") from error
        return raw


def create_repository(root: Path, keys: Keys, publisher: str, now: datetime) -> None:
    """Make an empty repository, and those keys that are not there yet.

    Raises:
        RepositoryError: there is one already, or the folder cannot be written.
        TrustError: the keys cannot be made, or would lie in the repository.
    """
    if not is_code(publisher) or publisher in TOP_ROLES:  # a role of that name would sign what the whole rests on
        hint = f"use a-z, 0-9 and -, like cned; {', '.join(TOP_ROLES)} are taken"
        raise RepositoryError(f"{shown(publisher)} cannot be a publisher's name", hint=hint)
    _refuse_keys_inside(root, keys)
    places = Places(root)
    with places.written():
        places.prepare()
    with places.locked():
        if (places.metadata / "timestamp.json").exists():
            raise RepositoryError(f"{root} is a repository already", hint="add lessons to it with `publish add`")
        keys.make(*TOP_ROLES, publisher, f"{publisher}-lessons")
        places.create()
        tuf.create(places.metadata, keys, publisher, now)


@contextmanager
def open_repository(root: Path, keys: Keys) -> Iterator[Repository]:
    """The repository in `root`, locked; what an earlier run left half-made is cleared away.

    Raises:
        RepositoryError: there is none, it is not whole, or another publisher works on it.
        TrustError: the key for manifests cannot be used, or the keys lie in the repository.
    """
    with _opened(root, keys):
        yield Repository(root, keys)


def refresh_repository(root: Path, keys: Keys, now: datetime) -> Released:
    """Renew the timestamp of the repository in `root`, and nothing else; only the key for timestamps is used.

    Raises:
        RepositoryError: there is none, it cannot be written, or another publisher works on it.
        TrustError: the key cannot be used, or the keys lie in the repository.
    """
    with _opened(root, keys):
        return _released(tuf.refresh(root / "metadata", tuf.read(root / "metadata"), keys, now), now)


@contextmanager
def _opened(root: Path, keys: Keys) -> Iterator[None]:
    places = Places(root)
    if not places.is_repository():
        raise RepositoryError(f"{root} is not a repository", hint="make one with `edgeshare publish init`")
    _refuse_keys_inside(root, keys)
    with places.locked():
        yield


def _refuse_keys_inside(root: Path, keys: Keys) -> None:
    if keys.is_inside(root):
        hint = "a web server would hand them out; give --keys a folder elsewhere"
        raise TrustError(f"the keys lie inside the repository {root}", hint=hint)


def _released(
    metadata: tuf.RepositoryMetadata,
    now: datetime,
    *,
    catalogues: tuple[CatalogueManifest, ...] = (),
    lessons: tuple[LessonManifest, ...] = (),
    withdrawn: tuple[LessonId, ...] = (),
) -> Released:
    ageing = metadata.ageing(now)
    return Released(
        catalogues=catalogues,
        lessons=lessons,
        withdrawn=withdrawn,
        warnings=tuple(f"the {role} metadata expires on {expires:%Y-%m-%d}" for role, expires in ageing.items()),
        expires=metadata.expires,
    )


def _withdrawals(before: Edition | None, leaving: Mapping[LessonId, str], number: int) -> tuple[Withdrawal, ...]:
    """What the edition after `before` withdraws: also what it does not list, but may have in an older version."""
    if before is None:
        return ()
    listed = {item.manifest.id: item for item in before.lessons}
    new = [Withdrawal(id=gone, why=why, since=number, lesson=listed.get(gone)) for gone, why in leaving.items()]
    return (*before.withdrawn, *new)


def _is_same(before: _Catalogue, edition: Edition, manifest: CatalogueManifest) -> bool:
    return (
        before.edition.lessons == edition.lessons
        and before.edition.withdrawn == edition.withdrawn
        and before.manifest.origins == manifest.origins
        and before.manifest.trackers == manifest.trackers
    )
