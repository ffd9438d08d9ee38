from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from edgeshare import vocabulary
from edgeshare.catalogue import SignedLesson
from edgeshare.config import CatalogueName, SwarmConfig
from edgeshare.errors import LibraryError, ManifestError, TrustError
from edgeshare.keeper import AT_ONCE, PORTION, _pause
from edgeshare.manifest import LessonId
from edgeshare.publish.keys import Keys
from edgeshare.publish.repository import create_repository, open_repository
from edgeshare.swarm.torrent import SwarmError
from edgeshare.view import State
from tests.support.content import PIECE, at, content, noise
from tests.support.keeping import FRACTIONS, Desk, keeping
from tests.support.node import Origin

NOW = datetime.now(UTC)
OLD = {"index.html": noise(2 * PIECE, 1)}
NEW = {"index.html": noise(2 * PIECE, 2), "more.html": b"more"}
DESCRIPTION = """
id = "{id}"
title = "{title}"
language = "fr"
levels = ["{level}"]
subjects = ["mathematiques"]
description = ""
licence = "CC-BY-SA-4.0"
start = "index.html"
audience = 1
"""


class Publisher:
    """A publisher's repository, and the origin that serves it."""

    def __init__(self, folder: Path) -> None:
        self.origin = Origin()
        self.origin.repository = folder / "repository"
        self._drafts = folder / "drafts"
        self._keys = Keys(folder / "keys")
        create_repository(self.origin.repository, self._keys, "cned", NOW)
        self.root = (self.origin.repository / "metadata" / "1.root.json").read_bytes()

    def publish(
        self, lesson: str, files: Mapping[str, bytes], *, title: str = "Les fractions", level: str = "6e"
    ) -> str:
        """Publish the lesson, or its next version; its info-hash, in hex."""
        draft = self._drafts / f"{lesson}.{len(list(self._drafts.glob('*')))}"
        content(files).write(draft)
        (draft / "lesson.toml").write_text(DESCRIPTION.format(id=lesson, title=title, level=level))
        assert self.origin.repository
        with open_repository(self.origin.repository, self._keys) as repository:
            staged = repository.add(draft, vocabulary.built_in())
            repository.release(NOW, origins=["http://origin.example/"])
        return staged.manifest.info_hash.hex()

    def withdraw(self, lesson: LessonId, why: str) -> None:
        assert self.origin.repository
        with open_repository(self.origin.repository, self._keys) as repository:
            repository.withdraw(lesson, why)
            repository.release(NOW)


async def test_a_followed_lesson_becomes_complete_and_is_read(tmp_path: Path) -> None:
    cned = Publisher(tmp_path)
    cned.publish("fractions", OLD)
    with trio.fail_after(30):
        async with keeping(tmp_path / "node", cned.origin, cned.root) as node:
            await node.hear()
            await node.until(State.COMPLETE)
            (view,) = node.keeper.display.lessons()
            assert view.bytes_have == sum(view.origin_bytes.values()) == view.manifest.size
            assert view.share == 1.0
            assert await node.text() == OLD["index.html"]
            assert node.keeper.display.states() == {State.COMPLETE: 1}


async def test_lessons_go_on_to_other_nodes_without_the_origin(tmp_path: Path) -> None:
    cned = Publisher(tmp_path)
    lesson = cned.publish("fractions", NEW)
    with trio.fail_after(30):
        async with keeping(tmp_path / "one", cned.origin, cned.root) as one:
            await one.hear()
            await one.until(State.COMPLETE)
            before = cned.origin.sent
            cned.origin.withheld = {lesson}
            swarm = SwarmConfig(peers=(at(one.parts.swarm),))
            async with keeping(tmp_path / "other", cned.origin, cned.root, swarm=swarm) as other:
                await other.hear()
                await other.until(State.COMPLETE)
                view = other.keeper.display.lesson(FRACTIONS)
                assert view
                assert view.peer_bytes == view.manifest.size
                taken = other.parts.swarm.traffic().from_peers
                assert taken >= view.manifest.size
                cned.withdraw(FRACTIONS, "une erreur")
                await other.hear()
                assert lesson not in other.contents()
                assert other.parts.swarm.traffic().from_peers >= taken  # the content goes, what it counted stays
            assert cned.origin.sent - before < view.manifest.size


async def test_the_old_version_is_served_until_the_new_one_is_whole_and_then_goes(tmp_path: Path) -> None:
    cned = Publisher(tmp_path)
    old = cned.publish("fractions", OLD)
    with trio.fail_after(30):
        async with keeping(tmp_path / "node", cned.origin, cned.root) as node:
            await node.hear()
            await node.until(State.COMPLETE)
            new = cned.publish("fractions", NEW)
            cned.origin.unknown = {new}
            await node.hear()
            view = node.keeper.display.lesson(FRACTIONS)
            assert view
            assert (view.state, view.manifest.version, view.next_version) == (State.COMPLETE, 1, 2)
            assert await node.text() == OLD["index.html"]
            cned.origin.unknown = set()
            await node.until(State.COMPLETE, version=2)
            assert await node.text() == NEW["index.html"]
            while old in node.contents():
                await node.keeper.change()
            assert new in node.contents()
            assert {each.info_hash.hex() for each in await node.parts.library.torrents()} == node.contents()


