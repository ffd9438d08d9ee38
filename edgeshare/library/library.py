"""A node's library: its folder, its lock, its index and the lessons' files.

```
<library>/lock          held by the one daemon that runs here
<library>/index.sqlite  what is admitted and held (index.py); `index.*` beside it: recovery.py
<library>/trust/        TUF's metadata (trust.py)
<library>/content/<v2 info-hash>/<path>   the lessons' files, as they are
<library>/trash/        what is being deleted; emptied after every start
```
"""

from __future__ import annotations

import logging
import os
import shutil
import threading
from collections.abc import AsyncGenerator, Callable, Collection, Sequence
from contextlib import ExitStack, asynccontextmanager, suppress
from datetime import UTC, date, datetime, time, timedelta
from pathlib import Path
from typing import NoReturn

import trio

from edgeshare import host
from edgeshare.admission import Changes, Memory
from edgeshare.errors import LibraryError
from edgeshare.hashtree import TreeHasher
from edgeshare.layout import FileEntry, Layout
from edgeshare.library import content
from edgeshare.library.content import Stamp
from edgeshare.library.disk import DiskWatch
from edgeshare.library.index import Index, StoredCatalogue, StoredLesson, StoredTorrent
from edgeshare.library.room import Disk
from edgeshare.library.safe_index import SafeIndex, open_safe_index
from edgeshare.manifest import InfoHash, LessonId

logger = logging.getLogger(__name__)

STRAYS_KEPT = timedelta(days=30)
BACKUP_GRACE_S = 1.0  # for what nobody else knows to be copied when the node stops


