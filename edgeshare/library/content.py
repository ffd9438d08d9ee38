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
import shutil
import stat
from collections.abc import Callable, Sequence
from pathlib import Path

import attrs

from edgeshare import host
from edgeshare.hashtree import TreeHasher
from edgeshare.layout import FileEntry, Layout

_PORTION = 1 << 20  # bytes read at a time
_READING = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_NO_FILE = (errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ELOOP, errno.EACCES, errno.ENXIO)
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
        draft.unlink(missing_ok=True)  # of a process that was killed, or a link that somebody put on a stick
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
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


def make_way(root: Path, layout: Layout) -> None:
    """Leave below `root` nothing in a lesson's way, and nothing that would lead its bytes elsewhere; blocks.

    What stands where a file or a folder of it belongs and is neither (a link, a folder, a device), and what cannot be
    opened, is removed. A file that is too long is cut: libtorrent reads only as far as it expects.

    Raises:
        OSError: something cannot be removed or cut.
    """
    seen: set[Path] = set()
    for entry in layout.files:
        path = inside(root, entry.path)
        for folder in (root, *reversed(path.relative_to(root).parents[:-1])):
            above = root / folder
            if above not in seen and not stat.S_ISDIR(_mode(above)):
                _remove(above)
            seen.add(above)
        descriptor = _open(path, os.O_RDWR)
        if descriptor is not None:
            with open(descriptor, "rb+", buffering=0) as file:
                if os.fstat(descriptor).st_size > entry.size:
                    file.truncate(entry.size)
        else:
            _remove(path)


def take_over(root: Path, layout: Layout, before: Path, known: Layout) -> int:
    """Give a lesson below `root` the files that its version below `before` has too; bytes that were taken over.

    As a second name of the same file where the file system knows such, so that nothing is read, written or stored
    twice; else as a copy. They are not verified here. What is at a file's place already stays.

    Raises:
        OSError: the disk fails.
    """
    by_root = {(entry.root, entry.size): entry for entry in known.files if entry.size}
    taken = 0
    for entry in layout.files:
        if (found := by_root.get((entry.root, entry.size))) is None:
            continue
        source, path = inside(before, found.path), inside(root, entry.path)
        if not stat.S_ISREG(_mode(source)) or _mode(path):
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.link(source, path, follow_symlinks=False)
        except OSError as error:
            if error.errno not in (errno.EPERM, errno.EOPNOTSUPP, errno.EMLINK, errno.EXDEV):
                raise
            shutil.copyfile(source, path, follow_symlinks=False)  # FAT has no second names; torn, it is fetched
        taken += entry.size
    return taken


def written(root: Path, layout: Layout) -> int:
    """Bytes of a lesson's files that the disk has given room to, by the file system's word."""
    total = 0
    for entry in layout.files:
        with contextlib.suppress(OSError):
            status = os.stat(inside(root, entry.path), follow_symlinks=False)
            total += min(entry.size, status.st_blocks * 512)  # stat(2) counts in 512 bytes, whatever the disk does
    return total


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


def open_verified(root: Path | str, entry: FileEntry, known: Stamp) -> int | None:
    """A descriptor of a complete lesson's file; None when it is no longer what was verified. The caller closes it."""
    try:  # as `_open`, in a third of its time: one look at the file, and no Path
        descriptor = os.open(f"{root}/{entry.path}", _READING)
    except OSError as error:
        if error.errno in _NO_FILE:
            return None
        raise
    status = os.fstat(descriptor)
    found = status.st_size, status.st_mtime_ns, status.st_ino
    if stat.S_ISREG(status.st_mode) and found == (known.size, known.mtime_ns, known.inode):
        return descriptor
    os.close(descriptor)
    return None


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


def _mode(path: Path) -> int:
    """What is at `path`, links not followed; 0 when there is nothing."""
    try:
        return os.stat(path, follow_symlinks=False).st_mode
    except (FileNotFoundError, NotADirectoryError):
        return 0


def _remove(path: Path) -> None:
    mode = _mode(path)
    if stat.S_ISDIR(mode):
        shutil.rmtree(path)
    elif mode:
        path.unlink()


def _open(path: Path, access: int = os.O_RDONLY) -> int | None:
    """A descriptor of a regular file, never of a link, a FIFO or a device; None when there is none."""
    try:
        descriptor = os.open(path, access | _READING)
    except OSError as error:
        if error.errno in _NO_FILE:
            return None
        raise
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        return None
    return descriptor
