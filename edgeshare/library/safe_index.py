"""The index as trio's tasks use it: one thread at a time, mended under way when it is damaged, and backed up.

A disk that damages what it is given would have it mended for ever: after a few times in one run the index is kept in
memory. Then, and while its disk cannot be written, what it is told is gone with the process; everything that was
verified is served all the same. Who keeps more in memory than the index may have read learns of a new one by
`reopened`, and writes it again.
"""

from __future__ import annotations

import contextlib
import logging
import sqlite3
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import TypeVar

import trio

from edgeshare.errors import LibraryError
from edgeshare.library import recovery
from edgeshare.library.index import Index, is_damage

_T = TypeVar("_T")

logger = logging.getLogger(__name__)

MENDINGS = 3  # in one run; a sound disk needs none
BACKUP_EVERY = timedelta(days=1)
BACKUP_PRECIOUS_EVERY = timedelta(
    hours=1
)  # what was lost with an hour is few wishes, and what the next edition repeats


class SafeIndex:
    """One library's index; made by `open_safe_index`."""

    def __init__(self, path: Path, index: Index, doubt: Callable[[], None]) -> None:
        """Use the open `index` at `path`; `doubt` is called when its disk refuses a write."""
        self._path = path
        self._index = index
        self._doubt = doubt
        self._turn = trio.CapacityLimiter(1)  # SQLite's connection takes one thread at a time
        self._mendings = 0
        self._openings = 0
        self._reopened = trio.lowlevel.ParkingLot()
        self._is_backed_up = True  # nothing was written since, as far as this run knows
        self._has_precious = False

    @property
    def is_kept(self) -> bool:
        """Whether what it is told lasts: False while it is in memory alone."""
        return self._index.is_kept

    async def read(self, call: Callable[[Index], _T]) -> _T:
        """What the index knows.

        Raises:
            LibraryError: it cannot be read.
        """
        return await self._do(call)

    async def write(self, call: Callable[[Index], _T]) -> _T:
        """Have the index know what could be found out again; on the disk when this returns, if it `is_kept`.

        Raises:
            LibraryError: it cannot be written.
        """
        self._is_backed_up = False
        return await self._do(call)

    async def entrust(self, call: Callable[[Index], _T]) -> _T:
        """Have the index know what nobody else does: wishes, pins, withdrawals; likewise, and soon in its backup.

        Raises:
            LibraryError: it cannot be written.
        """
        self._has_precious = True
        return await self.write(call)

    async def reopened(self, known: int) -> int:
        """Wait until another file, or memory, takes the place of the index: it may know less than it was told.

        Gives how often that was. Who passes this on as `known` waits only while it was not more often: nothing is
        missed that happens between two calls. 0 at first.
        """
        while self._openings == known:
            await self._reopened.park()
        await trio.lowlevel.checkpoint()
        return self._openings

    async def return_to_disk(self) -> None:
        """Use the file again, where that was not possible earlier; it may still not be."""
        if not self._index.is_kept and self._mendings <= MENDINGS:
            with contextlib.suppress(LibraryError):
                await self._do(lambda _: self._return())

    async def back_up_when_due(self, now: datetime) -> None:
        """Copy the index to where no damage to it reaches, if the copy is too old for what it lacks."""
        age = recovery.age_of_backup(self._path, now)
        due = BACKUP_PRECIOUS_EVERY if self._has_precious else BACKUP_EVERY
        if age is None or not timedelta() <= age < due:  # a clock may have been set back
            await self.back_up()

    async def back_up_at_the_end(self, within_s: float) -> None:
        """Back up what nobody else knows, if that takes no longer than somebody waits for a node to stop."""

        async def give_up() -> None:
            await trio.sleep(within_s)
            while True:  # what has not begun yet is not interrupted
                self._index.interrupt()
                await trio.sleep(0.01)

        if self._has_precious:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(give_up)
                await self.back_up()
                nursery.cancel_scope.cancel()

    async def back_up(self) -> None:
        """Copy the index, if there is anything new in it. What cannot be written now is tried at the next time."""
        if self._is_backed_up or not self._index.is_kept:
            return
        before = self._is_backed_up, self._has_precious
        self._is_backed_up, self._has_precious = True, False
        try:
            await self._do(lambda index: index.copy_to(recovery.backup_of(self._path)))
        except (LibraryError, OSError) as error:
            self._is_backed_up, self._has_precious = before
            logger.warning("the index is not backed up: %s", error)

    def close(self) -> None:
        """Close the file; what was written is on the disk already."""
        self._index.close()

    async def _do(self, call: Callable[[Index], _T]) -> _T:
        openings = self._openings
        try:
            return await trio.to_thread.run_sync(self._done, call, limiter=self._turn)
        except sqlite3.Error as error:
            self._doubt()
            what = f"the index {self._path} cannot be written ({error})"
            raise LibraryError(what, hint="is the disk full or read-only?") from error
        finally:
            if self._openings != openings:
                self._reopened.unpark_all()

    def _done(self, call: Callable[[Index], _T]) -> _T:
        if not self._index.is_in_place:
            self._replace(recovery.put_back(self._index))
        try:
            return call(self._index)
        except sqlite3.Error as error:
            if not is_damage(error) or not self._index.is_kept:
                raise
            why = f"the index {self._path} is damaged ({error})"
        self._mendings += 1
        with contextlib.suppress(sqlite3.Error):
            self._index.close()
        if self._mendings <= MENDINGS:
            self._replace(recovery.recover(self._path, why))
        else:
            logger.error("%s, for the %dth time: it is kept in memory until the next start", why, self._mendings)
            self._replace(recovery.unkept(self._path))
        return call(self._index)

    def _return(self) -> None:
        index = recovery.open_index(self._path)
        if index.is_kept:
            self._index.close()
            self._replace(index)
            logger.info("the index %s can be written again", self._path)
        else:
            index.close()

    def _replace(self, index: Index) -> None:
        if index is not self._index:
            self._index = index
            self._openings += 1


async def open_safe_index(path: Path, doubt: Callable[[], None]) -> SafeIndex:
    """The index at `path`, whatever state it is in; the caller closes it. `doubt`: see `SafeIndex`.

    Raises:
        LibraryError: a newer edgeshare wrote it, or there is none and none can be made.
    """
    return SafeIndex(path, await trio.to_thread.run_sync(recovery.open_index, path), doubt)
