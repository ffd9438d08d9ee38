"""libtorrent's session as a trio object. Nothing outside this package imports libtorrent, publishing's maker aside.

The session rings a bell (a socket) when alerts wait; one task takes them out, translates them and hands the events to
the torrents they are about. libtorrent's own web seeds are never used, and trackers and peers come from us alone:
what a torrent's metadata says of them is dropped.
"""

from __future__ import annotations

import hashlib
import logging
import os
import socket
from collections.abc import AsyncGenerator, Iterable, Mapping
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from random import Random, SystemRandom
from typing import Any, NoReturn

import attrs
import libtorrent as lt
import trio

from edgeshare import __version__
from edgeshare.config import Endpoint, Rate, SwarmConfig
from edgeshare.errors import ConfigError, ManifestError
from edgeshare.layout import MAX_INFO, Layout, read_layout
from edgeshare.manifest import InfoHash
from edgeshare.ration import Token
from edgeshare.swarm.events import (
    AlertsDropped,
    ListenFailed,
    Listening,
    PeerMet,
    PeerParted,
    SwarmEvent,
    TorrentProgress,
    TorrentRemoved,
    translate,
)
from edgeshare.swarm.joining import Joining
from edgeshare.swarm.neighbours import client_name, new_token, peer_traffic
from edgeshare.swarm.outside import Meter
from edgeshare.swarm.torrent import VERDICT_WITHIN_S, SwarmError, Torrent

logger = logging.getLogger(__name__)

_LISTEN_GRACE_S = 5.0
_REPORT_EVERY_S = 1.0  # progress is for people: once a second is enough, and libtorrent sends only what changed
_REST_GRACE_S = 5.0  # for the last writes of a torrent that is removed, on a disk that hangs
_NAMES_GRACE_S = 2.0  # for the addresses of peers that are given by name

_CATEGORIES = (
    lt.alert_category.error
    | lt.alert_category.status
    | lt.alert_category.storage
    | lt.alert_category.piece_progress
    | lt.alert_category.tracker
    | lt.alert_category.connect
)

FEW_TORRENTS = 500
LOCAL_ANNOUNCE_S, RARE_LOCAL_ANNOUNCE_S = 60, 600
BEGUN_WITHIN_S = 5.0  # so soon does libtorrent fetch what has begun, on a slow disk too
MEET_WITHIN_S = 60.0  # for so long who joins a content without its info dict may still be meeting others

# Between shares of `upload`. Half a second's at once would flood a home's line; and until a connection has some, what
# it has to say waits for the next share: six times from hello to the first byte of a lesson. At rest fifty looks a
# second would be a third of all that a node with thousands of contents does.
TICK_MS, RESTING_TICK_MS = 20, 100
RESTS_AFTER_S = 10.0  # without a peer that is new, or moves something

_SLOTS = 5  # peers outside that are given something at a time; in the local network there is no limit

# Measured without it: up to 3 s for goodbyes to peers over uTP who are gone already.
_PARTING: Any = {"utp_fin_resends": 0, "utp_num_resends": 1, "utp_min_timeout": 200}

