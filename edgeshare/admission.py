"""What a node admits, lists and takes back: editions, publishers and what it remembers, weighed without any I/O.

Rules:
- A publisher's word counts for its own ids (`publishers.Publishers.owns`). Until the node has heard who the publishers
  are, every catalogue that it follows counts for every id.
- Numbers of editions, and of a lesson's versions, only rise, as long as the publisher's keys stay the same (its epoch).
  One version is one thing for ever: it may be signed by other keys, and nothing else in it may change.
- A withdrawal is remembered until its catalogue reinstates the lesson in a later edition, or the publisher that the id
  was given to does. That an edition is silent about it changes nothing.
- What only a revoked publisher or a revoked key vouched for is taken back, until an edition lists it in good order.
- What nobody lists any more, or a publisher that is no longer named, was not taken back: it stays readable.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping

import attrs

from edgeshare.catalogue import Edition, Reinstatement, SignedLesson
from edgeshare.errors import EdgeshareError, TrustError
from edgeshare.manifest import (
    CatalogueManifest,
    LessonId,
    LessonManifest,
    read_catalogue,
    read_lesson,
    shown,
    signed_part,
)
from edgeshare.publishers import Publishers
from edgeshare.signing import PublicKey

KEY_REVOKED = "the key that signed it was revoked"


@attrs.frozen(kw_only=True)
class Admitted:
    """A catalogue's edition that this node stands on."""

    manifest: CatalogueManifest
    edition: Edition
    keys: Mapping[bytes, PublicKey]  # that the repository vouched for, by id
    epoch: str | None = None  # of its publisher when it was admitted; None: not known then
    trouble: str | None = None  # what its publisher has to mend, in one line


@attrs.frozen
class Backed:
    """A lesson's manifest, and what speaks for it."""

    lesson: SignedLesson
    keys: Mapping[bytes, PublicKey]  # at least one of them signed it
    epoch: str | None  # of its publisher; None: not known

    @property
    def manifest(self) -> LessonManifest:
        return self.lesson.manifest


@attrs.frozen(kw_only=True)
class Gone:
    """A lesson that this node must not list, serve or keep, and by whose word."""

    id: LessonId
    by: str  # the catalogue that withdrew it, or the publisher that was revoked, or a key of which was
    why: str
    since: int = 0  # the edition that withdrew it; 0 for a revocation
    epoch: str | None = None  # of the publisher at that time
    lesson: LessonManifest | None = None  # to name it to readers

    @property
    def is_revocation(self) -> bool:
        """Whether it ends as soon as somebody lists the lesson in good order."""
        return "/" not in self.by


@attrs.frozen(kw_only=True)
class Version:
    """The version of a lesson that was admitted last."""

    number: int
    digest: bytes  # SHA-256 of what was signed
    publisher: str
    epoch: str | None


@attrs.frozen(kw_only=True)
class Memory:
    """All that a node stands on. It is kept in the index; every step of admission makes another of it."""

    admitted: Mapping[str, Admitted] = attrs.field(factory=dict)  # by the catalogue's name
    publishers: Publishers | None = None  # None: not heard of yet
    gone: Mapping[tuple[LessonId, str], Gone] = attrs.field(factory=dict)  # by id, and by whose word
    versions: Mapping[LessonId, Version] = attrs.field(factory=dict)

    def epoch(self, publisher: str) -> str | None:
        """The publisher's epoch now; None when it is not known."""
        delegation = self.publishers.delegations.get(publisher) if self.publishers else None
        return delegation.epoch if delegation else None

    def is_named(self, publisher: str) -> bool:
        """Whether the repository names it as a publisher now."""
        return self.publishers is not None and publisher in self.publishers.delegations

    def owns(self, publisher: str, lesson: LessonId) -> bool:
        """Whether the publisher's word counts for this id."""
        return self.publishers is None or self.publishers.owns(publisher, lesson)

    def usable(self, keys: Mapping[bytes, PublicKey]) -> dict[bytes, PublicKey]:
        """The keys without the revoked ones."""
        return self.publishers.usable(keys) if self.publishers else dict(keys)


@attrs.frozen(kw_only=True)
class Weighed:
    """What came of one step."""

    memory: Memory
    lines: tuple[str, ...] = ()  # what was left out, ignored or taken back, each with the reason
    troubles: tuple[str, ...] = ()  # likewise; these a publisher has to mend
    fallen: frozenset[LessonId] = frozenset()  # for whose served version nothing speaks any more


