from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeshare.crowd import MOST, PATIENCE_S, UNEXPECTED, Gathering

counts = st.integers(0, 10**9)
seconds = st.floats(0, 1e6)
gatherings = st.builds(
    Gathering,
    has_tracker=st.booleans(),
    audience=st.none() | st.integers(1, 10**9),
    joined_s=seconds,
)


@given(gatherings, counts, counts, st.none() | st.integers(-5, 10**12), seconds)
def test_whatever_is_heard_the_crowd_is_this_node_and_those_it_sees_at_least(
    gathering: Gathering, connected: int, known: int, tracker: int | None, later_s: float
) -> None:
    now_s = gathering.joined_s + later_s
    crowd = gathering.crowd(connected=connected, known=known, tracker=tracker, now_s=now_s)
    assert crowd >= max(1, 1 + connected, known)
    assert crowd <= max(1 + connected, known, MOST)


@pytest.mark.parametrize(("has_tracker", "audience"), [(True, None), (True, 800_000), (False, 5)])
def test_the_trackers_count_is_believed_above_what_was_expected(has_tracker: bool, audience: int | None) -> None:
    gathering = Gathering(has_tracker, audience, joined_s=0.0)
    assert gathering.crowd(connected=0, known=0, tracker=1, now_s=0.0) == 1
    assert gathering.crowd(connected=3, known=0, tracker=96, now_s=100.0) == 96


@given(counts, counts)
def test_a_tracker_that_says_too_little_cannot_talk_down_what_is_seen(connected: int, known: int) -> None:
    gathering = Gathering(has_tracker=True, audience=None, joined_s=0.0)
    assert gathering.crowd(connected=connected, known=known, tracker=0, now_s=9.0) == max(1 + connected, known)


def test_a_tracker_that_says_more_than_a_country_has_is_cut_to_a_country() -> None:
    gathering = Gathering(has_tracker=True, audience=None, joined_s=0.0)
    assert gathering.crowd(connected=2, known=2, tracker=MOST, now_s=9.0) == MOST
    assert gathering.crowd(connected=2, known=2, tracker=2**31 - 1, now_s=9.0) == MOST


def test_while_a_tracker_is_silent_what_the_manifest_expects_stands_in_for_it() -> None:
    for now_s in (0.0, 3600.0):  # it may be down for the whole morning
        expected = Gathering(has_tracker=True, audience=800_000, joined_s=0.0)
        assert expected.crowd(connected=0, known=0, tracker=None, now_s=now_s) == 800_000
        assert expected.crowd(connected=0, known=900_000, tracker=None, now_s=now_s) == 900_000
        unexpected = Gathering(has_tracker=True, audience=None, joined_s=0.0)
        assert unexpected.crowd(connected=0, known=0, tracker=None, now_s=now_s) == UNEXPECTED
        assert unexpected.crowd(connected=300, known=0, tracker=None, now_s=now_s) == 301
    too_many = Gathering(has_tracker=True, audience=10**9, joined_s=0.0)
    assert too_many.crowd(connected=0, known=0, tracker=None, now_s=0.0) == MOST


@pytest.mark.parametrize("audience", [None, 800_000])
def test_without_a_tracker_a_node_believes_after_a_moment_that_only_those_are_there_whom_it_sees(
    audience: int | None,
) -> None:
    gathering = Gathering(has_tracker=False, audience=audience, joined_s=50.0)
    before_s = 50.0 + PATIENCE_S - 0.01
    assert gathering.crowd(connected=0, known=0, tracker=None, now_s=before_s) == (audience or UNEXPECTED)
    assert gathering.crowd(connected=0, known=0, tracker=None, now_s=50.0 + PATIENCE_S) == 1
    assert gathering.crowd(connected=4, known=9, tracker=None, now_s=50.0 + PATIENCE_S) == 9
    assert gathering.crowd(connected=9, known=4, tracker=None, now_s=50.0 + PATIENCE_S) == 10