async def test_a_new_version_with_the_same_files_is_served_at_once(tmp_path: Path) -> None:
    cned = Publisher(tmp_path)
    cned.publish("fractions", OLD)
    with trio.fail_after(30):
        async with keeping(tmp_path / "node", cned.origin, cned.root) as node:
            await node.hear()
            await node.until(State.COMPLETE)
            cned.publish("fractions", OLD, title="Les fractions, encore")
            await node.hear()
            view = node.keeper.display.lesson(FRACTIONS)
            assert view
            assert (view.manifest.title, view.next_version) == ("Les fractions, encore", None)
            assert view.state is State.COMPLETE


async def test_a_withdrawn_lesson_is_gone_from_the_disk_the_swarm_and_the_list_and_says_why(tmp_path: Path) -> None:
    cned = Publisher(tmp_path)
    gone = cned.publish("fractions", OLD)
    with trio.fail_after(30):
        async with keeping(tmp_path / "node", cned.origin, cned.root) as node:
            await node.hear()
            await node.until(State.COMPLETE)
            cned.withdraw(FRACTIONS, "une erreur")
            await node.hear()
            assert node.keeper.display.lessons() == ()
            view = node.keeper.display.lesson(FRACTIONS)
            assert view
            assert (view.state, view.reason) == (State.WITHDRAWN, "une erreur")
            assert gone not in node.contents()
            assert list((tmp_path / "node" / "trash").iterdir()) == []
            assert gone not in {each.info_hash.hex() for each in await node.parts.library.torrents()}
            with pytest.raises(LibraryError, match="une erreur"):
                await node.text()
            with pytest.raises(LibraryError, match="une erreur"):
                await node.keeper.want(FRACTIONS)
        async with keeping(tmp_path / "node", Origin()) as node:
            assert node.keeper.display.lessons() == ()
            assert gone not in node.contents()


@pytest.mark.parametrize("begun", [True, False])
async def test_a_lesson_that_is_withdrawn_while_it_is_read_ends_its_readers(tmp_path: Path, begun: bool) -> None:
    cned = Publisher(tmp_path)
    lesson = cned.publish("fractions", OLD)
    cned.origin.withheld = {lesson}
    cned.origin.unknown = set() if begun else {lesson}
    with trio.fail_after(30):
        async with keeping(tmp_path / "node", cned.origin, cned.root) as node, trio.open_nursery() as nursery:
            await node.hear()

            async def reader() -> None:
                with pytest.raises((SwarmError, LibraryError)):
                    await node.text()

            nursery.start_soon(reader)
            await node.until(State.FETCHING if begun else State.FAILED)
            cned.withdraw(FRACTIONS, "une erreur")
            await node.hear()


async def test_a_lesson_that_is_no_longer_listed_stays_readable_also_after_a_restart(tmp_path: Path) -> None:
    cned = Publisher(tmp_path)
    cned.publish("fractions", OLD)
    with trio.fail_after(30):
        async with keeping(tmp_path / "node", cned.origin, cned.root) as node:
            await node.hear()
            await node.until(State.COMPLETE)
            cned.publish("fractions", NEW, level="5e")
            await node.hear()
            await node.until(State.COMPLETE)
            assert await node.text() == OLD["index.html"]
        async with keeping(tmp_path / "node", Origin()) as node:
            await node.until(State.COMPLETE)
            assert await node.text() == OLD["index.html"]


async def test_a_restart_without_the_origin_knows_and_serves_everything(tmp_path: Path) -> None:
    cned = Publisher(tmp_path)
    cned.publish("fractions", OLD)
    with trio.fail_after(30):
        async with keeping(tmp_path / "node", cned.origin, cned.root) as node:
            await node.hear()
            await node.until(State.COMPLETE)
            before = node.keeper.display.lesson(FRACTIONS)
        nothing = Origin()
        async with keeping(tmp_path / "node", nothing) as node:
            await node.until(State.COMPLETE)
            view = node.keeper.display.lesson(FRACTIONS)
            assert view
            assert before
            assert view.origin_bytes == {"earlier": sum(before.origin_bytes.values())}
            assert await node.text() == OLD["index.html"]
            assert nothing.asked == []


