"""An edition of a catalogue: the signed manifests of its lessons, what is withdrawn, and what came back.

The content of a catalogue is one msgpack file, itself a lesson in the swarm. Each lesson is locked twice: the file is
committed to by the catalogue's signed manifest, and each manifest in it carries its own signature.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping

import attrs
import msgpack

from edgeshare.canonical import pack, unpack
from edgeshare.errors import EdgeshareError, ManifestError
from edgeshare.manifest import (
    LessonId,
    LessonManifest,
    check_text,
    lesson_id,
    read_lesson,
    read_lessons,
    recall_lesson,
    shown,
)
from edgeshare.signing import PublicKey

FILE_NAME = "catalogue.msgpack"
FORMAT = "edgeshare-edition/1"
MAX_CONTENT = 64 * 2**20  # bytes: 50,000 lessons of 1 kB, with room
MAX_LESSONS = 65_536  # the longest list that `manifest.unpack` reads


@attrs.frozen
class SignedLesson:
    """A lesson's manifest with the very bytes that were signed."""

    manifest: LessonManifest
    raw: bytes  # the manifest file


@attrs.frozen(kw_only=True)
class Withdrawal:
    """A lesson that nodes must no longer serve, seed or keep."""

    id: LessonId
    why: str = attrs.field()  # for readers
    since: int  # the edition that withdrew it
    # as this catalogue listed it last, to name it to readers; None when it did not, or when it cannot be read
    lesson: SignedLesson | None = None

    @why.validator
    def _check_why(self, _: attrs.Attribute[str], value: str) -> None:
        check_text("the reason of a withdrawal", value, 1, 500)


@attrs.frozen(kw_only=True)
class Reinstatement:
    """A lesson that was withdrawn, and may be served again."""

    id: LessonId
    since: int  # the edition that said so first


@attrs.frozen(kw_only=True)
class Edition:
    """What one edition of a catalogue lists."""

    name: str  # `publisher/level`
    number: int
    lessons: tuple[SignedLesson, ...]  # by id
    withdrawn: tuple[Withdrawal, ...]  # by id
    reinstated: tuple[Reinstatement, ...] = ()  # by id; nothing else undoes a withdrawal
    refused: tuple[str, ...] = ()  # one line for each entry that was not admitted


def encode_edition(edition: Edition) -> bytes:
    """The content file of `edition`."""
    fields: dict[str, object] = {
        "format": FORMAT,
        "name": edition.name,
        "edition": edition.number,
        "lessons": [lesson.raw for lesson in sorted(edition.lessons, key=lambda lesson: lesson.manifest.id)],
        "withdrawn": [
            {
                "id": gone.id,
                "why": gone.why,
                "since": gone.since,
                "manifest": gone.lesson.raw if gone.lesson else b"",
            }
            for gone in sorted(edition.withdrawn, key=lambda gone: gone.id)
        ],
    }
    if edition.reinstated:
        back = sorted(edition.reinstated, key=lambda back: back.id)
        fields["reinstated"] = [{"id": each.id, "since": each.since} for each in back]
    return pack(fields)


def read_edition(
    raw: bytes,
    name: str,
    number: int,
    keys: Mapping[bytes, PublicKey],
    known: Mapping[bytes, SignedLesson] | None = None,
) -> Edition:
    """The edition `number` of catalogue `name` in a content file's bytes.

    A lesson that cannot be admitted is left out and named in `refused`; the others stand. What was read in another
    edition of this catalogue, with these very keys, is `known` by its bytes: most of a new one, in a tenth of the time.

    Raises:
        ManifestError: the file as a whole is not that edition.
    """
    whole = unpack(raw, MAX_CONTENT, "the catalogue")
    match whole:
        case {"format": str(form), "name": str(), "edition": int(), "lessons": list(listed), "withdrawn": list(gone)}:
            pass
        case _:
            raise ManifestError(f"these bytes are not an edition of {name}")
    if form != FORMAT:
        raise ManifestError(f"the catalogue {name} has the format {shown(form)}", hint="a newer edgeshare reads it")
    if (whole["name"], whole["edition"]) != (name, number) or isinstance(whole["edition"], bool):
        raise ManifestError(f"the content of {name}, edition {number}, says that it is something else")
    back = whole.get("reinstated", [])
    if not isinstance(back, list):
        raise ManifestError(f"{name} has a list of reinstated lessons that is none")
    refused: list[str] = []
    lessons: dict[LessonId, SignedLesson] = {}
    before = [known.get(entry) if known and isinstance(entry, bytes) else None for entry in listed]
    new = iter(read_lessons([entry for entry, old in zip(listed, before, strict=True) if old is None], keys))
    for place, (entry, old) in enumerate(zip(listed, before, strict=True)):
        try:
            lesson = old or _admit(entry, next(new), name)
        except EdgeshareError as error:
            refused.append(f"{name}, edition {number}, entry {place}: {error}")
            continue
        if lesson.manifest.id in lessons:
            refused.append(f"{name}, edition {number}: {lesson.manifest.id} stands twice")
            continue
        lessons[lesson.manifest.id] = lesson
    return Edition(
        name=name,
        number=number,
        lessons=tuple(lessons.values()),
        withdrawn=tuple(_withdrawal(entry, name, number, keys) for entry in gone),
        reinstated=tuple(_reinstatement(entry, name, number) for entry in back),
        refused=tuple(refused),
    )


