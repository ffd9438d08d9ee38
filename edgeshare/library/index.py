"""The library's index: what this node has admitted, what it remembers and what it holds, in SQLite.

Nearly everything in it can be fetched again; losing it costs time, never a lesson's truth: contents are verified
against their info-hash, manifests against the keys that stand beside them. `ledger.py` has it know the SHA-256 of each
edition of which that was done, with those keys, and does not do it again for the same bytes. Forgotten for good is only
what earlier editions withdrew and the newest ones are silent about. What becomes of a damaged one, `recovery.py` says.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Generator, Iterable, Mapping, Sequence
from datetime import date
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Any

import attrs
import msgpack

from edgeshare import host
from edgeshare.admission import Changes, Gone, Memory, Version
from edgeshare.canonical import pack, unpack
from edgeshare.errors import LibraryError, ManifestError
from edgeshare.library.content import Stamp
from edgeshare.manifest import MAX_MANIFEST, InfoHash, LessonId, LessonManifest, encode, structure
from edgeshare.publishers import Delegation, Publishers
from edgeshare.signing import PublicKey

VERSION = 3  # PRAGMA user_version; a higher one was written by a newer edgeshare

# By the version that they bring an index to: a new one goes through all of them.
_STEPS: Mapping[int, str] = {
    1: """
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
""",
    2: """
ALTER TABLE catalogues ADD COLUMN epoch TEXT;  -- of the publisher's keys when it was admitted; NULL: not known then
ALTER TABLE lessons ADD COLUMN epoch TEXT;     -- likewise, of what vouched for the served version
CREATE TABLE publishers (
    one INTEGER PRIMARY KEY CHECK (one = 1),
    packed BLOB NOT NULL     -- what the newest metadata said of them
) STRICT;
CREATE TABLE withdrawals (
    lesson TEXT NOT NULL,
    by TEXT NOT NULL,        -- the catalogue that withdrew it, or the publisher that was revoked, or a key of which was
    why TEXT NOT NULL,
    since INTEGER NOT NULL,  -- the edition
    epoch TEXT,
    manifest BLOB,           -- what is signed in a manifest, to name it to readers
    PRIMARY KEY (lesson, by)
) STRICT;
CREATE TABLE versions (
    lesson TEXT PRIMARY KEY,
    number INTEGER NOT NULL, -- of the version that was admitted last
    digest BLOB NOT NULL,    -- of what was signed
    publisher TEXT NOT NULL,
    epoch TEXT
) STRICT;
""",
    3: """
ALTER TABLE lessons ADD COLUMN pinned INTEGER NOT NULL DEFAULT 0;  -- stays, whatever the quota says
ALTER TABLE lessons ADD COLUMN used_on TEXT;  -- the last day on which it came or was read, ISO 8601; nobody's name
ALTER TABLE torrents ADD COLUMN torrent BLOB;  -- the .torrent with its piece layers, where a bundle brought it
CREATE TABLE traffic (
    month TEXT PRIMARY KEY,  -- like 2026-11
    bytes INTEGER NOT NULL   -- over the link to the outside, in both directions
) STRICT;
CREATE TABLE facts (
    name TEXT PRIMARY KEY,
    value TEXT NOT NULL
) STRICT;
INSERT INTO facts VALUES ('since', date('now'));  -- since when it misses nothing: it was made then, or mended
""",
}
# Where nothing is to be lost first.
TABLES = ("withdrawals", "publishers", "versions", "lessons", "catalogues", "torrents", "traffic", "facts")
_TORRENTS = "SELECT info_hash, info, resume, stamps, origin_bytes, peer_bytes, torrent FROM torrents"
_IN_MEMORY = Path(":memory:")
# What SQLite says of a file that is torn, or cannot be read where it lies. Our statements are right: where one of them
# is an error, the tables are not those that the version promises.
_DAMAGE = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_ERROR)
_UNREADABLE = (sqlite3.SQLITE_IOERR_READ, sqlite3.SQLITE_IOERR_SHORT_READ)


class IndexDamaged(LibraryError):
    """The index's file is no index, or not a whole one."""


