"""How a bench measures: whole processes, in turns with what they are held against, medians."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path

RUNS = 5
EDGESHARE = (sys.executable, "-m", "edgeshare")


def seconds(command: Iterable[str | Path]) -> float:
    """Wall seconds of one command, which must succeed."""
    start = time.perf_counter()
    subprocess.run([str(word) for word in command], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    return time.perf_counter() - start


def against(name: str, ours: Callable[[], float], theirs: Callable[[], float], *, want: float) -> None:
    """Measure `ours` and `theirs` in turns and print the ratio of their medians, and of the worst pair."""
    theirs()  # the page cache is warm for both
    pairs = [(ours(), theirs()) for _ in range(RUNS)]
    mine, other = statistics.median(a for a, _ in pairs), statistics.median(b for _, b in pairs)
    worst = max(a / b for a, b in pairs)
    report(name, value=mine / other, worst=worst, want=want, seconds=mine, other_seconds=other)


def report(name: str, *, value: float, want: float, **more: float) -> None:
    """Print one figure as a JSON line, and for people."""
    figures = {"value": value, "want": want} | more
    print(json.dumps({"name": name} | {key: round(each, 3) for key, each in figures.items()}))
    mark = "met" if value <= want else "MISSED"
    print(f"  {name}: {value:.2f}, want at most {want:g}: {mark}", file=sys.stderr)
