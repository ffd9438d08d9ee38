from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from edgeshare.config import Endpoint, ShimConfig
from edgeshare.httpd.messages import Response, StreamBody
from edgeshare.manifest import LessonId
from edgeshare.shim.routes import shim
from edgeshare.view import NodeStatus, Obstacle, State
from edgeshare.vocabulary import built_in
from tests.shim.conftest import NOW, Browser, NodeInMemory, bytes_of, manifest

PROGRESS = {
    "id",
    "state",
    "bytes_have",
    "size",
    "version",
    "obstacle",
    "reason",
    "next_version",
    "offered",
    "origin_bytes",
    "peer_bytes",
}


async def told(browser: Browser, target: str, **more: Any) -> Any:
    response = await browser.get(target, **more)
    assert dict(response.headers)["content-type"] == "application/json"
    return json.loads(await bytes_of(response))


@asynccontextmanager
async def events(browser: Browser, query: str = "") -> AsyncIterator[AsyncIterator[bytes]]:
    response = await browser.get(f"/api/v1/events{query}")
    assert response.status == 200
    assert dict(response.headers)["content-type"].startswith("text/event-stream")
    assert isinstance(response.body, StreamBody)
    assert response.body.size is None
    async with response.body.chunks as chunks:
        iterator = aiter(chunks)
        assert await anext(iterator) == b"retry: 1500\n\n"
        yield iterator


def lessons_in(event: bytes) -> dict[str, Any]:
    name, data, end, last = event.split(b"\n")
    assert (name, end, last) == (b"event: lessons", b"", b"")
    listed = json.loads(data.removeprefix(b"data: "))
    return {lesson["id"]: lesson for lesson in listed}


async def test_the_list_has_every_lesson_that_may_be_shown(browser: Browser, node: NodeInMemory) -> None:
    listed = await told(browser, "/api/v1/lessons")
    assert [lesson["id"] for lesson in listed] == [lesson.manifest.id for lesson in node.lessons()]
    assert "histoire-6e-erreur" not in {lesson["id"] for lesson in listed}


async def test_the_list_of_a_level_has_its_lessons_only(browser: Browser) -> None:
    assert [lesson["id"] for lesson in await told(browser, "/api/v1/lessons?level=5e")] == ["anglais-5e-school"]
    assert await told(browser, "/api/v1/lessons?level=cp") == []


async def test_the_list_is_given_in_portions_too(browser: Browser, node: NodeInMemory) -> None:
    whole = await told(browser, "/api/v1/lessons")
    assert len(whole) == 5
    assert await told(browser, "/api/v1/lessons?limit=2") == whole[:2]
    assert await told(browser, "/api/v1/lessons?limit=2&offset=3") == whole[3:]
    assert await told(browser, "/api/v1/lessons?offset=1&level=6e") == whole[1:2] + whole[3:]
    assert await told(browser, "/api/v1/lessons?offset=9") == []
    assert await told(browser, "/api/v1/lessons?limit=-1&offset=x") == whole  # what is no number is no wish


async def test_a_long_list_keeps_nobody_waiting(browser: Browser, node: NodeInMemory) -> None:
    for number in range(1000):
        node.add(manifest(f"many-{number}"), State.LISTED)
    response = await browser.get("/api/v1/lessons")
    assert isinstance(response.body, StreamBody)
    async with response.body.chunks as chunks:
        sizes = [portion.count(b'"id"') async for portion in chunks]
    assert sum(sizes) == 1005
    assert max(sizes) <= 100


async def test_a_lesson_has_its_fields(browser: Browser, node: NodeInMemory) -> None:
    lesson = await told(browser, "/api/v1/lessons/maths-6e-fractions")
    assert lesson == node.views[LessonId("maths-6e-fractions")].as_json()
    assert {"id", "version", "title", "state", "size", "bytes_have", "peers", "origin_bytes", "peer_bytes"} <= set(
        lesson
    )


async def test_a_withdrawn_lesson_says_so(browser: Browser) -> None:
    lesson = await told(browser, "/api/v1/lessons/histoire-6e-erreur")
    assert (lesson["state"], lesson["reason"]) == ("withdrawn", "Une date est fausse.")


async def test_the_status_is_that_of_the_node(browser: Browser, node: NodeInMemory) -> None:
    assert await told(browser, "/api/v1/status") == node.status().as_json()


async def test_a_reader_on_the_lan_hears_whether_the_node_is_well_and_no_figure(node: NodeInMemory) -> None:
    config = ShimConfig(listen=Endpoint("0.0.0.0", 8470))
    lan = Browser(shim(node, config, built_in(), hostname="salle12", now=lambda: NOW))
    response = await lan.get("/api/v1/status", host="salle12.local:8470")
    assert isinstance(response.body, bytes)
    heard = json.loads(response.body)
    assert heard == node.status().for_readers()
    assert {"version", "catalogues", "lessons", "trouble"} <= heard.keys()
    assert not {key for key in heard if re.search("bytes|readers|refus|mirrors|peers|quota", key)}


@pytest.mark.parametrize(("metrics_on_lan", "withheld"), [(True, 200), (False, 403)])
async def test_for_the_lan_the_status_is_found_out_once_in_a_second_however_often_it_is_asked_for(
    node: NodeInMemory,
    monkeypatch: pytest.MonkeyPatch,
    autojump_clock: MockClock,
    metrics_on_lan: bool,
    withheld: int,
) -> None:
    config = ShimConfig(listen=Endpoint("0.0.0.0", 8470), metrics_on_lan=metrics_on_lan)
    lan = Browser(shim(node, config, built_in(), hostname="salle12", now=lambda: NOW))
    looks: list[float] = []
    status = NodeInMemory.status

    def counted(node: NodeInMemory) -> NodeStatus:
        looks.append(trio.current_time())
        return status(node)

    monkeypatch.setattr(NodeInMemory, "status", counted)
    for _ in range(21):
        for target, status_code in (("/api/v1/status", 200), ("/metrics", withheld), ("/ecole", withheld)):
            assert (await lan.get(target, host="salle12.local:8470")).status == status_code
        await trio.sleep(0.11)
    assert len(looks) == 3


