"""The loop that takes from the origin what no peer has: sight, ration, fetch, hand in.

One feed serves one lesson while it is being fetched. It runs two lines: one for readers, who wait, and one for the
ration. Each line is one request at a time on the whole node, so that many lessons do not make many connections. A fetch
ends when peers have been faster; what waits for its turn in a line is still anybody's to bring.

In company a request is for one portion, of the same bytes whichever node asks: so the origin's guard can tell a second
request for the same bytes from a first, and a fetch is short, so that others see soon that the pieces are taken.
A piece is handed in as soon as it is here, before the rest of its range: readers wait for it, and peers.
"""

from __future__ import annotations

import logging
from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping
from collections.abc import Set as AbstractSet
from contextlib import suppress
from random import Random

import trio

from edgeshare.crowd import Gathering
from edgeshare.layout import Layout, Piece
from edgeshare.origin.client import NotFound, OriginClient, Taken, Unreachable
from edgeshare.origin.line import Line
from edgeshare.ration import NEARLY_ALL, Decision, Neighbour, Ration, Reason, Sight, Token
from edgeshare.swarm.neighbours import crowd_of
from edgeshare.swarm.torrent import SwarmError, Torrent

logger = logging.getLogger(__name__)

ASK_AGAIN_S = 30.0  # at most, when no origin gives a piece: a peer may have it by then
TURN_S = 0.25  # in the line, for one lesson: several runs by one look, while what peers have is not much older
PORTION = 256 * 2**10, 2**20  # bytes of one request in company: at least, at most, and a piece at the very least
PORTIONS = 64  # of one lesson, between those: enough for many nodes to take some, few enough to ask for one by one
MOST_ALONE = 2 * 2**20  # bytes of one request where nobody else is there: still short beside a reader's patience
MOST_FOR_READER = 512 * 2**10  # bytes: a page's next file waits behind it, on a line of 1 Mbit/s for four seconds
MANY = 40  # neighbours: about as many as a node has in a crowd of any size, so they tell nothing of its size
COUNT_LASTS_S = 15.0  # the tracker's count of such a crowd, before pieces are taken by it
FEW_LAST_S, LONGEST_COUNT_S = 0.5, 60.0  # the same where few were met, since joining; and at most
COUNT_WITHIN_S = 1.5  # it has to answer; then the count that there is has to do


