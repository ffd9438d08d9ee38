"""The publisher's private keys, by name, in a folder that only its owner reads, outside the repository.

A key is a file `NAME.pem`, encrypted or not, or a file `NAME.uri` that says in which device it is (`devices`). A role
may have several: `root.pem`, `root.2.pem` and so on. What systemd hands to a service (LoadCredential=) counts as if it
lay in the folder, and comes first. No key is ever in a message.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
    load_pem_public_key,
)
from securesystemslib.signer import CryptoSigner, Key, Signer

from edgeshare.errors import TrustError
from edgeshare.manifest import CatalogueManifest, LessonManifest, SignedFile, encode, format_of, shown
from edgeshare.publish import devices, private
from edgeshare.publish.unlocking import Ask, Kind, Secrets, credentials
from edgeshare.signing import SCHEMES, PublicKey, Signature, payload

TOP_ROLES = ("root", "targets", "snapshot", "timestamp")

_NAME = re.compile(r"(?P<role>[a-z0-9]+(-[a-z0-9]+)*)(\.(?P<number>[0-9]+))?")


class Keys:
    """The keys in one folder, by name: TUF's top roles, a publisher, and `<publisher>-lessons` for its manifests."""

    def __init__(self, folder: Path, ask: Ask = lambda _: None) -> None:
        self._folder = folder
        self._secrets = Secrets(ask)
        self._made: dict[str, Key] = {}

    @property
    def made(self) -> Mapping[str, Key]:
        """The keys that are new in this run, by name: their public halves, in the order in which they were made."""
        return dict(self._made)

    def is_inside(self, folder: Path) -> bool:
        """Whether the keys lie somewhere in `folder`, where a web server would hand them out."""
        return Path(os.path.realpath(self._folder)).is_relative_to(os.path.realpath(folder))

    def make(self, *names: str, passphrase: str | None = None) -> tuple[str, ...]:
        """Make those keys that are not there yet, Ed25519, readable by their owner alone; with a passphrase, encrypted.

        Returns:
            The names of those that were there already.

        Raises:
            TrustError: the folder cannot be written, or others can write into it, or the passphrase is not possible.
        """
        try:
            lock = NoEncryption() if passphrase is None else BestAvailableEncryption(passphrase.encode())
            present = tuple(name for name in names if self.has(name))
            for name in names:
                if name not in present:
                    private_key = Ed25519PrivateKey.generate()
                    self._write(name, ".pem", private_key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, lock))
                    self._made[name] = CryptoSigner(private_key).public_key
                    if passphrase is not None:
                        self._secrets.remember(name, Kind.PASSPHRASE, passphrase)
            return present
        except ValueError:  # not chained: it may quote the passphrase
            raise TrustError("the passphrase cannot be used", hint="it has 1 to 1023 bytes of UTF-8") from None

    def unmake(self, name: str) -> None:
        """Remove the file of a key that was made in this run.

        Raises:
            OSError: it cannot be removed.
        """
        del self._made[name]
        self._paths()[name].unlink()

    def keep_uri(self, name: str, uri: str) -> tuple[str, Key]:
        """Let `name` be the key in the device at `uri`, from now on.

        Returns:
            Its name, an earlier one where the role has this key under that already; its public half, from the device.

        Raises:
            TrustError: `name` is another key, the device does not have it, or the folder cannot be written.
        """
        if self.has(name):
            raise TrustError(f"there is a key {name} already", hint="give another name, or move its file away")
        whole, key = devices.import_key(name, uri, self._secrets)
        role = name.partition(".")[0]
        for known, path in sorted(self._paths().items()):
            if path.suffix == ".uri" and known.partition(".")[0] == role and _in_uri_file(path) == (whole, key):
                return known, key
        said = {"uri": whole, "keyid": key.keyid, "public": key.to_dict()}
        self._write(name, ".uri", json.dumps(said, indent=1).encode() + b"\n")
        self._made[name] = key
        return name, key

    def names(self) -> tuple[str, ...]:
        """The names of all keys that are there, sorted.

        Raises:
            TrustError: the folder cannot be read.
        """
        return tuple(sorted(self._paths()))

    def has(self, name: str) -> bool:
        """Whether there is a key `name`.

        Raises:
            TrustError: the folder cannot be read.
        """
        return name in self._paths()

    def signer(self, name: str) -> Signer:
        """What signs with the key `name`.

        Raises:
            TrustError: the key is not there, cannot be read or unlocked, or others can read or exchange it. What signs
                in a device raises it too when the device does not sign.
        """
        path = self._paths().get(name, self._folder / f"{name}.pem")
        try:
            return self._in_device(name, path) if path.suffix == ".uri" else self._in_file(name, path)
        except OSError as error:
            hint = "give --keys the folder that `publish init` made"
            raise TrustError(f"cannot read the key {path} ({error.strerror})", hint=hint) from error

    def signers_of(self, role: str) -> tuple[Signer, ...]:
        """What signs for a role: each of its keys that are here, in the order of their numbers; maybe none.

        Raises:
            TrustError: as `signer`.
        """
        named = [match for name in self._paths() if (match := _NAME.fullmatch(name)) and match["role"] == role]
        return tuple(self.signer(match[0]) for match in sorted(named, key=lambda match: int(match["number"] or 1)))

    def _in_file(self, name: str, path: Path) -> CryptoSigner:
        raw = private.read_secret(path, "the key")

        def opens(passphrase: str) -> bool:
            try:
                load_pem_private_key(raw, password=passphrase.encode())
            except (ValueError, TypeError, UnsupportedAlgorithm):
                return False
            return True

        try:
            return CryptoSigner(load_pem_private_key(raw, password=None))
        except TypeError:
            secret = self._secrets.of(name, Kind.PASSPHRASE, opens)  # it is encrypted
        except (ValueError, UnsupportedAlgorithm):
            # Not chained, here and below: what a parser says may quote the key.
            hint = "it must be an Ed25519 or ECDSA key in PEM; restore it from a backup"
            raise TrustError(f"{path} is not a private key that can be used", hint=hint) from None
        try:
            return CryptoSigner(load_pem_private_key(raw, password=secret.text.encode()))
        except (ValueError, TypeError, UnsupportedAlgorithm):
            self._secrets.forget(name, Kind.PASSPHRASE)
            hint = f"check the one from {secret.source}"
            raise TrustError(f"the passphrase does not open the key {path}", hint=hint) from None

    def _in_device(self, name: str, path: Path) -> Signer:
        uri, key = _in_uri_file(path)
        return devices.signer(name, uri, key, self._secrets)

    def _write(self, name: str, suffix: str, data: bytes) -> None:
        if not _NAME.fullmatch(name):
            hint = "give a role, or a role and a number, such as root.2"
            raise TrustError(f"{shown(name)} cannot be the name of a key", hint=hint)
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            private.require_guarded(self._folder)
            private.write_secret(self._folder / f"{name}{suffix}", data)
        except OSError as error:
            hint = "give --keys a folder that you can write"
            raise TrustError(f"cannot make keys in {self._folder} ({error.strerror})", hint=hint) from error

    def _paths(self) -> dict[str, Path]:
        """The file of every key that is there, by its name."""
        found: dict[str, Path] = {}
        for folder in filter(None, (credentials(), self._folder)):
            try:
                paths = sorted(folder.iterdir())
            except FileNotFoundError:
                continue
            except OSError as error:
                hint = "give --keys a folder that you can read"
                raise TrustError(f"cannot read the keys in {folder} ({error.strerror})", hint=hint) from error
            for path in paths:
                if path.suffix in (".pem", ".uri") and _NAME.fullmatch(path.stem):
                    found.setdefault(path.stem, path)
        return found


