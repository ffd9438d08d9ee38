from __future__ import annotations

from typing import Any

import attrs
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from edgeshare.admission import (
    KEY_REVOKED,
    Admitted,
    Backed,
    Gone,
    Memory,
    Weighed,
    changes,
    check_next,
    heed,
    listed,
    weigh,
    withdrawn,
)
from edgeshare.catalogue import Edition, Reinstatement, SignedLesson, Withdrawal
from edgeshare.errors import TrustError
from edgeshare.manifest import LessonId, encode
from edgeshare.publishers import Delegation, Publishers
from edgeshare.signing import PublicKey
from tests.core.samples import KEYS, LESSON_FORMAT, PRIVATE, catalogue, lesson, sign, signed_file

NEWER = Ed25519PrivateKey.from_private_bytes(b"edgeshare tests: a newer key....")
NEWER_KEY = PublicKey("ed25519", NEWER.public_key().public_bytes_raw())
BOTH = {**KEYS, NEWER_KEY.id: NEWER_KEY}
A, B = LessonId("a"), LessonId("b")
LYON_A = LessonId("lyon-a")
CNED = Delegation(prefix="", epoch="cned's keys")
LYON = Delegation(prefix="lyon-", epoch="lyon's keys")
TWO = Publishers(delegations={"cned": CNED, "lyon": LYON})
REVOKED = Publishers(delegations={"cned": CNED}, revoked={"lyon": "the key was stolen"})
KNOWN = Memory(publishers=TWO)  # a node that has heard of publishers, and of no edition


def signed(name: str, *, by: Ed25519PrivateKey = PRIVATE, **fields: Any) -> SignedLesson:
    manifest = lesson(id=name, **fields)
    return SignedLesson(manifest, sign(LESSON_FORMAT, encode(manifest), by))


def with_new_keys(publishers: Publishers, name: str) -> Publishers:
    """`name`'s role was given other keys."""
    before = publishers.delegations[name]
    newer = attrs.evolve(before, epoch=f"newer than {before.epoch}")
    return attrs.evolve(publishers, delegations={**publishers.delegations, name: newer})


def edition(
    memory: Memory,
    number: int,
    *lessons: SignedLesson,
    name: str = "cned/6e",
    gone: tuple[str, ...] = (),
    back: tuple[str, ...] = (),
    keys: dict[bytes, PublicKey] = KEYS,
) -> Admitted:
    """An edition that comes now, with what it withdraws and reinstates since this very number."""
    content = Edition(
        name=name,
        number=number,
        lessons=lessons,
        withdrawn=tuple(Withdrawal(id=LessonId(each), why=f"{each} is wrong", since=number) for each in gone),
        reinstated=tuple(Reinstatement(id=LessonId(each), since=number) for each in back),
    )
    manifest = catalogue(name=name, edition=number)
    return Admitted(manifest=manifest, edition=content, keys=keys, epoch=memory.epoch(name.partition("/")[0]))


def after(memory: Memory, *arguments: Any, **more: Any) -> Memory:
    """What a node stands on after one more edition."""
    return weigh(memory, edition(memory, *arguments, **more)).memory


def ids(memory: Memory) -> set[LessonId]:
    """What is listed, whatever the catalogue."""
    return set(listed(memory, memory.admitted))


def served(memory: Memory, *lessons: SignedLesson, keys: dict[bytes, PublicKey] = KEYS) -> list[Backed]:
    return [Backed(each, keys, memory.epoch(each.manifest.publisher)) for each in lessons]


def test_what_is_listed_as_before_is_the_same_object() -> None:
    a, b = signed("a"), signed("b")
    before = listed(memory := after(KNOWN, 1, a, b), memory.admitted)
    memory = after(memory, 2, a, attrs.evolve(b))
    again = listed(memory, memory.admitted, before)
    assert again == before
    assert (again[A] is before[A], again[B] is before[B]) == (True, False)


def test_what_stood_otherwise_before_is_listed_as_it_stands_now() -> None:
    before = listed(memory := after(KNOWN, 1, a := signed("a")), memory.admitted)
    for now in (after(memory, 2, a, keys=BOTH), after(Memory(publishers=with_new_keys(TWO, "cned")), 2, a)):
        assert listed(now, now.admitted, before) == listed(now, now.admitted)


# whose an id is


def test_a_lesson_outside_its_publishers_prefix_is_left_out_with_a_line() -> None:
    weighed = weigh(KNOWN, edition(KNOWN, 1, signed("lyon-a"), signed("a")))
    assert ids(weighed.memory) == {A}
    assert weighed.lines == ("cned/6e, edition 1: lyon-a is not an id of cned",)


