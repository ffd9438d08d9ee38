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
import socket
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Final, NoReturn

import trio

from edgeshare import host as system
from edgeshare.errors import ConfigError
from edgeshare.httpd.connection import AtOnce, Connection, Handler, House, Limits, MayWait, OnDone
from edgeshare.httpd.heads import HEAD_BYTES
from edgeshare.httpd.messages import FileBody, Request, Response, StreamBody
from edgeshare.httpd.poller import Poller
from edgeshare.httpd.wire import wire_of

__all__ = [
    "HEAD_BYTES",
    "FileBody",
    "Handler",
    "Limits",
    "OnDone",
    "Request",
    "Response",
    "StreamBody",
    "listen",
    "serve",
]

LOOK_EVERY_S: Final = 0.5  # at all connections, for those that are late
REFUSALS_AT_ONCE: Final = 64  # 503s under way; beyond these a connection closes without a word
FILES_BESIDES: Final = 1024  # descriptors for all else: peers, the library, the index

DEFAULTS: Final = Limits()
logger = logging.getLogger(__name__)

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
    limits: Limits = DEFAULTS,
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
    with Poller() as poller:
        house = House(handler, limits, poller, on_done=on_done, may_wait=may_wait, at_once=at_once)
        door = _Door(house, most, on_connection)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(poller.run)
            nursery.start_soon(door.look_after)
            await trio.serve_listeners(door.attend, list(listeners), handler_nursery=nursery)


class _Door:
    """Who is inside, and who comes in."""

    def __init__(self, house: House, most: int, on_connection: Callable[[], None] | None) -> None:
        self._house, self._most, self._on_connection = house, most, on_connection
        self._inside: set[Connection] = set()
        self._present: Counter[str] = Counter()  # connections by the client's address
        self._refusals = 0

    async def attend(self, stream: trio.abc.HalfCloseableStream) -> None:
        """The task of one connection, which the caller closes."""
        try:
            client, local = _ends(stream)
        except OSError:  # gone again already
            return
        connection = Connection(self._house, wire_of(stream), client, local)
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

    async def _refuse(self, connection: Connection, whose: bytes) -> None:
        if self._refusals < REFUSALS_AT_ONCE:
            self._refusals += 1
            try:
                await connection.refuse(whose)
            finally:
                self._refusals -= 1


def _ends(stream: trio.abc.HalfCloseableStream) -> tuple[str, tuple[str, int]]:
    """The client's address, and our own with its port."""
    if not isinstance(stream, trio.SocketStream):
        return "", ("", 0)
    return stream.socket.getpeername()[0], stream.socket.getsockname()[:2]
