"""A repository: lessons are staged, then released together as new editions of their publisher's catalogues.

Nothing that is served changes before a release, and a release shows with one rename, of `timestamp.json`. Killed at any
moment, the repository is the old edition or the new one; the next run clears away what is left of the other. What
cannot be signed completely here becomes a draft (`drafts`), with its files in place and nothing that names them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from functools import partial
from itertools import chain
from pathlib import Path

import attrs
from tuf.api.metadata import Metadata, Targets

from edgeshare.catalogue import Edition, SignedLesson, Withdrawal, newest, withdrawn
from edgeshare.config import nearest
from edgeshare.errors import EdgeshareError, LessonError, ManifestError, RepositoryError, TrustError
from edgeshare.library.content import put
from edgeshare.manifest import (
    CatalogueManifest,
    InfoHash,
    LessonId,
    LessonManifest,
    read_lesson,
)
from edgeshare.publish import metadata as tuf
from edgeshare.publish.content import copy_content
from edgeshare.publish.delegations import check_name, lessons_of, require_publisher
from edgeshare.publish.drafts import Standing, read_drafts
from edgeshare.publish.editions import (
    Catalogue,
    Changes,
    LessonKey,
    NewEdition,
    every,
    is_same,
    next_editions,
)
from edgeshare.publish.folder import LessonFolder, read_folder
from edgeshare.publish.keys import Keys, public_half, signed_file
from edgeshare.publish.linkpage import index_files, page_files
from edgeshare.publish.places import Places
from edgeshare.publish.publication import Publication, sign_of_life
from edgeshare.publish.released import Released, warnings
from edgeshare.publish.staging import Staging, all_ids, said_to_return
from edgeshare.publish.torrent import Torrent, assemble, layout_of, piece_length, tracker_hashes
from edgeshare.signing import PublicKey
from edgeshare.targets import lesson_keys, publishers
from edgeshare.vocabulary import Vocabulary


@attrs.frozen(kw_only=True)
class Staged:
    """What adding a lesson did."""

    manifest: LessonManifest
    is_unchanged: bool  # it was staged, or published, just so
    is_waiting: bool  # the next release publishes it
    warnings: tuple[str, ...]


class Repository:
    """The repository in one folder, locked for this process, for one of its publishers; made by `open_repository`."""

    def __init__(self, root: Path, keys: Keys, publisher: str | None) -> None:
        self._places = Places(root)
        self._keys = keys
        self._publication = Publication(self._places, keys)
        self._publisher = _chosen(publisher, self.standing, keys)
        self._staging = Staging(self._places, lambda lesson: self._owner(lesson) == self._publisher)

    @property
    def publisher(self) -> str:
        """The name before the `/` of its catalogues."""
        return self._publisher

    @property
    def standing(self) -> Standing:
        """The metadata that is published, and what waits for signatures."""
        return self._publication.standing

    @property
    def catalogues(self) -> tuple[CatalogueManifest, ...]:
        """The publisher's editions that are published."""
        return tuple(catalogue.manifest for catalogue in self._own().values())

    @property
    def lessons(self) -> tuple[LessonManifest, ...]:
        """The publisher's lessons that are published, each once."""
        return tuple(signed.manifest for signed in self._known().values())

    @property
    def taken(self) -> frozenset[LessonId]:
        """The ids of all publishers that are published or staged, or were withdrawn."""
        editions = [each.edition for each in (*every(self._publication.catalogues), *every(self._publication.drafted))]
        return frozenset(chain(newest(editions), withdrawn(editions), all_ids(self._places)))

    def lesson_keys_here(self, publisher: str) -> frozenset[bytes]:
        """The ids of the keys for a publisher's manifests that are here and were not revoked."""
        signers = self._keys.signers_of(lessons_of(publisher))
        here = frozenset(public_half(signer.public_key).id for signer in signers)
        return here - publishers(self.standing.targets.signed).revoked_keys

    def lesson_keys_in_use(self, publisher: str) -> frozenset[bytes]:
        """The ids of the keys that a publisher's catalogues name, as they are published or drafted."""
        role = self.standing.publisher(publisher)
        targets = role.signed.targets.values() if role else ()
        return frozenset(key for target in targets for key in lesson_keys(target))

    def is_taken(self, lesson: LessonId) -> bool:
        """Whether the id is published or staged, or was withdrawn."""
        return lesson in self.taken

    def tracker_hashes(self, info_hash: InfoHash) -> tuple[str, str]:
        """What nodes announce a content by, in hex; see `torrent.tracker_hashes`."""
        return tracker_hashes(self._places.torrent(info_hash).read_bytes(), info_hash)

    def add(self, folder: Path, vocabulary: Vocabulary, report: Callable[[int], None] = lambda count: None) -> Staged:
        """Stage the lesson in `folder`, or its next version; the same content and description stage nothing.

        A withdrawal of it that is staged is dropped, with a warning.

        Raises:
            LessonError: the folder cannot be published, or its id is another publisher's.
            RepositoryError: the repository cannot be written.
            TrustError: the key for manifests cannot be used.
        """
        lesson = read_folder(folder, vocabulary)
        wanted = LessonId(lesson.fields["id"])
        self._require_own(wanted)
        published, back = self._known().get(wanted), self._places.reinstated(wanted)
        if (gone := self._gone().get(wanted)) and back is None:
            hint = "publish it under another id, or `edgeshare publish reinstate` it first"
            raise LessonError(f"{gone.id} was withdrawn ({gone.why})", hint=hint)
        key = self._lesson_key("its holder adds lessons; or give --keys the folder that holds it")
        with self._places.written():
            torrent = self._take(lesson, report)
            manifest = lesson.manifest(
                version=published.manifest.version if published else (back[0] if back else 0) + 1,
                publisher=self._publisher,
                info_hash=torrent.info_hash,
                size=torrent.size,
            )
            staged, said = self._places.staged(manifest.id), lesson.warnings
            if self._places.withdrawal(manifest.id).exists():
                self._places.withdrawal(manifest.id).unlink()
                said += (f"the withdrawal of {manifest.id} was staged, and is dropped",)
            if published and manifest == published.manifest:
                staged.unlink(missing_ok=True)  # it was changed, staged, and changed back
                return Staged(manifest=manifest, is_unchanged=True, is_waiting=False, warnings=said)
            if published:
                manifest = attrs.evolve(manifest, version=published.manifest.version + 1)
            if any(waiting.manifest == manifest for waiting in self._staging.lessons(self._readable(key))):
                return Staged(manifest=manifest, is_unchanged=True, is_waiting=True, warnings=said)
            put(staged, _signed(manifest, key))
            return Staged(manifest=manifest, is_unchanged=False, is_waiting=True, warnings=said)

    def withdraw(self, lesson: LessonId, why: str) -> bool:
        """Stage the withdrawal of a published lesson, `why` for its readers; a staged version of it is dropped.

        Returns:
            Whether a release is needed: not for a lesson, or a return, that was only staged.

        Raises:
            RepositoryError: no such lesson is published or staged, or the reason is too long.
            LessonError: it is another publisher's.
        """
        try:
            gone = Withdrawal(id=lesson, why=why, since=1)
            reason = gone.why.encode()
        except ValueError as error:
            raise RepositoryError(str(error), hint="say why in a sentence") from error
        self._require_own(lesson)
        was_staged = self._places.staged(lesson).exists() or self._places.reinstated(lesson) is not None
        with self._places.written():
            self._places.staged(lesson).unlink(missing_ok=True)
            self._places.end_reinstatement(lesson)
            if lesson in self._known():
                put(self._places.withdrawal(lesson), reason)
                return True
            if not was_staged:
                close = nearest(lesson, self._known())
                hint = f"did you mean {close}?" if close else "`edgeshare publish add` prints a lesson's id"
                raise RepositoryError(f"no lesson {lesson} is published here", hint=hint)
            return False

    def reinstate(self, lesson: LessonId) -> bool:
        """Stage the return of a withdrawn lesson: after the next release it may be added again, and nodes take it.

        Also of one that is published here, for nodes that heard of a withdrawal from a thief of the keys.

        Returns:
            Whether it is published here, and need not be added again.

        Raises:
            RepositoryError: it is neither withdrawn nor published.
            LessonError: it is another publisher's.
        """
        self._require_own(lesson)
        known, gone = self._known(), self._gone()
        if lesson not in known and lesson not in gone:
            close = nearest(lesson, [*gone, *known])
            hint = f"did you mean {close}?" if close else "a withdrawal that is only staged, `publish add` takes back"
            raise RepositoryError(f"no lesson {lesson} was withdrawn here", hint=hint)
        editions = self._editions()
        last = [each.lesson for edition in editions for each in edition.withdrawn if each.id == lesson]
        versions = [item.manifest.version for item in (known.get(lesson), *last) if item]
        with self._places.written():
            self._places.reinstate(lesson, max(versions, default=0), said_to_return(lesson, editions))
        return lesson in known

    def release(
        self,
        now: datetime,
        *,
        origins: Sequence[str] | None = None,
        trackers: Sequence[str] | None = None,
        only: LessonId | None = None,
    ) -> Released:
        """Publish everything staged, or `only` one lesson of it; `origins` and `trackers` stay as they were where None.

        Metadata that is past half of its life is renewed, also when nothing is staged. Drafts whose signatures are
        complete are published too; what lacks signatures, or whose snapshot cannot be signed here, is a draft after it.

        Raises:
            RepositoryError: the repository cannot be written, what was staged is not there, or a URL is none.
            TrustError: a key is missing without which nothing of it can be done.
        """
        with self._places.written():
            standing, new = self.standing, list[NewEdition]()
            has_key = tuf.holds(self._keys, lessons_of(self._publisher))
            is_told = origins is not None or trackers is not None
            # The machine of the online keys, or of another publisher, publishes what others have signed.
            is_for_others = bool(self._keys.names()) and bool(
                standing.drafts or self._staging.is_empty(self._editions())
            )
            if has_key or is_told or not is_for_others:
                standing, new = self._with_release(now, origins, trackers, only)
            for role in standing.published.ageing(now):
                if role != "snapshot" and role not in standing.drafts and tuf.holds(self._keys, role):
                    standing = standing.drafted(role, standing.edited(role, now))
            ours = [self._publisher] if has_key else []
            return self._publication.settle(standing, now, new=new, ours=ours)

    def apply(self, standing: Standing, now: datetime) -> Released:
        """Keep the drafts of `standing`, signed as far as the keys here can, and publish what is complete.

        Raises:
            RepositoryError: the repository cannot be written.
            TrustError: a key cannot be used.
        """
        with self._places.written():
            return self._publication.settle(standing, now)

    def _with_release(
        self, now: datetime, origins: Sequence[str] | None, trackers: Sequence[str] | None, only: LessonId | None
    ) -> tuple[Standing, list[NewEdition]]:
        """The same with the publisher's next editions drafted, where they are not yet."""
        name = self._publisher
        key = self._lesson_key(
            "its holder runs `edgeshare publish release` first; or give --keys the folder that holds it"
        )
        staged = self._staging.lessons(self._readable(key))
        leaving, returning = self._staging.leaving(), self._staging.returning(self._editions())
        if only is not None:
            staged = [item for item in staged if item.manifest.id == only]
            leaving = {lesson: why for lesson, why in leaving.items() if lesson == only}
            returning = [lesson for lesson in returning if lesson == only]
        for item in staged:
            self._publication.require_whole(item)
        own, drafted = self._own(), self._publication.drafted.get(name, {})
        last = next(iter((drafted or own).values()), None)
        changes = Changes(
            staged=staged,
            leaving=leaving,
            returning=returning,
            origins=tuple(origins) if origins is not None else last.manifest.origins if last else (),
            trackers=tuple(trackers) if trackers is not None else last.manifest.trackers if last else (),
        )
        new = next_editions(own, changes, key, now)
        wanted = {**own} | {each.catalogue.manifest.name: each.catalogue for each in new}
        if name in self.standing.drafts:
            if wanted.keys() == drafted.keys() and all(is_same(wanted[each], drafted[each]) for each in wanted):
                return self.standing, []
        elif not new:
            return self.standing, []
        role: Metadata[Targets] = self.standing.edited(name, now)
        role.signed.targets = {each.target.path: each.target for each in wanted.values()}
        return self.standing.drafted(name, role), new

    def _own(self) -> Mapping[str, Catalogue]:
        return self._publication.catalogues.get(self._publisher, {})

    def _editions(self) -> list[Edition]:
        return [catalogue.edition for catalogue in self._own().values()]

    def _known(self) -> dict[LessonId, SignedLesson]:
        return newest(self._editions())

    def _gone(self) -> dict[LessonId, Withdrawal]:
        return withdrawn(self._editions())

    def _lesson_key(self, hint: str) -> LessonKey:
        """The publisher's key for manifests: the last that was made, of those that were not revoked.

        The `hint` is for who does not have it.
        """
        name = lessons_of(self._publisher)
        signers = self._keys.signers_of(name)
        if not signers:
            raise TrustError(f"no key of {name} is here", hint=hint)
        revoked = publishers(self.standing.targets.signed).revoked_keys
        for signer in reversed(signers):
            public = public_half(signer.public_key)
            if public.id not in revoked:
                return LessonKey(public, partial(signed_file, signer=signer))
        what = f"the key here for the manifests of {self._publisher} was revoked"
        raise TrustError(what, hint=f"make another with `edgeshare publish keys rotate` and {name}")

    def _readable(self, key: LessonKey) -> dict[bytes, PublicKey]:
        """The keys that staged manifests may be signed by: `key`, and those that were vouched for before."""
        keys = {key.public.id: key.public}
        for catalogue in (*self._own().values(), *self._publication.drafted.get(self._publisher, {}).values()):
            keys |= lesson_keys(catalogue.target)
        return keys

    def _owner(self, lesson: LessonId) -> str | None:
        return publishers(self.standing.targets.signed).owner(lesson)

    def _require_own(self, lesson: LessonId) -> None:
        owner = self._owner(lesson)
        if owner == self._publisher:
            return
        prefix = publishers(self.standing.targets.signed).delegations[self._publisher].prefix
        whose = f"is an id of {owner}" if owner else "is nobody's id"
        hint = f"the ids of {self._publisher} begin with {prefix}" if prefix else f"name --publisher {owner}"
        raise LessonError(f"{lesson} {whose}, not of {self._publisher}", hint=hint)

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


