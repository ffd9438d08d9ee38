"""What a bundle is: lessons in a folder, with all that a node needs to believe them (`manifests/FORMAT.md`, §9).

```
edgeshare-lessons/README.txt                    what this is, in French and English
edgeshare-lessons/bundle.msgpack                what is in it: a table of contents, which nobody believes
edgeshare-lessons/metadata/  targets/           as in a repository (TUF), every root from the first on
edgeshare-lessons/torrents/<info-hash>.torrent  with piece layers
edgeshare-lessons/content/<info-hash>/<path>    the files, as they are
edgeshare-lessons/content/<info-hash>.numbered/<n>[.part<k>]   those whose name or size not every stick can keep
edgeshare-lessons/manifests/<lesson>.manifest   for `edgeshare verify`
```

Rules:
- Whoever writes it decides which files stand under their number, the place in the torrent's order; whoever reads it
  looks there first, for the whole file and then for its parts. No list on the stick is asked.
- By their number stand: files of more than `PART` bytes, in parts of that size (FAT32 keeps 4 GiB less one byte, and
  fusefat, for one, 2 GiB less one);
  names outside ASCII, as the letters of a FAT name depend on who mounts it; names with `~`, which may be another file's
  short name; long paths (Windows opens 260 characters); files of a folder with more names than FAT has room for.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Self

import attrs

from edgeshare.canonical import pack, unpack
from edgeshare.catalogue import SignedLesson
from edgeshare.errors import ManifestError
from edgeshare.layout import FileEntry, Layout
from edgeshare.manifest import InfoHash, LessonId, is_catalogue_name, lesson_id, shown
from edgeshare.units import size

FOLDER = "edgeshare-lessons"  # one in each stick
INDEX = "bundle.msgpack"
README = "README.txt"
FORMAT = "edgeshare-bundle/1"
PART = 2**31 - 2**16  # bytes: below what every driver keeps, and whole clusters
MAX_INDEX = 2**21  # bytes: of so many lessons with the longest ids
MAX_LESSONS = 10_000  # a FAT folder takes 65,536 short names, and a torrent's takes seven of them
MAX_CATALOGUES = 1000
_LONGEST = 150  # characters of a path below its content's folder; 94 stand before it on a drive of Windows
_ENTRIES = 60_000  # of one folder

Place = tuple[str, ...]  # below the bundle's folder


@attrs.frozen
class Bundle:
    """A bundle's table of contents. It says what to look for; what is right, the metadata says."""

    catalogues: tuple[str, ...] = ()
    lessons: Mapping[LessonId, InfoHash] = attrs.field(factory=dict)

    @classmethod
    def parse(cls, raw: bytes) -> Self:
        """The table in the bytes of `bundle.msgpack`.

        Raises:
            ManifestError: they are something else.
        """
        whole = unpack(raw, MAX_INDEX, "the table of contents")
        form = whole.get("format") if isinstance(whole, dict) else None
        if isinstance(form, str) and form.startswith("edgeshare-bundle/") and form != FORMAT:
            raise ManifestError(f"the bundle has the format {shown(form)}", hint="a newer edgeshare reads it")
        match whole:
            case {"format": "edgeshare-bundle/1", "catalogues": list(catalogues), "lessons": list(listed)}:
                pass
            case _:
                raise ManifestError("these bytes are not a bundle's table of contents")
        if len(catalogues) > MAX_CATALOGUES or len(listed) > MAX_LESSONS:
            raise ManifestError(f"the bundle lists more than {MAX_CATALOGUES} catalogues or {MAX_LESSONS} lessons")
        if not all(isinstance(name, str) and is_catalogue_name(name) for name in catalogues):
            raise ManifestError("the bundle lists a catalogue that is none")
        lessons: dict[LessonId, InfoHash] = {}
        for entry in listed:
            match entry:
                case {"id": str(text), "info_hash": bytes(info_hash)} if len(info_hash) == 32:
                    lessons[lesson_id(text)] = InfoHash(info_hash)
                case _:
                    raise ManifestError("the bundle lists a lesson that is none")
        return cls(tuple(dict.fromkeys(catalogues)), lessons)

    def encode(self) -> bytes:
        """The bytes of `bundle.msgpack`."""
        listed = [{"id": lesson, "info_hash": self.lessons[lesson]} for lesson in sorted(self.lessons)]
        return pack({"format": FORMAT, "catalogues": sorted(self.catalogues), "lessons": listed})


