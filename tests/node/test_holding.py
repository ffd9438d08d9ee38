from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import aclosing
from pathlib import Path

import attrs
import pytest
import trio

from edgeshare.errors import LibraryError, ManifestError
from edgeshare.hashtree import FileHasher
from edgeshare.holding import Holding
from edgeshare.layout import FileEntry, Layout, Piece
from edgeshare.parts import Parts
from edgeshare.publish.torrent import assemble
from edgeshare.swarm.events import DiskFailed
from edgeshare.swarm.session import Helpers
from edgeshare.swarm.torrent import SwarmError
from edgeshare.view import State
from tests.support.content import PIECE, Content, SlowSeed, at, content, hold, node, noise
from tests.support.disk import mounted
from tests.support.node import QUICK, Origin, complete, expected, holding, parts

LESSON = content({"a/page.html": noise(5 * PIECE + 9), "empty": b"", "one": b"1"})
PAGE, EMPTY, ONE = LESSON.layout.files
HALF = 3 * PIECE
HALVES = content({"a": noise(HALF), "b": noise(HALF, 2)})  # the origin is asked for each file apart
HARMS = [
    "a byte altered",
    "cut",
    "longer",
    "deleted",
    "an empty file deleted",
    "a folder in its place",
    "a link in its place",
    "a pipe in its place",
    "a file in its folder's place",
    "a link in its folder's place",
]


def harm(folder: Path, how: str) -> FileEntry:
    """Do something to a lesson's files; the entry of the file that is no longer right."""
    page = folder / "a" / "page.html"
    match how:
        case "a byte altered":
            with page.open("r+b") as file:
                file.seek(3 * PIECE)
                file.write(bytes([file.read(1)[0] ^ 255]))
        case "cut":
            os.truncate(page, 3 * PIECE)
        case "longer":
            with page.open("ab") as file:
                file.write(b"more")
        case "deleted":
            page.unlink()
        case "an empty file deleted":
            (folder / "empty").unlink()
            return EMPTY
        case "a folder in its place":
            page.unlink()
            (page / "within").mkdir(parents=True)
        case "a link in its place":
            elsewhere = folder.parent / "elsewhere"
            elsewhere.write_bytes(b"not to be written to")
            page.unlink()
            page.symlink_to(elsewhere)
        case "a pipe in its place":
            page.unlink()
            os.mkfifo(page)
        case "a file in its folder's place":
            shutil.rmtree(page.parent)
            page.parent.write_bytes(b"a file")
        case "a link in its folder's place":
            elsewhere = folder.parent / "elsewhere"
            shutil.move(page.parent, elsewhere)
            (elsewhere / "page.html").write_bytes(b"not to be written to")
            page.parent.symlink_to(elsewhere)
    return PAGE


def spared(folder: Path, how: str) -> bool:
    """Whether what a link led to is as it was."""
    elsewhere = folder.parent / "elsewhere"
    match how:
        case "a link in its place":
            return elsewhere.read_bytes() == b"not to be written to"
        case "a link in its folder's place":
            return (elsewhere / "page.html").read_bytes() == b"not to be written to"
    return True


def rest(entry: FileEntry, held: Holding) -> bytes | None:
    """What a reader of a complete file gets; None when it is not served from its file."""
    descriptor = held.descriptor(entry)
    if descriptor is None:
        return None
    with open(descriptor, "rb") as file:
        return file.read()


async def streamed(held: Holding, entry: FileEntry, start: int, stop: int) -> bytes:
    async with aclosing(held.stream(entry, start, stop)) as portions:
        return b"".join([portion async for portion in portions])


async def half(held: Holding) -> None:
    """Wait until half of it is here, on the disk."""
    await held.until(lambda: held.torrent is not None)
    torrent = held.torrent
    assert torrent
    await torrent.until(lambda: torrent.bytes_have == HALF)
    await torrent.flush()


