"""The shim's server and handler, on a real socket, before bytes that no browser would send."""

from __future__ import annotations

import logging
import os
import re
from datetime import UTC, datetime
from functools import partial

import trio
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeshare.config import ShimConfig
from edgeshare.httpd.server import Limits, listen, serve
from edgeshare.shim.routes import Handler, may_wait, shim
from edgeshare.view import State
from edgeshare.vocabulary import built_in
from tests.shim.conftest import Content, NodeInMemory, manifest

SECRET = b"what only the lesson says"
OURS = re.compile(rb"(?im)^host:[ \t]*(?:[a-z0-9-]+\.)?(?:localhost|127\.0\.0\.1|\[::1\]):PORT[ \t]*$")
VOCABULARY = built_in()
QUICK = Limits(head_timeout_s=0.05, idle_timeout_s=0.05)

TARGETS = [
    *(
        b"/",
        b"/index.html",
        b"/film.mp4",
        b"/lessons/maths/film.mp4",
        b"/lessons/maths/../../etc/passwd",
        b"/api/v1/status",
    ),
    *(b"/%66ilm.mp4", b"//film.mp4", b"/film.mp4;x", b"/film.mp4%00", b"/%2e%2e/film.mp4", b"/..%2f..%2fetc%2fpasswd"),
    *(b"/%c0%ae%c0%ae/", b"/\\..\\film.mp4", b"/metrics", b"/static/../film.mp4", b"/l/maths", b"http://evil/film.mp4"),
    *(b"/?level=%ff&q=%00", b"/open/maths/index.html", b"*", b"film.mp4", b"/api/v1/lessons/%e2%80%ae", b"/ecole"),
]
HOSTS = [
    *(b"maths.localhost:PORT", b"localhost:PORT", b"127.0.0.1:PORT", b"[::1]:PORT", b"evil.example", b"localhost"),
    *(
        b"evil.example:PORT",
        b"localhost:PORT@evil.example",
        b"maths.localhost:PORT.evil.example",
        b"MATHS.LOCALHOST:PORT",
    ),
    *(
        b"maths.localhost.:PORT",
        b"x.maths.localhost:PORT",
        b"",
        b"localhost:PORT, evil.example",
        b"\xe9.localhost:PORT",
    ),
]
LINES = [
    *(b"Range: bytes=0-4", b"Range: bytes=-5,-6", b"Range: bytes=99999999999999999999-", b"Range: bytes=4-1"),
    *(b"Content-Length: 0", b"Content-Length: 5", b"Transfer-Encoding: chunked", b"Transfer-Encoding: xchunked"),
    *(b'If-None-Match: *, "', b'If-None-Match: W/"a"', b"If-Range: x", b"Host: evil.example", b"Host : evil.example"),
    *(b"Accept: text/html", b"Accept-Language: fr;q=9,,,*", b"Connection: close", b"Expect: 100-continue", b" folded"),
    *(b"Sec-Fetch-Site: cross-site", b"Sec-Fetch-Mode: navigate", b"Service-Worker: script", b"Cookie: \xff\x01"),
]
METHODS = [b"GET", b"GET", b"GET", b"HEAD", b"POST", b"OPTIONS", b"get"]
VERSIONS = [b"HTTP/1.1", b"HTTP/1.1", b"HTTP/1.0", b"HTTP/0.9", b"HTTP/2.0", b""]


@st.composite
def requests(draw: st.DrawFn) -> bytes:
    """One to three requests, right or nearly so, and what else may come between and after them."""
    sent = b""
    for _ in range(draw(st.integers(1, 3))):
        words = [draw(st.sampled_from(each)) for each in (METHODS, TARGETS, VERSIONS)]
        lines = [b"Host: " + draw(st.sampled_from(HOSTS)), *draw(st.lists(st.sampled_from(LINES), max_size=3))]
        end = draw(st.sampled_from([b"\r\n", b"\r\n", b"\r\n", b"\n", b"\r\r\n"]))
        head = end.join([b" ".join(words), *draw(st.permutations(lines)), b"", b""])
        sent += head + draw(st.sampled_from([b"", b"", b"0\r\n\r\n", b"hello"]) | st.binary(max_size=8))
    place = draw(st.integers(0, len(sent)))
    return sent[:place] + draw(st.sampled_from([b"", b"", b""]) | st.binary(max_size=3)) + sent[place:]


