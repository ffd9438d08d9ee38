"""How many requests one client may make: a bucket of tokens for each address. Pure: the time is handed in.

Meant for a program that has gone wild, never for readers: behind one address may stand a whole school (NAT, a proxy).
The bucket that was not seen for longest is forgotten first: an attacker with more addresses than are remembered gets
full buckets, which the limits on connections bound.
"""

from __future__ import annotations

from typing import Final

import attrs
from attrs.validators import ge, gt

ADDRESSES: Final = 4096  # remembered; some 150 bytes each


@attrs.frozen(kw_only=True)
class Rate:
    """What one client may ask for."""

    # A thousand pupils behind one proxy who open a page of 120 files at once.
    at_once: int = attrs.field(default=120_000, validator=ge(1))
    per_s: float = attrs.field(default=2000.0, validator=gt(0))  # then; a fifth of what one core answers


class Buckets:
    """Who has asked how much lately."""

    def __init__(self, rate: Rate) -> None:
        self._step_s = 1.0 / rate.per_s  # for which one request is paid
        self._depth_s = rate.at_once / rate.per_s
        self._full_at_s: dict[str, float] = {}  # when each bucket is full again; who was seen last stands last

    def __len__(self) -> int:
        return len(self._full_at_s)

    def wait_s(self, client: str, now_s: float) -> float:
        """0 when `client` may ask once more now, which takes a token; else the seconds until it may."""
        full_at_s = max(self._full_at_s.pop(client, now_s), now_s) + self._step_s
        late_s = full_at_s - now_s - self._depth_s
        is_paid = late_s <= self._step_s * 1e-6  # what is left of adding up steps
        self._full_at_s[client] = full_at_s if is_paid else full_at_s - self._step_s
        if len(self._full_at_s) > ADDRESSES:
            del self._full_at_s[next(iter(self._full_at_s))]
        return 0.0 if is_paid else late_s
