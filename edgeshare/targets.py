"""What edgeshare says in TUF's own metadata: catalogues as targets, the keys of their lessons, whose ids are whose.

```
timestamp              x-edgeshare-issued   when it was signed, RFC 3339
targets                x-edgeshare          {"revoked": {<publisher>: <why>}, "revoked_keys": [<key id, hex>]}
targets, a delegation  x-edgeshare          {"prefix": <of its lessons' ids>}; without it the prefix is empty
a publisher's target   custom               {"edgeshare": {"lesson_keys": {<key id, hex>: {"scheme", "public"}}}}
```
"""

from __future__ import annotations

import hashlib
from datetime import datetime
from typing import Any

from tuf.api.metadata import TargetFile, Targets, Timestamp

from edgeshare.errors import ManifestError
from edgeshare.manifest import check_text
from edgeshare.publishers import Delegation, Publishers
from edgeshare.signing import PublicKey, is_usable

FIELD = "x-edgeshare"
ISSUED = "x-edgeshare-issued"
MAX_LESSON_KEYS = 16  # of one catalogue: as many as sign a manifest at most


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
        ManifestError: the target says nothing of keys, or not in their form, or names too many.
    """
    custom: Any = target.custom
    try:
        listed = custom["edgeshare"]["lesson_keys"].values()
        if len(listed) > MAX_LESSON_KEYS:
            what = f"the target {target.path} names {len(listed)} keys of its lessons"
            raise ManifestError(what, hint=f"{MAX_LESSON_KEYS} are read")
        keys = [PublicKey(str(entry["scheme"]), bytes.fromhex(entry["public"])) for entry in listed]
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ManifestError(f"the target {target.path} does not name the keys of its lessons") from error
    return {key.id: key for key in keys if is_usable(key)}


def issued(timestamp: Timestamp) -> datetime | None:
    """When a timestamp was signed, aware; None when it does not say, or would have expired before."""
    try:
        moment = datetime.fromisoformat(timestamp.unrecognized_fields[ISSUED])
    except (KeyError, TypeError, ValueError):
        return None
    return moment if moment.tzinfo is not None and moment <= timestamp.expires else None


def publishers(targets: Targets) -> Publishers:
    """Who may publish, by the repository's own targets role.

    Raises:
        ManifestError: what it says is not in its form.
    """
    said: Any = targets.unrecognized_fields.get(FIELD, {})
    roles = (targets.delegations.roles or {}) if targets.delegations else {}
    try:
        found = {
            name: Delegation(
                prefix=_text(role.unrecognized_fields.get(FIELD, {}).get("prefix", "")),
                epoch=hashlib.sha256(" ".join(sorted(role.keyids)).encode()).hexdigest()[:16],
            )
            for name, role in roles.items()
        }
        return Publishers(
            delegations=found,
            revoked={_text(name): _reason(why) for name, why in said.get("revoked", {}).items()},
            revoked_keys=frozenset(bytes.fromhex(key) for key in said.get("revoked_keys", [])),
        )
    except (AttributeError, TypeError, ValueError) as error:
        raise ManifestError(f"the targets metadata says something else than who may publish ({error})") from error


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"a {type(value).__name__} in place of text")
    return value


def _reason(value: object) -> str:
    """Why a publisher was revoked, for readers; as a withdrawal's."""
    text = _text(value)
    check_text("the reason of a revocation", text, 1, 500)
    text.encode()  # a lone surrogate cannot be written
    return text
