"""An HTTP server that sends what a test says, byte for byte: what no honest server would."""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import unquote

import attrs
import trio


@attrs.frozen
class Asked:
    """One request."""

    path: str
    headers: dict[str, str]


Answer = Callable[[Asked, trio.SocketStream], Awaitable[None]]


@attrs.define
class Server:
    """What was asked of it, and by how many connections."""

    port: int
    asked: list[Asked] = attrs.field(factory=list)
    connections: int = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/"


@asynccontextmanager
async def serving(answer: Answer, port: int = 0) -> AsyncGenerator[Server, None]:
    """A server on 127.0.0.1 whose `answer` writes what goes back for each request; closing the stream is its too."""
    listeners = await trio.open_tcp_listeners(port, host="127.0.0.1")
    server = Server(listeners[0].socket.getsockname()[1])

    async def attend(stream: trio.SocketStream) -> None:
        server.connections += 1
        try:
            while (asked := await _head(stream)) is not None:
                server.asked.append(asked)
                await answer(asked, stream)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass

    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.serve_listeners, attend, listeners)
        yield server
        nursery.cancel_scope.cancel()


def reply(status: int | str, body: bytes = b"", **headers: str) -> bytes:
    """A whole response with its length; of a header's name, `_` stands for `-`."""
    fields = {"content-length": str(len(body))} | {name.replace("_", "-"): value for name, value in headers.items()}
    lines = [f"HTTP/1.1 {status} So", *(f"{name}: {value}" for name, value in fields.items()), "", ""]
    return "\r\n".join(lines).encode() + body


def always(response: bytes, *, then_close: bool = False) -> Answer:
    """An answer that is the same for every request."""

    async def answer(_: Asked, stream: trio.SocketStream) -> None:
        await stream.send_all(response)
        if then_close:
            await stream.aclose()

    return answer


@attrs.define
class Tracker:
    """A tracker that knows nobody by address, and counts `nodes` in every swarm, whoever asks (BEP 3)."""

    nodes: int

    async def __call__(self, _: Asked, stream: trio.SocketStream) -> None:
        body = b"d8:completei0e10:incompletei%de8:intervali1800e5:peers0:e" % self.nodes
        await stream.send_all(reply(200, body))
        await stream.aclose()


async def drip(_: Asked, stream: trio.SocketStream) -> None:
    """A promise of a kilobyte, and ten bytes a second of it."""
    await stream.send_all(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")
    while True:
        await trio.sleep(0.1)  # the period is the point
        await stream.send_all(b"x")


async def endless(_: Asked, stream: trio.SocketStream) -> None:
    """A body without an end."""
    await stream.send_all(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n")
    while True:
        await stream.send_all(bytes(1 << 16))


async def silence(_: Asked, __: trio.SocketStream) -> None:
    """Nothing at all."""
    await trio.sleep_forever()


async def _head(stream: trio.SocketStream) -> Asked | None:
    received = b""
    while not received.endswith(b"\r\n\r\n"):
        portion = await stream.receive_some(1 << 16)
        if not portion:
            return None
        received += portion
    first, *lines = received.decode("latin-1").split("\r\n")[:-2]
    fields = (line.partition(": ") for line in lines)
    return Asked(first.split(" ")[1], {name.lower(): value for name, _, value in fields})


class Site:
    """The files of a folder, until a test has `wrong` say otherwise; an `Answer`."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.wrong: Callable[[str], Answer | None] = lambda path: None  # by the path, without its first /
        self.asked: list[str] = []

    async def __call__(self, asked: Asked, stream: trio.SocketStream) -> None:
        path = unquote(asked.path)[1:]
        self.asked.append(path)
        if (wrong := self.wrong(path)) is not None:
            await wrong(asked, stream)
            return
        file = self.root / path
        if not file.is_file():
            await stream.send_all(reply(404))
            return
        await stream.send_all(part_of(file.read_bytes(), asked))


def part_of(content: bytes, asked: Asked) -> bytes:
    """The response of an honest server that has `content`."""
    if found := re.fullmatch(r"bytes=(\d+)-(\d+)", asked.headers.get("range", "")):
        start, stop = int(found[1]), int(found[2]) + 1
        return reply(206, content[start:stop], content_range=f"bytes {start}-{stop - 1}/{len(content)}")
    return reply(200, content)
