from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs
import pytest

from edgeshare.httpd.messages import FileBody, Request, Response
from edgeshare.httpd.server import Handler
from edgeshare.manifest import InfoHash, LessonId
from edgeshare.shim import quick as module
from edgeshare.shim.quick import Quick
from edgeshare.view import State
from tests.shim.conftest import Content, request

if TYPE_CHECKING:
    from tests.shim.conftest import Browser, NodeInMemory

FRACTIONS = "maths-6e-fractions.localhost:8470"
BytesOf = Callable[[Response], Awaitable[bytes]]


def asked(target: str = "/film.mp4", host: str = FRACTIONS, *, method: str = "GET", **headers: str) -> Request:
    fields = [("Host", host), *((name.replace("_", "-"), value) for name, value in headers.items())]
    return request(target, fields, method=method, local=("127.0.0.1", 8470))


@pytest.fixture
def quick(node: NodeInMemory) -> Quick:
    return Quick(node)


@pytest.fixture
def learning(quick: Quick, handler: Handler) -> Handler:
    return quick.learning(handler)


@pytest.mark.parametrize(
    ("target", "host"),
    [
        ("/film.mp4", FRACTIONS),
        ("/plan.blend", FRACTIONS),
        ("/vide.txt", FRACTIONS),
        ("/lessons/maths-6e-fractions/film.mp4", "localhost:8470"),
    ],
)
async def test_what_was_answered_once_is_answered_the_same_again(
    quick: Quick, learning: Handler, bytes_of: BytesOf, target: str, host: str
) -> None:
    once = asked(target, host)
    assert quick.answer(once) is None
    first = await learning(once)
    again = quick.answer(once)
    assert again is not None
    assert (again.status, again.headers) == (first.status, first.headers) == (200, again.headers)
    assert await bytes_of(again) == await bytes_of(first)


async def test_what_the_browser_has_is_304_as_by_the_routes(quick: Quick, learning: Handler, bytes_of: BytesOf) -> None:
    first = await learning(asked())
    await bytes_of(first)
    known = asked(if_none_match=dict(first.headers)["etag"])
    by_routes, again = await learning(known), quick.answer(known)
    assert again is not None
    assert (again.status, again.body) == (by_routes.status, by_routes.body) == (304, b"")
    assert sorted(again.headers) == sorted(by_routes.headers)


async def test_a_304_is_remembered_too_but_not_what_the_file_is(
    quick: Quick, learning: Handler, browser: Browser, bytes_of: BytesOf
) -> None:
    first = await browser.get("/film.mp4", host=FRACTIONS)  # past what remembers
    await bytes_of(first)
    known = asked(if_none_match=dict(first.headers)["etag"])
    by_routes = await learning(known)
    assert quick.answer(known) == by_routes
    assert quick.answer(asked()) is None


@pytest.mark.parametrize(
    "other",
    [
        {"method": "HEAD"},
        {"range": "bytes=0-4"},
        {"sec_fetch_site": "cross-site", "sec_fetch_mode": "no-cors"},
        {"sec_fetch_dest": "iframe"},
        {"service_worker": "script"},
        {"host": "maths-6e-fractions.localhost:8471"},
        {"target": "/index.html"},
    ],
)
async def test_another_request_is_for_the_routes(
    quick: Quick, learning: Handler, bytes_of: BytesOf, other: dict[str, Any]
) -> None:
    await bytes_of(await learning(asked()))
    assert quick.answer(asked(**other)) is None


@pytest.mark.parametrize("change", ["withdrawn", "listed", "gone", "altered", "new"])
async def test_what_has_changed_is_for_the_routes(
    quick: Quick,
    learning: Handler,
    node: NodeInMemory,
    bytes_of: BytesOf,
    change: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    await bytes_of(await learning(asked()))
    match change:
        case "withdrawn":
            node.alter("maths-6e-fractions", state=State.WITHDRAWN)
        case "listed":
            node.alter("maths-6e-fractions", state=State.LISTED)
        case "gone":
            node.views.clear()
        case "altered":  # the file on the disk, which then is streamed
            node.arrive("maths-6e-fractions", "film.mp4", 0)
        case "new":
            manifest = node.views[LessonId("maths-6e-fractions")].manifest
            newer = attrs.evolve(manifest, version=2, info_hash=InfoHash(b"n" * 32))
            node.add(newer, State.COMPLETE, Content({"film.mp4": b"new"}))
    assert quick.answer(asked()) is None


async def test_a_lessons_own_folder_named_lessons_is_never_taken_for_another_lessons_files(
    quick: Quick, learning: Handler, node: NodeInMemory, bytes_of: BytesOf
) -> None:
    node.add(
        attrs.evolve(node.views[LessonId("maths-6e-fractions")].manifest, id=LessonId("autre")),
        State.COMPLETE,
        Content({"lessons/maths-6e-fractions/film.mp4": b"mine"}),
    )
    once = asked("/lessons/maths-6e-fractions/film.mp4", "autre.localhost:8470")
    first = await learning(once)
    assert await bytes_of(first) == b"mine"
    assert quick.answer(once) is None
    known = asked(
        "/lessons/maths-6e-fractions/film.mp4", "autre.localhost:8470", if_none_match=dict(first.headers)["etag"]
    )
    assert (await learning(known)).status == 304
    node.alter("autre", state=State.WITHDRAWN)
    assert quick.answer(known) is None


async def test_what_no_browser_says_of_a_request_is_not_remembered(
    quick: Quick, learning: Handler, bytes_of: BytesOf
) -> None:
    for judged, is_known in (("navigate", True), ("x" * 200, False)):
        once = asked(sec_fetch_mode=judged, sec_fetch_site="none")
        await bytes_of(await learning(once))
        again = quick.answer(once)
        assert (again is not None) is is_known
        if again is not None:
            await bytes_of(again)


@pytest.mark.parametrize(
    ("target", "host"),
    [
        ("/film.mp4", "evil.example"),
        ("/nothing.mp4", FRACTIONS),
        ("/film.mp4", "sciences-6e-eau.localhost:8470"),
        ("/", "localhost:8470"),
        ("/static/edgeshare.css", "localhost:8470"),
    ],
)
async def test_only_files_of_complete_lessons_are_remembered(
    quick: Quick, learning: Handler, node: NodeInMemory, target: str, host: str
) -> None:
    node.arrive("sciences-6e-eau", "film.mp4", 1)
    response = await learning(asked(target, host))
    assert not isinstance(response.body, FileBody)
    assert quick.answer(asked(target, host)) is None


async def test_so_many_files_are_remembered_and_no_more(
    quick: Quick, learning: Handler, bytes_of: BytesOf, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "KNOWN", 2)
    for target in ("/film.mp4", "/plan.blend", "/vide.txt"):
        await bytes_of(await learning(asked(target)))
    given = [quick.answer(asked(target)) for target in ("/film.mp4", "/plan.blend", "/vide.txt")]
    assert [each is not None for each in given] == [False, True, True]
    for each in given[1:]:
        assert each is not None
        await bytes_of(each)


def test_the_routes_judge_a_file_by_no_header_that_is_forgotten_here() -> None:
    asked_for: set[str] = set()
    for name in ("files", "guards", "hosts", "routes"):
        source = (Path(module.__file__).parent / f"{name}.py").read_text(encoding="utf-8")
        asked_for.update(re.findall(r'header\("([a-z-]+)"\)', source))
    of_each_answer = {"if-none-match", "if-range", "range"}
    of_pages = {"accept", "accept-language"}
    assert asked_for == set(module._JUDGED_BY) | of_each_answer | of_pages
