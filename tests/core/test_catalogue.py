from __future__ import annotations

import contextlib
from typing import Any

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeshare.canonical import pack, unpack
from edgeshare.catalogue import (
    FORMAT,
    MAX_LESSONS,
    Edition,
    Reinstatement,
    SignedLesson,
    Withdrawal,
    encode_edition,
    newest,
    read_edition,
    recall_edition,
    withdrawn,
)
from edgeshare.errors import ManifestError
from edgeshare.manifest import LessonId, LessonManifest, lesson_id
from tests.core.samples import KEYS, LESSON, LESSON_FORMAT, lesson, sign_fields, signed_file

NAME = "cned/6e"


def signed(name: str, **changes: Any) -> SignedLesson:
    manifest = lesson(id=name, **changes)
    return SignedLesson(manifest, signed_file(manifest))


def edition(*lessons: SignedLesson, gone: tuple[Withdrawal, ...] = (), name: str = NAME, number: int = 3) -> Edition:
    return Edition(name=name, number=number, lessons=lessons, withdrawn=gone)


def withdrawal(name: str, known: SignedLesson | None = None) -> Withdrawal:
    return Withdrawal(id=lesson_id(name), why="Une erreur page 3", since=2, lesson=known)


def read(**changes: Any) -> Edition:
    whole = {"format": FORMAT, "name": NAME, "edition": 3, "lessons": [], "withdrawn": []} | changes
    return read_edition(pack(whole), NAME, 3, KEYS)


def test_an_edition_is_read_as_it_was_written() -> None:
    whole = edition(signed("a"), signed("b", version=2), gone=(withdrawal("c", signed("c")), withdrawal("d")))
    assert read_edition(encode_edition(whole), NAME, 3, KEYS) == whole


def test_what_came_back_is_read_as_it_was_written_and_stands_in_the_order_of_ids() -> None:
    a, b = (Reinstatement(id=lesson_id(name), since=3) for name in "ab")
    whole = attrs.evolve(edition(), reinstated=(a, b))
    assert read_edition(encode_edition(whole), NAME, 3, KEYS) == whole
    assert encode_edition(attrs.evolve(whole, reinstated=(b, a))) == encode_edition(whole)


def test_an_edition_in_which_nothing_came_back_is_written_as_before_there_was_such_a_thing() -> None:
    assert set(unpack(encode_edition(edition()), 1000, "it")) == {"format", "name", "edition", "lessons", "withdrawn"}


def test_entries_stand_in_the_order_of_their_ids() -> None:
    forward = edition(signed("a"), signed("b"), gone=(withdrawal("c"), withdrawal("d")))
    backward = edition(signed("b"), signed("a"), gone=(withdrawal("d"), withdrawal("c")))
    assert encode_edition(forward) == encode_edition(backward)


def test_an_edition_that_was_read_before_is_recalled_as_it_was_read() -> None:
    whole = edition(signed("a"), signed("b", version=2), gone=(withdrawal("c", signed("c")), withdrawal("d")))
    whole = attrs.evolve(whole, reinstated=(Reinstatement(id=lesson_id("e"), since=3),))
    raw = encode_edition(whole)
    assert recall_edition(raw, NAME, 3, KEYS) == read_edition(raw, NAME, 3, KEYS) == whole


def test_another_edition_than_was_read_before_is_not_recalled() -> None:
    with pytest.raises(ManifestError, match="says that it is something else"):
        recall_edition(encode_edition(edition()), NAME, 4, KEYS)


def test_what_is_known_from_another_edition_is_not_read_again_and_stands_in_its_place() -> None:
    a, b, c = (signed(name) for name in "abc")
    found = read_edition(encode_edition(edition(a, b, c)), NAME, 3, KEYS, {b.raw: b})
    assert found == edition(a, b, c)
    assert [mine is theirs for mine, theirs in zip(found.lessons, (a, b, c), strict=True)] == [False, True, False]


@given(st.binary(max_size=200))
def test_any_bytes_are_an_edition_or_refused(raw: bytes) -> None:
    with contextlib.suppress(ManifestError):
        read_edition(raw, NAME, 3, KEYS)


@given(st.lists(st.binary(max_size=60) | st.text(max_size=9) | st.integers(0, 9)))
def test_no_entry_takes_the_others_down(entries: list[object]) -> None:
    good = signed("good")
    found = read(lessons=[*entries, good.raw])
    assert found.lessons == (good,)
    assert len(found.refused) == len(entries)


