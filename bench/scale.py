"""A school's node after a year: 5,000 lessons held, 50,000 listed, and no origin but for a new edition."""

from __future__ import annotations

import http.client
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import attrs

from bench.gauge import percentile
from bench.measure import EDGESHARE, report
from bench.stocked import PUBLISHER, Shop
from edgeshare.demo import free_ports

HELD = "6e"  # the level that is followed; the others are only shown
CHANGED = "2de"  # the level whose catalogue gets a new edition
LEVELS = {HELD: 5000, "5e": 8000, "4e": 7500, "3e": 7500, CHANGED: 4000, "1re": 6000, "terminale": 6000, "cm2": 6000}
STARTS = 3  # of each library
REQUESTS = 200  # of each kind, over one connection
ANNOUNCED_S = 90.0  # after a start a tracker hears of 5,000 contents one after the other
IDLE_S = 60.0
CALM_S = 0.5  # so long without work, and a daemon that has started is at rest
READ_EVERY_S = 0.01
_TICKS = os.sysconf("SC_CLK_TCK")
_PATIENCE_S = 120.0

PAGES = {
    "GET /": ["/", "/?page=2", "/?page=77"],
    "GET /?q=": ["/?q=fractions+climat", "/?q=bacedie", "/?q=e", "/?q=lanife+poesie", "/?q=vecteurs&level=4e"],
    "GET /?level=": ["/?level=5e", "/?level=2de&page=3", "/?level=3e&subject=francais"],
    "GET /l/": [f"/l/{PUBLISHER}-4e-{number}" for number in range(77, 87)],
    "GET /api/v1/lessons/": [f"/api/v1/lessons/{PUBLISHER}-4e-{number}" for number in range(77, 87)],
    "GET /api/v1/status": ["/api/v1/status"],
}


def main() -> None:
    """Make the libraries, start daemons on them, and ask them."""
    with tempfile.TemporaryDirectory(prefix="edgeshare-bench-") as name:
        root = Path(name)
        shop = Shop(root)
        shop.publish(LEVELS, HELD)
        few, every = [HELD], list(LEVELS)
        shop.stock(root / "held", few)
        shop.stock(root / "listed", every, holds=False)
        shop.stock(root / "both", every)
        with _tracker(shop) as tracker:
            _at_rest(root, "held", few, tracker, "5,000 held", ready=2, megabytes=200)
            _at_rest(root, "both", every, tracker, "5,000 held, 50,000 listed", ready=5, megabytes=500)
        _asked(root, "listed", every, "50,000 listed")
        _asked(root, "both", every, "5,000 held, 50,000 listed")
        _edition(shop, every)


def _at_rest(
    root: Path, library: str, levels: list[str], tracker: int, what: str, *, ready: float, megabytes: float
) -> None:
    starts, memory = [], []
    for number in range(STARTS):
        with _running(root, library, levels, tracker=tracker) as daemon:
            starts.append(daemon.ready_s)
            daemon.until_calm()
            memory.append(daemon.resident_mb())
            if number == STARTS - 1:
                time.sleep(ANNOUNCED_S)
                before = daemon.processor_s()
                time.sleep(IDLE_S)
                busy = (daemon.processor_s() - before) / IDLE_S
    report(f"seconds until ready, {what}", value=statistics.median(starts), worst=max(starts), want=ready)
    report(f"MB resident, {what}", value=statistics.median(memory), worst=max(memory), want=megabytes)
    report(f"% of a core at rest, {what}", value=100 * busy, want=1)


def _asked(root: Path, library: str, levels: list[str], what: str) -> None:
    with _running(root, library, levels) as daemon:
        daemon.until_calm()
        browser = Browser(daemon.port)
        for name, paths in PAGES.items():
            times = [browser.get(paths[number % len(paths)]) for number in range(REQUESTS)]
            p99 = percentile(times, 0.99) or 0.0
            report(f"ms at p99, {name}, {what}", value=1000 * p99, median=1000 * statistics.median(times), want=50)


def _edition(shop: Shop, levels: list[str]) -> None:
    """A change in ten lessons of a catalogue of 4,000: how soon it is admitted, and what a reader feels of it."""
    (port,) = free_ports(1)
    serve = [*EDGESHARE, "origin", "serve", str(shop.repository), "--listen", f"127.0.0.1:{port}"]
    with subprocess.Popen(serve, stderr=subprocess.DEVNULL) as origin:
        try:
            with _running(shop.folder, "both", levels, origin=port) as daemon:
                daemon.until_calm()
                times: list[float] = []
                with _reading(daemon.port, times):
                    time.sleep(2)
                    content = shop.change(CHANGED, 10)
                    calm, times[:] = max(times), []
                    took = daemon.until_admitted(
                        f"{PUBLISHER}/{CHANGED}", 2, shop.folder / "both" / "content" / content
                    )
                    time.sleep(2)  # what follows from it is settled
                report("seconds to take up an edition of 4,000 lessons", value=took, want=2)
                report("worst ms of a reader meanwhile", value=1000 * max(times), before=1000 * calm, want=100)
        finally:
            origin.send_signal(signal.SIGTERM)


