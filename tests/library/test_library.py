from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
import time
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from random import Random

import attrs
import msgpack
import pytest
import trio

from edgeshare.admission import Changes, Gone, Memory, Version
from edgeshare.errors import LibraryError
from edgeshare.library.content import Stamp
from edgeshare.library.index import VERSION, Index, StoredCatalogue, StoredLesson, StoredTorrent
from edgeshare.library.library import open_library
from edgeshare.manifest import InfoHash, LessonId
from edgeshare.publishers import Delegation, Publishers
from edgeshare.signing import PublicKey
from tests.core.samples import lesson
from tests.support.content import PIECE, content, noise
from tests.support.disk import mounted

KEY = PublicKey("ed25519", noise(32))
LESSON = content({"a/page.html": noise(3 * PIECE), "empty": b""})
TORRENT = StoredTorrent(
    info_hash=LESSON.info_hash,
    info=LESSON.info,
    resume=b"resume",
    stamps=(Stamp(3, 2**62, 2**40), Stamp(0, 1, 1)),
    origin_bytes=1,
    peer_bytes=2,
)
CATALOGUE = StoredCatalogue(
    name="cned/6e", manifest=b"manifest", content=b"content", keys={KEY.id: KEY}, admitted_at="2026-11-24T07:00:00Z"
)
GONE = Gone(
    id=LessonId("fractions"), by="cned/6e", why="une erreur", since=3, epoch="keys", lesson=lesson(id="fractions")
)
PUBLISHERS = Publishers(
    delegations={"cned": Delegation(prefix="", epoch="keys"), "lyon": Delegation(prefix="lyon-", epoch="others")},
    revoked={"paris": "the key was stolen"},
    revoked_keys=frozenset({KEY.id, bytes(32)}),
)
VERSION_3 = Version(number=3, digest=bytes(32), publisher="cned", epoch=None)
CHANGES = Changes(publishers=PUBLISHERS, gone=(GONE,), versions={LessonId("fractions"): VERSION_3})
WISH = StoredLesson(id=LessonId("fractions"), wanted=True, served=None, keys={KEY.id: KEY})


def test_the_index_gives_back_what_it_was_given_also_after_it_was_closed(tmp_path: Path) -> None:
    index = Index(tmp_path / "index.sqlite")
    index.put_torrent(attrs.evolve(TORRENT, stamps=None))
    index.put_torrent(TORRENT)
    index.admit(CATALOGUE)
    index.put_lesson(WISH)
    index.close()
    index = Index(tmp_path / "index.sqlite")
    assert (index.torrents(), index.catalogues(), index.lessons()) == ([TORRENT], [CATALOGUE], [WISH])
    vouched = attrs.evolve(WISH, served=b"a manifest", epoch="keys")
    index.put_lesson(vouched)
    assert index.lessons() == [vouched]
    pinned = attrs.evolve(vouched, pinned=True, used_on=date(2026, 11, 24))
    brought = attrs.evolve(TORRENT, torrent=b"with its piece layers")
    index.put_lesson(pinned)
    index.put_torrent(brought)
    assert (index.lessons(), index.torrents()) == ([pinned], [brought])
    index.drop_torrent(TORRENT.info_hash)
    index.drop_lesson(WISH.id)
    assert (index.torrents(), index.lessons()) == ([], [])
    index.close()


def test_the_index_counts_traffic_by_month_and_keeps_small_facts(tmp_path: Path) -> None:
    index = Index(tmp_path / "index.sqlite")
    assert (index.traffic("2026-11"), index.fact("jitter")) == (0, None)
    index.put_traffic("2026-11", 2**40)
    index.put_traffic("2026-11", 2**41)
    index.put_traffic("2026-12", 1)
    index.put_fact("jitter", "0.5")
    index.put_fact("jitter", "0.7")
    index.close()
    index = Index(tmp_path / "index.sqlite")
    assert (index.traffic("2026-11"), index.traffic("2026-12"), index.fact("jitter")) == (2**41, 1, "0.7")
    index.close()


