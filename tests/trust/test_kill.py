"""A node killed at many moments of a metadata update neither loses nor lowers what it trusts."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from random import Random

import attrs
import pytest
from tuf.api.metadata import Metadata, Timestamp

from edgeshare import trusted
from tests.support.publisher import Publisher, noise

pytestmark = pytest.mark.whole

KILLS = 200
ROTATE_EVERY = 20  # updates that bring another key for timestamps too
# For each line, a child that refreshes once: it says its number, and is gone without Python's own start.
PROCESS = """
import os, sys
from pathlib import Path
from random import Random
import trio
from edgeshare.origin.client import open_origins
from edgeshare.trust import Trust
from tests.support.publisher import Folder

folder, repository, root = map(Path, sys.argv[1:])

async def refresh():
    async with open_origins(("http://a/",), Random(1), transport=Folder(repository)) as origins:
        await Trust(folder, root.read_bytes(), origins).refresh(("cned/6e",))

for _ in sys.stdin:
    if (child := os.fork()) == 0:
        print(os.getpid(), flush=True)
        trio.run(refresh)
        os._exit(0)
    print(os.waitpid(child, 0)[1], flush=True)
"""


@attrs.define
class Refreshing:
    """Refreshes of one node, each a process of its own."""

    process: subprocess.Popen[str]

    def begin(self) -> int:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        return int(self.process.stdout.readline())

    def end(self) -> int:
        """How it ended, as `waitpid` has it: 0 is well."""
        assert self.process.stdout is not None
        return int(self.process.stdout.readline())


@contextmanager
def refreshing(folder: Path, publisher: Publisher) -> Iterator[Refreshing]:
    command = [sys.executable, "-c", PROCESS, str(folder), str(publisher.repository), str(publisher.root)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        yield Refreshing(process)
        assert process.stdin is not None
        process.stdin.close()


@pytest.fixture
def publisher(tmp_path: Path) -> Publisher:
    return Publisher.of_one_lesson(tmp_path / "publisher")


@pytest.mark.timeout(600)
def test_a_node_killed_during_updates_never_loses_or_lowers_a_trusted_version(
    publisher: Publisher, tmp_path: Path
) -> None:
    folder = tmp_path / "trust"
    folder.mkdir()
    rng = Random(7)
    with refreshing(folder, publisher) as node:
        durations_s = []
        for number in range(4):
            update(publisher, number)
            node.begin()
            began = time.perf_counter()
            assert node.end() == 0
            durations_s.append(time.perf_counter() - began)
        known, in_time, kept = versions(folder), 0, 0
        for number in range(4, 4 * KILLS):
            update(publisher, number)
            child = node.begin()
            time.sleep(rng.random() * max(durations_s))
            with suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)
            was_killed = os.WIFSIGNALED(node.end())
            in_time += was_killed
            now = versions(folder)
            assert all(now.get(role, 0) >= version for role, version in known.items()), (number, known, now)
            kept += was_killed and now != known
            known = now
            if in_time == KILLS:
                break
        assert in_time == KILLS
        assert kept  # some were killed half-way: parts of an update are there, and not all
        update(publisher, 0)
        node.begin()
        assert node.end() == 0
    assert versions(folder)["timestamp"] == newest(publisher)
    left = {path.name for path in folder.iterdir()} - {f"{role}.json" for role in versions(folder)}
    assert left == {"root_history", "trusted.msgpack"}  # and no drafts of 200 runs


def test_versions_are_known_though_every_file_of_the_updater_was_torn(publisher: Publisher, tmp_path: Path) -> None:
    folder = tmp_path / "trust"
    folder.mkdir()
    with refreshing(folder, publisher) as node:
        node.begin()
        assert node.end() == 0
    known = versions(folder)
    for path in folder.glob("*.json"):
        path.unlink()
        path.touch()
    shutil.rmtree(folder / "root_history")
    assert versions(folder) == known


def update(publisher: Publisher, number: int) -> None:
    """A newer edition, and now and then other keys."""
    if number % ROTATE_EVERY == ROTATE_EVERY - 1:
        publisher.rotate("timestamp")
    publisher.add("maths-6e-fractions", {"index.html": noise(100)})
    publisher.release()


def newest(publisher: Publisher) -> int:
    timestamp = Metadata[Timestamp].from_file(str(publisher.repository / "metadata" / "timestamp.json"))
    return timestamp.signed.version


def versions(folder: Path) -> dict[str, int]:
    """What a node that starts now trusts."""
    trusted.restore(folder, trusted.saved(folder))
    held = trusted.held(folder)
    assert held is not None
    return dict(held.versions)
