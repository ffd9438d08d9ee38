"""What the swarm tells: libtorrent's alerts as frozen values of ours, translated at this one place.

An alert and what hangs on it die at the next `pop_alerts()`; a value does not. The names say what is true, as we mean
it: `PieceVerified` is not "on disk".
"""

from __future__ import annotations

import attrs
import libtorrent as lt

from edgeshare.config import Endpoint
from edgeshare.layout import Piece
from edgeshare.manifest import InfoHash

NO_LONGER_WRITES = "a write failed"  # of a torrent that only sends, where nobody wanted that of it


@attrs.frozen(kw_only=True)
class Progress:
    """How one torrent stands, by libtorrent's word."""

    is_checking: bool
    is_finished: bool  # it believes to have every piece; whether the disk has them is for the library to say
    peers: int  # connected
    tracker: int | None  # nodes in the swarm by the tracker's count, this one included; None while it is silent
    seeds: int  # of those that the tracker counts, how many have everything
    known: int  # peers, by address
    from_peers: int  # bytes of content received, verified or not, since the torrent was added
    to_peers: int  # bytes of content sent since the session began
    failure: str | None  # what stopped it, when something did; the word of an event that got lost
    pieces: bytes | None  # one byte a piece, 1 for those it has; None when it was not asked for


@attrs.frozen
class TorrentProgress:
    info_hash: InfoHash
    progress: Progress


@attrs.frozen
class TorrentAdded:
    info_hash: InfoHash
    error: str | None


@attrs.frozen
class TorrentChecked:
    """What the resume data or the files say has been read; pieces are being fetched from now on."""

    info_hash: InfoHash


@attrs.frozen
class TorrentRemoved:
    info_hash: InfoHash


@attrs.frozen
class TrackerAnswered:
    """It counted the swarm: the next progress has its figure."""

    info_hash: InfoHash


@attrs.frozen
class MetadataReceived:
    info_hash: InfoHash
    info: bytes  # the info dict; its hash was checked by libtorrent


@attrs.frozen
class PieceVerified:
    """The piece's hash is right. It may not be on disk yet."""

    info_hash: InfoHash
    piece: Piece


@attrs.frozen
class PieceRefused:
    """Its hash is wrong; it is still missing."""

    info_hash: InfoHash
    piece: Piece


@attrs.frozen
class PieceRead:
    """The answer to a read: the piece, padding included, or None when it could not be read."""

    info_hash: InfoHash
    piece: Piece
    content: bytes | None


@attrs.frozen
class Availability:
    """For each piece, how many connected peers have it."""

    info_hash: InfoHash
    peers: tuple[int, ...]


@attrs.frozen
class CacheFlushed:
    """What was verified before the flush was asked for has been written."""

    info_hash: InfoHash


@attrs.frozen
class DiskFailed:
    """Bytes that were verified could not be written, or files could not be read, or they contradict each other."""

    info_hash: InfoHash
    reason: str
    is_confused: bool = False  # v1 and v2 hashes contradict each other, says libtorrent


@attrs.frozen
class ResumeDataReady:
    info_hash: InfoHash
    resume: bytes | None  # None when there was nothing to save


@attrs.frozen
class PeerMet:
    """A connection to a peer has begun."""

    info_hash: InfoHash


@attrs.frozen
class PeerParted:
    """A connection to a peer has ended; not an attempt that came to nothing."""

    info_hash: InfoHash
    host: str


@attrs.frozen
class Listening:
    endpoint: Endpoint


@attrs.frozen
class ListenFailed:
    endpoint: Endpoint
    reason: str


@attrs.frozen
class AlertsDropped:
    """The queue ran over: some events never come. Ask for the state again."""


SwarmEvent = (
    TorrentProgress
    | TorrentAdded
    | TorrentChecked
    | TorrentRemoved
    | TrackerAnswered
    | MetadataReceived
    | PieceVerified
    | PieceRefused
    | PieceRead
    | Availability
    | CacheFlushed
    | DiskFailed
    | ResumeDataReady
    | PeerMet
    | PeerParted
    | Listening
    | ListenFailed
    | AlertsDropped
)


def translate(alert: lt.alert) -> tuple[SwarmEvent, ...]:
    """The events in one alert; none when it means nothing to us, or when its torrent has been removed meanwhile."""
    try:
        return _translated(alert)
    except RuntimeError:  # from a handle that has outlived its torrent
        return ()


