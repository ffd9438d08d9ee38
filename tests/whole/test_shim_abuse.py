"""A real node before those who wish it ill, or send what nobody should: slowly, crookedly, all at once."""

from __future__ import annotations

import resource
import selectors
import socket
import statistics
import tempfile
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from random import Random

import attrs
import pytest

from tests.httpd.test_server import REFUSED

from .support import Measured, Node, open_site, until

pytestmark = pytest.mark.whole

LESSON = "film"
SECRET = b"what only the lesson says"
SMALL = SECRET + Random(1).randbytes(20_000 - len(SECRET))
FILM = Random(2).randbytes(20 * 2**20)
SLOW = 2000  # connections, half of which ask slowly, and half take slowly
PER_ADDRESS = 50  # of the 64 that a client may have
READING_S = 6.0
MOST_P95_S = 0.5  # 5 ms on a calm machine, 100 where two cores do the work of ten; a reader notices a second


@attrs.frozen
class Target:
    """A node that has the lesson."""

    node: Node

    @property
    def host(self) -> str:
        return f"{LESSON}.localhost:{self.node.port}"

    @property
    def pid(self) -> int:
        """Of the daemon itself: setpriv has become it."""
        return self.node.running.process.pid

    def connect(self, source: str = "127.0.0.1") -> socket.socket:
        sock = socket.socket()
        sock.settimeout(20.0)
        sock.bind((source, 0))
        sock.connect(("127.0.0.1", self.node.port))
        return sock

    def said(self, sent: bytes) -> bytes:
        """All that comes back until the node closes."""
        with self.connect() as sock:
            sock.sendall(sent)
            received = b""
            try:
                while part := sock.recv(1 << 16):
                    received += part
            except ConnectionResetError:
                pass
            return received

    def get(self, target: str, *lines: str, host: str | None = None) -> tuple[int, dict[str, str], bytes]:
        """Status, headers and body; the target goes out as it is."""
        head = "\r\n".join(
            [f"GET {target} HTTP/1.1", f"Host: {host or self.host}", *lines, "Connection: close", "", ""]
        )
        start, _, body = self.said(head.encode("latin-1")).partition(b"\r\n\r\n")
        status, *fields = start.decode("latin-1").split("\r\n")
        return int(status.split()[1]), {n.lower(): v for n, _, v in (field.partition(": ") for field in fields)}, body

    def resident(self) -> int:
        """Bytes."""
        status = Path(f"/proc/{self.pid}/status").read_text(encoding="ascii")
        return int(next(line.split()[1] for line in status.splitlines() if line.startswith("VmRSS"))) * 1024

    def open_files(self) -> int:
        return sum(1 for _ in Path(f"/proc/{self.pid}/fd").iterdir())


