"""How far the metadata that a node holds can be relied on: fresh or expired, and whether the node's clock can be right.

- Metadata is fresh until the first of its roles expires. What has expired adds nothing new; it takes nothing away.
- No moment is believed to be before what is known to have happened: the release of this edgeshare, and the signing of
  the newest timestamp. So a clock at 1970 makes nothing fresh again. A clock more than two days behind is named. A
  timestamp that says it was signed after root or targets expire cannot be right, and is not believed in this.
- A clock that is ahead can only be guessed at: when the newest metadata seems to be over a year old, both it and the
  clock are named. Nothing is remembered of a clock, so one boot in 2099 locks nothing.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from datetime import datetime, timedelta

import attrs

SKEW = timedelta(days=2)  # clocks of machines that were off for long, and time zones taken for UTC
NOTICE = timedelta(days=14)  # the timestamp is good for 30 and renewed far more often: somebody forgot, or cannot
LONG_SILENCE = timedelta(days=365)  # a publisher signs a timestamp every few days

_OFFLINE = ("root", "targets")  # whose keys a thief of the online machine does not have


class Clock(enum.Enum):
    """What the metadata says of this machine's clock."""

    PLAUSIBLE = "plausible"
    BEHIND = "behind"  # before what is known to have happened
    AHEAD = "ahead"  # perhaps: all seems to be long over


@attrs.frozen(kw_only=True)
class Held:
    """The verified metadata that a node holds."""

    versions: Mapping[str, int]  # by role
    expiries: Mapping[str, datetime]  # of the four top-level roles, aware
    issued: datetime | None  # when its timestamp was signed


@attrs.frozen(kw_only=True)
class Freshness:
    """What is known at one moment; times are aware."""

    is_fresh: bool  # whether anything new is accepted
    clock: Clock = Clock.PLAUSIBLE
    role: str | None = None  # whose metadata expires first
    expires: datetime | None = None  # and when; None when there is none yet
    issued: datetime | None = None
    refreshed: datetime | None = None  # when the origin was heard last, and had nothing that was refused

    def certain(self, now: datetime) -> datetime:
        """A moment that has certainly come: by the clock while the metadata is fresh, else by what was signed last."""
        if self.issued is None:
            return now
        return max(now, self.issued) if self.is_fresh else self.issued

    def warning(self, now: datetime) -> str | None:
        """What is wrong and what to do, in one line; None when all is well or nothing is here yet."""
        if self.expires is None:
            return None
        signed = f"the newest metadata was signed on {self.issued:%Y-%m-%d}" if self.issued else "metadata is newer"
        if self.clock is Clock.BEHIND:
            return f"this machine's clock says {now:%Y-%m-%d}, and {signed}: set the clock"
        if self.is_fresh and self.expires - now < NOTICE:
            what = (
                f"the {self.role} metadata expires on {self.expires:%Y-%m-%d}, and nothing new is accepted from then on"
            )
            return f"{what}: tell the publisher if it is not renewed"
        if self.is_fresh:
            return None
        what = f"nothing new is accepted: the {self.role} metadata expired on {self.expires:%Y-%m-%d}"
        if self.refreshed:
            what += f", the origin was heard last on {self.refreshed:%Y-%m-%d}"
        if self.clock is Clock.AHEAD:
            return f"{what}; or this machine's clock, which says {now:%Y-%m-%d}, is ahead: check it"
        return f"{what}; what is here stays readable: tell the publisher if it lasts"


def judge(now: datetime, floor: datetime, held: Held | None, refreshed: datetime | None = None) -> Freshness:
    """What the metadata is worth at `now`, by this machine's clock, which can hardly be before `floor`."""
    if held is None:
        return Freshness(is_fresh=False, refreshed=refreshed)
    issued = held.issued if held.issued and held.issued <= min(held.expiries[role] for role in _OFFLINE) else None
    known = max(floor, issued or floor)
    role, expires = min(held.expiries.items(), key=lambda each: each[1])
    is_fresh = max(now, known) < expires
    clock = Clock.PLAUSIBLE
    if known - now > SKEW:
        clock = Clock.BEHIND
    elif not is_fresh and now - known > LONG_SILENCE:
        clock = Clock.AHEAD
    return Freshness(is_fresh=is_fresh, clock=clock, role=role, expires=expires, issued=issued, refreshed=refreshed)
