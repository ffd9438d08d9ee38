from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
from pathlib import Path

import attrs
import pytest
import trio

from edgeshare.errors import LibraryError
from edgeshare.library.content import Stamp
from edgeshare.library.index import VERSION, Index, StoredCatalogue, StoredLesson, StoredTorrent
from edgeshare.library.library import open_library
from edgeshare.manifest import LessonId
from edgeshare.signing import PublicKey
from tests.support.content import PIECE, content, noise

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
    index.drop_torrent(TORRENT.info_hash)
    index.drop_lesson(WISH.id)
    assert (index.torrents(), index.lessons()) == ([], [])
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


@pytest.mark.parametrize("damage", [b"this is no database, and it is long enough to be seen as none" * 100, None])
def test_a_damaged_index_is_an_error_that_says_what_to_do(tmp_path: Path, damage: bytes | None) -> None:
    path = tmp_path / "index.sqlite"
    if damage is None:
        path.mkdir()
    else:
        path.write_bytes(damage)
    with pytest.raises(LibraryError, match="move it away") as refused:
        Index(path)
    assert "\n" not in str(refused.value)


async def test_damage_in_the_middle_of_the_index_says_what_to_do_too(tmp_path: Path) -> None:
    async with open_library(tmp_path) as library:
        for n in range(50):
            await library.keep_lesson(attrs.evolve(WISH, id=LessonId(f"lesson-{n}"), served=noise(3000, n)))
    path = tmp_path / "index.sqlite"
    raw = path.read_bytes()
    path.write_bytes(raw[:4096] + bytes(len(raw) - 4096))
    async with open_library(tmp_path) as library:
        with pytest.raises(LibraryError, match="move it away"):
            await library.lessons()


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
