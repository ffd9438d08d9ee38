"""`edgeshare run`: reads the config, wires the parts, owns the nursery. Nothing else knows all parts."""

from __future__ import annotations

import logging
import socket
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from datetime import UTC, datetime, timedelta
from functools import partial
from random import SystemRandom
from typing import NoReturn

import attrs
import trio

from edgeshare import __version__, cycles, host, vocabulary
from edgeshare.bundle.arrival import Arrivals
from edgeshare.config import Config, Endpoint, ShimConfig
from edgeshare.control import serve_control
from edgeshare.errors import ConfigError, TrustError
from edgeshare.follow import Follower
from edgeshare.holdings import Reading
from edgeshare.httpd import server
from edgeshare.keeper import Keeper
from edgeshare.library.library import open_library
from edgeshare.link import Link
from edgeshare.manifest import LessonId, LessonManifest
from edgeshare.origin.client import open_origins
from edgeshare.origin.feed import Lines
from edgeshare.origin.mirrors import MirrorState
from edgeshare.parts import Parts
from edgeshare.shim.quick import Quick
from edgeshare.shim.routes import may_wait, shim
from edgeshare.shim.tally import Tally
from edgeshare.swarm.session import open_swarm
from edgeshare.trust import Trust, check_root
from edgeshare.view import Arrival, CatalogueView, LessonView, MirrorView, NodeStatus, Standing

logger = logging.getLogger(__name__)

QUIET_S = 15.0  # how often a node at rest is looked at anew: peers, and news of the origin, change without a word


@attrs.frozen
class RunningNode:
    """The node as the shim and the control socket see it; see `view.Node`."""

    config: Config
    parts: Parts
    keeper: Keeper
    trust: Trust
    follower: Follower
    arrivals: Arrivals
    link: Link
    tally: Tally

    def lessons(self) -> tuple[LessonView, ...]:
        return self.keeper.display.lessons()

    def listing(self) -> tuple[LessonManifest, ...]:
        return self.keeper.roll.listing()

    def lesson(self, lesson: LessonId) -> LessonView | None:
        return self.keeper.display.lesson(lesson)

    def complete(self, lesson: LessonId) -> Reading | None:
        return self.keeper.complete(lesson)

    def read(self, lesson: LessonId) -> AbstractAsyncContextManager[Reading]:
        return self.keeper.read(lesson)

    async def want(self, lesson: LessonId) -> None:
        await self.keeper.want(lesson)

    async def pin(self, lesson: LessonId) -> None:
        await self.keeper.pin(lesson)

    async def unpin(self, lesson: LessonId) -> None:
        await self.keeper.unpin(lesson)

    async def take_in(self) -> tuple[Arrival, ...]:
        return await self.arrivals.take_in()

    async def change(self) -> None:
        with trio.move_on_after(1.0 if self.keeper.is_busy else QUIET_S):
            await self.keeper.change()
            await trio.sleep(0.2)  # several changes at once are one for those who look

    def standing(self) -> Standing:
        admitted = map(self.keeper.admitted.get, self.follower.names)
        return Standing(
            freshness=self.trust.freshness(),
            trouble=self.follower.trouble or self.parts.origins.last_error,
            issued=max((each.manifest.issued for each in admitted if each), default=None),
            disk=self.parts.library.disk,
            needs=self.keeper.display.needs(),
        )

    def status(self) -> NodeStatus:
        now = datetime.now(UTC)
        traffic = self.parts.swarm.traffic()
        freshness = self.trust.freshness()
        catalogues = []
        for name in self.follower.names:
            admitted = self.keeper.admitted.get(name)
            catalogues.append(
                CatalogueView(
                    name=name,
                    is_followed=name in self.config.follow,
                    edition=admitted.manifest.edition if admitted else None,
                    issued=admitted.manifest.issued if admitted else None,
                    lessons=len(admitted.edition.lessons) if admitted else 0,
                    trouble=self.follower.catalogue_trouble.get(name) or (admitted.trouble if admitted else None),
                )
            )
        return NodeStatus(
            version=__version__,
            profile=self.config.profile,
            catalogues=tuple(catalogues),
            lessons=self.keeper.display.states(),
            freshness=freshness,
            warning=freshness.warning(now),
            refusals=tuple(self.trust.notes),
            refused=dict(self.trust.refused),
            metadata_versions=self.trust.versions(),
            trouble=self.follower.trouble or self.parts.origins.last_error,
            origin_bytes=dict(self.parts.origins.received),
            peer_bytes=traffic.from_peers,
            uploaded_bytes=traffic.to_peers,
            peers=traffic.peers,
            free_bytes=self.parts.library.disk.free or 0,  # its disk may be gone
            disk=self.parts.library.disk,
            quota=self.config.quota,
            used_bytes=self.keeper.used_bytes,
            needs=self.keeper.display.needs(),
            limits=self.link.limits,
            outside_bytes=self.link.used_bytes,
            pinned_bytes=self.keeper.display.pinned_bytes(),
            opening=self.keeper.display.opening(),
            started=self.tally.started,
            served_bytes=self.tally.served,
            served_this_month=self.tally.of_lessons_this_month,
            readers=self.tally.readers,
            mirrors=tuple(_mirror(state, now) for state in self.parts.origins.states()),
        )


