"""The drills of docs/disasters.md: each does what the page says, on a node that runs. Its headings are their names."""

from __future__ import annotations

import re
import shutil
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import attrs
import httpx
import pytest
from tuf.api.metadata import Metadata, Root, Timestamp
from tuf.api.serialization.json import JSONSerializer

from edgeshare.publish.repository import open_repository
from tests.support.nodes import Node, apart, here, write_config
from tests.support.publisher import Publisher, lesson_key, noise
from tests.support.server import Site, always, reply, serving

pytestmark = pytest.mark.whole

DOCS = Path(__file__).parents[2] / "docs" / "disasters.md"
HERE, NEW = "maths-6e-fractions", "maths-6e-angles"
PAGE = noise(20_000)


@attrs.define
class Country:
    """A publisher, the origin that serves its repository, and a node."""

    publisher: Publisher
    site: Site
    node: Node

    def publish(self, lesson: str = NEW) -> None:
        self.publisher.add(lesson, {"index.html": PAGE[:1000]})
        self.publisher.release()

    async def reads_on(self) -> None:
        assert await self.node.read(HERE, "index.html") == (200, PAGE)


@asynccontextmanager
async def country(
    tmp_path: Path, *, offline_keys: int = 1, threshold: int = 1, mirror: Site | None = None
) -> AsyncGenerator[Country, None]:
    """A node whose lesson is complete; with a `mirror`, that one is asked after the origin."""
    publisher = Publisher(tmp_path / "publisher")
    publisher.begin(offline_keys=offline_keys, threshold=threshold)
    publisher.add(HERE, {"index.html": PAGE})
    publisher.release()
    site = Site(publisher.repository)
    async with serving(site) as origin, serving(mirror or site) as second:
        urls = [origin.url, second.url] if mirror else [origin.url]
        config = write_config(tmp_path / "node", publisher, *urls)
        async with here(config) as node:
            await node.until(HERE, "complete")
            yield Country(publisher, site, node)


def thief_of(publisher: Publisher) -> Publisher:
    """Somebody who has all that the publisher has, as it is now."""
    copy = publisher.folder.with_name("thief")
    shutil.copytree(publisher.folder, copy)
    return Publisher(copy)


async def test_a_stolen_timestamp_key(tmp_path: Path) -> None:
    async with country(tmp_path) as france:
        path = france.publisher.repository / "metadata" / "timestamp.json"
        far = Metadata[Timestamp].from_bytes(path.read_bytes())
        far.signed.version = 2**40
        far.sign(france.publisher.keys.signer("timestamp"))
        forged = always(reply(200, far.to_bytes(JSONSerializer())))
        france.site.wrong = lambda path: forged if path.endswith("timestamp.json") else None
        await france.node.until_status(lambda status: status["metadata_versions"].get("timestamp") == 2**40)
        france.publish()
        france.site.wrong = lambda path: None
        await france.node.until_status(lambda status: "older" in status["refused"])
        await france.reads_on()
        france.publisher.rotate("timestamp")
        await france.node.until(NEW, "complete")
        await france.reads_on()


async def test_a_stolen_publisher_key(tmp_path: Path) -> None:
    async with country(tmp_path) as france:
        thief = thief_of(france.publisher)
        thief.withdraw(HERE, "Un mensonge.")
        for _ in range(4):  # so that its numbers are far ahead
            thief.add("maths-6e-mensonges", {"index.html": noise(500)})
            thief.release()
        france.site.root = thief.repository
        await france.node.until("maths-6e-mensonges", "complete")
        assert (await france.node.read(HERE, "index.html"))[0] == 410
        stolen = lesson_key(france.publisher.keys).id
        for role in ("cned", "snapshot", "timestamp"):
            france.publisher.rotate(role)
        france.publisher.reinstate(HERE)
        france.publisher.rotate("cned-lessons")
        france.publisher.revoke_lesson_key("cned-lessons", stolen)
        france.publish()
        france.site.root = france.publisher.repository
        await france.node.until(NEW, "complete")
        await france.node.until(HERE, "complete")
        await france.reads_on()
        assert (await france.node.read("maths-6e-mensonges", "index.html"))[0] == 410


async def test_a_stolen_key_of_a_delegated_publisher(tmp_path: Path) -> None:
    async with country(tmp_path) as france:
        lyon = france.publisher.delegate("lyon", "lyon-")
        lyon.add("lyon-gare", {"index.html": PAGE[:500]})
        lyon.release()
        config = tmp_path / "node" / "edgeshare.toml"
    config.write_text(config.read_text().replace("follow = ['cned/6e']", "follow = ['cned/6e', 'lyon/6e']"))
    async with serving(france.site, port_of(config)), here(config) as node:
        await node.until("lyon-gare", "complete")
        france.publisher.revoke("lyon", "La clé de l’académie a été volée.")
        await node.until_gone("lyon-gare")
        async with httpx.AsyncClient(trust_env=False, headers={"Accept": "text/html"}) as browser:
            page = await browser.get(f"http://{node.shim}/lessons/lyon-gare/")
        assert page.status_code == 410
        assert "La clé de l’académie a été volée." in page.text
        assert await node.read(HERE, "index.html") == (200, PAGE)
        lyon = france.publisher.delegate("lyon", "lyon-")
        lyon.add("lyon-gare", {"index.html": PAGE[:500]})
        lyon.release()
        await node.until("lyon-gare", "complete")


