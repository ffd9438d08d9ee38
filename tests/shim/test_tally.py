from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta, tzinfo
from io import FileIO
from pathlib import Path
from typing import Any

import attrs
import httpx
import pytest
import trio

from edgeshare.errors import LibraryError
from edgeshare.httpd.messages import FileBody, Request, Response, StreamBody
from edgeshare.httpd.server import listen, serve
from edgeshare.library.library import open_library
from edgeshare.shim.tally import Source, Tally, source_of

NOVEMBER = datetime(2026, 11, 23, 8, tzinfo=UTC)
DECEMBER = datetime(2026, 12, 1, 8, tzinfo=UTC)
REQUEST: Any = None  # nothing of it is looked at


@attrs.define
class Clock:
    now: datetime = NOVEMBER

    def __call__(self) -> datetime:
        return self.now


def tally(clock: Clock | None = None) -> Tally:
    return Tally(clock or Clock(), lambda: UTC)


async def no_chunks() -> Any:
    yield b""


def file_of(count: int) -> Response:
    return Response(200, (), FileBody(FileIO(os.memfd_create("film")), 0, count))


def arriving(size: int | None) -> Response:
    return Response(200, (), StreamBody(no_chunks(), size))


def test_bytes_are_told_apart_by_where_they_came_from() -> None:
    counts = tally()
    with file_of(10).body.file as file:  # type: ignore[union-attr] # a FileBody
        counts.done(REQUEST, Response(200, (), FileBody(file, 0, 10)), 10)
    counts.done(REQUEST, arriving(20), 15)  # its reader left
    counts.done(REQUEST, arriving(None), 4)  # events of a page
    counts.done(REQUEST, Response(200, (), b"page"), 3)
    assert counts.served == {"library": 10, "swarm": 15, "pages": 7}
    assert counts.of_lessons_this_month == 25
    assert source_of(Response(304)) is Source.PAGES


def test_to_count_an_answer_costs_no_look_at_the_clock_or_its_zone() -> None:
    looks = 0

    def zone() -> tzinfo:
        nonlocal looks
        looks += 1
        return UTC

    clock = Clock()
    counts = Tally(clock, zone)
    for _ in range(100):
        counts.done(REQUEST, arriving(1), 1)
    assert looks == 1  # at the start
    clock.now = NOVEMBER - timedelta(days=40)  # a clock that was set back
    assert counts.of_lessons_this_month == 0
    assert looks == 2


def test_a_month_begins_with_nothing() -> None:
    clock = Clock()
    counts = tally(clock)
    counts.done(REQUEST, arriving(20), 20)
    clock.now = DECEMBER
    assert counts.of_lessons_this_month == 0
    assert counts.served["swarm"] == 20


async def kept(counts: Tally, library: Any) -> None:
    """Keep the counts for a moment."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(counts.keep, library)
        await trio.sleep(0.05)
        nursery.cancel_scope.cancel()


async def test_the_months_count_outlives_a_restart(tmp_path: Path) -> None:
    first, second, later = tally(), tally(), tally(Clock(DECEMBER))
    first.done(REQUEST, arriving(20), 20)
    async with open_library(tmp_path) as library:
        await kept(first, library)
        second.done(REQUEST, arriving(3), 3)
        await kept(second, library)
        await kept(later, library)
    assert second.of_lessons_this_month == 23
    assert second.served["swarm"] == 3  # since its own start
    assert later.of_lessons_this_month == 0


@attrs.define
class Unreadable:
    """A library whose index cannot be read for now."""

    put: list[str] = attrs.field(factory=list)

    async def fact(self, name: str) -> str | None:
        raise LibraryError("the index cannot be read")

    async def put_fact(self, name: str, value: str) -> None:
        self.put.append(value)


async def test_what_could_not_be_read_is_not_overwritten() -> None:
    counts, library = tally(), Unreadable()
    counts.done(REQUEST, arriving(20), 20)
    await kept(counts, library)
    assert library.put == []
    assert counts.of_lessons_this_month == 20


@pytest.mark.parametrize("text", ["", "2026-11", "2026-11 -4", "2026-11 x", "x 1"])
async def test_a_fact_that_is_none_is_nothing(tmp_path: Path, text: str) -> None:
    counts = tally()
    async with open_library(tmp_path) as library:
        await library.put_fact("served", text)
        await kept(counts, library)
        assert await library.fact("served") == "2026-11 0"


async def test_readers_are_the_connections_that_are_open() -> None:
    counts = tally()

    async def answer(request: Request) -> Response:
        return Response(200, (), b"page")

    listeners = await listen("127.0.0.1", 0)
    port = listeners[0].socket.getsockname()[1]
    async with trio.open_nursery() as nursery:
        nursery.start_soon(lambda: serve(answer, counts.counting(listeners), on_done=counts.done))
        async with httpx.AsyncClient(trust_env=False, base_url=f"http://127.0.0.1:{port}") as one:
            await one.get("/")
            async with httpx.AsyncClient(trust_env=False, base_url=f"http://127.0.0.1:{port}") as two:
                await two.get("/")
                assert counts.readers == 2
            with trio.fail_after(5):
                while counts.readers == 2:
                    await trio.sleep(0.01)  # until the server has heard that it left
            assert counts.readers == 1
            await one.get("/")
        nursery.cancel_scope.cancel()
    assert counts.readers == 0
    assert counts.served["pages"] == 12
