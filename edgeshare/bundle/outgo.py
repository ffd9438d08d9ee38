"""An export: lessons of this library, and what vouches for them, written to a stick.

- Every byte is hashed on its way; a lesson that is not on this disk as it was published does not leave it.
- A file is there whole under its name, or not: it is written to a draft, flushed, and renamed. Metadata comes first,
  with the timestamp last; a lesson is in the table of contents when all of it is there.
- What is there already is read and compared, not written again; what the stick had from before stays, but for lessons
  that were withdrawn, or of which it gets another version.
- Nothing outside the bundle's folder is written or removed: a stick with a link in it is refused before it is touched.
"""

from __future__ import annotations

import errno
import os
import shutil
import stat
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import attrs

from edgeshare import host, trusted
from edgeshare.admission import listed, withdrawn
from edgeshare.bundle.choice import Content, Lesson, Refused, edition_of
from edgeshare.bundle.form import (
    FOLDER,
    INDEX,
    MAX_LESSONS,
    PART,
    README,
    Bundle,
    Place,
    manifest_file,
    places,
    readme,
    torrent_file,
)
from edgeshare.bundle.known import Known
from edgeshare.bundle.stick import Stick
from edgeshare.errors import LibraryError, ManifestError, TrustError
from edgeshare.hashtree import FileHasher, HashedFile
from edgeshare.layout import FileEntry
from edgeshare.library.content import put
from edgeshare.manifest import InfoHash, LessonId, shown
from edgeshare.publish.torrent import with_layers
from edgeshare.trusted import Published
from edgeshare.units import size

_DRAFT = "unfinished.part"
_LOCK = ".lock"
_FILES = frozenset({INDEX, README, _DRAFT, _LOCK})  # in the bundle's folder, beside these:
_OF_FILES = frozenset({"manifests", "metadata", "torrents"})  # folders with no folder in them
_FOLDERS = _OF_FILES | {"content", "targets"}
_MOST_METADATA = 16 * 2**20  # bytes of one file that is read back from the stick
_SYNC_EACH = 64  # a content of more files is flushed by one sync of everything, which is then far faster
_PORTION = 1 << 20  # bytes


