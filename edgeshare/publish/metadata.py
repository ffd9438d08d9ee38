"""The repository's TUF metadata as it is published: made, read, signed, and written so that no half-made edition shows.

A publisher is a delegated role that may sign `catalogue/<publisher>/*`. Versioned files are written first and mean
nothing until `timestamp.json` names them; a root stands for itself. So an edition shows with one rename. A root that
changes the keys of what is below takes two, and what lies between them is right too where the old keys sign as well.
"""

from __future__ import annotations

import copy
from collections.abc import Collection, Mapping, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, TypeVar

import attrs
from securesystemslib.exceptions import UnverifiedSignatureError
from securesystemslib.signer import Key, Signer
from tuf.api.exceptions import RepositoryError as TufError
from tuf.api.exceptions import UnsignedMetadataError
from tuf.api.metadata import (
    DelegatedRole,
    Delegations,
    Metadata,
    MetaFile,
    Root,
    Snapshot,
    Targets,
    Timestamp,
    VerificationResult,
)
from tuf.api.serialization import SerializationError
from tuf.api.serialization.json import JSONSerializer

from edgeshare.errors import EdgeshareError, RepositoryError
from edgeshare.library.content import put
from edgeshare.publish.keys import TOP_ROLES, Keys
from edgeshare.targets import ISSUED

# How long each role's signature is good for. The timestamp must outlive a USB stick's journey; a timer renews it.
LIFETIMES = {
    "root": timedelta(days=730),
    "targets": timedelta(days=365),
    "publisher": timedelta(days=365),
    "snapshot": timedelta(days=90),
    "timestamp": timedelta(days=30),
}

MAX_KEYS = 16  # of one role: more people than that hold no ceremony

_Signed = TypeVar("_Signed", Root, Targets, Snapshot, Timestamp)


@attrs.frozen(kw_only=True)
class RepositoryMetadata:
    """What the repository says, all roles at one time."""

    root: Metadata[Root]
    targets: Metadata[Targets]
    publishers: Mapping[str, Metadata[Targets]]  # by name, in the order of their delegation
    snapshot: Metadata[Snapshot]
    timestamp: Metadata[Timestamp]

    @property
    def expires(self) -> datetime:
        """When the first of the roles expires: from then on nodes take nothing new."""
        signed = (self.timestamp.signed, self.snapshot.signed, self.root.signed, self.targets.signed)
        return min(role.expires for role in (*signed, *(each.signed for each in self.publishers.values())))

    def ageing(self, now: datetime) -> dict[str, datetime]:
        """The roles, but the timestamp, that have less than half of their life left, and when they expire."""
        roles: dict[str, Metadata[Any]] = {
            "root": self.root,
            "targets": self.targets,
            **self.publishers,
            "snapshot": self.snapshot,
        }
        return {
            name: role.signed.expires for name, role in roles.items() if role.signed.expires - now < lifetime(name) / 2
        }

    def needs_snapshot(self, now: datetime) -> bool:
        """Whether the snapshot names other versions than these, has no signature that counts, or grows old."""
        wanted = {"targets.json": self.targets} | {f"{name}.json": role for name, role in self.publishers.items()}
        named = self.snapshot.signed.meta
        return (
            any(name not in named or named[name].version != role.signed.version for name, role in wanted.items())
            or "snapshot" in self.ageing(now)
            or not vouched(self.root, "snapshot", self.snapshot)
        )


def lifetime(role: str) -> timedelta:
    """How long the role's signatures are good for."""
    return LIFETIMES[role if role in TOP_ROLES else "publisher"]


def vouched(above: Metadata[Root] | Metadata[Targets], role: str, metadata: Metadata[Any]) -> VerificationResult:
    """Which keys that `above` gave to the role have signed `metadata`; true when they are enough."""
    signed: Root | Targets = above.signed
    return signed.get_verification_result(role, payload(metadata), metadata.signatures)


def key_ids(above: Metadata[Root] | Metadata[Targets], role: str) -> frozenset[str]:
    """The ids of the keys that `above` gave to the role; none where it knows no such role."""
    try:
        return frozenset(above.signed.get_delegated_role(role).keyids)
    except ValueError:
        return frozenset()


def sign(metadata: Metadata[Any], signers: Sequence[Signer], ids: Collection[str]) -> None:
    """Add the signatures of those `signers` whose keys are among `ids`; one that has signed does not sign again."""
    for signer in signers:
        if signer.public_key.keyid in ids and not has_signed(metadata, signer.public_key):
            _sign(metadata, signer)


def has_signed(metadata: Metadata[Any], key: Key) -> bool:
    """Whether the key's signature is there, and right."""
    try:
        key.verify_signature(metadata.signatures[key.keyid], metadata.signed_bytes)
    except (KeyError, UnverifiedSignatureError):
        return False
    return True


def following(metadata: Metadata[_Signed], now: datetime, role: str) -> Metadata[_Signed]:
    """The next version of `metadata`, with a new life and no signature yet."""
    signed = copy.deepcopy(metadata.signed)
    signed.version += 1
    signed.expires = now + lifetime(role)
    return Metadata(signed)


