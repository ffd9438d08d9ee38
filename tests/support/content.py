"""Contents as the publisher makes them, and nodes of a swarm on this machine to pass them around."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from random import Random
from typing import Any

import attrs
import libtorrent as lt
import trio

from edgeshare.config import Endpoint, Rate, SwarmConfig
from edgeshare.hashtree import FileHasher
from edgeshare.layout import Layout, Piece
from edgeshare.manifest import InfoHash
from edgeshare.publish.torrent import assemble
from edgeshare.swarm.session import Helpers, Swarm, info_of, open_swarm, read_info
from edgeshare.swarm.torrent import Torrent

PIECE = 16 * 1024  # bytes; the smallest there is


@attrs.frozen
class Content:
    """A content and its torrent."""

    files: Mapping[str, bytes]
    info_hash: InfoHash
    torrent: bytes  # the .torrent file

    @property
    def info(self) -> bytes:
        return info_of(self.torrent)

    @property
    def layout(self) -> Layout:
        return read_info(self.info, self.info_hash)

    @property
    def size(self) -> int:
        return sum(map(len, self.files.values()))

    def write(self, folder: Path) -> Path:
        """Put the files below `folder`, as a node that has them all would hold them."""
        for path, body in self.files.items():
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_bytes(body)
        return folder

    def is_at(self, folder: Path) -> bool:
        """Whether `folder` holds these files, and nothing besides."""
        found = {str(path.relative_to(folder)) for path in folder.rglob("*") if not path.is_dir()}
        return found == set(self.files) and all((folder / path).read_bytes() == self.files[path] for path in found)

    def piece(self, piece: Piece) -> bytes:
        """The bytes of one piece, without padding."""
        entry, start, stop = self.layout.file_of(piece)
        return self.files[entry.path][start:stop]


def content(files: Mapping[str, bytes], *, name: str = "lesson", piece_length: int = PIECE) -> Content:
    """A content of `files`, in a folder called `name`."""
    hashed = []
    for path, body in files.items():
        hasher = FileHasher(piece_length)
        hasher.update(body)
        hashed.append(hasher.finish(path))
    torrent = assemble(name, piece_length, hashed)
    return Content(files, torrent.info_hash, torrent.encoded)


def noise(size: int, seed: int = 1) -> bytes:
    """`size` bytes that do not compress, the same for the same seed."""
    return Random(seed).randbytes(size)


@asynccontextmanager
async def node(address: str = "127.0.0.1", tuning: Mapping[str, object] | None = None) -> AsyncIterator[Swarm]:
    """A swarm that only knows the peers that it is told of."""
    config = SwarmConfig(listen=Endpoint(address, 0), upload=Rate(0), dht=False, lsd=False)
    async with open_swarm(config, tuning=tuning) as swarm:
        yield swarm


async def hold(swarm: Swarm, thing: Content, folder: Path, *peers: Endpoint, resume: bytes | None = None) -> Torrent:
    """Have `swarm` fetch and seed a content in `folder`; returns when what is there was checked."""
    helpers = Helpers(peers=peers)
    torrent = await swarm.add(thing.info_hash, thing.info, thing.layout, folder, helpers, resume=resume)
    await torrent.until(lambda: torrent.is_checked)
    return torrent


def at(swarm: Swarm) -> Endpoint:
    """Where a node's peers connect."""
    assert swarm.endpoint is not None
    return swarm.endpoint


class SlowSeed:
    """A peer that gives a content at `bytes_per_s`; another program's, as it were. Limits within a machine need it."""

    def __init__(self, thing: Content, folder: Path, bytes_per_s: int, address: str = "127.0.0.9") -> None:
        settings: Any = {"listen_interfaces": f"{address}:0", "allow_multiple_connections_per_ip": True}
        settings |= dict.fromkeys(("enable_dht", "enable_lsd", "enable_upnp", "enable_natpmp"), False)
        self._session = lt.session(lt.session_params(settings))
        params = lt.load_torrent_buffer(thing.torrent)
        params.save_path = str(thing.write(folder))
        params.renamed_files = {entry.index: entry.path for entry in thing.layout.files}
        params.flags &= ~(lt.torrent_flags.auto_managed | lt.torrent_flags.paused)
        params.flags |= lt.torrent_flags.seed_mode
        self._handle = self._session.add_torrent(params)
        self._handle.set_upload_limit(bytes_per_s)
        self.endpoint = Endpoint(address, self._session.listen_port())

    def faster(self) -> None:
        """Give without a limit from now on."""
        self._handle.set_upload_limit(0)

    async def stop(self) -> None:
        """Vanish, as when a machine is switched off in the middle."""
        self._handle.pause()
        await trio.to_thread.run_sync(self._end)

    def _end(self) -> None:
        del self._handle
        del self._session
