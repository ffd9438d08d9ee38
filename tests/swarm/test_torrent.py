from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest
import trio
import trio.testing

from edgeshare.layout import Piece
from edgeshare.swarm.events import PieceVerified, Progress, TorrentChecked, TorrentProgress
from edgeshare.swarm.torrent import VERDICT_WITHIN_S, Torrent
from tests.support.content import PIECE, SlowSeed, at, content, hold, node, noise


def priorities(torrent: Torrent) -> list[int]:
    """How soon libtorrent takes each piece; 4 is the usual."""
    return list(torrent._handle.get_piece_priorities())


def alter(path: Path, offset: int = 0) -> None:
    """Change one byte of a file, and nothing that the file system tells of it but its time."""
    with path.open("r+b") as file:
        file.seek(offset)
        byte = file.read(1)
        file.seek(offset)
        file.write(bytes([byte[0] ^ 255]))


async def test_a_piece_is_read_right_at_the_moment_it_is_verified_whatever_the_disk_has_by_then(tmp_path: Path) -> None:
    lesson = content({"a": noise(128 * 4 * PIECE)}, piece_length=4 * PIECE)
    with trio.fail_after(60):
        async with node("127.0.0.2") as one, node("127.0.0.3") as other:
            await hold(one, lesson, lesson.write(tmp_path / "one"))
            torrent = await hold(other, lesson, tmp_path / "other", at(one))
            async with trio.open_nursery() as nursery:

                async def read_at_once(piece: Piece) -> None:
                    assert await torrent.read(piece) == lesson.piece(piece)

                for index in range(lesson.layout.pieces):
                    nursery.start_soon(read_at_once, Piece(index))
            assert torrent.failure is None


async def test_a_piece_that_is_given_is_verified_and_goes_on_to_peers(tmp_path: Path) -> None:
    lesson = content({"a": noise(3 * PIECE + 5), "b": b"1"})
    with trio.fail_after(30):
        async with node("127.0.0.2") as one, node("127.0.0.3") as other:
            first = await hold(one, lesson, tmp_path / "one")
            second = await hold(other, lesson, tmp_path / "other", at(one))
            for piece in first.missing():
                first.give(piece, lesson.piece(piece))
            await second.until(lambda: second.is_finished)
            assert (first.bytes_from_peers, second.bytes_from_peers) == (0, lesson.size)
            await second.flush()
            assert lesson.is_at(tmp_path / "other")


async def test_wrong_bytes_that_are_given_are_refused_and_the_piece_stays_missing(tmp_path: Path) -> None:
    lesson = content({"a": noise(2 * PIECE)})
    with trio.fail_after(30):
        async with node() as swarm:
            torrent = await hold(swarm, lesson, tmp_path)
            torrent.give(Piece(0), noise(PIECE, 9))
            assert Piece(0) not in torrent.missing()  # on its way through the hash check
            await torrent.until(lambda: Piece(0) in torrent.missing())
            assert not torrent.has(Piece(0))
            assert torrent.bytes_have == 0
            torrent.give(Piece(0), lesson.piece(Piece(0)))
            await torrent.until(lambda: torrent.has(Piece(0)))


@pytest.mark.parametrize("harm", ["alter", "truncate", "delete"])
async def test_a_piece_that_is_no_longer_what_was_verified_is_not_read_but_waited_for(
    tmp_path: Path, harm: str
) -> None:
    lesson = content({"a": noise(4 * PIECE)})
    with trio.fail_after(30):
        async with node() as swarm:
            torrent = await hold(swarm, lesson, lesson.write(tmp_path))
            assert torrent.is_finished
            path = tmp_path / "a"
            match harm:
                case "alter":
                    alter(path, 2 * PIECE)
                case "truncate":
                    os.truncate(path, 2 * PIECE)
                case "delete":
                    path.unlink()
            read: list[bytes] = []
            async with trio.open_nursery() as nursery:

                async def reader() -> None:
                    read.append(await torrent.read(Piece(2)))

                nursery.start_soon(reader)
                await torrent.until(lambda: torrent.failure is not None)
                assert not read
                torrent.look_again()
                await torrent.until(lambda: torrent.is_checked)
                assert Piece(2) in torrent.missing()
                torrent.give(Piece(2), lesson.piece(Piece(2)))
            assert read == [lesson.piece(Piece(2))]