@pytest.mark.parametrize(
    "changes",
    [
        {"format": "edgeshare-edition/2"},
        {"name": "cned/5e"},
        {"edition": 2},
        {"edition": "3"},
        {"lessons": {}},
        {"withdrawn": b""},
        {"withdrawn": [b""]},
        {"withdrawn": [{"id": "a", "why": "x", "since": 1}]},
        {"withdrawn": [{"id": "A", "why": "x", "since": 1, "manifest": b""}]},
        {"withdrawn": [{"id": "a", "why": "", "since": 1, "manifest": b""}]},
        {"withdrawn": [{"id": "a", "why": "x" * 501, "since": 1, "manifest": b""}]},
        {"withdrawn": [{"id": "a", "why": "\x1b[2J", "since": 1, "manifest": b""}]},
        {"withdrawn": [{"id": "a", "why": "x", "since": True, "manifest": b""}]},
        {"withdrawn": [{"id": "a", "why": "x", "since": 0, "manifest": b""}]},
        {"withdrawn": [{"id": "a", "why": "x", "since": 4, "manifest": b""}]},
        {"reinstated": {}},
        {"reinstated": [b""]},
        {"reinstated": [{"id": "a"}]},
        {"reinstated": [{"id": "A", "since": 1}]},
        {"reinstated": [{"id": "a", "since": True}]},
        {"reinstated": [{"id": "a", "since": 0}]},
        {"reinstated": [{"id": "a", "since": 4}]},
    ],
    ids=str,
)
def test_a_file_that_is_not_that_edition_is_refused_whole(changes: dict[str, object]) -> None:
    with pytest.raises(ManifestError):
        read(**changes)


def test_true_is_not_edition_one() -> None:
    whole = {"format": FORMAT, "name": NAME, "edition": True, "lessons": [], "withdrawn": []}
    with pytest.raises(ManifestError):
        read_edition(pack(whole), NAME, 1, KEYS)


def test_a_field_of_a_later_edgeshare_is_ignored() -> None:
    gone = {"id": "a", "why": "x", "since": 3, "manifest": b"", "mood": 1}
    assert read(mood=1, withdrawn=[gone]).withdrawn == (Withdrawal(id=LessonId("a"), why="x", since=3),)


def test_the_reason_of_a_withdrawal_has_at_most_500_characters() -> None:
    gone = {"id": "a", "why": "é" * 500, "since": 3, "manifest": b""}
    assert read(withdrawn=[gone]).withdrawn[0].why == "é" * 500


@pytest.mark.parametrize(
    "manifest",
    [
        signed_file(lesson(levels=["5e"])),
        signed_file(lesson(role="teacher")),
        signed_file(lesson(publisher="ac-paris")),
        sign_fields("edgeshare-lesson/2", LESSON),
        sign_fields(LESSON_FORMAT, LESSON | {"version": 0}),
    ],
    ids=["another-level", "a-teachers", "another-publishers", "a-later-format", "a-broken-rule"],
)
def test_a_lesson_that_does_not_belong_is_left_out_and_named(manifest: bytes) -> None:
    found = read(lessons=[manifest])
    assert found.lessons == ()
    assert "entry 0" in found.refused[0]


def test_a_lesson_that_nobody_vouches_for_is_left_out() -> None:
    found = read_edition(encode_edition(edition(signed("a"))), NAME, 3, {})
    assert (found.lessons, len(found.refused)) == ((), 1)


def test_a_lesson_that_stands_twice_counts_once() -> None:
    first, second = signed("a"), signed("a", version=2)
    found = read(lessons=[first.raw, second.raw])
    assert found.lessons == (first,)
    assert "a stands twice" in found.refused[0]


def test_a_withdrawal_whose_manifest_cannot_be_read_stays_a_withdrawal() -> None:
    gone = {"id": "a", "why": "x", "since": 1, "manifest": b"garbage"}
    assert read(withdrawn=[gone]).withdrawn == (Withdrawal(id=LessonId("a"), why="x", since=1),)


@pytest.mark.parametrize(
    "manifest", [lesson(id="b"), lesson(id="a", levels=["5e"])], ids=["another-lessons", "of-another-catalogue"]
)
def test_a_withdrawal_is_not_named_by_a_manifest_of_something_else(manifest: LessonManifest) -> None:
    gone = {"id": "a", "why": "x", "since": 1, "manifest": signed_file(manifest)}
    assert read(withdrawn=[gone]).withdrawn == (Withdrawal(id=LessonId("a"), why="x", since=1),)


def test_an_edition_withdraws_at_most_as_many_lessons_as_it_may_list() -> None:
    gone = [{"id": f"a-{n}", "why": "x", "since": 1, "manifest": b""} for n in range(MAX_LESSONS + 1)]
    assert len(read(withdrawn=gone[:-1]).withdrawn) == MAX_LESSONS
    with pytest.raises(ManifestError):
        read(withdrawn=gone)


def test_of_several_catalogues_the_highest_version_counts() -> None:
    old, new = signed("a", levels=["6e", "5e"]), signed("a", levels=["6e"], version=2)
    assert newest([edition(old, name="cned/5e"), edition(new)]) == {"a": new}
    assert newest([edition(new), edition(old, name="cned/5e")]) == {"a": new}


def test_what_one_catalogue_withdrew_no_other_lists() -> None:
    listed = edition(signed("a", levels=["6e", "5e"]), name="cned/5e")
    assert newest([listed, edition(gone=(withdrawal("a"),))]) == {}


def test_a_withdrawal_names_its_lesson_where_any_catalogue_does() -> None:
    named, unnamed = withdrawal("a", signed("a")), withdrawal("a")
    assert withdrawn([edition(gone=(named,)), edition(gone=(unnamed,))]) == {"a": named}
    assert withdrawn([edition(gone=(unnamed,)), edition(gone=(named,))]) == {"a": named}
