from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from random import Random

import pytest
import trio
import trio.testing

from edgeshare.origin.line import Line


class Queue:
    """Tasks that want the line for a second each, and the order in which they had it."""

    def __init__(self, nursery: trio.Nursery) -> None:
        self.line = Line()
        self.served: list[str] = []
        self.holding = 0
        self.most_holding = 0
        self._nursery = nursery

    async def join(self, name: str, need: float, *, for_s: float = 1.0) -> trio.CancelScope:
        """Begin to want the line; returns when it stands in it, with what takes it out again."""
        scope = trio.CancelScope()
        self._nursery.start_soon(self._want, name, need, for_s, scope)
        await trio.testing.wait_all_tasks_blocked()
        return scope

    async def _want(self, name: str, need: float, for_s: float, scope: trio.CancelScope) -> None:
        with scope:
            async with self.line.turn(need):
                self.holding += 1
                self.most_holding = max(self.most_holding, self.holding)
                self.served.append(name)
                try:
                    await trio.sleep(for_s)
                finally:
                    self.holding -= 1


@asynccontextmanager
async def queueing() -> AsyncGenerator[Queue, None]:
    """A queue; when the context ends everybody has been served, or the line was lost."""
    with trio.fail_after(1000.0):
        async with trio.open_nursery() as nursery:
            yield Queue(nursery)


async def test_one_holds_the_line_at_a_time_and_everybody_gets_it(autojump_clock: trio.testing.MockClock) -> None:
    rng = Random(1)
    names = [str(n) for n in range(30)]
    async with queueing() as queue:
        for name in names:
            await queue.join(name, rng.uniform(1, 100), for_s=rng.random())
            await trio.sleep(rng.random() / 4)
    assert sorted(queue.served) == sorted(names)
    assert queue.most_holding == 1


async def test_a_line_that_nobody_holds_is_had_at_once(autojump_clock: trio.testing.MockClock) -> None:
    line = Line()
    for _ in range(3):
        async with line.turn(1.0):
            pass
    assert trio.current_time() == 0.0


async def test_the_line_goes_to_whom_most_nodes_need_it_for(autojump_clock: trio.testing.MockClock) -> None:
    async with queueing() as queue:
        for name, need in {"first": 1.0, "few": 2.0, "most": 96.0, "many": 24.0}.items():
            await queue.join(name, need)
    assert queue.served == ["first", "most", "many", "few"]


async def test_who_has_waited_long_comes_before_a_greater_need(autojump_clock: trio.testing.MockClock) -> None:
    async with queueing() as queue:
        await queue.join("first", 1.0, for_s=10.0)
        await queue.join("few", 2.0)  # has waited for 10 s: 2 x 11
        await trio.sleep(9.0)
        await queue.join("many", 7.0)  # for 1 s: 7 x 2
        await queue.join("most", 12.0)  # 12 x 2
    assert queue.served == ["first", "most", "few", "many"]


async def test_what_few_need_comes_although_what_many_need_never_ends(autojump_clock: trio.testing.MockClock) -> None:
    async with queueing() as queue:
        await queue.join("first", 50.0)
        await queue.join("few", 1.0)
        for number in range(100):
            await queue.join(f"many {number}", 20.0)
            await trio.sleep(1.0)
    assert 30 < queue.served.index("few") < 50  # 1 x (1 + 39 s) against 20 x (1 + 1 s)


async def test_who_leaves_while_it_waits_loses_nobody_the_line(autojump_clock: trio.testing.MockClock) -> None:
    async with queueing() as queue:
        await queue.join("first", 1.0)
        leaving = await queue.join("leaves", 9.0)
        await queue.join("stays", 1.0)
        leaving.cancel()
    assert queue.served == ["first", "stays"]
    with trio.fail_after(1.0):
        async with queue.line.turn(1.0):  # nor is it held by a ghost
            assert trio.current_time() == 2.0


async def test_who_is_given_the_line_at_the_moment_it_is_cancelled_passes_it_on(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with queueing() as queue, queue.line.turn(1.0):
        leaving = await queue.join("leaves", 9.0)
        await queue.join("stays", 1.0)
        leaving.cancel()  # it has not heard of that when the line becomes free
    assert queue.served == ["stays"]
    assert trio.current_time() == 1.0


async def test_who_is_cancelled_at_the_moment_it_is_given_the_line_passes_it_on(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with queueing() as queue:
        async with queue.line.turn(1.0):
            leaving = await queue.join("leaves", 9.0)
            await queue.join("stays", 1.0)
        leaving.cancel()  # it has not heard yet that the line is its own
    assert queue.served == ["leaves", "stays"]
    assert trio.current_time() == 1.0


@pytest.mark.parametrize("ends", ["an error", "a cancellation"])
async def test_the_line_is_free_again_however_its_turn_ends(autojump_clock: trio.testing.MockClock, ends: str) -> None:
    line = Line()
    if ends == "an error":
        with pytest.raises(ValueError, match="no good"):
            async with line.turn(1.0):
                raise ValueError("no good")
    else:
        with trio.move_on_after(1.0):
            async with line.turn(1.0):
                await trio.sleep_forever()
    with trio.fail_after(1.0):
        async with line.turn(1.0):
            pass
