from __future__ import annotations

import logging
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, cast

import attrs
import pytest
import trio
from trio.testing import MockClock

from edgeshare.config import Config, LinkConfig, LinkHours, Rate, Size, SwarmConfig
from edgeshare.errors import LibraryError
from edgeshare.hours import Window
from edgeshare.library.library import Library
from edgeshare.link import LOOK_EVERY_S, SAVE_EVERY_S, Link
from edgeshare.origin.client import OriginClient
from edgeshare.swarm.session import Swarm
from tests.support.nodes import here, write_config
from tests.support.publisher import Publisher

START = datetime(2026, 11, 24, 7, 59, tzinfo=UTC)
QUIET = LinkConfig(network_manager=False)


@attrs.define
class SwarmInMemory:
    """What the link tells a swarm, and what peers outside moved."""

    kept: dict[str, Any] = attrs.field(factory=dict)
    moved: int = 0

    def limit(self, **limits: Any) -> None:
        self.kept = limits

    async def outside_bytes(self) -> int:
        moved, self.moved = self.moved, 0
        return moved


@attrs.define
class OriginsInMemory:
    received: Counter[str] = attrs.field(factory=Counter)
    kept: int | None = None

    def limit(self, bytes_per_s: int) -> None:
        self.kept = bytes_per_s


@attrs.define
class Months:
    """The library's traffic, and how often it was written."""

    kept: dict[str, int] = attrs.field(factory=dict)
    writes: int = 0
    is_full: bool = False
    is_unreadable: bool = False

    async def traffic(self, month: str) -> int:
        if self.is_unreadable:
            raise LibraryError("the index cannot be read")
        return self.kept.get(month, 0)

    async def put_traffic(self, month: str, total: int) -> None:
        self.writes += 1
        if self.is_full:
            raise LibraryError("the disk is full")
        self.kept[month] = total


@attrs.define
class Scene:
    """A link, and all that it knows of."""

    swarm: SwarmInMemory = attrs.field(factory=SwarmInMemory)
    origins: OriginsInMemory = attrs.field(factory=OriginsInMemory)
    months: Months = attrs.field(factory=Months)
    ahead: timedelta = timedelta()  # how wrong the wall clock is

    def now(self) -> datetime:
        return START + timedelta(seconds=trio.current_time()) + self.ahead

    @asynccontextmanager
    async def link(self, config: LinkConfig, upload: int = 1000) -> AsyncIterator[Link]:
        whole = Config(origins=(), root=Path("root.json"), link=config, swarm=SwarmConfig(upload=Rate(upload)))
        parts = cast("Swarm", self.swarm), cast("OriginClient", self.origins), cast("Library", self.months)
        link = Link(*parts, whole, self.now, lambda: UTC)
        async with trio.open_nursery() as nursery:
            await nursery.start(link.run)
            yield link
            nursery.cancel_scope.cancel()


async def test_the_limits_hold_before_the_link_says_that_it_has_begun(autojump_clock: MockClock) -> None:
    scene = Scene()
    async with scene.link(attrs.evolve(QUIET, metered=True, download=Rate(800))) as link:
        assert scene.swarm.kept == {"upload": 1000, "download": 800, "outside": False}
        assert scene.origins.kept == 800
        assert link.limits.is_metered


async def test_other_limits_hold_soon_after_their_hour_has_come(autojump_clock: MockClock) -> None:
    day = LinkHours(between=Window.parse("08:00-18:00"), upload=Rate(10), download=Rate(80))
    scene = Scene()
    async with scene.link(attrs.evolve(QUIET, hours=(day,))) as link:
        assert (scene.swarm.kept["upload"], scene.swarm.kept["download"], scene.origins.kept) == (1000, 0, 0)
        await link.change()
        assert START + timedelta(minutes=1) <= scene.now() <= START + timedelta(minutes=1, seconds=LOOK_EVERY_S)
        assert (scene.swarm.kept["upload"], scene.swarm.kept["download"], scene.origins.kept) == (10, 80, 80)


async def test_peers_leave_to_the_origins_what_those_took_of_the_limit(autojump_clock: MockClock) -> None:
    scene = Scene()
    async with scene.link(attrs.evolve(QUIET, download=Rate(800))):
        for took, left in ((0, 800), (300, 500), (900, 100), (0, 800)):
            scene.origins.received["alone"] += int(took * LOOK_EVERY_S)
            await trio.sleep(LOOK_EVERY_S + 0.01)
            assert scene.swarm.kept["download"] == pytest.approx(left, abs=5)
            assert scene.origins.kept == 800


async def test_what_came_from_origins_and_moved_outside_is_counted_together(autojump_clock: MockClock) -> None:
    scene = Scene()
    async with scene.link(QUIET) as link:
        scene.origins.received.update({"metadata": 10, "alone": 100})
        scene.swarm.moved = 1000
        await trio.sleep(LOOK_EVERY_S + 0.1)
        assert link.used_bytes == 1110
        await trio.sleep(2 * LOOK_EVERY_S)
        assert link.used_bytes == 1110


