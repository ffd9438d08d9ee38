from __future__ import annotations

from collections import Counter
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from random import Random

import attrs
import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from edgeshare.layout import Piece
from edgeshare.origin.client import OriginClient, open_origins
from edgeshare.origin.feed import MOST_AT_ONCE, MOST_FOR_READER, Feed, Lines, neighbours
from edgeshare.ration import Reason
from edgeshare.swarm.torrent import Torrent
from tests.support.content import PIECE, Content, at, content, hold, node, noise
from tests.support.publisher import Folder

LESSON = content({"a.html": noise(5 * PIECE + 7), "film.mp4": noise(40 * PIECE, 2), "leer.txt": b"", "z": noise(1, 3)})


@attrs.define
class Taking:
    """One node's feed of one lesson, and what it counted."""

    torrent: Torrent
    feed: Feed
    taken: Counter[Reason]


@attrs.define
class Origin:
    """An origin in memory with one content, and a node's client of it."""

    folder: Folder
    client: OriginClient
    lines: Lines = attrs.field(factory=Lines)

    def feed(self, torrent: Torrent, *, grace_s: float = 0.0, seed: int = 1) -> Taking:
        taken: Counter[Reason] = Counter()
        feed = Feed(torrent, self.client, self.lines, taken, Random(seed), grace_s=grace_s)
        return Taking(torrent, feed, taken)

    def pieces(self, thing: Content) -> Counter[Piece]:
        """How often each piece was asked for."""
        asked: Counter[Piece] = Counter()
        for path, start, stop in self.folder.spans:
            entry = thing.layout.by_path[path.split("/", 2)[2]]
            asked.update(span.piece for span in thing.layout.spans(entry, start, stop))
        return asked


@asynccontextmanager
async def origin_of(thing: Content, folder: Path) -> AsyncGenerator[Origin, None]:
    thing.write(folder / "content" / thing.info_hash.hex())
    served = Folder(folder)
    async with open_origins(("http://a/",), Random(1), transport=served) as client:
        with trio.fail_after(30):
            yield Origin(served, client)


async def until_met(torrent: Torrent, *, peers: int) -> None:
    await torrent.until(lambda: torrent.progress is not None and torrent.progress.peers >= peers)


async def test_a_lone_node_takes_everything_from_the_origin_each_piece_once(tmp_path: Path) -> None:
    async with origin_of(LESSON, tmp_path / "origin") as origin, node() as swarm:
        torrent = await hold(swarm, LESSON, tmp_path / "node")
        taking = origin.feed(torrent)
        await taking.feed.run()
        assert torrent.is_finished
        assert origin.pieces(LESSON) == dict.fromkeys(range(LESSON.layout.pieces), 1)
        assert taking.taken == origin.lines.taken == {Reason.ALONE: LESSON.size}
        assert origin.folder.most_under_way == 1
        await torrent.flush()
    assert LESSON.is_at(tmp_path / "node")


async def test_what_peers_have_is_not_asked_of_the_origin(tmp_path: Path) -> None:
    async with origin_of(LESSON, tmp_path / "origin") as origin, node("127.0.0.2") as seeding, node() as swarm:
        await hold(seeding, LESSON, LESSON.write(tmp_path / "seed"))
        torrent = await hold(swarm, LESSON, tmp_path / "node", at(seeding))
        await torrent.until(lambda: torrent.bytes_have > 0)
        await origin.feed(torrent).feed.run()
        assert torrent.is_finished
        assert origin.folder.asked == []


async def test_nothing_is_taken_before_peers_had_the_time_to_be_found(tmp_path: Path) -> None:
    async with origin_of(LESSON, tmp_path / "origin") as origin, node() as swarm:
        torrent = await hold(swarm, LESSON, tmp_path / "node")
        taking = origin.feed(torrent, grace_s=0.5)
        with trio.move_on_after(0.4):
            await taking.feed.run()
        assert origin.folder.asked == []
        await taking.feed.run()
        assert torrent.is_finished


async def test_a_reader_does_not_wait_for_the_ration(tmp_path: Path) -> None:
    async with origin_of(LESSON, tmp_path / "origin") as origin, node() as swarm, trio.open_nursery() as nursery:
        torrent = await hold(swarm, LESSON, tmp_path / "node")
        taking = origin.feed(torrent, grace_s=1000.0)
        nursery.start_soon(taking.feed.run)
        wished = [Piece(30), Piece(31)]
        torrent.urge(wished)
        await torrent.until(lambda: all(map(torrent.has, wished)))
        assert origin.pieces(LESSON) == {30: 1, 31: 1}
        assert len(origin.folder.spans) == 1  # neighbours come in one request
        assert taking.taken == {Reason.READER_WAITS: 2 * PIECE}
        nursery.cancel_scope.cancel()


