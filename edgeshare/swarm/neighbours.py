"""Who is connected, and what they say of themselves.

A node's token stands in the name that it gives itself in the extension handshake (BEP 10, `v`). It is drawn anew for
each session, so it follows nobody from one day to the next.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from random import Random

import libtorrent as lt

from edgeshare import __version__
from edgeshare.crowd import Gathering
from edgeshare.layout import Piece
from edgeshare.ration import Neighbour, Token
from edgeshare.swarm.events import Progress
from edgeshare.swarm.outside import PeerTraffic

_NAME = re.compile(rb"edgeshare/[0-9A-Za-z.+-]{1,32} ([0-9a-f]{16})")
_NOT_YET = lt.peer_info.connecting | lt.peer_info.handshake


def new_token(rng: Random) -> Token:
    """A token for one session."""
    return Token(rng.randbytes(8))


def client_name(token: Token) -> str:
    """What a node with this token calls itself towards its peers."""
    return f"edgeshare/{__version__} {token.hex()}"


def token_in(client: bytes) -> Token | None:
    """The token in the name of a peer's client; None when it is another client."""
    match = _NAME.fullmatch(client)
    return Token(bytes.fromhex(match[1].decode())) if match else None


def crowd_of(gathering: Gathering, met: Collection[Neighbour], progress: Progress | None, now_s: float) -> int:
    """Nodes believed to be after what the swarm of `progress` shares, this one included."""
    return gathering.crowd(
        connected=len(met),
        known=progress.known if progress else 0,
        tracker=progress.tracker if progress else None,
        now_s=now_s,
    )


def neighbours(handle: lt.torrent_handle, *, claims: bool) -> tuple[Neighbour, ...]:
    """The connected peers of a torrent, with the pieces that each claims if `claims` is asked for.

    Blocks until libtorrent's network thread answers; RuntimeError when the torrent was removed.
    """
    return tuple(
        Neighbour(
            key=peer.ip,
            token=token_in(peer.client),
            pieces=peer.num_pieces,
            gave=peer.total_download,
            came=not int(peer.flags) & int(lt.peer_info.local_connection),
            claims=frozenset(Piece(n) for n, has in enumerate(peer.pieces) if has) if claims else None,
        )
        for peer in handle.get_peer_info()
        if not int(peer.flags) & int(_NOT_YET)
    )


def peer_traffic(handle: lt.torrent_handle) -> tuple[PeerTraffic, ...]:
    """What each connection of a torrent has carried; as `neighbours`."""
    return tuple(PeerTraffic(peer.ip, peer.total_upload, peer.total_download) for peer in handle.get_peer_info())
