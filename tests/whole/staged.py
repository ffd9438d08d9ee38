"""The shim's own handler and server, in a thread, before a node in memory: every state that a page can show, at once.

What a real daemon does to get there is tested beside it; a browser cannot tell the two apart.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import attrs
import trio

from edgeshare.config import ShimConfig
from edgeshare.hours import Opening
from edgeshare.httpd.server import listen, serve
from edgeshare.library.eviction import Space
from edgeshare.refusals import Refusal, RefusalNote
from edgeshare.shim.routes import may_wait, shim
from edgeshare.shim.tally import Tally
from edgeshare.view import MirrorView, Need, Obstacle, State
from edgeshare.vocabulary import built_in
from tests.shim.conftest import Content, NodeInMemory, manifest

LESSON = b"""<!doctype html><html lang="fr"><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>Les fractions</title><h1>Les fractions</h1><p>Partager un g\xc3\xa2teau."""


@attrs.frozen
class Stage:
    """A node in memory that browsers reach."""

    node: NodeInMemory
    port: int
    _token: trio.lowlevel.TrioToken

    @property
    def home(self) -> str:
        return f"http://localhost:{self.port}/"

    @contextmanager
    def full_disk(self) -> Iterator[None]:
        """While this lasts there is no room for a lesson that is not here."""
        self.do(setattr, self.node, "space", Space(quota=10, free=10, keep_free=0, to_come=0))
        yield
        self.do(setattr, self.node, "space", None)

    def do(self, step: Callable[..., object], *arguments: object, **fields: Any) -> None:
        """Have something happen to the node, in its own thread."""
        trio.from_thread.run_sync(lambda: step(*arguments, **fields), trio_token=self._token)


def node_in_every_state() -> NodeInMemory:
    """Lessons in every state, needs, a mirror set aside, an origin that is away."""
    now = datetime.now(UTC)
    node = NodeInMemory()

    def add(name: str, title: str, state: State, content: Content | None = None, **fields: Any) -> None:
        about = {
            key: fields.pop(key) for key in ("language", "needed_at", "role", "levels", "subjects") if key in fields
        }
        described = "Une leçon pour apprendre à partager un gâteau sans se disputer."
        node.add(manifest(name, title=title, description=described, **about), state, content, **fields)

    whole = Content({"index.html": LESSON})
    add("maths-6e-fractions", "Les fractions", State.COMPLETE, whole, peer_bytes=9_200, origin_bytes={"alone": 800})
    add("sciences-6e-eau", "Le cycle de l’eau", State.FETCHING, Content({"index.html": LESSON}, {"index.html": 0}),
        bytes_have=4_000, peer_bytes=4_000, subjects=("sciences-et-technologie",))  # fmt: skip
    add("anglais-5e-school", "My school", State.LISTED, language="en", levels=("5e",), subjects=("langues-vivantes",))
    add("emc-6e-droits", "Droits et devoirs", State.FAILED, subjects=("emc",), reason="it needs more than the quota")
    add("francais-6e-conte", "Le conte", State.WAITING, subjects=("francais",), obstacle=Obstacle.NOBODY, reason="x")
    add("maths-6e-angles", "Les angles", State.WAITING, obstacle=Obstacle.LATER, needed_at=now + timedelta(minutes=1))
    add("maths-6e-corrige", "Corrigé", State.COMPLETE, whole, role="teacher")
    add("histoire-6e-erreur", "Une erreur", State.WITHDRAWN, reason="Une date est fausse.")
    node.needs = (Need(at=now + timedelta(hours=20), lessons=3, ready=2),)
    node.trouble = "no origin answers"
    node.mirrors = (
        MirrorView(name="https://lecons.example.fr/", is_aside=False),
        MirrorView(name="https://miroir.example.org/", is_aside=True, until=now, reason="it answers 500"),
    )
    node.refusals = (RefusalNote(at=now, refusal=Refusal.OLDER, what="timestamp.json is refused, it is older"),)
    node.more = {
        "started": now,
        "served_bytes": {"library": 84_000_000, "swarm": 5_000, "pages": 90_000},
        "served_this_month": 84_000_000_000,
        "outside_bytes": 7_500_000_000,
        "readers": 21,
        "opening": Opening(now + timedelta(hours=8), now + timedelta(hours=18)),
    }
    return node


@contextmanager
def on_stage(node: NodeInMemory) -> Iterator[Stage]:
    """The node behind a port of 127.0.0.1, while the context lasts."""
    ready: queue.Queue[tuple[int, trio.lowlevel.TrioToken, trio.CancelScope]] = queue.Queue()

    async def run() -> None:
        listeners = await listen("127.0.0.1", 0)
        tally = Tally()
        with trio.CancelScope() as scope:
            port = listeners[0].socket.getsockname()[1]
            ready.put((port, trio.lowlevel.current_trio_token(), scope))
            handler = shim(node, ShimConfig(), built_in(), hostname="salle12")
            await serve(handler, tally.counting(listeners), on_done=tally.done, may_wait=may_wait(node))

    thread = threading.Thread(target=trio.run, args=(run,))
    thread.start()
    port, token, scope = ready.get(timeout=20)
    try:
        yield Stage(node, port, token)
    finally:
        trio.from_thread.run_sync(scope.cancel, trio_token=token)
        thread.join()
