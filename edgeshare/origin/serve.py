"""`edgeshare origin serve`: a repository over HTTP, for small sites, the demo and tests.

A repository is static files, and any web server does this as well. The rules:

- Visible are the folders of a repository (`metadata`, `targets`, `content`, `torrents`, `tracker`, `o`), nothing beside
  them, and below them regular files only. Folders are 404, symbolic links too: what is served lies inside. `/o` alone
  is the page of links (`edgeshare.publish.linkpage`).
- Names that begin with a dot are visible in `content` only: a lesson may have them, elsewhere they are half-written.
- What a name fixes for good (content, torrents, targets, versioned metadata) may be kept for ever; everything else,
  and above all a 404, is to be asked for again: a cached "no newer root" would hide a rotation of keys.
- A lesson that a browser reads here is in a sandbox, an origin without a name: all lessons and the page of links share
  one address. `Access-Control-Allow-Origin` gives it its own fonts and modules back; all of it is public.
- Any Host is answered, as an origin has the names that its operator gives it, and nothing here is secret.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
from pathlib import Path
from typing import Final, NoReturn

import attrs
import trio

from edgeshare import host as system
from edgeshare.errors import RepositoryError
from edgeshare.httpd import ranges
from edgeshare.httpd.media import media_type
from edgeshare.httpd.server import FileBody, Limits, Request, Response, listen, serve

VISIBLE: Final = frozenset({"metadata", "targets", "content", "torrents", "tracker", "o"})
COUNTERS_PATH: Final = "/-/counters"

# Behind one address may stand a whole town (NAT), or the demo's nodes: only the total limits them.
LIMITS: Final = Limits(connections=512, connections_per_client=512)

# seeders/origin/nginx.conf says the same of each.
PAGE_POLICY: Final = (  # the page itself names, by their hashes, the one style and the one script that it has
    "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'; "
    "worker-src 'self' blob:; img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
LESSON_POLICY: Final = (
    "default-src 'self' 'unsafe-inline' 'unsafe-eval' data: blob:; frame-ancestors 'self'; form-action 'self'; "
    "sandbox allow-scripts allow-forms allow-popups"
)
KEPT: Final = {  # how long what is in `o` may be kept
    # Browsers: for ever, as its worker brings the next one. Caches between: a day, so that new readers have it soon.
    "/o/index.html": "public, max-age=31536000, s-maxage=86400, immutable",
    "/o/worker.js": "public, max-age=86400",
}
_INDEX_KEPT: Final = "public, max-age=300"  # 12 million readers in 15 minutes would each ask again

_FOR_EVER: Final = "public, max-age=31536000, immutable"  # a year stands for ever (RFC 8246)
_IMMUTABLE_FOLDERS: Final = frozenset({"targets", "content", "torrents"})
_VERSIONED: Final = re.compile(r"/metadata/[0-9]+\.[^/]+\.json")  # TUF's consistent snapshots


@attrs.define
class Counters:
    """What one origin has done since it started; requests for the counters themselves are left out."""

    connections: int = 0  # let in
    requests: int = 0  # answered, with whatever status
    bytes_sent: int = 0  # of files


class RepositorySite:
    """The handler of one repository, and its counters; `shows_counters` gives them at `COUNTERS_PATH`, as JSON."""

    def __init__(self, repository: Path, *, shows_counters: bool = False) -> None:
        self.counters = Counters()
        self._repository = repository
        self._shows_counters = shows_counters

    async def answer(self, request: Request) -> Response:
        """The file that `request` names, or a part of it, or why not.

        Opens files in this task: on a local disk that takes microseconds, and a thread for each request more than that.

        Raises:
            OSError: the disk, or the limit on open files; the server answers 500.
        """
        if request.path == COUNTERS_PATH and self._shows_counters:
            headers = (("content-type", "application/json"), ("cache-control", "no-store"))
            return Response(200, headers, json.dumps(attrs.asdict(self.counters)).encode())
        path = "/o/index.html" if request.path in ("/o", "/o/") else request.path
        parts = path.split("/")[1:]
        if not _is_visible(parts):
            return _nothing(404)
        with contextlib.ExitStack() as closing:
            try:
                file = closing.enter_context(system.open_beneath(self._repository, parts))
            except FileNotFoundError:
                return _nothing(404)
            except PermissionError:  # said to the operator who tries it, and no secret: the folder is public
                return _nothing(403)
            response = _representation(request, path, file)
            if isinstance(response.body, FileBody):
                closing.pop_all()  # the server closes it
            return response

    def count(self, request: Request, response: Response, bytes_sent: int) -> None:
        """Count one answered request; the server's `on_done`."""
        if request.path != COUNTERS_PATH:
            self.counters.requests += 1
            self.counters.bytes_sent += bytes_sent

    def count_connection(self) -> None:
        """Count one connection; the server's `on_connection`."""
        self.counters.connections += 1