async def test_a_node_that_is_alone_takes_one_copy_from_the_origin(tmp_path: Path) -> None:
    origin = Origin(LESSON)
    with trio.fail_after(30):
        async with parts(tmp_path, origin) as mine, holding(mine, LESSON) as held:
            await complete(held)
            assert held.state is State.COMPLETE
            assert LESSON.is_at(mine.library.folder(LESSON.info_hash))
            assert origin.sent == sum(held.origin_bytes.values()) == LESSON.size
            assert held.peer_bytes == 0
            for entry in LESSON.layout.files:
                assert rest(entry, held) == LESSON.files[entry.path]


async def test_a_task_that_ends_with_its_content_is_cancelled_and_hears_of_no_error(tmp_path: Path) -> None:
    async with parts(tmp_path) as mine:
        held = Holding(mine, expected(LESSON), None)
        with trio.CancelScope() as scope:
            scope.cancel()
            held.drop()
            await held.until(lambda: False)
        assert scope.cancelled_caught


async def test_a_library_whose_disk_is_gone_stands_still_and_says_so(tmp_path: Path) -> None:
    with trio.fail_after(30):
        async with parts(tmp_path / "library", Origin(LESSON)) as mine, holding(mine, LESSON) as held:
            await complete(held)
            (tmp_path / "library").rename(tmp_path / "elsewhere")
            assert held.descriptor(PAGE) is None
            await held.until(lambda: held.state is State.FAILED and held.trouble is not None)
            (tmp_path / "elsewhere").rename(tmp_path / "library")
            await complete(held)


async def test_what_a_peer_has_is_not_asked_of_the_origin(tmp_path: Path) -> None:
    origin = Origin(LESSON)
    with trio.fail_after(30):
        async with node("127.0.0.2") as peer:
            await hold(peer, LESSON, LESSON.write(tmp_path / "peer"))
            wanted = expected(LESSON, audience=800_000)
            pace = attrs.evolve(QUICK, patience_s=20.0)  # the peer may part, and come again
            async with parts(tmp_path / "mine", origin, pace=pace) as mine, holding(mine, wanted, at(peer)) as held:
                await complete(held)
                assert origin.asked == []
                assert held.peer_bytes == LESSON.size


@pytest.mark.parametrize("whose", ["a peer's", "the origin's"])
@pytest.mark.parametrize(("wrong", "by"), [("size", 1), ("size", -1), ("files", 1), ("files", -1)])
async def test_metadata_that_is_not_what_the_manifest_says_is_refused_and_nothing_is_written(
    tmp_path: Path, whose: str, wrong: str, by: int
) -> None:
    manifest = expected(LESSON)
    manifest = attrs.evolve(manifest, **{wrong: getattr(manifest, wrong) + by})
    origin = Origin(LESSON) if whose == "the origin's" else Origin()
    with trio.fail_after(30):
        async with node("127.0.0.2") as peer, parts(tmp_path / "mine", origin) as mine:
            await hold(peer, LESSON, LESSON.write(tmp_path / "peer"))
            peers = (at(peer),) if whose == "a peer's" else ()
            async with holding(mine, manifest, *peers) as held:
                await held.until(lambda: held.is_refused)
                assert held.state is State.FAILED
                assert "manifest" in (held.trouble or "")
                with pytest.raises(LibraryError):
                    await held.ready()
                assert list(mine.library.root.glob("content/**/*")) == []
                assert await mine.library.torrents() == []


async def test_a_torrent_of_another_kind_than_ours_is_refused_for_good(tmp_path: Path) -> None:
    evil = content({"../../outside": b"1"})
    origin = Origin(evil)
    with trio.fail_after(30):
        async with parts(tmp_path / "mine", origin) as mine, holding(mine, evil) as held:
            await held.until(lambda: held.is_refused)
            assert "outside" in (held.trouble or "")
    assert len(origin.asked) == 1
    assert not list(tmp_path.rglob("outside"))


async def test_a_content_that_nobody_has_is_failed_with_the_reason_and_comes_when_somebody_has_it(
    tmp_path: Path,
) -> None:
    origin = Origin()
    with trio.fail_after(30):
        async with parts(tmp_path, origin) as mine, holding(mine, LESSON) as held:
            await held.until(lambda: held.is_unobtainable)
            assert held.state is State.FAILED
            assert LESSON.info_hash.hex() in (held.trouble or "")
            origin.publish(LESSON)
            await complete(held)
            assert not held.is_unobtainable
            assert held.trouble is None


