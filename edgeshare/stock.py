"""The room that a node's contents take: who reads them, what they are worth, and what goes for what comes.

What is to go is decided here and now (`library/eviction.py`) and carried out by the keeper's settler.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Container, Iterator, Mapping
from collections.abc import Set as AbstractSet
from contextlib import contextmanager
from datetime import date
from math import inf

import attrs
import trio

from edgeshare.holdings import Holdings
from edgeshare.library.eviction import Item, QuotaError, Rank, Space, making_room, too_much
from edgeshare.manifest import InfoHash, LessonId, LessonManifest

OPEN_S = 3600.0  # after the last request, somebody may still have the page before him: a school's hour


@attrs.frozen
class Worth:
    """What one content is to this node."""

    rank: Rank
    used: date | None = None  # the last day on which it came or was read


class Stock:
    """All contents of a node as what takes room."""

    def __init__(
        self,
        holdings: Holdings,
        quota: int,
        keep_free: int,
        worths: Callable[[], Mapping[InfoHash, Worth]],
        superseded: Callable[[], AbstractSet[InfoHash]],
    ) -> None:
        """Keep within `quota` and `keep_free`, in bytes.

        `worths` tells what each content is worth; one that it does not name is `Rank.LEFT`. Those that are
        `superseded` have their next version coming, and count with it as one: they stay until it is here.
        """
        self.leaving: set[InfoHash] = set()  # decided to go, and not gone yet
        self.free: int | None = None  # bytes on the library's disk when somebody looked; None: it is gone
        self._to_come = 0  # bytes of it that what was begun had to take then, and what was begun since
        self._holdings = holdings
        self._quota = quota
        self._keep_free = keep_free
        self._worths = worths
        self._superseded = superseded
        self._readers: Counter[tuple[InfoHash, LessonId]] = Counter()
        self._left_s: dict[InfoHash, float] = {}  # when the last reader of each left

    @contextmanager
    def reading(self, lesson: LessonId, content: InfoHash, done: Callable[[], None]) -> Iterator[None]:
        """Keep a lesson's content while the context lasts; `done` is called when its last reader has left."""
        reader = content, lesson
        self._readers[reader] += 1
        try:
            yield
        finally:
            self._readers[reader] -= 1
            if not self._readers[reader]:
                del self._readers[reader]
                self._left_s[content] = trio.current_time()
                done()

    def was_read(self, content: InfoHash) -> None:
        """Somebody has read a content, and may have the page before him."""
        self._left_s[content] = trio.current_time()

    def read(self, besides: Container[LessonId] = ()) -> set[InfoHash]:
        """The contents that somebody reads at this moment, those of the lessons `besides` left out."""
        return {content for content, lesson in self._readers if lesson not in besides}

    def look(self, free: int | None) -> None:
        """Take up that so many bytes are free on the disk; None when it is gone, and then refuses by itself.

        From then on what is to come takes as much of it as it had to at this moment, and what is begun its size.
        """
        self.free = free
        self._to_come = sum(held.bytes_to_come for held in self._holdings)
        since_s = trio.current_time() - OPEN_S
        self._left_s = {content: at_s for content, at_s in self._left_s.items() if at_s >= since_s}

    def items(self) -> tuple[Item, ...]:
        """What takes room, without what is about to go."""
        worths, superseded, read = self._worths(), self._superseded(), self.read()
        since_s = trio.current_time() - OPEN_S
        items: list[Item] = []
        for held in self._holdings:
            if held.info_hash in self.leaving:
                continue
            worth = worths.get(held.info_hash, Worth(Rank.LEFT))
            rank = worth.rank
            if held.info_hash in read or held.info_hash in superseded:
                rank = Rank.KEPT
            elif self._left_s.get(held.info_hash, -inf) >= since_s:
                rank = max(rank, Rank.NEEDED)
            size = 0 if held.info_hash in superseded else held.size
            items.append(Item(content=held.info_hash, size=size, rank=rank, used=worth.used, others=held.others))
        return tuple(items)

    def space(self) -> Space:
        """The room that there is."""
        free = self._keep_free + self._to_come + self._quota if self.free is None else self.free
        # what is about to go is as good as gone
        free += sum(held.bytes_have for held in self._holdings if held.info_hash in self.leaving)
        return Space(quota=self._quota, free=free, keep_free=self._keep_free, to_come=self._to_come)

    def used(self) -> int:
        """Bytes that the contents take, or will."""
        apart = self.leaving | self._superseded()
        return sum(held.size for held in self._holdings if held.info_hash not in apart)

    def make_room(self, manifest: LessonManifest, rank: Rank, *, here: int = 0, instead: int = 0) -> None:
        """Decide what goes for a lesson that comes with `rank`; it counts as begun from now on.

        So many bytes of it are `here`, on the disk, already; so many of the quota are what it comes `instead` of.

        Raises:
            QuotaError: there is no room for it, and nothing weaker that could go.
        """
        space = self.space()
        space = attrs.evolve(space, quota=space.quota + instead, to_come=space.to_come - here)
        if manifest.size > space.left(self.used()):
            gone = making_room(self.items(), space, manifest.size, rank)
            if gone is None:
                raise QuotaError(manifest.id, manifest.size, self.space())
            self.leaving.update(gone)
        self._to_come += manifest.size - here

    def shrink(self) -> None:
        """Decide what goes where the quota is exceeded, or others have filled the disk."""
        space = self.space()
        if space.is_exceeded(self.used()):  # what each is worth takes long to find out
            self.leaving.update(too_much(self.items(), space))
