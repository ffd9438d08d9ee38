from __future__ import annotations

import shutil
import socket
from pathlib import Path

import pytest
import trio
import trio.testing

from edgeshare.config import Endpoint, SwarmConfig
from edgeshare.errors import ConfigError
from edgeshare.hashtree import HashedFile
from edgeshare.layout import Piece
from edgeshare.manifest import InfoHash
from edgeshare.publish.torrent import assemble
from edgeshare.swarm import session
from edgeshare.swarm.session import Helpers, Swarm, info_of, open_swarm, read_info
from edgeshare.swarm.torrent import SwarmError
from tests.support.content import PIECE, SlowSeed, at, content, hold, node, noise

LONG = "é" * 126 + "abc"  # 255 bytes
AWKWARD = {
    "index.html": b"<!doctype html>",
    "lesson": b"named like its folder",
    f"{LONG}": noise(PIECE + 1, 2),
    f"{LONG}/{LONG}".replace("é", "ê"): b"in a folder of 255 bytes",
    "un été/l'exercice 1 #2 100% a+b=c&d;.txt": noise(3 * PIECE, 3),
    "empty": b"",
    "vide/aussi.txt": b"",
    "one": b"1",
    "sub/z": noise(PIECE, 4),
    "sub.x": noise(PIECE - 1, 5),
    ".hidden": b"dot",
}


async def metadata_of(swarm: Swarm, info_hash: InfoHash, helpers: Helpers, scratch: Path) -> bytes:
    async with swarm.joining(info_hash, helpers, scratch) as joining:
        return await joining.metadata()


async def test_a_content_goes_from_node_to_node_by_its_info_hash_alone_whatever_its_files_are_called(
    tmp_path: Path,
) -> None:
    lesson = content(AWKWARD)
    with trio.fail_after(30):
        async with node("127.0.0.2") as one, node("127.0.0.3") as other:
            await hold(one, lesson, lesson.write(tmp_path / "one"))
            info = await metadata_of(other, lesson.info_hash, Helpers(peers=(at(one),)), tmp_path / "scratch")
            assert info == lesson.info
            torrent = await hold(other, lesson, tmp_path / "other", at(one))
            await torrent.until(lambda: torrent.is_finished)
            await torrent.flush()
            assert lesson.is_at(tmp_path / "other")
            assert torrent.bytes_from_peers == torrent.bytes_have == lesson.size


@pytest.mark.parametrize("name", ["lesson", "lesson.txt"])
async def test_a_content_of_one_file_keeps_its_path_even_when_it_is_called_like_its_folder(
    tmp_path: Path, name: str
) -> None:
    lesson = content({name: noise(PIECE + 7)}, name=name)
    with trio.fail_after(30):
        async with node("127.0.0.2") as one, node("127.0.0.3") as other:
            await hold(one, lesson, lesson.write(tmp_path / "one"))
            torrent = await hold(other, lesson, tmp_path / "other", at(one))
            await torrent.until(lambda: torrent.is_finished)
            await torrent.flush()
            assert lesson.is_at(tmp_path / "other")


async def test_no_file_is_made_before_somebody_has_looked_at_the_metadata(tmp_path: Path) -> None:
    lesson = content(AWKWARD)
    scratch = tmp_path / "scratch"
    with trio.fail_after(30):
        async with node("127.0.0.2") as one, node("127.0.0.3") as other:
            await hold(one, lesson, lesson.write(tmp_path / "one"))
            async with other.joining(lesson.info_hash, Helpers(peers=(at(one),)), scratch) as joining:
                await joining.metadata()
                await trio.sleep(1.0)  # longer than the content would take
            await hold(other, content({"another": b"1"}), tmp_path / "another")  # by then the first one is gone
            assert not list(tmp_path.glob("scratch/**/*"))


async def test_what_was_joined_goes_on_with_its_peers_under_the_names_of_its_layout(tmp_path: Path) -> None:
    lesson = content(AWKWARD)
    with trio.fail_after(30):
        async with node("127.0.0.2") as one, node("127.0.0.3") as other:
            await hold(one, lesson, lesson.write(tmp_path / "one"))
            async with other.joining(lesson.info_hash, Helpers(peers=(at(one),)), tmp_path / "other") as joining:
                assert await joining.metadata() == lesson.info
                met = await joining.neighbours()  # or nobody: a seed may just have let go of who wants nothing yet
                torrent = joining.begin(lesson.layout)
            await torrent.until(lambda: torrent.is_finished)
            await torrent.flush()
            assert {each.token for each in met} <= {one.token}
            assert {each.token for each in await torrent.neighbours()} <= {one.token}
            assert lesson.is_at(tmp_path / "other")
            assert torrent.failure is None