class Outgo:
    """The bundle on one stick, while it is written to; made by `writing`."""

    def __init__(self, library: Path, folder: Path, part: int) -> None:
        self._library = library
        self._folder = folder
        self._part = part
        self._stick = Stick(folder)
        try:
            self._table = self._stick.table()
        except ManifestError as error:
            hint = "move the folder away, or name another"
            raise LibraryError(f"{folder} holds something else ({error.what})", hint=hint) from error

    def missing(self, lessons: Sequence[Lesson]) -> int:
        """Bytes that the stick still needs for these lessons, in whole clusters."""
        cluster = os.statvfs(self._folder).f_frsize or 1
        contents = {each.info_hash: each.layout for each in _contents(lessons)}
        return sum(
            -(-count // cluster) * cluster
            for info_hash, layout in contents.items()
            for stored in places(info_hash, layout, self._part).values()
            for place, count in stored
            if self._size(place) != count
        )

    def require_room(self, lessons: Sequence[Lesson]) -> None:
        """Refuse what does not fit.

        Raises:
            LibraryError: it does not, or something else stands where a file of it belongs.
        """
        for target in {edition.target for lesson in lessons for edition in lesson.editions}:
            self._size(_manifest_place(target))
        with self._written():
            needed, free = self.missing(lessons), host.free_space(self._folder)
            is_measured = os.statvfs(self._folder).f_blocks > 0  # some file systems in user space do not say
        if is_measured and needed > free:
            what = f"{self._folder.parent} has {size(free)} free, and {size(needed)} are needed"
            raise LibraryError(what, hint="export fewer lessons, or take a larger stick")
        if len(self._table.lessons.keys() | {each.signed.manifest.id for each in lessons}) > MAX_LESSONS:
            raise LibraryError(f"a bundle has at most {MAX_LESSONS} lessons", hint="take another stick")

    def write_metadata(self, published: Published, lessons: Sequence[Lesson], known: Known) -> tuple[str, ...]:
        """Write what vouches for the lessons; a line for each lesson that goes from the stick.

        Raises:
            TrustError: the stick has newer metadata, or another repository's.
            LibraryError: a catalogue is not as it was published, or the stick cannot be written.
        """
        self._require_same_repository(published)
        editions = {edition.name: edition for lesson in lessons for edition in lesson.editions}
        for name in self._table.catalogues:  # what it has from before stays in step with the new metadata
            stored = known.catalogues.get(name)
            if stored and name not in editions and (edition := edition_of(known, published, stored)):
                editions[name] = edition
        before = self._stick_files("metadata")
        for edition in editions.values():
            self._write_content(edition.content, lambda count: None)
            self._put(_manifest_place(edition.target), edition.manifest)
        for name, raw in sorted(published.files.items(), key=lambda file: file[0] == "timestamp.json"):
            self._put(("metadata", name), raw)
        kept = {name for name in before if name.endswith(".root.json")} | published.files.keys()
        gone = self._outdated(known)
        table = Bundle(
            tuple(dict.fromkeys((*self._table.catalogues, *editions))),
            {lesson: content for lesson, content in self._table.lessons.items() if lesson not in gone},
        )
        self._put_table(table)
        for name in before - kept:
            self._remove(("metadata", name))
        return tuple(f"{lesson} goes from the stick: {why}" for lesson, why in gone.items())

    def write(self, lesson: Lesson, report: Callable[[int], None]) -> None:
        """Write one lesson; `report` hears of the bytes of every portion.

        Raises:
            Refused: it is not on this disk as it was published.
            LibraryError: the stick cannot be written.
        """
        manifest = lesson.signed.manifest
        try:
            self._write_content(lesson.content, report)
        except ManifestError as error:
            raise Refused(manifest.id, f"{manifest.id} is not exported: {error.what}", hint=error.hint) from error
        self._put(manifest_file(manifest.id), lesson.signed.raw)
        lessons = {**self._table.lessons, manifest.id: manifest.info_hash}
        self._put_table(attrs.evolve(self._table, lessons=lessons))

    def finish(self, known: Known) -> None:
        """Tell people what is there, and remove what nothing names any more.

        Raises:
            LibraryError: the stick cannot be written.
        """
        here = listed(known.memory, known.memory.admitted)
        self._put((README,), readme(here[lesson].lesson for lesson in self._table.lessons if lesson in here).encode())
        contents = set(self._table.lessons.values())
        contents |= {
            InfoHash(known.memory.admitted[name].manifest.info_hash)
            for name in self._table.catalogues
            if name in known.memory.admitted
        }
        if not set(self._table.catalogues) <= known.memory.admitted.keys():
            return  # what other catalogues need is not known here
        named = {content.hex() for content in contents}
        for folder in ("content", "torrents"):
            for name in self._stick_files(folder):
                stem = name.partition(".")[0]
                if len(stem) == 64 and stem not in named:
                    self._remove((folder, name))
        for name in self._stick_files("manifests"):
            if name.removesuffix(".manifest") not in self._table.lessons:
                self._remove(("manifests", name))

    def _outdated(self, known: Known) -> dict[LessonId, str]:
        """Lessons on the stick that are not to be passed on, or no longer by these names."""
        gone, here = withdrawn(known.memory), listed(known.memory, known.memory.admitted)
        found: dict[LessonId, str] = {}
        for lesson, content in self._table.lessons.items():
            if lesson in gone:
                found[lesson] = f"it was withdrawn, {shown(gone[lesson].why)}"
            elif lesson in here and here[lesson].manifest.info_hash != content:
                found[lesson] = "there is a newer version"
        return found

    def _require_same_repository(self, published: Published) -> None:
        names = self._stick_files("metadata")
        for name in names & published.files.keys():
            if name.endswith(".root.json") and self._read(("metadata", name)) != published.files[name]:
                what = f"{self._folder} holds lessons of another repository"
                raise TrustError(what, hint="name another folder: one bundle has one root of trust")
        there = trusted.timestamp_version(self._read(("metadata", "timestamp.json")))
        if there > published.version:
            hint = "`edgeshare import` it first, or name another folder"
            raise TrustError(f"the metadata in {self._folder} is newer than this node's", hint=hint)

    def _write_content(self, content: Content, report: Callable[[int], None]) -> None:
        """Write the files of a content and its .torrent.

        Raises:
            ManifestError: a file is not on this disk as it was published.
            LibraryError: the stick cannot be written.
        """
        layout, info_hash = content.layout, content.info_hash
        stored = places(info_hash, layout, self._part)
        sync = len(layout.files) <= _SYNC_EACH
        hashed = [
            self._compared(info_hash, number, entry, stored[entry.path], layout.piece_length, report)
            or self._copied(info_hash, entry, stored[entry.path], layout.piece_length, report, sync=sync)
            for number, entry in enumerate(layout.files)
        ]
        if not sync:
            os.sync()
        self._put(torrent_file(info_hash), with_layers(content.info, layout, hashed))

    def _compared(
        self,
        info_hash: InfoHash,
        number: int,
        entry: FileEntry,
        stored: Sequence[tuple[Place, int]],
        length: int,
        report: Callable[[int], None],
    ) -> HashedFile | None:
        """The hashes of a file that the stick has already; None when it does not have it just so."""
        if any(self._size(place) != count for place, count in stored):
            return None
        hasher = FileHasher(length)
        read = 0
        for portion in self._stick.portions(info_hash, number, entry):
            hasher.update(portion)
            read += len(portion)
            report(len(portion))
        hashed = hasher.finish(entry.path)
        if (hashed.root or b"") == entry.root:
            return hashed
        report(-read)
        return None

    def _copied(
        self,
        info_hash: InfoHash,
        entry: FileEntry,
        stored: Sequence[tuple[Place, int]],
        length: int,
        report: Callable[[int], None],
        *,
        sync: bool,
    ) -> HashedFile:
        hasher = FileHasher(length)
        altered = ManifestError(f"{shown(entry.path)} was altered here", hint="the node mends it; export it then")
        try:
            source = host.open_beneath(self._library / "content" / info_hash.hex(), entry.path.split("/"))
        except OSError as error:
            raise altered from error
        with source:
            for place, count in stored:
                with self._written(), self._draft(place, sync=sync) as draft:
                    while count and (portion := source.read(min(count, _PORTION))):
                        rest = memoryview(portion)
                        while rest:
                            rest = rest[os.write(draft, rest) :]
                        hasher.update(portion)
                        report(len(portion))
                        count -= len(portion)  # noqa: PLW2901 - what is left of this part
        hashed = hasher.finish(entry.path)
        if (hashed.root or b"") != entry.root:
            for place, _ in stored:
                self._remove(place)
            raise altered
        return hashed

    @contextmanager
    def _draft(self, place: Place, *, sync: bool) -> Iterator[int]:
        """A descriptor to write a file by; it is there, whole, when the context ends well."""
        path, draft = self._folder.joinpath(*place), self._folder / _DRAFT
        path.parent.mkdir(parents=True, exist_ok=True)
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
        descriptor = os.open(draft, flags, 0o644)
        try:
            yield descriptor
            if sync:
                os.fsync(descriptor)
        finally:
            os.close(descriptor)
        draft.replace(path)

    def _put_table(self, table: Bundle) -> None:
        self._put((INDEX,), table.encode())
        self._table = table

    def _put(self, place: Place, raw: bytes) -> None:
        """Write a small file, unless it is there just so."""
        if self._read(place) != raw:
            path = self._folder.joinpath(*place)
            with self._written():
                path.parent.mkdir(parents=True, exist_ok=True)
                put(path, raw)

    def _read(self, place: Place) -> bytes:
        """A small file of the stick; nothing where there is none."""
        try:
            return self._stick.read(place, _MOST_METADATA)
        except FileNotFoundError:
            return b""

    def _size(self, place: Place) -> int | None:
        """The bytes of a file of the stick; None where there is none.

        Raises:
            LibraryError: something else stands there, or a file where a folder above it belongs.
        """
        path = self._folder.joinpath(*place)
        try:
            status = path.lstat()
        except NotADirectoryError as error:
            raise _misplaced(next((each for each in path.parents if each.is_file()), path)) from error
        except OSError:
            return None
        if not stat.S_ISREG(status.st_mode):
            raise _misplaced(path)
        return status.st_size

    def _stick_files(self, folder: str) -> set[str]:
        with suppress(FileNotFoundError, NotADirectoryError), self._written():
            return {path.name for path in (self._folder / folder).iterdir()}
        return set()

    def _remove(self, place: Place) -> None:
        path = self._folder.joinpath(*place)
        with self._written():
            if path.parent.is_symlink():  # somebody put it there while this was at work
                raise _misplaced(path.parent)
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)

    @contextmanager
    def _written(self) -> Iterator[None]:
        try:
            yield
        except (FileNotFoundError, NotADirectoryError):
            raise
        except OSError as error:
            raise unwritable(self._folder, error) from error


