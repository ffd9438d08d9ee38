"""Who may sign, and how that changes: keys of a role are added, replaced and taken away, publishers come and go.

Each change is a draft of the role above (`drafts`), signed by the keys that are here; it is published when all its
signatures are there. Old key files are left where they are: until then they are the ones that count.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import Any

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_public_key
from securesystemslib.signer import Key, SSlibKey
from tuf.api.metadata import Metadata

from edgeshare.config import nearest
from edgeshare.errors import EdgeshareError, RepositoryError, TrustError
from edgeshare.manifest import shown
from edgeshare.publish import metadata as tuf
from edgeshare.publish.delegations import (
    check_delegation,
    delegated,
    lessons_of,
    publisher_of_lessons,
    require_publisher,
    revoked_lesson_key,
    revoked_publisher,
)
from edgeshare.publish.drafts import Standing
from edgeshare.publish.keys import TOP_ROLES, Keys
from edgeshare.publish.released import Released
from edgeshare.publish.repository import Repository, read_standing

SHORT = 8  # digits of a key's id that people read, and give


def read_public(path: Path) -> Key:
    """The public key in a PEM file.

    Raises:
        TrustError: there is none, or of a kind that cannot be used.
    """
    try:
        return SSlibKey.from_crypto(load_pem_public_key(path.read_bytes()))
    except OSError as error:
        raise TrustError(f"cannot read the public key {path} ({error.strerror})", hint="name a PEM file") from error
    except (ValueError, UnsupportedAlgorithm) as error:
        hint = "it must be the public half of an Ed25519 or ECDSA key in PEM"
        raise TrustError(f"{path} is not a public key that can be used", hint=hint) from error


def public_pem(key: Key) -> str:
    """A public key as `read_public` reads it."""
    if key.scheme == "ed25519":
        public = Ed25519PublicKey.from_public_bytes(bytes.fromhex(key.keyval["public"]))
        return public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()
    pem: str = key.keyval["public"]
    return pem if pem.endswith("\n") else pem + "\n"


def make_key(keys: Keys, role: str, *, uri: str | None = None, passphrase: str | None = None) -> tuple[str, Key]:
    """A new key for a role under the next free name, made here or kept by the device at `uri`; its public half.

    Raises:
        TrustError: it cannot be made.
    """
    name = _free_name(keys, role)
    if uri is not None:
        return keys.keep_uri(name, uri)
    keys.make(name, passphrase=passphrase)
    return name, keys.signer(name).public_key


@contextmanager
def removed_if_it_fails(keys: Keys, repository: Path | None = None) -> Iterator[None]:
    """Remove the keys that were made within when it fails, unless the repository names one of them by then."""
    try:
        yield
    except BaseException:
        with suppress(EdgeshareError, OSError):  # where it cannot be told whether they are named, they stay
            named = _named(read_standing(repository)) if repository else frozenset()
            if named.isdisjoint(key.keyid for key in keys.made.values()):
                for name in keys.made:
                    keys.unmake(name)
        raise


def cautions(standing: Standing, keys: Keys, role: str, new: Collection[str]) -> Iterator[str]:
    """What is dangerous in where a role's keys are, after those with the ids `new` came to it; in lines."""
    known = tuf.key_ids(standing.above(role), role)
    for other in (*TOP_ROLES, *tuf.delegations(standing.targets)):
        if other != role and (both := tuf.key_ids(standing.above(other), other) & known & frozenset(new)):
            ids = ", ".join(sorted(key[:SHORT] for key in both))
            yield f"{ids} signs for {role} and for {other}: who steals it has both; give each role keys of its own"
    threshold = standing.above(role).signed.get_delegated_role(role).threshold
    if threshold > 1 and keys.made:
        with suppress(TrustError):  # a key that nobody can open here does not help a thief either
            here = {signer.public_key.keyid for signer in keys.signers_of(role)} & known
            if len(here) >= threshold:
                what = f"{len(here)} keys of {role} are in one folder, and {threshold} are enough to sign"
                yield f"{what}: move them to those who are to hold them"


