from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeshare.paths import MAX_FILES, MAX_PARTS, unsafe


def reason(*paths: str) -> str:
    refused = unsafe(paths)
    assert refused is not None, paths
    return refused.reason


@pytest.mark.parametrize(
    "path",
    ["index.html", "css/leçon 1.css", "a b/#1%20+&=.txt", "…", "-rf", ".htaccess", "~", " a"],
)
def test_an_ordinary_name_is_taken(path: str) -> None:
    assert unsafe([path]) is None


@pytest.mark.parametrize(
    ("path", "why"),
    [
        ("", "empty part"),
        (".", "empty part"),
        ("..", "empty part"),
        ("../x", "empty part"),
        ("a/../x", "empty part"),
        ("a/./x", "empty part"),
        ("/x", "empty part"),
        ("a//x", "empty part"),
        ("a/", "empty part"),
        ("a\\x", "backslash"),
        ("C:\\x", "holds :"),
        ("C:", "holds :"),
        ("c:/x", "holds :"),
        ("a\0", "control"),
        ("a\nb", "control"),
        ("a\x7f", "control"),
        ("a\x9bb", "control"),
        ("gpj.\u202eexe", "reading direction"),
        ("a\u2066b", "reading direction"),
        ("\udcff", "not UTF-8"),
    ],
)
def test_a_name_that_leaves_hides_or_deceives_is_refused(path: str, why: str) -> None:
    assert why in reason(path)


def test_a_part_has_at_most_255_bytes() -> None:
    assert unsafe(["é" * 127 + "x"]) is None
    assert "255 bytes" in reason("é" * 128)


def test_a_path_has_at_most_1024_bytes() -> None:
    folders = "/".join(["d" * 200] * 5)
    assert unsafe([folders + "/" + "x" * (1023 - len(folders))]) is None
    assert "1024 bytes" in reason(folders + "/" + "x" * (1024 - len(folders)))


def test_a_path_has_at_most_64_parts() -> None:
    assert unsafe(["/".join("d" * MAX_PARTS)]) is None
    assert "64 parts" in reason("/".join("d" * (MAX_PARTS + 1)))


def test_a_lesson_has_at_most_20000_files() -> None:
    names = [f"{n}.txt" for n in range(MAX_FILES)]
    assert unsafe(names) is None
    assert "more than 20000" in reason(*names, "one.more")


def test_a_path_stands_once() -> None:
    assert "twice" in reason("a", "b", "a")


@pytest.mark.parametrize("paths", [("a", "a/b"), ("a/b", "a"), ("x/a/b/c", "x/a")])
def test_a_name_is_a_file_or_a_folder(paths: tuple[str, ...]) -> None:
    assert "both a file and a folder" in reason(*paths)


@given(st.lists(st.text(max_size=20), max_size=5))
def test_a_path_that_is_taken_stays_inside_any_folder(paths: list[str]) -> None:
    if unsafe(paths) is None:
        for path in paths:
            parts = path.split("/")
            assert not {"", ".", ".."} & set(parts)
            assert "\0" not in path
            assert path.encode().decode() == path


@pytest.mark.parametrize("mark", '<>:"|?*')
def test_a_name_with_a_mark_that_windows_cannot_keep_is_refused(mark: str) -> None:
    assert f"holds {mark}, which Windows cannot keep" in reason(f"d/a{mark}b/x")


@pytest.mark.parametrize(
    "path",
    ["CON", "con", "aux.txt", "d/NUL", "nul/x", "com1.tar.gz", "LPT9", "com¹.txt", "prn .txt", "CONIN$", "conout$.txt"],
)
def test_a_name_of_a_device_on_windows_is_refused(path: str) -> None:
    assert "the name of a device" in reason(path)


@pytest.mark.parametrize("path", ["auxiliary.txt", "console", "com10", "com", "x.con", "nul-1", "a.aux.txt"])
def test_a_name_that_only_resembles_a_device_is_taken(path: str) -> None:
    assert unsafe([path]) is None


@pytest.mark.parametrize("path", ["name.", "name ", "d /x", "d./x", "...", "a. ."])
def test_a_part_that_ends_in_a_dot_or_blank_is_refused(path: str) -> None:
    assert "a dot or blank at the end" in reason(path)


@pytest.mark.parametrize(
    "paths",
    [
        ("A.txt", "a.txt"),
        ("caf\u00e9", "cafe\u0301"),
        ("CAF\u00c9", "cafe\u0301"),
        ("straße", "STRASSE"),
        ("\u212b", "\u00e5"),  # the sign of the unit, and the letter
        ("A/x", "a/y"),
        ("a", "A/x"),
        ("A/x", "a"),
        ("x/A/1", "x/a/2"),
        ("caf\u00e9/x", "cafe\u0301/y"),
    ],
)
def test_two_names_that_some_system_takes_for_one_are_refused(paths: tuple[str, str]) -> None:
    assert "in the same place" in reason(*paths)
    assert [unsafe([path]) for path in paths] == [None, None]


def test_names_are_taken_whatever_their_form_of_unicode() -> None:
    assert unsafe(["nai\u0308f.html", "na\u00efve.html", "A/x", "B/x", "A/y"]) is None


def test_a_lesson_has_at_most_20000_folders() -> None:
    deep = [f"{n}/" + "d/" * 9 + "x" for n in range(MAX_FILES // 10)]
    assert unsafe(deep) is None
    assert "more than 20000 folders" in reason(*deep, "one/x")


@given(
    st.lists(st.lists(st.sampled_from(["a", "A", "b", "e\u0301", "\u00e9", "."]), max_size=3).map("/".join), max_size=5)
)
def test_the_order_of_the_paths_does_not_matter(paths: list[str]) -> None:
    assert (unsafe(paths) is None) == (unsafe(reversed(paths)) is None)
