"""What this node keeps: the editions it admitted, the lessons they list, and one holding for each content it wants.

A lesson is wanted when its catalogue is followed, when the config or somebody names it, or when a reader opens it. One
that is only followed, and has a `fetch_from`, is begun at that time by this node's clock, and before what waits. A new
version is fetched beside the one that is served and takes its place when it is complete. A withdrawn lesson is
no longer served, seeded or kept from the moment that its catalogue's edition is admitted. What may be admitted, and
what is withdrawn, `admission.py` decides and `ledger.py` remembers; here it is carried out.

One task, the settler, brings what is held into line with what is listed and wanted; others ask it to. So nothing is
removed by a task that ends with what it removes, or half-removed when an edition is given up for a newer one.
"""

from __future__ import annotations

import logging
from collections import Counter, deque
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import NoReturn

import attrs
import trio

from edgeshare.admission import Admitted, Backed, Gone, Weighed, listed, publisher_of, revocation, withdrawn
from edgeshare.catalogue import FILE_NAME, SignedLesson
from edgeshare.config import Config, nearest
from edgeshare.errors import EdgeshareError, LibraryError, ManifestError
from edgeshare.holding import MISFIT, Expected, Holding, Parts
from edgeshare.holdings import Holdings, Reading
from edgeshare.ledger import Ledger
from edgeshare.library.index import StoredLesson
from edgeshare.manifest import CatalogueManifest, InfoHash, LessonId, LessonManifest, read_lesson
from edgeshare.publishers import Publishers
from edgeshare.swarm.session import Helpers
from edgeshare.trust import Vouched
from edgeshare.view import LessonView, State

logger = logging.getLogger(__name__)

SETTLE_EVERY_S = 600.0  # when nobody asks: what a full or failing disk refused is tried again
AT_ONCE = 16  # contents that are fetched at the same time; what somebody asks for does not wait for its turn


def _now() -> datetime:
    return datetime.now(UTC)