@attrs.define
class Daemon:
    """A node that is ready."""

    pid: int
    port: int
    ready_s: float
    log: Path

    def processor_s(self) -> float:
        """Seconds of a processor that it has taken."""
        fields = Path(f"/proc/{self.pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / _TICKS

    def resident_mb(self) -> float:
        status = Path(f"/proc/{self.pid}/status").read_text(encoding="ascii")
        return int(next(line.split()[1] for line in status.splitlines() if line.startswith("VmRSS"))) * 1024 / 1e6

    def until_calm(self) -> None:
        """Wait until what it does after a start is done."""
        calm = 0
        while calm < 3:
            before = self.processor_s()
            time.sleep(CALM_S)
            calm = calm + 1 if self.processor_s() - before < 0.1 * CALM_S else 0

    def until_admitted(self, catalogue: str, edition: int, content: Path) -> float:
        """Seconds from the moment when an edition begins to come, in the folder `content`, until it counts."""
        heard = _until(content.exists)
        done = _until(lambda: f"{catalogue}: edition {edition}, lessons" in self.log.read_text(encoding="utf-8"))
        return done - heard


class Browser:
    """One connection, which lasts."""

    def __init__(self, port: int) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=_PATIENCE_S)

    def get(self, path: str) -> float:
        """Seconds until all of an answer is here."""
        start = time.perf_counter()
        self._connection.request("GET", path)
        response = self._connection.getresponse()
        body = response.read()
        took = time.perf_counter() - start
        assert response.status == 200, f"{path}: {response.status}"
        assert body
        return took


@contextmanager
def _reading(port: int, times: list[float]) -> Iterator[None]:
    """A reader who fetches a small file again and again; how long each took comes into `times`."""
    left = threading.Event()

    def read() -> None:
        browser = Browser(port)
        while not left.wait(READ_EVERY_S):
            times.append(browser.get(f"/lessons/{PUBLISHER}-{HELD}-7/style.css"))

    reader = threading.Thread(target=read)
    reader.start()
    try:
        yield
    finally:
        left.set()
        reader.join()


@contextmanager
def _tracker(shop: Shop) -> Iterator[int]:
    """opentracker, and its port: a node at rest is one whose tracker answers."""
    folder, (port,) = shop.folder / "tracker", free_ports(1)
    folder.mkdir()
    (folder / "whitelist.txt").write_text("".join(f"{each}\n" for each in shop.info_hashes()), encoding="ascii")
    config = shop.folder / "opentracker.conf"
    config.write_text(
        f"listen.udp 127.0.0.1:{port}\ntracker.rootdir {folder}\naccess.whitelist whitelist.txt\n", encoding="ascii"
    )
    command = ["opentracker", "-f", str(config)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as running:
        try:
            yield port
        finally:
            running.terminate()


@contextmanager
def _running(
    root: Path, library: str, levels: list[str], *, origin: int | None = None, tracker: int | None = None
) -> Iterator[Daemon]:
    """A daemon on one of the libraries, from the moment when browsers can read."""
    shim_port, swarm_port, nobody = free_ports(3)
    config, log = root / f"{library}.toml", root / f"{library}.log"
    config.write_text(
        f"""\
profile = "school"
origins = ["http://127.0.0.1:{origin or nobody}/"]
root = "repository/metadata/1.root.json"
library = "{library}"
follow = ["{PUBLISHER}/{HELD}"]
show = {[f"{PUBLISHER}/{level}" for level in levels if level != HELD]}
refresh_every_s = {1.0 if origin else 900.0}
[schedule]
window = "always"
[shim]
listen = "127.0.0.1:{shim_port}"
[swarm]
listen = "127.0.0.1:{swarm_port}"
trackers = ["udp://127.0.0.1:{tracker or nobody}"]
dht = false
""",
        encoding="utf-8",
    )
    start = time.perf_counter()
    with (
        log.open("wb") as errors,
        subprocess.Popen([*EDGESHARE, "run", "--config", str(config)], stderr=errors) as process,
    ):
        try:
            _until(lambda: _is_up(shim_port), 0.005)
            yield Daemon(process.pid, shim_port, time.perf_counter() - start, log)
        finally:
            process.send_signal(signal.SIGTERM)


def _is_up(port: int) -> bool:
    try:
        Browser(port).get("/healthz")
    except OSError:
        return False
    return True


def _until(condition: Callable[[], bool], every_s: float = 0.02) -> float:
    """Wait for something, and give the moment when it was there."""
    patience = time.perf_counter() + _PATIENCE_S
    while not condition():
        if time.perf_counter() > patience:
            sys.exit("it does not come; the daemon's log says more")
        time.sleep(every_s)
    return time.perf_counter()
