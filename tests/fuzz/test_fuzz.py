from __future__ import annotations

from itertools import islice
from random import Random

import pytest

from edgeshare.errors import ManifestError
from tests.fuzz.blind import cases
from tests.fuzz.case import TooSlowError, limits, run_case
from tests.fuzz.parsers import PARSERS, Parser

CASES = 1500


@pytest.mark.parametrize("name", PARSERS)
def test_altered_bytes_are_parsed_or_refused_in_time_and_memory(name: str) -> None:
    parser = PARSERS[name]
    with limits():
        for raw in islice(cases(parser.seeds(), Random(name)), CASES):
            run_case(parser, raw)


@pytest.mark.parametrize("name", PARSERS)
def test_a_parser_takes_something_of_what_it_begins_from(name: str) -> None:
    parser = PARSERS[name]
    taken = 0
    for raw in parser.seeds():
        try:
            parser.parse(raw)
        except parser.refusals:
            continue
        taken += 1
    assert taken


def looping(_: bytes) -> None:
    while True:
        pass


def hungry(_: bytes) -> bytearray:
    return bytearray(400 * 2**20)  # twice what it may: threads that end meanwhile give some back


def unnamed(_: bytes) -> None:
    raise KeyError


def raw_bytes_in_its_message(_: bytes) -> None:
    raise ManifestError("\x1b[2J")


@pytest.mark.parametrize(
    ("parse", "finding"),
    [
        (looping, TooSlowError),
        (hungry, MemoryError),
        (unnamed, KeyError),
        (raw_bytes_in_its_message, AssertionError),
    ],
    ids=["endless", "hungry", "an-error-that-is-not-named", "a-message-with-foreign-bytes"],
)
def test_what_a_case_must_not_do_is_a_finding(parse: object, finding: type[Exception]) -> None:
    assert callable(parse)
    with limits(), pytest.raises(finding):
        run_case(Parser(parse, (ManifestError,), list), b"")
