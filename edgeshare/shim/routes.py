"""The shim: what a browser on this machine or the LAN gets from the node, by Host and path.

- Host is judged before anything else; a Host that is not ours gets 421, no byte more, and a closed connection.
- At `<lesson id>.localhost` there are the files of that lesson, and nothing else: no page, no list, no API.
- At the second port, `lessons_listen`, there are lessons and nothing else; readers elsewhere are sent there for them.
- Everything here only reads. What changes the node goes over its control socket.
"""

from __future__ import annotations

import hashlib
import logging
import socket
from collections.abc import Awaitable, Callable, Iterable
from datetime import UTC, datetime
from functools import partial
from importlib.resources import files
from typing import Final, TypeVar

import attrs
import trio

from edgeshare import cycles
from edgeshare.config import ShimConfig
from edgeshare.httpd import ranges
from edgeshare.httpd.media import media_type
from edgeshare.httpd.messages import Request, Response
from edgeshare.manifest import LessonId, shown
from edgeshare.shim import api, guards, handshake, hosts
from edgeshare.shim.api import known_lesson
from edgeshare.shim.files import file_response
from edgeshare.shim.guards import Headers
from edgeshare.shim.handshake import web_origins
from edgeshare.shim.language import Language, preferred
from edgeshare.shim.pages import Pages, Reader, url_path
from edgeshare.shim.problems import Problem, Trouble
from edgeshare.shim.register import Register
from edgeshare.shim.shelves import Wish
from edgeshare.shim.statement import UNFILLED, read_statement
from edgeshare.view import LessonView, Node, NodeStatus, State
from edgeshare.vocabulary import Vocabulary

Handler = Callable[[Request], Awaitable[Response]]

STATIC: Final = ("edgeshare.css", "edgeshare.js", "icon.svg")

_NAMES_TOLD = 16  # a scanner may try thousands
STATUS_LASTS_S: Final = 1.0  # of the whole node: for so long is what was found out about it told again
_IN_A_THREAD = 1000  # lessons, which are sorted out in some 10 ms

_T = TypeVar("_T")

logger = logging.getLogger(__name__)


def shim(
    node: Node,
    config: ShimConfig,
    vocabulary: Vocabulary,
    *,
    origins: Iterable[str] = (),
    hostname: str | None = None,
    now: Callable[[], datetime] = lambda: datetime.now(UTC),
) -> Handler:
    """The handler of a node's HTTP server. Takes some 60 ms: it imports and compiles what the pages need.

    `origins` are the node's: their page of links may hear what it has. `hostname` is the machine's when not given.
    """
    names = hosts.Names.of(config, socket.gethostname() if hostname is None else hostname)
    return _Shim(node, config, names, vocabulary, web_origins(origins), now).answer