# Every setting that differs from libtorrent's default, with its reason.
_SETTINGS: Mapping[str, object] = {
    "alert_mask": _CATEGORIES,
    "alert_queue_size": 20_000,  # thousands of torrents report at start
    "user_agent": f"edgeshare/{__version__}",
    "peer_fingerprint": "-ES0100-",
    "listen_system_port_fallback": False,  # a port in use is an error for its owner, not a surprise
    "max_retry_port_bind": 0,
    "enable_upnp": False,  # a node opens no door in a family's router by itself
    "enable_natpmp": False,
    "allow_multiple_connections_per_ip": True,  # a school is one address to the outside
    "active_downloads": -1,  # whatever is followed is wanted; the defaults leave most torrents paused
    "active_seeds": -1,
    "active_limit": -1,
    "active_tracker_limit": -1,
    "active_dht_limit": -1,
    "active_lsd_limit": -1,
    "connection_speed": 100,  # the defaults are made for swarms that live for days; ours must form in seconds
    "torrent_connect_boost": 60,
    "local_service_announce_interval": LOCAL_ANNOUNCE_S,
    "min_announce_interval": 60,
    "peer_connect_timeout": 4,  # seconds until TCP is tried where nothing answers over UDP, as behind many a firewall
    "min_reconnect_time": 2,  # times the failures so far: after a check of the files, all peers are connected anew
    "max_failcount": 30,  # so a peer is tried for a quarter of an hour: a school's machines start in any order
    "enable_outgoing_utp": False,  # it takes twice the processor's time for the same bytes; who comes over it is let in
    # What ends a swarm's fetch soon: nobody waits long for a block that was asked of a slow peer while others are idle.
    "unchoke_slots_limit": _SLOTS,  # a piece is passed on when it is whole, which takes as many times as long
    "allowed_fast_set_size": 0,  # who is choked is given nothing (BEP 6); measured: a spike is as fast without
    "whole_pieces_threshold": 2,  # seconds: a piece that one peer would take longer for is asked of several
    "request_queue_time": 2,  # seconds of what a peer sends are asked for ahead
    "tick_interval": TICK_MS,
    # What comes to a reader soon: what is asked for with a deadline, and not behind what was asked for before it.
    "initial_picker_threshold": 0,  # by itself the first four pieces are any four, whatever their priority
    "send_buffer_watermark_factor": 10,  # percent: a cancel misses a tenth of a second's bytes, not half
    "stop_tracker_timeout": 1,  # seconds: a stop must not wait for a dead tracker
}


@attrs.frozen(kw_only=True)
class Helpers:
    """Who may know peers of a content."""

    trackers: tuple[str, ...] = ()
    peers: tuple[Endpoint, ...] = ()


@attrs.frozen
class _Leaving:
    """A torrent that was taken out of the session, and is not out of it yet."""

    handle: lt.torrent_handle
    gone: trio.Event = attrs.field(factory=trio.Event)


@attrs.frozen(kw_only=True)
class Traffic:
    """Bytes of content since the session began, of all torrents, those that have gone too; and peers now."""

    from_peers: int  # verified
    to_peers: int
    peers: int  # connected


