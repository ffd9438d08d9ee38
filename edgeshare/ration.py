"""Which missing pieces this node may take from the origin now: pure, no clock, no I/O.

Every node draws once for each piece: a hash over a secret of its own and the piece gives its ticket, from 0 to 1. A
piece that nobody has is due here when the ticket is below a share that starts at one taker for the whole crowd and
grows while the piece stays missing. So the crowd as a whole takes about one copy, scattered; whoever is drawn stays
drawn; and a node that is alone has the whole share at once.

Peers who have a piece are waited for, however slow they are. Only when nothing at all has come from them for a while
does what they have count as missing: a peer that promises and never sends must not keep a lesson from a node.
"""

from __future__ import annotations

import enum
import functools
import hashlib
from collections.abc import Mapping

import attrs
from attrs.validators import ge

from edgeshare.layout import Piece

COPIES = 0.5  # takers expected at once; the share grows from there
GROWTH = 2.0  # a second: fifty seekers without news let everybody take after seven seconds
READER_PATIENCE_S = 2.0  # how long a reader waits for peers that say they have the piece
PEERS_PATIENCE_S = 60.0  # how long nothing may come from peers that have pieces; a choked peer gets a turn within 30 s


class Reason(enum.Enum):
    """Why bytes were taken from the origin."""

    NOBODY_HAS_IT = "nobody_has_it"
    READER_WAITS = "reader_waits"
    ALONE = "alone"
    PEERS_STALL = "peers_stall"


@attrs.frozen(kw_only=True)
class Shortage:
    """What one node lacks of one lesson, at one instant."""

    missing: frozenset[Piece]  # not here and not on their way from the origin
    held_by_peers: frozenset[Piece]  # of those, the pieces that a connected peer has
    awaited: Mapping[Piece, float]  # pieces that a reader waits for, and for how many seconds
    peers: int = attrs.field(validator=ge(0))  # connected
    seekers: int = attrs.field(validator=ge(1))  # nodes believed to be after the same lesson, this one included
    age_s: float = attrs.field(validator=ge(0.0))  # how long there have been pieces that nobody has
    stall_s: float = attrs.field(default=0.0, validator=ge(0.0))  # how long peers who have pieces sent nothing


@functools.lru_cache(maxsize=1 << 16)  # asked again at every look, for every piece that is missing
def ticket(secret: bytes, piece: Piece) -> float:
    """This node's draw for `piece`, from 0 up to 1; the same at every call."""
    digest = hashlib.blake2b(piece.to_bytes(8, "big"), key=secret, digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64


def due(shortage: Shortage, secret: bytes) -> dict[Piece, Reason]:
    """The pieces that this node takes now, each with the reason.

    A piece that a connected peer has is left to the peers, unless a reader has waited for it too long or the peers have
    sent nothing for too long.
    """
    lacking = shortage.missing - shortage.held_by_peers
    share = _share(shortage.seekers, shortage.age_s)
    if shortage.peers == 0 and shortage.seekers == 1:
        share = 1.0
    reason = Reason.NOBODY_HAS_IT if shortage.peers else Reason.ALONE
    taken = {piece: reason for piece in lacking if ticket(secret, piece) < share}
    if shortage.stall_s >= PEERS_PATIENCE_S:
        share = _share(shortage.seekers, shortage.stall_s - PEERS_PATIENCE_S)
        stalled = (piece for piece in shortage.missing & shortage.held_by_peers if ticket(secret, piece) < share)
        taken |= dict.fromkeys(stalled, Reason.PEERS_STALL)
    for piece, waited_s in shortage.awaited.items():
        if piece in shortage.missing and (piece in lacking or waited_s >= READER_PATIENCE_S):
            taken[piece] = Reason.READER_WAITS
    return taken


def _share(seekers: int, age_s: float) -> float:
    exponent = min(age_s, 60.0)  # by then it is 1 for any crowd there can be
    grown: float = GROWTH**exponent
    return min(1.0, COPIES / seekers * grown)
