"""The crowd of a spike: `edgeshare run`, one to a host, each with its own config, library and log."""

from __future__ import annotations

import contextlib
import json
import re
import socket
import time
from collections import Counter
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import attrs

from bench.lab import Host, Lab, LabError, Running
from bench.publisher import CATALOGUE, LESSON, Published
from edgeshare.control import SOCKET

AT_ONCE = 4  # nodes that start at the same time: enough for two processors, while one waits for the other nodes
READY_WITHIN_S = 60.0
_LINE = re.compile(rb"^(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d),(\d{3}) \S+ (.*)$", re.MULTILINE)


@attrs.define(eq=False)
class Node:
    """One `edgeshare run`."""

    name: str
    host: Host
    folder: Path
    running: Running | None = None
    asked_at: float | None = None  # when somebody wished for the lesson, or it was started for it; time.time()
    complete_at: float | None = None
    has_catalogue: bool = False
    _read: int = 0  # bytes of its log that were looked at

    @property
    def library(self) -> Path:
        return self.folder / "library"

    @property
    def log(self) -> Path:
        return self.folder / "log"

    def start(self, lab: Lab) -> None:
        """`edgeshare run`."""
        arguments: list[str | Path] = ["run", "--config", self.folder / "edgeshare.toml"]
        self.running = lab.call(self.host, self.name, "edgeshare.cli.main:main", arguments, self.log)

    def begin(self, lab: Lab) -> None:
        """Want the lesson: a daemon that runs is asked for it, one that does not is started, and follows."""
        self.asked_at = time.time()
        if self.running is None:
            self.start(lab)
        else:
            self._ask_for_lesson()

    def look(self) -> None:
        """Read what its log says since the last look: the daemon's own clock tells when it was complete."""
        with contextlib.suppress(FileNotFoundError), self.log.open("rb") as log:
            log.seek(self._read)
            fresh = log.read()
            fresh = fresh[: fresh.rfind(b"\n") + 1]
            self._read += len(fresh)
            for second, millis, text in _LINE.findall(fresh):
                if text.startswith(f"{CATALOGUE}: edition".encode()):
                    self.has_catalogue = True
                elif text.startswith(f"{LESSON} is complete".encode()) and self.complete_at is None:
                    self.complete_at = datetime.fromisoformat(second.decode()).timestamp() + int(millis) / 1000

    def last_line(self) -> str:
        return self.running.last_line() if self.running else ""

    def bytes_have(self) -> int:
        return sum(lesson["bytes_have"] for lesson in self.answers("lessons") if lesson["id"] == LESSON)

    def taken_by_reason(self) -> Counter[str]:
        """Bytes that it took from the origin since it started, as it counts them."""
        return Counter(
            {why: count for each in self.answers("status") for why, count in each["origin_bytes_by_reason"].items()}
        )

    def _ask_for_lesson(self) -> None:
        """As `edgeshare get` does, without waiting for the answers."""
        with (
            contextlib.suppress(OSError),
            socket.socket(socket.AF_UNIX) as control,
        ):  # it may have ended: its log says so
            control.connect(str(self.library / SOCKET))
            control.sendall(json.dumps({"do": "get", "lesson": LESSON}).encode() + b"\n")

    def answers(self, request: str) -> list[dict[str, Any]]:
        """What it says of itself; nothing when it is gone."""
        with contextlib.suppress(OSError, ValueError), socket.socket(socket.AF_UNIX) as control:
            control.settimeout(10.0)
            control.connect(str(self.library / SOCKET))
            control.sendall(json.dumps({"do": request}).encode() + b"\n")
            with control.makefile("rb") as lines:
                found = [json.loads(line) for line in lines]
            return [each for each in found if not each.get("end")]
        return []


def prepare(
    node: Node, published: Published, *, upload: str = "0 bit/s", wants: str = "", origins: Sequence[str] = ()
) -> None:
    """Write a node's config; `wants` replaces that it only shows the catalogue."""
    node.folder.mkdir()
    (node.folder / "edgeshare.toml").write_text(
        f"""\
origins = {json.dumps(list(origins) or [published.url])}
root = "{published.root}"
library = "library"
{wants or f'show = ["{CATALOGUE}"]'}
[schedule]
window = "always"
[shim]
listen = "127.0.0.1:8470"
[swarm]
listen = "0.0.0.0:6881"
upload = "{upload}"
dht = false
lsd = false
""",
        encoding="utf-8",
    )


def start_all(lab: Lab, nodes: Sequence[Node], *, complete: bool = False) -> None:
    """Start nodes a few at a time; returns when each has the catalogue, or the lesson.

    Raises:
        LabError: one of them does not come to it.
    """
    waiting: list[tuple[Node, float]] = []
    to_start = list(reversed(nodes))
    while to_start or waiting:
        while to_start and len(waiting) < AT_ONCE:
            node = to_start.pop()
            node.start(lab)
            waiting.append((node, time.monotonic() + READY_WITHIN_S))
        time.sleep(0.05)
        for node, deadline in list(waiting):
            node.look()
            if node.complete_at if complete else node.has_catalogue:
                waiting.remove((node, deadline))
            elif time.monotonic() > deadline or node.running is None or not node.running.is_up():
                last = node.running.last_line() if node.running else ""
                raise LabError(f"{node.name} is not ready ({last})")
