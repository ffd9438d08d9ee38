"""What a node shows of itself to a browser, to the command line and to metrics: frozen values, and one interface.

The shim and the control socket know the node only through `Node`; tests give them one in memory.
"""

from __future__ import annotations

import enum
from collections.abc import AsyncGenerator, Mapping
from contextlib import AbstractAsyncContextManager
from datetime import datetime
from typing import Any, Protocol

import attrs

from edgeshare.freshness import Freshness
from edgeshare.hours import Opening
from edgeshare.layout import FileEntry
from edgeshare.library.room import AT_EASE, Disk
from edgeshare.limits import UNLIMITED, Limits
from edgeshare.manifest import LessonId, LessonManifest
from edgeshare.refusals import Refusal, RefusalNote


class State(enum.Enum):
    """Where a lesson stands on this node."""

    LISTED = "listed"  # known, and not asked for
    WAITING = "waiting"  # asked for; nobody has given its metadata yet, or its turn has not come
    FETCHING = "fetching"
    COMPLETE = "complete"  # every file verified and on the disk
    WITHDRAWN = "withdrawn"
    FAILED = "failed"  # `reason` says why; it is tried again where that can help


class Obstacle(enum.Enum):
    """Why a lesson that is wanted does not come at the moment, though nothing is wrong with it."""

    NOBODY = "nobody"  # no peer that can be reached has it, and no origin gives it
    LATER = "later"  # its time has not come: the night, or its appointment
    ROOM = "room"  # it does not fit beside what is kept
    DISK = "disk"  # the disk is full, or cannot be written
    METERED = "metered"  # the link is paid by the byte, or this month's share is used up


@attrs.frozen(kw_only=True)
class LessonView:
    """One lesson on this node, at one instant."""

    manifest: LessonManifest  # of the version that is served, or will be
    state: State
    reason: str | None = None  # why it stands still, for now or for good, in one line
    obstacle: Obstacle | None = None  # what the reason is about, where it stands still for now
    is_pinned: bool = False
    bytes_have: int = 0  # verified
    peers: int = 0  # connected
    crowd: int | None = None  # nodes believed to be after it, this one included; while it is fetched
    origin_bytes: Mapping[str, int] = attrs.field(factory=dict)  # taken from the origin, by reason
    peer_bytes: int = 0  # content that peers gave
    next_version: int | None = None  # being fetched beside the one that is served
    is_offered: bool = True  # False: no catalogue lists it any more; what is here stays readable
    table: tuple[FileEntry, ...] = ()  # its files, as soon as their list is here; of what is served
    is_brought: bool = False  # it is here, and no byte of it came over the network: a stick brought it, or it was here

    @property
    def share(self) -> float:
        """How much of it is here, 0 to 1."""
        return 1.0 if self.state is State.COMPLETE else min(1.0, self.bytes_have / self.manifest.size)

    def as_json(self) -> dict[str, Any]:
        """Its fields as the API and `--json` give them; fields are only ever added."""
        manifest = self.manifest
        return {
            "id": manifest.id,
            "version": manifest.version,
            "title": manifest.title,
            "state": self.state.value,
            "size": manifest.size,
            "bytes_have": self.bytes_have,
            "peers": self.peers,
            "crowd": self.crowd,
            "origin_bytes": sum(self.origin_bytes.values()),
            "origin_bytes_by_reason": dict(self.origin_bytes),
            "peer_bytes": self.peer_bytes,
            "reason": self.reason,
            "next_version": self.next_version,
            "offered": self.is_offered,
            "language": manifest.language,
            "levels": list(manifest.levels),
            "subjects": list(manifest.subjects),
            "description": manifest.description,
            "licence": manifest.licence,
            "role": manifest.role,
            "publisher": manifest.publisher,
            "start": manifest.start,
            "files": manifest.files,
            "info_hash": manifest.info_hash.hex(),
            "obstacle": self.obstacle.value if self.obstacle else None,
            "pinned": self.is_pinned,
            "brought": self.is_brought,
            "needed_at": _iso(manifest.needed_at),
            "available_from": _iso(manifest.available_from),
            "expires": _iso(manifest.expires),
        }


@attrs.frozen(kw_only=True)
class CatalogueView:
    """One catalogue that this node follows or shows."""

    name: str
    is_followed: bool
    edition: int | None  # None until one is here
    issued: datetime | None
    lessons: int
    trouble: str | None = None  # why the next edition is not here, in one line


