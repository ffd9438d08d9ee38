"""Names of files inside a lesson: what is refused, and what only some systems cannot keep.

A path is made of parts joined by `/`. It becomes a file below the library's folder, a part of a URL and a name on
other people's systems, so the same rules hold when a lesson is published and when a node admits it.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable

import attrs

MAX_FILES = 20_000
MAX_PART = 255  # bytes: NAME_MAX of the file systems in use
MAX_PATH = 1024  # bytes
MAX_PARTS = 64  # folders and the file's name; libtorrent reads bencoded trees down to depth 100

_BIDI = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
_WINDOWS_MARKS = frozenset('<>:"|?*')
_WINDOWS_DEVICES = frozenset(
    ["con", "prn", "aux", "nul"] + [f"{port}{n}" for port in ("com", "lpt") for n in "0123456789¹²³"]
)


@attrs.frozen
class Unsafe:
    """A path that no lesson may hold, and why."""

    path: str
    reason: str


def unsafe(paths: Iterable[str]) -> Unsafe | None:
    """The first reason why these paths cannot be the files of one lesson; None when they can."""
    seen: set[str] = set()
    folders: set[str] = set()
    for path in paths:
        if reason := _refused(path):
            return Unsafe(path, reason)
        if path in seen:
            return Unsafe(path, "stands twice")
        seen.add(path)
        if len(seen) > MAX_FILES:
            return Unsafe(path, f"is one of more than {MAX_FILES} files")
        parent = path.rpartition("/")[0]
        while parent and parent not in folders:
            folders.add(parent)
            parent = parent.rpartition("/")[0]
    if both := seen & folders:
        return Unsafe(min(both), "is both a file and a folder")
    return None


def windows_warnings(paths: Iterable[str]) -> list[Unsafe]:
    """The names that Windows or a USB stick cannot keep as they are; Linux and browsers can."""
    found: list[Unsafe] = []
    folded: dict[str, str] = {}
    for path in paths:
        for part in path.split("/"):
            if marks := sorted(set(part) & _WINDOWS_MARKS):
                found.append(Unsafe(path, f"Windows cannot keep {' '.join(marks)} in a name"))
                break
            if part.split(".")[0].rstrip().lower() in _WINDOWS_DEVICES:
                found.append(Unsafe(path, f"{part!r} is the name of a device on Windows"))
                break
            if part != part.rstrip(". "):
                found.append(Unsafe(path, "Windows drops a dot or blank at the end of a name"))
                break
        twin = folded.setdefault(unicodedata.normalize("NFC", path).casefold(), path)
        if twin != path:
            found.append(Unsafe(path, f"is the same name as {twin!r} on Windows and macOS"))
    return found


def _refused(path: str) -> str | None:
    try:
        encoded = path.encode()
    except UnicodeEncodeError:
        return "is not UTF-8"
    if len(encoded) > MAX_PATH:
        return f"is longer than {MAX_PATH} bytes"
    if "\\" in path:
        return "holds a backslash"
    for character in path:
        if unicodedata.category(character) == "Cc":
            return "holds a control character"
        if character in _BIDI:
            return "holds a mark that turns the reading direction"
    parts = path.split("/")
    if len(parts) > MAX_PARTS:
        return f"has more than {MAX_PARTS} parts"
    for part in parts:
        if part in ("", ".", ".."):
            return "has an empty part, `.` or `..`"
        if len(part.encode()) > MAX_PART:
            return f"has a part of more than {MAX_PART} bytes"
    if len(path) > 1 and path[1] == ":" and path[0].isascii() and path[0].isalpha() and path[2:3] in ("", "/"):
        return "begins like a drive of Windows"
    return None
