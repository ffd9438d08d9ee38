"""The repository's TUF metadata: made, read, signed and written in an order that never shows a half-made edition.

A publisher is a delegated role that may sign `catalogue/<publisher>/*`. Versioned files are written first and mean
nothing until `timestamp.json`, last, names them (root's aside, which stands for itself). A release renews the publisher
and the snapshot; it renews root and targets too when half of their life is over and their keys are at hand.
"""

from __future__ import annotations

import copy
from datetime import datetime, timedelta
from pathlib import Path
from typing import TypeVar

import attrs
from tuf.api.exceptions import RepositoryError as TufError
from tuf.api.metadata import (
    DelegatedRole,
    Delegations,
    Key,
    Metadata,
    MetaFile,
    Root,
    Snapshot,
    TargetFile,
    Targets,
    Timestamp,
)
from tuf.api.serialization.json import JSONSerializer

from edgeshare.errors import RepositoryError
from edgeshare.library.content import put
from edgeshare.publish.keys import Keys
from edgeshare.targets import ISSUED

# How long each role's signature is good for. The timestamp must outlive a USB stick's journey; a timer renews it.
LIFETIMES = {
    "root": timedelta(days=730),
    "targets": timedelta(days=365),
    "publisher": timedelta(days=365),
    "snapshot": timedelta(days=90),
    "timestamp": timedelta(days=30),
}

_Signed = TypeVar("_Signed", Root, Targets, Snapshot, Timestamp)


@attrs.frozen(kw_only=True)
class RepositoryMetadata:
    """What the repository says now."""

    publisher: str
    root: Metadata[Root]
    targets: Metadata[Targets]
    role: Metadata[Targets]  # the publisher's
    snapshot: Metadata[Snapshot]
    timestamp: Metadata[Timestamp]

    @property
    def expires(self) -> datetime:
        """When the first of the roles expires: from then on nodes take nothing new."""
        return min([self.timestamp.signed.expires, *self._expiries().values()])

    def ageing(self, now: datetime) -> dict[str, datetime]:
        """The roles that a release renews and that have less than half of their life left, and when they expire."""
        return {name: expires for name, expires in self._expiries().items() if expires - now < LIFETIMES[name] / 2}

    def _expiries(self) -> dict[str, datetime]:
        return {
            "root": self.root.signed.expires,
            "targets": self.targets.signed.expires,
            "publisher": self.role.signed.expires,
            "snapshot": self.snapshot.signed.expires,
        }


def create(folder: Path, keys: Keys, publisher: str, now: datetime) -> RepositoryMetadata:
    """Make and write the first metadata of a repository: roles, keys, and an empty publisher's role."""
    root = Root(expires=now + LIFETIMES["root"])
    for role in ("root", "targets", "snapshot", "timestamp"):
        root.add_key(keys.signer(role).public_key, role)
    key: Key = keys.signer(publisher).public_key
    delegated = DelegatedRole(
        name=publisher, keyids=[key.keyid], threshold=1, terminating=True, paths=[f"catalogue/{publisher}/*"]
    )
    targets = Targets(
        expires=now + LIFETIMES["targets"],
        delegations=Delegations(keys={key.keyid: key}, roles={publisher: delegated}),
    )
    snapshot = Snapshot(expires=now + LIFETIMES["snapshot"])
    snapshot.meta = {"targets.json": MetaFile(1), f"{publisher}.json": MetaFile(1)}
    whole = RepositoryMetadata(
        publisher=publisher,
        root=Metadata(root),
        targets=Metadata(targets),
        role=Metadata(Targets(expires=now + LIFETIMES["publisher"])),
        snapshot=Metadata(snapshot),
        timestamp=Metadata(_timestamp(1, now)),
    )
    _write(folder, "root", whole.root, keys)
    _write(folder, "targets", whole.targets, keys)
    _write(folder, publisher, whole.role, keys)
    _commit(folder, whole, keys)
    return whole


def read(folder: Path) -> RepositoryMetadata:
    """What the repository's `metadata` folder says now.

    Raises:
        RepositoryError: there is no repository, or it is not whole.
    """
    try:

        def read_one(name: str) -> bytes:
            return (folder / f"{name}.json").read_bytes()

        timestamp = Metadata[Timestamp].from_bytes(read_one("timestamp"))
        snapshot = Metadata[Snapshot].from_bytes(read_one(f"{timestamp.signed.snapshot_meta.version}.snapshot"))
        meta = snapshot.signed.meta
        targets = Metadata[Targets].from_bytes(read_one(f"{meta['targets.json'].version}.targets"))
        delegations = targets.signed.delegations
        publisher = next(iter(delegations.roles)) if delegations and delegations.roles else ""
        role = Metadata[Targets].from_bytes(read_one(f"{meta[f'{publisher}.json'].version}.{publisher}"))
        newest = max(int(path.name.split(".")[0]) for path in folder.glob("[0-9]*.root.json"))
        root = Metadata[Root].from_bytes(read_one(f"{newest}.root"))
    except FileNotFoundError as error:
        hint = "make one with `edgeshare publish init`"
        raise RepositoryError(f"{folder.parent} is not a repository", hint=hint) from error
    except OSError as error:
        what = f"the repository's metadata in {folder} cannot be read ({error.strerror})"
        raise RepositoryError(what, hint="check its permissions") from error
    except (TufError, KeyError, ValueError) as error:
        what = f"the repository's metadata in {folder} is not what was published ({type(error).__name__})"
        raise RepositoryError(what, hint="restore the repository from a backup or a mirror") from error
    return RepositoryMetadata(
        publisher=publisher, root=root, targets=targets, role=role, snapshot=snapshot, timestamp=timestamp
    )


