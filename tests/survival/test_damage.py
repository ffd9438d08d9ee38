"""Files that somebody alters, deletes or replaces below a node, which runs or does not: mended, and never served."""

from __future__ import annotations

import os
import shutil
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from tests.support.nodes import Node, apart, write_config
from tests.support.publisher import Publisher, noise
from tests.support.server import Site, serving
from tests.support.survival import Witness

pytestmark = [pytest.mark.whole, pytest.mark.timeout(300)]


def altered(path: Path) -> None:
    status = path.stat()
    with path.open("r+b") as file:
        file.seek(1000)
        file.write(b"somebody else's words")
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns + 1))  # a clock may be coarse


def cut(path: Path) -> None:
    os.truncate(path, 1000)


def longer(path: Path) -> None:
    with path.open("ab") as file:
        file.write(b"more")


def deleted(path: Path) -> None:
    path.unlink()


def a_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def a_link(path: Path) -> None:
    secret = path.parent.parent / "secret"
    secret.write_bytes(b"not for readers")
    path.unlink()
    path.symlink_to(secret)


def a_fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def all_of_it(path: Path) -> None:
    shutil.rmtree(path.parent)


HARMS: tuple[Callable[[Path], None], ...] = (altered, cut, longer, deleted, a_folder, a_link, a_fifo, all_of_it)
LESSONS = tuple(f"lesson-{n}" for n in range(len(HARMS)))


@pytest.fixture
def witness(tmp_path: Path) -> Witness:
    publisher = Publisher(tmp_path / "publisher")
    publisher.begin()
    witness = Witness(publisher)
    for lesson in LESSONS:
        witness.add(lesson, {"index.html": noise(30_000), "film.mp4": noise(300_000)})
    witness.release()
    return witness


@pytest.fixture
async def site(witness: Witness) -> Site:
    return Site(witness.publisher.repository)


@pytest.fixture
async def config(witness: Witness, site: Site, tmp_path: Path) -> AsyncIterator[Path]:
    async with serving(site) as origin:
        yield write_config(tmp_path / "node", witness.publisher, origin.url)


async def harm(node: Node, file: str) -> None:
    """Do to each lesson's `file` something else."""
    for lesson, how in zip(LESSONS, HARMS, strict=True):
        view = await node.lesson(lesson)
        assert view
        how(node.library / "content" / view["info_hash"] / file)


async def test_files_that_are_harmed_below_a_running_node_are_mended_and_never_served(
    witness: Witness, config: Path
) -> None:
    async with apart(config) as (node, running):
        await witness.until_whole(node, *LESSONS)
        await harm(node, "film.mp4")
        for lesson in LESSONS:  # whoever reads gets what was published, or is told to come back
            status, body = await node.read(lesson, "film.mp4")
            assert status in (200, 503)
            assert b"somebody else" not in body
        assert set((await witness.until_whole(node, *LESSONS)).whole) == set(LESSONS)
        assert "Traceback" not in running.log.read_text()


async def test_files_that_were_harmed_between_two_runs_are_mended_and_never_served(
    witness: Witness, config: Path
) -> None:
    async with apart(config) as (node, running):
        await witness.until_whole(node, *LESSONS)
        await harm(node, "index.html")
        running.process.kill()
    async with apart(config) as (node, running):
        await witness.look(node)
        assert set((await witness.until_whole(node, *LESSONS)).whole) == set(LESSONS)
        assert "Traceback" not in running.log.read_text()


def garbage(index: Path) -> None:
    index.write_bytes(noise(50_000))


def emptied(index: Path) -> None:
    index.write_bytes(b"")


def half_of_it(index: Path) -> None:
    os.truncate(index, index.stat().st_size // 2)


def without_its_log(index: Path) -> None:
    index.with_name("index.sqlite-wal").unlink()


@pytest.mark.parametrize("harm_index", [garbage, emptied, half_of_it, deleted, a_folder, without_its_log])
@pytest.mark.parametrize("when", ["while it runs", "after a kill"])
async def test_a_node_whose_index_is_harmed_serves_all_that_it_holds_and_fetches_no_lesson_again(
    witness: Witness, config: Path, site: Site, when: str, harm_index: Callable[[Path], None]
) -> None:
    async with apart(config) as (node, running):
        await witness.until_whole(node, *LESSONS)
        site.asked.clear()
        if when == "after a kill":
            running.process.kill()
            await running.process.wait()
        harm_index(node.library / "index.sqlite")
        if when == "while it runs":
            await witness.look(node)
            await node.ask("get", lesson=LESSONS[0])  # which is written down
            running.process.kill()
            await running.process.wait()
    async with apart(config) as (node, running):
        seen = await witness.until_whole(node, *LESSONS)
        assert set(seen.whole) == set(LESSONS)
        said = running.log.read_text()
        assert "Traceback" not in said
        assert said.count("ERROR") <= 1
        assert not [path for path in site.asked if path.startswith("content/") and path.endswith(("html", "mp4"))]
