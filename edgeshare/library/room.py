"""Whether the library's disk has room for more: a floor that stays free, and a pause while it does not.

Other programs need room too, and a disk that is full to the last byte takes the machine down with it. So fetching stops
before that: nothing new is begun, and what is half here waits, with all that it has. It goes on when there is clearly
more than the floor, not at the first byte, or it would stop and go all day.
"""

from __future__ import annotations

from typing import Any

import attrs

from edgeshare.units import size

_SPARE_PARTS = 8  # of the floor, one more is to be free before fetching goes on


@attrs.frozen(kw_only=True)
class Disk:
    """The library's disk at one instant."""

    free: int | None = None  # bytes that this node may still write; None: the disk is gone
    keep_free: int = 0  # bytes that are to stay free, whatever the quota
    is_short: bool = False  # there is less, or has been until a moment ago
    is_readonly: bool = False

    @property
    def is_paused(self) -> bool:
        """Whether nothing may be written, so that nothing is fetched."""
        return self.is_short or self.is_readonly or self.free is None

    def takes(self, count: int) -> bool:
        """Whether `count` bytes can be written, floor or not."""
        return self.free is not None and not self.is_readonly and self.free >= count

    @property
    def reason(self) -> str | None:
        """Why nothing is fetched, in one line; None while it is."""
        if self.free is None:
            return "the library's disk cannot be reached"
        if self.is_readonly:
            return "the library's disk is read-only: what is here is served, and nothing is fetched"
        if self.is_short:
            kept = f"{size(self.free)} are free, and {size(self.keep_free)} are to stay free"
            return f"the library's disk is nearly full ({kept}): fetching goes on when there is room"
        return None

    def as_json(self) -> dict[str, Any]:
        """Its fields as the API and `--json` give them; fields are only ever added."""
        return {
            "free": self.free,
            "keep_free": self.keep_free,
            "short": self.is_short,
            "read_only": self.is_readonly,
            "reason": self.reason,
        }


AT_EASE = Disk(free=0)  # nothing is known of it, and nothing is wrong with it


def seen(before: Disk, *, free: int | None, is_readonly: bool) -> Disk:
    """The disk as it is found now, `before` having been found earlier."""
    floor = before.keep_free
    if before.is_short:
        floor += floor // _SPARE_PARTS
    is_short = free is not None and free < floor
    return attrs.evolve(before, free=free, is_readonly=is_readonly, is_short=is_short)