async def test_a_reader_does_not_stand_in_line_behind_the_ration_of_other_lessons(tmp_path: Path) -> None:
    async with origin_of(LESSON, tmp_path / "origin") as origin, node() as swarm, trio.open_nursery() as nursery:
        torrent = await hold(swarm, LESSON, tmp_path / "node")
        async with origin.lines.ration:  # another lesson's turn, which takes long
            nursery.start_soon(origin.feed(torrent).feed.run)
            await trio.testing.wait_all_tasks_blocked(0.1)  # all of this lesson is due, and waits
            torrent.urge([Piece(2)])
            await torrent.until(lambda: torrent.has(Piece(2)))
        await torrent.until(lambda: torrent.is_finished)
        assert origin.pieces(LESSON) == dict.fromkeys(range(LESSON.layout.pieces), 1)


async def test_what_is_on_its_way_is_not_asked_for_again_when_a_reader_wants_it(tmp_path: Path) -> None:
    thing = content({"film.mp4": noise(5 * PIECE, 4)})
    async with origin_of(thing, tmp_path / "origin") as origin, node() as swarm, trio.open_nursery() as nursery:
        origin.folder.hold = trio.Event()
        torrent = await hold(swarm, thing, tmp_path / "node")
        nursery.start_soon(origin.feed(torrent).feed.run)
        while not origin.folder.under_way:
            await trio.sleep(0.01)
        torrent.urge([Piece(4)])  # every run in this file goes on to its end
        await trio.sleep(0.3)  # the readers' line would have begun by then
        assert origin.folder.under_way == 1
        origin.folder.hold.set()
        await torrent.until(lambda: torrent.is_finished)
    assert origin.pieces(thing) == dict.fromkeys(range(5), 1)


async def test_a_peer_that_delivers_a_piece_first_ends_its_fetch(tmp_path: Path) -> None:
    async with (
        origin_of(LESSON, tmp_path / "origin") as origin,
        node("127.0.0.2") as partial,
        node() as swarm,
        trio.open_nursery() as nursery,
    ):
        origin.folder.hold = trio.Event()
        torrent = await hold(swarm, LESSON, tmp_path / "node")
        nursery.start_soon(origin.feed(torrent, grace_s=1000.0).feed.run)
        torrent.urge([Piece(20)])
        while not origin.folder.under_way:
            await trio.sleep(0.01)
        LESSON.write(tmp_path / "partial")
        (tmp_path / "partial" / "a.html").unlink()
        await hold(partial, LESSON, tmp_path / "partial", at(swarm))
        await torrent.until(lambda: torrent.has(Piece(20)))
        while origin.folder.under_way:
            await trio.sleep(0.01)
        assert not torrent.is_finished
        assert len(origin.folder.asked) == origin.folder.cancelled == 1
        nursery.cancel_scope.cancel()


async def test_a_reader_that_leaves_ends_the_fetch_that_it_waited_for(tmp_path: Path) -> None:
    async with (
        origin_of(LESSON, tmp_path / "origin") as origin,
        node() as swarm,
        trio.open_nursery() as nursery,
    ):
        origin.folder.hold = trio.Event()  # never set: the origin takes for ever
        torrent = await hold(swarm, LESSON, tmp_path / "node")
        nursery.start_soon(origin.feed(torrent, grace_s=1000.0).feed.run)
        torrent.urge([Piece(20), Piece(21)])
        while not origin.folder.under_way:
            await trio.sleep(0.01)
        torrent.relax([Piece(20), Piece(21)])
        while origin.folder.under_way:
            await trio.sleep(0.01)
        assert (origin.folder.cancelled, origin.lines.readers.borrowed_tokens) == (1, 0)
        nursery.cancel_scope.cancel()


async def test_what_a_reader_waits_for_comes_in_short_requests(tmp_path: Path) -> None:
    thing = content({"film.mp4": noise(3 * MOST_FOR_READER, 4)})
    async with origin_of(thing, tmp_path / "origin") as origin, node() as swarm, trio.open_nursery() as nursery:
        torrent = await hold(swarm, thing, tmp_path / "node")
        nursery.start_soon(origin.feed(torrent, grace_s=1000.0).feed.run)
        torrent.urge(map(Piece, range(thing.layout.pieces)))
        await torrent.until(lambda: torrent.is_finished)
    assert max(stop - start for _, start, stop in origin.folder.spans) == MOST_FOR_READER


