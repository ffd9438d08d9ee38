"""The slow half of an import: what a stick brings is verified while it is copied into `<library>/incoming`.

```
<library>/incoming/bundle.msgpack            what has come whole
<library>/incoming/metadata/  targets/       what the trust took of the stick's
<library>/incoming/torrents/<info-hash>.torrent   made here, from what was copied
<library>/incoming/content/<info-hash>/<path>
```

Nothing in there is served or counted as held: the daemon takes it in (`arrival.py`), and believes it no more than the
stick. Metadata goes through the same trust as an origin's, in a copy that is thrown away; so what the node would not
list is not copied. Copying goes on where it stopped, in the middle of a file too.
"""

from __future__ import annotations

import enum
import shutil
import tempfile
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import attrs

from edgeshare import host, trusted
from edgeshare.admission import Memory, check_next, heed, listed, withdrawn
from edgeshare.bundle.form import INDEX, Bundle, Place, content_folder, torrent_file
from edgeshare.bundle.known import Known, first_root
from edgeshare.bundle.stick import Gone, Metadata, Stick, missing
from edgeshare.catalogue import FILE_NAME
from edgeshare.errors import EdgeshareError, LibraryError, ManifestError
from edgeshare.hashtree import FileHasher, HashedFile
from edgeshare.layout import MAX_INFO, FileEntry
from edgeshare.ledger import take_up
from edgeshare.library import content
from edgeshare.library.index import StoredCatalogue
from edgeshare.manifest import InfoHash, LessonId, LessonManifest, shown
from edgeshare.publish.torrent import with_layers
from edgeshare.refusals import MetadataRefused, Refusal
from edgeshare.swarm.session import info_of, read_info
from edgeshare.trust import Refreshed, Trust, Vouched
from edgeshare.units import size

FOLDER = "incoming"
LOCK = ".lock"


class Fate(enum.Enum):
    """What becomes of a lesson on a stick."""

    COPIED = "copied"
    HERE = "here"  # complete already
    SKIPPED = "skipped"  # nothing is wrong, and this node does not list it
    REFUSED = "refused"


@attrs.frozen(kw_only=True)
class Outcome:
    """One lesson of a stick."""

    lesson: LessonId
    fate: Fate
    size: int | None = None  # bytes; None where nobody vouches for a size
    reason: str | None = None  # why not


@attrs.frozen(kw_only=True)
class Bounds:
    """What the node's config allows: bytes."""

    quota: int | None = None
    keep_free: int = 0


@attrs.frozen(kw_only=True)
class Seen:
    """A stick's metadata and catalogues, as this node takes them."""

    memory: Memory  # what the node will stand on
    names: frozenset[str]  # catalogues that it shows
    trouble: str | None = None  # why nothing new is taken; None when it is, or the stick has none
    is_older: bool = False  # that is the trouble: what the node has is newer
    lines: tuple[str, ...] = ()  # what is wrong with single catalogues


@contextmanager
def incoming(library: Path) -> Iterator[Path]:
    """The library's folder for what is brought, for one process at a time; made when there is none.

    Raises:
        LibraryError: another import is at work, or the folder cannot be written.
    """
    folder = library / FOLDER
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with host.locked(folder / LOCK):
            yield folder
    except host.Locked as error:
        raise LibraryError(f"another import into {library} is at work", hint="wait until it has finished") from error
    except OSError as error:
        raise _unwritable(folder, error) from error