def may_wait(node: Node) -> Callable[[Request], bool]:
    """Which requests may have to wait for pieces: those for a file of a lesson that is not complete."""

    def waits(request: Request) -> bool:
        # A lesson's own origin may have a folder of this name, and another host begin like a lesson: then either may.
        names = [request.host.lower().partition(".")[0]]
        if request.path.startswith("/lessons/"):
            names.append(request.path.split("/")[2])
        views = [node.lesson(LessonId(name)) for name in names]
        return any(view is not None and view.state is not State.COMPLETE for view in views)

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
        origins: tuple[str, ...],
        now: Callable[[], datetime],
    ) -> None:
        self._node, self._port, self._names, self._now = node, config.listen.port, names, now
        self._config, self._origins = config, origins
        self._lessons_port = config.lessons_listen.port if config.lessons_listen else None
        self._may_lead_outside = config.outside_links
        self._metrics_on_lan = config.metrics_on_lan
        self._refused_names: set[str] = set()
        self._static = {name: _static_file(name) for name in STATIC}
        style = self._static["edgeshare.css"].content.decode()
        statement = read_statement(config.statement) if config.statement else UNFILLED
        self._pages = Pages(vocabulary, self._static_url, style, statement)
        self._vocabulary = vocabulary
        self._register = Register((), vocabulary)
        self._registering = trio.Lock()
        self._looked: NodeStatus | None = None
        self._looked_s = -float("inf")

    async def answer(self, request: Request) -> Response:
        """The response to one request that the server has let in."""
        address, port = request.local[0], request.local[1] or self._port
        site = hosts.site_of(request.host, address=address, port=port, names=self._names)
        if site is None:
            self._tell_of(request.host)
            return Response(421, (("connection", "close"),))
        ours = self._port if port == self._lessons_port else port  # where our own pages are
        reader = Reader(
            language=preferred(request.header("accept-language")),
            port=ours,
            is_home=isinstance(site, hosts.Home),
            sees_figures=self._gives_figures(request, site),
            lessons_at=hosts.lessons_at(self._config, site.name, ours) if isinstance(site, hosts.Elsewhere) else _BELOW,
        )
        is_second = port == self._lessons_port
        try:
            response = await self._answer(request, reader, site, is_second=is_second)
        except Problem as problem:
            response = self._refusal(request, reader, site, problem, is_second=is_second)
        except Exception:  # the server would answer 500 too, but with no page
            logger.exception("a request could not be answered")
            response = self._refusal(request, reader, site, Problem(Trouble.BROKEN), is_second=is_second)
        if isinstance(site, hosts.LessonOrigin):
            response = attrs.evolve(response, headers=(*response.headers, *self._confining(_home(site, reader))))
        return response if hosts.is_on_this_machine(site) else guards.by_plain_http(response)

    def _confining(self, home: str) -> Headers:
        return guards.confining(None if self._may_lead_outside else home)

    async def _answer(self, request: Request, reader: Reader, site: hosts.Site, *, is_second: bool) -> Response:
        home = _home(site, reader)
        if isinstance(site, hosts.LessonOrigin):
            return await self._at_lesson_origin(request, site, home)
        return await (self._at_second_port if is_second else self._at_node)(request, reader, home)

    def _tell_of(self, host: str) -> None:
        """Log a name that is not ours, once, and only some: the technician may have forgotten one."""
        name = shown(host)
        if name not in self._refused_names and len(self._refused_names) < _NAMES_TOLD:
            self._refused_names.add(name)
            logger.warning("a browser came by the name %s, which is not ours; add it to `allowed_hosts` if it is", name)

    async def _at_lesson_origin(self, request: Request, site: hosts.LessonOrigin, home: str) -> Response:
        if guards.is_from_another_site(request) or guards.is_for_a_service_worker(request):
            return _forbidden()
        view = _readable(known_lesson(self._node, site.lesson))
        if guards.is_framed(request) and view.state is State.LISTED:  # no stranger's page may set off a download
            return _forbidden()
        headers = guards.of_lesson_at_its_origin(home if hosts.is_on_this_machine(site) else None)
        path = request.path[1:]
        if not path:
            return _to_start(request, view, "/", headers)
        try:
            return await file_response(self._node, request, view, path, headers)
        except Problem as problem:
            if path == "favicon.ico" and problem.trouble is Trouble.NO_FILE:
                return self._static_response(request, "icon.svg")  # browsers ask unbidden, and report a 404 as an error
            raise

    async def _at_second_port(self, request: Request, _: Reader, home: str) -> Response:
        if request.path.startswith("/lessons/"):
            return await self._in_sandbox(request, home)
        if request.path == "/favicon.ico" and not guards.is_from_another_site(request):
            return self._static_response(request, "icon.svg")
        raise Problem(Trouble.NO_PAGE)

    async def _at_node(self, request: Request, reader: Reader, home: str) -> Response:
        if request.path.startswith("/lessons/"):
            if reader.lessons_at != _BELOW:
                return self._to_lesson(request, reader)
            return await self._in_sandbox(request, home)
        if guards.is_from_another_site(request):
            return _forbidden()
        if request.path.startswith(api.ROOT):
            return api.answer(self._node, request, partial(self._status, reader), sees_figures=reader.sees_figures)
        match request.path.split("/")[1:]:
            case [""]:
                return await self._catalogue(request, reader)
            case ["l", name]:
                return _page(reader, self._pages.lesson(reader, _readable(known_lesson(self._node, name))))
            case ["open", name, *path]:
                return handshake.answer(self._node, self._pages, reader, self._origins, name, path)
            case ["accessibilite"]:
                return _page(reader, self._pages.accessibility(reader))
            case ["ecole"]:
                return self._figures(reader)
            case ["metrics"]:
                return self._metrics(reader)
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

    def _gives_figures(self, request: Request, site: hosts.Site) -> bool:
        """Whether who asks gets figures of this node: this machine, or all where the config says so."""
        # Both: a reader on the LAN may call us localhost, and a proxy on this machine speaks for the LAN.
        is_here = isinstance(site, hosts.Home) and hosts.is_own_loopback(request.local[0])
        return is_here or self._metrics_on_lan

    def _status(self, reader: Reader) -> NodeStatus:
        """How the node is; to others than this machine, how it was a moment ago.

        With thousands of lessons it takes a tenth of a second to find out, and nobody is to hold up readers by asking.
        """
        if reader.sees_figures and not self._metrics_on_lan:
            return self._node.status()
        now_s = trio.current_time()
        if self._looked is None or now_s - self._looked_s >= STATUS_LASTS_S:
            self._looked_s, self._looked = now_s, self._node.status()
        return self._looked

    def _figures(self, reader: Reader) -> Response:
        if not reader.sees_figures:
            raise Problem(Trouble.WITHHELD)
        return _page(reader, self._pages.figures(reader, self._status(reader), self._now()))

    def _metrics(self, reader: Reader) -> Response:
        from edgeshare.shim import metrics  # its library takes 50 ms, which a node that nobody scrapes never pays

        return metrics.exposition(self._status(reader)) if reader.sees_figures else metrics.withheld()

    async def _in_sandbox(self, request: Request, home: str) -> Response:
        """A lesson below `/lessons/`. Its page's own pictures, styles and scripts come as from another site.

        They are refused for a lesson that nobody has asked for: no stranger's page may set off a download.
        """
        name, slash, path = request.path.removeprefix("/lessons/").partition("/")
        is_foreign = guards.is_from_another_site(request) or guards.is_framed(request)
        if guards.is_from_another_site(request) and not guards.is_part_of_a_page(request):
            return _forbidden()
        if guards.is_for_a_service_worker(request):
            return _forbidden()
        view = _readable(known_lesson(self._node, name))
        if is_foreign and view.state is State.LISTED:
            return _forbidden()
        headers = (*guards.of_lesson_in_sandbox(view.manifest.id, request.host), *self._confining(home))
        if not slash or not path:
            return _to_start(request, view, f"/lessons/{view.manifest.id}/", headers)
        return await file_response(self._node, request, view, path, headers)

    def _to_lesson(self, request: Request, reader: Reader) -> Response:
        """The way to where this reader opens lessons; old links, and those on paper, lead below our own address."""
        if guards.is_from_another_site(request):
            return _forbidden()
        name, _, path = request.path.removeprefix("/lessons/").partition("/")
        lesson = known_lesson(self._node, name).manifest.id
        location = reader.open_url(lesson) + url_path(path) + (f"?{request.query}" if request.query else "")
        return Response(302, (*guards.of_our_own(), ("location", location), ("cache-control", "no-store")))

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

    def _refusal(
        self, request: Request, reader: Reader, site: hosts.Site, problem: Problem, *, is_second: bool
    ) -> Response:
        """The problem as JSON, as a page that needs nothing but itself, or as a line of text."""
        is_lesson = isinstance(site, hosts.LessonOrigin)
        if request.path.startswith(api.ROOT) and not is_lesson and not is_second:
            return api.refusal(problem)
        headers: Headers = (("cache-control", "no-store"), ("vary", "Accept, Accept-Language"))
        if problem.retry_after_s is not None:
            headers = (*headers, ("retry-after", str(problem.retry_after_s)))
        if is_lesson and problem.trouble is Trouble.WITHDRAWN:  # nobody will ever reach what it has kept there
            headers = (*headers, *guards.FORGET)
        if not _wants_page(request):
            text = f"{problem.trouble.value}\n".encode()
            return Response(problem.trouble.status, (*_PLAIN, *headers), text)
        page = self._pages.problem(reader, problem, home=_home(site, reader) if is_lesson or is_second else "")
        own = guards.of_our_own(self._pages.error_style)
        kind = (("content-type", "text/html; charset=utf-8"), ("content-language", reader.language))
        return Response(problem.trouble.status, (*own, *kind, *headers), page)


