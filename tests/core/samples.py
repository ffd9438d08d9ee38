"""Manifests and keys that tests share."""

from __future__ import annotations

from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import strategies as st

from edgeshare.canonical import pack
from edgeshare.manifest import (
    CatalogueManifest,
    LessonManifest,
    SignedFile,
    encode,
    format_of,
    structure,
)
from edgeshare.signing import PublicKey, Signature, payload

PRIVATE = Ed25519PrivateKey.from_private_bytes(b"edgeshare tests: a lesson key...")
KEY = PublicKey("ed25519", PRIVATE.public_key().public_bytes_raw())
KEYS = {KEY.id: KEY}

LESSON_FORMAT = "edgeshare-lesson/1"
CATALOGUE_FORMAT = "edgeshare-catalogue/1"
LESSON: dict[str, Any] = {
    "id": "maths-6e-fractions",
    "version": 1,
    "title": "Les fractions",
    "language": "fr",
    "levels": ["6e"],
    "subjects": ["mathematiques"],
    "description": "",
    "licence": "CC-BY-SA-4.0",
    "start": "index.html",
    "role": "learner",
    "publisher": "cned",
    "info_hash": bytes(range(32)),
    "size": 1000,
    "files": 3,
}
CATALOGUE: dict[str, Any] = {
    "name": "cned/6e",
    "edition": 1,
    "info_hash": bytes(range(32)),
    "size": 1000,
    "issued": "2026-09-01T08:00:00+00:00",
    "trackers": [],
    "origins": [],
}

values = st.recursive(
    st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.text(max_size=40) | st.binary(max_size=40),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)


def sign(form: str, signed: bytes, private: Ed25519PrivateKey = PRIVATE) -> bytes:
    """The manifest file over the bytes `signed`, whatever they are."""
    key = PublicKey("ed25519", private.public_key().public_bytes_raw())
    value = private.sign(payload(form, signed))
    return SignedFile(form, signed, (Signature(key.id, "ed25519", value),)).encode()


def sign_fields(form: str, fields: object) -> bytes:
    """The manifest file over `fields`, whatever they are."""
    return sign(form, pack(fields))


def lesson(**changes: Any) -> LessonManifest:
    """A lesson manifest, `changes` as they stand in the file."""
    return structure({key: value for key, value in (LESSON | changes).items() if value is not None}, LessonManifest)


def catalogue(**changes: Any) -> CatalogueManifest:
    """A catalogue manifest, `changes` as they stand in the file."""
    return structure(CATALOGUE | changes, CatalogueManifest)


def signed_file(manifest: LessonManifest | CatalogueManifest) -> bytes:
    """The manifest file of `manifest`."""
    return sign(format_of(manifest), encode(manifest))
