"""A publisher's repository: lessons are staged, then released together as new editions of their catalogues.

```
REPO/metadata/  targets/  content/  torrents/  tracker/    what an origin serves (manifests/FORMAT.md)
REPO/.edgeshare/staged/<id>.manifest | <id>.withdrawal     what the next release will publish
REPO/.edgeshare/incoming/                                  copies under way; emptied by the next run
REPO/.edgeshare/taken/<id>.<info-hash>                     a mark for each content copied, with a word when published
REPO/.edgeshare/lock                                       one publisher at a time
```
Nothing that is served changes before a release, and a release shows with one rename, of `timestamp.json`. Killed at any
moment, the repository is the old edition or the new one; the next run clears away what is left of the other.
"""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

import attrs
from tuf.api.exceptions import RepositoryError as TufError
from tuf.api.metadata import TargetFile

from edgeshare import host
from edgeshare.catalogue import (
    FILE_NAME,
    Edition,
    SignedLesson,
    Withdrawal,
    encode_edition,
    newest,
    read_edition,
    withdrawn,
)
from edgeshare.errors import EdgeshareError, LessonError, RepositoryError
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
)
from edgeshare.publish import metadata as tuf
from edgeshare.publish.content import copy_content
from edgeshare.publish.folder import LessonFolder, read_folder
from edgeshare.publish.keys import TOP_ROLES, Keys
from edgeshare.publish.torrent import Torrent, assemble, piece_length, tracker_hashes, with_trackers
from edgeshare.trust import hashed_target, lesson_keys, target_path, vouching
from edgeshare.vocabulary import Vocabulary, is_code

logger = logging.getLogger(__name__)

_SERVED = ("metadata", "targets", "content", "torrents", "tracker")


@attrs.frozen(kw_only=True)
class Staged:
    """What adding a lesson did."""

    manifest: LessonManifest
    is_unchanged: bool
    warnings: tuple[str, ...]


@attrs.frozen(kw_only=True)
class Released:
    """What a release published."""

    catalogues: tuple[CatalogueManifest, ...]  # the new editions; empty when there was nothing to release
    lessons: tuple[LessonManifest, ...]  # new or in a new version
    withdrawn: tuple[LessonId, ...]
    warnings: tuple[str, ...]
    expires: datetime  # of the timestamp


@attrs.frozen(kw_only=True)
class _Catalogue:
    """A catalogue as it is published."""

    manifest: CatalogueManifest
    edition: Edition
    target: TargetFile


