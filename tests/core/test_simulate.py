from __future__ import annotations

import json
from pathlib import Path

import attrs
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.epidemic import Country, mixing
from bench.fluid import Crowd, Fluid
from bench.simulate import EVEN, FRANCE, HEADERS, SECOND, figures, measured, picture, with_holders
from bench.takers import Kind, Lucky, Morning, Taker, Tokens, may_reach, reach
from edgeshare.ration import Rules


def rng(seed: int = 1) -> np.random.Generator:
    return np.random.default_rng(seed)


SMALL = Morning(nodes=1000, kinds=EVEN, arrivals=SECOND, size=2**21)


def pool_with_a_first() -> tuple[Tokens, int]:
    """Tokens, and the one of them that is first in line for piece 0, whoever of the others is there."""
    for seed in range(1000):
        pool = Tokens(8, rng(seed), count=64)
        first = int(pool.tickets[:, 0].argmin())
        if (pool.places < pool.places[first]).sum() < Rules().front_least:
            return pool, first
    raise AssertionError


POOL, FIRST = pool_with_a_first()


def takes(luck: float, crowd: int, neighbours: int, age_s: float) -> bool:
    """Whether the first in line takes piece 0, which nobody has, when it has known its neighbours for that long."""
    others = [number for number in range(64) if number != FIRST][:neighbours]
    node = Lucky(
        piece=0, luck=luck, kind=0, began=0, crowd=crowd, around=np.array([FIRST, *others]),
        of_kind=np.zeros(neighbours, dtype=np.int64), met_s=np.zeros(neighbours), holds_from=np.ones(neighbours),
    )  # fmt: skip
    nobody = np.zeros((1, 8))
    taker = Taker(node, POOL, rng(), SMALL)
    if 0 in taker.ration.look(taker.sight(nobody, 0.0), 0.0).take:
        return True
    return 0 in taker.ration.look(taker.sight(nobody, age_s), age_s).take


@given(st.floats(0, 1, exclude_max=True), st.floats(1, 10), st.integers(0, 50), st.floats(0, 120))
def test_who_is_not_lucky_enough_by_the_simulators_reckoning_is_not_due_by_the_rations(
    luck: float, hoods: float, neighbours: int, age_s: float
) -> None:
    crowd = int(hoods * (neighbours + 1))
    assert not takes(luck, crowd, neighbours, age_s) or luck < may_reach(age_s, crowd, neighbours, Rules())


@pytest.mark.parametrize("crowd", [21, 25, 29, 31, 32, 40, 100, 10_000, 12_000_000])
@pytest.mark.parametrize("age_s", [3.0, 15.0, 40.0])
def test_the_first_in_line_takes_a_piece_just_below_its_reach_and_not_at_it(crowd: int, age_s: float) -> None:
    edge = may_reach(age_s, crowd, 20, Rules())
    assert takes(edge * 0.999, crowd, 20, age_s)
    assert edge == 1.0 or not takes(edge * 1.001, crowd, 20, age_s)


@given(st.floats(0, 200), st.integers(1, 10**7), st.integers(0, 50))
def test_one_nodes_reach_is_that_of_many(age_s: float, crowd: int, neighbours: int) -> None:
    crowd = max(crowd, neighbours + 1)
    many = reach(np.array([age_s]), np.array([float(crowd)]), neighbours, Rules())
    assert many[0] == pytest.approx(may_reach(age_s, crowd, neighbours, Rules()))


def test_a_crowd_where_everybody_meets_everybody_takes_one_copy_and_finishes_near_the_bound() -> None:
    crowd = Crowd(nodes=12, size=2**24)
    result = Fluid(crowd, rng()).run()
    assert result.copies == pytest.approx(1.0, abs=0.1)
    bound_s = crowd.size / crowd.up * 11 / 12
    assert bound_s < result.last_s < 1.6 * bound_s
    assert np.isfinite(result.finished_s).all()


def test_a_node_alone_takes_the_lesson_from_the_origin() -> None:
    result = Fluid(Crowd(nodes=1, size=2**20), rng()).run()
    assert result.copies == pytest.approx(1.0)
    assert result.askers == 1


