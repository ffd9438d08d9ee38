"""A country at eight o'clock: how pieces spread among up to millions of nodes, and who goes to the origin for them.

What everybody does is a mean field: for each piece, and each class of node, how many have it. What few do is drawn one
by one: who is lucky enough to be due is a real `Ration`, with neighbours that hold what the mean field says, and the
origin gives it the piece or not. A node's luck and neighbours are drawn when they first matter; nodes that could not be
due yet, whatever they see, are never made. That is exact for luck, which is even and independent (`Ration`: a hash).

The graph is random: what one neighbour has is independent of what another has. Pieces spread by generations: a node
sends to as many as have a slot at once, so they all have it late, together. `bench/fluid.py` has each node and each
transfer, and says how far that is from the truth.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import attrs
import numpy as np
from numpy.typing import NDArray

from bench.takers import POOL, STEP_S, Floats, Kind, Lucky, Morning, Taker, Tokens, doubling_s, may_reach, reach

RETRY_S = (5.0, 7.5)  # until a node that heard "taken" asks again, if nobody has brought the piece
_NEVER = 1e-9  # the chance to see nobody with a piece from which on nobody is looked for who does


@attrs.frozen(kw_only=True)
class Outcome:
    """What happened, as seen from the origin, and when nodes were ready."""

    copies: float
    requests: int  # for content, refusals included
    refused: int
    askers: int  # nodes that asked the origin for content
    origin_bytes_per_s: Floats  # by second
    placed_s: Floats  # for each piece, when the first of the crowd had it
    waits_s: Floats  # quantiles of how long nodes took from joining to having it all, in per cent steps
    done_s: float  # when 99.9 % of all had it
    arrived: Floats  # nodes, by step
    finished: Floats  # nodes, by step


class Country:
    """One run."""

    def __init__(self, morning: Morning, rng: np.random.Generator) -> None:
        self.morning = morning
        self.rng = rng
        self._waiting: dict[int, list[Lucky]] = {}
        self.pool = Tokens(morning.pieces, rng)
        kinds, nodes = morning.kinds, morning.nodes
        self.shares = np.array([kind.share for kind in kinds])
        self.mixing = mixing(kinds, morning.degree)
        self.degrees = np.maximum(1, np.round(self.mixing.sum(axis=1)).astype(int))
        self.up = np.array([kind.up for kind in kinds]) * morning.wire.efficiency / morning.piece
        self.down = np.array([kind.down for kind in kinds]) * morning.wire.efficiency / morning.piece
        has_it = np.array([kind.has_it for kind in kinds])
        shape = (len(kinds), morning.pieces)
        self.there = np.where(has_it, self.shares * nodes, 0.0)
        self.have = np.repeat(self.there[:, None], morning.pieces, axis=1)
        self.coming = np.zeros((2, *shape))  # in two stages: a slot's transfers end late, and about together
        self._stay = np.ones(shape)  # seconds that a piece under way takes
        self.seekers = np.where(has_it, 0.0, self.shares)
        self.seekers = self.seekers / max(self.seekers.sum(), 1e-12)
        self.has_it = has_it
        with np.errstate(divide="ignore"):
            over_slot = np.minimum(morning.wire.slots, self.degrees) / np.maximum(self.up, 1e-9)
        self.stay_s = morning.wire.hop_s + over_slot

    def run(self, limit_s: float = 1800.0) -> Outcome:
        morning, rng = self.morning, self.rng
        wire, steps = morning.wire, int(limit_s / STEP_S)
        comers = morning.nodes * (1.0 - self.shares[self.has_it].sum())
        cohorts = _Cohorts(morning, comers)
        takers: list[Taker] = []
        history: list[Floats] = []
        given_s = np.full(morning.pieces, -math.inf)
        line_s = 0.0
        on_way: list[tuple[float, int, int]] = []
        sent = np.zeros(int(limit_s) + 60)
        placed = np.full(morning.pieces, math.inf if not self.has_it.any() else 0.0)
        requests = refused = askers = 0
        through = [np.zeros(len(morning.kinds))]
        arrived: list[float] = []
        for step in range(steps):
            now_s = step * STEP_S
            come = morning.arrivals[step] * comers if step < len(morning.arrivals) else 0.0
            arrived.append(come)
            self.there = self.there + come * self.seekers
            for ready_s, kind, piece in [each for each in on_way if each[0] <= now_s]:
                self.have[kind, piece] += 1.0
                placed[piece] = min(placed[piece], ready_s)
            on_way = [each for each in on_way if each[0] > now_s]
            share = self._share()
            history.append(share)
            takers += self._new_takers(cohorts, step, share, history)
            still = []
            rng.shuffle(takers)
            for taker in takers:
                if now_s < taker.retry_s:
                    still.append(taker)
                    continue
                decided = taker.looks(share, now_s, cohorts.here(step))
                if decided is None:
                    continue
                if decided:
                    requests += 1
                    if morning.has_guard and now_s - given_s[taker.piece] < morning.turn_s:
                        refused += 1
                        askers += not taker.retry_s
                        taker.retry_s = now_s + rng.uniform(*RETRY_S)
                    else:
                        askers += not taker.retry_s
                        given_s[taker.piece] = now_s
                        line_s = max(line_s, now_s)
                        line_s += morning.piece / morning.origin
                        _pour(sent, line_s - morning.piece / morning.origin, line_s, morning.piece)
                        slowest = morning.piece / (self.down[taker.kind] * morning.piece)
                        ready_s = max(line_s, now_s + slowest) + wire.fetch_s
                        on_way.append((ready_s, taker.kind, taker.piece))
                        continue
                still.append(taker)
            takers = still
            through.append(through[-1] + self._spread())
            if step >= len(morning.arrivals) and (self.have >= self.there[:, None] * 0.9995).all():
                break
        return self._outcome(requests, refused, askers, sent, placed, np.array(through), np.array(arrived), line_s)

    def _share(self) -> Floats:
        share: Floats = np.minimum(1.0, self.have / np.maximum(self.there, 1.0)[:, None])
        return share

    def _unseen(self, share: Floats) -> Floats:
        """For each class of node and piece, the chance that none of its neighbours has it."""
        with np.errstate(divide="ignore"):
            unseen: Floats = np.exp(self.mixing @ np.log(np.maximum(1.0 - share, 1e-300)))
        return unseen

    def _new_takers(self, cohorts: _Cohorts, step: int, share: Floats, history: Sequence[Floats]) -> list[Taker]:
        """Nodes that become lucky enough in this step, see nobody with the piece, and stand near the front."""
        unseen = self._unseen(share)
        for kind in np.flatnonzero(self.seekers > 0):
            sizes, crowds, begans, lucks, before = cohorts.due(step, int(kind), int(self.degrees[kind]))
            if not len(sizes) or not (unseen[kind] > _NEVER).any():
                continue
            expected = (sizes * self.seekers[kind] * (lucks - before))[:, None] * unseen[kind][None, :]
            counts = self.rng.poisson(expected)
            for cohort, piece in np.argwhere(counts).tolist():
                for _ in range(counts[cohort, piece]):
                    luck = float(self.rng.uniform(before[cohort], lucks[cohort]))
                    waiting = self._lucky(int(kind), piece, luck, int(begans[cohort]), int(crowds[cohort]), cohorts)
                    self._waiting.setdefault(self._turn(waiting, step), []).append(waiting)
        found: list[Taker] = []
        for waiting in self._waiting.pop(step, ()):
            is_met = waiting.met_s <= step * STEP_S
            if (waiting.holds_from < share[waiting.of_kind, waiting.piece])[is_met].any():
                continue
            turn = self._turn(waiting, step)
            if turn > step:
                self._waiting.setdefault(turn, []).append(waiting)
                continue
            taker = Taker(waiting, self.pool, self.rng, self.morning)
            past = _past(waiting.began, step)
            if all(taker.looks(history[at], at * STEP_S, cohorts.here(at)) is not None for at in past):
                found.append(taker)
        return found

    def _lucky(self, kind: int, piece: int, luck: float, began: int, crowd: int, cohorts: _Cohorts) -> Lucky:
        """A node none of whose neighbours has the piece now."""
        rng, degree = self.rng, int(self.degrees[kind])
        weights = self.mixing[kind] * (1.0 - np.minimum(self._share()[:, piece], 1.0 - 1e-9))
        of_kind = rng.choice(len(weights), degree, p=weights / weights.sum())
        have = self._share()[of_kind, piece]
        return Lucky(
            piece=piece, luck=luck, kind=kind, began=began, crowd=crowd, of_kind=of_kind,
            around=rng.integers(0, POOL, degree + 1), met_s=cohorts.met_s(began, degree, rng),
            holds_from=have + (1.0 - have) * rng.random(degree),
        )  # fmt: skip

    def _turn(self, waiting: Lucky, step: int) -> int:
        """The step in which its turn in line comes at the earliest: if all before it stand still."""
        rules, now_s = self.morning.rules, step * STEP_S
        is_met = waiting.met_s <= now_s
        around = np.concatenate([waiting.around[:1], waiting.around[1:][is_met]])
        began_s, turn_s = waiting.began * STEP_S, math.inf
        if is_met.all() or waiting.luck < may_reach(now_s - began_s, waiting.crowd, len(around) - 1, rules):
            turn_s = began_s + min(self._patience_s(around, waiting.piece), rules.tail_s)
        if turn_s > now_s and not is_met.all():
            turn_s = min(turn_s, float(waiting.met_s[~is_met].min()))
        return max(step, math.ceil(turn_s / STEP_S))

    def _patience_s(self, around: NDArray[np.int64], piece: int) -> float:
        """How long the first of `around` waits for those who are before it in line."""
        rules = self.morning.rules
        places = self.pool.places[around]
        size = max(rules.front_least, int(rules.front * len(around)))
        if int((places < places[0]).sum()) >= size:
            return math.inf
        front = around[np.argsort(places, kind="stable")[:size]]
        before = int((self.pool.tickets[front, piece] < self.pool.tickets[around[0], piece]).sum())
        return rules.turn_s * (2.0 ** min(before, 8) - 1.0)

    def _spread(self) -> Floats:
        """Let pieces travel for one step; pieces that came in, for each node of a class that lacks some."""
        there = np.maximum(self.there, 1e-9)[:, None]
        share = self._share()
        lack = np.maximum(0.0, self.there[:, None] - self.have - self.coming.sum(axis=0))
        wanted = self.mixing @ (lack / there)  # neighbours of one node of each class that lack the piece
        rare = 1.0 / (self.have.sum(axis=0) + 1.0)
        weight = share * wanted * rare
        useful = share * -np.expm1(-wanted)
        active = -np.expm1(np.log1p(-np.minimum(useful, 1 - 1e-12)).sum(axis=1))
        total = weight.sum(axis=1, keepdims=True)
        sends = (self.there * self.up * active)[:, None] * np.divide(
            weight, total, out=np.zeros_like(weight), where=total > 0
        )
        begun = np.zeros_like(self.have)
        slow = np.zeros_like(self.have)
        for giver in range(len(self.up)):
            to = self.mixing[giver][:, None] * lack / there
            part = sends[giver][None, :] * np.divide(to, wanted[giver], out=np.zeros_like(to), where=wanted[giver] > 0)
            begun += part
            slow += part * self.stay_s[giver]
        unfinished = np.maximum(lack.max(axis=1), 1e-9)
        most = unfinished * self.down
        rate = begun.sum(axis=1)
        scale = np.minimum(1.0, most / np.maximum(rate, 1e-12))[:, None]
        stay_s = np.divide(slow, begun, out=np.full_like(slow, 1.0), where=begun > 0)
        begun = np.minimum(begun * scale * STEP_S, lack)
        self._stay = np.where(begun > 0, stay_s, self._stay)
        passing = -np.expm1(-2 * STEP_S / self._stay)
        arrive = self.coming[1] * passing
        half_way = (self.coming[0] + begun / 2) * passing
        self.coming[1] += half_way - arrive
        self.coming[0] = np.maximum(0.0, self.coming[0] + begun - half_way)
        self.have = np.minimum(self.have + arrive, self.there[:, None])
        whole = arrive.sum(axis=1)
        short = np.maximum(0.0, self.there[:, None] - self.have + arrive).max(axis=1)
        each: Floats = np.divide(whole, short, out=np.zeros_like(whole), where=short > 0.5)
        return each

    def _outcome(
        self, requests: int, refused: int, askers: int, sent: Floats, placed: Floats, through: Floats,
        arrived: Floats, line_s: float,
    ) -> Outcome:  # fmt: skip
        """Who has what when follows from how many pieces an unfinished node of its class got in each step."""
        morning = self.morning
        finished = np.zeros(len(through) + 1)
        waits: list[Floats] = []
        weights: list[Floats] = []
        for kind in np.flatnonzero(self.seekers > 0):
            got = through[:, kind]
            goal = got[: len(arrived)] + morning.pieces * 0.995
            ends = np.searchsorted(got, goal)
            at = np.minimum(ends, len(through) - 1)
            count = arrived * self.seekers[kind]
            np.add.at(finished, at, count)
            waits.append(np.asarray((at - np.arange(len(arrived)) - 0.5) * STEP_S, dtype=np.float64))
            weights.append(count)
        all_waits, all_weights = np.concatenate(waits), np.concatenate(weights)
        order = np.argsort(all_waits)
        cumulative = np.cumsum(all_weights[order]) / all_weights.sum()
        marks = np.searchsorted(cumulative, np.arange(1, 100) / 100)
        by_step = np.cumsum(finished) / max(finished.sum(), 1e-9)
        return Outcome(
            copies=float(sent.sum() / morning.size),
            requests=requests,
            refused=refused,
            askers=askers,
            origin_bytes_per_s=sent[: int(line_s) + 1],
            placed_s=placed,
            waits_s=all_waits[order][np.minimum(marks, len(order) - 1)],
            done_s=float(np.searchsorted(by_step, 0.999) * STEP_S),
            arrived=arrived,
            finished=finished,
        )


class _Cohorts:
    """Who joined when, and how many each believes to come: the tracker's count on joining, and then an old one."""

    def __init__(self, morning: Morning, comers: float) -> None:
        self.rules = morning.rules
        degree = morning.degree
        ends = np.cumsum(np.asarray(morning.arrivals)) * comers
        ladder = np.unique(np.concatenate([ends, np.geomspace(degree, max(comers, degree + 1), 60), [1.0]]))
        ladder = ladder[(ladder > 0) & (ladder <= comers + 1e-6)]
        starts = np.concatenate([[0.0], ladder[:-1]])
        self.sizes = ladder - starts
        middle = (starts + ladder) / 2
        self.began = np.minimum(np.searchsorted(ends, middle), len(ends) - 1)
        holders = morning.nodes - comers
        rank = holders + middle
        heard = np.minimum(np.maximum(rank, 1.0), morning.nodes)
        self.crowds = heard
        self._here = ends + holders if morning.asks_anew else None
        self._ends, self._meet_s = ends, morning.wire.meet_s
        self._slow_s: dict[int, Floats] = {}
        self._lucks: dict[int, Floats] = {}  # of each class, up to where it was drawn

    def here(self, step: int) -> float:
        """What the tracker says to who asks now; 0 when nobody does."""
        return float(self._here[min(step, len(self._here) - 1)]) if self._here is not None else 0.0

    def met_s(self, began: int, count: int, rng: np.random.Generator) -> Floats:
        """When so many neighbours are connected: they were there, or come in the second after."""
        among = min(began + round(1 / STEP_S), len(self._ends) - 1)
        most = max(self._ends[among], min(count + 1.0, self._ends[-1]))
        come = np.searchsorted(self._ends, rng.random(count) * most * (1 - 1e-9))
        met: Floats = np.maximum(come, began) * STEP_S + self._meet_s
        return met

    def due(self, step: int, kind: int, degree: int) -> tuple[Floats, Floats, NDArray[np.int64], Floats, Floats]:
        """Cohorts some of whom become lucky enough in this step: size, crowd, when they began, and the luck's span."""
        ages = (step - self.began) * STEP_S
        crowds = np.maximum(self.crowds, self.here(step))
        if self._here is not None or kind not in self._slow_s:  # a count that stands still is worked out once
            self._slow_s[kind] = doubling_s(crowds, degree, self.rules)
        lucks = reach(ages, crowds, degree, self.rules, self._slow_s[kind])
        before = self._lucks.get(kind, np.zeros(len(lucks)))
        self._lucks[kind] = np.maximum(lucks, before)
        is_due = lucks > before
        return self.sizes[is_due], crowds[is_due], self.began[is_due], lucks[is_due], before[is_due]


def mixing(kinds: Sequence[Kind], degree: int) -> Floats:
    """Neighbours of each class that a node of each class has: nodes that nobody can connect to have none like them.

    Whom others can connect to fills its connections with whoever comes.
    """
    shares = np.array([kind.share for kind in kinds])
    is_open = np.array([kind.is_reachable for kind in kinds])
    meets = is_open[:, None] | is_open[None, :]
    matrix: Floats = np.where(meets, degree * shares[None, :], 0.0)
    return matrix


def _past(began: int, step: int) -> list[int]:
    """When a node has looked before, as far as it matters: the first look, and ever more often since."""
    looks = {began}
    gap = 1
    while step - gap > began:
        looks.add(step - gap)
        gap *= 2
    looks.discard(step)
    return sorted(looks)


def _pour(by_second: Floats, start_s: float, stop_s: float, amount: float) -> None:
    """Spread bytes evenly over the seconds in which they were sent."""
    first, last = int(start_s), int(stop_s)
    span = max(stop_s - start_s, 1e-9)
    for second in range(first, min(last + 1, len(by_second))):
        part = min(stop_s, second + 1) - max(start_s, second)
        by_second[second] += amount * max(0.0, part) / span
