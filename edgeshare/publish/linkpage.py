"""The page behind links from elsewhere, `https://<origin>/o#<lesson id>[/<path>]`, and what it asks its origin for.

Rules:
- The lesson is in the fragment, which browsers do not send: the origin's log has one path for all lessons. Nothing that
  the page asks for names a lesson either, but the content itself when the origin is what it is read from.
- The page is one file of at most 10 kB, the same in every repository, and asks nobody but its own origin. It never
  fetches from a node, which would have the browser ask its reader for permission: it opens the node's own page in a
  window (`edgeshare.shim.handshake`), and listens.
- It never leads somewhere by itself: a node that answered yesterday may be off, and what a browser shows then has no
  way back. A reader's click opens a window, and the page stays behind it.
- `lessons.json` says where the origin has each lesson. Of many lessons it says how many digits of an id's hash
  (`spread`) name the file that knows it, `lessons-<digits>.json`: a reader fetches 30 kB and not megabytes, and each
  file stands for more than a dozen lessons on average.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from importlib.resources import files
from typing import Final

from edgeshare.httpd.csp import source_of
from edgeshare.manifest import LessonManifest

NODE: Final = "http://localhost:8470"  # a node on the reader's own machine, as it listens by default
SCHOOL: Final = "http://edgeshare.local"  # a school's node, as seeders/school has it
MOST_IN_ONE_FILE: Final = 256  # lessons of about 110 bytes: what a phone fetches in a moment


def page_files(node: str = NODE) -> dict[str, bytes]:
    """The page of links and its service worker, by their names below `o/`; `node` is whom the page asks first."""
    style, script = _part("page.css"), _part("page.js").replace("{node}", node)
    policy = (
        f"default-src 'none'; style-src {source_of(style)}; script-src {source_of(script)}; "
        "connect-src 'self'; worker-src 'self' blob:; img-src data:; base-uri 'none'; form-action 'none'"
    )
    page = _part("page.html")
    for name, value in {"node": node, "school": SCHOOL, "policy": policy, "style": style, "script": script}.items():
        page = page.replace(f"{{{name}}}", value)
    version = hashlib.sha256(page.encode()).hexdigest()[:16]
    worker = _part("worker.js").replace("{version}", version).replace("{integrity}", source_of(page).strip("'"))
    return {"index.html": page.encode(), "worker.js": worker.encode()}


def index_files(lessons: Iterable[LessonManifest]) -> dict[str, bytes]:
    """What tells the page where the origin has each lesson, by the names below `o/`; the one that names others is last.

    Each lesson's info-hash, start, and the times in seconds since 1970 from which and until which it may be read (0:
    no such time): nodes obey these too.
    """
    entries = {item.id: _entry(item) for item in sorted(lessons, key=lambda item: item.id) if not item.is_rehearsal}
    digits = 0
    while len(entries) > MOST_IN_ONE_FILE * 16**digits:
        digits += 1
    if not digits:
        return {"lessons.json": _encoded({"digits": 0, "lessons": entries})}
    shares: dict[str, dict[str, list[object]]] = {f"{number:0{digits}x}": {} for number in range(16**digits)}
    for lesson, entry in entries.items():
        shares[spread(lesson)[:digits]][lesson] = entry
    parts = {f"lessons-{share}.json": _encoded({"lessons": known}) for share, known in shares.items()}
    return parts | {"lessons.json": _encoded({"digits": digits, "lessons": {}})}


def spread(text: str) -> str:
    """A hash in 8 hexadecimal digits that spreads ids over files, the same as the page's: FNV-1a, then stirred.

    Not for security. Without the stirring its first digits are much the same for ids that differ in their last letter.
    """
    found = 0x811C9DC5
    for byte in text.encode():
        found = ((found ^ byte) * 0x01000193) & 0xFFFFFFFF
    found = ((found ^ found >> 15) * 0x2C1B3C6D) & 0xFFFFFFFF
    return f"{found ^ found >> 12:08x}"


def _entry(item: LessonManifest) -> list[object]:
    since, until = item.available_from, item.expires
    return [
        item.info_hash.hex(),
        item.start,
        int(since.timestamp()) if since else 0,
        int(until.timestamp()) if until else 0,
    ]


def _encoded(value: Mapping[str, object]) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()


def _part(name: str) -> str:
    """A source file without indentation and lines of comment, which readers would have to fetch too."""
    text = (files("edgeshare.publish") / "helper" / name).read_text(encoding="utf-8")
    lines = (line.strip() for line in text.splitlines())
    return "\n".join(line for line in lines if line and not line.startswith(("//", "/**"))) + "\n"
