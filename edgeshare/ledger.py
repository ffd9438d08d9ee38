"""What a node stands on, in memory and in the index: each step is decided by `admission.py`, written, and then counts.

Steps are taken one after the other, each from what the one before left, and in a thread: thousands of signatures take
seconds, and readers are served meanwhile.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from functools import partial
from typing import TypeVar

import attrs
import trio

from edgeshare import admission
from edgeshare.admission import Admitted, Backed, Memory, Weighed, changes, check_next, publisher_of, weigh
from edgeshare.catalogue import SignedLesson, read_edition
from edgeshare.errors import EdgeshareError, LibraryError
from edgeshare.library.index import StoredCatalogue, StoredLesson
from edgeshare.library.library import Library
from edgeshare.manifest import CatalogueManifest, read_catalogue, read_lesson
from edgeshare.publishers import Publishers
from edgeshare.trust import Vouched

logger = logging.getLogger(__name__)

_T = TypeVar("_T")


class Ledger:
    """The node's `memory`, kept in the library's index."""

    def __init__(self, library: Library) -> None:
        self.memory = Memory()
        self._library = library
        self._indexed = Memory()  # what the index knows: not the newest where it could not be written
        self._awaited: frozenset[str] | None = None  # catalogues of which a newer edition was offered
        self._turn = trio.Lock()
        self._reading = trio.CapacityLimiter(1)

    async def remember(self) -> None:
        """Take up what the index knows; nothing is asked of the network.

        Raises:
            LibraryError: the index cannot be read.
        """
        kept = await self._library.memory()
        catalogues = await self._library.catalogues()
        self.memory, lines = await self._beside(partial(recall, kept, catalogues))
        for line in lines:
            logger.warning("%s", line)
        publishers = self.memory.publishers
        self._indexed = attrs.evolve(kept, publishers=publishers, admitted=self.memory.admitted)

    def stands_on(self, vouched: Vouched) -> bool:
        """Whether this very edition was admitted, with the same keys behind it, and the index has it."""
        admitted = self.memory.admitted.get(vouched.manifest.name)
        epoch = self.memory.epoch(publisher_of(vouched.manifest.name))
        is_kept = vouched.manifest.name in self._indexed.admitted
        return admitted is not None and admitted.epoch == epoch and is_kept and not self._is_news(vouched)

    async def keep_anew(self) -> None:
        """Have an index that takes the place of a lost one know what this node stands on.

        Editions that it lacks are admitted again when the origin is heard of next: their content is here.

        Raises:
            LibraryError: it cannot be read or written.
        """
        async with self._turn:
            kept = await self._library.memory()
            names = {catalogue.name for catalogue in await self._library.catalogues()}
            admitted = {name: each for name, each in self.memory.admitted.items() if name in names}
            self._indexed = attrs.evolve(kept, admitted=admitted)
            await self._library.heed(changes(self._indexed, self.memory))
            self._indexed = attrs.evolve(self.memory, admitted=admitted)

    def awaits(self, catalogues: Iterable[str]) -> bool:
        """Whether a newer edition of one of the catalogues may be on its way; it may be, until something was heard."""
        return self._awaited is None or not self._awaited.isdisjoint(catalogues)

    def check(self, vouched: Vouched) -> None:
        """Refuse an edition that may not follow what was admitted (see `admission.check_next`).

        Raises:
            TrustError: it may not.
        """
        check_next(self.memory, vouched.manifest, vouched.raw, vouched.keys)

    async def heed(
        self, publishers: Publishers, offered: Mapping[str, Vouched], served: Callable[[], tuple[Backed, ...]]
    ) -> Weighed | None:
        """Stand on what the newest metadata says of publishers, and on what it offers; None when that is no news.

        `served` gives the lessons that are complete here, when the steps before are over. Where the index cannot be
        written, the news counts all the same, and is written with the next step.
        """
        async with self._turn:
            awaited = frozenset(name for name, vouched in offered.items() if self._is_news(vouched))
            if (self._indexed.publishers, self._awaited) == (publishers, awaited):
                return None
            self._awaited = awaited
            weighed = await self._beside(partial(admission.heed, self.memory, publishers, served()))
            try:
                await self._library.heed(changes(self._indexed, weighed.memory))
                self._indexed = weighed.memory
            except LibraryError as error:
                logger.error("what was heard of publishers is not kept yet: %s", error)
            self.memory = weighed.memory
            return weighed

    async def admit(self, vouched: Vouched, content: bytes) -> Weighed:
        """Stand on an edition whose content file is here.

        Raises:
            ManifestError: it is not what its manifest says.
            TrustError: it may not follow what was admitted.
            LibraryError: it cannot be kept; the one before stands.
        """
        name = vouched.manifest.name
        async with self._turn:
            self.check(vouched)  # other things may have been admitted since somebody asked
            stored = StoredCatalogue(
                name=name,
                manifest=vouched.raw,
                content=content,
                keys=vouched.keys,
                admitted_at=datetime.now(UTC).isoformat(),
                epoch=self.memory.epoch(publisher_of(name)),
            )
            weighed = await self._beside(partial(take_up, self.memory, stored, vouched.manifest))
            await self._library.admit(stored, changes(self._indexed, weighed.memory))
            self.memory = self._indexed = weighed.memory
            if self._awaited is not None:
                self._awaited -= {name}
            return weighed

    def _is_news(self, vouched: Vouched) -> bool:
        admitted = self.memory.admitted.get(vouched.manifest.name)
        return admitted is None or (admitted.manifest, admitted.keys) != (vouched.manifest, vouched.keys)

    async def _beside(self, step: Callable[[], _T]) -> _T:
        return await trio.to_thread.run_sync(step, limiter=self._reading)


def recall(kept: Memory, catalogues: Iterable[StoredCatalogue]) -> tuple[Memory, tuple[str, ...]]:
    """What an index's rows come to, and a line for each that is damaged."""
    catalogues = tuple(catalogues)
    memory, lines = kept, []
    if memory.publishers is None and any(each.epoch is not None for each in catalogues):
        # It was known, and is damaged. To take anybody's word for any id would be worse than to take none, until
        # the origin is heard of again: what is served goes on.
        memory = attrs.evolve(memory, publishers=Publishers())
    for catalogue in catalogues:
        try:
            memory = take_up(memory, catalogue).memory
        except EdgeshareError as error:
            lines.append(f"the library's copy of {catalogue.name} is damaged, waiting for the origin: {error}")
    return memory, tuple(lines)


def take_up(memory: Memory, stored: StoredCatalogue, manifest: CatalogueManifest | None = None) -> Weighed:
    """Take up an edition as the index keeps it, or will.

    Raises:
        EdgeshareError: it is not what its manifest says.
    """
    manifest = manifest or read_catalogue(stored.manifest, stored.keys)
    edition = read_edition(stored.content, manifest.name, manifest.edition, memory.usable(stored.keys))
    return weigh(memory, Admitted(manifest=manifest, edition=edition, keys=stored.keys, epoch=stored.epoch))


def read_served(row: StoredLesson) -> Backed | None:
    """What the index says is served of a lesson, verified once more; None when that is nothing.

    Raises:
        EdgeshareError: it is damaged.
    """
    if not row.served:
        return None
    return Backed(SignedLesson(read_lesson(row.served, row.keys), row.served), row.keys, row.epoch)
