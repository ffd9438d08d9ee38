"""The parts of a node on this machine, with an origin that answers in this process."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from random import Random
from urllib.parse import unquote

import httpx
import trio

from edgeshare.config import Endpoint
from edgeshare.expected import Expected
from edgeshare.holding import Holding
from edgeshare.holdings import Holdings
from edgeshare.library.library import open_library
from edgeshare.origin.client import open_origins
from edgeshare.origin.feed import Lines
from edgeshare.parts import Pace, Parts
from edgeshare.swarm.session import Helpers
from tests.support.content import Content, node

QUICK = Pace(retry_every_s=0.3, patience_s=0.1, spare_bytes=0)


class Origin(httpx.AsyncBaseTransport):
    """An origin behind the client's transport: files by their path, and a note of what was asked."""

    def __init__(self, *contents: Content) -> None:
        self.files: dict[str, bytes] = {}
        self.asked: list[tuple[str, str | None]] = []  # path, range
        self.sent = 0  # bytes of content
        self.most: int | None = None  # bytes of content that it gives before it stops answering
        self.withheld: set[str] = set()  # contents, in hex, whose files it does not give
        self.unknown: set[str] = set()  # contents, in hex, whose torrents it has not
        self.taken: set[str] = set()  # paths that its guard gave to somebody else a moment ago
        self.repository: Path | None = None  # a folder with more files
        for each in contents:
            self.publish(each)

    def publish(self, thing: Content) -> None:
        """Have the origin serve a content and its torrent."""
        self.files[f"torrents/{thing.info_hash.hex()}.torrent"] = thing.torrent
        for path, body in thing.files.items():
            self.files[f"content/{thing.info_hash.hex()}/{path}"] = body

    def _body(self, path: str) -> bytes | None:
        file = self.repository / path if self.repository else None
        return file.read_bytes() if file and file.is_file() else self.files.get(path)

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        path = unquote(request.url.path).lstrip("/")
        asked = request.headers.get("Range")
        self.asked.append((path, asked))
        await trio.lowlevel.checkpoint()
        body = self._body(path)
        if any(path == f"torrents/{each}.torrent" for each in self.unknown):
            body = None
        if any(path.startswith(f"content/{each}/") for each in self.withheld):
            await trio.sleep_forever()
        if path in self.taken:
            headers = {"Edgeshare-Range": "taken", "Retry-After": "1"}
            return httpx.Response(429, stream=httpx.ByteStream(b""), headers=headers)
        if body is None:
            return httpx.Response(404, stream=httpx.ByteStream(b""))
        if asked is None:
            return httpx.Response(200, stream=httpx.ByteStream(body))
        start, last = map(int, asked.removeprefix("bytes=").split("-"))
        part = body[start : last + 1]
        if self.most is not None and self.sent + len(part) > self.most:
            await trio.sleep_forever()
        self.sent += len(part)
        headers = {"Content-Range": f"bytes {start}-{last}/{len(body)}"}
        return httpx.Response(206, stream=httpx.ByteStream(part), headers=headers)


@asynccontextmanager
async def parts(
    library: Path, origin: Origin | None = None, *, address: str = "127.0.0.1", pace: Pace = QUICK, keep_free: int = 0
) -> AsyncIterator[Parts]:
    """A node's parts on the library in `library`."""
    async with AsyncExitStack() as stack:
        opened = await stack.enter_async_context(open_library(library, keep_free))
        # no goodbye to trackers: libtorrent takes a second over it, however soon they answer
        swarm = await stack.enter_async_context(node(address, {"stop_tracker_timeout": 0}))
        mirrors = ("http://origin.example/",)
        transport = origin or Origin()
        origins = await stack.enter_async_context(open_origins(mirrors, Random(1), transport=transport))
        yield Parts(opened, swarm, origins, Lines(), Random(1), pace)


def expected(thing: Content, audience: int | None = 1) -> Expected:
    """What a manifest says of a content; by default, that nobody else wants it: nobody is waited for."""
    return Expected(info_hash=thing.info_hash, size=thing.size, files=len(thing.files), audience=audience)


@asynccontextmanager
async def holding(
    node: Parts, thing: Content | Expected, *peers: Endpoint, killed: bool = False
) -> AsyncIterator[Holding]:
    """The life of one content that nobody else is expected to want, begun from what the index knows of it.

    `killed` ends it without a word.
    """
    wanted = expected(thing) if isinstance(thing, Content) else thing

    async def attend(_: Holding) -> None:
        await trio.lowlevel.checkpoint()

    holdings = Holdings(node, attend)
    async with trio.open_nursery() as nursery:
        await holdings.open(nursery)
        held = holdings.hold(wanted, Helpers(peers=peers))
        yield held
        if killed:
            held.drop()
        nursery.cancel_scope.cancel()
    await node.swarm.remove(wanted.info_hash)


async def complete(held: Holding) -> None:
    """Wait until a content is complete."""
    await held.until(lambda: held.is_complete)
