"""HTTP/1.1 for browsers and nodes on trio: one task a connection, no thread.

The shim and `edgeshare origin serve` are handlers of this server: a `Request` in, a `Response` out. Besides the gates
in `heads` and `messages` it keeps these rules for both:

- A head has at most 16 KiB (431) and is complete within `head_timeout_s` of its first byte (408).
- Connections are limited, in total and for each client's address, loopback too (503 with Retry-After), and so are the
  requests of each address (429 with Retry-After).
- A body is as long as its head says, or the connection breaks: never padded, never cut and closed politely.
- A client that leaves, or takes nothing for `write_timeout_s`, cancels what is being made for it.
- A handler that fails costs its own request (500) and one entry in the log. Nothing about a client is ever logged.
"""

from __future__ import annotations

import errno
import logging
import math
import socket
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Final, NoReturn

import attrs
import trio
from attrs.validators import ge, gt

from edgeshare import host as system
from edgeshare.config import MOST_CONNECTIONS
from edgeshare.errors import ConfigError
from edgeshare.httpd.heads import HEAD_BYTES, Asked, Heads
from edgeshare.httpd.messages import BODILESS, CONFINED, FileBody, Refused, Request, Response, StreamBody, head
from edgeshare.httpd.rates import Buckets, Rate
from edgeshare.httpd.wire import NEVER, Wire, wire_of

__all__ = ["HEAD_BYTES", "FileBody", "Limits", "Request", "Response", "StreamBody", "listen", "serve"]

READ_AHEAD_BYTES: Final = 64 * 1024  # of pipelined requests while a stream is sent: some hundred of them
LOOK_EVERY_S: Final = 0.5  # at all connections, for those that are late
LINGER_S: Final = 2.0  # for a last response to arrive before the socket closes
BUSY_RETRY_S: Final = 5  # connections come free as fast as pages load
REFUSALS_AT_ONCE: Final = 64  # 503s under way; beyond these a connection closes without a word
FILES_BESIDES: Final = 1024  # descriptors for all else: peers, the library, the index

_PLAIN: Final = ("content-type", "text/plain; charset=utf-8")

logger = logging.getLogger(__name__)
Handler = Callable[[Request], Awaitable[Response]]
OnDone = Callable[[Request, Response, int], None]
MayWait = Callable[[Request], bool]
AtOnce = Callable[[Request], Response | None]


@attrs.frozen(kw_only=True)
class Limits:
    """What one server allows its clients."""

    # A school of 1,000 where all have pages open; idle ones take 10 kB each, and each may hold a file.
    connections: int = attrs.field(default=MOST_CONNECTIONS, validator=ge(1))
    connections_per_client: int = attrs.field(default=64, validator=ge(1))  # a browser opens 6 for each web origin
    requests_per_client: Rate = attrs.field(factory=Rate)
    head_timeout_s: float = attrs.field(default=10.0, validator=gt(0))
    idle_timeout_s: float = attrs.field(default=60.0, validator=gt(0))  # between two requests
    write_timeout_s: float = attrs.field(default=120.0, validator=gt(0))  # a paused video; its browser asks again


_LISTEN_FAILURES = {
    errno.EADDRINUSE: ("it is in use", "choose another port, or stop the program that `ss -ltnp` shows there"),
    errno.EACCES: ("it is not permitted", "choose a port above 1023, or grant CAP_NET_BIND_SERVICE"),
    errno.EADDRNOTAVAIL: ("no interface has this address", "choose one that `ip address` shows, or 0.0.0.0 for all"),
    errno.EAFNOSUPPORT: ("this machine has no such kind of address", "choose an IPv4 address, like 127.0.0.1"),
}