def payload(metadata: Metadata[Any]) -> bytes:
    """What is signed of `metadata`.

    Raises:
        RepositoryError: it holds something that TUF's JSON cannot, like a fraction in a target's `custom`.
    """
    try:
        return metadata.signed_bytes
    except SerializationError as error:
        what = f"metadata of the type {metadata.signed.type} holds a value that cannot be signed"
        raise RepositoryError(what, hint="write numbers as whole ones, everything else as text") from error


def encode(metadata: Metadata[Any]) -> bytes:
    """The file of `metadata`."""
    return metadata.to_bytes(JSONSerializer())


def holds(keys: Keys, role: str) -> bool:
    """Whether any key of a role is there."""
    return any(name.partition(".")[0] == role for name in keys.names())


def role_of(metadata: RepositoryMetadata, role: str) -> Metadata[Any] | None:
    """The metadata of root, targets or a publisher; None where there is none."""
    top: dict[str, Metadata[Any]] = {"root": metadata.root, "targets": metadata.targets}
    return top.get(role) or metadata.publishers.get(role)


def create(
    folder: Path, keys: Keys, publisher: str, now: datetime, *, offline_keys: int = 1, threshold: int = 1
) -> None:
    """Make and write the first metadata of a repository: roles, keys, and an empty publisher's role.

    Root and targets get `offline_keys` keys each, of which `threshold` have to sign.
    """
    names = {role: numbered(role, offline_keys if role in ("root", "targets") else 1) for role in TOP_ROLES}
    signers = {role: [keys.signer(name) for name in each] for role, each in (names | {publisher: [publisher]}).items()}
    root = Root(expires=now + LIFETIMES["root"])
    for role in TOP_ROLES:
        for signer in signers[role]:
            root.add_key(signer.public_key, role)
    root.roles["root"].threshold = root.roles["targets"].threshold = threshold
    targets = Targets(expires=now + LIFETIMES["targets"], delegations=Delegations(keys={}, roles={}))
    delegate(targets, publisher, [signers[publisher][0].public_key], 1, {})
    snapshot = Snapshot(
        expires=now + LIFETIMES["snapshot"], meta={"targets.json": MetaFile(1), f"{publisher}.json": MetaFile(1)}
    )
    whole: dict[str, Metadata[Any]] = {
        "root": Metadata(root),
        "targets": Metadata(targets),
        publisher: Metadata(Targets(expires=now + LIFETIMES["publisher"])),
        "snapshot": Metadata(snapshot),
    }
    for role, metadata in whole.items():
        for signer in signers[role]:
            _sign(metadata, signer)
        put(folder / f"1.{role}.json", encode(metadata))
    timestamp = Metadata(_timestamp(1, whole["snapshot"], now))
    _sign(timestamp, signers["timestamp"][0])
    put(folder / "timestamp.json", encode(timestamp))


def numbered(role: str, count: int) -> list[str]:
    """The names of a role's first `count` keys: `root`, `root.2`, `root.3`."""
    return [role, *(f"{role}.{number}" for number in range(2, count + 1))]


def delegate(targets: Targets, name: str, keys: Sequence[Key], threshold: int, fields: dict[str, Any]) -> None:
    """Let the publisher `name` sign `catalogue/<name>/*`; `fields` are what edgeshare says of it."""
    assert targets.delegations is not None
    assert targets.delegations.roles is not None
    targets.delegations.roles[name] = DelegatedRole(
        name=name,
        keyids=[],
        threshold=threshold,
        terminating=True,
        paths=[f"catalogue/{name}/*"],
        unrecognized_fields=fields,
    )
    for key in keys:
        targets.add_key(key, name)


def delegations(targets: Metadata[Targets]) -> Mapping[str, DelegatedRole]:
    """The publishers' roles by name, in their order: the first is the repository's own."""
    known = targets.signed.delegations
    return (known.roles or {}) if known else {}


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
        publishers = {
            name: Metadata[Targets].from_bytes(read_one(f"{meta[f'{name}.json'].version}.{name}"))
            for name in delegations(targets)
        }
        root = read_root(folder)
    except FileNotFoundError as error:
        hint = "make one with `edgeshare publish init`"
        raise RepositoryError(f"{folder.parent} is not a repository", hint=hint) from error
    except OSError as error:
        what = f"the repository's metadata in {folder} cannot be read ({error.strerror})"
        raise RepositoryError(what, hint="check its permissions") from error
    except (TufError, KeyError, ValueError) as error:
        what = f"the repository's metadata in {folder} is not what was published ({type(error).__name__})"
        raise RepositoryError(what, hint="restore the repository from a backup or a mirror") from error
    return RepositoryMetadata(root=root, targets=targets, publishers=publishers, snapshot=snapshot, timestamp=timestamp)


def read_root(folder: Path) -> Metadata[Root]:
    """The newest root in a folder.

    Raises:
        ValueError: there is none. Further what python-tuf and the operating system raise.
    """
    newest = max(int(path.name.split(".")[0]) for path in folder.glob("[0-9]*.root.json"))
    return Metadata[Root].from_bytes((folder / f"{newest}.root.json").read_bytes())


