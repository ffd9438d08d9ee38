from __future__ import annotations

import io
import logging
import math
import resource
import socket
import struct
import time
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st
from trio.testing import MockClock, lockstep_stream_pair, memory_stream_pair

from edgeshare.errors import ConfigError
from edgeshare.httpd.connection import AT_ONCE_BYTES, READ_AHEAD_BYTES, AtOnce
from edgeshare.httpd.rates import Rate
from edgeshare.httpd.server import (
    FILES_BESIDES,
    HEAD_BYTES,
    REFUSALS_AT_ONCE,
    FileBody,
    Handler,
    Limits,
    OnDone,
    Request,
    Response,
    StreamBody,
    listen,
    serve,
)

GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
LAST_GET = b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
DEFAULT = Limits()
FILM = bytes(range(256)) * 20_000  # 5 MB
Duplex = trio.abc.HalfCloseableStream
Chunks = AbstractAsyncContextManager[AsyncIterable[bytes]]


class ListenerInMemory(trio.abc.Listener[Duplex]):
    """A port without a kernel; `pair` makes the two ends of a connection."""

    def __init__(self, pair: Callable[[], tuple[Duplex, Duplex]] = memory_stream_pair) -> None:
        self._pair = pair
        self._into, self._waiting = trio.open_memory_channel[Duplex](math.inf)

    async def accept(self) -> Duplex:
        return await self._waiting.receive()

    async def aclose(self) -> None:
        self._waiting.close()
        await trio.lowlevel.checkpoint()

    def connect(self) -> Duplex:
        client, server = self._pair()
        self._into.send_nowait(server)
        return client


@asynccontextmanager
async def serving(
    handler: Handler,
    *,
    limits: Limits = DEFAULT,
    on_done: OnDone | None = None,
    pair: Callable[[], tuple[Duplex, Duplex]] = memory_stream_pair,
) -> AsyncIterator[ListenerInMemory]:
    listener = ListenerInMemory(pair)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(lambda: serve(handler, [listener], limits=limits, on_done=on_done))
        yield listener
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def serving_on_loopback(
    handler: Handler,
    *,
    limits: Limits = DEFAULT,
    on_done: OnDone | None = None,
    may_wait: bool = False,
    at_once: AtOnce = lambda request: None,
) -> AsyncIterator[int]:
    listeners = await listen("127.0.0.1", 0)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(
            lambda: serve(
                handler, listeners, limits=limits, on_done=on_done, may_wait=lambda _: may_wait, at_once=at_once
            )
        )
        with trio.fail_after(20):
            yield listeners[0].socket.getsockname()[1]
        nursery.cancel_scope.cancel()


async def rest(stream: trio.abc.ReceiveStream) -> bytes:
    received = bytearray()
    while part := await stream.receive_some(65536):
        received += part
    return bytes(received)


async def until(stream: trio.abc.ReceiveStream, end: bytes) -> bytes:
    received = bytearray()
    while not received.endswith(end):
        part = await stream.receive_some(65536)
        assert part, f"closed after {bytes(received)!r}"
        received += part
    return bytes(received)


async def exchange(listener: ListenerInMemory, sent: bytes) -> bytes:
    """All that the server says to `sent` until it closes."""
    async with listener.connect() as client:
        await client.send_all(sent)
        return await rest(client)


def split(response: bytes) -> tuple[int, dict[str, str], bytes]:
    head, _, body = response.partition(b"\r\n\r\n")
    status, *lines = head.decode("latin-1").split("\r\n")
    return int(status.split()[1]), {n.lower(): v for n, _, v in (line.partition(": ") for line in lines)}, body


async def hello(request: Request) -> Response:
    return Response(200, (("content-type", "text/plain"),), b"hello")


async def never(request: Request) -> Response:
    raise AssertionError("a refused request reached the handler")


@pytest.fixture
def seen() -> list[Request]:
    return []


@pytest.fixture
def noting(seen: list[Request]) -> Handler:
    async def note(request: Request) -> Response:
        seen.append(request)
        return Response(200, (), request.target.encode())

    return note


# What a response says


async def test_a_response_has_a_date_and_a_length_and_does_not_name_its_server() -> None:
    async with serving(hello) as port:
        status, headers, body = split(await exchange(port, LAST_GET))
    assert (status, body) == (200, b"hello")
    assert headers.keys() == {"content-type", "content-length", "date", "connection"}
    assert headers["date"].endswith(" GMT")


async def test_head_gets_the_head_of_get_and_no_body() -> None:
    async with serving(hello) as port:
        _, headers_of_get, _ = split(await exchange(port, LAST_GET))
        status, headers, body = split(await exchange(port, LAST_GET.replace(b"GET", b"HEAD")))
    del headers_of_get["date"], headers["date"]
    assert (status, headers, body) == (200, headers_of_get, b"")


@pytest.mark.parametrize("status", [204, 304])
async def test_a_status_without_a_body_has_no_length(status: int) -> None:
    async def nothing(request: Request) -> Response:
        return Response(status, (("etag", '"a"'),))

    async with serving(nothing) as port:
        answered, headers, body = split(await exchange(port, LAST_GET))
    assert (answered, body) == (status, b"")
    assert "content-length" not in headers
    assert "transfer-encoding" not in headers


@pytest.mark.parametrize(
    "header",
    [("a b", "c"), ("a", "b\r\nc: d"), ("a", "\u20ac"), ("a", " b"), ("", "b"), ("Content-Length", "5"), ("date", "x")],
)
def test_a_response_cannot_be_made_with_a_broken_header_or_one_of_the_server_s(header: tuple[str, str]) -> None:
    with pytest.raises(ValueError, match=r"header|written by the server"):
        Response(200, (header,))


# Keeping alive


async def test_a_connection_serves_one_request_after_another(noting: Handler) -> None:
    async with serving(noting) as port, port.connect() as client:
        for target in (b"/1", b"/2"):
            await client.send_all(GET.replace(b"/ ", target + b" "))
            assert (await until(client, target)).startswith(b"HTTP/1.1 200 ")


async def test_pipelined_requests_are_answered_in_order(noting: Handler, seen: list[Request]) -> None:
    requests = b"".join(GET.replace(b"/ ", b"/%d " % n) for n in range(50))
    async with serving(noting) as port:
        answers = await exchange(port, requests + LAST_GET)
    assert answers.count(b"HTTP/1.1 200 ") == 51
    assert [request.target for request in seen] == [f"/{n}" for n in range(50)] + ["/"]


