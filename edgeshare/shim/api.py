"""The JSON API, and the server-sent events that keep pages fresh. It only reads, and knows nothing of its readers."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager, suppress
from typing import Final
from urllib.parse import parse_qs

import trio

from edgeshare.errors import ManifestError
from edgeshare.httpd.messages import Request, Response, StreamBody
from edgeshare.manifest import LessonId, LessonManifest, lesson_id
from edgeshare.shim.guards import Headers, of_our_own
from edgeshare.shim.problems import Problem, Trouble
from edgeshare.view import LessonView, Node, NodeStatus

ROOT: Final = "/api/"
GONE: Final = "gone"  # in place of a state, in events alone
KEEP_ALIVE_S: Final = 15.0  # proxies cut what is silent for 30 to 60 s
_PORTION: Final = 100  # lessons that are looked at while everybody else waits: 2 ms
RECONNECT_MS: Final = 1500  # a page is fresh again within 10 s of a restart of the node, which itself takes some

_HEADERS: Final[Headers] = (*of_our_own(), ("cache-control", "no-store"))


def answer(node: Node, request: Request, status: Callable[[], NodeStatus], *, sees_figures: bool) -> Response:
    """The response to a request below `/api/`; who `sees_figures` gets those of `status`, too.

    Raises:
        Problem: there is nothing of this name.
    """
    match request.path.split("/")[2:]:
        case ["v1", "lessons"]:
            kind = ("content-type", "application/json")
            return Response(200, (*_HEADERS, kind), StreamBody(aclosing(_listed(node, _asked(node, request))), None))
        case ["v1", "lessons", name]:
            return _json(200, known_lesson(node, name).as_json())
        case ["v1", "status"]:
            return _json(200, status().as_json() if sees_figures else status().for_readers())
        case ["v1", "events"]:
            kind = ("content-type", "text/event-stream; charset=utf-8")
            return Response(200, (*_HEADERS, kind), StreamBody(_events(node, _named(request)), None))
    raise Problem(Trouble.NO_PAGE)


def known_lesson(node: Node, name: str) -> LessonView:
    """The lesson that a URL names.

    Raises:
        Problem: this node has not heard of it.
    """
    try:
        lesson = node.lesson(lesson_id(name))
    except ManifestError:
        lesson = None
    if lesson is None:
        raise Problem(Trouble.NO_LESSON)
    return lesson


def refusal(problem: Problem) -> Response:
    """What a program is told."""
    response = _json(problem.trouble.status, {"error": problem.trouble.value})
    if problem.retry_after_s is None:
        return response
    return Response(response.status, (*response.headers, ("retry-after", str(problem.retry_after_s))), response.body)


def _fields(request: Request) -> Mapping[str, list[str]]:
    try:
        return parse_qs(request.query, max_num_fields=20)
    except ValueError:
        return {}


def _asked(node: Node, request: Request) -> Sequence[LessonManifest]:
    """The lessons that are asked for: all of them, of the `level`s, and `limit` of these from `offset` on."""
    fields = _fields(request)
    listing: Sequence[LessonManifest] = node.listing()
    if levels := set(fields.get("level", [])):
        listing = [manifest for manifest in listing if not levels.isdisjoint(manifest.levels)]
    offset, limit = (_number(fields.get(name)) for name in ("offset", "limit"))
    start = offset or 0
    return listing[start:] if limit is None else listing[start : start + limit]


def _number(values: list[str] | None) -> int | None:
    return int(values[0]) if values and re.fullmatch("[0-9]{1,9}", values[0]) else None


def _named(request: Request) -> frozenset[LessonId] | None:
    """The lessons that a page shows, and wants to hear of; None when it wants to hear of all."""
    named = _fields(request).get("lessons")
    return frozenset(map(LessonId, named[0].split(","))) if named else None


async def _listed(node: Node, manifests: Sequence[LessonManifest]) -> AsyncGenerator[bytes, None]:
    """A JSON list of lessons, made while it is sent: readers of files do not wait for 50,000 of them."""
    before = b"["
    for start in range(0, len(manifests), _PORTION):
        views = map(node.lesson, (manifest.id for manifest in manifests[start : start + _PORTION]))
        if portion := b",".join(_compact(view.as_json()) for view in views if view is not None):
            yield before + portion
            before = b","
        await trio.lowlevel.checkpoint()
    yield b"[]" if before == b"[" else b"]"


@asynccontextmanager
async def _events(node: Node, named: frozenset[LessonId] | None) -> AsyncIterator[AsyncGenerator[bytes, None]]:
    """The events of one page, of all lessons or of those that it `named`, while the context lasts."""
    ring, bell = trio.open_memory_channel[None](1)  # changes that one event tells need one ring

    async def listen(*, task_status: trio.TaskStatus[None]) -> None:
        task_status.started()  # and waits before any other task runs, so that no change after a first look is missed
        while True:
            await node.change()
            with suppress(trio.WouldBlock):
                ring.send_nowait(None)

    async with trio.open_nursery() as nursery:
        await nursery.start(listen)
        async with aclosing(_told(node, named, bell)) as events:
            yield events
        nursery.cancel_scope.cancel()


async def _told(
    node: Node, named: frozenset[LessonId] | None, bell: trio.MemoryReceiveChannel[None]
) -> AsyncGenerator[bytes, None]:
    """All lessons at first, then at each change those that differ, maybe none, from what this page was told."""
    # The hash of what it was told, None of what is gone: of 50,000 lessons all of it would take 26 MB.
    told: dict[LessonId, int | None] = {}
    yield f"retry: {RECONNECT_MS}\n\n".encode()
    while True:
        news = await _news(node, named, told)
        yield b"event: lessons\ndata: " + _compact(news) + b"\n\n"
        while not await _rings(bell):
            yield b": still here\n\n"


async def _rings(bell: trio.MemoryReceiveChannel[None]) -> bool:
    with trio.move_on_after(KEEP_ALIVE_S):
        await bell.receive()
        return True
    return False


async def _news(
    node: Node, named: frozenset[LessonId] | None, told: dict[LessonId, int | None]
) -> list[Mapping[str, object]]:
    """Where lessons stand that stand otherwise than was `told`, which then is told.

    Those that were told of once are told of when they are withdrawn, too, which is not so of others; and when no list
    has them any more and nothing of them is here: then they are "gone". So are those that a page names and this node
    does not know: they went while it did not listen.
    """
    news: list[Mapping[str, object]] = []
    wanted = named if named is not None else {manifest.id for manifest in node.listing()} | told.keys()
    for number, lesson in enumerate(wanted, 1):
        view = node.lesson(lesson)
        if view is not None:
            progress = _progress(view)
            mark = hash(tuple(progress.values()))
            if told.get(lesson) != mark:
                told[lesson] = mark
                news.append(progress)
        elif told.get(lesson, 0) is not None:
            told[lesson] = None
            news.append({"id": lesson, "state": GONE})
        if not number % _PORTION:
            await trio.lowlevel.checkpoint()
    return news


def _progress(view: LessonView) -> dict[str, object]:
    return {
        "id": view.manifest.id,
        "state": view.state.value,
        "bytes_have": view.bytes_have,
        "size": view.manifest.size,
        "version": view.manifest.version,
        "obstacle": view.obstacle.value if view.obstacle else None,
        "reason": view.reason,
        "next_version": view.next_version,
        "offered": view.is_offered,
        "origin_bytes": sum(view.origin_bytes.values()),
        "peer_bytes": view.peer_bytes,
    }


def _json(status: int, value: object) -> Response:
    return Response(status, (*_HEADERS, ("content-type", "application/json")), _compact(value))


def _compact(value: object) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()
