"""What is seen of a drill, from the release of its lesson to the end: tracker, origin, named nodes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from random import SystemRandom

import attrs
import httpx
import trio

from edgeshare.drill import accesslog, nodes
from edgeshare.drill.report import (
    NodePart,
    OriginPart,
    Outcome,
    Report,
    Seen,
    Served,
    from_counters,
    from_log,
    from_tracker,
)
from edgeshare.drill.scrape import ScrapeError, Tracker, get, tracker
from edgeshare.drill.stage import Plan, Published

LOOK_EVERY_S = 1.0  # at the tracker, after the start
_LOOK_BEFORE_S = 15.0  # at tracker and nodes, before it
_NODE_EVERY_S = 2.0  # a node's answer costs it a millisecond
_SETTLE_S = 60.0  # how long everybody has had it before the watch ends early: clocks differ


class Watch:
    """What is seen from the release to the end."""

    def __init__(self, plan: Plan, published: Published, say: Callable[[str], None]) -> None:
        self._plan = plan
        self._lesson = published.lesson
        self._hashes = published.hashes
        self._trackers = plan.trackers or published.trackers
        self._say = say
        self._seen: list[Seen] = []
        self._served: list[Served] = []
        self._nodes: dict[str, NodePart] = {}
        self._troubles: dict[str, str] = {}  # by who has it
        self._is_over = False
        self._ended_s: float | None = None  # after the start

    async def run(self) -> None:
        """Watch until the time is over, or everybody has had it for a while."""
        try:
            await self._look()
        finally:
            self._ended_s = self._after_s()
        self._is_over = True

    async def _look(self) -> None:
        rng = SystemRandom()
        async with httpx.AsyncClient(timeout=nodes.PATIENCE_S) as client, trio.open_nursery() as nursery:
            asked = [tracker(url, client, rng) for url in self._trackers]
            nursery.start_soon(self._ask_trackers, asked)
            for url in self._plan.nodes:
                nursery.start_soon(self._ask_node, client, url)
            await self._until_start()
            if self._plan.counters:
                nursery.start_soon(self._ask_counters, client, self._plan.counters)
            await self._until_end()
            nursery.cancel_scope.cancel()

    def report(self, tails: Sequence[accesslog.Tail]) -> Report | None:
        """What was seen; None before the start."""
        watched_s = self._ended_s
        if watched_s is None or watched_s < 0:
            return None
        if not self._trackers:
            self._troubles["trackers"] = "the repository names no tracker, so the crowd is not known: see --tracker"
        return Report(
            lesson=self._lesson.id,
            size=self._lesson.size,
            start=self._plan.start,
            watched_s=watched_s,
            is_whole=self._is_over,
            origin=self._origin(tails),
            swarm=from_tracker(self._seen),
            nodes=tuple(self._nodes.get(url) or _unasked(url) for url in self._plan.nodes),
            troubles=tuple(self._troubles.values()),
        )

    def _origin(self, tails: Sequence[accesslog.Tail]) -> OriginPart | None:
        if tails:
            found = []
            unread = 0
            for tail in tails:
                answers, others = accesslog.about(tail.lines(), self._lesson.info_hash.hex())
                found += answers
                unread += others
            return from_log(found, self._lesson.size, unread=unread)
        if not self._plan.counters:
            self._troubles["origin"] = "neither --log nor --counters is given, so what left the origin is not known"
        return from_counters(self._served, self._lesson.size)

    def _after_s(self) -> float:
        return (datetime.now(UTC) - self._plan.start).total_seconds()

    async def _until_start(self) -> None:
        """Looks at the clock at least every quarter of a minute: it may be set in between."""
        told = None
        while (left_s := -self._after_s()) > 0:
            minutes = int(left_s // 60)
            if minutes != told:
                told = minutes
                self._say(f"{_span(left_s)} to the start{self._heard()}")
            await trio.sleep(min(left_s, left_s % 60 or 60.0, 15.0))
        self._say("the start")

    def _heard(self) -> str:
        if not self._plan.nodes:
            return ""
        heard = sum(node.outcome not in (Outcome.UNHEARD, Outcome.UNREACHABLE) for node in self._nodes.values())
        return f"; {heard} of the {len(self._plan.nodes)} named nodes know of it"

    async def _until_end(self) -> None:
        told: str | None = None
        done_since: float | None = None
        settle_s = min(_SETTLE_S, self._plan.lasts_s / 10)
        while (after_s := self._after_s()) < self._plan.lasts_s:
            standing = self._standing()
            if standing != told:
                told = standing
                self._say(f"+{_span(after_s)}: {standing}")
            if not self._is_done():
                done_since = None
            elif done_since is None:
                done_since = after_s
            elif after_s - done_since >= settle_s:
                return
            await trio.sleep(LOOK_EVERY_S)

    def _is_done(self) -> bool:
        """Whether everybody who is seen has it."""
        if not self._seen and not self._nodes:
            return False
        last = self._seen[-1] if self._seen else None
        crowd = last is None or (last.incomplete == 0 and max(last.complete, last.ever) > 0)
        return crowd and all(
            url in self._nodes and self._nodes[url].outcome is Outcome.COMPLETE for url in self._plan.nodes
        )

    def _standing(self) -> str:
        parts = []
        if self._seen:
            last = self._seen[-1]
            parts.append(f"{max(last.complete, last.ever)} have it, {last.incomplete} are at it")
        if self._plan.nodes:
            have = sum(node.outcome is Outcome.COMPLETE for node in self._nodes.values())
            parts.append(f"{have} of the {len(self._plan.nodes)} named nodes have it")
        return "; ".join(parts) or "nobody to ask: neither a tracker nor a --node"

    async def _ask_trackers(self, asked: Sequence[Tracker]) -> None:
        while asked:
            after_s, began = self._after_s(), trio.current_time()
            counts = None
            for each in asked:
                try:
                    found = await each.counts(self._hashes)
                except ScrapeError as error:
                    self._troubles[each.url] = str(error)
                    continue
                self._troubles.pop(each.url, None)
                counts = counts.or_more(found) if counts else found
            if counts:
                seen = Seen(after_s=after_s, complete=counts.complete, incomplete=counts.incomplete, ever=counts.ever)
                self._seen.append(seen)
            await trio.sleep_until(began + self._pause_s(LOOK_EVERY_S))

    async def _ask_node(self, client: httpx.AsyncClient, url: str) -> None:
        while True:
            found = await nodes.look(client, url, self._lesson.id)
            before = self._nodes.get(url)
            if before and before.after_s is not None:  # it had it; what comes later does not undo that
                found = attrs.evolve(found, after_s=before.after_s) if found.outcome is Outcome.COMPLETE else before
            elif found.outcome is Outcome.COMPLETE:
                found = attrs.evolve(found, after_s=round(max(0.0, self._after_s()), 1))
            self._nodes[url] = found
            await trio.sleep(self._pause_s(_NODE_EVERY_S))

    async def _ask_counters(self, client: httpx.AsyncClient, url: str) -> None:
        while True:
            try:
                status, body = await get(client, url, 64 * 1024)
                self._served.append(_counted(status, body, self._after_s()))
                self._troubles.pop(url, None)
            except (httpx.HTTPError, httpx.InvalidURL, ScrapeError) as error:
                self._troubles[url] = f"no counters at {url} ({error}): run `edgeshare origin serve --counters`"
            await trio.sleep(LOOK_EVERY_S / 2)

    def _pause_s(self, usual_s: float) -> float:
        """Until the next look: seldom before the start, and never across it."""
        left_s = -self._after_s()
        return usual_s if left_s <= 0 else min(_LOOK_BEFORE_S, max(left_s, 0.05))


def _counted(status: int, body: bytes, after_s: float) -> Served:
    match nodes.read_json(body) if status == 200 else None:
        case {"requests": int(requests), "bytes_sent": int(sent)}:
            return Served(after_s=after_s, requests=requests, bytes_sent=sent)
    raise ScrapeError(f"it answers {status}, and no counters")


def _unasked(url: str) -> NodePart:
    return NodePart(url=url, outcome=Outcome.UNREACHABLE, why="it has not answered yet")


def _span(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"
