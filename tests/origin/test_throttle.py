from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from random import Random

import httpx
import pytest
import trio
from trio.testing import MockClock

from edgeshare.origin.client import OriginClient, open_origins
from edgeshare.origin.throttle import Throttle

URL = "http://origin.example/"
RATE = 10_000  # bytes a second
BURST = RATE // 2
PORTION = 4096


def limited(rate: float, arrived: int = 0) -> Throttle:
    throttle = Throttle()
    throttle.limit(rate, 0.0)
    throttle.arrived(arrived, 0.0)
    return throttle


def test_what_has_arrived_is_paid_off_at_the_rate() -> None:
    throttle = limited(RATE, 3 * RATE)
    assert throttle.owing_s(0.0) == 3.0
    assert throttle.owing_s(2.0) == 1.0
    assert throttle.owing_s(3.0) == 0.0


def test_after_a_rest_half_a_second_comes_unpaid_and_no_more() -> None:
    throttle = limited(RATE)
    assert throttle.owing_s(1000.0) == 0.0
    throttle.arrived(BURST, 1000.0)
    assert throttle.owing_s(1000.0) == 0.0
    throttle.arrived(RATE, 1000.0)
    assert throttle.owing_s(1000.0) == 1.0


def test_another_limit_holds_for_what_is_owed_already_and_none_forgives_it() -> None:
    throttle = limited(RATE, 2 * RATE)
    throttle.limit(2 * RATE, 1.0)
    assert throttle.owing_s(1.0) == 0.5
    throttle.limit(0, 1.0)
    assert throttle.owing_s(1.0) == 0.0
    throttle.arrived(10**9, 1.0)
    throttle.limit(RATE, 2.0)
    assert throttle.owing_s(2.0) == 0.0


class Body(httpx.AsyncByteStream):
    def __init__(self, size: int) -> None:
        self._left = size

    async def __aiter__(self) -> AsyncIterator[bytes]:
        while self._left > 0:
            await trio.lowlevel.checkpoint()
            portion = min(PORTION, self._left)
            self._left -= portion
            yield bytes(portion)


class FastOrigin(httpx.AsyncBaseTransport):
    """One that sends as fast as it is read."""

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        size = int(request.url.path.rpartition("/")[2])
        return httpx.Response(200, headers={"Content-Length": str(size)}, stream=Body(size))


def in_memory() -> AbstractAsyncContextManager[OriginClient]:
    return open_origins((URL,), Random(1), transport=FastOrigin())


async def test_a_file_comes_at_the_rate_that_is_allowed(autojump_clock: MockClock) -> None:
    async with in_memory() as origins:
        origins.limit(RATE)
        assert len(await origins.file(str(20 * RATE), 10**6)) == 20 * RATE
        assert 19.0 <= trio.current_time() <= 20.0
        assert origins.last_error is None


async def test_without_a_limit_nothing_waits(autojump_clock: MockClock) -> None:
    async with in_memory() as origins:
        await origins.file(str(20 * RATE), 10**6)
        assert trio.current_time() == 0.0


async def test_readers_and_the_ration_share_one_limit_and_both_are_served(autojump_clock: MockClock) -> None:
    done: list[str] = []

    async def take(purpose: str) -> None:
        path = str(10 * RATE)

        def anything(_: bytearray) -> bool:
            return True

        await origins.span(path, 0, 10 * RATE, 10 * RATE, anything, purpose=purpose)
        done.append(purpose)

    async with in_memory() as origins:
        origins.limit(RATE)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(take, "nobody_has_it")
            nursery.start_soon(take, "reader_waits")
        assert sorted(done) == ["nobody_has_it", "reader_waits"]
        assert 19.0 <= trio.current_time() <= 20.0


async def test_a_request_waits_until_what_came_before_is_paid(autojump_clock: MockClock) -> None:
    async with in_memory() as origins:
        origins.limit(RATE)
        await origins.file(str(10 * RATE), 10**6)
        before_s = trio.current_time()
        await origins.file("1", 10**6)
        assert trio.current_time() - before_s == pytest.approx(10 * RATE % PORTION / RATE)


async def test_no_mirror_is_blamed_for_the_time_that_our_own_limit_takes(autojump_clock: MockClock) -> None:
    async with in_memory() as origins:
        origins.limit(1000)  # less than a line may crawl, and longer than any file may take
        assert len(await origins.file("300000", 10**6)) == 300_000
        assert trio.current_time() > 290.0
        assert not origins.states()[0].is_aside


async def test_a_limit_that_is_lifted_lets_go_of_who_waits(autojump_clock: MockClock) -> None:
    async with in_memory() as origins, trio.open_nursery() as nursery:
        origins.limit(1)
        nursery.start_soon(origins.file, "100000", 10**6)
        await trio.sleep(100.0)
        origins.limit(0)
        nursery.cancel_scope.deadline = trio.current_time() + 1.0
    assert not nursery.cancel_scope.cancelled_caught
