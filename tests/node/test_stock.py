"""What goes where there is too much, found out only where there is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from edgeshare.manifest import InfoHash
from edgeshare.stock import OPEN_S, Stock, Worth

NOTHING: Any = ()


@pytest.mark.parametrize(("free", "asked"), [(1000, 0), (10, 0), (9, 1)])
async def test_what_each_content_is_worth_is_asked_only_where_something_has_to_go(free: int, asked: int) -> None:
    times = 0

    def worths() -> Mapping[InfoHash, Worth]:
        nonlocal times
        times += 1
        return {}

    stock = Stock(NOTHING, 100, 10, worths, set)
    stock.look(free)
    stock.shrink()
    assert times == asked


async def test_who_left_a_content_is_remembered_for_an_hour(autojump_clock: MockClock) -> None:
    stock = Stock(NOTHING, 100, 10, dict, set)
    stock.was_read(InfoHash(bytes(32)))
    await trio.sleep(OPEN_S)
    stock.look(1000)
    assert stock._left_s
    await trio.sleep(1)
    stock.look(1000)
    assert not stock._left_s
