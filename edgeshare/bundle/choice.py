"""What of a library may be exported, and what goes with it so that others can believe it; no disk is touched here.

A lesson goes in the version that the newest edition lists, complete here, with the editions that list it; the metadata
names those very editions, or whoever imports it could not tell that they are the newest.
"""

from __future__ import annotations

import hashlib
from datetime import datetime, timedelta

import attrs

from edgeshare import trusted
from edgeshare.admission import listed, withdrawn
from edgeshare.bundle.known import Known
from edgeshare.catalogue import SignedLesson
from edgeshare.config import nearest
from edgeshare.errors import LibraryError, TrustError
from edgeshare.layout import Layout
from edgeshare.library.index import StoredCatalogue
from edgeshare.manifest import InfoHash, LessonId, shown
from edgeshare.swarm.session import read_info
from edgeshare.targets import target_path
from edgeshare.trusted import Published

LEAST_LEFT = timedelta(days=7)  # that the metadata must still be good for: a stick travels


class Refused(LibraryError):
    """A lesson that cannot be exported."""

    def __init__(self, lesson: str, what: str, *, hint: str | None = None) -> None:
        super().__init__(what, hint=hint)
        self.lesson = lesson


@attrs.frozen(kw_only=True)
class Content:
    """A content to be written."""

    info_hash: InfoHash
    info: bytes
    layout: Layout


@attrs.frozen(kw_only=True)
class Edition:
    """A catalogue's edition to be written."""

    name: str
    target: str  # below `targets/`
    manifest: bytes
    content: Content


@attrs.frozen(kw_only=True)
class Lesson:
    """A lesson to be written."""

    signed: SignedLesson
    editions: tuple[Edition, ...]  # that list it
    content: Content


def metadata_of(known: Known, now: datetime) -> Published:
    """What a library can hand on of its trusted metadata.

    Raises:
        TrustError: there is none, or it expires within the next days.
    """
    published = trusted.published(known.metadata)
    if published is None:
        what = "this node has no metadata yet that could vouch for lessons elsewhere"
        raise TrustError(what, hint="run it until `edgeshare status` shows a catalogue")
    if published.expires - now < LEAST_LEFT:
        what = f"nothing is exported: the {published.role} metadata expires on {published.expires:%Y-%m-%d}"
        raise TrustError(what, hint="let the node hear from its origin first; a stick must be good for a week")
    return published


def lesson_of(known: Known, published: Published, lesson: str) -> Lesson:
    """What is to be written of a lesson.

    Raises:
        Refused: it is withdrawn, unknown, not complete here, or not in step with the metadata.
    """
    here = listed(known.memory, known.memory.admitted)
    name = LessonId(lesson)
    if gone := withdrawn(known.memory).get(name):
        raise Refused(lesson, f"{lesson} was withdrawn, {shown(gone.why)}", hint="it is not to be passed on")
    if (backed := here.get(name)) is None:
        if name in known.served:
            raise Refused(lesson, f"{lesson} is no longer offered by its publisher", hint="it can be read here only")
        close = nearest(lesson, sorted(here))
        hint = f"did you mean {close}?" if close else "`edgeshare lessons` lists what there is"
        raise Refused(lesson, f"{shown(lesson)} is in no catalogue of this node", hint=hint)
    manifest = backed.manifest
    if not known.is_complete(manifest.info_hash):
        hint = f"`edgeshare get {lesson}` fetches it"
        raise Refused(lesson, f"{lesson} is not complete here in its version {manifest.version}", hint=hint)
    editions = [
        edition
        for catalogue in manifest.catalogues
        if (stored := known.catalogues.get(catalogue)) and (edition := edition_of(known, published, stored))
    ]
    if not editions:
        hint = "try again when `edgeshare status` shows it"
        raise Refused(lesson, f"{lesson} waits for the newest edition of {manifest.catalogues[0]}", hint=hint)
    return Lesson(signed=backed.lesson, editions=tuple(editions), content=_content(known, manifest.info_hash))


def edition_of(known: Known, published: Published, stored: StoredCatalogue) -> Edition | None:
    """A catalogue's edition, where it is the one that the metadata names, and complete here."""
    admitted = known.memory.admitted.get(stored.name)
    target = published.targets.get(target_path(stored.name))
    if admitted is None or target is None or not known.is_complete(admitted.manifest.info_hash):
        return None
    if hashlib.sha256(stored.manifest).hexdigest() not in target:
        return None
    content = _content(known, admitted.manifest.info_hash)
    return Edition(name=stored.name, target=target, manifest=stored.manifest, content=content)


def _content(known: Known, info_hash: InfoHash) -> Content:
    info = known.torrents[info_hash].info
    return Content(info_hash=info_hash, info=info, layout=read_info(info, info_hash))