async def test_the_count_goes_on_after_a_restart_and_loses_nothing_at_a_stop(autojump_clock: MockClock) -> None:
    scene = Scene()
    for total in (5, 10):
        async with scene.link(QUIET) as link:
            scene.swarm.moved = 5
            await trio.sleep(LOOK_EVERY_S + 0.1)
            assert link.used_bytes == total
        assert scene.months.kept == {"2026-11": total}


async def test_the_count_is_written_once_a_minute_at_most_and_only_when_it_changed(autojump_clock: MockClock) -> None:
    scene = Scene()
    async with scene.link(QUIET):
        for _ in range(int(10 * SAVE_EVERY_S / LOOK_EVERY_S)):
            scene.swarm.moved = 1
            await trio.sleep(LOOK_EVERY_S)
        assert 9 <= scene.months.writes <= 10
        await trio.sleep(2 * SAVE_EVERY_S)
        written = scene.months.writes
        await trio.sleep(20 * SAVE_EVERY_S)
        assert scene.months.writes == written


async def test_from_the_cap_on_the_line_is_metered_until_the_month_ends(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    scene = Scene(ahead=timedelta(days=6, hours=16))
    with caplog.at_level(logging.INFO, "edgeshare.link"):
        async with scene.link(attrs.evolve(QUIET, monthly_cap=Size(2000))) as link:
            scene.swarm.moved = 2000
            await link.change()
            assert (link.limits.is_metered, scene.swarm.kept["outside"]) == (True, False)
            await link.change()
            assert (link.limits.is_metered, scene.swarm.kept["outside"]) == (False, True)
            assert (scene.now().month, scene.now().day, link.used_bytes) == (12, 1, 0)
    assert caplog.messages == ["this month's 2.0 KiB are used", "the line is no longer metered"]
    assert scene.months.kept["2026-11"] == 2000


async def test_a_clock_that_is_wrong_for_a_while_neither_loses_nor_doubles_a_count(autojump_clock: MockClock) -> None:
    scene = Scene()
    async with scene.link(QUIET) as link:
        for wrong, total in ((0, 7), (365, 7), (0, 14)):
            scene.ahead = timedelta(days=wrong)
            await trio.sleep(2 * LOOK_EVERY_S)
            scene.swarm.moved = 7
            await trio.sleep(2 * LOOK_EVERY_S)
            assert link.used_bytes == total
    assert scene.months.kept == {"2026-11": 14, "2027-11": 7}


async def test_a_disk_that_takes_no_count_is_named_once_and_the_count_goes_on(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    scene = Scene(months=Months(is_full=True))
    async with scene.link(QUIET) as link:
        for _ in range(3):
            scene.swarm.moved = 1
            await trio.sleep(SAVE_EVERY_S + LOOK_EVERY_S)
        assert [record.levelname for record in caplog.records] == ["WARNING"]
        scene.months.is_full = False
        await trio.sleep(SAVE_EVERY_S + LOOK_EVERY_S)
        assert link.used_bytes == scene.months.kept["2026-11"] == 3


async def test_a_count_that_cannot_be_read_at_the_start_is_named_once_and_added_when_it_can(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    scene = Scene(months=Months({"2026-11": 1000}, is_unreadable=True))
    async with scene.link(QUIET) as link:
        scene.swarm.moved = 7
        await trio.sleep(2 * SAVE_EVERY_S)
        assert link.used_bytes == 7
        assert scene.months.kept == {"2026-11": 1000}  # and is not replaced by less meanwhile
        assert [record.levelname for record in caplog.records] == ["WARNING"]
        scene.months.is_unreadable = False
        await trio.sleep(SAVE_EVERY_S + LOOK_EVERY_S)
        assert link.used_bytes == scene.months.kept["2026-11"] == 1007


async def test_a_month_whose_count_cannot_be_read_when_it_begins_is_counted_all_the_same(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    scene = Scene(ahead=timedelta(days=6, hours=16))
    async with scene.link(QUIET) as link:
        scene.swarm.moved = 5
        await trio.sleep(2 * LOOK_EVERY_S)
        scene.months.is_unreadable = True
        await trio.sleep(SAVE_EVERY_S)
        scene.swarm.moved = 7
        await trio.sleep(2 * LOOK_EVERY_S)
        assert (scene.now().month, link.used_bytes) == (12, 7)
        assert [record.levelname for record in caplog.records] == ["WARNING"]
        scene.months.is_unreadable = False
        await trio.sleep(SAVE_EVERY_S + LOOK_EVERY_S)
    assert scene.months.kept == {"2026-11": 5, "2026-12": 7}


async def test_a_node_says_that_its_line_is_metered_and_why(tmp_path: Path) -> None:
    publisher = Publisher(tmp_path / "publisher")
    publisher.begin()
    config = write_config(tmp_path / "node", publisher, "http://127.0.0.1:1/", link="metered = true")
    async with here(config) as node:
        status = await node.status()
    assert status["metered"] is True
    assert status["metered_because"] == "the config says that the line is metered"
