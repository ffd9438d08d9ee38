"""Polite HTTP to the origins: small files and ranges, mirrors in turn, patience where it is asked for.

Nothing that comes back is believed here: metadata is checked by TUF, content by its info-hash. But what cannot be right
(a page of HTML, a body of the wrong length, a redirect to elsewhere) is refused by name, so that `status` can say what
a proxy or a broken server did.
"""

from __future__ import annotations

import logging
import ssl
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from random import Random
from urllib.parse import quote, urlsplit

import httpx
import trio

from edgeshare import __version__
from edgeshare.errors import OriginError
from edgeshare.origin.backoff import delay, retry_after

logger = logging.getLogger(__name__)

_CONNECTIONS = 2  # for each node: one for readers, one for the ration
_TIMEOUT = httpx.Timeout(20.0, connect=10.0, pool=60.0)
_SLOWEST_S = 60.0  # for one file or range, whole; slower than 70 kB/s for a 4 MiB piece is as good as dead
_MAX_REDIRECTS = 5


class NotFound(OriginError):
    """Every origin that answered says that there is no such file."""


class Unreachable(OriginError):
    """No origin gave a usable answer; `retry_in_s` says when it makes sense to try again."""

    def __init__(self, what: str, *, retry_in_s: float) -> None:
        super().__init__(what)
        self.retry_in_s = retry_in_s


class _Refused(Exception):
    """One mirror's answer is of no use."""

    def __init__(self, reason: str, *, retry_after_s: float | None = None) -> None:
        super().__init__(reason)
        self.retry_after_s = retry_after_s


class _Mirror:
    """One origin and how it behaved."""

    def __init__(self, url: str) -> None:
        self.url = url if url.endswith("/") else f"{url}/"
        self.failures = 0
        self.asleep_until = -float("inf")  # trio's clock


class OriginClient:
    """The origins of one repository; made by `open_origins`."""

    def __init__(self, mirrors: tuple[str, ...], http: httpx.AsyncClient, rng: Random) -> None:
        self._mirrors = [_Mirror(url) for url in mirrors]
        self._http = http
        self._rng = rng
        self.bytes_received = 0  # bodies, whatever came of them
        self.last_error: str | None = None  # why the last request failed on every mirror; None after a success

    async def file(self, path: str, most: int) -> bytes:
        """The file at `path` (segments not yet percent-encoded), of at most `most` bytes.

        Raises:
            NotFound: there is none.
            Unreachable: no origin gave it.
        """
        return await self._ask(path, {}, lambda response: _whole(response, most), most)

    async def span(self, path: str, start: int, stop: int, size: int, accept: Callable[[bytes], bool]) -> bytes:
        """The bytes from `start` up to `stop` of the file at `path`, which has `size` bytes.

        A mirror whose bytes `accept` refuses is left alone for a while, and the next one asked.

        Raises:
            NotFound: there is no such file.
            Unreachable: no origin gave it.
        """
        headers = {"Range": f"bytes={start}-{stop - 1}"}
        most = stop - start
        return await self._ask(path, headers, lambda response: _partial(response, start, stop, size), most, accept)

    def bypassed(self) -> bool:
        """Whether every mirror is being left alone for now."""
        return all(mirror.asleep_until > trio.current_time() for mirror in self._mirrors)

    async def _ask(
        self,
        path: str,
        headers: dict[str, str],
        check: Callable[[httpx.Response], int],
        most: int,
        accept: Callable[[bytes], bool] = lambda body: True,
    ) -> bytes:
        reasons: list[str] = []
        missing = 0
        awake = [mirror for mirror in self._mirrors if mirror.asleep_until <= trio.current_time()]
        for mirror in awake:
            url = mirror.url + quote(path)
            try:
                with trio.fail_after(_SLOWEST_S):
                    body = await self._body(url, headers, check, most)
                if not accept(body):
                    raise _Refused(f"sends other bytes than were published in {path}")  # noqa: TRY301
            except FileNotFoundError:
                missing += 1
                reasons.append(f"{mirror.url} has no {path}")
                continue
            except (_Refused, httpx.HTTPError, httpx.InvalidURL, trio.TooSlowError, OSError) as error:
                mirror.failures += 1
                asked = error.retry_after_s if isinstance(error, _Refused) else None
                mirror.asleep_until = trio.current_time() + delay(mirror.failures, self._rng, retry_after_s=asked)
                reasons.append(f"{mirror.url} {_said(error)}")
                continue
            mirror.failures = 0
            self.last_error = None
            return body
        if awake and missing == len(awake):
            raise NotFound(reasons[0])
        wait = max(0.0, min(mirror.asleep_until for mirror in self._mirrors) - trio.current_time())
        self.last_error = "; ".join(reasons) or self.last_error
        raise Unreachable(self.last_error or "the origins are being left alone for a while", retry_in_s=wait)

    async def _body(
        self, url: str, headers: dict[str, str], check: Callable[[httpx.Response], int], most: int
    ) -> bytes:
        first = urlsplit(url)
        for _ in range(_MAX_REDIRECTS + 1):
            async with self._http.stream("GET", url, headers=headers) as response:
                if response.is_redirect:
                    url = _next(first.hostname, response)
                    continue
                expected = check(response)
                body = bytearray()
                async for portion in response.aiter_raw():
                    self.bytes_received += len(portion)
                    body += portion
                    if len(body) > most:
                        raise _Refused(f"sent more than {most} bytes")
                if expected >= 0 and len(body) != expected:
                    raise _Refused(f"sent {len(body)} bytes and promised {expected}")
                return bytes(body)
        raise _Refused(f"redirects more than {_MAX_REDIRECTS} times")


