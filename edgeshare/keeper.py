"""What this node keeps: the editions it admitted, the lessons they list, and one holding for each content it wants.

A lesson is wanted when its catalogue is followed, when the config or somebody names it, or when a reader opens it. A
new version is fetched beside the one that is served and takes its place when it is complete. A withdrawn lesson is
no longer served, seeded or kept from the moment that its catalogue's edition is admitted.
"""

from __future__ import annotations

import logging
from collections import Counter, deque
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from datetime import UTC, datetime

import attrs
import trio

from edgeshare.catalogue import FILE_NAME, Edition, SignedLesson, Withdrawal, newest, read_edition, withdrawn
from edgeshare.config import Config, nearest
from edgeshare.errors import EdgeshareError, LibraryError, ManifestError
from edgeshare.holding import Expected, Holding, Parts
from edgeshare.layout import FileEntry
from edgeshare.library import content
from edgeshare.library.index import StoredCatalogue, StoredLesson, StoredTorrent
from edgeshare.manifest import CatalogueManifest, InfoHash, LessonId, LessonManifest, read_catalogue, read_lesson
from edgeshare.signing import PublicKey
from edgeshare.swarm.session import Helpers
from edgeshare.trust import Vouched
from edgeshare.view import LessonView, State

logger = logging.getLogger(__name__)

AT_ONCE = 16  # contents that are fetched at the same time; what somebody asks for does not wait for its turn


@attrs.frozen(kw_only=True)
class Admitted:
    """A catalogue's edition that this node stands on."""

    manifest: CatalogueManifest
    edition: Edition
    keys: Mapping[bytes, PublicKey]


