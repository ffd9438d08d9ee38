"""A lesson's files and pieces, as the info dict of its torrent lays them out (BEP 3, 47, 52).

The info-hash commits to every byte of that dict, so a layout that was checked against it is as good as signed. Files
begin at piece boundaries: a piece belongs to exactly one file.
"""

from __future__ import annotations

import bisect
import hashlib
from collections.abc import Iterator, Mapping
from functools import cached_property
from typing import Any, NewType

import attrs

from edgeshare.errors import ManifestError
from edgeshare.paths import MAX_PARTS, unsafe

Piece = NewType("Piece", int)  # its index in the torrent

MAX_INFO = 16 * 2**20  # bytes of an info dict: 20,000 long paths and the pieces of 100 GiB
MIN_PIECE, MAX_PIECE = 16 * 2**10, 16 * 2**20  # bytes


@attrs.frozen(kw_only=True)
class FileEntry:
    """One file of a lesson."""

    path: str  # relative to the lesson's folder, with `/`; passed `paths.unsafe`
    size: int  # bytes
    root: bytes  # of the file's hash tree (BEP 52), 32 bytes; empty for an empty file
    first: Piece  # its first piece; an empty file has none and names the next file's
    index: int  # in the torrent's own list of files, pad files counted


@attrs.frozen(kw_only=True)
class PieceSpan:
    """The part of one piece that holds wanted bytes of a file, half-open within the piece."""

    piece: Piece
    start: int
    stop: int


