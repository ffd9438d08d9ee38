"""A morning that is simulated, and the few nodes of it that may go to the origin: real `Ration`s, one by one.

Who is not lucky enough for a piece yet, whatever it sees, is never made (`reach`); who is, but has others before it in
line, is only noted (`Lucky`) until its turn may come.
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Mapping, Sequence

import attrs
import numpy as np
from numpy.typing import NDArray

from edgeshare.layout import Piece
from edgeshare.ration import NEARLY_ALL, Neighbour, Ration, Rules, Sight, Token, news_s

Floats = NDArray[np.float64]

STEP_S = 0.25  # as long as a node that is lively waits between two looks
TURN_S = 5.0  # the origin's guard gives one range away once in that time (seeders/origin/nginx.conf)
POOL = 4096  # tokens that neighbours are drawn from
_BLOCKED_S = 0.5  # between two looks of who waits for its turn in line, and is not
_IDLE_S = 1.0  # the same for who cannot be due yet
_YOUNG_S = 2.0  # old: until then things change at every look


@attrs.frozen(kw_only=True)
class Kind:
    """A class of nodes; rates in bytes a second."""

    name: str
    share: float
    down: float
    up: float
    is_reachable: bool = True  # others can connect to it
    has_it: bool = False  # from the night


@attrs.frozen(kw_only=True)
class Wire:
    """What the protocol costs, the same for every size; bench/simulate.py stands what follows beside the lab."""

    efficiency: float = 0.9  # of a line, for pieces
    hop_s: float = 0.2  # HAVE, interest and request, before a piece's first byte
    slots: int = 5  # peers that a node sends to at once (edgeshare/swarm/session.py)
    meet_s: float = 0.9  # from the wish for a lesson until the tracker has answered and peers are connected
    fetch_s: float = 0.15  # a request to the origin, beside the bytes, until peers hear of the piece


@attrs.frozen(kw_only=True)
class Morning:
    """What is simulated."""

    nodes: int
    kinds: Sequence[Kind]
    arrivals: Sequence[float]  # the share that arrives in each step, from the first
    size: int = 16 * 2**20
    piece: int = 256 * 2**10
    degree: int = 50
    origin: float = 25e6  # bytes a second
    has_guard: bool = True
    asks_anew: bool = (
        False  # who is due asks the tracker for its count first; otherwise it has what it heard on joining
    )
    turn_s: float = TURN_S  # the guard's
    wire: Wire = attrs.field(factory=Wire)
    rules: Rules = attrs.field(factory=Rules)

    @property
    def pieces(self) -> int:
        return -(-self.size // self.piece)


class Tokens:
    """Tokens to draw neighbours from, and where the ration's hashes put them."""

    def __init__(self, pieces: int, rng: np.random.Generator, count: int = POOL) -> None:
        self.tokens = [Token(rng.bytes(8)) for _ in range(count)]
        self.spots = _Spots(pieces)
        self.table = {token: self.spots.of(token) for token in self.tokens}
        self.places = np.array([self.table[token][0] for token in self.tokens])
        self.tickets = np.array([self.table[token][1] for token in self.tokens], dtype=np.uint64)


class _Spots(Ration):
    """Says where tokens stand in line."""

    def __init__(self, pieces: int) -> None:
        super().__init__(Token(b""), b"lesson", bytes(16))
        self._luck = array("Q", bytes(8 * pieces))

    def of(self, token: Token) -> tuple[float, array[int]]:
        place = self._place(token)
        del self._places[token]
        return place


class _Drawn(Ration):
    """A node's ration; its luck was drawn, and its neighbours' places are known."""

    def __init__(self, token: Token, luck: Mapping[int, float], pool: Tokens, began_s: float, rules: Rules) -> None:
        super().__init__(token, b"lesson", bytes(16), began_s=began_s, rules=rules)
        self._drawn = luck
        self._pool = pool

    def _draw(self, piece: int) -> float:
        return self._drawn.get(piece, 1.0)

    def _place(self, token: Token) -> tuple[float, array[int]]:
        return self._pool.table[token]


@attrs.define(eq=False, kw_only=True)
class Lucky:
    """A node that is lucky enough for one piece; not a `Taker` before its turn in line may come."""

    piece: int
    luck: float
    kind: int
    began: int  # the step in which it came
    crowd: int  # nodes, as it believes
    around: NDArray[np.int64]  # its own token and its neighbours', in the pool
    of_kind: NDArray[np.int64]  # its neighbours' classes
    met_s: Floats  # when each neighbour is connected
    holds_from: Floats  # the share of its class that has the piece when each neighbour gets it


