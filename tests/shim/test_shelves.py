from __future__ import annotations

import unicodedata
from collections.abc import Iterable
from datetime import UTC, date, datetime, timedelta, timezone
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from edgeshare.manifest import InfoHash, LessonId, LessonManifest
from edgeshare.shim.register import Register
from edgeshare.shim.shelves import Wish, needed, needed_on, needed_this_week, plain, shelves, subject_choices
from edgeshare.view import LessonView, State
from edgeshare.vocabulary import built_in

if TYPE_CHECKING:
    from tests.shim.conftest import NodeInMemory

WORDS = built_in()


def manifest(name: str, **fields: Any) -> LessonManifest:
    usual: dict[str, Any] = {"title": name, "levels": ("6e",), "subjects": ("mathematiques",), "description": ""}
    return LessonManifest(
        id=LessonId(name),
        version=1,
        language="fr",
        licence="CC0-1.0",
        start="index.html",
        publisher="cned",
        info_hash=InfoHash(bytes(32)),
        size=1,
        files=1,
        **(usual | fields),
    )


def lesson(name: str, **fields: Any) -> LessonView:
    return LessonView(manifest=manifest(name, **fields), state=State.LISTED)


def names(lessons: Iterable[LessonView]) -> list[str]:
    return [found.manifest.id for found in lessons]


def matching(lessons: Iterable[LessonManifest], wish: Wish) -> list[str]:
    """The ids of those that answer `wish`."""
    return [found.id for found in Register(tuple(lessons), WORDS).matching(wish, "fr")]


def test_lessons_stand_by_level_then_by_subject() -> None:
    lessons = [
        lesson("c", levels=("cp",)),
        lesson("b", subjects=("histoire-geographie",)),
        lesson("a", levels=("6e", "cp")),
        lesson("d", levels=("scolomfr-voc-022-num-999",)),
        lesson("e", subjects=("eps",)),
    ]
    found = shelves(lessons, Wish(), WORDS, "fr")
    assert [(shelf.level, [(group.subject, names(group.lessons)) for group in shelf.groups]) for shelf in found] == [
        ("CP", [("Mathématiques", ["c", "a"])]),
        (
            "6e",
            [
                ("Éducation physique et sportive", ["e"]),
                ("Histoire-géographie", ["b"]),
                ("Mathématiques", ["a"]),
            ],
        ),
        ("scolomfr-voc-022-num-999", [("Mathématiques", ["d"])]),
    ]


def test_of_a_wished_level_there_is_only_its_own_shelf() -> None:
    found = shelves([lesson("a", levels=("6e", "cp"))], Wish(level="cp"), WORDS, "fr")
    assert [shelf.level for shelf in found] == ["CP"]


@pytest.mark.parametrize(
    "search", ["noel", "NOËL fete", "coeur", "cœur", "mathematiques", "6e noël", "  ", "fête de", "l'hiver", "l’HIVER"]
)
def test_a_search_forgives_accents_case_and_order(search: str) -> None:
    lessons = [manifest("a", title="La fête de Noël", description="Le cœur de l'hiver.")]
    assert matching(lessons, Wish(search=search)) == ["a"]


def test_a_search_wants_all_its_words() -> None:
    assert not matching([manifest("a", title="La fête")], Wish(search="fete pascale"))


def test_what_is_for_teachers_stands_apart() -> None:
    lessons = [manifest("a"), manifest("b", role="teacher")]
    assert matching(lessons, Wish()) == ["a"]
    assert matching(lessons, Wish.parse("role=teacher")) == ["b"]


def test_a_wish_is_read_from_a_form() -> None:
    wish = Wish.parse("level=6e&subject=&q=le+c%C5%93ur%26&unknown=1")
    assert wish == Wish(level="6e", search="le cœur&")
    assert not wish.is_open
    assert Wish.parse("level=&subject=&q=").is_open


@given(st.text())
def test_any_query_is_a_wish(query: str) -> None:
    assert matching([], Wish.parse(query)) == []


def test_a_query_with_too_many_fields_is_no_wish() -> None:
    assert Wish.parse("&".join(["level=6e"] * 21)).is_open


