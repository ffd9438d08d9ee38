"""The lessons' files on disk: whole and verified, or not called complete.

What libtorrent reports is not taken for granted: with its default disk backend a lesson on a full disk is "finished"
while half of it is missing. A lesson is complete when its files were read back, hashed to the roots that its info-hash
commits to, and flushed to the disk. What was true then is kept as one stamp a file, so that a restart need not read
anything, and a file that somebody altered is noticed before it is served.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Callable, Sequence
from pathlib import Path

import attrs

from edgeshare import host
from edgeshare.hashtree import TreeHasher
from edgeshare.layout import FileEntry, Layout

_PORTION = 1 << 20  # bytes read at a time
_SYNC_EACH = 64  # more files than this are flushed by one sync of everything, which is then far faster


@attrs.frozen
class Stamp:
    """What the file system says of a file that was verified; any change of it means: look again."""

    size: int
    mtime_ns: int
    inode: int


def put(path: Path, data: bytes) -> None:
    """Write a state file so that a reader, and a power cut, see the old bytes or the new, never a mixture.

    Raises:
        OSError: it could not be written; the old bytes stand.
    """
    draft = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644)
        with open(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            draft.unlink(missing_ok=True)
        raise
    host.sync_folder(path.parent)


def inside(root: Path, path: str) -> Path:
    """The file of a lesson below `root`; `path` has passed `paths.unsafe`."""
    return root.joinpath(*path.split("/"))


def stamp(status: os.stat_result) -> Stamp:
    """The stamp in a file's status."""
    return Stamp(status.st_size, status.st_mtime_ns, status.st_ino)


def verify(root: Path, layout: Layout, cancelled: Callable[[], bool] = lambda: False) -> tuple[Stamp, ...] | None:
    """Read every file of a lesson back from disk and make it last; blocks, so it runs in a thread.

    Returns:
        One stamp a file, in the layout's order; None when a file is missing, altered or of another kind, or when
        `cancelled` turned true.

    Raises:
        OSError: the disk fails.
    """
    stamps: list[Stamp] = []
    for entry in layout.files:
        found = _verified(inside(root, entry.path), entry, cancelled, sync=len(layout.files) <= _SYNC_EACH)
        if found is None:
            return None
        stamps.append(found)
    if len(layout.files) > _SYNC_EACH:
        os.sync()
    return tuple(stamps)


def unchanged(root: Path, layout: Layout, stamps: Sequence[Stamp]) -> bool:
    """Whether every file of a complete lesson is still what was verified, by the file system's word."""
    if len(stamps) != len(layout.files):
        return False
    for entry, known in zip(layout.files, stamps, strict=True):
        try:
            status = os.stat(inside(root, entry.path), follow_symlinks=False)
        except OSError:
            return False
        if not stat.S_ISREG(status.st_mode) or stamp(status) != known:
            return False
    return True


def open_verified(root: Path, entry: FileEntry, known: Stamp) -> int | None:
    """A descriptor of a complete lesson's file; None when it is no longer what was verified. The caller closes it."""
    descriptor = _open(inside(root, entry.path))
    if descriptor is not None and stamp(os.fstat(descriptor)) != known:
        os.close(descriptor)
        return None
    return descriptor


def _verified(path: Path, entry: FileEntry, cancelled: Callable[[], bool], *, sync: bool) -> Stamp | None:
    descriptor = _open(path)
    if descriptor is None:
        return None
    with open(descriptor, "rb", buffering=0) as file:
        before = stamp(os.fstat(descriptor))
        if before.size != entry.size:
            return None
        hasher = TreeHasher()
        while portion := file.read(_PORTION):
            if cancelled():
                return None
            hasher.update(portion)
        if hasher.root() != entry.root or stamp(os.fstat(descriptor)) != before:
            return None
        if sync:
            os.fsync(descriptor)
        return before


def _open(path: Path) -> int | None:
    """A descriptor of a regular file, never of a link, a FIFO or a device; None when there is none."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    except OSError as error:
        if error.errno in (errno.ENOTDIR, errno.ELOOP, errno.EACCES, errno.ENXIO):
            return None
        raise
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        return None
    return descriptor