@contextmanager
def writing(library: Path, folder: Path, *, part: int = PART) -> Iterator[Outgo]:
    """The bundle below `folder`, made when there is none, for this process alone.

    Raises:
        LibraryError: it cannot be written, another export is at work there, or what is there is no bundle, or a link.
    """
    bundle = folder / FOLDER
    try:
        if not folder.is_dir():
            raise LibraryError(f"{folder} is not there", hint="name the folder that the stick is mounted at")
        _require_plain(bundle)
        bundle.mkdir(exist_ok=True)
        with host.locked(bundle / _LOCK):
            if not (bundle / INDEX).exists():
                put(bundle / INDEX, Bundle().encode())
            drafts = [bundle / _DRAFT, *bundle.glob(".*.part")]
            for name in _FOLDERS - {"content"}:  # where a lesson may have files of such names
                drafts += (bundle / name).glob("**/.*.part")
            for draft in drafts:
                draft.unlink(missing_ok=True)
            yield Outgo(library, bundle, part)
    except host.Locked as error:
        raise LibraryError(f"another export writes to {bundle}", hint="wait until it has finished") from error
    except OSError as error:
        raise unwritable(bundle, error) from error


def unwritable(folder: Path, error: OSError) -> LibraryError:
    """What to say of a stick that refuses."""
    if error.errno == errno.ENOSPC:
        return LibraryError(f"{folder} is full", hint="export fewer lessons, or take a larger stick")
    hint = "is it write-protected, or was it pulled? the same command goes on where it stopped"
    return LibraryError(f"{folder} cannot be written ({error.strerror})", hint=hint)