def test_lessons_of_today_and_of_this_week_are_told_apart_in_the_publishers_time() -> None:
    paris = timezone(timedelta(hours=1))
    monday = datetime(2026, 11, 23, 0, 30, tzinfo=paris)  # still Sunday in UTC
    lessons = [manifest(f"day-{n}", needed_at=monday + timedelta(days=n)) for n in range(-1, 9)]
    today = date(2026, 11, 23)
    assert [found.id for found in needed_on(lessons, today)] == ["day-0"]
    assert [found.id for found in needed_this_week(lessons, today)] == [f"day-{n}" for n in range(1, 7)]
    assert needed_this_week([manifest("x", needed_at=datetime(2026, 11, 30, tzinfo=UTC))], date(2026, 11, 29)) == ()


def test_what_is_needed_at_some_time_is_a_wish_of_its_own() -> None:
    monday = datetime(2026, 11, 23, 8, tzinfo=UTC)
    lessons = [manifest(f"day-{n}", needed_at=monday + timedelta(days=n, hours=-n)) for n in (8, 2, 1, 0)]
    for when, found in (("today", ["day-0"]), ("week", ["day-1", "day-2"]), ("", ["day-8", "day-2", "day-1", "day-0"])):
        wish = Wish.parse(f"when={when}")
        assert [each.id for each in needed(lessons, wish.when, monday.date())] == found
        assert wish.is_open == (not when)
        assert Wish.parse(wish.url(1).removeprefix("/?")) == wish
    assert Wish.parse("when=yesterday").is_open


def test_subjects_stand_by_the_alphabet_without_regard_to_accents() -> None:
    labels = [choice.label for choice in subject_choices(["emc", "education-musicale", "francais"], WORDS, "fr")]
    assert labels == ["Éducation musicale", "Enseignement moral et civique", "Français"]


@given(st.text())
def test_plain_text_stays_plain(text: str) -> None:
    plain(text)


def test_the_nodes_order_is_kept_within_a_group(node: NodeInMemory) -> None:
    assert matching(node.listing(), Wish(subject="mathematiques")) == ["maths-6e-fractions"]


def test_a_level_a_subject_and_words_all_have_to_fit() -> None:
    lessons = [
        manifest("a", title="Les angles"),
        manifest("b", title="Les angles", levels=("5e",)),
        manifest("c", title="Les angles", subjects=("francais",)),
        manifest("d", title="Les verbes"),
    ]
    assert matching(lessons, Wish(level="6e", subject="mathematiques", search="angles")) == ["a"]


@pytest.mark.parametrize("page", ["0", "-1", "x", "", "²", "1234567", "١"])
def test_a_page_that_is_none_is_the_first(page: str) -> None:
    assert Wish.parse(f"page={page}").page == 1


def test_another_page_has_the_same_wish() -> None:
    wish = Wish(level="6e", search="le cœur&", role="teacher", page=2)
    assert Wish.parse(wish.url(2).removeprefix("/?")) == wish


@given(st.text(st.characters(codec="utf-8")))
@example("שָׁלוֹם и́ é’…")
@example("\u034f")  # a mark that combines by its block, and not by its class
def test_no_sign_that_combines_with_another_is_left_in_plain_text(text: str) -> None:
    letters = text.casefold().replace("œ", "oe").replace("æ", "ae").replace("’", "'")
    parts = unicodedata.normalize("NFKD", letters)
    marks = {sign for sign in parts if unicodedata.combining(sign) or "\u0300" <= sign <= "\u036f"}
    assert plain(text) == "".join(sign for sign in parts if sign not in marks)


@given(st.lists(st.text("abé \n"), max_size=6), st.text("abé ", min_size=1, max_size=5))
def test_a_search_finds_every_text_that_has_its_words_somewhere(texts: list[str], search: str) -> None:
    lessons = [manifest(f"x{n}", title="_", description=text) for n, text in enumerate(texts)]
    words = plain(search).split()
    wanted = [
        f"x{n}" for n, text in enumerate(texts) if all(word in plain(f"_ {text} 6e mathematiques") for word in words)
    ]
    assert matching(lessons, Wish(search=search)) == wanted


def test_a_search_finds_what_is_in_one_of_many_texts_as_well_as_what_is_in_most() -> None:
    lessons = [manifest(f"x{n:03}", title=f"Angle {n:03}", description="rare" * (n % 300 == 7)) for n in range(600)]
    assert matching(lessons, Wish(search="angle 123")) == ["x123"]
    assert matching(lessons, Wish(search="12")) == [f"x{n:03}" for n in range(600) if "12" in f"{n:03}"]
    assert matching(lessons, Wish(search="rare")) == ["x007", "x307"]
    assert len(matching(lessons, Wish(search="a"))) == 600
    assert matching(lessons, Wish(search="angle 600")) == []
