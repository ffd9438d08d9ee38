"""A limit on what comes from the origins, as a bucket of debt: what has arrived is paid off at the allowed rate.

Who reads, waits until the debt is paid before reading on; the sender then waits too, once the kernel's buffer is full.
So a range may come at the line's own speed up to that buffer, and the average holds. Pure: the clock is handed in.
"""

from __future__ import annotations

_BURST_S = 0.5  # so much may come unpaid after a rest: a small file of metadata does not wait


class Throttle:
    """One limit, shared by all who read."""

    def __init__(self) -> None:
        self._rate = 0.0  # bytes a second; 0: no limit
        self._debt = 0.0  # bytes; below 0 is what may come unpaid
        self._at_s = 0.0

    def limit(self, bytes_per_s: float, now_s: float) -> None:
        """Allow so much from now on; 0 is no limit, and forgives what is owed."""
        self._pay(now_s)
        self._rate = bytes_per_s
        self._debt = max(self._debt, -_BURST_S * self._rate) if self._rate else 0.0

    def arrived(self, count: int, now_s: float) -> None:
        """Note what has come."""
        if self._rate:
            self._pay(now_s)
            self._debt += count

    def owing_s(self, now_s: float) -> float:
        """How long nothing more should be read."""
        self._pay(now_s)
        is_paid = not self._rate or self._debt < 1.0  # parts of a byte would be waited for without an end
        return 0.0 if is_paid else self._debt / self._rate

    def _pay(self, now_s: float) -> None:
        self._debt = max(-_BURST_S * self._rate, self._debt - self._rate * (now_s - self._at_s))
        self._at_s = now_s
