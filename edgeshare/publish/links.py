"""Links to published lessons: what an editor or a teacher puts into a learning platform, a message, or on paper.

The durable one, `https://<origin>/o#<lesson id>[/<path>]`, leads to the page of `linkpage`, and works with a node or
without one. The direct one leads to the node on the reader's machine, and works when every server is down.
"""

from __future__ import annotations

import html
import io
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal
from urllib.parse import quote

import attrs

from edgeshare.catalogue import newest
from edgeshare.config import nearest
from edgeshare.errors import RepositoryError
from edgeshare.manifest import LessonId, LessonManifest, is_origin_url, shown
from edgeshare.publish import metadata as tuf
from edgeshare.publish.editions import Catalogue, read_catalogues
from edgeshare.publish.linkpage import NODE
from edgeshare.publish.places import Places
from edgeshare.publish.torrent import layout_of

_ABOUT = {
    "fr": ("sur cet ordinateur ou à la maison", "autrement"),
    "en": ("on this computer or at home", "another way"),
}


@attrs.frozen(kw_only=True)
class Link:
    """A way to one published lesson, or to one of its files."""

    manifest: LessonManifest
    origin: str  # base URL, with the last `/`
    path: str = ""  # within the lesson; its start when empty
    node: str = NODE  # whom the direct link asks, without a last `/`

    @property
    def durable(self) -> str:
        """What works wherever it is opened, with a node or without one."""
        return f"{self.origin}o#{self._target}"

    @property
    def direct(self) -> str:
        """What works with no server but the node."""
        return f"{self.node}/open/{self._target}"

    @property
    def _target(self) -> str:
        return self.manifest.id + ("/" + quote(self.path, safe="/") if self.path else "")

    def snippet(self) -> str:
        """Two links to paste into a learning platform, the direct one first: it works when every server is down.

        Platforms keep links and drop the rest, so each says by itself where it leads; there is no script.
        """
        language = self.manifest.language
        words: Literal["fr", "en"] = "en" if language.partition("-")[0].lower() == "en" else "fr"
        nearby, otherwise = _ABOUT[words]
        title = f'<span lang="{html.escape(language)}">{html.escape(self.manifest.title)}</span>'
        links = [
            f'<a href="{html.escape(url)}" target="_blank" rel="noopener noreferrer">{title} ({about})</a>'
            for url, about in ((self.direct, nearby), (self.durable, otherwise))
        ]
        return f'<p lang="{words}">{links[0]}<br>\n{links[1]}</p>\n'

    def svg(self) -> bytes:
        """The durable link as a QR code, with a name for who cannot see it."""
        drawn = io.BytesIO()
        self._code().save(drawn, kind="svg", scale=8, title=self.manifest.title, desc=self.durable)
        return drawn.getvalue()

    def png(self) -> bytes:
        """The same as a picture of dots, eight for each of the code's."""
        drawn = io.BytesIO()
        self._code().save(drawn, kind="png", scale=8)
        return drawn.getvalue()

    def text(self) -> str:
        """The same for a terminal."""
        drawn = io.StringIO()
        self._code().terminal(out=drawn, compact=True)
        return drawn.getvalue()

    def _code(self) -> Any:
        import segno  # takes 30 ms, and few ask for a picture

        try:
            return segno.make_qr(self.durable, error="m")  # paper is folded and copied
        except segno.DataOverflowError as error:
            what = f"the link is too long for a QR code, {len(self.durable)} characters"
            raise RepositoryError(what, hint="leave out --path, or shorten the file's name") from error


def link(root: Path, lesson: LessonId, *, path: str = "", origin: str | None = None, node: str = NODE) -> Link:
    """The link to a published lesson of the repository in `root`; needs no key.

    Without an `origin` it is the first one of the last release that readers reach by HTTPS, or else its first.

    Raises:
        RepositoryError: there is no such repository, lesson, file in the lesson, or origin.
    """
    places = Places(root)
    roles = tuf.read(places.metadata).publishers
    found = [each for role in roles.values() for each in read_catalogues(places, role).values()]
    lessons = newest(each.edition for each in found)
    if lesson not in lessons:
        raise RepositoryError(f"no lesson {lesson} is published here", hint=_hint(places, lesson, lessons))
    manifest = lessons[lesson].manifest
    if path:
        known = {entry.path for entry in layout_of(places.torrent(manifest.info_hash).read_bytes()).files}
        if path not in known:
            close = nearest(path, known)
            hint = f"did you mean {shown(close)}?" if close else "write it as it stands in the lesson's folder"
            raise RepositoryError(f"{lesson} has no file {shown(path)}", hint=hint)
    base = origin or _origin(found, manifest)
    if not is_origin_url(base):
        raise RepositoryError(f"{shown(base)} is no origin", hint="write it like https://lecons.example.fr/")
    if not is_origin_url(node):
        raise RepositoryError(f"{shown(node)} is no node's address", hint=f"write it like {NODE}")
    base = base.rstrip("/") + "/"
    return Link(manifest=manifest, origin=base, path=path, node=node.rstrip("/"))


def _hint(places: Places, lesson: LessonId, lessons: Iterable[str]) -> str:
    if places.staged(lesson).exists():
        return "it is staged: `edgeshare publish release` first"
    close = nearest(lesson, lessons)
    return f"did you mean {close}?" if close else "`edgeshare publish add` prints a lesson's id"


def _origin(catalogues: Iterable[Catalogue], manifest: LessonManifest) -> str:
    known = [url for each in catalogues if each.manifest.name in manifest.catalogues for url in each.manifest.origins]
    best = next((url for url in known if url.startswith("https:")), known[0] if known else None)
    if best is None:
        raise RepositoryError("no origin is known", hint="give one with --origin, like https://lecons.example.fr/")
    return best
