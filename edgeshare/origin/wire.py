"""What origins send, counted as it arrives, and the proxies that it comes through: an httpx transport over httpcore.

- Counted is what the network hands over: heads and bodies, also of answers that are refused or broken off, and what
  lay unread in the kernel when a connection was dropped. The sum is the kernel's own, but for what TLS adds.
- Whom the bytes are for is known by the task that reads them: `counting` says it for what runs inside it.
- A proxy comes from the config or from the environment (`HTTP_PROXY`, `HTTPS_PROXY`, `ALL_PROXY`, `NO_PROXY`).
"""

from __future__ import annotations

import fcntl
import ssl
import struct
import termios
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cached_property
from typing import Any
from urllib.request import (  # type: ignore[attr-defined] # typeshed leaves out the second
    getproxies_environment,
    proxy_bypass_environment,
)

import httpcore
import httpx

from edgeshare.config import NO_PROXY, proxy_address
from edgeshare.errors import ConfigError

Tally = Callable[[int], None]
ProxyFor = Callable[[httpx.URL], str | None]

# Longer than the rests between a node's requests in a spike, shorter than nginx keeps them (65 s in seeders/origin).
# httpx's own 5 s would have each node connect anew all the time.
_IDLE_S = 60.0


def ignore(_: int) -> None:
    """Count nothing."""


_tally: ContextVar[Tally] = ContextVar("_tally", default=ignore)


@contextmanager
def counting(tally: Tally) -> Iterator[None]:
    """Have `tally` hear of every byte that arrives for what this task asks for inside."""
    token = _tally.set(tally)
    try:
        yield
    finally:
        _tally.reset(token)


def proxies(configured: str | None, mirrors: Iterable[str]) -> ProxyFor:
    """Which proxy a URL is to be reached through; the environment's when none is configured.

    Raises:
        ConfigError: a proxy that would be used cannot be one.
    """
    if configured == NO_PROXY:
        return lambda url: None
    if configured is not None:
        try:
            address = proxy_address(configured)
        except ValueError as error:
            raise ConfigError(f"the proxy {error}") from error
        return lambda url: address
    environment = getproxies_environment()  # once: what is checked here is what is used

    def from_environment(url: httpx.URL) -> str | None:
        found = environment.get(url.scheme) or environment.get("all")
        if not found or proxy_bypass_environment(url.host, environment):
            return None
        return proxy_address(found if "://" in found else f"http://{found}")

    try:
        for mirror in mirrors:
            for scheme in {httpx.URL(mirror).scheme, "https"}:  # an origin may redirect to its https
                from_environment(httpx.URL(mirror).copy_with(scheme=scheme))
    except ValueError as error:
        hint = "give HTTP_PROXY, HTTPS_PROXY and ALL_PROXY the form http://host:port, or unset them"
        raise ConfigError("the proxy in the environment cannot be used", hint=hint) from error
    return from_environment


