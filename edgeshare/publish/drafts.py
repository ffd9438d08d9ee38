"""Next versions of roles that wait for signatures: made on one machine, signed on others, published when enough have.

Root, targets and the publishers are drafted; snapshot and timestamp are signed by the online machine when it publishes.
A draft has the version after the published one; there is at most one for each role. Rules for publishing them:

- A root needs the thresholds of the one before and of its own (TUF specification §5.3.4).
- No role is published that those above it would not vouch for, nor one that would leave another so.
- A targets role that revokes a key for manifests waits until no catalogue rests on that key alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

import attrs
from tuf.api.exceptions import RepositoryError as TufError
from tuf.api.metadata import Metadata, Root, Targets, VerificationResult

from edgeshare.errors import EdgeshareError, RepositoryError
from edgeshare.publish import metadata as tuf
from edgeshare.publish.keys import TOP_ROLES, Keys
from edgeshare.publish.metadata import RepositoryMetadata, vouched
from edgeshare.targets import lesson_keys, publishers


@attrs.frozen
class Need:
    """Signatures that a draft lacks."""

    missing: int
    keys: tuple[str, ...]  # the ids of those that may give them


def needs(results: Iterable[VerificationResult]) -> tuple[Need, ...]:
    """What is missing for thresholds to be reached, each once."""
    return tuple(dict.fromkeys(Need(each.missing, tuple(sorted(each.unsigned))) for each in results if not each))


@attrs.frozen(kw_only=True)
class Waiting:
    """A draft that is not published yet."""

    role: str
    version: int
    expires: datetime
    signed: tuple[str, ...]  # the ids of keys whose signatures count
    needs: tuple[Need, ...]  # each of them; none when it waits for another role only, or for the online keys


@attrs.frozen(kw_only=True)
class Standing:
    """What is published, and the drafts."""

    published: RepositoryMetadata
    drafts: Mapping[str, Metadata[Any]] = attrs.field(factory=dict)  # by role

    @property
    def root(self) -> Metadata[Root]:
        """The newest root, drafted or published."""
        return self.drafts.get("root", self.published.root)

    @property
    def targets(self) -> Metadata[Targets]:
        """The newest targets role, drafted or published."""
        return self.drafts.get("targets", self.published.targets)

    @property
    def publishers(self) -> frozenset[str]:
        """The names of those that are delegated to, in what is drafted or published."""
        return frozenset([*tuf.delegations(self.published.targets), *tuf.delegations(self.targets)])

    def publisher(self, name: str) -> Metadata[Targets] | None:
        """The newest role of a publisher; None for one that was delegated to and has none yet."""
        return self.drafts.get(name) or self.published.publishers.get(name)

    def above(self, role: str) -> Metadata[Root] | Metadata[Targets]:
        """The newest role that gives `role` its keys."""
        return self.root if role in TOP_ROLES else self.targets

    def key_ids(self, role: str) -> frozenset[str]:
        """The ids of the keys whose signatures count for a draft of the role, by what is published or drafted."""
        before = self.published.root if role in TOP_ROLES else self.published.targets
        return tuf.key_ids(before, role) | tuf.key_ids(self.above(role), role)

    def drafted(self, role: str, metadata: Metadata[Any]) -> Standing:
        """The same with another draft of the role, which nobody has signed yet.

        Raises:
            RepositoryError: it holds something that cannot be signed.
        """
        tuf.payload(metadata)
        return attrs.evolve(self, drafts={**self.drafts, role: Metadata(metadata.signed)})

    def edited(self, role: str, now: datetime) -> Metadata[Any]:
        """The role's next version to change: a copy of its draft if there is one, with a new life and no signature."""
        if role in self.drafts:
            copied = tuf.following(self.drafts[role], now, role)
            copied.signed.version -= 1
            return copied
        published = tuf.role_of(self.published, role)
        assert published is not None
        return tuf.following(published, now, role)

    def signed(self, keys: Keys, *roles: str) -> Standing:
        """The same with the signatures that `keys` can give to the drafts of `roles`."""
        drafts = dict(self.drafts)
        for role in roles:
            if role in drafts:
                drafts[role] = draft = Metadata(drafts[role].signed, dict(drafts[role].signatures))
                tuf.sign(draft, keys.signers_of(role), self.key_ids(role))
        return attrs.evolve(self, drafts=drafts)

    def completed(self, now: datetime) -> Standing:
        """The same with a draft for each role that those above it, as drafted, would no longer vouch for."""
        found = self
        if not vouched(found.root, "targets", found.targets) and "targets" not in found.drafts:
            found = found.drafted("targets", found.edited("targets", now))
        for name in tuf.delegations(found.targets):
            role = found.publisher(name)
            if role is None:
                version = self.next_version(name)
                first = Metadata(Targets(version=version, expires=now + tuf.lifetime(name)))
                found = found.drafted(name, first)
            elif name not in found.drafts and not vouched(found.targets, name, role):
                found = found.drafted(name, found.edited(name, now))
        return found

    def ready(self) -> RepositoryMetadata:
        """The newest that could be published now, under the published snapshot and timestamp."""
        roots = [self.published.root]
        if "root" in self.drafts and all(self._results("root")):
            roots.insert(0, self.drafts["root"])
        for root in roots:
            for targets in (self.targets, self.published.targets):
                publishing = self._publishing(root, targets)
                if publishing is not None and self._is_due("targets", targets, root):
                    return attrs.evolve(self.published, root=root, targets=targets, publishers=publishing)
        return self.published

    def waiting(self) -> tuple[Waiting, ...]:
        """The drafts, and what each of them lacks."""
        return tuple(
            Waiting(
                role=role,
                version=draft.signed.version,
                expires=draft.signed.expires,
                signed=tuple(sorted({key for each in self._results(role) for key in each.signed})),
                needs=needs(self._results(role)),
            )
            for role, draft in self.drafts.items()
        )

    def next_version(self, role: str) -> int:
        """The version after the published one; also after that of a publisher which was revoked."""
        published = tuf.role_of(self.published, role)
        if published is None:
            known = self.published.snapshot.signed.meta.get(f"{role}.json")
            return known.version + 1 if known else 1
        version: int = published.signed.version
        return version + 1

    def _results(self, role: str) -> Iterator[VerificationResult]:
        """What each of those that decide says of the role's draft."""
        draft = self.drafts[role]
        if role == "root":
            yield vouched(self.published.root, "root", draft)
        if role in TOP_ROLES or role in tuf.delegations(self.targets):
            yield vouched(self.above(role), role, draft)

    def _publishing(self, root: Metadata[Root], targets: Metadata[Targets]) -> dict[str, Metadata[Targets]] | None:
        """The publishers' roles under this root and these targets; None where one of them would not be vouched for."""
        if not vouched(root, "targets", targets):
            return None
        found: dict[str, Metadata[Targets]] = {}
        revoked = publishers(targets.signed).revoked_keys
        for name in tuf.delegations(targets):
            for role in (self.drafts.get(name), self.published.publishers.get(name)):
                if role is None or not vouched(targets, name, role):
                    continue
                if self._is_due(name, role, targets) and not _rests_on(role, revoked):
                    found[name] = role
                    break
            else:
                return None
        return found

    def _is_due(self, role: str, metadata: Metadata[Any], above: Metadata[Any]) -> bool:
        """Whether `metadata` has a reason to be published under `above`.

        What only says the same again, for keys that are not published yet, would be needed once more with them.
        """
        newest = self.above(role)
        if metadata is not self.drafts.get(role) or above is newest:
            return True
        if tuf.key_ids(newest, role) and vouched(newest, role, metadata):
            return True
        published = tuf.role_of(self.published, role)
        return published is None or _said(metadata) != _said(published)