async def test_a_reader_beside_the_ration_costs_no_piece_twice(tmp_path: Path) -> None:
    async with origin_of(LESSON, tmp_path / "origin") as origin, node() as swarm, trio.open_nursery() as nursery:
        torrent = await hold(swarm, LESSON, tmp_path / "node")
        nursery.start_soon(origin.feed(torrent).feed.run)
        for piece in map(Piece, range(0, LESSON.layout.pieces, 3)):
            torrent.urge([piece])
            await trio.sleep(0.002)
        await torrent.until(lambda: torrent.is_finished)
    assert set(origin.pieces(LESSON).values()) == {1}


async def test_peers_that_deliver_everything_first_end_the_feed(tmp_path: Path) -> None:
    async with (
        origin_of(LESSON, tmp_path / "origin") as origin,
        node("127.0.0.2") as seeding,
        node() as swarm,
        trio.open_nursery() as nursery,
    ):
        origin.folder.hold = trio.Event()  # never set: the origin takes for ever
        torrent = await hold(swarm, LESSON, tmp_path / "node")
        taking = origin.feed(torrent)
        nursery.start_soon(taking.feed.run)
        while not origin.folder.under_way:
            await trio.sleep(0.01)
        await hold(seeding, LESSON, LESSON.write(tmp_path / "seed"), at(swarm))
        await torrent.until(lambda: torrent.is_finished)
    assert origin.folder.cancelled == len(origin.folder.asked) > 0
    assert taking.taken == {}


async def test_a_feed_that_is_cancelled_lets_go_of_the_origin(tmp_path: Path) -> None:
    async with origin_of(LESSON, tmp_path / "origin") as origin, node() as swarm:
        origin.folder.hold = trio.Event()
        torrent = await hold(swarm, LESSON, tmp_path / "node")
        with trio.move_on_after(0.3):
            await origin.feed(torrent).feed.run()
        assert (origin.folder.cancelled, origin.folder.under_way) == (1, 0)
        assert origin.lines.ration.borrowed_tokens == 0


async def test_other_bytes_than_were_published_are_never_handed_in(tmp_path: Path) -> None:
    thing = content({"a": noise(PIECE, 7), "b": noise(PIECE, 8)})
    async with origin_of(thing, tmp_path / "origin") as origin, node() as swarm, trio.open_nursery() as nursery:
        folder = f"content/{thing.info_hash.hex()}"
        origin.folder.instead = {f"{folder}/a": noise(PIECE, 9), f"{folder}/b": noise(PIECE, 9)}
        torrent = await hold(swarm, thing, tmp_path / "node")
        taking = origin.feed(torrent)
        nursery.start_soon(taking.feed.run)
        while not origin.client.last_error:
            await trio.sleep(0.01)
        assert "http://a/ sends other bytes than were published in content/" in origin.client.last_error
        assert (torrent.bytes_have, taking.taken) == (0, {})
        origin.folder.instead = {}
        await torrent.until(lambda: torrent.is_finished)
    assert thing.is_at(tmp_path / "node")


async def test_an_origin_that_fails_is_asked_again_when_it_may_be_better(tmp_path: Path) -> None:
    async with origin_of(LESSON, tmp_path / "origin") as origin, node() as swarm, trio.open_nursery() as nursery:
        entry = LESSON.layout.files[0]
        origin.folder.instead = {f"content/{LESSON.info_hash.hex()}/{each.path}": 500 for each in LESSON.layout.files}
        torrent = await hold(swarm, LESSON, tmp_path / "node")
        nursery.start_soon(origin.feed(torrent).feed.run)
        while not origin.client.last_error:
            await trio.sleep(0.01)
        assert len(origin.folder.asked) == 1
        assert entry.path
        origin.folder.instead = {}
        await torrent.until(lambda: torrent.is_finished)


async def test_a_content_that_no_origin_has_is_asked_for_rarely(tmp_path: Path) -> None:
    thing = content({"a": noise(PIECE, 5)})
    async with origin_of(thing, tmp_path / "origin") as origin, node() as swarm:
        origin.folder.root = tmp_path / "nothing"
        torrent = await hold(swarm, thing, tmp_path / "node")
        with trio.move_on_after(1.5):
            await origin.feed(torrent).feed.run()
        assert len(origin.folder.asked) == 1


