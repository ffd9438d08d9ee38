"""One connection of the server: its requests, one after the other, and their answers.

It lives in one task. While its client is silent that task sleeps, and an answer that is at hand (`AtOnce`) is given by
the server's poller, which wakes nobody for it.
"""

from __future__ import annotations

import logging
import math
import os
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Final

import attrs
import trio
from attrs.validators import ge, gt

from edgeshare.config import MOST_CONNECTIONS
from edgeshare.httpd.heads import Asked, Heads
from edgeshare.httpd.messages import BODILESS, CONFINED, Body, FileBody, Refused, Request, Response, StreamBody, head
from edgeshare.httpd.poller import Poller
from edgeshare.httpd.rates import Buckets, Rate
from edgeshare.httpd.wire import NEVER, Wire

READ_AHEAD_BYTES: Final = 64 * 1024  # of pipelined requests while a stream is sent: some hundred of them
AT_ONCE_BYTES: Final = 64 * 1024  # of a file that is read and sent with its head: two system calls in place of four
LINGER_S: Final = 2.0  # for a last response to arrive before the socket closes
BUSY_RETRY_S: Final = 5  # connections come free as fast as pages load

_PLAIN: Final = ("content-type", "text/plain; charset=utf-8")
_FAILED: Final = Response(500, (CONFINED,))

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


class House:
    """What all connections share."""

    def __init__(
        self,
        handler: Handler,
        limits: Limits,
        poller: Poller,
        *,
        on_done: OnDone | None,
        may_wait: MayWait,
        at_once: AtOnce,
    ) -> None:
        self.handler, self.limits, self.poller = handler, limits, poller
        self.on_done, self.may_wait, self.at_once = on_done, may_wait, at_once
        self.buckets = Buckets(limits.requests_per_client)


@attrs.define
class _Turn:
    """A request, and what of its answer is at hand."""

    asked: Asked
    response: Response | None
    body: int = 0  # bytes of its body, where it has begun to leave
    left: Sequence[bytes | memoryview] = ()  # what the kernel has not taken of it yet