def _translated(alert: lt.alert) -> tuple[SwarmEvent, ...]:  # noqa: C901 - one table, one line a kind
    match alert:
        case lt.piece_finished_alert():
            return (PieceVerified(v2_of(alert.handle), Piece(alert.piece_index)),)
        case lt.state_update_alert():
            return tuple(TorrentProgress(_v2(status.info_hashes), _progress(status)) for status in alert.status)
        case lt.read_piece_alert():
            content = None if alert.error.value() else alert.buffer
            return (PieceRead(v2_of(alert.handle), Piece(alert.piece), content),)
        case lt.piece_availability_alert():
            return (Availability(v2_of(alert.handle), tuple(alert.piece_availability)),)
        case lt.hash_failed_alert():
            return (PieceRefused(v2_of(alert.handle), Piece(alert.piece_index)),)
        case lt.add_torrent_alert():
            error = alert.error.message() if alert.error.value() else None
            return (TorrentAdded(_v2(alert.params.info_hashes), error),)
        case lt.torrent_checked_alert():
            return (TorrentChecked(v2_of(alert.handle)),)
        case lt.torrent_removed_alert():
            return (TorrentRemoved(_v2(alert.info_hashes)),)
        case lt.tracker_reply_alert() | lt.scrape_reply_alert():
            return (TrackerAnswered(v2_of(alert.handle)),)
        case lt.metadata_received_alert():
            info = alert.handle.torrent_file()
            return () if info is None else (MetadataReceived(v2_of(alert.handle), info.info_section()),)
        case lt.cache_flushed_alert():
            return (CacheFlushed(v2_of(alert.handle)),)
        case lt.file_error_alert():
            return (DiskFailed(v2_of(alert.handle), alert.error.message()),)
        case lt.torrent_error_alert():  # above all of a check, which stands still then
            return (DiskFailed(v2_of(alert.handle), alert.error.message(), _is_confusion(alert.error)),)
        case lt.save_resume_data_alert():
            return (ResumeDataReady(v2_of(alert.handle), lt.write_resume_data_buf(alert.params)),)
        case lt.save_resume_data_failed_alert():
            return (ResumeDataReady(v2_of(alert.handle), None),)
        case lt.peer_connect_alert():
            return (PeerMet(v2_of(alert.handle)),)
        case lt.peer_disconnected_alert():
            was_there = alert.op != lt.operation_t.connect
            return (PeerParted(v2_of(alert.handle), alert.ip[0]),) if was_there else ()
        case lt.listen_succeeded_alert():
            return (Listening(Endpoint(str(alert.address), alert.port)),)
        case lt.listen_failed_alert():
            return (ListenFailed(Endpoint(str(alert.address), alert.port), alert.error.message()),)
        case lt.alerts_dropped_alert():
            return (AlertsDropped(),)
    return ()


def v2_of(handle: lt.torrent_handle) -> InfoHash:
    """The identity of the torrent that an alert is about."""
    return _v2(handle.info_hashes())


def _v2(hashes: lt.info_hash_t) -> InfoHash:
    return InfoHash(hashes.v2.to_bytes())


def _progress(status: lt.torrent_status) -> Progress:
    checking = (lt.torrent_status.checking_files, lt.torrent_status.checking_resume_data)
    return Progress(
        is_checking=status.state in checking,
        is_finished=status.is_finished,
        peers=status.num_peers,
        tracker=_counted(status),
        seeds=max(0, status.num_complete),
        known=status.list_peers,
        from_peers=status.total_payload_download,
        to_peers=status.total_payload_upload,
        failure=_failure(status),
        pieces=bytes(status.pieces) if status.pieces else None,
    )


def _is_confusion(error: lt.error_code) -> bool:
    return error.message() == "v1 and v2 hashes do not describe the same data"  # the binding has no name for its number


def _counted(status: lt.torrent_status) -> int | None:
    if status.num_complete < 0 and status.num_incomplete < 0:
        return None
    return max(0, status.num_complete) + max(0, status.num_incomplete)


def _failure(status: lt.torrent_status) -> str | None:
    if status.errc.value():
        return status.errc.message()
    if status.flags & lt.torrent_flags.upload_mode:  # set by a failed write, or by `Torrent.hold`
        return NO_LONGER_WRITES
    return None
