"""Signing one file of metadata on a machine that has nothing but the file and its keys.

What is signed is shown first. The folder of the file may also hold what its keys and changes are told by: the version
before it, and the role that gives it its keys. A root without the one before it is signed by the keys that it lists
itself; another role without the one above it by all keys that bear its name, of which a repository counts those that it
knows, and no others.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import attrs
from tuf.api.exceptions import RepositoryError as TufError
from tuf.api.metadata import Metadata, Role, Root, Targets

from edgeshare.errors import RepositoryError, TrustError
from edgeshare.library.content import put
from edgeshare.manifest import shown
from edgeshare.publish import metadata as tuf
from edgeshare.publish.drafts import Need, needs
from edgeshare.publish.keys import TOP_ROLES, Keys
from edgeshare.publishers import Publishers
from edgeshare.targets import publishers

_NAME = re.compile(r"([1-9][0-9]{0,9})\.([a-z0-9]+(?:-[a-z0-9]+)*)\.json")
_PLAIN = re.compile(r"[A-Za-z0-9][A-Za-z0-9./-]{0,79}")
_MAX = 5_000_000  # bytes; what a node reads of a role


@attrs.frozen(kw_only=True)
class Document:
    """A file that waits for signatures, and what is known of those above and before it."""

    path: Path
    role: str
    metadata: Metadata[Any]
    before: Metadata[Any] | None  # the version before
    above: tuple[Metadata[Any], ...]  # whose keys count: of a root, itself and the one before; the newest last

    @property
    def title(self) -> str:
        """What it is, in a line."""
        signed = self.metadata.signed
        return f"{self.role}, version {signed.version}, expires {signed.expires:%Y-%m-%d}"

    @property
    def is_told(self) -> bool:
        """Whether all are there whose keys count."""
        return len(self.above) > (self.role == "root")

    @property
    def teller(self) -> str:
        """The file which, beside it, tells what it lacks."""
        if self.role == "root":
            return f"{self.metadata.signed.version - 1}.root.json"
        return "the newest N.root.json" if self.role == "targets" else "the newest N.targets.json"


@attrs.frozen(kw_only=True)
class Countersigned:
    """What signing a file did."""

    signed: tuple[str, ...]  # ids of the keys whose signature is new
    had_signed: tuple[str, ...]  # of those here that had signed before
    needs: tuple[Need, ...] | None  # None where it cannot be told


def read_document(path: Path) -> Document:
    """The draft in a file.

    Raises:
        RepositoryError: it is no metadata that is signed like this.
    """
    try:
        with path.open("rb") as file:
            raw = file.read(_MAX + 1)
        metadata: Metadata[Any] = Metadata.from_bytes(raw if len(raw) <= _MAX else b"")
    except OSError as error:
        raise RepositoryError(f"cannot read {path} ({error.strerror})", hint="name a draft") from error
    except (TufError, ValueError, RecursionError) as error:
        raise RepositoryError(f"{path} is not TUF metadata", hint="name a draft of .edgeshare/signing") from error
    kind, match = metadata.signed.type, _NAME.fullmatch(path.name)
    if kind in ("snapshot", "timestamp"):
        raise RepositoryError(f"{path} is a {kind}", hint="`edgeshare publish release` signs it, on the online machine")
    role = match[2] if match else kind
    is_named = match is not None and match[1] == str(metadata.signed.version)
    if not is_named or (role == "root") != (kind == "root") or role in ("snapshot", "timestamp"):
        hint = f"drafts are named like {metadata.signed.version}.{kind}.json, or after their publisher"
        raise RepositoryError(f"{path} is not what its name says", hint=hint)
    before = next(_beside(path, role, metadata.signed.version - 1), None)
    if role == "root":
        above = tuple(filter(None, (before, metadata)))
    else:
        above = tuple(_all_beside(path, "root" if role == "targets" else "targets"))
    return Document(path=path, role=role, metadata=metadata, before=before, above=above)


def described(document: Document) -> Iterator[str]:
    """What would be signed, in lines: first what it is, then what it changes."""
    yield document.title
    signed, before = document.metadata.signed, document.before.signed if document.before else None
    if before is None:
        yield f"the version before is not beside it: everything below is shown as new ({document.path.parent})"
    match signed:
        case Root():
            for role in TOP_ROLES:
                yield from _keys_changed(role, signed, before)
        case Targets():
            said, known = publishers(signed), publishers(before) if before else Publishers()
            for name in sorted({*said.delegations, *known.delegations}):
                yield from _keys_changed(name, signed, before)
            for name in sorted(said.delegations.keys() - known.delegations.keys()):
                yield f"{_plain(name)} publishes lessons whose ids begin with {_plain(said.delegations[name].prefix)}"
            for name in sorted(said.revoked.keys() - known.revoked.keys()):
                yield f"{_plain(name)} is revoked, and its lessons are withdrawn: {shown(said.revoked[name])}"
            for key in sorted(said.revoked_keys - known.revoked_keys):
                yield f"the key for manifests {key.hex()[:8]} is revoked"
            yield from _targets_changed(signed, before)


def countersign(document: Document, keys: Keys) -> Countersigned:
    """Add the signatures of the keys here that count; the file changes only when there are any.

    Raises:
        TrustError: no key of the role is here, or none that counts.
        RepositoryError: the file cannot be written.
    """
    signers = keys.signers_of(document.role)
    if not signers:
        raise TrustError(f"no key of {document.role} is here", hint="give --keys the folder that holds it")
    known = frozenset().union(*(tuf.key_ids(above, document.role) for above in document.above))
    counting = [each for each in signers if not document.above or each.public_key.keyid in known]
    if not counting:
        what = f"the keys of {document.role} here do not count for {document.path.name}"
        hint = "`edgeshare publish keys list` shows those that do"
        if not document.is_told:
            hint = f"put {document.teller} beside it if they are among the keys before"
        raise TrustError(what, hint=hint)
    metadata = document.metadata
    had = tuple(each.public_key.keyid for each in counting if tuf.has_signed(metadata, each.public_key))
    tuf.sign(metadata, counting, {each.public_key.keyid for each in counting})
    new = tuple(each.public_key.keyid for each in counting if each.public_key.keyid not in had)
    if new:
        try:
            put(document.path, tuf.encode(metadata))
        except OSError as error:
            what = f"cannot write {document.path} ({error.strerror})"
            raise RepositoryError(what, hint="is its disk full or read-only?") from error
    deciding = document.above if document.role == "root" else document.above[-1:]
    left = needs(tuf.vouched(above, document.role, metadata) for above in deciding) if document.is_told else None
    return Countersigned(signed=new, had_signed=had, needs=left)


def _folders(path: Path) -> tuple[Path, ...]:
    """Where other roles may be: beside the file, and in the repository that it is a draft of."""
    folder = path.absolute().parent
    if folder.name == "signing" and folder.parent.name == ".edgeshare":
        return (folder, folder.parent.parent / "metadata")
    return (folder,)


def _beside(path: Path, role: str, version: int) -> Iterator[Metadata[Any]]:
    for folder in _folders(path):
        try:
            yield Metadata.from_bytes((folder / f"{version}.{role}.json").read_bytes())
        except (OSError, TufError, ValueError):
            continue


def _all_beside(path: Path, role: str) -> Iterator[Metadata[Any]]:
    """The two newest versions of a role in reach, the newest last: a draft of it may be under way."""
    versions = {
        int(match[1])
        for folder in _folders(path)
        for found in folder.glob(f"*.{role}.json")
        if (match := _NAME.fullmatch(found.name))
    }
    for version in sorted(versions)[-2:]:
        yield from _beside(path, role, version)


def _keys_changed(role: str, signed: Root | Targets, before: Root | Targets | None) -> Iterator[str]:
    old, new = (_role_of(each, role) for each in (before, signed))
    if new is None:
        yield f"{_plain(role)} is no publisher any more"
        return
    ids, known = set(new.keyids), set(old.keyids) if old else set()
    said = [f"{new.threshold} of {len(ids)} keys"]
    said += [f"{len(ids & known)} as before"] if ids & known else []
    said += [f"+ {_short(key)}" for key in sorted(ids - known)]
    said += [f"- {_short(key)}" for key in sorted(known - ids)]
    yield f"{_plain(role)}: {', '.join(said)}"


def _targets_changed(signed: Targets, before: Targets | None) -> Iterator[str]:
    known = before.targets if before else {}
    for path, target in signed.targets.items():
        if path not in known or known[path] != target:
            yield f"{'changed' if path in known else 'new'}: {_plain(path)}"
    for path in known:
        if path not in signed.targets:
            yield f"gone: {_plain(path)}"


def _role_of(signed: Root | Targets | None, role: str) -> Role | None:
    try:
        return signed.get_delegated_role(role) if signed else None
    except ValueError:
        return None


def _plain(name: str) -> str:
    """A name from the file, as it may stand in a line."""
    return name if _PLAIN.fullmatch(name) else shown(name)


def _short(key_id: str) -> str:
    return _plain(key_id[:8])
