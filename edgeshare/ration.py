"""Which missing pieces this node may take from the origin now, and when to look again: pure, no clock, no I/O.

Nobody coordinates. Every node has a token, which its peers see; hashes over tokens and pieces say, in every node
alike, who goes to the origin and for what:

- The front of a swarm is the part of it that may open a connection to the origin. For each piece one node of the front
  is first in line (rendezvous hashing: Thaler and Ravishankar, 1998). Where everybody sees everybody, that is one
  taker for each piece, at once, and without any news of who fetches what.
- A node sees only its neighbours. In a crowd much larger than that each neighbourhood has a first in line of its own,
  so it also draws: its share starts at less than one taker in the whole crowd and doubles while nobody has the piece.
- Who is next in line takes over when those before it stand still, each after twice the patience of the one before.
- Peers who have a piece are waited for, however slow they are. A peer that claims pieces and gave nothing while
  nobody here got any is doubted: its claims do not count until it gives something.
- A reader's piece goes before the rest. In a crowd a reader draws as well, as there every node has one.
"""

from __future__ import annotations

import enum
import hashlib
import math
import sys
from array import array
from collections.abc import Hashable, Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import NewType

import attrs
from attrs.validators import ge

from edgeshare.layout import Piece

NEARLY_ALL = 1.5  # neighbourhoods, up to which a node takes its neighbours for the whole crowd

Token = NewType("Token", bytes)  # what a node is called in the hashes, as long as its session lasts


class Reason(enum.Enum):
    """Why bytes were taken from the origin."""

    NOBODY_HAS_IT = "nobody_has_it"
    READER_WAITS = "reader_waits"
    ALONE = "alone"
    PEERS_STALL = "peers_stall"


@attrs.frozen(kw_only=True)
class Rules:
    """The ration's numbers; times in seconds. What each costs or gains is measured in docs/performance.md."""

    front: float = 0.45  # of a swarm: half a connection to the origin for each node is the most that we allow ourselves
    front_least: int = 8  # nodes: a small swarm waits for what leaves too few of them by their own slow lines
    hold_s: float = 0.4  # how long a node is first in line before it takes: as long as peers take to meet
    lead_s: float = 2.5  # what each node waits for the one before it to have the metadata, and to be found again
    gather_s: float = 2.0  # how long it waits at most while its neighbours still become many more
    seeds_s: float = 4.0  # how long it looks for the seeds that a tracker counts before it takes what nobody it met has
    growth: float = 1.25  # times as many neighbours within `hold_s` are many more
    turn_s: float = 10.0  # until the next in line takes over from one that stands still; doubles with each
    start: float = 0.3  # takers in the whole crowd to begin with, where one node sees only a part of it
    double_s: float = 2.0  # until the share of such a node is twice as large; longer in a larger crowd
    tail_s: float = 20.0  # from then on everybody draws, in the front or not
    reader_double_s: float = 0.5  # the same for a piece that a reader waits for
    reader_patience_s: float = 2.0  # how long a reader waits for peers that have the piece
    doubt_s: float = 4.0  # how long a peer may claim pieces and give nothing while nobody here gets any
    stall_s: float = 60.0  # how long nothing may come from peers that gave before; a choked one has a turn in 30 s


@attrs.frozen(kw_only=True)
class Neighbour:
    """A connected peer."""

    key: Hashable  # names this connection
    token: Token | None  # None when it is another client than edgeshare
    pieces: int  # how many it says to have
    gave: int  # bytes, to this node
    came: bool = False  # it connected to this node, which can be reached then
    claims: AbstractSet[Piece] | None = None  # which ones; looked up only when the ration asks for it


@attrs.frozen(kw_only=True)
class Sight:
    """What one node sees of one lesson's swarm, at one instant."""

    missing: AbstractSet[Piece]  # not here and not on their way from the origin
    available: Sequence[int]  # for each piece of the lesson, how many connected peers say to have it
    neighbours: Sequence[Neighbour]
    crowd: int = attrs.field(validator=ge(1))  # nodes believed to be after the same lesson, this one included
    received: int  # bytes that came from peers so far
    seeds: int = 0  # nodes that have everything, by the tracker's count
    awaited: Mapping[Piece, float] = attrs.field(factory=dict)  # what readers wait for, and for how many seconds


