"""A node's line to the outside: its limits are kept, and what it carries is counted by the month.

One task looks every few seconds at the clock, the bytes and NetworkManager's last word, and has the swarm and the
origins keep what `limits.py` makes of them. Who acts on the limits reads `Link.limits`, and waits for `Link.change`.

Counted are bytes of content to and from peers outside, and all that origins send (where they are is not asked: one in
the local network counts too). `Swarm.outside_bytes` says what is missed.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from datetime import UTC, datetime, tzinfo
from typing import NoReturn

import trio

from edgeshare import host
from edgeshare.config import Config, Rate
from edgeshare.errors import LibraryError
from edgeshare.library.library import Library
from edgeshare.limits import NO_LIMIT, UNLIMITED, Limits, limits, month_of
from edgeshare.origin.client import OriginClient
from edgeshare.swarm.session import Swarm

logger = logging.getLogger(__name__)

LOOK_EVERY_S = 5.0  # so soon holds what the hour or the month says; NetworkManager's word holds at once
SAVE_EVERY_S = 60.0  # what a power cut takes from the count
_SAVE_GRACE_S = 2.0  # at the stop, on a disk that hangs
_LEAST_SHARE = 8  # of `download`: so much peers keep while the origins, who have the first word, take the rest


def _now() -> datetime:
    return datetime.now(UTC)


class Link:
    """The line of one node; `run` keeps its limits."""

    def __init__(
        self,
        swarm: Swarm,
        origins: OriginClient,
        library: Library,
        config: Config,
        now: Callable[[], datetime] = _now,
        zone: Callable[[], tzinfo] = host.local_zone,
    ) -> None:
        self.limits = UNLIMITED  # until `run` has begun
        self.used_bytes = 0  # to and from the outside in this month, by this machine's clock
        self._swarm = swarm
        self._origins = origins
        self._library = library
        self._link = config.link
        self._upload = config.swarm.upload
        self._now = now  # aware, UTC
        self._zone = zone
        self._month = ""
        self._network_is_metered = False
        self._kept: tuple[Limits, Rate] | None = None  # by swarm and origins; of `download`, what is left to peers
        self._looked_s = 0.0
        self._of_origins = 0  # bytes that they had sent when somebody looked last
        self._saved: tuple[str, int] = "", 0
        self._saved_s = 0.0
        self._cannot_save = False
        self._is_recalled = False  # what was counted of this month before is in `used_bytes`
        self._cannot_recall = False
        self._look = trio.Event()
        self._changed = trio.lowlevel.ParkingLot()

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Keep the limits until cancelled; started when they hold."""
        self._looked_s = self._saved_s = trio.current_time()
        await self._count()
        self._keep(origin_bytes_per_s=0.0)
        try:
            async with trio.open_nursery() as nursery:
                if self._link.network_manager:
                    from edgeshare.networkmanager import watch_metered  # 50 ms, for those who want it

                    nursery.start_soon(watch_metered, self._hear)
                task_status.started()
                await self._look_again_and_again()
        finally:
            with trio.move_on_after(_SAVE_GRACE_S, shield=True):
                await self._save()

    async def change(self) -> None:
        """Wait until the limits are others than now."""
        await self._changed.park()

    def _hear(self, is_metered: bool) -> None:
        if is_metered != self._network_is_metered:
            self._network_is_metered = is_metered
            self._look.set()

    async def _look_again_and_again(self) -> NoReturn:
        while True:
            with trio.move_on_after(LOOK_EVERY_S):
                await self._look.wait()
            self._look = trio.Event()
            took_s = max(trio.current_time() - self._looked_s, 0.001)
            self._looked_s = trio.current_time()
            self._keep(origin_bytes_per_s=await self._count() / took_s)
            if trio.current_time() - self._saved_s >= SAVE_EVERY_S:
                await self._save()

    async def _count(self) -> int:
        """Add what was moved since the last look to its month; gives what came from the origins of it."""
        month = month_of(self._local())
        if month != self._month:  # also where the clock was wrong, and is not any more
            if self._month:
                await self._save()
            self._month, self.used_bytes, self._is_recalled = month, 0, False
        if not self._is_recalled:
            await self._recall()
        before, self._of_origins = self._of_origins, sum(self._origins.received.values())
        self.used_bytes += self._of_origins - before + await self._swarm.outside_bytes()
        return self._of_origins - before

    def _keep(self, *, origin_bytes_per_s: float) -> None:
        now = limits(
            self._link,
            self._upload,
            self._local(),
            used_bytes=self.used_bytes,
            network_is_metered=self._network_is_metered,
        )
        left = max(now.download // _LEAST_SHARE, now.download - int(origin_bytes_per_s), 1)
        for_peers = Rate(left) if now.download else NO_LIMIT
        if (now, for_peers) != self._kept:
            self._kept = now, for_peers
            self._swarm.limit(upload=now.upload, download=for_peers, outside=not now.is_metered)
            self._origins.limit(now.download)
        if now != (before := self.limits):
            self.limits = now
            if now.reason != before.reason:
                logger.info("%s", now.reason or "the line is no longer metered")
            self._changed.unpark_all()

    def _local(self) -> datetime:
        return self._now().astimezone(self._zone())

    async def _recall(self) -> None:
        """Add what was counted of this month before; what cannot be read now is tried at the next look."""
        try:
            before = await self._library.traffic(self._month)
        except LibraryError as error:
            if not self._cannot_recall:
                logger.warning("what this month carried before cannot be read (%s); counting on", error)
            self._cannot_recall = True
        else:
            self.used_bytes += before
            self._saved = self._month, before
            self._is_recalled, self._cannot_recall = True, False

    async def _save(self) -> None:
        self._saved_s = trio.current_time()
        if not self._is_recalled:  # what is kept may be more
            return
        if self._saved == (counted := (self._month, self.used_bytes)):
            return
        try:
            await self._library.put_traffic(*counted)
        except LibraryError as error:
            if not self._cannot_save:
                logger.warning("the bytes of this month cannot be kept (%s); counting on", error)
            self._cannot_save = True
        else:
            self._saved, self._cannot_save = counted, False
