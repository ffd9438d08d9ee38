"""A publisher for tests, and a client that believes nothing: python-tuf's own, over the files of the repository."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import attrs
import libtorrent as lt
import pytest
from securesystemslib.signer import Key
from tuf.api.exceptions import DownloadHTTPError
from tuf.api.metadata import Metadata, Targets
from tuf.ngclient import Updater
from tuf.ngclient.fetcher import FetcherInterface

from edgeshare import vocabulary
from edgeshare.catalogue import FILE_NAME, Edition, read_edition
from edgeshare.cli.main import main
from edgeshare.layout import read_layout
from edgeshare.library import content
from edgeshare.manifest import CatalogueManifest, InfoHash, lesson_id, read_catalogue
from edgeshare.publish import ceremony
from edgeshare.publish.countersign import Countersigned, countersign, read_document
from edgeshare.publish.keys import Keys
from edgeshare.publish.released import Released
from edgeshare.publish.repository import (
    Repository,
    Staged,
    create_repository,
    open_repository,
    refresh_repository,
)
from edgeshare.signing import PublicKey

FIELDS: Mapping[str, Any] = {
    "title": "Les fractions",
    "language": "fr",
    "levels": ["6e"],
    "subjects": ["mathematiques"],
    "description": "",
    "licence": "CC-BY-SA-4.0",
    "start": "index.html",
}


def now() -> datetime:
    """The time, as TUF writes it."""
    return datetime.now(UTC).replace(microsecond=0)


def toml(fields: Mapping[str, Any]) -> str:
    """A lesson.toml with `fields`: text, numbers and lists of text are the same in JSON."""
    return "".join(f"{key} = {json.dumps(value, ensure_ascii=False)}\n" for key, value in fields.items())


def make_lesson(folder: Path, files: Mapping[str, bytes] | None = None, **fields: Any) -> Path:
    """A lesson folder named by its id; `fields` of None are left out."""
    folder.mkdir(parents=True, exist_ok=True)
    whole = {"id": folder.name, **FIELDS, **fields}
    text = toml({key: value for key, value in whole.items() if value is not None})
    (folder / "lesson.toml").write_text(text, encoding="utf-8")
    for path, raw in (files or {"index.html": b"<h1>Les fractions</h1>", "img/a.png": bytes(20_000)}).items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(raw)
    return folder


@attrs.frozen
class Publisher:
    """A repository and keys of it, each step opened and closed like a command."""

    root: Path
    keys: Path
    name: str | None = None  # the publisher that works here; None: the only one whose keys are here

    def init(
        self, publisher: str = "cned", at: datetime | None = None, *, offline_keys: int = 1, threshold: int = 1
    ) -> Publisher:
        create_repository(
            self.root, Keys(self.keys), publisher, at or now(), offline_keys=offline_keys, threshold=threshold
        )
        return self

    def opened(self) -> AbstractContextManager[Repository]:
        return open_repository(self.root, Keys(self.keys), self.name)

    def add(self, *folders: Path) -> Staged:
        """The last of what was staged."""
        with self.opened() as opened:
            return [opened.add(folder, vocabulary.built_in()) for folder in folders][-1]

    def withdraw(self, lesson: str, why: str = "Une erreur page 3") -> bool:
        with self.opened() as opened:
            return opened.withdraw(lesson_id(lesson), why)

    def reinstate(self, lesson: str) -> None:
        with self.opened() as opened:
            opened.reinstate(lesson_id(lesson))

    def release(
        self, at: datetime | None = None, *, origins: Sequence[str] | None = None, trackers: Sequence[str] | None = None
    ) -> Released:
        with self.opened() as opened:
            return opened.release(at or now(), origins=origins, trackers=trackers)

    def refresh(self, at: datetime | None = None) -> Released:
        return refresh_repository(self.root, Keys(self.keys), at or now())

    def rotate(self, role: str, key_id: str | None = None) -> Released:
        with self.opened() as opened:
            return ceremony.rotate(opened, Keys(self.keys), role, now(), key_id=key_id)

    def rotate_lesson_key(self, role: str) -> str:
        with self.opened() as opened:
            return ceremony.rotate_lesson_key(opened, Keys(self.keys), role)

    def add_key(self, role: str, key: Key, threshold: int | None = None) -> Released:
        with self.opened() as opened:
            return ceremony.add_key(opened, role, key, now(), threshold=threshold)

    def revoke_key(self, role: str, key_id: str, threshold: int | None = None) -> Released:
        with self.opened() as opened:
            if role.endswith("-lessons"):
                return ceremony.revoke_lesson_key(opened, role, key_id, now())
            return ceremony.revoke_key(opened, role, key_id, now(), threshold=threshold)

    def delegate(self, name: str, prefix: str, public: Sequence[Key] = (), threshold: int = 1) -> Released:
        with self.opened() as opened:
            return ceremony.delegate(opened, Keys(self.keys), name, prefix, now(), public=public, threshold=threshold)

    def revoke(self, name: str, why: str = "Clé volée") -> Released:
        with self.opened() as opened:
            return ceremony.revoke_publisher(opened, name, why, now())

    def sign(self, role: str) -> Countersigned:
        """Sign the draft of a role where it lies."""
        (path,) = (self.root / ".edgeshare" / "signing").glob(f"*.{role}.json")
        return countersign(read_document(path), Keys(self.keys))

    def holds(self, *names: str) -> Publisher:
        """The same on another machine, which has only these keys; they leave this one."""
        folder = self.keys.with_name(f"{self.keys.name}-{'-'.join(names)}")
        folder.mkdir(mode=0o700)
        for name in names:
            (self.keys / f"{name}.pem").rename(folder / f"{name}.pem")
        return attrs.evolve(self, keys=folder)

    def metadata(self, role: str) -> Metadata[Any]:
        """The newest published version of a role."""
        folder = self.root / "metadata"
        if role == "timestamp":
            return Metadata.from_file(str(folder / "timestamp.json"))
        newest = max(folder.glob(f"*.{role}.json"), key=lambda path: int(path.name.split(".")[0]))
        return Metadata.from_file(str(newest))


def key_id(folder: Path, name: str) -> str:
    """The id of a key in a folder, as TUF's roles have it."""
    return Keys(folder).signer(name).public_key.keyid


