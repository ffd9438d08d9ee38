"""What a node keeps when there is no room for all of it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio

from edgeshare import host
from edgeshare.config import CatalogueName, Size
from edgeshare.errors import LibraryError
from edgeshare.keeper import AT_ONCE
from edgeshare.library.eviction import QuotaError
from edgeshare.library.index import StoredLesson
from edgeshare.manifest import LessonId
from edgeshare.view import Obstacle, State
from tests.support.content import PIECE, Content, content, noise
from tests.support.keeping import FRACTIONS, Desk, Node, keeping
from tests.support.node import Origin

VIDEO, GAME, TEXT = LessonId("video"), LessonId("game"), LessonId("text")
SHOWN: dict[str, Any] = {"follow": (), "show": (CatalogueName("cned/6e"),)}
SPARE = 10_000  # for the catalogue, which counts too


def lesson(seed: int, pieces: int = 4, **more: bytes) -> Content:
    """A lesson of so many pieces in one file."""
    return content({"index.html": noise(pieces * PIECE, seed), **more})


def quota(pieces: int) -> Size:
    return Size(pieces * PIECE + SPARE)


async def read_whole(node: Node, name: LessonId) -> None:
    """Read a lesson, and wait until all of it is here."""
    await node.text(lesson=name)
    await node.until(State.COMPLETE, name)


async def test_a_lesson_larger_than_the_quota_is_refused_with_its_size_and_the_quota(tmp_path: Path) -> None:
    origin = Origin()
    desk = Desk(origin)
    with trio.fail_after(30):
        async with keeping(tmp_path / "node", origin, quota=Size(PIECE)) as node:
            await node.keeper.admit(desk.edition(desk.publish(lesson(1))))
            view = node.keeper.display.lesson(FRACTIONS)
            assert view
            assert (view.state, view.bytes_have) == (State.FAILED, 0)
            assert view.reason
            assert view.reason.startswith("fractions needs 64.0 KiB, the quota is 16.0 KiB: raise `quota`")
            for refused in (node.keeper.want(FRACTIONS), node.keeper.pin(FRACTIONS), node.text()):
                with pytest.raises(QuotaError, match=r"the quota is 16\.0 KiB"):
                    await refused
            assert not any(path.startswith(f"content/{view.manifest.info_hash.hex()}") for path, _ in origin.asked)


async def test_followed_lessons_do_not_drive_out_one_another(tmp_path: Path) -> None:
    origin = Origin()
    desk = Desk(origin)
    with trio.fail_after(30):
        async with keeping(tmp_path / "node", origin, quota=quota(9)) as node:
            listed = [desk.publish(lesson(n), str(name)) for n, name in enumerate((VIDEO, GAME, TEXT))]
            await node.keeper.admit(desk.edition(*listed))
            while node.keeper.display.states()[State.COMPLETE] < 2:
                await node.keeper.change()
            (view,) = (each for each in node.keeper.display.lessons() if each.state is not State.COMPLETE)
            assert (view.state, view.obstacle) == (State.WAITING, Obstacle.ROOM)
            assert view.reason
            assert f"{view.manifest.id} needs 64.0 KiB, the quota is" in view.reason
            assert node.keeper.used_bytes <= quota(9)


async def test_what_a_reader_opens_takes_the_place_of_what_was_only_opened_before(tmp_path: Path) -> None:
    origin = Origin()
    desk = Desk(origin)
    one, other = lesson(1), lesson(2)
    with trio.fail_after(30):
        async with keeping(tmp_path / "node", origin, quota=quota(6), **SHOWN) as node:
            await node.keeper.admit(desk.edition(desk.publish(one, "video"), desk.publish(other, "game")))
            await read_whole(node, VIDEO)
            await read_whole(node, GAME)
            await node.until(State.LISTED, VIDEO)
            await node.until_gone(one)
            assert other.info_hash.hex() in node.contents()
            await read_whole(node, VIDEO)  # and comes back when somebody asks
            await node.until_gone(other)
        async with keeping(tmp_path / "node", origin, quota=quota(6), **SHOWN) as node:
            await node.until(State.COMPLETE, VIDEO)
            await node.until(State.LISTED, GAME)


async def test_a_pinned_lesson_stays_whatever_needs_room_through_restarts_until_it_is_unpinned(tmp_path: Path) -> None:
    origin = Origin()
    desk = Desk(origin)
    with trio.fail_after(30):
        async with keeping(tmp_path / "node", origin, quota=quota(6), **SHOWN) as node:
            await node.keeper.admit(desk.edition(desk.publish(lesson(1), "video"), desk.publish(lesson(2), "game")))
            await node.keeper.pin(VIDEO)
            await node.until(State.COMPLETE, VIDEO)
        async with keeping(tmp_path / "node", origin, quota=quota(6), **SHOWN) as node:
            view = node.keeper.display.lesson(VIDEO)
            assert view
            assert view.is_pinned
            with pytest.raises(QuotaError, match="`edgeshare unpin` a lesson"):
                await node.text(lesson=GAME)
            await node.keeper.unpin(VIDEO)
            with pytest.raises(LibraryError, match="video is not pinned"):
                await node.keeper.unpin(VIDEO)
            await read_whole(node, GAME)
            await node.until(State.LISTED, VIDEO)


async def test_what_somebody_reads_stays_until_he_has_left(tmp_path: Path) -> None:
    origin = Origin()
    desk = Desk(origin)
    with trio.fail_after(30):
        async with keeping(tmp_path / "node", origin, quota=quota(6), **SHOWN) as node:
            await node.keeper.admit(desk.edition(desk.publish(lesson(1), "video"), desk.publish(lesson(2), "game")))
            async with node.keeper.read(VIDEO):
                await node.until(State.COMPLETE, VIDEO)
                with pytest.raises(QuotaError):
                    await node.text(lesson=GAME)
            await read_whole(node, GAME)


async def test_a_quota_that_was_lowered_holds_from_the_next_start(tmp_path: Path) -> None:
    origin = Origin()
    desk = Desk(origin)
    listed = [desk.publish(lesson(n), str(name)) for n, name in enumerate((VIDEO, GAME, TEXT))]
    with trio.fail_after(30):
        async with keeping(tmp_path / "node", origin) as node:
            await node.keeper.admit(desk.edition(*listed))
            for name in (VIDEO, GAME, TEXT):
                await node.until(State.COMPLETE, name)
            await node.keeper.pin(TEXT)
        async with keeping(tmp_path / "node", origin, quota=quota(7)) as node:
            await node.until(State.COMPLETE, TEXT)
            assert node.keeper.display.states() == {State.COMPLETE: 1, State.WAITING: 2}
            assert node.keeper.used_bytes <= quota(7)


async def test_a_disk_without_the_room_that_is_to_stay_free_takes_no_new_lesson(tmp_path: Path) -> None:
    origin = Origin()
    desk = Desk(origin)
    with trio.fail_after(30):
        async with keeping(tmp_path / "node", origin, keep_free=Size(2**60)) as node:
            edition = desk.edition(desk.publish(lesson(1)))
            await node.keeper.admit(edition)  # a catalogue is small, and withdrawals come with it
            view = node.keeper.display.lesson(FRACTIONS)
            assert view
            assert (view.state, view.obstacle) == (State.WAITING, Obstacle.ROOM)
            assert view.reason
            assert "are to stay free" in view.reason


async def test_a_new_version_takes_unchanged_files_from_the_one_before(tmp_path: Path) -> None:
    origin = Origin()
    desk = Desk(origin)
    same = noise(8 * PIECE, 7)
    old = content({"index.html": noise(PIECE, 1), "film.mp4": same})
    new = content({"index.html": noise(PIECE, 2), "media/film.mp4": same})
    with trio.fail_after(30):
        async with keeping(tmp_path / "node", origin) as node:
            await node.keeper.admit(desk.edition(desk.publish(old)))
            await node.until(State.COMPLETE)
            before = origin.sent
            following = desk.edition(desk.publish(new, version=2), number=2)
            async with node.keeper.read(FRACTIONS) as opened:
                await node.keeper.admit(following)
                await node.until(State.COMPLETE, version=2)
                entry = opened.file("film.mp4")
                assert entry
                assert opened.descriptor(entry) is not None  # the reader of the old version goes on
            assert origin.sent - before < 3 * PIECE  # the page, and the catalogue
            assert await node.text("media/film.mp4") == same
            await node.until_gone(old)


async def test_an_expired_lesson_is_not_shown_and_goes_first_when_room_is_needed(tmp_path: Path) -> None:
    origin = Origin()
    desk = Desk(origin)
    tomorrow = datetime.now(UTC) + timedelta(days=1)
    with trio.fail_after(30):
        async with keeping(tmp_path / "node", origin, quota=quota(6)) as node:
            over = desk.publish(lesson(1), "video", expires=tomorrow)
            await node.keeper.admit(desk.edition(over))
            await node.until(State.COMPLETE, VIDEO)
            assert node.keeper.display.lesson(VIDEO)
            node.later(days=2)
            assert node.keeper.display.lessons() == ()
            assert node.keeper.display.lesson(VIDEO) is None
            await node.keeper.admit(desk.edition(over, desk.publish(lesson(2), "game"), number=2))
            await node.until(State.COMPLETE, GAME)


async def test_lessons_that_are_needed_are_told_with_how_many_of_them_are_here(tmp_path: Path) -> None:
    origin = Origin()
    desk = Desk(origin)
    eight = datetime.now(UTC).replace(microsecond=0) + timedelta(hours=20)
    with trio.fail_after(30):
        async with keeping(tmp_path / "node", origin) as node:
            here, away = desk.publish(lesson(1), "video", needed_at=eight), lesson(2)
            origin.unknown = {away.info_hash.hex()}
            later = desk.publish(lesson(3), "text", needed_at=eight + timedelta(days=9))
            await node.keeper.admit(desk.edition(here, desk.sign(away, "game", needed_at=eight), later))
            await node.until(State.COMPLETE, VIDEO)
            (need,) = node.keeper.display.needs()
            assert attrs.astuple(need) == (eight, 2, 1)
            node.later(days=2)
            assert node.keeper.display.needs() == ()


async def test_what_is_here_stays_at_a_start_on_a_disk_that_is_nearly_full(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    origin = Origin()
    desk = Desk(origin)
    listed = [desk.publish(lesson(n), str(name)) for n, name in enumerate((VIDEO, GAME))]
    with trio.fail_after(30):
        async with keeping(tmp_path / "node", origin, **SHOWN) as node:
            await node.keeper.admit(desk.edition(*listed))
            await read_whole(node, VIDEO)
            await read_whole(node, GAME)
        monkeypatch.setattr(host, "free_space", lambda _: 6 * PIECE)  # less than what is here, which takes none of it
        async with keeping(tmp_path / "node", origin, keep_free=Size(0), **SHOWN) as node:
            await node.until(State.COMPLETE, VIDEO)
            await node.until(State.COMPLETE, GAME)


@pytest.mark.whole
async def test_no_more_is_begun_than_leaves_free_what_is_to_stay_free(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    origin = Origin()
    desk = Desk(origin)
    files = tmp_path / "node" / "content"

    def free(_: Path) -> int:
        taken = sum(path.stat().st_blocks * 512 for path in files.rglob("*") if path.is_file()) if files.exists() else 0
        return 64 * PIECE - taken

    monkeypatch.setattr(host, "free_space", free)
    keep_free = Size(16 * PIECE)
    with trio.fail_after(30):
        async with keeping(tmp_path / "node", origin, keep_free=keep_free) as node:
            await node.keeper.admit(desk.edition(*(desk.publish(lesson(n, 2), f"lesson-{n}") for n in range(40))))
            while node.keeper.is_busy or not node.keeper.roll.short:
                await node.keeper.change()
            assert node.keeper.display.states()[State.COMPLETE] > AT_ONCE  # so some were begun when others were done
            assert free(files) >= keep_free


async def test_what_somebody_read_a_moment_ago_does_not_go_for_what_is_only_followed(tmp_path: Path) -> None:
    origin = Origin()
    desk = Desk(origin)
    opened = content({"index.html": noise(100, 5), "film.mp4": noise(3 * PIECE, 6)})
    with trio.fail_after(30):
        catalogues: dict[str, Any] = {"follow": (CatalogueName("cned/6e"),), "show": (CatalogueName("cned/5e"),)}
        async with keeping(tmp_path / "node", origin, quota=quota(6), **catalogues) as node:
            await node.keeper.admit(desk.edition(desk.publish(lesson(1), "video")))
            await node.until(State.COMPLETE, VIDEO)
            await node.keeper.admit(desk.edition(desk.publish(opened, "game", levels=("5e",)), level="5e"))
            await read_whole(node, GAME)
            await node.until(State.WAITING, VIDEO)
            before = origin.sent
            assert await node.text("film.mp4", GAME) == opened.files["film.mp4"]
            assert (await state(node, GAME), origin.sent) == (State.COMPLETE, before)


async def test_on_a_full_quota_the_next_version_still_takes_the_place_of_the_one_before(tmp_path: Path) -> None:
    origin = Origin()
    desk = Desk(origin)
    with trio.fail_after(30):
        async with keeping(tmp_path / "node", origin, quota=quota(9)) as node:
            video, game = desk.publish(lesson(1), "video"), desk.publish(lesson(2), "game")
            await node.keeper.admit(desk.edition(video, game))
            await node.until(State.COMPLETE, VIDEO)
            await node.until(State.COMPLETE, GAME)
            following = desk.publish(lesson(3), "video", version=2)
            await node.keeper.admit(desk.edition(following, game, number=2))
            await node.until(State.COMPLETE, VIDEO, version=2)
            assert await state(node, GAME) is State.COMPLETE
            while node.keeper.used_bytes > quota(9):  # the one before goes in a moment
                await node.keeper.change()


async def test_a_next_version_for_which_there_is_no_room_is_told_with_the_one_that_is_read(tmp_path: Path) -> None:
    origin = Origin()
    desk = Desk(origin)
    with trio.fail_after(30):
        async with keeping(tmp_path / "node", origin, quota=quota(5)) as node:
            await node.keeper.admit(desk.edition(desk.publish(lesson(1), "video")))
            await node.until(State.COMPLETE, VIDEO)
            await node.keeper.admit(desk.edition(desk.publish(lesson(2, 12), "video", version=2), number=2))
            view = node.keeper.display.lesson(VIDEO)
            assert view
            assert (view.state, view.next_version, view.obstacle) == (State.COMPLETE, 2, Obstacle.ROOM)
            assert view.reason
            assert "video needs 192.0 KiB" in view.reason


async def test_a_pin_is_kept_though_the_lesson_becomes_complete_while_it_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    origin = Origin()
    desk = Desk(origin)
    with trio.fail_after(30):
        async with keeping(tmp_path / "node", origin, **SHOWN) as node:
            await node.keeper.admit(desk.edition(desk.publish(lesson(1), "video")))
            library = node.parts.library
            keep_lesson = library.keep_lesson

            async def slowly(row: StoredLesson) -> None:
                if row.pinned and row.served is None:  # the pin itself, on a disk that is busy
                    await node.holding(VIDEO).until(lambda: node.holding(VIDEO).is_complete)
                await keep_lesson(row)

            monkeypatch.setattr(library, "keep_lesson", slowly)
            await node.keeper.pin(VIDEO)
            await node.until(State.COMPLETE, VIDEO)
        async with keeping(tmp_path / "node", origin, **SHOWN) as node:
            view = node.keeper.display.lesson(VIDEO)
            assert view
            assert view.is_pinned


async def state(node: Node, name: LessonId) -> State:
    """Where a lesson stands, after what was asked of the keeper is carried out."""
    node.keeper.reconsider()
    await node.keeper.change()
    view = node.keeper.display.lesson(name)
    assert view
    return view.state
