"""Whether a lesson is an activity that keeps answers or scores in the browser, by the names of its files. Pure.

Two formats are, and neither is at home in a sandbox, where a page has no storage and may not even fetch its own files,
as its origin is the same as none. Tried in Chromium 156: h5p-standalone 3.8.2 does not begin (`fetch` of h5p.json is
refused to the origin `null`), scorm-again 3.4.3 runs and forgets.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

_MANIFESTS = frozenset({"h5p.json", "imsmanifest.xml"})  # H5P's (its specification), and SCORM's (1.2 and 2004, "CAM")
_PLAYERS = re.compile(r"(?:h5p-standalone|scorm-again|scorm12|scorm2004)\b.*\.m?js")


def needs_storage(paths: Iterable[str]) -> bool:
    """Whether a lesson with files at these paths may need a place for what its reader answers."""
    names = (path.lower().split("/") for path in paths)
    return any(
        parts[-1] in _MANIFESTS or any(_PLAYERS.fullmatch(part) or part == "h5p-standalone" for part in parts)
        for parts in names
    )
