"""Real `edgeshare publish` processes, killed at many moments: the old edition stays, and the next run completes."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import attrs
import pytest
from tuf.api.exceptions import UnsignedMetadataError

from tests.publish.support import Publisher, key_id, make_lesson, require_whole, served, tree

KILLS = 20
GOLDEN = 0.618  # its multiples are spread evenly, however many there are
PROCESS = """
import sys
import edgeshare.cli.publish
from edgeshare.cli.main import main
print("ready", flush=True)  # what follows is the work, and nothing of Python's own start
main(["publish", *sys.argv[1:]])
"""
OLD = {"cned/6e": {"maths": 1, "old": 1}}  # the versions in the edition before
TRACKER = "udp://lecons.example.fr:6969"

pytestmark = pytest.mark.whole


class Work:
    """One command on fresh copies of one repository."""

    def __init__(self, template: Path, place: Path, keys: Path, command: str, *arguments: str | Path) -> None:
        self._template = template
        self._place = place
        self._keys = keys
        self._command = [command, *map(str, arguments)]

    def begin(self) -> tuple[Publisher, subprocess.Popen[bytes]]:
        """A process that is about to work."""
        shutil.rmtree(self._place, ignore_errors=True)
        shutil.copytree(self._template, self._place, copy_function=shutil.copy2)
        command, *rest = self._command
        arguments = [*command.split(), str(self._place), *rest, "--keys", str(self._keys)]
        process = subprocess.Popen(
            [sys.executable, "-c", PROCESS, *arguments], stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        return Publisher(self._place, self._keys), process

    def whole(self) -> tuple[Publisher, float]:
        """The repository after an undisturbed run, and how long that took."""
        publisher, process = self.begin()
        began = time.perf_counter()
        out, _ = process.communicate(timeout=60)
        assert process.returncode == 0, out
        return publisher, time.perf_counter() - began

    def killed(self, after_s: float) -> tuple[Publisher, bool]:
        """The repository after a run that was killed, and whether it was done before."""
        publisher, process = self.begin()
        with process:
            time.sleep(after_s)
            process.kill()
        assert process.returncode in (0, -signal.SIGKILL)
        return publisher, process.returncode == 0


def kills(work: Work) -> Iterator[Publisher]:
    """The repository after each of many kills that came in time, spread over the time that the work takes."""
    duration_s = min(work.whole()[1] for _ in range(3))
    in_time = 0
    for number in range(3 * KILLS):
        publisher, was_done = work.killed(duration_s * (number * GOLDEN % 1))
        in_time += not was_done
        yield publisher
        if in_time == KILLS:
            return
    pytest.fail(f"only {in_time} of {3 * KILLS} kills came in time")


def files(publisher: Publisher) -> set[str]:
    """All files of a repository, but for the hashes in the names of manifests, which hold the time of a release."""
    return {
        f"{path.rpartition('/')[0]}/*.{path.split('.', 1)[1]}" if path.startswith("targets/") else path
        for path in tree(publisher.root)
    }


def versions(publisher: Publisher, client: Path) -> dict[str, dict[str, int]]:
    """What the client `client` is served, all of it verified."""
    return {name: each.versions for name, each in served(publisher.root, client).items()}


def survives(work: Work, clients: Path, complete: Callable[[Publisher], object]) -> Publisher:
    """Check the repository after each kill and after the run that completes it; the last one."""
    publisher, _ = work.whole()
    wanted, new = files(publisher), versions(publisher, clients / "new")
    for number, publisher in enumerate(kills(work)):
        assert versions(publisher, clients / f"{number}") in (OLD, new)
        complete(publisher)
        assert files(publisher) == wanted
        assert versions(publisher, clients / f"{number}") == new
    return publisher


@pytest.fixture
def lesson(tmp_path: Path) -> Path:
    pages = {f"pages/{n}.html": b"%d" % n * 500 for n in range(100)}
    return make_lesson(tmp_path / "maths", {"index.html": b"new", "film.mp4": bytes(5 * 2**20), **pages})


@pytest.fixture
def template(tmp_path: Path) -> Publisher:
    """A repository with one edition."""
    publisher = Publisher(tmp_path / "template", tmp_path / "keys").init()
    publisher.add(make_lesson(tmp_path / "one" / "maths", {"index.html": b"old"}), make_lesson(tmp_path / "old"))
    publisher.release()
    return publisher


def test_an_add_that_is_killed_leaves_the_old_edition_and_the_next_completes(
    template: Publisher, lesson: Path, tmp_path: Path
) -> None:
    def complete(publisher: Publisher) -> None:
        require_whole(publisher.root, publisher.add(lesson).manifest.info_hash)

    work = Work(template.root, tmp_path / "repository", template.keys, "add", lesson)
    publisher = survives(work, tmp_path / "clients", complete)
    assert versions(publisher, tmp_path / "client") == OLD
    publisher.release()
    assert versions(publisher, tmp_path / "client") == {"cned/6e": {"maths": 2, "old": 1}}


def test_a_release_that_is_killed_leaves_the_old_edition_or_the_new_and_the_next_completes(
    template: Publisher, lesson: Path, tmp_path: Path
) -> None:
    others = [make_lesson(tmp_path / f"svt-{level}", levels=[level]) for level in ("5e", "4e", "3e", "2de")]
    template.add(lesson, *others)
    template.withdraw("old")
    work = Work(template.root, tmp_path / "repository", template.keys, "release", "--tracker", TRACKER)
    publisher = survives(work, tmp_path / "clients", lambda publisher: publisher.release(trackers=[TRACKER]))
    assert versions(publisher, tmp_path / "client")["cned/6e"] == {"maths": 2}


def test_a_rotation_that_is_killed_leaves_a_repository_that_clients_follow(template: Publisher, tmp_path: Path) -> None:
    work = Work(template.root, tmp_path / "repository", template.keys, "keys rotate", "timestamp")
    rotated = 0
    for number, publisher in enumerate(kills(work)):
        client = tmp_path / "clients" / f"{number}"
        assert versions(publisher, client) == OLD  # the old key has signed too: nobody waits at any moment
        publisher.release()
        assert versions(publisher, client) == OLD
        assert not list((publisher.root / ".edgeshare" / "signing").glob("*"))
        rotated += publisher.metadata("root").signed.version == 2
    assert 0 < rotated < KILLS


def test_a_publication_of_drafts_that_is_killed_is_completed_by_the_next(
    template: Publisher, lesson: Path, tmp_path: Path
) -> None:
    """Targets, root and a publisher wait, all signed; the keys of snapshot and timestamp are new, and the old gone."""
    lost = template.holds("snapshot", "timestamp")
    online = attrs.evolve(template, keys=tmp_path / "online")
    for role in ("snapshot", "timestamp"):
        online.rotate(role, key_id(lost.keys, role))
    template.sign("root")
    template.rotate("targets")
    template.add(lesson)
    assert not [need for each in template.release().waiting for need in each.needs]
    work = Work(template.root, tmp_path / "repository", online.keys, "release")
    publisher, _ = work.whole()
    wanted, new = files(publisher), versions(publisher, tmp_path / "clients" / "new")
    assert new == {"cned/6e": {"maths": 2, "old": 1}}
    for number, publisher in enumerate(kills(work)):
        client = tmp_path / "clients" / f"{number}"
        try:
            assert versions(publisher, client) in (OLD, new)
        except UnsignedMetadataError:  # between the root and the timestamp that its new key signs
            assert publisher.metadata("root").signed.version == 2
            assert publisher.metadata("timestamp").signed.version == 2
        publisher.release()
        assert files(publisher) == wanted
        assert versions(publisher, client) == new
