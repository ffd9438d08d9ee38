"""Who goes first on the line: a reader who waits before what is fetched ahead; and on a metered link, nobody else.

What gives way keeps all that it has, and sends it. It goes on when nothing has come for a reader for some seconds: a
page asks for one file after the other, and in between nobody waits. For so long does what came for the reader not give
way itself: a fetch broken off between two of a page's files is not given again by the origin's guard for a while.
A lesson that nobody can give holds up no other.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NoReturn

import trio

from edgeshare.holdings import Holdings
from edgeshare.manifest import InfoHash
from edgeshare.stock import Stock

GRACE_S = 5.0  # as long as a page needs, and a person to turn to the next


class Precedence:
    """Has the contents of a node give way to one another."""

    def __init__(
        self,
        holdings: Holdings,
        stock: Stock,
        *,
        is_metered: Callable[[], bool],
        is_asked_for: Callable[[InfoHash], bool],
    ) -> None:
        """Of `holdings`, those that `stock` says are read go first.

        What `is_asked_for` by name is fetched on a metered link too; a catalogue's edition always.
        """
        self._holdings = holdings
        self._stock = stock
        self._is_metered = is_metered
        self._is_asked_for = is_asked_for
        self._asked = trio.Event()
        self._come: dict[InfoHash, int] = {}  # bytes of what is read, when somebody looked last
        self._until_s = -float("inf")  # something is believed to come for a reader
        self._lately: set[InfoHash] = set()  # what came for one until then

    def reconsider(self) -> None:
        """Somebody began to read what is not all here, or left it, or the link is another."""
        self._asked.set()

    async def keep(self) -> NoReturn:
        """Keep the order until cancelled."""
        while True:
            self._asked = trio.Event()
            rest_s = self._put_in_order(trio.current_time())
            with trio.move_on_after(rest_s):
                await self._asked.wait()

    def _put_in_order(self, now_s: float) -> float:
        """Have each content go on or give way; seconds until that changes by itself."""
        read = self._stock.read()
        coming = [held for held in self._holdings.coming if not held.is_edition]
        come = {held.info_hash: held.bytes_have for held in coming if held.info_hash in read}
        if now_s >= self._until_s:
            self._lately.clear()
        if come and come != self._come:
            self._until_s = now_s + GRACE_S
            self._lately |= come.keys()
        self._come = come
        is_reader_first, is_metered = now_s < self._until_s, self._is_metered()
        for held in coming:
            is_read = held.info_hash in read or held.info_hash in self._lately
            is_for_readers_only = is_metered and not self._is_asked_for(held.info_hash)
            held.pause.give_way(not is_read and (is_reader_first or is_for_readers_only))
        return min(GRACE_S, self._until_s - now_s) if is_reader_first else GRACE_S if come else float("inf")
