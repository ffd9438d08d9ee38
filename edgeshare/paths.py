"""Names of files inside a lesson: what is refused, so that every system can keep the others as they are.

A path is made of parts joined by `/`. It becomes a file below the library's folder, a part of a URL and a name on
other people's systems, so the same rules hold when a lesson is published and when a node admits it: a lesson that
Linux could keep and a USB stick or a school's Windows could not would be whole for some and torn for others.

A name need not be in Unicode's composed form (NFC): its bytes are what pages link to and what the info-hash commits to,
and every system keeps them. Only two names that some system takes for one are refused.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable

import attrs

MAX_FILES = 20_000
MAX_PART = 255  # bytes: NAME_MAX of the file systems in use
MAX_PATH = 1024  # bytes
MAX_PARTS = 64  # folders and the file's name; libtorrent reads bencoded trees down to depth 100

_BIDI = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
_WINDOWS_MARKS = frozenset('<>:"|?*')
_FORBIDDEN = re.compile(rf"[\\\x00-\x1f\x7f-\x9f{''.join(_BIDI | _WINDOWS_MARKS)}]")  # the ranges: Unicode's Cc
_WINDOWS_DEVICES = frozenset(
    ["con", "prn", "aux", "nul", "conin$", "conout$"]
    + [f"{port}{n}" for port in ("com", "lpt") for n in "0123456789¹²³"]
)


@attrs.frozen
class Unsafe:
    """A path that no lesson may hold, and why."""

    path: str
    reason: str


def unsafe(paths: Iterable[str]) -> Unsafe | None:
    """The first reason why these paths cannot be the files of one lesson; None when they can."""
    files: set[str] = set()
    folders: set[str] = set()
    folded: dict[str, str] = {}  # files and folders, by what a system that knows no case takes them for
    for path in paths:
        if reason := _refused(path):
            return Unsafe(path, reason)
        if path in files:
            return Unsafe(path, "stands twice")
        files.add(path)
        if len(files) > MAX_FILES:
            return Unsafe(path, f"is one of more than {MAX_FILES} files")
        new = [path]
        above = path.rpartition("/")[0]
        while above and above not in folders:
            new.append(above)
            folders.add(above)
            above = above.rpartition("/")[0]
        if len(folders) > MAX_FILES:  # a few files at the ends of long paths would make ever more of them
            return Unsafe(path, f"is in one of more than {MAX_FILES} folders")
        for name in new:
            twin = folded.setdefault(_folded(name), name)
            if twin != name:
                return Unsafe(name, f"is kept in the same place as {twin!a} by Windows and macOS")
    if both := files & folders:
        return Unsafe(min(both), "is both a file and a folder")
    return None


def _folded(name: str) -> str:
    """What all names that differ in case or in their form of Unicode only have in common (Unicode 3.13, D145)."""
    return unicodedata.normalize("NFD", unicodedata.normalize("NFD", name).casefold())


def _refused(path: str) -> str | None:
    try:
        encoded = path.encode()
    except UnicodeEncodeError:
        return "is not UTF-8"
    if len(encoded) > MAX_PATH:
        return f"is longer than {MAX_PATH} bytes"
    if found := _FORBIDDEN.search(path):
        if found[0] == "\\":
            return "holds a backslash"
        if found[0] in _BIDI:
            return "holds a mark that turns the reading direction"
        if found[0] in _WINDOWS_MARKS:
            return f"holds {found[0]}, which Windows cannot keep in a name"
        return "holds a control character"
    parts = path.split("/")
    if len(parts) > MAX_PARTS:
        return f"has more than {MAX_PARTS} parts"
    for part in parts:
        if part in ("", ".", ".."):
            return "has an empty part, `.` or `..`"
        if len(part.encode()) > MAX_PART:
            return f"has a part of more than {MAX_PART} bytes"
        if part[-1] in ". ":
            return "has a dot or blank at the end of a part, which Windows drops"
        if part.partition(".")[0].rstrip(" ").lower() in _WINDOWS_DEVICES:
            return "has a part that is the name of a device on Windows"
    return None
