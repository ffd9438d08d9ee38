"""Polite HTTP to the origins: small files and ranges, mirrors in turn, patience where it is asked for.

Nothing that comes back is believed here: metadata is checked by TUF, content by its info-hash. But what cannot be right
(a page of HTML, a body of the wrong length, a redirect to elsewhere) is refused by name, so that `status` can say what
a proxy or a broken server did.
"""

from __future__ import annotations

import ssl
import time
from collections.abc import AsyncGenerator, Callable, Collection, Iterator
from contextlib import asynccontextmanager
from functools import partial
from http.cookiejar import CookieJar, DefaultCookiePolicy
from random import Random
from urllib.parse import quote, urlsplit

import attrs
import httpx
import trio

from edgeshare import __version__
from edgeshare.errors import ConfigError, OriginError
from edgeshare.origin.backoff import delay, retry_after

_CONNECTIONS = 3  # for each node: one for readers, one for the ration, one for small files
_TIMEOUT = httpx.Timeout(20.0, connect=10.0, pool=None)  # our own queue is before the pool
SLOWEST_S = 60.0  # for one file or range, whole; slower than 70 kB/s for a 4 MiB piece is as good as dead
_MAX_REDIRECTS = 5
_SMALL = 64 * 1024  # bytes of an answer that is read to its end, though of no use, to keep its connection


class NotFound(OriginError):
    """Every origin that answered says that there is no such file."""


class Unreachable(OriginError):
    """No origin gave a usable answer; `retry_in_s` says when it makes sense to try again."""

    def __init__(self, what: str, *, retry_in_s: float) -> None:
        super().__init__(what)
        self.retry_in_s = retry_in_s


@attrs.frozen
class Given:
    """A file, and the mirror that gave it."""

    content: bytes
    mirror: str


class _Refused(Exception):
    """One mirror's answer is of no use."""

    def __init__(self, reason: str, *, retry_after_s: float | None = None) -> None:
        super().__init__(reason)
        self.retry_after_s = retry_after_s


class _Mirror:
    """One origin and how it behaved."""

    def __init__(self, url: str) -> None:
        self.url = url if url.endswith("/") else f"{url}/"
        self.name = _without_login(self.url)
        self.failures = 0
        self.asleep_until = -float("inf")  # trio's clock


