"""What a page may say of where a lesson came from: nothing came over the network, or something did."""

from __future__ import annotations

from pathlib import Path

from edgeshare.view import State
from tests.support.sticks import LESSONS, School, alone, copied


async def test_a_lesson_that_a_stick_brought_is_told_apart(made: School, tmp_path: Path) -> None:
    made.export(tmp_path / "usb")
    await copied(tmp_path / "usb", tmp_path / "home", made.root)
    async with alone(tmp_path / "home", made.root) as (node, arrivals):
        assert not any(view.is_brought for view in node.keeper.display.lessons())
        await arrivals.take_in()
        views = node.keeper.display.lessons()
    assert {view.manifest.id: {entry.path for entry in view.table} for view in views} == {
        lesson: set(files) for lesson, files in LESSONS.items()
    }
    assert {view.manifest.id: (view.state, view.is_brought) for view in views} == dict.fromkeys(
        LESSONS, (State.COMPLETE, True)
    )
