from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from email.utils import formatdate
from random import Random
from typing import Any

import httpx
import pytest
import trio
from trio.testing import MockClock

from edgeshare.errors import ConfigError
from edgeshare.origin.client import NotFound, OriginClient, Unreachable, open_origins
from tests.support.server import Answer, Asked, Server, always, drip, endless, reply, serving, silence

PATH = "content/ab/page.html"
MANY = 1000


def client(*servers: Server | str, slowest_s: float = 20.0) -> AbstractAsyncContextManager[OriginClient]:
    urls = tuple(each if isinstance(each, str) else each.url for each in servers)
    return open_origins(urls, Random(1), slowest_s=slowest_s)


async def refusal(answer: Answer, *, most: int = MANY, slowest_s: float = 20.0) -> str:
    """What the client says of a server, without its name, when it is asked for a file."""
    async with serving(answer) as server, client(server, slowest_s=slowest_s) as origins:
        with pytest.raises(Unreachable) as refused:
            await origins.file(PATH, most)
        assert origins.last_error == str(refused.value)
        return str(refused.value).removeprefix(f"{server.url} ")


async def span_refusal(answer: Answer, start: int = 2, stop: int = 6) -> str:
    """The same for some of the bytes of a file of 10."""
    async with serving(answer) as server, client(server) as origins:
        with pytest.raises(Unreachable) as refused:
            await origins.span(PATH, start, stop, 10, accept=lambda body: True)
        return str(refused.value).removeprefix(f"{server.url} ")


def chunked(*portions: bytes) -> bytes:
    """A part of a file whose length nobody announced."""
    body = b"".join(b"%x\r\n%s\r\n" % (len(each), each) for each in (*portions, b""))
    return b"HTTP/1.1 206 Part\r\nContent-Range: bytes 2-5/10\r\nTransfer-Encoding: chunked\r\n\r\n" + body


async def test_a_file_comes_whole() -> None:
    async with serving(always(reply(200, b"hello"))) as server, client(server) as origins:
        assert await origins.file("content/ab/l'été/a b#?%.txt", 5) == b"hello"
        assert server.asked[0].path == "/content/ab/l%27%C3%A9t%C3%A9/a%20b%23%3F%25.txt"


async def test_a_range_is_asked_for_and_comes() -> None:
    part = reply(206, b"2345", content_range="bytes 2-5/10")
    async with serving(always(part)) as server, client(server) as origins:
        assert await origins.span(PATH, 2, 6, 10, accept=b"2345".startswith) == b"2345"
        assert server.asked[0].headers["range"] == "bytes=2-5"


async def test_one_connection_serves_many_requests_also_those_that_find_nothing() -> None:
    async def answer(asked: Asked, stream: trio.SocketStream) -> None:
        gone = {"/missing": reply(404, b"<h1>Not found</h1>", content_type="text/html"), "/gone": reply(410)}
        moved = {"/moved": reply(302, b"there", location="/here")}
        await stream.send_all((gone | moved).get(asked.path, reply(200, b"here")))

    async with serving(answer) as server, client(server) as origins:
        for path in ("a", "missing", "gone", "moved", "b"):
            try:
                assert await origins.file(path, MANY) == b"here"
            except NotFound:
                assert path in ("missing", "gone")
        assert server.connections == 1


async def test_nothing_is_asked_for_in_compressed_form_and_no_cookie_is_kept() -> None:
    async with serving(always(reply(200, b"x", set_cookie="home=17; Path=/"))) as server, client(server) as origins:
        await origins.file("a", MANY)
        await origins.file("b", MANY)
        assert [asked.headers["accept-encoding"] for asked in server.asked] == ["identity", "identity"]
        assert not any("cookie" in asked.headers for asked in server.asked)


async def test_three_connections_at_most_and_who_waits_for_one_blames_no_mirror() -> None:
    async def slow(_: Asked, stream: trio.SocketStream) -> None:
        await trio.sleep(0.2)
        await stream.send_all(reply(206, b"2345", content_range="bytes 2-5/10"))

    async with serving(slow) as server, client(server, slowest_s=0.5) as origins, trio.open_nursery() as nursery:
        for _ in range(8):
            nursery.start_soon(origins.span, PATH, 2, 6, 10, lambda body: True)
    assert server.connections == 3
    assert origins.last_error is None


