"""What this node keeps: the editions it admitted, the lessons they list, and one holding for each content it wants.

A lesson is wanted when its catalogue is followed, when the config or somebody names it, or when a reader opens it. One
that is only followed, and has a `fetch_from`, is begun at that time by this node's clock, and before what waits. A new
version is fetched beside the one that is served and takes its place when it is complete. A withdrawn lesson is
no longer served, seeded or kept from the moment that its catalogue's edition is admitted.

One task, the settler, brings what is held into line with what is listed and wanted; others ask it to. So nothing is
removed by a task that ends with what it removes, or half-removed when an edition is given up for a newer one.
"""

from __future__ import annotations

import logging
from collections import Counter, deque
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime
from typing import NoReturn

import attrs
import trio

from edgeshare.catalogue import FILE_NAME, Edition, SignedLesson, Withdrawal, newest, read_edition, withdrawn
from edgeshare.config import Config, nearest
from edgeshare.errors import EdgeshareError, LibraryError, ManifestError, TrustError
from edgeshare.holding import Expected, Holding, Parts
from edgeshare.layout import FileEntry
from edgeshare.library.index import StoredCatalogue, StoredLesson, StoredTorrent
from edgeshare.manifest import CatalogueManifest, InfoHash, LessonId, LessonManifest, read_catalogue, read_lesson
from edgeshare.signing import PublicKey
from edgeshare.swarm.session import Helpers
from edgeshare.trust import Vouched
from edgeshare.view import LessonView, State

logger = logging.getLogger(__name__)

SETTLE_EVERY_S = 600.0  # when nobody asks: what a full or failing disk refused is tried again
AT_ONCE = 16  # contents that are fetched at the same time; what somebody asks for does not wait for its turn


def _now() -> datetime:
    return datetime.now(UTC)


@attrs.frozen
class _Life:
    """The task of one holding."""

    scope: trio.CancelScope = attrs.field(factory=trio.CancelScope)
    over: trio.Event = attrs.field(factory=trio.Event)


@attrs.frozen(kw_only=True)
class Admitted:
    """A catalogue's edition that this node stands on."""

    manifest: CatalogueManifest
    edition: Edition
    keys: Mapping[bytes, PublicKey]


