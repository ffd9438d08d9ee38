from __future__ import annotations

from collections import Counter
from collections.abc import AsyncGenerator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from random import Random

import attrs
import httpx
import pytest
import trio
import trio.testing
from hypothesis import given, settings
from hypothesis import strategies as st

from edgeshare.crowd import PATIENCE_S, Gathering
from edgeshare.layout import Layout, Piece
from edgeshare.origin import feed
from edgeshare.origin.client import OriginClient, open_origins
from edgeshare.origin.feed import (
    FEW_LAST_S,
    MOST_ALONE,
    MOST_FOR_READER,
    PORTION,
    PORTIONS,
    Feed,
    Lines,
    neighbours,
    portions,
)
from edgeshare.origin.line import Line
from edgeshare.ration import Neighbour, Ration, Reason, Rules, Token
from edgeshare.swarm.session import Helpers, Swarm
from edgeshare.swarm.torrent import Torrent
from tests.support.content import PIECE, Content, at, content, hold, node, noise
from tests.support.mesh import sight
from tests.support.publisher import Bytes, Folder
from tests.support.server import Tracker, serving

TOKEN = Token(b"12345678")
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

    def feed(self, torrent: Torrent, *, seed: int = 1, token: Token = TOKEN, audience: int | None = 1) -> Taking:
        """A feed that believes to be alone at once; for another `audience` it is not so sure."""
        taken: Counter[Reason] = Counter()
        gathering = Gathering(has_tracker=False, audience=audience, joined_s=trio.current_time())
        feed = Feed(torrent, self.client, self.lines, taken, Random(seed), token=token, gathering=gathering)
        return Taking(torrent, feed, taken)

    def pieces(self, thing: Content) -> Counter[Piece]:
        """How often each piece was asked for."""
        asked: Counter[Piece] = Counter()
        for path, start, stop in self.folder.spans:
            entry = thing.layout.by_path[path.split("/", 2)[2]]
            asked.update(span.piece for span in thing.layout.spans(entry, start, stop))
        return asked


class Guarded(Folder):
    """An origin whose guard has given some ranges to somebody else."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.given_away: set[str] = set()  # the ends of paths
        self.refused: list[tuple[str, float]] = []  # what it did not give again, and when

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        path = httpx.URL(request.url).path
        if any(map(path.endswith, self.given_away)):
            self.refused.append((path, trio.current_time()))
            headers = {"Edgeshare-Range": "taken", "Retry-After": "1"}
            return httpx.Response(429, headers=headers, stream=Bytes(b""))
        return await super().handle_async_request(request)


@asynccontextmanager
async def origin_of(thing: Content, folder: Path, kind: type[Folder] = Folder) -> AsyncGenerator[Origin, None]:
    thing.write(folder / "content" / thing.info_hash.hex())
    served = kind(folder)
    async with open_origins(("http://a/",), Random(1), transport=served) as client:
        with trio.fail_after(30):
            yield Origin(served, client)


async def hold_line(line: Line) -> None:
    """Another lesson's turn, which never ends."""
    async with line.turn(1.0):
        await trio.sleep_forever()


async def is_free(line: Line) -> bool:
    with trio.move_on_after(0.5):
        async with line.turn(1.0):
            return True
    return False


def shared(other: Swarm) -> tuple[Token, frozenset[Piece]]:
    """A token, and the pieces of LESSON that it is first in line for: some, where `other` is first for the rest."""
    seen = sight(LESSON.layout.pieces, Neighbour(key=0, token=other.token, pieces=0, gave=0))
    for number in range(1000):
        token = Token(number.to_bytes(8, "big"))
        ration = Ration(token, LESSON.info_hash, bytes(16), portions=portions(LESSON.layout), began_s=0.0)
        first = frozenset(ration.look(seen, Rules().gather_s).take)
        if 0 < len(first) < LESSON.layout.pieces:
            return token, first
    raise AssertionError("a thousand tokens are all or nothing")


