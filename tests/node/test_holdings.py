from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio
import trio.testing

from edgeshare import holdings
from edgeshare.errors import LibraryError
from edgeshare.holding import Holding
from edgeshare.holdings import Holdings
from edgeshare.library.index import StoredTorrent
from edgeshare.manifest import InfoHash
from edgeshare.parts import Parts
from edgeshare.swarm.session import Helpers
from tests.support.content import Content, content, noise
from tests.support.node import QUICK, Origin, complete, expected, parts

LESSONS = tuple(content({"a": noise(100, seed)}) for seed in range(5))


@asynccontextmanager
async def held(node: Parts, *things: Content) -> AsyncIterator[Holdings]:
    """A node's holdings of these contents."""

    async def attend(_: Holding) -> None:
        await trio.lowlevel.checkpoint()

    async with trio.open_nursery() as nursery:
        all_of_them = Holdings(node, attend)
        await all_of_them.open(nursery)
        for thing in things:
            all_of_them.hold(expected(thing), Helpers())
        yield all_of_them
        nursery.cancel_scope.cancel()


async def fetched(library: Path) -> None:
    """Have a library hold all of the lessons."""
    async with parts(library, Origin(*LESSONS)) as node, held(node, *LESSONS) as mine:
        for holding in mine:
            await complete(holding)


@pytest.fixture
def one_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(holdings, "AT_A_TIME", 1)


@pytest.mark.usefixtures("one_at_a_time")
async def test_after_a_start_what_was_complete_is_begun_in_turn_and_all_of_it(tmp_path: Path) -> None:
    with trio.fail_after(30):
        await fetched(tmp_path)
        async with parts(tmp_path) as node, held(node, *LESSONS) as mine:
            last = mine.get(LESSONS[-1].info_hash)
            assert last
            await mine_first(mine).begun()
            assert last.torrent is None
            for holding in mine:
                await complete(holding)


@pytest.mark.usefixtures("one_at_a_time")
async def test_what_somebody_reads_does_not_wait_for_its_turn(tmp_path: Path) -> None:
    with trio.fail_after(30):
        await fetched(tmp_path)
        async with parts(tmp_path) as node, held(node, *LESSONS) as mine:
            last, others = mine.get(LESSONS[-1].info_hash), list(mine)[1:-1]
            assert last
            layout = await last.ready()
            assert all(holding.layout is None for holding in others)
            async with aclosing(last.stream(layout.files[0], 0, 100)) as portions:
                assert b"".join([portion async for portion in portions]) == LESSONS[-1].files["a"]


async def at_rest(mine: Holdings) -> None:
    """Wait until everything is."""
    for holding in mine:
        await holding.until(lambda: holding.is_at_rest)  # noqa: B023 - awaited here


async def test_what_is_complete_has_no_task_of_its_own(tmp_path: Path) -> None:
    with trio.fail_after(30):
        tasks = []
        for number, lessons in enumerate((LESSONS[:1], LESSONS)):
            async with parts(tmp_path / str(number), Origin(*LESSONS)) as node, held(node, *lessons) as mine:
                await at_rest(mine)
                await trio.testing.wait_all_tasks_blocked()
                tasks.append(trio.lowlevel.current_statistics().tasks_living)
        assert tasks[0] == tasks[1]


async def test_what_is_at_rest_is_mended_whenever_it_is_harmed(tmp_path: Path) -> None:
    pace = attrs.evolve(QUICK, look_every_s=0.1)
    with trio.fail_after(30):
        async with parts(tmp_path, Origin(*LESSONS), pace=pace) as node, held(node, *LESSONS) as mine:
            await at_rest(mine)
            lesson = LESSONS[1]
            holding = mine.get(lesson.info_hash)
            assert holding
            for _ in range(2):
                (node.library.folder(lesson.info_hash) / "a").write_bytes(b"something else")
                await holding.until(lambda: not holding.is_complete)
                await at_rest(mine)
                assert lesson.is_at(node.library.folder(lesson.info_hash))


