"""When a node begins with what it only follows."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from random import Random
from typing import Any
from zoneinfo import ZoneInfo

import attrs
import pytest
import trio
import trio.testing

from edgeshare import precedence
from edgeshare.config import ScheduleConfig
from edgeshare.hours import ALWAYS, Window
from edgeshare.library.library import Library, open_library
from edgeshare.manifest import LessonId, LessonManifest
from edgeshare.prefetch import Timetable
from edgeshare.view import Obstacle, State
from tests.support.content import PIECE, content, noise
from tests.support.keeping import FRACTIONS, Desk, keeping
from tests.support.node import Origin

PARIS = ZoneInfo("Europe/Paris")
NIGHT = Window.parse("20:00-06:30")
NOON = datetime(2026, 11, 24, 12, tzinfo=PARIS)
EVENING = datetime(2026, 11, 23, 18, tzinfo=PARIS)
LAST_NIGHT = datetime(2026, 11, 24, 6, 30, tzinfo=PARIS)
HOUR_S = 3600.0


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """What gave way to a reader goes on soon after him."""
    monkeypatch.setattr(precedence, "GRACE_S", 0.3)


class Halfway(Random):
    """Draws the middle."""

    def random(self) -> float:
        return 0.5


@pytest.fixture
async def library(tmp_path: Path) -> AsyncIterator[Library]:
    async with open_library(tmp_path / "library") as opened:
        yield opened


def lesson(name: str = "fractions", **fields: Any) -> LessonManifest:
    thing = content({"index.html": noise(PIECE, sum(name.encode()))})
    return Desk(Origin()).sign(thing, name, **fields).manifest


async def timetable(library: Library, now: datetime, window: Window = NIGHT) -> Timetable:
    found = Timetable(library, window, PARIS, Halfway(), now)
    await found.remember()
    return found


async def met_last_night(library: Library) -> None:
    await library.put_fact("window_met", LAST_NIGHT.astimezone(UTC).isoformat())


async def test_a_node_that_met_last_night_waits_for_its_turn_in_the_next(library: Library) -> None:
    await met_last_night(library)
    table, wanted = await timetable(library, NOON), lesson()
    turn = table.turn([wanted], NOON)
    assert not turn.due
    assert turn.later == {wanted.info_hash}
    assert turn.look_at == datetime(2026, 11, 24, 23, 56, 15, tzinfo=PARIS)  # half of three quarters of 10.5 hours
    assert table.turn([wanted], turn.look_at).due == (wanted,)


async def test_a_node_that_was_off_at_night_begins_when_it_starts(library: Library) -> None:
    wanted = lesson()
    assert (await timetable(library, NOON)).turn([wanted], NOON).due == (wanted,)


@pytest.mark.parametrize("window", [NIGHT, ALWAYS])
async def test_without_a_window_nothing_waits(library: Library, window: Window) -> None:
    await met_last_night(library)
    turn = (await timetable(library, NOON, window)).turn([lesson()], NOON)
    assert bool(turn.due) == window.is_always
    assert (turn.look_at is None) == window.is_always


async def test_a_night_that_a_node_was_on_through_is_known_after_a_restart(
    library: Library, autojump_clock: trio.testing.MockClock
) -> None:
    table = await timetable(library, EVENING)
    await trio.sleep(18 * HOUR_S)
    await table.look(NOON)
    assert not (await timetable(library, NOON)).turn([lesson()], NOON).due


async def test_a_night_that_a_machine_slept_through_is_caught_up_with(
    library: Library, autojump_clock: trio.testing.MockClock
) -> None:
    table = await timetable(library, EVENING)
    await trio.sleep(60.0)  # and then the lid was shut: the clock that only goes forwards stood still
    await table.look(NOON)
    assert table.turn([wanted := lesson()], NOON).due == (wanted,)


async def test_a_night_in_which_the_origins_were_not_heard_is_caught_up_with(
    library: Library, autojump_clock: trio.testing.MockClock
) -> None:
    table = await timetable(library, EVENING)
    await trio.sleep(18 * HOUR_S)
    table.hear_again(NOON)
    await table.look(NOON)
    assert table.turn([wanted := lesson()], NOON).due == (wanted,)


async def test_what_is_needed_today_does_not_wait_for_the_night(library: Library) -> None:
    await met_last_night(library)
    table = await timetable(library, NOON)
    wanted = lesson(needed_at=NOON + timedelta(hours=4))
    turn = table.turn([wanted], NOON)
    assert turn.look_at == NOON + timedelta(hours=1)  # the middle of the first half of the time that is left
    assert table.turn([wanted], turn.look_at).due == (wanted,)


async def test_appointments_go_first_and_then_what_is_needed_soonest(library: Library) -> None:
    table = await timetable(library, NOON)
    some, soon = lesson("some"), lesson("soon", needed_at=NOON + timedelta(hours=20))
    later = lesson("later", needed_at=NOON + timedelta(days=3))
    appointed = lesson("appointed", fetch_from=NOON - timedelta(minutes=1))
    coming = lesson("coming", fetch_from=NOON + timedelta(minutes=1))
    turn = table.turn([some, later, coming, soon, appointed], NOON)
    assert turn.due == (appointed, soon, later, some)
    assert turn.later == {coming.info_hash}
    assert turn.look_at == NOON + timedelta(minutes=1)


async def test_a_time_in_the_library_that_is_none_means_catching_up(library: Library) -> None:
    await library.put_fact("window_met", "yesterday")
    assert (await timetable(library, NOON)).turn([lesson()], NOON).due


def in_an_hour() -> ScheduleConfig:
    """A window that opens in one to two hours by this machine's clock, and shuts in three to four."""
    now = datetime.now().astimezone()
    return ScheduleConfig(window=Window.parse(f"{now + timedelta(hours=2):%H}:00-{now + timedelta(hours=4):%H}:00"))


