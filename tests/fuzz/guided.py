"""Cases that atheris finds by the lines that they reach: `python -m tests.fuzz.guided PARSER LIBFUZZER'S ARGUMENTS`."""

from __future__ import annotations

import contextlib
import sys

import atheris

with atheris.instrument_imports(include=["edgeshare"]):
    from tests.fuzz.case import limits, run_case
    from tests.fuzz.parsers import PARSERS


def main(name: str, arguments: list[str]) -> None:
    """Fuzz one parser until libFuzzer has made as many cases as it was told; does not return."""
    parser = PARSERS[name]
    limited = contextlib.ExitStack()
    is_first = True

    def one(raw: bytes) -> None:
        nonlocal is_first
        if is_first:  # what libFuzzer itself takes does not count
            is_first = False
            limited.enter_context(limits())
        run_case(parser, raw)

    atheris.Setup([sys.argv[0], *arguments], one)
    atheris.Fuzz()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
