"""Strict msgpack: of everything that is signed, one encoding and no other.

Rules (`manifests/FORMAT.md` §1):
- Maps, lists, text, bytes, whole numbers and booleans; keys of maps are text, each once, in the order of their bytes.
- Each in its shortest form: what is read is encoded again, and must be the same bytes.
- Limits on bytes, depth and counts hold before anything is decoded that could take more memory than it is long.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import msgpack

from edgeshare.errors import ManifestError

SMALL = 64 * 1024  # bytes; what may be longer is counted before it is decoded
_MAX_DEPTH = 8
_MAX_VALUES = 2**20  # an edition's: 65,536 lessons, as many withdrawals of 9 values, and room
# What may begin a value: by its first byte, how many bytes its length has (bin, str, array, map), or what follows.
_MEASURED = {0xC4: 1, 0xC5: 2, 0xC6: 4, 0xD9: 1, 0xDA: 2, 0xDB: 4, 0xDC: 2, 0xDD: 4, 0xDE: 2, 0xDF: 4}
_PLAIN = dict.fromkeys((*range(0x80), *range(0xE0, 0x100), 0xC2, 0xC3), 0) | {
    head + n: 2**n for head in (0xCC, 0xD0) for n in range(4)
}
_TEXT = frozenset({str})
_ATOMS = frozenset({str, bytes, int, bool})


def pack(value: object) -> bytes:
    """`value` in msgpack's canonical form here: sorted keys, shortest forms."""
    return _packed(_sorted(value))


def unpack(raw: bytes, most: int, what: str) -> Any:
    """The value in canonical msgpack `raw` of at most `most` bytes.

    Raises:
        ManifestError: it is longer, not msgpack, not canonical, too deep, or has a key twice.
    """
    if len(raw) > most:
        raise ManifestError(f"{what} of {len(raw)} bytes is refused", hint=f"at most {most} are read")
    if most > SMALL:
        _check_extent(raw, what)
    try:
        value = msgpack.unpackb(
            raw,
            raw=False,
            strict_map_key=True,
            max_array_len=65536,
            max_map_len=4096,
            max_str_len=8192,  # a description of 2000 characters has up to 8000 bytes
            max_bin_len=65536,
            max_ext_len=0,
        )
    except (ValueError, msgpack.exceptions.UnpackException, RecursionError) as error:
        raise ManifestError(f"{what} is not strict msgpack ({type(error).__name__})") from error
    _check_shape(value, what, 0)
    if _packed(value) != raw:  # what stood twice is once in `value`, and each form is the shortest
        raise ManifestError(f"{what} is not in canonical form")
    return value


def _check_extent(raw: bytes, what: str) -> None:
    """Refuse what holds too many values, or too deep, before it is decoded: 64 MiB of empty lists would take 5 GB."""
    values = place = 0
    pending = [1]  # values still to come: of the whole, and of each map and list around this place
    while pending:
        if not pending[-1]:
            pending.pop()
            continue
        pending[-1] -= 1
        values += 1
        if values > _MAX_VALUES:
            raise ManifestError(f"{what} holds more than {_MAX_VALUES} values")
        if len(pending) > 1 + _MAX_DEPTH:
            raise ManifestError(f"{what} is nested more than {_MAX_DEPTH} deep")
        if place >= len(raw):
            return  # it is cut short, as its decoder finds out
        head = raw[place]
        place += 1
        if head in _MEASURED:
            width = _MEASURED[head]
            length = int.from_bytes(raw[place : place + width], "big")
            place += width
            if head < 0xDC:
                place += length
            else:
                pending.append(length if head < 0xDE else 2 * length)
        elif head in _PLAIN:
            place += _PLAIN[head]
        elif 0x80 <= head <= 0x9F:
            pending.append((head & 0x0F) * (2 if head < 0x90 else 1))
        elif 0xA0 <= head <= 0xBF:
            place += head & 0x1F
        else:
            raise ManifestError(f"{what} is not strict msgpack (a value that begins with {head:#x})")


def _check_shape(value: object, what: str, depth: int) -> None:
    """Only maps with text keys in their order, lists, text, bytes, whole numbers and booleans, `_MAX_DEPTH` deep."""
    if isinstance(value, dict):
        if not _TEXT.issuperset(map(type, value)):
            raise ManifestError(f"{what} has a key that is not text")
        if list(value) != sorted(value):
            raise ManifestError(f"{what} is not in canonical form")
        inner: Collection[object] = value.values()
    elif isinstance(value, list):
        inner = value
    elif type(value) in _ATOMS:
        return
    else:
        raise ManifestError(f"{what} holds a {type(value).__name__}")
    if inner and depth == _MAX_DEPTH:
        raise ManifestError(f"{what} is nested more than {_MAX_DEPTH} deep")
    if not _ATOMS.issuperset(map(type, inner)):
        for each in inner:
            _check_shape(each, what, depth + 1)


def _sorted(value: object) -> object:
    if isinstance(value, dict):
        return {key: _sorted(value[key]) for key in sorted(value)}
    if isinstance(value, list | tuple):
        return [_sorted(inner) for inner in value]
    return value


def _packed(value: object) -> bytes:
    packed = msgpack.packb(value, use_bin_type=True)
    assert isinstance(packed, bytes)
    return packed
