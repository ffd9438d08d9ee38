"""A publisher for tests, and a client that believes nothing: python-tuf's own, over the files of the repository."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import attrs
import libtorrent as lt
from tuf.api.exceptions import DownloadHTTPError
from tuf.api.metadata import Metadata, Targets
from tuf.ngclient import Updater
from tuf.ngclient.fetcher import FetcherInterface

from edgeshare import vocabulary
from edgeshare.catalogue import FILE_NAME, Edition, read_edition
from edgeshare.layout import read_layout
from edgeshare.library import content
from edgeshare.manifest import CatalogueManifest, InfoHash, lesson_id, read_catalogue
from edgeshare.publish.keys import Keys
from edgeshare.publish.repository import (
    Released,
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
    """A repository and its keys, each step opened and closed like a command."""

    root: Path
    keys: Path

    def init(self, publisher: str = "cned", at: datetime | None = None) -> Publisher:
        create_repository(self.root, Keys(self.keys), publisher, at or now())
        return self

    def add(self, *folders: Path) -> Staged:
        """The last of what was staged."""
        with open_repository(self.root, Keys(self.keys)) as opened:
            return [opened.add(folder, vocabulary.built_in()) for folder in folders][-1]

    def withdraw(self, lesson: str, why: str = "Une erreur page 3") -> bool:
        with open_repository(self.root, Keys(self.keys)) as opened:
            return opened.withdraw(lesson_id(lesson), why)

    def release(
        self, at: datetime | None = None, *, origins: Sequence[str] | None = None, trackers: Sequence[str] | None = None
    ) -> Released:
        with open_repository(self.root, Keys(self.keys)) as opened:
            return opened.release(at or now(), origins=origins, trackers=trackers)

    def refresh(self, at: datetime | None = None) -> Released:
        return refresh_repository(self.root, Keys(self.keys), at or now())


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
    updater.get_targetinfo("catalogue/cned/none.manifest")  # loads the publisher's role
    found: dict[str, Served] = {}
    for path in Metadata[Targets].from_file(str(metadata / "cned.json")).signed.targets:
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