class Lines:
    """The node's two lines to the origin, shared by all its feeds."""

    def __init__(self) -> None:
        self.readers = Line()
        self.ration = Line()


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
        token: Token,
        gathering: Gathering,
    ) -> None:
        self._torrent = torrent
        self._taken = taken  # bytes for this lesson, counted on here
        self._origins = origins
        self._lines = lines
        self._gathering = gathering
        self._ration = Ration(
            token,
            torrent.info_hash,
            rng.randbytes(16),
            portions=portions(torrent.layout),
            began_s=gathering.joined_s,
        )
        self._neighbours: tuple[Neighbour, ...] = ()
        self._wants_claims = False
        self._coming: set[Piece] = set()  # asked of the origin, not here yet
        self._counted_s = -float("inf")  # when the tracker was asked to count anew
        self._counts = 0
        self._given_away: dict[Piece, float] = {}  # to somebody else, by the origin's word; until when that counts
        self._refused_ration: dict[Piece, float] = {}  # likewise, but a reader's range is another, and is asked for
        self._awaited_since: dict[Piece, float] = {}
        self.crowd = 1  # nodes believed to be after the same lesson, this one included
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
                await self._take(lambda why: why is Reason.READER_WAITS, self._lines.readers)

    async def _for_ration(self) -> None:
        with suppress(SwarmError):
            while True:
                await self._take(lambda why: why is not Reason.READER_WAITS, self._lines.ration)

    async def _look(self) -> Decision:
        torrent = self._torrent
        available = await torrent.availability()
        now = trio.current_time()
        self._given_away = {piece: until for piece, until in self._given_away.items() if until > now}
        self._refused_ration = {piece: until for piece, until in self._refused_ration.items() if until > now}
        given_away = self._given_away.keys() | (self._refused_ration.keys() - torrent.urgent)
        missing = torrent.missing() - self._coming - given_away
        if self._wants_claims or not all(available[piece] for piece in missing):
            self._neighbours = await torrent.neighbours(claims=self._wants_claims)
        progress = torrent.progress
        self.crowd = crowd_of(self._gathering, self._neighbours, progress, now)
        self._awaited_since = {piece: self._awaited_since.get(piece, now) for piece in torrent.urgent}
        sight = Sight(
            missing=missing,
            available=available,
            neighbours=self._neighbours,
            crowd=self.crowd,
            received=progress.from_peers if progress else 0,
            seeds=progress.seeds if progress else 0,
            awaited={piece: now - start for piece, start in self._awaited_since.items()},
        )
        decision = self._ration.look(sight, now)
        self._wants_claims = decision.wants_claims
        return decision

    async def _take(self, is_mine: Callable[[Reason], bool], line: Line) -> None:
        """Take some runs of neighbouring pieces, or wait a little when nothing is due or nobody answers."""

        async def due() -> tuple[Mapping[Piece, Reason], float]:
            decision = await self._look()
            return {piece: why for piece, why in decision.take.items() if is_mine(why)}, decision.look_in_s

        found, wait_s = await due()
        if found:
            # Readers wait alike, of whatever lesson: the many of one must not keep those of another from ever reading.
            need = 1 if line is self._lines.readers else self.crowd
            async with line.turn(need) as has_waited:
                is_counted = line is self._lines.ration and await self._count()
                if has_waited or is_counted:  # what waits in the line is not on its way: it may be here by now
                    found, wait_s = await due()
                turn_ends = trio.current_time() + TURN_S
                rest = set(found)
                for first in found:
                    rest &= self._torrent.missing() - self._coming
                    if first not in rest:
                        continue
                    run = self._run(rest, first, found[first])
                    rest.difference_update(run)
                    self._coming.update(run)
                    try:
                        wait_s = await self._fetch(run, found[first])
                    finally:
                        self._coming.difference_update(run)
                    if wait_s or trio.current_time() >= turn_ends:
                        break
        await trio.sleep(wait_s)

    async def _count(self) -> bool:
        """Have the swarm counted: who came early believes in a crowd as small as it was then, and takes its share.

        Who has met nobody, or few of those that the tracker counted, hears of the others with it: behind NAT nobody
        connects to it. Whether it was; not when the count before is young, nor where the neighbours are nearly all.
        """
        progress, now = self._torrent.progress, trio.current_time()
        around = len(self._neighbours) + 1
        if around > MANY:
            counted_s, lasts_s = self._counted_s, COUNT_LASTS_S
        elif (
            progress
            and progress.tracker
            and (around == 1 or self.crowd > NEARLY_ALL * around)
            and not any(each.came for each in self._neighbours)
        ):
            counted_s = max(self._counted_s, self._gathering.joined_s)
            lasts_s = min(FEW_LAST_S * 2.0**self._counts, LONGEST_COUNT_S)
        else:
            return False
        if now - counted_s < lasts_s:
            return False
        self._counts += 1
        self._counted_s = now
        self._torrent.recount()
        with trio.move_on_after(COUNT_WITHIN_S):
            await self._torrent.until(lambda: self._torrent.is_counted_anew)
        return True

    def _run(self, wanted: AbstractSet[Piece], first: Piece, why: Reason) -> list[Piece]:
        """`first` and what is asked for with it."""
        layout = self._torrent.layout
        if why is Reason.READER_WAITS:
            return neighbours(layout, wanted, first, MOST_FOR_READER)
        if why is Reason.ALONE:  # short at first: who comes a moment later sees soon what is taken
            return neighbours(layout, wanted, first, min(MOST_ALONE, max(PORTION[0], self._taken[Reason.ALONE])))
        whole = self._ration.portion(first)
        return list(whole) if wanted >= set(whole) else [first]

    async def _fetch(self, run: list[Piece], reason: Reason) -> float:
        """Fetch a run and hand it in, unless peers are faster; how long to wait before the next."""
        layout = self._torrent.layout
        file, start, _ = layout.file_of(run[0])
        _, _, stop = layout.file_of(run[-1])
        path = f"content/{self._torrent.info_hash.hex()}/{file.path}"
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._end_when_needless, run, nursery.cancel_scope)
            try:
                await self._origins.span(
                    path, start, stop, file.size, self._intake(start, run, reason), purpose=reason.value
                )
            except Unreachable as error:
                nursery.cancel_scope.cancel()
                self._report(str(error))
                return max(0.5, min(error.retry_in_s, ASK_AGAIN_S))
            except Taken as error:
                nursery.cancel_scope.cancel()
                is_readers = reason is Reason.READER_WAITS
                refused = self._given_away if is_readers else self._refused_ration
                refused.update(dict.fromkeys(run, trio.current_time() + error.retry_in_s))
                return 0.0
            except NotFound as error:
                nursery.cancel_scope.cancel()
                self.missing = str(error)
                self._report(self.missing)
                return ASK_AGAIN_S
            self.missing = None
            self._report(None)
            logger.debug("%d pieces of %s from the origin: %s", len(run), layout.name, reason.value)
            nursery.cancel_scope.cancel()
        return 0.0

    async def _end_when_needless(self, run: Iterable[Piece], fetch: trio.CancelScope) -> None:
        """End a fetch when peers were faster.

        Not when the reader who waited for it has left: it is short, the origin's guard would not give the same range
        again for a while, and somebody needs the piece all the same.
        """
        with suppress(SwarmError):
            await self._torrent.until(lambda: all(self._torrent.has(piece) for piece in run))
        fetch.cancel()

    def _report(self, trouble: str | None) -> None:
        """Log what stands in the way, once."""
        if trouble and trouble != self._trouble:
            logger.warning("%s: %s", self._torrent.layout.name, trouble)
        self._trouble = trouble

    def _intake(self, start: int, run: Iterable[Piece], reason: Reason) -> Callable[[bytearray], bool]:
        """What hands in each piece of a run as soon as it has come; it refuses a body with a wrong one."""
        layout, coming = self._torrent.layout, deque(run)

        def take(body: bytearray) -> bool:
            while coming:
                _, begin, end = layout.file_of(coming[0])
                if len(body) < end - start:
                    return True
                content = bytes(body[begin - start : end - start])
                if not layout.is_piece(coming[0], content):
                    return False
                self._torrent.give(coming.popleft(), content)
                self._taken[reason] += len(content)
            return True

        return take


def portions(layout: Layout) -> list[Piece]:
    """For each piece, the first piece of its portion: neighbours in one file, the same for every node."""
    least, most = PORTION
    together = max(1, min(most, max(least, layout.size // PORTIONS)) // layout.piece_length)
    heads = [Piece(0)] * layout.pieces
    for file in layout.files:
        span = layout.pieces_of(file)
        for piece in span:
            heads[piece] = Piece(span.start + (piece - span.start) // together * together)
    return heads


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
