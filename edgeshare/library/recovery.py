"""What becomes of an index that is damaged, deleted or on a disk that cannot be written.

A damaged one is set aside, and a new one gets what can be read of it, row by row; what cannot comes from the last
backup. Withdrawals are taken from both: no damage should bring a withdrawn lesson back. Nothing that is brought over is
taken on trust: contents are looked at by their stamps, manifests by their signatures, or by the SHA-256 of what was
verified before, as at every start. Where no new file can be made either, the same is done in memory, so that what was
verified is served all the same.

A kill at any moment leaves the damaged index where it was, or a mended one beside it that the next start takes up.
"""

from __future__ import annotations

import contextlib
import logging
import shutil
import sqlite3
import tempfile
from collections.abc import Generator, Iterable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import attrs

from edgeshare import host
from edgeshare.errors import LibraryError
from edgeshare.library.index import TABLES, Index, IndexDamaged, IndexUnwritable

logger = logging.getLogger(__name__)

_BACKUP = "index.backup.sqlite"
_MENDED = "index.mended.sqlite"
_ASIDE = "index.damaged-{date}.sqlite"
_COMPANIONS = ("-wal", "-shm", "-journal")
# Rows of these are of use also when they are not the newest, and are gone for good when they are lost.
_FROM_BOTH = frozenset({"withdrawals"})


@attrs.frozen
class _Table:
    """What could be read of one table."""

    columns: tuple[str, ...]
    rows: tuple[tuple[object, ...], ...]
    is_whole: bool  # nothing of it is missing


def open_index(path: Path) -> Index:
    """The index at `path`: as it is, mended, from its backup, or new; in memory where the disk cannot be written.

    Raises:
        LibraryError: a newer edgeshare wrote it, or there is none and none can be made.
    """
    try:
        _finish(path)
        if not path.exists() or path.stat().st_size == 0:
            return recover(path, "it is gone") if backup_of(path).exists() else Index(path)
        return Index(path)
    except IndexDamaged as error:
        return recover(path, str(error))
    except IndexUnwritable as error:
        if not path.is_file():
            raise
        logger.error("%s; what it knows is kept in memory, and reading goes on", error)
        return unkept(path)


def recover(path: Path, why: str) -> Index:
    """A new index in place of the damaged one at `path`, with what can be saved; the damaged one is set aside.

    In memory, where no new one can be made. Says in one line, at the level of an error, what was done.
    """
    index = Index.in_memory()
    brought = _bring_over(path, index)
    try:
        index.copy_to(path.with_name(_MENDED))
        aside = _finish(path)
        mended = Index(path)
    except (OSError, sqlite3.Error, LibraryError) as error:
        logger.error("%s, and no new one can be made (%s): it is kept in memory, and reading goes on", why, error)
        return index
    index.close()
    logger.error("%s: a new one is made, with %s%s", why, brought, f"; the old one is {aside.name}" if aside else "")
    return mended


def put_back(index: Index) -> Index:
    """The index anew under its name, whose files somebody deleted or replaced; what it knew is still to be had."""
    path = index.path
    try:
        index.copy_to(path.with_name(_MENDED))
        _finish(path)
    except (OSError, sqlite3.Error) as error:
        logger.error("the index %s was deleted, and cannot be put back yet: %s", path, error)
        return index
    logger.error("the index %s was deleted or replaced while it was in use: it is put back", path)
    index.close()  # not after the new one is open: it deletes its log by its name
    return open_index(path)


def unkept(path: Path) -> Index:
    """An index in memory with what can be read of the one at `path` and of its backup."""
    index = Index.in_memory()
    _bring_over(path, index)
    return index


def backup_of(path: Path) -> Path:
    """Where the copy of an index is that damage does not reach."""
    return path.with_name(_BACKUP)


def age_of_backup(path: Path, now: datetime) -> timedelta | None:
    """How long ago an index was backed up last; None when it never was."""
    try:
        return now - datetime.fromtimestamp(backup_of(path).stat().st_mtime, UTC)
    except OSError:
        return None


def _finish(path: Path) -> Path | None:
    """Put a mended index in its place, and what stood there aside; where that is.

    Only one that was set aside is kept: it is as large as an index, and of use to nobody but who looks for the cause.
    """
    mended = path.with_name(_MENDED)
    if not mended.exists():
        return None
    aside: Path | None = path.with_name(_ASIDE.format(date=datetime.now(UTC).date()))
    assert aside is not None
    if path.exists() or path.is_symlink():
        for old in path.parent.glob(_ASIDE.format(date="*")):
            _remove(old)
        for suffix in _COMPANIONS:  # before the file itself: what is left of a log would be written into a new one
            with contextlib.suppress(FileNotFoundError):
                path.with_name(path.name + suffix).replace(aside.with_name(aside.name + suffix))
        path.replace(aside)
    else:
        aside = None
        for suffix in _COMPANIONS:
            _remove(path.with_name(path.name + suffix))
    mended.replace(path)
    host.sync_folder(path.parent)
    return aside


