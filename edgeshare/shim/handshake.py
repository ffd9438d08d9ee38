"""The page that a link from elsewhere opens in a window: it says whether this node has the lesson, and goes on to it.

A page of the public Internet may not ask a node anything: the browser would ask its reader for permission first. It may
open a window, and the node's page in it may speak to who opened it (`window.opener`). The rules:

- It speaks only to the web origins of this node's own config: others never learn that there is a node, nor what it has.
- To let it speak, it alone of our pages is without `Cross-Origin-Opener-Policy: same-origin`. So there is nothing on it
  to take or to press: it shows a name and links, runs one script that never changes, loads nothing from elsewhere, and
  lets go of its opener before it moves on to the lesson, which has none.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final
from urllib.parse import urlsplit

from edgeshare.errors import ManifestError
from edgeshare.httpd.csp import source_of
from edgeshare.httpd.messages import Response
from edgeshare.manifest import lesson_id
from edgeshare.shim.guards import Headers
from edgeshare.shim.pages import Pages, Reader, url_path
from edgeshare.shim.problems import Problem, Trouble
from edgeshare.view import LessonView, Node, State

SCRIPT: Final = """
"use strict";
const said = document.currentScript.dataset;
if (window.opener) {
  for (const origin of said.origins.split(" ").filter(Boolean)) {
    window.opener.postMessage({edgeshare: "here", lesson: said.lesson, state: said.state}, origin);
  }
  window.opener = null;
}
if (said.next) location.replace(said.next);
"""

# A lesson in one of these is opened at once; of the others the node's page of it says why it cannot be.
_OPENS = frozenset({State.LISTED, State.WAITING, State.FETCHING, State.COMPLETE})
_PORTS = {"http": 80, "https": 443}

_POLICY: Final = (
    "default-src 'none'; style-src 'self'; script-src {script}; img-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
HEADERS: Final[Headers] = (
    ("content-security-policy", _POLICY.format(script=source_of(SCRIPT))),
    ("cross-origin-opener-policy", "unsafe-none"),
    ("cross-origin-resource-policy", "same-origin"),
    ("x-content-type-options", "nosniff"),
    ("referrer-policy", "no-referrer"),
    ("content-type", "text/html; charset=utf-8"),
    ("vary", "Accept-Language"),
    ("cache-control", "no-store"),
)


def answer(
    node: Node, pages: Pages, reader: Reader, origins: Iterable[str], name: str, path: Sequence[str]
) -> Response:
    """The page for the lesson that is called `name` in a link, and its file at `path` where that has parts.

    `origins` are those that hear it.

    Raises:
        Problem: the link can be none of ours.
    """
    try:
        lesson = lesson_id(name)
    except ManifestError as error:
        raise Problem(Trouble.NO_PAGE) from error
    if any(part in ("", ".", "..") for part in path):
        raise Problem(Trouble.NO_PAGE)
    view = node.lesson(lesson)
    onward = "" if view is None else _onward(reader, view, path)
    said = {
        "data-origins": " ".join(origins),
        "data-lesson": lesson,
        "data-state": "" if view is None else view.state.value,
        "data-next": onward,
    }
    page = pages.handshake(reader, view, said=said, script=SCRIPT, onward=onward)
    return Response(404 if view is None else 200, (*HEADERS, ("content-language", reader.language)), page)


def _onward(reader: Reader, view: LessonView, path: Sequence[str]) -> str:
    lesson = view.manifest.id
    return reader.open_url(lesson) + url_path("/".join(path)) if view.state in _OPENS else f"/l/{lesson}"


def web_origins(urls: Iterable[str]) -> tuple[str, ...]:
    """The web origins (RFC 6454 §6.2) of these base URLs, each once, without what has none.

    A node may fetch by plain HTTP what readers get by HTTPS from the same host: that origin is included.
    """
    found: dict[str, None] = {}
    for url in urls:
        try:
            parts = urlsplit(url)
            port, host = parts.port, parts.hostname
        except ValueError:  # a port that is none
            continue
        if not host or parts.scheme not in _PORTS:
            continue
        host = f"[{host}]" if ":" in host else host
        if port in (None, _PORTS[parts.scheme]):
            found[f"{parts.scheme}://{host}"] = None
            found[f"https://{host}"] = None
        else:
            found[f"{parts.scheme}://{host}:{port}"] = None
    return tuple(found)
