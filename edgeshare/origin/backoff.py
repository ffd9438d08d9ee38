"""How long to leave an origin alone: pure, with the randomness passed in."""

from __future__ import annotations

from datetime import UTC
from email.utils import parsedate_to_datetime
from random import Random

FIRST_S = 1.0
LONGEST_S = 300.0
PATIENCE_S = 600.0  # a longer Retry-After counts as this: a mistake there must not silence a node for a day

TURN_S = 5.0  # how often seeders/origin's nginx.conf gives one range away
LONGEST_TURN_S = 60.0  # no guard needs more, and a reader may be waiting

EXILE_S = 3600.0  # for wrong bytes: somebody has to mend that, and a try costs a piece
LONGEST_EXILE_S = 24 * 3600.0


def delay(failures: int, rng: Random, *, retry_after_s: float | None = None) -> float:
    """Seconds to wait after the `failures`-th failure in a row (1 is the first).

    Doubles, and is cut by up to half at random, so that a crowd that failed together does not come back together. An
    origin that asked for patience gets at least what it asked for, `FIRST_S` if that is longer, and up to half as much
    again.
    """
    if retry_after_s is not None:
        return min(max(retry_after_s, FIRST_S), PATIENCE_S) * (1 + rng.random() / 2)
    return min(LONGEST_S, FIRST_S * 2.0 ** min(failures - 1, 16)) * (0.5 + rng.random() / 2)


def turn(rng: Random, *, retry_after_s: float | None = None) -> float:
    """Seconds until a range that somebody else was given may be asked for again; scattered as in `delay`."""
    asked = TURN_S if retry_after_s is None else retry_after_s
    return min(max(asked, FIRST_S), LONGEST_TURN_S) * (1 + rng.random() / 2)


def exile(times: int, rng: Random) -> float:
    """Seconds to leave a mirror alone that sent wrong bytes for the `times`-th time; scattered as in `delay`."""
    return min(LONGEST_EXILE_S, EXILE_S * 2.0 ** min(times - 1, 16)) * (1 + rng.random() / 2)


def retry_after(header: str | None, now_s: float) -> float | None:
    """Seconds that a Retry-After header asks for (RFC 9110 §10.2.3); None when it is absent or makes no sense.

    `now_s` is the wall clock, in seconds since the epoch: the header may hold a date.
    """
    if not header:
        return None
    text = header.strip()
    if text.isascii() and text.isdigit():
        return float(text[:9])
    try:
        date = parsedate_to_datetime(text)
        zoned = date if date.tzinfo else date.replace(tzinfo=UTC)  # HTTP's dates are UTC, also when they do not say so
        return max(0.0, zoned.timestamp() - now_s)
    except (ValueError, OverflowError):
        return None