class Connection:
    """One client's connection. It lives in the scope `_gone`, which is cancelled when the client leaves or is late."""

    def __init__(self, house: House, wire: Wire, client: str, local: tuple[str, int]) -> None:
        self.wire = wire
        self._house, self._limits, self._client = house, house.limits, client
        self._heads = Heads(local)
        self._gone = trio.CancelScope()
        self._is_late = False
        self._is_asking = True  # it is the client's turn: a request, or a part of one, is to come
        self._found: _Turn | Refused | None = None  # what the poller leaves to this connection's task
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
            turn = await self._next_turn()
        except Refused as refusal:
            self._is_asking = False
            return await self._send(refusal.response, None)
        if turn is None:
            return False
        self._is_asking = False
        asked, response = turn.asked, turn.response
        try:
            if response is None:
                response = await self._answer(asked.request)
        except Exception:
            logger.exception("a request could not be answered")
            response = _FAILED
        try:
            if turn.left:
                self._body_sent = 0
                await self.wire.send(turn.left, self._limits.write_timeout_s)
                self._body_sent = turn.body
                return asked.stays
            return await self._send(response, asked)
        finally:
            self._finish(asked.request, response)

    def _finish(self, request: Request, response: Response) -> None:
        if isinstance(response.body, FileBody):
            response.body.file.close()
        if self._house.on_done is not None:
            self._house.on_done(request, response, self._body_sent)

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

    async def _next_turn(self) -> _Turn | None:
        """The next request; None when the client has closed, or begins none.

        Raises:
            Refused: it breaks a rule, or there are too many.
        """
        heads = self._heads
        if heads.pending:
            await trio.lowlevel.checkpoint()  # a turn for others between two pipelined requests
            turn = self._take(trio.current_time())
        else:
            await self.wire.wait(self._house.poller, self._react, trio.current_time() + self._idle_s)
            found, self._found = self._found, None
            if isinstance(found, Refused):
                raise found
            if found is None and not heads.pending:
                return None
            turn = found
        if turn is None:
            until_s = trio.current_time() + self._limits.head_timeout_s
            while turn is None:
                received = await self.wire.receive(until_s)
                if not received:
                    return None
                heads.receive(received)
                turn = self._take(trio.current_time())
        return turn

    def _take(self, now_s: float) -> _Turn | None:
        """The next request that is here whole, with its answer where that is at hand.

        Raises:
            Refused: it breaks a rule, or there are too many.
        """
        asked = self._heads.next()
        if asked is None:
            return None
        wait_s = self._house.buckets.wait_s(self._client, now_s)
        if wait_s:
            told = str(math.ceil(wait_s))
            raise Refused(429, _PLAIN, ("retry-after", told), body=b"Too many requests: try again soon.\n")
        try:
            return _Turn(asked, self._house.at_once(asked.request))
        except Exception:
            logger.exception("a request could not be answered")
            return _Turn(asked, _FAILED)

    def _react(self, now_s: float) -> bool:
        """Answer what has arrived, where the answer is at hand; whether that was all (see `poller.React`)."""
        wire = self.wire
        try:
            received = wire.receive_now()
            if not received:
                return received is None  # nothing yet; else the client has closed
            self._heads.receive(received)
            turn = self._found = self._take(now_s)
            if turn is None or self._heads.pending or not self._send_now(turn):
                return False
        except Refused as refusal:
            self._found = refusal
            return False
        except Exception:  # a callback's; other connections are none the worse for it
            logger.exception("a response broke off")
            self._found = None
            return False
        self._found = None
        self._idle_s = self._limits.idle_timeout_s
        wire.waits_until(now_s + self._idle_s)
        return True

    async def _watch(self) -> None:
        """Cancel the connection when the client leaves; requests that it pipelines meanwhile wait.

        A half-close (shutdown(SHUT_WR), as `nc` does) counts as leaving: it looks like a close from here, and browsers
        never do it. So does pipelining without end, which would blind this watch or fill the memory.
        """
        while self._heads.pending < READ_AHEAD_BYTES and (received := await self.wire.receive(NEVER)):
            self._heads.receive(received)
        self._gone.cancel()

    # Sending

    def _send_now(self, turn: _Turn) -> bool:
        """Send an answer that is at hand, if the kernel takes it; else the connection's task goes on with `turn`."""
        response, asked = turn.response, turn.asked
        if response is None or not asked.stays or response.is_last:
            return False
        start = head(response, length=_length(response.body), now_s=time.time(), closes=False)
        parts = _parts(start, response, asked)
        if parts is None:
            return False
        try:
            turn.left = self.wire.send_now(parts)
        except trio.BrokenResourceError:
            turn.left = parts  # the task finds that, too, and ends with it
        turn.body = sum(map(len, parts[1:]))
        if turn.left:
            return False
        self._body_sent = turn.body
        self._finish(asked.request, response)
        return True

    async def _send(self, response: Response, asked: Asked | None) -> bool:
        """Send the response to what was `asked`, if that was anything; whether another request may follow.

        Raises:
            trio.BrokenResourceError: the client is gone.
        """
        self._body_sent = 0
        body = response.body
        length = _length(body)
        stays = asked is not None and asked.stays and not response.is_last
        is_chunked = length is None and asked is not None and asked.knows_chunks
        is_endless = length is None and not is_chunked
        stays = stays and not is_endless
        start = head(response, length=length, now_s=time.time(), closes=not stays, is_chunked=is_chunked)
        parts = _parts(start, response, asked)
        if parts is not None:
            await self.wire.send(parts, self._limits.write_timeout_s)
            self._body_sent = sum(map(len, parts[1:]))
        elif isinstance(body, FileBody):
            await self._send_file(start, body)
        elif isinstance(body, StreamBody):
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


def _length(body: Body) -> int | None:
    """Bytes of a body; None where nobody knows yet."""
    if isinstance(body, bytes):
        return len(body)
    return body.count if isinstance(body, FileBody) else body.size


def _parts(start: bytes, response: Response, asked: Asked | None) -> tuple[bytes, ...] | None:
    """The head and the body, where they are little, or the head alone where it is all; else None."""
    body = response.body
    if response.status in BODILESS or (asked is not None and asked.request.method == "HEAD"):
        return (start,)
    if isinstance(body, bytes):
        return (start, body) if body else (start,)
    if isinstance(body, StreamBody) or body.count > AT_ONCE_BYTES:
        return None
    try:
        content = os.pread(body.file.fileno(), body.count, body.start)
    except OSError:  # sendfile says the same
        return None
    return (start, content) if len(content) == body.count else None  # it has shrunk