@attrs.frozen(kw_only=True)
class Changes:
    """What the index has to change for a step, all of it or nothing."""

    forgotten: frozenset[str] = frozenset()  # catalogues
    publishers: Publishers | None = None  # None: as before
    gone: tuple[Gone, ...] = ()  # new, or in place of what was known by the same id and word
    back: tuple[tuple[LessonId, str], ...] = ()  # no longer gone by this word
    versions: Mapping[LessonId, Version] = attrs.field(factory=dict)


def publisher_of(catalogue: str) -> str:
    """Whose a catalogue is."""
    return catalogue.partition("/")[0]


def check_next(memory: Memory, manifest: CatalogueManifest, raw: bytes, keys: Mapping[bytes, PublicKey]) -> None:
    """Refuse an edition that may not follow what was admitted; the very one that was admitted may.

    `raw` is its manifest's file, signed by one of `keys`.

    Raises:
        TrustError: its publisher may not publish, a revoked key signed it, or it is not newer, and other.
    """
    publisher = publisher_of(manifest.name)
    if memory.publishers and publisher not in memory.publishers.delegations:
        why = memory.publishers.revoked.get(publisher)
        what = f"{publisher} is no publisher here any more" if why is None else f"{publisher} was revoked, {shown(why)}"
        hint = "it counts again when the repository's owner delegates to it anew"
        raise TrustError(f"{manifest.name} is not taken: {what}", hint=hint)
    if len(usable := memory.usable(keys)) < len(keys):
        try:
            read_catalogue(raw, usable)
        except TrustError as error:
            what = f"edition {manifest.edition} of {manifest.name} is signed by a revoked key alone"
            raise TrustError(what, hint="its publisher has to release it anew") from error
    before = memory.admitted.get(manifest.name)
    if before is None or before.manifest == manifest:
        return
    if before.manifest.edition >= manifest.edition and _is_same(before.epoch, memory.epoch(publisher)):
        ours = f"edition {before.manifest.edition} was admitted here"
        hint = "its publisher may have gone back to a backup: it has to release a higher edition"
        what = f"the origin offers another edition {manifest.edition} of {manifest.name}, and {ours}"
        raise TrustError(what, hint=hint)


def weigh(memory: Memory, admitted: Admitted) -> Weighed:
    """Stand on an edition, in place of the one before: one that `check_next` let pass, now or in an earlier run.

    Its lessons were read with `Memory.usable` keys.
    """
    edition = admitted.edition
    publisher, said = publisher_of(edition.name), f"{edition.name}, edition {edition.number}"
    gone, lines = _gone(memory, admitted)
    withdrawn_ids = {each.id for each in gone.values() if not each.is_revocation}
    is_current = _is_current(memory, admitted)
    lessons: list[SignedLesson] = []
    versions = dict(memory.versions)
    troubles: list[str] = []
    for lesson in edition.lessons:
        name, version = lesson.manifest.id, _version(lesson, admitted.epoch)
        known = versions.get(name)
        if known and (known.publisher != publisher or not _is_same(known.epoch, version.epoch)):
            known = None  # by other keys: nothing to compare with
        if not memory.owns(publisher, name):
            lines.append(f"{said}: {name} is not an id of {publisher}")
        elif known and version.number < known.number:
            lines.append(f"{said}: version {version.number} of {name} is older than {known.number}, known here")
            continue
        elif known and version.number == known.number and version.digest != known.digest:
            troubles.append(
                f"{said}: version {version.number} of {name} is another than was admitted here before; its publisher "
                f"has to find out who signed both, and to release it as version {version.number + 1}"
            )
            continue
        elif is_current or name not in versions:
            versions[name] = version
        if name in withdrawn_ids:
            lines.append(f"{said}: {name} was withdrawn, and is not reinstated")
        lessons.append(lesson)
    stands = attrs.evolve(
        admitted,
        edition=attrs.evolve(edition, lessons=tuple(lessons)),
        trouble=troubles[0] if troubles else None,
    )
    after = attrs.evolve(memory, admitted={**memory.admitted, edition.name: stands}, gone=gone, versions=versions)
    return Weighed(memory=_without_void(after), lines=(*edition.refused, *lines), troubles=tuple(troubles))