def test_a_publisher_with_a_prefix_lists_its_own_lessons_and_no_others() -> None:
    weighed = weigh(
        KNOWN,
        edition(KNOWN, 1, signed("lyon-a", publisher="lyon"), signed("a", publisher="lyon"), name="lyon/6e"),
    )
    assert ids(weighed.memory) == {LYON_A}
    assert weighed.lines == ("lyon/6e, edition 1: a is not an id of lyon",)


def test_a_version_outside_the_prefix_does_not_count_for_whose_id_it_is() -> None:
    memory = after(KNOWN, 1, signed("a", publisher="lyon", version=2**31), name="lyon/6e")
    memory = after(memory, 1, signed("a"))
    assert listed(memory, memory.admitted)[A].manifest.publisher == "cned"


def test_nobody_withdraws_or_reinstates_anothers_lesson() -> None:
    memory = after(KNOWN, 1, signed("a"), signed("b"))
    weighed = weigh(memory, edition(memory, 1, name="lyon/6e", gone=("a",)))
    assert ids(weighed.memory) == {A, B}
    assert weighed.lines == ("lyon/6e, edition 1: it withdraws a, which is not an id of lyon",)
    memory = after(weighed.memory, 2, gone=("a",))
    weighed = weigh(memory, edition(memory, 2, name="lyon/6e", back=("a",)))
    assert set(withdrawn(weighed.memory)) == {A}
    assert weighed.lines == ("lyon/6e, edition 2: it reinstates a, which is not an id of lyon",)


def test_until_publishers_are_heard_of_every_followed_catalogue_counts() -> None:
    memory = after(Memory(), 1, signed("a"))
    memory = after(memory, 1, signed("b", publisher="lyon"), name="lyon/6e", gone=("a",))
    assert ids(memory) == {B}
    assert set(withdrawn(memory)) == {A}


def test_what_a_publisher_listed_before_its_prefix_was_given_away_is_listed_no_more_and_not_taken_back() -> None:
    alone = Publishers(delegations={"cned": CNED})
    memory = after(Memory(publishers=alone), 1, mine := signed("lyon-a"))
    weighed = heed(memory, TWO, served(memory, mine))
    assert ids(weighed.memory) == set()
    assert (withdrawn(weighed.memory), weighed.fallen) == ({}, frozenset())


# editions


def refuses(memory: Memory, admitted: Admitted) -> str:
    with pytest.raises(TrustError) as refused:
        check_next(memory, admitted.manifest, signed_file(admitted.manifest), admitted.keys)
    return str(refused.value)


def passes(memory: Memory, admitted: Admitted) -> None:
    check_next(memory, admitted.manifest, signed_file(admitted.manifest), admitted.keys)


def test_an_edition_follows_a_lower_one_and_no_other() -> None:
    memory = after(KNOWN, 5)
    passes(memory, edition(memory, 6))
    passes(memory, edition(memory, 5))  # the very same
    other = attrs.evolve(edition(memory, 5), manifest=catalogue(edition=5, size=999))
    assert "another edition 5 of cned/6e" in refuses(memory, other)
    assert "another edition 4 of cned/6e" in refuses(memory, edition(memory, 4))


def test_with_new_keys_a_publisher_begins_to_count_anew() -> None:
    memory = after(KNOWN, 2**31)
    newer = heed(memory, with_new_keys(TWO, "cned"), []).memory
    passes(newer, edition(newer, 7))
    newer = after(newer, 7)
    assert "another edition 6" in refuses(newer, edition(newer, 6))


def test_an_edition_that_was_admitted_before_publishers_were_heard_of_is_followed_by_higher_ones_only() -> None:
    memory = heed(after(Memory(), 5), TWO, []).memory
    assert "another edition 4" in refuses(memory, edition(memory, 4))


def test_who_is_no_publisher_publishes_nothing() -> None:
    assert "paris is no publisher here" in refuses(KNOWN, edition(KNOWN, 1, name="paris/6e"))
    assert "the key was stolen" in refuses(
        Memory(publishers=REVOKED), edition(Memory(publishers=REVOKED), 1, name="lyon/6e")
    )


