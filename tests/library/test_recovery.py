from __future__ import annotations

import logging
import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import attrs
import pytest
import trio

from edgeshare.admission import Changes, Gone
from edgeshare.errors import LibraryError
from edgeshare.library.index import VERSION, Index, StoredCatalogue, StoredLesson, StoredTorrent
from edgeshare.library.library import Library, open_library
from edgeshare.library.recovery import backup_of, open_index, recover
from edgeshare.library.safe_index import MENDINGS
from edgeshare.manifest import InfoHash, LessonId
from tests.support.content import noise
from tests.support.disk import mounted, read_only, remount

PAGE = 4096  # SQLite's default
LESSONS = 60
WISHES = [
    StoredLesson(id=LessonId(f"lesson-{n:02}"), wanted=True, served=noise(3000, n), keys={}) for n in range(LESSONS)
]
GONE = [Gone(id=LessonId(f"gone-{n:02}"), by="cned/6e", why="une erreur", since=n, epoch=None) for n in range(LESSONS)]
CATALOGUE = StoredCatalogue(name="cned/6e", manifest=b"manifest", content=noise(50_000), keys={}, admitted_at="")


def fill(path: Path) -> None:
    """An index as a node leaves it that stopped cleanly."""
    index = Index(path)
    index.put_lessons(WISHES)
    index.admit(CATALOGUE, Changes(gone=tuple(GONE)))
    index.close()


def back_up(path: Path) -> None:
    index = Index(path)
    index.copy_to(backup_of(path))
    index.close()


def pages_of(path: Path, table: str) -> list[int]:
    """Where the leaves of a table lie."""
    with sqlite3.connect(path) as db:
        found = [
            number
            for (number,) in db.execute("SELECT pageno FROM dbstat WHERE name = ? AND pagetype = 'leaf'", (table,))
        ]
    db.close()
    return found


def tear(path: Path, *pages: int) -> None:
    with path.open("r+b") as file:
        for page in pages:
            file.seek((page - 1) * PAGE)
            file.write(noise(PAGE, page))


def rows(path: Path) -> tuple[list[StoredLesson], list[Gone], list[StoredCatalogue]]:
    index = Index(path)
    found = index.lessons(), index.gone(), index.catalogues()
    index.close()
    return found


def wanted(lessons: list[StoredLesson]) -> list[bool]:
    """Whether the first three are wanted."""
    return [lesson.wanted for lesson in sorted(lessons, key=lambda lesson: lesson.id)[:3]]


def aside(path: Path) -> list[Path]:
    return sorted(each for each in path.parent.glob("index.damaged-*") if not each.name.endswith(("-wal", "-shm")))


def opened(path: Path) -> tuple[list[StoredLesson], list[Gone], list[StoredCatalogue]]:
    """What the index at `path` knows after it was opened, and closed."""
    open_index(path).close()
    return rows(path)


def errors(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.message for record in caplog.records if record.levelno >= logging.ERROR]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "index.sqlite"
    fill(path)
    return path


def garbage(path: Path) -> None:
    path.write_bytes(b"this is no database, and it is long enough to be seen as none" * 100)


def a_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()
    (path / "file").write_bytes(b"somebody's")


def nothing_in_it(path: Path) -> None:
    path.write_bytes(b"")


def gone(path: Path) -> None:
    path.unlink()


