"""Which keys count and what is newest: python-tuf's client behind async calls.

A refresh is all or nothing for us: a catalogue is taken only from an updater that has just refreshed whole, never from
what an earlier one left on the disk. Freshness is a value: when the metadata has expired, what was admitted before is
still read and seeded; nothing new is taken.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import attrs
import trio
from tuf.api.exceptions import (
    DownloadError,
    DownloadHTTPError,
    ExpiredMetadataError,
    RepositoryError,
    UnsignedMetadataError,
)
from tuf.api.metadata import Metadata, TargetFile, Timestamp
from tuf.api.serialization import DeserializationError
from tuf.ngclient import Updater, UpdaterConfig
from tuf.ngclient.fetcher import FetcherInterface

from edgeshare.errors import ManifestError, OriginError, TrustError
from edgeshare.manifest import MAX_MANIFEST, CatalogueManifest, read_catalogue
from edgeshare.origin.client import NotFound, OriginClient
from edgeshare.signing import PublicKey, is_usable

logger = logging.getLogger(__name__)

_BASE = "https://repository.invalid/"  # the updater wants URLs; ours are paths, and the client knows the mirrors
_REFRESH_S = 120.0  # for a whole refresh: a server that drips a byte a second must not hold the node for ever
_MAX_FILE = 8 * 2**20  # bytes; the updater's own limits are lower, kind by kind


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
    expires: datetime  # when the newest metadata stops being fresh


class Trust:
    """The trusted metadata in one folder, begun from one root; one refresh at a time."""

    def __init__(self, folder: Path, root: bytes, origins: OriginClient) -> None:
        self._folder = folder
        self._root = root
        self._origins = origins

    async def refresh(self, catalogues: tuple[str, ...]) -> Refreshed:
        """Ask the origins what is newest, and take the manifests of `catalogues`.

        Raises:
            OriginError: no origin answered.
            TrustError: what they answered is not to be trusted, or has expired.
        """
        token = trio.lowlevel.current_trio_token()
        try:
            with trio.fail_after(_REFRESH_S):
                return await trio.to_thread.run_sync(self._refresh, catalogues, token)
        except trio.TooSlowError as error:
            raise OriginError(f"the origin took more than {_REFRESH_S:.0f} s to send its metadata") from error

    def expires(self) -> datetime | None:
        """When the timestamp that was accepted last stops being fresh; None when there is none yet."""
        try:
            return Metadata[Timestamp].from_bytes((self._folder / "timestamp.json").read_bytes()).signed.expires
        except (RepositoryError, OSError, ValueError):
            return None

    def _refresh(self, catalogues: tuple[str, ...], _: trio.lowlevel.TrioToken) -> Refreshed:
        fetcher = _Fetcher(self._origins)
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
            found = {name: self._vouched(updater, fetcher, name) for name in catalogues}
        except DownloadError as error:
            raise OriginError(fetcher.last_error or f"the origin's metadata cannot be fetched ({error})") from error
        except ExpiredMetadataError as error:
            hint = "what was admitted stays readable; is this machine's clock right?"
            raise TrustError(f"the origin's metadata has expired ({error})", hint=hint) from error
        except (RepositoryError, ValueError) as error:
            raise TrustError(f"the origin's metadata is refused, {_reason(error)}") from error
        except OSError as error:
            raise TrustError(
                f"the trusted metadata in {self._folder} cannot be written ({error.strerror})",
                hint="is the disk full or read-only?",
            ) from error
        return Refreshed(
            catalogues={name: vouched for name, vouched in found.items() if vouched},
            unpublished=tuple(name for name, vouched in found.items() if not vouched),
            expires=self.expires() or datetime.now(UTC),
        )

    def _vouched(self, updater: Updater, fetcher: _Fetcher, name: str) -> Vouched | None:
        target = updater.get_targetinfo(target_path(name))
        if target is None:
            return None
        if target.length > MAX_MANIFEST:
            raise TrustError(f"the manifest of {name} has {target.length} bytes, more than {MAX_MANIFEST}")
        raw = b"".join(fetcher.fetch(f"{_BASE}targets/{hashed_target(target.path, target)}"))
        target.verify_length_and_hashes(raw)
        keys = lesson_keys(target)
        manifest = read_catalogue(raw, keys)
        if manifest.name != name:
            raise TrustError(f"the manifest of {name} says that it is {manifest.name}")
        return Vouched(manifest=manifest, raw=raw, keys=keys)


def target_path(catalogue: str) -> str:
    """The TUF target that names a catalogue's edition."""
    return f"catalogue/{catalogue}.manifest"


def hashed_target(path: str, target: TargetFile) -> str:
    """Where a target's bytes are below `targets/` (consistent snapshots, TUF specification §6.2).

    Raises:
        ManifestError: the target has no SHA-256.
    """
    if "sha256" not in target.hashes:
        raise ManifestError(f"the target {path} has no SHA-256")
    folder, _, name = path.rpartition("/")
    return f"{folder}/{target.hashes['sha256']}.{name}"


def vouching(*keys: PublicKey) -> dict[str, object]:
    """What a catalogue's target says beside its hash: the keys that may sign its manifests."""
    listed = {key.id.hex(): {"scheme": key.scheme, "public": key.public.hex()} for key in keys}
    return {"edgeshare": {"lesson_keys": listed}}


def lesson_keys(target: TargetFile) -> dict[bytes, PublicKey]:
    """The keys, by id, that a catalogue's target vouches for; those that cannot be used are left out.

    Raises:
        ManifestError: the target says nothing of keys, or not in their form.
    """
    custom: Any = target.custom
    try:
        listed = custom["edgeshare"]["lesson_keys"].values()
        keys = [PublicKey(str(entry["scheme"]), bytes.fromhex(entry["public"])) for entry in listed]
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ManifestError(f"the target {target.path} does not name the keys of its lessons") from error
    return {key.id: key for key in keys if is_usable(key)}


class _Fetcher(FetcherInterface):
    """What the updater fetches by, in its thread: paths of the repository through the node's own origin client."""

    def __init__(self, origins: OriginClient) -> None:
        self._origins = origins
        self.last_error: str | None = None

    def _fetch(self, url: str) -> Iterator[bytes]:
        # Not a generator: the updater turns errors into its own kind only while this function runs.
        path = unquote(urlsplit(url).path).lstrip("/")
        try:
            return iter([trio.from_thread.run(self._origins.file, path, _MAX_FILE)])
        except NotFound as error:
            raise DownloadHTTPError(str(error), 404) from error
        except OriginError as error:
            self.last_error = str(error)
            raise DownloadError(str(error)) from error


def _reason(error: Exception) -> str:
    if isinstance(error, DeserializationError):
        return "it is not TUF metadata (a login page?)"
    if isinstance(error, UnsignedMetadataError):
        return f"too few of the keys that count have signed it ({error})"
    return str(error)