def test_an_edition_that_a_revoked_key_alone_signed_is_refused() -> None:
    without = attrs.evolve(TWO, revoked_keys=frozenset(KEYS))
    memory = Memory(publishers=without)
    assert "signed by a revoked key alone" in refuses(memory, edition(memory, 1, keys=BOTH))
    passes(Memory(publishers=attrs.evolve(TWO, revoked_keys=frozenset({NEWER_KEY.id}))), edition(memory, 1, keys=BOTH))


# versions


def test_a_version_lower_than_the_one_admitted_before_is_left_out() -> None:
    memory = after(KNOWN, 1, signed("a", version=3), signed("b"))
    weighed = weigh(memory, edition(memory, 2, signed("a", version=2), signed("b")))
    assert ids(weighed.memory) == {B}
    assert weighed.lines == ("cned/6e, edition 2: version 2 of a is older than 3, known here",)
    assert weighed.troubles == ()


def test_a_version_is_remembered_through_editions_that_do_not_list_it() -> None:
    memory = after(after(KNOWN, 1, signed("a", version=3)), 2)
    assert ids(after(memory, 3, signed("a", version=2))) == set()
    assert ids(after(memory, 3, signed("a", version=3))) == {A}


@pytest.mark.parametrize("change", [{"title": "Other"}, {"info_hash": bytes(32)}], ids=str)
def test_the_same_version_with_anything_else_in_it_is_refused_and_its_publisher_has_to_act(
    change: dict[str, Any],
) -> None:
    memory = after(KNOWN, 1, signed("a"))
    weighed = weigh(memory, edition(memory, 2, signed("a", **change), signed("b")))
    assert ids(weighed.memory) == {B}
    (trouble,) = weighed.troubles
    assert "version 1 of a is another than was admitted here before" in trouble
    assert "release it as version 2" in trouble
    assert weighed.memory.admitted["cned/6e"].trouble == trouble


def test_the_same_version_signed_by_another_key_is_fine() -> None:
    memory = after(KNOWN, 1, signed("a"))
    weighed = weigh(memory, edition(memory, 2, anew := signed("a", by=NEWER), keys=BOTH))
    assert weighed.troubles == weighed.lines == ()
    assert listed(weighed.memory, ["cned/6e"])[A].lesson == anew


def test_with_new_keys_a_publisher_may_go_back_to_a_lower_version() -> None:
    memory = after(KNOWN, 1, signed("a", version=2**31), name="cned/6e")
    memory = heed(memory, with_new_keys(TWO, "cned"), []).memory
    memory = after(memory, 1, signed("a", version=2))
    assert listed(memory, ["cned/6e"])[A].manifest.version == 2
    assert ids(after(memory, 2, signed("a", version=1))) == set()


def test_what_a_catalogue_says_with_old_keys_does_not_stand_against_another_that_speaks_with_new_ones() -> None:
    stolen = signed("a", version=2**31, levels=["6e", "5e"])
    memory = after(after(KNOWN, 1, stolen), 1, stolen, name="cned/5e")
    memory = heed(memory, with_new_keys(TWO, "cned"), []).memory
    memory = after(memory, 2, signed("a", version=2, levels=["6e", "5e"]))
    assert listed(memory, ["cned/6e", "cned/5e"])[A].manifest.version == 2
    again = weigh(memory, memory.admitted["cned/5e"]).memory  # as a restart takes it up, in whatever order
    assert listed(again, ["cned/6e", "cned/5e"])[A].manifest.version == 2


def test_of_several_catalogues_the_highest_version_is_listed() -> None:
    old, new = signed("a", levels=["6e", "5e"]), signed("a", version=2, levels=["6e", "5e"])
    memory = after(after(KNOWN, 1, old, name="cned/5e"), 1, new)
    assert listed(memory, ["cned/5e", "cned/6e"])[A].lesson == new
    assert listed(memory, ["cned/6e", "cned/5e"])[A].lesson == new
    assert listed(memory, ["cned/9e"]) == {}


# withdrawals


def test_a_withdrawal_outlasts_editions_that_are_silent_about_it() -> None:
    memory = after(after(KNOWN, 1, signed("a")), 2, gone=("a",))
    weighed = weigh(memory, edition(memory, 3, signed("a", version=2)))
    assert ids(weighed.memory) == set()
    assert withdrawn(weighed.memory)[A].why == "a is wrong"
    assert weighed.lines == ("cned/6e, edition 3: a was withdrawn, and is not reinstated",)


def test_a_withdrawn_lesson_keeps_its_name() -> None:
    memory = after(after(KNOWN, 1, signed("a", title="Une leçon")), 2, gone=("a",))
    named = withdrawn(memory)[A].lesson
    assert named is not None
    assert named.title == "Une leçon"
    assert withdrawn(after(memory, 3, gone=("a",)))[A].lesson == named


