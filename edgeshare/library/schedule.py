"""When a node fetches ahead what its catalogues list. Pure: moments and this node's slot are handed in. The rules:

- A window has a turn for each node, by its slot in the first three quarters: a country does not start at 20:00.
- A node that was off, asleep or deaf at its turn, or since, did not meet that window: it catches up whenever it is on,
  and until the end of the first window that it meets. So a machine that is never on at night is served as well.
- Whether a window was met is known by its end, to the second. A clock that was wrong for a while leaves an end behind
  that no window has, so the worst that it does is a catching up.
- An appointment (`fetch_from`) and what is needed before the next window ends do not wait for a turn.
"""

from __future__ import annotations

from datetime import datetime, tzinfo

import attrs

from edgeshare.hours import Opening, Window

SPREAD = 0.75  # of a window: the last to have their turn have a quarter of it left
_ONE_TICK_S = 60.0  # clocks that differ by less were corrected; by more, the machine slept, or its clock was wrong


@attrs.frozen
class Uptime:
    """Since when a node is on without a break, by its two clocks: one of them stands still while a machine sleeps."""

    since: datetime  # UTC
    seen: datetime  # UTC, when somebody looked last
    seen_s: float  # then, by the clock that only goes forwards, and not in a sleep

    @classmethod
    def begin(cls, now: datetime, now_s: float) -> Uptime:
        """That of a node which starts now, or hears its origins again."""
        return cls(now, now, now_s)

    def at(self, now: datetime, now_s: float) -> Uptime:
        """The same, looked at now: begun anew when the clocks went apart since."""
        apart_s = (now - self.seen).total_seconds() - (now_s - self.seen_s)
        return Uptime(self.since if abs(apart_s) < _ONE_TICK_S else now, now, now_s)


@attrs.frozen(kw_only=True)
class Prefetch:
    """When this node may fetch what it only follows, as things stand."""

    window: Window
    zone: tzinfo  # of the clock on the wall
    slot: float  # from 0 up to 1: this node's place among all, drawn once
    met: datetime | None  # what `met_by` said last; None before any window was met
    since: datetime  # since when the node is on and hears its origins, without a break (`Uptime`)

    def allowed(self, now: datetime) -> bool:
        """Whether what is only followed may be fetched at `now` (aware, as all moments here)."""
        if self.window.is_always or self._turn(self.window.next(now, self.zone)) <= now:
            return True
        return self.met_by(now) is None and self.met != self.window.last(now, self.zone).stop

    def next_change(self, now: datetime) -> datetime | None:
        """The first moment after `now` at which `allowed` may say otherwise; None: never."""
        if self.window.is_always:
            return None
        opening = self.window.next(now, self.zone)
        return opening.stop if self.allowed(now) else self._turn(opening)

    def met_by(self, now: datetime) -> datetime | None:
        """The end of the last window, where this node was on from its turn to that end; to be kept as `met`."""
        if self.window.is_always:
            return None
        last = self.window.last(now, self.zone)
        return last.stop if self.since <= self._turn(last) else None

    def due(
        self,
        now: datetime,
        *,
        heard: datetime,
        fetch_from: datetime | None = None,
        needed_at: datetime | None = None,
    ) -> datetime:
        """From when on a followed lesson, first heard of at `heard`, may be fetched; a moment that is past: now.

        What is needed before the next window ends comes sooner than its turn, by the slot in the first half of the
        time that there was for it when it was heard of.
        """
        if fetch_from is not None:
            return fetch_from
        if self.allowed(now):
            return now
        opening = self.window.next(now, self.zone)
        turn = self._turn(opening)
        if needed_at is None or needed_at >= opening.stop:
            return turn
        return min(turn, max(heard, heard + self.slot * (needed_at - heard) / 2))

    def _turn(self, opening: Opening) -> datetime:
        return opening.start + SPREAD * self.slot * (opening.stop - opening.start)