def content_folder(info_hash: InfoHash) -> Place:
    """Where the files of a content are that stand under their own names."""
    return "content", info_hash.hex()


def numbered_folder(info_hash: InfoHash) -> Place:
    """Where those are that stand under their numbers."""
    return "content", f"{info_hash.hex()}.numbered"


def torrent_file(info_hash: InfoHash) -> Place:
    """A content's .torrent."""
    return "torrents", f"{info_hash.hex()}.torrent"


def manifest_file(lesson: LessonId) -> Place:
    """A lesson's signed manifest."""
    return "manifests", f"{lesson}.manifest"


def named(info_hash: InfoHash, entry: FileEntry) -> Place:
    """The place of a file under its own name."""
    return *content_folder(info_hash), *entry.path.split("/")


def places(info_hash: InfoHash, layout: Layout, part: int = PART) -> Mapping[str, tuple[tuple[Place, int], ...]]:
    """Where each file of a content is written, by its path: one place, or one for each part, with the bytes there."""
    crowded = _crowded(layout)
    found: dict[str, tuple[tuple[Place, int], ...]] = {}
    for number, entry in enumerate(layout.files):
        folder = numbered_folder(info_hash)
        if entry.size > part:
            sizes = [min(part, entry.size - start) for start in range(0, entry.size, part)]
            found[entry.path] = tuple(
                ((*folder, f"{number}.part{which}"), count) for which, count in enumerate(sizes, start=1)
            )
        elif _is_portable(entry.path) and entry.path.rpartition("/")[0] not in crowded:
            found[entry.path] = ((named(info_hash, entry), entry.size),)
        else:
            found[entry.path] = (((*folder, str(number)), entry.size),)
    return found


def readme(lessons: Iterable[SignedLesson]) -> str:
    """What a person finds who looks into the folder."""
    listed = "".join(
        f"  {each.manifest.id}, version {each.manifest.version}: {each.manifest.title} ({size(each.manifest.size)})\n"
        for each in sorted(lessons, key=lambda each: each.manifest.id)
    )
    text = f"""\
Ce dossier contient des leçons pour edgeshare, avec leurs signatures.
Pour les mettre sur un ordinateur ou un serveur d'école :

  edgeshare import CE_SUPPORT

Ne changez rien ici : ce qui a été modifié est refusé.
Les fichiers se trouvent sous content/ ; ceux dont le nom ou la taille
ne convient pas à toute clé USB portent un numéro.

This folder holds lessons for edgeshare, with their signatures.
To bring them to a computer or a school's server:

  edgeshare import THIS_DRIVE

Change nothing here: what was altered is refused.
The files are below content/; those whose name or size
does not suit every USB stick have a number instead.

{listed}"""
    return text.replace("\n", "\r\n")  # for the plainest of editors


def _is_portable(path: str) -> bool:
    return path.isascii() and "~" not in path and len(path) <= _LONGEST


def _crowded(layout: Layout) -> set[str]:
    """The folders with more names than FAT can keep: each takes an entry, and one more for every 13 characters."""
    entries: Counter[str] = Counter()
    seen: set[str] = set()
    for entry in layout.files:
        path = entry.path
        while path and path not in seen:
            seen.add(path)
            above, _, name = path.rpartition("/")
            entries[above] += 1 - (-len(name) // 13)
            path = above
    return {folder for folder, count in entries.items() if count > _ENTRIES}