async def test_a_restart_neither_fetches_nor_reads_what_was_complete(tmp_path: Path) -> None:
    with trio.fail_after(30):
        async with parts(tmp_path, Origin(LESSON)) as mine, holding(mine, LESSON) as held:
            await complete(held)
        page = tmp_path / "content" / LESSON.info_hash.hex() / "a" / "page.html"
        before = page.stat()
        with page.open("r+b") as file:
            file.write(b"other bytes")
        os.utime(page, ns=(before.st_atime_ns, before.st_mtime_ns))
        nothing = Origin()
        async with parts(tmp_path, nothing) as mine, holding(mine, LESSON) as held:
            await held.until(lambda: held.torrent is not None)
            torrent = held.torrent
            assert torrent
            assert held.is_complete
            await torrent.until(lambda: torrent.is_checked)
            assert torrent.is_finished  # who reads the files finds that they are not right
            assert held.is_complete
        assert nothing.asked == []


async def test_what_was_here_in_part_is_not_fetched_again_after_a_stop(tmp_path: Path) -> None:
    origin = Origin(HALVES)
    origin.most = HALF
    with trio.fail_after(30):
        async with parts(tmp_path, origin) as mine, holding(mine, HALVES) as held:
            await half(held)
        origin.most = None
        async with parts(tmp_path, origin) as mine:
            (stored,) = await mine.library.torrents()
            assert stored.resume is not None
            assert (stored.origin_bytes, stored.peer_bytes) == (HALF, 0)
            async with holding(mine, HALVES) as held:
                await complete(held)
                assert sum(held.origin_bytes.values()) == origin.sent == HALVES.size


async def test_after_a_kill_the_files_are_read_and_only_what_is_missing_is_fetched(tmp_path: Path) -> None:
    origin = Origin(HALVES)
    origin.most = HALF
    with trio.fail_after(30):
        async with parts(tmp_path, origin) as mine, holding(mine, HALVES, killed=True) as held:
            await half(held)
            folder = mine.library.folder(HALVES.info_hash)
        origin.most = None
        (here,) = (path for path in folder.iterdir() if path.read_bytes() == HALVES.files[path.name])
        with here.open("r+b") as file:  # as when the power fails in the middle of it
            file.write(b"torn")
        async with parts(tmp_path, origin) as mine:
            (stored,) = await mine.library.torrents()
            assert stored.resume is None
            async with holding(mine, HALVES) as held:
                await complete(held)
                assert HALVES.is_at(folder)
                assert origin.sent == HALVES.size + PIECE


async def test_resume_data_of_a_stop_is_not_used_again_after_a_kill(tmp_path: Path) -> None:
    origin = Origin(LESSON)
    origin.most = 3 * PIECE
    with trio.fail_after(30):
        for killed in (False, True):
            async with parts(tmp_path, origin) as mine, holding(mine, LESSON, killed=killed) as held:
                await held.until(lambda: held.torrent is not None)
                torrent = held.torrent
                assert torrent
                await torrent.until(lambda: torrent.is_checked)  # noqa: B023 - awaited here
        async with parts(tmp_path, origin) as mine:
            (stored,) = await mine.library.torrents()
            assert stored.resume is None


@pytest.mark.parametrize("how", HARMS)
async def test_a_complete_file_that_was_harmed_is_not_served_but_mended(tmp_path: Path, how: str) -> None:
    with trio.fail_after(30):
        async with parts(tmp_path, Origin(LESSON)) as mine, holding(mine, LESSON) as held:
            await complete(held)
            folder = mine.library.folder(LESSON.info_hash)
            entry = harm(folder, how)
            assert rest(entry, held) is None
            assert held.state is not State.COMPLETE
            assert await streamed(held, entry, 0, entry.size) == LESSON.files[entry.path]
            await complete(held)
            assert LESSON.is_at(folder)
            assert rest(entry, held) == LESSON.files[entry.path]
            assert spared(folder, how)