class Intake:
    """One import under way, from a stick into the folder of what is brought."""

    def __init__(
        self,
        stick: Stick,
        folder: Path,
        known: Known,
        bounds: Bounds | None = None,
        report: Callable[[int], None] = lambda count: None,
    ) -> None:
        """`report` hears of the bytes of every portion."""
        self._stick = stick
        self._folder = folder
        self._known = known
        self._bounds = bounds or Bounds()
        self._report = report
        self._table = stick.table()
        self._brought = self._brought_before()

    async def look(self, root: bytes | None, shown_here: Collection[str] | None) -> Seen:
        """Hold the stick's metadata against what this node trusts, and take what its catalogues list.

        `root` is the one that the node's config names, and `shown_here` the catalogues; without a config they are
        those that the library knows.

        Raises:
            Gone: the stick is.
            LibraryError: this machine has no root of trust.
        """
        root = root or first_root(self._known.metadata)
        if root is None:
            hint = "name the node's config with --config: its `root` says whose lessons these may be"
            raise LibraryError("this library trusts nobody yet", hint=hint)
        names = frozenset(self._known.memory.admitted if shown_here is None else shown_here)
        source = Metadata(self._stick)
        with tempfile.TemporaryDirectory() as copy:
            trusted.restore(Path(copy), self._known.metadata)
            try:
                asked = tuple(name for name in self._table.catalogues if name in names)
                refreshed = await Trust(Path(copy), root, source).refresh(asked)
            except EdgeshareError as error:
                self._stick.require()  # or that is the reason
                is_older = isinstance(error, MetadataRefused) and error.refusal is Refusal.OLDER
                return Seen(memory=self._known.memory, names=names, trouble=str(error), is_older=is_older)
        seen, editions = self._admitted(refreshed, names)
        self._put_metadata(source.given_so_far)
        self._put_table(attrs.evolve(self._brought, catalogues=(*self._brought.catalogues, *editions)))
        return seen

    def chosen(self, seen: Seen) -> Iterator[LessonManifest | Outcome]:
        """What is to be copied, and of all other lessons on the stick why they are not."""
        here, gone = listed(seen.memory, seen.names), withdrawn(seen.memory)
        for lesson, info_hash in self._table.lessons.items():
            backed = [each for each in (here.get(lesson), self._known.served.get(lesson)) if each]
            manifest = next((each.manifest for each in backed if each.manifest.info_hash == info_hash), None)
            if lesson in gone:
                yield Outcome(lesson=lesson, fate=Fate.SKIPPED, reason=f"it was withdrawn, {shown(gone[lesson].why)}")
            elif manifest is None:
                yield self._unlisted(lesson, seen, backed[0].manifest if backed else None)
            elif self._known.is_complete(info_hash):
                yield Outcome(lesson=lesson, fate=Fate.HERE, size=manifest.size)
            else:
                yield manifest

    def take(self, manifest: LessonManifest) -> Outcome:
        """Copy one lesson, if there is room; what is not as published is refused, and not kept.

        Raises:
            Gone: the stick is; what was copied stays for the next time.
            LibraryError: the library's disk fails.
        """
        try:
            self._require_room(manifest)
            self._copy(manifest.info_hash, manifest.size, manifest.files)
        except Gone:
            raise
        except (LibraryError, ManifestError) as error:
            return Outcome(lesson=manifest.id, fate=Fate.REFUSED, size=manifest.size, reason=str(error))
        lessons = {**self._brought.lessons, manifest.id: manifest.info_hash}
        self._put_table(attrs.evolve(self._brought, lessons=lessons))
        return Outcome(lesson=manifest.id, fate=Fate.COPIED, size=manifest.size)

    def _unlisted(self, lesson: LessonId, seen: Seen, other: LessonManifest | None) -> Outcome:
        if seen.trouble and not seen.is_older:
            reason = "this node does not list it, and takes nothing new from the stick"
            return Outcome(lesson=lesson, fate=Fate.REFUSED, reason=reason)
        reason = "no catalogue of this node lists it"
        if other:
            reason = f"this node's catalogues list version {other.version} of it, and this is another"
        return Outcome(lesson=lesson, fate=Fate.SKIPPED, reason=reason)

    def _admitted(self, refreshed: Refreshed, names: frozenset[str]) -> tuple[Seen, list[str]]:
        """What the node will stand on, with the editions that the stick has whole; their names."""
        memory = heed(self._known.memory, refreshed.publishers, self._known.served.values()).memory
        lines = [f"{name}: {why}" for name, why in refreshed.refused.items()]
        editions: list[str] = []
        for name, vouched in refreshed.catalogues.items():
            try:
                memory = self._with_edition(memory, vouched)
            except Gone:
                raise
            except EdgeshareError as error:
                lines.append(f"{name}: edition {vouched.manifest.edition} is not taken, {error}")
            else:
                editions.append(name)
        return Seen(memory=memory, names=names, lines=tuple(lines)), editions

    def _with_edition(self, memory: Memory, vouched: Vouched) -> Memory:
        manifest = vouched.manifest
        check_next(memory, manifest, vouched.raw, vouched.keys)
        before = memory.admitted.get(manifest.name)
        if before and (before.manifest, before.keys) == (manifest, vouched.keys):
            return memory
        self._copy(manifest.info_hash, manifest.size, 1)
        folder = self._folder.joinpath(*content_folder(manifest.info_hash))
        try:
            raw = (folder / FILE_NAME).read_bytes()
        except OSError as error:
            raise ManifestError(f"the content of {manifest.name} is not a catalogue's") from error
        stored = StoredCatalogue(
            name=manifest.name,
            manifest=vouched.raw,
            content=raw,
            keys=vouched.keys,
            admitted_at=datetime.now(UTC).isoformat(),
            epoch=memory.epoch(manifest.name.partition("/")[0]),
        )
        return take_up(memory, stored, manifest).memory

    def _require_room(self, manifest: LessonManifest) -> None:
        quota = self._bounds.quota
        if quota is not None and manifest.size > quota:
            what = f"{manifest.id} needs {size(manifest.size)}, the quota is {size(quota)}"
            raise LibraryError(what, hint="raise `quota` in the config")
        there = sum(
            path.stat().st_blocks * 512
            for path in self._folder.joinpath(*content_folder(manifest.info_hash)).rglob("*")
            if path.is_file()
        )
        free = host.free_space(self._folder) - self._bounds.keep_free
        if manifest.size - there > free:
            what = f"{manifest.id} needs {size(manifest.size)}, and of the disk {size(max(0, free))} may be used"
            raise LibraryError(what, hint="make room on it, then run the same command")

    def _copy(self, info_hash: InfoHash, total: int, files: int) -> None:
        """Copy a content of so many bytes and files; what is there from an earlier time is not read again."""
        try:
            info = info_of(self._stick.read(torrent_file(info_hash), 2 * MAX_INFO))
        except FileNotFoundError as error:
            raise missing("/".join(torrent_file(info_hash))) from error
        layout = read_info(info, info_hash)
        if (layout.size, len(layout.files)) != (total, files):
            raise ManifestError("the bundle's torrent names other files than the manifest")
        folder = self._folder.joinpath(*content_folder(info_hash))
        try:
            content.make_way(folder, layout)
            hashed = [
                self._copy_file(info_hash, number, entry, content.inside(folder, entry.path), layout.piece_length)
                for number, entry in enumerate(layout.files)
            ]
            self._put(torrent_file(info_hash), with_layers(info, layout, hashed))
        except ManifestError:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        except OSError as error:
            raise _unwritable(self._folder, error) from error

    def _copy_file(self, info_hash: InfoHash, number: int, entry: FileEntry, path: Path, length: int) -> HashedFile:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("ab") as there:
            has_begun = there.tell() > 0
        hashed = self._copy_rest(info_hash, number, entry, path, length)
        if has_begun and (hashed.root or b"") != entry.root:  # a power cut may have torn what was there
            path.unlink()
            hashed = self._copy_rest(info_hash, number, entry, path, length)
        if (hashed.root or b"") != entry.root:
            raise ManifestError(f"{shown(entry.path)} is not as it was published", hint="export the lesson again")
        return hashed

    def _copy_rest(self, info_hash: InfoHash, number: int, entry: FileEntry, path: Path, length: int) -> HashedFile:
        hasher = FileHasher(length)
        with path.open("a+b", buffering=0) as file:
            file.seek(0)
            while portion := file.read(1 << 20):
                hasher.update(portion)
                self._report(len(portion))
            try:
                for portion in self._stick.portions(info_hash, number, entry, file.tell()):
                    _write(file.write, portion)
                    hasher.update(portion)
                    self._report(len(portion))
            except FileNotFoundError as error:
                raise missing(shown(entry.path)) from error
        return hasher.finish(entry.path)

    def _brought_before(self) -> Bundle:
        """What earlier imports have brought whole, and the daemon has not taken in yet."""
        try:
            return Stick(self._folder).table()
        except (LibraryError, ManifestError):
            return Bundle()

    def _put_metadata(self, files: Mapping[Place, bytes]) -> None:
        """Keep what the trust took, unless an earlier import brought newer metadata."""
        for place, raw in files.items():
            if place[-1] == "timestamp.json":
                with_before = self._folder.joinpath(*place)
                before = with_before.read_bytes() if with_before.exists() else b""
                if trusted.timestamp_version(before) > trusted.timestamp_version(raw):
                    return
        for name in ("metadata", "targets"):
            shutil.rmtree(self._folder / name, ignore_errors=True)
        for place, raw in files.items():
            self._put(place, raw)

    def _put_table(self, table: Bundle) -> None:
        self._brought = attrs.evolve(table, catalogues=tuple(dict.fromkeys(table.catalogues)))
        self._put((INDEX,), self._brought.encode())

    def _put(self, place: Place, raw: bytes) -> None:
        path = self._folder.joinpath(*place)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            content.put(path, raw)
        except OSError as error:
            raise _unwritable(self._folder, error) from error


def _write(write: Callable[[bytes | memoryview], int | None], portion: bytes) -> None:
    rest = memoryview(portion)
    while rest:
        rest = rest[write(rest) or 0 :]


def _unwritable(folder: Path, error: OSError) -> LibraryError:
    hint = "is its disk full, read-only, or another user's?"
    return LibraryError(f"{folder} cannot be written ({error.strerror})", hint=hint)
