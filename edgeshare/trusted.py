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
from tuf.api.metadata import Metadata, Root, Timestamp

from edgeshare.freshness import Held
from edgeshare.library.content import put
from edgeshare.targets import issued

TOP_ROLES = ("root", "timestamp", "snapshot", "targets")
_COPY = "trusted.msgpack"
_FORMAT = "edgeshare-trusted/1"


@attrs.frozen(kw_only=True)
class Saved:
    """What the copy holds."""

    files: Mapping[str, bytes]  # by their path in the folder
    refreshed: datetime | None  # when the origin was heard last


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
        return Saved(files=files, refreshed=datetime.fromisoformat(whole["refreshed"]))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return Saved(files={}, refreshed=None)


def save(folder: Path, refreshed: datetime) -> None:
    """Copy what the folder holds, on disk when this returns.

    Raises:
        OSError: it cannot be written; the copy before stands.
    """
    files = {path: (folder / path).read_bytes() for path in _names(folder)}
    put(
        folder / _COPY,
        msgpack.packb({"format": _FORMAT, "files": files, "refreshed": refreshed.isoformat()}),
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
    history = {int(path.name.split(".")[0]): path for path in folder.glob("root_history/[0-9]*.root.json")}
    root = _read(folder / "root.json") or (_read(history[min(history)]) if history else None)
    while root and (following := _read(history.get(root.signed.version + 1, folder / "none"))):
        try:
            root.signed.verify_delegate(Root.type, following.signed_bytes, following.signatures)
        except (RepositoryError, ValueError):
            break
        root = following
    return root


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
