"""The vectors of manifests/vectors, made without edgeshare's code, and what edgeshare makes of them."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from datetime import datetime
from pathlib import Path
from typing import Any

import attrs
import libtorrent as lt
import pytest
from tuf.api.metadata import Metadata, Targets

from edgeshare.bundle.form import Bundle
from edgeshare.catalogue import Edition, read_edition
from edgeshare.errors import EdgeshareError, ManifestError, TrustError
from edgeshare.hashtree import FileHasher
from edgeshare.layout import Layout
from edgeshare.manifest import InfoHash, LessonId, read_catalogue, read_lesson
from edgeshare.publish.torrent import assemble, layout_of
from edgeshare.publishers import Publishers
from edgeshare.signing import PublicKey, is_usable
from edgeshare.swarm.session import info_of, read_info
from edgeshare.targets import publishers

FOLDER = Path(__file__).parents[2] / "manifests" / "vectors"
INDEX: dict[str, Any] = json.loads((FOLDER / "index.json").read_text(encoding="utf-8"))
LISTED = [PublicKey(key["scheme"], bytes.fromhex(key["public"])) for key in INDEX["keys"]]
KEYS = {key.id: key for key in LISTED}
FAMILIES: dict[str, type[EdgeshareError]] = {"manifest": ManifestError, "trust": TrustError}


def named(vector: dict[str, Any]) -> str:
    return str(vector["file"])


def vectors(kind: str, expect: str) -> list[dict[str, Any]]:
    chosen = [each for each in INDEX["vectors"] if each["file"].startswith(kind) and each["expect"] == expect]
    assert chosen
    return chosen


def raw(vector: dict[str, Any]) -> bytes:
    return (FOLDER / named(vector)).read_bytes()


def edition(vector: dict[str, Any]) -> Edition:
    name, number = vector["of"]
    return read_edition(raw(vector), name, number, KEYS)


def as_printed(value: object) -> object:
    """A field's value as the index shows it."""
    match value:
        case bytes():
            return value.hex()
        case datetime():
            return value.isoformat()
        case tuple():
            return list(value)
        case _:
            return value


