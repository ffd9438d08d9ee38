"""Files that only their owner may touch: whole when written, and refused when others could read or replace them.

A link is followed, for keys may lie on a stick, and what counts is the file and the folder that it leads to.
"""

from __future__ import annotations

import os
from pathlib import Path

from edgeshare import host
from edgeshare.errors import TrustError


def read_secret(path: Path, what: str) -> bytes:
    """The bytes of a file that nobody else can read; `what` it is begins the messages.

    Raises:
        TrustError: others can read, change or replace it, or it belongs to another user.
        OSError: it cannot be read.
    """
    return _read(path, what, forbidden=os.R_OK | os.W_OK)


def read_guarded(path: Path, what: str) -> bytes:
    """The bytes of a file that others may read, and nobody else can change.

    Raises:
        TrustError: others can change or replace it, or it belongs to another user.
        OSError: it cannot be read.
    """
    return _read(path, what, forbidden=os.W_OK)


def require_guarded(folder: Path) -> None:
    """Pass only if nobody else can put files into `folder`, or exchange those that are there.

    Raises:
        TrustError: others can.
        OSError: there is no such folder.
    """
    _require_own(folder, f"the folder {folder}")
    if host.access_of_others(folder) & os.W_OK:
        raise TrustError(f"others can write into the folder {folder}", hint=f"chmod go-w {folder}")


def write_secret(path: Path, data: bytes) -> None:
    """Write a file that only its owner can read; after a power cut it is there whole, or not at all.

    Raises:
        OSError: it could not be written.
    """
    draft = path.with_suffix(".part")
    draft.unlink(missing_ok=True)
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with open(descriptor, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    draft.rename(path)
    host.sync_folder(path.parent)


def _read(path: Path, what: str, *, forbidden: int) -> bytes:
    with open(path, "rb") as file:  # what is checked is what is read, whoever renames meanwhile
        _require_own(file.fileno(), f"{what} {path}")
        found = host.access_of_others(file.fileno()) & forbidden
        if found & os.R_OK:
            raise TrustError(f"{what} {path} can be read by others", hint=f"chmod 600 {path}")
        if found:
            raise TrustError(f"{what} {path} can be changed by others", hint=f"chmod go-w {path}")
        for folder in (path.parent, path.resolve().parent):
            require_guarded(folder)
        return file.read()


def _require_own(file: Path | int, what: str) -> None:
    if not host.is_own(file):
        raise TrustError(f"{what} belongs to another user", hint="run this as its owner, or chown it")
