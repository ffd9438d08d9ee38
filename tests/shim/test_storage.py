from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeshare.shim.storage import needs_storage


@pytest.mark.parametrize(
    "path",
    [
        "h5p.json",
        "activite/h5p.json",
        "imsmanifest.xml",
        "IMSMANIFEST.XML",
        "js/h5p-standalone/main.bundle.js",
        "js/h5p-standalone.bundle.js",
        "js/scorm-again.min.js",
        "js/scorm-again.js",
        "scorm12.js",
        "lib/scorm2004.min.mjs",
    ],
)
def test_an_activity_that_keeps_answers_is_known_by_its_files(path: str) -> None:
    assert needs_storage(["index.html", path])


@pytest.mark.parametrize(
    "path",
    ["h5p.json.html", "my-h5p.json", "imsmanifest.xml/a.html", "scorm.html", "scorm12", "scorm12.css", "scorm12345.js"],
)
def test_another_lesson_is_not_taken_for_one(path: str) -> None:
    assert not needs_storage(["index.html", path])


@given(st.lists(st.text()))
def test_any_names_are_judged(paths: list[str]) -> None:
    needs_storage(paths)
