"""What can go wrong in a way that a person can mend: one line, whole, with the next step in it."""

from __future__ import annotations


class EdgeshareError(Exception):
    """Says what happened, to what, and what to do next; `str()` is the line that a person sees."""

    def __init__(self, what: str, *, hint: str | None = None) -> None:
        super().__init__(f"{what}: {hint}" if hint else what)
        self.what = what
        self.hint = hint


class ConfigError(EdgeshareError):
    """The node's config, or the command line, asks for something that cannot be."""


class LessonError(EdgeshareError):
    """A lesson folder cannot be published as it is."""


class ManifestError(EdgeshareError):
    """Bytes that claim to be a manifest, a catalogue or a torrent and are not, or that break a rule of the format."""


class OriginError(EdgeshareError):
    """No origin gave what was asked of it, or not the right thing."""


class TrustError(EdgeshareError):
    """Metadata or a signature that the node may not accept, or a key that cannot be used."""


class LibraryError(EdgeshareError):
    """The library, its disk or its lock."""


class RepositoryError(EdgeshareError):
    """The publisher's repository is not there, not whole, or in use."""