@attrs.frozen(kw_only=True, slots=False)  # slots would forbid the cached look-ups
class Layout:
    """What a lesson's torrent says about its content."""

    name: str
    piece_length: int  # bytes
    files: tuple[FileEntry, ...]  # in the torrent's order
    hashes: bytes  # SHA-1 of each piece, padding included

    @cached_property
    def size(self) -> int:
        """Bytes of content, without padding."""
        return sum(file.size for file in self.files)

    @cached_property
    def pieces(self) -> int:
        """How many pieces there are."""
        return len(self.hashes) // 20

    @cached_property
    def by_path(self) -> Mapping[str, FileEntry]:
        """The files by their path: the only way from a URL to a file."""
        return {file.path: file for file in self.files}

    def pieces_of(self, file: FileEntry) -> range:
        """The indexes of the pieces that hold `file`."""
        return range(file.first, file.first + -(-file.size // self.piece_length))

    def spans(self, file: FileEntry, start: int, stop: int) -> Iterator[PieceSpan]:
        """The pieces that hold the bytes of `file` from `start` up to `stop`, in order."""
        while start < stop:
            number, offset = divmod(start, self.piece_length)
            portion = min(stop - start, self.piece_length - offset)
            yield PieceSpan(piece=Piece(file.first + number), start=offset, stop=offset + portion)
            start += portion

    def file_of(self, piece: Piece) -> tuple[FileEntry, int, int]:
        """The file that holds `piece`, and the half-open byte range of the piece within that file."""
        file = self._solid[bisect.bisect_right(self._firsts, piece) - 1]
        start = (piece - file.first) * self.piece_length
        return file, start, min(start + self.piece_length, file.size)

    def is_piece(self, piece: Piece, content: bytes) -> bool:
        """Whether `content` is the piece, with or without its padding (libtorrent gives it with)."""
        padded = content.ljust(self.piece_length, b"\0")
        digest = hashlib.sha1(padded, usedforsecurity=False).digest()
        return digest == self.hashes[20 * piece : 20 * piece + 20]

    @cached_property
    def _solid(self) -> tuple[FileEntry, ...]:
        return tuple(file for file in self.files if file.size)

    @cached_property
    def _firsts(self) -> list[int]:
        return [file.first for file in self._solid]


def read_layout(info: Mapping[bytes, Any]) -> Layout:
    """The layout that a decoded info dict describes.

    Only what edgeshare publishes is understood: hybrid torrents with every file padded to whole pieces.

    Raises:
        ManifestError: it is something else, contradicts itself, or names files that no lesson may hold.
    """
    length, tree, name = info.get(b"piece length"), info.get(b"file tree"), info.get(b"name")
    if info.get(b"meta version") != 2 or not isinstance(tree, dict) or not isinstance(name, bytes):
        raise ManifestError("the torrent is not a v2 torrent of a folder")
    if not isinstance(length, int) or not MIN_PIECE <= length <= MAX_PIECE or length & (length - 1):
        raise ManifestError("the torrent's piece length is not a power of two from 16 KiB to 16 MiB")
    files: list[FileEntry] = []
    v1: list[tuple[int, bytes, bool]] = []  # what the v1 list must say
    piece = 0
    for parts, size, root in _leaves(tree, ()):
        path = _text(b"/".join(parts))
        files.append(FileEntry(path=path, size=size, root=root, first=Piece(piece), index=len(v1)))
        v1.append((size, b"/".join(parts), False))
        if pad := -size % length:
            v1.append((pad, b"", True))
        piece += -(-size // length)
    if refused := unsafe(file.path for file in files):
        raise ManifestError(f"the torrent names a file {refused.path[:80]!a} that {refused.reason}")
    hashes = info.get(b"pieces")
    if not isinstance(hashes, bytes) or len(hashes) != 20 * piece or not piece:
        raise ManifestError("the torrent does not have one hash for each piece")
    if [_v1_entry(entry) for entry in _list(info.get(b"files"))] != v1:
        raise ManifestError("the torrent's v1 and v2 lists of files differ")
    return Layout(name=_text(name), piece_length=length, files=tuple(files), hashes=hashes)


def _leaves(tree: dict[bytes, Any], above: tuple[bytes, ...]) -> Iterator[tuple[tuple[bytes, ...], int, bytes]]:
    """Every file below `tree` in the order of bytes: its path's parts, its size and its root."""
    if len(above) == MAX_PARTS:
        raise ManifestError(f"the torrent has paths of more than {MAX_PARTS} parts")
    for part, node in sorted(tree.items()):
        if not isinstance(node, dict) or (not part and above == ()):
            raise ManifestError("the torrent's file tree is not a tree of folders")
        leaf = node.get(b"")
        if leaf is None:
            yield from _leaves(node, (*above, part))
            continue
        # Whatever else may be said of a file (BEP 47) would make it a link, or a program.
        if not isinstance(leaf, dict) or not leaf.keys() <= {b"length", b"pieces root"}:
            raise ManifestError("the torrent's file tree has something other than plain files")
        size, root = leaf.get(b"length"), leaf.get(b"pieces root", b"")
        if len(node) != 1 or not isinstance(size, int) or size < 0 or not isinstance(root, bytes):
            raise ManifestError("the torrent's file tree has a file without a size")
        if len(root) != (32 if size else 0):
            raise ManifestError("the torrent's file tree has a file without its root")
        yield (*above, part), size, root


def _v1_entry(entry: object) -> tuple[int, bytes, bool]:
    if not isinstance(entry, dict):
        raise ManifestError("the torrent's v1 list of files is not a list of files")
    size, parts, attributes = entry.get(b"length"), _list(entry.get(b"path")), entry.get(b"attr", b"")
    if not isinstance(size, int) or not all(isinstance(part, bytes) for part in parts):
        raise ManifestError("the torrent's v1 list of files is not a list of files")
    if attributes not in (b"", b"p") or not entry.keys() <= {b"length", b"path", b"attr"}:
        raise ManifestError("the torrent's v1 list of files has something other than plain files and padding")
    is_pad = attributes == b"p"
    return size, b"" if is_pad else b"/".join(parts), is_pad


def _list(value: object) -> list[Any]:
    if not isinstance(value, list):
        raise ManifestError("the torrent has no v1 list of files")
    return value


def _text(raw: bytes) -> str:
    try:
        return raw.decode()
    except UnicodeDecodeError as error:
        raise ManifestError("the torrent has a name that is not UTF-8") from error
