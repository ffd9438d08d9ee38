from __future__ import annotations

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeshare.origin.backoff import EXILE_S, LONGEST_EXILE_S, LONGEST_TURN_S, TURN_S, exile, turn
from edgeshare.origin.mirrors import PASSING_S, TAKEN_MOST_S, Mirror, usable

PATH = "content/ab/les%20%C3%A9t%C3%A9.html"


@given(st.floats(0, 1e9) | st.none(), st.integers(0, 2**32))
def test_a_turn_comes_when_the_guard_says_within_reason(asked_s: float | None, seed: int) -> None:
    asked = TURN_S if asked_s is None else min(max(1.0, asked_s), LONGEST_TURN_S)
    assert asked <= turn(Random(seed), retry_after_s=asked_s) <= 1.5 * asked


@given(st.integers(1, 10_000), st.integers(0, 2**32))
def test_exile_lasts_an_hour_at_least_and_a_day_and_a_half_at_most(times: int, seed: int) -> None:
    assert EXILE_S <= exile(times, Random(seed)) <= 1.5 * LONGEST_EXILE_S


def test_a_mirror_that_works_is_not_aside() -> None:
    state = Mirror("http://user:secret@a.example/x").state(0.0)
    assert (state.name, state.is_aside, state.until_s, state.reason) == ("http://a.example/x/", False, 0.0, None)


def test_a_mirror_that_fails_is_aside_until_its_rest_is_over_and_says_why() -> None:
    mirror = Mirror("http://a/")
    mirror.rest(100.0, Random(1), "answers 500", retry_after_s=30.0)
    state = mirror.state(100.0)
    assert (state.is_aside, state.reason) == (True, "answers 500")
    assert 30 <= state.until_s <= 45
    assert not mirror.state(100.0 + state.until_s).is_aside
    assert mirror.state(100.0 + state.until_s).reason is None


def test_exile_doubles_and_no_good_answer_undoes_it() -> None:
    mirror, rng = Mirror("http://a/"), Random(1)
    mirror.exile(0.0, rng, "sends other bytes")
    mirror.worked()
    first = mirror.state(0.0).until_s
    assert EXILE_S <= first <= 1.5 * EXILE_S
    mirror.exile(first, rng, "sends other bytes")
    assert 2 * EXILE_S <= mirror.state(first).until_s <= 3 * EXILE_S


def test_a_mirror_in_exile_is_of_use_only_when_all_are() -> None:
    wrong, right = Mirror("http://wrong/"), Mirror("http://right/")
    wrong.exile(0.0, Random(1), "sends other bytes")
    assert usable([wrong, right], 1.0) == [right]
    right.rest(1.0, Random(1), "answers 500")
    assert usable([wrong, right], 1.0) == [right]  # also while that one rests
    right.exile(1.0, Random(1), "sends other bytes")
    assert usable([wrong, right], 1.0) == [wrong, right]
    assert usable([wrong, right], 2 * EXILE_S) == [wrong, right]


def test_taken_is_believed_for_two_minutes_and_no_longer() -> None:
    mirror = Mirror("http://a/")
    assert not mirror.is_taken_for_too_long(0.0)
    assert not mirror.is_taken_for_too_long(TAKEN_MOST_S / 2)
    assert not mirror.is_taken_for_too_long(TAKEN_MOST_S)
    assert mirror.is_taken_for_too_long(TAKEN_MOST_S + 1)
    mirror.worked()
    assert not mirror.is_taken_for_too_long(TAKEN_MOST_S + 2)


def test_two_lone_taken_long_after_one_another_are_no_failure() -> None:
    mirror = Mirror("http://a/")
    assert not mirror.is_taken_for_too_long(0.0)
    assert not mirror.is_taken_for_too_long(TAKEN_MOST_S + 1)


@pytest.mark.parametrize("is_for_good", [True, False])
def test_a_folder_that_moved_is_asked_for_where_it_is(is_for_good: bool) -> None:
    mirror = Mirror("http://a/")
    mirror.moved(PATH, f"https://a/new/{PATH}", 0.0, is_for_good=is_for_good)
    assert mirror.address("content/cd/x", PASSING_S - 1) == "https://a/new/content/cd/x"
    assert mirror.address("metadata/x", 0.0) == "http://a/metadata/x"
    later = "https://a/new/content/cd/x" if is_for_good else "http://a/content/cd/x"
    assert mirror.address("content/cd/x", PASSING_S) == later


@pytest.mark.parametrize("url", ["http://a/elsewhere", f"http://a/{PATH}?token=1", f"http://a/x{PATH}"])
def test_a_move_of_one_file_is_not_taken_for_one_of_its_folder(url: str) -> None:
    mirror = Mirror("http://a/")
    mirror.moved(PATH, url, 0.0, is_for_good=True)
    assert mirror.address(PATH, 0.0) == f"http://a/{PATH}"


def test_a_failure_has_moves_forgotten() -> None:
    mirror = Mirror("http://a/")
    mirror.moved(PATH, f"https://a/{PATH}", 0.0, is_for_good=True)
    mirror.rest(0.0, Random(1), "cannot be reached")
    assert mirror.address(PATH, 0.0) == f"http://a/{PATH}"
    assert not mirror.forget_move(PATH)
