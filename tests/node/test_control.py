from __future__ import annotations

import contextlib
import json
import stat
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio

from edgeshare import host
from edgeshare.control import SOCKET, ask, serve_control
from edgeshare.errors import LibraryError
from edgeshare.manifest import LessonId
from edgeshare.view import State
from tests.shim.conftest import NodeInMemory, manifest

LESSON = "maths-6e-fractions"


class WantingNode(NodeInMemory):
    """A node in memory that also takes wishes."""

    wanted: tuple[LessonId, ...] = ()

    async def want(self, lesson: LessonId) -> None:
        if lesson not in self.views:
            raise LibraryError(f"no catalogue here lists the lesson {lesson}", hint="did you mean another?")
        self.wanted += (lesson,)


@pytest.fixture
def node() -> WantingNode:
    node = WantingNode()
    node.add(manifest(LESSON, size=1000), State.FETCHING, bytes_have=100)
    node.add(manifest("anglais-5e-school", levels=("5e",)), State.LISTED)
    return node


@asynccontextmanager
async def answering(node: NodeInMemory, library: Path) -> AsyncGenerator[Path, None]:
    async with trio.open_nursery() as nursery:
        await nursery.start(serve_control, node, library)
        with trio.fail_after(10):
            yield library
        nursery.cancel_scope.cancel()


async def answers(library: Path, request: dict[str, Any]) -> list[dict[str, Any]]:
    async with contextlib.aclosing(ask(library, request)) as given:
        return [answer async for answer in given]


async def raw(library: Path, request: bytes) -> list[dict[str, Any]]:
    """What comes back for bytes that no `ask` would send."""
    async with await host.connect_locally(library / SOCKET) as stream:
        await stream.send_all(request)
        await stream.send_eof()
        received = b"".join([portion async for portion in stream])
    return [json.loads(line) for line in received.splitlines()]


async def test_the_status_is_one_answer(node: WantingNode, tmp_path: Path) -> None:
    async with answering(node, tmp_path) as library:
        (status,) = await answers(library, {"do": "status"})
        assert status == node.status().as_json()


async def test_lessons_are_one_answer_each_and_may_be_of_one_level(node: WantingNode, tmp_path: Path) -> None:
    async with answering(node, tmp_path) as library:
        assert len(await answers(library, {"do": "lessons"})) == 2
        (lesson,) = await answers(library, {"do": "lessons", "level": "5e"})
        assert lesson["id"] == "anglais-5e-school"
        assert await answers(library, {"do": "lessons", "level": "3e"}) == []


async def test_a_wish_is_followed_until_it_is_complete(node: WantingNode, tmp_path: Path) -> None:
    async with answering(node, tmp_path) as library:
        seen = []
        async with contextlib.aclosing(ask(library, {"do": "get", "lesson": LESSON})) as given:
            async for answer in given:
                seen.append((answer["state"], answer["bytes_have"]))
                if answer["bytes_have"] == 100:
                    node.alter(LESSON, bytes_have=500)
                elif answer["bytes_have"] == 500:
                    node.alter(LESSON, state=State.COMPLETE, bytes_have=1000)
        assert seen == [("fetching", 100), ("fetching", 500), ("complete", 1000)]
        assert node.wanted == (LESSON,)


@pytest.mark.parametrize("state", [State.FAILED, State.WITHDRAWN])
async def test_a_wish_that_cannot_come_true_now_is_not_waited_for(
    node: WantingNode, tmp_path: Path, state: State
) -> None:
    node.alter(LESSON, state=state, reason="the disk is full")
    async with answering(node, tmp_path) as library:
        (last,) = await answers(library, {"do": "get", "lesson": LESSON})
        assert (last["state"], last["reason"]) == (state.value, "the disk is full")


async def test_a_lesson_that_may_not_be_shown_yet_is_said_to_be_so(node: WantingNode, tmp_path: Path) -> None:
    node.lesson = lambda lesson: None  # type: ignore[method-assign]  # as the keeper answers before its day
    async with answering(node, tmp_path) as library:
        with pytest.raises(LibraryError, match=f"{LESSON} is not to be shown yet"):
            await answers(library, {"do": "get", "lesson": LESSON})


async def test_what_the_daemon_cannot_do_is_an_error_of_the_one_who_asked(node: WantingNode, tmp_path: Path) -> None:
    async with answering(node, tmp_path) as library:
        with pytest.raises(LibraryError, match="no catalogue here lists the lesson maths: did you mean another"):
            await answers(library, {"do": "get", "lesson": "maths"})
        with pytest.raises(LibraryError, match="'Maths 6e' is not a lesson id: use 1 to 63 of"):
            await answers(library, {"do": "get", "lesson": "Maths 6e"})
        with pytest.raises(LibraryError, match="this daemon does not know the request: is it of another version"):
            await answers(library, {"do": "dance"})


