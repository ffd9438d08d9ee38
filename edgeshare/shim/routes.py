"""The shim: what a browser on this machine or the LAN gets from the node, by Host and path.

- Host is judged before anything else; a Host that is not ours gets 421, no byte more, and a closed connection.
- At `<lesson id>.localhost` there are the files of that lesson, and nothing else: no page, no list, no API.
- Everything here only reads. What changes the node goes over its control socket.
"""

from __future__ import annotations

import hashlib
import logging
import socket
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from functools import partial
from importlib.resources import files
from typing import Final, TypeVar

import attrs
import trio

from edgeshare.config import ShimConfig
from edgeshare.httpd import ranges
from edgeshare.httpd.media import media_type
from edgeshare.httpd.messages import Request, Response
from edgeshare.manifest import LessonId, shown
from edgeshare.shim import api, guards, hosts
from edgeshare.shim.api import known_lesson
from edgeshare.shim.files import file_response
from edgeshare.shim.guards import Headers
from edgeshare.shim.language import Language, preferred
from edgeshare.shim.pages import Pages, Reader, url_path
from edgeshare.shim.problems import Problem, Trouble
from edgeshare.shim.register import Register
from edgeshare.shim.shelves import Wish
from edgeshare.view import LessonView, Node, State
from edgeshare.vocabulary import Vocabulary

Handler = Callable[[Request], Awaitable[Response]]

STATIC: Final = ("edgeshare.css", "edgeshare.js", "icon.svg")

_NAMES_TOLD = 16  # a scanner may try thousands
_IN_A_THREAD = 1000  # lessons, which are sorted out in some 10 ms

_T = TypeVar("_T")

logger = logging.getLogger(__name__)


def shim(
    node: Node,
    config: ShimConfig,
    vocabulary: Vocabulary,
    *,
    hostname: str | None = None,
    now: Callable[[], datetime] = lambda: datetime.now(UTC),
) -> Handler:
    """The handler of a node's HTTP server. Takes some 60 ms: it imports and compiles what the pages need.

    `hostname` is the machine's when not given.
    """
    names = hosts.Names.of(config, socket.gethostname() if hostname is None else hostname)
    return _Shim(node, config, names, vocabulary, now).answer


def may_wait(node: Node) -> Callable[[Request], bool]:
    """Which requests may have to wait for pieces: those for a file of a lesson that is not complete."""

    def waits(request: Request) -> bool:
        if request.path.startswith("/lessons/"):
            name = request.path.split("/")[2]
        else:
            name, _, rest = request.host.lower().partition(".")
            if rest.partition(":")[0] != "localhost":
                return False
        view = node.lesson(LessonId(name))
        return view is not None and view.state is not State.COMPLETE

    return waits


@attrs.frozen
class _StaticFile:
    content: bytes
    etag: str
    version: str  # stands in its URL, so that the file may be kept for ever


