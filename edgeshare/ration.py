"""Which missing pieces this node may take from the origin now: pure, no clock, no I/O.

Every node draws once for each piece: a hash over a secret of its own and the piece gives its ticket, from 0 to 1. A
piece that nobody has is due here when the ticket is below a share that starts at one taker for the whole crowd and
grows while the piece stays missing. So the crowd as a whole takes about one copy, scattered; whoever is drawn stays
drawn; and a node that is alone has the whole share at once.
"""

from __future__ import annotations

import enum
import hashlib
from collections.abc import Mapping

import attrs
from attrs.validators import ge

from edgeshare.layout import Piece

COPIES = 0.5  # takers expected in the first second; the share grows from there
GROWTH = 1.5  # a second: fifty seekers without news let everybody take after ten seconds
READER_PATIENCE_S = 2.0  # how long a reader waits for peers that say they have the piece


class Reason(enum.Enum):
    """Why bytes were taken from the origin."""

    NOBODY_HAS_IT = "nobody_has_it"
    READER_WAITS = "reader_waits"
    ALONE = "alone"


@attrs.frozen(kw_only=True)
class Shortage:
    """What one node lacks of one lesson, at one instant."""

    missing: frozenset[Piece]  # not here and not on their way from the origin
    held_by_peers: frozenset[Piece]  # of those, the pieces that a connected peer has
    awaited: Mapping[Piece, float]  # pieces that a reader waits for, and for how many seconds
    peers: int = attrs.field(validator=ge(0))  # connected
    seekers: int = attrs.field(validator=ge(1))  # nodes believed to be after the same lesson, this one included
    age_s: float = attrs.field(validator=ge(0.0))  # how long there have been pieces that nobody has


def ticket(secret: bytes, piece: Piece) -> float:
    """This node's draw for `piece`, from 0 up to 1; the same at every call."""
    digest = hashlib.blake2b(piece.to_bytes(8, "big"), key=secret, digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64


def due(shortage: Shortage, secret: bytes) -> dict[Piece, Reason]:
    """The pieces that this node takes now, each with the reason.

    A piece that a connected peer has is left to the peers, unless a reader has waited for it too long.
    """
    taken: dict[Piece, Reason] = {}
    lacking = shortage.missing - shortage.held_by_peers
    if shortage.peers == 0:
        share, reason = 1.0, Reason.ALONE
        if shortage.seekers > 1:  # others exist, and we do not see them yet: they may take it
            share = _share(shortage)
    else:
        share, reason = _share(shortage), Reason.NOBODY_HAS_IT
    for piece in lacking:
        if ticket(secret, piece) < share:
            taken[piece] = reason
    for piece, waited_s in shortage.awaited.items():
        if piece in shortage.missing and (piece in lacking or waited_s >= READER_PATIENCE_S):
            taken[piece] = Reason.READER_WAITS
    return taken


def _share(shortage: Shortage) -> float:
    exponent = min(shortage.age_s, 60.0)  # by then it is 1 for any crowd there can be
    grown: float = GROWTH**exponent
    return min(1.0, COPIES / shortage.seekers * grown)
