from __future__ import annotations

from pathlib import Path
from typing import Any

import attrs
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from edgeshare import signing
from edgeshare.admission import Changes
from edgeshare.catalogue import Edition, SignedLesson, encode_edition
from edgeshare.errors import ManifestError, TrustError
from edgeshare.ledger import Ledger
from edgeshare.library.library import Library, open_library
from edgeshare.manifest import LessonId
from edgeshare.publishers import Delegation, Publishers
from tests.support.content import content
from tests.support.keeping import Desk
from tests.support.node import Origin

CNED = Publishers(delegations={"cned": Delegation(prefix="", epoch="cned")})
STRANGER = Ed25519PrivateKey.from_private_bytes(b"edgeshare tests: a stranger's...")


def content_of(number: int, name: str = "cned/6e", lessons: tuple[SignedLesson, ...] = ()) -> bytes:
    return encode_edition(Edition(name=name, number=number, lessons=lessons, withdrawn=()))


def signed(desk: Desk, name: str, **fields: Any) -> SignedLesson:
    return desk.sign(content({"index.html": name.encode()}), name, **fields)


async def admit(library: Library, desk: Desk, *lessons: SignedLesson, number: int = 1) -> Ledger:
    """A ledger of this library, which stands on one edition."""
    ledger = Ledger(library)
    await ledger.heed(CNED, {}, tuple)
    await ledger.admit(desk.edition(*lessons, number=number), content_of(number, lessons=lessons))
    return ledger


async def remembered(library: Library) -> set[LessonId]:
    """What the next run lists."""
    ledger = Ledger(library)
    await ledger.remember()
    return {each.manifest.id for each in ledger.memory.admitted["cned/6e"].edition.lessons}


def verifications() -> int:
    """How often a signature was looked at by now."""
    asked = signing._verifier.cache_info()
    return asked.hits + asked.misses


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


async def test_an_offer_of_editions_changes_nothing_of_what_it_stands_on(tmp_path: Path) -> None:
    desk = Desk(Origin())
    async with open_library(tmp_path) as library:
        ledger = await admit(library, desk, signed(desk, "a"))
        before = ledger.memory
        weighed = await ledger.heed(CNED, {"cned/6e": desk.edition(number=2)}, tuple)
        assert weighed
        assert weighed.memory is ledger.memory is before
        assert ledger.awaits(["cned/6e"])


async def test_of_the_next_edition_only_what_is_new_is_verified(tmp_path: Path) -> None:
    desk = Desk(Origin())
    a, b, c = (signed(desk, name) for name in "abc")
    async with open_library(tmp_path) as library:
        ledger = await admit(library, desk, a, b)
        (before, _), count = ledger.memory.admitted["cned/6e"].edition.lessons, verifications()
        await ledger.admit(desk.edition(number=2), content_of(2, lessons=(a, b, c)))
        lessons = ledger.memory.admitted["cned/6e"].edition.lessons
        assert lessons == (a, b, c)
        assert lessons[0] is before
        assert verifications() - count == 1


async def test_what_a_key_signed_that_the_next_edition_does_not_vouch_for_is_refused_in_it(tmp_path: Path) -> None:
    desk, other = Desk(Origin()), Desk(Origin(), private=STRANGER)
    async with open_library(tmp_path) as library:
        ledger = await admit(library, desk, a := signed(desk, "a"))
        newer = attrs.evolve(other.edition(number=2), keys={other.key.id: other.key})
        await ledger.admit(newer, content_of(2, lessons=(a, b := signed(other, "b"))))
        assert ledger.memory.admitted["cned/6e"].edition.lessons == (b,)


async def test_an_edition_that_was_verified_is_not_verified_again_at_the_next_start(tmp_path: Path) -> None:
    desk = Desk(Origin())
    lessons = [signed(desk, name) for name in "abc"]
    async with open_library(tmp_path) as library:
        ledger = await admit(library, desk, *lessons)
        count, again = verifications(), Ledger(library)
        await again.remember()
        assert again.memory == ledger.memory
        assert verifications() - count == 1  # of the catalogue's manifest


async def test_an_edition_of_which_a_byte_is_another_is_verified_at_the_next_start(tmp_path: Path) -> None:
    desk = Desk(Origin())
    a, b = signed(desk, "a"), signed(desk, "b")
    async with open_library(tmp_path) as library:
        await admit(library, desk, a, b)
        (stored,) = await library.catalogues()
        assert a.raw[-1] == a.manifest.version == 1
        altered = stored.content.replace(a.raw, a.raw[:-1] + b"\x02")
        await library.admit(attrs.evolve(stored, content=altered))
        assert await remembered(library) == await remembered(library) == {"b"}


async def test_an_edition_is_verified_at_the_next_start_when_one_of_its_keys_was_revoked_since(tmp_path: Path) -> None:
    desk = Desk(Origin())
    async with open_library(tmp_path) as library:
        await admit(library, desk, signed(desk, "a"))
        await library.heed(Changes(publishers=attrs.evolve(CNED, revoked_keys=frozenset({desk.key.id}))))
        assert await remembered(library) == await remembered(library) == set()


async def test_an_edition_in_which_something_is_refused_is_verified_at_each_start(tmp_path: Path) -> None:
    desk, other = Desk(Origin()), Desk(Origin(), private=STRANGER)
    async with open_library(tmp_path) as library:
        await admit(library, desk, signed(desk, "a"), signed(other, "b"))
        assert await remembered(library) == await remembered(library) == {"a"}


async def test_what_the_index_does_not_know_to_be_verified_is_verified_once_more_and_known_from_then_on(
    tmp_path: Path,
) -> None:
    desk = Desk(Origin())
    async with open_library(tmp_path) as library:
        await admit(library, desk, signed(desk, "a"), signed(desk, "b"))
        await library.put_fact("verified", "of an older edgeshare")
        counts = []
        for _ in range(2):
            count = verifications()
            assert await remembered(library) == {"a", "b"}
            counts.append(verifications() - count)
        assert counts == [3, 1]
