"""The guard of seeders/origin/nginx.conf, held by Debian's nginx against far more than it admits."""

from __future__ import annotations

import math
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from http.client import HTTPConnection, HTTPMessage
from random import Random
from urllib.parse import quote, urlsplit

import attrs
import httpx
import pytest
import trio

from edgeshare.origin.client import Taken, Unreachable, open_origins

from .support import PROJECT, Measured, Site, free_port, until

pytestmark = pytest.mark.whole

FILM = "content/ab/film.mp4"
RANGE = 256 << 10
RANGES = 10
TURN_S = 5.0
OWN_TURN_S = 15.0
CROWD = 25
LESSON = PROJECT / "manifests" / "lessons" / "maths-6e-fractions"


@attrs.frozen
class Answer:
    """What one of the crowd got."""

    status: int
    headers: HTTPMessage
    span: str
    size: int


def asked(start: int, size: int = RANGE) -> dict[str, str]:
    return {"Range": f"bytes={start}-{start + size - 1}"}


@pytest.fixture
def web(site: Site) -> str:
    """nginx with a film, a torrent and metadata; its URL."""
    return nginx(site)


def nginx(site: Site, **more: str) -> str:
    for path, size in {FILM: 64 << 20, "torrents/ab.torrent": 100, "metadata/timestamp.json": 1000}.items():
        file = site.repository / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(b"x" * size)
    port = free_port()
    site.nginx(port, more)
    return f"http://127.0.0.1:{port}/"


@contextmanager
def crowd(web: str, targets: list[tuple[str, str]], address: str) -> Iterator[list[Answer]]:
    """CROWD clients at `address` that ask for all of `targets` again and again; what they got, so far.

    `targets` are paths and ranges. The clients are the standard library's, as httpx would use up the machine.
    """
    answers: list[Answer] = []
    is_over = threading.Event()

    def one_of_them(seed: int) -> None:
        rng = Random(seed)
        http = HTTPConnection(urlsplit(web).netloc, timeout=20.0, source_address=(address, 0))
        with closing(http):
            while not is_over.wait(0.05):
                path, span = rng.choice(targets)
                http.request("GET", f"/{quote(path)}", headers={"Range": span})
                response = http.getresponse()
                answers.append(Answer(response.status, response.headers, span, len(response.read())))

    with ThreadPoolExecutor(CROWD) as pool:
        clients = [pool.submit(one_of_them, seed) for seed in range(CROWD)]
        try:
            yield answers
        finally:
            is_over.set()
        for client in clients:
            client.result()


def test_a_range_leaves_once_in_five_seconds_however_many_ask(web: str, measured: Measured) -> None:
    targets = [(FILM, asked(number * RANGE)["Range"]) for number in range(RANGES)]
    slowest = 0.0
    started = time.monotonic()
    with ExitStack() as crowds, httpx.Client() as http:
        lists = [crowds.enter_context(crowd(web, targets, f"127.0.0.{last}")) for last in (2, 3, 4, 5)]
        while time.monotonic() - started < 12.0:
            before = time.monotonic()
            assert http.get(f"{web}metadata/timestamp.json").status_code == 200
            slowest = max(slowest, time.monotonic() - before)
            time.sleep(0.2)
    took = time.monotonic() - started
    answers = [answer for answers in lists for answer in answers]
    given = Counter(answer.span for answer in answers if answer.status == 206)
    most = math.floor(took / TURN_S) + 1
    assert set(given) == {span for _, span in targets}
    assert max(given.values()) <= most
    assert sum(answer.size for answer in answers if answer.status == 206) <= RANGES * most * RANGE
    refused = [answer for answer in answers if answer.status != 206]
    assert len(refused) > 10 * given.total()
    assert {(each.status, each.headers["edgeshare-range"], each.headers["retry-after"]) for each in refused} == {
        (429, "taken", "5")
    }
    assert max(answer.size for answer in refused) < 100
    assert slowest < 3.0  # other tests run beside this one
    measured(
        f"{4 * CROWD} clients, {len(answers) / took:.0f} requests/s; of {len(answers)} {given.total()} were given,"
        f" at most {max(given.values())} times each in {took:.1f} s; metadata after {slowest * 1000:.0f} ms at most"
    )


def test_one_address_does_not_get_every_turn(web: str) -> None:
    url, headers = web + FILM, asked(0)
    with crowd(web, [(FILM, headers["Range"])], "127.0.0.2") as answers:
        until("the crowd has the first turn", lambda: any(each.status == 206 for each in answers), 5.0)
        started = time.monotonic()
        until("another address has the next one", lambda: httpx.get(url, headers=headers).status_code == 206, 10.0)
        assert time.monotonic() - started >= TURN_S - 1
    assert sum(each.status == 206 for each in answers) == 1


def test_a_refusal_keeps_its_connection_and_a_look_takes_no_turn(web: str) -> None:
    here = set()
    with httpx.Client() as http:
        for _ in range(3):
            assert http.head(web + FILM, headers=asked(0)).status_code == 206
        assert http.get(web + FILM, headers=asked(0)).status_code == 206
        for _ in range(3):
            refused = http.get(web + FILM, headers=asked(0))
            assert (refused.status_code, refused.text, refused.headers["cache-control"]) == (429, "taken\n", "no-store")
            here.add(refused.extensions["network_stream"].get_extra_info("client_addr"))
        assert len(here) == 1
        assert http.get(web + FILM, headers=asked(1)).status_code == 206