def tree(root: Path) -> dict[str, tuple[int, str]]:
    """Every file below `root` with its time of change and the hash of its bytes."""
    found: dict[str, tuple[int, str]] = {}
    for folder, _, names in os.walk(root):
        for name in names:
            path = Path(folder, name)
            found[str(path.relative_to(root))] = (
                path.stat().st_mtime_ns,
                hashlib.sha256(path.read_bytes()).hexdigest(),
            )
    return found


@attrs.frozen
class Printed:
    """What a command left behind."""

    code: int
    out: str
    err: str


@attrs.frozen
class Editor:
    """Somebody at a terminal, with one repository."""

    publisher: Publisher
    capsys: pytest.CaptureFixture[str]

    def run(self, *arguments: str | Path) -> Printed:
        self.capsys.readouterr()
        code = 0
        try:
            main(["publish", *map(str, arguments)])
        except SystemExit as stop:
            code = int(stop.code or 0)
        printed = self.capsys.readouterr()
        return Printed(code, printed.out, printed.err)

    def publish(self, command: str, *arguments: str | Path) -> Printed:
        return self.run(*command.split(), self.publisher.root, *arguments, "--keys", self.publisher.keys)

    def refused(self, command: str, *arguments: str | Path) -> str:
        """The one line that a command failed with, having changed nothing."""
        before = tree(self.publisher.root) if self.publisher.root.is_dir() else {}
        printed = self.publish(command, *arguments)
        after = tree(self.publisher.root) if self.publisher.root.is_dir() else {}
        assert (printed.code, printed.out) == (1, "")
        assert printed.err.startswith("edgeshare: ")
        assert printed.err.count("\n") == 1
        assert printed.err.rstrip("\n").isprintable()
        assert after == before
        assert not list((self.publisher.root / ".edgeshare").glob("incoming/*"))
        return printed.err


@attrs.frozen
class Served:
    """One catalogue as a client gets it, everything verified."""

    manifest: CatalogueManifest
    edition: Edition
    keys: Mapping[bytes, PublicKey]

    @property
    def versions(self) -> dict[str, int]:
        return {str(lesson.manifest.id): lesson.manifest.version for lesson in self.edition.lessons}


def served(root: Path, client: Path) -> dict[str, Served]:
    """What a new node finds in the repository `root`, down to the last byte of every lesson that is listed."""
    metadata = client / "metadata"
    metadata.mkdir(parents=True, exist_ok=True)
    updater = Updater(
        metadata_dir=str(metadata),
        metadata_base_url="https://repository/metadata/",
        target_dir=str(client),
        target_base_url="https://repository/targets/",
        fetcher=_Directory(root),
        bootstrap=(root / "metadata" / "1.root.json").read_bytes(),
    )
    updater.refresh()
    found: dict[str, Served] = {}
    for path in _targets(updater, metadata):
        target = updater.get_targetinfo(path)
        assert target is not None
        raw = Path(updater.download_target(target, filepath=str(client / "target"))).read_bytes()
        listed = target.custom["edgeshare"]["lesson_keys"]
        keys = {bytes.fromhex(key): PublicKey(e["scheme"], bytes.fromhex(e["public"])) for key, e in listed.items()}
        assert all(key.id == key_id for key_id, key in keys.items())
        manifest = read_catalogue(raw, keys)
        assert path == f"catalogue/{manifest.name}.manifest"
        require_whole(root, manifest.info_hash)
        edition = read_edition(
            (root / "content" / manifest.info_hash.hex() / FILE_NAME).read_bytes(),
            manifest.name,
            manifest.edition,
            keys,
        )
        assert not edition.refused
        for lesson in edition.lessons:
            require_whole(root, lesson.manifest.info_hash)
        found[manifest.name] = Served(manifest, edition, keys)
    return found


def _targets(updater: Updater, metadata: Path) -> list[str]:
    """The targets of all publishers, whose roles the updater loads when it is asked for one of theirs."""
    delegations = Metadata[Targets].from_file(str(metadata / "targets.json")).signed.delegations
    assert delegations is not None
    found: list[str] = []
    for name in delegations.roles or {}:
        updater.get_targetinfo(f"catalogue/{name}/none.manifest")
        found += Metadata[Targets].from_file(str(metadata / f"{name}.json")).signed.targets
    return found


def require_whole(root: Path, info_hash: InfoHash) -> None:
    """Fail unless the repository serves all bytes of this content, and its torrent."""
    whole: Any = lt.bdecode((root / "torrents" / f"{info_hash.hex()}.torrent").read_bytes())
    assert hashlib.sha256(lt.bencode(whole[b"info"])).digest() == info_hash
    layout = read_layout(whole[b"info"])
    place = root / "content" / info_hash.hex()
    assert content.verify(place, layout) is not None, f"the content {place} is not whole"
    assert {str(path.relative_to(place)) for path in place.rglob("*") if path.is_file()} == set(layout.by_path)


class _Directory(FetcherInterface):
    """Files of a repository in place of an origin."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def _fetch(self, url: str) -> Iterator[bytes]:
        path = self._root / url.removeprefix("https://repository/")
        if not path.is_file():
            raise DownloadHTTPError("not there", 404)
        return iter([path.read_bytes()])
