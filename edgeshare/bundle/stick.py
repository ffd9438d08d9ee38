"""A bundle as it is read: a folder that anybody may have written, on a stick that may be pulled at any moment.

Only regular files are opened, no link is followed, nothing waits for a FIFO; sizes are what the metadata says, never
what the stick does. Each byte is read once: what was checked is what was read.
"""

from __future__ import annotations

import io
import itertools
import os
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import trio

from edgeshare import host
from edgeshare.bundle.form import FOLDER, INDEX, MAX_INDEX, Bundle, Place, named, numbered_folder
from edgeshare.errors import LibraryError, ManifestError
from edgeshare.layout import FileEntry
from edgeshare.manifest import InfoHash
from edgeshare.origin.client import Given, NotFound, Unreachable

PORTION = 1 << 20  # bytes read at a time


class Gone(LibraryError):
    """The stick was pulled, or cannot be read any more."""

    def __init__(self, root: Path, reason: str) -> None:
        hint = "put it in again and run the same command: it goes on where it stopped"
        super().__init__(f"{root} went away ({reason})", hint=hint)


class Stick:
    """The bundle in one folder."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def read(self, place: Place, most: int) -> bytes:
        """A small file, of which at most `most` bytes are read, and one more where it is longer.

        Raises:
            FileNotFoundError: there is none, or something other than a plain file.
            Gone: the stick is.
        """
        with self._reading(), self._open(place) as file:
            return b"".join(_portions(file, most + 1))

    def table(self) -> Bundle:
        """What the bundle says is in it.

        Raises:
            LibraryError: there is no bundle.
            ManifestError: its table of contents is none.
        """
        try:
            return Bundle.parse(self.read((INDEX,), MAX_INDEX))
        except FileNotFoundError as error:
            hint = "name the folder that `edgeshare export` was given: it holds one of that name"
            raise LibraryError(f"{self.root} is no bundle of lessons", hint=hint) from error

    def portions(self, info_hash: InfoHash, number: int, entry: FileEntry, start: int = 0) -> Iterator[bytes]:
        """The bytes of a content's file from `start` on, as far as there are any, and no more than it should have.

        `number` is the file's place in the content's list.

        Raises:
            FileNotFoundError: there is none, or something other than a plain file.
            Gone: the stick is.
        """
        missing = entry.size - start
        with self._reading():
            for file in self._files(info_hash, number, entry):
                with file:
                    size = os.fstat(file.fileno()).st_size
                    if start < size:
                        file.seek(start)
                        for portion in _portions(file, missing):
                            missing -= len(portion)
                            yield portion
                    start = max(0, start - size)
                if not missing:
                    return

    def require(self) -> None:
        """Say so when the stick is gone.

        Raises:
            Gone: it is.
        """
        try:
            with self._reading():
                host.open_beneath(self.root, (INDEX,)).close()
        except FileNotFoundError as error:
            raise Gone(self.root, str(error.strerror)) from error

    def _files(self, info_hash: InfoHash, number: int, entry: FileEntry) -> Iterator[io.FileIO]:
        """Where a file is: whole under its number, else in parts, else under its name (see `form`)."""
        folder = numbered_folder(info_hash)
        try:
            yield self._open((*folder, str(number)))
            return
        except FileNotFoundError:
            pass
        for part in itertools.count(1):
            try:
                yield self._open((*folder, f"{number}.part{part}"))
            except FileNotFoundError:
                if part > 1:
                    return
                break
        yield self._open(named(info_hash, entry))

    def _open(self, place: Place) -> io.FileIO:
        try:
            return host.open_beneath(self.root, place)
        except FileNotFoundError:
            if place != (INDEX,):
                self.require()  # a stick that was pulled has nothing at all
            raise

    @contextmanager
    def _reading(self) -> Iterator[None]:
        """Tell a file that is not there from a stick that is not; a pulled one may say so when a file is closed."""
        try:
            yield
        except FileNotFoundError:
            raise
        except PermissionError as error:
            hint = "mount it so that the user whose library it is may read it, as with `-o umask=022`"
            raise LibraryError(f"{self.root} may not be read", hint=hint) from error
        except OSError as error:
            raise Gone(self.root, str(error.strerror)) from error


class Metadata:
    """A bundle's metadata as the trust asks for it; see `sources.Source`."""

    def __init__(self, stick: Stick) -> None:
        self.given_so_far: dict[Place, bytes] = {}  # each file that it gave
        self._stick = stick

    @property
    def mirrors(self) -> frozenset[str]:
        return frozenset({str(self._stick.root)})

    async def given(
        self, segments: Sequence[str], most: int, besides: Collection[str] = (), *, first: str | None = None
    ) -> Given:
        place = tuple(segments)
        try:
            content = await trio.to_thread.run_sync(self._stick.read, place, most)
        except FileNotFoundError as error:
            raise NotFound(f"{self._stick.root} has no {'/'.join(place)}") from error
        except Gone as error:
            raise Unreachable(str(error), retry_in_s=0.0, causes=[error]) from error
        self.given_so_far[place] = content
        return Given(content, str(self._stick.root))

    async def everywhere(self, segments: Sequence[str], most: int, besides: Collection[str] = ()) -> tuple[Given, ...]:
        return (await self.given(segments, most),)

    def set_aside(self, mirror: str, reason: str) -> None:
        """There is no other to ask."""


def _portions(file: io.FileIO, most: int) -> Iterator[bytes]:
    while most and (portion := file.read(min(PORTION, most))):
        most -= len(portion)
        yield portion


def bundle_in(folder: Path) -> Path:
    """The bundle's own folder, where somebody named it or the one that it lies in."""
    return folder if folder.name == FOLDER else folder / FOLDER


def missing(place: str) -> ManifestError:
    """What to say of a file that a bundle should have."""
    return ManifestError(f"{place} is not in the bundle, or is no plain file", hint="export the lesson again")
