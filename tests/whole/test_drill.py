"""A drill as its operator runs it: nginx, opentracker, three nodes; and what is left when it is over or broken off."""

from __future__ import annotations

import json
import re
import signal
import subprocess
from datetime import datetime, timedelta
from pathlib import Path
from random import Random
from typing import Any

import httpx
import pytest
import trio

from edgeshare.drill.scrape import Counts, tracker
from edgeshare.manifest import InfoHash
from edgeshare.publish.torrent import tracker_hashes

from .support import EDGESHARE, PROJECT, Measured, Node, Origin, Site, until

pytestmark = pytest.mark.whole

LESSON = PROJECT / "manifests" / "lessons" / "maths-6e-fractions"
QUICK = {"follow": 'follow = ["cned/6e"]\nrefresh_every_s = 1'}


def three(site: Site, origin: Origin) -> list[Node]:
    nodes = [site.node("home", f"node-{number}", origin.url, QUICK) for number in range(3)]
    until("all have the catalogue", lambda: all(node.has(LESSON.name) for node in nodes), 30.0)
    return nodes


def command(site: Site, origin: Origin, nodes: list[Node], *more: str) -> list[str]:
    """The drill's command line; the tracker is told to read its list again as its README says."""
    named = [word for node in nodes for word in ("--node", f"http://127.0.0.1:{node.port}")]
    log = str(site.folder / "nginx" / "access.log")
    again = f"kill -HUP {origin.opentracker.process.pid}"
    return [
        str(EDGESHARE),
        "drill",
        str(site.repository),
        "--keys",
        str(site.folder / "keys"),
        "--log",
        log,
        "--after-release",
        again,
        *named,
        *more,
    ]


def test_a_drill_reports_how_the_crowd_came_through_and_leaves_nothing(site: Site, measured: Measured) -> None:
    origin = site.origin(LESSON)
    nodes = three(site, origin)
    start = datetime.now().astimezone().replace(microsecond=0) + timedelta(seconds=12)
    more = ("--size", "4 MiB", "--start", start.isoformat(), "--for", "30s", "--json")
    with subprocess.Popen(
        command(site, origin, nodes, *more), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as drill:
        try:
            early = start - timedelta(seconds=2)
            until("it is nearly time", lambda: datetime.now().astimezone() > early, 30.0)
            lesson = f"drill-{start:%Y%m%d}-1"
            told = [node.api(f"lessons/{lesson}") for node in nodes]
            listed = [each["id"] for node in nodes for each in node.api("lessons")]
            before = [line for line in site.nginx_log() if told[0]["info_hash"] in line]
            out, err = drill.communicate(timeout=90)
        finally:
            drill.terminate()
    assert drill.returncode == 0, err
    report: dict[str, Any] = json.loads(out)

    assert {each["state"] for each in told} == {"waiting"}, "they know of it, and wait for the appointment"
    assert lesson not in listed, "pupils do not see it"
    assert before == [], "nobody asked the origin for it before the start"
    assert report["lesson"] == lesson
    assert report["whole"] is True
    assert report["swarm"] | {"p50_s": 0, "p95_s": 0, "last_s": 0} == {
        "nodes": 3,
        "complete": 3,
        "unfinished": 0,
        "early": 0,
        "p50_s": 0,
        "p95_s": 0,
        "last_s": 0,
    }
    assert 0 < report["swarm"]["p50_s"] <= report["swarm"]["last_s"] <= 30
    assert [node["outcome"] for node in report["nodes"]] == ["complete"] * 3
    assert 1.0 <= report["origin"]["copies"] < 3
    assert report["origin"]["unread"] == 0
    assert report["troubles"] == []
    measured(
        f"3 nodes, 4 MiB: {report['origin']['copies']} copies, p50 {report['swarm']['p50_s']} s, "
        f"last {report['swarm']['last_s']} s, peak {report['origin']['peak_bytes_per_s'] * 8 / 1e6:.0f} Mbit/s"
    )
    until(
        "the nodes drop it",
        lambda: all(node.api(f"lessons/{lesson}")["state"] == "withdrawn" for node in nodes),
        30.0,
    )
    content = [path.name for path in site.repository.glob("content/*")]
    assert told[0]["info_hash"] not in content
    assert all(node.has(LESSON.name) for node in nodes), "what is for pupils stays"


def test_opentracker_counts_a_swarm_the_same_over_udp_and_http(site: Site) -> None:
    origin = site.origin(LESSON)
    node = site.node("home", "home", origin.url, QUICK)
    until("it has the lesson", lambda: node.has(LESSON.name), 30.0)
    info_hash = InfoHash(bytes.fromhex(node.api(f"lessons/{LESSON.name}")["info_hash"]))
    torrent = (site.repository / "torrents" / f"{info_hash.hex()}.torrent").read_bytes()
    hashes = [bytes.fromhex(each) for each in tracker_hashes(torrent, info_hash)]

    async def both() -> list[Counts]:
        urls = [f"{kind}://127.0.0.1:{origin.tracker_port}/announce" for kind in ("udp", "http")]
        async with httpx.AsyncClient() as client:
            return [await tracker(url, client, Random(1)).counts(hashes) for url in urls]

    until("it has told the tracker", lambda: trio.run(both) == [Counts(1, 0, 1)] * 2, 15.0)


def test_a_drill_that_is_interrupted_withdraws_its_lesson(site: Site) -> None:
    origin = site.origin(LESSON)
    (node,) = [site.node("home", "home", origin.url, QUICK)]
    until("it has the catalogue", lambda: node.has(LESSON.name), 30.0)
    start = datetime.now().astimezone().replace(microsecond=0) + timedelta(minutes=5)
    log = site.folder / "drill.log"
    more = ("--size", "64 KiB", "--start", start.isoformat())
    with log.open("wb") as output:
        drill = subprocess.Popen(command(site, origin, [node], *more), stdout=output, stderr=output)
    try:
        until("it waits", lambda: "to the start" in log.read_text(), 20.0)
        lesson = f"drill-{start:%Y%m%d}-1"
        until("the node knows of it", lambda: knows(node, lesson), 20.0)
        drill.send_signal(signal.SIGINT)
        assert drill.wait(30) == 130
    finally:
        drill.kill()
        drill.wait(10)
    assert re.search(rf"{lesson} is withdrawn", log.read_text())
    until("the node drops it", lambda: node.api(f"lessons/{lesson}")["state"] == "withdrawn", 20.0)
    assert staged(site.repository) == []


def knows(node: Node, lesson: str) -> bool:
    try:
        return bool(node.api(f"lessons/{lesson}")["state"] == "waiting")
    except httpx.HTTPStatusError as error:
        if error.response.status_code != 404:
            raise
        return False


def staged(repository: Path) -> list[Path]:
    return list((repository / ".edgeshare" / "staged").iterdir())