class OriginClient:
    """The origins of one repository; made by `open_origins`."""

    def __init__(self, mirrors: tuple[str, ...], http: httpx.AsyncClient, rng: Random, *, slowest_s: float) -> None:
        self.last_error: str | None = None  # why the last request failed on every mirror; None after a success
        self._mirrors = [_Mirror(url) for url in mirrors]
        self.mirrors = frozenset(mirror.name for mirror in self._mirrors)  # as messages name them
        self._http = http
        self._rng = rng
        self._slowest_s = slowest_s
        # Whoever waits for a connection waits here, not in the pool: a mirror is not to blame for our own queue.
        self._connections = trio.CapacityLimiter(_CONNECTIONS)
        self._files = trio.CapacityLimiter(1)  # so that a hundred small files leave a connection for a reader

    async def file(self, path: str, most: int) -> bytes:
        """The file at `path` (segments not yet percent-encoded), of at most `most` bytes.

        Raises:
            NotFound: there is none.
            Unreachable: no origin gave it.
        """
        return (await self.given(path, most)).content

    async def given(self, path: str, most: int, besides: Collection[str] = ()) -> Given:
        """As `file`, with the name of the mirror that gave it; those named in `besides` are not asked."""
        async with self._files:
            return await self._ask(path, {}, partial(_whole, most=most), most, besides=besides)

    async def span(self, path: str, start: int, stop: int, size: int, accept: Callable[[bytes], bool]) -> bytes:
        """The bytes from `start` up to `stop` of the file at `path`, which has `size` bytes.

        A mirror whose bytes `accept` refuses is left alone for a while, and the next one asked.

        Raises:
            NotFound: there is no such file.
            Unreachable: no origin gave it.
        """
        headers = {"Range": f"bytes={start}-{stop - 1}"}
        check = partial(_partial, start=start, stop=stop, size=size)
        return (await self._ask(path, headers, check, stop - start, accept)).content

    async def _ask(
        self,
        path: str,
        headers: dict[str, str],
        check: Callable[[httpx.Response], int],
        most: int,
        accept: Callable[[bytes], bool] = lambda body: True,
        besides: Collection[str] = (),
    ) -> Given:
        async with self._connections:
            reasons: list[str] = []
            is_missing = False
            for mirror in self._mirrors:
                if mirror.name in besides or mirror.asleep_until > trio.current_time():
                    continue
                try:
                    with trio.fail_after(self._slowest_s):
                        body = await self._body(mirror.url + quote(path), headers, check, most)
                    if not accept(body):
                        raise _Refused(f"sends other bytes than were published in {path}")  # noqa: TRY301
                except FileNotFoundError:
                    is_missing = True
                    mirror.failures = 0
                    reasons.append(f"{mirror.name} has no {path}")
                    continue
                except (_Refused, httpx.HTTPError, trio.TooSlowError, OSError) as error:
                    self._let_rest(mirror, error.retry_after_s if isinstance(error, _Refused) else None)
                    reasons.append(f"{mirror.name} {_said(error)}")
                    continue
                mirror.failures = 0
                self.last_error = None
                return Given(body, mirror.name)
        if is_missing:
            raise NotFound("; ".join(reasons))
        wait = max(0.0, min(mirror.asleep_until for mirror in self._mirrors) - trio.current_time())
        self.last_error = "; ".join(reasons) or self.last_error
        raise Unreachable(self.last_error or "the origins are being left alone for a while", retry_in_s=wait)

    def _let_rest(self, mirror: _Mirror, retry_after_s: float | None = None) -> None:
        mirror.failures += 1
        mirror.asleep_until = trio.current_time() + delay(mirror.failures, self._rng, retry_after_s=retry_after_s)

    async def _body(
        self, url: str, headers: dict[str, str], check: Callable[[httpx.Response], int], most: int
    ) -> bytes:
        for _ in range(_MAX_REDIRECTS + 1):
            async with self._http.stream("GET", url, headers=headers) as response:
                if (following := response.next_request) is not None:
                    url = _next(response.url, following.url)
                    await _finish(response)
                    continue
                try:
                    expected = check(response)
                except (FileNotFoundError, _Refused):
                    await _finish(response)
                    raise
                body = bytearray()
                with trio.CancelScope() as enough:
                    async for portion in response.aiter_raw():
                        body += portion
                        if len(body) > most:
                            enough.cancel()  # leaving the loop would leave httpx's generators half-way
                if len(body) > most:
                    raise _Refused(f"sends more than {most} bytes")
                if expected >= 0 and len(body) != expected:
                    raise _Refused(f"sends {len(body)} bytes where it should send {expected}")
                return bytes(body)
        raise _Refused(f"redirects more than {_MAX_REDIRECTS} times")


@asynccontextmanager
async def open_origins(
    mirrors: tuple[str, ...],
    rng: Random,
    *,
    slowest_s: float = SLOWEST_S,
    transport: httpx.AsyncBaseTransport | None = None,
) -> AsyncGenerator[OriginClient, None]:
    """A client for `mirrors`, tried in turn; a proxy comes from the environment (`HTTPS_PROXY`, `NO_PROXY`).

    Each file or range has `slowest_s` to come. A `transport` stands in for the network, and for the proxy.

    Raises:
        ConfigError: a mirror is no URL, or the environment's proxy cannot be used.
    """
    for url in mirrors:
        _check(url)
    # httpcore drops idle connections when there are more than max_keepalive_connections, so the two are one number
    limits = httpx.Limits(max_connections=_CONNECTIONS, max_keepalive_connections=_CONNECTIONS)
    # The system's certificates, not a bundled list: a school's proxy may have its own authority there.
    context = ssl.create_default_context()
    headers = {"User-Agent": f"edgeshare/{__version__}", "Accept-Encoding": "identity"}
    no_cookies = CookieJar(DefaultCookiePolicy(allowed_domains=[]))  # nobody is to recognise a home by one
    try:
        http = httpx.AsyncClient(
            verify=context, limits=limits, timeout=_TIMEOUT, headers=headers, cookies=no_cookies, transport=transport
        )
    except (ImportError, ValueError, httpx.InvalidURL) as error:
        hint = "give HTTP_PROXY, HTTPS_PROXY and ALL_PROXY the form http://host:port, or unset them"
        raise ConfigError("the proxy in the environment cannot be used", hint=hint) from error
    async with http:
        yield OriginClient(mirrors, http, rng, slowest_s=slowest_s)


