"""The attacks that the TUF specification lists (§1.5.2), each on a daemon that runs, over HTTP.

In each of them a lesson is here and a newer edition is published; the attacker stands between the daemon and the
repository. The daemon must take nothing new, say why, in `status` and as a metric, go on serving what it has, and take
the new edition as soon as the attack is over.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import attrs
import httpx
import pytest
from securesystemslib.signer import CryptoSigner, Signer
from tuf.api.metadata import Metadata, Timestamp
from tuf.api.serialization.json import JSONSerializer

from tests.support.nodes import Node, Process, apart, write_config
from tests.support.publisher import Publisher, noise, now
from tests.support.server import Answer, Server, Site, always, drip, endless, reply, serving

pytestmark = pytest.mark.whole

HERE, NEW = "maths-6e-fractions", "maths-6e-angles"
PAGE = noise(20_000)


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Publisher:
    publisher = Publisher(tmp_path_factory.mktemp("published"))
    publisher.begin()
    publisher.add(HERE, {"index.html": PAGE})
    publisher.release()
    return publisher


@attrs.define
class Morning:
    """A daemon that has one lesson, its publisher, and the network between them."""

    publisher: Publisher
    node: Node
    running: Process
    site: Site
    origin: Server
    folder: Path

    def metadata(self, name: str) -> bytes:
        return (self.publisher.repository / "metadata" / name).read_bytes()

    def put(self, name: str, raw: bytes) -> None:
        (self.publisher.repository / "metadata" / name).write_bytes(raw)

    def answer(self, **wrong: Answer) -> None:
        """Have the network answer otherwise for paths that contain a word; `_` stands for `.`."""
        table = {word.replace("_", "."): answer for word, answer in wrong.items()}
        self.site.wrong = lambda path: next((answer for word, answer in table.items() if word in path), None)

    def keep_a_copy(self) -> Path:
        """The repository as it is now."""
        copy = self.folder / "old"
        shutil.copytree(self.publisher.repository, copy)
        return copy

    def publish(self) -> None:
        """A newer edition, with another lesson."""
        self.publisher.add(NEW, {"index.html": PAGE[:1000]})
        self.publisher.release()

    async def refuses(self, reason: str, said: str) -> None:
        """Wait until the daemon has refused; then nothing new is here, and what was here is read."""
        status = await self.node.until_status(lambda status: reason in status["refused"])
        assert any(note["reason"] == reason and said in note["what"] for note in status["refusals"]), status["refusals"]
        assert status["trouble"]
        assert f'edgeshare_metadata_refused_total{{reason="{reason}"}} 0' not in await self.metrics()
        assert await self.node.lesson(NEW) is None
        assert await self.node.read(HERE, "index.html") == (200, PAGE)

    async def recovers(self) -> None:
        """Once the network is honest, the newer edition is here without anybody's doing."""
        self.site.wrong = lambda path: None
        await self.node.until(NEW, "complete")

    async def metrics(self) -> str:
        async with httpx.AsyncClient(trust_env=False) as browser:
            return (await browser.get(f"http://{self.node.shim}/metrics")).text


@asynccontextmanager
async def morning(
    published: Publisher, tmp_path: Path, *, other: Callable[[Site], Site] | None = None
) -> AsyncGenerator[Morning, None]:
    """A daemon whose lesson is complete; with `other`, a second mirror, asked before the honest one."""
    shutil.copytree(published.folder, tmp_path / "publisher")
    publisher = Publisher(tmp_path / "publisher")
    site = Site(publisher.repository)
    async with serving(site) as origin:
        if other is None:
            async with apart(write_config(tmp_path / "node", publisher, origin.url)) as (node, running):
                await node.until(HERE, "complete")
                yield Morning(publisher, node, running, site, origin, tmp_path)
            return
        async with serving(other(site)) as mirror:
            config = write_config(tmp_path / "node", publisher, mirror.url, origin.url)
            async with apart(config) as (node, running):
                await node.until(HERE, "complete")
                yield Morning(publisher, node, running, site, mirror, tmp_path)


def signed_by(raw: bytes, signer: Signer, **changes: Any) -> bytes:
    """Metadata with some fields changed, and signed by somebody."""
    metadata = Metadata[Timestamp].from_bytes(raw)
    for name, value in changes.items():
        setattr(metadata.signed, name, value)
    metadata.sign(signer)
    return metadata.to_bytes(JSONSerializer())


async def test_arbitrary_installation_what_a_stranger_signed_is_not_taken(published: Publisher, tmp_path: Path) -> None:
    async with morning(published, tmp_path) as day:
        forged = signed_by(day.metadata("timestamp.json"), CryptoSigner.generate_ed25519(), version=9)
        day.answer(timestamp=always(reply(200, forged)))
        day.publish()
        await day.refuses("signatures", "timestamp.json of")
        await day.recovers()


