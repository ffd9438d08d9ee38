"""The contents that a node holds: one task for each, begun when it is needed, ended with what it removes.

A content that was dropped may be wanted again while it is being deleted: its next life waits for the end of that.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from collections.abc import Set as AbstractSet
from contextlib import suppress
from functools import partial
from itertools import islice
from pathlib import Path
from typing import NoReturn

import attrs
import trio

from edgeshare import cycles
from edgeshare.errors import LibraryError
from edgeshare.expected import Expected
from edgeshare.holding import Holding
from edgeshare.layout import FileEntry, Layout
from edgeshare.library.index import StoredTorrent
from edgeshare.manifest import InfoHash, LessonManifest
from edgeshare.parts import Parts
from edgeshare.swarm.session import Helpers
from edgeshare.view import State

logger = logging.getLogger(__name__)

LOOKED_AT_TOGETHER = 64  # contents whose files a thread looks at, in some milliseconds
AT_A_TIME = 8  # contents that are begun together after a start, which takes 2 ms
LONGEST_TURN_S = 5.0  # for what a slow disk holds up, the others do not wait


@attrs.define(eq=False)
class _Life:
    """The task of one holding."""

    scope: trio.CancelScope = attrs.field(factory=trio.CancelScope)
    over: trio.Event = attrs.field(factory=trio.Event)
    telling: trio.Lock = attrs.field(factory=trio.Lock)
    told: tuple[State, bool] | None = None  # where it stood when others heard of it last


@attrs.frozen
class Brought:
    """A content that came by another way than the swarm, every byte of it verified a moment ago."""

    stored: StoredTorrent  # with stamps, and the .torrent
    layout: Layout
    folder: Path  # where its files are now, on the library's disk


class Holdings:
    """All contents of a node; `attend` is called after each of a content's steps, and says to others what it means."""

    def __init__(self, parts: Parts, attend: Callable[[Holding], Awaitable[None]]) -> None:
        self._parts = parts
        self._attend = attend
        self._nursery: trio.Nursery | None = None
        self._held: dict[InfoHash, Holding] = {}
        self._helpers: dict[InfoHash, Helpers] = {}  # of each that is held
        self._lives: dict[InfoHash, _Life] = {}  # of those that are not at rest
        self._leaving: dict[InfoHash, trio.Event] = {}  # contents that are being deleted
        self._undeleted: set[InfoHash] = set()  # the disk refused
        self._stored: dict[InfoHash, StoredTorrent] = {}  # from earlier runs, and not held yet
        self._in_turn: dict[InfoHash, None] = {}  # complete when the node stopped, and not begun yet
        self._is_any_in_turn = trio.Event()

    async def open(self, nursery: trio.Nursery) -> None:
        """Know what earlier runs left; from now on holdings live in `nursery`.

        Raises:
            LibraryError: the index cannot be read.
        """
        self._stored = {stored.info_hash: stored for stored in await self._parts.library.torrents()}
        self._nursery = nursery
        nursery.start_soon(self._begin_in_turn)
        nursery.start_soon(self._patrol)

    def __iter__(self) -> Iterator[Holding]:
        """The holdings that were begun."""
        return iter(self._held.values())

    def get(self, info_hash: InfoHash) -> Holding | None:
        """The holding of a content that was begun."""
        return self._held.get(info_hash)

    def of(self, manifest: LessonManifest) -> Holding | None:
        """The holding of a lesson's content, if it was begun for what this manifest says of it."""
        held = self._held.get(manifest.info_hash)
        return held if held and held.is_expected(Expected.of_lesson(manifest)) else None

    def is_stored(self, info_hash: InfoHash) -> bool:
        """Whether an earlier run left something of a content that was not begun yet."""
        return info_hash in self._stored

    @property
    def names(self) -> AbstractSet[InfoHash]:
        """All contents of which something is here, or may be."""
        return self._held.keys() | self._stored.keys() | self._undeleted

    @property
    def coming(self) -> list[Holding]:
        """Those that were begun and are not complete: few among thousands that are at rest."""
        return [held for name in self._lives if (held := self._held.get(name)) and not held.is_complete]

    @property
    def busy(self) -> int:
        """How many are being fetched, and may come further."""
        return sum(not (held.is_refused or held.is_unobtainable or held.missing_at_origin) for held in self.coming)

    def hold(self, expected: Expected, helpers: Helpers, before: InfoHash | None = None) -> Holding:
        """The holding of a content; begun when there is none, with what it shares with the content `before`.

        What was complete when the node stopped is begun in its turn, or as soon as somebody reads it.
        """
        info_hash = expected.info_hash
        held = self._held.get(info_hash)
        if held is None:
            known = self._held.get(before) if before else None
            stored = self._stored.pop(info_hash, None)
            held = self._held[info_hash] = Holding(self._parts, expected, stored, known)
            self._helpers[info_hash] = helpers
            held.begin_by(partial(self._begin, info_hash))
            if stored is None or stored.stamps is None:
                self._begin(info_hash)
            else:
                self._in_turn[info_hash] = None
                self._is_any_in_turn.set()
        held.expect(expected)
        return held

    async def adopt(self, expected: Expected, helpers: Helpers, brought: Brought) -> Holding:
        """The holding of a content that was brought, complete at once; what was fetched of it before goes.

        Raises:
            LibraryError: it cannot be moved to its place, or kept; or it changed after it was verified.
        """
        info_hash = expected.info_hash
        if (held := self._held.get(info_hash)) and held.is_complete:
            return held
        library = self._parts.library
        leaving = await self._leave(info_hash)
        try:
            await self._end(info_hash)
            if brought.folder != library.folder(info_hash):
                await library.move_in(info_hash, brought.folder)
            await library.keep_torrent(brought.stored)
            held = self.hold(expected, helpers)
            held.take_up(brought.stored)
        finally:
            del self._leaving[info_hash]
            leaving.set()
        await held.until(lambda: held.torrent is not None or held.trouble is not None)
        if not held.is_complete:  # it is fetched now, as any other
            raise LibraryError(held.trouble or "a file changed after it was verified", hint="import it again")
        return held

    async def keep_anew(self) -> None:
        """Have an index that takes the place of a lost one know what is held.

        Raises:
            LibraryError: it cannot be read.
        """
        known = {stored.info_hash: stored for stored in await self._parts.library.torrents()}
        for holding in list(self._held.values()):
            await holding.keep_anew(known.get(holding.info_hash))

    async def drop_all_but(self, needed: Callable[[], AbstractSet[InfoHash]]) -> None:
        """Stop seeding all others and delete them; what cannot be deleted now is tried again at the next time.

        Deleting takes its time, and somebody may open what is next: what is `needed` is asked again before each.
        """
        for info_hash in self.names - needed():
            if info_hash not in needed():
                await self._drop(info_hash)

    def _begin(self, info_hash: InfoHash) -> None:
        """Have a content's life begin, if it has none."""
        self._in_turn.pop(info_hash, None)
        if info_hash not in self._lives and (held := self._held.get(info_hash)) is not None:
            assert self._nursery is not None
            life = self._lives[info_hash] = _Life()
            self._nursery.start_soon(self._keep, held, self._helpers[info_hash], life)

    async def _begin_in_turn(self) -> NoReturn:
        """Begin what was complete when the node stopped, a few at a time: readers are served meanwhile."""
        while True:
            await self._is_any_in_turn.wait()
            self._is_any_in_turn = trio.Event()
            while self._in_turn:
                async with trio.open_nursery() as nursery:
                    for info_hash in list(islice(self._in_turn, AT_A_TIME)):
                        nursery.start_soon(self._until_begun, self._held[info_hash])
                        self._begin(info_hash)
            cycles.set_apart()

    async def _until_begun(self, holding: Holding) -> None:
        with suppress(LibraryError), trio.move_on_after(LONGEST_TURN_S):
            await holding.begun()

    async def _keep(self, holding: Holding, helpers: Helpers, life: _Life) -> None:
        """One holding's task until it is at rest: its life, and what its steps change for others."""
        info_hash = holding.info_hash
        try:
            with life.scope:
                if (leaving := self._leaving.get(info_hash)) is not None:  # it was dropped, and is wanted again
                    await leaving.wait()
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._keep_telling, holding, life)
                    while not holding.is_at_rest:
                        await holding.run(helpers)
                        await self._tell(holding, life)  # of its last step too, and whole
                    nursery.cancel_scope.cancel()
        finally:
            if self._lives.get(info_hash) is life:
                del self._lives[info_hash]
            life.over.set()
        if self._held.get(info_hash) is holding and not holding.is_at_rest:  # something spoke against it meanwhile
            self._begin(info_hash)

    async def _keep_telling(self, holding: Holding, life: _Life) -> NoReturn:
        while True:
            await self._tell(holding, life)
            await holding.until(lambda: holding.standing != life.told)

    async def _tell(self, holding: Holding, life: _Life) -> None:
        """Have others know where it stands."""
        async with life.telling:
            standing = holding.standing
            if standing != life.told:
                await self._attend(holding)
                life.told = standing

    async def _patrol(self) -> NoReturn:
        """Look at the files of all that is at rest, once in `look_every_s`, a few at a time."""
        while True:
            resting = [holding for holding in self._held.values() if holding.is_at_rest]
            portions = [resting[at : at + LOOKED_AT_TOGETHER] for at in range(0, len(resting), LOOKED_AT_TOGETHER)]
            for portion in portions or [[]]:
                await trio.sleep(self._parts.pace.look_every_s / max(1, len(portions)))
                await self._look_at([holding for holding in portion if holding.is_at_rest])

    async def _look_at(self, resting: list[Holding]) -> None:
        verified = [
            (holding.info_hash, holding.layout, holding.stamps)
            for holding in resting
            if holding.layout is not None and holding.stamps is not None
        ]
        altered = await self._parts.library.altered(verified)
        for holding in resting:
            if holding.info_hash in altered and self._held.get(holding.info_hash) is holding:
                holding.distrust("a file")
            elif not holding.is_stored:
                await holding.keep_anew(None)

    async def _drop(self, info_hash: InfoHash) -> None:
        leaving = await self._leave(info_hash)
        try:
            await self._end(info_hash)
            await self._parts.library.drop_torrent(info_hash)
        except LibraryError as error:
            logger.error("%s is not deleted yet: %s", info_hash.hex()[:16], error)
            self._undeleted.add(info_hash)
        finally:
            del self._leaving[info_hash]
            leaving.set()

    async def _leave(self, info_hash: InfoHash) -> trio.Event:
        """Have the next life of a content wait for the event that this gives, as one that is ending already does."""
        while (before := self._leaving.get(info_hash)) is not None:
            await before.wait()
        leaving = self._leaving[info_hash] = trio.Event()
        return leaving

    async def _end(self, info_hash: InfoHash) -> None:
        """End a content's life, and seeding it; its files stay."""
        self._undeleted.discard(info_hash)
        self._stored.pop(info_hash, None)
        self._in_turn.pop(info_hash, None)
        self._helpers.pop(info_hash, None)
        holding = self._held.pop(info_hash, None)
        life = self._lives.pop(info_hash, None)
        if life:
            life.scope.cancel()
        if holding:
            holding.drop()
        if life:
            await life.over.wait()
        await self._parts.swarm.remove(info_hash)


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
