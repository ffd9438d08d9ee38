"""The shim beside nginx: the same files, one process each, on one core, and wrk on another.

nginx is Debian's with what a sensible administrator sets: one worker, `sendfile` and `tcp_nopush` on, no access log.
The daemon is a real `edgeshare run` that has fetched its lesson. Rounds alternate, and a ratio is that of medians.
"""

from __future__ import annotations

import json
import os
import re
import selectors
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import attrs

from bench.measure import EDGESHARE, RUNS, seconds
from bench.publish import DESCRIPTION
from edgeshare.demo import free_ports

ROUND_S = 1  # as more in all than five of them would be more than one client may ask for
LESSON = "bench"
SMALL, FILM = "small.bin", "film.bin"
SMALL_BYTES, FILM_BYTES = 20_000, 100 * 2**20
CONNECTIONS = 64  # as many as one client may have
SLOW, SLOW_S, SLOW_BYTES_PER_S = 1000, 10, 4096
PER_ADDRESS = 50
_PATIENCE_S = 60.0


@attrs.frozen
class Site:
    """One of the two servers, as wrk calls it."""

    port: int
    pid: int
    host: str  # the Host header
    folder: str = ""  # before a file's name

    def url(self, file: str) -> str:
        return f"http://127.0.0.1:{self.port}/{self.folder}{file}"


@attrs.frozen
class Load:
    """What wrk asks for."""

    file: str
    connections: int
    knows_it: bool = False  # sends the file's tag, and gets 304


_SMALL_FILE = Load(SMALL, CONNECTIONS)
COMPARED = (
    ("bytes/s of a file of 100 MiB", "", Load(FILM, 4), 1.2),
    ("requests/s of 20 kB, 64 connections", "", _SMALL_FILE, 0.25),
    ("the same below /lessons/", f"lessons/{LESSON}/", _SMALL_FILE, 0.25),
    ("304 answers/s, 64 connections", "", attrs.evolve(_SMALL_FILE, knows_it=True), 0.25),
)


def main() -> None:
    """Fetch a lesson once, then have wrk ask nginx and the daemon for its files in turns."""
    for program in ("nginx", "wrk", "taskset"):
        if shutil.which(program, path=_path()) is None:
            sys.exit(f"{program} is not installed (requirements/system)")
    with tempfile.TemporaryDirectory(prefix="edgeshare-bench-") as folder_name:
        root = Path(folder_name)
        root.chmod(0o755)  # nginx's worker is another user
        _fetch(root)
        with _nginx(root, root / "lesson") as nginx:
            for name, folder, load, want in COMPARED:
                with _daemon(root) as (port, pid):  # a new one each time: wrk asks more than one client may for long
                    host = f"localhost:{port}" if folder else f"{LESSON}.localhost:{port}"
                    _compare(name, Site(port, pid, host, folder), nginx, load, want=want)
        with _daemon(root) as (port, pid):
            _slow_readers(Site(port, pid, f"{LESSON}.localhost:{port}"))


def _compare(name: str, ours: Site, theirs: Site, load: Load, *, want: float) -> None:
    """Measure both in turns and print the ratio of medians, and of the processor's seconds for each answer."""
    # The tags are asked for at first: between two rounds wrk may still have all connections that one client may have.
    tag, other_tag = (_tag(site, load.file) if load.knows_it else None for site in (ours, theirs))
    _round(theirs, load, other_tag), _round(ours, load, tag)  # the page cache is warm for both
    pairs = [(_round(ours, load, tag), _round(theirs, load, other_tag)) for _ in range(RUNS)]
    rate, other = statistics.median(a.rate for a, _ in pairs), statistics.median(b.rate for _, b in pairs)
    worst = min(a.rate / b.rate for a, b in pairs)
    cost, other_cost = statistics.median(a.cost for a, _ in pairs), statistics.median(b.cost for _, b in pairs)
    _report(name, rate / other, want, worst=worst, ours=rate, nginx=other, processor=other_cost / cost)


@attrs.frozen
class Round:
    """What one run of wrk came to."""

    rate: float  # bytes a second of a film, else answers
    cost: float  # the server's seconds of a processor for each of them


