from __future__ import annotations

import contextlib
import hashlib
import os
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import attrs
import libtorrent as lt
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgeshare.errors import ManifestError
from edgeshare.hashtree import FileHasher, HashedFile
from edgeshare.layout import MAX_PIECE, Piece
from edgeshare.paths import unsafe
from edgeshare.publish.torrent import (
    MOST_PIECES,
    USUAL_PIECE,
    Torrent,
    assemble,
    layout_of,
    piece_length,
    tracker_hashes,
    with_trackers,
)

LENGTH = 16 * 1024


def content(path: str, size: int) -> bytes:
    return hashlib.shake_128(path.encode()).digest(size)


def hashed(sizes: dict[str, int], length: int = LENGTH) -> list[HashedFile]:
    files = []
    for path, size in sizes.items():
        hasher = FileHasher(length)
        hasher.update(content(path, size))
        files.append(hasher.finish(path))
    return files


def info_of(torrent: Torrent) -> dict[bytes, Any]:
    whole: Any = lt.bdecode(torrent.encoded)
    info = whole[b"info"]
    assert isinstance(info, dict)
    return info


def made_by_libtorrent(root: Path, sizes: dict[str, int], length: int) -> bytes:
    """The info dict that libtorrent's own maker gives, files and pads in our order."""
    files: list[Any] = []
    for path in sorted(sizes, key=lambda path: os.fsencode(path).split(b"/")):
        file = root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content(path, sizes[path]))
        files.append(lt.create_file_entry(f"{root.name}/{path}", sizes[path]))
    maker = lt.create_torrent(files, length, lt.create_torrent.canonical_files)
    lt.set_piece_hashes(maker, str(root.parent))
    whole: Any = maker.generate()
    return bytes(lt.bencode(whole[b"info"]))


parts = st.sampled_from(["a", "b", "sub", "sub.x", "z", "é ç", "#1%+&", "x" * 200])
paths = st.lists(parts, min_size=1, max_size=3).map("/".join)
folders = (
    st.dictionaries(paths, st.sampled_from([0, 1, LENGTH - 1, LENGTH, LENGTH + 1, 5 * LENGTH + 7]), min_size=2)
    .filter(lambda sizes: any(sizes.values()))
    .filter(lambda sizes: unsafe(sizes) is None)
)


def has_siblings_that_libtorrent_mixes_up(sizes: dict[str, int]) -> bool:
    """Whether the order of paths as text, libtorrent's in the v1 list, is not the order of the v2 tree."""
    return sorted(sizes, key=os.fsencode) != sorted(sizes, key=lambda path: os.fsencode(path).split(b"/"))


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.filter_too_much])
@given(folders.filter(lambda sizes: not has_siblings_that_libtorrent_mixes_up(sizes)))
def test_a_torrent_is_the_one_that_libtorrent_makes(sizes: dict[str, int]) -> None:
    with TemporaryDirectory() as name:
        root = Path(name) / "lesson"
        theirs = made_by_libtorrent(root, sizes, LENGTH)
    ours = assemble("lesson", LENGTH, hashed(sizes))
    assert lt.bencode(info_of(ours)) == theirs
    assert ours.info_hash == hashlib.sha256(theirs).digest()


