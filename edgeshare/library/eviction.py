"""What goes when the quota, or the disk, has no room for what comes. Pure.

Rules:
- What is pinned, being read, or a catalogue of this node stays, whatever comes.
- What comes takes the place of weaker things only (`Rank`). Followed lessons do not drive out one another, or a node
  that follows more than its quota holds would fetch them in turns for ever.
- Of equal rank, what many others have goes before what few have, and what was used longest ago before the rest.
- The quota is the owner's will: where it is exceeded, as after it was lowered, whatever may go does. What other
  programs take of the disk costs this node only what nobody follows or asked for.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Sequence
from datetime import date, timedelta

import attrs

from edgeshare.errors import LibraryError
from edgeshare.manifest import InfoHash, LessonId
from edgeshare.units import size

RECENT = timedelta(days=30)  # a lesson is taken up again within a month, or by next year's class
_FEW = 3  # others: fewer may all be switched off at the same time


class Rank(enum.IntEnum):
    """Why a content is kept, the weakest reason first."""

    LEFT = 0  # nobody lists it any more, it has expired, or a newer version has its place
    OPENED = 1  # somebody opened it once
    FOLLOWED = 2  # its catalogue is followed, or somebody asked for it by name
    RECENT = 3  # likewise, and it came or was read within the last month
    NEEDED = 4  # likewise, and a class will need it soon
    KEPT = 5  # pinned, being read, asked for at this moment, or a catalogue


@attrs.frozen(kw_only=True)
class Item:
    """One content that takes room."""

    content: InfoHash
    size: int  # bytes that it takes, or will when it is whole
    rank: Rank
    used: date | None = None  # the last day on which it came or was read; None: long ago
    others: int = 0  # nodes that are known to have all of it


@attrs.frozen(kw_only=True)
class Space:
    """The room that contents may take, in bytes."""

    quota: int
    free: int  # on the disk
    keep_free: int  # of it
    to_come: int  # that the contents which are being fetched will still take of it

    def left(self, used: int) -> int:
        """What is left for more when the items take `used`; negative where something should go."""
        return min(self.quota - used, self.free - self.keep_free - self.to_come)

    def is_exceeded(self, used: int) -> bool:
        """Whether something should go as it is, by the quota or because others have filled the disk (`too_much`)."""
        return used > self.quota or self.free < self.keep_free


class QuotaError(LibraryError):
    """A lesson does not fit into this node's library."""

    def __init__(self, lesson: LessonId, needs: int, space: Space) -> None:
        self.lesson, self.needs, self.quota, self.space = lesson, needs, space.quota, space  # in bytes
        self.is_larger = needs > space.quota  # so that making room is of no use
        what = f"{lesson} needs {size(needs)}, the quota is {size(space.quota)}"
        if self.is_larger:
            hint = "raise `quota` in the config"
        elif space.free - space.keep_free - space.to_come < needs:
            what = f"{lesson} needs {size(needs)}, and of the disk {size(max(0, space.free))} are free"
            hint = f"make room on it, {size(space.keep_free)} are to stay free, or `edgeshare unpin` a lesson"
        else:
            hint = "raise `quota` in the config, or `edgeshare unpin` a lesson: all else that is here is in use"
        super().__init__(what, hint=hint)


def rank_of(*, is_followed: bool, used: date | None, needed: date | None, today: date) -> Rank:
    """The rank of a lesson that is listed, and neither pinned nor being read."""
    if not is_followed:
        return Rank.OPENED
    if needed is not None and timedelta(0) <= needed - today <= RECENT / 2:
        return Rank.NEEDED
    if used is not None and abs(today - used) <= RECENT:  # a clock that ran ahead for a day is not for ever
        return Rank.RECENT
    return Rank.FOLLOWED


def making_room(items: Iterable[Item], space: Space, needs: int, rank: Rank) -> tuple[InfoHash, ...] | None:
    """What goes for a content of `needs` bytes that comes with `rank`; None when that does not make room enough."""
    items = tuple(items)
    weaker = [item for item in items if item.rank < min(rank, Rank.KEPT)]
    return _first(weaker, needs - space.left(sum(item.size for item in items)))


def too_much(items: Iterable[Item], space: Space) -> tuple[InfoHash, ...]:
    """What goes because the quota is exceeded, or the disk was filled by others; as far as that helps."""
    items = tuple(items)
    used = sum(item.size for item in items)
    over_quota = [item for item in items if item.rank < Rank.KEPT]
    gone = _first(over_quota, used - space.quota, as_far_as_it_goes=True) or ()
    freed = sum(item.size for item in items if item.content in gone)
    rest = [item for item in items if item.rank < Rank.FOLLOWED and item.content not in gone]
    lack = space.keep_free - space.free - freed  # what is to come was counted when it was begun, and pauses if it must
    return (*gone, *(_first(rest, lack, as_far_as_it_goes=True) or ()))


def _first(items: Sequence[Item], lack: int, *, as_far_as_it_goes: bool = False) -> tuple[InfoHash, ...] | None:
    """The first to go of `items` that free `lack` bytes together."""
    gone: list[InfoHash] = []
    for item in sorted(items, key=_turn):
        if lack <= 0:
            break
        gone.append(item.content)
        lack -= item.size
    return tuple(gone) if lack <= 0 or as_far_as_it_goes else None


def _turn(item: Item) -> tuple[Rank, bool, date, int, bytes]:
    return item.rank, item.others < _FEW, item.used or date.min, -item.others, item.content
