from __future__ import annotations

import attrs
import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given
from hypothesis import strategies as st

from edgeshare.signing import PublicKey, Signature, is_usable, payload, signers

DOMAIN = "edgeshare-lesson/1"
RAW = b"what is signed"
PRIVATE = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
KEY = PublicKey("ed25519", PRIVATE.public_key().public_bytes_raw())
SIGNATURE = Signature(KEY.id, KEY.scheme, PRIVATE.sign(payload(DOMAIN, RAW)))
KEYS = {KEY.id: KEY}


def der(public: ec.EllipticCurvePublicKey | rsa.RSAPublicKey) -> bytes:
    return public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def test_a_signature_by_a_known_key_counts() -> None:
    assert signers(DOMAIN, RAW, [SIGNATURE], KEYS) == {KEY.id}


def test_what_is_signed_is_the_domain_a_nul_the_length_and_the_bytes() -> None:
    assert payload("edgeshare-lesson/1", b"ab") == b"edgeshare-lesson/1\0\0\0\0\0\0\0\0\2ab"


@given(st.text("ab\0", max_size=4), st.binary(max_size=12), st.text("ab\0", max_size=4), st.binary(max_size=12))
def test_no_two_things_have_one_payload(domain: str, raw: bytes, other: str, other_raw: bytes) -> None:
    if "\0" not in domain + other and (domain, raw) != (other, other_raw):
        assert payload(domain, raw) != payload(other, other_raw)


def test_what_was_signed_for_another_purpose_does_not_count() -> None:
    assert not signers("edgeshare-catalogue/1", RAW, [SIGNATURE], KEYS)


@given(st.integers(0, len(RAW) * 8 - 1))
def test_one_altered_bit_is_enough(bit: int) -> None:
    altered = (int.from_bytes(RAW, "big") ^ 1 << bit).to_bytes(len(RAW), "big")
    assert not signers(DOMAIN, altered, [SIGNATURE], KEYS)


@given(st.integers(0, 64 * 8 - 1))
def test_an_altered_signature_does_not_count(bit: int) -> None:
    value = (int.from_bytes(SIGNATURE.value, "big") ^ 1 << bit).to_bytes(64, "big")
    assert not signers(DOMAIN, RAW, [attrs.evolve(SIGNATURE, value=value)], KEYS)


@pytest.mark.parametrize("value", [b"", SIGNATURE.value[:63], SIGNATURE.value + b"\0", bytes(64)])
def test_a_signature_of_another_length_does_not_count(value: bytes) -> None:
    assert not signers(DOMAIN, RAW, [attrs.evolve(SIGNATURE, value=value)], KEYS)


def test_a_signature_with_a_larger_twin_of_its_scalar_does_not_count() -> None:
    order = 2**252 + 27742317777372353535851937790883648493
    scalar = int.from_bytes(SIGNATURE.value[32:], "little") + order
    twin = SIGNATURE.value[:32] + scalar.to_bytes(32, "little")
    assert not signers(DOMAIN, RAW, [attrs.evolve(SIGNATURE, value=twin)], KEYS)


def test_an_unknown_key_does_not_count() -> None:
    assert not signers(DOMAIN, RAW, [SIGNATURE], {})


def test_a_key_that_is_listed_under_anothers_id_does_not_count() -> None:
    other = Ed25519PrivateKey.from_private_bytes(bytes(32))
    signature = Signature(KEY.id, "ed25519", other.sign(payload(DOMAIN, RAW)))
    listed = {KEY.id: PublicKey("ed25519", other.public_key().public_bytes_raw())}
    assert not signers(DOMAIN, RAW, [signature], listed)


def test_a_signature_that_names_another_scheme_does_not_count() -> None:
    assert not signers(DOMAIN, RAW, [attrs.evolve(SIGNATURE, scheme="ecdsa-sha2-nistp256")], KEYS)


def test_a_bad_signature_beside_a_good_one_takes_nothing_away() -> None:
    bad = attrs.evolve(SIGNATURE, value=bytes(64))
    assert signers(DOMAIN, RAW, [bad, SIGNATURE, bad], KEYS) == {KEY.id}


_P = 2**255 - 19
_OF_ORDER_8 = [
    int.from_bytes(bytes.fromhex(y), "little")
    for y in (
        "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a",
        "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",
    )
]


@pytest.mark.parametrize("sign", [0, 1])
@pytest.mark.parametrize("y", [0, 1, _P - 1, _P, _P + 1, *_OF_ORDER_8])
def test_a_key_of_small_order_is_never_usable(y: int, sign: int) -> None:
    # for some of these points this one signature is right for any message
    key = PublicKey("ed25519", (y | sign << 255).to_bytes(32, "little"))
    forged = Signature(key.id, "ed25519", (1).to_bytes(32, "little") + bytes(32))
    assert not is_usable(key)
    assert not any(signers(DOMAIN, bytes([n]), [forged], {key.id: key}) for n in range(32))


@pytest.mark.parametrize(
    ("scheme", "curve", "digest"),
    [
        ("ecdsa-sha2-nistp256", ec.SECP256R1(), hashes.SHA256()),
        ("ecdsa-sha2-nistp384", ec.SECP384R1(), hashes.SHA384()),
    ],
)
def test_an_ecdsa_key_of_the_state_counts(scheme: str, curve: ec.EllipticCurve, digest: hashes.HashAlgorithm) -> None:
    private = ec.derive_private_key(7, curve)
    key = PublicKey(scheme, der(private.public_key()))
    signature = Signature(key.id, scheme, private.sign(payload(DOMAIN, RAW), ec.ECDSA(digest)))
    assert is_usable(key)
    assert signers(DOMAIN, RAW, [signature], {key.id: key}) == {key.id}
    assert not signers(DOMAIN, RAW + b"\0", [signature], {key.id: key})


@pytest.mark.parametrize(
    "key",
    [
        PublicKey("ed25519", b""),
        PublicKey("ed25519", bytes(33)),
        PublicKey("ecdsa-sha2-nistp256", b"no DER"),
        PublicKey("ecdsa-sha2-nistp256", der(ec.derive_private_key(7, ec.SECP384R1()).public_key())),
        PublicKey("ecdsa-sha2-nistp256", der(rsa.generate_private_key(65537, 1024).public_key())),
        PublicKey("rsa", der(rsa.generate_private_key(65537, 1024).public_key())),
        PublicKey("", KEY.public),
    ],
    ids=["empty", "long", "no-der", "other-curve", "rsa-as-ecdsa", "rsa", "no-scheme"],
)
def test_a_key_of_another_kind_is_not_usable(key: PublicKey) -> None:
    assert not is_usable(key)


@given(st.sampled_from(["ed25519", "ecdsa-sha2-nistp256", "x"]), st.binary(max_size=100))
def test_any_bytes_are_a_key_or_not(scheme: str, public: bytes) -> None:
    is_usable(PublicKey(scheme, public))


def test_a_keys_id_is_the_sha256_of_its_public_half() -> None:
    assert KEY.id.hex() == "56475aa75463474c0285df5dbf2bcab73da651358839e9b77481b2eab107708c"