async def listen(host: str, port: int) -> list[trio.SocketListener]:
    """Listeners on every address of `host`; port 0 lets the kernel choose. `serve` takes them over and closes them.

    Raises:
        ConfigError: the address is in use, forbidden, unknown or not this machine's.
    """
    where = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    if not 0 <= port <= 65535:
        raise ConfigError(f"cannot listen on {where}", hint="a port is a number from 0 to 65535")
    try:
        return await trio.open_tcp_listeners(port, host=host)
    except (socket.gaierror, UnicodeError) as error:
        hint = "use an address of this machine, like 127.0.0.1"
        raise ConfigError(f"cannot listen on {where}, the host name is unknown", hint=hint) from error
    except OSError as error:
        if error.errno not in _LISTEN_FAILURES:
            raise
        what, hint = _LISTEN_FAILURES[error.errno]
        raise ConfigError(f"cannot listen on {where}, {what}", hint=hint) from error


async def serve(
    handler: Handler,
    listeners: Sequence[trio.abc.Listener[trio.abc.HalfCloseableStream]],
    *,
    limits: Limits = Limits(),
    on_done: OnDone | None = None,
    on_connection: Callable[[], None] | None = None,
    may_wait: MayWait = lambda request: False,
    at_once: AtOnce = lambda request: None,
) -> NoReturn:
    """Answer requests on `listeners` until cancelled, then close them.

    `at_once` is asked first, and `handler` where it gives nothing: an answer that is ready costs half as much there.
    Where `may_wait` says that a response may take long, the handler is cancelled when its client leaves meanwhile.
    `on_connection` is called for each connection that is let in; `on_done` after each of these responses, also after
    one that broke off, with the bytes of its body that went out.

    The process may open as many files as that takes, or as the system permits; then there are fewer connections.
    """
    files = system.allow_open_files(2 * limits.connections + FILES_BESIDES)
    most = max(1, min(limits.connections, (files - FILES_BESIDES) // 2))
    if most < limits.connections:
        logger.warning(
            "only %d connections at once, not %d: this process may open %d files", most, limits.connections, files
        )
    door = _Door(_House(handler, limits, on_done, may_wait, at_once), most, on_connection)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(door.look_after)
        await trio.serve_listeners(door.attend, list(listeners), handler_nursery=nursery)


class _House:
    """What all connections share."""

    def __init__(
        self, handler: Handler, limits: Limits, on_done: OnDone | None, may_wait: MayWait, at_once: AtOnce
    ) -> None:
        self.handler, self.limits, self.on_done = handler, limits, on_done
        self.may_wait, self.at_once = may_wait, at_once
        self.buckets = Buckets(limits.requests_per_client)


class _Door:
    """Who is inside, and who comes in."""

    def __init__(self, house: _House, most: int, on_connection: Callable[[], None] | None) -> None:
        self._house, self._most, self._on_connection = house, most, on_connection
        self._inside: set[_Connection] = set()
        self._present: Counter[str] = Counter()  # connections by the client's address
        self._refusals = 0

    async def attend(self, stream: trio.abc.HalfCloseableStream) -> None:
        """The task of one connection, which the caller closes."""
        try:
            client, local = _ends(stream)
        except OSError:  # gone again already
            return
        connection = _Connection(self._house, wire_of(stream), client, local)
        is_full = len(self._inside) >= self._most
        if is_full or self._present[client] >= self._house.limits.connections_per_client:
            await self._refuse(connection, b"" if is_full else b" from your address")
            return
        self._present[client] += 1
        self._inside.add(connection)
        try:
            if self._on_connection is not None:
                self._on_connection()
            await connection.serve()
        finally:
            self._inside.discard(connection)
            self._present[client] -= 1
            if not self._present[client]:
                del self._present[client]

    async def look_after(self) -> NoReturn:
        """Give up connections that are late, until cancelled."""
        while True:
            await trio.sleep(LOOK_EVERY_S)  # the period is the point: one look at all of them costs less than timers
            now_s = trio.current_time()
            for connection in self._inside:
                if connection.wire.is_late(now_s):
                    connection.give_up()

    async def _refuse(self, connection: _Connection, whose: bytes) -> None:
        if self._refusals < REFUSALS_AT_ONCE:
            self._refusals += 1
            try:
                await connection.refuse(whose)
            finally:
                self._refusals -= 1


class _Connection:
    """One client's connection. It lives in the scope `_gone`, which is cancelled when the client leaves or is late."""

    def __init__(self, house: _House, wire: Wire, client: str, local: tuple[str, int]) -> None:
        self.wire = wire
        self._house, self._limits, self._client = house, house.limits, client
        self._heads = Heads(local)
        self._gone = trio.CancelScope()
        self._is_late = False
        self._is_asking = True  # it is the client's turn: a request, or a part of one, is to come
        self._body_sent = 0  # bytes of the present response's body
        self._idle_s = house.limits.head_timeout_s  # a new connection has no claim to a keep-alive's patience

    async def serve(self) -> None:
        """Answer requests until one side closes. What a body's producer raises ends here, and this connection."""
        try:
            with self._gone:
                while await self._exchange():
                    self._idle_s = self._limits.idle_timeout_s
                await self._part()
                return
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass
        except Exception:
            logger.exception("a response broke off")
        if self._is_late and self._is_asking:
            await self._dismiss()
        else:
            self.wire.abort()

    def give_up(self) -> None:
        """The client has had its time."""
        self._is_late = True
        self._gone.cancel()

    async def refuse(self, whose: bytes) -> None:
        """Say that there are too many connections, and `whose`."""
        words = b"Too many connections%b: try again soon.\n" % whose
        busy = Refused(503, _PLAIN, ("retry-after", str(BUSY_RETRY_S)), body=words)
        await self._dismiss(busy)

    async def _dismiss(self, refusal: Refused | None = None) -> None:
        """End a connection with a word, for which there are two seconds: that it is late, where it has begun to ask."""
        if refusal is None and self._heads.pending:
            refusal = Refused(408)
        with trio.move_on_after(LINGER_S):
            try:
                if refusal is not None:
                    await self._send(refusal.response, None)
                await self._part()
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                pass

    async def _exchange(self) -> bool:
        """One request and its response; whether another may follow."""
        self._is_asking = True
        try:
            asked = await self._next_request()
            if asked is None:
                return False
            self._is_asking = False
            self._check_rate()
        except Refused as refusal:
            self._is_asking = False
            return await self._send(refusal.response, None)
        request = asked.request
        try:
            response = self._house.at_once(request) or await self._answer(request)
        except Exception:
            logger.exception("a request could not be answered")
            response = Response(500, (CONFINED,))
        try:
            return await self._send(response, asked)
        finally:
            if isinstance(response.body, FileBody):
                response.body.file.close()
            if self._house.on_done is not None:
                self._house.on_done(request, response, self._body_sent)

    def _check_rate(self) -> None:
        wait_s = self._house.buckets.wait_s(self._client, trio.current_time())
        if wait_s:
            told = str(math.ceil(wait_s))
            raise Refused(429, _PLAIN, ("retry-after", told), body=b"Too many requests: try again soon.\n")

    async def _answer(self, request: Request) -> Response:
        """The handler's response; where it may wait for long, a client that leaves ends the waiting."""
        if not self._house.may_wait(request):
            return await self._house.handler(request)
        response: Response | None = None
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._watch)
                response = await self._house.handler(request)
                nursery.cancel_scope.cancel()
            await trio.lowlevel.checkpoint_if_cancelled()  # the client left in this very moment
        finally:
            if self._gone.cancel_called and response is not None and isinstance(response.body, FileBody):
                response.body.file.close()
        assert response is not None
        return response

    # Receiving

    async def _next_request(self) -> Asked | None:
        """The next request; None when the client has closed, or begins none.

        Raises:
            Refused: it breaks a rule.
        """
        heads = self._heads
        if heads.pending:
            await trio.lowlevel.checkpoint()  # a turn for others between two pipelined requests
        else:
            received = await self.wire.receive(trio.current_time() + self._idle_s)
            if not received:
                return None
            heads.receive(received)
        asked = heads.next()
        if asked is None:
            until_s = trio.current_time() + self._limits.head_timeout_s
            while asked is None:
                received = await self.wire.receive(until_s)
                if not received:
                    return None
                heads.receive(received)
                asked = heads.next()
        return asked

    async def _watch(self) -> None:
        """Cancel the connection when the client leaves; requests that it pipelines meanwhile wait.

        A half-close (shutdown(SHUT_WR), as `nc` does) counts as leaving: it looks like a close from here, and browsers
        never do it. So does pipelining without end, which would blind this watch or fill the memory.
        """
        while self._heads.pending < READ_AHEAD_BYTES and (received := await self.wire.receive(NEVER)):
            self._heads.receive(received)
        self._gone.cancel()

    # Sending

    async def _send(self, response: Response, asked: Asked | None) -> bool:
        """Send the response to what was `asked`, if that was anything; whether another request may follow.

        Raises:
            trio.BrokenResourceError: the client is gone.
        """
        self._body_sent = 0
        body, patience_s = response.body, self._limits.write_timeout_s
        match body:
            case bytes():
                length: int | None = len(body)
            case FileBody(count=length) | StreamBody(size=length):
                pass
        stays = asked is not None and asked.stays and not response.is_last
        is_chunked = length is None and asked is not None and asked.knows_chunks
        is_endless = length is None and not is_chunked
        stays = stays and not is_endless
        start = head(response, length=length, now_s=time.time(), closes=not stays, is_chunked=is_chunked)
        is_told = (asked is None or asked.request.method != "HEAD") and response.status not in BODILESS
        if not is_told or not (length or isinstance(body, StreamBody)):
            await self.wire.send((start,), patience_s)
        elif isinstance(body, bytes):
            await self.wire.send((start, body), patience_s)
            self._body_sent = len(body)
        elif isinstance(body, FileBody):
            await self._send_file(start, body)
        else:
            await self._send_stream(start, body, is_chunked=is_chunked)
        return stays

    async def _send_file(self, start: bytes, body: FileBody) -> None:
        wire = self.wire
        try:
            await wire.send_file(start, body.file, body.start, body.count, self._limits.write_timeout_s)
        finally:
            self._body_sent = wire.file_sent
        if wire.file_sent < body.count:  # the file has shrunk
            raise trio.BrokenResourceError

    async def _send_stream(self, start: bytes, body: StreamBody, *, is_chunked: bool) -> None:
        await self.wire.send((start,), self._limits.write_timeout_s)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._watch)
            async with body.chunks as chunks:
                async for chunk in chunks:
                    if body.size is not None and self._body_sent + len(chunk) > body.size:
                        raise ValueError("a stream gives more than its size")
                    if chunk:
                        await self._send_or_leave((b"%x\r\n" % len(chunk), chunk, b"\r\n") if is_chunked else (chunk,))
                    self._body_sent += len(chunk)
            nursery.cancel_scope.cancel()
        if body.size is not None and self._body_sent < body.size:
            raise trio.BrokenResourceError
        if is_chunked:
            await self.wire.send((b"0\r\n\r\n",), self._limits.write_timeout_s)

    async def _send_or_leave(self, parts: Iterable[bytes]) -> None:
        """Send a part of a stream; a client that is gone cancels its producer, which expects that and no error."""
        try:
            await self.wire.send(parts, self._limits.write_timeout_s)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            self._gone.cancel()
            await trio.sleep_forever()

    # Closing

    async def _part(self) -> None:
        """Close after a last response: input that nobody has read would turn the close into a reset, and lose it."""
        with trio.move_on_after(LINGER_S):
            await self.wire.finish()
            while await self.wire.receive(NEVER):
                pass


def _ends(stream: trio.abc.HalfCloseableStream) -> tuple[str, tuple[str, int]]:
    """The client's address, and our own with its port."""
    if not isinstance(stream, trio.SocketStream):
        return "", ("", 0)
    return stream.socket.getpeername()[0], stream.socket.getsockname()[:2]