def _check(mirror: str) -> None:
    try:
        url, parts = httpx.URL(mirror), urlsplit(mirror)
        is_one = url.scheme in ("http", "https") and bool(parts.hostname) and not (parts.query or parts.fragment)
    except (httpx.InvalidURL, ValueError):
        is_one = False
    if not is_one:
        hint = "write the address of a repository, like https://lecons.example.fr/"
        raise ConfigError(f"the origin {mirror!r} is not an http or https address", hint=hint)


def _common(response: httpx.Response) -> None:
    """Refuse what no origin of ours would say.

    Raises:
        FileNotFoundError: there is no such file.
        _Refused: the answer is of no use.
    """
    status = response.status_code
    if status in (404, 410):
        raise FileNotFoundError
    if status in (429, 503):
        raise _Refused("asks for patience", retry_after_s=retry_after(response.headers.get("Retry-After"), time.time()))
    if status == 407:
        raise _Refused("is behind a proxy that asks for a login (407)")
    if status not in (200, 206):
        raise _Refused(f"answers {status}")
    if response.headers.get("Content-Encoding", "identity").lower() != "identity":
        raise _Refused("sends compressed bytes, which were not asked for")


def _whole(response: httpx.Response, most: int) -> int:
    _common(response)
    if response.status_code != 200:
        raise _Refused("sends a part where the whole was asked for")
    if _is_html(response):
        raise _Refused("answers with a web page (a login page?)")
    length = _length(response)
    if length > most:
        raise _Refused(f"announces {length} bytes, more than {most}")
    return length


def _partial(response: httpx.Response, start: int, stop: int, size: int) -> int:
    _common(response)
    length = _length(response)
    if response.status_code == 200:
        if (start, stop) != (0, size):
            what = "answers with a web page (a login page?)" if _is_html(response) else "cannot send a part of a file"
            raise _Refused(what)
    elif response.headers.get("Content-Range") != f"bytes {start}-{stop - 1}/{size}":
        raise _Refused("sends another part of the file, or another file, than was asked for")
    if length not in (-1, stop - start):
        raise _Refused(f"announces {length} bytes where {stop - start} were asked for")
    return stop - start


def _is_html(response: httpx.Response) -> bool:
    return str(response.headers.get("Content-Type", "")).lower().startswith("text/html")


def _length(response: httpx.Response) -> int:
    length = response.headers.get("Content-Length", "")
    return int(length) if length.isascii() and length.isdigit() and len(length) < 16 else -1


async def _finish(response: httpx.Response) -> None:
    """Read what is left of a small answer: closed early, it would take its connection with it."""
    if 0 <= _length(response) <= _SMALL:
        async for _ in response.aiter_raw():
            pass


def _next(here: httpx.URL, target: httpx.URL) -> str:
    """Where a redirect leads: the same server only, or its https."""
    if (here.scheme, target.scheme) == ("https", "http"):
        raise _Refused("redirects from https to http")
    is_same = (target.scheme, target.netloc) == (here.scheme, here.netloc)
    is_safer = (here.scheme, target.scheme) == ("http", "https") and target.host == here.host
    if not (is_same or is_safer):
        raise _Refused("redirects to another place (a login page?)")
    return str(target)


def _said(error: Exception) -> str:
    """What a mirror did, as the end of a sentence."""
    if isinstance(error, _Refused):
        return str(error)
    if isinstance(error, httpx.TimeoutException | trio.TooSlowError):
        return "is too slow"
    if isinstance(error, httpx.ProxyError):
        return "cannot be reached through the proxy (does it ask for a login?)"
    if any(isinstance(cause, ssl.SSLCertVerificationError) for cause in _causes(error)):
        return "has a certificate that this machine does not trust (is a proxy between, or the clock wrong?)"
    if isinstance(error, httpx.ConnectError):
        return "cannot be reached"
    if isinstance(error, httpx.RemoteProtocolError):
        return "breaks off in the middle, or does not speak HTTP"
    return f"broke the connection ({type(error).__name__})"


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _without_login(url: str) -> str:
    """The URL as it may stand in a message: a password in it is nobody's business."""
    login = urlsplit(url).netloc.rpartition("@")[0]
    return url.replace(f"{login}@", "", 1) if login else url
