"""The lessons that are fetched ahead: which of them now, in which order, and when to look again.

`library/schedule.py` has the rules; what they need to know is kept here: since when this node is on, its place in the
night, and the last night that it met, which the library remembers.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from datetime import UTC, datetime, tzinfo
from random import Random

import attrs
import trio

from edgeshare.errors import LibraryError
from edgeshare.hours import Window
from edgeshare.library.library import Library
from edgeshare.library.schedule import Prefetch, Uptime
from edgeshare.manifest import InfoHash, LessonManifest

logger = logging.getLogger(__name__)

_MET = "window_met"  # the fact's name in the library
_NEVER = datetime.max.replace(tzinfo=UTC)


@attrs.frozen
class Turn:
    """What may be begun now."""

    due: tuple[LessonManifest, ...] = ()  # the first goes first
    later: frozenset[InfoHash] = frozenset()  # contents whose time has not come
    look_at: datetime | None = None  # when that changes by itself; None: not for now


class Timetable:
    """When this node fetches what it only follows."""

    def __init__(self, library: Library, window: Window, zone: tzinfo, rng: Random, now: datetime) -> None:
        """Keep to `window` by clocks of `zone`, from `now` on; the node's place in it is drawn from `rng`."""
        self.window = window
        self._library = library
        self._zone = zone
        self._slot = rng.random()  # its place among all
        self._uptime = Uptime.begin(now, trio.current_time())
        self._met: datetime | None = None
        self._heard: dict[InfoHash, datetime] = {}  # since when what is needed at some time is known here

    async def remember(self) -> None:
        """Take up which night was met last.

        Raises:
            LibraryError: the index cannot be read.
        """
        kept = await self._library.fact(_MET)
        try:
            self._met = datetime.fromisoformat(kept) if kept else None
        except ValueError:
            logger.warning("the library has no time in %s: what was missed is caught up with", _MET)

    def hear_again(self, now: datetime) -> None:
        """The origins are heard again after they were not: what they said meanwhile was missed."""
        self._uptime = Uptime.begin(now, trio.current_time())

    async def look(self, now: datetime) -> None:
        """Note that the node is on at `now`, and keep which night it has met."""
        self._uptime = self._uptime.at(now, trio.current_time())
        met = self._as_it_stands().met_by(now)
        if met is not None and met != self._met:
            self._met = met
            try:
                await self._library.put_fact(_MET, met.isoformat())
            except LibraryError as error:  # it only spares the next start a catching up
                logger.warning("the night that is over is not noted: %s", error)

    def turn(self, followed: Iterable[LessonManifest], now: datetime) -> Turn:
        """Which of `followed` may be begun at `now`.

        Appointments go first, then what is needed soonest.
        """
        prefetch = self._as_it_stands()
        is_open = prefetch.allowed(now)
        due: list[LessonManifest] = []
        later: set[InfoHash] = set()
        heard: dict[InfoHash, datetime] = {}
        look_at = [change] if (change := prefetch.next_change(now)) else []
        for manifest in followed:
            if manifest.fetch_from is not None or (manifest.needed_at is not None and not is_open):
                since = heard[manifest.info_hash] = self._heard.get(manifest.info_hash, now)
                at = prefetch.due(now, heard=since, fetch_from=manifest.fetch_from, needed_at=manifest.needed_at)
            else:
                at = now if is_open else _NEVER
            if at <= now:
                due.append(manifest)
            else:
                later.add(manifest.info_hash)
                look_at.append(at)
        self._heard = heard
        due.sort(key=lambda manifest: (manifest.fetch_from is None, manifest.needed_at or _NEVER))
        return Turn(tuple(due), frozenset(later), min(look_at, default=None))

    def _as_it_stands(self) -> Prefetch:
        return Prefetch(window=self.window, zone=self._zone, slot=self._slot, met=self._met, since=self._uptime.since)
