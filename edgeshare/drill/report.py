"""What a drill says at its end: from samples and log lines to figures. Pure: no clock, no socket, no file.

There is no central record of what nodes do, and a drill makes none. Its report rests on what the publisher rightly
sees: what left the origin, the tracker's counts (numbers, no names), and the nodes that the publisher itself named.
"""

from __future__ import annotations

import enum
import math
from collections import Counter
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any

import attrs

from edgeshare.manifest import LessonId

_REFUSED = frozenset({429, 503})  # "ask the swarm", "come back later"


@attrs.frozen(kw_only=True)
class Answer:
    """One answer of the origin, as its log tells it."""

    ended: datetime
    seconds: float  # from the request's first byte to the answer's last
    path: str
    status: int
    bytes_sent: int  # of the body


@attrs.frozen(kw_only=True)
class Served:
    """What the origin had given, all in all, at one instant."""

    after_s: float
    requests: int
    bytes_sent: int


@attrs.frozen(kw_only=True)
class Seen:
    """A tracker's counts at one instant."""

    after_s: float  # since the start; negative before it
    complete: int
    incomplete: int
    ever: int  # nodes that said that they had become complete, gone or not


@attrs.frozen(kw_only=True)
class OriginPart:
    """What left the origin."""

    bytes_sent: int
    copies: float  # of the lesson
    peak_bytes_per_s: float  # over the busiest second
    requests: int  # that it tells of
    refused: int | None  # of them, answered 429 or 503; None when that is not known
    unread: int = 0  # lines about the lesson in another form than seeders/origin/nginx.conf writes


@attrs.frozen(kw_only=True)
class SwarmPart:
    """How the crowd came through, by the tracker's counts."""

    nodes: int  # that took part
    complete: int
    early: int  # that began before the start: older versions, or clocks that are fast
    p50_s: float | None  # of those that became complete, after the start; None when nobody did
    p95_s: float | None
    last_s: float | None

    @property
    def unfinished(self) -> int:
        """Nodes that began and did not become complete."""
        return self.nodes - self.complete


class Outcome(enum.Enum):
    """How a named node came through."""

    COMPLETE = "complete"
    UNFINISHED = "unfinished"  # still at it
    FAILED = "failed"  # it says why
    UNHEARD = "unheard"  # it does not know of the lesson
    UNREACHABLE = "unreachable"


@attrs.frozen(kw_only=True)
class NodePart:
    """One node that the publisher named."""

    url: str
    outcome: Outcome
    why: str | None = None  # where it is not complete, in one line
    after_s: float | None = None  # from the start until it was seen complete
    origin_bytes: int = 0
    peer_bytes: int = 0


@attrs.frozen(kw_only=True)
class Report:
    """A drill, told."""

    lesson: LessonId
    size: int  # bytes
    start: datetime
    watched_s: float  # after the start
    is_whole: bool  # False when it was interrupted
    origin: OriginPart | None  # None when nobody told
    swarm: SwarmPart | None
    nodes: tuple[NodePart, ...]
    troubles: tuple[str, ...] = ()  # why a part is missing, or may be too low

    def as_json(self) -> dict[str, Any]:
        """Its fields as `--json` gives them; fields are only ever added."""
        return {
            "lesson": self.lesson,
            "size": self.size,
            "start": self.start.isoformat(),
            "watched_s": round(self.watched_s, 1),
            "whole": self.is_whole,
            "origin": attrs.asdict(self.origin) if self.origin else None,
            "swarm": attrs.asdict(self.swarm) | {"unfinished": self.swarm.unfinished} if self.swarm else None,
            "nodes": [attrs.asdict(node) | {"outcome": node.outcome.value} for node in self.nodes],
            "troubles": list(self.troubles),
        }


def from_log(answers: Iterable[Answer], size: int, *, unread: int = 0) -> OriginPart:
    """What the origin's log says; `answers` are those about the lesson, of `size` bytes.

    The log has one line for an answer, written at its end: its bytes are spread evenly over the seconds it took.
    """
    sent = requests = refused = content = 0
    rate: Counter[int] = Counter()
    for answer in answers:
        requests += 1
        refused += answer.status in _REFUSED
        sent += answer.bytes_sent
        content += answer.bytes_sent if answer.status in (200, 206) and "/content/" in answer.path else 0
        last = int(answer.ended.timestamp())
        seconds = range(last - int(answer.seconds), last + 1)
        for second in seconds:
            rate[second] += answer.bytes_sent // len(seconds)
    return OriginPart(
        bytes_sent=sent,
        copies=round(content / size, 3),
        peak_bytes_per_s=float(max(rate.values(), default=0)),
        requests=requests,
        refused=refused or None,  # none is logged where seeders/origin/nginx.conf refuses
        unread=unread,
    )


def from_counters(samples: Sequence[Served], size: int) -> OriginPart | None:
    """What an embedded origin's counters say; all that it gave counts, as they know no lessons. None without two."""
    if len(samples) < 2:
        return None
    first, last = samples[0], samples[-1]
    if last.bytes_sent < first.bytes_sent or last.requests < first.requests:
        return None  # it was started anew
    peak, behind = 0.0, 0
    for at, sample in enumerate(samples):  # a window of a second: two that fall close together are no rate
        while samples[behind + 1].after_s <= sample.after_s - 1.0:
            behind += 1
        before = samples[behind]
        if at > behind:
            lasted_s = max(1.0, sample.after_s - before.after_s)
            peak = max(peak, (sample.bytes_sent - before.bytes_sent) / lasted_s)
    sent = last.bytes_sent - first.bytes_sent
    return OriginPart(
        bytes_sent=sent,
        copies=round(sent / size, 3),
        peak_bytes_per_s=peak,
        requests=last.requests - first.requests,
        refused=None,
    )


def from_tracker(samples: Sequence[Seen]) -> SwarmPart | None:
    """How the crowd came through; None when there are no samples after the start.

    Times are those of the sample that showed it first, so at most one interval late.
    """
    if not any(sample.after_s >= 0 for sample in samples):
        return None
    curve: list[tuple[float, int]] = []  # complete by then; a node that leaves stays counted
    complete = nodes = early = 0
    for sample in samples:
        complete = max(complete, sample.complete, sample.ever)
        nodes = max(nodes, sample.complete + sample.incomplete, complete)
        if sample.after_s < 0:
            early = nodes
        curve.append((max(0.0, sample.after_s), complete))

    def reached(share: float) -> float | None:
        rank = math.ceil(share * complete)
        return next((round(after_s, 1) for after_s, count in curve if count >= rank), None) if complete else None

    return SwarmPart(
        nodes=nodes,
        complete=complete,
        early=early,
        p50_s=reached(0.5),
        p95_s=reached(0.95),
        last_s=reached(1.0),
    )
