"""A lesson folder as its editor keeps it: `lesson.toml` and any files beside it."""

from __future__ import annotations

import os
import stat
import tomllib
from collections.abc import Iterator
from datetime import date, datetime
from pathlib import Path
from typing import Any

import attrs

from edgeshare.config import nearest
from edgeshare.errors import LessonError, ManifestError
from edgeshare.manifest import LessonManifest, shown, structure
from edgeshare.paths import MAX_FILES, unsafe
from edgeshare.vocabulary import Vocabulary

DESCRIPTION = "lesson.toml"

_COMPUTED = frozenset({"version", "publisher", "info_hash", "size", "files"})
_KEYS = frozenset(field.name for field in attrs.fields(LessonManifest)) - _COMPUTED
_MAX_DESCRIPTION = 256 * 1024  # bytes


@attrs.frozen
class SourceFile:
    """One file to publish."""

    path: str  # in the lesson
    source: Path  # where its bytes are
    size: int


@attrs.frozen(kw_only=True)
class LessonFolder:
    """A folder that can be published."""

    root: Path
    fields: dict[str, Any]  # of the manifest, as lesson.toml gives them
    files: tuple[SourceFile, ...]
    warnings: tuple[str, ...]

    def manifest(self, *, version: int, publisher: str, info_hash: bytes, size: int) -> LessonManifest:
        """The manifest of this folder as one version.

        Raises:
            LessonError: lesson.toml says something that cannot be.
        """
        computed = {
            "version": version,
            "publisher": publisher,
            "info_hash": info_hash,
            "size": size,
            "files": len(self.files),
        }
        return _structured(self.root, self.fields | computed)


def read_folder(root: Path, vocabulary: Vocabulary) -> LessonFolder:
    """Look through a lesson folder; no file's content is read yet.

    Raises:
        LessonError: it cannot be published; the message says why and what to change.
    """
    try:
        is_folder = root.is_dir()
    except OSError as error:
        raise LessonError(f"cannot read {_shown(root)} ({error.strerror})", hint="check its permissions") from error
    if not is_folder:
        what = "is not a folder" if os.path.lexists(root) else "does not exist"
        raise LessonError(f"{_shown(root)} {what}", hint=f"name a folder that holds a {DESCRIPTION}")
    fields = _fields(root)
    files = tuple(sorted(_files(root), key=lambda file: file.path))
    total = sum(file.size for file in files)
    if not files:
        raise LessonError(f"{_shown(root)} holds no files besides {DESCRIPTION}", hint="put the lesson's pages there")
    if not total:
        raise LessonError(f"all files in {_shown(root)} are empty", hint="put the lesson's pages there")
    if refused := unsafe(file.path for file in files):
        raise LessonError(f"{_shown(root)}: the file {refused.path!r} {refused.reason}", hint="rename it")
    _structured(root, fields | {"version": 1, "publisher": "p", "info_hash": bytes(32), "size": total, "files": 1})
    start = fields["start"]
    if start not in {file.path for file in files}:
        close = nearest(start, (file.path for file in files))
        hint = f"did you mean {close}?" if close else "name the file that a browser opens first"
        raise LessonError(f"{_shown(root)}: there is no file {start!r} to `start` with", hint=hint)
    warnings: list[str] = []
    for key, known in (("levels", vocabulary.levels), ("subjects", vocabulary.subjects)):
        for code in fields[key]:
            if code not in known:
                close = nearest(code, known)
                hint = f" (did you mean {close}?)" if close else ""
                warnings.append(f"{key}: {code!r} is not in the vocabulary, and kept{hint}")
    return LessonFolder(root=root, fields=fields, files=files, warnings=tuple(warnings))


