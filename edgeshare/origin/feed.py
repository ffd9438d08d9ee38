"""The loop that takes from the origin what no peer has: shortage, ration, fetch, hand in.

One feed serves one lesson while it is being fetched. It runs two lines: one for readers, who wait, and one for the
ration. Each line is one request at a time on the whole node, so that many lessons do not make many connections. A fetch
ends when peers have been faster; what waits for its turn in a line is still anybody's to bring.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Mapping
from collections.abc import Set as AbstractSet
from contextlib import suppress
from random import Random

import trio

from edgeshare.layout import Layout, Piece
from edgeshare.origin.client import NotFound, OriginClient, Unreachable
from edgeshare.ration import Reason, Shortage, due, ticket
from edgeshare.swarm.torrent import SwarmError, Torrent

logger = logging.getLogger(__name__)

LOOK_EVERY_S = 0.5  # how often availability is asked for while something is missing; a reader is seen at once
ASK_AGAIN_S = 30.0  # at most, when no origin gives a piece: a peer may have it by then
TURN_S = 0.25  # in the line, for one lesson: several runs by one look, while what peers have is not much older
MOST_AT_ONCE = 2 * 2**20  # bytes of one request: short enough that news of it spreads while others wait
MOST_FOR_READER = 512 * 2**10  # bytes: a page's next file waits behind it, on a line of 1 Mbit/s for four seconds


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
        self._peers_moved_at = 0.0  # when peers who have something gave something last, by trio's clock
        self._peers_gave = -1  # bytes, by then
        self.missing: str | None = None  # what the origin said when it did not have a file; None when it had the last
        self._trouble: str | None = None

    async def run(self) -> None:
        """Take what is due until the lesson has every piece, its disk failed, or the swarm let go of it."""
        with suppress(SwarmError):
            await self._torrent.until(lambda: self._torrent.is_checked or self._torrent.failure is not None)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._for_readers)
            nursery.start_soon(self._for_ration)
            with suppress(SwarmError):
                await self._torrent.until(self._is_over)
            nursery.cancel_scope.cancel()

    def _is_over(self) -> bool:
        return self._torrent.is_finished or self._torrent.failure is not None

    async def _for_readers(self) -> None:
        with suppress(SwarmError):  # `run` hears of it too
            while True:
                await self._torrent.until(lambda: bool(self._torrent.urgent & self._torrent.missing()))
                await self._take(self._awaited, self._lines.readers)

    async def _for_ration(self) -> None:
        await trio.sleep(self._grace_s)
        with suppress(SwarmError):
            since = trio.current_time()

            async def rationed() -> Mapping[Piece, Reason]:
                nonlocal since
                shortage = await self._shortage(since)
                if shortage.missing <= shortage.held_by_peers:
                    since = trio.current_time()
                found = due(shortage, self._secret).items()
                return {piece: why for piece, why in found if why is not Reason.READER_WAITS}

            while True:
                await self._take(rationed, self._lines.ration)

    async def _awaited(self) -> Mapping[Piece, Reason]:
        shortage = await self._shortage(since=trio.current_time())
        return {piece: why for piece, why in due(shortage, self._secret).items() if why is Reason.READER_WAITS}

    async def _shortage(self, since: float) -> Shortage:
        torrent, now = self._torrent, trio.current_time()
        availability = await torrent.availability()
        missing = torrent.missing() - self._coming
        held = frozenset(piece for piece in missing if availability[piece])
        progress = torrent.progress
        is_moving = torrent.bytes_from_peers != self._peers_gave or bool(progress and progress.down_bytes_per_s)
        if is_moving or not held:
            self._peers_moved_at, self._peers_gave = now, torrent.bytes_from_peers
        self._awaited_since = {piece: self._awaited_since.get(piece, now) for piece in torrent.urgent}
        return Shortage(
            missing=missing,
            held_by_peers=held,
            awaited={piece: now - start for piece, start in self._awaited_since.items()},
            peers=progress.peers if progress else 0,
            seekers=max(1, progress.seekers if progress else 1),
            age_s=max(0.0, now - since),
            stall_s=now - self._peers_moved_at,
        )

    async def _take(self, wanted: Callable[[], Awaitable[Mapping[Piece, Reason]]], line: trio.CapacityLimiter) -> None:
        """Take some runs of neighbouring pieces, or wait a little when nothing is due or nobody answers."""
        wait_s = LOOK_EVERY_S
        if await wanted():
            async with line:
                # What is due is asked once more when it is our turn: others in the line may have taken a while, and
                # what waits there is not on its way yet.
                now = await wanted()
                turn_ends = trio.current_time() + TURN_S
                rest = set(now)
                for first in sorted(now, key=self._order):
                    rest &= self._torrent.missing() - self._coming
                    if first not in rest:
                        continue
                    most = MOST_FOR_READER if now[first] is Reason.READER_WAITS else MOST_AT_ONCE
                    run = neighbours(self._torrent.layout, rest, first, most)
                    rest.difference_update(run)
                    self._coming.update(run)
                    try:
                        wait_s = await self._fetch(run, now[first])
                    finally:
                        self._coming.difference_update(run)
                    if wait_s or trio.current_time() >= turn_ends:
                        break
        await trio.sleep(wait_s)

    async def _fetch(self, run: list[Piece], reason: Reason) -> float:
        """Fetch a run and hand it in, unless peers are faster; how long to wait before the next."""
        layout = self._torrent.layout
        file, start, _ = layout.file_of(run[0])
        _, _, stop = layout.file_of(run[-1])
        path = f"content/{self._torrent.info_hash.hex()}/{file.path}"
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._end_when_needless, run, reason, nursery.cancel_scope)
            try:
                body = await self._origins.span(path, start, stop, file.size, accept=self._checker(start, run))
            except Unreachable as error:
                nursery.cancel_scope.cancel()
                self._report(str(error))
                return max(LOOK_EVERY_S, min(error.retry_in_s, ASK_AGAIN_S))
            except NotFound as error:
                nursery.cancel_scope.cancel()
                self.missing = str(error)
                self._report(self.missing)
                return ASK_AGAIN_S
            self.missing = None
            self._report(None)
            self._taken[reason] += len(body)
            self._lines.taken[reason] += len(body)
            logger.debug("%d pieces of %s from the origin: %s", len(run), layout.name, reason.value)
            for piece in run:
                _, begin, end = layout.file_of(piece)
                self._torrent.give(piece, body[begin - start : end - start])
            nursery.cancel_scope.cancel()
        return 0.0

    async def _end_when_needless(self, run: Iterable[Piece], reason: Reason, fetch: trio.CancelScope) -> None:
        """End a fetch when peers were faster, or when the reader who waited for it has left."""

        def is_needless() -> bool:
            is_left = reason is Reason.READER_WAITS and self._torrent.urgent.isdisjoint(run)
            return is_left or all(self._torrent.has(piece) for piece in run)

        with suppress(SwarmError):
            await self._torrent.until(is_needless)
        fetch.cancel()

    def _report(self, trouble: str | None) -> None:
        """Log what stands in the way, once."""
        if trouble and trouble != self._trouble:
            logger.warning("%s: %s", self._torrent.layout.name, trouble)
        self._trouble = trouble

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


def neighbours(layout: Layout, wanted: AbstractSet[Piece], first: Piece, most: int) -> list[Piece]:
    """`first` and the wanted pieces that follow it without a gap in the same file: one range of up to `most` bytes."""
    file, start, _ = layout.file_of(first)
    run = [first]
    for index in range(first + 1, layout.pieces_of(file).stop):
        piece = Piece(index)
        if piece not in wanted or layout.file_of(piece)[2] - start > most:
            break
        run.append(piece)
    return run