def create_repository(
    root: Path,
    keys: Keys,
    publisher: str,
    now: datetime,
    *,
    offline_keys: int = 1,
    threshold: int = 1,
    passphrase: str | None = None,
) -> tuple[str, ...]:
    """Make an empty repository, and those keys that are not there yet, encrypted when there is a passphrase.

    Root and targets get `offline_keys` keys each, of which `threshold` have to sign.

    Returns:
        The names of the keys that were there already, and are the repository's now.

    Raises:
        RepositoryError: there is one already, or the folder cannot be written.
        TrustError: the keys cannot be made, or would lie in the repository.
    """
    check_name(publisher)
    if not 1 <= threshold <= offline_keys <= tuf.MAX_KEYS:
        what = f"a threshold of {threshold} with {offline_keys} keys cannot be"
        raise RepositoryError(what, hint=f"have 1 to {tuf.MAX_KEYS} keys, and a threshold of as many at most")
    _refuse_keys_inside(root, keys)
    places = Places(root)
    with places.written():
        places.prepare()
    with places.locked():
        if (places.metadata / "timestamp.json").exists():
            raise RepositoryError(f"{root} is a repository already", hint="add lessons to it with `publish add`")
        offline = [name for role in ("root", "targets") for name in tuf.numbered(role, offline_keys)]
        names = (*offline, "snapshot", "timestamp", publisher, lessons_of(publisher))
        present = keys.make(*names, passphrase=passphrase)
        places.create()
        places.put_links(page_files() | index_files(()))
        tuf.create(places.metadata, keys, publisher, now, offline_keys=offline_keys, threshold=threshold)
    return present