async def test_a_read_that_meets_a_check_of_the_files_waits_for_its_end(tmp_path: Path) -> None:
    lesson = content({"a": noise(2000 * PIECE)})
    with trio.fail_after(30):
        async with node() as swarm:
            torrent = await hold(swarm, lesson, lesson.write(tmp_path))
            for _ in range(3):
                async with trio.open_nursery() as nursery:
                    read: list[bytes] = []

                    async def reader() -> None:
                        read.append(await torrent.read(Piece(7)))  # noqa: B023 - both end with the nursery

                    nursery.start_soon(reader)
                    await trio.testing.wait_all_tasks_blocked(0.0)
                    torrent.look_again()
                assert read == [lesson.piece(Piece(7))]
                assert torrent.failure is None


async def test_what_was_here_after_a_check_is_not_taken_for_what_is_here_after_the_next(tmp_path: Path) -> None:
    lesson = content({"a": noise(50 * PIECE)})
    lesson.write(tmp_path)
    with trio.fail_after(30):
        async with node() as swarm:
            torrent = await hold(swarm, lesson, tmp_path)
            os.truncate(tmp_path / "a", 10 * PIECE)
            torrent.ask_again()  # its answer comes when the next check has begun
            torrent.look_again()
            await torrent.until(lambda: torrent.is_checked)
            assert len(torrent.missing()) == 40


@pytest.mark.whole
async def test_the_piece_that_a_reader_waits_for_comes_before_the_others(tmp_path: Path) -> None:
    lesson = content({"a": noise(200 * PIECE)})
    seed = SlowSeed(lesson, tmp_path / "seed", 16 * PIECE)
    with trio.fail_after(60):
        async with node() as swarm:
            torrent = await hold(swarm, lesson, tmp_path / "node", seed.endpoint)
            await torrent.until(lambda: torrent.bytes_have > 4 * PIECE)
            missing = torrent.missing()
            here = set(range(200)) - missing
            farthest = max(missing, key=lambda piece: min(abs(piece - each) for each in here))
            torrent.urge([farthest])
            await torrent.until(lambda: torrent.has(farthest))
            assert len(missing - torrent.missing()) < 40  # those that were asked for already come first
            await seed.stop()


@pytest.mark.whole
async def test_the_very_first_piece_is_the_one_that_a_reader_waits_for(tmp_path: Path) -> None:
    lesson = content({"a": noise(200 * PIECE)})
    seed = SlowSeed(lesson, tmp_path / "seed", 16 * PIECE)
    with trio.fail_after(60):
        async with node() as swarm:
            torrent = await hold(swarm, lesson, tmp_path / "node", seed.endpoint)
            torrent.urge([Piece(100)])
            await torrent.until(lambda: torrent.bytes_have > 0)
            assert torrent.has(Piece(100))
            await seed.stop()


def asked_for(torrent: Torrent) -> set[Piece]:
    """The pieces that peers were asked for, and that are not whole yet."""
    return {Piece(each["piece_index"]) for each in torrent._handle.get_download_queue()}


@pytest.mark.whole
async def test_what_a_reader_waits_for_is_the_first_that_comes_of_what_it_wants(tmp_path: Path) -> None:
    lesson = content({"a": noise(200 * PIECE)})
    seed = SlowSeed(lesson, tmp_path / "seed", 16 * PIECE)
    with trio.fail_after(60):
        async with node() as swarm:
            torrent = await hold(swarm, lesson, tmp_path / "node", seed.endpoint)
            is_first = []
            for start in (20, 80, 140):
                fresh = torrent.missing() - asked_for(torrent)  # what the seed was asked for already comes first
                wanted = [Piece(piece) for piece in range(start, start + 20) if piece in fresh][:9]
                torrent.urge(wanted)
                while not (came := [piece for piece in wanted if torrent.has(piece)]):
                    await torrent.until(lambda have=torrent.bytes_have: torrent.bytes_have > have)  # type: ignore[misc]
                is_first.append(came[0] == wanted[0])
                torrent.relax(wanted)
            # libtorrent by itself takes any of the nine. One of them may have been asked for in this very moment.
            assert sum(is_first) >= 2
            await seed.stop()