class Library:
    """The open library; made by `open_library`."""

    def __init__(self, root: Path, index: SafeIndex, watch: DiskWatch) -> None:
        self.root = root
        self._contents = f"{root}/content"  # as `folder`, for each of a thousand requests a second
        self._index = index
        self._watch = watch
        self._disk_turn = trio.CapacityLimiter(2)  # hashing two lessons at once keeps two cores busy, and no more

    def folder(self, info_hash: InfoHash) -> Path:
        """Where the files of one content are, or will be."""
        return self.root / "content" / info_hash.hex()

    @property
    def disk(self) -> Disk:
        """The library's disk, as it was found last."""
        return self._watch.disk

    async def watch(self) -> NoReturn:
        """Look after the disk and the index as long as the node runs."""
        while True:
            await self._watch.rest()
            await self._watch.look()
            if not self.disk.is_paused:
                await self._index.return_to_disk()
                await self._index.back_up_when_due(datetime.now(UTC))

    async def until_disk(self, condition: Callable[[Disk], bool]) -> None:
        """Wait until the disk is as wanted."""
        await self._watch.until(condition)

    def doubt(self) -> None:
        """A write to the library's disk failed: it is looked at at once."""
        self._watch.doubt()

    async def reopened(self, known: int) -> int:
        """Wait until another index takes the place of one that was lost: it may know less than it was told.

        Gives how often that was, for the next call: what happens before somebody waits again is not missed then.
        """
        return await self._index.reopened(known)

    async def catalogues(self) -> list[StoredCatalogue]:
        """The admitted catalogues."""
        return await self._index.read(Index.catalogues)

    async def torrents(self) -> list[StoredTorrent]:
        """What is held, whole or in part."""
        return await self._index.read(Index.torrents)

    async def torrent(self, info_hash: InfoHash) -> StoredTorrent | None:
        """What is held of one content; None when the index does not know it."""
        return await self._index.read(lambda index: index.torrent(info_hash))

    async def lessons(self) -> list[StoredLesson]:
        """What was asked for by name, and what is served."""
        return await self._index.read(Index.lessons)

    async def memory(self) -> Memory:
        """What is remembered besides the catalogues and the lessons."""
        return await self._index.read(Index.memory)

    async def admit(self, catalogue: StoredCatalogue, changes: Changes | None = None) -> None:
        """Keep an edition, and what it changes besides; on disk when this returns, all of it or nothing."""
        await self._index.entrust(lambda index: index.admit(catalogue, changes))

    async def heed(self, changes: Changes) -> None:
        """Keep what is known of publishers, and what follows from it; on disk when this returns, all or nothing."""
        await self._index.entrust(lambda index: index.heed(changes))

    async def keep_torrent(self, torrent: StoredTorrent) -> None:
        """Keep what is known of one content; on disk when this returns."""
        await self._index.write(lambda index: index.put_torrent(torrent))

    async def keep_lesson(self, lesson: StoredLesson) -> None:
        """Keep what is asked for and served of a lesson; on disk when this returns."""
        await self._index.entrust(lambda index: index.put_lesson(lesson))

    async def keep_lessons(self, lessons: Sequence[StoredLesson]) -> None:
        """Keep what is asked for and served of several lessons; on disk when this returns, all or nothing."""
        await self._index.entrust(lambda index: index.put_lessons(lessons))

    async def drop_lesson(self, lesson: LessonId) -> None:
        """Forget what was asked for and served of a lesson; its content is dropped on its own."""
        await self._index.write(lambda index: index.drop_lesson(lesson))

    async def traffic(self, month: str) -> int:
        """Bytes that went over the link to the outside in `month`, like 2026-11."""
        return await self._index.read(lambda index: index.traffic(month))

    async def put_traffic(self, month: str, total: int) -> None:
        """Keep what went over the link to the outside in `month`, in bytes; on disk when this returns."""
        await self._index.write(lambda index: index.put_traffic(month, total))

    async def fact(self, name: str) -> str | None:
        """One of the small things that this node knows of itself; None when it was never put."""
        return await self._index.read(lambda index: index.fact(name))

    async def put_fact(self, name: str, value: str) -> None:
        """Keep one of the small things that this node knows of itself; on disk when this returns."""
        await self._index.write(lambda index: index.put_fact(name, value))

    async def drop_torrent(self, info_hash: InfoHash) -> None:
        """Delete the files of one content and forget it; the swarm has let go of it before.

        In this order: killed in between, the next start finds it in the index, and drops it again.

        Raises:
            LibraryError: the files or the index cannot be changed.
        """
        try:
            left = self._discard(self.folder(info_hash))  # at once and whole; the slow part may be cut short
        except OSError as error:
            raise self._failed(error) from error
        await self._index.write(lambda index: index.drop_torrent(info_hash))
        if left:
            await trio.to_thread.run_sync(_delete, left, limiter=self._disk_turn, abandon_on_cancel=True)

    async def move_in(self, info_hash: InfoHash, folder: Path) -> None:
        """Move the files of one content from `folder`, on the same disk, to their place; what is there goes.

        Raises:
            LibraryError: they cannot be moved.
        """
        place = self.folder(info_hash)

        def move() -> None:
            self._discard(place)
            folder.rename(place)
            host.sync_folder(place.parent)

        try:
            await trio.to_thread.run_sync(move, limiter=self._disk_turn)
        except OSError as error:
            raise self._failed(error) from error
        await self.empty_trash()

    async def clear_strays(self, known: Collection[InfoHash], today: date) -> None:
        """Delete the files of contents that are not `known`, and have not been for a month.

        A damaged index forgets what is here, and files are kept until it can be told again: by the origin, or a stick.
        So an index that was made or mended lately clears nothing, and nothing goes that was begun lately.

        Raises:
            LibraryError: the index or the files cannot be read or changed.
        """
        since = _day(await self.fact("since"))
        if since is None:  # lost or damaged, and perhaps more with it: the month begins anew
            await self.put_fact("since", str(today))
            return
        if today - since < STRAYS_KEPT:
            return
        begun_lately_s = datetime.combine(today - STRAYS_KEPT + timedelta(days=1), time(), UTC).timestamp()

        def move() -> int:
            names = {info_hash.hex() for info_hash in known}
            strays = [path for path in (self.root / "content").iterdir() if path.name not in names]
            # In seconds: a damaged disk, too, has times that are no date.
            old = [path for path in strays if path.stat(follow_symlinks=False).st_mtime < begun_lately_s]
            return sum(self._discard(path) is not None for path in old)

        try:
            if cleared := await trio.to_thread.run_sync(move, limiter=self._disk_turn):
                logger.info("%d contents that nothing here names any more are deleted", cleared)
        except OSError as error:
            raise self._failed(error) from error
        await self.empty_trash()

    async def empty_trash(self) -> None:
        """Delete what earlier runs left half-deleted; many gigabytes take seconds, so nothing should wait for it."""
        try:
            every = list((self.root / "trash").iterdir())
        except FileNotFoundError:
            every = []
        except OSError as error:
            self.doubt()
            logger.warning("the trash %s is not emptied yet: %s", self.root / "trash", error.strerror)
            every = []
        for left in every:
            await trio.to_thread.run_sync(_delete, left, limiter=self._disk_turn, abandon_on_cancel=True)

    async def verify(self, info_hash: InfoHash, layout: Layout) -> tuple[Stamp, ...] | None:
        """Read one content back from disk; its stamps, or None when it is not whole (see `content.verify`).

        Raises:
            LibraryError: the disk fails.
        """
        return await self.verify_at(self.folder(info_hash), layout)

    async def verify_at(self, folder: Path, layout: Layout) -> tuple[Stamp, ...] | None:
        """As `verify`, of a content that is not in its place yet; its stamps are good there too."""
        gone = threading.Event()

        def check() -> tuple[Stamp, ...] | None:
            return content.verify(folder, layout, gone.is_set)

        try:
            return await trio.to_thread.run_sync(check, limiter=self._disk_turn, abandon_on_cancel=True)
        except OSError as error:
            raise self._failed(error) from error
        finally:
            gone.set()

    async def unchanged(self, held: StoredTorrent, layout: Layout) -> bool:
        """Whether a complete content is still what was verified, by its stamps."""
        stamps = held.stamps
        if stamps is None:
            return False
        folder = self.folder(held.info_hash)
        return await trio.to_thread.run_sync(content.unchanged, folder, layout, stamps, limiter=self._disk_turn)

    async def altered(self, verified: Sequence[tuple[InfoHash, Layout, tuple[Stamp, ...]]]) -> frozenset[InfoHash]:
        """Which of several complete contents are no longer what was verified, by their stamps."""

        def look() -> frozenset[InfoHash]:
            return frozenset(
                info_hash
                for info_hash, layout, stamps in verified
                if not content.unchanged(self.folder(info_hash), layout, stamps)
            )

        return await trio.to_thread.run_sync(look, limiter=self._disk_turn)

    async def make_way(self, info_hash: InfoHash, layout: Layout) -> None:
        """Clear what stands where the files of one content belong (see `content.make_way`).

        Raises:
            LibraryError: the disk fails.
        """
        try:
            folder = self.folder(info_hash)
            await trio.to_thread.run_sync(content.make_way, folder, layout, limiter=self._disk_turn)
        except OSError as error:
            raise self._failed(error) from error

    async def take_over(self, info_hash: InfoHash, layout: Layout, before: InfoHash, known: Layout) -> int:
        """Give one content the files that another has too (see `content.take_over`); bytes that were taken over.

        Raises:
            LibraryError: the disk fails.
        """
        root, other = self.folder(info_hash), self.folder(before)
        try:
            return await trio.to_thread.run_sync(content.take_over, root, layout, other, known, limiter=self._disk_turn)
        except OSError as error:
            raise self._failed(error) from error

    async def free_bytes(self) -> int | None:
        """Bytes that are free on the library's disk, now; None when it is gone."""
        await self._watch.look()
        return self.disk.free

    async def room_for(self, info_hash: InfoHash, layout: Layout) -> tuple[int, int]:
        """Bytes that the files of one content still need on the disk, and bytes that are free there.

        Raises:
            LibraryError: the disk is gone.
        """

        def measure() -> tuple[int, int]:
            return layout.size - content.written(self.folder(info_hash), layout), host.free_space(self.root)

        try:
            return await trio.to_thread.run_sync(measure, limiter=self._disk_turn)
        except OSError as error:
            raise self._failed(error) from error

    async def file(self, info_hash: InfoHash, entry: FileEntry) -> bytes:
        """All bytes of one file of a complete content, hashed once more.

        Raises:
            LibraryError: the disk fails, or it was altered.
        """
        path = content.inside(self.folder(info_hash), entry.path)
        try:
            raw = await trio.to_thread.run_sync(path.read_bytes, limiter=self._disk_turn)
        except OSError as error:
            raise self._failed(error) from error
        hasher = TreeHasher()
        hasher.update(raw)
        if hasher.root() != entry.root:
            raise LibraryError(f"{path} was altered", hint="it is checked, and fetched again")
        return raw

    def open_file(self, info_hash: InfoHash, entry: FileEntry, known: Stamp) -> int | None:
        """A descriptor of a complete content's file, or None when it was altered; the caller closes it."""
        return content.open_verified(f"{self._contents}/{info_hash.hex()}", entry, known)

    def _discard(self, path: Path) -> Path | None:
        """Move `path` into the trash, which somebody may have deleted; where it is now, None when it was not there."""
        trash = self.root / "trash"
        trash.mkdir(exist_ok=True)
        left = trash / f"{path.name}.{os.urandom(4).hex()}"
        try:
            path.rename(left)
        except FileNotFoundError:
            if os.path.lexists(path):  # it is the trash that is missing, again
                raise
            return None
        return left

    def _failed(self, error: OSError) -> LibraryError:
        """What is said of an error of the disk, which is looked at at once."""
        self.doubt()
        return _disk_error(self.root, error)


