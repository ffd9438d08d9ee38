from __future__ import annotations

import pytest

from edgeshare.httpd.media import UNKNOWN, media_type


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("index.html", "text/html; charset=utf-8"),
        ("a/b/COURS.HTML", "text/html; charset=utf-8"),
        ("jquery.min.js", "text/javascript; charset=utf-8"),
        ("module.mjs", "text/javascript; charset=utf-8"),
        ("film.mp4", "video/mp4"),
        ("sous-titres.vtt", "text/vtt; charset=utf-8"),
        ("programme.wasm", "application/wasm"),
    ],
)
def test_the_last_suffix_says_the_type_in_any_case(path: str, expected: str) -> None:
    assert media_type(path) == expected


@pytest.mark.parametrize("path", ["", "html", ".html", "a.html/b", "a/.css", "a.", "a.exe", "a.html~", "a.h\u0442ml"])
def test_a_name_that_says_nothing_known_is_bytes(path: str) -> None:
    assert media_type(path) == UNKNOWN
