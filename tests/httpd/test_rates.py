from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeshare.httpd.rates import ADDRESSES, Buckets, Rate


def test_a_client_may_ask_so_often_at_once_and_then_once_in_each_step() -> None:
    buckets = Buckets(Rate(at_once=3, per_s=2.0))
    assert [buckets.wait_s("a", 100.0) for _ in range(4)] == [0.0, 0.0, 0.0, 0.5]
    assert buckets.wait_s("a", 100.25) == 0.25
    assert buckets.wait_s("a", 100.5) == 0.0
    assert buckets.wait_s("a", 100.5) == 0.5


def test_who_is_refused_pays_nothing() -> None:
    buckets = Buckets(Rate(at_once=1, per_s=1.0))
    buckets.wait_s("a", 0.0)
    assert [buckets.wait_s("a", 0.5) for _ in range(100)] == [0.5] * 100


def test_each_client_has_a_bucket_of_its_own() -> None:
    buckets = Buckets(Rate(at_once=1, per_s=1.0))
    assert [buckets.wait_s(client, 0.0) for client in ("a", "b", "a")] == [0.0, 0.0, 1.0]


def test_a_bucket_holds_no_more_than_at_once_however_long_nobody_asks() -> None:
    buckets = Buckets(Rate(at_once=2, per_s=1.0))
    buckets.wait_s("a", 0.0)
    assert [buckets.wait_s("a", 1e6) for _ in range(3)] == [0.0, 0.0, 1.0]


def test_of_many_addresses_the_one_that_was_not_seen_for_longest_is_forgotten() -> None:
    buckets = Buckets(Rate(at_once=1, per_s=1e-9))
    for number in range(ADDRESSES):
        buckets.wait_s(f"{number}", 0.0)
    assert buckets.wait_s("0", 1.0) > 0  # seen again
    buckets.wait_s("one more", 1.0)
    assert len(buckets) == ADDRESSES
    assert buckets.wait_s("0", 1.0) > 0
    assert buckets.wait_s("1", 1.0) == 0.0


@given(
    rate=st.builds(Rate, at_once=st.integers(1, 1000), per_s=st.floats(0.01, 10_000)),
    pauses_s=st.lists(st.floats(0, 10), max_size=300),
)
def test_nobody_gets_more_than_at_once_and_the_steps_since(rate: Rate, pauses_s: list[float]) -> None:
    buckets, now_s, given_ = Buckets(rate), 0.0, 0
    for pause_s in pauses_s:
        now_s += pause_s
        wait_s = buckets.wait_s("a", now_s)
        given_ += wait_s == 0.0
        assert given_ <= rate.at_once + now_s * rate.per_s + 1
        assert 0 <= wait_s <= 1.01 / rate.per_s


def test_a_class_behind_one_address_meets_no_limit() -> None:
    buckets = Buckets(Rate())
    files = 35 * 120  # each pupil opens a page of 120 files
    for lesson in range(8):
        assert not any(buckets.wait_s("192.0.2.1", 5.0 * lesson) for _ in range(files))


@pytest.mark.parametrize("rate", [{"at_once": 0}, {"per_s": 0.0}])
def test_a_rate_leaves_room_for_one(rate: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="must be"):
        Rate(**rate)  # type: ignore[arg-type]  # what the test is about
