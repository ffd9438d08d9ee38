"""A node's library: its folder, its lock, its index and the lessons' files.

```
<library>/lock          held by the one daemon that runs here
<library>/index.sqlite  what is admitted and held (index.py)
<library>/trust/        TUF's metadata (trust.py)
<library>/content/<v2 info-hash>/<path>   the lessons' files, as they are
<library>/trash/        what is being deleted; emptied after every start
```
"""

from __future__ import annotations

import os
import shutil
import sqlite3
import threading
from collections.abc import AsyncGenerator, Callable
from contextlib import ExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import TypeVar

import trio

from edgeshare import host
from edgeshare.admission import Changes, Memory
from edgeshare.errors import LibraryError
from edgeshare.hashtree import TreeHasher
from edgeshare.layout import FileEntry, Layout
from edgeshare.library import content
from edgeshare.library.content import Stamp
from edgeshare.library.index import DAMAGED, Index, StoredCatalogue, StoredLesson, StoredTorrent
from edgeshare.manifest import InfoHash, LessonId

_T = TypeVar("_T")


class Library:
    """The open library; made by `open_library`."""

    def __init__(self, root: Path, index: Index) -> None:
        self.root = root
        self._index = index
        self._index_turn = trio.CapacityLimiter(1)  # SQLite's connection takes one thread at a time
        self._disk_turn = trio.CapacityLimiter(2)  # hashing two lessons at once keeps two cores busy, and no more

    def folder(self, info_hash: InfoHash) -> Path:
        """Where the files of one content are, or will be."""
        return self.root / "content" / info_hash.hex()

    async def catalogues(self) -> list[StoredCatalogue]:
        """The admitted catalogues."""
        return await self._indexed(self._index.catalogues)

    async def torrents(self) -> list[StoredTorrent]:
        """What is held, whole or in part."""
        return await self._indexed(self._index.torrents)

    async def lessons(self) -> list[StoredLesson]:
        """What was asked for by name, and what is served."""
        return await self._indexed(self._index.lessons)

    async def memory(self) -> Memory:
        """What is remembered besides the catalogues and the lessons."""

        def read() -> Memory:
            gone = {(each.id, each.by): each for each in self._index.gone()}
            return Memory(publishers=self._index.publishers(), gone=gone, versions=self._index.versions())

        return await self._indexed(read)

    async def admit(self, catalogue: StoredCatalogue, changes: Changes | None = None) -> None:
        """Keep an edition, and what it changes besides; on disk when this returns, all of it or nothing."""
        await self._indexed(lambda: self._index.admit(catalogue, changes))

    async def heed(self, changes: Changes) -> None:
        """Keep what is known of publishers, and what follows from it; on disk when this returns, all or nothing."""
        await self._indexed(lambda: self._index.heed(changes))

    async def keep_torrent(self, torrent: StoredTorrent) -> None:
        """Keep what is known of one content; on disk when this returns."""
        await self._indexed(lambda: self._index.put_torrent(torrent))

    async def keep_lesson(self, lesson: StoredLesson) -> None:
        """Keep what is asked for and served of a lesson; on disk when this returns."""
        await self._indexed(lambda: self._index.put_lesson(lesson))

    async def drop_lesson(self, lesson: LessonId) -> None:
        """Forget what was asked for and served of a lesson; its content is dropped on its own."""
        await self._indexed(lambda: self._index.drop_lesson(lesson))

    async def drop_torrent(self, info_hash: InfoHash) -> None:
        """Delete the files of one content and forget it; the swarm has let go of it before.

        In this order: killed in between, the next start finds it in the index, and drops it again.

        Raises:
            LibraryError: the files or the index cannot be changed.
        """
        trash = self.root / "trash" / f"{info_hash.hex()}.{os.urandom(4).hex()}"
        try:
            self.folder(info_hash).rename(trash)  # at once and whole; the slow part may be cut short
        except FileNotFoundError:
            pass
        except OSError as error:
            raise _disk_error(self.root, error) from error
        await self._indexed(lambda: self._index.drop_torrent(info_hash))
        await trio.to_thread.run_sync(_delete, trash, limiter=self._disk_turn, abandon_on_cancel=True)

    async def empty_trash(self) -> None:
        """Delete what earlier runs left half-deleted; many gigabytes take seconds, so nothing should wait for it."""
        for left in list((self.root / "trash").iterdir()):
            await trio.to_thread.run_sync(_delete, left, limiter=self._disk_turn, abandon_on_cancel=True)

    async def verify(self, info_hash: InfoHash, layout: Layout) -> tuple[Stamp, ...] | None:
        """Read one content back from disk; its stamps, or None when it is not whole (see `content.verify`).

        Raises:
            LibraryError: the disk fails.
        """
        gone = threading.Event()

        def check() -> tuple[Stamp, ...] | None:
            return content.verify(self.folder(info_hash), layout, gone.is_set)

        try:
            return await trio.to_thread.run_sync(check, limiter=self._disk_turn, abandon_on_cancel=True)
        except OSError as error:
            raise _disk_error(self.root, error) from error
        finally:
            gone.set()

    async def unchanged(self, held: StoredTorrent, layout: Layout) -> bool:
        """Whether a complete content is still what was verified, by its stamps."""
        stamps = held.stamps
        if stamps is None:
            return False
        folder = self.folder(held.info_hash)
        return await trio.to_thread.run_sync(content.unchanged, folder, layout, stamps, limiter=self._disk_turn)

    async def make_way(self, info_hash: InfoHash, layout: Layout) -> None:
        """Clear what stands where the files of one content belong (see `content.make_way`).

        Raises:
            LibraryError: the disk fails.
        """
        try:
            folder = self.folder(info_hash)
            await trio.to_thread.run_sync(content.make_way, folder, layout, limiter=self._disk_turn)
        except OSError as error:
            raise _disk_error(self.root, error) from error

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
            raise _disk_error(self.root, error) from error

    async def file(self, info_hash: InfoHash, entry: FileEntry) -> bytes:
        """All bytes of one file of a complete content, hashed once more.

        Raises:
            LibraryError: the disk fails, or it was altered.
        """
        path = content.inside(self.folder(info_hash), entry.path)
        try:
            raw = await trio.to_thread.run_sync(path.read_bytes, limiter=self._disk_turn)
        except OSError as error:
            raise _disk_error(self.root, error) from error
        hasher = TreeHasher()
        hasher.update(raw)
        if hasher.root() != entry.root:
            raise LibraryError(f"{path} was altered", hint="it is checked, and fetched again")
        return raw

    def open_file(self, info_hash: InfoHash, entry: FileEntry, known: Stamp) -> int | None:
        """A descriptor of a complete content's file, or None when it was altered; the caller closes it."""
        return content.open_verified(self.folder(info_hash), entry, known)

    async def _indexed(self, call: Callable[[], _T]) -> _T:
        try:
            return await trio.to_thread.run_sync(call, limiter=self._index_turn)
        except sqlite3.Error as error:
            code = getattr(error, "sqlite_errorcode", None)  # none where Python cannot read what SQLite gave it
            is_damaged = code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, None)
            hint = DAMAGED if is_damaged else "is the disk full or read-only?"
            raise LibraryError(f"the index in {self.root} cannot be used ({error})", hint=hint) from error


@asynccontextmanager
async def open_library(root: Path) -> AsyncGenerator[Library, None]:
    """The library in the folder `root`, made when there is none, for this process alone.

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
        index = await trio.to_thread.run_sync(Index, root / "index.sqlite")
        stack.callback(index.close)
        yield Library(root, index)


def _delete(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with suppress(OSError):
            path.unlink(missing_ok=True)


def _disk_error(root: Path, error: OSError) -> LibraryError:
    hint = "is its disk full, read-only, or another user's?"
    return LibraryError(f"the library {root} cannot be written ({error.strerror})", hint=hint)
