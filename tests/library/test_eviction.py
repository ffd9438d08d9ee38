from __future__ import annotations

from datetime import date, timedelta
from typing import Any

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeshare.library.eviction import Item, QuotaError, Rank, Space, making_room, rank_of, too_much
from edgeshare.manifest import InfoHash, LessonId

TODAY = date(2026, 11, 24)
ROOMY = 10**12


def item(name: str, size: int = 10, rank: Rank = Rank.OPENED, **fields: Any) -> Item:
    return Item(content=InfoHash(name.encode().ljust(32)), size=size, rank=rank, **fields)


def space(quota: int, free: int = ROOMY, keep_free: int = 0, to_come: int = 0) -> Space:
    return Space(quota=quota, free=free, keep_free=keep_free, to_come=to_come)


def names(gone: tuple[InfoHash, ...] | None) -> list[str] | None:
    return None if gone is None else [each.decode().strip() for each in gone]


def test_nothing_goes_while_there_is_room() -> None:
    assert making_room([item("a")], space(20), 10, Rank.KEPT) == ()


def test_one_byte_more_than_the_quota_makes_something_go() -> None:
    assert names(making_room([item("a")], space(20), 11, Rank.KEPT)) == ["a"]


def test_the_weakest_reason_to_be_kept_goes_first() -> None:
    held = [item(rank.name, rank=rank) for rank in reversed(Rank)]
    gone = names(making_room(held, space(60), 50, Rank.KEPT))
    assert gone == ["LEFT", "OPENED", "FOLLOWED", "RECENT", "NEEDED"]


def test_what_is_kept_never_goes() -> None:
    assert making_room([item("pinned", rank=Rank.KEPT)], space(10), 1, Rank.KEPT) is None


@pytest.mark.parametrize("rank", list(Rank)[:-1])
def test_what_comes_does_not_drive_out_its_equals(rank: Rank) -> None:
    assert making_room([item("equal", rank=rank)], space(10), 1, rank) is None


def test_nothing_goes_when_that_does_not_help() -> None:
    assert making_room([item("a"), item("pinned", rank=Rank.KEPT)], space(20), 15, Rank.KEPT) is None


def test_what_many_others_have_goes_before_what_few_have() -> None:
    held = [item("rare", others=1, used=TODAY - timedelta(300)), item("common", others=50, used=TODAY)]
    assert names(making_room(held, space(20), 1, Rank.KEPT)) == ["common"]


def test_what_was_used_longest_ago_goes_first() -> None:
    held = [item("new", used=TODAY), item("old", used=TODAY - timedelta(9)), item("never")]
    assert names(making_room(held, space(30), 15, Rank.KEPT)) == ["never", "old"]


def test_the_disk_counts_besides_the_quota() -> None:
    tight = space(ROOMY, free=100, keep_free=60, to_come=30)  # 10 are left
    assert making_room([item("a", 5)], tight, 10, Rank.KEPT) == ()
    assert names(making_room([item("a", 5)], tight, 11, Rank.KEPT)) == ["a"]


def test_a_quota_that_was_lowered_makes_even_followed_lessons_go() -> None:
    held = [item("followed", rank=Rank.FOLLOWED), item("needed", rank=Rank.NEEDED), item("pinned", rank=Rank.KEPT)]
    assert names(too_much(held, space(20))) == ["followed"]
    assert names(too_much(held, space(5))) == ["followed", "needed"]


def test_a_disk_that_others_filled_costs_only_what_nobody_follows() -> None:
    held = [item("followed", rank=Rank.FOLLOWED), item("opened"), item("left", rank=Rank.LEFT)]
    assert names(too_much(held, space(ROOMY, free=5, keep_free=6))) == ["left"]
    assert names(too_much(held, space(ROOMY, free=5, keep_free=16))) == ["left", "opened"]
    assert names(too_much(held, space(ROOMY, free=5, keep_free=10**6))) == ["left", "opened"]


def test_what_is_still_to_come_makes_nothing_go_that_is_here() -> None:
    assert too_much([item("opened")], space(ROOMY, free=50, to_come=100)) == ()
    assert names(making_room([item("opened", 60)], space(ROOMY, free=50, to_come=100), 5, Rank.KEPT)) == ["opened"]


def test_what_goes_for_the_quota_frees_the_disk_too() -> None:
    held = [item("one", rank=Rank.FOLLOWED), item("two", 10)]
    assert names(too_much(held, space(10, free=0, keep_free=10))) == ["two"]


@given(
    st.lists(st.tuples(st.integers(1, 50), st.sampled_from(Rank), st.integers(0, 60)), max_size=12),
    st.integers(0, 300),
    st.integers(0, 300),
    st.integers(1, 100),
    st.sampled_from(Rank),
)
def test_whatever_goes_is_weaker_and_leaves_room_enough(
    held: list[tuple[int, Rank, int]], quota: int, free: int, needs: int, rank: Rank
) -> None:
    listed = [item(str(n), size, kind, others=others) for n, (size, kind, others) in enumerate(held)]
    items = {each.content: each for each in listed}
    room = space(quota, free=free, keep_free=20)
    gone = making_room(listed, room, needs, rank)
    used = sum(each.size for each in listed)
    if gone is None:
        weaker = sum(each.size for each in listed if each.rank < min(rank, Rank.KEPT))
        assert room.left(used) + weaker < needs
    else:
        freed = sum(items[each].size for each in gone)
        assert all(items[each].rank < rank for each in gone)
        assert room.left(used) + freed >= needs
        if gone:  # and no more than needed
            assert room.left(used) + freed - items[gone[-1]].size < needs


def test_a_lesson_that_is_followed_is_worth_more_when_it_was_used_within_a_month() -> None:
    def rank(**fields: Any) -> Rank:
        usual: dict[str, Any] = {"is_followed": True, "used": None, "needed": None, "today": TODAY}
        return rank_of(**(usual | fields))

    assert rank(is_followed=False, used=TODAY, needed=TODAY) is Rank.OPENED
    assert rank() is Rank.FOLLOWED
    assert rank(used=TODAY - timedelta(31)) is Rank.FOLLOWED
    assert rank(used=TODAY - timedelta(30)) is Rank.RECENT
    assert rank(used=TODAY + timedelta(300)) is Rank.FOLLOWED  # on a day when the clock was wrong
    assert rank(needed=TODAY - timedelta(1)) is Rank.FOLLOWED
    assert rank(needed=TODAY) is Rank.NEEDED
    assert rank(needed=TODAY + timedelta(15)) is Rank.NEEDED
    assert rank(needed=TODAY + timedelta(16)) is Rank.FOLLOWED


@pytest.mark.parametrize(
    ("room", "said"),
    [
        (space(1024**2), "the quota is 1.0 MiB: raise `quota` in the config"),
        (space(5 * 1024**2), "the quota is 5.0 MiB: raise `quota` in the config, or `edgeshare unpin` a lesson"),
        (space(5 * 1024**2, free=1024, keep_free=512), "of the disk 1.0 KiB are free: make room on it"),
    ],
)
def test_a_lesson_for_which_there_is_no_room_names_its_size_and_what_to_do(room: Space, said: str) -> None:
    error = QuotaError(LessonId("video"), 2 * 1024**2, room)
    assert str(error).startswith("video needs 2.0 MiB, ")
    assert said in str(error)
    assert error.is_larger == (room.quota < 2 * 1024**2)


def test_a_space_without_items_is_the_smaller_of_quota_and_disk() -> None:
    assert space(100, free=50, keep_free=10, to_come=5).left(0) == 35
    assert attrs.evolve(space(30), free=50).left(10) == 20
