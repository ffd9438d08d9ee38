"""A node's line to the origin: one request at a time, for the lesson where a byte helps most nodes."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import attrs
import trio


@attrs.define(eq=False)
class _Waiting:
    need: float
    since_s: float
    turn: trio.Event = attrs.field(factory=trio.Event)


class Line:
    """Who waits gets its turn by need times waiting, so that what few need comes later, and comes."""

    def __init__(self) -> None:
        self._is_taken = False
        self._waiting: list[_Waiting] = []

    @asynccontextmanager
    async def turn(self, need: float) -> AsyncGenerator[bool, None]:
        """Hold the line, and hear whether it took waiting; `need` is how many nodes the bytes are for."""
        has_waited = self._is_taken
        if has_waited:
            waiting = _Waiting(need, trio.current_time())
            self._waiting.append(waiting)
            try:
                await waiting.turn.wait()
            except trio.Cancelled:
                if waiting.turn.is_set():  # given to one who no longer wants it
                    self._pass_on()
                else:
                    self._waiting.remove(waiting)
                raise
        else:
            self._is_taken = True
        try:
            yield has_waited
        finally:
            self._pass_on()

    def _pass_on(self) -> None:
        now_s = trio.current_time()
        if self._waiting:
            following = max(self._waiting, key=lambda each: each.need * (1.0 + now_s - each.since_s))
            self._waiting.remove(following)
            following.turn.set()
        else:
            self._is_taken = False
