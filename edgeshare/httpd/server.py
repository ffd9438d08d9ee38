"""HTTP/1.1 for browsers and nodes: h11 on trio, one task a connection, no thread.

The shim and `edgeshare origin serve` are handlers of this server: a `Request` in, a `Response` out. Besides the gate in
`messages` it keeps these rules for both:

- A head has at most 16 KiB (431) and is complete within `head_timeout_s` of its first byte (408).
- Connections are limited, in total and for each client's address, loopback too (503 with Retry-After).
- A body is as long as its head says, or the connection breaks: never padded, never cut and closed politely.
- A client that leaves, or takes nothing for `write_timeout_s`, cancels what is being made for it.
- A handler that fails costs its own request (500) and one entry in the log. Nothing about a client is ever logged.
"""

from __future__ import annotations

import errno
import logging
import socket
import struct
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, NoReturn, TypeVar, cast

import attrs
import h11
import trio
from attrs.validators import ge, gt

from edgeshare import host as system
from edgeshare.errors import ConfigError
from edgeshare.httpd.messages import BODILESS, FileBody, Refused, Request, Response, StreamBody, checked, head

__all__ = ["FileBody", "Limits", "Request", "Response", "StreamBody", "listen", "serve"]  # all that a handler needs

HEAD_BYTES: Final = 16 * 1024  # a browser sends under 2 KiB; more is no reader
READ_AHEAD_BYTES: Final = 64 * 1024  # of pipelined requests while a stream is sent: some hundred of them
SLICE_BYTES: Final = 64 * 1024  # of a body: what a client has `write_timeout_s` to take
LINGER_S: Final = 2.0  # for a last response to arrive before the socket closes
BUSY_RETRY_S: Final = 5  # connections come free as fast as pages load
REFUSALS_AT_ONCE: Final = 64  # 503s under way; beyond these a connection closes without a word

logger = logging.getLogger(__name__)
T = TypeVar("T")
Handler = Callable[[Request], Awaitable[Response]]
OnDone = Callable[[Request, Response, int], None]
MayWait = Callable[[Request], bool]


@attrs.frozen(kw_only=True)
class Limits:
    """What one server allows its clients."""

    connections: int = attrs.field(default=512, validator=ge(1))  # two classes of 30 open 360; each may hold a file
    connections_per_client: int = attrs.field(default=64, validator=ge(1))  # a browser opens 6 for each web origin
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
) -> NoReturn:
    """Answer requests on `listeners` until cancelled, then close them.

    Where `may_wait` says that a response may take long, the handler is cancelled when its client leaves meanwhile.
    `on_connection` is called for each connection that is let in; `on_done` after each response of `handler`, also after
    one that broke off, with the bytes of its body that went out.
    """
    present: Counter[str] = Counter()  # connections by the client's address
    refusals = 0

    async def attend(stream: trio.abc.HalfCloseableStream) -> None:
        nonlocal refusals
        try:
            client, local = _ends(stream)
        except OSError:  # gone again already
            return
        connection = _Connection(stream, local, handler, limits, on_done, may_wait)
        if present.total() >= limits.connections or present[client] >= limits.connections_per_client:
            if refusals < REFUSALS_AT_ONCE:
                refusals += 1
                try:
                    await connection.refuse()
                finally:
                    refusals -= 1
            return
        present[client] += 1
        try:
            if on_connection is not None:
                on_connection()
            await connection.serve()
        finally:
            present[client] -= 1
            if not present[client]:
                del present[client]

    await trio.serve_listeners(attend, list(listeners))


