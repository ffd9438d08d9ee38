"""What lies where in a repository's folder, and what a run that was killed left there.

```
REPO/metadata/  targets/  content/  torrents/  tracker/    what an origin serves (manifests/FORMAT.md)
REPO/o/                                                    the page of links, and where it finds lessons (`linkpage`)
REPO/.edgeshare/staged/<id>.manifest | <id>.withdrawal     what the next release will publish
REPO/.edgeshare/reinstated/<id>                            a withdrawal that is undone: version, and what was said
REPO/.edgeshare/signing/<version>.<role>.json              metadata that waits for signatures
REPO/.edgeshare/incoming/                                  copies under way; emptied by the next run
REPO/.edgeshare/taken/<id>.<info-hash>                     a mark for each content copied, with a word when published
REPO/.edgeshare/releasing                                  the paths that a release under way creates, one a line
REPO/.edgeshare/lock                                       one publisher at a time
```
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from tuf.api.metadata import TargetFile

from edgeshare import host
from edgeshare.catalogue import FILE_NAME
from edgeshare.errors import RepositoryError
from edgeshare.layout import Layout
from edgeshare.library.content import put
from edgeshare.manifest import InfoHash, LessonId
from edgeshare.publish.torrent import Torrent, layout_of, tracker_hashes, with_trackers
from edgeshare.targets import hashed_target

_FOLDERS = ("metadata", "targets", "content", "torrents", "tracker", "o", ".edgeshare/staged", ".edgeshare/taken")
# where `put` may have left a draft; below `targets` it may be one folder deeper
_WRITTEN = (
    "metadata",
    "torrents",
    "tracker",
    "o",
    ".edgeshare",
    ".edgeshare/staged",
    ".edgeshare/taken",
    ".edgeshare/reinstated",
    ".edgeshare/signing",
)


class Places:
    """The places in one repository. Whoever writes there holds the lock."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.metadata = root / "metadata"
        self.signing = root / ".edgeshare" / "signing"
        self._work = root / ".edgeshare"
        self._releasing = self._work / "releasing"
        self._whitelist = root / "tracker" / "whitelist.txt"

    def is_repository(self) -> bool:
        """Whether somebody has begun to make a repository here."""
        return self._work.is_dir()

    def create(self) -> None:
        """Make the folders, and an empty whitelist."""
        for folder in _FOLDERS:
            (self.root / folder).mkdir(parents=True, exist_ok=True)
        put(self._whitelist, b"")

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other publishers out while the context lasts; what cannot be written in it is one clear error.

        Raises:
            RepositoryError: another publisher is at work, or the folder cannot be written.
        """
        with ExitStack() as lock:
            try:
                with self.written():
                    lock.enter_context(host.locked(self._work / "lock"))
            except host.Locked as error:
                what = f"another publisher works on {self.root}"
                raise RepositoryError(what, hint="wait until it has finished") from error
            yield

    @contextmanager
    def written(self) -> Iterator[None]:
        """Turn what the operating system refuses into one clear error."""
        try:
            yield
        except OSError as error:
            hint = "is its disk full, read-only, or another user's?"
            what = f"the repository {self.root} cannot be written ({error.strerror})"
            raise RepositoryError(what, hint=hint) from error

    def prepare(self) -> None:
        """Make what the lock needs, in a folder that is no repository yet."""
        self._work.mkdir(parents=True, exist_ok=True)

    def content(self, info_hash: InfoHash) -> Path:
        """The folder of a content's files."""
        return self.root / "content" / info_hash.hex()

    def torrent(self, info_hash: InfoHash) -> Path:
        """A content's .torrent file."""
        return self.root / "torrents" / f"{info_hash.hex()}.torrent"

    def target(self, target: TargetFile) -> Path:
        """A catalogue's manifest file."""
        return self.root / "targets" / hashed_target(target.path, target)

    def staged(self, lesson: LessonId) -> Path:
        """The manifest file of a lesson that the next release publishes."""
        return self._work / "staged" / f"{lesson}.manifest"

    def withdrawal(self, lesson: LessonId) -> Path:
        """The reason of a withdrawal that the next release publishes."""
        return self._work / "staged" / f"{lesson}.withdrawal"

    def all_staged(self) -> list[Path]:
        """Every manifest file that is staged, by id."""
        return sorted((self._work / "staged").glob("*.manifest"))

    def all_withdrawals(self) -> list[Path]:
        """The reason of every withdrawal that is staged, by id."""
        return sorted((self._work / "staged").glob("*.withdrawal"))

    def reinstated(self, lesson: LessonId) -> tuple[int, int] | None:
        """What `reinstate` noted down of a lesson; None unless its withdrawal was undone."""
        try:
            version, said = self._reinstated(lesson).read_text(encoding="ascii").split()
        except FileNotFoundError:
            return None
        return int(version), int(said)

    def all_reinstated(self) -> list[LessonId]:
        """The lessons whose withdrawal was undone, published or not, by id."""
        return [LessonId(path.name) for path in sorted((self._work / "reinstated").glob("[a-z0-9]*"))]

    def reinstate(self, lesson: LessonId, version: int, said: int) -> None:
        """Note down that a lesson comes back after this version, and what editions have `said` of that so far."""
        self._reinstated(lesson).parent.mkdir(exist_ok=True)
        put(self._reinstated(lesson), b"%d %d" % (version, said))

    def end_reinstatement(self, lesson: LessonId) -> None:
        """Forget `reinstate`: the lesson is withdrawn once more."""
        self._reinstated(lesson).unlink(missing_ok=True)

    def _reinstated(self, lesson: LessonId) -> Path:
        return self._work / "reinstated" / lesson

    def put_draft(self, name: str, encoded: bytes) -> None:
        """Write metadata that waits for signatures, unless it is there just so."""
        self.signing.mkdir(exist_ok=True)
        path = self.signing / name
        if not path.exists() or path.read_bytes() != encoded:
            put(path, encoded)

    def clear_drafts(self, kept: Collection[str]) -> None:
        """Remove the drafts but those of these names."""
        for path in self.signing.glob("*.json"):
            if path.name not in kept:
                path.unlink()

    @contextmanager
    def incoming(self) -> Iterator[Path]:
        """A new folder for a copy under way; what is still there at the end is removed."""
        folder = self._work / "incoming" / os.urandom(8).hex()
        try:
            folder.mkdir(parents=True)
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def keep(self, lesson: LessonId, torrent: Torrent, layout: Layout, copy: Path) -> None:
        """Move the `copy` of a lesson's content to its place, unless it is there whole, and its torrent too."""
        mark = self._work / "taken" / f"{lesson}.{torrent.info_hash.hex()}"
        if not mark.exists():
            mark.touch()
        place = self.content(torrent.info_hash)
        if place.exists() and not _has_all(place, layout):
            shutil.rmtree(place)
        if not place.exists():
            copy.rename(place)
        if not self.torrent(torrent.info_hash).exists():
            put(self.torrent(torrent.info_hash), torrent.encoded)

    def has_whole(self, info_hash: InfoHash) -> bool:
        """Whether every file of a content has its size: after a power cut, what was not flushed is short or missing."""
        try:
            return _has_all(self.content(info_hash), layout_of(self.torrent(info_hash).read_bytes()))
        except FileNotFoundError:
            return False

    def put_edition(self, target: TargetFile, raw: bytes, torrent: Torrent, content: bytes) -> None:
        """Write a catalogue's edition to where nothing names it yet: its content, torrent and manifest."""
        folder = self.content(torrent.info_hash)
        folder.mkdir(exist_ok=True)
        put(folder / FILE_NAME, content)
        put(self.torrent(torrent.info_hash), torrent.encoded)
        self.target(target).parent.mkdir(parents=True, exist_ok=True)
        put(self.target(target), raw)

    def announce(self, live: Iterable[InfoHash], trackers: Sequence[str]) -> None:
        """Make the torrents of what is listed announce to `trackers`."""
        for info_hash in live:
            encoded = self.torrent(info_hash).read_bytes()
            if (announcing := with_trackers(encoded, trackers)) != encoded:
                put(self.torrent(info_hash), announcing)

    def put_whitelist(self, live: Iterable[InfoHash]) -> None:
        """Write the hashes that a tracker should serve, one a line (opentracker's `access.whitelist`)."""
        lines = sorted(
            each for info_hash in live for each in tracker_hashes(self.torrent(info_hash).read_bytes(), info_hash)
        )
        text = "".join(f"{line}\n" for line in lines).encode()
        if not self._whitelist.exists() or self._whitelist.read_bytes() != text:
            put(self._whitelist, text)

    def put_links(self, named: Mapping[str, bytes]) -> None:
        """Have these files below `o/`, written in this order, and no others."""
        folder = self.root / "o"
        folder.mkdir(exist_ok=True)
        for name, content in named.items():
            file = folder / name
            if not file.exists() or file.read_bytes() != content:
                put(file, content)
        for file in folder.iterdir():
            if file.name not in named:
                file.unlink()

    def edition_paths(self, info_hash: InfoHash, target: TargetFile) -> set[Path]:
        """What `put_edition` creates."""
        return {self.content(info_hash), self.torrent(info_hash), self.target(target)}

    def begin_release(self, paths: Iterable[Path]) -> None:
        """Note down what a release is about to create."""
        lines = sorted(str(path.relative_to(self.root)) for path in paths)
        put(self._releasing, "".join(f"{line}\n" for line in lines).encode())

    def roll_back(self, kept: Collection[Path]) -> None:
        """Remove drafts, copies under way, and what a release noted down, `kept` aside: what is named by now."""
        shutil.rmtree(self._work / "incoming", ignore_errors=True)
        places = [self.root / name for name in _WRITTEN]
        for place in (*places, *(self.root / "targets" / "catalogue").glob("*/")):
            for draft in place.glob(".*.part"):
                draft.unlink()
        if not self._releasing.exists():
            return
        for line in self._releasing.read_text(encoding="utf-8").splitlines():
            path = self.root / line
            if path not in kept:
                shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
        self._releasing.unlink()

    def clear_contents(
        self, published: Collection[InfoHash], drafted: Collection[InfoHash], known: Collection[LessonId]
    ) -> None:
        """Remove contents that nothing names: what is staged stays, and old versions of lessons still `known`."""
        staged = {path.stem for path in self.all_staged()}
        for mark in (self._work / "taken").glob("*.*"):
            info_hash = InfoHash(bytes.fromhex(mark.suffix[1:]))
            was_published = mark.stat().st_size > 0
            if info_hash in published:
                if not was_published:
                    put(mark, b"published")
            elif info_hash not in drafted and mark.stem not in staged and not (was_published and mark.stem in known):
                shutil.rmtree(self.content(info_hash), ignore_errors=True)
                self.torrent(info_hash).unlink(missing_ok=True)
                mark.unlink()


def _has_all(folder: Path, layout: Layout) -> bool:
    try:
        return all((folder / entry.path).stat().st_size == entry.size for entry in layout.files)
    except (FileNotFoundError, NotADirectoryError):
        return False
