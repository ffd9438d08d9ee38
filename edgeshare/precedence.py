"""Who goes first on the line: a reader who waits before what is fetched ahead; and on a metered link, nobody else.

What gives way keeps all that it has, and sends it. It goes on when nothing has come for a reader for some seconds: a
page asks for one file after the other, and in between nobody waits. For so long what came for the reader does not give
way itself: a fetch broken off between two of a page's files is not given again by the origin's guard for a while.
A lesson that nobody can give holds up no other.
"""

from __future__ import annotations

from collections.abc import Callable
from math import inf
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
        self._grew: set[InfoHash] = set()  # of those, what has come since its reader began
        self._until_s: dict[InfoHash, float] = {}  # for so long is more of it believed to come for a reader

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
        coming = {held.info_hash: held for held in self._holdings.coming if not held.is_edition}
        read = self._stock.read() & coming.keys()
        for info_hash in read:
            self._look_at(info_hash, coming[info_hash].bytes_have, now_s)
        for info_hash in self._come.keys() - read:
            # Of what nobody could give to its last reader the bytes stay known: the next one begins nothing anew.
            if info_hash in self._grew or info_hash not in coming:
                del self._come[info_hash]
                self._grew.discard(info_hash)
        self._until_s = {info_hash: until_s for info_hash, until_s in self._until_s.items() if until_s > now_s}
        is_metered = self._is_metered()
        for info_hash, held in coming.items():
            is_read = info_hash in read or info_hash in self._until_s
            is_for_readers_only = is_metered and not self._is_asked_for(info_hash)
            held.pause.give_way(not is_read and (bool(self._until_s) or is_for_readers_only))
        return min([until_s - now_s for until_s in self._until_s.values()], default=GRACE_S if read else inf)

    def _look_at(self, info_hash: InfoHash, have: int, now_s: float) -> None:
        """Note what has come of a content that is read."""
        before = self._come.get(info_hash)
        if before != have:
            self._come[info_hash] = have
            self._until_s[info_hash] = now_s + GRACE_S
            if before is not None:
                self._grew.add(info_hash)
