"""Which keys count and what is newest: python-tuf's client behind async calls.

- A refresh is all or nothing for us: a catalogue is taken only from an updater that has just refreshed whole, never
  from what an earlier one left on the disk.
- Mirrors are untrusted transport. Every one is asked for the next root and for the timestamp, so that none can hide a
  rotation or hold a node at an old edition; of several timestamps the highest that verifies wins. After something is
  refused, another round follows without the mirror that sent it; if that round goes better, and no honest mirror could
  have sent such a thing, it is set aside.
- Freshness is a value (`freshness.py`): when the metadata has expired, what was admitted before is still read and
  seeded; nothing new is taken.
"""

from __future__ import annotations

import hashlib
import logging
import re
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import TypeVar

import attrs
import trio
from tuf.api.exceptions import (
    DownloadError,
    DownloadHTTPError,
    DownloadLengthMismatchError,
    RepositoryError,
)
from tuf.api.metadata import Metadata, Root, TargetFile, Targets
from tuf.ngclient import Updater

from edgeshare import RELEASED, trusted
from edgeshare.errors import LibraryError, ManifestError, OriginError, TrustError
from edgeshare.freshness import Freshness, Held, judge
from edgeshare.manifest import MAX_MANIFEST, CatalogueManifest, read_catalogue
from edgeshare.publishers import Publishers
from edgeshare.refusals import LIES, MetadataRefused, Refusal, RefusalNote, explain
from edgeshare.signing import PublicKey
from edgeshare.sources import CONFIG, METADATA_URL, TARGETS_URL, MirrorFetcher, Places, Source
from edgeshare.targets import lesson_keys, publishers, target_path

REFRESH_S = 120.0  # for a whole refresh: a server that drips a byte a second must not hold the node for ever
_NOTES = 20  # refusals that are kept for `status`
_SAVE_EVERY = timedelta(hours=6)  # the time of the last refresh; what a refresh brought is saved at once

_AT_THE_TOP = Places()

_T = TypeVar("_T")

logger = logging.getLogger(__name__)


def _now() -> datetime:
    return datetime.now(UTC)


@attrs.frozen(kw_only=True)
class Vouched:
    """A catalogue's edition that the repository vouches for now, and the keys that may sign its lessons."""

    manifest: CatalogueManifest
    raw: bytes  # its signed file
    keys: Mapping[bytes, PublicKey]


@attrs.frozen(kw_only=True)
class Refreshed:
    """What one refresh found."""

    catalogues: Mapping[str, Vouched]
    unpublished: tuple[str, ...]  # asked for, and not in the repository
    refused: Mapping[str, str]  # catalogues whose edition cannot be taken, each with the reason in one line
    publishers: Publishers = attrs.field(factory=Publishers)


@attrs.frozen
class _Failure:
    """A catalogue that one mirror does not have as it should be."""

    refusal: Refusal
    reason: str  # in one line
    mirror: str | None  # who gave the last file for it


@attrs.frozen(kw_only=True)
class _Round:
    """What one round found."""

    catalogues: Mapping[str, Vouched]
    unpublished: tuple[str, ...]
    refused: Mapping[str, str]  # whichever mirror is asked
    failed: Mapping[str, _Failure]  # perhaps another mirror has it
    publishers: Publishers


class Newest:
    """The repository's newest metadata, verified whole a moment ago; for use in the updater's thread."""

    def __init__(self, updater: Updater, fetcher: MirrorFetcher, folder: Path) -> None:
        self._updater = updater
        self._fetcher = fetcher
        self._folder = folder

    def target(self, path: str) -> TargetFile | None:
        """The target of this path, from the most trusted role that has it; None when none has.

        Raises:
            RepositoryError: the metadata of a role is refused.
            DownloadError: it cannot be had.
        """
        return self._updater.get_targetinfo(path)

    def content(self, target: TargetFile) -> bytes:
        """The bytes of a target of this very refresh.

        Raises:
            RepositoryError: what came is something else.
            DownloadError: it cannot be had.
        """
        file = self._folder / "target"
        self._updater.download_target(target, filepath=str(file))
        raw = file.read_bytes()
        file.unlink()
        return raw

    def publishers(self) -> Publishers:
        """Who may publish.

        Raises:
            ManifestError: the targets role does not say it in its form.
        """
        return publishers(Metadata[Targets].from_file(str(self._folder / "targets.json")).signed)

    def failure(self, error: DownloadError | RepositoryError) -> _Failure:
        """What the last file's mirror did.

        Raises:
            DownloadError: no mirror could be reached: that is not one catalogue's trouble.
        """
        fetcher = self._fetcher
        if isinstance(error, DownloadHTTPError):
            return _Failure(Refusal.INCOMPLETE, f"an update is announced, and not complete yet: {error}", None)
        if isinstance(error, DownloadError) and not isinstance(error, DownloadLengthMismatchError):
            if fetcher.obstacle is not Refusal.TOO_LONG:
                raise error
            return _Failure(Refusal.TOO_LONG, str(fetcher.failure), None)
        refusal, reason = explain(error)
        return _Failure(refusal, f"{fetcher.path} is refused, {reason}", fetcher.mirror)


