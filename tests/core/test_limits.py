from __future__ import annotations

from datetime import UTC, datetime

import pytest

from edgeshare.config import LinkConfig, LinkHours, Rate, Size
from edgeshare.hours import Window
from edgeshare.limits import Limits, limits, month_of

DAY = LinkHours(between=Window.parse("08:00-18:00"), upload=Rate(1), download=Rate(2))
LUNCH = LinkHours(between=Window.parse("12:00-14:00"), upload=Rate(3))
NIGHT = LinkHours(between=Window.parse("22:00-06:00"), download=Rate(4))
LINK = LinkConfig(download=Rate(20), hours=(LUNCH, DAY, NIGHT))
USUAL = Rate(10)  # [swarm] upload


def at(hour: str) -> datetime:
    return datetime.fromisoformat(f"2026-11-24T{hour}").replace(tzinfo=UTC)


@pytest.mark.parametrize(
    ("hour", "upload", "download"),
    [
        ("07:59", 10, 20),
        ("08:00", 1, 2),
        ("12:00", 3, 20),  # the first entry that holds the hour, and what it does not name is the usual
        ("14:00", 1, 2),
        ("18:00", 10, 20),
        ("23:00", 10, 4),
        ("05:59", 10, 4),
    ],
)
def test_the_first_entry_that_holds_the_hour_counts_and_else_the_usual_rates(
    hour: str, upload: int, download: int
) -> None:
    assert limits(LINK, USUAL, at(hour), used_bytes=0) == Limits(upload=Rate(upload), download=Rate(download))


def test_a_rate_of_0_in_an_entry_is_no_limit_and_not_the_usual_rate() -> None:
    free = LinkConfig(download=Rate(20), hours=(LinkHours(between=NIGHT.between, upload=Rate(0), download=Rate(0)),))
    assert limits(free, USUAL, at("23:00"), used_bytes=0) == Limits()


def test_a_line_is_metered_by_the_config_at_any_hour() -> None:
    assert limits(LinkConfig(metered=True), USUAL, at("12:00"), used_bytes=0).is_metered


def test_a_line_is_metered_from_the_byte_on_that_reaches_the_months_cap() -> None:
    link = LinkConfig(monthly_cap=Size(5 * 2**30))
    assert not limits(link, USUAL, at("12:00"), used_bytes=5 * 2**30 - 1).is_metered
    reached = limits(link, USUAL, at("12:00"), used_bytes=5 * 2**30)
    assert reached.is_metered
    assert reached.reason == "this month's 5.0 GiB are used"


def test_without_a_cap_no_number_of_bytes_makes_a_line_metered() -> None:
    assert not limits(LinkConfig(), USUAL, at("12:00"), used_bytes=2**60).is_metered


def test_network_manager_is_obeyed_unless_the_config_says_not_to() -> None:
    for obeys in (True, False):
        link = LinkConfig(network_manager=obeys)
        assert limits(link, USUAL, at("12:00"), used_bytes=0, network_is_metered=True).is_metered == obeys
        assert not limits(link, USUAL, at("12:00"), used_bytes=0, network_is_metered=False).is_metered


def test_bytes_are_counted_by_the_month_of_the_clock_on_the_wall() -> None:
    assert month_of(at("12:00")) == "2026-11"
