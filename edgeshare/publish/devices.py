"""Keys that never leave a device or a service: an HSM by PKCS#11, a cloud's KMS, a vault (securesystemslib's signers).

What is kept of such a key is its URI, which says where it is, and its public half. Each kind needs a library of its
own, which one of edgeshare's extras brings. A PEM file is no device: it belongs into the folder of keys.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from urllib.parse import SplitResult, parse_qsl, urlsplit

import attrs
from securesystemslib.exceptions import UnsupportedLibraryError, UnverifiedSignatureError
from securesystemslib.signer import (
    AWSSigner,
    AzureSigner,
    GCPSigner,
    HSMSigner,
    Key,
    SecretsHandler,
    Signature,
    Signer,
    TKeySigner,
    VaultSigner,
)

from edgeshare.errors import TrustError
from edgeshare.publish.unlocking import Kind, Secrets


def import_key(name: str, uri: str, secrets: Secrets) -> tuple[str, Key]:
    """Ask the device for the key at `uri`: its URI with all that a later signature needs, and its public half.

    Raises:
        TrustError: the URI, a library or the device is not right; says which.
    """
    device = _device(uri)
    if not device.form.fullmatch(uri):
        raise TrustError(f"{uri} is not the URI of a key in such a device", hint=f"give {device.example}")
    with _explained(name, uri, device, secrets):
        return device.find(urlsplit(uri), _handler(name, secrets))


def signer(name: str, uri: str, public_key: Key, secrets: Secrets) -> Signer:
    """What signs with the key at `uri`, as `import_key` gave it.

    Raises:
        TrustError: the URI, a library or the device is not right; says which. The signer's `sign` raises it too.
    """
    device = _device(uri)
    with _explained(name, uri, device, secrets):
        return _DeviceSigner(name, uri, Signer.from_priv_key_uri(uri, public_key, _handler(name, secrets)), secrets)


class _DeviceSigner(Signer):
    """A device's signer whose errors say what to do, and whose signatures were checked."""

    def __init__(self, name: str, uri: str, inner: Signer, secrets: Secrets) -> None:
        self._name = name
        self._uri = uri
        self._inner = inner
        self._secrets = secrets

    @property
    def public_key(self) -> Key:
        return self._inner.public_key

    @classmethod
    def from_priv_key_uri(
        cls, priv_key_uri: str, public_key: Key, secrets_handler: SecretsHandler | None = None
    ) -> Signer:
        return Signer.from_priv_key_uri(priv_key_uri, public_key, secrets_handler)

    def sign(self, payload: bytes) -> Signature:
        with _explained(self._name, self._uri, _device(self._uri), self._secrets):
            signature = self._inner.sign(payload)
        try:
            self.public_key.verify_signature(signature, payload)
        except UnverifiedSignatureError as error:
            hint = "put the old key back, or make a new name for the new one"
            raise TrustError(f"the key {self._uri} is not the one that was kept as {self._name}", hint=hint) from error
        return signature


@attrs.frozen
class _Device:
    """One kind of device."""

    extra: str  # of edgeshare's distribution: brings the library that it needs
    form: re.Pattern[str]  # of the URIs that are asked for; the device's answer may add to them
    example: str
    find: Callable[[SplitResult, SecretsHandler], tuple[str, Key]]


def _device(uri: str) -> _Device:
    device = _DEVICES.get(uri.partition(":")[0])
    if device is None:
        hint = f"give one of {', '.join(known.example for known in _DEVICES.values())}"
        raise TrustError(f"{uri} is not the URI of a key in a device", hint=hint)
    if device is _DEVICES["hsm"] and not os.environ.get("PYKCS11LIB"):
        hint = "set the variable PYKCS11LIB to its maker's PKCS#11 library, such as /usr/lib/softhsm/libsofthsm2.so"
        raise TrustError(f"nothing says how to reach the device of the key {uri}", hint=hint)
    return device


@contextmanager
def _explained(name: str, uri: str, device: _Device, secrets: Secrets) -> Iterator[None]:
    """Errors of the many libraries as one line each."""
    try:
        yield
    except TrustError:
        raise
    except UnsupportedLibraryError as error:
        hint = f"install edgeshare with its extra {device.extra}"
        raise TrustError(f"the key {uri} needs a library that is not installed", hint=hint) from error
    except Exception as error:  # each of the libraries has its own
        secrets.forget(name, Kind.PIN)
        why = " ".join([type(error).__name__, *str(error).split()])[:200]
        library = "PYKCS11LIB, " if device is _DEVICES["hsm"] else ""
        hint = f"check {library}the URI, the device and the PIN"
        raise TrustError(f"the device of the key {uri} refused ({why})", hint=hint) from error


def _handler(name: str, secrets: Secrets) -> SecretsHandler:
    def ask(secret: str) -> str:
        return secrets.of(name, Kind.PIN if secret.lower() == "pin" else Kind.PASSPHRASE).text

    return ask


def _in_hsm(uri: SplitResult, handler: SecretsHandler) -> tuple[str, Key]:
    return HSMSigner.import_(int(uri.path) if uri.path else None, dict(parse_qsl(uri.query)).get("label"), handler)


def _in_azure(uri: SplitResult, _: SecretsHandler) -> tuple[str, Key]:
    return AzureSigner.import_(uri.netloc.partition(".")[0], uri.path.split("/")[2])


def _in_tkey(uri: SplitResult, handler: SecretsHandler) -> tuple[str, Key]:
    options = dict(parse_qsl(uri.query))
    passphrase = handler("passphrase") if options.get("passphrase") == "true" else None
    return TKeySigner.import_(options.get("digest"), uri.path or None, passphrase)


_DEVICES: Mapping[str, _Device] = {
    HSMSigner.SCHEME: _Device("hsm", re.compile(r"hsm:[0-9]*(\?label=.+)?"), "hsm:KEYID?label=TOKEN", _in_hsm),
    AWSSigner.SCHEME: _Device(
        "awskms", re.compile(r"awskms:.+"), "awskms:KEYID", lambda uri, _: AWSSigner.import_(uri.path)
    ),
    AzureSigner.SCHEME: _Device(
        "azurekms",
        re.compile(r"azurekms://[^/.]+\.vault\.azure\.net/keys/[^/]+"),
        "azurekms://VAULT.vault.azure.net/keys/NAME",
        _in_azure,
    ),
    GCPSigner.SCHEME: _Device(
        "gcpkms",
        re.compile(r"gcpkms:projects/.+/cryptoKeyVersions/[0-9]+"),
        "gcpkms:projects/P/locations/L/keyRings/R/cryptoKeys/K/cryptoKeyVersions/N",
        lambda uri, _: GCPSigner.import_(uri.path),
    ),
    VaultSigner.SCHEME: _Device(
        "vault", re.compile(r"hv:[^/]+"), "hv:NAME", lambda uri, _: VaultSigner.import_(uri.path)
    ),
    TKeySigner.SCHEME: _Device("tkey", re.compile(r"tkey:[^?]*(\?.+)?"), "tkey:?digest=HEX", _in_tkey),
}