async def serve_repository(
    repository: Path,
    host: str,
    port: int,
    *,
    shows_counters: bool = False,
    task_status: trio.TaskStatus[tuple[str, int]] = trio.TASK_STATUS_IGNORED,
) -> NoReturn:
    """Serve `repository` until cancelled; started, with its address and port, when it accepts connections.

    Raises:
        RepositoryError: there is no repository.
        ConfigError: the address cannot be listened on.
    """
    if not (repository / "metadata").is_dir():
        hint = "name the folder that `edgeshare publish init` made"
        raise RepositoryError(f"{repository} is no repository, it has no folder metadata", hint=hint)
    site = RepositorySite(repository, shows_counters=shows_counters)
    listeners = await listen(host, port)
    task_status.started(listeners[0].socket.getsockname()[:2])
    await serve(site.answer, listeners, limits=LIMITS, on_done=site.count, on_connection=site.count_connection)


def _is_visible(parts: list[str]) -> bool:
    if parts[0] not in VISIBLE:
        return False
    return parts[0] == "content" or not any(part.startswith(".") for part in parts)


def _representation(request: Request, path: str, file: io.FileIO) -> Response:
    status = os.fstat(file.fileno())
    size = status.st_size
    # Two files of one name differ in one of these: the publisher replaces files by renaming, so the inode changes too.
    etag = f'"{size:x}-{status.st_mtime_ns:x}-{status.st_ino:x}"'
    kept = (("etag", etag), ("cache-control", _cache_control(path)), *_apart(path))
    if ranges.not_modified(request.header("if-none-match"), etag):
        return Response(304, kept)
    asked = ranges.parse(request.header("range"), size)
    if not ranges.range_applies(request.header("if-range"), etag):
        asked = None
    kind = (("content-type", media_type(path)), ("x-content-type-options", "nosniff"))
    headers = (*kept, *kind, ("accept-ranges", "bytes"))
    match asked:
        case None:
            return Response(200, headers, FileBody(file, 0, size))
        case ranges.Span() as span:
            part = ("content-range", span.content_range(size))
            return Response(206, (*headers, part), FileBody(file, span.start, len(span)))
        case ranges.Unsatisfiable() as beyond:
            return Response(416, (("content-range", beyond.content_range(size)),))


def _apart(path: str) -> tuple[tuple[str, str], ...]:
    """What keeps the page of links and the lessons apart, and both from calling out."""
    if path.startswith("/o/"):
        scope = (("service-worker-allowed", "../o"),) if path == "/o/worker.js" else ()  # its folder's own page is /o
        return (("content-security-policy", PAGE_POLICY), ("referrer-policy", "no-referrer"), *scope)
    if path.startswith("/content/"):
        # Browsers show a PDF, which reaches nothing, with a program of theirs that does not run in a sandbox.
        policy = () if path.lower().endswith(".pdf") else (("content-security-policy", LESSON_POLICY),)
        return (("access-control-allow-origin", "*"), ("referrer-policy", "no-referrer"), *policy)
    return ()


def _cache_control(path: str) -> str:
    if path.startswith("/o/"):
        return KEPT.get(path, _INDEX_KEPT)
    if path.split("/")[1] in _IMMUTABLE_FOLDERS or _VERSIONED.fullmatch(path):
        return _FOR_EVER
    if path == "/metadata/timestamp.json":
        return "max-age=60, no-cache"  # asked for again each time; a minute for caches that do not know `no-cache`
    return "no-cache"


def _nothing(status: int) -> Response:
    return Response(status, (("cache-control", "no-store"),))