def _round(site: Site, load: Load, tag: str | None) -> Round:
    before = _processor_s(site.pid)
    command = ["taskset", "-c", "1", "wrk", "-t1", f"-c{load.connections}", f"-d{ROUND_S}s", "--timeout", "30s"]
    command.append(f"-HHost: {site.host}")
    if tag is not None:
        command.append(f"-HIf-None-Match: {tag}")
    done = subprocess.run([*command, site.url(load.file)], check=True, capture_output=True, text=True)
    if failed := re.search(r"Non-2xx.*|Socket errors.*", done.stdout):
        sys.exit(f"{site.url(load.file)}: {failed[0]}")
    found = re.search(r"(\d+) requests in ([0-9.]+)s, ([0-9.]+)([KMG]B) read", done.stdout)
    assert found, done.stdout
    total = float(found[3]) * 1024 ** ("KMG".index(found[4][0]) + 1) if load.file == FILM else float(found[1])
    return Round(total / float(found[2]), (_processor_s(site.pid) - before) / total)


def _tag(site: Site, file: str) -> str:
    head, _ = _asked(site, f"HEAD /{site.folder}{file} HTTP/1.1\r\nHost: {site.host}\r\nConnection: close\r\n\r\n")
    found = re.search(r"(?i)etag: (\S+)", head)
    assert found, head
    return found[1]


def _slow_readers(site: Site) -> None:
    """How the daemon grows with connections that take a film slowly, from as many addresses as a school has."""
    with ExitStack() as stack, selectors.DefaultSelector() as ready:
        before = _resident(site.pid)
        ask = f"GET /{site.folder}{FILM} HTTP/1.1\r\nHost: {site.host}\r\n\r\n".encode()
        for number in range(SLOW):
            sock = stack.enter_context(socket.socket())
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            sock.bind((f"127.0.0.{2 + number // PER_ADDRESS}", 0))
            sock.connect(("127.0.0.1", site.port))
            sock.sendall(ask)
            ready.register(sock, selectors.EVENT_READ)
        served: set[int] = set()
        for _ in range(SLOW_S):
            for key, _ in ready.select(0):
                received = key.fileobj.recv(SLOW_BYTES_PER_S)  # type: ignore[union-attr]  # a socket
                if key.fd not in served:
                    assert received.startswith(b"HTTP/1.1 200 "), received[:80]
                served.add(key.fd)
            time.sleep(1)  # the period is the point
        assert len(served) == SLOW, len(served)
        grown = (_resident(site.pid) - before) / SLOW / 1000
    value = {"name": f"kB resident for each of {SLOW} slow readers", "value": round(grown, 1), "want": 40}
    print(json.dumps(value))
    print(f"  {value['name']}: {grown:.1f}, want at most 40: {'met' if grown <= 40 else 'MISSED'}", file=sys.stderr)


def _report(name: str, value: float, want: float, **more: float) -> None:
    """As `measure.report`, for what should be large."""
    figures = {"value": value, "want": want} | more
    print(json.dumps({"name": f"{name} / nginx"} | {key: round(each, 3) for key, each in figures.items()}))
    mark = "met" if value >= want else "MISSED"
    print(f"  {name} / nginx: {value:.2f}, want at least {want:g}: {mark}", file=sys.stderr)


# The two servers


def _fetch(root: Path) -> None:
    """Have a daemon's library hold the lesson."""
    _publish(root)
    (port,) = free_ports(1)
    serve = [*EDGESHARE, "origin", "serve", str(root / "repository"), "--listen", f"127.0.0.1:{port}"]
    with _process(serve), _daemon(root, port):
        pass


