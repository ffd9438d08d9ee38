from __future__ import annotations

import socket
import ssl
import struct
from collections.abc import AsyncGenerator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from pathlib import Path
from random import Random

import httpx
import pytest
import trio
import trustme

from edgeshare.errors import ConfigError
from edgeshare.origin.client import NotFound, OriginClient, Taken, Unreachable, open_origins
from edgeshare.origin.wire import Network, counting, proxies
from tests.support.publisher import Bytes
from tests.support.server import Answer, Asked, always, part_of, reply, serving

CONTENT = bytes(range(256)) * 32768  # 8 MiB
PATH = "content/ab/film.mp4"
PROXY = "http://proxy.example:3128"


def anything(_: bytearray) -> bool:
    return True


def client(*urls: str, proxy: str | None = None) -> AbstractAsyncContextManager[OriginClient]:
    return open_origins(urls, Random(1), proxy=proxy)


def on_the_wire(stream: trio.SocketStream) -> int:
    """The bytes of this connection that the kernel has sent (struct tcp_info, tcpi_bytes_sent, tcpi_bytes_retrans)."""
    info = stream.socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 216)
    sent, again = struct.unpack_from("QQ", info, 200)
    return int(sent - again)


# What is counted.


@pytest.mark.parametrize(
    "response",
    [
        reply(206, CONTENT[2:6], content_range=f"bytes 2-5/{len(CONTENT)}"),
        reply(206, CONTENT[:4], content_range=f"bytes 0-3/{len(CONTENT)}"),
        reply(200, CONTENT[:50_000]),
        reply(404, b"<h1>Not found</h1>"),
        reply(429, b"later", edgeshare_range="taken"),
        reply(503, b"later", x_padding="x" * 5000),
        b"HTTP/1.1 206 Part\r\nContent-Length: 4\r\nContent-Range: bytes 2-5/8388608\r\n\r\n23",
        b"SSH-2.0-OpenSSH_9.2\r\n",
    ],
)
async def test_every_byte_of_an_answer_is_counted_whatever_it_is_worth(response: bytes) -> None:
    told: list[int] = []
    async with serving(always(response, then_close=True)) as server, client(server.url) as origins:
        with suppress(Taken, Unreachable, NotFound):
            await origins.span(PATH, 2, 6, len(CONTENT), anything, purpose="alone", tally=told.append)
        assert origins.received == {"alone": len(response)}
        assert sum(told) == len(response)
        assert origins.states()[0].received_bytes == len(response)


async def test_each_byte_counts_for_what_it_was_asked_for_on_the_same_connection() -> None:
    file, part = reply(200, b"metadata"), reply(206, CONTENT[2:6], content_range=f"bytes 2-5/{len(CONTENT)}")

    async def answer(asked: Asked, stream: trio.SocketStream) -> None:
        await stream.send_all(part if "range" in asked.headers else file)

    async with serving(answer) as server, client(server.url) as origins:
        await origins.file("a", 100)
        await origins.span(PATH, 2, 6, len(CONTENT), anything)
        await origins.span(PATH, 2, 6, len(CONTENT), anything, purpose="alone")
        await origins.given("b", 100)
        assert server.connections == 1
        assert origins.received == {"metadata": 2 * len(file), "unknown": len(part), "alone": len(part)}


async def test_a_redirect_counts_for_what_was_asked_for() -> None:
    moved, here = reply(302, b"there", location="/here"), reply(200, b"here")

    async def answer(asked: Asked, stream: trio.SocketStream) -> None:
        await stream.send_all(here if asked.path == "/here" else moved)

    async with serving(answer) as server, client(server.url) as origins:
        await origins.file("a", 100)
        assert origins.received == {"metadata": len(moved) + len(here)}


async def test_an_answer_that_is_dropped_half_way_has_counted_what_the_kernel_took() -> None:
    portion = 1 << 16  # what is read at once
    sent: list[int] = []

    async def answer(asked: Asked, stream: trio.SocketStream) -> None:
        await stream.send_all(reply(200, CONTENT)[: 2 * portion])
        with suppress(trio.BrokenResourceError):  # it hears of bytes that were never read
            await stream.receive_some()
        sent.append(on_the_wire(stream))

    told: list[int] = []
    network = Network(lambda url: None, connections=1)
    async with serving(answer) as server, httpx.AsyncClient(transport=network) as http:
        with counting(told.append):
            async with http.stream("GET", server.url):
                await trio.sleep(0.05)  # the kernel goes on receiving what this process does not read
        with trio.fail_after(5):
            while not sent:
                await trio.sleep(0.01)
    assert told[0] <= portion < sent[0]
    assert sum(told) == sent[0]


async def test_a_transport_in_memory_counts_bodies() -> None:
    transport = httpx.MockTransport(lambda request: httpx.Response(200, stream=Bytes(b"12345")))
    async with open_origins(("http://a/",), Random(1), transport=transport) as origins:
        await origins.file("a", 100)
        assert origins.received == {"metadata": 5}


# Connections.


async def test_ranges_one_after_the_other_share_one_connection_also_when_they_are_refused() -> None:
    async def answer(asked: Asked, stream: trio.SocketStream) -> None:
        if asked.path.endswith("/taken"):
            await stream.send_all(reply(429, b"taken\n", edgeshare_range="taken", retry_after="1"))
        else:
            await stream.send_all(part_of(CONTENT, asked))

    async with serving(answer) as server, client(server.url) as origins:
        for start in range(0, len(CONTENT), 1 << 18):
            part = await origins.span(PATH, start, start + (1 << 18), len(CONTENT), anything)
            assert part == CONTENT[start : start + (1 << 18)]
            with pytest.raises(Taken):
                await origins.span("content/ab/taken", 0, 4, 8, anything)
        assert server.connections == 1