@pytest.fixture(scope="module")
def target() -> Iterator[Target]:
    with tempfile.TemporaryDirectory(prefix="edgeshare-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        lesson = folder / LESSON
        (lesson / "dossier").mkdir(parents=True)
        description = f"""\
            id = "{LESSON}"
            title = "Un film"
            language = "fr"
            levels = ["6e"]
            subjects = ["mathematiques"]
            description = "Un film."
            licence = "CC0-1.0"
            start = "index.html"
            """
        (lesson / "lesson.toml").write_text(textwrap.dedent(description), encoding="utf-8")
        (lesson / "index.html").write_bytes(b"<h1>" + SECRET)
        (lesson / "small.bin").write_bytes(SMALL)
        (lesson / "film.bin").write_bytes(FILM)
        (lesson / "dossier" / "page.html").write_bytes(SECRET)
        with open_site(folder) as site:
            origin = site.origin(lesson)
            node = site.node("home", "home", origin.url, {"follow": f'show = ["cned/6e"]\nfetch = ["{LESSON}"]'})
            until("the node has the lesson", lambda: node.has(LESSON), 30.0)
            yield Target(node)


# Slowly


def _slow(target: Target, stack: ExitStack, leave: threading.Event) -> dict[socket.socket, bytes]:
    """Connections that send a byte of their head each second, or take 4 kB of a film; what each of them got first."""
    ask = f"GET /film.bin HTTP/1.1\r\nHost: {target.host}\r\n\r\n".encode()
    asking: list[socket.socket] = []
    heard: dict[socket.socket, bytes] = {}
    watched = stack.enter_context(selectors.DefaultSelector())
    for number in range(SLOW):
        sock = stack.enter_context(socket.socket())
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sock.bind((f"127.0.0.{2 + number // PER_ADDRESS}", 0))
        sock.connect(("127.0.0.1", target.node.port))
        sock.sendall(ask if number % 2 else ask[:20])
        if not number % 2:
            asking.append(sock)
        watched.register(sock, selectors.EVENT_READ)

    def go_on() -> None:
        sent = 20
        while not leave.wait(1.0):
            for key, _ in watched.select(0):
                sock = key.fileobj
                assert isinstance(sock, socket.socket)
                received = sock.recv(4096)
                heard.setdefault(sock, received)
                if not received:
                    watched.unregister(sock)
            for sock in asking:
                if sock not in heard:
                    try:
                        sock.send(ask[sent : sent + 1])
                    except OSError:
                        heard.setdefault(sock, b"")
            sent += 1

    thread = threading.Thread(target=go_on)
    thread.start()
    stack.callback(thread.join)
    stack.callback(leave.set)
    return heard


def test_2000_slow_connections_do_not_keep_a_reader_from_reading(target: Target, measured: Measured) -> None:
    limit, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    assert most == resource.RLIM_INFINITY or most > SLOW + 500
    files, memory = target.open_files(), target.resident()
    times: list[float] = []
    with ExitStack() as stack:
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(limit, SLOW + 500), most))
        stack.callback(resource.setrlimit, resource.RLIMIT_NOFILE, (limit, most))
        heard = _slow(target, stack, threading.Event())
        until("all slow connections are open", lambda: target.open_files() >= files + SLOW, 20.0)
        start = time.monotonic()
        with target.connect() as reader:
            while time.monotonic() - start < READING_S:
                begin = time.monotonic()
                reader.sendall(f"GET /small.bin HTTP/1.1\r\nHost: {target.host}\r\n\r\n".encode())
                received = b""
                while not received.endswith(SMALL[-100:]):
                    part = reader.recv(1 << 16)
                    assert part, "the reader was sent away"
                    received += part
                times.append(time.monotonic() - begin)
                time.sleep(0.02)
        grown = (target.resident() - memory) / SLOW
        p95 = statistics.quantiles(times, n=20)[-1]
        measured(
            f"p95 {1000 * p95:.0f} ms of {len(times)} reads beside {SLOW} slow connections, {grown / 1000:.0f} kB each"
        )
        until("those who ask slowly are sent away", lambda: len(heard) >= SLOW, 30.0)
        first = sorted(answer[:12] for answer in heard.values())
    assert p95 <= MOST_P95_S
    assert grown <= 40_000
    assert first == [b"HTTP/1.1 200"] * (SLOW // 2) + [b"HTTP/1.1 408"] * (SLOW // 2)
    until("all files are closed again", lambda: target.open_files() <= files + 2, 10.0)


def test_one_address_has_64_connections_and_the_next_hears_when_to_come_again(target: Target) -> None:
    with ExitStack() as stack:
        for _ in range(64):
            stack.enter_context(target.connect("127.0.0.99"))
        with target.connect("127.0.0.99") as sock:
            answer = sock.recv(1 << 16)
        assert answer.startswith(b"HTTP/1.1 503 ")
        assert b"\r\nretry-after: 5\r\n" in answer
        assert target.get("/small.bin")[0] == 200  # others read on


# Crookedly


@pytest.mark.parametrize("form", REFUSED)
def test_a_crooked_request_smuggles_nothing(target: Target, form: str) -> None:
    status, sent = REFUSED[form]
    host = b"Host: " + target.host.encode()
    sent = sent.replace(b"Host: a", host).replace(b"GET / ", b"GET /small.bin ")
    answer = target.said(sent + b"GET /small.bin HTTP/1.1\r\n" + host + b"\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 %d " % status)
    assert answer.count(b"HTTP/1.1 ") == 1
    assert SECRET not in answer


# as from a lesson's folder
OUTSIDE = ("index.sqlite", "../index.sqlite", "../../index.sqlite", "../../../../../../etc/passwd", "lesson.toml")
DISGUISES: list[Callable[[str], str]] = [
    lambda path: f"/{path}",
    lambda path: f"//{path}",
    lambda path: f"/dossier/../{path}",
    lambda path: "/" + path.replace("../", "%2e%2e/"),
    lambda path: "/" + path.replace("../", ".%2E/"),
    lambda path: "/" + path.replace("/", "%2f"),
    lambda path: "/" + path.replace(".", "%2e").replace("/", "%2F"),
    lambda path: "/" + path.replace("../", "%252e%252e%252f"),
    lambda path: "/" + path.replace("../", "%c0%ae%c0%ae/"),
    lambda path: "/" + path.replace("../", "%c0%ae%c0%ae%c0%af"),
    lambda path: "/" + path.replace("../", "%e0%80%ae%e0%80%ae%e0%80%af"),
    lambda path: "/" + path.replace("../", "..\\"),
    lambda path: "/" + path.replace("../", "..%5c"),
    lambda path: "/" + path.replace("../", "..;/"),
    lambda path: "/" + path.replace("../", "....//"),
    lambda path: "/" + path.replace("../", "%ef%bc%8e%ef%bc%8e%ef%bc%8f"),  # fullwidth
    lambda path: "/" + path.replace("../", "%u002e%u002e/"),
    lambda path: "/" + path.replace("../", "..%00/"),
    lambda path: f"/{path}%00",
    lambda path: f"/{path}%00.html",
    lambda path: f"/{path};.html",
    lambda path: f"/{path}/",
    lambda path: f"/%2f{path}",
    lambda path: f"/index.html/../{path}",
    lambda path: f"/?/../{path}",
]
INSIDE = [  # other ways to say /small.bin or /dossier/page.html, none of which is in the table
    *(
        "//small.bin",
        "/./small.bin",
        "/dossier/../small.bin",
        "/small.bin/",
        "/small.bin%00",
        "/small.bin%20",
        "/small.bin.",
    ),
    *("/SMALL.BIN", "/small.bin;v=1", "/dossier//page.html", "/dossier\\page.html", "/dossier%5cpage.html", "/dossier"),
    *("/dossier/", "/%2e/small.bin", "/small%252ebin", "/dossier%252fpage.html", "/small.bin%0a", "/small.bin::$DATA"),
    "/%ef%bd%93mall.bin",  # a fullwidth s
]


def test_no_disguise_of_a_path_leads_out_of_the_lessons_table(target: Target) -> None:
    at_node = f"localhost:{target.node.port}"
    for path in OUTSIDE:
        for disguise in DISGUISES:
            asked = disguise(path)
            for url, host in (
                (asked, target.host),
                (f"/lessons/{LESSON}{asked}", at_node),
                (f"/static{asked}", at_node),
            ):
                status, _, body = target.get(url, host=host)
                is_start = status == 302 and url.partition("?")[0].endswith("/")  # a lesson's own folder
                assert status in (400, 404) or is_start, (url, status)
                assert b"SQLite" not in body
                assert b"root:" not in body
    for asked in INSIDE:
        for url, host in ((asked, target.host), (f"/lessons/{LESSON}{asked}", at_node)):
            status, _, body = target.get(url, host=host)
            assert status in (400, 404), (url, status)
            assert SECRET not in body
    # a path is decoded once, and what is in the table then is given
    assert target.get("/%73mall%2Ebin")[2] == SMALL
    assert target.get("/dossier%2Fpage.html")[0] == 200


WHOLE = [
    *("bytes=" + ",".join(f"{n}-{n}" for n in range(1000)), "bytes=" + ",".join(["0-"] * 1000), "bytes=0-,0-,0-"),
    *("bytes=0-9,5-14", "bytes=0-0,-1", "bytes=-1,-1", "bytes=5-4", "bytes=--5", "bytes=-5-", "bytes=-", "bytes="),
    *("bytes=+1-5", "bytes=0x0-0x5", "bytes=1.0-5", "bytes= 0-4 ,6-8", "bytes 0-4", "octets=0-4", "bytes=0-4;q=1"),
    *("bytes=" + "9" * 5000 + "-", "bytes=a-b", "bytes=0-\u00b2", "bytes=0-4, bytes=6-8", "", "items=0-5"),
]
PARTS = {
    "bytes=0-4": (0, 5),
    "bytes=19990-": (19_990, 20_000),
    "bytes=-1": (19_999, 20_000),
    "BYTES=3-3": (3, 4),
    "bytes=19999-99999999999999999999": (19_999, 20_000),
    "bytes=-99999999999999999999": (0, 20_000),
    "bytes=,0-4,": (0, 5),
    "bytes= 0-4": (0, 5),
    "bytes=0-4 ": (0, 5),
}
BEYOND = ["bytes=20000-", "bytes=99999999999999999999-", "bytes=-0", "bytes=20000-20001"]


def test_no_range_multiplies_what_is_sent(target: Target) -> None:
    for asked in WHOLE:
        status, headers, body = target.get("/small.bin", f"Range: {asked}")
        assert (status, headers["content-length"]) == (200, "20000"), asked[:80]
        assert body == SMALL
        assert "content-range" not in headers
    for asked, (start, stop) in PARTS.items():
        status, headers, body = target.get("/small.bin", f"Range: {asked}")
        assert (status, body) == (206, SMALL[start:stop]), asked
        assert headers["content-range"] == f"bytes {start}-{stop - 1}/20000"
    for asked in BEYOND:
        status, headers, body = target.get("/small.bin", f"Range: {asked}")
        assert (status, body, headers["content-range"]) == (416, b"", "bytes */20000"), asked
    lines = ["Range: bytes=0-4"] * 2
    assert target.get("/small.bin", *lines)[0] == 200
    status, _, body = target.get("/film.bin", "Range: bytes=1000000-1999999")
    assert (status, body) == (206, FILM[1_000_000:2_000_000])