async def test_one_that_gets_the_metadata_elsewhere_gives_it_to_those_who_wait_for_it(tmp_path: Path) -> None:
    lesson = content({"a": noise(3 * PIECE)})
    with trio.fail_after(30):
        async with (
            node("127.0.0.2") as one,
            node("127.0.0.3") as other,
            one.joining(lesson.info_hash, Helpers(), tmp_path / "1") as first,
            other.joining(lesson.info_hash, Helpers(peers=(at(one),)), tmp_path / "2") as second,
        ):
            while not await first.neighbours():
                await trio.sleep(0.05)
            first.give(lesson.info)
            assert await second.metadata() == lesson.info


async def test_neighbours_are_known_by_their_tokens_and_by_what_they_claim_and_gave(tmp_path: Path) -> None:
    lesson = content({"a": noise(8 * PIECE), "b": noise(PIECE, 2)})
    lesson.write(tmp_path / "one")
    (tmp_path / "one" / "b").unlink()  # so that nobody is finished, and parts
    with trio.fail_after(30):
        async with node("127.0.0.2") as one, node("127.0.0.3") as other:
            asked = await hold(one, lesson, tmp_path / "one")
            torrent = await hold(other, lesson, tmp_path / "other", at(one))
            await torrent.until(lambda: len(torrent.missing()) == 1)
            assert [each.came for each in await asked.neighbours()] == [True]
            (met,) = await torrent.neighbours(claims=True)
            assert not met.came
            assert met.token == one.token != other.token
            assert met.claims == frozenset(range(8))
            assert met.pieces == 8
            assert met.gave >= 8 * PIECE
            (met,) = await torrent.neighbours()
            assert met.claims is None


async def test_who_has_not_said_hello_is_no_neighbour(tmp_path: Path) -> None:
    lesson = content({"a": noise(PIECE)})
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.9")
    silent = Endpoint("127.0.0.9", listener.socket.getsockname()[1])
    with trio.fail_after(30):
        async with listener, node() as swarm:
            torrent = await hold(swarm, lesson, tmp_path / "node", silent)
            async with await listener.accept():
                await torrent.until(lambda: torrent.progress is not None and torrent.progress.peers == 1)
                assert await torrent.neighbours() == ()


async def test_asking_for_metadata_can_be_given_up_and_begun_anew(tmp_path: Path) -> None:
    lesson = content({"a": b"1"})
    with trio.fail_after(30):
        async with node("127.0.0.2") as one, node("127.0.0.3") as other:
            for _ in range(3):
                with trio.move_on_after(0.05) as given_up:
                    await metadata_of(other, lesson.info_hash, Helpers(), tmp_path)
                assert given_up.cancelled_caught
            await hold(one, lesson, lesson.write(tmp_path / "one"))
            assert await metadata_of(other, lesson.info_hash, Helpers(peers=(at(one),)), tmp_path) == lesson.info


async def test_peers_may_be_given_by_name_and_an_unknown_name_is_left_out(tmp_path: Path) -> None:
    lesson = content({"a": b"1"})
    with trio.fail_after(30):
        async with node("127.0.0.1") as one, node("127.0.0.3") as other:
            await hold(one, lesson, lesson.write(tmp_path / "one"))
            peers = Endpoint("nobody.invalid", 6881), Endpoint("192.168..5", 6881), Endpoint("localhost", at(one).port)
            torrent = await hold(other, lesson, tmp_path / "other", *peers)
            await torrent.until(lambda: torrent.is_finished)


async def test_the_metadata_of_a_very_large_lesson_is_taken(tmp_path: Path) -> None:
    pieces = 600_000  # their hashes have 12 MB, more than libtorrent loads from a file
    file = HashedFile("a", pieces * PIECE, noise(32), b"", bytes(20 * pieces))
    torrent = assemble("large", PIECE, [file])
    info = info_of(torrent.encoded)
    with trio.fail_after(30):
        async with node() as swarm:
            layout = read_info(info, torrent.info_hash)
            added = await swarm.add(torrent.info_hash, info, layout, tmp_path, Helpers())
            await added.until(lambda: added.is_checked)
            assert len(added.missing()) == pieces


async def test_lost_events_are_made_up_for(tmp_path: Path) -> None:
    lesson = content({"a": noise(400 * PIECE), "b": noise(20 * PIECE, 2)})
    with trio.fail_after(60):
        async with node("127.0.0.2") as one, node("127.0.0.3", {"alert_queue_size": 3}) as other:
            await hold(one, lesson, lesson.write(tmp_path / "one"))
            assert await metadata_of(other, lesson.info_hash, Helpers(peers=(at(one),)), tmp_path) == lesson.info
            torrent = await hold(other, lesson, tmp_path / "other", at(one))
            await torrent.until(lambda: torrent.is_finished)
            await torrent.flush()
            assert lesson.is_at(tmp_path / "other")
            assert await torrent.resume_data() is not None
            assert torrent.bytes_from_peers == lesson.size
            await other.remove(lesson.info_hash)