def test_the_same_seed_gives_the_same_morning() -> None:
    assert Country(SMALL, rng(7)).run().copies == Country(SMALL, rng(7)).run().copies


def test_the_guard_gives_each_range_away_once_in_its_time() -> None:
    free, guarded = (Country(attrs.evolve(SMALL, has_guard=each, turn_s=60.0), rng()).run() for each in (False, True))
    assert free.refused == 0
    assert guarded.refused > 0
    assert guarded.copies == pytest.approx(1.0)
    assert free.copies > guarded.copies


@pytest.mark.whole
def test_both_simulations_tell_nearly_the_same_of_the_same_crowd() -> None:
    size = 2**21
    country = [Country(attrs.evolve(SMALL, nodes=500, has_guard=False), rng(seed)).run() for seed in range(6)]
    crowd = Crowd(nodes=500, degree=50, size=size, has_guard=False)
    fluid = [Fluid(crowd, rng(seed)).run() for seed in range(6)]
    mean = np.mean([each.copies for each in fluid])
    assert mean > 2  # old counts cost that much, and the guard would hide it
    assert np.mean([each.copies for each in country]) == pytest.approx(mean, rel=0.3)


def test_nothing_leaves_the_origin_when_some_have_the_lesson_and_everybody_sees_one_of_them() -> None:
    morning = attrs.evolve(SMALL, kinds=with_holders(EVEN, 0.5))
    told = figures(Country(morning, rng()).run(), morning.nodes)
    assert told["copies"] == 0
    assert told["p99_s"] < 60


def test_nodes_that_nobody_can_connect_to_do_not_meet_one_another_and_edges_have_two_ends() -> None:
    kinds = (*FRANCE, Kind(name="closed", share=0.0, down=1.0, up=1.0, is_reachable=False))
    matrix = mixing(kinds, 50)
    shares = np.array([kind.share for kind in kinds])
    closed = np.array([not kind.is_reachable for kind in kinds])
    assert not matrix[np.ix_(closed, closed)].any()
    ends = shares[:, None] * matrix
    assert ends == pytest.approx(ends.T)
    assert sum(shares) == pytest.approx(1.0)
    assert sum(kind.share for kind in with_holders(FRANCE, 0.05)) == pytest.approx(1.0)


def test_only_plain_runs_of_the_lab_stand_beside_the_simulation(tmp_path: Path) -> None:
    plain = {"kind": "run", "of": "edgeshare", "failed": {}, "setup": {"nodes": 8, "size": 2**24, "timeout_s": 9.0},
             "copies_http": 1.04, "last_s": 9.4, "p50_s": 9.0, "cores_were_the_limit": False}  # fmt: skip
    other = plain | {"setup": {"nodes": 8, "size": 2**24, "natted": 0.7}, "copies_http": 9.0}
    file = tmp_path / "lab.jsonl"
    file.write_text("\n".join(json.dumps(line) for line in (plain, other, plain | {"of": "curl"})), encoding="utf-8")
    assert measured([file]) == {
        (8, 1): {"copies_http": 1.04, "last_s": 9.4, "p50_s": 9.0, "runs": 1, "cores_were_the_limit": False}
    }
    assert HEADERS > 1


def test_the_picture_has_a_line_for_each_morning() -> None:
    lines = {name: [{"nodes": n, "copies": 1.0, "p95_s": 9.0} for n in (1000, 10_000)] for name in ("a", "b & c")}
    drawn = picture(lines)
    assert drawn.count("<polyline") == 4
    assert "b &amp; c" in drawn


@pytest.mark.whole
def test_a_class_of_nodes_that_is_named_as_two_goes_to_the_origin_as_often() -> None:
    halves = [attrs.evolve(EVEN[0], name=name, share=0.5) for name in ("one", "other")]
    copies = [
        np.mean(
            [Country(attrs.evolve(SMALL, kinds=kinds, has_guard=False), rng(seed)).run().copies for seed in range(4)]
        )
        for kinds in (EVEN, halves)
    ]
    assert copies[1] == pytest.approx(copies[0], rel=0.2)
