"""A node that is killed, 200 times and at any moment, serves what was published, or nothing."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from random import Random

import httpx
import pytest
import trio

from tests.support.nodes import NOBODY, Node, apart, process, write_config
from tests.support.publisher import Publisher, noise
from tests.support.server import Site, serving
from tests.support.survival import Seen, Witness

pytestmark = [pytest.mark.whole, pytest.mark.timeout(600)]

KILLS = 50  # of each kind
LATEST_S = 0.7  # after the node has read all that it has: what there is to do takes about as long
BATCH = 5  # kills for each thing that is published: some come before it begins, and some when it is over
LESSONS = tuple(f"lesson-{n}" for n in range(4))


@pytest.fixture
def witness(tmp_path: Path) -> Witness:
    publisher = Publisher(tmp_path / "publisher")
    publisher.begin()
    return Witness(publisher)


@pytest.fixture
async def config(witness: Witness, tmp_path: Path) -> AsyncGenerator[Path, None]:
    async with serving(Site(witness.publisher.repository)) as origin:
        yield write_config(tmp_path / "node", witness.publisher, origin.url)


def files(seed: int, *, same: bytes = b"") -> dict[str, bytes]:
    """A lesson's files; `same` is one that all its versions have."""
    rng = Random(seed)
    found = {"index.html": rng.randbytes(30_000), "media/film.mp4": rng.randbytes(700_000)}
    return found | ({"media/same.bin": same} if same else {})


async def killed(
    config: Path, witness: Witness, rng: Random, act: Callable[[Node], Awaitable[None]] | None = None
) -> Seen:
    """Start the node, look at all that it serves, and kill it while it does what it has to, or `act`."""
    async with apart(config) as (node, running), trio.open_nursery() as nursery:
        seen = await witness.look(node)
        if act:
            nursery.start_soon(act, node)
        await trio.sleep(rng.uniform(0, LATEST_S))
        running.process.kill()
        await running.process.wait()
        nursery.cancel_scope.cancel()
    return seen


async def test_kills_while_lessons_are_fetched_lose_and_falsify_nothing(witness: Witness, config: Path) -> None:
    rng = Random(6)
    whole: dict[str, int] = {}
    for kill in range(KILLS):
        if kill % BATCH == 0:
            witness.add(f"lesson-{kill}", files(kill))
            witness.release()
        seen = await killed(config, witness, rng)
        assert seen.whole.items() >= whole.items()  # what was whole once is whole at every start
        whole = dict(seen.whole)
    async with apart(config) as (node, _):
        assert len((await witness.until_whole(node)).whole) == KILLS // BATCH


async def test_kills_while_new_versions_take_their_place_never_go_back(witness: Witness, config: Path) -> None:
    rng = Random(7)
    same = noise(400_000)
    versions: dict[str, int] = {}
    for kill in range(KILLS):
        if kill % BATCH == 0:
            for n, lesson in enumerate(LESSONS[:2]):
                witness.add(lesson, files(1000 * kill + n, same=same))
            witness.release()
        seen = await killed(config, witness, rng)
        assert all(seen.whole.get(lesson, 0) >= version for lesson, version in versions.items())
        versions = dict(seen.whole)
    async with apart(config) as (node, _):
        await witness.until_whole(node)
        with trio.fail_after(30):
            while (seen := await witness.look(node)).whole != dict.fromkeys(LESSONS[:2], KILLS // BATCH):
                await trio.sleep(0.1)
        await only_served_contents_stay(node, len(LESSONS[:2]))


async def test_kills_while_lessons_go_for_others_leave_what_stays_whole(witness: Witness, config: Path) -> None:
    rng = Random(8)
    config.write_text(config.read_text().replace("follow = ", "quota = '2 MB'\nshow = "))  # room for two of the four
    for n, lesson in enumerate(LESSONS):
        witness.add(lesson, files(n))
    witness.release()

    async def read_some(node: Node) -> None:
        for lesson in rng.sample(LESSONS, 3):
            with suppress(httpx.HTTPError):  # the node may be dead by then
                await node.read(lesson, "media/film.mp4")

    async with apart(config) as (node, _):
        await listed(node)
    whole: set[str] = set()
    for _ in range(KILLS):
        whole |= (await killed(config, witness, rng, read_some)).whole.keys()
    assert whole == set(LESSONS)  # so each went for others again and again
    async with apart(config) as (node, _):
        for lesson in LESSONS:
            status, body = await node.read(lesson, "media/film.mp4")
            assert (status, len(body)) == (200, 700_000)
        status_now = await node.status()
        assert status_now["used_bytes"] <= status_now["quota"]
        await only_served_contents_stay(node, 2)


async def test_kills_while_a_stick_is_imported_leave_what_the_next_import_completes(
    witness: Witness, config: Path, tmp_path: Path
) -> None:
    rng = Random(9)
    for n, lesson in enumerate(LESSONS):
        witness.add(lesson, files(n))
    witness.release()
    stick = tmp_path / "usb"
    stick.mkdir()
    async with apart(config) as (school, _):
        await witness.until_whole(school, *LESSONS)
        async with process("export", *LESSONS, "--to", stick, "--config", config, log=tmp_path / "export") as exporting:
            assert await exporting.process.wait() == 0
    for batch in range(KILLS // BATCH):
        home = write_config(tmp_path / f"home-{batch}", witness.publisher, NOBODY)
        importing = ("import", stick, "--config", home)
        whole: dict[str, int] = {}
        for _ in range(BATCH):
            async with apart(home) as (node, daemon):
                seen = await witness.look(node)
                assert seen.whole.items() >= whole.items()
                whole = dict(seen.whole)
                async with process(*importing, log=home.with_name("import")) as command:
                    await trio.sleep(rng.uniform(0.2, 0.5 + LATEST_S))  # the command begins after a quarter of a second
                    first, second = rng.sample([command.process, daemon.process], 2)
                    first.kill()
                    await trio.sleep(rng.choice([0, 0.05]))
                    second.kill()
                    await daemon.process.wait()
        async with apart(home) as (node, _):
            async with process(*importing, log=home.with_name("import")) as command:
                assert await command.process.wait() == 0
            assert (await witness.look(node)).whole == dict.fromkeys(LESSONS, 1)


async def listed(node: Node) -> None:
    """Wait until the catalogue is here."""
    with trio.fail_after(30):
        while not await node.ask("lessons"):
            await trio.sleep(0.05)


async def only_served_contents_stay(node: Node, lessons: int) -> None:
    """Wait until the disk holds as many lessons, and the catalogue."""
    with trio.fail_after(30):
        while len(list((node.library / "content").iterdir())) > lessons + 1:
            await trio.sleep(0.1)