class Swarm:
    """The swarm; made by `open_swarm`."""

    def __init__(self, session: lt.session, token: Token) -> None:
        self.token = token  # by which peers know this node while the session lasts
        self.endpoint: Endpoint | None = None  # where peers connect; None until it listens
        self._session = session
        self._torrents: dict[InfoHash, tuple[Torrent, lt.torrent_handle]] = {}
        self._leaving: dict[InfoHash, _Leaving] = {}
        self._joinings: dict[InfoHash, Joining] = {}
        self._are_many = False  # torrents
        self._keeps_all = False  # connections, even those of no use
        self._meets_until_s = self._moves_until_s = -float("inf")
        self._rests = False  # only where contents are many: it is slower at first
        self._gone_from_peers = self._gone_to_peers = 0  # of torrents that were removed
        self._meters: dict[InfoHash, Meter] = {}
        self._reported: set[InfoHash] = set()  # torrents whose progress came since `outside_bytes` looked last
        self._heard, self._listen_results = trio.open_memory_channel[Listening | ListenFailed](64)

    @asynccontextmanager
    async def joining(self, info_hash: InfoHash, helpers: Helpers, folder: Path) -> AsyncGenerator[Joining, None]:
        """A content for `folder` whose info dict is looked for among peers; once begun, it outlives the context.

        Raises:
            SwarmError: libtorrent does not take it.
        """
        params = lt.add_torrent_params()
        params.info_hashes = lt.info_hash_t(lt.sha256_hash(info_hash))
        params.save_path = str(folder)
        params.flags |= lt.torrent_flags.default_dont_download
        handle = await self._add(params, info_hash, helpers)
        joining = self._joinings[info_hash] = Joining(handle, info_hash)
        self._keep_connections()
        try:
            yield joining
        finally:
            del self._joinings[info_hash]
            if joining.torrent is not None:
                self._meets_until_s = trio.current_time() + BEGUN_WITHIN_S
            self._keep_connections()
            if joining.torrent is None:
                self._let_go(info_hash, handle)
            else:
                self._torrents[info_hash] = joining.torrent, handle

    async def add(
        self,
        info_hash: InfoHash,
        info: bytes,
        layout: Layout,
        folder: Path,
        helpers: Helpers,
        *,
        resume: bytes | None = None,
        torrent_file: bytes | None = None,
    ) -> Torrent:
        """Fetch and seed the content that `info` describes, its files below `folder`.

        `resume` spares the check of what is already there. `torrent_file` is a .torrent of the same content, for its
        piece layers (BEP 52), which peers then get from here. While nobody in a swarm has them, libtorrent's nodes ask
        one another without a pause: measured with 24 nodes, half of the processor's time and a third of their uplinks.

        Raises:
            SwarmError: libtorrent does not take it.
        """
        params = _resumed(resume, info_hash) or _params(info, info_hash, torrent_file)
        return await self._begin(params, info_hash, layout, folder, helpers)

    async def seed(
        self,
        info_hash: InfoHash,
        info: bytes,
        layout: Layout,
        folder: Path,
        helpers: Helpers,
        *,
        torrent_file: bytes | None = None,
    ) -> Torrent:
        """As `add`, for a content that we hashed in this run, and whose files nobody has written to since.

        Raises:
            SwarmError: libtorrent does not take it.
        """
        params = _params(info, info_hash, torrent_file)
        params.flags |= lt.torrent_flags.seed_mode  # it does not look at the files
        return await self._begin(params, info_hash, layout, folder, helpers)

    async def _begin(
        self, params: lt.add_torrent_params, info_hash: InfoHash, layout: Layout, folder: Path, helpers: Helpers
    ) -> Torrent:
        params.save_path = str(folder)
        # Names are ours, from the checked layout: libtorrent would cut one of 255 bytes to 240.
        params.renamed_files = {entry.index: entry.path for entry in layout.files}
        handle = await self._add(params, info_hash, helpers)
        torrent = Torrent(handle, info_hash, layout)
        self._torrents[info_hash] = torrent, handle
        return torrent

    async def remove(self, info_hash: InfoHash) -> None:
        """Stop fetching and seeding a content; its files stay, and nothing writes to them any more.

        Who waits for something of the torrent gets `SwarmError`.
        """
        if known := self._torrents.get(info_hash):
            torrent, handle = known
            # libtorrent says "removed" while a slow disk still writes, and what is written makes the files anew
            with trio.move_on_after(_REST_GRACE_S), suppress(SwarmError):
                await torrent.rest()
            if self._torrents.pop(info_hash, None):
                self._gone_from_peers += torrent.bytes_from_peers
                self._gone_to_peers += torrent.progress.to_peers if torrent.progress else 0
                self._meters.pop(info_hash, None)
                torrent.on(TorrentRemoved(info_hash))
                self._let_go(info_hash, handle)
        await self._until_removed(info_hash)

    def traffic(self) -> Traffic:
        torrents = [torrent for torrent, _ in self._torrents.values()]
        known = [torrent.progress for torrent in torrents if torrent.progress]
        return Traffic(
            from_peers=self._gone_from_peers + sum(torrent.bytes_from_peers for torrent in torrents),
            to_peers=self._gone_to_peers + sum(each.to_peers for each in known),
            peers=sum(each.peers for each in known),
        )

    def limit(self, *, upload: Rate, download: Rate, outside: bool) -> None:
        """Allow so much to and from peers outside the local network; without `outside`, nothing to them.

        They hear at once that they are choked; those in the local network have no limit, and are never choked.
        """
        slots = _SLOTS if outside else 0
        limits = {"upload_rate_limit": upload, "download_rate_limit": download, "unchoke_slots_limit": slots}
        self._session.apply_settings(limits)  # type: ignore[arg-type] # the stubs want literal keys

    async def outside_bytes(self) -> int:
        """Bytes of content that went to and came from peers outside since this was asked last.

        Only torrents that moved something are looked at; `Meter` says how. Missed is what a torrent moved between the
        last look and its removal, and all that is no content: what peers tell one another, trackers, the DHT, headers.
        """
        added = 0
        reported, self._reported = self._reported, set()
        for info_hash in reported | self._meters.keys():  # not all of thousands, every few seconds
            if (known := self._torrents.get(info_hash)) is None:
                continue
            torrent, handle = known
            meter = self._meters.get(info_hash)
            moved = torrent.progress.from_peers + torrent.progress.to_peers if torrent.progress else 0
            if moved == (meter.total if meter else 0):
                if meter:
                    meter.rest()
                continue
            meter = self._meters.setdefault(info_hash, Meter())
            with suppress(RuntimeError):  # it went away meanwhile
                added += meter.added(moved, await trio.to_thread.run_sync(peer_traffic, handle))
        return added

    def dispatch(self, event: SwarmEvent) -> None:
        """Hand an event to what it is about."""
        match event:
            case Listening() | ListenFailed():
                with suppress(trio.WouldBlock):
                    self._heard.send_nowait(event)
            case AlertsDropped():
                logger.warning("libtorrent's events came faster than they were taken; asking for the state again")
                self._ask_again()
            case PeerMet():
                self._move()
            case PeerParted(info_hash=info_hash, host=host):
                if info_hash in self._torrents:
                    self._meters.setdefault(info_hash, Meter()).parted(host)
            case TorrentRemoved(info_hash=info_hash):
                if (leaving := self._leaving.pop(info_hash, None)) is not None:
                    leaving.gone.set()
            case _:
                if (known := self._torrents.get(event.info_hash)) is not None:
                    known[0].on(event)
                    if isinstance(event, TorrentProgress):
                        self._reported.add(event.info_hash)
                        if event.progress.peers:  # told only where something has changed
                            self._move()
                elif (joining := self._joinings.get(event.info_hash)) is not None:
                    (joining.torrent or joining).on(event)
                    self._keep_connections()

    async def listening(self, config: SwarmConfig) -> None:
        """Wait until peers can connect.

        Raises:
            ConfigError: the port cannot be used.
        """
        reason = "no such address here"
        with trio.move_on_after(_LISTEN_GRACE_S):
            result = await self._listen_results.receive()
            if isinstance(result, Listening):
                self.endpoint = result.endpoint
                return
            reason = result.reason
        hint = "is another program using it? give [swarm] another `listen`"
        raise ConfigError(f"cannot listen for peers on {config.listen} ({reason})", hint=hint)

    async def pump(self, bell: trio.socket.SocketType) -> NoReturn:
        """Take alerts out whenever `bell` rings, until cancelled."""
        while True:
            await bell.recv(4096)  # silence the bell before emptying the queue, or a ring is lost
            while alerts := self._session.pop_alerts():
                for event in [event for alert in alerts for event in translate(alert)]:
                    self.dispatch(event)
                await trio.lowlevel.checkpoint()

    async def report(self) -> NoReturn:
        """Have progress reported, until cancelled."""
        while True:
            self._session.post_torrent_updates(0)
            self._keep_connections()
            self._spare_work_for_many()
            for info_hash, leaving in list(self._leaving.items()):  # the event that says so may have been dropped
                if not leaving.handle.is_valid():
                    self.dispatch(TorrentRemoved(info_hash))
            await trio.sleep(_REPORT_EVERY_S)

    async def expect_verdicts(self) -> NoReturn:
        """Doubt what libtorrent says nothing of, until cancelled."""
        while True:
            await trio.sleep(VERDICT_WITHIN_S / 2)
            for torrent, _ in self._torrents.values():
                torrent.expect_verdicts()

    def close(self) -> None:
        """End the session; blocks until its last word to trackers and peers is out, a second or so at most."""
        self._torrents.clear()
        self._session.apply_settings(_PARTING)
        del self._session

    async def _add(self, params: lt.add_torrent_params, info_hash: InfoHash, helpers: Helpers) -> lt.torrent_handle:
        params.flags &= ~(lt.torrent_flags.auto_managed | lt.torrent_flags.paused)
        params.flags |= lt.torrent_flags.override_trackers | lt.torrent_flags.override_web_seeds
        params.trackers = list(helpers.trackers)
        params.tracker_tiers = list(range(len(helpers.trackers)))
        params.url_seeds = []
        params.http_seeds = []
        params.peers = await _addresses(helpers.peers)
        await self._until_removed(info_hash)
        try:
            return self._session.add_torrent(params)
        except RuntimeError as error:
            raise SwarmError(f"libtorrent refuses the torrent {info_hash.hex()[:16]} ({error})") from error

    def _keep_connections(self) -> None:
        """Have libtorrent keep connections that are of no use at the moment, while something is being joined.

        A torrent that has its info dict and does not fetch yet looks to seeds, and to others like it, as if it never
        would, and they part: all that have met, in the moment before they need one another. What nobody has the info
        dict of is joined for days, and counts only at first. What has begun counts for a moment more: libtorrent sets
        which files are wanted by its disk's thread, and until then nothing is.
        """
        now = trio.current_time()
        meets = any(each.has_info or now < each.began_s + MEET_WITHIN_S for each in self._joinings.values())
        meets |= now < self._meets_until_s
        if meets != self._keeps_all:
            self._keeps_all = meets
            self._session.apply_settings({"close_redundant_connections": not meets})

    def _move(self) -> None:
        """Something moves, or is about to: share `upload` often."""
        self._moves_until_s = trio.current_time() + RESTS_AFTER_S
        if self._rests:
            self._rests = False
            self._session.apply_settings({"tick_interval": TICK_MS})

    def _spare_work_for_many(self) -> None:
        """Do less for each of thousands of contents.

        Each announce in the local network costs a packet, and all together more than half of what a node at rest
        costs; who looks for one of them asks by itself, every minute. And whoever lacks one that is whole here comes
        by himself: to call on those whom a tracker names, oneself among them, took 5 % of a core without an end.
        """
        are_many = len(self._torrents) > FEW_TORRENTS
        if are_many != self._are_many:
            self._are_many = are_many
            every_s = RARE_LOCAL_ANNOUNCE_S if are_many else LOCAL_ANNOUNCE_S
            self._session.apply_settings(
                {"local_service_announce_interval": every_s, "seeding_outgoing_connections": not are_many}
            )
        if are_many and not self._rests and trio.current_time() >= self._moves_until_s:
            self._rests = True
            self._session.apply_settings({"tick_interval": RESTING_TICK_MS})

    def _let_go(self, info_hash: InfoHash, handle: lt.torrent_handle) -> None:
        self._leaving[info_hash] = _Leaving(handle)
        self._session.remove_torrent(handle)

    async def _until_removed(self, info_hash: InfoHash) -> None:
        if (leaving := self._leaving.get(info_hash)) is not None:
            await leaving.gone.wait()

    def _ask_again(self) -> None:
        for torrent, _ in self._torrents.values():
            torrent.ask_again()
        for joining in self._joinings.values():
            (joining.torrent or joining).ask_again()


