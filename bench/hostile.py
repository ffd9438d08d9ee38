"""A peer that means no good: `TORRENT TRACKER KIND`, speaking just enough of BitTorrent (BEP 3) to be believed.

It tells the tracker that it is a seed, connects to every peer that the tracker names, takes every connection, says that
it has every piece and that all may ask. `silent` then sends nothing; `wrong` answers each request with random bytes.
"""

from __future__ import annotations

import contextlib
import os
import struct
import sys
import urllib.parse
from functools import partial
from typing import Any

import libtorrent as lt
import trio

PORT = 6881
ANNOUNCE_EVERY_S = 5.0  # far more often than a tracker asks for: it wants to know the victims
_PROTOCOL = b"\x13BitTorrent protocol"
_HANDSHAKE = len(_PROTOCOL) + 8 + 20 + 20
_UNCHOKE, _BITFIELD, _REQUEST, _PIECE = 1, 5, 6, 7
_LONGEST = 1 << 20


class Hostile:
    """One such peer, for one torrent."""

    def __init__(self, torrent: str, tracker: str, *, is_silent: bool) -> None:
        info = lt.torrent_info(torrent)
        hashes = info.info_hashes()
        # a hybrid's swarm is met under both of its hashes, the second one cut to the length of the first
        self._hashes = [bytes.fromhex(str(hashes.v1)), bytes.fromhex(str(hashes.v2))[:20]]
        self._pieces = info.num_pieces()
        host, _, port = tracker.removeprefix("udp://").partition(":")
        self._tracker = host, int(port)
        self._is_silent = is_silent
        self._id = b"-XX0001-" + os.urandom(12)
        self._known: set[tuple[str, int]] = set()

    async def run(self) -> None:
        """Go on until ended."""
        async with trio.open_nursery() as nursery:
            await nursery.start(partial(trio.serve_tcp, self._taken, PORT, host="0.0.0.0"))
            while True:
                for info_hash in self._hashes:
                    for address in await self._announce(info_hash):
                        if address not in self._known:
                            self._known.add(address)
                            nursery.start_soon(self._connect, address, info_hash)
                await trio.sleep(ANNOUNCE_EVERY_S)

    async def _announce(self, info_hash: bytes) -> list[tuple[str, int]]:
        query = urllib.parse.urlencode(
            {
                "info_hash": info_hash,
                "peer_id": self._id,
                "port": PORT,
                "uploaded": 0,
                "downloaded": 0,
                "left": 0,
                "compact": 1,
                "numwant": 200,
            }
        )
        answer = b""
        with contextlib.suppress(OSError), trio.move_on_after(5.0):
            async with await trio.open_tcp_stream(*self._tracker) as stream:
                await stream.send_all(f"GET /announce?{query} HTTP/1.0\r\n\r\n".encode())
                async for portion in stream:
                    answer += portion
        found: Any = lt.bdecode(answer.partition(b"\r\n\r\n")[2]) if answer else None
        peers = found.get(b"peers", b"") if isinstance(found, dict) else b""
        return [
            (".".join(map(str, peers[start : start + 4])), struct.unpack(">H", peers[start + 4 : start + 6])[0])
            for start in range(0, len(peers) - 5, 6)
        ]

    async def _connect(self, address: tuple[str, int], info_hash: bytes) -> None:
        with contextlib.suppress(OSError, trio.BrokenResourceError, EOFError):
            async with await trio.open_tcp_stream(*address) as stream:
                await stream.send_all(self._hello(info_hash))
                await _exactly(stream, _HANDSHAKE)
                await self._talk(stream)

    async def _taken(self, stream: trio.SocketStream) -> None:
        with contextlib.suppress(OSError, trio.BrokenResourceError, EOFError):
            hello = await _exactly(stream, _HANDSHAKE)
            if hello.startswith(_PROTOCOL):
                await stream.send_all(self._hello(hello[len(_PROTOCOL) + 8 :][:20]))
                await self._talk(stream)

    def _hello(self, info_hash: bytes) -> bytes:
        return _PROTOCOL + bytes(8) + info_hash + self._id

    async def _talk(self, stream: trio.SocketStream) -> None:
        """Claim everything, then answer, or not."""
        full, rest = divmod(self._pieces, 8)
        bits = b"\xff" * full + (bytes([0xFF00 >> rest & 0xFF]) if rest else b"")
        await stream.send_all(_message(_BITFIELD, bits) + _message(_UNCHOKE))
        while True:
            (length,) = struct.unpack(">I", await _exactly(stream, 4))
            if length > _LONGEST:
                return
            body = await _exactly(stream, length)
            if body[:1] == bytes([_REQUEST]) and not self._is_silent:
                piece, begin, wanted = struct.unpack(">III", body[1:13])
                await stream.send_all(_message(_PIECE, struct.pack(">II", piece, begin) + os.urandom(wanted)))


async def _exactly(stream: trio.SocketStream, count: int) -> bytes:
    found = b""
    while len(found) < count:
        portion = await stream.receive_some(count - len(found))
        if not portion:
            raise EOFError
        found += portion
    return found


def _message(kind: int, body: bytes = b"") -> bytes:
    return struct.pack(">IB", 1 + len(body), kind) + body


def main(arguments: list[str]) -> None:
    """Run until ended."""
    torrent, tracker, kind = arguments
    trio.run(Hostile(torrent, tracker, is_silent=kind == "silent").run)


if __name__ == "__main__":
    main(sys.argv[1:])
