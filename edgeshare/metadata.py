"""The info dict of a content of which only the info-hash is known: from a peer, or in its turn from the origin."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import NoReturn

import trio

from edgeshare.crowd import Gathering
from edgeshare.errors import ManifestError
from edgeshare.layout import MAX_INFO
from edgeshare.origin.client import NotFound, Taken, Unreachable
from edgeshare.parts import Parts
from edgeshare.ration import Ration
from edgeshare.swarm.joining import Joining
from edgeshare.swarm.neighbours import crowd_of
from edgeshare.swarm.session import info_of, is_info

logger = logging.getLogger(__name__)

MEETING_S = 0.2  # how often a node that joins a swarm looks whom it has met: whose turn it is depends on that


async def find_info(parts: Parts, joining: Joining, gathering: Gathering, miss: Callable[[str], None]) -> bytes:
    """The info dict from whichever has it first; `miss` is called, with the reason, when the origin has not got it."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_ask_origin, parts, joining, gathering, miss)
        info = await joining.metadata()
        nursery.cancel_scope.cancel()
    return info


async def _ask_origin(parts: Parts, joining: Joining, gathering: Gathering, miss: Callable[[str], None]) -> NoReturn:
    """Have the origin give the info dict to `joining`, for all its peers, when it is this node's turn."""
    info_hash = joining.info_hash
    ration = Ration(parts.swarm.token, info_hash, parts.rng.randbytes(16), began_s=gathering.joined_s)
    path = f"torrents/{info_hash.hex()}.torrent"
    while True:
        now, met = trio.current_time(), await joining.neighbours()
        wait_s = MEETING_S
        if ration.leads(met, crowd_of(gathering, met, joining.progress, now), now):
            wait_s = parts.pace.retry_every_s
            try:
                file = await parts.origins.file(path, 2 * MAX_INFO)
                info = info_of(file)
                if is_info(info, info_hash):
                    joining.give(info, file)
                else:
                    logger.warning("the origin's %s is of another lesson", path)
            except Taken as error:
                wait_s = error.retry_in_s
            except Unreachable as error:
                wait_s = min(wait_s, max(0.5, error.retry_in_s))
            except (NotFound, ManifestError) as error:
                logger.warning("%s", error)
                miss(str(error))
        await trio.sleep(wait_s)
