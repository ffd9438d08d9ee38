"""A whole node in memory, and a browser that calls the shim's handler through the server's own gate."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import attrs
import h11
import pytest
import trio

from edgeshare.config import ShimConfig
from edgeshare.errors import LibraryError
from edgeshare.freshness import Freshness
from edgeshare.httpd.messages import FileBody, Request, Response, StreamBody, checked
from edgeshare.layout import FileEntry, Piece
from edgeshare.library.eviction import QuotaError, Space
from edgeshare.library.room import AT_EASE, Disk
from edgeshare.limits import UNLIMITED, Limits
from edgeshare.manifest import InfoHash, LessonId, LessonManifest
from edgeshare.refusals import RefusalNote
from edgeshare.shim.routes import Handler, shim
from edgeshare.view import Arrival, CatalogueView, LessonView, MirrorView, Need, NodeStatus, OpenLesson, Standing, State
from edgeshare.vocabulary import built_in

NOW = datetime(2026, 11, 23, 8, 0, tzinfo=UTC)  # a Monday
FRESH = Freshness(is_fresh=True, expires=NOW, role="timestamp", issued=NOW)
PAGE = b"<!doctype html><title>Fractions</title>"
FILM = bytes(range(256)) * 40


def manifest(lesson: str, **fields: Any) -> LessonManifest:
    usual: dict[str, Any] = {
        "version": 1,
        "title": lesson,
        "language": "fr",
        "levels": ("6e",),
        "subjects": ("mathematiques",),
        "description": "",
        "licence": "CC-BY-SA-4.0",
        "start": "index.html",
        "publisher": "cned",
        "info_hash": InfoHash(lesson.encode().ljust(32, b".")[:32]),
        "size": 10_000,
        "files": 1,
    }
    return LessonManifest(id=LessonId(lesson), **(usual | fields))


@attrs.define
class Content:
    """The files of a lesson, and how much of each is here; None is all, on the disk."""

    files: dict[str, bytes]
    here: dict[str, int] = attrs.field(factory=dict)
    lost: str | None = None  # why the lesson went away while it was read


@attrs.define
class NodeInMemory:
    """A node whose lessons, bytes and news come when a test says so."""

    views: dict[LessonId, LessonView] = attrs.field(factory=dict)
    contents: dict[LessonId, Content] = attrs.field(factory=dict)
    trouble: str | None = None
    needs: tuple[Need, ...] = ()
    space: Space | None = None  # what is left for more lessons, when it is too little
    disk: Disk = AT_EASE
    origin_bytes: dict[str, int] = attrs.field(factory=lambda: {"alone": 7})
    mirrors: tuple[MirrorView, ...] = ()
    limits: Limits = UNLIMITED
    freshness: Freshness = FRESH
    warning: str | None = None
    refusals: tuple[RefusalNote, ...] = ()
    issued: datetime | None = NOW - timedelta(days=3)
    more: dict[str, Any] = attrs.field(factory=dict)  # further fields of its status
    reads: Counter[LessonId] = attrs.field(factory=Counter)  # open now
    was_read: Counter[LessonId] = attrs.field(factory=Counter)  # ever
    streams: int = 0  # open now
    _changed: trio.Event = attrs.field(factory=trio.Event)

    def add(self, manifest: LessonManifest, state: State, content: Content | None = None, **fields: Any) -> None:
        self.views[manifest.id] = LessonView(manifest=manifest, state=state, **fields)
        if content is not None:
            self.contents[manifest.id] = content

    def alter(self, lesson: str, **fields: Any) -> None:
        """Change a lesson's view, and tell those who wait."""
        self.views[LessonId(lesson)] = attrs.evolve(self.views[LessonId(lesson)], **fields)
        self.tell()

    def arrive(self, lesson: str, path: str, count: int) -> None:
        """Have `count` bytes of a file here."""
        self.contents[LessonId(lesson)].here[path] = count
        self.tell()

    def tell(self) -> None:
        self._changed.set()
        self._changed = trio.Event()

    # What the shim may ask

    def lessons(self) -> tuple[LessonView, ...]:
        return tuple(view for view in self.views.values() if view.state is not State.WITHDRAWN)

    def listing(self) -> tuple[LessonManifest, ...]:
        return tuple(view.manifest for view in self.lessons())

    def lesson(self, lesson: LessonId) -> LessonView | None:
        return self.views.get(lesson)

    def standing(self) -> Standing:
        status = self.status()
        return Standing(
            freshness=self.freshness,
            trouble=self.trouble,
            issued=self.issued,
            disk=status.disk,
            needs=self.needs,
        )

    def status(self) -> NodeStatus:
        catalogue = CatalogueView(
            name="cned/6e", is_followed=True, edition=4, issued=self.issued, lessons=len(self.views)
        )
        return NodeStatus(
            version="0.1.0",
            profile="home",
            catalogues=(catalogue,),
            lessons=dict(Counter(view.state for view in self.views.values())),
            freshness=self.freshness,
            warning=self.warning,
            refusals=self.refusals,
            refused=Counter(note.refusal for note in self.refusals),
            trouble=self.trouble,
            disk=self.disk,
            origin_bytes=self.origin_bytes,
            peer_bytes=5,
            uploaded_bytes=3,
            peers=2,
            free_bytes=10**9,
            quota=20 * 2**30,
            used_bytes=2**30,
            needs=self.needs,
            mirrors=self.mirrors,
            limits=self.limits,
            **({"outside_bytes": 7} | self.more),
        )

    async def want(self, lesson: LessonId) -> None:
        raise NotImplementedError  # the shim only reads

    async def pin(self, lesson: LessonId) -> None:
        raise NotImplementedError

    async def unpin(self, lesson: LessonId) -> None:
        raise NotImplementedError

    async def take_in(self) -> tuple[Arrival, ...]:
        raise NotImplementedError

    @asynccontextmanager
    async def _read(self, lesson: LessonId) -> AsyncIterator[OpenLesson]:
        self.was_read[lesson] += 1
        self.reads[lesson] += 1
        try:
            if self.space is not None and lesson not in self.contents:
                raise QuotaError(lesson, self.views[lesson].manifest.size, self.space)
            while lesson not in self.contents:
                if self.views[lesson].state is State.FAILED:
                    raise LibraryError("no room", hint="raise the quota")
                await self.change()
            yield LessonInMemory(self, self.views[lesson].manifest, self.contents[lesson])
        finally:
            self.reads[lesson] -= 1

    def complete(self, lesson: LessonId) -> OpenLesson | None:
        view = self.views.get(lesson)
        if view is None or view.state is not State.COMPLETE:
            return None
        return LessonInMemory(self, view.manifest, self.contents[lesson])

    def read(self, lesson: LessonId) -> AbstractAsyncContextManager[OpenLesson]:
        return self._read(lesson)

    async def change(self) -> None:
        await self._changed.wait()


