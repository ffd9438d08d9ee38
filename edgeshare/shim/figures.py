"""What the page of figures makes of a node's status. Pure.

Nothing here is better than it is: what crossed the line counts whole, what was given as well, and what was fetched and
not read yet is no saving.
"""

from __future__ import annotations

import enum
from collections.abc import Iterator

import attrs

from edgeshare.freshness import Clock
from edgeshare.view import MirrorView, NodeStatus


class Light(enum.Enum):
    """How one thing stands; each has a word and a shape on the page."""

    GOOD = "good"
    HEED = "heed"  # it costs something, and heals or was meant so
    BAD = "bad"  # somebody has to act


@attrs.frozen(kw_only=True)
class Sign:
    """One thing that an administrator looks at."""

    of: str  # "origin", "mirror", "trust", "clock", "disk" or "line"
    light: Light
    name: str = ""  # which mirror
    mirror: MirrorView | None = None
    reason: str | None = None  # in the node's own words, which are English


def signs(status: NodeStatus) -> tuple[Sign, ...]:
    """The lights of a node, in the order in which to look at them."""
    return tuple(_signs(status))


def saved(status: NodeStatus) -> float | None:
    """Of what readers got of lessons this month, the share that did not have to cross the line, at least.

    All that crossed it counts against it, to and from peers and origins, what was fetched for later and what was given
    too. None where that is as much as readers got, or more, or they got nothing: there is no saving to speak of.
    """
    if status.served_this_month <= status.outside_bytes:
        return None
    return 1 - status.outside_bytes / status.served_this_month


def _signs(status: NodeStatus) -> Iterator[Sign]:
    yield Sign(of="origin", light=Light.HEED if status.trouble else Light.GOOD, reason=status.trouble)
    if len(status.mirrors) > 1:
        for each in status.mirrors:
            light = Light.HEED if each.is_aside else Light.GOOD
            yield Sign(of="mirror", light=light, name=each.name, mirror=each, reason=each.reason)
    fresh = status.freshness.is_fresh
    yield Sign(of="trust", light=Light.GOOD if fresh else Light.BAD, reason=None if fresh else status.warning)
    clock = status.freshness.clock
    yield Sign(of="clock", light=Light.GOOD if clock is Clock.PLAUSIBLE else Light.BAD)
    yield Sign(of="disk", light=Light.BAD if status.disk.is_paused else Light.GOOD, reason=status.disk.reason)
    metered = status.limits.is_metered
    yield Sign(of="line", light=Light.HEED if metered else Light.GOOD, reason=status.limits.reason)