@asynccontextmanager
async def open_swarm(
    config: SwarmConfig, *, rng: Random | None = None, tuning: Mapping[str, object] | None = None
) -> AsyncGenerator[Swarm, None]:
    """A session that listens for peers as `config` says; its tasks live as long as the context.

    They outlast a cancellation from around it: parts that are cancelled with it still hear answers while they save.
    `rng` gives the session's token, the system's randomness by default. `tuning` is settings of libtorrent in place of
    ours, for tests and measurements.

    Raises:
        ConfigError: it cannot listen there.
    """
    bell, rope = trio.socket.socketpair()
    with bell:
        rope_fd = rope.detach()
        token = new_token(rng or SystemRandom())
        named = {"handshake_client_version": client_name(token)}
        session = lt.session(lt.session_params(_settings(config) | named | dict(tuning or {})))
        session.set_alert_fd(rope_fd)
        swarm = Swarm(session, token)
        del session  # the swarm's is the last reference: letting go of it ends the session
        tasks = trio.CancelScope(shield=True)  # bounded: the context below ends it
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_attend, swarm, bell, tasks)
                try:
                    await swarm.listening(config)
                    yield swarm
                finally:
                    tasks.cancel()
        finally:
            with trio.CancelScope(shield=True):  # bounded by stop_tracker_timeout
                await trio.to_thread.run_sync(swarm.close)
            os.close(rope_fd)


