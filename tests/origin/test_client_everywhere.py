"""One file, asked of all mirrors side by side."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager

import pytest
import trio

from edgeshare.origin.answers import TooLong
from edgeshare.origin.client import NotFound, OriginClient, Unreachable
from tests.origin.test_client import client
from tests.support.server import Answer, Asked, Server, always, drip, endless, reply, serving, silence

PATH = ("metadata", "timestamp.json")


@asynccontextmanager
async def asking(
    *answers: Answer, before: Server | None = None
) -> AsyncGenerator[tuple[OriginClient, Server, Server], None]:
    """A client of two servers, with perhaps another before them."""
    async with AsyncExitStack() as stack:
        one, two = [await stack.enter_async_context(serving(answer)) for answer in answers]
        servers = [before, one, two] if before else [one, two]
        yield await stack.enter_async_context(client(*servers)), one, two


async def test_each_mirror_is_asked_and_every_answer_comes_with_its_name() -> None:
    async with asking(always(reply(200, b"old")), always(reply(200, b"new"))) as (origins, one, two):
        given = await origins.everywhere(PATH, 10)
    assert [(each.mirror, each.content) for each in given] == [(one.url, b"old"), (two.url, b"new")]


async def test_mirrors_that_are_down_or_have_nothing_do_not_hide_what_another_has() -> None:
    async with serving(always(reply(200, b"here"))) as down:
        pass
    async with asking(always(reply(404)), always(reply(200, b"here")), before=down) as (origins, _, full):
        given = await origins.everywhere(PATH, 10)
        assert origins.last_error is None
    assert [each.mirror for each in given] == [full.url]


async def test_that_there_is_no_such_file_counts_when_nobody_who_answers_has_it() -> None:
    async with asking(always(reply(500)), always(reply(404))) as (origins, _, empty):
        with pytest.raises(NotFound, match=f"^{empty.url} has no metadata/timestamp.json$"):
            await origins.everywhere(PATH, 10)


async def test_where_nobody_answers_every_reason_is_told_and_kept() -> None:
    async with asking(always(reply(500)), endless) as (origins, broken, long):
        with pytest.raises(Unreachable) as refused:
            await origins.everywhere(PATH, 10)
    assert f"{broken.url} answers 500" in str(refused.value)
    assert f"{long.url} sends more than 10 bytes" in str(refused.value)
    assert any(isinstance(cause, TooLong) for cause in refused.value.causes)


@pytest.mark.parametrize("answer", [silence, drip])
async def test_a_slow_mirror_is_not_waited_for_once_another_has_answered(
    answer: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edgeshare.origin.client._OTHERS_S", 0.5)
    async with asking(silence if answer is silence else drip, always(reply(200, b"here"))) as (origins, _, quick):
        started = trio.current_time()
        given = await origins.everywhere(PATH, 2000)
        assert [each.mirror for each in given] == [quick.url]
        assert trio.current_time() - started < 3
        assert origins.states()[0].reason == "is too slow"  # the next file need not wait for it again


async def test_that_somebody_else_was_given_it_is_no_answer_where_metadata_is_asked_for() -> None:
    taken = reply(429, edgeshare_range="taken", retry_after="1")
    async with asking(always(taken), always(reply(200, b"here"))) as (origins, one, two):
        assert (await origins.given(PATH, 10)).mirror == two.url
        assert [each.mirror for each in await origins.everywhere(PATH, 10)] == [two.url]
        assert origins.states()[0].is_aside
        assert len(one.asked) == 1


async def test_a_file_of_metadata_that_comes_too_slowly_is_asked_of_the_next_mirror(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("edgeshare.origin.client._METADATA_S", 0.5)

    async def trickle(_: Asked, stream: trio.SocketStream) -> None:
        await stream.send_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2000000\r\n\r\n")
        while True:
            await trio.sleep(0.1)  # the period is the point
            await stream.send_all(bytes(5000))

    async with asking(trickle, always(reply(200, b"here"))) as (origins, one, two):
        started = trio.current_time()
        assert (await origins.given(PATH, 2_000_000)).mirror == two.url
        assert trio.current_time() - started < 3
        assert (origins.states()[0].name, origins.states()[0].reason) == (one.url, "is too slow")


async def test_a_mirror_that_is_set_aside_is_not_asked_while_another_is_there() -> None:
    async with asking(always(reply(200, b"one")), always(reply(200, b"two"))) as (origins, one, two):
        origins.set_aside(one.url, "sends a forgery")
        assert [each.mirror for each in await origins.everywhere(PATH, 10)] == [two.url]
        assert (await origins.given(PATH, 10)).mirror == two.url
        state = origins.states()[0]
    assert (state.is_aside, state.reason) == (True, "sends a forgery")
    assert state.until_s > 3000
    assert one.asked == []


async def test_the_mirror_that_is_named_is_asked_first() -> None:
    async with asking(always(reply(200, b"one")), always(reply(200, b"two"))) as (origins, one, two):
        assert (await origins.given(PATH, 10, first=two.url)).mirror == two.url
        assert (await origins.given(PATH, 10, besides=[two.url], first=two.url)).mirror == one.url


async def test_a_slash_inside_a_segment_is_part_of_its_name() -> None:
    async def answer(asked: Asked, stream: trio.SocketStream) -> None:
        await stream.send_all(reply(200, asked.path.encode()))

    async with serving(answer) as server, client(server) as origins:
        assert (await origins.given(("metadata", "1.../a?.json"), 100)).content == b"/metadata/1...%2Fa%3F.json"
