"""The loop that takes from the origin what no peer has: shortage, ration, fetch, hand in.

One feed serves one lesson while it is being fetched. It runs two lines: one for readers, who wait, and one for the
ration. Each line is one request at a time on the whole node, so that many lessons do not make many connections.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from random import Random

import trio

from edgeshare.layout import Layout, Piece
from edgeshare.origin.client import NotFound, OriginClient, Unreachable
from edgeshare.ration import Reason, Shortage, due, ticket
from edgeshare.swarm.torrent import Torrent

logger = logging.getLogger(__name__)

LOOK_EVERY_S = 0.5  # how often availability is asked for while something is missing; readers are looked at at once
MOST_AT_ONCE = 2 * 2**20  # bytes of one request: short enough that news of it spreads while others wait


class Lines:
    """The node's two lines to the origin, shared by all its feeds, and what came through them."""

    def __init__(self) -> None:
        self.readers = trio.CapacityLimiter(1)
        self.ration = trio.CapacityLimiter(1)
        self.taken: Counter[Reason] = Counter()  # bytes, since the daemon started


class Feed:
    """What one lesson takes from the origin."""

    def __init__(
        self,
        torrent: Torrent,
        origins: OriginClient,
        lines: Lines,
        taken: Counter[Reason],
        rng: Random,
        *,
        grace_s: float,
    ) -> None:
        self._torrent = torrent
        self._taken = taken  # bytes for this lesson, counted on here
        self._origins = origins
        self._lines = lines
        self._secret = rng.randbytes(32)
        self._grace_s = grace_s  # for peers to be found, before the ration takes anything
        self._coming: set[Piece] = set()  # asked of the origin, not here yet
        self._awaited_since: dict[Piece, float] = {}

    async def run(self) -> None:
        """Take what is due until the lesson has every piece, or its disk failed."""
        await self._torrent.until(lambda: self._torrent.is_checked or self._torrent.failure is not None)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._for_readers)
            nursery.start_soon(self._for_ration)
            await self._torrent.until(self._is_over)
            nursery.cancel_scope.cancel()

    def _is_over(self) -> bool:
        return self._torrent.is_finished or self._torrent.failure is not None

    async def _for_readers(self) -> None:
        while True:
            await self._torrent.until(lambda: bool(self._torrent.urgent & self._torrent.missing()))
            shortage = await self._shortage(since=trio.current_time())
            awaited = {piece: why for piece, why in due(shortage, self._secret).items() if why is Reason.READER_WAITS}
            await self._take(awaited, self._lines.readers)

    async def _for_ration(self) -> None:
        await trio.sleep(self._grace_s)
        since = trio.current_time()
        while True:
            shortage = await self._shortage(since)
            if shortage.missing <= shortage.held_by_peers:
                since = trio.current_time()
            ready = {piece: why for piece, why in due(shortage, self._secret).items() if why is not Reason.READER_WAITS}
            await self._take(ready, self._lines.ration)

    async def _shortage(self, since: float) -> Shortage:
        torrent, now = self._torrent, trio.current_time()
        availability = await torrent.availability()
        missing = torrent.missing() - self._coming
        self._awaited_since = {piece: self._awaited_since.get(piece, now) for piece in torrent.urgent}
        progress = torrent.progress
        return Shortage(
            missing=missing,
            held_by_peers=frozenset(piece for piece in missing if availability[piece]),
            awaited={piece: now - start for piece, start in self._awaited_since.items()},
            peers=progress.peers if progress else 0,
            seekers=max(1, progress.seekers if progress else 1),
            age_s=max(0.0, now - since),
        )

    async def _take(self, wanted: Mapping[Piece, Reason], line: trio.CapacityLimiter) -> None:
        """Take one run of neighbouring pieces, then look again; wait a little when nothing is due or nobody answers."""
        if not wanted:
            await trio.sleep(LOOK_EVERY_S)
            return
        run = neighbours(self._torrent.layout, wanted, min(wanted, key=self._order))
        self._coming.update(run)
        try:
            async with line:
                run = [piece for piece in run if not self._torrent.has(piece)]
                if run:
                    await self._fetch(run, wanted[run[0]])
        except Unreachable as error:
            logger.debug("%s; the next try in %.0f s", error, error.retry_in_s)
            await trio.sleep(max(LOOK_EVERY_S, min(error.retry_in_s, 30.0)))
        except NotFound as error:
            logger.warning("%s", error)
            await trio.sleep(30.0)
        finally:
            self._coming.difference_update(run)

    async def _fetch(self, run: list[Piece], reason: Reason) -> None:
        layout = self._torrent.layout
        file, start, _ = layout.file_of(run[0])
        _, _, stop = layout.file_of(run[-1])
        path = f"content/{self._torrent.info_hash.hex()}/{file.path}"
        body = await self._origins.span(path, start, stop, file.size, accept=self._checker(start, run))
        self._taken[reason] += len(body)
        self._lines.taken[reason] += len(body)
        logger.debug("%d pieces of %s from the origin: %s", len(run), layout.name, reason.value)
        for piece in run:
            _, begin, end = layout.file_of(piece)
            self._torrent.give(piece, body[begin - start : end - start])

    def _checker(self, start: int, run: Iterable[Piece]) -> Callable[[bytes], bool]:
        def is_right(body: bytes) -> bool:
            spans = [(piece, *self._torrent.layout.file_of(piece)[1:]) for piece in run]
            return all(
                self._torrent.layout.is_piece(piece, body[begin - start : end - start]) for piece, begin, end in spans
            )

        return is_right

    def _order(self, piece: Piece) -> tuple[float, float]:
        """Readers first, in the order of their wishes; the rest scattered, each node in an order of its own."""
        since = self._awaited_since.get(piece)
        return (since, piece) if since is not None else (float("inf"), ticket(self._secret, piece))


def neighbours(layout: Layout, wanted: Iterable[Piece], first: Piece) -> list[Piece]:
    """`first` and the wanted pieces that follow it without a gap in the same file: one range, one request."""
    pieces = set(wanted)
    file, start, _ = layout.file_of(first)
    run = [first]
    for index in layout.pieces_of(file):
        piece = Piece(index)
        if piece <= first:
            continue
        if piece not in pieces or layout.file_of(piece)[2] - start > MOST_AT_ONCE:
            break
        run.append(piece)
    return run