async def test_a_server_that_is_down_cannot_be_reached() -> None:
    async with serving(silence) as server:
        pass
    async with client(server) as origins:
        with pytest.raises(Unreachable, match=rf"{server.url} cannot be reached"):
            await origins.file(PATH, MANY)


async def test_a_web_page_with_200_is_no_metadata() -> None:
    page = reply(200, b"<html>Sign in</html>", content_type="text/html; charset=utf-8")
    assert await refusal(always(page)) == "answers with a web page (a login page?)"
    assert await span_refusal(always(page)) == "answers with a web page (a login page?)"
    assert await span_refusal(always(page), 0, 10) == "answers with a web page (a login page?)"


async def test_a_page_of_a_lesson_may_come_with_200_when_all_of_it_was_asked_for() -> None:
    page = reply(200, b"<p>a page ", content_type="text/html")
    async with serving(always(page)) as server, client(server) as origins:
        assert await origins.span(PATH, 0, 10, 10, accept=lambda body: True) == b"<p>a page "


@pytest.mark.parametrize(
    ("response", "said"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf", "breaks off in the middle, or does not speak HTTP"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhal", "breaks off in the middle, or does not"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nhalf", "breaks off in the middle, or"),
        (b"SSH-2.0-OpenSSH_9.2\r\n", "breaks off in the middle, or does not speak HTTP"),
        (b"", "breaks off in the middle, or does not speak HTTP"),
    ],
)
async def test_a_torn_answer_is_refused(response: bytes, said: str) -> None:
    assert (await refusal(always(response, then_close=True))).startswith(said)


