"""What is measured while a spike runs, and the figures that it comes to: the kernel's counts, the nodes' clocks."""

from __future__ import annotations

import bisect
import itertools
import statistics
import time
from collections.abc import Sequence
from pathlib import Path

import attrs

from bench.lab import Count, Lab

SAMPLE_EVERY_S = 0.1
CORES_FULL = 0.9  # busier than this in the median, and the processors were what limited the run
FIRST_S = 60.0  # connections are counted in the first minute: what broke in April 2021 was connections


@attrs.frozen
class Sample:
    """One instant of the spike."""

    at: float  # seconds since it began
    sent: int  # bytes that have left the origin since then
    busy_s: float  # of all processors, since the machine started
    idle_s: float


class Gauge:
    """Samples the origin's line and the processors; `look` is called about every `SAMPLE_EVERY_S`."""

    def __init__(self, lab: Lab) -> None:
        self._lab = lab
        self._sent_before = lab.sent_by_origin()
        self._before = lab.count()
        self.began_at = time.time()
        self.samples: list[Sample] = []
        self.first_minute: Count | None = None
        self.whole: Count | None = None
        self.look()

    @property
    def before(self) -> Count:
        """What was counted before the spike began."""
        return self._before

    def elapsed(self) -> float:
        return time.time() - self.began_at

    def look(self) -> None:
        busy, idle = _processors()
        self.samples.append(Sample(self.elapsed(), self._lab.sent_by_origin() - self._sent_before, busy, idle))
        if self.first_minute is None and self.elapsed() >= FIRST_S:
            self.first_minute = self._lab.count().since(self._before)

    def end(self) -> None:
        """The last sample, and the counts of the whole."""
        self.look()
        self.whole = self._lab.count().since(self._before)
        self.first_minute = self.first_minute or self.whole

    def peak_bytes_per_s(self, over_s: float = 1.0) -> float:
        """The most that left the origin within any `over_s`."""
        times = [sample.at for sample in self.samples]
        most = 0
        for sample in self.samples:
            first = bisect.bisect_left(times, sample.at - over_s - SAMPLE_EVERY_S / 2)
            most = max(most, sample.sent - self.samples[first].sent)
        return most / over_s

    def bits_by_second(self) -> list[int]:
        """What left the origin in each second, in bits."""
        times = [sample.at for sample in self.samples]
        ends = range(1, int(times[-1]) + 2)
        sent = [self.samples[bisect.bisect_right(times, end) - 1].sent for end in ends]
        return [8 * (now - then) for then, now in itertools.pairwise([0, *sent])]

    def busy_shares(self) -> list[float]:
        """The processors' busy share between samples."""
        shares = []
        for one, next_one in itertools.pairwise(self.samples):
            busy, idle = next_one.busy_s - one.busy_s, next_one.idle_s - one.idle_s
            if busy + idle > 0:
                shares.append(busy / (busy + idle))
        return shares


def processor_figures(gauge: Gauge) -> dict[str, float | bool]:
    """How busy the machine was, and whether that was the limit: the median of seconds, as its ticks are coarse."""
    shares = gauge.busy_shares()
    if not shares:
        return {"cpu_busy": 0.0, "cores_were_the_limit": False}
    seconds = [statistics.fmean(shares[start : start + 10]) for start in range(0, len(shares), 10)]
    return {
        "cpu_busy": round(statistics.fmean(shares), 3),
        "cores_were_the_limit": statistics.median(seconds) > CORES_FULL,
    }


def percentile(values: Sequence[float], share: float) -> float | None:
    """The smallest of `values` that at least `share` of them do not exceed."""
    ordered = sorted(values)
    return ordered[max(0, -(-int(share * 1000) * len(ordered) // 1000) - 1)] if ordered else None


def _processors() -> tuple[float, float]:
    """Seconds busy and idle, over all processors."""
    with Path("/proc/stat").open(encoding="ascii") as stat:
        user, nice, system, idle, iowait, irq, softirq, steal = map(int, stat.readline().split()[1:9])
    return (user + nice + system + irq + softirq + steal) / 100, (idle + iowait) / 100
