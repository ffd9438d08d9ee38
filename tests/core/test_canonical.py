from __future__ import annotations

import contextlib
import struct
import subprocess
import sys
from typing import Any

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeshare.canonical import SMALL, pack, unpack
from edgeshare.errors import ManifestError
from tests.core.samples import values

LARGE = 2**26  # bytes; of an edition


@given(values)
def test_what_is_packed_is_unpacked_as_it_was(value: object) -> None:
    assert unpack(pack(value), SMALL, "it") == value


@given(values)
def test_other_encodings_of_a_value_are_refused(value: object) -> None:
    raw = msgpack.packb(value, use_bin_type=True)
    if raw != pack(value):  # its keys are not in order
        with pytest.raises(ManifestError, match="canonical"):
            unpack(raw, SMALL, "it")


def nested(depth: int) -> bytes:
    return b"\x91" * depth + b"\x00"


@pytest.mark.parametrize(
    ("raw", "why"),
    [
        (b"", "not strict msgpack"),
        (b"\xc1", "not strict msgpack"),
        (b"\x00\x00", "not strict msgpack"),  # extra bytes
        (b"\x82\xa1a\x00\xa1a\x01", "canonical"),  # {"a": 0, "a": 1}
        (b"\x81\x01\x00", "not strict msgpack"),  # {1: 0}
        (b"\x81\xc0\x00", "not strict msgpack"),  # {nil: 0}
        (b"\x81\x90\x00", "not strict msgpack"),  # {[]: 0}
        (b"\x81\xc4\x01a\x00", "a key that is not text"),  # {b"a": 0}
        (b"\xa2\xff\xfe", "not strict msgpack"),  # text that is not UTF-8
        (b"\xa3\xed\xa0\x80", "not strict msgpack"),  # a lone surrogate
        (b"\xdd\xff\xff\xff\xff", "not strict msgpack"),  # a list of 2^32 - 1
        (b"\xdf\xff\xff\xff\xff", "not strict msgpack"),
        (b"\xdb\xff\xff\xff\xff", "not strict msgpack"),
        (b"\xc6\xff\xff\xff\xff", "not strict msgpack"),
        (b"\xdc\xff\xff" * 500, "not strict msgpack"),
        (b"\xc0", "holds a NoneType"),
        (b"\xca" + struct.pack(">f", 1.0), "holds a float"),
        (b"\xcb" + struct.pack(">d", float("nan")), "holds a float"),
        (b"\xd4\x05\x00", "not strict msgpack"),  # an extension
        (b"\xc7\x00\x05", "holds a ExtType"),  # an empty one
        (b"\xd6\xff\x00\x00\x00\x00", "not strict msgpack"),  # a timestamp
        (nested(9), "nested more than 8"),
        (nested(1000), "nested more than 8"),
        (nested(1024), "nested more than 8"),
        (nested(5000), "not strict msgpack"),
        (b"\xcc\x05", "canonical"),  # 5 in two bytes
        (b"\xd9\x01a", "canonical"),
        (b"\xc5\x00\x01a", "canonical"),
        (b"\xdc\x00\x01\x00", "canonical"),
        (b"\x82\xa1b\x00\xa1a\x00", "canonical"),  # {"b": 0, "a": 0}
    ],
    ids=lambda value: value[:6].hex() + f"…{len(value)}" if isinstance(value, bytes) else None,
)
def test_msgpack_outside_the_strict_subset_is_refused(raw: bytes, why: str) -> None:
    with pytest.raises(ManifestError, match=why):
        unpack(raw, SMALL, "it")


def test_values_are_nested_at_most_8_deep() -> None:
    assert unpack(nested(8), 100, "it")


def test_a_value_has_at_most_the_bytes_that_are_allowed() -> None:
    assert unpack(pack(bytes(98)), 100, "it") == bytes(98)
    with pytest.raises(ManifestError, match="at most 100 are read"):
        unpack(pack(bytes(99)), 100, "it")


def test_a_number_beyond_64_bits_has_no_encoding() -> None:
    assert unpack(pack([-(2**63), 2**64 - 1]), SMALL, "it") == [-(2**63), 2**64 - 1]
    for number in (2**64, -(2**63) - 1):
        with pytest.raises(OverflowError):
            pack(number)