async def test_a_shown_lesson_is_fetched_when_somebody_wants_it_and_stays_wanted(tmp_path: Path) -> None:
    cned = Publisher(tmp_path)
    lesson = cned.publish("fractions", OLD)
    cned.origin.unknown = {lesson}
    shown: dict[str, Any] = {"follow": (), "show": (CatalogueName("cned/6e"),)}
    with trio.fail_after(30):
        async with keeping(tmp_path / "node", cned.origin, cned.root, **shown) as node:
            await node.hear()
            await node.until(State.LISTED)
            await node.keeper.want(FRACTIONS)
            await node.until(State.FAILED)  # as nobody has it
        cned.origin.unknown = set()
        async with keeping(tmp_path / "node", cned.origin, cned.root, **shown) as node:
            await node.until(State.COMPLETE)


async def test_a_reader_who_opens_a_shown_lesson_has_it_fetched(tmp_path: Path) -> None:
    cned = Publisher(tmp_path)
    cned.publish("fractions", OLD)
    shown: dict[str, Any] = {"follow": (), "show": (CatalogueName("cned/6e"),)}
    with trio.fail_after(30):
        async with keeping(tmp_path / "node", cned.origin, cned.root, **shown) as node:
            await node.hear()
            assert await node.text() == OLD["index.html"]
            await node.until(State.COMPLETE)


async def test_who_mistypes_a_lesson_is_told_the_nearest(tmp_path: Path) -> None:
    cned = Publisher(tmp_path)
    cned.publish("fractions", OLD)
    with trio.fail_after(30):
        async with keeping(tmp_path / "node", cned.origin, cned.root) as node:
            await node.hear()
            with pytest.raises(LibraryError, match="did you mean fractions"):
                await node.keeper.want(LessonId("fraction"))
            with pytest.raises(LibraryError, match="cned/6e"):
                await node.keeper.want(LessonId("zzz"))
            assert node.keeper.display.lesson(LessonId("zzz")) is None


async def test_lessons_that_cannot_be_fetched_do_not_keep_the_others_waiting(tmp_path: Path) -> None:
    origin = Origin()
    desk = Desk(origin)
    signed: list[SignedLesson] = []
    for n in range(AT_ONCE + 2):
        thing = content({"index.html": noise(100, n)})
        if n % 2:  # every other one is in nobody's hands, and the rest is not what its manifest says
            signed.append(desk.sign(thing, f"a-{n}"))
        else:
            origin.publish(thing)
            signed.append(desk.sign(thing, f"a-{n}", size=thing.size + 1))
    good = content(OLD)
    origin.publish(good)
    signed.append(desk.sign(good))
    with trio.fail_after(30):
        async with keeping(tmp_path / "node", origin) as node:
            await node.keeper.admit(desk.edition(*signed))
            await node.until(State.COMPLETE)
            refused = node.keeper.display.lesson(LessonId("a-0"))
            assert refused
            assert refused.state is State.FAILED
            assert "manifest" in (refused.reason or "")


async def test_a_catalogue_whose_content_is_no_edition_is_refused_and_the_one_before_stands(tmp_path: Path) -> None:
    origin = Origin()
    desk = Desk(origin)
    good = content(OLD)
    origin.publish(good)
    with trio.fail_after(30):
        async with keeping(tmp_path / "node", origin) as node:
            await node.keeper.admit(desk.edition(desk.sign(good)))
            await node.until(State.COMPLETE)
            with pytest.raises(ManifestError):
                await node.keeper.admit(desk.edition(number=2, body=b"no edition"))
            wrong = desk.edition(number=3)
            wrong = attrs.evolve(wrong, manifest=attrs.evolve(wrong.manifest, size=wrong.manifest.size + 1))
            with pytest.raises(ManifestError, match="refused"):
                await node.keeper.admit(wrong)
            assert node.keeper.admitted["cned/6e"].manifest.edition == 1
            assert await node.text() == OLD["index.html"]
            with pytest.raises(TrustError, match="another edition 1 of cned/6e, and edition 1 was admitted here"):
                await node.keeper.admit(desk.edition(number=1))  # older or equal, and other than ours: not taken
            assert [view.manifest.id for view in node.keeper.display.lessons()] == [FRACTIONS]


async def test_an_edition_that_is_given_up_for_the_next_leaves_nothing_behind(tmp_path: Path) -> None:
    origin = Origin()
    desk = Desk(origin)
    slow = desk.edition(number=1)
    origin.withheld = {slow.manifest.info_hash.hex()}
    with trio.fail_after(30):
        async with keeping(tmp_path / "node", origin) as node:
            with trio.move_on_after(0.5):
                await node.keeper.admit(slow)
            await node.keeper.admit(desk.edition(number=2))
            assert node.keeper.admitted["cned/6e"].manifest.edition == 2
            assert slow.manifest.info_hash.hex() not in node.contents()


