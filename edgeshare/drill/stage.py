"""The drill's lesson in the publisher's repository: random bytes, published with an appointment, and withdrawn.

Nothing else is published: what an editor has staged stays staged. A drill that was killed is cleared away by the next
one, once its lesson has expired.
"""

from __future__ import annotations

import os
import tempfile
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

import attrs

from edgeshare import vocabulary
from edgeshare.config import nearest
from edgeshare.errors import EdgeshareError, RepositoryError, TrustError
from edgeshare.manifest import LessonId, LessonManifest
from edgeshare.publish.keys import Keys
from edgeshare.publish.released import Released
from edgeshare.publish.repository import Repository, open_repository

REASON = "L’exercice est terminé"  # of the withdrawal, for readers
_NEVER = "2999-01-01T00:00:00+00:00"  # when the lesson may be shown
_KEPT = timedelta(hours=1)  # after the drill; from then on another one may clear its lesson away


@attrs.frozen(kw_only=True)
class Plan:
    """What to rehearse."""

    repository: Path
    keys: Path
    catalogue: str | None = None  # its followers are who takes part; None where only one is published
    size: int  # bytes
    start: datetime
    lasts_s: float  # how long it is watched, at most
    audience: int | None = None  # as in a lesson's manifest
    nodes: tuple[str, ...] = ()  # base URLs
    logs: tuple[Path, ...] = ()
    counters: str | None = None  # of `edgeshare origin serve --counters`
    trackers: tuple[str, ...] = ()  # instead of those that are published
    after_release: str | None = None  # a command, so that the tracker reads its list anew


@attrs.frozen(kw_only=True)
class Published:
    """The lesson as nodes and trackers know it."""

    lesson: LessonManifest
    hashes: tuple[bytes, ...]
    trackers: tuple[str, ...]
    cleared: tuple[LessonId, ...]  # earlier drills' lessons, withdrawn with this release


def publish(plan: Plan) -> Published:
    """Make the lesson and release it.

    Raises:
        EdgeshareError: it cannot be; then nothing of it is published or staged.
    """
    now = _now()
    with open_repository(plan.repository, Keys(plan.keys)) as repository:
        name = _catalogue(repository, plan.catalogue)
        cleared = _clear(repository, now)
        with tempfile.TemporaryDirectory(prefix="edgeshare-drill-") as temporary:
            lesson = _free_id(repository, plan.start)
            folder = Path(temporary) / lesson
            _write(folder, lesson, name, plan)
            manifest = repository.add(folder, vocabulary.built_in()).manifest
        try:
            released = _release(repository, now, lesson)
        except EdgeshareError:
            with suppress(EdgeshareError):
                repository.withdraw(lesson, "it was never released")  # only staged, so this drops it
                repository.release(now, only=lesson)  # and this what may wait for signatures
            raise
        catalogue = next(each for each in released.catalogues if each.name == name)
        hashes = tuple(bytes.fromhex(each) for each in repository.tracker_hashes(manifest.info_hash))
        return Published(lesson=manifest, hashes=hashes, trackers=catalogue.trackers, cleared=cleared)


def _catalogue(repository: Repository, wanted: str | None) -> str:
    names = [each.name for each in repository.catalogues]
    if wanted is None and len(names) == 1:
        return names[0]
    published = f"published are: {', '.join(names) or 'none yet'}"
    if wanted is None:
        raise RepositoryError("a drill is for the followers of one catalogue", hint=f"name it; {published}")
    if wanted not in names:
        close = nearest(wanted, names)
        hint = f"did you mean {close}?" if close else published
        raise RepositoryError(f"no catalogue {wanted} is published here, so nobody follows it", hint=hint)
    return wanted


def _clear(repository: Repository, now: datetime) -> tuple[LessonId, ...]:
    """Withdraw what drills left behind that were killed."""
    left = tuple(each.id for each in repository.lessons if each.is_rehearsal and each.expires and each.expires < now)
    for lesson in left:
        repository.withdraw(lesson, REASON)
        _release(repository, now, lesson)
    return left


def _release(repository: Repository, now: datetime, lesson: LessonId) -> Released:
    """Release the drill's lesson, or its withdrawal, at once: it is of no use in a draft.

    Raises:
        TrustError: keys are missing.
    """
    released = repository.release(now, only=lesson)
    if any(each.role == repository.publisher for each in released.waiting):
        hint = "give --keys a folder with all keys that a release needs"
        raise TrustError(f"{lesson} waits for signatures, and its time will not", hint=hint)
    return released


def _free_id(repository: Repository, start: datetime) -> LessonId:
    number = 1
    while repository.is_taken(lesson := LessonId(f"drill-{start:%Y%m%d}-{number}")):
        number += 1
    return lesson


def _write(folder: Path, lesson: LessonId, catalogue: str, plan: Plan) -> None:
    """A lesson of random bytes, which no two drills share and nothing packs."""
    page = f"<!doctype html><title>{lesson}</title><p>Exercice : {lesson}</p>\n".encode()
    folder.mkdir()
    (folder / "index.html").write_bytes(page)
    with (folder / "noise.bin").open("wb") as noise:
        left = max(1, plan.size - len(page))
        while left:
            left -= noise.write(os.urandom(min(left, 2**20)))
    level, teacher, _ = catalogue.partition("/")[2].partition(".")
    expires = (plan.start + timedelta(seconds=plan.lasts_s) + _KEPT).replace(microsecond=0)
    lines = [
        f'id = "{lesson}"',
        f'title = "Exercice du {plan.start:%d/%m/%Y}"',
        'language = "fr"',
        f'levels = ["{level}"]',
        'subjects = ["mathematiques"]',
        'description = "Des octets au hasard, pour un exercice. Rien à lire."',
        'licence = "CC0-1.0"',
        'start = "index.html"',
        f'role = "{"teacher" if teacher else "learner"}"',
        f"available_from = {_NEVER}",
        f"expires = {expires.isoformat()}",
        f"fetch_from = {plan.start.isoformat()}",
    ]
    lines += [f"audience = {plan.audience}"] if plan.audience else []
    (folder / "lesson.toml").write_text("\n".join(lines) + "\n", encoding="utf-8")


def withdraw(plan: Plan, lesson: LessonId) -> None:
    """Take the lesson back, for good.

    Raises:
        EdgeshareError: it cannot be now.
    """
    with open_repository(plan.repository, Keys(plan.keys)) as repository:
        if any(each.id == lesson for each in repository.lessons):  # or somebody was faster
            repository.withdraw(lesson, REASON)
            _release(repository, _now(), lesson)


def _now() -> datetime:
    return datetime.now(UTC).replace(microsecond=0)  # TUF's times have whole seconds
