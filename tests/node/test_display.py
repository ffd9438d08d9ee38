from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import attrs

from edgeshare.admission import Backed, Memory
from edgeshare.catalogue import SignedLesson
from edgeshare.config import Config
from edgeshare.display import Display
from edgeshare.hours import Window
from edgeshare.manifest import InfoHash, LessonId
from edgeshare.roll import Roll
from edgeshare.view import Obstacle, State
from tests.shim.conftest import manifest

NOON = datetime(2026, 11, 23, 12, tzinfo=UTC)
NOTHING: Any = ()


def display(window: str = "always", *pinned: Backed) -> Display:
    config = Config(origins=("http://origin.example/",), root=Path("root.json"))
    roll = Roll(config, lambda: NOON, lambda: NOON)
    roll.newest = {each.manifest.id: each for each in pinned}
    roll.pin([*roll.newest, LessonId("gone")])
    return Display(
        roll, NOTHING, Window.parse(window), lambda: NOON, is_metered=lambda: False, origin_trouble=lambda: None
    )


def backed(lesson: str, content: bytes, size: int) -> Backed:
    known = manifest(lesson, info_hash=InfoHash(content.ljust(32)), size=size)
    return Backed(SignedLesson(known, b""), {}, None)


def test_what_is_pinned_counts_whole_and_a_shared_content_once() -> None:
    assert display("always", backed("a", b"1", 10), backed("b", b"2", 5), backed("c", b"1", 10)).pinned_bytes() == 15
    assert display().pinned_bytes() == 0


def test_the_next_hours_for_fetching_ahead_are_told_and_none_where_they_never_end() -> None:
    opening = display("20:00-06:30").opening()
    assert opening is not None
    assert NOON < opening.start < opening.stop
    assert display("always").opening() is None


def test_what_shares_its_content_with_a_lesson_that_was_asked_for_does_not_wait_for_a_reader() -> None:
    asked, other = backed("a", b"1", 10), backed("b", b"1", 10)
    config = Config(origins=("http://origin.example/",), root=Path("root.json"))
    roll = Roll(config, lambda: NOON, lambda: NOON)
    both = {each.manifest.id: each for each in (asked, other)}
    roll.take_over(attrs.evolve(roll.read(Memory()), newest=both, by_content={asked.manifest.info_hash: tuple(both)}))
    held = SimpleNamespace(
        info_hash=asked.manifest.info_hash, state=State.FETCHING, is_complete=False, layout=None, torrent=None,
        trouble=None, missing_at_origin=None, bytes_have=0, crowd=None, origin_bytes={}, peer_bytes=0,
        pause=SimpleNamespace(gives_way=True, is_for_room=False),
    )  # fmt: skip
    holdings: Any = SimpleNamespace(of=lambda _: held)
    shown = Display(
        roll, holdings, Window.parse("always"), lambda: NOON, is_metered=lambda: True, origin_trouble=lambda: None
    )
    for wanted, obstacle in ((set[LessonId](), Obstacle.METERED), ({asked.manifest.id}, None)):
        roll.wanted = wanted
        for lesson in both:
            view = shown.lesson(lesson)
            assert view is not None
            assert view.obstacle is obstacle
