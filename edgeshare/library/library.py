"""A node's library: its folder, its lock, its index and the lessons' files.

```
<library>/lock          held by the one daemon that runs here
<library>/index.sqlite  what is admitted and held (index.py)
<library>/trust/        TUF's metadata (trust.py)
<library>/content/<v2 info-hash>/<path>   the lessons' files, as they are
<library>/trash/        what is being deleted; emptied at every start
```
"""

from __future__ import annotations

import os
import shutil
import sqlite3
import threading
from collections.abc import AsyncGenerator, Callable
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path
from typing import TypeVar

import trio

from edgeshare import host
from edgeshare.errors import LibraryError
from edgeshare.layout import FileEntry, Layout
from edgeshare.library import content
from edgeshare.library.content import Stamp
from edgeshare.library.index import Index, StoredCatalogue, StoredLesson, StoredTorrent
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

    async def admit(self, catalogue: StoredCatalogue) -> None:
        """Keep an edition; on disk when this returns."""
        await self._indexed(lambda: self._index.admit(catalogue))

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
        """Forget one content and delete its files; the swarm has let go of it before."""
        await self._indexed(lambda: self._index.drop_torrent(info_hash))
        await trio.to_thread.run_sync(self._delete, info_hash, limiter=self._disk_turn)

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

    def open_file(self, info_hash: InfoHash, entry: FileEntry, known: Stamp) -> int | None:
        """A descriptor of a complete content's file, or None when it was altered; the caller closes it."""
        return content.open_verified(self.folder(info_hash), entry, known)

    async def _indexed(self, call: Callable[[], _T]) -> _T:
        try:
            return await trio.to_thread.run_sync(call, limiter=self._index_turn)
        except sqlite3.Error as error:
            hint = "is the disk full or read-only?"
            raise LibraryError(f"the index in {self.root} cannot be used ({error})", hint=hint) from error

    def _delete(self, info_hash: InfoHash) -> None:
        trash = self.root / "trash" / f"{info_hash.hex()}.{os.urandom(4).hex()}"
        try:
            self.folder(info_hash).rename(trash)  # at once and whole; the slow part may be cut short
        except FileNotFoundError:
            return
        shutil.rmtree(trash, ignore_errors=True)


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
            for left in (root / "trash").iterdir():
                shutil.rmtree(left, ignore_errors=True)
        except host.Locked as error:
            hint = "stop it, or give this node another `library`"
            raise LibraryError(f"another edgeshare uses the library {root}", hint=hint) from error
        except OSError as error:
            raise _disk_error(root, error) from error
        index = await trio.to_thread.run_sync(Index, root / "index.sqlite")
        stack.callback(index.close)
        yield Library(root, index)


def _disk_error(root: Path, error: OSError) -> LibraryError:
    hint = "is its disk full, read-only, or another user's?"
    return LibraryError(f"the library {root} cannot be written ({error.strerror})", hint=hint)