async def test_wrong_software_installation_a_catalogue_is_not_taken_for_another(
    published: Publisher, tmp_path: Path
) -> None:
    async with morning(published, tmp_path) as day:
        (before,) = (day.publisher.repository / "targets").rglob("*.manifest")
        other = before.read_bytes()  # signed by the right key, as another target
        day.publish()
        day.answer(manifest=always(reply(200, other)))
        status = await day.node.until_status(lambda status: bool(status["catalogues"][0]["trouble"]))
        assert " is refused, it is " in status["catalogues"][0]["trouble"]
        assert await day.node.lesson(NEW) is None
        assert await day.node.read(HERE, "index.html") == (200, PAGE)
        await day.recovers()


@pytest.mark.parametrize("name", ["timestamp", "root"])
async def test_endless_data_is_cut(published: Publisher, tmp_path: Path, name: str) -> None:
    async with morning(published, tmp_path) as day:
        day.answer(**{name: endless})
        day.publish()
        await day.refuses("too_long", "sends more than")
        await day.recovers()


async def test_extraneous_dependencies_no_other_catalogue_comes_with_one(published: Publisher, tmp_path: Path) -> None:
    async with morning(published, tmp_path) as day:
        day.publisher.add("histoire-5e", {"index.html": PAGE[:1000]}, levels="5e")
        day.publish()
        await day.node.until(NEW, "complete")
        assert await day.node.lesson("histoire-5e") is None
        assert not [path for path in day.site.asked if ".5e.manifest" in path]


async def test_fast_forward_a_stolen_timestamp_key_is_healed_by_a_new_root(
    published: Publisher, tmp_path: Path
) -> None:
    async with morning(published, tmp_path) as day:
        stolen = day.publisher.keys.signer("timestamp")
        far = signed_by(day.metadata("timestamp.json"), stolen, version=2**40)
        day.answer(timestamp=always(reply(200, far)))
        await day.node.until_status(lambda status: status["metadata_versions"].get("timestamp") == 2**40)
        day.publish()
        day.site.wrong = lambda path: None
        await day.refuses("older", "it is older than what this machine has")
        day.publisher.rotate("timestamp")
        await day.recovers()


async def test_indefinite_freeze_what_has_expired_is_noticed(published: Publisher, tmp_path: Path) -> None:
    async with morning(published, tmp_path) as day:
        old = day.keep_a_copy()
    config = tmp_path / "node" / "edgeshare.toml"
    day.publish()
    day.publisher.refresh(at=now() + timedelta(days=40))
    async with serving(Site(old), day.origin.port), apart(config, clock="+31d") as (node, _):
        status = await node.until_status(lambda status: "expired" in status["refused"])
        assert (status["fresh"], status["clock"]) == (False, "plausible")
        assert status["warning"].startswith("nothing new is accepted: the timestamp metadata expired on ")
        assert await node.lesson(NEW) is None
        assert await node.read(HERE, "index.html") == (200, PAGE)
    async with serving(Site(day.publisher.repository), day.origin.port), apart(config, clock="+41d") as (node, _):
        await node.until(NEW, "complete")


async def test_malicious_mirrors_do_not_prevent_updates(published: Publisher, tmp_path: Path) -> None:
    def evil(honest: Site) -> Site:
        site = Site(honest.root)
        site.wrong = lambda path: always(reply(200, b"<html>Sign in</html>")) if path.endswith(".json") else None
        return site

    async with morning(published, tmp_path, other=evil) as day:
        day.publish()
        await day.node.until(NEW, "complete")
        status = await day.node.status()
        aside = [mirror for mirror in status["mirrors"] if mirror["aside"]]
        assert [mirror["name"] for mirror in aside] == [day.origin.url]
        assert "which" not in aside[0]["reason"]
        assert "is refused, it is not TUF metadata" in aside[0]["reason"]


async def test_mix_and_match_parts_of_two_editions_are_not_taken_together(published: Publisher, tmp_path: Path) -> None:
    async with morning(published, tmp_path) as day:
        old_snapshot = day.metadata("2.snapshot.json")
        day.publish()
        day.answer(**{"3_snapshot": always(reply(200, old_snapshot))})
        await day.refuses("mixed", "3.snapshot.json of")
        await day.recovers()


async def test_rollback_an_older_edition_is_not_taken(published: Publisher, tmp_path: Path) -> None:
    async with morning(published, tmp_path) as day:
        old = day.keep_a_copy()
        day.publisher.refresh()
        await day.node.until_status(lambda status: status["metadata_versions"].get("timestamp") == 3)
        day.publish()
        day.site.root = old
        await day.refuses("older", "it is older than what this machine has")
        day.site.root = day.publisher.repository
        await day.recovers()


@pytest.mark.parametrize("name", ["timestamp", "snapshot"])
async def test_slow_retrieval_is_given_up(published: Publisher, tmp_path: Path, name: str) -> None:
    async with morning(published, tmp_path) as day:
        day.answer(**{name: drip})
        day.publish()
        await day.refuses("too_slow", "is too slow")  # after ten seconds of crawling
        day.answer()
        await day.node.until_status(lambda status: not status["trouble"])  # it rests, 16 s at least
        await day.recovers()


