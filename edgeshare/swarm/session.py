"""libtorrent's session as a trio object. Nothing outside this package imports libtorrent, publishing's maker aside.

The session rings a bell (a socket) when alerts wait; one task takes them out, translates them and hands the events to
the torrents they are about. libtorrent's own web seeds are never used, and trackers and peers come from us alone:
what a torrent's metadata says of them is dropped.
"""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any, NoReturn

import attrs
import libtorrent as lt
import trio

from edgeshare import __version__
from edgeshare.config import Endpoint, SwarmConfig
from edgeshare.errors import ConfigError, ManifestError
from edgeshare.layout import MAX_INFO, Layout, read_layout
from edgeshare.manifest import InfoHash
from edgeshare.swarm.events import (
    AlertsDropped,
    ListenFailed,
    Listening,
    MetadataReceived,
    SwarmEvent,
    TorrentRemoved,
    translate,
)
from edgeshare.swarm.torrent import SwarmError, Torrent

logger = logging.getLogger(__name__)

_LISTEN_GRACE_S = 5.0
_REPORT_EVERY_S = 1.0  # progress is for people: once a second is enough, and libtorrent sends only what changed

_CATEGORIES = (
    lt.alert_category.error | lt.alert_category.status | lt.alert_category.storage | lt.alert_category.piece_progress
)

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
    "local_service_announce_interval": 60,
    "min_announce_interval": 60,
    "unchoke_slots_limit": 16,
    "stop_tracker_timeout": 1,  # seconds: a stop must not wait for a dead tracker
}


@attrs.frozen(kw_only=True)
class Helpers:
    """Who may know peers of a content."""

    trackers: tuple[str, ...] = ()
    peers: tuple[Endpoint, ...] = ()