def check_keys(
    standing: Standing, role: str, *, coming: int = 0, leaving: int = 0, threshold: int | None = None
) -> None:
    """Refuse what cannot be a role's keys, before one is made.

    Raises:
        RepositoryError: there is no such role, or its threshold could not be reached.
    """
    count = len(_key_ids(standing, role)) + coming - leaving
    wanted = threshold if threshold is not None else standing.above(role).signed.get_delegated_role(role).threshold
    if count > tuf.MAX_KEYS:
        raise RepositoryError(f"{role} would have {count} keys", hint=f"at most {tuf.MAX_KEYS} are possible")
    if count < 1:
        raise RepositoryError(f"{role} would have no key left", hint="`edgeshare publish keys rotate` replaces one")
    if not 1 <= wanted <= count:
        hint = f"it can be 1 to {count}" if threshold is not None else "add a key first, or give a lower --threshold"
        held = "1 key" if count == 1 else f"{count} keys"
        raise RepositoryError(f"the threshold of {role} cannot be {wanted} when it has {held}", hint=hint)


def add_key(repository: Repository, role: str, key: Key, now: datetime, *, threshold: int | None = None) -> Released:
    """Let `key` sign for a role, beside those that do.

    Raises:
        RepositoryError: there is no such role, or the threshold cannot be.
    """
    return repository.apply(_rekeyed(repository.standing, role, now, add=[key], threshold=threshold), now)


def rotate(
    repository: Repository,
    keys: Keys,
    role: str,
    now: datetime,
    *,
    key_id: str | None = None,
    passphrase: str | None = None,
) -> Released:
    """New keys in place of those of a role that are here, or of the one whose id begins with `key_id`.

    Raises:
        RepositoryError: there is no such role or key.
        TrustError: none of the role's keys is here, or one cannot be made.
    """
    standing = repository.standing
    present = _key_ids(standing, role)
    if key_id is not None:
        leaving = [_one_of(present, key_id, role)]
    else:
        leaving = [each.public_key.keyid for each in keys.signers_of(role) if each.public_key.keyid in present]
    if not leaving:
        hint = "name the one to replace with --key; `edgeshare publish keys list` shows them"
        raise TrustError(f"no key of {role} is here", hint=hint)
    check_keys(standing, role, coming=len(leaving), leaving=len(leaving))
    coming = [make_key(keys, role, passphrase=passphrase)[1] for _ in leaving]
    return repository.apply(_rekeyed(standing, role, now, add=coming, drop=leaving), now)


def rotate_lesson_key(repository: Repository, keys: Keys, role: str, passphrase: str | None = None) -> str:
    """A new key for a publisher's manifests, by its name: the publisher's next release signs all of them anew.

    Raises:
        RepositoryError: there is no such publisher.
        TrustError: the key cannot be made.
    """
    require_publisher(repository.standing, publisher_of_lessons(role) or role)
    return make_key(keys, role, passphrase=passphrase)[0]


def revoke_key(
    repository: Repository, role: str, key_id: str, now: datetime, *, threshold: int | None = None
) -> Released:
    """Take away the right to sign for a role from the key whose id begins with `key_id`.

    Raises:
        RepositoryError: there is no such role or key, or the threshold could not be reached any more.
    """
    standing = repository.standing
    leaving = _one_of(_key_ids(standing, role), key_id, role)
    return repository.apply(_rekeyed(standing, role, now, drop=[leaving], threshold=threshold), now)


def revoke_lesson_key(repository: Repository, role: str, key_id: str, now: datetime) -> Released:
    """Let a key vouch for no manifest any more; nodes then withdraw what only it has signed.

    Raises:
        RepositoryError: there is no such publisher or key, or its catalogues would have no other.
    """
    name = publisher_of_lessons(role) or role
    require_publisher(repository.standing, name)
    here = frozenset(each.hex() for each in repository.lesson_keys_here(name))
    in_use = frozenset(each.hex() for each in repository.lesson_keys_in_use(name))
    leaving = _one_of(here | in_use, key_id, role)
    if leaving in in_use and not here - {leaving}:
        hint = f"`edgeshare publish keys rotate` with {role} first, where the key for its releases is"
        raise RepositoryError(f"the lessons of {name} are signed by {leaving[:SHORT]}", hint=hint)
    return repository.apply(revoked_lesson_key(repository.standing, bytes.fromhex(leaving), now), now)