class Network(httpx.AsyncBaseTransport):
    """The network: at most `connections` kept to the origins, or to each proxy; as many again where some are https."""

    def __init__(self, proxy_for: ProxyFor, *, connections: int) -> None:
        self._proxy_for = proxy_for
        self._connections = connections
        self._pools: dict[tuple[str | None, bool], httpcore.AsyncConnectionPool] = {}  # by proxy, and for https or not

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send a request and receive the head of its answer."""
        url = httpcore.URL(
            scheme=request.url.raw_scheme,
            host=request.url.raw_host,
            port=request.url.port,
            target=request.url.raw_path,
        )
        asked = httpcore.Request(request.method, url, headers=request.headers.raw, extensions=request.extensions)
        with _as_httpx():
            answer = await self._pool(
                self._proxy_for(request.url), is_https=url.scheme == b"https"
            ).handle_async_request(asked)
        return httpx.Response(answer.status, headers=answer.headers, stream=_Body(answer), extensions=answer.extensions)

    async def aclose(self) -> None:
        """Close every connection."""
        for pool in self._pools.values():
            await pool.aclose()

    @cached_property
    def _certificates(self) -> ssl.SSLContext:
        # The system's, not a bundled list: a school's proxy may have its own authority there. To read them takes 85 ms.
        return ssl.create_default_context()

    def _pool(self, proxy: str | None, *, is_https: bool) -> httpcore.AsyncConnectionPool:
        if (proxy, is_https) not in self._pools:
            # httpcore drops idle connections when there are more than max_keepalive_connections: one number for both
            self._pools[proxy, is_https] = httpcore.AsyncConnectionPool(
                ssl_context=self._certificates if is_https else None,
                proxy=None if proxy is None else self._proxy(httpx.Proxy(proxy)),
                max_connections=self._connections,
                max_keepalive_connections=self._connections,
                keepalive_expiry=_IDLE_S,
                network_backend=_CountingBackend(),
            )
        return self._pools[proxy, is_https]

    def _proxy(self, proxy: httpx.Proxy) -> httpcore.Proxy:
        certificates = self._certificates if proxy.url.scheme == "https" else None
        return httpcore.Proxy(str(proxy.url), auth=proxy.raw_auth, ssl_context=certificates)


class Counted(httpx.AsyncBaseTransport):
    """Another transport, of whose answers the bodies are counted: one that stands in for the network has no more."""

    def __init__(self, inner: httpx.AsyncBaseTransport) -> None:
        self._inner = inner

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """As the other transport, counted."""
        response = await self._inner.handle_async_request(request)
        assert isinstance(response.stream, httpx.AsyncByteStream)
        response.stream = _CountedBody(response.stream)
        return response

    async def aclose(self) -> None:
        """Close the other transport."""
        await self._inner.aclose()


class _CountedBody(httpx.AsyncByteStream):
    def __init__(self, inner: httpx.AsyncByteStream) -> None:
        self._inner = inner

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async for portion in self._inner:
            _tally.get()(len(portion))
            yield portion

    async def aclose(self) -> None:
        await self._inner.aclose()


class _Body(httpx.AsyncByteStream):
    """The rest of an answer, with the errors of httpx."""

    def __init__(self, answer: httpcore.Response) -> None:
        self._answer = answer

    async def __aiter__(self) -> AsyncIterator[bytes]:
        assert isinstance(self._answer.stream, AsyncIterable)
        with _as_httpx():
            async for portion in self._answer.stream:
                yield portion

    async def aclose(self) -> None:
        with _as_httpx():
            await self._answer.aclose()


class _CountingStream(httpcore.AsyncNetworkStream):
    """One connection."""

    def __init__(self, inner: httpcore.AsyncNetworkStream) -> None:
        self._inner = inner

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        portion = await self._inner.read(max_bytes, timeout)
        _tally.get()(len(portion))
        return portion

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:
        await self._inner.write(buffer, timeout)

    async def aclose(self) -> None:
        _tally.get()(_unread(self._inner.get_extra_info("socket")))
        await self._inner.aclose()

    async def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.AsyncNetworkStream:
        return _CountingStream(await self._inner.start_tls(ssl_context, server_hostname, timeout))

    def get_extra_info(self, info: str) -> Any:
        return self._inner.get_extra_info(info)


class _CountingBackend(httpcore.AsyncNetworkBackend):
    def __init__(self) -> None:
        self._inner = httpcore.TrioBackend()

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        stream = await self._inner.connect_tcp(host, port, timeout, local_address, socket_options)
        return _CountingStream(stream)

    async def sleep(self, seconds: float) -> None:
        await self._inner.sleep(seconds)


def _unread(socket: Any) -> int:
    """Bytes that have arrived at a socket, and that nobody will read any more."""
    if socket.fileno() < 0:  # closed already
        return 0
    waiting: bytes = fcntl.ioctl(socket.fileno(), termios.FIONREAD, bytes(4))
    count: int = struct.unpack("i", waiting)[0]
    return count


@contextmanager
def _as_httpx() -> Iterator[None]:
    """Name errors as httpx does, which has each of httpcore's names."""
    try:
        yield
    except (
        httpcore.NetworkError,
        httpcore.ProtocolError,
        httpcore.ProxyError,
        httpcore.TimeoutException,
        httpcore.UnsupportedProtocol,
    ) as error:
        kind: type[httpx.TransportError] = getattr(httpx, type(error).__name__)
        raise kind(str(error)) from error
