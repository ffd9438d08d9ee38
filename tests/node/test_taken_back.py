"""What a node no longer lists, serves or keeps, and what it goes on to serve whatever happens."""

from __future__ import annotations

import logging
import threading
from contextlib import aclosing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio
import trio.testing
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from edgeshare import admission
from edgeshare.admission import KEY_REVOKED, Changes, Gone, Weighed, heed
from edgeshare.config import CatalogueName
from edgeshare.errors import LibraryError, TrustError
from edgeshare.keeper import AT_ONCE
from edgeshare.library.library import open_library
from edgeshare.manifest import LessonId
from edgeshare.publishers import Delegation, Publishers
from edgeshare.swarm.torrent import SwarmError
from edgeshare.view import State
from tests.support.content import PIECE, content, noise
from tests.support.keeping import FRACTIONS, Desk, Node, keeping
from tests.support.node import Origin

pytestmark = pytest.mark.whole  # together they take half a minute

ONE, OTHER = content({"index.html": noise(2 * PIECE, 1)}), content({"index.html": noise(2 * PIECE, 2)})
CNED = Publishers(delegations={"cned": Delegation(prefix="", epoch="cned")})
BOTH = attrs.evolve(CNED, delegations={**CNED.delegations, "lyon": Delegation(prefix="lyon-", epoch="lyon")})
REVOKED = attrs.evolve(CNED, revoked={"lyon": "la clé est volée"})
LYON_A = LessonId("lyon-a")
FOLLOW = tuple(map(CatalogueName, ("cned/6e", "lyon/6e")))


def is_gone(node: Node, why: str, lesson: LessonId = FRACTIONS) -> bool:
    """Whether a lesson is withdrawn by name, and nowhere listed."""
    view = node.keeper.display.lesson(lesson)
    assert view
    assert lesson not in {each.manifest.id for each in node.keeper.display.lessons()}
    return (view.state, view.reason) == (State.WITHDRAWN, why)


async def is_erased(node: Node, thing: Any, lesson: LessonId = FRACTIONS) -> bool:
    """Whether the disk, the index and the swarm have nothing of a lesson."""
    library = node.parts.library
    torrents = {each.info_hash for each in await library.torrents()}
    lessons = {each.id for each in await library.lessons()}
    is_on_disk = thing.info_hash.hex() in node.contents() or list((library.root / "trash").iterdir())
    with pytest.raises(LibraryError):
        node.keeper.roll.check_known(lesson)
    return not is_on_disk and thing.info_hash not in torrents and lesson not in lessons


async def test_a_withdrawn_lesson_stays_withdrawn_whatever_is_said_but_that_it_is_reinstated(tmp_path: Path) -> None:
    desk = Desk(origin := Origin())
    lesson = desk.publish(ONE)
    first = desk.edition(lesson)
    withdrawal = desk.edition(number=2, gone=("fractions",))
    silent = desk.edition(desk.sign(ONE, version=2), number=3)
    with trio.fail_after(60):
        async with keeping(tmp_path / "node", origin) as node:
            await node.keeper.heed(CNED)
            await node.keeper.admit(first)
            await node.until(State.COMPLETE)
            await node.keeper.admit(withdrawal)
            assert is_gone(node, "une erreur")
            assert await is_erased(node, ONE)
            await node.keeper.admit(silent)
            assert is_gone(node, "une erreur")
            with pytest.raises(TrustError):  # an older one, offered again
                await node.keeper.admit(first)
        async with keeping(tmp_path / "node", origin) as node:
            assert is_gone(node, "une erreur")
        async with keeping(tmp_path / "node", origin, follow=()) as node:
            assert is_gone(node, "une erreur")
        async with keeping(tmp_path / "node", origin) as node:
            assert is_gone(node, "une erreur")
            assert await is_erased(node, ONE)
            await node.keeper.admit(desk.edition(desk.sign(ONE, version=2), number=4, back=("fractions",)))
            await node.until(State.COMPLETE, version=2)
        async with keeping(tmp_path / "node", Origin()) as node:
            await node.until(State.COMPLETE, version=2)