def heed(memory: Memory, publishers: Publishers, served: Iterable[Backed]) -> Weighed:
    """Stand on what the newest metadata says of publishers; `served` are the lessons that are complete here.

    The editions of a revoked publisher are forgotten, as those of one that is no longer named are not.
    """
    lines: list[str] = []
    admitted: dict[str, Admitted] = {}
    after = attrs.evolve(memory, publishers=publishers)
    for name, each in memory.admitted.items():
        if (why := _why_revoked(publishers, publisher_of(name), each.epoch)) is not None:
            lines.append(f"{name} is forgotten: its publisher was revoked, {shown(why)}")
        else:
            admitted[name] = _without_revoked(after, each)
    after = _without_void(attrs.evolve(after, admitted=admitted))
    listed_after = listed(after, admitted)
    here = {backed.manifest.id: backed for backed in served}
    fallen = frozenset(name for name, backed in here.items() if revocation(publishers, backed) is not None)
    gone = {key: each for key, each in after.gone.items() if not _was_nobodys_to_say(after, each)}
    taken: Counter[tuple[str, str]] = Counter()
    for name, backed in {**here, **listed(memory, memory.admitted)}.items():
        why = revocation(publishers, backed)
        is_served_by_another = name in here and name not in fallen
        if why is not None and name not in listed_after and not is_served_by_another:
            by = backed.manifest.publisher
            gone[name, by] = Gone(id=name, by=by, why=why, lesson=backed.manifest)
            taken[by, why] += 1
    lines += [f"lessons of {by} that are taken back: {count}; {shown(why)}" for (by, why), count in taken.items()]
    return Weighed(memory=attrs.evolve(after, gone=gone), lines=tuple(lines), fallen=fallen)


def changes(before: Memory, after: Memory) -> Changes:
    """What makes `after` of `before`; the edition that came in between is kept beside it."""
    return Changes(
        forgotten=frozenset(before.admitted.keys() - after.admitted.keys()),
        publishers=after.publishers if after.publishers != before.publishers else None,
        gone=tuple(gone for key, gone in after.gone.items() if before.gone.get(key) != gone),
        back=tuple(before.gone.keys() - after.gone.keys()),
        versions={name: each for name, each in after.versions.items() if before.versions.get(name) != each},
    )


def revocation(publishers: Publishers, backed: Backed) -> str | None:
    """Why what speaks for a lesson does so no more; None when it still does."""
    why = _why_revoked(publishers, backed.manifest.publisher, backed.epoch)
    if why is None and not _is_signed(backed.lesson, backed.keys, publishers):
        return KEY_REVOKED
    return why


def listed(
    memory: Memory, catalogues: Iterable[str], before: Mapping[LessonId, Backed] | None = None
) -> dict[LessonId, Backed]:
    """The lessons of several catalogues, each once, in its highest version; what any catalogue withdrew is left out.

    What stood like this `before` is the same object: to make, and to let go of, 50,000 others takes its time.
    """
    before = before or {}
    withdrawn_ids = {gone.id for gone in memory.gone.values() if not gone.is_revocation}
    found: dict[LessonId, Backed] = {}
    for name in catalogues:
        if (admitted := memory.admitted.get(name)) is None:
            continue
        publisher, is_current = publisher_of(name), _is_current(memory, admitted)
        for lesson in admitted.edition.lessons:
            manifest = lesson.manifest
            if manifest.id in withdrawn_ids or not memory.owns(publisher, manifest.id):
                continue
            known = memory.versions.get(manifest.id)
            if not is_current and known and not _is_same(known.epoch, admitted.epoch):
                continue  # since the publisher's keys are others, another of its catalogues has said anew what it is
            other = found.get(manifest.id)
            if other is None or other.manifest.version < manifest.version:
                old = before.get(manifest.id)
                if old and (old.lesson is lesson and old.keys is admitted.keys and old.epoch == admitted.epoch):
                    found[manifest.id] = old
                else:
                    found[manifest.id] = Backed(lesson, admitted.keys, admitted.epoch)
    return found


def withdrawn(memory: Memory) -> dict[LessonId, Gone]:
    """What must not be listed, served or kept; of several reasons a publisher's own, and one that names the lesson."""
    found: dict[LessonId, Gone] = {}
    for gone in sorted(memory.gone.values(), key=lambda gone: (gone.is_revocation, gone.lesson is None, gone.by)):
        found.setdefault(gone.id, gone)
    return found


