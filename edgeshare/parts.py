"""The node's parts that its contents are fetched, kept and seeded with, and at which pace."""

from __future__ import annotations

from random import Random

import attrs

from edgeshare.crowd import PATIENCE_S
from edgeshare.library.library import Library
from edgeshare.origin.client import OriginClient
from edgeshare.origin.feed import Lines
from edgeshare.swarm.session import Swarm


@attrs.frozen(kw_only=True)
class Pace:
    """How long a holding waits for what, and the room that it leaves."""

    save_grace_s: float = 1.0  # for libtorrent to hand over its resume data when the node stops
    retry_every_s: float = 15.0  # how often a full disk, or what went wrong otherwise, is looked at
    look_every_s: float = 600.0  # how often the files of a complete content are looked at, with nobody reading
    patience_s: float = PATIENCE_S  # until it may be that nobody else is there, where no tracker was named
    spare_bytes: int = 2**20  # besides what is still missing: for the index; more stays free by `keep_free`


@attrs.frozen
class Parts:
    """The node's parts that a holding works with."""

    library: Library
    swarm: Swarm
    origins: OriginClient
    lines: Lines
    rng: Random
    pace: Pace = Pace()