class IndexUnwritable(LibraryError):
    """The disk refuses what an open index needs: it is full, read-only, failing or another user's."""


@attrs.frozen(kw_only=True)
class StoredCatalogue:
    """A catalogue as it was admitted."""

    name: str
    manifest: bytes
    content: bytes
    keys: Mapping[bytes, PublicKey]
    admitted_at: str  # RFC 3339, UTC
    epoch: str | None = None  # of its publisher's keys; None: not known


@attrs.frozen(kw_only=True)
class StoredTorrent:
    """What is known of one content."""

    info_hash: InfoHash
    info: bytes
    resume: bytes | None
    stamps: tuple[Stamp, ...] | None
    origin_bytes: int
    peer_bytes: int
    torrent: bytes | None = None  # the .torrent with its piece layers, where a bundle brought it


@attrs.frozen(kw_only=True)
class StoredLesson:
    """What somebody asked for, and what is served of it."""

    id: LessonId
    wanted: bool
    served: bytes | None
    keys: Mapping[bytes, PublicKey]
    epoch: str | None = None  # of its publisher's keys; None: not known
    pinned: bool = False  # stays, whatever the quota says
    used_on: date | None = None  # the last day on which it came, or somebody read it


class Index:
    """The index file; its methods block, and one thread at a time may be inside."""

    def __init__(self, path: Path) -> None:
        """Open the index at `path`, made when there is none, and look through all of it.

        Raises:
            IndexDamaged: it is none, or not whole.
            IndexUnwritable: the disk refuses.
            LibraryError: a newer edgeshare wrote it.
        """
        self.path = path
        if path != _IN_MEMORY and path.exists() and not path.is_file():
            raise IndexDamaged(f"the index {path} is no file")
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
                self._check(version)
                for step in range(version + 1, VERSION + 1):
                    self._db.executescript(f"BEGIN; {_STEPS[step]} PRAGMA user_version = {step}; COMMIT;")
                for table in TABLES:
                    self._db.execute(f"SELECT * FROM {table} LIMIT 0")  # noqa: S608 - our own words
            except sqlite3.Error as error:
                if is_damage(error):
                    raise IndexDamaged(f"the index {path} is damaged ({error})") from error
                hint = "is its disk full, read-only, or another user's?"
                raise IndexUnwritable(f"the index {path} cannot be opened ({error})", hint=hint) from error
            closing.pop_all()
        self._place = self._places()

    @classmethod
    def in_memory(cls) -> Index:
        """An empty index that is gone when it is closed: for a disk that cannot be written."""
        return cls(_IN_MEMORY)

    @property
    def is_kept(self) -> bool:
        """Whether what it is given lasts."""
        return self.path != _IN_MEMORY

    @property
    def is_in_place(self) -> bool:
        """Whether its files are still those that it opened: what is written to a deleted file is lost at the end."""
        return not self.is_kept or self._places() == self._place

    def close(self) -> None:
        """Close the file; what was stored is on the disk already."""
        self._db.close()

    def interrupt(self) -> None:
        """Have a copy that is being made fail soon; the one method that another thread may call meanwhile."""
        self._db.interrupt()

    def copy_to(self, path: Path) -> None:
        """Have all that it knows in the file `path`, on the disk when this returns; the file before stands until then.

        Raises:
            sqlite3.Error, OSError: it cannot be written.
        """
        draft = path.with_name(f".{path.name}.part")
        try:
            draft.unlink(missing_ok=True)
            self._db.execute("VACUUM INTO ?", (str(draft),))  # which does not flush what it writes
            host.sync_file(draft)
            draft.replace(path)
        except BaseException:
            with contextlib.suppress(OSError):
                draft.unlink(missing_ok=True)
            raise
        host.sync_folder(path.parent)

    def rows_into(self, table: str, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> int:
        """Take up rows that were read elsewhere, those whose key is new here; how many they were.

        One that does not fit is left out: it is not what was written.
        """
        marks = ", ".join("?" * len(columns))
        statement = f"INSERT OR IGNORE INTO {table} ({', '.join(columns)}) VALUES ({marks})"  # noqa: S608 - our own words
        taken = 0
        with self._transaction():
            for row in rows:
                with contextlib.suppress(sqlite3.IntegrityError, sqlite3.DataError, UnicodeEncodeError):
                    taken += self._db.execute(statement, row).rowcount
        return taken

    def columns(self, table: str) -> frozenset[str]:
        """The names of a table's columns."""
        return frozenset(row[1] for row in self._db.execute(f"PRAGMA table_info({table})"))

    def _check(self, version: int) -> None:
        """Look through the whole file: a page that is torn should not be found on the day when it is needed."""
        (found,) = self._db.execute("PRAGMA quick_check(1)").fetchone()
        if version < 0 or found != "ok":
            raise IndexDamaged(f"the index {self.path} is damaged ({found.splitlines()[-1]})")

    def _places(self) -> tuple[int, ...]:
        """What names the files that it opened; 0 for one that is not there."""
        return tuple(_inode(Path(f"{self.path}{suffix}")) for suffix in ("", "-wal"))

    def catalogues(self) -> list[StoredCatalogue]:
        """Every admitted catalogue."""
        columns = "name, manifest, content, keys, admitted_at, epoch"
        rows = self._db.execute(f"SELECT {columns} FROM catalogues ORDER BY name")  # noqa: S608 - our own words
        return [
            StoredCatalogue(
                name=name, manifest=manifest, content=content, keys=_keys(keys), admitted_at=at, epoch=epoch
            )
            for name, manifest, content, keys, at, epoch in rows
        ]

    def publishers(self) -> Publishers | None:
        """What the newest metadata said of publishers; None when none has come yet, or it is damaged."""
        row = self._db.execute("SELECT packed FROM publishers").fetchone()
        return _publishers(row[0]) if row else None

    def gone(self) -> list[Gone]:
        """What was withdrawn or taken back, and has not come back."""
        rows = self._db.execute("SELECT lesson, by, why, since, epoch, manifest FROM withdrawals")
        return [
            Gone(id=LessonId(lesson), by=by, why=why, since=since, epoch=epoch, lesson=_lesson(manifest))
            for lesson, by, why, since, epoch, manifest in rows
        ]

    def versions(self) -> dict[LessonId, Version]:
        """The version of each lesson that was admitted last."""
        rows = self._db.execute("SELECT lesson, number, digest, publisher, epoch FROM versions")
        return {
            LessonId(lesson): Version(number=number, digest=digest, publisher=publisher, epoch=epoch)
            for lesson, number, digest, publisher, epoch in rows
        }

    def memory(self) -> Memory:
        """What is remembered besides the catalogues and the lessons."""
        gone = {(each.id, each.by): each for each in self.gone()}
        return Memory(publishers=self.publishers(), gone=gone, versions=self.versions())

    def admit(self, catalogue: StoredCatalogue, changes: Changes | None = None) -> None:
        """Keep an edition in place of the one before, and what it changes besides."""
        with self._transaction():
            self._db.execute(
                "INSERT OR REPLACE INTO catalogues (name, manifest, content, keys, admitted_at, epoch)"
                " VALUES (?, ?, ?, ?, ?, ?)",
                (
                    catalogue.name,
                    catalogue.manifest,
                    catalogue.content,
                    _packed_keys(catalogue.keys),
                    catalogue.admitted_at,
                    catalogue.epoch,
                ),
            )
            self._change(changes or Changes())

    def heed(self, changes: Changes) -> None:
        """Keep what the newest metadata says of publishers, and what follows from it."""
        with self._transaction():
            self._change(changes)

    def _change(self, changes: Changes) -> None:
        db = self._db
        db.executemany("DELETE FROM catalogues WHERE name = ?", [(name,) for name in changes.forgotten])
        if changes.publishers is not None:
            db.execute("INSERT OR REPLACE INTO publishers VALUES (1, ?)", (_packed_publishers(changes.publishers),))
        db.executemany("DELETE FROM withdrawals WHERE lesson = ? AND by = ?", changes.back)
        db.executemany(
            "INSERT OR REPLACE INTO withdrawals VALUES (?, ?, ?, ?, ?, ?)",
            [
                (gone.id, gone.by, gone.why, gone.since, gone.epoch, encode(gone.lesson) if gone.lesson else None)
                for gone in changes.gone
            ],
        )
        db.executemany(
            "INSERT OR REPLACE INTO versions VALUES (?, ?, ?, ?, ?)",
            [
                (lesson, version.number, version.digest, version.publisher, version.epoch)
                for lesson, version in changes.versions.items()
            ],
        )

    @contextlib.contextmanager
    def _transaction(self) -> Generator[None, None, None]:
        """All that is done inside is on the disk afterwards; after an error, or a kill, nothing of it."""
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield
            self._db.execute("COMMIT")
        except BaseException:
            if self._db.in_transaction:  # SQLite itself rolls back on a full disk
                self._db.execute("ROLLBACK")
            raise

    def torrents(self) -> list[StoredTorrent]:
        """Everything that is held, whole or in part."""
        return [_torrent(row) for row in self._db.execute(_TORRENTS)]

    def torrent(self, info_hash: InfoHash) -> StoredTorrent | None:
        """One of them; None when it is not known."""
        row = self._db.execute(f"{_TORRENTS} WHERE info_hash = ?", (info_hash,)).fetchone()
        return _torrent(row) if row else None

    def put_torrent(self, torrent: StoredTorrent) -> None:
        """Keep all that is known of one content."""
        stamps = None if torrent.stamps is None else msgpack.packb([attrs.astuple(each) for each in torrent.stamps])
        self._db.execute(
            "INSERT OR REPLACE INTO torrents (info_hash, info, resume, stamps, origin_bytes, peer_bytes, torrent)"
            " VALUES (?, ?, ?, ?, ?, ?, ?)",
            (
                torrent.info_hash,
                torrent.info,
                torrent.resume,
                stamps,
                torrent.origin_bytes,
                torrent.peer_bytes,
                torrent.torrent,
            ),
        )

    def drop_torrent(self, info_hash: InfoHash) -> None:
        """Forget one content."""
        self._db.execute("DELETE FROM torrents WHERE info_hash = ?", (info_hash,))

    def lessons(self) -> list[StoredLesson]:
        """What was asked for by name, and what is served."""
        rows = self._db.execute("SELECT id, wanted, served, keys, epoch, pinned, used_on FROM lessons")
        return [
            StoredLesson(
                id=LessonId(id_),
                wanted=bool(wanted),
                served=served,
                keys=_keys(keys) if keys else {},
                epoch=epoch,
                pinned=bool(pinned),
                used_on=_day(used_on),
            )
            for id_, wanted, served, keys, epoch, pinned, used_on in rows
        ]

    def put_lesson(self, lesson: StoredLesson) -> None:
        """Keep what is asked for and served of one lesson."""
        self.put_lessons([lesson])

    def put_lessons(self, lessons: Iterable[StoredLesson]) -> None:
        """Likewise of several, all or nothing."""
        with self._transaction():
            self._db.executemany(
                "INSERT OR REPLACE INTO lessons (id, wanted, served, keys, epoch, pinned, used_on)"
                " VALUES (?, ?, ?, ?, ?, ?, ?)",
                [
                    (
                        lesson.id,
                        int(lesson.wanted),
                        lesson.served,
                        _packed_keys(lesson.keys),
                        lesson.epoch,
                        int(lesson.pinned),
                        lesson.used_on.isoformat() if lesson.used_on else None,
                    )
                    for lesson in lessons
                ],
            )

    def drop_lesson(self, lesson: LessonId) -> None:
        """Forget one lesson."""
        self._db.execute("DELETE FROM lessons WHERE id = ?", (lesson,))

    def traffic(self, month: str) -> int:
        """Bytes that went over the link to the outside in `month`, like 2026-11."""
        row = self._db.execute("SELECT bytes FROM traffic WHERE month = ?", (month,)).fetchone()
        return int(row[0]) if row else 0

    def put_traffic(self, month: str, total: int) -> None:
        """Keep what went over the link to the outside in `month`, in bytes."""
        self._db.execute("INSERT OR REPLACE INTO traffic VALUES (?, ?)", (month, total))

    def fact(self, name: str) -> str | None:
        """One of the small things that a node knows of itself; None when it was never put."""
        row = self._db.execute("SELECT value FROM facts WHERE name = ?", (name,)).fetchone()
        return str(row[0]) if row else None

    def put_fact(self, name: str, value: str) -> None:
        """Keep one of the small things that a node knows of itself."""
        self._db.execute("INSERT OR REPLACE INTO facts VALUES (?, ?)", (name, value))


def is_damage(error: sqlite3.Error) -> bool:
    """Whether the file is at fault, and not the room, the rights or the disk that it would be written to."""
    code = getattr(error, "sqlite_errorcode", None)
    if code is None:  # Python could not read what SQLite gave it, as with text that is no UTF-8
        return type(error) is sqlite3.OperationalError
    return code & 0xFF in _DAMAGE or code in _UNREADABLE


def _inode(path: Path) -> int:
    try:
        return path.stat().st_ino
    except OSError:
        return 0


def _packed_keys(keys: Mapping[bytes, PublicKey]) -> bytes:
    packed = msgpack.packb([[key.scheme, key.public] for key in keys.values()])
    assert isinstance(packed, bytes)
    return packed


@cache  # thousands of rows have the same few keys
def _keys(packed: bytes) -> Mapping[bytes, PublicKey]:
    """The keys in a row; none when it is damaged, and then nothing in it is vouched for."""
    try:
        keys = [PublicKey(str(scheme), bytes(public)) for scheme, public in msgpack.unpackb(packed)]
    except (ValueError, TypeError):
        keys = []
    return MappingProxyType({key.id: key for key in keys})


def _lesson(packed: bytes | None) -> LessonManifest | None:
    """The manifest in a row; None, for a lesson without a name, when it has none or is damaged."""
    try:
        return None if packed is None else structure(unpack(packed, MAX_MANIFEST, "a manifest"), LessonManifest)
    except ManifestError:
        return None


def _day(text: str | None) -> date | None:
    """The day in a row; None when it has none or is damaged."""
    try:
        return None if text is None else date.fromisoformat(text)
    except ValueError:
        return None


def _packed_publishers(publishers: Publishers) -> bytes:
    return pack(
        {
            "delegations": {name: [each.prefix, each.epoch] for name, each in publishers.delegations.items()},
            "revoked": dict(publishers.revoked),
            "revoked_keys": sorted(publishers.revoked_keys),
        }
    )


def _publishers(packed: bytes) -> Publishers | None:
    """The publishers in the row; None, until the origin is heard of again, when it is damaged."""
    try:
        fields = msgpack.unpackb(packed)
        return Publishers(
            delegations={
                str(name): Delegation(prefix=str(prefix), epoch=str(epoch))
                for name, (prefix, epoch) in fields["delegations"].items()
            },
            revoked={str(name): str(why) for name, why in fields["revoked"].items()},
            revoked_keys=frozenset(map(bytes, fields["revoked_keys"])),
        )
    except (AttributeError, KeyError, ValueError, TypeError):
        return None


def _torrent(row: tuple[Any, ...]) -> StoredTorrent:
    """A row of `_TORRENTS`."""
    info_hash, info, resume, stamps, origin, peers, torrent = row
    return StoredTorrent(
        info_hash=InfoHash(info_hash),
        info=info,
        resume=resume,
        stamps=_stamps(stamps),
        origin_bytes=origin,
        peer_bytes=peers,
        torrent=torrent,
    )


def _stamps(packed: bytes | None) -> tuple[Stamp, ...] | None:
    """The stamps in a row; None, for a content to be checked, when it has none or is damaged."""
    try:
        return None if packed is None else tuple(Stamp(*map(int, each)) for each in msgpack.unpackb(packed))
    except (ValueError, TypeError):
        return None