class Keeper:
    """The node's lessons; `run` owns the tasks of all holdings."""

    def __init__(self, parts: Parts, config: Config, now: Callable[[], datetime] = _now) -> None:
        self._parts = parts
        self._config = config
        self._now = now  # aware, UTC
        self._ledger = Ledger(parts.library)
        self._newest: dict[LessonId, Backed] = {}
        self._withdrawn: dict[LessonId, Gone] = {}
        self._served: dict[LessonId, Backed] = {}  # complete versions; may be older than the newest
        self._rows: dict[LessonId, StoredLesson] = {}  # as the index knows them
        self._heard: Publishers | None = None  # by the newest metadata, also while it is being weighed
        self._wanted: set[LessonId] = set(config.fetch)
        self._holdings = Holdings(parts, self._attend)
        self._coming: dict[str, InfoHash] = {}  # the content of each catalogue's edition that is not admitted yet
        self._queue: deque[LessonManifest] = deque()  # wanted, their turn to come
        self._next_start: datetime | None = None  # when the next lesson that may not be fetched yet may be
        self._is_unsettled = trio.Event()
        self._settled = trio.Event()  # what the settler sets after its next round
        self._changed = trio.lowlevel.ParkingLot()

    @property
    def admitted(self) -> Mapping[str, Admitted]:
        """The editions that this node stands on, by their catalogue's name."""
        return self._ledger.memory.admitted

    @property
    def bound_by(self) -> frozenset[str]:
        """Catalogues whose word counts here, followed or not.

        They may withdraw what is still served of them, or reinstate what they withdrew.
        """
        names = {name for served in self._served.values() for name in served.manifest.catalogues}
        withdrew = {gone.by for gone in self._ledger.memory.gone.values() if not gone.is_revocation}
        return frozenset(names & self.admitted.keys() | withdrew)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Keep the lessons until cancelled; started when what the library held is known again.

        Raises:
            LibraryError: the index cannot be read.
        """
        await self._remember()
        async with trio.open_nursery() as nursery:
            await self._holdings.open(nursery)
            nursery.start_soon(self._parts.library.empty_trash)
            nursery.start_soon(self._settle_when_asked)
            await self._settle()
            task_status.started()

    def stands_on(self, vouched: Vouched) -> bool:
        """Whether this very edition was admitted, with the same keys behind it: `admit` has nothing to do."""
        return self._ledger.stands_on(vouched)

    async def heed(self, publishers: Publishers, offered: Mapping[str, Vouched] | None = None) -> None:
        """Stand on what the newest metadata says of publishers; returns when it is carried out.

        `offered` are the editions that the same metadata names. What a revoked key signed is not listed or served from
        now on; it is deleted only when those are admitted, as they may list it again, signed by another key, and then
        it need not be fetched anew.
        """
        self._heard = publishers
        if weighed := await self._ledger.heed(publishers, offered or {}, lambda: tuple(self._served.values())):
            self._stand_on(weighed)
            for name in [name for name in self._coming if not self._ledger.memory.is_named(publisher_of(name))]:
                del self._coming[name]  # nobody vouches for it any more
            await self._settle()

    async def admit(self, vouched: Vouched) -> None:
        """Take the next edition of a catalogue: fetch its content through the swarm, check it, and stand on it.

        Raises:
            ManifestError: its content is not what its manifest says.
            TrustError: it is not newer than what was admitted, and other, or its publisher may not publish.
            LibraryError: it cannot be kept.
        """
        if self.stands_on(vouched):
            return
        self._ledger.check(vouched)
        manifest = vouched.manifest
        self._coming[manifest.name] = manifest.info_hash  # stays when it is refused, or it would be fetched every time
        try:
            await self._admit(vouched)
        except trio.Cancelled:  # for a newer one, which should not wait behind it
            if self._coming.get(manifest.name) == manifest.info_hash:
                del self._coming[manifest.name]
            self._is_unsettled.set()
            raise
        self._coming.pop(manifest.name, None)
        await self._settle()

    async def want(self, lesson: LessonId) -> None:
        """Fetch a lesson because somebody asked for it by name; kept through restarts.

        Raises:
            LibraryError: no catalogue of this node lists it, it was withdrawn, or the wish cannot be kept.
        """
        self.check_known(lesson)
        known = self._rows.get(lesson) or StoredLesson(id=lesson, wanted=False, served=None, keys={})
        if not known.wanted:
            await self._keep_lesson(attrs.evolve(known, wanted=True))
        if lesson not in self._wanted:
            self._wanted.add(lesson)
            await self._settle()

    @asynccontextmanager
    async def read(self, lesson: LessonId) -> AsyncGenerator[Reading, None]:
        """The lesson's files while somebody reads; starts fetching it when it is only listed. See `view.Node`."""
        self.check_known(lesson)
        manifest = (self._served.get(lesson) or self._newest[lesson]).manifest
        expected, holding = _expected(manifest), self._hold(manifest)
        if not expected.fits(await holding.ready()):
            raise LibraryError(f"the lesson cannot be opened ({MISFIT})")
        yield Reading(holding)

    def lessons(self) -> tuple[LessonView, ...]:
        """Every lesson that may be shown now; withdrawn ones are left out."""
        ids = (set(self._newest) | set(self._served)) - set(self._withdrawn)
        views = [view for view in map(self.lesson, ids) if view and not view.manifest.is_rehearsal]
        return tuple(
            sorted(views, key=lambda view: (view.manifest.levels, view.manifest.subjects, view.manifest.title))
        )

    def lesson(self, lesson: LessonId) -> LessonView | None:
        """One lesson, a withdrawn one too; None when this node has not heard of it, or may not show it yet.

        A rehearsal is told of to those who know its name: the publisher asks how it went.
        """
        if gone := self._withdrawn.get(lesson):
            known = gone.lesson
            return LessonView(manifest=known, state=State.WITHDRAWN, reason=gone.why) if known else None
        newest, served = self._newest.get(lesson), self._served.get(lesson)
        shown = served or newest
        if shown is None:
            return None
        manifest = shown.manifest
        if manifest.available_from and manifest.available_from > self._now() and not manifest.is_rehearsal:
            return None
        following = newest.manifest.version if newest and newest.manifest != manifest else None
        view = LessonView(manifest=manifest, state=State.LISTED, next_version=following, is_offered=newest is not None)
        holding = self._held(manifest)
        if holding is None:
            if not self._is_followed(manifest):
                return view
            appointment = manifest.fetch_from if manifest.fetch_from and manifest.fetch_from > self._now() else None
            reason = f"it is fetched from {appointment.isoformat()} on" if appointment else None
            return attrs.evolve(view, state=State.WAITING, reason=reason)
        if holding.layout and not _expected(manifest).fits(holding.layout):
            return attrs.evolve(view, state=State.FAILED, reason=MISFIT)
        progress = holding.torrent.progress if holding.torrent else None
        peers = progress.peers if progress else 0
        return attrs.evolve(
            view,
            state=holding.state,
            reason=holding.trouble or self._obstacle(holding, peers),
            bytes_have=holding.bytes_have,
            peers=peers,
            crowd=holding.crowd,
            origin_bytes=holding.origin_bytes,
            peer_bytes=holding.peer_bytes,
        )

    def _obstacle(self, holding: Holding, peers: int) -> str | None:
        """Why nothing comes at the moment, though nothing is wrong with the content."""
        away = holding.missing_at_origin or self._parts.origins.last_error
        if holding.is_complete or peers or away is None:
            return None
        return f"no peer that can be reached has it, and {away}"

    def states(self) -> Mapping[State, int]:
        """How many lessons are in each state."""
        return Counter(view.state for view in self.lessons()) | Counter({State.WITHDRAWN: len(self._withdrawn)})

    async def change(self) -> None:
        """Wait until a lesson came into another state, or an edition was admitted."""
        await self._changed.park()

    async def _admit(self, vouched: Vouched) -> None:
        manifest = vouched.manifest
        expected = _expected_catalogue(manifest)
        holding = self._holdings.hold(expected, self._helpers(manifest))
        await holding.until(lambda: holding.is_complete or holding.is_refused)
        layout = holding.layout
        if layout is None or holding.is_refused:
            raise ManifestError(f"the content of {manifest.name} is refused ({holding.reason})")
        if not expected.fits(layout) or [entry.path for entry in layout.files] != [FILE_NAME]:
            raise ManifestError(f"the content of {manifest.name} is not a catalogue's")
        raw = await self._parts.library.file(manifest.info_hash, layout.files[0])
        self._stand_on(await self._ledger.admit(vouched, raw))
        lessons = self.admitted[manifest.name].edition.lessons
        logger.info("%s: edition %d, lessons: %d", manifest.name, manifest.edition, len(lessons))

    def _stand_on(self, weighed: Weighed) -> None:
        """Have what a step decided count: at once for who reads, and for the rest with the settler's next round."""
        for line in weighed.lines:
            logger.warning("%s", line)
        for trouble in weighed.troubles:
            logger.error("%s", trouble)
        for lesson in weighed.fallen:
            self._served.pop(lesson, None)
        self._take_over()

    def _take_over(self) -> None:
        memory = self._ledger.memory
        self._newest = listed(memory, filter(self._is_shown, memory.admitted))
        self._withdrawn = withdrawn(memory)

    async def _remember(self) -> None:
        """Take up what the library says was admitted, asked for and held; nothing is asked of the network."""
        await self._ledger.remember()
        memory = self._ledger.memory
        for row in await self._parts.library.lessons():
            if row.wanted:
                self._wanted.add(row.id)
            if row.served:
                try:
                    manifest = read_lesson(row.served, row.keys)
                except EdgeshareError as error:
                    logger.warning("the library's manifest of %s is damaged: %s", row.id, error)
                    continue
                backed = Backed(SignedLesson(manifest, row.served), row.keys, row.epoch)
                if memory.publishers is None or revocation(memory.publishers, backed) is None:
                    self._served[row.id] = backed
            self._rows[row.id] = row
        self._take_over()

    async def _settle(self) -> None:
        """Have what is held brought into line with what is listed and wanted; returns when it is."""
        settled = self._settled
        self._is_unsettled.set()
        await settled.wait()

    async def _settle_when_asked(self) -> None:
        while True:
            with trio.move_on_after(self._rest_s()):
                await self._is_unsettled.wait()
            self._is_unsettled = trio.Event()
            settled, self._settled = self._settled, trio.Event()
            await self._settle_once()
            settled.set()
            self._changed.unpark_all()

    def _rest_s(self) -> float:
        """How long nothing is to do when nobody asks; short of it where the clock is set anew in between."""
        if self._next_start is None:
            return SETTLE_EVERY_S
        return min(SETTLE_EVERY_S, max(0.0, (self._next_start - self._now()).total_seconds()))

    async def _settle_once(self) -> None:
        await self._forget()
        for each in self.admitted.values():
            self._holdings.hold(_expected_catalogue(each.manifest), self._helpers(each.manifest))
        for served in self._served.values():
            self._hold(served.manifest)
        self._queue.clear()
        self._next_start = None
        for lesson, newest in self._newest.items():
            if self._holdings.is_stored(newest.manifest.info_hash) or lesson in self._wanted:
                self._hold(newest.manifest)
            elif self._held(newest.manifest) is None and self._is_followed(newest.manifest):
                self._queue_up(newest.manifest)
        for lesson, newest in list(self._newest.items()):
            held = self._held(newest.manifest)
            if held and held.is_complete_as(_expected(newest.manifest)):  # a new version may have the same content
                await self._promote(lesson, newest)
        self._fill()
        needed = set(self._coming.values()) | {each.manifest.info_hash for each in self.admitted.values()}
        needed |= {each.manifest.info_hash for each in (*self._served.values(), *self._newest.values())}
        await self._holdings.drop_all_but(needed | self._spared())

    async def _forget(self) -> None:
        """Have the index forget what was withdrawn, and versions that are not served any more."""
        for lesson in self._withdrawn.keys() & self._served.keys():
            del self._served[lesson]
        for lesson, row in list(self._rows.items()):
            gone = self._withdrawn.get(lesson)
            if gone is None and (row.served is None or lesson in self._served):
                continue
            try:
                if row.wanted and (gone is None or gone.is_revocation):  # it may come back, and is wanted then
                    if row.served is not None:
                        await self._keep_lesson(attrs.evolve(row, served=None, keys={}, epoch=None))
                else:
                    await self._parts.library.drop_lesson(lesson)
                    self._rows.pop(lesson, None)
                    self._wanted -= {lesson} - set(self._config.fetch)
            except LibraryError as error:  # what withdrew it says the same at the next start
                logger.error("the withdrawn lesson %s is not forgotten yet: %s", lesson, error)

    def _spared(self) -> set[InfoHash]:
        """Contents that are taken back for now: an edition that is on its way may list them, signed by another key."""
        memory = self._ledger.memory
        return {
            gone.lesson.info_hash
            for gone in self._withdrawn.values()
            if gone.lesson and gone.is_revocation and memory.is_named(gone.by)
            if self._ledger.awaits(gone.lesson.catalogues)
        }

    def _queue_up(self, manifest: LessonManifest) -> None:
        """Have a followed lesson wait for its turn, or for its time: then it goes before what has none."""
        start = manifest.fetch_from
        if start is None:
            self._queue.append(manifest)
        elif start <= self._now():
            self._queue.appendleft(manifest)
        else:
            self._next_start = min(start, self._next_start or start)

    def _fill(self) -> None:
        """Begin with the next lessons in the queue, as long as few are being fetched."""
        busy = self._holdings.busy if self._queue else 0
        while self._queue and busy < AT_ONCE:
            manifest = self._queue.popleft()
            busy += self._holdings.get(manifest.info_hash) is None  # else another lesson has the same content
            self._hold(manifest)

    def _held(self, manifest: LessonManifest) -> Holding | None:
        """The holding of a lesson's content, if it was begun for what this manifest says of it."""
        held = self._holdings.get(manifest.info_hash)
        return held if held and held.is_expected(_expected(manifest)) else None

    def _hold(self, manifest: LessonManifest) -> Holding:
        """The holding of a lesson's content; begun when there is none."""
        named = [self.admitted[name].manifest for name in manifest.catalogues if name in self.admitted]
        return self._holdings.hold(_expected(manifest), self._helpers(*named))

    async def _attend(self, holding: Holding) -> NoReturn:
        """What a content's steps change for others, as long as it is held."""
        while True:
            before = holding.state, holding.is_unobtainable
            if holding.is_complete:
                for lesson, newest in list(self._newest.items()):
                    manifest = newest.manifest
                    if manifest.info_hash == holding.info_hash and holding.is_complete_as(_expected(manifest)):
                        await self._promote(lesson, newest)
            self._fill()
            self._changed.unpark_all()
            await holding.until(lambda: (holding.state, holding.is_unobtainable) != before)  # noqa: B023 - awaited here

    async def _promote(self, lesson: LessonId, newest: Backed) -> None:
        """A lesson's newest version is complete: it is served from now on, and the one before it goes."""
        if self._heard and revocation(self._heard, newest) is not None:
            return  # it is about to be taken back, and the one before may not be
        before = self._served.get(lesson)
        self._served[lesson] = newest
        if before == newest:
            return
        row = StoredLesson(
            id=lesson,
            wanted=lesson in self._wanted,
            served=newest.lesson.raw,
            keys=newest.keys,
            epoch=newest.epoch,
        )
        try:
            await self._keep_lesson(row)
        except LibraryError as error:  # what is served now would be gone at the next start: the one before stays
            logger.error("version %d of %s is not served yet: %s", newest.manifest.version, lesson, error)
            self._served.pop(lesson, None)
            if before and lesson not in self._withdrawn:
                self._served[lesson] = before
            return
        if before and before.manifest.info_hash != newest.manifest.info_hash:
            self._is_unsettled.set()

    async def _keep_lesson(self, row: StoredLesson) -> None:
        await self._parts.library.keep_lesson(row)
        self._rows[row.id] = row
        if row.id in self._withdrawn:  # while it was written
            self._is_unsettled.set()

    def _is_shown(self, catalogue: str) -> bool:
        return catalogue in self._config.follow or catalogue in self._config.show

    def _is_followed(self, manifest: LessonManifest) -> bool:
        return any(name in self._config.follow and name in self.admitted for name in manifest.catalogues)

    def check_known(self, lesson: LessonId) -> None:
        """Refuse a lesson that may not come here; whatever adds content asks this first.

        Raises:
            LibraryError: it was withdrawn, or no catalogue of this node lists it.
        """
        if gone := self._withdrawn.get(lesson):
            raise LibraryError(f"{lesson} was withdrawn", hint=gone.why)
        if lesson in self._newest or lesson in self._served:
            return
        names = ", ".join((*self._config.follow, *self._config.show)) or "none"
        close = nearest(lesson, self._newest)
        hint = f"did you mean {close}?" if close else f"this node's catalogues: {names}; add others to `follow`"
        raise LibraryError(f"no catalogue here lists the lesson {lesson}", hint=hint)

    def _helpers(self, *catalogues: CatalogueManifest) -> Helpers:
        swarm = self._config.swarm
        found = dict.fromkeys([*swarm.trackers, *(url for each in catalogues for url in each.trackers)])
        return Helpers(trackers=tuple(found), peers=swarm.peers)


def _expected_catalogue(manifest: CatalogueManifest) -> Expected:
    return Expected(info_hash=manifest.info_hash, size=manifest.size, files=1)


def _expected(manifest: LessonManifest) -> Expected:
    return Expected(info_hash=manifest.info_hash, size=manifest.size, files=manifest.files, audience=manifest.audience)