async def test_lessons_share_one_line_for_the_ration(tmp_path: Path) -> None:
    things = [content({"a": noise(3 * PIECE, 20 + n)}) for n in range(4)]
    async with origin_of(things[0], tmp_path / "origin") as origin, node() as swarm, trio.open_nursery() as nursery:
        for number, thing in enumerate(things):
            thing.write(tmp_path / "origin" / "content" / thing.info_hash.hex())
            torrent = await hold(swarm, thing, tmp_path / f"node{number}")
            nursery.start_soon(origin.feed(torrent, seed=number).feed.run)
    assert origin.folder.most_under_way == 1
    assert origin.lines.taken == {Reason.ALONE: sum(thing.size for thing in things)}


async def test_a_disk_that_fails_ends_the_feed(tmp_path: Path) -> None:
    async with origin_of(LESSON, tmp_path / "origin") as origin, node() as swarm, trio.open_nursery() as nursery:
        origin.folder.hold = trio.Event()
        torrent = await hold(swarm, LESSON, tmp_path / "node")
        nursery.start_soon(origin.feed(torrent).feed.run)
        while not origin.folder.under_way:
            await trio.sleep(0.01)
        torrent.distrust("no space left on the device")
    assert not torrent.is_finished


async def test_a_lesson_that_goes_away_ends_the_feed(tmp_path: Path) -> None:
    async with origin_of(LESSON, tmp_path / "origin") as origin, node() as swarm, trio.open_nursery() as nursery:
        origin.folder.hold = trio.Event()
        torrent = await hold(swarm, LESSON, tmp_path / "node")
        nursery.start_soon(origin.feed(torrent).feed.run)
        while not origin.folder.under_way:
            await trio.sleep(0.01)
        await swarm.remove(LESSON.info_hash)
    assert origin.folder.cancelled == 1


@pytest.mark.whole
async def test_three_nodes_that_start_together_take_little_more_than_one_copy(tmp_path: Path) -> None:
    async with (
        origin_of(LESSON, tmp_path / "origin") as origin,
        node("127.0.0.2") as one,
        node("127.0.0.3") as two,
        node("127.0.0.4") as three,
        trio.open_nursery() as nursery,
    ):
        torrents = [
            await hold(one, LESSON, tmp_path / "one"),
            await hold(two, LESSON, tmp_path / "two", at(one)),
            await hold(three, LESSON, tmp_path / "three", at(one), at(two)),
        ]
        for torrent in torrents:
            await until_met(torrent, peers=2)
        for number, torrent in enumerate(torrents):
            each = Origin(origin.folder, origin.client)
            nursery.start_soon(each.feed(torrent, seed=number).feed.run)
    assert all(torrent.is_finished for torrent in torrents)
    assert origin.pieces(LESSON).total() < 2 * LESSON.layout.pieces


BIG = content({"a": noise(3 * MOST_AT_ONCE), "b": noise(PIECE, 2)}, piece_length=4 * PIECE).layout
all_of_big = st.frozensets(st.integers(0, BIG.pieces - 1).map(Piece), min_size=1)


@given(all_of_big, st.data())
def test_a_run_is_wanted_pieces_in_a_row_of_one_file_and_short(wanted: frozenset[Piece], data: st.DataObject) -> None:
    first = data.draw(st.sampled_from(sorted(wanted)))
    run = neighbours(BIG, wanted, first, MOST_AT_ONCE)
    assert run == list(range(first, first + len(run)))
    assert set(run) <= wanted
    file, start, _ = BIG.file_of(first)
    assert BIG.file_of(run[-1])[0] == file
    assert BIG.file_of(run[-1])[2] - start <= MOST_AT_ONCE


def test_a_run_is_as_long_as_it_may_be() -> None:
    assert (
        len(neighbours(BIG, frozenset(map(Piece, range(BIG.pieces))), Piece(0), MOST_AT_ONCE))
        == MOST_AT_ONCE // BIG.piece_length
    )


@pytest.mark.parametrize("length", [4 * 2**20])
def test_a_piece_that_is_longer_than_a_run_comes_alone(length: int) -> None:
    layout = content({"a": bytes(2 * length)}, piece_length=length).layout
    assert neighbours(layout, {Piece(0), Piece(1)}, Piece(0), MOST_AT_ONCE) == [0]