@asynccontextmanager
async def open_origins(mirrors: tuple[str, ...], rng: Random) -> AsyncGenerator[OriginClient, None]:
    """A client for `mirrors`, tried in turn; a proxy comes from the environment (`HTTPS_PROXY`, `NO_PROXY`)."""
    # httpcore drops idle connections when there are more than max_keepalive_connections, so the two are one number
    limits = httpx.Limits(max_connections=_CONNECTIONS, max_keepalive_connections=_CONNECTIONS)
    # The system's certificates, not a bundled list: a school's proxy may have its own authority there.
    context = ssl.create_default_context()
    headers = {"User-Agent": f"edgeshare/{__version__}", "Accept-Encoding": "identity"}
    async with httpx.AsyncClient(verify=context, limits=limits, timeout=_TIMEOUT, headers=headers) as http:
        yield OriginClient(mirrors, http, rng)


def _common(response: httpx.Response) -> None:
    """Refuse what no origin of ours would say.

    Raises:
        FileNotFoundError: there is no such file.
        _Refused: the answer is of no use.
    """
    status = response.status_code
    if status == 404:
        raise FileNotFoundError
    if status in (429, 503):
        raise _Refused("asks for patience", retry_after_s=retry_after(response.headers.get("Retry-After"), time.time()))
    if status == 407:
        raise _Refused("is behind a proxy that asks for a login (407)")
    if status not in (200, 206):
        raise _Refused(f"answers {status}")
    if response.headers.get("Content-Encoding", "identity") != "identity":
        raise _Refused("sends coded bytes, which were not asked for")


def _whole(response: httpx.Response, most: int) -> int:
    _common(response)
    if response.status_code != 200:
        raise _Refused("sends a part where the whole was asked for")
    if response.headers.get("Content-Type", "").startswith("text/html"):
        raise _Refused("answers a page of HTML (a login page?)")
    length = _length(response)
    if length > most:
        raise _Refused(f"promises {length} bytes, more than {most}")
    return length


def _partial(response: httpx.Response, start: int, stop: int, size: int) -> int:
    _common(response)
    if response.status_code == 200:
        if (start, stop) != (0, size):
            raise _Refused("cannot send a part of a file")
    elif response.headers.get("Content-Range") != f"bytes {start}-{stop - 1}/{size}":
        raise _Refused("sends another part of the file, or another file, than was asked for")
    length = _length(response)
    if length not in (-1, stop - start):
        raise _Refused(f"sends {length} bytes where {stop - start} were asked for")
    return stop - start


def _length(response: httpx.Response) -> int:
    length = response.headers.get("Content-Length", "")
    return int(length) if length.isascii() and length.isdigit() and len(length) < 16 else -1


def _next(host: str | None, response: httpx.Response) -> str:
    target = urlsplit(str(response.url.join(response.headers["Location"])))
    if target.scheme not in ("http", "https") or target.hostname != host:
        raise _Refused("redirects to another place")
    if response.url.scheme == "https" and target.scheme != "https":
        raise _Refused("redirects from https to http")
    return target.geturl()


def _said(error: Exception) -> str:
    """What a mirror did, as the end of a sentence."""
    if isinstance(error, _Refused):
        return str(error)
    if isinstance(error, httpx.TimeoutException | trio.TooSlowError):
        return "is too slow"
    if isinstance(error, httpx.ConnectError):
        return "cannot be reached"
    return f"broke the connection ({type(error).__name__})"
