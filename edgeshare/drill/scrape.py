"""Asking a tracker how a swarm stands: how many have it whole, how many are at it. UDP (BEP 15) or HTTP (BEP 48).

The library for it that is kept (scrapeer) blocks, speaks IPv4 only, and can announce itself as a peer: then the crowd
that is counted has one more. What is needed is two datagrams each way.

Rules:
- A scrape tells nobody anything: the tracker learns of no peer, and names none.
- A datagram that is no answer to what was asked is as if it had not come.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from random import Random
from typing import NoReturn
from urllib.parse import quote_from_bytes, urlsplit

import attrs
import httpx
import trio

from edgeshare.errors import EdgeshareError, ManifestError
from edgeshare.manifest import shown
from edgeshare.publish.torrent import scraped

PATIENCE_S = 2.0  # for one answer; a sample that is late is worth nothing
TRIES = 2  # a datagram may be lost
CONNECTED_S = 50.0  # a connection id is good for a minute (BEP 15)
MOST = 64 * 1024  # bytes of an answer
_MAGIC = 0x41727101980
_CONNECT, _SCRAPE, _ERROR = 0, 2, 3


class ScrapeError(EdgeshareError):
    """A tracker does not answer, or not what was asked."""


@attrs.frozen
class Counts:
    """One swarm, as its tracker counts it."""

    complete: int
    incomplete: int
    ever: int  # that said that they had become complete

    def or_more(self, other: Counts) -> Counts:
        """The larger of each: a node announces a hybrid torrent by two hashes, and maybe to several trackers."""
        return Counts(
            max(self.complete, other.complete), max(self.incomplete, other.incomplete), max(self.ever, other.ever)
        )


NOBODY = Counts(0, 0, 0)


async def get(client: httpx.AsyncClient, url: str, most: int) -> tuple[int, bytes]:
    """Status and body of a small answer.

    Raises:
        httpx.HTTPError: nobody answers.
        ScrapeError: the answer has more than `most` bytes.
    """
    plain = {"Accept-Encoding": "identity"}  # nothing small unpacks to something large
    async with client.stream("GET", url, headers=plain) as response:
        body = bytearray()
        with trio.CancelScope() as enough:
            async for portion in response.aiter_raw():
                body += portion
                if len(body) > most:
                    enough.cancel()  # leaving the loop would leave httpx's generators half-way
        if len(body) > most:
            raise ScrapeError(f"{url} answers with more than {most} bytes", hint="is it the right address?")
        return response.status_code, bytes(body)


class UdpTracker:
    """A tracker asked over UDP."""

    def __init__(self, url: str, rng: Random, *, patience_s: float = PATIENCE_S) -> None:
        self.url = url
        self._patience_s = patience_s
        parts = urlsplit(url)
        self._host, self._port = parts.hostname or "", parts.port or 80
        self._rng = rng
        self._id = b""
        self._id_until = 0.0

    async def counts(self, hashes: Sequence[bytes]) -> Counts:
        """The swarm that is announced by `hashes`, 20 bytes each.

        Raises:
            ScrapeError: there is no answer, or a refusal.
        """
        try:
            found = await trio.socket.getaddrinfo(self._host, self._port, type=trio.socket.SOCK_DGRAM)
            family, kind, protocol, _, address = found[0]
            with trio.socket.socket(family, kind, protocol) as line:
                await line.connect(address)  # what others send does not reach it
                return await self._ask(line, hashes)
        except OSError as error:
            what = f"the tracker {self.url} cannot be reached ({error.strerror or error})"
            raise ScrapeError(what, hint="is it running? name another with --tracker") from error

    async def _ask(self, line: trio.socket.SocketType, hashes: Sequence[bytes]) -> Counts:
        for _ in range(TRIES):
            with trio.move_on_after(self._patience_s):
                if trio.current_time() >= self._id_until:
                    answer = await self._exchange(line, struct.pack(">Q", _MAGIC), _CONNECT, b"", 8)
                    self._id, self._id_until = answer[:8], trio.current_time() + CONNECTED_S
                answer = await self._exchange(line, self._id, _SCRAPE, b"".join(hashes), 12 * len(hashes))
                counts = NOBODY
                for complete, ever, incomplete in struct.iter_unpack(">III", answer[: 12 * len(hashes)]):
                    counts = counts.or_more(Counts(complete, incomplete, ever))
                return counts
            self._id_until = 0.0  # it may have been started anew, and know nothing of us
        raise ScrapeError(f"the tracker {self.url} does not answer", hint="is UDP let through? see --tracker")

    async def _exchange(self, line: trio.socket.SocketType, head: bytes, action: int, body: bytes, least: int) -> bytes:
        """What follows the head of the answer to one question, at least `least` bytes of it."""
        mark = self._rng.randbytes(4)
        await line.send(head + struct.pack(">I", action) + mark + body)
        while True:
            answer = await line.recv(MOST)
            if len(answer) < 8 or answer[4:8] != mark:
                continue
            kind = int.from_bytes(answer[:4], "big")
            if kind == _ERROR:
                self._id_until = 0.0
                reason = shown(answer[8:].rstrip(b"\0").decode(errors="replace"))
                raise ScrapeError(f"the tracker {self.url} refuses, {reason}", hint="name another with --tracker")
            if kind == action and len(answer) >= 8 + least:
                return answer[8:]


class HttpTracker:
    """A tracker asked over HTTP."""

    def __init__(self, url: str, client: httpx.AsyncClient) -> None:
        self.url = url
        self._client = client

    async def counts(self, hashes: Sequence[bytes]) -> Counts:
        """As `UdpTracker.counts`."""
        head, slash, last = self.url.rpartition("/")
        if not slash or not last.startswith("announce"):  # BEP 48: no other announce URL has a scrape URL
            raise ScrapeError(
                f"the tracker {self.url} has no scrape address", hint="its URL has no /announce at its end"
            )
        query = "&".join(f"info_hash={quote_from_bytes(each, safe='')}" for each in hashes)
        joint = "&" if "?" in last else "?"
        url = f"{head}/scrape{last.removeprefix('announce')}{joint}{query}"
        try:
            with trio.fail_after(TRIES * PATIENCE_S):
                status, body = await get(self._client, url, MOST)
            swarms = scraped(body) if status == 200 else _refused(status)
        except (httpx.HTTPError, trio.TooSlowError) as error:
            what = f"the tracker {self.url} does not answer ({type(error).__name__})"
            raise ScrapeError(what, hint="is it running? name another with --tracker") from error
        except ManifestError as error:
            what = f"the tracker {self.url} does not say how many have it, {error.what}"
            raise ScrapeError(what, hint="name another with --tracker") from error
        return _of(swarms, hashes)


Tracker = UdpTracker | HttpTracker


def tracker(url: str, client: httpx.AsyncClient, rng: Random) -> Tracker:
    """The tracker at an announce URL."""
    return UdpTracker(url, rng) if url.startswith("udp:") else HttpTracker(url, client)


def _refused(status: int) -> NoReturn:
    raise ManifestError(f"it answers {status}")


def _of(swarms: Mapping[bytes, tuple[int, int, int]], hashes: Sequence[bytes]) -> Counts:
    counts = NOBODY
    for each in hashes:
        complete, incomplete, ever = swarms.get(each, (0, 0, 0))
        counts = counts.or_more(Counts(complete, incomplete, ever))
    return counts
