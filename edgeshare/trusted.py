"""The trusted metadata on disk: what the updater keeps in a folder, and a copy that a power cut cannot tear.

The updater replaces its files one by one and never flushes them, so what a power cut leaves may be empty or older, and
an emptied timestamp would let an older one be taken. `save` therefore keeps all of them in one file after each refresh
that changed something, and `restore` puts back what is missing, torn or older when the node starts.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

import attrs
import msgpack
from tuf.api.exceptions import RepositoryError
from tuf.api.metadata import Metadata, Root, Snapshot, Targets, Timestamp

from edgeshare.freshness import Held
from edgeshare.library.content import put
from edgeshare.targets import hashed_target, issued

TOP_ROLES = ("root", "timestamp", "snapshot", "targets")
_COPY = "trusted.msgpack"
_FORMAT = "edgeshare-trusted/1"


@attrs.frozen(kw_only=True)
class Saved:
    """What the copy holds."""

    files: Mapping[str, bytes]  # by their path in the folder
    refreshed: datetime | None  # when the origin was heard last


@attrs.frozen(kw_only=True)
class Published:
    """The trusted metadata as a repository publishes it, to be handed on."""

    files: Mapping[str, bytes]  # by their names below `metadata/`, every root from the first on
    version: int  # of the timestamp
    role: str  # whose metadata expires first
    expires: datetime  # and when
    targets: Mapping[str, str]  # where each target's file is below `targets/`, by its path


def published(copy: Saved) -> Published | None:
    """What the copy holds, for others; None when it is not whole."""
    read = {path: known for path, raw in copy.files.items() if (known := _parsed(raw)) is not None}
    history = {known.signed.version: path for path, known in read.items() if path.startswith("root_history/")}
    roots = _chain({version: read[path] for version, path in history.items()})
    timestamp, snapshot = (read.get(f"{role}.json") for role in ("timestamp", "snapshot"))
    if not roots or timestamp is None or snapshot is None or not isinstance(snapshot.signed, Snapshot):
        return None
    files = {f"{root.signed.version}.root.json": copy.files[history[root.signed.version]] for root in roots}
    files |= {"timestamp.json": copy.files["timestamp.json"]}
    files |= {f"{snapshot.signed.version}.snapshot.json": copy.files["snapshot.json"]}
    expiries = {"root": roots[-1].signed.expires}
    expiries |= {"timestamp": timestamp.signed.expires, "snapshot": snapshot.signed.expires}
    targets: dict[str, str] = {}
    for name, meta in snapshot.signed.meta.items():
        known = read.get(name)
        if known is None or known.signed.version != meta.version or not isinstance(known.signed, Targets):
            continue  # a publisher's that nobody asked for here
        files[f"{meta.version}.{name}"] = copy.files[name]
        expiries[name.removesuffix(".json")] = known.signed.expires
        targets |= {path: hashed_target(path, target) for path, target in known.signed.targets.items()}
    role, expires = min(expiries.items(), key=lambda each: each[1])
    if "targets" not in expiries:
        return None
    return Published(files=files, version=timestamp.signed.version, role=role, expires=expires, targets=targets)


def timestamp_version(raw: bytes) -> int:
    """The version that a timestamp claims, nothing of it verified; 0 when it is none."""
    known = _parsed(raw)
    return known.signed.version if known and isinstance(known.signed, Timestamp) else 0


def held(folder: Path) -> Held | None:
    """What the folder's metadata says; None when it is not whole."""
    read = {path: _read(folder / path) for path in _names(folder)}
    by_role = {path.removesuffix(".json"): known for path, known in read.items() if "/" not in path and known}
    if root := _newest_root(folder):
        by_role["root"] = root
    if not by_role.keys() >= set(TOP_ROLES):
        return None
    timestamp = by_role["timestamp"].signed
    return Held(
        versions={role: known.signed.version for role, known in by_role.items()},
        expiries={role: by_role[role].signed.expires for role in TOP_ROLES},
        issued=issued(timestamp) if isinstance(timestamp, Timestamp) else None,
    )


def saved(folder: Path) -> Saved:
    """What the copy says; nothing when there is none, or it is damaged."""
    try:
        whole = msgpack.unpackb((folder / _COPY).read_bytes())
        if whole["format"] != _FORMAT:
            return Saved(files={}, refreshed=None)
        files = {str(path): bytes(raw) for path, raw in whole["files"].items()}
        refreshed = datetime.fromisoformat(whole["refreshed"]) if whole["refreshed"] else None
        return Saved(files=files, refreshed=refreshed)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return Saved(files={}, refreshed=None)


def save(folder: Path, refreshed: datetime | None) -> None:
    """Copy what the folder holds, and when the origin was heard last; on disk when this returns.

    Raises:
        OSError: it cannot be written; the copy before stands.
    """
    files = {path: (folder / path).read_bytes() for path in _names(folder)}
    put(
        folder / _COPY,
        msgpack.packb({"format": _FORMAT, "files": files, "refreshed": refreshed.isoformat() if refreshed else ""}),
    )


def restore(folder: Path, copy: Saved) -> None:
    """Put back from the copy what the folder has lost, torn or in an older version; clear what a kill left half-made.

    Raises:
        OSError: it cannot be written.
    """
    for draft in (*folder.glob("tmp*"), *folder.glob(".*.part"), folder / "target"):  # the updater's, ours
        draft.unlink(missing_ok=True)
    for path, raw in copy.files.items():
        known, kept = _read(folder / path), _parsed(raw)
        if kept is not None and (known is None or known.signed.version < kept.signed.version):
            (folder / path).parent.mkdir(exist_ok=True)
            put(folder / path, raw)


def _newest_root(folder: Path) -> Metadata[Any] | None:
    """The end of the chain that begins with the root in use.

    While the updater works its link may lead to an earlier root, or be gone; and the history may go on with roots of a
    chain that the node has given up.
    """
    paths = folder.glob("root_history/[0-9]*.root.json")
    history = {known.signed.version: known for path in paths if (known := _read(path)) is not None}
    if root := _read(folder / "root.json"):
        history = {version: known for version, known in history.items() if version > root.signed.version}
        history[root.signed.version] = root
    chain = _chain(history)
    return chain[-1] if chain else None


def _chain(roots: Mapping[int, Metadata[Any]]) -> list[Metadata[Any]]:
    """Of `roots`, by version, the first and those that follow one from another."""
    chain = [roots[min(roots)]] if roots else []
    while chain and (following := roots.get(chain[-1].signed.version + 1)):
        try:
            chain[-1].signed.verify_delegate(Root.type, following.signed_bytes, following.signatures)
        except (RepositoryError, ValueError):
            break
        chain.append(following)
    return chain


def _names(folder: Path) -> Iterator[str]:
    """The paths of what the updater keeps; `root.json` is a link to one of them."""
    for path in sorted([*folder.glob("*.json"), *folder.glob("root_history/*.json")]):
        if path.name != "root.json":
            yield str(path.relative_to(folder))


def _read(path: Path) -> Metadata[Any] | None:
    try:
        return _parsed(path.read_bytes())
    except OSError:
        return None


def _parsed(raw: bytes) -> Metadata[Any] | None:
    try:
        return Metadata.from_bytes(raw)
    except (RepositoryError, ValueError):
        return None
