"""A content whose info dict is still looked for, in the swarm already: peers meet before anybody knows what they share.

No file is made until somebody has looked at those that the info dict names. Then the same torrent goes on, with the
peers that it has met.
"""

from __future__ import annotations

import libtorrent as lt
import trio

from edgeshare.layout import Layout
from edgeshare.manifest import InfoHash
from edgeshare.ration import Neighbour
from edgeshare.swarm.events import (
    MetadataReceived,
    Progress,
    SwarmEvent,
    TorrentChecked,
    TorrentProgress,
    TrackerAnswered,
)
from edgeshare.swarm.neighbours import neighbours
from edgeshare.swarm.torrent import Torrent

_NORMAL = 4  # the priority that libtorrent gives to a file by itself


class Joining:
    """A torrent without its info dict; made by `Swarm.joining`."""

    def __init__(self, handle: lt.torrent_handle, info_hash: InfoHash) -> None:
        self.info_hash = info_hash
        self.handle = handle
        self.began_s = trio.current_time()
        self.progress: Progress | None = None
        self.torrent: Torrent | None = None  # what it has become, from `begin` on
        self.torrent_file: bytes | None = None  # where the info dict was handed in with it
        self._info: bytes | None = None
        self._is_checked = False
        self._changed = trio.lowlevel.ParkingLot()

    @property
    def has_info(self) -> bool:
        return self._info is not None

    async def metadata(self) -> bytes:
        """The info dict, from whoever gives it first: a peer (BEP 9), or `give`; waits until cancelled."""
        while self._info is None or not self._is_checked:
            await self._changed.park()
        return self._info

    def give(self, info: bytes, torrent_file: bytes | None = None) -> None:
        """Hand in the info dict, whose hash was checked, and the .torrent that it came in; peers get it from here."""
        self.torrent_file = torrent_file
        if self._info is None:
            self.handle.set_metadata(info)

    async def neighbours(self) -> tuple[Neighbour, ...]:
        """The peers that it has met."""
        return await trio.to_thread.run_sync(lambda: neighbours(self.handle, claims=False))

    def begin(self, layout: Layout) -> Torrent:
        """Fetch and seed it from now on; `metadata` came before. Files that are there already are not looked at.

        They get the names that `layout` gives them: libtorrent would cut long ones.
        """
        self.torrent = torrent = Torrent(self.handle, self.info_hash, layout)
        torrent.progress = self.progress
        for entry in layout.files:
            self.handle.rename_file(entry.index, entry.path)
        self.handle.unset_flags(lt.torrent_flags.default_dont_download)
        self.handle.prioritize_files([_NORMAL] * len(self.handle.get_file_priorities()))
        torrent.on(TorrentChecked(self.info_hash))
        return torrent

    def on(self, event: SwarmEvent) -> None:
        """Follow one event; called by the session for this torrent's."""
        match event:
            case MetadataReceived(info=info):
                self._info = info
            case TorrentChecked():
                self._is_checked = True
            case TrackerAnswered():
                self.handle.post_status(0)  # its count decides who asks the origin: not in a second, now
            case TorrentProgress(progress=progress):
                self.progress = progress
        self._changed.unpark_all()

    def ask_again(self) -> None:
        """Events were lost: look at what they may have been."""
        if (info := self.handle.torrent_file()) is not None:
            self._info = info.info_section()
            self._is_checked = True
        self._changed.unpark_all()
