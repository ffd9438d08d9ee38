"""One case, and what it may cost: one second of the processor, 200 MB of addresses, and only the errors that are named.

Addresses are what is limited, and not resident memory: asking for too much fails at once, in the case that asks, also
where what is asked for would never be touched.
"""

from __future__ import annotations

import re
import resource
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from edgeshare.errors import EdgeshareError
from tests.fuzz.parsers import Parser

MOST_S = 1.0
MOST_BYTES = 200 * 2**20


class TooSlowError(Exception):
    """A case takes too long; its traceback shows where."""


def run_case(parser: Parser, raw: bytes) -> None:
    """Have `raw` parsed or refused in one harmless line; whatever else comes of it is a finding."""
    signal.setitimer(signal.ITIMER_PROF, MOST_S)
    line = ""
    try:
        parser.parse(raw)
    except EdgeshareError as error:
        if not isinstance(error, parser.refusals):
            raise
        line = str(error)
    except parser.refusals:
        pass  # a library's own, which people see in our words
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
    assert line.isprintable(), ascii(line)
    assert len(line) < 1000, line


@contextmanager
def limits() -> Iterator[None]:
    """Within it, cases cost no more than they may; the memory counts from now on."""

    def too_slow(_: int, frame: FrameType | None) -> None:
        raise TooSlowError

    used = re.search(r"VmSize:\s+(\d+) kB", Path("/proc/self/status").read_text(encoding="ascii"))
    assert used
    before, most = resource.getrlimit(resource.RLIMIT_AS)
    handler = signal.signal(signal.SIGPROF, too_slow)
    resource.setrlimit(resource.RLIMIT_AS, (1024 * int(used[1]) + MOST_BYTES, most))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (before, most))
        signal.signal(signal.SIGPROF, handler)