class Repository:
    """The repository in one folder, locked for this process; made by `open_repository`."""

    def __init__(self, root: Path, keys: Keys) -> None:
        self._root = root
        self._keys = keys
        self._work = root / ".edgeshare"
        self._metadata = tuf.read(root / "metadata")
        self._lesson_key = keys.lesson_key(self._metadata.publisher)
        self._catalogues = dict(self._published())
        self._clear_left_overs()

    def add(self, folder: Path, vocabulary: Vocabulary, report: Callable[[int], None] = lambda count: None) -> Staged:
        """Stage the lesson in `folder`, or its next version; the same content and description stage nothing.

        Raises:
            LessonError: the folder cannot be published.
            RepositoryError: the repository cannot be written.
        """
        lesson = read_folder(folder, vocabulary)
        known = self._known()
        published = known.get(LessonId(lesson.fields["id"]))
        if gone := withdrawn(c.edition for c in self._catalogues.values()).get(LessonId(lesson.fields["id"])):
            raise LessonError(f"{gone.id} was withdrawn ({gone.why})", hint="publish it under another id")
        incoming = self._work / "incoming" / os.urandom(8).hex()
        with _written(self._root):
            incoming.mkdir(parents=True)
            torrent = self._take(lesson, incoming, report)
            manifest = lesson.manifest(
                version=published.manifest.version if published else 1,
                publisher=self._metadata.publisher,
                info_hash=torrent.info_hash,
                size=torrent.size,
            )
            staged = self._staged_path(manifest.id)
            if published and manifest == published.manifest:
                staged.unlink(missing_ok=True)  # it was changed, staged, and changed back
                return Staged(manifest=manifest, is_unchanged=True, warnings=lesson.warnings)
            if published:
                manifest = attrs.evolve(manifest, version=published.manifest.version + 1)
            if any(waiting.manifest == manifest for waiting in self._staged()):
                return Staged(manifest=manifest, is_unchanged=True, warnings=lesson.warnings)
            put(staged, self._keys.sign_manifest(self._metadata.publisher, manifest))
            return Staged(manifest=manifest, is_unchanged=False, warnings=lesson.warnings)

    def withdraw(self, lesson: LessonId, why: str) -> None:
        """Stage the withdrawal of a published lesson, `why` for its readers; a staged version of it is dropped.

        Raises:
            RepositoryError: no such lesson is published or staged.
        """
        gone = Withdrawal(id=lesson, why=why, since=1)
        was_staged = self._staged_path(lesson).exists()
        with _written(self._root):
            self._staged_path(lesson).unlink(missing_ok=True)
            if lesson in self._known():
                put(self._work / "staged" / f"{lesson}.withdrawal", gone.why.encode())
            elif not was_staged:
                names = ", ".join(sorted(self._known())) or "none"
                raise RepositoryError(f"no lesson {lesson} is published here", hint=f"published: {names}")

    def release(
        self, now: datetime, *, origins: Sequence[str] | None = None, trackers: Sequence[str] | None = None
    ) -> Released:
        """Publish everything staged; `origins` and `trackers` stay as they were where None.

        Raises:
            RepositoryError: the repository cannot be written.
        """
        with _written(self._root):
            staged, leaving = self._staged(), self._leaving()
            new = self._editions(staged, leaving, now, origins, trackers)
            changed = {item.manifest.id: item.manifest for item in staged}
            if new:
                self._publish(new, now)
            return Released(
                catalogues=tuple(item.manifest for item in new),
                lessons=tuple(changed.values()),
                withdrawn=tuple(leaving),
                warnings=tuple(self._metadata.expiring(now)),
                expires=self._metadata.timestamp.signed.expires,
            )

    def refresh(self, now: datetime) -> Released:
        """Renew the timestamp; what is staged stays staged."""
        with _written(self._root):
            self._metadata = tuf.refresh(self._root / "metadata", self._metadata, self._keys, now)
        return Released(
            catalogues=(),
            lessons=(),
            withdrawn=(),
            warnings=tuple(self._metadata.expiring(now)),
            expires=self._metadata.timestamp.signed.expires,
        )

    def _published(self) -> Iterator[tuple[str, _Catalogue]]:
        for path, target in self._metadata.role.signed.targets.items():
            file = self._root / "targets" / hashed_target(path, target)
            try:
                raw = file.read_bytes()
                target.verify_length_and_hashes(raw)
                keys = lesson_keys(target)
                manifest = read_catalogue(raw, keys)
                content = (self._content(manifest.info_hash) / FILE_NAME).read_bytes()
                edition = read_edition(content, manifest.name, manifest.edition, keys)
            except (OSError, TufError, EdgeshareError) as error:
                hint = "restore the repository from a backup or a mirror"
                raise RepositoryError(f"{file} is not what was published ({error})", hint=hint) from error
            yield manifest.name, _Catalogue(manifest=manifest, edition=edition, target=target)

    def _known(self) -> dict[LessonId, SignedLesson]:
        return newest(catalogue.edition for catalogue in self._catalogues.values())

    def _staged(self) -> list[SignedLesson]:
        keys = {self._lesson_key.id: self._lesson_key}
        raws = [path.read_bytes() for path in sorted((self._work / "staged").glob("*.manifest"))]
        return [SignedLesson(read_lesson(raw, keys), raw) for raw in raws]

    def _leaving(self) -> dict[LessonId, str]:
        paths = sorted((self._work / "staged").glob("*.withdrawal"))
        return {lesson_id(path.stem): path.read_text(encoding="utf-8") for path in paths}

    def _editions(
        self,
        staged: Iterable[SignedLesson],
        leaving: Mapping[LessonId, str],
        now: datetime,
        origins: Sequence[str] | None,
        trackers: Sequence[str] | None,
    ) -> list[_Catalogue]:
        """The catalogues that change, each with its next edition; nothing is written but their content."""
        lessons = self._known() | {item.manifest.id: item for item in staged}
        for gone in leaving:
            lessons.pop(gone, None)
        first = next(iter(self._catalogues.values()), None)
        kept_origins = first.manifest.origins if first else ()
        kept_trackers = first.manifest.trackers if first else ()
        names = set(self._catalogues).union(*(item.manifest.catalogues for item in lessons.values()))
        new: list[_Catalogue] = []
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
            manifest = CatalogueManifest(
                name=name,
                edition=number,
                info_hash=InfoHash(bytes(32)),
                size=1,
                issued=now,
                origins=kept_origins if origins is None else tuple(origins),
                trackers=kept_trackers if trackers is None else tuple(trackers),
            )
            if before is None or not _is_same(before, edition, manifest):
                new.append(self._sign_edition(edition, manifest))
        return new

    def _sign_edition(self, edition: Edition, manifest: CatalogueManifest) -> _Catalogue:
        content = encode_edition(edition)
        length = piece_length([len(content)])
        hasher = FileHasher(length)
        hasher.update(content)
        torrent = assemble(edition.name.replace("/", "-"), length, [hasher.finish(FILE_NAME)], manifest.trackers)
        folder = self._content(torrent.info_hash)
        folder.mkdir(exist_ok=True)
        put(folder / FILE_NAME, content)
        put(self._torrent(torrent.info_hash), torrent.encoded)
        manifest = attrs.evolve(manifest, info_hash=torrent.info_hash, size=len(content))
        raw = self._keys.sign_manifest(self._metadata.publisher, manifest)
        path = target_path(edition.name)
        target = TargetFile.from_data(path, raw, ["sha256"])
        target.unrecognized_fields["custom"] = vouching(self._lesson_key)
        served = self._root / "targets" / hashed_target(path, target)
        served.parent.mkdir(parents=True, exist_ok=True)
        put(served, raw)
        return _Catalogue(manifest=manifest, edition=edition, target=target)

    def _publish(self, new: Sequence[_Catalogue], now: datetime) -> None:
        """Show the new editions: everything they need is on the disk before the timestamp names them."""
        following = self._catalogues | {item.manifest.name: item for item in new}
        live = self._live(following.values())
        trackers = new[0].manifest.trackers
        for info_hash in live:
            torrent = self._torrent(info_hash)
            encoded = torrent.read_bytes()
            if (announcing := with_trackers(encoded, trackers)) != encoded:
                put(torrent, announcing)
        self._put_whitelist(live | self._live(self._catalogues.values()))
        os.sync()  # the copies that `add` made; once, for all
        targets = {item.target.path: item.target for item in following.values()}
        self._metadata = tuf.release(self._root / "metadata", self._metadata, targets, self._keys, now)
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
        shutil.rmtree(self._work / "incoming", ignore_errors=True)
        known = self._known()
        gone = withdrawn(catalogue.edition for catalogue in self._catalogues.values())
        for item in self._staged():
            published = known.get(item.manifest.id)
            if published and published.raw == item.raw:
                self._staged_path(item.manifest.id).unlink()
        for lesson in self._leaving():
            if lesson in gone:
                (self._work / "staged" / f"{lesson}.withdrawal").unlink()
        live = self._live(self._catalogues.values())
        waiting = {item.manifest.info_hash for item in self._staged()}
        for mark in (self._work / "taken").glob("*.*"):
            info_hash = InfoHash(bytes.fromhex(mark.suffix[1:]))
            was_published = mark.stat().st_size > 0
            if info_hash not in live | waiting and (mark.stem in gone or not was_published):
                shutil.rmtree(self._content(info_hash), ignore_errors=True)
                self._torrent(info_hash).unlink(missing_ok=True)
                mark.unlink()
            elif info_hash in live and not was_published:
                put(mark, b"published")
        self._put_whitelist(live)

    def _take(self, lesson: LessonFolder, incoming: Path, report: Callable[[int], None]) -> Torrent:
        """Copy a lesson's content to its place in the repository, where nothing names it yet."""
        length = piece_length([file.size for file in lesson.files])
        try:
            hashed = copy_content(lesson.files, incoming, length, report)
            torrent = assemble(lesson.fields["id"], length, hashed)
            (self._work / "taken" / f"{lesson.fields['id']}.{torrent.info_hash.hex()}").touch()
            if not self._content(torrent.info_hash).exists():
                incoming.rename(self._content(torrent.info_hash))
            if not self._torrent(torrent.info_hash).exists():
                put(self._torrent(torrent.info_hash), torrent.encoded)
        finally:
            shutil.rmtree(incoming, ignore_errors=True)
        return torrent

    def _put_whitelist(self, live: Iterable[InfoHash]) -> None:
        """The hashes that a tracker should serve, one a line (opentracker's `access.whitelist`)."""
        lines = sorted(
            each for info_hash in live for each in tracker_hashes(self._torrent(info_hash).read_bytes(), info_hash)
        )
        text = "".join(f"{line}\n" for line in lines).encode()
        path = self._root / "tracker" / "whitelist.txt"
        if not path.exists() or path.read_bytes() != text:
            put(path, text)

    def _content(self, info_hash: InfoHash) -> Path:
        return self._root / "content" / info_hash.hex()

    def _torrent(self, info_hash: InfoHash) -> Path:
        return self._root / "torrents" / f"{info_hash.hex()}.torrent"

    def _staged_path(self, lesson: LessonId) -> Path:
        return self._work / "staged" / f"{lesson}.manifest"


