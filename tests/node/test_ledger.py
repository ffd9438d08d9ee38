from __future__ import annotations

from pathlib import Path

import pytest

from edgeshare.catalogue import Edition, encode_edition
from edgeshare.errors import ManifestError, TrustError
from edgeshare.ledger import Ledger
from edgeshare.library.library import open_library
from edgeshare.publishers import Delegation, Publishers
from tests.support.keeping import Desk
from tests.support.node import Origin

CNED = Publishers(delegations={"cned": Delegation(prefix="", epoch="cned")})


def content_of(number: int, name: str = "cned/6e") -> bytes:
    return encode_edition(Edition(name=name, number=number, lessons=(), withdrawn=()))


async def test_an_edition_that_was_overtaken_while_it_was_fetched_is_refused(tmp_path: Path) -> None:
    desk = Desk(Origin())
    async with open_library(tmp_path) as library:
        ledger = Ledger(library)
        ledger.check(slow := desk.edition(number=1))
        await ledger.admit(desk.edition(number=2), content_of(2))
        with pytest.raises(TrustError, match="another edition 1"):
            await ledger.admit(slow, content_of(1))


async def test_an_edition_whose_publisher_was_revoked_while_it_was_fetched_is_refused(tmp_path: Path) -> None:
    desk = Desk(Origin(), "lyon")
    async with open_library(tmp_path) as library:
        ledger = Ledger(library)
        ledger.check(slow := desk.edition())
        await ledger.heed(Publishers(revoked={"lyon": "la clé est volée"}), {}, tuple)
        with pytest.raises(TrustError, match="la clé est volée"):
            await ledger.admit(slow, content_of(1, "lyon/6e"))
        assert await library.catalogues() == []


async def test_a_content_that_is_another_edition_leaves_the_one_before(tmp_path: Path) -> None:
    desk = Desk(Origin())
    async with open_library(tmp_path) as library:
        ledger = Ledger(library)
        await ledger.admit(desk.edition(number=1), content_of(1))
        before = ledger.memory
        with pytest.raises(ManifestError):
            await ledger.admit(desk.edition(number=2), content_of(3))
        assert ledger.memory == before


async def test_a_ledger_remembers_what_the_one_before_stood_on(tmp_path: Path) -> None:
    desk = Desk(Origin())
    async with open_library(tmp_path) as library:
        ledger = Ledger(library)
        await ledger.heed(CNED, {}, tuple)
        await ledger.admit(vouched := desk.edition(number=7), content_of(7))
        before = ledger.memory
    async with open_library(tmp_path) as library:
        ledger = Ledger(library)
        await ledger.remember()
        assert ledger.memory == before
        assert ledger.stands_on(vouched)


async def test_what_is_no_news_is_not_heeded_twice(tmp_path: Path) -> None:
    desk = Desk(Origin())
    async with open_library(tmp_path) as library:
        ledger = Ledger(library)
        assert ledger.awaits(["cned/6e"])  # nothing was heard yet
        assert await ledger.heed(CNED, {}, tuple)
        assert await ledger.heed(CNED, {}, tuple) is None
        vouched = desk.edition()
        assert await ledger.heed(CNED, {"cned/6e": vouched}, tuple)
        assert (ledger.awaits(["cned/5e", "cned/6e"]), ledger.awaits(["cned/5e"])) == (True, False)
        await ledger.admit(vouched, content_of(1))
        assert not ledger.awaits(["cned/6e"])