class Swarm:
    """The swarm; made by `open_swarm`."""

    def __init__(self, session: lt.session) -> None:
        self._session = session
        self._torrents: dict[InfoHash, Torrent] = {}
        self._removed: dict[InfoHash, trio.Event] = {}
        self._metadata: dict[InfoHash, trio.MemorySendChannel[bytes]] = {}
        self._heard, self._listen_results = trio.open_memory_channel[Listening | ListenFailed](64)

    async def metadata(self, info_hash: InfoHash, helpers: Helpers, scratch: Path) -> bytes:
        """The info dict of `info_hash`, from whichever peer gives it first (BEP 9); waits until cancelled.

        Nothing is written: the files that a stranger's metadata names are looked at before any is made.
        """
        await self._until_removed(info_hash)
        params = lt.add_torrent_params()
        params.info_hashes = lt.info_hash_t(lt.sha256_hash(info_hash))
        params.save_path = str(scratch)
        params.flags |= lt.torrent_flags.default_dont_download
        self._prepare(params, helpers)
        send, receive = trio.open_memory_channel[bytes](1)
        self._metadata[info_hash] = send
        try:
            self._session.async_add_torrent(params)
            return await receive.receive()
        finally:
            del self._metadata[info_hash]
            self._remove(info_hash)

    async def add(
        self,
        info_hash: InfoHash,
        info: bytes,
        layout: Layout,
        folder: Path,
        helpers: Helpers,
        *,
        resume: bytes | None = None,
    ) -> Torrent:
        """Fetch and seed the content that `info` describes, its files below `folder`.

        `resume` spares the check of what is already there.

        Raises:
            SwarmError: libtorrent does not take it.
        """
        await self._until_removed(info_hash)
        try:
            params = lt.read_resume_data(resume) if resume else None
            if params is None or params.ti is None or InfoHash(params.info_hashes.v2.to_bytes()) != info_hash:
                params = lt.load_torrent_buffer(b"d4:info" + info + b"e")
            params.save_path = str(folder)
            # Names are ours, from the checked layout: libtorrent would cut one of 255 bytes to 240.
            params.renamed_files = {entry.index: entry.path for entry in layout.files}
            self._prepare(params, helpers)
            handle = self._session.add_torrent(params)
        except RuntimeError as error:
            raise SwarmError(f"libtorrent refuses the torrent {info_hash.hex()[:16]} ({error})") from error
        torrent = Torrent(handle, info_hash, layout)
        self._torrents[info_hash] = torrent
        return torrent

    async def remove(self, info_hash: InfoHash) -> None:
        """Stop fetching and seeding a content; its files stay, and nothing writes to them any more."""
        self._torrents.pop(info_hash, None)
        self._remove(info_hash)
        await self._until_removed(info_hash)

    def upload_limit(self, bytes_per_s: int) -> None:
        """Let at most `bytes_per_s` leave towards the Internet; the local network is not limited. 0 is no limit."""
        self._session.apply_settings({"upload_rate_limit": bytes_per_s})

    def dispatch(self, event: SwarmEvent) -> None:
        """Hand an event to what it is about."""
        match event:
            case Listening() | ListenFailed():
                with suppress(trio.WouldBlock):
                    self._heard.send_nowait(event)
            case AlertsDropped():
                logger.warning("libtorrent's events came faster than they were taken; asking for the state again")
                for torrent in self._torrents.values():
                    torrent.ask_again()
            case MetadataReceived(info_hash=info_hash, info=info):
                if (waiting := self._metadata.get(info_hash)) is not None:
                    with suppress(trio.WouldBlock):
                        waiting.send_nowait(info)
            case _:
                if (known := self._torrents.get(event.info_hash)) is not None:
                    known.on(event)
                if isinstance(event, TorrentRemoved) and event.info_hash in self._removed:
                    self._removed.pop(event.info_hash).set()

    async def listening(self, config: SwarmConfig) -> None:
        """Wait until peers can connect.

        Raises:
            ConfigError: the port cannot be used.
        """
        with trio.move_on_after(_LISTEN_GRACE_S):
            result = await self._listen_results.receive()
            if isinstance(result, ListenFailed):
                hint = "is another program using it? give [swarm] another `listen`"
                raise ConfigError(f"cannot listen for peers on {config.listen} ({result.reason})", hint=hint)

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
            await trio.sleep(_REPORT_EVERY_S)

    def close(self) -> None:
        """End the session; blocks until its last word to the trackers is out, `stop_tracker_timeout` at most."""
        self._torrents.clear()
        del self._session

    def _prepare(self, params: lt.add_torrent_params, helpers: Helpers) -> None:
        params.flags &= ~(lt.torrent_flags.auto_managed | lt.torrent_flags.paused)
        params.flags |= lt.torrent_flags.override_trackers | lt.torrent_flags.override_web_seeds
        params.trackers = list(helpers.trackers)
        params.tracker_tiers = list(range(len(helpers.trackers)))
        params.url_seeds = []
        params.http_seeds = []
        params.peers = [(peer.host, peer.port) for peer in helpers.peers]

    def _remove(self, info_hash: InfoHash) -> None:
        handle = self._session.find_torrent(lt.sha1_hash(info_hash[:20]))
        if handle.is_valid() and info_hash not in self._removed:
            self._removed[info_hash] = trio.Event()
            self._session.remove_torrent(handle)

    async def _until_removed(self, info_hash: InfoHash) -> None:
        if (leaving := self._removed.get(info_hash)) is not None:
            await leaving.wait()


@asynccontextmanager
async def open_swarm(config: SwarmConfig) -> AsyncGenerator[Swarm, None]:
    """A session that listens for peers as `config` says; its tasks live as long as the context.

    Raises:
        ConfigError: it cannot listen there.
    """
    bell, rope = trio.socket.socketpair()
    with bell, rope:
        rope_fd = rope.detach()
        session = lt.session(lt.session_params(_settings(config)))
        session.set_alert_fd(rope_fd)
        swarm = Swarm(session)
        del session  # the swarm's is the last reference: letting go of it ends the session
        async with trio.open_nursery() as nursery:
            nursery.start_soon(swarm.pump, bell)
            nursery.start_soon(swarm.report)
            try:
                await swarm.listening(config)
                yield swarm
            finally:
                nursery.cancel_scope.cancel()
                with trio.CancelScope(shield=True):  # bounded by stop_tracker_timeout
                    await trio.to_thread.run_sync(swarm.close)
                os.close(rope_fd)


def read_info(info: bytes, info_hash: InfoHash) -> Layout:
    """The layout in an info dict that came from anywhere.

    Raises:
        ManifestError: it is not the one that `info_hash` names, or not what edgeshare publishes.
    """
    if len(info) > MAX_INFO or hashlib.sha256(info).digest() != info_hash:
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


def _settings(config: SwarmConfig) -> Any:  # the binding's stubs want literal keys
    return {
        **_SETTINGS,
        "listen_interfaces": str(config.listen),
        "enable_dht": config.dht,
        "enable_lsd": config.lsd,
        "upload_rate_limit": config.upload,
    }