# Proxies.


async def test_a_configured_proxy_is_used_whatever_the_environment_says(monkeypatch: pytest.MonkeyPatch) -> None:
    async with serving(always(reply(200, b"by proxy"))) as proxy:
        monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
        monkeypatch.setenv("NO_PROXY", "*")
        async with client("http://lecons.example/", proxy=proxy.url) as origins:
            assert await origins.file(PATH, 100) == b"by proxy"
        assert proxy.asked[0].path == f"http://lecons.example/{PATH}"


async def test_no_proxy_at_all_is_used_when_the_config_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    monkeypatch.delenv("NO_PROXY", raising=False)
    async with serving(always(reply(200, b"direct"))) as server, client(server.url, proxy="none") as origins:
        assert await origins.file(PATH, 100) == b"direct"


async def test_a_proxys_login_is_sent_to_it() -> None:
    async with serving(always(reply(200, b"by proxy"))) as proxy:
        address = proxy.url.replace("http://", "http://eleve:mot%20de%20passe@")
        async with client("http://lecons.example/", proxy=address) as origins:
            await origins.file(PATH, 100)
        assert proxy.asked[0].headers["proxy-authorization"] == "Basic ZWxldmU6bW90IGRlIHBhc3Nl"


async def test_https_goes_through_a_proxys_tunnel_and_is_counted(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "authority.pem")
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "authority.pem"))
    part = reply(206, CONTENT[: 1 << 20], content_range=f"bytes 0-{(1 << 20) - 1}/{len(CONTENT)}")
    established = b"HTTP/1.1 200 Connection established\r\n\r\n"
    async with (
        tls(authority.issue_cert("127.0.0.1"), always(part)) as port,
        serving(tunnel) as proxy,
        client(f"https://127.0.0.1:{port}/", proxy=proxy.url) as origins,
    ):
        for _ in range(2):
            await origins.span(PATH, 0, 1 << 20, len(CONTENT), anything, purpose="alone")
        assert [asked.path for asked in proxy.asked] == [f"127.0.0.1:{port}"]  # one tunnel for both
        assert origins.received == {"alone": len(established) + 2 * len(part)}


@asynccontextmanager
async def tls(certificate: trustme.LeafCert, answer: Answer) -> AsyncGenerator[int, None]:
    """A port where `answer` speaks TLS."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    certificate.configure_cert(context)
    async with serving(answer) as inner, trio.open_nursery() as nursery:

        async def attend(stream: trio.SSLStream[trio.SocketStream]) -> None:
            async with await trio.open_tcp_stream("127.0.0.1", inner.port) as behind:
                await splice(stream, behind)

        listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
        over_tls = [trio.SSLListener(each, context, https_compatible=True) for each in listeners]
        nursery.start_soon(trio.serve_listeners, attend, over_tls)
        yield listeners[0].socket.getsockname()[1]
        nursery.cancel_scope.cancel()


async def tunnel(asked: Asked, stream: trio.SocketStream) -> None:
    """A proxy's answer to CONNECT."""
    host, _, port = asked.path.rpartition(":")
    async with await trio.open_tcp_stream(host, int(port)) as behind:
        await stream.send_all(b"HTTP/1.1 200 Connection established\r\n\r\n")
        await splice(stream, behind)


async def splice(one: trio.abc.Stream, other: trio.abc.Stream) -> None:
    async def pass_on(source: trio.abc.Stream, target: trio.abc.Stream) -> None:
        with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            while portion := await source.receive_some(1 << 16):
                await target.send_all(portion)
        nursery.cancel_scope.cancel()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(pass_on, one, other)
        nursery.start_soon(pass_on, other, one)


@pytest.mark.parametrize(
    ("environment", "url", "proxy"),
    [
        ({"http_proxy": PROXY}, "http://a.example/", PROXY),
        ({"http_proxy": PROXY}, "https://a.example/", None),
        ({"https_proxy": "proxy.example:3128"}, "https://a.example/", PROXY),
        ({"all_proxy": PROXY}, "https://a.example/", PROXY),
        ({"all_proxy": PROXY, "no_proxy": "b.example,a.example"}, "https://a.example/", None),
        ({"all_proxy": PROXY, "no_proxy": "example"}, "https://a.example/", None),
        ({"all_proxy": PROXY, "no_proxy": "*"}, "https://a.example/", None),
        ({"http_proxy": PROXY, "all_proxy": "socks5://proxy.example"}, "http://a.example/", PROXY),
    ],
)
def test_the_environment_names_a_proxy(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], url: str, proxy: str | None
) -> None:
    set_environment(monkeypatch, environment)
    assert proxies(None, ())(httpx.URL(url)) == proxy


@pytest.mark.parametrize(
    "address", ["ftp://p.example:21", "socks5://p.example", "http://", "p.example:x", "http://p/q"]
)
def test_a_proxy_that_cannot_be_is_refused_before_it_is_needed(monkeypatch: pytest.MonkeyPatch, address: str) -> None:
    set_environment(monkeypatch, {"https_proxy": address})
    with pytest.raises(ConfigError, match="the proxy in the environment cannot be used: give HTTP_PROXY"):
        proxies(None, ("http://a.example/",))  # which may redirect to its https
    with pytest.raises(ConfigError, match="the proxy is not like"):
        proxies(address, ("http://a.example/",))
    proxies("none", ("http://a.example/",))


def set_environment(monkeypatch: pytest.MonkeyPatch, environment: dict[str, str]) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
