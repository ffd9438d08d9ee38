from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import attrs

from edgeshare.listing import Listing
from edgeshare.manifest import LessonManifest, structure
from tests.core.samples import LESSON

NOON = datetime(2026, 11, 24, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)


def lesson(name: str, **fields: Any) -> LessonManifest:
    usual = {key: value for key, value in LESSON.items() if key not in ("available_from", "needed_at", "expires")}
    return attrs.evolve(structure(usual | {"id": name, "title": name}, LessonManifest), **fields)


def names(listing: Listing, now: datetime = NOON, believed: datetime | None = None) -> list[str]:
    return [each.id for each in listing.at(now, believed or now)]


def of(*lessons: LessonManifest, kept: str = "") -> Listing:
    return Listing(lessons, lambda manifest: manifest.id == kept)


def test_lessons_stand_by_level_subject_and_title() -> None:
    one, two = ("5e",), ("6e",)
    arts, maths = ("arts-plastiques",), ("mathematiques",)
    lessons = [
        lesson("d", levels=two, subjects=maths),
        lesson("c", levels=two, subjects=maths),
        lesson("b", levels=two, subjects=arts),
        lesson("a", levels=one, subjects=maths),
    ]
    assert names(of(*lessons)) == ["a", "b", "c", "d"]


def test_a_lesson_is_shown_from_its_moment_on_and_not_when_the_clock_is_set_back() -> None:
    listing = of(lesson("a", available_from=NOON))
    assert names(listing, NOON - HOUR) == []
    assert names(listing, NOON) == ["a"]
    assert names(listing, NOON - HOUR) == []


def test_a_lesson_that_has_expired_is_not_shown_unless_it_is_kept() -> None:
    lessons = lesson("a", expires=NOON), lesson("b", expires=NOON)
    assert names(of(*lessons), NOON - HOUR) == ["a", "b"]
    assert names(of(*lessons), NOON) == []
    assert names(of(*lessons, kept="b"), NOON) == ["b"]


def test_by_a_clock_that_nobody_believes_nothing_expires() -> None:
    assert names(of(lesson("a", expires=NOON)), NOON + HOUR, believed=NOON - HOUR) == ["a"]


def test_a_rehearsal_is_never_shown() -> None:
    rehearsal = lesson("a", fetch_from=NOON - HOUR, expires=NOON - HOUR, available_from=NOON)
    assert names(of(rehearsal), NOON, believed=NOON - 2 * HOUR) == []


def test_as_long_as_the_lessons_are_the_same_so_is_the_tuple() -> None:
    listing = of(lesson("a", available_from=NOON), lesson("b"))
    assert listing.at(NOON, NOON) is listing.at(NOON + HOUR, NOON + HOUR)
    assert listing.at(NOON, NOON) is not listing.at(NOON - HOUR, NOON - HOUR)
