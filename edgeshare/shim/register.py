"""All lessons of a node, sorted out for the questions that the catalogue page asks of them. Pure.

A node lists 50,000 of them, and a page has to be there before its reader has looked up: what depends on the list alone
is worked out once for each list, and what a page shows of a lesson's state is asked for those that it shows. Which
lessons fit one condition is a number with a bit for each of them: those that fit two are found in a microsecond.
"""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cache, reduce
from itertools import accumulate, compress
from operator import and_
from typing import Any

import attrs

from edgeshare.manifest import LessonManifest
from edgeshare.shim.shelves import Wish, plain
from edgeshare.vocabulary import Vocabulary

_RARE = 256  # words in fewer texts than one in so many have their places and no bits, which would take 6 kB a word
_ONE = ord("1")
_FLAGS = bytes.maketrans(b"01", b"\0\1")


@attrs.frozen
class Part:
    """The lessons for one kind of reader, in the node's order."""

    lessons: tuple[LessonManifest, ...] = ()
    timed: tuple[LessonManifest, ...] = ()  # of them, those that are needed on a day
    timed_bits: int = 0  # the same ones
    levels: Mapping[str, int] = attrs.field(factory=dict)  # of each, the bits of its lessons
    subjects: Mapping[str, int] = attrs.field(factory=dict)

    @classmethod
    def of(cls, lessons: Iterable[LessonManifest]) -> Part:
        lessons = tuple(lessons)
        timed = [place for place, each in enumerate(lessons) if each.needed_at]
        return cls(
            lessons=lessons,
            timed=tuple(lessons[place] for place in timed),
            timed_bits=_bits(timed),
            levels={level: _bits(places) for level, places in _places(each.levels for each in lessons).items()},
            subjects={subject: _bits(places) for subject, places in _places(each.subjects for each in lessons).items()},
        )


class _Words:
    """Which texts have which words: to look for a part of a word among them is less than in all the texts."""

    def __init__(self, texts: Iterable[str], count: int) -> None:
        """Take in `count` texts."""
        places = _places(set(text.split()) for text in texts)
        words = sorted(places, key=lambda word: -len(places[word]))  # those in many texts leave the least to look for
        self._all = (1 << count) - 1
        self._bits = [_bits(places.pop(word)) for word in words if len(places[word]) * _RARE > count]
        self._places = [places[word] for word in words[len(self._bits) :]]  # of the rare ones
        self._whole = "\n".join(words)
        self._starts = array("L", accumulate((len(word) + 1 for word in words), initial=0))

    def having(self, part: str) -> int:
        """Which of the texts have this in one of their words."""
        found, rare = 0, array("L")
        for word in self._with(part):
            if word < len(self._bits):
                found |= self._bits[word]
                if found == self._all:  # a letter that is in every text is in thousands of words
                    break
            else:
                rare += self._places[word - len(self._bits)]
        return found | _bits(rare)

    def _with(self, part: str) -> Iterator[int]:
        at = self._whole.find(part)
        while at >= 0:
            word = bisect_right(self._starts, at) - 1
            yield word
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

        lessons = self.part(wish.role).lessons
        texts = (
            f"{plain(f'{each.title} {each.description}')} {labels(each.levels, each.subjects)}" for each in lessons
        )
        self._words[wish.role, language] = _Words(texts, len(lessons))

    def matching(self, wish: Wish, language: str) -> Sequence[LessonManifest]:
        """The lessons that answer `wish`, in their own order; of when it says only that they are needed on a day."""
        part = self.part(wish.role)
        fitting: list[int] = []
        if words := plain(wish.search).split():
            if not self.knows_words(wish, language):
                self.learn_words(wish, language)
            fitting += map(self._words[wish.role, language].having, words)
        if wish.level:
            fitting.append(part.levels.get(wish.level, 0))
        if wish.subject:
            fitting.append(part.subjects.get(wish.subject, 0))
        if wish.when:
            fitting.append(part.timed_bits)
        return _Some(part.lessons, reduce(and_, fitting)) if fitting else part.lessons


class _Some(Sequence[LessonManifest]):
    """Those of `lessons` that have their bits. Only who asks for one looks at it: with all 50,000 that takes 30 ms."""

    def __init__(self, lessons: Sequence[LessonManifest], bits: int) -> None:
        self._lessons = lessons
        flags = f"{bits:b}"[::-1].encode().translate(_FLAGS)
        self._places = array("L", compress(range(len(flags)), flags))

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, index: Any) -> Any:  # one for a number, several for a slice
        if isinstance(index, slice):
            return [self._lessons[place] for place in self._places[index]]
        return self._lessons[self._places[index]]


def _places(texts: Iterable[Iterable[str]]) -> dict[str, array[int]]:
    """Where the texts stand that have each of their words, from the first on."""
    places: dict[str, array[int]] = defaultdict(lambda: array("L"))
    for place, words in enumerate(texts):
        for word in words:
            places[word].append(place)
    return places


def _bits(places: Sequence[int]) -> int:
    """The number that has a bit at each of `places`."""
    digits = bytearray(b"0") * (max(places, default=0) + 1)
    for place in places:
        digits[~place] = _ONE  # from the end on
    return int(digits, 2)