@attrs.frozen
class LessonInMemory:
    node: NodeInMemory
    manifest: LessonManifest
    content: Content

    @property
    def etag(self) -> str:
        return self.manifest.info_hash.hex()

    def file(self, path: str) -> FileEntry | None:
        for index, (name, content) in enumerate(self.content.files.items()):
            if name == path:
                return FileEntry(path=path, size=len(content), root=bytes(32), first=Piece(index), index=index)
        return None

    def descriptor(self, entry: FileEntry) -> int | None:
        if entry.path in self.content.here:
            return None
        descriptor = os.memfd_create("lesson")
        os.write(descriptor, self.content.files[entry.path])
        return descriptor

    async def stream(self, entry: FileEntry, start: int, stop: int) -> AsyncGenerator[bytes, None]:
        self.node.streams += 1
        try:
            while start < stop:
                if self.content.lost:
                    raise LibraryError(self.content.lost)
                here = min(stop, self.content.here[entry.path])
                if start < here:
                    yield self.content.files[entry.path][start:here]
                    start = here
                else:
                    await self.node.change()
        finally:
            self.node.streams -= 1


@attrs.frozen
class Browser:
    """Asks a handler as the server does, and reads what it answers."""

    handler: Handler

    async def get(
        self,
        target: str,
        *,
        host: str = "localhost:8470",
        method: str = "GET",
        local: tuple[str, int] = ("127.0.0.1", 8470),
        **headers: str,
    ) -> Response:
        """The response; of a header's name, `_` stands for `-`."""
        fields = [("Host", host), *((name.replace("_", "-"), value) for name, value in headers.items())]
        return await self.handler(request(target, fields, method=method, local=local))

    async def page(self, target: str, **more: Any) -> str:
        """The text of a page, with plain blanks."""
        response = await self.get(target, **{"accept": "text/html", **more})
        assert isinstance(response.body, bytes)
        return response.body.decode().replace("\u00a0", " ").replace("\u202f", " ")


def request(target: str, fields: list[tuple[str, str]], *, method: str, local: tuple[str, int]) -> Request:
    return checked(h11.Request(method=method, target=target, headers=fields), local)


async def bytes_of(response: Response) -> bytes:
    match response.body:
        case bytes(body):
            return body
        case FileBody(file=file, start=start, count=count):
            try:
                return os.pread(file.fileno(), count, start)
            finally:
                file.close()
        case StreamBody(chunks=chunks):
            async with chunks as opened:
                return b"".join([chunk async for chunk in opened])


@pytest.fixture(name="bytes_of")
def bytes_of_fixture() -> Callable[[Response], Any]:
    return bytes_of


@pytest.fixture
def node() -> NodeInMemory:
    """A node with a lesson in every state."""
    node = NodeInMemory()
    node.add(
        manifest("maths-6e-fractions", title="Les fractions", description="Partager un gâteau.", size=12_400_000),
        State.COMPLETE,
        Content({"index.html": PAGE, "film.mp4": FILM, "plan.blend": b"?", "vide.txt": b""}),
        origin_bytes={"ration": 2_400_000},
        peer_bytes=10_000_000,
    )
    node.add(
        manifest("sciences-6e-eau", title="Le cycle de l'eau", subjects=("sciences-et-technologie",)),
        State.FETCHING,
        Content({"index.html": PAGE, "film.mp4": FILM}, here={"index.html": 0, "film.mp4": 0}),
        bytes_have=4_000,
    )
    node.add(
        manifest("anglais-5e-school", title="My school", language="en", levels=("5e",), subjects=("langues-vivantes",)),
        State.LISTED,
    )
    node.add(manifest("emc-6e-droits", subjects=("emc",)), State.FAILED, reason="no room on the disk")
    node.add(manifest("maths-6e-corrige", title="Corrigé", role="teacher"), State.COMPLETE, Content({}))
    node.add(
        manifest("histoire-6e-erreur", title="Une erreur"), State.WITHDRAWN, Content({}), reason="Une date est fausse."
    )
    return node


@pytest.fixture
def handler(node: NodeInMemory) -> Handler:
    return shim(node, ShimConfig(), built_in(), hostname="salle12", now=lambda: NOW)


@pytest.fixture
def browser(handler: Handler) -> Browser:
    return Browser(handler)
