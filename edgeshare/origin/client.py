"""Polite HTTP to the origins: small files and ranges, mirrors in turn, patience where it is asked for.

Nothing that comes back is believed here: metadata is checked by TUF, content by its info-hash. But what cannot be right
(a page of HTML, a body of the wrong length, a redirect to elsewhere) is refused by name, so that `status` can say what
a proxy or a broken server did. The rules:

- Few connections, kept: an answer is read to its end where that is cheaper than another connection.
- Every byte that arrives is counted, whatever becomes of it.
- "Somebody else was given this a moment ago" (`Taken`) is no failure, and no reason to ask the next mirror, which
  would have given it away as well: the swarm has it.
- A server may be slow, as lines are, but not so slow that it holds a connection for nothing.
- A limit (`limit`) slows all alike, readers too, and refuses nobody; no mirror is to blame for the time it takes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncGenerator, Callable, Collection, Sequence
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
from edgeshare.origin.answers import (
    Refused,
    TakenHere,
    TooLong,
    TooSlow,
    WrongBytes,
    announced,
    next_url,
    part,
    said,
    whole,
)
from edgeshare.origin.backoff import turn
from edgeshare.origin.mirrors import Mirror, MirrorState, usable
from edgeshare.origin.throttle import Throttle
from edgeshare.origin.wire import Counted, Network, Tally, counting, ignore, proxies

_CONNECTIONS = 3  # for each node: one for readers, one for the ration, one for small files
_TIMEOUT = httpx.Timeout(20.0, connect=10.0, pool=None)  # our own queue is before the pool
SLOWEST_S = 60.0  # for one file or range, whole, and more for a big one as in the next line
_SLOWEST_BYTES_PER_S = 16 * 1024  # a piece of 4 MiB over a third of a line of 512 kbit/s takes 200 s
# Below this, for so long, after its first byte: no line is so slow, and the connection is worth more.
_CRAWLING_BYTES_PER_S = 4 * 1024
_CRAWLING_S = 10.0
_CRAWLED_LIKE = 6  # so it rests as after so many failures, 16 s at least: each try holds a line for 10 s
_MAX_REDIRECTS = 5
_SMALL = 64 * 1024  # bytes of an answer that is read to its end, though of no use, to keep its connection; or a piece
_METADATA_S = 25.0  # for one file of metadata: a refresh has 120 s, and should reach the next mirrors in them
_OTHERS_S = 5.0  # that mirrors asked side by side have, once one of them answered: a slow one is no reason to wait
_HOLD_S = 0.5  # of the time that a limit has us wait, before looking whether there still is one
_FINISH_S = 0.5  # how long that may take when the fetch was given up: who gave it up waits for it


class NotFound(OriginError):
    """Every origin that answered says that there is no such file."""


class Unreachable(OriginError):
    """No origin gave a usable answer; `retry_in_s` says when it makes sense to try again."""

    def __init__(self, what: str, *, retry_in_s: float, causes: Sequence[Exception] = ()) -> None:
        super().__init__(what)
        self.retry_in_s = retry_in_s
        self.causes = tuple(causes)  # what each mirror that was asked did


class Taken(OriginError):
    """The origin's guard gave this to somebody a moment ago: ask the swarm; `retry_in_s` is for this request only."""

    def __init__(self, what: str, *, retry_in_s: float) -> None:
        super().__init__(what)
        self.retry_in_s = retry_in_s


@attrs.frozen
class Given:
    """A file, and the mirror that gave it."""

    content: bytes
    mirror: str


@attrs.frozen
class _Wanted:
    """What is asked of a mirror."""

    path: str
    url_path: str  # the same, percent-encoded
    headers: dict[str, str]
    most: int  # bytes of its body
    check: Callable[[httpx.Response], int]  # of the head: how long the body is to be, or -1; or what is wrong
    accept: Callable[[bytearray], bool]  # of what has come of the body so far
    tally: Tally
    is_metadata: bool = False  # then it is small, and nobody else in the swarm can have been given it


@attrs.define
class _Progress:
    """How far one answer has come."""

    scope: trio.CancelScope  # in which it is read
    arrived: int = 0  # bytes of any kind
    expected: float = float("inf")  # bytes of its body
    has_come: int = 0  # of those
    held_s: float = 0.0  # how long our own limit kept us from reading