@pytest.mark.parametrize(
    "target", ["/api/v1/nothing", "/api/", "/api/v1/lessons/", "/api/v1/lessons/x/y", "/api/v2/status"]
)
async def test_what_the_api_does_not_have_is_404_in_json(browser: Browser, target: str) -> None:
    response = await browser.get(target, accept="text/html")
    assert response.status == 404
    assert "error" in await told(browser, target)


async def test_the_api_is_neither_kept_nor_shared(browser: Browser) -> None:
    for target in ("/api/v1/lessons", "/api/v1/status", "/api/v1/events"):
        headers = dict((await browser.get(target)).headers)
        assert headers["cache-control"] == "no-store"
        assert headers["cross-origin-resource-policy"] == "same-origin"


async def test_a_page_is_told_of_all_lessons_at_first(browser: Browser, node: NodeInMemory) -> None:
    async with events(browser) as heard:
        first = lessons_in(await anext(heard))
    assert set(first) == {lesson.manifest.id for lesson in node.lessons()}
    assert all(set(lesson) == PROGRESS for lesson in first.values())


async def test_a_page_is_told_what_changes(browser: Browser, node: NodeInMemory) -> None:
    async with events(browser) as heard:
        await anext(heard)
        node.alter("sciences-6e-eau", bytes_have=9_000)
        (news,) = lessons_in(await anext(heard)).values()
        assert [news[name] for name in ("id", "state", "bytes_have")] == ["sciences-6e-eau", "fetching", 9_000]
        node.alter("sciences-6e-eau", state=State.WITHDRAWN)
        assert lessons_in(await anext(heard))["sciences-6e-eau"]["state"] == "withdrawn"


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"obstacle": Obstacle.NOBODY, "reason": "nobody has it"}, {"obstacle": "nobody", "reason": "nobody has it"}),
        ({"origin_bytes": {"alone": 3, "earlier": 4}, "peer_bytes": 5}, {"origin_bytes": 7, "peer_bytes": 5}),
        ({"next_version": 2}, {"next_version": 2}),
        ({"is_offered": False}, {"offered": False}),
    ],
)
async def test_a_page_is_told_what_a_lesson_waits_for_and_where_it_comes_from(
    browser: Browser, node: NodeInMemory, change: dict[str, Any], told: dict[str, Any]
) -> None:
    async with events(browser, "?lessons=sciences-6e-eau") as heard:
        await anext(heard)
        node.alter("sciences-6e-eau", **change)
        news = lessons_in(await anext(heard))["sciences-6e-eau"]
    assert {name: news[name] for name in told} == told


async def test_a_page_is_told_of_the_lessons_that_it_names(browser: Browser, node: NodeInMemory) -> None:
    async with events(browser, "?lessons=sciences-6e-eau,maths-6e-fractions,nothing") as heard:
        first = lessons_in(await anext(heard))
        assert set(first) == {"sciences-6e-eau", "maths-6e-fractions", "nothing"}
        assert first["nothing"] == {"id": "nothing", "state": "gone"}  # it went before the page began to listen
        node.alter("emc-6e-droits", state=State.COMPLETE)
        assert lessons_in(await anext(heard)) == {}
        node.alter("sciences-6e-eau", state=State.WITHDRAWN)
        assert lessons_in(await anext(heard))["sciences-6e-eau"]["state"] == "withdrawn"


@pytest.mark.parametrize("query", ["", "?lessons=sciences-6e-eau"])
async def test_a_page_is_told_of_a_lesson_that_is_gone(browser: Browser, node: NodeInMemory, query: str) -> None:
    async with events(browser, query) as heard:
        assert "sciences-6e-eau" in lessons_in(await anext(heard))
        gone = node.views.pop(LessonId("sciences-6e-eau"))
        node.tell()
        assert lessons_in(await anext(heard)) == {"sciences-6e-eau": {"id": "sciences-6e-eau", "state": "gone"}}
        node.tell()
        assert lessons_in(await anext(heard)) == {}
        node.views[LessonId("sciences-6e-eau")] = gone  # it may come back
        node.tell()
        assert lessons_in(await anext(heard))["sciences-6e-eau"]["state"] == "fetching"


async def test_a_change_while_an_event_is_sent_is_not_lost(browser: Browser, node: NodeInMemory) -> None:
    async with events(browser) as heard:
        await anext(heard)  # the page is slow to take this one
        await wait_all_tasks_blocked()
        node.alter("sciences-6e-eau", bytes_have=9_000)
        await wait_all_tasks_blocked()
        node.alter("sciences-6e-eau", state=State.COMPLETE)
        await wait_all_tasks_blocked()
        assert lessons_in(await anext(heard))["sciences-6e-eau"]["state"] == "complete"


async def test_a_quiet_stream_shows_that_it_lives(browser: Browser, autojump_clock: MockClock) -> None:
    async with events(browser) as heard:
        await anext(heard)
        start = trio.current_time()
        assert await anext(heard) == b": still here\n\n"
        assert trio.current_time() - start == pytest.approx(15)


async def test_a_head_of_the_events_opens_nothing(browser: Browser) -> None:
    response: Response = await browser.get("/api/v1/events", method="HEAD")
    assert isinstance(response.body, StreamBody)