@pytest.mark.parametrize("how", [HARMS[0], "deleted", "a folder in its place", "a link in its folder's place"])
async def test_a_file_that_was_harmed_while_the_node_was_off_is_noticed_at_its_start(tmp_path: Path, how: str) -> None:
    with trio.fail_after(30):
        async with parts(tmp_path, Origin(LESSON)) as mine, holding(mine, LESSON) as held:
            await complete(held)
            folder = mine.library.folder(LESSON.info_hash)
        entry = harm(folder, how)
        async with parts(tmp_path, Origin(LESSON)) as mine, holding(mine, LESSON) as held:
            assert rest(entry, held) is None
            await held.until(lambda: held.torrent is not None)
            assert not held.is_complete
            await complete(held)
            assert LESSON.is_at(folder)
            assert spared(folder, how)


async def test_harm_is_noticed_also_when_nobody_reads(tmp_path: Path) -> None:
    pace = attrs.evolve(QUICK, look_every_s=0.1)
    with trio.fail_after(30):
        async with parts(tmp_path, Origin(LESSON), pace=pace) as mine, holding(mine, LESSON) as held:
            await complete(held)
            harm(mine.library.folder(LESSON.info_hash), "a byte altered")
            await held.until(lambda: not held.is_complete)
            await complete(held)
            assert LESSON.is_at(mine.library.folder(LESSON.info_hash))


async def test_a_file_that_cannot_be_read_for_a_peer_takes_its_lesson_out_of_complete_at_once(tmp_path: Path) -> None:
    with trio.fail_after(30):
        async with parts(tmp_path / "mine", Origin(LESSON)) as mine, holding(mine, LESSON) as held:
            await complete(held)
            torrent = held.torrent
            assert torrent
            harm(mine.library.folder(LESSON.info_hash), "cut")
            async with node("127.0.0.2") as peer:
                await hold(peer, LESSON, tmp_path / "peer", at(mine.swarm))
                await torrent.until(lambda: not held.is_complete)
                assert held.state is State.FAILED
                assert rest(PAGE, held) is None
                await complete(held)


