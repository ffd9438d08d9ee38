from __future__ import annotations

from datetime import UTC, datetime
from email.utils import format_datetime
from itertools import pairwise
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeshare.origin.backoff import FIRST_S, LONGEST_S, PATIENCE_S, delay, retry_after

NOW = datetime(2026, 11, 24, 8, 0, tzinfo=UTC).timestamp()
rngs = st.builds(Random, st.integers(0, 2**32))


@given(st.integers(1, 10_000), rngs)
def test_a_wait_without_advice_is_never_nothing_and_never_for_ever(failures: int, rng: Random) -> None:
    assert FIRST_S / 2 <= delay(failures, rng) <= LONGEST_S


@given(st.integers(1, 30), st.integers(0, 2**32))
def test_waits_grow_with_failures(failures: int, seed: int) -> None:
    assert delay(failures, Random(seed)) <= delay(failures + 1, Random(seed))


@given(st.floats(0, 1e9), st.integers(1, 50), rngs)
def test_an_origin_gets_the_patience_it_asks_for_within_reason(asked_s: float, failures: int, rng: Random) -> None:
    wait_s = delay(failures, rng, retry_after_s=asked_s)
    assert max(FIRST_S, min(asked_s, PATIENCE_S)) <= wait_s <= 1.5 * max(FIRST_S, min(asked_s, PATIENCE_S))


def test_a_crowd_that_failed_together_comes_back_scattered() -> None:
    rng = Random(1)
    asked = sorted(delay(1, rng, retry_after_s=60.0) for _ in range(1000))
    assert asked[0] < 62
    assert asked[-1] > 88
    assert max(late - early for early, late in pairwise(asked)) < 1


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        ("120", 120.0),
        (" 0 ", 0.0),
        ("9" * 40, 999_999_999.0),
        (format_datetime(datetime(2026, 11, 24, 8, 1, 30, tzinfo=UTC), usegmt=True), 90.0),
        ("Tue, 24 Nov 2026 08:01:30", 90.0),  # without a zone: HTTP knows only one
        ("Tue, 24 Nov 2026 07:00:00 GMT", 0.0),  # past
        ("soon", None),
        ("-5", None),
        ("1.5", None),
        ("٣", None),  # a digit, and not ASCII
        ("", None),
        (None, None),
    ],
)
def test_retry_after_is_seconds_or_a_date_or_nothing(header: str | None, seconds: float | None) -> None:
    assert retry_after(header, NOW) == seconds


@given(st.text())
def test_any_header_is_a_wait_or_nothing(header: str) -> None:
    found = retry_after(header, NOW)
    assert found is None or found >= 0
