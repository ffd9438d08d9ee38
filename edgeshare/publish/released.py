"""What a publication has changed, told by comparing what was published before with what is now."""

from __future__ import annotations

from datetime import datetime

import attrs

from edgeshare.catalogue import withdrawn
from edgeshare.manifest import CatalogueManifest, LessonId, LessonManifest
from edgeshare.publish.drafts import Waiting
from edgeshare.publish.editions import Catalogues, every, listed
from edgeshare.publish.metadata import RepositoryMetadata, role_of


@attrs.frozen(kw_only=True)
class Released:
    """What was published, and what waits."""

    catalogues: tuple[CatalogueManifest, ...] = ()  # the new editions; empty when there was nothing to release
    lessons: tuple[LessonManifest, ...] = ()  # new or in a new version
    withdrawn: tuple[LessonId, ...] = ()
    roles: tuple[str, ...] = ()  # of root, targets and the publishers, those that have a new version
    waiting: tuple[Waiting, ...] = ()
    warnings: tuple[str, ...]
    expires: datetime  # when nodes stop taking anything new, unless it is renewed before


@attrs.frozen
class Published:
    """All that a repository says at one time."""

    metadata: RepositoryMetadata
    catalogues: Catalogues


def compared(before: Published, after: Published, waiting: tuple[Waiting, ...], now: datetime) -> Released:
    """What has come since `before`."""
    editions = {each.manifest for each in every(before.catalogues)}
    lessons = {item.manifest for item in listed(before.catalogues)}
    gone = withdrawn(each.edition for each in every(before.catalogues))
    roles = ("root", "targets", *after.metadata.publishers)
    return Released(
        catalogues=tuple(each.manifest for each in every(after.catalogues) if each.manifest not in editions),
        lessons=tuple(item.manifest for item in listed(after.catalogues) if item.manifest not in lessons),
        withdrawn=tuple(
            lesson
            for lesson in sorted(withdrawn(each.edition for each in every(after.catalogues)))
            if lesson not in gone
        ),
        roles=tuple(name for name in roles if role_of(after.metadata, name) is not role_of(before.metadata, name)),
        waiting=waiting,
        warnings=warnings(after.metadata, now),
        expires=after.metadata.expires,
    )


def warnings(metadata: RepositoryMetadata, now: datetime) -> tuple[str, ...]:
    """One line for each role that has less than half of its life left."""
    return tuple(f"the {role} metadata expires on {expires:%Y-%m-%d}" for role, expires in metadata.ageing(now).items())
