"""NetworkManager's word, over a real D-Bus daemon and a small service that calls itself NetworkManager."""

from __future__ import annotations

import logging
import os
import shutil
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from random import Random
from typing import Any

import attrs
import jeepney
import pytest
import trio
from jeepney.bus_messages import message_bus
from jeepney.io.trio import DBusConnection, open_dbus_connection

from edgeshare import networkmanager
from edgeshare.config import Config
from edgeshare.library.library import open_library
from edgeshare.link import LOOK_EVERY_S, Link
from edgeshare.networkmanager import watch_metered
from edgeshare.origin.client import open_origins
from tests.support.content import node

pytestmark = pytest.mark.whole  # it needs another program

NAME, PATH = "org.freedesktop.NetworkManager", "/org/freedesktop/NetworkManager"
UNKNOWN, YES, NO, GUESS_YES, GUESS_NO = range(5)  # NMMetered
PATIENCE_S = 10.0
BUS = """\
<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN"
 "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig>
  <type>custom</type>
  <listen>unix:path={socket}</listen>
  <policy context="default"><allow own="*"/><allow send_destination="*"/><allow receive_sender="*"/></policy>
</busconfig>
"""


@attrs.define
class Bus:
    """A D-Bus daemon of the test's own."""

    folder: Path
    process: subprocess.Popen[bytes] | None = None

    @property
    def address(self) -> str:
        return f"unix:path={self.folder / 'bus'}"

    async def start(self) -> None:
        config = self.folder / "bus.conf"
        config.write_text(BUS.format(socket=self.folder / "bus"), encoding="utf-8")
        (self.folder / "bus").unlink(missing_ok=True)
        command = [_dbus_daemon(), f"--config-file={config}", "--nofork", "--print-address"]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE)
        assert self.process.stdout
        await trio.to_thread.run_sync(self.process.stdout.readline)  # it listens

    def stop(self) -> None:
        if self.process:
            assert self.process.stdout
            self.process.kill()
            self.process.wait()
            self.process.stdout.close()
            self.process = None


def _dbus_daemon() -> str:
    if found := shutil.which("dbus-daemon"):
        return found
    if os.geteuid() == 0:
        pytest.fail("dbus-daemon is not installed: run requirements/system, as `make test` does")
    pytest.skip("dbus-daemon is not installed, and only root can install it (requirements/system)")


@pytest.fixture
async def bus(tmp_path: Path) -> AsyncIterator[Bus]:
    bus = Bus(tmp_path)
    await bus.start()
    yield bus
    bus.stop()


