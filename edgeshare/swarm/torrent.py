"""One torrent in the swarm, as the rest of the code sees it: pieces, progress, and when they change.

Its state follows the events that the session hands it; nothing here asks libtorrent for anything that it would have to
wait for. A method that asks sends the question off and waits for the answer's event. What asks after the torrent was
removed gets `SwarmError`, and what only tells it something is not heard: its handle then refuses every call.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import suppress

import attrs
import libtorrent as lt
import trio

from edgeshare.errors import EdgeshareError
from edgeshare.layout import Layout, Piece
from edgeshare.manifest import InfoHash
from edgeshare.ration import Neighbour
from edgeshare.swarm.events import (
    NO_LONGER_WRITES,
    Availability,
    CacheFlushed,
    DiskFailed,
    PieceRead,
    PieceRefused,
    PieceVerified,
    Progress,
    ResumeDataReady,
    SwarmEvent,
    TorrentAdded,
    TorrentChecked,
    TorrentProgress,
    TorrentRemoved,
    TrackerAnswered,
)
from edgeshare.swarm.neighbours import neighbours

_SAVE = lt.torrent_handle.flush_disk_cache | lt.torrent_handle.save_info_dict
VERDICT_WITHIN_S = 10.0  # a hash takes a millisecond, and a slow disk some seconds for all that waits to be written
_STEP_MS = 150  # between the deadlines of pieces that a reader wants in a row

# Libtorrent's priorities. A deadline goes with 7, for all alike, and among its like libtorrent takes any: so what a
# reader wants after the piece that it waits for is lowered again.
_SOON, _PREFERRED, _USUAL = 6, 5, 4


class SwarmError(EdgeshareError):
    """libtorrent refused a torrent, or it went away while somebody waited for it."""


@attrs.define(eq=False)
class _Question:
    """What somebody waits to hear from libtorrent; one answer serves all who asked the same."""

    ask: Callable[[], object]
    is_answer: Callable[[SwarmEvent], bool]
    answer: SwarmEvent | None = None


class Torrent:
    """A content that the swarm fetches or seeds; made by `Swarm.add`."""

    def __init__(self, handle: lt.torrent_handle, info_hash: InfoHash, layout: Layout) -> None:
        self.info_hash = info_hash
        self.layout = layout
        self.progress: Progress | None = None  # None until libtorrent reports
        self.failure: str | None = None  # why bytes that were verified are not on disk; None when nothing failed
        self.is_confused = False  # libtorrent takes v1 and v2 hashes for contradictory: only adding it anew helps
        self.is_checked = False
        self.is_held = False  # nothing more is asked of peers; what is here is sent and read
        self.is_counted_anew = False  # a tracker has counted the swarm since `recount`
        self.on_failure: Callable[[], None] = lambda: None  # called when `failure` is set
        self.bytes_have = 0  # verified
        self.bytes_from_peers = 0  # in this session
        self._handle = handle
        self._have: set[Piece] = set()
        self._given: dict[Piece, float] = {}  # handed to libtorrent, its verdict still to come; and when
        self._urgent: Counter[Piece] = Counter()  # readers waiting for each piece
        self._ranks: dict[Piece, int] = {}  # of those: how many come before it for the reader who wants it first
        self._preferred: Counter[Piece] = Counter()  # readers who will want each piece
        self._questions: list[_Question] = []
        self._awaits_check = True  # what is said of its pieces before it was checked is out of date
        self._changed = trio.lowlevel.ParkingLot()
        self._is_counted = False
        self._is_gone = False
        self._was_held = False  # what libtorrent reports may still be from before `release`

    @property
    def is_finished(self) -> bool:
        """Every piece was verified, and no write failed that we know of."""
        return self.is_checked and self.failure is None and len(self._have) == self.layout.pieces

    @property
    def urgent(self) -> frozenset[Piece]:
        """The pieces that readers wait for."""
        return frozenset(self._urgent)

    def has(self, piece: Piece) -> bool:
        """Whether the piece was verified."""
        return piece in self._have

    def missing(self) -> frozenset[Piece]:
        """The pieces that are not here, nor given and on their way through the hash check."""
        return frozenset(map(Piece, range(self.layout.pieces))) - self._have - self._given.keys()

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait until `condition` holds; it is looked at again whenever anything about the torrent changes.

        Raises:
            SwarmError: the torrent was removed.
        """
        while not condition():
            if self._is_gone:
                raise SwarmError("the lesson was removed while it was being read")
            await self._changed.park()
        await trio.lowlevel.checkpoint()

    async def read(self, piece: Piece) -> bytes:
        """A piece without its padding, as soon as it is verified, out of libtorrent's memory or the disk.

        It is hashed once more here: what libtorrent believes to have may be lost on a full disk, or altered. Then the
        torrent counts as failed, and this waits until somebody has looked again and the piece is back.

        Raises:
            SwarmError: the torrent was removed.
        """
        while True:
            if piece in self._urgent:
                self._ranks[piece] = 0
                self._hasten(piece)
            await self.until(lambda: piece in self._have)
            found = await self._answer(
                lambda: self._handle.read_piece(piece),
                lambda event: isinstance(event, PieceRead) and event.piece == piece,
            )
            assert isinstance(found, PieceRead)
            if found.content is not None and self.layout.is_piece(piece, found.content):
                _, start, stop = self.layout.file_of(piece)
                return found.content[: stop - start]
            if piece in self._have:  # no check of the files has begun meanwhile
                self._lose(piece)
                self.distrust(f"piece {piece} is not on the disk as it was verified")

    def give(self, piece: Piece, content: bytes) -> None:
        """Hand in a piece from the origin; PieceVerified or PieceRefused follows, and peers get it from here."""
        if piece not in self._have and not self._is_gone:
            self._given[piece] = trio.current_time()
            self._handle.add_piece(piece, content.ljust(self.layout.piece_length, b"\0"), 0)

    def urge(self, pieces: Iterable[Piece], *, behind: int = 0) -> None:
        """A reader waits for `pieces`, in this order and behind as many others; undone by `relax`."""
        for rank, piece in enumerate(pieces, behind):
            self._urgent[piece] += 1
            self._ranks[piece] = min(rank, self._ranks.get(piece, rank))
            self._hasten(piece)
        self._wake()

    def relax(self, pieces: Iterable[Piece]) -> None:
        """The reader who wanted `pieces` has them, or went away."""
        for piece in pieces:
            self._urgent[piece] -= 1
            if self._urgent[piece] <= 0:
                del self._urgent[piece], self._ranks[piece]
                if piece not in self._have and not self._is_gone:
                    self._handle.reset_piece_deadline(piece)  # it is the last of all from here on
                    self._prioritize([piece])
        self._wake()

    def prefer(self, pieces: Iterable[Piece]) -> None:
        """A reader will want `pieces`: they come before the rest, but nobody waits for them; undone by `let_be`."""
        fresh = list(pieces)
        self._preferred.update(fresh)
        self._prioritize(fresh)

    def let_be(self, pieces: Iterable[Piece]) -> None:
        """The reader who would have wanted `pieces` went away."""
        left = list(pieces)
        self._preferred.subtract(left)
        for piece in left:
            if self._preferred[piece] <= 0:
                del self._preferred[piece]
        self._prioritize(left)

    async def availability(self) -> tuple[int, ...]:
        """For each piece, how many connected peers have it, now.

        Raises:
            SwarmError: the torrent was removed.
        """
        found = await self._answer(self._handle.post_piece_availability, lambda event: isinstance(event, Availability))
        assert isinstance(found, Availability)
        return found.peers if len(found.peers) == self.layout.pieces else (0,) * self.layout.pieces

    async def neighbours(self, *, claims: bool = False) -> tuple[Neighbour, ...]:
        """The connected peers; with `claims`, also the pieces of each.

        Raises:
            SwarmError: the torrent was removed.
        """
        if not self._is_gone:
            with suppress(RuntimeError):  # it went away while libtorrent was asked
                return await trio.to_thread.run_sync(lambda: neighbours(self._handle, claims=claims))
        raise SwarmError("the lesson was removed while its peers were asked for")

    def recount(self) -> None:
        """Have the trackers count the swarm once more; `is_counted_anew` when one has.

        By an announce, which brings new peers as well: libtorrent does not send every scrape that it is asked for.
        """
        self.is_counted_anew = self._is_counted = False
        if not self._is_gone:
            self._handle.force_reannounce(0, -1, lt.torrent_handle.ignore_min_interval)

    async def flush(self) -> None:
        """Have everything that was verified written to the disk, as far as libtorrent can tell.

        Raises:
            SwarmError: the torrent was removed.
        """
        await self._answer(self._handle.flush_cache, lambda event: isinstance(event, CacheFlushed))

    async def resume_data(self) -> bytes | None:
        """What libtorrent needs to go on after a restart without hashing; None when it has nothing to say.

        Raises:
            SwarmError: the torrent was removed.
        """
        found = await self._answer(
            lambda: self._handle.save_resume_data(_SAVE), lambda event: isinstance(event, ResumeDataReady)
        )
        assert isinstance(found, ResumeDataReady)
        return found.resume

    async def info(self) -> bytes:
        """The info dict.

        Raises:
            SwarmError: the torrent was removed.
        """
        if not self._is_gone:
            with suppress(RuntimeError):  # it went away while libtorrent was asked
                if (found := await trio.to_thread.run_sync(self._handle.torrent_file)) is not None:
                    return bytes(found.info_section())
        raise SwarmError("the lesson was removed while its metadata was asked for")

    async def rest(self) -> None:
        """Stop transferring; returns when nothing is written any more, and its files are closed.

        Raises:
            SwarmError: the torrent was removed.
        """
        if not self._is_gone:
            self._handle.pause()
        await self.flush()

    def hold(self) -> None:
        """Ask peers for nothing more, until `release`; what is here is sent and read meanwhile."""
        self.is_held = self._was_held = True
        if not self._is_gone:
            self._handle.set_flags(lt.torrent_flags.upload_mode)

    def release(self) -> None:
        """Fetch what is missing again."""
        self.is_held = False
        if not self._is_gone:
            self._handle.unset_flags(lt.torrent_flags.upload_mode)
            self._handle.post_status(0)

    def distrust(self, reason: str) -> None:
        """Its files are not what was verified: nothing is sent or fetched until somebody looks again."""
        if self.failure is None:
            self.failure = reason
            if not self._is_gone:
                self._handle.pause()
            self.on_failure()
        self._wake()

    def look_again(self) -> None:
        """Forget what is thought to be here, read all files, and fetch what is missing."""
        self._awaits_check = True
        self.is_checked = False
        self.failure = None
        self._have.clear()
        self._given.clear()
        self.bytes_have = 0
        if not self._is_gone:
            self._handle.clear_error()
            if not self.is_held:
                self._handle.unset_flags(lt.torrent_flags.upload_mode)
            self._handle.force_recheck()
            self._handle.resume()
        self._wake()

    def on(self, event: SwarmEvent) -> None:  # noqa: C901 - one table, one line a kind
        """Follow one event; called by the session for this torrent's."""
        if self._is_gone:
            return
        for question in self._questions:
            if question.answer is None and question.is_answer(event):
                question.answer = event
        match event:
            case PieceVerified(piece=piece):
                if self.is_checked:
                    self._gain(piece)
                self._given.pop(piece, None)
            case PieceRefused(piece=piece):
                self._given.pop(piece, None)
            case TrackerAnswered():
                self._is_counted = True
                self._handle.post_status(0)  # its count decides who goes to the origin: not in a second, now
            case TorrentProgress(progress=progress):
                self.progress = progress
                self.is_counted_anew |= self._is_counted
                if progress.failure is None and not self.is_held:
                    self._was_held = False
                is_ours = progress.failure == NO_LONGER_WRITES and self._was_held
                if progress.failure is not None and not is_ours and not self._awaits_check:
                    self.distrust(progress.failure)
                if progress.pieces is not None and not progress.is_checking and not self._awaits_check:
                    self._take_pieces(progress.pieces)
            case TorrentChecked():
                self._awaits_check = False
                self._handle.post_status(lt.torrent_handle.query_pieces)
            case DiskFailed(reason=reason, is_confused=is_confused):
                self.is_confused |= is_confused
                self.distrust(reason)
            case TorrentAdded(error=str(error)):
                self.distrust(error)
            case TorrentRemoved():
                self._is_gone = True
        self._wake()

    def ask_again(self) -> None:
        """Events were lost: ask for the state, and for every answer that somebody waits for."""
        if self._is_gone:
            return
        self._awaits_check = False
        self._given.clear()  # their verdicts may be among what was lost
        self._handle.post_status(lt.torrent_handle.query_pieces)
        for question in self._questions:
            question.ask()

    def expect_verdicts(self) -> None:
        """Doubt the files when libtorrent says nothing of a piece that it was handed; called every few seconds.

        Seen where a file was deleted below a torrent that had it open: the piece counted as written, was never hashed,
        and could not be handed in again. Only a check of the files tells what there is.
        """
        if not self._given:  # as with thousands at rest
            return
        late_s = trio.current_time() - VERDICT_WITHIN_S
        late = [piece for piece, at_s in self._given.items() if at_s <= late_s]
        if late and self.is_checked and self.failure is None:
            self.distrust(f"piece {late[0]} was written, and not found on the disk")

    async def _answer(self, ask: Callable[[], object], is_answer: Callable[[SwarmEvent], bool]) -> SwarmEvent:
        question = _Question(ask, is_answer)
        self._questions.append(question)
        try:
            if not self._is_gone:
                ask()
            await self.until(lambda: question.answer is not None)
        finally:
            self._questions.remove(question)
        assert question.answer is not None
        return question.answer

    def _take_pieces(self, pieces: bytes) -> None:
        """Stand on what libtorrent says to have, after a check or after lost events."""
        have = {Piece(n) for n, has in enumerate(pieces) if has}
        if self.is_checked:
            for piece in have - self._have:
                self._gain(piece)
            for piece in self._have - have:
                self._lose(piece)
        else:
            self._have = have
            self.bytes_have = sum(map(self._bytes_of, have))
            self.is_checked = True
            for piece in self._urgent.keys() - have:  # the check has forgotten them
                self._hasten(piece)
            self._prioritize(self._preferred)
        self._given = {piece: at_s for piece, at_s in self._given.items() if piece not in have}

    def _hasten(self, piece: Piece) -> None:
        """Have an urgent piece come in its turn."""
        if piece not in self._have and not self._is_gone:
            rank = self._ranks[piece]
            self._handle.set_piece_deadline(piece, rank * _STEP_MS)
            if rank:
                self._handle.piece_priority(piece, _SOON)

    def _prioritize(self, pieces: Iterable[Piece]) -> None:
        """Have pieces that are not urgent come before the rest, or no sooner."""
        missing = [piece for piece in pieces if piece not in self._have and piece not in self._urgent]
        if missing and not self._is_gone:
            priorities: list[tuple[int, int]] = [
                (piece, _PREFERRED if piece in self._preferred else _USUAL) for piece in missing
            ]
            self._handle.prioritize_pieces(priorities)

    def _gain(self, piece: Piece) -> None:
        if piece not in self._have:
            self._have.add(piece)
            self.bytes_have += self._bytes_of(piece)
            self.bytes_from_peers += 0 if piece in self._given else self._bytes_of(piece)

    def _lose(self, piece: Piece) -> None:
        self._have.discard(piece)
        self.bytes_have -= self._bytes_of(piece)

    def _bytes_of(self, piece: Piece) -> int:
        _, start, stop = self.layout.file_of(piece)
        return stop - start

    def _wake(self) -> None:
        self._changed.unpark_all()