def test_a_text_may_hold_a_nul_and_says_so_to_who_reads_it() -> None:
    assert unpack(pack("a\0b"), SMALL, "it") == "a\0b"


@pytest.mark.parametrize(
    ("value", "longest"),
    [("x", 8192), (b"x", 65_536), ([0], 65_536)],
    ids=["text", "bytes", "a-list"],
)
def test_text_bytes_and_lists_are_taken_at_their_longest_and_refused_past_it(value: Any, longest: int) -> None:
    assert unpack(pack(value * longest), LARGE, "it") == value * longest
    with pytest.raises(ManifestError, match="not strict msgpack"):
        unpack(pack(value * (longest + 1)), LARGE, "it")


def test_a_map_has_at_most_4096_keys() -> None:
    most = {f"{n:04}": 0 for n in range(4096)}
    assert unpack(pack(most), LARGE, "it") == most
    with pytest.raises(ManifestError, match="not strict msgpack"):
        unpack(pack(most | {"x": 0}), LARGE, "it")


@given(values)
def test_what_may_be_large_is_read_by_the_same_rules(value: object) -> None:
    raw = msgpack.packb(value, use_bin_type=True)
    assert reading(raw, LARGE) == reading(raw, SMALL)


@given(st.binary(max_size=200))
def test_any_bytes_are_read_by_the_same_rules(raw: bytes) -> None:
    large, small = reading(raw, LARGE), reading(raw, SMALL)
    assert large == small


def reading(raw: bytes, most: int) -> object:
    """The value in `raw`, or that it is refused."""
    with contextlib.suppress(ManifestError):
        return [unpack(raw, most, "it")]
    return None


@pytest.mark.parametrize(
    ("raw", "why"),
    [
        (nested(9), "nested more than 8"),
        (nested(5000), "nested more than 8"),
        (b"\xdd\x00\x01\x00\x00" * 2000, "nested more than 8"),  # 2000 lists, each to have 65,536 items
        (b"\xdc\xff\xff" + (b"\xdc\xff\xff" + b"\x00" * 65_535) * 17, "more than 1048576 values"),
        (b"\xc0", "not strict msgpack"),
        (b"\x91\xcb" + struct.pack(">d", float("nan")), "not strict msgpack"),
        (b"\x91\xc7\x00\x05", "not strict msgpack"),
    ],
    ids=lambda value: value[:6].hex() + f"…{len(value)}" if isinstance(value, bytes) else None,
)
def test_what_may_be_large_is_refused_before_it_is_decoded(raw: bytes, why: str) -> None:
    with pytest.raises(ManifestError, match=why):
        unpack(raw, LARGE, "it")


_UNDER_A_LIMIT = """
import re, resource
from pathlib import Path
from edgeshare.canonical import unpack
from edgeshare.errors import ManifestError
bombs = [
    (b"\\x91" * 5000, 2**16),
    (b"\\xdc\\xff\\xff" * 1000, 2**16),
    (b"\\xdd\\x00\\x01\\x00\\x00" * 500, 2**16),
    (b"\\xdd\\x00\\x00\\x10\\x00" * 1000, 2**16),
    (b"\\xdd\\x00\\x01\\x00\\x00" * 500, 2**26),
    (b"\\xdc\\x03\\xff" + (b"\\xdc\\xff\\xff" + b"\\x90" * 65535) * 1023, 2**26),
    (b"\\xdc\\x03\\xff" + (b"\\xdc\\xff\\xff" + b"\\x00" * 65535) * 1023, 2**26),
    (b"\\xdc\\xff\\xff" + b"\\xde\\x0f\\xff" * 65535, 2**26),
]
used = 1024 * int(re.search(r"VmSize:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])
resource.setrlimit(resource.RLIMIT_AS, (used + 100 * 2**20,) * 2)
for raw, most in bombs:
    try:
        unpack(raw, most, "it")
    except ManifestError:
        continue
    raise SystemExit(f"{raw[:8].hex()} is taken")
"""


def test_no_bomb_takes_more_than_100_mb_of_addresses() -> None:
    done = subprocess.run(
        [sys.executable, "-c", _UNDER_A_LIMIT], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
