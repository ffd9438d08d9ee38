"""A small publisher in a folder, and an origin in memory that serves it, or something else in its place."""

from __future__ import annotations

import os
import re
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractContextManager
from datetime import UTC, datetime
from pathlib import Path

import attrs
import httpx
import trio
from tuf.api.metadata import Metadata, MetaFile, Snapshot, Timestamp
from tuf.api.serialization.json import JSONSerializer

from edgeshare import vocabulary
from edgeshare.manifest import LessonId, LessonManifest
from edgeshare.publish import ceremony
from edgeshare.publish.delegations import lessons_of
from edgeshare.publish.keys import Keys, public_half
from edgeshare.publish.released import Released
from edgeshare.publish.repository import (
    Repository,
    create_repository,
    open_repository,
    refresh_repository,
)
from edgeshare.signing import PublicKey

CATALOGUE = "cned/6e"


def now() -> datetime:
    return datetime.now(UTC).replace(microsecond=0)


@attrs.define
class Publisher:
    """A repository and its keys below one folder, for one of its publishers."""

    folder: Path
    name: str = "cned"

    @property
    def repository(self) -> Path:
        return self.folder / "repository"

    @property
    def keys(self) -> Keys:
        return Keys(self.folder / "keys")

    @property
    def root(self) -> Path:
        return self.repository / "metadata" / "1.root.json"

    def begin(self, at: datetime | None = None, *, offline_keys: int = 1, threshold: int = 1) -> None:
        moment = at or now()
        create_repository(self.repository, self.keys, self.name, moment, offline_keys=offline_keys, threshold=threshold)

    @classmethod
    def of_one_lesson(cls, folder: Path) -> Publisher:
        """One that has released one lesson in one catalogue."""
        publisher = cls(folder)
        publisher.begin()
        publisher.add("maths-6e-fractions", {"index.html": noise(100)})
        publisher.release()
        return publisher

    def write(self, lesson: str, files: dict[str, bytes], *, levels: str = "6e") -> Path:
        """A lesson's folder."""
        folder = self.folder / "lessons" / lesson
        for path, content in files.items():
            file = folder / path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(content)
        (folder / "lesson.toml").write_text(
            f'id = "{lesson}"\ntitle = "Une leçon"\nlanguage = "fr"\nlevels = ["{levels}"]\n'
            f'subjects = ["mathematiques"]\nlicence = "CC-BY-SA-4.0"\nstart = "{next(iter(files))}"\n'
            'description = ""\naudience = 1\n',  # nobody else: a node that knows of nobody waits for nobody
            encoding="utf-8",
        )
        return folder

    def add(self, lesson: str, files: dict[str, bytes], *, levels: str = "6e") -> LessonManifest:
        folder = self.write(lesson, files, levels=levels)
        with self._opened() as opened:
            return opened.add(folder, vocabulary.built_in()).manifest

    def withdraw(self, lesson: str, why: str) -> None:
        with self._opened() as opened:
            opened.withdraw(LessonId(lesson), why)

    def reinstate(self, lesson: str) -> None:
        """Stage the return of a withdrawn lesson; after the next release it may be added again."""
        with self._opened() as opened:
            opened.reinstate(LessonId(lesson))

    def release(self, at: datetime | None = None) -> Released:
        with self._opened() as opened:
            return opened.release(at or now())

    def refresh(self, at: datetime | None = None) -> None:
        refresh_repository(self.repository, self.keys, at or now())

    def rotate(self, role: str, at: datetime | None = None) -> None:
        """Give a role another key, and publish that; for manifests (`cned-lessons`) with all of them signed anew."""
        with self._opened() as opened:
            if role.endswith("-lessons"):
                ceremony.rotate_lesson_key(opened, self.keys, role)
                opened.release(at or now())
            else:
                ceremony.rotate(opened, self.keys, role, at or now())

    def replace_key(self, role: str, key_id: str, at: datetime | None = None) -> None:
        """Give a role a new key in place of one that is not here, and publish that."""
        with self._opened() as opened:
            ceremony.rotate(opened, self.keys, role, at or now(), key_id=key_id)

    def delegate(self, name: str, prefix: str, at: datetime | None = None) -> Publisher:
        """Another publisher in the same repository, published, with its keys in the same folder."""
        with self._opened() as opened:
            ceremony.delegate(opened, self.keys, name, prefix, at or now())
        return Publisher(self.folder, name)

    def revoke(self, name: str, why: str, at: datetime | None = None) -> None:
        """End the delegation to a publisher, and publish that."""
        with self._opened() as opened:
            ceremony.revoke_publisher(opened, name, why, at or now())

    def revoke_lesson_key(self, role: str, key_id: bytes, at: datetime | None = None) -> None:
        """Let a key for manifests (`cned-lessons`) vouch for nothing any more, and publish that; rotate it before."""
        with self._opened() as opened:
            ceremony.revoke_lesson_key(opened, role, key_id.hex(), at or now())

    def snapshot_anew(self, change: Callable[[Snapshot], None] = lambda _: None) -> None:
        """Publish the next snapshot with a `change`, and a timestamp that names it, whatever they come to say."""
        folder = self.repository / "metadata"
        timestamp = Metadata[Timestamp].from_file(str(folder / "timestamp.json"))
        version = timestamp.signed.snapshot_meta.version
        snapshot = Metadata[Snapshot].from_file(str(folder / f"{version}.snapshot.json"))
        change(snapshot.signed)
        snapshot.signed.version = version + 1
        snapshot.sign(self.keys.signer("snapshot"))
        raw = snapshot.to_bytes(JSONSerializer())
        (folder / f"{version + 1}.snapshot.json").write_bytes(raw)
        timestamp.signed.snapshot_meta = MetaFile.from_data(version + 1, raw, ["sha256"])
        timestamp.signed.version += 1
        timestamp.sign(self.keys.signer("timestamp"))
        (folder / "timestamp.json").write_bytes(timestamp.to_bytes(JSONSerializer()))

    def _opened(self) -> AbstractContextManager[Repository]:
        return open_repository(self.repository, self.keys, self.name)