async def test_nobody_withdraws_the_lesson_of_another(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    cned, lyon = Desk(origin := Origin()), Desk(origin, "lyon")
    with trio.fail_after(30):
        async with keeping(tmp_path / "node", origin, follow=FOLLOW) as node:
            await node.keeper.heed(BOTH)
            await node.keeper.admit(cned.edition(cned.publish(ONE)))
            await node.until(State.COMPLETE)
            await node.keeper.admit(lyon.edition(lyon.sign(OTHER, version=9), gone=("fractions",)))
            view = node.keeper.display.lesson(FRACTIONS)
            assert view
            assert (view.state, view.manifest.publisher) == (State.COMPLETE, "cned")
    assert "lyon/6e, edition 1: it withdraws fractions, which is not an id of lyon" in caplog.text
    assert "lyon/6e, edition 1: fractions is not an id of lyon" in caplog.text


async def test_what_only_a_revoked_publisher_vouched_for_is_erased_and_says_why_also_after_a_restart(
    tmp_path: Path,
) -> None:
    cned, lyon = Desk(origin := Origin()), Desk(origin, "lyon")
    theirs = lyon.edition(lyon.publish(ONE, "lyon-a", title="La ville"))
    with trio.fail_after(60):
        async with keeping(tmp_path / "node", origin, follow=FOLLOW) as node:
            await node.keeper.heed(BOTH)
            await node.keeper.admit(theirs)
            await node.keeper.admit(cned.edition(cned.publish(OTHER)))
            await node.until(State.COMPLETE, LYON_A)
            await node.until(State.COMPLETE)
            await node.keeper.heed(REVOKED)
            assert is_gone(node, "la clé est volée", LYON_A)
            assert await is_erased(node, ONE, LYON_A)
            assert theirs.manifest.info_hash.hex() not in node.contents()
            assert await node.text() == OTHER.files["index.html"]
            with pytest.raises(TrustError, match="la clé est volée"):
                await node.keeper.admit(theirs)
        async with keeping(tmp_path / "node", nothing := Origin(), follow=FOLLOW) as node:
            assert is_gone(node, "la clé est volée", LYON_A)
            view = node.keeper.display.lesson(LYON_A)
            assert view
            assert view.manifest.title == "La ville"
            assert await node.text() == OTHER.files["index.html"]
            assert nothing.asked == []


async def test_a_revocation_that_was_cut_short_by_a_kill_is_carried_out_at_the_next_start(tmp_path: Path) -> None:
    lyon = Desk(origin := Origin(), "lyon")
    lesson = lyon.publish(ONE, "lyon-a")
    with trio.fail_after(60):
        async with keeping(tmp_path / "node", origin, follow=FOLLOW) as node:
            await node.keeper.heed(BOTH)
            await node.keeper.admit(lyon.edition(lesson))
            await node.until(State.COMPLETE, LYON_A)
        gone = Gone(id=LYON_A, by="lyon", why="la clé est volée", lesson=lesson.manifest)
        async with open_library(tmp_path / "node") as library:  # the first write of a revocation, and nothing after it
            await library.heed(Changes(forgotten=frozenset({"lyon/6e"}), publishers=REVOKED, gone=(gone,)))
        async with keeping(tmp_path / "node", Origin(), follow=FOLLOW) as node:
            assert is_gone(node, "la clé est volée", LYON_A)
            assert await is_erased(node, ONE, LYON_A)


async def test_an_edition_that_is_on_its_way_when_its_publisher_is_revoked_leaves_nothing_behind(
    tmp_path: Path,
) -> None:
    lyon = Desk(origin := Origin(), "lyon")
    slow = lyon.edition()
    origin.withheld = {slow.manifest.info_hash.hex()}
    with trio.fail_after(30):
        async with keeping(tmp_path / "node", origin, follow=FOLLOW) as node, trio.open_nursery() as nursery:
            await node.keeper.heed(BOTH)

            async def admit() -> None:
                with pytest.raises(LibraryError):
                    await node.keeper.admit(slow)

            nursery.start_soon(admit)
            await trio.testing.wait_all_tasks_blocked(0.05)
            await node.keeper.heed(REVOKED)
            assert slow.manifest.info_hash.hex() not in node.contents()


async def test_a_publisher_that_is_no_longer_named_is_no_longer_offered_and_stays_readable(tmp_path: Path) -> None:
    lyon = Desk(origin := Origin(), "lyon")
    with trio.fail_after(60):
        async with keeping(tmp_path / "node", origin, follow=FOLLOW) as node:
            await node.keeper.heed(BOTH)
            await node.keeper.admit(lyon.edition(lyon.publish(ONE, "lyon-a")))
            await node.until(State.COMPLETE, LYON_A)
            assert [view.is_offered for view in node.keeper.display.lessons()] == [True]
            await node.keeper.heed(CNED)
        async with keeping(tmp_path / "node", Origin(), follow=FOLLOW) as node:
            await node.until(State.COMPLETE, LYON_A)
            assert [view.is_offered for view in node.keeper.display.lessons()] == [False]
            assert await node.text(lesson=LYON_A) == ONE.files["index.html"]


async def test_what_only_a_revoked_key_signed_is_erased(tmp_path: Path) -> None:
    desk = Desk(origin := Origin())
    with trio.fail_after(60):
        async with keeping(tmp_path / "node", origin) as node:
            await node.keeper.heed(CNED)
            await node.keeper.admit(current := desk.edition(desk.publish(ONE)))
            await node.until(State.COMPLETE)
            await node.keeper.heed(
                attrs.evolve(CNED, revoked_keys=frozenset({desk.key.id})), {current.manifest.name: current}
            )
            assert is_gone(node, KEY_REVOKED)
            assert await is_erased(node, ONE)
            assert "revoked key" in (node.keeper.admitted["cned/6e"].trouble or "")
        async with keeping(tmp_path / "node", Origin()) as node:
            assert is_gone(node, KEY_REVOKED)


async def test_what_is_signed_anew_when_its_key_is_revoked_is_not_fetched_again(tmp_path: Path) -> None:
    old = Desk(origin := Origin())
    new = Desk(origin, private=Ed25519PrivateKey.generate())
    without = attrs.evolve(CNED, revoked_keys=frozenset({old.key.id}))
    with trio.fail_after(60):
        async with keeping(tmp_path / "node", origin) as node:
            await node.keeper.heed(CNED)
            await node.keeper.admit(old.edition(old.publish(ONE)))
            await node.until(State.COMPLETE)
            await node.keeper.want(FRACTIONS)
            newer = new.edition(new.sign(ONE), number=2, keys=(old.key,))
            origin.withheld = {ONE.info_hash.hex()}
            await node.keeper.heed(without, {newer.manifest.name: newer})
            assert is_gone(node, KEY_REVOKED)
            with pytest.raises(LibraryError, match="revoked"):
                await node.text()
            await node.keeper.admit(newer)
            await node.until(State.COMPLETE)
            assert await node.text() == ONE.files["index.html"]
            (row,) = await node.parts.library.lessons()
            assert (row.served, row.wanted) == (new.sign(ONE).raw, True)
        async with keeping(tmp_path / "node", Origin()) as node:
            await node.until(State.COMPLETE)


@pytest.mark.parametrize("is_admitted", [True, False])
async def test_what_is_not_signed_anew_is_erased_once_nothing_newer_is_awaited(
    tmp_path: Path, is_admitted: bool
) -> None:
    old = Desk(origin := Origin())
    new = Desk(origin, private=Ed25519PrivateKey.generate())
    without = attrs.evolve(CNED, revoked_keys=frozenset({old.key.id}))
    with trio.fail_after(60):
        async with keeping(tmp_path / "node", origin) as node:
            await node.keeper.heed(CNED)
            await node.keeper.admit(current := old.edition(old.publish(ONE)))
            await node.until(State.COMPLETE)
            newer = new.edition(number=2, keys=(old.key,))
            await node.keeper.heed(without, {newer.manifest.name: newer})
            assert ONE.info_hash.hex() in node.contents()
            if is_admitted:
                await node.keeper.admit(newer)
            else:  # the origin went back to a backup, say
                await node.keeper.heed(without, {current.manifest.name: current})
            assert is_gone(node, KEY_REVOKED)
            assert await is_erased(node, ONE)


@pytest.mark.parametrize("is_killed", [True, False])
async def test_a_version_that_a_revoked_key_signed_is_not_served_while_the_next_one_comes(
    tmp_path: Path, is_killed: bool
) -> None:
    old = Desk(origin := Origin())
    new = Desk(origin, private=Ed25519PrivateKey.generate())
    without = attrs.evolve(CNED, revoked_keys=frozenset({old.key.id}))
    with trio.fail_after(60):
        async with keeping(tmp_path / "node", origin) as node:
            await node.keeper.heed(CNED)
            await node.keeper.admit(old.edition(old.publish(ONE)))
            await node.until(State.COMPLETE)
            await node.keeper.admit(new.edition(new.sign(OTHER, version=2), number=2, keys=(old.key,)))
            await node.until(State.COMPLETE)
            if not is_killed:
                await node.keeper.heed(without)
                await node.until(State.FAILED, version=2)
        if is_killed:
            async with open_library(tmp_path / "node") as library:  # the first write of it, and nothing after
                await library.heed(Changes(publishers=without))
        async with keeping(tmp_path / "node", Origin()) as node:
            await node.until(State.FAILED, version=2)  # as nobody has it
            assert ONE.info_hash.hex() not in node.contents()


async def test_what_is_signed_by_another_key_replaces_what_is_served(tmp_path: Path) -> None:
    old = Desk(origin := Origin())
    new = Desk(origin, private=Ed25519PrivateKey.generate())
    with trio.fail_after(60):
        async with keeping(tmp_path / "node", origin) as node:
            await node.keeper.heed(CNED)
            await node.keeper.admit(old.edition(old.publish(ONE)))
            await node.until(State.COMPLETE)
            before = origin.sent
            newer = new.edition(new.sign(ONE), number=2, keys=(old.key,))
            await node.keeper.admit(newer)
            (row,) = await node.parts.library.lessons()
            assert row.served == new.sign(ONE).raw
            await node.keeper.heed(attrs.evolve(CNED, revoked_keys=frozenset({old.key.id})))
            await node.until(State.COMPLETE)
            assert origin.sent == before + newer.manifest.size
            assert node.keeper.admitted["cned/6e"].trouble is None


async def test_a_wish_is_kept_through_a_revocation_and_not_through_a_withdrawal(tmp_path: Path) -> None:
    cned, lyon = Desk(origin := Origin()), Desk(origin, "lyon")
    shown: dict[str, Any] = {"follow": (), "show": FOLLOW}
    with trio.fail_after(60):
        async with keeping(tmp_path / "node", origin, **shown) as node:
            await node.keeper.heed(BOTH)
            await node.keeper.admit(lyon.edition(lyon.publish(ONE, "lyon-a")))
            await node.keeper.admit(cned.edition(cned.publish(OTHER)))
            for lesson in (LYON_A, FRACTIONS):
                await node.keeper.want(lesson)
                await node.until(State.COMPLETE, lesson)
            await node.keeper.heed(REVOKED)
            await node.keeper.admit(cned.edition(number=2, gone=("fractions",)))
            await node.keeper.admit(cned.edition(cned.sign(OTHER), number=3, back=("fractions",)))
            await node.until(State.LISTED)
            assert {(row.id, row.wanted, row.served) for row in await node.parts.library.lessons()} == {
                (LYON_A, True, None)
            }
        async with keeping(tmp_path / "node", origin, **shown) as node:
            await node.keeper.heed(BOTH)
            await node.keeper.admit(lyon.edition(lyon.sign(ONE, "lyon-a"), number=2))
            await node.until(State.COMPLETE, LYON_A)


async def test_of_two_lessons_with_one_content_the_other_stays_when_one_is_withdrawn(tmp_path: Path) -> None:
    desk = Desk(origin := Origin())
    twin = LessonId("twin")
    with trio.fail_after(60):
        async with keeping(tmp_path / "node", origin) as node:
            await node.keeper.admit(desk.edition(desk.publish(ONE), desk.sign(ONE, "twin")))
            await node.until(State.COMPLETE)
            await node.until(State.COMPLETE, twin)
            await node.keeper.admit(desk.edition(desk.sign(ONE, "twin"), number=2, gone=("fractions",)))
            assert is_gone(node, "une erreur")
            assert await node.text(lesson=twin) == ONE.files["index.html"]
        async with keeping(tmp_path / "node", Origin()) as node:
            await node.until(State.COMPLETE, twin)
            assert await node.text(lesson=twin) == ONE.files["index.html"]
            assert is_gone(node, "une erreur")


async def test_a_reader_of_a_complete_lesson_that_is_withdrawn_is_told_at_the_next_portion(tmp_path: Path) -> None:
    desk = Desk(origin := Origin())
    thing = content({"index.html": noise(40 * PIECE, 1)})
    with trio.fail_after(60):
        async with keeping(tmp_path / "node", origin) as node:
            await node.keeper.admit(desk.edition(desk.publish(thing)))
            await node.until(State.COMPLETE)
            async with node.keeper.read(FRACTIONS) as opened:
                entry = opened.file("index.html")
                assert entry
                async with aclosing(opened.stream(entry, 0, entry.size)) as portions:
                    got = await anext(portions)
                    await node.keeper.admit(desk.edition(number=2, gone=("fractions",)))
                    with pytest.raises((SwarmError, LibraryError)):
                        got += await anext(portions)
            assert thing.files["index.html"].startswith(got)


async def test_the_version_before_is_served_when_a_later_edition_alters_it_and_the_publisher_is_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    desk = Desk(origin := Origin())
    with trio.fail_after(60):
        async with keeping(tmp_path / "node", origin) as node:
            await node.keeper.heed(CNED)
            await node.keeper.admit(desk.edition(desk.publish(ONE, version=2)))
            await node.until(State.COMPLETE, version=2)
            await node.keeper.admit(desk.edition(desk.publish(OTHER, version=2), number=2))
            assert await node.text() == ONE.files["index.html"]
            (line,) = [each for each in caplog.records if each.levelno == logging.ERROR]
            assert "version 2 of fractions is another than was admitted here before" in line.getMessage()
            assert node.keeper.admitted["cned/6e"].trouble == line.getMessage()
            await node.keeper.admit(desk.edition(desk.sign(OTHER, version=1), number=3))
            assert await node.text() == ONE.files["index.html"]
        async with keeping(tmp_path / "node", Origin()) as node:
            await node.until(State.COMPLETE, version=2)
            assert await node.text() == ONE.files["index.html"]


async def test_with_new_keys_a_publisher_takes_back_what_a_thief_published(tmp_path: Path) -> None:
    desk = Desk(origin := Origin())
    newer = attrs.evolve(CNED, delegations={"cned": Delegation(prefix="", epoch="newer")})
    with trio.fail_after(60):
        async with keeping(tmp_path / "node", origin) as node:
            await node.keeper.heed(CNED)
            await node.keeper.admit(desk.edition(desk.publish(ONE)))
            await node.until(State.COMPLETE)
            thief = desk.edition(desk.publish(OTHER, version=2**31), number=2**31, gone=("other",))
            await node.keeper.admit(thief)
            await node.until(State.COMPLETE, version=2**31)
        async with keeping(tmp_path / "node", origin) as node:  # the epochs are remembered
            with pytest.raises(TrustError):
                await node.keeper.admit(desk.edition(desk.sign(ONE), number=2))
            await node.keeper.heed(newer)
            good = desk.edition(desk.sign(ONE, version=2), number=2, back=("other",))
            await node.keeper.admit(good)
            await node.until(State.COMPLETE, version=2)
            assert await node.text() == ONE.files["index.html"]
            assert node.keeper.stands_on(good)
            while OTHER.info_hash.hex() in node.contents():
                await node.keeper.change()
            assert node.keeper.display.states() == {State.COMPLETE: 1}


async def test_an_edition_that_new_keys_vouch_for_again_counts_for_them(tmp_path: Path) -> None:
    desk = Desk(origin := Origin())
    newer = attrs.evolve(CNED, delegations={"cned": Delegation(prefix="", epoch="newer")})
    with trio.fail_after(30):
        async with keeping(tmp_path / "node", origin) as node:
            await node.keeper.heed(CNED)
            await node.keeper.admit(same := desk.edition(desk.publish(ONE), number=7))
            assert node.keeper.stands_on(same)
            await node.keeper.heed(newer)
            assert not node.keeper.stands_on(same)
            await node.keeper.admit(same)
            assert node.keeper.stands_on(same)
            with pytest.raises(TrustError):
                await node.keeper.admit(desk.edition(number=6))


async def test_a_revocation_counts_though_the_index_cannot_be_written_and_is_written_later(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    lyon = Desk(origin := Origin(), "lyon")
    with trio.fail_after(60):
        async with keeping(tmp_path / "node", origin, follow=FOLLOW) as node:
            await node.keeper.heed(BOTH)
            await node.keeper.admit(lyon.edition(lyon.publish(ONE, "lyon-a")))
            await node.until(State.COMPLETE, LYON_A)
            index = node.parts.library._index._index._db
            index.execute("PRAGMA query_only = 1")
            await node.keeper.heed(REVOKED)
            assert is_gone(node, "la clé est volée", LYON_A)
            assert "what was heard of publishers is not kept yet" in caplog.text
            index.execute("PRAGMA query_only = 0")
            await node.keeper.heed(REVOKED)
            assert (await node.parts.library.memory()).publishers == REVOKED
            assert (await node.parts.library.lessons(), await node.parts.library.torrents()) == ([], [])


async def test_an_index_from_before_publishers_were_known_goes_on_as_it_did(tmp_path: Path) -> None:
    desk = Desk(origin := Origin())
    with trio.fail_after(60):
        async with keeping(tmp_path / "node", origin) as node:
            await node.keeper.admit(first := desk.edition(desk.publish(ONE), gone=("other",)))
            await node.until(State.COMPLETE)
        async with open_library(tmp_path / "node") as library:  # as an index of the first version comes over
            library._index._index._db.executescript("DELETE FROM withdrawals; DELETE FROM versions;")
        async with keeping(tmp_path / "node", nothing := Origin()) as node:
            await node.until(State.COMPLETE)
            assert node.keeper.display.states()[State.WITHDRAWN] == 1
            assert nothing.asked == []
            await node.keeper.heed(CNED, {first.manifest.name: first})
            await node.keeper.admit(first)
            assert node.keeper.stands_on(first)
            memory = await node.parts.library.memory()
            assert {version.epoch for version in memory.versions.values()} == {"cned"}
            assert [gone.id for gone in memory.gone.values()] == ["other"]
            assert await node.text() == ONE.files["index.html"]


@pytest.mark.parametrize("is_first", [True, False], ids=["the-other-first", "the-other-second"])
async def test_nobody_makes_anothers_lesson_fail_by_naming_its_content(tmp_path: Path, is_first: bool) -> None:
    cned, lyon = Desk(origin := Origin()), Desk(origin, "lyon")
    theirs = cned.edition(cned.publish(ONE))
    copied = lyon.edition(lyon.sign(ONE, "lyon-a", size=ONE.size + 1))
    with trio.fail_after(30):
        async with keeping(tmp_path / "node", origin, follow=FOLLOW) as node:
            await node.keeper.heed(BOTH)
            await node.keeper.admit(copied if is_first else theirs)
            await node.until(State.FAILED if is_first else State.COMPLETE, LYON_A if is_first else FRACTIONS)
            await node.keeper.admit(theirs if is_first else copied)
            await node.until(State.COMPLETE)
            await node.until(State.FAILED, LYON_A)
            assert await node.text() == ONE.files["index.html"]
            with pytest.raises(LibraryError, match="not those that its manifest names"):
                await node.text(lesson=LYON_A)
            assert {row.id for row in await node.parts.library.lessons()} == {FRACTIONS}
        async with keeping(tmp_path / "node", Origin(), follow=FOLLOW) as node:
            await node.until(State.COMPLETE)
            await node.until(State.FAILED, LYON_A)


async def test_a_lesson_waits_for_its_time_though_another_that_names_its_content_was_refused(tmp_path: Path) -> None:
    cned, lyon = Desk(origin := Origin()), Desk(origin, "lyon")
    appointment = datetime.now(UTC).replace(microsecond=0) + timedelta(seconds=3)
    with trio.fail_after(30):
        async with keeping(tmp_path / "node", origin, follow=FOLLOW) as node:
            await node.keeper.heed(BOTH)
            await node.keeper.admit(cned.edition(cned.publish(ONE, fetch_from=appointment)))
            await node.keeper.admit(lyon.edition(lyon.sign(ONE, "lyon-a", size=ONE.size + 1)))
            await node.until(State.FAILED, LYON_A)
            await node.until(State.WAITING)
            await node.until(State.COMPLETE)
            assert datetime.now(UTC) >= appointment


async def test_lessons_that_name_the_content_of_another_wrongly_keep_nobody_waiting(tmp_path: Path) -> None:
    desk = Desk(origin := Origin())
    first = desk.publish(ONE, "a")
    wrong = [desk.sign(ONE, f"b-{n}", size=ONE.size + 1 + n) for n in range(AT_ONCE)]
    with trio.fail_after(30):
        async with keeping(tmp_path / "node", origin) as node:
            await node.keeper.admit(desk.edition(first))
            await node.until(State.COMPLETE, LessonId("a"))
            await node.keeper.admit(desk.edition(first, *wrong, desk.publish(OTHER), number=2))
            await node.until(State.COMPLETE)


async def test_nobody_has_anothers_edition_refused_by_naming_its_content(tmp_path: Path) -> None:
    cned, lyon = Desk(origin := Origin()), Desk(origin, "lyon")
    theirs = cned.edition(cned.publish(ONE))
    copied = lyon.sign(ONE, "lyon-a", info_hash=theirs.manifest.info_hash, size=theirs.manifest.size + 1)
    with trio.fail_after(30):
        async with keeping(tmp_path / "node", origin, follow=FOLLOW) as node:
            await node.keeper.heed(BOTH)
            await node.keeper.admit(lyon.edition(copied))
            await node.until(State.FAILED, LYON_A)
            await node.keeper.admit(theirs)
            await node.until(State.COMPLETE)


async def test_a_version_that_becomes_complete_while_its_key_is_being_revoked_does_not_replace_the_one_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    good = Desk(origin := Origin())
    bad = Desk(origin, private=Ed25519PrivateKey.generate())
    without = attrs.evolve(CNED, revoked_keys=frozenset({bad.key.id}))
    is_weighing, may_end = trio.Event(), threading.Event()

    def slowly(*step: Any) -> Weighed:
        trio.from_thread.run_sync(is_weighing.set)
        assert may_end.wait(20)
        return heed(*step)

    with trio.fail_after(30):
        async with keeping(tmp_path / "node", origin) as node, trio.open_nursery() as nursery:
            await node.keeper.heed(CNED)
            await node.keeper.admit(good.edition(good.publish(ONE)))
            await node.until(State.COMPLETE)
            await node.keeper.admit(good.edition(bad.sign(OTHER, version=2), number=2, keys=(bad.key,)))
            monkeypatch.setattr(admission, "heed", slowly)
            nursery.start_soon(node.keeper.heed, without)
            await is_weighing.wait()
            origin.publish(OTHER)
            newer = node.keeper._holdings.get(OTHER.info_hash)
            assert newer
            await newer.until(lambda: newer.is_complete)
            await trio.testing.wait_all_tasks_blocked()
            may_end.set()
            while OTHER.info_hash.hex() in node.contents():
                await node.keeper.change()
            await node.until(State.COMPLETE)
            assert await node.text() == ONE.files["index.html"]
        async with keeping(tmp_path / "node", Origin()) as node:
            await node.until(State.COMPLETE)


@pytest.mark.parametrize("damage", ["UPDATE publishers SET packed = x'00'", "DELETE FROM publishers"])
async def test_nobody_gets_anothers_lesson_while_the_index_has_lost_whose_ids_are_whose(
    tmp_path: Path, damage: str
) -> None:
    cned, lyon = Desk(origin := Origin()), Desk(origin, "lyon")
    with trio.fail_after(60):
        async with keeping(tmp_path / "node", origin, follow=FOLLOW) as node:
            await node.keeper.heed(BOTH)
            await node.keeper.admit(cned.edition(cned.publish(ONE), cned.sign(ONE, "twin")))
            await node.until(State.COMPLETE)
            await node.until(State.COMPLETE, LessonId("twin"))
            stolen = lyon.publish(OTHER, "twin", version=9)
            await node.keeper.admit(lyon.edition(stolen, lyon.sign(OTHER, "lyon-a"), gone=("fractions",)))
            await node.until(State.COMPLETE, LYON_A)
        async with open_library(tmp_path / "node") as library:
            library._index._index._db.execute(damage)
        async with keeping(tmp_path / "node", Origin(), follow=FOLLOW) as node:
            for lesson in (FRACTIONS, LessonId("twin"), LYON_A):
                await node.until(State.COMPLETE, lesson)
            await node.keeper.heed(BOTH)
            assert {view.manifest.id for view in node.keeper.display.lessons() if view.is_offered} == {
                FRACTIONS,
                "twin",
                "lyon-a",
            }
            view = node.keeper.display.lesson(LessonId("twin"))
            assert view
            assert (view.manifest.publisher, view.next_version) == ("cned", None)


async def test_what_a_served_version_was_vouched_for_with_is_known_after_a_restart(tmp_path: Path) -> None:
    once = attrs.evolve(BOTH, revoked={"lyon": "la clé est volée"})  # and delegated to again, with other keys
    lyon = Desk(origin := Origin(), "lyon")
    with trio.fail_after(60):
        async with keeping(tmp_path / "node", origin, follow=FOLLOW) as node:
            await node.keeper.heed(once)
            await node.keeper.admit(lyon.edition(lyon.publish(ONE, "lyon-a")))
            await node.until(State.COMPLETE, LYON_A)
            await node.keeper.admit(lyon.edition(lyon.sign(OTHER, "lyon-a", version=2), number=2))
        async with keeping(tmp_path / "node", Origin(), follow=FOLLOW) as node:
            await node.until(State.COMPLETE, LYON_A)


async def test_what_is_vouched_for_anew_is_remembered_with_the_new_keys(tmp_path: Path) -> None:
    cned = Desk(origin := Origin())
    newer = Publishers(delegations={"cned": Delegation(prefix="", epoch="new")})
    with trio.fail_after(60):
        async with keeping(tmp_path / "node", origin) as node:
            await node.keeper.heed(CNED)
            await node.keeper.admit(first := cned.edition(cned.publish(ONE)))
            await node.until(State.COMPLETE)
            await node.keeper.heed(newer, {"cned/6e": first})
            await node.keeper.admit(first)
            await node.until(State.COMPLETE)
            (row,) = await node.parts.library.lessons()
            assert row.epoch == "new"


async def test_a_catalogue_that_is_no_longer_followed_still_withdraws_what_is_served_of_it(tmp_path: Path) -> None:
    cned = Desk(origin := Origin())
    other = (CatalogueName("cned/5e"),)
    with trio.fail_after(60):
        async with keeping(tmp_path / "node", origin) as node:
            await node.keeper.heed(CNED)
            await node.keeper.admit(cned.edition(cned.publish(ONE)))
            await node.until(State.COMPLETE)
        async with keeping(tmp_path / "node", origin, follow=other) as node:
            await node.until(State.COMPLETE)
            assert node.keeper.bound_by == {"cned/6e"}
            await node.keeper.heed(CNED)
            await node.keeper.admit(cned.edition(number=2, gone=("fractions",)))
            assert is_gone(node, "une erreur")
            assert await is_erased(node, ONE)
            assert node.keeper.bound_by == {"cned/6e"}  # it may reinstate it
            listing = cned.edition(cned.sign(ONE, version=2, levels=("5e", "6e")), number=3, level="5e")
            await node.keeper.admit(listing)
            assert is_gone(node, "une erreur")
            await node.keeper.admit(cned.edition(number=3, back=("fractions",)))
            await node.until(State.COMPLETE, version=2)
