"""The library's disk, looked at every few seconds, and at once when a write failed.

What it says decides whether this node fetches (see `room.py`); whoever writes waits here until it may.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import trio

from edgeshare import host
from edgeshare.library.room import Disk, seen

logger = logging.getLogger(__name__)

LOOK_EVERY_S = 5.0  # at 100 Mbit/s, 60 MB come meanwhile: the floor is far larger


class DiskWatch:
    """What is known of one disk; `look` brings it up to date."""

    def __init__(self, root: Path, keep_free: int) -> None:
        """Watch the disk of the folder `root`, of which `keep_free` bytes are to stay free."""
        self._root = root
        self._is_doubted = False  # a write failed: it may be read-only though its mount does not say so
        self._doubt = trio.Event()
        self._changed = trio.lowlevel.ParkingLot()
        self.disk = Disk(free=None, keep_free=keep_free)
        self._take(*self._found())

    def doubt(self) -> None:
        """A write failed: look at once."""
        self._is_doubted = True
        self._doubt.set()

    async def until(self, condition: Callable[[Disk], bool]) -> None:
        """Wait until the disk is as wanted."""
        while not condition(self.disk):
            await self._changed.park()
        await trio.lowlevel.checkpoint()

    async def rest(self) -> None:
        """Wait until it is time to look again."""
        with trio.move_on_after(LOOK_EVERY_S):
            await self._doubt.wait()

    async def look(self) -> None:
        """See how the disk is now, and tell those who wait."""
        self._doubt = trio.Event()
        self._take(*await trio.to_thread.run_sync(self._found))

    def _take(self, free: int | None, is_readonly: bool) -> None:
        before, self.disk = self.disk, seen(self.disk, free=free, is_readonly=is_readonly)
        if self.disk == before:
            return
        if (self.disk.is_paused, self.disk.is_readonly) != (before.is_paused, before.is_readonly):
            if self.disk.reason:
                logger.warning("%s", self.disk.reason)
            elif before.free is not None:
                logger.info("the library's disk has room again: fetching goes on")
        self._changed.unpark_all()

    def _found(self) -> tuple[int | None, bool]:
        try:
            free = host.free_space(self._root)
        except OSError:
            return None, False
        is_readonly = not host.is_writable(self._root)
        if self._is_doubted and not is_readonly:
            # After an error the kernel may refuse writes to a disk that is still mounted for them (ext4(5), errors=).
            is_readonly = self._is_doubted = not host.takes_writes(self._root / "lock")
        return free, is_readonly
