"""One spike in the lab: who is there, what befalls them, and the figures that it comes to.

The order of the hosts: nodes that hold the lesson already, hostile peers, then those who want it, the last of these
behind NAT. Times count from the moment at which the first may come.
"""

from __future__ import annotations

import contextlib
import random
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

import attrs

from bench.contenders import clients, material_of
from bench.crowd import Node, prepare, start_all
from bench.gauge import SAMPLE_EVERY_S, Gauge, percentile, processor_figures
from bench.lab import HOME, MIRROR_PORT, Host, Lab, Running, open_lab
from bench.publisher import (
    CATALOGUE,
    LESSON,
    Published,
    Web,
    answers,
    log_size,
    publish,
    spoiled,
    start_nginx,
    start_opentracker,
)

OURS = "edgeshare"
SETTLE_S = 2.0
DARK_S = 1.0  # how long a node that was killed stays away
_SOURCE_PORT = 82  # of the origin's loopback: where its own seeding node takes the lesson from, uncounted


@attrs.frozen(kw_only=True)
class Setup:
    """One configuration of the spike."""

    nodes: int
    files: int = 1
    file_size: int  # bytes
    rate_div: int = 1
    cold: bool = False
    arrivals_s: float | None = None  # Poisson over so many seconds; None is all in one second
    holders: int = 0
    natted: float = 0.0  # share of the nodes
    per_router: int = 1
    kill_tracker_at: float | None = None
    block_peers_for: float | None = None
    kill_nodes: float = 0.0  # share of the nodes
    hostile: float = 0.0  # share of all peers
    hostile_kind: str = "silent"
    bad_mirror: bool = False
    origin_limit: int | None = None  # bytes a second
    no_guard: bool = False
    seed_only: bool = False
    reader: bool = False
    timeout_s: float = 300.0

    @property
    def size(self) -> int:
        return self.files * self.file_size

    @property
    def hostile_peers(self) -> int:
        return round(self.nodes * self.hostile / (1 - self.hostile))

    @property
    def bound_s(self) -> float:
        """When the last can have it if the origin sends one copy: the rest goes through the nodes' uplinks."""
        home = HOME.divided(self.rate_div)
        givers = self.nodes + self.holders
        copies = self.nodes if self.holders else self.nodes - 1
        return max(copies * self.size * 8 / (givers * home.up), self.size * 8 / home.down)

    def describe(self) -> dict[str, Any]:
        """What differs from the plain spike."""
        plain = Setup(nodes=self.nodes, file_size=self.file_size)
        mine = attrs.asdict(self)
        return {"nodes": self.nodes, "size": self.size} | {
            key: value for key, value in mine.items() if value != getattr(plain, key)
        }


class Member(Protocol):
    """Somebody who wants the lesson, with whatever program."""

    name: str
    host: Host
    running: Running | None
    asked_at: float | None  # by time.time()
    complete_at: float | None

    def begin(self, lab: Lab) -> None:
        """Want it, from now on."""

    def look(self) -> None:
        """See whether it is complete."""

    def last_line(self) -> str:
        """The end of the log."""


class Timeline:
    """What happens when, in seconds since the spike began."""

    def __init__(self) -> None:
        self._to_come: list[tuple[float, Callable[[], None]]] = []

    def at(self, when: float, what: Callable[[], None]) -> None:
        self._to_come.append((when, what))
        self._to_come.sort(key=lambda each: each[0])

    def play(self, now: float) -> None:
        """Let everything happen that is due."""
        while self._to_come and self._to_come[0][0] <= now:
            self._to_come.pop(0)[1]()

    @property
    def next_at(self) -> float:
        return self._to_come[0][0] if self._to_come else float("inf")


def spike(kind: str, setup: Setup, folder: Path, report: Callable[[str], None]) -> dict[str, Any]:
    """One spike of edgeshare's nodes, or of a contender's; its figures. `folder` is its own.

    Raises:
        LabError: the lab cannot be made, or somebody in it does not start.
    """
    if kind != OURS:
        setup = Setup(nodes=setup.nodes, files=setup.files, file_size=setup.file_size, rate_div=setup.rate_div,
                      natted=setup.natted, per_router=setup.per_router, arrivals_s=setup.arrivals_s,
                      no_guard=True, timeout_s=setup.timeout_s)  # fmt: skip
    hosts = setup.holders + setup.hostile_peers + setup.nodes
    natted = round(setup.natted * setup.nodes)
    with open_lab(hosts, natted=natted, per_router=setup.per_router, divisor=setup.rate_div) as lab:
        published = publish(folder, files=setup.files, file_size=setup.file_size, origin=lab.origin.address)
        if kind == OURS:
            return _ours(setup, lab, published, folder, report)
        material = material_of(published, folder)
        web = Web(has_guard=False)
        start_nginx(lab, published.folder, folder, web)
        tracker = start_opentracker(lab, published, folder)
        members = clients(kind, material, lab, folder)
        time.sleep(SETTLE_S)
        report(f"{kind}: the spike begins")
        before = log_size(folder, web)
        gauge = _watched(setup, lab, members, tracker)
        return _figures(setup, gauge, members, published) | _logged(folder, web, before, published)


