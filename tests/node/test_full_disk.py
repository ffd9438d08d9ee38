"""What a node does while its disk is nearly full, or takes no writes."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing, asynccontextmanager
from pathlib import Path

import attrs
import pytest
import trio

from edgeshare.holding import Holding
from edgeshare.layout import Piece
from edgeshare.parts import Parts
from edgeshare.view import State
from tests.support.content import PIECE, content, noise
from tests.support.disk import mounted, remount
from tests.support.node import Origin, complete, expected, holding, parts

MIB = 2**20
LESSON = content({"a": noise(99 * PIECE), "b": noise(PIECE, 2)})


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    with mounted(tmp_path / "disk", "6m") as disk:
        yield disk


@asynccontextmanager
async def node(disk: Path, origin: Origin) -> AsyncIterator[Parts]:
    """A node whose disk is to keep 3 of its 6 MiB free."""
    async with parts(disk / "library", origin, keep_free=3 * MIB) as mine, trio.open_nursery() as nursery:
        nursery.start_soon(mine.library.watch)
        yield mine
        nursery.cancel_scope.cancel()


async def look(mine: Parts, *, is_paused: bool) -> None:
    mine.library.doubt()  # else it would take some seconds
    await mine.library.until_disk(lambda disk: disk.is_paused is is_paused)


async def test_nothing_is_begun_while_the_disk_is_short_and_all_of_it_when_there_is_room(disk: Path) -> None:
    origin = Origin(LESSON)
    ballast = disk / "ballast"
    ballast.write_bytes(bytes(4 * MIB))
    with trio.fail_after(30):
        async with node(disk, origin) as mine, holding(mine, LESSON) as held:
            await held.until(lambda: held.pause.is_for_room)
            assert held.state is State.WAITING
            assert "nearly full" in (held.trouble or "")
            assert origin.asked == []
            assert not mine.library.folder(LESSON.info_hash).exists()
            ballast.unlink()
            await look(mine, is_paused=False)
            await complete(held)
            assert (held.trouble, held.pause.is_for_room) == (None, False)


async def test_what_gives_way_on_a_disk_that_has_room_again_waits_for_that_alone(disk: Path) -> None:
    ballast = disk / "ballast"
    ballast.write_bytes(bytes(4 * MIB))
    with trio.fail_after(30):
        async with node(disk, Origin(LESSON)) as mine, holding(mine, LESSON) as held:
            await held.until(lambda: held.pause.is_for_room)
            held.pause.give_way(True)
            ballast.unlink()
            mine.library.doubt()
            await held.until(lambda: not held.pause.is_for_room)
            assert (held.pause.is_on, held.trouble) == (True, None)
            ballast.write_bytes(bytes(4 * MIB))
            await look(mine, is_paused=True)
            held.pause.give_way(False)
            await held.until(lambda: held.pause.is_for_room)
            assert held.state is State.WAITING


async def test_what_is_half_here_waits_with_all_that_it_has_and_goes_on_without_fetching_it_again(disk: Path) -> None:
    origin = Origin(LESSON)
    origin.most = 60 * PIECE
    ballast = disk / "ballast"
    with trio.fail_after(30):
        async with node(disk, origin) as mine, holding(mine, LESSON) as held:
            await held.until(lambda: held.torrent is not None)
            torrent = held.torrent
            assert torrent
            await torrent.until(lambda: held.bytes_have >= 16 * PIECE)
            ballast.write_bytes(bytes(3 * MIB))
            await look(mine, is_paused=True)
            await held.until(lambda: held.pause.is_for_room)
            sent, origin.most = origin.sent, None
            here = next(Piece(n) for n in range(99) if torrent.has(Piece(n)))
            assert await piece_of(held, here) == LESSON.piece(here)  # reading goes on
            await torrent.resume_data()  # a round through libtorrent: what it would have asked for, it has asked for
            assert (origin.sent, held.state) == (sent, State.WAITING)
            assert (held.torrent, torrent.failure) == (torrent, None)
            ballast.unlink()
            await look(mine, is_paused=False)
            await complete(held)
            assert origin.sent <= LESSON.size + 16 * PIECE  # but for the portion that was under way


async def piece_of(held: Holding, piece: Piece) -> bytes:
    assert held.layout
    entry, start, stop = held.layout.file_of(piece)
    async with aclosing(held.stream(entry, start, stop)) as portions:
        return b"".join([portion async for portion in portions])


async def test_an_edition_comes_though_the_disk_is_short_as_it_may_withdraw_something(disk: Path) -> None:
    (disk / "ballast").write_bytes(bytes(4 * MIB))
    small = content({"catalogue": noise(PIECE)})
    edition = attrs.evolve(expected(small), is_edition=True)
    with trio.fail_after(30):
        async with node(disk, Origin(small)) as mine, holding(mine, edition) as held:
            assert mine.library.disk.is_short
            await complete(held)


async def test_an_edition_for_which_there_is_no_room_at_all_waits_too(disk: Path) -> None:
    (disk / "ballast").write_bytes(bytes(4 * MIB))
    edition = attrs.evolve(expected(LESSON), is_edition=True)  # which takes 1.6 MiB, and as much in the index, twice
    with trio.fail_after(30):
        async with node(disk, origin := Origin(LESSON)) as mine, holding(mine, edition) as held:
            await held.until(lambda: held.pause.is_for_room)
            assert origin.asked == []


async def test_a_content_is_complete_and_read_on_a_disk_that_takes_no_writes(disk: Path) -> None:
    origin = Origin(LESSON)
    with trio.fail_after(30):
        async with node(disk, origin) as mine, holding(mine, LESSON) as held:
            await complete(held)
        remount(disk, "ro")
        async with node(disk, Origin()) as mine, holding(mine, LESSON) as held:
            assert mine.library.disk.is_readonly
            await complete(held)
            assert await piece_of(held, Piece(3)) == LESSON.piece(Piece(3))
            assert held.descriptor(LESSON.layout.files[0]) is not None


@pytest.mark.parametrize("harm", [False, True])
async def test_a_content_of_a_killed_node_is_checked_on_a_disk_that_takes_no_writes(disk: Path, harm: bool) -> None:
    origin = Origin(LESSON)
    with trio.fail_after(30):
        async with node(disk, origin) as mine, holding(mine, LESSON) as held:
            await complete(held)
            folder = mine.library.folder(LESSON.info_hash)
        async with node(disk, origin) as mine:
            (stored,) = await mine.library.torrents()
            await mine.library.keep_torrent(attrs.evolve(stored, stamps=None, resume=None))
        if harm:
            (folder / "b").unlink()
        remount(disk, "ro")
        async with node(disk, nothing := Origin(LESSON)) as mine, holding(mine, LESSON) as held:
            if not harm:
                await complete(held)
            await held.until(lambda: held.torrent is not None)
            torrent = held.torrent
            assert torrent
            await torrent.until(lambda: torrent.is_checked)
            assert await piece_of(held, Piece(3)) == LESSON.piece(Piece(3))
            if harm:
                assert (held.state, nothing.sent) == (State.WAITING, 0)
                assert "read-only" in (held.trouble or "")
                remount(disk, "rw")
                await look(mine, is_paused=False)
                await complete(held)
                assert LESSON.is_at(folder)