class Taker:
    """One node that may go to the origin for one piece, and what it sees."""

    def __init__(self, waiting: Lucky, pool: Tokens, rng: np.random.Generator, morning: Morning) -> None:
        self.piece = waiting.piece
        self.kind = waiting.kind
        self.crowd = waiting.crowd
        self.luck = waiting.luck
        self.retry_s = 0.0
        self._rules = morning.rules
        self._looked_s = -math.inf
        self._seen = (-1, -1)
        self._of_kind = waiting.of_kind
        self._met_s = waiting.met_s
        self._holds_from = rng.random((len(waiting.met_s), morning.pieces))
        self._holds_from[:, self.piece] = waiting.holds_from
        self._ever = np.zeros(self._holds_from.shape, dtype=bool)
        self._names = [pool.tokens[each] for each in waiting.around[1:].tolist()]
        self._began_s = waiting.began * STEP_S
        token = pool.tokens[int(waiting.around[0])]
        self.ration = _Drawn(token, {self.piece: self.luck}, pool, self._began_s, morning.rules)

    def looks(self, share: Floats, now_s: float, here: float) -> bool | None:
        """Whether it takes the piece now; None when it sees somebody who has it, and is out of it for good.

        While nothing can be due it looks now and then, and only if something has changed, so that it knows who stands
        still.
        """
        self.crowd = max(self.crowd, int(here))
        met = self._met_s <= now_s
        held = self._holds_from < share[self._of_kind]
        if held[met, self.piece].any():
            return None
        self._ever |= held
        seen = int(met.sum()), int(self._ever[met].sum())
        is_possible = self.luck < may_reach(now_s - self._began_s, self.crowd, seen[0], self._rules)
        since_s = now_s - self._looked_s
        if since_s < (
            _BLOCKED_S if is_possible and now_s - self._began_s > _YOUNG_S else STEP_S if is_possible else _IDLE_S
        ):
            return False
        if not is_possible and seen == self._seen:
            return False
        self._looked_s, self._seen = now_s, seen
        return self.piece in self.ration.look(self.sight(share, now_s), now_s).take

    def sight(self, share: Floats, now_s: float) -> Sight:
        """What it sees of the swarm, when of each class such shares have the pieces."""
        self._ever |= self._holds_from < share[self._of_kind]
        met = np.flatnonzero(self._met_s <= now_s)
        held = self._ever[met]
        neighbours = [
            Neighbour(key=number, token=self._names[number], pieces=count, gave=count)
            for number, count in zip(met.tolist(), held.sum(axis=1).tolist(), strict=True)
        ]
        return Sight(
            missing={Piece(self.piece)},  # it has no luck with others, and the ration decides on each by itself
            available=held.sum(axis=0).tolist(),
            neighbours=neighbours,
            crowd=max(self.crowd, len(neighbours) + 1),
            received=int(now_s * 1e6),
        )


def doubling_s(crowds: Floats, degree: int, rules: Rules) -> Floats:
    """`news_s` for each of these crowds, asked once for each that differs."""
    values, back = np.unique(np.maximum(crowds / (degree + 1), 1.0), return_inverse=True)
    return np.array([news_s(each, rules) for each in values.tolist()])[back]


def reach(ages_s: Floats, crowds: Floats, degree: int, rules: Rules, slow_s: Floats | None = None) -> Floats:
    """The luck up to which a node may be due, whatever it sees: at least what `Ration` allows.

    `slow_s` is `doubling_s` of the same, when it is known already.
    """
    hoods = crowds / (degree + 1)
    slow_s = doubling_s(crowds, degree, rules) if slow_s is None else slow_s
    share = np.where(hoods <= NEARLY_ALL, 1.0, rules.start * 2.0 ** np.minimum(60.0, ages_s / slow_s) / hoods)
    news = slow_s if degree else rules.double_s
    tail = np.where(
        ages_s >= rules.tail_s,
        rules.start * 2.0 ** np.minimum(60.0, np.maximum(0.0, ages_s - rules.tail_s) / news) / crowds,
        0.0,
    )
    ready = (ages_s >= min(rules.hold_s, STEP_S)) | ((crowds <= 1) & (ages_s >= 0))
    most: Floats = np.where(ready, np.minimum(1.0, np.maximum(share, tail)), 0.0)
    return most


def may_reach(age_s: float, crowd: float, neighbours: int, rules: Rules) -> float:
    """The same for one node: arrays of one element take thirty times as long."""
    if crowd <= 1:
        return 1.0  # alone, it waits for nobody
    if age_s < min(rules.hold_s, STEP_S):
        return 0.0
    hoods = crowd / (neighbours + 1)
    share, slow_s = 1.0, news_s(hoods, rules)
    if hoods > NEARLY_ALL:
        share = rules.start * 2.0 ** min(60.0, age_s / slow_s) / hoods
    if age_s >= rules.tail_s:
        slow_s = slow_s if neighbours else rules.double_s  # alone, it waits for no news
        share = max(share, rules.start * 2.0 ** min(60.0, (age_s - rules.tail_s) / slow_s) / crowd)
    return min(1.0, share)
