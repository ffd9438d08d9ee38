"""What one node's ration decides, look by look; what a whole swarm of them does is in `test_ration_swarm.py`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from random import Random

import attrs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeshare.layout import Piece
from edgeshare.ration import Decision, Neighbour, Ration, Reason, Sight, news_s
from tests.support.mesh import RULES, peer, ration, sight

COUNT = 24
PIECES = frozenset(map(Piece, range(COUNT)))
ENOUGH_S = 1000.0  # in a crowd of twenty million the share doubles every half a minute

pieces = st.frozensets(st.sampled_from(sorted(PIECES)))
seconds = st.floats(0, 1000)


@st.composite
def neighbourhoods(draw: st.DrawFn) -> tuple[Neighbour, ...]:
    numbers = draw(st.lists(st.integers(1, 200), max_size=8, unique=True))
    return tuple(
        peer(number, claims=draw(pieces), gave=draw(st.sampled_from([0, 5])), is_other=draw(st.booleans()))
        for number in numbers
    )


@st.composite
def sights(draw: st.DrawFn) -> Sight:
    neighbours = draw(neighbourhoods())
    return sight(
        COUNT,
        *neighbours,
        missing=draw(pieces),
        crowd=draw(st.integers(1 + len(neighbours), 10**7)),
        received=draw(st.integers(0, 3)),
        awaited=draw(st.dictionaries(st.sampled_from(sorted(PIECES)), seconds, max_size=4)),
    )


def looks(node: Ration, seen: Sight, until_s: float, *, from_s: float = 0.0, every_s: float = 0.25) -> Decision:
    """Look at the same from time to time; the last decision, at `until_s`."""
    for step in range(math.ceil((until_s - from_s) / every_s)):
        node.look(seen, from_s + step * every_s)
    return node.look(seen, until_s)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.floats(0, 40), sights()), min_size=1, max_size=5))
def test_whatever_is_seen_only_what_is_missing_is_taken_and_the_next_look_is_soon(
    story: list[tuple[float, Sight]],
) -> None:
    node, now_s = ration(0), 0.0
    for later_s, seen in story:
        now_s += later_s
        decision = node.look(seen, now_s)
        assert decision.take.keys() <= seen.missing
        assert 0 < decision.look_in_s <= 1.0


@settings(max_examples=40, deadline=None)
@given(st.lists(sights(), min_size=1, max_size=5), st.floats(0.01, RULES.doubt_s - 0.01))
def test_what_a_peer_has_is_left_to_the_peers_while_they_send_unless_a_reader_has_been_patient(
    story: list[Sight], every_s: float
) -> None:
    node = ration(0)
    for step, seen in enumerate(story):
        for piece, reason in node.look(attrs.evolve(seen, received=step), step * every_s).take.items():
            if seen.available[piece]:
                assert reason is Reason.READER_WAITS
                assert seen.awaited[piece] >= RULES.reader_patience_s


@settings(max_examples=60, deadline=None)
@given(sights(), st.floats(0, 30))
def test_the_order_in_which_things_are_seen_changes_nothing(seen: Sight, later_s: float) -> None:
    turned = attrs.evolve(
        seen,
        missing=frozenset(sorted(seen.missing, reverse=True)),
        neighbours=tuple(reversed(seen.neighbours)),
        awaited=dict(reversed(list(seen.awaited.items()))),
    )
    one, other = ration(0), ration(0)
    for now_s in (0.0, later_s):
        assert list(one.look(seen, now_s).take.items()) == list(other.look(turned, now_s).take.items())


@given(pieces)
def test_a_node_that_is_alone_takes_everything_at_once(missing: frozenset[Piece]) -> None:
    assert ration(0).look(sight(COUNT, missing=missing), 0.0).take == dict.fromkeys(missing, Reason.ALONE)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.floats(0, 40), sights()), max_size=5))
def test_a_node_that_everybody_has_left_takes_the_rest_at_once_whatever_went_before(
    story: list[tuple[float, Sight]],
) -> None:
    node, now_s = ration(0), 0.0
    for later_s, seen in story:
        now_s += later_s
        node.look(seen, now_s)
    assert node.look(sight(COUNT, received=9), now_s).take == dict.fromkeys(PIECES, Reason.ALONE)


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 200), st.integers(0, 40), st.integers(1, 20_000_000))
def test_what_nobody_has_is_taken_by_everybody_in_the_end(number: int, peers: int, crowd: int) -> None:
    others = [peer(1000 + n) for n in range(peers)]
    node, seen = ration(number), sight(COUNT, *others, crowd=max(crowd, 1 + peers))
    assert looks(node, seen, ENOUGH_S, every_s=10.0).take.keys() == PIECES


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 200), st.integers(0, 20), st.integers(21, 10**6), st.floats(0, 40), st.floats(0, 40))
def test_what_is_due_stays_due_while_it_is_missing(
    number: int, peers: int, crowd: int, first_s: float, later_s: float
) -> None:
    node, seen = ration(number), sight(COUNT, *[peer(1000 + n) for n in range(peers)], crowd=crowd)
    assert looks(node, seen, first_s).take.keys() <= looks(node, seen, first_s + later_s, from_s=first_s).take.keys()


@pytest.mark.parametrize("crowd", [60, 400])
def test_in_a_large_crowd_fewer_than_one_node_takes_a_piece_at_first_and_more_and_more_later(crowd: int) -> None:
    def takers(age_s: float) -> float:
        """How many of the crowd take a piece, by what some of it do, each among 19 others of its own."""
        taken = 0
        for number in range(60):
            others = [peer(10_000 + number * 20 + n) for n in range(19)]
            taken += len(looks(ration(number), sight(400, *others, crowd=crowd), age_s, every_s=age_s).take)
        return taken / 60 / 400 * crowd

    early = takers(RULES.hold_s)
    assert 0.3 * RULES.start < early < 1.0
    assert takers(RULES.hold_s + 4 * news_s(crowd / 20, RULES)) > 3 * early
    assert takers(RULES.hold_s + 0.5 * news_s(crowd / 20, RULES)) < 2.5 * early


@pytest.mark.parametrize(
    ("grows_until_s", "taken_s"),
    [(1.0, 1.0 + RULES.hold_s), (1000.0, RULES.gather_s)],
    ids=["they stop coming", "they come for ever"],
)
def test_a_node_holds_back_while_its_neighbours_become_many_more_and_not_for_long(
    grows_until_s: float, taken_s: float
) -> None:
    node, step_s = ration(1), RULES.hold_s / 4
    for step in range(100):
        met = int((1 + RULES.growth) ** min(step / 4, grows_until_s / step_s / 4, 6))
        if node.look(sight(COUNT, *[peer(1000 + n, is_other=True) for n in range(met)]), step * step_s).take:
            break
    assert taken_s - 4 * step_s <= step * step_s <= taken_s + step_s


def test_the_share_grows_more_slowly_the_more_neighbourhoods_news_has_to_cross() -> None:
    assert news_s(1.0, RULES) == news_s(2.0, RULES) == RULES.double_s
    assert 2 * RULES.double_s < news_s(20.0, RULES) < news_s(400.0, RULES) < 10 * RULES.double_s


def test_who_looks_for_the_first_time_long_after_it_joined_has_held_back_already() -> None:
    assert ration(1).look(sight(COUNT, peer(9, is_other=True)), 5.0).take.keys() == PIECES


def test_the_first_in_line_takes_when_it_has_held_back_for_as_long_as_peers_take_to_meet() -> None:
    others = [peer(9, is_other=True)]
    assert looks(ration(1), sight(COUNT, *others), RULES.hold_s - 0.01, every_s=0.05).take == {}
    late = looks(ration(1), sight(COUNT, *others), RULES.hold_s, every_s=0.05)
    assert late.take == dict.fromkeys(PIECES, Reason.NOBODY_HAS_IT)


def test_while_something_may_soon_be_due_the_next_look_is_sooner_than_a_takers_patience() -> None:
    for seen in (sight(COUNT, peer(1), crowd=400), sight(COUNT, peer(1, claims=PIECES), awaited={Piece(0): 0.0})):
        assert ration(0).look(seen, 0.0).look_in_s < RULES.hold_s
    assert ration(0).look(sight(COUNT, peer(1, claims=PIECES)), 0.0).look_in_s == 1.0


def test_seeds_that_a_tracker_counts_are_looked_for_before_anything_is_taken() -> None:
    node, seen = ration(0), attrs.evolve(sight(COUNT), crowd=3, seeds=2)
    assert looks(node, seen, RULES.seeds_s - 0.01).take == {}
    met = attrs.evolve(seen, neighbours=(liar(),), available=(1,) * COUNT)
    assert node.look(met, RULES.seeds_s + 1).take == {}
    alone = ration(0)
    assert looks(alone, attrs.evolve(seen, crowd=1), 1.0).take.keys() == PIECES  # the tracker counts this very node


def test_who_never_meets_the_seeds_that_a_tracker_counts_takes_its_turn() -> None:
    node, seen = ration(0), attrs.evolve(sight(COUNT, peer(1)), seeds=2)
    assert looks(node, seen, RULES.seeds_s - 0.01).take == {}
    assert node.look(seen, RULES.seeds_s).take


def test_of_those_behind_nat_who_all_meet_the_same_few_not_everybody_goes_to_the_origin() -> None:
    def takers(crowd: int) -> int:
        taken = 0
        for swarm in range(100):
            seen = sight(COUNT, *(peer(8 * swarm + number) for number in range(1, 8)), crowd=crowd)
            taken += bool(looks(ration(8 * swarm), seen, RULES.tail_s - 1).take)
        return taken

    assert takers(8) > 90
    assert 25 < takers(24) < 50  # three of eight are the front


# Doubt: peers that claim and give nothing


def liar(*, gave: int = 0, tells: bool = True) -> Neighbour:
    return peer(9, claims=PIECES, gave=gave, is_other=True, tells=tells)


def test_peers_that_claim_and_give_nothing_no_longer_count_after_a_while() -> None:
    node = ration(1)
    early = looks(node, sight(COUNT, liar()), RULES.doubt_s - 0.01)
    assert (early.take, early.wants_claims) == ({}, False)
    doubting = node.look(sight(COUNT, liar()), RULES.doubt_s)
    assert doubting.wants_claims
    late = node.look(sight(COUNT, liar()), RULES.doubt_s + RULES.hold_s)
    assert late.take == dict.fromkeys(PIECES, Reason.PEERS_STALL)


def test_a_doubted_peer_counts_until_it_is_known_what_it_claims() -> None:
    node = ration(1)
    seen = attrs.evolve(sight(COUNT, liar()), neighbours=(liar(tells=False),))
    late = looks(node, seen, RULES.doubt_s + 10)
    assert (late.take, late.wants_claims) == ({}, True)


def test_a_doubted_peer_counts_again_when_it_gives() -> None:
    node = ration(1)
    looks(node, sight(COUNT, liar()), RULES.doubt_s + RULES.hold_s)
    good = node.look(sight(COUNT, liar(gave=1), received=1), RULES.doubt_s + RULES.hold_s + 0.1)
    assert (good.take, good.wants_claims) == ({}, False)


def test_a_peer_is_not_doubted_for_the_time_in_which_it_had_nothing_to_give() -> None:
    node, crowd = ration(1), 10**6
    looks(node, sight(COUNT, peer(9, is_other=True), crowd=crowd), 3 * RULES.doubt_s)
    start_s = 3 * RULES.doubt_s + 0.1
    assert not node.look(sight(COUNT, liar(), crowd=crowd), start_s).wants_claims
    assert not node.look(sight(COUNT, liar(), crowd=crowd), start_s + RULES.doubt_s - 0.2).wants_claims
    assert node.look(sight(COUNT, liar(), crowd=crowd), start_s + RULES.doubt_s).wants_claims


def test_a_peer_is_not_doubted_while_others_give() -> None:
    node = ration(1)
    busy = peer(8, claims=frozenset({Piece(0)}), gave=5, is_other=True)
    for step in range(40):
        assert node.look(sight(COUNT, liar(), busy, received=step), step * 1.0).take == {}


def test_those_who_have_it_are_not_doubted_while_others_get_it_from_them() -> None:
    node = ration(1)
    for step in range(20):
        other = peer(8, claims=frozenset(map(Piece, range(step))), is_other=True)
        assert node.look(sight(COUNT, liar(), other), step * 1.0).take == {}
    assert not node.look(sight(COUNT, liar(), other), 18.9 + RULES.doubt_s).wants_claims
    assert node.look(sight(COUNT, liar(), other), 19.0 + RULES.doubt_s).wants_claims


def test_what_an_honest_peer_has_too_is_left_to_it_when_a_liar_is_doubted() -> None:
    node = ration(1)
    honest = peer(8, claims=frozenset({Piece(0), Piece(1)}), gave=5, is_other=True)
    late = looks(node, sight(COUNT, liar(), honest, received=5), RULES.doubt_s + RULES.hold_s + 1)
    assert late.take.keys() == PIECES - {0, 1}


def test_peers_that_stopped_giving_are_waited_for_a_choked_peers_turn_and_no_longer() -> None:
    node, seen = ration(1), sight(COUNT, liar(gave=5), received=5)
    assert looks(node, seen, RULES.stall_s - 0.01).take == {}
    late = looks(node, seen, RULES.stall_s + 2 * RULES.double_s * 4, from_s=RULES.stall_s)
    assert late.take == dict.fromkeys(PIECES, Reason.PEERS_STALL)
    again = node.look(attrs.evolve(seen, received=6), RULES.stall_s + 20)
    assert again.take == {}


def test_of_a_large_crowd_whose_peers_stopped_giving_few_go_to_the_origin_at_first() -> None:
    taken = 0
    for number in range(100):
        seen = sight(COUNT, liar(gave=5), crowd=1000, received=5)
        taken += len(looks(ration(number), seen, RULES.stall_s + 0.01, every_s=RULES.stall_s).take)
    assert taken / 100 / COUNT * 1000 < 2


# Readers

WISHES = st.dictionaries(st.sampled_from(sorted(PIECES)), st.integers(0, 1000).map(float), min_size=1)


@settings(deadline=None)
@given(WISHES)
def test_a_reader_on_a_lone_node_gets_its_pieces_at_once_and_before_all_others(wishes: dict[Piece, float]) -> None:
    take = ration(0).look(sight(COUNT, awaited=wishes), 0.0).take
    first = list(take)[: len(wishes)]
    assert {piece for piece, why in take.items() if why is Reason.READER_WAITS} == wishes.keys() == set(first)
    assert [wishes[piece] for piece in first] == sorted(wishes.values(), reverse=True)


def by_readers(crowd: int, waited_s: float, *neighbours: Neighbour, nodes: int = 100) -> float:
    """The share of nodes that take a piece for a reader who has waited for so long, each node having one."""
    seen = sight(COUNT, *neighbours, crowd=crowd, awaited=dict.fromkeys(sorted(PIECES), waited_s))
    taken = [ration(number).look(seen, 0.0).take.values() for number in range(nodes)]
    return sum(list(each).count(Reason.READER_WAITS) for each in taken) / nodes / COUNT


def test_in_a_crowd_where_every_node_has_a_reader_they_draw_and_the_longer_they_wait_the_more_take() -> None:
    crowd, others = 64, [peer(1000 + n) for n in range(5)]
    shares = [by_readers(crowd, waited_s, *others) for waited_s in (0.0, 1.0, 2.0)]
    assert shares[0] == pytest.approx(1 / crowd, rel=0.5)
    assert 2 * shares[0] < shares[1] < shares[2] < 0.6
    assert by_readers(crowd, RULES.reader_double_s * math.log2(crowd), *others) == 1.0


def test_a_reader_waits_for_peers_that_have_its_piece_no_longer_than_its_patience() -> None:
    seeder = peer(9, claims=PIECES, gave=1)
    assert by_readers(2, RULES.reader_patience_s - 0.01, seeder) == 0.0
    assert 0.3 < by_readers(2, RULES.reader_patience_s, seeder) < 0.7
    assert by_readers(2, RULES.reader_patience_s + RULES.reader_double_s, seeder) == 1.0


def test_what_a_reader_is_given_soon_is_given_later_too() -> None:
    seen = sight(COUNT, peer(9), crowd=500)
    node, before = ration(3), frozenset[Piece]()
    for step in range(20):
        wishes = dict.fromkeys(sorted(PIECES), step * 0.3)
        take = node.look(attrs.evolve(seen, awaited=wishes), 0.1).take
        assert before <= take.keys()
        before = frozenset(take)
    assert before == PIECES


# Portions, and the order


def test_a_portion_is_taken_by_one_node_as_a_whole() -> None:
    portions = [Piece(n // 4 * 4) for n in range(COUNT)]
    taken = [
        looks(ration(number, portions=portions), among(number, 8), RULES.hold_s).take.keys() for number in range(8)
    ]
    assert sum(map(len, taken)) == COUNT
    for each in taken:
        assert {piece for piece in PIECES if portions[piece] in {portions[other] for other in each}} == each
    assert ration(0, portions=portions).portion(Piece(6)) == [4, 5, 6, 7]
    assert list(ration(0).portion(Piece(6))) == [6]


def test_a_portion_is_drawn_as_a_whole_where_nodes_see_only_a_part_of_the_crowd() -> None:
    portions = [Piece(n // 4 * 4) for n in range(COUNT)]
    counts = set()
    for number in range(60):
        others = [peer(1000 + n, is_other=True) for n in range(4)]
        take = looks(ration(number, portions=portions), sight(COUNT, *others, crowd=20), 2.0).take
        assert {piece for piece in PIECES if portions[piece] in {portions[each] for each in take}} == take.keys()
        counts.add(len(take))
    assert len(counts) > 2  # some have drawn nothing, and hardly any everything


def test_nodes_begin_at_different_pieces() -> None:
    firsts = {next(iter(ration(number).look(sight(COUNT), 0.0).take)) for number in range(40)}
    assert len(firsts) > COUNT // 3


def among(number: int, nodes: int, *others: Neighbour) -> Sight:
    """What one of `nodes` sees that all see one another."""
    return sight(COUNT, *(peer(each) for each in range(nodes) if each != number), *others)


# Who asks for what comes before all pieces


def leaders(nodes: Sequence[int], crowd: int, now_s: float) -> list[int]:
    neighbours = {number: [peer(each) for each in nodes if each != number] for number in nodes}
    return [number for number in nodes if ration(number).leads(neighbours[number], crowd, now_s)]


def test_a_lone_node_asks_for_the_metadata_at_once() -> None:
    assert leaders([5], 1, 0.0) == [5]


def test_of_those_who_see_one_another_one_asks_for_the_metadata_and_then_one_more_at_a_time() -> None:
    nodes = range(10)
    assert leaders(nodes, 10, RULES.hold_s - 0.01) == []
    for more in range(10):
        assert len(leaders(nodes, 10, RULES.hold_s + RULES.lead_s * more)) == 1 + more


def test_who_is_left_by_the_only_neighbour_waits_for_it_to_come_back_with_the_metadata() -> None:
    node = ration(1)
    assert not node.leads([peer(2)], 2, 0.1)
    assert not node.leads([], 1, 0.1 + 2 * RULES.lead_s - 0.01)
    assert node.leads([], 1, 0.1 + 2 * RULES.lead_s)


def test_in_a_large_crowd_few_ask_for_the_metadata_at_first_and_everybody_in_the_end() -> None:
    lonely = [ration(number) for number in range(300)]
    assert sum(each.leads((), 300, RULES.hold_s) for each in lonely) <= 3
    assert all(each.leads((), 300, 200.0) for each in lonely)


def test_lessons_have_different_first_in_line() -> None:
    rng = Random(1)
    led = [
        [n for n in range(10) if ration(n, lesson=lesson).leads([peer(k) for k in range(10) if k != n], 10, 0.5)]
        for lesson in (rng.randbytes(8) for _ in range(20))
    ]
    assert all(len(each) == 1 for each in led)
    assert len({each[0] for each in led}) > 5
