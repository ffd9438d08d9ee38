"""The contents that a node holds: one task for each, begun when it is needed, ended with what it removes.

A content that was dropped may be wanted again while it is being deleted: its next life waits for the end of that.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable
from typing import NoReturn

import attrs
import trio

from edgeshare.errors import LibraryError
from edgeshare.holding import Expected, Holding, Parts
from edgeshare.layout import FileEntry
from edgeshare.library.index import StoredTorrent
from edgeshare.manifest import InfoHash
from edgeshare.swarm.session import Helpers

logger = logging.getLogger(__name__)


@attrs.frozen
class _Life:
    """The task of one holding."""

    scope: trio.CancelScope = attrs.field(factory=trio.CancelScope)
    over: trio.Event = attrs.field(factory=trio.Event)


class Holdings:
    """All contents of a node; `attend` runs beside each of them, and says to others what becomes of it."""

    def __init__(self, parts: Parts, attend: Callable[[Holding], Awaitable[NoReturn]]) -> None:
        self._parts = parts
        self._attend = attend
        self._nursery: trio.Nursery | None = None
        self._held: dict[InfoHash, Holding] = {}
        self._lives: dict[InfoHash, _Life] = {}
        self._leaving: dict[InfoHash, trio.Event] = {}  # contents that are being deleted
        self._undeleted: set[InfoHash] = set()  # the disk refused
        self._stored: dict[InfoHash, StoredTorrent] = {}  # from earlier runs, and not begun yet

    async def open(self, nursery: trio.Nursery) -> None:
        """Know what earlier runs left; from now on holdings live in `nursery`.

        Raises:
            LibraryError: the index cannot be read.
        """
        self._stored = {stored.info_hash: stored for stored in await self._parts.library.torrents()}
        self._nursery = nursery

    def get(self, info_hash: InfoHash) -> Holding | None:
        """The holding of a content that was begun."""
        return self._held.get(info_hash)

    def is_stored(self, info_hash: InfoHash) -> bool:
        """Whether an earlier run left something of a content that was not begun yet."""
        return info_hash in self._stored

    @property
    def busy(self) -> int:
        """How many are being fetched, and may come further."""
        return sum(
            not (held.is_complete or held.is_refused or held.is_unobtainable or held.missing_at_origin)
            for held in self._held.values()
        )

    def hold(self, expected: Expected, helpers: Helpers) -> Holding:
        """The holding of a content; begun when there is none."""
        held = self._held.get(expected.info_hash)
        if held is None:
            assert self._nursery is not None
            held = Holding(self._parts, expected, self._stored.pop(expected.info_hash, None))
            self._held[expected.info_hash] = held
            life = self._lives[expected.info_hash] = _Life()
            self._nursery.start_soon(self._keep, held, helpers, life)
        held.expect(expected)
        return held

    async def drop_all_but(self, needed: Iterable[InfoHash]) -> None:
        """Stop seeding all others and delete them; what cannot be deleted now is tried again at the next time."""
        for info_hash in (self._held.keys() | self._stored.keys() | self._undeleted).difference(needed):
            await self._drop(info_hash)

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

    async def _drop(self, info_hash: InfoHash) -> None:
        leaving = self._leaving[info_hash] = trio.Event()
        self._undeleted.discard(info_hash)
        self._stored.pop(info_hash, None)
        holding = self._held.pop(info_hash, None)
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