async def test_vulnerability_to_key_compromises_one_key_of_a_threshold_of_two_is_not_enough(
    published: Publisher, tmp_path: Path
) -> None:
    async with morning(published, tmp_path) as day:
        second = CryptoSigner.generate_ed25519()
        root = Metadata.from_bytes(day.metadata("1.root.json"))
        root.signed.add_key(second.public_key, "timestamp")
        root.signed.roles["timestamp"].threshold = 2
        root.signed.version = 2
        root.sign(day.publisher.keys.signer("root"))
        day.publish()
        one = day.publisher.keys.signer("timestamp")
        right = Metadata[Timestamp].from_bytes(day.metadata("timestamp.json"))
        right.sign(one)
        twice = json.loads(right.to_bytes(JSONSerializer()))
        twice["signatures"] *= 2  # the same signature, twice
        day.answer(timestamp=always(reply(200, json.dumps(twice).encode())))
        day.put("2.root.json", root.to_bytes(JSONSerializer()))
        await day.node.until_status(lambda status: sum(status["refused"].values()) > 0)
        assert await day.node.lesson(NEW) is None
        day.answer(timestamp=always(reply(200, right.to_bytes(JSONSerializer()))))
        await day.refuses("signatures", "timestamp was signed by 1/2 keys")
        right.sign(second, append=True)
        day.put("timestamp.json", right.to_bytes(JSONSerializer()))
        await day.recovers()


NOT_A_TIMESTAMP = [
    (reply(200, b""), "not_metadata", "it is not TUF metadata (a login page?)"),
    (reply(200, b"<html>Sign in</html>"), "not_metadata", "it is not TUF metadata (a login page?)"),
    (reply(200, b"<html>Sign in</html>", content_type="text/html"), "unreachable", "a web page (a login page?)"),
    (reply(200, b"[" * 16_000), "not_metadata", "it is not TUF metadata (a login page?)"),
    (reply(200, b"9" * 16_000), "not_metadata", "it is not TUF metadata (a login page?)"),
    (reply(200, b'{"a": 1, "a": 2}'), "not_metadata", "it is not TUF metadata (a login page?)"),
    (reply(200, bytes(17_000)), "too_long", "announces 17000 bytes, more than 16384"),
    (reply(200, b"\x1f\x8b", content_encoding="gzip"), "unreachable", "sends compressed bytes"),
    (reply(302, location="http://127.0.0.1:9/"), "unreachable", "redirects to another place"),
    (reply(500), "unreachable", "answers 500"),
]


async def test_a_timestamp_that_is_none_is_refused_by_name(published: Publisher, tmp_path: Path) -> None:
    async with morning(published, tmp_path) as day:
        for answer, reason, said in NOT_A_TIMESTAMP:
            before = (await day.node.status())["refused"].get(reason, 0)
            day.answer(timestamp=always(answer))
            status = await day.node.until_status(lambda status: status["refused"].get(reason, 0) > before)  # noqa: B023
            assert said in status["refusals"][-1]["what"]
            assert await day.node.read(HERE, "index.html") == (200, PAGE)
            day.answer()
            await day.node.until_status(lambda status: not status["trouble"])
        day.publish()
        await day.recovers()


async def test_a_root_of_another_repository_is_not_taken_for_the_next_one(published: Publisher, tmp_path: Path) -> None:
    other = Publisher(tmp_path / "other")
    other.begin()
    async with morning(published, tmp_path) as day:
        root = Metadata.from_bytes(other.root.read_bytes())
        root.signed.version = 2
        root.sign(other.keys.signer("root"))
        day.answer(**{"2_root": always(reply(200, root.to_bytes(JSONSerializer())))})
        day.publish()
        await day.refuses("signatures", "2.root.json of")
        await day.recovers()


async def test_a_clock_at_1970_is_named_and_what_is_here_is_read(published: Publisher, tmp_path: Path) -> None:
    async with morning(published, tmp_path) as day:
        day.publish()
        await day.node.until(NEW, "complete")
    config = tmp_path / "node" / "edgeshare.toml"
    async with serving(Site(day.publisher.repository), day.origin.port), apart(config, clock="1970-01-02") as (node, _):
        status = await node.until_status(lambda status: bool(status["warning"]))
        assert status["clock"] == "behind"
        assert status["warning"].startswith(
            "this machine's clock says 1970-01-02, and the newest metadata was signed on"
        )
        assert await node.read(HERE, "index.html") == (200, PAGE)


async def test_a_clock_at_2099_locks_nothing_once_it_is_right_again(published: Publisher, tmp_path: Path) -> None:
    async with morning(published, tmp_path) as day:
        pass
    config = tmp_path / "node" / "edgeshare.toml"
    day.publish()
    async with serving(Site(day.publisher.repository), day.origin.port):
        async with apart(config, clock="2099-01-02") as (node, _):
            status = await node.until_status(lambda status: "expired" in status["refused"])
            assert status["clock"] == "ahead"
            assert "or this machine's clock, which says 2099-01-02, is ahead: check it" in status["warning"]
            assert await node.lesson(NEW) is None
            assert await node.read(HERE, "index.html") == (200, PAGE)
        async with apart(config) as (node, _):
            await node.until(NEW, "complete")
