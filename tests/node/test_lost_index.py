"""What a node does when its index is lost while it runs: it knows the rest, and writes it down again."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
import trio

from edgeshare.errors import LibraryError
from edgeshare.keeper import Keeper
from edgeshare.library.index import StoredLesson
from edgeshare.library.recovery import backup_of
from edgeshare.manifest import LessonId
from edgeshare.view import State
from tests.support.content import PIECE, content, noise
from tests.support.keeping import FRACTIONS, Desk, Node, keeping
from tests.support.node import Origin

ONE, OTHER, THIRD = (content({"index.html": noise(2 * PIECE, seed)}) for seed in (1, 2, 3))
OTHERS, WITHDRAWN = LessonId("other"), LessonId("third")


def lose(node: Node) -> None:
    """Overwrite the index, which is in use, and its backup."""
    index = node.parts.library._index._index
    index._db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    index.path.write_bytes(noise(index.path.stat().st_size))
    backup_of(index.path).unlink(missing_ok=True)
    index._db.execute("PRAGMA shrink_memory")


async def test_a_node_whose_index_is_lost_while_it_runs_forgets_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    desk = Desk(origin := Origin())
    edition = desk.edition(desk.publish(ONE), desk.publish(OTHER, "other"), gone=("third",))
    with trio.fail_after(60):
        async with keeping(tmp_path / "node", origin) as node:
            await node.keeper.admit(edition)
            for lesson in (FRACTIONS, OTHERS):
                await node.until(State.COMPLETE, lesson)
            await node.keeper.pin(OTHERS)
            origin.asked.clear()
            lose(node)
            await node.keeper.want(FRACTIONS)
            await until_kept(node)
            assert node.keeper.display.lesson(FRACTIONS) is not None
            assert await node.text() == ONE.files["index.html"]
            assert len([record for record in caplog.records if record.levelname == "ERROR"]) == 1
            assert not node.keeper.stands_on(edition)  # the index lacks it, so it is taken again
            await node.keeper.admit(edition)
            assert node.keeper.stands_on(edition)
            assert not [path for path, _ in origin.asked if path.startswith("content/")]
        async with keeping(tmp_path / "node", nothing := Origin()) as node:
            for lesson in (FRACTIONS, OTHERS):
                await node.until(State.COMPLETE, lesson)
            assert is_pinned(node.keeper, OTHERS)
            assert node.keeper.display.states()[State.WITHDRAWN] == 1
            assert nothing.asked == []


async def test_an_index_that_cannot_be_told_at_once_is_told_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    desk = Desk(origin := Origin())
    with trio.fail_after(60):
        async with keeping(tmp_path / "node", origin) as node:
            await node.keeper.admit(desk.edition(desk.publish(ONE), desk.publish(OTHER, "other")))
            for lesson in (FRACTIONS, OTHERS):
                await node.until(State.COMPLETE, lesson)
            library = node.parts.library
            keep, refusals = library.keep_lessons, 2

            async def refuse_at_first(rows: Sequence[StoredLesson]) -> None:
                nonlocal refusals
                if refusals:
                    refusals -= 1
                    raise LibraryError("the index is busy")
                await keep(rows)

            monkeypatch.setattr(library, "keep_lessons", refuse_at_first)
            lose(node)
            await node.keeper.want(FRACTIONS)
            while refusals:
                await trio.sleep(0.05)
            await until_kept(node)


def is_pinned(keeper: Keeper, lesson: LessonId) -> bool:
    view = keeper.display.lesson(lesson)
    return view is not None and view.is_pinned


async def until_kept(node: Node) -> None:
    """Wait until the new index knows both lessons, and both contents besides the catalogue's."""
    library = node.parts.library
    while not (len(await library.lessons()) == 2 and len(await library.torrents()) == 3):
        await trio.testing.wait_all_tasks_blocked(0.01)
