"""The origin's access log, in the form that seeders/origin/nginx.conf writes: parsed, and followed from now on."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Self

from edgeshare.drill.report import Answer
from edgeshare.errors import ConfigError

MAX_LINE = 16 * 1024  # characters: nginx itself refuses requests whose first line has more than 8 kB

# network, time, request, status, bytes of the body, range, seconds: the `log_format network` of nginx.conf
_LINE = re.compile(
    r"\S+ \[(?P<ended>[^\]]{19,35})\] \"(?P<method>[A-Z]{1,20}) (?P<path>/[^\"]*)\" (?P<status>[1-5][0-9]{2})"
    r" (?P<sent>[0-9]{1,18}) \"[^\"]*\" (?P<seconds>[0-9]{1,6}\.[0-9]{1,6})(?: .*)?",
    re.ASCII,
)


def parse(line: str) -> Answer | None:
    """The answer that one line tells of; None when the line has another form. Fields at its end may be added."""
    found = _LINE.fullmatch(line) if len(line) <= MAX_LINE else None
    if found is None:
        return None
    try:
        ended = datetime.fromisoformat(found["ended"])
    except ValueError:
        return None
    if ended.tzinfo is None or not 2000 <= ended.year < 3000:
        return None
    return Answer(
        ended=ended,
        seconds=min(float(found["seconds"]), 3600.0),  # an answer that takes longer was a client asleep
        path=found["path"],
        status=int(found["status"]),
        bytes_sent=int(found["sent"]),
    )


def about(lines: Iterator[str], mark: str) -> tuple[list[Answer], int]:
    """The answers whose line holds `mark`, and how many such lines had another form."""
    answers: list[Answer] = []
    unread = 0
    for line in lines:
        if mark in line:
            if answer := parse(line.rstrip("\n")):
                answers.append(answer)
            else:
                unread += 1
    return answers, unread


class Tail:
    """What is written to a log from now on, also when it is rotated in between: by renaming, or by cutting it."""

    def __init__(self, path: Path) -> None:
        """Open the log at its end.

        Raises:
            ConfigError: it cannot be read.
        """
        self._path = path
        try:
            self._file = path.open(encoding="utf-8", errors="replace")
            self._start = self._file.seek(0, 2)
        except OSError as error:
            hint = "name the origin's access log, as a user who may read it; or leave --log out"
            raise ConfigError(f"cannot read the log {path} ({error.strerror})", hint=hint) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._file.close()

    def lines(self) -> Iterator[str]:
        """Every line since; of a log that was rotated twice, the first and the last part.

        Raises:
            OSError: the disk.
        """
        size = self._file.seek(0, 2)
        self._file.seek(self._start if size >= self._start else 0)  # it was cut, and is written anew
        yield from self._file
        try:
            if os.path.samestat(self._path.stat(), os.fstat(self._file.fileno())):
                return
            with self._path.open(encoding="utf-8", errors="replace") as following:
                yield from following
        except FileNotFoundError:
            return