class Keeper:
    """The node's lessons; `run` owns the tasks of all holdings."""

    def __init__(self, parts: Parts, config: Config) -> None:
        self.admitted: dict[str, Admitted] = {}
        self._parts = parts
        self._config = config
        self._newest: dict[LessonId, SignedLesson] = {}
        self._withdrawn: dict[LessonId, Withdrawal] = {}
        self._served: dict[LessonId, LessonManifest] = {}  # complete versions; may be older than the newest
        self._served_raw: dict[LessonId, StoredLesson] = {}
        self._wanted: set[LessonId] = set(config.fetch)
        self._holdings: dict[InfoHash, Holding] = {}
        self._scopes: dict[InfoHash, trio.CancelScope] = {}
        self._stored: dict[InfoHash, StoredTorrent] = {}
        self._coming: set[InfoHash] = set()  # contents of editions that are not admitted yet
        self._queue: deque[LessonManifest] = deque()  # wanted, their turn to come
        self._settling = trio.Lock()
        self._nursery: trio.Nursery | None = None
        self._changed = trio.lowlevel.ParkingLot()

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Keep the lessons until cancelled; started when what the library held is known again."""
        await self._remember()
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            await self._settle()
            task_status.started()
            await trio.sleep_forever()

    async def admit(self, vouched: Vouched) -> None:
        """Take the next edition of a catalogue: fetch its content through the swarm, check it, and stand on it.

        Raises:
            ManifestError: its content is not what its manifest says.
        """
        manifest = vouched.manifest
        before = self.admitted.get(manifest.name)
        if before and before.manifest.edition >= manifest.edition:
            if before.manifest.edition > manifest.edition or before.manifest != manifest:
                logger.error("%s: the origin offers an edition %d that is not ours", manifest.name, manifest.edition)
            return
        self._coming.add(manifest.info_hash)
        try:
            await self._admit(vouched)
        finally:
            self._coming.discard(manifest.info_hash)
        await self._settle()

    async def want(self, lesson: LessonId) -> None:
        """Fetch a lesson because somebody asked for it by name; kept through restarts.

        Raises:
            LibraryError: no catalogue of this node lists it, or it was withdrawn.
        """
        self._check_known(lesson)
        if lesson not in self._wanted:
            self._wanted.add(lesson)
            known = self._served_raw.get(lesson) or StoredLesson(id=lesson, wanted=True, served=None, keys={})
            await self._keep_lesson(attrs.evolve(known, wanted=True))
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
        views = [view for view in map(self.lesson, ids) if view]
        return tuple(
            sorted(views, key=lambda view: (view.manifest.levels, view.manifest.subjects, view.manifest.title))
        )

    def lesson(self, lesson: LessonId) -> LessonView | None:
        """One lesson, a withdrawn one too; None when this node has not heard of it, or may not show it yet."""
        signed = self._newest.get(lesson)
        served = self._served.get(lesson)
        if gone := self._withdrawn.get(lesson):
            known = gone.lesson
            return LessonView(manifest=known.manifest, state=State.WITHDRAWN, reason=gone.why) if known else None
        manifest = served or (signed.manifest if signed else None)
        if manifest is None or (manifest.available_from and manifest.available_from > datetime.now(UTC)):
            return None
        holding = self._holdings.get(manifest.info_hash)
        following = signed.manifest.version if signed and served and signed.manifest != served else None
        if holding is None:
            state = State.WAITING if self._is_followed(manifest) else State.LISTED
            return LessonView(manifest=manifest, state=state, next_version=following)
        progress = holding.torrent.progress if holding.torrent else None
        return LessonView(
            manifest=manifest,
            state=holding.state,
            reason=holding.trouble,
            bytes_have=holding.bytes_have,
            peers=progress.peers if progress else 0,
            origin_bytes=holding.origin_bytes,
            peer_bytes=holding.peer_bytes,
            next_version=following,
        )

    def totals(self) -> tuple[int, int, int]:
        """Over all that is held: content bytes from peers, bytes sent to peers, connected peers."""
        progress = [holding.torrent.progress for holding in self._holdings.values() if holding.torrent]
        known = [each for each in progress if each]
        return (
            sum(holding.peer_bytes for holding in self._holdings.values()),
            sum(each.to_peers for each in known),
            sum(each.peers for each in known),
        )

    def states(self) -> Mapping[State, int]:
        """How many lessons are in each state."""
        return Counter(view.state for view in self.lessons()) | Counter({State.WITHDRAWN: len(self._withdrawn)})

    async def change(self) -> None:
        """Wait until a lesson came into another state, or an edition was admitted."""
        await self._changed.park()

    async def _admit(self, vouched: Vouched) -> None:
        manifest = vouched.manifest
        holding = self._hold(_expected_catalogue(manifest), self._helpers(manifest))
        layout = await holding.ready()
        await holding.until(lambda: holding.is_complete)
        if [entry.path for entry in layout.files] != [FILE_NAME]:
            raise ManifestError(f"the content of {manifest.name} is not a catalogue's")
        path = content.inside(self._parts.library.folder(manifest.info_hash), FILE_NAME)
        raw = await trio.to_thread.run_sync(path.read_bytes)
        edition = read_edition(raw, manifest.name, manifest.edition, vouched.keys)
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
        logger.info("%s: edition %d with %d lessons", manifest.name, manifest.edition, len(edition.lessons))

    async def _remember(self) -> None:
        """Take up what the library says was admitted, asked for and held; nothing is asked of the network."""
        library = self._parts.library
        self._stored = {stored.info_hash: stored for stored in await library.torrents()}
        for catalogue in await library.catalogues():
            try:
                manifest = read_catalogue(catalogue.manifest, catalogue.keys)
                edition = read_edition(catalogue.content, manifest.name, manifest.edition, catalogue.keys)
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
        """Bring what is held into line with what is listed and wanted."""
        async with self._settling:
            await self._settle_in_turn()
        self._changed.unpark_all()

    async def _settle_in_turn(self) -> None:
        editions = [each.edition for name, each in self.admitted.items() if self._is_shown(name)]
        self._newest = newest(editions)
        self._withdrawn = withdrawn(editions)
        for lesson in self._withdrawn.keys() & (self._served.keys() | self._served_raw.keys()):
            self._served.pop(lesson, None)
            self._served_raw.pop(lesson, None)
            await self._parts.library.drop_lesson(lesson)
        for each in self.admitted.values():
            self._hold(_expected_catalogue(each.manifest), self._helpers(each.manifest))
        for served in self._served.values():
            self._hold(_expected(served), self._helpers_for(served))
        self._queue.clear()
        for lesson, signed in self._newest.items():
            if signed.manifest.info_hash in self._stored or lesson in self._wanted:
                self._hold(_expected(signed.manifest), self._helpers_for(signed.manifest))
            elif signed.manifest.info_hash not in self._holdings and self._is_followed(signed.manifest):
                self._queue.append(signed.manifest)
        self._fill()
        needed = self._coming | {each.manifest.info_hash for each in self.admitted.values()}
        needed |= {served.info_hash for served in self._served.values()}
        needed |= {signed.manifest.info_hash for signed in self._newest.values()}
        for info_hash in (self._holdings.keys() | self._stored.keys()) - needed:
            await self._drop(info_hash)

    def _fill(self) -> None:
        """Begin with the next lessons in the queue, as long as few are being fetched."""
        busy = sum(not holding.is_complete and not holding.is_refused for holding in self._holdings.values())
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
            self._scopes[expected.info_hash] = trio.CancelScope()
            self._nursery.start_soon(self._keep, holding, helpers)
        return holding

    async def _keep(self, holding: Holding, helpers: Helpers) -> None:
        """One holding's task: its life, and what its coming to completion changes for others."""
        with self._scopes[holding.info_hash]:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(holding.run, helpers)
                while True:
                    await holding.until(lambda: holding.is_complete)
                    await self._promote(holding)
                    self._fill()
                    self._changed.unpark_all()
                    await holding.until(lambda: not holding.is_complete)
                    self._changed.unpark_all()

    async def _promote(self, holding: Holding) -> None:
        """A version is complete: it is served from now on, and the one before it goes."""
        for lesson, signed in list(self._newest.items()):
            if signed.manifest.info_hash != holding.info_hash or self._served.get(lesson) == signed.manifest:
                continue
            before = self._served.get(lesson)
            self._served[lesson] = signed.manifest
            keys = next(
                each.keys for each in self.admitted.values() if each.manifest.name in signed.manifest.catalogues
            )
            await self._keep_lesson(
                StoredLesson(id=lesson, wanted=lesson in self._wanted, served=signed.raw, keys=keys)
            )
            if before and before.info_hash != holding.info_hash:
                await self._settle()

    async def _keep_lesson(self, lesson: StoredLesson) -> None:
        self._served_raw[lesson.id] = lesson
        await self._parts.library.keep_lesson(lesson)

    async def _drop(self, info_hash: InfoHash) -> None:
        """Stop seeding a content and delete it."""
        self._stored.pop(info_hash, None)
        self._holdings.pop(info_hash, None)
        if scope := self._scopes.pop(info_hash, None):
            scope.cancel()
        await self._parts.swarm.remove(info_hash)
        await self._parts.library.drop_torrent(info_hash)

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
    return Expected(info_hash=manifest.info_hash, size=manifest.size, files=manifest.files)
