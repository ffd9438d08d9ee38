"""What the daemon takes in of what was brought: verified once more, complete at once, and nobody asked for anything."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path

import pytest
import trio

from edgeshare.bundle.arrival import Arrivals
from edgeshare.bundle.intake import incoming
from edgeshare.errors import LibraryError
from edgeshare.layout import Layout
from edgeshare.library.content import Stamp
from edgeshare.library.index import StoredTorrent
from edgeshare.library.library import Library
from edgeshare.manifest import LessonId
from edgeshare.swarm.session import Helpers
from edgeshare.view import Arrival, State
from tests.support.content import at, node
from tests.support.keeping import FRACTIONS, keeping
from tests.support.node import Origin
from tests.support.publisher import CATALOGUE
from tests.support.sticks import LESSONS, School, alone, copied

TAKEN = dict.fromkeys(LESSONS)


@pytest.fixture
async def home(made: School, tmp_path: Path) -> Path:
    """A library that never saw the origin, with both lessons copied for it."""
    made.export(tmp_path / "usb")
    await copied(tmp_path / "usb", tmp_path / "home", made.root)
    shutil.rmtree(tmp_path / "usb")
    return tmp_path / "home"


def fates(arrivals: tuple[Arrival, ...]) -> dict[str, str | None]:
    return {each.lesson: each.refused for each in arrivals}


async def test_what_was_brought_is_served_by_a_node_that_never_saw_the_origin(made: School, home: Path) -> None:
    async with alone(home, made.root) as (node, arrivals):
        assert fates(await arrivals.take_in()) == TAKEN
        assert {view.manifest.id: view.state for view in node.keeper.display.lessons()} == {
            "angles": State.COMPLETE,
            "fractions": State.COMPLETE,
        }
        for path, raw in LESSONS["fractions"].items():
            assert await node.text(path) == raw
        assert node.trust.freshness().is_fresh
        assert node.trust.freshness().refreshed is None  # the origin was not heard
        assert list((home / "incoming").iterdir()) == [home / "incoming" / ".lock"]


async def test_what_was_brought_stays_through_a_restart_and_is_not_hashed_again(
    made: School, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with alone(home, made.root) as (_, arrivals):
        await arrivals.take_in()
    monkeypatch.delattr(Library, "verify_at")
    async with alone(home, made.root) as (node, arrivals):
        assert await arrivals.take_in() == ()
        with trio.fail_after(20):
            for lesson in LESSONS:
                await node.until(State.COMPLETE, LessonId(lesson))
        (stored,) = (
            each for each in await node.parts.library.torrents() if each.info_hash == made.content("fractions")
        )
        assert stored.resume is not None  # so that libtorrent need not hash it either


async def test_what_was_brought_is_seeded_at_once_with_its_piece_layers(
    made: School, home: Path, tmp_path: Path
) -> None:
    async with alone(home, made.root) as (school, arrivals), node("127.0.0.2") as peer:
        await arrivals.take_in()
        content = made.content("fractions")
        (held,) = (held for held in school.keeper._holdings if held.info_hash == content)
        helpers = Helpers(peers=(at(school.parts.swarm),))
        async with peer.joining(content, helpers, tmp_path / "peer") as joining:
            await joining.metadata()
            assert held.layout
            torrent = joining.begin(held.layout)
        with trio.fail_after(20):
            await torrent.until(lambda: torrent.is_finished)


async def test_files_that_were_altered_after_they_were_copied_are_refused(made: School, home: Path) -> None:
    video = home / "incoming" / "content" / made.content("fractions").hex() / "video.bin"
    raw = bytearray(video.read_bytes())
    raw[-1] ^= 1
    video.write_bytes(raw)
    async with alone(home, made.root) as (node, arrivals):
        assert fates(await arrivals.take_in()) == {
            "angles": None,
            "fractions": "its files are not whole: import it again",
        }
        assert (view := node.keeper.display.lesson(FRACTIONS))
        assert view.state is not State.COMPLETE
    assert not (home / "incoming" / "content").exists()


async def test_a_file_that_changes_after_it_was_verified_is_not_served(
    made: School, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    verify_at = Library.verify_at
    video = home / "incoming" / "content" / made.content("fractions").hex() / "video.bin"

    async def altered_then(library: Library, folder: Path, layout: Layout) -> tuple[Stamp, ...] | None:
        stamps = await verify_at(library, folder, layout)
        if folder == video.parent:
            video.write_bytes(bytes(len(LESSONS["fractions"]["video.bin"])))
        return stamps

    monkeypatch.setattr(Library, "verify_at", altered_then)
    async with alone(home, made.root) as (node, arrivals):
        assert fates(await arrivals.take_in()) == {
            "angles": None,
            "fractions": "a file changed after it was verified: import it again",
        }
        assert (view := node.keeper.display.lesson(FRACTIONS))
        assert view.state is not State.COMPLETE


async def test_metadata_that_was_altered_after_it_was_copied_brings_nothing(made: School, home: Path) -> None:
    timestamp = home / "incoming" / "metadata" / "timestamp.json"
    timestamp.write_bytes(timestamp.read_bytes().replace(b'"version": ', b'"version": 1'))
    async with alone(home, made.root) as (node, arrivals):
        assert None not in fates(await arrivals.take_in()).values()
        assert node.keeper.display.lessons() == ()


async def test_what_is_not_listed_here_is_not_kept(made: School, home: Path) -> None:
    async with keeping(home, Origin(), made.root, follow=()) as node:
        arrivals = Arrivals(node.parts.library, node.trust, node.keeper, lambda: ())
        assert all(each.refused for each in await arrivals.take_in())
        assert node.contents() == set()


async def test_a_lesson_that_was_withdrawn_meanwhile_is_not_kept(school: School, home: Path) -> None:
    school.publisher.withdraw("angles", "une erreur")
    school.publisher.release()
    origin = Origin()
    origin.repository = school.publisher.repository
    content = school.content("angles").hex()
    async with keeping(home, origin, school.root) as node:
        await node.hear()
        arrivals = Arrivals(node.parts.library, node.trust, node.keeper, lambda: (CATALOGUE,))
        found = fates(await arrivals.take_in())
        assert "une erreur" in str(found["angles"])
        assert found["fractions"] is None
        assert content not in node.contents()


class Stopped(Exception):
    """Power is cut."""


async def test_a_stop_between_the_move_and_the_index_loses_nothing(
    made: School, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = made.content("fractions")
    keep_torrent = Library.keep_torrent

    async def stopped(library: Library, torrent: StoredTorrent) -> None:
        if torrent.info_hash == content:
            raise Stopped
        await keep_torrent(library, torrent)

    with monkeypatch.context() as patch:
        patch.setattr(Library, "keep_torrent", stopped)
        async with alone(home, made.root) as (_, arrivals):
            with pytest.raises(Stopped):
                await arrivals.take_in()
    assert not (home / "incoming" / "content" / content.hex()).exists()
    async with alone(home, made.root) as (node, arrivals):
        assert fates(await arrivals.take_in()) == TAKEN
        assert await node.text() == LESSONS["fractions"]["index.html"]


async def test_what_was_fetched_of_a_lesson_before_makes_way_for_what_was_brought(
    made: School, home: Path, tmp_path: Path
) -> None:
    origin = Origin()
    origin.repository = made.publisher.repository
    origin.withheld = {made.content("fractions").hex()}
    async with keeping(home, origin, made.root) as node:
        await node.hear()
        await node.until(State.FETCHING)
        arrivals = Arrivals(node.parts.library, node.trust, node.keeper, lambda: (CATALOGUE,))
        assert fates(await arrivals.take_in()) == TAKEN
        assert await node.text("video.bin") == LESSONS["fractions"]["video.bin"]
        await node.parts.library.empty_trash()
        assert list((home / "trash").iterdir()) == []


async def test_an_import_that_still_copies_is_waited_for_by_its_command_and_not_by_the_daemon(
    made: School, home: Path
) -> None:
    async with alone(home, made.root) as (_, arrivals):
        with incoming(home), pytest.raises(LibraryError, match="another import into"):
            await arrivals.take_in()
        assert fates(await arrivals.take_in()) == TAKEN


async def test_what_came_while_no_daemon_ran_is_taken_in_at_the_start(
    made: School, home: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        async with alone(home, made.root) as (node, arrivals):
            await arrivals.take_in_at_start()
            assert await node.text() == LESSONS["fractions"]["index.html"]
    assert "lessons that came with a bundle: 2" in caplog.messages


async def test_a_start_does_not_fail_over_what_was_brought_damaged(
    made: School, home: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (home / "incoming" / "bundle.msgpack").write_bytes(b"something else")
    async with alone(home, made.root) as (_, arrivals):
        await arrivals.take_in_at_start()
    assert any(line.startswith("what was imported is not taken in: ") for line in caplog.messages)
