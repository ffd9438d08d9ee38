"""What a repository's folder says, all publishers together, and how it comes to say the next thing.

Everything is signed in memory before anything is written, and everything that the timestamp names is on the disk before
it does. What lacks signatures stays as a draft, with its files in place and nothing that names them.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import datetime
from pathlib import Path

import attrs
from tuf.api.metadata import Metadata, Targets

from edgeshare.catalogue import SignedLesson, newest
from edgeshare.errors import RepositoryError, TrustError
from edgeshare.publish import metadata as tuf
from edgeshare.publish import staging
from edgeshare.publish.drafts import Standing, read_drafts
from edgeshare.publish.editions import (
    Catalogue,
    Catalogues,
    NewEdition,
    announced,
    every,
    listed,
    live,
    named,
    read_catalogues,
)
from edgeshare.publish.keys import TOP_ROLES, Keys
from edgeshare.publish.linkpage import index_files, page_files
from edgeshare.publish.places import Places
from edgeshare.publish.released import Published, Released, compared, warnings


class Publication:
    """The published and the drafted state of one repository; whoever has it holds the lock."""

    def __init__(self, places: Places, keys: Keys) -> None:
        self._places = places
        self._keys = keys
        self.standing: Standing = read_drafts(places.signing, tuf.read(places.metadata))
        self.catalogues: Catalogues = self._read(self.standing.published.publishers)
        drafts = self.standing.drafts
        self.drafted: Catalogues = self._read({name: drafts[name] for name in drafts if name not in TOP_ROLES})
        self._clear_left_overs()

    def settle(
        self, standing: Standing, now: datetime, *, new: Sequence[NewEdition] = (), ours: Collection[str] = ()
    ) -> Released:
        """Sign the drafts of `standing` that are new or `ours`, keep them, and publish what is complete.

        `new` are the editions that a publisher's draft names and that are not written yet.

        Raises:
            RepositoryError: content that would be published is not whole, or something cannot be written in TUF's JSON.
            TrustError: a key cannot be used.
            OSError: the repository cannot be written.
        """
        standing = standing.completed(now)
        made = {role for role, draft in standing.drafts.items() if draft is not self.standing.drafts.get(role)}
        standing = standing.signed(self._keys, *(made | set(ours)))
        before = Published(standing.published, self.catalogues)
        metadata = tuf.shown(before.metadata, standing.ready(), self._keys, now)
        if not tuf.is_shown(metadata):
            metadata = before.metadata  # it waits for the machine that has the online keys
        pool = [*every(self.catalogues), *every(self.drafted), *(each.catalogue for each in new)]
        after = Published(metadata, {name: named(role, pool) for name, role in metadata.publishers.items()})
        known = live(every(before.catalogues))
        for item in listed(after.catalogues):
            if item.manifest.info_hash not in known:
                self.require_whole(item)
        self._write(before, after, standing, new)
        left = {role: draft for role, draft in standing.drafts.items() if draft is not tuf.role_of(metadata, role)}
        self.standing = Standing(published=metadata, drafts=left)
        self.catalogues = after.catalogues
        self.drafted = {name: named(role, pool) for name, role in left.items() if name not in TOP_ROLES}
        self._clear_left_overs()
        return compared(before, after, self.standing.waiting(), now)

    def refresh(self, now: datetime) -> Released:
        """Publish the drafts that are complete, and sign a new timestamp in any case; as `settle`."""
        before = self.standing.published.timestamp
        released = self.settle(self.standing, now)
        if self.standing.published.timestamp is before:
            alive = sign_of_life(self._places, self.standing.published, self._keys, now)
            self.standing = attrs.evolve(self.standing, published=alive)
        published = self.standing.published
        return attrs.evolve(released, expires=published.expires, warnings=warnings(published, now))

    def require_whole(self, item: SignedLesson) -> None:
        """Refuse a lesson whose content is not there with all its bytes: `add` flushes nothing to the disk.

        Raises:
            RepositoryError: it is not whole.
        """
        if not self._places.has_whole(item.manifest.info_hash):
            what = f"the content of {item.manifest.id}, which is staged, is not whole"
            raise RepositoryError(what, hint="add it again, then release")

    def _write(self, before: Published, after: Published, standing: Standing, new: Sequence[NewEdition]) -> None:
        drafts = {_file(role, draft): tuf.encode(draft) for role, draft in standing.drafts.items()}
        self._places.begin_release(
            self._edition_paths([*(each.catalogue for each in new), *every(self.drafted)])
            | {self._places.metadata / name for name in tuf.next_files(before.metadata, after.metadata)}
        )
        for each in new:
            self._places.put_edition(each.catalogue.target, each.raw, each.torrent, each.content)
        for file, encoded in drafts.items():
            self._places.put_draft(file, encoded)
        if after.metadata != before.metadata:
            for info_hash, urls in announced(every(after.catalogues)).items():
                self._places.announce([info_hash], urls)
            self._places.put_whitelist(live([*every(before.catalogues), *every(after.catalogues)]))
            os.sync()  # the copies that `add` made; once, for all
            tuf.write(self._places.metadata, before.metadata, after.metadata)

    def _clear_left_overs(self) -> None:
        """Remove what a release, or a run that was killed, left behind.

        A superseded version stays: nodes that have not heard of the next one still fetch it. What was withdrawn goes.
        """
        published, drafted = every(self.catalogues), every(self.drafted)
        self._places.roll_back(
            self._edition_paths([*published, *drafted])
            | {self._places.metadata / name for name in tuf.files(self.standing.published)}
        )
        self._places.clear_drafts({_file(role, draft) for role, draft in self.standing.drafts.items()})
        known = newest(each.edition for each in published)
        staging.clear(self._places, known, self.standing.publishers)
        self._places.clear_contents(live(published), live(drafted), known.keys())
        self._places.put_whitelist(live(published))
        self._places.put_links(page_files() | index_files(item.manifest for item in listed(self.catalogues)))

    def _read(self, roles: Mapping[str, Metadata[Targets]]) -> Catalogues:
        return {name: read_catalogues(self._places, role) for name, role in roles.items()}

    def _edition_paths(self, catalogues: Iterable[Catalogue]) -> set[Path]:
        return {
            path
            for catalogue in catalogues
            for path in self._places.edition_paths(catalogue.manifest.info_hash, catalogue.target)
        }


def sign_of_life(
    places: Places, published: tuf.RepositoryMetadata, keys: Keys, now: datetime
) -> tuf.RepositoryMetadata:
    """Sign and write a new timestamp over the same snapshot.

    Raises:
        TrustError: the key for timestamps is not here, or the root names another.
    """
    alive = tuf.alive(published, published, keys, now)
    if not tuf.is_shown(alive):
        keys.signer("timestamp")  # that it is not there is said by who looked
        hint = "`edgeshare publish keys list` shows those that do; where they are, `edgeshare publish release`"
        raise TrustError("the keys here for snapshot and timestamp do not count", hint=hint)
    tuf.write(places.metadata, published, alive)
    return alive


def _file(role: str, draft: Metadata[Targets]) -> str:
    return f"{draft.signed.version}.{role}.json"
