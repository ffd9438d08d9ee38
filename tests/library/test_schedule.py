from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from random import Random
from zoneinfo import ZoneInfo

import attrs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeshare.hours import ALWAYS, Window
from edgeshare.library.schedule import SPREAD, Prefetch, Uptime

PARIS = ZoneInfo("Europe/Paris")
NIGHT = Window.parse("20:00-06:30")
HOUR = timedelta(hours=1)

slots = st.floats(0.0, 1.0, exclude_max=True)
minutes = st.integers(0, 20 * 365 * 24 * 60).map(lambda n: datetime(2020, 1, 1, tzinfo=UTC) + n * timedelta(minutes=1))


def paris(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=PARIS).astimezone(UTC)


EVENING, MORNING = paris("2026-11-24 20:00"), paris("2026-11-25 06:30")
BEFORE = paris("2026-11-24 06:30")  # the end of the window before


def prefetch(slot: float = 0.5, *, met: datetime | None = BEFORE, since: datetime = BEFORE - HOUR) -> Prefetch:
    """A node that met yesterday's window, but for what is said otherwise."""
    return Prefetch(window=NIGHT, zone=PARIS, slot=slot, met=met, since=since)


def turn(each: Prefetch, before: datetime) -> datetime:
    """When a node that waits may begin."""
    change = each.next_change(before)
    assert change is not None
    assert not each.allowed(before)
    assert each.allowed(change)
    return change


@attrs.define
class Machine:
    """A node over days, as its owner runs it: it looks at its clocks, and keeps what it met."""

    slot: float
    met: datetime | None = None
    uptime: Uptime | None = None

    def start(self, now: datetime, now_s: float) -> None:
        self.uptime = Uptime.begin(now, now_s)

    def look(self, now: datetime, now_s: float) -> bool:
        """Whether it fetches ahead now."""
        assert self.uptime
        self.uptime = self.uptime.at(now, now_s)
        now_is = prefetch(self.slot, met=self.met, since=self.uptime.since)
        self.met = now_is.met_by(now) or self.met
        return attrs.evolve(now_is, met=self.met).allowed(now)


def every(step: timedelta, start: datetime, stop: datetime) -> Iterator[datetime]:
    while start < stop:
        yield start
        start += step


def test_ten_thousand_nodes_start_evenly_over_the_first_three_quarters_of_the_window() -> None:
    rng = Random(6)
    starts = [prefetch(rng.random()).next_change(EVENING - HOUR) or EVENING - HOUR for _ in range(10_000)]
    assert min(starts) >= EVENING
    assert max(starts) < EVENING + SPREAD * (MORNING - EVENING)
    in_each = Counter(int(10 * (start - EVENING) / (SPREAD * (MORNING - EVENING))) for start in starts)
    assert sorted(in_each) == list(range(10))
    assert all(900 < count < 1100 for count in in_each.values())


@given(slots, minutes)
def test_who_met_the_last_window_fetches_inside_the_next_and_nowhere_else(slot: float, now: datetime) -> None:
    last, following = NIGHT.last(now, PARIS), NIGHT.next(now, PARIS)
    each = prefetch(slot, met=last.stop, since=now - HOUR)
    begins = following.start + SPREAD * slot * (following.stop - following.start)
    assert each.allowed(now) == (now >= begins)
    assert each.next_change(now) == (following.stop if now >= begins else begins)


def test_a_window_over_the_night_on_which_clocks_are_set_opens_once_and_closes() -> None:
    for day, length in (("2026-10-24", 11.5), ("2026-03-28", 9.5)):
        start = paris(f"{day} 20:00")
        last = start - 13.5 * HOUR
        each = prefetch(0.5, met=last, since=last - HOUR)
        allowed = [each.allowed(now) for now in every(timedelta(minutes=1), start - HOUR, start + length * HOUR)]
        changes = sum(one != other for one, other in pairwise(allowed))
        assert (changes, allowed[0], allowed[-1]) == (1, False, True)
        assert not each.allowed(start + length * HOUR)


def test_a_node_that_was_on_from_its_turn_to_the_end_has_met_the_window() -> None:
    each = prefetch(0.5, since=EVENING)
    assert each.met_by(MORNING - timedelta(minutes=1)) is None
    assert each.met_by(MORNING) == MORNING
    assert not each.allowed(MORNING)  # before anybody has kept it, too
    assert not prefetch(0.5, met=MORNING, since=MORNING + HOUR).allowed(MORNING + 2 * HOUR)


def test_a_node_that_came_after_its_turn_goes_on_after_the_window() -> None:
    each = prefetch(0.5, since=MORNING - HOUR)
    assert each.met_by(MORNING) is None
    assert each.allowed(MORNING - HOUR)
    assert each.allowed(MORNING + HOUR)
    assert each.next_change(MORNING + HOUR) == MORNING + 24 * HOUR