class Keeper:
    """The node's lessons; `run` owns the tasks of all holdings."""

    def __init__(self, parts: Parts, config: Config, now: Callable[[], datetime] = _now) -> None:
        self.admitted: dict[str, Admitted] = {}
        self._parts = parts
        self._config = config
        self._now = now  # aware, UTC
        self._newest: dict[LessonId, SignedLesson] = {}
        self._withdrawn: dict[LessonId, Withdrawal] = {}
        self._served: dict[LessonId, LessonManifest] = {}  # complete versions; may be older than the newest
        self._served_raw: dict[LessonId, StoredLesson] = {}
        self._wanted: set[LessonId] = set(config.fetch)
        self._holdings: dict[InfoHash, Holding] = {}
        self._lives: dict[InfoHash, _Life] = {}
        self._leaving: dict[InfoHash, trio.Event] = {}  # contents that are being deleted
        self._undeleted: set[InfoHash] = set()  # the disk refused
        self._stored: dict[InfoHash, StoredTorrent] = {}
        self._coming: dict[str, InfoHash] = {}  # the content of each catalogue's edition that is not admitted yet
        self._queue: deque[LessonManifest] = deque()  # wanted, their turn to come
        self._next_start: datetime | None = None  # when the next lesson that may not be fetched yet may be
        self._is_unsettled = trio.Event()
        self._settled = trio.Event()  # what the settler sets after its next round
        self._reading = trio.CapacityLimiter(1)  # editions, one after the other
        self._nursery: trio.Nursery | None = None
        self._changed = trio.lowlevel.ParkingLot()

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Keep the lessons until cancelled; started when what the library held is known again.

        Raises:
            LibraryError: the index cannot be read.
        """
        await self._remember()
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            nursery.start_soon(self._parts.library.empty_trash)
            nursery.start_soon(self._settle_when_asked)
            await self._settle()
            task_status.started()

    async def admit(self, vouched: Vouched) -> None:
        """Take the next edition of a catalogue: fetch its content through the swarm, check it, and stand on it.

        Raises:
            ManifestError: its content is not what its manifest says.
            TrustError: it is not newer than what was admitted, and other.
            LibraryError: it cannot be kept.
        """
        manifest = vouched.manifest
        before = self.admitted.get(manifest.name)
        if before and before.manifest.edition >= manifest.edition:
            if before.manifest != manifest:
                ours = f"edition {before.manifest.edition} was admitted here"
                hint = "its publisher may have gone back to a backup: it has to release a higher edition"
                what = f"the origin offers another edition {manifest.edition} of {manifest.name}, and {ours}"
                raise TrustError(what, hint=hint)
            return
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
        self._check_known(lesson)
        known = self._served_raw.get(lesson) or StoredLesson(id=lesson, wanted=False, served=None, keys={})
        if not known.wanted:
            await self._keep_lesson(attrs.evolve(known, wanted=True))
        if lesson not in self._wanted:
            self._wanted.add(lesson)
            await self._settle()

    @asynccontextmanager
    async def read(self, lesson: LessonId) -> AsyncGenerator[Reading, None]:
        """The lesson's files while somebody reads; starts fetching it when it is only listed. See `view.Node`."""
        self._check_known(lesson)
        manifest = self._served.get(lesson)
        if manifest is None:
            manifest = self._newest[lesson].manifest
        holding = self._hold(_expected(manifest), self._helpers_for(manifest))
        await holding.ready()
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
        signed = self._newest.get(lesson)
        served = self._served.get(lesson)
        if gone := self._withdrawn.get(lesson):
            known = gone.lesson
            return LessonView(manifest=known.manifest, state=State.WITHDRAWN, reason=gone.why) if known else None
        manifest = served or (signed.manifest if signed else None)
        if manifest is None or (
            manifest.available_from and manifest.available_from > self._now() and not manifest.is_rehearsal
        ):
            return None
        holding = self._holdings.get(manifest.info_hash)
        following = signed.manifest.version if signed and served and signed.manifest != served else None
        if holding is None:
            if not self._is_followed(manifest):
                return LessonView(manifest=manifest, state=State.LISTED, next_version=following)
            appointment = manifest.fetch_from if manifest.fetch_from and manifest.fetch_from > self._now() else None
            reason = f"it is fetched from {appointment.isoformat()} on" if appointment else None
            return LessonView(manifest=manifest, state=State.WAITING, reason=reason, next_version=following)
        progress = holding.torrent.progress if holding.torrent else None
        peers = progress.peers if progress else 0
        return LessonView(
            manifest=manifest,
            state=holding.state,
            reason=holding.trouble or self._obstacle(holding, peers),
            bytes_have=holding.bytes_have,
            peers=peers,
            crowd=holding.crowd,
            origin_bytes=holding.origin_bytes,
            peer_bytes=holding.peer_bytes,
            next_version=following,
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
        holding = self._hold(_expected_catalogue(manifest), self._helpers(manifest))
        await holding.until(lambda: holding.is_complete or holding.is_refused)
        layout = holding.layout
        if layout is None:
            raise ManifestError(f"the content of {manifest.name} is refused ({holding.reason})")
        if [entry.path for entry in layout.files] != [FILE_NAME]:
            raise ManifestError(f"the content of {manifest.name} is not a catalogue's")
        raw = await self._parts.library.file(manifest.info_hash, layout.files[0])
        edition = await self._edition(raw, manifest, vouched.keys)
        for line in edition.refused:
            logger.warning("not admitted: %s", line)
        await self._parts.library.admit(
            StoredCatalogue(
                name=manifest.name,
                manifest=vouched.raw,
                content=raw,
                keys=vouched.keys,
                admitted_at=datetime.now(UTC).isoformat(),
            )
        )
        self.admitted[manifest.name] = Admitted(manifest=manifest, edition=edition, keys=vouched.keys)
        logger.info("%s: edition %d, lessons: %d", manifest.name, manifest.edition, len(edition.lessons))

    async def _edition(self, raw: bytes, manifest: CatalogueManifest, keys: Mapping[bytes, PublicKey]) -> Edition:
        """Read an edition beside the event loop: thousands of signatures take seconds, and readers are served."""
        name, number = manifest.name, manifest.edition
        return await trio.to_thread.run_sync(read_edition, raw, name, number, keys, limiter=self._reading)

    async def _remember(self) -> None:
        """Take up what the library says was admitted, asked for and held; nothing is asked of the network."""
        library = self._parts.library
        self._stored = {stored.info_hash: stored for stored in await library.torrents()}
        for catalogue in await library.catalogues():
            try:
                manifest = read_catalogue(catalogue.manifest, catalogue.keys)
                edition = await self._edition(catalogue.content, manifest, catalogue.keys)
            except EdgeshareError as error:
                logger.warning("the library's copy of %s is damaged, waiting for the origin: %s", catalogue.name, error)
                continue
            self.admitted[manifest.name] = Admitted(manifest=manifest, edition=edition, keys=catalogue.keys)
        for lesson in await library.lessons():
            if lesson.wanted:
                self._wanted.add(lesson.id)
            if lesson.served:
                try:
                    self._served[lesson.id] = read_lesson(lesson.served, lesson.keys)
                except EdgeshareError as error:
                    logger.warning("the library's manifest of %s is damaged: %s", lesson.id, error)
                    continue
            self._served_raw[lesson.id] = lesson

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
        editions = [each.edition for name, each in self.admitted.items() if self._is_shown(name)]
        self._newest = newest(editions)
        self._withdrawn = withdrawn(editions)
        for lesson in self._withdrawn.keys() & (self._served.keys() | self._served_raw.keys()):
            self._served.pop(lesson, None)
            self._served_raw.pop(lesson, None)
            try:
                await self._parts.library.drop_lesson(lesson)
            except LibraryError as error:  # its edition says the same at the next start
                logger.error("the withdrawn lesson %s is not forgotten yet: %s", lesson, error)
        for each in self.admitted.values():
            self._hold(_expected_catalogue(each.manifest), self._helpers(each.manifest))
        for served in self._served.values():
            self._hold(_expected(served), self._helpers_for(served))
        self._queue.clear()
        self._next_start = None
        for lesson, signed in self._newest.items():
            if signed.manifest.info_hash in self._stored or lesson in self._wanted:
                self._hold(_expected(signed.manifest), self._helpers_for(signed.manifest))
            elif signed.manifest.info_hash not in self._holdings and self._is_followed(signed.manifest):
                self._queue_up(signed.manifest)
        for lesson, signed in self._newest.items():
            held = self._holdings.get(signed.manifest.info_hash)
            if held and held.is_complete:  # a new version may have the same content
                await self._promote(lesson, signed)
        self._fill()
        needed = set(self._coming.values()) | {each.manifest.info_hash for each in self.admitted.values()}
        needed |= {served.info_hash for served in self._served.values()}
        needed |= {signed.manifest.info_hash for signed in self._newest.values()}
        for info_hash in (self._holdings.keys() | self._stored.keys() | self._undeleted) - needed:
            await self._drop(info_hash)

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
        if not self._queue:
            return
        busy = sum(
            not (holding.is_complete or holding.is_refused or holding.is_unobtainable or holding.missing_at_origin)
            for holding in self._holdings.values()
        )
        while self._queue and busy < AT_ONCE:
            manifest = self._queue.popleft()
            self._hold(_expected(manifest), self._helpers_for(manifest))
            busy += 1

    def _hold(self, expected: Expected, helpers: Helpers) -> Holding:
        """The holding of a content; begun when there is none."""
        holding = self._holdings.get(expected.info_hash)
        if holding is None:
            assert self._nursery is not None
            holding = Holding(self._parts, expected, self._stored.pop(expected.info_hash, None))
            self._holdings[expected.info_hash] = holding
            life = self._lives[expected.info_hash] = _Life()
            self._nursery.start_soon(self._keep, holding, helpers, life)
        return holding

    async def _keep(self, holding: Holding, helpers: Helpers, life: _Life) -> None:
        """One holding's task: its life, and what its steps change for others."""
        try:
            with life.scope:
                if leaving := self._leaving.get(holding.info_hash):  # it was dropped, and is wanted again
                    await leaving.wait()
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(holding.run, helpers)
                    await self._attend(holding)
        finally:
            life.over.set()

    async def _attend(self, holding: Holding) -> NoReturn:
        while True:
            before = holding.state, holding.is_unobtainable
            if holding.is_complete:
                for lesson, signed in list(self._newest.items()):
                    if signed.manifest.info_hash == holding.info_hash:
                        await self._promote(lesson, signed)
            self._fill()
            self._changed.unpark_all()
            await holding.until(lambda: (holding.state, holding.is_unobtainable) != before)  # noqa: B023 - awaited here

    async def _promote(self, lesson: LessonId, signed: SignedLesson) -> None:
        """A lesson's newest version is complete: it is served from now on, and the one before it goes."""
        before = self._served.get(lesson)
        if before == signed.manifest:
            return
        self._served[lesson] = signed.manifest
        try:
            await self._keep_lesson(
                StoredLesson(id=lesson, wanted=lesson in self._wanted, served=signed.raw, keys=self._keys_of(signed))
            )
        except LibraryError as error:  # what is served now would be gone at the next start: the one before stays
            logger.error("version %d of %s is not served yet: %s", signed.manifest.version, lesson, error)
            self._served.pop(lesson, None)
            if before and lesson not in self._withdrawn:
                self._served[lesson] = before
            return
        if before and before.info_hash != signed.manifest.info_hash:
            self._is_unsettled.set()

    def _keys_of(self, signed: SignedLesson) -> Mapping[bytes, PublicKey]:
        """The keys that vouch for a lesson; of its catalogues, one may know newer keys than another."""
        for name in signed.manifest.catalogues:
            if (admitted := self.admitted.get(name)) is not None:
                with suppress(EdgeshareError):
                    read_lesson(signed.raw, admitted.keys)
                    return admitted.keys
        return {}

    async def _keep_lesson(self, lesson: StoredLesson) -> None:
        await self._parts.library.keep_lesson(lesson)
        if lesson.id in self._withdrawn:  # while it was written
            await self._parts.library.drop_lesson(lesson.id)
        else:
            self._served_raw[lesson.id] = lesson

    async def _drop(self, info_hash: InfoHash) -> None:
        """Stop seeding a content and delete it; what cannot be deleted now is tried again later."""
        leaving = self._leaving[info_hash] = trio.Event()
        self._undeleted.discard(info_hash)
        self._stored.pop(info_hash, None)
        holding = self._holdings.pop(info_hash, None)
        try:
            if life := self._lives.pop(info_hash, None):
                life.scope.cancel()
            if holding:
                holding.drop()
            if life:
                await life.over.wait()
            await self._parts.swarm.remove(info_hash)
            await self._parts.library.drop_torrent(info_hash)
        except LibraryError as error:
            logger.error("%s is not deleted yet: %s", info_hash.hex()[:16], error)
            self._undeleted.add(info_hash)
        finally:
            del self._leaving[info_hash]
            leaving.set()

    def _is_shown(self, catalogue: str) -> bool:
        return catalogue in self._config.follow or catalogue in self._config.show

    def _is_followed(self, manifest: LessonManifest) -> bool:
        return any(name in self._config.follow and name in self.admitted for name in manifest.catalogues)

    def _check_known(self, lesson: LessonId) -> None:
        if gone := self._withdrawn.get(lesson):
            raise LibraryError(f"{lesson} was withdrawn", hint=gone.why)
        if lesson in self._newest or lesson in self._served:
            return
        names = ", ".join((*self._config.follow, *self._config.show)) or "none"
        close = nearest(lesson, self._newest)
        hint = f"did you mean {close}?" if close else f"this node's catalogues: {names}; add others to `follow`"
        raise LibraryError(f"no catalogue here lists the lesson {lesson}", hint=hint)

    def _helpers_for(self, manifest: LessonManifest) -> Helpers:
        named = [self.admitted[name].manifest for name in manifest.catalogues if name in self.admitted]
        return self._helpers(*named)

    def _helpers(self, *catalogues: CatalogueManifest) -> Helpers:
        swarm = self._config.swarm
        found = dict.fromkeys([*swarm.trackers, *(url for each in catalogues for url in each.trackers)])
        return Helpers(trackers=tuple(found), peers=swarm.peers)


class Reading:
    """A lesson that somebody reads; see `view.OpenLesson`."""

    def __init__(self, holding: Holding) -> None:
        assert holding.layout is not None
        self._holding = holding
        self._layout = holding.layout

    @property
    def etag(self) -> str:
        return self._holding.info_hash.hex()

    def file(self, path: str) -> FileEntry | None:
        return self._layout.by_path.get(path)

    def descriptor(self, entry: FileEntry) -> int | None:
        return self._holding.descriptor(entry)

    def stream(self, entry: FileEntry, start: int, stop: int) -> AsyncGenerator[bytes, None]:
        return self._holding.stream(entry, start, stop)


def _expected_catalogue(manifest: CatalogueManifest) -> Expected:
    return Expected(info_hash=manifest.info_hash, size=manifest.size, files=1)


def _expected(manifest: LessonManifest) -> Expected:
    return Expected(info_hash=manifest.info_hash, size=manifest.size, files=manifest.files, audience=manifest.audience)
