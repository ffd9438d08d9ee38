"""How a content begins: who asks for what comes before its pieces, and what is there already."""

from __future__ import annotations

from pathlib import Path

import attrs
import pytest
import trio

from edgeshare.view import State
from tests.support.content import PIECE, at, content, hold, node, noise
from tests.support.node import QUICK, Origin, complete, expected, holding, parts

PATIENT = attrs.evolve(QUICK, patience_s=1.5)
LESSON = content({"a": noise(3 * PIECE), "b": noise(3 * PIECE, 2), "empty": b""})


async def test_a_node_that_nobody_told_who_else_is_there_waits_a_moment_and_takes_it_all(tmp_path: Path) -> None:
    origin, anybody = Origin(LESSON), expected(LESSON, audience=10**6)
    with trio.fail_after(30):
        async with parts(tmp_path, origin, pace=PATIENT) as mine, holding(mine, anybody) as held:
            began_s = trio.current_time()
            await complete(held)
            assert PATIENT.patience_s <= trio.current_time() - began_s < PATIENT.patience_s + 3.0
            assert origin.sent == LESSON.size


async def test_of_two_nodes_that_join_together_one_asks_for_the_metadata_and_each_piece_is_taken_once(
    tmp_path: Path,
) -> None:
    origin = Origin(LESSON)
    both = expected(LESSON, audience=2)
    with trio.fail_after(30):
        async with (
            parts(tmp_path / "one", origin, address="127.0.0.2", pace=PATIENT) as one,
            parts(tmp_path / "other", origin, address="127.0.0.3", pace=PATIENT) as other,
            holding(one, both, at(other.swarm)) as first,
            holding(other, both, at(one.swarm)) as second,
        ):
            await complete(first)
            await complete(second)
            for each in (one, other):
                assert LESSON.is_at(each.library.folder(LESSON.info_hash))
    assert [path for path, _ in origin.asked if path.startswith("torrents/")] == [
        f"torrents/{LESSON.info_hash.hex()}.torrent"
    ]
    assert origin.sent == LESSON.size


async def test_metadata_that_was_given_to_somebody_else_is_no_trouble_and_asked_for_later(tmp_path: Path) -> None:
    origin = Origin(LESSON)
    path = f"torrents/{LESSON.info_hash.hex()}.torrent"
    origin.taken = {path}
    pace = attrs.evolve(QUICK, retry_every_s=60.0)
    with trio.fail_after(30):
        async with parts(tmp_path, origin, pace=pace) as mine, holding(mine, LESSON) as held:
            while not origin.asked:
                await trio.sleep(0.01)
            await trio.sleep(0.5)  # less than it was asked to wait
            assert (held.state, held.trouble, held.is_unobtainable) == (State.WAITING, None, False)
            assert origin.asked == [(path, None)]
            origin.taken = set()
            await complete(held)


@pytest.mark.parametrize("whose", ["a peer's", "the origin's"])
async def test_when_the_index_is_lost_the_files_are_kept_and_only_what_is_wrong_is_fetched(
    tmp_path: Path, whose: str
) -> None:
    mine_is_at = tmp_path / "mine"
    with trio.fail_after(30):
        async with parts(mine_is_at, Origin(LESSON)) as mine, holding(mine, LESSON) as held:
            await complete(held)
            folder = mine.library.folder(LESSON.info_hash)
        for file in mine_is_at.glob("index.sqlite*"):
            file.unlink()
        with (folder / "a").open("r+b") as altered:
            altered.write(b"torn")
        origin = Origin(LESSON) if whose == "the origin's" else Origin()
        async with node("127.0.0.2") as peer, parts(mine_is_at, origin) as mine:
            assert await mine.library.torrents() == []
            await hold(peer, LESSON, LESSON.write(tmp_path / "peer"))
            peers = (at(peer),) if whose == "a peer's" else ()
            async with holding(mine, LESSON, *peers) as held:
                await complete(held)
                assert LESSON.is_at(folder)
                assert held.peer_bytes + origin.sent == PIECE
