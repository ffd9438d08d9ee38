"""The JSON API, and the server-sent events that keep pages fresh. It only reads, and knows nothing of its readers."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import aclosing, asynccontextmanager, suppress
from typing import Any, Final
from urllib.parse import parse_qs

import trio

from edgeshare.errors import ManifestError
from edgeshare.httpd.messages import Request, Response, StreamBody
from edgeshare.manifest import LessonId, lesson_id
from edgeshare.shim.guards import Headers, of_our_own
from edgeshare.shim.problems import Problem, Trouble
from edgeshare.view import LessonView, Node

ROOT: Final = "/api/"
KEEP_ALIVE_S: Final = 15.0  # proxies cut what is silent for 30 to 60 s
RECONNECT_MS: Final = 3000  # a page is fresh again within 10 s of a restart of the node

_HEADERS: Final[Headers] = (*of_our_own(), ("cache-control", "no-store"))


def answer(node: Node, request: Request) -> Response:
    """The response to a request below `/api/`.

    Raises:
        Problem: there is nothing of this name.
    """
    match request.path.split("/")[2:]:
        case ["v1", "lessons"]:
            return _json(200, [lesson.as_json() for lesson in _of_level(node, request.query)])
        case ["v1", "lessons", name]:
            return _json(200, known_lesson(node, name).as_json())
        case ["v1", "status"]:
            return _json(200, node.status().as_json())
        case ["v1", "events"]:
            kind = ("content-type", "text/event-stream; charset=utf-8")
            return Response(200, (*_HEADERS, kind), StreamBody(_events(node), None))
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


def _of_level(node: Node, query: str) -> list[LessonView]:
    try:
        levels = parse_qs(query, max_num_fields=20).get("level", [])
    except ValueError:
        levels = []
    return [lesson for lesson in node.lessons() if not levels or set(levels) & set(lesson.manifest.levels)]


@asynccontextmanager
async def _events(node: Node) -> AsyncIterator[AsyncGenerator[bytes, None]]:
    """The events of one page, while the context lasts."""
    ring, bell = trio.open_memory_channel[None](1)  # changes that one event tells need one ring

    async def listen(*, task_status: trio.TaskStatus[None]) -> None:
        task_status.started()  # and waits before any other task runs, so that no change after a first look is missed
        while True:
            await node.change()
            with suppress(trio.WouldBlock):
                ring.send_nowait(None)

    async with trio.open_nursery() as nursery:
        await nursery.start(listen)
        async with aclosing(_told(node, bell)) as events:
            yield events
        nursery.cancel_scope.cancel()


async def _told(node: Node, bell: trio.MemoryReceiveChannel[None]) -> AsyncGenerator[bytes, None]:
    """All lessons at first, then at each change those that differ, maybe none, from what this page was told."""
    told: dict[LessonId, dict[str, Any]] = {}
    yield f"retry: {RECONNECT_MS}\n\n".encode()
    while True:
        now = _progress(node, told)
        news = [state for lesson, state in now.items() if state != told.get(lesson)]
        told = now
        yield b"event: lessons\ndata: " + _compact(news) + b"\n\n"
        while not await _rings(bell):
            yield b": still here\n\n"


async def _rings(bell: trio.MemoryReceiveChannel[None]) -> bool:
    with trio.move_on_after(KEEP_ALIVE_S):
        await bell.receive()
        return True
    return False


def _progress(node: Node, told: Mapping[LessonId, object]) -> dict[LessonId, dict[str, Any]]:
    views = {view.manifest.id: view for view in node.lessons()}
    for lesson in told.keys() - views.keys():  # withdrawn ones are no longer among the others
        if (gone := node.lesson(lesson)) is not None:
            views[lesson] = gone
    return {
        lesson: {
            "id": lesson,
            "state": view.state.value,
            "bytes_have": view.bytes_have,
            "size": view.manifest.size,
        }
        for lesson, view in views.items()
    }


def _json(status: int, value: object) -> Response:
    return Response(status, (*_HEADERS, ("content-type", "application/json")), _compact(value))


def _compact(value: object) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()
