"""`edgeshare demo`: a publisher, an origin, a school and homes on this machine, each a real process, to watch.

Everything is on 127.0.0.1 and in one temporary folder, which goes with it. The nodes know one another by their config's
`peers`, so the demo needs no tracker.
"""

from __future__ import annotations

import contextlib
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from datetime import UTC, datetime
from importlib.resources import files
from pathlib import Path
from typing import Any

import attrs
import trio

from edgeshare import vocabulary
from edgeshare.control import answers_to
from edgeshare.errors import EdgeshareError, LibraryError
from edgeshare.publish.keys import Keys
from edgeshare.publish.repository import create_repository, open_repository

CATALOGUE = "cned/6e"
SHIM_PORT = 8470  # the school's, where it is free
LOOK_EVERY_S = 0.25
GIVE_UP_S = 120.0  # for everything to be complete, with --once
_STOP_GRACE_S = 4.0  # a node stops within 3


class DemoError(EdgeshareError):
    """A part of the demo ended, or did not come to its end."""


@attrs.frozen
class Place:
    """One node of the demo."""

    name: str
    profile: str
    folder: Path  # holds its config, its log and its library
    shim_port: int
    swarm_port: int

    @property
    def library(self) -> Path:
        return self.folder / "library"


@attrs.frozen(kw_only=True)
class Standing:
    """How one node stands."""

    place: Place
    bytes_have: int
    size: int  # of all lessons
    complete: int
    lessons: int
    origin_bytes: int
    peer_bytes: int

    @property
    def is_done(self) -> bool:
        return 0 < self.lessons == self.complete


@attrs.frozen
class Scene:
    """The running demo."""

    places: tuple[Place, ...]
    url: str

    async def look(self) -> list[Standing]:
        """How every node stands, now."""
        return [await _look(place) for place in self.places]


@asynccontextmanager
async def on_stage(homes: int, report: Callable[[str], None]) -> AsyncGenerator[Scene, None]:
    """The demo with a school and `homes` homes, all running; ended, with every process, when the context ends.

    Raises:
        DemoError: a process ended by itself; the message has its last line.
    """
    with _temporary() as folder:
        repository = folder / "repository"
        report("publishing the example lessons")
        await trio.to_thread.run_sync(_publish, repository, folder / "keys")
        origin_port, *ports = free_ports(1 + 2 * (homes + 1))
        names = [("school", "school"), *((f"home {n}", "home") for n in range(1, homes + 1))]
        places = tuple(
            Place(name, profile, folder / name.replace(" ", "-"), ports[2 * n], ports[2 * n + 1])
            for n, (name, profile) in enumerate(names)
        )
        if _is_free(SHIM_PORT):
            places = (attrs.evolve(places[0], shim_port=SHIM_PORT), *places[1:])
        async with trio.open_nursery() as nursery:
            command = ["origin", "serve", str(repository), "--listen", f"127.0.0.1:{origin_port}"]
            await nursery.start(_process, "origin", command, folder / "origin.log")
            await _until_listening(origin_port)
            report("starting a school and its homes")
            for place in places:
                _write_config(place, places, repository, origin_port)
                command = ["run", "--config", str(place.folder / "edgeshare.toml")]
                await nursery.start(_process, place.name, command, place.folder / "log")
            yield Scene(places, f"http://localhost:{places[0].shim_port}/")
            nursery.cancel_scope.cancel()


def example_lessons() -> list[Path]:
    """The example lessons: installed with the package, or in the checkout beside it."""
    for folder in (Path(str(files("edgeshare"))) / "example_lessons", Path(__file__).parents[1] / "manifests/lessons"):
        if found := sorted(path.parent for path in folder.glob("*/lesson.toml")):
            return found
    raise DemoError("the example lessons are not installed", hint="install edgeshare anew")


def _publish(repository: Path, keys_folder: Path) -> None:
    keys = Keys(keys_folder)
    now = datetime.now(UTC).replace(microsecond=0)
    create_repository(repository, keys, CATALOGUE.partition("/")[0], now)
    with open_repository(repository, keys) as opened:
        for lesson in example_lessons():
            opened.add(lesson, vocabulary.built_in())
        opened.release(now)


def _write_config(place: Place, places: tuple[Place, ...], repository: Path, origin_port: int) -> None:
    place.folder.mkdir()
    others = ", ".join(f'"127.0.0.1:{other.swarm_port}"' for other in places if other is not place)
    (place.folder / "edgeshare.toml").write_text(
        f"""\
profile = "{place.profile}"
origins = ["http://127.0.0.1:{origin_port}/"]
root = '{repository / "metadata" / "1.root.json"}'
library = '{place.library}'
follow = ["{CATALOGUE}"]
[schedule]
window = "always"
[link]
network_manager = false
[shim]
listen = "127.0.0.1:{place.shim_port}"
[swarm]
listen = "127.0.0.1:{place.swarm_port}"
peers = [{others}]
dht = false
lsd = false
""",
        encoding="utf-8",
    )


async def _process(
    name: str, arguments: list[str], log: Path, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
) -> None:
    """Run one edgeshare until cancelled; then stop it, and wait until it is gone."""
    with log.open("wb") as output:
        process = await trio.lowlevel.open_process(
            [sys.executable, "-m", "edgeshare", *arguments],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # Ctrl-C is for the demo; it stops the others by their pids
        )
    try:
        task_status.started()
        await process.wait()
    finally:
        if process.returncode is None:
            process.terminate()
            with trio.move_on_after(_STOP_GRACE_S, shield=True):
                await process.wait()
        if process.returncode is None:
            process.kill()
            with trio.CancelScope(shield=True):
                await process.wait()
    raise DemoError(f"the {name} ended by itself ({_last_line(log) or 'without a word'})")


async def _look(place: Place) -> Standing:
    found: list[dict[str, Any]] = []
    status: dict[str, Any] = {"origin_bytes": 0, "peer_bytes": 0}
    with contextlib.suppress(LibraryError):  # it is still starting
        found = await answers_to(place.library, {"do": "lessons"})
        (status,) = await answers_to(place.library, {"do": "status"})
    return Standing(
        place=place,
        bytes_have=sum(lesson["bytes_have"] for lesson in found),
        size=sum(lesson["size"] for lesson in found),
        complete=sum(lesson["state"] == "complete" for lesson in found),
        lessons=len(found),
        origin_bytes=status["origin_bytes"],
        peer_bytes=status["peer_bytes"],
    )


def _last_line(log: Path) -> str:
    return "".join(log.read_text(encoding="utf-8", errors="replace").strip().splitlines()[-1:])


async def _until_listening(port: int) -> None:
    with trio.move_on_after(10.0):
        while True:
            try:
                await (await trio.open_tcp_stream("127.0.0.1", port)).aclose()
            except OSError:
                await trio.sleep(0.05)
            else:
                return


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on at this moment."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True


@contextmanager
def _temporary() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="edgeshare-demo-"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
