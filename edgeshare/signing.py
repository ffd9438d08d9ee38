"""Signatures over manifests: who said these bytes, and for what purpose.

A signature covers a domain, the length and the raw bytes, so that what was signed as one kind of thing can never be
read as another. Bytes are checked before they are decoded, and never encoded again to be checked.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache

import attrs
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import load_der_public_key

_SIGN_BIT = 1 << 255  # of x, in a point's encoding (RFC 8032 §5.1.2)
# The y of the points of small order: such a "key" accepts signatures that nobody made. The last two are 0 and 1,
# written as p and p + 1, which RFC 8032 forbids and OpenSSL reads; libsodium refuses the same seven.
_SMALL_ORDER = frozenset(
    int.from_bytes(bytes.fromhex(y), "little")
    for y in (
        "0000000000000000000000000000000000000000000000000000000000000000",
        "0100000000000000000000000000000000000000000000000000000000000000",
        "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a",
        "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",
        "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
        "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
        "eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    )
)
_CURVES: Mapping[str, tuple[type[ec.EllipticCurve], hashes.HashAlgorithm]] = {
    "ecdsa-sha2-nistp256": (ec.SECP256R1, hashes.SHA256()),
    "ecdsa-sha2-nistp384": (ec.SECP384R1, hashes.SHA384()),
}
SCHEMES = ("ed25519", *_CURVES)


@attrs.frozen
class PublicKey:
    """A key that may vouch for manifests."""

    scheme: str  # one of SCHEMES
    public: bytes  # Ed25519: the 32 bytes of RFC 8032; ECDSA: DER SubjectPublicKeyInfo (RFC 5480)

    @property
    def id(self) -> bytes:
        """Its name in a signature: the SHA-256 of `public`, 32 bytes."""
        return hashlib.sha256(self.public).digest()


@attrs.frozen
class Signature:
    """One signature as it stands in a manifest file."""

    key: bytes  # the key's id
    scheme: str
    value: bytes  # Ed25519: 64 bytes; ECDSA: DER


def payload(domain: str, raw: bytes) -> bytes:
    """What is really signed for `raw`: the domain, a NUL, the length (8 bytes, big-endian), the bytes."""
    return domain.encode() + b"\0" + len(raw).to_bytes(8, "big") + raw


def is_usable(key: PublicKey) -> bool:
    """Whether the key is of a known scheme, well-formed, and not one of the points of small order."""
    return _verifier(key) is not None


def signers(
    domain: str, raw: bytes, signatures: Iterable[Signature], keys: Mapping[bytes, PublicKey]
) -> frozenset[bytes]:
    """The ids of those `keys` (by id) that validly signed `raw` for `domain`."""
    message = payload(domain, raw)
    valid: set[bytes] = set()
    for signature in signatures:
        key = keys.get(signature.key)
        if key is None or key.scheme != signature.scheme or key.id != signature.key or signature.key in valid:
            continue
        verify = _verifier(key)
        if verify is not None and verify(signature.value, message):
            valid.add(signature.key)
    return frozenset(valid)


@lru_cache(1024)  # loading one costs as much as a tenth of a verification
def _verifier(key: PublicKey) -> Callable[[bytes, bytes], bool] | None:
    try:
        if key.scheme == "ed25519":
            is_small = int.from_bytes(key.public, "little") & ~_SIGN_BIT in _SMALL_ORDER
            return None if is_small else _ed25519(Ed25519PublicKey.from_public_bytes(key.public))
        if key.scheme in _CURVES:
            curve, digest = _CURVES[key.scheme]
            loaded = load_der_public_key(key.public)
            if isinstance(loaded, ec.EllipticCurvePublicKey) and isinstance(loaded.curve, curve):
                return _ecdsa(loaded, ec.ECDSA(digest))
    except (ValueError, UnsupportedAlgorithm):
        pass
    return None


def _ed25519(key: Ed25519PublicKey) -> Callable[[bytes, bytes], bool]:
    def verify(signature: bytes, message: bytes) -> bool:
        try:
            key.verify(signature, message)
        except InvalidSignature:
            return False
        return True

    return verify


def _ecdsa(key: ec.EllipticCurvePublicKey, algorithm: ec.ECDSA) -> Callable[[bytes, bytes], bool]:
    def verify(signature: bytes, message: bytes) -> bool:
        try:
            key.verify(signature, message, algorithm)
        except InvalidSignature:
            return False
        return True

    return verify