@pytest.mark.whole
async def test_what_was_asked_for_by_a_reader_who_left_stops_coming(tmp_path: Path) -> None:
    lesson = content({"a": noise(400 * PIECE)})
    seed = SlowSeed(lesson, tmp_path / "seed", 40 * PIECE)
    with trio.fail_after(60):
        async with node() as swarm:
            torrent = await hold(swarm, lesson, tmp_path / "node", seed.endpoint)
            before = [Piece(piece) for piece in range(120)]
            torrent.urge(before[:9])
            torrent.prefer(before[9:])
            await torrent.until(lambda: torrent.bytes_have > 40 * PIECE)
            missing = torrent.missing()
            torrent.relax(before[:9])
            torrent.let_be(before[9:])
            torrent.urge(map(Piece, range(200, 209)))
            torrent.prefer(map(Piece, range(209, 320)))
            await torrent.until(lambda: len(missing - torrent.missing()) > 80)  # what was asked of the seed before
            missing = torrent.missing()
            await torrent.until(lambda: len(missing - torrent.missing()) > 30)
            assert len((missing - torrent.missing()) & set(before)) <= 1  # measured: 0, and 2 to 9 else
            await seed.stop()


async def test_what_a_reader_wants_comes_before_the_rest_and_no_longer_when_it_has_left(tmp_path: Path) -> None:
    lesson = content({"a": noise(8 * PIECE)})
    with trio.fail_after(30):
        async with node() as swarm:
            torrent = await hold(swarm, lesson, tmp_path)
            torrent.prefer([Piece(2), Piece(3), Piece(4)])
            torrent.urge([Piece(1), Piece(2)])
            torrent.urge([Piece(6)], behind=3)
            assert priorities(torrent) == [4, 7, 6, 5, 5, 4, 6, 4]
            torrent.look_again()  # a check forgets what was wanted
            await torrent.until(lambda: torrent.is_checked)
            assert priorities(torrent) == [4, 7, 6, 5, 5, 4, 6, 4]
            torrent.urge([Piece(6)])
            torrent.urge([Piece(1)], behind=5)
            assert priorities(torrent) == [4, 7, 6, 5, 5, 4, 7, 4]
            torrent.relax([Piece(1), Piece(2), Piece(6), Piece(6)])
            assert priorities(torrent) == [4, 7, 5, 5, 5, 4, 4, 4]
            torrent.relax([Piece(1)])
            torrent.let_be([Piece(2), Piece(3), Piece(4)])
            assert priorities(torrent) == [4] * 8


async def test_a_piece_has_its_turn_when_a_reader_comes_to_wait_for_it(tmp_path: Path) -> None:
    lesson = content({"a": noise(4 * PIECE)})
    with trio.fail_after(30):
        async with node() as swarm:
            torrent = await hold(swarm, lesson, tmp_path)
            torrent.urge([Piece(0), Piece(1)])
            assert priorities(torrent) == [7, 6, 4, 4]
            async with trio.open_nursery() as nursery:
                nursery.start_soon(torrent.read, Piece(1))
                await trio.testing.wait_all_tasks_blocked()
                assert priorities(torrent) == [7, 7, 4, 4]
                nursery.cancel_scope.cancel()


async def test_two_readers_who_want_one_piece_are_both_served_and_one_may_leave(tmp_path: Path) -> None:
    lesson = content({"a": noise(4 * PIECE)})
    with trio.fail_after(30):
        async with node() as swarm:
            torrent = await hold(swarm, lesson, tmp_path)
            torrent.urge([Piece(1)])
            torrent.urge([Piece(1), Piece(2)])
            assert torrent.urgent == {1, 2}
            torrent.relax([Piece(1)])
            assert torrent.urgent == {1, 2}
            read: list[bytes] = []
            async with trio.open_nursery() as nursery:

                async def reader(piece: Piece) -> None:
                    read.append(await torrent.read(piece))

                nursery.start_soon(reader, Piece(1))
                nursery.start_soon(reader, Piece(1))
                torrent.give(Piece(1), lesson.piece(Piece(1)))
            assert read == [lesson.piece(Piece(1))] * 2
            torrent.relax([Piece(1), Piece(2)])
            assert torrent.urgent == frozenset()


