"""Hybrid torrents (BEP 3, 47 and 52), made while the content is copied.

libtorrent can make torrents too, but it reads the content a second time, and it orders `sub.x` before `sub/z` in
the v1 list and after it in the v2 tree, a torrent that it then refuses to load. So the bytes are hashed here, by the
one pass that also copies them: what the torrent promises is what was written.

Rules:
- Every torrent is a folder, also when it holds one file, so that paths mean the same in both cases.
- Files stand in the order of the v2 tree (bytes of each part of the path), each followed by a pad file up to the
  next piece, the last one too: a piece belongs to one file.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from typing import Any

import attrs
import libtorrent as lt

from edgeshare.errors import ManifestError
from edgeshare.hashtree import HashedFile
from edgeshare.layout import MAX_INFO, MAX_PIECE, MIN_PIECE, Layout, read_layout
from edgeshare.manifest import InfoHash, shown

USUAL_PIECE = 64 * 1024  # a peer passes on what it has whole: over 5 Mbit/s, to five at once, half a second later
MOST_PIECES = 4096  # beyond it pieces grow up to MAX_PIECE, so that the metadata of 64 GiB stays below 250 kB


@attrs.frozen
class Torrent:
    """A finished torrent."""

    info_hash: InfoHash  # v2
    encoded: bytes  # the .torrent file
    size: int  # bytes of content, without padding
    files: int


def piece_length(sizes: Sequence[int]) -> int:
    """The piece length for files of `sizes` bytes: a power of two of at least 16 KiB.

    Small files get small pieces: each file's last piece is hashed with zeros up to its end for v1.
    """
    total = sum(sizes)
    mean = total // max(1, len(sizes))
    length = MIN_PIECE
    while length < min(mean, USUAL_PIECE):
        length *= 2
    while length * MOST_PIECES < total and length < MAX_PIECE:
        length *= 2
    return length


def assemble(name: str, length: int, files: Iterable[HashedFile], trackers: Sequence[str] = ()) -> Torrent:
    """The torrent of a folder `name` that holds `files`, hashed with pieces of `length` bytes."""
    ordered = sorted(files, key=lambda file: file.path.encode().split(b"/"))
    tree: dict[bytes, Any] = {}
    listed: list[dict[bytes, Any]] = []
    for file in ordered:
        parts = file.path.encode().split(b"/")
        node = tree
        for part in parts:
            node = node.setdefault(part, {})
        leaf: dict[bytes, Any] = {b"length": file.size}
        if file.root is not None:
            leaf[b"pieces root"] = file.root
        node[b""] = leaf
        listed.append({b"length": file.size, b"path": parts})
        pad = -file.size % length
        if pad:
            listed.append({b"attr": b"p", b"length": pad, b"path": [b".pad", str(pad).encode()]})
    info: Any = {
        b"file tree": tree,
        b"files": listed,
        b"meta version": 2,
        b"name": name.encode(),
        b"piece length": length,
        b"pieces": b"".join(file.pieces for file in ordered),
    }
    whole: Any = {
        b"info": info,
        b"piece layers": {file.root: file.layer for file in ordered if file.root is not None and file.layer},
    }
    if trackers:
        whole |= announced(trackers)
    return Torrent(
        info_hash=InfoHash(hashlib.sha256(lt.bencode(info)).digest()),
        encoded=lt.bencode(whole),
        size=sum(file.size for file in ordered),
        files=len(ordered),
    )


def with_layers(info: bytes, layout: Layout, files: Sequence[HashedFile]) -> bytes:
    """The .torrent of an info dict that was published, with the piece layers of its files, and without trackers.

    `files` are all of the layout's, in its order; their roots were compared.

    Raises:
        ManifestError: what the info dict says to clients of v1 is of something else.
    """
    if b"".join(file.pieces for file in files) != layout.hashes:
        raise ManifestError("the torrent's v1 and v2 hashes contradict each other", hint="tell the publisher")
    layers: Any = {file.root: file.layer for file in files if file.root is not None and file.layer}
    return b"d4:info" + info + b"12:piece layers" + lt.bencode(layers) + b"e"


def layout_of(torrent: bytes) -> Layout:
    """The layout in the .torrent file that was made here, read as a node reads it.

    Raises:
        ManifestError: a node would refuse it.
    """
    whole: Any = lt.bdecode(torrent)
    info = lt.bencode(whole[b"info"])
    if len(info) > MAX_INFO:
        raise ManifestError(f"the torrent's metadata has {len(info)} bytes, more than {MAX_INFO}")
    return read_layout(whole[b"info"])


def with_trackers(torrent: bytes, trackers: Sequence[str]) -> bytes:
    """The same torrent announcing to `trackers`; its info-hash does not depend on them."""
    whole: Any = lt.bdecode(torrent)
    whole.pop(b"announce", None)
    whole.pop(b"announce-list", None)
    if trackers:
        whole |= announced(trackers)
    return bytes(lt.bencode(whole))


def announced(trackers: Sequence[str]) -> dict[bytes, Any]:
    """The keys of a .torrent that name `trackers`, all in one tier each (BEP 12)."""
    return {b"announce": trackers[0].encode(), b"announce-list": [[t.encode()] for t in trackers]}


def tracker_hashes(torrent: bytes, info_hash: InfoHash) -> tuple[str, str]:
    """What a node announces a hybrid torrent by, in hex: its v1 hash, and its v2 hash cut to 20 bytes (BEP 52)."""
    info: Any = lt.bdecode(torrent)
    v1 = hashlib.sha1(lt.bencode(info[b"info"]), usedforsecurity=False)
    return v1.hexdigest(), info_hash[:20].hex()


def scraped(answer: bytes) -> dict[bytes, tuple[int, int, int]]:
    """The swarms in a tracker's answer to an HTTP scrape (BEP 48), by hash: complete, incomplete, ever completed.

    Raises:
        ManifestError: it is no such answer; what the tracker says instead is in the message.
    """
    try:
        whole: Any = lt.bdecode(answer)
    except RuntimeError as error:
        raise ManifestError("the answer is not bencoded") from error
    match whole:
        case {b"files": dict(swarms)}:
            pass
        case {b"failure reason": bytes(reason)}:
            raise ManifestError(f"it refuses, {shown(reason.decode(errors='replace'))}")
        case _:
            raise ManifestError("the answer names no swarms")
    found: dict[bytes, tuple[int, int, int]] = {}
    for swarm, counts in swarms.items():
        match counts:
            case {b"complete": int(complete), b"incomplete": int(incomplete)} if min(complete, incomplete) >= 0:
                ever = counts.get(b"downloaded", 0)
                found[swarm] = (complete, incomplete, ever if isinstance(ever, int) and ever >= 0 else 0)
    return found