class Trust:
    """The trusted metadata in one folder, begun from one root."""

    def __init__(
        self,
        folder: Path,
        root: bytes | None,
        origins: Source,
        *,
        refresh_s: float = REFRESH_S,
        floor: datetime = RELEASED,
        now: Callable[[], datetime] = _now,
        at: Places = _AT_THE_TOP,
    ) -> None:
        """Take up what `folder` holds, which is this process's alone.

        Without a `root`, the folder's own `root.json` is the one to start from. `floor` is a moment before which it
        cannot be, whatever the clock says; `now` is the clock, aware. `at` says where metadata and targets are below
        the mirrors.
        """
        self.notes: deque[RefusalNote] = deque(maxlen=_NOTES)  # what was refused, the newest last
        self.refused: Counter[Refusal] = Counter()  # since the start
        self._folder = folder
        self._root = root
        self._origins = origins
        self._refresh_s = refresh_s  # how long one refresh may take, with all mirrors that it asks
        self._floor = floor
        self._now = now
        self._at = at
        self._turn = trio.CapacityLimiter(1)  # the updater wants the folder for itself
        self._hopeless: dict[str, int | None] = {}  # catalogues that no mirror had right, and under which snapshot
        self._raws: dict[str, bytes] = {}  # the manifests of the last refresh, by their SHA-256
        copy = trusted.saved(folder)
        self._refreshed = self._saved_at = copy.refreshed
        try:
            trusted.restore(folder, copy)
        except OSError as error:  # reading goes on; the next refresh says the same
            logger.error("%s", self._unwritable(error))
        self._held = trusted.held(folder)

    async def refresh(self, catalogues: tuple[str, ...]) -> Refreshed:
        """Ask the origins what is newest, and take the manifests of `catalogues`.

        Raises:
            OriginError: no origin answered.
            TrustError: what they answered is not to be trusted, or has expired.
            LibraryError: the metadata cannot be written.
        """
        with self._in_time():
            first = await self._verified(partial(self._found, catalogues), self._origins)
            return await self._mended(first)

    async def refresh_from(self, bundle: Source, catalogues: tuple[str, ...]) -> Refreshed:
        """As `refresh`, with a bundle in place of the origins; the rules are the same, and it is believed as little.

        Raises:
            OriginError, TrustError, LibraryError: as `refresh`.
        """
        with self._in_time():
            found = await self._verified(partial(self._found, catalogues), bundle)
        return _refreshed(found, found.catalogues, found.refused, found.failed)

    async def verified(self, use: Callable[[Newest], _T]) -> _T:
        """What `use` makes, in a thread, of the repository's newest metadata; it lets out what `Newest` raises.

        Raises:
            OriginError, TrustError, LibraryError: as `refresh`.
        """
        with self._in_time():
            return await self._verified(use, self._origins)

    def freshness(self) -> Freshness:
        """What the metadata that was accepted last is worth now."""
        return judge(self._now(), self._floor, self._held, self._refreshed)

    def versions(self) -> Mapping[str, int]:
        """The trusted version of each role; empty while not all are here."""
        return self._held.versions if self._held else {}

    @contextmanager
    def _in_time(self) -> Iterator[None]:
        try:
            with trio.fail_after(self._refresh_s):
                yield
        except trio.TooSlowError as error:
            what = f"the origin took more than {self._refresh_s:.0f} s to send its metadata"
            self._note(Refusal.TOO_SLOW, what)
            raise OriginError(what) from error

    async def _verified(self, use: Callable[[Newest], _T], source: Source, besides: frozenset[str] = frozenset()) -> _T:
        refused: MetadataRefused | None = None
        suspects: dict[str, MetadataRefused] = {}  # mirrors that sent what no honest one sends, if others do better
        while True:
            fetcher = MirrorFetcher(source, self._at, besides)
            try:
                # Cancelling reaches the thread: what it asks of the client is cancelled, and all that it asks after.
                found = await trio.to_thread.run_sync(self._use_newest, use, fetcher, limiter=self._turn)
            except MetadataRefused as error:
                refused = error
                self._note(error.refusal, str(error))
                if fetcher.mirror is None or (besides := besides | {fetcher.mirror}) >= source.mirrors:
                    raise
                if error.refusal in LIES:
                    suspects[fetcher.mirror] = error
            except OriginError as error:
                if refused:
                    raise refused from None  # what was wrong says more than that nobody else answers
                self._note(fetcher.obstacle, str(error))
                raise
            else:
                for mirror, lie in suspects.items():
                    source.set_aside(mirror, f"sends a {lie.path} that is refused, {lie.reason}")
                return found

    async def _mended(self, first: _Round) -> Refreshed:
        """The first round, and what other mirrors have of the catalogues that failed in it.

        What failed with every mirror is the publisher's doing: it is not asked for anew before the next snapshot.
        """
        catalogues, refused, failed = dict(first.catalogues), dict(first.refused), dict(first.failed)
        snapshot = self.versions().get("snapshot")
        names = [name for name in failed if self._hopeless.get(name) != snapshot]
        besides: frozenset[str] = frozenset()
        while names:
            culprits = {mirror for name in names if (mirror := failed[name].mirror)}
            if culprits <= besides:
                break
            besides |= culprits
            if besides >= self._origins.mirrors:
                self._hopeless |= dict.fromkeys(names, snapshot)
                break
            try:
                better = await self._verified(partial(self._found, tuple(names)), self._origins, besides)
            except (OriginError, TrustError):
                break  # nobody else answers as he should; those who did have given all else
            for name in better.catalogues:
                before = failed.pop(name)
                if before.refusal in LIES and before.mirror:
                    self._origins.set_aside(
                        before.mirror, f"sends {name} otherwise than it was signed: {before.reason}"
                    )
            catalogues |= better.catalogues
            refused |= better.refused
            failed |= better.failed
            names = list(better.failed)
        for name, failure in failed.items():
            self._note(failure.refusal, f"{name}: {failure.reason}")
        self._hopeless = {name: version for name, version in self._hopeless.items() if name in failed}
        kept = {hashlib.sha256(each.raw).hexdigest() for each in catalogues.values()}
        self._raws = {digest: raw for digest, raw in self._raws.items() if digest in kept}
        return _refreshed(first, catalogues, refused, failed)

    def _use_newest(self, use: Callable[[Newest], _T], fetcher: MirrorFetcher) -> _T:
        before = self._held
        try:
            updater = Updater(
                metadata_dir=str(self._folder),
                metadata_base_url=METADATA_URL,
                target_base_url=TARGETS_URL,
                target_dir=str(self._folder),
                fetcher=fetcher,
                config=CONFIG,
                bootstrap=self._root,
            )
            updater.refresh()
            self._held = trusted.held(self._folder)
            self._require_fresh(fetcher)
            found = use(Newest(updater, fetcher, self._folder))
            self._held = trusted.held(self._folder)  # with the publishers' roles
            self._save(before, fetcher.source)
        except DownloadHTTPError as error:
            if fetcher.path.endswith("/timestamp.json"):
                raise OriginError(f"metadata is missing, {error}", hint="is it a repository?") from error
            reason = f"an update is announced, and not complete yet ({error})"
            raise MetadataRefused(Refusal.INCOMPLETE, fetcher.who, fetcher.path, reason) from error
        except (DownloadLengthMismatchError, RepositoryError, ValueError) as error:
            refusal, reason = explain(error)
            raise MetadataRefused(refusal, fetcher.who, fetcher.path, reason) from error
        except DownloadError as error:
            raise OriginError(str(fetcher.failure or error)) from error
        except ManifestError as error:
            raise MetadataRefused(Refusal.INVALID, fetcher.who, "the targets metadata", str(error)) from error
        except OSError as error:
            raise self._unwritable(error) from error
        return found

    def _require_fresh(self, fetcher: MirrorFetcher) -> None:
        """The updater knows the clock alone; the moment that cannot be passed may be later."""
        fresh = self.freshness()
        if not fresh.is_fresh:
            reason = f"it expired on {fresh.expires:%Y-%m-%d}, and this machine's clock is behind"
            raise MetadataRefused(Refusal.EXPIRED, fetcher.who, f"the {fresh.role} metadata", reason)

    def _save(self, before: Held | None, source: Source) -> None:
        now = self._now()
        if source is self._origins:  # of a bundle, however new, the origin knows nothing
            self._refreshed = now
        age = abs(now - self._saved_at) if self._saved_at else None
        if self._held != before or age is None or age > _SAVE_EVERY:
            trusted.save(self._folder, self._refreshed)
            self._saved_at = now

    def _found(self, catalogues: tuple[str, ...], newest: Newest) -> _Round:
        """What is vouched for; what is wrong with one catalogue does not touch the others."""
        found: dict[str, Vouched] = {}
        unpublished: list[str] = []
        refused: dict[str, str] = {}
        failed: dict[str, _Failure] = {}
        for name in catalogues:
            try:
                if (vouched := self._vouched(newest, name)) is None:
                    unpublished.append(name)
                else:
                    found[name] = vouched
            except (ManifestError, TrustError) as error:
                refused[name] = str(error)
            except (DownloadError, RepositoryError) as error:
                failed[name] = newest.failure(error)
        return _Round(
            catalogues=found,
            unpublished=tuple(unpublished),
            refused=refused,
            failed=failed,
            publishers=newest.publishers(),
        )

    def _vouched(self, newest: Newest, name: str) -> Vouched | None:
        target = newest.target(target_path(name))
        if target is None:
            return None
        digest = str(target.hashes.get("sha256"))
        if not re.fullmatch("[0-9a-f]{64}", digest) or target.length > MAX_MANIFEST:
            raise ManifestError(f"the target of {name} has no SHA-256, or is longer than a manifest may be")
        raw = self._raws.get(digest) or newest.content(target)
        self._raws[digest] = raw
        keys = lesson_keys(target)
        manifest = read_catalogue(raw, keys)
        if manifest.name != name:
            raise TrustError(f"the manifest of {name} says that it is {manifest.name}")
        return Vouched(manifest=manifest, raw=raw, keys=keys)

    def _note(self, refusal: Refusal, what: str) -> None:
        self.refused[refusal] += 1
        if self.notes and self.notes[-1].what == what:  # the same again, a minute later: one line says it
            self.notes.pop()
        self.notes.append(RefusalNote(at=self._now(), refusal=refusal, what=what))

    def _unwritable(self, error: OSError) -> LibraryError:
        what = f"the trusted metadata in {self._folder} cannot be written ({error.strerror})"
        return LibraryError(what, hint="is the disk full or read-only?")


def _refreshed(
    first: _Round, catalogues: Mapping[str, Vouched], refused: Mapping[str, str], failed: Mapping[str, _Failure]
) -> Refreshed:
    """What a refresh found, when it has asked all that it may."""
    return Refreshed(
        catalogues=catalogues,
        unpublished=first.unpublished,
        refused={**refused, **{name: each.reason for name, each in failed.items()}},
        publishers=first.publishers,
    )


def check_root(raw: bytes) -> None:
    """Refuse bytes that cannot be a root of trust; whether they are the right one shows when it is used.

    Raises:
        TrustError: they are no root metadata, or their own keys did not sign them.
    """
    try:
        root = Metadata[Root].from_bytes(raw)
        if root.signed.type != Root.type:
            raise TrustError(f"it is {root.signed.type} metadata, not a root of trust")
        root.signed.verify_delegate(Root.type, root.signed_bytes, root.signatures)
    except (RepositoryError, ValueError) as error:
        raise TrustError("it is not a root of trust that its own keys signed") from error
