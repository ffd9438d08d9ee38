"""What a node shows of its lessons: where each of them stands, and what stands in its way."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from collections.abc import Set as AbstractSet
from datetime import datetime, timedelta

import attrs

from edgeshare import host
from edgeshare.expected import MISFIT, Expected
from edgeshare.holding import Holding
from edgeshare.holdings import Holdings
from edgeshare.hours import Opening, Window
from edgeshare.library.eviction import QuotaError
from edgeshare.manifest import LessonId, LessonManifest
from edgeshare.roll import Roll
from edgeshare.view import LessonView, Need, Obstacle, State

METERED = "this link is metered: only what somebody opens or asks for is fetched"
NEEDS_AHEAD = timedelta(days=7)  # a week is what a timetable shows


class Display:
    """The lessons of `roll` as views."""

    def __init__(
        self,
        roll: Roll,
        holdings: Holdings,
        window: Window,
        now: Callable[[], datetime],
        *,
        is_metered: Callable[[], bool],
        origin_trouble: Callable[[], str | None],
    ) -> None:
        """Show them by the clock `now`; `window` is when they are fetched ahead.

        `origin_trouble` says what the last request to the origins met.
        """
        self._roll = roll
        self._holdings = holdings
        self._window = window
        self._now = now
        self._is_metered = is_metered
        self._origin_trouble = origin_trouble
        # The listing's lessons, and how many of them are followed; found out anew with it.
        self._counted: tuple[tuple[LessonManifest, ...], AbstractSet[LessonId], int] = (), frozenset(), 0

    def lessons(self) -> tuple[LessonView, ...]:
        """Every lesson that may be shown now; withdrawn ones are left out."""
        views = [self.lesson(manifest.id) for manifest in self._roll.listing()]
        return tuple(view for view in views if view)

    def lesson(self, lesson: LessonId) -> LessonView | None:
        """One lesson, a withdrawn one too; None when this node has not heard of it, or may not show it yet.

        A rehearsal is told of to those who know its name: the publisher asks how it went.
        """
        if gone := self._roll.withdrawn.get(lesson):
            known = gone.lesson
            return LessonView(manifest=known, state=State.WITHDRAWN, reason=gone.why) if known else None
        newest, served = self._roll.newest.get(lesson), self._roll.served.get(lesson)
        shown = served or newest
        if shown is None:
            return None
        manifest = shown.manifest
        if manifest.available_from and manifest.available_from > self._now() and not manifest.is_rehearsal:
            return None
        if self._roll.is_over(manifest) and lesson not in self._roll.pinned:
            return None
        following = newest.manifest.version if newest and newest.manifest != manifest else None
        view = LessonView(
            manifest=manifest,
            state=State.LISTED,
            next_version=following,
            is_offered=newest is not None,
            is_pinned=lesson in self._roll.pinned,
        )
        holding = self._holdings.of(manifest)
        if holding is None:
            return self._waiting(view)
        if holding.layout and not Expected.of_lesson(manifest).fits(holding.layout):
            return attrs.evolve(view, state=State.FAILED, reason=MISFIT)
        progress = holding.torrent.progress if holding.torrent else None
        peers = progress.peers if progress else 0
        state, reason, obstacle = holding.state, holding.trouble, None
        if holding.pause.is_for_room:
            obstacle = Obstacle.DISK
        elif self._is_for_readers_only(holding):
            state, reason, obstacle = State.WAITING, METERED, Obstacle.METERED
        elif following and reason is None and newest and (space := self._roll.short.get(lesson)) is not None:
            reason, obstacle = str(QuotaError(lesson, newest.manifest.size, space)), Obstacle.ROOM  # for the next one
        elif reason is None and (reason := self._obstacle(holding, peers)) is not None:
            obstacle = Obstacle.NOBODY
        return attrs.evolve(
            view,
            state=state,
            reason=reason,
            obstacle=obstacle,
            bytes_have=holding.bytes_have,
            peers=peers,
            crowd=holding.crowd,
            origin_bytes=holding.origin_bytes,
            peer_bytes=holding.peer_bytes,
            table=holding.layout.files if holding.layout else (),
            is_brought=holding.is_complete and not (holding.peer_bytes or any(holding.origin_bytes.values())),
        )

    def _waiting(self, view: LessonView) -> LessonView:
        """A lesson that was not begun, with what it waits for."""
        manifest = view.manifest
        if not (self._roll.is_asked_for(manifest.id) or self._roll.is_followed(manifest)):
            return view
        if (space := self._roll.short.get(manifest.id)) is not None:
            shortage = QuotaError(manifest.id, manifest.size, space)
            if shortage.is_larger:
                return attrs.evolve(view, state=State.FAILED, reason=str(shortage))
            return attrs.evolve(view, state=State.WAITING, reason=str(shortage), obstacle=Obstacle.ROOM)
        if self._is_metered() and not self._roll.is_asked_for(manifest.id):
            return attrs.evolve(view, state=State.WAITING, reason=METERED, obstacle=Obstacle.METERED)
        if manifest.info_hash not in self._roll.turn.later:
            return attrs.evolve(view, state=State.WAITING)
        begin = manifest.fetch_from.isoformat() if manifest.fetch_from else None
        reason = f"it is fetched from {begin} on" if begin else f"it is fetched ahead at {self._window}"
        return attrs.evolve(view, state=State.WAITING, reason=reason, obstacle=Obstacle.LATER)

    def _is_for_readers_only(self, holding: Holding) -> bool:
        """Whether it stands still because the link is metered, and nobody has asked for it (`precedence`)."""
        gives_way = not holding.is_complete and holding.pause.gives_way
        return gives_way and self._is_metered() and not self._roll.is_content_asked_for(holding.info_hash)

    def _obstacle(self, holding: Holding, peers: int) -> str | None:
        """Why nothing comes at the moment, though nothing is wrong with the content."""
        away = holding.missing_at_origin or self._origin_trouble()
        if holding.is_complete or peers or away is None:
            return None
        return f"no peer that can be reached has it, and {away}"

    def states(self) -> Mapping[State, int]:
        """How many lessons are in each state."""
        shown = self._roll.listing()
        if self._counted[0] is not shown:
            listing = Counter(each.catalogues for each in shown)  # of 50,000 lessons, a few dozen
            followed = sum(count for catalogues, count in listing.items() if self._roll.follows(catalogues))
            self._counted = shown, {each.id for each in shown}, followed
        _, names, ahead = self._counted
        counts = Counter(
            {State.WITHDRAWN: len(self._roll.withdrawn), State.WAITING: ahead, State.LISTED: len(shown) - ahead}
        )
        roll = self._roll
        held = {lesson for each in self._holdings for lesson in roll.lessons_of(each.info_hash)}
        others = held | roll.served.keys() | roll.wanted | roll.pinned | roll.short.keys()
        for lesson in others & names:
            manifest = (roll.served.get(lesson) or roll.newest[lesson]).manifest
            counts[State.WAITING if roll.is_followed(manifest) else State.LISTED] -= 1
            counts[self._state(manifest)] += 1
        return +counts

    def _state(self, manifest: LessonManifest) -> State:
        """The state of a lesson that is listed and not withdrawn; what `lesson` says of it, for less."""
        expected = Expected.of_lesson(manifest)
        holding = self._holdings.get(manifest.info_hash)
        if holding is not None and holding.is_expected(expected):
            is_misfit = holding.layout is not None and not expected.fits(holding.layout)
            if is_misfit:
                return State.FAILED
            return State.WAITING if self._is_for_readers_only(holding) else holding.state
        if not self._roll.is_asked_for(manifest.id) and not self._roll.is_followed(manifest):
            return State.LISTED
        space = self._roll.short.get(manifest.id)
        return State.FAILED if space is not None and manifest.size > space.quota else State.WAITING

    def needs(self) -> tuple[Need, ...]:
        """What must be here in the next days, of what this node fetches ahead."""
        now = self._now()
        ready: dict[datetime, list[bool]] = {}
        for lesson in self._roll.timed:
            newest = self._roll.newest.get(lesson)
            if newest is None or not (self._roll.is_asked_for(lesson) or self._roll.is_followed(newest.manifest)):
                continue
            at = newest.manifest.needed_at
            if at is not None and now < at <= now + NEEDS_AHEAD and not newest.manifest.is_rehearsal:
                held = self._holdings.of(newest.manifest)
                ready.setdefault(at, []).append(held is not None and held.is_complete)
        return tuple(Need(at=at, lessons=len(each), ready=sum(each)) for at, each in sorted(ready.items()))

    def pinned_bytes(self) -> int:
        """Bytes of the lessons that are pinned, here or still to come; a content that several share counts once."""
        backed = (self._roll.served.get(lesson) or self._roll.newest.get(lesson) for lesson in self._roll.pinned)
        return sum({each.manifest.info_hash: each.manifest.size for each in backed if each}.values())

    def opening(self) -> Opening | None:
        """The hours in which lessons are fetched ahead, those of now or the next ones; None when they never end."""
        return None if self._window.is_always else self._window.next(self._now(), host.local_zone())
