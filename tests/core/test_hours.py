from __future__ import annotations

from datetime import UTC, datetime, time, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeshare.hours import ALWAYS, Opening, Window

PARIS = ZoneInfo("Europe/Paris")
NIGHT = Window.parse("20:00-06:30")

times = st.times().map(lambda each: each.replace(second=0, microsecond=0))
windows = st.builds(Window, times, times).filter(lambda window: not window.is_always)
moments = st.integers(0, 20 * 365 * 24 * 60).map(lambda n: datetime(2020, 1, 1, tzinfo=UTC) + n * timedelta(minutes=1))


def paris(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=PARIS).astimezone(UTC)


def span(opening: Opening) -> timedelta:
    return opening.stop - opening.start


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("20:00-06:30", "20:00-06:30"),
        (" 8:00 - 9:05 ", "08:00-09:05"),
        ("00:00-23:59", "00:00-23:59"),
        ("always", "always"),
    ],
)
def test_a_window_is_printed_as_it_is_read(text: str, shown: str) -> None:
    assert str(Window.parse(text)) == shown
    assert Window.parse(shown) == Window.parse(text)


@pytest.mark.parametrize(
    "text", ["", "20:00", "20-6", "20:00-24:00", "20:60-06:00", "20:00-20:00", "00:00-00:00", "never", "٢0:00-06:30"]
)
def test_what_is_no_window_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(ValueError, match="20:00-06:30"):
        Window.parse(text)


@pytest.mark.parametrize(
    ("window", "inside", "outside"),
    [
        ("08:00-18:00", ["08:00", "17:59"], ["07:59", "18:00", "00:00"]),
        ("20:00-06:30", ["20:00", "23:59", "00:00", "06:29"], ["06:30", "19:59"]),
        ("always", ["00:00", "12:00", "23:59"], []),
    ],
)
def test_a_window_holds_its_first_minute_and_not_its_last(window: str, inside: list[str], outside: list[str]) -> None:
    assert all(Window.parse(window).holds(time.fromisoformat(each)) for each in inside)
    assert not any(Window.parse(window).holds(time.fromisoformat(each)) for each in outside)


def test_a_window_over_midnight_is_one_opening() -> None:
    opening = Opening(paris("2026-11-24 20:00"), paris("2026-11-25 06:30"))
    for now in ("2026-11-24 06:30", "2026-11-24 20:00", "2026-11-25 00:00", "2026-11-25 06:29"):
        assert NIGHT.next(paris(now), PARIS) == opening
    for now in ("2026-11-25 06:30", "2026-11-25 21:00", "2026-11-26 06:29"):
        assert NIGHT.last(paris(now), PARIS) == opening


def test_a_window_is_as_long_as_the_night_when_clocks_are_set() -> None:
    assert span(NIGHT.next(paris("2026-03-28 20:00"), PARIS)) == timedelta(hours=9.5)
    assert span(NIGHT.next(paris("2026-10-24 20:00"), PARIS)) == timedelta(hours=11.5)


@pytest.mark.parametrize(
    ("text", "day", "hours"),
    [
        ("02:15-02:45", "2026-10-25", 1.5),  # from the first to the second
        ("01:30-02:30", "2026-10-25", 2.0),
        ("02:30-03:30", "2026-10-25", 2.0),
        ("02:15-02:45", "2026-03-29", 1.5),  # there is no such hour: as much as the words allow
        ("02:30-03:15", "2026-03-29", 0.75),
        ("01:30-02:30", "2026-03-29", 1.0),
    ],
)
def test_a_window_in_the_hour_that_is_set_opens_once_and_closes(text: str, day: str, hours: float) -> None:
    window, midnight = Window.parse(text), paris(f"{day} 00:00")
    opening = window.next(midnight, PARIS)
    assert span(opening) == timedelta(hours=hours)
    assert window.next(opening.stop, PARIS).start >= midnight + timedelta(hours=23)


@given(windows, moments)
def test_of_every_window_one_opening_is_over_and_one_is_not(window: Window, now: datetime) -> None:
    last, following = window.last(now, PARIS), window.next(now, PARIS)
    assert last.start < last.stop <= now < following.stop
    assert following.start < following.stop
    assert last.start < following.start
    assert following.stop - last.stop <= timedelta(hours=26)


def test_what_is_always_open_holds_every_moment() -> None:
    assert ALWAYS.is_always
    assert ALWAYS.holds(time(23, 59, 59))