async def test_resume_data_spares_reading_the_files_and_a_check_finds_what_it_spared(tmp_path: Path) -> None:
    lesson = content({"a": noise(20 * PIECE)})
    lesson.write(tmp_path)
    with trio.fail_after(30):
        async with node() as swarm:
            torrent = await hold(swarm, lesson, tmp_path)
            resume = await torrent.resume_data()
        alter(tmp_path / "a")
        async with node() as swarm:
            torrent = await hold(swarm, lesson, tmp_path, resume=resume)
            assert torrent.is_finished  # it was not read, or it would not be
            torrent.look_again()
            await torrent.until(lambda: torrent.is_checked)
            assert torrent.missing() == {0}


async def test_resume_data_of_another_content_or_of_none_is_not_used(tmp_path: Path) -> None:
    lesson, other = content({"a": noise(PIECE)}), content({"a": noise(PIECE, 2)})
    other.write(tmp_path / "other")
    with trio.fail_after(30):
        async with node() as swarm:
            resume = await (await hold(swarm, other, tmp_path / "other")).resume_data()
            for wrong in (resume, b"", b"de", b"d5:wrong"):
                torrent = await hold(swarm, lesson, tmp_path / "lesson", resume=wrong)
                assert torrent.missing() == {0}
                await swarm.remove(lesson.info_hash)


async def test_availability_counts_the_peers_that_have_each_piece(tmp_path: Path) -> None:
    lesson = content({"a": noise(3 * PIECE)})
    with trio.fail_after(30):
        async with node("127.0.0.2") as one, node("127.0.0.3") as other:
            first = await hold(one, lesson, tmp_path / "one")
            assert await first.availability() == (0, 0, 0)
            first.give(Piece(1), lesson.piece(Piece(1)))
            second = await hold(other, lesson, tmp_path / "other", at(one))
            await second.until(lambda: second.has(Piece(1)))
            assert await second.availability() == (0, 1, 0)


@pytest.mark.whole
async def test_a_distrusted_content_is_given_to_nobody(tmp_path: Path) -> None:
    lesson = content({"a": noise(3 * PIECE)})
    with trio.fail_after(30):
        async with node("127.0.0.2") as one, node("127.0.0.3") as other:
            first = await hold(one, lesson, lesson.write(tmp_path / "one"))
            first.distrust("a cat walked over it")
            assert not first.is_finished
            second = await hold(other, lesson, tmp_path / "other", at(one))
            with trio.move_on_after(1.0):  # long enough for a transfer that takes 50 ms
                await second.until(lambda: second.bytes_have > 0)
            assert second.bytes_have == 0
            first.look_again()
            await second.until(lambda: second.is_finished)


class Silent:
    """A handle that takes everything, and of which nothing is heard."""

    def __getattr__(self, name: str) -> Callable[..., None]:
        return lambda *_: None


async def test_a_piece_that_is_handed_in_and_of_which_nothing_is_heard_makes_the_files_doubtful(
    autojump_clock: trio.testing.MockClock,
) -> None:
    lesson = content({"a": noise(2 * PIECE)})
    torrent = Torrent(cast("Any", Silent()), lesson.info_hash, lesson.layout)
    nothing = Progress(
        is_checking=False,
        is_finished=False,
        peers=0,
        tracker=None,
        seeds=0,
        known=0,
        from_peers=0,
        to_peers=0,
        failure=None,
        pieces=bytes(2),
    )
    torrent.on(TorrentChecked(lesson.info_hash))
    torrent.on(TorrentProgress(lesson.info_hash, nothing))
    torrent.give(Piece(0), lesson.piece(Piece(0)))
    torrent.give(Piece(1), lesson.piece(Piece(1)))
    torrent.on(PieceVerified(lesson.info_hash, Piece(1)))
    await trio.sleep(VERDICT_WITHIN_S - 0.001)
    torrent.expect_verdicts()
    assert torrent.failure is None
    await trio.sleep(0.002)
    torrent.expect_verdicts()
    assert torrent.failure == "piece 0 was written, and not found on the disk"
