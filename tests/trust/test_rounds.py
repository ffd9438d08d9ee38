"""What goes wrong with one publisher, one mirror or one file does not reach the others."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from securesystemslib.signer import CryptoSigner
from tuf.api.metadata import DelegatedRole, Delegations, Metadata, MetaFile, TargetFile, Targets
from tuf.api.serialization.json import JSONSerializer

from edgeshare.errors import OriginError
from edgeshare.origin.client import OriginClient
from edgeshare.refusals import Refusal
from edgeshare.trust import Trust
from tests.support.publisher import CATALOGUE, Folder, Publisher, noise, now
from tests.trust.test_trust import metadata, trusting

LYON = "lyon/6e"
BOTH = (CATALOGUE, LYON)


@pytest.fixture
def publisher(tmp_path: Path) -> Publisher:
    """A publisher that has delegated to another; both have released."""
    publisher = Publisher.of_one_lesson(tmp_path / "publisher")
    lyon = publisher.delegate("lyon", "lyon-")
    lyon.add("lyon-gare", {"index.html": noise(100)})
    lyon.release()
    return publisher


def publish_role(publisher: Publisher, change: Callable[[Targets], Any], *, signer: CryptoSigner | None = None) -> str:
    """Publish the next version of lyon's role with a change, in a snapshot that says no more of it than its version."""
    (newest,) = sorted(metadata(publisher, "").glob("*.lyon.json"))[-1:]
    role = Metadata[Targets].from_bytes(newest.read_bytes())
    role.signed.version += 1
    change(role.signed)
    role.sign(signer or publisher.keys.signer("lyon"))
    name = f"{role.signed.version}.lyon.json"
    metadata(publisher, name).write_bytes(role.to_bytes(JSONSerializer()))
    publisher.snapshot_anew(lambda snapshot: snapshot.meta.update({"lyon.json": MetaFile(role.signed.version)}))
    return name


def expire(role: Targets) -> None:
    role.expires = now() - timedelta(days=1)


def delegate_to_nobody(role: Targets) -> None:
    key = CryptoSigner.generate_ed25519().public_key
    name = "nowhere\x1b[2J"
    roles = {name: DelegatedRole(name, [key.keyid], 1, terminating=False, paths=["catalogue/lyon/*"])}
    role.targets.clear()
    role.delegations = Delegations(keys={key.keyid: key}, roles=roles)


def name_what_nobody_has(role: Targets) -> None:
    role.targets[f"catalogue/{LYON}.manifest"] = TargetFile(9, {"sha256": "0" * 64}, f"catalogue/{LYON}.manifest")


def name_what_is_huge(role: Targets) -> None:
    role.targets[f"catalogue/{LYON}.manifest"] = TargetFile(2**40, {"sha256": "0" * 64}, f"catalogue/{LYON}.manifest")


def name_a_hash_that_is_none(role: Targets) -> None:
    role.targets[f"catalogue/{LYON}.manifest"] = TargetFile(9, {"sha256": "../" * 40_000}, f"catalogue/{LYON}.manifest")


HOSTILE = [expire, delegate_to_nobody, name_what_nobody_has, name_what_is_huge, name_a_hash_that_is_none]


def aside(trust: Trust) -> list[str]:
    assert isinstance(trust._origins, OriginClient)
    return [state.name for state in trust._origins.states() if state.is_aside]


@pytest.mark.parametrize("change", HOSTILE)
@pytest.mark.parametrize("is_second_down", [False, True])
async def test_a_publisher_that_signs_what_cannot_be_keeps_nobody_else_back_and_costs_no_mirror(
    publisher: Publisher, change: Callable[[Targets], None], *, is_second_down: bool
) -> None:
    publisher.add("maths-6e-angles", {"index.html": noise(100)})
    publisher.release()
    publish_role(publisher, change)
    one, two = Folder(publisher.repository), Folder(publisher.repository)
    if is_second_down:
        two.instead = dict.fromkeys((f"metadata/{name}.json" for name in ("timestamp", "2.root")), 500)
    async with trusting(publisher, one=one, two=two) as trust:
        for _ in range(3):
            refreshed = await trust.refresh(BOTH)
            assert refreshed.catalogues[CATALOGUE].manifest.edition == 2
            assert refreshed.refused[LYON]
            assert refreshed.refused[LYON].isprintable()
            assert "http://one/" not in aside(trust)


async def test_what_no_mirror_has_right_is_not_asked_of_all_of_them_at_every_poll(publisher: Publisher) -> None:
    publish_role(publisher, expire)
    mirrors = {name: Folder(publisher.repository) for name in ("one", "two", "three")}
    async with trusting(publisher, **mirrors) as trust:
        await trust.refresh(BOTH)
        for mirror in mirrors.values():
            mirror.asked.clear()
        await trust.refresh(BOTH)
        asked = [path for mirror in mirrors.values() for path in mirror.asked]
    assert len(asked) == 7  # the next root and the timestamp of each, and the role once


async def test_a_role_that_one_mirror_sends_wrongly_comes_from_another_and_that_one_is_set_aside(
    publisher: Publisher,
) -> None:
    name = publish_role(publisher, lambda role: None)
    evil, good = Folder(publisher.repository), Folder(publisher.repository)
    forged = Metadata[Targets].from_bytes(metadata(publisher, name).read_bytes())
    forged.sign(CryptoSigner.generate_ed25519())
    evil.instead = {f"metadata/{name}": forged.to_bytes(JSONSerializer())}
    async with trusting(publisher, evil=evil, good=good) as trust:
        refreshed = await trust.refresh(BOTH)
        assert sorted(refreshed.catalogues) == sorted(BOTH)
        assert aside(trust) == ["http://evil/"]


async def test_a_manifest_that_one_mirror_sends_wrongly_comes_from_another(publisher: Publisher) -> None:
    evil, good = Folder(publisher.repository), Folder(publisher.repository)
    (path,) = (publisher.repository / "targets" / "catalogue" / "lyon").iterdir()
    evil.instead = {str(path.relative_to(publisher.repository)): path.read_bytes()[:-1] + b"x"}
    async with trusting(publisher, evil=evil, good=good) as trust:
        assert sorted((await trust.refresh(BOTH)).catalogues) == sorted(BOTH)
        assert aside(trust) == ["http://evil/"]


async def test_what_is_refused_of_one_catalogue_is_noted_with_its_name(publisher: Publisher) -> None:
    publish_role(publisher, expire)
    async with trusting(publisher, one=Folder(publisher.repository)) as trust:
        await trust.refresh(BOTH)
        (note,) = trust.notes
    assert note.refusal is Refusal.EXPIRED
    assert note.what.startswith(f"{LYON}: metadata/")


async def test_an_origin_that_goes_away_in_the_middle_is_no_publishers_trouble(publisher: Publisher) -> None:
    name = publish_role(publisher, lambda role: None)
    origin = Folder(publisher.repository)
    origin.instead = {f"metadata/{name}": 500}
    async with trusting(publisher, one=origin) as trust:
        with pytest.raises(OriginError, match="answers 500"):
            await trust.refresh(BOTH)


async def test_a_root_that_the_updater_has_not_come_to_is_known_all_the_same(publisher: Publisher) -> None:
    publisher.rotate("timestamp")
    async with trusting(publisher, one=Folder(publisher.repository)) as trust:
        await trust.refresh(BOTH)
    folder = publisher.folder / "trust"
    (folder / "root.json").unlink()
    (folder / "root.json").symlink_to("root_history/1.root.json")  # as the updater leaves it while it works
    async with trusting(publisher, one=Folder(publisher.repository)) as trust:
        assert trust.versions()["root"] == 2
