"""What the repository's TUF targets are called, and what they say beside their hash: which keys sign manifests."""

from __future__ import annotations

from typing import Any

from tuf.api.metadata import TargetFile

from edgeshare.errors import ManifestError
from edgeshare.signing import PublicKey, is_usable


def target_path(catalogue: str) -> str:
    """The TUF target that names a catalogue's edition."""
    return f"catalogue/{catalogue}.manifest"


def hashed_target(path: str, target: TargetFile) -> str:
    """Where a target's bytes are below `targets/` (consistent snapshots, TUF specification §6.2).

    Raises:
        ManifestError: the target has no SHA-256.
    """
    if "sha256" not in target.hashes:
        raise ManifestError(f"the target {path} has no SHA-256")
    folder, _, name = path.rpartition("/")
    return f"{folder}/{target.hashes['sha256']}.{name}"


def vouching(*keys: PublicKey) -> dict[str, object]:
    """What a catalogue's target says beside its hash: the keys that may sign its manifests."""
    listed = {key.id.hex(): {"scheme": key.scheme, "public": key.public.hex()} for key in keys}
    return {"edgeshare": {"lesson_keys": listed}}


def lesson_keys(target: TargetFile) -> dict[bytes, PublicKey]:
    """The keys, by id, that a catalogue's target vouches for; those that cannot be used are left out.

    Raises:
        ManifestError: the target says nothing of keys, or not in their form.
    """
    custom: Any = target.custom
    try:
        listed = custom["edgeshare"]["lesson_keys"].values()
        keys = [PublicKey(str(entry["scheme"]), bytes.fromhex(entry["public"])) for entry in listed]
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ManifestError(f"the target {target.path} does not name the keys of its lessons") from error
    return {key.id: key for key in keys if is_usable(key)}