class _Shim:
    def __init__(
        self,
        node: Node,
        config: ShimConfig,
        names: hosts.Names,
        vocabulary: Vocabulary,
        now: Callable[[], datetime],
    ) -> None:
        self._node, self._port, self._names, self._now = node, config.listen.port, names, now
        self._metrics_on_lan = config.metrics_on_lan
        self._refused_names: set[str] = set()
        self._static = {name: _static_file(name) for name in STATIC}
        style = self._static["edgeshare.css"].content.decode()
        self._pages = Pages(vocabulary, self._static_url, style)
        self._vocabulary = vocabulary
        self._register = Register((), vocabulary)
        self._registering = trio.Lock()

    async def answer(self, request: Request) -> Response:
        """The response to one request that the server has let in."""
        address, port = request.local[0], request.local[1] or self._port
        site = hosts.site_of(request.host, address=address, port=port, names=self._names)
        if site is None:
            self._tell_of(request.host)
            return Response(421, (("connection", "close"),))
        reader = Reader(
            language=preferred(request.header("accept-language")), port=port, is_home=isinstance(site, hosts.Home)
        )
        try:
            match site:
                case hosts.LessonOrigin(lesson=lesson):
                    return await self._at_lesson_origin(request, lesson, port)
                case _:
                    return await self._at_node(request, reader)
        except Problem as problem:
            return self._refusal(request, reader, site, problem)
        except Exception:  # the server would answer 500 too, but with no page
            logger.exception("a request could not be answered")
            return self._refusal(request, reader, site, Problem(Trouble.BROKEN))

    def _tell_of(self, host: str) -> None:
        """Log a name that is not ours, once, and only some: the technician may have forgotten one."""
        name = shown(host)
        if name not in self._refused_names and len(self._refused_names) < _NAMES_TOLD:
            self._refused_names.add(name)
            logger.warning("a browser came by the name %s, which is not ours; add it to `allowed_hosts` if it is", name)

    async def _at_lesson_origin(self, request: Request, lesson: LessonId, port: int) -> Response:
        if guards.is_from_another_site(request):
            return _forbidden()
        view = _readable(known_lesson(self._node, lesson))
        if guards.is_framed(request) and view.state is State.LISTED:  # no stranger's page may set off a download
            return _forbidden()
        headers = guards.of_lesson_at_its_origin(port)
        path = request.path[1:]
        if not path:
            return _to_start(request, view, "/", headers)
        try:
            return await file_response(self._node, request, view, path, headers)
        except Problem as problem:
            if path == "favicon.ico" and problem.trouble is Trouble.NO_FILE:
                return self._static_response(request, "icon.svg")  # browsers ask unbidden, and report a 404 as an error
            raise

    async def _at_node(self, request: Request, reader: Reader) -> Response:
        if request.path.startswith("/lessons/"):
            return await self._in_sandbox(request, reader.port)
        if guards.is_from_another_site(request):
            return _forbidden()
        if request.path.startswith(api.ROOT):
            return api.answer(self._node, request)
        match request.path.split("/")[1:]:
            case [""]:
                return await self._catalogue(request, reader)
            case ["l", name]:
                return _page(reader, self._pages.lesson(reader, _readable(known_lesson(self._node, name))))
            case ["accessibilite"]:
                return _page(reader, self._pages.accessibility(reader))
            case ["metrics"]:
                return self._metrics(request, reader)
            case ["healthz"]:
                return Response(200, (*_PLAIN, ("cache-control", "no-store")), b"ok\n")
            case ["static", name] if name in self._static:
                return self._static_response(request, name)
            case ["favicon.ico"]:
                return self._static_response(request, "icon.svg")
        raise Problem(Trouble.NO_PAGE)

    async def _catalogue(self, request: Request, reader: Reader) -> Response:
        wish = Wish.parse(request.query)
        register = await self._registered(wish, reader.language)
        node = self._node
        return _page(reader, self._pages.catalogue(reader, register, node.lesson, node.standing(), wish, self._now()))

    async def _registered(self, wish: Wish, language: Language) -> Register:
        """What is listed now, ready for such a wish; with thousands of lessons other readers are served meanwhile."""
        async with self._registering:
            listing, register = self._node.listing(), self._register
            if register.listing is not listing:
                register = await _beside(len(listing), partial(Register, listing, self._vocabulary))
                self._register = register
            if not register.knows_words(wish, language):
                await _beside(len(listing), partial(register.learn_words, wish, language))
            return register

    def _metrics(self, request: Request, reader: Reader) -> Response:
        from edgeshare.shim import metrics  # its library takes 50 ms, which a node that nobody scrapes never pays

        # Both: a reader on the LAN may call us localhost, and a proxy on this machine speaks for the LAN.
        is_here = reader.is_home and hosts.is_own_loopback(request.local[0])
        return metrics.exposition(self._node) if is_here or self._metrics_on_lan else metrics.withheld()

    async def _in_sandbox(self, request: Request, port: int) -> Response:
        """A lesson below `/lessons/`. Its page's own pictures, styles and scripts come as from another site.

        They are refused for a lesson that nobody has asked for: no stranger's page may set off a download.
        """
        name, slash, path = request.path.removeprefix("/lessons/").partition("/")
        is_foreign = guards.is_from_another_site(request) or guards.is_framed(request)
        if guards.is_from_another_site(request) and not guards.is_part_of_a_page(request):
            return _forbidden()
        view = _readable(known_lesson(self._node, name))
        if is_foreign and view.state is State.LISTED:
            return _forbidden()
        headers = guards.of_lesson_in_sandbox(port)
        if not slash or not path:
            return _to_start(request, view, f"/lessons/{view.manifest.id}/", headers)
        return await file_response(self._node, request, view, path, headers)

    def _static_url(self, name: str) -> str:
        return f"/static/{name}?v={self._static[name].version}"

    def _static_response(self, request: Request, name: str) -> Response:
        file = self._static[name]
        is_versioned = request.query == f"v={file.version}"
        lasting = "public, max-age=31536000, immutable" if is_versioned else "no-cache"
        kept = (*guards.of_our_own(), ("etag", file.etag), ("cache-control", lasting))
        if ranges.not_modified(request.header("if-none-match"), file.etag):
            return Response(304, kept)
        return Response(200, (*kept, ("content-type", media_type(name))), file.content)

    def _refusal(self, request: Request, reader: Reader, site: hosts.Site, problem: Problem) -> Response:
        """The problem as JSON, as a page that needs nothing but itself, or as a line of text."""
        is_lesson = isinstance(site, hosts.LessonOrigin)
        if request.path.startswith(api.ROOT) and not is_lesson:
            return api.refusal(problem)
        headers: Headers = (("cache-control", "no-store"), ("vary", "Accept, Accept-Language"))
        if problem.retry_after_s is not None:
            headers = (*headers, ("retry-after", str(problem.retry_after_s)))
        if not _wants_page(request):
            text = f"{problem.trouble.value}\n".encode()
            return Response(problem.trouble.status, (*_PLAIN, *headers), text)
        page = self._pages.problem(reader, problem, home=reader.home_url if is_lesson else "")
        own = guards.of_our_own(self._pages.error_style)
        kind = (("content-type", "text/html; charset=utf-8"), ("content-language", reader.language))
        return Response(problem.trouble.status, (*own, *kind, *headers), page)


