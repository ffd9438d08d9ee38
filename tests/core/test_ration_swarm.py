"""What many rations do together: in one look with the same views, and over time while pieces travel."""

from __future__ import annotations

from collections import Counter
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeshare.layout import Piece
from edgeshare.ration import Neighbour, Ration, Rules
from tests.support.mesh import LESSON, RULES, Mesh, front_of, peer, ration, sight, token

COUNT = 24
PIECES = frozenset(map(Piece, range(COUNT)))
STEP_S = 0.25


class Still:
    """Nodes that all see one another, lack everything, and do nothing but look: who would take what, and when."""

    def __init__(self, numbers: list[int], *others: Neighbour, rules: Rules = RULES) -> None:
        self.rations = {number: ration(number, rules=rules) for number in numbers}
        self.others = others
        self.now_s = 0.0

    def take(self, now_s: float) -> dict[int, set[Piece]]:
        """What each takes at `now_s`; everybody has looked from time to time until then."""
        while self.now_s + STEP_S < now_s:
            self._look()
            self.now_s += STEP_S
        self.now_s = now_s
        return self._look()

    def leave(self, number: int) -> None:
        del self.rations[number]

    def _look(self) -> dict[int, set[Piece]]:
        found = {}
        for number, each in self.rations.items():
            met = [peer(other) for other in self.rations if other != number]
            found[number] = set(each.look(sight(COUNT, *met, *self.others), self.now_s).take)
        return found


def takers(taken: dict[int, set[Piece]], piece: Piece) -> set[int]:
    return {number for number, each in taken.items() if piece in each}


numbers = st.lists(st.integers(0, 10**6), min_size=2, max_size=60, unique=True)


@settings(max_examples=25, deadline=None)
@given(numbers)
def test_where_everybody_sees_everybody_one_of_the_front_takes_each_piece(nodes: list[int]) -> None:
    still = Still(nodes)
    assert not any(still.take(RULES.hold_s - 0.01).values())
    taken = still.take(RULES.hold_s)
    assert Counter(piece for each in taken.values() for piece in each) == dict.fromkeys(PIECES, 1)
    assert sum(map(bool, taken.values())) <= front_of(len(nodes))


@settings(max_examples=25, deadline=None)
@given(numbers, st.integers(1, 10))
def test_other_clients_are_not_waited_for(nodes: list[int], others: int) -> None:
    strangers = [peer(10**7 + n, is_other=True) for n in range(others)]
    assert Still(nodes).take(RULES.hold_s) == Still(nodes, *strangers).take(RULES.hold_s)


@pytest.mark.parametrize("nodes", [8, 30])
def test_when_the_first_in_line_stands_still_the_next_takes_over_and_then_the_next_but_not_all(nodes: int) -> None:
    rules = Rules(turn_s=4.0, tail_s=20.0)
    still = Still(list(range(nodes)), rules=rules)
    first = still.take(RULES.hold_s)
    counts = []
    for after_s in (3.99, 4.0, 11.99, 12.0, 19.99):
        taken = still.take(after_s)
        assert all(first[number] <= taken[number] for number in first)
        counts.append({len(takers(taken, piece)) for piece in PIECES})
    assert counts == [{1}, {2}, {2}, {3}, {3}]


def test_the_next_in_line_takes_over_before_everybody_draws() -> None:
    still = Still(list(range(30)))
    assert {len(takers(still.take(RULES.turn_s - 0.01), piece)) for piece in PIECES} == {1}
    assert {len(takers(still.take(RULES.turn_s), piece)) for piece in PIECES} == {2}
    assert {len(takers(still.take(RULES.tail_s - 0.01), piece)) for piece in PIECES} <= {2, 3}
    assert max(len(takers(still.take(RULES.tail_s + 2 * RULES.double_s), piece)) for piece in PIECES) > 3