def is_info(info: bytes, info_hash: InfoHash) -> bool:
    """Whether these bytes are the info dict that `info_hash` names."""
    return len(info) <= MAX_INFO and hashlib.sha256(info).digest() == info_hash


def read_info(info: bytes, info_hash: InfoHash) -> Layout:
    """The layout in an info dict that came from anywhere.

    Raises:
        ManifestError: it is not the one that `info_hash` names, or not what edgeshare publishes.
    """
    if not is_info(info, info_hash):
        raise ManifestError(f"the torrent's metadata is not that of {info_hash.hex()[:16]}…")
    try:
        decoded: Any = lt.bdecode(info)
    except RuntimeError as error:
        raise ManifestError(f"the torrent's metadata cannot be read ({error})") from error
    if not isinstance(decoded, dict):
        raise ManifestError("the torrent's metadata is not a dict")
    return read_layout(decoded)


def info_of(torrent: bytes) -> bytes:
    """The info dict in the bytes of a .torrent file.

    Raises:
        ManifestError: there is none.
    """
    try:
        decoded: Any = lt.bdecode(torrent) if len(torrent) <= 2 * MAX_INFO else None
    except RuntimeError as error:
        raise ManifestError(f"the .torrent file cannot be read ({error})") from error
    if not isinstance(decoded, dict) or not isinstance(decoded.get(b"info"), dict):
        raise ManifestError("these bytes are not a .torrent file")
    return bytes(lt.bencode(decoded[b"info"]))