_PLAIN: Final[Headers] = (*guards.of_our_own(), ("content-type", "text/plain; charset=utf-8"))


async def _beside(lessons: int, step: Callable[[], _T]) -> _T:
    """What `step` gives; where it may take longer than readers should wait for one another, from a thread."""
    return step() if lessons < _IN_A_THREAD else await trio.to_thread.run_sync(step)


def _page(reader: Reader, content: bytes) -> Response:
    headers = (
        *guards.of_our_own(),
        ("content-type", "text/html; charset=utf-8"),
        ("content-language", reader.language),
        ("vary", "Accept-Language"),
        ("cache-control", "no-cache"),
    )
    return Response(200, headers, content)


def _readable(lesson: LessonView) -> LessonView:
    if lesson.state is State.WITHDRAWN:
        raise Problem(Trouble.WITHDRAWN, lesson)
    return lesson


def _to_start(request: Request, lesson: LessonView, folder: str, headers: Headers) -> Response:
    location = folder + url_path(lesson.manifest.start) + (f"?{request.query}" if request.query else "")
    return Response(302, (*headers, ("location", location), ("cache-control", "no-cache")))


def _forbidden() -> Response:
    return Response(403, (("cache-control", "no-store"),))


def _wants_page(request: Request) -> bool:
    """Whether a reader will see the answer, and not a page as one of its pictures."""
    mode = request.header("sec-fetch-mode")
    return mode in (None, "navigate") and "text/html" in (request.header("accept") or "")


def _static_file(name: str) -> _StaticFile:
    content = (files("edgeshare.shim") / "static" / name).read_bytes()
    version = hashlib.sha256(content).hexdigest()[:16]
    return _StaticFile(content, f'"{version}"', version)
