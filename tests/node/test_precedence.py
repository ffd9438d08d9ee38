"""A reader goes before what is fetched ahead, and on a metered link nothing else goes."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, cast

import attrs
import pytest
import trio
import trio.testing
from trio.testing import MockClock

from edgeshare import precedence
from edgeshare.config import CatalogueName
from edgeshare.manifest import InfoHash, LessonId
from edgeshare.precedence import Precedence
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
            assert node.keeper.display.states()[State.WAITING] >= 1  # the dashboard counts it so, too
            await node.until(State.COMPLETE, READ)
            node.is_metered = False
            node.keeper.reconsider()
            origin.withheld.clear()
            await node.until(State.COMPLETE, AHEAD)


async def test_what_was_asked_for_and_gives_way_to_a_reader_is_not_said_to_wait_for_one(tmp_path: Path) -> None:
    origin = Origin()
    desk = Desk(origin)
    asked_for, read = (content({"index.html": noise(8 * PIECE, n)}) for n in range(2))
    with trio.fail_after(30):
        async with keeping(tmp_path / "node", origin, follow=(), show=(CatalogueName("cned/6e"),)) as node:
            origin.withheld = {asked_for.info_hash.hex(), read.info_hash.hex()}
            await node.keeper.admit(desk.edition(desk.publish(asked_for, "ahead"), desk.publish(read, "read")))
            node.is_metered = True
            await node.keeper.want(AHEAD)
            await node.until(State.FETCHING, AHEAD)
            async with node.keeper.read(READ):
                await gives_way(node, AHEAD)
                view = node.keeper.display.lesson(AHEAD)
                assert view
                assert view.obstacle is not Obstacle.METERED
                assert view.state is State.FETCHING
                assert node.keeper.display.states()[State.FETCHING] == 2


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


@attrs.define
class Held:
    """A content as precedence sees it."""

    info_hash: InfoHash
    bytes_have: int = 0
    is_edition: bool = False
    gives_way: bool = False

    @property
    def pause(self) -> Held:
        return self

    def give_way(self, gives_way: bool) -> None:
        self.gives_way = gives_way


@attrs.define
class Room:
    """Three contents that are fetched, in memory; `readers` says which are read."""

    first: Held = attrs.field(factory=lambda: Held(InfoHash(b"1" * 32)))
    second: Held = attrs.field(factory=lambda: Held(InfoHash(b"2" * 32)))
    ahead: Held = attrs.field(factory=lambda: Held(InfoHash(b"3" * 32)))
    readers: set[InfoHash] = attrs.field(factory=set)
    is_metered: bool = False

    @property
    def coming(self) -> list[Held]:
        return [self.first, self.second, self.ahead]

    def read(self) -> set[InfoHash]:
        return set(self.readers)


@asynccontextmanager
async def in_order(room: Room) -> AsyncGenerator[Precedence, None]:
    """Precedence at work in `room`."""
    order = Precedence(
        cast("Any", room), cast("Any", room), is_metered=lambda: room.is_metered, is_asked_for=lambda _: False
    )
    async with trio.open_nursery() as nursery:
        nursery.start_soon(order.keep)
        yield order
        nursery.cancel_scope.cancel()


async def test_what_its_reader_has_left_does_not_go_on_for_as_long_as_others_read_something_else(
    autojump_clock: MockClock,
) -> None:
    room = Room(is_metered=True)
    room.readers |= {room.first.info_hash, room.second.info_hash}
    async with in_order(room) as order:
        await trio.testing.wait_all_tasks_blocked()
        room.readers -= {room.second.info_hash}
        order.reconsider()
        await trio.testing.wait_all_tasks_blocked()
        held = [room.second.gives_way]  # the reader may turn to the next file
        for _ in range(10):  # the first one's goes on and on
            room.first.bytes_have += 1
            order.reconsider()
            await trio.sleep(precedence.GRACE_S / 5)
        held += [room.second.gives_way, room.first.gives_way]
        assert held == [False, True, False]


async def test_a_lesson_that_nobody_can_give_holds_up_no_other_when_its_reader_tries_again(
    autojump_clock: MockClock,
) -> None:
    room = Room()
    async with in_order(room) as order:
        for tries in range(3):
            room.readers |= {room.first.info_hash}
            order.reconsider()
            await trio.testing.wait_all_tasks_blocked()
            assert room.ahead.gives_way is (tries == 0)
            await trio.sleep(precedence.GRACE_S * 2)
            assert not room.ahead.gives_way
            room.readers.clear()
            order.reconsider()
            await trio.testing.wait_all_tasks_blocked()
            assert not room.ahead.gives_way
        room.readers |= {room.first.info_hash}
        room.first.bytes_have += 1
        order.reconsider()
        await trio.testing.wait_all_tasks_blocked()
        assert room.ahead.gives_way