async def run_node(config: Config, *, task_status: trio.TaskStatus[Endpoint] = trio.TASK_STATUS_IGNORED) -> None:
    """Run one node until cancelled; started, with the shim's address, when browsers can read.

    Raises:
        EdgeshareError: it cannot start as configured, or a part failed that nothing can stand in for.
    """
    rng = SystemRandom()
    root = read_root(config)
    async with AsyncExitStack() as stack:
        library = await stack.enter_async_context(open_library(config.library, config.keep_free))
        listeners, shim_config = await _listen(config.shim, stack)
        origins = await stack.enter_async_context(open_origins(config.origins, rng, proxy=config.origin.proxy))
        swarm = await stack.enter_async_context(open_swarm(config.swarm, rng=rng))
        parts = Parts(library, swarm, origins, Lines(), rng)
        trust = Trust(config.library / "trust", root, origins)
        link = Link(swarm, origins, library, config)
        keeper = Keeper(
            parts,
            config,
            believed=lambda: trust.freshness().certain(datetime.now(UTC)),
            is_metered=lambda: link.limits.is_metered,
        )
        follower = Follower(trust, keeper, config, rng)
        arrivals = Arrivals(library, trust, keeper, lambda: follower.counting)
        tally = Tally()
        node = RunningNode(config, parts, keeper, trust, follower, arrivals, link, tally)
        async with trio.open_nursery() as nursery:
            await nursery.start(link.run)  # before anything is fetched or given
            await nursery.start(keeper.run)
            nursery.start_soon(_reconsider, link, keeper)
            await nursery.start(serve_control, node, config.library)
            nursery.start_soon(arrivals.take_in_at_start)
            nursery.start_soon(follower.run)
            nursery.start_soon(tally.keep, library)
            nursery.start_soon(cycles.sweep, lambda: not tally.readers)
            quick = Quick(node)
            pages = quick.learning(shim(node, shim_config, vocabulary.built_in(), origins=config.origins))
            counted = tally.counting(listeners)
            limits = server.Limits(connections_per_client=shim_config.connections_per_client)
            serve = partial(server.serve, pages, counted, limits=limits, on_done=tally.done)
            nursery.start_soon(partial(serve, may_wait=may_wait(node), at_once=quick.answer))
            address = _address(listeners[0])
            logger.info("edgeshare %s reads at http://%s/", __version__, address)
            host.notify("READY=1")
            task_status.started(address)


async def run_until_stopped(config: Config) -> None:
    """Run one node until SIGTERM or SIGINT; then save its state and return within three seconds."""
    with trio.open_signal_receiver(*host.STOP_SIGNALS) as signals:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(run_node, config)
            async for _ in signals:
                logger.info("stopping")
                host.notify("STOPPING=1")
                nursery.cancel_scope.cancel()
                break


async def _listen(config: ShimConfig, stack: AsyncExitStack) -> tuple[list[trio.SocketListener], ShimConfig]:
    """The shim's listeners, the first one where our own pages are, and its config with the ports that they have.

    Closed by `stack`, too, for where another part cannot start.

    Raises:
        ConfigError: there is one that cannot be.
    """
    listeners: list[trio.SocketListener] = []

    async def open_at(endpoint: Endpoint) -> Endpoint:
        opened = await server.listen(endpoint.host, endpoint.port)
        for listener in opened:
            stack.push_async_callback(listener.aclose)
        listeners.extend(opened)
        return Endpoint(endpoint.host, opened[0].socket.getsockname()[1])

    listen = await open_at(config.listen)
    if listen.host == "127.0.0.1":
        try:
            await open_at(Endpoint("::1", listen.port))  # is `localhost` too, and would be another program's
        except ConfigError as error:  # no IPv6, or that program is there already
            logger.info("readers come by 127.0.0.1 only: %s", error)
    second = config.lessons_listen
    if second is not None:
        second = await open_at(second)
    return listeners, attrs.evolve(config, listen=listen, lessons_listen=second)


async def _reconsider(link: Link, keeper: Keeper) -> NoReturn:
    """Have the keeper know whenever the link is another."""
    while True:
        await link.change()
        keeper.reconsider()


def _mirror(state: MirrorState, now: datetime) -> MirrorView:
    until = (now + timedelta(seconds=state.until_s)).replace(microsecond=0) if state.is_aside else None
    return MirrorView(
        name=state.name,
        is_aside=state.is_aside,
        until=until,
        reason=state.reason,
        received_bytes=state.received_bytes,
    )


def _address(listener: trio.SocketListener) -> Endpoint:
    """Where a browser finds the shim."""
    name, port = listener.socket.getsockname()[:2]
    return Endpoint(socket.gethostname() if name in ("0.0.0.0", "::") else name, port)


def read_root(config: Config) -> bytes:
    """The root of trust that the config names.

    Raises:
        ConfigError: it cannot be read, or is none.
    """
    hint = "`root` names the publisher's 1.root.json, brought here by hand or by the package"
    try:
        raw = config.root.read_bytes()
        check_root(raw)
    except OSError as error:
        raise ConfigError(f"cannot read the root of trust {config.root} ({error.strerror})", hint=hint) from error
    except TrustError as error:
        raise ConfigError(f"cannot start from {config.root}, {error}", hint=hint) from error
    return raw
