from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeshare.units import parse_rate, parse_size, size


@pytest.mark.parametrize(
    ("text", "count"),
    [("0 B", 0), ("1 KiB", 1024), ("20 GiB", 20 * 2**30), ("1.5MiB", 3 * 2**19), (" 2 kB ", 2000), ("1 TiB", 2**40)],
)
def test_a_size_is_a_number_with_a_unit(text: str, count: int) -> None:
    assert parse_size(text) == count


@pytest.mark.parametrize(("text", "count"), [("8 bit/s", 1), ("20 Mbit/s", 2_500_000), ("0 bit/s", 0)])
def test_a_rate_is_counted_in_bits_and_becomes_bytes(text: str, count: int) -> None:
    assert parse_rate(text) == count


@pytest.mark.parametrize(
    "text", ["", "20", "GiB", "20 gib", "-1 GiB", "1e3 B", "20 Mbit/s", "２０ GiB", "1 GiB 2", "."]
)
def test_what_is_not_a_size_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(ValueError, match="20 GiB"):
        parse_size(text)


@pytest.mark.parametrize("text", ["20 Mb/s", "20 MiB", "fast", "20"])
def test_what_is_not_a_rate_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(ValueError, match="20 Mbit/s"):
        parse_rate(text)


def test_an_amount_beyond_all_machines_is_refused() -> None:
    assert parse_size(f"{2**20} TiB") == 2**60
    for text in (f"{2**20 + 1} TiB", "9" * 400 + " GiB"):
        with pytest.raises(ValueError, match="more than any machine has"):
            parse_size(text)


@given(st.integers(0, 2**59))
def test_a_printed_size_is_read_back_as_nearly_the_same(count: int) -> None:
    assert parse_size(size(count)) == pytest.approx(count, rel=0.06)