@attrs.frozen(kw_only=True)
class MirrorView:
    """One origin of the config, and whether it is asked."""

    name: str  # its address, without a login
    is_aside: bool  # left alone until `until`, because of `reason`
    until: datetime | None = None
    reason: str | None = None  # in one line
    received_bytes: int = 0  # since the daemon started, HTTP headers included


@attrs.frozen(kw_only=True)
class Need:
    """What must be here at one moment: the lessons that this node fetches ahead for a class."""

    at: datetime
    lessons: int
    ready: int  # of them complete


@attrs.frozen(kw_only=True)
class NodeStatus:
    """The node as a whole, at one instant."""

    version: str  # of edgeshare
    profile: str
    catalogues: tuple[CatalogueView, ...]
    lessons: Mapping[State, int]  # how many are in each state
    freshness: Freshness  # of the origin's metadata
    trouble: str | None  # what the last attempt to hear from the origin met; None when it went well
    origin_bytes: Mapping[str, int]  # received since the daemon started, HTTP headers included, by reason
    peer_bytes: int
    uploaded_bytes: int
    peers: int
    free_bytes: int  # on the library's disk
    mirrors: tuple[MirrorView, ...] = ()  # in the config's order
    warning: str | None = None  # what is wrong with the metadata's age or this machine's clock, in one line
    refusals: tuple[RefusalNote, ...] = ()  # the last metadata that was refused, the newest last
    refused: Mapping[Refusal, int] = attrs.field(factory=dict)  # how often since the daemon started
    metadata_versions: Mapping[str, int] = attrs.field(factory=dict)  # trusted, by role
    quota: int = 0  # bytes
    used_bytes: int = 0  # of the quota; what is being fetched counts whole
    disk: Disk = AT_EASE  # the library's, and why nothing is fetched when it has no room
    needs: tuple[Need, ...] = ()  # of the days to come, the next first
    limits: Limits = UNLIMITED  # in force towards the outside
    outside_bytes: int = 0  # to and from the outside in this month
    pinned_bytes: int = 0  # of lessons that stay whatever else needs room
    opening: Opening | None = None  # the hours for fetching ahead, those of now or the next ones; None: they never end
    started: datetime | None = None  # when what follows was zero; None where nobody counts
    served_bytes: Mapping[str, int] = attrs.field(factory=dict)  # to readers since then, by source (`shim.tally`)
    served_this_month: int = 0  # of lessons, to readers, in the same month as `outside_bytes`
    readers: int = 0  # connections that they have open now

    def for_readers(self) -> dict[str, Any]:
        """What any reader may know: which catalogues there are, and whether the node is well. No figure of its use."""
        return {
            "version": self.version,
            "profile": self.profile,
            "catalogues": [
                {
                    "name": each.name,
                    "followed": each.is_followed,
                    "edition": each.edition,
                    "issued": _iso(each.issued),
                    "lessons": each.lessons,
                    "trouble": each.trouble,
                }
                for each in self.catalogues
            ],
            "lessons": {state.value: count for state, count in self.lessons.items()},
            "metadata_expires": _iso(self.freshness.expires),
            "metadata_signed": _iso(self.freshness.issued),
            "fresh": self.freshness.is_fresh,
            "clock": self.freshness.clock.value,
            "refreshed": _iso(self.freshness.refreshed),
            "warning": self.warning,
            "trouble": self.trouble,
        }

    def as_json(self) -> dict[str, Any]:
        """Its fields as the API and `--json` give them; fields are only ever added."""
        return {
            **self.for_readers(),
            "metadata_versions": dict(self.metadata_versions),
            "refused": {refusal.value: count for refusal, count in self.refused.items()},
            "refusals": [
                {"at": _iso(note.at), "reason": note.refusal.value, "what": note.what} for note in self.refusals
            ],
            "origin_bytes": sum(self.origin_bytes.values()),
            "origin_bytes_by_reason": dict(self.origin_bytes),
            "peer_bytes": self.peer_bytes,
            "uploaded_bytes": self.uploaded_bytes,
            "peers": self.peers,
            "free_bytes": self.free_bytes,
            "quota": self.quota,
            "used_bytes": self.used_bytes,
            "disk": self.disk.as_json(),
            "metered": self.limits.is_metered,
            "metered_because": self.limits.reason,
            "upload_limit": self.limits.upload,
            "download_limit": self.limits.download,
            "outside_bytes": self.outside_bytes,
            "pinned_bytes": self.pinned_bytes,
            "opening": [_iso(self.opening.start), _iso(self.opening.stop)] if self.opening else None,
            "started": _iso(self.started),
            "served_bytes": sum(self.served_bytes.values()),
            "served_bytes_by_source": dict(self.served_bytes),
            "served_this_month": self.served_this_month,
            "readers": self.readers,
            "needs": [{"at": _iso(each.at), "lessons": each.lessons, "ready": each.ready} for each in self.needs],
            "mirrors": [
                {
                    "name": each.name,
                    "aside": each.is_aside,
                    "until": _iso(each.until),
                    "reason": each.reason,
                    "received_bytes": each.received_bytes,
                }
                for each in self.mirrors
            ],
        }


