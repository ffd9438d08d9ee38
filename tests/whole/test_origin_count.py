"""What nodes say that they took from the origin, held against the kernel's count of the origin's own connections."""

from __future__ import annotations

import os
import re
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import attrs
import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from edgeshare.cli.node import REASONS

from .support import Measured, Node, Site, needed, until

pytestmark = pytest.mark.whole

WITHIN = 0.02
MARK = b"the end"
# So many small ones that to forget the heads of the answers would be more than 2 %.
FILES = {
    "index.html": b"<!doctype html><title>Fractions</title>",
    "film.mp4": os.urandom(2**20),
    **{f"pages/{number}.html": os.urandom(2_000) for number in range(200)},
}


@attrs.frozen
class Count:
    """The kernel's count of a server's connections, each told when it ends, with what it carried (TCP_INFO)."""

    port: int
    told: Path

    def end(self) -> list[int]:
        """Bytes of payload that were sent on each connection, in the order in which they ended.

        The server has stopped. A last connection of our own, with a size of its own, is told after all others.
        """
        here = ("127.0.0.1", self.port)
        with socket.create_server(here) as server, socket.create_connection(here) as client, server.accept()[0] as last:
            last.sendall(MARK)
            assert client.recv(100) == MARK
        until("the last connection is told", lambda: len(MARK) in self._sent(), 5.0)
        return [sent for sent in self._sent() if sent not in (0, len(MARK))]  # 0: the sockets that listened

    def _sent(self) -> list[int]:
        lines = self.told.read_text(encoding="utf-8").splitlines()
        return [_figure(line, "bytes_sent") - _figure(line, "bytes_retrans") for line in lines]


def _figure(line: str, name: str) -> int:
    """A figure of TCP_INFO, which is left out where it is 0."""
    found = re.search(rf"\b{name}:(\d+)", line)
    return int(found[1]) if found else 0


@contextmanager
def counting(folder: Path, port: int) -> Iterator[Count]:
    """Hear of every connection of the server at `port` of 127.0.0.1."""
    told = folder / "connections"
    command = [needed("stdbuf"), "-oL", needed("ss"), "-tinEOH", f"sport = :{port}"]
    with told.open("wb") as output, subprocess.Popen(command, stdout=output) as listening:
        try:
            yield Count(port, told)
        finally:
            listening.terminate()


@pytest.fixture
def lesson(tmp_path: Path) -> Path:
    folder = tmp_path / "maths-6e-fractions"
    for path, content in FILES.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(content)
    (folder / "lesson.toml").write_text(
        'id = "maths-6e-fractions"\ntitle = "Les fractions"\nlanguage = "fr"\nlevels = ["6e"]\n'
        'subjects = ["mathematiques"]\ndescription = ""\nlicence = "CC-BY-SA-4.0"\nstart = "index.html"\n',
        encoding="utf-8",
    )
    return folder


def by_reason(node: Node) -> dict[str, int]:
    """The node's bytes from the origin by reason, from /metrics; the same as its status says."""
    reasons = status_of(node)
    text = httpx.get(f"http://127.0.0.1:{node.port}/metrics", headers={"Host": f"localhost:{node.port}"}).text
    told = {
        sample.labels["reason"]: int(sample.value)
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name == "edgeshare_origin_bytes_total"
    }
    assert told == reasons
    return reasons


def status_of(node: Node) -> dict[str, int]:
    reasons: dict[str, int] = node.api("status")["origin_bytes_by_reason"]
    return reasons


def check(site: Site, lesson: Path, kinds: dict[str, str], measured: Measured) -> None:
    """Have nodes fetch the lesson at the same time; what they say to have taken is what the kernel saw."""
    origin = site.origin(lesson)
    port = httpx.URL(origin.url).port
    assert port is not None
    with counting(site.folder, port) as count:
        nodes = [site.node(kind, name, origin.url) for name, kind in kinds.items()]
        until("all have the lesson", lambda: all(node.has(lesson.name) for node in nodes), 60.0)
        nodes[0].file(lesson.name, "film.mp4")
        said = [by_reason(node) for node in nodes]
        for node in nodes:
            node.running.stop()
        origin.nginx.stop()
        sent = count.end()
    total = sum(sum(reasons.values()) for reasons in said)
    reasons = {reason: sum(each.get(reason, 0) for each in said) for reason in {key for each in said for key in each}}
    kernel = sum(sent)
    measured(f"{total} bytes by the nodes, {kernel} by the kernel in {len(sent)} connections; {reasons}")
    assert kernel > sum(map(len, FILES.values()))  # at least one copy left, and was seen
    assert abs(total - kernel) <= WITHIN * kernel
    assert reasons.keys() <= REASONS.keys() - {"unknown"}
    assert reasons["metadata"] > 0


def test_what_a_lone_node_says_it_took_is_what_the_kernel_sent(site: Site, lesson: Path, measured: Measured) -> None:
    check(site, lesson, {"home": "home"}, measured)


def test_what_nodes_that_help_one_another_say_they_took_is_what_the_kernel_sent(
    site: Site, lesson: Path, measured: Measured
) -> None:
    check(site, lesson, {"school": "school", "home": "home", "other": "home"}, measured)
