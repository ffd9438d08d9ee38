"""What Python's search for cycles looks at, and when."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from edgeshare import cycles
from edgeshare.config import CatalogueName
from edgeshare.manifest import LessonId
from tests.support.content import content, noise
from tests.support.keeping import Desk, keeping
from tests.support.node import Origin


class Ring:
    """An object in a cycle with itself."""

    def __init__(self) -> None:
        self.itself = self


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    yield
    assert gc.isenabled()
    gc.unfreeze()


def test_what_lasts_is_made_without_a_search_and_later_searches_pass_it_by() -> None:
    gc.unfreeze()
    with cycles.lasting():
        kept = [Ring() for _ in range(10_000)]
        with cycles.lasting():  # two editions at a time
            pass
        assert not gc.isenabled()
    assert gc.isenabled()
    assert gc.get_freeze_count() >= 10_000
    ring = weakref.ref(kept.pop())
    gc.collect()
    assert ring() is not None  # it was not looked at


async def test_what_was_dropped_in_a_cycle_goes_within_a_day_or_two_and_while_nobody_reads(
    autojump_clock: MockClock,
) -> None:
    with cycles.lasting():
        ring = weakref.ref(Ring())
    readers = 1
    async with trio.open_nursery() as nursery:
        nursery.start_soon(cycles.sweep, lambda: not readers)
        await trio.sleep(cycles.SWEEP_EVERY_S * 1.5)
        assert ring() is not None
        readers = 0
        await trio.sleep(cycles.LOOK_EVERY_S * 2)
        assert ring() is None
        with cycles.lasting():
            ring = weakref.ref(Ring())
        readers = 1
        await trio.sleep(cycles.SWEEP_EVERY_S * 2.1)  # somebody reads day and night
        assert ring() is None
        nursery.cancel_scope.cancel()


async def test_an_edition_that_was_taken_up_is_not_looked_at_any_more(tmp_path: Path) -> None:
    origin = Origin()
    desk = Desk(origin)
    lesson = content({"index.html": noise(100)})
    with trio.fail_after(30):
        async with keeping(tmp_path / "node", origin, follow=(), show=(CatalogueName("cned/6e"),)) as node:
            gc.unfreeze()
            await node.keeper.admit(desk.edition(desk.publish(lesson, "lesson")))
            manifest = node.keeper.roll.manifest(LessonId("lesson"))
            assert not any(each is manifest for each in gc.get_objects())  # which leaves out what was set apart
