from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from tuf.api.metadata import DelegatedRole, Delegations, TargetFile, Targets, Timestamp

from edgeshare.errors import ManifestError
from edgeshare.manifest import LessonId
from edgeshare.signing import PublicKey
from edgeshare.targets import FIELD, ISSUED, hashed_target, issued, lesson_keys, publishers, vouching

SIGNED = datetime(2026, 11, 20, 8, 0, tzinfo=UTC)


def targets(said: Any = None, **prefixes: Any) -> Targets:
    """A targets role that says this of publishers; each delegation has a key of its own."""
    roles = {
        name: DelegatedRole(
            name=name,
            keyids=[f"key of {name}"],
            threshold=1,
            terminating=True,
            paths=[f"catalogue/{name}/*"],
            unrecognized_fields={FIELD: prefix} if prefix is not None else {},
        )
        for name, prefix in prefixes.items()
    }
    more = {} if said is None else {FIELD: said}
    return Targets(delegations=Delegations(keys={}, roles=roles), unrecognized_fields=more)


def test_a_publisher_without_a_prefix_has_every_id_that_nobody_else_was_given() -> None:
    known = publishers(targets(cned=None, lyon={"prefix": "lyon-"}, sud={"prefix": "lyon-sud-"}))
    owners = {
        lesson: [name for name in known.delegations if known.owns(name, LessonId(lesson))]
        for lesson in ("maths", "lyon", "lyon-gare", "lyon-sud-a7")
    }
    assert owners == {"maths": ["cned"], "lyon": ["cned"], "lyon-gare": ["lyon"], "lyon-sud-a7": ["sud"]}
    assert not known.owns("paris", LessonId("maths"))


def test_an_epoch_names_the_keys_and_not_their_order() -> None:
    one, other = targets(cned=None), targets(cned=None)
    assert one.delegations is not None
    assert other.delegations is not None
    assert one.delegations.roles is not None
    assert other.delegations.roles is not None
    one.delegations.roles["cned"].keyids = ["a", "b"]
    other.delegations.roles["cned"].keyids = ["b", "a"]
    assert publishers(one) == publishers(other)
    other.delegations.roles["cned"].keyids = ["b", "c"]
    assert publishers(one).delegations["cned"].epoch != publishers(other).delegations["cned"].epoch


def test_what_was_revoked_is_told_with_the_reason() -> None:
    known = publishers(
        targets({"revoked": {"lyon": "La cl\u00e9 est vol\u00e9e."}, "revoked_keys": ["ab" * 32]}, cned=None)
    )
    assert known.revoked == {"lyon": "La cl\u00e9 est vol\u00e9e."}
    assert known.revoked_keys == {bytes.fromhex("ab" * 32)}


@pytest.mark.parametrize(
    "said",
    [
        [],
        "lyon",
        {"revoked": ["lyon"]},
        {"revoked": {"lyon": ""}},
        {"revoked": {"lyon": "x" * 501}},
        {"revoked": {"lyon": "\x1b[2J"}},
        {"revoked": {"lyon": "\ud800"}},
        {"revoked": {"lyon": 7}},
        {"revoked_keys": ["zz"]},
        {"revoked_keys": [7]},
        {"revoked_keys": 7},
    ],
)
def test_what_is_not_in_its_form_is_refused(said: object) -> None:
    with pytest.raises(ManifestError, match="the targets metadata says something else than who may publish"):
        publishers(targets(said, cned=None))


@pytest.mark.parametrize("prefix", [7, {"prefix": 7}, {"prefix": None}, ["lyon-"]])
def test_a_prefix_that_is_none_is_refused(prefix: object) -> None:
    with pytest.raises(ManifestError):
        publishers(targets(lyon=prefix))


def test_a_timestamp_says_when_it_was_signed() -> None:
    fields = {ISSUED: SIGNED.isoformat()}
    assert issued(Timestamp(expires=SIGNED + timedelta(days=30), unrecognized_fields=fields)) == SIGNED


@pytest.mark.parametrize(
    "said", [None, 7, "yesterday", "2026-11-20T08:00:00", (SIGNED + timedelta(days=31)).isoformat()]
)
def test_a_moment_that_cannot_be_is_none(said: object) -> None:
    """Not a time, without a zone, or after the timestamp itself has expired."""
    timestamp = Timestamp(expires=SIGNED + timedelta(days=30), unrecognized_fields={ISSUED: said})
    assert issued(timestamp) is None


def test_a_target_without_a_sha_256_has_no_place() -> None:
    with pytest.raises(ManifestError, match="has no SHA-256"):
        hashed_target("catalogue/cned/6e.manifest", TargetFile(1, {"sha512": "ab"}, "catalogue/cned/6e.manifest"))


def test_a_target_names_at_most_sixteen_lesson_keys() -> None:
    keys = [Ed25519PrivateKey.generate().public_key().public_bytes_raw() for _ in range(17)]
    named = [PublicKey("ed25519", key) for key in keys]

    def target(*keys: PublicKey) -> TargetFile:
        return TargetFile(1, {"sha256": "ab"}, "catalogue/cned/6e.manifest", {"custom": vouching(*keys)})

    assert lesson_keys(target(*named[:16])) == {key.id: key for key in named[:16]}
    with pytest.raises(ManifestError, match="names 17 keys"):
        lesson_keys(target(*named))