def files(current: RepositoryMetadata) -> frozenset[str]:
    """The names of the versioned files that hold what the repository says now."""
    roles = (("root", current.root), ("targets", current.targets), (current.publisher, current.role))
    return frozenset(
        [f"{role.signed.version}.{name}.json" for name, role in roles]
        + [f"{current.snapshot.signed.version}.snapshot.json"]
    )


def next_files(current: RepositoryMetadata) -> frozenset[str]:
    """The names of the files that a release may write and that mean nothing until the timestamp names them."""
    versions = {
        "targets": current.targets.signed.version,
        current.publisher: current.role.signed.version,
        "snapshot": current.snapshot.signed.version,
    }
    return frozenset(f"{version + 1}.{name}.json" for name, version in versions.items())


def release(
    folder: Path, current: RepositoryMetadata, targets: dict[str, TargetFile], keys: Keys, now: datetime
) -> RepositoryMetadata:
    """Sign and write the next edition of the publisher's role with all its `targets`; the last write publishes it.

    `next_files` names what this writes before.
    """
    ageing = current.ageing(now)
    renewed = {name for name in ("root", "targets") if name in ageing and keys.has(name)}
    version = current.role.signed.version + 1
    following = attrs.evolve(
        current,
        root=_next(current.root, now, "root") if "root" in renewed else current.root,
        targets=_next(current.targets, now, "targets") if "targets" in renewed else current.targets,
        role=Metadata(Targets(version=version, expires=now + LIFETIMES["publisher"], targets=targets)),
        snapshot=_next(current.snapshot, now, "snapshot"),
        timestamp=Metadata(_timestamp(current.timestamp.signed.version + 1, now)),
    )
    following.snapshot.signed.meta |= {
        "targets.json": MetaFile(following.targets.signed.version),
        f"{current.publisher}.json": MetaFile(version),
    }
    if "targets" in renewed:
        _write(folder, "targets", following.targets, keys)
    _write(folder, current.publisher, following.role, keys)
    if "root" in renewed:  # the same keys for longer: right on its own, whatever happens to the rest
        _write(folder, "root", following.root, keys)
    _commit(folder, following, keys)
    return following


def refresh(folder: Path, current: RepositoryMetadata, keys: Keys, now: datetime) -> RepositoryMetadata:
    """Sign and write a new timestamp over the same snapshot."""
    timestamp = Metadata(_timestamp(current.timestamp.signed.version + 1, now))
    timestamp.signed.snapshot_meta = current.timestamp.signed.snapshot_meta
    timestamp.sign(keys.signer("timestamp"))
    put(folder / "timestamp.json", timestamp.to_bytes(JSONSerializer()))
    return attrs.evolve(current, timestamp=timestamp)


def _next(metadata: Metadata[_Signed], now: datetime, role: str) -> Metadata[_Signed]:
    """The next version of `metadata`, with a new life and no signature yet."""
    signed = copy.deepcopy(metadata.signed)
    signed.version += 1
    signed.expires = now + LIFETIMES[role]
    return Metadata(signed)


def _timestamp(version: int, now: datetime) -> Timestamp:
    return Timestamp(
        version=version,
        expires=now + LIFETIMES["timestamp"],
        unrecognized_fields={ISSUED: now.isoformat()},
    )


def _commit(folder: Path, metadata: RepositoryMetadata, keys: Keys) -> None:
    snapshot = _write(folder, "snapshot", metadata.snapshot, keys)
    version = metadata.snapshot.signed.version
    metadata.timestamp.signed.snapshot_meta = MetaFile.from_data(version, snapshot, ["sha256"])
    metadata.timestamp.sign(keys.signer("timestamp"))
    put(folder / "timestamp.json", metadata.timestamp.to_bytes(JSONSerializer()))


def _write(folder: Path, name: str, metadata: Metadata[_Signed], keys: Keys) -> bytes:
    metadata.sign(keys.signer(name))
    data = metadata.to_bytes(JSONSerializer())
    put(folder / f"{metadata.signed.version}.{name}.json", data)
    return data
