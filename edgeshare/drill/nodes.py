"""Asking the nodes that the publisher named how they stand: schools' and its own, by the API that browsers use."""

from __future__ import annotations

import json
from typing import Any

import attrs
import httpx
import trio

from edgeshare.drill.report import NodePart, Outcome
from edgeshare.drill.scrape import ScrapeError, get
from edgeshare.manifest import LessonId

PATIENCE_S = 10.0
_MOST = 1024 * 1024  # bytes of an answer
_LONGEST = 300  # characters of a node's own words


async def look(client: httpx.AsyncClient, url: str, lesson: LessonId) -> NodePart:
    """How the node at `url` stands with the lesson, now."""
    try:
        with trio.fail_after(PATIENCE_S):
            status, body = await get(client, f"{url.rstrip('/')}/api/v1/lessons/{lesson}", _MOST)
            if status == 404:
                _, about = await get(client, f"{url.rstrip('/')}/api/v1/status", _MOST)
                return unheard(url, about)
    except trio.TooSlowError:
        return NodePart(url=url, outcome=Outcome.UNREACHABLE, why=f"no answer within {PATIENCE_S:.0f} s")
    except (httpx.HTTPError, httpx.InvalidURL, ScrapeError) as error:
        return NodePart(url=url, outcome=Outcome.UNREACHABLE, why=_words(str(error) or type(error).__name__))
    if status != 200:
        return NodePart(url=url, outcome=Outcome.UNREACHABLE, why=f"it answers {status}")
    return standing(url, body)


def standing(url: str, body: bytes) -> NodePart:
    """What a node's answer about the lesson says."""
    match read_json(body):
        case {"state": str(state), "size": int(size), "bytes_have": int(have)} as told:
            pass
        case _:
            return NodePart(url=url, outcome=Outcome.UNREACHABLE, why="its answer is not that of a node")
    reason = told.get("reason")
    why = _words(reason) if isinstance(reason, str) else None
    node = NodePart(
        url=url,
        outcome=Outcome.COMPLETE,
        origin_bytes=_count(told.get("origin_bytes")),
        peer_bytes=_count(told.get("peer_bytes")),
    )
    match state:
        case "complete":
            return node
        case "failed" | "withdrawn":
            return attrs.evolve(node, outcome=Outcome.FAILED, why=why or f"it is {state}")
        case "listed":
            return attrs.evolve(node, outcome=Outcome.FAILED, why="it does not follow the catalogue")
    here = f"{100 * have // size if size > 0 else 0} % here"
    return attrs.evolve(node, outcome=Outcome.UNFINISHED, why=f"{here}, {why}" if why else here)


def unheard(url: str, body: bytes) -> NodePart:
    """What a node that does not know of the lesson says of itself."""
    why = "it has not heard of the lesson, or is an older version, which does not tell"
    match read_json(body):
        case {"catalogues": list(catalogues), **more}:
            told = [more.get("trouble"), *(each.get("trouble") for each in catalogues if isinstance(each, dict))]
            if troubles := [_words(each) for each in told if isinstance(each, str)]:
                why = f"it has not heard of the lesson: {'; '.join(dict.fromkeys(troubles))}"
    return NodePart(url=url, outcome=Outcome.UNHEARD, why=why[:_LONGEST])


def read_json(body: bytes) -> Any:
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        return None


def _count(value: Any) -> int:
    return value if isinstance(value, int) and value >= 0 else 0


def _words(text: str) -> str:
    """A stranger's words as they may stand on a terminal, in one line."""
    return "".join(each if each.isprintable() else "?" for each in text[:_LONGEST])
