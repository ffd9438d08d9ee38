"""What a bundle's table of contents may say, and where its files stand."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeshare.bundle.form import (
    MAX_LESSONS,
    PART,
    Bundle,
    content_folder,
    numbered_folder,
    places,
    readme,
)
from edgeshare.canonical import pack
from edgeshare.catalogue import SignedLesson
from edgeshare.errors import ManifestError
from edgeshare.layout import FileEntry, Layout, Piece
from edgeshare.manifest import InfoHash, LessonId
from edgeshare.paths import unsafe
from tests.core.samples import lesson

HASH = InfoHash(b"\x11" * 32)
TABLE = Bundle(("cned/6e",), {LessonId("fractions"): HASH})


def layout(*paths: str, size: int = 1) -> Layout:
    files = tuple(
        FileEntry(path=path, size=size, root=b"\0" * 32, first=Piece(n), index=n) for n, path in enumerate(paths)
    )
    return Layout(name="lesson", piece_length=16384, files=files, hashes=b"")


def place(path: str, size: int = 1) -> list[str]:
    """Where a content's only file stands, below the bundle."""
    return ["/".join(at) for at, _ in places(HASH, layout(path, size=size))[path]]


def test_a_table_of_contents_says_what_was_written() -> None:
    assert Bundle.parse(TABLE.encode()) == TABLE


def test_a_table_of_a_later_form_asks_for_a_newer_edgeshare() -> None:
    raw = pack({"format": "edgeshare-bundle/2", "anything": 1})
    with pytest.raises(ManifestError, match="a newer edgeshare reads it"):
        Bundle.parse(raw)


@pytest.mark.parametrize(
    "change",
    [
        {"format": "edgeshare-lesson/1"},
        {"catalogues": ["../6e"]},
        {"catalogues": "cned/6e"},
        {"lessons": [{"id": "../up", "info_hash": HASH}]},
        {"lessons": [{"id": "fractions", "info_hash": b"short"}]},
        {"lessons": [{"id": "fractions", "info_hash": HASH.hex()}]},
        {"lessons": [{"id": "fractions"}]},
        {"lessons": {"fractions": HASH}},
    ],
)
def test_a_table_that_is_none_is_refused(change: dict[str, object]) -> None:
    fields: dict[str, object] = {"format": "edgeshare-bundle/1", "catalogues": [], "lessons": []}
    with pytest.raises(ManifestError):
        Bundle.parse(pack(fields | change))


def test_a_table_lists_so_many_lessons_and_no_more() -> None:
    lessons = {LessonId(f"lesson-{n:05}{'x' * 51}"): HASH for n in range(MAX_LESSONS)}
    assert len(Bundle.parse(Bundle((), lessons).encode()).lessons) == MAX_LESSONS
    with pytest.raises(ManifestError, match="more than"):
        Bundle.parse(Bundle((), {**lessons, LessonId("one-more"): HASH}).encode())


def test_a_file_that_every_stick_keeps_stands_under_its_name() -> None:
    assert place("pages/index.html") == [f"content/{HASH.hex()}/pages/index.html"]


@pytest.mark.parametrize("path", ["leçon.html", "pages/INDEX~1.HTM", f"{'a' * 76}/{'b' * 74}"])
def test_a_file_whose_name_not_every_stick_keeps_stands_under_its_number(path: str) -> None:
    assert place(path) == [f"content/{HASH.hex()}.numbered/0"]


def test_a_path_stands_under_its_name_up_to_150_characters() -> None:
    path = f"{'a' * 75}/{'b' * 74}"
    assert len(path) == 150
    assert place(path) == [f"content/{HASH.hex()}/{path}"]


def test_a_file_is_whole_up_to_what_fat32_keeps_and_in_parts_beyond() -> None:
    assert PART < 2**31
    assert place("video.mp4", PART) == [f"content/{HASH.hex()}/video.mp4"]
    stored = places(HASH, layout("video.mp4", size=2 * PART + 1))["video.mp4"]
    folder = numbered_folder(HASH)
    assert stored == (((*folder, "0.part1"), PART), ((*folder, "0.part2"), PART), ((*folder, "0.part3"), 1))


def test_files_of_a_folder_with_more_names_than_fat_has_room_for_stand_under_their_numbers() -> None:
    paths = [f"images/{n:05}{'x' * 40}.png" for n in range(12_001)]  # each takes five entries of 65,536
    stored = places(HASH, layout("index.html", *paths))
    assert stored["index.html"] == (((*content_folder(HASH), "index.html"), 1),)
    assert {at[1] for path in paths for at, _ in stored[path]} == {f"{HASH.hex()}.numbered"}
    fewer = places(HASH, layout(*paths[:12_000]))
    assert {at[1] for path in paths[:12_000] for at, _ in fewer[path]} == {HASH.hex()}


@given(st.lists(st.text("aé~/x.", min_size=1, max_size=12), max_size=12), st.integers(0, 5))
def test_no_two_files_stand_in_one_place(paths: list[str], size: int) -> None:
    paths = [path for path in dict.fromkeys(paths) if unsafe([path]) is None]
    if unsafe(paths) is None:
        stored = [at for each in places(HASH, layout(*paths, size=size), part=2).values() for at, _ in each]
        assert len(stored) == len(set(stored))
        folded = ["/".join(at).lower() for at in stored]
        assert len(folded) == len(set(folded))


def test_people_are_told_in_french_and_english_what_the_folder_is() -> None:
    text = readme([SignedLesson(lesson(), b"")])
    assert "Ne changez rien ici" in text
    assert "Change nothing here" in text
    assert lesson().title in text
    assert "\n" not in text.replace("\r\n", "")
