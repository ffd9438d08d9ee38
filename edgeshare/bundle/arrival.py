"""The daemon's half of an import: what was brought into `<library>/incoming` is admitted and held.

Nothing of it is believed because the command line put it there: metadata goes through the node's own trust, editions
and lessons through the keeper, and every file is read back and hashed before it moves to its place. What a stop cuts
short is taken up again at the next start, as the folder is emptied last.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable
from pathlib import Path

import trio

from edgeshare.bundle.form import INDEX, Bundle, content_folder, torrent_file
from edgeshare.bundle.intake import FOLDER, LOCK, incoming
from edgeshare.bundle.stick import Metadata, Stick, missing
from edgeshare.errors import EdgeshareError, LibraryError, OriginError, TrustError
from edgeshare.holdings import Brought
from edgeshare.keeper import Keeper
from edgeshare.layout import MAX_INFO
from edgeshare.library.index import StoredTorrent
from edgeshare.library.library import Library
from edgeshare.manifest import InfoHash, LessonId
from edgeshare.swarm.session import info_of, read_info
from edgeshare.trust import Trust
from edgeshare.view import Arrival

logger = logging.getLogger(__name__)


class Arrivals:
    """What is brought to a node."""

    def __init__(
        self, library: Library, trust: Trust, keeper: Keeper, catalogues: Callable[[], tuple[str, ...]]
    ) -> None:
        """`catalogues` names those whose newest edition counts here."""
        self._library = library
        self._trust = trust
        self._keeper = keeper
        self._catalogues = catalogues
        self._turn = trio.Lock()
        self._stick = Stick(library.root / FOLDER)

    async def take_in_at_start(self) -> None:
        """Take in what was brought while no daemon ran, or what the last one had begun with."""
        try:
            await self.take_in()
        except EdgeshareError as error:
            logger.warning("what was imported is not taken in: %s", error)

    async def take_in(self) -> tuple[Arrival, ...]:
        """Take in what was brought, and forget what of it is not to be had; each lesson's fate.

        Raises:
            LibraryError: an import is still copying, or the library's disk fails.
            ManifestError: what was brought is damaged as a whole.
        """
        async with self._turn:
            if not (self._stick.root / INDEX).exists():
                return ()
            with incoming(self._library.root):
                table = self._stick.table()
                await self._admit(table)
                arrivals = [await self._hold(lesson, info_hash) for lesson, info_hash in table.lessons.items()]
                await trio.to_thread.run_sync(_empty, self._stick.root)
            for each in arrivals:
                if each.refused:
                    logger.warning("%s is not taken from a bundle: %s", each.lesson, each.refused)
            kept = sum(each.refused is None for each in arrivals)
            if arrivals:
                logger.info("lessons that came with a bundle: %d", kept)
            return tuple(arrivals)

    async def _admit(self, table: Bundle) -> None:
        """Take what is new in the bundle's metadata and catalogues; when it is not, what is listed here counts."""
        names = tuple(name for name in self._catalogues() if name in table.catalogues)
        if not names:
            return
        try:
            refreshed = await self._trust.refresh_from(Metadata(self._stick), names)
        except (OriginError, TrustError) as error:
            logger.warning("nothing new is taken from a bundle: %s", error)
            return
        await self._keeper.heed(refreshed.publishers, refreshed.catalogues)
        for name, vouched in refreshed.catalogues.items():
            try:
                if not self._keeper.stands_on(vouched):
                    await self._keeper.admit(vouched, await self._brought(vouched.manifest.info_hash))
            except EdgeshareError as error:
                logger.warning("%s: edition %d is not taken from a bundle: %s", name, vouched.manifest.edition, error)

    async def _hold(self, lesson: LessonId, info_hash: InfoHash) -> Arrival:
        try:
            self._keeper.roll.check_known(lesson)  # before gigabytes are hashed for nothing
            if not self._keeper.has(lesson, info_hash):
                await self._keeper.adopt(lesson, await self._brought(info_hash))
        except EdgeshareError as error:
            return Arrival(lesson=lesson, refused=str(error))
        return Arrival(lesson=lesson)

    async def _brought(self, info_hash: InfoHash) -> Brought:
        """A content, every byte of it verified a moment ago.

        Raises:
            LibraryError: it is not whole, or cannot be read.
            ManifestError: its torrent is not what its info-hash says.
        """
        place = torrent_file(info_hash)
        try:
            torrent = await trio.to_thread.run_sync(self._stick.read, place, 2 * MAX_INFO)
        except FileNotFoundError as error:
            raise missing("/".join(place)) from error
        info = info_of(torrent)
        layout = read_info(info, info_hash)
        folder = self._stick.root.joinpath(*content_folder(info_hash))
        if not folder.is_dir():  # moved to its place, by a run that was stopped before the index knew
            folder = self._library.folder(info_hash)
        stamps = await self._library.verify_at(folder, layout)
        if stamps is None:
            raise LibraryError("its files are not whole", hint="import it again")
        stored = StoredTorrent(
            info_hash=info_hash,
            info=info,
            resume=None,
            stamps=stamps,
            origin_bytes=0,
            peer_bytes=0,
            torrent=torrent,
        )
        return Brought(stored, layout, folder)


def _empty(folder: Path) -> None:
    """Remove what was brought; its table first, so that a stop in between leaves nothing to be taken in."""
    (folder / INDEX).unlink()
    for each in folder.iterdir():
        if each.is_dir() and not each.is_symlink():
            shutil.rmtree(each, ignore_errors=True)
        elif each.name != LOCK:
            each.unlink(missing_ok=True)
