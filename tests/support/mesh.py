"""Rations that see one another, and pieces that travel between their nodes: a swarm in memory, with a clock of its own.

A node has one request to the origin at a time, and asks for a whole portion where all of it is due, as the feed does.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from random import Random

import attrs

from edgeshare.crowd import Gathering
from edgeshare.layout import Piece
from edgeshare.ration import Neighbour, Ration, Rules, Sight, Token

LESSON = b"a lesson"
RULES = Rules()
TICK_S = 0.05


def token(number: int) -> Token:
    return Token(number.to_bytes(8, "big"))


def ration(
    number: int, *, portions: Sequence[Piece] | None = None, lesson: bytes = LESSON, rules: Rules = RULES
) -> Ration:
    """A node's ration, begun at 0 s; the same luck for the same number."""
    draws = Random(number).randbytes(16)
    return Ration(token(number), lesson, draws, portions=portions, began_s=0.0, rules=rules)


def front_of(nodes: int) -> int:
    """How many of so many nodes may go to the origin."""
    return max(RULES.front_least, int(RULES.front * nodes))


def peer(
    number: int, *, claims: AbstractSet[Piece] = frozenset(), gave: int = 0, is_other: bool = False, tells: bool = True
) -> Neighbour:
    """A neighbour: by its number of ours, or another client; `tells` which pieces it claims."""
    return Neighbour(
        key=number,
        token=None if is_other else token(number),
        pieces=len(claims),
        gave=gave,
        claims=frozenset(claims) if tells else None,
    )


def sight(
    pieces: int,
    *neighbours: Neighbour,
    missing: AbstractSet[Piece] | None = None,
    crowd: int | None = None,
    received: int = 0,
    awaited: dict[Piece, float] | None = None,
) -> Sight:
    """What a node sees that lacks everything, by default, among `neighbours` and nobody else."""
    available = [sum(Piece(n) in (each.claims or ()) for each in neighbours) for n in range(pieces)]
    return Sight(
        missing=frozenset(map(Piece, range(pieces))) if missing is None else missing,
        available=available,
        neighbours=neighbours,
        crowd=1 + len(neighbours) if crowd is None else crowd,
        received=received,
        awaited=awaited or {},
    )


@attrs.define(eq=False)
class _Node:
    number: int
    token: Token
    joins_s: float
    ration: Ration
    gathering: Gathering
    have: set[Piece] = attrs.field(factory=set)
    had_from_peers: int = 0
    fetching: list[Piece] = attrs.field(factory=list)
    busy_until_s: float = 0.0
    looks_at_s: float = 0.0
    leaves_s: float = float("inf")


class Mesh:
    """Nodes that join at `joins_s`; whoever meets stays connected. `copies` is how often the lesson left the origin."""

    def __init__(
        self,
        joins_s: Sequence[float],
        *,
        pieces: int = 32,
        seed: int = 1,
        fetch_s: float = 0.1,
        travel_s: float = 0.4,
        meet_s: float = 0.3,
        portions: Sequence[Piece] | None = None,
    ) -> None:
        """A piece takes `fetch_s` from the origin, then `travel_s` to all others; any two meet within `meet_s`."""
        self.now_s = 0.0
        self.taken: Counter[Piece] = Counter()
        self.takers: set[int] = set()
        self.requests = 0
        self._rng = Random(seed)
        self._pieces = pieces
        self._fetch_s, self._travel_s = fetch_s, travel_s
        self._seen_first_s: dict[Piece, float] = {}  # by anybody but its taker's own disk
        self._nodes = [self._join(number, at_s, portions) for number, at_s in enumerate(joins_s)]
        self._met_s = {
            (one.number, other.number): max(one.joins_s, other.joins_s) + self._rng.uniform(0, meet_s)
            for one in self._nodes
            for other in self._nodes
            if one.number < other.number
        }

    @property
    def copies(self) -> float:
        return self.taken.total() / self._pieces

    @property
    def are_finished(self) -> bool:
        """Whether everybody who is still there has everything."""
        return all(len(node.have) == self._pieces for node in self._here(self.now_s))

    def leave(self, number: int, at_s: float) -> None:
        """Have a node vanish, and with it what it has and fetches."""
        self._nodes[number].leaves_s = at_s

    def busiest(self) -> int:
        """The node that fetches from the origin at the moment, the first of them."""
        return next(node.number for node in self._nodes if node.fetching)

    def run(self, until_s: float) -> None:
        """Go on until everybody has everything, or until `until_s`."""
        last_s = max(node.joins_s for node in self._nodes)
        while self.now_s < until_s and not (self.now_s > last_s and self.are_finished):
            here = self._here(self.now_s)
            for node in here:
                self._travel(node)
                self._end_fetch(node)
            for node in here:
                self._look(node)
            self.now_s += TICK_S

    def _join(self, number: int, at_s: float, portions: Sequence[Piece] | None) -> _Node:
        name = Token(self._rng.randbytes(8))
        return _Node(
            number,
            name,
            at_s,
            Ration(name, LESSON, self._rng.randbytes(16), portions=portions, began_s=at_s),
            Gathering(has_tracker=True, audience=None, joined_s=at_s),
            looks_at_s=at_s,
        )

    def _here(self, now_s: float) -> list[_Node]:
        return [node for node in self._nodes if node.joins_s <= now_s < node.leaves_s]

    def _connected(self, node: _Node) -> list[_Node]:
        return [
            each
            for each in self._here(self.now_s)
            if each is not node
            and self._met_s[min(node.number, each.number), max(node.number, each.number)] <= self.now_s
        ]

    def _travel(self, node: _Node) -> None:
        for piece, first_s in self._seen_first_s.items():
            is_due = piece not in node.have and self.now_s >= max(first_s, node.joins_s) + self._travel_s
            if is_due and any(piece in each.have for each in self._connected(node)):
                node.have.add(piece)
                node.had_from_peers += 1

    def _end_fetch(self, node: _Node) -> None:
        if node.fetching and self.now_s >= node.busy_until_s:
            for piece in node.fetching:
                node.have.add(piece)
                self._seen_first_s.setdefault(piece, self.now_s)
            node.fetching = []
            node.looks_at_s = self.now_s

    def _look(self, node: _Node) -> None:
        if node.fetching or self.now_s < node.looks_at_s or len(node.have) == self._pieces:
            return
        met = self._connected(node)
        have = Counter(piece for each in met for piece in each.have)
        # the tracker's answer takes a tenth of a second, and counts those who have asked it by then
        counted = len(self._here(node.joins_s + 0.1)) if self.now_s >= node.joins_s + 0.1 else None
        seen = Sight(
            missing=frozenset(map(Piece, range(self._pieces))) - node.have,
            available=[have[Piece(n)] for n in range(self._pieces)],
            neighbours=[Neighbour(key=each.number, token=each.token, pieces=len(each.have), gave=1) for each in met],
            crowd=node.gathering.crowd(connected=len(met), known=0, tracker=counted, now_s=self.now_s),
            received=node.had_from_peers,
        )
        decision = node.ration.look(seen, self.now_s)
        node.looks_at_s = self.now_s + decision.look_in_s
        for first in decision.take:
            whole = list(node.ration.portion(first))
            node.fetching = whole if decision.take.keys() >= set(whole) else [first]
            node.busy_until_s = self.now_s + self._fetch_s * len(node.fetching)
            self.taken.update(node.fetching)
            self.takers.add(node.number)
            self.requests += 1
            break
