"""What a request may ask of a file besides all of it: a range, or only news. Pure (RFC 9110 §13 and §14).

- One range of bytes is given; several, other units and anything malformed mean the whole file (RFC 9110 §14.2).
- An `If-Range` that does not name exactly this file means the whole file, so that two versions never mix.
- `If-None-Match` is read before `Range` (RFC 9110 §13.2.2): what the client has already is 304, whatever the range.
"""

from __future__ import annotations

import re

import attrs

# Two positions of 20 digits hold every file; more is a list of ranges or an attack, and both mean the whole file.
# The bound also keeps `int` in linear time, and away from its own limit of 4300 digits.
LONGEST_HEADER = 200

_LIST_BLANK = r"[ \t,]*"  # a list may hold empty elements (RFC 9110 §5.6.1)
_SINGLE = re.compile(rf"bytes={_LIST_BLANK}([0-9]*)-([0-9]*){_LIST_BLANK}", re.IGNORECASE)
_OPAQUE = r'"[\x21\x23-\x7e\x80-\xff]*"'  # may hold commas, so a list of tags cannot be split at them (§8.8.3)
_TAG = re.compile(rf"{_LIST_BLANK}(?:W/)?({_OPAQUE})[ \t]*(?:,|$)")


@attrs.frozen
class Span:
    """The bytes from `start` up to, not including, `stop`; at least one."""

    start: int
    stop: int

    def __attrs_post_init__(self) -> None:
        if not 0 <= self.start < self.stop:
            raise ValueError(f"no span from {self.start} to {self.stop}")

    def __len__(self) -> int:
        return self.stop - self.start

    def content_range(self, size: int) -> str:
        """The `Content-Range` of this part of a file of `size` bytes."""
        return f"bytes {self.start}-{self.stop - 1}/{size}"


@attrs.frozen
class Unsatisfiable:
    """A range that lies outside the file: answered by 416."""

    def content_range(self, size: int) -> str:
        """The `Content-Range` that tells the client the size it did not know."""
        return f"bytes */{size}"


def parse(header: str | None, size: int) -> Span | Unsatisfiable | None:
    """What a `Range` header asks of a file of `size` bytes; None is all of it.

    A suffix of an empty file is all of it too: it counts as satisfiable (RFC 9110 §14.1.2), and no `Content-Range` can
    say it.
    """
    asked = _SINGLE.fullmatch(header) if header is not None and len(header) <= LONGEST_HEADER else None
    if asked is None or not any(asked.groups()):
        return None
    first, last = (int(position) if position else None for position in asked.groups())
    match first, last:
        case None, int(suffix):
            start, stop = max(size - suffix, 0), size
            is_satisfiable = suffix > 0
        case int(start), None:
            stop, is_satisfiable = size, start < size
        case int(start), int(last):
            if last < start:
                return None  # invalid, which is not the same as unsatisfiable (§14.1.1)
            stop, is_satisfiable = min(last + 1, size), start < size
    if not is_satisfiable:
        return Unsatisfiable()
    return Span(start, stop) if size else None


def not_modified(if_none_match: str | None, etag: str) -> bool:
    """Whether the client has the file tagged `etag` already, so that 304 is the answer.

    Tags compare weakly (RFC 9110 §13.1.2). In a malformed list what stands before the fault still counts.
    """
    if if_none_match is None:
        return False
    if if_none_match.strip(" \t") == "*":
        return True
    mine = etag.removeprefix("W/")
    position = 0
    while tag := _TAG.match(if_none_match, position):
        if tag[1] == mine:
            return True
        position = tag.end()
    return False


def range_applies(if_range: str | None, etag: str) -> bool:
    """Whether a `Range` that came with this `If-Range` may be obeyed for the file tagged `etag`.

    Tags compare strongly (RFC 9110 §13.1.5); a date never holds, since we send none.
    """
    return if_range is None or (if_range == etag and not etag.startswith("W/"))
