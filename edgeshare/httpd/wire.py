"""One end of a connection as the server uses it: bytes in, bytes and files out, and how long each may take.

A wire that waits says until when, and `late` tells those whose time is over: the server looks at all wires twice a
second, as a timer for each step would cost as much as the step.

- Sending may take as long as it makes progress: the time begins anew whenever the kernel takes more.
- A file goes out in slices, with a turn for others between them, and the kernel queues little of it: who leaves or
  seeks has little under way, and who reads slowly takes no memory.
"""

from __future__ import annotations

import math
import os
import socket
import struct
from collections.abc import Iterable
from typing import Final, Protocol

import trio

from edgeshare import host as system

NEVER: Final = math.inf
RECEIVE_BYTES: Final = 16 * 1024
SLICE_BYTES: Final = 1 << 20  # of a file between two turns of others: a millisecond, or ten where a disk is asked
AT_ONCE_BYTES: Final = 64 * 1024  # of a file that is read and sent with its head: two system calls in place of four
QUEUED_BYTES: Final = 128 * 1024  # of a file, in the kernel: trio's own 16 KiB cost a fifth of the speed


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
        self.file_sent = 0  # bytes of the last file that have left

    def is_late(self, now_s: float) -> bool:
        """Whether it waits for its client longer than it may."""
        return self._receives_until_s <= now_s or self._sends_until_s <= now_s

    async def receive(self, until_s: float) -> bytes:
        """What the client sends next; nothing when it has closed its side, or is gone."""
        self._receives_until_s = until_s
        try:
            return bytes(await self._stream.receive_some(RECEIVE_BYTES))
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            return b""
        finally:
            self._receives_until_s = NEVER

    async def send(self, parts: Iterable[bytes], patience_s: float) -> None:
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
        self._queues_little = False

    async def receive(self, until_s: float) -> bytes:
        self._receives_until_s = until_s
        try:
            while True:
                # waits first: a client that has just been answered is silent
                await trio.lowlevel.wait_readable(self._descriptor)
                received = system.receive_now(self._socket_stream, RECEIVE_BYTES)
                if received is not None:
                    return received
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            return b""
        finally:
            self._receives_until_s = NEVER

    async def send(self, parts: Iterable[bytes], patience_s: float) -> None:
        left: list[bytes | memoryview] = list(parts)
        while left:
            taken = system.send_now(self._socket_stream, left)
            while left and taken >= len(left[0]):
                taken -= len(left.pop(0))
            if not left:
                return  # without a turn for others: whoever asks next has waited to be asked
            left[0] = memoryview(left[0])[taken:]
            await self._room(patience_s)

    async def send_file(self, head: bytes, file: File, start: int, count: int, patience_s: float) -> None:
        self.file_sent = 0
        if count <= AT_ONCE_BYTES:
            body = os.pread(file.fileno(), count, start)
            await self.send((head, body), patience_s)
            self.file_sent = len(body)
            return
        if not self._queues_little:
            system.queue_at_most(self._socket_stream, QUEUED_BYTES)
            self._queues_little = True
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
