"""One content on this node, from its info-hash to complete, and whatever befalls it after.

A catalogue's edition and a version of a lesson are the same here: metadata, pieces, files. The way is: the info dict
from peers or the origin, checked before a file is made; pieces from peers, or from the origin as a last resort; when
libtorrent says that all is there, the files are read back and hashed. Only then is the content complete, and at rest:
it is read and seeded, and has no task and hardly any memory, as a school holds thousands. A write error, an altered
file, a piece that cannot be read back: each takes it out of complete at once. Then it waits for room, clears what
stands in the way of its files, has libtorrent read them, and fetches what is missing; the first time at once, and then
with pauses, so that a disk that is no good costs little.
"""

from __future__ import annotations

import errno
import logging
from collections import Counter, deque
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import suppress
from itertools import islice

import attrs
import trio

from edgeshare.crowd import Gathering
from edgeshare.errors import LibraryError, ManifestError
from edgeshare.expected import MISFIT, Expected
from edgeshare.layout import FileEntry, Layout, Piece
from edgeshare.library.content import Stamp
from edgeshare.library.index import StoredTorrent
from edgeshare.library.room import Disk
from edgeshare.metadata import find_info
from edgeshare.origin.feed import Feed
from edgeshare.parts import Parts
from edgeshare.pause import Pause
from edgeshare.ration import Reason
from edgeshare.swarm.session import Helpers, is_info, read_info
from edgeshare.swarm.torrent import SwarmError, Torrent
from edgeshare.units import size
from edgeshare.view import State

logger = logging.getLogger(__name__)

READ_AHEAD = 8  # pieces that a reader asks for beyond the one it waits for
PREFERRED_BYTES = 4 * 2**20  # beyond those: about what is asked of peers at a time, or a film gets a part of the line


