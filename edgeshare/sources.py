"""Where the updater's files come from: every mirror of the repository, or a bundle's folder, none of them believed.

- A next root and the timestamp are asked of all mirrors side by side. That there is no next root counts only when every
  mirror that answers says so; of the timestamps the one with the highest version is tried.
- What a timestamp names is asked first of the mirror that gave it.
- Who gave the last file is remembered: what is wrong with it is that mirror's doing.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterator, Sequence
from typing import Final, Protocol
from urllib.parse import unquote

import attrs
import trio
from tuf.api.exceptions import DownloadError, DownloadHTTPError
from tuf.ngclient import UpdaterConfig
from tuf.ngclient.fetcher import FetcherInterface

from edgeshare.errors import OriginError
from edgeshare.origin.answers import TooLong, TooSlow
from edgeshare.origin.client import Given, NotFound, Unreachable
from edgeshare.refusals import Refusal

METADATA_URL: Final = "https://repository.invalid/metadata/"  # the updater wants URLs; the client knows the mirrors
TARGETS_URL: Final = "https://repository.invalid/targets/"
CONFIG: Final = UpdaterConfig()
_MOST_TARGET = 5_000_000  # bytes
_MOST = {  # bytes of a metadata file, as the updater has it; any other is a targets role's
    "root": CONFIG.root_max_length,
    "timestamp": CONFIG.timestamp_max_length,
    "snapshot": CONFIG.snapshot_max_length,
}


class Source(Protocol):
    """What metadata comes from: the origins of a repository (`origin.client.OriginClient`), or a bundle."""

    @property
    def mirrors(self) -> frozenset[str]:
        """All that can be asked, as messages name them."""
        ...

    async def given(
        self, segments: Sequence[str], most: int, besides: Collection[str] = (), *, first: str | None = None
    ) -> Given:
        """See `OriginClient.given`."""
        ...

    async def everywhere(self, segments: Sequence[str], most: int, besides: Collection[str] = ()) -> tuple[Given, ...]:
        """See `OriginClient.everywhere`."""
        ...

    def set_aside(self, mirror: str, reason: str) -> None:
        """See `OriginClient.set_aside`."""
        ...


@attrs.frozen
class Places:
    """Where a repository's files are below its mirrors, as the segments of a path."""

    metadata: tuple[str, ...] = ("metadata",)
    targets: tuple[str, ...] = ("targets",)


class MirrorFetcher(FetcherInterface):
    """Gives the updater, in its thread, the files below `METADATA_URL` and `TARGETS_URL`."""

    def __init__(self, source: Source, at: Places, besides: frozenset[str]) -> None:
        """Ask all mirrors of `source` but `besides`, where `at` says that metadata and targets are."""
        self.failure: OriginError | None = None  # why the last file did not come
        self.mirror: str | None = None  # who gave the last file
        self.path = "metadata"  # of the last file
        self.source = source
        self._metadata, self._targets = at.metadata, at.targets
        self._besides = besides  # mirrors that are not to be asked
        self._newest: str | None = None  # who gave the timestamp, and so will have what it names

    @property
    def who(self) -> str:
        """Whose metadata it is that was looked at last, as a message names it."""
        return self.mirror or "this machine"

    @property
    def obstacle(self) -> Refusal:
        """What kept all mirrors from giving the last file."""
        causes = self.failure.causes if isinstance(self.failure, Unreachable) else ()
        if any(isinstance(cause, TooLong) for cause in causes):
            return Refusal.TOO_LONG
        if any(isinstance(cause, TooSlow) for cause in causes):
            return Refusal.TOO_SLOW
        return Refusal.UNREACHABLE

    def _fetch(self, url: str) -> Iterator[bytes]:
        # Not a generator: the updater turns errors into its own kind only while this function runs.
        try:
            given = trio.from_thread.run(self._give, url)
        except NotFound as error:
            raise DownloadHTTPError(str(error), 404) from error
        except OriginError as error:
            self.failure = error
            raise DownloadError(str(error)) from error
        self.mirror = given.mirror
        return iter([given.content])

    async def _give(self, url: str) -> Given:
        source, besides = self.source, self._besides
        if not url.startswith(METADATA_URL):
            target = url.removeprefix(TARGETS_URL)  # the updater leaves a target's name as it is
            segments = (*self._targets, *target.split("/"))
            self.path = "/".join(segments)
            return await source.given(segments, _MOST_TARGET, besides, first=self._newest)
        name = unquote(url.removeprefix(METADATA_URL))
        segments = (*self._metadata, name)  # a role's name may have a `/` in it
        self.path = "/".join(segments)
        most = _MOST.get(re.sub(r"^\d+\.|\.json$", "", name), CONFIG.targets_max_length)
        if re.fullmatch(r"\d+\.root\.json", name):
            return (await source.everywhere(segments, most, besides))[0]
        if name == "timestamp.json":
            all_given = await source.everywhere(segments, most, besides)
            given = max(all_given, key=_version)
            for each in all_given:
                if _version(each) < 0 <= _version(given):
                    source.set_aside(each.mirror, f"sends a {self.path} that is not TUF metadata (a login page?)")
            self._newest = given.mirror
            return given
        return await source.given(segments, most, besides, first=self._newest)


def _version(given: Given) -> int:
    """The version that a timestamp claims, nothing of it verified; -1 when it claims none."""
    try:
        version = json.loads(given.content)["signed"]["version"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return -1
    return version if isinstance(version, int) else -1