class _Connection:
    """One client's connection. It lives in the scope `_gone`, which is cancelled when the client leaves or stalls."""

    def __init__(
        self,
        stream: trio.abc.HalfCloseableStream,
        local: tuple[str, int],
        handler: Handler,
        limits: Limits,
        on_done: OnDone | None,
        may_wait: MayWait,
    ) -> None:
        self._stream, self._local, self._handler = stream, local, handler
        self._limits, self._on_done, self._may_wait = limits, on_done, may_wait
        self._http = h11.Connection(h11.SERVER, max_incomplete_event_size=HEAD_BYTES)
        self._gone = trio.CancelScope()
        self._unparsed = 0  # bytes given to h11 that are not part of a request yet
        self._body_sent = 0  # bytes of the present response's body
        self._idle_s = limits.head_timeout_s  # a new connection has no claim to a keep-alive's patience

    async def serve(self) -> None:
        """Answer requests until one side closes. What a body's producer raises ends here, and this connection."""
        try:
            with self._gone:
                while await self._exchange():
                    self._http.start_next_cycle()
                    self._idle_s = self._limits.idle_timeout_s
                await self._part()
                return
        except Exception:
            logger.exception("a response broke off")
        self._abort()

    async def refuse(self) -> None:
        """Say that the server is full."""
        busy = Refused(503, ("retry-after", str(BUSY_RETRY_S)), body=b"Too many connections: try again soon.\n")
        with self._gone:
            await self._send(busy.response, with_body=True)
            await self._part()

    async def _exchange(self) -> bool:
        """One request and its response; whether another may follow."""
        try:
            request = await self._next_request()
        except Refused as refusal:
            await self._send(refusal.response, with_body=True)
            return False
        if request is None:
            return False
        try:
            response = await self._answer(request)
        except Exception:
            logger.exception("a request could not be answered")
            response = Response(500)
        try:
            await self._send(response, with_body=request.method != "HEAD" and response.status not in BODILESS)
        finally:
            if isinstance(response.body, FileBody):
                response.body.file.close()
            if self._on_done is not None:
                self._on_done(request, response, self._body_sent)
        return self._http.our_state is h11.DONE

    async def _answer(self, request: Request) -> Response:
        """The handler's response; where it may wait for long, a client that leaves ends the waiting."""
        if not self._may_wait(request):
            return await self._handler(request)
        response: Response | None = None
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._watch)
                response = await self._handler(request)
                nursery.cancel_scope.cancel()
        finally:
            if self._gone.cancel_called and response is not None and isinstance(response.body, FileBody):
                response.body.file.close()
        assert response is not None
        return response

    # Receiving

    async def _next_request(self) -> Request | None:
        """The next request; None when the client has closed, or has begun none in time.

        Raises:
            Refused: it breaks a rule.
        """
        if not self._unparsed:
            with trio.move_on_after(self._idle_s):
                await self._receive()
            if not self._unparsed:
                return None
        with trio.move_on_after(self._limits.head_timeout_s):
            return await self._parse()
        raise Refused(408)

    async def _parse(self) -> Request | None:
        request: Request | None = None
        while True:
            try:
                event = self._http.next_event()
            except h11.RemoteProtocolError as error:
                raise Refused(error.error_status_hint) from error
            if event is h11.NEED_DATA:
                if not await self._receive():
                    return None
            elif isinstance(event, h11.Request):
                rest = len(self._http.trailing_data[0])
                if self._unparsed - rest > HEAD_BYTES:  # h11 measures incomplete heads only
                    raise Refused(431)
                self._unparsed = rest
                request = checked(event, self._local)
            else:  # the end of a request without a body
                return request

    async def _receive(self) -> bool:
        """Give h11 what the client sends next; False when it has closed its side, or is gone."""
        try:
            received = bytes(await self._stream.receive_some(HEAD_BYTES))
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            return False
        if received:
            self._http.receive_data(received)
            self._unparsed += len(received)
        return bool(received)

    async def _watch(self) -> None:
        """Cancel the connection when the client leaves; requests that it pipelines meanwhile wait in h11.

        A half-close (shutdown(SHUT_WR), as `nc` does) counts as leaving: it looks like a close from here, and browsers
        never do it. So does pipelining without end, which would blind this watch or fill the memory.
        """
        while self._unparsed < READ_AHEAD_BYTES and await self._receive():
            pass
        self._gone.cancel()

    # Sending

    async def _send(self, response: Response, *, with_body: bool) -> None:
        self._body_sent = 0
        start = self._http.send(head(response))
        match response.body:
            case bytes(body) if body and with_body:
                await self._write(start + self._http.send(h11.Data(data=body)))
                self._body_sent = len(body)
            case FileBody(count=count) as file if count and with_body:
                await self._send_file(start, file)
            case StreamBody() as stream if with_body:
                await self._write(start)
                await self._send_stream(stream)
            case _:
                await self._write(start)
        await self._write(self._http.send(h11.EndOfMessage()))

    async def _send_file(self, start: bytes, body: FileBody) -> None:
        if not isinstance(self._stream, trio.SocketStream):
            raise TypeError("a file goes out by sendfile, which needs a socket")
        # h11 counts the bytes but never sees them: a `range` of that length stands for them (h11's manual, "sendfile")
        self._http.send_with_data_passthrough(h11.Data(data=cast("bytes", range(body.count))))
        with system.corked(self._stream):
            await self._write(start)
            while left := body.count - self._body_sent:
                asked = min(left, SLICE_BYTES)
                position = body.start + self._body_sent
                sent = await self._patiently(system.send_file(self._stream, body.file.fileno(), position, asked))
                self._body_sent += sent
                if sent < asked:  # the file has shrunk
                    await self._break_off()

    async def _send_stream(self, body: StreamBody) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._watch)
            async with body.chunks as chunks:
                async for chunk in chunks:
                    await self._write(self._http.send(h11.Data(data=chunk)))
                    self._body_sent += len(chunk)
            nursery.cancel_scope.cancel()
        if body.size is not None and self._body_sent < body.size:
            await self._break_off()

    async def _write(self, sendable: bytes) -> None:
        for at in range(0, len(sendable), SLICE_BYTES):
            await self._patiently(self._stream.send_all(memoryview(sendable)[at : at + SLICE_BYTES]))

    async def _patiently(self, sending: Awaitable[T]) -> T:
        """Send one slice, or break off when the client is gone or takes nothing for `write_timeout_s`."""
        try:
            with trio.fail_after(self._limits.write_timeout_s):
                return await sending
        except (trio.TooSlowError, trio.BrokenResourceError, trio.ClosedResourceError):
            await self._break_off()

    async def _break_off(self) -> NoReturn:
        # Cancelling, not raising: a producer expects to be cancelled, and not an error that is none of its own.
        self._gone.cancel()
        await trio.sleep_forever()
        raise AssertionError("slept through its own cancellation")

    # Closing

    async def _part(self) -> None:
        """Close after a last response: input that nobody has read would turn the close into a reset, and lose it."""
        with trio.move_on_after(LINGER_S):
            try:
                await self._stream.send_eof()
                while await self._stream.receive_some(HEAD_BYTES):
                    pass
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                pass

    def _abort(self) -> None:
        """Make the coming close a reset: what the kernel still holds for this client is not worth keeping."""
        if isinstance(self._stream, trio.SocketStream):
            self._stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def _ends(stream: trio.abc.HalfCloseableStream) -> tuple[str, tuple[str, int]]:
    """The client's address, and our own with its port."""
    if not isinstance(stream, trio.SocketStream):
        return "", ("", 0)
    return stream.socket.getpeername()[0], stream.socket.getsockname()[:2]
