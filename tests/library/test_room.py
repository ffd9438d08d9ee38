from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from edgeshare.library.disk import DiskWatch
from edgeshare.library.room import Disk, seen
from tests.support.disk import mounted, read_only, remount

FLOOR = 8 * 2**20
DISK = Disk(free=FLOOR, keep_free=FLOOR)


def test_fetching_stops_below_the_floor_and_goes_on_clearly_above_it() -> None:
    def after(disk: Disk, free: int) -> Disk:
        return seen(disk, free=free, is_readonly=False)

    assert not after(DISK, FLOOR).is_paused
    short = after(DISK, FLOOR - 1)
    assert (short.is_paused, short.is_short) == (True, True)
    assert short.reason == (
        "the library's disk is nearly full (8.0 MiB are free, and 8.0 MiB are to stay free): "
        "fetching goes on when there is room"
    )
    margin = FLOOR + FLOOR // 8
    assert after(short, margin - 1).is_paused
    assert not after(short, margin).is_paused
    assert after(after(short, margin), FLOOR).reason is None


@given(st.lists(st.integers(min_value=0, max_value=2 * FLOOR)))
def test_below_the_floor_nothing_is_ever_fetched(looks: list[int]) -> None:
    disk = DISK
    for free in looks:
        disk = seen(disk, free=free, is_readonly=False)
        assert disk.is_paused or free >= FLOOR
        assert not disk.is_paused or free < FLOOR + FLOOR // 8


def test_a_disk_that_is_read_only_or_gone_takes_nothing_and_says_why() -> None:
    read_only_one = seen(DISK, free=2**40, is_readonly=True)
    assert read_only_one.is_paused
    assert "read-only" in (read_only_one.reason or "")
    lost = seen(DISK, free=None, is_readonly=False)
    assert lost.is_paused
    assert "cannot be reached" in (lost.reason or "")
    assert (read_only_one.takes(0), lost.takes(0)) == (False, False)


def test_what_must_come_may_take_the_room_that_is_to_stay_free_but_not_more() -> None:
    short = seen(DISK, free=1000, is_readonly=False)
    assert (short.takes(1000), short.takes(1001)) == (True, False)


def test_without_a_floor_a_disk_is_never_short() -> None:
    assert not seen(Disk(free=1), free=0, is_readonly=False).is_paused


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    with mounted(tmp_path / "disk", "4m") as disk:
        (disk / "lock").touch()
        yield disk


async def test_who_waits_for_room_goes_on_when_somebody_made_some(disk: Path) -> None:
    (disk / "ballast").write_bytes(bytes(2 * 2**20))
    watch = DiskWatch(disk, 3 * 2**20)
    assert watch.disk.is_short
    async with trio.open_nursery() as nursery:
        nursery.start_soon(watch.until, lambda seen: not seen.is_paused)
        (disk / "ballast").unlink()
        await watch.look()
    assert watch.disk.free == 4 * 2**20


async def test_a_disk_that_became_read_only_is_noticed_and_so_is_its_return(disk: Path) -> None:
    watch = DiskWatch(disk, 0)
    assert watch.disk.reason is None
    remount(disk, "ro")
    await watch.look()
    assert watch.disk.is_readonly
    remount(disk, "rw")
    await watch.look()
    assert watch.disk.reason is None


async def test_a_folder_that_may_not_be_written_counts_as_read_only(tmp_path: Path) -> None:
    with read_only(tmp_path):
        assert DiskWatch(tmp_path, 0).disk.is_readonly


async def test_a_write_that_failed_has_the_disk_tried_and_not_only_asked(disk: Path) -> None:
    watch = DiskWatch(disk, 0)

    async def is_readonly() -> bool:
        await watch.look()
        return watch.disk.is_readonly

    (disk / "lock").unlink()  # as good as a disk that takes no write though it is mounted for them
    assert not await is_readonly()
    watch.doubt()
    with trio.fail_after(1):
        await watch.rest()  # at once
    assert await is_readonly()
    (disk / "lock").touch()
    assert not await is_readonly()


async def test_a_disk_that_is_gone_is_no_crash(tmp_path: Path) -> None:
    watch = DiskWatch(tmp_path / "nothing", 0)
    await watch.look()
    assert watch.disk.free is None
    os.mkdir(tmp_path / "nothing")
    await watch.look()
    assert watch.disk.free is not None
