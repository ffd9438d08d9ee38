"""The room that a node's contents take: who reads them, what they are worth, and what goes for what comes.

What is to go is decided here and now (`library/eviction.py`) and carried out by the keeper's settler.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Container, Iterator, Mapping
from contextlib import contextmanager
from datetime import date

import attrs

from edgeshare.holdings import Holdings
from edgeshare.library.eviction import Item, QuotaError, Rank, Space, making_room, too_much
from edgeshare.manifest import InfoHash, LessonId, LessonManifest


@attrs.frozen
class Worth:
    """What one content is to this node."""

    rank: Rank
    used: date | None = None  # the last day on which it came or was read


class Stock:
    """All contents of a node as what takes room."""

    def __init__(
        self, holdings: Holdings, quota: int, keep_free: int, worths: Callable[[], Mapping[InfoHash, Worth]]
    ) -> None:
        """Keep within `quota` and `keep_free`, in bytes.

        `worths` tells what each content is worth; one that it does not name is `Rank.LEFT`.
        """
        self.leaving: set[InfoHash] = set()  # decided to go, and not gone yet
        self.free: int | None = None  # bytes on the library's disk; None: not looked at, or the disk is gone
        self._holdings = holdings
        self._quota = quota
        self._keep_free = keep_free
        self._worths = worths
        self._readers: Counter[tuple[InfoHash, LessonId]] = Counter()

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
                done()

    def read(self, besides: Container[LessonId] = ()) -> set[InfoHash]:
        """The contents that somebody reads at this moment, those of the lessons `besides` left out."""
        return {content for content, lesson in self._readers if lesson not in besides}

    def items(self) -> tuple[Item, ...]:
        """What takes room, without what is about to go."""
        worths, read = self._worths(), self.read()
        unknown = Worth(Rank.LEFT)
        return tuple(
            Item(
                content=held.info_hash,
                size=held.size,
                rank=Rank.KEPT if held.info_hash in read else worths.get(held.info_hash, unknown).rank,
                used=worths.get(held.info_hash, unknown).used,
                others=held.others,
            )
            for held in self._holdings
            if held.info_hash not in self.leaving
        )

    def space(self) -> Space:
        """The room that there is."""
        to_come = sum(
            held.size - held.bytes_have
            for held in self._holdings
            if not held.is_complete and held.info_hash not in self.leaving
        )
        # A disk that nobody could look at refuses by itself; what is about to go is as good as gone.
        free = self._keep_free + to_come + self._quota if self.free is None else self.free
        free += sum(held.bytes_have for held in self._holdings if held.info_hash in self.leaving)
        return Space(quota=self._quota, free=free, keep_free=self._keep_free, to_come=to_come)

    def used(self) -> int:
        """Bytes that the contents take, or will."""
        return sum(held.size for held in self._holdings if held.info_hash not in self.leaving)

    def make_room(self, manifest: LessonManifest, rank: Rank, *, here: int = 0) -> None:
        """Decide what goes for a lesson that comes with `rank`, of which `here` bytes are on the disk already.

        Raises:
            QuotaError: there is no room for it, and nothing weaker that could go.
        """
        space = self.space()
        space = attrs.evolve(space, free=space.free + here)
        if manifest.size <= space.left(self.used()):
            return
        gone = making_room(self.items(), space, manifest.size, rank)
        if gone is None:
            raise self.shortage(manifest)
        self.leaving.update(gone)

    def shortage(self, manifest: LessonManifest) -> QuotaError:
        """What to say of a lesson for which there is no room."""
        return QuotaError(manifest.id, manifest.size, self.space())

    def shrink(self) -> None:
        """Decide what goes where the quota is exceeded, or others have filled the disk."""
        self.leaving.update(too_much(self.items(), self.space()))
