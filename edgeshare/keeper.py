"""What this node keeps: the editions it admitted, the lessons they list, and one holding for each content it wants.

A lesson is wanted when its catalogue is followed, when the config or somebody names or pins it, or when a reader opens
it. When one that is only followed is begun, `prefetch.py` decides; what goes for it, `stock.py`. A new version is
fetched beside the one that is served, with the files that have not changed taken from there, and takes its place when
it is complete; the one before goes when nobody reads it. A withdrawn lesson is no longer served, seeded or kept from
the moment that its catalogue's edition is admitted. What may be admitted, and what is withdrawn, `admission.py` decides
and `ledger.py` remembers; here it is carried out.

One task, the settler, brings what is held into line with what is listed and wanted; others ask it to. So nothing is
removed by a task that ends with what it removes, or half-removed when an edition is given up for a newer one.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import AsyncGenerator, Callable, Mapping
from collections.abc import Set as AbstractSet
from contextlib import asynccontextmanager, suppress
from datetime import UTC, date, datetime
from typing import NoReturn

import attrs
import trio

from edgeshare import cycles, host
from edgeshare.admission import Admitted, Backed, Weighed, publisher_of, revocation
from edgeshare.catalogue import FILE_NAME
from edgeshare.config import Config
from edgeshare.display import Display
from edgeshare.errors import EdgeshareError, LibraryError, ManifestError
from edgeshare.expected import MISFIT, Expected
from edgeshare.holding import Holding
from edgeshare.holdings import Brought, Holdings, Reading
from edgeshare.ledger import Ledger, read_served
from edgeshare.library.eviction import QuotaError, Rank, Space
from edgeshare.library.index import StoredLesson
from edgeshare.library.room import Disk
from edgeshare.manifest import CatalogueManifest, InfoHash, LessonId, LessonManifest
from edgeshare.parts import Parts
from edgeshare.precedence import Precedence
from edgeshare.prefetch import Timetable, Turn
from edgeshare.publishers import Publishers
from edgeshare.roll import Roll
from edgeshare.stock import Stock
from edgeshare.swarm.session import Helpers
from edgeshare.trust import Vouched

logger = logging.getLogger(__name__)

SETTLE_EVERY_S = 600.0  # when nobody asks: what a full or failing disk refused is tried again
MORE_ROOM = 2**20  # bytes; with less than that nothing new is begun
PORTION = 500  # lessons that are looked at in one go
AT_ONCE = 16  # contents that are fetched at the same time; what somebody asks for does not wait for its turn


def _now() -> datetime:
    return datetime.now(UTC)


class Keeper:
    """The node's lessons; `run` owns the tasks of all holdings."""

    def __init__(
        self,
        parts: Parts,
        config: Config,
        now: Callable[[], datetime] = _now,
        believed: Callable[[], datetime] | None = None,
        is_metered: Callable[[], bool] = lambda: False,
    ) -> None:
        """Keep what `config` says; `now` is the clock, aware, and `believed` a moment that it certainly is.

        By the believed moment lessons expire: a clock that runs a year ahead must not empty the catalogue. While the
        link `is_metered`, nothing is fetched ahead; whoever changes that says so by `reconsider`.
        """
        self._is_metered = is_metered
        self._parts = parts
        self._config = config
        self._now = now
        self._believed = believed or now
        self._ledger = Ledger(parts.library)
        self.roll = Roll(config, now, self._believed)
        self._rows: dict[LessonId, StoredLesson] = {}  # as the index knows them
        self._writing = trio.Lock()  # who changes a row reads, awaits and writes it
        self._heard: Publishers | None = None  # by the newest metadata, also while it is being weighed
        self._holdings = Holdings(parts, self._attend)
        self._stock = Stock(
            self._holdings,
            config.quota,
            config.keep_free,
            lambda: self.roll.worths((held.info_hash for held in self._holdings), self._editions()),
            lambda: self.roll.superseded({held.info_hash for held in self._holdings}),
        )
        self._precedence = Precedence(
            self._holdings,
            self._stock,
            is_metered=is_metered,
            is_asked_for=self.roll.is_content_asked_for,
        )
        self.display = Display(
            self.roll,
            self._holdings,
            config.schedule.window,
            now,
            is_metered=is_metered,
            origin_trouble=lambda: parts.origins.last_error,
        )
        self._taking_over = trio.Lock()
        self._coming: dict[str, InfoHash] = {}  # the content of each catalogue's edition that is not admitted yet
        self._queue: deque[LessonManifest] = deque()  # wanted, their turn to come
        self._timetable = Timetable(parts.library, config.schedule.window, host.local_zone(), parts.rng, now())
        self._is_asked = trio.Event()  # the settler has something to do: to settle, or less
        self._is_unsettled = False
        self._noted_at: dict[LessonId, int] = {}  # the minute in which each was noted as read
        self._reads: set[LessonId] = set()  # read for the first time on a day, which the index does not know yet
        self._cleared_on: date | None = None  # the day on which strays were looked for last
        self._settled = trio.Event()  # what the settler sets after its next round
        self._changed = trio.lowlevel.ParkingLot()

    @property
    def admitted(self) -> Mapping[str, Admitted]:
        """The editions that this node stands on, by their catalogue's name."""
        return self._ledger.memory.admitted

    @property
    def bound_by(self) -> frozenset[str]:
        """Catalogues whose word counts here, followed or not; see `Roll.bound_by`."""
        return self.roll.bound_by

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Keep the lessons until cancelled; started when what the library held is known again.

        Raises:
            LibraryError: the index cannot be read.
        """
        with cycles.lasting():
            await self._remember()
        async with trio.open_nursery() as nursery:
            with cycles.lasting():
                await self._holdings.open(nursery)
                nursery.start_soon(self._settle_when_asked)
                await self._settle()
            nursery.start_soon(self._parts.library.empty_trash)
            nursery.start_soon(self._parts.library.watch)
            nursery.start_soon(self._keep_index_whole)
            nursery.start_soon(self._settle_when_there_is_room)
            nursery.start_soon(self._precedence.keep)
            task_status.started()

    def doubt_disk(self) -> None:
        """A write to the library's disk failed: it is looked at at once."""
        self._parts.library.doubt()

    def stands_on(self, vouched: Vouched) -> bool:
        """Whether this very edition was admitted, with the same keys behind it: `admit` has nothing to do."""
        return self._ledger.stands_on(vouched)

    async def heed(self, publishers: Publishers, offered: Mapping[str, Vouched] | None = None) -> None:
        """Stand on what the newest metadata says of publishers; returns when it is carried out.

        `offered` are the editions that the same metadata names. What a revoked key signed is not listed or served from
        now on; it is deleted only when those are admitted, as they may list it again, signed by another key, and then
        it need not be fetched anew.
        """
        self._heard, before = publishers, self._ledger.memory
        if weighed := await self._ledger.heed(publishers, offered or {}, lambda: tuple(self.roll.served.values())):
            if weighed.memory is not before:  # else other editions are offered, and nothing more
                await self._stand_on(weighed)
            for name in [name for name in self._coming if not self._ledger.memory.is_named(publisher_of(name))]:
                del self._coming[name]  # nobody vouches for it any more
            await self._settle()

    async def admit(self, vouched: Vouched, brought: Brought | None = None) -> None:
        """Take the next edition of a catalogue: fetch its content through the swarm, check it, and stand on it.

        Where its content was `brought`, nothing is fetched.

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
            await self._admit(vouched, brought)
        except trio.Cancelled:  # for a newer one, which should not wait behind it
            if self._coming.get(manifest.name) == manifest.info_hash:
                del self._coming[manifest.name]
            self._ask_to_settle()
            raise
        self._coming.pop(manifest.name, None)
        await self._settle()

    async def want(self, lesson: LessonId) -> None:
        """Fetch a lesson because somebody asked for it by name; kept through restarts.

        Raises:
            LibraryError: no catalogue of this node lists it, it was withdrawn, or the wish cannot be kept.
        """
        self._begin(self.roll.manifest(lesson), Rank.KEPT)
        async with self._writing:
            row = self._row(lesson)
            if not row.wanted:
                await self._keep_lesson(attrs.evolve(row, wanted=True))
            is_new = lesson not in self.roll.wanted
            self.roll.wanted.add(lesson)
        if is_new:
            await self._settle()

    async def pin(self, lesson: LessonId) -> None:
        """Fetch a lesson, and keep it and its next versions whatever else needs room, until it is unpinned.

        Raises:
            LibraryError: as `want`; a `QuotaError` where there is no room for it.
        """
        self._begin(self.roll.manifest(lesson), Rank.KEPT)
        async with self._writing:
            await self._keep_lesson(attrs.evolve(self._row(lesson), pinned=True))
            self.roll.pin(self.roll.pinned | {lesson})
        await self._settle()

    async def unpin(self, lesson: LessonId) -> None:
        """Let a lesson go again when something else needs its room.

        Raises:
            LibraryError: it is not pinned, or that cannot be kept.
        """
        if lesson not in self.roll.pinned:
            raise LibraryError(f"{lesson} is not pinned", hint="`edgeshare lessons` shows which are")
        async with self._writing:
            await self._keep_lesson(attrs.evolve(self._row(lesson), pinned=False))
            self.roll.pin(self.roll.pinned - {lesson})
        await self._settle()

    def has(self, lesson: LessonId, content: InfoHash) -> bool:
        """Whether a version of a lesson is complete here, and this is its content."""
        served, held = self.roll.served.get(lesson), self._holdings.get(content)
        return served is not None and served.manifest.info_hash == content and held is not None and held.is_complete

    async def adopt(self, lesson: LessonId, brought: Brought) -> None:
        """Keep a lesson whose content was brought by another way than the swarm; it is served when this returns.

        Raises:
            LibraryError: no catalogue lists it with this content, it was withdrawn, it cannot be kept, or, as a
                `QuotaError`, there is no room for it.
            ManifestError: its content is not what its manifest says.
        """
        self.roll.check_known(lesson)
        known = [each.manifest for each in (self.roll.newest.get(lesson), self.roll.served.get(lesson)) if each]
        manifest = next((each for each in known if each.info_hash == brought.stored.info_hash), None)
        if manifest is None:
            raise LibraryError(f"{lesson} is another version here", hint="see `edgeshare lessons` for what is listed")
        expected = Expected.of_lesson(manifest)
        if not expected.fits(brought.layout):
            raise ManifestError(f"{lesson} is refused ({MISFIT})")
        if self._holdings.get(manifest.info_hash) is None:
            self._stock.make_room(manifest, Rank.FOLLOWED, here=manifest.size)  # it does not drive out its like
        async with self._writing:  # somebody brought it: that is worth as much as a wish
            await self._keep_lesson(attrs.evolve(self._row(lesson), wanted=True))
            self.roll.wanted.add(lesson)
        named = [self.admitted[name].manifest for name in manifest.catalogues if name in self.admitted]
        await self._holdings.adopt(expected, self._helpers(*named), brought)
        await self._settle()

    @asynccontextmanager
    async def read(self, lesson: LessonId) -> AsyncGenerator[Reading, None]:
        """The lesson's files while somebody reads; starts fetching it when it is only listed. See `view.Node`."""
        manifest = self.roll.manifest(lesson)
        expected, holding = Expected.of_lesson(manifest), self._begin(manifest, Rank.KEPT)
        with self._stock.reading(lesson, manifest.info_hash, lambda: self._is_left(lesson, manifest.info_hash)):
            if not holding.is_complete:
                self._precedence.reconsider()
            if not expected.fits(await holding.ready()):
                raise LibraryError(f"the lesson cannot be opened ({MISFIT})")
            self._note_use(lesson)
            yield Reading(holding)

    def complete(self, lesson: LessonId) -> Reading | None:
        """The files of a complete lesson, at once; see `view.Node`. Takes a tenth of what its view and `read` take."""
        backed = self.roll.served.get(lesson)
        if backed is None or lesson in self.roll.withdrawn:
            return None
        manifest = backed.manifest
        if manifest.available_from or manifest.expires:  # the clock has a word in it
            return None
        holding = self._holdings.get(manifest.info_hash)
        if holding is None or not holding.is_complete or manifest.info_hash in self._stock.leaving:
            return None
        layout = holding.layout
        if layout is None or (manifest.size, manifest.files) != (layout.size, len(layout.files)):
            return None
        self._stock.was_read(manifest.info_hash)
        self._note_use(lesson)
        return Reading(holding)

    def _note_use(self, lesson: LessonId) -> None:
        """Somebody reads it today; by the believed clock, which takes its time and is looked at once a minute."""
        minute = int(trio.current_time()) // 60
        if self._noted_at.get(lesson) == minute:
            return
        self._noted_at[lesson] = minute
        today = self._believed().date()
        if self.roll.used.get(lesson) != today:
            self.roll.used[lesson] = today
            self._reads.add(lesson)
            self._is_asked.set()

    @property
    def is_busy(self) -> bool:
        """Whether something that was begun is still to come."""
        return bool(self._holdings.coming)

    @property
    def used_bytes(self) -> int:
        """Bytes of the quota that are taken, or promised to what is being fetched."""
        return self._stock.used()

    def reconsider(self) -> None:
        """What decides about fetching ahead has changed."""
        self._precedence.reconsider()
        self._ask_to_settle()

    def hear_again(self) -> None:
        """The origins are heard again after they were not; see `Timetable.hear_again`."""
        self._timetable.hear_again(self._now())

    async def change(self) -> None:
        """Wait until a lesson came into another state, or an edition was admitted."""
        await self._changed.park()

    async def _admit(self, vouched: Vouched, brought: Brought | None) -> None:
        manifest = vouched.manifest
        expected, helpers = Expected.of_edition(manifest), self._helpers(manifest)
        if brought:
            holding = await self._holdings.adopt(expected, helpers, brought)
        else:
            holding = self._holdings.hold(expected, helpers)
        await holding.until(lambda: holding.is_complete or holding.is_refused)
        layout = holding.layout
        if layout is None or holding.is_refused:
            raise ManifestError(f"the content of {manifest.name} is refused ({holding.reason})")
        if not expected.fits(layout) or [entry.path for entry in layout.files] != [FILE_NAME]:
            raise ManifestError(f"the content of {manifest.name} is not a catalogue's")
        raw = await self._parts.library.file(manifest.info_hash, layout.files[0])
        await self._stand_on(await self._ledger.admit(vouched, raw))
        lessons = self.admitted[manifest.name].edition.lessons
        logger.info("%s: edition %d, lessons: %d", manifest.name, manifest.edition, len(lessons))

    async def _stand_on(self, weighed: Weighed) -> None:
        """Have what a step decided count: at once for who reads, and for the rest with the settler's next round."""
        for line in weighed.lines:
            logger.warning("%s", line)
        for trouble in weighed.troubles:
            logger.error("%s", trouble)
        for lesson in weighed.fallen:
            self.roll.serve(lesson, None)
        with trio.CancelScope(shield=True):  # what was admitted counts; half a second at most
            await self._take_over()

    async def _take_over(self) -> None:
        async with self._taking_over:  # or what is older might come last
            with cycles.lasting():
                self.roll.take_over(await trio.to_thread.run_sync(self.roll.read, self._ledger.memory))

    async def _remember(self) -> None:
        """Take up what the library says was admitted, asked for and held; nothing is asked of the network."""
        await self._timetable.remember()
        await self._ledger.remember()
        memory = self._ledger.memory
        rows = await self._parts.library.lessons()
        here = {row.id for row in rows if row.served}
        read = {
            lesson.manifest.id: Backed(lesson, admitted.keys, admitted.epoch)
            for admitted in memory.admitted.values()
            for lesson in admitted.edition.lessons
            if lesson.manifest.id in here
        }
        self.roll.pin(row.id for row in rows if row.pinned)
        for row in rows:
            if row.wanted:
                self.roll.wanted.add(row.id)
            if row.used_on:
                self.roll.used[row.id] = row.used_on
            if served := row.served:
                backed = read.get(row.id)
                if backed and (backed.lesson.raw, backed.keys, backed.epoch) == (served, row.keys, row.epoch):
                    row = attrs.evolve(row, served=backed.lesson.raw, keys=backed.keys)  # noqa: PLW2901 - kept once
                else:
                    backed = _read_again(row)
                if backed is None:
                    row = attrs.evolve(row, served=None, keys={}, epoch=None)  # noqa: PLW2901 - the wish stands
                elif memory.publishers is None or revocation(memory.publishers, backed) is None:
                    self.roll.served[row.id] = backed
            self._rows[row.id] = row
        await self._take_over()

    async def _settle_when_there_is_room(self) -> NoReturn:
        """Begin what there was no room for as soon as somebody made some, and not with the next round."""

        def has_more(disk: Disk) -> bool:
            known = self._stock.free
            is_more = known is None or (disk.free or 0) > known + MORE_ROOM
            return is_more and bool(self.roll.short) and not disk.is_paused

        while True:
            await self._parts.library.until_disk(has_more)
            await self._settle()

    async def _keep_index_whole(self) -> NoReturn:
        """Have an index that takes the place of a lost one know what this node does."""
        openings = 0
        while True:
            openings = await self._parts.library.reopened(openings)
            while True:
                try:
                    await self._tell_index()
                    break
                except LibraryError as error:
                    logger.warning("the index does not know yet all that this node holds: %s", error)
                await trio.sleep(self._parts.pace.retry_every_s)

    async def _tell_index(self) -> None:
        """Have the index know what this node does, and nothing else.

        Raises:
            LibraryError: it cannot be read or changed.
        """
        library = self._parts.library
        await self._ledger.keep_anew()
        known = {row.id: row for row in await library.lessons()}
        for lesson in known.keys() - self._rows.keys():
            await library.drop_lesson(lesson)
        await library.keep_lessons([row for lesson, row in self._rows.items() if known.get(lesson) != row])
        await self._holdings.keep_anew()

    async def _settle(self) -> None:
        """Have what is held brought into line with what is listed and wanted; returns when it is."""
        settled = self._settled
        self._ask_to_settle()
        await settled.wait()

    def _ask_to_settle(self) -> None:
        self._is_unsettled = True
        self._is_asked.set()

    async def _settle_when_asked(self) -> None:
        while True:
            with trio.move_on_after(self._rest_s()) as rest:
                await self._is_asked.wait()
            self._is_asked = trio.Event()
            await self._keep_reads()
            if self._is_unsettled or rest.cancelled_caught:
                self._is_unsettled = False
                settled, self._settled = self._settled, trio.Event()
                await self._settle_once()
                settled.set()
                self._changed.unpark_all()

    async def _keep_reads(self) -> None:
        """Have the index know which lessons were used today, so that others go before them."""
        reads, self._reads = self._reads, set()
        for lesson in reads:
            async with self._writing:
                with suppress(LibraryError):  # it is remembered all the same while the node runs
                    if (row := self._rows.get(lesson)) is not None:
                        await self._keep_lesson(attrs.evolve(row, used_on=self.roll.used[lesson]))

    def _rest_s(self) -> float:
        """How long nothing is to do when nobody asks; short of it where the clock is set anew in between."""
        if self.roll.turn.look_at is None:
            return SETTLE_EVERY_S
        return min(SETTLE_EVERY_S, max(0.0, (self.roll.turn.look_at - self._now()).total_seconds()))

    async def _settle_once(self) -> None:
        self._stock.look(await self._parts.library.free_bytes())
        await self._timetable.look(self._now())
        await self._forget()
        for each in self.admitted.values():
            self._holdings.hold(Expected.of_edition(each.manifest), self._helpers(each.manifest))
        for place, (lesson, served) in enumerate(list(self.roll.served.items())):
            await _pause(place)
            if self._holdings.of(served.manifest) is None and self.roll.served.get(lesson) is served:
                self._hold(served.manifest)
        await self._queue_up()
        self._stock.shrink()
        if self._stock.leaving:
            self._part_with_leaving()
            await self._forget()
        for place, held in enumerate(list(self._holdings)):
            await _pause(place)
            await self._promote_all_of(held)
        self._fill()
        await trio.lowlevel.checkpoint()
        before = self._stock.leaving & {held.info_hash for held in self._holdings}
        await self._holdings.drop_all_but(self._needed)
        await self._clear_strays()
        self._stock.leaving.intersection_update(held.info_hash for held in self._holdings)
        if before:
            self._stock.look(await self._parts.library.free_bytes())
        self._precedence.reconsider()

    def _needed(self) -> AbstractSet[InfoHash]:
        """The contents that stay, of those that are here."""
        # Which of a few thousand are among 50,000 is soon found out; to put those together takes far longer.
        return ((self._holdings.names & self.roll.contents) | self._needed_besides()) - self._stock.leaving

    def _needed_besides(self) -> set[InfoHash]:
        """The contents that stay, whether their lessons are listed or not."""
        served = {each.manifest.info_hash for each in self.roll.served.values()}
        return served | self._editions() | self._spared() | self._stock.read(besides=self.roll.withdrawn)

    async def _clear_strays(self) -> None:
        """Once a day, delete what is on the disk and nothing names, when the catalogues are here that would."""
        today = self._believed().date()
        if self.admitted and self._cleared_on != today:
            self._cleared_on = today
            known = {*self._holdings.names, *self.roll.contents, *self._needed_besides()}
            try:
                await self._parts.library.clear_strays(known, today)
            except LibraryError as error:
                logger.warning("what nothing names any more is not deleted: %s", error)

    def _editions(self) -> set[InfoHash]:
        """The contents of catalogues' editions that are stood on, or coming."""
        return {each.manifest.info_hash for each in self.admitted.values()} | set(self._coming.values())

    def _part_with_leaving(self) -> None:
        """No longer serve what is about to go for something else."""
        for lesson, served in list(self.roll.served.items()):
            if served.manifest.info_hash in self._stock.leaving:
                self.roll.serve(lesson, None)
                logger.info("%s goes: its room is needed", lesson)

    async def _forget(self) -> None:
        """Have the index forget what was withdrawn, and versions that are not served any more."""
        for lesson in self.roll.withdrawn.keys() & self.roll.served.keys():
            self.roll.serve(lesson, None)
        for lesson in [lesson for lesson in self._rows if self._is_to_forget(lesson)]:
            async with self._writing:
                if self._is_to_forget(lesson):
                    await self._forget_one(lesson)

    def _is_to_forget(self, lesson: LessonId) -> bool:
        row = self._rows.get(lesson)
        is_unserved = row is not None and row.served is not None and lesson not in self.roll.served
        return row is not None and (lesson in self.roll.withdrawn or is_unserved)

    async def _forget_one(self, lesson: LessonId) -> None:
        row, gone = self._rows[lesson], self.roll.withdrawn.get(lesson)
        try:
            is_named = row.wanted or row.pinned
            if is_named and (gone is None or gone.is_revocation):  # it may come back, and is wanted then
                if row.served is not None:
                    await self._keep_lesson(attrs.evolve(row, served=None, keys={}, epoch=None))
            else:
                await self._parts.library.drop_lesson(lesson)
                self._rows.pop(lesson, None)
                self.roll.wanted -= {lesson} - set(self._config.fetch)
                self.roll.pin(self.roll.pinned - {lesson})
        except LibraryError as error:  # what withdrew it says the same at the next start
            logger.error("%s is not forgotten yet: %s", lesson, error)

    def _spared(self) -> set[InfoHash]:
        """Contents that are taken back for now: an edition that is on its way may list them, signed by another key."""
        memory = self._ledger.memory
        return {
            gone.lesson.info_hash
            for gone in self.roll.withdrawn.values()
            if gone.lesson and gone.is_revocation and memory.is_named(gone.by)
            if self._ledger.awaits(gone.lesson.catalogues)
        }

    async def _queue_up(self) -> None:
        """Have what is wanted, and not begun, wait for its turn."""
        self.roll.short.clear()
        asked: list[LessonManifest] = []
        followed: list[LessonManifest] = []
        for place, (lesson, newest) in enumerate(self.roll.newest.items()):  # which is replaced, and never changed
            await _pause(place)
            manifest = newest.manifest
            if self._holdings.is_stored(manifest.info_hash):
                self._hold(manifest)
            elif self._holdings.of(manifest) is None:
                if self.roll.is_asked_for(lesson):
                    asked.append(manifest)
                elif self.roll.is_followed(manifest) and not self.roll.is_over(manifest):
                    followed.append(manifest)
        self.roll.turn = Turn() if self._is_metered() else self._timetable.turn(followed, self._now())
        self._queue = deque((*asked, *self.roll.turn.due))

    def _fill(self) -> None:
        """Begin with the next lessons in the queue, as long as few are being fetched."""
        if not self._queue:
            return
        busy, today = self._holdings.busy, self.roll.today
        hopeless: dict[Rank, tuple[int, Space]] = {}  # the least size for which there was no room, and the room
        while self._queue and busy < AT_ONCE:
            manifest = self._queue.popleft()
            if self._holdings.of(manifest) is not None:
                continue
            rank = self.roll.rank(manifest, today)
            if rank in hopeless and manifest.size >= hopeless[rank][0]:
                self.roll.short[manifest.id] = hopeless[rank][1]
                continue
            is_new = self._holdings.get(manifest.info_hash) is None  # else another lesson has the same content
            try:
                self._begin(manifest, rank)
            except QuotaError as error:
                self.roll.short[manifest.id] = error.space
                hopeless[rank] = manifest.size, error.space
            else:
                busy += is_new

    def _begin(self, manifest: LessonManifest, rank: Rank) -> Holding:
        """The holding of a lesson's content; room is made, and it is begun, when there is none.

        Raises:
            QuotaError: there is no room for it.
        """
        self._stock.leaving.discard(manifest.info_hash)
        if (held := self._holdings.of(manifest)) is not None:
            return held
        if self._holdings.get(manifest.info_hash) is None and not self._holdings.is_stored(manifest.info_hash):
            served = self.roll.served.get(manifest.id)
            before = self._holdings.get(served.manifest.info_hash) if served else None
            self._stock.make_room(manifest, rank, instead=before.size if before else 0)
            if self._stock.leaving:
                self._part_with_leaving()
                self._ask_to_settle()
        self.roll.short.pop(manifest.id, None)
        return self._hold(manifest)

    def _is_left(self, lesson: LessonId, content: InfoHash) -> None:
        """The last reader of a content has left: it may be of a version that waits only for that."""
        shown = self.roll.served.get(lesson) or self.roll.newest.get(lesson)
        if shown is None or shown.manifest.info_hash != content:
            self._ask_to_settle()
        if (held := self._holdings.get(content)) and not held.is_complete:
            self._precedence.reconsider()

    def _hold(self, manifest: LessonManifest) -> Holding:
        """The holding of a lesson's content; begun when there is none."""
        named = [self.admitted[name].manifest for name in manifest.catalogues if name in self.admitted]
        served = self.roll.served.get(manifest.id)
        before = served.manifest.info_hash if served else None
        return self._holdings.hold(Expected.of_lesson(manifest), self._helpers(*named), before)

    async def _attend(self, holding: Holding) -> None:
        """What a content's step changes for others."""
        await self._promote_all_of(holding)
        self._fill()
        self._precedence.reconsider()
        self._changed.unpark_all()

    async def _promote_all_of(self, held: Holding) -> None:
        """Serve the newest version of each lesson whose content this is; several may have the same."""
        for lesson in self.roll.lessons_of(held.info_hash):
            newest = self.roll.newest.get(lesson)
            if newest and held.is_complete_as(Expected.of_lesson(newest.manifest)):
                await self._promote(lesson, newest)

    async def _promote(self, lesson: LessonId, newest: Backed) -> None:
        """A lesson's newest version is complete: it is served from now on, and the one before it goes."""
        if newest.manifest.info_hash in self._stock.leaving:
            return
        if self._heard and revocation(self._heard, newest) is not None:
            return  # it is about to be taken back, and the one before may not be
        before = self.roll.served.get(lesson)
        self.roll.serve(lesson, newest)
        if before == newest:
            return
        async with self._writing:
            row = attrs.evolve(
                self._row(lesson),
                wanted=lesson in self.roll.wanted,
                used_on=self.roll.used.setdefault(lesson, self._believed().date()),
                served=newest.lesson.raw,
                keys=newest.keys,
                epoch=newest.epoch,
            )
            try:
                await self._keep_lesson(row)
            except LibraryError as error:  # what is served now would be gone at the next start: the one before stays
                logger.error("version %d of %s is not served yet: %s", newest.manifest.version, lesson, error)
                self.roll.serve(lesson, before if lesson not in self.roll.withdrawn else None)
                return
        if before and before.manifest.info_hash != newest.manifest.info_hash:
            self._ask_to_settle()

    def _row(self, lesson: LessonId) -> StoredLesson:
        return self._rows.get(lesson) or StoredLesson(id=lesson, wanted=False, served=None, keys={})

    async def _keep_lesson(self, row: StoredLesson) -> None:
        await self._parts.library.keep_lesson(row)
        self._rows[row.id] = row
        if row.id in self.roll.withdrawn:  # while it was written
            self._ask_to_settle()

    def _helpers(self, *catalogues: CatalogueManifest) -> Helpers:
        swarm = self._config.swarm
        found = dict.fromkeys([*swarm.trackers, *(url for each in catalogues for url in each.trackers)])
        return Helpers(trackers=tuple(found), peers=swarm.peers)


async def _pause(place: int) -> None:
    """Give way to readers once in so many lessons that are looked at: they wait some milliseconds, and no longer."""
    if place % PORTION == 0:
        await trio.lowlevel.checkpoint()


def _read_again(row: StoredLesson) -> Backed | None:
    """What an earlier run served, verified; None when it is damaged."""
    try:
        return read_served(row)
    except EdgeshareError as error:
        logger.warning("the library's manifest of %s is damaged: %s", row.id, error)
        return None
