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
    hashed: list[HashedFile] = []
    made: set[Path] = set()
    with ThreadPoolExecutor(1) as beside:  # writing and hashing cost about the same; together they take half

        def write(target: FileIO, portion: bytes) -> None:
            rest = memoryview(portion)
            while rest:
                rest = rest[target.write(rest) or 0 :]

        for file in files:
            path = destination / file.path
            if path.parent not in made:
                path.parent.mkdir(parents=True, exist_ok=True)
                made.add(path.parent)
            hasher = FileHasher(piece_length)
            with _opened(file) as source, FileIO(path, "x") as target:
                before = os.fstat(source.fileno())
                while portion := source.read(_PORTION):
                    if len(portion) < _PORTION:
                        write(target, portion)
                        hasher.update(portion)
                    else:
                        written = beside.submit(write, target, portion)
                        hasher.update(portion)
                        written.result()
                    report(len(portion))
                after = os.fstat(source.fileno())
                size = target.tell()
            if (before.st_mtime_ns, before.st_size) != (after.st_mtime_ns, after.st_size) or size != file.size:
                raise LessonError(f"{file.source} changed while it was read", hint="publish again when it is finished")
            hashed.append(hasher.finish(file.path))
    return hashed


def _opened(file: SourceFile) -> FileIO:
    try:
        descriptor = os.open(file.source, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise LessonError(f"cannot read {file.source} ({error.strerror})", hint="check its permissions") from error
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise LessonError(f"{file.source} is no longer a file", hint="publish again when it is")
    return FileIO(descriptor)