@attrs.frozen(kw_only=True)
class Decision:
    """What to do now."""

    take: Mapping[Piece, Reason]  # in the order to take them
    look_in_s: float  # when to look again, if nothing happens before
    wants_claims: bool  # the next sight should say which pieces each neighbour claims


class Ration:
    """One node's ration of one lesson: it remembers what it saw, and for how long.

    `lesson` keeps the places in line of different lessons apart; `draws` is this node's luck, 16 bytes or more. Pieces
    with the same entry in `portions` have the same first in line, so that it can ask for them in one request. `began_s`
    is when the node joined the swarm, if that was before the first look.
    """

    def __init__(
        self,
        token: Token,
        lesson: bytes,
        draws: bytes,
        *,
        portions: Sequence[Piece] | None = None,
        began_s: float | None = None,
        rules: Rules = Rules(),
    ) -> None:
        self.rules = rules
        self._token = token
        self._lesson = lesson
        self._draws = draws
        self._portions = portions
        self._together: dict[Piece, list[Piece]] = {}
        for number, head in enumerate(portions or ()):
            self._together.setdefault(head, []).append(Piece(number))
        self._places: dict[Token, tuple[float, array[int]]] = {}
        self._luck: array[int] = array("Q")
        self._began_s = began_s
        self._moved: dict[Hashable, tuple[int, float]] = {}  # pieces of each neighbour, and since when
        self._gained_s = -math.inf  # when a neighbour got a piece last
        self._settled_s = -math.inf  # since when no neighbour has gone
        self._met_s = -math.inf  # when there was a neighbour last, before there were pieces to look at
        self._met = 1  # neighbours and this node, when they last became many more
        self._grown_s = -math.inf
        self._lacking: dict[Piece, float] = {}  # nobody has it, and since when
        self._has_looked = False
        self._in_front: list[tuple[Token, Hashable]] = [(token, None)]
        self._befores: dict[Piece, list[Hashable]] = {}  # who comes before this node, by the first piece of a portion
        self._received = -1
        self._received_s = 0.0
        self._doubted: set[Hashable] = set()

    def look(self, sight: Sight, now_s: float) -> Decision:
        """The pieces that this node takes now, each with the reason, and when to look again."""
        self._follow(sight, now_s)
        lacking, stalled = self._lacking, self._stalled(sight, now_s)
        take = self._for_readers(sight, now_s)
        if lacking:
            self._line_up(sight)
            reason = Reason.NOBODY_HAS_IT if sight.neighbours else Reason.ALONE
            for piece, since_s in lacking.items():
                if piece not in take and self._is_due(piece, since_s, sight, now_s):
                    take[piece] = Reason.PEERS_STALL if sight.available[piece] else reason
        take |= dict.fromkeys((piece for piece in stalled if piece not in take), Reason.PEERS_STALL)
        order = sorted(take, key=lambda piece: self._order(piece, take[piece], sight))
        return Decision(
            take={piece: take[piece] for piece in order},
            look_in_s=0.25 if self._is_lively(sight, now_s) else 1.0,
            wants_claims=bool(self._doubted) or self._is_starved(now_s),
        )

    def portion(self, piece: Piece) -> Sequence[Piece]:
        """The pieces that have the same first in line as `piece`, which is one of them."""
        return self._together[self._head(piece)] if self._portions else (piece,)

    def leads(self, neighbours: Sequence[Neighbour], crowd: int, now_s: float) -> bool:
        """Whether this node asks the origin for what comes before all pieces, the lesson's metadata."""
        age_s = now_s - self._begun_s(now_s)
        mine = self._place(self._token)[0]
        before = sum(1 for each in neighbours if each.token and self._place(each.token)[0] < mine)
        if neighbours:
            self._met_s = now_s
        elif now_s < self._met_s + 2 * self.rules.lead_s:
            return False  # who was here may have gone to fetch it
        elif crowd == 1:
            return True
        return age_s >= self.rules.hold_s + self.rules.lead_s * before and self._draw(Piece(0)) < self._share(
            len(neighbours), crowd, age_s
        )

    def _begun_s(self, now_s: float) -> float:
        """When this node joined the swarm: with the first question, if nothing else was said."""
        if self._began_s is None:
            self._began_s = now_s
        return self._began_s

    def _follow(self, sight: Sight, now_s: float) -> None:
        began_s = self._begun_s(now_s)
        if len(self._luck) != len(sight.available):
            self._luck = _hashes(self._draws, len(sight.available))
        known = {each.key for each in sight.neighbours}
        if self._moved.keys() - known:
            self._settled_s = now_s
            self._moved = {key: moved for key, moved in self._moved.items() if key in known}
            self._doubted &= known
        if 1 + len(known) >= self._met * self.rules.growth:
            self._met, self._grown_s = 1 + len(known), now_s
        for each in sight.neighbours:
            before = self._moved.get(each.key)
            if before and before[0] < each.pieces:
                self._gained_s = now_s
            if not before or before[0] != each.pieces:
                self._moved[each.key] = each.pieces, now_s
        tokens = {each.token for each in sight.neighbours if each.token}
        for gone in [token for token in self._places if token not in tokens and token != self._token]:
            del self._places[gone]
        is_claimed = any(sight.available[piece] for piece in sight.missing)
        if sight.received != self._received or not is_claimed:
            self._received, self._received_s = sight.received, now_s
        if self._is_starved(now_s):
            self._doubted |= {each.key for each in sight.neighbours if each.pieces}
        self._doubted -= {each.key for each in sight.neighbours if each.gave}
        doubts = [each.claims for each in sight.neighbours if each.key in self._doubted and each.claims]
        self._lacking = {
            piece: self._lacking.get(piece, now_s if self._has_looked else began_s)
            for piece in sorted(sight.missing)
            if sight.available[piece] <= sum(piece in claims for claims in doubts)
        }
        self._has_looked = True

    def _is_due(self, piece: Piece, since_s: float, sight: Sight, now_s: float) -> bool:
        """Whether it is this node's turn to take a piece that nobody has."""
        rules, age_s = self.rules, now_s - since_s
        if not sight.neighbours and sight.crowd == 1:
            return True
        if sight.seeds and not self._doubted and now_s < self._begun_s(now_s) + rules.seeds_s:
            return False
        if age_s >= rules.tail_s:
            # Where nobody is met there is no news to wait for.
            hoods = sight.crowd / (len(sight.neighbours) + 1) if sight.neighbours else 1.0
            tail = rules.start * _power(age_s - rules.tail_s, news_s(hoods, rules)) / sight.crowd
            if self._draw(piece) < tail:
                return True
        before = self._before(piece)
        if before is None:
            return False
        if before:
            moved_s = max(self._moved[key][1] for key in before)
            is_turn = now_s - max(moved_s, since_s) >= rules.turn_s * (2.0 ** min(len(before), 8) - 1)
        else:
            grown_s = self._grown_s if now_s < self._begun_s(now_s) + rules.gather_s else -math.inf
            is_turn = now_s - max(since_s, self._settled_s, grown_s) >= rules.hold_s
        return is_turn and self._draw(piece) < self._share(len(sight.neighbours), sight.crowd, age_s)

    def _for_readers(self, sight: Sight, now_s: float) -> dict[Piece, Reason]:
        rules = self.rules
        found = {}
        for piece, waited_s in sight.awaited.items():
            if piece in sight.missing:
                since_s = waited_s if piece in self._lacking else waited_s - rules.reader_patience_s
                if since_s >= 0 and self._draw(piece) * sight.crowd < _power(since_s, rules.reader_double_s):
                    found[piece] = Reason.READER_WAITS
        return found

    def _stalled(self, sight: Sight, now_s: float) -> Iterable[Piece]:
        """What peers have who have sent nothing for very long."""
        over_s = now_s - self._received_s - self.rules.stall_s
        if over_s < 0:
            return ()
        share = self.rules.start * _power(over_s, self.rules.double_s) / sight.crowd
        return [piece for piece in sight.missing if piece not in self._lacking and self._draw(piece) < share]

    def _is_starved(self, now_s: float) -> bool:
        """Whether peers who claim pieces give them to nobody here; a few who have it cannot send to all at once."""
        return now_s - max(self._received_s, self._gained_s) >= self.rules.doubt_s

    def _is_lively(self, sight: Sight, now_s: float) -> bool:
        """Whether something may be due soon: a reader's piece, or one that this node is first in line for.

        What is due to others first can wait for a second: a look costs, as it asks for every peer.
        """
        if not sight.awaited.keys().isdisjoint(sight.missing):
            return True
        return any(now_s - since_s < 10.0 and self._before(piece) == [] for piece, since_s in self._lacking.items())

    def _share(self, neighbours: int, crowd: int, age_s: float) -> float:
        """The chance of one who is first in line in its neighbourhood; the crowd has several such."""
        hoods = crowd / (neighbours + 1)
        if hoods <= NEARLY_ALL:
            return 1.0
        return min(1.0, self.rules.start * _power(age_s, news_s(hoods, self.rules)) / hoods)

    def _line_up(self, sight: Sight) -> None:
        front = self._front(sight)
        if front != self._in_front:
            self._in_front = front
            self._befores = {}

    def _before(self, piece: Piece) -> list[Hashable] | None:
        """Those of the front who come before this node in the line for a piece; None when it is not in the front."""
        if self._in_front[-1][0] != self._token:
            return None
        head = self._head(piece)
        before = self._befores.get(head)
        if before is None:
            mine = self._place(self._token)[1][head]
            before = [key for token, key in self._in_front[:-1] if self._place(token)[1][head] < mine]
            self._befores[head] = before
        return before

    def _front(self, sight: Sight) -> list[tuple[Token, Hashable]]:
        """Those of the swarm who may go to the origin; this node is the last of the list when it is one of them."""
        known = [(self._place(each.token)[0], each.token, each.key) for each in sight.neighbours if each.token]
        mine = self._place(self._token)[0]
        size = max(1, int(self.rules.front * (len(known) + 1)))
        if sight.crowd <= NEARLY_ALL * (len(sight.neighbours) + 1):  # not those few who can be reached behind NAT
            size = max(self.rules.front_least, size)
        nearest = sorted(known, key=lambda each: each[0])[:size]
        others = [(token, key) for place, token, key in nearest if place < mine]
        if len(others) == size:
            return [(token, key) for _, token, key in nearest]
        return [(token, key) for _, token, key in nearest[: size - 1]] + [(self._token, None)]

    def _place(self, token: Token) -> tuple[float, array[int]]:
        """Where a node stands in the swarm of this lesson (0 is the foremost, 1 the last), and its tickets."""
        place = self._places.get(token)
        if place is None or len(place[1]) < len(self._luck):
            hashes = _hashes(token + self._lesson, 1 + len(self._luck))
            place = self._places[token] = hashes[0] / 2**64, hashes[1:]
        return place

    def _head(self, piece: Piece) -> Piece:
        """The first piece of a piece's portion, by which the hashes know all of it."""
        return self._portions[piece] if self._portions else piece

    def _draw(self, piece: Piece) -> float:
        """This node's luck with a piece and its portion, from 0 up to 1; the same at every call."""
        return self._luck[self._head(piece)] / 2**64 if self._luck else _hashes(self._draws, 1)[0] / 2**64

    def _order(self, piece: Piece, reason: Reason, sight: Sight) -> tuple[float, float]:
        """Readers first, in the order of their wishes; the rest scattered, each node in an order of its own."""
        if reason is Reason.READER_WAITS:
            return (-sight.awaited[piece] - 1.0, piece)
        return (0.0, self._draw(piece))


def news_s(hoods: float, rules: Rules) -> float:
    """Seconds until the share of one who is first in line doubles, in a crowd of so many neighbourhoods.

    A piece travels from neighbourhood to neighbourhood, so news of it takes as many steps as the logarithm of their
    number, and for as long as news travels the share must not have grown by much.
    """
    return rules.double_s * max(1.0, math.log(max(1.0, hoods)))


def _power(age_s: float, double_s: float) -> float:
    grown: float = 2.0 ** min(60.0, age_s / double_s)
    return grown


def _hashes(seed: bytes, count: int) -> array[int]:
    """`count` numbers below 2^64 that look random and follow from `seed` (SHAKE-128, FIPS 202)."""
    numbers = array("Q")
    numbers.frombytes(hashlib.shake_128(seed).digest(8 * count))
    if sys.byteorder == "big":
        numbers.byteswap()
    return numbers
