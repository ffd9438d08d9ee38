from __future__ import annotations

from pathlib import Path

import pytest
import trio

from edgeshare.swarm.joining import Joining
from edgeshare.swarm.session import Helpers, Swarm
from edgeshare.swarm.torrent import Torrent
from tests.support.content import PIECE, Content, at, content, hold, node, noise
from tests.support.server import Tracker, always, reply, serving


async def meet(swarm: Joining | Torrent) -> None:
    while not await swarm.neighbours():
        await trio.sleep(0.02)


@pytest.mark.whole
async def test_who_has_met_stays_together_between_the_metadata_and_the_first_piece(tmp_path: Path) -> None:
    lesson = content({"a": noise(3 * PIECE)})
    with trio.fail_after(30):
        async with (
            node("127.0.0.2") as one,
            node("127.0.0.3") as other,
            one.joining(lesson.info_hash, Helpers(), tmp_path / "1") as first,
            other.joining(lesson.info_hash, Helpers(peers=(at(one),)), tmp_path / "2") as second,
        ):
            await meet(first)
            (met,) = await second.neighbours()
            first.give(lesson.info)
            await first.metadata()
            await second.metadata()
            await trio.sleep(2.0)  # libtorrent looks for connections of no use every second
            assert [each.key for each in await second.neighbours()] == [met.key]


async def fetched(lesson: Content, one: Swarm, other: Swarm, folder: Path) -> Torrent:
    """The torrent of `other`, which has just got a content from `one`."""
    await hold(one, lesson, lesson.write(folder / "one"))
    torrent = await hold(other, lesson, folder / "other", at(one))
    await torrent.until(lambda: torrent.is_finished)
    return torrent


@pytest.mark.whole
async def test_seeds_stay_connected_as_long_as_anything_is_joined_and_part_otherwise(tmp_path: Path) -> None:
    joined = [content({"joined": noise(PIECE, number)}).info_hash for number in range(2)]
    with trio.fail_after(30):
        async with node("127.0.0.2") as one, node("127.0.0.3") as other:
            async with (
                one.joining(joined[0], Helpers(), tmp_path),
                other.joining(joined[0], Helpers(), tmp_path),
            ):
                async with one.joining(joined[1], Helpers(), tmp_path), other.joining(joined[1], Helpers(), tmp_path):
                    pass  # one of two that are joined is over
                torrent = await fetched(content({"a": noise(9 * PIECE)}), one, other, tmp_path / "during")
                await trio.sleep(1.5)  # libtorrent looks for connections of no use every second
                assert len(await torrent.neighbours()) == 1
            torrent = await fetched(content({"b": noise(9 * PIECE)}), one, other, tmp_path / "after")
            while await torrent.neighbours():
                await trio.sleep(0.05)


@pytest.mark.whole
async def test_seeds_part_although_something_is_joined_whose_metadata_nobody_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edgeshare.swarm.session.MEET_WITHIN_S", 0.5)
    nobodys = content({"joined": noise(PIECE, 3)}).info_hash
    with trio.fail_after(30):
        async with (
            node("127.0.0.2") as one,
            node("127.0.0.3") as other,
            one.joining(nobodys, Helpers(), tmp_path),
            other.joining(nobodys, Helpers(), tmp_path),
        ):
            await trio.sleep(2.0)
            torrent = await fetched(content({"a": noise(9 * PIECE)}), one, other, tmp_path)
            while await torrent.neighbours():
                await trio.sleep(0.05)


async def test_the_swarms_size_is_the_trackers_count_as_soon_as_it_answers(tmp_path: Path) -> None:
    lesson = content({"a": noise(PIECE)})
    with trio.fail_after(30):
        async with serving(Tracker(96)) as asked, node(tuning={"stop_tracker_timeout": 0}) as swarm:
            helpers = Helpers(trackers=(f"{asked.url}announce",))
            async with swarm.joining(lesson.info_hash, helpers, tmp_path) as joining:
                began_s = trio.current_time()
                while joining.progress is None or joining.progress.tracker is None:
                    await trio.sleep(0.01)
                assert joining.progress.tracker == 96
                assert trio.current_time() - began_s < 0.8  # sooner than the next report of progress


async def test_a_swarm_is_counted_anew_when_that_is_asked_for(tmp_path: Path) -> None:
    lesson = content({"a": noise(PIECE)})
    with trio.fail_after(30):
        async with serving(Tracker(3)) as asked, node(tuning={"stop_tracker_timeout": 0}) as swarm:
            helpers = Helpers(trackers=(f"{asked.url}announce",))
            torrent = await swarm.add(lesson.info_hash, lesson.info, lesson.layout, tmp_path, helpers)
            await torrent.until(lambda: torrent.progress is not None and torrent.progress.tracker == 3)
            for _ in range(2):
                before = len(asked.asked)
                torrent.recount()
                assert not torrent.is_counted_anew
                await torrent.until(lambda: torrent.is_counted_anew)
                while len(asked.asked) == before:  # the answer may be that to the announce before
                    await trio.sleep(0.01)


@pytest.mark.whole
async def test_a_tracker_that_is_silent_or_refuses_counts_nobody(tmp_path: Path) -> None:
    lesson = content({"a": noise(PIECE)})
    with trio.fail_after(30):
        async with (
            serving(always(reply(200, b"d14:failure reason2:noe"))) as asked,
            node(tuning={"stop_tracker_timeout": 0}) as swarm,
            swarm.joining(lesson.info_hash, Helpers(trackers=(f"{asked.url}announce",)), tmp_path) as joining,
        ):
            while not asked.asked or joining.progress is None:
                await trio.sleep(0.01)
            await trio.sleep(1.2)  # its answer, and the next report
            assert joining.progress.tracker is None