async def test_a_content_whose_hashes_contradict_one_another_is_tried_again_with_pauses(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    hasher = FileHasher(PIECE)
    hasher.update(noise(100))
    torrent = assemble("lesson", PIECE, [attrs.evolve(hasher.finish("a"), root=noise(32, 7))])
    wrong = Content({"a": noise(100)}, torrent.info_hash, torrent.encoded)  # its pieces are right, its tree is not
    pace = attrs.evolve(QUICK, retry_every_s=60.0)
    wrong.write(tmp_path / "content" / wrong.info_hash.hex())
    with trio.fail_after(30):
        async with parts(tmp_path, Origin(wrong), pace=pace) as mine, holding(mine, wrong) as held:
            await held.until(lambda: held.state is State.FAILED)
            assert "v1 and v2 hashes" in (held.trouble or "")
            await trio.sleep(1.0)  # the period is the point: without pauses there would be hundreds
    assert len([line for line in caplog.messages if "adding it anew" in line]) == 2


async def test_a_content_that_libtorrent_is_confused_about_is_added_anew_at_once_and_then_after_a_pause(
    tmp_path: Path,
) -> None:
    pace = attrs.evolve(QUICK, retry_every_s=1.0)
    origin = Origin(LESSON)
    with trio.fail_after(30):
        async with parts(tmp_path, origin, pace=pace) as mine, holding(mine, LESSON) as held:
            took_s = []
            for _ in range(2):
                await complete(held)
                confused = held.torrent
                assert confused
                confused.on(DiskFailed(LESSON.info_hash, "v1 and v2 hashes do not agree", is_confused=True))
                began_s = trio.current_time()
                await held.until(lambda: held.state is State.FAILED)
                assert "hashes do not agree" in (held.trouble or "")
                await held.until(lambda: held.torrent not in (None, confused))  # noqa: B023 - awaited here
                took_s.append(trio.current_time() - began_s)
            await complete(held)
            assert held.trouble is None
            assert took_s[0] < 0.8
            assert took_s[1] >= 1.0
            assert origin.sent == LESSON.size  # its files are as they were
            assert LESSON.is_at(mine.library.folder(LESSON.info_hash))


async def test_a_confusion_that_comes_while_a_full_disk_is_waited_for_has_the_content_added_anew(
    tmp_path: Path,
) -> None:
    origin = Origin(LESSON)
    origin.most = 0  # all of it stays missing, and there never is room for it
    pace = attrs.evolve(QUICK, spare_bytes=2**60)
    with trio.fail_after(30):
        async with parts(tmp_path, origin, pace=pace) as mine, holding(mine, LESSON) as held:
            await held.until(lambda: held.torrent is not None)
            torrent = held.torrent
            assert torrent
            await torrent.until(lambda: torrent.is_checked)
            torrent.on(DiskFailed(LESSON.info_hash, "No space left on device"))
            await held.until(lambda: held.state is State.FAILED)
            await trio.sleep(2 * pace.retry_every_s)
            assert held.torrent is torrent
            torrent.on(DiskFailed(LESSON.info_hash, "v1 and v2 hashes do not agree", is_confused=True))
            await held.until(lambda: held.torrent not in (None, torrent))


async def test_a_write_that_fails_is_no_confusion_and_the_torrent_stays(tmp_path: Path) -> None:
    with trio.fail_after(30):
        async with parts(tmp_path, Origin(LESSON)) as mine, holding(mine, LESSON) as held:
            await complete(held)
            torrent = held.torrent
            assert torrent
            torrent.on(DiskFailed(LESSON.info_hash, "an unreadable sector"))
            assert held.state is State.FAILED
            await complete(held)
            assert held.torrent is torrent


async def test_a_stream_crosses_pieces_and_ends_with_its_file(tmp_path: Path) -> None:
    page = LESSON.files["a/page.html"]
    with trio.fail_after(30):
        async with parts(tmp_path, Origin(LESSON)) as mine, holding(mine, LESSON) as held:
            for start, stop in ((0, len(page)), (PIECE - 1, PIECE + 1), (5 * PIECE - 1, len(page)), (7, 7)):
                assert await streamed(held, PAGE, start, stop) == page[start:stop]
            assert await streamed(held, ONE, 0, 1) == b"1"
            assert await streamed(held, EMPTY, 0, 0) == b""


async def test_a_closed_stream_takes_its_wishes_back_and_leaves_those_of_others(tmp_path: Path) -> None:
    lesson = content({"a": noise(40 * PIECE)})
    origin = Origin(lesson)
    origin.most = 0
    (entry,) = lesson.layout.files
    with trio.fail_after(30):
        async with parts(tmp_path, origin) as mine, holding(mine, lesson) as held, trio.open_nursery() as nursery:
            await held.until(lambda: held.torrent is not None)
            torrent = held.torrent
            assert torrent
            nursery.start_soon(streamed, held, entry, 20 * PIECE, 40 * PIECE)
            await torrent.until(lambda: bool(torrent.urgent))
            assert torrent.urgent == set(range(20, 29))
            with trio.move_on_after(0.2):
                await streamed(held, entry, 0, 10 * PIECE)
            assert torrent.urgent == set(range(20, 29))
            nursery.cancel_scope.cancel()
        assert torrent.urgent == frozenset()


async def test_a_film_has_what_comes_next_before_the_rest_and_a_reader_who_seeks_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edgeshare.holding.PREFERRED_BYTES", 4 * PIECE)
    lesson = content({"a": noise(40 * PIECE)})
    origin = Origin(lesson)
    origin.most = 0
    (entry,) = lesson.layout.files
    with trio.fail_after(30):
        async with parts(tmp_path, origin) as mine, holding(mine, lesson) as held:
            await held.until(lambda: held.torrent is not None)
            torrent = held.torrent
            assert torrent
            await torrent.until(lambda: torrent.is_checked)
            for start in (20, 2):
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(streamed, held, entry, start * PIECE, 40 * PIECE)
                    await torrent.until(lambda first=start: first in torrent.urgent)  # type: ignore[misc]
                    await trio.testing.wait_all_tasks_blocked()
                    wanted = [7] + [6] * 8 + [5] * 4
                    assert torrent._handle.get_piece_priorities() == (
                        [4] * start + wanted + [4] * (40 - start - len(wanted))
                    )
                    nursery.cancel_scope.cancel()
            assert torrent._handle.get_piece_priorities() == [4] * 40


async def test_a_seek_to_what_is_here_asks_nobody_for_anything(tmp_path: Path) -> None:
    origin = Origin(HALVES)
    origin.most = HALF
    with trio.fail_after(30):
        async with parts(tmp_path, origin) as mine, holding(mine, HALVES) as held:
            await half(held)
            torrent = held.torrent
            assert torrent
            (entry,) = [each for each in HALVES.layout.files if torrent.has(Piece(HALVES.layout.pieces_of(each).start))]
            priorities = torrent._handle.get_piece_priorities()
            async with aclosing(held.stream(entry, PIECE, HALF)) as portions:
                async for _ in portions:
                    assert torrent._handle.get_piece_priorities() == priorities
            assert "reader_waits" not in held.origin_bytes


@pytest.mark.whole
async def test_a_reader_gets_bytes_from_the_middle_long_before_the_lesson_is_here(tmp_path: Path) -> None:
    lesson = content({"a": noise(200 * PIECE)})
    (entry,) = lesson.layout.files
    slow = SlowSeed(lesson, tmp_path / "slow", 16 * PIECE)
    with trio.fail_after(30):
        async with parts(tmp_path / "mine") as mine, holding(mine, lesson, slow.endpoint) as held:
            portion = await streamed(held, entry, 100 * PIECE - 5, 100 * PIECE + 5)
            assert portion == lesson.files["a"][100 * PIECE - 5 : 100 * PIECE + 5]
            assert held.bytes_have < lesson.size // 2
            await slow.stop()


async def test_who_reads_or_waits_while_a_content_is_dropped_hears_so(tmp_path: Path) -> None:
    lesson = content({"a": noise(40 * PIECE)})
    origin = Origin(lesson)
    origin.most = 0
    (entry,) = lesson.layout.files
    with trio.fail_after(30):
        async with parts(tmp_path, origin) as mine, trio.open_nursery() as nursery:
            held = Holding(mine, expected(lesson), None)
            nursery.start_soon(held.run, Helpers())
            await held.ready()
            await held.until(lambda: held.torrent is not None)
            torrent = held.torrent
            assert torrent

            async def reader() -> None:
                with pytest.raises(SwarmError):
                    await streamed(held, entry, 0, 10)

            async def waiter() -> None:
                with pytest.raises(LibraryError):
                    await complete(held)

            async with trio.open_nursery() as others:
                others.start_soon(reader)
                others.start_soon(waiter)
                await torrent.until(lambda: bool(torrent.urgent))
                held.drop()
                await mine.swarm.remove(lesson.info_hash)
            nursery.cancel_scope.cancel()


async def test_a_damaged_row_of_the_index_costs_nothing_but_time(tmp_path: Path) -> None:
    with trio.fail_after(30):
        async with parts(tmp_path, Origin(LESSON)) as mine, holding(mine, LESSON) as held:
            await complete(held)
        origin = Origin(LESSON)
        async with parts(tmp_path, origin) as mine:
            (stored,) = await mine.library.torrents()
            await mine.library.keep_torrent(attrs.evolve(stored, info=b"d4:namei1ee", resume=b"nonsense"))
            async with holding(mine, LESSON) as held:
                await complete(held)
        assert origin.sent == 0


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 6 MiB."""
    with mounted(tmp_path / "disk", "6m") as disk:
        yield disk


async def fill(disk: Path, leave: int) -> Path:
    """Fill `disk` but for `leave` bytes; the file that does."""
    ballast = disk / "ballast"
    status = os.statvfs(disk)
    ballast.write_bytes(bytes(status.f_bavail * status.f_frsize - leave))
    return ballast


@pytest.mark.parametrize("whose", [pytest.param("a peer", marks=pytest.mark.whole), "the origin"])
async def test_a_full_disk_is_never_complete_says_why_and_heals_when_there_is_room(
    tmp_path: Path, small_disk: Path, caplog: pytest.LogCaptureFixture, whose: str
) -> None:
    lesson = content({"a": noise(64 * 2 * PIECE), "b": noise(64 * PIECE, 2)}, piece_length=2 * PIECE)
    origin = Origin(lesson) if whose == "the origin" else Origin()
    completions: list[bool] = []
    with trio.fail_after(60):
        async with node("127.0.0.2") as peer, parts(small_disk / "library", origin) as mine:
            await hold(peer, lesson, lesson.write(tmp_path / "peer"))
            ballast = await fill(small_disk, lesson.size // 3)
            peers = (at(peer),) if whose == "a peer" else ()
            async with holding(mine, lesson, *peers) as held, trio.open_nursery() as nursery:

                async def watch() -> None:
                    await complete(held)
                    completions.append(ballast.exists())

                nursery.start_soon(watch)
                await held.until(lambda: held.torrent is not None and held.state is State.FAILED)
                assert "space" in (held.trouble or "")
                await trio.sleep(1.5)  # the period is the point: room is looked for several times
                assert not completions
                assert len([line for line in caplog.messages if "checking all of it" in line]) <= 2
                assert held.descriptor(lesson.layout.files[0]) is None
                await read_what_is_here(mine, held, lesson)
                ballast.unlink()
                await complete(held)
            assert completions == [False]
            assert lesson.is_at(mine.library.folder(lesson.info_hash))


async def read_what_is_here(mine: Parts, held: Holding, lesson: Content) -> None:
    """Pieces that are on the disk, by its own word, are read although it is full."""
    torrent = held.torrent
    assert torrent
    await torrent.until(lambda: torrent.is_checked)
    folder = mine.library.folder(lesson.info_hash)
    here = [
        Piece(n)
        for n in range(lesson.layout.pieces)
        if torrent.has(Piece(n)) and on_disk(folder, lesson, Piece(n)) == lesson.piece(Piece(n))
    ]
    assert here
    entry, start, stop = lesson.layout.file_of(here[0])
    assert await streamed(held, entry, start, stop) == lesson.piece(here[0])


def on_disk(folder: Path, lesson: Content, piece: Piece) -> bytes:
    entry, start, stop = lesson.layout.file_of(piece)
    path = folder / entry.path
    return path.read_bytes()[start:stop] if path.exists() else b""


async def test_a_refused_content_comes_when_another_manifest_says_what_is_in_it(tmp_path: Path) -> None:
    right = expected(LESSON)
    wrong = attrs.evolve(right, size=right.size + 1)
    with trio.fail_after(30):
        async with parts(tmp_path, Origin(LESSON)) as mine, holding(mine, wrong) as held:
            await held.until(lambda: held.is_refused)
            held.expect(attrs.evolve(wrong, audience=7))  # of the same files: it cannot be right either
            assert held.is_refused
            held.expect(right)
            await complete(held)
            assert (held.is_complete_as(right), held.is_complete_as(wrong)) == (True, False)
            assert (held.trouble, held.bytes_have) == (None, LESSON.size)


async def test_a_manifest_that_comes_while_a_content_is_being_refused_is_not_missed(tmp_path: Path) -> None:
    right = expected(LESSON)
    wrong = attrs.evolve(right, size=right.size + 1)
    with trio.fail_after(30):
        async with parts(tmp_path, Origin(LESSON)) as mine:
            held = Holding(mine, wrong, None)
            learn = held._learn

            def refuse(info: bytes) -> Layout:
                try:
                    return learn(info)
                except ManifestError:
                    held.expect(right)  # as may be while the task lets go of the swarm
                    raise

            held._learn = refuse  # type: ignore[method-assign]
            async with trio.open_nursery() as nursery:
                nursery.start_soon(held.run, Helpers())
                await complete(held)
                nursery.cancel_scope.cancel()
