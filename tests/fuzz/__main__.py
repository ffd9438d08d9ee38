"""`python -m tests.fuzz [CASES] [PARSER…]`: so many cases in all, each parser in a process of its own, one at a time.

What was found stands in `.fuzz/`: a log for each parser, and the bytes of a finding beside it.
"""

from __future__ import annotations

import importlib.util
import subprocess
import sys
import time
from itertools import islice
from pathlib import Path
from random import Random

from tests.fuzz import blind
from tests.fuzz.case import limits, run_case
from tests.fuzz.parsers import PARSERS

FOLDER = Path(".fuzz")
CASES = 10_000_000


def main(cases: int, names: list[str]) -> int:
    """Fuzz the parsers of these names; 1 when something was found."""
    is_guided = importlib.util.find_spec("atheris") is not None
    if not is_guided:
        print("atheris is not here: cases are made without looking at what they reach", flush=True)
    found = 0
    for name in names:
        start = time.monotonic()
        share = cases // len(names)
        is_clean = _guided(name, share) if is_guided else _blind(name, share)
        rate = share / (time.monotonic() - start)
        verdict = f"{share:,} cases, {rate:,.0f} a second, nothing found" if is_clean else "FOUND, see .fuzz/"
        print(f"{name}: {verdict}", flush=True)
        found += not is_clean
    return min(found, 1)


def _guided(name: str, cases: int) -> bool:
    corpus = FOLDER / name
    corpus.mkdir(parents=True, exist_ok=True)
    for number, seed in enumerate(PARSERS[name].seeds()):
        (corpus / f"seed-{number}").write_bytes(seed)
    arguments = [f"-runs={cases}", f"-max_len={blind.LONGEST}", "-timeout=20", f"-artifact_prefix={FOLDER}/{name}-"]
    command = [sys.executable, "-m", "tests.fuzz.guided", name, *arguments, str(corpus)]
    with (FOLDER / f"{name}.log").open("wb") as log:
        return subprocess.run(command, stdout=log, stderr=log, check=False).returncode == 0


def _blind(name: str, cases: int) -> bool:
    FOLDER.mkdir(exist_ok=True)
    parser = PARSERS[name]
    with limits():
        for raw in islice(blind.cases(parser.seeds(), Random()), cases):
            try:
                run_case(parser, raw)
            except Exception as error:  # noqa: BLE001 - whatever it is, it was not named
                (FOLDER / f"{name}-crash").write_bytes(raw)
                (FOLDER / f"{name}.log").write_text(f"{error!r}\n", encoding="utf-8")
                return False
    return True


if __name__ == "__main__":
    count = int(sys.argv[1]) if len(sys.argv) > 1 else CASES
    sys.exit(main(count, sys.argv[2:] or list(PARSERS)))
