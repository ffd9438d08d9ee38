"""A spike with every node and every transfer: real `Ration`s, and links that share their rate as fluids do.

For sizes that the lab reaches (bench/spike.py), to hold the simulation against it, and up to a few thousand nodes, to
hold bench/epidemic.py against this. A node that is in the swarm sends to a few peers at once, each of which asks for
the rarest piece that it sees; the line is shared evenly; what a peer is told takes a moment. Nodes do with the ration
what edgeshare/origin/feed.py does: look, take what is due one portion after another, look again.
"""

from __future__ import annotations

import attrs
import numpy as np
from numpy.typing import NDArray

from bench.epidemic import RETRY_S
from bench.takers import TURN_S, Floats, Wire
from edgeshare.crowd import Gathering
from edgeshare.layout import Piece
from edgeshare.ration import Neighbour, Ration, Rules, Sight, Token

STEP_S = 0.05
_ALONE = 2 * 2**20  # bytes of one request where nobody else is there (edgeshare/origin/feed.py)


@attrs.frozen(kw_only=True)
class Crowd:
    """What is simulated; rates in bytes a second."""

    nodes: int
    degree: int | None = None  # connections of a node; None: everybody meets everybody
    size: int = 16 * 2**20
    piece: int = 64 * 2**10
    portion: int = 256 * 2**10  # of one request to the origin; its pieces have the same first in line
    down: float = 12.5e6
    up: float = 2.5e6
    origin: float = 25e6
    arrivals_s: float = 1.0  # all come within it
    asks_anew: bool = False
    has_guard: bool = True
    wire: Wire = attrs.field(factory=Wire)
    rules: Rules = attrs.field(factory=Rules)

    @property
    def pieces(self) -> int:
        return -(-self.size // self.piece)

    @property
    def heads(self) -> list[Piece]:
        """For each piece, the first of its portion."""
        together = self.portion // self.piece
        return [Piece(number // together * together) for number in range(self.pieces)]


@attrs.frozen(kw_only=True)
class Result:
    """What left the origin, and when each node had everything, in seconds since the first could come."""

    copies: float
    requests: int
    refused: int
    askers: int
    peak_bytes_per_s: float  # over one second
    placed_s: Floats
    finished_s: Floats  # sorted; infinite for who did not

    @property
    def last_s(self) -> float:
        return float(self.finished_s[-1])

    @property
    def p50_s(self) -> float:
        return float(np.median(self.finished_s))


@attrs.define(eq=False)
class _Fetch:
    """One request to the origin under way."""

    node: int
    pieces: list[Piece]  # still to come
    left: float  # bytes of the first of them
    starts_s: float


class Fluid:
    """One run."""

    def __init__(self, crowd: Crowd, rng: np.random.Generator) -> None:
        self.crowd = crowd
        self.rng = rng
        nodes, pieces = crowd.nodes, crowd.pieces
        self.joins_s = np.sort(rng.random(nodes)) * crowd.arrivals_s
        self.source, self.target = _edges(nodes, crowd.degree, rng)
        self.met_s = np.maximum(self.joins_s[self.source], self.joins_s[self.target]) + crowd.wire.meet_s
        self.of_target = (
            [np.flatnonzero(self.target == node) for node in range(nodes)] if nodes <= 200 else _by(self.target, nodes)
        )
        self.have = np.zeros((nodes, pieces), dtype=bool)
        self.told_s = np.full((nodes, pieces), np.inf)  # when peers know that a node has a piece
        self.left = np.full((nodes, pieces), float(crowd.piece))
        self.asked = np.zeros((nodes, pieces), dtype=bool)  # of some peer
        self.fetching = np.zeros((nodes, pieces), dtype=bool)  # from the origin
        self.piece_of = np.full(len(self.source), -1)  # what each edge carries
        self.gave = np.zeros(len(self.source))
        self.tokens = [Token(rng.bytes(8)) for _ in range(nodes)]
        heads = crowd.heads
        self.rations = [
            Ration(
                self.tokens[node],
                b"lesson",
                rng.bytes(16),
                portions=heads,
                began_s=float(self.joins_s[node]),
                rules=crowd.rules,
            )
            for node in range(nodes)
        ]
        self.gatherings = [Gathering(has_tracker=True, audience=None, joined_s=float(at)) for at in self.joins_s]
        self.look_s = self.joins_s + crowd.wire.meet_s / 2
        self.aside = np.full((nodes, pieces), -np.inf)  # until when a piece counts as given to somebody else
        self.given_s = np.full(pieces, -np.inf)  # of each portion, by its first piece
        self.fetches: list[_Fetch] = []
        self.busy = np.zeros(nodes, dtype=bool)
        self.placed_s = np.full(pieces, np.inf)
        self.requests = self.refused = 0
        self.askers: set[int] = set()
        self.sent: list[float] = []

    def run(self, limit_s: float = 300.0) -> Result:
        finished = np.full(self.crowd.nodes, np.inf)
        for step in range(int(limit_s / STEP_S)):
            now_s = step * STEP_S
            self._fetch(now_s)
            self._transfer(now_s)
            told = self.told_s <= now_s
            self._ask(now_s, told)
            self._look(now_s, told)
            finished[(finished == np.inf) & self.have.all(axis=1)] = now_s
            if (finished < np.inf).all():
                break
        window = round(1.0 / STEP_S)
        sums = np.convolve(np.array(self.sent), np.ones(window))
        return Result(
            copies=float(sum(self.sent) / self.crowd.size), requests=self.requests, refused=self.refused,
            askers=len(self.askers), peak_bytes_per_s=float(sums.max()), placed_s=self.placed_s,
            finished_s=np.sort(finished),
        )  # fmt: skip

    def _gain(self, node: int, piece: int, now_s: float) -> None:
        if not self.have[node, piece]:
            self.have[node, piece] = True
            self.told_s[node, piece] = now_s + self.crowd.wire.hop_s

    def _fetch(self, now_s: float) -> None:
        """Let the origin send for one step; its line is shared evenly."""
        crowd = self.crowd
        running = [each for each in self.fetches if each.starts_s <= now_s]
        total = 0.0
        if running:
            rate = min(crowd.origin / len(running), crowd.down) * crowd.wire.efficiency
            for each in running:
                amount = min(each.left + crowd.piece * (len(each.pieces) - 1), rate * STEP_S)
                each.left -= amount
                total += amount
                while each.pieces and each.left <= 0:
                    piece = each.pieces.pop(0)
                    each.left += crowd.piece
                    self._gain(each.node, piece, now_s)
                    self.placed_s[piece] = min(self.placed_s[piece], now_s)
                    self.fetching[each.node, piece] = False
                if not each.pieces:
                    self.busy[each.node] = False
                    self.look_s[each.node] = now_s
            self.fetches = [each for each in self.fetches if each.pieces]
        self.sent.append(total)

    def _transfer(self, now_s: float) -> None:
        """Let peers send for one step."""
        crowd = self.crowd
        active = np.flatnonzero(self.piece_of >= 0)
        if not len(active):
            return
        source, target, piece = self.source[active], self.target[active], self.piece_of[active]
        senders = np.bincount(source, minlength=crowd.nodes)
        rate = crowd.up * crowd.wire.efficiency / senders[source]
        coming = np.bincount(target, weights=rate, minlength=crowd.nodes)
        rate *= np.minimum(1.0, crowd.down * crowd.wire.efficiency / np.maximum(coming, 1.0))[target]
        np.subtract.at(self.left, (target, piece), rate * STEP_S)
        self.gave[active] += rate * STEP_S
        is_done = self.left[target, piece] <= 0
        for node, number in set(zip(target[is_done].tolist(), piece[is_done].tolist(), strict=True)):
            self._gain(node, number, now_s)
        self.piece_of[active[self.have[target, piece]]] = -1

    def _ask(self, now_s: float, told: NDArray[np.bool_]) -> None:
        """Give free slots to peers who lack something, each of which asks for the rarest piece that it sees."""
        crowd = self.crowd
        active: NDArray[np.bool_] = self.piece_of >= 0
        free: NDArray[np.int64] = crowd.wire.slots - np.bincount(self.source[active], minlength=crowd.nodes)
        gives = (free > 0) & np.asarray(told.any(axis=1))
        idle = np.flatnonzero(~active & (self.met_s <= now_s) & gives[self.source])
        if not len(idle):
            return
        fresh = ~self.have & ~self.asked
        offers = told[self.source[idle]] & fresh[self.target[idle]]
        is_late = ~np.asarray(offers.any(axis=1))
        # Nothing left that was not asked of somebody: peers then share what is under way (blocks of one piece).
        offers[is_late] = told[self.source[idle[is_late]]] & ~self.have[self.target[idle[is_late]]]
        wanted = np.flatnonzero(offers.any(axis=1))
        if not len(wanted):
            return
        order = wanted[self.rng.permutation(len(wanted))]
        order = order[np.argsort(self.source[idle[order]], kind="stable")]
        sources = self.source[idle[order]]
        starts = np.concatenate([[0], np.flatnonzero(np.diff(sources)) + 1])
        rank = np.arange(len(order)) - np.repeat(starts, np.diff(np.concatenate([starts, [len(order)]])))
        order = order[rank < free[sources]]
        edges, choice = idle[order], offers[order]
        common = told.sum(axis=0)
        score = np.where(choice, common[None, :] + self.rng.random(choice.shape), np.inf)
        pieces = score.argmin(axis=1)
        keys = self.target[edges] * crowd.pieces + pieces
        _, first = np.unique(keys, return_index=True)
        taken = np.zeros(len(edges), dtype=bool)
        taken[first] = True
        taken |= is_late[order]
        self.piece_of[edges[taken]] = pieces[taken]
        self.asked[self.target[edges[taken]], pieces[taken]] = True

    def _look(self, now_s: float, told: NDArray[np.bool_]) -> None:
        """Nodes whose turn it is look at the swarm, and ask the origin for what is due."""
        crowd, rng = self.crowd, self.rng
        counts = told.sum(axis=1)
        here = int((self.joins_s <= now_s).sum())
        for node in np.flatnonzero((self.look_s <= now_s) & ~self.busy).tolist():
            missing = ~self.have[node] & ~self.fetching[node] & (self.aside[node] <= now_s)
            if not missing.any():
                self.look_s[node] = now_s + 0.25 if not self.have[node].all() else np.inf
                continue
            edges = self.of_target[node]
            edges = edges[self.met_s[edges] <= now_s]
            peers = self.source[edges]
            available = told[peers].sum(axis=0)
            if available[missing].all():
                self.look_s[node] = now_s + 0.25
                continue
            neighbours = [
                Neighbour(key=peer, token=self.tokens[peer], pieces=count, gave=int(gave))
                for peer, count, gave in zip(
                    peers.tolist(), counts[peers].tolist(), self.gave[edges].tolist(), strict=True
                )
            ]
            heard = max(1, int((self.joins_s <= self.joins_s[node]).sum()))
            sight = Sight(
                missing={Piece(each) for each in np.flatnonzero(missing).tolist()},
                available=available.tolist(),
                neighbours=neighbours,
                crowd=self.gatherings[node].crowd(
                    connected=len(neighbours), known=len(neighbours) + 1, now_s=now_s,
                    tracker=max(here, heard) if crowd.asks_anew else heard,
                ),
                received=int(self.gave[edges].sum()),
            )  # fmt: skip
            decision = self.rations[node].look(sight, now_s)
            self.look_s[node] = now_s + decision.look_in_s
            for first in decision.take:
                if self.aside[node, first] > now_s:
                    continue  # refused just now, with the rest of its portion
                portion = self.rations[node].portion(first)
                run, head = [piece for piece in portion if piece in decision.take], portion[0]
                self.requests += 1
                self.askers.add(node)
                if crowd.has_guard and now_s - self.given_s[head] < TURN_S:
                    self.refused += 1
                    self.aside[node, run] = now_s + rng.uniform(*RETRY_S)
                    continue
                self.given_s[head] = now_s
                self.fetching[node, run] = True
                self.busy[node] = True
                self.fetches.append(_Fetch(node, run, float(crowd.piece), now_s + crowd.wire.fetch_s))
                break


def _edges(nodes: int, degree: int | None, rng: np.random.Generator) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Both directions of every connection, at random."""
    if degree is None or degree >= nodes - 1:
        source, target = np.nonzero(~np.eye(nodes, dtype=bool))
        return source, target
    stubs = rng.permutation(np.repeat(np.arange(nodes), degree))
    one, other = stubs[: len(stubs) // 2], stubs[len(stubs) // 2 : len(stubs) // 2 * 2]
    low, high = np.minimum(one, other), np.maximum(one, other)
    pairs = np.unique(np.stack([low, high], axis=1)[low != high], axis=0)
    return np.concatenate([pairs[:, 0], pairs[:, 1]]), np.concatenate([pairs[:, 1], pairs[:, 0]])


def _by(target: NDArray[np.int64], nodes: int) -> list[NDArray[np.int64]]:
    """The edges that lead to each node."""
    order = np.argsort(target, kind="stable")
    return np.split(order, np.searchsorted(target[order], np.arange(1, nodes)))
