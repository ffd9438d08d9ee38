"""The publisher's private keys: one PEM file each in a folder that only its owner reads, outside the repository."""

from __future__ import annotations

import os
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from securesystemslib.signer import CryptoSigner

from edgeshare import host
from edgeshare.errors import TrustError
from edgeshare.manifest import CatalogueManifest, LessonManifest, SignedFile, encode, format_of
from edgeshare.signing import PublicKey, Signature, payload

TOP_ROLES = ("root", "targets", "snapshot", "timestamp")


class Keys:
    """The keys in one folder, by name: TUF's top roles, a publisher, and `<publisher>-lessons` for its manifests."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def is_inside(self, folder: Path) -> bool:
        """Whether the keys lie somewhere in `folder`, where a web server would hand them out."""
        return Path(os.path.realpath(self._folder)).is_relative_to(os.path.realpath(folder))

    def make(self, *names: str) -> None:
        """Make those keys that are not there yet, Ed25519, readable by their owner alone.

        Raises:
            TrustError: the folder cannot be written.
        """
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            for name in names:
                path = self._path(name)
                if path.exists():
                    continue
                draft = path.with_suffix(".part")
                draft.unlink(missing_ok=True)
                descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
                with open(descriptor, "wb") as file:
                    file.write(CryptoSigner.generate_ed25519().private_bytes)
                    file.flush()
                    os.fsync(file.fileno())
                draft.rename(path)
            host.sync_folder(self._folder)
        except OSError as error:
            hint = "give --keys a folder that you can write"
            raise TrustError(f"cannot make keys in {self._folder} ({error.strerror})", hint=hint) from error

    def has(self, name: str) -> bool:
        """Whether the key `name` is in the folder."""
        return self._path(name).exists()

    def signer(self, name: str) -> CryptoSigner:
        """What signs with the key `name`.

        Raises:
            TrustError: the key is not there, cannot be read, or others can read it.
        """
        path = self._path(name)
        try:
            if not host.is_private(path):
                raise TrustError(f"the key {path} can be read by others", hint=f"chmod 600 {path}")
            private = load_pem_private_key(path.read_bytes(), password=None)
            return CryptoSigner(private)
        except OSError as error:
            hint = "give --keys the folder that `publish init` made"
            raise TrustError(f"cannot read the key {path} ({error.strerror})", hint=hint) from error
        except (ValueError, TypeError, UnsupportedAlgorithm) as error:
            hint = "it must be an Ed25519 key in PEM, without a password; restore it from a backup"
            raise TrustError(f"{path} is not a private key that can be used", hint=hint) from error

    def lesson_key(self, publisher: str) -> PublicKey:
        """The public half of the key that signs a publisher's manifests."""
        return _public(self.signer(_lessons(publisher)))

    def sign_manifest(self, publisher: str, manifest: LessonManifest | CatalogueManifest) -> bytes:
        """The manifest file of `manifest`, signed with its publisher's key for manifests."""
        signer = self.signer(_lessons(publisher))
        key = _public(signer)
        raw = encode(manifest)
        value = bytes.fromhex(signer.sign(payload(format_of(manifest), raw)).signature)
        return SignedFile(format_of(manifest), raw, (Signature(key.id, key.scheme, value),)).encode()

    def _path(self, name: str) -> Path:
        return self._folder / f"{name}.pem"


def _lessons(publisher: str) -> str:
    return f"{publisher}-lessons"


def _public(signer: CryptoSigner) -> PublicKey:
    key = signer.public_key
    if key.scheme == "ed25519":
        return PublicKey(key.scheme, bytes.fromhex(key.keyval["public"]))
    raise TrustError(f"a {key.scheme} key cannot sign manifests yet", hint="use an Ed25519 key")