@contextmanager
def _daemon(root: Path, origin_port: int = 9) -> Iterator[tuple[int, int]]:
    """The shim's port and the process of a daemon, on the first core, once it has the lesson."""
    port, swarm_port = free_ports(2)
    config = root / "edgeshare.toml"
    config.write_text(
        f"""\
origins = ["http://127.0.0.1:{origin_port}/"]
root = "repository/metadata/1.root.json"
library = "library"
fetch = ["{LESSON}"]
show = ["cned/6e"]
[schedule]
window = "always"
[shim]
listen = "127.0.0.1:{port}"
[swarm]
listen = "127.0.0.1:{swarm_port}"
dht = false
lsd = false
""",
        encoding="utf-8",
    )
    with _process(["taskset", "-c", "0", *EDGESHARE, "run", "--config", str(config)]) as daemon:
        site = Site(port, daemon.pid, f"localhost:{port}")
        asking = f"GET /api/v1/lessons/{LESSON} HTTP/1.1\r\nHost: {site.host}\r\nConnection: close\r\n\r\n"
        _until(lambda: '"complete"' in _asked(site, asking)[1])
        yield port, daemon.pid


def _publish(root: Path) -> None:
    keys = ("--keys", root / "keys")
    lesson = root / "lesson"
    lesson.mkdir()
    (lesson / "lesson.toml").write_text(DESCRIPTION, encoding="utf-8")
    (lesson / "index.html").write_text("<h1>Bench</h1>", encoding="utf-8")
    for name, size in ((SMALL, SMALL_BYTES), (FILM, FILM_BYTES)):
        (lesson / name).write_bytes(os.urandom(size))
    seconds([*EDGESHARE, "publish", "init", root / "repository", *keys])
    seconds([*EDGESHARE, "publish", "add", root / "repository", lesson, *keys])
    seconds([*EDGESHARE, "publish", "release", root / "repository", *keys])


@contextmanager
def _nginx(root: Path, folder: Path) -> Iterator[Site]:
    (port,) = free_ports(1)
    state = root / "nginx"
    state.mkdir()
    kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    temporary = "\n".join(f"    {kind}_temp_path {state}/{kind};" for kind in kinds)
    config = root / "nginx.conf"
    config.write_text(
        f"""\
daemon off;
worker_processes 1;
pid {state}/pid;
error_log {state}/error.log crit;
events {{ worker_connections 4096; }}
http {{
{temporary}
    access_log off;
    sendfile on;
    tcp_nopush on;
    server {{
        listen 127.0.0.1:{port};
        root {folder};
    }}
}}
""",
        encoding="utf-8",
    )
    # -e: the log of its first lines, before it has read where the others go
    command = ["taskset", "-c", "0", "nginx", "-e", f"{state}/start.log", "-c", str(config)]
    with _process(command) as master:
        site = Site(port, master.pid, f"127.0.0.1:{port}")
        _until(lambda: bool(_asked(site, f"GET /{SMALL} HTTP/1.0\r\nHost: {site.host}\r\n\r\n")[0]))
        children = Path(f"/proc/{master.pid}/task/{master.pid}/children").read_text(encoding="ascii").split()
        yield attrs.evolve(site, pid=int(children[0]))


@contextmanager
def _process(command: list[str]) -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(command, stderr=subprocess.DEVNULL, env=os.environ | {"PATH": _path()}) as process:
        try:
            yield process
        finally:
            process.send_signal(signal.SIGTERM)


def _path() -> str:
    return f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"


def _asked(site: Site, request: str) -> tuple[str, str]:
    """The head and the body of an answer; nothing when nobody answers."""
    try:
        with socket.create_connection(("127.0.0.1", site.port), 5) as sock:
            sock.sendall(request.encode())
            received = b"".join(iter(lambda: sock.recv(65536), b""))
    except OSError:
        return "", ""
    head, _, body = received.decode("latin-1").partition("\r\n\r\n")
    return head, body


def _until(condition: Callable[[], bool]) -> None:
    patience = time.perf_counter() + _PATIENCE_S
    while not condition():
        if time.perf_counter() > patience:
            sys.exit("it does not come up")
        time.sleep(0.05)


def _processor_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _resident(pid: int) -> int:
    """Bytes."""
    status = Path(f"/proc/{pid}/status").read_text(encoding="ascii")
    return int(next(line.split()[1] for line in status.splitlines() if line.startswith("VmRSS"))) * 1024
