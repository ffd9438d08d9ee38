"""Why metadata is refused: one kind each, in words for a technician and as a metric's label."""

from __future__ import annotations

import enum
from datetime import datetime

import attrs
from tuf.api.exceptions import (
    BadVersionNumberError,
    DownloadLengthMismatchError,
    ExpiredMetadataError,
    LengthOrHashMismatchError,
    UnsignedMetadataError,
)
from tuf.api.serialization import DeserializationError

from edgeshare.errors import TrustError
from edgeshare.manifest import shown


class Refusal(enum.Enum):
    """A kind of metadata that brings nothing."""

    EXPIRED = "expired"
    OLDER = "older"
    SIGNATURES = "signatures"
    NOT_METADATA = "not_metadata"
    MIXED = "mixed"
    TOO_LONG = "too_long"
    TOO_SLOW = "too_slow"
    INCOMPLETE = "incomplete"
    UNREACHABLE = "unreachable"
    INVALID = "invalid"


# What no honest mirror sends, however far it lags behind.
LIES = frozenset({Refusal.SIGNATURES, Refusal.NOT_METADATA, Refusal.MIXED, Refusal.TOO_LONG, Refusal.INVALID})


@attrs.frozen(kw_only=True)
class RefusalNote:
    """One refusal, as `status` tells it."""

    at: datetime
    refusal: Refusal
    what: str  # the source, the file and the reason, in one line


class MetadataRefused(TrustError):
    """Metadata that may not be accepted; nothing of it is."""

    def __init__(self, refusal: Refusal, source: str, path: str, reason: str) -> None:
        if refusal is Refusal.EXPIRED:
            hint = "what was admitted stays readable; is this machine's clock right?"
        else:
            hint = "what was admitted stays readable; tell the publisher if it lasts"
        self.path = _harmless(path)
        super().__init__(f"{self.path} of {source} is refused, {reason}", hint=hint)
        self.refusal = refusal
        self.reason = reason


def explain(error: Exception) -> tuple[Refusal, str]:
    """The kind of what the updater refused, and the reason as the end of a sentence."""
    said = _harmless(str(error))
    match error:
        case ExpiredMetadataError():
            return Refusal.EXPIRED, f"it has expired ({said})"
        case DeserializationError():
            return Refusal.NOT_METADATA, "it is not TUF metadata (a login page?)"
        case UnsignedMetadataError():
            return Refusal.SIGNATURES, f"too few of the keys that count have signed it ({said})"
        case BadVersionNumberError():
            return Refusal.OLDER, f"it is older than what this machine has, or mixed ({said})"
        case LengthOrHashMismatchError():
            return Refusal.MIXED, f"it is not the file that was signed for ({said})"
        case DownloadLengthMismatchError():
            return Refusal.TOO_LONG, "it is longer than it may be"
    return Refusal.INVALID, f"it breaks a rule of TUF ({said})"


def _harmless(text: str) -> str:
    """Text that may hold what a publisher wrote, short and without what would command a terminal."""
    return text if len(text) <= 300 and text.isprintable() else shown(text)