def test_a_torrent_has_turns_too_and_metadata_has_none(web: str) -> None:
    assert [httpx.get(f"{web}torrents/ab.torrent").status_code for _ in range(3)] == [200, 429, 429]
    assert [httpx.get(f"{web}metadata/timestamp.json").status_code for _ in range(20)] == [200] * 20
    assert [httpx.get(f"{web}metadata/2.root.json").status_code for _ in range(3)] == [404] * 3
    missing = httpx.get(f"{web}content/ab/none")
    assert (missing.status_code, missing.headers["cache-control"]) == (404, "no-store")


def test_who_breaks_off_has_had_the_turn(web: str) -> None:
    with httpx.stream("GET", web + FILM, headers=asked(0, 32 << 20)) as broken:
        assert broken.status_code == 206
        next(broken.iter_raw(1000))
    assert httpx.get(web + FILM, headers=asked(0, 32 << 20)).status_code == 429


def test_more_ranges_than_the_guard_remembers_are_answered(site: Site) -> None:
    web = nginx(site, **{"zone=turns:10m": "zone=turns:32k", "zone=own_turns:10m": "zone=own_turns:32k"})
    with httpx.Client() as http:
        statuses = Counter(http.get(web + FILM, headers=asked(start, 16)).status_code for start in range(2000))
        assert statuses == {206: 2000}
        assert http.get(web + FILM, headers=asked(0, 16)).status_code == 206  # forgotten, so given again
        assert http.get(web + FILM, headers=asked(0, 16)).status_code == 429


def test_one_answer_too_many_is_sent_away_until_another_ends(site: Site) -> None:
    web = nginx(site, **{"limit_conn everybody 500;": "limit_conn everybody 4;"})
    with held(web, range(4)):
        refused = httpx.get(web + FILM, headers=asked(100))
        assert (refused.status_code, refused.text, refused.headers["retry-after"]) == (503, "busy\n", "10")
        assert "edgeshare-range" not in refused.headers
        assert httpx.get(f"{web}metadata/timestamp.json").status_code == 200
        error = trio.run(_error_of_a_node, web, 200)
        assert isinstance(error, Unreachable)
        assert 10 <= error.retry_in_s <= 15
    until("the answers have ended", lambda: httpx.get(web + FILM, headers=asked(time.time_ns() % 999)).is_success, 5.0)


def test_one_address_cannot_hold_every_answer(site: Site) -> None:
    web = nginx(site, **{"limit_conn address 100;": "limit_conn address 4;"})
    with held(web, range(4)):
        assert httpx.get(web + FILM, headers=asked(100)).status_code == 503
        with httpx.Client(transport=httpx.HTTPTransport(local_address="127.0.0.2")) as other:
            assert other.get(web + FILM, headers=asked(200)).status_code == 206


def test_a_node_is_told_to_ask_the_swarm(web: str) -> None:
    assert httpx.get(web + FILM, headers=asked(0)).status_code == 206
    error = trio.run(_error_of_a_node, web, 0)
    assert isinstance(error, Taken)
    assert 5 <= error.retry_in_s <= 7.5


def test_every_node_finishes_while_a_crowd_asks_for_the_same(site: Site, measured: Measured) -> None:
    origin = site.origin(LESSON)
    files = [each for each in (site.repository / "content").rglob("*") if each.is_file()]
    targets = [(str(each.relative_to(site.repository)), f"bytes=0-{each.stat().st_size - 1}") for each in files]
    with crowd(origin.url, targets, "127.0.0.2") as answers:
        until("the crowd is here", lambda: len(answers) > 100, 10.0)
        nodes = [site.node("home", f"home-{number}", origin.url) for number in range(3)]
        took = until("all have the lesson", lambda: all(node.has(LESSON.name) for node in nodes), 60.0)
    measured(f"three homes have their lesson {took:.1f} s after they are ready; the crowd asked {len(answers)} times")


@contextmanager
def held(web: str, starts: range) -> Iterator[None]:
    """Answers under way, whose clients read nothing of them; each of another 16 MiB or so."""
    host, port = urlsplit(web).hostname, urlsplit(web).port
    with ExitStack() as connections:
        for start in starts:
            connection = connections.enter_context(socket.socket())
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            connection.connect((host, port))
            head = f"GET /{FILM} HTTP/1.1\r\nHost: x\r\nRange: bytes={start}-{start + (32 << 20)}\r\n\r\n"
            connection.sendall(head.encode())
            assert connection.recv(12) == b"HTTP/1.1 206"
        yield


async def _error_of_a_node(web: str, start: int) -> Taken | Unreachable:
    async with open_origins((web,), Random(1), proxy="none") as origins:
        try:
            await origins.span(FILM, start, start + RANGE, 64 << 20, lambda body: True)
        except (Taken, Unreachable) as error:
            return error
    raise AssertionError("it was given the range")