async def test_a_served_lesson_is_known_after_a_restart_by_the_keys_that_signed_it(tmp_path: Path) -> None:
    origin = Origin()
    before, after = Desk(origin), Desk(origin, private=Ed25519PrivateKey.generate())
    old, new = content(OLD), content(NEW)
    origin.publish(old)
    origin.publish(new)
    levels = ("6e", "5e")
    follow = (CatalogueName("cned/6e"), CatalogueName("cned/5e"))
    with trio.fail_after(30):
        async with keeping(tmp_path / "node", origin, follow=follow) as node:
            await node.keeper.admit(before.edition(before.sign(old, levels=levels)))
            await node.until(State.COMPLETE)
            # the other catalogue's next edition comes with newer keys, before this one's does
            newer = after.edition(after.sign(new, levels=levels, version=2), level="5e")
            await node.keeper.admit(newer)
            await node.until(State.COMPLETE, version=2)
            (stored,) = await node.parts.library.lessons()
            assert stored.keys == newer.keys


async def test_a_content_that_was_dropped_can_be_wanted_again_at_once(tmp_path: Path) -> None:
    origin = Origin()
    desk = Desk(origin)
    thing = content({"index.html": noise(40 * PIECE)})
    origin.publish(thing)
    with trio.fail_after(30):
        async with keeping(tmp_path / "node", origin) as node:
            for number in range(1, 8, 2):
                await node.keeper.admit(desk.edition(desk.sign(thing, f"a-{number}"), number=number))
                await node.until(State.COMPLETE, LessonId(f"a-{number}"))
                node.keeper.roll.served.clear()  # as if it had never been served, so that it goes with its edition
                await node.keeper.admit(desk.edition(number=number + 1))
                assert thing.info_hash.hex() not in node.contents()


async def test_what_the_index_tells_wrongly_is_waited_for_anew(tmp_path: Path) -> None:
    origin = Origin()
    desk = Desk(origin)
    good = content(OLD)
    origin.publish(good)
    vouched = desk.edition(desk.sign(good))
    with trio.fail_after(30):
        async with keeping(tmp_path / "node", origin) as node:
            await node.keeper.admit(vouched)
            await node.until(State.COMPLETE)
            library = node.parts.library
            (catalogue,), (lesson,) = await library.catalogues(), await library.lessons()
            await library.admit(attrs.evolve(catalogue, content=b"damaged"))
            await library.keep_lesson(attrs.evolve(lesson, served=b"damaged"))
        before = origin.sent
        async with keeping(tmp_path / "node", origin) as node:
            assert node.keeper.display.lessons() == ()
            await node.keeper.admit(vouched)
            await node.until(State.COMPLETE)
            assert await node.text() == OLD["index.html"]
            assert origin.sent - before < good.size + vouched.manifest.size + 1


async def test_a_complete_lesson_is_given_at_once_until_it_is_withdrawn(tmp_path: Path) -> None:
    origin = Origin()
    desk = Desk(origin)
    thing = content(OLD)
    lesson = desk.publish(thing)
    with trio.fail_after(30):
        async with keeping(tmp_path / "node", origin) as node:
            keeper = node.keeper
            assert keeper.complete(FRACTIONS) is None
            await keeper.admit(desk.edition(lesson))
            assert keeper.complete(FRACTIONS) is None  # it is on its way
            await node.until(State.COMPLETE)
            while (opened := keeper.complete(FRACTIONS)) is None:
                await keeper.change()
            assert (opened.etag, opened.file("index.html") is None) == (thing.info_hash.hex(), False)
            assert keeper.roll.used[FRACTIONS] == node.now().date()
            await keeper.admit(desk.edition(number=2, gone=("fractions",)))
            assert keeper.complete(FRACTIONS) is None


async def test_a_lesson_with_an_end_is_not_given_at_once_as_the_clock_has_a_word_in_it(tmp_path: Path) -> None:
    origin = Origin()
    desk = Desk(origin)
    lesson = desk.publish(content(OLD), expires=NOW + timedelta(days=1))
    with trio.fail_after(30):
        async with keeping(tmp_path / "node", origin) as node:
            await node.keeper.admit(desk.edition(lesson))
            await node.until(State.COMPLETE)
            while node.keeper.roll.served.get(FRACTIONS) is None:
                await node.keeper.change()
            assert node.keeper.complete(FRACTIONS) is None


async def test_others_have_their_turn_while_thousands_of_lessons_are_looked_at() -> None:
    turns = 0

    async def read() -> None:
        nonlocal turns
        while True:
            await trio.lowlevel.checkpoint()
            turns += 1

    async with trio.open_nursery() as nursery:
        nursery.start_soon(read)
        for place in range(10 * PORTION):
            await _pause(place)
        assert turns >= 5  # who is first in each round is by lot
        nursery.cancel_scope.cancel()