class OriginClient:
    """The origins of one repository; made by `open_origins`."""

    def __init__(self, mirrors: tuple[str, ...], http: httpx.AsyncClient, rng: Random, *, slowest_s: float) -> None:
        self.last_error: str | None = None  # why the last request failed on every mirror; None after a success
        self.received: Counter[str] = Counter()  # bytes that came from origins, by what they were asked for
        self._mirrors = [Mirror(url) for url in mirrors]
        self.mirrors = frozenset(mirror.name for mirror in self._mirrors)  # as messages name them
        self._http = http
        self._rng = rng
        self._slowest_s = slowest_s
        # Whoever waits for a connection waits here, not in the pool: a mirror is not to blame for our own queue.
        self._connections = trio.CapacityLimiter(_CONNECTIONS)
        self._throttle = Throttle()
        self._files = trio.CapacityLimiter(1)  # so that a hundred small files leave a connection for a reader

    def states(self) -> tuple[MirrorState, ...]:
        """How each mirror is seen now, in their order."""
        return tuple(mirror.state(trio.current_time()) for mirror in self._mirrors)

    def limit(self, bytes_per_s: int) -> None:
        """Take no more than this from all origins together; 0 is no limit."""
        self._throttle.limit(bytes_per_s, trio.current_time())

    def set_aside(self, mirror: str, reason: str) -> None:
        """Leave alone for an hour or longer the mirror of this name, which sent what cannot be right.

        `reason` is the end of a sentence that begins with its name.
        """
        for each in self._mirrors:
            if each.name == mirror:
                each.exile(trio.current_time(), self._rng, reason)

    async def file(self, path: str, most: int, *, purpose: str = "metadata", tally: Tally = ignore) -> bytes:
        """The file at `path` (segments not yet percent-encoded), of at most `most` bytes.

        What arrives for it is counted under `purpose`, and told to `tally` as it arrives.

        Raises:
            NotFound: there is none.
            Taken: somebody else was given it a moment ago.
            Unreachable: no origin gave it.
        """
        async with self._files:
            wanted = _Wanted(path, quote(path), {}, most, partial(whole, most=most), _any, tally)
            return (await self._ask(wanted, purpose, self._mirrors)).content

    async def given(
        self, segments: Sequence[str], most: int, besides: Collection[str] = (), *, first: str | None = None
    ) -> Given:
        """A file of metadata, with the name of the mirror that gave it; those named in `besides` are not asked.

        Its path is given as segments, since one may have a `/` in it. The mirror named `first` is asked first.

        Raises:
            NotFound: there is none.
            Unreachable: no origin gave it.
        """
        async with self._files:
            among = sorted(self._besides(besides), key=lambda mirror: mirror.name != first)
            return await self._ask(_metadata(segments, most), "metadata", among)

    async def everywhere(self, segments: Sequence[str], most: int, besides: Collection[str] = ()) -> tuple[Given, ...]:
        """A file of metadata as each mirror that can be asked now has it, in their order; as `given`.

        They are asked side by side; who is much slower than the first to answer is left alone for a while.

        Raises:
            NotFound: every origin that answered says that there is none.
            Unreachable: no origin answered.
        """
        wanted = _metadata(segments, most)
        heard: dict[Mirror, Given | NotFound | Unreachable] = {}

        async def ask(mirror: Mirror) -> None:
            try:
                heard[mirror] = await self._ask(wanted, "metadata", [mirror])
            except (NotFound, Unreachable) as error:
                heard[mirror] = error
            if not isinstance(heard[mirror], Unreachable):
                others = nursery.cancel_scope
                others.deadline = min(others.deadline, trio.current_time() + _OTHERS_S)

        async with self._files, trio.open_nursery() as nursery:
            asked = usable(self._besides(besides), trio.current_time())
            for mirror in asked:
                nursery.start_soon(ask, mirror)
        for mirror in asked:
            if mirror not in heard:
                self._let_rest(mirror, TooSlow())
        answers = [heard[mirror] for mirror in asked if mirror in heard]
        found = tuple(each for each in answers if isinstance(each, Given))
        missing = [each.what for each in answers if isinstance(each, NotFound)]
        away = [each for each in answers if isinstance(each, Unreachable)]
        if found or missing:
            self.last_error = None  # somebody answers
        if found:
            return found
        if missing:
            raise NotFound("; ".join(missing))
        raise Unreachable(
            "; ".join(error.what for error in away) or "the origins are being left alone for a while",
            retry_in_s=min((error.retry_in_s for error in away), default=0.0),
            causes=[cause for error in away for cause in error.causes],
        )

    async def span(
        self,
        path: str,
        start: int,
        stop: int,
        size: int,
        accept: Callable[[bytearray], bool],
        *,
        purpose: str = "unknown",
        tally: Tally = ignore,
    ) -> bytes:
        """The bytes from `start` up to `stop` of the file at `path`, which has `size` bytes.

        `accept` is shown the body again and again while it comes, from its beginning, and at last whole: so that what
        is there can be used. When it refuses, that mirror is set aside for an hour, and the next one asked. What
        arrives is counted as for `file`.

        Given up half-way it costs its connection, unless so little is missing that it is read to its end, and shown
        to `accept`; that takes half a second at most. So does what has hardly begun: cut before its first piece is
        here it would be for nothing, and the origin's guard would not give the same range again for a while.

        Raises:
            NotFound: there is no such file.
            Taken: somebody else was given it a moment ago.
            Unreachable: no origin gave it.
        """
        headers = {"Range": f"bytes={start}-{stop - 1}"}
        check = partial(part, start=start, stop=stop, size=size)
        wanted = _Wanted(path, quote(path), headers, stop - start, check, accept, tally)
        return (await self._ask(wanted, purpose, self._mirrors)).content

    def _besides(self, names: Collection[str]) -> list[Mirror]:
        return [mirror for mirror in self._mirrors if mirror.name not in names]

    async def _ask(self, wanted: _Wanted, purpose: str, among: Sequence[Mirror]) -> Given:
        async with self._connections:
            reasons: list[str] = []
            causes: list[Exception] = []
            is_missing = False
            for mirror in usable(among, trio.current_time()):
                if mirror.rests_until > trio.current_time():
                    continue
                try:
                    body = await self._fetch(mirror, wanted, purpose)
                except FileNotFoundError:
                    is_missing = True
                    mirror.worked()
                    reasons.append(f"{mirror.name} has no {wanted.path}")
                except TakenHere as taken:
                    if not wanted.is_metadata and not mirror.is_taken_for_too_long(trio.current_time()):
                        self.last_error = None
                        wait = turn(self._rng, retry_after_s=taken.retry_after_s)
                        raise Taken(f"{mirror.name} {taken}", retry_in_s=wait) from taken
                    reasons.append(self._let_rest(mirror, taken))
                except WrongBytes as error:
                    mirror.exile(trio.current_time(), self._rng, str(error))
                    reasons.append(f"{mirror.name} {error}")
                except (Refused, TooSlow, httpx.HTTPError, OSError) as error:
                    reasons.append(self._let_rest(mirror, error))
                    causes.append(error)
                else:
                    mirror.worked()
                    self.last_error = None
                    return Given(body, mirror.name)
        if is_missing:
            raise NotFound("; ".join(reasons))
        now = trio.current_time()
        wait = max(0.0, min(mirror.rests_until for mirror in usable(among or self._mirrors, now)) - now)
        self.last_error = "; ".join(reasons) or self.last_error
        what = self.last_error or "the origins are being left alone for a while"
        raise Unreachable(what, retry_in_s=wait, causes=causes)

    def _let_rest(self, mirror: Mirror, error: Exception) -> str:
        patience = error.retry_after_s if isinstance(error, Refused) else None
        least = _CRAWLED_LIKE if isinstance(error, TooSlow) else 1
        mirror.rest(trio.current_time(), self._rng, said(error), retry_after_s=patience, least=least)
        return f"{mirror.name} {said(error)}"

    async def _fetch(self, mirror: Mirror, wanted: _Wanted, purpose: str) -> bytes:
        """The body, read in peace: what would cancel it is looked at by `_watch`."""
        result: bytes | Exception = TooSlow()
        within_s = min(self._slowest_s, _METADATA_S) if wanted.is_metadata else self._slowest_s
        scope = trio.CancelScope(shield=True, deadline=trio.current_time() + within_s)
        progress = _Progress(scope)

        def count(arrived: int) -> None:
            progress.arrived += arrived
            mirror.received_bytes += arrived
            self.received[purpose] += arrived
            self._throttle.arrived(arrived, trio.current_time())
            wanted.tally(arrived)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(_watch, progress)
            with scope, counting(count):
                try:
                    result = await self._body(mirror, wanted, progress)
                except (FileNotFoundError, Refused, httpx.HTTPError, OSError) as error:  # a nursery would wrap it
                    result = error
            nursery.cancel_scope.cancel()
        if isinstance(result, bytes):
            return result
        raise result

    async def _body(self, mirror: Mirror, wanted: _Wanted, progress: _Progress) -> bytes:
        try:
            return await self._follow(mirror, mirror.address(wanted.url_path, trio.current_time()), wanted, progress)
        except FileNotFoundError:
            if not mirror.forget_move(wanted.url_path):
                raise
        # Some of a folder may have moved, and not all of it.
        return await self._follow(mirror, mirror.address(wanted.url_path, trio.current_time()), wanted, progress)

    async def _follow(self, mirror: Mirror, url: str, wanted: _Wanted, progress: _Progress) -> bytes:
        await self._hold(progress)
        is_for_good = True
        for redirects in range(_MAX_REDIRECTS + 1):
            async with self._http.stream("GET", url, headers=wanted.headers) as response:
                if (following := response.next_request) is not None:
                    url = next_url(response.url, following.url)
                    is_for_good = is_for_good and response.status_code in (301, 308)
                    await _finish(response)
                    continue
                try:
                    expected = wanted.check(response)
                except (FileNotFoundError, Refused):
                    await _finish(response)
                    raise
                if redirects:
                    mirror.moved(wanted.url_path, url, trio.current_time(), is_for_good=is_for_good)
                return await self._read(response, expected, wanted, progress)
        raise Refused(f"redirects more than {_MAX_REDIRECTS} times")

    async def _read(self, response: httpx.Response, expected: int, wanted: _Wanted, progress: _Progress) -> bytes:
        if expected >= 0:
            progress.expected = expected
            if not wanted.is_metadata:
                progress.scope.deadline += max(0.0, expected / _SLOWEST_BYTES_PER_S - self._slowest_s)
        body, is_right = bytearray(), True
        with trio.CancelScope() as enough:
            async for portion in response.aiter_raw():
                body += portion
                progress.has_come = len(body)
                if len(body) > wanted.most or not (is_right := wanted.accept(body)):
                    enough.cancel()  # leaving the loop would leave httpx's generators half-way
                elif progress.has_come < progress.expected:
                    await self._hold(progress)
        if len(body) > wanted.most:
            raise TooLong(f"sends more than {wanted.most} bytes")
        if not is_right:
            raise WrongBytes(f"sends other bytes than were published in {wanted.path}")
        if expected >= 0 and len(body) != expected:
            raise Refused(f"sends {len(body)} bytes where it should send {expected}")
        return bytes(body)

    async def _hold(self, progress: _Progress) -> None:
        """Wait as long as the limit says, which is no fault of the one who sends."""
        while (owing_s := self._throttle.owing_s(trio.current_time())) > 0.0:
            held_s = min(owing_s, _HOLD_S)
            progress.held_s += held_s
            progress.scope.deadline += held_s
            await trio.sleep(held_s)


