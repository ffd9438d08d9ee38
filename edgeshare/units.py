"""Sizes and rates: parsed and printed, never guessed.

Sizes are binary (`20 GiB`), rates decimal bits a second (`20 Mbit/s`), as the config writes them.
"""

from __future__ import annotations

import re

_SIZES = {"B": 1, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40, "kB": 10**3, "MB": 10**6, "GB": 10**9}
_RATES = {"bit/s": 1, "kbit/s": 10**3, "Mbit/s": 10**6, "Gbit/s": 10**9}
_NUMBER = re.compile(r"([0-9]+(?:\.[0-9]+)?)\s*([A-Za-z/]+)")
_MOST = 2**60  # bytes, or bits a second: what is larger was mistyped


def parse_size(text: str) -> int:
    """Bytes of a size like `20 GiB`.

    Raises:
        ValueError: it is not a number and one of the units B, KiB, MiB, GiB, TiB, kB, MB, GB.
    """
    return int(_parse(text, _SIZES, "20 GiB"))


def parse_rate(text: str) -> int:
    """Bytes a second of a rate like `20 Mbit/s`; `0 bit/s` is no limit.

    Raises:
        ValueError: it is not a number and one of the units bit/s, kbit/s, Mbit/s, Gbit/s.
    """
    return int(_parse(text, _RATES, "20 Mbit/s") / 8)


def size(count: int) -> str:
    """`count` bytes as a person reads them: `12.4 MiB`."""
    if count < 1024:
        return f"{count} B"
    amount = float(count)
    for unit in ("KiB", "MiB", "GiB", "TiB"):
        amount /= 1024
        if amount < 1024 or unit == "TiB":
            break
    return f"{amount:.1f} {unit}"


def _parse(text: str, units: dict[str, int], example: str) -> float:
    match = _NUMBER.fullmatch(text.strip())
    if match is None or match[2] not in units:
        known = ", ".join(units)
        raise ValueError(f"{text!r} is not a number with a unit ({known}), like {example!r}")
    amount = float(match[1]) * units[match[2]]
    if amount > _MOST:
        raise ValueError(f"{text[:40]!r} is more than any machine has")
    return amount
