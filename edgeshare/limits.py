"""What the line to the outside may carry now. Pure: the hour, the month's bytes and others' words are handed in."""

from __future__ import annotations

from datetime import datetime
from typing import Final

import attrs

from edgeshare.config import LinkConfig, Rate
from edgeshare.units import size

NO_LIMIT: Final = Rate(0)


@attrs.frozen(kw_only=True)
class Limits:
    """What holds towards the outside, at one instant."""

    upload: Rate = NO_LIMIT
    download: Rate = NO_LIMIT
    reason: str | None = None  # why the line is metered; None when it is not

    @property
    def is_metered(self) -> bool:
        """Only what somebody asks for is fetched, and nothing is given to the outside, whatever `upload` says."""
        return self.reason is not None


UNLIMITED: Final = Limits()


def limits(
    link: LinkConfig, upload: Rate, local: datetime, *, used_bytes: int, network_is_metered: bool = False
) -> Limits:
    """The limits when a clock on the wall shows `local`, and `used_bytes` were moved this month.

    `upload` is what holds in the hours that `link` says nothing of.
    """
    hours = next((each for each in link.hours if each.between.holds(local.time())), None)
    return Limits(
        upload=upload if hours is None or hours.upload is None else hours.upload,
        download=link.download if hours is None or hours.download is None else hours.download,
        reason=_metered(link, used_bytes, network_is_metered=network_is_metered),
    )


def month_of(local: datetime) -> str:
    """The month in which bytes are counted, like `2026-11`."""
    return f"{local:%Y-%m}"


def _metered(link: LinkConfig, used_bytes: int, *, network_is_metered: bool) -> str | None:
    if link.metered:
        return "the config says that the line is metered"
    if link.monthly_cap and used_bytes >= link.monthly_cap:
        return f"this month's {size(link.monthly_cap)} are used"
    if link.network_manager and network_is_metered:
        return "NetworkManager says that the connection is metered"
    return None
