"""Real processes for tests: a publisher's servers and nodes on loopback, from the files in seeders/ and nothing else.

Every process is ended by its own id when its `Site` closes, whatever the test did. Waiting is bounded, and what failed
shows the end of its log.

The files in seeders/ are used as they are, but for what `adapted` and `with_lines` are told to replace: ports and paths
that a test must have for itself, and of the ways to find peers only the tracker stays, as DHT and local discovery would
speak to machines outside.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import attrs
import httpx
import pytest

PROJECT = Path(__file__).parents[2]
QUIET_CHROMIUM = (  # does nothing on its own account
    "--no-sandbox",  # root has none; what it opens here is ours
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
SEEDERS = PROJECT / "seeders"
EDGESHARE = Path(sys.executable).with_name("edgeshare")

STOP_WITHIN_S = 10.0


class Measured(Protocol):
    """Says one measured thing in pytest's summary."""

    def __call__(self, line: str) -> None: ...


def needed(program: str) -> str:
    """The path of a program that `requirements/system` installs.

    Root has it, or the test fails; another user may have to do without, and the test is skipped.
    """
    found = shutil.which(program, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")
    if found is None and os.geteuid() == 0:
        pytest.fail(f"{program} is not installed: run requirements/system, as `make test` does")
    if found is None:
        pytest.skip(f"{program} is not installed, and only root can install it (requirements/system)")
    return found


def needed_library(name: str) -> None:
    """As `needed`, for a shared library."""
    try:
        ctypes.CDLL(name)
    except OSError as error:
        if os.geteuid() == 0:
            pytest.fail(f"{name} is not installed: run requirements/system, as `make test` does ({error})")
        pytest.skip(f"{name} is not installed, and only root can install it (requirements/system)")


def free_port() -> int:
    """A port of 127.0.0.1 that is free now, for TCP and UDP."""
    while True:
        with socket.socket() as tcp, socket.socket(type=socket.SOCK_DGRAM) as udp:
            tcp.bind(("127.0.0.1", 0))
            port: int = tcp.getsockname()[1]
            try:
                udp.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port


def until(what: str, condition: Callable[[], bool], within_s: float) -> float:
    """Look every 50 ms until `condition` holds; the seconds that it took. Fails the test after `within_s`.

    The processes are others', with no event to wait for: here the period itself is the point.
    """
    start = time.monotonic()
    while not condition():
        assert time.monotonic() - start < within_s, f"{what}: not within {within_s:.0f} s"
        time.sleep(0.05)
    return time.monotonic() - start


def adapted(file: Path, changes: Mapping[str, str]) -> str:
    """The text of `file` with each key of `changes`, which stands in it exactly once, replaced by its value."""
    text = file.read_text(encoding="utf-8")
    for old, new in changes.items():
        assert text.count(old) == 1, f"{file} has {old!r} {text.count(old)} times, and a test replaces it"
        text = text.replace(old, new)
    return text


def with_lines(file: Path, lines: Mapping[str, str]) -> str:
    """The text of a node's config with the whole line of each key (`library`, `shim.listen`) replaced by another."""
    text, table, missing = "", "", set(lines)
    for line in file.read_text(encoding="utf-8").splitlines():
        if line.startswith("["):
            table = line.strip("[]") + "."
        key = table + line.partition("=")[0].strip()
        text += lines.get(key, line) + "\n"
        missing.discard(key)
    assert not missing, f"{file} has no line for {missing}, and a test replaces it"
    return text


def edgeshare(*arguments: str | Path, within_s: float = 120.0) -> str:
    """What the command prints; it must succeed."""
    done = subprocess.run([EDGESHARE, *arguments], capture_output=True, text=True, timeout=within_s, check=False)
    assert done.returncode == 0, f"edgeshare {arguments[0]} failed: {done.stderr}"
    return done.stdout


@attrs.frozen
class Running:
    """One process, and its log."""

    name: str
    process: subprocess.Popen[bytes]
    log: Path

    def is_up(self) -> bool:
        """Whether it still runs; fails the test, with the end of its log, when it does not."""
        assert self.process.poll() is None, f"{self.name} ended with {self.process.returncode}:\n{self.tail()}"
        return True

    def tail(self) -> str:
        return "\n".join(self.log.read_text(encoding="utf-8", errors="replace").splitlines()[-30:])

    def stop(self) -> None:
        """End it, politely at first."""
        self.process.terminate()
        try:
            self.process.wait(STOP_WITHIN_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait(STOP_WITHIN_S)


@attrs.frozen
class Node:
    """An `edgeshare run`, from one of seeders' configs."""

    running: Running
    config: Path
    library: Path
    port: int  # of the shim

    @property
    def home(self) -> str:
        return f"http://localhost:{self.port}/"

    def api(self, path: str) -> Any:
        """What the API says."""
        response = httpx.get(f"http://127.0.0.1:{self.port}/api/v1/{path}", timeout=10.0)
        response.raise_for_status()
        return response.json()

    def is_ready(self) -> bool:
        """Whether browsers can read."""
        return self.running.is_up() and _answers(f"http://127.0.0.1:{self.port}/healthz")

    def has_catalogue(self) -> bool:
        return self.running.is_up() and all(each["edition"] for each in self.api("status")["catalogues"])

    def has(self, *lessons: str) -> bool:
        """Whether these lessons are complete."""
        states = {each["id"]: each["state"] for each in self.api("lessons")} if self.running.is_up() else {}
        return all(states.get(lesson) == "complete" for lesson in lessons)

    def url(self, lesson: str, path: str = "") -> str:
        """The address of a lesson's file at the lesson's own web origin; `path` is percent-encoded already."""
        return f"http://{lesson}.localhost:{self.port}/{path}"

    def file(self, lesson: str, path: str, **headers: str) -> httpx.Response:
        """A lesson's file as a browser gets it; `path` is percent-encoded already."""
        host = {"Host": f"{lesson}.localhost:{self.port}"}
        return httpx.get(f"http://127.0.0.1:{self.port}/{path}", headers=host | headers, timeout=60.0)


@attrs.frozen
class Origin:
    """What a publisher runs."""

    url: str
    nginx: Running
    opentracker: Running
    tracker_port: int


class Site:
    """A publisher and nodes in one folder; made by `open_site`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.repository = folder / "repository"
        self._keys = folder / "keys"
        self._running: list[Running] = []

    def publish(self, *lessons: Path, origin: str, tracker: str) -> None:
        """Make the repository if there is none, and release these lesson folders."""
        if not self.repository.exists():
            edgeshare("publish", "init", self.repository, "--keys", self._keys)
        for lesson in lessons:
            edgeshare("publish", "add", self.repository, lesson, "--keys", self._keys)
        where = ("--origin", origin, "--tracker", tracker)
        edgeshare("publish", "release", self.repository, "--keys", self._keys, *where)

    def origin(self, *lessons: Path, more: Mapping[str, str] | None = None) -> Origin:
        """These lesson folders published, on nginx and with opentracker; `more` is changed in nginx.conf."""
        web, meeting = free_port(), free_port()
        origin = f"http://127.0.0.1:{web}/"
        self.publish(*lessons, origin=origin, tracker=f"udp://127.0.0.1:{meeting}")
        return Origin(origin, self.nginx(web, more), self.opentracker(meeting), meeting)

    def nginx(self, port: int, more: Mapping[str, str] | None = None) -> Running:
        """Debian's nginx with seeders/origin/nginx.conf, answering at `port` of 127.0.0.1."""
        state = self.folder / "nginx"
        state.mkdir()
        kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        temporary = "".join(f"\n    {kind}_temp_path {state}/{kind};" for kind in kinds)
        changes = {
            "listen 80;": f"listen 127.0.0.1:{port};",
            "root /srv/edgeshare;": f"root {self.repository};",
            "pid /run/nginx.pid;": f"pid {state}/pid;",
            "error_log /var/log/nginx/error.log crit;": f"error_log {state}/error.log crit;",
            "access_log /var/log/nginx/access.log network;": f"access_log {state}/access.log network;",
            "http {": f"http {{{temporary}",  # where it may write when it is not started by root
            **(more or {}),
        }
        config = self.folder / "nginx.conf"
        config.write_text(adapted(SEEDERS / "origin" / "nginx.conf", changes), encoding="utf-8")
        # -e: the log of its first lines, before it has read where the others go
        command = [needed("nginx"), "-e", f"{state}/start.log", "-c", str(config), "-g", "daemon off;"]
        running = self.start("nginx", command)
        until("nginx answers", lambda: running.is_up() and _accepts(port), 10.0)
        return running

    def nginx_log(self) -> list[str]:
        """What nginx has logged of each answer."""
        return (self.folder / "nginx" / "access.log").read_text(encoding="utf-8").splitlines()

    def opentracker(self, port: int) -> Running:
        """Debian's opentracker with seeders/origin/opentracker.conf, at `port` of 127.0.0.1."""
        changes = {
            "listen.tcp_udp 0.0.0.0:6969": f"listen.tcp_udp 127.0.0.1:{port}",
            "tracker.rootdir /srv/edgeshare/tracker": f"tracker.rootdir {self.repository / 'tracker'}",
        }
        config = self.folder / "opentracker.conf"
        config.write_text(adapted(SEEDERS / "origin" / "opentracker.conf", changes), encoding="utf-8")
        running = self.start("opentracker", [needed("opentracker"), "-f", str(config)])
        until("opentracker answers", lambda: running.is_up() and _accepts(port), 10.0)
        return running

    def node(
        self, kind: str, name: str, origin: str, more: Mapping[str, str] | None = None, *, under: Sequence[str] = ()
    ) -> Node:
        """A node from seeders/`kind`/edgeshare.toml, when browsers can read from it.

        `more` replaces further lines of the config; `under` is a command that runs the node.
        """
        folder = self.folder / name
        folder.mkdir()
        port = free_port()
        lines = {
            "origins": f'origins = ["{origin}"]',
            "root": f'root = "{self.repository}/metadata/1.root.json"',
            "library": f'library = "{folder}/library"',
            "shim.listen": f'listen = "127.0.0.1:{port}"',
            "schedule.window": 'window = "always"',
            "swarm.listen": f'listen = "127.0.0.1:{free_port()}"',
            "swarm.dht": "dht = false",
            "swarm.lsd": "lsd = false",
            **(more or {}),
        }
        config = folder / "edgeshare.toml"
        config.write_text(with_lines(SEEDERS / kind / "edgeshare.toml", lines), encoding="utf-8")
        running = self.start(name, [*under, str(EDGESHARE), "run", "--config", str(config)])
        node = Node(running, config, folder / "library", port)
        until(f"{name} is ready", node.is_ready, 20.0)
        return node

    def start(self, name: str, command: list[str]) -> Running:
        """Start a process that ends with the site, and also when pytest is killed (but for opentracker, as root)."""
        log = self.folder / f"{name}.log"
        command = [needed("setpriv"), "--pdeathsig", "TERM", *command]
        with log.open("ab") as output:
            process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=output)
        running = Running(name, process, log)
        self._running.append(running)
        return running

    def close(self) -> None:
        """End every process: all are told first, as each takes a second to say goodbye to the tracker."""
        for running in self._running:
            running.process.terminate()
        for running in self._running:
            running.stop()


@contextmanager
def open_site(folder: Path) -> Iterator[Site]:
    """A site in `folder`, whose processes end with the context."""
    site = Site(folder)
    try:
        yield site
    finally:
        site.close()


def _accepts(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), 1.0).close()
    except OSError:
        return False
    return True


def _answers(url: str) -> bool:
    try:
        return httpx.get(url, timeout=2.0).is_success
    except httpx.TransportError:
        return False