@pytest.mark.parametrize("last", [LAST_GET, b"GET / HTTP/1.0\r\nHost: a\r\n\r\n"])
async def test_the_server_closes_when_the_client_wants_it_so(last: bytes) -> None:
    async with serving(hello) as port:
        status, headers, body = split(await exchange(port, last))
    assert (status, headers["connection"], body) == (200, "close", b"hello")


async def test_the_server_closes_when_the_handler_wants_it_so() -> None:
    async def misdirected(request: Request) -> Response:
        return Response(421, (("connection", "close"),))

    async with serving(misdirected) as port:
        assert split(await exchange(port, GET + GET))[::2] == (421, b"")


async def test_a_client_that_only_half_closes_still_gets_its_answer() -> None:
    async with serving(hello) as port, port.connect() as client:
        await client.send_all(GET)
        await client.send_eof()
        assert split(await rest(client))[::2] == (200, b"hello")


# What reaches a handler


async def test_a_path_is_decoded_once_and_the_rest_stays_as_sent(noting: Handler, seen: list[Request]) -> None:
    sent = (
        b"GET /%C3%A9t%C3%A9/a%2525/../b?q=%20 HTTP/1.1\r\nHOST: Ecole.LOCALHOST:8470\r\n"
        b'Range: bytes=0-1\r\nIf-None-Match: "a"\r\nIf-None-Match: "b"\r\nConnection: close\r\n\r\n'
    )
    async with serving(noting) as port:
        await exchange(port, sent)
    [request] = seen
    assert (request.method, request.path, request.query) == ("GET", "/été/a%25/../b", "q=%20")
    assert request.target == "/%C3%A9t%C3%A9/a%2525/../b?q=%20"
    assert request.host == "Ecole.LOCALHOST:8470"
    assert request.header("range") == "bytes=0-1"
    assert request.header("if-none-match") == '"a", "b"'
    assert request.header("if-range") is None


async def test_a_request_may_arrive_in_any_two_parts(noting: Handler, seen: list[Request]) -> None:
    async with serving(noting) as port:
        for cut in range(1, len(LAST_GET)):
            async with port.connect() as client:
                await client.send_all(LAST_GET[:cut])
                await trio.testing.wait_all_tasks_blocked()
                await client.send_all(LAST_GET[cut:])
                assert split(await rest(client))[0] == 200
    assert len(set(seen)) == 1


async def test_a_get_may_say_that_it_has_no_body() -> None:
    async with serving(hello) as port:
        assert split(await exchange(port, LAST_GET.replace(b"Host", b"Content-Length: 0\r\nHost")))[0] == 200


# What is refused