@pytest.mark.parametrize("sizes", [{"sub.x": 1, "sub/z": 1}, {"a b": 20_000, "a-/x": 5, "a/y": 9}])
def test_a_folder_whose_own_torrent_libtorrent_refuses_gets_one_that_it_loads(
    tmp_path: Path, sizes: dict[str, int]
) -> None:
    theirs = made_by_libtorrent(tmp_path / "lesson", sizes, LENGTH)
    with contextlib.suppress(RuntimeError):
        lt.load_torrent_buffer(b"d4:info" + theirs + b"e")
        pytest.fail("libtorrent has learnt to order these names: assemble could now be compared for them too")
    loaded = lt.load_torrent_buffer(assemble("lesson", LENGTH, hashed(sizes)).encoded)
    assert loaded.ti is not None
    assert loaded.ti.num_pieces() == sum(-(-size // LENGTH) for size in sizes.values())


@settings(max_examples=60, deadline=None)
@given(folders)
def test_libtorrent_finds_in_every_torrent_what_was_hashed(sizes: dict[str, int]) -> None:
    torrent = assemble("lesson", LENGTH, hashed(sizes))
    loaded = lt.load_torrent_buffer(torrent.encoded)
    assert loaded.info_hashes.v2.to_bytes() == torrent.info_hash
    assert loaded.info_hashes.has_v1()
    assert torrent.size == sum(sizes.values())
    assert torrent.files == len(sizes)
    layout = layout_of(torrent.encoded)
    assert {file.path: file.size for file in layout.files} == sizes
    for file in layout.files:
        for number in layout.pieces_of(file):
            _, start, stop = layout.file_of(Piece(number))
            assert layout.is_piece(Piece(number), content(file.path, file.size)[start:stop])


def test_names_of_255_bytes_are_kept() -> None:
    sizes = {"é" * 127 + "x": 1, "d" * 255 + "/" + "f" * 255: 20_000}
    torrent = assemble("lesson", LENGTH, hashed(sizes))
    assert {file.path for file in layout_of(torrent.encoded).files} == set(sizes)
    assert lt.load_torrent_buffer(torrent.encoded).info_hashes.v2.to_bytes() == torrent.info_hash


def test_the_info_hash_does_not_depend_on_the_trackers_nor_on_the_order_of_files() -> None:
    sizes = {"b": 5, "a": 40_000, "c/d": 0}
    plain = assemble("lesson", LENGTH, hashed(sizes))
    other = assemble("lesson", LENGTH, reversed(hashed(sizes)), ["udp://t:1"])
    assert plain.info_hash == other.info_hash
    assert plain.encoded != other.encoded


def test_trackers_are_replaced_and_removed() -> None:
    plain = assemble("lesson", LENGTH, hashed({"a": 1})).encoded
    two = with_trackers(plain, ["udp://t:1", "https://u/announce"])
    whole: Any = lt.bdecode(two)
    assert whole[b"announce"] == b"udp://t:1"
    assert whole[b"announce-list"] == [[b"udp://t:1"], [b"https://u/announce"]]
    assert with_trackers(two, []) == plain
    assert with_trackers(two, ["udp://t:1", "https://u/announce"]) == two


def test_a_hybrid_torrent_is_announced_by_its_v1_hash_and_by_the_first_20_bytes_of_its_v2_hash() -> None:
    torrent = assemble("lesson", LENGTH, hashed({"a": 1}))
    loaded = lt.load_torrent_buffer(torrent.encoded)
    v1, v2 = tracker_hashes(torrent.encoded, torrent.info_hash)
    assert v1 == loaded.info_hashes.v1.to_bytes().hex()
    assert v2 == torrent.info_hash.hex()[:40]


@pytest.mark.parametrize(
    ("sizes", "length"),
    [
        ([1], 16 * 1024),
        ([20_000] * 2000, 32 * 1024),
        ([2**20], USUAL_PIECE),
        ([USUAL_PIECE * MOST_PIECES], USUAL_PIECE),
        ([USUAL_PIECE * MOST_PIECES + 1], 2 * USUAL_PIECE),
        ([MAX_PIECE * MOST_PIECES + 1], MAX_PIECE),
        ([2**44], MAX_PIECE),
    ],
    ids=str,
)
def test_pieces_grow_with_the_files_up_to_what_nodes_take(sizes: list[int], length: int) -> None:
    assert piece_length(sizes) == length


def test_a_torrent_that_nodes_would_refuse_is_known_when_it_is_made() -> None:
    with pytest.raises(ManifestError, match="64 parts"):
        layout_of(assemble("lesson", LENGTH, hashed({"/".join("a" * 65): 1})).encoded)


@pytest.mark.whole
def test_metadata_has_at_most_16_mib() -> None:
    one = hashed({"x": 1})[0]
    name = "/".join(["d" * 200] * 4)
    few = [attrs.evolve(one, path=f"{name}{n:05}/x") for n in range(5000)]
    assert len(layout_of(assemble("lesson", LENGTH, few).encoded).files) == 5000
    many = [attrs.evolve(one, path=f"{name}{n:05}/x") for n in range(20_000)]
    with pytest.raises(ManifestError, match="more than 16777216"):
        layout_of(assemble("lesson", LENGTH, many).encoded)
