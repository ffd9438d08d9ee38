"""One end of a connection as the server uses it: bytes in, bytes and files out, and how long each may take.

A wire that waits says until when, and `late` tells those whose time is over: the server looks at all wires twice a
second, as a timer for each step would cost as much as the step.

- Sending may take as long as it makes progress: the time begins anew whenever the kernel takes more.
- A file goes out in slices, with a turn for others between them, and the kernel queues little of it (16 KiB, which is
  trio's TCP_NOTSENT_LOWAT): who leaves or seeks has little under way, and who reads slowly takes no memory.
"""

from __future__ import annotations

import math
import socket
import struct
from collections.abc import Iterable, Sequence
from typing import Final, Protocol

import trio

from edgeshare import host as system
from edgeshare.httpd.poller import Poller, React

NEVER: Final = math.inf
RECEIVE_BYTES: Final = 16 * 1024
SLICE_BYTES: Final = 1 << 20  # of a file between two turns of others: a millisecond, or ten where a disk is asked


class File(Protocol):
    """What has an open descriptor."""

    def fileno(self) -> int: ...


class Wire:
    """A connection over any of trio's streams, as tests have them. When it is late its task is cancelled by the server.

    Each `until_s` is a moment by trio's clock, or `NEVER`.
    """

    def __init__(self, stream: trio.abc.HalfCloseableStream) -> None:
        self._stream = stream
        self._receives_until_s = self._sends_until_s = NEVER
        self._arrived: bytes | None = None
        self.file_sent = 0  # bytes of the last file that have left

    def is_late(self, now_s: float) -> bool:
        """Whether it waits for its client longer than it may."""
        return self._receives_until_s <= now_s or self._sends_until_s <= now_s

    def waits_until(self, until_s: float) -> None:
        """Give a client that `wait` waits for until then."""
        self._receives_until_s = until_s

    async def wait(self, poller: Poller, react: React, until_s: float) -> None:
        """Have `react` see to what arrives, which `receive_now` gives; return when it does not (see `Poller.wait`)."""
        self._arrived = await self.receive(until_s)
        react(trio.current_time())  # which sees to nothing where nothing can be sent without waiting

    def receive_now(self) -> bytes | None:
        """What has arrived: nothing when the client closed its side, or is gone, None when that is to come."""
        return self._arrived

    async def receive(self, until_s: float) -> bytes:
        """What the client sends next; nothing when it has closed its side, or is gone."""
        self._receives_until_s = until_s
        try:
            return bytes(await self._stream.receive_some(RECEIVE_BYTES))
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            return b""
        finally:
            self._receives_until_s = NEVER

    def send_now(self, parts: Sequence[bytes]) -> Sequence[bytes | memoryview]:
        """Send as much of `parts` as can be sent without waiting; what is left of them.

        Raises:
            trio.BrokenResourceError: the client is gone.
        """
        return parts

    async def send(self, parts: Iterable[bytes | memoryview], patience_s: float) -> None:
        """Send all of `parts`; the client has `patience_s` to take some of it, and then again.

        Raises:
            trio.BrokenResourceError: the client is gone.
        """
        for part in parts:
            self._sends_until_s = trio.current_time() + patience_s
            await self._stream.send_all(part)
        self._sends_until_s = NEVER

    async def send_file(self, head: bytes, file: File, start: int, count: int, patience_s: float) -> None:
        """Send `head` and then `count` bytes of `file` from `start`, or as many as there are: `file_sent` says it.

        Raises:
            trio.BrokenResourceError: the client is gone.
        """
        raise TypeError("a file goes out by sendfile, which needs a socket")

    async def finish(self) -> None:
        """Say that nothing more will come.

        Raises:
            trio.BrokenResourceError: the client is gone.
        """
        await self._stream.send_eof()

    def abort(self) -> None:
        """Make the coming close a reset: what the kernel still holds for this client is not worth keeping."""


class SocketWire(Wire):
    """A connection over a socket, past trio's own methods, which take a third of the time of a short answer."""

    def __init__(self, stream: trio.SocketStream) -> None:
        super().__init__(stream)
        self._socket_stream = stream
        self._descriptor = stream.socket.fileno()

    async def wait(self, poller: Poller, react: React, until_s: float) -> None:
        self._receives_until_s = until_s
        try:
            await poller.wait(self._descriptor, react)
        finally:
            self._receives_until_s = NEVER

    def receive_now(self) -> bytes | None:
        try:
            return system.receive_now(self._socket_stream, RECEIVE_BYTES)
        except trio.BrokenResourceError:
            return b""

    async def receive(self, until_s: float) -> bytes:
        self._receives_until_s = until_s
        try:
            while True:
                # waits first: a client that has just been answered is silent
                await trio.lowlevel.wait_readable(self._descriptor)
                received = self.receive_now()
                if received is not None:
                    return received
        except trio.ClosedResourceError:
            return b""
        finally:
            self._receives_until_s = NEVER

    def send_now(self, parts: Sequence[bytes | memoryview]) -> Sequence[bytes | memoryview]:
        taken = system.send_now(self._socket_stream, parts)
        for number, part in enumerate(parts):
            if taken < len(part):
                return [memoryview(part)[taken:], *parts[number + 1 :]]
            taken -= len(part)
        return ()

    async def send(self, parts: Iterable[bytes | memoryview], patience_s: float) -> None:
        left: Sequence[bytes | memoryview] = tuple(parts)
        while left := self.send_now(left):
            await self._room(patience_s)

    async def send_file(self, head: bytes, file: File, start: int, count: int, patience_s: float) -> None:
        self.file_sent = 0
        with system.corked(self._socket_stream):
            await self.send((head,), patience_s)
            while left := count - self.file_sent:
                portion = min(left, SLICE_BYTES)
                sent = system.send_file_now(self._socket_stream, file.fileno(), start + self.file_sent, portion)
                if sent is None:
                    await self._room(patience_s)
                elif sent == 0:  # the file has shrunk
                    return
                else:
                    self.file_sent += sent
                    if sent < portion:  # the kernel has no more room
                        await self._room(patience_s)
                    else:
                        await trio.lowlevel.checkpoint()

    def abort(self) -> None:
        self._socket_stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    async def _room(self, patience_s: float) -> None:
        """Wait until the kernel takes more."""
        self._sends_until_s = trio.current_time() + patience_s
        try:
            await trio.lowlevel.wait_writable(self._descriptor)
        finally:
            self._sends_until_s = NEVER


def wire_of(stream: trio.abc.HalfCloseableStream) -> Wire:
    """The wire over a stream."""
    return SocketWire(stream) if isinstance(stream, trio.SocketStream) else Wire(stream)