class Holding:
    """One content; `run` is its life, until it is at rest, and again when something speaks against it.

    Several manifests may name it, each signed by who may not know what is in it: it is refused when none fits.
    """

    def __init__(
        self, parts: Parts, expected: Expected, stored: StoredTorrent | None, before: Holding | None = None
    ) -> None:
        """Hold what is `expected`, of which the index says `stored`.

        `before` is an earlier version of the same lesson; files that it has too are not fetched again.
        """
        self.info_hash = expected.info_hash
        self.is_refused = False  # by what the manifests say that name it, it never can be right
        self.is_unobtainable = False  # nobody has its metadata; asked for again and again
        self.is_at_rest = False  # complete, with nothing left to do: `run` has returned
        self.reason: str | None = None  # why nothing goes on, in one line; None while it does
        self.layout: Layout | None = None
        self.torrent: Torrent | None = None
        self._parts = parts
        self._expected = {expected.shape: expected}
        self._stored = stored  # None at rest: the index has it
        self._before = before
        self.is_stored = True  # the index knows what `_stored` says
        self._is_fresh = False  # its files were hashed in this run, and nobody has written to them since
        self._stamps: Mapping[str, Stamp] | None = None  # by path
        self._is_dropped = False
        self._origin_before = stored.origin_bytes if stored else 0  # by earlier runs of the daemon
        self._peers_before = stored.peer_bytes if stored else 0
        self._taken: Counter[Reason] = Counter()  # from the origin, by this run
        self._feed: Feed | None = None  # while it is being fetched
        self._changed = trio.lowlevel.ParkingLot()
        self.pause = Pause(parts.library, self._has_room, self._wake)
        self._begin: Callable[[], None] = lambda: None  # has `run` called

    @property
    def missing_at_origin(self) -> str | None:
        """What the origin says of a content that it does not have; None when it has it, or is not asked."""
        return self._feed.missing if self._feed else None

    @property
    def crowd(self) -> int | None:
        """Nodes believed to be after it, this one included; None when it is not being fetched."""
        return self._feed.crowd if self._feed else None

    @property
    def is_complete(self) -> bool:
        """Every file was verified on the disk, and nothing has spoken against it since."""
        sound = self.torrent is None or self.torrent.failure is None
        return self._stamps is not None and sound

    @property
    def stamps(self) -> tuple[Stamp, ...] | None:
        """What its files looked like when they were verified, in the layout's order; None when it is not complete."""
        if self._stamps is None or self.layout is None:
            return None
        return tuple(self._stamps[entry.path] for entry in self.layout.files)

    @property
    def standing(self) -> tuple[State, bool]:
        """What matters to others of where it stands: its state, and whether nobody has its metadata."""
        return self.state, self.is_unobtainable

    @property
    def size(self) -> int:
        """Bytes of content, by the manifest that says the most."""
        return max(shape[0] for shape in self._expected)

    @property
    def is_edition(self) -> bool:
        """Whether it is of a catalogue, by one of its manifests."""
        return any(expected.is_edition for expected in self._expected.values())

    @property
    def bytes_to_come(self) -> int:
        """Bytes that the disk has still to take; what was whole when the node stopped is believed to be there."""
        was_whole = self._stored is not None and self._stored.stamps is not None
        return 0 if self.is_complete or was_whole else self.size - self.bytes_have

    @property
    def others(self) -> int:
        """Nodes besides this one that have all of it, by the tracker's word; 0 where it is silent."""
        progress = self.torrent.progress if self.torrent else None
        return max(0, progress.seeds - self.is_complete) if progress else 0

    def is_expected(self, expected: Expected) -> bool:
        """Whether it is held for a manifest that says this of it."""
        return expected.shape in self._expected

    def expect(self, expected: Expected) -> None:
        """Hold it for one more manifest; when it was refused, this may be the one that fits."""
        if not self.is_expected(expected):
            self._expected[expected.shape] = expected
            self.is_refused, self.reason = False, None
            self._wake()

    def is_complete_as(self, expected: Expected) -> bool:
        """Whether it is complete, and what a manifest says."""
        return self.is_complete and self.layout is not None and expected.fits(self.layout)

    @property
    def state(self) -> State:
        """Where it stands."""
        if self.is_complete:
            return State.COMPLETE
        if self.pause.is_for_room:
            return State.WAITING
        if self.trouble is not None:
            return State.FAILED
        return State.FETCHING if self.torrent else State.WAITING

    @property
    def trouble(self) -> str | None:
        """Why it stands still, in one line."""
        if self.pause.is_for_room:
            return self._parts.library.disk.reason
        return self.reason or (self.torrent.failure if self.torrent else None)

    @property
    def bytes_have(self) -> int:
        """Verified bytes of content."""
        if self.is_complete and self.layout:
            return self.layout.size
        return self.torrent.bytes_have if self.torrent else 0

    @property
    def origin_bytes(self) -> Mapping[str, int]:
        """Bytes taken from the origin for it, by reason; those of earlier runs of the daemon under `earlier`."""
        taken = {why.value: count for why, count in self._taken.items()}
        return taken | ({"earlier": self._origin_before} if self._origin_before else {})

    @property
    def peer_bytes(self) -> int:
        """Bytes of content that peers gave."""
        return self._peers_before + (self.torrent.bytes_from_peers if self.torrent else 0)

    async def run(self, helpers: Helpers) -> None:
        """Fetch, verify and mend this content until it is at rest.

        A caller who cancels it for good also says so with `drop`, and has the swarm let go of it; a node that stops
        need not.
        """
        was_confused = False
        try:
            while True:
                manifests = len(self._expected)
                try:
                    await self._live(helpers)
                    await self._save()
                    if self.is_complete:
                        self._rest()
                        return
                    continue
                except ManifestError as error:
                    if len(self._expected) == manifests:  # else another was named meanwhile
                        self.is_refused = True
                        self._stop(str(error))
                        logger.error("%s is refused: %s", self.info_hash.hex()[:16], error)
                        await self.until(lambda: not self.is_refused)
                    continue
                except (LibraryError, SwarmError) as error:
                    self._stop(str(error))
                    logger.warning("%s stands still: %s", self.info_hash.hex()[:16], error)
                await self._parts.swarm.remove(self.info_hash)
                at_once = self.torrent is not None and self.torrent.is_confused and not was_confused
                was_confused = at_once
                self._peers_before, self.torrent = self.peer_bytes, None
                await trio.sleep(0 if at_once else self._parts.pace.retry_every_s)
                self.reason = None
                self._wake()
        finally:
            with trio.move_on_after(self._parts.pace.save_grace_s, shield=True):
                await self._save()

    def drop(self) -> None:
        """It is being removed: who reads it, or waits for it, hears so, and nothing more is saved."""
        self._is_dropped = True
        self._wake()

    def take_up(self, stored: StoredTorrent) -> None:
        """Begin with what was brought and verified a moment ago; it does not run yet."""
        self._stored, self._is_fresh = stored, True

    def begin_by(self, begin: Callable[[], None]) -> None:
        """Have `begin` called when it should run: when somebody reads it whose turn has not come, or it is roused."""
        self._begin = begin

    async def begun(self) -> None:
        """Wait until it has come as far as it does by itself after a start: to its torrent, or to what stops it.

        Raises:
            LibraryError: it is being removed.
        """
        await self.until(lambda: self.torrent is not None or self.trouble is not None or self.is_refused)

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait until `condition` holds; it is looked at whenever the content comes a step further, or falls back.

        Raises:
            LibraryError: it is being removed.
        """
        while not condition():
            if self._is_dropped:
                await trio.lowlevel.checkpoint()  # a task that ends with the content is cancelled, and hears that first
                raise LibraryError("the lesson is no longer kept here", hint="see the catalogue for what is")
            await self._changed.park()

    async def ready(self) -> Layout:
        """The list of its files, as soon as it is here.

        Raises:
            LibraryError: it never will be.
        """
        if not self.is_at_rest:
            self._begin()
        await self.until(lambda: self.layout is not None or self.is_refused)
        if self.layout is None:
            raise LibraryError(f"the lesson cannot be opened ({self.reason})")
        return self.layout

    def descriptor(self, entry: FileEntry) -> int | None:
        """An open descriptor of a complete, unaltered file, which the caller closes; else None."""
        if not self.is_complete or self._stamps is None:
            return None
        try:
            descriptor = self._parts.library.open_file(self.info_hash, entry, self._stamps[entry.path])
        except OSError as error:
            if error.errno in (errno.EMFILE, errno.ENFILE):  # nothing is wrong with the file; it is streamed
                return None
            descriptor = None
        if descriptor is None:
            self.distrust(entry.path)
        return descriptor

    async def stream(self, entry: FileEntry, start: int, stop: int) -> AsyncGenerator[bytes, None]:
        """The verified bytes of a file from `start` up to `stop`, as they arrive; see `view.OpenLesson`."""
        layout = await self.ready()
        await self.until(lambda: self.torrent is not None)
        torrent = self.torrent
        assert torrent is not None
        spans = list(layout.spans(entry, start, stop))
        to_come = (span.piece for span in spans)
        wished: deque[Piece] = deque()
        preferred: list[Piece] = []
        later = islice((span.piece for span in spans), 1 + READ_AHEAD, None)
        try:
            for number, span in enumerate(spans):
                fresh = list(islice(to_come, 1 + READ_AHEAD - len(wished)))
                torrent.urge(fresh, behind=len(wished))
                wished.extend(fresh)
                far = list(islice(later, number + PREFERRED_BYTES // layout.piece_length - len(preferred)))
                torrent.prefer(far)
                preferred += far
                content = await torrent.read(span.piece)
                torrent.relax([wished.popleft()])
                yield content[span.start : span.stop]
        finally:
            torrent.relax(wished)
            torrent.let_be(preferred)

    async def _live(self, helpers: Helpers) -> None:
        """Have its torrent, and go on until it is complete."""
        gathering = Gathering(
            has_tracker=bool(helpers.trackers),
            audience=next(reversed(self._expected.values())).audience,
            joined_s=trio.current_time(),
            patience_s=self._parts.pace.patience_s,
        )
        if self.torrent is None or self.layout is None:
            layout, torrent = await self._begun_torrent(helpers, gathering)
            self.torrent = torrent
            self._wake()
        else:
            layout, torrent = self.layout, self.torrent
            await self._recall(torrent)
        failures = 0
        while True:
            if not self.is_complete:
                await self._fetch(torrent, layout, gathering)
            if self.is_complete:
                return
            self._stamps = None
            self._wake()
            self._parts.library.doubt()
            logger.warning("%s: %s; checking all of it", layout.name, torrent.failure)
            await self._keep(attrs.evolve(self._totals(), stamps=None, resume=None))
            await self._until_room(torrent, layout)
            if failures:
                await trio.sleep(min(self._parts.pace.retry_every_s, 2.0**failures))
            failures += 1
            await self._parts.library.make_way(self.info_hash, layout)
            torrent.look_again()
            self._wake()

    async def _begun_torrent(self, helpers: Helpers, gathering: Gathering) -> tuple[Layout, Torrent]:
        """Have the swarm begin with it, with what is known and what is here."""
        info = self._stored.info if self._stored else b""
        if is_info(info, self.info_hash):
            layout = self._learn(info)
            resume = await self._prepare(info, layout)
            return layout, await self._add(info, layout, helpers, resume)
        await self.pause.ends()  # not known yet, or the index is damaged
        return await self._join(helpers, gathering)

    async def _add(self, info: bytes, layout: Layout, helpers: Helpers, resume: bytes | None) -> Torrent:
        """Have the swarm fetch and seed it; at once, where its files were brought and verified in this run."""
        swarm, folder = self._parts.swarm, self._parts.library.folder(self.info_hash)
        file = self._stored.torrent if self._stored else None
        is_fresh, self._is_fresh = self._is_fresh, False
        if not (is_fresh and self.is_complete):
            return await swarm.add(self.info_hash, info, layout, folder, helpers, resume=resume, torrent_file=file)
        torrent = await swarm.seed(self.info_hash, info, layout, folder, helpers, torrent_file=file)
        await self._keep(attrs.evolve(self._totals(), resume=await torrent.resume_data()))  # or a restart hashes it all
        return torrent

    def _learn(self, info: bytes) -> Layout:
        """What is in it, for all who wait for that."""
        layout = read_info(info, self.info_hash)
        if not any(expected.fits(layout) for expected in self._expected.values()):
            raise ManifestError(MISFIT)
        self.layout = layout
        return layout

    async def _prepare(self, info: bytes, layout: Layout) -> bytes | None:
        """See what is on the disk and make room for the rest; the resume data, if it speaks for the files."""
        library = self._parts.library
        stored = self._stored or StoredTorrent(
            info_hash=self.info_hash, info=info, resume=None, stamps=None, origin_bytes=0, peer_bytes=0
        )
        stored = attrs.evolve(stored, info=info)
        was_complete = await library.unchanged(stored, layout)
        resume = stored.resume if was_complete or stored.stamps is None else None
        if was_complete and stored.stamps:
            self._stored = stored
            self._stamps = _by_path(layout, stored.stamps)
        else:
            # Resume data speaks for the files only after a clean stop; a kill from here on means: look at the files.
            await self._keep(attrs.evolve(stored, resume=None, stamps=None))
            if library.disk.is_readonly:
                return resume  # what is here is read all the same
            await library.make_way(self.info_hash, layout)
            before, self._before = self._before, None  # let go of: it has one of its own
            if before and before.is_complete and before.layout:
                taken = await library.take_over(self.info_hash, layout, before.info_hash, before.layout)
                logger.info("%s: %s are as in the version before", layout.name, size(taken))
        return resume

    async def _join(self, helpers: Helpers, gathering: Gathering) -> tuple[Layout, Torrent]:
        """Find the info dict in the swarm and go on with the peers that were met."""
        folder = self._parts.library.folder(self.info_hash)
        async with self._parts.swarm.joining(self.info_hash, helpers, folder) as joining:
            info = await find_info(self._parts, joining, gathering, self._miss)
            self.is_unobtainable, self.reason = False, None
            layout = self._learn(info)
            await self._prepare(info, layout)
            # files of the version before, or of a run of which the index knows nothing any more
            is_there = await trio.to_thread.run_sync(folder.exists)
            if not is_there and joining.torrent_file is None:
                return layout, joining.begin(layout)
        # It looks at the files that are there, and has the piece layers if they came from the origin.
        file = joining.torrent_file
        torrent = await self._parts.swarm.add(self.info_hash, info, layout, folder, helpers, torrent_file=file)
        return layout, torrent

    async def _fetch(self, torrent: Torrent, layout: Layout, gathering: Gathering) -> None:
        """Fetch until complete, or until the disk fails."""
        parts = self._parts
        while not (torrent.is_finished or torrent.failure):
            if self.pause.is_on:
                await self._stand_by(torrent, layout)
            elif await self._fed(torrent, gathering):
                break
        if torrent.failure:
            return
        await torrent.flush()
        stamps = await parts.library.verify(self.info_hash, layout)
        if stamps is None:
            torrent.distrust("its files are not on the disk as they were fetched")
            return
        resume = await torrent.resume_data()
        self._stamps = _by_path(layout, stamps)
        if not self.is_complete:  # something failed meanwhile
            return
        self._wake()
        await self._keep(attrs.evolve(self._totals(), resume=resume, stamps=stamps))
        logger.info("%s is complete: %s, %s of it from peers", layout.name, size(layout.size), size(self.peer_bytes))

    async def _fed(self, torrent: Torrent, gathering: Gathering) -> bool:
        """Take from the origin what is due, until there is no more to do; False when it is paused before."""
        parts = self._parts
        feed = Feed(
            torrent,
            parts.origins,
            parts.lines,
            self._taken,
            parts.rng,
            token=parts.swarm.token,
            gathering=gathering,
        )
        self._feed = feed
        is_over = False
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self.pause.begins, nursery.cancel_scope)
                await feed.run()
                is_over = True
                nursery.cancel_scope.cancel()
        finally:
            self._feed = None
        return is_over

    async def _stand_by(self, torrent: Torrent, layout: Layout) -> None:
        """Fetch nothing as long as it is paused, unless all of it turns out to be here; what is here is read."""
        torrent.hold()
        was_readonly = self._parts.library.disk.is_readonly
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.pause.ends, nursery.cancel_scope)
            with suppress(SwarmError):
                await torrent.until(lambda: torrent.is_finished or torrent.failure is not None)
                nursery.cancel_scope.cancel()
        torrent.release()
        if was_readonly and not torrent.is_finished:  # nothing could be cleared away (`_prepare`)
            await self._parts.library.make_way(self.info_hash, layout)
            torrent.look_again()

    def _has_room(self, disk: Disk) -> bool:
        """Whether the disk has room for it: an edition takes what is to stay free, but not the last."""
        if self.is_edition:
            # its file, the index's copy of it, and that once more in the index's log
            return disk.takes(3 * self.size + self._parts.pace.spare_bytes)
        return not disk.is_paused

    def _rest(self) -> None:
        """Nothing is left to do, until something speaks against it."""
        assert self.torrent is not None
        self.is_at_rest = True
        self.torrent.on_failure = self._rouse
        self._let_go()
        self._wake()

    def _let_go(self) -> None:
        """Keep nothing in memory that the index has."""
        if self.is_at_rest and self.is_stored:
            self._stored = None

    def _rouse(self) -> None:
        """Something speaks against it."""
        if self.is_at_rest:
            self.is_at_rest = False
            self._begin()

    async def _recall(self, torrent: Torrent) -> None:
        """Know again what was let go of at rest."""
        if self._stored is None:
            with suppress(LibraryError):
                self._stored = await self._parts.library.torrent(self.info_hash)
        if self._stored is None or not is_info(self._stored.info, self.info_hash):
            self._stored = await self._known_by(torrent, resume=None)

    async def _known_by(self, torrent: Torrent, resume: bytes | None) -> StoredTorrent:
        """What the index should know of a content at rest, or of one that was."""
        return StoredTorrent(
            info_hash=self.info_hash,
            info=await torrent.info(),
            resume=resume,
            stamps=self.stamps,
            origin_bytes=self._origin_before + self._taken.total(),
            peer_bytes=self.peer_bytes,
        )

    async def _until_room(self, torrent: Torrent, layout: Layout) -> None:
        """Wait until the disk can take what is missing.

        Raises:
            SwarmError: libtorrent is confused, which may come after a write failed: until the torrent is added anew,
                nothing of it can be read.
        """
        pace = self._parts.pace
        while True:
            if torrent.is_confused:
                raise SwarmError(f"{layout.name}: {torrent.failure}; adding it anew")
            needed, free = await self._parts.library.room_for(self.info_hash, layout)
            if needed <= 0 or free >= needed + pace.spare_bytes:
                return
            logger.warning("%s: %s; %s needed, %s free", layout.name, self.trouble, size(needed), size(free))
            await trio.sleep(pace.retry_every_s)

    def _totals(self) -> StoredTorrent:
        """What is stored, brought up to date."""
        assert self._stored is not None
        origin = self._origin_before + self._taken.total()
        return attrs.evolve(self._stored, origin_bytes=origin, peer_bytes=self.peer_bytes)

    async def _keep(self, stored: StoredTorrent) -> None:
        """Have the index know; when it cannot, as on a full disk, the next start looks at the files, nothing worse."""
        if stored != self._stored:
            self._stored, self.is_stored = stored, False
        if not self.is_stored:
            try:
                await self._parts.library.keep_torrent(stored)
                self.is_stored = True
            except LibraryError as error:
                logger.warning("%s: what is known of it is not saved: %s", self.info_hash.hex()[:16], error)

    async def keep_anew(self, known: StoredTorrent | None) -> None:
        """Have the index, of which `known` is all that it knows of this content, know the rest.

        Called now and then too, as the index may have refused it, on a full disk say.
        """
        torrent = self.torrent
        if self.is_at_rest and self._stored is None and torrent is not None:
            if known is not None and known.stamps == self.stamps and known.resume is not None:
                return
            with suppress(SwarmError):
                resume = await torrent.resume_data()
                stored = await self._known_by(torrent, resume)
                if self.is_at_rest:  # still
                    self._stored = stored
        if self._stored is not None and known != self._stored and not self._is_dropped:
            self.is_stored = False
            await self._keep(self._stored)
        self._let_go()

    async def _save(self) -> None:
        """Keep what spares the next start from hashing a content that is here in part."""
        if self._is_dropped or self._stored is None:
            return
        totals = self._totals()
        torrent = self.torrent
        if torrent and not self.is_complete and torrent.failure is None and torrent.is_checked:
            with suppress(SwarmError):
                totals = attrs.evolve(totals, resume=await torrent.resume_data())
        await self._keep(totals)

    def distrust(self, what: str) -> None:
        """One of its files, or all of them, are not what was verified."""
        if self.torrent:
            self.torrent.distrust(f"{what} was altered on the disk")
        else:
            self._stamps = None
        self._wake()

    def _miss(self, reason: str) -> None:
        """Nobody has its metadata."""
        self.is_unobtainable = True
        self._stop(reason)

    def _stop(self, reason: str) -> None:
        self.reason = reason
        self._wake()

    def _wake(self) -> None:
        self._changed.unpark_all()


def _by_path(layout: Layout, stamps: tuple[Stamp, ...]) -> Mapping[str, Stamp]:
    return {entry.path: stamp for entry, stamp in zip(layout.files, stamps, strict=True)}