def test_a_new_node_fetches_at_once() -> None:
    noon = MORNING + 6 * HOUR
    assert prefetch(met=None, since=noon).allowed(noon)


@given(slots)
@settings(max_examples=30)
def test_a_machine_that_is_on_only_from_8_to_17_catches_up_every_morning(slot: float) -> None:
    machine, day = Machine(slot, met=BEFORE), datetime(2026, 10, 20)  # noqa: DTZ001 - as its clock shows it
    for _ in range(10):
        morning = paris(day.isoformat()) + 8 * HOUR
        machine.start(morning, 0.0)
        assert all(machine.look(morning + n * HOUR, n * 3600.0) for n in range(9))
        day += timedelta(days=1)


@given(slots)
def test_a_machine_that_is_on_only_for_an_hour_in_the_evening_is_served(slot: float) -> None:
    machine = Machine(slot, met=BEFORE)
    for night in range(1, 4):
        evening = EVENING + night * 24 * HOUR
        machine.start(evening, 0.0)
        assert machine.look(evening, 0.0)
        assert machine.look(evening + HOUR, 3600.0)


def test_a_machine_that_slept_through_the_night_catches_up() -> None:
    machine = Machine(0.9, met=BEFORE)
    machine.start(EVENING - HOUR, 0.0)
    assert not machine.look(EVENING + HOUR, 7200.0)
    assert machine.look(MORNING + HOUR, 7260.0)  # a minute later by the clock that sleeps as well


def test_a_machine_that_was_awake_has_met_the_window_though_its_clock_was_corrected() -> None:
    machine = Machine(0.9, met=BEFORE)
    machine.start(EVENING - HOUR, 0.0)
    awake_s = (MORNING + HOUR - EVENING + HOUR).total_seconds()
    assert not machine.look(MORNING + HOUR, awake_s - 59.0)
    assert machine.met == MORNING


@given(slots, st.integers(-23, 23))
@settings(max_examples=30)
def test_a_clock_that_jumps_a_year_forwards_and_back_never_stops_prefetching_for_good(slot: float, hours: int) -> None:
    machine, year = Machine(slot, met=BEFORE), timedelta(days=365, hours=hours)
    machine.start(EVENING - HOUR, 0.0)
    start, now_s = EVENING - HOUR, 0.0
    for wrong in (timedelta(0), year, timedelta(0), -year, timedelta(0)):  # two days each
        fetched = 0
        for now in every(HOUR, start, start + timedelta(days=2)):
            fetched += machine.look(now + wrong, now_s)
            now_s += 3600.0
        assert fetched >= 2
        start += timedelta(days=2)


def test_always_is_always_and_nothing_is_met_by_it() -> None:
    each = Prefetch(window=ALWAYS, zone=PARIS, slot=0.9, met=BEFORE, since=BEFORE)
    assert each.allowed(MORNING + 6 * HOUR)
    assert each.next_change(MORNING) is None
    assert each.met_by(MORNING) is None
    assert each.due(MORNING, heard=BEFORE) == MORNING


NOON = BEFORE + 5.5 * HOUR


def test_an_appointment_goes_before_the_window() -> None:
    each = prefetch()
    for appointment in (NOON - HOUR, NOON + HOUR, MORNING + 2 * HOUR):
        assert each.due(NOON, heard=BEFORE, fetch_from=appointment, needed_at=NOON) == appointment


def test_what_nobody_needs_soon_waits_for_the_nodes_turn() -> None:
    each = prefetch(0.5)
    begins = turn(each, NOON)
    assert each.due(NOON, heard=BEFORE) == begins
    assert each.due(NOON, heard=BEFORE, needed_at=MORNING) == begins
    assert each.due(begins, heard=BEFORE, needed_at=MORNING) == begins
    assert prefetch(met=None, since=NOON).due(NOON, heard=NOON, needed_at=MORNING) == NOON


def test_what_is_needed_before_the_window_ends_comes_in_the_first_half_of_the_time_left() -> None:
    heard, needed = NOON, NOON + 4 * HOUR
    starts = [prefetch(n / 1000).due(NOON, heard=heard, needed_at=needed) for n in range(1000)]
    assert starts[0] == heard
    assert starts == sorted(starts)
    assert heard + 1.99 * HOUR < starts[-1] < heard + 2 * HOUR


def test_what_is_needed_in_the_night_comes_at_the_turn_where_that_is_sooner() -> None:
    needed = MORNING - timedelta(minutes=1)
    assert prefetch(0.0).due(NOON, heard=NOON, needed_at=needed) == NOON
    late = prefetch(0.99)
    assert late.due(EVENING - HOUR, heard=EVENING - HOUR, needed_at=needed) < turn(late, EVENING - HOUR)


@pytest.mark.parametrize("hours", [0, 1, 48])
def test_what_was_needed_already_is_fetched_at_once(hours: int) -> None:
    assert prefetch(0.9).due(NOON, heard=NOON, needed_at=NOON - hours * HOUR) == NOON
