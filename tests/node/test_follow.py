from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from random import Random
from typing import cast

import attrs
import pytest
import trio
from trio.testing import MockClock

from edgeshare.config import CatalogueName, Config
from edgeshare.errors import LibraryError, ManifestError, OriginError, TrustError
from edgeshare.follow import Follower
from edgeshare.freshness import Freshness
from edgeshare.keeper import Keeper
from edgeshare.manifest import CatalogueManifest, InfoHash
from edgeshare.publishers import Delegation, Publishers
from edgeshare.trust import Refreshed, Trust, Vouched

NAME = "cned/6e"
EXPIRES = datetime.now(UTC) + timedelta(days=30)


def edition(number: int) -> Vouched:
    manifest = CatalogueManifest(
        name=NAME, edition=number, info_hash=InfoHash(bytes([number] * 32)), size=1, issued=EXPIRES
    )
    return Vouched(manifest=manifest, raw=b"", keys={})


@attrs.define
class TrustInMemory:
    """What the origin vouches for, or what it fails with; when it was asked."""

    answer: Refreshed | OriginError | TrustError
    asked_at: list[float] = attrs.field(factory=list)
    asked_for: list[tuple[str, ...]] = attrs.field(factory=list)

    is_fresh: bool = True

    def freshness(self) -> Freshness:
        return Freshness(is_fresh=self.is_fresh, role="timestamp", expires=EXPIRES)

    async def refresh(self, catalogues: tuple[str, ...]) -> Refreshed:
        await trio.lowlevel.checkpoint()
        self.asked_at.append(trio.current_time())
        self.asked_for.append(catalogues)
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


@attrs.define
class KeeperInMemory:
    """Admits an edition when a test lets it."""

    admitted: dict[str, Vouched] = attrs.field(factory=dict)
    let: Callable[[], LibraryError | bool] = lambda: True
    begun: list[int] = attrs.field(factory=list)
    given_up: list[int] = attrs.field(factory=list)

    heard_again: int = 0
    heeded: list[Publishers] = attrs.field(factory=list)
    bound_by: frozenset[str] = frozenset()

    def stands_on(self, vouched: Vouched) -> bool:
        return self.admitted.get(NAME) == vouched

    def hear_again(self) -> None:
        self.heard_again += 1

    async def heed(self, publishers: Publishers, offered: Mapping[str, Vouched]) -> None:
        self.heeded.append(publishers)

    async def admit(self, vouched: Vouched) -> None:
        number = vouched.manifest.edition
        self.begun.append(number)
        try:
            while not (answer := self.let()):
                await trio.sleep(1.0)
        except trio.Cancelled:
            self.given_up.append(number)
            raise
        if isinstance(answer, LibraryError):
            raise answer
        self.admitted[NAME] = vouched


def found(
    number: int | None = None,
    *,
    unpublished: tuple[str, ...] = (),
    refused: Mapping[str, str] | None = None,
    publishers: Publishers | None = None,
) -> Refreshed:
    catalogues = {NAME: edition(number)} if number else {}
    return Refreshed(
        catalogues=catalogues,
        unpublished=unpublished,
        refused=refused or {},
        publishers=publishers or Publishers(),
    )


@asynccontextmanager
async def following(trust: TrustInMemory, keeper: KeeperInMemory) -> AsyncGenerator[Follower, None]:
    config = Config(
        origins=("http://a/",),
        root=Path("root.json"),
        follow=(CatalogueName(NAME),),
        show=(CatalogueName("cned/5e"),),
    )
    follower = Follower(cast("Trust", trust), cast("Keeper", keeper), config, Random(1))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(follower.run)
        await trio.sleep(0.1)
        yield follower
        nursery.cancel_scope.cancel()


async def test_a_new_edition_is_admitted_once(autojump_clock: MockClock) -> None:
    trust, keeper = TrustInMemory(found(1)), KeeperInMemory()
    async with following(trust, keeper) as follower:
        await trio.sleep(10_000)
        assert keeper.begun == [1]
        trust.answer = found(2)
        await trio.sleep(2_000)
    assert keeper.begun == [1, 2]
    assert (follower.trouble, follower.catalogue_trouble) == (None, {})


async def test_the_origin_is_asked_every_quarter_of_an_hour_or_so(autojump_clock: MockClock) -> None:
    trust = TrustInMemory(found(1))
    async with following(trust, KeeperInMemory()):
        await trio.sleep(24 * 3600)
    gaps = {round(late - early) for early, late in pairwise(trust.asked_at)}
    assert 675 <= min(gaps) < max(gaps) <= 1125
    assert len(gaps) > 20  # a crowd that started together drifts apart


async def test_an_edition_on_its_way_is_not_begun_anew_by_each_refresh(autojump_clock: MockClock) -> None:
    trust, keeper = TrustInMemory(found(1)), KeeperInMemory(let=lambda: False)
    async with following(trust, keeper) as follower:
        await trio.sleep(10_000)
        assert len(trust.asked_at) > 5
        assert (keeper.begun, keeper.given_up) == ([1], [])
        assert follower.catalogue_trouble == {NAME: "edition 1 is on its way"}