def _ours(setup: Setup, lab: Lab, published: Published, folder: Path, report: Callable[[str], None]) -> dict[str, Any]:
    web = Web(has_guard=not setup.no_guard, has_content=not setup.seed_only, limit_bytes_per_s=setup.origin_limit)
    start_nginx(lab, published.folder, folder, web)
    tracker = start_opentracker(lab, published, folder)
    nodes = [Node(f"node-{number}", host, folder / f"node-{number}") for number, host in enumerate(lab.nodes)]
    holders, hostile, seekers = _divided(nodes, setup)
    origins = [published.url]
    if setup.bad_mirror:
        mirror = Web(name="mirror", port=MIRROR_PORT, has_guard=False)
        start_nginx(lab, spoiled(published, folder), folder, mirror)
        origins.insert(0, f"http://{lab.origin.address}:{MIRROR_PORT}/")
    if setup.seed_only:
        _start_seeder(lab, published, folder)
    # As docs/config.md tells its owner: a little under what the line can do, so that the line's own queue stays short.
    upload = f"{int(0.97 * HOME.up / setup.rate_div / 1000)} kbit/s"
    for node in holders:
        prepare(node, published, upload=upload, wants=f'show = ["{CATALOGUE}"]\nfetch = ["{LESSON}"]')
    for node in seekers:
        wants = f'follow = ["{CATALOGUE}"]' if setup.cold else ""
        prepare(node, published, upload=upload, wants=wants, origins=origins)
    report(f"starting {len(holders) + (0 if setup.cold else len(seekers))} nodes")
    start_all(lab, holders, complete=True)
    if not setup.cold:
        start_all(lab, seekers)
    for node in hostile:
        arguments: list[str | Path] = [published.torrent, published.tracker, setup.hostile_kind]
        lab.call(node.host, node.name, "bench.hostile:main", arguments, folder / f"{node.name}.log")
    time.sleep(SETTLE_S)
    taken_before = {node.name: node.taken_by_reason() for node in seekers if node.running}
    report("the spike begins")
    before = log_size(folder, web)
    reader = _Reader(lab, seekers[0]) if setup.reader else None
    gauge = _watched(setup, lab, seekers, tracker, reader)
    figures = _figures(setup, gauge, seekers, published) | _logged(folder, web, before, published)
    figures |= _reasons(gauge, seekers, taken_before, had_restarts=setup.kill_nodes > 0)
    if reader:
        figures |= reader.figures()
    started = max(1, len(nodes) - len(hostile) - (len(seekers) if setup.cold else 0))
    return figures | {"http_bytes_before_per_node": gauge.before.http_bytes // started}


def _divided(nodes: Sequence[Node], setup: Setup) -> tuple[Sequence[Node], Sequence[Node], Sequence[Node]]:
    first = setup.holders + setup.hostile_peers
    return nodes[: setup.holders], nodes[setup.holders : first], nodes[first:]


def _start_seeder(lab: Lab, published: Published, folder: Path) -> None:
    """The publisher's seeding node, on the origin's host, with the whole lesson."""
    start_nginx(lab, published.folder, folder, Web(name="source", port=_SOURCE_PORT, has_guard=False))
    seeder = Node("seeder", lab.origin, folder / "seeder")
    prepare(
        seeder,
        published,
        wants=f'profile = "origin"\nfollow = ["{CATALOGUE}"]',
        origins=[f"http://127.0.0.1:{_SOURCE_PORT}/"],
    )
    start_all(lab, [seeder], complete=True)


class _Reader:
    """Somebody who opens the lesson on one node at the moment when that node wants it."""

    def __init__(self, lab: Lab, node: Node) -> None:
        self.node = node
        self._lab = lab
        self._log = node.folder / "reader"

    def begin(self) -> None:
        url = f"http://127.0.0.1:8470/lessons/{LESSON}/0.bin"
        command = ["curl", "--silent", "--show-error", "--output", "/dev/null"]
        timing = ["--write-out", "%{http_code} %{time_starttransfer} %{time_total}", "--retry", "0", url]
        self._lab.start(self.node.host, "reader", [*command, *timing], self._log)

    def figures(self) -> dict[str, Any]:
        text = self._log.read_text(encoding="utf-8") if self._log.exists() else ""
        with contextlib.suppress(ValueError):
            status, first_byte, total = text.split()
            if status == "200":
                return {"reader_first_byte_s": float(first_byte), "reader_total_s": float(total)}
        return {"reader": text}


def _watched(
    setup: Setup, lab: Lab, members: Sequence[Member], tracker: Running, reader: _Reader | None = None
) -> Gauge:
    """Let the spike happen; returns when every member has the lesson, when none can any more, or when time is up."""
    if setup.block_peers_for is not None:
        lab.block_peers()
    gauge = Gauge(lab)
    timeline = Timeline()
    for member in members:
        when = random.random() * (setup.arrivals_s or 1.0)  # Poisson arrivals, given how many: uniform
        timeline.at(when, lambda each=member: each.begin(lab))  # type: ignore[misc]  # mypy does not know the default
        if reader and member is reader.node:
            timeline.at(when, reader.begin)
    if setup.kill_tracker_at is not None:
        timeline.at(setup.kill_tracker_at, lambda: lab.stop(tracker))
    if setup.block_peers_for is not None:
        timeline.at(setup.block_peers_for, lab.unblock_peers)
    doomed = [member for member in members if isinstance(member, Node)][: round(setup.kill_nodes * len(members))]
    if doomed:
        random.shuffle(doomed)
        timeline.at(0.5, lambda: _kill_half_way(setup, lab, doomed, timeline, gauge))
    turn = 0
    while gauge.elapsed() < setup.timeout_s:
        timeline.play(gauge.elapsed())
        gauge.look()
        turn += 1
        if turn % 2 == 0:
            for member in members:
                if member.complete_at is None:
                    member.look()
            if all(member.complete_at or _is_gone(member) for member in members) and timeline.next_at == float("inf"):
                break
        next_look = gauge.samples[-1].at + SAMPLE_EVERY_S
        time.sleep(max(0.005, min(next_look, timeline.next_at) - gauge.elapsed()))
    gauge.end()
    return gauge


def _kill_half_way(setup: Setup, lab: Lab, doomed: Sequence[Node], timeline: Timeline, gauge: Gauge) -> None:
    """Kill these nodes when one of them has half of the lesson, and start them again a moment later."""
    if doomed[0].bytes_have() < setup.size / 2:
        timeline.at(gauge.elapsed() + 0.5, lambda: _kill_half_way(setup, lab, doomed, timeline, gauge))
        return
    for node in doomed:
        if node.running and node.complete_at is None:
            lab.kill(node.running)
            timeline.at(gauge.elapsed() + DARK_S, lambda each=node: each.start(lab))  # type: ignore[misc]  # as above


def _is_gone(member: Member) -> bool:
    return member.running is not None and not member.running.is_up()


def _figures(setup: Setup, gauge: Gauge, members: Sequence[Member], published: Published) -> dict[str, Any]:
    whole, first_minute = gauge.whole, gauge.first_minute
    assert whole is not None
    assert first_minute is not None
    times = sorted(member.complete_at - gauge.began_at for member in members if member.complete_at)
    own = [member.complete_at - member.asked_at for member in members if member.complete_at and member.asked_at]
    failed = {member.name: member.last_line() for member in members if not member.complete_at}
    last = times[-1] if times and not failed else None
    return {
        "copies_http": round(whole.http_bytes / published.size, 4),
        "copies_wire": round(gauge.samples[-1].sent / published.size, 4),
        "last_s": last,
        "p50_s": percentile(times, 0.5),
        "p95_s": percentile(times, 0.95),
        "p99_s": percentile(times, 0.99),
        "own_p50_s": percentile(own, 0.5),
        "own_p95_s": percentile(own, 0.95),
        "own_p99_s": percentile(own, 0.99),
        "bound_s": setup.bound_s,
        "last_over_bound": last / setup.bound_s if last else None,
        "connections_60s": first_minute.http_connections,
        "connections_before": gauge.before.http_connections,  # those that stay open are of use in the spike
        "tracker_packets": whole.tracker_packets,
        "tracker_packets_60s": first_minute.tracker_packets,
        "http_bytes": whole.http_bytes,
        "http_payload_bytes": whole.http_payload,
        "other_bytes": whole.other_bytes,
        "peak_mbit_s": gauge.peak_bytes_per_s() * 8 / 1e6,
        **processor_figures(gauge),
        "failed": failed,
        "finished_s": times,
        "origin_mbit_s": [bits / 1e6 for bits in gauge.bits_by_second()],
    }


def _logged(folder: Path, web: Web, before: int, published: Published) -> dict[str, Any]:
    """What nginx logged since the spike began: bodies, to tell content from metadata."""
    logged = answers(folder, web, after=before)
    return {
        "copies_content_bodies": round(logged.content_bytes / published.size, 4),
        "metadata_bytes": logged.metadata_bytes,
        "http_requests": logged.requests,
        "http_refused": logged.refused,
    }


def _reasons(
    gauge: Gauge, nodes: Sequence[Node], before: dict[str, Counter[str]], *, had_restarts: bool
) -> dict[str, Any]:
    """What the nodes say they took, and why; held against what TCP carried by the kernel's count.

    The count of a node that was killed begins anew, so with restarts the two cannot be held against each other.
    """
    reasons: Counter[str] = Counter()
    for node in nodes:
        reasons.update(node.taken_by_reason())
        if not had_restarts:
            reasons.subtract(before.get(node.name, Counter()))
    assert gauge.whole is not None
    payload = gauge.whole.http_payload
    share = None if had_restarts or not payload else reasons.total() / payload
    return {"reasons": {why: count for why, count in reasons.items() if count}, "reasons_over_payload": share}