def remembered(index: Index) -> Memory:
    gone = {(each.id, each.by): each for each in index.gone()}
    return Memory(publishers=index.publishers(), gone=gone, versions=index.versions())


def test_the_index_remembers_what_a_step_of_admission_changed(tmp_path: Path) -> None:
    index = Index(tmp_path / "index.sqlite")
    assert remembered(index) == Memory()
    epoch = attrs.evolve(CATALOGUE, epoch="keys")
    unnamed = attrs.evolve(GONE, by="lyon", since=0, epoch=None, lesson=None)
    index.admit(epoch, CHANGES)
    index.heed(Changes(gone=(unnamed,)))
    index.close()
    index = Index(tmp_path / "index.sqlite")
    assert index.catalogues() == [epoch]
    both = {(GONE.id, "cned/6e"): GONE, (GONE.id, "lyon"): unnamed}
    assert remembered(index) == Memory(publishers=PUBLISHERS, gone=both, versions=dict(CHANGES.versions))
    index.heed(Changes(forgotten=frozenset({"cned/6e"}), back=((GONE.id, "cned/6e"),)))
    assert (index.catalogues(), index.gone(), index.publishers()) == ([], [unnamed], PUBLISHERS)
    index.close()


def test_a_step_that_fails_half_way_changes_nothing(tmp_path: Path) -> None:
    index = Index(tmp_path / "index.sqlite")
    unwritable = attrs.evolve(CHANGES, versions={GONE.id: attrs.evolve(VERSION_3, number=2**70)})
    with pytest.raises(OverflowError):
        index.admit(CATALOGUE, unwritable)
    with pytest.raises(OverflowError):
        index.heed(unwritable)
    assert (index.catalogues(), remembered(index)) == ([], Memory())
    index.admit(CATALOGUE, CHANGES)  # and the next one is kept
    index.close()
    index = Index(tmp_path / "index.sqlite")
    assert (index.catalogues(), index.gone()) == ([CATALOGUE], [GONE])
    index.close()


