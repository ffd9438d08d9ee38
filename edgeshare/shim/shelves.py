"""Which lessons the catalogue page shows, and in which order. Pure.

Lessons stand by level, then by subject, each under every level that it names. A search forgives accents and case, and
finds a lesson that has all the words somewhere in its title, description, levels or subjects.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Sequence
from datetime import date, timedelta
from typing import Self
from urllib.parse import parse_qs

import attrs

from edgeshare.view import LessonView
from edgeshare.vocabulary import Vocabulary

MOST_SHOWN = 200  # lessons on one page: some 150 kB, and a second for an old PC to lay out
_LAST = 10**6  # where levels without a rank stand


@attrs.frozen(kw_only=True)
class Wish:
    """What a reader looks for; empty text is no wish."""

    level: str = ""
    subject: str = ""
    search: str = ""
    role: str = "learner"

    @classmethod
    def parse(cls, query: str) -> Self:
        """The wish in a URL's query; what cannot be read is no wish."""
        try:
            fields = parse_qs(query, max_num_fields=20)
        except ValueError:
            fields = {}
        level, subject, search = (fields.get(name, [""])[0].strip()[:200] for name in ("level", "subject", "q"))
        role = "teacher" if fields.get("role") == ["teacher"] else "learner"
        return cls(level=level, subject=subject, search=search, role=role)

    @property
    def is_open(self) -> bool:
        """Whether every lesson of the role answers it."""
        return not (self.level or self.subject or self.search)


@attrs.frozen(kw_only=True)
class Group:
    """Lessons of one subject."""

    subject: str  # its label
    lessons: tuple[LessonView, ...]


@attrs.frozen(kw_only=True)
class Shelf:
    """Lessons of one level."""

    level: str  # its label
    groups: tuple[Group, ...]


@attrs.frozen(kw_only=True)
class Choice:
    """One entry of a menu."""

    slug: str
    label: str


def matching(lessons: Iterable[LessonView], wish: Wish, vocabulary: Vocabulary, language: str) -> list[LessonView]:
    """The lessons that answer `wish`, in their own order."""
    words = plain(wish.search).split()
    return [
        lesson
        for lesson in lessons
        if lesson.manifest.role == wish.role
        and (not wish.level or wish.level in lesson.manifest.levels)
        and (not wish.subject or wish.subject in lesson.manifest.subjects)
        and (not words or _has(lesson, words, vocabulary, language))
    ]


def shelves(lessons: Sequence[LessonView], wish: Wish, vocabulary: Vocabulary, language: str) -> tuple[Shelf, ...]:
    """`lessons` by level, then by their first subject that fits; of a wished level there is only its own shelf."""
    found: dict[str, dict[str, list[LessonView]]] = {}
    for lesson in lessons:
        subject = wish.subject or lesson.manifest.subjects[0]
        for level in (wish.level,) if wish.level else lesson.manifest.levels:
            found.setdefault(level, {}).setdefault(subject, []).append(lesson)
    return tuple(
        Shelf(
            level=level.label,
            groups=tuple(
                Group(subject=subject.label, lessons=tuple(found[level.slug][subject.slug]))
                for subject in subject_choices(found[level.slug], vocabulary, language)
            ),
        )
        for level in level_choices(found, vocabulary, language)
    )


def level_choices(slugs: Iterable[str], vocabulary: Vocabulary, language: str) -> tuple[Choice, ...]:
    """Levels as a menu, from the youngest pupils up."""
    ranks = {slug: vocabulary.levels[slug].rank if slug in vocabulary.levels else _LAST for slug in slugs}
    ordered = sorted(ranks, key=lambda slug: (ranks[slug], slug))
    return tuple(Choice(slug=slug, label=vocabulary.level_label(slug, language)) for slug in ordered)


def subject_choices(slugs: Iterable[str], vocabulary: Vocabulary, language: str) -> tuple[Choice, ...]:
    """Subjects as a menu, by the alphabet."""
    choices = [Choice(slug=slug, label=vocabulary.subject_label(slug, language)) for slug in set(slugs)]
    return tuple(sorted(choices, key=lambda choice: (plain(choice.label), choice.slug)))


def needed_on(lessons: Iterable[LessonView], today: date) -> tuple[LessonView, ...]:
    """The lessons that their publisher wants read today, by the day in the publisher's own time zone."""
    return tuple(lesson for lesson in lessons if (at := lesson.manifest.needed_at) and at.date() == today)


def needed_this_week(lessons: Iterable[LessonView], today: date) -> tuple[LessonView, ...]:
    """The lessons of the days from tomorrow to Sunday."""
    sunday = today + timedelta(days=6 - today.weekday())
    return tuple(lesson for lesson in lessons if (at := lesson.manifest.needed_at) and today < at.date() <= sunday)


def plain(text: str) -> str:
    """`text` without accents, ligatures and case."""
    parts = unicodedata.normalize("NFKD", text.casefold().replace("œ", "oe").replace("æ", "ae"))
    return "".join(sign for sign in parts if not unicodedata.combining(sign))


def _has(lesson: LessonView, words: Sequence[str], vocabulary: Vocabulary, language: str) -> bool:
    manifest = lesson.manifest
    labels = [vocabulary.level_label(slug, language) for slug in manifest.levels]
    labels += [vocabulary.subject_label(slug, language) for slug in manifest.subjects]
    text = plain(" ".join((manifest.title, manifest.description, *labels)))
    return all(word in text for word in words)
