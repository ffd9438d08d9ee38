"""What a limited node gives to peers in its network and outside: `python -m tests.swarm.outside CASE FOLDER`.

Runs in a network namespace of its own (test_outside.py), where one machine has addresses of both kinds: 198.18.0.0/15,
which RFC 2544 keeps for measurements, is outside.
"""

from __future__ import annotations

import subprocess
import sys
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import trio

from edgeshare.config import Endpoint, Rate
from edgeshare.swarm.session import Swarm
from tests.support.content import PIECE, at, content, hold, node, noise

OUTSIDE, OTHER_OUTSIDE, INSIDE = "198.18.9.2", "198.18.9.3", "10.9.0.3"
MINE_OUTSIDE, MINE_INSIDE = "198.18.9.1", "10.9.0.1"  # of the node that is limited
LESSON = content({"index.html": noise(256 * PIECE)})
RATE = Rate(LESSON.size // 4)
FREE = Rate(0)
PATIENCE_S = 30.0


def limited(port: int = 6881) -> AbstractAsyncContextManager[Swarm]:
    listen = f"{MINE_OUTSIDE}:{port},{MINE_INSIDE}:{port}"  # nobody else is in this namespace
    return node(tuning={"listen_interfaces": listen})


def peer(address: str, **tuning: object) -> AbstractAsyncContextManager[Swarm]:
    return node(address, {"outgoing_interfaces": address, **tuning})


def through(swarm: Swarm, address: str) -> Endpoint:
    """The node that is limited, by one of its addresses."""
    return Endpoint(address, at(swarm).port)


async def within_five_seconds_nothing_goes_outside_and_neighbours_are_served(folder: Path) -> None:
    slow = RATE // 4
    async with limited() as mine, peer(OUTSIDE, download_rate_limit=slow) as outside, peer(INSIDE) as inside:
        await hold(mine, LESSON, LESSON.write(folder / "mine"))
        taking = await hold(outside, LESSON, folder / "outside", through(mine, MINE_OUTSIDE))
        await taking.until(lambda: taking.bytes_have > 0)
        mine.limit(upload=FREE, download=FREE, outside=False)
        await trio.sleep(5.0)
        assert await mine.outside_bytes() > 0
        assert not taking.is_finished, "it should want more"
        neighbour = await hold(inside, LESSON, folder / "inside", through(mine, MINE_INSIDE))
        await neighbour.until(lambda: neighbour.is_finished)
        await trio.sleep(2.0)  # in which what is given would be reported
        assert await mine.outside_bytes() == 0


async def who_comes_from_outside_later_is_given_nothing(folder: Path) -> None:
    async with limited() as mine, peer(OUTSIDE) as outside:
        seeding = await hold(mine, LESSON, LESSON.write(folder / "mine"))
        mine.limit(upload=FREE, download=FREE, outside=False)
        taking = await hold(outside, LESSON, folder / "outside", through(mine, MINE_OUTSIDE))
        while not await seeding.neighbours():
            await trio.sleep(0.05)
        await trio.sleep(3.0)
        assert (await mine.outside_bytes(), taking.bytes_have) == (0, 0)
        mine.limit(upload=FREE, download=FREE, outside=True)
        await taking.until(lambda: taking.is_finished)


async def a_reader_is_served_from_outside(folder: Path) -> None:
    async with limited() as mine, peer(OUTSIDE) as outside, peer(OTHER_OUTSIDE, download_rate_limit=RATE) as other:
        mine.limit(upload=FREE, download=FREE, outside=False)
        await hold(outside, LESSON, LESSON.write(folder / "outside"))
        reading = await hold(mine, LESSON, folder / "mine", at(outside))
        taking = await hold(other, LESSON, folder / "other", through(mine, MINE_OUTSIDE))
        await reading.until(lambda: reading.is_finished)
        await trio.sleep(2.0)
        assert reading.bytes_from_peers == LESSON.size
        assert mine.traffic().to_peers == 0
        assert not taking.is_finished


async def what_goes_outside_is_counted_and_limited_and_the_local_network_neither(folder: Path) -> None:
    async with limited() as mine, peer(OUTSIDE) as outside, peer(INSIDE) as inside, limited(6882) as other:
        mine.limit(upload=RATE, download=FREE, outside=True)
        other.limit(upload=FREE, download=RATE, outside=True)
        await hold(mine, LESSON, LESSON.write(folder / "mine"))
        started_s = trio.current_time()
        neighbour = await hold(inside, LESSON, folder / "inside", through(mine, MINE_INSIDE))
        await neighbour.until(lambda: neighbour.is_finished)
        assert trio.current_time() - started_s < 3.0
        await trio.sleep(2.0)
        assert await mine.outside_bytes() == 0

        started_s = trio.current_time()
        taking = await hold(outside, LESSON, folder / "outside", through(mine, MINE_OUTSIDE))
        await taking.until(lambda: taking.is_finished)
        assert trio.current_time() - started_s > 3.0
        await trio.sleep(2.0)
        assert LESSON.size <= await mine.outside_bytes() < 1.1 * LESSON.size

        await inside.remove(LESSON.info_hash)
        await mine.remove(LESSON.info_hash)
        started_s = trio.current_time()
        another = await hold(other, LESSON, folder / "another", at(outside))
        await another.until(lambda: another.is_finished)
        assert trio.current_time() - started_s > 3.0


async def main(case: str, folder: Path) -> None:
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    for address in (OUTSIDE, OTHER_OUTSIDE, INSIDE, MINE_OUTSIDE, MINE_INSIDE):
        subprocess.run(["ip", "address", "add", f"{address}/32", "dev", "lo"], check=True)
    with trio.fail_after(PATIENCE_S):
        await CASES[case](folder)


CASES = {
    each.__name__: each
    for each in (
        within_five_seconds_nothing_goes_outside_and_neighbours_are_served,
        who_comes_from_outside_later_is_given_nothing,
        a_reader_is_served_from_outside,
        what_goes_outside_is_counted_and_limited_and_the_local_network_neither,
    )
}

if __name__ == "__main__":
    trio.run(main, sys.argv[1], Path(sys.argv[2]))