def test_a_kill_in_the_middle_of_a_step_leaves_what_was_before(tmp_path: Path) -> None:
    index = Index(tmp_path / "index.sqlite")
    index.admit(CATALOGUE)
    index.close()
    cut = (
        "import os, signal, sys; from pathlib import Path; from edgeshare.library.index import Index;"
        "index = Index(Path(sys.argv[1]));"
        "step = index._transaction(); step.__enter__();"
        "index._db.execute('DELETE FROM catalogues');"
        "index._db.execute('INSERT INTO withdrawals VALUES (?, ?, ?, ?, ?, ?)', ('a', 'b', 'c', 1, None, None));"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    killed = subprocess.run([sys.executable, "-c", cut, str(tmp_path / "index.sqlite")], check=False, timeout=60)
    assert killed.returncode < 0
    index = Index(tmp_path / "index.sqlite")
    assert (index.catalogues(), index.gone()) == ([CATALOGUE], [])
    index.close()


ADMITTING = """
import sys
from itertools import count
from pathlib import Path
from edgeshare.admission import Changes, Gone, Version
from edgeshare.library.index import Index, StoredCatalogue

index = Index(Path(sys.argv[1]))
print("ready", flush=True)
for number in count(int(sys.argv[2])):
    catalogue = StoredCatalogue(
        name="cned/6e", manifest=b"%d" % number, content=bytes(100_000), keys={}, admitted_at="", epoch=str(number)
    )
    gone = Gone(id="a", by="cned/6e", why="why", since=number)
    version = Version(number=number, digest=b"", publisher="cned", epoch=None)
    index.admit(catalogue, Changes(gone=(gone,), versions={"a": version}))
"""


@pytest.mark.whole
def test_a_kill_at_any_moment_leaves_one_edition_with_all_that_it_brought(tmp_path: Path) -> None:
    path, rng = tmp_path / "index.sqlite", Random(1)
    reached = 0
    for _ in range(50):
        command = [sys.executable, "-c", ADMITTING, str(path), str(reached + 1)]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as admitting:
            assert admitting.stdout
            admitting.stdout.readline()
            time.sleep(rng.uniform(0, 0.05))  # any moment: each step takes some milliseconds
            admitting.kill()
        index = Index(path)
        if catalogues := index.catalogues():
            (catalogue,), (gone,), (version,) = catalogues, index.gone(), index.versions().values()
            number = int(catalogue.manifest)
            assert (catalogue.epoch, gone.since, version.number) == (str(number), number, number)
            assert number >= reached
            reached = number
        index.close()
    assert reached > 0


FIRST_SCHEMA = """
CREATE TABLE catalogues (
    name TEXT PRIMARY KEY,
    manifest BLOB NOT NULL,
    content BLOB NOT NULL,
    keys BLOB NOT NULL,
    admitted_at TEXT NOT NULL
) STRICT;
CREATE TABLE torrents (
    info_hash BLOB PRIMARY KEY,
    info BLOB NOT NULL,
    resume BLOB,
    stamps BLOB,
    origin_bytes INTEGER NOT NULL DEFAULT 0,
    peer_bytes INTEGER NOT NULL DEFAULT 0
) STRICT;
CREATE TABLE lessons (
    id TEXT PRIMARY KEY,
    wanted INTEGER NOT NULL DEFAULT 0,
    served BLOB,
    keys BLOB
) STRICT;
PRAGMA user_version = 1;
"""


def test_an_index_of_the_first_version_is_read_and_goes_on(tmp_path: Path) -> None:
    """The statements are those of edgeshare before there were publishers."""
    path = tmp_path / "index.sqlite"
    keys = msgpack.packb([[KEY.scheme, KEY.public]])
    stamps = msgpack.packb([[3, 2**62, 2**40], [0, 1, 1]])
    with sqlite3.connect(path) as db:
        db.execute("PRAGMA journal_mode = WAL")
        db.executescript(FIRST_SCHEMA)
        first = (CATALOGUE.name, CATALOGUE.manifest, CATALOGUE.content, keys, CATALOGUE.admitted_at)
        db.execute("INSERT INTO catalogues VALUES (?, ?, ?, ?, ?)", first)
        torrent = (TORRENT.info_hash, TORRENT.info, TORRENT.resume, stamps, 1, 2)
        db.execute("INSERT INTO torrents VALUES (?, ?, ?, ?, ?, ?)", torrent)
        db.execute("INSERT INTO lessons VALUES (?, ?, ?, ?)", (WISH.id, 1, None, keys))
    db.close()
    for _ in range(2):  # the second time it is one of this version
        index = Index(path)
        assert (index.catalogues(), index.torrents(), index.lessons()) == ([CATALOGUE], [TORRENT], [WISH])
        index.close()
    index = Index(path)
    assert remembered(index) == Memory()
    index.admit(attrs.evolve(CATALOGUE, epoch="keys"), CHANGES)
    assert index.catalogues()[0].epoch == "keys"
    assert index.gone() == [GONE]
    index.close()


SECOND_SCHEMA = """
ALTER TABLE catalogues ADD COLUMN epoch TEXT;
ALTER TABLE lessons ADD COLUMN epoch TEXT;
CREATE TABLE publishers (
    one INTEGER PRIMARY KEY CHECK (one = 1),
    packed BLOB NOT NULL
) STRICT;
CREATE TABLE withdrawals (
    lesson TEXT NOT NULL,
    by TEXT NOT NULL,
    why TEXT NOT NULL,
    since INTEGER NOT NULL,
    epoch TEXT,
    manifest BLOB,
    PRIMARY KEY (lesson, by)
) STRICT;
CREATE TABLE versions (
    lesson TEXT PRIMARY KEY,
    number INTEGER NOT NULL,
    digest BLOB NOT NULL,
    publisher TEXT NOT NULL,
    epoch TEXT
) STRICT;
PRAGMA user_version = 2;
"""


def test_an_index_of_the_second_version_is_read_and_goes_on(tmp_path: Path) -> None:
    """The statements are those of edgeshare before lessons could be pinned."""
    path = tmp_path / "index.sqlite"
    with sqlite3.connect(path) as db:
        db.execute("PRAGMA journal_mode = WAL")
        db.executescript(FIRST_SCHEMA + SECOND_SCHEMA)
        keys = msgpack.packb([[KEY.scheme, KEY.public]])
        db.execute("INSERT INTO lessons VALUES (?, ?, ?, ?, ?)", (WISH.id, 1, None, keys, "keys"))
        db.execute(
            "INSERT INTO torrents VALUES (?, ?, ?, ?, ?, ?)", (TORRENT.info_hash, TORRENT.info, None, None, 1, 2)
        )
        db.execute("INSERT INTO withdrawals VALUES (?, ?, ?, ?, ?, ?)", ("gone", "cned/6e", "why", 1, None, None))
    db.close()
    index = Index(path)
    assert index.lessons() == [attrs.evolve(WISH, epoch="keys")]
    assert index.torrents() == [attrs.evolve(TORRENT, resume=None, stamps=None)]
    assert [gone.id for gone in index.gone()] == ["gone"]
    index.put_lesson(attrs.evolve(WISH, pinned=True, used_on=date(2026, 11, 24)))
    index.close()
    index = Index(path)
    assert index.lessons() == [attrs.evolve(WISH, pinned=True, used_on=date(2026, 11, 24))]
    index.close()


def test_a_day_that_is_none_counts_as_unknown(tmp_path: Path) -> None:
    path = tmp_path / "index.sqlite"
    index = Index(path)
    index.put_lesson(attrs.evolve(WISH, used_on=date(2026, 11, 24)))
    index.close()
    with sqlite3.connect(path) as db:
        db.execute("UPDATE lessons SET used_on = 'yesterday'")
    db.close()
    index = Index(path)
    assert index.lessons() == [WISH]
    index.close()


def test_damaged_names_and_publishers_count_as_unknown(tmp_path: Path) -> None:
    path = tmp_path / "index.sqlite"
    index = Index(path)
    index.heed(CHANGES)
    index.close()
    for damage in (b"\x93\xc1", b"\xff\xff", b"", b"\x80", b"\x91\x93\x01\x02"):
        with sqlite3.connect(path) as db:
            db.execute("UPDATE publishers SET packed = ?", (damage,))
            db.execute("UPDATE withdrawals SET manifest = ?", (damage,))
        db.close()
        index = Index(path)
        assert index.publishers() is None
        assert index.gone() == [attrs.evolve(GONE, lesson=None)]
        index.close()


def test_an_index_of_a_newer_edgeshare_is_refused_and_left_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "index.sqlite"
    with sqlite3.connect(path) as db:
        db.execute(f"PRAGMA user_version = {VERSION + 1}")
    db.close()
    before = path.read_bytes()
    with pytest.raises(LibraryError, match="newer edgeshare"):
        Index(path)
    assert path.read_bytes() == before


def test_damaged_stamps_and_keys_count_as_none(tmp_path: Path) -> None:
    path = tmp_path / "index.sqlite"
    index = Index(path)
    index.put_torrent(TORRENT)
    index.put_lesson(attrs.evolve(WISH, served=b"manifest"))
    index.close()
    for damage in (b"\x93\xc1", b"\xff\xff", b"", b"\x91\x93\x01\x02"):
        with sqlite3.connect(path) as db:
            db.execute("UPDATE torrents SET stamps = ?", (damage,))
            db.execute("UPDATE lessons SET keys = ?", (damage,))
        db.close()
        index = Index(path)
        assert index.torrents()[0].stamps is None
        assert index.lessons()[0].keys == {}
        index.close()


async def test_a_library_in_use_by_another_process_is_refused_in_one_line(tmp_path: Path) -> None:
    hold = f"import fcntl, os, time; d = os.open({str(tmp_path / 'lock')!r}, os.O_CREAT | os.O_RDWR, 0o600)"
    hold += "; fcntl.flock(d, fcntl.LOCK_EX); print('held', flush=True); time.sleep(60)"
    async with open_library(tmp_path):
        pass
    with subprocess.Popen([sys.executable, "-c", hold], stdout=subprocess.PIPE) as other:
        assert other.stdout
        other.stdout.readline()
        with pytest.raises(LibraryError, match="another edgeshare uses") as refused:
            async with open_library(tmp_path):
                pass
        other.kill()
    assert "\n" not in str(refused.value)
    async with open_library(tmp_path):  # a lock dies with its process
        pass


async def test_a_library_that_cannot_be_made_is_refused_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(LibraryError, match="cannot be written"):
        async with open_library(tmp_path / "file"):
            pass


async def test_a_dropped_content_leaves_the_disk_and_the_index(tmp_path: Path) -> None:
    async with open_library(tmp_path) as library:
        LESSON.write(library.folder(LESSON.info_hash))
        await library.keep_torrent(TORRENT)
        await library.drop_torrent(LESSON.info_hash)
        assert await library.torrents() == []
        assert list((tmp_path / "content").iterdir()) == list((tmp_path / "trash").iterdir()) == []
        await library.drop_torrent(LESSON.info_hash)  # what is not there is no trouble


async def test_a_content_whose_files_cannot_be_deleted_stays_in_the_index_to_be_dropped_later(tmp_path: Path) -> None:
    async with open_library(tmp_path) as library:
        LESSON.write(library.folder(LESSON.info_hash))
        await library.keep_torrent(TORRENT)
        (tmp_path / "trash").rmdir()
        (tmp_path / "trash").write_bytes(b"in the way")
        with pytest.raises(LibraryError):
            await library.drop_torrent(LESSON.info_hash)
        assert await library.torrents() == [TORRENT]


async def test_a_content_is_deleted_also_when_somebody_deleted_the_trash(tmp_path: Path) -> None:
    async with open_library(tmp_path) as library:
        LESSON.write(library.folder(LESSON.info_hash))
        await library.keep_torrent(TORRENT)
        (tmp_path / "trash").rmdir()
        await library.drop_torrent(LESSON.info_hash)
        assert await library.torrents() == []
        assert list((tmp_path / "content").iterdir()) == list((tmp_path / "trash").iterdir()) == []


async def test_a_content_in_the_way_of_another_goes_also_when_somebody_deleted_the_trash(tmp_path: Path) -> None:
    async with open_library(tmp_path) as library:
        (library.folder(LESSON.info_hash) / "old").mkdir(parents=True)
        brought = LESSON.write(tmp_path / "brought")
        (tmp_path / "trash").rmdir()
        await library.move_in(LESSON.info_hash, brought)
        assert not (library.folder(LESSON.info_hash) / "old").exists()
        assert await library.verify(LESSON.info_hash, LESSON.layout)


async def test_a_trash_that_cannot_be_read_is_left_for_later(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async with open_library(tmp_path) as library:
        (tmp_path / "trash").rmdir()
        await library.empty_trash()
        assert not caplog.records  # a missing one is empty
        (tmp_path / "trash").write_bytes(b"in the way")
        await library.empty_trash()
        assert [record.levelname for record in caplog.records] == ["WARNING"]


async def test_what_was_half_deleted_is_deleted_after_the_next_start(tmp_path: Path) -> None:
    async with open_library(tmp_path):
        pass
    LESSON.write(tmp_path / "trash" / "left")
    (tmp_path / "trash" / "file").write_bytes(b"")
    (tmp_path / "trash" / "link").symlink_to(tmp_path)
    async with open_library(tmp_path) as library:
        await library.empty_trash()
    assert list((tmp_path / "trash").iterdir()) == []
    assert (tmp_path / "index.sqlite").exists()


async def test_a_whole_file_is_read_only_when_it_is_what_was_published(tmp_path: Path) -> None:
    page = LESSON.layout.files[0]
    async with open_library(tmp_path) as library:
        folder = LESSON.write(library.folder(LESSON.info_hash))
        assert await library.file(LESSON.info_hash, page) == LESSON.files["a/page.html"]
        (folder / "a" / "page.html").write_bytes(b"other")
        with pytest.raises(LibraryError, match="altered"):
            await library.file(LESSON.info_hash, page)
        (folder / "a" / "page.html").unlink()
        with pytest.raises(LibraryError):
            await library.file(LESSON.info_hash, page)


async def test_a_check_that_is_cancelled_ends_at_once(tmp_path: Path) -> None:
    async with open_library(tmp_path) as library:
        folder = library.folder(LESSON.info_hash)
        LESSON.write(folder)
        (folder / "a" / "page.html").unlink()
        os.mkfifo(folder / "a" / "page.html")  # also where reading could wait for ever
        with trio.fail_after(5):
            assert await library.verify(LESSON.info_hash, LESSON.layout) is None
            with trio.CancelScope() as scope:
                scope.cancel()
                await library.verify(LESSON.info_hash, LESSON.layout)
            assert scope.cancelled_caught


async def test_contents_that_nothing_names_go_after_a_month_and_not_before_the_index_had_time_to_hear_of_them(
    tmp_path: Path,
) -> None:
    today = datetime.now(UTC).date()
    known, old, new = (InfoHash(noise(32, n)) for n in range(3))
    async with open_library(tmp_path) as library:
        for info_hash in (known, old, new):
            LESSON.write(library.folder(info_hash))
        month_ago = time.time() - timedelta(days=30).total_seconds()
        for info_hash in (known, old):
            os.utime(library.folder(info_hash), (month_ago, month_ago))
        await library.put_fact("since", str(today - timedelta(days=29)))
        await library.clear_strays({known}, today)
        assert library.folder(old).exists()
        await library.put_fact("since", str(today - timedelta(days=30)))
        await library.clear_strays({known}, today)
        assert {path.name for path in (tmp_path / "content").iterdir()} == {known.hex(), new.hex()}
        assert not list((tmp_path / "trash").iterdir())


async def test_an_index_with_a_damaged_first_day_clears_nothing_for_a_month(tmp_path: Path) -> None:
    today = datetime.now(UTC).date()
    async with open_library(tmp_path) as library:
        stray = LESSON.write(library.folder(LESSON.info_hash))
        os.utime(stray, (0, 0))
        await library.put_fact("since", "2026-1\x00-24")
        await library.clear_strays((), today)
        await library.clear_strays((), today + timedelta(days=29))
        assert stray.exists()
        await library.clear_strays((), today + timedelta(days=30))
        assert not stray.exists()


async def test_contents_that_nothing_names_go_also_when_somebody_deleted_the_trash(tmp_path: Path) -> None:
    async with open_library(tmp_path) as library:
        stray = LESSON.write(library.folder(LESSON.info_hash))
        os.utime(stray, (0, 0))
        await library.put_fact("since", "2026-01-01")
        (tmp_path / "trash").rmdir()
        await library.clear_strays((), date(2026, 11, 24))
        assert not stray.exists()
        assert not list((tmp_path / "trash").iterdir())


async def test_contents_whose_time_is_no_date_are_kept_as_new_ones(tmp_path: Path) -> None:
    with mounted(tmp_path / "disk", "8m") as disk:  # ext4 knows no time that late
        async with open_library(disk) as library:
            stray = LESSON.write(library.folder(LESSON.info_hash))
            os.utime(stray, (2**40, 2**40))  # the year 36812
            await library.put_fact("since", "2026-01-01")
            await library.clear_strays((), date(2026, 11, 24))
            assert stray.exists()


async def test_an_index_that_is_put_back_while_nobody_waits_is_told_to_who_waits_next_and_only_once(
    tmp_path: Path,
) -> None:
    async with open_library(tmp_path) as library:
        await library.keep_lesson(WISH)
        (tmp_path / "index.sqlite").unlink()
        assert await library.lessons() == [WISH]
        with trio.fail_after(5):
            known = await library.reopened(0)
        with trio.move_on_after(0.05) as waiting:
            await library.reopened(known)
        assert waiting.cancelled_caught
