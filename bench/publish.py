"""Publishing, held against `sha256sum` on the same files."""

from __future__ import annotations

import itertools
import os
import shutil
import tempfile
from pathlib import Path

from bench.measure import EDGESHARE, against, seconds

DESCRIPTION = """\
id = "bench"
title = "Bench"
language = "fr"
levels = ["6e"]
subjects = ["mathematiques"]
description = ""
licence = "CC0-1.0"
start = "index.html"
"""


def main() -> None:
    """One file of 1 GiB, then 2,000 files of 20 kB."""
    with tempfile.TemporaryDirectory(prefix="edgeshare-bench-") as name:
        root = Path(name)
        _compare(root / "large", "publish 1 GiB / sha256sum", sizes=[2**30], want=1.5)
        _compare(root / "small", "publish 2,000 files of 20 kB / sha256sum", sizes=[20_000] * 2000, want=3.0)


def _compare(root: Path, name: str, *, sizes: list[int], want: float) -> None:
    lesson = root / "lesson"
    lesson.mkdir(parents=True)
    (lesson / "lesson.toml").write_text(DESCRIPTION, encoding="utf-8")
    (lesson / "index.html").write_text("<h1>Bench</h1>", encoding="utf-8")
    for number, size in enumerate(sizes):
        with (lesson / f"{number}.bin").open("wb") as file:
            for start in range(0, size, 2**20):
                file.write(os.urandom(min(2**20, size - start)))
    files = sorted(lesson.iterdir())
    keys = root / "keys"
    repositories = (root / f"repository-{number}" for number in itertools.count())

    def add(repository: Path) -> float:
        # each run in a new folder, and none removed in between: ext4 slows down where files were just deleted
        seconds([*EDGESHARE, "publish", "init", repository, "--keys", keys])
        return seconds([*EDGESHARE, "publish", "add", repository, lesson, "--keys", keys])

    def add_and_release(repository: Path) -> float:
        return add(repository) + seconds([*EDGESHARE, "publish", "release", repository, "--keys", keys])

    against(f"{name}, add alone", lambda: add(next(repositories)), lambda: seconds(["sha256sum", *files]), want=want)
    against(name, lambda: add_and_release(next(repositories)), lambda: seconds(["sha256sum", *files]), want=want)
    shutil.rmtree(root)