async def test_an_edition_on_its_way_is_given_up_for_a_newer_one(autojump_clock: MockClock) -> None:
    trust, keeper = TrustInMemory(found(1)), KeeperInMemory(let=lambda: False)
    async with following(trust, keeper) as follower:
        trust.answer = found(2)
        await trio.sleep(2_000)
        assert (keeper.begun, keeper.given_up) == ([1, 2], [1])
        keeper.let = lambda: True
        await trio.sleep(2_000)
        assert follower.catalogue_trouble == {}


async def test_an_edition_that_is_refused_is_named_and_tried_again(autojump_clock: MockClock) -> None:
    keeper = KeeperInMemory(let=lambda: LibraryError("the disk is full"))
    async with following(TrustInMemory(found(1)), keeper) as follower:
        assert follower.catalogue_trouble == {NAME: "edition 1 is refused, the disk is full"}
        keeper.let = lambda: True
        await trio.sleep(2_000)
        assert follower.catalogue_trouble == {}


async def test_what_is_not_published_or_cannot_be_right_is_named(autojump_clock: MockClock) -> None:
    answer = found(unpublished=("cned/5e",), refused={NAME: "nobody signed it"})
    async with following(TrustInMemory(answer), KeeperInMemory()) as follower:
        assert follower.catalogue_trouble == {
            "cned/5e": "the repository has no catalogue cned/5e",
            NAME: "nobody signed it",
        }


async def test_who_may_publish_is_heeded_before_an_edition_is_admitted(autojump_clock: MockClock) -> None:
    trust, keeper = (
        TrustInMemory(found(1, publishers=Publishers(revoked={"lyon": "la clé est volée"}))),
        KeeperInMemory(),
    )
    keeper.let = lambda: len(keeper.heeded) > 0
    async with following(trust, keeper):
        assert keeper.begun == [1]
        assert keeper.given_up == []
    assert [dict(each.revoked) for each in keeper.heeded[:1]] == [{"lyon": "la clé est volée"}]


async def test_a_catalogue_whose_publisher_was_revoked_is_named_with_the_reason(autojump_clock: MockClock) -> None:
    answer = found(unpublished=(NAME,), publishers=Publishers(revoked={"cned": "la clé est volée"}))
    async with following(TrustInMemory(answer), KeeperInMemory()) as follower:
        assert follower.catalogue_trouble == {NAME: "its publisher cned was revoked: la clé est volée"}


async def test_a_catalogue_whose_publisher_was_revoked_once_and_may_publish_again_is_only_not_there(
    autojump_clock: MockClock,
) -> None:
    again = Publishers(delegations={"cned": Delegation(prefix="", epoch="new")}, revoked={"cned": "la clé est volée"})
    answer = found(unpublished=(NAME,), publishers=again)
    async with following(TrustInMemory(answer), KeeperInMemory()) as follower:
        assert follower.catalogue_trouble == {NAME: "the repository has no catalogue cned/6e"}


async def test_a_catalogue_whose_word_counts_is_asked_for_though_nobody_follows_it_and_not_missed(
    autojump_clock: MockClock,
) -> None:
    trust = TrustInMemory(found(1, unpublished=("cned/4e",)))
    keeper = KeeperInMemory(bound_by=frozenset({"cned/4e", NAME}))
    async with following(trust, keeper) as follower:
        assert trust.asked_for == [(NAME, "cned/5e", "cned/4e")]
        assert follower.names == (NAME, "cned/5e")
        assert follower.catalogue_trouble == {}


async def test_an_edition_that_fails_after_it_was_given_up_for_another_ends_nothing(autojump_clock: MockClock) -> None:
    class Reading(KeeperInMemory):
        async def admit(self, vouched: Vouched) -> None:
            if vouched.manifest.edition == 1:
                with trio.CancelScope(shield=True):  # as one that is being read in a thread
                    await trio.sleep(2_000)
            raise ManifestError(f"{vouched.manifest.edition} is no edition")

    trust = TrustInMemory(found(1))
    async with following(trust, Reading()) as follower:
        trust.answer = found(2)
        await trio.sleep(10_000)
        assert follower.catalogue_trouble == {NAME: "edition 2 is refused, 2 is no edition"}


async def test_metadata_that_has_expired_is_said_once(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    trust = TrustInMemory(found(1))
    async with following(trust, KeeperInMemory()):
        trust.is_fresh = False
        await trio.sleep(10_000)
    (said,) = [record.getMessage() for record in caplog.records if "nothing new is accepted" in record.getMessage()]
    assert said.startswith(f"nothing new is accepted: the timestamp metadata expired on {EXPIRES:%Y-%m-%d}")


async def test_an_origin_that_is_away_is_asked_again_ever_more_calmly(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    trust, keeper = TrustInMemory(OriginError("http://a/ cannot be reached")), KeeperInMemory()
    async with following(trust, keeper) as follower:
        await trio.sleep(10_000)
        gaps = [late - early for early, late in pairwise(trust.asked_at)]
        assert gaps[0] <= 1.0
        assert all(150 <= gap <= 300 for gap in gaps[10:])
        assert follower.trouble == "http://a/ cannot be reached"
        trust.answer = found(1)
        await trio.sleep(300)
        assert keeper.begun == [1]
    assert not follower.trouble
    assert keeper.heard_again == 1
    said = [record.getMessage() for record in caplog.records if record.name == "edgeshare.follow"]
    assert said == ["http://a/ cannot be reached", "the origin is back"]  # once, however often it was tried