async def test_a_lost_root_key_below_the_threshold(tmp_path: Path) -> None:
    async with country(tmp_path, offline_keys=3, threshold=2) as france:
        root = Metadata[Root].from_bytes(france.publisher.root.read_bytes()).signed
        lost = france.publisher.keys.signer("root.3").public_key.keyid
        (france.publisher.folder / "keys" / "root.3.pem").unlink()
        france.publisher.replace_key("root", lost)
        await france.node.until_status(lambda status: status["metadata_versions"].get("root") == 2)
        newest = Metadata[Root].from_file(str(france.publisher.repository / "metadata" / "2.root.json")).signed
        assert lost in root.roles["root"].keyids
        assert lost not in newest.roles["root"].keyids
        assert (len(newest.roles["root"].keyids), newest.roles["root"].threshold) == (3, 2)
        france.publish()
        await france.node.until(NEW, "complete")
        await france.reads_on()


async def test_root_keys_lost_at_the_threshold(tmp_path: Path) -> None:
    async with country(tmp_path, offline_keys=3, threshold=2) as france:
        for name in ("root.2.pem", "root.3.pem"):
            (france.publisher.folder / "keys" / name).unlink()
        france.publish()  # editions go on without them
        await france.node.until(NEW, "complete")
        config = tmp_path / "node" / "edgeshare.toml"
    anew = Publisher(tmp_path / "anew")
    anew.begin(offline_keys=3, threshold=2)
    anew.add(HERE, {"index.html": PAGE})
    anew.add("maths-6e-cercles", {"index.html": PAGE[:2000]})
    anew.release()
    config.write_text(config.read_text().replace(str(france.publisher.root), str(anew.root)))
    async with serving(Site(anew.repository), port_of(config)) as origin, here(config) as node:
        assert await node.read(HERE, "index.html") == (200, PAGE)  # before anything is heard
        await node.until("maths-6e-cercles", "complete")
        assert await node.read(HERE, "index.html") == (200, PAGE)
        assert (await node.status())["metadata_versions"]["root"] == 1
        assert f"content/{lesson_hash(anew, HERE)}/index.html" not in {asked.path[1:] for asked in origin.asked}


async def test_a_repository_host_taken_over(tmp_path: Path) -> None:
    honest = Site(tmp_path / "publisher" / "repository")
    async with country(tmp_path, mirror=honest) as france:
        host = tmp_path / "host"
        shutil.copytree(france.publisher.repository, host)
        france.site.root = host
        for path in host.rglob("*"):
            if path.is_file():
                path.write_bytes(b"<html>Tout est perdu</html>")
        france.publish()
        await france.node.until(NEW, "complete")
        await france.reads_on()
        status = await france.node.status()
        assert [mirror["aside"] for mirror in status["mirrors"]] == [True, False]


async def test_the_origin_is_gone_for_a_year(tmp_path: Path) -> None:
    async with country(tmp_path) as france:
        pass
    config = tmp_path / "node" / "edgeshare.toml"
    async with apart(config, clock="+366d") as (node, _):
        status = await node.until_status(lambda status: bool(status["trouble"]))
        assert (status["fresh"], status["lessons"]) == (False, {"complete": 1})
        assert status["warning"].startswith("nothing new is accepted: the timestamp metadata expired on ")
        assert await node.read(HERE, "index.html") == (200, PAGE)
    france.publish()
    async with serving(france.site, port_of(config)), apart(config, clock="+366d") as (node, _):
        await node.until_status(lambda status: "expired" in status["refused"])
        assert await node.lesson(NEW) is None
        assert await node.read(HERE, "index.html") == (200, PAGE)


def port_of(config: Path) -> int:
    """Where the origin of a node's config listens."""
    return int(re.findall(r"127.0.0.1:(\d+)/", config.read_text())[0])


def lesson_hash(publisher: Publisher, lesson: str) -> str:
    """The info-hash of a published lesson, in hex."""
    with open_repository(publisher.repository, publisher.keys) as opened:
        return next(each.info_hash.hex() for each in opened.lessons if each.id == lesson)


def test_every_drill_of_the_docs_is_run_here_and_told_there() -> None:
    told = {title.lower() for title in re.findall(r"^## (.*)$", DOCS.read_text(encoding="utf-8"), re.MULTILINE)}
    run = {name.removeprefix("test_").replace("_", " ") for name in globals() if name.startswith("test_")}
    assert told == run - {"every drill of the docs is run here and told there"}