async def test_a_followed_lesson_waits_for_the_night_and_one_that_is_asked_for_does_not(tmp_path: Path) -> None:
    origin = Origin()
    desk = Desk(origin)
    schedule = in_an_hour()
    with trio.fail_after(30):
        async with open_library(tmp_path / "node") as library:
            last = schedule.window.last(datetime.now(UTC), datetime.now().astimezone().tzinfo or UTC)
            await library.put_fact("window_met", last.stop.isoformat())
        async with keeping(tmp_path / "node", origin, schedule=schedule) as node:
            things = [desk.publish(content({"index.html": noise(PIECE, n)}), f"lesson-{n}") for n in range(3)]
            await node.keeper.admit(desk.edition(*things))
            for view in node.keeper.display.lessons():
                assert (view.state, view.obstacle) == (State.WAITING, Obstacle.LATER)
                assert view.reason == f"it is fetched ahead at {schedule.window}"
            await node.text(lesson=LessonId("lesson-0"))
            await node.keeper.want(LessonId("lesson-1"))
            await node.until(State.COMPLETE, LessonId("lesson-0"))
            await node.until(State.COMPLETE, LessonId("lesson-1"))
            left = node.keeper.display.lesson(LessonId("lesson-2"))
            assert left
            assert left.state is State.WAITING
            node.later(hours=4)
            node.keeper.reconsider()
            await node.until(State.COMPLETE, LessonId("lesson-2"))


async def test_on_a_metered_link_nothing_is_fetched_ahead(tmp_path: Path) -> None:
    origin = Origin()
    desk = Desk(origin)
    with trio.fail_after(30):
        async with keeping(tmp_path / "node", origin) as node:
            node.is_metered = True
            await node.keeper.admit(desk.edition(desk.publish(content({"index.html": noise(PIECE, 1)}))))
            view = node.keeper.display.lesson(FRACTIONS)
            assert view
            assert (view.state, view.obstacle) == (State.WAITING, Obstacle.METERED)
            assert attrs.asdict(view)["reason"].startswith("this link is metered")
            await node.text()
            await node.until(State.COMPLETE)
