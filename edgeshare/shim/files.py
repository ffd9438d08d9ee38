"""One file of a lesson as an HTTP response, whole or a part, while it is still arriving too.

- A path is looked up in the lesson's own table, and never joined to anything.
- What is complete goes out from its descriptor, the rest as it is verified. The head goes out only when the first bytes
  are here, so that a lesson that does not come is a 503 and no endless page. A HEAD waits for the list of files only.
- A tag names these contents for ever, and every answer is asked for again: a new version shows at once.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator
from contextlib import ExitStack, aclosing
from io import FileIO
from typing import Final

import attrs
import trio

from edgeshare.errors import EdgeshareError
from edgeshare.httpd import ranges
from edgeshare.httpd.media import UNKNOWN, media_type
from edgeshare.httpd.messages import FileBody, Request, Response, StreamBody
from edgeshare.layout import FileEntry
from edgeshare.library.eviction import QuotaError
from edgeshare.shim.guards import Headers
from edgeshare.shim.problems import Problem, Trouble
from edgeshare.view import LessonView, Node, Obstacle, OpenLesson, State

FIRST_BYTES_S: Final = 20.0  # browsers give up after minutes, readers sooner
LATER_S: Final = 60  # for a lesson that needs more than patience

logger = logging.getLogger(__name__)


async def file_response(node: Node, request: Request, view: LessonView, path: str, headers: Headers) -> Response:
    """The response to `request` for the file `path` of a lesson, with `headers` besides those of the file.

    Raises:
        Problem: there is no such file, or it is not here in time.
    """
    with ExitStack() as closing:
        with trio.move_on_after(FIRST_BYTES_S):
            try:
                async with node.read(view.manifest.id) as lesson:
                    response = await _representation(node, request, view, lesson, path, headers, closing)
                closing.pop_all()  # the server closes it; an open file stays whole even when its lesson is removed
                return response
            except EdgeshareError as error:
                raise _lost(node, view, error) from error
    now = node.lesson(view.manifest.id) or view
    if now.state is State.FAILED or now.obstacle is Obstacle.DISK:  # somebody has to look after it first
        raise Problem(Trouble.UNAVAILABLE, now, retry_after_s=LATER_S)
    raise Problem(Trouble.ON_ITS_WAY, now, retry_after_s=5)


async def _representation(
    node: Node,
    request: Request,
    view: LessonView,
    lesson: OpenLesson,
    path: str,
    headers: Headers,
    closing: ExitStack,
) -> Response:
    entry = lesson.file(path)
    if entry is None:
        raise Problem(Trouble.NO_FILE, view)
    etag = tag(lesson, entry)
    kept = (*headers, ("etag", etag), ("cache-control", "no-cache"))
    if ranges.not_modified(request.header("if-none-match"), etag):
        return Response(304, kept)
    # A HEAD has no ranges (RFC 9110 §14.2).
    has_range = request.method == "GET" and ranges.range_applies(request.header("if-range"), etag)
    asked = ranges.parse(request.header("range"), entry.size) if has_range else None
    if isinstance(asked, ranges.Unsatisfiable):
        return Response(416, (*kept, ("content-range", asked.content_range(entry.size))))
    kind = media_type(path)
    described = (*kept, ("content-type", kind), ("accept-ranges", "bytes"))
    if kind == UNKNOWN:
        described = (*described, ("content-disposition", "attachment"))
    if asked is None:
        response = Response(200, described)
        start, stop = 0, entry.size
    else:
        response = Response(206, (*described, ("content-range", asked.content_range(entry.size))))
        start, stop = asked.start, asked.stop
    if request.method == "GET":
        if (descriptor := lesson.descriptor(entry)) is not None:
            file = closing.enter_context(FileIO(descriptor))
            return attrs.evolve(response, body=FileBody(file, start, stop - start))
        if start < stop:
            await _first_bytes(lesson, entry, start, stop)
    chunks = _as_they_come(node, view, path, etag, start, stop)
    return attrs.evolve(response, body=StreamBody(aclosing(chunks), stop - start))


async def _first_bytes(lesson: OpenLesson, entry: FileEntry, start: int, stop: int) -> None:
    """Wait until the file's next bytes are here.

    They are let go and read once more by the response's body: a client that leaves before its head is out would
    otherwise leave an open stream behind, with nobody to close it.
    """
    async with aclosing(lesson.stream(entry, start, stop)) as chunks:
        async for _ in chunks:
            return


async def _as_they_come(
    node: Node, view: LessonView, path: str, etag: str, start: int, stop: int
) -> AsyncGenerator[bytes, None]:
    """The verified bytes of a file; they end early, and break the connection, when the lesson goes or has changed."""
    try:
        async with node.read(view.manifest.id) as lesson:
            entry = lesson.file(path)
            if entry is None or tag(lesson, entry) != etag:
                return
            async with aclosing(lesson.stream(entry, start, stop)) as chunks:
                async for chunk in chunks:
                    yield chunk
    except EdgeshareError as error:
        logger.warning("a lesson's file broke off while it was sent: %s", error)


def tag(lesson: OpenLesson, entry: FileEntry) -> str:
    """The entity tag of a file: it names these contents and no others, for ever."""
    return f'"{lesson.etag}-{entry.index}"'


def _lost(node: Node, view: LessonView, error: EdgeshareError) -> Problem:
    now = node.lesson(view.manifest.id)
    if now is None:
        return Problem(Trouble.NO_LESSON)
    if now.state is State.WITHDRAWN:
        return Problem(Trouble.WITHDRAWN, now)
    logger.warning("a lesson could not be opened: %s", error)
    if isinstance(error, QuotaError):
        return Problem(Trouble.NO_ROOM, now)
    return Problem(Trouble.UNAVAILABLE, now, retry_after_s=LATER_S)
