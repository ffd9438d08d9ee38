from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeshare.paths import MAX_FILES, MAX_PARTS, unsafe, windows_warnings


def reason(*paths: str) -> str:
    refused = unsafe(paths)
    assert refused is not None, paths
    return refused.reason


@pytest.mark.parametrize(
    "path",
    ["index.html", "css/leçon 1.css", "a b/#1%20+?&=.txt", "…", "-rf", ".htaccess", "~", "a:b", "ab:/c", "1:/c"],
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
        ("C:\\x", "backslash"),
        ("C:", "drive"),
        ("c:/x", "drive"),
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


@pytest.mark.parametrize(
    ("paths", "why"),
    [
        (["a?.txt"], "cannot keep ?"),
        (["d:d/x"], "cannot keep :"),
        (["aux.txt"], "a device"),
        (["d/CON"], "a device"),
        (["com1.tar.gz"], "a device"),
        (["name."], "a dot or blank"),
        (["d /x"], "a dot or blank"),
        (["A.txt", "a.txt"], "the same name"),
        (["caf\u00e9", "cafe\u0301"], "the same name"),
        (["straße", "STRASSE"], "the same name"),
    ],
)
def test_a_name_that_windows_cannot_keep_is_warned_of_and_taken(paths: list[str], why: str) -> None:
    assert unsafe(paths) is None
    warned = windows_warnings(paths)
    assert len(warned) == 1
    assert why in warned[0].reason


def test_a_name_that_all_systems_keep_is_not_warned_of() -> None:
    assert windows_warnings(["auxiliary.txt", "console", "a b.txt", "com10", "leçon.html", "A/x", "B/x"]) == []