@attrs.define
class NetworkManager:
    """The service; it answers what is asked, and tells of changes."""

    connection: DBusConnection
    metered: int

    async def serve(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        await self.connection.send(message_bus.RequestName(NAME))
        while True:
            message = await self.connection.receive()
            if message.header.fields.get(jeepney.HeaderFields.member) == "NameAcquired" and message.body == (NAME,):
                task_status.started()
            if message.header.message_type is jeepney.MessageType.method_call:
                assert message.body == (NAME, "Metered")
                answer = jeepney.new_method_return(message, "v", (("u", self.metered),))
                await self.connection.send(answer)

    async def becomes(self, metered: int) -> None:
        self.metered = metered
        await self.says(NAME, {"Metered": ("u", metered)})

    async def says(self, interface: str, changed: dict[str, Any]) -> None:
        where = jeepney.DBusAddress(PATH, interface="org.freedesktop.DBus.Properties")
        await self.connection.send(jeepney.new_signal(where, "PropertiesChanged", "sa{sv}as", (interface, changed, [])))


@asynccontextmanager
async def network_manager(bus: Bus, metered: int) -> AsyncIterator[NetworkManager]:
    async with await open_dbus_connection(bus.address) as connection:
        service = NetworkManager(connection, metered)
        async with trio.open_nursery() as nursery:
            await nursery.start(service.serve)
            yield service
            nursery.cancel_scope.cancel()


@attrs.define
class Told:
    """What a node hears."""

    words: list[bool] = attrs.field(factory=list)
    heard: trio.Event = attrs.field(factory=trio.Event)

    def __call__(self, is_metered: bool) -> None:
        self.words.append(is_metered)
        self.heard.set()

    async def next(self) -> bool:
        """The next word that nobody has taken yet."""
        with trio.fail_after(PATIENCE_S):
            while not self.words:
                self.heard = trio.Event()
                await self.heard.wait()
        return self.words.pop(0)


@asynccontextmanager
async def watching(bus: Bus) -> AsyncIterator[Told]:
    told = Told()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(watch_metered, told, bus.address)
        yield told
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize(
    ("metered", "is_metered"), [(UNKNOWN, False), (YES, True), (NO, False), (GUESS_YES, True), (GUESS_NO, False)]
)
async def test_yes_and_a_guess_at_yes_count_as_metered(bus: Bus, metered: int, is_metered: bool) -> None:
    async with network_manager(bus, metered), watching(bus) as told:
        assert await told.next() is is_metered


async def test_a_change_is_heard_of(bus: Bus) -> None:
    async with network_manager(bus, NO) as service, watching(bus) as told:
        assert await told.next() is False
        await service.becomes(GUESS_YES)
        assert await told.next() is True
        await service.says(NAME, {"State": ("u", 70)})
        await service.becomes(NO)
        assert await told.next() is False
        assert told.words == []


async def test_a_network_manager_that_goes_takes_its_word_with_it_and_one_that_comes_is_asked(bus: Bus) -> None:
    async with watching(bus) as told:
        assert await told.next() is False  # nobody is there
        for _ in range(2):
            async with network_manager(bus, YES):
                assert await told.next() is True
            assert await told.next() is False


async def test_nobody_but_network_manager_is_believed(bus: Bus) -> None:
    async with network_manager(bus, NO) as service, watching(bus) as told:
        assert await told.next() is False
        async with await open_dbus_connection(bus.address) as stranger:
            await NetworkManager(stranger, YES).becomes(YES)
            await service.becomes(GUESS_NO)
            assert await told.next() is False


async def test_a_bus_that_dies_and_comes_back_is_asked_again_later(
    bus: Bus, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(networkmanager, "RETRY_EVERY_S", 0.1)
    caplog.set_level(logging.INFO, "edgeshare.networkmanager")
    async with watching(bus) as told:
        async with network_manager(bus, YES):
            while not await told.next():
                pass
        assert await told.next() is False
        caplog.clear()
        bus.stop()
        for _ in range(3):
            assert await told.next() is False
        assert len(caplog.messages) <= 2  # that it is gone, and that nobody listens
        await bus.start()
        async with network_manager(bus, GUESS_YES):
            while not await told.next():
                pass


async def test_without_a_bus_nothing_is_metered_and_one_line_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(networkmanager, "RETRY_EVERY_S", 0.01)
    with caplog.at_level(logging.INFO, "edgeshare.networkmanager"):
        async with watching(Bus(tmp_path)) as told:
            for _ in range(5):
                assert await told.next() is False
    assert [record.levelname for record in caplog.records] == ["INFO"]


async def test_an_address_that_is_none_is_like_no_bus(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "edgeshare.networkmanager"), trio.move_on_after(0.2):
        await watch_metered(lambda _: None, "tcp:host=localhost,port=1")
    assert len(caplog.records) == 1


async def test_a_node_stops_giving_to_the_outside_when_network_manager_says_metered(
    bus: Bus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DBUS_SYSTEM_BUS_ADDRESS", bus.address)
    config = Config(origins=("http://origin.example/",), root=tmp_path / "root.json")
    async with (
        network_manager(bus, NO) as service,
        open_library(tmp_path / "library") as library,
        open_origins(config.origins, Random(1)) as origins,
        node() as swarm,
        trio.open_nursery() as nursery,
    ):
        link = Link(swarm, origins, library, config)
        await nursery.start(link.run)
        assert not link.limits.is_metered
        with trio.fail_after(LOOK_EVERY_S - 0.5):  # not only with the next look
            await service.becomes(YES)
            await link.change()
        assert link.limits.reason == "NetworkManager says that the connection is metered"
        nursery.cancel_scope.cancel()
