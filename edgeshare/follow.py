"""Hearing of news: refresh the trust, admit new editions, and do it again; calmly when the origin is away."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from datetime import UTC, datetime
from random import Random

import trio

from edgeshare.admission import publisher_of
from edgeshare.config import Config
from edgeshare.errors import EdgeshareError, LibraryError, OriginError
from edgeshare.freshness import Clock
from edgeshare.keeper import Keeper
from edgeshare.origin.backoff import delay
from edgeshare.publishers import Publishers
from edgeshare.trust import Trust, Vouched

logger = logging.getLogger(__name__)


class Follower:
    """Keeps the node's catalogues up to date; what it knows of the origin is shown in `status`."""

    def __init__(self, trust: Trust, keeper: Keeper, config: Config, rng: Random) -> None:
        self.trouble: str | None = None  # what the last attempt met; None when it went well
        self.catalogue_trouble: dict[str, str] = {}
        self._warned: tuple[bool, Clock] = True, Clock.PLAUSIBLE
        self._trust = trust
        self._keeper = keeper
        self._config = config
        self._rng = rng
        self._underway: dict[str, tuple[Vouched, trio.CancelScope]] = {}

    @property
    def names(self) -> tuple[str, ...]:
        """The catalogues that are followed or shown, each once."""
        return tuple(dict.fromkeys([*self._config.follow, *self._config.show]))

    async def run(self) -> None:
        """Refresh and admit until cancelled."""
        failures = 0
        async with trio.open_nursery() as nursery:
            while True:
                try:
                    refreshed = await self._trust.refresh(self.counting)
                except EdgeshareError as error:
                    if isinstance(error, LibraryError):
                        self._keeper.doubt_disk()
                    failures += 1
                    self._report(str(error), error)
                    wait_s = min(delay(failures, self._rng), self._config.refresh_every_s)
                else:
                    if failures:
                        self._keeper.hear_again()
                    failures = 0
                    self._report(None)
                    missing = [name for name in refreshed.unpublished if name in self.names]
                    self._say({name: _absence(name, refreshed.publishers) for name in missing})
                    self._say(refreshed.refused)
                    await self._keeper.heed(refreshed.publishers, refreshed.catalogues)
                    self._admit(nursery, refreshed.catalogues)
                    # a crowd that started together should not come back together
                    wait_s = self._config.refresh_every_s * (0.75 + self._rng.random() / 2)
                self._warn()
                await trio.sleep(wait_s)

    @property
    def counting(self) -> tuple[str, ...]:
        """The catalogues of which the newest edition counts here; see `Keeper.bound_by`."""
        return tuple(dict.fromkeys([*self.names, *sorted(self._keeper.bound_by)]))

    def _admit(self, nursery: trio.Nursery, catalogues: Mapping[str, Vouched]) -> None:
        """Fetch the new editions side by side; one that is still under way is given up for the newer one."""
        for name, vouched in catalogues.items():
            if self._keeper.stands_on(vouched):
                self.catalogue_trouble.pop(name, None)
                continue
            if before := self._underway.get(name):
                if before[0].manifest == vouched.manifest:
                    continue
                before[1].cancel()
            scope = trio.CancelScope()
            self._underway[name] = (vouched, scope)
            nursery.start_soon(self._admit_one, name, vouched, scope)

    async def _admit_one(self, name: str, vouched: Vouched, scope: trio.CancelScope) -> None:
        with scope:
            self.catalogue_trouble[name] = f"edition {vouched.manifest.edition} is on its way"
            try:
                await self._keeper.admit(vouched)
            except EdgeshareError as error:
                self._say({name: f"edition {vouched.manifest.edition} is refused, {error}"})
            else:
                self.catalogue_trouble.pop(name, None)
            now = self._underway.get(name)
            if now and now[1] is scope:  # not when it was given up, whatever it came to after that
                del self._underway[name]

    def _say(self, troubles: Mapping[str, str]) -> None:
        """Keep, and log where it is new, why catalogues do not move on."""
        for name, trouble in troubles.items():
            if self.catalogue_trouble.get(name) != trouble:
                logger.error("%s: %s", name, trouble)
            self.catalogue_trouble[name] = trouble

    def _warn(self) -> None:
        """Log, where it is new, that nothing new can be accepted, or that the clock is wrong."""
        freshness = self._trust.freshness()
        state = freshness.is_fresh, freshness.clock
        if state != self._warned and (warning := freshness.warning(datetime.now(UTC))):
            logger.warning("%s", warning)
        self._warned = state

    def _report(self, trouble: str | None, error: EdgeshareError | None = None) -> None:
        """Log what changed, once."""
        if trouble != self.trouble:
            if trouble is None:
                logger.info("the origin is back")
            else:
                logger.log(logging.WARNING if isinstance(error, OriginError) else logging.ERROR, "%s", trouble)
        self.trouble = trouble


def _absence(catalogue: str, publishers: Publishers) -> str:
    """Why the repository has no catalogue of this name."""
    publisher = publisher_of(catalogue)
    if publisher in publishers.revoked and publisher not in publishers.delegations:
        return f"its publisher {publisher} was revoked: {publishers.revoked[publisher]}"
    return f"the repository has no catalogue {catalogue}"
