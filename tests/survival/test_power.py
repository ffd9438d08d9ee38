"""Power cuts: what a node wrote and did not flush is lost, and what it serves afterwards is what was published.

The disk is a real one, ext4 with its defaults, whose writes are stopped as the kernel's crash tests do it. Not covered:
a drive that loses what it said to have flushed, or tears a sector.
"""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from random import Random

import pytest
import trio

from tests.support.disk import RealDisk, real_disk
from tests.support.nodes import Node, Process, apart, write_config
from tests.support.publisher import Publisher, noise
from tests.support.server import Site, serving
from tests.support.survival import Witness

pytestmark = [pytest.mark.whole, pytest.mark.timeout(600)]

CUTS = 25
COPIES = 15
LATEST_S = 1.0  # after a start: what there is to do takes about as long
LESSONS = tuple(f"lesson-{n}" for n in range(3))


@pytest.fixture
def witness(tmp_path: Path) -> Witness:
    publisher = Publisher(tmp_path / "publisher")
    publisher.begin()
    witness = Witness(publisher)
    for lesson in LESSONS:
        witness.add(lesson, files())
    witness.release()
    return witness


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[RealDisk]:
    with real_disk(tmp_path / "node" / "library", "200m") as disk:
        yield disk


def files() -> dict[str, bytes]:
    return {"index.html": noise(30_000), "media/film.mp4": noise(1_500_000)}


def said(log: Path) -> str:
    """What a node said, which must not be a traceback."""
    text = log.read_text()
    assert "Traceback" not in text, text
    return text


async def test_after_a_power_cut_at_any_moment_a_node_serves_what_was_published(
    witness: Witness, disk: RealDisk, tmp_path: Path
) -> None:
    rng = Random(1)
    async with serving(Site(witness.publisher.repository)) as origin:
        config = write_config(tmp_path / "node", witness.publisher, origin.url)
        for cut in range(CUTS):
            if cut % 2:  # a new version is under way, or an edition, at every second cut
                witness.add(rng.choice(LESSONS), files())
                witness.release()
            async with apart(config) as (node, running):
                await witness.look(node)
                await trio.sleep(rng.uniform(0, LATEST_S))
                disk.cut_the_power()
                running.process.kill()
                await running.process.wait()
                said(running.log)
            disk.replug()
        async with apart(config) as (node, _):
            seen = await witness.until_whole(node, *LESSONS)
            assert seen.whole.keys() == set(LESSONS)


async def test_what_was_complete_before_the_power_was_cut_is_served_at_once_and_not_fetched_again(
    witness: Witness, disk: RealDisk, tmp_path: Path
) -> None:
    async with serving(site := Site(witness.publisher.repository)) as origin:
        config = write_config(tmp_path / "node", witness.publisher, origin.url)
        async with apart(config) as (node, running):
            await witness.until_whole(node, *LESSONS)
            disk.cut_the_power()
            running.process.kill()
            await running.process.wait()
        disk.replug()
        site.asked.clear()
        async with apart(config) as (node, _):
            seen = await witness.look(node)
            assert set(seen.whole) == set(LESSONS)
        assert not [path for path in site.asked if path.startswith("content/")]


async def test_a_copy_of_a_library_that_was_taken_while_it_was_written_is_a_library(
    witness: Witness, tmp_path: Path
) -> None:
    rng = Random(2)
    async with serving(Site(witness.publisher.repository)) as origin:
        config = write_config(tmp_path / "node", witness.publisher, origin.url)
        copy = write_config(tmp_path / "copy", witness.publisher, origin.url)
        for taken in range(COPIES):
            witness.add(rng.choice(LESSONS), files())
            witness.release()
            async with apart(config) as (node, _):
                await trio.sleep(rng.uniform(0, LATEST_S))
                shutil.rmtree(tmp_path / "copy" / "library", ignore_errors=True)
                await trio.to_thread.run_sync(copied, node.library, tmp_path / "copy" / "library")
            async with apart(copy) as (node, running):
                await witness.look(node)
                if taken == COPIES - 1:
                    await witness.until_whole(node, *LESSONS)
                said(running.log)


def copied(library: Path, to: Path) -> None:
    """Copy a library that is in use: file after file, each as it is at that moment, and some are gone by then."""
    for path in sorted(library.rglob("*")):
        target = to / path.relative_to(library)
        try:
            if path.is_dir():
                target.mkdir(parents=True, exist_ok=True)
            elif path.is_file():
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(path, target)
        except FileNotFoundError:
            continue


@asynccontextmanager
async def holding_all(witness: Witness, config: Path) -> AsyncIterator[tuple[Node, Process]]:
    async with apart(config) as (node, running):
        await witness.until_whole(node, *LESSONS)
        yield node, running


async def test_a_disk_that_takes_no_more_writes_is_said_and_what_it_holds_is_served_also_at_the_next_start(
    witness: Witness, disk: RealDisk, tmp_path: Path
) -> None:
    async with serving(Site(witness.publisher.repository)) as origin:
        config = write_config(tmp_path / "node", witness.publisher, origin.url)
        async with holding_all(witness, config) as (node, running):
            disk.fail()
            witness.add("lesson-new", files())
            witness.release()
            await node.until_status(lambda status: status["disk"]["read_only"])
            seen = await witness.look(node)
            assert set(seen.whole) == set(LESSONS)
            await running.stop()
            said(running.log)
        async with apart(config) as (node, running):  # the command line has no socket there
            assert set((await witness.look(node)).whole) == set(LESSONS)
            await running.stop()
            said(running.log)
        disk.replug()
        async with apart(config) as (node, _):
            seen = await witness.until_whole(node, *LESSONS, "lesson-new")
            assert len(seen.whole) == len(LESSONS) + 1
