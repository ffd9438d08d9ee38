"""Cases made without looking at what they reach: for tests of some seconds, and where atheris is not."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from random import Random

LONGEST = 8192  # bytes
# Where formats change their mind: msgpack's heads, bencode's and JSON's marks, digits, the ends of ranges.
_MARKS = [
    *(b"\0", b"\x7f", b"\x80", b"\x90", b"\xa1", b"\xc0", b"\xc1", b"\xc7\0\5", b"\xca", b"\xcb", b"\xcf", b"\xd3"),
    *(b"\xdd\0\1\0\0", b"\xdf\xff\xff\xff\xff", b"\xff", b"d", b"l", b"e", b"i", b"i-1e", b"0:", b"9999999999:"),
    *(b"{", b"[", b'"', b"\\", b"null", b"NaN", b"1e999", b"\xed\xa0\x80", b"\xe2\x80\xae", b"\n", b"..", b"/"),
]


def cases(seeds: Sequence[bytes], rng: Random) -> Iterator[bytes]:
    """Every seed as it is, then for ever what becomes of them by up to six changes."""
    yield from seeds
    while True:
        raw = bytearray(rng.choice(seeds))
        for _ in range(rng.randint(1, 6)):
            _change(raw, seeds, rng)
        yield bytes(raw[:LONGEST])


def _change(raw: bytearray, seeds: Sequence[bytes], rng: Random) -> None:
    start = rng.randint(0, len(raw))
    stop = min(len(raw), start + rng.choice((1, 1, 2, 4, 8, 64)))
    match rng.randrange(6):
        case 0:
            raw[start:stop] = b""
        case 1:
            raw[start:stop] = rng.randbytes(stop - start)
        case 2:
            raw[start:start] = rng.choice(_MARKS)
        case 3:
            raw[start : start + 1] = rng.choice(_MARKS)
        case 4:
            raw[start:start] = raw[start:stop] * rng.choice((1, 2, 30))
        case _:
            other = rng.choice(seeds)
            place = rng.randint(0, len(other))
            raw[start:] = other[place:]
