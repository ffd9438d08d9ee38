"""A reader goes before what is fetched ahead, and on a metered link nothing else goes."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio
import trio.testing

from edgeshare import precedence
from edgeshare.config import CatalogueName
from edgeshare.manifest import LessonId
from edgeshare.view import Obstacle, State
from tests.support.content import PIECE, content, noise
from tests.support.keeping import Desk, Node, keeping
from tests.support.node import Origin

AHEAD, READ = LessonId("ahead"), LessonId("read")


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """What gave way to a reader goes on soon after him."""
    monkeypatch.setattr(precedence, "GRACE_S", 0.3)


async def test_what_is_fetched_ahead_gives_way_while_a_reader_waits_and_goes_on_after_him(tmp_path: Path) -> None:
    origin = Origin()
    desk = Desk(origin)
    ahead, read = (content({"index.html": noise(40 * PIECE, n)}) for n in range(2))
    with trio.fail_after(30):
        async with keeping(tmp_path / "node", origin, follow=(), show=(CatalogueName("cned/6e"),)) as node:
            origin.withheld = {ahead.info_hash.hex()}  # and its fetch has the node's line to the origin
            await node.keeper.admit(desk.edition(desk.publish(ahead, "ahead"), desk.publish(read, "read")))
            await node.keeper.want(AHEAD)
            await node.until(State.FETCHING, AHEAD)
            async with node.keeper.read(READ):
                await gives_way(node, AHEAD)
                assert not node.holding(READ).pause.gives_way
                await node.until(State.COMPLETE, READ)
            origin.withheld.clear()
            await node.until(State.COMPLETE, AHEAD)


@pytest.mark.parametrize("is_metered", [False, True])
async def test_what_came_for_a_reader_goes_on_for_a_moment_when_he_turns_to_the_next_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_metered: bool
) -> None:
    monkeypatch.setattr(precedence, "GRACE_S", 60.0)
    origin = Origin()
    desk = Desk(origin)
    read = content({"index.html": noise(40 * PIECE, 1)})
    with trio.fail_after(30):
        async with keeping(tmp_path / "node", origin, follow=(), show=(CatalogueName("cned/6e"),)) as node:
            origin.withheld = {read.info_hash.hex()}
            await node.keeper.admit(desk.edition(desk.publish(read, "read")))
            node.is_metered = is_metered
            async with node.keeper.read(READ):
                await node.until(State.FETCHING, READ)
                await trio.testing.wait_all_tasks_blocked(0.05)
            await trio.testing.wait_all_tasks_blocked(0.05)
            assert not node.holding(READ).pause.gives_way


async def test_a_link_that_becomes_metered_stops_what_nobody_asked_for(tmp_path: Path) -> None:
    origin = Origin()
    desk = Desk(origin)
    things = [content({"index.html": noise(PIECE, n)}) for n in range(2)]
    with trio.fail_after(30):
        async with keeping(tmp_path / "node", origin) as node:
            origin.withheld = {things[0].info_hash.hex()}
            await node.keeper.admit(desk.edition(desk.publish(things[0], "ahead"), desk.publish(things[1], "read")))
            await node.until(State.FETCHING, AHEAD)
            await node.keeper.want(READ)
            node.is_metered = True
            node.keeper.reconsider()
            await gives_way(node, AHEAD)
            view = node.keeper.display.lesson(AHEAD)
            assert view
            assert (view.state, view.obstacle) == (State.WAITING, Obstacle.METERED)
            await node.until(State.COMPLETE, READ)
            node.is_metered = False
            node.keeper.reconsider()
            origin.withheld.clear()
            await node.until(State.COMPLETE, AHEAD)


async def gives_way(node: Node, lesson: LessonId) -> None:
    """Wait until a lesson's content does."""
    holding = node.holding(lesson)
    await holding.until(lambda: holding.pause.gives_way)


async def test_what_somebody_asks_for_on_a_metered_link_comes(tmp_path: Path) -> None:
    origin = Origin()
    desk = Desk(origin)
    things = [content({"index.html": noise(8 * PIECE, n)}) for n in range(2)]
    with trio.fail_after(30):
        async with keeping(tmp_path / "node", origin, follow=(), show=(CatalogueName("cned/6e"),)) as node:
            await node.keeper.admit(desk.edition(desk.publish(things[0], "ahead"), desk.publish(things[1], "read")))
            node.is_metered = True
            node.keeper.reconsider()
            await node.keeper.want(AHEAD)
            await node.until(State.COMPLETE, AHEAD)
            await node.keeper.pin(READ)
            await node.until(State.COMPLETE, READ)
