"""A lesson's content on its way into the repository: copied once, and hashed by the same pass."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from edgeshare.errors import LessonError
from edgeshare.hashtree import FileHasher, HashedFile
from edgeshare.publish.folder import SourceFile

_PORTION = 1 << 20  # bytes read at a time


def copy_content(
    files: Iterable[SourceFile],
    destination: Path,
    piece_length: int,
    report: Callable[[int], None] = lambda count: None,
) -> list[HashedFile]:
    """Copy `files` below the empty folder `destination` and hash what was written.

    `report` hears of every portion's bytes. Nothing is flushed to the disk: a release does that once, for all.

    Raises:
        LessonError: a file cannot be read, or changed meanwhile.
        OSError: the copy cannot be written.
    """
    files = list(files)
    for folder in sorted({file.path.rpartition("/")[0] for file in files}):
        (destination / folder).mkdir(parents=True, exist_ok=True)
    # A large file is hashed while it is written. Small ones gain nothing from threads: making a file is most of it.
    with ThreadPoolExecutor(1) as beside:
        return [_copy_file(file, f"{destination}/{file.path}", piece_length, report, beside) for file in files]


def _copy_file(
    file: SourceFile, target: str, piece_length: int, report: Callable[[int], None], beside: ThreadPoolExecutor
) -> HashedFile:
    hasher = FileHasher(piece_length)
    source = _open(file)
    try:
        before = os.fstat(source)
        if not stat.S_ISREG(before.st_mode):
            raise LessonError(f"{file.path!r} is no longer a file", hint="publish again when it is")
        copy = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
        size = 0
        try:
            while True:
                # one byte more than there should be: a file that has its size and no more ends with this read
                most = min(_PORTION, max(0, file.size - size) + 1)
                portion = _read(source, file, most)
                if len(portion) < _PORTION:
                    _write(copy, portion)
                    hasher.update(portion)
                else:
                    written = beside.submit(_write, copy, portion)
                    hasher.update(portion)
                    written.result()
                size += len(portion)
                report(len(portion))
                if not portion or size > file.size or (size == file.size and len(portion) < most):
                    break
        finally:
            os.close(copy)
        after = os.fstat(source)
    finally:
        os.close(source)
    if (before.st_mtime_ns, before.st_size) != (after.st_mtime_ns, after.st_size) or size != file.size:
        raise LessonError(f"{file.path!r} changed while it was read", hint="publish again when it is finished")
    return hasher.finish(file.path)


def _open(file: SourceFile) -> int:
    try:
        # not through a link: links were resolved when the folder was looked through
        return os.open(file.source, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise _unreadable(file, error) from error


def _read(source: int, file: SourceFile, most: int) -> bytes:
    try:
        return os.read(source, most)
    except OSError as error:
        raise _unreadable(file, error) from error


def _write(copy: int, portion: bytes) -> None:
    rest = memoryview(portion)
    while rest:
        rest = rest[os.write(copy, rest) :]


def _unreadable(file: SourceFile, error: OSError) -> LessonError:
    hint = "does it exist, and may you read it?"
    return LessonError(f"cannot read the lesson's file {file.path!r} ({error.strerror})", hint=hint)