@asynccontextmanager
async def open_library(root: Path, keep_free: int = 0) -> AsyncGenerator[Library, None]:
    """The library in the folder `root`, made when there is none, for this process alone.

    Nothing should be fetched into it when less than `keep_free` bytes are free on its disk. One that was used before
    opens on a disk that cannot be written, too: what it holds can be read.

    Raises:
        LibraryError: it cannot be written, or another daemon uses it.
    """
    with ExitStack() as stack:
        try:
            for folder in ("content", "trash", "trust"):
                (root / folder).mkdir(parents=True, exist_ok=True)
            stack.enter_context(host.locked(root / "lock"))
        except host.Locked as error:
            hint = "stop it, or give this node another `library`"
            raise LibraryError(f"another edgeshare uses the library {root}", hint=hint) from error
        except OSError as error:
            raise _disk_error(root, error) from error
        watch = DiskWatch(root, keep_free)
        index = await open_safe_index(root / "index.sqlite", watch.doubt)
        stack.callback(index.close)
        try:
            yield Library(root, index, watch)
        finally:
            with trio.CancelScope(shield=True):
                await index.back_up_at_the_end(BACKUP_GRACE_S)


def _day(text: str | None) -> date | None:
    """The day that `text` names; None when it is damaged."""
    try:
        return date.fromisoformat(text) if text is not None else None
    except ValueError:
        return None


def _delete(path: Path) -> None:
    with suppress(OSError):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def _disk_error(root: Path, error: OSError) -> LibraryError:
    hint = "is its disk full, read-only, or another user's?"
    return LibraryError(f"the library {root} cannot be written ({error.strerror})", hint=hint)
