"""What a signed manifest says of a content, and whether the metadata that came says the same. Pure."""

from __future__ import annotations

from typing import Self

import attrs

from edgeshare.layout import Layout
from edgeshare.manifest import CatalogueManifest, InfoHash, LessonManifest

MISFIT = "the torrent's files are not those that its manifest names"


@attrs.frozen(kw_only=True)
class Expected:
    """What a signed manifest says of a content, held against its metadata."""

    info_hash: InfoHash
    size: int  # bytes
    files: int
    audience: int | None = None  # nodes expected to want it
    is_edition: bool = False  # of a catalogue: it may withdraw something, and is fetched while there is any room

    @classmethod
    def of_lesson(cls, manifest: LessonManifest) -> Self:
        """What a lesson's manifest says."""
        return cls(info_hash=manifest.info_hash, size=manifest.size, files=manifest.files, audience=manifest.audience)

    @classmethod
    def of_edition(cls, manifest: CatalogueManifest) -> Self:
        """What a catalogue's manifest says."""
        return cls(info_hash=manifest.info_hash, size=manifest.size, files=1, is_edition=True)

    @property
    def shape(self) -> tuple[int, int]:
        """What is held against the metadata: bytes, and files."""
        return self.size, self.files

    def fits(self, layout: Layout) -> bool:
        """Whether the metadata is what the manifest says."""
        return self.shape == (layout.size, len(layout.files))