@contextmanager
def open_repository(root: Path, keys: Keys, publisher: str | None = None) -> Iterator[Repository]:
    """The repository in `root`, locked; what an earlier run left half-made is cleared away.

    It is opened for `publisher`: for the only one whose keys are here when that is None, else for the first.

    Raises:
        RepositoryError: there is none, it is not whole, or another process works on it; or it has no such publisher.
        TrustError: the keys lie in the repository.
    """
    with _opened(root, keys):
        yield Repository(root, keys, publisher)


def refresh_repository(root: Path, keys: Keys, now: datetime) -> Released:
    """Renew the timestamp of the repository in `root`; only the key for timestamps is needed.

    Where the key for snapshots is too, drafts that are complete are published, and an old snapshot is renewed.

    Raises:
        RepositoryError: there is none, it cannot be written, or another process works on it.
        TrustError: the key cannot be used, or the keys lie in the repository.
    """
    places = Places(root)
    with _opened(root, keys), places.written():
        published = tuf.read(places.metadata)
        if tuf.holds(keys, "snapshot") and (any(places.signing.glob("*.json")) or published.needs_snapshot(now)):
            try:
                return Publication(places, keys).refresh(now)
            except RepositoryError:  # what is wrong with a draft is no reason to let the timestamp expire
                sign_of_life(places, tuf.read(places.metadata), keys, now)
                raise
        alive = sign_of_life(places, published, keys, now)
        return Released(warnings=warnings(alive, now), expires=alive.expires)


def read_standing(root: Path) -> Standing:
    """The metadata that is published in the repository in `root`, and what waits for signatures; needs no key.

    Raises:
        RepositoryError: there is no repository, or it is not whole.
    """
    places = Places(root)
    return read_drafts(places.signing, tuf.read(places.metadata))


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


def _chosen(wanted: str | None, standing: Standing, keys: Keys) -> str:
    names = [*tuf.delegations(standing.published.targets), *tuf.delegations(standing.targets)]
    if wanted is None:
        held = [name for name in dict.fromkeys(names) if tuf.holds(keys, name) or tuf.holds(keys, lessons_of(name))]
        return held[0] if len(held) == 1 else names[0]
    if wanted not in names:
        require_publisher(standing, wanted)
    return wanted


def _signed(manifest: LessonManifest, key: LessonKey) -> bytes:
    """The manifest's file, read once as a node reads it: what nodes refuse is refused here."""
    raw = key.sign(manifest)
    try:
        read_lesson(raw, {key.public.id: key.public})
    except EdgeshareError as error:
        raise LessonError(f"nodes would refuse this lesson, {error.what}", hint="shorten its texts") from error
    return raw