def _gone(memory: Memory, admitted: Admitted) -> tuple[dict[tuple[LessonId, str], Gone], list[str]]:
    """What is gone with an edition, and what it says of ids that are not its publisher's."""
    edition = admitted.edition
    publisher, said = publisher_of(edition.name), f"{edition.name}, edition {edition.number}"
    before = memory.admitted.get(edition.name)
    last = {lesson.manifest.id: lesson for lesson in before.edition.lessons} if before else {}
    returning = {back.id: back for back in edition.reinstated if memory.owns(publisher, back.id)}
    gone = {
        key: old
        for key, old in memory.gone.items()
        if old.id not in returning or not _ends(memory, old, returning[old.id], admitted)
    }
    lines = [
        f"{said}: it reinstates {back.id}, which is not an id of {publisher}"
        for back in edition.reinstated
        if back.id not in returning
    ]
    for each in edition.withdrawn:  # after: who does both withdraws
        if memory.owns(publisher, each.id):
            known = gone.get((each.id, edition.name))
            named = each.lesson or last.get(each.id)
            lesson = named.manifest if named else known.lesson if known else None
            gone[each.id, edition.name] = Gone(
                id=each.id, by=edition.name, why=each.why, since=each.since, epoch=admitted.epoch, lesson=lesson
            )
        else:
            lines.append(f"{said}: it withdraws {each.id}, which is not an id of {publisher}")
    return gone, lines


def _ends(memory: Memory, gone: Gone, back: Reinstatement, admitted: Admitted) -> bool:
    """Whether a reinstatement by who owns the id ends a withdrawal.

    Only numbers of one catalogue, in one epoch, can be compared. That another catalogue of the publisher still lists an
    old reinstatement must not undo a withdrawal that came later.
    """
    if not memory.owns(publisher_of(gone.by), gone.id):
        return True  # the id was given to another publisher
    is_earlier = gone.since < back.since or not _is_same(gone.epoch, admitted.epoch)
    return gone.by == admitted.edition.name and is_earlier


def _was_nobodys_to_say(memory: Memory, gone: Gone) -> bool:
    """Whether an id was withdrawn before the node had heard whose it is, by a publisher whose it is not."""
    publisher = publisher_of(gone.by)
    is_unjudged = not gone.is_revocation and gone.epoch is None and memory.is_named(publisher)
    return is_unjudged and not memory.owns(publisher, gone.id)


def _without_void(memory: Memory) -> Memory:
    """Without the revocations of what is listed in good order."""
    if not any(gone.is_revocation for gone in memory.gone.values()):
        return memory
    good = listed(memory, memory.admitted)
    gone = {key: each for key, each in memory.gone.items() if not (each.is_revocation and each.id in good)}
    return attrs.evolve(memory, gone=gone)


def _without_revoked(memory: Memory, admitted: Admitted) -> Admitted:
    """An edition without the lessons that only a revoked key signed."""
    assert memory.publishers is not None
    publishers, edition = memory.publishers, admitted.edition
    lessons = tuple(each for each in edition.lessons if _is_signed(each, admitted.keys, publishers))
    if len(lessons) == len(edition.lessons):
        return admitted
    trouble = f"{edition.name}: lessons are signed by a revoked key alone; its publisher has to sign them anew"
    return attrs.evolve(admitted, edition=attrs.evolve(edition, lessons=lessons), trouble=trouble)


def _is_signed(lesson: SignedLesson, keys: Mapping[bytes, PublicKey], publishers: Publishers) -> bool:
    """Whether one of the keys that vouched for a lesson, and is not revoked, signed it."""
    if publishers.revoked_keys.isdisjoint(keys):
        return True  # it was checked when it came
    try:
        read_lesson(lesson.raw, publishers.usable(keys))
    except EdgeshareError:
        return False
    return True


def _why_revoked(publishers: Publishers, publisher: str, epoch: str | None) -> str | None:
    """Why a publisher was revoked after it said something in `epoch`; None when it was not."""
    delegation = publishers.delegations.get(publisher)
    if delegation and delegation.epoch == epoch:
        return None
    return publishers.revoked.get(publisher)


def _version(lesson: SignedLesson, epoch: str | None) -> Version:
    manifest = lesson.manifest
    digest = hashlib.sha256(signed_part(lesson.raw)).digest()
    return Version(number=manifest.version, digest=digest, publisher=manifest.publisher, epoch=epoch)


def _is_current(memory: Memory, admitted: Admitted) -> bool:
    """Whether the publisher's keys are those that it had when the edition was admitted."""
    return _is_same(admitted.epoch, memory.epoch(publisher_of(admitted.edition.name)))


def _is_same(epoch: str | None, other: str | None) -> bool:
    """Whether two epochs are one, as far as is known."""
    return epoch is None or other is None or epoch == other
