"""The roles of a repository and their keys, to show."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import Any

import attrs
from securesystemslib.signer import Key
from tuf.api.metadata import Metadata

from edgeshare.errors import TrustError
from edgeshare.publish import metadata as tuf
from edgeshare.publish.delegations import lessons_of, publisher_of_lessons
from edgeshare.publish.drafts import Standing
from edgeshare.publish.keys import TOP_ROLES, Keys, public_half
from edgeshare.signing import PublicKey
from edgeshare.targets import lesson_keys, publishers


@attrs.frozen(kw_only=True)
class ListedKey:
    """A key of a role."""

    id: str
    scheme: str
    held: str | None  # its name in the folder of keys; None when it is not there, or cannot be opened
    is_revoked: bool = False  # of a key for manifests


@attrs.frozen(kw_only=True)
class ListedRole:
    """A role as it is published, or `<publisher>-lessons` for the keys of manifests."""

    name: str
    version: int | None  # None for manifests, and for a publisher that has published nothing yet
    expires: datetime | None
    threshold: int
    keys: tuple[ListedKey, ...]


def listed(standing: Standing, keys: Keys | None) -> tuple[ListedRole, ...]:
    """All roles that are published, and which of their keys are among `keys`."""
    published = standing.published
    held = _held(keys) if keys else {}
    return (
        *(_role(published, name, held) for name in (*TOP_ROLES, *tuf.delegations(published.targets))),
        *(_lessons(published, name, held) for name in published.publishers),
    )


def _role(published: tuf.RepositoryMetadata, name: str, held: dict[str, str]) -> ListedRole:
    above = published.root if name in TOP_ROLES else published.targets
    role = above.signed.get_delegated_role(name)
    online: dict[str, Metadata[Any]] = {"snapshot": published.snapshot, "timestamp": published.timestamp}
    metadata = online.get(name) or tuf.role_of(published, name)
    known = [above.signed.get_key(key_id) for key_id in role.keyids]
    return ListedRole(
        name=name,
        version=metadata.signed.version if metadata else None,
        expires=metadata.signed.expires if metadata else None,
        threshold=role.threshold,
        keys=tuple(ListedKey(id=key.keyid, scheme=key.scheme, held=held.get(key.keyid)) for key in known),
    )


def _lessons(published: tuf.RepositoryMetadata, publisher: str, held: dict[str, str]) -> ListedRole:
    revoked = publishers(published.targets.signed).revoked_keys
    known: dict[bytes, PublicKey] = {}
    for target in published.publishers[publisher].signed.targets.values():
        known |= lesson_keys(target)
    return ListedRole(
        name=lessons_of(publisher),
        version=None,
        expires=None,
        threshold=1,
        keys=tuple(
            ListedKey(id=each.hex(), scheme=key.scheme, held=held.get(each.hex()), is_revoked=each in revoked)
            for each, key in known.items()
        ),
    )


def listed_id(name: str, key: Key) -> str:
    """The id of the key `name` as its role's keys are listed: those for manifests have ids of their own."""
    is_for_lessons = publisher_of_lessons(name.partition(".")[0]) is not None
    return public_half(key).id.hex() if is_for_lessons else key.keyid


def _held(keys: Keys) -> dict[str, str]:
    """The names of the keys that are there, by their ids as roles and as manifests have them."""
    return dict(_named(keys))


def _named(keys: Keys) -> Iterable[tuple[str, str]]:
    for name in keys.names():
        try:
            key = keys.signer(name).public_key
        except TrustError:
            continue  # without its passphrase nobody knows which key it is
        yield listed_id(name, key), name
