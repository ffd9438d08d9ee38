"""All lessons of a node, sorted out for the questions that the catalogue page asks of them. Pure.

A node lists 50,000 of them, and a page has to be there before its reader has looked up: what depends on the list alone
is worked out once for each list, and what a page shows of a lesson's state is asked for those that it shows.
"""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from itertools import accumulate

import attrs

from edgeshare.manifest import LessonManifest
from edgeshare.shim.shelves import Wish, plain
from edgeshare.vocabulary import Vocabulary


@attrs.frozen
class Part:
    """The lessons for one kind of reader, in the node's order."""

    lessons: tuple[LessonManifest, ...] = ()
    timed: tuple[LessonManifest, ...] = ()  # of them, those that are needed on a day
    levels: frozenset[str] = frozenset()
    subjects: frozenset[str] = frozenset()

    @classmethod
    def of(cls, lessons: Iterable[LessonManifest]) -> Part:
        lessons = tuple(lessons)
        return cls(
            lessons=lessons,
            timed=tuple(each for each in lessons if each.needed_at),
            levels=frozenset(level for each in lessons for level in each.levels),
            subjects=frozenset(subject for each in lessons for subject in each.subjects),
        )


class _Words:
    """Where the words of some texts stand: to look for a part of a word among them is less than in all the texts."""

    def __init__(self, texts: Iterable[str]) -> None:
        places: dict[str, array[int]] = {}
        self._count = 0
        for place, text in enumerate(texts):
            self._count += 1
            for word in set(text.split()):
                places.setdefault(word, array("L")).append(place)
        self._places = list(places.values())  # of each word
        self._whole = "\n".join(places)
        self._starts = array("L", accumulate((len(word) + 1 for word in places), initial=0))

    def having(self, parts: Iterable[str]) -> list[int]:
        """Which of the texts have all of these in their words, from the first on."""
        return sorted(set.intersection(*map(self._with, parts)))

    def _with(self, part: str) -> set[int]:
        found = set[int]()
        for places in self._of_words_with(part):
            found.update(places)
            if len(found) == self._count:  # a letter that is in every text is in thousands of words
                break
        return found

    def _of_words_with(self, part: str) -> Iterator[array[int]]:
        at = self._whole.find(part)
        while at >= 0:
            word = bisect_right(self._starts, at) - 1
            yield self._places[word]
            at = self._whole.find(part, self._starts[word + 1])


class Register:
    """What is known of one `listing` (see `view.Node`), as long as it lasts."""

    def __init__(self, listing: tuple[LessonManifest, ...], vocabulary: Vocabulary) -> None:
        self.listing = listing
        self._vocabulary = vocabulary
        roles = {each.role for each in listing}
        self._parts = {role: Part.of(each for each in listing if each.role == role) for role in roles}
        self._words: dict[tuple[str, str], _Words] = {}  # by role and language

    def part(self, role: str) -> Part:
        """The lessons for those who have this role."""
        return self._parts.get(role, Part())

    def knows_words(self, wish: Wish, language: str) -> bool:
        """Whether `learn_words` was called for such a search, or it needs none."""
        return not wish.search or (wish.role, language) in self._words

    def learn_words(self, wish: Wish, language: str) -> None:
        """Make ready to search; with 50,000 lessons it takes a second, and is done in a thread."""

        @cache
        def labels(levels: Sequence[str], subjects: Sequence[str]) -> str:
            words = [self._vocabulary.level_label(slug, language) for slug in levels]
            words += [self._vocabulary.subject_label(slug, language) for slug in subjects]
            return plain(" ".join(words))

        self._words[wish.role, language] = _Words(
            f"{plain(f'{each.title} {each.description}')} {labels(each.levels, each.subjects)}"
            for each in self.part(wish.role).lessons
        )

    def matching(self, wish: Wish, language: str) -> Sequence[LessonManifest]:
        """The lessons that answer `wish`, in their own order."""
        found: Sequence[LessonManifest] = self.part(wish.role).lessons
        if words := plain(wish.search).split():
            if not self.knows_words(wish, language):
                self.learn_words(wish, language)
            found = [found[place] for place in self._words[wish.role, language].having(words)]
        if wish.level:
            found = [each for each in found if wish.level in each.levels]
        if wish.subject:
            found = [each for each in found if wish.subject in each.subjects]
        return found