@pytest.mark.parametrize(
    "request_line",
    [
        b"dance\n",
        b"\xff\xfe\n",
        b"[" * 60_000 + b"\n",
        b'{"do": "status"} {"do": "status"}\n',
        b"null\n",
        b"[]\n",
        b"\n",
    ],
)
async def test_what_is_no_request_is_refused_and_the_next_is_answered(
    node: WantingNode, tmp_path: Path, request_line: bytes
) -> None:
    async with answering(node, tmp_path) as library:
        (answer,) = await raw(library, request_line)
        assert answer["end"]
        assert answer["error"]
        assert len(await answers(library, {"do": "status"})) == 1


@pytest.mark.parametrize("request_line", [b"", b'{"do": "sta', b"x" * 200_000])
async def test_a_request_without_an_end_gets_no_answer(node: WantingNode, tmp_path: Path, request_line: bytes) -> None:
    async with answering(node, tmp_path) as library:
        with contextlib.suppress(trio.BrokenResourceError):
            assert await raw(library, request_line) == []
        assert len(await answers(library, {"do": "status"})) == 1


async def test_a_request_that_is_too_long_is_not_read_to_its_end(node: WantingNode, tmp_path: Path) -> None:
    async with answering(node, tmp_path) as library, await host.connect_locally(library / SOCKET) as stream:
        with contextlib.suppress(trio.BrokenResourceError):
            await stream.send_all(b"x" * 200_000)
            assert await stream.receive_some(1) == b""


async def test_who_leaves_in_the_middle_costs_nobody_anything(node: WantingNode, tmp_path: Path) -> None:
    async with answering(node, tmp_path) as library:
        async with await host.connect_locally(library / SOCKET) as stream:
            await stream.send_all(b'{"do": "get", "lesson": "%s"}\n' % LESSON.encode())
            assert await stream.receive_some(10)
        for bytes_have in range(200, 400):
            node.alter(LESSON, bytes_have=bytes_have)
            await trio.lowlevel.checkpoint()
        assert len(await answers(library, {"do": "status"})) == 1


async def test_only_the_owner_can_open_the_socket_and_it_goes_with_the_daemon(
    node: WantingNode, tmp_path: Path
) -> None:
    async with answering(node, tmp_path) as library:
        assert stat.S_IMODE((library / SOCKET).stat().st_mode) == 0o600
    assert not (tmp_path / SOCKET).exists()


async def test_a_library_with_a_long_name_has_a_socket_too(node: WantingNode, tmp_path: Path) -> None:
    library = tmp_path / ("l" * 150)
    library.mkdir()
    async with answering(node, library):
        assert len(await answers(library, {"do": "status"})) == 1


@pytest.mark.parametrize("is_left_over", [False, True])
async def test_without_a_daemon_the_error_says_how_to_start_one(
    node: WantingNode, tmp_path: Path, is_left_over: bool
) -> None:
    if is_left_over:  # as after a kill
        (await trio.to_thread.run_sync(lambda: host.listen_locally(tmp_path / SOCKET))).socket.close()
    with pytest.raises(
        LibraryError, match=f"no daemon runs on the library {tmp_path}: start one with `edgeshare run --config FILE`"
    ):
        await answers(tmp_path, {"do": "status"})
    async with answering(node, tmp_path):
        assert len(await answers(tmp_path, {"do": "status"})) == 1


async def test_a_daemon_that_dies_before_it_reads_is_an_error(tmp_path: Path) -> None:
    listener = host.listen_locally(tmp_path / SOCKET)
    async with listener, trio.open_nursery() as nursery:

        async def die() -> None:
            await (await listener.accept()).aclose()

        nursery.start_soon(die)
        with pytest.raises(LibraryError, match=f"the daemon of {tmp_path} stopped before it had answered: see its log"):
            await answers(tmp_path, {"do": "status"})


async def test_a_daemon_that_stops_in_the_middle_is_an_error(node: WantingNode, tmp_path: Path) -> None:
    async with trio.open_nursery() as nursery:
        await nursery.start(serve_control, node, tmp_path)
        async with contextlib.aclosing(ask(tmp_path, {"do": "get", "lesson": LESSON})) as given:
            assert (await anext(given))["state"] == "fetching"
            nursery.cancel_scope.cancel()
            stopped = pytest.raises(LibraryError, match=f"the daemon of {tmp_path} stopped before it had answered: see")
            with trio.CancelScope(shield=True), stopped:
                await anext(given)
    assert not (tmp_path / SOCKET).exists()