def test_what_was_withdrawn_before_publishers_were_heard_of_counts_when_it_was_its_publishers() -> None:
    memory = after(after(Memory(), 1, gone=("a",)), 1, gone=("b", "lyon-a"), name="lyon/6e")
    assert set(withdrawn(memory)) == {A, B, LYON_A}
    assert set(withdrawn(heed(memory, TWO, []).memory)) == {A, LYON_A}
    assert set(withdrawn(heed(memory, REVOKED, []).memory)) == {A, B, LYON_A}  # nobody says that it was not theirs


def test_a_withdrawal_stays_when_the_id_is_given_to_another() -> None:
    memory = after(KNOWN, 1, gone=("lyon-a",), name="lyon/6e")
    given = attrs.evolve(TWO, delegations={"cned": CNED, "lyon": attrs.evolve(LYON, prefix="lyon-sud-")})
    assert set(withdrawn(heed(memory, given, []).memory)) == {LYON_A}


def test_of_several_withdrawals_one_that_names_the_lesson_counts() -> None:
    named = after(KNOWN, 1, signed("a"))
    memory = after(after(named, 2, gone=("a",)), 2, name="cned/5e", gone=("a",))
    assert withdrawn(memory)[A].lesson == signed("a").manifest


def test_a_later_edition_reinstates_a_lesson() -> None:
    memory = after(after(KNOWN, 1, signed("a")), 2, gone=("a",))
    memory = after(memory, 3, signed("a", version=2), back=("a",))
    assert (ids(memory), withdrawn(memory)) == ({A}, {})
    assert set(withdrawn(after(memory, 4, gone=("a",)))) == {A}  # and may withdraw it again


def test_a_reinstatement_from_before_a_withdrawal_does_not_end_it() -> None:
    memory = after(KNOWN, 5, gone=("a",))
    late = edition(memory, 6, signed("a"))
    old = attrs.evolve(late, edition=attrs.evolve(late.edition, reinstated=(Reinstatement(id=A, since=5),)))
    assert set(withdrawn(weigh(memory, old).memory)) == {A}


def test_who_withdraws_and_reinstates_a_lesson_withdraws_it() -> None:
    assert set(withdrawn(after(KNOWN, 1, signed("a"), gone=("a",), back=("a",)))) == {A}


def test_each_catalogue_that_withdrew_a_lesson_has_to_reinstate_it() -> None:
    memory = after(after(KNOWN, 2, gone=("a",)), 2, name="cned/5e", gone=("a",))
    memory = after(memory, 3, signed("a"), back=("a",))
    assert set(withdrawn(memory)) == {A}
    assert withdrawn(after(memory, 3, name="cned/5e", back=("a",))) == {}


def test_what_a_stolen_key_withdrew_comes_back_with_the_new_keys_whatever_the_number() -> None:
    memory = after(KNOWN, 2**31, gone=("a",))
    memory = heed(memory, with_new_keys(TWO, "cned"), []).memory
    assert set(withdrawn(memory)) == {A}
    assert ids(after(memory, 7, signed("a"), back=("a",))) == {A}


def test_whom_an_id_is_given_to_may_reinstate_it() -> None:
    memory = after(Memory(publishers=Publishers(delegations={"cned": CNED})), 9, gone=("lyon-a",))
    memory = heed(memory, TWO, []).memory
    memory = after(memory, 1, signed("lyon-a", publisher="lyon"), name="lyon/6e", back=("lyon-a",))
    assert (ids(memory), withdrawn(memory)) == ({LYON_A}, {})


def test_an_edition_taken_up_again_at_a_restart_changes_nothing() -> None:
    memory = after(KNOWN, 1, signed("a"), signed("b"))
    memory = after(memory, 2, signed("b", version=2), signed("lyon-a"), gone=("a",))
    again = attrs.evolve(memory, admitted={})
    for each in memory.admitted.values():
        again = weigh(again, each).memory
    assert again == memory


@given(st.lists(st.sampled_from(["list", "withdraw", "silence"]), min_size=1, max_size=8))
def test_nothing_but_a_reinstatement_brings_a_withdrawn_lesson_back(steps: list[str]) -> None:
    memory = KNOWN
    for number, step in enumerate(steps, 1):
        lessons = () if step == "silence" else (signed("a", version=number),)
        memory = after(memory, number, *lessons, gone=("a",) if step == "withdraw" else ())
    assert (A in withdrawn(memory)) == ("withdraw" in steps)
    assert (ids(memory) == {A}) == ("withdraw" not in steps and steps[-1] == "list")