async def _watch(progress: _Progress) -> None:
    """End what crawls, and, when the fetch is given up, what is not as good as here."""
    try:
        while True:
            before, held_s = progress.arrived, progress.held_s
            await trio.sleep(_CRAWLING_S)
            is_ours = progress.held_s > held_s  # it is our own limit that has it crawl, or may have
            if before and not is_ours and progress.arrived - before < _CRAWLING_BYTES_PER_S * _CRAWLING_S:
                progress.scope.cancel()
    except trio.Cancelled:
        if min(progress.has_come, progress.expected - progress.has_come) > _SMALL:
            progress.scope.cancel()
        else:
            progress.scope.deadline = min(progress.scope.deadline, trio.current_time() + _FINISH_S)
        raise


@asynccontextmanager
async def open_origins(
    mirrors: tuple[str, ...],
    rng: Random,
    *,
    proxy: str | None = None,
    slowest_s: float = SLOWEST_S,
    transport: httpx.AsyncBaseTransport | None = None,
) -> AsyncGenerator[OriginClient, None]:
    """A client for `mirrors`, tried in turn, through `proxy`: an address, `none`, or None for the environment's.

    Each file or range has `slowest_s` to come, a big one more. A `transport` stands in for the network, and the proxy.

    Raises:
        ConfigError: a mirror is no URL, or the proxy cannot be used.
    """
    for url in mirrors:
        _check(url)
    network = Network(proxies(proxy, mirrors), connections=_CONNECTIONS) if transport is None else Counted(transport)
    headers = {"User-Agent": f"edgeshare/{__version__}", "Accept-Encoding": "identity"}
    no_cookies = CookieJar(DefaultCookiePolicy(allowed_domains=[]))  # nobody is to recognise a home by one
    async with httpx.AsyncClient(timeout=_TIMEOUT, headers=headers, cookies=no_cookies, transport=network) as http:
        yield OriginClient(mirrors, http, rng, slowest_s=slowest_s)


def _metadata(segments: Sequence[str], most: int) -> _Wanted:
    path = "/".join(segments)
    shown = path if path.isprintable() else ascii(path)[1:-1]  # a role's name is whatever its publisher says
    url_path = "/".join(quote(segment, safe="") for segment in segments)
    return _Wanted(shown, url_path, {}, most, partial(whole, most=most), _any, ignore, is_metadata=True)


def _any(_: bytearray) -> bool:
    """Who checks it has all of it first."""
    return True


def _check(mirror: str) -> None:
    try:
        url, parts = httpx.URL(mirror), urlsplit(mirror)
        is_one = url.scheme in ("http", "https") and bool(parts.hostname) and not (parts.query or parts.fragment)
    except (httpx.InvalidURL, ValueError):
        is_one = False
    if not is_one:
        hint = "write the address of a repository, like https://lecons.example.fr/"
        raise ConfigError(f"the origin {mirror!r} is not an http or https address", hint=hint)


async def _finish(response: httpx.Response) -> None:
    """Read what is left of a small answer: closed early, it would take its connection with it."""
    if 0 <= announced(response) <= _SMALL:
        async for _ in response.aiter_raw():
            pass
