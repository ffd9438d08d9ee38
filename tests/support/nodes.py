"""Nodes for tests: their configs, nodes in this process, and nodes as processes of their own on loopback."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import attrs
import httpx
import pytest
import trio

from edgeshare.config import Endpoint, load
from edgeshare.control import ask
from edgeshare.daemon import run_node
from tests.support.publisher import CATALOGUE, Publisher

PATIENCE_S = 90.0  # for what takes a second; the machine may be busy
_FAKE_CLOCK = {"FAKETIME_DONT_FAKE_MONOTONIC": "1"}  # only the wall clock: what waits for seconds goes on
NOBODY = "http://127.0.0.1:9/"  # the discard port: no origin is there
STOP_WITHIN_S = 3.0  # what is promised of a node


def write_config(
    folder: Path,
    publisher: Publisher,
    *origins: str,
    more: str = "",
    shim: str = "127.0.0.1:0",
    swarm: str = "127.0.0.1:0",
    peers: str = "",
    refresh_every_s: int = 1,
    keep_free: str = "0 B",
    window: str = "always",
    link: str = "network_manager = false",
) -> Path:
    """A node's config in `folder`: ports from the kernel, and no way to find peers but those that are named.

    Unless told otherwise it fetches at any hour and to the last byte, whatever clock and connection this machine has.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "edgeshare.toml"
    path.write_text(
        f"""\
origins = {list(origins)}
root = '{publisher.root}'
library = '{folder / "library"}'
follow = ['{CATALOGUE}']
refresh_every_s = {refresh_every_s}
keep_free = '{keep_free}'
{more}
[schedule]
window = '{window}'
[link]
{link}
[shim]
listen = '{shim}'
[swarm]
listen = '{swarm}'
dht = false
lsd = false
{peers}
""",
        encoding="utf-8",
    )
    return path


@attrs.frozen
class Node:
    """A running node, as its users meet it."""

    library: Path
    shim: Endpoint

    async def ask(self, do: str, **more: str) -> list[dict[str, Any]]:
        async with contextlib.aclosing(ask(self.library, {"do": do, **more})) as answers:
            return [answer async for answer in answers]

    async def status(self) -> dict[str, Any]:
        return (await self.ask("status"))[0]

    async def lesson(self, lesson: str) -> dict[str, Any] | None:
        return next((each for each in await self.ask("lessons") if each["id"] == lesson), None)

    async def until(self, lesson: str, state: str) -> dict[str, Any]:
        """The lesson, as soon as it is in `state`."""
        found: dict[str, Any] | None = None
        with trio.move_on_after(PATIENCE_S):
            while True:
                found = await self.lesson(lesson)
                if found and found["state"] == state:
                    return found
                await trio.sleep(0.05)
        raise AssertionError(f"{lesson} is not {state} but {found}; {await self.status()}")

    async def until_gone(self, lesson: str) -> None:
        """Return as soon as the lesson is no longer listed."""
        with trio.fail_after(PATIENCE_S):
            while await self.lesson(lesson) is not None:
                await trio.sleep(0.05)

    async def until_status(self, condition: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        """The status, as soon as it is as wanted."""
        status: dict[str, Any] = {}
        with trio.move_on_after(PATIENCE_S):
            while not condition(status := await self.status()):
                await trio.sleep(0.05)
            return status
        raise AssertionError(f"the status stays {status}")

    async def read(self, lesson: str, path: str) -> tuple[int, bytes]:
        """Status and body of a lesson's file, from the shim."""
        async with httpx.AsyncClient(trust_env=False, timeout=PATIENCE_S) as browser:
            response = await browser.get(f"http://{self.shim}/lessons/{lesson}/{path}")
            return response.status_code, response.content


@asynccontextmanager
async def here(config: Path) -> AsyncGenerator[Node, None]:
    """A node in this process."""
    loaded = load(config)
    async with trio.open_nursery() as nursery:
        with trio.fail_after(PATIENCE_S):
            shim = await nursery.start(run_node, loaded)
        yield Node(loaded.library, shim)
        nursery.cancel_scope.cancel()


@attrs.frozen
class Process:
    """One `edgeshare` command as a process of its own; both its outputs are in `log`."""

    process: trio.Process
    log: Path

    async def says(self, pattern: str) -> re.Match[str]:
        """Wait until it has said something."""
        with trio.move_on_after(PATIENCE_S):
            while (found := re.search(pattern, self.log.read_text())) is None:
                assert self.process.poll() is None, f"it ended: {self.log.read_text()}"
                await trio.sleep(0.02)
            return found
        raise AssertionError(f"it never says {pattern!r}: {self.log.read_text()}")

    async def stop(self, number: signal.Signals = signal.SIGTERM) -> tuple[int, float]:
        """Send a signal; the exit code, and the seconds that it took."""
        started = trio.current_time()
        self.process.send_signal(number)
        with trio.fail_after(PATIENCE_S):
            code = await self.process.wait()
        return code, trio.current_time() - started


@asynccontextmanager
async def process(*arguments: str | Path, log: Path, clock: str | Path | None = None) -> AsyncGenerator[Process, None]:
    """Run an `edgeshare` command; killed when the context ends, if it has not ended by then.

    Its wall clock says what `clock` does, in faketime's words: `+31d`, `1970-01-02`; or what a file says that has such
    words in it, and may change.
    """
    command = [sys.executable, "-m", "edgeshare", *map(str, arguments)]
    env = dict(os.environ)
    if isinstance(clock, Path):
        env |= _FAKE_CLOCK | {"FAKETIME_TIMESTAMP_FILE": str(clock), "FAKETIME_NO_CACHE": "1"}
        env["LD_PRELOAD"] = _libfaketime()
    elif clock is not None:
        moment = f"@{clock} 12:00:00" if clock[0].isdigit() else clock
        env |= _FAKE_CLOCK | {"LD_PRELOAD": _libfaketime(), "FAKETIME": moment}
    with log.open("wb") as output:
        started = await trio.lowlevel.open_process(command, stdout=output, stderr=subprocess.STDOUT, env=env)
    try:
        yield Process(started, log)
    finally:
        if started.poll() is None:
            started.kill()
        with trio.CancelScope(shield=True):
            await started.wait()


@asynccontextmanager
async def apart(config: Path, *, clock: str | Path | None = None) -> AsyncGenerator[tuple[Node, Process], None]:
    """A node as a process of its own, ready."""
    async with process("run", "--config", config, log=config.with_name("log"), clock=clock) as running:
        found = await running.says(r"reads at http://(.+):(\d+)/")
        yield Node(load(config).library, Endpoint(found[1], int(found[2]))), running


def _libfaketime() -> str:
    """The library that gives a process another clock; root has it, another user may have to skip."""
    if found := next(Path("/usr/lib").glob("*/faketime/libfaketime.so.1"), None):
        return str(found)
    if os.geteuid() == 0:
        pytest.fail("libfaketime is not installed: run requirements/system, as `make test` does")
    pytest.skip("libfaketime is not installed, and only root can install it (requirements/system)")
