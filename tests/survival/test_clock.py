"""A clock that jumps, as that of a machine whose battery is empty: nothing is lost by it."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio

from tests.support.nodes import apart, write_config
from tests.support.publisher import Publisher, noise
from tests.support.server import Site, serving
from tests.support.survival import Witness

pytestmark = [pytest.mark.whole, pytest.mark.timeout(300)]

LESSONS = ("lesson-0", "lesson-1")


async def test_a_clock_that_jumps_a_year_forwards_and_back_loses_nothing(tmp_path: Path) -> None:
    publisher = Publisher(tmp_path / "publisher")
    publisher.begin()
    witness = Witness(publisher)
    for lesson in LESSONS:
        witness.add(lesson, {"index.html": noise(30_000)})
    witness.release()
    clock = tmp_path / "clock"
    clock.write_text("+0d")
    async with serving(Site(publisher.repository)) as origin:
        config = write_config(tmp_path / "node", publisher, origin.url)
        async with apart(config, clock=clock) as (node, running):
            await witness.until_whole(node, *LESSONS)
            for jump, is_fresh in (("+365d", False), ("+0d", True), ("-365d", True)):
                clock.write_text(jump)
                with trio.fail_after(30):
                    while (await node.status())["fresh"] is not is_fresh:
                        await trio.sleep(0.05)
                assert set((await witness.look(node)).whole) == set(LESSONS)
            clock.write_text("+0d")
            witness.add("lesson-late", {"index.html": noise(30_000)})
            witness.release()
            await node.until("lesson-late", "complete")
            await running.stop()
            assert "Traceback" not in running.log.read_text()
        for jump in ("+365d", "-365d", "+0d"):  # and between two runs
            clock.write_text(jump)
            async with apart(config, clock=clock) as (node, _):
                assert set((await witness.look(node)).whole) == {*LESSONS, "lesson-late"}