def _fields(root: Path) -> dict[str, Any]:
    path = _shown(root / DESCRIPTION)
    if not os.path.lexists(root / DESCRIPTION):
        hint = "describe the lesson in one; manifests/lessons has examples"
        raise LessonError(f"{_shown(root)} has no {DESCRIPTION}", hint=hint)
    target, status = _target(root / DESCRIPTION, Path(os.path.realpath(root)))
    if not stat.S_ISREG(status.st_mode):
        raise LessonError(f"{path} is not a file", hint="write the lesson's description there")
    if status.st_size > _MAX_DESCRIPTION:
        raise LessonError(f"{path} is larger than {_MAX_DESCRIPTION} bytes", hint="it only describes the lesson")
    try:
        whole = tomllib.loads(target.read_text(encoding="utf-8"))
    except OSError as error:
        raise LessonError(f"cannot read {path} ({error.strerror})", hint="check its permissions") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise LessonError(f"{path} is not TOML in UTF-8", hint=str(error)) from error
    if "subject" in whole:  # the old name
        subject = whole.pop("subject")
        whole.setdefault("subjects", subject if isinstance(subject, list) else [subject])
    for key in whole:
        if key not in _KEYS:
            close = nearest(key, _KEYS)
            hint = f"did you mean `{close}`?" if close else f"known keys: {', '.join(sorted(_KEYS))}"
            raise LessonError(f"{path}: unknown key `{shown(key)[1:-1]}`", hint=hint)
    for key, value in whole.items():
        if isinstance(value, datetime):
            if value.tzinfo is None:
                raise LessonError(f"{path}: `{key}` has no time zone", hint="write it like 2026-11-24T08:00:00+01:00")
            whole[key] = value.isoformat()
        elif isinstance(value, date):
            raise LessonError(f"{path}: `{key}` has no time", hint="write it like 2026-11-24T08:00:00+01:00")
    return whole


def _structured(root: Path, fields: dict[str, Any]) -> LessonManifest:
    try:
        return structure(fields, LessonManifest)
    except ManifestError as error:
        reason = str(error).removeprefix("the manifest is refused, ")
        raise LessonError(f"{_shown(root / DESCRIPTION)}: {reason}") from error


def _files(root: Path) -> Iterator[SourceFile]:
    """Every file below `root`; links that stay inside are followed."""
    real = Path(os.path.realpath(root))
    count = folders = 0
    pending: list[tuple[Path, str, tuple[Path, ...]]] = [(root, "", (real,))]
    while pending:
        folder, above, inside_of = pending.pop()
        try:
            entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
        except OSError as error:
            what = f"cannot read the folder {_shown(folder)} ({error.strerror})"
            raise LessonError(what, hint="check its permissions") from error
        for entry in entries:
            path = _name(folder, entry.name, above)
            if path == DESCRIPTION:
                continue
            if entry.is_symlink():
                target, status = _target(Path(entry.path), real)
            else:
                target, status = inside_of[-1] / entry.name, entry.stat(follow_symlinks=False)
            if stat.S_ISDIR(status.st_mode):
                if target in inside_of:
                    raise LessonError(f"the link {_shown(entry.path)} leads to a folder around it", hint="remove it")
                folders += 1
                if folders > MAX_FILES:  # a few links among empty folders can make ever more of them
                    what = f"{_shown(root)} holds more than {MAX_FILES} folders"
                    raise LessonError(what, hint="remove the links among them")
                pending.append((Path(entry.path), f"{path}/", (*inside_of, target)))
            elif stat.S_ISREG(status.st_mode):
                count += 1
                if count > MAX_FILES:
                    what = f"{_shown(root)} holds more than {MAX_FILES} files"
                    raise LessonError(what, hint="make several lessons of it")
                yield SourceFile(path, target, status.st_size)
            else:
                raise LessonError(f"{_shown(entry.path)} is not a file or a folder", hint="remove it")


def _name(folder: Path, name: str, above: str) -> str:
    try:
        return above + os.fsencode(name).decode()
    except UnicodeDecodeError as error:
        what = f"the name {ascii(os.fsencode(name))[1:]} in {_shown(folder)} is not UTF-8"
        raise LessonError(what, hint="rename it") from error


def _target(path: Path, real_root: Path) -> tuple[Path, os.stat_result]:
    target = Path(os.path.realpath(path))
    if not target.is_relative_to(real_root):
        raise LessonError(f"the link {_shown(path)} leaves the lesson's folder", hint="put a copy in its place")
    try:
        return target, target.stat()
    except OSError as error:
        raise LessonError(f"cannot read {_shown(path)} ({error.strerror})", hint="mend or remove it") from error


def _shown(path: Path | str) -> str:
    """A path as it may stand in a message of one line."""
    text = str(path)
    return text if text.isprintable() else ascii(text)
