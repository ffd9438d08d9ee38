"""Which keys count and what is newest: python-tuf's client behind async calls.

A refresh is all or nothing for us: a catalogue is taken only from an updater that has just refreshed whole, never from
what an earlier one left on the disk. Freshness is a value: when the metadata has expired, what was admitted before is
still read and seeded; nothing new is taken.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import unquote, urlsplit

import attrs
import trio
from tuf.api.exceptions import (
    BadVersionNumberError,
    DownloadError,
    DownloadHTTPError,
    DownloadLengthMismatchError,
    ExpiredMetadataError,
    RepositoryError,
    UnsignedMetadataError,
)
from tuf.api.metadata import Metadata, Root
from tuf.api.serialization import DeserializationError
from tuf.ngclient import Updater, UpdaterConfig
from tuf.ngclient.fetcher import FetcherInterface

from edgeshare.errors import LibraryError, ManifestError, OriginError, TrustError
from edgeshare.manifest import CatalogueManifest, read_catalogue
from edgeshare.origin.client import NotFound, OriginClient
from edgeshare.signing import PublicKey
from edgeshare.targets import hashed_target, lesson_keys, target_path

_BASE = "https://repository.invalid/"  # the updater wants URLs; ours are paths, and the client knows the mirrors
REFRESH_S = 120.0  # for a whole refresh: a server that drips a byte a second must not hold the node for ever
_MAX_FILE = 5_000_000  # bytes; the updater's own limit for targets, its others are lower
_ROLES = ("root", "timestamp", "snapshot", "targets")


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
    refused: Mapping[str, str]  # catalogues whose manifest cannot be right, each with the reason in one line
    expires: datetime  # when the newest metadata stops being fresh


class Trust:
    """The trusted metadata in one folder, begun from one root."""

    def __init__(self, folder: Path, root: bytes, origins: OriginClient, *, refresh_s: float = REFRESH_S) -> None:
        self._folder = folder
        self._root = root
        self._origins = origins
        self._refresh_s = refresh_s  # how long one refresh may take, with all mirrors that it asks
        self._turn = trio.CapacityLimiter(1)  # the updater wants the folder for itself
        self._raws: dict[str, bytes] = {}  # the manifests' files of the last refresh, by their path: it has their hash

    async def refresh(self, catalogues: tuple[str, ...]) -> Refreshed:
        """Ask the origins what is newest, and take the manifests of `catalogues`.

        A mirror whose metadata is refused is left alone for a while, and the next one asked.

        Raises:
            OriginError: no origin answered.
            TrustError: what they answered is not to be trusted, or has expired.
            LibraryError: the metadata cannot be written.
        """
        try:
            with trio.fail_after(self._refresh_s):
                return await self._refresh_in_turn(catalogues)
        except trio.TooSlowError as error:
            raise OriginError(f"the origin took more than {self._refresh_s:.0f} s to send its metadata") from error

    def expires(self) -> datetime | None:
        """When the metadata that was accepted last stops being fresh; None when there is none yet, or not all."""
        try:
            return min(_expiry((self._folder / f"{role}.json").read_bytes()) for role in _ROLES)
        except (RepositoryError, OSError, ValueError):
            return None

    async def _refresh_in_turn(self, catalogues: tuple[str, ...]) -> Refreshed:
        refused: TrustError | None = None
        besides: frozenset[str] = frozenset()
        while True:
            fetcher = _Fetcher(self._origins, besides)
            try:
                # Cancelling reaches the thread: what it asks of the client is cancelled, and all that it asks after.
                return await trio.to_thread.run_sync(self._refresh, catalogues, fetcher, limiter=self._turn)
            except TrustError as error:
                refused = error
                if fetcher.mirror is None or (besides := besides | {fetcher.mirror}) >= self._origins.mirrors:
                    raise
            except OriginError:
                if refused:
                    raise refused from None  # what was wrong says more than that nobody else answers
                raise

    def _refresh(self, catalogues: tuple[str, ...], fetcher: _Fetcher) -> Refreshed:
        try:
            updater = Updater(
                metadata_dir=str(self._folder),
                metadata_base_url=f"{_BASE}metadata/",
                target_base_url=f"{_BASE}targets/",
                target_dir=str(self._folder),
                fetcher=fetcher,
                config=UpdaterConfig(),
                bootstrap=self._root,
            )
            updater.refresh()
            found, refused = self._found(updater, fetcher, catalogues)
        except DownloadHTTPError as error:
            hint = "is it a repository, and its release complete?"
            raise OriginError(f"metadata is missing, {error}", hint=hint) from error
        except DownloadError as error:
            if isinstance(error, DownloadLengthMismatchError):
                raise TrustError(f"the metadata of {fetcher.who} is refused, it is longer than it may be") from error
            raise OriginError(fetcher.last_error or str(error)) from error
        except ExpiredMetadataError as error:
            hint = "what was admitted stays readable; is this machine's clock right?"
            raise TrustError(f"the metadata of {fetcher.who} has expired ({error})", hint=hint) from error
        except (RepositoryError, ValueError) as error:
            hint = "what was admitted stays readable; tell the publisher if it lasts"
            raise TrustError(f"the metadata of {fetcher.who} is refused, {_reason(error)}", hint=hint) from error
        except OSError as error:
            raise LibraryError(
                f"the trusted metadata in {self._folder} cannot be written ({error.strerror})",
                hint="is the disk full or read-only?",
            ) from error
        return Refreshed(
            catalogues={name: vouched for name, vouched in found.items() if vouched},
            unpublished=tuple(name for name, vouched in found.items() if not vouched),
            refused=refused,
            expires=self.expires() or datetime.now(UTC),
        )

    def _found(
        self, updater: Updater, fetcher: _Fetcher, catalogues: tuple[str, ...]
    ) -> tuple[dict[str, Vouched | None], dict[str, str]]:
        """What is vouched for, None where nothing is; and what cannot be right, which does not touch the others."""
        found: dict[str, Vouched | None] = {}
        refused: dict[str, str] = {}
        for name in catalogues:
            try:
                found[name] = self._vouched(updater, fetcher, name)
            except (ManifestError, TrustError) as error:
                refused[name] = str(error)
        vouched = {each.raw for each in found.values() if each}
        self._raws = {path: raw for path, raw in self._raws.items() if raw in vouched}
        return found, refused

    def _vouched(self, updater: Updater, fetcher: _Fetcher, name: str) -> Vouched | None:
        target = updater.get_targetinfo(target_path(name))
        if target is None:
            return None
        path = hashed_target(target.path, target)
        raw = self._raws.get(path) or b"".join(fetcher.fetch(f"{_BASE}targets/{path}"))
        target.verify_length_and_hashes(raw)
        self._raws[path] = raw
        keys = lesson_keys(target)
        manifest = read_catalogue(raw, keys)
        if manifest.name != name:
            raise TrustError(f"the manifest of {name} says that it is {manifest.name}")
        return Vouched(manifest=manifest, raw=raw, keys=keys)


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


class _Fetcher(FetcherInterface):
    """What the updater fetches by, in its thread: paths of the repository through the node's own origin client."""

    def __init__(self, origins: OriginClient, besides: frozenset[str]) -> None:
        self.last_error: str | None = None
        self.mirror: str | None = None  # who gave the last file
        self._origins = origins
        self._besides = besides  # mirrors that are not to be asked

    @property
    def who(self) -> str:
        """Whose metadata it is that was looked at last, as a message names it."""
        return self.mirror or "this machine"

    def _fetch(self, url: str) -> Iterator[bytes]:
        # Not a generator: the updater turns errors into its own kind only while this function runs.
        path = unquote(urlsplit(url).path).lstrip("/")
        try:
            given = trio.from_thread.run(self._origins.given, path, _MAX_FILE, self._besides)
        except NotFound as error:
            raise DownloadHTTPError(str(error), 404) from error
        except OriginError as error:
            self.last_error = str(error)
            raise DownloadError(str(error)) from error
        self.mirror = given.mirror
        return iter([given.content])


def _expiry(raw: bytes) -> datetime:
    expires: datetime = Metadata.from_bytes(raw).signed.expires
    return expires


def _reason(error: Exception) -> str:
    if isinstance(error, DeserializationError):
        return "it is not TUF metadata (a login page?)"
    if isinstance(error, UnsignedMetadataError):
        return f"too few of the keys that count have signed it ({error})"
    if isinstance(error, BadVersionNumberError):
        return f"it is older than what this machine has, or mixed ({error})"
    return str(error)
