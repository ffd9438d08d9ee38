"""A daemon that holds ten lessons: how soon it answers, and what it weighs."""

from __future__ import annotations

import signal
import statistics
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path

from bench.measure import EDGESHARE, RUNS, report, seconds
from bench.publish import DESCRIPTION
from edgeshare.demo import free_ports

LESSONS = 10


def main() -> None:
    """Publish and fetch ten lessons once, then start the daemon on them again and again."""
    with tempfile.TemporaryDirectory(prefix="edgeshare-bench-") as name:
        root = Path(name)
        origin_port, shim_port, swarm_port = free_ports(3)
        _publish(root)
        config = root / "edgeshare.toml"
        config.write_text(
            f"""\
origins = ["http://127.0.0.1:{origin_port}/"]
root = "repository/metadata/1.root.json"
library = "library"
follow = ["cned/6e"]
[schedule]
window = "always"
[shim]
listen = "127.0.0.1:{shim_port}"
[swarm]
listen = "127.0.0.1:{swarm_port}"
dht = false
lsd = false
""",
            encoding="utf-8",
        )
        serve = [*EDGESHARE, "origin", "serve", str(root / "repository"), "--listen", f"127.0.0.1:{origin_port}"]
        with subprocess.Popen(serve, stderr=subprocess.DEVNULL) as origin:
            try:
                _started(config, shim_port, complete=LESSONS)
                starts = [_started(config, shim_port, complete=LESSONS) for _ in range(RUNS)]
            finally:
                origin.send_signal(signal.SIGTERM)
    times = [each[0] for each in starts]
    memory = [each[1] for each in starts]
    report("seconds until ready, 10 lessons", value=statistics.median(times), worst=max(times), want=1.5)
    report("MB resident, 10 lessons", value=statistics.median(memory), worst=max(memory), want=120)


def _publish(root: Path) -> None:
    keys = ("--keys", root / "keys")
    seconds([*EDGESHARE, "publish", "init", root / "repository", *keys])
    for number in range(LESSONS):
        lesson = root / f"lesson-{number}"
        lesson.mkdir()
        text = DESCRIPTION.replace('"bench"', f'"bench-{number}"')
        (lesson / "lesson.toml").write_text(text, encoding="utf-8")
        (lesson / "index.html").write_text(f"<h1>{number}</h1>", encoding="utf-8")
        (lesson / "video.bin").write_bytes(bytes([number]) * 2**20)
        seconds([*EDGESHARE, "publish", "add", root / "repository", lesson, *keys])
    seconds([*EDGESHARE, "publish", "release", root / "repository", *keys])


def _started(config: Path, port: int, *, complete: int) -> tuple[float, float]:
    """Start the daemon: seconds until it answers, and resident MB once every lesson is complete and read."""
    start = time.perf_counter()
    with subprocess.Popen([*EDGESHARE, "run", "--config", str(config)], stderr=subprocess.DEVNULL) as daemon:
        try:
            while not _answer(port, "/healthz"):
                time.sleep(0.01)
            ready = time.perf_counter() - start
            while _answer(port, "/api/v1/lessons").count(b'"complete"') < complete:
                time.sleep(0.1)
            for number in range(complete):
                _answer(port, f"/lessons/bench-{number}/video.bin")
            status = Path(f"/proc/{daemon.pid}/status").read_text(encoding="ascii")
            kib = int(next(line.split()[1] for line in status.splitlines() if line.startswith("VmRSS")))
        finally:
            daemon.send_signal(signal.SIGTERM)
    return ready, kib * 1024 / 1e6


def _answer(port: int, path: str) -> bytes:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=5) as response:
            body = response.read()
            assert isinstance(body, bytes)
            return body
    except (urllib.error.URLError, ConnectionError):
        return b""
