"""The hashes of one file, as BitTorrent takes them: the SHA-256 tree of v2 (BEP 52) and the SHA-1 pieces of v1."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import attrs

BLOCK = 16 * 1024  # bytes of a leaf (BEP 52)
NO_BLOCK = bytes(32)  # what pads the leaves (BEP 52)


@attrs.frozen
class HashedFile:
    """One file's part of a torrent."""

    path: str  # relative, with `/`
    size: int  # bytes
    root: bytes | None  # of the v2 tree, 32 bytes; None for an empty file
    layer: bytes  # the v2 piece layer: 32 bytes for each piece, empty for a file of at most one piece
    pieces: bytes  # v1: 20 bytes for each piece, the last one hashed with its padding


class FileHasher:
    """Hashes one file as its bytes come by; `update` in any portions, then `finish`."""

    def __init__(self, length: int) -> None:
        self._length = length
        self._rest = bytearray()  # less than one block
        self._leaves: list[bytes] = []
        self._sha1 = hashlib.sha1(usedforsecurity=False)
        self._in_piece = 0  # bytes
        self._v1: list[bytes] = []
        self._size = 0

    def update(self, portion: bytes | memoryview) -> None:
        """Take the next bytes of the file."""
        view = memoryview(portion)
        self._size += len(view)
        if self._rest:
            need = BLOCK - len(self._rest)
            self._rest += view[:need]
            view = view[need:]
            if len(self._rest) < BLOCK:
                return
            self._block(memoryview(bytes(self._rest)))
            self._rest.clear()
        whole = len(view) - len(view) % BLOCK
        for start in range(0, whole, BLOCK):
            self._block(view[start : start + BLOCK])
        self._rest += view[whole:]

    def finish(self, path: str) -> HashedFile:
        """The hashes of all that came; the hasher is used up."""
        if self._rest:
            self._block(memoryview(bytes(self._rest)))
        if self._in_piece:
            self._sha1.update(bytes(self._length - self._in_piece))
            self._v1.append(self._sha1.digest())
        if not self._leaves:
            return HashedFile(path, 0, None, b"", b"")
        if self._size <= self._length:
            return HashedFile(path, self._size, _tree(self._leaves, NO_BLOCK), b"", b"".join(self._v1))
        each = self._length // BLOCK
        layer = [
            _tree(self._leaves[first : first + each], NO_BLOCK, width=each)
            for first in range(0, len(self._leaves), each)
        ]
        root = _tree(layer, _tree([NO_BLOCK], NO_BLOCK, width=each))
        return HashedFile(path, self._size, root, b"".join(layer), b"".join(self._v1))

    def _block(self, block: memoryview) -> None:
        self._leaves.append(hashlib.sha256(block).digest())
        self._sha1.update(block)
        self._in_piece += len(block)
        if self._in_piece == self._length:
            self._v1.append(self._sha1.digest())
            self._sha1 = hashlib.sha1(usedforsecurity=False)
            self._in_piece = 0


class TreeHasher:
    """Only the v2 root of one file: what a finished file is checked by."""

    def __init__(self) -> None:
        self._rest = b""
        self._leaves: list[bytes] = []

    def update(self, portion: bytes | memoryview) -> None:
        """Take the next bytes of the file."""
        view = memoryview(self._rest + portion) if self._rest else memoryview(portion)
        whole = len(view) - len(view) % BLOCK
        self._leaves += [hashlib.sha256(view[at : at + BLOCK]).digest() for at in range(0, whole, BLOCK)]
        self._rest = bytes(view[whole:])

    def root(self) -> bytes:
        """The root over all that came, 32 bytes; empty when nothing did."""
        if self._rest:
            self._leaves.append(hashlib.sha256(self._rest).digest())
            self._rest = b""
        return _tree(self._leaves, NO_BLOCK) if self._leaves else b""


def _tree(leaves: Sequence[bytes], pad: bytes, *, width: int | None = None) -> bytes:
    """The root over `leaves`, padded with `pad` to `width` leaves or to the next power of two."""
    count = width or 1
    while count < len(leaves):
        count *= 2
    row = list(leaves)
    while count > 1:
        if len(row) % 2:
            row.append(pad)
        row = [hashlib.sha256(row[i] + row[i + 1]).digest() for i in range(0, len(row), 2)]
        pad = hashlib.sha256(pad + pad).digest()
        count //= 2
    return row[0]
