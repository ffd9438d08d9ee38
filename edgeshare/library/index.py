"""The library's index: what this node has admitted and what it holds, in SQLite.

Everything in it can be fetched again; losing it costs time, never a lesson's truth: contents are verified against
their info-hash, manifests against the keys that stand beside them.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Mapping
from pathlib import Path

import attrs
import msgpack

from edgeshare.errors import LibraryError
from edgeshare.library.content import Stamp
from edgeshare.manifest import InfoHash, LessonId
from edgeshare.signing import PublicKey

DAMAGED = "move it away: the lessons are checked and kept, the catalogue is fetched again"
VERSION = 1  # PRAGMA user_version; a higher one was written by a newer edgeshare

_SCHEMA = """
CREATE TABLE catalogues (
    name TEXT PRIMARY KEY,
    manifest BLOB NOT NULL,  -- the signed file
    content BLOB NOT NULL,   -- the edition's content file
    keys BLOB NOT NULL,      -- the lesson keys that TUF vouched for when it was admitted
    admitted_at TEXT NOT NULL
) STRICT;
CREATE TABLE torrents (
    info_hash BLOB PRIMARY KEY,
    info BLOB NOT NULL,      -- the info dict
    resume BLOB,             -- libtorrent's resume data
    stamps BLOB,             -- one for each file; set means complete: verified, and flushed to the disk
    origin_bytes INTEGER NOT NULL DEFAULT 0,
    peer_bytes INTEGER NOT NULL DEFAULT 0
) STRICT;
CREATE TABLE lessons (
    id TEXT PRIMARY KEY,
    wanted INTEGER NOT NULL DEFAULT 0,  -- asked for by name, whatever is followed
    served BLOB,                        -- the signed manifest of the complete version
    keys BLOB
) STRICT;
"""


@attrs.frozen(kw_only=True)
class StoredCatalogue:
    """A catalogue as it was admitted."""

    name: str
    manifest: bytes
    content: bytes
    keys: Mapping[bytes, PublicKey]
    admitted_at: str  # RFC 3339, UTC


@attrs.frozen(kw_only=True)
class StoredTorrent:
    """What is known of one content."""

    info_hash: InfoHash
    info: bytes
    resume: bytes | None
    stamps: tuple[Stamp, ...] | None
    origin_bytes: int
    peer_bytes: int


@attrs.frozen(kw_only=True)
class StoredLesson:
    """What somebody asked for, and what is served of it."""

    id: LessonId
    wanted: bool
    served: bytes | None
    keys: Mapping[bytes, PublicKey]


class Index:
    """The index file; its methods block, and one thread at a time may be inside."""

    def __init__(self, path: Path) -> None:
        """Open the index at `path`, made when there is none.

        Raises:
            LibraryError: a newer edgeshare wrote it, or it cannot be read.
        """
        with contextlib.ExitStack() as closing:
            try:
                self._db = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
                closing.callback(self._db.close)
                (version,) = self._db.execute("PRAGMA user_version").fetchone()
                if version > VERSION:
                    what = f"the library {path.parent} was written by a newer edgeshare"
                    raise LibraryError(what, hint="install that one")
                self._db.execute("PRAGMA journal_mode = WAL")
                self._db.execute("PRAGMA synchronous = FULL")
                if version == 0:
                    self._db.executescript(f"BEGIN; {_SCHEMA} PRAGMA user_version = {VERSION}; COMMIT;")
            except sqlite3.Error as error:
                raise LibraryError(f"the index {path} cannot be read ({error})", hint=DAMAGED) from error
            closing.pop_all()

    def close(self) -> None:
        """Close the file; what was stored is on the disk already."""
        self._db.close()

    def catalogues(self) -> list[StoredCatalogue]:
        """Every admitted catalogue."""
        rows = self._db.execute("SELECT name, manifest, content, keys, admitted_at FROM catalogues ORDER BY name")
        return [
            StoredCatalogue(name=name, manifest=manifest, content=content, keys=_keys(keys), admitted_at=at)
            for name, manifest, content, keys, at in rows
        ]

    def admit(self, catalogue: StoredCatalogue) -> None:
        """Keep an edition in place of the one before."""
        self._db.execute(
            "INSERT OR REPLACE INTO catalogues VALUES (?, ?, ?, ?, ?)",
            (
                catalogue.name,
                catalogue.manifest,
                catalogue.content,
                _packed_keys(catalogue.keys),
                catalogue.admitted_at,
            ),
        )

    def torrents(self) -> list[StoredTorrent]:
        """Everything that is held, whole or in part."""
        rows = self._db.execute("SELECT info_hash, info, resume, stamps, origin_bytes, peer_bytes FROM torrents")
        return [
            StoredTorrent(
                info_hash=InfoHash(info_hash),
                info=info,
                resume=resume,
                stamps=_stamps(stamps),
                origin_bytes=origin,
                peer_bytes=peers,
            )
            for info_hash, info, resume, stamps, origin, peers in rows
        ]

    def put_torrent(self, torrent: StoredTorrent) -> None:
        """Keep all that is known of one content."""
        stamps = None if torrent.stamps is None else msgpack.packb([attrs.astuple(each) for each in torrent.stamps])
        self._db.execute(
            "INSERT OR REPLACE INTO torrents VALUES (?, ?, ?, ?, ?, ?)",
            (torrent.info_hash, torrent.info, torrent.resume, stamps, torrent.origin_bytes, torrent.peer_bytes),
        )

    def drop_torrent(self, info_hash: InfoHash) -> None:
        """Forget one content."""
        self._db.execute("DELETE FROM torrents WHERE info_hash = ?", (info_hash,))

    def lessons(self) -> list[StoredLesson]:
        """What was asked for by name, and what is served."""
        rows = self._db.execute("SELECT id, wanted, served, keys FROM lessons")
        return [
            StoredLesson(id=LessonId(id_), wanted=bool(wanted), served=served, keys=_keys(keys) if keys else {})
            for id_, wanted, served, keys in rows
        ]

    def put_lesson(self, lesson: StoredLesson) -> None:
        """Keep what is asked for and served of one lesson."""
        self._db.execute(
            "INSERT OR REPLACE INTO lessons VALUES (?, ?, ?, ?)",
            (lesson.id, int(lesson.wanted), lesson.served, _packed_keys(lesson.keys)),
        )

    def drop_lesson(self, lesson: LessonId) -> None:
        """Forget one lesson."""
        self._db.execute("DELETE FROM lessons WHERE id = ?", (lesson,))


def _packed_keys(keys: Mapping[bytes, PublicKey]) -> bytes:
    packed = msgpack.packb([[key.scheme, key.public] for key in keys.values()])
    assert isinstance(packed, bytes)
    return packed


def _keys(packed: bytes) -> dict[bytes, PublicKey]:
    """The keys in a row; none when it is damaged, and then nothing in it is vouched for."""
    try:
        keys = [PublicKey(str(scheme), bytes(public)) for scheme, public in msgpack.unpackb(packed)]
    except (ValueError, TypeError):
        return {}
    return {key.id: key for key in keys}


def _stamps(packed: bytes | None) -> tuple[Stamp, ...] | None:
    """The stamps in a row; None, for a content to be checked, when it has none or is damaged."""
    try:
        return None if packed is None else tuple(Stamp(*map(int, each)) for each in msgpack.unpackb(packed))
    except (ValueError, TypeError):
        return None
