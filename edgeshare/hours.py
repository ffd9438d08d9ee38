"""Hours of the day, as clocks on the wall show them: `20:00-06:30`, or `always`. Pure: moments are handed in.

A day on which clocks are set has an hour twice, or not at all. A window that begins or ends in that hour takes in as
much as its words allow: it opens with the first `02:30` of the two and closes with the second, and where there is none,
as if there were one. So each day has one opening, and each opening an end.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import UTC, date, datetime, time, timedelta, tzinfo

import attrs

_FORM = re.compile(r"([01]?[0-9]|2[0-3]):([0-5][0-9])\s*-\s*([01]?[0-9]|2[0-3]):([0-5][0-9])")
_DAY = timedelta(days=1)


@attrs.frozen
class Opening:
    """One time that a window is open."""

    start: datetime  # UTC
    stop: datetime  # UTC; the first moment at which it is shut


@attrs.frozen
class Window:
    """Hours of every day from `start` up to `stop`, over midnight where `stop` is the earlier one; equal: always."""

    start: time
    stop: time

    def __str__(self) -> str:
        return "always" if self.is_always else f"{self.start:%H:%M}-{self.stop:%H:%M}"

    @classmethod
    def parse(cls, text: str) -> Window:
        """A window as it is written.

        Raises:
            ValueError: it is neither `always` nor two different times of day.
        """
        if text.strip() == "always":
            return ALWAYS
        found = _FORM.fullmatch(text.strip())
        window = cls(time(int(found[1]), int(found[2])), time(int(found[3]), int(found[4]))) if found else ALWAYS
        if window.is_always:
            raise ValueError(f'{text!r} is not two times of day like "20:00-06:30", nor "always"')
        return window

    @property
    def is_always(self) -> bool:
        """Whether it never shuts."""
        return self.start == self.stop

    def holds(self, moment: time) -> bool:
        """Whether a clock on the wall that shows `moment` is inside."""
        if self.start < self.stop:
            return self.start <= moment < self.stop
        return self.is_always or moment >= self.start or moment < self.stop

    def next(self, now: datetime, zone: tzinfo) -> Opening:
        """The opening at `now` (aware), or the first one after it, where clocks are those of `zone`."""
        return next(opening for opening in self._openings(now, zone) if opening.stop > now)

    def last(self, now: datetime, zone: tzinfo) -> Opening:
        """The last opening that is over at `now` (aware), where clocks are those of `zone`."""
        return [opening for opening in self._openings(now, zone) if opening.stop <= now][-1]

    def _openings(self, now: datetime, zone: tzinfo) -> Iterator[Opening]:
        """The openings of the days around `now`, in order: enough for one that is over, and one that is not."""
        assert not self.is_always, "what never shuts has no openings"
        today = now.astimezone(zone).date()
        for day in (today + each * _DAY for each in range(-2, 2)):
            until = day if self.start < self.stop else day + _DAY
            yield Opening(min(_moments(day, self.start, zone)), max(_moments(until, self.stop, zone)))


ALWAYS = Window(time(0), time(0))


def _moments(day: date, moment: time, zone: tzinfo) -> tuple[datetime, datetime]:
    """When a clock in `zone` shows it: twice the same, but on days on which clocks are set (PEP 495)."""
    shown = datetime.combine(day, moment, tzinfo=zone)
    return shown.replace(fold=0).astimezone(UTC), shown.replace(fold=1).astimezone(UTC)
