"""What a node stands on, in memory and in the index: each step is decided by `admission.py`, written, and then counts.

Steps are taken one after the other, each from what the one before left, and in a thread: thousands of signatures take
seconds, and readers are served meanwhile.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Container, Iterable, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from functools import partial
from typing import TypeVar

import attrs
import trio

from edgeshare import __version__, admission, cycles
from edgeshare.admission import Admitted, Backed, Changes, Memory, Weighed, changes, check_next, publisher_of, weigh
from edgeshare.catalogue import Edition, SignedLesson, read_edition, recall_edition
from edgeshare.errors import EdgeshareError, LibraryError
from edgeshare.library.index import StoredCatalogue, StoredLesson
from edgeshare.library.library import Library
from edgeshare.manifest import CatalogueManifest, read_catalogue, read_lesson
from edgeshare.publishers import Publishers
from edgeshare.signing import PublicKey
from edgeshare.trust import Vouched

logger = logging.getLogger(__name__)

_FACT = "verified"  # what the index knows it by

_T = TypeVar("_T")


class Ledger:
    """The node's `memory`, kept in the library's index."""

    def __init__(self, library: Library) -> None:
        self.memory = Memory()
        self._library = library
        self._indexed = Memory()  # what the index knows: not the newest where it could not be written
        self._marks: dict[str, str] = {}  # of the editions that were verified whole, by the catalogue's name
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
        verified = frozenset((await self._library.fact(_FACT) or "").split())

        def take_up_all() -> tuple[Memory, tuple[str, ...], dict[str, str]]:
            marks = {each.name: _mark(each, kept.usable(each.keys)) for each in catalogues}
            memory, lines = recall(kept, catalogues, [name for name, mark in marks.items() if mark in verified])
            return memory, lines, {name: mark for name, mark in marks.items() if _is_whole(memory, name)}

        self.memory, lines, self._marks = await self._beside(take_up_all)
        if verified != set(self._marks.values()):
            await self._keep_marks()
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
            await self._keep_marks()

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
            is_first, self._awaited = self._awaited is None, awaited
            if not is_first and publishers == self._indexed.publishers == self.memory.publishers:
                return Weighed(memory=self.memory)  # which was weighed with them already
            weighed = await self._beside(partial(admission.heed, self.memory, publishers, served()))
            try:
                await self._library.heed(await self._changed(weighed.memory))
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
            marks = {other: mark for other, mark in self._marks.items() if other != name}
            if _is_whole(weighed.memory, name):
                marks[name] = await self._beside(partial(_mark, stored, weighed.memory.usable(stored.keys)))
            # Before it counts, after which nobody should give up half-way. What was verified is so, admitted or not.
            await self._keep_marks(*marks.values())
            await self._library.admit(stored, await self._changed(weighed.memory))
            self.memory = self._indexed = weighed.memory
            if self._awaited is not None:
                self._awaited -= {name}
            self._marks = marks
            return weighed

    def _is_news(self, vouched: Vouched) -> bool:
        admitted = self.memory.admitted.get(vouched.manifest.name)
        return admitted is None or (admitted.manifest, admitted.keys) != (vouched.manifest, vouched.keys)

    async def _changed(self, memory: Memory) -> Changes:
        """What the index has to change; of 50,000 versions that takes 50 ms."""
        return await self._beside(partial(changes, self._indexed, memory))

    async def _keep_marks(self, *more: str) -> None:
        """Have the next start know what was verified; when it does not, it is verified again."""
        with suppress(LibraryError):
            await self._library.put_fact(_FACT, " ".join(sorted({*self._marks.values(), *more})))

    async def _beside(self, step: Callable[[], _T]) -> _T:
        with cycles.lasting():
            return await trio.to_thread.run_sync(step, limiter=self._reading)


def recall(
    kept: Memory, catalogues: Iterable[StoredCatalogue], verified: Container[str] = ()
) -> tuple[Memory, tuple[str, ...]]:
    """What an index's rows come to, and a line for each that is damaged.

    The names of catalogues whose very edition was `verified` whole before: it is not verified again.
    """
    catalogues = tuple(catalogues)
    memory, lines = kept, []
    if memory.publishers is None and any(each.epoch is not None for each in catalogues):
        # It was known, and is damaged. To take anybody's word for any id would be worse than to take none, until
        # the origin is heard of again: what is served goes on.
        memory = attrs.evolve(memory, publishers=Publishers())
    for catalogue in catalogues:
        try:
            if catalogue.name in verified:
                manifest = read_catalogue(catalogue.manifest, catalogue.keys)
                edition = recall_edition(
                    catalogue.content, manifest.name, manifest.edition, memory.usable(catalogue.keys)
                )
                memory = _stand_on(memory, catalogue, manifest, edition).memory
            else:
                memory = take_up(memory, catalogue).memory
        except EdgeshareError as error:
            lines.append(f"the library's copy of {catalogue.name} is damaged, waiting for the origin: {error}")
    return memory, tuple(lines)


def take_up(memory: Memory, stored: StoredCatalogue, manifest: CatalogueManifest | None = None) -> Weighed:
    """Take up an edition as the index keeps it, or will.

    Raises:
        EdgeshareError: it is not what its manifest says.
    """
    manifest, keys = manifest or read_catalogue(stored.manifest, stored.keys), memory.usable(stored.keys)
    before, known = memory.admitted.get(manifest.name), {}
    if before and memory.usable(before.keys) == keys:
        known = {lesson.raw: lesson for lesson in before.edition.lessons}
    edition = read_edition(stored.content, manifest.name, manifest.edition, keys, known)
    return _stand_on(memory, stored, manifest, edition)


def _stand_on(memory: Memory, stored: StoredCatalogue, manifest: CatalogueManifest, edition: Edition) -> Weighed:
    return weigh(memory, Admitted(manifest=manifest, edition=edition, keys=stored.keys, epoch=stored.epoch))


def _mark(stored: StoredCatalogue, keys: Mapping[bytes, PublicKey]) -> str:
    """Names all that decides whether the lessons of an edition are verified: the rules, the keys, and every byte.

    Whoever can write it into the index could as well write his own keys there.
    """
    digest = hashlib.sha256()
    vouching = [part for name in sorted(keys) for part in (keys[name].scheme.encode(), keys[name].public)]
    for part in (__version__.encode(), stored.name.encode(), *vouching, stored.content):
        digest.update(len(part).to_bytes(8, "big"))
        digest.update(part)
    return digest.hexdigest()


def _is_whole(memory: Memory, catalogue: str) -> bool:
    """Whether an edition was taken up, and nothing in it refused."""
    admitted = memory.admitted.get(catalogue)
    return admitted is not None and not admitted.edition.refused


def read_served(row: StoredLesson) -> Backed | None:
    """What the index says is served of a lesson, verified once more; None when that is nothing.

    Raises:
        EdgeshareError: it is damaged.
    """
    if not row.served:
        return None
    return Backed(SignedLesson(read_lesson(row.served, row.keys), row.served), row.keys, row.epoch)
