"""What a library stands on, read without its daemon: for the command line."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import attrs

from edgeshare import trusted
from edgeshare.admission import Backed, Memory, revocation
from edgeshare.errors import EdgeshareError, LibraryError
from edgeshare.ledger import read_served, recall
from edgeshare.library.index import Index, StoredCatalogue, StoredTorrent
from edgeshare.manifest import InfoHash, LessonId
from edgeshare.trusted import Saved


@attrs.frozen(kw_only=True)
class Known:
    """What a library has admitted and holds, at one moment."""

    metadata: Saved = attrs.field(factory=lambda: Saved(files={}, refreshed=None))
    memory: Memory = attrs.field(factory=Memory)
    catalogues: Mapping[str, StoredCatalogue] = attrs.field(factory=dict)
    served: Mapping[LessonId, Backed] = attrs.field(factory=dict)  # complete versions, perhaps not the newest
    torrents: Mapping[InfoHash, StoredTorrent] = attrs.field(factory=dict)

    def is_complete(self, content: InfoHash) -> bool:
        """Whether all of a content was verified on the disk when it was looked at last."""
        held = self.torrents.get(content)
        return held is not None and held.stamps is not None


def is_library(folder: Path) -> bool:
    """Whether a node has ever run on this folder."""
    return (folder / "index.sqlite").exists()


@contextmanager
def index_of(library: Path) -> Iterator[Index]:
    """The index of a library, whether its daemon runs or not.

    Raises:
        LibraryError: there is none, or it cannot be read.
    """
    try:
        if not is_library(library):
            hint = "run a node first, or name its library with --library or --config"
            raise LibraryError(f"{library} is not a node's library, so no key is trusted here", hint=hint)
        index = Index(library / "index.sqlite")
        try:
            yield index
        finally:
            index.close()
    except (OSError, sqlite3.Error) as error:
        hint = "run this as the user that the daemon runs as"
        raise LibraryError(f"the library {library} cannot be read ({error})", hint=hint) from error


def known(library: Path) -> Known:
    """What the library stands on, as its daemon would take it up at a start; what is damaged is left out.

    Raises:
        LibraryError: it is none, or cannot be read.
    """
    with index_of(library) as index:
        kept = index.memory()
        catalogues = {each.name: each for each in index.catalogues()}
        torrents = {each.info_hash: each for each in index.torrents()}
        rows = index.lessons()
    memory, _ = recall(kept, catalogues.values())
    served: dict[LessonId, Backed] = {}
    for row in rows:
        try:
            backed = read_served(row)
        except EdgeshareError:
            continue
        if backed is None:
            continue
        if memory.publishers is None or revocation(memory.publishers, backed) is None:
            served[row.id] = backed
    return Known(
        metadata=trusted.saved(library / "trust"),
        memory=memory,
        catalogues=catalogues,
        served=served,
        torrents=torrents,
    )


def first_root(copy: Saved) -> bytes | None:
    """The root that a library began from, as far as its trusted metadata still has it."""
    roots = {
        int(path.removeprefix("root_history/").split(".")[0]): raw
        for path, raw in copy.files.items()
        if path.startswith("root_history/")
    }
    return roots[min(roots)] if roots else None