# publishers and keys that were revoked


def test_what_only_a_revoked_publisher_vouched_for_is_taken_back_with_the_reason() -> None:
    memory = after(after(KNOWN, 1, mine := signed("lyon-a", publisher="lyon"), name="lyon/6e"), 1, other := signed("a"))
    weighed = heed(memory, REVOKED, served(memory, mine, other))
    assert ids(weighed.memory) == {A}
    (gone,) = withdrawn(weighed.memory).values()
    assert (gone.id, gone.why, gone.lesson) == (LYON_A, "the key was stolen", mine.manifest)
    assert weighed.fallen == {LYON_A}
    assert set(weighed.memory.admitted) == {"cned/6e"}
    assert weighed.lines == (
        "lyon/6e is forgotten: its publisher was revoked, 'the key was stolen'",
        "lessons of lyon that are taken back: 1; 'the key was stolen'",
    )


def test_a_lesson_that_was_only_listed_is_taken_back_too() -> None:
    memory = after(KNOWN, 1, signed("lyon-a", publisher="lyon"), name="lyon/6e")
    assert set(withdrawn(heed(memory, REVOKED, []).memory)) == {LYON_A}


def test_what_another_publisher_lists_too_is_not_taken_back() -> None:
    alone = Publishers(delegations={"lyon": LYON}, revoked={})
    memory = after(Memory(publishers=alone), 1, mine := signed("lyon-a", publisher="lyon"), name="lyon/6e")
    memory = heed(memory, attrs.evolve(REVOKED, revoked={}), served(memory, mine)).memory
    memory = after(memory, 1, signed("lyon-a"))
    weighed = heed(memory, REVOKED, served(memory, mine))
    assert (ids(weighed.memory), withdrawn(weighed.memory)) == ({LYON_A}, {})
    assert weighed.fallen == {LYON_A}  # the revoked publisher's is not served any more


def test_what_another_publisher_lists_in_a_lower_version_is_not_taken_back() -> None:
    memory = after(Memory(), 1, signed("lyon-a", publisher="lyon", version=2), name="lyon/6e")
    memory = after(memory, 1, signed("lyon-a"))
    assert listed(memory, memory.admitted)[LYON_A].manifest.version == 2
    memory = heed(memory, REVOKED, []).memory
    assert (ids(memory), withdrawn(memory)) == ({LYON_A}, {})


def test_what_another_publisher_vouched_for_when_it_came_is_not_taken_back() -> None:
    alone = Publishers(delegations={"cned": CNED})
    memory = after(Memory(publishers=alone), 1, mine := signed("lyon-a"))
    memory = after(heed(memory, TWO, served(memory, mine)).memory, 2)
    memory = after(memory, 1, signed("lyon-a", publisher="lyon"), name="lyon/6e")
    weighed = heed(memory, REVOKED, served(memory, mine))
    assert (withdrawn(weighed.memory), weighed.fallen) == ({}, frozenset())


def test_a_publisher_that_is_no_longer_named_takes_nothing_with_it() -> None:
    memory = after(KNOWN, 1, mine := signed("lyon-a", publisher="lyon"), name="lyon/6e")
    weighed = heed(memory, attrs.evolve(REVOKED, revoked={}), served(memory, mine))
    assert ids(weighed.memory) == set()
    assert (withdrawn(weighed.memory), weighed.fallen) == ({}, frozenset())
    assert ids(heed(weighed.memory, TWO, []).memory) == {LYON_A}  # and is back when it is named again


@pytest.mark.parametrize("is_still_noted", [True, False])
def test_a_publisher_that_is_delegated_to_again_comes_back_with_its_next_edition(is_still_noted: bool) -> None:
    memory = after(KNOWN, 9, mine := signed("lyon-a", publisher="lyon"), name="lyon/6e")
    memory = heed(memory, REVOKED, served(memory, mine)).memory
    again = with_new_keys(attrs.evolve(TWO, revoked=REVOKED.revoked if is_still_noted else {}), "lyon")
    memory = heed(memory, again, []).memory
    assert set(withdrawn(memory)) == {LYON_A}
    passes(memory, edition(memory, 3, name="lyon/6e"))
    memory = after(memory, 3, mine, name="lyon/6e")
    assert (ids(memory), withdrawn(memory)) == ({LYON_A}, {})
    assert heed(memory, again, served(memory, mine)) == Weighed(memory=memory)