async def test_more_than_was_announced_is_not_read() -> None:
    async with (
        serving(always(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabcdef", then_close=True)) as server,
        client(server) as origins,
    ):
        assert await origins.file(PATH, MANY) == b"abc"


async def test_a_size_is_taken_at_the_limit_and_refused_one_past_it() -> None:
    async with serving(always(reply(200, bytes(MANY)))) as server, client(server) as origins:
        assert len(await origins.file(PATH, MANY)) == MANY
    assert await refusal(always(reply(200, bytes(MANY + 1)))) == f"announces {MANY + 1} bytes, more than {MANY}"


async def test_a_body_without_an_end_is_cut() -> None:
    assert await refusal(endless) == f"sends more than {MANY} bytes"


async def test_a_byte_now_and_then_is_cut_at_the_deadline() -> None:
    started = trio.current_time()
    assert await refusal(drip, slowest_s=0.5) == "is too slow"
    assert trio.current_time() - started < 5


async def test_silence_is_cut_at_the_deadline() -> None:
    assert await refusal(silence, slowest_s=0.3) == "is too slow"


@pytest.mark.whole
async def test_what_was_cut_leaves_its_place_to_the_next() -> None:
    async def answer(asked: Asked, stream: trio.SocketStream) -> None:
        await (drip(asked, stream) if asked.path == "/slow" else stream.send_all(reply(200, b"fast")))

    async with serving(answer) as server, client(server) as origins:
        for _ in range(5):
            with trio.move_on_after(0.1):
                await origins.file("slow", MANY)
        assert await origins.file("fast", MANY) == b"fast"


@pytest.mark.parametrize(
    ("location", "said"),
    [
        ("http://login.example/", "redirects to another place (a login page?)"),
        ("http://127.0.0.1:1/", "redirects to another place (a login page?)"),
        ("//169.254.169.254/", "redirects to another place (a login page?)"),
        ("file:///etc/passwd", "redirects to another place (a login page?)"),
        ("http://[", "redirects to another place (a login page?)"),
        ("http://127.0.0.1:x/", "breaks off in the middle, or does not speak HTTP"),
        ("https://127.0.0.1.login.example/", "redirects to another place (a login page?)"),
    ],
)
async def test_a_redirect_to_elsewhere_is_not_followed(location: str, said: str) -> None:
    assert await refusal(always(reply(302, location=location))) == said


async def test_a_redirect_without_a_place_is_refused() -> None:
    assert await refusal(always(reply(302))) == "answers 302"


async def test_a_redirect_on_the_same_server_is_followed_five_times_and_no_further() -> None:
    async def answer(asked: Asked, stream: trio.SocketStream) -> None:
        left = int(asked.path[1:])
        await stream.send_all(reply(302, location=f"/{left - 1}") if left else reply(200, b"found"))

    async with serving(answer) as server, client(server) as origins:
        assert await origins.file("5", MANY) == b"found"
        with pytest.raises(Unreachable, match="redirects more than 5 times"):
            await origins.file("6", MANY)


async def test_a_redirect_from_https_to_http_is_not_followed() -> None:
    seen: list[str] = []

    def handler(request: httpx.Request) -> httpx.Response:
        seen.append(str(request.url))
        return httpx.Response(302, headers={"Location": "http://a.example/x"})

    async with open_origins(("https://a.example/",), Random(1), transport=httpx.MockTransport(handler)) as origins:
        with pytest.raises(Unreachable, match="redirects from https to http"):
            await origins.file("x", MANY)
    assert seen == ["https://a.example/x"]


async def test_a_redirect_from_http_to_https_is_followed() -> None:
    def handler(request: httpx.Request) -> httpx.Response:
        if request.url.scheme == "http":
            return httpx.Response(301, headers={"Location": "https://a.example/x"})
        return at_last()

    async with open_origins(("http://a.example/",), Random(1), transport=httpx.MockTransport(handler)) as origins:
        assert await origins.file("x", MANY) == b"at last"


@pytest.mark.parametrize(
    ("response", "said"),
    [
        (reply(206, b"0123", content_range="bytes 0-3/10"), "sends another part of the file, or another file, than"),
        (reply(206, b"2345", content_range="bytes 2-5/11"), "sends another part of the file, or another file, than"),
        (reply(206, b"2345"), "sends another part of the file, or another file, than was asked for"),
        (reply(206, b"234", content_range="bytes 2-5/10"), "announces 3 bytes where 4 were asked for"),
        (reply(206, b"23456", content_range="bytes 2-5/10"), "announces 5 bytes where 4 were asked for"),
        (reply(206, b"2345", content_range="bytes 2-5/*"), "sends another part of the file, or another file, than"),
        (
            reply(
                206,
                b"--x\r\nContent-Range: bytes 2-5/10\r\n\r\n2345\r\n--x--",
                content_type="multipart/byteranges; boundary=x",
            ),
            "sends another part of the file, or another file, than was asked for",
        ),
        (chunked(b"2345", b"6"), "sends more than 4 bytes"),
        (chunked(b"23"), "sends 2 bytes where it should send 4"),
        (reply(200, b"0123456789"), "cannot send a part of a file"),
        (reply(200, bytes(1 << 20)), "cannot send a part of a file"),
        (reply(206, b"2345", x_padding="x" * 200_000), "breaks off in the middle, or does not speak HTTP"),
        (reply(416, content_range="bytes */10"), "answers 416"),
        (reply(500), "answers 500"),
    ],
)
async def test_another_part_than_was_asked_for_is_refused(response: bytes, said: str) -> None:
    assert (await span_refusal(always(response))).startswith(said)


async def test_a_part_that_breaks_off_is_refused() -> None:
    torn = b"HTTP/1.1 206 Part\r\nContent-Range: bytes 2-5/10\r\nConnection: close\r\n\r\n23"
    assert await span_refusal(always(torn, then_close=True)) == "sends 2 bytes where it should send 4"


async def test_a_server_without_ranges_may_send_a_whole_file_when_all_of_it_is_wanted() -> None:
    async with serving(always(reply(200, b"0123456789"))) as server, client(server) as origins:
        assert await origins.span(PATH, 0, 10, 10, accept=lambda body: True) == b"0123456789"


async def test_compressed_bytes_are_refused_unread() -> None:
    bomb = reply(200, b"\x1f\x8b" + bytes(100), content_encoding="gzip")
    assert await refusal(always(bomb)) == "sends compressed bytes, which were not asked for"


async def test_a_proxy_that_asks_for_a_login_is_named() -> None:
    assert await refusal(always(reply(407))) == "is behind a proxy that asks for a login (407)"


async def test_a_proxy_from_the_environment_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    async with serving(always(reply(200, b"by proxy"))) as proxy:
        monkeypatch.setenv("HTTP_PROXY", proxy.url)
        monkeypatch.delenv("NO_PROXY", raising=False)
        async with client("http://lecons.example/") as origins:
            assert await origins.file(PATH, MANY) == b"by proxy"
        assert proxy.asked[0].path == f"http://lecons.example/{PATH}"


async def test_a_proxy_that_refuses_https_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    async with serving(always(reply(407))) as proxy:
        monkeypatch.setenv("HTTPS_PROXY", proxy.url)
        monkeypatch.delenv("NO_PROXY", raising=False)
        async with client("https://lecons.example/") as origins:
            with pytest.raises(Unreachable, match=r"cannot be reached through the proxy \(does it ask for a login\?\)"):
                await origins.file(PATH, MANY)


async def test_a_proxy_that_cannot_be_is_refused_with_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALL_PROXY", "ftp://proxy.example:21")
    with pytest.raises(ConfigError, match="the proxy in the environment cannot be used: give HTTP_PROXY"):
        async with client("https://lecons.example/"):
            pass


@pytest.mark.parametrize("url", ["lecons.example", "ftp://lecons.example/", "http://[", "http:///x", "https://a/?b=c"])
async def test_an_origin_that_is_no_address_is_refused(url: str) -> None:
    with pytest.raises(ConfigError, match="is not an http or https address"):
        async with client(url):
            pass


async def test_a_password_in_an_origins_address_is_used_and_never_shown() -> None:
    async with (
        serving(always(reply(500))) as server,
        client(server.url.replace("127", "ecole:secret@127")) as origins,
    ):
        with pytest.raises(Unreachable) as refused:
            await origins.file(PATH, MANY)
    assert "authorization" in server.asked[0].headers
    assert str(refused.value) == f"{server.url} answers 500"


async def test_other_bytes_than_were_published_are_refused_and_the_next_mirror_is_asked() -> None:
    def part(body: bytes) -> Answer:
        return always(reply(206, body, content_range="bytes 2-5/10"))

    async with serving(part(b"evil")) as evil, serving(part(b"good")) as good, client(evil, good) as origins:
        assert await origins.span(PATH, 2, 6, 10, accept=b"good".startswith) == b"good"
        assert await origins.span(PATH, 2, 6, 10, accept=b"good".startswith) == b"good"
        assert len(evil.asked) == 1  # it is left alone
    assert await span_refusal_of(part(b"evil")) == f"sends other bytes than were published in {PATH}"


async def span_refusal_of(answer: Answer) -> str:
    async with serving(answer) as server, client(server) as origins:
        with pytest.raises(Unreachable) as refused:
            await origins.span(PATH, 2, 6, 10, accept=lambda body: False)
        return str(refused.value).removeprefix(f"{server.url} ")


async def test_the_second_mirror_takes_over() -> None:
    async with serving(silence) as down:
        pass
    async with serving(always(reply(200, b"here"))) as up, client(down, up) as origins:
        given = await origins.given(PATH, MANY)
        assert (given.content, given.mirror) == (b"here", up.url)
        assert origins.last_error is None


async def test_a_mirror_that_is_not_to_be_asked_is_not() -> None:
    async with (
        serving(always(reply(200, b"one"))) as one,
        serving(always(reply(200, b"two"))) as two,
        client(one, two) as origins,
    ):
        assert (await origins.given(PATH, MANY, besides={one.url})).content == b"two"
        assert one.asked == []


async def test_what_every_mirror_lacks_is_not_found() -> None:
    async with serving(always(reply(404))) as one, serving(always(reply(404))) as two, client(one, two) as origins:
        with pytest.raises(NotFound) as missing:
            await origins.file(PATH, MANY)
    assert str(missing.value) == f"{one.url} has no {PATH}; {two.url} has no {PATH}"


async def test_what_one_mirror_lacks_another_may_have() -> None:
    async with (
        serving(always(reply(404))) as one,
        serving(always(reply(200, b"here"))) as two,
        client(one, two) as origins,
    ):
        assert await origins.file(PATH, MANY) == b"here"


async def test_a_mirror_that_is_down_does_not_hide_that_the_other_has_no_such_file() -> None:
    async with serving(silence) as down:
        pass
    async with serving(always(reply(404))) as up, client(down, up) as origins:
        with pytest.raises(NotFound, match=f"{up.url} has no {PATH}"):
            await origins.file(PATH, MANY)


# What takes time, with a clock that jumps: the transport is in memory.

Handler = Callable[[httpx.Request], httpx.Response]


class Body(httpx.AsyncByteStream):
    """Bytes that come from the network, as the client expects them: unread."""

    async def __aiter__(self) -> AsyncIterator[bytes]:
        yield b"at last"


def at_last() -> httpx.Response:
    return httpx.Response(200, stream=Body())


def in_memory(handler: Handler, *urls: str, seed: int = 1) -> AbstractAsyncContextManager[OriginClient]:
    return open_origins(urls or ("http://a/",), Random(seed), transport=httpx.MockTransport(handler))


def busy(**headers: Any) -> Handler:
    return lambda request: httpx.Response(503, headers={name.replace("_", "-"): v for name, v in headers.items()})


@pytest.mark.parametrize("status", [503, 429])
async def test_an_origin_is_left_alone_as_long_as_it_asks(autojump_clock: MockClock, status: int) -> None:
    answers = [httpx.Response(status, headers={"Retry-After": "90"}), at_last()]
    asked_at: list[float] = []

    def handler(_: httpx.Request) -> httpx.Response:
        asked_at.append(trio.current_time())
        return answers.pop(0)

    async with in_memory(handler) as origins:
        started = trio.current_time()
        for _ in range(1000):
            try:
                assert await origins.file(PATH, MANY) == b"at last"
                break
            except Unreachable as error:
                await trio.sleep(min(1.0, error.retry_in_s))
            assert "asks for patience" in str(origins.last_error)
    assert len(asked_at) == 2  # all tries in between stayed at home
    assert 90 <= asked_at[1] - started <= 135


async def test_a_date_to_come_back_at_is_obeyed() -> None:
    async with in_memory(busy(Retry_After=formatdate(time.time() + 90, usegmt=True))) as origins:
        with pytest.raises(Unreachable) as refused:
            await origins.file(PATH, MANY)
    assert 85 <= refused.value.retry_in_s <= 136


async def test_a_crowd_that_was_sent_away_together_comes_back_scattered() -> None:
    waits = []
    for seed in range(50):
        async with in_memory(busy(Retry_After="60"), seed=seed) as origins:
            with pytest.raises(Unreachable) as refused:
                await origins.file(PATH, MANY)
            waits.append(refused.value.retry_in_s)
    assert min(waits) < 63
    assert max(waits) > 85


@pytest.mark.parametrize("advice", [{}, {"Retry_After": "0"}, {"Retry_After": "soon"}])
async def test_an_origin_that_names_no_time_is_left_alone_all_the_same(advice: dict[str, str]) -> None:
    async with in_memory(busy(**advice)) as origins:
        with pytest.raises(Unreachable) as refused:
            await origins.file(PATH, MANY)
    assert refused.value.retry_in_s >= 0.5


async def test_waits_grow_while_an_origin_fails_and_start_anew_after_a_success(autojump_clock: MockClock) -> None:
    works = False

    async with in_memory(lambda request: at_last() if works else httpx.Response(500)) as origins:

        async def wait() -> float:
            with pytest.raises(Unreachable) as refused:
                await origins.file(PATH, MANY)
            await trio.sleep(refused.value.retry_in_s)
            return refused.value.retry_in_s

        waits = [await wait() for _ in range(12)]
        assert waits[0] <= 1.0
        assert waits[-1] >= 150.0
        works = True
        await origins.file(PATH, MANY)
        works = False
        assert await wait() <= 1.0


async def test_who_asks_while_all_mirrors_rest_hears_why_they_do() -> None:
    async with in_memory(lambda request: httpx.Response(500)) as origins:
        for _ in range(2):
            with pytest.raises(Unreachable, match="http://a/ answers 500"):
                await origins.file(PATH, MANY)