def spans_of(layout: Layout) -> set[tuple[str, int, int]]:
    """The path, start and stop of each portion."""
    found: dict[Piece, list[tuple[str, int, int]]] = {}
    for number, head in enumerate(portions(layout)):
        entry, start, stop = layout.file_of(Piece(number))
        found.setdefault(head, []).append((entry.path, start, stop))
    return {(each[0][0], each[0][1], each[-1][2]) for each in found.values()}


async def until_met(torrent: Torrent, *, peers: int) -> None:
    await torrent.until(lambda: torrent.progress is not None and torrent.progress.peers >= peers)


async def test_a_lone_node_takes_everything_from_the_origin_each_piece_once(tmp_path: Path) -> None:
    async with origin_of(LESSON, tmp_path / "origin") as origin, node() as swarm:
        torrent = await hold(swarm, LESSON, tmp_path / "node")
        taking = origin.feed(torrent)
        await taking.feed.run()
        assert torrent.is_finished
        assert origin.pieces(LESSON) == dict.fromkeys(range(LESSON.layout.pieces), 1)
        assert taking.taken == {Reason.ALONE: LESSON.size}
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


async def test_a_node_that_knows_of_nobody_does_not_believe_at_once_that_it_is_alone(tmp_path: Path) -> None:
    async with origin_of(LESSON, tmp_path / "origin") as origin, node() as swarm:
        torrent = await hold(swarm, LESSON, tmp_path / "node")
        began_s = trio.current_time()
        taking = origin.feed(torrent, audience=10**6)
        with trio.move_on_at(began_s + 0.8 * PATIENCE_S):
            await taking.feed.run()
        assert taking.feed.crowd == 10**6
        assert origin.folder.asked == []
        await taking.feed.run()
        assert taking.feed.crowd == 1
        assert torrent.is_finished
        assert trio.current_time() - began_s >= PATIENCE_S


async def test_where_neighbours_do_not_tell_the_crowds_size_it_is_counted_anew_before_anything_is_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edgeshare.origin.feed.MANY", 1)
    counting = Tracker(2)
    async with (
        origin_of(LESSON, tmp_path / "origin") as origin,
        node("127.0.0.2") as other,
        serving(counting) as asked,
        node(tuning={"stop_tracker_timeout": 0}) as swarm,
        trio.open_nursery() as nursery,
    ):
        await hold(other, LESSON, tmp_path / "other")
        helpers = Helpers(trackers=(f"{asked.url}announce",), peers=(at(other),))
        torrent = await swarm.add(LESSON.info_hash, LESSON.info, LESSON.layout, tmp_path / "node", helpers)
        await torrent.until(lambda: torrent.progress is not None and torrent.progress.tracker == counting.nodes)
        await until_met(torrent, peers=1)
        counting.nodes = 10**6  # have come since
        taking = origin.feed(torrent, token=shared(other)[0])
        nursery.start_soon(taking.feed.run)
        while taking.feed.crowd < counting.nodes:
            await trio.sleep(0.01)
        await trio.sleep(1.0)  # two who see one another would have taken all of it
        assert origin.folder.asked == []
        nursery.cancel_scope.cancel()


async def test_who_met_nobody_has_the_tracker_count_again_before_it_takes_itself_for_alone(tmp_path: Path) -> None:
    counting = Tracker(1)  # the first to come; behind NAT nobody tells it of the others
    async with (
        origin_of(LESSON, tmp_path / "origin") as origin,
        serving(counting) as asked,
        node(tuning={"stop_tracker_timeout": 0}) as swarm,
        trio.open_nursery() as nursery,
    ):
        helpers = Helpers(trackers=(f"{asked.url}announce",))
        torrent = await swarm.add(LESSON.info_hash, LESSON.info, LESSON.layout, tmp_path / "node", helpers)
        await torrent.until(lambda: torrent.progress is not None and torrent.progress.tracker == counting.nodes)
        counting.nodes = 10**6
        taking = origin.feed(torrent)
        await trio.sleep(FEW_LAST_S)  # a count is young for so long
        nursery.start_soon(taking.feed.run)
        while taking.feed.crowd < counting.nodes:
            await trio.sleep(0.01)
        await trio.sleep(0.5)  # it would have taken all of it
        assert origin.folder.asked == []
        nursery.cancel_scope.cancel()


