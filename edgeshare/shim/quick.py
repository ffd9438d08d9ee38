"""Files of complete lessons once more: what was answered a moment ago is answered so again, in a fifth of the time.

- Known is only how the routes answered the very same request before: same Host, port, path and Fetch Metadata. All that
  they judge by these they have judged.
- Asked anew each time is what may have changed: that the lesson is still complete, of the same content, and not
  withdrawn, and that the file on the disk is the one that was verified.
- Whole files and 304 only; ranges, other methods, pages and trouble of any kind go the long way.
"""

from __future__ import annotations

import os
from functools import lru_cache
from typing import Final

import attrs

from edgeshare.httpd import ranges
from edgeshare.httpd.heads import KEPT
from edgeshare.httpd.messages import FileBody, Request, Response
from edgeshare.httpd.server import Handler
from edgeshare.layout import FileEntry
from edgeshare.manifest import LessonId
from edgeshare.shim.files import tag
from edgeshare.shim.guards import Headers
from edgeshare.view import Node

JUDGED_CHARACTERS: Final = 120  # of what browsers say in Fetch Metadata
KNOWN: Final = 4096  # files: some dozen lessons that a class reads now; a kilobyte each

_JUDGED_BY: Final = ("sec-fetch-site", "sec-fetch-mode", "sec-fetch-dest", "service-worker")
_OF_A_BODY: Final = ("content-type", "accept-ranges", "content-disposition")  # which a 304 has not

_Key = tuple[str, tuple[str, int], str, tuple[str, ...]]


@attrs.frozen
class _Known:
    lesson: LessonId
    entry: FileEntry
    etag: str  # of the file
    content: str  # the lesson's own
    whole: Headers | None  # None until a whole file was asked for
    unchanged: Response


class _Descriptor:
    """An open descriptor; `io.FileIO` asks the kernel what it is once more."""

    __slots__ = ("_descriptor",)

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def fileno(self) -> int:
        return self._descriptor

    def close(self) -> None:
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)


class Quick:
    """What `node`'s shim has answered."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._known: dict[_Key, _Known] = {}

    def answer(self, request: Request) -> Response | None:
        """The response to a request that was answered before; None where the routes are to be asked."""
        known = self._known.get(_key(request))
        if known is None or request.method != "GET":
            return None
        lesson = self._node.complete(known.lesson)
        if lesson is None or lesson.etag != known.content:
            return None
        if ranges.not_modified(request.header("if-none-match"), known.etag):
            return known.unchanged
        if known.whole is None or request.header("range") is not None:
            return None
        descriptor = lesson.descriptor(known.entry)
        if descriptor is None:
            return None
        return Response(200, known.whole, FileBody(_Descriptor(descriptor), 0, known.entry.size))

    def learning(self, handler: Handler) -> Handler:
        """`handler`, whose answers are remembered."""

        async def answer(request: Request) -> Response:
            response = await handler(request)
            self._learn(request, response)
            return response

        return answer

    def _learn(self, request: Request, response: Response) -> None:
        is_whole = response.status == 200 and isinstance(response.body, FileBody)
        if request.method != "GET" or not (is_whole or response.status == 304):
            return
        name, path = _lesson_and_path(request)
        lesson = self._node.complete(name)
        entry = lesson.file(path) if lesson is not None else None
        if lesson is None or entry is None:
            return
        etag = tag(lesson, entry)
        if dict(response.headers).get("etag") != etag:  # the routes have taken it for another lesson's, or for no file
            return
        key = _key(request)
        if sum(map(len, key[-1])) > JUDGED_CHARACTERS:  # no browser's
            return
        unchanged = Response(304, tuple(each for each in response.headers if each[0] not in _OF_A_BODY))
        while len(self._known) >= KNOWN:
            del self._known[next(iter(self._known))]
        whole = response.headers if is_whole else None
        self._known[key] = _Known(name, entry, etag, lesson.etag, whole, unchanged)


@lru_cache(maxsize=KEPT)  # as many as are the same object when they come again
def _key(request: Request) -> _Key:
    judged = tuple(f"{name}:{value}" for name, value in request.headers if name in _JUDGED_BY)
    return request.host, request.local, request.path, judged


def _lesson_and_path(request: Request) -> tuple[LessonId, str]:
    """Which file it was that the routes gave, as far as the request tells."""
    if request.path.startswith("/lessons/"):
        name, _, path = request.path.removeprefix("/lessons/").partition("/")
        return LessonId(name), path
    return LessonId(request.host.lower().partition(".")[0]), request.path[1:]
