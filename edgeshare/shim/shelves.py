"""Which lessons the catalogue page shows, and in which order. Pure.

Lessons stand by level, then by subject, each under every level that it names. A search forgives accents and case, and
finds a lesson that has all the words somewhere in its title, description, levels or subjects (`register.py`).
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Sequence
from datetime import date, timedelta
from typing import Final, Self
from urllib.parse import parse_qs, urlencode

import attrs

from edgeshare.manifest import LessonManifest
from edgeshare.view import LessonView
from edgeshare.vocabulary import Vocabulary

MOST_SHOWN = 100  # lessons on one page: 7 ms to write, some 75 kB, and half a second for an old PC to lay out
FIRST_SHOWN: Final = 12  # of those of today, and of this week, above all the others: two rows or three on most screens
_LAST = 10**6  # where levels without a rank stand
_ACCENTS = re.compile("[\u0300-\u036f]+")  # Unicode's combining marks for Latin and Greek
_MAY_HAVE_OTHERS = re.compile("[\u0483-\u1fff\u20d0-\U0010ffff]")  # where those of other scripts are


@attrs.frozen(kw_only=True)
class Wish:
    """What a reader looks for; empty text is no wish."""

    level: str = ""
    subject: str = ""
    search: str = ""
    role: str = "learner"
    when: str = ""  # "today", or "week": from tomorrow to Sunday
    page: int = 1

    @classmethod
    def parse(cls, query: str) -> Self:
        """The wish in a URL's query; what cannot be read is no wish."""
        try:
            fields = parse_qs(query, max_num_fields=20)
        except ValueError:
            fields = {}
        level, subject, search = (fields.get(name, [""])[0].strip()[:200] for name in ("level", "subject", "q"))
        role = "teacher" if fields.get("role") == ["teacher"] else "learner"
        when = fields.get("when", [""])[0]
        number = fields.get("page", [""])[0]
        page = int(number) if re.fullmatch("[0-9]{1,6}", number) else 1
        when = when if when in ("today", "week") else ""
        return cls(level=level, subject=subject, search=search, role=role, when=when, page=max(1, page))

    @property
    def is_open(self) -> bool:
        """Whether every lesson of the role answers it."""
        return not (self.level or self.subject or self.search or self.when)

    def url(self, page: int) -> str:
        """Where another page of what answers it is."""
        role = "" if self.role == "learner" else self.role
        fields = {"role": role, "when": self.when, "level": self.level, "subject": self.subject, "q": self.search}
        query = urlencode({name: value for name, value in (fields | {"page": page}).items() if value})
        return f"/?{query}"


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


def needed_on(lessons: Iterable[LessonManifest], today: date) -> tuple[LessonManifest, ...]:
    """The lessons that their publisher wants read today, by the day in the publisher's own time zone, in order."""
    return _in_order(lesson for lesson in lessons if (at := lesson.needed_at) and at.date() == today)


def needed_this_week(lessons: Iterable[LessonManifest], today: date) -> tuple[LessonManifest, ...]:
    """The lessons of the days from tomorrow to Sunday, in order."""
    sunday = today + timedelta(days=6 - today.weekday())
    return _in_order(lesson for lesson in lessons if (at := lesson.needed_at) and today < at.date() <= sunday)


def needed(lessons: Sequence[LessonManifest], when: str, today: date) -> Sequence[LessonManifest]:
    """Of `lessons` those that are needed `when` a wish says."""
    match when:
        case "today":
            return needed_on(lessons, today)
        case "week":
            return needed_this_week(lessons, today)
    return lessons


def _in_order(lessons: Iterable[LessonManifest]) -> tuple[LessonManifest, ...]:
    return tuple(sorted(lessons, key=lambda lesson: lesson.needed_at.timestamp() if lesson.needed_at else 0.0))


def plain(text: str) -> str:
    """`text` without accents, ligatures and case, and with the apostrophe that keyboards have."""
    parts = unicodedata.normalize("NFKD", text.casefold().replace("œ", "oe").replace("æ", "ae").replace("’", "'"))
    bare = _ACCENTS.sub("", parts)  # sign by sign it takes four times as long, and a node lists 50,000 descriptions
    if _MAY_HAVE_OTHERS.search(bare) is None:
        return bare
    return "".join(sign for sign in bare if not unicodedata.combining(sign))
