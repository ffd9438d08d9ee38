from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from edgeshare.errors import ConfigError
from edgeshare.vocabulary import built_in, is_code, parse

LESSONS = sorted(Path(__file__, "../../../manifests/lessons").resolve().glob("*/lesson.toml"))
SMALL = """
version = 1
[levels.6e]
code = "scolomfr-voc-022-num-018"
label = { fr = "Sixième", en = "Year 7" }
[subjects.svt]
code = "scolomfr-voc-015-num-1"
label = { fr = "SVT" }
"""


def test_a_label_is_derived_from_the_code() -> None:
    assert built_in().level_label("6e", "fr") == "6e"
    assert built_in().level_label("6e", "en") == "Year 7 (6e)"
    assert parse(SMALL).level_label("6e", "fr") == "Sixième"


def test_a_label_that_is_missing_in_a_language_is_french() -> None:
    assert parse(SMALL).subject_label("svt", "en") == "SVT"


def test_an_unknown_code_is_kept_and_shown_as_it_is() -> None:
    assert built_in().level_label("1re-nouvelle", "fr") == "1re-nouvelle"
    assert built_in().subject_label("scolomfr-voc-015-num-9999", "en") == "scolomfr-voc-015-num-9999"


def test_every_slug_of_the_vocabulary_can_stand_in_a_manifest() -> None:
    words = built_in()
    assert all(map(is_code, [*words.levels, *words.subjects]))
    assert all(is_code(term.code) for term in [*words.levels.values(), *words.subjects.values()])


def test_no_code_has_two_slugs() -> None:
    for terms in (built_in().levels, built_in().subjects):
        codes = [term.code for term in terms.values()]
        assert len(set(codes)) == len(codes)


def test_every_term_has_a_french_and_an_english_label() -> None:
    for term in [*built_in().levels.values(), *built_in().subjects.values()]:
        assert set(term.labels) >= {"fr", "en"}, term.slug


def test_there_are_example_lessons() -> None:
    assert len(LESSONS) >= 3


@pytest.mark.parametrize("path", LESSONS, ids=lambda path: path.parent.name)
def test_the_levels_and_subjects_of_an_example_lesson_are_in_the_vocabulary(path: Path) -> None:
    lesson = tomllib.loads(path.read_text(encoding="utf-8"))
    assert set(lesson["levels"]) <= set(built_in().levels)
    assert set(lesson["subjects"]) <= set(built_in().subjects)


@pytest.mark.parametrize(("text", "is_one"), [("6e", True), ("1re-gen", True), ("x" * 63, True), ("x" * 64, False)])
def test_a_code_has_at_most_63_characters(text: str, is_one: bool) -> None:
    assert is_code(text) is is_one


@pytest.mark.parametrize("text", ["", "6E", "-6e", "6e-", "a--b", "6e\n", "é", "a b", "a/b", "a.b"])
def test_a_code_is_words_in_lower_case(text: str) -> None:
    assert not is_code(text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "version = 2",
        "version = 1",
        "nonsense",
        "version = 1\nlevels = 5\nsubjects = {}",
        "version = 1\nlevels = {a = 5}\nsubjects = {}",
        "version = 1\nlevels = {a = {code = 'x', rank = 'y', label = {}}}\nsubjects = {}",
        "version = 1\nlevels = {a = {code = 'x', label = 5}}\nsubjects = {}",
        "x = " + "[" * 20_000,
    ],
    ids=range(9),
)
def test_what_is_no_vocabulary_is_refused(text: str) -> None:
    with pytest.raises(ConfigError):
        parse(text)
