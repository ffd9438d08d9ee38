"""What this node gives its readers: bytes by where they came from, and how many connections are open. Counts only.

- Nobody is known here. A connection is open or it is not; its other end is never asked for.
- Bytes are those of bodies, as they left for the network, counted when an answer is over: a film that is being sent
  counts when it ends, or when its reader leaves. The clock is not looked at for each: what is served in a month's first
  minute may count to the month before.
- The lessons' bytes of this month outlive a restart, as the line's do (`link.py`): one is held against the other.
"""

from __future__ import annotations

import enum
import logging
import re
from collections import Counter
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta, tzinfo
from typing import Final, NoReturn
from weakref import WeakSet

import trio

from edgeshare import host
from edgeshare.errors import LibraryError
from edgeshare.httpd.messages import FileBody, Request, Response, StreamBody
from edgeshare.library.library import Library
from edgeshare.limits import month_of

logger = logging.getLogger(__name__)

SAVE_EVERY_S: Final = 60.0  # what a power cut takes from the month's count
_LOOK_EVERY: Final = timedelta(seconds=5)  # as `link.py` does
_SAVE_GRACE_S: Final = 2.0  # at the stop, on a disk that hangs
_FACT: Final = "served"  # in the library's index: `2026-11 123456`


class Source(enum.Enum):
    """Where what a reader got came from."""

    LIBRARY = "library"  # complete files of lessons, off the disk
    SWARM = "swarm"  # files of lessons that were still arriving
    PAGES = "pages"  # the node's own pages, answers of its API, and what it says in place of a file


_OF_LESSONS = (Source.LIBRARY, Source.SWARM)


def source_of(response: Response) -> Source:
    """Where the body of an answer came from."""
    match response.body:
        case FileBody():
            return Source.LIBRARY
        case StreamBody(size=int()):  # those of the API, which have no end, or none that is known, say no size
            return Source.SWARM
    return Source.PAGES


class Tally:
    """The counts of one node; `keep` has those of the month outlive it."""

    def __init__(
        self,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        zone: Callable[[], tzinfo] = host.local_zone,
    ) -> None:
        """Count from nothing; `now` is the clock, aware, and months are those of `zone`."""
        self.started = now()
        self._now, self._zone = now, zone
        self._served: Counter[Source] = Counter()
        self._month, self._of_month = self._this_month(), 0
        self._looked = self.started
        self._streams: WeakSet[trio.SocketStream] = WeakSet()

    @property
    def served(self) -> dict[str, int]:
        """Bytes since the start, by each source's name."""
        return {source.value: self._served[source] for source in Source}

    @property
    def of_lessons_this_month(self) -> int:
        """Bytes of lessons that readers got in this month, earlier runs of the daemon included."""
        self._turn_page()
        return self._of_month

    @property
    def readers(self) -> int:
        """Connections that readers have open now; a browser has one to six for each web origin."""
        return sum(stream.socket.fileno() >= 0 for stream in self._streams)

    def done(self, request: Request, response: Response, sent: int) -> None:
        """An answer is over, and `sent` bytes of its body have left (see `httpd.server.OnDone`)."""
        source = source_of(response)
        self._served[source] += sent
        if source in _OF_LESSONS:
            self._of_month += sent

    def counting(self, listeners: Sequence[trio.SocketListener]) -> list[trio.abc.Listener[trio.SocketStream]]:
        """The same listeners; the connections that they accept count as open until they are closed."""
        return [_Counted(listener, self._streams) for listener in listeners]

    async def keep(self, library: Library) -> NoReturn:
        """Take up what the library knows of this month, and keep it there until cancelled."""
        saved = await self._recall(library)
        try:
            while True:
                await trio.sleep(SAVE_EVERY_S)
                saved = await self._save(library, saved)
        finally:
            with trio.move_on_after(_SAVE_GRACE_S, shield=True):
                await self._save(library, saved)

    def _this_month(self) -> str:
        return month_of(self._now().astimezone(self._zone()))

    def _turn_page(self) -> None:
        """Begin anew where a month has begun; the zone's rules cost half a ms."""
        now = self._now()
        if timedelta(0) <= now - self._looked < _LOOK_EVERY:
            return
        self._looked = now
        if (month := self._this_month()) != self._month:
            self._month, self._of_month = month, 0

    async def _recall(self, library: Library) -> str | None:
        try:
            kept = await library.fact(_FACT) or ""
        except LibraryError as error:
            logger.warning("what readers got this month before cannot be read (%s); counting on", error)
            return None
        self._turn_page()
        if (found := re.fullmatch(r"([0-9]{4}-[0-9]{2}) ([0-9]{1,18})", kept)) and found[1] == self._month:
            self._of_month += int(found[2])
        return kept

    async def _save(self, library: Library, saved: str | None) -> str | None:
        """Keep the count; what the library knows then. Without a `_recall` that went well it may know more."""
        self._turn_page()
        text = f"{self._month} {self._of_month}"
        if saved is None or text == saved:
            return saved
        try:
            await library.put_fact(_FACT, text)
        except LibraryError as error:
            logger.debug("what readers got this month is not kept: %s", error)  # the library's own tasks say it louder
            return saved
        return text


class _Counted(trio.abc.Listener[trio.SocketStream]):
    """A listener that notes which of its connections are open."""

    def __init__(self, listener: trio.SocketListener, streams: WeakSet[trio.SocketStream]) -> None:
        self._listener, self._streams = listener, streams

    async def accept(self) -> trio.SocketStream:
        stream = await self._listener.accept()
        self._streams.add(stream)
        return stream

    async def aclose(self) -> None:
        await self._listener.aclose()