def test_a_node_that_missed_the_revocation_takes_back_what_the_old_keys_vouched_for() -> None:
    memory = after(KNOWN, 9, mine := signed("lyon-a", publisher="lyon"), name="lyon/6e")
    again = with_new_keys(attrs.evolve(TWO, revoked=REVOKED.revoked), "lyon")
    assert set(withdrawn(heed(memory, again, served(memory, mine)).memory)) == {LYON_A}


def test_what_a_revoked_publisher_withdrew_stays_withdrawn() -> None:
    memory = after(KNOWN, 1, gone=("lyon-a",), name="lyon/6e")
    assert set(withdrawn(heed(memory, REVOKED, []).memory)) == {LYON_A}


def test_what_only_a_revoked_key_signed_is_taken_back_and_what_another_signed_too_is_not() -> None:
    old, new = signed("a"), signed("b", by=NEWER)
    memory = after(KNOWN, 1, old, new, keys=BOTH)
    weighed = heed(memory, attrs.evolve(TWO, revoked_keys=frozenset(KEYS)), served(memory, old, new, keys=BOTH))
    assert ids(weighed.memory) == {B}
    assert weighed.fallen == {A}
    assert withdrawn(weighed.memory)[A].why == KEY_REVOKED
    assert "revoked key" in (weighed.memory.admitted["cned/6e"].trouble or "")


def test_what_the_current_edition_lists_with_a_valid_key_goes_on() -> None:
    memory = after(KNOWN, 1, old := signed("a"))
    memory = after(memory, 2, signed("a", by=NEWER), keys=BOTH)
    weighed = heed(memory, attrs.evolve(TWO, revoked_keys=frozenset(KEYS)), served(memory, old))
    assert (ids(weighed.memory), withdrawn(weighed.memory)) == ({A}, {})
    assert weighed.fallen == {A}  # what was served on the old signature; the listing takes its place


def test_what_is_signed_anew_comes_back() -> None:
    without = attrs.evolve(TWO, revoked_keys=frozenset(KEYS))
    memory = after(KNOWN, 1, old := signed("a"))
    memory = heed(memory, without, served(memory, old)).memory
    assert set(withdrawn(memory)) == {A}
    memory = after(memory, 2, signed("a", by=NEWER), keys=BOTH)
    assert (ids(memory), withdrawn(memory)) == ({A}, {})
    assert withdrawn(after(memory, 3)) == {}  # and is no longer offered, rather than taken back once more


def test_a_publishers_own_reason_counts_before_a_revocation() -> None:
    memory = after(after(KNOWN, 1, mine := signed("lyon-a", publisher="lyon"), name="lyon/6e"), 1, signed("a"))
    memory = heed(memory, REVOKED, served(memory, mine)).memory
    memory = after(memory, 2, signed("a"), gone=("lyon-a",))
    assert withdrawn(memory)[LYON_A].why == "lyon-a is wrong"


# what is written of a step


def test_the_changes_of_a_step_make_the_memory_after_of_the_one_before() -> None:
    before = after(after(KNOWN, 1, signed("a"), signed("b")), 2, gone=("b",))
    step = weigh(before, edition(before, 3, signed("a", version=2), gone=("a",), back=("b",)))
    found = changes(before, step.memory)
    assert [(gone.id, gone.by) for gone in found.gone] == [(A, "cned/6e")]
    assert found.back == ((B, "cned/6e"),)
    assert found.versions == {A: step.memory.versions[A]}
    assert (found.publishers, found.forgotten) == (None, frozenset())


def test_the_changes_of_a_revocation_forget_its_catalogues() -> None:
    before = after(KNOWN, 1, signed("lyon-a", publisher="lyon"), name="lyon/6e")
    found = changes(before, heed(before, REVOKED, []).memory)
    assert (found.publishers, found.forgotten) == (REVOKED, frozenset({"lyon/6e"}))
    assert [gone.by for gone in found.gone] == ["lyon"]


def test_a_revocation_is_told_from_a_withdrawal_by_whose_word_it_is() -> None:
    assert Gone(id=A, by="lyon", why="").is_revocation
    assert not Gone(id=A, by="lyon/6e", why="").is_revocation


def test_a_step_that_finds_nothing_has_nothing_to_say() -> None:
    assert heed(KNOWN, TWO, []) == Weighed(memory=KNOWN)