_BELOW: Final = "/lessons/{lesson}/"  # our own address, sandboxed
_PLAIN: Final[Headers] = (*guards.of_our_own(), ("content-type", "text/plain; charset=utf-8"))


def _home(site: hosts.Site, reader: Reader) -> str:
    """The origin of our own pages, for a reader of one that is elsewhere."""
    match site:
        case hosts.Elsewhere(name=name):
            return f"http://{name}{hosts.written_port(reader.port)}"
        case hosts.LessonOrigin(domain=domain) if domain != hosts.LOCAL:
            return f"http://{domain}{hosts.written_port(reader.port)}"
    return reader.home_url


async def _beside(lessons: int, step: Callable[[], _T]) -> _T:
    """What `step` gives, which lasts; from a thread where readers should not wait for one another so long."""
    with cycles.lasting():
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
    return Response(403, guards.nothing())


def _wants_page(request: Request) -> bool:
    """Whether a reader will see the answer, and not a page as one of its pictures."""
    mode = request.header("sec-fetch-mode")
    return mode in (None, "navigate") and "text/html" in (request.header("accept") or "")


def _static_file(name: str) -> _StaticFile:
    content = (files("edgeshare.shim") / "static" / name).read_bytes()
    version = hashlib.sha256(content).hexdigest()[:16]
    return _StaticFile(content, f'"{version}"', version)