def test_whoever_gains_pieces_from_anywhere_is_not_overtaken() -> None:
    nodes = list(range(8))
    first = Still(nodes).take(RULES.hold_s)
    assert sum(map(bool, first.values())) > 1
    for number in nodes:
        node = ration(number)
        for step in range(int(2 * RULES.tail_s / RULES.turn_s)):
            here = frozenset(map(Piece, range(step)))
            met = [peer(other, claims=here, gave=1) for other in nodes if other != number]
            now_s = step * RULES.turn_s / 2
            assert node.look(sight(COUNT, *met, received=step), now_s).take.keys() <= first[number] - here


@settings(max_examples=20, deadline=None)
@given(st.integers(3, 16), st.sampled_from(sorted(PIECES)), st.floats(1.0, RULES.turn_s - 2 * RULES.hold_s))
def test_when_the_first_in_line_goes_away_the_next_takes_as_soon_as_it_may_be_sure(
    nodes: int, piece: Piece, gone_s: float
) -> None:
    still = Still(list(range(nodes)))
    (first,) = takers(still.take(gone_s), piece)
    still.leave(first)
    assert takers(still.take(gone_s + 0.01), piece) == set()
    assert len(takers(still.take(gone_s + 0.02 + RULES.hold_s), piece)) == 1


@pytest.mark.parametrize("nodes", [2, 8, 24, 96])
def test_a_swarm_that_starts_at_once_takes_exactly_one_copy(nodes: int) -> None:
    mesh = Mesh([0.0] * nodes)
    mesh.run(20.0)
    assert mesh.are_finished
    assert mesh.copies == 1.0
    assert len(mesh.takers) <= front_of(nodes)


@pytest.mark.parametrize("seed", [1, 2])
@pytest.mark.parametrize("nodes", [2, 8, 24, 96])
def test_a_swarm_that_comes_within_a_second_takes_little_more_than_one_copy(nodes: int, seed: int) -> None:
    rng = Random(seed)
    mesh = Mesh(sorted(rng.random() for _ in range(nodes)), seed=seed)
    mesh.run(20.0)
    assert mesh.are_finished
    assert mesh.copies <= 1.1


def test_who_comes_late_takes_nothing_that_is_there_or_on_its_way() -> None:
    mesh = Mesh([0.0] * 8 + [1.5, 2.0, 4.0, 9.0])
    mesh.run(20.0)
    assert mesh.are_finished
    assert mesh.copies <= 1.05


def test_what_a_node_was_about_to_give_when_it_went_away_is_taken_by_others() -> None:
    mesh = Mesh([0.0] * 8, fetch_s=0.3)
    mesh.run(1.5)
    gone = mesh.busiest()
    mesh.leave(gone, mesh.now_s)
    mesh.run(40.0)
    assert mesh.are_finished
    assert 1.0 < mesh.copies <= 1.15  # the request that it had under way, at least


def test_a_swarm_whose_requests_take_longer_than_a_turn_takes_no_more_while_pieces_keep_coming() -> None:
    mesh = Mesh([0.0] * 8, fetch_s=1.5)
    mesh.run(60.0)
    assert mesh.are_finished
    assert mesh.copies <= 1.1


def test_pieces_of_one_portion_leave_the_origin_in_one_request() -> None:
    portions = [Piece(n // 4 * 4) for n in range(32)]
    mesh = Mesh([0.0] * 24, portions=portions, fetch_s=0.05)
    mesh.run(20.0)
    assert mesh.are_finished
    assert mesh.copies == 1.0
    assert mesh.requests == 8


def test_a_ration_that_is_not_told_when_its_node_joined_counts_from_its_first_look() -> None:
    node = Ration(token(1), LESSON, bytes(16))
    others = [peer(9, is_other=True)]
    assert node.look(sight(COUNT, *others), 100.0).take == {}
    assert node.look(sight(COUNT, *others), 100.0 + RULES.hold_s).take.keys() == PIECES
