"""Connections on which nothing happens, all watched by one task.

Each has a `react` that the watching task calls when something has arrived: what can be dealt with on the spot is, and
the connection's own task sleeps on. To wake a task for an answer that is ready costs a third of the answer.
"""

from __future__ import annotations

import select
from collections.abc import Callable
from typing import Final, NoReturn, Self

import attrs
import trio

BETWEEN_TURNS: Final = 64  # connections that are reacted to before others have a turn: some ms

# Whether it is dealt with, and the task may sleep on; handed in is the time by trio's clock.
React = Callable[[float], bool]


@attrs.frozen
class _Waiting:
    react: React
    task: trio.lowlevel.Task


class Poller:
    """Watches sockets while `run` runs; its context is left after all others have stopped to wait."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._waiting: dict[int, _Waiting] = {}  # by descriptor

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._epoll.close()

    async def wait(self, descriptor: int, react: React) -> None:
        """Return when `react` has not dealt with what has come.

        It is called, in another task, whenever the socket `descriptor` can be read or its other side is gone, and may
        not raise. Nobody else may wait for the same descriptor, which stays open meanwhile.
        """
        self._epoll.register(descriptor, select.EPOLLIN)
        self._waiting[descriptor] = _Waiting(react, trio.lowlevel.current_task())

        def abort(_: object) -> trio.lowlevel.Abort:
            self._forget(descriptor)
            return trio.lowlevel.Abort.SUCCEEDED

        await trio.lowlevel.wait_task_rescheduled(abort)

    async def run(self) -> NoReturn:
        """React until cancelled."""
        while True:
            await trio.lowlevel.wait_readable(self._epoll.fileno())
            now_s = trio.current_time()
            for descriptor, _ in self._epoll.poll(0, BETWEEN_TURNS):
                waiting = self._waiting.get(descriptor)  # a reaction may have cancelled another's task
                if waiting is not None and not waiting.react(now_s):
                    self._forget(descriptor)
                    trio.lowlevel.reschedule(waiting.task)

    def _forget(self, descriptor: int) -> None:
        del self._waiting[descriptor]
        self._epoll.unregister(descriptor)
