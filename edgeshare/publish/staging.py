"""What the next release of a publisher will change: lessons, withdrawals, and withdrawals that are undone."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from itertools import chain

import attrs

from edgeshare.canonical import unpack
from edgeshare.catalogue import Edition, SignedLesson
from edgeshare.errors import EdgeshareError, RepositoryError
from edgeshare.manifest import MAX_MANIFEST, LessonId, SignedFile, lesson_id, read_lesson
from edgeshare.publish.places import Places
from edgeshare.signing import PublicKey


@attrs.frozen
class Staging:
    """The staged files of those lessons whose ids are the publisher's own."""

    places: Places
    is_own: Callable[[LessonId], bool]

    def lessons(self, keys: Mapping[bytes, PublicKey]) -> list[SignedLesson]:
        """The lessons, new or in a new version, signed by one of `keys`.

        Raises:
            RepositoryError: a file is not what was staged.
        """
        found: list[SignedLesson] = []
        for path in self.places.all_staged():
            if not self.is_own(lesson_id(path.stem)):
                continue
            raw = path.read_bytes()
            try:
                found.append(SignedLesson(read_lesson(raw, keys), raw))
            except EdgeshareError as error:
                hint = "remove it, and add the lesson again"
                raise RepositoryError(f"{path} is not what was staged ({error.what})", hint=hint) from error
        return found

    def leaving(self) -> dict[LessonId, str]:
        """The lessons to withdraw, each with the reason."""
        staged = {lesson_id(path.stem): path for path in self.places.all_withdrawals()}
        return {lesson: path.read_text(encoding="utf-8") for lesson, path in staged.items() if self.is_own(lesson)}

    def returning(self, editions: Iterable[Edition]) -> list[LessonId]:
        """The lessons whose withdrawal is to be undone: no edition since has said so."""
        editions = tuple(editions)
        found: list[LessonId] = []
        for lesson in self.places.all_reinstated():
            noted = self.places.reinstated(lesson)
            if noted is not None and self.is_own(lesson) and said_to_return(lesson, editions) <= noted[1]:
                found.append(lesson)
        return found

    def is_empty(self, editions: Iterable[Edition]) -> bool:
        """Whether a release would change nothing."""
        return not self.returning(editions) and not any(self.is_own(lesson) for lesson in all_ids(self.places))


def said_to_return(lesson: LessonId, editions: Iterable[Edition]) -> int:
    """A number that rises each time that editions say anew that a withdrawal of the lesson is undone."""
    return sum(back.since for edition in editions for back in edition.reinstated if back.id == lesson)


def all_ids(places: Places) -> frozenset[LessonId]:
    """The ids that any publisher has staged a lesson or a withdrawal of."""
    return frozenset(lesson_id(path.stem) for path in chain(places.all_staged(), places.all_withdrawals()))


def clear(
    places: Places,
    known: Mapping[LessonId, SignedLesson],
    publishers: Collection[str],
) -> None:
    """Remove what is done with: lessons that are `known` just so, whoever signed them, and those of former publishers.

    So are withdrawals of what is not known any more.
    """
    for path in places.all_staged():
        listed, signed = known.get(LessonId(path.stem)), _signed(path.read_bytes())
        is_done = listed is not None and _signed(listed.raw) == signed
        if is_done or unpack(signed, MAX_MANIFEST, "a manifest").get("publisher") not in publishers:
            path.unlink()
    for path in places.all_withdrawals():
        if path.stem not in known:
            path.unlink()


def _signed(raw: bytes) -> bytes:
    return SignedFile.parse(raw).signed
