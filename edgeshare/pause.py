"""What keeps one content from being fetched for now: a disk without room for it, or others who need the line.

What is here of it is read and sent all the same.
"""

from __future__ import annotations

from collections.abc import Callable

import trio

from edgeshare.library.library import Library
from edgeshare.library.room import Disk


class Pause:
    """The pause of one content, on and off."""

    def __init__(self, library: Library, has_room: Callable[[Disk], bool], tell: Callable[[], None]) -> None:
        """Pause it while `library`'s disk has no room; who waits for the content is told when it begins or ends."""
        self.gives_way = False  # to what is more urgent
        self._is_awaited = False  # somebody waits for its end
        self._library = library
        self._has_room = has_room
        self._tell = tell
        self._changed = trio.lowlevel.ParkingLot()

    @property
    def is_on(self) -> bool:
        """Whether nothing more is to be fetched for now."""
        return self.gives_way or not self._has_room(self._library.disk)

    @property
    def is_for_room(self) -> bool:
        """Whether somebody waits for its end because of the disk."""
        return self._is_awaited and not self._has_room(self._library.disk)

    def give_way(self, gives_way: bool) -> None:
        """Fetch nothing more for now, because others need the line; or go on."""
        if gives_way != self.gives_way:
            self.gives_way = gives_way
            self._changed.unpark_all()
            self._tell()

    async def begins(self, then: trio.CancelScope) -> None:
        """Wait until it is on; `then` is cancelled."""
        await self._until(True)
        then.cancel()

    async def ends(self, then: trio.CancelScope | None = None) -> None:
        """Wait until it is off; `then` is cancelled."""
        try:
            self._is_awaited = True
            self._tell()
            await self._until(False)
        finally:
            self._is_awaited = False
            self._tell()
        if then:
            then.cancel()

    async def _until(self, on: bool) -> None:
        def is_so(_: Disk) -> bool:
            self._tell()  # it may be on for another reason now
            return self.is_on is on

        async def watch_disk(scope: trio.CancelScope) -> None:
            await self._library.until_disk(is_so)
            scope.cancel()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(watch_disk, nursery.cancel_scope)
            while self.is_on is not on:
                await self._changed.park()
            nursery.cancel_scope.cancel()