def read_drafts(folder: Path, published: RepositoryMetadata) -> Standing:
    """The drafts in a folder, those of versions that are published aside.

    Raises:
        RepositoryError: one of them is no draft of a role here.
    """
    standing = Standing(published=published)
    drafts: dict[str, Metadata[Any]] = {}
    for path in sorted(folder.glob("*.json")):
        number, _, role = path.name.removesuffix(".json").partition(".")
        try:
            draft: Metadata[Any] = Metadata.from_bytes(path.read_bytes())
        except (TufError, ValueError) as error:
            what = f"the draft {path} is not TUF metadata ({type(error).__name__})"
            raise RepositoryError(what, hint="remove it, and make it again") from error
        if draft.signed.type != ("root" if role == "root" else "targets") or number != str(draft.signed.version):
            raise RepositoryError(f"{path} is not the draft that its name says", hint="remove it, and make it again")
        if draft.signed.version == standing.next_version(role):
            drafts[role] = draft
    return attrs.evolve(standing, drafts=drafts)


def _said(metadata: Metadata[Any]) -> dict[str, Any]:
    """What a role says, whatever its version and its life."""
    return {key: value for key, value in metadata.signed.to_dict().items() if key not in ("version", "expires")}


def _rests_on(role: Metadata[Targets], revoked: frozenset[bytes]) -> bool:
    """Whether a catalogue of the role has no key left that is not revoked."""
    try:
        return any(lesson_keys(target).keys() <= revoked for target in role.signed.targets.values())
    except EdgeshareError:
        return False  # it is refused where it is read