async def test_a_reader_does_not_wait_for_the_ration(tmp_path: Path) -> None:
    async with origin_of(LESSON, tmp_path / "origin") as origin, node() as swarm, trio.open_nursery() as nursery:
        torrent = await hold(swarm, LESSON, tmp_path / "node")
        taking = origin.feed(torrent)
        async with origin.lines.ration.turn(1.0):
            nursery.start_soon(taking.feed.run)
            wished = [Piece(30), Piece(31)]
            torrent.urge(wished)
            await torrent.until(lambda: all(map(torrent.has, wished)))
            assert origin.pieces(LESSON) == {30: 1, 31: 1}
            assert len(origin.folder.spans) == 1  # neighbours come in one request
            assert taking.taken == {Reason.READER_WAITS: 2 * PIECE}
            nursery.cancel_scope.cancel()


async def test_readers_wait_alike_however_many_are_after_their_lesson(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    needs: dict[Line, set[float]] = {}
    turn = Line.turn

    def noted(line: Line, need: float) -> AbstractAsyncContextManager[bool]:
        needs.setdefault(line, set()).add(need)
        return turn(line, need)

    monkeypatch.setattr(Line, "turn", noted)
    monkeypatch.setattr(feed, "crowd_of", lambda *_: 1000)
    async with origin_of(LESSON, tmp_path / "origin") as origin, node() as swarm, trio.open_nursery() as nursery:
        torrent = await hold(swarm, LESSON, tmp_path / "node")
        nursery.start_soon(origin.feed(torrent).feed.run)
        torrent.urge([Piece(30)])
        await torrent.until(lambda: torrent.has(Piece(30)))
        nursery.cancel_scope.cancel()
    assert needs[origin.lines.readers] == {1}


async def test_a_reader_does_not_stand_in_line_behind_the_ration_of_other_lessons(tmp_path: Path) -> None:
    async with origin_of(LESSON, tmp_path / "origin") as origin, node() as swarm, trio.open_nursery() as nursery:
        torrent = await hold(swarm, LESSON, tmp_path / "node")
        async with origin.lines.ration.turn(1.0):  # another lesson's turn, which takes long
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
        nursery.start_soon(hold_line, origin.lines.ration)
        nursery.start_soon(origin.feed(torrent).feed.run)
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


async def test_a_reader_that_leaves_does_not_spoil_the_fetch_that_it_waited_for(tmp_path: Path) -> None:
    async with (
        origin_of(LESSON, tmp_path / "origin") as origin,
        node() as swarm,
        trio.open_nursery() as nursery,
    ):
        origin.folder.hold = trio.Event()  # never set: the origin takes for ever
        torrent = await hold(swarm, LESSON, tmp_path / "node")
        nursery.start_soon(hold_line, origin.lines.ration)
        nursery.start_soon(origin.feed(torrent).feed.run)
        torrent.urge([Piece(20), Piece(21)])
        while not origin.folder.under_way:
            await trio.sleep(0.01)
        torrent.relax([Piece(20), Piece(21)])
        await trio.sleep(0.2)
        assert origin.folder.under_way
        assert origin.folder.cancelled == 0
        nursery.cancel_scope.cancel()


async def test_what_a_reader_waits_for_comes_in_short_requests(tmp_path: Path) -> None:
    thing = content({"film.mp4": noise(3 * MOST_FOR_READER, 4)})
    async with origin_of(thing, tmp_path / "origin") as origin, node() as swarm, trio.open_nursery() as nursery:
        torrent = await hold(swarm, thing, tmp_path / "node")
        nursery.start_soon(hold_line, origin.lines.ration)
        nursery.start_soon(origin.feed(torrent).feed.run)
        torrent.urge(map(Piece, range(thing.layout.pieces)))
        await torrent.until(lambda: torrent.is_finished)
        nursery.cancel_scope.cancel()
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
        async with trio.open_nursery() as nursery:
            nursery.start_soon(origin.feed(torrent).feed.run)
            while not origin.folder.under_way:
                await trio.sleep(0.01)
            nursery.cancel_scope.cancel()
        assert (origin.folder.cancelled, origin.folder.under_way) == (1, 0)
        assert await is_free(origin.lines.ration)


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


async def test_a_piece_is_here_before_the_rest_of_its_range(tmp_path: Path) -> None:
    thing = content({"a": noise(4 * PIECE, 7)})
    async with origin_of(thing, tmp_path / "origin") as origin, node() as swarm, trio.open_nursery() as nursery:
        origin.folder.hold_half = trio.Event()
        torrent = await hold(swarm, thing, tmp_path / "node")
        taking = origin.feed(torrent)
        nursery.start_soon(taking.feed.run)
        await torrent.until(lambda: torrent.has(Piece(0)) and torrent.has(Piece(1)))
        assert origin.folder.spans == [(f"content/{thing.info_hash.hex()}/a", 0, 4 * PIECE)]
        assert taking.taken == {Reason.ALONE: 2 * PIECE}
        assert torrent.missing() == {2, 3}
        origin.folder.hold_half.set()
        await torrent.until(lambda: torrent.is_finished)
        assert taking.taken == {Reason.ALONE: thing.size}
    assert len(origin.folder.asked) == 1


async def test_a_wrong_piece_in_the_middle_of_a_range_ends_it_and_what_was_right_before_stays(tmp_path: Path) -> None:
    thing = content({"a": noise(4 * PIECE, 7)})
    async with origin_of(thing, tmp_path / "origin") as origin, node() as swarm, trio.open_nursery() as nursery:
        path = f"content/{thing.info_hash.hex()}/a"
        origin.folder.instead = {path: thing.files["a"][:PIECE] + noise(3 * PIECE, 9)}
        origin.folder.hold_half = trio.Event()  # for ever: nobody waits for what comes after a wrong piece
        torrent = await hold(swarm, thing, tmp_path / "node")
        nursery.start_soon(origin.feed(torrent).feed.run)
        while not origin.client.last_error:
            await trio.sleep(0.01)
        assert "sends other bytes than were published" in origin.client.last_error
        await torrent.until(lambda: torrent.has(Piece(0)))
        assert torrent.missing() == {1, 2, 3}
        nursery.cancel_scope.cancel()


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


async def test_in_company_a_request_is_for_one_portion_the_same_whoever_asks(tmp_path: Path) -> None:
    async with (
        origin_of(LESSON, tmp_path / "origin") as origin,
        node("127.0.0.2", {"handshake_client_version": "another client"}) as other,
        node() as swarm,
    ):
        await hold(other, LESSON, tmp_path / "other")
        torrent = await hold(swarm, LESSON, tmp_path / "node", at(other))
        await until_met(torrent, peers=1)
        taking = origin.feed(torrent, audience=2)
        await taking.feed.run()
        folder = f"content/{LESSON.info_hash.hex()}/"
        assert {(path.removeprefix(folder), *span) for path, *span in origin.folder.spans} == spans_of(LESSON.layout)
        assert len(origin.folder.spans) == 5  # the film is three portions
        assert taking.taken == {Reason.NOBODY_HAS_IT: LESSON.size}


async def test_a_node_takes_what_it_is_first_in_line_for_and_leaves_the_rest_to_its_neighbour(tmp_path: Path) -> None:
    async with (
        origin_of(LESSON, tmp_path / "origin") as origin,
        node("127.0.0.2") as other,
        node() as swarm,
        trio.open_nursery() as nursery,
    ):
        await hold(other, LESSON, tmp_path / "other")
        torrent = await hold(swarm, LESSON, tmp_path / "node", at(other))
        await until_met(torrent, peers=1)
        token, mine = shared(other)
        nursery.start_soon(origin.feed(torrent, token=token, audience=2).feed.run)
        await torrent.until(lambda: all(map(torrent.has, mine)))
        await trio.sleep(2 * Rules().hold_s)  # by then it would have taken the rest
        assert origin.pieces(LESSON) == dict.fromkeys(mine, 1)
        nursery.cancel_scope.cancel()


async def test_alone_requests_grow_longer_than_a_portion_and_the_first_is_short(tmp_path: Path) -> None:
    thing = content({"film.mp4": noise(6 * 2**20)}, piece_length=4 * PIECE)
    async with origin_of(thing, tmp_path / "origin") as origin, node() as swarm:
        torrent = await hold(swarm, thing, tmp_path / "node")
        await origin.feed(torrent).feed.run()
        lengths = [stop - start for _, start, stop in origin.folder.spans]
        assert lengths[0] <= PORTION[0] < max(lengths) <= MOST_ALONE
        assert sum(lengths) == thing.size


async def test_what_the_origin_gave_to_somebody_else_rests_and_the_rest_goes_on(tmp_path: Path) -> None:
    async with (
        origin_of(LESSON, tmp_path / "origin", Guarded) as origin,
        node() as swarm,
        trio.open_nursery() as nursery,
    ):
        guard = origin.folder
        assert isinstance(guard, Guarded)
        guard.given_away = {"/a.html"}
        torrent = await hold(swarm, LESSON, tmp_path / "node")
        taking = origin.feed(torrent)
        nursery.start_soon(taking.feed.run)
        await torrent.until(lambda: len(torrent.missing()) == 6)  # all but a.html
        while not guard.refused:
            await trio.sleep(0.01)
        assert (origin.client.last_error, taking.feed.missing) == (None, None)
        guard.given_away = set()
        await torrent.until(lambda: torrent.is_finished)
        assert trio.current_time() - guard.refused[-1][1] >= 1.0  # as it was told
        assert taking.taken == {Reason.ALONE: LESSON.size}
    assert len(guard.refused) == 1


async def test_what_the_ration_was_refused_is_asked_for_when_a_reader_waits_for_it(tmp_path: Path) -> None:
    async with origin_of(LESSON, tmp_path / "origin", Guarded) as origin, node() as swarm:
        assert isinstance(origin.folder, Guarded)
        origin.folder.given_away = {"film.mp4"}
        torrent = await hold(swarm, LESSON, tmp_path / "node")
        taking = origin.feed(torrent)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(taking.feed.run)
            while not origin.folder.refused:
                await trio.sleep(0.01)
            origin.folder.given_away.clear()
            _, refused_s = origin.folder.refused[-1]
            wanted = LESSON.layout.pieces_of(LESSON.layout.by_path["film.mp4"])
            torrent.urge(map(Piece, wanted))
            await torrent.until(lambda: torrent.has(Piece(wanted.start)))
            assert trio.current_time() < refused_s + 0.9  # the guard had said a second
            nursery.cancel_scope.cancel()


async def test_what_somebody_else_was_given_is_not_asked_for_again_once_it_comes_from_there(tmp_path: Path) -> None:
    async with (
        origin_of(LESSON, tmp_path / "origin", Guarded) as origin,
        node("127.0.0.2") as giver,
        node() as swarm,
        trio.open_nursery() as nursery,
    ):
        guard = origin.folder
        assert isinstance(guard, Guarded)
        guard.given_away = {"/a.html"}
        torrent = await hold(swarm, LESSON, tmp_path / "node")
        nursery.start_soon(origin.feed(torrent).feed.run)
        while not guard.refused:
            await trio.sleep(0.01)
        LESSON.write(tmp_path / "giver")
        await hold(giver, LESSON, tmp_path / "giver", at(swarm))
        await torrent.until(lambda: torrent.is_finished)
    assert len(guard.refused) == 1


async def test_lessons_share_one_line_for_the_ration(tmp_path: Path) -> None:
    things = [content({"a": noise(3 * PIECE, 20 + n)}) for n in range(4)]
    async with origin_of(things[0], tmp_path / "origin") as origin, node() as swarm, trio.open_nursery() as nursery:
        counted: list[Counter[Reason]] = []
        for number, thing in enumerate(things):
            thing.write(tmp_path / "origin" / "content" / thing.info_hash.hex())
            torrent = await hold(swarm, thing, tmp_path / f"node{number}")
            taking = origin.feed(torrent, seed=number)
            counted.append(taking.taken)
            nursery.start_soon(taking.feed.run)
    assert origin.folder.most_under_way == 1
    assert sum(counted, Counter()) == {Reason.ALONE: sum(thing.size for thing in things)}


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
async def test_three_nodes_that_start_together_take_one_copy(tmp_path: Path) -> None:
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
        for number, (torrent, swarm) in enumerate(zip(torrents, (one, two, three), strict=True)):
            each = Origin(origin.folder, origin.client)
            nursery.start_soon(each.feed(torrent, seed=number, token=swarm.token, audience=3).feed.run)
    assert all(torrent.is_finished for torrent in torrents)
    assert origin.pieces(LESSON) == dict.fromkeys(range(LESSON.layout.pieces), 1)


BIG = content({"a": noise(3 * MOST_ALONE), "b": noise(PIECE, 2)}, piece_length=4 * PIECE).layout
all_of_big = st.frozensets(st.integers(0, BIG.pieces - 1).map(Piece), min_size=1)


@given(all_of_big, st.data())
def test_a_run_is_wanted_pieces_in_a_row_of_one_file_and_short(wanted: frozenset[Piece], data: st.DataObject) -> None:
    first = data.draw(st.sampled_from(sorted(wanted)))
    run = neighbours(BIG, wanted, first, MOST_ALONE)
    assert run == list(range(first, first + len(run)))
    assert set(run) <= wanted
    file, start, _ = BIG.file_of(first)
    assert BIG.file_of(run[-1])[0] == file
    assert BIG.file_of(run[-1])[2] - start <= MOST_ALONE


@given(st.lists(st.integers(0, 3_000_000), min_size=1, max_size=6), st.sampled_from([1, 4, 64, 256]))
@settings(max_examples=30, deadline=None)
def test_every_piece_is_in_one_portion_of_one_file_and_a_portion_is_no_longer_than_it_may_be(
    sizes: list[int], factor: int
) -> None:
    files = {str(number): bytes(size) for number, size in enumerate([*sizes, 1])}
    layout = content(files, piece_length=factor * PIECE).layout
    heads = portions(layout)
    assert heads == portions(content(files, piece_length=factor * PIECE).layout)
    for number, head in enumerate(heads):
        entry, start, _ = layout.file_of(head)
        assert heads[head] == head <= number
        assert set(heads[head : number + 1]) == {head}
        assert layout.file_of(Piece(number))[0] == entry
        assert layout.file_of(Piece(number))[2] - start <= max(PORTION[1], layout.piece_length)


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        (4 * PORTION[0], 4),
        (2 * PORTION[0] * PORTIONS, PORTIONS),
        (3 * PORTION[1] * PORTIONS // 2, 3 * PORTIONS // 2),
    ],
    ids=["small", "middling", "big"],
)
def test_a_lesson_is_cut_into_portions_that_are_neither_tiny_nor_few(size: int, expected: int) -> None:
    layout = content({"film.mp4": bytes(size)}, piece_length=PORTION[0]).layout
    assert len(set(portions(layout))) == expected


def test_a_run_is_as_long_as_it_may_be() -> None:
    assert (
        len(neighbours(BIG, frozenset(map(Piece, range(BIG.pieces))), Piece(0), MOST_ALONE))
        == MOST_ALONE // BIG.piece_length
    )


@pytest.mark.parametrize("length", [4 * 2**20])
def test_a_piece_that_is_longer_than_a_run_comes_alone(length: int) -> None:
    layout = content({"a": bytes(2 * length)}, piece_length=length).layout
    assert neighbours(layout, {Piece(0), Piece(1)}, Piece(0), MOST_ALONE) == [0]