def half(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2 // PAGE * PAGE)


def without_tables(path: Path) -> None:
    path.unlink()
    with sqlite3.connect(path) as db:
        db.execute(f"PRAGMA user_version = {VERSION}")
    db.close()


def with_a_strange_version(path: Path) -> None:
    with sqlite3.connect(path) as db:
        db.execute("PRAGMA user_version = -1")
    db.close()


HARMS = [garbage, a_folder, nothing_in_it, gone, half, without_tables, with_a_strange_version]


@pytest.mark.parametrize("harm", HARMS, ids=lambda harm: harm.__name__)
def test_whatever_befell_an_index_a_new_one_has_what_the_backup_knew(
    path: Path, caplog: pytest.LogCaptureFixture, harm: Callable[[Path], None]
) -> None:
    before = rows(path)
    back_up(path)
    harm(path)
    assert opened(path) == before
    (line,) = errors(caplog)
    assert f"{LESSONS} lessons" in line
    assert len(aside(path)) == (harm is not gone)


@pytest.mark.parametrize("harm", HARMS, ids=lambda harm: harm.__name__)
def test_without_a_backup_a_node_starts_with_what_can_be_read(
    path: Path, caplog: pytest.LogCaptureFixture, harm: Callable[[Path], None]
) -> None:
    before = rows(path)
    harm(path)
    found = opened(path)
    assert [lesson for lesson in found[0] if lesson not in before[0]] == []
    assert [each for each in found[1] if each not in before[1]] == []
    assert (found == before) == (harm is with_a_strange_version)
    assert len(errors(caplog)) == (harm not in (nothing_in_it, gone))
    assert opened(path) == found  # and the next start has nothing to mend


def test_a_torn_page_costs_what_was_on_it_and_nothing_else(path: Path) -> None:
    leaves = pages_of(path, "lessons")
    tear(path, leaves[len(leaves) // 2])
    lessons, withdrawals, catalogues = opened(path)
    assert LESSONS - 3 <= len(lessons) < LESSONS
    assert all(lesson in WISHES for lesson in lessons)
    assert (len(withdrawals), catalogues) == (LESSONS, [CATALOGUE])


def test_what_a_torn_page_took_comes_from_the_backup(path: Path) -> None:
    back_up(path)
    index = Index(path)
    newer = [attrs.evolve(WISHES[0], wanted=False), attrs.evolve(WISHES[-1], wanted=False)]
    index.put_lessons(newer)
    index.close()
    tear(path, pages_of(path, "lessons")[len(pages_of(path, "lessons")) // 2])
    lessons = {lesson.id: lesson for lesson in opened(path)[0]}
    assert len(lessons) == LESSONS
    assert [lessons[each.id] for each in newer] == newer  # the newer word counts where it can be read


def test_a_withdrawal_that_either_the_index_or_its_backup_knows_is_kept(path: Path) -> None:
    back_up(path)
    index = Index(path)
    late = attrs.evolve(GONE[0], id=LessonId("gone-late"))
    index.heed(Changes(back=((GONE[5].id, GONE[5].by),), gone=(late,)))
    index.close()
    tear(path, pages_of(path, "catalogues")[-1])
    found = {each.id for each in opened(path)[1]}
    assert found == {each.id for each in GONE} | {late.id}  # the next edition says again what came back


def test_what_was_forgotten_since_the_backup_does_not_come_back_when_its_table_is_whole(path: Path) -> None:
    back_up(path)
    index = Index(path)
    index.drop_lesson(WISHES[7].id)
    index.close()
    tear(path, pages_of(path, "catalogues")[-1])
    lessons, _, catalogues = opened(path)
    assert len(lessons) == LESSONS - 1
    assert catalogues == [CATALOGUE]


def test_text_that_is_no_text_is_left_out(path: Path) -> None:
    with sqlite3.connect(path) as db:
        db.execute("UPDATE lessons SET id = CAST(x'ff' AS TEXT) WHERE id = 'lesson-03'")
    db.close()
    recover(path, "a name is no text").close()
    assert {lesson.id for lesson in rows(path)[0]} == {each.id for each in WISHES} - {"lesson-03"}


def test_resume_data_of_a_content_that_is_not_whole_is_not_taken_over(path: Path) -> None:
    torrent = StoredTorrent(
        info_hash=InfoHash(bytes(32)), info=b"i", resume=b"old", stamps=None, origin_bytes=1, peer_bytes=2
    )
    whole = attrs.evolve(torrent, info_hash=InfoHash(noise(32)), stamps=())
    index = Index(path)
    index.put_torrent(torrent)
    index.put_torrent(whole)
    index.close()
    recovered = recover(path, "damage")
    assert {each.info_hash: each.resume for each in recovered.torrents()} == {
        torrent.info_hash: None,
        whole.info_hash: b"old",
    }
    recovered.close()


def test_only_the_last_damaged_index_is_kept(path: Path) -> None:
    for name in ("index.damaged-2026-01-01.sqlite", "index.damaged-2026-01-02.sqlite"):
        (path.parent / name).write_bytes(b"an earlier one")
    garbage(path)
    opened(path)
    (kept,) = aside(path)
    assert kept.read_bytes().startswith(b"this is no database")


def test_a_damaged_index_of_an_earlier_version_is_brought_into_the_new_one(tmp_path: Path) -> None:
    path = tmp_path / "index.sqlite"
    with sqlite3.connect(path) as db:
        db.executescript(
            "CREATE TABLE lessons (id TEXT PRIMARY KEY, wanted INTEGER NOT NULL DEFAULT 0, served BLOB, keys BLOB)"
            " STRICT; INSERT INTO lessons VALUES ('fractions', 1, NULL, NULL); PRAGMA user_version = 1;"
        )
    db.close()
    assert opened(path)[0] == [StoredLesson(id=LessonId("fractions"), wanted=True, served=None, keys={})]


def copied_while_open(path: Path, to: Path) -> Path:
    """The library's index as a power cut leaves it: with a log that was not written into the file yet."""
    index = Index(path)
    index.put_lesson(attrs.evolve(WISHES[0], wanted=False))
    index.put_lesson(attrs.evolve(WISHES[1], wanted=False))
    to.mkdir()
    for each in path.parent.glob("index.sqlite*"):
        shutil.copyfile(each, to / each.name)
    index.close()
    return to / path.name


@pytest.mark.parametrize("suffix", ["-wal", "-shm"])
@pytest.mark.parametrize("how", ["deleted", "cut", "emptied", "overwritten"])
def test_a_torn_log_costs_the_last_words_and_nothing_else(path: Path, tmp_path: Path, suffix: str, how: str) -> None:
    copy = copied_while_open(path, tmp_path / "copy")
    log = copy.with_name(copy.name + suffix)
    match how:
        case "deleted":
            log.unlink()
        case "cut":
            os.truncate(log, log.stat().st_size - 1000)
        case "emptied":
            os.truncate(log, 0)
        case _:
            log.write_bytes(noise(log.stat().st_size))
    found = wanted(opened(copy)[0])
    assert found in ([False, False, True], [False, True, True], [True, True, True])
    assert len(rows(copy)[0]) == LESSONS
    if suffix == "-shm":
        assert found == [False, False, True]


def test_a_kill_in_the_middle_of_mending_leaves_an_index_that_is_mended_or_mended_anew(path: Path) -> None:
    back_up(path)
    before = rows(path)
    mended = path.with_name("index.mended.sqlite")
    shutil.copyfile(path, mended)
    garbage(path)  # killed before it was set aside
    assert opened(path) == before
    shutil.copyfile(path, mended)
    path.unlink()  # killed after
    backup_of(path).unlink()
    assert opened(path) == before
    assert not mended.exists()


def test_a_mended_index_misses_something_from_that_day_on(path: Path) -> None:
    index = Index(path)
    index.put_fact("since", "2026-01-01")
    index.put_fact("other", "kept")
    index.close()
    tear(path, pages_of(path, "catalogues")[-1])
    index = open_index(path)
    assert (index.fact("since"), index.fact("other")) == (str(datetime.now(UTC).date()), "kept")
    index.close()


async def test_damage_that_is_met_while_the_node_runs_is_mended_under_way(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with open_library(path.parent) as library:
        await library.keep_lesson(attrs.evolve(WISHES[0], wanted=False))
        reopened = trio.Event()

        async def listen(*, task_status: trio.TaskStatus[None]) -> None:
            task_status.started()
            await library.reopened(0)
            reopened.set()

        async with trio.open_nursery() as nursery:
            await nursery.start(listen)
            damage(library)
            assert len(await library.lessons()) >= LESSONS - 3
            with trio.fail_after(5):
                await reopened.wait()
        await library.keep_lesson(attrs.evolve(WISHES[1], wanted=False))
        assert len(errors(caplog)) == 1
    assert {lesson.id: lesson.wanted for lesson in rows(path)[0]}[WISHES[1].id] is False


def damage(library: Library) -> None:
    """Tear a page of the open index, and have SQLite forget what it read of it."""
    index = library._index._index
    index._db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    leaves = pages_of(index.path, "lessons")
    tear(index.path, leaves[len(leaves) // 2])
    index._db.execute("PRAGMA shrink_memory")


async def test_a_disk_that_damages_everything_has_the_index_kept_in_memory_in_the_end(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with open_library(path.parent) as library:
        for _ in range(MENDINGS + 1):
            assert library._index.is_kept
            await library.keep_lessons(WISHES)
            damage(library)
            await library.lessons()
        assert not library._index.is_kept
        await library.keep_lessons(WISHES)
        assert await library.lessons() == WISHES
        assert len(errors(caplog)) == MENDINGS + 1
        await library._index.return_to_disk()
        assert not library._index.is_kept
    assert len(opened(path)[0]) >= LESSONS - 3  # the next start mends it


@pytest.mark.parametrize("suffix", ["", "-wal"])
@pytest.mark.parametrize("how", ["deleted", "replaced"])
async def test_an_index_that_is_deleted_while_it_is_in_use_is_put_back_with_all_that_it_knew(
    path: Path, tmp_path: Path, suffix: str, how: str
) -> None:
    async with open_library(path.parent) as library:
        await library.keep_lesson(attrs.evolve(WISHES[0], wanted=False))
        path.with_name(path.name + suffix).unlink()
        if how == "replaced":
            path.with_name(path.name + suffix).write_bytes(b"something else")
        await library.keep_lesson(attrs.evolve(WISHES[1], wanted=False))
        copy = tmp_path / "copy"  # as after a kill
        copy.mkdir()
        for each in (path, path.with_name(f"{path.name}-wal")):
            shutil.copyfile(each, copy / each.name)
    for each in (path, copy / path.name):
        assert wanted(rows(each)[0]) == [False, False, True]


async def test_what_nobody_else_knows_is_in_the_backup_when_the_node_has_stopped(tmp_path: Path) -> None:
    path = tmp_path / "index.sqlite"
    async with open_library(tmp_path) as library:
        await library.put_traffic("2026-11", 1)
    assert not backup_of(path).exists()
    async with open_library(tmp_path) as library:
        await library.keep_lesson(WISHES[0])
    garbage(path)
    assert opened(path)[0] == WISHES[:1]


async def test_a_backup_that_takes_too_long_for_a_node_that_stops_is_given_up(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with open_library(tmp_path) as library:
        for n in range(10):
            await library.admit(attrs.evolve(CATALOGUE, name=f"cned/{n}", content=bytes(3_000_000)))
        await library._index.back_up_at_the_end(within_s=0)
        assert "not backed up" in caplog.text
        assert not backup_of(tmp_path / "index.sqlite").exists()
        library._index._has_precious = False  # or it would be made here, at the end


async def test_a_backup_is_made_once_a_day_and_within_an_hour_for_what_nobody_else_knows(tmp_path: Path) -> None:
    path = backup_of(tmp_path / "index.sqlite")
    now = datetime.now(UTC)
    async with open_library(tmp_path) as library:
        index = library._index
        await index.back_up_when_due(now)
        assert not path.exists()  # there is nothing in it
        await library.put_traffic("2026-11", 1)
        await index.back_up_when_due(now)
        made = path.stat().st_ino
        await library.put_traffic("2026-11", 2)
        await index.back_up_when_due(now + timedelta(hours=23))
        assert path.stat().st_ino == made
        await index.back_up_when_due(now + timedelta(hours=25))
        assert path.stat().st_ino != made
        made = path.stat().st_ino
        await library.keep_lesson(WISHES[0])
        await index.back_up_when_due(now + timedelta(minutes=59))
        assert path.stat().st_ino == made
        await index.back_up_when_due(now + timedelta(minutes=61))
        assert path.stat().st_ino != made


async def test_a_backup_for_which_there_is_no_room_leaves_the_one_before_and_is_tried_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with mounted(tmp_path / "disk", "1m") as disk:
        async with open_library(disk) as library:
            await library.keep_lesson(WISHES[0])
            await library._index.back_up()
            kept = backup_of(disk / "index.sqlite").read_bytes()
            await library.keep_lessons(WISHES)
            ballast = disk / "ballast"
            status = os.statvfs(disk)
            ballast.write_bytes(bytes(status.f_bavail * status.f_frsize))
            await library._index.back_up()
            assert "not backed up" in caplog.text
            assert backup_of(disk / "index.sqlite").read_bytes() == kept
            assert not list(disk.glob(".*.part"))
            ballast.unlink()
            await library._index.back_up()
            assert len(rows(backup_of(disk / "index.sqlite"))[0]) == LESSONS


async def test_a_library_on_a_read_only_disk_tells_what_it_knows_and_keeps_nothing(path: Path) -> None:
    async with open_library(path.parent):
        pass
    with read_only(path.parent):
        async with open_library(path.parent) as library:
            assert await library.lessons() == WISHES
            assert library.disk.is_readonly
            await library.keep_lesson(attrs.evolve(WISHES[0], wanted=False))
            assert wanted(await library.lessons()) == [False, True, True]
    assert rows(path)[0] == WISHES


async def test_a_library_that_was_killed_tells_also_its_last_words_on_a_read_only_disk(
    path: Path, tmp_path: Path
) -> None:
    copy = copied_while_open(path, tmp_path / "copy")
    for name in ("content", "trash", "trust"):
        (copy.parent / name).mkdir()
    (copy.parent / "lock").touch()
    copy.with_name("index.sqlite-shm").unlink()
    with read_only(copy.parent):
        async with open_library(copy.parent) as library:
            assert wanted(await library.lessons()) == [False, False, True]


async def test_an_index_in_memory_returns_to_its_disk_when_that_can_be_written_again(tmp_path: Path) -> None:
    with mounted(tmp_path / "disk", "1m") as disk:
        async with open_library(disk) as library:
            await library.keep_lessons(WISHES)
        remount(disk, "ro")
        async with open_library(disk) as library:
            await library._index.return_to_disk()
            assert not library._index.is_kept
            remount(disk, "rw")
            await library._index.return_to_disk()
            await library.keep_lesson(attrs.evolve(WISHES[0], wanted=False))
        assert wanted(rows(disk / "index.sqlite")[0]) == [False, True, True]


async def test_a_library_on_a_full_disk_opens_and_tells_what_it_knows(tmp_path: Path) -> None:
    with mounted(tmp_path / "disk", "1m") as disk:
        async with open_library(disk) as library:
            await library.keep_lessons(WISHES)
        ballast = disk / "ballast"
        status = os.statvfs(disk)
        ballast.write_bytes(bytes(status.f_bavail * status.f_frsize))
        async with open_library(disk) as library:
            assert await library.lessons() == WISHES
            ballast.unlink()
            await library._index.return_to_disk()
            await library.keep_lesson(attrs.evolve(WISHES[0], wanted=False))
        assert wanted(rows(disk / "index.sqlite")[0]) == [False, True, True]


async def test_two_daemons_on_a_read_only_library_are_one_too_many(path: Path) -> None:
    async with open_library(path.parent):
        pass
    open_it = (
        "import sys, trio; from pathlib import Path; from edgeshare.library.library import open_library\n"
        "async def main():\n"
        "    async with open_library(Path(sys.argv[1])): pass\n"
        "trio.run(main)"
    )
    with read_only(path.parent):
        async with open_library(path.parent):
            command = [sys.executable, "-c", open_it, str(path.parent)]
            second = subprocess.run(command, check=False, capture_output=True, text=True, timeout=30)
    assert "another edgeshare uses" in second.stderr


def test_a_library_that_never_was_cannot_be_made_on_a_read_only_disk(tmp_path: Path) -> None:
    with read_only(tmp_path), pytest.raises(LibraryError):
        open_index(tmp_path / "index.sqlite")
