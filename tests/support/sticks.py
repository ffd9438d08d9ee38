"""Libraries that lessons are exported from, sticks in folders, and libraries that they are imported into."""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import attrs

from edgeshare.bundle.arrival import Arrivals
from edgeshare.bundle.choice import lesson_of, metadata_of
from edgeshare.bundle.form import FOLDER, PART
from edgeshare.bundle.intake import Bounds, Intake, Outcome, Seen, incoming
from edgeshare.bundle.known import Known, is_library, known
from edgeshare.bundle.outgo import writing
from edgeshare.bundle.stick import Stick, bundle_in
from edgeshare.library.index import Index
from edgeshare.manifest import InfoHash, LessonId
from edgeshare.view import State
from tests.support.keeping import Node, keeping
from tests.support.node import Origin, complete
from tests.support.publisher import CATALOGUE, Publisher

LESSONS = {
    "fractions": {
        "index.html": b"<h1>Les fractions</h1>",
        "leçon/énoncé.html": b"<p>1/2</p>",  # a name that not every stick keeps
        "video.bin": bytes(range(256)) * 800,
        "vide.txt": b"",
    },
    "angles": {"index.html": b"<h1>Les angles</h1>"},
}


@attrs.frozen
class School:
    """A publisher, and a library that has all its lessons, below one folder."""

    folder: Path

    @property
    def publisher(self) -> Publisher:
        return Publisher(self.folder / "cned")

    @property
    def library(self) -> Path:
        return self.folder / "library"

    @property
    def root(self) -> bytes:
        return self.publisher.root.read_bytes()

    def publish(self) -> None:
        """Begin, with two lessons."""
        self.publisher.begin()
        for lesson, files in LESSONS.items():
            self.publisher.add(lesson, files)
        self.publisher.release()

    async def hear(self) -> None:
        """Have the library fetch what is newest, all of it."""
        origin = Origin()
        origin.repository = self.publisher.repository
        async with keeping(self.library, origin, self.root) as node:
            await node.hear()
            for view in node.keeper.display.lessons():
                await node.until(State.COMPLETE, view.manifest.id, version=view.next_version or view.manifest.version)
            for held in list(node.keeper._holdings):  # catalogues too: in a copy, all files are looked at again
                await complete(held)

    def forget(self, lesson: str) -> None:
        """Have the library no longer hold a lesson that its catalogue lists."""
        content = self.content(lesson)
        index = Index(self.library / "index.sqlite")
        index.drop_torrent(content)
        index.drop_lesson(LessonId(lesson))
        index.close()
        shutil.rmtree(self.library / "content" / content.hex())

    def content(self, lesson: str) -> InfoHash:
        """The content of a lesson's newest version."""
        here = known(self.library)
        (found,) = (
            each.manifest.info_hash
            for each in here.memory.admitted[CATALOGUE].edition.lessons
            if each.manifest.id == lesson
        )
        return found

    def export(self, stick: Path, *lessons: str, part: int = PART) -> list[str]:
        """Write lessons, by default all, to a stick; what is said of those that go."""
        here = known(self.library)
        published = metadata_of(here, datetime.now(UTC))
        chosen = [lesson_of(here, published, lesson) for lesson in lessons or LESSONS]
        stick.mkdir(exist_ok=True)
        with writing(self.library, stick, part=part) as out:
            out.require_room(chosen)
            gone = out.write_metadata(published, chosen, here)
            for each in chosen:
                out.write(each, lambda count: None)
            out.finish(here)
        return list(gone)

    def copy(self, folder: Path) -> School:
        """Another of the same, to be altered."""
        shutil.copytree(self.folder, folder, symlinks=True)
        return School(folder)


async def copied(
    stick: Path,
    library: Path,
    root: bytes | None,
    shown: Collection[str] | None = (CATALOGUE,),
    bounds: Bounds | None = None,
) -> tuple[Seen, dict[str, Outcome]]:
    """Copy what is on a stick for a library; its daemon does not hear of it."""
    with incoming(library) as folder:
        here = known(library) if is_library(library) else Known()
        work = Intake(Stick(bundle_in(stick)), folder, here, bounds)
        seen = await work.look(root, shown)
        outcomes = [each if isinstance(each, Outcome) else work.take(each) for each in work.chosen(seen)]
    return seen, {each.lesson: each for each in outcomes}


@asynccontextmanager
async def alone(library: Path, root: bytes, **fields: Any) -> AsyncIterator[tuple[Node, Arrivals]]:
    """A node whose origin has nothing, and what takes in what is brought to it."""
    async with keeping(library, Origin(), root, **fields) as node:
        yield node, Arrivals(node.parts.library, node.trust, node.keeper, lambda: (CATALOGUE,))


def bundle(stick: Path) -> Path:
    """The bundle on a stick."""
    return stick / FOLDER


def files_of(folder: Path) -> dict[str, bytes]:
    """Every file below a folder."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