def next_files(published: RepositoryMetadata, wanted: RepositoryMetadata) -> frozenset[str]:
    """The names of the versioned files that are new in `wanted`, and mean nothing until the timestamp names them."""
    return files(wanted) - files(published) - {f"{wanted.root.signed.version}.root.json"}


def files(current: RepositoryMetadata) -> frozenset[str]:
    """The names of the versioned files that hold what is said."""
    roles: list[tuple[str, Metadata[Any]]]
    roles = [("root", current.root), ("targets", current.targets), ("snapshot", current.snapshot)]
    return frozenset(f"{role.signed.version}.{name}.json" for name, role in (*roles, *current.publishers.items()))


def shown(published: RepositoryMetadata, wanted: RepositoryMetadata, keys: Keys, now: datetime) -> RepositoryMetadata:
    """What is `wanted`, under the snapshot and the timestamp that it needs; those that still serve stay.

    Keys sign that count by the published root or the wanted one: a reader may know either. The signatures may be
    too few: `is_shown`.
    """
    if wanted.needs_snapshot(now):
        snapshot = following(wanted.snapshot, now, "snapshot")
        snapshot.signed.meta["targets.json"] = MetaFile(wanted.targets.signed.version)
        for name, role in wanted.publishers.items():  # who was revoked stays named: a snapshot never drops a role
            snapshot.signed.meta[f"{name}.json"] = MetaFile(role.signed.version)
        sign(snapshot, keys.signers_of("snapshot"), _either(published, wanted, "snapshot"))
        wanted = attrs.evolve(wanted, snapshot=snapshot)
    if wanted.snapshot is published.snapshot and vouched(wanted.root, "timestamp", wanted.timestamp):
        return wanted
    return alive(published, wanted, keys, now)


def alive(published: RepositoryMetadata, wanted: RepositoryMetadata, keys: Keys, now: datetime) -> RepositoryMetadata:
    """What is `wanted`, under a new timestamp; as `shown`."""
    timestamp = Metadata(_timestamp(published.timestamp.signed.version + 1, wanted.snapshot, now))
    if wanted.snapshot is published.snapshot:  # by the hash that was signed, not by what lies there now
        timestamp.signed.snapshot_meta = published.timestamp.signed.snapshot_meta
    sign(timestamp, keys.signers_of("timestamp"), _either(published, wanted, "timestamp"))
    return attrs.evolve(wanted, timestamp=timestamp)


def is_shown(metadata: RepositoryMetadata) -> bool:
    """Whether the snapshot and the timestamp are signed by enough of the root's keys."""
    return all(
        vouched(metadata.root, role, each).verified
        for role, each in (("snapshot", metadata.snapshot), ("timestamp", metadata.timestamp))
    )


def write(folder: Path, published: RepositoryMetadata, wanted: RepositoryMetadata) -> None:
    """Write what differs from what is `published`; the timestamp's rename shows it.

    A root that gives the timestamp other keys comes last where the old keys have signed too, and who knows the old
    root can follow. It comes first where they have not: its readers then wait for the timestamp, the other way would
    lead the others into what they must refuse.
    """
    known = files(published)
    roles: list[tuple[str, Metadata[Any]]]
    roles = [*wanted.publishers.items(), ("targets", wanted.targets), ("snapshot", wanted.snapshot)]
    for name, role in roles:
        if (file := f"{role.signed.version}.{name}.json") not in known:
            put(folder / file, encode(role))
    steps: list[tuple[str, Metadata[Any]]] = []
    if wanted.timestamp is not published.timestamp:
        steps.append(("timestamp.json", wanted.timestamp))
    if (file := f"{wanted.root.signed.version}.root.json") not in known:
        by_old = attrs.evolve(wanted, root=published.root)
        is_last = is_shown(by_old) and vouched(published.root, "targets", wanted.targets)
        steps.insert(len(steps) if is_last else 0, (file, wanted.root))
    for file, metadata in steps:
        put(folder / file, encode(metadata))


def _sign(metadata: Metadata[Any], signer: Signer) -> None:
    """Add a signature; an error that says what to do comes through, which python-tuf wraps in one of its own."""
    try:
        metadata.sign(signer, append=True)
    except UnsignedMetadataError as error:
        if isinstance(error.__cause__, EdgeshareError):
            raise error.__cause__ from error.__cause__.__cause__
        raise


def _timestamp(version: int, snapshot: Metadata[Snapshot], now: datetime) -> Timestamp:
    return Timestamp(
        version=version,
        expires=now + LIFETIMES["timestamp"],
        snapshot_meta=MetaFile.from_data(snapshot.signed.version, encode(snapshot), ["sha256"]),
        unrecognized_fields={ISSUED: now.isoformat()},
    )


def _either(published: RepositoryMetadata, wanted: RepositoryMetadata, role: str) -> frozenset[str]:
    return key_ids(published.root, role) | key_ids(wanted.root, role)