def _in_uri_file(path: Path) -> tuple[str, Key]:
    """The URI and the public half in the file of a key in a device."""
    raw = private.read_guarded(path, "the key")
    try:
        said = json.loads(raw)
        return str(said["uri"]), Key.from_dict(said["keyid"], said["public"])
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise TrustError(f"{path} does not name a key in a device", hint="make it anew with --key-uri") from error


def signed_file(manifest: LessonManifest | CatalogueManifest, signer: Signer) -> bytes:
    """The manifest file of `manifest`, signed by `signer`."""
    key = public_half(signer.public_key)
    raw = encode(manifest)
    value = bytes.fromhex(signer.sign(payload(format_of(manifest), raw)).signature)
    return SignedFile(format_of(manifest), raw, (Signature(key.id, key.scheme, value),)).encode()


def public_half(key: Key) -> PublicKey:
    """A key as manifests name it.

    Raises:
        TrustError: manifests know no such scheme.
    """
    if key.scheme == "ed25519":
        return PublicKey(key.scheme, bytes.fromhex(key.keyval["public"]))
    if key.scheme in SCHEMES:
        loaded = load_pem_public_key(key.keyval["public"].encode())
        return PublicKey(key.scheme, loaded.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo))
    raise TrustError(f"a {key.scheme} key cannot sign manifests", hint=f"use one of {', '.join(SCHEMES)}")