@pytest.mark.parametrize("kind", [socket.SOCK_STREAM, socket.SOCK_DGRAM])
async def test_a_port_in_use_is_an_error_in_one_line(kind: socket.SocketKind) -> None:
    with socket.socket(socket.AF_INET, kind) as taken:
        taken.bind(("127.0.0.2", 0))
        if kind == socket.SOCK_STREAM:
            taken.listen()
        listen = Endpoint("127.0.0.2", taken.getsockname()[1])
        with pytest.RaisesGroup(ConfigError) as refused:
            async with open_swarm(SwarmConfig(listen=listen, dht=False, lsd=False)):
                pass
    line = str(refused.value.exceptions[0])
    assert str(listen) in line
    assert "already in use" in line
    assert "\n" not in line


async def test_an_address_of_another_machine_is_an_error() -> None:
    with pytest.RaisesGroup(ConfigError):
        async with open_swarm(SwarmConfig(listen=Endpoint("192.0.2.1", 0), dht=False, lsd=False)):
            pass


async def test_a_node_that_is_being_stopped_still_hears_what_it_must_save(tmp_path: Path) -> None:
    lesson = content({"a": noise(4 * PIECE)})
    saved: bytes | None = None
    with trio.fail_after(30), trio.CancelScope() as stopped:
        async with node() as swarm:
            torrent = await hold(swarm, lesson, lesson.write(tmp_path))
            try:
                stopped.cancel()
                await trio.sleep_forever()
            finally:
                with trio.move_on_after(5, shield=True):
                    saved = await torrent.resume_data()
    assert saved is not None