def lesson_key(keys: Keys, publisher: str = "cned") -> PublicKey:
    """The public half of a publisher's first key for manifests."""
    return public_half(keys.signer(lessons_of(publisher)).public_key)


def noise(count: int) -> bytes:
    """Bytes that are the same nowhere else: no two contents of a test share an info-hash."""
    return os.urandom(count)


class Folder(httpx.AsyncBaseTransport):
    """An origin in memory: the files of a folder, whole or in part, for an `OriginClient`."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.instead: dict[str, bytes | int] = {}  # by path: other bytes, or a status
        self.asked: list[str] = []
        self.spans: list[tuple[str, int, int]] = []
        self.hold: trio.Event | None = None  # what every content waits for, when set
        self.hold_half: trio.Event | None = None  # what the second half of every part waits for, when set
        self.cancelled = 0  # fetches that their client gave up while they were held
        self.under_way = 0
        self.most_under_way = 0

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        path = httpx.URL(request.url).path.lstrip("/")
        self.asked.append(path)
        self.under_way += 1
        self.most_under_way = max(self.most_under_way, self.under_way)
        try:
            await trio.lowlevel.checkpoint()
            if self.hold is not None and path.startswith("content/"):
                await self.hold.wait()
        except trio.Cancelled:
            self.cancelled += 1
            raise
        finally:
            self.under_way -= 1
        known = self.instead.get(path)
        file = self.root / path
        if isinstance(known, int) or (known is None and not file.is_file()):
            return httpx.Response(known if isinstance(known, int) else 404, stream=Bytes(b""))
        content = known if isinstance(known, bytes) else file.read_bytes()
        if asked := re.fullmatch(r"bytes=(\d+)-(\d+)", request.headers.get("range", "")):
            start, stop = int(asked[1]), int(asked[2]) + 1
            self.spans.append((path, start, stop))
            part = {"Content-Range": f"bytes {start}-{stop - 1}/{len(content)}"}
            return httpx.Response(206, headers=part, stream=Bytes(content[start:stop], self.hold_half))
        return httpx.Response(200, stream=Bytes(content))


class Bytes(httpx.AsyncByteStream):
    """A body that has not been read yet."""

    def __init__(self, content: bytes, hold_half: trio.Event | None = None) -> None:
        self._content = content
        self._hold_half = hold_half

    async def __aiter__(self) -> AsyncIterator[bytes]:
        half = len(self._content) // 2
        yield self._content[:half]
        if self._hold_half is not None:
            await self._hold_half.wait()
        yield self._content[half:]