def _bring_over(path: Path, index: Index) -> str:
    """Have `index` take up what can be read; how much that is, in words."""
    counts: dict[str, int] = {}
    with contextlib.ExitStack() as stack:
        first, backup = (stack.enter_context(_reading(each)) for each in (path, backup_of(path)))
        for table in TABLES:
            known = index.columns(table)
            found = _read(first, table)
            sources = [found]
            if not found.is_whole or table in _FROM_BOTH:
                sources.append(_read(backup, table))
            counts[table] = sum(_take(index, table, known, source) for source in sources)
    names = {"lessons": "lessons", "torrents": "contents", "catalogues": "catalogues", "withdrawals": "withdrawals"}
    return ", ".join(f"{counts[table]} {name}" for table, name in names.items())


def _take(index: Index, table: str, known: frozenset[str], source: _Table) -> int:
    columns = [name for name in source.columns if name in known]
    at = [source.columns.index(name) for name in columns]
    rows = (tuple(row[n] for n in at) for row in source.rows)
    if table == "torrents" and {"resume", "stamps"} <= set(columns):
        # Without stamps, resume data speaks for the files as they were at the last clean stop alone.
        resume, stamps = columns.index("resume"), columns.index("stamps")
        rows = (row if row[stamps] is not None else (*row[:resume], None, *row[resume + 1 :]) for row in rows)
    return index.rows_into(table, columns, rows) if columns else 0


def _read(db: sqlite3.Connection | None, table: str) -> _Table:
    """All rows of a table that can be read: from its start up to what is torn, and from its end back to it."""
    columns: tuple[str, ...] = ()
    rows: dict[object, tuple[object, ...]] = {}
    is_whole = False
    for order in ("ASC", "DESC"):
        if db is None or is_whole:
            break
        with contextlib.suppress(sqlite3.Error):
            cursor = db.execute(f"SELECT rowid, * FROM {table} ORDER BY rowid {order}")  # noqa: S608 - our own words
            columns = tuple(each[0] for each in cursor.description[1:])
            for rowid, *row in cursor:
                rows[rowid] = tuple(row)
            is_whole = order == "ASC"
    return _Table(columns, tuple(rows.values()), is_whole and _is_text(rows.values()))


def _is_text(rows: Iterable[tuple[object, ...]]) -> bool:
    """Whether no text in `rows` stands for bytes that are none (see `_connected`)."""
    try:
        for row in rows:
            for value in row:
                if isinstance(value, str):
                    value.encode()
    except UnicodeEncodeError:
        return False
    return True


@contextlib.contextmanager
def _reading(path: Path) -> Generator[sqlite3.Connection | None, None, None]:
    """The database at `path` as far as it can be read; None when it cannot be opened at all.

    Where its folder cannot be written a copy is read, and where there is no room for one, the file without its log.
    """
    with contextlib.ExitStack() as stack:
        db: sqlite3.Connection | None = None
        for way in (_in_place, _as_a_copy, _without_its_log):
            with contextlib.suppress(OSError, sqlite3.Error):
                if not path.is_file():
                    break
                db = stack.enter_context(way(path))
                break
        yield db


@contextlib.contextmanager
def _in_place(path: Path) -> Generator[sqlite3.Connection, None, None]:
    with _connected(f"{path.absolute().as_uri()}?mode=rw") as db:
        yield db


@contextlib.contextmanager
def _as_a_copy(path: Path) -> Generator[sqlite3.Connection, None, None]:
    with tempfile.TemporaryDirectory() as folder:
        for suffix in ("", "-wal"):
            with contextlib.suppress(FileNotFoundError):
                shutil.copyfile(f"{path}{suffix}", Path(folder, f"{path.name}{suffix}"))
        with _in_place(Path(folder, path.name)) as db:
            yield db


@contextlib.contextmanager
def _without_its_log(path: Path) -> Generator[sqlite3.Connection, None, None]:
    with _connected(f"{path.absolute().as_uri()}?immutable=1") as db:
        yield db


@contextlib.contextmanager
def _connected(uri: str) -> Generator[sqlite3.Connection, None, None]:
    with contextlib.closing(sqlite3.connect(uri, uri=True, isolation_level=None)) as db:
        # A lone surrogate for what is no UTF-8: the row can be told from one that is, and is not taken.
        db.text_factory = lambda raw: raw.decode(errors="surrogateescape")
        db.execute("SELECT name FROM sqlite_master").fetchall()
        yield db


def _remove(path: Path) -> None:
    """Delete a file, or whatever else stands there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
    if not path.name.endswith(_COMPANIONS):
        for suffix in _COMPANIONS:
            path.with_name(path.name + suffix).unlink(missing_ok=True)