async def _attend(swarm: Swarm, bell: trio.socket.SocketType, scope: trio.CancelScope) -> None:
    with scope:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(swarm.pump, bell)
            nursery.start_soon(swarm.report)
            nursery.start_soon(swarm.expect_verdicts)


def _resumed(resume: bytes | None, info_hash: InfoHash) -> lt.add_torrent_params | None:
    """What resume data says, when there is some and it is whole and of this content."""
    if resume is None:
        return None
    try:
        params = lt.read_resume_data(resume)
    except RuntimeError as error:
        logger.warning("%s: the state it was left in cannot be read (%s); checking", info_hash.hex()[:16], error)
        return None
    is_whole = params.ti is not None and InfoHash(params.info_hashes.v2.to_bytes()) == info_hash
    return params if is_whole else None


def _params(info: bytes, info_hash: InfoHash, torrent_file: bytes | None) -> lt.add_torrent_params:
    """What libtorrent needs to know of a content whose state it does not know.

    Raises:
        SwarmError: it does not take it.
    """
    try:
        return _with_layers(torrent_file) or lt.load_torrent_buffer(b"d4:info" + info + b"e")
    except RuntimeError as error:
        raise SwarmError(f"libtorrent refuses the torrent {info_hash.hex()[:16]} ({error})") from error


def _with_layers(torrent_file: bytes | None) -> lt.add_torrent_params | None:
    """What a .torrent says, when libtorrent takes it: its piece layers are held against the roots in the info dict."""
    if torrent_file is None:
        return None
    try:
        return lt.load_torrent_buffer(torrent_file)
    except RuntimeError as error:
        logger.warning("the origin's .torrent is used without its piece layers (%s)", error)
        return None


async def _addresses(peers: Iterable[Endpoint]) -> list[tuple[str, int]]:
    """Where `peers` are; one whose name nobody knows now is left out."""
    found: list[tuple[str, int]] = []
    for peer in peers:
        with trio.move_on_after(_NAMES_GRACE_S) as scope:
            try:
                for *_, address in await trio.socket.getaddrinfo(peer.host, peer.port, type=socket.SOCK_STREAM):
                    found.append((str(address[0]), int(address[1])))
            except (OSError, UnicodeError) as error:  # a name with an empty or an overlong part is no text to IDNA
                logger.warning("the peer %s is not found (%s)", peer, error)
        if scope.cancelled_caught:
            logger.warning("the peer %s is not found in time", peer)
    return found


def _settings(config: SwarmConfig) -> Any:  # the binding's stubs want literal keys
    return {
        **_SETTINGS,
        "listen_interfaces": str(config.listen),
        "enable_dht": config.dht,
        "enable_lsd": config.lsd,
        "upload_rate_limit": config.upload,
    }