def recall_edition(raw: bytes, name: str, number: int, keys: Mapping[bytes, PublicKey]) -> Edition:
    """The edition in a content file's bytes that `read_edition` has read before, with these very keys, and refused
    nothing in it. Its lessons are not checked again (`manifest.recall_lesson`).

    Raises:
        ManifestError: it is another edition.
    """
    whole = msgpack.unpackb(raw)
    if (whole["name"], whole["edition"]) != (name, number):
        raise ManifestError(f"the content of {name}, edition {number}, says that it is something else")
    return Edition(
        name=name,
        number=number,
        lessons=tuple(SignedLesson(recall_lesson(entry), entry) for entry in whole["lessons"]),
        withdrawn=tuple(_withdrawal(entry, name, number, keys) for entry in whole["withdrawn"]),
        reinstated=tuple(_reinstatement(entry, name, number) for entry in whole.get("reinstated", [])),
    )


def newest(editions: Iterable[Edition]) -> dict[LessonId, SignedLesson]:
    """The lessons of several catalogues, each once, in its highest version; what any of them withdrew is left out."""
    found: dict[LessonId, SignedLesson] = {}
    editions = tuple(editions)
    gone = withdrawn(editions)
    for edition in editions:
        for lesson in edition.lessons:
            other = found.get(lesson.manifest.id)
            if lesson.manifest.id not in gone and (other is None or other.manifest.version < lesson.manifest.version):
                found[lesson.manifest.id] = lesson
    return found


def withdrawn(editions: Iterable[Edition]) -> dict[LessonId, Withdrawal]:
    """What any of the editions withdrew, with the lesson's manifest where one of them has it."""
    found: dict[LessonId, Withdrawal] = {}
    for edition in editions:
        for gone in edition.withdrawn:
            if gone.id not in found or found[gone.id].lesson is None:
                found[gone.id] = gone
    return found


def _admit(entry: bytes, found: LessonManifest | EdgeshareError, name: str) -> SignedLesson:
    if isinstance(found, EdgeshareError):
        raise found
    if name not in found.catalogues:
        raise ManifestError(f"{found.id} does not belong into this catalogue")
    return SignedLesson(found, entry)


def _withdrawal(entry: object, name: str, number: int, keys: Mapping[bytes, PublicKey]) -> Withdrawal:
    match entry:
        case {"id": str(gone), "why": str(why), "since": int(since), "manifest": bytes(raw)} if (
            type(since) is int and 1 <= since <= number
        ):
            lesson = None
            with contextlib.suppress(EdgeshareError):  # what is withdrawn stays withdrawn, named or not
                lesson = _admit(raw, read_lesson(raw, keys), name)
            if lesson and lesson.manifest.id != gone:
                lesson = None  # it would name another to readers
            try:
                return Withdrawal(id=lesson_id(gone), why=why, since=since, lesson=lesson)
            except ValueError as error:
                raise ManifestError(f"{name}: {error}") from error
        case _:
            raise ManifestError(f"{name} has a withdrawal that is none")


def _reinstatement(entry: object, name: str, number: int) -> Reinstatement:
    match entry:
        case {"id": str(back), "since": int(since)} if type(since) is int and 1 <= since <= number:
            try:
                return Reinstatement(id=lesson_id(back), since=since)
            except ManifestError as error:
                raise ManifestError(f"{name}: {error}") from error
        case _:
            raise ManifestError(f"{name} has a reinstatement that is none")
