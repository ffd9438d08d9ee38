"""What the client does with an origin that is busy, slow, wrong or elsewhere; what is malformed is in test_client."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from functools import partial
from random import Random

import httpx
import pytest
import trio
from trio.testing import MockClock

from edgeshare.origin.client import NotFound, OriginClient, Taken, Unreachable, open_origins
from tests.support.publisher import Bytes
from tests.support.server import Answer, Asked, Server, always, endless, part_of, reply, serving

PATH = "content/ab/page.html"
MANY = 1 << 20
CONTENT = bytes(range(256)) * 4096  # 1 MiB

TAKEN = reply(429, b"taken\n", edgeshare_range="taken", retry_after="5")


def anything(_: bytearray) -> bool:
    return True


def client(*servers: Server) -> AbstractAsyncContextManager[OriginClient]:
    return open_origins(tuple(server.url for server in servers), Random(1))


Handler = Callable[[httpx.Request], httpx.Response]


def in_memory(handler: Handler, *urls: str) -> AbstractAsyncContextManager[OriginClient]:
    return open_origins(urls or ("http://a/",), Random(1), transport=httpx.MockTransport(handler))


class Slowly(httpx.AsyncByteStream):
    """A body of which a portion comes every second."""

    def __init__(self, content: bytes, portion: int) -> None:
        self._content = content
        self._portion = portion

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for start in range(0, len(self._content), self._portion):
            await trio.sleep(1.0)
            yield self._content[start : start + self._portion]


def slow_part(content: bytes, portion: int) -> httpx.Response:
    head = {"Content-Range": f"bytes 0-{len(content) - 1}/{2 * len(content)}"}
    return httpx.Response(206, headers=head, stream=Slowly(content, portion))


# A range that somebody else was given.


async def test_a_taken_range_is_for_the_swarm_and_no_other_mirror_is_asked_for_it() -> None:
    async with (
        serving(always(TAKEN)) as first,
        serving(always(reply(200, b"here"))) as second,
        client(first, second) as origins,
    ):
        with pytest.raises(Taken, match="gave it to somebody else a moment ago") as taken:
            await origins.span(PATH, 0, 4, 4, anything)
        assert 5 <= taken.value.retry_in_s <= 7.5
        assert second.asked == []
        assert origins.last_error is None


async def test_a_taken_range_does_not_hold_up_the_next_request() -> None:
    async def answer(asked: Asked, stream: trio.SocketStream) -> None:
        await stream.send_all(TAKEN if asked.path == f"/{PATH}" else part_of(CONTENT, asked))

    async with serving(answer) as server, client(server) as origins:
        with pytest.raises(Taken):
            await origins.span(PATH, 0, 4, len(CONTENT), anything)
        assert await origins.span("content/ab/other", 0, 4, len(CONTENT), anything) == CONTENT[:4]
        assert not origins.states()[0].is_aside


@pytest.mark.parametrize(
    ("advice", "least", "most"),
    [({"retry_after": "86400"}, 60.0, 90.0), ({}, 5.0, 7.5), ({"retry_after": "0"}, 1, 1.5)],
)
async def test_a_turn_is_waited_for_within_reason(advice: dict[str, str], least: float, most: float) -> None:
    async with serving(always(reply(429, b"", edgeshare_range="taken", **advice))) as server, client(server) as origins:
        with pytest.raises(Taken) as taken:
            await origins.span(PATH, 0, 4, 8, anything)
        assert least <= taken.value.retry_in_s <= most


@pytest.mark.parametrize(
    "response",
    [reply(429, retry_after="30"), reply(429, edgeshare_range="no"), reply(503, edgeshare_range="taken")],
)
async def test_what_is_not_said_to_be_taken_rests_the_mirror_and_the_next_is_asked(response: bytes) -> None:
    async with (
        serving(always(response)) as first,
        serving(always(reply(200, b"here"))) as second,
        client(first, second) as origins,
    ):
        assert await origins.span(PATH, 0, 4, 4, anything) == b"here"
        assert [state.reason for state in origins.states()] == ["asks for patience", None]


async def test_a_mirror_that_says_taken_for_ever_is_not_believed_for_ever(autojump_clock: MockClock) -> None:
    def handler(request: httpx.Request) -> httpx.Response:
        if request.url.host == "a":
            return httpx.Response(429, headers={"Edgeshare-Range": "taken", "Retry-After": "5"}, stream=Bytes(b""))
        return httpx.Response(200, stream=Bytes(b"here"))

    async with in_memory(handler, "http://a/", "http://b/") as origins:
        started = trio.current_time()
        while True:
            try:
                assert await origins.span(PATH, 0, 4, 4, anything) == b"here"
                break
            except Taken as taken:
                await trio.sleep(taken.retry_in_s)
        assert 120 < trio.current_time() - started < 130


# Mirrors with wrong bytes.


async def test_a_mirror_with_wrong_bytes_is_set_aside_for_an_hour_and_named(autojump_clock: MockClock) -> None:
    asked: list[str] = []

    def handler(request: httpx.Request) -> httpx.Response:
        asked.append(request.url.host)
        return httpx.Response(200, stream=Bytes(b"evil" if request.url.host == "evil" else b"good"))

    async with in_memory(handler, "http://evil/", "http://good/") as origins:
        for _ in range(60):
            assert await origins.span(PATH, 0, 4, 4, lambda body: body == b"good") == b"good"
            await trio.sleep(59)
        assert asked.count("evil") == 1
        evil, good = origins.states()
        assert (evil.name, evil.is_aside, good.is_aside) == ("http://evil/", True, False)
        assert evil.reason == f"sends other bytes than were published in {PATH}"
        assert evil.received_bytes == 4
        assert origins.last_error is None
        await trio.sleep(evil.until_s)
        assert await origins.span(PATH, 0, 4, 4, lambda body: body == b"good") == b"good"
        assert asked.count("evil") == 2
        assert origins.states()[0].until_s >= 7200


async def test_a_lone_mirror_is_asked_again_after_wrong_bytes(autojump_clock: MockClock) -> None:
    bodies = [b"evil", b"good"]

    async with in_memory(lambda request: httpx.Response(200, stream=Bytes(bodies.pop(0)))) as origins:
        with pytest.raises(Unreachable, match="sends other bytes") as refused:
            await origins.span(PATH, 0, 4, 4, lambda body: body == b"good")
        assert 0.5 <= refused.value.retry_in_s <= 1.0
        await trio.sleep(refused.value.retry_in_s)
        assert await origins.span(PATH, 0, 4, 4, lambda body: body == b"good") == b"good"
        assert origins.states()[0].is_aside  # its operator is to hear of it all the same


# Redirects.


def moving(status: int, asked: list[str]) -> Answer:
    """Everything is below /new/, but for what is still at its old place only."""

    async def answer(request: Asked, stream: trio.SocketStream) -> None:
        asked.append(request.path)
        if request.path.startswith("/new/"):
            await stream.send_all(reply(404) if request.path.endswith("old") else part_of(CONTENT, request))
        elif request.path.endswith("old"):
            await stream.send_all(part_of(CONTENT, request))
        else:
            await stream.send_all(reply(status, location=f"/new{request.path}"))

    return answer


@pytest.mark.parametrize("status", [301, 302, 307, 308])
async def test_a_redirect_is_paid_for_once(status: int) -> None:
    asked: list[str] = []
    async with serving(moving(status, asked)) as server, client(server) as origins:
        for start in (0, 4, 8):
            part = await origins.span(PATH, start, start + 4, len(CONTENT), anything)
            assert part == CONTENT[start : start + 4]
        assert asked == [f"/{PATH}", f"/new/{PATH}", f"/new/{PATH}", f"/new/{PATH}"]


async def test_what_did_not_move_with_the_rest_is_found_at_its_old_place() -> None:
    asked: list[str] = []
    async with serving(moving(301, asked)) as server, client(server) as origins:
        await origins.span(PATH, 0, 4, len(CONTENT), anything)
        assert await origins.span("content/ab/old", 0, 4, len(CONTENT), anything) == CONTENT[:4]
        assert asked[2:] == ["/new/content/ab/old", "/content/ab/old"]


async def test_what_is_nowhere_is_not_found_also_where_the_rest_has_moved() -> None:
    async def answer(asked: Asked, stream: trio.SocketStream) -> None:
        if asked.path.endswith("none"):
            await stream.send_all(reply(404))
        elif asked.path.startswith("/new/"):
            await stream.send_all(part_of(CONTENT, asked))
        else:
            await stream.send_all(reply(301, location=f"/new{asked.path}"))

    async with serving(answer) as server, client(server) as origins:
        await origins.span(PATH, 0, 4, len(CONTENT), anything)
        with pytest.raises(NotFound):
            await origins.file("content/none", MANY)


async def test_a_login_in_the_address_goes_along_with_a_redirect_to_the_same_server() -> None:
    async with serving(moving(301, [])) as server:
        url = server.url.replace("127", "ecole:secret@127")
        async with open_origins((url,), Random(1)) as origins:
            for _ in range(2):
                await origins.span(PATH, 0, 4, len(CONTENT), anything)
        assert all("authorization" in asked.headers for asked in server.asked)
        assert len(server.asked) == 3


# Fetches that are given up.


async def given_up_at(pause: int) -> tuple[Server, OriginClient, float]:
    """A fetch of 1 MiB that is given up when `pause` bytes have come, and what comes later takes 0.1 s.

    The server and the client after one more fetch, and how long the giving up took.
    """

    async def answer(asked: Asked, stream: trio.SocketStream) -> None:
        whole = part_of(CONTENT, asked)
        await stream.send_all(whole[: len(whole) - len(CONTENT) + pause])
        await trio.sleep(0.1)
        await stream.send_all(whole[len(whole) - len(CONTENT) + pause :])

    async with serving(answer) as server, client(server) as origins:
        took = await give_up(origins, pause)
        assert await origins.span(PATH, 0, len(CONTENT), len(CONTENT), anything) == CONTENT
        return server, origins, took


async def give_up(origins: OriginClient, after: int) -> float:
    came = 0
    with trio.CancelScope() as scope:

        def tally(count: int) -> None:
            nonlocal came
            came += count
            if came >= after:
                scope.cancel()

        started = trio.current_time()
        await origins.span(PATH, 0, len(CONTENT), len(CONTENT), anything, tally=tally)
    assert scope.cancelled_caught
    return trio.current_time() - started


async def test_a_fetch_given_up_near_its_end_keeps_its_connection() -> None:
    server, origins, _ = await given_up_at(len(CONTENT) - (60 << 10))
    assert server.connections == 1
    assert not origins.states()[0].is_aside


async def test_a_fetch_given_up_half_way_costs_its_connection_and_blames_nobody() -> None:
    server, origins, took = await given_up_at(len(CONTENT) // 2)
    assert server.connections == 2
    assert took < 0.1
    assert not origins.states()[0].is_aside


async def test_the_end_of_a_fetch_that_was_given_up_is_not_waited_for_longer_than_half_a_second() -> None:
    async def answer(asked: Asked, stream: trio.SocketStream) -> None:
        await stream.send_all(part_of(CONTENT, asked)[:-1000])
        await trio.sleep_forever()

    async with serving(answer) as server, client(server) as origins:
        assert 0.5 <= await give_up(origins, len(CONTENT) - (10 << 10)) < 2.0


async def test_a_fetch_given_up_before_its_first_piece_is_here_still_brings_that() -> None:
    _, origins, took = await given_up_at(1000)
    assert origins.received["unknown"] >= 2 * len(CONTENT)
    assert took < 2.0


async def test_a_small_part_given_up_before_its_head_came_is_still_taken_in() -> None:
    async def answer(asked: Asked, stream: trio.SocketStream) -> None:
        has_asked.set()
        await trio.sleep(0.1)
        await stream.send_all(part_of(CONTENT, asked))

    def accept(body: bytearray) -> bool:
        shown.append(bytes(body))
        return True

    has_asked, shown = trio.Event(), list[bytes]()
    async with serving(answer) as server, client(server) as origins, trio.open_nursery() as nursery:
        nursery.start_soon(partial(origins.span, PATH, 0, 1000, len(CONTENT), accept))
        await has_asked.wait()
        nursery.cancel_scope.cancel()
    assert shown[-1] == CONTENT[:1000]


async def test_a_whole_file_sent_for_a_range_is_not_read_to_its_end() -> None:
    async with serving(endless_file) as server, client(server) as origins:
        with pytest.raises(Unreachable, match="cannot send a part of a file"):
            await origins.span(PATH, 2, 6, 1 << 40, anything)
        assert origins.received.total() < 16 << 20


async def endless_file(asked: Asked, stream: trio.SocketStream) -> None:
    await stream.send_all(b"HTTP/1.1 200 OK\r\nContent-Length: 1099511627776\r\n\r\n")
    await endless(asked, stream)


# Slowness, with a clock that jumps.


async def test_a_byte_a_second_holds_a_line_for_twenty_seconds_at_most(autojump_clock: MockClock) -> None:
    async with in_memory(lambda request: slow_part(bytes(1000), 1)) as origins:
        started = trio.current_time()
        with pytest.raises(Unreachable, match="is too slow") as refused:
            await origins.span(PATH, 0, 1000, 2000, anything)
        assert trio.current_time() - started <= 20
        assert refused.value.retry_in_s >= 16
        assert origins.states()[0].reason == "is too slow"


async def test_a_stall_in_the_middle_is_noticed(autojump_clock: MockClock) -> None:
    class Stalled(httpx.AsyncByteStream):
        async def __aiter__(self) -> AsyncIterator[bytes]:
            yield bytes(500_000)
            await trio.sleep_forever()

    head = {"Content-Range": f"bytes 0-{(1 << 20) - 1}/{1 << 21}"}
    async with in_memory(lambda request: httpx.Response(206, headers=head, stream=Stalled())) as origins:
        started = trio.current_time()
        with pytest.raises(Unreachable, match="is too slow"):
            await origins.span(PATH, 0, 1 << 20, 1 << 21, anything)
        assert trio.current_time() - started <= 20


async def test_the_slowest_line_gets_its_range(autojump_clock: MockClock) -> None:
    content = bytes(200_000)
    async with in_memory(lambda request: slow_part(content, 5000)) as origins:
        assert await origins.span(PATH, 0, len(content), 2 * len(content), anything) == content


async def test_a_third_of_a_line_of_512_kbit_gets_the_biggest_piece(autojump_clock: MockClock) -> None:
    content = bytes(4 << 20)
    async with in_memory(lambda request: slow_part(content, 64_000 // 3)) as origins:
        assert await origins.span(PATH, 0, len(content), 2 * len(content), anything) == content


async def test_the_next_mirror_is_asked_when_one_crawls(autojump_clock: MockClock) -> None:
    def handler(request: httpx.Request) -> httpx.Response:
        return slow_part(bytes(1000), 1 if request.url.host == "a" else 1000)

    async with in_memory(handler, "http://a/", "http://b/") as origins:
        assert await origins.span(PATH, 0, 1000, 2000, anything) == bytes(1000)
        assert [state.is_aside for state in origins.states()] == [True, False]