def delegate(
    repository: Repository,
    keys: Keys,
    name: str,
    prefix: str,
    now: datetime,
    *,
    public: Sequence[Key] = (),
    threshold: int = 1,
    passphrase: str | None = None,
) -> Released:
    """Let the publisher `name` publish lessons whose ids begin with `prefix`, under its `public` keys.

    Without them its keys are made here, also the one for its manifests.

    Raises:
        RepositoryError: the delegation cannot be; `delegations.delegated`.
        TrustError: the keys cannot be made.
    """
    standing, taken = repository.standing, repository.taken
    check_delegation(standing, name, prefix, taken, threshold, len({key.keyid for key in public}) or tuf.MAX_KEYS)
    if not public:  # new ones also where there are some of that name: a publisher that was revoked had them
        public = [make_key(keys, name, passphrase=passphrase)[1] for _ in range(threshold)]
        make_key(keys, lessons_of(name), passphrase=passphrase)
    return repository.apply(delegated(standing, name, prefix, public, threshold, now), now)


def revoke_publisher(repository: Repository, name: str, why: str, now: datetime) -> Released:
    """End a delegation: nodes withdraw what only this publisher vouched for, `why` for its readers.

    Raises:
        RepositoryError: there is no such publisher, it is the repository's own, or the reason is none.
    """
    return repository.apply(revoked_publisher(repository.standing, name, why, now), now)


def _rekeyed(
    standing: Standing,
    role: str,
    now: datetime,
    *,
    add: Sequence[Key] = (),
    drop: Collection[str] = (),
    threshold: int | None = None,
) -> Standing:
    """The role above drafted with other keys for `role`."""
    check_keys(standing, role, coming=len(add), leaving=len(drop), threshold=threshold)
    above = "root" if role in TOP_ROLES else "targets"
    metadata: Metadata[Any] = standing.edited(above, now)
    if known := [key.keyid for key in add if key.keyid in tuf.key_ids(standing.above(role), role)]:
        raise RepositoryError(f"{role} has the key {known[0][:SHORT]} already", hint="give another")
    for key in add:
        metadata.signed.add_key(key, role)
    for key_id in drop:
        metadata.signed.revoke_key(key_id, role)
    if threshold is not None:
        metadata.signed.get_delegated_role(role).threshold = threshold
    return standing.drafted(above, metadata)


def _named(standing: Standing) -> frozenset[str]:
    """The ids of all keys that any role has, as it is published or drafted."""
    roots, all_targets = (standing.published.root, standing.root), (standing.published.targets, standing.targets)
    delegations = [targets.signed.delegations for targets in all_targets]
    return frozenset().union(
        *(root.signed.keys for root in roots), *(delegation.keys for delegation in delegations if delegation)
    )


def _key_ids(standing: Standing, role: str) -> frozenset[str]:
    """The ids of a role's keys, as it is drafted or published."""
    known = [*TOP_ROLES, *tuf.delegations(standing.targets)]
    if role not in known:
        close = nearest(role, known)
        hint = f"did you mean {close}?" if close else f"its roles are {', '.join(known)}"
        raise RepositoryError(f"the repository has no role {shown(role)}", hint=hint)
    return tuf.key_ids(standing.above(role), role)


def _one_of(ids: Collection[str], wanted: str, role: str) -> str:
    """The one id that begins with `wanted`."""
    found = [each for each in ids if each.startswith(wanted.lower())]
    if len(wanted) < SHORT or len(found) != 1:
        hint = f"give {SHORT} digits or more of its id; `edgeshare publish keys list` shows them"
        raise RepositoryError(f"{role} has no key {shown(wanted)}", hint=hint)
    return found[0]


def _free_name(keys: Keys, role: str) -> str:
    numbers = [int(name.partition(".")[2] or 1) for name in keys.names() if name.partition(".")[0] == role]
    return f"{role}.{max(numbers) + 1}" if numbers else role
