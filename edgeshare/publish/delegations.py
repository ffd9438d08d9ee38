"""Publishers beside the repository's own: who is delegated to, for which ids, and how that ends.

A publisher's lessons have ids that begin with its prefix; the longest prefix decides whose an id is. The repository's
own publisher, the first, has the empty one. An id that is in use never changes its owner by a delegation.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from datetime import datetime
from typing import Any

import attrs
from securesystemslib.signer import Key
from tuf.api.metadata import Metadata, Targets

from edgeshare.config import nearest
from edgeshare.errors import RepositoryError
from edgeshare.manifest import LessonId, check_text, shown
from edgeshare.publish import metadata as tuf
from edgeshare.publish.drafts import Standing
from edgeshare.publish.keys import TOP_ROLES
from edgeshare.publishers import Delegation
from edgeshare.targets import FIELD, publishers
from edgeshare.vocabulary import is_code

MAX_PUBLISHERS = 16  # manifests/FORMAT.md, section 6: clients look at 32 roles and no further
_LESSONS = "-lessons"  # ends the names of the keys for manifests
_PREFIX = re.compile(r"[a-z0-9][a-z0-9-]{0,61}")  # an id has one more character at least, and 63 at most


def lessons_of(publisher: str) -> str:
    """The name of a publisher's keys for manifests."""
    return publisher + _LESSONS


def publisher_of_lessons(role: str) -> str | None:
    """The publisher whose keys for manifests have this name; None when it is no such name."""
    return role.removesuffix(_LESSONS) if role.endswith(_LESSONS) else None


def check_name(name: str) -> None:
    """Refuse what cannot be a publisher's name.

    Raises:
        RepositoryError: it has other characters, is one of TUF's roles, or would be taken for a key's name.
    """
    if not is_code(name) or name in TOP_ROLES or name.endswith(_LESSONS):
        hint = f"use a-z, 0-9 and -, like cned; {', '.join(TOP_ROLES)} and names that end in {_LESSONS} are taken"
        raise RepositoryError(f"{shown(name)} cannot be a publisher's name", hint=hint)


def require_publisher(standing: Standing, name: str) -> None:
    """Refuse a name that no publisher has.

    Raises:
        RepositoryError: with the nearest name, or all.
    """
    names = tuf.delegations(standing.targets)
    if name not in names:
        close = nearest(name, names)
        hint = f"did you mean {close}?" if close else f"its publishers are {', '.join(names)}"
        raise RepositoryError(f"the repository has no publisher {shown(name)}", hint=hint)


def delegated(
    standing: Standing, name: str, prefix: str, keys: Sequence[Key], threshold: int, now: datetime
) -> Standing:
    """Targets drafted with the publisher `name`, for ids that begin with `prefix`; `check_delegation` allowed it.

    That it was revoked before stays said, of its old keys: for nodes that were off while it was.
    """
    targets: Metadata[Targets] = standing.edited("targets", now)
    tuf.delegate(targets.signed, name, keys, threshold, {FIELD: {"prefix": prefix}})
    return standing.drafted("targets", targets)


def check_delegation(
    standing: Standing, name: str, prefix: str, taken: Collection[LessonId], threshold: int, keys: int
) -> None:
    """Refuse a delegation that cannot be; `taken` are the ids in use, and `keys` is how many the publisher may have.

    Raises:
        RepositoryError: the name, the prefix or the threshold cannot be, or an id in use would change its owner.
    """
    check_name(name)
    if not 1 <= threshold <= keys:
        what = f"a threshold of {threshold} with {keys} keys cannot be"
        raise RepositoryError(what, hint="give --public once for each of the publisher's keys")
    known = publishers(standing.targets.signed)
    if name in known.delegations:
        raise RepositoryError(f"{name} is a publisher already", hint="`edgeshare publish keys list` shows them")
    if len(known.delegations) >= MAX_PUBLISHERS:
        what = f"the repository has {len(known.delegations)} publishers"
        raise RepositoryError(what, hint=f"at most {MAX_PUBLISHERS} are possible; clients look no further")
    if not _PREFIX.fullmatch(prefix):
        hint = "use a-z, 0-9 and -, at most 62 characters, like lyon-"
        raise RepositoryError(f"no lesson's id can begin with {shown(prefix)}", hint=hint)
    for other, delegation in known.delegations.items():
        if delegation.prefix == prefix:
            raise RepositoryError(f"the prefix {prefix} is that of {other}", hint="give each publisher one of its own")
    new = Delegation(prefix=prefix, epoch="")
    after = attrs.evolve(known, delegations={**known.delegations, name: new})
    for lesson in sorted(taken):
        if (owner := known.owner(lesson)) != after.owner(lesson):
            what = f"{lesson}, which is in use, would no longer be of {owner}"
            raise RepositoryError(what, hint="give another prefix")


def revoked_publisher(standing: Standing, name: str, why: str, now: datetime) -> Standing:
    """Targets drafted without the publisher, and with the reason for which its lessons are withdrawn.

    Raises:
        RepositoryError: there is no such publisher, it is the repository's own, or the reason is too long.
    """
    require_publisher(standing, name)
    try:
        check_text("the reason", why, 1, 500)
    except ValueError as error:
        raise RepositoryError(str(error), hint="say why in a sentence") from error
    if not publishers(standing.targets.signed).delegations[name].prefix:
        hint = f"`edgeshare publish keys rotate {name}` gives it other keys"
        raise RepositoryError(f"{name} is the repository's own publisher", hint=hint)
    targets: Metadata[Targets] = standing.edited("targets", now)
    role = tuf.delegations(targets)[name]
    for key_id in tuple(role.keyids):
        targets.signed.revoke_key(key_id, name)
    assert targets.signed.delegations is not None
    assert targets.signed.delegations.roles is not None
    del targets.signed.delegations.roles[name]
    _said(targets).setdefault("revoked", {})[name] = why
    drafts = {role: draft for role, draft in standing.drafts.items() if role != name}
    return attrs.evolve(standing, drafts=drafts).drafted("targets", targets)


def revoked_lesson_key(standing: Standing, key_id: bytes, now: datetime) -> Standing:
    """Targets drafted so that a key vouches for no manifest any more."""
    targets: Metadata[Targets] = standing.edited("targets", now)
    listed = _said(targets).setdefault("revoked_keys", [])
    if key_id.hex() not in listed:
        listed.append(key_id.hex())
    return standing.drafted("targets", targets)


def _said(targets: Metadata[Targets]) -> dict[str, Any]:
    """What edgeshare says in the targets role, to change."""
    said: dict[str, Any] = targets.signed.unrecognized_fields.setdefault(FIELD, {})
    return said
