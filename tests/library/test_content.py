from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from edgeshare.library.content import make_way, open_verified, put, unchanged, verify, written
from tests.support.content import PIECE, content, noise
from tests.support.disk import mounted

LESSON = content({"a/page.html": noise(3 * PIECE + 9), "empty": b"", "one": b"1", "été/100% #1": noise(PIECE, 2)})


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 64 KiB."""
    with mounted(tmp_path / "disk", "64k") as disk:
        yield disk


def test_a_state_file_is_written_whole_and_replaces_the_one_before(tmp_path: Path) -> None:
    put(tmp_path / "state", b"old")
    put(tmp_path / "state", b"new")
    assert (tmp_path / "state").read_bytes() == b"new"
    assert [path.name for path in tmp_path.iterdir()] == ["state"]


def test_a_link_in_the_place_of_the_draft_leads_nowhere(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").write_bytes(b"not to be written to")
    (tmp_path / f".state.{os.getpid()}.part").symlink_to(tmp_path / "elsewhere")
    put(tmp_path / "state", b"new")
    assert (tmp_path / "elsewhere").read_bytes() == b"not to be written to"
    assert not (tmp_path / "state").is_symlink()
    assert (tmp_path / "state").read_bytes() == b"new"


def test_on_a_full_disk_the_old_state_stands_and_nothing_half_written_is_left(small_disk: Path) -> None:
    put(small_disk / "state", b"old")
    with pytest.raises(OSError, match="No space"):
        put(small_disk / "state", bytes(100_000))
    assert (small_disk / "state").read_bytes() == b"old"
    assert [path.name for path in small_disk.iterdir()] == ["state"]


def test_what_was_written_as_published_is_verified_and_unchanged(tmp_path: Path) -> None:
    LESSON.write(tmp_path)
    stamps = verify(tmp_path, LESSON.layout)
    assert stamps
    assert len(stamps) == len(LESSON.files)
    assert unchanged(tmp_path, LESSON.layout, stamps)


def alter(path: Path) -> None:
    with path.open("r+b") as file:
        file.seek(2 * PIECE)
        file.write(bytes([file.read(1)[0] ^ 255]))


def link(path: Path) -> None:
    path.rename(path.with_name("elsewhere"))
    path.symlink_to("elsewhere")


def pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def lengthen(path: Path) -> None:
    with path.open("ab") as file:
        file.write(b"\0")


@pytest.mark.parametrize("harm", [alter, link, pipe, folder, lengthen, Path.unlink])
def test_a_file_that_is_not_as_published_is_neither_verified_nor_unchanged_nor_opened(
    tmp_path: Path, harm: Callable[[Path], None]
) -> None:
    LESSON.write(tmp_path)
    stamps = verify(tmp_path, LESSON.layout)
    assert stamps
    harm(tmp_path / "a" / "page.html")
    assert verify(tmp_path, LESSON.layout) is None
    assert not unchanged(tmp_path, LESSON.layout, stamps)
    assert open_verified(tmp_path, LESSON.layout.files[0], stamps[0]) is None


def test_an_untouched_file_opens_with_its_bytes(tmp_path: Path) -> None:
    LESSON.write(tmp_path)
    stamps = verify(tmp_path, LESSON.layout)
    assert stamps
    descriptor = open_verified(tmp_path, LESSON.layout.files[0], stamps[0])
    assert descriptor is not None
    with open(descriptor, "rb") as file:
        assert file.read() == LESSON.files["a/page.html"]


def test_stamps_of_another_number_of_files_are_of_no_use(tmp_path: Path) -> None:
    LESSON.write(tmp_path)
    stamps = verify(tmp_path, LESSON.layout)
    assert stamps
    assert not unchanged(tmp_path, LESSON.layout, stamps[:-1])


def test_a_check_that_nobody_waits_for_any_more_ends(tmp_path: Path) -> None:
    LESSON.write(tmp_path)
    assert verify(tmp_path, LESSON.layout, cancelled=lambda: True) is None


def test_making_way_leaves_right_files_as_they_are(tmp_path: Path) -> None:
    LESSON.write(tmp_path)
    stamps = verify(tmp_path, LESSON.layout)
    assert stamps
    make_way(tmp_path, LESSON.layout)
    assert unchanged(tmp_path, LESSON.layout, stamps)


def test_what_links_lead_to_is_not_touched_by_making_way(tmp_path: Path) -> None:
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "page.html").write_bytes(b"precious")
    lesson = tmp_path / "lesson"
    lesson.mkdir()
    (lesson / "a").symlink_to(tmp_path / "precious")
    (lesson / "one").symlink_to(tmp_path / "precious" / "page.html")
    (lesson / "empty").symlink_to(tmp_path / "precious" / "page.html")
    make_way(lesson, LESSON.layout)
    assert (tmp_path / "precious" / "page.html").read_bytes() == b"precious"
    assert not any(path.is_symlink() for path in lesson.rglob("*"))


def test_what_the_disk_gave_room_to_is_counted_and_holes_are_not(tmp_path: Path) -> None:
    assert written(tmp_path, LESSON.layout) == 0
    LESSON.write(tmp_path)
    for path in LESSON.files:
        with (tmp_path / path).open("rb") as file:
            os.fsync(file.fileno())  # some file systems give room only then
    assert written(tmp_path, LESSON.layout) == LESSON.size
    (tmp_path / "a" / "page.html").unlink()
    with (tmp_path / "a" / "page.html").open("wb") as file:
        file.truncate(3 * PIECE + 9)
    assert written(tmp_path, LESSON.layout) == LESSON.size - (3 * PIECE + 9)