async def test_a_session_ends_within_two_seconds_although_its_tracker_has_died(tmp_path: Path) -> None:
    known: set[bytes] = set()

    async def tracker(stream: trio.SocketStream) -> None:
        """Answers what it is asked first about each content, and nothing after."""
        asked = await stream.receive_some(4096)
        content_hash = asked.partition(b"info_hash=")[2].partition(b"&")[0]
        if content_hash in known:
            await trio.sleep_forever()
        known.add(content_hash)
        body = b"d8:intervali1800e5:peers0:e"
        await stream.send_all(b"HTTP/1.0 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))

    with trio.fail_after(30):
        async with trio.open_nursery() as nursery:
            (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
            nursery.start_soon(trio.serve_listeners, tracker, [listener])
            helpers = Helpers(trackers=(f"http://127.0.0.1:{listener.socket.getsockname()[1]}/announce",))
            async with node() as swarm:
                for n in range(10):
                    lesson = content({"a": noise(PIECE, n)})
                    folder = lesson.write(tmp_path / str(n))
                    await swarm.add(lesson.info_hash, lesson.info, lesson.layout, folder, helpers)
                while len(known) < 20:  # a hybrid torrent announces both its hashes
                    await trio.sleep(0.05)  # the tracker is no part of ours that could say so
                await trio.sleep(0.3)  # its answers have arrived by then
                began = trio.current_time()
            assert trio.current_time() - began < 2.0
            nursery.cancel_scope.cancel()


async def test_what_is_removed_writes_no_more(tmp_path: Path) -> None:
    lesson = content({"a": noise(400 * PIECE), "b/c": noise(400 * PIECE, 2)})
    folder = tmp_path / "other"
    with trio.fail_after(60):
        async with node("127.0.0.2") as one, node("127.0.0.3") as other:
            await hold(one, lesson, lesson.write(tmp_path / "one"))
            torrent = await hold(other, lesson, folder, at(one))
            await torrent.until(lambda: torrent.bytes_have > lesson.size // 3)
            await other.remove(lesson.info_hash)
            shutil.rmtree(folder)
            await trio.sleep(0.5)  # what would still be written is written by then
            assert not folder.exists()


async def test_who_waits_for_a_content_that_is_removed_hears_so(tmp_path: Path) -> None:
    lesson = content({"a": noise(4 * PIECE)})
    with trio.fail_after(30):
        async with node() as swarm:
            torrent = await hold(swarm, lesson, tmp_path)
            async with trio.open_nursery() as nursery:

                async def wait(question: str) -> None:
                    with pytest.raises(SwarmError):
                        await (torrent.read(Piece(0)) if question == "read" else torrent.until(lambda: False))

                nursery.start_soon(wait, "read")
                nursery.start_soon(wait, "until")
                await trio.testing.wait_all_tasks_blocked()
                await swarm.remove(lesson.info_hash)
            for question in (torrent.flush, torrent.resume_data, torrent.availability, torrent.rest):
                with pytest.raises(SwarmError):
                    await question()


async def test_what_is_told_to_a_removed_content_is_not_heard(tmp_path: Path) -> None:
    lesson = content({"a": noise(4 * PIECE)})
    with trio.fail_after(30):
        async with node() as swarm:
            torrent = await hold(swarm, lesson, tmp_path)
            torrent.urge([Piece(0)])
            await swarm.remove(lesson.info_hash)
            torrent.give(Piece(0), lesson.piece(Piece(0)))
            torrent.urge([Piece(1)])
            torrent.relax([Piece(0), Piece(1)])
            torrent.distrust("for no reason")
            torrent.look_again()
            torrent.ask_again()


async def test_a_content_can_be_added_again_at_once_after_it_was_removed(tmp_path: Path) -> None:
    lesson = content({"a": noise(40 * PIECE)})
    lesson.write(tmp_path)
    with trio.fail_after(30):
        async with node() as swarm:
            for _ in range(5):
                torrent = await hold(swarm, lesson, tmp_path)
                assert torrent.is_finished
                await swarm.remove(lesson.info_hash)


@pytest.mark.whole
async def test_a_peer_that_stops_in_the_middle_leaves_what_it_gave_and_another_gives_the_rest(tmp_path: Path) -> None:
    lesson = content({"a": noise(60 * PIECE)})
    slow = SlowSeed(lesson, tmp_path / "slow", 256 * 1024)
    with trio.fail_after(60):
        async with node("127.0.0.2") as one, node("127.0.0.3") as other:
            torrent = await hold(other, lesson, tmp_path / "other", slow.endpoint)
            await torrent.until(lambda: torrent.bytes_have > 3 * PIECE)
            await slow.stop()
            before = torrent.bytes_have
            await hold(one, lesson, lesson.write(tmp_path / "one"), at(other))
            await torrent.until(lambda: torrent.is_finished)
            assert 3 * PIECE < before < lesson.size
            assert torrent.bytes_from_peers == lesson.size


@pytest.mark.whole
def tick_ms(swarm: Swarm) -> int:
    return int(swarm._session.get_settings()["tick_interval"])


@pytest.mark.parametrize("few", [0, 1])
async def test_a_node_with_many_contents_shares_upload_out_seldom_when_nothing_moves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, few: int
) -> None:
    monkeypatch.setattr(session, "RESTS_AFTER_S", 0.5)
    monkeypatch.setattr(session, "FEW_TORRENTS", few)
    lesson = content({"film": noise(40 * PIECE)})
    with trio.fail_after(30):
        async with node("127.0.0.2") as one:
            await hold(one, lesson, lesson.write(tmp_path / "one"))
            async with node("127.0.0.3") as other:
                torrent = await hold(other, lesson, tmp_path / "other", at(one))
                await torrent.until(lambda: torrent.is_finished)
            await trio.sleep(2.5)
            assert tick_ms(one) == (session.TICK_MS if few else session.RESTING_TICK_MS)


async def test_upload_is_shared_out_often_as_soon_as_a_peer_is_met(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session, "FEW_TORRENTS", 0)
    lesson = content({"film": noise(40 * PIECE)})
    with trio.fail_after(30):
        async with node("127.0.0.2") as one, node("127.0.0.3") as other:
            await hold(one, lesson, lesson.write(tmp_path / "one"))
            while tick_ms(one) != session.RESTING_TICK_MS:
                await trio.sleep(0.1)
            monkeypatch.setattr(session, "_REPORT_EVERY_S", 1000)  # which would be too late for a first byte
            await trio.sleep(1.1)  # the last report
            torrent = await hold(other, lesson, tmp_path / "other", at(one))
            await torrent.until(lambda: torrent.bytes_have > 0)
            assert tick_ms(one) == session.TICK_MS


@pytest.mark.whole
async def test_a_peer_that_is_not_there_yet_is_tried_again(tmp_path: Path) -> None:
    lesson = content({"a": noise(PIECE)})
    with trio.fail_after(30):
        async with node("127.0.0.3") as other:
            async with node("127.0.0.2") as one:
                address = at(one)
            torrent = await hold(other, lesson, tmp_path / "other", address)
            await trio.sleep(6.0)  # by then it has been tried in vain, over UDP and over TCP
            async with open_swarm(SwarmConfig(listen=address, dht=False, lsd=False)) as one:
                await hold(one, lesson, lesson.write(tmp_path / "one"))
                await torrent.until(lambda: torrent.is_finished)
