"""Who may publish, and which lessons are whose.

Each publisher has a prefix, which the repository's targets role gave it. A lesson's id belongs to the publisher whose
prefix is the longest that it begins with; the repository's own publisher has the empty one, and so every id that nobody
else was given. What a publisher lists or withdraws counts for its own lessons only.
"""

from __future__ import annotations

from collections.abc import Mapping

import attrs

from edgeshare.manifest import LessonId
from edgeshare.signing import PublicKey


@attrs.frozen(kw_only=True)
class Delegation:
    """A publisher as the repository's targets role vouches for it."""

    prefix: str  # of its lessons' ids; empty: all that nobody else was given
    epoch: str  # names the set of its keys; numbers that should only rise are compared within one epoch


@attrs.frozen(kw_only=True)
class Publishers:
    """All publishers of a repository, and what was revoked."""

    delegations: Mapping[str, Delegation] = attrs.field(factory=dict)  # by the publisher's name
    revoked: Mapping[str, str] = attrs.field(factory=dict)  # publishers whose lessons are withdrawn, and why
    revoked_keys: frozenset[bytes] = frozenset()  # ids of keys for manifests that vouch for nothing any more

    def owner(self, lesson: LessonId) -> str | None:
        """Whose a lesson's id is; None when it is nobody's."""
        return next((name for name in self.delegations if self.owns(name, lesson)), None)

    def usable(self, keys: Mapping[bytes, PublicKey]) -> dict[bytes, PublicKey]:
        """Those of `keys` for manifests, by id, that were not revoked."""
        return {name: key for name, key in keys.items() if name not in self.revoked_keys}

    def owns(self, publisher: str, lesson: LessonId) -> bool:
        """Whether the lesson's id is this publisher's."""
        own = self.delegations.get(publisher)
        if own is None or not lesson.startswith(own.prefix):
            return False
        return not any(
            len(other.prefix) > len(own.prefix) and lesson.startswith(other.prefix)
            for other in self.delegations.values()
        )
