"""The lessons that a node knows of: listed, withdrawn, served, asked for; and what each of them is worth to it.

What is listed and withdrawn follows from what was admitted (`take_over`); what is served, asked for and used is told
here by the keeper, which also keeps it in the index.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from collections.abc import Set as AbstractSet
from datetime import date, datetime

import attrs

from edgeshare.admission import Backed, Gone, Memory, listed, withdrawn
from edgeshare.config import Config, nearest
from edgeshare.errors import LibraryError
from edgeshare.library.eviction import Rank, Space, rank_of
from edgeshare.listing import Listing
from edgeshare.manifest import InfoHash, LessonId, LessonManifest
from edgeshare.prefetch import Turn
from edgeshare.stock import Worth


@attrs.frozen(kw_only=True)
class Found:
    """What follows from what was admitted."""

    memory: Memory
    newest: Mapping[LessonId, Backed]
    withdrawn: Mapping[LessonId, Gone]
    by_content: Mapping[InfoHash, tuple[LessonId, ...]]
    timed: tuple[LessonId, ...]
    listing: Listing  # with what was served at that time
    serves: int


class Roll:
    """All lessons of a node."""

    def __init__(self, config: Config, now: Callable[[], datetime], believed: Callable[[], datetime]) -> None:
        """Know nothing yet; the clocks are those of `keeper.Keeper`."""
        self.newest: Mapping[LessonId, Backed] = {}
        self.withdrawn: Mapping[LessonId, Gone] = {}
        self.served: dict[LessonId, Backed] = {}  # complete versions; may be older than the newest; changed by `serve`
        self.wanted: set[LessonId] = set(config.fetch)
        self.pinned: frozenset[LessonId] = frozenset()
        self.used: dict[LessonId, date] = {}  # the last day on which each came or was read
        self.short: dict[LessonId, Space] = {}  # wanted, and no room for them, with what there was
        self.turn = Turn()  # of what is followed
        self.timed: tuple[LessonId, ...] = ()  # of the newest, those with a `needed_at`
        self._config = config
        self._now = now
        self._believed = believed
        self._memory = Memory()
        self._followed: frozenset[str] = frozenset()  # catalogues, of those that were admitted
        self._by_content: Mapping[InfoHash, tuple[LessonId, ...]] = {}  # of the newest
        self._serves = 0  # how often what is shown was changed by `serve` or `pin`
        self._listing: Listing | None = None  # what may be shown; None until somebody asks, and when it has changed

    def read(self, memory: Memory) -> Found:
        """What follows from what was admitted; for a thread, as 50,000 lessons take half a second."""
        follow, show, serves = self._config.follow, self._config.show, self._serves
        newest = listed(memory, [name for name in memory.admitted if name in follow or name in show], self.newest)
        gone = withdrawn(memory)
        by_content: dict[InfoHash, list[LessonId]] = {}
        for lesson, each in newest.items():
            by_content.setdefault(each.manifest.info_hash, []).append(lesson)
        return Found(
            memory=memory,
            newest=newest,
            withdrawn=gone,
            by_content={content: tuple(lessons) for content, lessons in by_content.items()},
            timed=tuple(lesson for lesson, each in newest.items() if each.manifest.needed_at is not None),
            listing=self._listed(newest, dict(self.served), gone),
            serves=serves,
        )

    def take_over(self, found: Found) -> None:
        """List and withdraw by what was found in it."""
        self._memory, self.newest, self.withdrawn = found.memory, found.newest, found.withdrawn
        self._followed = frozenset(name for name in self._config.follow if name in found.memory.admitted)
        self._by_content, self.timed = found.by_content, found.timed
        self._listing = found.listing if found.serves == self._serves else None

    def serve(self, lesson: LessonId, backed: Backed | None) -> None:
        """Serve this version of a lesson from now on, or none of it."""
        shown = self.served.get(lesson) or self.newest.get(lesson)
        if backed is None:
            self.served.pop(lesson, None)
        else:
            self.served[lesson] = backed
        if (self.served.get(lesson) or self.newest.get(lesson)) != shown:
            self._serves += 1
            self._listing = None

    def pin(self, lessons: Iterable[LessonId]) -> None:
        """Have exactly these pinned."""
        self.pinned = frozenset(lessons)
        self._serves += 1
        self._listing = None  # what has expired is shown as long as it is pinned

    def check_known(self, lesson: LessonId) -> None:
        """Refuse a lesson that may not come here; whatever adds content asks this first.

        Raises:
            LibraryError: it was withdrawn, or no catalogue of this node lists it.
        """
        if gone := self.withdrawn.get(lesson):
            raise LibraryError(f"{lesson} was withdrawn", hint=gone.why)
        if lesson in self.newest or lesson in self.served:
            return
        names = ", ".join((*self._config.follow, *self._config.show)) or "none"
        close = nearest(lesson, self.newest)
        hint = f"did you mean {close}?" if close else f"this node's catalogues: {names}; add others to `follow`"
        raise LibraryError(f"no catalogue here lists the lesson {lesson}", hint=hint)

    def manifest(self, lesson: LessonId) -> LessonManifest:
        """The manifest of a lesson that may come here: of the version that is served, or of the newest.

        Raises:
            LibraryError: as `check_known`.
        """
        self.check_known(lesson)
        return (self.served.get(lesson) or self.newest[lesson]).manifest

    @property
    def contents(self) -> AbstractSet[InfoHash]:
        """The contents of all newest versions."""
        return self._by_content.keys()

    def lessons_of(self, content: InfoHash) -> tuple[LessonId, ...]:
        """The lessons whose newest version has this content."""
        return self._by_content.get(content, ())

    def listing(self) -> tuple[LessonManifest, ...]:
        """The manifests of all that may be shown now, in order; the same tuple as long as they are the same."""
        if self._listing is None:
            self._listing = self._listed(self.newest, self.served, self.withdrawn)
        return self._listing.at(self._now(), self._believed())

    def is_asked_for(self, lesson: LessonId) -> bool:
        """Whether somebody named it."""
        return lesson in self.wanted or lesson in self.pinned

    def is_content_asked_for(self, content: InfoHash) -> bool:
        """Whether somebody named one of the lessons that have this content."""
        return any(map(self.is_asked_for, self.lessons_of(content)))

    def is_followed(self, manifest: LessonManifest) -> bool:
        """Whether it is fetched ahead, as one of its catalogues is followed."""
        return self.follows(manifest.catalogues)

    def follows(self, catalogues: Iterable[str]) -> bool:
        """Whether one of some catalogues is followed, and here."""
        return not self._followed.isdisjoint(catalogues)

    def is_over(self, manifest: LessonManifest) -> bool:
        """Whether a lesson has expired: it is not shown or fetched ahead any more, and goes when room is needed."""
        return manifest.expires is not None and manifest.expires <= self._believed() and not manifest.is_rehearsal

    @property
    def bound_by(self) -> frozenset[str]:
        """Catalogues whose word counts here, followed or not.

        They may withdraw what is still served of them, or reinstate what they withdrew.
        """
        names = {name for served in self.served.values() for name in served.manifest.catalogues}
        withdrew = {gone.by for gone in self._memory.gone.values() if not gone.is_revocation}
        return frozenset(names & self._memory.admitted.keys() | withdrew)

    @property
    def today(self) -> date:
        """The day, by the believed clock, which takes as long as ten ranks."""
        return self._believed().date()

    def rank(self, manifest: LessonManifest, today: date) -> Rank:
        """What a lesson is worth to this node, read or not at this moment."""
        if manifest.id in self.pinned:
            return Rank.KEPT
        if manifest.id not in self.newest or self.is_over(manifest):
            return Rank.LEFT
        return rank_of(
            is_followed=self.is_asked_for(manifest.id) or self.is_followed(manifest),
            used=self.used.get(manifest.id),
            needed=manifest.needed_at.date() if manifest.needed_at else None,
            today=today,
        )

    def worths(self, contents: Iterable[InfoHash], editions: Iterable[InfoHash]) -> Mapping[InfoHash, Worth]:
        """What `contents` are worth, `editions` of catalogues among them.

        Of several lessons with the same content the best counts.
        """
        worths, today = dict.fromkeys(editions, Worth(Rank.KEPT)), self.today
        listed = (self.newest[lesson] for content in contents for lesson in self.lessons_of(content))
        others = [each for each in listed if self.served.get(each.manifest.id) != each]
        for backed in (*self.served.values(), *others):
            manifest = backed.manifest
            worth = Worth(self.rank(manifest, today), self.used.get(manifest.id))
            before = worths.get(manifest.info_hash)
            if before is None or before.rank < worth.rank:
                worths[manifest.info_hash] = worth
        return worths

    def superseded(self, contents: AbstractSet[InfoHash]) -> set[InfoHash]:
        """Contents that are served, and whose lesson's newest version is another one among `contents`."""
        found: set[InfoHash] = set()
        for lesson, served in self.served.items():
            content, newest = served.manifest.info_hash, self.newest.get(lesson)
            if newest and newest.manifest.info_hash != content and newest.manifest.info_hash in contents:
                found.add(content)
        return found

    def _listed(
        self,
        newest: Mapping[LessonId, Backed],
        served: Mapping[LessonId, Backed],
        gone: Mapping[LessonId, Gone],
    ) -> Listing:
        shown = {**newest, **served}
        manifests = (each.manifest for lesson, each in shown.items() if lesson not in gone)
        return Listing(manifests, lambda manifest: manifest.id in self.pinned)
