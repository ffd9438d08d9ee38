"""A lesson's content on its way into the repository: copied once, and hashed by the same pass."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from io import FileIO
from pathlib import Path

from edgeshare.errors import LessonError
from edgeshare.hashtree import FileHasher, HashedFile
from edgeshare.publish.folder import SourceFile

_PORTION = 1 << 20  # bytes read at a time
_AT_ONCE = 2  # files; more gain nothing: the file system makes one after the other


def copy_content(
    files: Iterable[SourceFile],
    destination: Path,
    piece_length: int,
    report: Callable[[int], None] = lambda count: None,
) -> list[HashedFile]:
    """Copy `files` below the empty folder `destination` and hash what was written.

    `report` hears of every portion's bytes, from several threads. Nothing is flushed to the disk: a release does that
    once, for all.

    Raises:
        LessonError: a file cannot be read, or changed meanwhile.
        OSError: the copy cannot be written.
    """
    files = list(files)
    for folder in sorted({file.path.rpartition("/")[0] for file in files}):
        (destination / folder).mkdir(parents=True, exist_ok=True)
    # Making a small file costs more than hashing it, and a large one is hashed while it is written.
    with ThreadPoolExecutor(_AT_ONCE) as workers, ThreadPoolExecutor(_AT_ONCE) as writers:
        tasks = [workers.submit(_copy_file, file, destination, piece_length, report, writers) for file in files]
        try:
            return [task.result() for task in tasks]
        finally:
            workers.shutdown(cancel_futures=True)


def _copy_file(
    file: SourceFile, destination: Path, piece_length: int, report: Callable[[int], None], writers: ThreadPoolExecutor
) -> HashedFile:
    hasher = FileHasher(piece_length)
    with _opened(file) as source, FileIO(f"{destination}/{file.path}", "x") as target:
        before = os.fstat(source.fileno())
        while portion := _read(source, file):
            if len(portion) < _PORTION:
                _write(target, portion)
                hasher.update(portion)
            else:
                written = writers.submit(_write, target, portion)
                hasher.update(portion)
                written.result()
            report(len(portion))
        after = os.fstat(source.fileno())
        size = target.tell()
    if (before.st_mtime_ns, before.st_size) != (after.st_mtime_ns, after.st_size) or size != file.size:
        raise LessonError(f"{file.path!r} changed while it was read", hint="publish again when it is finished")
    return hasher.finish(file.path)


def _write(target: FileIO, portion: bytes) -> None:
    rest = memoryview(portion)
    while rest:
        rest = rest[target.write(rest) or 0 :]


def _opened(file: SourceFile) -> FileIO:
    try:
        # not through a link: links were resolved when the folder was looked through
        descriptor = os.open(file.source, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise _unreadable(file, error) from error
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise LessonError(f"{file.path!r} is no longer a file", hint="publish again when it is")
    return FileIO(descriptor)


def _read(source: FileIO, file: SourceFile) -> bytes:
    try:
        return source.read(_PORTION)
    except OSError as error:
        raise _unreadable(file, error) from error


def _unreadable(file: SourceFile, error: OSError) -> LessonError:
    hint = "does it exist, and may you read it?"
    return LessonError(f"cannot read the lesson's file {file.path!r} ({error.strerror})", hint=hint)
