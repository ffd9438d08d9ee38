"""A keeper at work on this machine, and editions for it that are signed by hand, also such as no tool would make."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import attrs
import trio
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from edgeshare.catalogue import FILE_NAME, Edition, Reinstatement, SignedLesson, Withdrawal, encode_edition
from edgeshare.config import CatalogueName, Config, SwarmConfig
from edgeshare.holding import Holding
from edgeshare.keeper import Keeper
from edgeshare.manifest import CatalogueManifest, LessonId, LessonManifest, encode, format_of
from edgeshare.parts import Parts
from edgeshare.signing import PublicKey
from edgeshare.trust import Trust, Vouched
from edgeshare.view import State
from tests.core.samples import PRIVATE, sign
from tests.support.content import Content, content
from tests.support.node import Origin, parts
from tests.support.server import Tracker, serving

FRACTIONS = LessonId("fractions")
ISSUED = datetime(2026, 11, 24, 7, tzinfo=UTC)


class Desk:
    """Where one publisher's editions are signed, with one key for all its manifests."""

    def __init__(self, origin: Origin, publisher: str = "cned", private: Ed25519PrivateKey = PRIVATE) -> None:
        self.key = PublicKey("ed25519", private.public_key().public_bytes_raw())
        self._origin = origin
        self._publisher = publisher
        self._private = private

    def publish(self, thing: Content, lesson: str = "fractions", **fields: Any) -> SignedLesson:
        """The lesson's manifest; its content is at the origin."""
        self._origin.publish(thing)
        return self.sign(thing, lesson, **fields)

    def sign(self, thing: Content, lesson: str = "fractions", **fields: Any) -> SignedLesson:
        usual: dict[str, Any] = {
            "version": 1,
            "title": lesson,
            "language": "fr",
            "levels": ("6e",),
            "subjects": ("mathematiques",),
            "description": "",
            "licence": "CC-BY-SA-4.0",
            "start": "index.html",
            "publisher": self._publisher,
            "info_hash": thing.info_hash,
            "size": thing.size,
            "files": len(thing.files),
            "audience": 1,
        }
        manifest = LessonManifest(id=LessonId(lesson), **(usual | fields))
        return SignedLesson(manifest, self._sign(manifest))

    def edition(
        self,
        *lessons: SignedLesson,
        number: int = 1,
        level: str = "6e",
        gone: tuple[str, ...] = (),
        back: tuple[str, ...] = (),
        body: bytes = b"",
        keys: tuple[PublicKey, ...] = (),
    ) -> Vouched:
        """An edition, its content at the origin; `keys` are vouched for besides the desk's own."""
        name = f"{self._publisher}/{level}"
        edition = Edition(
            name=name,
            number=number,
            lessons=lessons,
            withdrawn=tuple(Withdrawal(id=LessonId(each), why="une erreur", since=number) for each in gone),
            reinstated=tuple(Reinstatement(id=LessonId(each), since=number) for each in back),
        )
        whole = content({FILE_NAME: body or encode_edition(edition)}, name=name.replace("/", "-"))
        self._origin.publish(whole)
        manifest = CatalogueManifest(
            name=name, edition=number, info_hash=whole.info_hash, size=whole.size, issued=ISSUED
        )
        keys = (self.key, *keys)
        return Vouched(manifest=manifest, raw=self._sign(manifest), keys={key.id: key for key in keys})

    def _sign(self, manifest: LessonManifest | CatalogueManifest) -> bytes:
        return sign(format_of(manifest), encode(manifest), self._private)


@attrs.define
class Node:
    """A keeper at work, and how it hears of news."""

    keeper: Keeper = attrs.field(init=False)
    parts: Parts
    trust: Trust
    ahead: timedelta = timedelta(0)  # of the true time
    is_metered: bool = False

    def now(self) -> datetime:
        """The time by the node's clock."""
        return datetime.now(UTC) + self.ahead

    def later(self, **ahead: float) -> None:
        """Set the node's clock ahead."""
        self.ahead = timedelta(**ahead)

    async def hear(self, *names: str) -> None:
        """Ask the origin what is newest, and admit it."""
        refreshed = await self.trust.refresh(names or ("cned/6e",))
        await self.keeper.heed(refreshed.publishers, refreshed.catalogues)
        for vouched in refreshed.catalogues.values():
            await self.keeper.admit(vouched)

    async def until(self, state: State, lesson: LessonId = FRACTIONS, *, version: int = 1) -> None:
        """Wait until a lesson's shown version is in `state`."""
        shown = self.keeper.display.lesson
        while not (view := shown(lesson)) or (view.state, view.manifest.version) != (state, version):
            with trio.move_on_after(0.2):
                await self.keeper.change()

    async def until_gone(self, thing: Content) -> None:
        """Wait until nothing of a content is on the disk any more."""
        while thing.info_hash.hex() in self.contents():
            with trio.move_on_after(0.2):
                await self.keeper.change()

    async def text(self, path: str = "index.html", lesson: LessonId = FRACTIONS) -> bytes:
        """A file of a lesson, as a reader gets it."""
        async with self.keeper.read(lesson) as opened:
            entry = opened.file(path)
            assert entry
            async with aclosing(opened.stream(entry, 0, entry.size)) as portions:
                return b"".join([portion async for portion in portions])

    def holding(self, lesson: LessonId) -> Holding:
        """What becomes of the content of a lesson's shown version."""
        view = self.keeper.display.lesson(lesson)
        assert view
        (found,) = (held for held in self.keeper._holdings if held.info_hash == view.manifest.info_hash)
        return found

    def contents(self) -> set[str]:
        """The contents whose files are on the disk, in hex."""
        return {path.name for path in (self.parts.library.root / "content").iterdir()}


def config(library: Path, **fields: Any) -> Config:
    usual: dict[str, Any] = {"follow": (CatalogueName("cned/6e"),)}
    return Config(origins=("http://origin.example/",), root=library / "root.json", library=library, **(usual | fields))


@asynccontextmanager
async def keeping(library: Path, origin: Origin, root: bytes = b"", **fields: Any) -> AsyncIterator[Node]:
    """A keeper on the library in `library`; by its tracker's word it is alone, so that it waits for nobody."""
    async with serving(Tracker(1)) as asked, parts(library, origin) as mine, trio.open_nursery() as nursery:
        swarm = attrs.evolve(fields.pop("swarm", SwarmConfig()), trackers=(f"{asked.url}announce",))
        node = Node(mine, Trust(library / "trust", root, mine.origins))
        asked_for = config(library, swarm=swarm, **fields)
        node.keeper = Keeper(mine, asked_for, node.now, is_metered=lambda: node.is_metered)
        await nursery.start(node.keeper.run)
        yield node
        nursery.cancel_scope.cancel()
