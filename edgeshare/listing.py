"""The lessons that a node may show, in the order in which it does; made once for many questions. Pure.

With 50,000 lessons it takes a tenth of a second to put them in order, and every page, every page's stream of news and
every status asks for them.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterable
from datetime import datetime
from operator import attrgetter

from edgeshare.manifest import LessonManifest


class Listing:
    """Some lessons, and which of them may be shown: not before `available_from`, and not once they have expired."""

    def __init__(self, manifests: Iterable[LessonManifest], is_kept: Callable[[LessonManifest], bool]) -> None:
        """List `manifests`, one of each lesson; one that `is_kept` is shown whether it has expired or not."""
        shown = (each for each in manifests if not each.is_rehearsal)
        # By shelves, and then each of them: sorted in one go, 34,000 held up all readers for a quarter of a second.
        shelves: dict[tuple[tuple[str, ...], tuple[str, ...]], list[LessonManifest]] = {}
        for manifest in shown:
            shelves.setdefault((manifest.levels, manifest.subjects), []).append(manifest)
        self._all = [
            manifest for place in sorted(shelves) for manifest in sorted(shelves[place], key=attrgetter("title"))
        ]
        self._is_kept = is_kept
        self._begins = sorted({each.available_from for each in self._all if each.available_from})
        self._ends = sorted({each.expires for each in self._all if each.expires})
        self._at: tuple[int, int] | None = None
        self._now: tuple[LessonManifest, ...] = ()

    def at(self, now: datetime, believed: datetime) -> tuple[LessonManifest, ...]:
        """The lessons that may be shown now, by level, subject and title; the same tuple as long as they are the same.

        What is to come counts by `now`, and what is over by `believed` (see `keeper.Keeper`).
        """
        at = bisect_right(self._begins, now), bisect_right(self._ends, believed)
        if at != self._at:
            self._at = at
            self._now = tuple(each for each in self._all if self._is_due(each, now, believed))
        return self._now

    def _is_due(self, manifest: LessonManifest, now: datetime, believed: datetime) -> bool:
        if manifest.available_from and manifest.available_from > now:
            return False
        return manifest.expires is None or manifest.expires > believed or self._is_kept(manifest)