_CHUNKED = b"Host: a\r\nTransfer-Encoding: chunked\r\n"
REFUSED = {
    "no Host": (400, b"GET / HTTP/1.1\r\n\r\n"),
    "no Host in HTTP/1.0": (400, b"GET / HTTP/1.0\r\n\r\n"),
    "an empty Host": (400, b"GET / HTTP/1.1\r\nHost:\r\n\r\n"),
    "a blank Host": (400, b"GET / HTTP/1.1\r\nHost:  \t \r\n\r\n"),
    "two Hosts": (400, b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n"),
    "two Hosts in HTTP/1.0": (400, b"GET / HTTP/1.0\r\nHost: a\r\nHost: a\r\n\r\n"),
    "an absolute target": (400, b"GET http://evil/ HTTP/1.1\r\nHost: a\r\n\r\n"),
    "an absolute target of the same host": (400, b"GET http://a/ HTTP/1.1\r\nHost: a\r\n\r\n"),
    "a target without a slash": (400, b"GET a HTTP/1.1\r\nHost: a\r\n\r\n"),
    "a target that decodes to a slash": (400, b"GET %2Fa HTTP/1.1\r\nHost: a\r\n\r\n"),
    "a broken escape": (400, b"GET /%zz HTTP/1.1\r\nHost: a\r\n\r\n"),
    "a cut escape": (400, b"GET /%a HTTP/1.1\r\nHost: a\r\n\r\n"),
    "a path that is not UTF-8": (400, b"GET /%E9t%E9 HTTP/1.1\r\nHost: a\r\n\r\n"),
    "an overlong encoding": (400, b"GET /%C0%AF HTTP/1.1\r\nHost: a\r\n\r\n"),
    "a surrogate": (400, b"GET /%ED%A0%80 HTTP/1.1\r\nHost: a\r\n\r\n"),
    "a NUL": (400, b"GET /a%00b HTTP/1.1\r\nHost: a\r\n\r\n"),
    "raw UTF-8": (400, "GET /é HTTP/1.1\r\nHost: a\r\n\r\n".encode()),
    "a body": (400, b"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\nx"),
    "a body that does not come": (400, b"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\n"),
    "a chunked body": (400, b"GET / HTTP/1.1\r\n" + _CHUNKED + b"\r\n0\r\n\r\n"),
    "a HEAD with a body": (400, b"HEAD / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\nx"),
    "two kinds of length": (400, b"GET / HTTP/1.1\r\n" + _CHUNKED + b"Content-Length: 0\r\n\r\n0\r\n\r\n"),
    "two kinds of length in a POST": (400, b"POST / HTTP/1.1\r\n" + _CHUNKED + b"Content-Length: 5\r\n\r\n0\r\n\r\n"),
    "two lengths": (400, b"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\nContent-Length: 1\r\n\r\n"),
    "two lengths that are equal": (
        400,
        b"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\nx",
    ),
    "a list of lengths": (400, b"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 0, 5\r\n\r\nhello"),
    "a length with a plus": (400, b"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: +0\r\n\r\n"),
    "a negative length": (400, b"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: -1\r\n\r\n"),
    "a length in hex": (400, b"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 0x0\r\n\r\n"),
    "a length without end": (400, b"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: %b\r\n\r\n" % (b"0" * 5000)),
    "a coding that nobody knows": (400, b"GET / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip\r\n\r\n"),
    "a coding in capitals": (400, b"GET / HTTP/1.1\r\nHost: a\r\nTRANSFER-ENCODING: CHUNKED\r\n\r\n0\r\n\r\n"),
    "a coding behind a tab": (400, b"GET / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding:\tchunked\r\n\r\n0\r\n\r\n"),
    "a coding behind a vertical tab": (400, b"GET / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding:\x0bchunked\r\n\r\n"),
    "a coding in a quoted string": (400, b'GET / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: "chunked"\r\n\r\n'),
    "a coding after another": (400, b"GET / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: identity, chunked\r\n\r\n"),
    "two codings": (400, b"GET / HTTP/1.1\r\n" + _CHUNKED + b"Transfer-Encoding: x\r\n\r\n0\r\n\r\n"),
    "a coding with a blank before the colon": (
        400,
        b"GET / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding : chunked\r\n\r\n",
    ),
    "a coding on a folded line": (400, b"GET / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding:\r\n chunked\r\n\r\n"),
    "a coding in HTTP/1.0": (400, b"GET / HTTP/1.0\r\n" + _CHUNKED + b"\r\n0\r\n\r\n"),
    "a folded line": (400, b"GET / HTTP/1.1\r\nHost: a\r\nAccept: a\r\n b\r\n\r\n"),
    "a folded Host": (400, b"GET / HTTP/1.1\r\nHost: a\r\n b\r\n\r\n"),
    "a first header that is folded": (400, b"GET / HTTP/1.1\r\n Host: a\r\n\r\n"),
    "bare line feeds": (400, b"GET / HTTP/1.1\nHost: a\n\n"),
    "a bare line feed between headers": (400, b"GET / HTTP/1.1\r\nHost: a\nAccept: b\r\n\r\n"),
    "a bare line feed at the end": (400, b"GET / HTTP/1.1\r\nHost: a\r\n\n"),
    "a bare carriage return": (400, b"GET / HTTP/1.1\r\nHost: a\rAccept: b\r\n\r\n"),
    "two carriage returns": (400, b"GET / HTTP/1.1\r\nHost: a\r\r\n\r\n"),
    "a NUL in a header": (400, b"GET / HTTP/1.1\r\nHost: a\r\nAccept: a\0b\r\n\r\n"),
    "a NUL in Host": (400, b"GET / HTTP/1.1\r\nHost: a\0\r\n\r\n"),
    "an empty line first": (400, b"\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n"),
    "a blank first": (400, b" GET / HTTP/1.1\r\nHost: a\r\n\r\n"),
    "a header without a name": (400, b"GET / HTTP/1.1\r\nHost: a\r\n: b\r\n\r\n"),
    "a header without a colon": (400, b"GET / HTTP/1.1\r\nHost: a\r\nAccept\r\n\r\n"),
    "HTTP/0.9": (400, b"GET /\r\n\r\n"),
    "HTTP/2": (400, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
    "HTTP in small letters": (400, b"GET / http/1.1\r\nHost: a\r\n\r\n"),
    "a target with a blank": (400, b"GET /a b HTTP/1.1\r\nHost: a\r\n\r\n"),
    "two blanks after the method": (400, b"GET  / HTTP/1.1\r\nHost: a\r\n\r\n"),
    "a tab after the method": (400, b"GET\t/ HTTP/1.1\r\nHost: a\r\n\r\n"),
    "no HTTP": (400, b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"),
    "a blank before the colon": (400, b"GET / HTTP/1.1\r\nHost : a\r\n\r\n"),
    "a POST": (405, b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\nx"),
    "a PUT without a body": (405, b"PUT / HTTP/1.1\r\nHost: a\r\n\r\n"),
    "a method in small letters": (405, b"get / HTTP/1.1\r\nHost: a\r\n\r\n"),
    "a tunnel": (405, b"CONNECT evil:80 HTTP/1.1\r\nHost: a\r\n\r\n"),
    "an OPTIONS of the server": (405, b"OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n"),
}


@pytest.mark.parametrize(("status", "sent"), REFUSED.values(), ids=REFUSED.keys())
async def test_a_refused_request_gets_an_empty_answer_and_ends_the_connection(
    status: int, sent: bytes, autojump_clock: MockClock
) -> None:
    async with serving(never) as port:
        answered, headers, body = split(await exchange(port, sent + GET))
    assert (answered, body) == (status, b"")
    assert (headers["content-length"], headers["connection"]) == ("0", "close")
    assert headers.get("allow") == ("GET, HEAD" if status == 405 else None)


async def test_what_is_pipelined_behind_a_refused_request_is_not_answered(autojump_clock: MockClock) -> None:
    for status, sent in REFUSED.values():
        async with serving(hello) as port:
            answers = await exchange(port, GET + sent + GET + LAST_GET)
        assert answers.count(b"HTTP/1.1 200 ") == answers.count(b"hello") == 1, sent
        assert answers.count(b"HTTP/1.1 %d " % status) == 1, sent


@pytest.mark.parametrize("parts", [1, 3])
async def test_a_head_has_16_kib_and_not_one_byte_more(parts: int, autojump_clock: MockClock) -> None:
    def padded(size: int) -> bytes:
        return LAST_GET[:-2] + b"A: " + b"x" * (size - len(LAST_GET) - 5) + b"\r\n\r\n"

    async with serving(hello) as port:
        for size, status in ((HEAD_BYTES, 200), (HEAD_BYTES + 1, 431)):
            request = padded(size)
            assert len(request) == size
            async with port.connect() as client:
                for part in range(parts):
                    await client.send_all(request[size * part // parts : size * (part + 1) // parts])
                    await trio.testing.wait_all_tasks_blocked()
                answered, _, body = split(await rest(client))
            assert (answered, body) == (status, b"hello" if status == 200 else b"")


async def test_a_long_head_behind_a_pipelined_request_is_measured_by_itself(autojump_clock: MockClock) -> None:
    long = GET[:-2] + b"A: " + b"x" * (HEAD_BYTES - len(GET) - 5) + b"\r\n\r\n"
    async with serving(hello) as port:
        assert (await exchange(port, GET + long + LAST_GET)).count(b"HTTP/1.1 200 ") == 3


async def test_a_head_without_an_end_is_refused_before_its_time_is_up(autojump_clock: MockClock) -> None:
    async with serving(never) as port:
        for size, status in ((HEAD_BYTES, 408), (HEAD_BYTES + 1, 431)):
            before = trio.current_time()
            assert split(await exchange(port, GET[:-2] + b"A: ".ljust(size - len(GET) + 2, b"x")))[0] == status
            assert (trio.current_time() - before < 10) == (status == 431)


async def test_a_refusal_is_a_document_that_can_do_nothing_where_a_lesson_has_its_origin(
    autojump_clock: MockClock,
) -> None:
    async with serving(never) as port:
        answer = await exchange(port, b"GET /%zz HTTP/1.1\r\nHost: a\r\n\r\n")
        assert split(answer)[0] == 400
        assert b"content-security-policy: default-src 'none'; sandbox" in answer.lower()


async def test_a_refusal_arrives_though_nobody_reads_what_the_client_still_sends() -> None:
    async with serving_on_loopback(never) as port, await trio.open_tcp_stream("127.0.0.1", port) as client:
        await client.send_all(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\n\r\n" + bytes(1_000_000))
        await client.send_eof()
        assert split(await rest(client))[0] == 405


@given(st.binary() | st.binary().map(lambda tail: GET[:-2] + tail) | st.binary().map(lambda head: head + GET))
@settings(deadline=None)
def test_any_bytes_are_answered_or_the_connection_closes(sent: bytes) -> None:
    async def main() -> None:
        async with serving(hello) as port:
            answers = await exchange(port, sent)
            assert not answers or answers.startswith(b"HTTP/1.1 ")
            assert split(await exchange(port, LAST_GET))[0] == 200

    trio.run(main, clock=MockClock(autojump_threshold=0))


# Patience


async def test_a_head_that_is_not_complete_after_ten_seconds_is_408(autojump_clock: MockClock) -> None:
    async with serving(never) as port:
        assert split(await exchange(port, GET[:-1]))[::2] == (408, b"")
    assert 10 <= trio.current_time() < 13


async def test_a_head_that_drips_is_408_too(autojump_clock: MockClock) -> None:
    async with serving(never) as port, port.connect() as client, trio.open_nursery() as nursery:

        async def drip() -> None:
            for byte in GET:
                await client.send_all(bytes([byte]))
                await trio.sleep(1)

        nursery.start_soon(drip)
        assert split(await rest(client))[0] == 408
        nursery.cancel_scope.cancel()
    assert trio.current_time() < 13


async def test_a_connection_that_asks_nothing_closes_without_a_word(autojump_clock: MockClock) -> None:
    async with serving(never) as port:
        assert await exchange(port, b"") == b""
    assert 10 <= trio.current_time() < 13


async def test_between_two_requests_a_client_may_take_longer(autojump_clock: MockClock) -> None:
    async with serving(hello, limits=Limits(idle_timeout_s=60)) as port, port.connect() as client:
        for _ in range(3):
            await client.send_all(GET)
            await until(client, b"hello")
            await trio.sleep(59)
        assert await rest(client) == b""
    assert 3 * 59 <= trio.current_time() < 3 * 59 + 4


async def test_a_client_that_takes_nothing_is_given_up(autojump_clock: MockClock) -> None:
    done: list[int] = []
    async with (
        serving(
            hello,
            limits=Limits(write_timeout_s=120),
            on_done=lambda _request, _response, sent: done.append(sent),
            pair=lockstep_stream_pair,
        ) as port,
        port.connect() as client,
    ):
        await client.send_all(GET)
        await trio.sleep(119)
        assert not done
        await trio.sleep(2)
        assert done == [0]


async def test_what_is_ready_is_given_at_once_and_the_handler_is_asked_for_the_rest(
    noting: Handler, seen: list[Request], caplog: pytest.LogCaptureFixture
) -> None:
    done: list[str] = []

    def ready(request: Request) -> Response | None:
        if request.path == "/broken":
            raise RuntimeError("broken")
        return Response(200, (), b"ready") if request.path == "/known" else None

    listener = ListenerInMemory()
    async with trio.open_nursery() as nursery:
        on_done: OnDone = lambda request, _response, _sent: done.append(request.path)  # noqa: E731 - its type
        nursery.start_soon(lambda: serve(noting, [listener], at_once=ready, on_done=on_done))
        targets = (b"/known", b"/other", b"/broken", b"/known")
        answers = await exchange(listener, b"".join(GET.replace(b"/ ", each + b" ") for each in targets) + LAST_GET)
        nursery.cancel_scope.cancel()
    assert [answers.count(body) for body in (b"\r\n\r\nready", b"\r\n\r\n/other", b"HTTP/1.1 500 ")] == [2, 1, 1]
    assert [request.path for request in seen] == ["/other", "/"]
    assert done == ["/known", "/other", "/broken", "/known", "/"]
    assert len(caplog.records) == 1


class Steps(trio.abc.Instrument):
    """How often connections' own tasks have gone on."""

    def __init__(self) -> None:
        self.count = 0

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        self.count += task.name.endswith("._run_handler")  # trio's, of `serve_listeners`


async def test_an_answer_that_is_ready_wakes_nobody(film: Path) -> None:
    steps = Steps()
    given: list[Cinema] = []

    def show(request: Request) -> Response:
        given.append(Cinema(film, 0, 20_000))
        return Response(200, (), FileBody(given[-1].file, 0, 20_000))

    done: list[int] = []
    async with (
        serving_on_loopback(never, at_once=show, on_done=lambda _, __, sent: done.append(sent)) as port,
        await trio.open_tcp_stream("127.0.0.1", port) as client,
    ):
        await client.send_all(GET)
        await until(client, FILM[:20_000])
        trio.lowlevel.add_instrument(steps)
        for _ in range(5):
            await client.send_all(GET)
            assert (await until(client, FILM[:20_000])).startswith(b"HTTP/1.1 200 ")
        assert steps.count == 0
        await client.send_all(LAST_GET)  # it closes
        await rest(client)
        assert steps.count > 0
        trio.lowlevel.remove_instrument(steps)
    assert done == [20_000] * 7
    assert all(each.file.closed for each in given)


@pytest.mark.parametrize("count", [AT_ONCE_BYTES, AT_ONCE_BYTES + 1, len(FILM)])
async def test_an_answer_that_is_ready_may_be_larger_than_what_the_kernel_takes_now(film: Path, count: int) -> None:
    cinema = Cinema(film, 0, count)
    ready = Response(200, (), FileBody(cinema.file, 0, count))
    async with (
        serving_on_loopback(never, at_once=lambda _: ready, on_done=cinema.on_done) as port,
        await trio.open_tcp_stream("127.0.0.1", port) as client,
    ):
        await client.send_all(GET)
        await trio.sleep(0.05)
        assert split(await until(client, FILM[:count]))[2] == FILM[:count]
        await cinema.is_done.wait()
    assert cinema.done == [count]
    assert cinema.file.closed


async def test_what_a_client_has_not_taken_of_ready_answers_is_kept_for_it_and_nothing_more_is_read() -> None:
    body = bytes(range(256)) * 256
    asked: list[Request] = []

    def ready(request: Request) -> Response:
        asked.append(request)
        return Response(200, (), body)

    async with (
        serving_on_loopback(never, at_once=ready) as port,
        await trio.open_tcp_stream("127.0.0.1", port) as client,
    ):
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 16)
        wanted = 200  # 13 MB
        for _ in range(wanted - 1):
            await client.send_all(GET)
            await trio.sleep(0.001)
        assert len(asked) < wanted - 1
        await client.send_all(LAST_GET)
        answers = await rest(client)
    parts = answers.split(b"HTTP/1.1 200 OK\r\n")[1:]
    assert [part.partition(b"\r\n\r\n")[2] for part in parts] == [body] * wanted


@pytest.mark.parametrize("status", [200, 304])
async def test_an_answer_that_is_ready_has_no_body_where_none_may_be(film: Path, status: int) -> None:
    cinema = Cinema(film, 0, 100)
    ready = Response(status, (), FileBody(cinema.file, 0, 100))
    asking = GET.replace(b"GET", b"HEAD") if status == 200 else GET
    async with (
        serving_on_loopback(never, at_once=lambda _: ready, on_done=cinema.on_done) as port,
        await trio.open_tcp_stream("127.0.0.1", port) as client,
    ):
        await client.send_all(asking)
        assert split(await until(client, b"\r\n\r\n"))[2] == b""
    assert cinema.done == [0]
    assert cinema.file.closed


async def test_a_file_that_is_ready_and_has_shrunk_breaks_the_connection(film: Path) -> None:
    cinema = Cinema(film, len(FILM) - 10, 20)
    ready = Response(200, (), FileBody(cinema.file, len(FILM) - 10, 20))
    async with serving_on_loopback(never, at_once=lambda _: ready, on_done=cinema.on_done) as port:
        with pytest.raises(trio.BrokenResourceError):
            await whole_answer(port, GET)
    assert cinema.done == [10]
    assert cinema.file.closed


async def test_who_gets_what_is_ready_has_the_time_between_two_requests_anew() -> None:
    def ready(request: Request) -> Response | None:
        return Response(200, (), b"hello") if request.path == "/ready" else None

    async with (
        serving_on_loopback(hello, limits=Limits(idle_timeout_s=1.0), at_once=ready) as port,
        await trio.open_tcp_stream("127.0.0.1", port) as client,
    ):
        await client.send_all(GET)
        await until(client, b"hello")
        for _ in range(3):
            await trio.sleep(0.6)
            await client.send_all(GET.replace(b"/ ", b"/ready "))
            await until(client, b"hello")
        with trio.fail_after(5):
            assert await rest(client) == b""


async def test_clients_that_vanish_when_their_answer_is_ready_are_nobody_elses_concern(
    caplog: pytest.LogCaptureFixture,
) -> None:
    clients: list[socket.socket] = []
    done: list[int] = []

    def ready(request: Request) -> Response | None:
        if request.path == "/other":
            return None
        clients.pop().close()
        return Response(200, (), b"hello")

    async with serving_on_loopback(
        hello, at_once=ready, on_done=lambda _, __, sent: done.append(sent), limits=Limits(connections_per_client=1)
    ) as port:
        for _ in range(2):  # the second has the room of the first
            client = socket.create_connection(("127.0.0.1", port))
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # a reset
            clients.append(client)
            client.sendall(GET)
            await trio.sleep(0.05)
            assert not clients
        assert split(await whole_answer(port, LAST_GET.replace(b"/ ", b"/other ")))[0] == 200
    assert done == [0, 0, len(b"hello")]
    assert not caplog.records


async def test_an_answer_that_is_ready_and_cannot_be_counted_costs_its_own_connection(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def on_done(request: Request, response: Response, sent: int) -> None:
        if request.path == "/uncounted":
            raise RuntimeError("broken")

    ready = Response(200, (), b"hello")
    async with serving_on_loopback(never, at_once=lambda _: ready, on_done=on_done) as port:
        assert split(await whole_answer(port, GET.replace(b"/ ", b"/uncounted ")))[2] == b"hello"
        async with await trio.open_tcp_stream("127.0.0.1", port) as client:
            await client.send_all(GET)
            await until(client, b"hello")
    assert [record.getMessage() for record in caplog.records] == ["a response broke off"]


async def test_a_file_that_is_ready_and_cannot_be_read_costs_its_own_connection(film: Path) -> None:
    def ready(request: Request) -> Response | None:
        return Response(200, (), FileBody(io.FileIO(film, "r+" if request.path == "/" else "ab"), 0, 100))

    async with serving_on_loopback(never, at_once=ready) as port:
        with pytest.raises(trio.BrokenResourceError):
            await whole_answer(port, GET.replace(b"/ ", b"/unreadable "))
        assert split(await whole_answer(port, LAST_GET))[2] == FILM[:100]


# Handlers that fail


async def test_a_failing_handler_costs_its_request_and_one_entry_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    async def fails_on_secret(request: Request) -> Response:
        if request.path == "/secret":
            raise RuntimeError("broken")
        return await hello(request)

    async with serving(fails_on_secret) as port:
        answers = await exchange(port, GET.replace(b"/ ", b"/secret ") + LAST_GET)
    assert answers.startswith(b"HTTP/1.1 500 ")
    assert b"content-security-policy: default-src 'none'; sandbox\r\n" in answers  # it may be a lesson's web origin
    assert answers.endswith(b"hello")
    [record] = caplog.records
    assert record.levelno == logging.ERROR
    assert record.exc_info is not None
    assert "secret" not in record.getMessage()


# Limits


async def test_one_connection_too_many_is_503_and_room_comes_back(autojump_clock: MockClock) -> None:
    async with serving(hello, limits=Limits(connections=2)) as port:
        first, second = port.connect(), port.connect()
        for client in (first, second):
            await client.send_all(GET)
            await until(client, b"hello")
        status, headers, body = split(await exchange(port, GET))
        assert (status, headers["connection"]) == (503, "close")
        assert int(headers["retry-after"]) > 0
        assert body
        await first.aclose()
        await trio.testing.wait_all_tasks_blocked()
        assert split(await exchange(port, LAST_GET))[0] == 200
        await second.aclose()


async def test_not_even_refusals_are_without_a_limit(autojump_clock: MockClock) -> None:
    async with serving(hello, limits=Limits(connections=1)) as port:
        clients = [port.connect() for _ in range(1 + REFUSALS_AT_ONCE + 1)]
        await trio.testing.wait_all_tasks_blocked()
        assert [await client.receive_some(12) for client in clients[1:-1]] == [b"HTTP/1.1 503"] * REFUSALS_AT_ONCE
        assert await rest(clients[-1]) == b""


async def test_each_address_has_a_limit_of_its_own_on_loopback_too() -> None:
    async def connect(port: int, source: str) -> trio.SocketStream:
        sock = trio.socket.socket()
        await sock.bind((source, 0))
        await sock.connect(("127.0.0.1", port))
        return trio.SocketStream(sock)

    async with (
        serving_on_loopback(hello, limits=Limits(connections_per_client=1)) as port,
        await connect(port, "127.0.0.1") as first,
        await connect(port, "127.0.0.2") as other,
    ):
        for client in (first, other):
            await client.send_all(GET)
            assert (await until(client, b"hello")).startswith(b"HTTP/1.1 200 ")
        async with await connect(port, "127.0.0.1") as second:
            assert (await rest(second)).startswith(b"HTTP/1.1 503 ")


async def test_a_client_that_asks_too_fast_is_429_and_may_ask_again_later(
    noting: Handler, seen: list[Request], autojump_clock: MockClock
) -> None:
    limits = Limits(requests_per_client=Rate(at_once=2, per_s=0.5))
    async with serving(noting, limits=limits) as port:
        assert (await exchange(port, GET + LAST_GET)).count(b"HTTP/1.1 200 ") == 2
        status, headers, body = split(await exchange(port, GET + GET))
        assert (status, headers["connection"], headers["retry-after"]) == (429, "close", "2")
        assert body
        assert len(seen) == 2
        await trio.sleep(2)
        assert split(await exchange(port, LAST_GET))[0] == 200


async def test_where_few_files_may_be_open_there_are_fewer_connections(caplog: pytest.LogCaptureFixture) -> None:
    before, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (500, most))
        async with serving(hello, limits=Limits(connections=10)) as port:
            assert split(await exchange(port, LAST_GET))[0] == 200
            assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] == FILES_BESIDES + 20
        assert not caplog.records
        async with serving(hello, limits=Limits(connections=most)) as port:
            assert split(await exchange(port, LAST_GET))[0] == 200
            assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] == most
        assert f"only {(most - FILES_BESIDES) // 2} connections" in caplog.text
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (before, most))


@pytest.mark.parametrize("limits", [{"connections": 0}, {"connections_per_client": 0}, {"head_timeout_s": 0.0}])
def test_limits_leave_room_for_one(limits: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="must be"):
        Limits(**limits)


# Streams


@trio.as_safe_channel
async def three() -> AsyncGenerator[bytes, None]:
    for chunk in (b"one", b"", b"two", b"three" * 50_000):
        yield chunk


def streaming(chunks: Callable[[], Chunks], size: int | None = None) -> Handler:
    async def stream(request: Request) -> Response:
        return Response(200, (), StreamBody(chunks(), size))

    return stream


async def test_a_stream_of_unknown_size_goes_chunked() -> None:
    async with serving(streaming(three)) as port:
        _, headers, body = split(await exchange(port, LAST_GET))
    assert headers["transfer-encoding"] == "chunked"
    assert "content-length" not in headers
    assert body == b"3\r\none\r\n3\r\ntwo\r\n3d090\r\n" + b"three" * 50_000 + b"\r\n0\r\n\r\n"


async def test_a_stream_of_unknown_size_ends_with_the_connection_in_http_1_0() -> None:
    async with serving(streaming(three)) as port:
        _, headers, body = split(await exchange(port, LAST_GET.replace(b"1.1", b"1.0")))
    assert "transfer-encoding" not in headers
    assert body == b"onetwo" + b"three" * 50_000


async def test_a_stream_of_known_size_leaves_the_connection_alive() -> None:
    async with serving(streaming(three, 250_006)) as port:
        answers = await exchange(port, GET + LAST_GET)
    assert answers.count(b"content-length: 250006") == 2
    assert answers.endswith(b"three")


async def test_a_client_that_leaves_ends_the_wait_for_a_response_that_takes_long() -> None:
    waiting, left = trio.Event(), trio.Event()

    async def handler(request: Request) -> Response:
        try:
            waiting.set()
            await trio.sleep_forever()
        finally:
            left.set()

    async with serving_on_loopback(handler, may_wait=True) as port:
        client = await trio.open_tcp_stream("127.0.0.1", port)
        await client.send_all(GET)
        await waiting.wait()
        await client.aclose()
        await left.wait()


async def test_a_client_that_leaves_in_the_moment_of_its_answer_is_no_error(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    waiting, ready, file = trio.Event(), trio.Event(), io.FileIO(tmp_path / "file", "w+b")
    file.write(b"film")

    async def handler(request: Request) -> Response:
        waiting.set()
        await ready.wait()
        return Response(200, (), FileBody(file, 0, 4))

    async with serving_on_loopback(handler, may_wait=True) as port:
        client = await trio.open_tcp_stream("127.0.0.1", port)
        await client.send_all(GET)
        await waiting.wait()
        client.socket.close()
        time.sleep(0.01)  # the server hears of both in one turn
        ready.set()
        while not file.closed:
            await trio.sleep(0.01)
        await trio.testing.wait_all_tasks_blocked()
    assert not caplog.records


async def test_a_stream_is_not_made_for_head() -> None:
    @trio.as_safe_channel
    async def fails() -> AsyncGenerator[bytes, None]:
        for never in tuple[bytes, ...]():
            yield never
        raise AssertionError("made")

    async with serving(streaming(fails, 5)) as port:
        status, headers, body = split(await exchange(port, LAST_GET.replace(b"GET", b"HEAD")))
    assert (status, headers["content-length"], body) == (200, "5", b"")


async def test_a_stream_that_ends_short_breaks_the_connection(caplog: pytest.LogCaptureFixture) -> None:
    done: list[int] = []
    async with serving(streaming(three, 300_000), on_done=lambda _q, _r, sent: done.append(sent)) as port:
        answers = await exchange(port, GET + GET)
    assert answers.count(b"HTTP/1.1") == 1
    assert answers.endswith(b"three")
    assert done == [250_006]
    assert not caplog.records  # the producer decided so, and knows why


@pytest.mark.parametrize("size", [None, 1000])
async def test_a_stream_that_fails_breaks_the_connection_and_is_logged_once(
    size: int | None, caplog: pytest.LogCaptureFixture
) -> None:
    @trio.as_safe_channel
    async def fails() -> AsyncGenerator[bytes, None]:
        yield b"some"
        raise RuntimeError("broken")

    async with serving(streaming(fails, size)) as port:
        answers = await exchange(port, GET + GET)
        assert split(await exchange(port, b"x" + GET))[0] == 405  # the server lives on
    assert answers.count(b"HTTP/1.1") == 1
    assert b"some" in answers
    assert not answers.endswith(b"0\r\n\r\n")
    assert len(caplog.records) == 1


async def test_a_stream_that_gives_too_much_breaks_the_connection(caplog: pytest.LogCaptureFixture) -> None:
    async with serving(streaming(three, 5)) as port:
        assert (await exchange(port, GET)).endswith(b"\r\n\r\none")
    assert len(caplog.records) == 1


class Endless:
    """A producer that gives one chunk and then waits; it knows when it was let go."""

    def __init__(self) -> None:
        self.ended = trio.Event()

    @asynccontextmanager
    async def chunks(self) -> AsyncIterator[trio.MemoryReceiveChannel[bytes]]:
        into, out = trio.open_memory_channel[bytes](1)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(into.send, b"first")
            try:
                yield out
            finally:
                self.ended.set()
                nursery.cancel_scope.cancel()


@pytest.mark.parametrize("leave", ["close", "half-close"])
async def test_a_client_that_leaves_ends_the_producer_at_once(leave: str, autojump_clock: MockClock) -> None:
    producer = Endless()
    async with serving(streaming(producer.chunks)) as port, port.connect() as client:
        await client.send_all(GET)
        await until(client, b"first\r\n")
        await (client.send_eof() if leave == "half-close" else client.aclose())
        await producer.ended.wait()
    assert trio.current_time() < 1


async def test_a_client_that_resets_ends_the_producer_at_once() -> None:
    producer = Endless()
    async with serving_on_loopback(streaming(producer.chunks)) as port:
        client = await trio.open_tcp_stream("127.0.0.1", port)
        await client.send_all(GET)
        await until(client, b"first\r\n")
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        await client.aclose()
        await producer.ended.wait()


async def test_a_shutdown_ends_the_producer() -> None:
    producer = Endless()
    async with serving(streaming(producer.chunks)) as port:
        client = port.connect()
        await client.send_all(GET)
        await until(client, b"first\r\n")
    assert producer.ended.is_set()


async def test_requests_pipelined_behind_a_stream_are_answered_after_it() -> None:
    go_on = trio.Event()

    @trio.as_safe_channel
    async def waits() -> AsyncGenerator[bytes, None]:
        yield b"first"
        await go_on.wait()
        yield b"last"

    async def handler(request: Request) -> Response:
        return Response(200, (), StreamBody(waits(), 9)) if request.path == "/stream" else await hello(request)

    async with serving(handler) as port, port.connect() as client:
        await client.send_all(GET.replace(b"/ ", b"/stream ") + GET[:5])
        await until(client, b"first")
        await client.send_all(GET[5:] + LAST_GET[:9])
        await trio.testing.wait_all_tasks_blocked()
        await client.send_all(LAST_GET[9:])
        await trio.testing.wait_all_tasks_blocked()
        go_on.set()
        answers = await rest(client)
    assert answers.startswith(b"last")
    assert answers.count(b"hello") == 2


async def test_pipelining_without_end_behind_a_stream_counts_as_leaving() -> None:
    producer = Endless()
    async with serving(streaming(producer.chunks)) as port, port.connect() as client:
        await client.send_all(GET)
        await until(client, b"first\r\n")
        await client.send_all(b"x" * (READ_AHEAD_BYTES - 1))
        await trio.testing.wait_all_tasks_blocked()
        assert not producer.ended.is_set()
        await client.send_all(b"x")
        await producer.ended.wait()


# Files


@pytest.fixture
def film(tmp_path: Path) -> Path:
    path = tmp_path / "film.mp4"
    path.write_bytes(FILM)
    return path


@pytest.fixture
def long_film(tmp_path: Path) -> Path:
    path = tmp_path / "long.mp4"
    with path.open("wb") as file:
        file.truncate(64 << 20)  # more than a socket's two buffers hold
    return path


class Cinema:
    """A handler that gives a part of a file, and remembers the file."""

    def __init__(self, path: Path, start: int = 0, count: int | None = None) -> None:
        self.file = io.FileIO(path)
        self.start = start
        self.count = path.stat().st_size - start if count is None else count
        self.done: list[int] = []
        self.is_done = trio.Event()

    async def show(self, request: Request) -> Response:
        return Response(200, (), FileBody(self.file, self.start, self.count))

    def on_done(self, request: Request, response: Response, sent: int) -> None:
        self.done.append(sent)
        self.is_done.set()


async def whole_answer(port: int, sent: bytes) -> bytes:
    async with await trio.open_tcp_stream("127.0.0.1", port) as client:
        await client.send_all(sent)
        return await rest(client)


@pytest.mark.parametrize(("start", "count"), [(0, None), (1000, 1), (5_000_000, 120_000), (7, 0)])
async def test_a_part_of_a_file_is_sent_and_the_file_closed(film: Path, start: int, count: int | None) -> None:
    cinema = Cinema(film, start, count)
    async with serving_on_loopback(cinema.show, on_done=cinema.on_done) as port:
        status, headers, body = split(await whole_answer(port, LAST_GET))
    assert status == 200
    assert body == FILM[start : start + cinema.count]
    assert headers["content-length"] == str(cinema.count)
    assert cinema.done == [cinema.count]
    assert cinema.file.closed


async def test_a_file_is_closed_after_head(film: Path) -> None:
    cinema = Cinema(film)
    async with serving_on_loopback(cinema.show) as port:
        _, headers, body = split(await whole_answer(port, LAST_GET.replace(b"GET", b"HEAD")))
    assert (headers["content-length"], body) == (str(len(FILM)), b"")
    assert cinema.file.closed


async def test_files_follow_one_another_on_one_connection(film: Path) -> None:
    async def show(request: Request) -> Response:
        return Response(200, (), FileBody(io.FileIO(film), 0, 3))

    async with serving_on_loopback(show) as port:
        answers = await whole_answer(port, GET + GET + LAST_GET)
    assert answers.count(b"\r\n\r\n\x00\x01\x02") == 3


async def test_a_file_is_closed_when_the_client_vanishes(film: Path) -> None:
    cinema = Cinema(film, 0, 1 << 40)  # more than any socket holds, and than the file
    async with serving_on_loopback(cinema.show, on_done=cinema.on_done) as port:
        client = await trio.open_tcp_stream("127.0.0.1", port)
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        await client.send_all(GET)
        assert await client.receive_some(1)
        await client.aclose()  # with unread input: a reset
        await cinema.is_done.wait()
    assert cinema.file.closed
    assert cinema.done[0] <= len(FILM)


async def test_a_file_is_closed_when_the_client_takes_nothing(long_film: Path) -> None:
    cinema = Cinema(long_film)
    async with (
        serving_on_loopback(cinema.show, limits=Limits(write_timeout_s=0.2), on_done=cinema.on_done) as port,
        await trio.open_tcp_stream("127.0.0.1", port) as client,
    ):
        await client.send_all(GET)
        await cinema.is_done.wait()
        with pytest.raises(trio.BrokenResourceError):
            await rest(client)
    assert 0 < cinema.done[0] < 64 << 20
    assert cinema.file.closed


async def test_a_client_that_takes_a_file_slowly_but_steadily_gets_all_of_it(tmp_path: Path) -> None:
    path = tmp_path / "film.mp4"
    path.write_bytes(FILM + FILM)
    cinema = Cinema(path)
    async with (
        serving_on_loopback(cinema.show, limits=Limits(write_timeout_s=0.6), on_done=cinema.on_done) as port,
        await trio.open_tcp_stream("127.0.0.1", port) as client,
    ):
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 16)
        await client.send_all(LAST_GET)
        received = bytearray()
        while part := await client.receive_some(400_000):
            received += part
            if len(received) < 8_000_000:
                await trio.sleep(0.02)  # twenty pauses or more, longer together than the client may take nothing
    assert bytes(received).endswith(FILM + FILM)
    assert cinema.done == [2 * len(FILM)]


async def test_a_short_file_that_has_shrunk_breaks_the_connection(film: Path) -> None:
    cinema = Cinema(film, 0, len(FILM) + 1)
    short = Cinema(film, len(FILM) - 10, 11)
    for each in (cinema, short):
        async with serving_on_loopback(each.show, on_done=each.on_done) as port:
            with pytest.raises(trio.BrokenResourceError):
                await whole_answer(port, GET + GET)
        assert each.done == [each.count - 1]
        assert each.file.closed


async def test_a_file_that_has_shrunk_breaks_the_connection_and_is_never_padded(film: Path) -> None:
    cinema = Cinema(film, len(FILM) - 10, 20)
    async with (
        serving_on_loopback(cinema.show, on_done=cinema.on_done) as port,
        await trio.open_tcp_stream("127.0.0.1", port) as client,
    ):
        await client.send_all(GET)
        with pytest.raises(trio.BrokenResourceError):
            await rest(client)
    assert cinema.done == [10]
    assert cinema.file.closed


async def test_a_file_without_a_socket_is_a_bug_that_is_logged_and_leaves_nothing_open(
    film: Path, caplog: pytest.LogCaptureFixture
) -> None:
    cinema = Cinema(film)
    async with serving(cinema.show) as port:
        assert await exchange(port, GET) == b""
    assert cinema.file.closed
    assert len(caplog.records) == 1


@pytest.mark.parametrize(("start", "count"), [(-1, 1), (0, -1)])
def test_a_file_s_part_has_a_start_and_a_count(film: Path, start: int, count: int) -> None:
    with io.FileIO(film) as file, pytest.raises(ValueError, match="must be"):
        FileBody(file, start, count)


# Listening


async def test_a_handler_learns_the_address_that_was_asked(seen: list[Request], noting: Handler) -> None:
    async with serving_on_loopback(noting) as port:
        await whole_answer(port, LAST_GET)
    assert seen[0].local == ("127.0.0.1", port)


async def test_a_port_in_use_is_named_with_a_hint() -> None:
    [listener] = await listen("127.0.0.1", 0)
    async with listener:
        port = listener.socket.getsockname()[1]
        with pytest.raises(ConfigError, match=rf"127\.0\.0\.1:{port}.*in use: .*another port"):
            await listen("127.0.0.1", port)


@pytest.mark.parametrize(
    ("host", "port", "message"),
    [
        ("192.0.2.1", 0, r"192\.0\.2\.1:0, no interface has this address: "),
        ("2001:db8::1", 0, r"\[2001:db8::1\]:0, (no interface has|this machine has no such)"),
        ("nowhere.invalid", 0, r"nowhere\.invalid:0, the host name is unknown: "),
        ("a" * 70, 0, r"the host name is unknown: "),
        ("127.0.0.1", 65536, r"127\.0\.0\.1:65536: a port is"),
        ("127.0.0.1", -1, r"a port is"),
    ],
)
async def test_an_address_that_cannot_be_listened_on_is_one_clear_line(host: str, port: int, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        await listen(host, port)
    assert "\n" not in str(caught.value)