def _require_plain(bundle: Path) -> None:
    """Refuse a bundle with a link in it, by which paths would lead out, or with something in another's place.

    What stands in a lesson's way, deeper down, `require_room` finds.

    Raises:
        LibraryError: it is such a one.
        OSError: it cannot be looked through.
    """
    if not os.path.lexists(bundle):
        return
    if bundle.is_symlink() or not bundle.is_dir():
        raise _misplaced(bundle)
    waiting = [bundle]
    while waiting:
        folder = waiting.pop()
        with suppress(FileNotFoundError), os.scandir(folder) as entries:  # another export may just have removed it
            for entry in entries:
                path = Path(entry.path)
                if entry.is_dir(follow_symlinks=False):
                    of_files = folder.parent == bundle and folder.name in _OF_FILES
                    is_right = not of_files and (folder != bundle or entry.name not in _FILES)
                    waiting.append(path)
                else:
                    is_right = entry.is_file(follow_symlinks=False) and (folder != bundle or entry.name not in _FOLDERS)
                if not is_right:
                    raise _misplaced(path)


def _misplaced(path: Path) -> LibraryError:
    """What to say of something on the stick that no export put there."""
    if path.is_symlink():
        kind = "a link"
    elif path.is_dir():
        kind = "a folder"
    else:
        kind = "a file" if path.is_file() else "a device or pipe"
    name = str(path) if str(path).isprintable() else ascii(str(path))
    return LibraryError(f"{name} is {kind}, where no export put one", hint="remove it, or name another folder")


def _manifest_place(target: str) -> Place:
    """Where the manifest of a catalogue's edition is."""
    return "targets", *target.split("/")


def _contents(lessons: Sequence[Lesson]) -> Iterator[Content]:
    for lesson in lessons:
        yield lesson.content
        yield from (edition.content for edition in lesson.editions)