def _node() -> NodeInMemory:
    node = NodeInMemory()
    files = {"index.html": b"<h1>" + SECRET, "film.mp4": SECRET * 5000}  # by one send, and by sendfile
    node.add(manifest("maths"), State.COMPLETE, Content(files))
    return node


HANDLERS: dict[str, tuple[NodeInMemory, Handler]] = {}


def _handler() -> tuple[NodeInMemory, Handler]:
    """The same for all cases: to make one takes longer than a case."""
    if not HANDLERS:
        node = _node()
        now = datetime(2026, 11, 23, tzinfo=UTC)
        HANDLERS["shim"] = node, shim(node, ShimConfig(), VOCABULARY, hostname="salle12", now=lambda: now)
    return HANDLERS["shim"]


async def _answers(sent: bytes) -> tuple[bytes, bytes]:
    """What was sent, with the port in it, and all that the server said to that."""
    node, handler = _handler()
    listeners = await listen("127.0.0.1", 0)
    port = listeners[0].socket.getsockname()[1]
    sent = sent.replace(b"PORT", b"%d" % port)
    received = bytearray()
    async with trio.open_nursery() as nursery:
        tasks = trio.lowlevel.current_statistics().tasks_living
        nursery.start_soon(partial(serve, handler, listeners, limits=QUICK, may_wait=may_wait(node)))
        with trio.fail_after(10):
            async with await trio.open_tcp_stream("127.0.0.1", port) as client:
                try:
                    await client.send_all(sent)
                    await client.send_eof()
                    async for part in client:
                        received += part
                except trio.BrokenResourceError:
                    pass
            while trio.lowlevel.current_statistics().tasks_living > tasks + 4:  # serve's own four
                await trio.sleep(0.001)  # nothing tells it that the connection's task is over
        nursery.cancel_scope.cancel()
    return sent, bytes(received)


class Errors(logging.Handler):
    """What is logged as somebody's mistake."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.said: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.said.append(f"{record.getMessage()}: {record.exc_info}")


def statuses(received: bytes) -> list[int]:
    """Of the answers in these bytes; a body may look like one, but SECRET and pages do not."""
    return [int(each) for each in re.findall(rb"HTTP/1\.1 ([0-9]{3}) ", received)]


@given(requests() | st.binary(max_size=60))
@settings(deadline=None, max_examples=150)
def test_no_bytes_break_the_server_or_get_a_lesson_by_a_name_that_is_not_ours(sent: bytes) -> None:
    _handler()
    descriptors = len(os.listdir("/proc/self/fd"))
    errors = Errors()
    logging.getLogger().addHandler(errors)
    try:
        whole, received = trio.run(_answers, sent)
    finally:
        logging.getLogger().removeHandler(errors)
    assert not errors.said
    assert len(os.listdir("/proc/self/fd")) == descriptors
    assert not received or received.startswith(b"HTTP/1.1 ")
    assert all(status < 500 for status in statuses(received)), received
    if SECRET in received:
        port = re.findall(rb":([0-9]{4,5})", whole)
        assert any(re.search(OURS.pattern.replace(b"PORT", each), whole) for each in port), received


def test_the_cases_reach_the_lesson_and_the_refusals() -> None:
    assert SECRET in trio.run(_answers, b"GET /film.mp4 HTTP/1.1\r\nHost: maths.localhost:PORT\r\n\r\n")[1]
    assert statuses(trio.run(_answers, b"GET /film.mp4 HTTP/1.1\r\nHost: evil.example\r\n\r\n")[1]) == [421]