def _iso(moment: datetime | None) -> str | None:
    return moment.isoformat() if moment else None


class OpenLesson(Protocol):
    """A lesson while somebody reads one of its files."""

    def file(self, path: str) -> FileEntry | None:
        """The entry of `path` in the lesson's own table; None when it has no such file."""
        ...

    @property
    def etag(self) -> str:
        """What names these contents: the info-hash, in hex."""
        ...

    def descriptor(self, entry: FileEntry) -> int | None:
        """An open descriptor of a file that is complete and unaltered, which the caller closes; else None."""
        ...

    def stream(self, entry: FileEntry, start: int, stop: int) -> AsyncGenerator[bytes, None]:
        """The verified bytes of a file from `start` up to `stop`, as they arrive; asks for them before all others.

        Closing it withdraws the wish. Raises `SwarmError` or `LibraryError` when the lesson goes away.
        """
        ...


@attrs.frozen(kw_only=True)
class Arrival:
    """What became of one lesson that `edgeshare import` brought."""

    lesson: LessonId
    refused: str | None = None  # why it is not here

    def as_json(self) -> dict[str, Any]:
        """Its fields as the control socket gives them."""
        return {"id": self.lesson, "refused": self.refused}


@attrs.frozen(kw_only=True)
class Standing:
    """What the pages say of the node as a whole, at one instant; for less than its whole status takes."""

    freshness: Freshness  # of the origin's metadata
    trouble: str | None  # what the last attempt to hear from the origin met; None when it went well
    issued: datetime | None  # when the newest edition of its catalogues was; None until one is here
    disk: Disk = AT_EASE  # the library's
    needs: tuple[Need, ...] = ()  # of the days to come, the next first


class Node(Protocol):
    """What the shim and the control socket may ask of a node."""

    def lessons(self) -> tuple[LessonView, ...]:
        """Every lesson that may be shown now, by level, subject and title; withdrawn ones are left out."""
        ...

    def listing(self) -> tuple[LessonManifest, ...]:
        """The manifests of the same lessons, in the same order; the very same tuple as long as they are the same.

        With thousands of them, who needs the state of some asks for that by `lesson`.
        """
        ...

    def lesson(self, lesson: LessonId) -> LessonView | None:
        """One lesson, a withdrawn one too; None when this node has not heard of it, or may not show it yet."""
        ...

    def standing(self) -> Standing:
        """What its pages say of it."""
        ...

    def status(self) -> NodeStatus:
        """The node as a whole; with 5,000 lessons held it takes 50 ms to count them."""
        ...

    async def want(self, lesson: LessonId) -> None:
        """Fetch a lesson because somebody asked for it by name; kept through restarts.

        Raises:
            LibraryError: no catalogue of this node lists it, or it was withdrawn.
        """
        ...

    async def pin(self, lesson: LessonId) -> None:
        """Fetch a lesson, and keep it whatever else needs room, until it is unpinned.

        Raises:
            LibraryError: as `want`.
        """
        ...

    async def unpin(self, lesson: LessonId) -> None:
        """Let a lesson go again when something else needs its room.

        Raises:
            LibraryError: it is not pinned.
        """
        ...

    async def take_in(self) -> tuple[Arrival, ...]:
        """Take in what `edgeshare import` has copied for this node.

        Raises:
            LibraryError: it is still copying, or the library's disk fails.
            ManifestError: what was copied is damaged as a whole.
        """
        ...

    def complete(self, lesson: LessonId) -> OpenLesson | None:
        """The files of a lesson that is complete and may be read at any hour, at once; it counts as read.

        None says nothing: `lesson` and `read` do. What is given is asked for at once, and not kept.
        """
        ...

    def read(self, lesson: LessonId) -> AbstractAsyncContextManager[OpenLesson]:
        """The lesson's files, for as long as the context lasts; starts fetching one that is only listed.

        Waits until the list of its files is here. Raises `LibraryError` when it never will be.
        """
        ...

    async def change(self) -> None:
        """Wait until something that `lessons` or `status` tells has changed; at most about once a second."""
        ...
