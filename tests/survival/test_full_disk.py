"""A small disk that fills, by this node or by somebody else: it pauses, says so, is read, and goes on by itself."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import trio

from tests.support.disk import mounted
from tests.support.nodes import Node, apart, write_config
from tests.support.publisher import Publisher, noise
from tests.support.server import Site, serving
from tests.support.survival import Witness

pytestmark = [pytest.mark.whole, pytest.mark.timeout(300)]

MIB = 2**20
FLOOR = 4 * MIB
FRENCH = {"Accept-Language": "fr"}


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    (tmp_path / "node").mkdir()
    with mounted(tmp_path / "node" / "library", "24m") as disk:
        yield disk


@pytest.fixture
def witness(tmp_path: Path) -> Witness:
    publisher = Publisher(tmp_path / "publisher")
    publisher.begin()
    return Witness(publisher)


def free(disk: Path) -> int:
    status = os.statvfs(disk)
    return status.f_bavail * status.f_frsize


async def front_page(node: Node) -> str:
    async with httpx.AsyncClient(trust_env=False) as browser:
        return (await browser.get(f"http://{node.shim}/", headers=FRENCH)).text


async def test_a_disk_that_somebody_else_fills_pauses_the_node_until_there_is_room_again(
    witness: Witness, disk: Path, tmp_path: Path
) -> None:
    witness.add("lesson-0", {"index.html": noise(2 * MIB)})
    witness.release()
    async with serving(site := Site(witness.publisher.repository)) as origin:
        config = write_config(tmp_path / "node", witness.publisher, origin.url, keep_free="4 MiB")
        async with apart(config) as (node, running):
            await witness.until_whole(node, "lesson-0")
            ballast = disk / "ballast"
            ballast.write_bytes(bytes(free(disk) - FLOOR // 2))
            witness.add("lesson-1", {"index.html": noise(2 * MIB)})
            witness.release()
            status = await node.until_status(lambda status: status["disk"]["short"])
            assert "nearly full" in status["disk"]["reason"]
            await node.until("lesson-1", "waiting")  # the edition is here, though the disk is short
            asked = len([path for path in site.asked if path.endswith(".html")])
            await node.until_status(lambda status: status["lessons"].get("waiting") == 1)
            assert (await witness.look(node)).whole == {"lesson-0": 1}
            assert "Le disque de ce nœud est presque plein" in await front_page(node)
            assert len([path for path in site.asked if path.endswith(".html")]) == asked
            ballast.unlink()
            await witness.until_whole(node, "lesson-0", "lesson-1")
            await node.until_status(lambda status: status["disk"]["reason"] is None)
            assert "presque plein" not in await front_page(node)
            assert "Traceback" not in running.log.read_text()


async def test_a_node_never_fills_its_disk_itself(witness: Witness, disk: Path, tmp_path: Path) -> None:
    lessons = [f"lesson-{n}" for n in range(16)]
    for lesson in lessons:
        witness.add(lesson, {"index.html": noise(2 * MIB)})
    witness.release()
    least = free(disk)
    async with serving(Site(witness.publisher.repository)) as origin:
        config = write_config(tmp_path / "node", witness.publisher, origin.url, keep_free="4 MiB")
        async with apart(config) as (node, running):
            with trio.move_on_after(12):  # the period is the point: it has time for more than there is room for
                while True:
                    least = min(least, free(disk))
                    await trio.sleep(0.02)
            seen = await witness.look(node)
            assert 4 <= len(seen.whole) <= 9
            assert "Traceback" not in running.log.read_text()
    assert least >= FLOOR - MIB  # the index grows too


async def test_a_disk_that_is_full_to_the_last_byte_is_read_and_healed_from(
    witness: Witness, disk: Path, tmp_path: Path
) -> None:
    witness.add("lesson-0", {"index.html": noise(2 * MIB)})
    witness.release()
    async with serving(Site(witness.publisher.repository)) as origin:
        config = write_config(tmp_path / "node", witness.publisher, origin.url)  # which keeps nothing free
        async with apart(config) as (node, running):
            await witness.until_whole(node, "lesson-0")
            ballast = disk / "ballast"
            ballast.write_bytes(bytes(free(disk)))
            assert free(disk) == 0
            witness.add("lesson-1", {"index.html": noise(2 * MIB)})
            witness.release()
            await node.until_status(lambda status: bool(status["trouble"] or status["catalogues"][0]["trouble"]))
            assert (await witness.look(node)).whole == {"lesson-0": 1}
            running.process.kill()
            await running.process.wait()
            assert "Traceback" not in running.log.read_text()
        async with apart(config) as (node, running):  # it starts there, too
            assert (await witness.look(node)).whole == {"lesson-0": 1}
            ballast.unlink()
            await witness.until_whole(node, "lesson-0", "lesson-1")
            assert "Traceback" not in running.log.read_text()