def test_the_vectors_are_made_again_bit_for_bit(tmp_path: Path) -> None:
    subprocess.run([sys.executable, FOLDER / "make.py", tmp_path], check=True, timeout=60)
    made = {path.relative_to(tmp_path): path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    kept = {
        path.relative_to(FOLDER): path.read_bytes()
        for path in FOLDER.rglob("*")
        if path.is_file() and path.name != "make.py" and "__pycache__" not in path.parts
    }
    assert made == kept


@pytest.mark.parametrize("vector", vectors("lesson", "valid"), ids=named)
def test_a_valid_lesson_is_read(vector: dict[str, Any]) -> None:
    found = attrs.asdict(read_lesson(raw(vector), KEYS))
    expected = {key: value for key, value in vector["fields"].items() if key != "critical"}
    assert {key: as_printed(value) for key, value in found.items() if value is not None} == expected


@pytest.mark.parametrize("vector", vectors("catalogue", "valid"), ids=named)
def test_a_valid_catalogue_is_read(vector: dict[str, Any]) -> None:
    found = attrs.asdict(read_catalogue(raw(vector), KEYS))
    assert {key: as_printed(value) for key, value in found.items()} == vector["fields"]


@pytest.mark.parametrize("vector", vectors("lesson", "refused"), ids=named)
def test_a_lesson_that_must_be_refused_is(vector: dict[str, Any]) -> None:
    with pytest.raises(EdgeshareError) as caught:
        read_lesson(raw(vector), KEYS)
    assert type(caught.value) is FAMILIES[vector["because"]]


@pytest.mark.parametrize("vector", vectors("catalogue", "refused"), ids=named)
def test_a_catalogue_that_must_be_refused_is(vector: dict[str, Any]) -> None:
    with pytest.raises(EdgeshareError) as caught:
        read_catalogue(raw(vector), KEYS)
    assert type(caught.value) is FAMILIES[vector["because"]]


@pytest.mark.parametrize("vector", vectors("edition", "valid"), ids=named)
def test_a_valid_edition_is_read_but_for_what_is_left_out(vector: dict[str, Any]) -> None:
    found = edition(vector)
    assert [lesson.manifest.id for lesson in found.lessons] == vector["lessons"]
    assert [gone.id for gone in found.withdrawn] == vector["withdrawn"]
    assert [back.id for back in found.reinstated] == vector["reinstated"]
    assert len(found.refused) == vector["left_out"]


@pytest.mark.parametrize("vector", vectors("edition", "refused"), ids=named)
def test_an_edition_that_must_be_refused_is(vector: dict[str, Any]) -> None:
    with pytest.raises(ManifestError):
        edition(vector)


def layout(vector: dict[str, Any]) -> Layout:
    info = info_of(raw(vector))
    return read_info(info, InfoHash(hashlib.sha256(info).digest()))


@pytest.mark.parametrize("vector", vectors("torrent", "valid"), ids=named)
def test_a_valid_torrent_is_read(vector: dict[str, Any]) -> None:
    assert [file.path for file in layout(vector).files] == vector["files"]


@pytest.mark.parametrize("vector", vectors("torrent", "refused"), ids=named)
def test_a_torrent_that_must_be_refused_is(vector: dict[str, Any]) -> None:
    with pytest.raises(ManifestError, match="torrent"):
        layout(vector)


def said(vector: dict[str, Any]) -> Publishers:
    signed: object = Metadata.from_bytes(raw(vector)).signed
    assert isinstance(signed, Targets)
    return publishers(signed)


@pytest.mark.parametrize("vector", vectors("publishers", "valid"), ids=named)
def test_whose_ids_are_whose_is_read(vector: dict[str, Any]) -> None:
    found = said(vector)
    for lesson, owner in vector["owner"].items():
        assert [name for name in found.delegations if found.owns(name, LessonId(lesson))] == [owner]
    assert found.revoked == vector["revoked"]
    assert sorted(key.hex() for key in found.revoked_keys) == vector["revoked_keys"]


@pytest.mark.parametrize("vector", vectors("publishers", "refused"), ids=named)
def test_what_says_otherwise_who_may_publish_is_refused(vector: dict[str, Any]) -> None:
    with pytest.raises(ManifestError, match="who may publish"):
        said(vector)


@pytest.mark.parametrize("vector", vectors("bundle", "valid"), ids=named)
def test_a_valid_table_of_contents_is_read(vector: dict[str, Any]) -> None:
    found = Bundle.parse(raw(vector))
    assert list(found.catalogues) == vector["catalogues"]
    assert {lesson: content.hex() for lesson, content in found.lessons.items()} == vector["lessons"]
    assert found.encode() == raw(vector)


@pytest.mark.parametrize("vector", vectors("bundle", "refused"), ids=named)
def test_a_table_of_contents_that_must_be_refused_is(vector: dict[str, Any]) -> None:
    with pytest.raises(ManifestError):
        Bundle.parse(raw(vector))


def test_there_are_sixty_vectors_and_more_of_every_kind_valid_and_refused() -> None:
    assert len(INDEX["vectors"]) >= 60
    kinds = {(vector["file"].partition("-")[0], vector["expect"]) for vector in INDEX["vectors"]}
    names = ("lesson", "catalogue", "edition", "torrent", "publishers", "bundle")
    assert kinds == {(name, expect) for name in names for expect in ("valid", "refused")}


def test_a_keys_id_is_the_hash_of_its_public_half() -> None:
    for key in INDEX["keys"] + INDEX["strangers"]:
        assert PublicKey(key["scheme"], bytes.fromhex(key["public"])).id.hex() == key["id"]
        assert key["warning"].startswith("TEST KEY")


def test_of_the_listed_keys_the_one_of_small_order_is_not_usable() -> None:
    assert [is_usable(key) for key in LISTED] == [True, True, False]


def test_the_torrent_is_the_one_that_publishing_makes() -> None:
    place = FOLDER / "maths-6e-fractions"
    hashed = []
    for path in place.rglob("*"):
        if path.is_file():
            hasher = FileHasher(16384)
            hasher.update(path.read_bytes())
            hashed.append(hasher.finish(str(path.relative_to(place))))
    kept = (FOLDER / "maths-6e-fractions.torrent").read_bytes()
    made = assemble("maths-6e-fractions", 16384, hashed)
    assert made.encoded == kept
    whole: Any = lt.bdecode(kept)
    assert made.info_hash == hashlib.sha256(lt.bencode(whole[b"info"])).digest()
    assert made.info_hash.hex() == INDEX["vectors"][0]["fields"]["info_hash"]
    assert [file.path for file in layout_of(kept).files] == ["img/grand.bin", "img/vide.svg", "index.html"]