def create_repository(root: Path, keys: Keys, publisher: str, now: datetime) -> None:
    """Make an empty repository, and those keys that are not there yet.

    Raises:
        RepositoryError: there is one already, or the folder cannot be written.
    """
    if not is_code(publisher):
        raise RepositoryError(f"{publisher!r} cannot be a publisher's name", hint="use a-z, 0-9 and -, like cned")
    with _written(root):
        for folder in (*_SERVED, ".edgeshare/staged", ".edgeshare/taken"):
            (root / folder).mkdir(parents=True, exist_ok=True)
        with _locked(root):
            if (root / "metadata" / "timestamp.json").exists():
                raise RepositoryError(f"{root} is a repository already", hint="add lessons to it with `publish add`")
            keys.make(*TOP_ROLES, publisher, f"{publisher}-lessons")
            put(root / "tracker" / "whitelist.txt", b"")
            tuf.create(root / "metadata", keys, publisher, now)


@contextmanager
def open_repository(root: Path, keys: Keys) -> Iterator[Repository]:
    """The repository in `root`, locked; what an earlier run left half-made is cleared away.

    Raises:
        RepositoryError: there is none, it is not whole, or another publisher works on it.
    """
    if not (root / ".edgeshare").is_dir():
        raise RepositoryError(f"{root} is not a repository", hint="make one with `edgeshare publish init`")
    with _locked(root), _written(root):
        yield Repository(root, keys)


def _withdrawals(before: Edition | None, leaving: Mapping[LessonId, str], number: int) -> tuple[Withdrawal, ...]:
    if before is None:
        return ()
    listed = {item.manifest.id: item for item in before.lessons}
    new = [
        Withdrawal(id=gone, why=why, since=number, lesson=listed[gone])
        for gone, why in leaving.items()
        if gone in listed
    ]
    return (*before.withdrawn, *new)


def _is_same(before: _Catalogue, edition: Edition, manifest: CatalogueManifest) -> bool:
    return (
        before.edition.lessons == edition.lessons
        and before.edition.withdrawn == edition.withdrawn
        and before.manifest.origins == manifest.origins
        and before.manifest.trackers == manifest.trackers
    )


@contextmanager
def _locked(root: Path) -> Iterator[None]:
    try:
        with host.locked(root / ".edgeshare" / "lock"):
            yield
    except host.Locked as error:
        raise RepositoryError(f"another publisher works on {root}", hint="wait until it has finished") from error


@contextmanager
def _written(root: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        hint = "is its disk full, read-only, or another user's?"
        raise RepositoryError(f"the repository {root} cannot be written ({error.strerror})", hint=hint) from error
