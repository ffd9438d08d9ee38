"""`python -m bench stream`: a film that is at 0 % here, and the first byte that its reader sees.

Between namespaces (bench/lab.py): a publisher with nginx and opentracker, two nodes that hold the lessons, on lines of
20 Mbit/s up, and a home 10 ms away that only shows the catalogue. A reader in the home's namespace opens a film of
which the home has nothing yet, leaves it for a far place, and again, while the rest comes. Every lesson is opened once,
so every opening is cold: no info dict, no peer, no tracker's word.

Beside it, on the same lines: libtorrent's own way to play (sequential, with a deadline for the first piece), with the
.torrent file in its hand already, where ours has the info-hash alone; and nginx on one of the two lines, of which no
swarm can be faster.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import random
import socket
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import libtorrent as lt

from bench.crowd import Node, prepare, start_all
from bench.gauge import percentile
from bench.lab import HOME, TRACKER_PORT, Host, Lab, LabError, open_lab
from bench.measure import report
from bench.publisher import CATALOGUE, Published, Web, start_nginx, start_opentracker
from edgeshare import vocabulary
from edgeshare.publish.keys import Keys
from edgeshare.publish.repository import create_repository, open_repository

RUNS = 24
SIZE = 32 * 2**20  # bytes of a video: seven seconds of both lines together
SEEKS = 3  # in each
PLAYS = 4  # films that are read from the first byte to the last
WANT_S = 0.7
HOLDERS = 2
AWAY_S = 0.010  # from the reader's home to everybody, one way: two homes on fibre in different towns
_PORT, _PLAIN_PORT = 8470, 8080
_CLONE_NEWNET = 0x40000000  # sched.h
_BARE: Any = {  # libtorrent as it is, kept in the lab
    "alert_mask": lt.alert_category.piece_progress,
    "listen_interfaces": "0.0.0.0:6881",
    "enable_dht": False,
    "enable_lsd": False,
    "enable_upnp": False,
    "enable_natpmp": False,
}
_LESSON_TOML = """\
id = "{id}"
title = "Film {id}"
language = "fr"
levels = ["6e"]
subjects = ["mathematiques"]
description = ""
licence = "CC0-1.0"
start = "film.mp4"
"""


def main() -> None:
    """Measure; needs root."""
    try:
        with tempfile.TemporaryDirectory(prefix="edgeshare-bench-") as name:
            folder = Path(name)
            folder.chmod(0o755)  # nginx's and opentracker's users enter it
            with open_lab(HOLDERS + 2) as lab:
                _measure(lab, folder)
    except LabError as error:
        print(f"  {error}", file=sys.stderr)
        sys.exit(1)


def _measure(lab: Lab, folder: Path) -> None:
    *holders, home, other = lab.nodes
    for late in (home, other):
        port = late.space.rpartition("-")[2]
        lab.call(Host(lab.net, ""), "delay", "bench.delay:main", [port, str(AWAY_S)], folder / f"{port}-delay.log")
    films = [f"film-{number}" for number in range(RUNS + PLAYS)]
    published = _publish(folder, films, lab.origin.address)
    start_nginx(lab, published.folder, folder, Web(has_guard=False))
    start_opentracker(lab, published, folder)
    upload = f"{int(0.95 * HOME.up / 1000)} kbit/s"
    nodes = [Node(f"holder-{number}", host, folder / f"holder-{number}") for number, host in enumerate(holders)]
    for node in nodes:
        prepare(node, published, upload=upload, wants=f'follow = ["{CATALOGUE}"]')
    print("  two nodes fetch what they will give", file=sys.stderr)
    start_all(lab, nodes)
    _until_complete(nodes, films)
    reader = Node("home", home, folder / "home")
    prepare(reader, published, upload=upload)
    start_all(lab, [reader])
    torrents = {film: published.folder / "torrents" / f"{info_hash}.torrent" for film, info_hash in _hashes(reader)}
    first: list[float] = []
    seek: list[float] = []
    theirs: list[float] = []
    rng = random.Random(1)
    for film in films[:RUNS]:
        first.append(_opened(home, film))
        seek.extend(_sought(home, film, rng) for _ in range(SEEKS))
        _until_complete([reader], [film])
        theirs.append(_by_libtorrent(lab, other, torrents[film], folder / film))
    taken = reader.taken_by_reason()
    played = [_played(home, film) for film in films[RUNS:]]
    plain = _by_nginx(lab, holders[0], home, published, folder)
    _report("first byte of a film at 0 %", first, want=WANT_S, **{f"from_origin_{why}": n for why, n in taken.items()})
    _report("first byte of a far place in a film that comes", seek, want=WANT_S)
    _report(
        "a film read as fast as it comes, from 0 %",
        [whole_s for whole_s, _ in played],
        bound=SIZE * 8 / (HOLDERS * HOME.up),
    )
    _report("the longest wait in it", [wait_s for _, wait_s in played], want=2.0)
    _report("first piece of the same by libtorrent in sequence", theirs)
    _report("first byte from nginx on one holder's line", plain)


def _report(name: str, times: Sequence[float], *, want: float | None = None, **more: float) -> None:
    """Print the p95 of `times`, in seconds; what nobody wants anything of is there to be held against."""
    p95 = percentile(sorted(times), 0.95)
    assert p95 is not None
    more |= {"p50": statistics.median(times), "worst": max(times), "runs": len(times)}
    if want is not None:
        report(f"{name}, p95 s", value=p95, want=want, **more)
    else:
        print(
            json.dumps({"name": f"{name}, p95 s", "value": round(p95, 3)} | {k: round(v, 3) for k, v in more.items()})
        )
        print(f"  {name}, p95 s: {p95:.2f}", file=sys.stderr)


def _publish(folder: Path, films: Sequence[str], address: str) -> Published:
    url, tracker = f"http://{address}/", f"udp://{address}:{TRACKER_PORT}"
    repository, keys, now = folder / "repository", Keys(folder / "keys"), datetime.now(UTC).replace(microsecond=0)
    create_repository(repository, keys, CATALOGUE.partition("/")[0], now)
    with open_repository(repository, keys) as opened:
        for film in films:
            lesson = folder / film
            lesson.mkdir()
            (lesson / "lesson.toml").write_text(_LESSON_TOML.format(id=film), encoding="utf-8")
            (lesson / "film.mp4").write_bytes(os.urandom(SIZE))
            manifest = opened.add(lesson, vocabulary.built_in()).manifest
            (lesson / "film.mp4").unlink()
        opened.release(now, origins=(url,), trackers=(tracker,))
    return Published(repository, manifest.info_hash.hex(), manifest.size, ("film.mp4",), url, tracker)


def _hashes(node: Node) -> Iterator[tuple[str, str]]:
    return ((lesson["id"], lesson["info_hash"]) for lesson in node.answers("lessons"))


def _until_complete(nodes: Sequence[Node], films: Sequence[str], within_s: float = 600.0) -> None:
    """The nodes are others' processes: the period is the point.

    Raises:
        LabError: it takes too long.
    """
    deadline = time.monotonic() + within_s
    for node in nodes:
        while not _complete(node).issuperset(films):
            if time.monotonic() > deadline:
                raise LabError(f"{node.name} does not get the films ({node.last_line()})")
            time.sleep(0.2)


def _complete(node: Node) -> set[str]:
    return {lesson["id"] for lesson in node.answers("lessons") if lesson["state"] == "complete"}


def _opened(home: Host, film: str) -> float:
    """Seconds until the first byte of a film is here of which nothing was."""
    with _asking(home, film, 0) as (answer, began_s):
        answer.recv(1)
        return time.monotonic() - began_s


def _sought(home: Host, film: str, rng: random.Random) -> float:
    """Seconds until the first byte is here of a place that is not."""
    place = rng.randrange(SIZE // 4, SIZE - SIZE // 16)
    with _asking(home, film, place) as (answer, began_s):
        answer.recv(1)
        return time.monotonic() - began_s


def _played(home: Host, film: str) -> tuple[float, float]:
    """Seconds until a film of which nothing was here has been read to its end, and the longest wait on the way."""
    longest_s = left = 0.0
    with _asking(home, film, 0) as (answer, began_s):
        left, heard_s = SIZE, began_s
        while left:
            came = len(answer.recv(65536))
            if not came:
                raise LabError(f"{film} broke off {left} bytes before its end")
            left -= came
            longest_s, heard_s = max(longest_s, time.monotonic() - heard_s), time.monotonic()
    return heard_s - began_s, longest_s


@contextmanager
def _asking(home: Host, film: str, place: int) -> Iterator[tuple[socket.socket, float]]:
    """A film's bytes from `place` on as a browser asks for them, their head read; and when they were asked for.

    Raises:
        LabError: the answer is another.
    """
    with _connected(home, "127.0.0.1", _PORT) as client:
        began_s = time.monotonic()
        client.sendall(
            f"GET /film.mp4 HTTP/1.1\r\nHost: {film}.localhost:{_PORT}\r\nRange: bytes={place}-\r\n\r\n".encode()
        )
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            more = client.recv(1)
            if not more:
                raise LabError(f"the home answered {head!r}")
            head += more
        if not head.startswith(b"HTTP/1.1 206 "):
            raise LabError(f"the home answered {head!r}")
        yield client, began_s


def _by_libtorrent(lab: Lab, host: Host, torrent: Path, folder: Path) -> float:
    """Seconds until libtorrent, told to play, has the first piece; from when it was given the .torrent."""
    done = folder / "first"
    running = lab.call(host, "player", "bench.stream:play", [torrent, folder / "content", done], folder / "player.log")
    deadline = time.monotonic() + 60.0
    while not done.exists():
        if time.monotonic() > deadline or not running.is_up():
            raise LabError(f"libtorrent does not get {torrent.name} ({running.last_line()})")
        time.sleep(0.02)
    lab.kill(running)
    return float(done.read_text(encoding="ascii"))


def play(arguments: list[str]) -> None:
    """A libtorrent session that plays TORRENT into FOLDER; its time to the first piece is in DONE then."""
    torrent, folder, done = arguments
    session = lt.session(lt.session_params(_BARE))
    params = lt.load_torrent_file(torrent)
    params.save_path = folder
    params.flags &= ~(lt.torrent_flags.auto_managed | lt.torrent_flags.paused)
    params.flags |= lt.torrent_flags.sequential_download
    began_s = time.monotonic()
    session.add_torrent(params).set_piece_deadline(0, 0)
    while True:
        session.wait_for_alert(60_000)
        for alert in session.pop_alerts():
            if isinstance(alert, lt.piece_finished_alert) and alert.piece_index == 0:
                Path(f"{done}.part").write_text(str(time.monotonic() - began_s), encoding="ascii")
                Path(f"{done}.part").rename(done)


def _by_nginx(lab: Lab, holder: Host, home: Host, published: Published, folder: Path) -> list[float]:
    """Seconds until a film's first byte from nginx on a holder's line."""
    state = folder / "plain"
    state.mkdir()
    (state / "nginx.conf").write_text(
        f"pid {state}/pid; events {{}} http {{ access_log off; server {{ listen {_PLAIN_PORT};"
        f" root {published.content}; }} }}",
        encoding="utf-8",
    )
    command = ["nginx", "-e", f"{state}/error.log", "-c", f"{state}/nginx.conf", "-g", "daemon off;"]
    lab.start(holder, "plain", command, state / "log")
    time.sleep(0.5)
    times = []
    for _ in range(RUNS):
        began_s = time.monotonic()
        with _connected(home, holder.address, _PLAIN_PORT) as client:
            client.sendall(b"GET /film.mp4 HTTP/1.1\r\nHost: film\r\n\r\n")
            client.recv(1)
            times.append(time.monotonic() - began_s)
    return times


@contextmanager
def _connected(host: Host, address: str, port: int) -> Iterator[socket.socket]:
    """A connection from `host`: a socket stays in the namespace that it was made in."""
    libc = ctypes.CDLL(None, use_errno=True)
    with contextlib.ExitStack() as opened:
        mine, theirs = (
            opened.enter_context(open(path, "rb")) for path in ("/proc/self/ns/net", f"/run/netns/{host.space}")
        )
        if libc.setns(theirs.fileno(), _CLONE_NEWNET) != 0:
            raise OSError(ctypes.get_errno(), f"cannot enter {host.space}")
        try:
            client = opened.enter_context(socket.socket())
        finally:
            libc.setns(mine.fileno(), _CLONE_NEWNET)
        client.settimeout(60.0)
        client.connect((address, port))
        yield client
