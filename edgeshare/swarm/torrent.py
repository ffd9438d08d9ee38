"""One torrent in the swarm, as the rest of the code sees it: pieces, progress, and when they change.

Its state follows the events that the session hands it; nothing here asks libtorrent for anything that it would have to
wait for. A method that asks sends the question off and waits for the answer's event.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable

import libtorrent as lt
import trio

from edgeshare.errors import EdgeshareError
from edgeshare.layout import Layout, Piece
from edgeshare.manifest import InfoHash
from edgeshare.swarm.events import (
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
)

_SAVE = lt.torrent_handle.flush_disk_cache | lt.torrent_handle.save_info_dict
_STEP_MS = 150  # between the deadlines of pieces that a reader wants in a row


class SwarmError(EdgeshareError):
    """libtorrent refused a torrent, or it went away while somebody waited for it."""


class Torrent:
    """A content that the swarm fetches or seeds; made by `Swarm.add`."""

    def __init__(self, handle: lt.torrent_handle, info_hash: InfoHash, layout: Layout) -> None:
        self.info_hash = info_hash
        self.layout = layout
        self.progress: Progress | None = None  # None until libtorrent reports
        self.failure: str | None = None  # why bytes that were verified are not on disk; None when nothing failed
        self.is_checked = False
        self.bytes_have = 0  # verified
        self.bytes_from_peers = 0  # of those, in this session
        self._handle = handle
        self._have: set[Piece] = set()
        self._given: set[Piece] = set()  # handed to libtorrent, its verdict still to come
        self._urgent: Counter[Piece] = Counter()  # readers waiting for each piece
        self._reads: dict[Piece, list[PieceRead | None]] = {}
        self._availabilities: list[Availability] = []  # answers since the last question
        self._flushes = 0
        self._resume: list[ResumeDataReady] = []
        self._changed = trio.lowlevel.ParkingLot()
        self._is_gone = False

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
        return frozenset(Piece(p) for p in range(self.layout.pieces)) - self._have - self._given

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

    async def until_readable(self, piece: Piece) -> None:
        """Wait until a piece was verified and nothing is known to be wrong with the disk."""
        await self.until(lambda: piece in self._have and self.failure is None)

    async def read(self, piece: Piece) -> bytes:
        """A verified piece without its padding, out of libtorrent's memory or the disk, hashed once more here.

        Raises:
            SwarmError: it cannot be read, or is no longer what was verified; the torrent counts as failed then.
        """
        waiting = self._reads.setdefault(piece, [])
        waiting.append(None)
        place = len(waiting) - 1
        self._handle.read_piece(piece)
        await self.until(lambda: waiting[place] is not None)
        found = waiting[place]
        content = found.content if found else None
        if content is None or not self.layout.is_piece(piece, content):
            self._fail(f"piece {piece} is not on the disk as it was verified")
            raise SwarmError(f"piece {piece} cannot be read back", hint="it is being fetched again")
        _, start, stop = self.layout.file_of(piece)
        return content[: stop - start]

    def give(self, piece: Piece, content: bytes) -> None:
        """Hand in a piece from the origin; PieceVerified or PieceRefused follows, and peers get it from here."""
        if piece not in self._have:
            self._given.add(piece)
            self._handle.add_piece(piece, content + bytes(self.layout.piece_length - len(content)), 0)

    def urge(self, pieces: Iterable[Piece], *, behind: int = 0) -> None:
        """A reader waits for `pieces`, in this order and behind as many others; undone by `relax`."""
        for rank, piece in enumerate(pieces, behind):
            self._urgent[piece] += 1
            if piece not in self._have:
                self._handle.set_piece_deadline(piece, rank * _STEP_MS)
        self._wake()

    def relax(self, pieces: Iterable[Piece]) -> None:
        """The reader who wanted `pieces` has them, or went away."""
        for piece in pieces:
            self._urgent[piece] -= 1
            if self._urgent[piece] <= 0:
                del self._urgent[piece]
                if piece not in self._have and not self._is_gone:
                    self._handle.reset_piece_deadline(piece)

    async def availability(self) -> tuple[int, ...]:
        """For each piece, how many connected peers have it, now."""
        self._availabilities.clear()
        self._handle.post_piece_availability()
        await self.until(lambda: bool(self._availabilities))
        found = self._availabilities[-1].peers
        return found if len(found) == self.layout.pieces else (0,) * self.layout.pieces

    async def flush(self) -> None:
        """Have everything that was verified written to the disk, as far as libtorrent can tell."""
        seen = self._flushes
        self._handle.flush_cache()
        await self.until(lambda: self._flushes > seen)

    async def resume_data(self) -> bytes | None:
        """What libtorrent needs to go on after a restart without hashing; None when it has nothing to say."""
        self._resume.clear()
        self._handle.save_resume_data(_SAVE)
        await self.until(lambda: bool(self._resume))
        return self._resume[0].resume

    def connect(self, host: str, port: int) -> None:
        """Try a peer."""
        self._handle.connect_peer((host, port))

    def rest(self) -> None:
        """Stop transferring, and stay."""
        self._handle.pause()

    def look_again(self) -> None:
        """Forget what is thought to be here, read all files, and fetch what is missing."""
        self.is_checked = False
        self.failure = None
        self._have.clear()
        self._given.clear()
        self.bytes_have = 0
        self._handle.clear_error()
        self._handle.force_recheck()
        self._handle.resume()

    def on(self, event: SwarmEvent) -> None:
        """Follow one event; called by the session for this torrent's."""
        match event:
            case PieceVerified(piece=piece):
                if self.is_checked and piece not in self._have:
                    self._have.add(piece)
                    _, start, stop = self.layout.file_of(piece)
                    self.bytes_have += stop - start
                    self.bytes_from_peers += 0 if piece in self._given else stop - start
                self._given.discard(piece)
            case PieceRefused(piece=piece):
                self._given.discard(piece)
            case TorrentProgress(progress=progress):
                self.progress = progress
                if progress.pieces is not None and not progress.is_checking:
                    self._take_pieces(progress.pieces)
            case TorrentChecked():
                self._handle.post_status(lt.torrent_handle.query_pieces)
            case PieceRead(piece=piece):
                waiting = self._reads.pop(piece, [])
                waiting[:] = [event] * len(waiting)
            case Availability():
                self._availabilities.append(event)
            case CacheFlushed():
                self._flushes += 1
            case ResumeDataReady():
                self._resume.append(event)
            case DiskFailed(reason=reason):
                self._fail(reason)
            case TorrentAdded(error=str(error)):
                self._fail(error)
            case TorrentRemoved():
                self._is_gone = True
        self._wake()

    def ask_again(self) -> None:
        """Events were lost: ask for the state, and for every answer that somebody waits for."""
        self._handle.post_status(lt.torrent_handle.query_pieces)
        for piece in self._reads:
            self._handle.read_piece(piece)
        self._handle.post_piece_availability()
        self._handle.flush_cache()

    def _take_pieces(self, pieces: bytes) -> None:
        self._have = {Piece(n) for n, has in enumerate(pieces) if has}
        self._given -= self._have
        self.bytes_have = sum(stop - start for _, start, stop in map(self.layout.file_of, self._have))
        self.is_checked = True

    def _fail(self, reason: str) -> None:
        """Bytes are not where they should be: nothing more is fetched until somebody has made room and looks again."""
        if self.failure is None:
            self.failure = reason
            self._handle.pause()
        self._wake()

    def _wake(self) -> None:
        self._changed.unpark_all()