async def test_what_is_harmed_in_the_moment_in_which_it_comes_to_rest_is_mended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keep_telling = Holdings._keep_telling
    harmed: list[Holding] = []

    async def harm_at_the_end(self: Holdings, holding: Holding, life: Any) -> None:
        try:
            await keep_telling(self, holding, life)
        finally:
            if not harmed and holding.is_at_rest:
                harmed.append(holding)
                (node.library.folder(holding.info_hash) / "a").write_bytes(b"harm")
                holding.distrust("a file")

    monkeypatch.setattr(Holdings, "_keep_telling", harm_at_the_end)
    with trio.fail_after(30):
        async with parts(tmp_path, Origin(*LESSONS)) as node, held(node, LESSONS[0]) as mine:
            holding = mine.get(LESSONS[0].info_hash)
            assert holding
            while not harmed:
                await trio.sleep(0.01)
            await holding.until(lambda: holding.is_at_rest)
            assert (node.library.folder(holding.info_hash) / "a").read_bytes() == LESSONS[0].files["a"]


async def test_an_index_that_lost_what_is_at_rest_knows_it_again_with_all_that_a_start_needs(tmp_path: Path) -> None:
    with trio.fail_after(30):
        async with parts(tmp_path, Origin(*LESSONS)) as node, held(node, *LESSONS) as mine:
            await at_rest(mine)
            before = {each.info_hash: each for each in await node.library.torrents()}
            for lesson in LESSONS:
                await node.library._index.write(lambda index: index.drop_torrent(lesson.info_hash))  # noqa: B023
            await mine.keep_anew()
            after = {each.info_hash: each for each in await node.library.torrents()}
        assert after.keys() == before.keys()
        for info_hash, each in after.items():
            assert attrs.evolve(each, resume=None) == attrs.evolve(before[info_hash], resume=None)
        origin = Origin()
        async with parts(tmp_path, origin) as node, held(node, *LESSONS) as mine:
            await at_rest(mine)
            assert origin.asked == []


async def test_what_the_index_refused_is_offered_to_it_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pace = attrs.evolve(QUICK, look_every_s=0.1)
    with trio.fail_after(30):
        async with parts(tmp_path, Origin(*LESSONS), pace=pace) as node, held(node) as mine:
            keep = node.library.keep_torrent

            async def refuse(stored: StoredTorrent) -> None:
                await trio.lowlevel.checkpoint()
                raise LibraryError("the index is full")

            monkeypatch.setattr(node.library, "keep_torrent", refuse)
            mine.hold(expected(LESSONS[0]), Helpers())
            await at_rest(mine)
            assert await node.library.torrents() == []
            monkeypatch.setattr(node.library, "keep_torrent", keep)
            while not (known := await node.library.torrents()):
                await trio.sleep(0.05)
            assert known[0].stamps is not None


async def test_what_waits_for_its_turn_can_be_dropped(tmp_path: Path) -> None:
    with trio.fail_after(30):
        await fetched(tmp_path)
        async with parts(tmp_path) as node, held(node, *LESSONS) as mine:
            await mine.drop_all_but(lambda: {LESSONS[0].info_hash})
            assert [path.name for path in (tmp_path / "content").iterdir()] == [LESSONS[0].info_hash.hex()]
            await complete(mine_first(mine))


def mine_first(mine: Holdings) -> Holding:
    """The holding of the first of the lessons."""
    found = mine.get(LESSONS[0].info_hash)
    assert found
    return found


async def test_what_is_wanted_again_while_it_is_deleted_is_begun_when_that_is_over(tmp_path: Path) -> None:
    lesson = LESSONS[0]
    with trio.fail_after(30):
        async with parts(tmp_path, Origin(lesson)) as node, held(node, lesson) as mine:
            await complete(mine_first(mine))
            async with trio.open_nursery() as nursery:
                nursery.start_soon(mine.drop_all_but, set)
                while mine.get(lesson.info_hash) is not None:
                    await trio.lowlevel.checkpoint()
                again = mine.hold(expected(lesson), Helpers())
            await complete(again)
            assert lesson.is_at(node.library.folder(lesson.info_hash))


async def test_what_is_needed_again_while_others_are_deleted_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with trio.fail_after(30):
        async with parts(tmp_path, Origin(*LESSONS)) as node, held(node, *LESSONS) as mine:
            for holding in mine:
                await complete(holding)
            needed: set[InfoHash] = set()
            drop_torrent = node.library.drop_torrent

            async def slowly(info_hash: InfoHash) -> None:
                needed.update(each.info_hash for each in mine)  # somebody opens all the others meanwhile
                await drop_torrent(info_hash)

            monkeypatch.setattr(node.library, "drop_torrent", slowly)
            await mine.drop_all_but(lambda: needed)
            assert len(list(mine)) == len(LESSONS) - 1
            assert all(holding.is_complete for holding in mine)
